"""The CUDA backend: kernels of `csrc/cuda` on `gpu:N`, and what has none (link copies, launch floors, library GEMM).

Modes of a placement: `` or `steady` (calls back to back in one span), `cold` (L2 overwritten before every call),
`burst` (short samples with gaps), `sustained` (after a second of load), `closed` and `open` (requests, see
`cuda_requests`). Launch paths: `` (a graph of calls), `plain`, `mapped` (plain, and what would cross the link is used
where it lies), `persistent` (mapped, and asked of a kernel that runs already). Ends: G0 (all in device memory) to G5,
see `ENDS`; C1 is the CPU's, see `cuda_results`. Everything that touches the device goes through `cuda_driver.Device`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import cache
from importlib.util import find_spec
from typing import Any

import msgspec

from pykernels.backends import cuda_compile, cuda_table
from pykernels.backends.base import Runner
from pykernels.backends.cuda_driver import Buffer, CupyDevice, Device, Memory, missing_cupy
from pykernels.errors import PykernelsError
from pykernels.machine import gpu as gpus
from pykernels.model import Case, Gpu, Implementation, Machine, Placement, Problem, Skipped
from pykernels.units import format_size

MODES = ("", "steady", "cold", "burst", "sustained", "closed", "open")
PATHS = ("", "graph", "plain", "mapped", "persistent")


class Ends(msgspec.Struct, frozen=True):
    """Where table, indices and results of a lookup live: memory of the table, and which sides cross the link."""

    table: Memory = "device"
    inputs_arrive: bool = False
    results_leave: bool = False
    cached: bool = False


#: G0 all in HBM; G1 indices arrive from the host; G2 results go back too; G3 table in mapped host memory; G4 in managed
#: memory (steady: where the calls before have moved it; cold: on the host before every call); G5 hot rows in HBM, the
#: rest in mapped host memory ("G5:20": 20% of the rows, 10% where no number is given)
ENDS = {
    "": Ends(), "G0": Ends(), "G1": Ends("device", True), "G2": Ends("device", True, True),
    "G3": Ends("pinned", True, True), "G4": Ends("managed", True, True), "G5": Ends("pinned", True, True, True),
}  # fmt: skip
CACHED_PERCENT = 10


def ends_of(placement: Placement) -> tuple[Ends, int]:
    """Ends by name, and the percent of rows that G5 keeps in HBM; raises PykernelsError for an unknown name."""
    name, _, percent = placement.ends.partition(":")
    if name not in ENDS or (percent and not percent.isdecimal()):
        known = ", ".join(filter(None, ENDS))
        raise PykernelsError(f'ends = "{placement.ends}" is not one of a GPU ({known}; "G5:20" for 20% of rows)')
    ends = ENDS[name]
    if placement.memory:
        ends = msgspec.structs.replace(ends, table=placement.memory)
    return ends, int(percent or CACHED_PERCENT)


def candidates(case: Case, capability: str = "") -> tuple[cuda_table.Entry, ...]:
    """Entries that could run a case: of its kernel, op, dtype and level, for its ends, within the capability."""
    kernel, op, dtype = case.problem.entry()
    if getattr(case.problem, "chains", 1) != 1:  # one dependent chain is what a GPU's latency is
        return ()
    cached = case.placement.ends.startswith("G5")
    level = "" if case.placement.mode == "cold" else case.problem.figure().level
    found = cuda_table.find(kernel, op, dtype, level)
    if case.placement.mode == "cold":  # the L2 is overwritten between calls, so a launch is one call
        found = tuple(entry for entry in found if not entry.loops)
    persistent = case.placement.launch == "persistent"
    found = tuple(e for e in found if ("cached" in e.flags, "persistent" in e.flags) == (cached, persistent))
    return tuple(entry for entry in found if not capability or entry.arch <= _number(capability))


def _number(capability: str) -> int:
    major, _, minor = capability.partition(".")
    return int(major) * 10 + int(minor or 0)


@cache
def _capability(device: str) -> str:
    """Compute capability of a device of this machine, or "" without it."""
    return next((gpu.compute_capability for gpu in gpus.read_gpus() if device == f"gpu:{gpu.index}"), "")


def special(kernel: str) -> tuple[str, str] | None:
    """(module, function) that prepares a kernel which is not an entry of csrc/cuda, or None."""
    return {
        "link": ("pykernels.backends.cuda_link", "prepare_link"),
        "launch": ("pykernels.backends.cuda_link", "prepare_launch"),
        "gemm": ("pykernels.backends.cublaslt", "prepare_gemm"),
        "tensor_gemm": ("pykernels.backends.cublaslt", "prepare_gemm"),
    }.get(kernel)


class CudaBackend:
    """See the module."""

    name = "cuda"
    kinds = ("gpu",)

    def __init__(self, open_device: Callable[[int], Device] = CupyDevice) -> None:
        self.open_device = open_device

    def skip(self, case: Case, machine: Machine) -> Skipped | None:
        """No such GPU, a missing package, a mode or end that does not exist, too little memory, or no kernel for it."""
        placement = case.placement
        if not placement.device.startswith("gpu"):
            return Skipped(reason="cuda runs on GPUs only", hint='write on = ["gpu:0"]')
        try:
            device = gpus.find(machine, placement.device)
            ends_of(placement)
        except PykernelsError as error:
            return Skipped(reason=error.message, hint=error.hint)
        if device is None:
            there = ", ".join(f"gpu:{gpu.index}" for gpu in machine.gpus)
            reason = f"there is no {placement.device}" + (f" (there is {there})" if there else f": {gpus.why_none()}")
            return Skipped(reason=reason, hint="pykernels check")
        if not _known_way(case):
            what = f'mode "{placement.mode}" with launch path "{placement.launch}"'
            return Skipped(reason=f"no {what} of {case.problem.kernel} on GPUs")
        return self.missing(device) or _does_not_fit(case, device)

    def missing(self, device: Gpu) -> Skipped | None:
        """The package without which nothing runs, and the command that installs it."""
        wheel = f'pip install "pykernels[{"cuda12" if device.driver.startswith("CUDA 12") else "cuda13"}]"'
        reason = missing_cupy() or ("" if _has("cuda.core") else "cuda-core is not installed")
        return Skipped(reason=reason, hint=wheel) if reason else None

    def isas(self, machine: Machine) -> tuple[str, ...]:
        """The architecture is the device's: not an axis."""
        return ()

    def variants(self, case: Case) -> tuple[str, ...]:
        """Variants of the table, each with its candidate numbers of blocks; library variants for what has no entry."""
        if special(case.problem.kernel):
            return special_variants(case)
        found = candidates(case, _capability(case.placement.device))
        return tuple(name for entry in found for name in entry.variants())

    def home(self, placement: Placement) -> Placement:
        """All modes, launch paths, ends and memories of a device share a worker: opening one takes seconds."""
        return Placement(device=placement.device)

    def open(self, placement: Placement, machine: Machine) -> CudaSession:
        """Open the device; raises PykernelsError with the reason where it cannot be opened."""
        return CudaSession(self.open_device(int(placement.device.partition(":")[2] or 0)), placement)


def _known_way(case: Case) -> bool:
    """Whether a case's mode and launch path mean something: a copy, a floor and a library's product are asked for in
    their own one way, a running kernel answers requests only, and a cold call is a launch by itself."""
    mode, path, kernel = case.placement.mode, case.placement.launch, case.problem.kernel
    if special(kernel):
        loads = ("burst", "sustained") if kernel in ("gemm", "tensor_gemm") else ()
        return mode in ("", "steady", *loads) and not path
    if path == "persistent":
        return mode in ("", "steady", "closed", "open")
    return mode in MODES and path in PATHS and (mode, path) != ("cold", "graph")


def special_variants(case: Case) -> tuple[str, ...]:
    """Variants of kernels that are not entries of csrc/cuda."""
    if case.problem.kernel in ("gemm", "tensor_gemm"):
        from pykernels.backends import cublaslt

        return cublaslt.variants(case.problem)
    return ("memcpy",) if case.problem.kernel == "link" else ("floor",)


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _does_not_fit(case: Case, device: Gpu) -> Skipped | None:
    """No kernel that this device can run, or more memory than it has."""
    if not special(case.problem.kernel):
        known, fits = candidates(case), candidates(case, device.compute_capability)
        if known and not fits:
            least = min(entry.arch for entry in known)
            return Skipped(
                reason=f"needs compute capability {least / 10}; {device.name} has {device.compute_capability}"
            )
    ends, _ = ends_of(case.placement)
    needed = case.problem.working_set()
    if ends.table in ("device", "managed") and device.memory_bytes and needed > device.memory_bytes:
        have = format_size(device.memory_bytes)
        return Skipped(reason=f"its operands take {format_size(needed)}, {device.name} has {have}")
    return None


class CudaSession:
    """One device opened for one placement: compiled sources, the engine's own small buffers, and the flush buffer."""

    def __init__(self, device: Device, placement: Placement) -> None:
        self.device, self.placement = device, placement
        self.ends, self.cached_percent = ends_of(placement)
        _check_driver(device.facts.driver)
        self.arch = cuda_compile.choose_arch(device.facts.compute_capability, cuda_compile.supported_archs())
        self.scratch = device.alloc(cuda_table.SCRATCH_BYTES)
        device.fill(self.scratch, 0)
        self._flush: list[Buffer] = []  # shared by the sessions that `at` gives, as the functions are
        self._loaded: dict[str, Any] = {}

    def at(self, placement: Placement) -> CudaSession:
        """This session for another placement on the same device."""
        if placement == self.placement:
            return self
        other = copy(self)
        other.placement = placement
        other.ends, other.cached_percent = ends_of(placement)
        return other

    def prepare(self, problem: Problem, implementation: Implementation) -> Runner:
        """Operands in their places, filled; the kernel compiled, loaded and run once."""
        other = special(problem.kernel)
        if other:
            from importlib import import_module

            prepare: Callable[..., Runner] = getattr(import_module(other[0]), other[1])
            return prepare(self, problem, implementation)
        from pykernels.backends.cuda_persistent import PersistentLookups
        from pykernels.backends.cuda_runner import KernelRunner

        entry = self.entry(problem, implementation.variant)
        runner = PersistentLookups if "persistent" in entry.flags else KernelRunner
        return runner(self, problem, entry, implementation.variant)

    def entry(self, problem: Problem, variant: str) -> cuda_table.Entry:
        """The entry of a variant; raises PykernelsError where there is none."""
        name, _ = cuda_table.split_variant(variant)
        kernel, op, dtype = problem.entry()
        for entry in cuda_table.find(kernel, op, dtype):
            if entry.variant == name:
                return entry
        raise PykernelsError(f'cuda has no variant "{variant}" of {kernel} {op} {dtype}')

    def cubin(self, source: str) -> cuda_compile.Cubin:
        """A source compiled for this device."""
        return cuda_compile.compile_source(source, self.arch)

    def function(self, entry: cuda_table.Entry) -> Any:
        """An entry loaded into the device, once."""
        if entry.symbol not in self._loaded:
            self._loaded[entry.symbol] = self.device.load(self.cubin(entry.source).path, entry.symbol)
        return self._loaded[entry.symbol]

    def launch(
        self,
        kernel: str,
        dtype: str,
        pointers: list[int],
        dims: list[int],
        scalars: tuple[float, ...] = (),
        op: str = "",
    ) -> None:
        """Queue one of the engine's own kernels (fill, gate, clock)."""
        (entry,) = cuda_table.find(kernel, op, dtype)
        args = cuda_table.pack_args(pointers, dims, scalars, reps=1, tune=0, scratch=self.scratch.pointer)
        self.device.launch(self.function(entry), entry.launch(dims, self.device.facts.sms), args)

    def flush_buffer(self) -> Buffer:
        """A buffer of twice the L2, made when the first cold case needs it."""
        if not self._flush:
            self._flush.append(self.device.alloc(2 * (self.device.facts.l2_bytes or 1 << 26)))
        return self._flush[0]

    def facts(self, entry: cuda_table.Entry | None) -> dict[str, Any]:
        """What every record of this device keeps."""
        device = self.device.facts
        found: dict[str, Any] = {
            "gpu": device.name, "compute_capability": device.compute_capability, "sms": device.sms,
            "driver": device.driver, "runtime": device.runtime, "l2_bytes": device.l2_bytes,
        }  # fmt: skip
        found |= {"arch": self.arch, "nvrtc": cuda_compile.nvrtc_version()}
        if entry is not None:
            cubin = self.cubin(entry.source)
            figures = cubin.figures.get(entry.symbol, cuda_compile.Figures())
            found |= {"arch": cubin.arch, "nvrtc": cubin.nvrtc, **msgspec.to_builtins(figures)}
        return found

    def close(self) -> None:
        """Close the device."""
        self.device.close()


def _check_driver(driver: str) -> None:
    """Raise PykernelsError where the driver's CUDA is of an older major than NVRTC's, whose cubins it would refuse."""
    compiler = cuda_compile.nvrtc_version()
    major = driver.removeprefix("CUDA ").partition(".")[0]
    if major.isdecimal() and int(major) < int(compiler.partition(".")[0]):
        raise PykernelsError(
            f"the NVIDIA driver is older than the toolkit: it runs CUDA {driver.removeprefix('CUDA ')}, "
            f"NVRTC makes code for {compiler}",
            hint=f'update the driver, or pip install "pykernels[cuda{major}]"',
        )


def sensor_facts(readings: Mapping[str, gpus.Reading]) -> dict[str, Any]:
    """Facts of the readings before and after sampling: temperatures, clocks, power, every throttle reason seen."""
    before, after = readings.get("before", gpus.Reading()), readings.get("after", gpus.Reading())
    found: dict[str, Any] = {
        "gpu_temperature_c": after.temperature_c, "gpu_power_w": after.power_w, "gpu_sm_mhz": after.sm_mhz,
        "gpu_power_limit_w": after.power_limit_w, "ecc": after.ecc,
    }  # fmt: skip
    found["throttle"] = sorted({*before.throttle, *after.throttle})
    if after.missing:
        found["sensors"] = after.missing
    if after.others:
        found["other_processes"] = after.others
    if before.energy_j is not None and after.energy_j is not None:
        found["energy_j"] = after.energy_j - before.energy_j
    else:
        found["no_energy"] = after.missing or "NVML has no energy counter of this device"
    return {key: value for key, value in found.items() if value not in (None, [])}


BACKEND = CudaBackend()
