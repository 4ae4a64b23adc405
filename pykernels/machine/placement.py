"""Where a case can run: the devices of a machine, the CPUs of a team on one of them, and the sizes that suit it."""

from __future__ import annotations

import math
import re

from pykernels.errors import UsageError, unknown
from pykernels.model import Cache, Core, Gpu, Machine, Space
from pykernels.units import GIB, KIB, MIB, format_size, parse_size

#: Assumed where a machine states no caches at all: small enough to lie inside those of any server CPU of this century's
#: second decade and later; the last level is set large, since DRAM must lie outside it.
FALLBACK = {"L1": 32 * KIB, "L2": 256 * KIB, "L3": 4 * MIB}
FALLBACK_LLC = 64 * MIB
#: Assumed of a GPU that is not there, so that a plan can list the cases it skips.
FALLBACK_GPU = Gpu(index=0, name="", memory_bytes=80 * GIB, sms=132, l2_bytes=50 * MIB)

#: Bytes well inside the L1 of every multiprocessor since 2018 (32 KiB at least beside shared memory)
GPU_L1 = 16 * KIB

LEVELS = ("L1", "L2", "L3", "DRAM")
_RELATIVE = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*(%\s*memory|L[1-4]|DRAM|[A-Za-z]+)\s*$")


#: share of the available memory that a case's operands may take
MEMORY_SHARE = 0.6


class NoSuchLevel(UsageError):
    """A level that this machine does not have (an L3 on a machine without one): a plan skips the case."""


# ------------------------------------------------------------------------------------------------------------- devices


def devices(machine: Machine) -> tuple[str, ...]:
    """Every device name of this machine that has a CPU this process may use, the whole machine first, then GPUs."""
    cores = _usable(machine.cores, machine)
    names = ["cpu"]
    names += [f"cpu:{n}" for n in sorted({core.node for core in cores})]
    for kind, field in (("socket", "socket"), ("l3", "l3"), ("core", "id")):
        numbers = sorted({getattr(core, field) for core in cores})
        names += [f"cpu:{kind}.{n}" for n in numbers if n >= 0]
    return (*names, *(f"gpu:{gpu.index}" for gpu in machine.gpus))


def cores_of(machine: Machine, device: str = "cpu") -> tuple[Core, ...]:
    """Physical cores of a CPU device, each with those of its CPUs that this process may use; at least one.

    Raises UsageError for a device that this machine does not have or that lies outside the affinity mask.
    """
    name, _, number = device.rpartition(".") if "." in device else device.rpartition(":")
    field = {"cpu": "node", "cpu:socket": "socket", "cpu:l3": "l3", "cpu:core": "id"}.get(name)
    if device == "cpu":
        chosen = machine.cores
    elif field and number.isdecimal():
        chosen = tuple(core for core in machine.cores if getattr(core, field) == int(number))
    else:
        chosen = ()
    if not chosen:
        raise unknown("device", device, devices(machine))
    usable = _usable(chosen, machine)
    if not usable:
        raise UsageError(
            f'device "{device}": none of its CPUs is in the affinity mask of this process',
            hint="widen it: taskset --cpu-list, the batch system's binding, or the container's cpuset",
        )
    return usable


def _usable(cores: tuple[Core, ...], machine: Machine) -> tuple[Core, ...]:
    """Cores with their CPUs cut to the affinity mask; cores with none left out."""
    mask = set(machine.affinity)
    cut = ((core, tuple(cpu for cpu in core.cpus if cpu in mask)) for core in cores)
    return tuple(
        Core(core.id, cpus, core.socket, core.node, core.l3, core.kind, core.max_mhz) for core, cpus in cut if cpus
    )


def threads_default(machine: Machine, device: str = "cpu") -> int:
    """Threads that "all" means: one per physical core in the affinity mask, at most the CPU quota, at least 1."""
    if device.startswith("gpu"):
        return 1
    cores = len(cores_of(machine, device))
    return max(1, min(cores, math.floor(machine.quota)) if machine.quota else cores)


def cpus_for(machine: Machine, device: str, threads: int) -> tuple[int, ...]:
    """The CPU of each thread: one per physical core first, performance cores before efficiency cores and in the order
    of their numbers, then the second hardware threads in the same order. Raises UsageError for more than there are."""
    cores = sorted(cores_of(machine, device), key=lambda core: (core.kind == "efficiency", core.id))
    deepest = max(len(core.cpus) for core in cores)
    order = [core.cpus[rank] for rank in range(deepest) for core in cores if rank < len(core.cpus)]
    if not 1 <= threads <= len(order):
        there = f"{_count(len(order), 'hardware thread')} on {_count(len(cores), 'core')}"
        raise UsageError(f'threads = {threads}: device "{device}" has {there} that this process may use')
    return tuple(order[:threads])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# --------------------------------------------------------------------------------------------------------------- sizes


def usable_memory(machine: Machine) -> int:
    """Bytes of memory a run could have if nobody else took any: all, or the control group's limit; 0: unknown."""
    return min((n for n in (machine.memory_bytes, machine.memory_limit) if n), default=0)


def space_for(machine: Machine, device: str = "cpu", threads: int = 1, dram_factor: float = 8.0) -> Space:
    """Sizes for a placement on any device, CPU or GPU; raises UsageError for a device that the machine does not have
    (a GPU may be absent: its sizes are then assumed, so that a plan can list the cases it skips)."""
    if device.startswith("gpu"):
        return GpuSpace(machine, device, dram_factor)
    return MachineSpace(machine, device, threads, dram_factor)


class MachineSpace:
    """Sizes for a team of `threads` on a CPU device (model.Space).

    Working sets over all threads, per thread: L1 1/2, L2 3/8, L3 the smaller of 4 MiB and half of its share but at
    least twice its L2; a share is the cache's bytes over the threads of the team that use it. DRAM: `dram_factor` times
    the last-level caches that the team touches, at most 25% of the memory there is for it; `dram_factor` below 4 is the
    caller's to flag (`llc_bytes` is what to compare with). Without an L3 the L2 is the last level; where the machine
    states no caches, FALLBACK counts and `assumed` is true.
    """

    private: tuple[str, ...] = ("L1", "L2")

    def __init__(self, machine: Machine, device: str = "cpu", threads: int = 1, dram_factor: float = 8.0) -> None:
        self.machine = machine
        self.device = device
        self.threads = threads
        self.dram_factor = dram_factor
        self.cpus = cpus_for(machine, device, threads)
        self.caches, self.assumed = machine.caches, not machine.caches
        self.memory = usable_memory(machine)
        self.available = min((n for n in (self.memory, machine.memory_available) if n), default=0)
        if device != "cpu" and len(machine.nodes) > 1:
            team = set(self.cpus)
            local = sum(node.memory_bytes for node in machine.nodes if team.intersection(node.cpus))
            self.available = min((n for n in (self.available, local) if n), default=0)

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels this placement has, innermost first."""
        return tuple(level for level in LEVELS if level == "DRAM" or not self.caches or self._touched(level))

    @property
    def llc_bytes(self) -> int:
        """Bytes of all last-level caches that the team's CPUs lie under."""
        for level in ("L4", "L3", "L2", "L1"):
            if touched := self._touched(level):
                return sum(cache.bytes for cache in touched)
        return FALLBACK_LLC

    def level_bytes(self, level: str) -> int:
        """Working set over all threads that lies well inside `level`; raises NoSuchLevel or UsageError."""
        if level not in LEVELS:
            raise unknown("level", level, LEVELS)
        if level == "DRAM":
            inside = min(int(self.dram_factor * self.llc_bytes), (self.available or GIB) // 4) // self.threads
        elif level == "L3":
            inside = max(min(4 * MIB, self._share("L3") // 2), 2 * self._share("L2"))
        else:
            inside = self._share(level) // 2 if level == "L1" else self._share(level) * 3 // 8
        return max(1, inside // KIB) * KIB * self.threads

    def size(self, text: str) -> int:
        """Bytes of "64 MiB", "0.4 L2" or "4 L3" (of one cache of that level), or "25% memory"; UsageError where it
        makes no sense or is beyond memory."""
        match = _RELATIVE.match(text)
        if match and match[2].endswith("memory") and "%" in match[2]:
            nbytes = int(float(match[1]) / 100 * self.memory)
        elif match and match[2] in FALLBACK:
            nbytes = int(float(match[1]) * self._capacity(match[2]))
        elif match and match[2] in ("L4", "DRAM", "memory"):
            raise UsageError(f'"{text}" is not a size (write it as "0.4 L2", "4 L3", "25% memory" or "64 MiB")')
        else:
            nbytes = parse_size(text)
        _check_fits(text, nbytes, self.device, self.available, self.memory)
        return nbytes

    def _touched(self, level: str) -> tuple[Cache, ...]:
        """Caches of a level that one of the team's CPUs lies under."""
        team = set(self.cpus)
        return tuple(c for c in self.caches if c.level == level and team.intersection(c.cpus))

    def _capacity(self, level: str) -> int:
        """Bytes of one cache of the level, the smallest that the team touches."""
        if not self.caches:
            return FALLBACK[level]
        touched = self._touched(level)
        if not touched:
            there = ", ".join(level for level in self.levels if level != "DRAM")
            raise NoSuchLevel(f'level "{level}": no such cache is stated for "{self.device}" (it has {there})')
        return min(cache.bytes for cache in touched)

    def _share(self, level: str) -> int:
        """Bytes of the level for each thread, the smallest share in the team."""
        capacity = self._capacity(level)
        team = set(self.cpus)
        return min((c.bytes // max(1, len(team.intersection(c.cpus))) for c in self._touched(level)), default=capacity)


class GpuSpace:
    """Sizes on a GPU (model.Space); `threads` is its number of multiprocessors.

    Working sets over the whole GPU: L1 16 KiB a multiprocessor; L2 3/8 of it (it is two partitions: half of it is where
    the second begins); DRAM
    `dram_factor` L2s but 256 MiB at least, at most 25% of its memory. A GPU that is not there is FALLBACK_GPU.
    """

    levels = ("L1", "L2", "DRAM")
    private: tuple[str, ...] = ("L1",)

    def __init__(self, machine: Machine, device: str = "gpu:0", dram_factor: float = 8.0) -> None:
        number = device.removeprefix("gpu:")
        if not number.isdecimal():
            raise unknown("device", device, devices(machine) if machine.gpus else ["gpu:0"])
        gpu = next((gpu for gpu in machine.gpus if gpu.index == int(number)), None)
        self.assumed = gpu is None
        self.gpu = gpu or FALLBACK_GPU
        self.device = device
        self.threads = self.gpu.sms or FALLBACK_GPU.sms
        self.dram_factor = dram_factor
        self.memory = self.gpu.memory_bytes or FALLBACK_GPU.memory_bytes
        self.llc_bytes = self.gpu.l2_bytes or FALLBACK_GPU.l2_bytes

    def level_bytes(self, level: str) -> int:
        """Working set that lies well inside `level`; raises NoSuchLevel for one that is not listed in `levels`."""
        if level == "L1":
            return GPU_L1 * self.threads
        if level == "L2":
            return self.llc_bytes * 3 // 8 // KIB * KIB
        if level == "DRAM":
            return min(max(int(self.dram_factor * self.llc_bytes), 256 * MIB), self.memory // 4) // MIB * MIB
        raise NoSuchLevel(f'level "{level}": "{self.device}" has {", ".join(self.levels)}')

    def size(self, text: str) -> int:
        """Bytes of "64 MiB", "0.4 L2" or "25% memory"; UsageError where it makes no sense or is beyond the memory."""
        match = _RELATIVE.match(text)
        if match and match[2].endswith("memory") and "%" in match[2]:
            nbytes = int(float(match[1]) / 100 * self.memory)
        elif match and match[2] in FALLBACK:
            if match[2] != "L2":  # no driver states how much of a multiprocessor's memory is its L1
                raise NoSuchLevel(f'size "{text}": of the caches of "{self.device}" only its L2 has a stated size')
            nbytes = int(float(match[1]) * self.llc_bytes)
        else:
            nbytes = parse_size(text)
        _check_fits(text, nbytes, self.device, self.memory, self.memory)
        return nbytes


def _check_fits(text: str, nbytes: int, device: str, available: int, memory: int) -> None:
    """Raise UsageError if a size is beyond the memory that is available (0: not known)."""
    if available and nbytes > available:
        there = f"{format_size(available)} available of {format_size(memory)}"
        raise UsageError(f'size "{text}" is {format_size(nbytes)}, beyond memory: "{device}" has {there}')
