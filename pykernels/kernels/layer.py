"""The operators of a Transformer, each run in all layers with every layer's own weights, and their `chain`.

One call is one pass of an encoder over `seq` tokens, or one token step of a decoder with seq / 2 tokens cached (at
least the new one, which takes the cache's last place). A layer of the chain, normalised after each residual (Vaswani et
al. 2017):

    a = attention(qkv(x));  h = norm(x + out(a));  x = norm(h + down(gelu(up(h))))

Single operators run on the same input in every layer and leave the last layer's output. FLOPs and bytes are those of
`analysis.wall.transformer.ours`, the counting with which predictions are made; a decoder's step is its average step.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import ROUNDOFF, Array, widen
from pykernels.kernels.norm import normalised
from pykernels.kernels.pointwise import gelu
from pykernels.model import Family, Figure, Key, Operand, Problem, Recipe, Space, Tolerance, Traffic
from pykernels.units import DTYPE_BYTES, format_size

#: operators of analysis.wall.transformer.OPERATORS, and all of them
OPS = ("qkv", "attention", "out", "norm", "up", "gelu", "down", "chain")
MATRICES = ("qkv", "out", "up", "down")
#: FLOP of a pass beyond which a sampled check takes its reference in fp32
LARGE = 2e9
#: the last such reference, by a checksum of its inputs
_KEPT: dict[tuple[Any, ...], Array] = {}


class Layer(Problem, frozen=True, kw_only=True):
    """An operator, or the chain, of `model`, whose shape stands in the other fields.

    Dims: (decoder, layers, hidden, heads, kv_heads, ffn, seq, batch)."""

    kernel: ClassVar[str] = "layer"
    defaults: ClassVar[Mapping[str, Any]] = {"batch": 1}

    model: str
    op: str
    seq: int
    batch: int = 1
    decoder: bool
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int

    def params(self) -> dict[str, str]:
        """model, op, seq, and batch where it is not 1."""
        found = {"model": self.model, "op": self.op, "seq": str(self.seq)}
        return found if self.batch == 1 else {**found, "batch": str(self.batch)}

    def entry(self) -> tuple[str, str, str]:
        """Native table key."""
        return (self.kernel, self.op, self.dtype)

    @property
    def head_size(self) -> int:
        """Elements of a head."""
        return self.hidden // self.heads

    @property
    def kv(self) -> int:
        """Elements of K, and of V, a token."""
        return self.kv_heads * self.head_size

    @property
    def tokens(self) -> int:
        """Rows that pass through the matrices."""
        return self.batch if self.decoder else self.batch * self.seq

    @property
    def context(self) -> int:
        """Tokens that a decoder's step attends to."""
        return max(1, self.seq // 2)

    def shape(self, matrix: str) -> tuple[int, int]:
        """(outputs, inputs) of a weight matrix."""
        return {
            "qkv": (self.hidden + 2 * self.kv, self.hidden), "out": (self.hidden, self.hidden),
            "up": (self.ffn, self.hidden), "down": (self.hidden, self.ffn),
        }[matrix]  # fmt: skip

    def operands(self) -> tuple[Operand, ...]:
        """What the operator reads, then y; see csrc/cpu/layer.cpp for the chain's order."""
        if self.op in MATRICES:
            outputs, inputs = self.shape(self.op)
            return (self._rows("x", inputs), *self._weights(self.op, "w", "b"), self._rows("y", outputs, "out"))
        if self.op == "attention":
            return (self._rows("x", self.hidden + 2 * self.kv), *self._cache(), self._rows("y", self.hidden, "out"))
        if self.op == "norm":
            return (
                self._rows("x", self.hidden), self._rows("r", self.hidden, seed=2), *self._norms(),
                self._rows("y", self.hidden, "out"),
            )  # fmt: skip
        if self.op == "gelu":
            return (self._rows("x", self.ffn), self._rows("y", self.ffn, "out"))
        matrices = (operand for name in MATRICES for operand in self._weights(name, f"w_{name}", f"b_{name}"))
        work = self.tokens * (max(self.hidden + 2 * self.kv, self.ffn) + 2 * self.hidden)
        return (
            self._rows("x", self.hidden), *matrices, *self._norms(), *self._cache(),
            Operand("work", "out", (work,), self.dtype), self._rows("y", self.hidden, "out"),
        )  # fmt: skip

    def _rows(self, name: str, width: int, role: str = "in", seed: int = 1) -> Operand:
        shape = (self.tokens, width)
        return Operand(name, "out" if role == "out" else "in", shape, self.dtype, Recipe(seed=seed, low=-1.5, high=1.5))

    def _weights(self, matrix: str, weight: str, bias: str) -> tuple[Operand, Operand]:
        """Weights that keep the variance of their input, so that activations stay near 1 through the layers."""
        outputs, inputs = self.shape(matrix)
        seed, bound = 10 + MATRICES.index(matrix), math.sqrt(3 / inputs)
        spread = Recipe(seed=seed, low=-bound, high=bound)
        return (
            Operand(weight, "in", (self.layers, outputs, inputs), self.dtype, spread),
            Operand(bias, "in", (self.layers, outputs), self.dtype, Recipe(seed=seed + 10, low=-0.1, high=0.1)),
        )

    def _norms(self) -> tuple[Operand, ...]:
        shape = (self.layers, self.hidden)
        return tuple(
            Operand(f"{letter}{n}", "in", shape, self.dtype, Recipe(seed=30 + 2 * n + i, low=low, high=high))
            for n in (1, 2)
            for i, (letter, low, high) in enumerate((("g", 0.5, 1.5), ("b", -0.1, 0.1)))
        )

    def _cache(self) -> tuple[Operand, ...]:
        shape = (self.layers, self.batch, self.context, self.kv)
        return tuple(
            Operand(name, "inout", shape, self.dtype, Recipe(seed=seed, low=-1.5, high=1.5))
            for name, seed in (("keys", 40), ("values", 41))
        ) if self.decoder else ()  # fmt: skip

    def dims(self) -> tuple[int, ...]:
        """(decoder, layers, hidden, heads, kv_heads, ffn, seq, batch)"""
        shape = (self.layers, self.hidden, self.heads, self.kv_heads, self.ffn)
        return (int(self.decoder), *shape, self.seq, self.batch)

    def _counted(self) -> tuple[float, float]:
        from pykernels.analysis.wall import transformer

        config = transformer.Config(
            name=self.model, kind="decoder" if self.decoder else "encoder", layers=self.layers, hidden=self.hidden,
            heads=self.heads, kv_heads=self.kv_heads, ffn=self.ffn,
        )  # fmt: skip
        operations = transformer.ours(config, self.seq, batch=self.batch, dtype=self.dtype)
        chosen = [op for op in operations if self.op in (op.name, "chain")]
        steps = self.seq if self.decoder else 1
        return sum(op.flops for op in chosen) / steps, sum(op.bytes for op in chosen) / steps

    def flops(self) -> float:
        """Of one pass or step over all layers."""
        return self._counted()[0]

    def traffic(self) -> Traffic:
        """Weights, biases, activations and cache of one pass or step, attention fused."""
        total = self._counted()[1]
        return Traffic(requested=total, compulsory=total)

    def figure(self) -> Figure:
        """Microseconds a pass or step."""
        return Figure(kind="latency", unit="us", amount=1.0)

    def working_set(self) -> int:
        """Bytes of all operands."""
        return int(sum(math.prod(o.shape) for o in self.operands()) * DTYPE_BYTES[self.dtype])

    def reference(self, inputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """y; in float64, or in fp32 for passes of more than 2 GFLOP, whose y is kept for the check after timing."""
        if self.flops() <= LARGE:
            y = self._run(_Wide(inputs, self.dtype, np.dtype(np.float64)))
            return {"y": y if rows is None else y[rows]}
        key = (self.op, self.dims(), *(zlib.crc32(np.ascontiguousarray(inputs[name]).data) for name in sorted(inputs)))
        if key not in _KEPT:
            _KEPT.clear()
            _KEPT[key] = self._run(_Wide(inputs, self.dtype, np.dtype(np.float32)))
        y = _KEPT[key]
        return {"y": (y if rows is None else y[rows]).astype(np.float64)}

    def _run(self, w: _Wide) -> Array:
        x, last = w["x"], self.layers - 1
        if self.op in MATRICES:
            return x @ w["w", last].T + w["b", last]
        if self.op == "attention":
            return self._attend(x, w, last)
        if self.op == "norm":
            return normalised(x + w["r"], w["g2", last], w["b2", last])
        if self.op == "gelu":
            return gelu(x)
        for layer in range(self.layers):
            a = self._attend(x @ w["w_qkv", layer].T + w["b_qkv", layer], w, layer)
            h = normalised(x + a @ w["w_out", layer].T + w["b_out", layer], w["g1", layer], w["b1", layer])
            up = gelu(h @ w["w_up", layer].T + w["b_up", layer])
            x = normalised(h + up @ w["w_down", layer].T + w["b_down", layer], w["g2", layer], w["b2", layer])
        return x

    def _attend(self, qkv: Array, w: _Wide, layer: int) -> Array:
        """Attention of every sequence over itself, or over its cache and the new token."""
        steps, size = 1 if self.decoder else self.seq, self.head_size
        qkv = qkv.reshape(self.batch, steps, -1)
        q, k, v = np.split(qkv, [self.hidden, self.hidden + self.kv], axis=2)
        if self.decoder:
            k, v = (np.concatenate([w[name, layer][:, :-1], new], axis=1) for name, new in (("keys", k), ("values", v)))
        q = np.ascontiguousarray(q.reshape(self.batch, steps, self.kv_heads, -1, size).transpose(0, 2, 3, 1, 4))
        k, v = (
            np.ascontiguousarray(array.reshape(self.batch, -1, self.kv_heads, size).transpose(0, 2, 1, 3))
            for array in (k, v)
        )
        scores = (q * float(1 / math.sqrt(size))) @ k[:, :, None].swapaxes(3, 4)
        scores -= scores.max(axis=4, keepdims=True)
        weights = np.exp(scores, out=scores)
        out = weights @ v[:, :, None] / weights.sum(axis=4, keepdims=True)
        return np.ascontiguousarray(out.transpose(0, 3, 1, 2, 4)).reshape(self.batch * steps, self.hidden)

    def observed(self, outputs: Mapping[str, Array], rows: Array | None = None) -> dict[str, Array]:
        """y widened."""
        return {"y": widen(outputs["y"] if rows is None else outputs["y"][rows], self.dtype)}

    def tolerance(self) -> Tolerance:
        """Values are of the order of 1 throughout. Sums of up to `ffn` products err by 8 sqrt(ffn) u (the spread of
        roundings, Higham and Mary 2019, times 8), and so does an fp32 reference; the storage type rounds each
        operator's output once; in the chain, eight operators a layer add up as their root."""
        operators = 8 * self.layers if self.op == "chain" else 1
        sums = 8 * math.sqrt(max(self.ffn, self.hidden, self.context)) * ROUNDOFF["fp32"]
        stored = ROUNDOFF["bf16"] if self.dtype == "bf16" else 0.0
        return Tolerance(absolute=6 * math.sqrt(operators) * (2 * sums + stored), relative=2 * stored)

    def small(self) -> Problem:
        """Two layers, a short sequence, the same heads."""
        import msgspec

        seq = min(self.seq, 37 if not self.decoder else 129)
        return msgspec.structs.replace(self, layers=min(self.layers, 2), seq=seq, batch=min(self.batch, 2))


class _Wide:
    """Operands widened on demand, one layer at a time: all weights at once would not fit beside the case's own."""

    def __init__(self, inputs: Mapping[str, Array], dtype: str, wide: np.dtype[Any]) -> None:
        self._inputs, self._dtype, self._wide = inputs, dtype, wide

    def __getitem__(self, key: str | tuple[str, int]) -> Array:
        array = self._inputs[key] if isinstance(key, str) else self._inputs[key[0]][key[1]]
        if self._wide == array.dtype:
            return array
        if self._dtype == "bf16" and self._wide == np.float32:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return widen(array, self._dtype).astype(self._wide)


def build(values: Mapping[str, Any], space: Space) -> Layer:
    """The operator of a preset model or of a CONFIG.toml. Raises UsageError, also for a model larger than memory: that
    can be predicted only."""
    from pykernels.analysis.wall import transformer

    config = transformer.load(str(values["model"]))
    seq, batch = int(values["seq"]), int(values["batch"])
    transformer.check_run(seq, batch)
    if config.head_size not in (64, 128, 192, 256):
        raise UsageError(f"layer: {config.name} has heads of {config.head_size}: the kernels take 64, 128, 192 or 256")
    problem = Layer(
        dtype=values["dtype"], model=config.name, op=values["op"], seq=seq, batch=batch,
        decoder=config.kind == "decoder", layers=config.layers, hidden=config.hidden, heads=config.heads,
        kv_heads=config.kv_heads or config.heads, ffn=config.ffn,
    )  # fmt: skip
    try:
        space.size(f"{problem.working_set()} B")
    except UsageError as error:
        held = f"{config.name} ({problem.op}, seq {seq}, {problem.dtype}) holds {format_size(problem.working_set())}"
        raise UsageError(
            f"layer: {held}: it can be predicted, not measured here ({error.message})",
            hint=f"pykernels wall model {values['model']} RUN",
        ) from None
    return problem


FAMILY = Family(
    name="layer",
    help="operators of a Transformer over all its layers, and the chain of them",
    problem=Layer,
    keys={
        "dtype": Key("storage type of weights and activations", ("fp32", "bf16"), ("fp32",)),
        "model": Key("preset (bert-base, gpt2, ...) or CONFIG.toml", None, ("bert-base",)),
        "op": Key("operator, or chain for all in order", OPS, ("chain",)),
        "seq": Key("tokens: an encoder's sequence; a decoder's step has half of them cached", None, (128,)),
        "batch": Key("sequences", None, (1,)),
    },
    build=build,
)
