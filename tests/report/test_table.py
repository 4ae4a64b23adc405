"""Plain-text tables on narrow terminals."""

from __future__ import annotations

import pytest

from pykernels.report.table import table

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
