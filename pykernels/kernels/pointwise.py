"""Pointwise functions of a Transformer: GELU (tanh form), SiLU, and the addition of a residual, in fp32 arithmetic.

Sizes follow a level of the memory hierarchy or a given working set, as for the bandwidth ceilings they are judged by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import ROUNDOFF, Array, widen
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic
from pykernels.units import DTYPE_BYTES, MIB

#: op -> (arrays read, FLOP an element: GELU 8 and SiLU 4 beside their exponential)
OPS = {"gelu": (1, 8.0), "silu": (1, 4.0), "residual_add": (2, 1.0)}
LEVELS = ("L1", "L2", "L3", "DRAM")
#: a pass over a large array covers about this many bytes of each thread's share, in turn
PART_BYTES = 8 * MIB


class Pointwise(Problem, frozen=True, kw_only=True):
    """`n` elements. Dims: (n, parts); FLOPs and traffic are those of a call, the whole over `parts`."""

    kernel: ClassVar[str] = "pointwise"

    op: str
    n: int
    parts: int = 1
    level: str = ""

    def params(self) -> dict[str, str]:
        """op, then the level or the size as written (or n)."""
        where = {"level": self.level} if self.level else dict(self.symbols) or {"n": str(self.n)}
        return {"op": self.op, **where}

    def entry(self) -> tuple[str, str, str]:
        """Native table key."""
        return (self.kernel, self.op, self.dtype)

    def operands(self) -> tuple[Operand, ...]:
        """x (and r), y."""
        x = Operand("x", "in", (self.n,), self.dtype, Recipe(seed=1, low=-4.0, high=4.0))
        more = (Operand("r", "in", (self.n,), self.dtype, Recipe(seed=2)),) if self.op == "residual_add" else ()
        return (x, *more, Operand("y", "out", (self.n,), self.dtype))

    def dims(self) -> tuple[int, ...]:
        """(n, parts)"""
        return (self.n, self.parts)

    def cover(self) -> int:
        """One call for each part."""
        return self.parts

    def flops(self) -> float:
        """See OPS."""
        return OPS[self.op][1] * self.n / self.parts

    def traffic(self) -> Traffic:
        """Every array once in `parts` calls."""
        size = self.n * DTYPE_BYTES[self.dtype] / self.parts
        moved = (OPS[self.op][0] + 1) * size
        return Traffic(
            requested=moved, compulsory=moved, write_allocate=0.0 if self.level == "L1" else size,
            by_operand={"in": moved - size, "out": size},
        )  # fmt: skip

    def about(self) -> dict[str, Any]:
        """Exponentials of a call: what the exp roof bounds."""
        return {} if self.op == "residual_add" else {"exponentials": self.n / self.parts}

    def figure(self) -> Figure:
        """GB/s."""
        return Figure(kind="bandwidth", unit="GB/s", amount=self.traffic().requested, op=self.op)

    def working_set(self) -> int:
        """Bytes of all arrays."""
        return int((OPS[self.op][0] + 1) * self.n * DTYPE_BYTES[self.dtype])

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """y in float64."""
        at = slice(None) if rows is None else rows
        x = widen(inputs["x"][at], self.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.op == "residual_add":
                return {"y": x + widen(inputs["r"][at], self.dtype)}
            return {"y": gelu(x) if self.op == "gelu" else x / (1 + np.exp(-x))}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """y widened."""
        return {"y": widen(outputs["y"] if rows is None else outputs["y"][rows], self.dtype)}

    def tolerance(self) -> Tolerance:
        """A sum rounds once. The others: the exponential's argument of at most 9.2 on [-4, 4] errs by 4 u of it and the
        exponential by 1 ulp, then three roundings; bf16 rounds the result. 1 + tanh of implementations
        that use it cancels for negative x: 0.5 |x| by 2 u, absolute."""
        u, stored = ROUNDOFF["fp32"], 1.01 * ROUNDOFF["bf16"] if self.dtype == "bf16" else 0.0
        if self.op == "residual_add":
            return Tolerance(relative=1.01 * (stored or u))
        cancelled = 4 * u if self.op == "gelu" else 1e-37
        return Tolerance(relative=48 * u + stored, absolute=cancelled)

    def small(self) -> Problem:
        """Some thousand elements and an odd rest."""
        return Pointwise(op=self.op, n=5003, parts=min(self.parts, 3), dtype=self.dtype)


def gelu(x: Array) -> Array:
    """x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3): GELU in the form of Hendrycks and Gimpel, with tanh."""
    return np.asarray(x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x * x * x))))


def sized(values: Mapping[str, Any], space: Space, kernel: str) -> tuple[int, str, dict[str, str], int]:
    """(bytes, level, symbols, parts) of a problem that fills a level or a size; UsageError where both are given."""
    level, text = values.get("level", ""), values.get("size", "")
    if level and text:
        raise UsageError(f'{kernel}: both level = "{level}" and size = "{text}" are given: write one of them')
    level = level or ("" if text else "DRAM")
    total = space.size(text) if text else space.level_bytes(level)
    return total, level, {"size": text} if text else {}, max(1, total // space.threads // PART_BYTES)


def build(values: Mapping[str, Any], space: Space) -> Pointwise:
    """Arrays that together fill the level, or the size, asked for."""
    total, level, symbols, parts = sized(values, space, "pointwise")
    grain = 256 * space.threads
    each = total / (OPS[values["op"]][0] + 1) / DTYPE_BYTES[values["dtype"]]
    n = max(1, int(each // grain)) * grain
    return Pointwise(op=values["op"], n=n, parts=parts, level=level, dtype=values["dtype"], symbols=symbols)


FAMILY = Family(
    name="pointwise",
    help="GELU, SiLU and the addition of a residual",
    problem=Pointwise,
    keys={
        "op": Key("function", tuple(OPS), ("gelu",)),
        "level": Key("level that the arrays lie inside (default DRAM, unless a size is given)", LEVELS),
        "size": Key('working set of all threads instead of a level: "64 MiB", "0.4 L2"'),
        "dtype": Key("storage type", ("fp32", "bf16"), ("fp32",)),
    },
    build=build,
)
