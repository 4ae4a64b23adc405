"""Numba on the CPU: the loops a careful user would write, compiled when the worker first needs them.

The passes of a sample run inside the jitted function. Threads split bags or rows with prange. `prefetch` asks for rows
ahead with LLVM's prefetch intrinsic, which Numba has no name for. The loops are in `numba_cpu_code`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from pykernels.backends import numba_dense
from pykernels.backends.numba_cpu_code import compiled
from pykernels.backends.pytimed import Arrays, Passes, PyBackend
from pykernels.model import Machine, Placement, Problem

DTYPES = {
    "embedding_bag": ("fp32", "bf16", "int8"), "embedding_gather": ("fp32",), "gemv": ("fp64", "fp32", "bf16", "int8"),
    "softmax": ("fp32", "bf16"),
}  # fmt: skip
#: rows asked for ahead
AHEAD = 32


class NumbaBackend(PyBackend):
    """Implements backends.base.Backend."""

    name = "numba_cpu"
    package = "numba"

    def lacks(self, problem: Problem) -> str:
        """Kernels and dtypes it does not have."""
        if problem.kernel in numba_dense.DTYPES:
            return numba_dense.lacks(problem)
        if problem.kernel not in DTYPES:
            return f"numba_cpu has no {problem.kernel}"
        if problem.dtype not in DTYPES[problem.kernel]:
            return f"Numba has no {problem.dtype} arithmetic for {problem.kernel} on a CPU"
        if problem.dtype == "int8" and problem.kernel == "embedding_bag" and getattr(problem, "dim", 0) % 4:
            return "numba_cpu reads scale and bias of int8 rows as fp32, so dim must be a multiple of 4"
        return ""

    def names(self, problem: Problem) -> tuple[str, ...]:
        """plain, and prefetch for lookups."""
        return ("plain", "prefetch") if problem.kernel == "embedding_bag" else ("plain",)

    def load(self, placement: Placement, machine: Machine) -> None:
        """Import Numba with as many threads as the placement."""
        if "numba" not in sys.modules:  # read at import; a pool that runs cannot grow, and set_num_threads masks it
            os.environ["NUMBA_NUM_THREADS"] = str(placement.threads)
        if placement.threads > 1:
            os.environ["OMP_PROC_BIND"] = "true"
        import numba

        numba.set_num_threads(placement.threads)

    def facts(self) -> dict[str, Any]:
        """Version and threading layer, where a parallel function has run."""
        import numba

        try:
            layer = numba.threading_layer()
        except ValueError:
            layer = "none yet"
        return {"numba": numba.__version__, "threading_layer": layer, "numba_threads": numba.get_num_threads()}

    def bind(self, problem: Any, variant: str, a: Arrays) -> Passes:
        """Passes of the kernel; compiled by a first pass before any is timed."""
        if problem.kernel in numba_dense.DTYPES:
            return numba_dense.bind(problem, a)
        code = compiled()
        if problem.kernel == "embedding_bag":
            ahead = AHEAD if variant == "prefetch" else 0
            return _bags(code, problem, a, ahead)
        if problem.kernel == "embedding_gather":
            return lambda first, reps: code["gather"](a["table"], a["indices"], a["out"], first, reps)
        if problem.kernel == "gemv":
            matrix = a["a"]
            run = code[{"bf16": "gemv_bf16", "int8": "gemv_int8"}.get(problem.dtype, "gemv")]
            extra = (a["scales"],) if problem.dtype == "int8" else ()
            return lambda first, reps: run(matrix, *extra, a["x"], a["y"], problem.parts, first, reps)
        run = code["softmax_bf16" if problem.dtype == "bf16" else "softmax"]
        mask = a["mask"]
        return lambda first, reps: run(a["x"], mask, a["out"], problem.scale, problem.parts, first, reps)


def _bags(code: dict[str, Callable[..., None]], problem: Any, a: Arrays, ahead: int) -> Passes:
    import numpy as np

    table, mean = a["table"], problem.mode == "mean"
    weights = a["weights"] if problem.weighted else np.ones(1, np.float32)
    if problem.dtype == "int8":
        tails = table.view(np.float32)[:, -2:]
        return lambda first, reps: code["bags_int8"](
            table, tails, a["indices"], a["offsets"], weights, problem.weighted, a["out"], mean, ahead, first, reps
        )
    run = code["bags_bf16" if problem.dtype == "bf16" else "bags"]
    return lambda first, reps: run(
        table, a["indices"], a["offsets"], weights, problem.weighted, a["out"], mean, ahead, first, reps
    )


BACKEND = NumbaBackend()
