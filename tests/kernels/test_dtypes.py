"""Widening and narrowing of storage types."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.errors import UsageError
from pykernels.kernels.dtypes import ROUNDOFF, narrow, storage, stored_bytes, stored_shape, widen


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_every_16_bit_pattern_survives(dtype: str) -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    stored = patterns.view(np.float16) if dtype == "fp16" else patterns
    wide = widen(stored, dtype)
    back = narrow(wide, dtype).view(np.uint16)
    finite = ~np.isnan(wide)
    assert np.array_equal(back[finite], patterns[finite])
    assert np.isnan(widen(narrow(wide[~finite], dtype), dtype)).all()


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1))
def test_bf16_rounds_to_nearest(values: list[float]) -> None:
    x = np.array(values, dtype=np.float32)
    found = widen(narrow(x, "bf16"), "bf16")
    normal = np.abs(x) >= 2.0**-126
    assert np.all(np.abs(found - x)[normal] <= ROUNDOFF["bf16"] * np.abs(x.astype(np.float64))[normal])


def test_bf16_ties_go_to_even() -> None:
    x = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8], dtype=np.float32)
    assert widen(narrow(x, "bf16"), "bf16").tolist() == [1.0, 1 + 2.0**-6]


@given(st.lists(st.integers(-8, 7), min_size=2, max_size=64).filter(lambda v: len(v) % 2 == 0))
def test_int4_packs_the_low_nibble_first(values: list[int]) -> None:
    packed = narrow(np.array(values), "int4")
    assert packed.dtype == np.uint8
    assert len(packed) == len(values) // 2
    assert (packed[0] & 15) == values[0] % 16
    assert widen(packed, "int4").tolist() == values


def test_shapes_and_bytes() -> None:
    assert stored_shape((3, 8), "int4") == (3, 4)
    assert stored_bytes((3, 8), "int4") == 12
    assert stored_bytes((3, 8), "bf16") == 48
    assert stored_bytes((), "fp64") == 8
    with pytest.raises(ValueError, match="even last axis"):
        stored_shape((3, 7), "int4")


def test_unknown_dtype_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r'unknown dtype "bf61" \(did you mean "bf16"\?\)'):
        storage("bf61")
