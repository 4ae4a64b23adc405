"""Drawing primitives: figures that need no display, styles that are told apart in grey, labels that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pykernels.errors import UsageError

SUFFIXES = (".png", ".svg", ".pdf")

#: colour (Okabe and Ito: apart for colour-blind readers, and of different lightness) and line style of each level
LEVEL_STYLE = {
    "L1": ("#009E73", "-"),
    "L2": ("#D55E00", (0, (6, 2))),
    "L3": ("#CC79A7", (0, (5, 1.5, 1, 1.5))),
    "L4": ("#E69F00", (0, (1, 1))),
    "DRAM": ("#0072B2", "-"),
}
OTHER_STYLE = ("#555555", "-")
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1)), (0, (3, 1)), (0, (8, 2, 2, 2)))
MARKERS = "osD^vP*X"
INK = "#222222"
#: where a label may stand: (side, height) in multiples of a reach in points
_SIDES = ((1, 0.4), (1, -0.8), (-1, 0.4), (-1, -0.8), (0, 1), (0, -1.3), (1, 1.4), (-1, 1.4), (1, -1.8))
_REACHES = (8, 16, 28, 44)


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **share: Any) -> tuple[Any, list[Any]]:
    """A figure of inches on the Agg canvas, and its axes in reading order."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **share)
    for one in axes.flat:
        one.grid(True, which="major", color="#dddddd", lw=0.6)
        one.set_axisbelow(True)
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
        one.tick_params(labelsize=8, colors=INK)
    return figure, list(axes.flat)


def save(figure: Any, path: Path) -> Path:
    """Write the figure in the format of the path's suffix; SVG keeps its text as text. Raises UsageError."""
    import matplotlib

    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f'{path}: "{path.suffix}" is no picture format (write {", ".join(SUFFIXES)})')
    try:
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pykernels"}):
            stamp = {"Date": None} if path.suffix.lower() == ".svg" else None
            figure.savefig(path, metadata=stamp)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({(error.strerror or str(error)).lower()})") from None
    return path


def halo() -> dict[str, Any]:
    """A white ground for text, so that lines may pass under it (a rim would turn the text of an SVG into outlines)."""
    return {"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


def size_ticks(axis: Any, low: float, high: float) -> None:
    """Ticks of a logarithmic axis of bytes: 4 KiB, 32 KiB, 256 KiB, ..."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    from pykernels.units import format_size

    ticks = [2.0**power for power in range(6, 44, 3) if low <= 2**power <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_size(value)))


def plain_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis in plain decimals: 0.1, 1, 10, 100; 1, 2, 5, 10 where it spans under two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    if high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


class Labels:
    """Places labels on one axes so that none covers another or a point; in display coordinates, after the limits are
    set and the figure was laid out."""

    def __init__(self, figure: Any, axes: Any) -> None:
        self.figure, self.axes = figure, axes
        self.renderer = figure.canvas.get_renderer()
        self.taken: list[tuple[float, float, float, float]] = []

    def reserve(self, x: float, y: float, radius: float = 5.0) -> None:
        """Keep labels off a point given in data coordinates; the radius is in points."""
        px, py = self.axes.transData.transform((x, y))
        r = radius * self.figure.dpi / 72
        self.taken.append((px - r, py - r, px + r, py + r))

    def beside(self, x: float, y: float, text: str, **style: Any) -> None:
        """A label near a data point: on the first side that is free and inside, else the least covered; a thin
        line joins them where it had to go further off."""
        label = self.axes.annotate(text, (x, y), (0, 0), textcoords="offset points", va="center", bbox=halo(),
                                   **style)  # fmt: skip
        places = [(side, reach) for reach in _REACHES for side in _SIDES]
        costs = []
        for place in places:
            self._move(label, *place)
            costs.append(self._cost(self._box(label)))
            if costs[-1] == 0:
                break
        side, reach = places[costs.index(min(costs))]
        self._move(label, side, reach)
        self.taken.append(self._box(label))
        if reach > _REACHES[0]:
            line = {"arrowstyle": "-", "lw": 0.5, "color": "#888888", "shrinkA": 0, "shrinkB": 4}
            self.axes.annotate("", (x, y), label.get_position(), textcoords="offset points", arrowprops=line)

    @staticmethod
    def _move(label: Any, side: tuple[int, float], reach: int) -> None:
        label.set_position((side[0] * reach, side[1] * reach))
        label.set_horizontalalignment({1: "left", -1: "right", 0: "center"}[side[0]])

    def fixed(self, label: Any) -> None:
        """Count a label that is already placed."""
        self.taken.append(self._box(label))

    def _box(self, label: Any) -> tuple[float, float, float, float]:
        from matplotlib.text import Text

        if hasattr(label, "update_positions"):  # an annotation takes its place only when it is drawn
            label.update_positions(self.renderer)
        box = Text.get_window_extent(label, self.renderer)
        return box.x0 - 1, box.y0 - 1, box.x1 + 1, box.y1 + 1

    def _cost(self, box: tuple[float, float, float, float]) -> float:
        frame = self.axes.get_window_extent(self.renderer)
        outside = max(frame.x0 - box[0], 0) + max(box[2] - frame.x1, 0) + max(frame.y0 - box[1], 0)
        outside += max(box[3] - frame.y1, 0)
        covered = sum(_overlap(box, other) for other in self.taken)
        return float(outside * 50 + covered)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0
