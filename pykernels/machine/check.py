"""What would spoil a measurement here: one finding for each thing looked at, with the command that mends it.

Nothing is changed, and no privileges are needed. On a recorded tree what only a running machine can show is skipped.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from pykernels.machine import gpu, noise
from pykernels.machine.placement import MachineSpace, threads_default
from pykernels.machine.tree import Tree, format_cpus, whole
from pykernels.model import Check, Machine
from pykernels.units import KIB, MIB, format_size

#: Variables that change how fast libraries run, or on which CPUs.
_ENVIRONMENT = (
    "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS",
    "BLIS_ARCH_TYPE", "BLIS_NUM_THREADS", "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY", "NUMBA_NUM_THREADS", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_DISABLE_JIT", "LD_PRELOAD",
    "GLIBC_TUNABLES", "PYTHONMALLOC", "CUDA_LAUNCH_BLOCKING",
)  # fmt: skip

STEADY = 0.02  # a clock that spreads by more than this is named


class Look(msgspec.Struct, frozen=True):
    """What the checks look at: the machine, its files, and what went on while the clock was watched."""

    machine: Machine
    tree: Tree
    before: noise.Snapshot
    after: noise.Snapshot
    clocks_ghz: tuple[float, ...] = ()
    busy: tuple[noise.Busy, ...] = ()


def run_checks(machine: Machine, root: Path = Path("/"), seconds: float = 2.0) -> list[Check]:
    """All findings; takes about `seconds`, in which the clock is watched, and half a second for other processes."""
    tree = Tree(root)
    busy = noise.busy_processes() if tree.live else ()
    before = noise.snapshot(root)
    clocks = _watch_clock(seconds) if tree.live else ()
    look = Look(machine, tree, before, noise.snapshot(root), clocks, busy)
    found = [check(look) for check in CHECKS]
    return [*found, *(gpu.checks(machine) if tree.live else ())]


# ---------------------------------------------------------------------------------------------------- clock and power


def _watch_clock(seconds: float) -> tuple[float, ...]:
    """The core clock in GHz in every 50 ms of a busy while, the fastest reading of each; () without the native module.

    A reading that was interrupted comes out low, never high, so the fastest is the clock.
    """
    try:
        from pykernels._core import clock_ghz
    except ImportError:
        return ()
    found, end = [], time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        best = 0.0
        while time.monotonic() < now + 0.05:
            best = max(best, clock_ghz())
        found.append(best)
    return tuple(found)


def clock(look: Look) -> Check:
    if not look.clocks_ghz:
        reason = "the native module is not built" if look.tree.live else "not on a recorded tree"
        return Check(
            "skip", "clock", f"clock not measured: {reason}", 'pip install "pykernels"' if look.tree.live else ""
        )
    centre = statistics.median(look.clocks_ghz)
    spread = (max(look.clocks_ghz) - min(look.clocks_ghz)) / 2 / centre
    seconds = look.after.at - look.before.at
    text = f"clock {centre:.2f} GHz measured, steady to {spread:.1%} over {seconds:.0f} s"
    if spread > STEADY:
        text = text.replace("steady to", "but it moved by +-")
        return Check("warn", "clock", text, "sudo cpupower frequency-set -g performance, and see temperature and load")
    return Check("ok", "clock", text)


def governor(look: Look) -> Check:
    name = look.machine.governor
    if not name:
        return Check("skip", "governor", "no frequency governor is stated (a guest's clock is the host's business)")
    if name == "performance":
        return Check("ok", "governor", "governor is performance")
    return Check("warn", "governor", f"governor is {name}", "sudo cpupower frequency-set -g performance")


def turbo(look: Look) -> Check:
    if look.machine.turbo == "off":
        pstate = look.tree.exists("sys/devices/system/cpu/intel_pstate/no_turbo")
        switch = "0 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
        hint = switch if pstate else "1 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
        return Check("warn", "turbo", "turbo is off: peaks stay at the base clock", f"echo {hint}")
    if look.machine.turbo == "on":
        return Check("ok", "turbo", "turbo is on; the clock is measured beside every sample")
    return Check("skip", "turbo", "whether turbo is on is not stated")


def throttling(look: Look) -> Check:
    count = look.after.throttle_count
    if count is None or look.before.throttle_count is None:
        return Check("skip", "throttling", "no thermal throttle counts are stated")
    recent = count - look.before.throttle_count
    heat = f", {look.after.temperature_c:.0f} C" if look.after.temperature_c is not None else ""
    if recent:
        text = f"throttled {recent} times while this check ran{heat}"
        return Check("warn", "throttling", text, "better cooling, or a lower power limit: sudo turbostat --interval 1")
    return Check("ok", "throttling", f"not throttled now ({count} times since boot{heat})")


def power(look: Look) -> Check:
    supplies = "sys/class/power_supply"
    kinds = {name: look.tree.text(f"{supplies}/{name}/type") for name in look.tree.names(supplies)}
    mains = [name for name, kind in kinds.items() if kind == "Mains"]
    if mains and not any(look.tree.text(f"{supplies}/{name}/online") == "1" for name in mains):
        return Check("warn", "power", "runs on battery: the clock is held down", "plug in the power cable")
    return Check("ok", "power", "on mains" if mains else "no battery is stated")


# ---------------------------------------------------------------------------------------------------------- neighbours


def processes(look: Look) -> Check:
    if not look.tree.live:
        return Check("skip", "processes", "other processes are not seen on a recorded tree")
    load = f"load {look.after.load_1min:.2f}"
    if not look.busy:
        return Check("ok", "processes", f"no other busy process is seen ({load})")
    total = sum(busy.cores for busy in look.busy)
    names = ", ".join(f"{busy.name} ({busy.cores:.2f})" for busy in look.busy[:4])
    more = f" and {len(look.busy) - 4} more" if len(look.busy) > 4 else ""
    pids = " ".join(str(busy.pid) for busy in look.busy[:4])
    text = f"other processes use {total:.2f} cores: {names}{more} ({load})"
    return Check("warn", "processes", text, f"stop them, or pause them (-CONT resumes): kill -STOP {pids}")


def steal(look: Look) -> Check:
    ticks, seconds = look.after.steal_ticks - look.before.steal_ticks, look.after.at - look.before.at
    if not look.tree.live:
        return Check("skip", "steal", "steal is not seen on a recorded tree")
    if ticks:
        text = f"the host took {ticks * 10} ms of CPU time in {seconds:.1f} s (steal)"
        return Check(
            "warn", "steal", text, "a dedicated or bare-metal host; else more launches: raise launches in the sweep"
        )
    return Check("ok", "steal", f"no CPU time stolen by a host in {seconds:.1f} s")


def hypervisor(look: Look) -> Check:
    name = look.machine.hypervisor
    if not name:
        return Check("ok", "hypervisor", "no hypervisor is seen")
    text = f"guest of a hypervisor ({name}): neighbours are not seen, pins hold virtual CPUs only"
    return Check(
        "warn", "hypervisor", text, "bare metal where it matters; else three sittings, hours apart: pykernels run"
    )


def smt(look: Look) -> Check:
    if not look.machine.smt:
        return Check("ok", "smt", "one hardware thread per core")
    mask = set(look.machine.affinity)
    split = [core for core in look.machine.cores if mask.intersection(core.cpus) and not mask.issuperset(core.cpus)]
    if split:
        outside = format_cpus(tuple(cpu for core in split for cpu in core.cpus if cpu not in mask))
        text = (
            f"{len(split)} cores have a hardware thread outside the affinity mask (CPUs {outside}), open to other work"
        )
        return Check("warn", "smt", text, "bind whole cores, for example srun --hint=nomultithread --exclusive")
    return Check("ok", "smt", "hardware threads share cores; a run uses one per core unless told otherwise")


# -------------------------------------------------------------------------------------------------------------- limits


def quota(look: Look) -> Check:
    machine = look.machine
    cores = threads_default(msgspec.structs.replace(machine, quota=0.0))
    if not machine.quota or machine.quota >= cores:
        return Check("ok", "quota", "no CPU quota below the cores in use")
    text = f"the control group's quota is {machine.quota:g} of {cores} cores: a larger team is stopped in every period"
    return Check("warn", "quota", text, f"docker update --cpus {cores} CONTAINER, or resources.limits.cpu: {cores}")


def affinity(look: Look) -> Check:
    online = {cpu for core in look.machine.cores for cpu in core.cpus}
    mask = online.intersection(look.machine.affinity)
    if mask == online:
        return Check("ok", "affinity", f"this process may use all {len(online)} CPUs")
    text = f"this process may use {len(mask)} of {len(online)} CPUs ({format_cpus(tuple(mask))})"
    return Check("warn", "affinity", text, f"taskset --cpu-list {format_cpus(tuple(online))} pykernels run")


def memory(look: Look) -> Check:
    machine = look.machine
    space = MachineSpace(machine, "cpu", threads_default(machine))
    if not space.available:
        return Check("skip", "memory", "the machine does not state its memory")
    limit = ", the control group's limit" if machine.memory_limit else ""
    text = f"{format_size(space.available)} of {format_size(space.memory)}{limit} available"
    hint = "stop what holds memory: ps --sort=-rss -eo pid,rss,comm | head"
    if look.after.memory_stall_us - look.before.memory_stall_us > 1000:
        return Check("warn", "memory", f"{text}, but tasks wait for memory", hint)
    if space.available < 16 * space.llc_bytes:
        need = format_size(16 * space.llc_bytes)
        return Check("warn", "memory", f"{text}: DRAM ceilings need {need} (4 last-level caches in a quarter)", hint)
    return Check("ok", "memory", text)


def swap(look: Look) -> Check:
    values = dict(line.split(":", 1) for line in look.tree.text("proc/meminfo").splitlines() if ":" in line)
    total, free = (whole((values.get(key, "").split() or ["0"])[0]) * KIB for key in ("SwapTotal", "SwapFree"))
    if total - free > MIB:
        return Check("warn", "swap", f"{format_size(total - free)} of swap in use", "sudo swapoff -a && sudo swapon -a")
    return Check("ok", "swap", "no swap in use")


def huge_pages(look: Look) -> Check:
    mode = look.machine.huge_pages
    if mode == "never":
        hint = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
        return Check(
            "warn", "huge pages", "transparent huge pages are off: DRAM ceilings are those of 4 KiB pages", hint
        )
    if not mode:
        return Check("skip", "huge pages", "this kernel states no transparent huge pages")
    return Check("ok", "huge pages", f"transparent huge pages: {mode}")


def numa_balancing(look: Look) -> Check:
    if len(look.machine.nodes) > 1 and look.tree.text("proc/sys/kernel/numa_balancing") not in ("", "0"):
        text = "automatic NUMA balancing moves pages between nodes while they are measured"
        return Check("warn", "numa balancing", text, "sudo sysctl kernel.numa_balancing=0")
    nodes = len(look.machine.nodes)
    return Check("ok", "numa balancing", "off" if nodes > 1 else "one NUMA node")


# ------------------------------------------------------------------------------------------------------------ software


def clocksource(look: Look) -> Check:
    base = "sys/devices/system/clocksource/clocksource0"
    name, others = (
        look.tree.text(f"{base}/current_clocksource"),
        look.tree.text(f"{base}/available_clocksource").split(),
    )
    best = {"x86_64": "tsc", "aarch64": "arch_sys_counter"}.get(look.machine.arch, name)
    if not name:
        return Check("skip", "clocksource", "the kernel's clock source is not stated")
    if name == best:
        return Check("ok", "clocksource", f"clock source is {name}")
    hint = f"echo {best} | sudo tee /{base}/current_clocksource" if best in others else f"sudo dmesg | grep -i {best}"
    return Check("warn", "clocksource", f"clock source is {name}: reading the time may be slow and coarse", hint)


def counters(look: Look) -> Check:
    text = look.tree.text("proc/sys/kernel/perf_event_paranoid")
    if text and whole(text, 9) <= 2:
        return Check("ok", "counters", f"hardware counters are permitted (perf_event_paranoid {text})")
    reason = f"perf_event_paranoid is {text}" if text else "this kernel has no perf events"
    hint = "sudo sysctl kernel.perf_event_paranoid=2" if text else ""
    return Check("skip", "counters", f"no hardware counters ({reason}); measurements do without", hint)


def environment(look: Look) -> Check:
    names = [name for name in _ENVIRONMENT if os.environ.get(name)] if look.tree.live else []
    if names:
        values = ", ".join(f"{name}={os.environ[name]}" for name in names)
        return Check(
            "warn", "environment", f"set, and it changes what libraries do: {values}", f"unset {' '.join(names)}"
        )
    return Check("ok", "environment", "no variable that steers BLAS, OpenMP or Numba is set")


def native(look: Look) -> Check:
    levels = ", ".join(look.machine.isa) or "none"
    if not look.tree.live:
        return Check("skip", "native", f"ISA levels by the CPU's flags: {levels}")
    try:
        from pykernels._core import built_isas
    except ImportError as error:
        return Check(
            "fail", "native", f"the native module cannot be loaded ({error})", "pip install --force-reinstall pykernels"
        )
    if not look.machine.isa:
        return Check(
            "fail", "native", f"this CPU has none of the levels built: {', '.join(built_isas())}", "build from source"
        )
    return Check("ok", "native", f"ISA levels this CPU and this build have: {levels}")


def working_directory(look: Look) -> Check:
    if not look.tree.live:
        return Check("skip", "directory", "not on a recorded tree")
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()):  # has no name, and is gone at once
            pass
        room = os.statvfs(Path.cwd())
    except OSError as error:
        text = f"the working directory cannot be written ({error.strerror}): a run file needs another place"
        return Check("fail", "directory", text, "pykernels run -o ~/run.jsonl")
    free = room.f_bavail * room.f_frsize
    if free < 100 * MIB:
        return Check(
            "warn", "directory", f"{format_size(free)} of disk left here", "pykernels run -o /dev/shm/run.jsonl"
        )
    return Check("ok", "directory", f"the working directory can be written, {format_size(free)} free")


CHECKS: tuple[Callable[[Look], Check], ...] = (
    native, clock, governor, turbo, throttling, power, processes, steal, hypervisor, smt, quota, affinity, memory, swap,
    huge_pages, numa_balancing, clocksource, counters, environment, working_directory,
)  # fmt: skip
