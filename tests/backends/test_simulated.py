"""The simulated machine: what the file says is what is played, and a bad file is refused by key, value and range."""

import contextlib
import json
import math
import re
import tomllib
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels import registry
from pykernels.backends.simulated import load_noise, process
from pykernels.backends.simulated.device import true_seconds
from pykernels.backends.simulated.noise import (
    Cheat,
    CoreClock,
    Law,
    MachineWide,
    Throttle,
    Timer,
    Variants,
    parse_noise,
)
from pykernels.errors import UsageError
from pykernels.machine.placement import MachineSpace
from pykernels.measure.sampling import Settings
from pykernels.model import Case, Implementation, Measured, Operand, Placement, Recipe, Skipped, Wrong

NOISE = Path(__file__).resolve().parent.parent / "noise"
QUIET = (NOISE / "quiet.toml").read_text(encoding="utf-8")


def quiet(**changes):
    """The quiet machine without any noise, and with these fields."""
    return msgspec.structs.replace(load_noise(NOISE / "quiet.toml"), **{"noise": Law(), **changes})


def case(kernel="stream", device="cpu", threads=1, isa="x86_64_v4", **values):
    placement = Placement(device=device, threads=threads)
    space = MachineSpace(quiet().machine, "cpu", threads)
    family = registry.family(kernel)
    defaults = {key: spec.default[0] for key, spec in family.keys.items() if spec.default}
    return Case(family.build({**defaults, **values}, space), Implementation("native", isa), placement)


def visit(noise, one, *, launch=0, round_=0, settings=None, player=None):
    player = player or noise.player(launch)
    return player.visit(
        one, "plain", settings or Settings(), round_=round_, seed=1, full=False, timeout_s=1.0
    )  # fmt: skip


def rate(reply, one):
    return one.problem.figure().amount / float(np.median(reply.outcome.samples_s)) / 1e9


# ------------------------------------------------------------------------------------------------------------ the truth


@pytest.mark.parametrize(("level", "expected"), [("L1", 450), ("L2", 240), ("L3", 110), ("DRAM", 38)])
def test_a_level_runs_at_its_roof(level, expected):
    one = case(op="load", level=level, dtype="fp64")
    assert rate(visit(quiet(), one), one) == pytest.approx(expected, rel=1e-6)


def test_threads_add_up_to_what_they_can_do_together():
    inside, outside = (case(op="load", level=level, dtype="fp64", threads=2) for level in ("L1", "DRAM"))
    assert rate(visit(quiet(), inside), inside) == pytest.approx(900, rel=1e-6)
    assert rate(visit(quiet(), outside), outside) == pytest.approx(45, rel=1e-6)


def test_an_operation_and_an_isa_level_reach_their_share():
    copy = case(op="copy", level="L1", dtype="fp64")
    assert rate(visit(quiet(), copy), copy) == pytest.approx(0.9 * 450, rel=1e-6)
    narrow = case("fma", isa="x86_64_v3", dtype="fp32")
    assert rate(visit(quiet(), narrow), narrow) == pytest.approx(0.5 * 270, rel=1e-6)


def test_what_the_file_does_not_state_is_skipped_with_the_missing_key():
    one = case(op="load", level="L3", dtype="fp64", device="gpu:0")
    outcome = visit(quiet(), one).outcome
    assert isinstance(outcome, Skipped)
    assert 'no "L3" under bandwidth' in outcome.reason


def test_the_record_carries_the_truth():
    one = case(op="load", level="L2", dtype="fp64")
    reply = visit(load_noise(NOISE / "guest.toml"), one)
    assert reply.conditions.facts["true_s"] == true_seconds(quiet(), one)


def test_a_knee_loses_its_share_where_two_roofs_meet():
    from pykernels.backends.simulated.device import _busy

    noise = quiet()
    one = case("fma", dtype="fp32")
    problem = one.problem

    class Ridge(type(problem)):  # as many seconds of memory as of compute
        def traffic(self):
            return msgspec.structs.replace(problem.traffic(), requested=problem.flops() / 270 * 450)

        def figure(self):
            return msgspec.structs.replace(problem.figure(), ceiling=False, level="L1")

    ridge = Ridge(**{name: getattr(problem, name) for name in problem.__struct_fields__})
    at_ridge = msgspec.structs.replace(one, problem=ridge)
    roofs = noise.devices["cpu"]
    sharp = _busy(noise, msgspec.structs.replace(roofs, knee=0.0), at_ridge)
    assert _busy(noise, roofs, at_ridge) == pytest.approx(sharp / 0.9)


# ------------------------------------------------------------------------------------------------------------ the noise


@given(
    st.floats(0, 0.05), st.floats(0, 0.05), st.floats(0.001, 0.05), st.sampled_from([0.0, 0.3, 0.9])
)  # fmt: skip
def test_the_spread_is_the_one_asked_for(launch_sd, visit_sd, sample_sd, rho):
    law = Law(launch_sd=launch_sd, visit_sd=visit_sd, sample_sd=sample_sd, rho=rho)
    logs = np.log(process.repeated(law, np.random.default_rng(1), 1.0, repeats=400, visits=4, samples=50).seconds)
    within = logs - logs.mean(axis=-1, keepdims=True)
    lags = np.arange(1, 50)
    of_mean = sample_sd**2 / 50**2 * (50 + 2 * float(((50 - lags) * rho**lags).sum()))
    assert within.std() == pytest.approx(math.sqrt(sample_sd**2 - of_mean), rel=0.1)
    means = logs.mean(axis=(2, 3))
    expected = launch_sd**2 + visit_sd**2 / 4 + of_mean / 4
    assert means.var(axis=1, ddof=1).mean() == pytest.approx(expected, rel=0.15, abs=1e-9)


def test_samples_have_the_correlation_asked_for():
    series = process.autoregressive(np.random.default_rng(2), (200, 500), 1.0, 0.8)
    assert np.mean(series[:, 1:] * series[:, :-1]) == pytest.approx(0.8, abs=0.03)
    assert series[:, 0].std() == pytest.approx(1.0, abs=0.15)  # stationary from the first sample on


def test_preemptions_lower_cpu_over_wall_and_count_and_stalls_do_not():
    law = Law(preempt_hz=100, preempt_s=0.002)
    seen = process.timed(law, Timer(), np.random.default_rng(3), np.full(2000, 1e-3), threads=2)
    slow = seen.seconds > 1e-3
    assert 0.1 < slow.mean() < 0.3
    assert np.array_equal(slow, seen.switches > 0)
    assert np.allclose(seen.cpu_over_wall, 1e-3 / seen.seconds)
    hidden = msgspec.structs.replace(law, preempt_seen=0.0)
    stalls = process.timed(hidden, Timer(), np.random.default_rng(3), np.full(2000, 1e-3))
    assert (stalls.seconds > 1e-3).any()
    assert np.all(stalls.cpu_over_wall == 1.0)
    assert not stalls.switches.any()


def test_a_coarse_clock_reads_whole_steps_and_is_right_on_average():
    drawn = process.timed(Law(), Timer(step_s=1e-4), np.random.default_rng(4), np.full(5000, 1.23e-3))
    steps = drawn.seconds / 1e-4
    assert np.allclose(steps, np.round(steps))
    assert drawn.seconds.mean() == pytest.approx(1.23e-3, rel=0.003)


def test_two_regimes_and_warm_up_shapes():
    law = Law(regime_share=0.3, regime_slower=2.0, regime_by="sample")
    drawn = process.repeated(law, np.random.default_rng(5), 1.0, repeats=300, samples=60).seconds
    assert set(np.round(np.unique(drawn), 9)) == {1.0, 2.0}
    assert (drawn > 1.5).mean() == pytest.approx(0.3, abs=0.05)
    number = np.arange(60)
    assert process.warm_up(Law(warm_shape="falling", warm_size=0.1), number)[0] == pytest.approx(math.log(1.1))
    assert process.warm_up(Law(warm_shape="rising", warm_size=0.1), number)[0] == pytest.approx(math.log(0.9))
    assert abs(process.warm_up(Law(warm_shape="falling"), number)[-1]) < 0.003


def test_draws_depend_on_seed_sitting_case_launch_and_round_alone():
    noise = load_noise(NOISE / "guest.toml")
    one, other = case(op="load", level="L2", dtype="fp64"), case(op="load", level="L2", dtype="fp32")
    calm = msgspec.structs.replace(noise, core_clock=CoreClock())
    first = visit(calm, one, launch=2, round_=1).outcome.samples_s
    visit(calm, other)
    assert visit(calm, one, launch=2, round_=1).outcome.samples_s == first
    for changed in (
        visit(calm, one, launch=3, round_=1), visit(calm, one, launch=2, round_=2),
        visit(calm, other, launch=2, round_=1),
        visit(msgspec.structs.replace(calm, seed=99), one, launch=2, round_=1),
        visit(msgspec.structs.replace(calm, sitting=1), one, launch=2, round_=1),
    ):  # fmt: skip
        assert changed.outcome.samples_s != first


def test_a_sitting_moves_all_its_launches_and_starts_hours_later():
    wide = MachineWide(sitting_sd=0.1)
    one = case(op="load", level="L1", dtype="fp64")
    rates = []
    for sitting in range(3):
        noise = quiet(machine_wide=wide, sitting=sitting)
        values = [rate(visit(noise, one, launch=launch), one) for launch in range(3)]
        assert max(values) == pytest.approx(min(values))
        rates.append(values[0])
    assert len({round(value, 3) for value in rates}) == 3
    assert quiet(sitting=1).clock() - quiet(sitting=0).clock() >= 3600


def test_a_throttle_slows_every_visit_after_it():
    noise = quiet(throttle=Throttle(after_visits=5, slower=1.5, visits=3))
    one = case(op="load", level="L1", dtype="fp64")
    slow = [rate(visit(noise, one), one) < 400 for _ in range(10)]
    assert slow == [False] * 5 + [True] * 3 + [False] * 2


def test_the_core_clock_drifts_with_the_caches_and_not_with_dram():
    noise = quiet(core_clock=CoreClock(ghz=4.0, drift_sd=0.05, drift_visits=5))
    inside, outside = (case(op="load", level=level, dtype="fp64") for level in ("L1", "DRAM"))
    replies = [visit(noise, inside) for _ in range(20)]
    per_cycle = [rate(reply, inside) / np.median(reply.outcome.clock_ghz) for reply in replies]
    rates = [rate(reply, inside) for reply in replies]
    assert np.std(np.log(rates)) > 0.01
    assert np.std(np.log(per_cycle)) < 0.001
    assert len({rate(visit(noise, outside), outside) for _ in range(5)}) == 1


# ----------------------------------------------------------------------------------------------------------- the cheats


def test_a_device_that_is_twice_as_fast_on_zeros_gains_nothing_from_our_inputs():
    honest, cheating = quiet(), quiet(cheat=[Cheat(cases="*", zeros=2.0)])
    for kernel, values in (("stream", {"op": "load", "level": "DRAM", "dtype": "fp64"}), ("fma", {"dtype": "fp32"})):
        one = case(kernel, **values)
        assert true_seconds(cheating, one) == true_seconds(honest, one)


def test_the_zeros_cheat_is_alive():
    one = case(op="load", level="DRAM", dtype="fp64")

    class Zeros(type(one.problem)):
        def operands(self):
            return (Operand("x", "in", (8,), "fp64", Recipe(low=0.0, high=0.0)),)

    zeros = Zeros(**{name: getattr(one.problem, name) for name in one.problem.__struct_fields__})
    cheating = quiet(cheat=[Cheat(cases="*", zeros=2.0)])
    assert true_seconds(cheating, msgspec.structs.replace(one, problem=zeros)) == true_seconds(quiet(), one) / 2


def test_a_kernel_above_its_roof():
    one = case(op="load", level="L2", dtype="fp64")
    reply = visit(quiet(cheat=[Cheat(cases="*L2*", of_roof=1.03)]), one)
    assert rate(reply, one) == pytest.approx(1.03 * 240)


def test_a_device_that_breaks_after_some_calls_is_wrong_and_not_timed():
    one = case(op="load", level="DRAM", dtype="fp64")
    at_once, later = (quiet(cheat=[Cheat(cases="*", wrong_after=n)]) for n in (1, 300))
    reply = visit(at_once, one)
    assert isinstance(reply.outcome, Wrong)
    assert reply.outcome.phase == "after"
    player = later.player(0)
    outcomes = [visit(later, one, player=player, round_=n).outcome for n in range(12)]
    assert isinstance(outcomes[0], Measured)
    assert isinstance(outcomes[-1], Wrong)
    assert outcomes[-1].phase == "before"
    assert isinstance(visit(later, one, launch=1).outcome, Measured)  # a fresh process starts anew


def test_variants_are_as_fast_as_the_file_says():
    noise = quiet(variants=Variants(slower={"b": 1.2}))
    one = case(op="load", level="L2", dtype="fp64")
    seconds = noise.player(-1).tune(one, ["a", "b"], 1.0).seconds
    assert seconds["b"] == pytest.approx(1.2 * seconds["a"])


def test_a_clock_that_goes_backwards_is_seen_in_the_samples():
    noise = quiet(timer=Timer(backward_share=0.2))
    one = case(op="load", level="DRAM", dtype="fp64")
    samples = [s for n in range(10) for s in visit(noise, one, round_=n).outcome.samples_s]
    assert 0 < sum(s < 0 for s in samples) < len(samples)


def test_samples_outlast_a_coarse_clock_and_a_clock_in_seconds_is_refused():
    one = case(op="load", level="L1", dtype="fp64")
    outcome = visit(quiet(timer=Timer(step_s=1e-5)), one).outcome
    assert np.median(outcome.samples_s) * outcome.reps > 0.005
    assert np.median(outcome.samples_s) == pytest.approx(true_seconds(quiet(), one), rel=0.005)
    refused = visit(quiet(timer=Timer(step_s=2.0)), one).outcome
    assert isinstance(refused, Skipped)
    assert "samples of 2000 s" in refused.reason


# ------------------------------------------------------------------------------------------------------------- the file

BAD = [
    ("[noise]", "[noise]\nwarm_size = 1.5", "noise.warm_size = 1.5: expected 0 to 0.9"),
    ("[noise]", "[noise]\nvisit_slow = 1", 'unknown key "visit_slow"'),
    ("launch_sd = 0.005", "launch_sd = -0.1", "noise.launch_sd = -0.1: expected 0 to 1"),
    ("launch_sd = 0.005", "launch_sd = nan", "noise.launch_sd = nan: expected 0 to 1"),
    ("launch_sd = 0.005", 'launch_sd = "1%"', "noise.launch_sd = '1%': expected float"),
    ("knee = 0.1", "knee = 0.6", "devices.cpu.knee = 0.6: expected 0 to 0.5"),
    ("L1 = 450", "L1 = 0", "devices.cpu.bandwidth.L1 = 0: expected 1e-12"),
    ('[devices."gpu:0"]', '[devices."gpu:1"]', 'unknown device "gpu:1"'),
    ("affinity = [0, 1]", "affinity = [0, 7]", "machine.affinity names CPU 7"),
    ("seed = 7", "seed = -1", "seed = -1: expected 0 to"),
    ("seed = 7", "sede = 7", 'unknown key "sede" (did you mean "seed"?)'),
    ("simulate = 1", "simulate = 2", "simulate = 2: the first key must be"),
    ("[core_clock]", "[throttle]\nafter_visits = 5\nslower = 0.5\n[core_clock]", "throttle.slower = 0.5: expected 1"),
    ("[core_clock]", "[[cheat]]\nof_roof = 2\n[core_clock]", "missing required field cases"),
    ("[core_clock]", "[[noise_of]]\nrho = 0.1\n[core_clock]", "noise_of 1: needs `cases"),
    ("[core_clock]", '[[noise_of]]\ncases = "*"\nrho = 2\n[core_clock]', "noise_of 1: rho = 2: expected 0 to 0.99"),
    ("[core_clock]", '[[cheat]]\ncases = "*"\nzeros = 0\n[core_clock]', "cheat 1: zeros = 0: expected 1 to 100"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_a_bad_noise_file_is_refused_by_name(old, new, message):
    assert old in QUIET
    with pytest.raises(UsageError) as error:
        parse_noise(QUIET.replace(old, new, 1), where="bad.toml")
    assert str(error.value).startswith("bad.toml: ")
    assert message in str(error.value)


def test_files_that_are_no_noise_files(tmp_path):
    for content, message in (
        (b"\xff\xfe", "not a text file"),
        (b"a = ", "not valid TOML"),
        (b"simulate = 1", "no [machine]"),
    ):
        path = tmp_path / "noise.toml"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=re.escape(message)):
            load_noise(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_noise(tmp_path / "absent.toml")


@given(st.text(max_size=60))
def test_no_text_raises_anything_but_a_usage_error(text):
    with contextlib.suppress(UsageError):
        parse_noise(text)


@given(
    st.sampled_from(sorted(tomllib.loads(QUIET))),
    st.one_of(
        st.integers(-5, 5), st.text(max_size=5), st.booleans(), st.floats(), st.just([]), st.just({}), st.just([{}])
    ),
)
def test_a_wrong_type_anywhere_is_a_usage_error_or_fine(key, value):
    data = {**tomllib.loads(QUIET), key: value}
    loads = mock.patch("pykernels.backends.simulated.noise.tomllib.loads", return_value=data)
    with loads, contextlib.suppress(UsageError):
        parse_noise("")


@pytest.mark.parametrize("path", sorted(NOISE.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_noise_file_loads(path):
    assert load_noise(path).machine.cores


# ----------------------------------------------------------------------------------------------------- the command line


def command(monkeypatch, *words):
    """Exit code of a command in this process."""
    from pykernels.cli import main

    monkeypatch.setattr("sys.argv", ["pykernels", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_run_simulate_writes_a_labelled_run_file_twice_the_same(tmp_path, monkeypatch, capsys):
    from pykernels.store import load_run

    lines = []
    for path in (tmp_path / "a.jsonl", tmp_path / "b.jsonl"):
        words = ("run", "quick", "--simulate", NOISE / "guest.toml", "-o", path, "--no-picture", "--json", "--quiet")
        assert command(monkeypatch, *words) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["measured"] > 10
        lines.append([line for line in path.read_bytes().splitlines() if not line.startswith(b'{"kind":"footer"')])
    header = load_run(tmp_path / "a.jsonl").header
    assert header.source == "simulated"
    assert header.machine.id == "simulated"
    assert lines[0] == lines[1]


def test_simulate_and_replay_exclude_each_other(monkeypatch, capsys):
    assert command(monkeypatch, "run", "quick", "--simulate", "a.toml", "--replay", "b.jsonl") == 2
    assert "exclude each other" in capsys.readouterr().err


def test_a_wrong_result_ends_the_run_with_1_and_names_the_case(tmp_path, monkeypatch, capsys):
    path = tmp_path / "breaks.toml"
    path.write_text(QUIET + '\n[[cheat]]\ncases = "fma*fp32*"\nwrong_after = 0\n', encoding="utf-8")
    words = ("run", "quick", "--simulate", path, "-o", tmp_path / "run.jsonl", "--no-picture", "--quiet")
    assert command(monkeypatch, *words) == 1
    assert "wrong: fma[" in capsys.readouterr().err


def test_on_a_machine_that_is_always_busy_cases_are_disturbed_and_draw_no_roof(tmp_path, monkeypatch, capsys):
    path = tmp_path / "busy.toml"
    path.write_text(QUIET.replace("rho = 0.3", "rho = 0.3\npreempt_hz = 1500"), encoding="utf-8")
    words = ("run", "quick", "--simulate", path, "-o", tmp_path / "run.jsonl", "--no-picture", "--quiet", "--json")
    assert command(monkeypatch, *words) == 0  # some visits were lucky
    answer = json.loads(capsys.readouterr().out)
    assert answer["disturbed"] > 2 * answer["measured"]
    reasons = [entry["reason"] for entry in answer["roofline"]["not_drawn"]]
    assert any(reason.startswith("disturbed: ") for reason in reasons)
