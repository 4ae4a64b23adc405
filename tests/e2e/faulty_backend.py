"""A third-party backend whose variants go wrong in every way a worker can; `good` and `slow-start` do not."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import time
from typing import Any

import numpy as np

from pykernels.kernels import random
from pykernels.model import Samples


class Runner:
    """A load in NumPy, spoilt as the variant says."""

    def __init__(self, problem: Any, variant: str) -> None:
        self.problem, self.variant = problem, variant
        if variant == "out-of-memory":
            resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
            np.ones(1 << 34)
        self.data: dict[str, np.ndarray[Any, Any]] = {}
        for operand in problem.operands():
            count = int(np.prod(operand.shape))
            values = random.values(operand.recipe, operand.dtype, np.arange(count))
            self.data[operand.name] = values.reshape(operand.shape)

    def inputs(self) -> dict[str, Any]:
        return {o.name: self.data[o.name] for o in self.problem.operands() if o.role != "out"}

    def outputs(self) -> dict[str, Any]:
        return {o.name: self.data[o.name] for o in self.problem.operands() if o.role != "in"}

    def poison(self) -> None:
        for array in self.outputs().values():
            array.fill(-1e30)

    def run(self, calls: int) -> None:
        expected = self.problem.reference(self.inputs())
        for name, array in self.outputs().items():
            array[...] = expected.get(name, array)
        if self.variant == "wrong":
            for array in self.outputs().values():
                array.flat[0] += 1e6
        if self.variant == "segfault":
            ctypes.string_at(0)
        if self.variant == "illegal-instruction":
            page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            page.write(b"\x0f\x0b\xc3" if os.uname().machine == "x86_64" else b"\0\0\0\0")
            ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        if self.variant == "hang":
            time.sleep(3600)
        if self.variant == "exception":
            raise ZeroDivisionError("on purpose")
        if self.variant == "exit":
            os._exit(3)
        if self.variant == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.variant == "real-time-signal":
            os.kill(os.getpid(), 40)

    def sample(self, reps: int, count: int) -> Samples:
        step = float("nan") if self.variant == "not-a-number" else 1e-3
        return Samples(samples_s=[step * (1 + i / 100) for i in range(count)], reps=reps)

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.data.clear()


class Session:
    def prepare(self, problem: Any, implementation: Any) -> Runner:
        return Runner(problem, implementation.variant)


class Backend:
    name = "faulty"

    def skip(self, case: Any, machine: Any) -> None:
        return None

    def isas(self, machine: Any) -> tuple[str, ...]:
        return ()

    def variants(self, case: Any) -> tuple[str, ...]:
        return (
            "good", "wrong", "segfault", "illegal-instruction", "hang", "exception", "exit", "out-of-memory",
            "killed", "real-time-signal", "not-a-number",
        )  # fmt: skip

    def open(self, placement: Any, machine: Any) -> Session:
        return Session()


BACKEND = Backend()
