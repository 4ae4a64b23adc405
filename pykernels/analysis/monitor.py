"""What happened to a run as a whole: a step that all cases share, and where its variance is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pykernels.analysis.common import CaseSummary
from pykernels.measure.stats import change_point, variance_split, visit_of
from pykernels.measure.stats.series import Step
from pykernels.model import Measured, Record
from pykernels.store import Run
from pykernels.units import higher_is_better


def find_step(run: Run) -> tuple[Step, list[Record]] | None:
    """The step that the cases of a run share, in log speed (negative: slower), and the records after it, or None.

    The records are marked by being returned; none is left out of any value."""
    timed: list[Record] = []
    logs: list[float] = []
    for record in sorted(run.records, key=lambda record: record.started):
        if isinstance(record.outcome, Measured):
            figure = record.figure
            visit = visit_of(record.outcome, figure.unit, figure.amount, launch=record.launch, round=record.round)
            if not visit.disturbed:
                timed.append(record)
                logs.append(float(np.log(visit.median)) * (1 if higher_is_better(figure.unit) else -1))
    names = {case_id: number for number, case_id in enumerate(dict.fromkeys(record.case_id for record in timed))}
    cases = np.array([names[record.case_id] for record in timed], dtype=np.intp)
    step = change_point(cases, np.array(logs))
    return (step, timed[step.index :]) if step else None


def steps(runs: Sequence[Run]) -> list[str]:
    """A sentence for every run with a step, and one where the machine counted throttling."""
    notes = []
    for run in runs:
        found = find_step(run)
        if found:
            step, after = found
            way = "slower" if step.size < 0 else "faster"
            notes.append(
                f"{run.path}: from visit {step.index + 1} on everything is {abs(np.expm1(step.size)):.1%} {way} "
                f"(p {step.p:.3f}): {len(after)} visits after it are kept, and marked"
            )
        counts = [r.conditions.throttle_count for r in run.records if r.conditions.throttle_count is not None]
        if counts and max(counts) > min(counts):
            notes.append(f"{run.path}: the CPU throttled {max(counts) - min(counts)} times during the run")
    return notes


def variance_note(cases: Iterable[CaseSummary]) -> list[str]:
    """Median components over cases with three launches or more, and the plan they suggest."""
    splits = []
    for case in cases:
        launches: dict[int, list[np.ndarray[tuple[int], np.dtype[np.float64]]]] = {}
        for visit in case.visits:
            if not visit.disturbed:
                launches.setdefault(visit.launch, []).append(visit.values)
        if len(launches) >= 3:
            splits.append(variance_split(list(launches.values())))
    if not splits:
        return []
    parts = [float(np.median([getattr(split, name) for split in splits])) for name in ("launch", "visit", "sample")]
    plan = int(np.median([split.visits_per_launch for split in splits]))
    return [
        f"spread: {parts[0]:.1%} between launches, {parts[1]:.1%} between visits, {parts[2]:.1%} between samples; "
        f"the plan this suggests: {plan} visit{'s' if plan > 1 else ''} a launch"
    ]
