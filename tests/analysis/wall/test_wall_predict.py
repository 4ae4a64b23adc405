"""Prediction from roofs of known truth, the measured chain beside it, and what a run says of precision and sparsity."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import MIB, Noise, Spec, bandwidth, compute, kernel, machine, run, typical
from wall_runs import DRAM, PEAK, dense, layers, product, sparse, wall_run

from pykernels.analysis.roofline import analyse
from pykernels.analysis.wall import claims, format_pages, measured, pages, predict, transformer
from pykernels.analysis.wall.roofs import Estimate, Place
from pykernels.model import Figure
from pykernels.store import Run

BERT, GPT2 = transformer.PRESETS["bert-base"], transformer.PRESETS["gpt2"]


def gather(found: Run) -> pages.Context:
    return pages.context(found, analyse([found]).roofs)


@pytest.fixture(scope="module")
def context() -> pages.Context:
    return gather(wall_run())


@pytest.fixture(scope="module")
def exact() -> Place:
    """Roofs without noise, one thread."""
    return gather(run(typical((1,)))).places[0]


def test_places_and_roofs(exact: Place) -> None:
    assert (exact.device, exact.threads) == ("cpu", 1)
    peak, memory = exact.peak("fp32"), exact.bandwidth("DRAM", "fp32", reads=True)
    assert peak is not None
    assert memory is not None
    assert (peak.value, memory.value) == pytest.approx((270e9, 40e9))
    copy = exact.bandwidth("DRAM", "fp32", reads=False)
    assert copy is not None
    assert copy.value == pytest.approx(36e9)
    assert exact.peak("bf16") is None
    ridge = exact.ridge("fp32")
    assert ridge is not None
    assert ridge.value == pytest.approx(270 / 40)
    assert exact.launch() is exact.exponentials() is None


def test_levels_of_working_sets(exact: Place) -> None:
    assert [exact.level_of(size) for size in (1024, 100_000, 8 * MIB, 64 * MIB)] == ["L1", "L2", "L3", "DRAM"]
    assert exact.straddles(30 * MIB) == "L3"
    assert exact.straddles(300 * MIB) == ""


def test_a_missing_level_is_replaced_by_the_next_one_out_and_named() -> None:
    place = gather(run([compute(270.0), bandwidth("DRAM", 40.0)])).places[0]
    found = predict.predict(BERT, 128, place)
    assert isinstance(found, predict.Prediction)
    norm = next(time for time in found.operators if time.name == "norm")
    assert any("no L" in note and "DRAM" in note for note in norm.notes)


def test_prediction_is_the_longer_of_compute_and_memory(exact: Place) -> None:
    for config in (BERT, GPT2):
        found = predict.predict(config, 512, exact)
        assert isinstance(found, predict.Prediction)
        for time, op in zip(found.operators, transformer.ours(config, 512), strict=True):
            assert time.compute_s == pytest.approx(op.flops / PEAK)
            assert time.seconds.value == pytest.approx(max(time.compute_s, time.memory_s))
            assert time.memory_s >= op.weight_bytes / DRAM * (1 - 1e-9)
        assert found.total.value == pytest.approx(sum(t.seconds.value for t in found.operators))
    bert, gpt2 = (predict.predict(c, 128, exact) for c in (BERT, GPT2))
    assert isinstance(bert, predict.Prediction)
    assert isinstance(gpt2, predict.Prediction)
    assert {t.bound for t in bert.operators if t.name in ("qkv", "up", "down")} == {"compute"}
    assert {t.bound for t in gpt2.operators if t.name in ("qkv", "up", "down", "attention")} == {"DRAM"}


def test_without_the_roof_there_is_no_prediction(exact: Place) -> None:
    found = predict.predict(BERT, 128, exact, dtype="bf16")
    assert isinstance(found, predict.Unpredicted)
    assert found.missing == ("bf16 compute",)


def test_a_small_model_is_predicted_from_the_cache(exact: Place) -> None:
    tiny = msgspec.structs.replace(GPT2, layers=1, ffn=1536, name="tiny")  # 19 MB of weights, well within 32 MiB of L3
    found = predict.predict(tiny, 16, exact)
    assert isinstance(found, predict.Prediction)
    assert found.operators[0].bound == "L3"


def test_weights_that_just_fit_a_cache_are_gone_when_their_turn_comes(exact: Place) -> None:
    tight = msgspec.structs.replace(GPT2, layers=1, name="tight")  # 28 MB of weights
    found = predict.predict(tight, 16, exact)
    assert isinstance(found, predict.Prediction)
    assert found.operators[0].bound == "DRAM"
    assert any("near the size of L3" in note for note in found.notes)


def test_an_operator_alone_finds_its_own_weights_in_the_cache(exact: Place) -> None:
    """In the chain all layers' weights pass between two uses of a matrix; alone, one operator's."""
    two = msgspec.structs.replace(GPT2, layers=2, name="two")  # 57 MB of weights, 4.7 MB of them in `out`
    found = predict.predict(two, 16, exact)
    assert isinstance(found, predict.Prediction)
    chained, alone = (next(t for t in times if t.name == "out") for times in (found.operators, found.alone))
    assert (chained.bound, alone.bound) == ("DRAM", "L3")
    assert alone.seconds.value < chained.seconds.value


def test_a_model_larger_than_memory_is_predicted_and_refused(exact: Place) -> None:
    small = Place(exact.device, exact.threads, exact.roofs, msgspec.structs.replace(machine(), memory_bytes=10**8))
    found = predict.predict(BERT, 128, small)
    assert isinstance(found, predict.Prediction)
    assert any("larger than this machine's memory" in note for note in found.notes)


@given(seq=st.integers(1, 1024), batch=st.integers(1, 8), name=st.sampled_from(["bert-base", "gpt2"]))
def test_prediction_grows_with_seq_and_batch(seq: int, batch: int, name: str) -> None:
    place = gather_exact()
    config = transformer.PRESETS[name]

    def seconds(s: int, b: int) -> float:
        found = predict.predict(config, s, place, batch=b)
        assert isinstance(found, predict.Prediction)
        return found.total.value

    assert seconds(2 * seq, batch) >= seconds(seq, batch)
    assert seconds(seq, 2 * batch) >= seconds(seq, batch)


_EXACT: list[Place] = []


def gather_exact() -> Place:
    if not _EXACT:
        _EXACT.append(gather(run(typical((1,)))).places[0])
    return _EXACT[0]


def test_interval_runs_from_the_fastest_to_the_slowest_roof() -> None:
    rate = Estimate(10.0, 8.0, 12.5)
    assert rate.inverse_of(100) == Estimate(10.0, 8.0, 12.5)
    assert Estimate(10.0, 0.0, math.inf).inverse_of(100) == Estimate(10.0, 0.0, math.inf)


# ------------------------------------------------------------------------------------------------------ measured chain


def test_measured_chain_is_read_and_compared(context: pages.Context) -> None:
    chains = predict.measured_models(context.run.records, transformer.PRESETS)
    assert [(m.model, m.seq) for m in chains] == [("bert-base", 128), ("bert-base", 512), ("gpt2", 128), ("gpt2", 512)]
    for chain in chains:
        assert chain.total_is == "chain"
        assert list(chain.operators) == list(transformer.OPERATORS)
        assert chain.total is not None
        assert chain.total.value == pytest.approx(sum(t.value for t in chain.operators.values()), rel=0.05)
    page = pages.model_page(BERT, seq=128, found=context)
    rows = {(c.seq, c.operator): c for c in page.comparisons}
    assert rows[128, "up"].within
    slow = rows[512, "attention"]
    assert not slow.within
    assert "of the compute roof" in slow.cause
    assert all(c.cause for c in page.comparisons if not c.within and c.operator != "total")
    assert page.goal == (2, 2)


def test_a_decoder_step_becomes_a_generation(context: pages.Context) -> None:
    chain = next(m for m in predict.measured_models(context.run.records, transformer.PRESETS) if m.model == "gpt2")
    step = sum(s.truth for s in layers("gpt2", 128) if s.params["op"] == "chain") * 1e-6
    assert chain.total is not None
    assert chain.total.value == pytest.approx(128 * step, rel=0.05)
    assert chain.total.low < chain.total.value < chain.total.high


def test_without_a_chain_the_operators_are_summed_and_never_guessed() -> None:
    parts = [spec for spec in layers("bert-base", 128) if spec.params["op"] != "chain"]
    whole = predict.measured_models(run(parts).records, transformer.PRESETS)[0]
    assert whole.total_is == "sum of operators"
    part = predict.measured_models(run(parts[:3]).records, transformer.PRESETS)[0]
    assert (part.total, part.total_is) == (None, "not measured")


def test_of_several_isa_levels_the_fastest_chain_counts() -> None:
    fast, slow = layers("bert-base", 128), layers("bert-base", 128)
    for spec in slow:
        spec.isa, spec.truth = "x86_64_v3", 2 * spec.truth
    for specs in ([*fast, *slow], [*slow, *fast]):
        (chain,) = predict.measured_models(run(specs).records, transformer.PRESETS)
        assert chain.total is not None
        assert chain.total.value == pytest.approx(fast[-1].truth * 1e-6)


def test_lengths_beyond_the_measured_ones_are_predicted_only(context: pages.Context) -> None:
    page = pages.model_page(GPT2, seq=128, found=context)
    one = {x.seq: x for x in page.latencies if x.threads == 1}
    assert set(predict.SEQS) <= one.keys()
    assert one[512].measured is not None
    assert one[4096].measured is None
    assert one[4096].predicted is not None


def test_ratio_shape(context: pages.Context) -> None:
    place = pages.reference_place(context.places)
    chains = predict.measured_models(context.run.records, transformer.PRESETS)
    found = predict.ratios((GPT2, BERT), place, chains)
    assert [r.seq for r in found if r.measured is not None] == [128, 512]
    assert predict.shape_holds(found) is True
    assert predict.shape_holds(found[:1]) is None
    rising = [predict.Ratio(128, None, 20.0, None), predict.Ratio(512, None, 30.0, None)]
    assert predict.shape_holds(rising) is False


# ------------------------------------------------------------------------------------- precision, sparsity, the ridge


def test_precision_gains(context: pages.Context) -> None:
    page = format_pages.precision_page(found=context)
    by = {(g.dtype, g.batch): g for g in page.measured}
    assert by["bf16", 1].measured.value == pytest.approx(2, rel=0.05)
    assert by["bf16", 1].verdict == "at its bytes"
    assert by["int8", 64].verdict == "gone"
    assert page.vanishing == {"bf16": None, "int8": 64}
    assert page.measure_with == ""
    assert set(page.predicted) == {"cpu*1"}  # no bf16 or int8 peak was measured on two threads


def test_sparse_break_even(context: pages.Context) -> None:
    page = format_pages.sparsity_page(found=context)
    (found,) = page.measured
    assert found.measured == pytest.approx(0.4, rel=0.03)
    assert found.derived == pytest.approx(0.5, rel=0.01)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.4 < found.high


@pytest.mark.parametrize(("densities", "note"), [((0.01, 0.02), "above 0.02"), ((0.8, 0.9), "below 0.8")])
def test_break_even_outside_the_measured_densities_is_a_bound(densities: tuple[float, ...], note: str) -> None:
    base = 1e-3
    found = run([dense(base), *(sparse(d, base * d / 0.4) for d in densities)])
    (row,) = format_pages.sparsity_page(found=gather(found)).measured
    assert row.measured is None
    assert row.note.startswith(note)


def test_share_left_of_the_ridge() -> None:
    specs = [*typical((1,)), kernel("softmax", 8.0, 0.6), kernel("square", 200.0, 80.0)]
    (row,) = pages.page(gather(run(specs))).left
    memory, arithmetic = 1 / 8.0, 1 / 200.0
    assert row.share.value == pytest.approx(memory / (memory + arithmetic), rel=1e-6)
    assert (row.kernels, row.left, row.undecided) == (2, 1, 0)
    assert row.share.low <= row.share.value <= row.share.high


def test_one_launch_gives_no_interval_of_the_share() -> None:
    (row,) = pages.page(gather(run([*typical((1,)), kernel("softmax", 8.0, 0.6)], launches=1))).left
    assert (row.share.low, row.share.high) == (0.0, 1.0)


def test_roofline_gain_of_a_product_needs_its_peak() -> None:
    found = gather(run([*typical((1,)), product("fp32", 1, 1e-3, 6e7), product("int8", 1, 1e-3, 2e7)]))
    (gain,) = measured.precision_gains(found.cases, {("cpu", 1): found.places[0]})
    assert gain.predicted is None
    assert gain.byte_ratio == pytest.approx(3)


# -------------------------------------------------------------------------------------------------------------- claims


def test_claims_without_a_run_measure_nothing() -> None:
    table = claims.table()
    assert [c.number for c in table] == list(range(1, 27))
    assert {c.verdict for c in table if c.source == "measured"} == {"not measured"}
    assert {c.verdict for c in table if c.number in (1, 2, 3, 4, 5, 6, 10, 11, 12, 15, 16, 20)} == {"yes"}
    assert all(c.verdict == "not measured" for c in table if c.number in (7, 8, 13, 14, 21, 22, 23, 24, 25, 26))


def test_claims_of_a_run(context: pages.Context) -> None:
    page = pages.page(context)
    verdicts = {c.number: c.verdict for c in page.claims}
    assert {verdicts[n] for n in (7, 8, 13, 18, 19, 21, 22, 23, 26)} <= {"yes", "no"}
    assert verdicts[24] == verdicts[25] == verdicts[14] == "not measured"
    assert page.measure_with
    assert page.balance


def test_a_wide_interval_decides_nothing() -> None:
    noisy = gather(run(typical((1,)), launches=2, noise=Noise(launch=0.9, seed=3)))
    row = pages.page(noisy).claims[22]
    assert row.verdict == "not measured"
    assert row.why.startswith("the interval is too wide to decide")


def test_lookup_claims_come_from_the_crossover(context: pages.Context) -> None:
    page = pages.page(context, {24: ("GPU wins 9 of 9", "no", "tables fit")})
    row = page.claims[23]
    assert (row.verdict, row.here, row.why) == ("no", "GPU wins 9 of 9", "tables fit")


def test_a_run_with_nothing_of_interest_still_answers() -> None:
    empty = gather(run([kernel("softmax", 8.0, 0.6)]))
    assert empty.places == []
    page = pages.page(empty)
    assert page.left == []
    assert page.measure_with
    assert pages.model_page(BERT, found=empty).predictions == []
    assert pages.memory_page(BERT, found=empty).recompute == []
    roofs_only = pages.memory_page(BERT, found=gather(run(typical((1,)))))  # mixed precision, no bf16 peak
    assert roofs_only.recompute == []
    assert "bf16 peak" in roofs_only.unpredicted[0]


# -------------------------------------------------------------------------------------------------------------- memory


def test_recompute_or_read_back(context: pages.Context) -> None:
    page = pages.memory_page(BERT, precision_name="fp32", found=context)
    layer = next(r for r in page.recompute if r.what == "layer" and r.threads == 1)
    assert layer.read_back.value == pytest.approx(2 * layer.bytes / 36e9, rel=0.03)
    assert layer.recompute.value > layer.read_back.value
    assert layer.advice.startswith("keep it")
    assert page.fits == ["this machine's memory, 17.18 GB: fits with stage 0, 1, 2, 3"]
    big = pages.memory_page(transformer.PRESETS["gpt3"], found=context)
    assert big.fits[0].endswith("fits with no stage: predicted only")


def test_trends_place_the_device(context: pages.Context) -> None:
    page = pages.trends_page(context)
    bands = [p for p in page.placed if p.series == "dram_bandwidth"]
    assert [round(p.value) for p in bands] == [40, 48]
    assert all(p.ratio < 1 and p.line_year < p.year for p in bands)
    fp32 = next(r for r in page.measured_ridges if (r.name, r.family) == ("cpu*1", "fp32"))
    assert fp32.low is not None
    assert fp32.high is not None
    assert fp32.low < 270 / 40 < fp32.high


def test_a_generation_weighs_all_its_tokens_and_a_chain_its_operators() -> None:
    """BERT-Base over 128 tokens is right of this ridge, GPT-2 over 128 left of it: by time per text, not per call."""
    found = gather(wall_run((128,)))
    layers = [case for case in found.cases if case.record.kernel == "layer"]
    (row,) = [row for row in measured.left_of_ridge(layers, found.places) if row.kernels]
    one_by_one = [case for case in layers if case.record.params["op"] != "chain"]
    assert row.kernels == len(one_by_one)
    steps = {"bert-base": 1, "gpt2": 128}
    seconds = {
        model: sum(case.seconds.value for case in one_by_one if case.record.params["model"] == model) * times
        for model, times in steps.items()
    }
    assert row.share.value == pytest.approx(seconds["gpt2"] / sum(seconds.values()), abs=0.05)


def test_gains_compare_whole_products_not_the_parts_that_calls_cover() -> None:
    """A call covers a part of about equal bytes whatever the dtype: per call bf16 gains nothing, per product 2x; and
    products known by a level only are not the same product at another width."""

    def gemv(dtype: str, parts: int, each: float, **where: str) -> Spec:
        whole = 2.0 * 4096 * 4096
        params = {**(where or {"rows": "4096"}), "cols": "4096", "batch": "1"}
        figure = Figure("bandwidth", "GB/s", 1e6)
        return Spec("gemv", params, figure, 10.0, dtype=dtype, flops=whole / parts, bytes=4096 * 4096 * each / parts)

    cells = [
        gemv("fp32", 8, 4.0),
        gemv("bf16", 4, 2.0),
        gemv("fp32", 8, 4.0, level="DRAM"),
        gemv("bf16", 4, 2.0, level="DRAM"),
    ]
    found = gather(run([*typical(), *cells]))
    (gain,) = measured.precision_gains(found.cases)
    assert gain.byte_ratio == pytest.approx(2.0)
    assert gain.measured.value == pytest.approx(2.0, rel=0.05)
