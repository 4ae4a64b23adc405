"""The numpy backend: every kernel it has against float64, and what it says of those it lacks."""

from __future__ import annotations

from collections.abc import Iterator

import py_case
import pytest

from pykernels.backends.numpy_backend import BACKEND
from pykernels.backends.pytimed import PySession
from pykernels.errors import UsageError
from pykernels.kernels.embedding import EmbeddingBag
from pykernels.machine.cpu import read_machine
from pykernels.model import Case, Implementation, Placement


@pytest.fixture(scope="module")
def session() -> Iterator[PySession]:
    yield from py_case.opened(BACKEND)


@pytest.mark.parametrize(("dtype", "least"), [("fp32", 19), ("fp64", 4), ("fp16", 11)])
def test_results_agree_with_float64(session: PySession, dtype: str, least: int) -> None:
    assert py_case.check(BACKEND, session, dtype) >= least


def test_masks(session: PySession) -> None:
    py_case.masked_rows(session, BACKEND)


@pytest.mark.parametrize("dtype", ["bf16", "int8", "int4"])
def test_dtypes_without_arithmetic_are_skipped_with_the_reason(dtype: str) -> None:
    problem = EmbeddingBag(dtype=dtype, rows=(8,), dim=8, batch=2, pooling=((2, 2),))
    skipped = BACKEND.skip(
        Case(problem=problem, implementation=Implementation("numpy"), placement=Placement()), read_machine()
    )
    assert skipped is not None
    assert "arithmetic" in skipped.reason


def test_threads_and_gpus(session: PySession) -> None:
    problem = EmbeddingBag(dtype="fp32", rows=(8,), dim=8, batch=2, pooling=((2, 2),))
    case = Case(problem=problem, implementation=Implementation("numpy"), placement=Placement(device="gpu:0"))
    skipped = BACKEND.skip(case, read_machine())
    assert skipped is not None
    assert "CPU" in skipped.reason
    assert all(pool.endswith("x1") for pool in BACKEND.facts()["pools"])
    with pytest.raises(UsageError, match="no variant"):
        session.prepare(problem, Implementation("numpy", "", "fancy"))
