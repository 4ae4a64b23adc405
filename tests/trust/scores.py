"""How often what the statistics say is true, on simulated runs of known truth. Every function draws from its own seed
and uses the same functions that the analysis uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from regimes import KINDS, REGIMES, Kind

from pykernels.analysis.common import CaseSummary
from pykernels.analysis.impossible import exceeding, excess
from pykernels.backends.simulated import process
from pykernels.backends.simulated.noise import Law
from pykernels.measure import stats
from pykernels.measure.sampling import judge
from pykernels.model import Samples
from pykernels.units import higher_is_better, value_of

LAUNCHES = 5
SAMPLE_S = 1e-3


def seconds_of(kind: Kind) -> float:
    """True seconds of one call."""
    one = value_of(kind.unit, kind.amount, 1.0)
    return one / kind.truth if higher_is_better(kind.unit) else kind.truth / one


def estimates(
    kind: Kind, law: Law, repeats: int, seed: int, *, visits: int = 3, samples: int = 20, launches: int = LAUNCHES,
    threads: int = 1, **more: object,
) -> list[stats.Estimate]:  # fmt: skip
    """Estimates of `repeats` simulated runs of a ceiling, through the analysis's contention gate and interval."""
    rng = np.random.default_rng(seed)
    drawn = process.repeated(
        law, rng, seconds_of(kind), repeats=repeats, launches=launches, visits=visits, samples=samples, threads=threads,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip
    return [
        stats.estimate(
            [_visit(kind, drawn, (r, launch, v)) for launch in range(launches) for v in range(visits)],
            higher=higher_is_better(kind.unit),
        )
        for r in range(repeats)
    ]


def _visit(kind: Kind, drawn: process.Draw, at: tuple[int, int, int]) -> stats.Visit:
    samples = Samples(samples_s=drawn.seconds[at].tolist(), cpu_over_wall=drawn.cpu_over_wall[at].tolist())
    return stats.visit_of(judge(samples, "max_samples"), kind.unit, kind.amount, launch=at[1], round=at[2])


# ------------------------------------------------------------------------------------------------------------ coverage


@dataclass(frozen=True)
class Coverage:
    """Intervals that hold the truth, of how many; median half width, and over the oracle's; runs with a flag."""

    held: int
    repeats: int
    half: float
    over_oracle: float
    flagged: dict[str, int]

    @property
    def share(self) -> float:
        return self.held / self.repeats


def coverage(kind_name: str, regime_name: str, repeats: int, seed: int = 1) -> Coverage:
    """Coverage of the 95% interval. The oracle uses the same estimator and knows its standard deviation."""
    kind, regime = KINDS[kind_name], REGIMES[regime_name]
    law = regime.law or kind.measured
    if regime.preempted:
        sample_s = max(SAMPLE_S, seconds_of(kind))
        law = msgspec.structs.replace(law, preempt_hz=regime.preempted / sample_s)
    found = estimates(kind, law, repeats, seed, visits=regime.visits, timer=regime.timer)
    return _covered(found, kind.truth)


def _covered(found: list[stats.Estimate], truth: float) -> Coverage:
    intervals = [estimate.interval for estimate in found]
    flagged: dict[str, int] = {}
    for estimate in found:
        for flag in estimate.flags:
            flagged[flag] = flagged.get(flag, 0) + 1
    halves = np.array([interval.relative for interval in intervals if interval])
    logs = np.log([interval.value for interval in intervals if interval])
    oracle = 1.96 * float(logs.std())
    return Coverage(
        held=sum(interval is not None and interval.low <= truth <= interval.high for interval in intervals),
        repeats=len(found),
        half=float(np.median(halves)),
        over_oracle=float(np.median(halves)) / oracle,
        flagged=flagged,
    )


def few_launches(launches: int, repeats: int, seed: int = 2) -> Coverage:
    """Coverage with another number of launches of 2% spread."""
    law = Law(launch_sd=0.02, visit_sd=0.003, sample_sd=0.01, rho=0.3)
    return _covered(estimates(KINDS["load L1"], law, repeats, seed, visits=1, launches=launches), 450.0)


def sittings(sitting_sd: float, count: int, repeats: int, seed: int = 3) -> Coverage:
    """Coverage of the MACHINE's value by `count` sittings of five launches of 1% spread."""
    rng = np.random.default_rng(seed)
    logs = sitting_sd * rng.standard_normal((repeats, count, 1)) + 0.01 * rng.standard_normal((repeats, count, 5))
    values = np.exp(logs)
    if count >= 3:
        intervals = [stats.merge_sittings(list(run)) for run in values]
    else:
        intervals = [stats.launch_interval(run.ravel()) for run in values]
    held = sum(interval.low <= 1.0 <= interval.high for interval in intervals)
    halves = np.array([interval.relative for interval in intervals])
    oracle = 1.96 * math.sqrt((sitting_sd**2 + 0.01**2 / 5) / count)
    return Coverage(held, repeats, float(np.median(halves)), float(np.median(halves)) / oracle, {})


# --------------------------------------------------------------------------------------------------------------- flags


def two_regimes(by: str, share: float, slower: float, repeats: int, seed: int = 4) -> tuple[int, int, int]:
    """(flagged, runs in which both regimes were met, runs): regimes chosen by launch, visit or within a visit."""
    law = Law(
        launch_sd=0.01, visit_sd=0.005, sample_sd=0.02, rho=0.5, regime_share=share, regime_slower=slower, regime_by=by
    )
    found = estimates(KINDS["load DRAM"], law, repeats, seed, visits=3, samples=30)
    rng = np.random.default_rng(seed)  # the same draws again, to see what was met
    drawn = process.repeated(law, rng, seconds_of(KINDS["load DRAM"]), repeats=repeats, visits=3, samples=30)
    middle = seconds_of(KINDS["load DRAM"]) * math.sqrt(slower)
    slow = (drawn.seconds > middle).mean(axis=(1, 2, 3))
    met = (slow >= 0.1) & (slow <= 0.9)
    flagged = np.array(["two regimes" in estimate.flags for estimate in found])
    return int((flagged & met).sum()), int(met.sum()), repeats


def false_regimes(repeats: int, seed: int = 5) -> dict[str, int]:
    """Runs with one regime that are called two, by kind."""
    counts = {}
    for name, kind in KINDS.items():
        found = estimates(kind, kind.measured, repeats, seed)
        counts[name] = sum("two regimes" in estimate.flags for estimate in found)
    return counts


def disturbed(preempt_hz: float, repeats: int, seed: int = 6) -> tuple[int, int]:
    """(runs called disturbed, runs): two threads whose samples of 1 ms are preempted that often a second."""
    law = Law(launch_sd=0.005, visit_sd=0.003, sample_sd=0.01, preempt_hz=preempt_hz, preempt_s=0.002)
    found = estimates(KINDS["fma fp32"], law, repeats, seed, visits=1, threads=2)
    return sum(estimate.interval is None for estimate in found), repeats


WARM_UPS = {
    "flat": Law(visit_sd=0.005, sample_sd=0.01, rho=0.3),
    "flat, rho 0.8": Law(visit_sd=0.005, sample_sd=0.02, rho=0.8),
    "falling": Law(visit_sd=0.005, sample_sd=0.01, rho=0.3, warm_shape="falling", warm_size=0.1, warm_samples=10),
    "rising": Law(visit_sd=0.005, sample_sd=0.01, rho=0.3, warm_shape="rising", warm_size=0.1, warm_samples=10),
    "cyclic": Law(visit_sd=0.005, sample_sd=0.01, rho=0.3, warm_shape="cyclic", warm_size=0.03, warm_samples=8),
    "no steady state": Law(
        visit_sd=0.005, sample_sd=0.01, rho=0.3, warm_shape="drifting", warm_size=0.02, warm_samples=20
    ),
}


def warm_up(name: str, repeats: int, seed: int = 7) -> tuple[int, int]:
    """(runs classified as what they are, runs), from 15 visits of 60 samples of the time per call."""
    law = WARM_UPS[name]
    drawn = process.repeated(law, np.random.default_rng(seed), 1e-5, repeats=repeats, visits=3, samples=60)
    right = 0
    for run in drawn.seconds.reshape(repeats, -1, 60):
        right += stats.warm_up(list(run)).kind == name.partition(",")[0]
    return right, repeats


# ------------------------------------------------------------------------------------------------------------ throttle


@dataclass(frozen=True)
class Plan:
    """A run's size and spread for the change-point monitor: `wide` moves all cases alike, `launch_wide` per launch."""

    cases: int = 100
    launches: int = 5
    rounds: int = 3
    launch_sd: float = 0.0
    visit_sd: float = 0.005
    wide: float = 0.003
    launch_wide: float = 0.0


_MEMORY = 0.9  #: lag-1 correlation of what moves all cases alike
PLANS = {
    "100 cases x 5 x 3, visits 0.5%": Plan(),
    "the same with launches 1%": Plan(launch_sd=0.01),
    "40 cases x 5 x 1, launches 1%": Plan(cases=40, rounds=1, launch_sd=0.01),
    "20 cases x 5 x 1, launches 1%": Plan(cases=20, rounds=1, launch_sd=0.01),
    "100 cases x 5 x 3, launches differ by 0.3% in all cases": Plan(launch_wide=0.003),
}


@dataclass(frozen=True)
class Clock:
    """What is read of the core clock beside visits: spread of a visit, as seen on a shared guest, and memory of it."""

    sd: float = 0.0055
    rho: float = 0.3


def throttle_by_clock(plan: Plan, slower: float, repeats: int, seed: int = 13, share: float = 0.2) -> tuple[int, int]:
    """(runs with a step found in the core clock, runs): the clock is `slower` in the last `share` of the run."""
    rng, clock = np.random.default_rng(seed), Clock()
    found = 0
    for _ in range(repeats):
        case, logs, launch = _visits(plan, rng)
        ghz = process.autoregressive(rng, (logs.size,), clock.sd, clock.rho)
        ghz[round(logs.size * (1 - share)) :] -= math.log1p(slower)
        found += stats.change_point(case, ghz, launch, of_clock=True) is not None
    return found, repeats


def reachable(plan: Plan, slower: float, share: float = 0.2) -> float:
    """Power at 5% false alarms of a test that is told where the step is and knows all variances of the plan: what no
    method that has to find both can pass."""
    from scipy.stats import norm

    per_launch = plan.cases * plan.rounds
    long_run = plan.wide**2 * (1 + _MEMORY) / (1 - _MEMORY) + plan.visit_sd**2
    of_launch = plan.launch_sd**2 / plan.cases + plan.launch_wide**2
    after, before = share * plan.launches, (1 - share) * plan.launches
    error = math.sqrt((long_run / per_launch + of_launch) * (1 / after + 1 / before))
    return float(norm.sf(norm.isf(0.025) - math.log1p(slower) / error))


def throttle(plan: Plan, slower: float, repeats: int, seed: int = 8, share: float = 0.2) -> tuple[int, int]:
    """(runs with a step found, runs): everything is `slower` by that much in the last `share` of the run."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(repeats):
        case, logs, launch = _visits(plan, rng)
        first = round(logs.size * (1 - share))
        logs[first:] -= math.log1p(slower)
        step = stats.change_point(case, logs, launch)
        found += step is not None
    return found, repeats


def _visits(plan: Plan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Case, log median and launch of a run's visits in time order: rounds of all cases in random order."""
    turns = plan.launches * plan.rounds
    case = np.concatenate([rng.permutation(plan.cases) for _ in range(turns)])
    launch = np.repeat(np.arange(plan.launches), plan.rounds * plan.cases)
    effects = plan.launch_sd * rng.standard_normal((plan.launches, plan.cases))
    logs = effects[launch, case] + plan.visit_sd * rng.standard_normal(case.size)
    logs += process.autoregressive(rng, (case.size,), plan.wide, _MEMORY)
    return case, logs + plan.launch_wide * rng.standard_normal(plan.launches)[launch], launch


# --------------------------------------------------------------------------------------------------- pairs, selection


def ties(launch_sd: float, shared_sd: float, repeats: int, *, paired: bool = True, seed: int = 9) -> tuple[int, int]:
    """(A/A comparisons whose interval holds 1, comparisons): equal implementations in the same launches or two runs."""
    rng = np.random.default_rng([seed, round(1e6 * launch_sd), paired])
    shared = shared_sd * rng.standard_normal((repeats, LAUNCHES))
    a, b = (np.exp(shared + launch_sd * rng.standard_normal((repeats, LAUNCHES))) for _ in range(2))
    held = 0
    for r in range(repeats):
        first = dict(enumerate(a[r].tolist()))
        second = dict(enumerate(b[r].tolist(), 0 if paired else LAUNCHES))
        _, low, high = stats.ratio_interval(first, second)
        held += low <= 1 <= high
    return held, repeats


def bad_launch(slower: float, repeats: int, seed: int = 14) -> tuple[float, float]:
    """How far the mean over five launches of 0.5% spread, one of them bad, and the value are off: medians."""
    logs = 0.005 * np.random.default_rng(seed).standard_normal((repeats, LAUNCHES))
    logs[:, 0] += math.log1p(-slower)
    values = [math.log(stats.launch_interval(run).value) for run in np.exp(logs)]
    return float(np.median(logs.mean(axis=1))), float(np.median(values))


def selection(variants: int, law: Law, repeats: int, seed: int = 10) -> tuple[float, float, Coverage]:
    """(bias with the engine's tuning pass, bias if the measured launches themselves chose, coverage after tuning): the
    engine's rule chooses among equal variants; relative to the truth."""
    from pykernels.engine import choose

    rng = np.random.default_rng(seed)
    kind = KINDS["load L1"]
    true_s = seconds_of(kind)
    log = process.repeated(law, rng, true_s, repeats=repeats, launches=1, visits=variants, samples=16).seconds
    tuned = np.median(log[:, 0], axis=-1)  # (repeats, variants)
    launches = [estimates(kind, law, repeats, seed + 1 + v, visits=1) for v in range(variants)]
    values = np.array([[found.interval.value for found in one] for one in launches])  # (variants, repeats)
    chosen = [int(choose({str(v): float(s) for v, s in enumerate(row)})) for row in tuned]
    fresh = np.array([values[v, r] for r, v in enumerate(chosen)])
    after = _covered([launches[v][r] for r, v in enumerate(chosen)], kind.truth)
    return float(np.log(fresh / kind.truth).mean()), float(np.log(values.max(axis=0) / kind.truth).mean()), after


# ---------------------------------------------------------------------------------------------------------- impossible


@dataclass(frozen=True)
class Impossible:
    """Of runs in which one of `tests` pairs is above its roof by `excess`: flagged; those where that is twice the
    corrected half width of the run itself, and how many of these were flagged; runs with a flag on a sound pair."""

    excess: float
    flagged: int
    clear: int
    clear_flagged: int
    false: int
    repeats: int


def impossible(excess_: float, launch_sd: float, tests: int, repeats: int, seed: int = 11) -> Impossible:
    """Kernels at their roof, one above it by `excess_`; a pair shares its launches, the noise of each is its own."""
    rng = np.random.default_rng([seed, round(1e6 * launch_sd)])
    flagged = clear = clear_flagged = false = 0
    for _ in range(repeats):
        logs = launch_sd * rng.standard_normal((tests, 2, LAUNCHES))
        logs[0, 0] += math.log1p(excess_)
        pairs = [
            excess(str(n), "above its roof", _summary(kernel), _summary(roof)) for n, (kernel, roof) in enumerate(logs)
        ]
        found = exceeding(pairs)
        ratios = logs[0, 0] - logs[0, 1]
        half = stats.t_quantile(LAUNCHES - 1, 1 - 0.05 / tests) * ratios.std(ddof=1) / math.sqrt(LAUNCHES)
        flagged += "0" in found
        clear += math.log1p(excess_) >= 2 * half
        clear_flagged += "0" in found and math.log1p(excess_) >= 2 * half
        false += any(name != "0" for name in found)
    return Impossible(excess_, flagged, clear, clear_flagged, false, repeats)


def _summary(logs: np.ndarray) -> CaseSummary:
    values = dict(enumerate(np.exp(logs).tolist()))
    estimate = stats.Estimate(
        interval=stats.launch_interval(list(values.values())), launch_values=values, contended=0.0, samples=100
    )
    return CaseSummary(first=None, estimate=estimate)  # type: ignore[arg-type]


def smallest_found(launch_sd: float, tests: int, repeats: int, seed: int = 12) -> float:
    """The smallest excess, in steps of a tenth, that is flagged in 95% of runs."""
    return _first(lambda size: impossible(size, launch_sd, tests, repeats, seed).flagged >= 0.95 * repeats, 0.002)


def _first(holds: Callable[[float], bool], start: float) -> float:
    size = start
    while not holds(size):
        size *= 1.1
    return size
