"""Tables as plain text: aligned columns that fit the width, readable without colour."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from textwrap import fill

from pykernels.units import format_value

_WORD = 18  #: longer words are ids and paths


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], width: int, *, right: Iterable[int] = ()) -> str:
    """Rows under headings, the columns numbered in `right` flush right; long cells wrap between words, nothing is cut
    off. Where even that is too wide the lines are longer than `width`: a number in two pieces is worse."""
    rows = list(rows)
    cells = [[name, *(row[number] for row in rows)] for number, name in enumerate(columns)]
    bounds = [(_least_width(column), _full_width(column)) for column in cells]
    widths = _fit(bounds, width)
    fits = widths == [full for _, full in bounds]
    return (_laid if fits else _wrapped)(cells, widths, set(right))


def _laid(cells: Sequence[Sequence[str]], widths: Sequence[int], aligned: set[int]) -> str:
    """Columns in which nothing wraps: what `_wrapped` gives, in a twentieth of its time (runs of many roofs have
    thousands of cells)."""

    def line(row: Sequence[str]) -> str:
        laid = [
            cell.rjust(width) if number in aligned else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(laid).rstrip()

    heads = [column[0].split("\n") for column in cells]
    depth = max(len(head) for head in heads)
    heads = [[""] * (depth - len(head)) + head for head in heads]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    rows = zip(*(column[1:] for column in cells), strict=True)
    return "\n".join([*map(line, zip(*heads, strict=True)), rule, *map(line, rows)])


def _wrapped(cells: Sequence[Sequence[str]], widths: Sequence[int], aligned: set[int]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(cells):
        grid.add_column(
            column[0], justify="right" if number in aligned else "left", overflow="fold", width=widths[number]
        )
    for row in zip(*(column[1:] for column in cells), strict=True):
        grid.add_row(*[_plain(cell) for cell in row])
    page = io.StringIO()
    Console(file=page, width=_total(widths), color_system=None, highlight=False, emoji=False).print(grid)
    return "\n".join(line.rstrip() for line in page.getvalue().rstrip("\n").split("\n"))


def _full_width(cells: Sequence[str]) -> int:
    return max(len(line) for cell in cells for line in cell.split("\n"))


def _least_width(cells: Sequence[str]) -> int:
    """Width at which no word of a column is broken (ids and paths may be), and no interval."""
    if "interval" in cells[0]:
        return _full_width(cells)
    return min(_WORD, max(len(word) for cell in cells for word in (cell.split() or [""])))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * len(widths)


def _fit(bounds: Sequence[tuple[int, int]], width: int) -> list[int]:
    """Full widths where they fit; else the widest columns are narrowed first, none below its least width."""
    widths = [full for _, full in bounds]
    while _total(widths) > width:
        spare = [number for number, (least, _) in enumerate(bounds) if widths[number] > least]
        if not spare:
            break
        widths[max(spare, key=lambda number: widths[number])] -= 1
    return widths


def _plain(cell: str) -> str:
    """A cell whose brackets are brackets: `[41, 43]` is an interval, not markup."""
    return cell.replace("[", r"\[")


def value_and_interval(value: float, low: float, high: float) -> tuple[str, str]:
    """ "42.1" and "[41.6, 42.5]", with as many digits as the interval deserves."""
    half = (high - low) / 2
    return format_value(value, half), f"[{_bound(low, half)}, {_bound(high, half)}]"


def _bound(value: float, half: float) -> str:
    return "0" if value == 0 else format_value(value, half if math.isfinite(half) else 0.0)


def percent(share: float) -> str:
    """ "92%", "0.4%"."""
    return f"{share:.0%}" if share >= 0.0995 or share == 0 else f"{share:.1%}"


def paragraph(text: str, width: int, *, indent: str = "") -> str:
    """Text wrapped to the width, continuation lines indented further; ids and paths are never broken."""
    return fill(
        text, max(width, 40), initial_indent=indent, subsequent_indent=indent + "    ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def count(number: int, noun: str, plural: str = "") -> str:
    """ "1 launch", "5 launches"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
