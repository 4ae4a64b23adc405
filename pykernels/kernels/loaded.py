"""Loaded latency: what one load waits in DRAM (or the L3) while other threads move data at a given rate.

Thread 0 chases a random cycle of lines; each other thread walks over its own part of `data`, reads four lines, writes
none, one, two or all of them back, and pauses after every KiB. A line is written as it was read, so the traffic's share
of reads is exact: 100%, 80%, 67% or 50%, with no line read for a store alone. The rate of the traffic is measured and
kept as the record's fact `background_GBps`; a sweep over `pause` gives latency over bandwidth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.chase import LINE_BYTES, LINE_WORDS, SEED, STEPS
from pykernels.kernels.cycle import Cycle
from pykernels.kernels.dtypes import Array
from pykernels.kernels.stream import SUM_WORDS
from pykernels.machine.placement import NoSuchLevel
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic

#: percent of the traffic that reads -> lines written back of four read
WRITTEN = {100: 0, 80: 1, 67: 2, 50: 4}
BLOCK_WORDS = 128
#: background threads stay idle
IDLE = -1


class Loaded(Problem, frozen=True, kw_only=True):
    """A chase of `steps` steps over `lines` lines beside `units - 1` threads with `n` words each.
    Dims: (lines, steps, seed, n, lines written of four, pause)."""

    kernel: ClassVar[str] = "loaded"

    lines: int
    n: int
    units: int
    read: int = 100
    pause: int = 0
    steps: int = STEPS
    level: str = "DRAM"

    def params(self) -> dict[str, str]:
        """read, pause (or idle), level."""
        return {
            "read": str(self.read), "pause": "idle" if self.pause == IDLE else str(self.pause), "level": self.level
        }  # fmt: skip

    def operands(self) -> tuple[Operand, ...]:
        """lines (1, lines, 8 words), data (units, n words), state: line reached, bytes/s; a line for each thread."""
        return (
            Operand("lines", "in", (1, self.lines, LINE_WORDS), "int64", Recipe("cycle", SEED)),
            Operand("data", "in", (self.units, self.n), "int64", Recipe("integers", 2, 1, 2**62)),
            Operand("state", "out", (SUM_WORDS,), "int64"),
        )

    def dims(self) -> tuple[int, ...]:
        """(lines, steps, seed, n, lines written of four, pause)"""
        return (self.lines, self.steps, SEED, self.n, WRITTEN[self.read], self.pause)

    def flops(self) -> float:
        """None."""
        return 0.0

    def traffic(self) -> Traffic:
        """The chase's lines; the background's bytes are measured."""
        moved = float(self.steps * LINE_BYTES)
        return Traffic(requested=moved, compulsory=moved, by_operand={"lines": moved})

    def figure(self) -> Figure:
        """ns of a step of the chase."""
        return Figure(kind="latency", unit="ns", amount=float(self.steps), level=self.level, op=f"loaded {self.read}")

    def measured(self, outputs: Mapping[str, Array]) -> dict[str, float]:
        """GB/s that the other threads moved while the chase ran, reads and writes."""
        return {"background_GBps": int(outputs["state"][1]) * 1e-9}

    def working_set(self) -> int:
        """Bytes of lines and data."""
        return self.lines * LINE_BYTES + 8 * self.units * self.n

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """The line that the chase reaches."""
        return {"line": np.array([Cycle(self.lines, SEED).ahead(0, self.steps)])}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """The line that the chase reached."""
        return {"line": outputs["state"][:1]}

    def tolerance(self) -> Tolerance:
        """Exact."""
        return Tolerance()

    def small(self) -> Problem:
        """A few thousand lines."""
        return Loaded(
            dtype=self.dtype, lines=4099, n=4 * BLOCK_WORDS, units=self.units, read=self.read, pause=self.pause
        )  # fmt: skip


def build(values: Mapping[str, Any], space: Space) -> Loaded:
    """Half of the level for the chase, half for the others. Raises NoSuchLevel for fewer than two threads, UsageError
    for a pause that is no number."""
    pause = IDLE if values["pause"] == "idle" else values["pause"]
    if not isinstance(pause, int) or isinstance(pause, bool) or pause < IDLE:
        raise UsageError(f'loaded: pause = {values["pause"]!r}: write cycles after every KiB, or "idle"')
    if space.threads < 2:
        raise NoSuchLevel("loaded: latency under load needs two threads, and the team has one")
    half = space.level_bytes(values["level"]) // 2
    n = max(1, half // 8 // space.threads // BLOCK_WORDS) * BLOCK_WORDS
    lines = max(1, half // LINE_BYTES)
    return Loaded(
        dtype="int64", lines=lines, n=n, units=space.threads, read=values["read"], pause=pause, level=values["level"]
    )  # fmt: skip


FAMILY = Family(
    name="loaded",
    help="latency of one thread's loads while the others move data at a given rate",
    problem=Loaded,
    keys={
        "read": Key("percent of the background traffic that reads", tuple(WRITTEN), (100,)),
        "pause": Key('cycles that the others pause after every KiB, or "idle"', None, ("idle", 1000, 300, 100, 30, 0)),
        "level": Key("level that chase and data lie inside", ("L3", "DRAM"), ("DRAM",)),
    },
    build=build,
)
