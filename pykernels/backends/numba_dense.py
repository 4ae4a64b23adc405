"""Numba's dense kernels: a product in blocks, attention in tiles with a running softmax, norms and pointwise functions.

All rest on one tile, c += a b by four rows and four steps at a time, which LLVM turns into vectors along the columns.
It passes over c in the L1 where a hand-written microkernel keeps it in registers: Numba has no way to ask for that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from pykernels.backends.pytimed import Arrays, Passes
from pykernels.model import Problem

DTYPES = {"gemm": ("fp64", "fp32"), "attention": ("fp32",), "norm": ("fp32",), "pointwise": ("fp32",)}
OPS = {"gelu": 0, "silu": 1, "residual_add": 2}


def lacks(problem: Problem) -> str:
    """What is not written here."""
    if problem.dtype not in DTYPES[problem.kernel]:
        return f"Numba has no {problem.dtype} arithmetic for {problem.kernel} on a CPU"
    return ""


def bind(problem: Any, a: Arrays) -> Passes:
    """Passes of the kernel; compiled by a first pass before any is timed."""
    import numpy as np

    code = compiled()
    if problem.kernel == "gemm":
        left, right, out = (problem.matrices(a, name) for name in "abc")
        alpha, beta = (left.dtype.type(x) for x in (problem.alpha, problem.beta))
        return lambda first, reps: code["gemm"](left, right, out, alpha, beta, reps)
    if problem.kernel == "attention":
        shape = (-1, problem.group * problem.lq, problem.dim)
        q, o = (a[name].reshape(shape) for name in "qo")
        k, v = (a[name].reshape(-1, problem.lk, problem.dim) for name in "kv")
        scale = np.float32(problem.scale)
        return lambda first, reps: code["attention"](q, k, v, o, problem.lq, problem.causal, scale, reps)
    if problem.kernel == "norm":
        beta, centred = (a["beta"], True) if problem.op == "layernorm" else (a["gamma"], False)
        return lambda first, reps: code["norm"](a["x"], a["gamma"], beta, a["y"], centred, problem.parts, first, reps)
    other = a["r"] if problem.op == "residual_add" else a["x"]
    op = OPS[problem.op]
    return lambda first, reps: code["pointwise"](a["x"], other, a["y"], op, problem.parts, first, reps)


@cache
def compiled() -> dict[str, Callable[..., None]]:
    """The functions; they compile for the types of their first call."""
    import numba
    import numpy as np

    tight = {"nogil": True, "fastmath": {"contract", "nsz", "reassoc"}, "error_model": "numpy"}
    jit = numba.njit(parallel=True, **tight)
    inline = numba.njit(**tight)

    @inline
    def add_product(a, b, c, rows, steps, columns):  # type: ignore[no-untyped-def]
        whole = steps // 4 * 4
        for i in range(0, rows - 3, 4):
            for k in range(0, whole, 4):
                a00, a01, a02, a03 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
                a10, a11, a12, a13 = a[i + 1, k], a[i + 1, k + 1], a[i + 1, k + 2], a[i + 1, k + 3]
                a20, a21, a22, a23 = a[i + 2, k], a[i + 2, k + 1], a[i + 2, k + 2], a[i + 2, k + 3]
                a30, a31, a32, a33 = a[i + 3, k], a[i + 3, k + 1], a[i + 3, k + 2], a[i + 3, k + 3]
                for j in range(columns):
                    b0, b1, b2, b3 = b[k, j], b[k + 1, j], b[k + 2, j], b[k + 3, j]
                    c[i, j] += a00 * b0 + a01 * b1 + a02 * b2 + a03 * b3
                    c[i + 1, j] += a10 * b0 + a11 * b1 + a12 * b2 + a13 * b3
                    c[i + 2, j] += a20 * b0 + a21 * b1 + a22 * b2 + a23 * b3
                    c[i + 3, j] += a30 * b0 + a31 * b1 + a32 * b2 + a33 * b3
            for k in range(whole, steps):
                for r in range(i, i + 4):
                    for j in range(columns):
                        c[r, j] += a[r, k] * b[k, j]
        for i in range(rows // 4 * 4, rows):
            for k in range(steps):
                for j in range(columns):
                    c[i, j] += a[i, k] * b[k, j]

    @inline
    def block_of_rows(a, b, c, alpha, beta, lo, hi):  # type: ignore[no-untyped-def]
        n, depth = b.shape[1], b.shape[0]
        packed = np.empty((128, 512), b.dtype)
        part = np.empty((hi - lo, 128), a.dtype)
        sums = np.empty((hi - lo, 512), c.dtype)
        for j in range(0, n, 512):
            columns = min(512, n - j)
            sums[:] = 0
            for k in range(0, depth, 128):
                steps = min(128, depth - k)
                packed[:steps, :columns] = b[k : k + steps, j : j + columns]
                part[:, :steps] = a[lo:hi, k : k + steps]
                add_product(part, packed, sums, hi - lo, steps, columns)
            for i in range(lo, hi):
                for x in range(columns):
                    c[i, j + x] = alpha * sums[i - lo, x] + (beta * c[i, j + x] if beta != 0 else 0)

    @jit
    def gemm(a, b, c, alpha, beta, reps):  # type: ignore[no-untyped-def]
        batch, m = a.shape[0], a.shape[1]
        blocks = max(1, (m + 63) // 64)
        for _ in range(reps):
            for unit in numba.prange(batch * blocks):
                which, block = unit // blocks, unit % blocks
                block_of_rows(a[which], b[which], c[which], alpha, beta, m * block // blocks, m * (block + 1) // blocks)

    @inline
    def exponentials(s, bits, powers, n):  # type: ignore[no-untyped-def]
        # e^x for x <= 0 by Cody and Waite's reduction, the power of two by its bits; s becomes the result
        for j in range(n):
            x = max(s[j], np.float32(-87))
            t = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
            bits[j] = (np.int32(t) + np.int32(127)) << np.int32(23)
            r = x - t * np.float32(0.693145751953125) - t * np.float32(1.428606765330187e-06)
            p = np.float32(1.9875691e-4)
            p = p * r + np.float32(1.3981999507e-3)
            p = p * r + np.float32(8.3334519073e-3)
            p = p * r + np.float32(4.1665795894e-2)
            p = p * r + np.float32(1.6666665459e-1)
            p = p * r + np.float32(5.0000001201e-1)
            s[j] = p * r * r + r + np.float32(1)
        for j in range(n):
            s[j] = s[j] * powers[j]

    @inline
    def attend(q, k, v, o, first, rows, lq, causal, scale):  # type: ignore[no-untyped-def]
        dim, lk = q.shape[1], k.shape[0]
        keys = 128
        kt = np.empty((dim, keys), np.float32)
        s = np.empty((rows, keys), np.float32)
        out = np.zeros((rows, dim), np.float32)
        top = np.full(rows, -np.inf, np.float32)
        total = np.zeros(rows, np.float32)
        bits = np.empty(keys, np.int32)
        powers = bits.view(np.float32)
        end = lk
        if causal:
            end = 0
            for i in range(first, first + rows):
                end = max(end, i % lq + lk - lq + 1)
        for j in range(0, end, keys):
            n = min(keys, end - j)
            for x in range(n):
                for d in range(dim):
                    kt[d, x] = k[j + x, d]
            s[:, :n] = 0
            add_product(q[first : first + rows], kt, s, rows, dim, n)
            for i in range(rows):
                seen = n
                if causal:
                    seen = max(0, min(n, (first + i) % lq + lk - lq + 1 - j))
                if seen == 0:
                    s[i, :n] = 0
                    continue
                peak = s[i, 0]
                for x in range(seen):
                    peak = max(peak, s[i, x])
                peak = max(top[i], peak * scale)
                for x in range(seen):
                    s[i, x] = s[i, x] * scale - peak
                exponentials(s[i], bits, powers, seen)
                s[i, seen:n] = 0
                factor = np.exp(top[i] - peak)
                mass = np.float32(0)
                for x in range(seen):
                    mass += s[i, x]
                total[i] = total[i] * factor + mass
                top[i] = peak
                for d in range(dim):
                    out[i, d] *= factor
            add_product(s, v[j : j + n], out, rows, n, dim)
        for i in range(rows):
            share = np.float32(0) if total[i] == 0 else np.float32(1) / total[i]
            for d in range(dim):
                o[first + i, d] = out[i, d] * share

    @jit
    def attention(q, k, v, o, lq, causal, scale, reps):  # type: ignore[no-untyped-def]
        heads, rows = q.shape[0], q.shape[1]
        blocks = (rows + 63) // 64
        for _ in range(reps):
            for unit in numba.prange(heads * blocks):
                head, first = unit // blocks, unit % blocks * 64
                count = min(64, rows - first)
                attend(q[head], k[head], v[head], o[head], first, count, lq, causal, scale)

    @jit
    def norm(x, gamma, beta, y, centred, parts, first, reps):  # type: ignore[no-untyped-def]
        rows, width = x.shape
        for number in range(first, first + reps):
            lo, hi = rows * (number % parts) // parts, rows * (number % parts + 1) // parts
            for i in numba.prange(lo, hi):
                shift = x[i, 0] if centred else np.float32(0)
                total, square = np.float32(0), np.float32(0)
                for j in range(width):
                    d = x[i, j] - shift
                    total += d
                    square += d * d
                mean = total / np.float32(width) if centred else np.float32(0)
                variance = max(square / np.float32(width) - mean * mean, np.float32(0))
                scale = np.float32(1) / np.sqrt(variance + np.float32(1e-5))
                for j in range(width):
                    z = (x[i, j] - shift - mean) * scale * gamma[j]
                    y[i, j] = z + beta[j] if centred else z

    @jit
    def pointwise(x, r, y, op, parts, first, reps):  # type: ignore[no-untyped-def]
        n, size = x.shape[0], 1024
        for number in range(first, first + reps):
            lo, hi = n * (number % parts) // parts, n * (number % parts + 1) // parts
            for chunk in numba.prange((hi - lo + size - 1) // size):
                at, end = lo + chunk * size, min(hi, lo + (chunk + 1) * size)
                if op == 2:
                    for j in range(at, end):
                        y[j] = x[j] + r[j]
                    continue
                s = np.empty(size, np.float32)
                bits = np.empty(size, np.int32)
                for j in range(at, end):
                    t = x[j] * x[j] * np.float32(-0.0713548162726) - np.float32(1.5957691216057)
                    s[j - at] = -abs(x[j] * t if op == 0 else x[j])
                exponentials(s, bits, bits.view(np.float32), end - at)
                for j in range(at, end):  # x / (1 + e^-z) by e^-|z|, which does not overflow
                    e = s[j - at]
                    y[j] = x[j] * ((np.float32(1) if x[j] >= 0 else e) / (np.float32(1) + e))

    return {"gemm": gemm, "attention": attention, "norm": norm, "pointwise": pointwise}
