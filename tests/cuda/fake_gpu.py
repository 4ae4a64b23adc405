"""A scripted CUDA device: kernels run on the host through the shim, time is a script, errors happen when told.

`Device` of pykernels.backends.cuda_driver, so that the engine's paths run without a GPU: buffers are NumPy arrays and a
"device pointer" is a host address.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

import host_build
import msgspec
import numpy as np

from pykernels.backends import cuda_compile, cuda_table
from pykernels.backends.cuda_driver import Buffer, Facts
from pykernels.backends.cuda_table import Launch
from pykernels.errors import DeviceLost
from pykernels.machine.gpu import Reading

FACTS = Facts(
    name="Fake H100", compute_capability="9.0", sms=2, l2_bytes=1 << 16, memory_bytes=1 << 27, driver="CUDA 13.0",
    runtime="13.0", bus_id="0000:00:00.0",
)  # fmt: skip


class Script(msgspec.Struct):
    """What the device does: seconds per call of each operation, SM clock, readings, and errors at a launch number."""

    launch_s: Callable[[str, Launch], float] = lambda symbol, launch: 5e-6
    fill_bps: float = 1e12
    copy_bps: float = 5e10
    ghz: Callable[[float], float] = lambda now: 1.5
    reading: Callable[[float], Reading] = lambda now: Reading()
    fail_at: dict[int, Exception] = {}


class FakeDevice:
    """See the module. `log` lists what was queued; `live` the buffers not freed."""

    def __init__(self, index: int = 0, script: Script | None = None, facts: Facts = FACTS) -> None:
        self.index, self.script, self.facts = index, script or Script(), facts
        self.now, self.cycles = 1.0, 1e6
        self.log: list[str] = []
        self.live: dict[int, Buffer] = {}
        self.launches = 0
        self.lost = False
        self._repeated = ("", b"")  # a launch just made: to make it again would change nothing
        self._capturing: list[Callable[[], None]] | None = None
        self._beside: Thread | None = None

    def _queue(self, what: str, work: Callable[[], None]) -> None:
        if self.lost:
            raise DeviceLost("the fake device is lost")
        if self._capturing is not None:
            self._capturing.append(work)
            return
        self.log.append(what)
        if what.startswith(("fill", "copy")):
            self._repeated = ("", b"")
        work()

    def _pass(self, seconds: float) -> None:
        self.cycles += seconds * 1e9 * self.script.ghz(self.now)
        self.now += seconds

    def used(self) -> int:
        return sum(b.nbytes for b in self.live.values() if b.memory != "pageable")

    def free_memory(self) -> int:
        return self.facts.memory_bytes - self.used()

    def alloc(self, nbytes: int, memory: Any = "device") -> Buffer:
        if self.lost:
            raise DeviceLost("the fake device is lost")
        if memory in ("device", "managed") and nbytes > self.free_memory():
            raise MemoryError(f"allocating {nbytes} bytes of {memory} memory")
        array = np.empty(max(nbytes, 1), np.uint8)  # exact, so that a sanitizer sees the end
        buffer = Buffer(array.ctypes.data, nbytes, memory, 0 if memory == "device" else array.ctypes.data, array)
        self.live[buffer.pointer] = buffer
        return buffer

    def free(self, buffer: Buffer) -> None:
        del self.live[buffer.pointer]

    def lock(self, buffer: Buffer) -> None:
        self.log.append("lock")

    def unlock(self, buffer: Buffer) -> None:
        self.log.append("unlock")

    def write(self, buffer: Buffer, array: np.ndarray[Any, Any]) -> None:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        buffer.keep[: raw.size] = raw
        self._repeated = ("", b"")

    def read(self, buffer: Buffer, dtype: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        self.synchronize()
        count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return buffer.keep[:count].copy().view(dtype).reshape(shape)

    def fill(self, buffer: Buffer, byte: int) -> None:
        def work() -> None:
            buffer.keep[:] = byte
            self._pass(buffer.nbytes / self.script.fill_bps)

        self._queue("fill", work)

    def copy(self, to: Buffer, source: Buffer, nbytes: int, lane: int = 0) -> None:
        def work() -> None:
            to.keep[:nbytes] = source.keep[:nbytes]
            self._pass(nbytes / self.script.copy_bps)

        self._queue(f"copy{lane}", work)

    def prefetch(self, buffer: Buffer, to_device: bool) -> None:
        self._queue("prefetch", lambda: None)

    def load(self, cubin: str, symbol: str) -> cuda_table.Entry:
        return next(entry for entry in cuda_table.entries() if entry.symbol == symbol)

    def launch(self, function: cuda_table.Entry, launch: Launch, args: bytes) -> None:
        self._queue(function.symbol, lambda: self._run(function, launch, args))

    def _run(self, entry: cuda_table.Entry, launch: Launch, args: bytes) -> None:
        self.launches += 1
        error = self.script.fail_at.get(self.launches)
        if error is not None:
            self.lost = isinstance(error, DeviceLost)
            raise error
        if entry.kernel == "clock":
            self._leave_clock(args)
        elif entry.variant == "persistent":  # runs beside the host that asks it, as on a device
            host_build.library(cuda_compile.sources() / f"{entry.source}.cu")  # not while the host waits
            self._beside = Thread(target=host_build.launch_entry, args=(entry, Launch(1, launch.block), args))
            self._beside.start()
        elif entry.kernel != "gate" and (entry.symbol, args) != self._repeated:
            host_build.launch_entry(entry, launch, args)
            self._repeated = (entry.symbol if entry.kernel != "chase" else "", args)  # a chase goes on
        if entry.kernel not in ("clock", "gate"):
            self._pass(self.script.launch_s(entry.symbol, launch))

    def _leave_clock(self, args: bytes) -> None:
        pointer = int(np.frombuffer(args, np.uint64, 1)[0])
        table = self.live[pointer].keep.view(np.int64)
        table[: 2 * self.facts.sms : 2] = int(self.cycles)
        table[1 : 2 * self.facts.sms : 2] = int(self.now * 1e9)

    def mark(self) -> list[float]:
        stamp: list[float] = []
        self._queue("mark", lambda: stamp.append(self.now))
        return stamp

    def elapsed(self, start: list[float], stop: list[float]) -> float:
        self.synchronize()
        return stop[0] - start[0]

    def join(self) -> None:
        self._queue("join", lambda: None)

    def capture(self, body: Callable[[], None]) -> list[Callable[[], None]]:
        self._capturing = []
        try:
            body()
            return self._capturing
        finally:
            self._capturing = None

    def replay(self, graph: list[Callable[[], None]]) -> None:
        self._queue(f"graph{len(graph)}", lambda: [work() for work in graph] and None)

    def drop(self, graph: Any) -> None:
        pass

    def synchronize(self) -> None:
        if self.lost:
            raise DeviceLost("the fake device is lost")
        if self._beside is not None:
            self._beside.join()
            self._beside = None

    def host_view(self, buffer: Buffer) -> np.ndarray[Any, Any]:
        return buffer.keep

    def sensors(self) -> Reading:
        return self.script.reading(self.now)

    def handles(self) -> dict[str, int]:
        return {"context": 1, "stream": 2}

    def close(self) -> None:
        self.live.clear()
