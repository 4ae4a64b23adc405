"""From run files to the crossover report: compare equal ends, find changes of winner, refuse what proves nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

from pykernels.analysis.crossover import planes
from pykernels.analysis.crossover.answers import (
    REFUSED,
    Answer,
    CellAnswer,
    CurveView,
    Options,
    Report,
    Source,
)
from pykernels.analysis.crossover.axes import AXES, LEAST_CELLS, Axis, groups
from pykernels.analysis.crossover.breakeven import break_even, places, sensitivity
from pykernels.analysis.crossover.cells import workload_of
from pykernels.analysis.crossover.claims import claims
from pykernels.analysis.crossover.doubts import doubts, refusals
from pykernels.analysis.crossover.finder import Curve, Finding, find, label_of, next_values
from pykernels.analysis.crossover.generated import generated_groups
from pykernels.analysis.crossover.points import Point
from pykernels.analysis.crossover.roofs import FLOOR_LOOKUPS
from pykernels.analysis.crossover.sentences import sentence
from pykernels.analysis.crossover.sides import RECSYS, RunLike, Sides, check_equal, check_loads, points_of, sides_of
from pykernels.analysis.crossover.sources import ENDS, EQUAL_ENDS, check_ends
from pykernels.analysis.crossover.steps import capacity_edge, steps_on
from pykernels.errors import UsageError, unknown
from pykernels.model import Skipped


class Studied(msgspec.Struct, kw_only=True):
    """One axis of one workload: its points in order, its curve, what the finder saw, and the answer."""

    axis: Axis
    points: list[Point]
    curve: Curve
    finding: Finding
    answer: Answer


def analyse(runs: Sequence[RunLike], options: Options | None = None) -> Report:
    """The crossover report of one or two run files. Pure; raises UsageError for what cannot be compared."""
    options = options or Options()
    sides, points, studied = study(runs, options)
    report = Report(cpu=sides.what["CPU"], gpu=sides.what["GPU"], source=sides.source)
    report.assumptions = sides.projection.sentences() if sides.projection else []
    if sides.fit:
        report.fit = (
            f"closed form fitted to {sides.fit.cells} cells; leave-one-out error {sides.fit.loo_median:.1%} median, "
            f"{sides.fit.loo_p90:.1%} at the 90th percentile; used inside the recorded ranges only"
        )
    report.answers = [one.answer for one in studied]
    report.cells = [_cell(point, sides, options.band) for point in points]
    timed = [p for p in points if p.metric == "saturated" and not p.rival.refused and options.per == "device"]
    timed = [p for p in timed if p.load.lookups > FLOOR_LOOKUPS]
    report.break_even = [break_even(point, sides.source) for point in timed if point.rival.cell or point.rival.parts]
    drawn = [one for one in studied if one.answer.kind != REFUSED or one.finding.labels]
    report.curves = [_view(one, options.band) for one in drawn]
    report.planes = planes.planes_of(points, sides, options)
    report.not_compared = _not_compared(sides, points)
    report.claims = claims([*report.cells, *_generated_cells(studied, sides, options.band)])
    return report


def study(runs: Sequence[RunLike], options: Options) -> tuple[Sides, list[Point], list[Studied]]:
    """Both sides, every compared point, and every axis that was studied."""
    for axis in options.axes:
        if axis not in AXES:
            raise unknown("axis", axis, AXES)
    ends = check_ends(options.ends)
    sides = sides_of(runs, options)
    asked_one = len(ends) == 1
    points: list[Point] = []
    for end in ends:
        if asked_one:
            check_equal(sides, ENDS[end])
        for gpu_ends in EQUAL_ENDS[ENDS[end]]:
            for metric in sides.metrics():
                points += points_of(sides, ENDS[end], gpu_ends, metric)
    if not points:
        _nothing(sides, ends)
    _require_links(sides, points)
    studied = _study_axes(sides, points, options)
    return sides, points, studied


def _study_axes(sides: Sides, points: list[Point], options: Options) -> list[Studied]:
    studied = []
    widest = max(point.threads for point in points)
    for name, axis in AXES.items():
        if options.axes and name not in options.axes:
            continue
        chosen = points if name == "threads" else [point for point in points if point.threads == widest]
        modelled = axis.generated and (sides.projection or sides.fit)
        if axis.generated and not options.metrics:  # of one metric unless more are asked for: they say much the same
            chosen = [point for point in chosen if point.metric == "saturated"] or chosen
        found = generated_groups(sides, chosen, axis) if modelled else groups(chosen, axis)
        whole = [group for group in found if len(group) >= LEAST_CELLS]
        if name in options.axes and not whole:
            raise UsageError(_too_few(name, found, sides))
        studied += [_study(sides, axis, group, options) for group in whole]
    return studied


def _too_few(name: str, found: list[list[Point]], sides: Sides) -> str:
    most = max((len(group) for group in found), default=0)
    if AXES[name].generated and sides.source in ("paired", "cross-machine"):
        return (
            f'axis "{name}" needs a model of the GPU side: give --against SLUG, or --modelled with a recorded GPU run'
        )
    if name == "threads" and (reason := _few_threads(sides, most)):
        return reason
    return (
        f'axis "{name}" has at most {most} cells of one workload, and needs {LEAST_CELLS}; measure more: {RECSYS}-full'
    )


def _few_threads(sides: Sides, most: int) -> str:
    """Why a machine with few cores has no axis of threads; "" where it has cores enough."""
    machine = sides.machines[sides.cpu[0].run]
    cores = len(machine.cores)
    if cores >= 2 ** (LEAST_CELLS - 1) or most >= LEAST_CELLS:
        return ""
    return (
        f'axis "threads" has {most} cell{"s" * (most != 1)} of one workload and needs {LEAST_CELLS} (1, 2, 4 and 8 '
        f"threads): this machine has {cores} core{'s' * (cores != 1)}"
    )


def _nothing(sides: Sides, ends: Sequence[str]) -> None:
    for end in ends:
        check_equal(sides, ENDS[end])
        check_loads(sides, ENDS[end])
    if sides.options.per == "watt":
        why = "; ".join(sorted({f"{cell.side}: {cell.no_energy}" for cell in sides.cpu + sides.gpu if cell.no_energy}))
        raise UsageError(
            "no cell has energy readings of both sides (RAPL, NVML), so nothing can be said per watt"
            + (f" ({why})" if why else "")
        )
    metrics = ", ".join(sides.options.metrics) or "any metric"
    wanted = " or ".join(ENDS[end] for end in ends)
    raise UsageError(f"no cells with ends {wanted} under {metrics} on both sides; measure them: {RECSYS}")


def _require_links(sides: Sides, points: Sequence[Point]) -> None:
    for point in points:
        judged = point.gpu_judged
        lacking = [what for what in (judged.missing if judged else ()) if what.startswith("link")]
        if lacking and point.rival.cell:
            path = sides.machines[point.rival.cell.run].id
            raise UsageError(
                f"the run of machine {path} has no measurement of the {' and the '.join(lacking)}, so its GPU cells "
                f"with ends {point.rival.ends} cannot be judged; measure it: pykernels run gpu -k link, or {RECSYS}"
            )


# ---------------------------------------------------------------------------------------------------------- one axis


def _study(sides: Sides, axis: Axis, group: list[Point], options: Options) -> Studied:
    held = [point for point in group if point.log_ratios()]
    curve = _curve(sides, axis, group, held)
    first = group[-1]
    answer = Answer(
        workload=first.load.describe(without=axis.name),
        axis=axis.name,
        metric=first.metric,
        ends=first.ends,
        source=_source(sides.source, first.metric),
        kind=REFUSED,
        unit=axis.unit,
        per=options.per,
        cpu=sides.what["CPU"],
        gpu=sides.what["GPU"],
    )
    finding = Finding(kind=REFUSED, labels=[], centre=[], low=[], high=[])
    if all(point.rival.refused for point in group):
        answer.kind = "none (CPU everywhere in range)"
        answer.notes.append("only the CPU runs: the GPU's memory cannot hold the table")
    elif len(held) < 2:
        answer.notes.append(
            f"only {len(held)} cells have launches that are clean on both sides; measure again: {RECSYS}"
        )
    else:
        finding = find(curve, options.band)
        _fill(answer, finding, sides, axis, held, curve, options)
    answer.sentence = sentence(answer)
    return Studied(axis=axis, points=held, curve=curve, finding=finding, answer=answer)


def _source(source: Source, metric: str) -> Source:
    """Lookups served by two machines under Poisson arrivals were never served together."""
    return "modelled" if source == "cross-machine" and metric.startswith("served") else source


def _curve(sides: Sides, axis: Axis, group: list[Point], held: list[Point]) -> Curve:
    ratios = [point.log_ratios() for point in held]
    launches = sorted({launch for one in ratios for launch in one})
    places_held = [axis.place(point) or 0.0 for point in held]
    edge, bracket = capacity_edge(sides, axis, group)
    return Curve(
        x=places_held,
        ratios=[[one.get(launch, math.nan) for one in ratios] for launch in launches],
        log_axis=axis.log and all(x > 0 for x in places_held),
        steps=steps_on(sides, axis, group),
        edge=edge,
        edge_bracket=bracket,
    )


def _fill(
    answer: Answer, finding: Finding, sides: Sides, axis: Axis, held: list[Point], curve: Curve, options: Options
) -> None:
    against = refusals(finding, held, curve, options)
    if against:
        answer.notes = against
        return
    answer.kind, answer.tie, answer.events, answer.notes = finding.kind, finding.tie, finding.events, finding.notes
    answer.value, answer.low, answer.high = finding.value, finding.value_low, finding.value_high
    answer.bracket = finding.bracket
    if finding.kind == "crossing" and finding.events[0].at == "root":
        launches = finding.events[0].launches
        answer.interval = f"95% over {launches} launches"
        if held[0].rival.cell is None:
            _widen(answer, sides, held, curve)
        answer.sensitivity = sensitivity(held, curve, options.band)
    answer.notes = answer.notes + doubts(finding, held, axis, options.band)
    if next_values(curve, finding) and axis.parameter:
        answer.notes.append("the cells beside it are far apart: pykernels run --refine FILE measures between them")
    if held[0].cpu.link_s:
        answer.notes.append("C1 is derived: C0, then its result over the link")
    if axis.name == "hit" and held[0].rival.cell is None:
        answer.notes.append("for a table beyond GPU memory that the CPU gathers at this rate")
    if axis.name != "table" and sides.source in ("paired", "cross-machine") and answer.ends[-2:] in ("G3", "G5"):
        memory = held[0].gpu_judged.device.memory if held[0].gpu_judged and held[0].gpu_judged.device else math.inf
        if held[0].load.table_bytes <= memory:
            answer.notes.append("this table fits in GPU memory, where G1 and G2 are the fair opponents")


def _widen(answer: Answer, sides: Sides, held: list[Point], curve: Curve) -> None:
    """The place where the answer would lie with the GPU side at either end of its range."""
    centre = find(curve).centre
    roots: list[float | None] = []
    for bound in ("low", "high"):
        shifts = [math.log(next(iter(p.rival.costs.values())) / getattr(p.rival, bound)) for p in held]
        ratios = [[r + s for r, s in zip(centre, shifts, strict=True)]]
        exact = Curve(x=curve.x, ratios=ratios, log_axis=curve.log_axis, steps=curve.steps, exact=True)
        events = find(exact, 0.0).events
        roots.append(events[0].value if events else None)
    known = [root for root in roots if root is not None]
    what = "range of the assumptions" if sides.projection else "95% over launches, widened by the fit's error"
    if len(known) < 2:
        answer.notes.append("at one end of the range there is no crossing")
    bounds = [*known, *([] if sides.projection else [v for v in (answer.low, answer.high) if v is not None])]
    bounds += [answer.value] if answer.value is not None else []
    answer.low = min(bounds) if len(known) == 2 or min(bounds) < (answer.value or 0) else None
    answer.high = max(bounds) if len(known) == 2 or max(bounds) > (answer.value or 0) else None
    answer.interval = what


# ----------------------------------------------------------------------------------------------------------- the report


def _cell(point: Point, sides: Sides, band: float) -> CellAnswer:
    rival = point.rival
    found = point.ratio()
    centre, low, high = found or (math.nan, math.nan, math.nan)
    winner = "CPU (GPU memory)" if rival.refused else label_of(centre, low, high, band)
    gpu = rival.cell.seconds if rival.cell else next(iter(rival.costs.values()), None)
    suffix = " per dollar" if sides.options.per == "dollar" else ""
    return CellAnswer(
        workload=point.load.describe(),
        axes={**places(point), "threads": float(point.threads)},
        metric=point.metric + suffix,
        ends=point.ends,
        source=_source(sides.source, point.metric),
        cpu_s=point.cpu.seconds,
        gpu_s=gpu,
        ratio=math.exp(centre) if found else None,
        low=math.exp(low) if math.isfinite(low) else None,
        high=math.exp(high) if math.isfinite(high) else None,
        winner=winner,
        launch_path=rival.path,
        cpu_share=point.cpu_judged.share,
        gpu_share=point.gpu_judged.share if point.gpu_judged else None,
        cpu_terms=point.cpu_judged.parts,
        gpu_terms=point.gpu_terms(),
        cpu_how=point.cpu.how,
        gpu_how=rival.how,
    )


def _generated_cells(studied: list[Studied], sides: Sides, band: float) -> list[CellAnswer]:
    return [_cell(point, sides, band) for one in studied if one.axis.name == "hit" for point in one.points]


def _view(one: Studied, band: float) -> CurveView:
    def gpu_seconds(point: Point) -> float | None:
        return point.rival.cell.seconds if point.rival.cell else next(iter(point.rival.costs.values()), None)

    summary = [found for point in one.points if (found := point.ratio()) is not None]
    return CurveView(
        answer=one.answer,
        x=one.curve.x,
        cpu=[point.cpu.seconds for point in one.points],
        gpu=[gpu_seconds(point) for point in one.points],
        ratio=[centre for centre, _, _ in summary],
        low=[low for _, low, _ in summary],
        high=[high for _, _, high in summary],
        log_axis=one.curve.log_axis,
        steps=[(step.name, step.at) for step in one.curve.steps],
        edge=one.curve.edge,
        band=band,
        cpu_terms=[point.cpu_judged.parts for point in one.points],
        gpu_terms=[point.gpu_terms() for point in one.points],
    )


def _skipped_words(sides: Sides) -> list[str]:
    """Cases that were skipped when their turn came, by reason, the slowest ones named."""
    by_reason: dict[str, list[str]] = {}
    for record in sides.skipped:
        assert isinstance(record.outcome, Skipped)
        load = workload_of(record)
        reason = re.sub(r"[\d.]+ m?s take", "one case take", record.outcome.reason)
        what = f"{load.name or load.describe()} batch {load.bags} {record.mode}".strip()
        by_reason.setdefault(reason, []).append(what)
    return [
        f"{_some(len(cases), 'case')} skipped, {reason} ({', '.join(cases)})" for reason, cases in by_reason.items()
    ]


def _not_compared(sides: Sides, points: Sequence[Point]) -> list[str]:
    """CPU cells that found no GPU cell beside them, counted by reason."""
    compared = {point.cpu.load for point in points}
    left = {cell.load for cell in sides.cpu if not cell.refused} - compared
    notes = []
    teams = {point.threads for point in points}
    if 1 < len(teams) < LEAST_CELLS and (reason := _few_threads(sides, len(teams))):
        notes.append(reason)
    if sides.source == "cross-machine" and len({machine.id for machine in sides.machines}) == 1:
        notes.append("pairs of launches: one machine, but the sides come from two run files")
    if left:
        why = "outside the fitted run's range" if sides.fit else "no GPU cell of the same workload and ends"
        notes.append(f"{_some(len(left), 'CPU workload')}: {why}")
    kernel_only = sum(cell.ends == "G0" for cell in sides.gpu)
    if kernel_only:
        notes.append(f"{_some(kernel_only, 'GPU cell')} with ends G0 (kernel only): never part of a crossover")
    notes += _skipped_words(sides)
    disturbed = [cell for cell in sides.cpu + sides.gpu if not cell.refused and not cell.costs]
    return notes + ([f"{_some(len(disturbed), 'cell')} without a clean launch"] if disturbed else [])


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
