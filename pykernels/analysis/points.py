"""Kernels under the roofline: each at its FLOP per byte, with its share of the roof that binds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from pykernels.analysis.common import Campaign, CaseSummary, domain, level_of, root
from pykernels.measure.stats import Interval
from pykernels.model import Record
from pykernels.units import value_of


class NotDrawn(msgspec.Struct):
    """A case that draws nothing, with the reason."""

    case_id: str
    reason: str


#: parameters whose value says what they are
_SPEAKING = ("op", "model", "level", "workload", "backend", "variant")


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


def points_of(
    study: Campaign, kernels: Iterable[CaseSummary], ceilings: Sequence[CaseSummary]
) -> tuple[list[Point], list[NotDrawn]]:
    """Kernels with FLOPs and bytes and a compute roof of their dtype; the others with the reason."""
    points, unplaced = [], []
    kernels = sorted(kernels, key=lambda case: case.first.case_id)
    names = told_apart([case.first for case in kernels])
    for case in kernels:
        record = case.first
        moved = record.bytes_compulsory or record.bytes_requested
        if not record.flops or not moved:
            unplaced.append(NotDrawn(record.case_id, f"no FLOP per byte: its figure is in {record.figure.unit}"))
            continue
        found = binding(case, ceilings, level_of(record, study.machine))
        if found is None:
            unplaced.append(NotDrawn(record.case_id, f"no {record.dtype} roof with its placement and threads"))
            continue
        rate, scale = flop_rate(case), 1e-9 * record.flops
        interval = rate.interval
        _, roof, factor = found
        share, low, high = study.ratio(rate, roof)
        points.append(Point(
            case_id=record.case_id, name=names[record.case_id], device=root(record.device), domain=domain(record),
            dtype=record.dtype, threads=record.threads, isa=record.isa, intensity=record.flops / moved,
            value=interval.value * scale, low=interval.low * scale, high=interval.high * scale,
            unit="GOP/s" if "int" in record.dtype else "GFLOP/s", roof=roof_name(roof.first),
            share=share * scale / factor, share_low=low * scale / factor, share_high=high * scale / factor,
            flags=list(case.flags),
        ))  # fmt: skip
    return points, unplaced


def told_apart(records: Iterable[Record], *, best: bool = False) -> dict[str, str]:
    """Short names by case id: the kernel, and what tells it from the others of its kind: parameters, backend, variant
    (not those two where the records are each the best of their kind). Device, threads and dtype are left to the reader
    of the name, who shows them anyway."""
    kinds: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for record in records:
        what = dict(record.params) | ({} if best else {"backend": record.backend, "variant": record.variant})
        kinds.setdefault(record.kernel, []).append((record.case_id, what))
    names: dict[str, str] = {}
    for kernel, cases in kinds.items():
        keys = list(dict.fromkeys(key for _, what in cases for key in what))
        differ = [key for key in keys if len({what.get(key) for _, what in cases}) > 1]
        for case_id, what in cases:
            parts = [what[key] if key in _SPEAKING else f"{key}={what[key]}" for key in differ if what.get(key)]
            names[case_id] = " ".join([kernel, *parts])
    return names


def roof_name(record: Record) -> str:
    return f"{record.figure.level}:{record.figure.op}" if record.figure.level else f"{record.dtype} {record.figure.op}"


def flop_rate(case: CaseSummary) -> CaseSummary:
    """The case in calls per second, whatever its own unit."""
    record, one = case.first, value_of(case.first.figure.unit, case.first.figure.amount, 1.0)
    time = record.figure.unit in ("ns", "us")

    def calls(value: float) -> float:
        return one / value if time else value / one

    old = case.interval
    ends = sorted((calls(old.low) if old.low else 0.0, calls(old.high)))
    interval = Interval(
        value=calls(old.value), low=ends[0], high=ends[1], launches=old.launches, best=calls(old.best), scope=old.scope,
        method=old.method,
    )  # fmt: skip
    values = {launch: calls(value) for launch, value in case.values.items()}
    return msgspec.structs.replace(
        case, estimate=msgspec.structs.replace(case.estimate, interval=interval, launch_values=values)
    )


def binding(case: CaseSummary, ceilings: Iterable[CaseSummary], level: str) -> tuple[float, CaseSummary, float] | None:
    """(attainable GFLOP/s, the roof that binds, GFLOP/s per unit of that roof) for data in `level`, or None without a
    roof of its dtype."""
    record = case.first
    moved = record.bytes_compulsory or record.bytes_requested
    if not record.flops or not moved:
        return None
    same = [c for c in ceilings if (domain(c.first), c.first.threads) == (domain(record), record.threads)]
    mine = [c for c in peaks(same) if c.first.dtype == record.dtype and _reachable(c.first, record)]
    if not mine:
        return None
    peak = max(mine, key=lambda c: c.interval.value)
    candidates = [(peak.interval.value, peak, 1.0)]
    roofs = [c for c in same if c.first.figure.kind == "bandwidth" and c.first.figure.level == level]
    roofs = [c for c in roofs if _reachable(c.first, record)]
    if roofs:
        fastest = max(roofs, key=lambda c: c.interval.value)
        factor = record.flops / moved
        candidates.append((fastest.interval.value * factor, fastest, factor))
    return min(candidates, key=lambda candidate: candidate[0])


def _reachable(roof: Record, kernel: Record) -> bool:
    """True for a roof of the kernel's ISA, and for every roof where the kernel states none."""
    return not kernel.isa or roof.isa == kernel.isa


def peaks(ceilings: Iterable[CaseSummary]) -> list[CaseSummary]:
    """The highest compute roof of each (domain, dtype, threads, ISA)."""
    best: dict[tuple[object, ...], CaseSummary] = {}
    for case in ceilings:
        record = case.first
        if record.figure.kind == "compute":
            key = (domain(record), record.dtype, record.threads, record.isa)
            if key not in best or case.interval.value > best[key].interval.value:
                best[key] = case
    return list(best.values())
