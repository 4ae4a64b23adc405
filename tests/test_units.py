from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels import units
from pykernels.errors import UsageError


@pytest.mark.parametrize(
    ("text", "nbytes"), [("32 KiB", 32768), ("1.5 MiB", 1572864), ("4 GB", 4_000_000_000), ("64B", 64)]
)
def test_sizes(text: str, nbytes: int) -> None:
    assert units.parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "12", "KiB", "-3 MiB", "3 parsecs", "1e3 KiB"])
def test_bad_sizes_say_what_is_right(text: str) -> None:
    with pytest.raises(UsageError, match="512 KiB"):
        units.parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("10 min", 600), ("90 s", 90), ("250ms", 0.25), ("1.5 h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


def test_bad_duration_says_what_is_right() -> None:
    with pytest.raises(UsageError, match="10 min"):
        units.parse_duration("soon")


def test_rates_and_times() -> None:
    assert units.value_of("GB/s", 2e9, 0.5) == pytest.approx(4.0)
    assert units.value_of("ns", 1000, 1e-4) == pytest.approx(100.0)
    assert units.value_of("us", 1, 5e-6) == pytest.approx(5.0)
    assert units.higher_is_better("GFLOP/s")
    assert not units.higher_is_better("ns")


@given(st.floats(1e-3, 1e9), st.floats(0, 1e3))
def test_formatted_values_stay_within_a_percent(value: float, half_width: float) -> None:
    shown = float(units.format_value(value, min(half_width, value / 100)))
    assert shown == pytest.approx(value, rel=0.01)


def test_formatted_sizes() -> None:
    assert units.format_size(32 * 1024) == "32 KiB"
    assert units.format_size(1.5 * 2**30) == "1.5 GiB"
    assert units.format_duration(0.25) == "250 ms"
    assert units.format_duration(200) == "3 min 20 s"
