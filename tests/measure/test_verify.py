"""The check before and after timing: what it catches, and that it reads what it says it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.kernels.random import array
from pykernels.kernels.stream import Stream
from pykernels.measure.clock import resolution_s, shortest_sample_s
from pykernels.measure.verify import SAMPLED_ROWS, check_full, check_sampled, compare, sample_rows
from pykernels.model import Samples, Tolerance

TRIAD = Stream(op="triad", n=5000, dtype="fp64")


class Fake:
    """A runner in NumPy whose result can be spoilt."""

    def __init__(self, problem: Stream, spoil: Any = None) -> None:
        self.problem, self.spoil = problem, spoil
        self.operands = {o.name: array(o) for o in problem.operands() if o.role == "in"}
        self.c = np.zeros(problem.n)

    def inputs(self) -> Mapping[str, np.ndarray]:
        return self.operands

    def outputs(self) -> Mapping[str, np.ndarray]:
        return {"c": self.c}

    def poison(self) -> None:
        self.c[:] = np.nan

    def run(self, calls: int) -> None:
        self.c[:] = self.operands["a"] + 1.25 * self.operands["b"]
        if self.spoil:
            self.spoil(self.c)

    def sample(self, reps: int, count: int) -> Samples:
        return Samples(samples_s=[1.0] * count, reps=reps)

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


def test_right_is_right() -> None:
    assert check_full(TRIAD, Fake(TRIAD)) is None
    assert check_sampled(TRIAD, Fake(TRIAD), seed=3) is None


@pytest.mark.parametrize("at", [0, 1, 2500, 4999])
def test_one_wrong_element_is_found_in_full(at: int) -> None:
    def spoil(c: np.ndarray) -> None:
        c[at] *= 1 + 1e-12

    found = check_full(TRIAD, Fake(TRIAD, spoil))
    assert found is not None
    assert found.where.startswith(f"c[{at}] is ")
    assert found.max_error > found.bound > 0


@pytest.mark.parametrize("at", [0, 3, 4996, 4999])
def test_edges_are_always_sampled(at: int) -> None:
    def spoil(c: np.ndarray) -> None:
        c[at] = 0

    for seed in range(5):
        assert check_sampled(TRIAD, Fake(TRIAD, spoil), seed) is not None


def test_an_unwritten_element_stays_poison_and_is_wrong() -> None:
    def spoil(c: np.ndarray) -> None:
        c[4999] = np.nan

    found = check_sampled(TRIAD, Fake(TRIAD, spoil), seed=1)
    assert found is not None
    assert found.max_error == np.inf


@given(count=st.integers(1, 100_000), seed=st.integers(0, 1000))
def test_rows(count: int, seed: int) -> None:
    rows = sample_rows(count, seed)
    assert len(rows) >= min(count, SAMPLED_ROWS)
    assert len(np.unique(rows)) == len(rows)
    assert rows[0] == 0
    assert rows[-1] == count - 1
    assert np.array_equal(rows, sample_rows(count, seed))


def test_seeds_look_elsewhere() -> None:
    assert not np.array_equal(sample_rows(10_000, 1), sample_rows(10_000, 2))


def test_integers_are_compared_exactly() -> None:
    big = np.array([2**62 + 1, 5])
    assert compare({"n": big}, {"n": big.copy()}, Tolerance()) is None
    found = compare({"n": big}, {"n": big - np.array([1, 0])}, Tolerance())
    assert found is not None
    assert found.max_error == 1


def test_worst_output_is_named() -> None:
    expected = {"x": np.ones(3), "y": np.ones(3)}
    found = compare(expected, {"x": np.ones(3) + 1e-3, "y": np.array([1, 2.0, 1])}, Tolerance(relative=1e-6))
    assert found is not None
    assert found.where.startswith("y[1]")


def test_nothing_written_is_wrong_and_nothing_expected_is_not() -> None:
    assert compare({"x": np.ones(1)}, {}, Tolerance()) is not None
    assert compare({}, {}, Tolerance()) is None
    wrong_shape = compare({"x": np.ones(2)}, {"x": np.ones(3)}, Tolerance())
    assert wrong_shape is not None
    assert "shape" in wrong_shape.where


def test_infinities_and_expected_nan() -> None:
    same = np.array([np.inf, -np.inf, np.nan])
    assert compare({"x": same}, {"x": same.copy()}, Tolerance(relative=0.1)) is None
    assert compare({"x": np.ones(1)}, {"x": np.array([np.inf])}, Tolerance(relative=0.1)) is not None


def test_clock_helpers() -> None:
    assert 0 < resolution_s() < 1e-3
    assert shortest_sample_s(1e-6) == pytest.approx(1e-3)
