"""What a set of request latencies says: quantiles with order-statistic intervals, a log-linear histogram, and the rate
that is served within a limit on p99."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: calls of a latency measurement: enough for a two-sided interval of p99 with room to spare
CALLS = 5000
SUB_BINS = 128
#: limits on p99, and offered loads as shares of what one request in flight comes to
LIMITS_MS = (1, 10, 60)
LOADS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


def order_ranks(count: int, quantile: float, confidence: float = 0.95) -> tuple[int | None, int | None]:
    """Ranks (from 1) of the order statistics that hold a quantile with at least this confidence, whatever the
    distribution: the number of values below it is binomial. None where `count` values cannot bound that side."""
    k = np.arange(count + 1)
    log_choose = math.lgamma(count + 1) - np.array([math.lgamma(i + 1) + math.lgamma(count - i + 1) for i in k])
    below = np.cumsum(np.exp(log_choose + k * math.log(quantile) + (count - k) * math.log1p(-quantile)))
    tail = (1 - confidence) / 2
    low = int(np.searchsorted(below, tail, side="right"))  # P(B <= low - 1) <= tail
    high = int(np.searchsorted(below, 1 - tail, side="left")) + 1  # P(B <= high - 1) >= 1 - tail
    return low or None, high if high <= count else None


def summary(latency_ns: Array) -> dict[str, Any]:
    """calls, mean_us, p50_us and p99_us with their intervals (`_low`, `_high`; None: unbounded), and the histogram as
    [lowest ns of a bin, count] of the bins that are not empty. Raises ValueError for no latencies."""
    ordered = np.sort(np.asarray(latency_ns, np.int64))
    if not len(ordered):
        raise ValueError("no latencies")
    found: dict[str, Any] = {"calls": len(ordered), "mean_us": float(ordered.mean()) / 1e3}
    for name, quantile in (("p50", 0.50), ("p99", 0.99)):
        ranks = order_ranks(len(ordered), quantile)
        low, high = (None if rank is None else float(ordered[rank - 1]) / 1e3 for rank in ranks)
        at = max(0, math.ceil(quantile * len(ordered)) - 1)
        found |= {f"{name}_us": float(ordered[at]) / 1e3, f"{name}_us_low": low, f"{name}_us_high": high}
    return found | {"histogram": histogram(ordered)}


def served(open_loop: Callable[[float], Array], capacity: float, lookups: int) -> dict[str, Any]:
    """`served`: for each limit in ms the lookups a second at the highest offered load whose p99 stayed within it, and
    `open_loop`: every load tried, with its rate in requests a second. `open_loop(rate)` gives latencies in ns under
    Poisson arrivals; `capacity`: requests a second with one in flight."""
    loads = [{"rate": load * capacity, **summary(open_loop(load * capacity))} for load in LOADS]
    best = {}
    for limit in LIMITS_MS:
        within = [load["rate"] for load in loads if load["p99_us"] <= limit * 1e3]
        if within:
            best[f"{limit}ms"] = max(within) * lookups
    return {"served": best, "open_loop": loads}


def histogram(latency_ns: Array) -> list[list[int]]:
    """Log-linear bins, 128 to the octave (each at most 0.8% wide), one a nanosecond below 128 ns."""
    values = np.maximum(np.asarray(latency_ns, np.int64), 0)
    octave = np.maximum(np.frexp(values.astype(np.float64))[1] - 8, 0)
    lows, counts = np.unique(values >> octave << octave, return_counts=True)
    return [[int(low), int(count)] for low, count in zip(lows, counts, strict=True)]
