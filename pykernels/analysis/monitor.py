"""What happened to a run as a whole: a step that all cases share, and where its variance is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from pykernels.analysis.common import Campaign, CaseSummary
from pykernels.measure.stats import Step, Visit, change_point, variance_split, warm_up
from pykernels.store import Run
from pykernels.units import higher_is_better

_WARM_CASES = 200  #: cases whose visits are classified
_NAMED = 3  #: of each kind
_SPLIT_CASES = 100  #: cases whose variance is split; the median over more would tell no more


def find_step(cases: Iterable[CaseSummary], *, of_clock: bool = False) -> tuple[Step, list[Visit]] | None:
    """The step that the cases of a run share, in log speed (negative: slower) or in log core clock, and the visits
    after it, or None.

    The visits are marked by being returned; none is left out of any value."""
    visits: list[Visit] = []
    numbers: list[int] = []
    values: list[float] = []
    for number, case in enumerate(cases):
        found = [visit for visit in case.visits if not visit.disturbed and (visit.clock_ghz or not of_clock)]
        higher = of_clock or higher_is_better(case.first.figure.unit)
        shown = [visit.clock_ghz if of_clock else visit.median for visit in found]
        visits += found
        numbers += [number] * len(found)
        values += shown if higher else [1 / value for value in shown]
    logs = np.log(values)
    order = np.lexsort((logs, np.array(numbers), np.array([visit.started for visit in visits])))
    launches = np.array([visit.launch for visit in visits], dtype=np.intp)
    step = change_point(np.array(numbers, dtype=np.intp)[order], logs[order], launches[order], of_clock=of_clock)
    return (step, [visits[place] for place in order[step.index :]]) if step else None


def steps(runs: Sequence[Run], study: Campaign) -> list[str]:
    """A sentence for every run with a step in speed or in its core clock, and one where it counted throttling."""
    notes = []
    for index, run in enumerate(runs):
        cases = study.of_run(index)
        for of_clock, what, words in (
            (False, "everything", ("slower", "faster")), (True, "the core clock", ("lower", "higher"))
        ):  # fmt: skip
            if found := find_step(cases, of_clock=of_clock):
                step, after = found
                notes.append(
                    f"{run.path}: from visit {step.index + 1} on {what} is {abs(math.expm1(step.size)):.1%} "
                    f"{words[step.size > 0]} ({step.z:.1f} standard errors): {len(after)} visits after it are kept, "
                    "and marked"
                )
        counts = [r.conditions.throttle_count for r in run.records if r.conditions.throttle_count is not None]
        if counts and max(counts) > min(counts):
            notes.append(f"{run.path}: the CPU throttled {max(counts) - min(counts)} times during the run")
    return notes


def warm_up_note(cases: Sequence[CaseSummary]) -> list[str]:
    """How values move inside the visits: how many cases are flat, and the others by what they do. Cases of fewer than
    three visits of twelve samples tell nothing and are not counted."""
    kinds: dict[str, list[str]] = {}
    for case in cases[:: max(1, len(cases) // _WARM_CASES)]:
        visits = [visit.values for visit in case.visits if not visit.disturbed]
        if len(visits) >= 3 and min(visit.size for visit in visits) >= 12:
            found = warm_up(visits)
            where = f" over {found.steady_from} samples" if found.kind in ("falling", "rising") else ""
            name = " ".join(part for part in (case.first.figure.level, case.first.figure.op, case.first.dtype) if part)
            kinds.setdefault(found.kind, []).append(f"{name} x{case.first.threads}{where}")
    if not kinds:
        return []
    total = sum(len(names) for names in kinds.values())
    text = f"inside the visits {len(kinds.pop('flat', []))} of {total} roofs are flat"
    for kind, names in sorted(kinds.items()):
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        text += f"; {len(names)} {kind} ({', '.join(names[:_NAMED])}{more})"
    return [text]


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
