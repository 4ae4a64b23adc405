"""torch's dense kernels: matmul, scaled_dot_product_attention, norms and activations, and a Transformer's operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pykernels.backends.numpy_dense import part
from pykernels.backends.pytimed import Arrays, Passes, looped

DTYPES = {
    "gemm": ("fp64", "fp32", "bf16"), "attention": ("fp32", "bf16"), "norm": ("fp32", "bf16"),
    "pointwise": ("fp32", "bf16"), "layer": ("fp32", "bf16"),
}  # fmt: skip


def lacks(problem: Any) -> str:
    """What torch has no call for with the same operands."""
    if problem.dtype not in DTYPES[problem.kernel]:
        return f"torch has no {problem.dtype} {problem.kernel} with the same operands"
    if problem.kernel == "attention" and problem.causal and problem.lq != problem.lk:
        return "torch's causal mask starts with the first key, ours ends with the last: they differ where lq is not lk"
    return ""


def bind(problem: Any, tensors: Arrays) -> Passes:
    """Passes of the kernel over tensors on the operands' memory."""
    chosen: dict[str, Callable[[Any, Arrays], Passes]] = {
        "gemm": gemm, "attention": attention, "norm": norm, "pointwise": pointwise, "layer": layer,
    }  # fmt: skip
    return chosen[problem.kernel](problem, tensors)


def gemm(problem: Any, t: Arrays) -> Passes:
    """matmul into C, addmm or baddbmm where there is an alpha or a beta."""
    import torch

    def matrices(name: str) -> Any:
        rows, columns = problem.stored(name)
        found = t[name].view(problem.batch, rows, columns + problem.pad)[:, :, :columns]
        turned = name != "c" and problem.transpose["ab".index(name)] == "t"
        return found.transpose(1, 2) if turned else found

    a, b, c = (matrices(name) for name in "abc")
    alpha, beta = problem.alpha, problem.beta
    if alpha != 1 or beta != 0:
        return looped(lambda number: torch.baddbmm(c, a, b, beta=beta, alpha=alpha, out=c))
    if problem.batch == 1:
        a, b, c = a[0], b[0], c[0]
    return looped(lambda number: torch.matmul(a, b, out=c))


def attention(problem: Any, t: Arrays) -> Passes:
    """scaled_dot_product_attention; its new tensor is copied into o only to be checked."""
    import torch

    q, o = (t[name].view(problem.batch, problem.heads, problem.lq, problem.dim) for name in "qo")
    k, v = (t[name].view(problem.batch, problem.kv_heads, problem.lk, problem.dim) for name in "kv")
    grouped = {"enable_gqa": True} if problem.group > 1 else {}
    results: list[Any] = [None]

    def call(number: int) -> None:
        results[0] = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=problem.causal, **grouped)

    return looped(call, finish=lambda: o.copy_(results[0]))


def norm(problem: Any, t: Arrays) -> Passes:
    """layer_norm or rms_norm; parts of the rows in turn."""
    import torch

    from pykernels.kernels.norm import EPSILON

    f, shape = torch.nn.functional, (problem.width,)
    results: dict[int, Any] = {}

    def call(number: int) -> None:
        x = t["x"][part(problem, problem.rows, number)]
        if problem.op == "layernorm":
            results[number % problem.parts] = f.layer_norm(x, shape, t["gamma"], t["beta"], EPSILON)
        else:
            results[number % problem.parts] = f.rms_norm(x, shape, t["gamma"], EPSILON)

    def finish() -> None:
        for number, result in results.items():
            t["y"][part(problem, problem.rows, number)] = result

    return looped(call, finish=finish)


def pointwise(problem: Any, t: Arrays) -> Passes:
    """gelu (tanh form), silu, add; parts in turn."""
    import torch

    f = torch.nn.functional
    results: dict[int, Any] = {}

    def call(number: int) -> None:
        at = part(problem, problem.n, number)
        if problem.op == "residual_add":
            torch.add(t["x"][at], t["r"][at], out=t["y"][at])
        elif problem.op == "gelu":
            results[number % problem.parts] = f.gelu(t["x"][at], approximate="tanh")
        else:
            results[number % problem.parts] = f.silu(t["x"][at])

    def finish() -> None:
        for number, result in results.items():
            t["y"][part(problem, problem.n, number)] = result

    return looped(call, finish=finish)


def layer(problem: Any, t: Arrays) -> Passes:
    """linear, scaled_dot_product_attention, layer_norm and gelu, layer after layer."""
    import torch

    from pykernels.kernels.norm import EPSILON

    f = torch.nn.functional
    steps = 1 if problem.decoder else problem.seq
    batch, size, kv = problem.batch, problem.head_size, problem.kv_heads
    grouped = {"enable_gqa": True} if kv != problem.heads else {}
    results: list[Any] = [None]

    def linear(name: str, x: Any, n: int) -> Any:
        tail = "" if problem.op == name else f"_{name}"
        return f.linear(x, t[f"w{tail}"][n], t[f"b{tail}"][n])

    def attend(qkv: Any, n: int) -> Any:
        q, k, v = qkv.view(batch, steps, -1).split([problem.hidden, problem.kv, problem.kv], 2)
        if problem.decoder:
            t["keys"][n][:, -1], t["values"][n][:, -1] = k[:, 0], v[:, 0]
            k, v = t["keys"][n], t["values"][n]
        q = q.reshape(batch, steps, problem.heads, size).transpose(1, 2)
        k, v = (x.reshape(batch, -1, kv, size).transpose(1, 2) for x in (k, v))
        out = f.scaled_dot_product_attention(q, k, v, **grouped)
        return out.transpose(1, 2).reshape(batch * steps, problem.hidden)

    def normed(x: Any, r: Any, n: int, which: str) -> Any:
        return f.layer_norm(x + r, (problem.hidden,), t["g" + which][n], t["b" + which][n], EPSILON)

    def one(n: int, x: Any) -> Any:
        if problem.op == "attention":
            return attend(x, n)
        if problem.op == "norm":
            normed(x, t["r"], n, "1")
            return normed(x, t["r"], n, "2")
        if problem.op == "gelu":
            return f.gelu(x, approximate="tanh")
        if problem.op != "chain":
            return linear(problem.op, x, n)
        h = normed(x, linear("out", attend(linear("qkv", x, n), n), n), n, "1")
        return normed(h, linear("down", f.gelu(linear("up", h, n), approximate="tanh"), n), n, "2")

    def call(number: int) -> None:
        x = t["x"]
        for n in range(problem.layers):
            results[0] = one(n, x)
            if problem.op == "chain":
                x = results[0]

    return looped(call, finish=lambda: t["y"].copy_(results[0]))
