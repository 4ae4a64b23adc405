"""What a series of visits tells: two regimes, warm-up, a step in the middle of a run, and where the variance is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from pykernels.measure.stats.intervals import median, t_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 10  #: samples to a point of the regime test: short enough to see a switch inside a visit
_MIN_GAP = math.log(1.10)  #: regimes nearer to each other than this are spread, not regimes
_PLACES = 200  #: at which a step is looked for, at most
_END = 0.05  #: share of a run at either end where none is
#: a step's least log size, and the errors it must exceed: by chance the largest of all places does in at most 5% of
#: runs of 100 to 1,500 visits
_RATE_STEP, _CLOCK_STEP = (0.0072, 3.75), (0.004, 3.3)
_MIN_SHARE = 0.2  #: a regime holds at least this share of the points


# ------------------------------------------------------------------------------------------------------------- regimes


def regimes(launches: Sequence[Sequence[NDArray[np.float64]]]) -> tuple[float, ...]:
    """The two modes (lower first) where the values fall into two clusters, else nothing.

    `launches` holds each launch's visits, each a positive array of samples. The gap between the best two clusters, over
    their spread, is held against what normal points show by chance: as many as there are launches, since launches may
    differ; as many as there are visits where one launch holds both clusters, since then launches are not the cause."""
    flat = [visit for launch in launches for visit in launch if visit.size]
    if not flat or max(float(v.max()) for v in flat) < math.exp(_MIN_GAP) * min(float(v.min()) for v in flat):
        return ()
    by_launch = [np.log(_points(launch)) for launch in launches if launch]
    points = np.sort(np.concatenate(by_launch))
    if points.size < 5:
        return ()
    ratio, cut = _best_split(points[None, :])
    low, high = points[: cut[0]], points[cut[0] :]
    if high.mean() - low.mean() < _MIN_GAP or min(low.size, high.size) < max(2, _MIN_SHARE * points.size):
        return ()
    inside = any(_holds_both(launch, float(high[0])) for launch in by_launch)
    independent = max(5, len(flat)) if inside else len(by_launch)
    if independent < 3 or ratio[0] <= _chance_ratio(min(independent, 40)):
        return ()
    return float(np.exp(np.median(low))), float(np.exp(np.median(high)))


def _holds_both(points: NDArray[np.float64], edge: float) -> bool:
    """True where a launch has at least a fifth of its points on either side of the gap."""
    above = np.count_nonzero(points >= edge) / points.size
    return bool(_MIN_SHARE <= above <= 1 - _MIN_SHARE)


def _points(visits: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Medians of short runs of consecutive samples."""
    found = []
    for visit in visits:
        whole = visit.size // _BLOCK * _BLOCK
        if whole:
            ordered = np.sort(
                visit[:whole].reshape(-1, _BLOCK), axis=1
            )  # a median by hand: numpy's costs five times more
            found.append((ordered[:, _BLOCK // 2 - 1] + ordered[:, _BLOCK // 2]) / 2)
        elif visit.size:
            found.append(np.median(visit, keepdims=True))
    return np.concatenate(found) if found else np.empty(0)


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
    """What 97% of splits of n normal points stay under."""
    rng = np.random.default_rng(n)
    ratio, _ = _best_split(np.sort(rng.standard_normal((4000, n)), axis=1))
    return float(np.quantile(ratio, 0.97))


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
    half = n // 6
    drifting = half and _same_sign(logs[:, -half:].mean(axis=1) - logs[:, -2 * half : -half].mean(axis=1), alpha)
    return n if drifting and steady >= stretches[-1][1] else steady


def _same_sign(contrast: NDArray[np.float64], alpha: float) -> bool:
    """A t test of the contrast over visits; and at least 0.1%, so that no instrument-fine difference is reported."""
    error = float(contrast.std(ddof=1)) / math.sqrt(contrast.size)
    mean = abs(float(contrast.mean()))
    return mean > 1e-3 and mean > t_quantile(contrast.size - 1, 1 - alpha / 2) * error


def _cycles(logs: NDArray[np.float64], alpha: float) -> bool:
    """True where one period stands out of the mean spectrum, after trends and first-order correlation are taken out."""
    from scipy.special import gammaincc

    visits, n = logs.shape
    time = np.linspace(-1, 1, n)
    trend = np.polynomial.polynomial.polyvander(time, 3)
    flat = logs - (trend @ np.linalg.lstsq(trend, logs.T, rcond=None)[0]).T
    power = float((flat**2).sum())
    if power <= 0:
        return False
    rho = min(max(float((flat[:, 1:] * flat[:, :-1]).sum()) / power + 2 / n, 0.0), 0.95)
    spectrum = np.abs(np.fft.rfft(flat, axis=1)) ** 2
    spectrum *= 1 + rho**2 - 2 * rho * np.cos(2 * math.pi * np.arange(spectrum.shape[1]) / n)
    spectrum = spectrum[:, 3 : (n + 1) // 2]  # up to two turns in a visit cannot be told from a trend
    mean = (spectrum / spectrum.sum(axis=1, keepdims=True)).mean(axis=0)
    near = [np.concatenate([mean[max(0, k - 6) : max(0, k - 1)], mean[k + 2 : k + 7]]) for k in range(mean.size)]
    background = np.array([float(np.median(part)) for part in near if part.size])
    if background.size < mean.size or not np.all(background > 0):
        return False
    # a mean of `visits` exponential ordinates over their local mean is gamma distributed
    typical = background / (1 - 1 / (9 * visits)) ** 3
    peak = float((mean / typical).max())
    return peak > 3 and bool(gammaincc(visits, visits * peak / 1.25) < alpha / mean.size)


# -------------------------------------------------------------------------------------------------------- change point


class Step(msgspec.Struct, frozen=True):
    """A step in a run: `index` of the first visit after it (in time order), its log size, and that over its error."""

    index: int
    size: float
    z: float


def change_point(
    case: NDArray[np.intp], logs: NDArray[np.float64], launch: NDArray[np.intp], *, of_clock: bool = False
) -> Step | None:
    """The one step that all cases of a run share, or None; steps of rates under 0.7% are not told from launches that
    differ, and processes do not differ in the core clock (`of_clock`) as they do in rates.

    `case` and `launch` number the case and the launch of each visit, `logs` is the log of its median, all in time
    order. Residuals of each case, over its spread, are pooled. At every place but the ends, the difference of the means
    on both sides is held against its error: slow machine-wide noise (its long-run variance inside the launches), and
    what launches differ by beyond that, once the step is taken out."""
    n = logs.size
    if n < 20:
        return None
    residual, per_log = _residuals(case, logs)
    _, launch, counts = np.unique(launch, return_inverse=True, return_counts=True)
    means = np.bincount(launch, residual) / counts
    noise = _long_run_variance(residual - means[launch], counts.size)
    places = np.unique(np.linspace(_END * n, (1 - _END) * n, _PLACES).astype(np.intp))
    sums = np.cumsum(residual)[places - 1]
    step = (residual.sum() - sums) / (n - places) - sums / places
    between, weight = _between_launches(launch, counts, means, places, noise)
    error = np.sqrt(noise * n / (places * (n - places)) + between * weight)
    if not error.all():
        return None
    z = np.abs(step) / error
    best = int(z.argmax())
    least, clear = _CLOCK_STEP if of_clock else _RATE_STEP
    if z[best] < clear:
        return None
    index = int(places[best])
    size = _corrected(case, logs, index, float(step[best]) / per_log)
    return Step(index, size, float(z[best])) if abs(size) >= least else None


def _corrected(case: NDArray[np.intp], logs: NDArray[np.float64], index: int, size: float) -> float:
    """The step's size with spreads that are free of it: they gave less weight to the cases that show it most."""
    without = logs.copy()
    without[index:] -= size
    residual, per_log = _residuals(case, without)
    return size + float(residual[index:].mean() - residual[:index].mean()) / per_log


def _between_launches(
    launch: NDArray[np.intp],
    counts: NDArray[np.intp],
    means: NDArray[np.float64],
    places: NDArray[np.intp],
    noise: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For a step at each place: the variance of launches beyond that of their noise, and its weight in the step's.

    The variance is what a step leaves of the launches' means; two launches or fewer show none. The noise counts as one
    more launch that showed none."""
    n, launches = launch.size, counts.size
    place = np.searchsorted(places, np.arange(n), side="right")
    seen = np.bincount(launch * (places.size + 1) + place, minlength=launches * (places.size + 1))
    before = np.cumsum(seen.reshape(launches, -1), axis=1)[:, :-1]
    after = counts[:, None] - before
    weight = ((after / (n - places) - before / places) ** 2).sum(axis=0)
    free = launches - 2
    if free < 1:
        return np.zeros(places.size), weight
    share = after / counts[:, None]
    share = share - share.mean(axis=0)
    offset = means - means.mean()
    left = (offset @ offset - (offset @ share) ** 2 / (share**2).sum(axis=0)) / free
    expected = noise * launches / n
    return np.maximum((free * left + expected) / (free + 1) - expected, 0.0), weight


def _long_run_variance(series: NDArray[np.float64], launches: int) -> float:
    """Variance of a sum of the series over its length (Bartlett weights). The last factors give back what the launches'
    means, taken off, and the short window take away; they were set so that a step is seen in at most 5% of runs of 100
    to 1,500 visits whose noise has a memory of ten."""
    n, length = series.size, series.size / launches
    lags = int(min(length / 4, 1.5 * math.sqrt(length)))
    covariance = np.array([float(series[lag:] @ series[: n - lag]) / n for lag in range(lags + 1)])
    weights = 1 - np.arange(1, lags + 1) / (lags + 1)
    total = max(float(covariance[0] + 2 * weights @ covariance[1:]), float(covariance[0]))
    return total * n / max(n - launches, 1) * (1 + 2 * lags / length)


def _residuals(case: NDArray[np.intp], logs: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Log values less their case's centre, over its spread, clipped so that no single visit draws the sum; and what a
    step of 1 in all logs would be among them.

    The centre is the mean of the clipped values: the median of five visits would hide one of them. The spread of a
    case, known from a few visits, is drawn towards that of all as if eight more visits had shown it."""
    out = np.zeros_like(logs)
    order = np.argsort(case, kind="stable")
    starts = np.nonzero(np.diff(case[order], prepend=-1))[0]
    groups = np.split(order, starts[1:])
    variances = []
    for group in groups:
        out[group] = logs[group] - np.median(logs[group])
        mad = 1.4826 * float(np.median(np.abs(out[group])))
        variances.append(mad**2 * group.size / max(group.size - 1, 1))
    typical = float(np.median(variances)) or 1e-18
    scale = 0.0
    for group, variance in zip(groups, variances, strict=True):
        spread = math.sqrt((group.size * variance + 8 * typical) / (group.size + 8))
        clipped = np.clip(out[group] / spread, -4, 4)
        out[group] = clipped - clipped.mean()
        scale += group.size / spread
    return out, scale / logs.size


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
    medians = [np.array([median(visit) for visit in launch]) for launch in logs]
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
