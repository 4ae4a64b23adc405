"""A large square matrix product by a library, in every type that tensor pipes have: the envelope of the tensor roof.

C = A B^T with B stored (n, k): both operands are read along k, the only order in which every type is offered by every
library. Inputs are random: zeros and repeated values lower power and raise clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.kernels.dtypes import Array, widen
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic

#: dtype -> (storage of A and B, their recipe's bounds, storage of C, unit roundoff of a product's factors)
TYPES: dict[str, tuple[str, tuple[float, float], str, float]] = {
    "fp64": ("fp64", (-1.0, 1.0), "fp64", 0.0), "tf32": ("fp32", (-1.0, 1.0), "fp32", 2.0**-10),
    "fp16": ("fp16", (-1.0, 1.0), "fp16", 0.0), "bf16": ("bf16", (-1.0, 1.0), "bf16", 0.0),
    "fp8": ("uint8", (0x20, 0x39), "bf16", 0.0), "int8": ("int8", (-128, 128), "int32", 0.0),
}  # fmt: skip
#: unit roundoff of C and of the accumulator
ROUNDOFF = {"fp64": 2.0**-53, "fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8, "int32": 0.0}


#: columns of the sampled rows that a check compares
COLUMNS = 256


class TensorGemm(Problem, frozen=True, kw_only=True):
    """`n` x `n` times `n` x `n`. Dims: (m, n, k), all n."""

    kernel: ClassVar[str] = "tensor_gemm"

    n: int

    def params(self) -> dict[str, str]:
        """The size."""
        return {"n": str(self.n)}

    def operands(self) -> tuple[Operand, ...]:
        """a (m, k), b (n, k), c (m, n)."""
        storage, (low, high), out, _ = TYPES[self.dtype]
        whole, shape = storage in ("int8", "uint8"), (self.n, self.n)
        a, b = (Recipe("integers" if whole else "uniform", seed, low, high) for seed in (1, 2))
        return (
            Operand("a", "in", shape, storage, a),
            Operand("b", "in", shape, storage, b),
            Operand("c", "out", shape, out),
        )

    def dims(self) -> tuple[int, ...]:
        """(m, n, k)"""
        return (self.n, self.n, self.n)

    def flops(self) -> float:
        """2 n^3."""
        return 2.0 * self.n**3

    def traffic(self) -> Traffic:
        """Operands once."""
        size = float(self.working_set())
        return Traffic(requested=size, compulsory=size)

    def figure(self) -> Figure:
        """GFLOP/s (int8: GOP/s)."""
        unit = "GOP/s" if self.dtype == "int8" else "GFLOP/s"
        return Figure(kind="compute", unit=unit, amount=self.flops(), ceiling=True, op="tensor")

    def working_set(self) -> int:
        """Bytes of the three matrices."""
        wide = {"fp64": 8, "fp32": 4, "int32": 4, "fp16": 2, "bf16": 2, "uint8": 1, "int8": 1}
        storage, _, out, _ = TYPES[self.dtype]
        return self.n * self.n * (2 * wide[storage] + wide[out])

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """Rows of the product in float64 (int8 is exact in it: sums stay below 2^53), of sampled ones COLUMNS columns:
        all columns would take seconds."""
        columns = np.arange(self.n) if rows is None else sampled_columns(self.n)
        a = inputs["a"] if rows is None else inputs["a"][rows]
        b = inputs["b"] if rows is None else inputs["b"][columns]
        return {"c": _values(a, self.dtype) @ _values(b, self.dtype).T}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """C widened."""
        chosen = outputs["c"] if rows is None else outputs["c"][rows][:, sampled_columns(self.n)]
        return {"c": widen(chosen, TYPES[self.dtype][2]).astype(np.float64)}

    def tolerance(self) -> Tolerance:
        """int8 is exact. Terms of at most 1 in magnitude: n roundings (or truncations) of the accumulator to twice its
        roundoff, each factor's own rounding, and one rounding to C."""
        if self.dtype == "int8":
            return Tolerance()
        _, _, out, factor = TYPES[self.dtype]
        accumulator = 2.0**-52 if self.dtype == "fp64" else 2.0**-22
        return Tolerance(relative=2 * ROUNDOFF[out], absolute=self.n * (accumulator * self.n**0.5 + 2 * factor))

    def small(self) -> Problem:
        """256: every type's alignment holds."""
        return TensorGemm(dtype=self.dtype, n=256)


def sampled_columns(n: int) -> Array:
    """COLUMNS columns of n, evenly spread with both ends, those beside the ends too; all where there are no more."""
    if n <= COLUMNS:
        return np.arange(n)
    return np.unique(np.concatenate([np.linspace(0, n - 1, COLUMNS - 4).astype(np.int64), [1, 2, n - 3, n - 2]]))


def _values(array: Array, dtype: str) -> Array:
    """Values in float64; fp8 is e4m3."""
    if dtype == "fp8":
        return np.ldexp(1 + (array & 7) / 8.0, (array >> 3 & 15).astype(np.int64) - 7)
    return widen(array, TYPES[dtype][0]).astype(np.float64)


def build(values: Mapping[str, Any], space: Space) -> TensorGemm:
    """A product of the size asked for."""
    return TensorGemm(dtype=values["dtype"], n=int(values["n"]))


FAMILY = Family(
    name="tensor_gemm",
    help="large matrix product by a library: the envelope of a GPU's tensor roof",
    problem=TensorGemm,
    keys={
        "dtype": Key("type of what is multiplied", tuple(TYPES), ("bf16", "fp16", "tf32", "fp64", "int8", "fp8")),
        "n": Key("rows and columns of the matrices", None, (8192,)),
    },
    build=build,
)
