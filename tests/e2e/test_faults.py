"""A worker that crashes, hangs, runs out of memory or meets an illegal instruction costs one record, not the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import Cli

SWEEP = """
pykernels = 1
title = "a backend that goes wrong"
launches = 1
timeout = "2 s"

[[study]]
kernel = "stream"
op = "copy"
size = "64 KiB"
dtype = "fp64"
threads = 1
backend = "faulty"
variant = [VARIANTS]
"""

HOW = {
    "segfault": "signal SIGSEGV",
    "illegal-instruction": "signal SIGILL",
    "hang": "timeout",
    "exception": "exception",
    "exit": "exit 3",
    "out-of-memory": "out of memory",
    "killed": "signal SIGKILL",
    "real-time-signal": "signal 40",
    "not-a-number": "exception",
}


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    """A folder for PYTHONPATH that installs the faulty backend through its entry point."""
    folder = tmp_path / "plugin"
    info = folder / "faulty-1.dist-info"
    info.mkdir(parents=True)
    source = Path(__file__).with_name("faulty_backend.py").read_text()
    (folder / "faulty_backend.py").write_text(source)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[pykernels.backends]\nfaulty = faulty_backend:BACKEND\n")
    return str(folder)


def outcomes(path: Path) -> dict[str, dict[str, Any]]:
    """Variant -> outcome of its record."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["variant"]: line["outcome"] for line in lines if line["kind"] == "record"}


def test_each_fault_costs_one_record_and_the_run_goes_on(cli: Cli, tmp_path: Path, plugin: str) -> None:
    variants = ["good", "wrong", *HOW]
    (tmp_path / "faults.toml").write_text(SWEEP.replace("VARIANTS", ", ".join(f'"{v}"' for v in variants)))
    result = cli("run", "faults.toml", "-o", "f.jsonl", PYTHONPATH=plugin)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    found = outcomes(tmp_path / "f.jsonl")
    assert found["good"]["status"] == "measured"
    assert found["wrong"]["status"] == "wrong"
    assert found["wrong"]["max_error"] > found["wrong"]["bound"]
    for variant, how in HOW.items():
        assert found[variant]["status"] == "crashed", variant
        assert found[variant]["how"] == how, (variant, found[variant])
        assert f"faulty/{variant} @cpu*1   {how}" in result.stderr
    assert "rerun: pykernels run faults.toml -k " in result.stderr
    assert "1 measured, 1 wrong, 9 crashed" in result.stdout


def test_nothing_measured_is_exit_code_3(cli: Cli, tmp_path: Path, plugin: str) -> None:
    text = SWEEP.replace("VARIANTS", '"no-such-variant"')
    (tmp_path / "none.toml").write_text(text)
    result = cli("run", "none.toml", "-o", "n.jsonl", PYTHONPATH=plugin)
    assert result.returncode == 3
    assert "no case was measured" in result.stderr
    assert "faulty has no variant" in (tmp_path / "n.jsonl").read_text()


def test_a_backend_that_does_not_load_is_named(cli: Cli, tmp_path: Path, plugin: str) -> None:
    (Path(plugin) / "faulty_backend.py").write_text("import no_such_module\n")
    (tmp_path / "faults.toml").write_text(SWEEP.replace("VARIANTS", '"good"'))
    result = cli("run", "faults.toml", "--dry-run", PYTHONPATH=plugin)
    assert result.returncode == 2
    assert 'backend "faulty" of faulty_backend:BACKEND does not load' in result.stderr
    assert "Traceback" not in result.stderr
