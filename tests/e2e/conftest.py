"""The command in a folder of the test's own, and one measured run that the tests here share."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from command import SMALL, Cli, Measured, run_command


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run the command in a folder of the test's own."""

    def call(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
        return run_command(*args, cwd=tmp_path, **env)

    return call


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A sweep of five cases and two launches."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """One real run of the installed command."""
    return Measured(tmp_path_factory.mktemp("measured"))
