"""Statistics to the digit, and on simulated timings of known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from pykernels.measure import stats
from pykernels.model import Disturbed, Measured

positive = st.floats(1e-6, 1e6)


def band(repeats: int, share: float) -> tuple[int, int]:
    """Counts that a method of this true share leaves once in a thousand."""
    low, high = binom.interval(0.999, repeats, share)
    return int(low), int(high)


def visit(samples_s: list[float], launch: int = 0, ratio: list[float] | None = None, unit: str = "GB/s") -> stats.Visit:
    """A visit of 1e9 bytes a call: 1 s is 1 GB/s."""
    outcome = Measured(samples_s=samples_s, cpu_over_wall=ratio or [])
    return stats.visit_of(outcome, unit, 1e9, launch=launch, round=0)


# ------------------------------------------------------------------------------------------------------ to the digit


def test_t_interval_to_the_digit() -> None:
    interval = stats.launch_interval([math.e**1.0, math.e**2.0, math.e**3.0])
    half = 1.025 * 4.302652729911275 * 1.0 / math.sqrt(3)  # of a median, t(0.975, 2) x sd / sqrt(n)
    assert math.log(interval.value) == pytest.approx(2.0)
    assert math.log(interval.low) == pytest.approx(2.0 - half)
    assert math.log(interval.high) == pytest.approx(2.0 + half)
    assert (interval.launches, interval.best, interval.scope) == (3, math.e**3, "sitting")
    assert interval.method == "t over launches"


def test_best_of_a_time_is_the_lowest() -> None:
    assert stats.launch_interval([120.0, 100.0, 110.0], higher=False).best == 100.0


def test_identical_launches_have_no_width() -> None:
    interval = stats.launch_interval([42.1, 42.1, 42.1])
    assert (interval.low, interval.value, interval.high) == (42.1, 42.1, 42.1)


def test_one_launch_is_within_process() -> None:
    interval = stats.launch_interval([5.0])
    assert (interval.low, interval.high, interval.scope) == (0.0, math.inf, "within-process")


@pytest.mark.parametrize("bad", [[], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [math.inf]])
def test_values_that_are_no_rates(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        stats.launch_interval(bad)


def test_launch_value_is_the_median_of_visit_medians() -> None:
    visits = [visit([1.0, 2.0, 9.0]), visit([4.0, 4.0, 4.0]), visit([0.5, 0.5, 100.0]), visit([2.0], launch=1)]
    found = stats.estimate(visits)
    assert found.launch_values == {0: 0.5, 1: 0.5}  # medians 1/2, 1/4, 1/0.5 GB/s


def test_contended_samples_are_kept_out_and_counted() -> None:
    visits = [visit([1.0, 1.0, 5.0, 1.0], launch, [1.0, 0.98, 0.5, 0.99]) for launch in range(3)]
    found = stats.estimate(visits)
    assert found.interval is not None
    assert found.interval.value == 1.0
    assert found.contended == 0.25
    assert found.samples == 12


def test_under_half_clean_is_disturbed() -> None:
    visits = [visit([1.0, 1.0, 1.0], launch, [0.5, 0.5, 1.0]) for launch in range(5)]
    found = stats.estimate(visits)
    assert found.interval is None
    assert found.reason == "5 of 15 samples are clean"


def test_one_disturbed_visit_is_left_out() -> None:
    visits = [visit([1.0] * 4, launch) for launch in range(4)] + [visit([3.0] * 4, 4, [0.5, 0.5, 0.5, 1.0])]
    found = stats.estimate(visits)
    assert found.interval is not None
    assert (found.interval.value, found.interval.launches) == (1.0, 4)


def test_all_contended() -> None:
    assert stats.estimate([visit([1.0, 1.0], 0, [0.1, 0.1])]).reason == "0 of 2 samples are clean"


def test_no_samples() -> None:
    assert stats.estimate([]).reason == "no samples"


def test_a_clock_going_backwards_is_said() -> None:
    found = stats.estimate([visit([1.0, -1.0, 1.0, 0.0, 1.0], launch) for launch in range(3)])
    assert found.interval is not None
    assert found.interval.value == 1.0
    assert "clock went backwards" in found.flags
    assert "clock going backwards" in stats.estimate([visit([-1.0, 0.0, 1.0])]).reason


def test_few_launches_are_flagged() -> None:
    assert "fewer than 3 launches" in stats.estimate([visit([1.0, 1.0], launch) for launch in range(2)]).flags
    assert "fewer than 3 launches" not in stats.estimate([visit([1.0, 1.0], launch) for launch in range(3)]).flags


def test_units_of_time_are_time_over_amount() -> None:
    latency = stats.visit_of(Measured(samples_s=[2e-6]), "ns", 10.0, launch=0, round=0)
    assert latency.median == pytest.approx(200.0)


def test_records_of_a_case() -> None:
    run = synthetic.run([synthetic.bandwidth("L1", 500.0)], launches=5)
    interval = stats.case_interval(run.records)
    assert interval is not None
    assert interval.value == pytest.approx(500.0)
    run.records[0].outcome = Disturbed(samples_s=[1.0], cpu_over_wall=[0.1], why="contended")
    assert stats.case_estimate(run.records).launch_values.keys() == {1, 2, 3, 4}


def test_paired_ratio_to_the_digit() -> None:
    above, below = {0: 2.0, 1: 4.0, 2: 8.0}, {0: 1.0, 1: 2.0, 2: 4.0}
    assert stats.ratio_interval(above, below) == (pytest.approx(2.0),) * 3  # each launch says exactly 2


def test_unpaired_ratio_falls_back_to_welch() -> None:
    ratio, low, high = stats.ratio_interval({0: 1.0, 1: 1.1}, {5: 2.0, 6: 2.2})
    assert low < ratio < high
    assert ratio == pytest.approx(0.5)
    assert stats.ratio_interval({0: 1.0}, {1: 2.0}) == (0.5, 0.0, math.inf)


def test_welch_against_scipy() -> None:
    from scipy.stats import ttest_ind

    a, b = np.array([1.0, 1.2, 0.9, 1.1]), np.array([1.5, 1.4, 1.9])
    difference, error, degrees = stats.welch(a, b)
    theirs = ttest_ind(a, b, equal_var=False)
    assert stats.p_value(difference, error, degrees) == pytest.approx(theirs.pvalue)
    assert degrees == pytest.approx(theirs.df)


def test_benjamini_hochberg_example() -> None:
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1,
    ]
    assert stats.benjamini_hochberg(p) == [True] * 4 + [False] * 11  # the paper's own example
    assert stats.benjamini_hochberg([]) == []


def test_detectable_is_what_80_percent_see() -> None:
    least = stats.detectable(0.01, math.inf)
    assert least == pytest.approx((1.959964 + 0.841621) * 0.01, rel=1e-5)
    assert stats.detectable(math.inf, 4) == math.inf


def test_sittings_count_once() -> None:
    merged = stats.merge_sittings([[1.0] * 5, [math.e] * 5, [math.e**2] * 5])
    assert math.log(merged.value) == pytest.approx(1.0)
    assert math.log(merged.high) == pytest.approx(1.0 + 1.025 * 4.302652729911275 / math.sqrt(3))
    assert (merged.scope, merged.launches) == ("machine", 15)
    with pytest.raises(ValueError, match="at least 3 sittings"):
        stats.merge_sittings([[1.0], [2.0]])


def test_uncertainty_budget_to_the_digit() -> None:
    terms = [
        stats.Term(name="launches", kind="A", uncertainty=0.003, degrees=4),
        stats.Term(name="clock", kind="B", uncertainty=0.004),
    ]
    answer = stats.budget("DRAM load, this sitting", 40.0, "GB/s", terms)
    assert answer.combined == pytest.approx(0.005)
    assert answer.degrees == pytest.approx(0.005**4 / (0.003**4 / 4))  # Welch-Satterthwaite: 30.9
    assert answer.coverage == pytest.approx(2.0399, abs=1e-3)
    assert answer.bounds[1] == pytest.approx(40.0 * math.exp(answer.coverage * 0.005))


# ------------------------------------------------------------------------------------------------------- properties


@given(st.lists(positive, min_size=2, max_size=12), st.floats(1e-3, 1e3))
def test_intervals_scale_with_the_unit(values: list[float], factor: float) -> None:
    one, other = stats.launch_interval(values), stats.launch_interval([factor * value for value in values])
    for name in ("value", "low", "high", "best"):
        assert getattr(other, name) == pytest.approx(factor * getattr(one, name), rel=1e-9)


@given(st.lists(positive, min_size=2, max_size=12))
def test_value_lies_in_its_interval_and_order_is_nothing(values: list[float]) -> None:
    interval = stats.launch_interval(values)
    assert interval.low <= interval.value * (1 + 1e-12)
    assert interval.value <= interval.high * (1 + 1e-12)
    assert interval.best == max(values)
    backwards = stats.launch_interval(values[::-1])
    assert backwards.value == pytest.approx(interval.value)


@given(st.lists(positive, min_size=2, max_size=12))
def test_rates_and_times_say_the_same(values: list[float]) -> None:
    rate, time = stats.launch_interval(values), stats.launch_interval([1 / value for value in values], higher=False)
    assert time.value == pytest.approx(1 / rate.value, rel=1e-9)
    assert time.low == pytest.approx(1 / rate.high, rel=1e-9)


@given(st.lists(st.lists(positive, min_size=3, max_size=20), min_size=1, max_size=8))
def test_within_process_is_labelled_and_repeatable(visits: list[list[float]]) -> None:
    arrays = [np.array(one) for one in visits]
    interval = stats.within_process(arrays)
    assert interval == stats.within_process(arrays)
    assert (interval.scope, interval.launches) == ("within-process", 1)
    assert interval.low <= interval.value <= interval.high


# ----------------------------------------------------------------------------------------------- simulated truth


def draw(
    rng: np.random.Generator, *, launches: int = 5, visits: int = 3, samples: int = 30, launch: float = 0.0,
    visit: float = 0.0, sample: float = 0.01, rho: float = 0.0, slow: float = 0.0, gap: float = 0.0, by: str = "",
) -> list[list[np.ndarray]]:  # fmt: skip
    """Rates around 1: launches of visits of samples. `gap` makes two regimes by launch, by visit, or one switch."""
    out = []
    for number in range(launches):
        fast = bool(rng.integers(2))
        effect = launch * rng.standard_normal()
        group = []
        for turn in range(visits):
            logs = effect + visit * rng.standard_normal() + synthetic.ar1(rng, samples, sample, rho)
            if rng.random() < slow:
                logs -= rng.exponential(0.05)
            fast = bool(rng.integers(2)) if by == "visit" else fast
            if by == "switch":
                fast = (number, turn) > (launches // 2, 0)
            group.append(np.exp(logs + gap * fast))
        out.append(group)
    return out


def estimate_of(launches: list[list[np.ndarray]]) -> stats.Estimate:
    return stats.estimate(
        visit((1 / one).tolist(), launch=number) for number, group in enumerate(launches) for one in group
    )


@pytest.mark.parametrize(
    "noise",
    [
        {},
        {"rho": 0.9},
        {"visit": 0.005},
        {"launch": 0.005, "visit": 0.003},
        {"launch": 0.02},
        {"launch": 0.02, "launches": 3},
        {"launch": 0.045, "sample": 0.05, "rho": 0.7},
    ],
    ids=str,
)
def test_coverage_of_the_95_percent_interval(noise: dict[str, float]) -> None:
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(300):
        interval = estimate_of(draw(rng, **noise)).interval  # type: ignore[arg-type]
        assert interval is not None
        held += interval.low <= 1.0 <= interval.high
    low, high = band(300, 0.95)
    assert low <= held <= high


def test_coverage_of_2000_in_one_go() -> None:
    from pykernels.measure.stats import log_interval

    logs = np.random.default_rng(3).normal(0, 0.02, (2000, 5))
    centre, half = log_interval(logs)
    low, high = band(2000, 0.95)
    assert low <= int(np.count_nonzero(abs(centre) <= half)) <= high


def test_three_sittings_cover_the_machine_and_one_does_not() -> None:
    rng = np.random.default_rng(5)
    held = alone = 0
    for _ in range(300):
        groups = [np.exp(0.03 * rng.standard_normal() + 0.01 * rng.standard_normal(5)) for _ in range(3)]
        merged, single = stats.merge_sittings(groups), stats.launch_interval(groups[0])
        held += merged.low <= 1 <= merged.high
        alone += single.low <= 1 <= single.high
    low, high = band(300, 0.95)
    assert low <= held <= high
    assert alone < 0.5 * 300


def test_two_identical_implementations_tie() -> None:
    rng = np.random.default_rng(11)
    ties = 0
    for _ in range(300):
        shared = rng.normal(0, 0.02, 5)
        a, b = (dict(enumerate(np.exp(shared + rng.normal(0, 0.005, 5)).tolist())) for _ in range(2))
        _, low, high = stats.ratio_interval(a, b)
        ties += low <= 1 <= high
    low_count, _ = band(300, 0.95)
    assert ties >= low_count


@pytest.mark.parametrize(
    "noise",
    [
        {"sample": 0.05, "rho": 0.9},
        {"launch": 0.02, "visit": 0.01},
        {"launch": 0.045, "visit": 0.03},
        {"visit": 0.005, "slow": 0.1},
        {"launch": 0.05, "launches": 3},
        {"launch": 0.05, "launches": 2},
        {"sample": 0.05, "rho": 0.9, "launches": 1, "samples": 100},
    ],
    ids=str,
)
def test_one_regime_is_rarely_called_two(noise: dict[str, float]) -> None:
    rng = np.random.default_rng(13)
    flagged = sum(bool(stats.regimes(draw(rng, **noise))) for _ in range(200))  # type: ignore[arg-type]
    assert flagged <= binom.ppf(0.999, 200, 0.05)


@pytest.mark.parametrize("by", ["launch", "visit", "switch"])
def test_two_clear_regimes_are_found_and_both_reported(by: str) -> None:
    rng = np.random.default_rng(17)
    found = met = 0
    while met < 100:
        launches = draw(rng, launch=0.02, visit=0.01, sample=0.02, rho=0.5, gap=math.log(2), by=by)
        share = np.mean([np.median(one) > math.sqrt(2) for group in launches for one in group])
        if 0.2 <= share <= 0.8:
            met += 1
            modes = stats.regimes(launches)
            found += bool(modes)
            if modes:
                assert modes == pytest.approx((1.0, 2.0), rel=0.1)
    assert found >= binom.ppf(0.001, 100, 0.95)


def test_launches_that_agree_by_luck_are_unsteady() -> None:
    rng = np.random.default_rng(2)
    samples = np.exp(rng.normal(0, 0.2, 30))
    lucky = stats.estimate(visit((1 / samples).tolist(), launch=number) for number in range(5))
    assert lucky.interval is not None
    assert "unsteady" in lucky.flags
    steady = stats.estimate(visit([1.0, 1.001, 0.999] * 10, launch=number) for number in range(5))
    assert "unsteady" not in steady.flags


WARM = {
    "flat": lambda t: 0 * t,
    "falling": lambda t: 0.05 * np.exp(-t / 6),
    "rising": lambda t: -0.05 * np.exp(-t / 6),
    "cyclic": lambda t: 0.02 * np.sin(2 * np.pi * t / 7),
    "no steady state": lambda t: 0.1 * t / t.size,
}


@pytest.mark.parametrize("rho", [0.0, 0.8])
@pytest.mark.parametrize("kind", WARM)
def test_warm_up_is_classified(kind: str, rho: float) -> None:
    rng = np.random.default_rng(19)
    shape = WARM[kind](np.arange(60.0))
    right = 0
    for _ in range(60):
        visits = [
            np.exp(np.roll(shape, rng.integers(7)) + rng.normal(0, 0.005) + synthetic.ar1(rng, 60, 0.01, rho))
            if kind == "cyclic"
            else np.exp(shape + rng.normal(0, 0.005) + synthetic.ar1(rng, 60, 0.01, rho))
            for _ in range(15)
        ]
        right += stats.warm_up(visits).kind == kind
    assert right >= binom.ppf(0.001, 60, 0.95)


def test_too_few_visits_say_nothing_of_warm_up() -> None:
    assert stats.warm_up([np.arange(1.0, 30.0)] * 2).kind == "flat"
    assert stats.warm_up([np.arange(1.0, 6.0)] * 9).kind == "flat"


def run_series(
    rng: np.random.Generator, cases: int, turns: int, step: float, last: float = 0.2
) -> tuple[np.ndarray, ...]:
    """Visits of many cases in random order and five launches: visit sd 0.5%, slow machine-wide noise 0.3%, a step near
    the end."""
    case = np.concatenate([rng.permutation(cases) for _ in range(turns)])
    logs = case + rng.normal(0, 0.005, case.size) + synthetic.ar1(rng, case.size, 0.003, 0.9)
    logs[int(case.size * (1 - last)) :] -= step
    return case, logs, np.repeat(np.arange(5), case.size // 5)


@pytest.mark.parametrize("step", [0.01, 0.02])
def test_a_throttle_step_is_found_where_it_is(step: float) -> None:
    rng = np.random.default_rng(23)
    found = 0
    for _ in range(40):
        answer = stats.change_point(*run_series(rng, 100, 15, step))
        if answer is not None:
            found += 1
            assert answer.size == pytest.approx(-step, rel=0.5)
            assert abs(answer.index - 1200) < 150
    assert found >= binom.ppf(0.001, 40, 0.95)


@pytest.mark.parametrize(("cases", "turns"), [(100, 15), (40, 5)])
def test_a_run_without_a_step_is_left_alone(cases: int, turns: int) -> None:
    rng = np.random.default_rng(29)
    false = sum(stats.change_point(*run_series(rng, cases, turns, 0.0)) is not None for _ in range(60))
    assert false <= binom.ppf(0.999, 60, 0.05)


def test_launches_that_differ_are_not_a_step() -> None:
    """What all cases of a launch share moves the means at its ends, and is no step that lasts."""
    rng = np.random.default_rng(37)
    false = 0
    for _ in range(60):
        case, logs, launch = run_series(rng, 100, 15, 0.0)
        logs = logs + 0.003 * rng.standard_normal(5)[launch]
        false += stats.change_point(case, logs, launch) is not None
    assert false <= binom.ppf(0.999, 60, 0.05)


def test_a_step_inside_a_launch_of_many_is_found() -> None:
    rng = np.random.default_rng(41)
    case, logs, _ = run_series(rng, 20, 75, 0.02, last=0.33)
    answer = stats.change_point(case, logs, np.repeat(np.arange(25), case.size // 25))
    assert answer is not None
    assert answer.size == pytest.approx(-0.02, rel=0.3)


def test_a_short_run_has_no_step() -> None:
    none = np.zeros(50, dtype=np.intp)
    assert stats.change_point(none[:10], np.arange(10.0), none[:10]) is None
    assert stats.change_point(none, np.zeros(50), none) is None


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 13, 14, 40])
def test_the_factor_of_the_median_gives_95_percent(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = rng.standard_normal((20_000, n))
    half = stats.log_interval(draws)[1] * stats.median_factor(n)
    held = int(np.count_nonzero(np.abs(np.median(draws, axis=1)) <= half))
    assert binom.ppf(0.0005, 20_000, 0.948) <= held <= binom.ppf(0.9995, 20_000, 0.952)


def test_one_bad_launch_moves_the_value_little() -> None:
    sound = [100.0, 101.0, 99.0, 100.5]
    with_bad = stats.launch_interval([*sound, 60.0])
    assert 99.0 <= with_bad.value <= 100.5
    assert with_bad.low < 75 < 125 < with_bad.high  # and it is not hidden


def test_variance_split_finds_the_components() -> None:
    rng = np.random.default_rng(31)
    launches = draw(rng, launches=300, visits=4, samples=40, launch=0.01, visit=0.005, sample=0.02)
    split = stats.variance_split(launches, launch_cost_s=0.4, visit_cost_s=0.1)
    assert split.launch == pytest.approx(0.01, rel=0.2)
    assert split.visit == pytest.approx(0.005, rel=0.2)
    assert split.sample == pytest.approx(0.02, rel=0.2)
    assert split.visits_per_launch == 1  # sqrt(4 x (0.005^2 + pi/2 0.02^2 / 40) / 0.01^2) = 1.3
    steady = draw(rng, launches=300, visits=4, samples=40, launch=0.002, visit=0.01, sample=0.02)
    assert 8 <= stats.variance_split(steady, 0.4, 0.1).visits_per_launch <= 14  # 10.8


def test_variance_split_of_almost_nothing() -> None:
    split = stats.variance_split([[np.array([1.0])]])
    assert (split.launch, split.visit, split.sample) == (0.0, 0.0, 0.0)
