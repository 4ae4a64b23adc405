"""What is read of recorded machines, and of this one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees.generate import CPU

from pykernels.machine import cpu, microarchitectures
from pykernels.machine.cpu import fingerprint, read_machine
from pykernels.machine.tree import Tree, cpu_list, format_cpus
from pykernels.model import Machine
from pykernels.units import GIB, KIB, MIB

Changed = Callable[..., Path]


def caches(machine: Machine, level: str) -> list[tuple[int, int]]:
    return [(cache.bytes, len(cache.cpus)) for cache in machine.caches if cache.level == level]


def test_xeon_with_sub_numa_clusters(machines: dict[str, Machine]) -> None:
    xeon = machines["xeon_snc"]
    assert (len(xeon.cores), len(xeon.affinity), xeon.smt) == (32, 64, True)
    assert xeon.cores[0].cpus == (0, 32)
    assert {core.socket for core in xeon.cores} == {0, 1}
    assert [core.id for core in xeon.cores] == list(range(32))
    assert [len(node.cpus) for node in xeon.nodes] == [16] * 4
    assert xeon.nodes[1].cpus[:4] == (4, 5, 6, 7)
    assert xeon.nodes[2].distances == (21, 21, 10, 11)
    assert xeon.nodes[0].memory_bytes == 48 * GIB
    # The L3 belongs to the socket: two NUMA nodes lie under each of the two.
    assert caches(xeon, "L3") == [(22 * MIB, 32)] * 2
    assert {(core.node, core.l3) for core in xeon.cores} == {(0, 0), (1, 0), (2, 1), (3, 1)}
    assert caches(xeon, "L1") == [(32 * KIB, 2)] * 32
    assert (xeon.microarchitecture, xeon.isa[-1]) == ("Skylake-SP", "x86_64_v4_vnni")
    assert (xeon.governor, xeon.turbo, xeon.hypervisor) == ("powersave", "on", "")
    assert xeon.cores[0].max_mhz == 3900


def test_epyc_with_four_nodes_a_socket(machines: dict[str, Machine]) -> None:
    epyc = machines["epyc_nps4"]
    assert (len(epyc.cores), len(epyc.nodes)) == (128, 8)
    assert caches(epyc, "L3") == [(32 * MIB, 16)] * 16
    assert [epyc.cores[i].l3 for i in (0, 7, 8, 127)] == [0, 0, 1, 15]
    assert epyc.cores[127].node == 7
    assert epyc.nodes[0].distances == (10, 12, 12, 12, 32, 32, 32, 32)
    assert (epyc.microarchitecture, epyc.isa) == ("Zen 3", ("x86_64_v2", "x86_64_v3"))
    assert epyc.cpu_model == "AMD EPYC 7763 64-Core Processor"


def test_arm_servers(machines: dict[str, Machine]) -> None:
    graviton2, graviton3, altra = machines["graviton2"], machines["graviton3"], machines["altra"]
    assert (graviton2.arch, graviton2.vendor, graviton2.cpu_model) == ("aarch64", "ARM", "Neoverse N1")
    assert (graviton2.smt, len(graviton2.cores), graviton2.isa) == (False, 64, ("neon",))
    assert graviton2.hypervisor == "Amazon EC2"
    assert caches(graviton2, "L3") == [(32 * MIB, 64)]
    assert (graviton3.microarchitecture, graviton3.isa) == ("Neoverse V1", ("neon", "neon_dot", "sve256"))
    assert {core.l3 for core in altra.cores} == {-1}
    assert caches(altra, "L3") == []


def test_hybrid_laptop(machines: dict[str, Machine]) -> None:
    laptop = machines["laptop"]
    kinds = [core.kind for core in laptop.cores]
    assert kinds == ["performance"] * 6 + ["efficiency"] * 8
    assert [len(core.cpus) for core in laptop.cores] == [2] * 6 + [1] * 8
    assert caches(laptop, "L2") == [(1280 * KIB, 2)] * 6 + [(2 * MIB, 4)] * 2
    assert {core.max_mhz for core in laptop.cores} == {4700, 3500}


def test_arm_kernels_state_kinds_by_capacity(changed: Changed) -> None:
    capacities = {f"{CPU}/cpu{n}/cpu_capacity": "446" if n < 4 else "1024" for n in range(64)}
    kinds = [core.kind for core in read_machine(changed("graviton2", capacities)).cores]
    assert kinds == ["efficiency"] * 4 + ["performance"] * 60


def test_favoured_cores_are_no_kind_of_their_own(changed: Changed) -> None:
    capacities = {f"{CPU}/cpu{n}/cpu_capacity": "1024" if n % 2 else "990" for n in range(64)}
    assert {core.kind for core in read_machine(changed("graviton2", capacities)).cores} == {""}


def test_container_with_a_fractional_quota(changed: Changed) -> None:
    """The group in force is an ancestor: 2.5 CPUs of 64 although the innermost group states none."""
    pod = "sys/fs/cgroup/kubepods/pod1"
    root = changed(
        "xeon_snc",
        {
            "proc/self/cgroup": "0::/kubepods/pod1/main",
            "proc/self/mountinfo": "29 22 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate",
            f"{pod}/cpu.max": "250000 100000",
            f"{pod}/memory.max": str(8 * GIB),
            f"{pod}/memory.current": str(3 * GIB),
            f"{pod}/memory.stat": f"anon 1\ninactive_file {2 * GIB}",
            f"{pod}/main/cpu.max": "max 100000",
            f"{pod}/main/memory.max": "max",
        },
    )
    machine = read_machine(root)
    assert (machine.quota, machine.memory_limit) == (2.5, 8 * GIB)
    assert machine.memory_available == 7 * GIB  # the file cache in use is given back first
    assert machine.memory_bytes == 192 * GIB


def test_container_whose_group_is_named_from_the_host(changed: Changed) -> None:
    """Without a cgroup namespace the path is the host's, and the mount holds only the container's part of it."""
    root = changed(
        "xeon_snc",
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc",
            "proc/self/mountinfo": "40 30 0:31 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup cpu,cpuacct\n"
            "41 30 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup memory",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(4 * GIB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0",
        },
    )
    machine = read_machine(root)
    assert (machine.quota, machine.memory_limit, machine.memory_available) == (4.0, 4 * GIB, 3 * GIB)


def test_version_1_without_limits(changed: Changed) -> None:
    root = changed(
        "xeon_snc",
        {
            "proc/self/cgroup": "4:memory:/\n2:cpu:/user",
            "sys/fs/cgroup/cpu/user/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/user/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    machine = read_machine(root)
    assert (machine.quota, machine.memory_limit) == (0.0, 0)
    assert machine.memory_available == 192 * GIB * 9 // 10 // KIB * KIB


def test_offline_cpus_and_a_narrow_affinity_mask(changed: Changed) -> None:
    root = changed(
        "xeon_snc",
        {f"{CPU}/online": "0-7,32-35", "proc/self/status": "Cpus_allowed_list:\t2-5,40"},
        without=(f"{CPU}/cpu9/",),
    )
    machine = read_machine(root)
    assert [core.cpus for core in machine.cores] == [(0, 32), (1, 33), (2, 34), (3, 35), (4,), (5,), (6,), (7,)]
    assert machine.affinity == (2, 3, 4, 5)
    assert [len(node.cpus) for node in machine.nodes] == [8, 4, 0, 0]
    assert caches(machine, "L3") == [(22 * MIB, 12)]


def test_nothing_known(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (len(machine.cores), machine.caches, machine.memory_bytes) == (1, (), 0)
    assert machine.nodes[0].cpus == machine.affinity == (0,)


def test_a_tree_of_nonsense_never_raises(changed: Changed) -> None:
    nonsense = dict.fromkeys((f"{CPU}/online", "proc/cpuinfo", "proc/meminfo"), "\x00garbage ,-7 [")
    nonsense |= {f"{CPU}/cpu0/cache/index0/size": "K", f"{CPU}/cpu0/topology/thread_siblings_list": "a-b,,3-"}
    nonsense |= {"proc/self/cgroup": "::\n0::\nx", "proc/self/mountinfo": "- -\n1 2 3 4 5 - cgroup2"}
    read_machine(changed("xeon_snc", nonsense))


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"sys/class/dmi/id/sys_vendor": "QEMU"}, "KVM"),
        ({"sys/hypervisor/type": "xen"}, "Xen"),
        ({"sys/class/dmi/id/sys_vendor": "VMware, Inc."}, "VMware"),
        (
            {
                "sys/class/dmi/id/sys_vendor": "Microsoft Corporation",
                "sys/class/dmi/id/product_name": "Virtual Machine",
            },
            "Hyper-V",
        ),
        ({"sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc kvm-clock"}, "KVM"),
        ({}, "unnamed"),
    ],
)
def test_hypervisors(changed: Changed, files: dict[str, str], name: str) -> None:
    guest = {"proc/cpuinfo": "vendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor"}
    assert read_machine(changed("laptop", guest | files)).hypervisor == name


def test_bare_metal_in_a_cloud_is_no_guest(changed: Changed) -> None:
    metal = {"sys/class/dmi/id/sys_vendor": "Amazon EC2", "sys/class/dmi/id/product_name": "m6g.metal"}
    assert read_machine(changed("graviton2", metal)).hypervisor == ""
    assert read_machine(changed("xeon_snc", metal)).hypervisor == ""


def test_fingerprint_is_of_what_stays(machines: dict[str, Machine], changed: Changed) -> None:
    xeon = machines["xeon_snc"]
    assert len({machine.id for machine in machines.values()}) == len(machines)
    later = {
        "proc/sys/kernel/osrelease": "6.9.1",
        "proc/self/status": "Cpus_allowed_list:\t0-3",
        "proc/meminfo": f"MemTotal:  {(192 << 20) - 4096} kB\nMemAvailable:  {1 << 20} kB",
    }
    assert read_machine(changed("xeon_snc", later)).id == xeon.id
    assert fingerprint(msgspec.structs.replace(xeon, stepping=6)) != xeon.id


def test_this_machine() -> None:
    machine = read_machine()
    assert machine.id == read_machine().id
    assert set(machine.affinity) == os.sched_getaffinity(0)
    assert machine.memory_bytes == psutil.virtual_memory().total
    assert sorted(cpu for core in machine.cores for cpu in core.cpus) == sorted(
        {c for n in machine.nodes for c in n.cpus}
    )
    assert machine.kernel == os.uname().release
    assert msgspec.json.decode(msgspec.json.encode(machine), type=Machine) == machine
    host = os.uname().nodename
    assert len(host) < 4 or host not in msgspec.json.encode(machine).decode()


def test_this_machines_levels_agree_with_cpuinfo() -> None:
    """The native module and the kernel's flags are two witnesses (of AMX the module may withhold what the OS does)."""
    tree = Tree()
    tree.live = False
    by_flags = cpu._isa(tree, os.uname().machine, cpu._cpuinfo(tree))
    native = cpu._native_levels()
    if native is None:
        pytest.skip("the native module is not built")
    assert set(native) - {"baseline", "amx"} == set(by_flags) - {"baseline", "amx"}


@given(st.sets(st.integers(0, 400)))
def test_cpu_lists_round_trip(cpus: set[int]) -> None:
    assert set(cpu_list(format_cpus(tuple(cpus)))) == cpus


def test_a_cpu_of_no_known_design_gets_a_label_only_where_it_runs(changed: Changed) -> None:
    strange = {"proc/cpuinfo": "vendor_id\t: Strange\ncpu family\t: 99\nmodel\t: 1\nflags\t: fpu"}
    machine = read_machine(changed("laptop", strange))
    assert (machine.microarchitecture, machine.isa) == ("", ())
    assert microarchitectures.archspec_label(True) != ""
