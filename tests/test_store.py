"""Run files: whole after every line, resumable, and named when they cannot be read or written."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import stat
from pathlib import Path

import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from pykernels.analysis.roofline import analyse
from pykernels.errors import UsageError
from pykernels.model import Crashed, Measured, Skipped, Tuning, Wrong
from pykernels.store import Run, RunWriter, load_run, open_for_resume

RUN = synthetic.run(synthetic.typical((1,)), launches=2, samples=3)
TUNING = Tuning(case_id=RUN.records[0].case_id, chosen="plain", candidates={"plain": 40.0}, unit="GB/s")


def write(path: Path, records: int = 4, finish: bool = True) -> Path:
    writer = RunWriter(path, RUN.header)
    writer.write(TUNING)
    for record in RUN.records[:records]:
        writer.write(record)
    if finish:
        writer.finish()
    return path


def test_round_trip(tmp_path: Path) -> None:
    run = load_run(write(tmp_path / "a.jsonl"))
    assert (run.header, run.tunings, run.records, run.warnings) == (RUN.header, [TUNING], RUN.records[:4], [])
    assert run.footer is not None
    assert run.footer.records == 4
    assert not run.footer.interrupted


def test_every_line_says_its_kind_and_the_header_its_schema(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in write(tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["header", "tuning", *["record"] * 4, "footer"]
    assert lines[0]["schema"] == 1
    assert list(lines[0])[:2] == ["kind", "schema"]


def test_footer_covers_all_bytes_before_it(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl").read_bytes()
    before, last = data[: data.rstrip().rfind(b"\n") + 1], data.splitlines()[-1]
    assert json.loads(last)["sha256"] == hashlib.sha256(before).hexdigest()


def test_a_killed_run_is_a_valid_shorter_run(tmp_path: Path) -> None:
    run = load_run(write(tmp_path / "a.jsonl", finish=False))
    assert (len(run.records), run.footer, run.warnings) == (4, None, [])


@given(cut=st.integers(1, 400))
def test_cut_anywhere_loses_at_most_the_torn_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = write(tmp_path_factory.mktemp("cut") / "a.jsonl", finish=False)
    data = path.read_bytes()
    kept = data[: len(data) - cut]
    path.write_bytes(kept)
    run = load_run(path)
    whole = kept.count(b"\n") - 2  # header, tuning
    assert len(run.records) in (whole, whole + 1)  # only the newline of a record may be missing
    assert run.records == RUN.records[: len(run.records)]
    assert len(run.warnings) == (not kept.endswith(b"\n") and len(run.records) == whole)


@given(cut=st.integers(0, 400), footer=st.booleans())
def test_resuming_loses_no_record(tmp_path_factory: pytest.TempPathFactory, cut: int, footer: bool) -> None:
    path = write(tmp_path_factory.mktemp("resume") / "a.jsonl", finish=footer)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut])
    before = load_run(path).records
    writer = open_for_resume(path)
    assert load_run(path).records == before  # killed right after opening
    rest = RUN.records[len(before) : 8]
    for record in rest:
        writer.write(record)
    writer.finish()
    run = load_run(path)
    assert run.records == RUN.records[:8]
    assert run.warnings == []
    assert run.footer is not None
    assert run.footer.records == 8


def test_resumed_footer_stands_once_and_last(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl")
    with open_for_resume(path) as writer:
        writer.write(RUN.records[4])
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds.count("footer") == 1
    assert kinds[-1] == "footer"


def test_changed_file_is_said_aloud(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl")
    path.write_text(path.read_text().replace('"threads":1', '"threads":2'))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3] + path.read_text().splitlines(True)[4:]))
    warnings = " ".join(load_run(path).warnings)
    assert "checksum" in warnings
    assert "footer counts 4 records, the file holds 3" in warnings


def test_a_footer_in_the_middle_is_said_aloud(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-2]]))
    run = load_run(path)
    assert len(run.records) == 5
    assert "footer stands before the last line" in run.warnings[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"\x7fELF\x02\x01\x00\x00\x00", "line 1: not text"),
        (b"{broken\n", "line 1: not JSON"),
        (b"[1, 2]\n", "line 1: no header"),
        (b'{"kind":"record"}\n', "line 1: no header"),
        (b'{"kind":"header","machine":{"id":"a","arch":"b"}}\n', "schema None is not a schema number"),
        (b'{"kind":"header","schema":"one"}\n', "schema 'one' is not a schema number"),
        (b'{"kind":"header","schema":0}\n', "schema 0 is not a schema number"),
        (b'{"kind":"header","schema":2}\n', "schema 2 is newer than 1"),
        (b'{"kind":"header","schema":1}\n', "line 1: Object missing required field `machine`"),
    ],
)
def test_what_is_no_run_file(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        load_run(path)
    assert str(path) in str(error.value)
    assert says in str(error.value)


def test_a_bad_line_before_the_last_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"launch":0', b'"launch":"first"')
    path.write_bytes(b"".join(lines))
    with pytest.raises(UsageError, match=r"a\.jsonl: line 4: Expected `int`, got `str` - at `\$\.launch`"):
        load_run(path)


def test_two_headers_are_two_runs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", finish=False)
    path.write_bytes(path.read_bytes() + path.read_bytes())
    with pytest.raises(UsageError, match="line 7: a second header"):
        load_run(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run file"):
        load_run(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="a folder, not a run file"):
        load_run(tmp_path)


def test_an_existing_file_is_refused_and_untouched(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="the file exists: choose another name with -o, or go on with"):
        RunWriter(path, RUN.header)
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its folder does not exist"):
        RunWriter(tmp_path / "no" / "a.jsonl", RUN.header)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_that_takes_no_files() -> None:
    with pytest.raises(UsageError, match=r"/proc/a\.jsonl: cannot write"):
        RunWriter("/proc/a.jsonl", RUN.header)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk() -> None:
    with pytest.raises(
        UsageError, match="/dev/full: cannot write: no space left on device; the disk is full: free some"
    ):
        RunWriter("/dev/full", RUN.header)


def test_the_file_stays_whole_where_the_disk_fills_up(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    pid = os.fork()  # a limit on file sizes stands in for the full disk; it would stay with this process
    if pid == 0:
        code = 1
        try:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            writer = RunWriter(path, RUN.header)
            writer.write(RUN.records[0])
            size = path.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, size + 50))
            try:
                writer.write(RUN.records[1])
            except UsageError:
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    run = load_run(path)
    assert (run.records, run.warnings) == (RUN.records[:1], [])


def test_readable_by_others(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        mode = write(tmp_path / "a.jsonl").stat().st_mode
    finally:
        os.umask(umask)
    assert stat.S_IMODE(mode) == 0o644


def test_a_number_that_is_not_finite_costs_one_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    bad = synthetic.run(synthetic.typical((1,)), launches=1, samples=3).records[0]
    assert isinstance(bad.outcome, Measured)
    bad.outcome.samples_s[1] = math.nan
    with RunWriter(path, RUN.header) as writer:
        writer.write(bad)
        writer.write(RUN.records[1])
    run = load_run(path)
    assert isinstance(run.records[0].outcome, Crashed)
    assert "not finite" in run.records[0].outcome.detail
    assert run.records[1] == RUN.records[1]


def test_outcomes_survive(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    outcomes = [
        Skipped(reason="no AMX", hint="x"),
        Wrong(max_error=1.0, bound=0.5, where="c[3]"),
        Crashed(how="timeout"),
    ]
    specs = [synthetic.compute(1.0, op=str(number), outcome=outcome) for number, outcome in enumerate(outcomes)]
    with RunWriter(path, RUN.header) as writer:
        for record in synthetic.run(specs, launches=1).records:
            writer.write(record)
    assert sorted((r.outcome for r in load_run(path).records), key=repr) == sorted(outcomes, key=repr)


def test_stored_runs_of_every_schema_stay_readable() -> None:
    paths = sorted((Path(__file__).parent / "runs").glob("*.jsonl"))
    assert paths
    for path in paths:
        run: Run = load_run(path)
        assert run.warnings == []
        assert run.records


@pytest.mark.parametrize("path", sorted(Path(__file__).with_name("runs").glob("*.jsonl")), ids=lambda path: path.name)
def test_recorded_runs_stay_readable(path: Path) -> None:
    """Files of every schema number, real ones among them, load without a warning and still draw roofs."""
    run = load_run(path)
    assert run.warnings == []
    assert analyse([run]).roofs
