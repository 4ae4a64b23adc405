"""Kernels by their own parameter block, on the host shim against NumPy: odd sizes, tails, empty bags, row formats."""

from __future__ import annotations

from typing import Any

import host_build
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykernels.backends import cuda_table
from pykernels.kernels import dtypes

Array = np.ndarray[Any, Any]
SCRATCH = np.zeros(cuda_table.SCRATCH_BYTES // 8, np.uint64)


def run(
    kernel: str, dtype: str, variant: str, arrays: list[Array | None], dims: list[int], tail: tuple[Array, ...] = ()
) -> None:
    (entry,) = (e for e in cuda_table.find(kernel, "", dtype) if e.variant == variant)
    pointers = [0 if array is None else array.ctypes.data for array in arrays]
    if tail:
        pointers += [0] * (cuda_table.POINTERS - len(tail) - len(pointers)) + [array.ctypes.data for array in tail]
    args = cuda_table.pack_args(pointers, dims, [], reps=1, tune=0, scratch=SCRATCH.ctypes.data)
    host_build.launch_entry(entry, entry.launch(dims, 1, 0), args)


def stored_rows(rng: np.random.Generator, dtype: str, rows: int, d: int) -> tuple[Array, Array]:
    """(table as stored, values in float64) of a row format."""
    if dtype not in ("int8", "int4"):
        table = dtypes.narrow(rng.uniform(-1, 1, (rows, d)), dtype)
        return table, dtypes.widen(table, dtype)
    q = rng.integers(0, 256 if dtype == "int8" else 16, (rows, d))
    even = np.pad(q, ((0, 0), (0, d % 2)))
    packed = q if dtype == "int8" else even[:, ::2] | even[:, 1::2] << 4
    factors = rng.uniform(0.01, 0.02, (rows, 2)).astype(np.float32)
    table = np.concatenate([packed.astype(np.uint8), factors.view(np.uint8).reshape(rows, 8)], axis=1)
    return np.ascontiguousarray(table), q * factors[:, :1].astype(np.float64) + factors[:, 1:]


@pytest.mark.parametrize("variant", ["simple", "warp", "cached"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8", "int4"])
@given(
    d=st.sampled_from([1, 2, 5, 8, 32, 40, 64, 96, 136]), seed=st.integers(0, 99), weighted=st.booleans(),
    wide=st.booleans(),
)  # fmt: skip
@settings(max_examples=2 if host_build.SANITIZE else 12)
def test_embedding_bag(variant: str, dtype: str, d: int, seed: int, weighted: bool, wide: bool) -> None:
    rng = np.random.default_rng(seed)
    rows, bags = 23, 5
    lengths = rng.integers(0, 40, bags)
    lengths[seed % bags] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64 if wide else np.int32)
    indices = rng.integers(0, rows, int(offsets[-1])).astype(np.int64 if wide else np.int32)
    weights = rng.uniform(0.5, 1.5, len(indices)).astype(np.float32) if weighted else None
    table, values = stored_rows(rng, dtype, rows, d)
    out = np.full((bags, d), np.nan, np.float32)
    slots = np.full(rows, -1, np.int32)
    slots[::2] = np.arange(len(slots[::2]))
    row_bytes = table.strides[0]
    dims = [bags, d, rows, len(indices), indices.itemsize, row_bytes, offsets.itemsize, 1, 0, int(weighted)]
    hidden = table.copy()
    if variant == "cached":
        hidden[::2] = 255 if table.dtype == np.uint8 else 99  # hot rows must come from the cache
    run(
        "embedding_bag", dtype, variant, [hidden, indices, offsets, weights, out], dims,
        tail=(slots, np.ascontiguousarray(table[::2])) if variant == "cached" else (),
    )  # fmt: skip
    scale = np.ones(len(indices)) if weights is None else weights.astype(np.float64)
    for bag in range(bags):
        chosen = slice(int(offsets[bag]), int(offsets[bag + 1]))
        expected = (values[indices[chosen]] * scale[chosen, None]).sum(axis=0)
        np.testing.assert_allclose(out[bag], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_narrowing_rounds_as_numpy_does(dtype: str) -> None:
    """Through gemv with a 1 x 1 matrix: y = a * 1, every rounding case of the type."""
    values = np.array([1.0, 65504.0, 6e-8, 3.1e-5, 0.33325195, 2.0**-14, 1e-7], np.float64)
    a = dtypes.narrow(values, dtype).reshape(-1, 1)
    one, y = dtypes.narrow(np.ones(1), dtype), dtypes.narrow(np.zeros(len(values)), dtype)
    run("gemv", dtype, "warp", [a, None, one, y], [len(values), 1, 1, 1])
    np.testing.assert_array_equal(y, a[:, 0])


def test_grid_sums_leave_their_counter_at_zero() -> None:
    assert SCRATCH[0] == 0
