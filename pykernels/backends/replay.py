"""Plays timings from a JSON Lines file, so that everything but the clock can be tested to the digit.

A line is {"case_id", "launch", "round", "samples_s": [...], "cpu_over_wall": [...], "involuntary_switches": [...]},
where `samples_s` are seconds per call; optional are the other fields of `model.Samples`, "outcome" (a whole outcome in
place of samples) and "facts". A first line {"machine": {...}} plans for that machine instead of this one; a line
{"case_id", "tuning": {"variant": seconds}} plays a tuning pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from pykernels.errors import UsageError
from pykernels.measure.sampling import Settings, judge
from pykernels.model import Case, Conditions, Machine, Outcome, Placement, Samples, Skipped
from pykernels.worker import Reply


class Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One line of a replay file."""

    case_id: str = ""
    launch: int = 0
    round: int = 0
    samples_s: list[float] = []
    cpu_over_wall: list[float] = []
    involuntary_switches: list[int] = []
    clock_ghz: list[float] = []
    start_skew_s: list[float] = []
    host_s: list[float] = []
    reps: int = 1
    stop: str = "target"
    outcome: Outcome | None = None
    facts: dict[str, Any] = {}
    tuning: dict[str, float] = {}
    machine: Machine | None = None


class Replay(msgspec.Struct):
    """A replay file in memory: visits by (case id, launch, round), tunings by case id, the machine if it names one."""

    path: Path
    visits: dict[tuple[str, int, int], Line] = {}
    tunings: dict[str, dict[str, float]] = {}
    machine: Machine | None = None

    def player(self, launch: int) -> ReplayPlayer:
        """The player of one launch."""
        return ReplayPlayer(self, launch)


def load_replay(path: Path) -> Replay:
    """Read a replay file. Raises UsageError that names the line."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    replay = Replay(path=path, visits={}, tunings={})
    decoder = msgspec.json.Decoder(Line)
    for number, raw in enumerate(text.splitlines(), 1):
        if not raw.strip():
            continue
        try:
            line = decoder.decode(raw)
        except msgspec.DecodeError as error:
            raise UsageError(f"{path}: line {number}: not a replay line: {error}") from None
        _file(replay, line, number)
    return replay


def _file(replay: Replay, line: Line, number: int) -> None:
    if line.machine:
        replay.machine = line.machine
    elif not line.case_id:
        raise UsageError(f"{replay.path}: line {number}: no case_id")
    elif line.tuning:
        replay.tunings[line.case_id] = line.tuning
    elif not line.samples_s and line.outcome is None:
        raise UsageError(f"{replay.path}: line {number}: no samples_s and no outcome")
    elif not all(seconds > 0 for seconds in line.samples_s):
        raise UsageError(f"{replay.path}: line {number}: samples_s must be above zero")
    else:
        replay.visits[line.case_id, line.launch, line.round] = line


class ReplayPlayer:
    """Answers the visits of one launch from the file."""

    def __init__(self, replay: Replay, launch: int) -> None:
        self.replay, self.launch = replay, launch

    def visit(
        self, case: Case, variant: str, settings: Settings, *, round_: int, seed: int, full: bool, timeout_s: float
    ) -> Reply:
        """The line of this visit, judged as a live one would be; a missing line is a skip."""
        line = self.replay.visits.get((case.id, self.launch, round_))
        if line is None:
            return Reply(outcome=Skipped(reason=f"{self.replay.path.name} has no such visit"))
        if line.outcome is not None:
            return Reply(outcome=line.outcome)
        samples = Samples(**{name: getattr(line, name) for name in Samples.__struct_fields__})
        return Reply(outcome=judge(samples, line.stop), conditions=Conditions(facts=line.facts), wall_s=0.0)

    def tune(self, case: Case, variants: list[str], timeout_s: float) -> Reply:
        """The tuning line of this case, or all variants alike."""
        return Reply(seconds=self.replay.tunings.get(case.id) or dict.fromkeys(variants, 1.0))

    def keep_only(self, places: set[tuple[Placement, str]]) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing to end."""
