"""The CSR product against float64: every level and variant, densities, index structure, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_case import implementations, levels, wrong

from pykernels.analysis.wall import sparsity
from pykernels.errors import UsageError
from pykernels.kernels.spmv import Spmv, build


@given(
    rows=st.integers(1, 60),
    cols=st.integers(1, 700),
    density=st.floats(0.01, 1),
    parts=st.integers(1, 3),
    dtype=st.sampled_from(["fp32", "bf16"]),
    isa=st.sampled_from(levels()),
    threads=st.sampled_from([1, 2]),
)
def test_every_variant(rows: int, cols: int, density: float, parts: int, dtype: str, isa: str, threads: int) -> None:
    problem = Spmv(rows=rows, cols=cols, density=density, parts=parts, dtype=dtype)
    for implementation in implementations(problem, isa):
        assert wrong(problem, implementation, threads) is None, implementation


@given(cols=st.integers(1, 500), density=st.floats(0.001, 1))
def test_columns_rise_and_are_distinct(cols: int, density: float) -> None:
    problem = Spmv(rows=7, cols=cols, density=density, dtype="fp32")
    columns = problem.host_input("columns").reshape(7, -1)
    assert columns.min() >= 0
    assert columns.max() < cols
    assert (np.diff(columns, axis=1) > 0).all()


def test_bytes_are_those_of_the_format() -> None:
    problem = Spmv(rows=4096, cols=4096, density=0.25, dtype="fp32")
    vectors = 4 * 2 * 4096 + 4
    derived = sparsity.bytes_per_element("csr", 0.25, value=4, columns=4096) * 4096**2
    assert problem.traffic().compulsory == derived + vectors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"density": 0}, "density = 0"),
        ({"rows": 0}, "rows = 0"),
        ({"rows": 1 << 20, "cols": 1 << 20, "density": 0.5}, "32-bit"),
    ],
)
def test_bad_input(values: dict[str, object], message: str) -> None:
    class Space:
        threads = 1

    with pytest.raises(UsageError, match=message):
        build({"rows": 64, "cols": 64, "density": 0.5, "dtype": "fp32", **values}, Space())  # type: ignore[arg-type]
