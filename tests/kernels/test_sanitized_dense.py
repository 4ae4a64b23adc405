"""Products, attention, norms, functions, CSR and a layer's operators under ASan and UBSan, at odd sizes."""

from __future__ import annotations

import pytest
import sanitized

from pykernels.kernels.attention import Attention
from pykernels.kernels.gemm import TRANSPOSES, TYPES, Gemm
from pykernels.kernels.layer import OPS, Layer
from pykernels.kernels.norm import Norm
from pykernels.kernels.pointwise import Pointwise
from pykernels.kernels.spmv import Spmv
from pykernels.machine.cpu import read_machine
from pykernels.model import Problem

FILES = ("gemm", "attention", "attention_decode", "layer", "norm", "pointwise", "spmv")
#: of these the widest that this CPU runs: a build with sanitizers takes most of a minute
MARCHES = {"x86_64_v4": "x86-64-v4", "x86_64_v3": "x86-64-v3", "x86_64_v2": "x86-64-v2"}


def problems() -> list[Problem]:
    shapes = [
        (1, 1, 1),
        (13, 37, 5),
        (61, 83, 143),
        (5, 100, 130),
        (100, 5, 130),
        (7, 40, 66),
        (30, 64, 40),
        (13, 33, 2100),
    ]
    found: list[Problem] = [
        Gemm(m=m, n=n, k=k, dtype=dtype, transpose=transpose, pad=pad)
        for m, n, k in shapes
        for dtype in TYPES
        for transpose, pad in zip(TRANSPOSES, (0, 3, 0, 1), strict=True)
    ]
    found += [Gemm(m=13, n=21, k=9, batch=3, alpha=0.5, beta=0.5, dtype=dtype) for dtype in TYPES]
    for dtype in ("fp32", "bf16"):
        found += [
            Attention(heads=4, kv_heads=kv, lq=lq, lk=lk, dim=64, causal=causal, dtype=dtype)
            for kv, lq, lk, causal in ((2, 1, 301, False), (1, 5, 7, True), (4, 77, 300, True), (2, 40, 20, True))
        ]
        found += [Norm(op=op, rows=5, width=width, dtype=dtype) for op in ("layernorm", "rmsnorm") for width in (1, 77)]
        found += [Pointwise(op=op, n=n, dtype=dtype) for op in ("gelu", "silu", "residual_add") for n in (1, 1003)]
        found += [Spmv(rows=9, cols=cols, density=0.4, dtype=dtype) for cols in (1, 211)]
        found += [
            Layer(
                model="toy", op=op, seq=9, batch=2, decoder=decoder, layers=2, hidden=128, heads=2, kv_heads=1, ffn=96,
                dtype=dtype,
            )
            for op in OPS
            for decoder in (False, True)
        ]  # fmt: skip
    return found


def test_nothing_reaches_beyond_its_operands() -> None:
    march = next((flag for isa, flag in MARCHES.items() if isa in read_machine().isa), "")
    if not march:
        pytest.skip("needs an x86-64 CPU of level v2 or later")
    variants = sanitized.run(march, FILES, problems())
    assert len(variants) == len(problems())
    assert all(line.strip() for line in variants)
