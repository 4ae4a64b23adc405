"""Backends whose calls are made from Python: pinned, on the native arena's operands, timed by a Python loop.

A sample is `reps` calls between two readings of the monotonic clock, so the cost of a Python call is part of it (a
jitted function takes the reps inside). CPU time over wall time is that of the calling thread alone: other threads of a
library's pool are not seen. Libraries are held to the placement: their pools have as many threads as it has, and these
run on its CPUs.
"""

from __future__ import annotations

import os
import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from pykernels.errors import UsageError
from pykernels.model import Case, Implementation, Machine, Placement, Problem, Samples, Skipped

if TYPE_CHECKING:
    import numpy as np

    from pykernels.backends.native_memory import Buffers

Array = Any
Arrays = Mapping[str, Any]


class Passes(Protocol):
    """Runs passes number first, first + 1, ..., first + reps - 1. May have a `finish()` that puts results where the
    outputs are read, outside of what is timed."""

    def __call__(self, first: int, reps: int, /) -> None: ...


class PyBackend(ABC):
    """A library driven from Python. A subclass names it, says what it cannot do and why, and binds calls."""

    name: str
    package: str  # what has to be installed

    @abstractmethod
    def lacks(self, problem: Problem) -> str:
        """Why the library has no such kernel, or "". Imports nothing heavy."""

    @abstractmethod
    def names(self, problem: Problem) -> tuple[str, ...]:
        """Variants in rising order of refinement."""

    @abstractmethod
    def load(self, placement: Placement, machine: Machine) -> None:
        """Import the library in this worker and hold it to the placement's threads."""

    @abstractmethod
    def bind(self, problem: Problem, variant: str, arrays: Arrays) -> Passes:
        """The passes of a problem over its operands."""

    def facts(self) -> dict[str, Any]:
        """Versions and pools, for the record."""
        return {}

    def skip(self, case: Case, machine: Machine) -> Skipped | None:
        """No such package, a device that is no CPU, or a kernel that the library lacks."""
        placement = case.placement
        if placement.device.startswith("gpu"):
            return Skipped(reason=f"{self.name} runs here on a CPU, not on {placement.device}")
        if placement.mode or placement.ends not in ("", "C0"):
            return Skipped(reason=f"{self.name} is timed call by call with everything in host memory")
        if find_spec(self.package) is None:
            return Skipped(reason=f"{self.package} is not installed", hint=f"pip install {self.package}")
        why = self.lacks(case.problem)
        return Skipped(reason=why) if why else None

    def isas(self, machine: Machine) -> tuple[str, ...]:
        """None: the library chooses its instructions itself."""
        return ()

    def variants(self, case: Case) -> tuple[str, ...]:
        """Those of the problem."""
        return () if self.lacks(case.problem) else self.names(case.problem)

    def open(self, placement: Placement, machine: Machine) -> PySession:
        """Pin this process to the placement's CPUs, then load the library."""
        return PySession(self, placement, machine)


class PySession:
    """Operands by the native session, calls by the library."""

    def __init__(self, backend: PyBackend, placement: Placement, machine: Machine) -> None:
        from pykernels.backends.native import NativeSession
        from pykernels.machine.placement import cpus_for

        self.backend, self.placement = backend, placement
        cpus = cpus_for(machine, placement.device, placement.threads)
        os.sched_setaffinity(0, cpus)
        self.native = NativeSession(placement, machine)
        backend.load(placement, machine)

    def prepare(self, problem: Problem, implementation: Implementation) -> PyRunner:
        """Filled operands and the calls bound to them; raises UsageError for an unknown variant."""
        if implementation.variant not in self.backend.names(problem):
            known = ", ".join(self.backend.names(problem))
            raise UsageError(f'{problem.kernel}: no variant "{implementation.variant}" (known: {known})')
        return PyRunner(self, problem, implementation.variant)


class PyRunner:
    """Implements backends.base.Runner."""

    def __init__(self, session: PySession, problem: Problem, variant: str) -> None:
        self._session, self._problem = session, problem
        self._buffers: Buffers = session.native.operands(problem)
        self._operands = problem.operands()
        self._views = {operand.name: self._buffers.view(operand) for operand in self._operands}
        self._passes = session.backend.bind(problem, variant, self._views)
        self._first = 0

    def inputs(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Views of the `in` and `inout` operands."""
        return {o.name: self._views[o.name] for o in self._operands if o.role != "out"}

    def outputs(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Views of the `out` and `inout` operands."""
        return {o.name: self._views[o.name] for o in self._operands if o.role != "in"}

    def poison(self) -> None:
        """Overwrite outputs with a pattern that is NaN in every floating-point type; refill inout operands."""
        for operand in self._operands:
            if operand.role == "out":
                arena, offset = self._buffers.places[operand]
                self._session.native.team.poison(arena, offset, self._views[operand.name].nbytes)
            elif operand.role == "inout":
                self._session.native.fill(self._buffers, operand, self._problem)

    def run(self, calls: int) -> None:
        """Run untimed, rotating passes from their first turn on."""
        self._passes(0, calls)
        finish = getattr(self._passes, "finish", None)
        if finish:
            finish()

    def sample(self, reps: int, count: int) -> Samples:
        """Timed samples, each `reps` calls."""
        from pykernels._core import clock_ghz

        samples = Samples(samples_s=[], reps=reps)
        for _ in range(count):
            samples.clock_ghz.append(clock_ghz())
            switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
            cpu, start = time.thread_time_ns(), time.perf_counter_ns()
            self._passes(self._first, reps)
            wall = time.perf_counter_ns() - start
            cpu = time.thread_time_ns() - cpu
            self._first += reps
            samples.samples_s.append(wall * 1e-9 / reps)
            samples.cpu_over_wall.append(min(1.0, cpu / max(1, wall)))
            samples.involuntary_switches.append(resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - switches)
        return samples

    def facts(self) -> dict[str, Any]:
        """Versions, pools, and the share of the operands that lies on huge pages."""
        from pykernels.backends.native_memory import huge_page_share

        arena = self._buffers.largest()
        share = huge_page_share(arena.address, arena.bytes)
        facts = {"timed_by": "python", **self._session.backend.facts()}
        return facts if share is None else {**facts, "huge_page_share": share}

    def close(self) -> None:
        """Give the buffers back to the session."""
        self._session.native.give_back(self._buffers)


def part_rows(problem: Any, number: int) -> slice:
    """Rows of the output (softmax) or of A (gemv) that pass `number` covers: the parts in turn."""
    part = number % problem.parts
    return slice(problem.rows * part // problem.parts, problem.rows * (part + 1) // problem.parts)


def looped(call: Callable[[int], None], finish: Callable[[], Any] | None = None) -> Passes:
    """Passes one call after the other."""

    def passes(first: int, reps: int) -> None:
        for number in range(first, first + reps):
            call(number)

    if finish:
        passes.finish = finish  # type: ignore[attr-defined]
    return passes


def equal_bags(problem: Any) -> int:
    """Lookups of each bag where all are alike, else 0."""
    import numpy as np

    lengths = np.diff(problem.offsets())
    return int(lengths[0]) if len(lengths) and (lengths == lengths[0]).all() else 0
