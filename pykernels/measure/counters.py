"""Hardware counters through perf_event_open where the kernel allows them: cycles, instructions, last-cache misses.

Optional: a machine that has none (most virtual machines, `perf_event_paranoid` above 2) gives a reason instead. Misses
of the last cache times the line are traffic that reads caused in memory; lines written back are not among them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

#: perf_event_attr.type and .config of the kernel's generic events (linux/perf_event.h)
EVENTS = {"cycles": (0, 0), "instructions": (0, 1), "llc_references": (0, 2), "llc_misses": (0, 3)}
LINE_BYTES = 64

_SYSCALL = {"x86_64": 298, "aarch64": 241}
_ATTR_BYTES = 128
#: disabled, inherit, exclude_kernel, exclude_hv (bits of perf_event_attr's flags)
_FLAGS = 1 << 0 | 1 << 1 | 1 << 5 | 1 << 6
#: read_format: time enabled, time running, to scale what was multiplexed
_READ_FORMAT = 1 | 2
_ENABLE, _DISABLE = 0x2400, 0x2401


class Counts(msgspec.Struct, frozen=True):
    """Events of this process and of its threads started after the counters; `reason` says why there are none.

    A count is scaled where the kernel ran the event for a part of the time only."""

    events: dict[str, float] = {}
    reason: str = ""

    def facts(self, calls: int = 1) -> dict[str, dict[str, float] | str]:
        """What a record keeps under `counters`: counts of a call by name, all threads together, and the bytes of missed
        lines; or the reason why there are none."""
        if self.reason or not calls:
            return {"counters": self.reason or "hardware counters: nothing was timed"}
        found = {name: count / calls for name, count in self.events.items()}
        if "llc_misses" in found:
            found["llc_miss_bytes"] = LINE_BYTES * found["llc_misses"]
        return {"counters": found}


class Counter:
    """One open event of this process; raises OSError where the kernel refuses it."""

    def __init__(self, name: str) -> None:
        number = _SYSCALL.get(platform.machine())
        if number is None:
            raise OSError(38, f"no perf_event_open known on {platform.machine()}")
        kind, config = EVENTS[name]
        attr = bytearray(_ATTR_BYTES)
        struct.pack_into("=IIQ", attr, 0, kind, _ATTR_BYTES, config)
        struct.pack_into("=QQ", attr, 32, _READ_FORMAT, _FLAGS)
        buffer = (ctypes.c_char * _ATTR_BYTES).from_buffer(attr)
        libc = ctypes.CDLL(None, use_errno=True)
        self.name = name
        self.fd: int = libc.syscall(number, buffer, 0, -1, -1, 0)
        if self.fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._ioctl = libc.ioctl

    def enable(self) -> None:
        """Start counting."""
        self._ioctl(self.fd, _ENABLE, 0)

    def disable(self) -> None:
        """Stop counting."""
        self._ioctl(self.fd, _DISABLE, 0)

    def read(self) -> float:
        """Events so far, scaled to the time they were asked for; 0 where the event never ran."""
        count, enabled, running = struct.unpack("=QQQ", os.read(self.fd, 24))
        return count * enabled / running if running else 0.0

    def close(self) -> None:
        """Give the event back."""
        os.close(self.fd)


def why_none(error: OSError) -> str:
    """A refusal of perf_event_open in words."""
    if error.errno in (1, 13):
        return "hardware counters: not permitted (kernel.perf_event_paranoid, or a container's policy)"
    if error.errno in (2, 19, 38, 95):
        return "hardware counters: this machine or kernel has none (a virtual machine without a PMU)"
    return f"hardware counters: {error.strerror or error}"


class Counters:
    """All events of this process and of the threads it starts from now on: open it before a team of threads is started.
    Never raises for want of counters; `reason` says why there are none. With `start` false somebody else starts and
    stops them, by their `fds`."""

    def __init__(self, start: bool = True) -> None:
        self._opened: list[Counter] = []
        self.reason = ""
        for name in EVENTS:
            try:
                self._opened.append(Counter(name))
            except OSError as error:
                self.reason = self.reason or why_none(error)
        if self._opened:
            self.reason = ""
        if start:
            for counter in self._opened:
                counter.enable()

    @property
    def fds(self) -> list[int]:
        """File descriptors of the events, for `ioctl`."""
        return [counter.fd for counter in self._opened]

    def snapshot(self) -> dict[str, float]:
        """Events since the start, by name; empty without counters."""
        return {counter.name: counter.read() for counter in self._opened}

    def since(self, before: Mapping[str, float]) -> Counts:
        """Events after the snapshot `before`."""
        now = self.snapshot()
        return Counts(events={name: now[name] - before.get(name, 0.0) for name in now}, reason=self.reason)

    def close(self) -> None:
        """Stop and give the events back."""
        for counter in self._opened:
            counter.disable()
            counter.close()
        self._opened = []


@contextmanager
def counting() -> Iterator[list[Counts]]:
    """Count while the block runs, this thread and those started in it: the list holds one `Counts` after it."""
    counters = Counters()
    before = counters.snapshot()
    result: list[Counts] = []
    try:
        yield result
    finally:
        result.append(counters.since(before))
        counters.close()


def available() -> str:
    """Empty where counters can be had, else the reason."""
    with counting() as result:
        pass
    return result[0].reason
