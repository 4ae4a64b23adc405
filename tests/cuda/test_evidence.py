"""The evidence script without a GPU: its plan, what it finds missing, and the reading of counters."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

GPU_TESTS = Path(__file__).parents[1] / "gpu"
SAID = '{"bytes": 1073741824.0, "kernel": "stream__copy__fp32__b16"}\n'
TABLE = (
    '==PROF== Connected\n"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
    '"0","stream__copy__fp32__b16","dram__bytes_read.sum","byte","{read}"\n'
    '"0","stream__copy__fp32__b16","dram__bytes_write.sum","byte","{write}"\n'
)


@pytest.fixture(scope="module")
def counters() -> ModuleType:
    spec = importlib.util.spec_from_file_location("counters", GPU_TESTS / "counters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan(*options: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(GPU_TESTS / "evidence.sh"), "--dry-run", "--python", sys.executable, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_plan_has_the_most_useful_first(tmp_path: Path) -> None:
    done = plan("--out", str(tmp_path / "none"))
    assert done.returncode == 0, done.stderr
    steps = [line.split("(")[0].removeprefix("step: ").strip() for line in done.stdout.splitlines() if "step: " in line]
    assert steps[:3] == ["verify every kernel", "memory, L2, link, launch, lookups", "the whole sweep"]
    files = {line.rpartition("-> ")[2] for line in done.stdout.splitlines() if "step: " in line}
    assert len(files | {"check.txt", "first.jsonl", "gpu.jsonl", "host.jsonl"}) <= 8
    assert not (tmp_path / "none").exists()
    assert "missing: nvidia-smi" in done.stdout or "missing" not in done.stdout


def test_an_unknown_option_is_refused() -> None:
    done = plan("--bugdet", "3")
    assert (done.returncode, done.stdout.strip()) == (2, "unknown option --bugdet")


@pytest.mark.parametrize(("share", "agrees"), [(1.0, True), (1.04, True), (0.96, True), (1.06, False), (0.5, False)])
def test_counted_bytes_must_agree_within_five_percent(counters: ModuleType, share: float, agrees: bool) -> None:
    half = f"{int(share * 1073741824 / 2):,}"
    found, sentence = counters.verdict(SAID + TABLE.format(read=half, write=half))
    assert found is agrees
    assert f"ratio {share:.4f}" in sentence


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("==ERROR== ERR_NVGPUCTRPERM - The user does not have permission", "no permission"),
        (SAID, "wrote no table"),
        (
            SAID + TABLE.split('"0","stream__copy__fp32__b16","dram__bytes_write')[0].format(read="5"),
            "no dram__bytes_write",
        ),
    ],
)
def test_counters_that_cannot_be_read_are_a_sentence(counters: ModuleType, text: str, says: str) -> None:
    found, sentence = counters.verdict(text)
    assert not found
    assert says in sentence
