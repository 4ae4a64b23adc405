"""Tables as plain text: aligned columns that fit the width, readable without colour."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from textwrap import fill

from pykernels.units import format_value


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], width: int, *, right: Iterable[int] = ()) -> str:
    """Rows under headings, the columns numbered in `right` flush right; long cells wrap, nothing is cut off."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    aligned = set(right)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        grid.add_column(
            name, justify="right" if number in aligned else "left", overflow="fold", no_wrap="interval" in name
        )
    for row in rows:
        grid.add_row(*[_plain(cell) for cell in row])
    page = io.StringIO()
    Console(file=page, width=max(width, 40), color_system=None, highlight=False, emoji=False).print(grid)
    return "\n".join(line.rstrip() for line in page.getvalue().rstrip("\n").split("\n"))


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
