"""Impossible results: what must not be above what, tested together so that a sound run is rarely accused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec
import numpy as np

from pykernels.analysis.common import CaseSummary, Limit, cores_used, domain, isa_rank, level_rank, limit_of
from pykernels.analysis.points import binding, flop_rate, roof_name
from pykernels.measure.stats import p_value
from pykernels.model import Machine, Record


class Excess(msgspec.Struct, frozen=True):
    """A test that one thing is not above another: per-launch log ratios (or one ratio and its interval's lower end)."""

    subject: str  # case id that is flagged
    text: str
    logs: tuple[float, ...]
    low: float = -math.inf  # for one launch: lower end of the log ratio


def excess(subject: str, text: str, above: CaseSummary, below: CaseSummary | float) -> Excess:
    """The test that `above` exceeds `below` (a case, or a limit in the same unit), in the direction of better."""
    if isinstance(below, CaseSummary):
        common = sorted(above.values.keys() & below.values.keys())
        logs = tuple(math.log(above.values[launch] / below.values[launch]) for launch in common)
        a, b = above.estimate.interval, below.estimate.interval
        low = math.log(a.low / b.high) if a and b and a.low > 0 and math.isfinite(b.high) else -math.inf
    else:
        logs = tuple(math.log(value / below) for value in above.values.values())
        a = above.estimate.interval
        low = math.log(a.low / below) if a and a.low > 0 else -math.inf
    return Excess(subject, text, logs, low)


def exceeding(tests: Iterable[Excess], alpha: float = 0.05) -> dict[str, list[str]]:
    """Flags by case id: tests that are passed at alpha over all of them (Bonferroni), so that a sound run has a false
    flag in at most 5% of cases."""
    tests = list(tests)
    flags: dict[str, list[str]] = {}
    for test in tests:
        logs = np.asarray(test.logs)
        if logs.size >= 2:
            mean = float(logs.mean())
            p = p_value(mean, float(logs.std(ddof=1)) / math.sqrt(logs.size), logs.size - 1) / 2
            beyond = mean > 1e-9 and p < alpha / len(tests)
        else:
            beyond = test.low > 0
        if beyond:
            by = math.expm1(float(logs.mean()) if logs.size else test.low)
            flags.setdefault(test.subject, []).append(f"{test.text} by {by:.1%}")
    return flags


#: a peak may pass measured clock x FLOP/cycle by this much: two reads of the clock and the loop around the additions
#: make the measured clock low by some tenths of a percent
CLOCK_ERROR = 1.005


# ------------------------------------------------------------------------------------------------------ what is tested


def level_tests(ceilings: Sequence[CaseSummary]) -> list[Excess]:
    """A level must not be slower than the next one out (nt stores are made for DRAM, and are slower in a cache)."""
    groups: dict[tuple[object, ...], list[CaseSummary]] = {}
    for case in ceilings:
        record = case.first
        if record.figure.kind == "bandwidth" and not record.figure.op.startswith("nt"):
            key = (domain(record), record.dtype, record.threads, record.isa, record.figure.op, record.pages,
                   record.backend, _shape(record))  # fmt: skip
            groups.setdefault(key, []).append(case)
    tests = []
    for group in groups.values():
        group.sort(key=lambda case: level_rank(case.first.figure.level))
        for inner, outer in pairwise(group):
            if inner.first.figure.level == "shared" and outer.first.figure.level == "L1":
                continue  # one memory under two names: either may be the faster
            text = f"slower than {outer.first.figure.level}"
            tests.append(excess(inner.first.case_id, text, outer, inner))
    return tests


def _shape(record: Record) -> tuple[tuple[str, str], ...]:
    """Parameters beside the level: only roofs that have them all in common are compared (rows of one size)."""
    return tuple(sorted((key, value) for key, value in record.params.items() if key != "level"))


def isa_tests(ceilings: Sequence[CaseSummary]) -> list[Excess]:
    """A wider ISA level must not be slower than a narrower one."""
    groups: dict[tuple[object, ...], list[CaseSummary]] = {}
    for case in ceilings:
        record = case.first
        if record.figure.kind in ("bandwidth", "compute", "rate") and isa_rank(record.isa) >= 0:
            figure = record.figure
            key = (domain(record), record.dtype, record.threads, figure.level, figure.op, record.pages, record.backend,
                   figure.kind, record.working_set, _shape(record))  # fmt: skip
            groups.setdefault(key, []).append(case)
    tests = []
    for group in groups.values():
        group.sort(key=lambda case: isa_rank(case.first.isa))
        for narrow, wide in pairwise(group):
            tests.append(excess(wide.first.case_id, f"slower than {narrow.first.isa}", narrow, wide))
    return tests


def limit_tests(ceilings: Iterable[CaseSummary], limits: Mapping[str, Limit], machine: Machine) -> list[Excess]:
    """Above the datasheet; for CPU peaks, above measured clock x FLOP/cycle x threads."""
    tests = []
    for case in ceilings:
        limit = limit_of(case.first, limits)
        if limit is None:
            continue
        what = "datasheet" if limit.label == "datasheet" else "the derived peak"
        if limit.unit == case.first.figure.unit:
            tests.append(excess(case.first.case_id, f"above {what}", case, limit.value))
        elif case.clocks:
            scale = limit.value * cores_used(case.first, machine)
            per_clock = {k: v / case.clocks.get(k, case.clock_ghz) / scale for k, v in case.values.items()}
            shares = msgspec.structs.replace(case.estimate, launch_values=per_clock, interval=None)
            relative = msgspec.structs.replace(case, estimate=shares)
            tests.append(excess(case.first.case_id, f"above {what} at the measured clock", relative, CLOCK_ERROR))
    return tests


def kernel_tests(kernels: Iterable[CaseSummary], ceilings: Sequence[CaseSummary]) -> list[Excess]:
    """A kernel above its roof: then the roof is wrong."""
    tests = []
    for case in kernels:
        found = binding(case, ceilings, case.first.figure.level)
        if found is None:
            continue
        _, roof, factor = found
        scale = 1e-9 * case.first.flops / factor
        rate = flop_rate(case)
        scaled = {launch: value * scale for launch, value in rate.values.items()}
        old = rate.interval
        interval = msgspec.structs.replace(old, low=old.low * scale, high=old.high * scale, value=old.value * scale)
        estimate = msgspec.structs.replace(rate.estimate, launch_values=scaled, interval=interval)
        above = msgspec.structs.replace(rate, estimate=estimate)
        tests.append(excess(case.first.case_id, f"above its roof ({roof_name(roof.first)})", above, roof))
    return tests
