"""Kernels under the roof that binds them: time against the slowest of what the machine's ceilings allow.

A kernel's time roof is the longest of its terms, each an amount over a measured ceiling of the same device, threads and
run: bytes at the bandwidth of the level and operation that it resembles, FLOPs at the peak of the arithmetic it uses,
and, where it has them, rows at the row rate, exponentials at their rate, one access at the latency of the level. The
share is that roof over the kernel's time, launch by launch, so both ends of the ratio saw the same machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from pykernels.analysis.common import CaseSummary, campaign, domain, level_rank, root
from pykernels.analysis.impossible import exceeding, excess
from pykernels.analysis.points import Point, flop_rate, told_apart
from pykernels.analysis.roofline import Roofline
from pykernels.analysis.roofline import analyse as analyse_roofline
from pykernels.analysis.terms import ARITHMETIC, LOOKUPS, Term, centre, seconds_by_launch
from pykernels.analysis.terms import terms as terms_of
from pykernels.errors import UsageError
from pykernels.measure.stats import ratio_interval
from pykernels.model import Record
from pykernels.store import Run

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
        terms = terms_of(case, ceilings, study.machine)
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


# -------------------------------------------------------------------------------------------------------------- points


def _share_by_launch(case: CaseSummary, terms: Sequence[Term]) -> dict[int, float]:
    seconds = seconds_by_launch(case)
    roof = {launch: max(t.seconds.get(launch, 0.0) for t in terms) for launch in seconds}
    return {launch: roof[launch] / seconds[launch] for launch in seconds if roof[launch] > 0}


def _point(case: CaseSummary, terms: Sequence[Term], peer: tuple[float, str, bool]) -> KernelPoint:
    record = case.first
    seconds = seconds_by_launch(case)
    time_s = centre(seconds)
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
        seconds = {c.first.case_id: centre(seconds_by_launch(c)) for c in group}
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


def _under_roofline(runs: Sequence[Run], points: Sequence[KernelPoint], details: dict[str, Timed]) -> Roofline:
    """The roofline of the runs with the best implementation of each kernel as a named point."""
    roofline = analyse_roofline(runs)
    records = {record.case_id: record for run in runs for record in run.records}
    shown = [point.case_id for point in points if details[point.case_id].best and point.gflops]
    names = told_apart([records[case_id] for case_id in shown], best=True)
    drawn = []
    for point in points:
        if point.case_id not in names:
            continue
        record = records[point.case_id]
        name = f"{record.kernel} {record.dtype}{names[point.case_id].removeprefix(record.kernel)}"
        dtype = ARITHMETIC.get(point.dtype, point.dtype)
        spread = point.high / point.share if point.share and math.isfinite(point.high) else 1.0
        drawn.append(Point(
            case_id=point.case_id, name=name, device=root(record.device), domain=domain(record), dtype=dtype,
            threads=point.threads, isa=point.isa, intensity=point.intensity, value=point.gflops,
            low=point.gflops / spread, high=point.gflops * spread, unit="GFLOP/s",
            roof=details[point.case_id].terms[0].name if details[point.case_id].terms else "", share=point.share,
            share_low=point.low, share_high=point.high,
        ))  # fmt: skip
    roofline.detail.points = drawn
    return roofline
