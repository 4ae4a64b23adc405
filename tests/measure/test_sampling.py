"""How long a visit times a case: warm first, few samples of long calls."""

from __future__ import annotations

from typing import Any

from pykernels.measure.sampling import FEW, Settings, collect
from pykernels.model import Samples


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
