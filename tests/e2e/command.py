"""The installed command, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).parent / "pykernels"

SMALL = """
pykernels = 1
title = "a few quick cases"
launches = 2
visit = "20 ms"

[[study]]
kernel = "stream"
op = ["load", "copy"]
level = ["L1", "L2"]
dtype = "fp64"
threads = 1

[[study]]
kernel = "fma"
dtype = "fp64"
threads = 1
"""

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def run_command(*args: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`pykernels ARGS` in a folder, with its exit code, output and errors."""
    return subprocess.run(
        [str(COMMAND), *map(str, args)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **env},
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )


class Measured:
    """The shared run: what the user saw, and the file."""

    def __init__(self, folder: Path) -> None:
        (folder / "small.toml").write_text(SMALL)
        self.folder = folder
        self.result = run_command("run", "small.toml", "-o", "run.jsonl", cwd=folder)
        self.path = folder / "run.jsonl"

    def lines(self) -> list[dict[str, Any]]:
        """Every line of the run file, decoded."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]
