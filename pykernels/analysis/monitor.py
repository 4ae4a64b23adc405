"""What happened to a run as a whole: a step that all cases share, and where its variance is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from pykernels.analysis.common import Campaign, CaseSummary
from pykernels.measure.stats import Step, Visit, change_point, variance_split
from pykernels.store import Run
from pykernels.units import higher_is_better

_SPLIT_CASES = 100  #: cases whose variance is split; the median over more would tell no more


def find_step(cases: Iterable[CaseSummary]) -> tuple[Step, list[Visit]] | None:
    """The step that the cases of a run share, in log speed (negative: slower), and the visits after it, or None.

    The visits are marked by being returned; none is left out of any value."""
    timed: list[tuple[float, int, float, Visit]] = []
    for number, case in enumerate(cases):
        sign = 1 if higher_is_better(case.first.figure.unit) else -1
        timed += [
            (visit.started, number, sign * math.log(visit.median), visit)
            for visit in case.visits
            if not visit.disturbed
        ]
    timed.sort(key=lambda entry: entry[:3])
    numbers = np.array([entry[1] for entry in timed], dtype=np.intp)
    step = change_point(numbers, np.array([entry[2] for entry in timed]))
    return (step, [entry[3] for entry in timed[step.index :]]) if step else None


def steps(runs: Sequence[Run], study: Campaign) -> list[str]:
    """A sentence for every run with a step, and one where the machine counted throttling."""
    notes = []
    for index, run in enumerate(runs):
        found = find_step(study.of_run(index))
        if found:
            step, after = found
            way = "slower" if step.size < 0 else "faster"
            notes.append(
                f"{run.path}: from visit {step.index + 1} on everything is {abs(math.expm1(step.size)):.1%} {way} "
                f"(p {step.p:.3f}): {len(after)} visits after it are kept, and marked"
            )
        counts = [r.conditions.throttle_count for r in run.records if r.conditions.throttle_count is not None]
        if counts and max(counts) > min(counts):
            notes.append(f"{run.path}: the CPU throttled {max(counts) - min(counts)} times during the run")
    return notes


def variance_note(cases: Iterable[CaseSummary]) -> list[str]:
    """Median components over cases with three launches or more, and the plan they suggest."""
    splits = []
    cases = list(cases)
    for case in cases[:: max(1, len(cases) // _SPLIT_CASES)]:
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
