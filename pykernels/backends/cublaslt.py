"""Matrix products by cuBLASLt, through ctypes on the library that cuda-pathfinder finds (CuPy does not bind it).

Matrices are row-major here and column-major there: C = A B becomes C^T = B^T A^T with the operands swapped. The
heuristic's first `ALGORITHMS` choices are the candidates of the tuning pass. Numbers are those of cublasLt.h.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pykernels.backends.base import Runner
from pykernels.backends.cuda_operands import Operands
from pykernels.backends.cuda_runner import BURST_GAP_S, SUSTAIN_S, Spans
from pykernels.backends.cuda_table import split_variant
from pykernels.errors import PykernelsError
from pykernels.machine.gpu import Reading
from pykernels.model import Implementation, Problem, Samples

if TYPE_CHECKING:
    from pykernels.backends.cuda import CudaSession

Array = np.ndarray[Any, Any]
ALGORITHMS, WORKSPACE = 4, 64 << 20
LOAD_CALLS = 16  # products queued at once to keep the device busy
#: storage -> cudaDataType
DATA = {"fp32": 0, "fp64": 1, "fp16": 2, "int8": 3, "int32": 10, "bf16": 14, "uint8": 28}  # uint8 carries e4m3
#: dtype -> (cublasComputeType, cudaDataType of alpha and beta)
COMPUTE = {
    "fp64": (70, 1),
    "tf32": (77, 0),
    "fp32": (68, 0),
    "fp16": (68, 0),
    "bf16": (68, 0),
    "fp8": (68, 0),
    "int8": (72, 10),
}
TRANSPOSE_A, FAST_ACCUMULATION, MAX_WORKSPACE = 3, 25, 1


class Choice(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8), ("workspace", ctypes.c_size_t), ("state", ctypes.c_int),
        ("waves", ctypes.c_float), ("reserved", ctypes.c_int * 4),
    )  # fmt: skip


def variants(problem: Problem) -> tuple[str, ...]:
    """One per choice of the heuristic, for plain products: one of them, unpadded, A as it is, C = A B or A B^T."""
    plain = {"batch": 1, "pad": 0, "alpha": 1.0, "beta": 0.0}
    as_asked = all(getattr(problem, name, usual) == usual for name, usual in plain.items())
    known = problem.dtype in COMPUTE and len(problem.operands()) == 3 and as_asked and _order(problem)[0] == "n"
    return tuple(f"cublaslt:{number}" for number in range(ALGORITHMS)) if known else ()


def _order(problem: Problem) -> str:
    """Whether A and B are stored as they are multiplied ("n") or transposed ("t")."""
    return str(getattr(problem, "transpose", "nt"))


def open_library() -> Any:
    """The loaded library; raises PykernelsError with the command that installs it."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path)
    except Exception as error:  # ImportError, or one of pathfinder's own kinds
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise PykernelsError(f"cuBLASLt is not installed ({line})", hint='pip install "pykernels[cuda13]"') from error


class Matmul:
    """C (m x n) = A (m x k) times B (k x n), or B^T with B (n x k): descriptors, layouts, the heuristic's choices."""

    def __init__(
        self, library: Any, dtype: str, types: tuple[str, str], shape: tuple[int, int, int], transposed: bool
    ) -> None:
        self.library = library
        m, n, k = shape
        compute, scale = COMPUTE[dtype]
        self.one, self.zero = (_scalar(scale, value) for value in (1, 0))
        self.handle = self._make("cublasLtCreate")
        self.operation = self._make("cublasLtMatmulDescCreate", compute, scale)
        if transposed:
            self._set("cublasLtMatmulDesc", self.operation, TRANSPOSE_A, ctypes.c_int32(1))
        if dtype == "fp8":
            self._set("cublasLtMatmulDesc", self.operation, FAST_ACCUMULATION, ctypes.c_int8(1))
        inputs, output = DATA[types[0]], DATA[types[1]]
        rows, columns = (k, n) if transposed else (n, k)
        self.layouts = [
            self._layout(inputs, rows, columns, rows),
            self._layout(inputs, k, m, k),
            self._layout(output, n, m, n),
        ]
        self.choices = self._choices()

    def queue(self, choice: Choice, pointers: tuple[int, int, int], workspace: int, stream: int) -> None:
        """Queue one product; pointers are those of A, B, C."""
        a, b, c = (ctypes.c_void_p(pointer) for pointer in pointers)
        b_layout, a_layout, c_layout = self.layouts
        self._call(
            "cublasLtMatmul", self.handle, self.operation, ctypes.byref(self.one), b, b_layout, a, a_layout,
            ctypes.byref(self.zero), c, c_layout, c, c_layout, ctypes.byref(choice.algorithm),
            ctypes.c_void_p(workspace), ctypes.c_size_t(WORKSPACE), ctypes.c_void_p(stream),
        )  # fmt: skip

    def _choices(self) -> list[Choice]:
        preference = self._make("cublasLtMatmulPreferenceCreate")
        self._set("cublasLtMatmulPreference", preference, MAX_WORKSPACE, ctypes.c_uint64(WORKSPACE))
        found, count = (Choice * ALGORITHMS)(), ctypes.c_int(0)
        b, a, c = self.layouts
        self._call(
            "cublasLtMatmulAlgoGetHeuristic", self.handle, self.operation, b, a, c, c, preference,
            ctypes.c_int(ALGORITHMS), found, ctypes.byref(count),
        )  # fmt: skip
        self._call("cublasLtMatmulPreferenceDestroy", preference)
        return list(found)[: count.value]

    def _make(self, function: str, *arguments: int) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._call(function, ctypes.byref(made), *arguments)
        return made

    def _layout(self, kind: int, rows: int, columns: int, leading: int) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._call(
            "cublasLtMatrixLayoutCreate", ctypes.byref(made), kind, ctypes.c_uint64(rows), ctypes.c_uint64(columns),
            ctypes.c_int64(leading),
        )  # fmt: skip
        return made

    def _set(self, prefix: str, target: ctypes.c_void_p, attribute: int, value: Any) -> None:
        self._call(
            f"{prefix}SetAttribute", target, attribute, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))
        )

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self.library, function)(*arguments)
        if status:
            raise PykernelsError(f"{function} refused this product with status {status} (15: not supported)")

    def close(self) -> None:
        """Destroy what was made."""
        for layout in self.layouts:
            self._call("cublasLtMatrixLayoutDestroy", layout)
        self._call("cublasLtMatmulDescDestroy", self.operation)
        self._call("cublasLtDestroy", self.handle)


def _scalar(kind: int, value: int) -> Any:
    return {0: ctypes.c_float, 1: ctypes.c_double, 10: ctypes.c_int32}[kind](value)


def prepare_gemm(session: CudaSession, problem: Problem, implementation: Implementation) -> Runner:
    """A runner for one choice of the heuristic."""
    return LtRunner(session, problem, split_variant(implementation.variant)[1])


class LtRunner:
    """A base.Runner over cublasLtMatmul."""

    def __init__(self, session: CudaSession, problem: Problem, number: int) -> None:
        self.session, self.device = session, session.device
        a, _, c = problem.operands()
        (m, k), transposed = a.shape, _order(problem)[1] == "t"
        self.matmul = Matmul(open_library(), problem.dtype, (a.dtype, c.dtype), (m, c.shape[1], k), transposed)
        if number >= len(self.matmul.choices):
            raise PykernelsError(f"cuBLASLt offers {len(self.matmul.choices)} algorithms for this product")
        self.choice, self.number = self.matmul.choices[number], number
        self.operands = Operands(session, problem)
        self._readings: dict[str, Reading] = {}
        try:
            self.workspace = self.device.alloc(WORKSPACE)
            self.spans = Spans(session)
            self.run(1)
        except BaseException:
            self.operands.close()
            self.matmul.close()
            raise

    def _call(self) -> None:
        a, b, c = self.operands.pointers()
        self.matmul.queue(self.choice, (a, b, c), self.workspace.pointer, self.device.handles()["stream"])

    def inputs(self) -> Mapping[str, Array]:
        """Host copies of the inputs."""
        return self.operands.read("in", "inout")

    def outputs(self) -> Mapping[str, Array]:
        """Host copies of the outputs."""
        return self.operands.read("out", "inout")

    def poison(self) -> None:
        """See Operands.poison."""
        self.operands.poison()

    def run(self, calls: int) -> None:
        """Run untimed, and wait."""
        self._often(calls)
        self.device.synchronize()

    def _often(self, calls: int) -> None:
        for _ in range(calls):
            self._call()

    def sample(self, reps: int, count: int) -> Samples:
        """Device time of `reps` products in a row, in the placement's mode."""
        mode, samples = self.session.placement.mode, Samples(samples_s=[], reps=reps)
        if mode == "sustained" and "before" not in self._readings:
            self._load_for(SUSTAIN_S)
        self._readings.setdefault("before", self.device.sensors())
        for _ in range(count):
            if mode == "burst":
                time.sleep(BURST_GAP_S)
            seconds, ghz = self.spans.device_time(lambda: self._often(reps), reps)
            samples.samples_s.append(seconds / reps)
            samples.clock_ghz.append(ghz)
        self._readings["after"] = self.device.sensors()
        return samples

    def _load_for(self, seconds: float) -> None:
        """Keep the device busy, so that power and clocks settle."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.run(LOAD_CALLS)

    def facts(self) -> dict[str, Any]:
        """Device, library version, sensors."""
        from pykernels.backends.cuda import sensor_facts

        version = int(self.matmul.library.cublasLtGetVersion())
        return self.session.facts(None) | sensor_facts(self._readings) | {"cublaslt": version, "choice": self.number}

    def close(self) -> None:
        """Give everything back."""
        self.spans.close()
        self.device.free(self.workspace)
        self.operands.close()
        self.matmul.close()
