"""Plan and engine on played timings: no clock, every figure known to the digit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from synthetic import machine

from pykernels import engine
from pykernels.backends.replay import Replay, load_replay
from pykernels.engine import Engine, choose, make_header
from pykernels.errors import UsageError
from pykernels.measure import stats
from pykernels.measure.sampling import Settings
from pykernels.model import Crashed, Disturbed, Measured, Record, Skipped
from pykernels.plan import Plan, make_plan
from pykernels.store import Run, RunWriter, load_run, open_for_resume
from pykernels.sweep import Sweep, parse_sweep

SWEEP = """
pykernels = 1
title = "two cases"
launches = 3
rounds = 2

[[study]]
kernel = "stream"
op = ["load", "copy"]
level = "L1"
dtype = "fp64"
isa = "x86_64_v3"
threads = 1
"""
LOAD = "stream[op=load,level=L1,fp64] native:x86_64_v3 @cpu*1"
COPY = "stream[op=copy,level=L1,fp64] native:x86_64_v3 @cpu*1"


class Silent:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def visited(self, record: Record, done: int, total: int) -> None:
        self.records.append(record)

    def note(self, text: str) -> None:
        raise AssertionError(text)


def plan_of(text: str = SWEEP, **options: Any) -> Plan:
    return make_plan(parse_sweep(text), machine(), can_run_all=True, **options)


def replay_file(path: Path, visits: dict[tuple[str, int, int], Any], **extra: Any) -> Replay:
    lines: list[dict[str, Any]] = [
        {"case_id": case_id, "launch": launch, "round": round_, **fields}
        for (case_id, launch, round_), fields in visits.items()
    ]
    lines += [{"case_id": case_id, "tuning": table} for case_id, table in extra.items()]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return load_replay(path)


def play(plan: Plan, replay: Replay, path: Path, progress: Any = None) -> Run:
    with RunWriter(path, make_header(plan, source="replay")) as writer:
        Engine(plan, writer, replay.player, progress or Silent()).run()
    return load_run(path)


def all_visits(seconds: Callable[[str, int, int], list[float]], launches: int = 3) -> dict[tuple[str, int, int], Any]:
    return {
        (case_id, launch, round_): {"samples_s": seconds(case_id, launch, round_)}
        for case_id in (LOAD, COPY)
        for launch in range(launches)
        for round_ in range(2)
    }


def test_every_case_is_visited_once_a_round_in_a_seeded_order(tmp_path: Path) -> None:
    plan = plan_of()
    run = play(plan, replay_file(tmp_path / "r", all_visits(lambda *_: [1e-6])), tmp_path / "run.jsonl")
    visits = [(record.launch, record.round) for record in run.records]
    assert visits == sorted(visits)
    assert {(r.case_id, r.launch, r.round) for r in run.records} == set(all_visits(lambda *_: []))
    again = [(launch, round_, case.id) for launch, round_, case in plan_of().visits()]
    assert again == [(r.launch, r.round, r.case_id) for r in run.records]
    other = plan_of(SWEEP.replace("rounds = 2", "rounds = 2\nseed = 2"))
    assert [case.id for _, _, case in other.visits()] != [case.id for _, _, case in plan.visits()]


def test_a_figure_is_the_centre_over_launch_medians_to_the_digit(tmp_path: Path) -> None:
    """Rates of 100, 200 and 400 in three launches: the median is 200."""
    bytes_per_call = 16 * 1024

    def seconds(case_id: str, launch: int, round_: int) -> list[float]:
        rate = 100e9 * 2**launch
        return [bytes_per_call / rate] * 3 + [1.0]  # one slow sample does not move a median

    run = play(plan_of(), replay_file(tmp_path / "r", all_visits(seconds)), tmp_path / "run.jsonl")
    record = run.records[0]
    assert record.figure.amount == bytes_per_call
    interval = stats.case_interval([r for r in run.records if r.case_id == LOAD])
    assert interval is not None
    assert interval.value == pytest.approx(200.0, rel=1e-12)
    assert interval.launches == 3
    half = 1.025 * 4.302652729749464 * 0.6931471805599453 / 3**0.5  # of a median, t(2) x ln 2 / sqrt 3
    assert interval.low == pytest.approx(200.0 * 2.718281828459045**-half, rel=1e-9)
    assert interval.high == pytest.approx(200.0 * 2.718281828459045**half, rel=1e-9)


def test_contended_samples_are_marked_and_a_mostly_contended_visit_is_disturbed(tmp_path: Path) -> None:
    visits = all_visits(lambda *_: [1e-6, 1e-6, 9e-6])
    visits[LOAD, 0, 0]["cpu_over_wall"] = [1.0, 1.0, 0.5]
    visits[LOAD, 1, 0]["cpu_over_wall"] = [1.0, 0.5, 0.5]
    run = play(plan_of(), replay_file(tmp_path / "r", visits), tmp_path / "run.jsonl")
    outcomes = {(r.case_id, r.launch, r.round): r.outcome for r in run.records}
    assert isinstance(outcomes[LOAD, 0, 0], Measured)
    assert isinstance(outcomes[LOAD, 1, 0], Disturbed)
    assert outcomes[LOAD, 1, 0].samples_s == [1e-6, 1e-6, 9e-6]  # kept


def test_a_case_that_crashes_twice_is_left_alone_and_one_that_is_wrong_at_once(tmp_path: Path) -> None:
    crash = {"outcome": {"status": "crashed", "how": "signal SIGSEGV"}}
    wrong = {"outcome": {"status": "wrong", "max_error": 2.0, "bound": 1.0, "where": "c[0]"}}
    visits = all_visits(lambda *_: [1e-6])
    for launch in range(3):
        for round_ in range(2):
            visits[LOAD, launch, round_] = crash
            visits[COPY, launch, round_] = wrong
    run = play(plan_of(), replay_file(tmp_path / "r", visits), tmp_path / "run.jsonl")
    assert sorted(record.case_id for record in run.records) == [COPY, LOAD, LOAD]
    summary = engine.summarise(run.records)
    assert (summary.measured, len(summary.wrong), len(summary.crashed)) == (0, 1, 2)


def test_the_tuning_pass_is_written_and_its_choice_is_what_runs(tmp_path: Path) -> None:
    table = {"plain": 1.0e-6, "streams2": 0.5e-6, "streams4": 0.496e-6}
    replay = replay_file(tmp_path / "r", all_visits(lambda *_: [1e-6]), **{LOAD: table})
    run = play(plan_of(), replay, tmp_path / "run.jsonl")
    (tuning,) = [tuning for tuning in run.tunings if tuning.case_id == LOAD]
    assert tuning.chosen == "streams2"  # within a percent of the fastest, and plainer
    assert tuning.candidates["plain"] == pytest.approx(16.384)
    assert {record.variant for record in run.records if record.case_id == LOAD} == {"streams2"}


def test_choose_takes_the_plainest_within_the_margin() -> None:
    assert choose({"a": 1.0, "b": 0.995}) == "a"
    assert choose({"a": 1.0, "b": 0.9, "c": 0.899}) == "b"


def test_a_resumed_run_ends_with_the_same_visits_as_a_whole_one(tmp_path: Path) -> None:
    replay = replay_file(tmp_path / "r", all_visits(lambda _, launch, round_: [1e-6 * (1 + launch + round_)]))
    whole = play(plan_of(), replay, tmp_path / "whole.jsonl")

    class Interrupted(Silent):
        def visited(self, record: Record, done: int, total: int) -> None:
            if done == 5:
                raise KeyboardInterrupt

    cut_path = tmp_path / "cut.jsonl"
    cut = play(plan_of(), replay, cut_path, Interrupted())
    assert len(cut.records) == 5
    assert cut.footer is not None
    assert cut.footer.interrupted

    writer = open_for_resume(cut_path)
    Engine(plan_of(), writer, replay.player, Silent(), tuned=cut.tunings, done=cut.records).run()
    resumed = load_run(cut_path)
    assert resumed.warnings == []

    def key(record: Record) -> Any:
        return record.case_id, record.launch, record.round, msgspec.to_builtins(record.outcome)

    assert [key(r) for r in resumed.records] == [key(r) for r in whole.records]


def test_skipped_and_dropped_cases_are_records_with_their_reason(tmp_path: Path) -> None:
    plan = plan_of(SWEEP.replace("launches = 3", 'launches = 3\nbudget = "1 s"'))
    assert plan.dropped
    run = play(plan, replay_file(tmp_path / "r", all_visits(lambda *_: [1e-6])), tmp_path / "run.jsonl")
    dropped = [record for record in run.records if isinstance(record.outcome, Skipped)]
    assert [record.case_id for record in dropped] == [case.id for case, _ in plan.dropped]
    assert "over the budget of 1 s" in dropped[0].outcome.reason


def test_a_visit_that_the_file_lacks_is_a_skip_not_a_guess(tmp_path: Path) -> None:
    visits = all_visits(lambda *_: [1e-6])
    del visits[LOAD, 0, 0]
    run = play(plan_of(), replay_file(tmp_path / "r", visits), tmp_path / "run.jsonl")
    assert any(isinstance(r.outcome, Skipped) and "no such visit" in r.outcome.reason for r in run.records)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"case_id": "x", "samples_s": [0]}', "line 1: samples_s must be above zero"),
        ('{"case_id": "x"}', "line 1: no samples_s and no outcome"),
        ('{"samples_s": [1]}', "line 1: no case_id"),
        ('{"case_id": "x", "sampels_s": [1]}', "line 1: not a replay line.*sampels_s"),
        ("{", "line 1: not a replay line"),
    ],
)
def test_bad_replay_files_are_named(line: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "r").write_text(line)
    with pytest.raises(UsageError, match=says):
        load_replay(tmp_path / "r")


def test_a_crash_in_the_tuning_pass_is_the_visits_outcome(tmp_path: Path) -> None:
    class Broken:
        def tune(self, *_: Any) -> Any:
            return engine.Reply(outcome=Crashed(how="signal SIGILL"))

        def visit(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("a case that cannot be tuned is not visited")

        def keep_only(self, places: Any) -> None:
            pass

        def close(self) -> None:
            pass

    plan = plan_of()
    with RunWriter(tmp_path / "run.jsonl", make_header(plan)) as writer:
        summary = Engine(plan, writer, lambda launch: Broken(), Silent()).run()
    assert len(summary.crashed) == 4  # both cases, twice each


REQUESTS = """
pykernels = 1
title = "requests"
launches = 2

[[study]]
kernel = "embedding_bag"
tables = 1
table = "64 KiB"
dim = 32
pooling = 1
batch = 1
isa = "x86_64_v3"
threads = 1
ends = "C0"
timing = ["closed", "open"]
"""


def test_requests_are_tuned_as_a_row_of_calls_and_once(tmp_path: Path) -> None:
    """5,000 requests for each of a dozen candidates would take minutes, for each way of asking again."""
    asked: list[str] = []

    class Tuner:
        def tune(self, case: Any, variants: list[str], timeout_s: float) -> Any:
            asked.append(case.id)
            return engine.Reply(seconds=dict.fromkeys(variants, 1.0) | {variants[-1]: 0.5})

        def visit(self, *_: Any, **__: Any) -> Any:
            return engine.Reply(outcome=Measured(samples_s=[1e-6] * 7))

        def keep_only(self, places: Any) -> None:
            pass

        def close(self) -> None:
            pass

    plan = plan_of(REQUESTS)
    with RunWriter(tmp_path / "run.jsonl", make_header(plan)) as writer:
        Engine(plan, writer, lambda launch: Tuner(), Silent()).run()
    run = load_run(tmp_path / "run.jsonl")
    assert asked == [tuning.case_id for tuning in run.tunings]
    assert len(asked) == 1
    assert "closed" not in asked[0]
    assert {record.variant for record in run.records} == {run.tunings[0].chosen}


def test_a_case_skipped_in_one_launch_is_tried_in_the_next(tmp_path: Path) -> None:
    """A request that other work made too slow for its budget is not given up at once; twice is enough."""
    visits = all_visits(lambda *_: [1e-6])
    slow = {"outcome": {"status": "skipped", "reason": "budget"}}
    visits[LOAD, 0, 0] = slow
    for launch in range(3):
        for round_ in range(2):
            visits[COPY, launch, round_] = slow
    run = play(plan_of(), replay_file(tmp_path / "r", visits), tmp_path / "run.jsonl")
    outcomes = [type(record.outcome) for record in run.records if record.case_id == LOAD]
    assert outcomes == [Skipped] + [Measured] * 5
    assert sum(record.case_id == COPY for record in run.records) == 2


def test_a_run_far_over_its_budget_ends_after_three_launches_and_can_be_resumed(tmp_path: Path) -> None:
    plan = plan_of(SWEEP.replace("launches = 3", "launches = 5"))
    plan.sweep.budget_s = 1e-6  # less than any machine needs; the plan itself was made for a real one
    replay = replay_file(tmp_path / "r", all_visits(lambda *_: [1e-6], launches=5))
    notes: list[str] = []

    class Listening(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    path = tmp_path / "run.jsonl"
    run = play(plan, replay, path, Listening())
    assert {record.launch for record in run.records} == {0, 1, 2}
    assert "stopped after 3 of 5 launches" in notes[-1]
    plan.sweep.budget_s = 600.0
    with open_for_resume(path) as writer:
        Engine(plan, writer, replay.player, Silent(), tuned=run.tunings, done=run.records).run()
    assert {record.launch for record in load_run(path).records} == {0, 1, 2, 3, 4}


def test_the_estimate_grows_with_launches_and_settings_are_the_sweeps() -> None:
    short, long = plan_of(), plan_of(SWEEP.replace("launches = 3", "launches = 6"))
    assert long.estimate_s() > 1.5 * short.estimate_s()
    assert Settings().sample_s == Sweep().sample_s


def test_the_estimate_counts_arithmetic() -> None:
    """A product of 4,096 moves no more than some milliseconds of bytes but computes for a second."""
    product = """
pykernels = 1
title = "t"
launches = 1

[[study]]
kernel = "gemm"
shape = "{}"
variant = "packed"
"""
    small, large = (plan_of(product.format(side)).estimate_s() for side in (256, 4096))
    assert large > small + 1
