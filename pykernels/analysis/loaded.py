"""Loaded latency: what a load waits while other threads move data, over the rate at which they do."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pykernels.analysis.common import CaseSummary, domain, root

KERNEL = "loaded"


class LoadedPoint(msgspec.Struct, kw_only=True):
    """Latency (ns) beside so many GB/s of background traffic (0: the others were idle)."""

    background_gbps: float
    value: float
    low: float
    high: float


class LoadedCurve(msgspec.Struct, kw_only=True):
    """Latency of one thread's loads in a level over the traffic of the others; `read` percent of it are reads."""

    device: str
    domain: str
    threads: int
    isa: str
    level: str
    read: int
    unit: str
    points: list[LoadedPoint] = []


def curves(cases: Iterable[CaseSummary]) -> list[LoadedCurve]:
    """Every curve among the cases, traffic rising."""
    groups: dict[tuple[object, ...], LoadedCurve] = {}
    for case in cases:
        record, interval = case.first, case.estimate.interval
        if record.kernel != KERNEL or interval is None:
            continue
        read = int(record.params.get("read", 100))
        key = (domain(record), record.threads, record.isa, record.figure.level, -read)
        curve = groups.setdefault(key, LoadedCurve(
            device=root(record.device), domain=domain(record), threads=record.threads, isa=record.isa,
            level=record.figure.level, read=read, unit=record.figure.unit, points=[],
        ))  # fmt: skip
        curve.points.append(LoadedPoint(
            background_gbps=case.background_gbps, value=interval.value, low=interval.low, high=interval.high
        ))  # fmt: skip
    for curve in groups.values():
        curve.points.sort(key=lambda point: point.background_gbps)
    return [groups[key] for key in sorted(groups)]
