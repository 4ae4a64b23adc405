"""Matrix products C = alpha A B + beta C, from skinny to square: the kernel that walks along the roofline.

fp64 and fp32 multiply and add in their own type. bf16 operands are multiplied exactly, summed in fp32, and C is rounded
to bf16. int8: A is unsigned with one zero point z, B signed, both with fp32 scales (A's by row, B's by column):
C = row[i] column[j] sum over k of (A[i, k] - z) B[k, j], summed exactly in int32, in fp32. FLOPs are 2 m n k a product.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import ROUNDOFF, Array, widen
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic
from pykernels.units import DTYPE_BYTES

#: dtype -> storage types of A, B and C, and the type of sums
TYPES = {
    "fp64": ("fp64", "fp64", "fp64", "fp64"),
    "fp32": ("fp32", "fp32", "fp32", "fp32"),
    "bf16": ("bf16", "bf16", "bf16", "fp32"),
    "int8": ("uint8", "int8", "fp32", "int32"),
}
TRANSPOSES = ("nn", "nt", "tn", "tt")
#: products up to this many multiplications are offered to the unblocked variants too: beyond it they take seconds
SMALL_PRODUCT = 1 << 27
#: 255 x 128 x k stays inside int32
LONGEST_INT8 = 65536


class Gemm(Problem, frozen=True, kw_only=True):
    """`batch` products of m x k by k x n. `transpose` says of A and B in turn whether they are stored transposed
    ("t"); `pad` elements lengthen every stored row (its leading dimension). `zero` is A's zero point (int8).

    Dims: (batch, m, n, k, lda, ldb, ldc, ta, tb, zero); scalars: (alpha, beta)."""

    kernel: ClassVar[str] = "gemm"
    defaults: ClassVar[Mapping[str, Any]] = {
        "batch": 1, "transpose": "nn", "alpha": 1.0, "beta": 0.0, "pad": 0, "zero": 128,
    }  # fmt: skip

    m: int
    n: int
    k: int
    batch: int = 1
    transpose: str = "nn"
    alpha: float = 1.0
    beta: float = 0.0
    pad: int = 0
    zero: int = 128

    def params(self) -> dict[str, str]:
        """m, n, k, and what differs from the defaults."""
        more = {name: getattr(self, name) for name, usual in self.defaults.items() if getattr(self, name) != usual}
        return {"m": str(self.m), "n": str(self.n), "k": str(self.k)} | {
            name: value if isinstance(value, str) else f"{value:g}" for name, value in more.items()
        }

    def entry(self) -> tuple[str, str, str]:
        """Large products are offered to blocked variants only."""
        large = self.batch * self.m * self.n * self.k > SMALL_PRODUCT
        return (self.kernel, "large" if large else "", self.dtype)

    def stored(self, name: str) -> tuple[int, int]:
        """Rows and columns of A, B or C as stored, without padding."""
        shapes = {"a": (self.m, self.k), "b": (self.k, self.n), "c": (self.m, self.n)}
        rows, columns = shapes[name]
        turned = name != "c" and self.transpose["ab".index(name)] == "t"
        return (columns, rows) if turned else (rows, columns)

    def operands(self) -> tuple[Operand, ...]:
        """a, b, (int8: row, column,) c; matrices of a batch stand one under the other."""
        kinds = TYPES[self.dtype]
        a, b = Recipe(seed=1), Recipe(seed=2)
        if self.dtype == "int8":
            a, b = Recipe("integers", 1, 0, 256), Recipe("integers", 2, -128, 128)
        found = [Operand("a", "in", self._shape("a"), kinds[0], a), Operand("b", "in", self._shape("b"), kinds[1], b)]
        if self.dtype == "int8":
            found += [
                Operand("row", "in", (self.m,), "fp32", Recipe(seed=4)),
                Operand("column", "in", (self.n,), "fp32", Recipe(seed=5)),
            ]
        return (*found, Operand("c", "inout" if self.beta else "out", self._shape("c"), kinds[2], Recipe(seed=3)))

    def _shape(self, name: str) -> tuple[int, int]:
        rows, columns = self.stored(name)
        return (self.batch * rows, columns + self.pad)

    def dims(self) -> tuple[int, ...]:
        """(batch, m, n, k, lda, ldb, ldc, ta, tb, zero)"""
        leading = (self._shape(name)[1] for name in "abc")
        turned = (int(letter == "t") for letter in self.transpose)
        return (self.batch, self.m, self.n, self.k, *leading, *turned, self.zero)

    def scalars(self) -> tuple[float, ...]:
        """(alpha, beta)"""
        return (self.alpha, self.beta)

    def flops(self) -> float:
        """2 m n k a product."""
        return 2.0 * self.batch * self.m * self.n * self.k

    def traffic(self) -> Traffic:
        """Each operand once (C twice where beta is not 0)."""
        sizes = {name: float(np.prod(self.stored(name))) * self.batch * self._size(name) for name in "abc"}
        if self.dtype == "int8":
            sizes["scales"] = 4.0 * (self.m + self.n)
        allocated = 0.0 if self.beta else sizes["c"]
        if self.beta:
            sizes["c"] *= 2
        total = sum(sizes.values())
        return Traffic(requested=total, compulsory=total, write_allocate=allocated, by_operand=sizes)

    def _size(self, name: str) -> float:
        return DTYPE_BYTES[TYPES[self.dtype]["abc".index(name)]]

    def figure(self) -> Figure:
        """GFLOP/s (int8: GOP/s)."""
        return Figure(kind="compute", unit="GOP/s" if self.dtype == "int8" else "GFLOP/s", amount=self.flops())

    def working_set(self) -> int:
        """Bytes of A, B and C."""
        return int(sum(np.prod(self._shape(name)) * self._size(name) for name in "abc"))

    def matrices(self, inputs: Mapping[str, Array], name: str) -> Array:
        """Operand a, b or c of all products as a view (batch, rows, columns), untransposed, in storage type."""
        rows, columns = self.stored(name)
        array = inputs[name].reshape(self.batch, rows, columns + self.pad)[:, :, :columns]
        return array.swapaxes(1, 2) if name != "c" and self.transpose["ab".index(name)] == "t" else array

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """C in float64 (int8: the sum exact)."""
        kinds = TYPES[self.dtype]
        chosen = np.arange(self.batch * self.m) if rows is None else rows
        expected = np.zeros((len(chosen), self.n))
        column = inputs["column"].astype(np.float64) if self.dtype == "int8" else None
        for index in range(self.batch):
            mine = np.flatnonzero(chosen // max(1, self.m) == index)
            if not mine.size:
                continue
            at = chosen[mine] % self.m
            a = widen(self.matrices(inputs, "a")[index][at], kinds[0]).astype(np.float64)
            b = widen(self.matrices(inputs, "b")[index], kinds[1]).astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                if column is not None:
                    product = ((a - self.zero) @ b) * inputs["row"][at, None].astype(np.float64) * column
                else:
                    product = a @ b
                expected[mine] = self.alpha * product
                if self.beta:
                    expected[mine] += self.beta * widen(self.matrices(inputs, "c")[index][at], kinds[2])
        return {"c": expected}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """C without padding, widened."""
        c = outputs["c"] if rows is None else outputs["c"][rows]
        return {"c": widen(c[:, : self.n], TYPES[self.dtype][2])}

    def roundings(self) -> float:
        """Relative error bound of a result whose terms have one sign (Higham, Accuracy and Stability, eq. 3.5): k + 3
        roundings of the sum's type in any order of addition, then one of C's."""
        if self.dtype == "int8":  # the sum is exact: conversion, two scales, alpha, beta and their sum
            return 6 * ROUNDOFF["fp32"]
        u = ROUNDOFF[TYPES[self.dtype][3]]
        return 1.01 * (self.k + 3) * u + (1.01 * ROUNDOFF["bf16"] if self.dtype == "bf16" else 0.0)

    def tolerance(self) -> Tolerance:
        """`roundings` relative to the result, or, where terms have both signs, to the sum of their magnitudes."""
        bound = self.roundings()
        if self.alpha >= 0 and self.beta >= 0 and (self.dtype != "int8" or not self.beta):
            return Tolerance(relative=bound)
        term = 255.0 * 128 * 2.25 if self.dtype == "int8" else 2.25
        return Tolerance(absolute=bound * (abs(self.alpha) * term * self.k + 1.5 * abs(self.beta)))

    def small(self) -> Problem:
        """Odd sizes with several panels, row blocks and a tail in every direction; skinny shapes stay skinny."""
        import msgspec

        sizes = {name: min(value, most) for name, value, most in
                 (("m", self.m, 61), ("n", self.n, 83), ("k", self.k, 1043))}  # fmt: skip
        return msgspec.structs.replace(self, batch=min(self.batch, 3), **sizes)


def shape_of(text: str) -> tuple[int, int, int]:
    """(m, n, k) of "4096x8x4096", or of "2048" for a cube; raises UsageError."""
    match = re.fullmatch(r"\s*(\d+)(?:\s*x\s*(\d+)\s*x\s*(\d+))?\s*", text)
    if not match:
        raise UsageError(f'gemm: shape = "{text}": write m x n x k such as "4096x8x4096", or "2048" for a cube')
    m, n, k = match.groups()
    return (int(m), int(n or m), int(k or m))


def build(values: Mapping[str, Any], space: Space) -> Gemm:
    """A product of the shape, or of m, n and k. Raises UsageError for sizes that are none."""
    if "shape" in values:
        m, n, k = shape_of(str(values["shape"]))
        if given := [name for name in "mnk" if name in values]:
            raise UsageError(f"gemm: both shape and {given[0]} are given: write one of them")
    else:
        m, n, k = (int(values.get(name, 1024)) for name in "mnk")
    found = Gemm(
        dtype=values["dtype"], m=m, n=n, k=k, batch=int(values["batch"]), transpose=values["transpose"],
        alpha=float(values["alpha"]), beta=float(values["beta"]), pad=int(values["pad"]), zero=int(values["zero"]),
    )  # fmt: skip
    check(found)
    return found


def check(problem: Gemm) -> None:
    """Raise UsageError for a product that cannot be."""
    for name in ("m", "n", "k", "batch"):
        if getattr(problem, name) < 1:
            raise UsageError(f"gemm: {name} = {getattr(problem, name)}: it must be at least 1")
    if problem.pad < 0:
        raise UsageError(f"gemm: pad = {problem.pad}: it cannot be negative")
    if problem.dtype == "int8" and problem.k > LONGEST_INT8:
        raise UsageError(f"gemm: k = {problem.k}: sums of int8 products fit into int32 up to k = {LONGEST_INT8}")
    if not 0 <= problem.zero <= 255:
        raise UsageError(f"gemm: zero = {problem.zero}: a zero point of unsigned bytes lies between 0 and 255")


FAMILY = Family(
    name="gemm",
    help="matrix product C = alpha A B + beta C",
    problem=Gemm,
    keys={
        "dtype": Key("element type", tuple(TYPES), ("fp32",)),
        "shape": Key('"MxNxK", or one number for a cube, instead of m, n and k'),
        "m": Key("rows of A and C"),
        "n": Key("columns of B and C"),
        "k": Key("columns of A, rows of B"),
        "batch": Key("products of that shape", None, (1,)),
        "transpose": Key("whether A and B are stored transposed", TRANSPOSES, ("nn",)),
        "alpha": Key("factor of the product", None, (1.0,)),
        "beta": Key("factor of the C that is there", None, (0.0,)),
        "pad": Key("elements by which stored rows are longer", None, (0,)),
        "zero": Key("zero point of A (int8)", None, (128,)),
    },
    build=build,
)
