"""Modes `closed` and `open` of a kernel: one call as a request, from the host's question to the host's answer.

`closed`: one in flight, 5,000 requests: p50 and p99. `open`: Poisson arrivals at rising shares of what the closed loop
serves; for each latency limit the highest rate whose p99 stayed within it. Loops run in the native request driver;
where that is not built, the closed loop runs in Python, which the facts say: it adds to every request.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pykernels.errors import PykernelsError
from pykernels.measure import latency

if TYPE_CHECKING:
    from pykernels.backends.cuda_driver import Device
    from pykernels.backends.cuda_runner import KernelRunner

Array = np.ndarray[Any, Any]
OPEN_CALLS, WARM_CALLS, SEED = 5000, 100, 7
#: nodes of a graph at most, and graphs of a request loop: some drivers fail at many thousands
MOST_NODES = 512


class HasDevice(Protocol):
    """A session, or whatever else works on one device."""

    device: Device


def native_driver(session: HasDevice) -> Any:
    """The native request driver on this session's context and stream, or None where it cannot be had."""
    try:
        handles = session.device.handles()
        return import_module("pykernels._requests").Cuda("libcuda.so.1", handles["context"], handles["stream"])
    except (ImportError, RuntimeError):
        return None


class Requests:
    """One runner's call as a request."""

    def __init__(self, runner: KernelRunner) -> None:
        self.runner = runner
        self.native = native_driver(runner.session)
        self._graphs: list[Any] = []
        self.steps = self._steps() if self.native is not None else []
        self.closed(WARM_CALLS)

    def _steps(self) -> list[Any]:
        """A request for each index set, in turn: one set over and over would be looked up in the L2."""
        sets, native = self.runner.sets, self.native
        if self.runner.session.placement.launch != "graph":
            return [step for turn in range(sets) for step in (*self._one(turn), native.next())]
        self._graphs = [self.runner.capture(turn, 1) for turn in range(min(sets, MOST_NODES))]
        return [step for graph in self._graphs for step in (native.graph(int(graph)), native.wait(), native.next())]

    def _one(self, turn: int) -> list[Any]:
        """The steps of the request that looks up one set."""
        native, runner, operands = self.native, self.runner, self.runner.operands
        arriving = [
            (operands.part(operands.buffers, n, turn), operands.part(operands.pinned, n, turn))
            for n in operands.arriving
        ]
        to_device = [native.to_device(to.pointer, source.host, to.nbytes) for to, source in arriving]
        to_host = [
            native.to_host(operands.pinned[n].host, operands.buffers[n].pointer, operands.buffers[n].nbytes)
            for n in operands.leaving
        ]
        geometry = runner.geometry
        launch = native.launch(int(runner.function), geometry.grid, geometry.block, runner.arguments(1, turn))
        return [*to_device, launch, *to_host, native.wait()]

    def closed(self, calls: int) -> Array:
        """Nanoseconds of each of `calls` requests, one in flight."""
        if self.native is not None:
            found: Array = self.native.closed_loop(self.steps, calls)
            return found
        return python_loop(self.runner.ask, calls)

    def close(self) -> None:
        """Destroy the graphs."""
        for graph in self._graphs:
            self.runner.device.drop(graph)
        self._graphs = []

    def facts(self, opened: bool) -> dict[str, Any]:
        """`latency` of the closed loop; `served` too where asked: lookups (or calls) a second by limit in ms."""
        one_in_flight = self.closed(latency.CALLS)
        found: dict[str, Any] = {
            "latency": latency.summary(one_in_flight), "timed_by": "python" if self.native is None else "native",
        }  # fmt: skip
        if opened:
            found |= self._open_loop(1e9 / float(np.median(one_in_flight)))
        return found

    def _open_loop(self, capacity: float) -> dict[str, Any]:
        """The best served rates, and every load tried."""
        if self.native is None:
            raise PykernelsError("open loops need the native request driver, which is not part of this build")
        return latency.served(lambda rate: self.opened(OPEN_CALLS, rate, SEED), capacity, self._lookups())

    def opened(self, calls: int, rate: float, seed: int) -> Array:
        """Nanoseconds from each Poisson arrival to its answer, in the native driver."""
        found: Array = self.native.open_loop(self.steps, calls, rate, seed)
        return found

    def _lookups(self) -> int:
        """Lookups of a call, where its problem has indices."""
        shapes = {operand.name: operand.shape for operand in self.runner.problem.operands()}
        return shapes["indices"][0] if "indices" in shapes else 1


def python_loop(call: Callable[[], None], calls: int) -> Array:
    """Nanoseconds of each call, timed in Python."""
    found = np.empty(calls, np.int64)
    for i in range(calls):
        started = time.perf_counter_ns()
        call()
        found[i] = time.perf_counter_ns() - started
    return found
