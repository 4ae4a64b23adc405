"""From the visits of a case to its value: which samples count, one value per launch, its interval and its flags."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from pykernels.measure.sampling import CONTENDED
from pykernels.measure.stats.intervals import (
    Interval,
    launch_interval,
    median,
    merge_sittings,
    within_process,
)
from pykernels.measure.stats.series import regimes
from pykernels.model import Disturbed, Measured, Record
from pykernels.units import higher_is_better, value_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

SITTING_GAP_S = 3600.0  #: sittings that start nearer to each other than this are one sitting
_UNSTEADY = 0.01  #: half width under which a point is steady enough, whatever its launches say


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """One visit in the figure's unit: `values` of the clean samples only, and how many samples there were in all."""

    launch: int
    round: int
    started: float
    values: NDArray[np.float64]
    total: int
    median: float  # of the clean values; nan where there is none
    backward: int = 0  # samples of no or negative length: the clock went backwards
    clock_ghz: float = 0.0  # median core clock; 0: not recorded

    @property
    def disturbed(self) -> bool:
        """Under half of the samples are clean."""
        return 2 * self.values.size < self.total or self.values.size == 0


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What the visits of one case say. `interval` is None where they say nothing; `reason` then tells why."""

    interval: Interval | None
    launch_values: dict[int, float]
    contended: float  # share of samples kept out of the value
    samples: int
    flags: tuple[str, ...] = ()
    regimes: tuple[float, ...] = ()
    reason: str = ""


# ---------------------------------------------------------------------------------------------------------------- gate


def clean_mask(samples_s: NDArray[np.float64], cpu_over_wall: Sequence[float]) -> NDArray[np.bool_]:
    """Which samples count: a positive time, and every thread had its CPU (no indicator recorded: taken as clean)."""
    good = np.isfinite(samples_s) & (samples_s > 0)
    ratio = np.asarray(cpu_over_wall, dtype=np.float64)
    if ratio.size == samples_s.size:
        good &= ratio >= CONTENDED
    elif ratio.size:
        good[: ratio.size] &= ratio[: samples_s.size] >= CONTENDED
    return good


def _plainly_clean(samples_s: Sequence[float], cpu_over_wall: Sequence[float]) -> bool:
    """What most visits are, told without making arrays."""
    if not samples_s or min(samples_s) <= 0 or not math.isfinite(sum(samples_s)):
        return False
    return not cpu_over_wall or min(cpu_over_wall) >= CONTENDED


def visit_of(
    outcome: Measured | Disturbed, unit: str, amount: float, *, launch: int, round: int, started: float = 0.0
) -> Visit:
    """The visit's clean values in `unit` for `amount` per call, in the order they were taken."""
    seconds = np.asarray(outcome.samples_s, dtype=np.float64)
    kept, backward = seconds, 0
    if not _plainly_clean(outcome.samples_s, outcome.cpu_over_wall):
        kept = seconds[clean_mask(seconds, outcome.cpu_over_wall)]
        backward = int(seconds.size - np.count_nonzero(seconds > 0))
    one = value_of(unit, amount, 1.0)
    values = one / kept if higher_is_better(unit) else one * kept
    return Visit(
        launch=launch,
        round=round,
        started=started,
        values=values,
        total=seconds.size,
        backward=backward,
        median=median(values) if values.size else math.nan,
        clock_ghz=_clock_of(outcome.clock_ghz),
    )


def _clock_of(clock_ghz: Sequence[float]) -> float:
    """Median of what was read; 0 says that a sample was too short for its clock."""
    seen = [ghz for ghz in clock_ghz if ghz > 0]
    return statistics.median(seen) if seen else 0.0


def estimate(visits: Iterable[Visit], *, higher: bool = True, sittings: Mapping[int, int] | None = None) -> Estimate:
    """Value, interval and flags of one case from all its visits.

    Visits with under half of their samples clean are left out; where that is over half of all samples the case is
    disturbed and has no interval. `sittings` maps launch numbers to sittings; three or more: scope `machine`."""
    visits = list(visits)
    total = sum(visit.total for visit in visits)
    clean = sum(visit.values.size for visit in visits)
    backward = sum(visit.backward for visit in visits)
    used = [visit for visit in visits if not visit.disturbed]
    contended = 1 - clean / total if total else 0.0
    if not used or 2 * clean < total:
        why = "no samples" if not total else f"{clean} of {total} samples are clean"
        why += f", {backward} of them with the clock going backwards" if backward else ""
        return Estimate(interval=None, launch_values={}, contended=contended, samples=total, reason=why)
    by_launch: dict[int, list[Visit]] = {}
    for visit in used:
        by_launch.setdefault(visit.launch, []).append(visit)
    values = {launch: statistics.median(visit.median for visit in group) for launch, group in sorted(by_launch.items())}
    modes = regimes([[visit.values for visit in group] for group in by_launch.values()])
    flags = ["two regimes"] if modes else []
    if backward:
        flags.append("clock went backwards")
    if len(values) == 1:
        interval = within_process([visit.values for visit in used])
    else:
        interval = _over_sittings(values, sittings or {}, higher)
        if len(values) < 3:
            flags.append("fewer than 3 launches")
        if _wanders([[visit.values for visit in group] for group in by_launch.values()], interval.relative):
            flags.append("unsteady")
    return Estimate(interval=interval, launch_values=values, contended=contended, samples=total, flags=tuple(flags),
                    regimes=modes)  # fmt: skip


def _over_sittings(values: Mapping[int, float], sittings: Mapping[int, int], higher: bool) -> Interval:
    groups: dict[int, list[float]] = {}
    for launch, value in values.items():
        groups.setdefault(sittings.get(launch, 0), []).append(value)
    if len(groups) >= 3:
        return merge_sittings(list(groups.values()), higher=higher)
    return launch_interval(list(values.values()), higher=higher)


def _wanders(launches: Sequence[Sequence[NDArray[np.float64]]], half: float) -> bool:
    """True where what happens inside the launches moves the estimate more than they differ: then they agree by luck."""
    within = 1.96 * math.sqrt(sum(_launch_error(visits) ** 2 for visits in launches)) / len(launches)
    return within > max(half, _UNSTEADY)


def _launch_error(visits: Sequence[NDArray[np.float64]]) -> float:
    """Relative standard error of one launch's value from within: batch medians of its visits, or of blocks of samples
    long enough to outlast their correlation."""
    if len(visits) >= 5:
        batches = np.array([median(visit) for visit in visits])
        return _batch_error(batches)
    return math.sqrt(sum(_batch_error(_block_medians(visit)) ** 2 for visit in visits)) / len(visits)


def _block_medians(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    block = max(1, math.isqrt(samples.size))
    whole = samples[: samples.size // block * block].reshape(-1, block)
    medians: NDArray[np.float64] = np.sort(whole, axis=1)[:, block // 2]
    return medians


def _batch_error(batches: NDArray[np.float64]) -> float:
    n = batches.size
    if n < 2:
        return 0.0
    mean = float(batches.sum()) / n
    offset = batches - mean
    return math.sqrt(float(offset @ offset) / (n - 1) / n) / mean


def case_estimate(records: Iterable[Record]) -> Estimate:
    """The estimate of one case of one run from its records; outcomes without timings are passed over."""
    visits, higher = [], True
    for record in records:
        if isinstance(record.outcome, Measured | Disturbed):
            figure = record.figure
            higher = higher_is_better(figure.unit)
            visits.append(visit_of(record.outcome, figure.unit, figure.amount, launch=record.launch, round=record.round,
                                   started=record.started))  # fmt: skip
    return estimate(visits, higher=higher)


def case_interval(records: Iterable[Record]) -> Interval | None:
    """Value and interval of one case from its records so far, or None where too few samples are clean."""
    return case_estimate(records).interval
