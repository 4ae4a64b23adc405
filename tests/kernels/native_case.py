"""Runs a problem on the native backend in this process: what the kernel tests share."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from pykernels.backends.native import BACKEND, NativeSession
from pykernels.machine.cpu import read_machine
from pykernels.measure import verify
from pykernels.model import Case, Implementation, Machine, Placement, Problem, Wrong

_core = pytest.importorskip("pykernels._core", reason="the native module is not built")


@functools.cache
def machine() -> Machine:
    return read_machine()


@functools.cache
def session(threads: int = 1, pages: str = "4k") -> NativeSession:
    """A team of that size; the tests that need two threads skip on one CPU."""
    if threads > len(machine().affinity):
        pytest.skip(f"needs {threads} CPUs")
    return BACKEND.open(Placement(threads=threads, pages=pages), machine())


def levels() -> tuple[str, ...]:
    return BACKEND.isas(machine())


def implementations(problem: Problem, isa: str) -> Iterator[Implementation]:
    """Every variant of a problem at a level."""
    case = Case(problem=problem, implementation=Implementation("native", isa), placement=Placement())
    for variant in BACKEND.variants(case):
        yield Implementation("native", isa, variant)


def wrong(problem: Problem, implementation: Implementation, threads: int = 1, seed: int | None = None) -> Wrong | None:
    """What the full check, or the sampled one with a seed, finds wrong."""
    runner = session(threads).prepare(problem, implementation)
    try:
        return verify.check_full(problem, runner) if seed is None else verify.check_sampled(problem, runner, seed)
    finally:
        runner.close()
