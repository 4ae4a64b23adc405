"""The uncertainty budget of one roof: what was counted from repetitions (Type A) and what is judged (Type B).

After the Guide to the Expression of Uncertainty in Measurement and NIST TN 1297. The measurand comes first: the rate of
this sitting or, from three sittings on, of this machine. Judged terms are half widths of a uniform distribution over
the square root of three, on the log scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pykernels.analysis.common import CaseSummary, campaign, level_rank
from pykernels.errors import UsageError
from pykernels.measure.stats import Budget, Term, budget, median_factor
from pykernels.model import Disturbed, Measured, Record
from pykernels.store import Run

_CLOCK_S = 50e-9  #: reading the clock twice and one of its steps, an upper bound on current machines
_PAGES = 0.15  #: what 4 KiB pages cost a stream from DRAM at most
_OVERRUN = 2048.0  #: bytes that prefetchers read past the end of a thread's share


def headline(cases: Sequence[CaseSummary]) -> CaseSummary:
    """The roof a reader asks for first: DRAM loads with the most threads, else the outermost bandwidth, else any."""

    def rank(case: CaseSummary) -> tuple[object, ...]:
        figure = case.first.figure
        return (figure.kind != "bandwidth", -level_rank(figure.level), figure.op != "load", -case.first.threads,
                case.first.case_id)  # fmt: skip

    return min(cases, key=rank)


def uncertainty(runs: Sequence[Run], case_id: str = "") -> Budget:
    """The budget of a roof (default: the headline one). Raises UsageError where it has no value, or one launch only."""
    study = campaign(runs)
    usable = [case for case in study.cases.values() if not case.reason and case.first.figure.ceiling]
    chosen = [case for case in usable if case.first.case_id == case_id] if case_id else usable
    if not chosen:
        raise UsageError(f"no roof {case_id or 'with a value'} in {', '.join(run.path for run in runs)}")
    case = headline(chosen)
    if len(case.values) < 2:
        raise UsageError(f"{case.first.case_id}: one launch does not tell how launches differ; measure at least 3")
    records = [r for run in runs for r in run.records if r.case_id == case.first.case_id]
    interval = case.estimate.interval
    assert interval is not None
    whose = "this machine" if interval.scope == "machine" else "this sitting"
    name = f"{case.first.figure.level} {case.first.figure.op}".strip()
    measurand = f"{name}, {case.first.dtype}, {case.first.threads} threads on {case.first.device}: the rate of {whose}"
    terms = [_counted(case, study.sitting_of), *_judged(case, records)]
    return budget(measurand, interval.value, case.first.figure.unit, terms)


def _counted(case: CaseSummary, sitting_of: dict[int, int]) -> Term:
    """Launches, or sittings where there are three; samples and visits are part of either."""
    groups: dict[int, list[float]] = {}
    for launch, value in case.values.items():
        groups.setdefault(sitting_of[launch], []).append(math.log(value))
    by_sitting = len(groups) >= 3
    logs = (
        [float(np.median(group)) for group in groups.values()] if by_sitting else np.concatenate(list(groups.values()))
    )
    what = "sittings" if by_sitting else "launches"
    error = median_factor(len(logs)) * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    source = f"{len(logs)} {what}, with their visits and samples"
    return Term(name=what, kind="A", uncertainty=error, degrees=len(logs) - 1, source=source)


def _judged(case: CaseSummary, records: Sequence[Record]) -> list[Term]:
    first = case.first
    outcomes = [record.outcome for record in records if isinstance(record.outcome, Measured | Disturbed)]
    length = min(float(np.median(o.samples_s)) * o.reps for o in outcomes if o.samples_s)
    terms = [
        _uniform("clock", _CLOCK_S / max(length, _CLOCK_S), f"samples of {length * 1e3:.3g} ms, clock under 50 ns")
    ]
    if first.figure.kind == "bandwidth" and first.working_set:
        share = _OVERRUN * first.threads / first.working_set
        terms.append(_uniform("byte model", share, "prefetchers may read 2 KiB past the end of each thread's share"))
        pages = [r.conditions.huge_page_share for r in records if r.conditions.huge_page_share is not None]
        if first.pages == "huge" and first.figure.level == "DRAM":
            missing = 1 - min(pages) if pages else 1.0
            known = f"{1 - missing:.0%} of the pages were huge" if pages else "page backing was not recorded"
            terms.append(_uniform("page backing", _PAGES * missing, known))
    terms.append(_uniform("selection", 0.0, "variants were chosen in a tuning pass of its own"))
    return terms


def _uniform(name: str, half: float, source: str) -> Term:
    return Term(name=name, kind="B", uncertainty=half / math.sqrt(3), source=source)
