"""`pykernels compare` as text."""

from __future__ import annotations

from pykernels.analysis.compare import VERDICTS, CaseComparison, Comparison
from pykernels.report.table import paragraph, percent
from pykernels.units import format_value

_SHOWN = 20  #: cases of a verdict that are listed; --json has them all


def text(comparison: Comparison, width: int = 100) -> str:
    """Counts, every case that is slower, faster or unclear with both values, and what else differs between the runs."""
    counts = comparison.counts
    head = " · ".join(f"{verdict} {counts[verdict]}" for verdict in ("same", "faster", "slower", "unclear", "missing"))
    whose = {"machine": "what sittings differ by is part of every interval"}.get(
        comparison.scope, "about these two sittings only: another sitting of the same machine may differ by more"
    )
    about = f"{comparison.old} -> {comparison.new}; 95% intervals; same is within {percent(comparison.same)}; {whose}"
    parts = [f"{head}\n{paragraph(about, width)}"]
    for verdict in VERDICTS:
        cases = [case for case in comparison.cases if case.verdict == verdict]
        if cases and verdict != "same":
            parts.append(_listed(verdict, cases, width))
    parts.append(_smallest(comparison, width))
    if comparison.differences:
        parts.append(
            "what else differs:\n" + "\n".join(paragraph(d, width, indent="  ") for d in comparison.differences)
        )
    parts += [paragraph(note, width) for note in comparison.notes]
    return "\n\n".join(part for part in parts if part)


def _listed(verdict: str, cases: list[CaseComparison], width: int) -> str:
    """Two lines a case: its id, then both values and the change, or why there is none."""
    lines = [f"{verdict}: {len(cases)}"]
    for case in cases[:_SHOWN]:
        lines.append(f"  {case.case_id}")
        lines.append(
            paragraph(_change(case) if case.value_old else f"{verdict} ({case.reason})", width, indent="      ")
        )
    if len(cases) > _SHOWN:
        lines.append(f"  and {len(cases) - _SHOWN} more (--json lists them)")
    return "\n".join(lines)


def _change(case: CaseComparison) -> str:
    both = f"{format_value(case.value_old)} -> {format_value(case.value_new)} {case.unit}"
    change = f"{100 * case.change:+.1f}% [{100 * case.low:+.1f}, {100 * case.high:+.1f}]"
    least = f"   could see {percent(case.detectable)}" if case.detectable is not None else ""
    return f"{both}   {change}{least}" + (f"   {case.reason}" if case.reason else "")


def _smallest(comparison: Comparison, width: int) -> str:
    """What slowdown the comparison could have seen, so that `same` and `unclear` say something."""
    seen = sorted(case.detectable for case in comparison.cases if case.detectable is not None)
    if not seen:
        return ""
    middle = seen[len(seen) // 2]
    return paragraph(
        f"a slowdown of {percent(middle)} would have been found in half of the cases (80% power, one case alone); "
        f"{percent(seen[0])} in the steadiest, {percent(seen[-1])} in the least steady",
        width,
    )
