"""Bytes of training: parameters, gradients, optimizer state, activations under rematerialization policies, and what
ZeRO leaves on each device with the traffic it costs.

Sources: ZeRO, Rajbhandari et al. arXiv:1910.02054; activations, Korthikanti et al. arXiv:2205.05198; sqrt(n)
checkpointing, Chen et al. arXiv:1604.06174; optimizer state from the methods' definitions and the layer shapes.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from pykernels.analysis.wall import data
from pykernels.analysis.wall.transformer import PRESETS, Config, check_run, ours, total
from pykernels.errors import UsageError, unknown

Precision = Literal["mixed", "fp32"]
#: bytes per parameter of (parameters, gradients, fp32 master copy)
PRECISIONS: dict[str, tuple[int, int, int]] = {"mixed": (2, 2, 4), "fp32": (4, 4, 0)}
POLICIES = ("none", "selective", "full", "sqrt")

#: Dimensions above this keep a diagonal statistic in Shampoo and K-FAC: a vocabulary's square does not fit anywhere.
LARGEST_STATISTIC = 16384


class Optimizer(msgspec.Struct, frozen=True):
    """State beyond the parameters: bytes per parameter, plus whether it keeps a matrix statistic per side of a layer
    (`sides`: how many square matrices of each side, inverses included)."""

    name: str
    per_parameter: float
    sides: int = 0
    note: str = ""


OPTIMIZERS = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer("sgd", 0),
        Optimizer("sgd-m", 4, note="fp32 momentum"),
        Optimizer("adam", 8, note="fp32 first and second moment"),
        Optimizer("adam-8bit", 2, note="both moments in 8 bits, block scales (under 1%) left out"),
        Optimizer(
            "adahessian",
            8,
            note="as Adam, plus the graph kept through a second backward pass: activations stay twice as long",
        ),
        Optimizer("shampoo", 4, 2, "momentum, a statistic per side and its inverse root"),
        Optimizer("k-fac", 4, 2, "momentum, a factor per side and its inverse"),
    )
}


def optimizer_of(name: str) -> Optimizer:
    """The optimizer of that name; UsageError for an unknown one."""
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]


def statistic_elements(rows: int, cols: int) -> int:
    """Elements of one statistic per side of a rows x cols matrix: rows^2 + cols^2, a diagonal beyond
    LARGEST_STATISTIC."""
    return sum(side * side if side <= LARGEST_STATISTIC else side for side in (rows, cols))


def optimizer_bytes(config: Config, optimizer: Optimizer) -> float:
    """Bytes of optimizer state (without the fp32 master copy) of the whole model, fp32 statistics."""
    state = config.parameters() * optimizer.per_parameter
    if not optimizer.sides:
        return state
    layer = sum(statistic_elements(rows, cols) for rows, cols in config.matrices().values())
    tables = sum(statistic_elements(size, config.hidden) for size in (config.vocab, config.positions) if size)
    return state + 4.0 * optimizer.sides * (config.layers * layer + tables)


def statistics_per_parameter(config: Config) -> float:
    """Elements of one statistic per side over the weights of a layer: 3.5 where ffn is 4 hidden."""
    matrices = config.matrices().values()
    return sum(statistic_elements(r, c) for r, c in matrices) / sum(r * c for r, c in matrices)


# --------------------------------------------------------------------------------------------------------- activations


class Activations(msgspec.Struct, frozen=True):
    """Bytes kept from forward to backward (`stored`), bytes of the layers being recomputed at a time (`working`), and
    the FLOP a policy adds, as a share of a step's (forward and backward are 3 forwards)."""

    policy: str
    fused: bool
    stored: float
    working: float
    extra_flops_share: float

    @property
    def peak(self) -> float:
        """Stored and working together."""
        return self.stored + self.working


def layer_activations(config: Config, seq: int, batch: int, *, scores: bool, element: int = 2) -> float:
    """Bytes of one layer's activations. At 16 bits and ffn = 4 hidden: s b h (34 + 5 a s / h), 11 + 5 a s / h of it
    attention, 19 MLP, 4 LayerNorm; dropout masks are 1 byte. `scores` off (fused or recomputed attention) drops the
    5 a s / h term; the log-sum-exp a fused attention keeps instead (4 bytes per head and token) is left out."""
    check_run(seq, batch)
    e, kv = element, config.kv_size / config.hidden
    attention = e * (3 + 2 * kv) + 1  # input, q, k, v, input of the output projection; one mask
    mlp = e * (1 + 2 * config.ffn / config.hidden) + 1
    square = (2 * e + 1) * config.heads * seq / config.hidden if scores else 0.0
    return seq * batch * config.hidden * (attention + mlp + 2 * e + square)


def activations(
    config: Config, seq: int, batch: int, *, policy: str = "none", fused: bool = False, element: int = 2
) -> Activations:
    """Activations of all layers under a rematerialization policy.

    `none` keeps all; `selective` recomputes the attention core (34 s b h per layer); `full` keeps each layer's input
    (2 s b h) and recomputes one layer at a time; `sqrt` keeps an input per segment of sqrt(n) layers and recomputes a
    segment at a time (n / k + k, Chen et al.). Both of the last cost one more forward: 1/3 of a step.
    """
    if policy not in POLICIES:
        raise unknown("rematerialization", policy, POLICIES)
    whole = layer_activations(config, seq, batch, scores=not fused, element=element)
    lean = layer_activations(config, seq, batch, scores=False, element=element)
    entry = float(element) * seq * batch * config.hidden
    n = config.layers
    if policy == "none":
        return Activations(policy, fused, n * whole, 0.0, 0.0)
    if policy == "selective":
        share = 0.0 if fused else attention_share(config, seq, batch) / 3
        return Activations(policy, fused, n * lean, whole - lean, share)
    segment = 1 if policy == "full" else max(1, round(math.sqrt(n)))
    return Activations(policy, fused, math.ceil(n / segment) * entry, segment * whole, 1 / 3)


def best_segment(config: Config, seq: int, batch: int, *, fused: bool = False, element: int = 2) -> int:
    """Layers per segment with the lowest peak: sqrt(n) is best only where a checkpoint is as large as a layer."""
    whole = layer_activations(config, seq, batch, scores=not fused, element=element)
    entry = float(element) * seq * batch * config.hidden
    return min(range(1, config.layers + 1), key=lambda k: math.ceil(config.layers / k) * entry + k * whole)


def attention_share(config: Config, seq: int, batch: int) -> float:
    """Share of a forward's FLOP that the attention core has."""
    encoder = msgspec.structs.replace(config, kind="encoder")  # training runs over whole sequences
    operations = ours(encoder, seq, batch=batch, dtype="bf16", fused=False)
    return next(op.flops for op in operations if op.name == "attention") / total(operations).flops


# ----------------------------------------------------------------------------------------------------------- the total


class Training(msgspec.Struct, frozen=True):
    """Bytes per device of one training configuration, and the elements a device sends per step."""

    optimizer: str
    precision: str
    stage: int
    devices: int
    parameters: float
    gradients: float
    optimizer_state: float
    activations: float
    traffic_elements: float
    traffic_bytes: float

    @property
    def state(self) -> float:
        """Parameters, gradients and optimizer state."""
        return self.parameters + self.gradients + self.optimizer_state

    @property
    def total(self) -> float:
        """State and activations."""
        return self.state + self.activations


def zero(
    parameters: float,
    state_bytes: float,
    *,
    stage: int,
    devices: int,
    precision: str = "mixed",
    optimizer: str = "adam",
    activation_bytes: float = 0.0,
) -> Training:
    """What ZeRO leaves on each of N devices. `state_bytes`: optimizer state without the master copy.

    With mixed Adam (K = 12): 16 Psi; stage 1 4 Psi + 12 Psi/N; stage 2 2 Psi + 14 Psi/N; stage 3 16 Psi/N. A device
    sends 2 Psi elements per step (all-reduce), 2, 2, 3 Psi, each times (N - 1)/N. UsageError for another stage,
    precision or number of devices.
    """
    if stage not in (0, 1, 2, 3):
        raise UsageError(f"ZeRO stage is {stage}, it must be 0, 1, 2 or 3")
    if devices < 1:
        raise UsageError(f"devices is {devices}, it must be at least 1")
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    weight, gradient, master = (parameters * each for each in PRECISIONS[precision])
    elements = (3 if stage == 3 else 2) * parameters * (devices - 1) / devices
    return Training(
        optimizer=optimizer,
        precision=precision,
        stage=stage,
        devices=devices,
        parameters=weight / devices if stage >= 3 else weight,
        gradients=gradient / devices if stage >= 2 else gradient,
        optimizer_state=(master + state_bytes) / (devices if stage >= 1 else 1),
        activations=activation_bytes,
        traffic_elements=elements,
        traffic_bytes=elements * PRECISIONS[precision][0],
    )


def training(
    config: Config, seq: int, batch: int, *, optimizer: str = "adam", precision: str = "mixed", stage: int = 0,
    devices: int = 1, policy: str = "none", fused: bool = False,
) -> Training:  # fmt: skip
    """Bytes per device; `batch` is each device's own."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    method = optimizer_of(optimizer)
    element = PRECISIONS[precision][0]
    kept = activations(config, seq, batch, policy=policy, fused=fused, element=element)
    return zero(
        config.parameters(), optimizer_bytes(config, method), stage=stage, devices=devices, precision=precision,
        optimizer=optimizer, activation_bytes=kept.peak,
    )  # fmt: skip


class PublishedTraining(msgspec.Struct, frozen=True):
    """A published training-memory row (GB) beside our arithmetic; None where the row is not a Transformer we
    compute."""

    model: str
    what: str
    published_gb: float
    computed_gb: float | None
    note: str = ""

    @property
    def relative(self) -> float | None:
        """Computed over published, minus one."""
        return None if self.computed_gb is None else self.computed_gb / self.published_gb - 1


#: row -> (our model, sequence, parameters in 1e6 as the same repository states them)
_ROWS = {"BERT Large": ("bert-large", 512), "GPT-2 1.5B": ("gpt2-xl", 1024)}


def published_rows() -> list[PublishedTraining]:
    """The published training memory: parameters (4 B each) and Adam state (8 B each) from the repository's own
    parameter counts, activations from the 16-bit formula, totals as the sum of parts."""
    counts = {row["name"]: data.number(row["params_millions"]) for row in data.rows("models")}
    found = []
    for row in data.rows("training_memory"):
        model, parts = row["model"], [float(row[f"{part}_gb"]) for part in ("params", "optimizer", "activation")]
        if model in _ROWS:
            name, seq = _ROWS[model]
            million = counts["GPT-2" if model.startswith("GPT-2") else model] or 0.0
            kept = activations(PRESETS[name], seq, int(row["batch"])).stored / 1e9
            note = "its 2014 tokens must be 1024, the model's limit" if model.startswith("GPT-2") else ""
            found += [
                PublishedTraining(model, "parameters", parts[0], million * 4e6 / 1e9),
                PublishedTraining(model, "optimizer", parts[1], million * 8e6 / 1e9),
                PublishedTraining(model, "activations", parts[2], kept, note),
            ]
        printed = float(row["total_gb_table"])
        misprint = "misprint: the parts sum to what the figure draws" if abs(sum(parts) - printed) > 0.15 else ""
        found.append(PublishedTraining(model, "total (sum of parts)", printed, round(sum(parts), 2), misprint))
    return found


def zero_example() -> list[Training]:
    """The published example: 7.5e9 parameters, Adam, 64 devices: 120, 31.4, 16.6, 1.88 GB."""
    return [zero(7.5e9, 7.5e9 * 8, stage=stage, devices=64) for stage in range(4)]
