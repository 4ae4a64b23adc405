"""The two sides of a comparison: which run gives the CPU's cells, and what stands beside each of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from pykernels.analysis.crossover import model
from pykernels.analysis.crossover.answers import Options, Source
from pykernels.analysis.crossover.cells import KERNEL, METRICS, Cell, cells_of
from pykernels.analysis.crossover.points import Judged, Point, best_of, judge_launches
from pykernels.analysis.crossover.roofs import Ceiling, ceilings_by_launch, ceilings_of, device_of
from pykernels.analysis.crossover.sources import (
    EQUAL_ENDS,
    Projection,
    Rival,
    project,
    source_of,
    what_cpu,
    what_gpu,
)
from pykernels.analysis.crossover.workload import Workload
from pykernels.errors import UsageError
from pykernels.model import Disturbed, Machine, Measured, Record, Skipped

RECSYS = "pykernels run recsys"


class RunLike(Protocol):
    """What the analysis reads of a run file (`store.Run` is one)."""

    path: str
    header: Any
    records: Any


class Sides(msgspec.Struct, kw_only=True):
    """Everything the comparison draws on. `gpu` is empty where the GPU side is not measured."""

    options: Options
    machines: list[Machine]
    cpu: list[Cell]
    gpu: list[Cell]
    ceilings: list[list[Ceiling]]  # of each run
    launches: list[dict[int, list[Ceiling]]]  # of each run, by launch
    source: Source
    paired: bool
    projection: Projection | None = None
    fit: model.Fit | None = None
    what: dict[str, str] = {}  # "CPU" and "GPU" in words
    skipped: list[Record] = []  # lookups that no visit timed, the last visit of each

    def metrics(self) -> list[str]:
        """Metrics to answer: those asked for, else all the CPU's cells have (a model gives times, no tails)."""
        held = {cell.metric for cell in self.cpu if cell.costs}
        asked = self.options.metrics or METRICS
        if self.options.per == "watt":
            asked = ("energy",)
        found = [metric for metric in METRICS if metric in held and _asked(metric, asked)]
        if self.options.per != "watt":
            found = [metric for metric in found if metric != "energy" or self.options.metrics]
        return [m for m in found if m in ("saturated", "p50")] if self.projection or self.fit else found


def _asked(metric: str, asked: Iterable[str]) -> bool:
    return any(metric == one or metric.split("@")[0] == one for one in asked)


def sides_of(runs: Sequence[RunLike], options: Options) -> Sides:
    """Read the runs and decide where each side comes from. Raises UsageError where a side is missing."""
    cells: list[Cell] = []
    machines = [run.header.machine for run in runs]
    for number, run in enumerate(runs):
        found = cells_of(run.records, machine=run.header.machine.id, run=number)
        if not found:
            raise UsageError(f"{run.path}: no lookup records (kernel embedding_bag); measure them: {RECSYS}")
        cells += found
    ceilings = [ceilings_of(run.records) for run in runs]
    launches = [ceilings_by_launch(run.records) for run in runs]
    cpu = [cell for cell in cells if cell.side == "CPU"]
    gpu = [cell for cell in cells if cell.side == "GPU"]
    if not cpu:
        raise UsageError(f"{runs[0].path}: no CPU side (ends C0 or C1); measure it: {RECSYS}")
    sides = Sides(
        options=options, machines=machines, cpu=cpu, gpu=gpu, ceilings=ceilings, launches=launches, source="paired",
        paired=True,
    )  # fmt: skip
    if options.against:
        sides.projection, sides.gpu, sides.source = project(options.against, options.assumptions), [], "projection"
    elif not gpu:
        raise UsageError(
            f"{runs[0].path}: no GPU side, and no recorded GPU run ships with this version, so nothing can be modelled",
            hint=f"on a machine with a GPU: {RECSYS}; or project a datasheet: --against h100-sxm5-80gb",
        )
    else:
        _choose_runs(sides)
        if options.modelled:
            sides.fit, sides.source = _fit(sides), "modelled"
    sides.cpu += _device_ends(sides)
    sides.skipped = [record for run in runs for record in _skipped(run)]
    _name(sides)
    return sides


def _skipped(run: RunLike) -> list[Record]:
    """The last visit of each lookup case that was skipped whenever its turn came."""
    last = {record.case_id: record for record in run.records if record.kernel == KERNEL}
    timed = {r.case_id for r in run.records if isinstance(r.outcome, Measured | Disturbed)}
    return [r for case_id, r in last.items() if isinstance(r.outcome, Skipped) and case_id not in timed]


def _device_ends(sides: Sides) -> list[Cell]:
    """C1 cells where none was measured: what a C0 call takes, and then its result over the GPU's link, one after the
    other. Nothing but a GPU's machine could measure them; energy and served rates have no such sum."""
    modelled = sides.projection or sides.fit
    if any(cell.ends == "C1" for cell in sides.cpu) or not (modelled or any(cell.ends == "G1" for cell in sides.gpu)):
        return []
    if sides.projection:
        link = sides.projection.device().h2d
    elif sides.fit:
        link = sides.fit.device.h2d
    else:
        runs = {cell.run for cell in sides.gpu}
        links = [c.value for run in runs for c in sides.ceilings[run] if c.kind == "link" and c.op.startswith("h2d")]
        link = max(links, default=0.0)
    if not 0 < link < math.inf:
        return []
    derived = []
    for cell in sides.cpu:
        if cell.costs and cell.metric in ("saturated", "p50", "p99"):
            more = cell.load.result_bytes / link
            costs = {launch: cost + more for launch, cost in cell.costs.items()}
            fields = {"ends": "C1", "costs": costs, "seconds": cell.seconds + more, "link_s": more}
            derived.append(msgspec.structs.replace(cell, **fields))
    return derived


def _choose_runs(sides: Sides) -> None:
    """One machine: every cell counts, launches stay pairs. Two: the CPU of one, the GPU of the other."""
    cpu_runs, gpu_runs = {c.run for c in sides.cpu}, {c.run for c in sides.gpu}
    several = len({machine.id for machine in sides.machines}) > 1
    if several:
        gpu_run = max(gpu_runs)
        cpu_run = min(cpu_runs - {gpu_run}, default=-1)
        if cpu_run < 0:
            raise UsageError(
                "both run files have lookups of a GPU only on the machine that has the CPU's; give one file"
            )
        sides.cpu = [c for c in sides.cpu if c.run == cpu_run]
        sides.gpu = [c for c in sides.gpu if c.run == gpu_run]
        cpu_runs, gpu_runs = {cpu_run}, {gpu_run}
    sides.source = source_of(cpu_runs, gpu_runs, sides.machines)
    sides.paired = not several and bool(cpu_runs & gpu_runs)
    if sides.paired:
        sides.source = "paired"


def _fit(sides: Sides) -> model.Fit:
    """The closed form fitted to the GPU run's saturated cells, best launch path of each."""
    by_load: dict[tuple[Workload, str], list[Cell]] = {}
    for cell in sides.gpu:
        if cell.metric == "saturated" and cell.costs and cell.ends in ("G1", "G2", "G3", "G5"):
            by_load.setdefault((cell.load, cell.ends), []).append(cell)
    best = [best_of(group)[0] for group in by_load.values()]
    observations = [model.Observation(cell.load, cell.ends, cell.seconds, cell.hit) for cell in best]
    if not best:
        raise UsageError(f"no saturated GPU cells with ends G1, G2, G3 or G5 to fit; measure them: {RECSYS}")
    start, missing = device_of(sides.ceilings[best[0].run], best[0], sides.machines[best[0].run])
    if start is None:
        raise UsageError(f"the GPU run lacks {', '.join(missing)}, from which the fit starts; measure it: {RECSYS}")
    return model.fit(observations, start)


def _name(sides: Sides) -> None:
    device, threads = _whole_cpu(sides.cpu)
    sides.what["CPU"] = what_cpu(sides.machines[sides.cpu[0].run], device, threads)
    if sides.projection:
        sides.what["GPU"] = f"one {sides.projection.sheet.name} (projection from its datasheet)"
    else:
        first = sides.gpu[0]
        sides.what["GPU"] = what_gpu(sides.machines[first.run], first.device)


def _whole_cpu(cells: Sequence[Cell]) -> tuple[str, int]:
    """The widest CPU placement measured: the whole machine where it was, else the device with most cells."""
    devices = [cell.device for cell in cells]
    device = "cpu" if "cpu" in devices else max(set(devices), key=lambda name: (devices.count(name), name))
    return device, max(cell.threads for cell in cells if cell.device == device)


# --------------------------------------------------------------------------------------------------------------- points


def points_of(sides: Sides, cpu_ends: str, gpu_ends: str, metric: str) -> list[Point]:
    """Every workload that both sides have under this metric, at every thread count of the widest CPU device."""
    device, _ = _whole_cpu(sides.cpu)
    mine: dict[tuple[Workload, int], list[Cell]] = {}
    for cell in sides.cpu:
        if cell.ends == cpu_ends and cell.metric == metric and cell.device == device and cell.costs:
            mine.setdefault((cell.load, cell.threads), []).append(cell)
    theirs: dict[Workload, dict[float, list[Cell]]] = {}  # a row cache of another hit share is another opponent
    for cell in sides.gpu:
        if cell.ends == gpu_ends and (cell.refused or (cell.metric == metric and cell.costs)):
            theirs.setdefault(cell.load, {}).setdefault(round(cell.hit or 0.0, 2), []).append(cell)
    found = []
    for (load, threads), cells in mine.items():
        rivals = [_rival(sides, load, cpu_ends, gpu_ends, some) for some in theirs.get(load, {0.0: []}).values()]
        best, costs = best_of(cells)
        found += [
            Point(
                load=load,
                threads=threads,
                metric=metric,
                cpu=best,
                cpu_costs=_keyed(costs, sides, _price(sides, best.device)),
                cpu_judged=_judge(sides, best),
                rival=rival,
                gpu_judged=judged,
                paths=paths,
            )
            for rival, judged, paths in rivals
            if rival is not None
        ]
    return found


def _rival(
    sides: Sides, load: Workload, cpu_ends: str, gpu_ends: str, cells: Sequence[Cell]
) -> tuple[Rival | None, Judged | None, tuple[str, ...]]:
    host = cpu_ends == "C0"
    if sides.projection:
        if gpu_ends in ("G3", "G5") and load.table_bytes <= sides.projection.device().memory:
            return None, None, ()  # fits: G1 and G2 are the fair opponents
        rival = sides.projection.rival(load, gpu_ends, host_result=host)
        factor = _price(sides, sides.options.against)
        costs = {launch: cost * factor for launch, cost in rival.costs.items()}
        scaled = {"costs": costs, "low": rival.low * factor, "high": rival.high * factor}
        return msgspec.structs.replace(rival, **scaled), Judged(device=sides.projection.device(), parts=rival.parts), ()
    if sides.fit:
        return _fitted(sides.fit, load, gpu_ends, host), Judged(device=sides.fit.device), ()
    measured = [cell for cell in cells if not cell.refused]
    if not measured:
        return (Rival(ends=gpu_ends, how="", refused=True), None, ()) if cells else (None, None, ())
    best, costs = best_of(measured)
    rival = Rival(
        ends=gpu_ends,
        how=best.how,
        path=best.path,
        costs=_keyed(costs, sides, _price(sides, best.device)),
        cell=best,
        hit=best.hit,
    )
    return rival, _judge(sides, best, host_result=host), tuple(sorted({cell.path for cell in measured}))


def _fitted(fit: model.Fit, load: Workload, ends: str, host: bool) -> Rival | None:
    try:
        seconds = fit.predict(load, ends)
    except UsageError:
        return None  # outside the recorded range: not compared
    off = math.exp(fit.loo_p90)
    parts = model.terms(fit.device, load, ends, host_result=host)
    return Rival(
        ends=ends, how="fit of a recorded run", path="best recorded", costs={0: seconds},
        low=seconds / off, high=seconds * off, parts=parts,
    )  # fmt: skip


def _judge(sides: Sides, cell: Cell, host_result: bool = True) -> Judged:
    """The cell's share of its time roof; a tail or a served rate has that of the same call's saturated or p50 time."""
    ceilings, launches, machine = sides.ceilings[cell.run], sides.launches[cell.run], sides.machines[cell.run]
    judged = judge_launches(cell, ceilings, launches, machine, host_result=host_result)
    if judged.share is None and judged.device is not None:
        for other in sides.cpu + sides.gpu:
            same = (other.load, other.side, other.ends, other.how, other.path) == (
                cell.load, cell.side, cell.ends, cell.how, cell.path)  # fmt: skip
            if same and other.metric in ("saturated", "p50"):
                return judge_launches(other, ceilings, launches, machine, host_result=host_result)
    return judged


def _keyed(costs: dict[int, float], sides: Sides, factor: float) -> dict[int, float]:
    """Launches of one host keep their pairing; those of two hosts are independent and pair by order."""
    keys = sorted(costs) if sides.paired else range(len(costs))
    return {key: costs[launch] * factor for key, launch in zip(keys, sorted(costs), strict=True)}


def _price(sides: Sides, device: str) -> float:
    if sides.options.per != "dollar":
        return 1.0
    if not sides.options.prices:
        raise UsageError("per dollar needs prices of your own, with dates: --prices FILE.toml")
    if device not in sides.options.prices:
        known = ", ".join(sides.options.prices)
        raise UsageError(
            f'the price file has no "{device}" (it has {known}); add [{device}] with price, currency and date'
        )
    return sides.options.prices[device][0]


def check_loads(sides: Sides, cpu_ends: str) -> None:
    """Raise UsageError where both sides have cells and not one workload in common, naming what differs."""
    loads = {cell.load for cell in sides.cpu if cell.ends == cpu_ends}
    theirs = {cell.load for cell in sides.gpu if cell.ends in EQUAL_ENDS[cpu_ends]}
    if not loads or not theirs or loads & theirs:
        return
    gpu_ends = " or ".join(sorted({cell.ends for cell in sides.gpu if cell.load in theirs} - {"G0"}))
    one, other = min(((a, b) for a in loads for b in theirs), key=lambda pair: len(_differences(*pair)))
    fields = [f"{field} {getattr(one, field)} against {getattr(other, field)}" for field in _differences(one, other)]
    raise UsageError(
        f"{cpu_ends} and {gpu_ends} have no workload in common: the nearest pair differs in {', '.join(fields)}",
        hint=f"measure the same sweep on both sides: {RECSYS}",
    )


def _differences(one: Workload, other: Workload) -> list[str]:
    return [field for field in Workload.__struct_fields__ if getattr(one, field) != getattr(other, field)]


def check_equal(sides: Sides, cpu_ends: str) -> None:
    """Raise UsageError where the two sides were measured with ends that cannot stand beside each other."""
    if sides.projection or sides.fit:
        return
    have_cpu = {cell.ends for cell in sides.cpu}
    have_gpu = {cell.ends for cell in sides.gpu}
    right = EQUAL_ENDS[cpu_ends]
    if cpu_ends in have_cpu and have_gpu.isdisjoint(right):
        only = have_gpu - {""}
        why = (
            "G0 is a kernel alone, never part of a crossover"
            if only == {"G0"}
            else "results are wanted in different places"
        )
        raise UsageError(
            f"unequal ends: the CPU side has {cpu_ends}, the GPU side only {', '.join(sorted(only)) or 'none'} ({why})",
            hint=f"measure {right[0]} of the same workloads: {RECSYS} -k {right[0]}",
        )
