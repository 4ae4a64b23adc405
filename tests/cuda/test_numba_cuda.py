"""Numba CUDA kernels without a GPU: in the simulator on tiny grids, and compiled to PTX for each architecture."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pykernels.backends import cupy_, gpu_arrays, numba_cuda
from pykernels.kernels.embedding import EmbeddingBag, EmbeddingGather
from pykernels.kernels.gemv import Gemv
from pykernels.kernels.softmax import Softmax
from pykernels.kernels.stream import Stream
from pykernels.model import Case, Gpu, Implementation, Machine, Placement, Problem

CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
MACHINE = Machine(id="m", arch="x86_64", gpus=(Gpu(index=0, name="H100", memory_bytes=1 << 36),))


def case(backend: str, problem: Stream, **placement: str) -> Case:
    return Case(problem, Implementation(backend), Placement(**{"device": "gpu:0", **placement}))


def test_kernels_agree_with_numpy_in_the_simulator() -> None:
    script = Path(__file__).with_name("numba_simulated.py")
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all kernels agree" in done.stdout


@pytest.mark.parametrize(
    "name", ["copy", "triad", "store", "gemv", "softmax", "embedding_bag", "embedding_bag_weighted"]
)
def test_kernels_compile_for_every_architecture(name: str) -> None:
    if find_spec("numba_cuda") is None:
        if os.environ.get("PYKERNELS_REQUIRE_NVRTC"):
            pytest.fail("PYKERNELS_REQUIRE_NVRTC is set, but numba-cuda is not installed")
        pytest.skip("numba-cuda is not installed")
    from numba import cuda
    from numba.core import sigutils

    for signature in numba_cuda.signatures()[name]:
        types, _ = sigutils.normalize_signature(signature)
        for capability in CAPABILITIES:
            ptx, _ = cuda.compile(
                numba_cuda.kernels()[name], types, cc=capability, device=False, abi="numba", output="ptx"
            )
            target = re.search(r"\.target\s+(\S+?),?\s", ptx)
            assert target is not None
            assert target[1] == f"sm_{capability[0]}{capability[1]}"  # not another, without a word


def test_bags_of_several_lengths_have_no_expression() -> None:
    ragged = EmbeddingBag(dtype="fp32", rows=(97,), dim=32, batch=5, pooling=((0, 9),))
    assert cupy_.function_for(ragged) is None


def test_plans_name_operands_and_blocks() -> None:
    triad = Stream(op="triad", n=100, dtype="fp32")
    assert numba_cuda.plan(triad) == ("triad", ["a", "b", "c"], [1.25], None)
    gemv = Gemv(dtype="fp32", rows=30, cols=64)
    assert numba_cuda.plan(gemv) == ("gemv", ["a", "x", "y"], [], 30)
    masked = Softmax(dtype="fp32", rows=9, width=100, mask=True)
    assert numba_cuda.BACKEND.variants(Case(masked, Implementation("numba_cuda"), Placement(device="gpu:0"))) == ()
    assert set(numba_cuda.signatures()) == set(numba_cuda.kernels()) if find_spec("numba") else True


@pytest.mark.parametrize("backend", [cupy_.BACKEND, numba_cuda.BACKEND])
def test_what_cannot_run_is_skipped(backend: cupy_.CupyBackend | numba_cuda.NumbaCudaBackend) -> None:
    copy = Stream(op="copy", n=100, dtype="fp32")
    assert backend.variants(case(backend.name, copy))
    assert backend.variants(case(backend.name, Stream(op="load", n=100, dtype="fp32"))) == ()
    reasons = [
        backend.skip(case(backend.name, copy, device="cpu"), MACHINE),
        backend.skip(case(backend.name, copy), Machine(id="none", arch="x86_64")),
    ]
    for skipped, text in zip(reasons, ("runs on GPUs only", "there is no gpu:0"), strict=True):
        assert skipped is not None
        assert text in skipped.reason


class NumpyLibrary:
    """gpu_arrays.Library with NumPy in the place of CuPy, whose functions have the same names."""

    def to_device(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def to_host(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def synchronize(self) -> None: ...

    def span(self, body: object) -> float:
        body()  # type: ignore[operator]
        return 1e-3

    def facts(self) -> dict[str, str]:
        return {"library": "numpy"}

    def release(self) -> None: ...


PROBLEMS = [
    *[Stream(op=op, n=1001, dtype=dtype) for op in ("copy", "triad", "store") for dtype in ("fp64", "fp32")],
    *[EmbeddingBag(dtype="fp32", rows=(97,), dim=32, batch=5, pooling=((4, 4),), sets=3, mode=mode, weighted=weighted)
      for mode in ("sum", "mean") for weighted in (False, True)],
    EmbeddingGather(dtype="fp32", rows=(97,), dim=32, batch=5),
    Softmax(dtype="fp32", rows=9, width=100, scale=0.5), Gemv(dtype="fp32", rows=30, cols=64, batch=2),
]  # fmt: skip


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: "-".join(p.params().values()))
def test_cupy_expressions_agree_with_the_reference(problem: Problem) -> None:
    from pykernels.measure import verify

    function = cupy_.function_for(problem)
    assert function is not None
    runner = gpu_arrays.ArrayRunner(NumpyLibrary(), problem, lambda a: function(np, problem, a))
    assert verify.check_full(problem, runner) is None
    assert runner.sample(10, 2).samples_s == [1e-4, 1e-4]
    runner.close()


TORCH_PROBLEMS = [
    *[Softmax(dtype=dtype, rows=9, width=100, scale=scale) for dtype in ("fp32", "bf16") for scale in (1.0, 0.5)],
    *[Gemv(dtype=dtype, rows=30, cols=64, batch=2) for dtype in ("fp64", "fp32")],
    *[EmbeddingBag(dtype="fp32", rows=(97,), dim=32, batch=5, pooling=((0, 9),), sets=3, mode=mode, weighted=weighted)
      for mode, weighted in (("sum", False), ("mean", False), ("sum", True))],
    EmbeddingGather(dtype="fp32", rows=(97,), dim=32, batch=5),
]  # fmt: skip


@pytest.mark.parametrize("problem", TORCH_PROBLEMS, ids=lambda p: "-".join([p.kernel, *p.params().values(), p.dtype]))
def test_torch_expressions_agree_with_the_reference(problem: Problem) -> None:
    """On torch's CPU device: the expressions are those of the GPU."""
    if find_spec("torch") is None:
        if os.environ.get("PYKERNELS_REQUIRE_NVRTC"):
            pytest.fail("PYKERNELS_REQUIRE_NVRTC is set, but torch is not installed")
        pytest.skip("torch is not installed")
    from pykernels.backends.torch_cuda import TorchCudaSession
    from pykernels.measure import verify

    runner = TorchCudaSession("cpu", {}).prepare(problem, Implementation("torch_cuda", "", "expression"))
    assert verify.check_full(problem, runner) is None
    assert runner.sample(4, 2).samples_s[0] > 0
    runner.close()
