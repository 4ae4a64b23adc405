"""RAPL counters of a made-up machine: several packages, wrapping counters, counters that only root may read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pykernels.machine.energy import FOLDER, Energy, Rapl
from pykernels.machine.tree import Tree


def machine(root: Path, *microjoules: int, span: int = 10**6) -> Rapl:
    for n, value in enumerate(microjoules):
        for zone, name in ((f"intel-rapl:{n}", f"package-{n}"), (f"intel-rapl:{n}:0", "core")):
            folder = root / FOLDER / zone
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "name").write_text(f"{name}\n")
            (folder / "energy_uj").write_text(f"{value}\n")
            (folder / "max_energy_range_uj").write_text(f"{span}\n")
    return Rapl(Tree(root))


def test_packages_add_up_and_their_cores_are_not_counted_twice(tmp_path: Path) -> None:
    counters = machine(tmp_path, 100_000, 500_000)
    energy = Energy(counters)
    with energy.over(10):
        machine(tmp_path, 300_000, 600_000)
    assert energy.facts() == {"joules_per_call": pytest.approx(0.03)}


def test_a_counter_may_wrap(tmp_path: Path) -> None:
    energy = Energy(machine(tmp_path, 900_000))
    with energy.over(2):
        machine(tmp_path, 100_000)
    assert energy.facts() == {"joules_per_call": pytest.approx(0.1)}


def test_a_guest_has_no_counter_and_says_so(tmp_path: Path) -> None:
    energy = Energy(Rapl(Tree(tmp_path)))
    with energy.over(1):
        pass
    assert energy.facts() == {"no_energy": "no RAPL package counter under /sys/class/powercap (a guest has none)"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_counter_for_root_only(tmp_path: Path) -> None:
    counters = machine(tmp_path, 5)
    (tmp_path / FOLDER / "intel-rapl:0" / "energy_uj").chmod(0)
    assert "cannot be read by this user" in counters.why_not()


def test_an_unreadable_counter(tmp_path: Path) -> None:
    counters = machine(tmp_path, 5)
    (tmp_path / FOLDER / "intel-rapl:0" / "energy_uj").unlink()
    assert counters.read() is None
    assert "cannot be read" in counters.why_not()


def test_counters_that_stand_still_are_no_reading(tmp_path: Path) -> None:
    energy = Energy(machine(tmp_path, 5))
    with energy.over(3):
        pass
    assert energy.facts() == {"no_energy": "the counters did not move"}
