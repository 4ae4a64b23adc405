"""The measured roofs of one placement, chosen for a prediction: bandwidth of a level, peak of a dtype, rate of
exponentials, floor of a call; and the level in which a working set lies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import msgspec

from pykernels.model import Machine
from pykernels.units import RATE_UNITS, TIME_UNITS


class Roof(Protocol):
    """A measured ceiling as `analysis.roofline` gives it: `value` with its interval in `unit`."""

    @property
    def device(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def unit(self) -> str: ...


class Estimate(msgspec.Struct, frozen=True):
    """A value with its interval, in base units (seconds, bytes/s, FLOP/s), and what it stands for."""

    value: float
    low: float
    high: float
    label: str = ""

    def inverse_of(self, amount: float) -> Estimate:
        """Seconds that `amount` takes at this rate: the fastest rate gives the shortest time."""
        return Estimate(amount / self.value, amount / self.high, amount / self.low if self.low > 0 else math.inf)

    def __add__(self, other: Estimate) -> Estimate:
        """Sum with the bounds added: the terms share roofs, so their errors do not cancel."""
        return Estimate(self.value + other.value, self.low + other.low, self.high + other.high)

    def scaled(self, factor: float) -> Estimate:
        """`factor` times the estimate."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.label)


def longest(*times: Estimate) -> Estimate:
    """Bound by bound the longest."""
    return Estimate(max(t.value for t in times), max(t.low for t in times), max(t.high for t in times))


def based(roof: Roof) -> Estimate:
    """A roof in base units: amount per second, or seconds per amount for times."""
    factor = 1 / RATE_UNITS[roof.unit] if roof.unit in RATE_UNITS else 1 / TIME_UNITS[roof.unit]
    parts = " ".join(part for part in (roof.level, roof.op, roof.dtype, roof.isa) if part)
    return Estimate(roof.value * factor, roof.low * factor, roof.high * factor, parts)


#: share of a cache up to which a working set lies well inside it
NEAR = 0.75
LEVELS = ("L1", "L2", "L3", "DRAM", "HBM")
#: what a read-mostly stream is judged against, best match first
READS = ("load", "read", "triad", "copy")
#: what a stream that writes as much as it reads is judged against
COPIES = ("copy", "nt-copy", "triad", "nt-triad", "load", "read")
#: compute roofs that stand for a dtype's products; others (divide, exp, add) are other roofs
PRODUCTS = ("fma", "mul-add", "dot", "mma", "matrix", "tensor", "mix", "")


class Place(msgspec.Struct):
    """The roofs of one device at one number of threads, on the machine that measured them."""

    device: str
    threads: int
    roofs: list[Roof]
    machine: Machine

    def bandwidth(self, level: str, dtype: str, *, reads: bool) -> Estimate | None:
        """Bytes/s of a level, or of the next level out that was measured (the label names which). The roof of the same
        dtype is preferred, then the fastest: bandwidth is counted in bytes, whatever they hold."""
        outer = LEVELS[LEVELS.index(level) :] if level in LEVELS else (level,)
        for name in outer:
            for op in READS if reads else COPIES:
                found = [r for r in self.roofs if r.kind == "bandwidth" and r.level == name and r.op == op]
                if found:
                    return based(max(found, key=lambda r: (r.dtype == dtype, r.value)))
        return None

    def peak(self, dtype: str) -> Estimate | None:
        """FLOP/s (OP/s for integers) of a dtype: the fastest measured compute roof of it."""
        wanted = [r for r in self.roofs if r.kind == "compute" and r.dtype == dtype]
        products = [r for r in wanted if any(r.op.startswith(op) for op in PRODUCTS if op)] or wanted
        return based(max(products, key=lambda r: r.value)) if products else None

    def exponentials(self, dtype: str = "fp32") -> Estimate | None:
        """Exponentials per second."""
        found = [r for r in self.roofs if r.kind == "rate" and r.op.startswith("exp")]
        return based(max(found, key=lambda r: (r.dtype == dtype, r.value))) if found else None

    def launch(self) -> Estimate | None:
        """Seconds that starting a call costs at least."""
        found = [r for r in self.roofs if r.kind == "launch"]
        return based(min(found, key=lambda r: r.value)) if found else None

    def ridge(self, dtype: str, level: str = "DRAM") -> Estimate | None:
        """FLOP per byte at which peak and a level's bandwidth take equally long, bounds from bounds."""
        peak, memory = self.peak(dtype), self.bandwidth(level, dtype, reads=True)
        if peak is None or memory is None:
            return None
        low = peak.low / memory.high if memory.high else 0.0
        return Estimate(peak.value / memory.value, low, peak.high / memory.low if memory.low else math.inf)

    def capacity(self) -> list[tuple[str, float]]:
        """Bytes of each cache level that these threads have together, inner first; a GPU has its L2."""
        if self.device.startswith("gpu"):
            index = int(self.device.partition(":")[2] or 0)
            known = [gpu.l2_bytes for gpu in self.machine.gpus if gpu.index == index and gpu.l2_bytes]
            return [("L2", float(size)) for size in known]
        found = []
        for level in ("L1", "L2", "L3"):
            caches = [cache for cache in self.machine.caches if cache.level == level]
            if caches:
                cores = max(1, len(self.machine.cores) // len(caches))  # that share one cache
                found.append((level, float(caches[0].bytes * min(len(caches), math.ceil(self.threads / cores)))))
        return found

    def level_of(self, nbytes: float) -> str:
        """The innermost level that holds a working set with room to spare: what comes round again in turn, near the
        size of a cache, has been replaced by then."""
        outermost = "DRAM"
        return next((level for level, size in self.capacity() if nbytes <= NEAR * size), outermost)

    def straddles(self, nbytes: float) -> str:
        """Name of the level whose capacity a working set is near (3/4 to 4 times): there no single roof is right."""
        return next((level for level, size in reversed(self.capacity()) if NEAR * size <= nbytes <= 4 * size), "")


def places(roofs: Iterable[Roof], machine: Machine) -> list[Place]:
    """The placements that have roofs, by device and rising threads."""
    found: dict[tuple[str, int], Place] = {}
    for roof in roofs:
        key = (roof.device, roof.threads)
        found.setdefault(key, Place(roof.device, roof.threads, [], machine)).roofs.append(roof)
    return [found[key] for key in sorted(found)]
