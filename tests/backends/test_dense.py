"""Products, attention, norms, functions and operators of a layer by NumPy, Numba and torch, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import py_case
import pytest

from pykernels import registry
from pykernels.backends.pytimed import PyBackend, PySession
from pykernels.kernels.attention import Attention
from pykernels.kernels.gemm import Gemm
from pykernels.kernels.layer import OPS, Layer
from pykernels.kernels.norm import Norm
from pykernels.kernels.pointwise import Pointwise
from pykernels.machine.cpu import read_machine
from pykernels.measure import verify
from pykernels.model import Case, Implementation, Placement, Problem

BACKENDS = [
    name for name, package in (("numpy", "numpy"), ("numba_cpu", "numba"), ("torch", "torch")) if find_spec(package)
]


@pytest.fixture(scope="module", params=BACKENDS)
def session(request: pytest.FixtureRequest) -> Iterator[PySession]:
    backend = registry.backend(request.param)
    assert isinstance(backend, PyBackend)
    yield from py_case.opened(backend)


def products() -> list[Problem]:
    shapes = ((1, 1, 1), (61, 83, 143), (130, 5, 66), (5, 600, 31))
    found: list[Problem] = [Gemm(m=m, n=n, k=k, dtype="fp32", transpose="nt") for m, n, k in shapes]
    found += [Gemm(m=19, n=8, k=7, batch=3, dtype="fp64", transpose="nt"), Gemm(m=9, n=8, k=7, dtype="bf16")]
    return [*found, Gemm(m=9, n=8, k=7, pad=2, alpha=0.5, beta=0.25, dtype="fp32", transpose="nt")]


def attentions() -> list[Problem]:
    shapes = ((1, 300, False), (77, 77, True), (77, 201, False), (5, 201, True), (20, 9, True))
    return [
        Attention(heads=4, kv_heads=kv, lq=lq, lk=lk, dim=64, causal=causal, dtype=dtype)
        for lq, lk, causal in shapes
        for kv in (4, 2)
        for dtype in ("fp32", "bf16")
    ]


def others() -> list[Problem]:
    found: list[Problem] = []
    for dtype in ("fp32", "bf16"):
        found += [Norm(op=op, rows=13, width=77, parts=3, dtype=dtype) for op in ("layernorm", "rmsnorm")]
        found += [Pointwise(op=op, n=2077, parts=3, dtype=dtype) for op in ("gelu", "silu", "residual_add")]
        found += [
            Layer(
                model="toy",
                op=op,
                seq=20,
                batch=2,
                decoder=decoder,
                layers=2,
                hidden=256,
                heads=4,
                kv_heads=2,
                ffn=320,
                dtype=dtype,
            )
            for op in OPS
            for decoder in (False, True)
        ]
    return found


@pytest.mark.parametrize("problems", [products, attentions, others])
def test_results_agree_with_float64(session: PySession, problems) -> None:  # type: ignore[no-untyped-def]
    checked = 0
    for problem in problems():
        case = Case(problem=problem, implementation=Implementation(session.backend.name), placement=Placement())
        if skipped := session.backend.skip(case, read_machine()):
            assert skipped.reason
            continue
        for variant in session.backend.variants(case):
            runner = session.prepare(problem, Implementation(session.backend.name, "", variant))
            wrong = verify.check_full(problem, runner)
            runner.close()
            assert wrong is None, (problem, variant, wrong)
            checked += 1
    assert checked >= 4
