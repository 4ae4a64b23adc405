"""Embedding lookups: `embedding_bag` pools the rows of each bag, `embedding_gather` copies rows out one by one.

Tables stand one after the other in one array, so an index is a row of the whole: many tables cost a call no more than
one. Rows are fp32, fp16 or bf16; or `int8` (unsigned bytes) and `int4` (low nibble first), worth scale * q + bias, with
scale and bias as fp32 at the end of the row. Results are fp32.

Bytes, by four conventions (facts of every record): gathered = rows x stored row; line = lines of 64 bytes that a row
touches on average where it may begin anywhere its size allows; requested = gathered + indices, offsets, weights and
output; compulsory = the same with each distinct row once, as many as the generator is expected to touch.
FLOPs: one addition per gathered element, two where a weight or a scale multiplies it first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import msgspec
import numpy as np

from pykernels.kernels import indices as rows_looked_up
from pykernels.kernels.dtypes import Array, widen
from pykernels.kernels.indices import Draw
from pykernels.kernels.random import draws
from pykernels.model import Figure, Operand, Problem, Recipe, Tolerance, Traffic
from pykernels.units import DTYPE_BYTES

QUANTISED = ("int8", "int4")
INDEX_BYTES = {"int32": 4, "int64": 8}
LINE = 64
#: bytes of scale and bias at the end of a quantised row
TAIL = 8
#: index sets rotate until so many times the last-level cache has passed in distinct rows
ROTATE_LLC = 4


class Lookup(Problem, frozen=True, kw_only=True):
    """What bags and gathers share. `rows`: of each table; `batch`: bags (or lookups) of each table a call; `sets` index
    sets rotate through the passes; `llc_bytes`: the last-level cache that they have to outrun (0: not known)."""

    rows: tuple[int, ...]
    dim: int
    batch: int
    index: str = "int32"
    draw: Draw = Draw()
    sets: int = 1
    llc_bytes: int = 0
    level: str = ""
    workload: str = ""
    scale: float = 1.0

    # ---------------------------------------------------------------- sizes

    @property
    def tables(self) -> int:
        """Tables."""
        return len(self.rows)

    @property
    def row_bytes(self) -> int:
        """Stored bytes of a row."""
        return row_bytes(self.dim, self.dtype)

    @property
    def table_bytes(self) -> int:
        """Stored bytes of all tables."""
        return sum(self.rows) * self.row_bytes

    @property
    def bags(self) -> int:
        """Rows of the output."""
        return self.batch * self.tables

    @property
    def lookups(self) -> int:
        """Rows gathered by a call."""
        raise NotImplementedError

    @property
    def pooled(self) -> str:
        """Lookups of a bag, as text."""
        return ""

    @property
    def weighted_lookups(self) -> bool:
        """Whether each lookup has a weight."""
        return False

    def per_table(self) -> tuple[int, ...]:
        """Lookups of each table a call."""
        raise NotImplementedError

    # ------------------------------------------------------------------ names

    def params(self) -> dict[str, str]:
        """Workload or trace, tables, their mean rows (or what the user wrote), dim, pooling, batch, and what differs
        from the defaults."""
        named = {"workload": self.workload} if self.workload else {}
        size = {"level": self.level} if self.level else dict(self.symbols)
        if not size:
            size = {"rows": str(round(sum(self.rows) / self.tables))}
        named |= {"tables": str(self.tables)} if self.tables > 1 else {}
        named |= {**size, "dim": str(self.dim)}
        named |= {"pooling": self.pooled} if self.pooled else {}
        named["batch"] = str(self.batch)
        named |= {"zipf": f"{self.draw.alpha:g}"} if self.draw.alpha else {}
        named |= {"reuse": self.draw.reuse} if self.draw.reuse else {}
        named |= {"seed": str(self.draw.seed)} if self.draw.seed != Draw().seed else {}
        named |= {"index": self.index} if self.index != "int32" else {}
        return named | ({"scale": f"{self.scale:.3g}"} if self.scale != 1.0 else {})

    # ------------------------------------------------------------------ call

    def dims(self) -> tuple[int, ...]:
        """(bags, dim, rows of all tables, lookups, bytes of an index, of a row, of an offset, index sets, mean)"""
        size = INDEX_BYTES[self.index]
        return (self.bags, self.dim, sum(self.rows), self.lookups, size, self.row_bytes, size, self.sets, 0)

    def table_operand(self) -> Operand:
        """The tables: (rows, dim), or bytes (rows, row bytes) of quantised rows."""
        if self.dtype in QUANTISED:
            shape = (sum(self.rows), self.row_bytes)
            return Operand("table", "in", shape, "uint8", Recipe("quantized", 11, 0.01, 0.02), shared=True)
        return Operand("table", "in", (sum(self.rows), self.dim), self.dtype, Recipe(seed=11), shared=True)

    def host_input(self, name: str) -> Array:
        """`indices` (sets, lookups), rows of the whole."""
        return drawn_indices(self.rows, self.per_table(), self.draw, self.sets).astype(self.index)

    def flops(self) -> float:
        """Additions of pooling; multiplications of weights or scales."""
        return 0.0

    def traffic(self) -> Traffic:
        """See the module; ordinary stores read the output's lines first unless the level is the L1."""
        size, extra = INDEX_BYTES[self.index], 4.0 * self.lookups * self.weighted_lookups
        parts = {
            "table": float(self.lookups * self.row_bytes), "indices": float(self.lookups * size),
            "offsets": float((self.bags + 1) * size) if self.pooled else 0.0, "weights": extra,
            "out": 4.0 * self.bags * self.dim,
        }  # fmt: skip
        unique = self.expected_unique() * self.row_bytes
        return Traffic(
            requested=sum(parts.values()), compulsory=sum(parts.values()) - parts["table"] + unique,
            write_allocate=0.0 if self.level == "L1" else parts["out"],
            by_operand={name: moved for name, moved in parts.items() if moved},
        )  # fmt: skip

    def expected_unique(self) -> float:
        """Distinct rows a call is expected to touch."""
        return expected_rows(self.rows, self.per_table(), self.draw)

    def figure(self) -> Figure:
        """Lookups a second."""
        return Figure(kind="rate", unit="Grows/s", amount=float(self.lookups), level=self.level)

    def working_set(self) -> int:
        """Tables, indices of all sets, offsets, weights and output."""
        side = self.traffic().by_operand
        moved = side.get("offsets", 0) + side.get("weights", 0) + side["out"] + self.sets * side["indices"]
        return self.table_bytes + int(moved)

    def tolerance(self) -> Tolerance:
        """Rows are exact in fp32; scale * q + bias rounds three times."""
        return Tolerance(relative=3 * 2.0**-24 if self.dtype in QUANTISED else 0.0)

    def about(self) -> dict[str, Any]:
        """Sizes, the four byte counts, the generator, and what the indices of all sets did; `warm` where too few
        distinct rows pass to leave the caches."""
        traffic = self.traffic()
        indices = self.host_input("indices")
        found = rows_looked_up.statistics(indices, sum(self.rows))
        distinct = found["unique_ratio"] * found["lookups"] * self.row_bytes
        return {
            "tables": self.tables, "rows": round(sum(self.rows) / self.tables), "dim": self.dim,
            "table_bytes": self.table_bytes, "row_bytes": self.row_bytes, "lookups": self.lookups,
            "bytes_gathered": traffic.by_operand["table"],
            "bytes_line": self.lookups * mean_lines(self.row_bytes) * LINE,
            "bytes_compulsory": traffic.compulsory, "bytes_requested": traffic.requested,
            "generator": self.draw.generator, "alpha": self.draw.alpha, "seed": self.draw.seed, "sorted": False,
            "sets": self.sets, "unique_ratio_call": self.expected_unique() / max(1, self.lookups),
            "warm": not self.llc_bytes or distinct < ROTATE_LLC * self.llc_bytes,
            **{name: value for name, value in found.items() if name != "lookups"},
        }  # fmt: skip

    def rows_widened(self, table: Array, indices: Array) -> Array:
        """float64 values of rows `indices` of the table."""
        rows = table[indices]
        if self.dtype not in QUANTISED:
            return widen(rows, self.dtype)
        tail = np.ascontiguousarray(rows[:, -TAIL:]).view(np.float32).astype(np.float64)
        packed = rows[:, :-TAIL]
        if self.dtype == "int4":
            packed = np.stack((packed & 15, packed >> 4), axis=-1).reshape(len(rows), 2 * packed.shape[1])[
                :, : self.dim
            ]
        return packed * tail[:, :1] + tail[:, 1:]


P = TypeVar("P", bound=Lookup)


class EmbeddingGather(Lookup, frozen=True, kw_only=True):
    """out[i] = the row of index i in fp32. Operands: table, indices (sets, lookups), out (lookups, dim)."""

    kernel: ClassVar[str] = "embedding_gather"

    @property
    def lookups(self) -> int:
        """One a row of the output."""
        return self.bags

    def per_table(self) -> tuple[int, ...]:
        """The batch of each."""
        return (self.batch,) * self.tables

    def operands(self) -> tuple[Operand, ...]:
        """table, indices, out."""
        return (
            self.table_operand(),
            Operand("indices", "in", (self.sets, self.lookups), self.index, Recipe("host")),
            Operand("out", "out", (self.lookups, self.dim), "fp32"),
        )

    def flops(self) -> float:
        """None, but a multiplication and an addition per quantised element."""
        return 2.0 * self.lookups * self.dim if self.dtype in QUANTISED else 0.0

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """The rows that set 0 names."""
        indices = inputs["indices"][0]
        return {"out": self.rows_widened(inputs["table"], indices if rows is None else indices[rows])}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """out in float64."""
        return {"out": widen(outputs["out"] if rows is None else outputs["out"][rows], "fp32")}

    def small(self) -> EmbeddingGather:
        """About a thousand rows."""
        return _smaller(self)


class EmbeddingBag(Lookup, frozen=True, kw_only=True):
    """out[b] = sum (or mean) over the lookups i of bag b of weight[i] * row(index[i]); an empty bag gives zeros.

    `pooling`: least and most lookups of a bag of each table, drawn evenly between them and the same in every set.
    Operands: table, indices (sets, lookups), offsets (bags + 1), weights (lookups, or of no length), out (bags, dim).
    """

    kernel: ClassVar[str] = "embedding_bag"

    pooling: tuple[tuple[int, int], ...]
    mode: str = "sum"
    weighted: bool = False
    trace: str = ""

    @property
    def lookups(self) -> int:
        """Of all bags."""
        return int(self.offsets()[-1])

    @property
    def weighted_lookups(self) -> bool:
        """Whether each lookup has a weight."""
        return self.weighted

    @property
    def pooled(self) -> str:
        """One number where all bags are alike, a range where one is drawn from, else the mean over tables."""
        if self.trace:
            return f"{self.lookups / max(1, self.bags):.3g}"
        if len(set(self.pooling)) > 1:
            return f"{sum(low + high for low, high in self.pooling) / 2 / self.tables:.3g}"
        low, high = self.pooling[0]
        return str(low) if low == high else f"{low}..{high}"

    def params(self) -> dict[str, str]:
        """Those of any lookup, then trace, mode and weighted where they are not the defaults."""
        named = super().params()
        if self.trace:
            named["trace"] = f"{self.trace.rpartition('/')[2].removesuffix('.npz')}-{rows_looked_up.digest(self.trace)}"
        named |= {"mode": self.mode} if self.mode != "sum" else {}
        return named | ({"weighted": "true"} if self.weighted else {})

    def offsets(self) -> Array:
        """Where each bag begins, and the end."""
        if self.trace:
            return _trace(self.trace, sum(self.rows)).offsets
        return drawn_offsets(self.pooling, self.batch, self.draw.seed)

    def per_table(self) -> tuple[int, ...]:
        """Lookups of each table: bags stand table by table."""
        ends = self.offsets()[:: self.batch]
        return tuple(int(n) for n in np.diff(ends))

    def operands(self) -> tuple[Operand, ...]:
        """table, indices, offsets, weights, out."""
        weights = Recipe("host") if self.trace else Recipe(seed=12)
        return (
            self.table_operand(),
            Operand("indices", "in", (self.sets, self.lookups), self.index, Recipe("host")),
            Operand("offsets", "in", (self.bags + 1,), self.index, Recipe("host")),
            Operand("weights", "in", (self.lookups if self.weighted else 0,), "fp32", weights),
            Operand("out", "out", (self.bags, self.dim), "fp32"),
        )

    def dims(self) -> tuple[int, ...]:
        """Those of any lookup, the last 1 for the mean."""
        return (*super().dims()[:-1], int(self.mode == "mean"), int(self.weighted))

    def host_input(self, name: str) -> Array:
        """indices, offsets, or the weights of a trace."""
        if name == "offsets":
            return self.offsets().astype(self.index)
        if not self.trace:
            return super().host_input(name)
        trace = _trace(self.trace, sum(self.rows))
        if name == "weights":
            return np.zeros(0, np.float32) if trace.weights is None or not self.weighted else trace.weights
        return trace.indices.astype(self.index)[None]

    def expected_unique(self) -> float:
        """Distinct rows a call is expected to touch; a trace's are counted."""
        if self.trace:
            return float(len(np.unique(_trace(self.trace, sum(self.rows)).indices)))
        return super().expected_unique()

    def about(self) -> dict[str, Any]:
        """Those of any lookup, with the mean pooling."""
        found = {**super().about(), "pooling": self.lookups / max(1, self.bags)}
        return {**found, "generator": "trace", "alpha": None, "seed": None} if self.trace else found

    def flops(self) -> float:
        """An addition per element, twice that where weights or scales multiply."""
        return (2.0 if self.weighted or self.dtype in QUANTISED else 1.0) * self.lookups * self.dim

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """Pooled rows that set 0 names."""
        offsets, indices = inputs["offsets"].astype(np.int64), inputs["indices"][0]
        bags = np.arange(self.bags) if rows is None else rows
        lengths = offsets[bags + 1] - offsets[bags]
        starts = np.cumsum(lengths) - lengths
        chosen = np.repeat(offsets[bags] - starts, lengths) + np.arange(int(lengths.sum()))
        values = self.rows_widened(inputs["table"], indices[chosen])
        if self.weighted:
            values *= inputs["weights"][chosen].astype(np.float64)[:, None]
        out = np.zeros((len(bags), self.dim))
        filled = lengths > 0
        if filled.any():
            out[filled] = np.add.reduceat(values, starts[filled], axis=0)
        if self.mode == "mean":
            out /= np.maximum(lengths, 1)[:, None]
        return {"out": out}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """out in float64."""
        return {"out": widen(outputs["out"] if rows is None else outputs["out"][rows], "fp32")}

    def tolerance(self) -> Tolerance:
        """Terms are positive, so n additions in any order err by n - 1 unit roundoffs at most, and each weight, scale
        and bias adds up to four (Higham, Accuracy and Stability of Numerical Algorithms, 4.2)."""
        longest = int(np.diff(self.offsets()).max(initial=0))
        return Tolerance(relative=1.01 * (longest + 4) * 2.0**-24, absolute=1e-5 if self.trace else 0.0)

    def small(self) -> EmbeddingBag:
        """About a thousand rows and some dozen bags."""
        if self.trace:
            return self
        small = _smaller(self)
        return msgspec.structs.replace(
            small, pooling=tuple((min(low, 40), min(high, 40)) for low, high in small.pooling)
        )


def row_bytes(dim: int, dtype: str) -> int:
    """Stored bytes of a row; int4 packs two elements a byte, the last byte of an odd row half used."""
    return math.ceil(dim * DTYPE_BYTES[dtype]) + (TAIL if dtype in QUANTISED else 0)


def mean_lines(nbytes: int) -> float:
    """Lines that a row of that size touches on average, where rows stand one after the other: 1 + (W - g) / 64 with g
    the greatest common divisor of W and 64."""
    return 1 + (nbytes - math.gcd(nbytes, LINE)) / LINE


# ------------------------------------------------------------------------------------------------------------- contents


@lru_cache(maxsize=64)
def drawn_offsets(pooling: tuple[tuple[int, int], ...], batch: int, seed: int) -> Array:
    """Offsets of batch bags a table, lengths drawn evenly from each table's (least, most)."""
    lengths = [np.full(batch, low, np.int64) for low, _ in pooling]
    for table, (low, high) in enumerate(pooling):
        if high > low:
            unit = draws(seed + 31 * table + 5, 32, np.arange(batch)).astype(np.float64) * 2.0**-32
            lengths[table] = low + (unit * (high - low + 1)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    offsets.flags.writeable = False
    return offsets


@lru_cache(maxsize=4)
def drawn_indices(rows: tuple[int, ...], per_table: tuple[int, ...], draw: Draw, sets: int) -> Array:
    """(sets, lookups) rows of the whole, each table from a stream of its own."""
    found = np.empty((sets, sum(per_table)), np.int64)
    base = at = 0
    for table, (size, count) in enumerate(zip(rows, per_table, strict=True)):
        drawn = rows_looked_up.rows_of(draw, size, sets * count, stream=table)
        found[:, at : at + count] = drawn.reshape(sets, count) + base
        base, at = base + size, at + count
    found.flags.writeable = False
    return found


@lru_cache(maxsize=256)
def expected_rows(rows: tuple[int, ...], per_table: tuple[int, ...], draw: Draw) -> float:
    """Distinct rows that lookups of each table are expected to touch together."""
    pairs = zip(rows, per_table, strict=True)
    return sum(rows_looked_up.expected_unique(draw, size, count) for size, count in pairs)


@lru_cache(maxsize=8)
def _trace(path: str, rows: int) -> rows_looked_up.Trace:
    return rows_looked_up.load_trace(path, rows)


def _smaller(problem: P) -> P:
    few = tuple(min(rows, 1009) for rows in problem.rows[:3])
    changed: dict[str, Any] = {
        "rows": few, "batch": min(problem.batch, 37), "sets": min(problem.sets, 3), "level": "", "symbols": {},
    }  # fmt: skip
    if isinstance(problem, EmbeddingBag):
        changed["pooling"] = problem.pooling[:3]
    return msgspec.structs.replace(problem, **changed)
