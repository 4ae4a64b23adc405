"""The machine and the findings as text: whole, narrow enough, and without colour."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from trees.generate import MACHINES

from pykernels.machine.check import run_checks
from pykernels.machine.cpu import read_machine
from pykernels.model import Check, Gpu, Machine
from pykernels.report.machine import checks_text, machine_text
from pykernels.units import GIB, MIB


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", MACHINES)
def test_text_fits_its_width_and_has_no_escapes(machines: dict[str, Machine], name: str, width: int) -> None:
    text = machine_text(machines[name], width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "\x1b" not in text
    assert machines[name].id in text


def test_what_is_said_of_a_xeon(machines: dict[str, Machine]) -> None:
    lines = machine_text(machines["xeon_snc"], 80).splitlines()
    assert "cores       32 cores of 2 hardware threads, 2 sockets, up to 3.90 GHz stated" in lines
    assert "L3          2 x 22 MiB, 32 CPUs each, 11 ways, lines of 64 B" in lines
    assert "cpu:1       CPUs 4-7,12-15,36-39,44-47, 48 GiB, distances 11 10 21 21" in lines
    assert "datasheet   memory 281.6 GB/s (2 sockets of Xeon Gold 6242, 140.8 GB/s each)" in lines


def test_what_is_not_known_is_said(machines: dict[str, Machine], tmp_path: Path) -> None:
    assert "L3          none stated" in machine_text(machines["altra"])
    nothing = machine_text(read_machine(tmp_path))
    assert "caches      not stated; sizes are assumed" in nothing
    assert "memory      not stated" in nothing
    assert "ISA levels  none known" in nothing


def test_limits_and_gpus(machines: dict[str, Machine]) -> None:
    gpu = Gpu(index=0, name="NVIDIA H100 80GB HBM3", memory_bytes=80 * GIB, sms=132, l2_bytes=50 * MIB, mig="1g.10gb")
    text = machine_text(msgspec.structs.replace(machines["laptop"], quota=2.5, memory_limit=GIB, gpus=(gpu,)), 120)
    assert "control group's quota 2.5 cores" in text
    assert "control group's limit 1 GiB" in text
    assert "gpu:0       NVIDIA H100 80GB HBM3, MIG slice 1g.10gb, 80 GiB, 132 SMs" in text


def test_findings_as_lines() -> None:
    checks = [
        Check("ok", "clock", "clock 3.41 GHz measured, steady to 0.3% over 2 s"),
        Check("warn", "governor", "governor is powersave", "sudo cpupower frequency-set -g performance"),
        Check("skip", "gpu", "CuPy is not installed", 'pip install "pykernels[cuda12]"'),
    ]
    assert (
        checks_text(checks)
        == """\
ok    clock 3.41 GHz measured, steady to 0.3% over 2 s
warn  governor is powersave
      hint: sudo cpupower frequency-set -g performance
skip  gpu: CuPy is not installed
      hint: pip install "pykernels[cuda12]"

1 ok, 1 warn, 1 skip"""
    )


def test_long_findings_wrap_and_hints_do_not(recorded: dict[str, Path]) -> None:
    root = recorded["xeon_snc"]
    for line in checks_text(run_checks(read_machine(root), root), 60).splitlines():
        assert len(line) <= 60 or line.startswith("      hint: ")
