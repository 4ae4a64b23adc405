"""Correct first: a result is compared with the problem's reference before it is timed, and again after.

Outputs are poisoned before every check, so that an element which no thread wrote cannot pass.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pykernels.model import Problem, Tolerance, Wrong

if TYPE_CHECKING:
    from pykernels.backends.base import Runner

Array = np.ndarray[Any, Any]

#: rows compared in a sampled check, edges included
SAMPLED_ROWS = 256


def check_full(problem: Problem, runner: Runner) -> Wrong | None:
    """Run until every output is written, on poisoned outputs, and compare every element. For Problem.small() sizes."""
    return _check(problem, runner, None)


def check_sampled(problem: Problem, runner: Runner, seed: int) -> Wrong | None:
    """Run once on poisoned outputs and compare at least 256 seeded rows of each output's first axis, its first and
    last rows among them (all rows of a shorter output)."""
    return _check(problem, runner, seed)


def sample_rows(count: int, seed: int) -> Array:
    """Sorted distinct rows of [0, count): both ends, and seeded ones to SAMPLED_ROWS in all; all rows if there are no
    more than that."""
    if count <= SAMPLED_ROWS:
        return np.arange(count)
    edges = {0, 1, 2, 3, count - 4, count - 3, count - 2, count - 1}
    chosen = edges | set(random.Random(seed).sample(range(count), SAMPLED_ROWS))
    return np.array(sorted(chosen))


def compare(expected: Mapping[str, Array], found: Mapping[str, Array], tolerance: Tolerance) -> Wrong | None:
    """The worst element beyond |found - expected| <= absolute + relative |expected|, or None.

    Exact integers are compared as integers. NaN is wrong unless it is expected. A variant may give some of the
    reference's outputs only, but not none of them.
    """
    if expected and not found:
        return Wrong(max_error=np.inf, bound=0.0, where="no output was written")
    worst: Wrong | None = None
    for name, values in found.items():
        wrong = _worst(name, np.asarray(expected[name]), np.asarray(values), tolerance)
        if wrong and (
            worst is None or wrong.max_error / (wrong.bound or 1e-300) > worst.max_error / (worst.bound or 1e-300)
        ):
            worst = wrong
    return worst


def _check(problem: Problem, runner: Runner, seed: int | None) -> Wrong | None:
    runner.poison()
    inputs = {name: np.array(view) for name, view in _changing(problem, runner).items()}
    runner.run(problem.cover())
    inputs = {**runner.inputs(), **inputs}
    outputs = runner.outputs()
    rows = None
    if seed is not None:
        count = _row_count(problem)
        rows = sample_rows(count, seed) if count else None
    return compare(problem.reference(inputs, rows), problem.observed(outputs, rows), problem.tolerance())


def _changing(problem: Problem, runner: Runner) -> Mapping[str, Array]:
    """Operands that the run overwrites: the reference needs them as they were."""
    names = {operand.name for operand in problem.operands() if operand.role == "inout"}
    return {name: view for name, view in runner.inputs().items() if name in names} if names else {}


def _row_count(problem: Problem) -> int:
    """Rows that a sampled check draws from: the shortest first axis of the outputs."""
    return min((o.shape[0] for o in problem.operands() if o.role != "in" and o.shape), default=0)


def _worst(name: str, expected: Array, found: Array, tolerance: Tolerance) -> Wrong | None:
    if expected.shape != found.shape:
        return Wrong(max_error=np.inf, bound=0.0, where=f"{name}: shape {found.shape}, expected {expected.shape}")
    if not expected.size:
        return None
    if expected.dtype.kind in "iu" and tolerance == Tolerance():
        unequal = expected != found
        if not unequal.any():
            return None
        at = int(np.argmax(unequal))
        error = abs(int(found.flat[at]) - int(expected.flat[at]))
        return Wrong(max_error=float(error), bound=0.0, where=_element(name, at, found, expected))
    bound = tolerance.absolute + tolerance.relative * np.abs(expected)
    with np.errstate(invalid="ignore", over="ignore"):
        error_array = np.abs(found.astype(np.float64) - expected)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    error_array = np.where(same, 0.0, np.where(np.isnan(error_array), np.inf, error_array))
    excess = error_array - bound
    at = int(np.argmax(np.where(np.isnan(excess), -np.inf, excess)))
    if not excess.flat[at] > 0:
        return None
    return Wrong(
        max_error=float(error_array.flat[at]), bound=float(np.broadcast_to(bound, error_array.shape).flat[at]),
        where=_element(name, at, found, expected),
    )  # fmt: skip


def _element(name: str, at: int, found: Array, expected: Array) -> str:
    index = ",".join(str(int(i)) for i in np.unravel_index(at, found.shape))
    return f"{name}[{index}] is {found.flat[at]}, expected {expected.flat[at]}"
