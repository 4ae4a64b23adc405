"""Where the GPU side of a comparison comes from: measured beside the CPU, measured elsewhere, fitted, or projected.

A `Rival` is the GPU's answer to one CPU cell: a cost for each launch (measured) or one cost with a range (not
measured).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from pykernels.analysis.crossover import model
from pykernels.analysis.crossover.answers import Assumptions, Source
from pykernels.analysis.crossover.cells import Cell
from pykernels.analysis.crossover.model import Device, Level
from pykernels.analysis.crossover.workload import Workload
from pykernels.analysis.wall.data import Device as Datasheet
from pykernels.analysis.wall.data import devices
from pykernels.errors import UsageError, unknown
from pykernels.model import Machine

#: CPU ends -> the GPU ends that may stand beside them: results wanted in the same place
EQUAL_ENDS = {"C0": ("G2", "G3", "G5"), "C1": ("G1", "G3", "G5")}
ENDS = {"host": "C0", "device": "C1"}


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """The GPU's cost for one workload: by launch where measured, else one value and the range it may lie in.

    `refused`: its memory cannot hold the table. `parts`: seconds of its terms where a model gives them."""

    ends: str
    how: str
    path: str = ""
    costs: dict[int, float] = {}
    low: float = 0.0
    high: float = 0.0
    refused: bool = False
    cell: Cell | None = None
    parts: dict[str, float] = {}
    hit: float | None = None


def check_ends(asked: Sequence[str]) -> tuple[str, ...]:
    """`host` and `device`, or pairs such as "C0-G2"; anything with G0, or unequal, is refused with the reason."""
    chosen = []
    for text in asked:
        parts = text.replace("/", "-").split("-")
        if "G0" in parts:
            raise UsageError(
                "ends G0 is a GPU kernel alone, with indices and results already in GPU memory: nobody who could ask a "
                "CPU gets that, so it is never part of a crossover; compare C0 with G2 (--ends host) "
                "or C1 with G1 (--ends device)"
            )
        if len(parts) == 1 and text in ENDS:
            chosen.append(text)
        elif len(parts) == 2 and parts[0] in EQUAL_ENDS:
            if parts[1] not in EQUAL_ENDS[parts[0]]:
                right = ", ".join(EQUAL_ENDS[parts[0]])
                raise UsageError(
                    f"ends {text} are not equal: the results are wanted in different places; {parts[0]} "
                    f"compares with {right}"
                )
            chosen.append({"C0": "host", "C1": "device"}[parts[0]])
        else:
            raise unknown("ends", text, [*ENDS, "C0-G2", "C1-G1", "C0-G3", "C0-G5", "C1-G3", "C1-G5"])
    return tuple(dict.fromkeys(chosen))


def source_of(cpu_runs: set[int], gpu_runs: set[int], machines: Sequence[Machine]) -> Source:
    """`paired` where both sides come from one run file, else `cross-machine`. Raises UsageError where two files claim
    to be one machine but describe two."""
    ids = {machine.id for machine in machines}
    if len(machines) == 2 and len(ids) == 1:
        one, two = machines
        for field in ("cpu_model", "cores", "gpus", "arch"):
            values = (getattr(one, field), getattr(two, field))
            if values[0] != values[1] and all(values):  # a run that did not look for GPUs lists none
                raise UsageError(
                    f'two machines under one name: both run files say machine "{one.id}", but {field} differs; '
                    "record both again (pykernels run recsys) or give files of one machine"
                )
    return "paired" if cpu_runs == gpu_runs else "cross-machine"


def what_cpu(machine: Machine, device: str, threads: int) -> str:
    """The CPU side as what it is: vCPUs of a guest, or cores of named sockets."""
    sockets = len({core.socket for core in machine.cores}) or 1
    name = machine.cpu_model or machine.arch
    team = f"{threads} thread{'s' * (threads > 1)}"
    if machine.hypervisor:
        cpus = len(machine.affinity) or len(machine.cores)
        return f"{team} on {cpus} vCPUs of {name} ({machine.hypervisor} guest)"
    return f"{team} on {device} of {sockets} socket{'s' * (sockets > 1)} {name}, {len(machine.cores)} cores"


def what_gpu(machine: Machine, device: str) -> str:
    """The GPU side as what it is: the card, or the slice of it."""
    for gpu in machine.gpus:
        if device == f"gpu:{gpu.index}":
            return f"one {gpu.name}" + (f", MIG slice {gpu.mig}" if gpu.mig else "")
    return f"one GPU ({device})"


# ---------------------------------------------------------------------------------------------------------- projection


class Projection(msgspec.Struct, frozen=True):
    """A device of the hardware table under stated assumptions; never measured, so it has a range and no interval."""

    sheet: Datasheet
    assumptions: Assumptions

    def device(self, floor: float = 1.0, link: float = 1.0, hbm: float = 1.0) -> Device:
        """The closed form's parameters with each assumption multiplied by a factor."""
        assumed, sheet = self.assumptions, self.sheet
        per_direction = self.link_gbs() * 1e9 * assumed.link_share * link
        bandwidth = (sheet.memory_gbs or 0.0) * 1e9 * assumed.hbm_share * hbm
        return Device(
            floor_s=assumed.launch_us * 1e-6 * floor,
            levels=(Level("HBM", math.inf, math.inf, bandwidth),),
            h2d=per_direction,
            d2h=per_direction,
            memory=(sheet.memory_gb or 0.0) * 1e9,
        )

    def link_gbs(self) -> float:
        """Nominal GB/s per direction: the option, else half the table's two-way figure."""
        if self.assumptions.link_gbs is not None:
            return self.assumptions.link_gbs
        if self.sheet.host_link_gbs is None:
            raise UsageError(
                f'hardware.csv: "{self.sheet.slug}": the cell host_link_gbs_bidir is blank (not sourced); '
                "give the link with --link GBPS (nominal, per direction)"
            )
        return self.sheet.host_link_gbs / 2

    def rival(self, load: Workload, ends: str, *, host_result: bool, hit: float | None = None) -> Rival:
        """Serial time under the nominal assumptions; the range spans every corner of the spread, and full overlap."""
        device = self.device()
        how = f"{self.sheet.name} (projection)"
        if ends in ("G1", "G2") and load.table_bytes > device.memory:
            return Rival(ends=ends, how=how, refused=True)
        keyword: dict[str, Any] = {"host_result": host_result, "hit": hit}
        parts = model.terms(device, load, ends, **keyword)
        corners = [model.terms(corner, load, ends, **keyword) for corner in self._corners()]
        times = [model.serial(corner) for corner in corners] + [model.overlapped(corner) for corner in corners]
        seconds = model.serial(parts)
        return Rival(
            ends=ends,
            how=how,
            path="assumed floor",
            costs={0: seconds},
            low=min(times),
            high=max(times),
            parts=parts,
            hit=hit,
        )

    def _corners(self) -> list[Device]:
        off = self.assumptions.spread
        return [self.device(*factors) for factors in itertools.product((1 - off, 1 + off), repeat=3)]

    def sentences(self) -> list[str]:
        """The assumptions in words."""
        assumed, sheet = self.assumptions, self.sheet
        origin = "given with --link" if assumed.link_gbs is not None else "half the table's two-way figure"
        return [
            f"{sheet.name}: not measured; memory {sheet.memory_gbs:g} GB/s, {sheet.memory_gb:g} GB by the datasheet",
            f"launch floor {assumed.launch_us:g} us (assumed for every launch path)",
            f"link {assumed.link_share:.0%} of {self.link_gbs():g} GB/s per direction ({origin})",
            f"row gather at {assumed.hbm_share:.0%} of memory bandwidth, no row-rate ceiling",
            f"range: floor, link and gather each off by {assumed.spread:.0%}, terms added up or fully overlapped",
        ]


def project(slug: str, assumptions: Assumptions) -> Projection:
    """The projection of a GPU of the hardware table. Raises UsageError: unknown slug, a CPU, blank memory or link
    cells."""
    known = devices()
    if slug not in known:
        raise unknown("slug", slug, [name for name, device in known.items() if device.kind in ("gpu", "accelerator")])
    sheet = known[slug]
    if sheet.kind not in ("gpu", "accelerator"):
        raise UsageError(f'--against "{slug}" is a {sheet.kind}, not a GPU: its memory is the host\'s own')
    for cell, value in (("mem_gbs", sheet.memory_gbs), ("mem_gb", sheet.memory_gb)):
        if value is None:
            raise UsageError(
                f'hardware.csv: "{slug}": the cell {cell} is blank (not sourced), so nothing can be projected'
            )
    for name in ("launch_us", "link_share", "hbm_share", "link_gbs"):
        value = getattr(assumptions, name)
        if value is not None and (not value > 0 or (name.endswith("share") and value > 1)):
            raise UsageError(
                f"{name} = {value:g}: must be above 0" + (" and at most 1" if name.endswith("share") else "")
            )
    if not 0 <= assumptions.spread < 1:
        raise UsageError(f"spread = {assumptions.spread:g}: must be at least 0 and below 1")
    projection = Projection(sheet, assumptions)
    projection.link_gbs()
    return projection
