"""Training bytes: the published examples, and the sums that must hold for any model."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.analysis.wall import memory as m
from pykernels.analysis.wall.transformer import PRESETS
from pykernels.errors import UsageError

BERT = PRESETS["bert-large"]


def test_zero_example() -> None:
    assert [f"{stage.total / 1e9:.3g}" for stage in m.zero_example()] == ["120", "31.4", "16.6", "1.88"]
    assert [round(s.traffic_elements / 7.5e9 * 64 / 63) for s in m.zero_example()] == [2, 2, 2, 3]


@pytest.mark.parametrize("row", m.published_rows(), ids=lambda r: f"{r.model}-{r.what}")
def test_published_training_memory_within_four_percent(row: m.PublishedTraining) -> None:
    if "misprint" in row.note:
        assert row.model == "AlexNet"
        return
    assert row.relative is not None
    assert abs(row.relative) < 0.04


def test_activation_formula() -> None:
    """s b h (34 + 5 a s / h) per layer, 34 without the scores, 2 for an input alone (GPT-3: 2.87, 0.86, 0.05 GB)."""
    gpt3 = PRESETS["gpt3"]
    whole, lean = (m.layer_activations(gpt3, 2048, 1, scores=s) for s in (True, False))
    assert whole == 2048 * 12288 * (34 + 5 * 96 * 2048 / 12288)
    assert lean == 2048 * 12288 * 34
    assert [round(x / 1e9, 2) for x in (whole, lean)] == [2.87, 0.86]
    assert round(m.activations(gpt3, 2048, 1, policy="full").stored / 96 / 1e9, 2) == 0.05


def test_optimizer_state_per_parameter() -> None:
    assert m.statistics_per_parameter(BERT) == 3.5
    each = {name: m.optimizer_bytes(BERT, o) / BERT.parameters() for name, o in m.OPTIMIZERS.items()}
    assert (each["sgd"], each["sgd-m"], each["adam"], each["adam-8bit"], each["adahessian"]) == (0, 4, 8, 2, 8)
    layers_only = 4 + 2 * 4 * 3.5  # momentum, statistics and inverse roots of a layer
    assert 0.8 * layers_only < each["shampoo"] == each["k-fac"] < layers_only
    assert [m.zero(1, 8, stage=0, devices=1, precision=p).state for p in ("mixed", "fp32")] == [16, 16]
    assert m.zero(1, 2, stage=0, devices=1).state == 10


def test_a_vocabulary_keeps_a_diagonal_statistic() -> None:
    assert m.statistic_elements(50257, 768) == 50257 + 768 * 768


def test_sqrt_is_not_the_lowest_peak_of_a_transformer() -> None:
    kept = {policy: m.activations(BERT, 512, 16, policy=policy).peak for policy in m.POLICIES}
    assert kept["full"] < kept["sqrt"] < kept["selective"] < kept["none"]
    assert m.best_segment(BERT, 512, 16) == 1


@given(
    parameters=st.floats(1e3, 1e13), devices=st.integers(1, 4096), optimizer=st.sampled_from(sorted(m.OPTIMIZERS)),
    precision=st.sampled_from(sorted(m.PRECISIONS)),
)  # fmt: skip
def test_stages_add_up(parameters: float, devices: int, optimizer: str, precision: str) -> None:
    state = parameters * m.OPTIMIZERS[optimizer].per_parameter
    stages = [m.zero(parameters, state, stage=s, devices=devices, precision=precision) for s in range(4)]
    assert stages[3].state * devices == pytest.approx(stages[0].state)
    totals = [stage.state for stage in stages]
    assert all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(totals))
    assert stages[0].total == stages[0].parameters + stages[0].gradients + stages[0].optimizer_state
    assert stages[3].traffic_elements == pytest.approx(1.5 * stages[0].traffic_elements)
    if devices == 1:
        assert [stage.traffic_elements for stage in stages] == [0, 0, 0, 0]


@given(
    seq=st.integers(1, 4096), batch=st.integers(1, 64), policy=st.sampled_from(m.POLICIES), fused=st.booleans(),
    name=st.sampled_from(["bert-base", "gpt2-xl"]),
)  # fmt: skip
def test_activations_grow_and_policies_only_save(seq: int, batch: int, policy: str, fused: bool, name: str) -> None:
    config = PRESETS[name]
    here = m.activations(config, seq, batch, policy=policy, fused=fused)
    assert m.activations(config, seq + 1, batch, policy=policy, fused=fused).peak > here.peak
    assert m.activations(config, seq, batch + 1, policy=policy, fused=fused).peak > here.peak
    assert here.peak <= m.activations(config, seq, batch, policy="none", fused=False).peak * (1 + 1e-12)
    assert 0 <= here.extra_flops_share <= 1 / 3
    wide = m.activations(config, seq, batch, policy=policy, fused=fused, element=4)
    assert here.peak < wide.peak <= 2 * here.peak


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage": 4}, "ZeRO stage is 4"),
        ({"devices": 0}, "devices is 0, it must be at least 1"),
        ({"devices": -8}, "devices is -8"),
        ({"precision": "int3"}, 'unknown precision "int3"'),
        ({"optimizer": "addam"}, 'unknown optimizer "addam" \\(did you mean "adam"'),
        ({"policy": "some"}, 'unknown rematerialization "some"'),
        ({"seq": 0}, "seq is 0"),
        ({"batch": -1}, "batch is -1"),
    ],
)
def test_bad_choices_are_refused(arguments: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"seq": 128, "batch": 1}
    with pytest.raises(UsageError, match=message):
        m.training(BERT, **{**good, **arguments})  # type: ignore[arg-type]
