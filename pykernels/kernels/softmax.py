"""Softmax along rows: out = exp(s - max s) / sum exp(s - max s) with s = scale x + mask, computed in fp32.

Bytes: x once, out once, and the mask (one fp32 row, added to every row) once a call. FLOPs: six an element, whatever a
variant does: scale, maximum, subtraction, exponential (counted as one), sum, division. A fully masked row gives zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import ROUNDOFF, Array, widen
from pykernels.kernels.random import draws
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic
from pykernels.units import DTYPE_BYTES, MIB

DTYPES = ("fp32", "fp16", "bf16")
LEVELS = ("L1", "L2", "L3", "DRAM")
FLOPS = 6
#: a pass over large arrays covers a part of about so many bytes of each thread's rows, the parts in turn
PART_BYTES = 8 * MIB
#: share of a mask that is -inf
MASKED = 0.25
#: x is uniform between these: most of its exponentials are far from 0 and 1
LOW, HIGH = -8.0, 8.0


class Softmax(Problem, frozen=True, kw_only=True):
    """`rows` rows of `width` elements. Dims: (rows, width, masked, parts); scalars: (scale,). FLOPs and bytes are those
    of a call: the whole over `parts`."""

    kernel: ClassVar[str] = "softmax"

    rows: int
    width: int
    scale: float = 1.0
    mask: bool = False
    parts: int = 1
    level: str = ""

    def params(self) -> dict[str, str]:
        """Level or size as the user wrote it, else rows; width; scale and mask where they are not the defaults."""
        named = {"level": self.level} if self.level else dict(self.symbols) or {"rows": str(self.rows)}
        named["width"] = str(self.width)
        named |= {"scale": f"{self.scale:g}"} if self.scale != 1.0 else {}
        return named | ({"mask": "true"} if self.mask else {})

    def operands(self) -> tuple[Operand, ...]:
        """x (rows, width), mask (width, or of no length), out (rows, width)."""
        return (
            Operand("x", "in", (self.rows, self.width), self.dtype, Recipe("uniform", 1, LOW, HIGH)),
            Operand("mask", "in", (self.width if self.mask else 0,), "fp32", Recipe("host")),
            Operand("out", "out", (self.rows, self.width), self.dtype),
        )

    def host_input(self, name: str) -> Array:
        """The mask: 0, or -inf for a quarter of the columns."""
        width = self.width if self.mask else 0
        return np.where(draws(5, 32, np.arange(width)) < MASKED * 2**32, -np.inf, 0.0).astype(np.float32)

    def dims(self) -> tuple[int, ...]:
        """(rows, width, masked, parts)"""
        return (self.rows, self.width, int(self.mask), self.parts)

    def scalars(self) -> tuple[float, ...]:
        """(scale,)"""
        return (self.scale,)

    def cover(self) -> int:
        """One call for each part."""
        return self.parts

    def exponentials(self) -> float:
        """Of a call."""
        return self.rows * self.width / self.parts

    def flops(self) -> float:
        """Six an element."""
        return FLOPS * self.exponentials()

    def traffic(self) -> Traffic:
        """x read and out written once in `parts` calls, the mask in each."""
        size = self.rows * self.width * DTYPE_BYTES[self.dtype] / self.parts
        mask = 4.0 * self.width if self.mask else 0.0
        return Traffic(
            requested=2 * size + mask, compulsory=2 * size + mask,
            write_allocate=0.0 if self.level == "L1" else size,
            by_operand={"x": size, "out": size} | ({"mask": mask} if mask else {}),
        )  # fmt: skip

    def figure(self) -> Figure:
        """GB/s of the bytes above."""
        return Figure(kind="bandwidth", unit="GB/s", amount=self.traffic().requested, level=self.level)

    def working_set(self) -> int:
        """Bytes of all operands."""
        return int(2 * self.rows * self.width * DTYPE_BYTES[self.dtype]) + (4 * self.width if self.mask else 0)

    def about(self) -> dict[str, Any]:
        """Exponentials of a call."""
        return {"exponentials": self.exponentials()}

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """out in float64."""
        s = widen(inputs["x"] if rows is None else inputs["x"][rows], self.dtype) * float(np.float32(self.scale))
        if self.mask:
            s = s + inputs["mask"].astype(np.float64)
        if not self.width:
            return {"out": s}
        top = s.max(axis=1, keepdims=True)
        full = np.isneginf(top)
        e = np.exp(s - np.where(full, 0.0, top))
        return {"out": np.where(full, 0.0, e / np.where(full, 1.0, e.sum(axis=1, keepdims=True)))}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """out in float64."""
        return {"out": widen(outputs["out"] if rows is None else outputs["out"][rows], self.dtype)}

    def tolerance(self) -> Tolerance:
        """s is rounded three times, each time by u of at most 2 (HIGH - LOW) scale, a relative error as large of e^s;
        exp errs by an ulp (2 u), a sum of n positive terms by n u, the division by 2 u; storing rounds once more, in
        fp16 to a multiple of 2^-24. Results under the smallest normal number may be flushed."""
        u = ROUNDOFF["fp32"]
        reach = 2 * (HIGH - LOW) * max(1.0, abs(self.scale))
        error = 1.01 * u * (3 * reach + self.width + 6)
        stored = 0.0 if self.dtype == "fp32" else ROUNDOFF[self.dtype]
        return Tolerance(relative=error + stored, absolute=2.0**-25 if self.dtype == "fp16" else 2.0**-126)

    def small(self) -> Softmax:
        """Some dozen rows of the same width, up to 5000."""
        return Softmax(
            rows=min(self.rows, 37), width=min(self.width, 5003), scale=self.scale, mask=self.mask,
            parts=min(self.parts, 3), dtype=self.dtype,
        )  # fmt: skip


def build(values: Mapping[str, Any], space: Space) -> Softmax:
    """A softmax from sweep keys. Raises UsageError."""
    level, text, rows = values.get("level", ""), values.get("size", ""), values.get("rows")
    width, dtype, scale = values["width"], values["dtype"], values["scale"]
    given = [key for key in ("level", "size", "rows") if values.get(key)]
    if len(given) > 1:
        raise UsageError(f"softmax: {given[0]} and {given[1]} are both given: write one of them")
    for name, value in (("rows", rows), ("width", width)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise UsageError(f"softmax: {name} = {value!r}: write a whole number of at least 1")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not np.isfinite(scale):
        raise UsageError(f"softmax: scale = {scale!r}: write a finite number")
    if not given:
        level = "DRAM"
    size = DTYPE_BYTES[dtype]
    if not rows:
        total = space.size(text) if text else space.level_bytes(level)
        rows = int(total // (2 * width * size))
        if rows < space.threads:
            where = f'the level "{level}"' if level else text
            raise UsageError(f"softmax: width = {width}: not one row a thread fits {where}")
        rows = rows // space.threads * space.threads
    nbytes = int(2 * rows * width * size)
    space.size(f"{nbytes} B")  # raises where it is beyond the memory
    parts = max(1, min(nbytes // space.threads // PART_BYTES, rows // space.threads))
    return Softmax(
        rows=rows, width=width, scale=float(scale), mask=bool(values["mask"]), parts=parts, dtype=dtype, level=level,
        symbols={"size": text} if text else {},
    )  # fmt: skip


FAMILY = Family(
    name="softmax",
    help="softmax along rows, by width",
    problem=Softmax,
    keys={
        "level": Key("level that x and out lie inside (default DRAM, unless a size is given)", LEVELS),
        "size": Key('bytes of x and out together instead: "64 MiB", "0.4 L2", "4 L3"'),
        "rows": Key("rows instead"),
        "width": Key("elements of a row", default=(1024,)),
        "scale": Key("factor of x", default=(1.0,)),
        "mask": Key("add a mask with -inf in a quarter of the columns", (True, False), (False,)),
        "dtype": Key("storage of x and out", DTYPES, ("fp32",)),
    },
    build=build,
)
