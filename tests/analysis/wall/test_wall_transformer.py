"""The survey's counting rule reproduces the published tables; our own adds up and grows with its arguments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.analysis.wall import survey as s
from pykernels.analysis.wall import transformer as t
from pykernels.errors import UsageError

VALUES = s.printed_values()
EXACT = [v for v in VALUES if v.agrees]
DIFFER = [v for v in VALUES if not v.agrees]


def test_how_many_published_values_there_are() -> None:
    assert (len(VALUES), len(EXACT), len(DIFFER)) == (189, 162, 27)


@pytest.mark.parametrize("value", EXACT, ids=lambda v: f"{v.model}-{v.seq}-{v.operator}-{v.quantity}-{v.source[-2:]}")
def test_survey_rule_reproduces_the_printed_digits(value: s.Printed) -> None:
    counts = s.survey(t.PRESETS[s.PRINTED_NAMES[value.model]], value.seq)[value.operator]
    got = {"flops": counts.flops / 1e9, "mops": counts.bytes / 1e9, "intensity": counts.intensity}[value.quantity]
    digits = len(value.printed.partition(".")[2])
    assert abs(got - float(value.printed)) <= 0.51 * 10**-digits


@pytest.mark.parametrize("value", DIFFER, ids=lambda v: f"{v.model}-{v.seq}-{v.operator}-{v.quantity}-{v.source[-2:]}")
def test_every_published_value_that_differs_has_a_reason(value: s.Printed) -> None:
    assert value.reason
    far = abs(value.computed / float(value.printed) - 1) > 0.02
    rounded = value.reason.startswith("last digit")
    assert not (far and rounded and value.printed != "0.10")
    if value.model == "BERT-Large":
        assert "3584" in value.reason


def test_bert_large_bars_have_the_smaller_feed_forward() -> None:
    import msgspec

    smaller = msgspec.structs.replace(t.PRESETS["bert-large"], ffn=3584)
    bars = [v for v in DIFFER if v.model == "BERT-Large" and v.quantity == "flops"]
    assert len(bars) == 6
    # `other` is fitted for ffn = 4 hidden; the matrix products alone decide these bars
    for bar in bars:
        assert s.agrees_to_printed_digits(bar.printed, s.survey(smaller, bar.seq)["total"].flops / 1e9)


def test_published_latency_shape() -> None:
    found = s.published_latency()
    assert list(found) == [128, 256, 512, 1024, 2048, 4096]
    assert found[512] == max(found.values()) == 67
    assert [round(value, 1) for value in found.values()] == [45.0, 46.5, 67.0, 47.4, 38.6, 27.9]


def test_parameter_counts() -> None:
    assert t.PRESETS["bert-base"].parameters() == pytest.approx(109e6, rel=0.01)
    assert t.PRESETS["bert-large"].parameters() == pytest.approx(335e6, rel=0.01)
    assert t.PRESETS["gpt2"].parameters() == pytest.approx(124.4e6, rel=0.001)
    assert t.PRESETS["gpt2-xl"].parameters() == pytest.approx(1557.6e6, rel=0.001)
    assert t.PRESETS["gpt3"].parameters() == pytest.approx(175e9, rel=0.01)


def test_our_count_agrees_with_the_surveys_flops() -> None:
    for name in ("bert-base", "bert-large", "gpt2"):
        for seq in (128, 512, 4096):
            config = t.PRESETS[name]
            mine, theirs = t.total(t.ours(config, seq)).flops, s.survey(config, seq)["total"].flops
            assert mine == pytest.approx(theirs, rel=0.02)


# ---------------------------------------------------------------------------------------------------------- properties

configs = st.builds(
    lambda kind, layers, head, heads, group, ratio: t.Config(
        name="any", kind=kind, layers=layers, hidden=head * heads, heads=heads, kv_heads=heads // group,
        ffn=ratio * head * heads, vocab=1000, positions=512,
    ),
    kind=st.sampled_from(["encoder", "decoder"]),
    layers=st.integers(1, 40),
    head=st.sampled_from([8, 64, 128]),
    heads=st.sampled_from([4, 12, 16]),
    group=st.sampled_from([1, 2, 4]),
    ratio=st.integers(1, 5),
)  # fmt: skip
dtypes = st.sampled_from(list(t.STORAGE))


@given(config=configs, seq=st.integers(1, 2048), batch=st.integers(1, 64), dtype=dtypes, fused=st.booleans())
def test_bytes_add_up(config: t.Config, seq: int, batch: int, dtype: str, fused: bool) -> None:
    operations = t.ours(config, seq, batch=batch, dtype=dtype, fused=fused)
    assert [op.name for op in operations] == list(t.OPERATORS)
    whole = t.total(operations)
    assert whole.bytes == pytest.approx(sum(op.bytes for op in operations))
    assert whole.bytes == pytest.approx(whole.weight_bytes + whole.activation_bytes + whole.kv_bytes)
    passes = seq if config.kind == "decoder" else 1
    assert whole.weight_bytes == pytest.approx(passes * t.weight_bytes(config, dtype))
    counts = s.survey(config, seq)
    assert counts["total"].bytes == pytest.approx(sum(c.bytes for n, c in counts.items() if n != "total"))


@given(config=configs, seq=st.integers(1, 2048), batch=st.integers(1, 32), dtype=dtypes)
def test_monotone_in_sequence_and_batch(config: t.Config, seq: int, batch: int, dtype: str) -> None:
    here = t.total(t.ours(config, seq, batch=batch, dtype=dtype))
    longer = t.total(t.ours(config, seq + 1, batch=batch, dtype=dtype))
    wider = t.total(t.ours(config, seq, batch=batch + 1, dtype=dtype))
    assert longer.flops > here.flops
    assert longer.bytes > here.bytes
    assert wider.flops > here.flops
    assert wider.bytes > here.bytes
    assert wider.weight_bytes == here.weight_bytes  # the batch shares the weights
    assert s.survey(config, seq + 2)["total"].flops > s.survey(config, seq)["total"].flops


@given(config=configs, seq=st.integers(1, 2048), dtype=dtypes)
def test_fusing_saves_bytes_never_flops(config: t.Config, seq: int, dtype: str) -> None:
    fused, loose = (t.total(t.ours(config, seq, dtype=dtype, fused=f)) for f in (True, False))
    assert fused.bytes < loose.bytes
    assert fused.flops == loose.flops


@given(config=configs, seq=st.integers(1, 2048))
def test_no_dtype_saves_more_than_its_weights(config: t.Config, seq: int) -> None:
    wide = t.total(t.ours(config, seq, dtype="fp32")).bytes
    for dtype, kept in t.STORAGE.items():
        ratio = wide / t.total(t.ours(config, seq, dtype=dtype)).bytes
        assert ratio <= 4 / min(kept.weight, kept.activation) + 1e-9


def test_grouped_queries_shrink_cache_and_projection() -> None:
    full = t.PRESETS["gpt2"]
    import msgspec

    grouped = msgspec.structs.replace(full, kv_heads=3)
    assert t.kv_cache_bytes(full, 100, 1, "bf16") == 4 * t.kv_cache_bytes(grouped, 100, 1, "bf16")
    assert t.kv_cache_bytes(full, 100, 1, "bf16") == 2 * 12 * 768 * 100 * 2
    assert grouped.layer_parameters() < full.layer_parameters()


# ----------------------------------------------------------------------------------------------------------- bad input

GOOD = {"kind": "encoder", "layers": 2, "hidden": 64, "heads": 4, "ffn": 256}


def test_a_config_is_read() -> None:
    config = t.from_table(dict(GOOD), where="tiny.toml")
    assert (config.name, config.head_size, config.kv_size) == ("tiny", 16, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": None}, "tiny.toml: missing heads"),
        ({"layers": None, "ffn": None}, "missing layers, ffn"),
        ({"hiden": 64}, 'unknown key "hiden" \\(did you mean "hidden"'),
        ({"hidden": 65}, "hidden 65 is not a multiple of heads 4"),
        ({"layers": 0}, "layers is 0"),
        ({"ffn": -1}, "ffn is -1"),
        ({"kv_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
        ({"vocab": -5}, "vocab is -5"),
        ({"kind": "both"}, "tiny.toml: Invalid enum value 'both'"),
        ({"layers": "many"}, "tiny.toml: Expected `int`"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, object], message: str) -> None:
    table = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(UsageError, match=message):
        t.from_table(table, where="tiny.toml")


@pytest.mark.parametrize(("seq", "batch"), [(0, 1), (-1, 1), (1, 0)])
def test_impossible_runs_are_refused(seq: int, batch: int) -> None:
    with pytest.raises(UsageError, match="must be at least 1"):
        t.ours(t.PRESETS["gpt2"], seq, batch=batch)


def test_unknown_dtype_and_model_are_refused() -> None:
    with pytest.raises(UsageError, match='unknown dtype "fp23"'):
        t.storage("fp23")
    with pytest.raises(UsageError, match='did you mean "bert-base"'):
        t.load("bert-bse")
    with pytest.raises(UsageError, match="cannot be read"):
        t.load("nowhere.toml")
