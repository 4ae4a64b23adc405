"""Gate, medians and intervals. The unit of error is the launch: a t interval over the logarithms of launch medians, and
around their median.

Why not the samples: they are autocorrelated and share their process's layout, so an interval from them covers 20 to 40%
of the time where launches differ; t over launch medians covers 95%.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RESAMPLES = 400


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A value with its interval: `best` is the best launch of `launches`, `scope` what it speaks for, `method` how.

    Scopes: `within-process` (one launch), `sitting`, `machine` (three sittings or more, hours apart)."""

    value: float
    low: float
    high: float
    launches: int
    best: float
    scope: str
    method: str
    confidence: float = 0.95

    @property
    def relative(self) -> float:
        """Half width on the log scale: 0.02 is about +-2%. Infinite where the interval is unbounded."""
        return math.log(self.high / self.low) / 2 if self.low > 0 and math.isfinite(self.high) else math.inf


def median(values: NDArray[np.float64]) -> float:
    """Median of a short array: numpy's own costs four times as much."""
    ordered = values.copy()
    ordered.sort()
    half = ordered.size // 2
    return float(ordered[half] if ordered.size % 2 else (ordered[half - 1] + ordered[half]) / 2)


# ----------------------------------------------------------------------------------------------------------- intervals


@lru_cache(maxsize=4096)
def t_quantile(degrees: float, probability: float = 0.975) -> float:
    """Student's t quantile; degrees of freedom need not be whole."""
    from scipy.special import ndtri, stdtrit

    return float(stdtrit(degrees, probability) if math.isfinite(degrees) else ndtri(probability))


def log_interval(logs: NDArray[np.float64], confidence: float = 0.95) -> tuple[Any, Any]:
    """Centre and half width of the t interval over the last axis (n >= 2); vectorised over the others."""
    n = logs.shape[-1]
    half = t_quantile(n - 1, 0.5 + confidence / 2) * logs.std(axis=-1, ddof=1) / math.sqrt(n)
    return logs.mean(axis=-1), half


#: standard error of the median of 2, 3, ... normal values over that of their mean, as a factor of a 95% t interval
_OF_MEDIAN = (1.0, 1.025, 1.028, 1.090, 1.072, 1.131, 1.105, 1.156, 1.130, 1.174, 1.146)


def median_factor(n: int) -> float:
    """By how much the t interval of n values (two or more) must be widened to hold around their median: sqrt(pi/2) for
    many; odd numbers rest on one value, even ones on two."""
    if n < 2 + len(_OF_MEDIAN):
        return _OF_MEDIAN[n - 2]
    return math.sqrt(math.pi / 2) * (1 - (0.7 if n % 2 else 1.15) / n)


def median_interval(logs: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Median and half width of its interval (n >= 2). One bad launch among five moves a mean by a fifth of what it is
    off, and the median hardly; the interval is as wide as the launches' spread makes it, the bad one's included."""
    _, half = log_interval(logs, confidence)
    return median(logs), float(half) * median_factor(logs.size)


def launch_interval(
    launch_values: Sequence[float] | NDArray[np.float64],
    *,
    higher: bool = True,
    scope: str = "sitting",
    confidence: float = 0.95,
) -> Interval:
    """The interval over launch values (one per launch, positive), computed on their logarithms.

    `value` is their median, and the interval is that of t, widened to what a median needs. One launch alone has no
    interval: its bounds are 0 and infinity (`within_process` gives one that is labelled as such). Raises ValueError for
    none, or for a value that is not positive and finite."""
    values = np.asarray(launch_values, dtype=np.float64)
    if not values.size or not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError("launch values must be positive and finite, and at least one")
    best = float(values.max() if higher else values.min())
    if values.size == 1:
        return _interval(best, 0.0, math.inf, 1, best, "within-process", "none", confidence)
    centre, half = median_interval(np.log(values), confidence)
    value, low, high = math.exp(centre), math.exp(centre - half), math.exp(centre + half)
    if half == 0:  # identical launches: no rounding between the three
        value = low = high = best
    return _interval(value, low, high, values.size, best, scope, "t over launches", confidence)


def _interval(
    value: float, low: float, high: float, launches: int, best: float, scope: str, method: str, confidence: float
) -> Interval:
    return Interval(
        value=value, low=low, high=high, launches=launches, best=best, scope=scope, method=method, confidence=confidence
    )


def within_process(visits: Sequence[NDArray[np.float64]], *, confidence: float = 0.95) -> Interval:
    """One launch's value with a block bootstrap over its visits, or, for fewer than five, over blocks of samples.

    It knows nothing of what differs between processes, and is labelled `within-process`."""
    value = median(np.array([median(visit) for visit in visits]))
    draws = _bootstrap(visits)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return _interval(value, min(float(low), value), max(float(high), value), 1, value, "within-process",
                     "block bootstrap", confidence)  # fmt: skip


def _bootstrap(visits: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Resampled medians of one launch: whole visits where there are five or more, else blocks within each visit."""
    rng = np.random.default_rng(0)  # the same records give the same interval
    if len(visits) >= 5:
        medians = np.array([median(visit) for visit in visits])
        drawn: NDArray[np.float64] = np.median(
            medians[rng.integers(0, medians.size, (_RESAMPLES, medians.size))], axis=1
        )
        return drawn
    per_visit = [_block_medians(visit, rng) for visit in visits]
    together: NDArray[np.float64] = np.median(np.stack(per_visit), axis=0)
    return together


def _block_medians(samples: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Medians of circular block resamples; blocks of n^(1/2) samples outlast the correlation seen in caches."""
    n = samples.size
    block = max(1, math.isqrt(n))
    starts = rng.integers(0, n, (_RESAMPLES, -(-n // block)))
    index = (starts[:, :, None] + np.arange(block)).reshape(_RESAMPLES, -1)[:, :n] % n
    medians: NDArray[np.float64] = np.median(samples[index], axis=1)
    return medians


def merge_sittings(groups: Sequence[Sequence[float]], *, higher: bool = True, confidence: float = 0.95) -> Interval:
    """The interval over the medians of sittings (logarithms of launch values), scope `machine`; needs three sittings.

    Launches of one sitting share what the machine was like that hour, so they count once."""
    if len(groups) < 3:
        raise ValueError(f"scope `machine` needs at least 3 sittings, not {len(groups)}")
    centre, half = median_interval(np.array([median(np.log(np.asarray(group))) for group in groups]), confidence)
    everything = [value for group in groups for value in group]
    best = max(everything) if higher else min(everything)
    return _interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half), len(everything), best,
                     "machine", "t over sittings", confidence)  # fmt: skip


# ------------------------------------------------------------------------------------------------- ratios, many at once


def ratio_interval(
    above: Mapping[int, float], below: Mapping[int, float], confidence: float = 0.95
) -> tuple[float, float, float]:
    """(ratio, low, high) of two cases: median and interval of per-launch ratios where they share two launches or more,
    else Welch's on the logarithms; (ratio, 0, inf) where neither has enough launches."""
    common = sorted(above.keys() & below.keys())
    if len(common) >= 2:
        logs = np.log([above[launch] / below[launch] for launch in common])
        centre, half = median_interval(logs, confidence)
        return math.exp(centre), math.exp(centre - half), math.exp(centre + half)
    centre, error, degrees = welch(np.log(list(above.values())), np.log(list(below.values())))
    if not math.isfinite(error):
        return math.exp(centre), 0.0, math.inf
    half = t_quantile(degrees, 0.5 + confidence / 2) * error
    return math.exp(centre), math.exp(centre - half), math.exp(centre + half)


def welch(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float, float]:
    """Difference of means a - b, its standard error (inf with under two values) and Welch's degrees of freedom."""
    difference = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2:
        return difference, math.inf, 1.0
    va, vb = float(np.var(a, ddof=1)) / len(a), float(np.var(b, ddof=1)) / len(b)
    if va + vb == 0:
        return difference, 0.0, float(len(a) + len(b) - 2)
    return difference, math.sqrt(va + vb), (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))


def p_value(difference: float, error: float, degrees: float) -> float:
    """Two-sided p of a difference under Student's t; 1 where the error is unknown."""
    from scipy.special import stdtr

    if not math.isfinite(error):
        return 1.0
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(degrees, -abs(difference) / error))


def benjamini_hochberg(p_values: Sequence[float], rate: float = 0.05) -> list[bool]:
    """Which hypotheses are rejected at the false discovery rate (Benjamini and Hochberg 1995)."""
    p = np.asarray(p_values, dtype=np.float64)
    if not p.size:
        return []
    order = np.argsort(p, kind="stable")
    passed = np.nonzero(p[order] <= rate * np.arange(1, p.size + 1) / p.size)[0]
    rejected = np.zeros(p.size, dtype=bool)
    if passed.size:
        rejected[order[: passed[-1] + 1]] = True
    return [bool(flag) for flag in rejected]


def detectable(error: float, degrees: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference (log scale) that a two-sided test at alpha would find with this power."""
    if not math.isfinite(error):
        return math.inf
    return (t_quantile(degrees, 1 - alpha / 2) + t_quantile(degrees, power)) * error


# -------------------------------------------------------------------------------------------------- uncertainty budget


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an uncertainty budget: relative standard uncertainty, its degrees of freedom, and how it is known."""

    name: str
    kind: str  # "A": counted from repetitions; "B": judged from something else
    uncertainty: float
    degrees: float = math.inf
    source: str = ""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Terms and their sum: combined standard uncertainty, effective degrees of freedom, coverage factor, expanded."""

    measurand: str
    value: float
    unit: str
    terms: tuple[Term, ...]
    combined: float
    degrees: float
    coverage: float
    expanded: float

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval value x exp(+-expanded)."""
        return self.value * math.exp(-self.expanded), self.value * math.exp(self.expanded)


def budget(measurand: str, value: float, unit: str, terms: Sequence[Term], confidence: float = 0.95) -> Budget:
    """Combine terms by root sum of squares on the log scale; k from t at the Welch-Satterthwaite degrees (GUM G.4)."""
    combined = math.sqrt(sum(term.uncertainty**2 for term in terms))
    weight = sum(term.uncertainty**4 / term.degrees for term in terms)
    degrees = combined**4 / weight if weight else math.inf
    coverage = t_quantile(degrees, 0.5 + confidence / 2)
    return Budget(
        measurand=measurand, value=value, unit=unit, terms=tuple(terms), combined=combined, degrees=degrees,
        coverage=coverage, expanded=coverage * combined,
    )  # fmt: skip
