"""Bad input: one clear sentence with file, field, value and what would be right; exit code 2; no traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from command import SMALL, Cli, Measured


def refused(result: subprocess.CompletedProcess[str], says: str, code: int = 2) -> None:
    """The command failed as it should: with the code and one sentence that says this."""
    assert result.returncode == code, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    assert re.search(says, result.stderr), result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) <= 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "quik"], r'unknown sweep "quik" \(did you mean "quick"\?\)'),
        (["run", "nowhere/x.toml"], r"nowhere/x.toml: cannot be read \(No such file"),
        (["rum"], r'unknown command "rum" \(did you mean "run"\?\)'),
        (["run", "quick", "-k", "no such case"], r'-k "no such case" selects none of the \d+ cases of quick'),
        (["run", "quick", "--budget", "soon"], r'"soon" is not a duration'),
        (["run", "quick", "--dryrun"], r"No such option"),
        (["run", "quick", "--resume", "x.jsonl"], r"--resume takes its sweep and options from the file"),
        (["run", "--resume", "none.jsonl"], r"none.jsonl: no such run file"),
        (["roofline", "none.jsonl"], r"none.jsonl: no such run file"),
        (["roofline"], r"Missing argument"),
        (["show", "no such case"], r'no case matches "no such case"'),
        (["show", "stream"], r'"stream" matches \d+ cases'),
        (["list", "kernel"], r'unknown subject "kernel" \(did you mean "kernels"\?\)'),
    ],
)
def test_commands(arguments: list[str], says: str, cli: Cli) -> None:
    refused(cli(*arguments), says)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('kernel = "stream"', 'kernel = "sream"', r'study 1: unknown kernel "sream" \(did you mean "stream"\?\)'),
        ("threads = 1", "thread = 1", r'study 1: unknown key "thread" \(did you mean "threads"\?\)'),
        ('"L2"', '"L7"', r'study 1: unknown level of stream "L7"'),
        ("threads = 1", 'on = "cpu:99"', r'study 1: unknown device "cpu:99"'),
        ("threads = 1", 'on = "gpx"', r'study 1: unknown device "gpx"'),
        ("threads = 1", "threads = 4096", r"study 1: .*4096.*thread"),
        ("threads = 1", 'backend = "nativ"', r'study 1: unknown backend "nativ" \(did you mean "native"\?\)'),
        ("threads = 1", 'isa = "x86_64_v9"', r'study 1: unknown ISA level "x86_64_v9"'),
        ('level = ["L1", "L2"]', 'size = "3 parsecs"', r'study 1: .*"3 parsecs" is not a size'),
        ('level = ["L1", "L2"]', 'size = "900 TiB"', r'study 1: size "900 TiB" is .* beyond memory'),
        ('visit = "20 ms"', "visit = 20", r"visit"),
    ],
)
def test_sweeps(old: str, new: str, says: str, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(SMALL.replace(old, new, 1))
    result = cli("run", path, "--dry-run")
    refused(result, says)
    assert "bad" in result.stderr


def test_run_files(measured: Measured, cli: Cli, tmp_path: Path) -> None:
    whole = measured.path.read_text().splitlines(keepends=True)
    newer = json.loads(whole[0]) | {"schema": 99}

    def file(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    refused(cli("roofline", file("empty.jsonl", b"")), r"empty.jsonl: empty; a run file begins with a header")
    refused(cli("roofline", file("binary.jsonl", bytes(range(256)) * 4)), r"binary.jsonl: line 1: not text")
    bad_line = [*whole[:3], "{oops\n", *whole[3:]]
    refused(cli("roofline", file("bad.jsonl", "".join(bad_line).encode())), r"bad.jsonl: line 4: ")
    text = json.dumps(newer) + "\n" + "".join(whole[1:])
    refused(cli("roofline", file("newer.jsonl", text.encode())), r"schema 99 is newer than 1.*upgrade pykernels")
    wrong = text.replace('"schema": 99', '"schema": "one"')
    refused(cli("roofline", file("wrong.jsonl", wrong.encode())), r"schema 'one' is not a schema number")


def test_outputs_that_cannot_be_written(small: Path, cli: Cli, tmp_path: Path) -> None:
    refused(cli("run", small, "-o", "/proc/x.jsonl"), r"/proc/x.jsonl: cannot ")
    refused(cli("run", small, "-o", "no-folder/x.jsonl"), r"no-folder/x.jsonl: .*does not exist")
    refused(cli("run", small, "-o", tmp_path), r"folder")
    (tmp_path / "there.jsonl").write_text("precious")
    refused(cli("run", small, "-o", "there.jsonl"), r"there.jsonl: .*exists")
    assert (tmp_path / "there.jsonl").read_text() == "precious"


def test_a_full_disk_is_one_sentence(small: Path, cli: Cli) -> None:
    refused(cli("run", small, "-o", "/dev/full"), r"/dev/full: cannot write: no space left on device; the disk is full")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_disk_that_fills_up_loses_nothing_measured(small: Path, cli: Cli, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mount.stderr.decode().strip()}")
    try:
        result = cli("run", small, "-o", disk / "run.jsonl", "--launches", "5")
        refused(result, r"run.jsonl: cannot write: no space left on device; the disk is full")
        kept = (disk / "run.jsonl").read_text()
        assert kept.count('"kind":"record"') >= 1
        assert all(json.loads(line) for line in kept.splitlines())
        assert cli("roofline", disk / "run.jsonl").returncode == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_mount_is_named(small: Path, cli: Cli, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "ro"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mount.stderr.decode().strip()}")
    try:
        refused(cli("run", small, "-o", disk / "run.jsonl"), r"ro/run.jsonl: cannot be? ?writ")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
