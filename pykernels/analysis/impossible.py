"""Impossible results: what must not be above what, tested together so that a sound run is rarely accused."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np

from pykernels.analysis.common import CaseSummary
from pykernels.measure.stats import p_value


class Excess(msgspec.Struct, frozen=True):
    """A test that one thing is not above another: per-launch log ratios (or one ratio and its interval's lower end)."""

    subject: str  # case id that is flagged
    text: str
    logs: tuple[float, ...]
    low: float = -math.inf  # for one launch: lower end of the log ratio


def excess(subject: str, text: str, above: CaseSummary, below: CaseSummary | float) -> Excess:
    """The test that `above` exceeds `below` (a case, or a limit in the same unit), in the direction of better."""
    if isinstance(below, CaseSummary):
        common = sorted(above.values.keys() & below.values.keys())
        logs = tuple(math.log(above.values[launch] / below.values[launch]) for launch in common)
        a, b = above.estimate.interval, below.estimate.interval
        low = math.log(a.low / b.high) if a and b and a.low > 0 and math.isfinite(b.high) else -math.inf
    else:
        logs = tuple(math.log(value / below) for value in above.values.values())
        a = above.estimate.interval
        low = math.log(a.low / below) if a and a.low > 0 else -math.inf
    return Excess(subject, text, logs, low)


def exceeding(tests: Iterable[Excess], alpha: float = 0.05) -> dict[str, list[str]]:
    """Flags by case id: tests that are passed at alpha over all of them (Bonferroni), so that a sound run has a false
    flag in at most 5% of cases."""
    tests = list(tests)
    flags: dict[str, list[str]] = {}
    for test in tests:
        logs = np.asarray(test.logs)
        if logs.size >= 2:
            mean = float(logs.mean())
            p = p_value(mean, float(logs.std(ddof=1)) / math.sqrt(logs.size), logs.size - 1) / 2
            beyond = mean > 1e-9 and p < alpha / len(tests)
        else:
            beyond = test.low > 0
        if beyond:
            by = math.expm1(float(logs.mean()) if logs.size else test.low)
            flags.setdefault(test.subject, []).append(f"{test.text} by {by:.1%}")
    return flags
