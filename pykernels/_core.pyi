"""Native kernels of pykernels: ISA levels, arena, pinned team, timed loop (csrc/bind/module.cpp)."""

from typing import TypedDict

from typing_extensions import Buffer

COMPILER: str
"""Name and version of the compiler that built the module and the level libraries."""
FLAGS: dict[str, str]
"""ISA level -> compiler flags of its library."""
POISON: int
"""64-bit pattern that fills outputs before a check: NaN in every floating-point type."""

class EntryInfo(TypedDict):
    """One line of a level's table; `address` is that of the hot function in the library's file."""

    index: int
    kernel: str
    op: str
    dtype: str
    variant: str
    symbol: str
    tunes: tuple[int, ...]
    address: int

def built_isas() -> list[str]:
    """ISA levels that this build has, in rising order."""

def supported_isas() -> list[str]:
    """Built levels that this CPU and OS can run (cpuid, XCR0, AMX permission; hwcap)."""

def missing(isa: str) -> str:
    """What this machine lacks for a level, in words; empty if nothing."""

def entries(isa: str) -> list[EntryInfo]:
    """The table of a built level; runs none of its kernels, so it works on any CPU."""

def tlb_entries(large: bool) -> int:
    """Entries of a core's second-level data TLB for 4 KiB pages, or for 2 MiB ones; 0: the CPU does not say."""

def clock_ghz() -> float:
    """Core clock of the calling thread by dependent additions (some 8 us)."""

class Library:
    """A level opened to be run; raises RuntimeError with what is missing where this machine cannot run it."""

    def __init__(self, isa: str) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def vector_bytes(self) -> int: ...

class Arena(Buffer):
    """Anonymous memory aligned to 2 MiB, on huge pages if asked and granted, on a NUMA node if node >= 0.

    A buffer of bytes: it lives as long as a view of it does. Raises MemoryError, OSError."""

    def __init__(self, bytes: int, huge: bool = True, node: int = -1) -> None: ...
    @property
    def address(self) -> int: ...
    @property
    def bytes(self) -> int: ...

class Team:
    """One thread pinned to each CPU. All calls block until every thread is done, with the GIL released."""

    def __init__(self, cpus: list[int]) -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def cpus(self) -> list[int]: ...
    def fill(
        self, arena: Arena, offset: int, count: int, dtype: str, integers: bool, seed: int, low: float, high: float
    ) -> None:
        """Fill `count` elements by the counter-based generator (kernels/random.py is its equal)."""

    def fill_cycle(self, arena: Arena, offset: int, blocks: int, rows: int, words: int, seed: int) -> None:
        """One random cycle through the rows of each block; every word of a row is the next row's address
        (kernels/cycle.py is its equal, in indices)."""

    def poison(self, arena: Arena, offset: int, bytes: int) -> None:
        """Fill with POISON."""

    def run(
        self,
        library: Library,
        index: int,
        pointers: list[int],
        dims: list[int],
        scalars: list[float],
        tune: int,
        reps: int,
    ) -> None:
        """Run an entry's `reps` passes on every thread, untimed."""

    def sample(
        self,
        library: Library,
        index: int,
        pointers: list[int],
        dims: list[int],
        scalars: list[float],
        tune: int,
        reps: int,
        count: int,
    ) -> tuple[list[float], list[float], list[int], list[float], list[float]]:
        """`count` timed samples: seconds per pass, lowest thread's CPU time over wall time, involuntary switches of all
        threads, core clock in GHz, spread of the threads' starts in seconds."""

    def serve(
        self,
        library: Library,
        index: int,
        pointers: list[int],
        dims: list[int],
        scalars: list[float],
        tune: int,
        calls: int,
        first: int = 0,
        rate: float = 0.0,
        seed: int = 1,
    ) -> tuple[list[int], float, int]:
        """Nanoseconds of each of `calls` requests (one in flight, or Poisson arrivals of `rate` a second), lowest
        thread's CPU time over wall time, involuntary switches of all threads."""

    def clock_ghz(self) -> float:
        """Mean of the threads' core clocks, all running."""

    def close(self) -> None:
        """End the threads."""
