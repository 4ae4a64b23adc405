"""How long and how often a case is timed in one visit. Pure over a Runner and the clock of its budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from pykernels.measure.clock import shortest_sample_s
from pykernels.model import Disturbed, Measured, Samples

if TYPE_CHECKING:
    from pykernels.backends.base import Runner

#: thread CPU time over wall time below which a sample is contended (design rule 3)
CONTENDED = 0.98
#: a visit with a smaller share of clean samples is Disturbed
CLEAN_SHARE = 0.5
#: a visit among contended samples may last this many times its budget
PATIENCE = 3
#: warming up goes on while a batch is faster than the one before it by more than this, for so many budgets at most
WARMER, WARM_BUDGETS = 0.1, 10
#: samples of a batch; of calls that last longer than the whole budget, a visit takes so many, one by one
BATCH, FEW = 5, 3


class Settings(msgspec.Struct, frozen=True):
    """Aim of a visit: samples of about `sample_s` (at least 1,000 clock steps), `visit_s` in all after warming up, stop
    early once the median is known to `target` (relative half width, within this visit only). Where fewer than
    `min_samples` were clean by then, the visit goes on for up to PATIENCE times as long."""

    sample_s: float = 1e-3
    visit_s: float = 0.08
    min_samples: int = 7
    max_samples: int = 200
    target: float = 0.005


def calibrate(runner: Runner, sample_s: float) -> int:
    """Calls per sample so that a sample lasts about `sample_s`; also the warm-up.

    What counts is the time for which the threads ran: a preempted sample is long in wall time, and would stop the
    growth too soon. A sample whose clock went backwards says nothing, and is taken again."""
    reps = 1
    for _ in range(40):
        taken = runner.sample(reps, 2)
        ran = [seconds * ratio for seconds, ratio in zip(taken.samples_s, _ratios(taken), strict=True)]
        forwards = [seconds for seconds in ran if seconds >= 0]  # 0: shorter than the clock's step
        if not forwards:
            continue
        seconds = min(forwards) * reps
        if seconds >= sample_s / 2:
            break
        growth = sample_s / max(seconds, sample_s / 100)
        reps = max(reps + 1, math.ceil(reps * min(growth, 100.0)))
    return reps


def warm_up(runner: Runner, reps: int, limit_s: float, clock: Callable[[], float]) -> None:
    """Run on until a batch is no longer clearly faster than the one before: the first turns over a large table wait
    for the translations of its pages, for tenths of a second."""
    before, started = math.inf, clock()
    while clock() - started < limit_s:
        now = median(runner.sample(reps, 3).samples_s)
        if now > (1 - WARMER) * before:
            return
        before = now


def collect(
    runner: Runner, settings: Settings, *, clock: Callable[[], float] = time.monotonic, step_s: float | None = None
) -> Measured | Disturbed:
    """Calibrate, warm up, then sample in batches until the target, the budget (seconds of `clock`) or the maximum is
    reached. Calls that last longer than the budget are sampled FEW times.

    `step_s` is the step of the clock that times the samples, this machine's by default: samples last 1,000 of them."""
    shortest_s = max(settings.sample_s, shortest_sample_s(step_s))
    reps = calibrate(runner, shortest_s)
    least, batch = settings.min_samples, BATCH
    if reps == 1 and runner.sample(1, 1).samples_s[0] > settings.visit_s:
        least, batch = min(FEW, least), 1
    else:
        warm_up(runner, reps, WARM_BUDGETS * settings.visit_s, clock)
        reps = calibrate(runner, shortest_s)
    samples = Samples(samples_s=[], reps=reps)
    started = clock()
    stop = "max_samples"
    while len(samples.samples_s) < settings.max_samples:
        _extend(samples, runner.sample(reps, min(batch, settings.max_samples - len(samples.samples_s))))
        if len(samples.samples_s) < least:
            continue
        if relative_half_width(samples) <= settings.target:
            stop = "target"
            break
        patience = 1 if sum(clean_mask(samples)) >= least else PATIENCE
        if clock() - started >= settings.visit_s * patience:
            stop = "budget"
            break
    return judge(samples, stop)


def judge(samples: Samples, stop: str) -> Measured | Disturbed:
    """Measured, or Disturbed where under half of the samples had their threads running undisturbed."""
    clean = clean_mask(samples)
    fields = {name: getattr(samples, name) for name in Samples.__struct_fields__}
    if sum(clean) < CLEAN_SHARE * len(clean):
        share = f"{sum(clean)} of {len(clean)}"
        return Disturbed(why=f"{share} samples had every thread on a CPU at least 98% of the time", stop=stop, **fields)
    return Measured(stop=stop, **fields)


def clean_mask(samples: Samples) -> list[bool]:
    """For each sample: did its clock go forwards, and were all its threads running (CPU time over wall time at least
    0.98, or not recorded)?"""
    pairs = zip(samples.samples_s, _ratios(samples), strict=True)
    return [seconds > 0 and ratio >= CONTENDED for seconds, ratio in pairs]


def _ratios(samples: Samples) -> list[float]:
    return samples.cpu_over_wall or [1.0] * len(samples.samples_s)


def relative_half_width(samples: Samples) -> float:
    """Half width of the median's 95% interval over the median, from the MAD, as if samples were independent."""
    values = [t for t, ok in zip(samples.samples_s, clean_mask(samples), strict=True) if ok]
    if len(values) < 3:
        return math.inf
    centre = median(values)
    spread = 1.4826 * median(abs(value - centre) for value in values)
    return 1.96 * 1.2533 * spread / math.sqrt(len(values)) / centre


def _extend(samples: Samples, more: Samples) -> None:
    samples.reps = max(samples.reps, more.reps)  # a runner may round them up
    for name in ("samples_s", "cpu_over_wall", "involuntary_switches", "clock_ghz", "start_skew_s", "host_s"):
        getattr(samples, name).extend(getattr(more, name))
