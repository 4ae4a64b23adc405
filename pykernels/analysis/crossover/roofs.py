"""The ceilings of one side from its own run, put together as a device of the closed form: gather bandwidth and row rate
a level, launch floor a path, link a direction. Each is the median over launches of the best case of its kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pykernels.analysis.crossover.cells import KERNEL, Cell, workload_of
from pykernels.analysis.crossover.model import Device, Level
from pykernels.model import Disturbed, Machine, Measured, Record
from pykernels.units import RATE_UNITS

#: a call of so few lookups costs the call itself, whatever it gathers: the floor of a CPU's time roof
FLOOR_LOOKUPS = 16
#: a measured gather judges loads whose Zipf exponent is this near, and whose tables are within this factor of its own
SAME_SKEW, SAME_SIZE = 0.01, 4.0
#: levels in order from the core outwards; a GPU's own memory counts as the last
ORDER = ("L1", "L2", "L3", "LLC", "DRAM", "HBM")


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """One measured ceiling in base units: bytes/s, rows/s, or seconds for a launch floor."""

    kind: str
    op: str
    level: str
    device: str
    threads: int
    path: str
    value: float
    row_bytes: float = 0.0
    table: float = 0.0  # bytes gathered from
    zipf: float = 0.0  # skew of the gathered rows


def ceilings_of(records: Iterable[Record]) -> list[Ceiling]:
    """Every gather, stream, link and launch ceiling of a run, and the floor of a call seen in its smallest lookups."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        wanted = record.figure.ceiling and record.figure.kind in ("bandwidth", "rate", "link", "launch")
        if (wanted or record.kernel in (KERNEL, "gather")) and isinstance(record.outcome, Measured | Disturbed):
            groups.setdefault(record.case_id, []).append(record)
    found: list[Ceiling] = []
    for group in groups.values():
        seconds = _median(
            [_median(record.outcome.samples_s) for record in group if isinstance(record.outcome, Measured)]
        )
        if seconds:
            found += _ceiling(group[0], seconds)
    return found


def ceilings_by_launch(records: Iterable[Record]) -> dict[int, list[Ceiling]]:
    """The ceilings that each launch saw."""
    launches: dict[int, list[Record]] = {}
    for record in records:
        launches.setdefault(record.launch, []).append(record)
    return {launch: ceilings_of(some) for launch, some in launches.items()}


def _ceiling(record: Record, seconds: float) -> list[Ceiling]:
    figure = record.figure
    place: dict[str, Any] = {
        "device": record.device,
        "threads": record.threads,
        "path": record.launch_path,
        "level": figure.level,
    }
    if record.kernel == KERNEL:
        tiny = workload_of(record).lookups <= FLOOR_LOOKUPS and not record.device.startswith("gpu")
        place["path"] = record.mode  # a request costs more than a call in a row of calls
        return [Ceiling(kind="launch", op="call", value=seconds, **place)] if tiny else []
    if figure.kind == "launch":
        place["path"] = record.launch_path or figure.op  # the way of asking is the launch path
        return [Ceiling(kind="launch", op=figure.op, value=seconds / max(1.0, figure.amount), **place)]
    rate = figure.amount / seconds
    op = figure.op or record.kernel
    row = (
        float(record.params.get("row_bytes", record.params.get("row", "0")) or 0) if record.kernel == "gather" else 0.0
    )
    if record.kernel == "gather":
        op = "gather"
        place |= {"table": float(record.working_set), "zipf": float(record.params.get("zipf", "0"))}
        place["level"] = figure.level or "DRAM"  # of a size that a sweep gives: far beyond the caches
    first = Ceiling(kind=figure.kind, op=op, value=rate, row_bytes=row, **place)
    if op != "gather" or not row or figure.unit not in RATE_UNITS:
        return [first]
    other = ("rate", rate / row) if figure.kind == "bandwidth" else ("bandwidth", rate * row)
    return [first, Ceiling(kind=other[0], op=op, value=other[1], row_bytes=row, **place)]


def _median(values: Sequence[float]) -> float:
    ordered = sorted(value for value in values if value > 0)
    return ordered[len(ordered) // 2] if ordered else 0.0


def device_of(ceilings: Sequence[Ceiling], cell: Cell, machine: Machine) -> tuple[Device | None, list[str]]:
    """The device that `cell` ran on, and which of its ceilings this run lacks (in words). None without gather roofs."""
    mine = [c for c in ceilings if c.device == cell.device and (cell.side == "GPU" or c.threads == cell.threads)]
    asked = {"mapped": "plain"}.get(cell.path, cell.path)  # mapped operands are launched plainly
    asked = ("" if cell.metric in ("saturated", "energy") else "closed") if cell.side == "CPU" else asked
    launches = [c for c in mine if c.kind == "launch"]
    floors = [c.value for c in launches if c.path == asked] or [c.value for c in launches if cell.side == "CPU"]
    levels = _levels(mine, cell, machine)
    if (
        levels
        and levels[-1].name not in ("DRAM", "HBM")
        and cell.load.table_bytes > capacity(machine, cell, levels[-1].name)
    ):
        levels = ()
    missing = [] if levels else [f"gather bandwidth and row rate of {cell.device}"]
    if not floors:
        missing.append(f"launch floor of {cell.device}")
    h2d = max((c.value for c in ceilings if c.kind == "link" and c.op.startswith("h2d")), default=0.0)
    d2h = max((c.value for c in ceilings if c.kind == "link" and c.op.startswith("d2h")), default=0.0)
    if cell.ends != "C0":
        missing += ["link host to device"] * (not h2d) + ["link device to host"] * (
            not d2h and cell.ends in ("G2", "G3", "G5")
        )
    if not levels:
        return None, missing
    memory = next((gpu.memory_bytes for gpu in machine.gpus if cell.device == f"gpu:{gpu.index}"), 0)
    device = Device(
        floor_s=min(floors, default=0.0),
        levels=levels,
        h2d=h2d or math.inf,
        d2h=d2h or math.inf,
        memory=float(memory) or math.inf,
    )
    return device, missing


def _levels(mine: Sequence[Ceiling], cell: Cell, machine: Machine) -> tuple[Level, ...]:
    """The levels that hold the cell's table, each with its two ceilings; one alone where a gather of the same skew was
    measured, in which the caches have caught what they can."""
    gathers = [c for c in mine if c.op == "gather"]
    load = cell.load
    if skewed := [c for c in gathers if c.zipf and abs(c.zipf - load.zipf) < SAME_SKEW]:
        near = _nearest(skewed, load.table_bytes)
        if max(near[0].table, load.table_bytes) <= SAME_SIZE * min(near[0].table, load.table_bytes):
            return (_level(near[0].level, near, math.inf),)
    gathers = [c for c in gathers if not c.zipf]
    present = sorted({c.level for c in gathers}, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    found = []
    for k, name in enumerate(present):
        last = k + 1 == len(present)
        of_level = [c for c in gathers if c.level == name]
        found.append(
            _level(name, _nearest(of_level, load.table_bytes), math.inf)
            if last
            else _level(name, of_level, capacity(machine, cell, name))
        )
    return tuple(level for level in found if not (math.isinf(level.row_rate) and math.isinf(level.bandwidth)))


def _nearest(gathers: Sequence[Ceiling], table_bytes: float) -> list[Ceiling]:
    """Of gathers from tables of several sizes those nearest to `table_bytes`, on the log scale."""
    best = min(gathers, key=lambda c: abs(math.log((c.table or table_bytes) / table_bytes)))
    return [c for c in gathers if abs(c.table - best.table) <= 0.01 * best.table]


def _level(name: str, gathers: Sequence[Ceiling], size: float) -> Level:
    """Both ceilings of a level, over all row sizes; infinite where none was measured."""
    bandwidth = max((c.value for c in gathers if c.kind == "bandwidth"), default=0.0)
    rate = max((c.value for c in gathers if c.kind == "rate"), default=0.0)
    return Level(name, size, rate or math.inf, bandwidth or math.inf)


def capacity(machine: Machine, cell: Cell, level: str) -> float:
    """Bytes of a level that the cell's threads have together: private caches by thread, shared ones once a domain."""
    if cell.side == "GPU":
        return float(next((gpu.l2_bytes for gpu in machine.gpus if cell.device == f"gpu:{gpu.index}"), 0))
    caches = [cache for cache in machine.caches if cache.level == level]
    if not caches:
        return 0.0
    cores = max(1, len({cpu for core in machine.cores for cpu in core.cpus[:1]}))
    private = caches[0].bytes * min(cell.threads, len(caches))
    return float(private if len(caches) >= cores > 1 or level in ("L1", "L2") else sum(cache.bytes for cache in caches))
