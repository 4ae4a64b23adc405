"""The crossover as text, JSON and pictures, from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from pykernels.analysis.crossover import Options, analyse
from pykernels.commands.crossover import crossover
from pykernels.errors import UsageError
from pykernels.model import Header
from pykernels.report import crossover as report
from pykernels.report import crossover_figure as figure
from pykernels.store import RunWriter

sys.path.insert(0, str(Path(__file__).parents[1]))

from crossover_runs import BASE, MACHINE, lookups, paired, roofs, run_of

BATCHES = [4**k for k in range(8)]
TABLES = [4000 * 4**k for k in range(6)]


@pytest.fixture(scope="module")
def whole():
    """Both sides of a star and of a batch x table plane that leaves the GPU's memory."""
    run = paired(bags=BATCHES, pooling=[1, 2, 4, 8, 64], dim=[16, 32, 64, 128])
    plane = [msgspec.structs.replace(BASE, bags=b, rows=r) for b in BATCHES[::2] for r in [*TABLES, 20_000_000]]
    run.records += lookups("CPU", "C0", plane, seed=2) + lookups("GPU", "G2", plane, seed=2)
    return analyse([run])


@pytest.fixture
def file(tmp_path):
    """The CPU side alone as a run file."""
    star = [msgspec.structs.replace(BASE, bags=b) for b in BATCHES]
    path = tmp_path / "lab7.jsonl"
    with RunWriter(path, Header(machine=MACHINE)) as writer:
        for record in lookups("CPU", "C0", star) + roofs("CPU"):
            writer.write(record)
    return path


def run(*arguments):
    result = CliRunner().invoke(crossover, [str(argument) for argument in arguments], standalone_mode=False)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_text_names_both_sides_the_source_and_every_interval(whole):
    text = report.text(whole, 140, with_claims=True)
    assert "2 threads on cpu of 1 socket Example CPU, 2 cores" in text
    assert "one Example GPU   [paired]" in text
    assert "the GPU wins from batch" in text
    assert "moves to link -20%" in text
    assert "CPU gather rate that would tie the GPU" in text
    assert "not measured  per watt" in text


def test_every_answer_has_one_sentence(whole):
    for answer in whole.answers:
        assert answer.sentence.endswith(f"[{answer.source}].")
        assert "\n" not in answer.sentence


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures(whole, tmp_path, suffix):
    few = msgspec.structs.replace(whole, curves=whole.curves[:2])
    drawn = list(figure.draw(few, tmp_path / f"x{suffix}"))
    assert [path.name for path in drawn] == [f"x-{name}{suffix}" for name in ("lines", "terms", "map")]
    assert all(path.stat().st_size > 10_000 for path in drawn)


def test_a_projection_is_drawn_grey_with_open_points():
    star = [msgspec.structs.replace(BASE, bags=b) for b in BATCHES]
    answer = analyse([run_of(lookups("CPU", "C0", star) + roofs("CPU"))], Options(against="h100-sxm5-80gb"))
    drawn = figure.draw_lines([curve for curve in answer.curves if curve.answer.axis == "batch"])
    line = drawn.axes[0].get_lines()[1]
    assert line.get_color() == figure.GREY
    assert line.get_markerfacecolor() == "white"


def test_the_map_hatches_what_the_gpu_cannot_hold_and_marks_measured_cells(whole):
    (plane,) = whole.planes
    assert plane.edge == 20_000_000 * BASE.tables * BASE.row_bytes
    assert {key for key, value in plane.log2.items() if value is None} == {f"{b}|{plane.edge:g}" for b in BATCHES[::2]}
    assert set(plane.measured) == {key for key, value in plane.log2.items() if value is not None}
    words = [text.get_text() for text in figure.draw_maps([plane]).axes[0].texts]
    assert words.count("GPU\nfull") == 4


def test_json_has_the_promised_form(file):
    data = json.loads(run(file, "--against", "h100-sxm5-80gb", "--ends", "host", "--json"))
    assert {"answers", "cells", "break_even"} <= data.keys()
    (answer,) = [a for a in data["answers"] if a["axis"] == "batch"]
    wanted = {"workload", "axis", "metric", "ends", "source", "kind", "value", "low", "high", "bracket", "sensitivity"}
    assert wanted <= answer.keys()
    assert answer["source"] == "projection"
    assert len(data["cells"]) == len(BATCHES)


def test_the_command_prints_sentences_and_draws(file, tmp_path):
    text = run(file, "--against", "a100-sxm4-80gb", "--claims", "-o", tmp_path / "p.png")
    assert "[projection]." in text
    assert "launch floor 10 us (assumed" in text
    assert (tmp_path / "p-lines.png").exists()


def test_options_reach_the_analysis(file):
    text = run(
        file, "--against", "rtx-4090", "--link", "32", "--launch-floor", "20", "--axis", "batch", "--band", "12%"
    )
    assert "85% of 32 GB/s per direction (given with --link)" in text
    assert "launch floor 20 us" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "h100-sxm5"], 'did you mean "h100-sxm5-80gb"'),
        (["--against", "mi300x"], "host_link_gbs_bidir is blank"),
        (["--band", "wide"], "write a share"),
        (["--band", "500%"], "between 0% and 100%"),
        (["--metric", "p95"], 'unknown metric "p95"'),
        (["--link", "50"], "give --against SLUG too"),
        (["--against", "h100-sxm5-80gb", "--modelled"], "give one of them"),
        (["--ends", "G0", "--against", "h100-sxm5-80gb"], "never part of a crossover"),
        (["--axis", "pooling", "--against", "h100-sxm5-80gb"], "needs 4"),
        ([], "no recorded GPU run ships"),
        (["nowhere.jsonl"], "no such run file"),
        (["--per", "dollar", "--prices", "nowhere.toml", "--against", "h100-sxm5-80gb"], "cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(file, arguments, message):
    with pytest.raises(UsageError, match=message):
        run(file, *arguments)
