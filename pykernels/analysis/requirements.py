"""Requirements: bounds as text in, verdicts out. Pure: cases of a run in, answers and their sentences out.

A bound is `>= 180` or `<= 12.5` in the metric's unit, `>= 80% of datasheet`, or, for the metric `share`, `>= 60% of
roof:LEVEL:op` (`roof:op` for a roof without a level). It fails only where the whole interval lies on its wrong side and
is `unclear` where the interval straddles it. One launch has no interval that speaks for other launches: unclear.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from pykernels.analysis.common import CaseSummary
from pykernels.errors import UsageError, unknown
from pykernels.machine.datasheets import Peak, compute_peak, memory_peak
from pykernels.measure.stats import ratio_interval
from pykernels.model import Machine, Record, short_hash
from pykernels.units import METRICS, format_value, higher_is_better, value_of

#: confidence at which a kernel counts as faster than its roof: far out, since a run holds many pairs
_SURE = 0.999

Status = Literal["pass", "fail", "unclear", "skip"]

_BOUND = re.compile(
    r"\s*(?P<side>>=|<=)\s*(?P<number>[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(?:%\s*of\s+(?P<of>\S+))?\s*", re.ASCII
)
_ROOF = re.compile(r"roof:(?:(?P<level>[A-Za-z0-9]+):)?(?P<op>[A-Za-z0-9_-]+)")


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """One parsed bound. `number` is in the metric's unit, or a fraction (0.6) where `of` is `datasheet` or `roof`."""

    metric: str
    side: Literal[">=", "<="]
    number: float
    of: Literal["", "datasheet", "roof"] = ""
    level: str = ""
    op: str = ""

    @property
    def roof(self) -> str:
        """The roof as it is written: `roof:DRAM:load`, or "" for a bound without one."""
        return ":".join(part for part in ("roof", self.level, self.op) if part) if self.of == "roof" else ""

    @property
    def text(self) -> str:
        """The bound in its plain form: `share >= 60% of roof:DRAM:load`."""
        target = f"{self.number * 100:g}% of {self.roof or self.of}" if self.of else f"{self.number:g}"
        return f"{self.metric} {self.side} {target}"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How one case stands to one bound. `value`, `low`, `high` are the case's figure in `unit` (NaN: it has none),
    `limit` the bound in that unit, `share` (ratio, low, high) the paired share of `roof`, a case id."""

    status: Status
    bound: Bound
    case_id: str
    reason: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    unit: str = ""
    launches: int = 0
    method: str = ""
    limit: float = math.nan
    limit_source: str = ""
    share: tuple[float, float, float] | None = None
    roof: str = ""
    roof_value: float = math.nan
    roof_unit: str = ""


# ---------------------------------------------------------------------------------------------------------------- parse


def parse(metric: str, text: str, *, where: str = "") -> Bound:
    """The bound in `text` on `metric`. Raises UsageError that names `where`, the text and what would be right."""
    prefix = f"{where}: " if where else ""
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS, where=where)
    found = _BOUND.fullmatch(text)
    if not found:
        raise UsageError(f'{prefix}{metric} = "{text}" is not a bound (write for example {_example(metric)})')
    side: Literal[">=", "<="] = ">=" if found["side"] == ">=" else "<="
    number, of = float(found["number"]), found["of"] or ""
    if not 0 < number < math.inf:
        raise UsageError(f'{prefix}{metric} = "{text}": the bound must be above zero and finite')
    if metric == "share":
        roof = _ROOF.fullmatch(of)
        if not roof:
            raise UsageError(f'{prefix}share = "{text}": a share is of a roof (write for example {_example(metric)})')
        return Bound(metric=metric, side=side, number=number / 100, of="roof", level=roof["level"] or "", op=roof["op"])
    if not of:
        return Bound(metric=metric, side=side, number=number)
    if of != "datasheet":
        better = f'share = "{text.strip()}"' if of.startswith("roof") else _example(metric)
        raise UsageError(f'{prefix}{metric} = "{text}": {metric} is bounded by a number or the datasheet ({better})')
    return Bound(metric=metric, side=side, number=number / 100, of="datasheet")


def parse_line(line: str, *, where: str = "") -> Bound:
    """The bound in one line, `GBps >= 80% of datasheet`. Raises UsageError."""
    metric, _, _ = line.strip().partition(" ")
    metric = re.split(r"[<>=]", metric, maxsplit=1)[0]
    return parse(metric, line.strip()[len(metric) :], where=where)


def _example(metric: str) -> str:
    return '">= 60% of roof:DRAM:load"' if metric == "share" else '">= 180" or ">= 80% of datasheet"'


def check_unit(bound: Bound, unit: str, case_id: str, *, where: str = "") -> None:
    """Raise UsageError where the metric is not the unit of the case's figure (`unit`)."""
    if bound.metric == "share" or METRICS[bound.metric] == unit:
        return
    right = [metric for metric, name in METRICS.items() if name == unit]
    prefix = f"{where}: " if where else ""
    raise UsageError(
        f"{prefix}{bound.metric} does not fit {case_id}, whose figure is in {unit}"
        f" (write {right[0] if right else 'share'})"
    )


# ---------------------------------------------------------------------------------------------------------------- judge


def judge(bound: Bound, case: CaseSummary, machine: Machine, *, roof: CaseSummary | None = None) -> Verdict:
    """Hold one case to a bound.

    `roof` is the case that `bound.roof` names, of the same launches; the datasheet is that of `machine`. A bound
    without its roof or its datasheet is skipped with the reason."""
    verdict = _figure(bound, case)
    if not case.estimate.interval or case.reason:
        return msgspec.structs.replace(verdict, status=_status_of(case), reason=case.reason)
    if bound.of == "roof":
        return _share(verdict, case, roof)
    if bound.of == "datasheet":
        return _datasheet(verdict, datasheet_peak(machine, case.first))
    return _settle(verdict, verdict.low, verdict.high, bound.number, "")


def _figure(bound: Bound, case: CaseSummary) -> Verdict:
    """A verdict with the case's figure in it and nothing decided."""
    interval, unit = case.estimate.interval, case.first.figure.unit
    if interval is None:
        return Verdict(status="skip", bound=bound, case_id=case.first.case_id, unit=unit)
    return Verdict(
        status="skip", bound=bound, case_id=case.first.case_id, value=interval.value, low=interval.low,
        high=interval.high, unit=unit, launches=interval.launches, method=interval.method,
    )  # fmt: skip


def state(case: CaseSummary) -> str:
    """`measured`, `wrong`, `crashed`, `disturbed`, `skipped` or `not measured`."""
    return case.reason.partition(":")[0] or "measured"


def _status_of(case: CaseSummary) -> Status:
    """A case without a value: wrong and crashed fail, disturbed is unclear, what never ran is skipped."""
    failing: dict[str, Status] = {"wrong": "fail", "crashed": "fail", "disturbed": "unclear"}
    return failing.get(state(case), "skip")


def _settle(verdict: Verdict, low: float, high: float, limit: float, source: str) -> Verdict:
    """Compare an interval in the limit's unit with it."""
    at_least = verdict.bound.side == ">="
    reason = ""
    status: Status = "unclear"
    if verdict.launches < 2:
        reason = "one launch does not tell how launches differ"
    elif low >= limit if at_least else high <= limit:
        status = "pass"
    elif high < limit if at_least else low > limit:
        status = "fail"
    else:
        reason = "the interval straddles the bound"
    return msgspec.structs.replace(verdict, status=status, reason=reason, limit=limit, limit_source=source)


def datasheet_peak(machine: Machine, record: Record) -> Peak:
    """What the datasheet says of a case's figure: memory bandwidth for DRAM, the arithmetic peak of its dtype; anything
    else has no datasheet, and the peak says so in its reason."""
    figure = record.figure
    if figure.unit == "GB/s" and figure.level == "DRAM":
        return memory_peak(machine, record.device)
    if figure.kind == "compute" and not figure.level:
        return compute_peak(machine, record.device, record.dtype, isa=record.isa)
    what = " ".join(part for part in (figure.level, figure.op or figure.kind, "in", figure.unit) if part)
    return Peak(0.0, figure.unit, "datasheet", reason=f"datasheets give no figure for {what}")


def _datasheet(verdict: Verdict, peak: Peak) -> Verdict:
    if peak.label == "derived":
        reason = "the arithmetic peak of a CPU is derived, not a datasheet's"
        return msgspec.structs.replace(verdict, status="skip", reason=reason)
    if not peak.value:
        return msgspec.structs.replace(verdict, status="skip", reason=peak.reason)
    source = f"{verdict.bound.number * 100:g}% of {peak.value:g} {verdict.unit}, datasheet: {peak.basis}"
    return _settle(verdict, verdict.low, verdict.high, verdict.bound.number * peak.value, source)


def _share(verdict: Verdict, case: CaseSummary, roof: CaseSummary | None) -> Verdict:
    """The share is the per-launch ratio of the case to its roof, both in the roof's unit."""
    wanted = verdict.bound.roof
    if roof is None:
        return msgspec.structs.replace(verdict, status="skip", reason=f"{wanted} was not measured")
    figure = roof.first.figure
    verdict = msgspec.structs.replace(verdict, roof=roof.first.case_id, roof_unit=figure.unit)
    if not roof.estimate.interval or roof.reason:
        return msgspec.structs.replace(verdict, status=_status_of(roof), reason=f"its {wanted} is {roof.reason}")
    mine = values_in(case, roof.first)
    if mine is None:
        reason = f"a figure in {case.first.figure.unit} has no share of a roof in {figure.unit}"
        return msgspec.structs.replace(verdict, status="skip", reason=reason)
    above, below = (mine, roof.values) if higher_is_better(figure.unit) else (roof.values, mine)
    ratio = ratio_interval(above, below)
    verdict = msgspec.structs.replace(
        verdict, share=ratio, roof_value=roof.estimate.interval.value, launches=len(above.keys() & below.keys())
    )
    if verdict.bound.side == ">=" and not case.first.figure.ceiling and _beats(above, below):
        return msgspec.structs.replace(verdict, status="unclear", reason=f"it beats {wanted}: that roof is too low")
    return _settle(verdict, ratio[1], ratio[2], verdict.bound.number, "")


def _beats(above: Mapping[int, float], below: Mapping[int, float]) -> bool:
    """A kernel surely over its roof: then the roof is wrong, and a share of it proves nothing."""
    return ratio_interval(above, below, confidence=_SURE)[1] > 1


def values_in(case: CaseSummary, roof: Record) -> dict[int, float] | None:
    """Launch values of a case in the unit of a roof: its own figure where that is in its unit, else its compulsory
    bytes under a bandwidth roof and its FLOPs under a compute roof. None where there is no such measure."""
    first, unit = case.first, roof.figure.unit
    if first.figure.unit == unit:
        return dict(case.values)
    amount = {"GB/s": first.bytes_compulsory, "GFLOP/s": first.flops, "GOP/s": first.flops}.get(unit, 0.0)
    if not amount:
        return None
    own, amount_own = first.figure.unit, first.figure.amount
    one = value_of(own, amount_own, 1.0)
    seconds = {n: one / value if higher_is_better(own) else value / one for n, value in case.values.items()}
    return {launch: value_of(unit, amount, s) for launch, s in seconds.items()}


# ----------------------------------------------------------------------------------------------------------------- text


def headline(verdict: Verdict) -> str:
    """One line: `GBps >= 20: 20.0 [18.1, 22.0] GB/s, the interval straddles the bound`."""
    figures = [_measured(verdict)] if verdict.share or math.isfinite(verdict.value) else []
    return f"{verdict.bound.text}: {', '.join([*figures, *([verdict.reason] if verdict.reason else [])])}"


def _measured(verdict: Verdict) -> str:
    if verdict.share:
        ratio, low, high = (f"{100 * x:.1f}%" if math.isfinite(x) else "unbounded" for x in verdict.share)
        return f"{ratio} [{low}, {high}] of {verdict.bound.roof}"
    half = (verdict.high - verdict.low) / 2
    value, low, high = (format_value(x, half) for x in (verdict.value, verdict.low, verdict.high))
    return f"{value} [{low}, {high}] {verdict.unit}"


def explain(verdict: Verdict, records: Sequence[Record], contended: float) -> list[str]:
    """Lines that say what was found, against what, and what went on around the visits (`records` of the case)."""
    lines = [f"{verdict.case_id}", f"  requires    {verdict.bound.text}"]
    if math.isfinite(verdict.value):
        lines.append(f"  measured    {_measured(verdict)}   95% over {_count(verdict.launches, 'launch', 'es')}")
    if verdict.share:
        half = (verdict.high - verdict.low) / 2
        mine, its = format_value(verdict.value, half), format_value(verdict.roof_value)
        lines.append(f"  figures     {mine} {verdict.unit} under {its} {verdict.roof_unit} of {verdict.roof}")
    elif math.isfinite(verdict.limit):
        source = f" ({verdict.limit_source})" if verdict.limit_source else ""
        lines.append(f"  bound       {verdict.bound.side} {format_value(verdict.limit)} {verdict.unit}{source}")
    if verdict.reason:
        lines.append(f"  because     {verdict.reason}")
    lines.append(f"  conditions  {conditions(records, contended)}")
    return lines


def conditions(records: Sequence[Record], contended: float) -> str:
    """What went on: share of contended samples, and steal, load, throttling and temperature over the visits."""
    seen = [record.conditions for record in records]
    parts = [f"contended {contended:.0%} of samples", f"steal {_count(sum(c.steal_ticks for c in seen), 'tick', 's')}"]
    parts.append(f"load {max((c.load_1min for c in seen), default=0.0):.2f}")
    throttled = [c.throttle_count for c in seen if c.throttle_count is not None]
    parts.append(f"throttled {_count(sum(throttled), 'time', 's')}" if throttled else "throttling not readable")
    degrees = [c.temperature_c for c in seen if c.temperature_c is not None]
    if degrees:
        parts.append(f"at most {max(degrees):.0f} C")
    return ", ".join(parts)


def properties(verdict: Verdict) -> list[tuple[str, str]]:
    """Name and text of every figure of the verdict, for JUnit: value, low, high, unit, bound, roof, share."""
    found: list[tuple[str, str]] = [("case", verdict.case_id), ("hash", short_hash(verdict.case_id))]
    found += [("bound", verdict.bound.text), ("verdict", verdict.status)]
    if math.isfinite(verdict.value):
        found += figure_properties(verdict.value, verdict.low, verdict.high, verdict.unit)
    if math.isfinite(verdict.limit) and not verdict.share:
        found.append(("limit", f"{verdict.limit:.6g}"))
    if verdict.roof:
        found.append(("roof", verdict.roof))
    if verdict.share:
        names = ("share", "share_low", "share_high")
        found += [(name, f"{x:.6g}") for name, x in zip(names, verdict.share, strict=True)]
        found.append(("roof_value", f"{verdict.roof_value:.6g}"))
    return found


def figure_properties(value: float, low: float, high: float, unit: str) -> list[tuple[str, str]]:
    """A figure and its interval as properties."""
    return [("value", f"{value:.6g}"), ("low", f"{low:.6g}"), ("high", f"{high:.6g}"), ("unit", unit)]


def _count(number: int, noun: str, plural: str) -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"
