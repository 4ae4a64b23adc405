"""Requests to a kernel that runs already: the host writes a number in mapped memory, the kernel answers in a second
word.

The kernel is started for each sample and ended by the last request; it also ends by itself when no request came for its
time limit, so that no error can leave it running.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from pykernels.backends.cuda_driver import Device
from pykernels.backends.cuda_requests import Requests, python_loop
from pykernels.backends.cuda_runner import KernelRunner
from pykernels.backends.cuda_table import Entry, pack_args
from pykernels.errors import PykernelsError
from pykernels.model import Problem, Samples

if TYPE_CHECKING:
    from pykernels.backends.cuda import CudaSession

Array = np.ndarray[Any, Any]


class Mailbox:
    """A request word and an answer word in mapped host memory, and loops of requests over them."""

    END, LIMIT_NS, ANSWER_S = 0xFFFFFFFF, 1_000_000_000, 1.0

    def __init__(self, device: Device) -> None:
        self.device = device
        self.words = [device.alloc(256, "pinned") for _ in range(2)]
        self.request, self.answer = (device.host_view(word)[:4].view(np.uint32) for word in self.words)
        try:
            self.native: Any = import_module("pykernels._requests")
        except ImportError:
            self.native = None
        self.timed_by = "native" if self.native else "python"

    @property
    def pointers(self) -> list[int]:
        """Request and answer as the kernel sees them."""
        return [word.pointer for word in self.words]

    def closed(self, start: Callable[[], None], calls: int) -> Array:
        """Nanoseconds of each of `calls` requests, one in flight, to the kernel that `start` launches."""
        if self.native is None:
            return self._served(start, lambda: python_loop(self._ask, calls))
        return self._served(start, lambda: self.native.closed_loop([self._step()], calls))

    def opened(self, start: Callable[[], None], calls: int, rate: float, seed: int) -> Array:
        """Nanoseconds from each Poisson arrival to its answer."""
        return self._served(start, lambda: self.native.open_loop([self._step()], calls, rate, seed))

    def _step(self) -> Any:
        return self.native.ask(*(word.host for word in self.words))

    def _served(self, start: Callable[[], None], loop: Callable[[], Array]) -> Array:
        """Start, see the first answer, run the loop, end. Raises PykernelsError when an answer does not come."""
        self.request[0] = self.answer[0] = 0
        start()
        try:
            self._ask()
            return loop()
        except RuntimeError as error:
            raise PykernelsError(str(error)) from error
        finally:
            self.request[0] = self.END
            self.device.synchronize()

    def _ask(self) -> None:
        number = int(self.answer[0]) + 1
        self.request[0] = number
        end = time.perf_counter() + self.ANSWER_S
        while self.answer[0] != number:
            if time.perf_counter() > end:
                raise PykernelsError(f"the persistent kernel gave no answer within {self.ANSWER_S:g} s")

    def close(self) -> None:
        """Give the words back."""
        for word in self.words:
            self.device.free(word)


class PersistentLookups(KernelRunner):
    """A KernelRunner whose calls are requests to one running kernel; index sets rotate with the request's number."""

    def __init__(self, session: CudaSession, problem: Problem, entry: Entry, variant: str) -> None:
        self.mailbox = Mailbox(session.device)
        self.state = session.device.alloc(256)
        try:
            super().__init__(session, problem, entry, variant)
        except BaseException:
            self._give_back()
            raise

    def arguments(self, reps: int, turn: int | None = None) -> bytes:
        """The parameter block: state, request and answer after the operands, first number and limit after the dims."""
        pointers, dims = self.operands.pointers(), list(self.dims)
        pointers += [0] * (7 - len(pointers)) + [self.state.pointer, *self.mailbox.pointers]
        dims += [0] * (14 - len(dims)) + [1, Mailbox.LIMIT_NS]
        return pack_args(pointers, dims, (), reps=1, tune=0, scratch=self.session.scratch.pointer)

    def start(self) -> None:
        """Launch the kernel."""
        self.device.fill(self.state, 0)
        self.device.launch(self.function, self.geometry, self.arguments(1))

    def run(self, calls: int) -> None:
        """Ask `calls` times, from the first index set on."""
        self.mailbox.closed(self.start, calls - 1)

    def sample(self, reps: int, count: int) -> Samples:
        """`count` times the mean of `reps` requests, each waited for."""
        mode = self.session.placement.mode
        self._readings.setdefault("before", self.device.sensors())
        if mode in ("closed", "open") and not self._latency:
            self._latency = PersistentRequests(self).facts(mode == "open")
        found = [float(self.mailbox.closed(self.start, reps).mean()) * 1e-9 for _ in range(count)]
        self._readings["after"] = self.device.sensors()
        return Samples(samples_s=found, host_s=found, reps=reps)

    def facts(self) -> dict[str, Any]:
        """A KernelRunner's, and what timed the requests."""
        return super().facts() | {"timed_by": self.mailbox.timed_by}

    def close(self) -> None:
        """Give everything back."""
        super().close()
        self._give_back()

    def _give_back(self) -> None:
        self.mailbox.device.free(self.state)
        self.mailbox.close()


class PersistentRequests(Requests):
    """Requests over a mailbox."""

    def __init__(self, runner: PersistentLookups) -> None:
        self.runner, self.native, self._graphs = runner, runner.mailbox.native, []
        self.mailbox, self.start = runner.mailbox, runner.start

    def closed(self, calls: int) -> Array:
        """Nanoseconds of each request, one in flight."""
        return self.mailbox.closed(self.start, calls)

    def opened(self, calls: int, rate: float, seed: int) -> Array:
        """Nanoseconds from each Poisson arrival to its answer."""
        return self.mailbox.opened(self.start, calls, rate, seed)
