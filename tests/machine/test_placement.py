"""Devices, teams and sizes on recorded machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees.generate import CPU

from pykernels.errors import UsageError
from pykernels.machine.cpu import read_machine
from pykernels.machine.placement import (
    GpuSpace,
    MachineSpace,
    NoSuchLevel,
    cpus_for,
    devices,
    space_for,
    threads_default,
)
from pykernels.model import Gpu, Machine
from pykernels.units import GIB, KIB, MIB

Changed = Callable[..., Path]
replace = msgspec.structs.replace


def test_devices(machines: dict[str, Machine]) -> None:
    xeon = devices(machines["xeon_snc"])
    assert xeon[0] == "cpu"
    assert {"cpu:3", "cpu:socket.1", "cpu:l3.1", "cpu:core.31"} <= set(xeon)
    assert not {"cpu:4", "cpu:l3.2", "cpu:core.32", "gpu:0"} & set(xeon)
    assert not any("l3" in name for name in devices(machines["altra"]))
    assert devices(replace(machines["altra"], gpus=(Gpu(index=0, name="H100"),)))[-1] == "gpu:0"


def test_all_means_one_thread_per_physical_core(machines: dict[str, Machine]) -> None:
    xeon = machines["xeon_snc"]
    assert threads_default(xeon) == 32
    assert [threads_default(xeon, name) for name in ("cpu:0", "cpu:socket.1", "cpu:l3.0", "cpu:core.5")] == [
        8,
        16,
        16,
        1,
    ]
    assert threads_default(machines["epyc_nps4"], "cpu:l3.3") == 8
    assert threads_default(machines["laptop"]) == 14
    # Both threads of core 2 and one of core 3: two cores.
    assert threads_default(replace(xeon, affinity=(2, 34, 3))) == 2


@pytest.mark.parametrize(("quota", "threads"), [(2.5, 2), (0.5, 1), (100.0, 32), (0.0, 32)])
def test_quota_bounds_the_threads(machines: dict[str, Machine], quota: float, threads: int) -> None:
    assert threads_default(replace(machines["xeon_snc"], quota=quota)) == threads


def test_teams_take_every_core_before_a_second_hardware_thread(machines: dict[str, Machine]) -> None:
    xeon, laptop = machines["xeon_snc"], machines["laptop"]
    assert cpus_for(xeon, "cpu", 32) == tuple(range(32))
    assert cpus_for(xeon, "cpu", 34)[-2:] == (32, 33)
    assert cpus_for(xeon, "cpu:1", 8) == (4, 5, 6, 7, 12, 13, 14, 15)
    assert cpus_for(xeon, "cpu:core.3", 2) == (3, 35)
    assert cpus_for(laptop, "cpu", 15) == (0, 2, 4, 6, 8, 10, *range(12, 20), 1)
    assert cpus_for(replace(xeon, affinity=(40, 9, 41)), "cpu", 3) == (40, 9, 41)


@given(st.integers(1, 20), st.sets(st.integers(0, 19), min_size=1))
def test_teams_lie_in_the_affinity_mask(machines: dict[str, Machine], threads: int, mask: set[int]) -> None:
    laptop = replace(machines["laptop"], affinity=tuple(sorted(mask)))
    if threads > len(mask):
        with pytest.raises(UsageError, match=f"threads = {threads}"):
            cpus_for(laptop, "cpu", threads)
        return
    team = cpus_for(laptop, "cpu", threads)
    assert len(set(team)) == threads
    assert set(team) <= mask


@pytest.mark.parametrize(
    ("device", "threads", "words"),
    [
        ("cpu", 65, r'threads = 65: device "cpu" has 64 hardware threads on 32 cores'),
        ("cpu:core.0", 3, r"2 hardware threads on 1 core that"),
        ("cpu", 0, r"threads = 0"),
        ("cpu:9", 1, r'unknown device "cpu:9" \(did you mean'),
        ("cpu:sockett.0", 1, r'did you mean "cpu:socket.0"'),
        ("cpu:", 1, r"unknown device"),
        ("gpu:0", 1, r"unknown device"),
    ],
)
def test_bad_placements(machines: dict[str, Machine], device: str, threads: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        cpus_for(machines["xeon_snc"], device, threads)


def test_a_device_outside_the_affinity_mask(machines: dict[str, Machine]) -> None:
    narrow = replace(machines["xeon_snc"], affinity=(0, 1))
    assert "cpu:socket.1" not in devices(narrow)
    with pytest.raises(UsageError, match=r'"cpu:socket.1": none of its CPUs'):
        cpus_for(narrow, "cpu:socket.1", 1)


def test_level_sizes_of_one_thread_and_of_all(machines: dict[str, Machine]) -> None:
    epyc = machines["epyc_nps4"]
    one, everyone = MachineSpace(epyc, "cpu", 1), MachineSpace(epyc, "cpu", 128)
    assert [one.level_bytes(level) for level in ("L1", "L2", "L3")] == [16 * KIB, 192 * KIB, 4 * MIB]
    assert one.level_bytes("DRAM") == 8 * 32 * MIB
    # 8 cores share an L3: half of a share is 2 MiB.
    assert everyone.level_bytes("L3") == 128 * 2 * MIB
    assert everyone.llc_bytes == 16 * 32 * MIB
    assert everyone.level_bytes("DRAM") == 8 * 16 * 32 * MIB
    assert MachineSpace(epyc, "cpu", 128, dram_factor=4).level_bytes("DRAM") == 4 * 16 * 32 * MIB


def test_an_l3_set_is_twice_the_l2_at_least(machines: dict[str, Machine]) -> None:
    """Xeon: 22 MiB over 16 threads leaves 0.7 MiB of half shares, less than the 1 MiB L2 beneath."""
    assert MachineSpace(machines["xeon_snc"], "cpu", 32).level_bytes("L3") == 32 * 2 * MIB


def test_threads_of_one_core_share_its_caches(machines: dict[str, Machine]) -> None:
    xeon = machines["xeon_snc"]
    assert MachineSpace(xeon, "cpu:core.0", 2).level_bytes("L1") == MachineSpace(xeon, "cpu:core.0", 1).level_bytes(
        "L1"
    )


def test_the_smallest_share_of_a_hybrid_team_counts(machines: dict[str, Machine]) -> None:
    laptop = machines["laptop"]
    assert MachineSpace(laptop, "cpu", 6).level_bytes("L1") == 6 * 24 * KIB
    assert MachineSpace(laptop, "cpu", 14).level_bytes("L1") == 14 * 16 * KIB
    # Four efficiency cores share 2 MiB: 512 KiB each, less than a performance core's 1280 KiB.
    assert MachineSpace(laptop, "cpu", 14).level_bytes("L2") == 14 * 192 * KIB


def test_sub_numa_node_lies_under_its_sockets_l3(machines: dict[str, Machine]) -> None:
    assert MachineSpace(machines["xeon_snc"], "cpu:0", 8).llc_bytes == 22 * MIB


def test_no_l3(machines: dict[str, Machine]) -> None:
    space = MachineSpace(machines["altra"], "cpu", 32)
    assert space.levels == ("L1", "L2", "DRAM")
    assert space.level_bytes("DRAM") == 8 * 32 * MIB
    for ask in (lambda: space.level_bytes("L3"), lambda: space.size("4 L3")):
        with pytest.raises(NoSuchLevel, match=r'level "L3": .* \(it has L1, L2\)'):
            ask()


def test_dram_is_at_most_a_quarter_of_the_memory(machines: dict[str, Machine]) -> None:
    laptop = machines["laptop"]
    limited = replace(laptop, memory_limit=512 * MIB, memory_available=512 * MIB)
    assert MachineSpace(limited, "cpu", 1).level_bytes("DRAM") == 128 * MIB
    used = replace(laptop, memory_available=256 * MIB)
    assert MachineSpace(used, "cpu", 4).level_bytes("DRAM") == 64 * MIB
    small_nodes = replace(
        machines["xeon_snc"], nodes=tuple(replace(n, memory_bytes=256 * MIB) for n in machines["xeon_snc"].nodes)
    )
    assert MachineSpace(small_nodes, "cpu:1", 1).level_bytes("DRAM") == 64 * MIB


def test_no_cache_information_at_all(changed: Changed) -> None:
    machine = read_machine(changed("xeon_snc", without=("/cache/",)))
    space = MachineSpace(machine, "cpu", 2)
    assert space.assumed
    assert space.levels == ("L1", "L2", "L3", "DRAM")
    sizes = [space.level_bytes(level) for level in space.levels]
    assert sizes == sorted(sizes)
    assert sizes[0] == 2 * 16 * KIB
    assert sizes[-1] == 512 * MIB
    assert not any(name.startswith("cpu:l3") for name in devices(machine))


@pytest.mark.parametrize("name", ["xeon_snc", "epyc_nps4", "graviton2", "altra", "laptop"])
def test_levels_rise_outwards(machines: dict[str, Machine], name: str) -> None:
    machine = machines[name]
    for threads in {1, 2, threads_default(machine), len(machine.affinity)}:
        space = MachineSpace(machine, "cpu", threads)
        sizes = [space.level_bytes(level) for level in space.levels]
        assert sizes == sorted(sizes)
        assert all(size % (threads * KIB) == 0 for size in sizes)


def test_sizes_in_words(machines: dict[str, Machine]) -> None:
    space = MachineSpace(machines["xeon_snc"], "cpu", 4)
    assert space.size("64 MiB") == 64 * MIB
    assert space.size("0.5 L2") == 512 * KIB
    assert space.size("4 L3") == 88 * MIB
    assert space.size("25% memory") == space.size("25 % memory") == 48 * GIB
    # The share is of what there is, so it is the same size tomorrow; only whether it fits is of today.
    busy = replace(machines["xeon_snc"], memory_available=100 * GIB)
    assert MachineSpace(busy, "cpu", 4).size("25% memory") == 48 * GIB


@pytest.mark.parametrize(
    "text", ["", "4", "L3", "-1 L2", "4 L5", "4 bananas", "memory", "25 memory", "3 DRAM", "1e3 MiB"]
)
def test_sizes_that_make_no_sense(machines: dict[str, Machine], text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        MachineSpace(machines["xeon_snc"], "cpu", 4).size(text)


def test_beyond_memory_says_how_much_there_is(machines: dict[str, Machine]) -> None:
    with pytest.raises(
        UsageError, match=r'size "2 TiB" is 2\d* GiB, beyond memory: "cpu" has 173 GiB available of 192 GiB'
    ):
        MachineSpace(machines["xeon_snc"], "cpu", 4).size("2 TiB")
    limited = replace(machines["xeon_snc"], memory_limit=4 * GIB)
    with pytest.raises(UsageError, match=r"4 GiB available of 4 GiB"):
        MachineSpace(limited, "cpu", 4).size("5 GiB")


def test_a_space_for_every_device(machines: dict[str, Machine]) -> None:
    xeon = machines["xeon_snc"]
    assert space_for(xeon, "cpu:1", 8).level_bytes("L1") == 8 * 16 * KIB
    gpu = Gpu(index=0, name="NVIDIA H100", memory_bytes=80 * GIB, sms=132, l2_bytes=50 * MIB, compute_capability="9.0")
    assert space_for(replace(xeon, gpus=(gpu,)), "gpu:0").level_bytes("DRAM") == 400 * MIB
    assert space_for(xeon, "gpu:0").size("64 MiB") == 64 * MIB


def test_sizes_on_a_gpu(machines: dict[str, Machine]) -> None:
    gpu = Gpu(index=1, name="NVIDIA H100", memory_bytes=80 * GIB, sms=132, l2_bytes=50 * MIB, compute_capability="9.0")
    machine = replace(machines["xeon_snc"], gpus=(gpu,))
    space = GpuSpace(machine, "gpu:1")
    assert (space.threads, space.assumed) == (132, False)
    assert space.level_bytes("L2") == 18.75 * MIB
    assert space.size("25% memory") == 20 * GIB
    assert space.size("0.5 L2") == 25 * MIB
    with pytest.raises(UsageError, match=r"beyond memory: \"gpu:1\" has 80 GiB"):
        space.size("100 GiB")
    assert space.level_bytes("L1") == 132 * 16 * 1024
    with pytest.raises(NoSuchLevel, match=r"only its L2 has a stated size"):
        space.size("0.4 L1")
    with pytest.raises(NoSuchLevel, match=r"has L1, L2, DRAM"):
        space.level_bytes("L3")
    assert GpuSpace(machine, "gpu:0").assumed
    with pytest.raises(UsageError, match='unknown device "gpux"'):
        space_for(machine, "gpux")


def test_this_machine() -> None:
    machine = read_machine()
    for device in devices(machine):
        if device.startswith("cpu"):
            threads = threads_default(machine, device)
            assert set(cpus_for(machine, device, threads)) <= set(machine.affinity)
            assert MachineSpace(machine, device, threads).level_bytes("DRAM") > 0


def test_offline_siblings_are_no_cpus_of_a_team(changed: Changed) -> None:
    machine = read_machine(changed("xeon_snc", {f"{CPU}/online": "0-31"}))
    assert not machine.smt
    with pytest.raises(UsageError, match="32 hardware threads on 32 cores"):
        cpus_for(machine, "cpu", 33)
