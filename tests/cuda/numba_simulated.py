"""Run by test_numba_cuda in a process with NUMBA_ENABLE_CUDASIM=1: every Numba kernel on a tiny grid against NumPy."""

import numpy as np
from numba import cuda

from pykernels.backends import numba_cuda

BLOCKS, THREADS = 3, 16


def run(name: str, *arguments: object) -> None:
    cuda.jit(numba_cuda.kernels()[name])[BLOCKS, THREADS](*arguments)


def main() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(101, np.float32), rng.random(101, np.float32)
    c = np.zeros_like(a)
    run("copy", a, c)
    np.testing.assert_array_equal(c, a)
    run("triad", a, b, c, np.float32(1.25))
    np.testing.assert_allclose(c, a + np.float32(1.25) * b, rtol=1e-6)
    run("store", c, np.float32(1.25))
    assert (c == 1.25).all()

    matrix, x, y = (
        rng.random((BLOCKS, 37), np.float32),
        rng.random((2, 37), np.float32),
        np.zeros((2, BLOCKS), np.float32),
    )
    run("gemv", matrix, x, y)
    np.testing.assert_allclose(y, x @ matrix.T, rtol=1e-5)
    out = np.zeros_like(matrix)
    run("softmax", matrix, out, np.float32(0.5))
    expected = np.exp(0.5 * matrix.astype(np.float64))
    np.testing.assert_allclose(out, expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)

    table, offsets = rng.random((11, 20), np.float32), np.array([0, 4, 4, 9], np.int64)
    indices, weights = rng.integers(0, 11, 9), rng.random(9, np.float32)
    bags = np.full((BLOCKS, 20), np.nan, np.float32)
    run("embedding_bag", table, indices, offsets, bags)
    for bag in range(BLOCKS):
        chosen = slice(offsets[bag], offsets[bag + 1])
        np.testing.assert_allclose(bags[bag], table[indices[chosen]].sum(axis=0), rtol=1e-5)
    run("embedding_bag_weighted", table, indices, offsets, weights, bags)
    for bag in range(BLOCKS):
        chosen = slice(offsets[bag], offsets[bag + 1])
        np.testing.assert_allclose(bags[bag], weights[chosen] @ table[indices[chosen]], rtol=1e-5)
    print("all kernels agree")


if __name__ == "__main__":
    main()
