"""From run files to cases: every case's visits over all runs, its estimate, and why it has none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median

import msgspec
import numpy as np

from pykernels.errors import UsageError
from pykernels.measure.stats import (
    SITTING_GAP_S,
    Estimate,
    Interval,
    Visit,
    estimate,
    merge_sittings,
    ratio_interval,
    visit_of,
)
from pykernels.model import ISA_LEVELS, Crashed, Disturbed, Machine, Measured, Record, Skipped, Wrong
from pykernels.store import Run
from pykernels.units import higher_is_better, parse_size

LEVEL_ORDER = ("shared", "L1", "L2", "L3", "L4", "DRAM")
_RUN = 100_000  #: launches of run i are numbered from i times this


class Limit(msgspec.Struct, frozen=True):
    """What a device cannot pass, for the shares and the impossible results: `label` is `datasheet` or `derived`.

    Keys of a mapping of limits: "<device> memory" (GB/s), "<device> <dtype>" (the figure's own unit) and, for CPUs,
    "<device> <dtype> <isa>" (FLOP/cycle of one core), the device as the record has it."""

    value: float
    unit: str
    label: str = "datasheet"
    source: str = ""


class CaseSummary(msgspec.Struct, kw_only=True):
    """One case over all runs. `first` describes it; `reason` says why it has no value ("": it has one)."""

    first: Record
    estimate: Estimate
    reason: str = ""
    flags: list[str] = []
    stops: dict[str, int] = {}
    clocks: dict[int, float] = {}  # GHz by launch, where it was measured
    hosts: dict[int, float] = {}  # GPUs: seconds of a call from the host's question to its answer, by launch
    background_gbps: float = 0.0  # what other threads moved meanwhile, where they did
    visits: list[Visit] = []

    @property
    def values(self) -> dict[int, float]:
        """Launch value by launch."""
        return self.estimate.launch_values

    @property
    def interval(self) -> Interval:
        """The interval of a case that has a value (`reason` is empty)."""
        assert self.estimate.interval is not None
        return self.estimate.interval

    @property
    def clock_ghz(self) -> float:
        """Median clock over launches; 0 where it was not measured."""
        return float(np.median(list(self.clocks.values()))) if self.clocks else 0.0

    @property
    def host_s(self) -> float:
        """Median over launches of a call's end-to-end seconds on the host's clock; 0 where the device's is the only."""
        return float(np.median(list(self.hosts.values()))) if self.hosts else 0.0


class Campaign(msgspec.Struct, kw_only=True):
    """The cases of one or more runs of one machine. `sittings` counts runs that began at least an hour apart."""

    machine: Machine
    cases: dict[str, CaseSummary]
    sittings: int
    launches: int
    sitting_of: dict[int, int]  # by launch
    source: str = "measured"
    notes: list[str] = []

    def of_run(self, index: int) -> list[CaseSummary]:
        """Every case that has a value, with the visits of one run only (runs in the order they were given)."""
        lone = len({launch // _RUN for launch in self.sitting_of}) <= 1
        usable = [case for case in self.cases.values() if not case.reason]
        if lone:
            return usable
        return [
            msgspec.structs.replace(case, visits=[visit for visit in case.visits if visit.launch // _RUN == index])
            for case in usable
        ]

    def ratio(self, above: CaseSummary, below: CaseSummary) -> tuple[float, float, float]:
        """(above / below, low, high): over per-launch ratios, or over sittings where there are three or more; for one
        launch the quotient of the two `within-process` intervals."""
        a, b = above.estimate.interval, below.estimate.interval
        common = sorted(above.values.keys() & below.values.keys())
        if a and b and (len(above.values) == 1 or len(below.values) == 1):
            return a.value / b.value, a.low / b.high, a.high / b.low
        groups: dict[int, list[float]] = {}
        for launch in common:
            groups.setdefault(self.sitting_of[launch], []).append(above.values[launch] / below.values[launch])
        if len(groups) >= 3:
            merged = merge_sittings(list(groups.values()))
            return merged.value, merged.low, merged.high
        return ratio_interval(above.values, below.values)


def known_limits(machine: Machine, records: Iterable[Record]) -> dict[str, Limit]:
    """Limits of the ceilings among the records, as far as the machine's model is known."""
    from pykernels.machine.datasheets import compute_peak, memory_peak

    found: dict[str, Limit] = {}
    for record in records:
        device, figure = record.device, record.figure
        if figure.kind == "bandwidth":
            key, peak, unit = f"{device} memory", memory_peak(machine, device), "GB/s"
        elif device.startswith("gpu"):
            key, peak, unit = f"{device} {record.dtype}", compute_peak(machine, device, record.dtype), figure.unit
        else:  # one core at 1 GHz: FLOP per cycle
            peak = compute_peak(machine, device, record.dtype, clock_ghz=1.0, isa=record.isa)
            key, unit = f"{device} {record.dtype} {record.isa}", "FLOP/cycle"
        if peak.value:
            found[key] = Limit(peak.value, unit, peak.label, peak.basis)
    return found


def limit_of(record: Record, limits: Mapping[str, Limit]) -> Limit | None:
    """What a ceiling is held against: memory bandwidth for DRAM, the arithmetic peak for compute, else nothing."""
    device = record.device
    if record.figure.kind == "bandwidth" and record.figure.level == "DRAM":
        return limits.get(f"{device} memory")
    if record.figure.kind == "compute":
        return limits.get(f"{device} {record.dtype} {record.isa}") or limits.get(f"{device} {record.dtype}")
    return None


def cores_used(record: Record, machine: Machine) -> int:
    """Physical cores of a CPU case: one for each thread as long as there are as many. Multiprocessors of a GPU."""
    if record.device.startswith("gpu"):
        return max((gpu.sms for gpu in machine.gpus if f"gpu:{gpu.index}" == record.device), default=0) or 1
    return min(record.threads, len(machine.cores) or record.threads)


def root(device: str) -> str:
    """`cpu` or `gpu:N` of any device name."""
    return device if device.startswith("gpu") else "cpu"


def domain(record: Record) -> str:
    """The placement domain as the user writes it, with what makes it another place: memory that is not local, a mode
    that is not steady. Cases of different domains are never held against each other."""
    options = [f"memory={record.memory}"] if record.memory else []
    options += [record.mode] if record.mode not in ("", "steady") else []
    return record.device + (f"{{{','.join(options)}}}" if options else "")


def isa_rank(isa: str) -> int:
    """Place of an ISA level in rising order; -1 for none."""
    return ISA_LEVELS.index(isa) if isa in ISA_LEVELS else -1


def level_rank(level: str) -> int:
    """Place of a memory level, innermost first; last for none."""
    return LEVEL_ORDER.index(level) if level in LEVEL_ORDER else len(LEVEL_ORDER)


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


def row_bytes(record: Record) -> int:
    """Bytes of a gathered row; 0 for what gathers none."""
    text = record.params.get("row_bytes") or record.params.get("row") or "0 B"
    return int(text) if text.isdecimal() else parse_size(text)


def level_of(record: Record, machine: Machine) -> str:
    """The level that the kernel states, else the innermost one that its working set fits; DRAM beyond."""
    if record.figure.level or not record.working_set:
        return record.figure.level
    sizes = capacities(record, machine)
    fitting = [level for level in sorted(sizes, key=level_rank) if record.working_set <= sizes[level]]
    return fitting[0] if fitting else "DRAM"


def campaign(runs: Sequence[Run]) -> Campaign:
    """Group the records of runs by case. Raises UsageError for no runs, runs of two machines, or measured runs together
    with simulated or replayed ones."""
    if not runs:
        raise UsageError("no run file was given (`pykernels run -o FILE` writes one)")
    first = runs[0]
    for run in runs[1:]:
        _same(first, run)
    sitting = _sittings(runs)
    groups: dict[str, list[tuple[int, Record]]] = {}
    for index, run in enumerate(runs):
        for record in run.records:
            groups.setdefault(record.case_id, []).append((index, record))
    cases = {case_id: _summary(records, sitting) for case_id, records in groups.items()}
    notes = []
    if len(runs) > 1 and max(sitting) < 2:
        count = max(sitting) + 1
        what = f"{len(runs)} runs are {count} sitting{'s' if count > 1 else ''}"
        notes.append(f"{what}: scope `machine` needs 3, an hour or more apart")
    numbers = {index * _RUN + record.launch for index, run in enumerate(runs) for record in run.records}
    sitting_of = {launch: sitting[launch // _RUN] for launch in sorted(numbers)}
    return Campaign(
        machine=first.header.machine, cases=cases, sittings=max(sitting) + 1, launches=len(sitting_of),
        sitting_of=sitting_of, source=first.header.source, notes=notes,
    )  # fmt: skip


def _same(first: Run, other: Run) -> None:
    a, b = first.header, other.header
    if a.machine.id != b.machine.id:
        here, there = (f"{m.cpu_model or 'a machine'} ({m.id})" for m in (b.machine, a.machine))
        mend = "merge runs of one machine only (`pykernels compare` takes two)"
        raise UsageError(f"{other.path}: measured on {here}, but {first.path} on {there}; {mend}")
    if a.source != b.source:
        raise UsageError(f"{other.path}: a {b.source} run, but {first.path} is {a.source}; they cannot be merged")


def _sittings(runs: Sequence[Run]) -> list[int]:
    """Sitting number of each run, by start time; a run without a start is a sitting with the one before it."""
    starts = [_seconds(run) for run in runs]
    order = sorted(range(len(runs)), key=lambda index: starts[index])
    numbers = [0] * len(runs)
    for before, after in pairwise(order):
        numbers[after] = numbers[before] + (starts[after] - starts[before] >= SITTING_GAP_S)
    return numbers


def _seconds(run: Run) -> float:
    try:
        return datetime.fromisoformat(run.header.started).timestamp()
    except ValueError:
        return min((record.started for record in run.records), default=0.0)


def _summary(records: Sequence[tuple[int, Record]], sitting: Sequence[int]) -> CaseSummary:
    first = records[0][1]
    timed = [(index, record) for index, record in records if isinstance(record.outcome, Measured | Disturbed)]
    visits, clocks, hosts, stops, background = [], {}, {}, {}, []  # type: ignore[var-annotated]
    for index, record in timed:
        outcome = record.outcome
        assert isinstance(outcome, Measured | Disturbed)
        launch = index * _RUN + record.launch
        figure = record.figure
        visits.append(visit_of(outcome, figure.unit, figure.amount, launch=launch, round=record.round,
                               started=record.started))  # fmt: skip
        if visits[-1].clock_ghz:
            clocks.setdefault(launch, []).append(visits[-1].clock_ghz)
        if outcome.host_s:
            hosts.setdefault(launch, []).extend(outcome.host_s)
        background += [r for r in (record.conditions.facts.get("background_GBps"),) if r]
        stops[outcome.stop] = stops.get(outcome.stop, 0) + 1
    found = estimate(
        visits,
        higher=higher_is_better(first.figure.unit),
        sittings={visit.launch: sitting[visit.launch // _RUN] for visit in visits},
    )
    reason = _reason([record for _, record in records], found)
    return CaseSummary(
        first=timed[0][1] if timed else first,
        estimate=found,
        reason=reason,
        flags=_flags([record for _, record in records], found, bool(reason)),
        stops={stop: count for stop, count in stops.items() if stop},
        clocks={launch: median(values) for launch, values in clocks.items()},
        hosts={launch: float(np.median(values)) for launch, values in hosts.items()},
        background_gbps=median(background) if background else 0.0,
        visits=visits,
    )


def _reason(records: Sequence[Record], found: Estimate) -> str:
    """Why a case draws nothing; "" where it has a value. One wrong result is enough: correct comes before fast."""
    outcomes = [record.outcome for record in records]
    for outcome in outcomes:
        if isinstance(outcome, Wrong):
            return (
                f"wrong: error {outcome.max_error:.3g} > {outcome.bound:.3g} at {outcome.where}, {outcome.phase} timing"
            )
    if any(isinstance(outcome, Measured | Disturbed) for outcome in outcomes):
        return "" if found.interval else f"disturbed: {found.reason}"
    for outcome in outcomes:
        if isinstance(outcome, Crashed):
            detail = outcome.detail.strip().splitlines()[-1:]
            return f"crashed: {outcome.how}" + (f" ({detail[0]})" if detail else "")
    for outcome in outcomes:
        if isinstance(outcome, Skipped):
            return f"skipped: {outcome.reason}"
    return "not measured"


def _flags(records: Sequence[Record], found: Estimate, unusable: bool) -> list[str]:
    if unusable:
        return []
    flags = list(found.flags)
    crashed = sum(isinstance(record.outcome, Crashed) for record in records)
    if crashed:
        flags.append(f"crashed in {crashed} of {len(records)} visits")
    sizes = [record.working_set for record in records]
    if max(sizes) > 1.01 * min(sizes):
        flags.append("size differs between runs")
    return flags
