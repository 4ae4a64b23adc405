"""What a CPU would have to gather to tie the GPU, and what of an answer moves when a rate does."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pykernels.analysis.crossover import model
from pykernels.analysis.crossover.answers import BreakEven
from pykernels.analysis.crossover.axes import AXES
from pykernels.analysis.crossover.finder import Curve, find
from pykernels.analysis.crossover.points import Point
from pykernels.measure.stats.intervals import launch_interval

#: Each of link, hit share and CPU gather rate is moved by this much.
MOVED = 0.20


def break_even(point: Point, source: str, confidence: float = 0.95) -> BreakEven:
    """gathered / (t_gpu - fixed): the CPU gather rate at which its call takes as long as the GPU's, whose interval over
    launches (or range) carries over. `fixed` is the CPU's floor and, with device ends, its result over the link."""
    rival, load, fixed = point.rival, point.load, point.cpu_fixed()
    if rival.cell is None:
        (middle,) = rival.costs.values()
        bounds, label = (middle, rival.low, rival.high), "range"
    else:
        costs = list(rival.costs.values())
        interval = launch_interval(costs, higher=False, confidence=confidence)
        bounds, label = (interval.value, interval.low, interval.high), f"95% over {len(costs)} launches"
    value, slow, fast = (
        load.gathered / (t - fixed) * 1e-9 if t > fixed else None for t in (bounds[0], bounds[2], bounds[1])
    )
    here = point.cpu.seconds - fixed
    rows = [None if rate is None else rate / load.row_bytes for rate in (value, slow, fast)]
    return BreakEven(
        workload=load.describe(),
        axes=places(point),
        ends=point.ends,
        source=source,  # type: ignore[arg-type]
        gbs=value,
        gbs_low=slow,
        gbs_high=fast,
        grows=rows[0],
        grows_low=rows[1],
        grows_high=rows[2],
        here_gbs=load.gathered / here * 1e-9 if here > 0 else 0.0,
        interval=label,
    )


def places(point: Point) -> dict[str, float]:
    """Where the point lies on every measured axis."""
    values = {name: axis.place(point) for name, axis in AXES.items()}
    return {name: value for name, value in values.items() if value is not None}


def sensitivity(group: Sequence[Point], curve: Curve, band: float) -> dict[str, float | None]:
    """Where the crossing moves when link, CPU gather rate or hit share moves by 20%; None: it leaves the range.

    Each cell's mean ratio is shifted by what its own terms say: measured time, less the term, plus the term rescaled.
    """
    centre = find(curve, band).centre
    moved: dict[str, float | None] = {}
    for what, shift in (("link", _link), ("CPU gather", _gather), ("hit share", _hit)):
        for factor in (1 - MOVED, 1 + MOVED):
            shifts = [shift(point, factor) for point in group]
            if any(s is None for s in shifts):
                continue
            ratios = [r + s for r, s in zip(centre, shifts, strict=True) if s is not None]
            exact = Curve(x=curve.x, ratios=[ratios], log_axis=curve.log_axis, steps=curve.steps, exact=True)
            roots = [event.value for event in find(exact, 0.0).events]
            moved[f"{what} {factor - 1:+.0%}"] = roots[0] if roots else None
    return moved


def _link(point: Point, factor: float) -> float | None:
    """Change of log(t_cpu / t_gpu) when the link is `factor` as fast, on both sides."""
    gpu = point.gpu_terms()
    if not gpu or not _gpu_seconds(point):
        return None
    gpu_shift = _log_shift(_gpu_seconds(point), gpu["link in"] + gpu["link out"], factor)
    cpu = point.cpu_judged.parts
    return _log_shift(point.cpu.seconds, cpu.get("link in", 0.0), factor) - gpu_shift


def _gather(point: Point, factor: float) -> float | None:
    return _log_shift(point.cpu.seconds, max(0.0, point.cpu.seconds - point.cpu_fixed()), factor)


def _hit(point: Point, factor: float) -> float | None:
    """Only a cache over host memory (G5) has a hit share to move."""
    rival = point.rival
    device = point.gpu_judged.device if point.gpu_judged else None
    if rival.ends != "G5" or rival.hit is None or device is None:
        return None
    host = point.cpu.ends == "C0"
    before = model.serial(model.terms(device, point.load, "G5", host_result=host, hit=rival.hit))
    after = model.serial(model.terms(device, point.load, "G5", host_result=host, hit=min(1.0, rival.hit * factor)))
    return math.log(before / after)


def _log_shift(seconds: float, part: float, factor: float) -> float:
    """log of the time's change when its `part` runs `factor` as fast."""
    part = min(part, seconds)
    return math.log((seconds - part + part / factor) / seconds)


def _gpu_seconds(point: Point) -> float:
    if point.rival.cell is not None:
        return point.rival.cell.seconds
    return next(iter(point.rival.costs.values()), 0.0)
