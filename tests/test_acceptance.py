"""Acceptance without pytest: checks and roofs of a sweep, one replayed measurement, answers to the digit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import synthetic

from pykernels.acceptance import Acceptance, Check, Door, load_acceptance, one_case, open_door, study_text
from pykernels.backends.replay import load_replay
from pykernels.errors import UsageError
from pykernels.model import Machine, Record
from pykernels.plan import make_plan
from pykernels.store import load_run
from pykernels.sweep import check_study, parse_sweep, sweeps_folder

HEAD = "pykernels = 1\nlaunches = 3\n"
COPY = '[[study]]\nkernel = "stream"\nop = "copy"\nlevel = "L2"\nthreads = 1\n'
SHARE = '[[require]]\ncase = "stream[op=copy*"\nshare = ">= 60% of roof:L2:load"\n'


class Silent:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def visited(self, record: Record, done: int, total: int) -> None:
        """Not of interest."""

    def note(self, text: str) -> None:
        """Kept."""
        self.notes.append(text)


def _door(machine: Machine | None = None) -> Door:
    """A door that measures nothing: every case may run, and no visit is in the file."""
    from pykernels.backends.replay import Replay

    return Door(machine or synthetic.machine(), Replay(path=Path("none")))


def _acceptance(text: str, door: Door | None = None) -> Acceptance:
    return Acceptance(parse_sweep(HEAD + text, where="a.toml"), door or _door(), where="a.toml")


def _replay(path: Path, acceptance: Acceptance, rates: dict[str, list[float]]) -> Door:
    """A replay in which the cases whose id holds a key have its GB/s, a launch each; the rest has no visit."""
    lines: list[dict[str, Any]] = []
    for case in acceptance.plan(acceptance.checks).cases:
        for key, values in rates.items():
            if key in case.id:
                amount = case.problem.figure().amount
                lines += [
                    {"case_id": case.id, "launch": launch, "round": 0, "samples_s": [amount / rate / 1e9] * 7}
                    for launch, rate in enumerate(values)
                ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Door(acceptance.door.machine, load_replay(path))


def _names(checks: list[Check]) -> list[str]:
    return [check.name for check in checks]


def test_a_check_is_named_by_case_bound_and_hash() -> None:
    acceptance = _acceptance(COPY + SHARE)
    case, required = acceptance.checks
    assert case.case is not None
    assert case.name == f"{case.case.id} [{case.case.hash}]"
    assert required.name == f"{case.case.id} share >= 60% of roof:L2:load [{case.case.hash}]"


def test_roofs_are_planned_beside_their_cases_once() -> None:
    """The roof has the case's threads, pages and dtype; it is no check of its own."""
    acceptance = _acceptance(COPY + 'dtype = ["fp32", "fp64"]\npages = "4k"\n' + SHARE)
    plan = acceptance.plan(acceptance.checks)
    assert len(acceptance.checks) == 4
    roofs = [case for case in plan.cases if case.id not in acceptance.cases]
    assert {(c.problem.dtype, c.placement.threads, c.placement.pages) for c in roofs} == {
        ("fp32", 1, "4k"), ("fp64", 1, "4k"),
    }  # fmt: skip
    assert all(case.problem.params() == {"op": "load", "level": "L2"} for case in roofs)
    alone = acceptance.plan([check for check in acceptance.checks if check.bound is None])
    assert len(alone.cases) == 2


def test_a_roof_that_the_sweep_has_is_not_measured_twice() -> None:
    acceptance = _acceptance(COPY.replace('"copy"', '["copy", "load"]') + SHARE)
    assert len(acceptance.plan(acceptance.checks).cases) == 2


def test_a_compute_roof_has_no_level() -> None:
    text = '[[study]]\nkernel = "fma"\ndtype = "fp32"\n[[require]]\ncase = "fma*"\nshare = "<= 100% of roof:fma"\n'
    required = _acceptance(text).checks[1]
    assert required.roof == required.case


def test_the_run_files_sweep_plans_the_same_cases(tmp_path: Path) -> None:
    """Resuming and reading need no other file: the added roofs are in the header's text."""
    acceptance = _acceptance(COPY + 'pages = "4k"\n' + SHARE)
    door = _replay(tmp_path / "r.jsonl", acceptance, {"stream": [40.0] * 3})
    out = tmp_path / "run.jsonl"
    results = Acceptance(acceptance.sweep, door).measure(acceptance.checks, out, Silent())
    header = load_run(out).header
    again = make_plan(parse_sweep(header.sweep), door.machine, can_run_all=True)
    assert {case.id for case in again.cases} == set(results.cases)
    assert (header.source, header.launches) == ("replay", 3)


def test_answers_to_the_digit(tmp_path: Path) -> None:
    acceptance = _acceptance(COPY + SHARE + 'GBps = [">= 30", ">= 31", "<= 90% of datasheet"]\n')
    door = _replay(tmp_path / "r.jsonl", acceptance, {"op=copy": [30.0] * 3, "op=load": [40.0] * 3})
    out = tmp_path / "run.jsonl"
    results = Acceptance(acceptance.sweep, door).measure(acceptance.checks, out, Silent())
    measured, share, least, more, datasheet = [results.answer(check) for check in acceptance.checks]
    assert (measured.status, dict(measured.properties)["value"]) == ("pass", "30")
    assert (share.status, dict(share.properties)["share"], dict(share.properties)["roof_value"]) == (
        "pass",
        "0.75",
        "40",
    )
    assert least.status == "pass"
    assert more.status == "fail"
    assert more.headline == "GBps >= 31: 30.0 [30.0, 30.0] GB/s"
    assert str(out) in more.text
    assert (datasheet.status, datasheet.headline) == ("skip", "datasheets give no figure for L2 copy in GB/s")


def test_a_case_without_its_roof_is_skipped_with_the_reason(tmp_path: Path) -> None:
    acceptance = _acceptance(COPY + SHARE)
    door = _replay(tmp_path / "r.jsonl", acceptance, {"op=copy": [30.0] * 3})
    results = Acceptance(acceptance.sweep, door).measure(acceptance.checks, tmp_path / "run.jsonl", Silent())
    answer = results.answer(acceptance.checks[1])
    assert answer.status == "skip"
    assert answer.headline == "its roof:L2:load is skipped: r.jsonl has no such visit"


@pytest.mark.parametrize(
    ("outcome", "status", "word"),
    [
        ({"status": "wrong", "max_error": 2.0, "bound": 1.0, "where": "c[3]"}, "fail", "wrong: error 2 > 1 at c[3]"),
        ({"status": "crashed", "how": "signal SIGILL", "detail": "last words"}, "fail", "signal SIGILL"),
        ({"status": "skipped", "reason": "no unit", "hint": "buy one"}, "skip", "no unit (hint: buy one)"),
    ],
)
def test_a_case_passes_only_when_measured(tmp_path: Path, outcome: Any, status: str, word: str) -> None:
    acceptance = _acceptance(COPY)
    case = acceptance.checks[0].case
    assert case is not None
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"case_id": case.id, "launch": n, "outcome": outcome}) + "\n" for n in range(3)))
    door = Door(acceptance.door.machine, load_replay(path))
    results = Acceptance(acceptance.sweep, door).measure(acceptance.checks, tmp_path / "run.jsonl", Silent())
    answer = results.answer(acceptance.checks[0])
    assert answer.status == status
    assert word in answer.headline


def test_one_crash_among_good_visits_fails_the_case(tmp_path: Path) -> None:
    acceptance = _acceptance(COPY)
    door = _replay(tmp_path / "r.jsonl", acceptance, {"copy": [30.0] * 2})
    case = acceptance.checks[0].case
    assert case is not None
    line = {"case_id": case.id, "launch": 2, "outcome": {"status": "crashed", "how": "timeout", "detail": "60 s"}}
    with (tmp_path / "r.jsonl").open("a") as handle:
        handle.write(json.dumps(line) + "\n")
    door = Door(door.machine, load_replay(tmp_path / "r.jsonl"))
    results = Acceptance(acceptance.sweep, door).measure(acceptance.checks, tmp_path / "run.jsonl", Silent())
    answer = results.answer(acceptance.checks[0])
    assert answer.status == "fail"
    assert answer.headline == "crashed: timeout in 1 of 3 visits\n60 s"


def test_what_is_over_the_budget_is_skipped_with_the_reason(tmp_path: Path) -> None:
    acceptance = _acceptance(COPY.replace('"L2"', '["L1", "L2", "DRAM"]'))
    acceptance.sweep.budget_s = 0.5
    plan = acceptance.plan(acceptance.checks)
    assert plan.dropped
    results = acceptance.measure(acceptance.checks, tmp_path / "run.jsonl", Silent())
    answers = [results.answer(check) for check in acceptance.checks]
    assert any("over the budget" in answer.headline for answer in answers)
    assert {answer.status for answer in answers} == {"skip"}


def test_a_level_this_machine_lacks_is_a_skipped_check(tmp_path: Path) -> None:
    machine = synthetic.machine()
    machine.caches = tuple(cache for cache in machine.caches if cache.level != "L3")
    text = COPY.replace('"L2"', '["L2", "L3"]') + SHARE.replace("op=copy*", "op=copy,level=L3*")
    acceptance = _acceptance(text, _door(machine))
    absent = acceptance.checks[-1]
    assert absent.case is None
    assert absent.name == "stream[op=copy,level=L3* share >= 60% of roof:L2:load [absent]"
    results = acceptance.measure(acceptance.checks, tmp_path / "run.jsonl", Silent())
    answer = results.answer(absent)
    assert answer.status == "skip"
    assert "L3" in answer.headline


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("roof:L2:load", "roof:L2:laod"), 'unknown roof "roof:L2:laod" (did you mean "roof:L2:load"?)'),
        (("op=copy*", "op=cpoy*"), "matches none of the sweep's 1 cases, such as stream[op=copy"),
        (('share = ">= 60% of roof:L2:load"', 'GFLOPps = ">= 3"'), "whose figure is in GB/s (write GBps)"),
        ((">= 60%", "> 60%"), "is not a bound"),
    ],
)
def test_bad_requirements_name_the_file_and_what_would_be_right(change: tuple[str, str], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        _acceptance(COPY + SHARE.replace(*change))
    assert caught.value.message.startswith('a.toml: requirement "stream[')
    assert sentence in caught.value.message


def test_a_study_survives_as_text() -> None:
    study = check_study({"kernel": "stream", "op": "load", "size": ["64 MiB", '0.4 "L2'], "threads": [1, "all"]}, "s")
    assert parse_sweep(f"pykernels = 1\n{study_text(study)}").study == [study]
    assert study_text({"kernel": "x", "indices": [{"zipf": 1.05, "seed": 7}]}).endswith(
        "indices = [{ zipf = 1.05, seed = 7 }]\n"
    )


def test_measure_is_one_case() -> None:
    _, check = one_case(_door(), "stream", {"op": "triad", "level": "DRAM", "on": "cpu", "dtype": "fp32"})
    assert check.case is not None
    assert check.case.problem.params() == {"op": "triad", "level": "DRAM"}
    with pytest.raises(UsageError, match=r'measure\("stream"\): these keys give 2 cases: give one value for each key'):
        one_case(_door(), "stream", {"op": ["load", "copy"], "level": "L1"})
    with pytest.raises(UsageError, match=r'unknown key "levle" \(did you mean "level"\?\)'):
        one_case(_door(), "stream", {"levle": "L1"})
    with pytest.raises(UsageError, match=r'^measure\("stream"\): threads = 77: device "cpu" has 2 '):
        one_case(_door(), "stream", {"level": "L1", "threads": 77})


def test_a_bad_replay_file_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    with pytest.raises(UsageError, match="line 1: no case_id"):
        open_door(bad)


def test_the_shipped_acceptance_sweep_is_sound_on_any_machine() -> None:
    """Every requirement finds its cases and its roofs, within the budget, here and on a larger synthetic machine."""
    for machine in (synthetic.machine(), synthetic.machine(cores=16)):
        acceptance = load_acceptance(sweeps_folder() / "acceptance.toml", _door(machine))
        plan = acceptance.plan(acceptance.checks)
        assert not plan.dropped
        assert plan.estimate_s() < 60
        assert all(check.case and not check.no_roof for check in acceptance.checks)
        assert len({check.name for check in acceptance.checks}) == len(acceptance.checks)
