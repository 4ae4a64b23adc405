"""Runners over a GPU array library: operands are the library's arrays, a case is one Python function that queues work.

What CuPy and Numba CUDA share: filling, copies back, poison, spans by the library's events, end-to-end host time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from pykernels.backends.cuda_operands import calls_of_launch
from pykernels.backends.native_memory import Buffers, nbytes
from pykernels.errors import PykernelsError
from pykernels.kernels import dtypes
from pykernels.kernels import random as inputs
from pykernels.machine import gpu as gpus
from pykernels.model import Case, Machine, Operand, Placement, Problem, Samples, Skipped

Array = np.ndarray[Any, Any]
HOST_CALLS = 8
#: operands from this size on are filled by the native generator
NATIVE_BYTES = 16 << 20


class Library(Protocol):
    """What a runner needs of an array library; one stream, in order."""

    def to_device(self, array: Array) -> Any: ...
    def to_host(self, array: Any) -> Array: ...
    def synchronize(self) -> None: ...
    def span(self, body: Callable[[], None]) -> float: ...
    def facts(self) -> dict[str, Any]: ...
    def release(self) -> None: ...


class ArrayRunner:
    """A base.Runner: `call(arrays)` queues one call on arrays by operand name."""

    def __init__(
        self,
        library: Library,
        problem: Problem,
        call: Callable[[Mapping[str, Any]], None],
        about: Mapping[str, Any] = {},
    ) -> None:
        self.library, self.problem, self._function, self._about = library, problem, call, about
        self._host = {o.name: host_array(problem, o) for o in problem.operands()}
        self.arrays = {name: library.to_device(array) for name, array in self._host.items()}
        indices = self.arrays.get("indices")
        self._sets = [] if indices is None or indices.ndim == 1 else [indices[row] for row in range(indices.shape[0])]
        self._turn = 0
        self._each = calls_of_launch(problem)
        self.run(1)

    def _call(self) -> None:
        """One call, with the index set whose turn it is."""
        rotated = {"indices": self._sets[self._turn % len(self._sets)]} if self._sets else {}
        self._function({**self.arrays, **rotated})
        self._turn += 1

    def inputs(self) -> Mapping[str, Array]:
        """The inputs as they were sent."""
        names = [o.name for o in self.problem.operands() if o.role == "in"]
        return {name: self._host[name] for name in names} | self._read("inout")

    def outputs(self) -> Mapping[str, Array]:
        """Host copies of the outputs."""
        return self._read("out", "inout")

    def _read(self, *roles: str) -> dict[str, Array]:
        return {o.name: self.library.to_host(self.arrays[o.name]) for o in self.problem.operands() if o.role in roles}

    def poison(self) -> None:
        """Outputs (and inout operands) as they were before the first call: NaN or a pattern."""
        for operand in self.problem.operands():
            if operand.role != "in":
                self.arrays[operand.name] = self.library.to_device(host_array(self.problem, operand))

    def run(self, calls: int) -> None:
        """Run untimed, from the first index set, and wait."""
        self._turn = 0
        self._often(-(-calls // self._each))
        self.library.synchronize()

    def _often(self, calls: int) -> None:
        for _ in range(calls):
            self._call()

    def sample(self, reps: int, count: int) -> Samples:
        """Device time of `reps` calls in a row, launched by Python; `host_s` is one call to its end."""
        launches = max(1, round(reps / self._each))
        samples = Samples(samples_s=[], reps=launches * self._each)
        for _ in range(count):
            samples.samples_s.append(self.library.span(lambda: self._often(launches)) / samples.reps)
            waited = min(launches, HOST_CALLS)
            started = time.perf_counter()
            for _ in range(waited):
                self.run(1)
            samples.host_s.append((time.perf_counter() - started) / (waited * self._each))
        return samples

    def facts(self) -> dict[str, Any]:
        """The device's and the library's facts."""
        return {**self._about, **self.library.facts()}

    def close(self) -> None:
        """Drop the arrays, and what the library keeps of their memory."""
        self.arrays, self._sets = {}, []
        self.library.release()


def device_facts(placement: Placement, machine: Machine) -> dict[str, Any]:
    """What every record keeps of its GPU."""
    gpu = gpus.find(machine, placement.device)
    if gpu is None:
        return {}
    return {
        "gpu": gpu.name, "compute_capability": gpu.compute_capability, "sms": gpu.sms,
        "driver": gpu.driver.removeprefix("CUDA "), "l2_bytes": gpu.l2_bytes,
    }  # fmt: skip


def host_array(problem: Problem, operand: Operand) -> Array:
    """An operand's contents in storage type; outputs are NaN (all ones) or, for integers, a pattern."""
    if operand.role == "out":
        shape = dtypes.stored_shape(operand.shape, operand.dtype)
        array = np.empty(shape, dtypes.storage(operand.dtype))
        array.view(np.uint8)[...] = 0xFF if operand.dtype in dtypes.ROUNDOFF else 0xA5
        return array
    if operand.recipe.distribution == "host":
        return problem.host_input(operand.name)
    large = nbytes(operand) >= NATIVE_BYTES and operand.recipe.distribution != "cycle"
    return _filled(operand) if large else inputs.array(operand)


def _filled(operand: Operand) -> Array:
    """A large operand's contents by the native generator, on all CPUs: NumPy would take a minute for some gigabytes."""
    import os

    from pykernels import _core

    recipe, quantised = operand.recipe, operand.recipe.distribution == "quantized"
    low, high = (0.0, 256.0) if quantised else (recipe.low, recipe.high)
    arena, count = _core.Arena(nbytes(operand), True, -1), math.prod(operand.shape)
    team = _core.Team(sorted(os.sched_getaffinity(0)))
    try:
        team.fill(arena, 0, count, operand.dtype, recipe.distribution != "uniform", recipe.seed, low, high)
    finally:
        team.close()
    array = Buffers(None, arena, {operand: (arena, 0)}).view(operand)
    if quantised:
        inputs.write_row_tails(array, recipe)
    return array


def skip(name: str, module: str, known: bool, case: Case, machine: Machine) -> Skipped | None:
    """Why an array library cannot run a case here; `known` says that it has a function for it."""
    placement = case.placement
    if not placement.device.startswith("gpu"):
        return Skipped(reason=f"{name} runs on GPUs only", hint='write on = ["gpu:0"]')
    try:
        device = gpus.find(machine, placement.device)
    except PykernelsError as error:
        return Skipped(reason=error.message, hint=error.hint)
    if device is None:
        return Skipped(reason=f"there is no {placement.device}: {gpus.why_none()}", hint="pykernels check")
    if not _has(module):
        wheel = "torch" if module == "torch" else '"pykernels[cuda12]"'
        return Skipped(reason=f"{module} is not installed", hint=f"pip install {wheel}")
    if placement.mode or placement.launch or placement.ends not in ("", "G0"):
        return Skipped(reason=f"{name} is measured steady, with everything in device memory")
    if device.memory_bytes and case.problem.working_set() > device.memory_bytes:
        return Skipped(reason=f"its operands are beyond the memory of {device.name}")
    if case.problem.figure().level == "L1":
        return Skipped(reason=f"{name} cannot hold a working set in the L1 of each multiprocessor")
    return None if known else Skipped(reason=f"{name} has no {case.problem.kernel} of this kind")


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
