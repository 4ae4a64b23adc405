"""Answers the engine's visits from a noise file. Calibration, stop rules and the contention gate are the real ones:
only the clock and the machine are pretended. Draws depend on (seed, sitting, case, variant, launch, round) alone;
drift, wandering and throttle on the number of visits before."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pykernels.backends.simulated import process
from pykernels.backends.simulated.device import NoTruth, true_seconds, wrong_after
from pykernels.backends.simulated.noise import Noise
from pykernels.measure import sampling
from pykernels.measure.clock import too_coarse
from pykernels.model import Case, Conditions, Placement, Samples, Skipped, Wrong
from pykernels.worker import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

#: seconds of simulated time that a visit's setting up takes, and a launch's start
PREPARE_S, START_S = 0.03, 0.2
_BLOCK = 256  #: samples drawn at once
_TUNE_SAMPLES = 16


class SimulatedPlayer:
    """One launch of the simulated machine."""

    def __init__(self, noise: Noise, launch: int) -> None:
        self.noise, self.launch = noise, launch
        self.calls: dict[str, int] = {}
        self.started = False

    def visit(
        self, case: Case, variant: str, settings: sampling.Settings, *, round_: int, seed: int, full: bool,
        timeout_s: float,
    ) -> Reply:  # fmt: skip
        """Time a case once, as `worker.visit` would."""
        noise = self.noise
        if not self.started:
            self.started, noise.seconds_played = True, noise.seconds_played + START_S
        number, noise.visits_played = noise.visits_played, noise.visits_played + 1
        try:
            true_s = true_seconds(noise, case) * _variant_factor(noise, case, variant)
        except NoTruth as error:
            return Reply(outcome=Skipped(reason=f"{noise.path}: {error}"))
        step_s = noise.timer.step_s
        if reason := too_coarse(settings.visit_s, step_s):
            return Reply(outcome=Skipped(reason=reason, hint="use a finer clock"))
        runner = SimulatedRunner(noise, case, variant, self.launch, round_, number, true_s)
        wrong = self._check(case, runner, "before")
        outcome = wrong or sampling.collect(runner, settings, clock=runner.clock, step_s=step_s)
        wrong = wrong or self._check(case, runner, "after")
        noise.seconds_played += PREPARE_S + runner.elapsed
        self.calls[case.id] = self.calls.get(case.id, 0) + runner.calls
        facts = {"simulated": noise.title or noise.path, "true_s": true_s}
        return Reply(outcome=wrong or outcome, conditions=Conditions(facts=facts), wall_s=runner.elapsed)

    def _check(self, case: Case, runner: SimulatedRunner, phase: str) -> Wrong | None:
        """What verification would find: the pretended device breaks after so many calls in a launch."""
        limit = wrong_after(self.noise.cheats(case.id))
        if limit < 0 or self.calls.get(case.id, 0) + runner.calls <= limit:
            return None
        bound = case.problem.tolerance()
        output = next(operand.name for operand in case.problem.operands() if operand.role != "in")
        return Wrong(max_error=1.0, bound=bound.absolute + bound.relative, where=f"{output}[0]", phase=phase)

    def tune(self, case: Case, variants: list[str], timeout_s: float) -> Reply:
        """Seconds per call of each variant, each with the noise of a short visit in this process."""
        try:
            true_s = true_seconds(self.noise, case)
        except NoTruth as error:
            return Reply(outcome=Skipped(reason=f"{self.noise.path}: {error}"))
        seconds = {}
        for variant in variants:
            runner = SimulatedRunner(
                self.noise, case, variant, self.launch, 0, self.noise.visits_played,
                true_s * _variant_factor(self.noise, case, variant),
            )  # fmt: skip
            reps = max(1, round(1e-3 / true_s))
            seconds[variant] = float(np.median(runner.sample(reps, _TUNE_SAMPLES).samples_s))
        return Reply(seconds=seconds)

    def keep_only(self, places: set[tuple[Placement, str]]) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing to end."""


class SimulatedRunner:
    """One visit: hands out the samples of a drawn series; `elapsed` is the simulated time it has taken."""

    def __init__(
        self, noise: Noise, case: Case, variant: str, launch: int, round_: int, number: int, true_s: float
    ) -> None:
        self.noise, self.law, self.true_s, self.number = noise, noise.law(case.id), true_s, number
        self.threads = 1 if case.placement.device.startswith("gpu") else case.placement.threads
        self.cached = case.problem.figure().level not in ("DRAM", "link")
        where = [*_seed(noise, f"{case.id} {variant}"), launch + 1]
        self.rng = np.random.default_rng([*where, round_ + 1])
        self.offset = (
            float(process.launch_effect(self.law, np.random.default_rng(where)))
            + float(process.visit_effect(self.law, self.rng))
            + self._shared(case, launch)
        )
        self.calls, self.taken, self.elapsed = 0, 0, 0.0
        self.block = np.empty(0)

    def _shared(self, case: Case, launch: int) -> float:
        """What sitting, launch, wandering, core clock and throttle add to the log time of this visit."""
        noise, wide = self.noise, self.noise.machine_wide
        log = self.law.sitting_sd * _normal(_seed(noise, case.id)) + wide.sitting_sd * _normal(_seed(noise, ""))
        if wide.launch_sd:
            log += wide.launch_sd * _normal([*_seed(noise, "launch"), launch + 1])
        if wide.wander_sd:
            log += process.wander(wide.wander_sd, wide.wander_visits, _seed(noise, "wander")).at(self.number)
        if self.cached:
            log += self.drift
        return log + self.throttled

    @property
    def throttled(self) -> float:
        """Log time that a throttled core clock adds at this visit."""
        throttle = self.noise.throttle
        return float(np.log(throttle.slower)) if throttle and throttle.on(self.number) else 0.0

    @cached_property
    def drift(self) -> float:
        """Log time that the core clock's drift adds at this visit."""
        clock = self.noise.core_clock
        if not clock.drift_sd:
            return 0.0
        return process.wander(clock.drift_sd, clock.drift_visits, _seed(self.noise, "clock")).at(self.number)

    def clock(self) -> float:
        """Simulated seconds since the visit began."""
        return self.elapsed

    def run(self, calls: int) -> None:
        """Run untimed."""
        self.calls += calls
        self.elapsed += calls * self.true_s

    def sample(self, reps: int, count: int) -> Samples:
        """The next `count` samples of `reps` calls each."""
        if self.block.size < count:
            more = process.sample_effect(self.law, self.rng, (max(_BLOCK, count),), self.taken + self.block.size)
            self.block = np.concatenate([self.block, more])
        log, self.block = self.block[:count] + self.offset, self.block[count:]
        drawn = process.timed(self.law, self.noise.timer, self.rng, self.true_s * np.exp(log), reps, self.threads)
        self.taken += count
        self.calls += reps * count
        self.elapsed += float(np.abs(drawn.seconds).sum()) * reps
        ghz = self.noise.core_clock.ghz * np.exp(-self.drift - self.throttled + 0.001 * self.rng.standard_normal(count))
        return Samples(
            samples_s=drawn.seconds.tolist(),
            cpu_over_wall=drawn.cpu_over_wall.tolist(),
            involuntary_switches=drawn.switches.tolist(),
            clock_ghz=ghz.tolist() if self.noise.core_clock.ghz else [],
            reps=reps,
        )

    def inputs(self) -> Mapping[str, Any]:
        """No data: nothing is computed."""
        return {}

    def outputs(self) -> Mapping[str, Any]:
        """No data: nothing is computed."""
        return {}

    def poison(self) -> None:
        """No data to overwrite."""

    def facts(self) -> dict[str, Any]:
        """Nothing beyond what the player states."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


def _seed(noise: Noise, name: str) -> list[int]:
    digest = hashlib.sha256(name.encode()).digest()
    return [noise.seed, noise.sitting, int.from_bytes(digest[:8], "big")]


def _normal(seed: list[int]) -> float:
    return float(np.random.default_rng(seed).standard_normal())


def _variant_factor(noise: Noise, case: Case, variant: str) -> float:
    """True time of a variant over that of the device's roof."""
    named = noise.variants.slower.get(variant, 1.0)
    if not noise.variants.sd:
        return named
    return named * float(np.exp(noise.variants.sd * _normal([noise.seed, *_seed(noise, f"{case.id} {variant}")[2:]])))
