"""Between the ceilings: k fused multiply-adds for each loaded vector, from 1/32 to 256 FLOP a byte, at every level.

Its left end should meet the level's load roof and its right end the peak; between them it shows how sharp the ridge is.
Below one multiply-add a vector, one cache line in 2, 4, 8 or 16 is multiplied, and the others are folded in by integer
XOR, which is checked and not counted. x holds whole numbers, so that every product and sum is exact and the checksum,
q k sum(x) modulo the word, is the same in any order and at any vector width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import Array
from pykernels.kernels.stream import CHUNK_BYTES, LEVELS, PART_BYTES, SUM_WORDS
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic
from pykernels.units import DTYPE_BYTES, KIB

LINE_BYTES = 64
SKIPS = (2, 4, 8, 16)
MOST = 1024
FACTOR = 3
#: |x| is at most this: 1024 products with 3 stay exact beside 1.5 x 2^23 (2^52)
RANGE = {"fp32": 2**10, "fp64": 2**38}
#: a pass over more than this many FLOP a byte covers smaller parts, so that it stays short
LONG = 4.0


class Mixed(Problem, frozen=True, kw_only=True):
    """`units` arrays of `n` elements, each read in `parts` equal parts, one a call, in turn. `k` multiply-adds an
    element, or with k = 0 one for each element of every skip-th line. Dims: (n, parts, k, skip, units); scalars:
    (3.0,)."""

    kernel: ClassVar[str] = "mixed"

    n: int
    k: int
    skip: int = 1
    parts: int = 1
    units: int = 1
    level: str = ""
    named: str = ""

    @property
    def intensity(self) -> float:
        """FLOP a byte, as asked for; a last part line may differ."""
        return 2.0 * (self.k or 1 / self.skip) / DTYPE_BYTES[self.dtype]

    def params(self) -> dict[str, str]:
        """intensity in FLOP/byte, then the level (or n), and the size beside a name."""
        named = {"as": self.named} if self.named else {}
        where = {"level": self.level} if self.level else {"n": str(self.n)}
        return {**named, "intensity": f"{self.intensity:g}", **where, **self.symbols}

    def operands(self) -> tuple[Operand, ...]:
        """x (units, n) of whole numbers, sums: multiply-add checksum, XOR checksum, then a line for each thread."""
        most = RANGE[self.dtype]
        return (
            Operand("x", "in", (self.units, self.n), self.dtype, Recipe("integers", 1, -most, most)),
            Operand("sums", "out", (SUM_WORDS,), "int64"),
        )

    def dims(self) -> tuple[int, ...]:
        """(n, parts, k, skip, units)"""
        return (self.n, self.parts, self.k, self.skip, self.units)

    def scalars(self) -> tuple[float, ...]:
        """(q,)"""
        return (float(FACTOR),)

    def flops(self) -> float:
        """Two for each multiply-add; XOR is not counted."""
        return 2.0 * self.units * (self.k or 1) * float(_multiplied(self.n // self.parts, self.dtype, self.skip).sum())

    def traffic(self) -> Traffic:
        """One part of each unit."""
        moved = float(self.units * (self.n // self.parts) * DTYPE_BYTES[self.dtype])
        return Traffic(requested=moved, compulsory=moved, by_operand={"x": moved})

    def figure(self) -> Figure:
        """GFLOP/s: a point of the roofline of its level."""
        return Figure(
            kind="compute", unit="GFLOP/s", amount=self.flops(), ceiling=bool(self.level), level=self.level,
            op=self.named or "mixed",
        )  # fmt: skip

    def working_set(self) -> int:
        """Bytes of x."""
        return int(self.units * self.n * DTYPE_BYTES[self.dtype])

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """Both checksums of the first part of every unit."""
        bits = np.uint32 if self.dtype == "fp32" else np.uint64
        total, word = 0, 0
        chosen = _multiplied(self.n // self.parts, self.dtype, self.skip)
        for unit in inputs["x"][:, : self.n // self.parts]:
            multiplied = unit if self.skip == 1 else unit[chosen]
            # partial sums of whole numbers are exact: 2^12 of at most 2^38 (2^40 of 2^10) fit in 53 bits
            blocks = np.add.reduceat(multiplied.astype(np.float64), np.arange(0, len(multiplied), 4096))
            total += FACTOR * (self.k or 1) * sum(int(block) for block in blocks)
            if self.skip > 1:
                word ^= int(np.bitwise_xor.reduce(unit[~chosen].view(bits))) if not chosen.all() else 0
        total %= 2**32 if self.dtype == "fp32" else 2**64
        return {"sums": np.array([total, word], dtype=np.uint64).view(np.int64)}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """Both checksums."""
        return {"sums": outputs["sums"][:2]}

    def tolerance(self) -> Tolerance:
        """Exact."""
        return Tolerance()

    def small(self) -> Problem:
        """A few thousand elements and an odd rest."""
        return Mixed(dtype=self.dtype, n=9001, k=self.k, skip=self.skip, units=min(self.units, 3))


def _multiplied(count: int, dtype: str, skip: int) -> Array:
    """Which elements are multiplied: those of every skip-th 64-byte line."""
    lines = np.arange(count) * int(DTYPE_BYTES[dtype]) // LINE_BYTES
    chosen: Array = lines % skip == 0
    return chosen


def operations(intensity: float, dtype: str) -> tuple[int, int]:
    """(k, skip) nearest to so many FLOP a byte: k whole, or 0 and one line in `skip`. Raises UsageError."""
    per_element = intensity * DTYPE_BYTES[dtype] / 2
    if per_element >= 0.75 and round(per_element) <= MOST:
        return round(per_element), 1
    nearest = min(SKIPS, key=lambda skip: abs(skip * per_element - 1)) if per_element > 0 else 0
    if per_element >= 0.75 or not nearest or not 0.7 <= nearest * per_element <= 1.45:
        low, high = 2 / 16 / DTYPE_BYTES[dtype], 2 * MOST / DTYPE_BYTES[dtype]
        raise UsageError(f"mixed: intensity = {intensity:g}: {dtype} has {low:g} to {high:g} FLOP/byte")
    return 0, nearest


def build(values: Mapping[str, Any], space: Space) -> Mixed:
    """A unit for each thread; together they fill the level. Raises UsageError for an intensity out of range."""
    dtype, level = values["dtype"], values["level"]
    try:
        intensity = float(values["intensity"])
    except (TypeError, ValueError):
        raise UsageError(f"mixed: intensity = {values['intensity']!r}: write FLOP a byte, a number") from None
    k, skip = operations(intensity, dtype)
    text, named = values.get("size", ""), values.get("as", "")
    if bool(text) != bool(named):
        raise UsageError(f'mixed: size = "{text}", as = "{named}": a size and the name it stands for go together')
    total = space.size(text) if text else space.level_bytes(level)
    per_unit = max(1, total // space.threads // CHUNK_BYTES) * CHUNK_BYTES
    part = max(128 * KIB, int(PART_BYTES * min(1.0, LONG / intensity)))
    parts = max(1, per_unit // part)
    n = per_unit // parts // CHUNK_BYTES * CHUNK_BYTES // int(DTYPE_BYTES[dtype]) * parts
    return Mixed(
        dtype=dtype, n=n, k=k, skip=skip, parts=parts, units=space.threads, level=level, named=named,
        symbols={"size": text} if text else {},
    )  # fmt: skip


FAMILY = Family(
    name="mixed",
    help="multiply-adds on loaded data at a given FLOP/byte: the roofline between its corners",
    problem=Mixed,
    keys={
        "intensity": Key("FLOP a byte, 0.03125 to 256", None, tuple(2.0**i for i in range(-5, 9))),
        "level": Key("level that the data lie inside", LEVELS, ("DRAM",)),
        "size": Key("working set of all threads, beside a name"),
        "as": Key("name of the points: another tool's test that these repeat, at its size"),
        "dtype": Key("element type", ("fp64", "fp32"), ("fp64",)),
    },
    build=build,
)
