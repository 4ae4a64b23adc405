"""Recorded trees for the tests of the machine side."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `trees`, which is shared by this folder's tests only

from trees.generate import MACHINES, Files, machine, write

from pykernels.machine.cpu import read_machine
from pykernels.model import Machine


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Root of every machine's tree."""
    return {name: write(tmp_path_factory.mktemp(name), machine(name)) for name in MACHINES}


@pytest.fixture(scope="session")
def machines(recorded: dict[str, Path]) -> dict[str, Machine]:
    """Every recorded machine as it is read."""
    return {name: read_machine(root) for name, root in recorded.items()}


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recorded machine with some files replaced, and those below some paths left out."""

    def build(name: str, replace: Files | None = None, without: tuple[str, ...] = ()) -> Path:
        files = {path: text for path, text in machine(name).items() if not any(part in path for part in without)}
        return write(tmp_path / "root", files | (replace or {}))

    return build
