"""The torch backend: every kernel it has against float64, and what it says of those it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import py_case
import pytest

from pykernels.backends.pytimed import PySession
from pykernels.backends.torch_backend import BACKEND
from pykernels.errors import UsageError
from pykernels.kernels.embedding import EmbeddingBag
from pykernels.machine.cpu import read_machine
from pykernels.model import Case, Implementation, Placement


def test_absent_or_not_what_it_lacks_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = EmbeddingBag(dtype="int4", rows=(8,), dim=8, batch=2, pooling=((2, 2),))
    case = Case(problem=problem, implementation=Implementation("torch"), placement=Placement())
    monkeypatch.setattr("pykernels.backends.pytimed.find_spec", lambda name: None)
    skipped = BACKEND.skip(case, read_machine())
    assert skipped is not None
    assert skipped.reason == "torch is not installed"
    assert skipped.hint == "pip install torch"
    monkeypatch.setattr("pykernels.backends.pytimed.find_spec", lambda name: object())
    skipped = BACKEND.skip(case, read_machine())
    assert skipped is not None
    assert "fp16" in skipped.reason


@pytest.fixture(scope="module")
def session() -> Iterator[PySession]:
    yield from py_case.opened(BACKEND)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
class TestInstalled:
    """Where torch is installed."""

    @pytest.mark.parametrize(("dtype", "least"), [("fp32", 20), ("bf16", 8), ("int8", 8), ("fp64", 4), ("fp16", 4)])
    def test_results_agree_with_float64(self, session: PySession, dtype: str, least: int) -> None:
        assert py_case.check(BACKEND, session, dtype) >= least

    def test_masks(self, session: PySession) -> None:
        py_case.masked_rows(session, BACKEND)

    def test_unknown_variant(self, session: PySession) -> None:
        problem = EmbeddingBag(dtype="fp32", rows=(8,), dim=8, batch=2, pooling=((2, 2),))
        with pytest.raises(UsageError, match="no variant"):
            session.prepare(problem, Implementation("torch", "", "fancy"))
