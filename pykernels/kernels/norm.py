"""Layer norm and RMS norm of rows, fp32 arithmetic on fp32 or bf16 storage.

layernorm: (x - mean) / sqrt(variance + epsilon) gamma + beta (Ba, Kiros, Hinton 2016); rmsnorm:
x / sqrt(mean of squares + epsilon) gamma (Zhang, Sennrich 2019). Epsilon is 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import ROUNDOFF, Array, widen
from pykernels.kernels.pointwise import LEVELS, sized
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic
from pykernels.units import DTYPE_BYTES

EPSILON = 1e-5
#: FLOP an element: mean, variance, and the scaled result with or without a shift
FLOPS = {"layernorm": 8.0, "rmsnorm": 4.0}


class Norm(Problem, frozen=True, kw_only=True):
    """`rows` x `width`. Dims: (rows, width, parts); FLOPs and traffic are those of a call, the whole over `parts`."""

    kernel: ClassVar[str] = "norm"

    op: str
    rows: int
    width: int
    parts: int = 1
    level: str = ""

    def params(self) -> dict[str, str]:
        """op and width, then the level or the size as written (or rows)."""
        where = {"level": self.level} if self.level else dict(self.symbols) or {"rows": str(self.rows)}
        return {"op": self.op, "width": str(self.width), **where}

    def entry(self) -> tuple[str, str, str]:
        """Native table key."""
        return (self.kernel, self.op, self.dtype)

    def operands(self) -> tuple[Operand, ...]:
        """x, gamma (and beta), y."""
        shape, line = (self.rows, self.width), (self.width,)
        beta = (Operand("beta", "in", line, self.dtype, Recipe(seed=3)),) if self.op == "layernorm" else ()
        return (
            Operand("x", "in", shape, self.dtype, Recipe(seed=1, low=-1.5, high=2.5)),
            Operand("gamma", "in", line, self.dtype, Recipe(seed=2)),
            *beta,
            Operand("y", "out", shape, self.dtype),
        )

    def dims(self) -> tuple[int, ...]:
        """(rows, width, parts)"""
        return (self.rows, self.width, self.parts)

    def cover(self) -> int:
        """One call for each part."""
        return self.parts

    def flops(self) -> float:
        """See FLOPS."""
        return FLOPS[self.op] * self.rows * self.width / self.parts

    def traffic(self) -> Traffic:
        """x once and y once in `parts` calls; gamma and beta stay in the L1."""
        size = self.rows * self.width * DTYPE_BYTES[self.dtype] / self.parts
        allocated = 0.0 if self.level == "L1" else size
        return Traffic(
            requested=2 * size, compulsory=2 * size, write_allocate=allocated, by_operand={"x": size, "y": size}
        )

    def figure(self) -> Figure:
        """GB/s."""
        return Figure(kind="bandwidth", unit="GB/s", amount=self.traffic().requested, op=self.op)

    def working_set(self) -> int:
        """Bytes of x and y."""
        return int(2 * self.rows * self.width * DTYPE_BYTES[self.dtype])

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """y in float64."""
        x = widen(inputs["x"] if rows is None else inputs["x"][rows], self.dtype)
        beta = widen(inputs["beta"], self.dtype) if self.op == "layernorm" else None
        return {"y": normalised(x, widen(inputs["gamma"], self.dtype), beta)}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """y widened."""
        return {"y": widen(outputs["y"] if rows is None else outputs["y"][rows], self.dtype)}

    def tolerance(self) -> Tolerance:
        """On x in [-1.5, 2.5]: with terms of at most 4 about the row's first element, mean and variance err by at most
        (width / 16 + 8) u times 16 (sixteen or more partial sums), relative to a variance of about 4/3; y is at most
        2.2 x 1.5 + 1.5. The count under the root stands for the spread of roundings (Higham and Mary 2019), times 8."""
        u = ROUNDOFF["fp32"]
        bound = 8 * (self.width / 4 + 8) ** 0.5 * 16 * u
        return Tolerance(absolute=bound, relative=8 * u + (1.01 * ROUNDOFF["bf16"] if self.dtype == "bf16" else 0.0))

    def small(self) -> Problem:
        """A few rows of the same width."""
        return Norm(op=self.op, rows=37, width=self.width, parts=min(self.parts, 3), dtype=self.dtype)


def normalised(x: Array, gamma: Array, beta: Array | None) -> Array:
    """Layer norm where there is a beta, else RMS norm, of the last axis; float64 in and out."""
    with np.errstate(invalid="ignore", over="ignore"):
        if beta is None:
            return np.asarray(x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON) * gamma)
        centred = x - x.mean(axis=-1, keepdims=True)
        return np.asarray(centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON) * gamma + beta)


def build(values: Mapping[str, Any], space: Space) -> Norm:
    """Rows of `width` that fill the level, or the size, asked for. Raises UsageError."""
    width = int(values["width"])
    if width < 1:
        raise UsageError(f"norm: width = {width}: it must be at least 1")
    total, level, symbols, parts = sized(values, space, "norm")
    rows = max(space.threads, int(total / 2 / width / DTYPE_BYTES[values["dtype"]]))
    return Norm(
        op=values["op"], rows=rows, width=width, parts=min(parts, max(1, rows // space.threads)), level=level,
        dtype=values["dtype"], symbols=symbols,
    )  # fmt: skip


FAMILY = Family(
    name="norm",
    help="layer norm and RMS norm of rows",
    problem=Norm,
    keys={
        "op": Key("norm", tuple(FLOPS), ("layernorm",)),
        "width": Key("elements of a row", None, (768,)),
        "level": Key("level that the rows lie inside (default DRAM, unless a size is given)", LEVELS),
        "size": Key('working set of all threads instead of a level: "64 MiB", "0.4 L2"'),
        "dtype": Key("storage type", ("fp32", "bf16"), ("fp32",)),
    },
    build=build,
)
