"""Recorded trees for the tests of the machine side."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `trees`, which is shared by this folder's tests only

from trees.generate import MACHINES, Files, machine, overlay, write

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
def changed(tmp_path: Path, recorded: dict[str, Path]) -> Callable[..., Path]:
    """Writes a recorded machine with some files replaced or added, or those left out whose path has a part in it."""

    def build(name: str, files: Files | None = None, without: tuple[str, ...] = ()) -> Path:
        if not without:
            return overlay(recorded[name], tmp_path / name, files or {})
        kept = {path: text for path, text in machine(name).items() if not any(part in path for part in without)}
        return write(tmp_path / name, kept | (files or {}))

    return build
