"""Arithmetic ceilings: fused multiply-adds in fp64, fp32, fp16, dot products of bf16 pairs and of int8 quadruples.

Every thread does one unit of work. A unit has two shapes with the same number of operations, and variants of both:

- chains: y = y m + c, 1024 times, for each element of a vector y (dot products: y = y + a0 . b0 with the first groups);
- tiles:  C = 32 A B with A 48 x 80 groups and B 80 groups x 128 bytes, the inner kernel of a matrix product.

A group is what one lane multiplies: one fp64 or fp32, two bf16, four int8 (a unsigned and at most 127, b signed). fp64,
fp32, fp16 accumulate in their own type, bf16 in fp32, int8 in int32. A variant writes one of the two outputs. A chain
of 1024 roundings would say nothing in fp16: there x holds whole numbers and each step adds 1, which is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.kernels.dtypes import ROUNDOFF, Array, widen
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic

#: dtype -> (type of accumulators, elements in a group, bytes of an accumulator)
ACCUMULATORS = {
    "fp64": ("fp64", 1, 8), "fp32": ("fp32", 1, 4), "fp16": ("fp16", 1, 2), "bf16": ("fp32", 2, 4),
    "int8": ("int32", 4, 4),
}  # fmt: skip

CHAIN_BYTES, CHAIN_STEPS = 240 * 64, 1024
DEPTH, ROWS, TURNS, ROW_BYTES = 80, 48, 32, 128
#: y = y m + c draws y towards 2; after 1024 steps 1/e of the distance is left, so that a lost step shows
FACTOR, TERM = 1 - 2.0**-10, 2.0**-9


class Fma(Problem, frozen=True, kw_only=True):
    """`units` of work, one a thread. Dims: (units,); scalars: (m, c)."""

    kernel: ClassVar[str] = "fma"

    units: int = 1

    def params(self) -> dict[str, str]:
        """None: shapes are variants, and the work follows the threads."""
        return {}

    def operands(self) -> tuple[Operand, ...]:
        """x (start values), a, b; chain (units, y), tile (units, 48, row of C)."""
        accumulator, group, size = ACCUMULATORS[self.dtype]
        start, rows = Recipe(seed=1), self.dtype
        a, b = Recipe(seed=2), Recipe(seed=3)
        if self.dtype == "int8":
            start = Recipe("integers", 1, -1000, 1000)
            rows, a, b = "uint8", Recipe("integers", 2, 0, 128), Recipe("integers", 3, -128, 128)
        elif self.dtype == "fp16":
            start = Recipe("host")
        return (
            Operand("x", "in", (CHAIN_BYTES // size,), accumulator, start),
            Operand("a", "in", (DEPTH, ROWS, group), rows, a),
            Operand("b", "in", (DEPTH, ROW_BYTES // size, group), self.dtype, b),
            Operand("chain", "out", (self.units, CHAIN_BYTES // size), accumulator),
            Operand("tile", "out", (self.units, ROWS, ROW_BYTES // size), accumulator),
        )

    def dims(self) -> tuple[int, ...]:
        """(units,)"""
        return (self.units,)

    def host_input(self, name: str) -> Array:
        """x in fp16: whole numbers from -1024 on, so that 1024 more is exact."""
        return (np.arange(CHAIN_BYTES // 2) % 2048 - 1024).astype(np.float16)

    def scalars(self) -> tuple[float, ...]:
        """(m, c)"""
        return (1.0, 1.0) if self.dtype == "fp16" else (FACTOR, TERM)

    def flops(self) -> float:
        """A multiplication and an addition for each element of a group, step and element of y (as many for tiles)."""
        _, group, size = ACCUMULATORS[self.dtype]
        return 2.0 * group * self.units * CHAIN_STEPS * (CHAIN_BYTES // size)

    def traffic(self) -> Traffic:
        """Operands once; the tiles' loads come from the L1 and are not counted."""
        size = float(self.working_set())
        return Traffic(requested=size, compulsory=size)

    def figure(self) -> Figure:
        """GFLOP/s (int8: GOP/s), a compute roof."""
        unit = "GOP/s" if self.dtype == "int8" else "GFLOP/s"
        return Figure(kind="compute", unit=unit, amount=self.flops(), ceiling=True, op="fma")

    def working_set(self) -> int:
        """Bytes of the inputs and of both outputs."""
        _, group, size = ACCUMULATORS[self.dtype]
        lane = size // group if self.dtype != "fp64" else size
        panels = DEPTH * (ROWS + ROW_BYTES // size) * group * lane
        return CHAIN_BYTES + panels + self.units * (CHAIN_BYTES + ROWS * ROW_BYTES)

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """Both shapes in float64 or int64."""
        count = self.units if rows is None else len(rows)
        x = widen(inputs["x"], ACCUMULATORS[self.dtype][0])
        a = widen(inputs["a"], "uint8" if self.dtype == "int8" else self.dtype)
        b = widen(inputs["b"], self.dtype)
        if ACCUMULATORS[self.dtype][1] == 1:
            chain = x
            for _ in range(CHAIN_STEPS):
                chain = chain * self.scalars()[0] + self.scalars()[1]
        else:
            chain = x + CHAIN_STEPS * (a[0, 0] @ b[0, 0])
        tile = TURNS * np.einsum("kig,kjg->ij", a, b)
        return {"chain": np.repeat(chain[None], count, axis=0), "tile": np.repeat(tile[None], count, axis=0)}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """The shape that the variant has written: the one with any element that is not the poison of its neighbour."""
        accumulator = ACCUMULATORS[self.dtype][0]
        chosen = {name: outputs[name] if rows is None else outputs[name][rows] for name in ("chain", "tile")}
        return {name: widen(out, accumulator) for name, out in chosen.items() if not _untouched(out)}

    def tolerance(self) -> Tolerance:
        """int8 is exact. A sum or chain of n roundings errs by at most n u relative to its (positive) terms: n is 1024
        (2048 without fused operations) for a chain and 2560 for C, twice that for bf16 pairs."""
        if self.dtype == "int8":
            return Tolerance()
        roundings = 2 * DEPTH * TURNS if self.dtype == "bf16" else DEPTH * TURNS
        return Tolerance(relative=roundings * ROUNDOFF[ACCUMULATORS[self.dtype][0]])


def _untouched(out: Array) -> bool:
    """True where every word has the same bits, as poison has and no result of random inputs."""
    words = out.view(np.uint32)
    return bool((words == words.flat[0]).all())


def build(values: Mapping[str, Any], space: Space) -> Fma:
    """One unit of work for each thread."""
    return Fma(dtype=values["dtype"], units=space.threads)


FAMILY = Family(
    name="fma",
    help="peak of fused multiply-adds, or of dot products in bf16 and int8",
    problem=Fma,
    keys={"dtype": Key("type of what is multiplied", tuple(ACCUMULATORS), ("fp32", "fp64"))},
    build=build,
)
