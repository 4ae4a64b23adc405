"""What to measure next: log bisection between the sure cells around a crossing, for `run --refine FILE`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pykernels.analysis.crossover.analysis import Studied, study
from pykernels.analysis.crossover.answers import REFUSED, Options
from pykernels.analysis.crossover.finder import next_values
from pykernels.analysis.crossover.sides import RunLike


class Refinement(msgspec.Struct, frozen=True, kw_only=True):
    """Values of one parameter to measure in one run, so that each launch visits them all; `new` are those without a
    cell.

    `case_ids` are the cases, of both sides, that hold everything else: replace `parameter` in their problem."""

    workload: str
    axis: str
    parameter: str
    values: tuple[float, ...]
    new: tuple[float, ...]
    case_ids: tuple[str, ...]


def refine(runs: Sequence[RunLike], options: Options | None = None) -> list[Refinement]:
    """The next cells of every crossing that is held by distant neighbours; empty when there is nothing to gain."""
    _, _, studied = study(runs, options or Options())
    found: list[Refinement] = []
    for one in studied:
        if one.axis.parameter and one.answer.kind != REFUSED:
            found += [
                more for values in next_values(one.curve, one.finding) if (more := _next(one, values)) is not None
            ]
    return found


def _next(one: Studied, places: Sequence[float]) -> Refinement | None:
    values = [_parameter(one, place) for place in places]
    measured = {_parameter(one, place) for place in one.curve.x}
    new = tuple(value for value in dict.fromkeys(values) if value not in measured)
    if not new:
        return None  # whole numbers leave nothing between
    base = min(one.points, key=lambda point: abs((one.axis.place(point) or 0.0) - places[len(places) // 2]))
    cases = [base.cpu.case_id] + ([base.rival.cell.case_id] if base.rival.cell else [])
    return Refinement(
        workload=one.answer.workload,
        axis=one.axis.name,
        parameter=one.axis.parameter,
        values=tuple(dict.fromkeys(values)),
        new=new,
        case_ids=tuple(cases),
    )


def _parameter(one: Studied, place: float) -> float:
    """The kernel parameter's value at a place: rows from table bytes, dim from row bytes in whole vectors of 16."""
    load = one.points[0].load
    name = one.axis.parameter
    if name == "rows":
        return float(round(place / (load.tables * load.row_bytes)))
    if name == "dim":
        return float(max(16, 16 * round(place / load.row_bytes * load.dim / 16)))
    return round(place, 3) if name == "zipf" else float(round(place))
