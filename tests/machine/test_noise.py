"""Snapshots of what goes on beside a measurement."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from trees.generate import CPU, write

from pykernels.machine import noise


def test_a_snapshot_of_a_tree(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/stat": "cpu  100 5 20 9000 30 1 2 77 0 0\ncpu0 100 5 20 9000 30 1 2 77 0 0",
            "proc/loadavg": "1.25 0.90 0.40 2/300 4242",
            "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 total=12",
            "sys/class/hwmon/hwmon0/name": "nvme",
            "sys/class/hwmon/hwmon0/temp1_input": "99000",
            "sys/class/hwmon/hwmon1/name": "k10temp",
            "sys/class/hwmon/hwmon1/temp1_input": "61500",
            f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "7",
            f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3",
            f"{CPU}/cpu0/topology/physical_package_id": "0",
            f"{CPU}/cpu1/thermal_throttle/package_throttle_count": "7",
            f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "1",
            f"{CPU}/cpu1/topology/physical_package_id": "0",
        },
    )
    before = noise.snapshot(root)
    assert (before.steal_ticks, before.busy_ticks, before.load_1min) == (77, 128, 1.25)
    assert (before.temperature_c, before.throttle_count, before.memory_stall_us) == (61.5, 11, 1234)
    write(
        tmp_path,
        {"proc/stat": "cpu  100 5 20 9000 30 1 2 80 0 0", f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "3"},
    )
    found = noise.conditions(before, noise.snapshot(root))
    assert (found.steal_ticks, found.throttle_count, found.temperature_c) == (3, 2, 61.5)


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    before = noise.snapshot(tmp_path)
    found = noise.conditions(before, noise.snapshot(tmp_path))
    assert (found.steal_ticks, found.load_1min, found.temperature_c, found.throttle_count) == (0, 0.0, None, None)


def test_counts_on_this_machine_only_rise() -> None:
    before = noise.snapshot()
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        pass
    after = noise.snapshot()
    assert after.at > before.at
    assert after.steal_ticks >= before.steal_ticks
    assert after.busy_ticks > before.busy_ticks
    assert after.load_1min >= 0


#: Spins, but never for long: a test that is killed must not leave a busy core behind.
SPIN = "import time; end = time.monotonic() + 10\nwhile time.monotonic() < end: pass"


def test_busy_processes_leave_out_our_own() -> None:
    with subprocess.Popen([sys.executable, "-c", SPIN]) as spinner:
        try:
            assert spinner.pid not in {busy.pid for busy in noise.busy_processes(0.2)}
        finally:
            spinner.kill()


def test_a_busy_stranger_is_named() -> None:
    """A process that is not our child any more, because the one that started it has ended."""
    start = (
        f"import subprocess as s, sys; print(s.Popen([sys.executable, '-c', {SPIN!r}], stdout=s.DEVNULL, "
        "stderr=s.DEVNULL).pid, flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True, timeout=20)
    pid = int(done.stdout)
    try:
        found = {busy.pid: busy for busy in noise.busy_processes(0.5, least=0.01)}
        assert pid in found
        assert found[pid].name.startswith("python")
        assert found[pid].cores <= 1.5
    finally:
        os.kill(pid, signal.SIGKILL)
