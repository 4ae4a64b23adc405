"""Matrix times vectors, Y = A X: the product of decoding a token, or a few, where weights are read and little else.

fp64, fp32 and bf16 hold A, x and y alike. int8 and int4 are weight-only: signed weights in groups of 128 columns with
one fp32 scale each, x and y in fp32. Bytes: A, scales, x and y once each; the vectors of a batch share one reading of
A. FLOPs: two per weight and vector; unpacking and scaling are not counted, nor that a kernel may take x in three digits
and so do each product three times in bytes (csrc/cpu/gemv_digits.h): its roof is a third of that arithmetic's peak.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import ROUNDOFF, Array, widen
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic
from pykernels.units import DTYPE_BYTES, MIB

DTYPES = ("fp64", "fp32", "fp16", "bf16", "int8", "int4")
WEIGHTS = ("int8", "int4")
LEVELS = ("L1", "L2", "L3", "DRAM")
GROUP = 128
#: a pass over a large matrix covers a part of about so many bytes of each thread's rows, the parts in turn
PART_BYTES = 8 * MIB
#: columns where a level or size is given: rows long enough to stream, few enough for x to stay in the L1
COLS = {"L1": 512, "L2": 1024, "L3": 2048}
DEFAULT_COLS = 4096
_RANGE = {"int8": (-127, 128), "int4": (-8, 8)}


class Gemv(Problem, frozen=True, kw_only=True):
    """`rows` x `cols` times `batch` vectors. Dims: (rows, cols, batch, parts). FLOPs and bytes are those of a call: the
    whole over `parts`."""

    kernel: ClassVar[str] = "gemv"

    rows: int
    cols: int
    batch: int = 1
    parts: int = 1
    level: str = ""

    def params(self) -> dict[str, str]:
        """Level or size as the user wrote it, else rows; cols; batch."""
        where = {"level": self.level} if self.level else dict(self.symbols) or {"rows": str(self.rows)}
        return where | {"cols": str(self.cols), "batch": str(self.batch)}

    @property
    def vector(self) -> str:
        """dtype of x and y."""
        return "fp32" if self.dtype in WEIGHTS else self.dtype

    @property
    def groups(self) -> int:
        """Scales of a row."""
        return -(-self.cols // GROUP) if self.dtype in WEIGHTS else 0

    def operands(self) -> tuple[Operand, ...]:
        """a (rows, cols), scales (rows, groups; of no length in floating point), x (batch, cols), y (batch, rows)."""
        weights = Recipe("integers", 1, *_RANGE[self.dtype]) if self.dtype in WEIGHTS else Recipe(seed=1)
        return (
            Operand("a", "in", (self.rows, self.cols), self.dtype, weights),
            Operand("scales", "in", (self.rows, self.groups), "fp32", Recipe("uniform", 2, 0.01, 0.02)),
            Operand("x", "in", (self.batch, self.cols), self.vector, Recipe(seed=3)),
            Operand("y", "out", (self.batch, self.rows), self.vector),
        )

    def dims(self) -> tuple[int, ...]:
        """(rows, cols, batch, parts)"""
        return (self.rows, self.cols, self.batch, self.parts)

    def cover(self) -> int:
        """One call for each part."""
        return self.parts

    def flops(self) -> float:
        """Two per weight and vector."""
        return 2.0 * self.rows * self.cols * self.batch / self.parts

    def traffic(self) -> Traffic:
        """Each operand once in `parts` calls, x in each of them."""
        out = self.batch * self.rows * DTYPE_BYTES[self.vector] / self.parts
        moved = {
            "a": self.rows * self.cols * DTYPE_BYTES[self.dtype] / self.parts,
            "scales": 4.0 * self.rows * self.groups / self.parts,
            "x": self.batch * self.cols * DTYPE_BYTES[self.vector], "y": out,
        }  # fmt: skip
        total = sum(moved.values())
        allocated = 0.0 if self.level == "L1" else out
        return Traffic(
            requested=total, compulsory=total, write_allocate=allocated,
            by_operand={name: size for name, size in moved.items() if size},
        )  # fmt: skip

    def figure(self) -> Figure:
        """GB/s of the bytes above."""
        return Figure(kind="bandwidth", unit="GB/s", amount=self.traffic().requested, level=self.level)

    def working_set(self) -> int:
        """Bytes of all operands."""
        traffic = self.traffic().by_operand
        return int(traffic["x"] + sum(size * self.parts for name, size in traffic.items() if name != "x"))

    def weights(self, inputs: Mapping[str, Array], rows: Any = slice(None)) -> Array:
        """Rows of A in float64, scaled."""
        a = widen(inputs["a"][rows], self.dtype).astype(np.float64)
        if self.dtype in WEIGHTS:
            a *= np.repeat(inputs["scales"][rows].astype(np.float64), GROUP, axis=1)[:, : self.cols]
        return a

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """y in float64; with `rows`, of these vectors only (the first axis of y), all rows of A up to MOST_CHECKED."""
        x = widen(inputs["x"], self.vector)
        chosen = self._chosen()
        y = x @ self.weights(inputs, chosen).T
        return {"y": y if rows is None else y[rows]}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """The same elements of y."""
        y = widen(outputs["y"][:, self._chosen()], self.vector)
        return {"y": y if rows is None else y[rows]}

    def _chosen(self) -> Any:
        """Rows of A that are checked: all of a small matrix, else 512 spread over it with both ends."""
        if self.rows * self.cols <= 1 << 18:
            return slice(None)
        return np.unique(np.linspace(0, self.rows - 1, 512).astype(np.int64))

    def tolerance(self) -> Tolerance:
        """n roundings of a sum err by n u of the sum of its terms' magnitudes at most: of the sum itself where they are
        positive, else of cols x the mean magnitude (twice, for the spread). Storing y rounds once more."""
        u = ROUNDOFF["fp64" if self.dtype == "fp64" else "fp32"]
        error = 1.01 * (self.cols + 4) * u
        if self.dtype in WEIGHTS:
            mean = _RANGE[self.dtype][1] / 2 * 0.015
            return Tolerance(relative=error, absolute=2 * error * self.cols * mean)
        return Tolerance(relative=error + (ROUNDOFF[self.dtype] if self.dtype in ("bf16", "fp16") else 0.0))

    def small(self) -> Gemv:
        """Some rows and an odd rest of columns."""
        cols = min(self.cols, 650)
        return Gemv(rows=min(self.rows, 37), cols=cols, batch=self.batch, parts=min(self.parts, 3), dtype=self.dtype)


def build(values: Mapping[str, Any], space: Space) -> Gemv:
    """A gemv from sweep keys. Raises UsageError."""
    dtype, batch, level, text = values["dtype"], values["batch"], values.get("level", ""), values.get("size", "")
    rows, cols = values.get("rows"), values.get("cols")
    given = [key for key in ("level", "size", "rows") if values.get(key)]
    if len(given) > 1:
        raise UsageError(f"gemv: {given[0]} and {given[1]} are both given: write one of them")
    for name, value in (("rows", rows), ("cols", cols), ("batch", batch)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise UsageError(f"gemv: {name} = {value!r}: write a whole number of at least 1")
    if not given:
        level = "DRAM"
    cols = cols or COLS.get(level, DEFAULT_COLS)
    if dtype == "int4" and cols % 2:
        raise UsageError(f"gemv: cols = {cols}: int4 packs two columns a byte, so write an even number")
    if not rows:
        total = space.size(text) if text else space.level_bytes(level)
        row = cols * DTYPE_BYTES[dtype] + (4 * -(-cols // GROUP) if dtype in WEIGHTS else 0)
        rows = max(1, int(total // row))
        if level in COLS:  # A beside x and y of the batch, which every thread reads
            vector = 4 if dtype in WEIGHTS else DTYPE_BYTES[dtype]
            shared = batch * cols * vector * (space.threads if level != "L3" else 1)
            rows = int((total - shared) // (row + batch * vector))
            if rows < 4 * space.threads:
                raise UsageError(f'gemv: cols = {cols}, batch = {batch}: x alone fills the level "{level}"')
        rows = max(4 * space.threads, rows // (4 * space.threads) * 4 * space.threads)
    nbytes = int(rows * cols * DTYPE_BYTES[dtype])
    if not given or not level:
        space.size(f"{nbytes} B")  # raises where it is beyond the memory
    parts = max(1, min(nbytes // space.threads // PART_BYTES, rows // (4 * space.threads)))
    symbols = {"size": text} if text else {}
    return Gemv(rows=rows, cols=cols, batch=batch, parts=parts, dtype=dtype, level=level, symbols=symbols)


FAMILY = Family(
    name="gemv",
    help="matrix times vectors: floating point, and weight-only int8 and int4",
    problem=Gemv,
    keys={
        "level": Key("level that the operands lie inside (default DRAM, unless a size is given)", LEVELS),
        "size": Key('bytes of the matrix instead: "64 MiB", "0.4 L2", "4 L3", "25% memory"'),
        "rows": Key("rows of the matrix instead"),
        "cols": Key("columns of the matrix"),
        "batch": Key("vectors that share one reading of the matrix", default=(1,)),
        "dtype": Key("dtype of the matrix", DTYPES, ("fp32",)),
    },
    build=build,
)
