"""Bounds and verdicts: every status from runs of known truth, to the digit where there is no noise."""

from __future__ import annotations

import math

import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from synthetic import Noise, Spec, bandwidth, compute, kernel

from pykernels.analysis.common import CaseSummary, campaign
from pykernels.analysis.requirements import (
    Bound,
    Verdict,
    check_unit,
    conditions,
    datasheet_peak,
    explain,
    headline,
    judge,
    parse,
    parse_line,
    properties,
)
from pykernels.errors import UsageError
from pykernels.machine.datasheets import datasheets
from pykernels.model import Core, Crashed, Disturbed, Machine, Skipped, Wrong


def _cases(*specs: Spec, launches: int = 5, noise: Noise | None = None) -> list[CaseSummary]:
    run = synthetic.run(specs, launches=launches, noise=noise)
    cases = campaign([run]).cases
    return [cases[spec.case_id] for spec in specs]


def _known_machine() -> Machine:
    """Whole sockets of a CPU whose datasheet is on record."""
    row = next(row for row in datasheets().values() if row.kind == "cpu" and row.memory_gbs)
    cores = tuple(Core(n, (n,)) for n in range(row.cores))
    return Machine(id="known", arch="x86_64", cpu_model=row.name, cores=cores, affinity=tuple(range(row.cores)))


def _status(line: str, *specs: Spec, **more: object) -> Verdict:
    case, *roof = _cases(*specs, **more)  # type: ignore[arg-type]
    return judge(parse_line(line), case, synthetic.machine(), roof=roof[0] if roof else None)


@pytest.mark.parametrize(
    ("line", "text", "roof"),
    [
        ("GBps >= 180", "GBps >= 180", ""),
        ("GBps>=180", "GBps >= 180", ""),
        ("ns <= 1.2e2", "ns <= 120", ""),
        ("GFLOPps >= 80% of datasheet", "GFLOPps >= 80% of datasheet", ""),
        ("GBps <=105 % of  datasheet", "GBps <= 105% of datasheet", ""),
        ("share >= 60% of roof:DRAM:nt-copy", "share >= 60% of roof:DRAM:nt-copy", "roof:DRAM:nt-copy"),
        ("share >= 60% of roof:fma", "share >= 60% of roof:fma", "roof:fma"),
    ],
)
def test_bounds_are_read(line: str, text: str, roof: str) -> None:
    bound = parse_line(line)
    assert (bound.text, bound.roof) == (text, roof)
    assert parse_line(bound.text) == bound


@pytest.mark.parametrize(
    ("metric", "text", "named"),
    [
        ("GBps", "180", 'GBps = "180" is not a bound (write for example ">= 180"'),
        ("GBps", "> 180", "is not a bound"),
        ("GBps", ">= -3", "is not a bound"),
        ("GBps", ">= 80%", "is not a bound"),
        ("GBps", ">= 0", "above zero and finite"),
        ("GBps", ">= 1e999", "above zero and finite"),
        (
            "GBps",
            ">= 80% of roof:DRAM:load",
            'bounded by a number or the datasheet (share = ">= 80% of roof:DRAM:load")',
        ),
        ("GBps", ">= 80% of datashet", "bounded by a number or the datasheet"),
        ("share", ">= 0.6", "a share is of a roof"),
        ("share", ">= 60% of datasheet", "a share is of a roof"),
        ("GBs", ">= 1", 'unknown metric "GBs" (did you mean "GBps"?)'),
    ],
)
def test_bad_bounds_are_named(metric: str, text: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(metric, text, where="a.toml: require 1")
    assert named in caught.value.message
    assert caught.value.message.startswith("a.toml: require 1: ")


def test_a_metric_of_another_unit_is_refused() -> None:
    check_unit(parse_line("share >= 1% of roof:DRAM:load"), "GFLOP/s", "gemm")
    with pytest.raises(UsageError, match=r"GBps does not fit gemm.*GFLOP/s.*write GFLOPps"):
        check_unit(parse_line("GBps >= 1"), "GFLOP/s", "gemm")


def test_a_noiseless_figure_is_judged_to_the_digit() -> None:
    verdict = _status("GBps >= 40", bandwidth("DRAM", 40.0))
    assert verdict.status == "pass"
    assert verdict.value == pytest.approx(40.0, rel=1e-12)
    assert _status("GBps >= 40.0001", bandwidth("DRAM", 40.0)).status == "fail"
    assert _status("GBps <= 39.9999", bandwidth("DRAM", 40.0)).status == "fail"
    assert _status("GBps <= 40.0001", bandwidth("DRAM", 40.0)).status == "pass"


def test_an_interval_astride_its_bound_is_unclear() -> None:
    noise = Noise(launch=0.05, seed=3)
    verdict = _status("GBps >= 40", bandwidth("DRAM", 40.0), noise=noise)
    assert verdict.low < 40 < verdict.high
    assert (verdict.status, verdict.reason) == ("unclear", "the interval straddles the bound")
    assert _status("GBps >= 20", bandwidth("DRAM", 40.0), noise=noise).status == "pass"
    assert _status("GBps >= 80", bandwidth("DRAM", 40.0), noise=noise).status == "fail"


def test_one_launch_is_unclear_whatever_it_says() -> None:
    verdict = _status("GBps >= 1", bandwidth("DRAM", 40.0), launches=1)
    assert (verdict.status, verdict.reason) == ("unclear", "one launch does not tell how launches differ")


def test_a_share_is_paired_by_launch() -> None:
    """Launches that move both alike by 20% leave the ratio as it is."""
    noise = Noise(shared_launch=0.2, seed=1)
    specs = (bandwidth("DRAM", 30.0, "copy"), bandwidth("DRAM", 40.0))
    verdict = _status("share >= 74% of roof:DRAM:load", *specs, noise=noise)
    assert verdict.status == "pass"
    assert verdict.share == pytest.approx((0.75, 0.75, 0.75), rel=1e-9)
    assert verdict.high / verdict.low > 1.1
    assert _status("share >= 76% of roof:DRAM:load", *specs, noise=noise).status == "fail"


def test_a_kernel_in_flops_is_held_to_a_bandwidth_roof_by_its_bytes() -> None:
    """2 FLOP/byte at 30 GFLOP/s are 15 GB/s, half of 30 GB/s."""
    verdict = _status("share >= 50% of roof:DRAM:load", kernel("gemv", 30.0, 2.0), bandwidth("DRAM", 30.0))
    assert verdict.share == pytest.approx((0.5, 0.5, 0.5), rel=1e-9)


def test_a_kernel_over_its_roof_proves_nothing() -> None:
    specs = (kernel("gemv", 100.0, 2.0), bandwidth("DRAM", 30.0))
    verdict = _status("share >= 60% of roof:DRAM:load", *specs)
    assert (verdict.status, verdict.reason) == ("unclear", "it beats roof:DRAM:load: that roof is too low")
    assert _status("share <= 100% of roof:DRAM:load", *specs).status == "fail"
    ceilings = (bandwidth("L2", 100.0), bandwidth("DRAM", 30.0))  # of ceilings one may be above the other
    assert _status("share >= 60% of roof:DRAM:load", *ceilings).status == "pass"


def test_the_datasheet_is_that_of_a_known_model() -> None:
    machine = _known_machine()
    cases = _cases(bandwidth("DRAM", 1.0), compute(100.0), bandwidth("L2", 100.0))
    peak = datasheet_peak(machine, cases[0].first).value
    assert peak > 10
    verdict = judge(parse_line("GBps <= 105% of datasheet"), cases[0], machine)
    assert (verdict.status, verdict.limit) == ("pass", pytest.approx(1.05 * peak))
    assert judge(parse_line("GBps >= 80% of datasheet"), cases[0], machine).status == "fail"
    assert f"105% of {peak:g} GB/s, datasheet" in verdict.limit_source


@pytest.mark.parametrize(
    ("spec", "line", "reason"),
    [
        (bandwidth("DRAM", 40.0), "GBps >= 80% of datasheet", 'no datasheet on record for "Synthetic CPU"'),
        (compute(100.0), "GFLOPps >= 80% of datasheet", "the arithmetic peak of a CPU is derived, not a datasheet's"),
        (bandwidth("L2", 40.0), "GBps >= 80% of datasheet", "datasheets give no figure for L2 load in GB/s"),
    ],
)
def test_without_a_datasheet_it_is_skipped_with_the_reason(spec: Spec, line: str, reason: str) -> None:
    verdict = _status(line, spec)
    assert (verdict.status, verdict.reason) == ("skip", reason)


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        (Wrong(max_error=3.0, bound=1.0, where="c[7]"), "fail", "wrong: error 3 > 1 at c[7], before timing"),
        (Crashed(how="signal SIGILL"), "fail", "crashed: signal SIGILL"),
        (Skipped(reason="no such unit"), "skip", "skipped: no such unit"),
        (Disturbed(samples_s=[1e-3] * 4, cpu_over_wall=[0.5] * 4, why="busy"), "unclear", "0 of 20 samples are clean"),
    ],
)
def test_cases_without_a_value(outcome: object, status: str, reason: str) -> None:
    broken = bandwidth("DRAM", 40.0, outcome=outcome)
    verdict = _status("GBps >= 1", broken)
    assert verdict.status == status
    assert reason in verdict.reason
    assert math.isnan(verdict.value)
    under = _status("share >= 1% of roof:DRAM:load", bandwidth("L2", 90.0), broken)
    assert under.status == status
    assert under.reason.startswith("its roof:DRAM:load is ")
    assert reason in under.reason


def test_the_text_holds_value_interval_bound_and_conditions() -> None:
    case = _cases(bandwidth("DRAM", 40.0), noise=Noise(contended=0.2, seed=2))[0]
    verdict = judge(parse_line("GBps >= 50"), case, synthetic.machine())
    text = "\n".join(explain(verdict, [case.first], case.estimate.contended))
    assert headline(verdict) == "GBps >= 50: 40.0 [40.0, 40.0] GB/s"
    for part in (case.first.case_id, "requires    GBps >= 50", "40.0 [40.0, 40.0] GB/s", "5 launches", ">= 50.0 GB/s"):
        assert part in text
    assert f"contended {case.estimate.contended:.0%} of samples, steal 0 ticks, load 0.00" in text
    found = dict(properties(verdict))
    assert (found["value"], found["unit"], found["verdict"], found["bound"]) == ("40", "GB/s", "fail", "GBps >= 50")
    assert found["hash"] == case.first.case


def test_conditions_add_up_over_the_visits() -> None:
    case = _cases(bandwidth("DRAM", 40.0))[0]
    records = [case.first, case.first]
    for record, ticks in zip(records, (3, 3), strict=True):
        record.conditions.steal_ticks, record.conditions.load_1min = ticks, 1.5
        record.conditions.throttle_count, record.conditions.temperature_c = 1, 71.0
    assert (
        conditions(records, 0.0) == "contended 0% of samples, steal 6 ticks, load 1.50, throttled 2 times, at most 71 C"
    )


@given(st.floats(1.0, 100.0), st.floats(0.0, 0.1), st.integers(0, 50), st.sampled_from([">=", "<="]))
def test_a_status_says_where_the_interval_lies(limit: float, spread: float, seed: int, side: str) -> None:
    case = _cases(bandwidth("DRAM", 40.0), noise=Noise(launch=spread, seed=seed))[0]
    verdict = judge(parse_line(f"GBps {side} {limit!r}"), case, synthetic.machine())
    inside = verdict.low >= limit if side == ">=" else verdict.high <= limit
    outside = verdict.high < limit if side == ">=" else verdict.low > limit
    assert verdict.status == ("pass" if inside else "fail" if outside else "unclear")


@given(st.floats(0.01, 1e6), st.sampled_from([">=", "<="]), st.sampled_from(["", "datasheet", "roof"]))
def test_text_and_bound_say_the_same(number: float, side: str, of: str) -> None:
    metric = "share" if of == "roof" else "GBps"
    text = f"{side} {number:g}" if not of else f"{side} {number:g}% of {'roof:L3:gather' if of == 'roof' else of}"
    bound = parse(metric, text)
    again = parse_line(bound.text)
    assert isinstance(bound, Bound)
    assert (again.metric, again.side, again.of, again.roof) == (bound.metric, bound.side, bound.of, bound.roof)
    assert again.number == pytest.approx(bound.number, rel=1e-5)
