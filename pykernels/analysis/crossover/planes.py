"""Planes of batch x table bytes, for the heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pykernels.analysis.crossover.answers import Options, Plane
from pykernels.analysis.crossover.points import Point
from pykernels.analysis.crossover.sides import Sides
from pykernels.analysis.crossover.workload import Workload

LEAST_SIDE = 3


def planes_of(points: Sequence[Point], sides: Sides, options: Options) -> list[Plane]:
    """Every workload with at least three batches by three table sizes under one metric and one pair of ends."""
    fields = [field for field in Workload.__struct_fields__ if field not in ("bags", "rows", "scale")]
    by_key: dict[tuple[object, ...], list[Point]] = {}
    widest = max(point.threads for point in points)
    for point in points:
        if point.threads == widest:
            key = (*(getattr(point.load, field) for field in fields), point.metric, point.ends)
            by_key.setdefault(key, []).append(point)
    return [plane for group in by_key.values() if (plane := _plane(group, sides, options)) is not None]


def _plane(group: Sequence[Point], sides: Sides, options: Options) -> Plane | None:
    at = {(float(point.load.bags), point.load.table_bytes): point for point in group}
    batches, tables = sorted({b for b, _ in at}), sorted({t for _, t in at})
    # a star's arms share one row and one column with the plane; a place counts only where both directions are filled
    tables = [t for t in tables if sum((b, t) in at for b in batches) >= LEAST_SIDE]
    batches = [b for b in batches if sum((b, t) in at for t in tables) >= LEAST_SIDE]
    if len(batches) < LEAST_SIDE or len(tables) < LEAST_SIDE:
        return None
    plane = Plane(
        workload=group[0].load.describe(without="table").replace(f", batch {group[0].load.bags}", ""),
        ends=group[0].ends,
        metric=group[0].metric,
        source=sides.source,
        gpu=sides.what["GPU"],
        batch=batches,
        table=tables,
        band=options.band,
    )
    for (b, t), point in at.items():
        if b in batches and t in tables:
            ratios = list(point.log_ratios().values())
            plane.log2[f"{b:g}|{t:g}"] = sum(ratios) / len(ratios) / math.log(2) if ratios else None
            if point.rival.cell is not None:
                plane.measured.append(f"{b:g}|{t:g}")
            if any(share < options.min_share for share in point.shares()):
                plane.weak.append(f"{b:g}|{t:g}")
    refused = [t for (_, t), point in at.items() if point.rival.refused]
    plane.edge = min(refused) if refused else None
    return plane
