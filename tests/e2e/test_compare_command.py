"""What a user sees of `pykernels compare`."""

from __future__ import annotations

import json
from pathlib import Path

from command import Cli, Measured


def test_a_run_is_the_same_as_itself(measured: Measured, cli: Cli) -> None:
    result = cli("compare", measured.path, measured.path)
    assert result.returncode == 0, result.stderr
    assert "slower 0" in result.stdout
    assert "two sittings" in result.stdout
    answer = json.loads(cli("compare", measured.path, measured.path, "--json").stdout)
    assert answer["counts"]["faster"] == answer["counts"]["slower"] == 0


def test_a_slower_run_is_found_and_fails_where_asked(measured: Measured, cli: Cli, tmp_path: Path) -> None:
    lines = measured.lines()
    for line in lines:
        if line["kind"] == "record":
            line["outcome"]["samples_s"] = [3 * seconds for seconds in line["outcome"]["samples_s"]]
    slow = tmp_path / "slow.jsonl"
    slow.write_text("\n".join(json.dumps(line) for line in lines[:-1]) + "\n")
    result = cli("compare", measured.path, slow, "--fail-on", "slower", "--json")
    counts = json.loads(result.stdout)["counts"]
    assert counts["faster"] == 0
    assert counts["slower"] + counts["unclear"] == 5  # two launches only: an interval may be too wide to say
    assert result.returncode == (1 if counts["slower"] else 0)


def test_runs_that_share_no_case_are_refused(measured: Measured, cli: Cli, tmp_path: Path) -> None:
    lines = [line for line in measured.path.read_text().splitlines() if '"kernel":"fma"' not in line]
    only = [line for line in measured.path.read_text().splitlines()[1:] if '"kernel":"fma"' in line]
    (tmp_path / "streams.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    (tmp_path / "fma.jsonl").write_text("\n".join([lines[0], *only[:-1]]) + "\n")
    result = cli("compare", "streams.jsonl", "fma.jsonl")
    assert result.returncode == 2
    assert "share no case" in result.stderr
    assert "Traceback" not in result.stderr
