"""Simulated runs in memory, for the table of trust and its tests: the real plan, engine, sampling and analysis over a
pretended machine, without a file between them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pykernels.backends.simulated import Noise, load_noise
from pykernels.engine import Engine
from pykernels.model import Footer, Header, Record, Tuning
from pykernels.plan import Plan, make_plan
from pykernels.store import Run
from pykernels.sweep import Sweep, parse_sweep

NOISE = Path(__file__).resolve().parent.parent / "noise"


class MemoryWriter:
    """Takes what the engine writes."""

    def __init__(self) -> None:
        self.lines: list[Tuning | Record | Footer] = []

    def append(self, line: Tuning | Record) -> None:
        self.lines.append(line)

    write = append

    def finish(self, *, interrupted: bool = False) -> None:
        pass

    close = finish


class Silent:
    """Progress that nobody watches."""

    def visited(self, record: Record, done: int, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def noise(name: str = "quiet", **changes: object) -> Noise:
    """A noise file of `tests/noise`, with some of its fields replaced."""
    return msgspec.structs.replace(load_noise(NOISE / f"{name}.toml"), **changes)


def sweep(studies: str, *, launches: int = 5, rounds: int = 1) -> Sweep:
    """A sweep from the TOML of its studies."""
    return parse_sweep(f'pykernels = 1\nbudget = "10 h"\nlaunches = {launches}\nrounds = {rounds}\n{studies}')


def run(played: Noise, studies: Sweep) -> Run:
    """What `pykernels run SWEEP --simulate NOISE` would write."""
    plan: Plan = make_plan(studies, played.machine, can_run_all=True)
    writer = MemoryWriter()
    header = Header(
        machine=played.machine, source="simulated", started=_iso(played.clock()), launches=studies.launches,
        rounds=studies.rounds, sweep_name="trust",
    )  # fmt: skip
    Engine(plan, writer, played.player, Silent(), clock=played.clock).run()  # type: ignore[arg-type]
    return Run(
        path=f"sitting-{played.sitting}.jsonl",
        header=header,
        tunings=[line for line in writer.lines if isinstance(line, Tuning)],
        records=[line for line in writer.lines if isinstance(line, Record)],
    )


def _iso(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
