"""Norms against float64: every level, odd widths, shifted rows, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_case import implementations, levels, session, wrong

from pykernels.errors import UsageError
from pykernels.kernels.norm import FLOPS, Norm, build
from pykernels.model import Implementation


@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 900),
    op=st.sampled_from(sorted(FLOPS)),
    parts=st.integers(1, 3),
    dtype=st.sampled_from(["fp32", "bf16"]),
    isa=st.sampled_from(levels()),
    threads=st.sampled_from([1, 2]),
)
def test_odd_shapes(rows: int, width: int, op: str, parts: int, dtype: str, isa: str, threads: int) -> None:
    problem = Norm(op=op, rows=rows, width=width, parts=parts, dtype=dtype)
    found = list(implementations(problem, isa))
    assert found
    for implementation in found:
        assert wrong(problem, implementation, threads) is None, implementation


@pytest.mark.parametrize("isa", levels())
def test_a_large_mean_keeps_the_digits_of_the_variance(isa: str) -> None:
    problem = Norm(op="layernorm", rows=5, width=777, dtype="fp32")
    runner = session(1).prepare(problem, Implementation("native", isa, "plain"))
    runner.inputs()["x"][...] += 1000
    runner.run(1)
    expected = problem.reference(runner.inputs())["y"]
    assert np.abs(runner.outputs()["y"] - expected).max() < 1e-3  # x itself has steps of 6e-5
    runner.close()
    session(1)._idle.clear()


def test_bytes_and_bad_width() -> None:
    problem = Norm(op="rmsnorm", rows=10, width=64, dtype="bf16")
    assert problem.traffic().compulsory == 2 * 10 * 64 * 2
    assert problem.params() == {"op": "rmsnorm", "width": "64", "rows": "10"}
    with pytest.raises(UsageError, match="width = 0"):
        build({"op": "rmsnorm", "width": 0, "dtype": "fp32"}, None)  # type: ignore[arg-type]
