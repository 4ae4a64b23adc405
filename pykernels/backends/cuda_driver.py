"""The seam to a CUDA device: everything that touches one goes through `Device`, so that a scripted device can stand in.

`CupyDevice` is the real one: CuPy's runtime and driver calls with plain integers, one stream, no memory pool (a buffer
is one `cudaMalloc`, so out of memory is seen where it happens). CuPy is imported when a device is opened.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from pykernels.backends.cuda_table import Launch
from pykernels.errors import DeviceLost, PykernelsError
from pykernels.machine.gpu import Reading, Sensors

if TYPE_CHECKING:
    import numpy as np

Memory = Literal["device", "pinned", "pageable", "managed", "peer"]

#: runtime statuses after which every call in the process fails (driver_types.h)
STICKY = frozenset({201, 214, 219, 220, 226, *range(700, 703), 709, *range(713, 722), 999})
OUT_OF_MEMORY = frozenset({2})
_SENTENCES = {
    35: "the NVIDIA driver is older than the CUDA runtime in use",
    36: "the NVIDIA driver is older than the CUDA runtime in use",
    46: "the GPU is in use by another process in exclusive mode, or not available to this one",
    100: "the driver sees no device",
    101: "the driver has no device of that number, or none that can do this",
    209: "the device cannot run this cubin",
    218: "the driver refuses the PTX or cubin (older than the toolkit?)",
    222: "the driver is older than the compiler that made this code",
    803: "driver library and kernel module differ in version",
}


class Facts(msgspec.Struct, frozen=True):
    """What a device is, as its driver says: figures the engine needs, and names for the record."""

    name: str
    compute_capability: str
    sms: int
    l2_bytes: int
    memory_bytes: int
    clock_mhz: float = 0.0
    driver: str = ""
    runtime: str = ""
    bus_id: str = ""


class Buffer(msgspec.Struct):
    """Memory that the device can use: `pointer` as kernels see it, `host` as the host does (0 where it cannot)."""

    pointer: int
    nbytes: int
    memory: Memory = "device"
    host: int = 0
    keep: Any = None

    def part(self, offset: int, nbytes: int) -> Buffer:
        """Some bytes of it, which live as long as it does."""
        host = self.host + offset if self.host else 0
        keep = None if self.keep is None else self.keep[offset : offset + nbytes]
        return Buffer(self.pointer + offset, nbytes, self.memory, host, keep)


class Device(Protocol):
    """One device with one stream. Work is queued in order; only `read`, `elapsed` and `synchronize` wait.

    Any call raises MemoryError when memory is out, DeviceLost when the device is of no more use to this process, and
    PykernelsError with one sentence for what a user can mend."""

    facts: Facts

    def free_memory(self) -> int: ...
    def alloc(self, nbytes: int, memory: Memory = "device") -> Buffer: ...
    def free(self, buffer: Buffer) -> None: ...
    def lock(self, buffer: Buffer) -> None: ...
    def unlock(self, buffer: Buffer) -> None: ...
    def write(self, buffer: Buffer, array: np.ndarray[Any, Any]) -> None: ...
    def read(self, buffer: Buffer, dtype: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]: ...
    def fill(self, buffer: Buffer, byte: int) -> None: ...
    def copy(self, to: Buffer, source: Buffer, nbytes: int, lane: int = 0) -> None: ...
    def prefetch(self, buffer: Buffer, to_device: bool) -> None: ...
    def load(self, cubin: str, symbol: str) -> Any: ...
    def launch(self, function: Any, launch: Launch, args: bytes) -> None: ...
    def mark(self) -> Any: ...
    def elapsed(self, start: Any, stop: Any) -> float: ...
    def join(self) -> None: ...
    def capture(self, body: Callable[[], None]) -> Any: ...
    def replay(self, graph: Any) -> None: ...
    def drop(self, graph: Any) -> None: ...
    def synchronize(self) -> None: ...
    def host_view(self, buffer: Buffer) -> np.ndarray[Any, Any]: ...
    def sensors(self) -> Reading: ...
    def handles(self) -> dict[str, int]: ...
    def close(self) -> None: ...


def missing_cupy() -> str:
    """Why CuPy cannot be used here, or "". Two CuPy wheels at once overwrite each other's files: said before that."""
    from importlib.metadata import distributions
    from importlib.util import find_spec

    wheels = sorted({name for d in distributions() if (name := (d.metadata["Name"] or "")).startswith("cupy-cuda")})
    if len(wheels) > 1:
        return f"{' and '.join(wheels)} are both installed and overwrite each other: keep one"
    return "" if find_spec("cupy") is not None else "CuPy is not installed"


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn CUDA's errors, which carry a status, into the three kinds that the engine knows."""
    try:
        yield
    except (MemoryError, DeviceLost, PykernelsError):
        raise
    except RuntimeError as error:
        status = int(getattr(error, "status", 0))
        if status in OUT_OF_MEMORY:
            raise MemoryError(f"{what}: {error}") from error
        if status in STICKY:
            raise DeviceLost(f"{what}: {_SENTENCES.get(status, str(error))}") from error
        if status in _SENTENCES:
            raise PykernelsError(f"{what}: {_SENTENCES[status]} ({error})", hint="pykernels check") from error
        raise


class CupyDevice:
    """A CUDA device through CuPy (13 or newer). See `Device`."""

    def __init__(self, index: int) -> None:
        reason = missing_cupy()
        if reason:
            raise PykernelsError(reason, hint='pip install "pykernels[cuda12]"')
        try:
            from cupy.cuda import driver, runtime
        except (ImportError, OSError) as error:
            raise PykernelsError(f"CuPy cannot be imported: {error}", hint="pykernels check") from error
        self._rt, self._driver = runtime, driver
        with translated(f"gpu:{index}"):
            runtime.setDevice(index)
            runtime.free(0)  # makes the context
            self._streams = [runtime.streamCreateWithFlags(runtime.streamNonBlocking) for _ in range(2)]
            self.facts = self._read_facts(index)
        self._modules: dict[str, int] = {}
        self._sensors = Sensors(self.facts.bus_id)
        self._index = index
        self._peers: set[int] = set()

    def _read_facts(self, index: int) -> Facts:
        runtime = self._rt
        properties = runtime.getDeviceProperties(index)

        def attribute(name: str) -> int:
            return int(runtime.deviceGetAttribute(getattr(runtime, name), index))

        return Facts(
            name=properties["name"].decode(errors="replace"),
            compute_capability=f"{properties['major']}.{properties['minor']}",
            sms=attribute("cudaDevAttrMultiProcessorCount"),
            l2_bytes=attribute("cudaDevAttrL2CacheSize"),
            memory_bytes=int(properties["totalGlobalMem"]),
            clock_mhz=attribute("cudaDevAttrClockRate") / 1e3,
            driver=_version(runtime.driverGetVersion()),
            runtime=_version(runtime.runtimeGetVersion()),
            bus_id=runtime.deviceGetPCIBusId(index),
        )

    def free_memory(self) -> int:
        """Bytes free on the device now."""
        with translated("free memory"):
            return int(self._rt.memGetInfo()[0])

    def alloc(self, nbytes: int, memory: Memory = "device") -> Buffer:
        """Memory of a kind. Managed memory is refused above what is free (it would thrash, not fail)."""
        import numpy as np

        size = max(nbytes, 256)
        with translated(f"allocating {nbytes} bytes of {memory} memory"):
            if memory == "device":
                return Buffer(int(self._rt.malloc(size)), nbytes)
            if memory == "pinned":  # mapped too: under unified addressing both sides use the same pointer
                pointer = int(self._rt.hostAlloc(size, self._rt.hostAllocMapped | self._rt.hostAllocPortable))
                return Buffer(pointer, nbytes, memory, pointer)
            if memory == "managed":
                self._check_migration()
                if size > self.free_memory():
                    raise MemoryError(f"{nbytes} bytes of managed memory are more than the device has free")
                pointer = int(self._rt.mallocManaged(size))
                return Buffer(pointer, nbytes, memory, pointer)
            if memory == "peer":
                return Buffer(self._alloc_on_peer(size), nbytes, memory)
        array = np.empty(size, np.uint8)
        return Buffer(array.ctypes.data, nbytes, memory, array.ctypes.data, array)

    def _check_migration(self) -> None:
        """Managed memory moves ahead of its use only where both sides may use it at once: not under WSL, for one."""
        if not self._rt.deviceGetAttribute(self._rt.cudaDevAttrConcurrentManagedAccess, self._index):
            raise PykernelsError("managed memory cannot be migrated ahead of its use here (WSL, or an old GPU)")

    def lock(self, buffer: Buffer) -> None:
        """Page-lock host memory that somebody else owns."""
        with translated(f"page-locking {buffer.nbytes} bytes"):
            self._rt.hostRegister(buffer.host, buffer.nbytes, 1)  # portable

    def unlock(self, buffer: Buffer) -> None:
        """Undo `lock`."""
        with translated("page-unlocking"):
            self._rt.hostUnregister(buffer.host)

    def _alloc_on_peer(self, size: int) -> int:
        """Memory of the next device, made reachable from this one."""
        count = self._rt.getDeviceCount()
        other = (self._index + 1) % count
        if other == self._index:
            raise PykernelsError("there is one GPU only: no peer to copy to")
        if not self._rt.deviceCanAccessPeer(self._index, other):
            raise PykernelsError(f"gpu:{self._index} cannot reach gpu:{other} directly")
        try:
            self._rt.setDevice(other)
            pointer = int(self._rt.malloc(size))
        finally:
            self._rt.setDevice(self._index)
        if other not in self._peers:
            self._rt.deviceEnablePeerAccess(other)
            self._peers.add(other)
        return pointer

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back; after a lost device there is nothing left to give."""
        with translated("free"):
            if buffer.memory in ("device", "managed", "peer"):
                self._rt.free(buffer.pointer)
            elif buffer.memory == "pinned":
                self._rt.freeHost(buffer.pointer)
        buffer.keep = None

    def write(self, buffer: Buffer, array: np.ndarray[Any, Any]) -> None:
        """Copy a host array to the start of a buffer, and wait."""
        import numpy as np

        source = np.ascontiguousarray(array)
        with translated("copy to the device"):
            self._rt.memcpyAsync(
                buffer.pointer, source.ctypes.data, source.nbytes, self._rt.memcpyDefault, self._streams[0]
            )
            self._rt.streamSynchronize(self._streams[0])

    def read(self, buffer: Buffer, dtype: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """A host copy of a buffer's start, after all queued work."""
        import numpy as np

        array = np.empty(shape, dtype)
        with translated("copy from the device"):
            self._rt.memcpyAsync(
                array.ctypes.data, buffer.pointer, array.nbytes, self._rt.memcpyDefault, self._streams[0]
            )
            self._rt.streamSynchronize(self._streams[0])
        return array

    def fill(self, buffer: Buffer, byte: int) -> None:
        """Queue a memset of the whole buffer."""
        with translated("fill"):
            if buffer.memory == "pageable":
                ctypes.memset(buffer.pointer, byte, buffer.nbytes)
            else:
                self._rt.memsetAsync(buffer.pointer, byte, buffer.nbytes, self._streams[0])

    def copy(self, to: Buffer, source: Buffer, nbytes: int, lane: int = 0) -> None:
        """Queue a copy on stream `lane` (0, or 1 for the second direction of a link)."""
        with translated("copy"):
            self._rt.memcpyAsync(to.pointer, source.pointer, nbytes, self._rt.memcpyDefault, self._streams[lane])

    def prefetch(self, buffer: Buffer, to_device: bool) -> None:
        """Queue the migration of a managed buffer."""
        with translated("prefetch"):
            where = self._index if to_device else self._rt.cudaCpuDeviceId
            self._rt.memPrefetchAsync(buffer.pointer, buffer.nbytes, where, self._streams[0])

    def load(self, cubin: str, symbol: str) -> Any:
        """A function of a cubin file."""
        with translated(f"loading {symbol}"):
            if cubin not in self._modules:
                self._modules[cubin] = self._driver.moduleLoad(cubin)
            return self._driver.moduleGetFunction(self._modules[cubin], symbol)

    def launch(self, function: Any, launch: Launch, args: bytes) -> None:
        """Queue one launch; `args` is the parameter block, which the driver copies before it returns."""
        block = ctypes.create_string_buffer(args, len(args))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(block))
        with translated("launch"):
            self._driver.launchKernel(
                function, launch.grid, 1, 1, launch.block, 1, 1, 0, self._streams[0], ctypes.addressof(pointers), 0
            )

    def mark(self) -> Any:
        """Queue a time stamp."""
        with translated("event"):
            event = self._rt.eventCreate()
            self._rt.eventRecord(event, self._streams[0])
        return event

    def elapsed(self, start: Any, stop: Any) -> float:
        """Seconds between two stamps, after waiting for the second; both are used up."""
        with translated("event"):
            self._rt.eventSynchronize(stop)
            seconds = self._rt.eventElapsedTime(start, stop) / 1e3
            self._rt.eventDestroy(start)
            self._rt.eventDestroy(stop)
        return float(seconds)

    def join(self) -> None:
        """Make the first stream wait for the second, and the second for what the first has queued so far."""
        with translated("event"):
            for waiting, waited in ((0, 1), (1, 0)):
                event = self._rt.eventCreateWithFlags(self._rt.eventDisableTiming)
                self._rt.eventRecord(event, self._streams[waited])
                self._rt.streamWaitEvent(self._streams[waiting], event)
                self._rt.eventDestroy(event)

    def capture(self, body: Callable[[], None]) -> Any:
        """A graph of what `body` queues on the first stream."""
        stream, runtime = self._streams[0], self._rt
        with translated("graph"):
            runtime.streamBeginCapture(stream, runtime.streamCaptureModeRelaxed)
            try:
                body()
            finally:
                graph = runtime.streamEndCapture(stream)
            executable = runtime.graphInstantiate(graph)
            runtime.graphDestroy(graph)
            runtime.graphUpload(executable, stream)
        return executable

    def replay(self, graph: Any) -> None:
        """Queue a graph."""
        with translated("graph launch"):
            self._rt.graphLaunch(graph, self._streams[0])

    def drop(self, graph: Any) -> None:
        """Destroy a graph."""
        with translated("graph"):
            self._rt.graphExecDestroy(graph)

    def synchronize(self) -> None:
        """Wait for all queued work."""
        with translated("synchronize"):
            for stream in self._streams:
                self._rt.streamSynchronize(stream)

    def host_view(self, buffer: Buffer) -> np.ndarray[Any, Any]:
        """The bytes of a pinned, managed or pageable buffer as the host sees them."""
        import numpy as np

        pointer = ctypes.cast(buffer.host, ctypes.POINTER(ctypes.c_uint8))
        return np.ctypeslib.as_array(pointer, (buffer.nbytes,))

    def sensors(self) -> Reading:
        """What NVML says now."""
        return self._sensors.read()

    def handles(self) -> dict[str, int]:
        """Context and stream as integers, for the native request driver."""
        return {"context": int(self._driver.ctxGetCurrent()), "stream": int(self._streams[0])}

    def close(self) -> None:
        """Unload modules and destroy the streams; a lost device is left as it is."""
        try:
            for module in self._modules.values():
                self._driver.moduleUnload(module)
            for stream in self._streams:
                self._rt.streamDestroy(stream)
        except RuntimeError:
            self._modules, self._streams = {}, []


def _version(number: int) -> str:
    """ "13.0" of 13000."""
    return f"{number // 1000}.{number % 1000 // 10}"
