"""Reads sysfs and procfs below a root, so that the tree of another machine can be read as well as this one's.

Missing and unreadable files are ordinary here (containers, old kernels, other architectures): they read as "".
"""

from __future__ import annotations

import os
from pathlib import Path

CPUS = "sys/devices/system/cpu"
NODES = "sys/devices/system/node"


class Tree:
    """Small files below `root`; paths are relative to it."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.live = root == Path("/")
        self._prefix = "/" if self.live else f"{root}/"

    def text(self, path: str, limit: int = 65536) -> str:
        """The file's text without surrounding white space, at most `limit` bytes of it; "" where it cannot be read."""
        # os.open costs a third of Path.read_text, and a large machine has thousands of these files.
        try:
            handle = os.open(self._prefix + path, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError):
            return ""
        try:
            parts = []
            while limit > 0 and (part := os.read(handle, limit)):
                parts.append(part)
                limit -= len(part)
            return b"".join(parts).decode("utf-8", "replace").strip("\0 \t\r\n")
        except OSError:
            return ""
        finally:
            os.close(handle)

    def number(self, path: str, default: int = 0) -> int:
        """The file's whole number, `default` where there is none."""
        return whole(self.text(path), default)

    def names(self, path: str) -> list[str]:
        """Names in the directory, sorted with numbers in their order; [] where it cannot be read."""
        try:
            found = os.listdir(self._prefix + path)  # noqa: PTH208 - as above
        except OSError:
            return []
        return sorted(found, key=lambda name: (name.rstrip("0123456789"), _tail(name)))

    def numbered(self, path: str, prefix: str) -> list[int]:
        """The N of the directory's entries `prefixN`, in rising order."""
        tails = (name[len(prefix) :] for name in self.names(path) if name.startswith(prefix))
        return sorted(int(tail) for tail in tails if tail.isdecimal())

    def exists(self, path: str) -> bool:
        """Whether the file or directory is there."""
        return os.path.exists(self._prefix + path)  # noqa: PTH110 - as above


def whole(text: str, default: int = 0) -> int:
    """`text` as a whole number, decimal or 0x hexadecimal; `default` where it is neither."""
    try:
        return int(text, 0) if text.lower().startswith("0x") else int(text)
    except ValueError:
        return default


def cpu_list(text: str) -> tuple[int, ...]:
    """The CPUs of a kernel list such as "0-3,64-67", in rising order; parts that make no sense are left out."""
    found: set[int] = set()
    for part in text.replace("\n", ",").split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal() and (not last or last.isdecimal()):
            found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def format_cpus(cpus: tuple[int, ...]) -> str:
    """The kernel's short form of a set of CPUs: "0-3,64-67"."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _tail(name: str) -> int:
    digits = name[len(name.rstrip("0123456789")) :]
    return int(digits) if digits else -1
