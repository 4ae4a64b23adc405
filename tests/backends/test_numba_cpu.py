"""The numba_cpu backend: every kernel it has against float64, and what it says of those it lacks."""

from __future__ import annotations

from collections.abc import Iterator

import py_case
import pytest

from pykernels.backends.numba_cpu import BACKEND
from pykernels.backends.pytimed import PySession
from pykernels.errors import UsageError
from pykernels.kernels.embedding import EmbeddingBag
from pykernels.machine.cpu import read_machine
from pykernels.model import Case, Implementation, Placement

pytest.importorskip("numba")


@pytest.fixture(scope="module")
def session() -> Iterator[PySession]:
    yield from py_case.opened(BACKEND)


@pytest.mark.parametrize(("dtype", "least"), [("fp32", 28), ("int8", 20), ("bf16", 20), ("fp64", 4)])
def test_results_agree_with_float64(session: PySession, dtype: str, least: int) -> None:
    assert py_case.check(BACKEND, session, dtype) >= least


def test_masks(session: PySession) -> None:
    py_case.masked_rows(session, BACKEND)


@pytest.mark.parametrize(("dtype", "dim", "words"), [("fp16", 8, "arithmetic"), ("int8", 6, "multiple of 4")])
def test_what_it_lacks_is_skipped_with_the_reason(dtype: str, dim: int, words: str) -> None:
    problem = EmbeddingBag(dtype=dtype, rows=(8,), dim=dim, batch=2, pooling=((2, 2),))
    case = Case(problem=problem, implementation=Implementation("numba_cpu"), placement=Placement())
    skipped = BACKEND.skip(case, read_machine())
    assert skipped is not None
    assert words in skipped.reason
    assert not BACKEND.variants(case)


def test_prefetch_is_a_variant_of_lookups(session: PySession) -> None:
    problem = EmbeddingBag(dtype="fp32", rows=(8,), dim=8, batch=2, pooling=((2, 2),))
    assert BACKEND.names(problem) == ("plain", "prefetch")
    with pytest.raises(UsageError, match="no variant"):
        session.prepare(problem, Implementation("numba_cpu", "", "fancy"))
