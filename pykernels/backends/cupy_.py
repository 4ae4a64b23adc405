"""CuPy expressions as peers: what a user of the library would write. CuPy is imported when a session opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pykernels.backends import gpu_arrays
from pykernels.backends.base import Runner
from pykernels.backends.cuda_driver import missing_cupy, translated
from pykernels.errors import PykernelsError
from pykernels.model import Case, Implementation, Machine, Placement, Problem, Skipped

Arrays = Mapping[str, Any]


def copy(cp: Any, problem: Problem, a: Arrays) -> None:
    """c = a"""
    cp.copyto(a["c"], a["a"])


def triad(cp: Any, problem: Problem, a: Arrays) -> None:
    """c = a + q b, as two library calls through c."""
    cp.multiply(a["b"], a["b"].dtype.type(problem.scalars()[0]), out=a["c"])
    cp.add(a["a"], a["c"], out=a["c"])


def store(cp: Any, problem: Problem, a: Arrays) -> None:
    """c = q"""
    a["c"].fill(problem.scalars()[0])


def softmax(cp: Any, problem: Problem, a: Arrays) -> None:
    """Product with the scale, row maximum, exponential, row sum, quotient: a library call each."""
    out = a["out"]
    cp.multiply(a["x"], out.dtype.type(problem.scalars()[0]), out=out)
    cp.subtract(out, out.max(axis=1, keepdims=True), out=out)
    cp.exp(out, out=out)
    cp.divide(out, out.sum(axis=1, keepdims=True), out=out)


def gemv(cp: Any, problem: Problem, a: Arrays) -> None:
    """Y = X A^T by cuBLAS."""
    a["y"][...] = a["x"] @ a["a"].T


def embedding_bag(cp: Any, problem: Problem, a: Arrays) -> None:
    """take + sum: the rows are written and read again. For bags of one length only, as `equal_bags` sees to."""
    bags, dim = a["out"].shape
    rows = cp.take(a["table"], a["indices"], axis=0)
    if getattr(problem, "weighted", False):
        rows = rows * a["weights"][:, None]
    pooled = rows.reshape(bags, -1, dim)
    (pooled.mean if getattr(problem, "mode", "sum") == "mean" else pooled.sum)(axis=1, out=a["out"])


def embedding_gather(cp: Any, problem: Problem, a: Arrays) -> None:
    """out = table[indices]"""
    cp.take(a["table"], a["indices"], axis=0, out=a["out"])


#: (kernel, op) -> (function, dtypes)
FUNCTIONS: dict[tuple[str, str], tuple[Callable[[Any, Problem, Arrays], None], tuple[str, ...]]] = {
    ("stream", "copy"): (copy, ("fp64", "fp32")),
    ("stream", "triad"): (triad, ("fp64", "fp32")),
    ("stream", "store"): (store, ("fp64", "fp32")),
    ("softmax", ""): (softmax, ("fp32",)),
    ("gemv", ""): (gemv, ("fp64", "fp32")),
    ("embedding_bag", ""): (embedding_bag, ("fp32",)),
    ("embedding_gather", ""): (embedding_gather, ("fp32",)),
}


def function_for(problem: Problem) -> Callable[[Any, Problem, Arrays], None] | None:
    """The expression for a problem, or None."""
    kernel, op, dtype = problem.entry()
    function, dtypes = FUNCTIONS.get((kernel, op), (None, ()))
    if (function is embedding_bag and not equal_bags(problem)) or getattr(problem, "mask", False):
        return None
    return function if dtype in dtypes else None


def equal_bags(problem: Problem) -> bool:
    """True where every bag has the same number of lookups, at least one."""
    pooling = set(getattr(problem, "pooling", ()))
    least, most = next(iter(pooling), (0, 0))
    return len(pooling) == 1 and 0 < least == most and not getattr(problem, "trace", "")


class CupyLibrary:
    """gpu_arrays.Library over CuPy's current stream."""

    def __init__(self, index: int) -> None:
        reason = missing_cupy()
        if reason:
            raise PykernelsError(reason, hint='pip install "pykernels[cuda12]"')
        try:
            import cupy
        except (ImportError, OSError) as error:
            raise PykernelsError(f"CuPy cannot be imported: {error}", hint="pykernels check") from error
        self.cp = cupy
        with translated(f"gpu:{index}"):
            cupy.cuda.Device(index).use()  # with its memory pool, as its users have it: temporaries cost no allocation

    def to_device(self, array: np.ndarray[Any, Any]) -> Any:
        """A copy on the device."""
        with translated("copy to the device"):
            return self.cp.asarray(array)

    def to_host(self, array: Any) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        with translated("copy from the device"):
            return np.asarray(self.cp.asnumpy(array))

    def synchronize(self) -> None:
        """Wait."""
        with translated("synchronize"):
            self.cp.cuda.get_current_stream().synchronize()

    def span(self, body: Callable[[], None]) -> float:
        """Seconds between two events."""
        with translated("event"):
            start, stop = self.cp.cuda.Event(), self.cp.cuda.Event()
            start.record()
            body()
            stop.record()
            stop.synchronize()
            return float(self.cp.cuda.get_elapsed_time(start, stop)) / 1e3

    def facts(self) -> dict[str, Any]:
        """Versions."""
        return {"cupy": self.cp.__version__, "runtime": self.cp.cuda.runtime.runtimeGetVersion()}

    def release(self) -> None:
        """Free what the memory pool keeps."""
        with translated("free"):
            self.cp.get_default_memory_pool().free_all_blocks()


class CupySession:
    """One device."""

    def __init__(self, index: int, about: Mapping[str, Any]) -> None:
        self.library, self.about = CupyLibrary(index), about

    def prepare(self, problem: Problem, implementation: Implementation) -> Runner:
        """Arrays filled and the expression run once, which compiles what it needs."""
        function = function_for(problem)
        if function is None:
            raise PykernelsError(f"cupy has no {problem.kernel} of this kind")
        return gpu_arrays.ArrayRunner(
            self.library, problem, lambda a: function(self.library.cp, problem, a), self.about
        )


class CupyBackend:
    """See the module."""

    name = "cupy"
    kinds = ("gpu",)

    def skip(self, case: Case, machine: Machine) -> Skipped | None:
        """No GPU, no CuPy, or no expression for it."""
        reason = gpu_arrays.skip("cupy", "cupy", function_for(case.problem) is not None, case, machine)
        return reason or (Skipped(reason=text) if (text := missing_cupy()) else None)

    def isas(self, machine: Machine) -> tuple[str, ...]:
        """Not an axis."""
        return ()

    def variants(self, case: Case) -> tuple[str, ...]:
        """One."""
        return ("expression",) if function_for(case.problem) else ()

    def open(self, placement: Placement, machine: Machine) -> CupySession:
        """Import CuPy and choose the device."""
        about = gpu_arrays.device_facts(placement, machine)
        return CupySession(int(placement.device.partition(":")[2] or 0), about)


BACKEND = CupyBackend()
