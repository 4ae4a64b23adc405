"""Growth per two years: ordinary least squares of log10(value) on the date, for the published series and for three
precision families apart, and the user's device placed on the lines.

Source of the points: the vector figures of Gholami et al. (see `pykernels/data/hardware_trend_points.csv`); of the
families: `pykernels/data/hardware.csv`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from pykernels.analysis.wall import data

#: Two decades and the growth the publication states per two years.
PUBLISHED = {
    "hw_flops": "3.0x / 2 yr, 60000x / 20 yr",
    "dram_bandwidth": "1.6x / 2 yr, 100x / 20 yr",
    "interconnect_bandwidth": "1.4x / 2 yr, 30x / 20 yr",
    "transformer_training_compute": "750x / 2 yr",
    "transformer_parameters": "410x / 2 yr",
    "accelerator_memory": "2x / 2 yr",
}
CAVEATS = {
    "hw_flops": "mixes precisions: fp32 vector until 2017.1 (the first three look like LINPACK), then 16-bit matrix",
    "dram_bandwidth": "whole-board totals of GDDR and HBM together; starts in 2003",
    "interconnect_bandwidth": "signalling rate per LANE in GT/s, not GB/s per device",
    "transformer_training_compute": "BERT is plotted at 533020 PFLOP, its table says 250000",
    "transformer_parameters": "the two mixture-of-experts models do not use all parameters per token",
    "accelerator_memory": "plotted as parameters at 6 bytes each; P100 is plotted with 12 GB",
}
MIXTURES_OF_EXPERTS = ("GShard", "Switch Transformer")
#: one vendor's data-centre line, the same product tier over four generations
FLAGSHIPS = ("v100-sxm2", "a100-sxm4-40gb", "h100-sxm5-80gb", "b200-sxm-1000w")
MATRIX_SINCE = 2017.3  # points from this date on are 16-bit matrix peaks


class Point(msgspec.Struct, frozen=True):
    """One dated value in the unit of its series."""

    year: float
    value: float
    label: str = ""


class Growth(msgspec.Struct, frozen=True):
    """Growth factor per two years: estimate, +-2 standard errors of the slope (as the literature prints it), and the
    95% t interval, which is the wider one on few points. `intercept` and `slope` are log10(value) = intercept + slope
    year."""

    series: str
    n: int
    per_2_years: float
    two_se: tuple[float, float]
    t95: tuple[float, float]
    per_20_years: float
    r2: float
    slope: float
    intercept: float
    first: float
    last: float
    published: str = ""
    caveat: str = ""

    def at(self, year: float) -> float:
        """Value of the fitted line."""
        return float(10 ** (self.intercept + self.slope * year))

    def year_of(self, value: float) -> float:
        """Date at which the fitted line reaches a value."""
        return (math.log10(value) - self.intercept) / self.slope


def fit(series: str, points: Sequence[Point], *, published: str = "", caveat: str = "") -> Growth:
    """Least squares of log10(value) on the year; needs three points of at least two dates (ValueError otherwise)."""
    from scipy.stats import t as student

    n = len(points)
    if n < 3 or len({point.year for point in points}) < 2:
        raise ValueError(f"{series}: {n} points do not make a trend")
    x, y = [p.year for p in points], [math.log10(p.value) for p in points]
    mean_x, mean_y = sum(x) / n, sum(y) / n
    sxx = sum((a - mean_x) ** 2 for a in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sxx
    rss = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    error = math.sqrt(rss / (n - 2) / sxx)
    total = sum((b - mean_y) ** 2 for b in y)

    def per_2_years(standard_errors: float) -> float:
        return float(10 ** (2 * (slope + standard_errors * error)))

    wide = float(student.ppf(0.975, n - 2))
    return Growth(
        series=series,
        n=n,
        per_2_years=per_2_years(0),
        two_se=(per_2_years(-2), per_2_years(2)),
        t95=(per_2_years(-wide), per_2_years(wide)),
        per_20_years=float(10 ** (20 * slope)),
        r2=1 - rss / total if total else 1.0,
        slope=slope,
        intercept=mean_y - slope * mean_x,
        first=min(x),
        last=max(x),
        published=published,
        caveat=caveat,
    )


def points(series: str) -> list[Point]:
    """Points of a published series, in the unit of its figure or, for hardware, in GFLOP/s, GB/s, GT/s and GB."""
    found = [row for row in data.rows("hardware_trend_points") if row["series"] == series]
    return [Point(float(row["year_decimal"]), float(row["value_implied"]), row["label"]) for row in found]


def _normalised(series: str) -> list[Point]:
    found = [row for row in data.rows("hardware_trend_points") if row["series"] == series]
    return [Point(float(row["year_decimal"]), float(row["value_normalised"]), row["label"]) for row in found]


def published_fits() -> list[Growth]:
    """The six published series, from the points as drawn (the implied units only scale them)."""
    return [_scaled(series) for series in PUBLISHED]


def _scaled(series: str) -> Growth:
    """Fit of the values as drawn, with its line moved to the implied unit."""
    growth = fit(series, _normalised(series), published=PUBLISHED[series], caveat=CAVEATS[series])
    units = zip(points(series), _normalised(series), strict=True)
    shift = sum(math.log10(a.value / b.value) for a, b in units) / growth.n
    return msgspec.structs.replace(growth, intercept=growth.intercept + shift)


def sensitivity() -> list[Growth]:
    """The same fits with the choices changed that matter: how far each published figure hangs on them."""
    flops, compute, size = (
        _normalised(name) for name in ("hw_flops", "transformer_training_compute", "transformer_parameters")
    )
    table_bert = [Point(p.year, 250000.0 if p.label == "BERT Large" else p.value, p.label) for p in compute]
    return [
        fit("hw_flops: fp32 vector, before 2017.1", [p for p in flops if p.year < 2017.1]),
        fit("hw_flops: fp32 vector, 2004 to 2017", [p for p in flops if 2004 < p.year < 2017.1]),
        fit("hw_flops: 16-bit matrix points only", [p for p in flops if p.year > MATRIX_SINCE]),
        fit("training compute without GPT-3", [p for p in compute if p.label != "GPT-3"]),
        fit("training compute with BERT as its table has it", table_bert),
        fit("parameters without mixtures of experts", [p for p in size if p.label not in MIXTURES_OF_EXPERTS]),
    ]


def family_fits() -> list[Growth]:
    """Dense peaks of three precision families kept apart, memory and power, over one vendor's four generations
    (V100, A100, H100, B200; whole years), and 16-bit and fp32 over every accelerator with a datasheet peak."""
    flagships = [data.devices()[slug] for slug in FLAGSHIPS]
    found = [_over(f"{family}, V100 to B200", flagships, _peak(family)) for family in data.FAMILIES]
    found.append(_over("memory bandwidth, V100 to B200", flagships, lambda d: d.memory_gbs))
    found.append(_over("memory capacity, V100 to B200", flagships, lambda d: d.memory_gb))
    found.append(_over("board power, V100 to B200", flagships, lambda d: d.power_w))
    chips = [d for d in data.devices().values() if d.kind in ("gpu", "accelerator") and not d.derived]
    found += [_over(f"{family}, all accelerators", chips, _peak(family)) for family in data.FAMILIES]
    return found


def _peak(family: str) -> Callable[[data.Device], float | None]:
    return lambda device: device.peak(family)


def _over(series: str, devices: Iterable[data.Device], value: Callable[[data.Device], float | None]) -> Growth:
    dated = [(device, value(device)) for device in devices]
    return fit(series, [Point(float(device.year), amount, device.name) for device, amount in dated if amount])


class Ridge(msgspec.Struct, frozen=True):
    """FLOP per byte at which a device's peak and its memory take equally long; `basis`: `published`, `derived` (CPU
    peaks), `fit` for the two fitted lines, `measured` for the user's device (then with an interval)."""

    name: str
    year: float
    family: str
    flop_per_byte: float
    basis: str
    low: float | None = None
    high: float | None = None


def fitted_ridges(years: Sequence[int] = (1998, 2003, 2008, 2013, 2017, 2022)) -> list[Ridge]:
    """Ratio of the FLOP/s line and the DRAM line: mixed precision, so its growth is the published gap, 1.9x / 2 yr."""
    flops, memory = _scaled("hw_flops"), _scaled("dram_bandwidth")
    return [
        Ridge(
            "fitted lines" + (" (DRAM line extrapolated)" if year < memory.first else ""),
            year, "mixed", flops.at(year) / memory.at(year), "fit",
        )
        for year in years
    ]  # fmt: skip


def datasheet_ridges() -> list[Ridge]:
    """Ridge of every device of hardware.csv and precision family, oldest first."""
    found = []
    for device in data.devices().values():
        for family in data.FAMILIES:
            ridge = device.ridge(family)
            if ridge:
                found.append(
                    Ridge(device.name, device.year, family, ridge, "derived" if device.derived else "published")
                )
    return sorted(found, key=lambda r: (r.family, r.year, r.name))


class Placed(msgspec.Struct, frozen=True):
    """A measured value on a published line: the line's value at the date of the measurement, the ratio, and the date at
    which the line passed the value."""

    series: str
    device: str
    what: str
    year: float
    value: float
    low: float
    high: float
    unit: str
    line: float
    ratio: float
    line_year: float


def place(growth: Growth, device: str, what: str, year: float, value: tuple[float, float, float], unit: str) -> Placed:
    """Put a measured (value, low, high), in the unit of `growth`'s line, on that line."""
    line = growth.at(year)
    return Placed(growth.series, device, what, year, *value, unit, line, value[0] / line, growth.year_of(value[0]))
