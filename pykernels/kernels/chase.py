"""Latency of a memory level: loads of which each needs the one before (McVoy and Staelin: lmbench, 1996).

Every unit (one a thread) is a random cycle through lines of its own; 1 to 12 chains walk it at once, evenly spread.
The figure is the time of a step: what one load waits. With `chains` loads in flight a core has chains / latency lines a
second, until its line buffers are full and the step takes longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.cycle import Cycle
from pykernels.kernels.dtypes import Array
from pykernels.kernels.stream import LEVELS
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic

LINE_BYTES, LINE_WORDS = 64, 8
#: chains that the native kernel has, and places for their ends
CHAINS, MOST_CHAINS = (1, 2, 4, 8, 12), 16
#: steps of a call: about 0.5 ms in DRAM; a multiple of 8
STEPS = 4096
SEED = 1


class Chase(Problem, frozen=True, kw_only=True):
    """`units` cycles of `lines` cache lines; a call takes `steps` steps with each chain and goes on where the last call
    ended. Dims: (lines, steps, 64, chains, units, seed)."""

    kernel: ClassVar[str] = "chase"

    lines: int
    chains: int = 1
    units: int = 1
    steps: int = STEPS
    level: str = ""

    def params(self) -> dict[str, str]:
        """chains unless 1, then the level or the size that the user wrote (or lines)."""
        chains = {"chains": str(self.chains)} if self.chains != 1 else {}
        return chains | ({"level": self.level} if self.level else dict(self.symbols) or {"lines": str(self.lines)})

    def operands(self) -> tuple[Operand, ...]:
        """lines (units, lines, 8 words), ends (units, 16): the line that each chain has come to."""
        shape = (self.units, self.lines, LINE_WORDS)
        return (
            Operand("lines", "in", shape, "int64", Recipe("cycle", SEED)),
            Operand("ends", "out", (self.units, MOST_CHAINS), "int64"),
        )

    def dims(self) -> tuple[int, ...]:
        """(lines, steps, bytes of a line, chains, units, seed)"""
        return (self.lines, self.steps, LINE_BYTES, self.chains, self.units, SEED)

    def flops(self) -> float:
        """None."""
        return 0.0

    def traffic(self) -> Traffic:
        """A line for each step of each chain."""
        moved = float(self.units * self.chains * self.steps * LINE_BYTES)
        return Traffic(requested=moved, compulsory=min(moved, float(self.working_set())), by_operand={"lines": moved})

    def figure(self) -> Figure:
        """ns of a step; the latency of its level where one is named. More chains than one are other roofs."""
        op = "chase" if self.chains == 1 else f"chase x{self.chains}"
        return Figure(
            kind="latency", unit="ns", amount=float(self.steps), ceiling=bool(self.level), level=self.level, op=op
        )

    def working_set(self) -> int:
        """Bytes of all lines."""
        return self.units * self.lines * LINE_BYTES

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """The line of each chain after one call, from the closed form of the cycle."""
        cycle = Cycle(self.lines, SEED)
        zero = int(cycle.position(np.array([0]))[0])
        starts = np.array([zero + i * self.lines // self.chains + self.steps for i in range(self.chains)])
        ends = cycle.at(starts % self.lines).astype(np.int64)
        return {"ends": np.tile(ends, (self.units if rows is None else len(rows), 1))}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """Ends of the chains that run."""
        ends = outputs["ends"] if rows is None else outputs["ends"][rows]
        return {"ends": ends[:, : self.chains]}

    def tolerance(self) -> Tolerance:
        """Exact."""
        return Tolerance()

    def small(self) -> Problem:
        """A number of lines that is no power of two, walked about once round."""
        return Chase(dtype=self.dtype, lines=4099, chains=self.chains, units=self.units, steps=4104)


def build(values: Mapping[str, Any], space: Space) -> Chase:
    """A cycle for each thread; together they fill the level or the size asked for. Raises UsageError."""
    level, text = values.get("level", ""), values.get("size", "")
    if level and text:
        raise UsageError(f'chase: both level = "{level}" and size = "{text}" are given: write one of them')
    if not text:
        level = level or "DRAM"
    total = space.size(text) if text else space.level_bytes(level)
    if level == "L3":  # a walk is slow: others who share the cache take from it what a stream would hold
        total = min(total, space.threads * space.size("2 L2"))
    lines = max(1, total // space.threads // LINE_BYTES)
    return Chase(
        dtype="int64", lines=lines, chains=values["chains"], units=space.threads, level=level,
        symbols={"size": text} if text else {},
    )  # fmt: skip


FAMILY = Family(
    name="chase",
    help="latency of a level of the memory hierarchy: loads that need the one before",
    problem=Chase,
    keys={
        "chains": Key("independent chains of each thread", CHAINS, (1,)),
        "level": Key("level that the lines lie inside (default DRAM, unless a size is given)", LEVELS),
        "size": Key('working set of all threads instead of a level: "64 MiB", "0.4 L2", "4 L3", "25% memory"'),
    },
    build=build,
)
