"""What the crossover says of a real star: sweep recsys on a two-core guest of an AMD EPYC (Zen 4), samples thinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from pykernels.analysis.crossover import Assumptions, Options, analyse
from pykernels.errors import UsageError
from pykernels.report import crossover as report
from pykernels.report import crossover_figure
from pykernels.store import Run, load_run

FILE = Path(__file__).parents[2] / "runs" / "epyc-zen4-recsys.jsonl"
KINDS = {
    "crossing", "tie band", "none (CPU everywhere in range)", "none (GPU everywhere in range)", "several",
    "capacity edge", "no conclusion",
}  # fmt: skip


@pytest.fixture(scope="module")
def star() -> Run:
    run = load_run(FILE)
    assert not run.warnings
    return run


@pytest.fixture(scope="module")
def against_h100(star: Run):  # type: ignore[no-untyped-def]
    return analyse([star], Options(against="h100-sxm5-80gb"))


@pytest.mark.parametrize("slug", ["h100-sxm5-80gb", "a100-sxm4-80gb", "h200-sxm-141gb", "rtx-4090", "mi300x"])
def test_every_card_gets_answers_of_the_known_kinds(star: Run, slug: str) -> None:
    link = None if slug in ("h100-sxm5-80gb", "a100-sxm4-80gb") else 64.0
    found = analyse([star], Options(against=slug, ends=("host",), assumptions=Assumptions(link_gbs=link)))
    assert {answer.kind for answer in found.answers} <= KINDS
    assert any(answer.kind != "no conclusion" for answer in found.answers)
    assert {answer.axis for answer in found.answers} >= {"batch", "table", "pooling", "skew", "link", "hit"}


def test_the_run_has_every_roof_that_judges_it(against_h100) -> None:  # type: ignore[no-untyped-def]
    judged = [cell for cell in against_h100.cells if cell.metric == "saturated" and cell.axes["threads"] == 2]
    assert all(cell.cpu_share is not None for cell in judged)
    assert not any("cannot be judged" in answer.sentence for answer in against_h100.answers)


def test_the_ends_of_the_plane_are_clear(against_h100) -> None:  # type: ignore[no-untyped-def]
    """A table in the L2 at batch 1 is done before a launch; one of gigabytes at batch 4,096 is the card's."""
    (plane,) = [plane for plane in against_h100.planes if plane.ends == "C0-G2"]
    first, last = (f"{b:g}|{t:g}" for b, t in ((plane.batch[0], plane.table[0]), (plane.batch[-1], plane.table[-1])))
    assert plane.log2[first] < -2
    assert plane.log2[last] > 2
    assert len(plane.log2) == 28


def test_requests_have_latencies_and_two_cores_no_axis_of_threads(star: Run, against_h100) -> None:  # type: ignore[no-untyped-def]
    assert {answer.metric for answer in against_h100.answers} == {"saturated", "p50"}
    assert any("this machine has 2 cores" in words for words in against_h100.not_compared)
    with pytest.raises(UsageError, match="this machine has 2 cores"):
        analyse([star], Options(against="h100-sxm5-80gb", axes=("threads",)))


def test_nothing_is_modelled_without_a_recorded_gpu(star: Run) -> None:
    with pytest.raises(UsageError, match="no recorded GPU run ships"):
        analyse([star], Options(modelled=True))


def test_text_and_pictures(against_h100, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = report.text(against_h100, 120, with_claims=True)
    assert words.count("== ") == len(
        {cell.workload.partition(" (")[0] for cell in against_h100.cells if "(" in cell.workload}
    )
    assert "not measured  pooling near 1 with host ends" in words
    assert len(list(crossover_figure.draw(against_h100, tmp_path / "x.png"))) == 3
