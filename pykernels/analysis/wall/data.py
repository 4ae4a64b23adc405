"""The reference data that ships with the package (`pykernels/data/*.csv`): published facts with a source in every row.

Decimal units throughout (GB = 1e9 bytes, TFLOP/s = 1e12). An empty cell means "not sourced" and reads as None. Peaks
are dense. CPU peaks are derived (cores x base clock x FLOP per cycle) and are never datasheet values: `derived` says
so.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import msgspec

#: precision family -> columns of hardware.csv, in order of preference
FAMILIES = {
    "fp64": ("fp64_tflops",),
    "fp32 vector": ("fp32_tflops",),
    "16-bit matrix": ("bf16_tflops", "fp16_tflops"),
}


class Device(msgspec.Struct, frozen=True):
    """One row of hardware.csv: dense peaks in TFLOP/s by column name, memory in GB and GB/s, links in GB/s (both
    directions added), power in watts."""

    slug: str
    name: str
    kind: str
    year: int
    peaks: dict[str, float]
    basis: str
    memory_gb: float | None
    memory_gbs: float | None
    device_link_gbs: float | None
    host_link_gbs: float | None
    power_w: float | None
    source: str

    @property
    def derived(self) -> bool:
        """True where the peak is cores x clock x FLOP per cycle: never to be shown as a datasheet value."""
        return self.basis.startswith("derived")

    def peak(self, family: str) -> float | None:
        """Dense TFLOP/s of a precision family, or None where it was not sourced or the device has no such unit."""
        if family == "16-bit matrix" and "vector units" in self.basis:
            return None
        return next((self.peaks[column] for column in FAMILIES[family] if column in self.peaks), None)

    def ridge(self, family: str) -> float | None:
        """FLOP per byte at which peak and memory bandwidth take equally long."""
        peak = self.peak(family)
        return peak * 1e3 / self.memory_gbs if peak and self.memory_gbs else None


@cache
def rows(name: str) -> tuple[dict[str, str], ...]:
    """All rows of `pykernels/data/NAME.csv` as text."""
    with files("pykernels").joinpath("data", f"{name}.csv").open(encoding="utf-8") as handle:
        return tuple(csv.DictReader(handle))


def number(text: str) -> float | None:
    """A cell as a number; None where it is empty."""
    return float(text) if text else None


@cache
def devices() -> dict[str, Device]:
    """The devices of hardware.csv by slug."""
    found = {}
    for row in rows("hardware"):
        peaks = {key: float(cell) for key, cell in row.items() if key.endswith(("_tflops", "_tops")) and cell}
        found[row["slug"]] = Device(
            slug=row["slug"],
            name=row["device"],
            kind=row["kind"],
            year=int(row["year"]),
            peaks=peaks,
            basis=row["peak_basis"],
            memory_gb=number(row["mem_gb"]),
            memory_gbs=number(row["mem_gbs"]),
            device_link_gbs=number(row["device_link_gbs_bidir"]),
            host_link_gbs=number(row["host_link_gbs_bidir"]),
            power_w=number(row["power_w"]),
            source=row["source"],
        )
    return found
