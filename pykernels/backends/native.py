"""The native backend: the kernel libraries of csrc/cpu, one an ISA level, on a pinned team and an arena of its own.

It knows no kernel: what a level has for a problem's entry (kernel, op, dtype) is read from its table, and a call is
operand pointers, dims and scalars in the order the problem states.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from pykernels.backends.native_memory import (
    HUGE_PAGE,
    PAGE,
    Buffers,
    SharedOperands,
    free_memory,
    huge_page_share,
    layout,
    nbytes,
)
from pykernels.errors import UsageError
from pykernels.machine.energy import Energy
from pykernels.measure.counters import Counters
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

    from pykernels.backends.base import Session
    from pykernels.backends.native_requests import NativeRequests

#: timing by request, see native_requests
MODES = ("closed", "open")
#: idle arenas kept for the next case that has the same operands
KEPT_BYTES = 1 << 30
#: share of the available memory that shared operands may keep; beyond it the smallest ones go first
SHARED_SHARE = 0.4


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
        if case.placement.mode not in ("", *MODES):
            return Skipped(reason=f'timing "{case.placement.mode}" is for GPUs; a CPU has {", ".join(MODES)}')
        if case.placement.ends not in ("", "C0", "C1"):
            return Skipped(reason=f"native kernels run on the CPU's side, so {case.placement.ends} is not theirs")
        if case.placement.ends == "C1":
            from pykernels.backends import cuda_results

            if reason := cuda_results.skip(case, machine):
                return reason
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

    def open(self, placement: Placement, machine: Machine) -> Session:
        """Start the placement's pinned team. Raises UsageError for a placement that the machine does not have."""
        session = NativeSession(placement, machine)
        if placement.ends != "C1":
            return session
        from pykernels.backends.cuda_results import DeviceResults

        return DeviceResults(session, requests=placement.mode in MODES)


class NativeSession:
    """A team on the placement's CPUs, and arenas that are kept for the next case with the same operands."""

    def __init__(self, placement: Placement, machine: Machine) -> None:
        from pykernels.machine.placement import MEMORY_SHARE, cpus_for

        if placement.pages not in ("huge", "4k"):
            raise UsageError(f'pages = "{placement.pages}": native memory has "huge" or "4k" pages')
        if placement.memory and not placement.memory.isdecimal():
            raise UsageError(f'memory = "{placement.memory}": write the number of a NUMA node')
        self.placement = placement
        self.counters = Counters(start=False)  # before the team: its threads inherit them
        self.team = _core().Team(list(cpus_for(machine, placement.device, placement.threads)))
        self._limit = int(MEMORY_SHARE * machine.memory_available) or None
        kept_free = int((1 - MEMORY_SHARE) * machine.memory_available)
        self._shared = SharedOperands(
            int(SHARED_SHARE * machine.memory_available), exact=len(machine.nodes) > 1, make=self._filled,
            room=lambda: free_memory() - kept_free,
        )  # fmt: skip
        self._idle: list[Buffers] = []

    def prepare(self, problem: Problem, implementation: Implementation) -> NativeRunner:
        """Bind an entry to filled operands; raises UsageError for an unknown variant or more than 60% of the memory."""
        entries = _entries(problem, implementation.isa)
        entry = next((entry for entry in entries if entry.name == implementation.variant), None)
        if entry is None:
            known = ", ".join(entry.name for entry in entries) or "none"
            raise UsageError(f'{problem.kernel}: no variant "{implementation.variant}" (known: {known})')
        return NativeRunner(self, problem, entry, self._buffers(problem))

    def operands(self, problem: Problem) -> Buffers:
        """The problem's operands in the arena, filled: for backends that run other code on the same memory."""
        return self._buffers(problem)

    def _buffers(self, problem: Problem) -> Buffers:
        operands = problem.operands()
        key = (operands, problem if any(o.recipe.distribution == "host" for o in operands) else None)
        for buffers in self._idle:
            if buffers.key == key:
                self._idle.remove(buffers)
                return buffers
        own = tuple(operand for operand in operands if not operand.shared)
        offsets, total = layout(own)
        lent = [operand for operand in operands if operand.shared]
        everything = total + sum(nbytes(operand) for operand in lent)
        if self._limit and everything > self._limit:
            raise UsageError(
                f"{problem.kernel}: operands of {format_size(everything)} are more than 60% of the available memory "
                f"({format_size(self._limit)})"
            )
        while self._idle and sum(b.arena.bytes for b in self._idle) + total > KEPT_BYTES:
            self._idle.pop(0)
        for operand in lent:  # idle buffers must not keep alive what is to be replaced
            if not self._shared.holds(operand):
                self._idle.clear()
        arena = self._arena(max(total, 1))
        places = {operand: (arena, offset) for operand, offset in zip(own, offsets, strict=True)}
        places |= {operand: (self._shared.arena(operand), 0) for operand in lent}
        buffers = Buffers(key, arena, places)
        for operand in own:
            if operand.role != "out":
                self.fill(buffers, operand, problem)
        return buffers

    def _arena(self, size: int) -> Any:
        node = int(self.placement.memory) if self.placement.memory else -1
        return _core().Arena(size, self.placement.pages == "huge", node)

    def _filled(self, operand: Operand) -> Any:
        """An arena that holds the operand alone, filled."""
        arena = self._arena(nbytes(operand))
        self.fill(Buffers(None, arena, {operand: (arena, 0)}), operand, None)
        return arena

    def fill(self, buffers: Buffers, operand: Operand, problem: Problem | None) -> None:
        """Fill an input by its recipe, in parallel on the team, or with what the problem computes for it."""
        import numpy as np

        recipe: Recipe = operand.recipe
        arena, offset = buffers.places[operand]
        if recipe.distribution == "host":
            assert problem is not None, "what a host computes belongs to one problem"
            np.copyto(buffers.view(operand), problem.host_input(operand.name))
            return
        if recipe.distribution == "cycle":
            self.team.fill_cycle(arena, offset, *operand.shape, recipe.seed)
            return
        count = int(np.prod(operand.shape, dtype=np.int64))
        whole, low, high = recipe.distribution != "uniform", recipe.low, recipe.high
        if recipe.distribution == "quantized":
            low, high = 0, 256
        self.team.fill(arena, offset, count, operand.dtype, whole, recipe.seed, low, high)
        if recipe.distribution == "quantized":
            from pykernels.kernels.random import write_row_tails

            write_row_tails(buffers.view(operand), recipe)

    def give_back(self, buffers: Buffers) -> None:
        """Keep the buffers for the next case that has the same operands."""
        self._idle.append(buffers)


class NativeRunner:
    """Implements backends.base.Runner."""

    def __init__(self, session: NativeSession, problem: Problem, entry: Entry, buffers: Buffers) -> None:
        self._session = session
        self._problem = problem
        self._operands = problem.operands()
        self._entry = entry
        self._buffers = buffers
        self._passes = 0  # timed so far: where rotating passes go on
        self._seen: dict[str, list[float]] = {}  # the problem's own facts, after each batch of samples
        self._counted = session.counters.snapshot()
        self._requests: NativeRequests | None = None
        self._latency: dict[str, Any] = {}
        self.after = (0, 0)  # see NativeRequests: who sends results on sets it
        self._energy = Energy() if any(operand.shared for operand in self._operands) else None
        pointers = [buffers.pointer(operand) for operand in self._operands]
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
                self._session.team.poison(*self._buffers.places[operand], view.nbytes)
            elif operand.role == "inout":
                self._session.fill(self._buffers, operand, self._problem)

    def run(self, calls: int) -> None:
        """Run untimed, rotating passes from their first turn on."""
        self._session.team.run(*self._call, calls)

    def sample(self, reps: int, count: int) -> Samples:
        """Timed samples, each `reps` calls on every thread of the team, or `reps` requests one after the other."""
        if self._session.placement.mode in MODES:
            return self._request_samples(reps, count)
        with self._energy.over(reps * count) if self._energy else nullcontext():
            seconds, ratio, switches, clock, skew = self._session.team.sample(
                *self._call, reps, count, self._passes, self._session.counters.fds
            )
        self._passes += reps * count
        for name, value in self._problem.measured(self.outputs()).items():
            self._seen.setdefault(name, []).append(value)
        return Samples(
            samples_s=seconds, cpu_over_wall=ratio, involuntary_switches=switches, clock_ghz=clock, start_skew_s=skew,
            reps=reps,
        )  # fmt: skip

    def _request_samples(self, reps: int, count: int) -> Samples:
        """Requests; the first time also what `facts` says of 5,000."""
        from pykernels.backends.native_requests import NativeRequests

        if self._requests is None:
            self._requests = NativeRequests(self._session.team, self._call, self.after)
            lookups = int(self._problem.figure().amount)
            self._latency = self._requests.facts(self._session.placement.mode == "open", lookups)
        return self._requests.samples(reps, count)

    def facts(self) -> dict[str, Any]:
        """ISA level that ran, compiler, the problem's own facts, hardware counters of a call, and the share of the
        arena that lies on huge pages."""
        arena = self._buffers.largest()
        share = huge_page_share(arena.address, arena.bytes)
        facts: dict[str, Any] = {"isa": self._entry.isa, "compiler": _core().COMPILER}
        facts |= {name: median(values) for name, values in self._seen.items()} | self._latency
        facts |= self._session.counters.since(self._counted).facts(self._passes)
        if self._energy:  # lookups: what a CPU must spend on them, and how far its TLB goes
            facts |= self._energy.facts()
            reach = _core().tlb_entries(large := (share or 0) > 0.5) * (HUGE_PAGE if large else PAGE)
            facts |= {"tlb_reach_bytes": reach} if reach else {}
        return facts if share is None else {**facts, "huge_page_share": share}

    def close(self) -> None:
        """Give the buffers back to the session."""
        self._session.give_back(self._buffers)


@functools.cache
def _library(isa: str) -> Any:
    return _core().Library(isa)


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
