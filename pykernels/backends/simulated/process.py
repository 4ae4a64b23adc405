"""The noise as arrays: effects of launches and visits, and the samples of any number of visits at once."""

from __future__ import annotations

import math
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from pykernels.backends.simulated.noise import Law, Timer

Floats = NDArray[np.float64]
_DWELL = 30  #: samples that a regime lasts on average where it changes within a visit


class Draw(msgspec.Struct):
    """Samples of visits: `seconds` per call, and what was seen beside each. All of one shape (..., samples)."""

    seconds: Floats
    cpu_over_wall: Floats
    switches: NDArray[np.int64]


def launch_effect(law: Law, rng: np.random.Generator, shape: tuple[int, ...] = ()) -> Floats:
    """Log time that a launch adds, its regime included where launches choose one."""
    return law.launch_sd * rng.standard_normal(shape) + (_regime(law, rng, shape) if law.regime_by == "launch" else 0.0)


def visit_effect(law: Law, rng: np.random.Generator, shape: tuple[int, ...] = ()) -> Floats:
    """Log time that a visit adds: two-sided spread, one-sided slowness, its regime where visits choose one."""
    log = law.visit_sd * rng.standard_normal(shape)
    slow = rng.random(shape) < law.slow_share
    log = log + np.log1p(slow * law.slow_mean * rng.standard_exponential(shape))
    return log + (_regime(law, rng, shape) if law.regime_by == "visit" else 0.0)


def _regime(law: Law, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return np.where(rng.random(shape) < law.regime_share, math.log(law.regime_slower), 0.0)


def sample_effect(law: Law, rng: np.random.Generator, shape: tuple[int, ...], first: int = 0) -> Floats:
    """Log time of each sample of visits of shape (..., samples); `first` is the number of the first in its visit."""
    log = autoregressive(rng, shape, law.sample_sd, law.rho)
    if law.warm_shape != "flat":
        log = log + warm_up(law, first + np.arange(shape[-1]))
    if law.regime_share and law.regime_by == "sample":
        log = log + _switching(law, rng, shape)
    return log


def autoregressive(rng: np.random.Generator, shape: tuple[int, ...], sd: float, rho: float) -> Floats:
    """Stationary first-order autoregressive series along the last axis, of standard deviation `sd`."""
    shocks = sd * rng.standard_normal(shape)
    return shocks @ _filter(shape[-1], rho) if rho else shocks


@lru_cache(maxsize=64)
def _filter(n: int, rho: float) -> Floats:
    """Matrix that turns a row of n independent shocks into a series: the first stands for all that went before."""
    lags = np.arange(n)[None, :] - np.arange(n)[:, None]
    matrix = np.where(lags >= 0, rho ** np.maximum(lags, 0), 0.0)
    matrix[1:] *= math.sqrt(1 - rho**2)
    return matrix


def warm_up(law: Law, number: NDArray[np.int64]) -> Floats:
    """Log time over the steady one of the samples numbered so in their visit."""
    turns = np.asarray(number / law.warm_samples, dtype=np.float64)
    if law.warm_shape == "cyclic":
        return np.asarray(law.warm_size * np.sin(2 * np.pi * turns))
    if law.warm_shape == "drifting":
        return law.warm_size * turns
    sign = 1.0 if law.warm_shape == "falling" else -1.0
    return np.asarray(np.log1p(sign * law.warm_size * np.exp(-turns)))


def _switching(law: Law, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Regimes that last about _DWELL samples: a two-state chain, started in its own long-run shares."""
    chosen = rng.random(shape) < law.regime_share
    redrawn = rng.random(shape) < 1 / _DWELL
    redrawn[..., 0] = True
    last = np.maximum.accumulate(np.where(redrawn, np.arange(shape[-1]), 0), axis=-1)
    slow = np.take_along_axis(chosen, last, axis=-1)
    return np.where(slow, math.log(law.regime_slower), 0.0)


def timed(
    law: Law, timer: Timer, rng: np.random.Generator, undisturbed: Floats, reps: float = 1.0, threads: int = 1
) -> Draw:
    """What is read when samples of `reps` calls take `undisturbed` seconds a call: preemptions, signs and clock step.

    A sample ends with its last thread; CPU over wall time is the worst thread's."""
    wall = undisturbed * reps
    seen, hidden, count = _preemptions(law, rng, wall, threads)
    ratio = wall / (wall + seen)
    wall = wall + seen + hidden
    switches = count + (rng.random(wall.shape) < law.switch_share) if law.switch_share else count
    if timer.step_s:
        wall = timer.step_s * np.floor(wall / timer.step_s + rng.random(wall.shape))
    if timer.backward_share:
        wall = np.where(rng.random(wall.shape) < timer.backward_share, -wall, wall)
    return Draw(wall / reps, ratio, switches)


def _preemptions(
    law: Law, rng: np.random.Generator, wall: Floats, threads: int
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Seconds lost to preemptions that show and to those that do not, and how many show, in each sample."""
    nothing = np.zeros(wall.shape)
    if not law.preempt_hz:
        return nothing, nothing, np.zeros(wall.shape, dtype=np.int64)
    seen, hidden, count = nothing.copy(), nothing.copy(), np.zeros(wall.shape, dtype=np.int64)
    for _ in range(threads):
        often = rng.poisson(law.preempt_hz * law.preempt_seen * wall)
        stalls = rng.poisson(law.preempt_hz * (1 - law.preempt_seen) * wall)
        seen = np.maximum(seen, law.preempt_s * rng.standard_gamma(np.maximum(often, 1e-9)) * (often > 0))
        hidden = np.maximum(hidden, law.preempt_s * rng.standard_gamma(np.maximum(stalls, 1e-9)) * (stalls > 0))
        count += often
    return seen, hidden, count


def repeated(
    law: Law, rng: np.random.Generator, true_s: float, *, repeats: int, launches: int = 5, visits: int = 1,
    samples: int = 30, sample_s: float = 1e-3, timer: Timer | None = None, threads: int = 1,
) -> Draw:  # fmt: skip
    """Many runs of one case at once, shape (repeats, launches, visits, samples): what the engine would record with a
    fixed number of samples, without files. `sample_s` is a sample's length, which preemptions and clock step see."""
    log = launch_effect(law, rng, (repeats, launches, 1, 1)) + law.sitting_sd * rng.standard_normal((repeats, 1, 1, 1))
    log = log + visit_effect(law, rng, (repeats, launches, visits, 1))
    log = log + sample_effect(law, rng, (repeats, launches, visits, samples))
    reps = max(1.0, math.ceil(sample_s / true_s))
    return timed(law, timer or Timer(), rng, true_s * np.exp(log), reps, threads)


def wander(sd: float, visits: float, seed: list[int]) -> Wander:
    """A slow random movement over visit numbers (see Wander)."""
    rng = np.random.default_rng(seed)
    count = 16
    periods = visits * np.exp(rng.uniform(-1.0, 1.5, count))
    return Wander(sd * math.sqrt(2 / count), 2 * np.pi / periods, rng.uniform(0, 2 * np.pi, count))


class Wander(msgspec.Struct):
    """A sum of sinusoids of random period and phase: a stationary movement, known at every visit without a state."""

    size: float
    frequency: Floats
    phase: Floats

    def at(self, visit: int) -> float:
        """Log time at a visit."""
        return self.size * float(np.sin(self.frequency * visit + self.phase).sum())
