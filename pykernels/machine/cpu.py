"""What this machine is, read from sysfs and procfs only (no commands, no privileges), so recorded trees read the same.

On Arm, whose CPUs have no CPUID, `vendor` and `family` hold MIDR's implementer, `model` its part number, `stepping` its
variant and revision.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict
from pathlib import Path

import msgspec

from pykernels.machine import cgroups, microarchitectures
from pykernels.machine.tree import CPUS, NODES, Tree, cpu_list, whole
from pykernels.model import ISA_LEVELS, Cache, Core, Gpu, Machine, Node
from pykernels.units import GIB, KIB, MIB

#: level -> what it asks for beyond the level before it, in /proc/cpuinfo's words.
_X86_LEVELS = {
    "x86_64_v2": ("cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"),
    "x86_64_v3": ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"),
    "x86_64_v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    "x86_64_v4_vnni": ("avx512_vnni",),
    "x86_64_v4_bf16": ("avx512_bf16",),
    "amx": ("amx_tile", "amx_bf16", "amx_int8"),
}
_ARM_LEVELS = {"neon": ("asimd",), "neon_dot": ("asimddp", "i8mm", "bf16"), "sve256": ("sve",)}


def read_machine(root: Path = Path("/")) -> Machine:
    """The machine whose sysfs and procfs lie below `root`; the running one by default. Missing files never raise:
    what is not known keeps its empty value. Takes well under 50 ms on two sockets."""
    tree = Tree(root)
    info = _cpuinfo(tree)
    arch = _arch(tree, info)
    vendor, family, model, stepping = _numbers(arch, info)
    design = microarchitectures.identify(arch, vendor, family, model)
    label = design.name if design else microarchitectures.archspec_label(tree.live)
    online = _online(tree)
    caches, nodes = _caches(tree, online), _nodes(tree, online)
    cores = _cores(tree, online, caches, nodes)
    memory, available = _memory(tree)
    limits = cgroups.read_limits(tree)
    if limits.memory_bytes:
        available = min(available or limits.memory_bytes, max(0, limits.memory_bytes - limits.memory_used))
    machine = Machine(
        id="",
        arch=arch,
        cpu_model=info.get("model name") or info.get("Model") or (label if design else ""),
        vendor=vendor,
        family=family,
        model=model,
        stepping=stepping,
        microarchitecture=label,
        isa=_isa(tree, arch, info),
        cores=cores,
        caches=caches,
        nodes=nodes,
        memory_bytes=memory,
        memory_available=available,
        memory_limit=limits.memory_bytes if limits.memory_bytes < (memory or math.inf) else 0,
        page_bytes=os.sysconf("SC_PAGE_SIZE") if tree.live else 4096,
        huge_pages=_chosen(tree.text("sys/kernel/mm/transparent_hugepage/enabled")),
        affinity=_affinity(tree, online),
        quota=limits.quota,
        hypervisor=_hypervisor(tree, info),
        governor=_governor(tree, online),
        turbo=_turbo(tree),
        kernel=tree.text("proc/sys/kernel/osrelease"),
        distribution=_os_release(tree),
        libc=_libc(tree),
        smt=any(len(core.cpus) > 1 for core in cores),
        gpus=_gpus(tree),
    )
    return msgspec.structs.replace(machine, id=fingerprint(machine))


def fingerprint(machine: Machine) -> str:
    """Eight hexadecimal digits over what stays the same from day to day: CPU, topology, caches, memory to 1/8."""
    memory = round(8 * math.log2(machine.memory_bytes / MIB)) if machine.memory_bytes >= MIB else 0
    stable = (
        machine.arch,
        machine.vendor,
        machine.family,
        machine.model,
        machine.stepping,
        machine.cpu_model,
        [(core.cpus, core.socket, core.node, core.l3, core.kind) for core in machine.cores],
        [(cache.level, cache.bytes, cache.cpus) for cache in machine.caches],
        [(node.id, node.cpus, node.distances) for node in machine.nodes],
        [(gpu.name, gpu.memory_bytes // GIB, gpu.mig) for gpu in machine.gpus],
        memory,
    )
    return hashlib.sha256(msgspec.json.encode(stable)).hexdigest()[:8]


# ----------------------------------------------------------------------------------------------------------- topology


def _online(tree: Tree) -> tuple[int, ...]:
    """CPUs that are switched on."""
    stated = cpu_list(tree.text(f"{CPUS}/online"))
    if stated:
        return stated
    listed = tuple(cpu for cpu in tree.numbered(CPUS, "cpu") if tree.text(f"{CPUS}/cpu{cpu}/online") != "0")
    if listed:
        return listed
    if tree.live:
        return tuple(sorted(os.sched_getaffinity(0)))
    count = tree.text("proc/cpuinfo", 1 << 24).count("processor\t:")
    return tuple(range(max(1, count)))


def _caches(tree: Tree, online: tuple[int, ...]) -> tuple[Cache, ...]:
    """Data and unified caches, each once, by level and first CPU. Empty where the machine states none."""
    found: dict[tuple[str, int], Cache] = {}
    covered: dict[str, set[int]] = defaultdict(set)
    on = set(online)
    for cpu in online:
        base = f"{CPUS}/cpu{cpu}/cache"
        for index in tree.numbered(base, "index"):
            where = f"{base}/index{index}"
            level = f"L{tree.text(f'{where}/level')}"
            # Each cache is read at the first of its CPUs only: a large machine would cost 10000 reads otherwise.
            if cpu in covered[level] or level == "L" or tree.text(f"{where}/type") == "Instruction":
                continue
            cpus = cpu_list(tree.text(f"{where}/shared_cpu_list")) or _mask(tree.text(f"{where}/shared_cpu_map"))
            cpus = tuple(sorted(({*cpus} & on) | {cpu}))
            size = _kernel_size(tree.text(f"{where}/size"))
            if size:
                line = tree.number(f"{where}/coherency_line_size") or 64
                found[level, cpu] = Cache(level, size, cpus, line, tree.number(f"{where}/ways_of_associativity"))
                covered[level].update(cpus)
    return tuple(found[key] for key in sorted(found))


def _nodes(tree: Tree, online: tuple[int, ...]) -> tuple[Node, ...]:
    """NUMA nodes, also those with memory only; one node of all CPUs where the kernel knows none."""
    nodes = []
    for number in tree.numbered(NODES, "node"):
        base = f"{NODES}/node{number}"
        cpus = tuple(cpu for cpu in cpu_list(tree.text(f"{base}/cpulist")) if cpu in online)
        memory = 0
        for line in tree.text(f"{base}/meminfo").splitlines():
            fields = line.split()
            if len(fields) > 3 and fields[2] == "MemTotal:":
                memory = whole(fields[3]) * KIB
        distances = tuple(whole(text) for text in tree.text(f"{base}/distance").split())
        nodes.append(Node(number, cpus, memory, distances))
    return tuple(nodes) or (Node(0, online, _memory(tree)[0], (10,)),)


def _cores(tree: Tree, online: tuple[int, ...], caches: tuple[Cache, ...], nodes: tuple[Node, ...]) -> tuple[Core, ...]:
    """Physical cores in the order of their first CPU, which is what numbers them."""
    l3 = {cpu: i for i, cache in enumerate(c for c in caches if c.level == "L3") for cpu in cache.cpus}
    node_of = {cpu: node.id for node in nodes for cpu in node.cpus}
    kinds, on = _kinds(tree, online), set(online)
    cores: list[Core] = []
    seen: set[int] = set()
    for cpu in online:
        if cpu in seen:
            continue
        topology = f"{CPUS}/cpu{cpu}/topology"
        siblings = cpu_list(tree.text(f"{topology}/thread_siblings_list"))
        cpus = (cpu, *(other for other in siblings if other > cpu and other in on))
        seen.update(cpus)
        cores.append(
            Core(
                id=len(cores),
                cpus=cpus,
                socket=max(0, tree.number(f"{topology}/physical_package_id")),
                node=node_of.get(cpu, 0),
                l3=l3.get(cpu, -1),
                kind=kinds.get(cpu, ""),
                max_mhz=tree.number(f"{CPUS}/cpu{cpu}/cpufreq/cpuinfo_max_freq") / 1000,
            )
        )
    return tuple(cores)


def _kinds(tree: Tree, online: tuple[int, ...]) -> dict[int, str]:
    """Kind of each CPU of a hybrid part, from Intel's two PMUs or from the capacity that Arm kernels state; else {}."""
    big, small = (cpu_list(tree.text(f"sys/devices/{name}/cpus")) for name in ("cpu_core", "cpu_atom"))
    if big and small:
        return dict.fromkeys(big, "performance") | dict.fromkeys(small, "efficiency")
    capacity = {cpu: tree.number(f"{CPUS}/cpu{cpu}/cpu_capacity") for cpu in online}
    largest = max(capacity.values(), default=0)
    # Favoured cores of one kind differ by a few percent; different designs by far more.
    if not largest or min(capacity.values()) >= 0.8 * largest:
        return {}
    return {cpu: "performance" if value >= 0.8 * largest else "efficiency" for cpu, value in capacity.items()}


def _mask(text: str) -> tuple[int, ...]:
    """CPUs of a hexadecimal kernel mask such as "00000000,000000ff"."""
    try:
        bits = int(text.replace(",", ""), 16)
    except ValueError:
        return ()
    return tuple(cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1)


def _kernel_size(text: str) -> int:
    """Bytes of sysfs's "32K" or "2M"."""
    return whole(text.rstrip("KMG")) * {"K": KIB, "M": MIB, "G": GIB}.get(text[-1:], 1)


# ------------------------------------------------------------------------------------------------------ CPU and levels


def _cpuinfo(tree: Tree) -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo (later blocks may be megabytes), and Arm's trailing lines."""
    info: dict[str, str] = {}
    for line in tree.text("proc/cpuinfo", 16384).splitlines():
        key, separator, value = line.partition(":")
        if separator:
            info.setdefault(key.strip(), value.strip())
    return info


def _arch(tree: Tree, info: dict[str, str]) -> str:
    if tree.live:
        return os.uname().machine
    return tree.text("proc/sys/kernel/arch") or ("aarch64" if "CPU implementer" in info else "x86_64")


def _numbers(arch: str, info: dict[str, str]) -> tuple[str, int, int, int]:
    """(vendor, family, model, stepping)."""
    if arch == "aarch64":
        implementer = whole(info.get("CPU implementer", ""))
        stepping = whole(info.get("CPU variant", "")) << 4 | whole(info.get("CPU revision", ""))
        vendor = microarchitectures.arm_vendor(implementer) if implementer else ""
        return vendor, implementer, whole(info.get("CPU part", "")), stepping
    family, model, stepping = (whole(info.get(key, "")) for key in ("cpu family", "model", "stepping"))
    return info.get("vendor_id", ""), family, model, stepping


def _isa(tree: Tree, arch: str, info: dict[str, str]) -> tuple[str, ...]:
    """ISA levels: the native module's word (cpuid, hwcap and what the OS enables) here, cpuinfo's flags elsewhere."""
    if tree.live and (native := _native_levels()) is not None:
        return native
    flags = set((info.get("flags") or info.get("Features") or "").split())
    levels: list[str] = []
    for level, needs in {"x86_64": _X86_LEVELS, "aarch64": _ARM_LEVELS}.get(arch, {}).items():
        fits = flags.issuperset(needs)
        if level == "sve256":
            fits = fits and tree.number("proc/sys/abi/sve_default_vector_length") == 32
        if not fits:
            break
        levels.append(level)
    return tuple(levels)


def _native_levels() -> tuple[str, ...] | None:
    """Levels the native module says this CPU and OS can run; None where it is not built."""
    try:
        import pykernels._core as _core

        able = set(_core.supported_isas())
    except (ImportError, AttributeError):
        return None
    return tuple(level for level in ISA_LEVELS if level in able)


# -------------------------------------------------------------------------------------------------------- the system


def _memory(tree: Tree) -> tuple[int, int]:
    """(all, available) memory in bytes."""
    values = {}
    for line in tree.text("proc/meminfo").splitlines():
        key, _, rest = line.partition(":")
        values[key] = whole(rest.split()[0]) * KIB if rest.split() else 0
    return values.get("MemTotal", 0), values.get("MemAvailable", values.get("MemFree", 0))


def _affinity(tree: Tree, online: tuple[int, ...]) -> tuple[int, ...]:
    if tree.live:
        return tuple(sorted(os.sched_getaffinity(0)))
    for line in tree.text("proc/self/status").splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return tuple(cpu for cpu in cpu_list(line.partition(":")[2]) if cpu in online)
    return online


def _chosen(text: str) -> str:
    """The word in brackets of "always [madvise] never"."""
    return text.partition("[")[2].partition("]")[0]


def _governor(tree: Tree, online: tuple[int, ...]) -> str:
    """The governor of all CPUs, or all that are in use."""
    names = {tree.text(f"{CPUS}/cpu{cpu}/cpufreq/scaling_governor") for cpu in online} - {""}
    return ", ".join(sorted(names))


def _turbo(tree: Tree) -> str:
    """ "on", "off", or "" where the kernel does not say."""
    if no_turbo := tree.text(f"{CPUS}/intel_pstate/no_turbo"):
        return "off" if no_turbo == "1" else "on"
    if boost := tree.text(f"{CPUS}/cpufreq/boost"):
        return "on" if boost == "1" else "off"
    return ""


_DMI_NAMES = {
    "qemu": "KVM", "kvm": "KVM", "amazon ec2": "Amazon EC2", "google": "Google Compute Engine", "vmware": "VMware",
    "virtualbox": "VirtualBox", "innotek": "VirtualBox", "xen": "Xen", "microsoft corporation virtual": "Hyper-V",
    "openstack": "OpenStack", "parallels": "Parallels", "bhyve": "bhyve", "digitalocean": "DigitalOcean",
}  # fmt: skip
_CLOCK_NAMES = {"kvm-clock": "KVM", "hyperv": "Hyper-V", "xen": "Xen"}


def _hypervisor(tree: Tree, info: dict[str, str]) -> str:
    """Name of the hypervisor, "unnamed" where only its presence shows, "" on bare metal as far as one can see."""
    flagged = "hypervisor" in info.get("flags", "").split()
    if kind := tree.text("sys/hypervisor/type") or tree.text("proc/device-tree/hypervisor/compatible"):
        return {"xen": "Xen", "linux,kvm": "KVM"}.get(kind, kind)
    dmi = " ".join(tree.text(f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")).lower()
    # A cloud's name is on its bare-metal instances too: on x86 the CPU's flag decides, on Arm, without one, the name.
    if flagged or (info.get("CPU implementer") and ".metal" not in dmi):
        for word, name in _DMI_NAMES.items():
            if word in dmi:
                return name
    if not flagged:
        return ""
    clocks = tree.text("sys/devices/system/clocksource/clocksource0/available_clocksource")
    return next((name for word, name in _CLOCK_NAMES.items() if word in clocks), "unnamed")


def _gpus(tree: Tree) -> tuple[Gpu, ...]:
    """GPUs of the running machine; a recorded tree has none."""
    if not tree.live:
        return ()
    from pykernels.machine.gpu import read_gpus

    return read_gpus()


def _os_release(tree: Tree) -> str:
    text = tree.text("etc/os-release") or tree.text("usr/lib/os-release")
    for line in text.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'")
    return ""


def _libc(tree: Tree) -> str:
    """ "glibc 2.36", "musl"; "" where it cannot be told (a recorded tree has none)."""
    if tree.live and "CS_GNU_LIBC_VERSION" in os.confstr_names:
        try:
            return os.confstr("CS_GNU_LIBC_VERSION") or ""
        except OSError:
            pass
    return "musl" if any(name.startswith("ld-musl-") for name in tree.names("lib")) else ""
