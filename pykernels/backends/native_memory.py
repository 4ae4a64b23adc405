"""Memory of the native backend: where a case's operands lie, filled operands that several cases share, and which pages
back them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pykernels.model import Operand

if TYPE_CHECKING:
    import numpy as np

#: beyond multiples of a page, each operand starts this much further into it: equal offsets would alias in the L1
STAGGER = 1088
PAGE, HUGE_PAGE = 4096, 2 << 20


class Buffers:
    """Operands in an arena of their own, and shared ones in theirs. An arena lives as long as a view of it does."""

    def __init__(self, key: Any, arena: Any, places: dict[Operand, tuple[Any, int]]) -> None:
        self.key = key
        self.arena = arena  # of all operands but the shared ones
        self.places = places  # operand -> arena, offset

    def pointer(self, operand: Operand) -> int:
        """The operand's address."""
        arena, offset = self.places[operand]
        return int(arena.address) + offset

    def largest(self) -> Any:
        """The arena whose pages matter most."""
        return max((arena for arena, _ in self.places.values()), key=lambda arena: arena.bytes, default=self.arena)

    def view(self, operand: Operand) -> np.ndarray[Any, Any]:
        """The operand in storage type and stored shape."""
        import numpy as np

        from pykernels.kernels.dtypes import storage, stored_shape

        shape, dtype = stored_shape(operand.shape, operand.dtype), storage(operand.dtype)
        count = int(np.prod(shape, dtype=np.int64))
        arena, offset = self.places[operand]
        return np.frombuffer(arena, dtype=dtype, count=count, offset=offset).reshape(shape)


class SharedOperands:
    """Arenas of one filled operand each, lent to every problem whose operand is a prefix of it: same dtype, recipe and
    row, no more rows. `exact`: no prefixes, so that rows lie spread over NUMA nodes as if they were the only ones.
    `limit` bytes are kept at most, and no more beyond what is held than `room` says: other workers hold tables too."""

    def __init__(
        self, limit: int, *, exact: bool, make: Callable[[Operand], Any], room: Callable[[], int] = lambda: sys.maxsize
    ) -> None:
        self.limit, self.exact, self.make, self.room = limit, exact, make, room
        self._held: dict[tuple[Any, ...], tuple[Any, int]] = {}  # arena, bytes

    def _key(self, operand: Operand) -> tuple[Any, ...]:
        row = operand.shape[1:] if operand.recipe.distribution == "quantized" else ()
        return (operand.dtype, operand.recipe, row)

    def holds(self, operand: Operand) -> bool:
        """Whether the operand is there, filled."""
        held = self._held.get(self._key(operand))
        wanted = nbytes(operand)
        return held is not None and (held[1] == wanted if self.exact else held[1] >= wanted)

    def _bytes(self) -> int:
        return sum(size for _, size in self._held.values())

    def arena(self, operand: Operand) -> Any:
        """The arena whose first bytes are the operand; filled now if it is not there."""
        if not self.holds(operand):
            self._held.pop(self._key(operand), None)
            limit = min(self.limit, self._bytes() + self.room())
            while self._held and self._bytes() + nbytes(operand) > limit:
                del self._held[min(self._held, key=lambda key: self._held[key][1])]
            self._held[self._key(operand)] = (self.make(operand), nbytes(operand))
        return self._held[self._key(operand)][0]


def free_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that could be had now; a large number where the OS does not say."""
    try:
        found = re.search(r"^MemAvailable: *(\d+) kB", meminfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return 1024 * int(found[1]) if found else sys.maxsize


def nbytes(operand: Operand) -> int:
    from pykernels.kernels.dtypes import stored_bytes

    return stored_bytes(operand.shape, operand.dtype)


def layout(operands: tuple[Operand, ...]) -> tuple[list[int], int]:
    """Offsets of the operands, one after the other, and the bytes of all; see STAGGER."""
    from pykernels.kernels.dtypes import stored_bytes

    offsets, end = [], 0
    for rank, operand in enumerate(operands):
        start = -(-end // PAGE) * PAGE + rank * STAGGER
        offsets.append(start)
        end = start + stored_bytes(operand.shape, operand.dtype)
    return offsets, end


def huge_page_share(address: int, nbytes: int, smaps: Path = Path("/proc/self/smaps")) -> float | None:
    """Share of the resident memory in [address, address + nbytes) that transparent huge pages back; None if unknown."""
    resident = huge = 0
    inside = False
    try:
        lines = smaps.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            low, _, high = name.partition("-")
            inside = int(low, 16) < address + nbytes and int(high, 16) > address
        elif inside and name == "Rss:":
            resident += int(rest.split()[0])
        elif inside and name == "AnonHugePages:":
            huge += int(rest.split()[0])
    return huge / resident if resident else None
