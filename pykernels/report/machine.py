"""Renders a machine and the findings of `pykernels check` as text that needs no colour."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pykernels.machine.datasheets import memory_peak
from pykernels.machine.tree import format_cpus
from pykernels.model import Check, Machine
from pykernels.units import format_size


def machine_text(machine: Machine, width: int = 80) -> str:
    """The machine as text of at most `width` columns, without a final line break."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, emoji=False, markup=False)
    console.print(render_machine(machine))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def render_machine(machine: Machine) -> Any:
    """A rich table of two columns: what, and what the machine says of it."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _lines(machine):
        table.add_row(label, Text(value))
    return table


def checks_text(checks: Iterable[Check], width: int = 80) -> str:
    """A line for each finding, its hint beneath it (a command, so not wrapped), and a last line that counts them."""
    checks = list(checks)
    lines = []
    for check in checks:
        # "clock 3.41 GHz ..." names itself; "2 of 64 CPUs ..." needs its name before it.
        named = check.name.split(":")[0].lower() in check.message.lower()
        text = check.message if named else f"{check.name}: {check.message}"
        lines += textwrap.wrap(
            text, width, initial_indent=f"{check.level:<6}", subsequent_indent=" " * 6, break_on_hyphens=False
        )
        lines += [f"      hint: {check.hint}"] if check.hint else []
    counts = Counter(check.level for check in checks)
    summary = ", ".join(f"{counts[level]} {level}" for level in ("ok", "warn", "fail", "skip") if counts[level])
    return "\n".join([*lines, "", summary])


def _lines(machine: Machine) -> Iterator[tuple[str, str]]:
    yield "machine", machine.id
    yield "CPU", _cpu(machine)
    yield "ISA levels", ", ".join(machine.isa) or "none known"
    yield "cores", _cores(machine)
    yield from _caches(machine)
    yield from _nodes(machine)
    yield "memory", _memory(machine)
    yield "pages", f"{format_size(machine.page_bytes)}; transparent huge pages: {machine.huge_pages or 'not stated'}"
    yield "usable", _usable(machine)
    yield "clock", f"governor {machine.governor or 'not stated'}; turbo {machine.turbo or 'not stated'}"
    yield "hypervisor", machine.hypervisor or "none seen"
    yield "system", ", ".join(text for text in (machine.kernel, machine.distribution, machine.libc) if text)
    peak = memory_peak(machine)
    yield "datasheet", f"memory {peak.value:g} GB/s ({peak.basis})" if peak.value else f"none: {peak.reason}"
    if not machine.gpus:
        yield "GPUs", "none seen"
    for gpu in machine.gpus:
        mig = f", MIG slice {gpu.mig}" if gpu.mig else ""
        size = f"{format_size(gpu.memory_bytes)}, {gpu.sms} SMs, compute capability {gpu.compute_capability}"
        yield f"gpu:{gpu.index}", f"{gpu.name}{mig}, {size}, L2 {format_size(gpu.l2_bytes)}, driver {gpu.driver}"


def _cpu(machine: Machine) -> str:
    label = f" ({machine.microarchitecture})" if machine.microarchitecture not in ("", machine.cpu_model) else ""
    numbers = f"family {machine.family}, model {machine.model}, stepping {machine.stepping}"
    if machine.arch == "aarch64":
        numbers = f"implementer 0x{machine.family:02x}, part 0x{machine.model:03x}"
    return f"{machine.cpu_model or 'unnamed'}{label}, {machine.arch}, {machine.vendor or 'vendor unknown'}, {numbers}"


def _cores(machine: Machine) -> str:
    threads = Counter(len(core.cpus) for core in machine.cores)
    kinds = Counter(core.kind for core in machine.cores if core.kind)
    sockets = len({core.socket for core in machine.cores})
    parts = [_count(len(machine.cores), "core")]
    if len(threads) == 1:
        parts[0] += f" of {_count(max(threads), 'hardware thread')}"
    else:
        parts += [
            f"{cores} with {_count(each, 'hardware thread')}" for each, cores in sorted(threads.items(), reverse=True)
        ]
    parts += [f"{number} {kind}" for kind, number in kinds.items()]
    parts.append(_count(sockets, "socket"))
    if fastest := max((core.max_mhz for core in machine.cores), default=0):
        parts.append(f"up to {fastest / 1000:.2f} GHz stated")
    return ", ".join(parts)


def _caches(machine: Machine) -> Iterator[tuple[str, str]]:
    """One line for each size of a level: how many there are, and how many CPUs share one."""
    groups = Counter((c.level, c.bytes, len(c.cpus), c.ways, c.line) for c in machine.caches)
    for (level, size, cpus, ways, line), number in groups.items():
        each = "all CPUs" if number == 1 and cpus > 1 else f"{_count(cpus, 'CPU')} each"
        yield level, f"{number} x {format_size(size)}, {each}, {ways} ways, lines of {line} B"
    if not machine.caches:
        yield "caches", "not stated; sizes are assumed, and marked so"
    elif not any(cache.level == "L3" for cache in machine.caches):
        yield "L3", "none stated"


def _nodes(machine: Machine) -> Iterator[tuple[str, str]]:
    if len(machine.nodes) < 2:
        yield "NUMA", "one node"
        return
    for node in machine.nodes:
        cpus = f"CPUs {format_cpus(node.cpus)}" if node.cpus else "memory only"
        distances = " ".join(map(str, node.distances))
        yield f"cpu:{node.id}", f"{cpus}, {format_size(node.memory_bytes)}, distances {distances or 'not stated'}"


def _memory(machine: Machine) -> str:
    if not machine.memory_bytes:
        return "not stated"
    limit = f", control group's limit {format_size(machine.memory_limit)}" if machine.memory_limit else ""
    return f"{format_size(machine.memory_bytes)}, {format_size(machine.memory_available)} available{limit}"


def _usable(machine: Machine) -> str:
    """CPUs that this process may use, and the quota on them."""
    quota = f"; control group's quota {machine.quota:g} cores" if machine.quota else "; no CPU quota"
    return f"{_count(len(machine.affinity), 'CPU')} ({format_cpus(machine.affinity)}){quota}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
