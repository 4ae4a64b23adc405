"""The evidence script without a GPU: its plan, what it finds missing, and the reading of counters."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pykernels.store import load_run

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
    assert done.returncode == (0 if shutil.which("nvidia-smi") else 3), done.stderr
    steps = [line.split("(")[0].removeprefix("step: ").strip() for line in done.stdout.splitlines() if "step: " in line]
    assert steps[:3] == ["verify every kernel", "memory, L2, link, launch, lookups", "the whole sweep"]
    files = {line.rpartition("-> ")[2] for line in done.stdout.splitlines() if "step: " in line}
    assert len(files | {"check.txt", "first.jsonl", "gpu.jsonl", "host.jsonl"}) <= 8
    assert not (tmp_path / "none").exists()
    assert "missing: nvidia-smi" in done.stdout or "missing" not in done.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--bugdet", "3"), "unknown option --bugdet"),
        (("--budget", "soon"), "--budget soon: write whole minutes"),
        (("--budget",), "--budget needs a value"),
        (("--wheels", "/nowhere"), "--wheels: there is no such folder"),
    ],
)
def test_bad_options_are_refused(options: tuple[str, ...], says: str) -> None:
    done = plan(*options)
    assert (done.returncode, done.stdout.strip()) == (2, says)


STUB = r"""#!/bin/bash
# Stands for the Python of a GPU machine: makes venvs of itself, installs nothing, passes GPU tests; runs are simulated.
case "$*" in
  "-m venv"*) for folder; do :; done; mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python"
    {
      echo '#!/bin/bash'
      echo '[ "$1" = run ] && set -- "$@" --simulate NOISE --launches 2'
      echo 'exec REAL -P -m pykernels "$@"'
    } >"$folder/bin/pykernels"
    chmod +x "$folder/bin/pykernels" ;;
  *"-m pip"* | *why_none*) ;;
  *"-m pytest"*) echo "VERDICT passed"; exit FAILED ;;
  one_kernel.py*) echo "ours 1 us" ;;
  *) exec REAL "$@" ;;
esac
"""


def evidence(folder: Path, *options: str, failed: int = 0) -> subprocess.CompletedProcess[str]:
    """The whole script on a machine whose Python, GPU and tools are stubs, and whose runs are simulated."""
    noise = Path(__file__).parents[1] / "noise" / "quiet.toml"
    tools = folder / "tools"
    tools.mkdir()
    stub = STUB.replace("REAL", sys.executable).replace("NOISE", str(noise)).replace("FAILED", str(failed))
    half = f"{SAID}{TABLE.format(read='536870912', write='536870912')}"
    for name, text in (("python", stub), ("nvidia-smi", "#!/bin/sh\n"), ("compute-sanitizer", "#!/bin/sh\n"),
                       ("ncu", f"#!/bin/sh\ncat <<'EOF'\n{half}EOF\n")):  # fmt: skip
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    command = ["bash", str(GPU_TESTS / "evidence.sh"), "--out", str(folder / "out"), "--python", str(tools / "python")]
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
    )  # fmt: skip


def test_the_script_from_end_to_end(tmp_path: Path) -> None:
    done = evidence(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    order = [line.split(" (")[0] for line in done.stdout.splitlines() if line.startswith("== ")]
    assert order[:4] == ["== what is here", "== verify every kernel", "== memory, L2, link, launch, lookups",
                         "== the whole sweep"]  # fmt: skip
    assert "ratio 1.0000" in done.stdout
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["check.txt", "counters.txt", "first.jsonl", "gpu.jsonl", "host.jsonl", "run.txt", "tests.txt"]
    first = load_run(tmp_path / "out" / "first.jsonl")
    assert {"stream", "link", "launch", "gather", "embedding_bag"} <= {record.kernel for record in first.records}
    host = load_run(tmp_path / "out" / "host.jsonl")
    assert {record.device for record in host.records} == {"cpu"}


def test_what_failed_or_was_left_out_is_said_at_the_end(tmp_path: Path) -> None:
    done = evidence(tmp_path, "--budget", "0", failed=1)
    assert done.returncode == 1
    assert "-- verify every kernel: left out" in done.stdout
    assert done.stdout.splitlines()[-1] == "!! the kernels under their roofs: left out"


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
