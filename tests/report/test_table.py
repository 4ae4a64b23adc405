"""Plain-text tables on narrow terminals; what needs no wrapping is laid out at once, and looks the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.report.table import _full_width, _laid, _wrapped, table

WORD = st.text("ab 1%[],.GB/sµ×", max_size=12).map(str.strip)

ROWS = [["fp32 fma", "117", "GFLOP/s", "[117, 118]", "100% derived", "31.9 FLOP"]]
COLUMNS = ["roof", "value", "unit", "95% interval", "of its peak", "per core\nand cycle"]


@pytest.mark.parametrize("width", [1, 40, 60, 80, 200])
def test_no_word_or_interval_is_broken(width: int) -> None:
    words = table(COLUMNS, ROWS, width, right=(1, 5)).split()
    for row in [COLUMNS, *ROWS]:
        for cell in row:
            assert all(word in words for word in cell.split())
    assert "[117, 118]" in table(COLUMNS, ROWS, width)


def test_a_long_id_wraps_and_is_whole() -> None:
    name = "embedding_bag[tables=10,rows=2000000,dim=32]"
    lines = table(["case", "value"], [[name, "1"]], 40).split("\n")
    assert max(map(len, lines)) <= 40
    assert lines[2].split() == [lines[2].split()[0], "1"]
    assert "".join([lines[2].split()[0], *(line.strip() for line in lines[3:])]) == name


@given(st.lists(st.tuples(WORD, WORD, WORD), min_size=1, max_size=6), st.sets(st.integers(0, 2)),
       st.sampled_from(["roof", "95% interval", "per core\nand cycle"]))  # fmt: skip
def test_both_ways_give_the_same_page(rows: list[tuple[str, str, str]], right: set[int], head: str) -> None:
    cells = [list(column) for column in zip(["name", head, "unit"], *rows, strict=True)]
    widths = [_full_width(column) for column in cells]
    assert _laid(cells, widths, right) == _wrapped(cells, widths, right)
