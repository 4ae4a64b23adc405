"""Attention, softmax(scale Q K' + mask) V, from a token's decode (a FLOP for two bytes) to prefill (hundreds).

Layouts: q and o are batch x heads x lq rows of `dim`, k and v batch x kv_heads x lk rows. `heads` is a multiple of
`kv_heads`; each KV head serves heads / kv_heads query heads (grouped-query attention), the intensity axis of decode.
Causal masks end with the last key: query i sees keys up to i + lk - lq; a query that sees none gives zeros.

Two countings: fused (the figure's bytes; scores never leave the core: q, k, v and o once) and unfused (`unfused_bytes`:
scores written, read and written by the softmax and read again). FLOPs are 4 dim a pair of query and visible key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import ROUNDOFF, Array, widen
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic
from pykernels.units import DTYPE_BYTES

DIMS = (64, 128, 256)
#: query rows a KV head up to which a problem is a decode
DECODE_ROWS = 32
#: pairs of query and key beyond which the row-by-row variant would take seconds
LONG_PAIRS = 1 << 24


class Attention(Problem, frozen=True, kw_only=True):
    """`lq` queries against `lk` keys.

    Dims: (batch, heads, kv_heads, lq, lk, dim, causal); scalars: (1 / sqrt(dim),)."""

    kernel: ClassVar[str] = "attention"
    defaults: ClassVar[Mapping[str, Any]] = {"batch": 1, "causal": False}

    batch: int = 1
    heads: int
    kv_heads: int
    lq: int
    lk: int
    dim: int
    causal: bool = False

    def params(self) -> dict[str, str]:
        """Shape (kv as written, where given); kv_heads, batch and causal only where they are not the default."""
        keys = dict(self.symbols) or {"lk": str(self.lk)}
        found = {"lq": str(self.lq), **keys, "heads": str(self.heads)}
        if self.kv_heads != self.heads:
            found["kv_heads"] = str(self.kv_heads)
        found["dim"] = str(self.dim)
        if self.batch != 1:
            found["batch"] = str(self.batch)
        return {**found, "causal": "yes"} if self.causal else found

    @property
    def group(self) -> int:
        """Query heads a KV head serves."""
        return self.heads // self.kv_heads

    def entry(self) -> tuple[str, str, str]:
        """Decode, prefill, or long: a prefill that is offered to blocked variants only."""
        if self.group * self.lq <= DECODE_ROWS:
            return (self.kernel, "decode", self.dtype)
        return (self.kernel, "long" if self.pairs() > LONG_PAIRS else "prefill", self.dtype)

    def operands(self) -> tuple[Operand, ...]:
        """q, k, v, o; each with its rows as the first axis."""
        rows, keys = self.batch * self.heads * self.lq, self.batch * self.kv_heads * self.lk
        return (
            Operand("q", "in", (rows, self.dim), self.dtype, Recipe(seed=1, low=-1.5, high=1.5)),
            Operand("k", "in", (keys, self.dim), self.dtype, Recipe(seed=2, low=-1.5, high=1.5)),
            Operand("v", "in", (keys, self.dim), self.dtype, Recipe(seed=3)),
            Operand("o", "out", (rows, self.dim), self.dtype),
        )

    def dims(self) -> tuple[int, ...]:
        """(batch, heads, kv_heads, lq, lk, dim, causal)"""
        return (self.batch, self.heads, self.kv_heads, self.lq, self.lk, self.dim, int(self.causal))

    def scalars(self) -> tuple[float, ...]:
        """(scale,)"""
        return (self.scale,)

    @property
    def scale(self) -> float:
        """1 / sqrt(dim)"""
        return 1 / math.sqrt(self.dim)

    def pairs(self) -> float:
        """Pairs of a query and a key it sees, over batch and heads."""
        seen = float(self.lq) * self.lk
        if self.causal:
            first = self.lk - self.lq + 1  # keys that query 0 sees; below 1: none
            low = max(0, 1 - first)  # queries that see none
            seen = (self.lq - low) * (first + low + self.lk) / 2.0
        return self.batch * self.heads * seen

    def flops(self) -> float:
        """2 dim for a score and 2 dim for its part of the sum, masked pairs left out; the softmax is not counted."""
        return 4.0 * self.dim * self.pairs()

    def exponentials(self) -> float:
        """One a visible pair: what the exp roof bounds."""
        return self.pairs()

    def about(self) -> dict[str, Any]:
        """Exponentials of a call."""
        return {"exponentials": self.exponentials()}

    def traffic(self) -> Traffic:
        """The fused counting: q, k, v and o once."""
        each = self.dim * DTYPE_BYTES[self.dtype] * self.batch
        rows, keys = self.heads * self.lq * each, self.kv_heads * self.lk * each
        sizes = {"q": rows, "k": keys, "v": keys, "o": rows}
        total = sum(sizes.values())
        return Traffic(requested=total, compulsory=total, write_allocate=rows, by_operand=sizes)

    def unfused_bytes(self) -> float:
        """Bytes where scores pass through memory four times, in the storage type."""
        return self.traffic().requested + 4 * self.pairs() * DTYPE_BYTES[self.dtype]

    def figure(self) -> Figure:
        """GFLOP/s."""
        return Figure(kind="compute", unit="GFLOP/s", amount=self.flops())

    def working_set(self) -> int:
        """Bytes of q, k, v and o."""
        return int(self.traffic().requested)

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """o in float64."""
        chosen = np.arange(self.batch * self.heads * self.lq) if rows is None else rows
        expected = np.zeros((len(chosen), self.dim))
        k, v = (inputs[name].reshape(self.batch, self.kv_heads, self.lk, self.dim) for name in "kv")
        unit = chosen // self.lq // self.group  # batch and KV head
        for index in np.unique(unit):
            mine = np.flatnonzero(unit == index)
            keys = widen(k[index // self.kv_heads, index % self.kv_heads], self.dtype)
            values = widen(v[index // self.kv_heads, index % self.kv_heads], self.dtype)
            q = widen(inputs["q"][chosen[mine]], self.dtype)
            expected[mine] = self._attend(q, keys, values, chosen[mine] % self.lq)
        return {"o": expected}

    def _attend(self, q: Array, k: Array, v: Array, query: Array) -> Array:
        """Queries of one KV head; `query` numbers them in their sequence."""
        with np.errstate(invalid="ignore", over="ignore"):
            scores = self.scale * (q @ k.T)
            if self.causal:
                hidden = np.arange(self.lk) > (query + self.lk - self.lq)[:, None]
                scores[hidden] = -np.inf
                blind = hidden.all(axis=1)
                scores[blind] = 0
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out = weights @ v / weights.sum(axis=1, keepdims=True)
        if self.causal:
            out[blind] = 0
        return np.asarray(out)

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """o widened."""
        return {"o": widen(outputs["o"] if rows is None else outputs["o"][rows], self.dtype)}

    def tolerance(self) -> Tolerance:
        """v is positive, so o is a mean of positive terms and errors are relative. A score of magnitude at most
        2.25 dim / sqrt(dim) = 2.25 sqrt(dim) before its max is taken off errs by (dim + 2) u of that, and so does the
        exponent; weights, their sum and the weighted sum add at most 2 (lk + 8) u; bf16 rounds weights and o.
        Two bounds of sums are statistical (sqrt instead of the count: Higham and Mary 2019), times 8."""
        u = ROUNDOFF["fp32"]
        score = 2 * 2.25 * math.sqrt(self.dim) * 8 * math.sqrt(self.dim + 2) * u
        sums = 2 * 8 * math.sqrt(self.lk + 8) * u
        stored = 2.02 * ROUNDOFF["bf16"] if self.dtype == "bf16" else 0.0
        return Tolerance(relative=score + sums + 4 * u + stored)

    def small(self) -> Problem:
        """Odd lengths that straddle blocks of keys and of rows, with the group, mask and dim kept."""
        import msgspec

        kv_heads = min(self.kv_heads, 2)
        lq = self.lq if self.lq <= 4 else min(self.lq, max(3, 211 // self.group))
        return msgspec.structs.replace(
            self, batch=min(self.batch, 2), kv_heads=kv_heads, heads=kv_heads * self.group, lq=lq, lk=min(self.lk, 397)
        )


def build(values: Mapping[str, Any], space: Space) -> Attention:
    """The attention of a shape; `group` may stand for kv_heads, `kv` (bytes: "0.4 L2") for lk. Raises UsageError."""
    heads = int(values["heads"])
    kv_heads = int(values.get("kv_heads", heads))
    if "group" in values:
        if "kv_heads" in values:
            raise UsageError("attention: both group and kv_heads are given: write one of them")
        group = int(values["group"])
        if group < 1 or heads % group:
            raise UsageError(f"attention: group = {group} does not divide heads = {heads}")
        kv_heads = heads // group
    lk = int(values.get("lk", 1024))
    symbols = {}
    if "kv" in values:
        if "lk" in values:
            raise UsageError("attention: both kv and lk are given: write one of them")
        each = 2 * int(values["dim"]) * DTYPE_BYTES[values["dtype"]] * int(values["batch"]) * max(1, kv_heads)
        lk = max(1, int(space.size(str(values["kv"])) / each))
        symbols = {"kv": str(values["kv"])}
    found = Attention(
        dtype=values["dtype"], batch=int(values["batch"]), heads=heads, kv_heads=kv_heads,
        lq=int(values.get("lq", lk)), lk=lk, dim=int(values["dim"]), causal=bool(values["causal"]), symbols=symbols,
    )  # fmt: skip
    check(found)
    return found


def check(problem: Attention) -> None:
    """Raise UsageError for a shape that cannot be."""
    for name in ("batch", "heads", "kv_heads", "lq", "lk"):
        if getattr(problem, name) < 1:
            raise UsageError(f"attention: {name} = {getattr(problem, name)}: it must be at least 1")
    if problem.heads % problem.kv_heads:
        raise UsageError(
            f"attention: kv_heads = {problem.kv_heads} does not divide heads = {problem.heads}: "
            "every KV head serves the same number of query heads"
        )
    if problem.dim not in DIMS:
        raise UsageError(f"attention: dim = {problem.dim}: it is one of {', '.join(map(str, DIMS))}")


FAMILY = Family(
    name="attention",
    help="softmax(Q K') V: prefill (lq = lk) and decode (lq = 1)",
    problem=Attention,
    keys={
        "dtype": Key("storage type; sums are in fp32", ("fp32", "bf16"), ("fp32",)),
        "lq": Key("queries a sequence (default: as many as keys; 1 is decode)"),
        "lk": Key("keys a sequence (default 1024)"),
        "kv": Key('bytes of K and V instead of lk: "0.4 L2", "4 L3"'),
        "heads": Key("query heads", None, (8,)),
        "kv_heads": Key("KV heads, a divisor of heads (default: heads)"),
        "group": Key("query heads a KV head serves, instead of kv_heads"),
        "dim": Key("head size", DIMS, (64,)),
        "batch": Key("sequences", None, (1,)),
        "causal": Key("queries see no later keys", (False, True), (False,)),
    },
    build=build,
)
