"""Growth fits reproduce the published figures, keep precisions apart, and place a device on their lines."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.analysis.wall import data, trends
from pykernels.analysis.wall.trends import Point

FITS = {fit.series: fit for fit in trends.published_fits()}

PUBLISHED = {  # series: n, per two years, low and high at +-2 standard errors, R2
    "hw_flops": (37, 3.026, 2.69, 3.41, 0.909),
    "dram_bandwidth": (12, 1.592, 1.46, 1.73, 0.922),
    "interconnect_bandwidth": (10, 1.415, 1.35, 1.48, 0.965),
    "transformer_training_compute": (10, 750.1, 105, 5400, 0.850),
    "transformer_parameters": (10, 412.9, 117, 1450, 0.920),
    "accelerator_memory": (7, 1.863, 1.47, 2.36, 0.847),
}


@pytest.mark.parametrize("series", PUBLISHED)
def test_fit_reproduces_the_published_growth(series: str) -> None:
    n, growth, low, high, r2 = PUBLISHED[series]
    fit = FITS[series]
    assert fit.n == n
    assert fit.per_2_years == pytest.approx(growth, rel=5e-4)
    assert fit.two_se == pytest.approx((low, high), rel=0.006)
    assert fit.r2 == pytest.approx(r2, abs=6e-4)
    assert fit.t95[0] < fit.two_se[0]
    assert fit.t95[1] > fit.two_se[1]
    assert fit.caveat
    assert fit.published


def test_growth_over_twenty_years() -> None:
    assert FITS["hw_flops"].per_20_years == pytest.approx(6.43e4, rel=1e-3)
    assert FITS["dram_bandwidth"].per_20_years == pytest.approx(104, rel=5e-3)
    assert FITS["interconnect_bandwidth"].per_20_years == pytest.approx(32.2, rel=1e-3)


def test_sensitivity_to_the_choices() -> None:
    found = [round(fit.per_2_years, 2) for fit in trends.sensitivity()]
    assert found == pytest.approx([2.83, 2.42, 2.20, 400.75, 887.69, 213.53], abs=0.01)


def test_precision_families_stay_apart() -> None:
    fits = {fit.series: fit for fit in trends.family_fits()}
    assert {f"{family}, V100 to B200" for family in data.FAMILIES} <= fits.keys()
    assert fits["16-bit matrix, V100 to B200"].per_2_years > 1.3 * fits["fp32 vector, V100 to B200"].per_2_years
    assert fits["memory bandwidth, V100 to B200"].per_2_years == pytest.approx(1.87, abs=0.01)
    assert fits["memory capacity, V100 to B200"].per_2_years == pytest.approx(2.0, abs=0.02)
    # a vector unit's fp16 rate is no matrix peak
    assert data.devices()["p100-pcie-16gb"].peak("16-bit matrix") is None


def test_published_ridges() -> None:
    matrix = {d: data.devices()[d].ridge("16-bit matrix") for d in trends.FLAGSHIPS}
    assert [round(r or 0) for r in matrix.values()] == [139, 201, 295, 281]
    assert round(data.devices()["h200-sxm-141gb"].ridge("16-bit matrix") or 0) == 206
    vector = [round(data.devices()[d].ridge("fp32 vector") or 0) for d in trends.FLAGSHIPS]
    assert vector == [17, 13, 20, 10] or vector == [17, 12, 20, 10]


def test_cpu_peaks_are_derived_never_published() -> None:
    basis = {ridge.name: ridge.basis for ridge in trends.datasheet_ridges()}
    assert basis["EPYC 9654"] == basis["Xeon Gold 6242"] == "derived"
    assert basis["H100 SXM5 80GB"] == "published"
    assert all(device.source for device in data.devices().values())


def test_fitted_ridge_grows_and_says_where_it_is_extrapolated() -> None:
    ridges = trends.fitted_ridges()
    assert [r.flop_per_byte for r in ridges] == sorted(r.flop_per_byte for r in ridges)
    assert "extrapolated" in ridges[0].name
    assert "extrapolated" not in ridges[-1].name


def test_a_device_on_a_line() -> None:
    line = FITS["dram_bandwidth"]
    on_it = line.at(2020.0)
    placed = trends.place(line, "cpu", "load", 2020.0, (on_it, on_it, on_it), "GB/s")
    assert placed.ratio == pytest.approx(1)
    assert placed.line_year == pytest.approx(2020.0)
    # the line stands in GB/s: an A100 of 2020 is near it
    assert 300 < on_it < 2000


@given(growth=st.floats(1.05, 50), start=st.floats(1e-3, 1e6), count=st.integers(3, 30))
def test_fit_recovers_exact_growth(growth: float, start: float, count: int) -> None:
    points = [Point(2000 + i, start * growth ** (i / 2)) for i in range(count)]
    fit = trends.fit("exact", points)
    assert fit.per_2_years == pytest.approx(growth, rel=1e-6)
    assert fit.r2 == pytest.approx(1)
    assert math.isclose(fit.at(2000), start, rel_tol=1e-6)


@pytest.mark.parametrize("points", [[], [Point(2000, 1), Point(2001, 2)], [Point(2000, 1)] * 4])
def test_too_few_points_are_refused(points: list[Point]) -> None:
    with pytest.raises(ValueError, match="do not make a trend"):
        trends.fit("short", points)
