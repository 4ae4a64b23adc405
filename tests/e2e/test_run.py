"""What a user sees of `pykernels run` and of the file it leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

from command import COMMAND, Cli, Measured


def test_a_run_prints_its_roofline_and_says_where_everything_is(measured: Measured) -> None:
    result = measured.result
    assert result.returncode == 0, result.stderr
    assert "L1 load" in result.stdout
    assert "GFLOP/s" in result.stdout
    assert "ridge point" in result.stdout
    assert "wrote run.jsonl   5 measured" in result.stdout
    assert "within-process" in result.stderr  # the first figure, long before the end
    assert "Traceback" not in result.stderr
    picture = (measured.folder / "run.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_the_run_file_has_a_header_records_and_a_footer(measured: Measured) -> None:
    lines = measured.lines()
    header, footer = lines[0], lines[-1]
    records = [line for line in lines if line["kind"] == "record"]
    assert (header["kind"], header["schema"]) == ("header", 1)
    assert "small" in header["sweep_name"]
    assert header["machine"]["cores"]
    assert header["compiler"]
    assert footer["kind"] == "footer"
    assert footer["records"] == len(records) == 10
    first = records[0]
    assert first["outcome"]["status"] in ("measured", "disturbed")
    samples = first["outcome"]
    assert len(samples["samples_s"]) == len(samples["cpu_over_wall"]) == len(samples["clock_ghz"])
    assert all(0 < seconds < 10 for seconds in samples["samples_s"])


def test_every_visit_is_in_a_fresh_order(measured: Measured) -> None:
    records = [line for line in measured.lines() if line["kind"] == "record"]
    orders = [[r["case_id"] for r in records if r["launch"] == launch] for launch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_the_roofline_json_has_the_published_shape(measured: Measured, cli: Cli) -> None:
    result = cli("roofline", measured.path, "--json")
    answer = json.loads(result.stdout)
    assert list(answer) == ["schema", "machine", "roofs", "ridges", "fit", "levels", "loaded", "not_drawn"]
    assert set(answer["roofs"][0]) == {
        "device", "domain", "kind", "level", "op", "dtype", "threads", "isa", "pages", "working_set", "row_bytes",
        "value", "low", "high", "best", "launches", "interval", "scope", "unit", "label", "regimes", "flags",
    }  # fmt: skip
    assert set(answer["ridges"][0]) == {
        "device", "dtype", "threads", "isa", "level", "op", "value", "low", "high", "unit",
    }  # fmt: skip
    for roof in answer["roofs"]:
        assert 0 < roof["low"] <= roof["value"] <= roof["high"]
        assert roof["unit"] in ("GB/s", "GFLOP/s")


def test_a_picture_is_drawn_as_svg_where_asked(measured: Measured, cli: Cli, tmp_path: Path) -> None:
    result = cli("roofline", measured.path, "-o", "roof.svg")
    assert result.returncode == 0, result.stderr
    assert "<svg" in (tmp_path / "roof.svg").read_text()


def test_a_dry_run_lists_the_plan_and_measures_nothing(small: Path, cli: Cli, tmp_path: Path) -> None:
    result = cli("run", small, "--dry-run")
    assert result.returncode == 0
    assert "5 cases: 5 will run, 0 skipped. Estimate" in result.stdout
    assert not list(tmp_path.glob("*.jsonl"))
    plan = json.loads(cli("run", small, "--dry-run", "--json").stdout)
    assert len(plan["cases"]) == 5


def test_over_budget_the_least_informative_cases_are_dropped_and_named(small: Path, cli: Cli) -> None:
    result = cli("run", small, "--dry-run", "--budget", "2 s")
    assert "drop      stream[" in result.stdout
    assert "dropped" in result.stdout.splitlines()[-1]


def test_filters_choose_by_piece_wildcard_and_hash(small: Path, cli: Cli) -> None:
    plan = json.loads(cli("run", small, "--dry-run", "--json").stdout)
    chosen = plan["cases"][0]
    for pattern in (chosen["hash"], chosen["case_id"]):
        only = json.loads(cli("run", small, "--dry-run", "--json", "-k", pattern).stdout)
        assert [case["case_id"] for case in only["cases"]] == [chosen["case_id"]]
    loads = json.loads(cli("run", small, "--dry-run", "--json", "-k", "stream[op=load*fp64]").stdout)
    assert len(loads["cases"]) == 2


def test_ctrl_c_leaves_a_valid_file_that_resumes_to_the_whole(small: Path, cli: Cli, tmp_path: Path) -> None:
    child = subprocess.Popen(
        [str(COMMAND), "run", str(small), "-o", "cut.jsonl", "--launches", "3"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell gives what it starts in the background a SIGINT that is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    path = tmp_path / "cut.jsonl"
    _wait_for_records(path, 4)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "pykernels run --resume cut.jsonl" in errors
    before = _records(path)
    assert 4 <= len(before) < 15
    assert cli("roofline", path).returncode == 0

    result = cli("run", "--resume", path)
    assert result.returncode == 0, result.stderr
    after = _records(path)
    assert after[: len(before)] == before
    assert len(after) == 15
    assert len({(r["case_id"], r["launch"], r["round"]) for r in after}) == 15


def test_a_killed_run_is_a_valid_shorter_run(small: Path, cli: Cli, tmp_path: Path) -> None:
    child = subprocess.Popen(
        [str(COMMAND), "run", str(small), "-o", "killed.jsonl"], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    path = tmp_path / "killed.jsonl"
    _wait_for_records(path, 2)
    workers = _children(child.pid)
    child.kill()
    child.wait()
    assert workers
    _wait_until_gone(workers)  # workers die with the parent
    assert cli("roofline", path).returncode == 0
    with path.open("a") as file:
        file.write('{"kind":"record","case_id":"str')
    torn = cli("roofline", path)
    assert torn.returncode == 0
    assert "is torn and was left out" in torn.stderr
    assert cli("run", "--resume", path).returncode == 0
    assert len(_records(path)) == 10


def _records(path: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "record"]


def _wait_for_records(path: Path, count: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b'"kind":"record"') >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} records in {path}")


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"workers {pids} outlive their parent"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
