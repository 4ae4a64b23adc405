"""The roofline as text and as pictures."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from synthetic import Noise, Spec, bandwidth, compute, kernel, loaded, mixed, sized, typical

from pykernels.analysis.common import Limit
from pykernels.analysis.roofline import Roofline, analyse
from pykernels.errors import UsageError
from pykernels.model import Crashed, Skipped
from pykernels.report import curves, figure, plot
from pykernels.report.roofline import draw, text
from pykernels.report.table import percent, value_and_interval

NOISE = Noise(launch=0.01, visit=0.003, sample=0.01, rho=0.3, contended=0.02)
LIMITS = {"cpu memory": Limit(80.0, "GB/s"), "cpu fp32 x86_64_v4": Limit(64.0, "FLOP/cycle", "derived")}


def everything() -> list[Spec]:
    specs = typical((1, 2), clock_ghz=4.2)
    specs += [mixed("L1", 2.0**k, 1 / (1 / (500 * 2.0**k) + 1 / 270)) for k in range(-4, 7)]
    specs += [kernel("gemv", 16.0, 0.5), kernel("softmax", 20.0, 0.6), kernel("gemm", 243.0, 64)]
    for power in range(12, 29):
        size = 2**power
        specs.append(
            sized(
                "stream", size, 500 if size <= 32 << 10 else 240 if size <= 1 << 20 else 110 if size <= 8 << 20 else 40
            )
        )
        specs.append(
            sized("chase", size, 1 if size <= 32 << 10 else 4 if size <= 1 << 20 else 12 if size <= 8 << 20 else 110)
        )
    specs += [loaded(read, gbps, 100 + 4 * gbps * (2 - read / 100)) for read in (100, 50) for gbps in (0.0, 10.0, 20.0)]
    specs += [compute(1.0, "bf16", outcome=Skipped(reason="needs x86_64_v4_bf16; this CPU has x86_64_v4"))]
    specs += [compute(1.0, "int8", outcome=Crashed(how="signal SIGILL"))]
    specs += [bandwidth("DRAM", 41.0, "nt-triad", working_set=64 << 20)]
    return specs


@pytest.fixture(scope="module")
def answer() -> Roofline:
    return analyse([synthetic.run(everything(), noise=NOISE)], LIMITS)


# ---------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("width", [80, 100, 140])
def test_lines_fit_and_nothing_is_cut(answer: Roofline, width: int) -> None:
    page = text(answer, width)
    long = [line for line in page.splitlines() if len(line) > width and " @cpu" not in line]  # ids are never broken
    assert long == []
    assert "…" not in page
    assert "\x1b" not in page


def test_the_page_says_what_it_must(answer: Roofline) -> None:
    page = text(answer, 100)
    for said in (
        "Synthetic CPU",
        "cpu, 1 thread, x86_64_v4   measured, this sitting, 95% t over 5 launches",
        "best of 5",
        "ridge point",
        "fp32 peak, FLOP/byte",
        "50% datasheet",
        "derived",
        "contended samples, kept out of the values: 2",
        "visits ended because: enough samples",
        "not drawn: 2",
        "1  skipped: needs x86_64_v4_bf16; this CPU has x86_64_v4",
        "1  crashed: signal SIGILL",
        "DRAM nt-triad: mixture: 64 MiB is not well inside one level; no roof, no ridge",
        "! L3 breaks between 8 MiB and 16 MiB, but the OS states 32 MiB",
        "knee loss",
        "DRAM:load",
        "spread: ",
    ):
        assert said in page, said


def test_every_figure_has_its_interval_and_unit(answer: Roofline) -> None:
    """A renderer that prints a bare number is refused: each row of roofs has value, unit and brackets."""
    body = text(answer, 120)
    for roof in answer.roofs:
        value, interval = value_and_interval(roof.value, roof.low, roof.high)
        assert re.search(rf"{re.escape(value)} +{roof.unit} +{re.escape(interval)}", body), roof


@given(value=st.floats(1e-3, 1e6), width=st.floats(1e-4, 0.5))
def test_intervals_keep_their_order_when_printed(value: float, width: float) -> None:
    shown, interval = value_and_interval(value, value * (1 - width), value * (1 + width))
    low, high = (float(part) for part in interval.strip("[]").split(", "))
    assert low <= float(shown) <= high


def test_unbounded_and_zero_are_words() -> None:
    assert value_and_interval(5.0, 0.0, float("inf")) == ("5.00", "[0, unbounded]")
    assert (percent(0.0), percent(0.004), percent(0.5)) == ("0%", "0.4%", "50%")


def test_a_simulated_run_says_so() -> None:
    run = synthetic.run(typical((1,)))
    run.header.source = "simulated"
    assert "(simulated, not measured)" in text(analyse([run]))


def test_one_launch_is_labelled() -> None:
    page = text(analyse([synthetic.run(typical((1,)), launches=1, noise=NOISE)]), 100)
    assert "within-process, 95% block bootstrap of 1 launch" in page


def test_machine_scope_is_labelled() -> None:
    runs = [
        synthetic.run(typical((1,)), started=1e9 + 1e4 * k, path=f"{k}", noise=Noise(launch=0.01, seed=k))
        for k in range(3)
    ]
    assert "measured, this machine, 95% t over sittings" in text(analyse(runs), 100)


def test_nothing_measured_is_still_a_page() -> None:
    run = synthetic.run([bandwidth("L1", 1.0, outcome=Skipped(reason="no such level"))])
    assert "not drawn: 1" in text(analyse([run]))
    assert text(analyse([synthetic.run([])]))


def test_many_of_one_reason_are_counted() -> None:
    specs = [bandwidth("L1", 1.0, op=f"op{k}", outcome=Skipped(reason="no such level")) for k in range(9)]
    page = text(analyse([synthetic.run(specs, launches=1)]))
    assert "9  skipped: no such level" in page
    assert "and 6 more (--json lists them)" in page


# ------------------------------------------------------------------------------------------------------------ pictures


def test_one_picture_for_each_dtype_and_one_of_the_hierarchy(answer: Roofline, tmp_path: Path) -> None:
    written = draw(answer, tmp_path / "roof.png")
    assert [path.name for path in written] == [
        "roof-fp32.png",
        "roof-fp64.png",
        "roof-levels.png",
        "roof-loaded.png",
        "roof-scaling.png",
    ]
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_single_dtype_keeps_the_name(tmp_path: Path) -> None:
    specs = [spec for spec in typical((1,)) if spec.dtype == "fp32"]
    assert draw(analyse([synthetic.run(specs)]), tmp_path / "roof.png") == [tmp_path / "roof.png"]


def test_svg_holds_every_roof_with_its_figure_as_text(answer: Roofline, tmp_path: Path) -> None:
    path = figure.draw_roofline(answer, "fp32", tmp_path / "roof.svg")
    said = " ".join("".join(node.itertext()) for node in ET.parse(path).iter() if node.tag.endswith("}text"))
    for roof in answer.roofs:
        if "mixture" in roof.flags:
            continue
        if roof.kind == "bandwidth":
            assert f"{roof.op} {value_and_interval(roof.value, roof.low, roof.high)[0]}" in said
        elif roof.dtype == "fp32":
            assert f"fp32 fma {value_and_interval(roof.value, roof.low, roof.high)[0]} GFLOP/s" in said
    for name in ("gemv", "softmax", "gemm", "L1", "L2", "L3", "DRAM", "arithmetic intensity", "Synthetic CPU"):
        assert name in said


def test_the_same_run_draws_the_same_svg(tmp_path: Path) -> None:
    answer = analyse([synthetic.run([bandwidth("DRAM", 40.0), compute(270.0), kernel("gemv", 16.0, 0.5)], noise=NOISE)])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (draw(answer, tmp_path / name / "roof.svg")[0].read_bytes() for name in ("a", "b"))
    assert first == second


def boxes(monkeypatch: pytest.MonkeyPatch, answer: Roofline, tmp_path: Path) -> list[list[tuple[float, ...]]]:
    """What each axes' labels take up, as the placing code counts them."""
    found: list[plot.Labels] = []

    class Kept(plot.Labels):
        def __init__(self, figure: Any, axes: Any) -> None:
            super().__init__(figure, axes)
            self.placed: list[Any] = []
            found.append(self)

        def beside(self, x: float, y: float, text: str, **style: Any) -> None:
            super().beside(x, y, text, **style)
            self.placed.append(self.taken[-1])

    monkeypatch.setattr(figure, "Labels", Kept)
    draw(answer, tmp_path / "roof.png")
    return [label.placed for label in found]  # type: ignore[attr-defined]


def test_names_of_kernels_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    specs = typical((1,)) + [kernel(f"kernel{k}", 16.0 + 0.3 * k, 0.5 + 0.01 * k) for k in range(6)]
    placed = boxes(monkeypatch, analyse([synthetic.run(specs, noise=NOISE)]), tmp_path)
    assert max(len(one) for one in placed) == 6
    for one in placed:
        for a, b in combinations(one, 2):
            assert plot._overlap(a, b) == 0


@pytest.mark.parametrize("rates", [(500, 240, 110, 40), (500, 480, 460, 440), (50, 49, 48, 47), (5000, 20, 19, 1)])
def test_any_ratio_of_levels_draws(rates: tuple[float, ...], tmp_path: Path) -> None:
    specs = [bandwidth(level, rate) for level, rate in zip(("L1", "L2", "L3", "DRAM"), rates, strict=True)]
    draw(analyse([synthetic.run([*specs, compute(270.0)])]), tmp_path / "roof.png")


def test_bandwidth_or_compute_alone_draws(tmp_path: Path) -> None:
    assert len(draw(analyse([synthetic.run([bandwidth("L1", 500.0)])]), tmp_path / "a.png")) == 1
    assert len(draw(analyse([synthetic.run([compute(270.0)])]), tmp_path / "b.png")) == 1
    assert draw(analyse([synthetic.run([])]), tmp_path / "c.png") == []


def test_one_launch_and_a_gpu_draw(tmp_path: Path) -> None:
    specs = [
        bandwidth("DRAM", 3000.0, device="gpu:0", isa="", working_set=1 << 30),
        compute(60000.0, device="gpu:0", isa=""),
    ]
    assert len(draw(analyse([synthetic.run(specs, launches=1, noise=NOISE)]), tmp_path / "a.png")) == 1


def test_scaling_is_drawn_from_three_thread_counts(tmp_path: Path) -> None:
    machine = synthetic.machine(cores=8)
    specs = [spec for spec in typical((1, 4, 8)) if spec.dtype == "fp32" and spec.figure.op != "copy"]
    answer = analyse([synthetic.run(specs, on=machine, noise=NOISE)])
    assert draw(answer, tmp_path / "roof.png")[-1].name == "roof-scaling.png"


def test_a_suffix_that_is_no_picture(answer: Roofline, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'"\.gif" is no picture format \(write \.png, \.svg, \.pdf\)'):
        draw(answer, tmp_path / "roof.gif")


def test_a_picture_that_cannot_be_written(answer: Roofline) -> None:
    with pytest.raises(UsageError, match="/proc/roof"):
        draw(answer, Path("/proc/roof.png"))


def test_row_widths_scale_apart() -> None:
    def gather(row_bytes: int, threads: int, truth: float) -> Spec:
        more = {"params": {"op": "gather", "level": "DRAM", "row_bytes": str(row_bytes)}}
        return bandwidth("DRAM", truth, op="gather", threads=threads, **more)

    specs = [gather(size, threads, 8.0 * threads) for size in (64, 256) for threads in (1, 2, 4)]
    assert {name for name, _ in curves.scaling(analyse([synthetic.run(specs)]))} == {
        "DRAM gather 64 B rows",
        "DRAM gather 256 B rows",
    }
