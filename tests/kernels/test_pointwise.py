"""GELU, SiLU and residuals against float64: every level, odd lengths, extreme values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_case import implementations, levels, session, wrong

from pykernels.kernels.pointwise import OPS, Pointwise, gelu
from pykernels.model import Implementation


@given(
    n=st.integers(1, 3000),
    op=st.sampled_from(sorted(OPS)),
    parts=st.integers(1, 3),
    dtype=st.sampled_from(["fp32", "bf16"]),
    isa=st.sampled_from(levels()),
    threads=st.sampled_from([1, 2]),
)
def test_odd_lengths(n: int, op: str, parts: int, dtype: str, isa: str, threads: int) -> None:
    problem = Pointwise(op=op, n=n, parts=parts, dtype=dtype)
    found = list(implementations(problem, isa))
    assert found
    for implementation in found:
        assert wrong(problem, implementation, threads) is None, implementation


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("op", ["gelu", "silu"])
def test_far_from_zero(op: str, isa: str) -> None:
    """Large arguments give themselves, very negative ones zero, NaN stays."""
    problem = Pointwise(op=op, n=5, dtype="fp32")
    runner = session(1).prepare(problem, Implementation("native", isa, "plain"))
    runner.inputs()["x"][...] = [50.0, -200.0, np.nan, 0.0, 1e4]
    runner.run(1)
    y = runner.outputs()["y"].copy()
    runner.close()
    session(1)._idle.clear()
    assert y[0] == 50
    assert y[4] == 1e4
    assert abs(y[1]) < 1e-30
    assert np.isnan(y[2])
    assert y[3] == 0


def test_gelu_is_the_tanh_form() -> None:
    x = np.linspace(-5, 5, 101)
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    assert np.allclose(gelu(x), tanh, rtol=1e-12, atol=1e-15)
