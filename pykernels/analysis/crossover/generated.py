"""Axes that no sweep measures cell by cell: the link and the hit share of a row cache, made by the GPU's model from
each workload's base point. The CPU side stays as measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from pykernels.analysis.crossover import model
from pykernels.analysis.crossover.axes import AXES, LEAST_CELLS, Axis, groups
from pykernels.analysis.crossover.points import Judged, Point
from pykernels.analysis.crossover.roofs import FLOOR_LOOKUPS
from pykernels.analysis.crossover.sides import Sides
from pykernels.analysis.crossover.sources import Projection, Rival

#: GB/s per direction, from PCIe 3.0 x16 to chip-to-chip links
LINKS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 450.0)
#: batch of a base point where a star has no centre
BATCH = 256
HITS = tuple(k / 10 for k in range(11))


def generated_groups(sides: Sides, points: Sequence[Point], axis: Axis) -> list[list[Point]]:
    """For each base point with host or device ends: the same call with another link, or with a row cache (G5) of
    another hit share over a host table too large for the GPU. The GPU side must be modelled."""
    if axis.name == "hit":
        return [[_with_hit(sides, point, hit) for hit in HITS] for point in bases(points)]
    return [[_with_link(sides, point, link) for link in LINKS] for point in bases(points)]


def bases(points: Sequence[Point]) -> list[Point]:
    """The centre of each workload's star: of the points that share tables, row type and skew, the one on most axes, and
    of several such that with the batch nearest to BATCH."""
    usable = [
        point
        for point in points
        if point.rival.ends in ("G1", "G2") and not point.rival.refused and point.load.lookups > FLOOR_LOOKUPS
    ]
    counts: Counter[int] = Counter()
    for axis in AXES.values():
        if not axis.generated:
            for group in groups(usable, axis):
                if len(group) >= LEAST_CELLS:
                    counts.update(id(point) for point in group)
    best: dict[tuple[object, ...], Point] = {}
    for point in usable:
        key = (point.load.name or point.load.tables, point.load.dtype, point.metric, point.ends)
        if key not in best or _rank(point, counts) > _rank(best[key], counts):
            best[key] = point
    return list(best.values())


def _rank(point: Point, counts: Counter[int]) -> tuple[int, float]:
    return counts[id(point)], -abs(math.log(point.load.bags / BATCH))


def _with_link(sides: Sides, point: Point, link: float) -> Point:
    host = point.cpu.ends == "C0"
    if sides.projection:
        assumed = msgspec.structs.replace(sides.projection.assumptions, link_gbs=link)
        rival = Projection(sides.projection.sheet, assumed).rival(point.load, point.rival.ends, host_result=host)
    else:
        assert sides.fit is not None
        device = msgspec.structs.replace(sides.fit.device, h2d=link * 1e9, d2h=link * 1e9)
        rival = _modelled(sides, device, point, point.rival.ends, host)
    judged = Judged(device=None, parts=rival.parts)
    return LinkPoint(**{**msgspec.structs.asdict(point), "rival": rival, "gpu_judged": judged}, link=link)


def _with_hit(sides: Sides, point: Point, hit: float) -> Point:
    host = point.cpu.ends == "C0"
    if sides.projection:
        device = sides.projection.device()
        rival = sides.projection.rival(point.load, "G5", host_result=host, hit=hit)
    else:
        assert sides.fit is not None
        device = sides.fit.device
        rival = msgspec.structs.replace(_modelled(sides, device, point, "G5", host, hit), hit=hit)
    return msgspec.structs.replace(point, rival=rival, gpu_judged=Judged(device=device, parts=rival.parts))


def _modelled(
    sides: Sides, device: model.Device, point: Point, ends: str, host: bool, hit: float | None = None
) -> Rival:
    assert sides.fit is not None
    parts = model.terms(device, point.load, ends, host_result=host, hit=hit)
    seconds, off = model.serial(parts), math.exp(sides.fit.loo_p90)
    return Rival(
        ends=ends, how="fit of a recorded run", costs={0: seconds}, low=seconds / off, high=seconds * off, parts=parts
    )


class LinkPoint(Point, frozen=True, kw_only=True):
    """A point whose GPU side has another link (GB/s per direction, nominal)."""

    link: float


AXES["link"] = msgspec.structs.replace(AXES["link"], place=lambda point: getattr(point, "link", None))
