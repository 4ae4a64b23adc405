"""Shapes of Transformers, and what a real implementation of one computes and moves, per operator.

Counting `ours`: storage dtypes with their scales, biases, fused attention (scores never leave the chip) unless asked
otherwise, the KV cache read per token and written once, an FMA is 2 FLOP. The published counting is in `survey`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from pykernels.errors import UsageError, unknown

Phase = Literal["encoder", "decoder"]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Shape of a Transformer: layers, hidden size, attention heads, feed-forward size; `kv_heads` below `heads` is
    grouped query attention; `vocab` and `positions` size the embeddings (0: leave them out)."""

    name: str
    kind: Phase
    layers: int
    hidden: int
    heads: int
    ffn: int
    kv_heads: int = 0
    vocab: int = 0
    positions: int = 0

    @property
    def head_size(self) -> int:
        """Elements per head."""
        return self.hidden // self.heads

    @property
    def kv_size(self) -> int:
        """Elements of K (and of V) per token and layer."""
        return self.head_size * (self.kv_heads or self.heads)

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Weight matrices of one layer as (outputs, inputs)."""
        d = self.hidden
        return {
            "query": (d, d), "key": (self.kv_size, d), "value": (self.kv_size, d), "out": (d, d),
            "up": (self.ffn, d), "down": (d, self.ffn),
        }  # fmt: skip

    def layer_parameters(self) -> int:
        """Weights, biases and the two LayerNorms of one layer."""
        return sum(rows * cols + rows for rows, cols in self.matrices().values()) + 4 * self.hidden

    def embedding_parameters(self) -> int:
        """Token and position tables (shared with the head)."""
        return (self.vocab + self.positions) * self.hidden

    def parameters(self) -> int:
        """All parameters, pooler and task heads left out."""
        return self.layers * self.layer_parameters() + self.embedding_parameters()


def _preset(name: str, kind: Phase, shape: tuple[int, int, int, int], vocab: int, positions: int) -> Config:
    layers, hidden, heads, ffn = shape
    return Config(
        name=name, kind=kind, layers=layers, hidden=hidden, heads=heads, ffn=ffn, vocab=vocab, positions=positions
    )


PRESETS = {
    config.name: config
    for config in (
        _preset("bert-base", "encoder", (12, 768, 12, 3072), 30522, 512),
        _preset("bert-base-4heads", "encoder", (12, 768, 4, 3072), 30522, 512),
        _preset("bert-large", "encoder", (24, 1024, 16, 4096), 30522, 512),
        _preset("gpt2", "decoder", (12, 768, 12, 3072), 50257, 1024),
        _preset("gpt2-xl", "decoder", (48, 1600, 25, 6400), 50257, 1024),
        _preset("gpt3", "decoder", (96, 12288, 96, 49152), 50257, 2048),
    )
}


def load(name: str) -> Config:
    """A preset, or the configuration of a TOML file. UsageError names the file, the field, the value and what is
    right."""
    if name in PRESETS:
        return PRESETS[name]
    if not name.endswith(".toml"):
        raise unknown("model", name, [*PRESETS, "CONFIG.toml"])
    try:
        table = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: not a TOML file ({error})") from error
    return from_table(table, where=name)


def from_table(table: dict[str, object], *, where: str) -> Config:
    """A checked configuration from the table of a file."""
    table = {"name": Path(where).stem, **table}
    known = {field.name: field for field in msgspec.structs.fields(Config)}
    for key in table:
        if key not in known:
            raise unknown("key", key, known, where=where)
    missing = [name for name, field in known.items() if field.required and name not in table]
    if missing:
        raise UsageError(f"{where}: missing {', '.join(missing)} (a model needs kind, layers, hidden, heads and ffn)")
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}") from error
    check(config, where=where)
    return config


def check(config: Config, *, where: str) -> None:
    """Raise UsageError for a shape that cannot exist."""
    for name in ("layers", "hidden", "heads", "ffn"):
        if getattr(config, name) < 1:
            raise UsageError(f"{where}: {name} is {getattr(config, name)}, it must be at least 1")
    for name in ("kv_heads", "vocab", "positions"):
        if getattr(config, name) < 0:
            raise UsageError(f"{where}: {name} is {getattr(config, name)}, it cannot be negative")
    if config.hidden % config.heads:
        raise UsageError(f"{where}: hidden {config.hidden} is not a multiple of heads {config.heads}")
    if config.kv_heads and config.heads % config.kv_heads:
        raise UsageError(f"{where}: heads {config.heads} is not a multiple of kv_heads {config.kv_heads}")


def check_run(seq: int, batch: int = 1) -> None:
    """Raise UsageError for a sequence length or batch that cannot be run."""
    for name, value in (("seq", seq), ("batch", batch)):
        if value < 1:
            raise UsageError(f"{name} is {value}, it must be at least 1")


# ------------------------------------------------------------------------------------------------------------ our rule


class Storage(msgspec.Struct, frozen=True):
    """Bytes per element of weights (scales aside: `scale_bytes` per row and matrix), activations and KV cache."""

    weight: float
    activation: float
    scale_bytes: float = 0.0


#: dtype of the weights -> storage; integer weights carry a scale and a bias of fp32 per row and meet bf16 activations
STORAGE = {
    "fp32": Storage(4, 4),
    "bf16": Storage(2, 2),
    "fp16": Storage(2, 2),
    "int8": Storage(1, 2, 8),
    "int4": Storage(0.5, 2, 8),
}


def storage(dtype: str) -> Storage:
    """Storage of a dtype; UsageError for an unknown one."""
    if dtype not in STORAGE:
        raise unknown("dtype", dtype, STORAGE)
    return STORAGE[dtype]


class Operation(msgspec.Struct, frozen=True):
    """An operator over all layers and, for a decoder, all tokens. Bytes by what they are: weights (reused only by the
    next pass over the model), activations, KV cache. `calls` launches; `exps` exponentials; `footprint`: bytes one call
    touches."""

    name: str
    flops: float
    weight_bytes: float = 0.0
    activation_bytes: float = 0.0
    kv_bytes: float = 0.0
    calls: float = 1.0
    exps: float = 0.0
    footprint: float = 0.0

    @property
    def bytes(self) -> float:
        """All bytes."""
        return self.weight_bytes + self.activation_bytes + self.kv_bytes

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.flops / self.bytes if self.bytes else 0.0


OPERATORS = ("qkv", "attention", "out", "norm", "up", "gelu", "down")


def ours(config: Config, seq: int, *, batch: int = 1, dtype: str = "fp32", fused: bool = True) -> list[Operation]:
    """Operators in order of execution, totals over all layers. An encoder runs once over `seq` tokens; a decoder makes
    `seq` tokens one by one from an empty prompt, attending to 1, 2, ... seq tokens (exact sum). Embedding and head are
    not counted, so the total compares with the survey's."""
    check_run(seq, batch)
    kept = storage(dtype)
    if config.kind == "encoder":
        return _pass(config, batch * seq, _attend(config, seq, batch, kept, fused), kept, passes=1)
    return _pass(config, batch, _attend_cached(config, seq, batch, kept, fused), kept, passes=seq)


def _pass(config: Config, tokens: int, attention: Operation, kept: Storage, passes: int) -> list[Operation]:
    """Everything around attention for `tokens` rows, `passes` times over the layers; attention stands for all of it."""
    d, f, kv = config.hidden, config.ffn, config.kv_size
    calls = config.layers * passes
    a = kept.activation

    def matmul(name: str, rows: int, cols: int) -> Operation:
        """(tokens x cols) times the transpose of (rows x cols), plus a bias."""
        weights = rows * cols * kept.weight + rows * (a + kept.scale_bytes)
        moved = tokens * (rows + cols) * a
        return _times(calls, Operation(name, 2.0 * tokens * rows * cols, weights, moved))

    def pointwise(name: str, flops: float, elements: float, weights: float = 0.0, exps: float = 0.0) -> Operation:
        return _times(calls, Operation(name, flops, weights, elements * a, exps=exps))

    return [
        matmul("qkv", d + 2 * kv, d),
        attention,
        matmul("out", d, d),
        # twice a layer: residual add, mean, variance, scale, shift: 9 FLOP per element; two rows read, one written
        pointwise("norm", 2 * 9.0 * tokens * d, 2 * 3.0 * tokens * d, weights=2 * 2 * d * a),
        matmul("up", f, d),
        # GELU in its tanh form: 8 FLOP and one exponential per element, read and written once
        pointwise("gelu", 8.0 * tokens * f, 2.0 * tokens * f, exps=float(tokens * f)),
        matmul("down", d, f),
    ]


def _attend(config: Config, seq: int, batch: int, kept: Storage, fused: bool) -> Operation:
    """Attention of whole sequences: scores and weighted sum are 2 FLOP per pair and element each, softmax 5 per pair.
    Unfused, the scores are written, read and written by the softmax and read again: four passes over them."""
    pairs = float(batch) * config.heads * seq * seq
    moved = float(batch) * seq * (2 * config.hidden + 2 * config.kv_size) * kept.activation
    if not fused:
        moved += 4 * pairs * kept.activation
    flops = pairs * (4 * config.head_size + 5)
    return _times(config.layers, Operation("attention", flops, 0.0, moved, exps=pairs))


def _attend_cached(config: Config, seq: int, batch: int, kept: Storage, fused: bool) -> Operation:
    """Attention of one new token at a time over a growing cache of K and V, summed over contexts 1 to seq."""
    contexts = seq * (seq + 1) / 2
    pairs = float(batch) * config.heads * contexts
    cache = float(batch) * 2 * config.kv_size * kept.activation * (contexts + seq)  # read all, then write the new one
    moved = float(batch) * seq * 2 * config.hidden * kept.activation
    if not fused:
        moved += 4 * pairs * kept.activation
    flops = pairs * (4 * config.head_size + 5)
    layers = config.layers
    return Operation(
        "attention", layers * flops, 0.0, layers * moved, layers * cache, float(layers * seq), layers * pairs,
        (moved + cache) / seq,
    )  # fmt: skip


def _times(calls: int, one: Operation) -> Operation:
    """One call's operation made `calls` of them; its footprint stays that of one call."""
    return Operation(
        one.name, calls * one.flops, calls * one.weight_bytes, calls * one.activation_bytes, calls * one.kv_bytes,
        float(calls), calls * one.exps, one.bytes,
    )  # fmt: skip


def total(operations: list[Operation]) -> Operation:
    """Sum of operators; its footprint is the largest."""
    return Operation(
        name="total",
        flops=sum(op.flops for op in operations),
        weight_bytes=sum(op.weight_bytes for op in operations),
        activation_bytes=sum(op.activation_bytes for op in operations),
        kv_bytes=sum(op.kv_bytes for op in operations),
        calls=sum(op.calls for op in operations),
        exps=sum(op.exps for op in operations),
        footprint=max(op.footprint for op in operations),
    )


def weight_bytes(config: Config, dtype: str) -> float:
    """Bytes of all layers' weights as stored: what one pass over the model streams."""
    kept = storage(dtype)
    matrices = config.matrices().values()
    layer = sum(r * c * kept.weight + r * (kept.activation + kept.scale_bytes) for r, c in matrices)
    return config.layers * (layer + 4 * config.hidden * kept.activation)


def kv_cache_bytes(config: Config, seq: int, batch: int, dtype: str) -> float:
    """Bytes of K and V of `seq` tokens in all layers."""
    return 2.0 * config.layers * config.kv_size * seq * batch * storage(dtype).activation
