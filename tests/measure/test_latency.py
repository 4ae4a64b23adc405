"""Quantile intervals hold what they promise; histogram bins are narrow and lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.measure import latency


@pytest.mark.parametrize("quantile", [0.5, 0.99])
def test_the_interval_holds_the_quantile_in_95_percent(quantile: float) -> None:
    rng = np.random.default_rng(1)
    low, high = latency.order_ranks(1000, quantile)
    assert low is not None
    assert high is not None
    ordered = np.sort(rng.random((4000, 1000)), axis=1)
    held = (ordered[:, low - 1] <= quantile) & (quantile <= ordered[:, high - 1])
    assert 0.945 <= held.mean() <= 0.985


def test_too_few_calls_bound_no_p99() -> None:
    assert latency.order_ranks(367, 0.99)[1] is None
    assert latency.order_ranks(368, 0.99)[1] == 368
    assert latency.order_ranks(3, 0.5) == (None, None)


def test_a_summary_names_its_figures() -> None:
    found = latency.summary(np.arange(1, 5001) * 1000)
    assert (found["calls"], found["p50_us"], found["p99_us"]) == (5000, 2500.0, 4950.0)
    assert found["p99_us_low"] < 4950 < found["p99_us_high"]
    assert sum(count for _, count in found["histogram"]) == 5000
    with pytest.raises(ValueError, match="no latencies"):
        latency.summary(np.array([], np.int64))


@given(st.lists(st.integers(0, 2**50), min_size=1, max_size=60))
def test_bins_are_at_most_one_percent_wide(values: list[int]) -> None:
    bins = latency.histogram(np.array(values))
    lows = [low for low, _ in bins]
    assert sum(count for _, count in bins) == len(values)
    for value in values:
        low = max(low for low in lows if low <= value)
        assert value - low <= value / 128
