"""Any callable under the roof: the worked example of the documentation, launches, and bad input."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
import synthetic
from readme import readme_example

import pykernels
from pykernels.errors import UsageError
from pykernels.machine.cpu import read_machine
from pykernels.store import RunWriter

pytest.importorskip("pykernels._core", reason="the native module is not built")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_product.py").write_text(readme_example("my_product.py"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_product:product"


@pytest.fixture
def roofs(tmp_path: Path) -> Path:
    """A run file of this machine with roofs of known value."""
    machine = read_machine()
    run = synthetic.run([synthetic.bandwidth("L2", 200.0), synthetic.compute(1000.0)], launches=3)
    path = tmp_path / "roofs.jsonl"
    writer = RunWriter(path, msgspec.structs.replace(run.header, machine=machine))
    for record in run.records:
        writer.write(record)
    writer.finish()
    return path


def test_the_worked_example(example: str, roofs: Path) -> None:
    """A product of 256 x 256 with a vector: two FLOPs a weight, the matrix read once, in the L2."""
    found = pykernels.bench(
        example, flops=2 * 256 * 256, bytes=4 * 256 * 256, roofs=roofs, level="L2", launches=2, visit_s=0.01
    )
    assert found.scope == "2 launches"
    assert found.seconds.launches == 2
    assert found.point.gbps == pytest.approx(4 * 256 * 256 / found.point.time_s * 1e-9)
    assert found.point.intensity == pytest.approx(0.5)
    assert found.point.roof is not None
    assert (found.point.roof.level, found.point.roof.op) == ("L2", "load")
    assert found.point.share > 0
    assert example in str(found)


def test_the_readme_s_call(
    example: str, roofs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    roofs.rename("RUN.jsonl")
    exec(compile(readme_example("place.py"), "place.py", "exec"), {})
    said = capsys.readouterr().out
    assert said.startswith(f"{example}: ")
    assert "5 launches" in said
    assert "] of L2 load" in said


def test_a_live_callable_is_timed_here_and_says_so() -> None:
    before = os.sched_getaffinity(0)
    found = pykernels.bench(lambda: sum(range(2000)), flops=2000, visit_s=0.02)
    assert found.scope == "within-process"
    assert found.seconds.scope == "within-process"
    assert found.point.roof is None
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("target", "counts", "words"),
    [
        ("no.such.module:f", {"flops": 1}, "cannot be imported"), ("math:nothing", {"flops": 1}, "no function nothing"),
        ("math", {"flops": 1}, "write"), ("math:pi", {"flops": 1}, "no function pi"), (3, {"flops": 1}, "neither"),
        ("math:sqrt", {}, "give the FLOPs"), ("math:sqrt", {"bytes": -1}, "give the FLOPs"),
        ("math:sqrt", {"flops": 1, "launches": 0}, "at least 1"), ("math:sqrt", {"flops": 1, "launches": 1}, "failed"),
    ],
)  # fmt: skip
def test_bad_input_is_named(target: object, counts: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        pykernels.bench(target, **counts)  # type: ignore[arg-type]


def test_roofs_of_another_machine_are_refused(tmp_path: Path) -> None:
    run = synthetic.run([synthetic.bandwidth("L2", 200.0)], launches=1)
    writer = RunWriter(tmp_path / "other.jsonl", run.header)
    for record in run.records:
        writer.write(record)
    writer.finish()
    with pytest.raises(UsageError, match="another machine"):
        pykernels.bench(lambda: None, flops=1, roofs=tmp_path / "other.jsonl", visit_s=0.01)
