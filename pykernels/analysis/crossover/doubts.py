"""What stands against an answer: reasons to conclude nothing, and what keeps a tie or a winner from being sure."""

from __future__ import annotations

import math

from pykernels.analysis.crossover.answers import Options
from pykernels.analysis.crossover.axes import Axis
from pykernels.analysis.crossover.finder import SURE, Curve, Finding, label_of
from pykernels.analysis.crossover.points import Judged, Point
from pykernels.analysis.crossover.sides import RECSYS

#: Launch paths of which a measured GPU answer must be the best.
LEAST_PATHS = 3


def refusals(finding: Finding, held: list[Point], curve: Curve, options: Options) -> list[str]:
    """Why nothing is concluded: too few launches or launch paths, a kernel far from its roof, or no roof to judge it
    by."""
    if len(curve.ratios) < 2:
        return [f"one launch has no interval; measure at least 3: {RECSYS}"]
    reasons = []
    measured = [point for point in held if point.rival.cell is not None]
    paths = sorted({path for point in measured for path in point.paths})
    if measured and len(paths) < LEAST_PATHS:
        reasons.append(
            f"only the launch path{'s' * (len(paths) != 1)} {', '.join(paths)} of the GPU measured, and the path moves "
            f"the answer more than the kernel: at least {LEAST_PATHS} are needed (of plain, graph, mapped, "
            f"persistent): {RECSYS}"
        )
    return reasons + _weak(_deciding(finding, held, curve), options.min_share)


def _deciding(finding: Finding, held: list[Point], curve: Curve) -> list[Point]:
    """The measured cells an answer rests on: the sure cells around its crossings, else every cell."""
    brackets = [event.bracket for event in finding.events if event.at != "capacity"]
    if not brackets or finding.kind not in ("crossing", "several"):
        return held
    places_kept = {place for bracket in brackets for place in bracket}
    return [point for point, x in zip(held, curve.x, strict=True) if x in places_kept]


def _weak(points: list[Point], least: float) -> list[str]:
    """Of each side, what its run lacks to judge it, and the cell furthest below its time roof with how many are: those
    whose share's whole interval is."""
    found = []
    for side in ("CPU", "GPU"):
        cells = [_judged(point, side) for point in points]
        judged = [(point, cell, how) for point, (cell, how) in zip(points, cells, strict=True) if cell is not None]
        lacking = {what for _, cell, _ in judged for what in cell.missing if not what.startswith("link")}
        if lacking:
            what = " and no ".join(sorted(lacking))
            found.append(f"the {side} side cannot be judged: this run has no {what}; measure it: {RECSYS}")
            continue
        low = [
            (cell.share, cell, point, how)
            for point, cell, how in judged
            if cell.share is not None and max(cell.share, cell.share_high) < least
        ]
        if low:
            share, cell, point, how = min(low, key=lambda one: one[0])
            others = f" ({len(low)} of {len(judged)} deciding cells are under it)" if len(low) > 1 else ""
            interval = f"{share:.0%} [{cell.share_low:.0%}, {cell.share_high:.0%}]"
            found.append(
                f"the {side} kernel ({how}) runs at {interval} of its time roof, under {least:.0%}, "
                f"at {point.load.describe()}{others}"
            )
    return found


def _judged(point: Point, side: str) -> tuple[Judged | None, str]:
    """A measured side's judgement and its implementation; None where the side is not measured."""
    if side == "CPU":
        return point.cpu_judged, point.cpu.how
    return (point.gpu_judged if point.rival.cell is not None else None), point.rival.how


def doubts(finding: Finding, held: list[Point], axis: Axis, band: float) -> list[str]:
    """What keeps a tie or a winner from being sure: intervals wider than the band, a projection's range."""
    notes = []
    cells = list(zip(finding.labels, finding.centre, finding.low, finding.high, strict=True))
    if finding.unclear:
        first, last = (axis.format(place) for place in finding.unclear)
        where = f"at {axis.name} {first}" if first == last else f"between {axis.name} {first} and {last}"
        widest = max(high - centre for label, centre, _, high in cells if label == "unclear")
        notes.append(
            f"the winner {where} is unclear: intervals of up to {_off(widest)} reach the {band:.0%} band; "
            f"more launches tell: {RECSYS} --launches 20"
        )
    ties = [max(high, -low) for label, _, low, high in cells if label == "tie"]
    if finding.kind == "tie band" and max(ties, default=0.0) > math.log1p(band):
        notes.append(f"equal on average, but intervals allow a difference of up to {_off(max(ties))}")
    if finding.kind.startswith("none") and held[0].rival.cell is None:
        labels = [label_of(*(point.ratio() or (math.nan,) * 3), band) for point in held]
        doubtful = [axis.place(point) for point, label in zip(held, labels, strict=True) if label not in SURE]
        if doubtful:
            notes.append(f"within the range of the GPU's time not sure at {axis.name} {_listed(axis, doubtful)}")
    return notes


def _off(log_ratio: float) -> str:
    """A distance in the log of a ratio as a percentage, or as a factor where it is large."""
    return f"{math.expm1(log_ratio):.0%}" if log_ratio < 1 else f"{math.exp(min(log_ratio, 700)):.2g}x"


def _listed(axis: Axis, places_: list[float | None], most: int = 4) -> str:
    words = [axis.format(place) for place in places_[:most]]
    return ", ".join(words) + (f" and {len(places_) - most} more" if len(places_) > most else "")
