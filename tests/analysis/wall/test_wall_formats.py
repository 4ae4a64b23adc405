"""Bytes of low precision and of pruned matrices: published values, bounds and break-evens."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.analysis.wall import precision as p
from pykernels.analysis.wall import sparsity as s
from pykernels.errors import UsageError


def test_bytes_per_weight() -> None:
    found = {name: form.bytes_per_weight(4096) for name, form in p.FORMATS.items()}
    assert found["int4-g128"] == pytest.approx(0.5195, abs=1e-4)
    assert found["mxfp8"] == pytest.approx(1.03, abs=2e-3)
    assert found["mxfp4"] == pytest.approx(0.531, abs=1e-3)
    assert found["nvfp4"] == 0.5625
    assert 2 / found["int4-g128"] == pytest.approx(3.85, abs=5e-3)


def test_batch_that_balances_h100() -> None:
    assert next(round(b.batch) for b in p.balances() if b.device.startswith("H100")) == 295


formats = st.sampled_from(sorted(p.FORMATS))
sides = st.integers(1, 20000)


@given(rows=sides, cols=sides, batch=st.integers(1, 512), kept=formats, base=formats)
def test_no_format_gains_more_than_its_bytes(rows: int, cols: int, batch: int, kept: str, base: str) -> None:
    form, other = p.FORMATS[kept], p.FORMATS[base]
    found = p.gain(rows, cols, batch, form, other)
    bound = max(other.bytes_per_weight(cols) / form.bytes_per_weight(cols), other.activation / form.activation)
    assert found.byte_ratio <= bound * (1 + 1e-12)
    # under one bandwidth and one peak, times cannot differ by more than bytes do
    timed = p.timed_gain(rows, cols, batch, form, other, peaks=(1e12, 1e12), bandwidth=5e10)
    assert timed.gain is not None
    assert timed.gain <= max(found.byte_ratio, 1) * (1 + 1e-12)
    assert timed.gain >= min(found.byte_ratio, 1) * (1 - 1e-12)


@given(rows=st.integers(128, 8192), cols=st.integers(128, 8192), kept=st.sampled_from(["bf16", "int8", "int4-g128"]))
def test_gain_vanishes_with_the_batch(rows: int, cols: int, kept: str) -> None:
    """It nears one from above, or from below where scales outweigh the few weights they serve."""
    gains = [
        p.timed_gain(rows, cols, batch, p.FORMATS[kept], p.FORMATS["fp32"], peaks=(1e12, 1e12), bandwidth=5e10).gain
        for batch in (1, 4, 16, 64, 256)
    ]
    distance = [abs(math.log(gain)) for gain in gains if gain is not None]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(distance))


def test_sparse_bytes() -> None:
    assert s.break_even("csr", value=2) == pytest.approx(1 / 3)
    assert 2 / s.bytes_per_element("csr", 0.2, value=2) == pytest.approx(1.67, abs=5e-3)
    assert s.bytes_per_element("2:4", 0.5, value=2) / 2 == 0.5625
    assert 2 / s.bytes_per_element("2:4", 0.5, value=2) == pytest.approx(1.78, abs=3e-3)
    assert s.bytes_per_element("2:4", 0.5, value=1) == 0.625


@given(
    form=st.sampled_from(["csr", "coo", "bitmap"]), value=st.sampled_from([1.0, 2.0, 4.0]),
    index=st.sampled_from([2.0, 4.0]), columns=st.sampled_from([0, 16, 4096]),
)  # fmt: skip
def test_break_even_is_where_bytes_meet(form: str, value: float, index: float, columns: int) -> None:
    density = s.break_even(form, value=value, index=index, columns=columns)
    assert 0 < density < 1
    here = s.bytes_per_element(form, density, value=value, index=index, columns=columns)
    assert here == pytest.approx(value)
    below = s.bytes_per_element(form, density * 0.9, value=value, index=index, columns=columns)
    assert below < value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: s.bytes_per_element("csr", 1.2, value=2), "density is 1.2"),
        (lambda: s.bytes_per_element("2:4", 0.3, value=2), "exactly half"),
        (lambda: s.bytes_per_element("crs", 0.3, value=2), 'did you mean "csr"'),
        (lambda: s.break_even("ell", value=2), 'unknown sparse format "ell"'),
        (lambda: s.value_bytes("fp12"), 'unknown dtype "fp12"'),
        (lambda: p.format_of("int3"), 'unknown format "int3"'),
        (lambda: p.FORMATS["int8"].bytes_per_weight(), "length of a row is needed"),
        (lambda: p.product_bytes(0, 4, 1, p.FORMATS["bf16"]), "rows is 0"),
        (lambda: p.product_bytes(4, 4, -1, p.FORMATS["bf16"]), "batch is -1"),
    ],
)
def test_bad_input_is_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=message):
        call()
