"""Cases without a kernel of their own: driver copies (`link`) and launch floors (`launch`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pykernels.backends import cuda_table
from pykernels.backends.base import Runner
from pykernels.backends.cuda_driver import Buffer, Memory
from pykernels.backends.cuda_operands import fill_operand, host_copy
from pykernels.backends.cuda_persistent import Mailbox
from pykernels.backends.cuda_requests import native_driver
from pykernels.backends.cuda_runner import Spans
from pykernels.backends.cuda_table import Entry
from pykernels.errors import PykernelsError
from pykernels.kernels import dtypes
from pykernels.machine.gpu import Reading
from pykernels.model import Implementation, Problem, Samples

if TYPE_CHECKING:
    from pykernels.backends.cuda import CudaSession

Array = np.ndarray[Any, Any]
HOST_MEMORY: tuple[Memory, ...] = ("pinned", "pageable", "managed")
#: pageable copies wait for the host, and would wait for the gate's time limit behind a closed gate
NEVER_GATED = 1 << 30


def prepare_link(session: CudaSession, problem: Problem, implementation: Implementation) -> Runner:
    """A runner for one copy."""
    return LinkRunner(session, problem)


def prepare_launch(session: CudaSession, problem: Problem, implementation: Implementation) -> Runner:
    """A runner for one way of asking."""
    op = problem.entry()[1]
    return PersistentFloor(session) if op == "persistent" else LaunchRunner(session, op)


class LinkRunner:
    """Copies between two memories; managed memory is migrated to the device and, untimed, back."""

    def __init__(self, session: CudaSession, problem: Problem) -> None:
        self.session, self.device, self.problem = session, session.device, problem
        self.op = problem.entry()[1]
        self.host: Memory = session.placement.memory or "pinned"  # type: ignore[assignment]
        if self.host not in HOST_MEMORY:
            raise PykernelsError(f'memory = "{self.host}" is not one of {", ".join(HOST_MEMORY)}')
        if self.host == "managed" and self.op != "h2d":
            raise PykernelsError("managed memory is measured by its migration to the device: write op = h2d")
        self.buffers: dict[str, Buffer] = {}
        self._readings: dict[str, Reading] = {}
        try:
            for operand in problem.operands():
                self.buffers[operand.name] = self._alloc(operand.name, 4 * operand.shape[0])
                if operand.role == "in":
                    self._fill(operand.name)
            self.spans = Spans(session)
            self.run(1)
        except BaseException:
            self._free()
            raise

    def _alloc(self, name: str, nbytes: int) -> Buffer:
        if self.host == "managed" and name == "target":
            return self.buffers["source"]
        forward: dict[str, tuple[Memory, Memory]] = {
            "h2d": (self.host, "device"), "d2h": ("device", self.host), "both": (self.host, "device"),
            "d2d": ("device", "device"), "peer": ("device", "peer"),
        }  # fmt: skip
        source, target = forward[self.op][:: -1 if name.startswith("back_") else 1]
        return self.device.alloc(nbytes, source if name.endswith("source") else target)

    def _fill(self, name: str) -> None:
        """Fill on the device, then copy to where the operand lives."""
        operand = next(o for o in self.problem.operands() if o.name == name)
        buffer = self.buffers[name]
        staged = self.device.alloc(buffer.nbytes)
        fill_operand(self.session, operand, staged)
        self.device.copy(buffer, staged, buffer.nbytes)
        self.device.synchronize()
        self.device.free(staged)

    def inputs(self) -> Mapping[str, Array]:
        """Host copies of the sources."""
        return self._read("in")

    def outputs(self) -> Mapping[str, Array]:
        """Host copies of the targets."""
        return self._read("out")

    def _read(self, role: str) -> dict[str, Array]:
        chosen = [operand for operand in self.problem.operands() if operand.role == role]
        return {o.name: host_copy(self.device, self.buffers[o.name], dtypes.storage("fp32"), o.shape) for o in chosen}

    def poison(self) -> None:
        """Targets to NaN; managed memory is its own source and stays."""
        for name, buffer in self.buffers.items():
            if name.endswith("target") and self.host != "managed":
                self.device.fill(buffer, 0xFF)
        self.device.synchronize()

    def run(self, calls: int) -> None:
        """Run untimed, and wait."""
        for _ in range(calls):
            self._call()
            self._back()
        self.device.synchronize()

    def _call(self) -> None:
        buffers = self.buffers
        if self.host == "managed":
            self.device.prefetch(buffers["source"], True)
            return
        self.device.copy(buffers["target"], buffers["source"], buffers["source"].nbytes)
        if self.op == "both":
            self.device.copy(buffers["back_target"], buffers["back_source"], buffers["source"].nbytes, lane=1)

    def _back(self) -> None:
        if self.host == "managed":
            self.device.prefetch(self.buffers["source"], False)

    def sample(self, reps: int, count: int) -> Samples:
        """Device time of `reps` copies in a row; migrations are timed one by one."""
        samples = Samples(samples_s=[], reps=reps)
        self._readings.setdefault("before", self.device.sensors())
        for _ in range(count):
            seconds = self._migrations(reps) if self.host == "managed" else self._copies(reps)
            samples.samples_s.append(seconds / reps)
            if self.host != "managed":
                samples.host_s.append(self.spans.host_time(self._call, min(reps, 4)))
        self._readings["after"] = self.device.sensors()
        return samples

    def _copies(self, reps: int) -> float:
        def body() -> None:
            self.device.join()
            for _ in range(reps):
                self._call()
            self.device.join()

        return self.spans.device_time(body, NEVER_GATED if self.host == "pageable" else 2 * reps)[0]

    def _migrations(self, reps: int) -> float:
        total = 0.0
        for _ in range(reps):
            total += self.spans.device_time(self._call, 1)[0]
            self._back()
            self.device.synchronize()
        return total

    def facts(self) -> dict[str, Any]:
        """Device, host memory, sensors."""
        from pykernels.backends.cuda import sensor_facts

        return self.session.facts(None) | sensor_facts(self._readings) | {"host_memory": self.host}

    def close(self) -> None:
        """Give the buffers back."""
        self.spans.close()
        self._free()

    def _free(self) -> None:
        for buffer in {buffer.pointer: buffer for buffer in self.buffers.values()}.values():
            self.device.free(buffer)
        self.buffers = {}


class _NoOperands:
    """The part of a runner that a request without operands has."""

    session: CudaSession
    entry: Entry
    timed_by = ""

    def inputs(self) -> Mapping[str, Array]:
        """None."""
        return {}

    def outputs(self) -> Mapping[str, Array]:
        """None."""
        return {}

    def poison(self) -> None:
        """Nothing to poison."""

    def facts(self) -> dict[str, Any]:
        """Device, cubin, and what timed the requests: Python adds a microsecond or more to each."""
        return self.session.facts(self.entry) | {"timed_by": self.timed_by}


class LaunchRunner(_NoOperands):
    """Empty kernels: waited for one by one (plain, graph), or many in a row by device time (back-to-back)."""

    def __init__(self, session: CudaSession, op: str) -> None:
        self.session, self.device, self.op = session, session.device, op
        self.entry = next(e for e in cuda_table.find("launch", "", "none") if e.variant == "empty")
        self.function = session.function(self.entry)
        self.geometry = self.entry.launch((), self.device.facts.sms)
        self.args = cuda_table.pack_args([], [], [], reps=1, tune=0, scratch=session.scratch.pointer)
        self._launch()
        self.device.synchronize()
        self.graph = self.device.capture(self._launch) if op == "graph" else None
        self.spans = Spans(session)
        self.native = native_driver(session)
        self.timed_by = "events" if op == "back-to-back" else "native" if self.native else "python"

    def _launch(self) -> None:
        self.device.launch(self.function, self.geometry, self.args)

    def _launch_often(self, count: int) -> None:
        for _ in range(count):
            self._launch()

    def _ask(self) -> None:
        if self.graph is None:
            self._launch()
        else:
            self.device.replay(self.graph)

    def run(self, calls: int) -> None:
        """Run untimed."""
        for _ in range(calls):
            self._ask()
        self.device.synchronize()

    def sample(self, reps: int, count: int) -> Samples:
        """Seconds per request."""
        samples = Samples(samples_s=[], reps=reps)
        for _ in range(count):
            samples.samples_s.append(self._one(reps))
        return samples

    def _one(self, reps: int) -> float:
        if self.op == "back-to-back":
            return self.spans.device_time(lambda: self._launch_often(reps), reps)[0] / reps
        if self.native is None:
            return self.spans.host_time(self._ask, reps)
        if self.graph is None:
            step = self.native.launch(int(self.function), self.geometry.grid, self.geometry.block, self.args)
        else:
            step = self.native.graph(int(self.graph))
        latencies: Array = self.native.closed_loop([step, self.native.wait()], reps)
        return float(latencies.mean()) * 1e-9

    def close(self) -> None:
        """Destroy the graph, give the small buffers back."""
        if self.graph is not None:
            self.device.drop(self.graph)
        self.spans.close()


class PersistentFloor(_NoOperands):
    """A kernel that polls for requests and does nothing else: started for each sample, ended by the last request."""

    def __init__(self, session: CudaSession) -> None:
        self.session, self.device = session, session.device
        self.entry = next(e for e in cuda_table.find("launch", "", "none") if e.variant == "persistent")
        self.function = session.function(self.entry)
        self.mailbox = Mailbox(session.device)
        self.timed_by = self.mailbox.timed_by
        self.run(1)

    def _start(self) -> None:
        pointers, dims = self.mailbox.pointers, [1, self.mailbox.LIMIT_NS]
        args = cuda_table.pack_args(pointers, dims, [], reps=1, tune=0, scratch=0)
        self.device.launch(self.function, self.entry.launch((), self.device.facts.sms), args)

    def run(self, calls: int) -> None:
        """Ask `calls` times."""
        self.mailbox.closed(self._start, calls)

    def sample(self, reps: int, count: int) -> Samples:
        """Seconds per request and answer."""
        found = [self.mailbox.closed(self._start, reps) for _ in range(count)]
        return Samples(samples_s=[float(ns.mean()) * 1e-9 for ns in found], reps=reps)

    def close(self) -> None:
        """Give the words back."""
        self.mailbox.close()
