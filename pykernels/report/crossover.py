"""The crossover report as text: what is compared, answers by workload, break-even rates, claims."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pykernels.analysis.crossover.answers import REFUSED, Answer, BreakEven, Claim, Report
from pykernels.analysis.crossover.axes import AXES
from pykernels.units import format_value

# ----------------------------------------------------------------------------------------------------------------- text


def text(report: Report, width: int = 100, *, with_claims: bool = False) -> str:
    """The report for a terminal: what is compared, a table and a sentence per answer, break-even rates, claims."""
    parts = [f"CPU: {report.cpu}\nGPU: {report.gpu}   [{report.source}]"]
    if report.assumptions:
        parts.append("assumed:\n" + "\n".join(f"  {line}" for line in report.assumptions))
    parts += [report.fit] if report.fit else []
    if report.answers:
        parts.append(_kinds(report.answers))
        parts += [_workload_text(name, answers, width) for name, answers in _by_workload(report.answers).items()]
    else:
        parts.append("no axis has four cells of one workload: single cells only (--json lists them)")
    if report.break_even:
        parts.append(_render(_break_even_table(_extremes(report.break_even)), width))
    parts += ["not compared: " + "; ".join(report.not_compared)] if report.not_compared else []
    parts += [claims_text(report.claims)] if with_claims else []
    return "\n\n".join(parts)


def claims_text(claims: Sequence[Claim]) -> str:
    """The seed claim and its four parts, each with its verdict and numbers."""
    lines = []
    for claim in claims:
        lines.append(f"{claim.verdict:<13} {claim.claim}")
        lines += [f"{'':<14}{number}" for number in claim.numbers]
        lines += [f"{'':<14}measure: {claim.measure}"] if claim.measure else []
    return "\n".join(lines)


def _moves(answer: Answer) -> str:
    """The sensitivity of a crossing in one line."""
    if not answer.sensitivity:
        return ""
    axis = AXES[answer.axis]
    moved = [f"{what}: {axis.format(v) if v is not None else 'none'}" for what, v in answer.sensitivity.items()]
    return "\n    moves to " + ", ".join(moved)


def _render(table: Any, width: int) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().split("\n"))


def _kinds(answers: Sequence[Answer]) -> str:
    """How many answers are of each kind."""
    kinds = Counter("none" if answer.kind.startswith("none") else answer.kind for answer in answers)
    return f"{len(answers)} answers: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _by_workload(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """Answers by the name of their workload, host ends before device ends."""
    groups: dict[str, list[Answer]] = {}
    for answer in sorted(answers, key=lambda one: one.ends[:2]):
        groups.setdefault(answer.workload.partition(" (")[0], []).append(answer)
    return groups


def _workload_text(name: str, answers: Sequence[Answer], width: int) -> str:
    """A table of the answers about one workload, then a sentence each; those without a conclusion share a line for each
    reason."""
    parts = [f"== {name}", _render(_answer_table(answers), width)]
    found = [answer for answer in answers if answer.kind != REFUSED]
    parts += ["\n".join(f"- {answer.sentence}{_moves(answer)}" for answer in found)] if found else []
    refused: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.kind == REFUSED:
            refused.setdefault("; ".join(answer.notes), []).append(answer)
    for reason, group in refused.items():
        where = "; ".join(f"{a.axis} {a.ends} {a.metric}" for a in group[:4])
        more = f" and {len(group) - 4} more" if len(group) > 4 else ""
        parts.append(f"- no conclusion over {where}{more}: {reason}")
    return "\n".join(parts)


def _answer_table(answers: Sequence[Answer]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False)
    for name in ("all else", "axis", "metric", "ends", "kind", "value", "low", "high"):
        right, fixed = name in ("value", "low", "high"), name != "all else"
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=fixed)
    for answer in answers:
        axis = AXES[answer.axis]
        values = [axis.format(v) for v in (answer.value, answer.low, answer.high)]
        held = answer.workload.partition(" (")[2].removesuffix(")") or answer.workload
        table.add_row(held, answer.axis, answer.metric, answer.ends, _short(answer.kind), *values)
    return table


def _short(kind: str) -> str:
    return kind.replace(" everywhere in range", "")


def _extremes(rows: Sequence[BreakEven], most: int = 12) -> list[BreakEven]:
    """The cells a reader looks for first: those whose break-even rate lies nearest to this CPU's own."""

    def distance(row: BreakEven) -> float:
        return abs(math.log(row.gbs / row.here_gbs)) if row.gbs and row.here_gbs else math.inf

    return sorted(rows, key=distance)[:most]


def _break_even_table(rows: Sequence[BreakEven]) -> Any:
    from rich.table import Table

    table = Table(
        box=None, pad_edge=False, title="CPU gather rate that would tie the GPU (nearest to this CPU's own first)",
        title_justify="left",
    )  # fmt: skip
    for name in ("workload", "ends", "GB/s", "interval", "Grows/s", "this CPU GB/s"):
        table.add_column(name, justify="left" if name in ("workload", "ends") else "right", overflow="fold")
    for row in rows:
        interval = f"[{_rate(row.gbs_low)}, {_rate(row.gbs_high)}]"
        table.add_row(row.workload, row.ends, _rate(row.gbs), interval, _rate(row.grows), _rate(row.here_gbs))
    return table


def _rate(value: float | None) -> str:
    return "none does" if value is None else format_value(value)
