"""What a shell does to a command: closed streams, readers that leave, hang-ups, two runs at one file."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from command import COMMAND, Cli


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A line of bash with $P the command; its exit code is the first part's of a pipe."""
    script = f"P={shlex.quote(str(COMMAND))}; {line}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", script], cwd=cwd, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
    )


def records(path: Path) -> list[tuple[str, int, int]]:
    """(case, launch, round) of every record; every line must be whole."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["case_id"], line["launch"], line["round"]) for line in lines if line["kind"] == "record"]


def test_a_reader_that_leaves_does_not_end_the_measurement(small: Path, tmp_path: Path) -> None:
    shell("$P run small.toml -k fma --launches 3 -o r.jsonl --no-picture 2>&1 | head -n 1", tmp_path)
    assert len(records(tmp_path / "r.jsonl")) == 3


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_not_taken_by_the_run_file(closed: str, small: Path, tmp_path: Path) -> None:
    result = shell(f"$P run small.toml -k fma --launches 1 -o r.jsonl {closed}", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert len(records(tmp_path / "r.jsonl")) == 1


def test_nohup_keeps_a_run_alive_when_the_terminal_hangs_up(small: Path, tmp_path: Path) -> None:
    line = "nohup $P run small.toml -k fma --launches 3 -o r.jsonl -q & p=$!; "
    line += "until grep -qs record r.jsonl; do sleep 0.05; done; kill -HUP $p; wait $p; (exit $?)"
    assert shell(line, tmp_path).returncode == 0
    assert len(records(tmp_path / "r.jsonl")) == 3


def test_resuming_a_file_that_another_run_still_writes_waits_for_it(small: Path, tmp_path: Path) -> None:
    first = subprocess.Popen(
        [str(COMMAND), "run", "small.toml", "-o", "r.jsonl", "-q", "--no-picture"], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    path = tmp_path / "r.jsonl"
    while first.poll() is None and not (path.exists() and b'"record"' in path.read_bytes()):
        pass
    second = shell("$P run --resume r.jsonl -q --no-picture", tmp_path)
    assert (first.wait(), second.returncode) == (0, 0), second.stderr
    found = records(path)
    assert len(found) == len(set(found)) == 10
    assert Counter(json.loads(line)["kind"] for line in path.read_text().splitlines())["footer"] == 1


def test_a_run_that_does_not_get_the_machine_leaves_no_file(small: Path, tmp_path: Path) -> None:
    hold = "from pykernels.lock import machine_lock; import sys\n"
    hold += "with machine_lock('a test', wait=True, say=print): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        while holder.stdout.readline() != "held\n":
            pass
        result = shell("$P run small.toml -o r.jsonl --no-wait", tmp_path)
        assert result.returncode == 2
        assert "this machine is being measured by a test (pid" in result.stderr
        waiting = subprocess.Popen(
            [str(COMMAND), "run", "small.toml", "-o", "r.jsonl"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        assert waiting.stderr is not None
        assert "waiting for a test" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(30) == 130
        waiting.stderr.close()
        assert not (tmp_path / "r.jsonl").exists()
    finally:
        holder.communicate()


def test_a_run_file_is_not_named_like_the_picture_that_would_replace_it(small: Path, cli: Cli, tmp_path: Path) -> None:
    result = cli("run", small, "-k", "fma", "-o", "run.png")
    assert result.returncode == 2
    assert 'run.png: ".png" is a picture\'s name' in result.stderr
    assert not (tmp_path / "run.png").exists()


def test_show_asm_as_json_is_one_document(cli: Cli) -> None:
    """Looked up in every shipped sweep, also where one of them asks for more memory than there is."""
    hash_ = json.loads(cli("run", "quick", "--dry-run", "--json", "-k", "fma[fp64]").stdout)["cases"][0]["hash"]
    result = cli("show", hash_, "--asm", "--json")
    if "objdump is not installed" in result.stderr:
        pytest.skip("objdump is not installed")
    assert "fma" in json.loads(result.stdout)["asm"]


@pytest.mark.parametrize("columns", ["", "0", "-5", "abc", "60"])
def test_any_width_prints(columns: str, cli: Cli) -> None:
    result = cli("machine", COLUMNS=columns)
    assert result.returncode == 0, result.stderr


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pykernels", "--version"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.startswith("pykernels, version ")


def test_what_a_run_says_to_type_next_exists(cli: Cli) -> None:
    assert "roofline" in json.loads(cli("list", "sweeps", "--json").stdout)["sweeps"]
