"""Checks a Python-timed backend in this process: what the tests of numpy, numba_cpu and torch share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from pykernels.backends.pytimed import PyBackend, PySession
from pykernels.kernels.embedding import EmbeddingBag, EmbeddingGather
from pykernels.kernels.gemv import Gemv
from pykernels.kernels.softmax import Softmax
from pykernels.machine.cpu import read_machine
from pykernels.measure import verify
from pykernels.model import Case, Implementation, Placement, Problem

pytest.importorskip("pykernels._core", reason="the native module is not built")


def opened(backend: PyBackend, threads: int = 1) -> Iterator[PySession]:
    """A session, and this process on all its CPUs again afterwards."""
    before = os.sched_getaffinity(0)
    try:
        yield backend.open(Placement(threads=threads, pages="4k"), read_machine())
    finally:
        os.sched_setaffinity(0, before)


def problems(dtypes: tuple[str, ...]) -> list[Problem]:
    """Odd, prime, empty and ragged shapes of every kernel, in every dtype."""
    found: list[Problem] = []
    for dtype in dtypes:
        found += [
            Gemv(dtype=dtype, rows=rows, cols=cols, batch=batch, parts=parts)
            for rows, cols, batch, parts in ((5, 3, 1, 1), (64, 130, 3, 3), (1, 1, 1, 1), (37, 257, 8, 2))
        ]
        found += [
            Softmax(dtype=dtype, rows=rows, width=width, mask=mask, scale=scale, parts=parts)
            for rows, width, mask, scale, parts in (
                (1, 1, False, 1.0, 1), (7, 33, True, 0.5, 3), (20, 256, False, 1.0, 1), (3, 1000, False, -2.0, 1),
            )
        ]  # fmt: skip
        for index in ("int32", "int64"):
            found += [
                EmbeddingBag(
                    dtype=dtype, rows=(31, 5), dim=dim, batch=batch, pooling=(pooling, pooling), mode=mode,
                    weighted=weighted, index=index, sets=2,
                )
                for dim, batch, pooling, mode, weighted in (
                    (64, 3, (5, 5), "sum", False), (12, 4, (0, 7), "sum", True), (8, 2, (0, 0), "sum", False),
                    (20, 7, (0, 9), "mean", False), (4, 1, (1, 1), "sum", False),
                )
            ]  # fmt: skip
            found.append(EmbeddingGather(dtype=dtype, rows=(31,), dim=20, batch=17, index=index))
    return found


def check(backend: PyBackend, session: PySession, dtype: str) -> int:
    """Every problem of a dtype that the backend has agrees with float64; returns how many there were."""
    count = 0
    for problem in problems((dtype,)):
        case = Case(problem=problem, implementation=Implementation(backend.name), placement=Placement())
        if backend.skip(case, read_machine()):
            assert not backend.variants(case)
            continue
        for variant in backend.variants(case):
            runner = session.prepare(problem, Implementation(backend.name, "", variant))
            assert verify.check_full(problem, runner) is None, (case.id, variant)
            samples = runner.sample(2, 2)
            assert len(samples.samples_s) == len(samples.cpu_over_wall) == 2
            assert min(samples.samples_s) > 0
            msgspec.json.encode(runner.facts())  # a record holds them
            runner.close()
            count += 1
    return count


def masked_rows(session: PySession, backend: PyBackend) -> None:
    """A fully masked row is zeros, -inf gives exact zeros, huge logits do not overflow."""
    problem = Softmax(dtype="fp32", rows=3, width=40, mask=True)
    runner = session.prepare(problem, Implementation(backend.name, "", "plain"))
    inputs = runner.inputs()
    inputs["x"][:] = np.linspace(-3e38, 3e38, 40, dtype=np.float32)
    for mask in (np.full(40, -np.inf), np.where(np.arange(40) < 20, -np.inf, 0.0)):
        inputs["mask"][:] = mask
        runner.poison()
        runner.run(1)
        found = problem.observed(runner.outputs())
        assert verify.compare(problem.reference(inputs), found, problem.tolerance()) is None
        assert not found["out"][:, :20].any()
    # these buffers no longer hold what their recipe says, so they are not given back
