"""Kernels that run while the host asks them: on the fake device they run in a thread of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pykernels.backends import cuda
from pykernels.backends.cuda import CudaSession
from pykernels.backends.cuda_persistent import Mailbox
from pykernels.errors import PykernelsError
from pykernels.kernels.embedding import EmbeddingBag
from pykernels.kernels.launch import LaunchFloor
from pykernels.measure import verify
from pykernels.model import Case, Implementation, Placement

Opener = Callable[..., CudaSession]
FLOOR = Implementation("cuda", "", "floor")


def lookups(dtype: str = "fp32", **options: Any) -> EmbeddingBag:
    plain = {"rows": (97,), "dim": 32, "batch": 5, "pooling": ((0, 9),), "sets": 3}
    return EmbeddingBag(dtype=dtype, **{**plain, **options})


@pytest.fixture(params=["native", "python"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which loop asks: the native driver, or Python where it is not built."""
    if request.param == "python":
        monkeypatch.setitem(__import__("sys").modules, "pykernels._requests", None)
        monkeypatch.delattr("pykernels._requests", raising=False)
    else:
        pytest.importorskip("pykernels._requests")
    return str(request.param)


def test_the_floor_of_a_persistent_kernel(fake_session: Opener, loops: str) -> None:
    runner = fake_session().prepare(LaunchFloor(op="persistent", dtype="none"), FLOOR)
    samples = runner.sample(20, 2)
    assert all(seconds > 0 for seconds in samples.samples_s)
    assert runner.facts()["timed_by"] == loops
    runner.close()


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("ends", ["", "G2"])
def test_lookups_asked_of_a_running_kernel(fake_session: Opener, dtype: str, ends: str) -> None:
    session = fake_session(launch="persistent", ends=ends)
    live = set(session.device.live)  # type: ignore[attr-defined]
    problem = lookups(dtype)
    runner = session.prepare(problem, Implementation("cuda", "", "persistent"))
    assert verify.check_full(problem, runner) is None
    assert runner.sample(4, 2).reps == 4
    runner.close()
    assert set(session.device.live) == live  # type: ignore[attr-defined]


def test_latencies_of_requests_to_a_running_kernel(
    fake_session: Opener, loops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pykernels.measure.latency.CALLS", 100)
    runner = fake_session(launch="persistent", mode="closed").prepare(
        lookups(), Implementation("cuda", "", "persistent")
    )
    runner.sample(3, 1)
    facts = runner.facts()
    assert (facts["latency"]["calls"], facts["timed_by"]) == (100, loops)
    runner.close()


def test_open_loops_over_a_running_kernel(fake_session: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pykernels._requests")
    monkeypatch.setattr("pykernels.measure.latency.CALLS", 60)
    monkeypatch.setattr("pykernels.measure.latency.LOADS", (0.9,))
    monkeypatch.setattr("pykernels.backends.cuda_requests.OPEN_CALLS", 60)
    runner = fake_session(launch="persistent", mode="open").prepare(lookups(), Implementation("cuda", "", "persistent"))
    runner.sample(3, 1)
    assert len(runner.facts()["open_loop"]) == 1
    runner.close()


def test_a_kernel_that_never_answers_is_an_error(fake_session: Opener, loops: str) -> None:
    mailbox = Mailbox(fake_session().device)
    mailbox.ANSWER_S = 0.01  # type: ignore[misc]
    with pytest.raises(PykernelsError, match="gave no answer within"):
        mailbox.closed(lambda: None, 3)
    assert mailbox.request[0] == Mailbox.END


def test_the_persistent_path_has_its_own_entries() -> None:
    def names(**placement: str) -> set[str]:
        case = Case(lookups(), Implementation("cuda"), Placement(device="gpu:0", **placement))
        return {entry.variant for entry in cuda.candidates(case)}

    assert names() == {"simple", "warp"}
    assert names(launch="persistent") == {"persistent"}
    assert names(launch="persistent", ends="G5") == set()
