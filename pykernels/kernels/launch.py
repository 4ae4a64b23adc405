"""What it costs to ask a GPU for anything: the time of an empty kernel by each way of asking.

`plain`: launch and wait. `graph`: launch a graph of one node and wait. `back-to-back`: one of many launches in a row,
device time. `persistent`: a running kernel polls a word in mapped host memory and answers in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pykernels.kernels.dtypes import Array
from pykernels.model import Family, Figure, Key, Operand, Problem, Space, Tolerance, Traffic

OPS = ("plain", "graph", "back-to-back", "persistent")


class LaunchFloor(Problem, frozen=True, kw_only=True):
    """One empty request. No operands, no dims."""

    kernel: ClassVar[str] = "launch"

    op: str

    def params(self) -> dict[str, str]:
        """The way of asking."""
        return {"op": self.op}

    def entry(self) -> tuple[str, str, str]:
        """Table key."""
        return (self.kernel, self.op, self.dtype)

    def operands(self) -> tuple[Operand, ...]:
        """None."""
        return ()

    def dims(self) -> tuple[int, ...]:
        """()"""
        return ()

    def flops(self) -> float:
        """None."""
        return 0.0

    def traffic(self) -> Traffic:
        """None."""
        return Traffic(requested=0.0, compulsory=0.0)

    def figure(self) -> Figure:
        """Microseconds a request."""
        return Figure(kind="launch", unit="us", amount=1.0, ceiling=True, op=self.op)

    def working_set(self) -> int:
        """None."""
        return 0

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """Nothing is computed."""
        return {}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """Nothing is computed."""
        return {}

    def tolerance(self) -> Tolerance:
        """Exact."""
        return Tolerance()


def build(values: Mapping[str, Any], space: Space) -> LaunchFloor:
    """The way of asking."""
    return LaunchFloor(op=values["op"], dtype="none")


FAMILY = Family(
    name="launch",
    help="time of an empty kernel by each way of asking for it",
    problem=LaunchFloor,
    keys={"op": Key("way of asking", OPS, OPS)},
    build=build,
)
