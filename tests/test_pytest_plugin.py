"""The pytest door, through pytest itself in a process of its own. Timings are replayed, but for one real run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import pytest
import synthetic

from pykernels.acceptance import Acceptance, Door
from pykernels.backends.replay import Replay
from pykernels.store import load_run
from pykernels.sweep import load_sweep

pytest_plugins = ["pytester"]

SWEEP = """# memory of this machine
pykernels = 1
launches = 3

[[study]]
kernel = "stream"
op = ["copy", "triad"]
level = "L2"
threads = 1

[[require]]
case = "stream[op=copy*"
share = [">= 60% of roof:L2:load", ">= 90% of roof:L2:load"]

[[require]]
case = "stream[op=triad*"
GBps = [">= 20", "<= 105% of datasheet"]
"""
RATES = {"op=copy": [30.0, 30.0, 30.0], "op=triad": [16.0, 20.0, 25.0], "op=load": [40.0, 40.0, 40.0]}


@pytest.fixture
def folder(pytester: pytest.Pytester) -> Path:
    """A rootdir with SWEEP as machine.toml, its timings as timings.jsonl, and a TOML file that is not ours."""
    path = pytester.path
    (path / "machine.toml").write_text(SWEEP)
    (path / "other.toml").write_text('title = "pykernels = 1"\npykernels = 1\n[[require]]\n')
    _write_timings(path / "timings.jsonl", path / "machine.toml", RATES)
    pytester.makeini(
        "[pytest]\nfilterwarnings =\n    ignore:Module already imported so cannot be rewritten\n"
        "addopts = -p no:hypothesispytest\n"
    )
    return path


def _write_timings(path: Path, sweep: Path, rates: dict[str, list[float]]) -> None:
    """Timings of every case and roof of a sweep, on the synthetic machine; slower launches are more contended."""
    acceptance = Acceptance(load_sweep(str(sweep)), Door(synthetic.machine(), Replay(path=path)))
    lines: list[dict[str, Any]] = [{"machine": msgspec.to_builtins(synthetic.machine())}]
    for case in acceptance.plan(acceptance.checks).cases:
        amount = case.problem.figure().amount
        values = next(values for key, values in rates.items() if key in case.id)
        for launch, rate in enumerate(values):
            samples = [amount / rate / 1e9] * 10
            contended = [1.0] * 9 + [0.5]
            lines.append({"case_id": case.id, "launch": launch, "samples_s": samples, "cpu_over_wall": contended})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("--pykernels-replay", "timings.jsonl", "--pykernels-out", "run.jsonl", *args)


def test_nothing_heavy_is_imported_before_it_is_used(folder: Path) -> None:
    """Entry points load in every pytest run on the machine, so a plain one must not pay for ours."""
    (folder / "test_plain.py").write_text("def test_plain(): pass\n")
    code = (
        "import sys, pytest\n"
        "assert pytest.main(['-q', '--collect-only', 'test_plain.py', 'other.toml']) in (0, 4), 'collection'\n"
        "assert pytest.main(['-q', 'test_plain.py']) == 0\n"
        "assert 'pykernels.pytest_plugin' in sys.modules\n"
        "heavy = {'numpy', 'numba', 'msgspec', 'click', 'rich', 'scipy', 'psutil'} & set(sys.modules)\n"
        "ours = {name for name in sys.modules if name.startswith('pykernels.')} - {'pykernels.pytest_plugin'}\n"
        "assert not heavy | ours, heavy | ours\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_collect_only_is_the_plan(pytester: pytest.Pytester, folder: Path) -> None:
    """Cases, then bounds, ids ending in the case's hash; other TOML files are left alone; nothing is measured."""
    (folder / "sweep.toml").write_text(SWEEP[: SWEEP.index("[[require]]")])  # no requirement: only where it is named
    result = _run(pytester, "--collect-only", "-q", "-m", "pykernels")
    ids = [line for line in result.outlines if "::" in line]
    assert len(ids) == 6
    assert all(re.fullmatch(r"machine\.toml::stream\[op=.* \[[0-9a-f]{8}\]", line) for line in ids)
    result.stdout.fnmatch_lines(["machine.toml: 2 cases, 1 roof added; about * of a 10 min 0 s budget"])
    assert not (folder / "run.jsonl").exists()
    named = _run(pytester, "--collect-only", "-q", "sweep.toml")
    assert len([line for line in named.outlines if "::" in line]) == 2


def test_items_report_one_interleaved_measurement(pytester: pytest.Pytester, folder: Path) -> None:
    """0.75 of the roof passes 60% and fails 90%; 20 GB/s astride its bound warns; no datasheet skips. Then --lf."""
    result = _run(pytester, "-rsf", "--junitxml=out.xml", "-v")
    result.assert_outcomes(passed=4, failed=1, skipped=1, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "stream[[]op=copy,level=L2,fp64[]] native:* @cpu[*]1",
            "  requires    share >= 90% of roof:L2:load",
            "  measured    75.0% [[]75.0%, 75.0%[]] of roof:L2:load   95% over 3 launches",
            "  figures     30.0 GB/s under 40.0 GB/s of stream[[]op=load,level=L2,fp64[]]*",
            "  conditions  contended 10% of samples, steal 0 ticks, load 0.00, throttling not readable",
            "  run file    run.jsonl",
            "  rerun       pytest machine.toml -k ????????",
            "*UnclearWarning: unclear: GBps >= 20: 20 [[]*[]] GB/s, the interval straddles the bound",
            "wrote run.jsonl   (pykernels roofline run.jsonl)",
            "SKIPPED [[]1[]] machine.toml: datasheets give no figure for L2 triad in GB/s",
            "FAILED machine.toml::stream[[]op=copy,*] native:* @cpu[*]1 share >= 90% of roof:L2:load [[]????????[]]*",
        ]
    )
    assert "Traceback" not in result.stdout.str()
    assert "pytest_plugin.py" not in result.stdout.str()
    _check_junit(folder / "out.xml")
    run = load_run(folder / "run.jsonl")
    assert [record.launch for record in run.records] == sorted([0, 1, 2] * 3)
    again = _run(pytester, "--lf", "--pykernels-out", "again.jsonl")
    again.assert_outcomes(failed=1)
    assert len({record.case_id for record in load_run(folder / "again.jsonl").records}) == 2  # it and its roof


def _check_junit(path: Path) -> None:
    cases = ET.parse(path).getroot().findall(".//testcase")
    assert len(cases) == 6
    found = {case.get("name", ""): {p.get("name"): p.get("value") for p in case.iter("property")} for case in cases}
    assert all(re.search(r" \[[0-9a-f]{8}\]$", name) for name in found)
    share = next(properties for name, properties in found.items() if ">= 60%" in name)
    assert (share["value"], share["low"], share["high"], share["unit"]) == ("30", "30", "30", "GB/s")
    assert (share["share"], share["share_low"], share["roof_value"]) == ("0.75", "0.75", "40")
    assert str(share["roof"]).startswith("stream[op=load,level=L2,fp64]")


def test_selection_measures_what_is_selected(pytester: pytest.Pytester, folder: Path) -> None:
    """-k with words or the hash, an id, and -x after the first failure; launches from the command line."""
    result = _run(pytester, "-k", "triad and not GBps", "--pykernels-launches", "2", "-q")
    result.assert_outcomes(passed=1, deselected=5)
    records = load_run(folder / "run.jsonl").records
    assert {(r.params["op"], r.launch) for r in records} == {("triad", 0), ("triad", 1)}
    failing = _run(pytester, "-x", "--pykernels-out", "x.jsonl", "-k", f"share or {records[0].case}")
    failing.assert_outcomes(passed=2, failed=1, deselected=1)
    ids = [line for line in _run(pytester, "--collect-only", "-q").outlines if "::" in line]
    one = _run(pytester, "--pykernels-out", "one.jsonl", ids[1])
    one.assert_outcomes(passed=1)


def test_ini_values_make_unclear_and_missing_fail(pytester: pytest.Pytester, folder: Path) -> None:
    result = _run(pytester, "-o", "pykernels_unclear=fail", "-o", "pykernels_missing=fail")
    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(
        [
            "unclear: stream[[]op=triad*",
            "missing: stream[[]op=triad*",
            "  because     datasheets give no figure for L2 triad in GB/s",
        ]
    )
    bad = _run(pytester, "-o", "pykernels_unclear=maybe")
    assert bad.ret == pytest.ExitCode.USAGE_ERROR
    bad.stderr.fnmatch_lines(['ERROR: pykernels_unclear = "maybe": expected warn or fail'])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("pykernels = 1", "pykernels = 2"), "machine.toml: pykernels = 2: the first key must be `pykernels = 1`"),
        (('op = ["copy"', 'op = ["cpoy"'), 'machine.toml: study 1: unknown op* "cpoy" (did you mean "copy"[?])'),
        (("roof:L2:load", "roof:L9:load"), "machine.toml: requirement *: unknown roof*"),
        (("launches = 3", "launches = "), "machine.toml: not valid TOML: *"),
    ],
)
def test_a_bad_sweep_is_one_sentence(
    pytester: pytest.Pytester, folder: Path, change: tuple[str, str], sentence: str
) -> None:
    (folder / "machine.toml").write_text(SWEEP.replace(*change))
    result = _run(pytester, "machine.toml")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([sentence.replace("[[", "[")])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_what_cannot_be_written_is_one_sentence_for_each_item(pytester: pytest.Pytester, folder: Path) -> None:
    (folder / "run.jsonl").write_text("precious")
    result = _run(pytester, "-k", "triad")
    result.assert_outcomes(failed=3, deselected=3)
    result.stdout.fnmatch_lines(["run.jsonl: the file exists: give --pykernels-out another name"])
    assert "Traceback" not in result.stdout.str()
    assert (folder / "run.jsonl").read_text() == "precious"


def test_under_xdist_it_is_a_usage_error(pytester: pytest.Pytester, folder: Path) -> None:
    pytest.importorskip("xdist")
    sentence = "measurements run one at a time on an idle machine: run pykernels items without pytest-xdist (-n 0)"
    named = _run(pytester, "-n", "1", "machine.toml")
    assert named.ret == pytest.ExitCode.USAGE_ERROR
    named.stderr.fnmatch_lines([f"ERROR: {sentence}"])
    pytester.makepyfile("def test_fixture(pykernels): pass\ndef test_plain(): pass\n")
    found = _run(pytester, "-n", "1", "--continue-on-collection-errors")
    found.assert_outcomes(passed=1, errors=2)
    assert found.stdout.str().count(sentence) >= 2
    assert not (folder / "run.jsonl").exists()


FIXTURE = """
import pytest

def test_figures(pykernels):
    copy = pykernels.measure("stream", op="copy", level="L2", threads=1)
    assert (round(copy.value, 9), round(copy.low, 9), round(copy.high, 9), copy.unit) == (30.0, 30.0, 30.0, "GB/s")

def test_requirements(pykernels):
    copy = pykernels.measure("stream", op="copy", level="L2", threads=1, on="cpu")
    copy.require("share >= 60% of roof:L2:load").require("GBps >= 29")

def test_fails(pykernels):
    pykernels.measure("stream", op="copy", level="L2", threads=1).require("GBps >= 31")

def test_unclear(pykernels):
    with pytest.warns(UserWarning, match="unclear: GBps >= 20: 20 .* GB/s, the interval straddles the bound"):
        pykernels.measure("stream", op="triad", level="L2", threads=1).require("GBps >= 20")

def test_missing(pykernels):
    pykernels.measure("stream", op="store", level="L2", threads=1).value

def test_bad_input(pykernels):
    pykernels.measure("stream", op="copy", level="L2", threads=1).require("GBps at least 20")

def test_plain():
    pass
"""


def test_the_fixture_measures_requires_and_marks(pytester: pytest.Pytester, folder: Path) -> None:
    pytester.makepyfile(test_memory=FIXTURE)
    result = _run(
        pytester, "test_memory.py", "-m", "pykernels", "--pykernels-launches", "3", "-rs", "--junitxml=out.xml"
    )
    result.assert_outcomes(passed=3, failed=2, skipped=1, deselected=1)
    result.stdout.fnmatch_lines(
        [
            "  requires    GBps >= 31",
            "  measured    30.0 [[]30.0, 30.0[]] GB/s   95% over 3 launches",
            "  rerun       pytest test_memory.py::test_fails",
            'require: GBps = " at least 20" is not a bound *',
            "wrote run.jsonl *",
            "wrote run-2.jsonl *",
            "SKIPPED [[]1[]] test_memory.py:*: timings.jsonl has no such visit",
        ]
    )
    assert "another exception" not in result.stdout.str()
    assert "pytest_plugin.py" not in result.stdout.str()
    shared = load_run(folder / "run-2.jsonl")
    assert {record.params["op"] for record in shared.records} == {"copy", "load"}  # the roof, measured together
    properties = {p.get("name"): p.get("value") for p in ET.parse(folder / "out.xml").getroot().iter("property")}
    assert {"value", "low", "high", "unit", "roof", "share"} <= set(properties)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures this machine")
def test_a_real_measurement(pytester: pytest.Pytester, folder: Path) -> None:
    """One tiny case on this machine, in real workers, under the lock."""
    (folder / "tiny.toml").write_text(
        'pykernels = 1\nlaunches = 2\nvisit = "10 ms"\n[[study]]\nkernel = "stream"\nop = "load"\nlevel = "L1"\n'
        'threads = 1\n[[require]]\ncase = "stream*"\nGBps = ">= 0.001"\nshare = ">= 1% of roof:L1:load"\n'
    )
    result = pytester.runpytest_subprocess("tiny.toml", "--pykernels-out", "real.jsonl")
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed", 0) >= 1, result.stdout.str()
    assert not outcomes.get("failed", 0)
    run = load_run(folder / "real.jsonl")
    assert (run.header.source, len(run.records), run.footer is not None) == ("measured", 2, True)
