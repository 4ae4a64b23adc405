"""Latency of a Transformer from measured roofs (time view), and beside it the measured operator chain.

Prediction of an operator, after the time-based roofline (Wang et al. arXiv:2009.04598):

    T = max(FLOP / peak + exponentials / rate,  sum of bytes / bandwidth of the level they lie in) + calls x launch
    floor

Weights and KV cache are used once per pass over the model, so they lie where ALL weights (and the cache) fit; an
operator's activations were written just before, so they lie where one call's own footprint fits. An operator that is
timed alone, layer after layer, comes back to its own weights sooner: its own prediction has them where they alone fit.

**Record shape of the measured chain.** Kernel `layer`; `params` are
- `model`: name of the configuration (`bert-base`, `gpt2`);
- `op`: an operator of `transformer.OPERATORS`, or `chain` for all of them in order;
- `seq`, `batch`: as numbers in text; `batch` may be left out (1).
One timed call runs that operator in ALL layers, each layer with its own weights: for an encoder once over `seq` tokens,
for a decoder one token step with seq/2 tokens cached. A decoder's latency for `seq` tokens from an empty prompt is then
seq calls, exactly so where attention is affine in the context. `dtype`, `backend`, `threads`, `device` are the record's
own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from pykernels.analysis.wall.measured import seconds_by_case
from pykernels.analysis.wall.roofs import Estimate, Place, longest
from pykernels.analysis.wall.survey import published_latency
from pykernels.analysis.wall.transformer import (
    OPERATORS,
    Config,
    Operation,
    kv_cache_bytes,
    ours,
    weight_bytes,
)
from pykernels.model import Record

KERNEL = "layer"
CHAIN = "chain"
#: dtype of the arithmetic for weights stored as ...
ARITHMETIC = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16", "int8": "int8", "int4": "int8"}
TOTAL_GOAL, OPERATOR_GOAL = 0.20, 0.30
MEASURED_SEQS = (128, 256, 512, 1024)
SEQS = (*MEASURED_SEQS, 2048, 4096)


class OperatorTime(msgspec.Struct, frozen=True):
    """Predicted seconds of an operator over all layers (and tokens), what binds it, and what makes it uncertain."""

    name: str
    seconds: Estimate
    compute_s: float
    memory_s: float
    launch_s: float
    bound: str
    notes: tuple[str, ...] = ()


class Prediction(msgspec.Struct, frozen=True):
    """Predicted latency of a model at one sequence length, batch, dtype and placement. `operators` in the chain, whose
    sum is the total; `alone` as they are when nothing but one of them runs."""

    model: str
    kind: str
    seq: int
    batch: int
    dtype: str
    device: str
    threads: int
    operators: tuple[OperatorTime, ...]
    total: Estimate
    notes: tuple[str, ...] = ()
    alone: tuple[OperatorTime, ...] = ()


class Unpredicted(msgspec.Struct, frozen=True):
    """Why there is no prediction: the roofs that were not measured."""

    model: str
    seq: int
    dtype: str
    device: str
    threads: int
    missing: tuple[str, ...]


def predict(
    config: Config, seq: int, place: Place, *, batch: int = 1, dtype: str = "fp32", fused: bool = True
) -> Prediction | Unpredicted:
    """Predict every operator and the total from the roofs of `place`."""
    needed = {
        f"{ARITHMETIC[dtype]} compute": place.peak(ARITHMETIC[dtype]),
        "DRAM bandwidth": place.bandwidth("DRAM", dtype, reads=True),
    }
    missing = tuple(name for name, roof in needed.items() if roof is None)
    if missing:
        return Unpredicted(config.name, seq, dtype, place.device, place.threads, missing)
    cached = kv_cache_bytes(config, seq, batch, dtype) / 2 if config.kind == "decoder" else 0.0
    resident = weight_bytes(config, dtype) + cached
    operations = ours(config, seq, batch=batch, dtype=dtype, fused=fused)
    times = tuple(_operator(op, place, dtype, resident) for op in operations)
    passes = seq if config.kind == "decoder" else 1
    alone = tuple(
        _operator(op, place, dtype, op.weight_bytes / passes + (cached if op.kv_bytes else 0.0)) for op in operations
    )
    total = sum((time.seconds for time in times), Estimate(0, 0, 0))
    return Prediction(
        config.name, config.kind, seq, batch, dtype, place.device, place.threads, times, total,
        _notes(place, resident), alone,
    )  # fmt: skip


def _notes(place: Place, resident: float) -> tuple[str, ...]:
    notes = []
    if place.launch() is None:
        notes.append("the launch floor was not measured and is taken as 0")
    if place.exponentials() is None:
        notes.append(
            "the rate of exponentials was not measured: softmax and GELU are predicted from FLOP and bytes alone"
        )
    if straddled := place.straddles(resident):
        notes.append(f"weights and cache are near the size of {straddled}: part of them may stay in it")
    memory = place.machine.memory_limit or place.machine.memory_bytes
    if memory and resident > memory and not place.device.startswith("gpu"):
        notes.append("the model is larger than this machine's memory: predicted only, it cannot be measured here")
    return tuple(notes)


def _operator(op: Operation, place: Place, dtype: str, resident: float) -> OperatorTime:
    peak = place.peak(ARITHMETIC[dtype])
    assert peak is not None
    compute, notes = peak.inverse_of(op.flops), []
    rate = place.exponentials(dtype)
    if op.exps and rate:
        compute = compute + rate.inverse_of(op.exps)
    memory = Estimate(0, 0, 0)
    shares: dict[str, float] = {}
    for nbytes, working_set, reads in (
        (op.weight_bytes + op.kv_bytes, resident, True),
        (op.activation_bytes, op.footprint, False),
    ):
        if nbytes:
            level = place.level_of(working_set)
            roof = place.bandwidth(level, dtype, reads=reads)
            assert roof is not None  # DRAM is there, and every level falls back outward
            time = roof.inverse_of(nbytes)
            memory = memory + time
            shares[level] = shares.get(level, 0.0) + time.value
            if not roof.label.startswith(level):
                notes.append(f"no {level} roof was measured, {roof.label} stands for it")
    if straddled := place.straddles(op.footprint):
        notes.append(f"one call's data is near the size of {straddled}")
    floor = place.launch()
    launch = floor.scaled(op.calls) if floor else Estimate(0, 0, 0)
    parts = {"compute": compute.value, max(shares, key=lambda name: shares[name]): memory.value, "launch": launch.value}
    bound = max(parts, key=lambda name: parts[name])
    seconds = longest(compute, memory) + launch
    return OperatorTime(op.name, seconds, compute.value, memory.value, launch.value, bound, tuple(notes))


# ---------------------------------------------------------------------------------------------------- beside measured


class Measured(msgspec.Struct, frozen=True):
    """Measured seconds of a model: by operator, and of the chain (or the sum of operators where no chain was run)."""

    model: str
    seq: int
    batch: int
    dtype: str
    backend: str
    device: str
    threads: int
    operators: dict[str, Estimate]
    total: Estimate | None
    total_is: str


_Setting = tuple[str, int, int, str, str, str, int]  # model, seq, batch, dtype, backend, device, threads


def measured_models(records: Iterable[Record], configs: dict[str, Config]) -> list[Measured]:
    """The operator chains of a run, one per (model, seq, batch, dtype, backend, placement); of several ISA levels the
    fastest. Decoder steps become generations: times `seq`."""
    groups: dict[_Setting, dict[str, dict[str, Estimate]]] = {}
    for record, seconds in seconds_by_case(r for r in records if r.kernel == KERNEL):
        params = record.params
        config = configs.get(params.get("model", ""))
        if config is None or "seq" not in params:
            continue
        seq = int(params["seq"])
        key = (
            config.name, seq, int(params.get("batch", "1")), record.dtype, record.backend, record.device, record.threads
        )  # fmt: skip
        times = seconds.scaled(seq) if config.kind == "decoder" else seconds
        groups.setdefault(key, {}).setdefault(record.isa, {})[params.get("op", CHAIN)] = times
    return [_fastest([_measured(key, found) for found in by_isa.values()]) for key, by_isa in sorted(groups.items())]


def _fastest(found: Sequence[Measured]) -> Measured:
    return min(found, key=lambda m: m.total.value if m.total else math.inf)


def _measured(key: _Setting, found: dict[str, Estimate]) -> Measured:
    operators = {name: found[name] for name in OPERATORS if name in found}
    if CHAIN in found:
        return Measured(*key, operators, found[CHAIN], "chain")
    if len(operators) == len(OPERATORS):
        return Measured(*key, operators, sum(operators.values(), Estimate(0, 0, 0)), "sum of operators")
    return Measured(*key, operators, None, "not measured")


class Comparison(msgspec.Struct, frozen=True):
    """A predicted beside a measured operator (or `total`): predicted over measured minus one, and, where that is
    outside the goal, the cause read off the numbers."""

    model: str
    seq: int
    dtype: str
    backend: str
    threads: int
    operator: str
    predicted_s: float
    measured_s: float
    relative: float
    within: bool
    cause: str = ""


def compare(prediction: Prediction, measured: Measured, config: Config, *, fused: bool = True) -> list[Comparison]:
    """Every operator that was measured, as it is alone, then the total."""
    operations = {op.name: op for op in ours(config, prediction.seq, batch=prediction.batch, dtype=prediction.dtype,
                                              fused=fused)}  # fmt: skip
    found = []
    for time in prediction.alone:
        if time.name in measured.operators:
            seconds = measured.operators[time.name].value
            relative = time.seconds.value / seconds - 1
            within = abs(relative) <= OPERATOR_GOAL
            cause = "" if within else _cause(time, operations[time.name], seconds)
            found.append(_row(measured, time.name, time.seconds.value, seconds, within, cause))
    if measured.total is not None:
        seconds = measured.total.value
        within = abs(prediction.total.value / seconds - 1) <= TOTAL_GOAL
        found.append(_row(measured, "total", prediction.total.value, seconds, within, ""))
    return found


def _row(measured: Measured, operator: str, predicted: float, seconds: float, within: bool, cause: str) -> Comparison:
    return Comparison(
        measured.model, measured.seq, measured.dtype, measured.backend, measured.threads, operator, predicted, seconds,
        predicted / seconds - 1, within, cause,
    )  # fmt: skip


def _cause(time: OperatorTime, op: Operation, seconds: float) -> str:
    """What the numbers say about a miss; it names the roof that was not reached, or that was beaten."""
    hints = "; ".join(time.notes)
    if seconds < time.seconds.value:
        return f"faster than its {time.bound} roof: it was served from nearer" + (f" ({hints})" if hints else "")
    if time.bound == "compute":
        text = f"reached {time.compute_s / seconds:.0%} of the compute roof ({op.flops / seconds / 1e9:.3g} GFLOP/s)"
    elif time.bound == "launch":
        text = f"{seconds / op.calls * 1e6:.3g} us a call against a floor of {time.launch_s / op.calls * 1e6:.3g} us"
    else:
        text = f"moved {op.bytes / seconds / 1e9:.3g} GB/s, {time.memory_s / seconds:.0%} of its {time.bound} roof"
    return text + (f" ({hints})" if hints else "")


class Ratio(msgspec.Struct, frozen=True):
    """GPT-2 over BERT-Base latency at one sequence length; None where not known."""

    seq: int
    predicted: float | None
    measured: float | None
    published: float | None


def ratios(
    pair: tuple[Config, Config], place: Place | None, chains: Sequence[Measured], *, dtype: str = "fp32",
    backend: str = "native", seqs: Sequence[int] = SEQS,
) -> list[Ratio]:  # fmt: skip
    """Decoder over encoder by sequence length: predicted on `place`, measured there, and published (another
    machine)."""
    published = published_latency()
    found = []
    for seq in seqs:
        totals = [predict(config, seq, place, dtype=dtype) for config in pair] if place else []
        predicted = [t.total.value for t in totals if isinstance(t, Prediction)]
        timed = [_find(chains, config.name, seq, dtype, backend, place) for config in pair] if place else []
        whole = [m.total.value for m in timed if m is not None and m.total is not None]
        found.append(
            Ratio(
                seq,
                predicted[0] / predicted[1] if len(predicted) == 2 else None,
                whole[0] / whole[1] if len(whole) == 2 else None,
                published.get(seq),
            )
        )
    return found


def _find(chains: Sequence[Measured], model: str, seq: int, dtype: str, backend: str, place: Place) -> Measured | None:
    wanted = (model, seq, 1, dtype, backend, place.device, place.threads)
    return next(
        (m for m in chains if (m.model, m.seq, m.batch, m.dtype, m.backend, m.device, m.threads) == wanted), None
    )


def shape_holds(ratio: Sequence[Ratio], *, of: str = "measured") -> bool | None:
    """The published shape: over 10x everywhere and falling from the first to the last length; None below two values."""
    values = [value for each in ratio if (value := getattr(each, of)) is not None]
    return None if len(values) < 2 else min(values) > 10 and values[-1] < values[0]


def goal_cells(comparisons: Iterable[Comparison]) -> tuple[int, int]:
    """How many totals are within 20%, of how many."""
    totals = [c.within for c in comparisons if c.operator == "total"]
    return sum(totals), len(totals)
