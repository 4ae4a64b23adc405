"""Embedding lookups: byte counts, and every native variant at every level against float64."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_case import implementations, levels, session, wrong

from pykernels.errors import UsageError
from pykernels.kernels import embedding, embedding_keys
from pykernels.kernels.embedding import EmbeddingBag, EmbeddingGather, mean_lines, row_bytes
from pykernels.kernels.indices import Draw
from pykernels.machine.placement import MachineSpace
from pykernels.model import Implementation, Machine
from pykernels.units import MIB

LENGTHS = st.sampled_from([(0, 0), (1, 1), (0, 3), (2, 2), (7, 7), (1, 60), (33, 33)])
WIDTHS = [1, 2, 7, 15, 16, 17, 31, 32, 47, 64, 65, 96, 100, 128, 136, 192, 256, 272, 300, 511]


@st.composite
def bags(draw: st.DrawFn, dtype: str) -> EmbeddingBag:
    tables = draw(st.sampled_from([1, 1, 2, 3]))
    mode = draw(st.sampled_from(["sum", "mean"]))
    return EmbeddingBag(
        dtype=dtype, rows=tuple(draw(st.sampled_from([1, 2, 13, 257])) for _ in range(tables)),
        dim=draw(st.sampled_from(WIDTHS)), batch=draw(st.sampled_from([1, 2, 5, 13])),
        pooling=tuple(draw(LENGTHS) for _ in range(tables)), mode=mode,
        weighted=mode == "sum" and draw(st.booleans()), index=draw(st.sampled_from(["int32", "int64"])),
        draw=Draw(draw(st.sampled_from([0.0, 1.2])), seed=draw(st.integers(0, 99))), sets=draw(st.sampled_from([1, 3])),
    )  # fmt: skip


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", embedding_keys.DTYPES)
@given(data=st.data(), threads=st.sampled_from([1, 2]))
@settings(max_examples=12)
def test_bags_agree_with_float64(dtype: str, isa: str, data: st.DataObject, threads: int) -> None:
    problem = data.draw(bags(dtype))
    chosen = data.draw(st.sampled_from(list(implementations(problem, isa))))
    assert wrong(problem, chosen, threads) is None


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", embedding_keys.DTYPES)
@given(
    dim=st.sampled_from(WIDTHS),
    batch=st.sampled_from([1, 2, 17, 100]),
    data=st.data(),
    index=st.sampled_from(["int32", "int64"]),
)
@settings(max_examples=8)
def test_gathers_agree_with_float64(
    dtype: str, isa: str, dim: int, batch: int, data: st.DataObject, index: str
) -> None:
    problem = EmbeddingGather(dtype=dtype, rows=(97, 5), dim=dim, batch=batch, index=index)
    chosen = data.draw(st.sampled_from(list(implementations(problem, isa))))
    assert wrong(problem, chosen, data.draw(st.sampled_from([1, 2]))) is None
