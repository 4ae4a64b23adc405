"""The table of CUDA entries, read from the `PK_ENTRY` lines of `csrc/cuda/*.cu`, and their launch geometry.

The line beside a kernel is the only list: its grid rule and block size become a launch here, and its names are how the
backend finds it. The layout of the parameter block is the one `csrc/cuda/common.cuh` declares.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from pykernels.backends.cuda_compile import CompileError, sources

POINTERS, DIMS, SCALARS = 12, 16, 4
SCRATCH_BYTES = 1 << 20
#: bytes of pk_args: pointers, dims, scalars, reps, tune, scratch
_ARGS = struct.Struct(f"={POINTERS}Q{DIMS}q{SCALARS}dqqQ")
#: limits that every architecture from sm_75 on shares (CUDA programming guide, table of compute capabilities)
MAX_GRID_X = 2**31 - 1
MAX_THREADS = 1024

_ENTRY = re.compile(
    r"^PK_ENTRY\(\s*(?P<kernel>\w+),\s*(?P<op>\w*),\s*(?P<dtype>\w+),\s*(?P<variant>\w+),\s*(?P<arch>\d+),\s*"
    r"(?P<threads>\d+),\s*(?P<rule>\w+)(?:\((?P<numbers>[\d,\s]*)\))?,\s*(?P<flags>[\w|\s]+?),",
    re.MULTILINE,
)


class Launch(msgspec.Struct, frozen=True):
    """Blocks of a launch and threads of a block."""

    grid: int
    block: int


class Entry(msgspec.Struct, frozen=True):
    """One kernel function: names, least architecture, block size, grid rule, flags, and the source that holds it."""

    kernel: str
    op: str
    dtype: str
    variant: str
    arch: int
    threads: int
    rule: Literal["SM", "ITEMS", "ONE", "BLOCKS"]
    numbers: tuple[int, ...]
    flags: frozenset[str]
    source: str

    @property
    def symbol(self) -> str:
        """Name of the function in the cubin."""
        return f"{self.kernel}__{self.op}__{self.dtype}__{self.variant}"

    @property
    def loops(self) -> bool:
        """True when the kernel makes `reps` passes itself, so that one launch is many calls."""
        return "loop" in self.flags

    def variants(self) -> tuple[str, ...]:
        """Names for the tuning pass: one per candidate number of blocks, or the bare name."""
        if self.rule == "SM" and len(self.numbers) > 1:
            return tuple(f"{self.variant}:{number}" for number in self.numbers)
        return (self.variant,)

    def launch(self, dims: Sequence[int], sms: int, tune: int = 0) -> Launch:
        """Geometry for these dims on a device of `sms` multiprocessors; `tune` replaces the first number of SM(...).

        Raises CompileError when the grid would pass the limit of any architecture."""
        if self.rule == "SM":
            grid = sms * (tune or self.numbers[0])
        elif self.rule == "ITEMS":
            grid = -(-dims[self.numbers[0]] // self.numbers[1])
        else:
            grid = self.numbers[0] if self.rule == "BLOCKS" else 1
        if grid > MAX_GRID_X:
            raise CompileError(f"{self.symbol}: {grid} blocks are more than a grid can have ({MAX_GRID_X})")
        return Launch(max(1, grid), self.threads)


@cache
def entries(folder: Path | None = None) -> tuple[Entry, ...]:
    """Every entry of every source, in the order of the files; raises CompileError for a line that says nonsense."""
    return tuple(entry for path in sorted((folder or sources()).glob("*.cu")) for entry in _read(path))


def find(kernel: str, op: str, dtype: str, level: str = "") -> tuple[Entry, ...]:
    """Entries for one (kernel, op, dtype), without those that are for working sets of another level; only an entry that
    says so is for L1, which every multiprocessor has for itself."""
    named = [entry for entry in entries() if (entry.kernel, entry.op, entry.dtype) == (kernel, op, dtype)]
    levels = {"L1", "L2", "DRAM"}
    return tuple(
        entry for entry in named if not level or level in entry.flags or not (entry.flags & levels or level == "L1")
    )


def split_variant(variant: str) -> tuple[str, int]:
    """("b16", 8) of "b16:8"; the number is 0 where there is none."""
    name, _, number = variant.partition(":")
    return name, int(number or 0)


def pack_args(
    pointers: Sequence[int], dims: Sequence[int], scalars: Sequence[float], *, reps: int, tune: int, scratch: int
) -> bytes:
    """The bytes of pk_args, zero-filled to its fixed layout."""
    return _ARGS.pack(
        *pointers, *[0] * (POINTERS - len(pointers)), *dims, *[0] * (DIMS - len(dims)),
        *scalars, *[0.0] * (SCALARS - len(scalars)), reps, tune, scratch,
    )  # fmt: skip


def _read(path: Path) -> list[Entry]:
    """Entries of one file."""
    text = path.read_text()
    found = [_entry(match, path.stem) for match in _ENTRY.finditer(text)]
    if len(found) != len(re.findall(r"^PK_ENTRY\(", text, re.MULTILINE)):
        raise CompileError(f"{path.name}: a PK_ENTRY line does not have the form that common.cuh states")
    return found


def _entry(match: re.Match[str], source: str) -> Entry:
    numbers = tuple(int(number) for number in (match["numbers"] or "").split(",") if number.strip())
    rule, threads = match["rule"], int(match["threads"])
    wanted = {"SM": (1, 99), "ITEMS": (2, 2), "BLOCKS": (1, 1), "ONE": (0, 0)}
    if rule not in wanted or not wanted[rule][0] <= len(numbers) <= wanted[rule][1] or not 0 < threads <= MAX_THREADS:
        raise CompileError(f"{source}.cu: {match[0]} has no such grid rule or block size")
    flags = frozenset(flag.strip() for flag in match["flags"].split("|")) - {"none"}
    return Entry(
        match["kernel"], match["op"], match["dtype"], match["variant"], int(match["arch"]), threads, rule,  # type: ignore[arg-type]
        numbers, flags, source,
    )  # fmt: skip
