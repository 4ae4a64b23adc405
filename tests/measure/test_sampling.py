"""How long and how often a case is timed: warm first, few samples of long calls; calibration among preemptions; and
clocks that are too coarse or run back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pykernels import registry, worker
from pykernels.measure import clock, sampling
from pykernels.measure.sampling import FEW, Settings, calibrate, collect
from pykernels.model import Case, Disturbed, Implementation, Measured, Placement, Samples, Skipped

CALL_S = 1e-6


class Timed:
    """A runner whose calls take 1 us; `sign` says how wall time and CPU share of its n-th sample come out."""

    def __init__(self, sign: Callable[[int], tuple[float, float]] = lambda _: (1.0, 1.0)) -> None:
        self.sign, self.taken = sign, 0

    def sample(self, reps: int, count: int) -> Samples:
        drawn = [self.sign(self.taken + n) for n in range(count)]
        self.taken += count
        return Samples(
            samples_s=[CALL_S * factor for factor, _ in drawn], cpu_over_wall=[ratio for _, ratio in drawn], reps=reps
        )


@pytest.mark.parametrize("wall", [1.0, 4.0, 50.0])
def test_preempted_samples_do_not_make_samples_short(wall: float) -> None:
    """Wall time over CPU time is what the threads waited: calibration looks at the time that they ran."""
    reps = calibrate(Timed(lambda _: (wall, 1 / wall)), 1e-3)  # type: ignore[arg-type]
    assert 0.5e-3 <= reps * CALL_S <= 2e-3


def test_a_clock_that_runs_back_while_calibrating_is_asked_again() -> None:
    backwards = Timed(lambda n: (-1.0, 1.0) if n < 6 else (1.0, 1.0))
    assert 500 <= calibrate(backwards, 1e-3) <= 2000  # type: ignore[arg-type]


def test_a_clock_that_always_runs_back_gives_no_value() -> None:
    ticks = iter(range(10_000))
    outcome = collect(Timed(lambda _: (-1.0, 1.0)), Settings(max_samples=20), clock=lambda: next(ticks) * 1e-2)  # type: ignore[arg-type]
    assert isinstance(outcome, Disturbed)


def test_a_few_samples_run_back_and_are_kept_apart() -> None:
    outcome = collect(Timed(lambda n: (-1.0 if n % 10 == 3 else 1.0, 1.0)), Settings(max_samples=40, target=-1.0))  # type: ignore[arg-type]
    assert isinstance(outcome, Measured)
    assert sum(sampling.clean_mask(outcome)) == 36


def test_all_samples_contended_is_disturbed_and_says_so() -> None:
    outcome = collect(Timed(lambda _: (2.0, 0.5)), Settings(max_samples=20))  # type: ignore[arg-type]
    assert isinstance(outcome, Disturbed)
    assert outcome.why.startswith("0 of 20 samples had every thread on a CPU")


@pytest.mark.parametrize(("step_s", "refused"), [(1e-9, False), (1e-4, True), (1.0, True)])
def test_clocks_that_are_too_coarse(step_s: float, refused: bool) -> None:
    reason = clock.too_coarse(0.08, step_s)
    assert bool(reason) == refused
    assert not refused or reason.startswith(f"a clock of step {step_s:g} s needs samples of {1000 * step_s:g} s")


def test_a_worker_refuses_a_coarse_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "resolution_s", lambda: 0.01)
    problem = registry.families()["fma"].problem(dtype="fp32")
    case = Case(problem=problem, implementation=Implementation("native"), placement=Placement())
    message = worker.Visit(msgspec.to_builtins(registry.case_to_builtins(case)), "plain", Settings(), 1)
    reply = worker.visit(None, message)  # type: ignore[arg-type]
    assert isinstance(reply.outcome, Skipped)
    assert reply.outcome.reason == "a clock of step 0.01 s needs samples of 10 s; a visit is 0.08 s"
    assert "visit" in reply.outcome.hint


class Scripted:
    """A call whose seconds depend on how many were made before; the clock is the sum of all."""

    def __init__(self, seconds: Any) -> None:
        self.seconds, self.calls, self.now = seconds, 0, 0.0

    def sample(self, reps: int, count: int) -> Samples:
        found = []
        for _ in range(count):
            times = [self.seconds(self.calls + k) for k in range(reps)]
            self.calls += reps
            self.now += sum(times)
            found.append(sum(times) / reps)
        return Samples(samples_s=found, reps=reps)


def timed(runner: Scripted) -> Any:
    return collect(runner, Settings(), clock=lambda: runner.now, step_s=1e-9)  # type: ignore[arg-type]


def test_the_slow_first_turns_over_a_large_table_are_no_samples() -> None:
    """Calls that begin 40 times slower and take some dozens of them to settle: every sample is of the settled ones."""
    outcome = timed(Scripted(lambda n: 1e-3 * max(1.0, 40 * 0.9**n)))
    assert max(outcome.samples_s) < 1.2e-3


def test_steady_calls_are_sampled_at_once() -> None:
    runner = Scripted(lambda n: 1e-3)
    outcome = timed(runner)
    assert runner.calls - len(outcome.samples_s) <= 16


def test_calls_longer_than_the_budget_are_sampled_a_few_times() -> None:
    runner = Scripted(lambda n: 2.5)
    outcome = timed(runner)
    assert len(outcome.samples_s) == FEW
    assert runner.calls <= FEW + 3
