"""Every csrc/cuda kernel, run on the host shim through the backend, against its problem's reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pykernels.backends import cuda_table
from pykernels.backends.cuda import CudaSession
from pykernels.backends.cuda_operands import fill_operand
from pykernels.kernels import random as pk_random
from pykernels.kernels.chase import Chase
from pykernels.kernels.embedding import EmbeddingBag, EmbeddingGather
from pykernels.kernels.exp import Exp
from pykernels.kernels.fma import Fma
from pykernels.kernels.gather import Gather
from pykernels.kernels.gemv import Gemv
from pykernels.kernels.indices import Draw
from pykernels.kernels.launch import LaunchFloor
from pykernels.kernels.link import Link
from pykernels.kernels.mixed import Mixed
from pykernels.kernels.mma import SHAPES, Mma
from pykernels.kernels.onchip import Onchip
from pykernels.kernels.softmax import Softmax
from pykernels.kernels.stream import Stream
from pykernels.measure import verify
from pykernels.model import Implementation, Operand, Problem, Recipe

Opener = Callable[..., CudaSession]


def variants_of(problem: Problem) -> list[str]:
    """Every variant of a problem, whatever its level, with its first number of blocks."""
    found = cuda_table.find(*problem.entry())
    return [entry.variants()[0] for entry in found if not entry.flags & {"cached", "persistent"}]


def check(session: CudaSession, problem: Problem, variant: str) -> None:
    runner = session.prepare(problem, Implementation("cuda", "", variant))
    try:
        wrong = verify.check_full(problem, runner)
        assert wrong is None, f"{problem.entry()} {variant}: {wrong}"
    finally:
        runner.close()


STREAMS = [
    Stream(op=op, n=n, dtype=dtype)
    for op in ("load", "store", "copy", "triad")
    for dtype in ("fp64", "fp32")
    for n in (1, 1023, 5011)
]


@pytest.mark.parametrize("problem", STREAMS, ids=lambda p: f"{p.op}-{p.dtype}-{p.n}")
def test_stream(fake_session: Opener, problem: Stream) -> None:
    session = fake_session()
    for variant in variants_of(problem):
        check(session, problem, variant)


def test_stream_with_more_threads_than_elements(fake_session: Opener) -> None:
    check(fake_session(), Stream(op="load", n=1023, dtype="fp32"), "b16:32")


@pytest.mark.parametrize("lines", [1, 100, 4099])
def test_chase(fake_session: Opener, lines: int) -> None:
    problem = Chase(dtype="int64", lines=lines, steps=1003, units=3)
    for variant in variants_of(problem):
        check(fake_session(), problem, variant)


def test_a_line_of_a_chase_holds_the_address_of_the_next(fake_session: Opener) -> None:
    problem = Chase(dtype="int64", lines=100, steps=7, units=3)
    runner = fake_session().prepare(problem, Implementation("cuda", "", "ca"))
    base = runner.operands.buffers["lines"].pointer  # type: ignore[attr-defined]
    steps = runner.inputs()["lines"].astype(np.int64) - base
    expected = pk_random.array(problem.operands()[0]) + 100 * np.arange(3)[:, None, None]
    np.testing.assert_array_equal(steps // 64, expected)
    runner.close()


def test_a_chase_goes_on_where_it_ended(fake_session: Opener) -> None:
    problem = Chase(dtype="int64", lines=100, steps=7)
    runner = fake_session().prepare(problem, Implementation("cuda", "", "cg"))
    runner.poison()
    runner.run(1)
    first = int(runner.outputs()["ends"][0, 0])
    runner.run(1)
    assert int(runner.outputs()["ends"][0, 0]) != first


FILLS = [
    *[(dtype, Recipe(seed=seed, low=low, high=high)) for dtype in ("fp64", "fp32", "fp16", "bf16")
      for seed, low, high in ((0, 0.5, 1.5), (7, -1.0, 1.0))],
    *[(dtype, Recipe("integers", 3, low, high)) for dtype, low, high in
      (("fp32", -1024, 1024), ("fp64", -(2**38), 2**38),
       ("int8", -8, 8), ("uint8", 0, 256), ("int32", -5, 1000003), ("int64", 0, 10**12), ("int4", -8, 8))],
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "recipe"), FILLS, ids=lambda v: v if isinstance(v, str) else f"{v.seed}")
@pytest.mark.parametrize("count", [2, 62, 1026])
def test_the_device_fills_as_numpy_does(fake_session: Opener, dtype: str, recipe: Recipe, count: int) -> None:
    session = fake_session()
    operand = Operand("x", "in", (count + (dtype != "int4"),), dtype, recipe)
    expected = pk_random.array(operand)
    buffer = session.device.alloc(expected.nbytes)
    fill_operand(session, operand, buffer)
    found: np.ndarray[Any, Any] = session.device.read(buffer, expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("op", ["shared", "l1"])
def test_onchip(fake_session: Opener, op: str) -> None:
    problem = Onchip(op=op, dtype="fp32", tiles=5, passes=2)
    for variant in variants_of(problem):
        check(fake_session(), problem, variant)


@pytest.mark.parametrize("dtype", ["fp64", "fp32", "fp16", "int8"])
def test_fma(fake_session: Opener, dtype: str) -> None:
    problem = Fma(dtype=dtype, units=2)
    for variant in variants_of(problem):
        check(fake_session(), problem, variant)


@pytest.mark.parametrize("n", [1003, 2048, 4096])
def test_exponentials(fake_session: Opener, n: int) -> None:
    problem = Exp(dtype="fp32", n=n, units=3)
    for variant in variants_of(problem):
        check(fake_session(), problem, variant)


@pytest.mark.parametrize(("k", "skip"), [(1, 1), (2, 1), (3, 1), (12, 1), (16, 1), (1024, 1), (0, 2), (0, 16)])
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize(("n", "parts"), [(8192, 2), (1501, 1)])
def test_mixed(fake_session: Opener, dtype: str, k: int, skip: int, n: int, parts: int) -> None:
    problem = Mixed(dtype=dtype, n=n, parts=parts, k=k, skip=skip, units=3)
    for variant in variants_of(problem):
        check(fake_session(), problem, variant)


def test_mixed_folds_in_time_and_walks_the_parts(fake_session: Opener) -> None:
    """Two passes add the checksums of two parts; many chunks a block pass the number of products that stay exact."""
    problem = Mixed(dtype="fp32", n=8192, parts=2, k=512, units=9)
    runner = fake_session().prepare(problem, Implementation("cuda", "", "wide:2"))
    runner.run(2)
    x = runner.inputs()["x"].astype(np.float64)
    assert int(runner.outputs()["sums"][0]) == int(3 * 512 * x.sum()) % 2**32


@pytest.mark.parametrize(("row_bytes", "lookups"), [(4, 333), (12, 100), (8, 77), (64, 1000), (48, 500), (1040, 41)])
def test_gather_roof(fake_session: Opener, row_bytes: int, lookups: int) -> None:
    problem = Gather(dtype="fp32", rows=97, row_bytes=row_bytes, lookups=lookups, sets=3)
    for variant in variants_of(problem):
        check(fake_session(), problem, variant)
        check(fake_session(memory="pinned"), problem, variant)


GEMVS = [
    *[Gemv(dtype=dtype, rows=37, cols=cols, batch=batch)
      for dtype in ("fp64", "fp32", "fp16", "bf16", "int8", "int4")
      for cols, batch in ((650, 1), (1024, 6))],
    Gemv(dtype="fp32", rows=1, cols=1), Gemv(dtype="int8", rows=3, cols=4096),
    Gemv(dtype="bf16", rows=30, cols=256, parts=3),
]  # fmt: skip


@pytest.mark.parametrize("problem", GEMVS, ids=lambda p: f"{p.dtype}-{p.rows}x{p.cols}x{p.batch}")
def test_gemv(fake_session: Opener, problem: Gemv) -> None:
    for variant in variants_of(problem):
        check(fake_session(), problem, variant)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("rows", "width", "mask", "scale"),
    [(37, 7, False, 1.0), (9, 1000, True, 0.125), (3, 9000, True, 1.0), (2, 9001, False, 3.0), (5, 1, True, 1.0)],
)
def test_softmax(fake_session: Opener, dtype: str, rows: int, width: int, mask: bool, scale: float) -> None:
    problem = Softmax(dtype=dtype, rows=rows, width=width, mask=mask, scale=scale)
    for variant in variants_of(problem):
        check(fake_session(), problem, variant)


def test_a_launch_of_all_parts_is_so_many_calls(fake_session: Opener) -> None:
    problem = Gemv(dtype="fp32", rows=60, cols=64, parts=3)
    runner = fake_session().prepare(problem, Implementation("cuda", "", "warp"))
    samples = runner.sample(7, 1)
    assert samples.reps == 6
    assert samples.samples_s == pytest.approx([5e-6 / 3])


@pytest.mark.parametrize(("dtype", "shape"), [(dtype, shape) for dtype in SHAPES for shape in SHAPES[dtype]])
def test_mma_through_its_scalar_body(fake_session: Opener, dtype: str, shape: tuple[int, int]) -> None:
    problem = Mma(dtype=dtype, m=shape[0], k=shape[1], tiles=3, depth=2)
    (variant,) = variants_of(problem)
    check(fake_session(), problem, variant)


def lookups(dtype: str, dim: int, **options: Any) -> EmbeddingBag:
    plain = {"rows": (97, 31), "batch": 3, "pooling": ((0, 30), (5, 5)), "draw": Draw(alpha=1.05)}
    return EmbeddingBag(dtype=dtype, dim=dim, **{**plain, **options})


BAGS = [
    *[lookups(dtype, dim) for dtype in ("fp32", "fp16", "bf16", "int8", "int4") for dim in (32, 100)],
    lookups("fp32", 64, weighted=True, index="int64"), lookups("int8", 33, weighted=True), lookups("int4", 7),
    lookups("fp32", 64, mode="mean"), lookups("fp16", 128, sets=3), lookups("fp32", 256, mode="mean", weighted=True),
]  # fmt: skip


@pytest.mark.parametrize("problem", BAGS, ids=lambda p: f"{p.dtype}-{p.dim}-{p.mode}-{p.weighted}-{p.sets}")
def test_embedding_bags(fake_session: Opener, problem: EmbeddingBag) -> None:
    session = fake_session()
    for variant in variants_of(problem):
        check(session, problem, variant)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("dim", [32, 100, 7])
def test_embedding_gathers(fake_session: Opener, dtype: str, dim: int) -> None:
    problem = EmbeddingGather(dtype=dtype, rows=(97,), dim=dim, batch=50, index="int64")
    for variant in variants_of(problem):
        check(fake_session(), problem, variant)


@pytest.mark.parametrize("ends", ["G1", "G2", "G3", "G4", "G5:20"])
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_lookups_from_every_place(fake_session: Opener, ends: str, dtype: str) -> None:
    session = fake_session(ends=ends)
    problem = lookups(dtype, 64, sets=2)
    variant = "cached" if ends.startswith("G5") else "warp"
    check(session, problem, variant)
    runner = session.prepare(problem, Implementation("cuda", "", variant))
    runner.sample(5, 1)
    facts = runner.facts()
    assert ("hit_share" in facts) == ends.startswith("G5")
    if ends.startswith("G5"):
        assert facts["cached_rows"] == 128 * 20 // 100
        assert 0.2 < facts["hit_share"] <= 1.0
    runner.close()


def test_mapped_operands_are_used_in_place(fake_session: Opener) -> None:
    session = fake_session(ends="G2", launch="mapped")
    check(session, lookups("fp32", 64), "warp")
    runner: Any = session.prepare(lookups("fp32", 64), Implementation("cuda", "", "warp"))
    memory = {name: buffer.memory for name, buffer in runner.operands.buffers.items()}
    assert (memory["table"], memory["indices"], memory["out"]) == ("device", "pinned", "pinned")
    runner.operands.device.log.clear()
    runner.sample(4, 1)
    assert not any(what.startswith("copy") for what in runner.operands.device.log)


def test_index_sets_rotate_and_start_at_the_first(fake_session: Opener) -> None:
    session = fake_session(ends="G1")
    runner: Any = session.prepare(lookups("fp32", 32, sets=3), Implementation("cuda", "", "warp"))
    whole = runner.operands.buffers["indices"]
    seen = [runner.operands.pointers(turn)[1] - whole.pointer for turn in range(4)]
    assert seen == [0, whole.nbytes // 3, 2 * whole.nbytes // 3, 0]
    runner.run(5)
    runner.run(1)
    assert runner._turn == 1


@pytest.mark.parametrize(
    ("op", "memory"),
    [("h2d", ""), ("h2d", "pageable"), ("h2d", "managed"), ("d2h", ""), ("both", ""), ("d2d", ""), ("peer", "")],
)
def test_link_copies(fake_session: Opener, op: str, memory: str) -> None:
    session = fake_session(memory=memory)
    check(session, Link(op=op, n=1001, dtype="fp32"), "memcpy")
    runner = session.prepare(Link(op=op, n=1001, dtype="fp32"), Implementation("cuda", "", "memcpy"))
    samples = runner.sample(3, 2)
    assert len(samples.samples_s) == 2
    assert memory == "managed" or samples.samples_s[0] == pytest.approx(4004 / 5e10 * (2 if op == "both" else 1))
    runner.close()


@pytest.mark.parametrize("op", ["plain", "graph", "back-to-back"])
def test_launch_floors(fake_session: Opener, op: str) -> None:
    session = fake_session()
    runner = session.prepare(LaunchFloor(op=op, dtype="none"), Implementation("cuda", "", "floor"))
    assert verify.check_full(LaunchFloor(op=op, dtype="none"), runner) is None
    samples = runner.sample(10, 3)
    assert op != "back-to-back" or samples.samples_s == pytest.approx([5e-6] * 3)
    runner.close()
