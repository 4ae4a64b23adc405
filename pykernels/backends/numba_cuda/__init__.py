"""Numba CUDA kernels: the same problems in Python, without warp intrinsics, so that the simulator can run them too.

They stand in `device_code.py`, which is imported when a session opens; numba is not imported before. Declared package:
numba-cuda. Its predecessor inside numba gives another architecture than the one asked for, without a word: the tests
look at `.target`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pykernels.backends import gpu_arrays
from pykernels.backends.base import Runner
from pykernels.errors import DeviceLost, PykernelsError
from pykernels.model import Case, Implementation, Machine, Placement, Problem, Skipped

Arrays = Mapping[str, Any]
THREADS = 128
#: (kernel, op) -> dtypes
KNOWN = {
    ("stream", "copy"): ("fp64", "fp32"), ("stream", "triad"): ("fp64", "fp32"), ("stream", "store"): ("fp64", "fp32"),
    ("softmax", ""): ("fp32",), ("gemv", ""): ("fp32",), ("embedding_bag", ""): ("fp32",),
}  # fmt: skip


def kernels() -> dict[str, Any]:
    """The undecorated kernels by name; `signatures()` has their types. Imports numba."""
    from pykernels.backends.numba_cuda import device_code as module

    return {name: getattr(module, name) for name in signatures()}


def signatures() -> dict[str, list[str]]:
    """Argument types by kernel, in Numba's notation, for every dtype and index width it is used with."""
    streams = ["float64", "float32"]
    indexed = ["int32", "int64"]
    return {
        "copy": [f"void({t}[::1], {t}[::1])" for t in streams],
        "triad": [f"void({t}[::1], {t}[::1], {t}[::1], {t})" for t in streams],
        "store": [f"void({t}[::1], {t})" for t in streams],
        "gemv": ["void(float32[:, ::1], float32[:, ::1], float32[:, ::1])"],
        "softmax": ["void(float32[:, ::1], float32[:, ::1], float32)"],
        "embedding_bag": [f"void(float32[:, ::1], {i}[::1], {i}[::1], float32[:, ::1])" for i in indexed],
        "embedding_bag_weighted": [
            f"void(float32[:, ::1], {i}[::1], {i}[::1], float32[::1], float32[:, ::1])" for i in indexed
        ],
    }


def plan(problem: Problem) -> tuple[str, list[str], list[float], int | None]:
    """(kernel's name, operands in its order, scalars, blocks or None for a grid-stride kernel)."""
    kernel, op, _ = problem.entry()
    names = [operand.name for operand in problem.operands()]
    shapes = {operand.name: operand.shape for operand in problem.operands()}
    if kernel == "stream":
        return op, names, list(problem.scalars()) if op != "copy" else [], None
    if kernel == "embedding_bag":
        weighted = bool(getattr(problem, "weighted", False))
        order = ["table", "indices", "offsets", *(["weights"] if weighted else []), "out"]
        return f"embedding_bag{'_weighted' if weighted else ''}", order, [], shapes["out"][0]
    order = {"gemv": ["a", "x", "y"], "softmax": ["x", "out"]}[kernel]
    return kernel, order, list(problem.scalars()), shapes[order[0]][0]


def queue(problem: Problem, jitted: Any, sms: int, a: Arrays) -> None:
    """Launch one call."""
    _, names, scalars, blocks = plan(problem)
    arguments = [a[name] for name in names]
    arguments += [arguments[0].dtype.type(scalar) for scalar in scalars]
    jitted[blocks or 8 * sms, THREADS](*arguments)


class NumbaLibrary:
    """gpu_arrays.Library over numba.cuda's default stream."""

    def __init__(self, index: int) -> None:
        try:
            import numba
            from numba import cuda
        except (ImportError, OSError) as error:
            raise PykernelsError(
                f"numba cannot be imported: {error}", hint='pip install "pykernels[cuda12]"'
            ) from error
        self.cuda, self.version = cuda, numba.__version__
        try:
            cuda.select_device(index)
            self.sms = int(cuda.get_current_device().MULTIPROCESSOR_COUNT)
        except Exception as error:  # CudaSupportError, CudaAPIError: named by the package that raises them
            raise PykernelsError(f"gpu:{index} cannot be opened by numba: {error}", hint="pykernels check") from error

    def to_device(self, array: np.ndarray[Any, Any]) -> Any:
        """A copy on the device."""
        return self._guarded(lambda: self.cuda.to_device(array))

    def to_host(self, array: Any) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        return np.asarray(self._guarded(array.copy_to_host))

    def synchronize(self) -> None:
        """Wait."""
        self._guarded(self.cuda.synchronize)

    def span(self, body: Callable[[], None]) -> float:
        """Seconds between two events."""
        start, stop = self.cuda.event(), self.cuda.event()
        start.record()
        body()
        stop.record()
        self._guarded(stop.synchronize)
        return float(self.cuda.event_elapsed_time(start, stop)) / 1e3

    def facts(self) -> dict[str, Any]:
        """Versions."""
        return {"numba": self.version}

    def release(self) -> None:
        """Free what was dropped: numba keeps it until there is enough of it."""
        self._guarded(lambda: self.cuda.current_context().deallocations.clear())

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """Out of memory as MemoryError; any other error of the driver ends this process's use of the device."""
        try:
            return call()
        except MemoryError:
            raise
        except Exception as error:
            if "OUT_OF_MEMORY" in str(error):
                raise MemoryError(str(error)) from error
            raise DeviceLost(str(error)) from error


class NumbaCudaSession:
    """One device, each kernel compiled once per signature by Numba itself."""

    def __init__(self, index: int, about: Mapping[str, Any]) -> None:
        self.library, self.about = NumbaLibrary(index), about
        self._jitted: dict[str, Any] = {}

    def prepare(self, problem: Problem, implementation: Implementation) -> Runner:
        """Arrays filled, the kernel compiled and run once."""
        name = plan(problem)[0]
        if name not in self._jitted:
            self._jitted[name] = self.library.cuda.jit(kernels()[name])
        jitted = self._jitted[name]
        return gpu_arrays.ArrayRunner(
            self.library, problem, lambda a: queue(problem, jitted, self.library.sms, a), self.about
        )


class NumbaCudaBackend:
    """See the module."""

    name = "numba_cuda"
    kinds = ("gpu",)

    def skip(self, case: Case, machine: Machine) -> Skipped | None:
        """No GPU, no numba-cuda, or no kernel for it."""
        return gpu_arrays.skip("numba_cuda", "numba_cuda", bool(self.variants(case)), case, machine)

    def isas(self, machine: Machine) -> tuple[str, ...]:
        """Not an axis."""
        return ()

    def variants(self, case: Case) -> tuple[str, ...]:
        """One."""
        kernel, op, dtype = case.problem.entry()
        plain = getattr(case.problem, "mode", "sum") == "sum" and not getattr(case.problem, "mask", False)
        return ("plain",) if plain and dtype in KNOWN.get((kernel, op), ()) else ()

    def open(self, placement: Placement, machine: Machine) -> NumbaCudaSession:
        """Import numba and choose the device."""
        about = gpu_arrays.device_facts(placement, machine)
        return NumbaCudaSession(int(placement.device.partition(":")[2] or 0), about)


BACKEND = NumbaCudaBackend()
