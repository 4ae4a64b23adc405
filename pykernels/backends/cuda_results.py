"""End C1: the CPU looks rows up and pools them, and its results go to a GPU over the link, where the dense part runs.

The native backend's kernels as they are, their outputs page-locked; each call is followed by the copy and its wait. A
sample is the mean of the calls, timed by the team, plus that of the copies, timed by the request driver (or in Python
where it is not built): nothing of Python is in either, and the two do not overlap. In modes `closed` and `open` the
team's serving thread makes the copy and its wait the last part of every request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import msgspec
import numpy as np

from pykernels.backends.base import Runner, Session
from pykernels.backends.cuda_driver import Buffer, CupyDevice, Device, missing_cupy
from pykernels.backends.cuda_requests import python_loop
from pykernels.errors import DeviceLost, PykernelsError
from pykernels.machine import gpu as gpus
from pykernels.model import Case, Implementation, Machine, Problem, Samples, Skipped

Array = np.ndarray[Any, Any]


def skip(case: Case, machine: Machine) -> Skipped | None:
    """Why results cannot go to a GPU here, or None."""
    if not machine.gpus:
        return Skipped(reason=f"ends C1 put results on a GPU: {gpus.why_none()}", hint="pykernels check")
    reason = missing_cupy()
    return Skipped(reason=f"ends C1 put results on a GPU: {reason}", hint="pykernels check") if reason else None


class DeviceResults:
    """A session whose runners leave their outputs on gpu:0."""

    def __init__(
        self, session: Session, open_device: Callable[[int], Device] = CupyDevice, *, requests: bool = False
    ) -> None:
        self.session, self.device, self.requests = session, open_device(0), requests

    def prepare(self, problem: Problem, implementation: Implementation) -> Runner:
        """The CPU's runner with its outputs page-locked, and their places on the device."""
        return DeviceResultsRunner(self.device, problem, self.session.prepare(problem, implementation), self.requests)


class DeviceResultsRunner:
    """A base.Runner around the CPU's."""

    def __init__(self, device: Device, problem: Problem, runner: Runner, requests: bool = False) -> None:
        self.device, self.runner = device, runner
        self.host = {name: _buffer(view) for name, view in runner.outputs().items()}
        self.shapes = {name: (view.dtype, view.shape) for name, view in runner.outputs().items()}
        for buffer in self.host.values():
            device.lock(buffer)
        self.there = {name: device.alloc(buffer.nbytes) for name, buffer in self.host.items()}
        self._native, self._steps = self._driver()
        self._link_s: list[float] = []
        self._program = self._part_of_requests() if requests else None

    def _part_of_requests(self) -> Any:
        """The copy and its wait as the last part of every request of the CPU's runner. Raises PykernelsError."""
        if self._native is None:
            raise PykernelsError(
                "requests with ends C1 need the native request driver, which is not part of this build"
            )
        program = import_module("pykernels._requests").Program(self._native, self._steps)
        self.runner.after = program.after  # type: ignore[attr-defined]
        return program

    def _driver(self) -> tuple[Any, list[Any]]:
        from pykernels.backends.cuda_requests import native_driver

        native = native_driver(self)
        if native is None:
            return None, []
        copies = [native.to_device(self.there[n].pointer, b.host, b.nbytes) for n, b in self.host.items()]
        return native, [*copies, native.wait()]

    def inputs(self) -> Mapping[str, Array]:
        """The CPU's."""
        return self.runner.inputs()

    def outputs(self) -> Mapping[str, Array]:
        """What arrived on the device."""
        return {name: self.device.read(self.there[name], *self.shapes[name]) for name in self.there}

    def poison(self) -> None:
        """Both sides."""
        self.runner.poison()
        for buffer in self.there.values():
            self.device.fill(buffer, 0xFF)
        self.device.synchronize()

    def run(self, calls: int) -> None:
        """Run untimed, then copy."""
        self.runner.run(calls)
        self._copy()

    def _copy(self) -> None:
        for name, buffer in self.host.items():
            self.device.copy(self.there[name], buffer, buffer.nbytes)
        self.device.synchronize()

    def sample(self, reps: int, count: int) -> Samples:
        """Seconds of a call and its copy, with the team's indicators."""
        samples = self.runner.sample(reps, count)
        if self._program is not None:
            if self._program.error:
                raise DeviceLost(self._program.error)
            return samples
        link = [self._link(reps) for _ in samples.samples_s]
        self._link_s += link
        together = [call + copy for call, copy in zip(samples.samples_s, link, strict=True)]
        return msgspec.structs.replace(samples, samples_s=together)

    def _link(self, copies: int) -> float:
        """Mean seconds of a copy, each waited for."""
        if self._native is None:
            return float(python_loop(self._copy, copies).mean()) * 1e-9
        return float(self._native.closed_loop(self._steps, copies).mean()) * 1e-9

    def facts(self) -> dict[str, Any]:
        """The CPU's, the GPU, bytes over the link and their median time."""
        return {
            **self.runner.facts(), "gpu": self.device.facts.name, "driver": self.device.facts.driver,
            "link_bytes": sum(buffer.nbytes for buffer in self.host.values()),
            "link_s": float(np.median(self._link_s)) if self._link_s else None,
            "link_timed_by": "native" if self._native else "python",
        }  # fmt: skip

    def close(self) -> None:
        """Unlock, and give both sides' buffers back."""
        for buffer in self.host.values():
            self.device.unlock(buffer)
        for buffer in self.there.values():
            self.device.free(buffer)
        self.runner.close()


def _buffer(view: Array) -> Buffer:
    """Host memory that a runner owns, as a device sees it once it is page-locked."""
    raw = view.reshape(-1).view(np.uint8)
    return Buffer(raw.ctypes.data, raw.size, "pinned", raw.ctypes.data, raw)
