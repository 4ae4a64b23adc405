"""The native backend: the kernel libraries of csrc/cpu, one an ISA level, on a pinned team and an arena of its own.

It knows no kernel: what a level has for a problem's entry (kernel, op, dtype) is read from its table, and a call is
operand pointers, dims and scalars in the order the problem states.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from pykernels.errors import UsageError
from pykernels.model import (
    ISA_LEVELS,
    Case,
    Implementation,
    Machine,
    Operand,
    Placement,
    Problem,
    Recipe,
    Samples,
    Skipped,
)
from pykernels.units import format_size

if TYPE_CHECKING:
    import numpy as np

#: share of the available memory that arenas may take
MEMORY_SHARE = 0.6
#: idle arenas kept for the next case that has the same operands
KEPT_BYTES = 1 << 30
#: beyond multiples of a page, each operand starts this much further into it: equal offsets would alias in the L1
STAGGER = 1088
PAGE = 4096


class Entry(NamedTuple):
    """One line of a level's table, with one value of its tunable if it has one."""

    isa: str
    place: int  # in the table
    name: str  # "plain", "prefetch:512": the variant of an id
    tune: int
    symbol: str
    address: int  # of the hot function, in the library's file


@functools.cache
def _core() -> Any:
    try:
        import pykernels._core as core
    except ImportError as error:
        raise UsageError(
            f"the native module does not load: {error}", hint="reinstall: pip install pykernels"
        ) from error
    return core


@functools.cache
def table(isa: str) -> dict[tuple[str, str, str], tuple[Entry, ...]]:
    """(kernel, op, dtype) -> entries of a built level, in rising order of refinement. No code of the level is run."""
    found: dict[tuple[str, str, str], tuple[Entry, ...]] = {}
    for line in _core().entries(isa):
        key = (line["kernel"], line["op"], line["dtype"])
        tunes = [(f"{line['variant']}:{tune}", tune) for tune in line["tunes"]] or [(line["variant"], 0)]
        more = tuple(Entry(isa, line["index"], name, tune, line["symbol"], line["address"]) for name, tune in tunes)
        found[key] = found.get(key, ()) + more
    return found


def _built() -> list[str]:
    built = set(_core().built_isas())
    return [isa for isa in ISA_LEVELS if isa in built]


def _entries(problem: Problem, isa: str) -> tuple[Entry, ...]:
    """Entries of a problem at a level; without a level, those of the best one here that has any."""
    if isa:
        return table(isa).get(problem.entry(), ()) if isa in _built() else ()
    for level in reversed(_core().supported_isas()):
        if entries := table(level).get(problem.entry(), ()):
            return entries
    return ()


class NativeBackend:
    """Implements backends.base.Backend."""

    name = "native"

    def isas(self, machine: Machine) -> tuple[str, ...]:
        """Built levels that the machine can run."""
        return tuple(isa for isa in _built() if isa in machine.isa)

    def skip(self, case: Case, machine: Machine) -> Skipped | None:
        """A device that is no CPU, a level that this build or machine lacks, an entry that the level lacks."""
        if case.placement.device.startswith("gpu"):
            return Skipped(reason=f"native kernels run on a CPU, not on {case.placement.device}")
        isa, here = case.implementation.isa, self.isas(machine)
        if isa and isa not in _built():
            return Skipped(reason=f"{isa} is not part of this build", hint=f"levels built: {', '.join(_built())}")
        if isa and isa not in here:
            lack = _core().missing(isa)
            return Skipped(reason=f"{isa} cannot run here" + (f": this machine lacks {lack}" if lack else ""))
        if _entries(case.problem, isa):
            return None
        having = [level for level in _built() if table(level).get(case.problem.entry())]
        kernel, op, dtype = case.problem.entry()
        what = " ".join(part for part in (kernel, op, dtype) if part)
        if not having:
            return Skipped(reason=f"native has no {what}")
        best = here[-1] if here else "none of the levels built"
        if having[0] in here:
            return Skipped(reason=f"{what} needs {having[0]}; {isa} lacks it", hint=f'isa = "{having[0]}"')
        return Skipped(reason=f"{what} needs {having[0]}; this CPU has {best}")

    def variants(self, case: Case) -> tuple[str, ...]:
        """Variants of the case's level, tunable ones once for each value ("prefetch:512")."""
        return tuple(entry.name for entry in _entries(case.problem, case.implementation.isa))

    def open(self, placement: Placement, machine: Machine) -> NativeSession:
        """Start the placement's pinned team. Raises UsageError for a placement that the machine does not have."""
        return NativeSession(placement, machine)


class NativeSession:
    """A team on the placement's CPUs, and arenas that are kept for the next case with the same operands."""

    def __init__(self, placement: Placement, machine: Machine) -> None:
        from pykernels.machine.placement import cpus_for

        if placement.pages not in ("huge", "4k"):
            raise UsageError(f'pages = "{placement.pages}": native memory has "huge" or "4k" pages')
        if placement.memory and not placement.memory.isdecimal():
            raise UsageError(f'memory = "{placement.memory}": write the number of a NUMA node')
        self.placement = placement
        self.team = _core().Team(list(cpus_for(machine, placement.device, placement.threads)))
        self._limit = int(MEMORY_SHARE * machine.memory_available) or None
        self._idle: list[_Buffers] = []

    def prepare(self, problem: Problem, implementation: Implementation) -> NativeRunner:
        """Bind an entry to filled operands; raises UsageError for an unknown variant or more than 60% of the memory."""
        entries = _entries(problem, implementation.isa)
        entry = next((entry for entry in entries if entry.name == implementation.variant), None)
        if entry is None:
            known = ", ".join(entry.name for entry in entries) or "none"
            raise UsageError(f'{problem.kernel}: no variant "{implementation.variant}" (known: {known})')
        return NativeRunner(self, problem, entry, self._buffers(problem))

    def _buffers(self, problem: Problem) -> _Buffers:
        operands = problem.operands()
        key = (operands, problem if any(o.recipe.distribution == "host" for o in operands) else None)
        for buffers in self._idle:
            if buffers.key == key:
                self._idle.remove(buffers)
                return buffers
        layout, total = _layout(operands)
        if self._limit and total > self._limit:
            raise UsageError(
                f"{problem.kernel}: operands of {format_size(total)} are more than 60% of the available memory "
                f"({format_size(self._limit)})"
            )
        while self._idle and sum(b.arena.bytes for b in self._idle) + total > KEPT_BYTES:
            self._idle.pop(0)
        node = int(self.placement.memory) if self.placement.memory else -1
        arena = _core().Arena(max(total, 1), self.placement.pages == "huge", node)
        buffers = _Buffers(key, arena, dict(zip(operands, layout, strict=True)))
        for operand in operands:
            if operand.role != "out":
                self.fill(buffers, operand, problem)
        return buffers

    def fill(self, buffers: _Buffers, operand: Operand, problem: Problem) -> None:
        """Fill an input by its recipe, in parallel on the team, or with what the problem computes for it."""
        import numpy as np

        recipe: Recipe = operand.recipe
        if recipe.distribution == "host":
            np.copyto(buffers.view(operand), problem.host_input(operand.name))
            return
        if recipe.distribution == "cycle":
            self.team.fill_cycle(buffers.arena, buffers.offsets[operand], *operand.shape, recipe.seed)
            return
        count = int(np.prod(operand.shape, dtype=np.int64))
        whole, low, high = recipe.distribution != "uniform", recipe.low, recipe.high
        if recipe.distribution == "quantized":
            low, high = 0, 256
        self.team.fill(buffers.arena, buffers.offsets[operand], count, operand.dtype, whole, recipe.seed, low, high)
        if recipe.distribution == "quantized":
            from pykernels.kernels.random import write_row_tails

            write_row_tails(buffers.view(operand), recipe)

    def give_back(self, buffers: _Buffers) -> None:
        """Keep the buffers for the next case that has the same operands."""
        self._idle.append(buffers)


class _Buffers:
    """Operands in one arena. An arena lives as long as a view of it does."""

    def __init__(self, key: Any, arena: Any, offsets: dict[Operand, int]) -> None:
        self.key = key
        self.arena = arena
        self.offsets = offsets

    def view(self, operand: Operand) -> np.ndarray[Any, Any]:
        """The operand in storage type and stored shape."""
        import numpy as np

        from pykernels.kernels.dtypes import storage, stored_shape

        shape, dtype = stored_shape(operand.shape, operand.dtype), storage(operand.dtype)
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(self.arena, dtype=dtype, count=count, offset=self.offsets[operand]).reshape(shape)


def _layout(operands: tuple[Operand, ...]) -> tuple[list[int], int]:
    """Offsets of the operands, one after the other, and the bytes of all; see STAGGER."""
    from pykernels.kernels.dtypes import stored_bytes

    offsets, end = [], 0
    for rank, operand in enumerate(operands):
        start = -(-end // PAGE) * PAGE + rank * STAGGER
        offsets.append(start)
        end = start + stored_bytes(operand.shape, operand.dtype)
    return offsets, end


class NativeRunner:
    """Implements backends.base.Runner."""

    def __init__(self, session: NativeSession, problem: Problem, entry: Entry, buffers: _Buffers) -> None:
        self._session = session
        self._problem = problem
        self._operands = problem.operands()
        self._entry = entry
        self._buffers = buffers
        self._passes = 0  # timed so far: where rotating passes go on
        self._seen: dict[str, list[float]] = {}  # the problem's own facts, after each batch of samples
        base = buffers.arena.address
        pointers = [base + buffers.offsets[operand] for operand in self._operands]
        self._call = (
            _library(entry.isa),
            entry.place,
            pointers,
            list(problem.dims()),
            list(problem.scalars()),
            entry.tune,
        )

    def inputs(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Views of the `in` and `inout` operands."""
        return {o.name: self._buffers.view(o) for o in self._operands if o.role != "out"}

    def outputs(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Views of the `out` and `inout` operands."""
        return {o.name: self._buffers.view(o) for o in self._operands if o.role != "in"}

    def poison(self) -> None:
        """Overwrite outputs with a pattern that is NaN in every floating-point type; refill inout operands."""
        for operand in self._operands:
            if operand.role == "out":
                view = self._buffers.view(operand)
                self._session.team.poison(self._buffers.arena, self._buffers.offsets[operand], view.nbytes)
            elif operand.role == "inout":
                self._session.fill(self._buffers, operand, self._problem)

    def run(self, calls: int) -> None:
        """Run untimed, rotating passes from their first turn on."""
        self._session.team.run(*self._call, calls)

    def sample(self, reps: int, count: int) -> Samples:
        """Timed samples, each `reps` calls on every thread of the team."""
        seconds, ratio, switches, clock, skew = self._session.team.sample(*self._call, reps, count, self._passes)
        self._passes += reps * count
        for name, value in self._problem.measured(self.outputs()).items():
            self._seen.setdefault(name, []).append(value)
        return Samples(
            samples_s=seconds, cpu_over_wall=ratio, involuntary_switches=switches, clock_ghz=clock, start_skew_s=skew,
            reps=reps,
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """ISA level that ran, compiler, the problem's own facts, and the share of the arena that lies on huge pages."""
        share = huge_page_share(self._buffers.arena.address, self._buffers.arena.bytes)
        facts: dict[str, Any] = {"isa": self._entry.isa, "compiler": _core().COMPILER}
        facts |= {name: median(values) for name, values in self._seen.items()}
        return facts if share is None else {**facts, "huge_page_share": share}

    def close(self) -> None:
        """Give the buffers back to the session."""
        self._session.give_back(self._buffers)


@functools.cache
def _library(isa: str) -> Any:
    return _core().Library(isa)


def huge_page_share(address: int, nbytes: int, smaps: Path = Path("/proc/self/smaps")) -> float | None:
    """Share of the resident memory in [address, address + nbytes) that transparent huge pages back; None if unknown."""
    resident = huge = 0
    inside = False
    try:
        lines = smaps.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            low, _, high = name.partition("-")
            inside = int(low, 16) < address + nbytes and int(high, 16) > address
        elif inside and name == "Rss:":
            resident += int(rest.split()[0])
        elif inside and name == "AnonHugePages:":
            huge += int(rest.split()[0])
    return huge / resident if resident else None


def disassemble(case: Case, machine: Machine) -> str:
    """Assembly of the function that holds the case's hot loop, by objdump. Raises UsageError with the reason."""
    backend = NativeBackend()
    if skipped := backend.skip(case, machine):
        raise UsageError(f"{case.id}: {skipped.reason}", hint=skipped.hint)
    entries = _entries(case.problem, case.implementation.isa)
    wanted = case.implementation.variant or entries[0].name
    entry = next((entry for entry in entries if entry.name == wanted), None)
    if entry is None:
        raise UsageError(f'{case.id}: no variant "{wanted}" (known: {", ".join(e.name for e in entries)})')
    return disassemble_symbol(_library(entry.isa).path, entry.symbol)


def disassemble_symbol(library: str, symbol: str) -> str:
    """Assembly of one function of a library. Raises UsageError where objdump is absent or finds no such function."""
    objdump = shutil.which("objdump")
    if not objdump:
        raise UsageError("objdump is not installed, so nothing can be disassembled", hint="apt install binutils")
    command = [objdump, "-d", "--no-show-raw-insn", f"--disassemble={symbol}", library]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = done.stdout.partition("Disassembly of section .text:")[2].strip()
    if not text:
        raise UsageError(
            f"objdump finds no function {symbol} in {library}{': ' if done.stderr else ''}{done.stderr.strip()}"
        )
    return text


BACKEND = NativeBackend()
