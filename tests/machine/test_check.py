"""What `pykernels check` finds on machines with one thing wrong, and on this one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from trees.generate import CPU, Files

from pykernels.machine.check import CHECKS, Look, clock, processes, run_checks, steal
from pykernels.machine.cpu import read_machine
from pykernels.machine.noise import Busy, Snapshot
from pykernels.machine.tree import Tree
from pykernels.model import Check
from pykernels.units import GIB

Changed = Callable[..., Path]


def findings(root: Path) -> dict[str, Check]:
    return {check.name: check for check in run_checks(read_machine(root), root)}


#: One thing wrong -> the check that warns, a word of its message, and a word of its mend.
FAULTS: dict[str, tuple[Files, str, str, str]] = {
    "governor": ({}, "governor", "powersave", "cpupower frequency-set -g performance"),
    "turbo, intel": ({f"{CPU}/intel_pstate/no_turbo": "1"}, "turbo", "off", "echo 0 | sudo tee"),
    "huge pages": (
        {"sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]"}, "huge pages", "4 KiB", "echo madvise",
    ),
    "split cores": ({"proc/self/status": "Cpus_allowed_list:\t0-7"}, "smt", "CPUs 32-39", "nomultithread"),
    "affinity": ({"proc/self/status": "Cpus_allowed_list:\t0-7"}, "affinity", "8 of 64 CPUs (0-7)", "taskset"),
    "quota": ({"sys/fs/cgroup/cpu.max": "250000 100000"}, "quota", "2.5 of 32 cores", "--cpus 32"),
    "memory": ({"sys/fs/cgroup/memory.max": str(GIB // 4)}, "memory", "control group's limit", "ps --sort"),
    "swap": (
        {"proc/meminfo": "MemTotal: 201326592 kB\nSwapTotal: 4194304 kB\nSwapFree: 2097152 kB"},
        "swap", "2 GiB of swap", "swapoff",
    ),
    "numa balancing": ({"proc/sys/kernel/numa_balancing": "1"}, "numa balancing", "moves pages", "numa_balancing=0"),
    "hypervisor": ({"sys/hypervisor/type": "xen"}, "hypervisor", "Xen", "bare metal"),
    "battery": (
        {"sys/class/power_supply/AC/type": "Mains", "sys/class/power_supply/AC/online": "0"},
        "power", "battery", "plug",
    ),
    "clocksource": (
        {
            "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet",
            "sys/devices/system/clocksource/clocksource0/available_clocksource": "hpet acpi_pm",
        },
        "clocksource", "hpet", "dmesg",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_with_its_mend(changed: Changed, fault: str) -> None:
    files, name, word, mend = FAULTS[fault]
    found = findings(changed("xeon_snc", files))[name]
    assert found.level == "warn"
    assert word in found.message
    assert mend in found.hint


def test_a_quiet_server_has_no_warning(changed: Changed) -> None:
    quiet = {f"{CPU}/cpu{n}/cpufreq/scaling_governor": "performance" for n in range(64)}
    found = findings(changed("xeon_snc", quiet))
    assert {check.level for check in found.values()} == {"ok", "skip"}
    assert found["governor"].level == found["turbo"].level == found["smt"].level == "ok"


def test_clock_sources_of_both_architectures(machines: dict[str, object], recorded: dict[str, Path]) -> None:
    assert findings(recorded["graviton2"])["clocksource"].level == "ok"
    assert findings(recorded["laptop"])["clocksource"].level == "ok"


def look(**changes: object) -> Look:
    quiet = Look(read_machine(), Tree(), Snapshot(at=0.0), Snapshot(at=2.0))
    return msgspec.structs.replace(quiet, **changes)


def test_a_clock_that_moves_is_a_warning() -> None:
    assert clock(look(clocks_ghz=(3.41, 3.40, 3.41))).message == "clock 3.41 GHz measured, steady to 0.1% over 2 s"
    moving = clock(look(clocks_ghz=(3.4, 2.6, 3.4)))
    assert moving.level == "warn"
    assert "moved by +- 11.8%" in moving.message
    assert clock(look()).level == "skip"


def test_steal_and_neighbours() -> None:
    assert steal(look(after=Snapshot(at=2.0, steal_ticks=5))).message.startswith("the host took 50 ms")
    busy = tuple(Busy(pid, f"job{pid}", 0.5) for pid in range(6))
    found = processes(look(busy=busy))
    assert found.level == "warn"
    assert "3.00 cores: job0 (0.50)" in found.message
    assert "and 2 more" in found.message
    assert found.hint.endswith("kill -STOP 0 1 2 3")


def test_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs here, changes nothing, and every warning says what to do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    found = {check.name: check for check in run_checks(read_machine(), seconds=0.1)}
    assert len(found) > len(CHECKS)  # and the GPU's
    assert all(check.message for check in found.values())
    assert all(check.hint for check in found.values() if check.level in ("warn", "fail"))
    assert found["environment"].level == "warn"
    assert found["environment"].hint.startswith("unset ")
    assert "OPENBLAS_CORETYPE=Haswell" in found["environment"].message
    assert found["directory"].level == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_working_directory_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc")
    found = next(check for check in run_checks(read_machine(), seconds=0.0) if check.name == "directory")
    assert found.level == "fail"
    assert "-o" in found.hint
    assert os.getcwd() == "/proc"  # noqa: PTH109 - what the kernel says
