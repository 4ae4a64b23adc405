"""Bandwidth ceilings: what a level of the memory hierarchy delivers to code that reads, writes, copies or combines.

Ops: `load` reads and reduces (its checksum is the wrapping sum of the bytes as 64-bit words, exact in any order),
`load-only` reads and drops, `store` writes a constant other than zero, `copy` is c = a, `triad` c = a + q b (McCalpin's
STREAM kernels); `nt-` writes with streaming stores; `dot` adds a b up and `schoenauer` is c = a + b d, in fp64, as
other tools have them. Bytes are those the instructions ask for; what ordinary stores read
first is stated apart (`Traffic.write_allocate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import ROUNDOFF, Array, widen
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic
from pykernels.units import DTYPE_BYTES, MIB

#: op -> (arrays read, arrays written)
ARRAYS = {
    "load": (1, 0), "load-only": (1, 0), "store": (0, 1), "nt-store": (0, 1),
    "copy": (1, 1), "nt-copy": (1, 1), "triad": (2, 1), "nt-triad": (2, 1), "dot": (2, 0), "schoenauer": (3, 1),
}  # fmt: skip
#: ops with a multiply-add an element; and those that there is in fp64 only
MULTIPLYING, FP64_ONLY = ("triad", "nt-triad", "dot", "schoenauer"), ("dot", "schoenauer")
INPUTS = "abd"
LEVELS = ("L1", "L2", "L3", "DRAM")

#: what store writes and triad multiplies by
SCALAR = 1.25
#: a thread's chunk is a multiple of this, so that no vector or stream of a timed loop is cut
CHUNK_BYTES = 1024
#: a pass over a large array covers a part of about this many bytes of each thread's share, the parts in turn: short
#: samples, of which a neighbour spoils few
PART_BYTES = 8 * MIB
#: words of a load's output: the sum, then one line for each of at most 1024 threads
SUM_WORDS = 8 + 8 * 1024


class Stream(Problem, frozen=True, kw_only=True):
    """`n` elements in each array, over all threads; a call covers one of `parts` of each thread's share, in turn.
    Dims: (n, parts); scalars: (1.25,). FLOPs and traffic are those of a call: the whole over `parts`."""

    kernel: ClassVar[str] = "stream"

    op: str
    n: int
    parts: int = 1
    level: str = ""
    named: str = ""

    def params(self) -> dict[str, str]:
        """op, then the level or the size that the user wrote (or n), or both beside the name that the roof goes by."""
        if self.named:
            return {"as": self.named, "op": self.op, "level": self.level, **self.symbols}
        where = {"level": self.level} if self.level else dict(self.symbols) or {"n": str(self.n)}
        return {"op": self.op, **where}

    def entry(self) -> tuple[str, str, str]:
        """Native table key."""
        return (self.kernel, self.op, self.dtype)

    def operands(self) -> tuple[Operand, ...]:
        """Inputs a, b, d of n elements, then the output: c of n elements, or the `sums` of a load or dot."""
        reads, writes = ARRAYS[self.op]
        arrays = [Operand(INPUTS[i], "in", (self.n,), self.dtype, Recipe(seed=i + 1)) for i in range(reads)]
        arrays += [Operand("c", "out", (self.n,), self.dtype)] * writes
        if self.op == "load":
            arrays.append(Operand("sums", "out", (SUM_WORDS,), "int64"))
        if self.op == "dot":
            arrays.append(Operand("sums", "out", (SUM_WORDS,), self.dtype))
        return tuple(arrays)

    def dims(self) -> tuple[int, ...]:
        """(n, parts)"""
        return (self.n, self.parts)

    def cover(self) -> int:
        """One call for each part."""
        return self.parts

    def scalars(self) -> tuple[float, ...]:
        """(q,)"""
        return (SCALAR,)

    def flops(self) -> float:
        """Two an element for triad, dot and schoenauer; a load's integer additions are not counted."""
        return 2.0 * self.n / self.parts if self.op in MULTIPLYING else 0.0

    def traffic(self) -> Traffic:
        """Every array once in `parts` calls. Ordinary stores read their lines first unless these are in the L1."""
        reads, writes = ARRAYS[self.op]
        size = self.n * DTYPE_BYTES[self.dtype] / self.parts
        moved = (reads + writes) * size
        allocated = 0.0 if self.op.startswith("nt-") or self.level == "L1" else writes * size
        names = [*INPUTS[:reads], *["c"] * writes]
        return Traffic(
            requested=moved, compulsory=moved, write_allocate=allocated, by_operand=dict.fromkeys(names, size)
        )

    def figure(self) -> Figure:
        """GB/s of requested bytes; the roof of its level and op where a level is named."""
        return Figure(
            kind="bandwidth", unit="GB/s", amount=self.traffic().requested, ceiling=bool(self.level), level=self.level,
            op=self.named or self.op,
        )  # fmt: skip

    def working_set(self) -> int:
        """Bytes of all arrays (a load's output line is not counted)."""
        return int(sum(ARRAYS[self.op]) * self.n * DTYPE_BYTES[self.dtype])

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """c in float64, or the exact sum of all 64-bit words."""
        if self.op == "load":
            return {"sum": _checksum(inputs["a"])}
        if self.op == "load-only":
            return {}
        if self.op == "dot":
            return {"sum": np.array([np.dot(inputs["a"], inputs["b"])])}
        a, b, d = (widen(inputs[name][_rows(rows)], self.dtype) if name in inputs else None for name in INPUTS)
        if a is None:
            count = self.n if rows is None else len(rows)
            return {"c": np.full(count, SCALAR)}
        return {"c": a if b is None else a + (SCALAR if d is None else d) * b}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """c widened, or the sum."""
        if self.op in ("load", "dot"):
            return {"sum": outputs["sums"][:1]}
        return {"c": widen(outputs["c"][_rows(rows)], self.dtype)} if "c" in outputs else {}

    def tolerance(self) -> Tolerance:
        """Copies and integer sums are exact; a triad rounds the product and the sum of positive terms: twice the unit
        roundoff (and its square). A sum of n positive products, in whatever order, is off by n roundoffs at most."""
        if self.op == "dot":
            return Tolerance(relative=1.1 * (self.n + 1) * ROUNDOFF[self.dtype])
        return Tolerance(relative=2.1 * ROUNDOFF[self.dtype]) if self.op in MULTIPLYING else Tolerance()

    def small(self) -> Problem:
        """Some thousand elements and an odd rest, so that streams, vectors and tails all have work."""
        return Stream(op=self.op, n=20011, parts=min(self.parts, 3), dtype=self.dtype)


def _rows(rows: Array | None) -> Any:
    return slice(None) if rows is None else rows


def _checksum(a: Array) -> Array:
    """Wrapping sum of an array's bytes as little-endian 64-bit words, a last half word taken as its value."""
    raw = a.view(np.uint32) if a.dtype.itemsize == 4 else a.view(np.uint64)
    rest = np.uint64(0)
    if raw.dtype == np.uint32:
        if raw.size % 2:
            rest = np.uint64(raw[-1])
        raw = raw[: raw.size // 2 * 2].view(np.uint64)
    with np.errstate(over="ignore"):
        return np.array([np.add.reduce(raw) + rest], dtype=np.uint64).view(np.int64)


def build(values: Mapping[str, Any], space: Space) -> Stream:
    """A stream problem whose arrays together fill the level, or the size, asked for. Raises UsageError."""
    op, dtype, level, text = values["op"], values["dtype"], values.get("level", ""), values.get("size", "")
    named = values.get("as", "")
    if op in FP64_ONLY and dtype != "fp64":
        raise UsageError(f'stream: op = "{op}" has dtype "fp64", not "{dtype}"')
    if named and not (level and text):
        raise UsageError(f'stream: as = "{named}" needs a size, and the level that it lies in')
    if level and text and not named:
        raise UsageError(f'stream: both level = "{level}" and size = "{text}" are given: write one of them')
    if not text:
        level = level or "DRAM"
    total = space.size(text) if text else space.level_bytes(level)
    grain = CHUNK_BYTES * space.threads
    per_array = max(1, total // sum(ARRAYS[op]) // grain) * grain
    n = int(per_array / DTYPE_BYTES[dtype])
    parts = max(1, total // space.threads // PART_BYTES)
    symbols = {"size": text} if text else {}
    return Stream(op=op, n=n, parts=parts, dtype=dtype, level=level, named=named, symbols=symbols)


FAMILY = Family(
    name="stream",
    help="bandwidth of a level of the memory hierarchy, by operation",
    problem=Stream,
    keys={
        "op": Key("what is done with the arrays", tuple(ARRAYS), ("load",)),
        "level": Key("level that the arrays lie inside (default DRAM, unless a size is given)", LEVELS),
        "size": Key('working set of all threads instead of a level: "64 MiB", "0.4 L2", "4 L3", "25% memory"'),
        "as": Key("name of the roof: another tool's test that this repeats, at its size and in its level"),
        "dtype": Key("element type", ("fp64", "fp32"), ("fp64",)),
    },
    build=build,
)
