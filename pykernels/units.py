"""Sizes and rates: the only place that knows what GB/s, MiB and an FMA are.

SI for rates (GB/s = 1e9 bytes/s, GFLOP/s = 1e9 FLOP/s), binary for sizes (KiB, MiB, GiB); an FMA is 2 FLOP.
"""

from __future__ import annotations

import math
import re

from pykernels.errors import UsageError

KIB, MIB, GIB = 1024, 1024**2, 1024**3

#: unit -> (kind, factor): amount per second times the factor, or, for times, seconds per amount times the factor.
RATE_UNITS = {"GB/s": 1e-9, "GFLOP/s": 1e-9, "GOP/s": 1e-9, "Grows/s": 1e-9, "Gexp/s": 1e-9}
TIME_UNITS = {"ns": 1e9, "us": 1e6}

#: Requirement metrics -> unit of the figure they bound ("share" bounds a paired share of a roof).
METRICS = {
    "share": "",
    "GBps": "GB/s",
    "GFLOPps": "GFLOP/s",
    "GOPps": "GOP/s",
    "Growsps": "Grows/s",
    "ns": "ns",
    "us": "us",
}

DTYPE_BYTES = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "uint8": 1, "int4": 0.5, "int32": 4, "int64": 8}

_SIZE = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*(B|KiB|MiB|GiB|TiB|kB|KB|MB|GB|TB)\s*$")
_SIZE_FACTOR = {
    "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 1024**4,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip
_DURATION = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*(ms|s|min|h)\s*$")
_DURATION_FACTOR = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


def value_of(unit: str, amount: float, seconds: float) -> float:
    """The figure in `unit` of `amount` (bytes, FLOP, rows, steps) done in `seconds`.

    Rates are amount over time; ns and us are time over amount. Raises KeyError for an unknown unit.
    """
    if unit in RATE_UNITS:
        return amount / seconds * RATE_UNITS[unit]
    return seconds / amount * TIME_UNITS[unit]


def higher_is_better(unit: str) -> bool:
    """True for rates, False for times."""
    return unit in RATE_UNITS


def parse_size(text: str) -> int:
    """Bytes of an absolute size such as "64 MiB"; raises UsageError."""
    match = _SIZE.match(text)
    if not match:
        raise UsageError(f'"{text}" is not a size (write for example "512 KiB", "64 MiB" or "4 GiB")')
    return int(float(match[1]) * _SIZE_FACTOR[match[2]])


def parse_duration(text: str) -> float:
    """Seconds of a duration such as "10 min"; raises UsageError."""
    match = _DURATION.match(text)
    if not match:
        raise UsageError(f'"{text}" is not a duration (write for example "30 s", "10 min" or "2 h")')
    return float(match[1]) * _DURATION_FACTOR[match[2]]


def format_size(nbytes: float) -> str:
    """ "32 KiB", "4 MiB", "1.5 GiB": binary, at most three significant digits."""
    for factor, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if nbytes >= factor:
            return f"{nbytes / factor:.3g} {name}" if nbytes / factor < 1000 else f"{nbytes / factor:.0f} {name}"
    return f"{nbytes:.0f} B"


def format_duration(seconds: float) -> str:
    """ "850 ms", "12 s", "3 min 20 s"."""
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds / 3600:.1f} h"


def format_value(value: float, width: float = 0.0) -> str:
    """A figure with as many digits as its interval half width `width` deserves, at least three significant ones."""
    if not math.isfinite(value):
        return "unbounded" if value > 0 else "-"
    if value == 0:
        return "0"
    digits = max(3, math.floor(math.log10(abs(value))) + 1)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if width and math.isfinite(width):
        decimals = min(decimals, max(0, 1 - math.floor(math.log10(width))))
    return f"{value:.{decimals}f}"
