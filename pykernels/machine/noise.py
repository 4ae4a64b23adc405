"""What goes on beside a measurement: steal, load, temperature, throttling, memory pressure, other busy processes."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

import msgspec

from pykernels.machine.tree import CPUS, Tree, whole
from pykernels.model import Conditions

#: hwmon drivers and thermal zones that speak for the CPU.
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "x86_pkg_temp", "cpu-thermal", "soc_thermal")
#: A core's throttle count costs an interrupt to no one but a file read to us: on large machines a part must do.
_MOST_SOURCES = 32


class Snapshot(msgspec.Struct, frozen=True):
    """The state of one moment. Ticks are 1/100 s (USER_HZ) over all CPUs since boot; None: the machine does not say."""

    at: float  # monotonic seconds
    steal_ticks: int = 0
    busy_ticks: int = 0
    load_1min: float = 0.0
    temperature_c: float | None = None
    throttle_count: int | None = None
    memory_stall_us: int = 0  # time in which at least one task waited for memory (PSI)


class _Sources(msgspec.Struct, frozen=True):
    tree: Tree
    temperatures: tuple[str, ...]
    throttles: tuple[str, ...]


def snapshot(root: Path = Path("/")) -> Snapshot:
    """The state now; cheap enough (well under 1 ms) to be taken before and after every visit."""
    sources = _sources(root)
    tree = sources.tree
    ticks = [whole(field) for field in tree.text("proc/stat", 256).partition("\n")[0].split()[1:]]
    # user nice system idle iowait irq softirq steal: busy is all but idle and iowait.
    steal = ticks[7] if len(ticks) > 7 else 0
    load = tree.text("proc/loadavg", 64).split()
    millidegrees = [tree.number(path) for path in sources.temperatures]
    throttles = [tree.number(path) for path in sources.throttles]
    return Snapshot(
        at=time.monotonic(),
        steal_ticks=steal,
        busy_ticks=sum(ticks[:3]) + sum(ticks[5:7]) if len(ticks) > 7 else 0,
        load_1min=_decimal(load[0]) if load else 0.0,
        temperature_c=max(millidegrees) / 1000 if any(millidegrees) else None,
        throttle_count=sum(throttles) if throttles else None,
        memory_stall_us=_stall(tree.text("proc/pressure/memory", 256)),
    )


def conditions(before: Snapshot, after: Snapshot) -> Conditions:
    """What a record keeps of the time between two snapshots: steal and throttling in it, load and temperature after."""
    throttled = None
    if before.throttle_count is not None and after.throttle_count is not None:
        throttled = after.throttle_count - before.throttle_count
    return Conditions(
        steal_ticks=after.steal_ticks - before.steal_ticks,
        load_1min=after.load_1min,
        temperature_c=after.temperature_c,
        throttle_count=throttled,
    )


@cache
def _sources(root: Path) -> _Sources:
    """Files to read in every snapshot, looked for once."""
    tree = Tree(root)
    temperatures = []
    for folder, sensors in (("sys/class/hwmon", "name"), ("sys/class/thermal", "type")):
        for name in tree.names(folder):
            if tree.text(f"{folder}/{name}/{sensors}") in _CPU_SENSORS:
                inputs = [file for file in tree.names(f"{folder}/{name}") if file in ("temp", "temp1_input")]
                temperatures += [f"{folder}/{name}/{file}" for file in inputs]
    packages: dict[str, str] = {}
    cores = []
    for cpu in tree.numbered(CPUS, "cpu"):
        counts = f"{CPUS}/cpu{cpu}/thermal_throttle"
        if tree.exists(f"{counts}/package_throttle_count"):
            package = tree.text(f"{CPUS}/cpu{cpu}/topology/physical_package_id")
            packages.setdefault(package, f"{counts}/package_throttle_count")
            cores.append(f"{counts}/core_throttle_count")
    return _Sources(tree, tuple(temperatures[:_MOST_SOURCES]), (*packages.values(), *cores)[:_MOST_SOURCES])


def _stall(text: str) -> int:
    """Total microseconds of the line "some avg10=0.00 ... total=123"."""
    return whole(text.partition("\n")[0].rpartition("total=")[2])


def _decimal(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


class Busy(msgspec.Struct, frozen=True):
    """A process that used CPU time: its name, and the cores' worth it used."""

    pid: int
    name: str
    cores: float


def busy_processes(seconds: float = 0.5, least: float = 0.05) -> tuple[Busy, ...]:
    """Other processes that use at least `least` of a core over `seconds`, the busiest first. Own children are left out,
    and so are processes that start or end in between."""
    import psutil

    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    before, start = _cpu_times(), time.monotonic()
    time.sleep(seconds)
    after, elapsed = _cpu_times(), time.monotonic() - start
    used = [
        Busy(pid, name, round((total - before[pid, name]) / elapsed, 3))
        for (pid, name), total in after.items()
        if (pid, name) in before and pid not in own
    ]
    return tuple(sorted((busy for busy in used if busy.cores >= least), key=lambda busy: -busy.cores))


def _cpu_times() -> dict[tuple[int, str], float]:
    """CPU seconds of every process that can be seen, by pid and name."""
    import psutil

    found = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None:
            found[process.pid, process.info["name"] or "?"] = times.user + times.system
    return found
