"""A pruned matrix times a vector, y = A x, A in compressed sparse rows (CSR): the case for and against sparsity.

Every row keeps the same number of elements, round(density x cols), one from each of as many equal stretches of
columns. Values are fp32 or bf16, indices int32, x and y fp32. Compare with `gemv` of the same rows, cols and dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import ROUNDOFF, Array, widen
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic
from pykernels.units import DTYPE_BYTES, MIB

INDEX_BYTES = 4
#: a pass covers about this many bytes of each thread's share, the parts in turn
PART_BYTES = 8 * MIB


class Spmv(Problem, frozen=True, kw_only=True):
    """rows x cols at a density in (0, 1]. Dims: (rows, cols, nnz, parts); a call covers one of `parts`."""

    kernel: ClassVar[str] = "spmv"

    rows: int
    cols: int
    density: float
    parts: int = 1

    def params(self) -> dict[str, str]:
        """rows, cols, density."""
        return {"rows": str(self.rows), "cols": str(self.cols), "density": f"{self.density:g}"}

    @property
    def per_row(self) -> int:
        """Elements kept in a row, at least 1."""
        return max(1, round(self.density * self.cols))

    @property
    def nnz(self) -> int:
        """Elements kept."""
        return self.rows * self.per_row

    def operands(self) -> tuple[Operand, ...]:
        """values, columns, starts, x, y."""
        return (
            Operand("values", "in", (self.nnz,), self.dtype, Recipe(seed=1)),
            Operand("columns", "in", (self.nnz,), "int32", Recipe("host", 2)),
            Operand("starts", "in", (self.rows + 1,), "int32", Recipe("host")),
            Operand("x", "in", (self.cols,), "fp32", Recipe(seed=3)),
            Operand("y", "out", (self.rows,), "fp32"),
        )

    def host_input(self, name: str) -> Array:
        """Column numbers (rising in each row, one from each stretch) and starts of rows."""
        if name == "starts":
            return (np.arange(self.rows + 1) * self.per_row).astype(np.int32)
        edges = np.arange(self.per_row + 1) * self.cols // self.per_row
        draw = np.random.default_rng(2).random((self.rows, self.per_row), dtype=np.float32)
        return (edges[:-1] + (draw * np.diff(edges)).astype(np.int32)).astype(np.int32).reshape(-1)

    def dims(self) -> tuple[int, ...]:
        """(rows, cols, nnz, parts)"""
        return (self.rows, self.cols, self.nnz, self.parts)

    def cover(self) -> int:
        """One call for each part."""
        return self.parts

    def flops(self) -> float:
        """2 an element kept."""
        return 2.0 * self.nnz / self.parts

    def traffic(self) -> Traffic:
        """Values, indices and row starts once; x once a call (it is read again for every row, from a cache)."""
        sizes = {
            "values": self.nnz * DTYPE_BYTES[self.dtype] / self.parts, "columns": INDEX_BYTES * self.nnz / self.parts,
            "starts": INDEX_BYTES * (self.rows + 1) / self.parts, "x": 4.0 * self.cols,
            "y": 4.0 * self.rows / self.parts,
        }  # fmt: skip
        total = sum(sizes.values())
        return Traffic(
            requested=total + 4.0 * self.nnz / self.parts - sizes["x"], compulsory=total, write_allocate=sizes["y"],
            by_operand=sizes,
        )  # fmt: skip

    def figure(self) -> Figure:
        """GB/s of compulsory bytes."""
        return Figure(kind="bandwidth", unit="GB/s", amount=self.traffic().compulsory)

    def working_set(self) -> int:
        """Bytes of all operands."""
        return int(self.nnz * (DTYPE_BYTES[self.dtype] + INDEX_BYTES) + 4 * (2 * self.rows + 1 + self.cols))

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """y in float64."""
        chosen = np.arange(self.rows) if rows is None else rows
        at = inputs["starts"][chosen].astype(np.int64)[:, None] + np.arange(self.per_row)
        products = widen(inputs["values"][at], self.dtype) * inputs["x"].astype(np.float64)[inputs["columns"][at]]
        return {"y": products.sum(axis=1)}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """y widened."""
        return {"y": (outputs["y"] if rows is None else outputs["y"][rows]).astype(np.float64)}

    def tolerance(self) -> Tolerance:
        """A sum of per_row positive products in fp32, in any order: (per_row + 1) u relative."""
        return Tolerance(relative=1.01 * (self.per_row + 1) * ROUNDOFF["fp32"])

    def small(self) -> Problem:
        """Some rows of the same length, at most 2000 columns."""
        return Spmv(
            dtype=self.dtype, rows=67, cols=min(self.cols, 2000), density=self.density, parts=min(self.parts, 3)
        )


def build(values: Mapping[str, Any], space: Space) -> Spmv:
    """Raises UsageError for a density outside (0, 1], or more elements than int32 counts."""
    rows, cols, density = int(values["rows"]), int(values["cols"]), float(values["density"])
    if rows < 1 or cols < 1:
        raise UsageError(f"spmv: rows = {rows}, cols = {cols}: both must be at least 1")
    if not 0 < density <= 1:
        raise UsageError(f"spmv: density = {density:g}: it lies above 0 and at most at 1")
    found = Spmv(dtype=values["dtype"], rows=rows, cols=cols, density=density)
    if found.nnz >= 1 << 31:
        raise UsageError(f"spmv: {found.nnz} elements: 32-bit indices count {1 << 31} at most")
    parts = max(1, min(rows // space.threads, found.working_set() // space.threads // PART_BYTES))
    return Spmv(dtype=values["dtype"], rows=rows, cols=cols, density=density, parts=parts)


FAMILY = Family(
    name="spmv",
    help="sparse matrix (CSR) times vector, over density",
    problem=Spmv,
    keys={
        "dtype": Key("type of the values; x and y are fp32", ("fp32", "bf16"), ("fp32",)),
        "rows": Key("rows", None, (4096,)),
        "cols": Key("columns", None, (4096,)),
        "density": Key("share of elements kept", None, (0.05, 0.2, 0.5)),
    },
    build=build,
)
