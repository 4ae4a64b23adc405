"""Known places on the table axis where times jump, and where the GPU's memory ends."""

from __future__ import annotations

from collections.abc import Sequence

from pykernels.analysis.crossover.axes import Axis
from pykernels.analysis.crossover.finder import Step
from pykernels.analysis.crossover.points import Point
from pykernels.analysis.crossover.roofs import capacity
from pykernels.analysis.crossover.sides import Sides


def steps_on(sides: Sides, axis: Axis, group: Sequence[Point]) -> tuple[Step, ...]:
    """Capacities inside the axis: the CPU's L2 and last level cache as its threads have them, the GPU's L2, and the
    TLB's reach where a record states it. Only the table axis has any."""
    if axis.name != "table" or not group:
        return ()
    cell = group[0].cpu
    machine = sides.machines[cell.run]
    levels = sorted({cache.level for cache in machine.caches} - {"L1"})
    reach = [Step("TLB reach", cell.tlb)] if cell.tlb else []
    found = [Step("LLC" if level == levels[-1] else level, capacity(machine, cell, level)) for level in levels] + reach
    rival = next((point.rival.cell for point in group if point.rival.cell), None)
    if rival is not None:
        found.append(Step("GPU L2", capacity(sides.machines[rival.run], rival, "L2")))
    low, high = group[0].load.table_bytes, group[-1].load.table_bytes
    return tuple(sorted((step for step in found if low < step.at < high), key=lambda step: step.at))


def capacity_edge(sides: Sides, axis: Axis, group: Sequence[Point]) -> tuple[float | None, tuple[float, float] | None]:
    """Where the GPU's memory ends on the table axis, and the cells on either side.

    The allocator's own limit where it stated one, else the largest table it accepted (a datasheet's memory in a
    projection); never a place between measured cells."""
    refused = [point.load.table_bytes for point in group if point.rival.refused]
    held = [point.load.table_bytes for point in group if not point.rival.refused]
    if axis.name != "table" or not refused or not held:
        return None, None
    bracket = (max(held), min(refused))
    if sides.projection:
        return sides.projection.device().memory, bracket
    limits = [cell.limit for cell in sides.gpu if cell.refused and cell.limit]
    return (min(limits) if limits else bracket[0]), bracket
