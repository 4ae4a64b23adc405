"""Softmax: every native variant at every level against float64, on ordinary rows and on the worst ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_case import implementations, levels, machine, session, wrong

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import narrow, widen
from pykernels.kernels.softmax import FAMILY, Softmax
from pykernels.machine.placement import MachineSpace
from pykernels.measure.verify import compare

NATIVE = ("fp32", "bf16")
WIDTHS = st.sampled_from([1, 2, 7, 15, 16, 17, 32, 33, 64, 65, 100, 128, 256, 257, 1000, 1024])


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", NATIVE)
@given(
    rows=st.sampled_from([1, 2, 3, 7, 20]), width=WIDTHS, scale=st.sampled_from([1.0, 0.125, -2.0]), mask=st.booleans(),
    parts=st.sampled_from([1, 1, 3]), data=st.data(),
)  # fmt: skip
@settings(max_examples=20)
def test_rows_agree_with_float64(
    dtype: str, isa: str, rows: int, width: int, scale: float, mask: bool, parts: int, data: st.DataObject
) -> None:
    problem = Softmax(dtype=dtype, rows=rows, width=width, scale=scale, mask=mask, parts=parts)
    chosen = data.draw(st.sampled_from(list(implementations(problem, isa))))
    assert wrong(problem, chosen, data.draw(st.sampled_from([1, 2]))) is None


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", NATIVE)
@pytest.mark.parametrize("width", [1, 16, 31, 64, 256, 1003])
def test_extreme_rows(dtype: str, isa: str, width: int) -> None:
    """Huge logits do not overflow, -inf gives exact zeros, a fully masked row is zeros, NaN makes its row NaN."""
    big = 3e38
    rows = np.zeros((6, width))
    rows[1] = np.linspace(-big, big, width)
    rows[2, : width // 2] = -np.inf
    rows[3] = -np.inf
    rows[4, -1] = np.nan
    rows[5] = np.where(np.arange(width) % 2, 88.0, -104.0)
    x = narrow(rows, dtype)
    problem = Softmax(dtype=dtype, rows=6, width=width)
    with np.errstate(over="ignore"):
        expected = problem.reference({"x": x})
    assert not expected["out"][3].any()
    for implementation in implementations(problem, isa):
        runner = session().prepare(problem, implementation)
        try:
            runner.inputs()["x"][:] = x
            runner.poison()
            runner.run(1)
            found = problem.observed(runner.outputs())
            assert compare(expected, found, problem.tolerance()) is None, implementation
            assert (widen(runner.outputs()["out"], dtype)[2, : width // 2] == 0).all()
        finally:
            session()._idle.clear()  # the buffers no longer hold what their recipe says


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": 0}, "width = 0"),
        ({"scale": float("nan")}, "scale = nan"),
        ({"level": "L1", "width": 1 << 20}, "not one row"),
        ({"level": "L1", "rows": 4}, "both given"),
        ({"rows": 1 << 40}, "beyond memory"),
    ],
)
def test_bad_shapes_are_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        FAMILY.build({"width": 1024, "dtype": "fp32", "scale": 1.0, "mask": False, **values}, MachineSpace(machine()))


def test_counts() -> None:
    problem = Softmax(dtype="bf16", rows=10, width=100, mask=True)
    assert problem.flops() == 6000
    assert problem.traffic().requested == 2 * 2000 + 400
