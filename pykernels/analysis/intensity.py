"""The intensity sweep: how sharp the ridge is. `mixed` runs k FMAs per loaded vector, so it walks along the roofline.

A roofline has a sharp corner; machines do not. The smooth minimum P = ((B I)^-p + F^-p)^(-1/p) has one more parameter;
at the ridge it loses 1 - 2^(-1/p) of the sharp corner: the knee loss, 0 for a perfect overlap of loads and arithmetic,
50% where the times add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from pykernels.analysis.common import Campaign, CaseSummary, domain, level_rank, root
from pykernels.measure.stats import Interval, log_interval, ratio_interval
from pykernels.model import Record
from pykernels.units import value_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

KERNEL = "mixed"
_MIN_POINTS = 4
_SHORT = 0.05  #: ends further from their roofs than this are said aloud


class Fit(msgspec.Struct, kw_only=True):
    """Knee loss of one (domain, dtype, threads, ISA, level), with the t interval over launches."""

    device: str
    domain: str
    dtype: str
    threads: int
    isa: str
    level: str
    op: str
    knee_loss: float
    low: float
    high: float
    points: int


class SweepPoint(msgspec.Struct, kw_only=True):
    """GFLOP/s at a FLOP/byte."""

    intensity: float
    value: float
    low: float
    high: float
    values: dict[int, float]  # by launch


class Sweep(msgspec.Struct, kw_only=True):
    """The points of one intensity sweep, in rising order; `bandwidth`, `peak`, `sharpness` once it was fitted."""

    device: str
    domain: str
    dtype: str
    threads: int
    isa: str
    level: str
    op: str
    points: list[SweepPoint] = []
    bandwidth: float = 0.0
    peak: float = 0.0
    knee_loss: float = 0.0

    def curve(self, intensity: float) -> float:
        """GFLOP/s of the fitted smooth minimum."""
        return float(np.exp(_model(np.log([self.bandwidth, self.peak]), self.knee_loss, np.array([intensity])))[0])


def sweeps(cases: Iterable[CaseSummary]) -> list[Sweep]:
    """All intensity sweeps among the cases."""
    groups: dict[tuple[object, ...], Sweep] = {}
    for case in cases:
        record = case.first
        if record.kernel != KERNEL or not record.flops or not record.bytes_requested:
            continue
        key = (domain(record), record.dtype, record.threads, record.isa, record.figure.level)
        sweep = groups.setdefault(key, Sweep(
            device=root(record.device), domain=domain(record), dtype=record.dtype, threads=record.threads,
            isa=record.isa, level=record.figure.level, op=record.figure.op or KERNEL, points=[],
        ))  # fmt: skip
        sweep.points.append(_point(case))
    for sweep in groups.values():
        sweep.points.sort(key=lambda point: point.intensity)
    return sorted(groups.values(), key=lambda s: (s.domain, s.dtype, s.threads, s.isa, level_rank(s.level)))


def _point(case: CaseSummary) -> SweepPoint:
    record, interval = case.first, case.estimate.interval
    assert isinstance(interval, Interval)
    scale = 1e-9 * record.flops / value_of(record.figure.unit, record.figure.amount, 1.0)
    return SweepPoint(
        intensity=record.flops / record.bytes_requested, value=interval.value * scale, low=interval.low * scale,
        high=interval.high * scale, values={launch: value * scale for launch, value in case.values.items()},
    )  # fmt: skip


def fits(study: Campaign, found: Sequence[Sweep]) -> list[Fit]:
    """Fit each sweep with at least four points; the interval is over the fits of single launches (bounds 0 and 0.5)."""
    answers = []
    for sweep in found:
        if len(sweep.points) < _MIN_POINTS:
            continue
        x = np.array([point.intensity for point in sweep.points])
        logs, loss = _fit(x, np.log([point.value for point in sweep.points]))
        sweep.bandwidth, sweep.peak, sweep.knee_loss = float(np.exp(logs[0])), float(np.exp(logs[1])), loss
        low, high = _loss_interval(study, sweep, x, loss)
        answers.append(Fit(
            device=sweep.device, domain=sweep.domain, dtype=sweep.dtype, threads=sweep.threads, isa=sweep.isa,
            level=sweep.level, op=sweep.op, knee_loss=loss, low=low, high=high, points=len(sweep.points),
        ))  # fmt: skip
    return answers


def _loss_interval(study: Campaign, sweep: Sweep, x: NDArray[np.float64], loss: float) -> tuple[float, float]:
    common = set.intersection(*(set(point.values) for point in sweep.points))
    if len(common) < 2:
        return 0.0, 0.5
    by_sitting: dict[int, list[float]] = {}
    for launch in sorted(common):
        y = np.log([point.values[launch] for point in sweep.points])
        by_sitting.setdefault(study.sitting_of[launch], []).append(_fit(x, y)[1])
    groups = list(by_sitting.values())
    losses = np.array([np.mean(group) for group in groups] if len(groups) >= 3 else list(chain(*groups)))
    centre, half = log_interval(losses)  # a plain t interval: the losses are differences, not rates
    return max(0.0, min(float(centre - half), loss)), min(0.5, max(float(centre + half), loss))


def _model(logs: NDArray[np.float64], loss: float, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log GFLOP/s of the smooth minimum with log bandwidth, log peak and knee loss."""
    left, right = logs[0] + np.log(x), np.full_like(x, logs[1])
    p = -math.log(2) / math.log1p(-min(max(loss, 1e-4), 0.5))
    logs_of_x: NDArray[np.float64] = -np.logaddexp(-p * left, -p * right) / p
    return logs_of_x


def _fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """(log bandwidth, log peak) and knee loss by least squares on the logarithms, robust to single bad points."""
    from scipy.optimize import least_squares

    def residuals(q: NDArray[np.float64]) -> NDArray[np.float64]:
        return _model(q[:2], float(q[2]), x) - y

    start = np.array([np.max(y - np.log(x)), y.max(), 0.1])
    bounds = ([-np.inf, -np.inf, 0.0], [np.inf, np.inf, 0.5])
    answer = least_squares(residuals, start, loss="soft_l1", f_scale=0.05, bounds=bounds)
    return answer.x[:2], float(answer.x[2])


def notes(found: Iterable[Sweep], ceilings: Sequence[CaseSummary]) -> list[str]:
    """Where an end of a sweep stays more than 5% short of the roof it should meet, by per-launch ratios; and whether
    their interval leaves room for meeting it."""
    said = []
    for sweep in found:
        if not sweep.points:
            continue
        same = [c for c in ceilings if _matches(c.first, sweep)]
        load = _highest(c for c in same if c.first.figure.kind == "bandwidth" and c.first.figure.level == sweep.level
                        and c.first.figure.op == "load")  # fmt: skip
        peak = _highest(c for c in same if c.first.figure.kind == "compute" and c.first.dtype == sweep.dtype)
        first, last = sweep.points[0], sweep.points[-1]
        left = {launch: value / first.intensity for launch, value in first.values.items()}
        for values, roof, name in (
            (left, load, f"{sweep.level} load roof"), (last.values, peak, f"{sweep.dtype} peak")
        ):  # fmt: skip
            if roof is None:
                continue
            share, low, high = ratio_interval(values, roof.values)
            if share < 1 - _SHORT:
                where = f"{sweep.level} {sweep.dtype}, {sweep.threads} thread{'s' * (sweep.threads > 1)}"
                chance = ", which may be noise" if high >= 1 - _SHORT else ""
                interval = f"[{low:.0%}, {min(high, 9.99):.0%}]"
                said.append(f"the intensity sweep ({where}) tops out at {share:.0%} {interval} of the {name}{chance}")
    return said


def _matches(record: Record, sweep: Sweep) -> bool:
    return (domain(record), record.threads, record.isa) == (sweep.domain, sweep.threads, sweep.isa)


def _highest(cases: Iterable[CaseSummary]) -> CaseSummary | None:
    return max(cases, key=lambda case: case.interval.value, default=None)
