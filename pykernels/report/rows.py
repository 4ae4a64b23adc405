"""A run file as rows for other tools: one flat row a visit, or one a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pykernels.measure.stats import visit_of
from pykernels.model import Disturbed, Measured, Record
from pykernels.store import Run
from pykernels.units import higher_is_better, value_of

_DESCRIBED = (
    "case_id", "case", "kernel", "dtype", "backend", "isa", "variant", "device", "threads", "pages", "memory", "mode",
    "launch_path", "ends", "launch", "round", "started", "wall_s", "flops", "bytes_requested", "bytes_compulsory",
    "bytes_write_allocate", "working_set",
)  # fmt: skip


def visits(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """One row a visit: what was measured where, `status` and its reason, and for timed ones `value` in `unit` and
    `time_s`, the median seconds of a call over the clean samples. Parameters become columns `param_NAME`."""
    for run in runs:
        for record in run.records:
            row = _described(run, record)
            if isinstance(record.outcome, Measured | Disturbed):
                row |= _timed(record, record.outcome)
            yield row


def samples(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """One row a sample: the visit's columns, the sample's number, seconds of a call, `value`, and its conditions."""
    for run in runs:
        for record in run.records:
            if not isinstance(record.outcome, Measured | Disturbed):
                continue
            row, outcome, figure = _described(run, record), record.outcome, record.figure
            beside: dict[str, Sequence[float]] = {
                "cpu_over_wall": outcome.cpu_over_wall, "involuntary_switches": outcome.involuntary_switches,
                "clock_ghz": outcome.clock_ghz, "start_skew_s": outcome.start_skew_s, "host_s": outcome.host_s,
            }  # fmt: skip
            for number, seconds in enumerate(outcome.samples_s):
                value = value_of(figure.unit, figure.amount, seconds)
                extra = {name: column[number] for name, column in beside.items() if number < len(column)}
                yield row | {"sample": number, "time_s": seconds, "value": value} | extra


def columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Every column that any row has, in the order of first sight."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _timed(record: Record, outcome: Measured | Disturbed) -> dict[str, Any]:
    """The median over the clean samples; no value where none is clean."""
    figure, total = record.figure, len(outcome.samples_s)
    seen = visit_of(outcome, figure.unit, figure.amount, launch=record.launch, round=record.round)
    row: dict[str, Any] = {"samples": total, "contended": round(1 - seen.values.size / total, 4) if total else 0.0}
    if seen.values.size:
        one = value_of(figure.unit, figure.amount, 1.0)
        seconds = one / seen.median if higher_is_better(figure.unit) else seen.median / one
        row |= {"value": seen.median, "time_s": seconds}
    return row


def _described(run: Run, record: Record) -> dict[str, Any]:
    header = run.header
    row: dict[str, Any] = {
        "run": run.path, "source": header.source, "machine": header.machine.id, "cpu_model": header.machine.cpu_model,
    }  # fmt: skip
    row |= {name: getattr(record, name) for name in _DESCRIBED}
    row |= {f"param_{name}": value for name, value in record.params.items()}
    outcome, figure = record.outcome, record.figure
    reason = next((getattr(outcome, name) for name in ("reason", "why", "how", "where") if hasattr(outcome, name)), "")
    stated = {"level": figure.level, "op": figure.op, "roof_kind": figure.kind, "unit": figure.unit}
    return row | stated | {"status": outcome.__struct_config__.tag, "reason": reason}
