"""How long a cache line takes from one core to another: two threads write to it in turn, each waiting for the other.

A pair is two threads of the placement's team: `next` the first two (cores side by side), `last` the first and the last
(on the whole machine: of different sockets where there are two), or a number. All pairs make the latency matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import Array
from pykernels.machine.placement import NoSuchLevel
from pykernels.model import Family, Figure, Key, Operand, Problem, Space, Tolerance, Traffic

TRIPS = 1000


class Handover(Problem, frozen=True, kw_only=True):
    """`trips` round trips of a line between threads `one` and `other` of the team. Dims: (one, other, trips)."""

    kernel: ClassVar[str] = "handover"

    one: int = 0
    other: int = 1
    trips: int = TRIPS

    def params(self) -> dict[str, str]:
        """The pair."""
        return {"pair": f"{self.one}-{self.other}"}

    def operands(self) -> tuple[Operand, ...]:
        """line: word 0 goes to and fro, word 8 is the number of handovers of a pass."""
        return (Operand("line", "out", (16,), "int64"),)

    def dims(self) -> tuple[int, ...]:
        """(one, other, trips)"""
        return (self.one, self.other, self.trips)

    def flops(self) -> float:
        """None."""
        return 0.0

    def traffic(self) -> Traffic:
        """One line from core to core for each handover."""
        moved = 128.0 * self.trips
        return Traffic(requested=moved, compulsory=moved, by_operand={"line": moved})

    def figure(self) -> Figure:
        """ns of a handover, half a round trip."""
        return Figure(
            kind="latency", unit="ns", amount=2.0 * self.trips, ceiling=True, level="core to core",
            op=f"handover {self.one}-{self.other}",
        )  # fmt: skip

    def working_set(self) -> int:
        """Two lines."""
        return 128

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """Handovers of a pass."""
        return {"handovers": np.array([2 * self.trips])}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """Handovers of a pass, as counted on the line."""
        return {"handovers": outputs["line"][8:9]}

    def tolerance(self) -> Tolerance:
        """Exact."""
        return Tolerance()


def build(values: Mapping[str, Any], space: Space) -> Handover:
    """The pair in a team of `space.threads`; raises NoSuchLevel where the team has no such threads."""
    one, other = values["one"], values["other"]
    other = {"next": 1, "last": space.threads - 1}.get(other, other) if isinstance(other, str) else other
    for value in (one, other):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UsageError(f'handover: thread {value!r}: write a number from 0 on, or other = "next" or "last"')
    if one == other or max(one, other) >= space.threads:
        raise NoSuchLevel(f"handover: no pair {one}-{other} in a team of {space.threads}")
    return Handover(dtype="int64", one=one, other=other)


FAMILY = Family(
    name="handover",
    help="latency of a cache line from core to core",
    problem=Handover,
    keys={
        "one": Key("number of a thread of the team", None, (0,)),
        "other": Key('number of another, "next" (1) or "last"', None, ("next", "last")),
    },
    build=build,
)
