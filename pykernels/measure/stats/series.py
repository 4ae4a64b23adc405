"""What a series of visits tells: two regimes, warm-up, a step in the middle of a run, and where the variance is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from pykernels.measure.stats.intervals import t_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 10  #: samples to a point of the regime test: short enough to see a switch inside a visit
_MIN_GAP = math.log(1.10)  #: regimes nearer to each other than this are spread, not regimes
_BINS = 2000  #: points of the change-point monitor at most
_MIN_SHARE = 0.2  #: a regime holds at least this share of the points


# ------------------------------------------------------------------------------------------------------------- regimes


def regimes(launches: Sequence[Sequence[NDArray[np.float64]]]) -> tuple[float, ...]:
    """The two modes (lower first) where the values fall into two clusters, else nothing.

    `launches` holds each launch's visits, each a positive array of samples. The gap between the best two clusters, over
    their spread, is held against what as many normal points as there are launches show by chance (the launches are the
    independent ones), so that launch-to-launch spread alone is called two regimes in under 5% of cases."""
    flat = [visit for launch in launches for visit in launch if visit.size]
    if not flat or max(float(v.max()) for v in flat) < math.exp(_MIN_GAP) * min(float(v.min()) for v in flat):
        return ()
    points = np.log(_points(flat))
    if points.size < 5 or points[-1] - points[0] < _MIN_GAP:
        return ()
    ratio, cut = _best_split(points[None, :])
    low, high = points[: cut[0]], points[cut[0] :]
    gap = float(high.mean() - low.mean())
    if gap < _MIN_GAP or min(low.size, high.size) < max(2, _MIN_SHARE * points.size):
        return ()
    if ratio[0] <= _chance_ratio(min(max(len(launches), 5), 40)):
        return ()
    return float(np.exp(np.median(low))), float(np.exp(np.median(high)))


def _points(visits: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Medians of short runs of consecutive samples, sorted."""
    found = []
    for visit in visits:
        whole = visit.size // _BLOCK * _BLOCK
        if whole:
            found.append(np.median(visit[:whole].reshape(-1, _BLOCK), axis=1))
        else:
            found.append(np.median(visit, keepdims=True))
    return np.sort(np.concatenate(found))


def _best_split(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """For each row of sorted points: (gap of means) / (pooled deviation) at the tightest cut, and that cut."""
    n = points.shape[1]
    points = points - points.mean(axis=1, keepdims=True)
    counts = np.arange(1, n)
    sums, squares = np.cumsum(points, axis=1), np.cumsum(points**2, axis=1)
    left, right = sums[:, :-1] / counts, (sums[:, -1:] - sums[:, :-1]) / (n - counts)
    inside = squares[:, -1:] - counts * left**2 - (n - counts) * right**2
    spread = np.sqrt(np.maximum(inside, 1e-12) / max(n - 2, 1))
    ratio = (right - left) / spread
    best = inside.argmin(axis=1)
    return ratio[np.arange(len(ratio)), best], best + 1


@lru_cache(maxsize=64)
def _chance_ratio(n: int) -> float:
    """What 97.5% of splits of n normal points stay under."""
    rng = np.random.default_rng(n)
    ratio, _ = _best_split(np.sort(rng.standard_normal((4000, n)), axis=1))
    return float(np.quantile(ratio, 0.975))


# ------------------------------------------------------------------------------------------------------------- warm-up


class WarmUp(msgspec.Struct, frozen=True):
    """`flat`, `falling` or `rising` (of the values, up to sample `steady_from`), `cyclic`, or `no steady state`."""

    kind: str
    steady_from: int = 0
    change: float = 0.0  # log of the first value over the steady one


def warm_up(visits: Sequence[NDArray[np.float64]], alpha: float = 0.01) -> WarmUp:
    """Classify how values move within visits. Needs three visits of twelve samples, else it answers `flat`.

    Visits are the replicates, so correlated samples do no harm: a contrast that has the same sign in all of them is
    warm-up, and a period that stands out of the mean spectrum is a cycle."""
    n = min((visit.size for visit in visits), default=0)
    if len(visits) < 3 or n < 12:
        return WarmUp("flat")
    logs = np.log(np.stack([visit[:n] for visit in visits]))
    logs -= np.median(logs, axis=1, keepdims=True)
    if _cycles(logs, alpha):
        return WarmUp("cyclic")
    steady = _steady_from(logs, alpha)
    if steady == 0:
        return WarmUp("flat")
    change = float(logs[:, : max(1, steady // 3)].mean() - logs[:, steady:].mean()) if steady < n else 0.0
    if steady > n * 3 // 4:
        return WarmUp("no steady state", n, change)
    return WarmUp("falling" if change > 0 else "rising", steady, change)


def _steady_from(logs: NDArray[np.float64], alpha: float) -> int:
    """First sample after which no contrast (a stretch against the last quarter) is the same in all visits."""
    n = logs.shape[1]
    tail = logs[:, -(n // 4) :].mean(axis=1)
    edges = np.unique(np.concatenate([[0], np.geomspace(max(1, n // 16), n - n // 4, 6).astype(int)]))
    stretches = [(int(a), int(b)) for a, b in pairwise(edges)]
    level = alpha / len(stretches)
    moved = [_same_sign(logs[:, a:b].mean(axis=1) - tail, level) for a, b in stretches]
    if not moved[0] and not any(moved):
        return 0
    steady = max(b for (_, b), flag in zip(stretches, moved, strict=True) if flag)
    half = n // 8
    drifting = half and _same_sign(logs[:, -half:].mean(axis=1) - logs[:, -2 * half : -half].mean(axis=1), alpha)
    return n if drifting and steady >= stretches[-1][1] else steady


def _same_sign(contrast: NDArray[np.float64], alpha: float) -> bool:
    """A t test of the contrast over visits; and at least 0.1%, so that no instrument-fine difference is reported."""
    error = float(contrast.std(ddof=1)) / math.sqrt(contrast.size)
    mean = abs(float(contrast.mean()))
    return mean > 1e-3 and mean > t_quantile(contrast.size - 1, 1 - alpha / 2) * error


def _cycles(logs: NDArray[np.float64], alpha: float) -> bool:
    """True where one period stands out of the mean spectrum after removing each visit's first-order correlation."""
    from scipy.special import gammaincc

    centred = logs - logs.mean(axis=1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(centred, axis=1)[:, 1:]) ** 2
    if logs.shape[1] % 2 == 0:
        spectrum = spectrum[:, :-1]
    spectrum = spectrum[:, 2:]  # one or two turns in a visit cannot be told from a trend
    total = spectrum.sum(axis=1, keepdims=True)
    mean = (spectrum / np.where(total > 0, total, 1)).mean(axis=0)
    background = np.array([np.median(np.delete(mean, k)[max(0, k - 4) : k + 4]) for k in range(mean.size)])
    visits = len(logs)
    # a mean of `visits` exponential ordinates over their local mean is gamma distributed; its median is known to 1%
    typical = background / (1 - 1 / (9 * visits)) ** 3
    peak = float((mean / np.where(typical > 0, typical, 1)).max())
    return bool(gammaincc(visits, visits * peak / 1.25) < alpha / mean.size) and peak > 3


# -------------------------------------------------------------------------------------------------------- change point


class Step(msgspec.Struct, frozen=True):
    """A step in a run: `index` of the first visit after it (in time order), its log size, and its p value."""

    index: int
    size: float
    p: float


def change_point(
    case: NDArray[np.intp], logs: NDArray[np.float64], *, alpha: float = 0.01, block: int = 0, permutations: int = 400
) -> Step | None:
    """The one step that all cases of a run share, or None.

    `case` numbers the case of each visit, `logs` is the log of its median, both in time order. Residuals from each
    case's median, over its spread, are pooled; the largest excursion of their cumulative sum is held against random
    orders of whole blocks, which keep slow machine-wide noise together."""
    n = logs.size
    if n < 20:
        return None
    residual = _residuals(case, logs)
    bins = np.array_split(residual, min(n, _BINS))  # a long run is looked at in bins, which cost no power
    series = residual if n <= _BINS else np.array([part.mean() for part in bins])
    excursion, index = _cusum(series[None, :])
    block = block or max(4, series.size // 40)
    rng = np.random.default_rng(0)
    blocks = np.array_split(np.arange(series.size), -(-series.size // block))
    orders = np.stack([np.concatenate([blocks[k] for k in rng.permutation(len(blocks))]) for _ in range(permutations)])
    chance, _ = _cusum(series[orders])
    p = (1 + int(np.count_nonzero(chance >= excursion[0]))) / (1 + permutations)
    if p > alpha:
        return None
    after = sum(part.size for part in bins[: int(index[0])]) if n > _BINS else int(index[0])
    return Step(after, _mean_step(case, logs, after), p)


def _residuals(case: NDArray[np.intp], logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log values less their case's median, over its robust spread, clipped so that no single visit draws the sum."""
    out = np.zeros_like(logs)
    order = np.argsort(case, kind="stable")
    starts = np.nonzero(np.diff(case[order], prepend=-1))[0]
    groups = np.split(order, starts[1:])
    spreads = []
    for group in groups:
        out[group] = logs[group] - np.median(logs[group])
        spreads.append(np.median(np.abs(out[group])))
    floor = float(np.median(spreads)) or 1e-9
    for group, spread in zip(groups, spreads, strict=True):
        out[group] /= max(spread, floor / 2)
    return np.clip(out, -6, 6)


def _cusum(residuals: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Largest excursion of each row's cumulative sum, weighted so that late steps count, and where it is."""
    n = residuals.shape[1]
    sums = np.cumsum(residuals - residuals.mean(axis=1, keepdims=True), axis=1)[:, :-1]
    k = np.arange(1, n)
    weight = np.sqrt(k * (n - k) / n)
    weight = np.maximum(weight, np.sqrt(0.05 * 0.95 * n))
    scaled = np.abs(sums) / weight
    at = scaled.argmax(axis=1)
    return scaled[np.arange(len(scaled)), at], at + 1


def _mean_step(case: NDArray[np.intp], logs: NDArray[np.float64], index: int) -> float:
    """Median over cases of (median after - median before); at most a few hundred cases are looked at."""
    numbers = np.unique(case)
    steps = []
    for number in numbers[:: max(1, numbers.size // 200)]:
        mine = case == number
        before, after = logs[:index][mine[:index]], logs[index:][mine[index:]]
        if before.size and after.size:
            steps.append(float(np.median(after) - np.median(before)))
    return float(np.median(steps)) if steps else 0.0


# ------------------------------------------------------------------------------------------------------ variance split


class VarianceSplit(msgspec.Struct, frozen=True, kw_only=True):
    """Standard deviations on the log scale: between launches, between visits of a launch (what their samples explain
    taken off), between samples of a visit; and the visits per launch that give the narrowest interval for the time."""

    launch: float
    visit: float
    sample: float
    visits_per_launch: int


def variance_split(
    launches: Sequence[Sequence[NDArray[np.float64]]], launch_cost_s: float = 0.2, visit_cost_s: float = 0.1
) -> VarianceSplit:
    """Nested components by the method of moments. The suggested plan is Kalibera and Jones's (2013): visits per launch
    = sqrt(launch cost / visit cost x visit variance / launch variance), visit variance with its samples' share."""
    logs = [[np.log(visit) for visit in launch if visit.size] for launch in launches]
    logs = [launch for launch in logs if launch]
    flat = [visit for launch in logs for visit in launch]
    sample = _pooled([visit for visit in flat if visit.size > 1])
    medians = [np.array([np.median(visit) for visit in launch]) for launch in logs]
    between_visits = _pooled([group for group in medians if group.size > 1])
    from_samples = float(np.mean([_median_variance(visit, sample) for visit in flat])) if flat else 0.0
    means = np.array([group.mean() for group in medians])
    visits = float(np.mean([group.size for group in medians])) if medians else 1.0
    within = between_visits if any(group.size > 1 for group in medians) else from_samples
    between = max(float(means.var(ddof=1)) - within / visits, 0.0) if means.size > 1 else 0.0
    plan = math.sqrt(launch_cost_s / visit_cost_s * within / between) if between > 0 else 20.0
    return VarianceSplit(
        launch=math.sqrt(between),
        visit=math.sqrt(max(between_visits - from_samples, 0.0)),
        sample=math.sqrt(sample),
        visits_per_launch=int(min(max(round(plan), 1), 20)),
    )


def _pooled(groups: Sequence[NDArray[np.float64]]) -> float:
    """Pooled variance within groups of two values or more."""
    degrees = sum(group.size - 1 for group in groups)
    return float(sum(((group - group.mean()) ** 2).sum() for group in groups)) / degrees if degrees else 0.0


def _median_variance(visit: NDArray[np.float64], variance: float) -> float:
    """Variance of a visit's median from its samples': pi/2 of the mean's, more where samples are correlated."""
    n = visit.size
    if n < 3:
        return variance / max(n, 1)
    centred = visit - visit.mean()
    power = float(centred @ centred)
    rho = min(max(float(centred[1:] @ centred[:-1]) / power, 0.0), 0.95) if power else 0.0
    return math.pi / 2 * variance / n * (1 + rho) / (1 - rho)
