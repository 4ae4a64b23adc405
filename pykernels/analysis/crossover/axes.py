"""The axes a crossover can lie on: how to read a point's place on one, and which points share all else."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import msgspec

from pykernels.analysis.crossover.points import Point
from pykernels.analysis.crossover.workload import Workload
from pykernels.units import format_size

#: An axis with fewer cells says nothing about where the winner changes.
LEAST_CELLS = 4


class Axis(msgspec.Struct, frozen=True):
    """`place` reads a point; `fields` are the workload's fields that may vary along it; `parameter` is what a new cell
    sets. `generated`: made by a model from a base point, never measured cell by cell."""

    name: str
    unit: str
    place: Callable[[Point], float | None]
    fields: tuple[str, ...]
    parameter: str = ""
    log: bool = True
    generated: bool = False

    def format(self, value: float | None) -> str:
        """A place on the axis in words."""
        if value is None:
            return "-"
        if self.unit == "B":
            return format_size(float(f"{value:.4g}"))  # whole rows make 1 GiB a few bytes less
        text = f"{value:,.0f}" if value >= 100 and self.log else f"{value:.3g}"
        return f"{text} {self.unit}".rstrip() if self.unit else text


AXES = {
    axis.name: axis
    for axis in (
        Axis("batch", "", lambda p: float(p.load.bags), ("bags",), "bags"),
        Axis("table", "B", lambda p: p.load.table_bytes, ("rows", "scale"), "rows"),
        Axis("pooling", "", lambda p: p.load.pooling, ("pooling",), "pooling"),
        Axis("row_bytes", "B", lambda p: p.load.row_bytes, ("dim", "rows"), "dim"),
        Axis("skew", "", lambda p: p.load.zipf, ("zipf",), "zipf", log=False),
        Axis("hit", "", lambda p: p.rival.hit, (), "", log=False, generated=True),
        Axis("threads", "", lambda p: float(p.threads), ("threads",), "threads"),
        Axis("link", "GB/s", lambda p: None, (), "", generated=True),
    )
}


def groups(points: Iterable[Point], axis: Axis) -> list[list[Point]]:
    """Points that differ on this axis only, each group in rising order with one point a place.

    Wider rows at the same number of rows and at the same table bytes are different experiments; both are looked for."""
    keys = [_key(axis, keep) for keep in (("rows", "bytes") if axis.name == "row_bytes" else ("",))]
    found: list[list[Point]] = []
    points = list(points)
    for key in keys:
        by_key: dict[Hashable, dict[float, Point]] = {}
        for point in points:
            place = axis.place(point)
            if place is not None:
                by_key.setdefault(key(point), {}).setdefault(place, point)
        found += [[group[place] for place in sorted(group)] for group in by_key.values()]
    return found


def _key(axis: Axis, keep: str) -> Callable[[Point], Hashable]:
    fields = [field for field in Workload.__struct_fields__ if field not in axis.fields]

    def key(point: Point) -> Hashable:
        values: list[Hashable] = [getattr(point.load, field) for field in fields]
        if axis.name != "threads":
            values.append(point.threads)
        if keep == "rows":
            values.append(point.load.rows)
        elif keep == "bytes":
            values.append(f"{point.load.table_bytes:.1e}")
        return (*values, point.ends, point.metric)

    return key
