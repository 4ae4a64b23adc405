"""The two generators, NumPy's and the native one, are equal bit for bit, and their data are what a recipe says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_case import session

from pykernels import _core
from pykernels.kernels.dtypes import ROUNDOFF, STORAGE, stored_bytes, widen
from pykernels.kernels.random import array, draws, values, words
from pykernels.model import Operand, Recipe

RANGES = {"int8": (-128, 128), "uint8": (0, 128), "int4": (-8, 8), "int32": (-5, 1_000_003), "int64": (3, 5 * 10**12)}


def recipe_of(dtype: str, seed: int) -> Recipe:
    return Recipe(seed=seed) if dtype in ROUNDOFF else Recipe("integers", seed, *RANGES[dtype])


def native(operand: Operand, threads: int = 1) -> np.ndarray:
    nbytes = stored_bytes(operand.shape, operand.dtype)
    arena = _core.Arena(nbytes, huge=False)
    r = operand.recipe
    session(threads).team.fill(
        arena, 0, int(np.prod(operand.shape)), operand.dtype, r.distribution == "integers", r.seed, r.low, r.high
    )
    return np.frombuffer(arena, np.uint8, nbytes)


@given(dtype=st.sampled_from(sorted(STORAGE)), seed=st.integers(0, 2**63 - 1), count=st.integers(1, 3000),
       threads=st.sampled_from([1, 2]))  # fmt: skip
def test_native_and_numpy_fills_are_equal(dtype: str, seed: int, count: int, threads: int) -> None:
    operand = Operand("a", "in", (2 * count,), dtype, recipe_of(dtype, seed))
    assert np.array_equal(native(operand, threads), array(operand).view(np.uint8))


@given(dtype=st.sampled_from(sorted(ROUNDOFF)), low=st.floats(-1e3, 1e3), width=st.floats(1e-3, 1e3))
def test_any_range_is_equal(dtype: str, low: float, width: float) -> None:
    operand = Operand("a", "in", (4000,), dtype, Recipe("uniform", 5, low, low + width))
    assert np.array_equal(native(operand), array(operand).view(np.uint8))


@given(low=st.integers(-(2**62), 2**62), span=st.integers(1, 2**62))
def test_any_span_of_int64_is_equal(low: int, span: int) -> None:
    low, high = int(float(low)), int(float(low + span))
    if high <= low:
        return
    operand = Operand("a", "in", (500,), "int64", Recipe("integers", 9, float(low), float(high)))
    found = array(operand)
    assert np.array_equal(native(operand), found.view(np.uint8))
    assert low <= found.min()
    assert found.max() < high


@pytest.mark.parametrize("dtype", sorted(STORAGE))
def test_random_access_agrees_with_the_whole(dtype: str) -> None:
    recipe = recipe_of(dtype, 11)
    whole = values(recipe, dtype, np.arange(1000))
    picked = np.array([[999, 0, 63], [64, 1, 512]])
    assert np.array_equal(values(recipe, dtype, picked), whole[picked])


@pytest.mark.parametrize("dtype", sorted(ROUNDOFF))
def test_uniform_stays_in_its_range_and_fills_it(dtype: str) -> None:
    found = widen(values(Recipe(), dtype, np.arange(200_000)), dtype)
    assert 0.5 <= found.min() < 0.51
    assert 1.49 < found.max() < 1.5
    assert abs(found.mean() - 1) < 0.005
    assert not np.any(found == 0)


@pytest.mark.parametrize("dtype", sorted(RANGES))
def test_integers_reach_both_ends(dtype: str) -> None:
    low, high = RANGES[dtype]
    found = values(recipe_of(dtype, 2), dtype, np.arange(100_000)).astype(np.int64)
    assert low <= found.min()
    assert found.max() < high
    if high - low <= 256:
        assert set(np.unique(found)) == set(range(low, high))


def test_streams_of_different_seeds_are_unrelated() -> None:
    a, b = (words(seed, np.arange(10_000)) for seed in (1, 2))
    assert not np.intersect1d(a, b).size
    bits = np.unpackbits((a ^ b).view(np.uint8))
    assert abs(bits.mean() - 0.5) < 0.002


def test_words_are_pinned() -> None:
    """A change of the generator would change every measurement's data, and the native twin: it has to be meant."""
    assert [hex(int(w)) for w in words(0, np.arange(2))] == PINNED
    assert draws(0, 8, np.arange(2)).tolist() == [int(PINNED[0], 16) & 255, int(PINNED[0], 16) >> 8 & 255]


PINNED = ["0xf5dd724ff3b8a536", "0x7c6ede0099d1dac1"]


def test_unknown_distribution_of_a_dtype() -> None:
    with pytest.raises(ValueError, match="no integers fill of dtype fp16"):
        values(Recipe("integers"), "fp16", np.arange(3))
    with pytest.raises(ValueError, match="no uniform fill of dtype int8"):
        session(1).team.fill(_core.Arena(64), 0, 8, "int8", False, 0, 0.0, 1.0)
