"""The closed form: its terms, skew, amplification, and what a fit of it can and cannot be used for."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.analysis.crossover import model
from pykernels.analysis.crossover.workload import Workload, harmonic, zipf_share
from pykernels.errors import UsageError

sys.path.insert(0, str(Path(__file__).parents[2]))

from crossover_runs import BASE, CPU, GPU


@given(k=st.integers(1, 5000), alpha=st.floats(0, 1.5))
def test_harmonic_sums_agree_with_the_plain_sum(k, alpha):
    assert harmonic(k, alpha) == pytest.approx(float(np.sum(np.arange(1, k + 1, dtype=float) ** -alpha)), rel=1e-3)


@pytest.mark.parametrize(
    ("alpha", "hot", "share"), [(1.05, 0.01, 0.86), (1.05, 0.1, 0.94), (0.8, 0.01, 0.39), (0.8, 0.1, 0.63)]
)
def test_share_of_the_hottest_of_a_billion_rows(alpha, hot, share):
    assert zipf_share(hot * 1e9, 1e9, alpha) == pytest.approx(share, abs=0.01)


@given(alpha=st.floats(0, 1.5), a=st.floats(1, 1e6), b=st.floats(1, 1e6))
def test_a_larger_cache_never_catches_less(alpha, a, b):
    low, high = sorted((a, b))
    assert 0 <= zipf_share(low, 1e6, alpha) <= zipf_share(high, 1e6, alpha) <= 1


@pytest.mark.parametrize(("dim", "pooling", "ratio"), [(64, 8, 7.1), (64, 20, 15.2), (64, 80, 35.6), (128, 20, 17.3)])
def test_amplification_of_known_shapes(dim, pooling, ratio):
    """Offsets are counted too, so the ratio is a little under L*W / (L*s_i + D*s_o)."""
    load = Workload(tables=1, rows=10**6, dim=dim, bags=64, pooling=pooling)
    assert load.amplification == pytest.approx(ratio, rel=0.02)


def test_row_bytes_count_scale_and_bias():
    assert Workload(tables=1, rows=1, dim=64, bags=1, pooling=1, dtype="int8").row_bytes == 72
    assert Workload(tables=1, rows=1, dim=64, bags=1, pooling=1, dtype="int4").row_bytes == 40


def test_which_ends_pay_for_the_link():
    link = {ends: model.terms(GPU if ends[0] == "G" else CPU, BASE, ends) for ends in ("C0", "C1", "G1", "G2", "G3")}
    assert link["C0"]["link in"] == link["C0"]["link out"] == 0
    assert link["C1"]["link in"] == pytest.approx(BASE.result_bytes / CPU.h2d)
    assert link["G1"]["link out"] == 0
    assert link["G2"]["link out"] == pytest.approx(BASE.result_bytes / GPU.d2h)
    assert link["G3"]["link in"] == pytest.approx((BASE.input_bytes + BASE.gathered) / GPU.h2d)


@given(hit=st.floats(0, 1))
def test_a_row_cache_lies_between_zero_copy_and_resident(hit):
    zero_copy, cached, resident = (
        model.serial(model.terms(GPU, BASE, ends, hit=h)) for ends, h in (("G3", None), ("G5", hit), ("G2", None))
    )
    assert resident * (1 - 1e-9) <= cached <= zero_copy * (1 + 1e-9)


@given(factor=st.floats(1, 100))
def test_more_bags_never_take_less(factor):
    more = msgspec.structs.replace(BASE, bags=round(BASE.bags * factor))
    for device, ends in ((CPU, "C0"), (GPU, "G2")):
        assert model.serial(model.terms(device, more, ends)) >= model.serial(model.terms(device, BASE, ends))


def test_a_table_in_cache_gathers_at_the_cache_ceiling():
    small = msgspec.structs.replace(BASE, rows=1000)
    parts = model.terms(CPU, small, "C0")
    assert parts["rows"] == pytest.approx(small.lookups / CPU.levels[0].row_rate)


def observations(count: int = 40, noise: float = 0.02) -> list[model.Observation]:
    dice = random.Random(3)
    found = []
    for _ in range(count):
        load = msgspec.structs.replace(
            BASE,
            bags=dice.choice([16, 64, 256, 1024, 4096]),
            dim=dice.choice([32, 64, 128]),
            pooling=dice.choice([1, 8, 40]),
        )
        seconds = model.serial(model.terms(GPU, load, "G2")) * math.exp(dice.gauss(0, noise))
        found.append(model.Observation(load, "G2", seconds))
    return found


START = msgspec.structs.replace(
    GPU, floor_s=1e-5, h2d=3e10, d2h=8e10, levels=(model.Level("HBM", math.inf, 8e9, 3.3e12),)
)


def test_a_fit_to_half_the_cells_predicts_the_rest():
    some = observations(80)
    fitted = model.fit(some[::2], START)
    errors = [abs(math.log(fitted.predict(one.load, "G2") / one.seconds)) for one in some[1::2]]
    assert float(np.median(errors)) <= 0.15
    assert fitted.device.floor_s == pytest.approx(GPU.floor_s, rel=0.1)


def test_an_outlier_does_not_pull_the_fit():
    some = observations(40)
    some[5] = msgspec.structs.replace(some[5], seconds=some[5].seconds * 6)
    fitted = model.fit(some, START)
    assert fitted.loo_median < 0.06
    assert fitted.device.floor_s == pytest.approx(GPU.floor_s, rel=0.1)


def test_leave_one_out_error_is_near_the_noise():
    quiet, loud = (model.fit(observations(30, noise), START) for noise in (0.005, 0.08))
    assert quiet.loo_median < 0.02 < loud.loo_median < 0.15


def test_a_fit_of_one_card_predicts_another_by_swapping_bandwidth_and_link():
    fitted = model.fit(observations(60), START)
    other = msgspec.structs.replace(GPU, h2d=2e10, d2h=2e10, levels=(model.Level("HBM", math.inf, 1.5e10, 1.2e12),))
    swapped = msgspec.structs.replace(
        fitted.device, h2d=2e10, d2h=2e10, levels=(msgspec.structs.replace(fitted.device.levels[0], bandwidth=1.2e12),)
    )
    for one in observations(20):
        truth = model.serial(model.terms(other, one.load, "G2"))
        assert model.serial(model.terms(swapped, one.load, "G2")) == pytest.approx(truth, rel=0.15)


def test_the_form_is_never_used_outside_the_recorded_range():
    fitted = model.fit(observations(), START)
    with pytest.raises(UsageError, match=r"batch = 100000 lies outside the recorded range 16 to 4096"):
        fitted.predict(msgspec.structs.replace(BASE, bags=100_000), "G2")
    with pytest.raises(UsageError, match="no G1 cells"):
        fitted.predict(BASE, "G1")


def test_too_few_cells_are_refused():
    with pytest.raises(UsageError, match="at least 8"):
        model.fit(observations(5), START)
