"""What is looked up: a frozen description of one embedding-bag workload, its bytes, and the share of skewed lookups
that a small memory catches."""

from __future__ import annotations

import math

import msgspec

from pykernels.units import DTYPE_BYTES

#: Bytes of scale and bias kept in a quantised row.
QUANTISED_EXTRA = 8.0


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """`tables` tables of `rows` rows of `dim` elements; `bags` bags a table, `pooling` lookups a bag (its mean).

    `zipf` is the exponent of the index distribution (0: uniform); `scale` the factor by which rows were cut to fit the
    memory (1: not cut); `output_bytes` the size of one output element."""

    tables: int
    rows: int
    dim: int
    bags: int
    pooling: float
    dtype: str = "fp32"
    index_bytes: int = 4
    zipf: float = 0.0
    scale: float = 1.0
    weighted: bool = False
    output_bytes: int = 4
    name: str = ""

    @property
    def row_bytes(self) -> float:
        """Stored bytes of a row, scale and bias of quantised rows included."""
        extra = QUANTISED_EXTRA if self.dtype in ("int8", "uint8", "int4") else 0.0
        return self.dim * DTYPE_BYTES[self.dtype] + extra

    @property
    def table_bytes(self) -> float:
        """Bytes of all tables."""
        return self.tables * self.rows * self.row_bytes

    @property
    def lookups(self) -> float:
        """Rows gathered by one call."""
        return self.tables * self.bags * self.pooling

    @property
    def gathered(self) -> float:
        """Bytes of the rows one call gathers."""
        return self.lookups * self.row_bytes

    @property
    def input_bytes(self) -> float:
        """Bytes of indices, offsets and weights of one call."""
        return (
            self.lookups * (self.index_bytes + (4 if self.weighted else 0)) + self.tables * self.bags * self.index_bytes
        )

    @property
    def result_bytes(self) -> float:
        """Bytes of the pooled output of one call."""
        return float(self.tables * self.bags * self.dim * self.output_bytes)

    @property
    def amplification(self) -> float:
        """Gathered bytes over the bytes that cross a link when the table lies beyond it."""
        return self.gathered / (self.input_bytes + self.result_bytes)

    def hit_share(self, capacity: float) -> float:
        """Share of lookups that hit an ideal cache of `capacity` bytes shared by all tables: its hottest rows."""
        if capacity >= self.table_bytes:
            return 1.0
        return zipf_share(capacity / (self.tables * self.row_bytes), self.rows, self.zipf)

    def describe(self, without: str = "") -> str:
        """The workload in words, leaving out what the axis `without` varies."""
        words = [f"{self.tables} x {_count(self.rows)} rows x {self.dim} {self.dtype}"]
        if without == "table":
            words = [f"{self.tables} tables x {self.dim} {self.dtype}"]
        elif without == "row_bytes":
            words = [f"{self.tables} tables of {self.dtype}"]
        words += [f"pooling {self.pooling:g}"] if without != "pooling" else []
        words += [f"batch {self.bags}"] if without != "batch" else []
        words += [f"zipf {self.zipf:g}" if self.zipf else "uniform"] if without != "skew" else []
        words += [f"rows scaled by {self.scale:.3g}"] if self.scale != 1.0 else []
        text = ", ".join(words)
        return f"{self.name} ({text})" if self.name else text


def _count(n: int) -> str:
    for factor, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if n >= factor:
            return f"{n / factor:.3g}{unit}"
    return str(n)


def harmonic(k: float, alpha: float) -> float:
    """Sum of i**-alpha for i = 1..k, k real: first terms exactly, the rest as the midpoint integral (error < 1e-4)."""
    head = min(int(k), 100)
    total = math.fsum(i**-alpha for i in range(1, head + 1))
    low, high = head + 0.5, k + 0.5
    if high <= low:
        return total
    if abs(alpha - 1.0) < 1e-9:
        return total + math.log(high / low)
    return total + float(high ** (1 - alpha) - low ** (1 - alpha)) / (1 - alpha)


def zipf_share(hot: float, rows: float, alpha: float) -> float:
    """Share of lookups that go to the `hot` most popular of `rows` rows under a Zipf law bounded to those rows."""
    if hot <= 0:
        return 0.0
    if hot >= rows:
        return 1.0
    return hot / rows if alpha == 0 else harmonic(hot, alpha) / harmonic(rows, alpha)
