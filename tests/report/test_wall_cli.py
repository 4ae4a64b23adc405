"""`pykernels wall ...`: text, JSON and pictures, with and without a run; bad input named in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from wall_runs import wall_run, write

from pykernels.commands.wall import wall
from pykernels.errors import UsageError

COMMANDS = (
    ("trends",), ("model", "bert-base"), ("model", "gpt2"), ("memory", "bert-large"), ("precision",), ("sparsity",), (),
)  # fmt: skip


def call(*arguments: str) -> Result:
    return CliRunner().invoke(wall, list(arguments))


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(str(tmp_path_factory.mktemp("wall") / "run.jsonl"), wall_run())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: "-".join(c) or "page")
def test_without_a_run_each_prints_the_computed_part_and_how_to_measure(command: tuple[str, ...]) -> None:
    result = call(*command)
    assert result.exit_code == 0, result.output
    assert "not measured" in result.output
    assert "pykernels run" in result.output


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: "-".join(c) or "page")
def test_json(command: tuple[str, ...], run_file: str) -> None:
    bare = json.loads(call(*command, "--json").stdout)
    full = json.loads(call(*command, run_file, "--json").stdout)
    assert bare.keys() == full.keys()
    assert bare["measure_with"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: "-".join(c) or "page")
def test_with_a_run(command: tuple[str, ...], run_file: str) -> None:
    result = call(*command, run_file)
    assert result.exit_code == 0, result.output
    assert "cpu*1" in result.output or "native*1" in result.output
    assert not [line for line in result.output.splitlines() if "nan" in line.split()]


def test_every_derived_peak_is_named(run_file: str) -> None:
    lines = call("trends").output.splitlines()
    for cpu in ("EPYC 9654", "EPYC 7763", "Xeon Gold 6242", "Xeon Platinum 8480+"):
        assert next(line for line in lines if cpu in line).endswith("derived")


def test_misprints_are_named() -> None:
    text = call("model", "bert-base").output
    assert "misprint: 0.60 GFLOP at its own 63.62 FLOP/B" in text
    assert "3584" in call("model", "bert-large").output


def test_zero_figures_in_text() -> None:
    text = call("memory").output
    for figure in ("120", "31.4", "16.6", "1.88"):
        assert figure in text


def test_the_wide_numbers_of_the_page(run_file: str) -> None:
    page = json.loads(call(run_file, "--json").stdout)
    assert len(page["claims"]) == 26
    assert {c["verdict"] for c in page["claims"]} <= {"yes", "no", "not measured"}
    assert page["left"][0]["share"]["low"] <= page["left"][0]["share"]["value"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_pictures(tmp_path: Path, run_file: str, suffix: str) -> None:
    for name, arguments in {
        "trends": ("trends", run_file), "bare": ("trends",), "gpt2": ("model", "gpt2", run_file),
    }.items():  # fmt: skip
        target = tmp_path / f"{name}.{suffix}"
        result = call(*arguments, "-o", str(target))
        assert result.exit_code == 0, result.output
        assert target.stat().st_size > 10_000
    assert (tmp_path / f"gpt2-ratio.{suffix}").exists()


def test_predicted_bars_where_nothing_was_measured(tmp_path: Path) -> None:
    from synthetic import run, typical

    found = write(str(tmp_path / "roofs.jsonl"), run(typical()))
    result = call("model", "bert-base", found, "-o", str(tmp_path / "bars.png"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "bars.png").exists()
    assert "predicted only" in result.output


def _config(tmp_path: Path, **change: Any) -> str:
    table = {"kind": '"decoder"', "layers": 2, "hidden": 64, "heads": 4, "ffn": 256, **change}
    path = tmp_path / "tiny.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in table.items() if value is not None))
    return str(path)


def test_a_config_file(tmp_path: Path) -> None:
    text = call("model", _config(tmp_path), "--seq", "16").output
    assert "tiny: decoder, 2 layers, hidden 64" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model", "bert-bse"), 'unknown model "bert-bse" (did you mean "bert-base"?)'),
        (("model", "none.toml"), "none.toml: cannot be read"),
        (("model", "gpt2", "--seq", "0"), "seq is 0, it must be at least 1"),
        (("model", "gpt2", "--batch", "-3"), "batch is -3"),
        (("model", "gpt2", "--dtype", "fp23"), 'unknown dtype "fp23"'),
        (("model", "gpt2", "none.jsonl"), "none.jsonl"),
        (("memory", "gpt2", "--optimizer", "adamm"), 'did you mean "adam"?'),
        (("memory", "gpt2", "--devices", "0"), "devices is 0, it must be at least 1"),
        (("memory", "gpt2", "--precision", "fp8"), 'unknown precision "fp8"'),
        (("memory", "gpt2", "--remat", "half"), 'unknown rematerialization "half"'),
        (("precision", "--rows", "0"), "rows is 0"),
        (("precision", "--base", "fp12"), 'unknown format "fp12"'),
        (("sparsity", "--dtype", "int3"), 'unknown dtype "int3"'),
        (("trend",), 'unknown command "trend" (did you mean "trends"?)'),
        (("none.jsonl",), "none.jsonl"),
        (("trends", "-o", "picture.bmp"), "pictures are .png or .svg"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    result = call(*arguments)
    assert isinstance(result.exception, UsageError), result.output
    assert message in str(result.exception)


def test_bad_config_names_file_and_field(tmp_path: Path) -> None:
    for change, message in (
        ({"heads": None}, "missing heads"),
        ({"heads": 5}, "hidden 64 is not a multiple of heads 5"),
        ({"layers": '"two"'}, "Expected `int`"),
        ({"layer": 2}, 'unknown key "layer" (did you mean "layers"?)'),
        ({"layers": "= ="}, "not a TOML file"),
    ):
        result = call("model", _config(tmp_path, **change))
        assert isinstance(result.exception, UsageError), result.output
        assert message in str(result.exception)
        assert "tiny.toml" in str(result.exception)


def test_help_of_every_command() -> None:
    for arguments in (("--help",), ("trends", "--help"), ("model", "--help")):
        result = call(*arguments)
        assert result.exit_code == 0
        assert "--json" in result.output or "COMMAND" in result.output


def test_importing_the_command_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, pykernels.commands.wall, pykernels.report.wall;"
        "print('scipy' in sys.modules, 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["False"] * 2
