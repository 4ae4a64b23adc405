"""The finder against curves of known truth: closed-form pairs, published figures, steps, edges, several crossings."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.analysis.crossover.finder import Curve, Step, find, next_values

sys.path.insert(0, str(Path(__file__).parents[2]))

import crossover_trust as trust

#: samples/s by batch: two E5-2698v4 sockets, V100 with fp16 tables, V100 with fp32 tables (published by NVIDIA for DLRM
#: served by Triton, tables on the device)
PUBLISHED = {
    1: (923, 1019, 1153),
    4: (3554, 3340, 4105),
    8: (6693, 6641, 8356),
    16: (11.8e3, 12.5e3, 16.8e3),
    256: (46.5e3, 194e3, 202e3),
    4096: (96e3, 1.49e6, 1.01e6),
    131072: (79e3, 1.55e6, 1.07e6),
}


def published(column: int) -> Curve:
    ratios = [math.log(rates[column] / rates[0]) for rates in PUBLISHED.values()]
    return Curve(x=[float(batch) for batch in PUBLISHED], ratios=[ratios], exact=True)


def test_published_fp16_is_several_at_a_5_percent_band():
    finding = find(published(1), 0.05)
    assert finding.kind == "several"
    assert [event.to for event in finding.events] == ["CPU", "GPU"]
    assert finding.events[1].bracket == (4.0, 16.0)


def test_published_fp16_is_a_tie_to_16_and_gpu_from_256_at_12_percent():
    finding = find(published(1), 0.12)
    assert finding.kind == "tie band"
    assert finding.tie == (1.0, 16.0)
    assert finding.bracket == (16.0, 256.0)
    assert finding.labels == ["tie"] * 4 + ["GPU"] * 3


def test_published_fp32_has_no_crossover():
    assert find(published(2), 0.05).kind == "none (GPU everywhere in range)"


@pytest.mark.parametrize("noise", trust.NOISES)
def test_intervals_of_300_simulated_crossings_cover_the_root(noise):
    """Binomial bounds for a true 93 to 97% at 300 runs, three standard errors beyond either end."""
    assert 0.885 <= trust.crossing_coverage(trust.NOISES[noise], 300)["coverage"] <= 0.997


@pytest.mark.parametrize("kind", trust.KINDS)
def test_300_simulated_pairs_get_the_right_kind(kind):
    figures = trust.right_kind(kind, trust.NOISES["usual"], 300)
    assert figures["right"] >= 0.95
    if kind == "identical":
        assert figures["claims_crossing"] <= 0.05
    if kind in ("non-monotone", "capacity edge"):
        assert figures["exact"] == 1.0


@given(root=st.floats(1.5, 4000.0), slope=st.floats(0.3, 3.0), rising=st.booleans())
def test_a_straight_line_crosses_at_its_root(root, slope, rising):
    sign = 1.0 if rising else -1.0
    x = [4.0**k for k in range(8)]
    row = [sign * slope * math.log(v / root) for v in x]
    finding = find(Curve(x=x, ratios=[[r + e for r in row] for e in (-1e-4, 0.0, 1e-4)]), 0.01)
    if finding.kind == "crossing":
        assert finding.value == pytest.approx(root, rel=1e-3)
        assert finding.events[0].to == ("GPU" if rising else "CPU")
        assert finding.bracket[0] < root < finding.bracket[1]
    else:
        assert finding.kind in ("tie band", "none (GPU everywhere in range)", "none (CPU everywhere in range)")


@given(ratios=st.lists(st.floats(-2, 2), min_size=4, max_size=10))
def test_swapping_the_sides_swaps_the_winners(ratios):
    x = [2.0**k for k in range(len(ratios))]
    one = find(Curve(x=x, ratios=[ratios], exact=True))
    other = find(Curve(x=x, ratios=[[-r for r in ratios]], exact=True))
    swap = {"CPU": "GPU", "GPU": "CPU", "tie": "tie"}
    assert [swap[label] for label in one.labels] == other.labels
    assert [swap[event.to] for event in one.events] == [event.to for event in other.events]


def test_several_smooth_crossings_come_in_order_each_with_an_interval():
    x = [2.0**k for k in range(13)]
    row = [math.sin(2 * math.pi * math.log2(v) / 12 + 0.4) for v in x]
    finding = find(Curve(x=x, ratios=[[r + e for r in row] for e in (-0.01, 0.0, 0.01)]))
    assert finding.kind == "several"
    roots = [math.log2(event.value) for event in finding.events]
    assert roots == pytest.approx([(math.pi - 0.4) * 6 / math.pi, (2 * math.pi - 0.4) * 6 / math.pi], abs=0.02)
    assert all(event.low < event.value < event.high for event in finding.events)


def test_nothing_is_interpolated_across_a_step():
    x = [2.0**k for k in range(8)]
    row = [-0.5] * 4 + [0.5] * 4
    curve = Curve(x=x, ratios=[[r + e for r in row] for e in (-0.01, 0.0, 0.01)], steps=(Step("LLC", 11.0),))
    finding = find(curve)
    assert (finding.kind, finding.value, finding.events[0].at) == ("crossing", 11.0, "step LLC")
    assert (finding.value_low, finding.value_high) == (8.0, 16.0)


def test_an_interval_too_wide_for_a_winner_is_no_tie():
    """Two launches that both say 2x, apart by more than chance allows to sum up: unclear, not equal."""
    x = [2.0**k for k in range(5)]
    finding = find(Curve(x=x, ratios=[[0.5] * 5, [0.9] * 5]))
    assert finding.labels == ["unclear"] * 5
    assert (finding.kind, finding.unclear, finding.tie) == ("no conclusion", (1.0, 16.0), None)


def test_a_tie_beside_unclear_cells_names_both():
    x = [2.0**k for k in range(6)]
    rows = [[0.01, 0.0, 0.3, 1.0, 1.0, 1.0], [-0.01, 0.02, 0.7, 1.0, 1.0, 1.0], [0.0, 0.01, 0.1, 1.0, 1.0, 1.0]]
    finding = find(Curve(x=x, ratios=rows))
    assert finding.labels == ["tie", "tie", "unclear", "GPU", "GPU", "GPU"]
    assert (finding.kind, finding.tie, finding.unclear) == ("tie band", (1.0, 2.0), (4.0, 4.0))
    assert finding.bracket == (2.0, 8.0)


def test_a_step_elsewhere_does_not_bend_the_root():
    """A root on one side of a step uses that side's cells only."""
    x = [2.0**k for k in range(10)]
    row = [math.log(v / 10) if v < 100 else -3.0 for v in x]
    curve = Curve(x=x, ratios=[[r + e for r in row] for e in (-0.01, 0.0, 0.01)], steps=(Step("LLC", 90.0),))
    finding = find(curve)
    assert finding.kind == "several"
    assert finding.events[0].value == pytest.approx(10, rel=1e-3)
    assert finding.events[1].at == "step LLC"


def test_capacity_edge_is_exact_and_never_interpolated():
    curve = Curve(x=[1.0, 2.0, 4.0, 8.0], ratios=[[1.0, 1.1, 0.9, 1.0]] * 3, edge=11.25, edge_bracket=(8.0, 16.0))
    finding = find(curve)
    assert (finding.kind, finding.value, finding.bracket) == ("capacity edge", 11.25, (8.0, 16.0))


def test_capacity_edge_after_a_crossing_is_several():
    curve = Curve(x=[1.0, 2.0, 4.0, 8.0], ratios=[[-1.0, -0.5, 0.5, 1.0]] * 3, edge=8.0)
    assert [event.at for event in find(curve).events] == ["root", "capacity"]
    assert find(curve).kind == "several"


def test_an_edge_where_the_cpu_wins_already_changes_nothing():
    finding = find(Curve(x=[1.0, 2.0, 4.0, 8.0], ratios=[[-1.0] * 4] * 3, edge=8.0))
    assert finding.kind == "none (CPU everywhere in range)"
    assert "capacity" in finding.notes[0]


@pytest.mark.parametrize(("launches", "without", "kind"), [(20, 2, "tie band"), (30, 1, "crossing")])
def test_launches_without_a_root_are_counted_and_over_5_percent_take_the_crossing_back(launches, without, kind):
    rows = [[-1.0, -0.9, 0.9, 1.0]] * (launches - without) + [[0.5, 0.5, 0.9, 1.0]] * without
    finding = find(Curve(x=[1.0, 2.0, 4.0, 8.0], ratios=rows))
    assert finding.kind == kind
    assert finding.events[0].rootless == without
    if kind == "tie band":
        assert finding.value is None
        assert finding.tie == (2.0, 4.0)
        assert finding.notes == ["18 of 20 launches have a crossing there"]


def test_three_crossings_in_a_noisy_launch_read_as_the_length_below_zero():
    x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    noisy = [-2.0, -1.0, 0.1, -0.1, 1.0, 2.0]
    calm = [-2.0, -1.0, -0.1, 0.1, 1.0, 2.0]
    finding = find(Curve(x=x, ratios=[noisy, calm, calm], log_axis=False))
    assert finding.events[0].rootless == 0
    assert finding.value == pytest.approx(3.5, abs=0.2)


def test_refining_bisects_until_cells_are_close_or_a_tie_lies_between():
    curve = Curve(x=[1.0, 4.0, 16.0, 64.0], ratios=[[-1.0, -0.5, 0.5, 1.0]] * 3)
    assert next_values(curve, find(curve)) == [[1.0, 4.0, 8.0, 16.0, 64.0]]
    tie = Curve(x=[1.0, 4.0, 8.0, 16.0, 64.0], ratios=[[-1.0, -0.5, 0.0, 0.5, 1.0]] * 3)
    assert next_values(tie, find(tie)) == []
    close = Curve(x=[1.0, 4.0, 4.7, 64.0], ratios=[[-1.0, -0.5, 0.5, 1.0]] * 3)
    assert next_values(close, find(close)) == []


def test_refined_launches_give_the_root_and_the_first_ones_still_label():
    """Launches of the refined run see all cells of the bracket; those of the coarse run do not and are left out."""
    x = [1.0, 4.0, 8.0, 16.0, 64.0]
    nan = math.nan
    coarse = [[math.log(v / 9) + 0.3 if v != 8 else nan for v in x] for _ in range(3)]
    fine = [[math.log(v / 9) + e if 1 < v < 64 else nan for v in x] for e in (-0.01, 0.0, 0.01)]
    finding = find(Curve(x=x, ratios=coarse + fine))
    assert finding.kind == "crossing"
    assert finding.events[0].launches == 3
    assert finding.value == pytest.approx(9, rel=0.01)
