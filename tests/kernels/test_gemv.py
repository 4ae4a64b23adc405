"""Matrix times vectors: every native variant at every level against float64, and what a sweep may ask for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_case import implementations, levels, machine, session, wrong

from pykernels.errors import UsageError
from pykernels.kernels.gemv import FAMILY, Gemv
from pykernels.machine.placement import MachineSpace

NATIVE = ("fp64", "fp32", "bf16", "int8", "int4")


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", NATIVE)
@given(
    rows=st.sampled_from([1, 2, 3, 4, 5, 7, 31, 64]),
    cols=st.sampled_from([1, 2, 7, 31, 64, 97, 128, 129, 257, 384, 1001]),
    batch=st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 21]), parts=st.sampled_from([1, 1, 3]), data=st.data(),
)  # fmt: skip
@settings(max_examples=15)
def test_products_agree_with_float64(
    dtype: str, isa: str, rows: int, cols: int, batch: int, parts: int, data: st.DataObject
) -> None:
    cols += cols % 2 if dtype == "int4" else 0
    problem = Gemv(dtype=dtype, rows=rows, cols=cols, batch=batch, parts=parts)
    chosen = data.draw(st.sampled_from(list(implementations(problem, isa))))
    assert wrong(problem, chosen, data.draw(st.sampled_from([1, 2]))) is None


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_digits_hold_each_group_s_own_range(dtype: str) -> None:
    """x in 24 bits by groups of 128: a large group takes no digits from a small one, and an infinity shows as NaN."""
    problem = Gemv(dtype=dtype, rows=6, cols=386, batch=3)
    found = [i for isa in levels() for i in implementations(problem, isa) if i.variant == "digits"]
    if not found:
        pytest.skip("this CPU has no dot product of bytes in one instruction")
    runner = session(1).prepare(problem, found[-1])
    inputs = runner.inputs()
    inputs["x"][:, :128] *= 1e-20
    inputs["x"][:, 128:256] *= -1e20
    inputs["x"][1] = 0
    weights = problem.weights(inputs)
    for factor in (1.0, 0.0):
        inputs["x"][:, 128:256] *= np.float32(factor)
        runner.run(1)
        x = inputs["x"].astype(np.float64)
        tops = np.repeat(np.maximum.reduceat(np.abs(x), [0, 128, 256, 384], axis=1), [128, 128, 128, 2], axis=1)
        bound = 2.0**-22 * tops @ np.abs(weights).T + 1e-6 * np.abs(x @ weights.T)
        assert (np.abs(runner.outputs()["y"] - x @ weights.T) <= bound).all()
    inputs["x"][2, 200] = np.inf
    runner.run(1)
    assert np.isnan(runner.outputs()["y"][2]).all()
    assert np.isfinite(runner.outputs()["y"][:2]).all()
    runner.close()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dtype": "int4", "batch": 1, "rows": 8, "cols": 129}, "even number"),
        ({"dtype": "fp32", "batch": 0, "level": "L2"}, "batch = 0"),
        ({"dtype": "fp32", "batch": 1, "level": "L2", "rows": 4}, "both given"),
        ({"dtype": "fp32", "batch": 64, "level": "L1", "cols": 4096}, "fills the level"),
        ({"dtype": "fp64", "batch": 1, "rows": 1 << 22, "cols": 1 << 16}, "beyond memory"),
    ],
)
def test_bad_shapes_are_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        FAMILY.build(values, MachineSpace(machine()))


def test_counts() -> None:
    problem = Gemv(dtype="int4", rows=256, cols=1024, batch=2)
    assert problem.flops() == 2 * 256 * 1024 * 2
    assert problem.traffic().by_operand == {"a": 131072, "scales": 8192, "x": 8192, "y": 2048}
    assert Gemv(dtype="fp32", rows=4096, cols=4096, parts=8).traffic().by_operand["a"] == 2**23
