"""Kernels under the roof that binds them: time against the slowest of what the machine's ceilings allow.

A kernel's time roof is the longest of its terms, each an amount over a measured ceiling of the same device, threads and
run: bytes at the bandwidth of the level and operation that it resembles, FLOPs at the peak of the arithmetic it uses,
and, where it has them, rows at the row rate, exponentials at their rate, one access at the latency of the level. The
share is that roof over the kernel's time, launch by launch, so both ends of the ratio saw the same machine.

Lookups take the gather ceilings, with the output's lines counted twice where ordinary stores read them first; where the
law of the rows is skewed, each level gets the share of lookups that its capacity would catch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from pykernels.analysis.common import CaseSummary, campaign, domain, isa_rank, level_rank, root
from pykernels.analysis.crossover.cells import workload_of
from pykernels.analysis.impossible import exceeding, excess
from pykernels.analysis.points import Point, flop_rate, peaks
from pykernels.analysis.roofline import Roofline, capacities
from pykernels.analysis.roofline import analyse as analyse_roofline
from pykernels.errors import UsageError
from pykernels.measure.stats import ratio_interval
from pykernels.model import Machine, Record
from pykernels.store import Run

LOOKUPS = ("embedding_bag", "embedding_gather")
#: arithmetic that a dtype's products use, where it is not the dtype's own
ARITHMETIC = {"int8": "fp32", "int4": "fp32", "fp16": "fp32"}
#: backends that are no peers of each other: the project's own
OWN = ("native", "cuda", "simulated", "replay")


class RoofName(msgspec.Struct, frozen=True, kw_only=True):
    """The ceiling that binds, by its name."""

    device: str
    kind: str
    level: str
    op: str
    dtype: str
    threads: int
    isa: str


class KernelPoint(msgspec.Struct, kw_only=True):
    """One case: rates by its own counts, the ceiling that binds, the paired share of it with its interval (0: no
    ceiling was measured), and the best peer's time over its own (0: none was measured). `time_s` is the device's; on
    GPUs `host_s` is a single call's, from the host's question to its answer."""

    case_id: str
    kernel: str
    backend: str
    variant: str
    dtype: str
    threads: int
    isa: str
    gflops: float
    gbps: float
    lookups_per_s: float
    intensity: float
    roof: RoofName | None
    share: float
    low: float
    high: float
    time_s: float
    peer_ratio: float
    host_s: float = 0.0


class TermTime(msgspec.Struct, frozen=True):
    """A term of a time roof: its name ("L2 gather 256 B rows") and its seconds."""

    name: str
    seconds: float


class Timed(msgspec.Struct, kw_only=True):
    """What table and picture need beside a point: terms, slowest first, the best implementation, its flags."""

    case_id: str
    terms: list[TermTime]
    best: bool
    peer: str
    flags: list[str] = []


class Kernels(msgspec.Struct, kw_only=True, dict=True):
    """The answer of `pykernels kernels`, exactly as `--json` prints it; `details` and `roofline` ride along."""

    points: list[KernelPoint] = []
    flags: list[str] = []

    @property
    def details(self) -> dict[str, Timed]:
        """By case id."""
        found: dict[str, Timed] = self.__dict__.get("details", {})
        return found

    @property
    def roofline(self) -> Roofline | None:
        """The roofs, with these kernels as their points."""
        found: Roofline | None = self.__dict__.get("roofline")
        return found


class Term(msgspec.Struct, frozen=True):
    """An amount over a ceiling: `seconds` by launch, and the case that is the ceiling."""

    name: str
    roof: CaseSummary
    seconds: dict[int, float]
    value: float  # seconds over all launches


def analyse(runs: Sequence[Run]) -> Kernels:
    """Every kernel of the runs under its roof. Raises UsageError for runs that hold no kernel, or do not merge."""
    study = campaign(runs)
    usable = [case for case in study.cases.values() if not case.reason]
    ceilings = [case for case in usable if case.first.figure.ceiling]
    kernels = [case for case in usable if _is_kernel(case.first)]
    if not kernels:
        raise UsageError("the run holds no kernel, only ceilings", hint="pykernels run kernels -o FILE measures both")
    ratios = _peer_ratios(kernels)
    points, details, tests = [], {}, []
    for case in sorted(kernels, key=_order):
        terms = sorted(_terms(case, ceilings, study.machine), key=lambda term: -term.value)
        point = _point(case, terms, ratios.get(case.first.case_id, (0.0, "", True)))
        points.append(point)
        peer = ratios.get(case.first.case_id, (0.0, "", True))
        details[point.case_id] = Timed(
            case_id=point.case_id, terms=[TermTime(term.name, term.value) for term in terms], best=peer[2],
            peer=peer[1], flags=list(case.flags),
        )  # fmt: skip
        if terms:
            shares = _as_case(case, _share_by_launch(case, terms), point)
            tests.append(excess(point.case_id, f"above its roof ({terms[0].name})", shares, 1.0))
    for case_id, flags in exceeding(tests).items():
        details[case_id].flags += flags
    answer = Kernels(points=points, flags=[f"{i}: {flag}" for i, d in details.items() for flag in d.flags])
    answer.__dict__["details"] = details
    answer.__dict__["roofline"] = _under_roofline(runs, points, details)
    return answer


def _is_kernel(record: Record) -> bool:
    return not record.figure.ceiling and bool(record.flops or record.kernel in LOOKUPS) and record.kernel != "mixed"


def _order(case: CaseSummary) -> tuple[object, ...]:
    record = case.first
    return (record.kernel, level_rank(record.figure.level), record.dtype, record.device, record.threads, record.case_id)


# --------------------------------------------------------------------------------------------------------------- terms


def _terms(case: CaseSummary, ceilings: Sequence[CaseSummary], machine: Machine) -> list[Term]:
    record = case.first
    mine = [c for c in ceilings if (domain(c.first), c.first.threads) == (domain(record), record.threads)]
    mine = [c for c in mine if c.first.pages == record.pages]
    found: list[Term | None] = []
    if record.kernel in LOOKUPS:
        found += _lookup_terms(record, mine, machine)
    else:
        op = _op_of(record)
        roof = _bandwidth(mine, level_of(record, machine), op, record)
        found.append(_term(roof, record.bytes_requested))
        found.append(_compute(mine, record))
    if record.kernel == "softmax":
        exp = _fastest(c for c in mine if c.first.figure.unit == "Gexp/s" and _reachable(c.first, record))
        found.append(_term(exp, float(record.conditions.facts.get("exponentials", 0.0))))
    if record.device.startswith("gpu"):
        launch = [c for c in mine if c.first.figure.kind == "launch"]
        floor = min(launch, key=lambda c: c.interval.value, default=None)
        found.append(_term(floor, 1.0))
    return [term for term in found if term is not None and term.value > 0]


def _op_of(record: Record) -> str:
    """The stream operation whose mix of reads and writes a kernel's comes nearest to."""
    if record.kernel in ("gemv", "gemm", "spmv", "attention") or record.backend == "python":
        return "load"  # of a callable's mix nothing is known: the highest roof
    return "nt-copy" if record.variant.startswith("stream") else "copy"


def level_of(record: Record, machine: Machine) -> str:
    """The level that the kernel states, else the innermost one that its working set fits; DRAM beyond."""
    if record.figure.level:
        return record.figure.level
    sizes = capacities(record, machine)
    fitting = [level for level in sorted(sizes, key=level_rank) if record.working_set <= sizes[level]]
    return fitting[0] if fitting else "DRAM"


def _bandwidth(
    mine: Iterable[CaseSummary], level: str, op: str, record: Record, row_bytes: float = 0.0
) -> CaseSummary | None:
    """The bandwidth ceiling of a level and operation: of the nearest row size (gather), reachable by the kernel's ISA,
    of its dtype where that was measured, the fastest."""
    able = [c for c in mine if c.first.figure.kind == "bandwidth" and c.first.figure.level == level]
    able = [c for c in able if c.first.figure.op == op and _reachable(c.first, record)]
    if row_bytes and able:
        nearest = min(abs(math.log(_row_bytes(c.first) / row_bytes)) for c in able if _row_bytes(c.first))
        able = [c for c in able if abs(math.log(_row_bytes(c.first) / row_bytes)) <= nearest + 1e-9]
    same = [c for c in able if c.first.dtype == record.dtype]
    return _fastest(same or able)


def _row_bytes(record: Record) -> float:
    text = record.params.get("row_bytes", "0")
    return float(text) if text.replace(".", "", 1).isdigit() else 0.0


def _reachable(roof: Record, kernel: Record) -> bool:
    """A ceiling of the kernel's ISA level or below; any for a kernel that states none."""
    return not kernel.isa or isa_rank(roof.isa) <= isa_rank(kernel.isa)


def _fastest(cases: Iterable[CaseSummary]) -> CaseSummary | None:
    return max(cases, key=lambda c: c.interval.value, default=None)


def _compute(mine: Sequence[CaseSummary], record: Record) -> Term | None:
    wanted = ARITHMETIC.get(record.dtype, record.dtype)
    if record.kernel != "gemv":
        wanted = "fp32" if record.kernel == "softmax" else record.dtype
    able = [c for c in peaks(mine) if c.first.dtype == wanted and _reachable(c.first, record)]
    if record.kernel == "softmax":
        return None  # its arithmetic is the exponential's, which has a ceiling of its own
    return _term(_fastest(able), record.flops)


def _term(roof: CaseSummary | None, amount: float) -> Term | None:
    """Seconds of an amount (in the base unit of the ceiling) at the ceiling's rate, in each launch."""
    if roof is None or amount <= 0:
        return None
    per_call = _seconds_by_launch(roof)
    scale = amount / (roof.first.figure.amount or 1.0)
    whole = {launch: seconds * scale for launch, seconds in per_call.items()}
    return Term(_name(roof.first), roof, whole, _centre(whole))


def _name(record: Record) -> str:
    parts = [record.figure.level, record.figure.op or record.kernel, "" if record.figure.level else record.dtype]
    if _row_bytes(record):
        parts.append(f"{_row_bytes(record):g} B rows")
    return " ".join(part for part in parts if part)


def _seconds_by_launch(case: CaseSummary) -> dict[int, float]:
    """Seconds a call, by launch, whatever the figure's unit."""
    return {launch: 1.0 / rate for launch, rate in flop_rate(case).values.items()}


def _centre(values: dict[int, float]) -> float:
    """Geometric mean."""
    return math.exp(sum(math.log(v) for v in values.values()) / len(values)) if values else 0.0


def _lookup_terms(record: Record, mine: Sequence[CaseSummary], machine: Machine) -> list[Term | None]:
    """Bytes at the gather bandwidth, rows at the row rate, and the latency of one access."""
    try:
        load = workload_of(record)
    except UsageError:  # a record without the sizes of its rows
        return []
    shares = _level_shares(record, machine, load.hit_share if load.zipf else None)
    other = record.bytes_requested - load.gathered + record.bytes_write_allocate
    gathers: list[tuple[CaseSummary | None, float]] = []
    rows: list[tuple[CaseSummary | None, float]] = []
    for level, share in shares:
        wide = _bandwidth(mine, level, "gather", record, load.row_bytes)
        gathers.append((wide, share * (load.gathered + other)))
        rows.append(_row_rate(mine, level, record, share * load.lookups))
    last = shares[-1][0]
    chase = [c for c in mine if c.first.figure.kind == "latency" and c.first.figure.level == last]
    latency = min(chase, key=lambda c: c.interval.value, default=None)
    rate = _mixed(rows)
    if rate is not None:
        rate = msgspec.structs.replace(rate, name=rate.name.replace(" gather ", " row rate of "))
    return [_mixed(gathers), rate, _term(latency, 1.0)]


def _level_shares(record: Record, machine: Machine, caught: Callable[[float], float] | None) -> list[tuple[str, float]]:
    """Levels with the share of lookups each serves: all by one where rows are alike; where they are not, each the share
    that its capacity catches and the levels inside it do not."""
    level = level_of(record, machine)
    if caught is None or record.device.startswith("gpu"):
        return [(level, 1.0)]
    found, inside = [], 0.0
    for name, size in sorted(capacities(record, machine).items(), key=lambda item: level_rank(item[0])):
        if level_rank(name) < max(level_rank(level), level_rank("L2")) and name != "L1":
            share = caught(size / (record.threads if name == "L2" else 1))  # every thread's L2 holds the same hot rows
            found.append((name, max(0.0, share - inside)))
            inside = max(inside, share)
    return [*found, (level, max(0.0, 1.0 - inside))]


def _row_rate(
    mine: Sequence[CaseSummary], level: str, record: Record, lookups: float
) -> tuple[CaseSummary | None, float]:
    """The gather ceiling with most rows a second at a level, and the lookups in its unit."""
    able = [c for c in mine if c.first.figure.level == level and c.first.kernel == "gather"]
    able = [c for c in able if _row_bytes(c.first) and _reachable(c.first, record)]
    roof = min(able, key=lambda c: _centre(_seconds_by_launch(c)) / _rows_of(c.first), default=None)
    return roof, lookups if roof is None else lookups * roof.first.figure.amount / _rows_of(roof.first)


def _rows_of(record: Record) -> float:
    """Rows a call of a gather ceiling looks up."""
    return record.figure.amount / (_row_bytes(record) if record.figure.kind == "bandwidth" else 1.0)


def _mixed(parts: Sequence[tuple[CaseSummary | None, float]]) -> Term | None:
    """The sum of several terms, named by the longest; None where one has no ceiling."""
    wanted = [(roof, amount) for roof, amount in parts if amount > 0]
    terms = [_term(roof, amount) for roof, amount in wanted]
    known = [term for term in terms if term is not None]
    if not known or len(known) < len(wanted):
        return None
    longest = max(known, key=lambda term: term.value)
    common = set.intersection(*(set(term.seconds) for term in known))
    total = {launch: sum(term.seconds[launch] for term in known) for launch in sorted(common)}
    name = longest.name if len(known) == 1 else " + ".join(term.name for term in known)
    return Term(name, longest.roof, total, sum(term.value for term in known)) if total else None


# -------------------------------------------------------------------------------------------------------------- points


def _share_by_launch(case: CaseSummary, terms: Sequence[Term]) -> dict[int, float]:
    seconds = _seconds_by_launch(case)
    roof = {launch: max(t.seconds.get(launch, 0.0) for t in terms) for launch in seconds}
    return {launch: roof[launch] / seconds[launch] for launch in seconds if roof[launch] > 0}


def _point(case: CaseSummary, terms: Sequence[Term], peer: tuple[float, str, bool]) -> KernelPoint:
    record = case.first
    seconds = _seconds_by_launch(case)
    time_s = _centre(seconds)
    share = low = high = 0.0
    roof = None
    if terms:
        share, low, high = _share(case, seconds, terms)
        roof = _roof_name(terms[0].roof.first, record)
    moved = record.bytes_requested
    return KernelPoint(
        case_id=record.case_id, kernel=record.kernel, backend=record.backend, variant=record.variant,
        dtype=record.dtype, threads=record.threads, isa=record.isa, gflops=record.flops / time_s * 1e-9,
        gbps=moved / time_s * 1e-9, lookups_per_s=_lookups(record) / time_s,
        intensity=record.flops / moved if moved else 0.0, roof=roof, share=share, low=low, high=high, time_s=time_s,
        peer_ratio=peer[0], host_s=case.host_s,
    )  # fmt: skip


def _share(case: CaseSummary, seconds: dict[int, float], terms: Sequence[Term]) -> tuple[float, float, float]:
    """Paired over launches; for one launch the quotient of the two `within-process` intervals."""
    if len(seconds) > 1:
        roof = {launch: max(t.seconds.get(launch, 0.0) for t in terms) for launch in seconds}
        both = {launch: value for launch, value in roof.items() if value > 0}
        return ratio_interval(both, seconds) if both else ratio_interval(terms[0].seconds, seconds)  # of another run
    own, other = flop_rate(case).interval, flop_rate(terms[0].roof).interval
    share = terms[0].value * own.value
    return (
        share,
        share * own.low / own.value * other.value / other.high,
        share * own.high / own.value * (other.value / other.low if other.low > 0 else math.inf),
    )


def _lookups(record: Record) -> float:
    if record.kernel not in LOOKUPS:
        return 0.0
    return float(record.conditions.facts.get("lookups", record.figure.amount))


def _roof_name(roof: Record, kernel: Record) -> RoofName:
    return RoofName(
        device=root(roof.device), kind=roof.figure.kind, level=roof.figure.level,
        op=roof.figure.op or roof.kernel, dtype=roof.dtype, threads=roof.threads, isa=roof.isa or kernel.isa,
    )  # fmt: skip


def _as_case(case: CaseSummary, shares: dict[int, float], point: KernelPoint) -> CaseSummary:
    interval = msgspec.structs.replace(case.interval, value=point.share, low=point.low, high=point.high)
    estimate = msgspec.structs.replace(case.estimate, launch_values=shares, interval=interval)
    return msgspec.structs.replace(case, estimate=estimate)


def _peer_ratios(kernels: Iterable[CaseSummary]) -> dict[str, tuple[float, str, bool]]:
    """case id -> (time of the best peer over its own, that peer, whether it is the best implementation). Peers of the
    project's own code are other backends; peers of a library are all other backends."""
    groups: dict[tuple[object, ...], list[CaseSummary]] = {}
    for case in kernels:
        record = case.first
        what = record.case_id.partition("]")[0], record.device, record.threads, record.pages, record.memory
        groups.setdefault((*what, record.mode, record.ends), []).append(case)
    found = {}
    for group in groups.values():
        seconds = {c.first.case_id: _centre(_seconds_by_launch(c)) for c in group}
        best = min(seconds, key=lambda case_id: seconds[case_id])
        for case in group:
            mine = case.first
            others = [c for c in group if c.first.backend != mine.backend]
            if mine.backend in OWN:
                others = [c for c in others if c.first.backend not in OWN]
            rival = min(others, key=lambda c: seconds[c.first.case_id], default=None)
            ratio = seconds[rival.first.case_id] / seconds[mine.case_id] if rival else 0.0
            found[mine.case_id] = (ratio, rival.first.backend if rival else "", mine.case_id == best)
    return found


# ------------------------------------------------------------------------------------------------------------- picture


def _under_roofline(runs: Sequence[Run], points: Iterable[KernelPoint], details: dict[str, Timed]) -> Roofline:
    """The roofline of the runs with the best implementation of each kernel as a named point."""
    roofline = analyse_roofline(runs)
    records = {record.case_id: record for run in runs for record in run.records}
    drawn = []
    for point in points:
        if not details[point.case_id].best or not point.gflops:
            continue
        record = records[point.case_id]
        dtype = ARITHMETIC.get(point.dtype, point.dtype)
        spread = point.high / point.share if point.share and math.isfinite(point.high) else 1.0
        drawn.append(Point(
            case_id=point.case_id, name=_short(record), device=root(record.device), domain=domain(record), dtype=dtype,
            threads=point.threads, isa=point.isa, intensity=point.intensity, value=point.gflops,
            low=point.gflops / spread, high=point.gflops * spread, unit="GFLOP/s",
            roof=details[point.case_id].terms[0].name if details[point.case_id].terms else "", share=point.share,
            share_low=point.low, share_high=point.high,
        ))  # fmt: skip
    roofline.detail.points = drawn
    return roofline


def _short(record: Record) -> str:
    """A kernel's name with the parameters that tell it from its like."""
    told = [record.params[key] for key in ("workload", "level", "table", "size") if key in record.params]
    told += [f"{key} {record.params[key]}" for key in ("dim", "pooling", "batch", "width") if key in record.params]
    return " ".join([record.kernel, record.dtype, *told])
