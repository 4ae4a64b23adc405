"""Which rows are looked up: laws by their exact probabilities, histograms by what they were published to be, traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.errors import UsageError
from pykernels.kernels import indices
from pykernels.kernels.indices import Draw

ALPHAS = st.sampled_from([0.0, 0.3, 0.8, 0.95, 1.0, 1.05, 1.2, 1.5])


@given(alpha=ALPHAS, rows=st.integers(1, 20000), seed=st.integers(0, 1000))
def test_every_draw_is_a_row(alpha: float, rows: int, seed: int) -> None:
    drawn = indices.rows_of(Draw(alpha, seed=seed), rows, 500)
    assert drawn.min() >= 0
    assert drawn.max() < rows
    assert (drawn == indices.rows_of(Draw(alpha, seed=seed), rows, 500)).all()


@given(rows=st.integers(1, 5000), seed=st.integers(0, 1000))
def test_scatter_is_a_permutation(rows: int, seed: int) -> None:
    assert sorted(indices.scatter(np.arange(rows), rows, seed)) == list(range(rows))


@pytest.mark.parametrize("alpha", [0.3, 0.8, 1.0, 1.05, 1.5])
@pytest.mark.parametrize("rows", [1, 7, 4096, 4097, 100_000])
def test_zipf_ranks_have_their_exact_probabilities(alpha: float, rows: int) -> None:
    """At the middle of each rank's own interval of probability the inverse gives that rank, in the tail too."""
    weights = np.arange(1, rows + 1, dtype=np.float64) ** -alpha
    cumulative = np.cumsum(weights) / weights.sum()
    ranks = np.unique(np.geomspace(1, rows, 200).astype(np.int64))
    middle = cumulative[ranks - 1] - weights[ranks - 1] / weights.sum() / 2
    assert (indices.zipf_ranks(middle, rows, alpha) == ranks).all()
    ends = indices.zipf_ranks(np.array([0.0, 1 - 2.0**-53]), rows, alpha)
    assert tuple(ends) == (1, rows)


def test_hot_rows_are_not_neighbours() -> None:
    drawn = indices.rows_of(Draw(1.2), 100_000, 20_000)
    hot = np.argsort(np.bincount(drawn))[::-1][:20]
    assert np.abs(np.diff(np.sort(hot))).min() > 100


@pytest.mark.parametrize(("draw", "rows", "count"), [
    (Draw(0.0), 50_000, 60_000), (Draw(0.8), 50_000, 60_000), (Draw(1.05), 300_000, 100_000),
    (Draw(reuse="meta2021"), 50_000, 345_000), (Draw(reuse="meta2022"), 20_000, 254_000),
])  # fmt: skip
def test_as_many_rows_are_touched_as_expected(draw: Draw, rows: int, count: int) -> None:
    touched = len(np.unique(indices.rows_of(draw, rows, count)))
    assert touched == pytest.approx(indices.expected_unique(draw, rows, count), rel=0.02)


@pytest.mark.parametrize(
    ("name", "shares"), [("meta2021", {0.12: 0.72, 0.38: 0.89}), ("meta2022", {0.11: 0.74, 0.37: 0.91})]
)
def test_histograms_reproduce_the_published_reuse(name: str, shares: dict[float, float]) -> None:
    """The published lookup shares of the hottest touched rows, which the bins imply."""
    rows, mean = 200_000, indices.REUSE[name].mean
    counts = np.sort(np.bincount(indices.rows_of(Draw(reuse=name), rows, int(mean * rows))))[::-1]
    for share, wanted in shares.items():
        assert counts[: int(share * rows)].sum() / counts.sum() == pytest.approx(wanted, abs=0.03)


def test_statistics() -> None:
    found = indices.statistics(np.array([3, 3, 3, 1, 0, 3, 9, 9]), 10)
    assert found["unique_ratio"] == 0.5
    assert found["duplicates"] == 4
    assert found["hit_share_10%"] == 0.5
    assert indices.statistics(np.zeros(0, np.int64), 10)["lookups"] == 0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.05, "write {"), ({"zipf": 2}, "from 0"), ({"zipf": True}, "from 0"), ({"seed": "x"}, "whole number"),
        ({"zipff": 1}, "did you mean"), ({"reuse": "meta2020"}, "did you mean"),
        ({"zipf": 1, "reuse": "meta2021"}, "one of them"),
    ],
)  # fmt: skip
def test_bad_generators_are_named(value: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        indices.parse(value)


def _save(folder: Path, **arrays: object) -> Path:
    path = folder / "trace.npz"
    np.savez(path, **{name: np.asarray(values) for name, values in arrays.items()})
    return path


@pytest.mark.parametrize("ends", [{"offsets": [0, 2, 2, 5]}, {"offsets": [0, 2, 2]}, {"lengths": [2, 0, 3]}])
def test_traces_take_offsets_or_lengths(tmp_path: Path, ends: dict[str, list[int]]) -> None:
    trace = indices.load_trace(_save(tmp_path, indices=[1, 2, 3, 4, 0], weights=np.ones(5), **ends), 5)
    assert trace.offsets.tolist() == [0, 2, 2, 5]
    assert trace.weights is not None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"indices": [1, 2], "offsets": [0, 3, 2]}, "rise from 0 to 2"),
        ({"indices": [1, 2], "offsets": [1, 2]}, "rise from 0 to 2"),
        ({"indices": [1, 9], "offsets": [0, 2]}, "index 9 is outside"),
        ({"indices": [-1, 2], "offsets": [0, 2]}, "index -1 is outside"),
        ({"indices": [1.5], "offsets": [0, 1]}, "whole numbers"),
        ({"indices": [[1]], "offsets": [0, 1]}, "whole numbers"),
        ({"indices": [1, 2], "lengths": [3, -1]}, "at least 0"),
        ({"indices": [1, 2]}, "needs the arrays"),
        ({"indices": [1, 2], "offsets": []}, "whole numbers|empty"),
        ({"indices": [1, 2], "offsets": [0, 2], "weights": [1.0]}, "1 weights for 2 indices"),
    ],
)
def test_bad_traces_are_named(tmp_path: Path, arrays: dict[str, object], words: str) -> None:
    path = _save(tmp_path, **arrays)
    with pytest.raises(UsageError, match=words) as caught:
        indices.load_trace(path, 9)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(UsageError, match="cannot be read"):
        indices.load_trace(path)
    path.write_text("no")
    with pytest.raises(UsageError, match="cannot be read"):
        indices.load_trace(path)
