"""Copies by the driver: over the host link in either direction or both at once, inside a GPU's memory, to a peer GPU.

The host side's memory is the placement's: pinned (default), pageable, or managed (migrated, not copied). GB/s counts
each byte that crosses a link once; `d2d`, the library's copy inside device memory, counts it read and written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pykernels.kernels.dtypes import Array, widen
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Role, Space, Tolerance, Traffic

OPS = ("h2d", "d2h", "both", "d2d", "peer")
ENDS: tuple[tuple[str, Role], ...] = (("source", "in"), ("target", "out"))


class Link(Problem, frozen=True, kw_only=True):
    """One copy of 4 n bytes, or for `both` one each way at once. No kernel, no dims."""

    kernel: ClassVar[str] = "link"

    op: str
    n: int

    def params(self) -> dict[str, str]:
        """op and size."""
        return {"op": self.op, **(self.symbols or {"n": str(self.n)})}

    def entry(self) -> tuple[str, str, str]:
        """Table key."""
        return (self.kernel, self.op, self.dtype)

    def operands(self) -> tuple[Operand, ...]:
        """source, target; for `both` also back_source, back_target."""
        names = ("", "back_") if self.op == "both" else ("",)
        return tuple(
            Operand(f"{way}{end}", role, (self.n,), "fp32", Recipe(seed=seed + 1))
            for seed, way in enumerate(names)
            for end, role in ENDS
        )

    def dims(self) -> tuple[int, ...]:
        """(n,)"""
        return (self.n,)

    def flops(self) -> float:
        """None."""
        return 0.0

    def traffic(self) -> Traffic:
        """Bytes that cross the link, or are read and written inside the device."""
        moved = 4.0 * self.n * (2 if self.op in ("both", "d2d") else 1)
        return Traffic(requested=moved, compulsory=moved)

    def figure(self) -> Figure:
        """GB/s."""
        level = "DRAM" if self.op == "d2d" else "link"
        return Figure(kind="link", unit="GB/s", amount=self.traffic().requested, ceiling=True, level=level, op=self.op)

    def working_set(self) -> int:
        """Bytes of all operands."""
        return 4 * self.n * len(self.operands())

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """Each target is its source."""
        chosen = slice(None) if rows is None else rows
        return {name.replace("source", "target"): widen(array[chosen], "fp32") for name, array in inputs.items()}

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """The targets."""
        chosen = slice(None) if rows is None else rows
        return {name: widen(array[chosen], "fp32") for name, array in outputs.items()}

    def tolerance(self) -> Tolerance:
        """Exact."""
        return Tolerance()

    def small(self) -> Problem:
        """An odd number of elements."""
        return Link(op=self.op, n=4097, dtype=self.dtype)


def build(values: Mapping[str, Any], space: Space) -> Link:
    """A copy of `size` bytes."""
    text = values["size"]
    return Link(op=values["op"], n=max(1, space.size(text) // 4), dtype="fp32", symbols={"size": text})


FAMILY = Family(
    name="link",
    help="copies by the driver: host link, device memory, peer GPU",
    problem=Link,
    keys={
        "op": Key("direction", OPS, ("h2d", "d2h", "both")),
        "size": Key('bytes of a copy: "64 MiB"', None, ("256 MiB",)),
    },
    build=build,
)
