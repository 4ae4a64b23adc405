"""Bytes of a pruned matrix by format and density, and the density at which a format stops being smaller than dense.

Per dense element, e bytes a value and i an index, density r: CSR r (e + i) plus row pointers, COO r (e + 2 i), bitmap
r e + 1/8, 2:4 structured e/2 + 1/8 (two index bits per kept value). Break-even of CSR: r = e / (e + i).
"""

from __future__ import annotations

import msgspec

from pykernels.errors import UsageError, unknown

FORMATS = ("csr", "coo", "bitmap", "2:4")
DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 1 / 3, 0.5, 0.7, 0.9)
POINTER = 4  # bytes of a row pointer
VALUES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0}


def value_bytes(dtype: str) -> float:
    """Bytes of a stored value; UsageError for an unknown dtype."""
    if dtype not in VALUES:
        raise unknown("dtype", dtype, VALUES)
    return VALUES[dtype]


def bytes_per_element(form: str, density: float, *, value: float, index: float = 4, columns: int = 0) -> float:
    """Bytes per element of the dense matrix; `columns` adds CSR's row pointers (0: long rows, none). UsageError for a
    density outside [0, 1], an unknown format, or 2:4 at another density than 1/2."""
    if not 0 <= density <= 1:
        raise UsageError(f"density is {density:g}, it must lie between 0 and 1")
    if form == "csr":
        return density * (value + index) + (POINTER / columns if columns else 0.0)
    if form == "coo":
        return density * (value + 2 * index)
    if form == "bitmap":
        return density * value + 1 / 8
    if form == "2:4":
        if density != 0.5:
            raise UsageError(f"2:4 keeps exactly half of the elements, not {density:g}")
        return value / 2 + 1 / 8
    raise unknown("sparse format", form, FORMATS)


def break_even(form: str, *, value: float, index: float = 4, columns: int = 0) -> float:
    """Density below which the format is smaller than dense (0: never). 2:4 has one density only: 1 where it is
    smaller."""
    if form == "csr":
        return max(0.0, (value - (POINTER / columns if columns else 0.0)) / (value + index))
    if form == "coo":
        return value / (value + 2 * index)
    if form == "bitmap":
        return max(0.0, (value - 1 / 8) / value)
    if form == "2:4":
        return 1.0 if value / 2 + 1 / 8 < value else 0.0
    raise unknown("sparse format", form, FORMATS)


class Saving(msgspec.Struct, frozen=True):
    """A format at a density: bytes per dense element, and how many times less traffic than dense (below 1: more)."""

    format: str
    density: float
    bytes_per_element: float
    gain: float


def table(dtype: str = "fp16", index: float = 4, columns: int = 0) -> list[Saving]:
    """Every format at every density (2:4 at its one)."""
    value = value_bytes(dtype)
    found = []
    for form in FORMATS:
        for density in DENSITIES:
            if form == "2:4" and density != 0.5:
                continue
            each = bytes_per_element(form, density, value=value, index=index, columns=columns)
            found.append(Saving(form, density, each, value / each))
    return found
