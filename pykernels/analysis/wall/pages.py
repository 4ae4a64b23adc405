"""The answers behind `pykernels wall ...`: plain structs that the report prints and `--json` writes.

Every builder takes an optional `Context` (a run with its roofs); without one it holds the computed part only."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterable, Mapping

import msgspec

from pykernels.analysis.wall import claims, measured, memory, predict, transformer, trends
from pykernels.analysis.wall import survey as published
from pykernels.analysis.wall.measured import Timed
from pykernels.analysis.wall.roofs import Estimate, Place, Roof, based, places
from pykernels.analysis.wall.transformer import PRESETS, Config
from pykernels.model import Measured
from pykernels.store import Run

#: what measures the rest of every page
MEASURE = "pykernels run wall -o RUN.jsonl"


class Context(msgspec.Struct):
    """A run file as the memory wall sees it: its roofs by placement, its cases with their times, its date."""

    run: Run
    places: list[Place]
    cases: list[Timed]
    year: float

    def clock_ghz(self) -> float | None:
        """Median clock of the samples that recorded one."""
        seen = [c for r in self.run.records if isinstance(r.outcome, Measured) for c in r.outcome.clock_ghz if c > 0]
        return statistics.median(seen) if seen else None


def context(run: Run, roofs: Iterable[Roof]) -> Context:
    """Gather a run and the roofs that `analysis.roofline` found in it."""
    cases = measured.timed_cases(run.records)
    return Context(run, places(roofs, run.header.machine), cases, _year(run.header.started))


def _year(started: str) -> float:
    try:
        when = datetime.datetime.fromisoformat(started)
    except ValueError:
        return 0.0
    return round(when.year + (when.timetuple().tm_yday - 1) / 365.25, 3)


# ------------------------------------------------------------------------------------------------------------- trends


class Trends(msgspec.Struct):
    """Growth fits, what they hang on, precision families apart, ridges from 1998 on, the measured device on them."""

    fits: list[trends.Growth]
    sensitivity: list[trends.Growth]
    families: list[trends.Growth]
    fitted_ridges: list[trends.Ridge]
    published_ridges: list[trends.Ridge]
    placed: list[trends.Placed] = []
    measured_ridges: list[trends.Ridge] = []
    measure_with: str = ""


def trends_page(found: Context | None = None) -> Trends:
    """Everything about growth."""
    page = Trends(
        trends.published_fits(),
        trends.sensitivity(),
        trends.family_fits(),
        trends.fitted_ridges(),
        trends.datasheet_ridges(),
    )
    if found is None:
        page.measure_with = "pykernels run -o RUN.jsonl"
        return page
    lines = {fit.series: fit for fit in page.fits}
    for place in found.places:
        name = f"{place.device}*{place.threads}"
        year = found.year or max(fit.last for fit in page.fits)
        for dtype in ("fp64", "fp32", "bf16", "fp16"):
            if peak := place.peak(dtype):
                page.placed.append(_placed(lines["hw_flops"], name, f"{dtype} peak", year, peak, "GFLOP/s"))
            if ridge := place.ridge(dtype):
                page.measured_ridges.append(
                    trends.Ridge(name, year, dtype, ridge.value, "measured", ridge.low, ridge.high)
                )
        if memory_rate := place.bandwidth("DRAM", "fp64", reads=True):
            page.placed.append(
                _placed(lines["dram_bandwidth"], name, f"{memory_rate.label} bandwidth", year, memory_rate, "GB/s")
            )
    return page


def _placed(line: trends.Growth, name: str, what: str, year: float, value: Estimate, unit: str) -> trends.Placed:
    return trends.place(line, name, what, year, (value.value / 1e9, value.low / 1e9, value.high / 1e9), unit)


# --------------------------------------------------------------------------------------------------------------- model


class Latency(msgspec.Struct):
    """Predicted and measured latency at one sequence length and placement; `measured` None means predicted only."""

    seq: int
    device: str
    threads: int
    predicted: Estimate | None
    measured: Estimate | None
    backend: str = ""
    missing: tuple[str, ...] = ()


class Model(msgspec.Struct):
    """A Transformer counted under both rules, and, with a run, predicted and measured."""

    config: Config
    seq: int
    batch: int
    dtype: str
    survey: dict[str, published.Count]
    ours: list[transformer.Operation]
    unfused_bytes: float
    weight_bytes: float
    kv_cache_bytes: float
    misprints: list[published.Printed]
    predictions: list[predict.Prediction | predict.Unpredicted] = []
    comparisons: list[predict.Comparison] = []
    latencies: list[Latency] = []
    ratios: list[predict.Ratio] = []
    ratio_place: str = ""
    goal: tuple[int, int] = (0, 0)
    measure_with: str = ""


def model_page(
    config: Config, *, seq: int = 128, batch: int = 1, dtype: str = "fp32", found: Context | None = None
) -> Model:
    """Count, and where there is a run predict and compare on every placement that has roofs."""
    operations = transformer.ours(config, seq, batch=batch, dtype=dtype)
    loose = transformer.ours(config, seq, batch=batch, dtype=dtype, fused=False)
    page = Model(
        config,
        seq,
        batch,
        dtype,
        published.survey(config, seq),
        [*operations, transformer.total(operations)],
        transformer.total(loose).bytes,
        transformer.weight_bytes(config, dtype),
        transformer.kv_cache_bytes(config, seq, batch, dtype),
        [p for p in published.printed_values() if not p.agrees and _is(p.model, config)],
    )
    page.ratios = predict.ratios((PRESETS["gpt2"], PRESETS["bert-base"]), None, [])
    if found is None:
        page.measure_with = MEASURE
        return page
    chains = predict.measured_models(found.run.records, {**PRESETS, config.name: config})
    for place in found.places:
        page.predictions.append(predict.predict(config, seq, place, batch=batch, dtype=dtype))
        _compare(page, place, chains)
    page.goal = predict.goal_cells(page.comparisons)
    if shown := reference_place(found.places):
        page.ratios = predict.ratios((PRESETS["gpt2"], PRESETS["bert-base"]), shown, chains, dtype=dtype)
        page.ratio_place = f"{shown.device}*{shown.threads}"
    if not any(latency.measured for latency in page.latencies):
        page.measure_with = MEASURE
    return page


def _is(printed: str, config: Config) -> bool:
    return published.PRINTED_NAMES[printed] == config.name


def reference_place(found: Iterable[Place]) -> Place | None:
    """The placement a single figure is drawn for: of those whose roofs allow a prediction the CPU with one thread, else
    the first."""
    order = sorted(found, key=lambda p: (p.ridge("fp32") is None, p.device != "cpu", p.threads))
    return order[0] if order else None


def _compare(page: Model, place: Place, chains: list[predict.Measured]) -> None:
    """Latencies by sequence length (prediction beyond what was measured), and per-operator comparisons."""
    mine = [
        m for m in chains
        if (m.model, m.batch, m.dtype, m.device, m.threads)
        == (page.config.name, page.batch, page.dtype, place.device, place.threads)
    ]  # fmt: skip
    for seq in sorted({*predict.SEQS, page.seq, *(m.seq for m in mine)}):
        guess = predict.predict(page.config, seq, place, batch=page.batch, dtype=page.dtype)
        total = guess.total if isinstance(guess, predict.Prediction) else None
        missing = guess.missing if isinstance(guess, predict.Unpredicted) else ()
        timed = [m for m in mine if m.seq == seq]
        for chain in timed:
            page.latencies.append(Latency(seq, place.device, place.threads, total, chain.total, chain.backend, missing))
            if isinstance(guess, predict.Prediction):
                page.comparisons += predict.compare(guess, chain, page.config)
        if not timed:
            page.latencies.append(Latency(seq, place.device, place.threads, total, None, missing=missing))


# -------------------------------------------------------------------------------------------------------------- memory


class Recompute(msgspec.Struct):
    """Recompute a layer's activations or store them and read them back, at measured roofs; `what` is the layer or its
    attention core."""

    device: str
    threads: int
    what: str
    bytes: float
    recompute: Estimate
    read_back: Estimate
    advice: str


class LinkTime(msgspec.Struct):
    """Seconds a device's traffic of one ZeRO stage takes on the measured link."""

    stage: int
    link: str
    seconds: Estimate


class Memory(msgspec.Struct):
    """Training bytes of a model: by ZeRO stage, optimizer and rematerialization policy; the published rows beside."""

    config: Config
    seq: int
    batch: int
    optimizer: str
    precision: str
    devices: int
    policy: str
    fused: bool
    parameters: int
    stages: list[memory.Training]
    optimizers: dict[str, float]
    activations: list[memory.Activations]
    best_segment: int
    zero_example: list[memory.Training]
    published: list[memory.PublishedTraining]
    recompute: list[Recompute] = []
    links: list[LinkTime] = []
    fits: list[str] = []
    unpredicted: list[str] = []
    measure_with: str = ""


def memory_page(
    config: Config,
    *,
    seq: int = 512,
    batch: int = 1,
    optimizer: str = "adam",
    precision_name: str = "mixed",
    devices: int = 1,
    policy: str = "none",
    fused: bool = False,
    found: Context | None = None,
) -> Memory:
    """Bytes per device for every ZeRO stage under the given choices, and each choice's alternatives."""
    stages = [
        memory.training(
            config, seq, batch, optimizer=optimizer, precision=precision_name, stage=stage, devices=devices,
            policy=policy, fused=fused,
        )
        for stage in range(4)
    ]  # fmt: skip
    element = memory.PRECISIONS[precision_name][0]
    page = Memory(
        config, seq, batch, optimizer, precision_name, devices, policy, fused, config.parameters(), stages,
        {name: memory.optimizer_bytes(config, each) for name, each in memory.OPTIMIZERS.items()},
        [
            memory.activations(config, seq, batch, policy=name, fused=with_fused, element=element)
            for name in memory.POLICIES
            for with_fused in (False, True)
        ],
        memory.best_segment(config, seq, batch, fused=fused, element=element),
        memory.zero_example(),
        memory.published_rows(),
    )  # fmt: skip
    if found is None:
        page.measure_with = "pykernels run -o RUN.jsonl"
        return page
    dtype = "bf16" if precision_name == "mixed" else "fp32"
    for place in found.places:
        advice = _recompute(config, seq, batch, dtype, place)
        page.recompute += advice
        if not advice:
            where = f"{place.device}*{place.threads}"
            page.unpredicted.append(f"recompute or read back on {where}: {dtype} peak or DRAM bandwidth not measured")
        page.links += _links(stages, place)
    page.fits = _fits(stages, found)
    return page


def _recompute(config: Config, seq: int, batch: int, dtype: str, place: Place) -> list[Recompute]:
    encoder = msgspec.structs.replace(config, kind="encoder", layers=1)
    whole = predict.predict(encoder, seq, place, batch=batch, dtype=dtype)
    rate = place.bandwidth("DRAM", dtype, reads=False)
    if isinstance(whole, predict.Unpredicted) or rate is None:
        return []
    element = 4 if dtype == "fp32" else 2
    layer, lean = (
        memory.layer_activations(config, seq, batch, scores=scores, element=element) for scores in (True, False)
    )
    core = next(op.seconds for op in whole.operators if op.name == "attention")
    return [
        _advice(place, "layer", layer, whole.total, rate),
        _advice(place, "attention core", layer - lean, core, rate),
    ]


def _advice(place: Place, what: str, nbytes: float, recompute: Estimate, rate: Estimate) -> Recompute:
    back = rate.inverse_of(2 * nbytes)  # written in the forward, read in the backward
    if recompute.low > back.high:
        advice = f"keep it: reading back is {recompute.value / back.value:.1f}x faster; recompute only to fit"
    elif recompute.high < back.low:
        advice = f"recompute it: {back.value / recompute.value:.1f}x faster than memory"
    else:
        advice = "no difference within the intervals: recompute where memory is short"
    return Recompute(place.device, place.threads, what, nbytes, recompute, back, advice)


def _links(stages: list[memory.Training], place: Place) -> list[LinkTime]:
    links = [r for r in place.roofs if r.kind == "link"]
    if not links or stages[0].devices < 2:
        return []
    best = based(max(links, key=lambda r: r.value))
    return [LinkTime(s.stage, f"{place.device} {best.label}", best.inverse_of(s.traffic_bytes)) for s in stages]


def _fits(stages: list[memory.Training], found: Context) -> list[str]:
    machine = found.run.header.machine
    pools = [("this machine's memory", float(machine.memory_limit or machine.memory_bytes))]
    pools += [(f"gpu:{gpu.index} ({gpu.name})", float(gpu.memory_bytes)) for gpu in machine.gpus]
    lines = []
    for name, size in pools:
        if size:
            fitting = [str(s.stage) for s in stages if s.total <= size]
            text = f"fits with stage {', '.join(fitting)}" if fitting else "fits with no stage: predicted only"
            lines.append(f"{name}, {size / 1e9:.4g} GB: {text}")
    return lines


# ------------------------------------------------------------------------------------------------------------ one page


class Page(msgspec.Struct):
    """The memory wall of a run on one page: kernel time left of the ridge, machine balance, and every claim."""

    left: list[measured.LeftOfRidge]
    balance: list[trends.Ridge]
    claims: list[claims.Claim]
    measure_with: str = ""


def page(found: Context | None = None, lookups: Mapping[int, tuple[str, claims.Verdict, str]] | None = None) -> Page:
    """All claims; with a run, judged by it. `lookups`: rows 24 and 25 as `crossover --claims` answers them."""
    if found is None:
        return Page([], [], claims.table(), MEASURE)
    ratios: tuple[predict.Ratio, ...] = ()
    if place := reference_place(found.places):
        chains = predict.measured_models(found.run.records, PRESETS)
        ratios = tuple(predict.ratios((PRESETS["gpt2"], PRESETS["bert-base"]), place, chains))
    where = {(p.device, p.threads): p for p in found.places}
    left = measured.left_of_ridge(found.cases, found.places)
    facts = claims.Found(
        places=tuple(found.places),
        clock_ghz=found.clock_ghz(),
        gains=tuple(measured.precision_gains(found.cases, where)),
        break_evens=tuple(measured.break_evens(measured.sparse_points(found.cases))),
        ratios=ratios,
        left=tuple(left),
        lookups=dict(lookups or {}),
    )
    table = claims.table(facts)
    missing = any(claim.verdict == "not measured" for claim in table)
    return Page(left, trends_page(found).measured_ridges, table, MEASURE if missing else "")
