"""What a backend is: the seam between the engine and everything that can run a kernel.

A backend is asked in the parent process at planning time (`skip`, `isas`, `variants`: cheap, no heavy imports) and in a
fresh worker process at measuring time (`open`). Third parties add one through the entry-point group
`pykernels.backends`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pykernels.model import Case, Implementation, Machine, Placement, Problem, Samples, Skipped

if TYPE_CHECKING:
    import numpy as np


class Runner(Protocol):
    """One case, its buffers filled, ready to run in this worker."""

    def inputs(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Views (or copies, on a device) of the `in` and `inout` operands."""
        ...

    def outputs(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Views (or copies) of the `out` and `inout` operands."""
        ...

    def poison(self) -> None:
        """Overwrite every output with a pattern no kernel writes (and refill inout operands)."""
        ...

    def run(self, calls: int) -> None:
        """Run untimed."""
        ...

    def sample(self, reps: int, count: int) -> Samples:
        """Take `count` timed samples of `reps` calls each; `samples_s` are seconds per call."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the record should keep: page share, tuned values, compiler, registers."""
        ...

    def close(self) -> None:
        """Give the buffers back."""
        ...


class Session(Protocol):
    """A backend opened for one placement in one worker process."""

    def prepare(self, problem: Problem, implementation: Implementation) -> Runner:
        """Allocate, fill and bind; `implementation.variant` is never empty here."""
        ...


class Backend(Protocol):
    """A technology that runs kernels. One that runs elsewhere than on CPUs says so: `kinds = ("gpu",)`."""

    name: str

    def skip(self, case: Case, machine: Machine) -> Skipped | None:
        """Why this case cannot run here, or None."""
        ...

    def isas(self, machine: Machine) -> tuple[str, ...]:
        """ISA levels to choose from, in rising order; empty where the level is not an axis of this backend."""
        ...

    def variants(self, case: Case) -> tuple[str, ...]:
        """Candidates for the tuning pass, in rising order of refinement; empty: the case is not implemented."""
        ...

    def open(self, placement: Placement, machine: Machine) -> Session:
        """Pin, allocate the arena and get ready; called once per worker process."""
        ...
