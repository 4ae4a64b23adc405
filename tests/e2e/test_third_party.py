"""A backend of another package, as the README shows it: found by its entry point, run, verified, judged."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from command import Cli
from readme import readme_example


@pytest.fixture
def package(tmp_path: Path) -> str:
    """A folder for PYTHONPATH that holds the README's package as an installer leaves it."""
    info = tmp_path / "site" / "my_backend-1.dist-info"
    info.mkdir(parents=True)
    (info.parent / "my_backend.py").write_text(readme_example("my_backend.py"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-backend\nVersion: 1\n")
    groups = tomllib.loads(readme_example("pyproject.toml"))["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    (info / "entry_points.txt").write_text("".join(lines))
    return str(info.parent)


def test_the_readme_s_backend(cli: Cli, tmp_path: Path, package: str) -> None:
    (tmp_path / "mine.toml").write_text('launches = 2\nvisit = "5 ms"\n' + readme_example("mine.toml"))
    run = cli("run", "mine.toml", "-o", "mine.jsonl", PYTHONPATH=package)
    assert run.returncode == 0, run.stderr
    answer = json.loads(cli("kernels", "mine.jsonl", "--json", PYTHONPATH=package).stdout)
    points = {point["backend"]: point for point in answer["points"]}
    assert set(points) == {"einsum", "native"}
    assert points["einsum"]["roof"]["op"] == "load"
    assert points["einsum"]["share"] > 0
    assert points["einsum"]["peer_ratio"] == pytest.approx(points["native"]["time_s"] / points["einsum"]["time_s"])


def test_what_it_lacks_is_skipped_with_its_reason(cli: Cli, tmp_path: Path, package: str) -> None:
    sweep = 'pykernels = 1\n[[study]]\nkernel = "softmax"\nlevel = "L2"\nbackend = "einsum"\n'
    (tmp_path / "other.toml").write_text(sweep)
    planned = cli("run", "other.toml", "--dry-run", PYTHONPATH=package)
    assert "einsum has only gemv in fp32 here" in planned.stdout + planned.stderr
