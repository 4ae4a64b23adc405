"""Joules of the CPU packages, from the RAPL counters that Linux shows under /sys/class/powercap.

A counter counts microjoules of one package and wraps; it is updated about once a millisecond. Guests show none, and
most hosts let only root read them: `why_not` says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pykernels.machine.tree import Tree

FOLDER = "sys/class/powercap"


class Rapl:
    """The package counters of one machine; no counters: `read` gives None."""

    def __init__(self, tree: Tree | None = None) -> None:
        self.tree = tree or Tree()
        zones = [f"{FOLDER}/{name}" for name in self.tree.names(FOLDER) if name.startswith("intel-rapl:")]
        packages = [zone for zone in zones if self.tree.text(f"{zone}/name").startswith("package")]
        self._zones = [(f"{zone}/energy_uj", self.tree.number(f"{zone}/max_energy_range_uj")) for zone in packages]

    def why_not(self) -> str:
        """Why there is no reading; empty where there is one."""
        if not self._zones:
            return f"no RAPL package counter under /{FOLDER} (a guest has none)"
        if any(not self.tree.text(path) for path, _ in self._zones):
            return f"/{self._zones[0][0]} cannot be read by this user"
        return ""

    def read(self) -> tuple[int, ...] | None:
        """Microjoules of every package, as counted; None where they cannot be read."""
        if self.why_not():
            return None
        return tuple(self.tree.number(path) for path, _ in self._zones)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Joules between two readings, over all packages; a counter may have wrapped once."""
        pairs = zip(before, after, self._zones, strict=True)
        return sum((b - a if b >= a else b - a + span) for a, b, (_, span) in pairs) * 1e-6


@cache
def rapl(root: Path = Path("/")) -> Rapl:
    """This machine's counters, looked for once."""
    return Rapl(Tree(root))


class Energy:
    """Joules of timed calls, added up."""

    def __init__(self, counters: Rapl | None = None) -> None:
        self.counters = counters or rapl()
        self.joules, self.calls = 0.0, 0

    @contextmanager
    def over(self, calls: int) -> Iterator[None]:
        """Add what the packages spend on `calls` calls inside the block."""
        before = self.counters.read()
        yield
        after = self.counters.read()
        if before is not None and after is not None:
            self.joules += self.counters.joules(before, after)
            self.calls += calls

    def facts(self) -> dict[str, Any]:
        """`joules_per_call`, of all packages whatever else they did; or `no_energy` with the reason."""
        if self.calls and self.joules:
            return {"joules_per_call": self.joules / self.calls}
        return {"no_energy": self.counters.why_not() or "the counters did not move"}
