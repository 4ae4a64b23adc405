"""`run --refine`: from a run of a simulated machine to the cells between those of its crossings, and on from there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from pykernels.analysis.crossover import Options, analyse, refine
from pykernels.cli import app
from pykernels.commands.run import _resumed
from pykernels.errors import PykernelsError, UsageError
from pykernels.plan import make_plan
from pykernels.refine import refined_sweep, to_toml
from pykernels.store import load_run
from pykernels.sweep import parse_sweep

QUIET = Path(__file__).parent / "noise" / "quiet.toml"
AGAINST = ("--against", "h100-sxm5-80gb")
STAR = """
pykernels = 1
title = "a star"
launches = 4
seed = 3

[[study]]
kernel = "gather"
level = ["L2", "L3", "DRAM"]
row_bytes = [64, 256]

[[study]]
kernel = "stream"
op = "load"
level = "L2"
dtype = "fp32"

[[study]]
kernel = "embedding_bag"
tables = 1
table = "0.4 L2"
dim = 32
pooling = 1
batch = 1
ends = "C0"

[[study]]
kernel = "embedding_bag"
workload = ["RM3"]
AXIS
dtype = ["fp32", "int8"]
indices = { zipf = 0.0, seed = 5 }
ends = ["C0"]
"""
BATCHES = "batch = [1, 16, 64, 256, 1024]"


class Said(NamedTuple):
    exit_code: int
    output: str


def command(*args: object) -> Said:
    """What `pykernels ARGS` says and its exit code."""
    result = CliRunner().invoke(app, [*map(str, args)], standalone_mode=False)
    error = result.exception
    if isinstance(error, PykernelsError):
        return Said(error.exit_code, result.output + str(error))
    if error is not None:
        raise error
    return Said(result.return_value or 0, result.output)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """The quiet machine, with rates of lookups and gathers."""
    text = QUIET.read_text().replace("rate = { row = 0.2,", 'rate = { row = 0.2, rows = 0.2, "" = 0.4,')
    path = tmp_path / "noise.toml"
    path.write_text(text.replace("gather = 0.6", "gather = 0.8"))
    return path


@pytest.fixture
def star(tmp_path: Path, noise: Path) -> Path:
    return simulated(tmp_path, noise, BATCHES)


def simulated(tmp_path: Path, noise: Path, axis: str) -> Path:
    sweep, path = tmp_path / "star.toml", tmp_path / "star.jsonl"
    sweep.write_text(STAR.replace("AXIS", axis))
    result = command("run", sweep, "--simulate", noise, "-o", path, "-q", "--no-picture")
    assert result.exit_code == 0, result.output
    return path


def lookup_ids(path: Path) -> set[str]:
    return {record.case_id for record in load_run(path).records if "workload" in record.params}


def test_a_crossing_is_bisected_until_its_cells_are_near(star: Path, noise: Path, tmp_path: Path) -> None:
    options, widths, path = Options(against=AGAINST[1], axes=("batch",), ends=("host",)), [], star
    for step in range(4):
        if not refine([load_run(path)], options):
            break
        fine = tmp_path / f"fine{step}.jsonl"
        result = command("run", "--refine", path, *AGAINST, "--simulate", noise, "-o", fine, "-q", "--no-picture")
        assert result.exit_code == 0, result.output
        run = load_run(fine)
        assert run.header.refines == path.name
        answers = [a for a in analyse([run], options).answers if a.kind == "crossing"]
        assert answers, [a.sentence for a in analyse([run], options).answers]
        widths.append(max(a.bracket[1] / a.bracket[0] for a in answers if a.bracket))
        path = fine
    assert len(widths) >= 2
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 2 < widths[0] + 1e-9


def test_all_else_stays_as_it_was(star: Path, noise: Path) -> None:
    run = load_run(star)
    sweep = refined_sweep(run, Options(against=AGAINST[1]))
    plan = make_plan(sweep, run.header.machine, can_run_all=True)
    old = {case_id.split(",batch=")[0] for case_id in lookup_ids(star)}
    new = {case.id.split(",batch=")[0] for case in plan.cases if "workload" in case.problem.params()}
    assert new <= old
    assert all("seed=5" in case.id for case in plan.cases if "workload" in case.problem.params())
    roofs = {case.id for case in plan.cases if case.problem.figure().ceiling}
    assert roofs == {record.case_id for record in run.records if record.figure.ceiling}
    assert any(case.problem.figure().amount == 1 for case in plan.cases), "the floor of a call"
    assert (sweep.launches, sweep.seed, sweep.dram_factor) == (4, 3, 8.0)


def test_a_refined_file_is_resumed_without_the_old_one(
    star: Path, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine, cut = tmp_path / "fine.jsonl", tmp_path / "cut.jsonl"
    assert (
        command("run", "--refine", star, *AGAINST, "--simulate", noise, "-o", fine, "-q", "--no-picture").exit_code == 0
    )
    lines = fine.read_text().splitlines()
    header = load_run(fine).header
    first = lines[0].replace('"source":"simulated"', '"source":"measured"')
    cut.write_text("\n".join([first, *lines[1:8]]) + "\n")
    star.unlink()
    monkeypatch.setattr("pykernels.machine.cpu.read_machine", lambda: header.machine)
    plan = _resumed(cut).plan
    planned = {case.id for case in plan.cases} | {case.id for case, _ in plan.skipped}
    assert planned == {record.case_id for record in load_run(fine).records}


@pytest.mark.parametrize(
    ("axis", "field"),
    [('table = ["0.4 L2", "0.4 L3", "2 L3", "8 L3", "32 L3"]\nbatch = 64', "table"), (BATCHES, "batch")],
)
def test_each_axis_has_its_key(tmp_path: Path, noise: Path, axis: str, field: str) -> None:
    path = simulated(tmp_path, noise, axis)
    run = load_run(path)
    for wanted in refine([run], Options(against=AGAINST[1])):
        text = refined_sweep(run, Options(against=AGAINST[1])).text
        assert f"\n{field} = [" in text
        assert wanted.axis == field


def test_nothing_to_refine_says_so(star: Path) -> None:
    result = command("run", "--refine", star, "--against", "h100-sxm5-80gb", "--link", "0.001")
    assert result.exit_code == 3
    assert "nothing to refine" in result.output


def test_what_does_not_fit_together_is_refused(star: Path) -> None:
    for args, text in (
        (("quick", "--refine", star), 'leave out the sweep "quick"'),
        (("quick", *AGAINST), "belong to --refine"),
        (("--resume", star, "--refine", star), "--resume takes its sweep and options from the file"),
        (("--refine", star), "no GPU side"),
        (("--refine", star.parent / "none.jsonl"), "no such run file"),
    ):
        result = command("run", *args)
        assert result.exit_code == 2, result.output
        assert text in result.output
    run = load_run(star)
    run.header.sweep = run.header.sweep.replace("seed = 5", "seed = 6")
    with pytest.raises(UsageError, match="its own sweep does not plan"):
        refined_sweep(run, Options(against=AGAINST[1]))


def test_a_written_sweep_reads_as_it_was_meant() -> None:
    studies = [{"kernel": "embedding_bag", "batch": [1, 2], "indices": [{"zipf": 0.5, "seed": 7}], "weighted": [True]}]
    sweep = parse_sweep(to_toml({"pykernels": 1, "title": 'a "title" with \\ and é', "budget": "2 s"}, studies))
    assert sweep.title == 'a "title" with \\ and é'
    assert sweep.study == studies
