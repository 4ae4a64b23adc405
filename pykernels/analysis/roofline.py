"""The roofline of a machine: roofs, ridge points, kernels under them, and what is not drawn and why.

Williams, Waterman and Patterson (2009): attainable FLOP/s = min(peak, intensity x bandwidth); the ridge point is peak /
bandwidth. Here each has an interval, and a roof never stands for another dtype, thread count, ISA level or op.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec

from pykernels.analysis import hierarchy, intensity
from pykernels.analysis.common import (
    Campaign,
    CaseSummary,
    Limit,
    campaign,
    domain,
    isa_rank,
    known_limits,
    level_rank,
    root,
)
from pykernels.analysis.impossible import Excess, exceeding, excess
from pykernels.analysis.monitor import steps, variance_note
from pykernels.measure.stats import Interval
from pykernels.model import Machine, Record
from pykernels.store import Run, collector_off
from pykernels.units import parse_size, value_of

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


class NotDrawn(msgspec.Struct):
    """A case that draws nothing, with the reason."""

    case_id: str
    reason: str


class Point(msgspec.Struct, kw_only=True):
    """A kernel under the roof: GFLOP/s (GOP/s) at its FLOP/byte, and its share of the roof that binds it."""

    case_id: str
    name: str
    device: str
    domain: str
    dtype: str
    threads: int
    isa: str
    intensity: float
    value: float
    low: float
    high: float
    unit: str
    roof: str = ""
    share: float = 0.0
    share_low: float = 0.0
    share_high: float = 0.0
    flags: list[str] = []


class RoofDetail(msgspec.Struct, kw_only=True):
    """What table and picture show of a roof beyond its published fields."""

    case_id: str
    drawn: bool
    stops: dict[str, int]
    contended: float
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
    points, unplaced = _points(study, kernels, drawn)
    if limits is None:
        limits = known_limits(study.machine, [case.first for case in ceilings])

    tests = [*_level_tests(ceilings), *_isa_tests(ceilings), *_limit_tests(ceilings, limits, study.machine)]
    tests += _kernel_tests(kernels, drawn)
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
        not_drawn=[NotDrawn(i, case.reason) for i, case in sorted(study.cases.items()) if case.reason] + unplaced,
    )
    notes = [*study.notes, *steps(runs, study), *intensity.notes(sweeps, ceilings), *variance_note(ceilings)]
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
    return not record.figure.ceiling and record.kernel != intensity.KERNEL and not hierarchy.is_sweep(record)


def _order(case: CaseSummary) -> tuple[object, ...]:
    record = case.first
    kinds = ("compute", "bandwidth", "rate", "latency", "link", "launch")
    return (
        root(record.device), domain(record), record.threads, -isa_rank(record.isa), kinds.index(record.figure.kind),
        level_rank(record.figure.level), record.dtype, record.figure.op, record.pages, record.case_id,
    )  # fmt: skip


def _interval(case: CaseSummary) -> Interval:
    interval = case.estimate.interval
    assert interval is not None  # cases with a reason never come here
    return interval


def _roof(case: CaseSummary, machine: Machine) -> Roof:
    record, interval = case.first, _interval(case)
    mixed = is_mixture(record, machine)
    return Roof(
        device=root(record.device), domain=domain(record), kind=record.figure.kind, level=record.figure.level,
        op=record.figure.op, dtype=record.dtype, threads=record.threads, isa=record.isa, pages=record.pages,
        working_set=record.working_set, row_bytes=_row_bytes(record), value=interval.value, low=interval.low,
        high=interval.high, best=interval.best, launches=interval.launches,
        interval="within-process" if interval.launches == 1 else interval.method, scope=interval.scope,
        unit=record.figure.unit, regimes=list(case.estimate.regimes),
        flags=[*case.flags, *(["mixture"] if mixed else [])],
    )  # fmt: skip


def _row_bytes(record: Record) -> int:
    text = record.params.get("row_bytes") or record.params.get("row") or "0 B"
    return int(text) if text.isdecimal() else parse_size(text)


def capacities(record: Record, machine: Machine) -> dict[str, int]:
    """Bytes of every cache level that the case's threads have together; empty where the machine states none."""
    if record.device.startswith("gpu"):
        sizes = [gpu.l2_bytes for gpu in machine.gpus if record.device == f"gpu:{gpu.index}" and gpu.l2_bytes]
        return {"L2": sizes[0]} if sizes else {}
    from pykernels.errors import UsageError
    from pykernels.machine.placement import cpus_for

    try:
        team = set(cpus_for(machine, record.device, record.threads))
    except UsageError:  # a machine described in part, as replays do
        return {}
    found: dict[str, int] = {}
    for cache in machine.caches:
        if team.intersection(cache.cpus):
            found[cache.level] = found.get(cache.level, 0) + cache.bytes
    return found


def cores_used(record: Record, machine: Machine) -> int:
    """Physical cores of a CPU case: one for each thread as long as there are as many."""
    return min(record.threads, len(machine.cores) or record.threads)


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
    limit = _limit(case.first, limits)
    if limit and limit.unit == roof.unit:
        detail.share, detail.share_label = roof.value / limit.value, limit.label
    elif limit and detail.per_cycle:
        detail.share, detail.share_label = detail.per_cycle / limit.value, limit.label
    return detail


def _limit(record: Record, limits: Mapping[str, Limit]) -> Limit | None:
    device = record.device
    if record.figure.kind == "bandwidth" and record.figure.level == "DRAM":
        return limits.get(f"{device} memory")
    if record.figure.kind == "compute":
        return limits.get(f"{device} {record.dtype} {record.isa}") or limits.get(f"{device} {record.dtype}")
    return None


# -------------------------------------------------------------------------------------------------------------- ridges


def _ridges(study: Campaign, ceilings: Sequence[CaseSummary]) -> list[Ridge]:
    ridges = []
    for peak in _peaks(ceilings):
        record = peak.first
        for roof in _bandwidths(record, ceilings):
            value, low, high = study.ratio(peak, roof)
            ridges.append(Ridge(
                device=root(record.device), dtype=record.dtype, threads=record.threads, isa=record.isa,
                level=roof.first.figure.level, op=roof.first.figure.op, value=value, low=low, high=high,
                unit=record.figure.unit.removeprefix("G").removesuffix("/s") + "/byte",
            ))  # fmt: skip
    return ridges


def _peaks(ceilings: Iterable[CaseSummary]) -> list[CaseSummary]:
    """The highest compute roof of each (domain, dtype, threads, ISA)."""
    best: dict[tuple[object, ...], CaseSummary] = {}
    for case in ceilings:
        record = case.first
        if record.figure.kind == "compute":
            key = (domain(record), record.dtype, record.threads, record.isa)
            if key not in best or _interval(case).value > _interval(best[key]).value:
                best[key] = case
    return list(best.values())


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
            _interval(case).value,
        )

    for case in ceilings:
        record = case.first
        if record.figure.kind != "bandwidth" or (domain(record), record.threads) != (domain(peak), peak.threads):
            continue
        if isa_rank(record.isa) > isa_rank(peak.isa) >= 0:
            continue
        key = (record.figure.level, record.figure.op)
        if key not in best or nearness(case) > nearness(best[key]):
            best[key] = case
    return sorted(best.values(), key=lambda case: (level_rank(case.first.figure.level), case.first.figure.op))


# -------------------------------------------------------------------------------------------------------------- points


def _points(
    study: Campaign, kernels: Iterable[CaseSummary], ceilings: Sequence[CaseSummary]
) -> tuple[list[Point], list[NotDrawn]]:
    """Kernels with FLOPs and bytes and a compute roof of their dtype; the others with the reason."""
    points, unplaced = [], []
    for case in sorted(kernels, key=lambda case: case.first.case_id):
        record = case.first
        moved = record.bytes_compulsory or record.bytes_requested
        if not record.flops or not moved:
            unplaced.append(NotDrawn(record.case_id, f"no FLOP per byte: its figure is in {record.figure.unit}"))
            continue
        found = binding(case, ceilings)
        if found is None:
            unplaced.append(NotDrawn(record.case_id, f"no {record.dtype} roof with its placement and threads"))
            continue
        rate, scale = _flop_rate(case), 1e-9 * record.flops
        interval = _interval(rate)
        _, roof, factor = found
        share, low, high = study.ratio(rate, roof)
        points.append(Point(
            case_id=record.case_id, name=record.kernel, device=root(record.device), domain=domain(record),
            dtype=record.dtype, threads=record.threads, isa=record.isa, intensity=record.flops / moved,
            value=interval.value * scale, low=interval.low * scale, high=interval.high * scale,
            unit="GOP/s" if "int" in record.dtype else "GFLOP/s", roof=_roof_name(roof.first),
            share=share * scale / factor, share_low=low * scale / factor, share_high=high * scale / factor,
            flags=list(case.flags),
        ))  # fmt: skip
    return points, unplaced


def _roof_name(record: Record) -> str:
    return f"{record.figure.level}:{record.figure.op}" if record.figure.level else f"{record.dtype} {record.figure.op}"


def _flop_rate(case: CaseSummary) -> CaseSummary:
    """The case in calls per second, whatever its own unit."""
    record, one = case.first, value_of(case.first.figure.unit, case.first.figure.amount, 1.0)
    time = record.figure.unit in ("ns", "us")

    def calls(value: float) -> float:
        return one / value if time else value / one

    old = _interval(case)
    ends = sorted((calls(old.low) if old.low else 0.0, calls(old.high)))
    interval = Interval(
        value=calls(old.value), low=ends[0], high=ends[1], launches=old.launches, best=calls(old.best), scope=old.scope,
        method=old.method,
    )  # fmt: skip
    values = {launch: calls(value) for launch, value in case.values.items()}
    return msgspec.structs.replace(
        case, estimate=msgspec.structs.replace(case.estimate, interval=interval, launch_values=values)
    )


def binding(case: CaseSummary, ceilings: Iterable[CaseSummary]) -> tuple[float, CaseSummary, float] | None:
    """(attainable GFLOP/s, the roof that binds, GFLOP/s per unit of that roof) or None without a roof of its dtype."""
    record = case.first
    moved = record.bytes_compulsory or record.bytes_requested
    if not record.flops or not moved:
        return None
    same = [c for c in ceilings if (domain(c.first), c.first.threads) == (domain(record), record.threads)]
    peaks = [c for c in _peaks(same) if c.first.dtype == record.dtype and _reachable(c.first, record)]
    if not peaks:
        return None
    peak = max(peaks, key=lambda c: _interval(c).value)
    candidates = [(_interval(peak).value, peak, 1.0)]
    level = record.figure.level
    roofs = [c for c in same if c.first.figure.kind == "bandwidth" and c.first.figure.level == level]
    roofs = [c for c in roofs if _reachable(c.first, record)]
    if roofs:
        fastest = max(roofs, key=lambda c: _interval(c).value)
        factor = record.flops / moved
        candidates.append((_interval(fastest).value * factor, fastest, factor))
    return min(candidates, key=lambda candidate: candidate[0])


def _reachable(roof: Record, kernel: Record) -> bool:
    """True for a roof of the kernel's ISA, and for every roof where the kernel states none."""
    return not kernel.isa or roof.isa == kernel.isa


# -------------------------------------------------------------------------------------------------- impossible results


def _level_tests(ceilings: Sequence[CaseSummary]) -> list[Excess]:
    """A level must not be slower than the next one out (nt stores are made for DRAM, and are slower in a cache)."""
    groups: dict[tuple[object, ...], list[CaseSummary]] = {}
    for case in ceilings:
        record = case.first
        if record.figure.kind == "bandwidth" and not record.figure.op.startswith("nt"):
            key = (
                domain(record),
                record.dtype,
                record.threads,
                record.isa,
                record.figure.op,
                record.pages,
                record.backend,
            )
            groups.setdefault(key, []).append(case)
    tests = []
    for group in groups.values():
        group.sort(key=lambda case: level_rank(case.first.figure.level))
        for inner, outer in pairwise(group):
            if inner.first.figure.level == "shared" and outer.first.figure.level == "L1":
                continue  # one memory under two names: either may be the faster
            text = f"slower than {outer.first.figure.level}"
            tests.append(excess(inner.first.case_id, text, outer, inner))
    return tests


def _isa_tests(ceilings: Sequence[CaseSummary]) -> list[Excess]:
    """A wider ISA level must not be slower than a narrower one."""
    groups: dict[tuple[object, ...], list[CaseSummary]] = {}
    for case in ceilings:
        record = case.first
        if record.figure.kind in ("bandwidth", "compute", "rate") and isa_rank(record.isa) >= 0:
            figure = record.figure
            key = (domain(record), record.dtype, record.threads, figure.level, figure.op, record.pages, record.backend,
                   figure.kind, record.working_set)  # fmt: skip
            groups.setdefault(key, []).append(case)
    tests = []
    for group in groups.values():
        group.sort(key=lambda case: isa_rank(case.first.isa))
        for narrow, wide in pairwise(group):
            tests.append(excess(wide.first.case_id, f"slower than {narrow.first.isa}", narrow, wide))
    return tests


def _limit_tests(ceilings: Iterable[CaseSummary], limits: Mapping[str, Limit], machine: Machine) -> list[Excess]:
    """Above the datasheet; for CPU peaks, above measured clock x FLOP/cycle x threads."""
    tests = []
    for case in ceilings:
        limit = _limit(case.first, limits)
        if limit is None:
            continue
        what = "datasheet" if limit.label == "datasheet" else "the derived peak"
        if limit.unit == case.first.figure.unit:
            tests.append(excess(case.first.case_id, f"above {what}", case, limit.value))
        elif case.clocks:
            scale = limit.value * cores_used(case.first, machine)
            per_clock = {k: v / case.clocks.get(k, case.clock_ghz) / scale for k, v in case.values.items()}
            shares = msgspec.structs.replace(case.estimate, launch_values=per_clock, interval=None)
            relative = msgspec.structs.replace(case, estimate=shares)
            tests.append(excess(case.first.case_id, f"above {what} at the measured clock", relative, 1.0))
    return tests


def _kernel_tests(kernels: Iterable[CaseSummary], ceilings: Sequence[CaseSummary]) -> list[Excess]:
    """A kernel above its roof: then the roof is wrong."""
    tests = []
    for case in kernels:
        found = binding(case, ceilings)
        if found is None:
            continue
        _, roof, factor = found
        scale = 1e-9 * case.first.flops / factor
        rate = _flop_rate(case)
        scaled = {launch: value * scale for launch, value in rate.values.items()}
        old = _interval(rate)
        interval = msgspec.structs.replace(old, low=old.low * scale, high=old.high * scale, value=old.value * scale)
        estimate = msgspec.structs.replace(rate.estimate, launch_values=scaled, interval=interval)
        above = msgspec.structs.replace(rate, estimate=estimate)
        tests.append(excess(case.first.case_id, f"above its roof ({_roof_name(roof.first)})", above, roof))
    return tests
