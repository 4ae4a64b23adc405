"""NumPy's dense kernels: products by its BLAS, attention head by head with scores in memory, norms and functions as
array expressions with given outputs."""

from __future__ import annotations

from typing import Any

from pykernels.backends.pytimed import Arrays, Passes, looped
from pykernels.model import Problem

DTYPES = {"gemm": ("fp64", "fp32"), "attention": ("fp32",), "norm": ("fp32",), "pointwise": ("fp32",)}


def lacks(problem: Problem) -> str:
    """What NumPy has no call for."""
    if problem.dtype not in DTYPES[problem.kernel]:
        return f"NumPy has no {problem.dtype} arithmetic for {problem.kernel}"
    if problem.kernel == "gemm" and (getattr(problem, "alpha", 1) != 1 or getattr(problem, "beta", 0) != 0):
        return "numpy.matmul has neither alpha nor beta"
    return ""


def bind(problem: Any, arrays: Arrays) -> Passes:
    """Passes of the kernel."""
    return {"gemm": gemm, "attention": attention, "norm": norm, "pointwise": pointwise}[problem.kernel](problem, arrays)


def part(problem: Any, count: int, number: int) -> slice:
    """The part of `count` rows or elements that a pass covers."""
    turn = number % problem.parts
    return slice(count * turn // problem.parts, count * (turn + 1) // problem.parts)


def gemm(problem: Any, a: Arrays) -> Passes:
    """matmul into C."""
    import numpy as np

    left, right, out = (problem.matrices(a, name) for name in "abc")
    if problem.batch == 1:
        left, right, out = left[0], right[0], out[0]
    return looped(lambda number: np.matmul(left, right, out=out))


def attention(problem: Any, a: Arrays) -> Passes:
    """Two products and a softmax for each KV head; scores of a head stay in memory between them."""
    import numpy as np

    rows = problem.group * problem.lq
    q, o = (a[name].reshape(-1, rows, problem.dim) for name in "qo")
    k, v = (a[name].reshape(-1, problem.lk, problem.dim) for name in "kv")
    scores, scale = np.empty((rows, problem.lk), np.float32), np.float32(problem.scale)
    hidden = blind = None
    if problem.causal:
        last = np.arange(rows) % problem.lq + problem.lk - problem.lq
        hidden = np.arange(problem.lk) > last[:, None]
        blind = last < 0

    def call(number: int) -> None:
        for head in range(len(k)):
            np.matmul(q[head], k[head].T, out=scores)
            np.multiply(scores, scale, out=scores)
            if hidden is not None:
                scores[hidden] = -np.inf
                scores[blind] = 0
            np.subtract(scores, scores.max(axis=1, keepdims=True), out=scores)
            np.exp(scores, out=scores)
            np.matmul(scores, v[head], out=o[head])
            np.divide(o[head], scores.sum(axis=1, keepdims=True), out=o[head])
            if blind is not None:
                o[head][blind] = 0

    return looped(call)


def norm(problem: Any, a: Arrays) -> Passes:
    """Moments by mean, the result in place in y."""
    import numpy as np

    from pykernels.kernels.norm import EPSILON

    epsilon = np.float32(EPSILON)

    def call(number: int) -> None:
        rows = part(problem, problem.rows, number)
        x, y = a["x"][rows], a["y"][rows]
        if problem.op == "layernorm":
            np.subtract(x, x.mean(axis=1, keepdims=True), out=y)
            x = y
        square = np.einsum("ij,ij->i", x, x) / np.float32(problem.width)
        np.multiply(x, (1 / np.sqrt(square + epsilon))[:, None], out=y)
        np.multiply(y, a["gamma"], out=y)
        if problem.op == "layernorm":
            np.add(y, a["beta"], out=y)

    return looped(call)


def pointwise(problem: Any, a: Arrays) -> Passes:
    """Array expressions into y."""
    import numpy as np

    cubic, linear = np.float32(-0.0713548162726), np.float32(-1.5957691216057)

    def call(number: int) -> None:
        at = part(problem, problem.n, number)
        x, y = a["x"][at], a["y"][at]
        if problem.op == "residual_add":
            np.add(x, a["r"][at], out=y)
            return
        if problem.op == "gelu":
            np.multiply(x, x, out=y)
            np.multiply(y, cubic, out=y)
            np.add(y, linear, out=y)
            np.multiply(y, x, out=y)
        else:
            np.negative(x, out=y)
        np.exp(y, out=y)
        np.add(y, np.float32(1), out=y)
        np.divide(x, y, out=y)

    return looped(call)
