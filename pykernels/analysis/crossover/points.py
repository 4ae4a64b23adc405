"""A point: one workload, what the CPU did with it and what the GPU did, each the best implementation of its side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from pykernels.analysis.crossover import model
from pykernels.analysis.crossover.cells import Cell
from pykernels.analysis.crossover.finder import t_interval
from pykernels.analysis.crossover.model import Device
from pykernels.analysis.crossover.roofs import Ceiling, device_of
from pykernels.analysis.crossover.sources import Rival
from pykernels.analysis.crossover.workload import Workload
from pykernels.model import Machine

#: Launches of run n are numbered from n times this on, so that those of several run files stay apart.
RUN = 100_000


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A measured cell under its time roof: the device its run's ceilings make, the roof's terms, the share of it
    reached with its interval over launches (each under its own launch's ceilings), and what the run lacks for the
    judgement."""

    device: Device | None
    parts: dict[str, float] = {}
    share: float | None = None
    share_low: float = 0.0
    share_high: float = 0.0
    missing: tuple[str, ...] = ()


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides of one workload under one metric and one pair of ends. `paths`: launch paths the GPU side was chosen
    of."""

    load: Workload
    threads: int
    metric: str
    cpu: Cell
    cpu_costs: dict[int, float]
    cpu_judged: Judged
    rival: Rival
    gpu_judged: Judged | None = None
    paths: tuple[str, ...] = ()

    @property
    def ends(self) -> str:
        """The pair as "C0-G2"."""
        return f"{self.cpu.ends}-{self.rival.ends}"

    def log_ratios(self) -> dict[int, float]:
        """log(t_cpu / t_gpu) of each launch both sides have; a GPU side that was not measured has one value for all."""
        if self.rival.refused:
            return {}
        if self.rival.cell is None:
            (only,) = self.rival.costs.values()
            return {launch: math.log(cost / only) for launch, cost in self.cpu_costs.items()}
        common = self.cpu_costs.keys() & self.rival.costs.keys()
        return {launch: math.log(self.cpu_costs[launch] / self.rival.costs[launch]) for launch in sorted(common)}

    def ratio(self) -> tuple[float, float, float] | None:
        """Mean of the log ratios with its interval over launches or, where the GPU side is not measured, with the range
        that side may lie in; None where the GPU cannot hold the table."""
        ratios = list(self.log_ratios().values())
        if not ratios:
            return None
        centre, low, high = t_interval(ratios)
        if self.rival.cell is None:
            (only,) = self.rival.costs.values()
            return centre, centre + math.log(only / self.rival.high), centre + math.log(only / self.rival.low)
        return centre, low, high

    def cpu_fixed(self) -> float:
        """Seconds of the CPU side that no gather rate changes: the call's floor and, with device ends, the link."""
        parts = self.cpu_judged.parts
        return parts.get("floor", 0.0) + parts.get("link in", 0.0)

    def shares(self) -> list[float]:
        """Shares of their time roofs that the measured sides reach at most, where they can be judged."""
        judged = [self.cpu_judged] + ([self.gpu_judged] if self.gpu_judged and self.rival.cell else [])
        return [one.share_high for one in judged if one.share is not None]

    def gpu_terms(self) -> dict[str, float]:
        """Seconds of the GPU's terms: the model's where it is modelled, the roofs' where it was measured."""
        return self.rival.parts or (self.gpu_judged.parts if self.gpu_judged else {})


def best_of(cells: Sequence[Cell]) -> tuple[Cell, dict[int, float]]:
    """The best implementation by its median, and a cost for each launch of each run (run * RUN + launch).

    Each launch takes the implementation that is best over the other launches, so choosing costs no bias."""
    costs = {}
    for run, launch in sorted({(cell.run, launch) for cell in cells for launch in cell.costs}):
        able = [cell for cell in cells if cell.run == run and launch in cell.costs]
        costs[run * RUN + launch] = min((_median_without(cell, launch), cell.costs[launch]) for cell in able)[1]
    return min(cells, key=lambda cell: _median_without(cell, None)), costs


def _median_without(cell: Cell, launch: int | None) -> float:
    rest = sorted(cost for key, cost in cell.costs.items() if key != launch) or list(cell.costs.values())
    return rest[len(rest) // 2]


def judge_launches(
    cell: Cell, ceilings: Sequence[Ceiling], launches: dict[int, list[Ceiling]], machine: Machine, *,
    host_result: bool = True,
) -> Judged:  # fmt: skip
    """The cell under the ceilings of its run, and the interval of its share over launches: each under the ceilings of
    its own launch, where that saw them all."""
    judged = judge(cell, ceilings, machine, host_result=host_result)
    if judged.share is None:
        return judged
    shares = []
    for launch, cost in cell.costs.items():
        one = msgspec.structs.replace(cell, seconds=cost)
        own = judge(one, launches.get(launch, []), machine, host_result=host_result)
        share = (own if not own.missing else judge(one, ceilings, machine, host_result=host_result)).share
        shares += [math.log(share)] if share else []
    low = high = math.log(judged.share)
    if len(shares) > 1:
        _, low, high = t_interval(shares)
    return msgspec.structs.replace(judged, share_low=math.exp(low), share_high=math.exp(min(high, 100.0)))


def judge(cell: Cell, ceilings: Sequence[Ceiling], machine: Machine, *, host_result: bool = True) -> Judged:
    """The cell under its time roof: the slowest term where calls overlap (saturated), their sum with one in flight. A
    derived way over the link is no part of what the kernel is judged by."""
    if cell.link_s:
        own = msgspec.structs.replace(cell, ends="C0", seconds=cell.seconds - cell.link_s, link_s=0.0)
        judged = judge(own, ceilings, machine, host_result=host_result)
        return msgspec.structs.replace(judged, parts={**judged.parts, "link in": cell.link_s})
    device, missing = device_of(ceilings, cell, machine)
    if device is None:
        return Judged(device=None, missing=tuple(missing))
    parts = model.terms(device, cell.load, cell.ends, host_result=host_result, hit=cell.hit)
    counted = cell.load.gathered + cell.load.input_bytes + cell.load.result_bytes
    parts["bytes"] += max(0.0, cell.moved - counted) / device.levels[-1].bandwidth if cell.ends != "G3" else 0.0
    share = None
    if cell.seconds and cell.metric in ("saturated", "p50"):
        roof = model.overlapped(parts) if cell.metric == "saturated" else model.serial(parts)
        share = roof / cell.seconds
    return Judged(device=device, parts=parts, share=share, missing=tuple(missing))
