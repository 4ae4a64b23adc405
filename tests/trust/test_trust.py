"""The table of trust at the size of a push: 300 repeats (fewer where a repeat is a whole run), fixed seeds.

A share is refused only where its goal's binomial distribution gives so few (or so many) with a chance under 0.1%."""

import instruments
import pytest
import scores
import whole_runs
from regimes import KINDS, PLAIN, REGIMES
from scipy.stats import binom

from pykernels.analysis import roofline
from pykernels.backends.simulated.noise import Cheat, MachineWide

REPEATS = 300


def at_least(count, total, share):
    assert binom.cdf(count, total, share) > 0.001, f"{count} of {total}, goal at least {share:.0%}"


def at_most(count, total, share):
    assert binom.sf(count - 1, total, share) > 0.001, f"{count} of {total}, goal at most {share:.0%}"


def covers(score):
    at_least(score.held, score.repeats, 0.93)
    at_most(score.held, score.repeats, 0.97)


@pytest.mark.parametrize("regime", REGIMES)
def test_intervals_cover_in_every_regime(regime):
    score = scores.coverage("load L1", regime, REPEATS)
    covers(score)
    assert score.over_oracle <= 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_for_every_ceiling(kind):
    score = scores.coverage(kind, "as measured, 1 visit a launch", REPEATS, seed=20)
    covers(score)
    assert score.over_oracle <= 1.5


@pytest.mark.parametrize("launches", [2, 3, 10])
def test_intervals_cover_with_few_and_many_launches(launches):
    covers(scores.few_launches(launches, REPEATS))


def test_one_sitting_does_not_speak_for_the_machine_and_three_do():
    assert scores.sittings(0.03, 1, REPEATS).share < 0.5
    covers(scores.sittings(0.03, 3, REPEATS))


@pytest.mark.parametrize("by", ["launch", "visit"])
def test_two_regimes_are_flagged(by):
    flagged, met, _ = scores.two_regimes(by, 0.4, 2.0, REPEATS)
    at_least(flagged, met, 0.95)


def test_one_regime_is_not_called_two():
    for kind, count in scores.false_regimes(REPEATS).items():
        assert count <= 0.05 * REPEATS, kind


def test_a_busy_machine_gives_no_value_and_a_little_contention_does():
    assert scores.disturbed(1500, REPEATS) == (REPEATS, REPEATS)
    assert scores.disturbed(30, REPEATS) == (0, REPEATS)


@pytest.mark.parametrize("shape", scores.WARM_UPS)
def test_warm_ups_are_told_apart(shape):
    at_least(*scores.warm_up(shape, REPEATS), 0.95)


@pytest.mark.parametrize("slower", [0.01, 0.02])
def test_a_throttle_step_is_found(slower):
    plan = scores.PLANS["100 cases x 5 x 3, visits 0.5%"]
    at_least(*scores.throttle(plan, slower, 100), 0.95)


@pytest.mark.parametrize(
    "plan", ["40 cases x 5 x 1, launches 1%", "100 cases x 5 x 3, launches differ by 0.3% in all cases"]
)
def test_no_throttle_step_is_seen_where_there_is_none(plan):
    at_most(*scores.throttle(scores.PLANS[plan], 0.0, REPEATS), 0.05)


@pytest.mark.parametrize("slower", [0.01, 0.02])
def test_a_throttle_step_is_found_in_a_short_run_by_the_core_clock(slower):
    at_least(*scores.throttle_by_clock(scores.PLANS["20 cases x 5 x 1, launches 1%"], slower, 100), 0.95)


def test_a_bad_launch_hardly_moves_the_value():
    mean, value = scores.bad_launch(0.3, REPEATS)
    assert mean < -0.05
    assert abs(value) < 0.005


@pytest.mark.parametrize("paired", [True, False])
def test_equal_implementations_tie(paired):
    at_least(*scores.ties(0.02, 0.01, REPEATS, paired=paired), 0.95)


def test_choosing_among_equal_variants_costs_nothing():
    tuned, reported_chose, after = scores.selection(10, PLAIN, REPEATS)
    assert abs(tuned) < 0.001
    assert reported_chose > 0.003  # what it would cost if the reported launches chose
    covers(after)


@pytest.mark.parametrize("launch_sd", [0.01, 0.045])
def test_impossible_results_are_flagged_and_sound_ones_are_not(launch_sd):
    sound = scores.impossible(0.0, launch_sd, 20, REPEATS)
    at_most(sound.false, REPEATS, 0.05)
    planted = scores.impossible(16 * launch_sd, launch_sd, 20, REPEATS)
    assert planted.clear > REPEATS / 2
    assert planted.clear_flagged == planted.clear


def test_whole_runs_hold_their_truth_and_accuse_nobody():
    score = whole_runs.score("quiet", 25)
    held, drawn = sum(score.held.values()), sum(score.drawn.values())
    at_least(held, drawn, 0.93)
    at_most(score.flagged_runs, score.runs, 0.05)


def test_a_level_faster_than_the_one_inside_it_is_flagged_in_a_whole_run():
    score = whole_runs.score("guest", 10, cheat=Cheat(cases="*op=copy,level=DRAM*", of_roof=40.0))
    assert sum(count for flag, count in score.flags.items() if "slower than DRAM" in flag) == 10


def test_three_sittings_speak_for_the_machine():
    plan = instruments.sweep(whole_runs.STUDIES["stream"])
    wide = MachineWide(sitting_sd=0.05)
    runs = [instruments.run(instruments.noise(sitting=n, machine_wide=wide), plan) for n in range(3)]
    one, three = roofline.analyse(runs[:1]), roofline.analyse(runs)
    assert {roof.scope for roof in one.roofs} == {"sitting"}
    assert {roof.scope for roof in three.roofs} == {"machine"}
    for alone, merged in zip(one.roofs, three.roofs, strict=True):
        assert merged.high / merged.low > alone.high / alone.low
