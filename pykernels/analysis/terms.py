"""The terms of a kernel's time roof: amounts over measured ceilings of the same device, threads and pages.

Bytes at the bandwidth of the level and operation that the kernel resembles, FLOPs at the peak of the arithmetic it
uses, and, where it has them, rows at the row rate, exponentials at their rate, one access at the latency of the level.

Lookups take the gather ceilings, with the output's lines counted twice where ordinary stores read them first; where the
law of the rows is skewed, each level gets the share of lookups that its capacity would catch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from pykernels.analysis.common import CaseSummary, capacities, domain, isa_rank, level_of, level_rank, row_bytes
from pykernels.analysis.crossover.cells import workload_of
from pykernels.analysis.points import flop_rate, peaks
from pykernels.errors import UsageError
from pykernels.model import Machine, Record

LOOKUPS = ("embedding_bag", "embedding_gather")
#: arithmetic that a dtype's products use, where it is not the dtype's own
ARITHMETIC = {"int8": "fp32", "int4": "fp32", "fp16": "fp32"}
#: the variant of weight-only products that takes x in digits, its arithmetic, and how often it does each product in it
DIGITS = ("digits", "int8", 3)


class Term(msgspec.Struct, frozen=True):
    """An amount over a ceiling: `seconds` by launch, and the case that is the ceiling."""

    name: str
    roof: CaseSummary
    seconds: dict[int, float]
    value: float  # seconds over all launches


def terms(case: CaseSummary, ceilings: Sequence[CaseSummary], machine: Machine) -> list[Term]:
    """The terms of a case's time roof, longest first; none without ceilings of its device and threads."""
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
    exponentials = float(record.conditions.facts.get("exponentials", 0.0))
    if exponentials:
        exp = _fastest(c for c in mine if c.first.figure.unit == "Gexp/s" and _reachable(c.first, record))
        found.append(_term(exp, exponentials))
    if record.device.startswith("gpu"):
        launch = [c for c in mine if c.first.figure.kind == "launch"]
        floor = min(launch, key=lambda c: c.interval.value, default=None)
        found.append(_term(floor, 1.0))
    return sorted((term for term in found if term is not None and term.value > 0), key=lambda term: -term.value)


def _op_of(record: Record) -> str:
    """The stream operation whose mix of reads and writes a kernel's comes nearest to."""
    if record.kernel in ("gemv", "gemm", "spmv", "attention") or record.backend == "python":
        return "load"  # of a callable's mix nothing is known: the highest roof
    return "nt-copy" if record.variant.startswith("stream") else "copy"


def _bandwidth(
    mine: Iterable[CaseSummary], level: str, op: str, record: Record, row: float = 0.0
) -> CaseSummary | None:
    """The bandwidth ceiling of a level and operation: of the nearest row size (gather), reachable by the kernel's ISA,
    of its dtype where that was measured, the fastest."""
    able = [c for c in mine if c.first.figure.kind == "bandwidth" and c.first.figure.level == level]
    able = [c for c in able if c.first.figure.op == op and _reachable(c.first, record)]
    if row and able:
        nearest = min(abs(math.log(row_bytes(c.first) / row)) for c in able if row_bytes(c.first))
        able = [c for c in able if abs(math.log(row_bytes(c.first) / row)) <= nearest + 1e-9]
    same = [c for c in able if c.first.dtype == record.dtype]
    return _fastest(same or able)


def _reachable(roof: Record, kernel: Record) -> bool:
    """A ceiling of the kernel's ISA level or below; any for a kernel that states none."""
    return not kernel.isa or isa_rank(roof.isa) <= isa_rank(kernel.isa)


def _fastest(cases: Iterable[CaseSummary]) -> CaseSummary | None:
    return max(cases, key=lambda c: c.interval.value, default=None)


def _compute(mine: Sequence[CaseSummary], record: Record) -> Term | None:
    """FLOPs at the peak of the arithmetic used; softmax's is the exponential's, which has a ceiling of its own."""
    if record.kernel == "softmax":
        return None
    wanted, times = (ARITHMETIC.get(record.dtype, record.dtype) if record.kernel == "gemv" else record.dtype), 1
    if record.variant == DIGITS[0]:
        wanted, times = DIGITS[1:]
    able = [c for c in peaks(mine) if c.first.dtype == wanted and _reachable(c.first, record)]
    return _term(_fastest(able), times * record.flops)


def _term(roof: CaseSummary | None, amount: float) -> Term | None:
    """Seconds of an amount (in the base unit of the ceiling) at the ceiling's rate, in each launch."""
    if roof is None or amount <= 0:
        return None
    per_call = seconds_by_launch(roof)
    scale = amount / (roof.first.figure.amount or 1.0)
    whole = {launch: seconds * scale for launch, seconds in per_call.items()}
    return Term(_name(roof.first), roof, whole, centre(whole))


def _name(record: Record) -> str:
    parts = [record.figure.level, record.figure.op or record.kernel, "" if record.figure.level else record.dtype]
    if row_bytes(record):
        parts.append(f"{row_bytes(record)} B rows")
    return " ".join(part for part in parts if part)


def seconds_by_launch(case: CaseSummary) -> dict[int, float]:
    """Seconds a call, by launch, whatever the figure's unit."""
    return {launch: 1.0 / rate for launch, rate in flop_rate(case).values.items()}


def centre(values: dict[int, float]) -> float:
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
    able = [c for c in able if row_bytes(c.first) and _reachable(c.first, record)]
    roof = min(able, key=lambda c: centre(seconds_by_launch(c)) / _rows_of(c.first), default=None)
    return roof, lookups if roof is None else lookups * roof.first.figure.amount / _rows_of(roof.first)


def _rows_of(record: Record) -> float:
    """Rows a call of a gather ceiling looks up."""
    return record.figure.amount / (row_bytes(record) if record.figure.kind == "bandwidth" else 1.0)


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
