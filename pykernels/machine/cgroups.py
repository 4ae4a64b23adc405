"""CPU quota and memory limit of this process's control groups, version 1 and 2, the strictest of all ancestors."""

from __future__ import annotations

import msgspec

from pykernels.machine.tree import Tree, whole

#: v1 says "no limit" with the largest multiple of a page below 2**63; no machine has this much memory.
_UNLIMITED = 2**60


class Limits(msgspec.Struct, frozen=True):
    """Limits of the control groups: CPU quota in cores and memory in bytes (0: none), and memory already used there."""

    quota: float = 0.0
    memory_bytes: int = 0
    memory_used: int = 0


class _Mount(msgspec.Struct, frozen=True):
    point: str  # relative to the tree's root
    origin: str  # the group that is mounted there
    version: int
    controllers: frozenset[str]


def read_limits(tree: Tree) -> Limits:
    """The strictest quota and memory limit from this process's groups up to the roots that it can see."""
    quotas: list[float] = []
    memory: list[tuple[int, int]] = []
    mounts = _mounts(tree)
    for line in tree.text("proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        wanted = frozenset(controllers.split(",")) if controllers else frozenset[str]()
        for mount in mounts:
            if mount.version == 2 if number == "0" and not controllers else wanted & mount.controllers:
                for folder in _ancestors(tree, mount, group):
                    quotas.append(_quota(tree, folder, mount.version))
                    memory.append(_memory(tree, folder, mount.version))
    limit, used = min((pair for pair in memory if pair[0]), default=(0, 0))
    return Limits(quota=min((q for q in quotas if q > 0), default=0.0), memory_bytes=limit, memory_used=used)


def _mounts(tree: Tree) -> list[_Mount]:
    """Mounted hierarchies as /proc/self/mountinfo states them; the usual places where it states none."""
    found = []
    for line in tree.text("proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 4 and kind and kind[0] in ("cgroup", "cgroup2"):
            options = frozenset(kind[2].split(",")) if len(kind) > 2 else frozenset[str]()
            version = 2 if kind[0] == "cgroup2" else 1
            found.append(_Mount(fields[4].lstrip("/"), fields[3], version, options))
    if found:
        return found
    usual = [_Mount(f"sys/fs/cgroup/{name}", "/", 1, frozenset([name])) for name in ("cpu", "memory")]
    return [_Mount("sys/fs/cgroup", "/", 2, frozenset()), *usual]


def _ancestors(tree: Tree, mount: _Mount, group: str) -> list[str]:
    """Folders from the process's group up to the mount point.

    In a container the group may be named from the host's root while only the container's part is mounted: the mount's
    origin is cut off, and a group that is still not there is outside the mount, which then speaks for itself.
    """
    origin = mount.origin.rstrip("/")
    if origin and (group == origin or group.startswith(origin + "/")):
        group = group[len(origin) :]
    parts = [part for part in group.split("/") if part not in ("", "..")]
    if not tree.exists("/".join([mount.point, *parts])):
        parts = []
    return ["/".join([mount.point, *parts[:depth]]) for depth in range(len(parts), -1, -1)]


def _quota(tree: Tree, folder: str, version: int) -> float:
    """CPU quota in cores, 0 for none."""
    if version == 2:
        fields = tree.text(f"{folder}/cpu.max").split()
        quota, period = (whole(fields[0]), whole(fields[1])) if len(fields) == 2 else (0, 0)
    else:
        quota = tree.number(f"{folder}/cpu.cfs_quota_us")
        period = tree.number(f"{folder}/cpu.cfs_period_us")
    return quota / period if quota > 0 and period > 0 else 0.0


def _memory(tree: Tree, folder: str, version: int) -> tuple[int, int]:
    """(limit, used without the file cache that the kernel gives back first), in bytes; limit 0 for none."""
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit = tree.number(f"{folder}/{names[0]}")
    if not 0 < limit < _UNLIMITED:
        return (0, 0)
    stat = dict(line.split()[:2] for line in tree.text(f"{folder}/memory.stat").splitlines() if len(line.split()) > 1)
    cache = whole(stat.get("total_inactive_file", stat.get("inactive_file", "0")))
    return (limit, max(0, tree.number(f"{folder}/{names[1]}") - cache))
