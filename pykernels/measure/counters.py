"""Hardware counters through perf_event_open where the kernel allows them: cycles, instructions, last-cache misses.

Optional: a machine that has none (most virtual machines, `perf_event_paranoid` above 2) gives a reason instead. Misses
of the last cache times the line are traffic that reads caused in memory; lines written back are not among them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
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
    """Events of this process and its threads started after `counting` began; `reason` says why there are none.

    A count is scaled where the kernel ran the event for a part of the time only."""

    events: dict[str, float] = {}
    reason: str = ""

    def facts(self) -> dict[str, float | str]:
        """What a record keeps: counts by name, and the bytes of missed lines."""
        if self.reason:
            return {"counters": self.reason}
        found: dict[str, float | str] = dict(self.events)
        if "llc_misses" in self.events:
            found["llc_miss_bytes"] = LINE_BYTES * self.events["llc_misses"]
        return found


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


@contextmanager
def counting() -> Iterator[list[Counts]]:
    """Count while the block runs: the list holds one `Counts` after it. Never raises for want of counters."""
    result: list[Counts] = []
    opened: list[Counter] = []
    reason = ""
    for name in EVENTS:
        try:
            opened.append(Counter(name))
        except OSError as error:
            reason = reason or why_none(error)
    try:
        for counter in opened:
            counter.enable()
        yield result
    finally:
        for counter in opened:
            counter.disable()
        events = {counter.name: counter.read() for counter in opened}
        for counter in opened:
            counter.close()
        result.append(Counts(events=events, reason="" if events else reason))


def available() -> str:
    """Empty where counters can be had, else the reason."""
    with counting() as result:
        pass
    return result[0].reason
