"""The claims of "AI and Memory Wall", each with the published value, what was computed or measured here, a verdict read
off the numbers (`yes`, `no`, `not measured`) and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from pykernels.analysis.wall import data, memory, precision, sparsity, survey, transformer, trends
from pykernels.analysis.wall.measured import BreakEven, LeftOfRidge, MeasuredGain
from pykernels.analysis.wall.predict import Ratio, shape_holds
from pykernels.analysis.wall.roofs import Estimate, Place, based

Verdict = Literal["yes", "no", "not measured"]


class Found(msgspec.Struct, frozen=True):
    """What this machine's run says, as far as it was measured."""

    places: tuple[Place, ...] = ()
    clock_ghz: float | None = None
    gains: tuple[MeasuredGain, ...] = ()
    break_evens: tuple[BreakEven, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    left: tuple[LeftOfRidge, ...] = ()
    lookups: dict[int, tuple[str, Verdict, str]] = {}


class Claim(msgspec.Struct, frozen=True):
    """One row: `here` is computed unless `source` says measured."""

    number: int
    claim: str
    published: str
    here: str
    source: str
    verdict: Verdict
    why: str


Answer = tuple[str, str, Verdict, str]  # here, source, verdict, why
_UNREAD = "the paper's own figure was not opened: recalled only"


def table(found: Found | None = None) -> list[Claim]:
    """All claims, in the order of the paper."""
    rows = []
    for number, (claim, published, answer) in enumerate(_CLAIMS, 1):
        here, source, verdict, why = answer(found or Found())
        if verdict == "not measured" and source == "measured" and here != "-":
            why = f"the interval is too wide to decide; {why}"
        rows.append(Claim(number, claim, published, here, source, verdict, why))
    return rows


def _main(found: Found) -> Place | None:
    """The placement the page speaks of: the CPU (else the first device) with the most threads."""
    order = sorted(found.places, key=lambda p: (p.device != "cpu", -p.threads))
    return order[0] if order else None


def _decide(low: float, high: float, limit: float) -> Verdict:
    """`yes` where the whole interval is above the limit, `no` where it is below; a straddling one decides nothing."""
    return "yes" if low > limit else "no" if high <= limit else "not measured"


def _quotient(above: Estimate, below: Estimate) -> Estimate:
    """Ratio of two measured values, bounds from bounds."""
    low = above.low / below.high if below.high else 0.0
    return Estimate(above.value / below.value, low, above.high / below.low if below.low else math.inf)


def _growth(series: str, published: float) -> Callable[[Found], Answer]:
    def answer(_: Found) -> Answer:
        fit = next(g for g in trends.published_fits() if g.series == series)
        low, high = fit.t95
        here = f"{fit.per_2_years:.3g}x / 2 yr [{low:.3g}, {high:.3g}], n {fit.n}, R2 {fit.r2:.2f}"
        close = abs(fit.per_2_years / published - 1) < 0.08
        return here, "computed", "yes" if close and low > 1 else "no", fit.caveat

    return answer


def _model_size(found: Found) -> Answer:
    size, source, verdict, _ = _growth("transformer_parameters", 410)(found)
    chip, _, other, _ = _growth("accelerator_memory", 2)(found)
    without = trends.sensitivity()[-1].per_2_years
    both: Verdict = "yes" if verdict == other == "yes" else "no"
    return f"{size}; memory {chip}", source, both, f"{without:.3g}x without the two mixture-of-experts models"


def _gap(_: Found) -> Answer:
    def ridges(family: str) -> list[float]:
        return [data.devices()[slug].ridge(family) or 0.0 for slug in trends.FLAGSHIPS]

    matrix, vector = ridges("16-bit matrix"), ridges("fp32 vector")
    arrow = " -> ".join
    here = (
        f"ridge FLOP/B, V100 to B200: 16-bit matrix {arrow(f'{r:.0f}' for r in matrix)}; "
        f"fp32 vector {arrow(f'{r:.0f}' for r in vector)}"
    )
    grows = matrix[-1] > 1.2 * matrix[0]
    return here, "computed", "yes" if grows else "no", "for 16-bit matrix units; the fp32 vector ridge is flat or falls"


def _roof(place: Place | None, kind: str, level: str) -> float | None:
    """Value in base units of the first roof of a kind and level."""
    roofs = [r for r in place.roofs if r.kind == kind and r.level == level] if place else []
    return based(roofs[0]).value if roofs else None


def _access_time(found: Found) -> Answer:
    place = _main(found)
    near, far = _roof(place, "latency", "L1"), _roof(place, "latency", "DRAM")
    single = min((p for p in found.places if p.device == "cpu"), key=lambda p: p.threads, default=None)
    near, far = near or _roof(single, "latency", "L1"), far or _roof(single, "latency", "DRAM")
    if near is None or far is None or found.clock_ghz is None:
        return "-", "measured", "not measured", "needs latency roofs of L1 and DRAM and a measured clock"
    limit = 5e-9 / found.clock_ghz
    misses = max(0.0, (limit - near) / (far - near))
    here = f"L1 {near * 1e9:.2g} ns, DRAM {far * 1e9:.3g} ns: 5 cycles on average at {misses:.2%} misses"
    return here, "measured", "yes" if misses < 0.05 else "no", "at 20% memory instructions the core waits beyond that"


def _three_walls(found: Found) -> Answer:
    place = _main(found)
    band = place.bandwidth("DRAM", "fp64", reads=True) if place else None
    single = min((p for p in found.places if p.device == "cpu"), key=lambda p: p.threads, default=None)
    latency = _roof(place, "latency", "DRAM") or _roof(single, "latency", "DRAM")
    if band is None or latency is None:
        example = 140.8e9 * 90e-9
        return (
            f"example: 140.8 GB/s x 90 ns = {example / 1e3:.3g} kB = {example / 64:.0f} lines in flight",
            "computed", "not measured", "needs the DRAM bandwidth and latency roofs",
        )  # fmt: skip
    lines = band.value * latency / 64
    here = f"{band.value / 1e9:.3g} GB/s x {latency * 1e9:.3g} ns = {lines:.0f} lines of 64 B in flight"
    verdict = _decide(band.low * latency / 64, band.high * latency / 64, 16)
    return here, "measured", verdict, "yes: more than a core keeps by itself; dependent access has one at a time"


def _hierarchy(found: Found) -> Answer:
    seconds = {d.name: d.memory_gb / d.memory_gbs for d in data.devices().values() if d.memory_gb and d.memory_gbs}
    chips = [s for name, s in seconds.items() if "Grace" not in name and "Apple" not in name]
    grace = next(s for name, s in seconds.items() if "Grace" in name)
    here = f"memory / bandwidth: accelerators {min(chips):.2g} to {max(chips):.2g} s, Grace {grace:.2g} s"
    place = _main(found)
    peak = place.peak("fp32") if place else None
    if place is not None and peak is not None and place.capacity():
        here += f"; here {place.capacity()[-1][1] / (peak.value / 1e6):.3g} B of last-level cache per fp32 MFLOP/s"
    verdict: Verdict = "yes" if max(chips) < grace else "no"
    why = "published: H100 0.78, EPYC 9684X 147 B of last-level cache per fp32 MFLOP/s (derived)"
    return here, "computed", verdict, why


def _same_flops(_: Found) -> Answer:
    pairs = {seq: _totals(seq) for seq in (128, 512, 4096)}
    here = "; ".join(f"{a.flops / 1e9:.2f} and {b.flops / 1e9:.2f} GFLOP at {seq}" for seq, (a, b) in pairs.items())
    fewer = [1 - b.flops / a.flops for a, b in pairs.values()]
    why = f"GPT-2 has {fewer[0]:.0%} to {fewer[-1]:.0%} fewer: its attention is causal"
    return here, "computed", "yes" if max(map(abs, fewer)) < 0.3 else "no", why


def _totals(seq: int) -> tuple[survey.Count, survey.Count]:
    base, large = (survey.survey(transformer.PRESETS[name], seq)["total"] for name in ("bert-base", "gpt2"))
    return base, large


def _more_bytes(_: Found) -> Answer:
    pairs = {seq: _totals(seq) for seq in (128, 512, 4096)}
    here = "; ".join(f"{a.bytes / 1e9:.2f} and {b.bytes / 1e9:.2f} GB at {seq}" for seq, (a, b) in pairs.items())
    ratios = [b.bytes / a.bytes for a, b in pairs.values()]
    why = f"{max(ratios):.0f}x to {min(ratios):.0f}x: every token reads all weights again (1 byte per element)"
    return here, "computed", "yes" if min(ratios) > 10 else "no", why


def _intensity(_: Found) -> Answer:
    pairs = {seq: _totals(seq) for seq in (128, 512, 4096)}
    here = "; ".join(f"{a.intensity:.1f} and {b.intensity:.2f} FLOP/B at {seq}" for seq, (a, b) in pairs.items())
    apart = min(a.intensity / b.intensity for a, b in pairs.values())
    why = "half of it at 16 bits, a quarter at fp32: the decoder is left of every ridge"
    return here, "computed", "yes" if apart > 10 else "no", why


def _latency(found: Found) -> Answer:
    measured = [(r.seq, r.measured) for r in found.ratios if r.measured is not None]
    holds = shape_holds(found.ratios)
    if holds is None:
        predicted = [f"{r.predicted:.0f}x at {r.seq}" for r in found.ratios if r.predicted is not None]
        here = "predicted " + ", ".join(predicted) if predicted else "-"
        return here, "modelled", "not measured", "needs records of the operator chain (kernel layer) of both models"
    here = ", ".join(f"{value:.1f}x at {seq}" for seq, value in measured)
    why = "asserted: over 10x and falling with length, not the digits"
    place = min((p for p in found.places if p.device == "cpu"), key=lambda p: p.threads, default=None)
    if ridge := place.ridge("fp32") if place else None:
        why += f"; this machine's fp32 ridge is {ridge.value:.2g} FLOP/B, that of the published CPU about 20"
    return here, "measured", "yes" if holds else "no", why


def _communication(found: Found) -> Answer:
    h100 = data.devices()["h100-sxm5-80gb"]
    peak = (h100.peak("16-bit matrix") or 0.0) * 1e3
    nvlink, host = (peak / (both / 2) for both in (h100.device_link_gbs or 1.0, h100.host_link_gbs or 1.0))
    here = f"H100: {nvlink:.2g} FLOP per NVLink byte, {host:.2g} per PCIe byte, one direction"
    for place in found.places:
        links, top = [r for r in place.roofs if r.kind == "link"], place.peak("bf16") or place.peak("fp32")
        if links and top:
            per_byte = _quotient(top, based(max(links, key=lambda r: r.value)))
            here = f"{place.device}: {per_byte.value:.3g} FLOP per link byte"
            memory_ridge = place.ridge("bf16") or place.ridge("fp32")
            verdict = _decide(per_byte.low, per_byte.high, memory_ridge.value if memory_ridge else 1.0)
            return here, "measured", verdict, "yes: a link byte must be used more often than a memory byte"
    return here, "computed", "not measured", "no link roof in the run"


def _training(_: Found) -> Answer:
    rows = {(r.model, r.what): r for r in memory.published_rows()}
    total, weights = rows["BERT Large", "total (sum of parts)"], rows["BERT Large", "parameters"]
    kept, other = rows["BERT Large", "activations"], rows["GPT-2 1.5B", "activations"]
    published = f"published {kept.published_gb}, {other.published_gb}"
    here = f"activations {kept.computed_gb:.2f} and {other.computed_gb:.2f} GB ({published})"
    close = max(abs(row.relative or 0.0) for row in (kept, other)) < 0.04
    why = f"BERT Large takes {total.published_gb / weights.published_gb:.0f}x its parameters, gradients not counted"
    return here, "computed", "yes" if close else "no", why


def _zero(_: Found) -> Answer:
    stages = memory.zero_example()
    here = ", ".join(f"{stage.total / 1e9:.3g}" for stage in stages) + " GB per device, stages 0 to 3"
    exact = [f"{stage.total / 1e9:.3g}" for stage in stages] == ["120", "31.4", "16.6", "1.88"]
    return (
        here,
        "computed",
        "yes" if exact else "no",
        "stages 1 and 2 send what all-reduce sends, stage 3 half as much again",
    )


def _remat(_: Found) -> Answer:
    config = transformer.PRESETS["bert-large"]
    kept = {p: memory.activations(config, 512, 16, policy=p) for p in memory.POLICIES}
    here = "BERT Large, s 512, b 16: " + ", ".join(f"{p} {a.peak / 1e9:.2f} GB" for p, a in kept.items())
    saved = kept["none"].peak / kept["full"].peak
    extra = f"full: {saved:.0f}x less for {kept['full'].extra_flops_share:.0%} more FLOP"
    why = f"{extra}; a fused attention saves half for nothing; {_UNREAD}"
    return here, "computed", "yes" if saved > 1 / (1 - kept["full"].extra_flops_share) else "no", why


def _half(found: Found) -> Answer:
    a100 = data.devices()["a100-sxm4-40gb"].peaks
    here = f"A100 {a100['bf16_tflops'] / a100['fp32_tflops']:.0f}x peak; model state stays 16 B per parameter"
    for place in found.places:
        half, full = place.peak("bf16") or place.peak("fp16"), place.peak("fp32")
        if half and full:
            gain = _quotient(half, full)
            here = f"{place.device}*{place.threads}: measured 16-bit peak {gain.value:.2f}x the fp32 peak"
            why = "bytes of activations and traffic halve; state does not"
            return here, "measured", _decide(gain.low, gain.high, 1), why
    return here, "computed", "not measured", "no 16-bit and fp32 compute roof of one placement in the run"


def _mixed(found: Found) -> Answer:
    state = {name: memory.zero(1.0, memory.OPTIMIZERS[name].per_parameter, stage=0, devices=1).state
             for name in ("adam", "adam-8bit")}  # fmt: skip
    here = f"8-bit moments: {state['adam-8bit']:.0f} instead of {state['adam']:.0f} B per parameter"
    for place in found.places:
        narrow, wide = place.peak("int8"), place.peak("bf16")
        if narrow and wide:
            gain = _quotient(narrow, wide)
            here += f"; {place.device}*{place.threads}: measured int8 peak {gain.value:.2f}x bf16"
            return here, "measured", _decide(gain.low, gain.high, 1), "int8 operations against bf16 FLOP"
    return here, "computed", "not measured", "no int8 and bf16 compute roof of one placement in the run"


def _second_order(_: Found) -> Answer:
    config = transformer.PRESETS["bert-large"]
    each = {n: memory.optimizer_bytes(config, o) / config.parameters() for n, o in memory.OPTIMIZERS.items()}
    names = ("sgd-m", "adam", "adahessian", "shampoo", "k-fac")
    here = "BERT Large, B per parameter: " + ", ".join(f"{name} {each[name]:.3g}" for name in names)
    worse = each["shampoo"] > 2 * each["adam"]
    return (
        here,
        "computed",
        "yes" if worse else "no",
        "matrix statistics with inverses; diagonal methods cost what Adam costs",
    )


def _quantization(found: Found) -> Answer:
    bf16, int4 = precision.FORMATS["bf16"], precision.FORMATS["int4-g128"]
    bound = bf16.bytes_per_weight() / int4.bytes_per_weight()
    here = f"int4 in groups of 128 is {bound:.2f}x smaller than 16 bits: at most that at batch 1, 1x when compute-bound"
    if not found.gains:
        return here, "computed", "not measured", f"no low-precision product in the run; {_UNREAD}"
    top = max(found.gains, key=lambda g: g.measured.value)
    here = f"best: {top.dtype} {top.kernel} {top.measured.value:.2f}x over fp32 (its bytes allow {top.byte_ratio:.2f}x)"
    ten = "10x over fp32 is reached" if top.measured.value >= 10 else "none reaches 10x over fp32"
    return here, "measured", _decide(top.measured.low, top.measured.high, 1), f"{ten}; {_UNREAD}"


def _pruning(found: Found) -> Answer:
    even = sparsity.break_even("csr", value=2)
    saving = 2 / sparsity.bytes_per_element("csr", 0.2, value=2)
    here = f"CSR of 16-bit values breaks even at density {even:.2f}; 80% pruned moves {saving:.2f}x less, not 5x"
    known = [b for b in found.break_evens if b.measured is not None]
    if not known:
        return here, "computed", "not measured", f"no sparse product in the run; {_UNREAD}"
    first = known[0]
    here = f"CSR {first.dtype} {first.shape}: measured break-even at density {first.measured:.2f}"
    value = first.measured or 0.0
    why = f"80% pruned is {'faster' if value > 0.2 else 'slower'} here"
    if first.derived is not None:
        why += f"; its bytes alone break even at {first.derived:.2f}"
    bounds = [value if end is None else end for end in (first.low, first.high)]
    return here, "measured", _decide(min(bounds), max(bounds), 0.2), why


def _small_models(found: Found) -> Answer:
    place = _main(found)
    band = place.bandwidth("DRAM", "fp32", reads=True) if place else None
    if band is None:
        rates = " , ".join(f"{b / 1e9:.4g} GB/s -> {b / 14e9:.0f}" for b in (140.8e9, 3.35e12))
        return f"7e9 parameters at 2 B, tokens/s: {rates}", "computed", "not measured", "needs the DRAM bandwidth roof"
    assert place is not None
    here = f"7e9 parameters at 2 B: at most {band.value / 14e9:.3g} tokens/s; 125e6: {band.value / 0.25e9:.0f}"
    cache = place.bandwidth("L3", "fp32", reads=True)
    gain = _quotient(cache, band) if cache else Estimate(1, 1, 1)
    why = f"a model that fits the last-level cache gains another {gain.value:.1f}x"
    return here, "measured", _decide(gain.low, gain.high, 1), why


def _lookups(number: int, missing: str) -> Callable[[Found], Answer]:
    def answer(found: Found) -> Answer:
        if number not in found.lookups:
            return "-", "measured", "not measured", missing
        here, verdict, why = found.lookups[number]
        return here, "measured", verdict, why

    return answer


def _matters_more(found: Found) -> Answer:
    if not found.left:
        return "-", "measured", "not measured", "needs a run with kernels and roofs (`pykernels run kernels`)"
    here = "; ".join(
        f"{row.device}*{row.threads}: {row.share.value:.0%} [{row.share.low:.0%}, {row.share.high:.0%}]"
        f" of {row.kernels} kernels' time"
        for row in found.left
    )
    whole = _decide(min(row.share.low for row in found.left), min(row.share.high for row in found.left), 0.5)
    why = "share of measured kernel time left of the ridge, at the sizes this run chose; decoding counts all its tokens"
    return here, "measured", whole, why


_CLAIMS: Sequence[tuple[str, str, Callable[[Found], Answer]]] = (
    ("Training compute of Transformers grows", "750x / 2 yr", _growth("transformer_training_compute", 750)),
    ("Peak FLOP/s grow", "3.0x / 2 yr", _growth("hw_flops", 3.0)),
    ("DRAM bandwidth grows", "1.6x / 2 yr", _growth("dram_bandwidth", 1.6)),
    ("Interconnect bandwidth grows", "1.4x / 2 yr", _growth("interconnect_bandwidth", 1.4)),
    ("Models outgrow accelerator memory", "410x against 2x / 2 yr", _model_size),
    ("The gap between compute and memory keeps growing", "1.9x / 2 yr", _gap),
    ("The core waits for memory", "5 cycles at 20% memory instructions", _access_time),
    ("The wall is capacity, bandwidth and latency", "-", _three_walls),
    ("Accelerators buy compute at the cost of the hierarchy", "-", _hierarchy),
    ("BERT and GPT-2 of one size need the same FLOPs", "22.42, 22.12 GFLOP at 128", _same_flops),
    ("GPT-2 moves far more memory", "0.14, 11.08 GB at 128", _more_bytes),
    ("Arithmetic intensity explains it", "159.68, 2.0 FLOP/B at 128", _intensity),
    ("GPT-2 is far slower than BERT-Base on a CPU", "45x at 128, 67x at 512, 28x at 4096", _latency),
    ("Communication between chips starves the matrix units", "-", _communication),
    ("Training needs several times the parameter memory", "18.34 GB for BERT Large", _training),
    ("ZeRO fits larger models in the same memory", "120, 31.4, 16.6, 1.88 GB", _zero),
    ("Rematerialization: less memory, a little more compute", "5x less for 20% (recalled)", _remat),
    ("Half precision raises utilisation", "up to 16x peak", _half),
    ("Mixed precisions help further", "fp8 2x bf16 peak", _mixed),
    ("Second-order methods need more memory", "-", _second_order),
    ("Quantization: large size and latency gain", "up to 10x (recalled)", _quantization),
    ("Pruning: smaller and faster at the same accuracy", "80% unstructured (recalled)", _pruning),
    ("Small models would change adoption", "-", _small_models),
    (
        "CPUs beat GPUs on large recommendation lookups",
        "-",
        _lookups(24, "`pykernels crossover RUN... --claims` decides"),
    ),
    ("Caches with large DRAM could bridge the gap", "-", _lookups(25, "`pykernels crossover RUN... --claims` decides")),
    ("Memory now matters more than compute", "none", _matters_more),
)
