"""Pointer chases against the closed form of their cycle, and the cycle itself, native and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_case import implementations, levels, session, wrong
from test_stream import Sizes

from pykernels import _core
from pykernels.errors import UsageError
from pykernels.kernels.chase import CHAINS, SEED, Chase, build
from pykernels.kernels.cycle import Cycle
from pykernels.kernels.random import array
from pykernels.model import Case, Implementation, Operand, Placement, Recipe


@given(lines=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1))
def test_cycle_is_one_cycle(lines: int, seed: int) -> None:
    cycle = Cycle(lines, seed)
    following = cycle.successors()
    at, seen = 0, 0
    while seen < lines:
        at, seen = int(following[at]), seen + 1
        if at == 0:
            break
    assert (at, seen) == (0, lines)
    assert np.array_equal(cycle.position(cycle.at(np.arange(lines))), np.arange(lines))
    assert cycle.ahead(0, 1) == following[0]


def test_cycle_jumps_about() -> None:
    """As far as independent lines would, a third of the array on average, and hardly ever to a line nearby."""
    lines = Cycle(1 << 18, SEED).at(np.arange(50_000)).astype(np.int64)
    jumps = np.abs(np.diff(lines))
    assert 0.31 < jumps.mean() / (1 << 18) < 0.36
    assert (jumps <= 2).mean() < 1e-4


def test_no_cycle_through_nothing() -> None:
    with pytest.raises(ValueError, match="at least one line"):
        Cycle(0, 1)


@given(blocks=st.integers(1, 3), rows=st.integers(1, 500), words=st.sampled_from([1, 8]), threads=st.integers(1, 2))
def test_native_and_numpy_cycles_are_equal(blocks: int, rows: int, words: int, threads: int) -> None:
    operand = Operand("lines", "in", (blocks, rows, words), "int64", Recipe("cycle", 5))
    arena = _core.Arena(blocks * rows * words * 8, huge=False)
    session(threads).team.fill_cycle(arena, 0, blocks, rows, words, 5)
    addresses = np.frombuffer(arena, np.int64, blocks * rows * words).reshape(blocks, rows, words)
    starts = arena.address + np.arange(blocks)[:, None, None] * rows * words * 8
    assert np.array_equal((addresses - starts) // (8 * words), array(operand))


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("chains", CHAINS)
def test_ends_of_all_chains(chains: int, isa: str) -> None:
    for units, threads in ((1, 1), (2, 2), (3, 2), (1, 2)):
        for lines in (1, 7, 4099):
            problem = Chase(dtype="int64", lines=lines, chains=chains, units=units, steps=512)
            for implementation in implementations(problem, isa):
                assert wrong(problem, implementation, threads) is None, (units, threads, lines)


def test_timed_passes_go_on_along_the_cycle() -> None:
    problem = Chase(dtype="int64", lines=1009, steps=16)
    runner = session(1).prepare(problem, next(implementations(problem, levels()[-1])))
    runner.sample(3, 2)
    runner.sample(1, 1)
    assert runner.outputs()["ends"][0, 0] == Cycle(1009, SEED).ahead(0, 16 * 7)
    runner.close()


def test_a_walk_through_the_l3_is_short() -> None:
    """Twice an L2 for each thread: of more, those who share the L3 take what a slow walk does not come back to."""
    problem = build({"chains": 1, "level": "L3"}, Sizes())
    assert problem.working_set() == 2 * (2 << 20) < Sizes().level_bytes("L3")


def test_level_size_and_ids() -> None:
    problem = build({"chains": 1, "level": "L2"}, Sizes())
    assert (problem.units, problem.working_set()) == (2, 786432)
    case = Case(problem=problem, implementation=Implementation("native"), placement=Placement(threads=2))
    assert case.id == "chase[level=L2,int64] native @cpu*2"
    sized = build({"chains": 4, "size": "4 L3"}, Sizes())
    assert sized.params() == {"chains": "4", "size": "4 L3"}
    assert not sized.figure().ceiling
    assert sized.figure().op == "chase x4"
    with pytest.raises(UsageError, match="both level"):
        build({"chains": 1, "level": "L1", "size": "1 MiB"}, Sizes())
