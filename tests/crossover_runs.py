"""Run files of simulated machines: lookups timed by the closed form, with launch and visit noise, and their roofs."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from pykernels.analysis.crossover import model
from pykernels.analysis.crossover.workload import Workload
from pykernels.model import (
    Cache,
    Conditions,
    Core,
    Crashed,
    Figure,
    Gpu,
    Machine,
    Measured,
    Record,
    short_hash,
)

GIB = 1024**3

CPU = model.Device(
    floor_s=6e-6,
    levels=(model.Level("L3", 32 * 1024**2, 2.5e9, 2.2e11), model.Level("DRAM", math.inf, 4e8, 6e10)),
    h2d=5e10,
    d2h=5e10,
)
GPU = model.Device(
    floor_s=4e-5, levels=(model.Level("HBM", math.inf, 1.5e10, 2.4e12),), h2d=5e10, d2h=5e10, memory=16.0 * GIB
)
MACHINE = Machine(
    id="lab7",
    arch="x86_64",
    cpu_model="Example CPU",
    cores=tuple(Core(k, (k,)) for k in range(2)),
    caches=(*(Cache("L2", 1024**2, (k,)) for k in range(2)), Cache("L3", 32 * 1024**2, (0, 1))),
    affinity=(0, 1),
    gpus=(Gpu(0, "Example GPU", memory_bytes=16 * GIB, l2_bytes=0),),
)
BASE = Workload(tables=8, rows=1_000_000, dim=64, bags=256, pooling=20, name="RM")
PATHS = ("plain", "graph", "mapped")


def loads(**axes: Sequence[Any]) -> list[Workload]:
    """The star around BASE: one workload for each value of each axis."""
    found = [msgspec.structs.replace(BASE, **{axis: value}) for axis, values in axes.items() for value in values]
    return list(dict.fromkeys(found))


def run_of(records: Iterable[Record], machine: Machine = MACHINE, path: str = "lab7.jsonl") -> Any:
    """A run file in memory, as `store.load_run` would give it."""
    return SimpleNamespace(
        path=path, header=SimpleNamespace(machine=machine, source="simulated"), records=list(records)
    )


def lookups(
    side: str, ends: str, workloads: Iterable[Workload], *, device: model.Device | None = None, noise: float = 0.005,
    launches: int = 5, seed: int = 0, paths: Sequence[str] = PATHS, slow: float = 1.0, threads: int = 2,
    facts: dict[str, Any] | None = None, hit: float | None = None,
) -> list[Record]:  # fmt: skip
    """Records of one side. A GPU beyond its memory is refused by its allocator; `slow` multiplies every time."""
    device = device or (GPU if side == "GPU" else CPU)
    dice = random.Random(f"{side}/{ends}/{seed}")
    shift = [dice.gauss(0, noise) for _ in range(launches)]
    found = []
    for load in workloads:
        for path in paths if side == "GPU" else ("",):
            extra = 1.0 + 0.1 * (paths.index(path) if path else 0)
            seconds = slow * extra * model.overlapped(model.terms(device, load, ends, hit=hit))
            for launch in range(launches):
                value = seconds * math.exp(shift[launch] + dice.gauss(0, noise / 2))
                refused = side == "GPU" and ends in ("G1", "G2") and load.table_bytes > device.memory
                outcome = Crashed(how="out of memory") if refused else Measured(samples_s=[value] * 5)
                known = {**(facts or {}), **({"hit_share": hit} if hit is not None else {})}
                found.append(record(load, side, ends, path, launch, outcome, known, threads))
    return found


def record(
    load: Workload, side: str, ends: str, path: str, launch: int, outcome: Any, facts: dict[str, Any], threads: int = 2
) -> Record:
    """One lookup record."""
    device = "gpu:0" if side == "GPU" else "cpu"
    params = {
        "tables": str(load.tables), "rows": str(load.rows), "dim": str(load.dim), "bags": str(load.bags),
        "pooling": f"{load.pooling:g}", "zipf": f"{load.zipf:g}", "workload": load.name,
    }  # fmt: skip
    named = ",".join(f"{k}={v}" for k, v in params.items())
    case_id = f"embedding_bag[{named},{load.dtype}] native @{device}*{threads}{{{path},{ends}}}"
    return Record(
        case_id=case_id,
        case=short_hash(case_id),
        kernel="embedding_bag",
        params=params,
        dtype=load.dtype,
        backend="cuda" if side == "GPU" else "native",
        device=device,
        threads=1 if side == "GPU" else threads,
        launch_path=path,
        ends=ends,
        launch=launch,
        round=0,
        figure=Figure("rate", "Grows/s", load.lookups),
        conditions=Conditions(facts=facts),
        outcome=outcome,
    )


def roofs(side: str, *, device: model.Device | None = None, links: bool = True, threads: int = 2) -> list[Record]:
    """The ceilings the closed form was made of: gather bandwidth and row rate a level, launch floor, link."""
    device = device or (GPU if side == "GPU" else CPU)
    name = "gpu:0" if side == "GPU" else "cpu"
    found = [
        _roof("launch", "launch", "us", 1.0, device.floor_s, name, threads, "", op=op) for op in ("plain", "graph")
    ]
    for level in device.levels:
        found.append(_roof("gather", "bandwidth", "GB/s", level.bandwidth, 1.0, name, threads, level.name))
        found.append(_roof("gather", "rate", "Grows/s", level.row_rate, 1.0, name, threads, level.name))
    if side == "GPU" and links:
        found += [_roof("link", "link", "GB/s", device.h2d, 1.0, name, threads, "", op=op) for op in ("h2d", "d2h")]
    return found


def _roof(
    kernel: str, kind: Any, unit: str, amount: float, seconds: float, device: str, threads: int, level: str,
    op: str = "",
) -> Record:  # fmt: skip
    case_id = f"{kernel}[{kind},{level},{op}] native @{device}"
    return Record(
        case_id=case_id,
        case=short_hash(case_id),
        kernel=kernel,
        params={},
        dtype="fp32",
        backend="native",
        device=device,
        threads=1 if device.startswith("gpu") else threads,
        launch=0,
        round=0,
        figure=Figure(kind, unit, amount, ceiling=True, level=level, op=op or kernel),
        outcome=Measured(samples_s=[seconds] * 3),
    )


def paired(**axes: Sequence[Any]) -> Any:
    """One run file with both sides of a star, host ends, and all roofs."""
    star = loads(**axes)
    return run_of(lookups("CPU", "C0", star) + lookups("GPU", "G2", star) + roofs("CPU") + roofs("GPU"))
