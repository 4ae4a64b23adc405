"""The Numba CUDA kernels. They use the module's own `cuda`, which the simulator replaces while one runs."""

from __future__ import annotations

import math
from typing import Any

from numba import cuda, float32

from pykernels.backends.numba_cuda import THREADS


def copy(a: Any, c: Any) -> None:
    for i in range(cuda.grid(1), a.shape[0], cuda.gridsize(1)):
        c[i] = a[i]


def triad(a: Any, b: Any, c: Any, q: Any) -> None:
    for i in range(cuda.grid(1), a.shape[0], cuda.gridsize(1)):
        c[i] = a[i] + q * b[i]


def store(c: Any, q: Any) -> None:
    for i in range(cuda.grid(1), c.shape[0], cuda.gridsize(1)):
        c[i] = q


def gemv(a: Any, x: Any, y: Any) -> None:
    part = cuda.shared.array(THREADS, float32)
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    for vector in range(x.shape[0]):
        total = float32(0)
        for j in range(thread, a.shape[1], cuda.blockDim.x):
            total += a[row, j] * x[vector, j]
        part[thread] = total
        cuda.syncthreads()
        step = cuda.blockDim.x // 2
        while step > 0:
            if thread < step:
                part[thread] += part[thread + step]
            cuda.syncthreads()
            step //= 2
        if thread == 0:
            y[vector, row] = part[0]
        cuda.syncthreads()


def softmax(x: Any, out: Any, scale: Any) -> None:
    part = cuda.shared.array(THREADS, float32)
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    top = scale * x[row, 0]
    for j in range(thread, x.shape[1], cuda.blockDim.x):
        top = max(top, scale * x[row, j])
    part[thread] = top
    cuda.syncthreads()
    step = cuda.blockDim.x // 2
    while step > 0:
        if thread < step:
            part[thread] = max(part[thread], part[thread + step])
        cuda.syncthreads()
        step //= 2
    top = part[0]
    cuda.syncthreads()
    total = float32(0)
    for j in range(thread, x.shape[1], cuda.blockDim.x):
        total += math.exp(scale * x[row, j] - top)
    part[thread] = total
    cuda.syncthreads()
    step = cuda.blockDim.x // 2
    while step > 0:
        if thread < step:
            part[thread] += part[thread + step]
        cuda.syncthreads()
        step //= 2
    factor = float32(1) / part[0]
    for j in range(thread, x.shape[1], cuda.blockDim.x):
        out[row, j] = math.exp(scale * x[row, j] - top) * factor


def embedding_bag(table: Any, indices: Any, offsets: Any, out: Any) -> None:
    bag = cuda.blockIdx.x
    for d in range(cuda.threadIdx.x, out.shape[1], cuda.blockDim.x):
        total = float32(0)
        for i in range(offsets[bag], offsets[bag + 1]):
            total += table[indices[i], d]
        out[bag, d] = total


def embedding_bag_weighted(table: Any, indices: Any, offsets: Any, weights: Any, out: Any) -> None:
    bag = cuda.blockIdx.x
    for d in range(cuda.threadIdx.x, out.shape[1], cuda.blockDim.x):
        total = float32(0)
        for i in range(offsets[bag], offsets[bag + 1]):
            total += weights[i] * table[indices[i], d]
        out[bag, d] = total
