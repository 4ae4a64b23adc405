"""The memory hierarchy as it is measured: curves over the working set, and the capacities where they break.

A capacity is the change point at the end of a plateau: between the last size that is on it and the first that is not.
Plateaus are found together by dynamic programming: every size is on one of k plateaus (cost: squared distance from its
level) or between two (a fixed cost), and a plateau has its own fixed cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from pykernels.analysis.common import CaseSummary, domain, level_rank, root
from pykernels.model import Machine, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: log distance from its plateau that costs 1/2: bandwidth slopes by some percent, latency by more (translations, and
#: lines that neighbours take from a shared cache)
_SPREAD, _LATENCY_SPREAD = 0.05, 0.12
_BETWEEN = 4.0  #: cost of a size that lies on no plateau
_PLATEAU = 6.0  #: cost of a plateau: two sizes do not make one unless they are close
_APART = 0.15  #: plateaus nearer to each other than this are one
_AGREES = 1.35  #: the OS's capacity may lie this far outside the measured bracket
_KERNELS = ("stream", "chase")
_NEAR = 12.0  #: a break further than this from the OS's capacity belongs to no level
_CLEAR = 0.7  #: log drop from which on a break is not left without a level for less than that


class CurvePoint(msgspec.Struct, kw_only=True):
    """Value at a working set (bytes over all threads)."""

    size: int
    value: float
    low: float
    high: float


class Curve(msgspec.Struct, kw_only=True):
    """One sweep over the working set: bandwidth (GB/s) or latency (ns)."""

    device: str
    domain: str
    kind: str
    kernel: str
    op: str
    dtype: str
    threads: int
    isa: str
    pages: str
    unit: str
    points: list[CurvePoint] = []


class Level(msgspec.Struct, kw_only=True):
    """A cache level's capacity as the OS states it, from bandwidth and from latency (0: no break found).

    `low` and `high` bracket the bandwidth's break, or the chase's where there is no other; `agrees` is null where
    neither was found."""

    level: str
    os_bytes: int
    bandwidth_bytes: int
    chase_bytes: int
    low: int
    high: int
    agrees: bool | None


def is_sweep(record: Record) -> bool:
    """True for a point of a sweep over the working set: loads, copies or chases of a size and of no level."""
    return record.figure.kind in ("bandwidth", "latency") and not record.figure.level and record.kernel in _KERNELS


def curves(cases: Iterable[CaseSummary]) -> list[Curve]:
    """Every working-set sweep with three sizes or more, sizes rising."""
    groups: dict[tuple[object, ...], Curve] = {}
    for case in cases:
        record, interval = case.first, case.estimate.interval
        if not is_sweep(record) or interval is None:
            continue
        figure = record.figure
        key = (domain(record), record.kernel, figure.op, record.dtype, record.threads, record.isa, record.pages,
               tuple(sorted((k, v) for k, v in record.params.items() if k not in ("size", "n"))))  # fmt: skip
        curve = groups.setdefault(key, Curve(
            device=root(record.device), domain=domain(record), kind=figure.kind, kernel=record.kernel, op=figure.op,
            dtype=record.dtype, threads=record.threads, isa=record.isa, pages=record.pages, unit=figure.unit, points=[],
        ))  # fmt: skip
        curve.points.append(
            CurvePoint(size=record.working_set, value=interval.value, low=interval.low, high=interval.high)
        )
    for curve in groups.values():
        curve.points.sort(key=lambda point: point.size)
    found = [curve for curve in groups.values() if len(curve.points) >= 3]
    return sorted(found, key=lambda c: (c.kind, c.domain, c.threads, c.kernel, c.op, c.dtype, c.isa, c.pages))


def levels(machine: Machine, found: Sequence[Curve]) -> list[Level]:
    """Capacities of one core's caches beside the OS's, from the one-thread sweeps; empty without a sweep."""
    bandwidth = _pick(found, "bandwidth")
    chase = _pick(found, "latency")
    if bandwidth is None and chase is None:
        return []
    capacities = {cache.level: cache.bytes for cache in machine.caches}
    names = sorted(capacities, key=level_rank)
    by_bandwidth = _assign(breaks(bandwidth) if bandwidth else [], capacities, names)
    by_chase = _assign(breaks(chase) if chase else [], capacities, names)
    return [_level(name, capacities[name], by_bandwidth.get(name), by_chase.get(name)) for name in names]


def _pick(found: Sequence[Curve], kind: str) -> Curve | None:
    """The CPU sweep with the fewest threads, loads first, with the most sizes."""
    fit = [c for c in found if c.kind == kind and c.device == "cpu" and len(c.points) >= 6]

    def order(curve: Curve) -> tuple[int, bool, bool, int]:
        return curve.threads, curve.op not in ("load", "chase", ""), curve.pages != "huge", -len(curve.points)

    return min(fit, key=order, default=None)


def _level(name: str, os_bytes: int, bandwidth: Break | None, chase: Break | None) -> Level:
    brackets = [found for found in (bandwidth, chase) if found]
    low, high = (brackets[0].low, brackets[0].high) if brackets else (0, 0)
    agrees = all(b.low / _AGREES <= os_bytes <= b.high * _AGREES for b in brackets) if brackets else None
    return Level(
        level=name, os_bytes=os_bytes, bandwidth_bytes=bandwidth.centre if bandwidth else 0,
        chase_bytes=chase.centre if chase else 0, low=low, high=high, agrees=agrees,
    )  # fmt: skip


def _assign(found: Sequence[Break], capacities: dict[str, int], names: Sequence[str]) -> dict[str, Break]:
    """Breaks to levels, both in rising order, so that the sum of log distances is least; a break may stay alone, and
    costs the less the smaller it is."""
    best: dict[tuple[int, int], tuple[float, dict[str, Break]]] = {}
    alone = [math.log(_NEAR) * min(1.0, one.drop / _CLEAR) for one in found]

    def solve(i: int, j: int) -> tuple[float, dict[str, Break]]:
        if i == len(found) or j == len(names):
            return sum(alone[i:]) + math.log(_NEAR) * (len(names) - j), {}
        if (i, j) not in best:
            distance = abs(math.log(found[i].centre / capacities[names[j]]))
            options = []
            for cost, (rest, pairs), mine in (
                (distance, solve(i + 1, j + 1), {names[j]: found[i]}),
                (alone[i], solve(i + 1, j), {}),
                (math.log(_NEAR), solve(i, j + 1), {}),
            ):
                options.append((cost + rest, pairs | mine))
            best[i, j] = min(options, key=lambda option: option[0])
        return best[i, j]

    return solve(0, 0)[1]


# -------------------------------------------------------------------------------------------------------- change points


class Break(NamedTuple):
    """The end of a plateau: its last size, the first size off it (bytes over all threads), and the log drop to the next
    plateau, or to the last size where there is none."""

    low: int
    high: int
    drop: float

    @property
    def centre(self) -> int:
        """Geometric mean of both sizes."""
        return round(math.sqrt(self.low * self.high))


def breaks(curve: Curve) -> list[Break]:
    """Where plateaus end, for every one that ends before the sweep does."""
    sizes = [point.size for point in curve.points]
    y = np.log([point.value for point in curve.points])
    falls = curve.kind == "bandwidth"
    y = y if falls else -y
    found = plateaus(y, _SPREAD if falls else _LATENCY_SPREAD)
    heights = [float(np.median(y[first : last + 1])) for first, last in found] + [float(y[-1])]
    return [
        Break(sizes[last], sizes[last + 1], max(heights[number] - heights[number + 1], 0.0))
        for number, (_, last) in enumerate(found) if last + 1 < len(sizes)
    ]  # fmt: skip


def plateaus(y: NDArray[np.float64], spread: float = _SPREAD) -> list[tuple[int, int]]:
    """(first, last) index of every plateau of a falling series of logarithms, in order."""
    n = y.size
    cost = _segment_costs(y) / (2 * spread**2)
    # best[j]: least cost of the first j sizes, and how it was reached
    best = np.full(n + 1, np.inf)
    best[0] = 0.0
    came: list[tuple[int, bool]] = [(0, False)] * (n + 1)
    for j in range(1, n + 1):
        best[j], came[j] = best[j - 1] + _BETWEEN, (j - 1, False)
        for i in range(j - 1):  # a plateau holds two sizes at least
            if j - i == 2 and abs(y[i] - y[i + 1]) > spread:
                continue  # two steps of a slow decline
            total = best[i] + cost[i, j] + _PLATEAU
            if total < best[j]:
                best[j], came[j] = total, (i, True)
    found: list[tuple[int, int]] = []
    j = n
    while j:
        i, plateau = came[j]
        if plateau:
            found.append((i, j - 1))
        j = i
    return _merged(y, found[::-1])


def _segment_costs(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """costs[i, j]: squared distance of y[i:j] from its mean."""
    sums, squares = np.concatenate([[0.0], np.cumsum(y)]), np.concatenate([[0.0], np.cumsum(y**2)])
    i, j = np.meshgrid(np.arange(y.size + 1), np.arange(y.size + 1), indexing="ij")
    length = np.maximum(j - i, 1)
    inside = squares[j] - squares[i] - (sums[j] - sums[i]) ** 2 / length
    costs: NDArray[np.float64] = np.maximum(inside, 0.0)
    return costs


def _merged(y: NDArray[np.float64], found: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbouring plateaus of nearly the same level as one; one that rises belongs to its neighbour as well."""
    out: list[tuple[int, int]] = []
    for first, last in found:
        if out:
            before = float(np.median(y[out[-1][0] : out[-1][1] + 1]))
            if before - float(np.median(y[first : last + 1])) < _APART:
                out[-1] = (out[-1][0], last)
                continue
        out.append((first, last))
    return out
