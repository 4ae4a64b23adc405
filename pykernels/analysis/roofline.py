"""The roofline of a machine: roofs, ridge points, kernels under them, and what is not drawn and why.

Williams, Waterman and Patterson (2009): attainable FLOP/s = min(peak, intensity x bandwidth); the ridge point is peak /
bandwidth. Here each has an interval, and a roof never stands for another dtype, thread count, ISA level or op.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pykernels.analysis import allocate, hierarchy, intensity, loaded
from pykernels.analysis.common import (
    Campaign,
    CaseSummary,
    Limit,
    campaign,
    capacities,
    cores_used,
    domain,
    isa_rank,
    known_limits,
    level_rank,
    limit_of,
    root,
    row_bytes,
)
from pykernels.analysis.impossible import exceeding, isa_tests, kernel_tests, level_tests, limit_tests
from pykernels.analysis.monitor import steps, variance_note, warm_up_note
from pykernels.analysis.points import NotDrawn, Point, peaks, points_of
from pykernels.model import Machine, Record
from pykernels.store import Run, collector_off

SCHEMA = 1
_DRAM_FACTOR = 3.9  #: working sets of DRAM roofs are 4 LLC; rounding to whole rows may take a little off
_INSIDE, _OUTSIDE = 0.75, 3.96  #: between these multiples of a capacity a working set is a mixture of two levels


class Roof(msgspec.Struct, kw_only=True):
    """One measured ceiling. Its name is everything before `value`; roofs of different names are never merged."""

    device: str
    domain: str
    kind: str
    level: str
    op: str
    dtype: str
    threads: int
    isa: str
    pages: str
    working_set: int
    row_bytes: int
    value: float
    low: float
    high: float
    best: float
    launches: int
    interval: str
    scope: str
    unit: str
    label: str = "measured"
    regimes: list[float] = []
    flags: list[str] = []


class Ridge(msgspec.Struct, kw_only=True):
    """Arithmetic intensity at which the bandwidth roof meets the peak."""

    device: str
    dtype: str
    threads: int
    isa: str
    level: str
    op: str
    value: float
    low: float
    high: float
    unit: str


class RoofDetail(msgspec.Struct, kw_only=True):
    """What table and picture show of a roof beyond its published fields."""

    case_id: str
    drawn: bool
    stops: dict[str, int]
    contended: float
    allocated: float = 0.0  # GB/s with the lines that stores read first, derived; 0: none
    per_cycle: float = 0.0  # FLOP or bytes per cycle of one core; 0: clock not measured
    share: float = 0.0  # of the limit; 0: no limit known
    share_label: str = ""


class Detail(msgspec.Struct, kw_only=True):
    """What table and picture need beside the published answer."""

    roofs: list[RoofDetail] = []
    points: list[Point] = []
    sweeps: list[intensity.Sweep] = []
    curves: list[hierarchy.Curve] = []
    notes: list[str] = []
    launches: int = 0
    source: str = "measured"


class Roofline(msgspec.Struct, kw_only=True, dict=True):
    """The answer of `pykernels roofline`, exactly as `--json` prints it. `detail` rides along outside the JSON."""

    schema: int = SCHEMA
    machine: Machine
    roofs: list[Roof] = []
    ridges: list[Ridge] = []
    fit: list[intensity.Fit] = []
    levels: list[hierarchy.Level] = []
    loaded: list[loaded.LoadedCurve] = []
    not_drawn: list[NotDrawn] = []

    @property
    def detail(self) -> Detail:
        """Per-roof extras, kernel points, sweeps, curves and notes."""
        found = self.__dict__.get("detail")
        return found if isinstance(found, Detail) else Detail()


def analyse(runs: Sequence[Run], limits: Mapping[str, Limit] | None = None) -> Roofline:
    """Roofs, ridges, fits, levels and what is not drawn, from run files of one machine in any order.

    `limits` (see `common.Limit`) replaces the datasheets' figures. Raises UsageError for runs that do not merge."""
    with collector_off():
        return _analyse(sorted(runs, key=lambda run: (run.header.started, run.path)), limits)


def _analyse(runs: Sequence[Run], limits: Mapping[str, Limit] | None) -> Roofline:
    study = campaign(runs)
    usable = {case_id: case for case_id, case in study.cases.items() if not case.reason}
    ceilings = sorted((case for case in usable.values() if _is_ceiling(case.first)), key=_order)
    sweeps = intensity.sweeps(usable.values())
    curves = hierarchy.curves(usable.values())
    levels = hierarchy.levels(study.machine, curves)
    kernels = [case for case in usable.values() if _is_kernel(case.first)]
    drawn = [case for case in ceilings if not _is_undrawn(case.first, study.machine)]
    points, unplaced = points_of(study, kernels, drawn)
    if limits is None:
        limits = known_limits(study.machine, [case.first for case in ceilings])

    tests = [*level_tests(ceilings), *isa_tests(ceilings), *limit_tests(ceilings, limits, study.machine)]
    tests += kernel_tests(kernels, drawn)
    flagged = exceeding(tests)
    for point in points:
        point.flags += flagged.get(point.case_id, [])
    roofs, details = [], []
    for case in ceilings:
        roof = _roof(case, study.machine)
        roof.flags += flagged.get(case.first.case_id, [])
        roof.flags += [f"{roof.level} capacity differs from the OS's" for level in levels
                       if level.level == roof.level and level.agrees is False]  # fmt: skip
        roofs.append(roof)
        details.append(_detail(case, roof, limits, study.machine))
    answer = Roofline(
        machine=study.machine,
        roofs=roofs,
        ridges=_ridges(study, drawn),
        fit=intensity.fits(study, sweeps),
        levels=levels,
        loaded=loaded.curves(usable.values()),
        not_drawn=[NotDrawn(i, case.reason) for i, case in sorted(study.cases.items()) if case.reason] + unplaced,
    )
    notes = [*study.notes, *steps(runs, study), *intensity.notes(sweeps, ceilings)]
    notes += [*allocate.notes(study, drawn), *warm_up_note(ceilings), *variance_note(ceilings)]
    answer.__dict__["detail"] = Detail(
        roofs=details, points=points, sweeps=sweeps, curves=curves, notes=notes, launches=study.launches,
        source=study.source,
    )  # fmt: skip
    return answer


# --------------------------------------------------------------------------------------------------------------- roofs


def _is_ceiling(record: Record) -> bool:
    """True for a case that draws a roof: a named ceiling, not a point of a sweep over sizes or intensities."""
    figure = record.figure
    swept = figure.kind in ("bandwidth", "latency") and not figure.level
    return figure.ceiling and not swept and record.kernel != intensity.KERNEL


def _is_kernel(record: Record) -> bool:
    drawn_elsewhere = record.kernel in (intensity.KERNEL, loaded.KERNEL) or hierarchy.is_sweep(record)
    return not record.figure.ceiling and not drawn_elsewhere


def _order(case: CaseSummary) -> tuple[object, ...]:
    record = case.first
    kinds = ("compute", "bandwidth", "rate", "latency", "link", "launch")
    return (
        root(record.device), domain(record), record.threads, -isa_rank(record.isa), kinds.index(record.figure.kind),
        level_rank(record.figure.level), record.dtype, record.figure.op, record.pages, record.case_id,
    )  # fmt: skip


def _roof(case: CaseSummary, machine: Machine) -> Roof:
    record, interval = case.first, case.interval
    mixed = is_mixture(record, machine)
    return Roof(
        device=root(record.device), domain=domain(record), kind=record.figure.kind, level=record.figure.level,
        op=record.figure.op, dtype=record.dtype, threads=record.threads, isa=record.isa, pages=record.pages,
        working_set=record.working_set, row_bytes=row_bytes(record), value=interval.value, low=interval.low,
        high=interval.high, best=interval.best, launches=interval.launches,
        interval="within-process" if interval.launches == 1 else interval.method, scope=interval.scope,
        unit=record.figure.unit, regimes=list(case.estimate.regimes),
        flags=[*case.flags, *(["mixture"] if mixed else [])],
    )  # fmt: skip


def is_mixture(record: Record, machine: Machine) -> bool:
    """True where the working set is not well inside one level: under 4 LLC in DRAM, or 0.75x to 4x of a capacity."""
    if record.figure.kind != "bandwidth" or not record.working_set:
        return False
    sizes = capacities(record, machine)
    if record.figure.level == "DRAM":
        return bool(sizes) and record.working_set < _DRAM_FACTOR * sizes[max(sizes, key=level_rank)]
    if record.figure.level == "shared":
        return False
    return any(_INSIDE * size < record.working_set < _OUTSIDE * size for size in sizes.values())


def _is_undrawn(record: Record, machine: Machine) -> bool:
    """True for what was meant to be DRAM and is partly cache: it draws no roof, binds no kernel and has no ridge."""
    return record.figure.level == "DRAM" and is_mixture(record, machine)


def _detail(case: CaseSummary, roof: Roof, limits: Mapping[str, Limit], machine: Machine) -> RoofDetail:
    detail = RoofDetail(
        case_id=case.first.case_id,
        drawn=not _is_undrawn(case.first, machine),
        stops=case.stops,
        contended=case.estimate.contended,
    )
    if case.clock_ghz and roof.unit in ("GB/s", "GFLOP/s", "GOP/s"):
        detail.per_cycle = roof.value / case.clock_ghz / cores_used(case.first, machine)
    if roof.kind == "bandwidth" and case.first.bytes_write_allocate:
        detail.allocated = roof.value * (1 + case.first.bytes_write_allocate / case.first.bytes_requested)
    limit = limit_of(case.first, limits)
    if limit and limit.unit == roof.unit:
        detail.share, detail.share_label = roof.value / limit.value, limit.label
    elif limit and detail.per_cycle:
        detail.share, detail.share_label = detail.per_cycle / limit.value, limit.label
    return detail


# -------------------------------------------------------------------------------------------------------------- ridges


def _ridges(study: Campaign, ceilings: Sequence[CaseSummary]) -> list[Ridge]:
    ridges = []
    for peak in peaks(ceilings):
        record = peak.first
        for roof in _bandwidths(record, ceilings):
            value, low, high = study.ratio(peak, roof)
            ridges.append(Ridge(
                device=root(record.device), dtype=record.dtype, threads=record.threads, isa=record.isa,
                level=roof.first.figure.level, op=roof.first.figure.op, value=value, low=low, high=high,
                unit=record.figure.unit.removeprefix("G").removesuffix("/s") + "/byte",
            ))  # fmt: skip
    return ridges


def _bandwidths(peak: Record, ceilings: Iterable[CaseSummary]) -> list[CaseSummary]:
    """One bandwidth roof of each (level, op) with the peak's domain and threads: its ISA and dtype where they were
    measured, else the nearest (bytes have no dtype, but the loads that moved them did)."""
    best: dict[tuple[str, str], CaseSummary] = {}

    def nearness(case: CaseSummary) -> tuple[bool, bool, bool, float]:
        record = case.first
        return (
            record.isa == peak.isa,
            record.dtype == peak.dtype,
            record.pages == peak.pages,
            case.interval.value,
        )

    for case in ceilings:
        record = case.first
        if row_bytes(record):  # random rows: a roof of lookups, not of streams
            continue
        if record.figure.kind != "bandwidth" or (domain(record), record.threads) != (domain(peak), peak.threads):
            continue
        if isa_rank(record.isa) > isa_rank(peak.isa) >= 0:
            continue
        key = (record.figure.level, record.figure.op)
        if key not in best or nearness(case) > nearness(best[key]):
            best[key] = case
    return sorted(best.values(), key=lambda case: (level_rank(case.first.figure.level), case.first.figure.op))
