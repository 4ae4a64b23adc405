"""Bandwidth inside a GPU's multiprocessors: shared memory and L1, each read 16 bytes a thread.

A tile of 32 KiB is read `passes` times by one block of threads, and there are so many tiles that they divide nearly
evenly over any number of multiprocessors. Per multiprocessor and clock the hardware moves 128 bytes from either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.kernels.dtypes import Array
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic

WORDS, WORD_BYTES = 2048, 16
TILES, PASSES = 1 << 15, 8


class Onchip(Problem, frozen=True, kw_only=True):
    """`tiles` readings of `passes` passes each over one tile of 32 KiB. Dims: (tiles, passes)."""

    kernel: ClassVar[str] = "onchip"

    op: str
    tiles: int = TILES
    passes: int = PASSES

    def params(self) -> dict[str, str]:
        """The op; the amount of work is fixed."""
        return {"op": self.op}

    def entry(self) -> tuple[str, str, str]:
        """Table key."""
        return (self.kernel, self.op, self.dtype)

    def operands(self) -> tuple[Operand, ...]:
        """a (one tile), sums (one 64-bit word)."""
        tile = Operand("a", "in", (WORDS * WORD_BYTES // 4,), "fp32", Recipe(seed=1))
        return (tile, Operand("sums", "out", (1,), "int64"))

    def dims(self) -> tuple[int, ...]:
        """(tiles, passes)"""
        return (self.tiles, self.passes)

    def flops(self) -> float:
        """Integer additions are not counted."""
        return 0.0

    def traffic(self) -> Traffic:
        """Requested: every pass of every tile. Compulsory: the tile once."""
        return Traffic(requested=float(self.tiles * self.passes * WORDS * WORD_BYTES), compulsory=WORDS * WORD_BYTES)

    def figure(self) -> Figure:
        """GB/s over the whole device; the roof of its level."""
        level = {"shared": "shared", "l1": "L1"}[self.op]
        return Figure(
            kind="bandwidth", unit="GB/s", amount=self.traffic().requested, ceiling=True, level=level, op="load"
        )

    def working_set(self) -> int:
        """Bytes of the tile."""
        return WORDS * WORD_BYTES

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """Wrapping sum of the tile's 64-bit words, times the tiles: exact."""
        with np.errstate(over="ignore"):
            total = np.add.reduce(inputs["a"].view(np.uint64)) * np.uint64(self.tiles)
        return {"sum": np.array([total], np.uint64).view(np.int64)}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """The sum."""
        return {"sum": outputs["sums"]}

    def tolerance(self) -> Tolerance:
        """Exact."""
        return Tolerance()

    def small(self) -> Problem:
        """A few tiles, two passes."""
        return Onchip(op=self.op, dtype=self.dtype, tiles=7, passes=2)


def build(values: Mapping[str, Any], space: Space) -> Onchip:
    """The op of the sweep; the amount of work is fixed."""
    return Onchip(op=values["op"], dtype="fp32")


FAMILY = Family(
    name="onchip",
    help="bandwidth of a GPU's shared memory and L1",
    problem=Onchip,
    keys={"op": Key("what is read", ("shared", "l1"), ("shared", "l1"))},
    build=build,
)
