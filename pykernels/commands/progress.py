"""Progress of a run on standard error: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import os
import sys
from types import TracebackType
from typing import Any, Self

import click

from pykernels.measure import stats
from pykernels.model import Crashed, Disturbed, Measured, Record, Skipped, Wrong
from pykernels.plan import Plan
from pykernels.units import format_value


def make_progress(plan: Plan, quiet: bool) -> Lines:
    """The progress that fits: silent, a bar, or lines."""
    if quiet:
        return Lines(plan, say=lambda _: None)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return Bar(plan)
    return Lines(plan)


class Lines:
    """A line when a case has its first figure (`within-process`) and one when it has all its launches."""

    def __init__(self, plan: Plan, say: Any = None) -> None:
        self.plan = plan
        self._say = say or _tell
        self._visits: dict[str, list[Record]] = {}

    def visited(self, record: Record, done: int, total: int) -> None:
        """Keep the record; say its case's figure if it is the first or the last of the run."""
        visits = self._visits.setdefault(record.case_id, [])
        visits.append(record)
        wanted = self.plan.sweep.launches * self.plan.sweep.rounds
        if len(visits) in (1, wanted) or not isinstance(record.outcome, Measured):
            self._say(f"[{done:>{len(str(total))}}/{total}] {record.case_id}   {figure_text(visits)}")

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._say(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def _tell(text: str) -> None:
    """A line on standard error; a reader that has left (`| head`, a closed terminal) does not end the measurement."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


class Bar(Lines):
    """A rich progress bar with the latest figure beside it."""

    def __init__(self, plan: Plan) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        super().__init__(plan, say=self._bar.console.print)
        self._task = self._bar.add_task("starting workers", total=len(plan.visits()))

    def visited(self, record: Record, done: int, total: int) -> None:
        """Advance the bar; trouble gets a line of its own."""
        visits = self._visits.setdefault(record.case_id, [])
        visits.append(record)
        text = f"{record.case_id}   {figure_text(visits)}"
        if isinstance(record.outcome, Wrong | Crashed | Disturbed):
            self._bar.console.print(text, markup=False, highlight=False)
        self._bar.update(self._task, completed=done, total=total, description=text.replace("[", r"\["))

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception):
            self._bar.stop()


def figure_text(visits: list[Record]) -> str:
    """A case's figure so far with its interval and scope, or what went wrong with its last visit."""
    last = visits[-1].outcome
    if isinstance(last, Wrong):
        return f"wrong: error {last.max_error:.3g} > {last.bound:.3g} at {last.where}"
    if isinstance(last, Crashed):
        return f"crashed: {last.how}"
    if isinstance(last, Skipped):
        return f"skipped: {last.reason}"
    interval = stats.case_interval(visits)
    if interval is None:
        return "disturbed: too few clean samples so far"
    unit, half = visits[-1].figure.unit, (interval.high - interval.low) / 2
    value, low, high = (format_value(x, half) for x in (interval.value, interval.low, interval.high))
    stop = f", {last.stop}" if isinstance(last, Measured | Disturbed) else ""
    launches = f"{interval.launches} launches" if interval.launches > 1 else "within-process"
    return f"{value} {unit} [{low}, {high}]   {launches}{stop}"
