"""The ceilings of exponentials, of line handovers, and of latency under load."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_case import implementations, levels, session, wrong
from test_stream import Sizes

from pykernels.errors import UsageError
from pykernels.kernels import exp, handover, loaded
from pykernels.kernels.exp import Exp
from pykernels.kernels.handover import Handover
from pykernels.kernels.loaded import BLOCK_WORDS, IDLE, WRITTEN, Loaded
from pykernels.kernels.random import array
from pykernels.machine.placement import NoSuchLevel


class OneThread(Sizes):
    threads = 1


@given(n=st.integers(1, 3000), isa=st.sampled_from(levels()), threads=st.sampled_from([1, 2]), units=st.integers(1, 3))
def test_exponentials(n: int, isa: str, threads: int, units: int) -> None:
    problem = Exp(dtype="fp32", n=n, units=units)
    found = list(implementations(problem, isa))
    assert len(found) >= 2
    for implementation in found:
        assert wrong(problem, implementation, threads) is None, implementation


def test_exp_figure() -> None:
    problem = exp.build({"dtype": "fp32"}, Sizes())
    assert problem.units == 2
    assert (problem.figure().unit, problem.figure().amount) == ("Gexp/s", 4096.0)


@pytest.mark.parametrize("isa", levels())
def test_handovers_of_both_orders(isa: str) -> None:
    for one, other in ((0, 1), (1, 0)):
        problem = Handover(dtype="int64", one=one, other=other, trips=50)
        for implementation in implementations(problem, isa):
            assert wrong(problem, implementation, 2) is None


def test_a_handover_takes_time() -> None:
    problem = Handover(dtype="int64")
    runner = session(2).prepare(problem, next(implementations(problem, levels()[-1])))
    seconds = min(runner.sample(2, 5).samples_s)
    assert seconds / problem.figure().amount > 1e-9, "no line passes between cores in a nanosecond"
    assert runner.outputs()["line"][8] == 2 * problem.trips
    runner.close()


def test_pairs() -> None:
    assert handover.build({"one": 0, "other": "next"}, Sizes()).params() == {"pair": "0-1"}
    assert handover.build({"one": 0, "other": "last"}, Sizes()).params() == {"pair": "0-1"}
    for values in ({"one": 0, "other": 2}, {"one": 1, "other": 1}):
        with pytest.raises(NoSuchLevel, match="no pair"):
            handover.build(values, Sizes())
    with pytest.raises(NoSuchLevel):
        handover.build({"one": 0, "other": "next"}, OneThread())
    with pytest.raises(UsageError, match="thread"):
        handover.build({"one": 0, "other": "far"}, Sizes())


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("read", WRITTEN)
def test_loaded_latency_leaves_its_data_alone(read: int, isa: str) -> None:
    for pause in (IDLE, 0, 100):
        problem = Loaded(dtype="int64", lines=4099, n=4 * BLOCK_WORDS, units=2, read=read, pause=pause)
        for implementation in implementations(problem, isa):
            assert wrong(problem, implementation, 2) is None
            runner = session(2).prepare(problem, implementation)
            runner.sample(2, 2)
            assert np.array_equal(runner.inputs()["data"], array(problem.operands()[1]))
            rate = runner.facts()["background_GBps"]
            assert (rate == 0) == (pause == IDLE)
            runner.close()


def test_a_pause_lowers_the_background() -> None:
    rates = []
    for pause in (0, 30_000):
        problem = Loaded(dtype="int64", lines=65536, n=64 * BLOCK_WORDS, units=2, pause=pause)
        runner = session(2).prepare(problem, next(implementations(problem, levels()[-1])))
        runner.sample(4, 5)
        rates.append(runner.facts()["background_GBps"])
        runner.close()
    assert rates[1] < rates[0] / 2


def test_loaded_needs_two_threads_and_a_number() -> None:
    values = {"read": 80, "pause": 100, "level": "DRAM"}
    problem = loaded.build(values, Sizes())
    assert problem.params() == {"read": "80", "pause": "100", "level": "DRAM"}
    assert problem.working_set() == 256 << 20
    assert loaded.build({**values, "pause": "idle"}, Sizes()).params()["pause"] == "idle"
    with pytest.raises(NoSuchLevel, match="two threads"):
        loaded.build(values, OneThread())
    for pause in ("often", -2, 1.5):
        with pytest.raises(UsageError, match="pause"):
            loaded.build({**values, "pause": pause}, Sizes())
