"""NumPy: what its users would write, with outputs and scratch given, so that no call allocates."""

from __future__ import annotations

from typing import Any

from pykernels.backends import numpy_dense
from pykernels.backends.pytimed import Arrays, Passes, PyBackend, equal_bags, looped, part_rows
from pykernels.model import Machine, Placement, Problem

DTYPES = {
    "embedding_bag": ("fp32", "fp16"), "embedding_gather": ("fp32", "fp16"), "gemv": ("fp64", "fp32"),
    "softmax": ("fp32",),
}  # fmt: skip


class NumpyBackend(PyBackend):
    """Implements backends.base.Backend; products by the BLAS that NumPy comes with."""

    name = "numpy"
    package = "numpy"

    def lacks(self, problem: Problem) -> str:
        """Kernels it does not have; dtypes it has no arithmetic for."""
        if problem.kernel in numpy_dense.DTYPES:
            return numpy_dense.lacks(problem)
        if problem.kernel not in DTYPES:
            return f"numpy has no {problem.kernel} here"
        if problem.dtype not in DTYPES[problem.kernel]:
            return f"NumPy has no {problem.dtype} arithmetic for {problem.kernel}"
        return ""

    def names(self, problem: Problem) -> tuple[str, ...]:
        """One."""
        return ("plain",)

    def load(self, placement: Placement, machine: Machine) -> None:
        """Hold the BLAS to the placement's threads."""
        import numpy  # noqa: F401 (its BLAS must be there to be limited)
        from threadpoolctl import threadpool_limits

        self._limits = threadpool_limits(placement.threads)

    def facts(self) -> dict[str, Any]:
        """Version and BLAS."""
        import numpy as np
        from threadpoolctl import threadpool_info

        pools = [f"{pool['internal_api']} {pool['version']} x{pool['num_threads']}" for pool in threadpool_info()]
        return {"numpy": np.__version__, "pools": pools}

    def bind(self, problem: Any, variant: str, arrays: Arrays) -> Passes:
        """Passes of the kernel."""
        if problem.kernel in numpy_dense.DTYPES:
            return numpy_dense.bind(problem, arrays)
        return {"embedding_bag": bags, "embedding_gather": gather, "gemv": gemv, "softmax": softmax}[problem.kernel](
            problem, arrays
        )


def bags(problem: Any, a: Arrays) -> Passes:
    """take, then sum: the rows are written and read again. Indices were checked when they were made."""
    import numpy as np

    table, indices, out = a["table"], a["indices"], a["out"]
    rows = np.empty((problem.lookups, problem.dim), table.dtype)
    length, offsets = equal_bags(problem), np.asarray(problem.offsets(), np.int64)
    filled = np.diff(offsets) > 0
    starts = offsets[:-1][filled]
    counts = np.maximum(np.diff(offsets), 1)[:, None].astype(np.float32)

    def call(number: int) -> None:
        picked = rows
        np.take(table, indices[number % problem.sets], axis=0, out=rows, mode="clip")
        if problem.weighted:
            picked = rows.astype(np.float32, copy=False)
            picked *= a["weights"][:, None]
        if length:
            picked.reshape(problem.bags, length, problem.dim).sum(axis=1, out=out, dtype=np.float32)
        else:
            out[~filled] = 0.0
            if len(starts):
                out[filled] = np.add.reduceat(picked, starts, axis=0, dtype=np.float32)
        if problem.mode == "mean":
            np.divide(out, counts, out=out)

    return looped(call)


def gather(problem: Any, a: Arrays) -> Passes:
    """take, and a widening copy of fp16."""
    import numpy as np

    table, indices, out = a["table"], a["indices"], a["out"]
    rows = out if table.dtype == out.dtype else np.empty(out.shape, table.dtype)

    def call(number: int) -> None:
        np.take(table, indices[number % problem.sets], axis=0, out=rows, mode="clip")
        if rows is not out:
            np.copyto(out, rows)

    return looped(call)


def gemv(problem: Any, a: Arrays) -> Passes:
    """gemv of the BLAS for one vector, gemm for more."""
    import numpy as np

    matrix, x, y = a["a"], a["x"], a["y"]

    def call(number: int) -> None:
        rows = part_rows(problem, number)
        if problem.batch == 1:
            np.dot(matrix[rows], x[0], out=y[0, rows])
        else:
            np.matmul(x, matrix[rows].T, out=y[:, rows])

    return looped(call)


def softmax(problem: Any, a: Arrays) -> Passes:
    """Maximum, exp, sum and division, each over the whole part; fully masked rows become zeros."""
    import numpy as np

    x, mask = a["x"], a["mask"] if problem.mask else None

    def call(number: int) -> None:
        rows = part_rows(problem, number)
        out = a["out"][rows]
        if problem.scale == 1.0 and mask is None:
            s = x[rows]
        else:
            s = np.multiply(x[rows], np.float32(problem.scale), out=out)
            if mask is not None:
                s += mask
        top = s.max(axis=1, keepdims=True)
        top[np.isneginf(top)] = 0.0
        np.subtract(s, top, out=out)
        np.exp(out, out=out)
        total = out.sum(axis=1, keepdims=True)
        total[total == 0.0] = 1.0
        out /= total

    return looped(call)


BACKEND = NumpyBackend()
