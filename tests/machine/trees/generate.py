"""Writes sysfs and procfs trees of machines that are not at hand, from what is publicly known of them.

A tree is a dict of path -> text, so a test can change one file of a machine before it is written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

Files = dict[str, str]
CPU = "sys/devices/system/cpu"

_V4 = (
    "fpu cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave "
    "avx512f avx512bw avx512cd avx512dq avx512vl"
)
_V3 = _V4.partition(" avx512f")[0]


def write(root: Path, files: Files) -> Path:
    """Write the tree below `root` and return it."""
    made: set[str] = set()
    for path, text in files.items():
        folder = path.rpartition("/")[0]
        if folder not in made:
            (root / folder).mkdir(parents=True, exist_ok=True)
            made.add(folder)
        with open(f"{root}/{path}", "w") as file:  # noqa: PTH123 - thousands of files
            file.write(text + "\n")
    return root


def overlay(base: Path, root: Path, files: Files) -> Path:
    """The tree of `base` with some files replaced or added: folders without a change are links to those of `base`."""
    root.mkdir()
    inside: dict[str, Files] = {}
    for path, text in files.items():
        name, _, rest = path.partition("/")
        inside.setdefault(name, {})[rest] = text
    for name in {entry.name for entry in base.iterdir()} if base.is_dir() else ():
        if name not in inside:
            (root / name).symlink_to(base / name)
    for name, changes in inside.items():
        if "" in changes:
            (root / name).write_text(changes[""] + "\n")
        else:
            overlay(base / name, root / name, changes)
    return root


def compact(cpus: Iterable[int]) -> str:
    """A kernel CPU list, one number at a time (which the kernel also accepts)."""
    return ",".join(map(str, sorted(cpus)))


def add_cpu(
    files: Files,
    cpu: int,
    siblings: Iterable[int],
    *,
    core: int = 0,
    socket: int = 0,
    caches: Iterable[tuple[int, str, int, int, Iterable[int]]],
) -> None:
    """One CPU; `caches` are (level, type, KiB, ways, CPUs that share it)."""
    base = f"{CPU}/cpu{cpu}"
    files[f"{base}/topology/thread_siblings_list"] = compact(siblings)
    files[f"{base}/topology/core_id"] = str(core)
    files[f"{base}/topology/physical_package_id"] = str(socket)
    for index, (level, kind, kib, ways, shared) in enumerate(caches):
        where = f"{base}/cache/index{index}"
        files |= {f"{where}/level": str(level), f"{where}/type": kind}
        if kind == "Instruction":
            continue
        files |= {
            f"{where}/size": f"{kib}K",
            f"{where}/ways_of_associativity": str(ways),
            f"{where}/coherency_line_size": "64",
            f"{where}/shared_cpu_list": compact(shared),
        }


def add_nodes(files: Files, nodes: list[list[int]], gib: int, distance: Callable[[int, int], int]) -> None:
    """NUMA nodes of `gib` GiB each."""
    for node, cpus in enumerate(nodes):
        base = f"sys/devices/system/node/node{node}"
        files[f"{base}/cpulist"] = compact(cpus)
        files[f"{base}/distance"] = " ".join(str(distance(node, other)) for other in range(len(nodes)))
        files[f"{base}/meminfo"] = f"Node {node} MemTotal:       {gib << 20} kB\nNode {node} MemFree:  {gib << 19} kB"


def add_system(files: Files, *, cpus: int, gib: int, cpuinfo: dict[str, str], arch: str = "x86_64") -> None:
    """What every machine has."""
    block = "\n".join(f"{key}\t: {value}" for key, value in cpuinfo.items())
    files |= {
        f"{CPU}/online": f"0-{cpus - 1}",
        "proc/cpuinfo": "\n\n".join(f"processor\t: {cpu}\n{block}" for cpu in range(cpus)),
        "proc/meminfo": f"MemTotal:  {gib << 20} kB\nMemFree:  1024 kB\nMemAvailable:  {(gib << 20) * 9 // 10} kB",
        "proc/self/status": f"Name:\tpython\nCpus_allowed_list:\t0-{cpus - 1}",
        "proc/self/cgroup": "0::/",
        "proc/sys/kernel/arch": arch,
        "proc/sys/kernel/osrelease": "6.1.0-18-generic",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc"
        if arch == "x86_64"
        else "arch_sys_counter",
        "etc/os-release": 'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"',
    }


def _x86(vendor: str, name: str, family: int, model: int, stepping: int, flags: str) -> dict[str, str]:
    return {
        "vendor_id": vendor,
        "cpu family": str(family),
        "model": str(model),
        "model name": name,
        "stepping": str(stepping),
        "flags": flags,
    }


@cache
def _xeon_snc() -> Files:
    files: Files = {}
    halves = [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]
    nodes = [[16 * s + c + t for c in half for t in (0, 32)] for s in (0, 1) for half in halves]
    for cpu in range(64):
        socket, core = cpu % 32 // 16, cpu % 16
        pair = (cpu % 32, cpu % 32 + 32)
        package = [c for c in range(64) if c % 32 // 16 == socket]
        caches = [(1, "Data", 32, 8, pair), (1, "Instruction", 32, 8, pair), (2, "Unified", 1024, 16, pair)]
        add_cpu(files, cpu, pair, core=core * 2, socket=socket, caches=[*caches, (3, "Unified", 22528, 11, package)])
        files[f"{CPU}/cpu{cpu}/cpufreq/scaling_governor"] = "powersave"
        files[f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq"] = "3900000"
    add_nodes(files, nodes, 48, lambda a, b: 10 if a == b else 11 if a // 2 == b // 2 else 21)
    name = "Intel(R) Xeon(R) Gold 6242 CPU @ 2.80GHz"
    add_system(files, cpus=64, gib=192, cpuinfo=_x86("GenuineIntel", name, 6, 0x55, 7, _V4 + " avx512_vnni"))
    files[f"{CPU}/intel_pstate/no_turbo"] = "0"
    return files


@cache
def _epyc_nps4() -> Files:
    files: Files = {}
    for cpu in range(256):
        core = cpu % 128
        pair = (core, core + 128)
        chiplet = [c + t for c in range(core // 8 * 8, core // 8 * 8 + 8) for t in (0, 128)]
        caches = [(1, "Data", 32, 8, pair), (1, "Instruction", 32, 8, pair), (2, "Unified", 512, 8, pair)]
        add_cpu(
            files, cpu, pair, core=core % 64, socket=core // 64, caches=[*caches, (3, "Unified", 32768, 16, chiplet)]
        )
    nodes = [[c + t for c in range(16 * n, 16 * n + 16) for t in (0, 128)] for n in range(8)]
    add_nodes(files, nodes, 64, lambda a, b: 10 if a == b else 12 if a // 4 == b // 4 else 32)
    name = "AMD EPYC 7763 64-Core Processor"
    add_system(files, cpus=256, gib=512, cpuinfo=_x86("AuthenticAMD", name, 25, 1, 1, _V3))
    files[f"{CPU}/cpufreq/boost"] = "1"
    return files


_ARM_FLAGS = "fp asimd evtstrm aes atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


def _arm(implementer: int, part: int, flags: str) -> dict[str, str]:
    return {
        "BogoMIPS": "243.75",
        "Features": flags,
        "CPU implementer": f"0x{implementer:02x}",
        "CPU architecture": "8",
        "CPU variant": "0x3",
        "CPU part": f"0x{part:03x}",
        "CPU revision": "1",
    }


def _arm_server(cores: int, l3_kib: int, cpuinfo: dict[str, str]) -> Files:
    files: Files = {}
    for cpu in range(cores):
        own = (cpu,)
        caches = [(1, "Data", 64, 4, own), (1, "Instruction", 64, 4, own), (2, "Unified", 1024, 8, own)]
        caches += [(3, "Unified", l3_kib, 16, range(cores))] if l3_kib else []
        add_cpu(files, cpu, own, core=cpu, caches=caches)
    add_nodes(files, [list(range(cores))], 2 * cores, lambda _a, _b: 10)
    add_system(files, cpus=cores, gib=2 * cores, cpuinfo=cpuinfo, arch="aarch64")
    return files


@cache
def _graviton2() -> Files:
    files = _arm_server(64, 32768, _arm(0x41, 0xD0C, _ARM_FLAGS))
    return files | {"sys/class/dmi/id/sys_vendor": "Amazon EC2", "sys/class/dmi/id/product_name": "m6g.16xlarge"}


@cache
def _graviton3() -> Files:
    files = _arm_server(16, 32768, _arm(0x41, 0xD40, _ARM_FLAGS + " sve i8mm bf16"))
    return files | {"proc/sys/abi/sve_default_vector_length": "32"}


@cache
def _altra() -> Files:
    """32 Neoverse N1 whose system-level cache the kernel does not list."""
    return _arm_server(32, 0, _arm(0x41, 0xD0C, _ARM_FLAGS))


@cache
def _laptop() -> Files:
    """Core i7-12700H: 6 performance cores with two threads, 8 efficiency cores in clusters of 4 that share an L2."""
    files: Files = {}
    everyone = range(20)
    for cpu in everyone:
        if cpu < 12:
            pair = (cpu // 2 * 2, cpu // 2 * 2 + 1)
            caches = [(1, "Data", 48, 12, pair), (1, "Instruction", 32, 8, pair), (2, "Unified", 1280, 10, pair)]
        else:
            pair, start = (cpu,), cpu // 4 * 4
            cluster = range(start, start + 4)
            caches = [(1, "Data", 32, 8, pair), (1, "Instruction", 64, 8, pair), (2, "Unified", 2048, 16, cluster)]
        add_cpu(files, cpu, pair, core=cpu, caches=[*caches, (3, "Unified", 24576, 12, everyone)])
        files[f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq"] = "4700000" if cpu < 12 else "3500000"
    files |= {"sys/devices/cpu_core/cpus": "0-11", "sys/devices/cpu_atom/cpus": "12-19"}
    files |= {"sys/class/power_supply/AC/type": "Mains", "sys/class/power_supply/AC/online": "0"}
    add_nodes(files, [list(everyone)], 16, lambda _a, _b: 10)
    name = "12th Gen Intel(R) Core(TM) i7-12700H"
    add_system(files, cpus=20, gib=16, cpuinfo=_x86("GenuineIntel", name, 6, 0x9A, 3, _V3))
    return files


MACHINES: dict[str, Callable[[], Files]] = {
    "xeon_snc": _xeon_snc,
    "epyc_nps4": _epyc_nps4,
    "graviton2": _graviton2,
    "graviton3": _graviton3,
    "altra": _altra,
    "laptop": _laptop,
}


def machine(name: str) -> Files:
    """A fresh copy of a machine's files, to change and to write."""
    return copy.copy(MACHINES[name]())
