"""Two runs, case by case: faster, slower, same, unclear or missing.

Between-sitting spread cannot be seen in two runs; it comes from further ones (`history`, three sittings at least), per
kernel and level, and is added to the error. Without it a verdict is about these two sittings only. Many cases are
tested: families (kernel x level) first, on their pooled log ratios, then the cases of the families that differ, both at
a false discovery rate of 5% (Benjamini and Hochberg), so that two equal runs rarely raise an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from pykernels.analysis.common import Campaign, CaseSummary, campaign
from pykernels.errors import UsageError
from pykernels.measure.stats import benjamini_hochberg, detectable, p_value, t_quantile, welch
from pykernels.model import Header
from pykernels.store import Run
from pykernels.units import format_size, higher_is_better

SCHEMA = 1
SAME = 0.05  #: a difference whose whole interval is smaller than this is called `same`
_SIZE = 0.01  #: working sets further apart than this are different cases
_MIN_SITTINGS = 3

VERDICTS = ("slower", "faster", "unclear", "same", "missing")


class CaseComparison(msgspec.Struct, kw_only=True):
    """One case. `change`, `low`, `high` are relative, positive is faster; `detectable` is the smallest slowdown that
    would have been found in 80% of comparisons like this one. `value_*`, geometric means over launches as
    the test compares them, are in `unit`, 0 where there is none."""

    case_id: str
    kernel: str
    level: str
    unit: str
    verdict: str
    reason: str = ""
    value_old: float = 0.0
    value_new: float = 0.0
    change: float = 0.0
    low: float = 0.0
    high: float = 0.0
    detectable: float | None = None


class Spread(msgspec.Struct, kw_only=True):
    """Between-sitting standard deviation (log scale) of a kernel on a level, from this many sittings."""

    kernel: str
    level: str
    spread: float
    sittings: int


class Comparison(msgspec.Struct, kw_only=True):
    """The answer of `pykernels compare`. `scope` is `machine` with enough history, else `these two sittings`."""

    schema: int = SCHEMA
    old: str
    new: str
    scope: str
    same: float
    counts: dict[str, int]
    cases: list[CaseComparison]
    differences: list[str] = []  # what else differs: machine, versions, settings
    spreads: list[Spread] = []
    notes: list[str] = []


def compare(old: Run, new: Run, history: Sequence[Run] = (), *, same: float = SAME) -> Comparison:
    """Compare two runs. `history` holds further runs; three sittings or more of one machine give the between-sitting
    spread. `same` is the largest change that still counts as none. Raises UsageError where the two share no case."""
    a, b = campaign([old]), campaign([new])
    if not a.cases.keys() & b.cases.keys():
        raise UsageError(f"{old.path} and {new.path} share no case; compare two runs of the same sweep")
    spreads, notes = _history(history)
    common = sorted(a.cases.keys() & b.cases.keys())
    tests = {case_id: _test(a.cases[case_id], b.cases[case_id], spreads) for case_id in common}
    guilty = _guilty({case_id: test for case_id, test in tests.items() if isinstance(test, _Test)})
    cases = []
    for case_id in sorted(a.cases.keys() | b.cases.keys()):
        case = a.cases.get(case_id) or b.cases[case_id]
        if case_id not in tests:
            where = old.path if case_id in a.cases else new.path
            cases.append(_plain(case, "missing", f"only in {where}"))
            continue
        test = tests[case_id]
        if isinstance(test, str):
            cases.append(_plain(case, "missing" if test.startswith("missing") else "unclear", test))
        else:
            cases.append(_verdict(case, a.cases[case_id], b.cases[case_id], test, case_id in guilty, same))
    cases.sort(key=lambda c: (VERDICTS.index(c.verdict), c.change if c.verdict == "slower" else -c.change, c.case_id))
    counts = {verdict: sum(case.verdict == verdict for case in cases) for verdict in VERDICTS}
    return Comparison(
        old=old.path, new=new.path, scope="machine" if spreads else "these two sittings", same=same, counts=counts,
        cases=cases, differences=differences(old.header, new.header), spreads=list(spreads.values()), notes=notes,
    )  # fmt: skip


class _Test(msgspec.Struct):
    """Log speed ratio new over old, its standard error and degrees of freedom."""

    family: tuple[str, str]
    difference: float
    error: float
    degrees: float

    @property
    def p(self) -> float:
        return p_value(self.difference, self.error, self.degrees)


def _family(case: CaseSummary) -> tuple[str, str]:
    return case.first.kernel, case.first.figure.level


def _test(a: CaseSummary, b: CaseSummary, spreads: Mapping[tuple[str, str], Spread]) -> _Test | str:
    """The test, or why there is none."""
    for case, which in ((a, "old"), (b, "new")):
        if case.reason.startswith(("skipped", "not measured")):
            return f"missing in the {which} run: {case.reason}"
        if case.reason:
            return f"{which} run: {case.reason}"
    sizes = a.first.working_set, b.first.working_set
    if max(sizes) > (1 + _SIZE) * min(sizes):
        return f"size differs: {format_size(sizes[0])} and {format_size(sizes[1])}"
    if a.first.figure.unit != b.first.figure.unit:
        return f"unit differs: {a.first.figure.unit} and {b.first.figure.unit}"
    sign = 1 if higher_is_better(a.first.figure.unit) else -1
    difference, error, degrees = welch(np.log(list(b.values.values())), np.log(list(a.values.values())))
    if not math.isfinite(error):
        return "one launch does not tell how launches differ"
    spread = spreads.get(_family(a))
    if spread:
        between = 2 * spread.spread**2
        total = error**2 + between
        weight = (error**4 / degrees if degrees else 0.0) + between**2 / (spread.sittings - 1)
        error, degrees = math.sqrt(total), total**2 / weight if weight else degrees
    return _Test(_family(a), sign * difference, error, degrees)


def _guilty(tests: Mapping[str, _Test]) -> set[str]:
    """Cases that differ: Benjamini-Hochberg over families, then over the cases of the families that were rejected."""
    families: dict[tuple[str, str], list[str]] = {}
    for case_id, test in tests.items():
        families.setdefault(test.family, []).append(case_id)
    names = list(families)
    rejected = benjamini_hochberg([_family_p([tests[case_id] for case_id in families[name]]) for name in names])
    found: set[str] = set()
    for name, differs in zip(names, rejected, strict=True):
        if differs:
            ids = families[name]
            # selecting families first costs the cases their share (Benjamini and Bogomolov 2014)
            rate = 0.05 * sum(rejected) / len(rejected)
            flags = benjamini_hochberg([tests[case_id].p for case_id in ids], rate)
            found |= {case_id for case_id, flag in zip(ids, flags, strict=True) if flag}
    return found


def _family_p(tests: Sequence[_Test]) -> float:
    """The smaller of two doubled: all cases moved together (pooled log ratio), or some did (Simes)."""
    if len(tests) == 1:
        return tests[0].p
    simes = min(sorted(p * len(tests) / (rank + 1) for rank, p in enumerate(sorted(test.p for test in tests))))
    weights = [1 / max(test.error, 1e-12) ** 2 for test in tests]
    pooled = sum(w * test.difference for w, test in zip(weights, tests, strict=True)) / sum(weights)
    together = p_value(pooled, 1 / math.sqrt(sum(weights)), min(test.degrees for test in tests))
    return min(1.0, 2 * min(simes, together))


def _verdict(
    case: CaseSummary, a: CaseSummary, b: CaseSummary, test: _Test, differs: bool, same: float
) -> CaseComparison:
    half = t_quantile(test.degrees, 0.975) * test.error
    change, low, high = (math.expm1(x) for x in (test.difference, test.difference - half, test.difference + half))
    reason = ""
    if differs and abs(change) > 0:
        verdict = "faster" if change > 0 else "slower"
        if -same <= low and high <= same:
            reason = f"the difference is real but under {same:.0%}"
    elif -same <= low and high <= same:
        verdict = "same"
    else:
        verdict, reason = "unclear", "the interval is wider than what it would have to tell apart"
        if low > 0 or high < 0:
            reason = "may be chance among so many cases"
    answer = _plain(case, verdict, reason)
    answer.value_old, answer.value_new = (math.exp(np.log(list(side.values.values())).mean()) for side in (a, b))
    answer.change, answer.low, answer.high = change, low, high
    least = detectable(test.error, test.degrees)
    answer.detectable = -math.expm1(-least) if math.isfinite(least) else None
    return answer


def _plain(case: CaseSummary, verdict: str, reason: str) -> CaseComparison:
    first = case.first
    return CaseComparison(
        case_id=first.case_id, kernel=first.kernel, level=first.figure.level, unit=first.figure.unit, verdict=verdict,
        reason=reason,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- history


def _history(history: Sequence[Run]) -> tuple[dict[tuple[str, str], Spread], list[str]]:
    """Between-sitting spread by family, pooled over its cases; nothing with under three sittings."""
    if not history:
        mend = "(--history RUN... of three sittings or more adds what sittings differ by)"
        return {}, [f"no history: a verdict is about these two sittings only {mend}"]
    by_machine: dict[str, list[Run]] = {}
    for run in history:
        by_machine.setdefault(run.header.machine.id, []).append(run)
    studies = [campaign(runs) for runs in by_machine.values()]
    sittings = max(study.sittings for study in studies)
    if sittings < _MIN_SITTINGS:
        need = f"the history holds {sittings} sitting{'s' * (sittings > 1)} of a machine, {_MIN_SITTINGS} are needed"
        return {}, [f"{need}: a verdict is about these two sittings only"]
    squares: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for study in studies:
        for case in study.cases.values():
            variance, degrees = _between(study, case)
            if degrees:
                squares.setdefault(_family(case), []).append((variance, degrees))
    return {
        (kernel, level): Spread(
            kernel=kernel, level=level, sittings=max(degrees for _, degrees in found) + 1,
            spread=math.sqrt(sum(v * d for v, d in found) / sum(d for _, d in found)),
        )
        for (kernel, level), found in squares.items()
    }, []  # fmt: skip


def _between(study: Campaign, case: CaseSummary) -> tuple[float, int]:
    """Variance between sittings, their launches' share taken off, and its degrees of freedom (0: too few sittings)."""
    groups: dict[int, list[float]] = {}
    for launch, value in case.values.items():
        groups.setdefault(study.sitting_of[launch], []).append(math.log(value))
    if len(groups) < _MIN_SITTINGS or case.reason:
        return 0.0, 0
    means = np.array([np.mean(group) for group in groups.values()])
    within = [np.var(group, ddof=1) / len(group) for group in groups.values() if len(group) > 1]
    return max(float(means.var(ddof=1)) - (float(np.mean(within)) if within else 0.0), 0.0), len(groups) - 1


# --------------------------------------------------------------------------------------------------------- differences


def differences(old: Header, new: Header) -> list[str]:
    """What the two headers do not share, `field: old -> new`, without what differs between any two runs."""
    passing = {"started", "machine.memory_available", "seed", "kind"}
    a, b = _flat(msgspec.to_builtins(old)), _flat(msgspec.to_builtins(new))
    found = []
    for key in sorted(a.keys() | b.keys()):
        if key not in passing and a.get(key) != b.get(key):
            found.append(f"{key}: {_shown(a.get(key))} -> {_shown(b.get(key))}")
    return found


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _shown(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
