"""Rate of a GPU's tensor pipes by warp-level matrix multiply-accumulate, operands in registers.

Every tile is D = depth A (B_0 + ... + B_3)^T: four independent chains of `depth` steps in one warp, added at the end.
Where wider instructions exist (wgmma on 9.0, tcgen05 on 10.0) this is not the tensor peak: the library GEMM beside it
is the envelope, and the two are printed apart. Sparse rates are not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.kernels.dtypes import Array, widen
from pykernels.kernels.random import values as random_values
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic

COLUMNS, CHAINS = 8, 4
#: tiles a multiprocessor: a multiple of what 1, 2 or 3 blocks of 8 warps take at a time, and few, so that the results
#: weigh little
TILES, DEPTH = 48 * 4, 512
#: dtype -> (storage of the inputs, accumulator)
TYPES = {
    "fp64": ("fp64", "fp64"), "tf32": ("fp32", "fp32"), "fp16": ("fp16", "fp32"), "bf16": ("bf16", "fp32"),
    "fp8": ("uint8", "fp32"), "int8": ("int8", "int32"),
}  # fmt: skip


class Mma(Problem, frozen=True, kw_only=True):
    """`tiles` products of `depth` steps. `m`, `k`: rows and inner length of the instruction. Dims: (tiles, depth)."""

    kernel: ClassVar[str] = "mma"

    m: int
    k: int
    tiles: int = TILES * 132
    depth: int = DEPTH

    def params(self) -> dict[str, str]:
        """The instruction's shape."""
        return {"shape": f"m{self.m}n8k{self.k}"}

    def entry(self) -> tuple[str, str, str]:
        """Table key: the shape is the op."""
        return (self.kernel, f"m{self.m}n8k{self.k}", self.dtype)

    def operands(self) -> tuple[Operand, ...]:
        """a (m, k), b (4, 8, k), d (tiles, m, 8)."""
        storage, accumulator = TYPES[self.dtype]
        host = self.dtype in ("tf32", "fp8")
        recipes = [
            Recipe("host", seed) if host else Recipe("integers", seed, -127, 128) if storage == "int8"
            else Recipe("uniform", seed, -1.0, 1.0)
            for seed in (1, 2)
        ]  # fmt: skip
        return (
            Operand("a", "in", (self.m, self.k), storage, recipes[0]),
            Operand("b", "in", (CHAINS, COLUMNS, self.k), storage, recipes[1]),
            Operand("d", "out", (self.tiles, self.m, COLUMNS), accumulator),
        )

    def host_input(self, name: str) -> Array:
        """Random values that the type holds exactly: tf32 keeps 10 bits of mantissa, e4m3 patterns of 2^-4 to 1."""
        shape, seed = {"a": ((self.m, self.k), 1), "b": ((CHAINS, COLUMNS, self.k), 2)}[name]
        count = np.arange(int(np.prod(shape)))
        if self.dtype == "tf32":
            flat = random_values(Recipe("uniform", seed, -1.0, 1.0), "fp32", count)
            return (flat.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).reshape(shape)
        draw = random_values(Recipe("integers", seed, 0, 256), "uint8", count)
        magnitude = 0x18 + (draw & 0x7F) % 0x21  # 2^-4 to 1: no denormals, no NaN
        return (magnitude | (draw & 0x80)).astype(np.uint8).reshape(shape)

    def dims(self) -> tuple[int, ...]:
        """(tiles, depth)"""
        return (self.tiles, self.depth)

    def flops(self) -> float:
        """Two for each multiplication and addition."""
        return 2.0 * self.tiles * self.depth * CHAINS * self.m * COLUMNS * self.k

    def traffic(self) -> Traffic:
        """Operands once."""
        size = float(self.working_set())
        return Traffic(requested=size, compulsory=size)

    def figure(self) -> Figure:
        """GFLOP/s (int8: GOP/s)."""
        unit = "GOP/s" if self.dtype == "int8" else "GFLOP/s"
        return Figure(kind="compute", unit=unit, amount=self.flops(), ceiling=True, op="mma")

    def working_set(self) -> int:
        """Bytes of the results and inputs."""
        wide = 8 if self.dtype == "fp64" else 4
        return (self.tiles * self.m * COLUMNS + (self.m + CHAINS * COLUMNS) * self.k) * wide

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """The product in float64 or int64, the same for every tile."""
        a, b = (_widen(inputs[name], self.dtype) for name in ("a", "b"))
        count = self.tiles if rows is None else len(rows)
        product = self.depth * (a @ b.sum(axis=0).T)
        return {"d": np.broadcast_to(product, (count, *product.shape))}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """d widened."""
        chosen = outputs["d"] if rows is None else outputs["d"][rows]
        return {"d": widen(chosen, TYPES[self.dtype][1])}

    def tolerance(self) -> Tolerance:
        """int8 is exact. Each of depth x chains steps adds k products of at most 1 and may truncate to the last place
        of the accumulator (tensor pipes round towards zero), of a sum of at most depth k a chain."""
        if self.dtype == "int8":
            return Tolerance()
        unit = 2.0**-52 if self.dtype == "fp64" else 2.0**-22
        return Tolerance(absolute=CHAINS * self.depth * (self.depth * self.k) * unit)

    def small(self) -> Problem:
        """A few tiles, a few steps."""
        return Mma(dtype=self.dtype, m=self.m, k=self.k, tiles=19, depth=3)


def _widen(array: Array, dtype: str) -> Array:
    """Values of the stored inputs; e4m3 has 4 bits of exponent with bias 7 and 3 of mantissa."""
    if dtype == "fp8":
        exponent, mantissa = (array >> 3 & 15).astype(np.int64), (array & 7).astype(np.float64)
        magnitude = np.where(exponent > 0, np.ldexp(1 + mantissa / 8, exponent - 7), np.ldexp(mantissa / 8, -6))
        return np.where(array & 0x80, -magnitude, magnitude)
    return widen(array, TYPES[dtype][0])


#: dtype -> instruction shapes (m, k), by rising compute capability
SHAPES = {
    "fp64": ((8, 4), (16, 16)), "tf32": ((16, 8),), "fp16": ((16, 8), (16, 16)), "bf16": ((16, 16),),
    "fp8": ((16, 32),), "int8": ((8, 16), (16, 32)),
}  # fmt: skip


def build(values: Mapping[str, Any], space: Space) -> Mma:
    """The dtype's only shape, its largest, or its smallest where `shape` says so."""
    shapes = SHAPES[values["dtype"]]
    m, k = shapes[0] if values["shape"] == "small" else shapes[-1]
    return Mma(dtype=values["dtype"], m=m, k=k, tiles=TILES * space.threads)


FAMILY = Family(
    name="mma",
    help="rate of a GPU's tensor pipes by warp-level matrix multiply-accumulate",
    problem=Mma,
    keys={
        "dtype": Key("type of what is multiplied", tuple(SHAPES), ("bf16", "fp16", "tf32", "fp64", "int8", "fp8")),
        "shape": Key("instruction shape, where a type has two", ("large", "small"), ("large",)),
    },
    build=build,
)
