"""What memory gives to random whole rows: the ceilings of embedding lookups, in bytes and in rows a second.

Rows are added up and nothing is written. Wide rows are bound by bandwidth, narrow ones by the number of rows that a
core can have in flight; both figures come from the same records, as one is the other times the row's bytes. Indices
are uniform over the table, and their sets rotate, so that no pass finds the rows of the one before it in a cache that
the table does not fit. Far beyond the caches a ceiling still falls with the table's size, as its pages outgrow what
address translation keeps at hand; `size` asks for it there, `indices` for skewed rows, some of which the caches catch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels import indices as rows_looked_up
from pykernels.kernels.dtypes import Array
from pykernels.kernels.indices import Draw
from pykernels.kernels.stream import LEVELS, SUM_WORDS
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic
from pykernels.units import MIB

INDEX_BYTES = 4
#: bytes that a thread gathers in a call, at most; and index sets, at least
CALL_BYTES, LEAST_SETS = 4 * MIB, 2
#: index sets of skewed rows, at most: NumPy draws them
SKEWED_SETS = 16
#: row bytes that a sweep may ask for
NARROWEST, WIDEST = 4, 65536


class Gather(Problem, frozen=True, kw_only=True):
    """`lookups` rows of a table of `rows` rows of `row_bytes` bytes, one of `sets` index sets a call; skewed rows
    (`draw`) are those of `tables` equal tables that stand one after the other, each with hot rows of its own.
    Dims: (rows, row bytes, lookups, bytes of an index, sets)."""

    kernel: ClassVar[str] = "gather"

    op: str = "gather"
    rows: int
    row_bytes: int
    lookups: int
    sets: int = LEAST_SETS
    level: str = ""
    draw: Draw = Draw()
    tables: int = 1

    def params(self) -> dict[str, str]:
        """op unless gather, row_bytes, then the level or the size that the user wrote (or rows), then the skew."""
        op = {"op": self.op} if self.op != "gather" else {}
        where = {"level": self.level} if self.level else dict(self.symbols) or {"rows": str(self.rows)}
        tables = {"tables": str(self.tables)} if self.tables > 1 else {}
        skew = {"zipf": f"{self.draw.alpha:g}", **tables} if self.draw.alpha else {}
        return {**op, "row_bytes": str(self.row_bytes), **where, **skew}

    def operands(self) -> tuple[Operand, ...]:
        """table (rows, elements of a row), indices (sets, lookups), sums: the sum, then a line for each thread. A table
        of a given size is that of the lookups: a worker fills it once."""
        table = Recipe(seed=11 if "size" in self.symbols else 1)
        rows = Recipe("host") if self.draw.alpha else Recipe("integers", 2, 0, self.rows)
        return (
            Operand("table", "in", (self.rows, self.row_bytes // 4), "fp32", table, shared="size" in self.symbols),
            Operand("indices", "in", (self.sets, self.lookups), "int32", rows),
            Operand("sums", "out", (SUM_WORDS,), "int64"),
        )

    def host_input(self, name: str) -> Array:
        """Skewed indices: in each set the lookups of one table after those of another."""
        each, count = self.rows // self.tables, self.lookups // self.tables
        drawn = [
            rows_looked_up.rows_of(self.draw, each, self.sets * count, stream=n).reshape(self.sets, count) + n * each
            for n in range(self.tables)
        ]
        return np.concatenate(drawn, axis=1).astype(np.int32)

    def dims(self) -> tuple[int, ...]:
        """(rows, row bytes, lookups, bytes of an index, sets)"""
        return (self.rows, self.row_bytes, self.lookups, INDEX_BYTES, self.sets)

    def flops(self) -> float:
        """None: integer additions are not counted."""
        return 0.0

    def traffic(self) -> Traffic:
        """Rows and indices of one set; `compulsory` counts a row of the table once, as many as are expected."""
        gathered, indices = float(self.lookups * self.row_bytes), float(self.lookups * INDEX_BYTES)
        distinct = self.rows * -np.expm1(-self.lookups / self.rows)
        if self.draw.alpha:
            each, count = self.rows // self.tables, self.lookups // self.tables
            distinct = self.tables * rows_looked_up.expected_unique(self.draw, each, count)
        return Traffic(
            requested=gathered + indices, compulsory=float(distinct * self.row_bytes + indices),
            by_operand={"table": gathered, "indices": indices},
        )  # fmt: skip

    def figure(self) -> Figure:
        """GB/s of rows (indices not counted), or with op "rows" Grows/s; roofs of the level where one is named."""
        place: dict[str, Any] = {"ceiling": bool(self.level), "level": self.level, "op": self.op}
        if self.op == "rows":
            return Figure(kind="rate", unit="Grows/s", amount=float(self.lookups), **place)
        return Figure(kind="bandwidth", unit="GB/s", amount=float(self.lookups * self.row_bytes), **place)

    def working_set(self) -> int:
        """Bytes of the table; indices are read once, in order."""
        return self.rows * self.row_bytes

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """The wrapping sum of the first set's rows as 64-bit words, a last half word of a row as its value."""
        table, indices = inputs["table"].view(np.uint32), inputs["indices"][0]
        counts = np.bincount(indices, minlength=len(table)).astype(np.uint64)
        used = np.flatnonzero(counts)
        found = table[used]
        low, high = (np.add.reduce(found[:, part::2], axis=1, dtype=np.uint64) for part in (0, 1))
        with np.errstate(over="ignore"):
            sums = (low + (high << np.uint64(32))) * counts[used]
            return {"sum": np.array([np.add.reduce(sums)], dtype=np.uint64).view(np.int64)}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """The sum."""
        return {"sum": outputs["sums"][:1]}

    def tolerance(self) -> Tolerance:
        """Exact."""
        return Tolerance()

    def small(self) -> Problem:
        """A thousand rows, and an odd number of lookups."""
        few = {"lookups": 2003} if not self.draw.alpha else {"lookups": 2004, "draw": self.draw, "tables": 2}
        return Gather(dtype=self.dtype, op=self.op, rows=1000, row_bytes=self.row_bytes, **few)


def build(values: Mapping[str, Any], space: Space) -> Gather:
    """A table that fills the level or the size asked for; in private caches (L1, L2) each thread's holds all of it.

    Raises UsageError for row_bytes that are no multiple of 4 in range, a level beside a size, or skew without one."""
    level, text, row = values.get("level", ""), values.get("size", ""), values["row_bytes"]
    if level and text:
        raise UsageError(f'gather: both level = "{level}" and size = "{text}" are given: write one of them')
    if not isinstance(row, int) or row % 4 or not NARROWEST <= row <= WIDEST:
        raise UsageError(f"gather: row_bytes = {row!r}: write a multiple of 4 from {NARROWEST} to {WIDEST}")
    draw, tables = rows_looked_up.parse(values.get("indices", {}), "gather: indices"), values.get("tables", 1)
    if (draw.alpha or draw.reuse) and (not text or draw.reuse):
        raise UsageError("gather: indices: write { zipf = 1.05 } and a size: a level is known by uniform rows")
    if not isinstance(tables, int) or isinstance(tables, bool) or tables < 1:
        raise UsageError(f"gather: tables = {tables!r}: write a whole number of at least 1")
    if not text:
        level = level or "DRAM"
    total = space.size(text) if text else space.level_bytes(level)
    if level in space.private:
        total //= space.threads
    rows = max(1, min(total // row, 2**31 - 1))
    lookups = space.threads * max(1, min(rows, CALL_BYTES // row))
    sets = max(LEAST_SETS, round(rows / lookups))
    if draw.alpha:
        rows, lookups = max(1, rows // tables) * tables, max(1, lookups // tables) * tables
        sets = min(sets, SKEWED_SETS)
    return Gather(
        dtype="fp32", op=values["op"], rows=rows, row_bytes=row, lookups=lookups, sets=sets, level=level,
        symbols={"size": text} if text else {}, draw=draw, tables=tables if draw.alpha else 1,
    )  # fmt: skip


FAMILY = Family(
    name="gather",
    help="random whole rows of a table, added up: bandwidth and row rate of a level",
    problem=Gather,
    keys={
        "op": Key('figure: "gather" for GB/s, "rows" for Grows/s (of the same work)', ("gather", "rows"), ("gather",)),
        "row_bytes": Key("bytes of a row, a multiple of 4", None, (64, 128, 256, 512, 1024)),
        "level": Key("level that the table lies inside (default DRAM, unless a size is given)", LEVELS),
        "size": Key('bytes of the table instead of a level: "64 MiB", "0.4 L2", "4 L3", "25% memory"'),
        "indices": Key("skewed rows of a table of a given size: { zipf = 1.05, seed = 7 }"),
        "tables": Key("equal tables that the skewed rows belong to", None, (1,)),
    },
    build=build,
)
