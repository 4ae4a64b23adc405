"""From records to cells: the only place that knows what an `embedding_bag` record's parameters are called.

A cell is one case under one metric: workload, side, ends, and a cost for each launch. Costs are what is compared, lower
is better: seconds per call (saturated, p50, p99), seconds per lookup served within the limit, or joules per call
(energy).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from pykernels.analysis.crossover.workload import Workload
from pykernels.errors import UsageError
from pykernels.measure.stats.cases import estimate, visit_of
from pykernels.model import Crashed, Disturbed, Measured, Record, Skipped
from pykernels.units import DTYPE_BYTES, parse_size

KERNEL = "embedding_bag"
METRICS = ("saturated", "p50", "p99", "served@1ms", "served@10ms", "served@60ms", "energy")

Side = Literal["CPU", "GPU"]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One case under one metric. `costs` holds one cost a launch; a cell the allocator refused has none.

    `seconds` is the time of a call whatever the metric (0: not known); `hit` the recorded share of lookups that an HBM
    row cache caught; `run` the index of the run file; `moved` the bytes asked for, derived write-allocate included."""

    case_id: str
    load: Workload
    side: Side
    ends: str
    metric: str
    device: str
    threads: int
    pages: str
    how: str  # backend, ISA level, variant
    path: str = ""  # launch path
    costs: dict[int, float] = {}
    seconds: float = 0.0
    refused: bool = False
    hit: float | None = None
    moved: float = 0.0
    limit: float | None = None  # bytes the allocator would give, where it said so
    link_s: float = 0.0  # of `seconds`, derived: the result's way over the link
    no_energy: str = ""  # why its joules were not read
    tlb: float | None = None  # bytes that the second-level TLB of a core covers with the pages the table had
    machine: str = ""
    run: int = 0


def cells_of(records: Iterable[Record], *, machine: str = "", run: int = 0) -> list[Cell]:
    """The cells of one run's lookup records, in the order in which their cases first appear."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.kernel == KERNEL:
            groups.setdefault(record.case_id, []).append(record)
    found: list[Cell] = []
    for case_id, group in groups.items():
        first, load = group[0], workload_of(group[0])
        base: dict[str, Any] = {
            "case_id": case_id,
            "load": load,
            "side": "GPU" if first.device.startswith("gpu") else "CPU",
            "ends": first.ends or ("" if first.device.startswith("gpu") else "C0"),
            "device": first.device,
            "threads": first.threads,
            "pages": first.pages,
            "how": ":".join(text for text in (first.backend, first.isa) if text)
            + (f"/{first.variant}" * bool(first.variant)),
            "path": first.launch_path or ("plain" if first.device.startswith("gpu") else ""),
            "hit": _number(_facts(first).get("hit_share")),
            "limit": _number(_facts(first).get("allocatable_bytes")),
            "no_energy": str(_facts(first).get("no_energy", "")),
            "tlb": _number(_facts(first).get("tlb_reach_bytes")),
            "moved": first.bytes_requested + first.bytes_write_allocate,
            "machine": machine,
            "run": run,
        }
        if any(_out_of_memory(record) for record in group):
            found.append(Cell(metric="saturated", refused=True, **base))
            continue
        costs = {metric: some for metric, some in _costs(group, load).items() if some}
        if not costs and any(isinstance(record.outcome, Measured | Disturbed) for record in group):
            costs = {"saturated": {}}  # timed, but no launch is clean: listed, never compared
        found += [
            Cell(metric=metric, costs=some, seconds=_middle(some) if metric != "energy" and some else 0.0, **base)
            for metric, some in costs.items()
        ]
    return found


def _middle(costs: Mapping[int, float]) -> float:
    ordered = sorted(costs.values())
    return ordered[len(ordered) // 2]


def _out_of_memory(record: Record) -> bool:
    """True where the allocator refused the buffers: the only evidence a capacity edge rests on."""
    outcome = record.outcome
    if isinstance(outcome, Crashed):
        return outcome.how == "out of memory"
    return isinstance(outcome, Skipped) and "memory" in outcome.reason and record.device.startswith("gpu")


def _costs(group: list[Record], load: Workload) -> dict[str, dict[int, float]]:
    """metric -> launch -> cost."""
    timed = [record for record in group if isinstance(record.outcome, Measured | Disturbed)]
    open_or_closed = [record for record in timed if "latency" in _facts(record) or "served" in _facts(record)]
    plain = [record for record in timed if record not in open_or_closed]
    costs: dict[str, dict[int, float]] = {"saturated": _saturated(plain)}
    costs["energy"] = _energy(plain)
    for metric, key in (("p50", "p50_us"), ("p99", "p99_us")):
        costs[metric] = _by_launch(open_or_closed, lambda record, key=key: _scaled(_latency(record).get(key), 1e-6))
    for limit in ("1", "10", "60"):
        costs[f"served@{limit}ms"] = _by_launch(open_or_closed, lambda record, limit=limit: _served(record, limit))
    return costs


def _saturated(records: list[Record]) -> dict[int, float]:
    """Seconds per call of each launch, by the project's gate and medians."""
    visits = [
        visit_of(record.outcome, "us", 1.0, launch=record.launch, round=record.round, started=record.started)
        for record in records
        if isinstance(record.outcome, Measured | Disturbed)
    ]
    if not visits:
        return {}
    return {launch: value * 1e-6 for launch, value in estimate(visits, higher=False).launch_values.items()}


def _energy(records: list[Record]) -> dict[int, float]:
    def joules(record: Record) -> float | None:
        own = _number(_facts(record).get("joules_per_call"))
        if own is not None:
            return own
        calls = len(record.outcome.samples_s) * record.outcome.reps if isinstance(record.outcome, Measured) else 0
        joule = record.conditions.energy_j
        return joule / calls if joule and calls else None

    return _by_launch(records, joules)


def _by_launch(records: list[Record], read: Any) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for record in records:
        value = read(record)
        if value is not None and value > 0:
            values.setdefault(record.launch, []).append(value)
    return {launch: _middle(dict(enumerate(some))) for launch, some in values.items()}


def _facts(record: Record) -> dict[str, Any]:
    return record.conditions.facts


def _latency(record: Record) -> Mapping[str, Any]:
    facts = _facts(record).get("latency")
    return facts if isinstance(facts, Mapping) else {}


def _served(record: Record, limit: str) -> float | None:
    """Seconds per lookup at the highest offered load whose p99 stayed within the limit (facts["served"]: {"10ms":
    rate})."""
    facts = _facts(record).get("served")
    if not isinstance(facts, Mapping):
        return None
    rate = _number(facts.get(f"{limit}ms", facts.get(limit)))
    return 1.0 / rate if rate else None


def _scaled(value: Any, factor: float) -> float | None:
    number = _number(value)
    return number * factor if number else None


# ------------------------------------------------------------------------------------------------------------- workload


def workload_of(record: Record) -> Workload:
    """The workload of a lookup record, from its parameters, then its facts, then its bytes (a table given relative to
    the machine leaves its rows out of the id). Raises UsageError naming the case and the parameter that is missing."""
    known = {**_facts(record), **record.params}
    dtype = record.dtype
    if dtype not in DTYPE_BYTES:
        raise UsageError(f'{record.case_id}: dtype "{dtype}" is not one whose row size is known')
    common: dict[str, Any] = {
        "tables": int(_need(record, known, ("tables",), 1)),
        "dim": int(_need(record, known, ("dim",))),
        "bags": int(_need(record, known, ("bags", "batch"))),
        "pooling": _need(record, known, ("pooling",)),
        "dtype": dtype,
        "index_bytes": _index_bytes(known),
        "zipf": _zipf(known),
        "scale": _number(known.get("scale")) or 1.0,
        "weighted": str(known.get("weighted", "")).lower() in ("true", "yes", "1"),
        "name": str(known.get("workload", "")),
    }
    rows = _number(known.get("rows"))
    if rows is None:
        rows = _rows_from_bytes(record, known, Workload(rows=1, **common))
    return Workload(rows=int(rows), **common)


def _rows_from_bytes(record: Record, known: Mapping[str, Any], one: Workload) -> float:
    table = known.get("table_bytes", known.get("table"))
    nbytes = _number(table)
    if nbytes is None:
        try:
            nbytes = float(parse_size(str(table)))
        except UsageError:
            nbytes = record.working_set - one.input_bytes - one.result_bytes
    rows = round(nbytes / (one.tables * one.row_bytes))
    if rows < 1:
        raise UsageError(f'{record.case_id}: neither "rows" nor the table\'s bytes are in the record')
    return rows


def _need(record: Record, known: Mapping[str, Any], names: tuple[str, ...], default: float | None = None) -> float:
    for name in names:
        value = _number(known.get(name))
        if value is not None:
            return value
    if default is None:
        raise UsageError(f'{record.case_id}: the record has no parameter "{names[0]}"; a lookup needs it to be placed')
    return default


def _number(value: Any) -> float | None:
    """A number, from a number or from text such as "80" or "uniform 1..200" (its middle)."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    text = str(value)
    span = re.fullmatch(r"\D*?(\d+)\s*(?:\.\.|-|:|~)\s*(\d+)", text)
    if span:
        return (float(span[1]) + float(span[2])) / 2
    try:
        return float(text)
    except ValueError:
        return None


def _index_bytes(known: Mapping[str, Any]) -> int:
    text = str(known.get("index", known.get("index_dtype", "int32")))
    return 8 if "64" in text or text == "8" else 4


def _zipf(known: Mapping[str, Any]) -> float:
    direct = _number(known.get("zipf"))
    if direct is not None:
        return direct
    found = re.search(r"zipf\W*([0-9.]+)", str(known.get("indices", "")))
    return float(found[1]) if found else 0.0
