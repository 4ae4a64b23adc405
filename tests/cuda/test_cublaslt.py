"""cuBLASLt's call sequence over a library that multiplies on the host, and the problem's own reference."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from host_build import built

from pykernels.backends import cublaslt
from pykernels.backends.cuda import CudaSession
from pykernels.errors import PykernelsError
from pykernels.kernels import random as inputs
from pykernels.kernels.gemm import Gemm
from pykernels.kernels.tensor_gemm import TYPES, TensorGemm, sampled_columns
from pykernels.measure import verify
from pykernels.model import Case, Implementation, Placement

FAKE = Path(__file__).parent / "shim" / "fake_cublaslt.c"


@pytest.fixture(autouse=True)
def fake_library(monkeypatch: pytest.MonkeyPatch) -> None:
    library = built(FAKE.read_bytes(), "libcublasLt.so", ["gcc", "-O2", "-fPIC", "-shared", "-w", str(FAKE)])
    monkeypatch.setattr(cublaslt, "open_library", lambda: ctypes.CDLL(str(library)))


def test_a_product_arrives_as_it_was_asked_for(fake_session: Callable[..., CudaSession]) -> None:
    session = fake_session()
    problem = TensorGemm(dtype="tf32", n=48)
    runner = session.prepare(problem, Implementation("cuda", "", "cublaslt:1"))
    assert verify.check_full(problem, runner) is None
    assert len(runner.sample(3, 2).samples_s) == 2
    assert runner.facts()["cublaslt"] == 130000
    runner.close()


def test_sampled_rows_are_compared_in_sampled_columns(fake_session: Callable[..., CudaSession]) -> None:
    problem = TensorGemm(dtype="tf32", n=300)
    runner = fake_session(mode="burst").prepare(problem, Implementation("cuda", "", "cublaslt:0"))
    assert verify.check_sampled(problem, runner, 1) is None
    runner.sample(2, 2)
    columns = sampled_columns(300)
    assert {0, 1, 2, 297, 298, 299} <= set(columns.tolist())
    assert len(columns) <= 256
    found = {"c": np.array(runner.outputs()["c"])}
    found["c"][5, columns[100]] += 1
    rows = np.array([4, 5])
    wrong = verify.compare(problem.reference(runner.inputs(), rows), problem.observed(found, rows), problem.tolerance())
    assert wrong is not None
    assert wrong.where.startswith("c[1,100]")
    runner.close()


@pytest.mark.parametrize("transpose", ["nn", "nt"])
def test_the_cpus_product_runs_unchanged(fake_session: Callable[..., CudaSession], transpose: str) -> None:
    problem = Gemm(dtype="fp32", m=9, n=13, k=13, transpose=transpose)
    assert cublaslt.variants(problem)
    runner = fake_session().prepare(problem, Implementation("cuda", "", "cublaslt:0"))
    assert verify.check_full(problem, runner) is None
    runner.close()


def test_products_that_it_does_not_take_have_no_variant() -> None:
    assert cublaslt.variants(Gemm(dtype="fp32", m=9, n=13, k=13, transpose="tn")) == ()
    assert cublaslt.variants(Gemm(dtype="fp32", m=9, n=13, k=13, beta=1.0)) == ()
    assert cublaslt.variants(Gemm(dtype="int8", m=9, n=13, k=13)) == ()


def test_an_algorithm_beyond_those_offered_is_refused(fake_session: Callable[..., CudaSession]) -> None:
    with pytest.raises(PykernelsError, match="offers 2 algorithms"):
        fake_session().prepare(TensorGemm(dtype="tf32", n=16), Implementation("cuda", "", "cublaslt:3"))


def test_a_refused_type_is_said(fake_session: Callable[..., CudaSession]) -> None:
    with pytest.raises(PykernelsError, match="cublasLtMatmulDescCreate refused this product with status 15"):
        fake_session().prepare(TensorGemm(dtype="fp64", n=16), Implementation("cuda", "", "cublaslt:0"))


@pytest.mark.parametrize("shape", [(3, 5, 7), (8, 1, 4)])
@pytest.mark.parametrize("transposed", [False, True])
def test_rectangles_in_both_orders(shape: tuple[int, int, int], transposed: bool) -> None:

    m, n, k = shape
    rng = np.random.default_rng(0)
    a, b = rng.random((m, k), np.float32), rng.random((n, k) if transposed else (k, n), np.float32)
    c, workspace = np.zeros((m, n), np.float32), np.zeros(64, np.uint8)
    matmul = cublaslt.Matmul(cublaslt.open_library(), "fp32", ("fp32", "fp32"), shape, transposed)
    matmul.queue(matmul.choices[0], (a.ctypes.data, b.ctypes.data, c.ctypes.data), workspace.ctypes.data, 0)
    np.testing.assert_allclose(c, a @ (b.T if transposed else b), rtol=1e-5)
    matmul.close()


@pytest.mark.parametrize("dtype", list(TYPES))
def test_inputs_and_references_of_every_type(dtype: str) -> None:
    problem = TensorGemm(dtype=dtype, n=32)
    found = {o.name: inputs.array(o) for o in problem.operands() if o.role == "in"}
    reference = problem.reference(found)["c"]
    assert reference.shape == (32, 32)
    assert abs(reference).max() > 0
    placement = Placement(device="gpu:0")
    assert cublaslt.variants(problem) == tuple(f"cublaslt:{i}" for i in range(4))
    assert Case(problem, Implementation("cuda"), placement).id == f"tensor_gemm[n=32,{dtype}] cuda @gpu:0"
