"""On a real GPU: every kernel correct, timings consistent with each other and with an independent clock."""

from __future__ import annotations

from statistics import median

import pytest

from pykernels.backends.cuda import BACKEND, CudaSession
from pykernels.kernels.embedding import EmbeddingBag, EmbeddingGather
from pykernels.kernels.exp import Exp
from pykernels.kernels.fma import Fma
from pykernels.kernels.gather import Gather
from pykernels.kernels.gemv import DTYPES as GEMV_TYPES
from pykernels.kernels.gemv import Gemv
from pykernels.kernels.launch import OPS as LAUNCHES
from pykernels.kernels.launch import LaunchFloor
from pykernels.kernels.link import OPS as LINKS
from pykernels.kernels.link import Link
from pykernels.kernels.mixed import Mixed
from pykernels.kernels.mma import SHAPES, Mma
from pykernels.kernels.onchip import Onchip
from pykernels.kernels.softmax import Softmax
from pykernels.kernels.stream import Stream
from pykernels.kernels.tensor_gemm import TYPES, TensorGemm
from pykernels.measure import verify
from pykernels.model import Case, Implementation, Machine, Placement, Problem

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # CuPy warns of what it does not find


def lookups(dtype: str, dim: int, **options: object) -> EmbeddingBag:
    return EmbeddingBag(dtype=dtype, rows=(5003,), dim=dim, batch=211, pooling=((0, 30),), **options)  # type: ignore[arg-type]


PROBLEMS: list[Problem] = [
    *[
        Stream(op=op, n=1_000_003, dtype=dtype)
        for op in ("load", "store", "copy", "triad")
        for dtype in ("fp32", "fp64")
    ],
    *[Onchip(op=op, dtype="fp32", tiles=1000) for op in ("shared", "l1")],
    *[Fma(dtype=dtype, units=300) for dtype in ("fp32", "fp64", "fp16", "int8")],
    Exp(dtype="fp32", units=300),
    *[
        Mixed(dtype=dtype, n=1 << 18, k=k, skip=s, units=9)
        for dtype in ("fp32", "fp64")
        for k, s in ((0, 4), (3, 1), (64, 1))
    ],
    *[Gather(dtype="fp32", rows=50_003, row_bytes=row, lookups=20_001, sets=3) for row in (4, 8, 64, 512)],
    *[Gemv(dtype=dtype, rows=1003, cols=cols) for dtype in GEMV_TYPES for cols in (650, 4096)],
    *[
        Softmax(dtype=dtype, rows=103, width=w, mask=w == 1000)
        for dtype in ("fp32", "fp16", "bf16")
        for w in (7, 1000, 9000)
    ],
    *[Mma(dtype=dtype, m=m, k=k, tiles=5000) for dtype, shapes in SHAPES.items() for m, k in shapes],
    *[Link(op=op, n=1_000_003, dtype="fp32") for op in LINKS],
    *[LaunchFloor(op=op, dtype="none") for op in LAUNCHES],
    *[lookups(dtype, dim) for dtype in ("fp32", "fp16", "bf16", "int8", "int4") for dim in (32, 100, 128)],
    lookups("fp32", 64, weighted=True, mode="mean", index="int64", sets=3),
    *[EmbeddingGather(dtype=dtype, rows=(5003,), dim=128, batch=999) for dtype in ("fp32", "int8")],
    *[TensorGemm(dtype=dtype, n=512) for dtype in TYPES],
]


def session_of(machine: Machine, **placement: str) -> CudaSession:
    return BACKEND.open(Placement(**{"device": "gpu:0", **placement}), machine)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: "-".join([*p.entry(), *p.params().values()]))
def test_every_variant_is_right(machine: Machine, problem: Problem) -> None:
    case = Case(problem, Implementation("cuda"), Placement(device="gpu:0"))
    skipped = BACKEND.skip(case, machine)
    if skipped or (problem.entry()[1] == "peer" and len(machine.gpus) < 2):
        pytest.skip(skipped.reason if skipped else "one GPU only")
    session = session_of(machine)
    try:
        for variant in BACKEND.variants(case):
            runner = session.prepare(problem, Implementation("cuda", "", variant))
            wrong = verify.check_full(problem, runner)
            runner.close()
            assert wrong is None, f"{variant}: {wrong}"
    finally:
        session.close()


@pytest.mark.parametrize("ends", ["G1", "G2", "G3", "G4", "G5:20"])
def test_lookups_from_every_place(machine: Machine, ends: str) -> None:
    session = session_of(machine, ends=ends)
    problem = lookups("fp32", 128)
    runner = session.prepare(problem, Implementation("cuda", "", "cached" if ends.startswith("G5") else "warp"))
    assert verify.check_full(problem, runner) is None
    runner.close()
    session.close()


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_lookups_asked_of_a_running_kernel(machine: Machine, dtype: str) -> None:
    session = session_of(machine, launch="persistent", ends="G2")
    problem = lookups(dtype, 128, sets=3)
    runner = session.prepare(problem, Implementation("cuda", "", "persistent"))
    assert verify.check_full(problem, runner) is None
    assert runner.sample(100, 2).samples_s[0] < 1e-3
    runner.close()
    session.close()


def test_device_time_agrees_with_the_host_and_the_clock_is_plausible(machine: Machine) -> None:
    session = session_of(machine)
    problem = Stream(op="copy", n=1 << 27, dtype="fp32")
    runner = session.prepare(problem, Implementation("cuda", "", "b16:16"))
    samples = runner.sample(4, 9)
    device, host = median(samples.samples_s), median(samples.host_s)
    assert device <= host <= device + 1e-3
    clocks = [ghz for ghz in samples.clock_ghz if ghz]
    assert clocks
    assert 0.2 < median(clocks) < 4.0
    session.close()


def test_cold_is_not_faster_than_steady(machine: Machine) -> None:
    problem = Stream(op="load", n=1 << 18, dtype="fp32")  # 1 MiB: within any L2
    times = {}
    for mode in ("steady", "cold"):
        session = session_of(machine, mode=mode)
        runner = session.prepare(problem, Implementation("cuda", "", "b16:4"))
        times[mode] = median(runner.sample(50, 9).samples_s)
        session.close()
    assert times["cold"] > 0.95 * times["steady"]
