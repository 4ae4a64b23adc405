"""Exponentials a second in fp32: what bounds softmax and attention where their data lie in a cache.

Each unit (one a thread) reads 2048 values from the L1 and writes e^x of each back to it; the exponential is the one
that the softmax kernels use (csrc/cpu/exp.h), within 1 ulp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.kernels.dtypes import Array
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic

COUNT = 2048
#: arguments: those of a softmax are 0 and below, and e^-87 is the last normal number
LOW, HIGH = -80.0, 10.0


class Exp(Problem, frozen=True, kw_only=True):
    """`units` times `n` exponentials. Dims: (n, units)."""

    kernel: ClassVar[str] = "exp"

    n: int = COUNT
    units: int = 1

    def params(self) -> dict[str, str]:
        """None: the work follows the threads."""
        return {}

    def operands(self) -> tuple[Operand, ...]:
        """x (n) in [-80, 10), y (units, n)."""
        return (
            Operand("x", "in", (self.n,), self.dtype, Recipe(seed=1, low=LOW, high=HIGH)),
            Operand("y", "out", (self.units, self.n), self.dtype),
        )

    def dims(self) -> tuple[int, ...]:
        """(n, units)"""
        return (self.n, self.units)

    def flops(self) -> float:
        """None: what an exponential costs in FLOPs is the implementation's choice."""
        return 0.0

    def traffic(self) -> Traffic:
        """x and y of every unit, in the L1."""
        each = 4.0 * self.units * self.n
        return Traffic(
            requested=2 * each, compulsory=float(self.working_set()), by_operand={"x": each, "y": each}
        )  # fmt: skip

    def figure(self) -> Figure:
        """Gexp/s, a roof."""
        return Figure(kind="rate", unit="Gexp/s", amount=float(self.units * self.n), ceiling=True, op="exp")

    def working_set(self) -> int:
        """Bytes of x and y."""
        return 4 * (1 + self.units) * self.n

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """e^x in float64."""
        count = self.units if rows is None else len(rows)
        return {"y": np.tile(np.exp(inputs["x"].astype(np.float64)), (count, 1))}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """y in float64."""
        return {"y": (outputs["y"] if rows is None else outputs["y"][rows]).astype(np.float64)}

    def tolerance(self) -> Tolerance:
        """1 ulp of the result is 2^-23 of it at most; half an ulp more where intermediate steps are not fused."""
        return Tolerance(relative=1.5 * 2.0**-23)

    def small(self) -> Problem:
        """An odd number, so that vectors and rest have work."""
        return Exp(dtype=self.dtype, n=1003, units=min(self.units, 3))


def build(values: Mapping[str, Any], space: Space) -> Exp:
    """One unit for each thread."""
    return Exp(dtype=values["dtype"], units=space.threads)


FAMILY = Family(
    name="exp",
    help="exponentials a second in fp32, from and to the L1: the roof of softmax",
    problem=Exp,
    keys={"dtype": Key("type of argument and result", ("fp32",), ("fp32",))},
    build=build,
)
