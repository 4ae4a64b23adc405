"""Every csrc/cuda kernel of every problem, run on the host shim through the backend, against the problem's reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pykernels.backends import cuda_table
from pykernels.backends.cuda import CudaSession
from pykernels.kernels import random as pk_random
from pykernels.kernels.stream import Stream
from pykernels.measure import verify
from pykernels.model import Implementation, Operand, Problem, Recipe

Opener = Callable[..., CudaSession]


def variants_of(problem: Problem) -> list[str]:
    """Every variant of a problem, whatever its level, with its first number of blocks."""
    return [entry.variants()[0] for entry in cuda_table.find(*problem.entry()) if "cached" not in entry.flags]


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


FILLS = [
    *[(dtype, Recipe(seed=seed, low=low, high=high)) for dtype in ("fp64", "fp32", "fp16", "bf16")
      for seed, low, high in ((0, 0.5, 1.5), (7, -1.0, 1.0))],
    *[(dtype, Recipe("integers", 3, low, high)) for dtype, low, high in
      (("int8", -8, 8), ("uint8", 0, 256), ("int32", -5, 1000003), ("int64", 0, 10**12), ("int4", -8, 8))],
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "recipe"), FILLS, ids=lambda v: v if isinstance(v, str) else f"{v.seed}")
@pytest.mark.parametrize("count", [2, 62, 1026])
def test_the_device_fills_as_numpy_does(fake_session: Opener, dtype: str, recipe: Recipe, count: int) -> None:
    session = fake_session()
    operand = Operand("x", "in", (count + (dtype != "int4"),), dtype, recipe)
    expected = pk_random.array(operand)
    buffer = session.device.alloc(expected.nbytes)
    kind = 1 if recipe.distribution == "integers" else 2 if dtype == "bf16" else 0
    dims = [operand.shape[0], recipe.seed, pk_random._BITS[dtype], kind]
    session.launch("fill", "any", [buffer.pointer], dims, (recipe.low, recipe.high))
    found: np.ndarray[Any, Any] = session.device.read(buffer, expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)
