"""The crossover report in pictures: a heat map, lines over an axis, and time broken into its terms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pykernels.analysis.crossover.answers import REFUSED, Answer, CurveView, Plane, Report
from pykernels.analysis.crossover.axes import AXES
from pykernels.analysis.crossover.model import TERMS
from pykernels.analysis.crossover.sentences import metric_words

GREY, CPU, GPU = "0.45", "#b35806", "#2166ac"
TERM_COLOURS = dict(zip(TERMS, ("0.25", "#1b9e77", "#7fc97f", "#d95f02", "#fdae6b"), strict=True))


def draw(report: Report, path: Path) -> Iterator[Path]:
    """Draw what the report holds beside `path` (.png or .svg): PATH-lines, PATH-terms, PATH-map; yields each file."""
    split = [curve for curve in report.curves if curve.answer.axis in ("batch", "pooling")]
    figures = {}
    if report.curves:
        figures["lines"] = draw_lines(report.curves)
    if split:
        figures["terms"] = draw_terms(split)
    if report.planes:
        figures["map"] = draw_maps(report.planes)
    for name, figure in figures.items():
        target = path.with_name(f"{path.stem}-{name}{path.suffix or '.png'}")
        _save(figure, target)
        yield target


def _save(figure: Any, target: Path) -> None:
    figure.savefig(target, dpi=150, bbox_inches="tight")


def _figure(count: int, width: float, height: float, columns: int = 2) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, k + 1) for k in range(count)]
    return figure, axes


def draw_lines(curves: Sequence[CurveView], most: int = 8) -> Any:
    """log2 of t_cpu/t_gpu over each axis: points with intervals (projected ones grey), band, root, steps, edge."""
    chosen = _readable(curves, most)
    figure, axes = _figure(len(chosen), 6.2, 3.9)
    for ax, curve in zip(axes, chosen, strict=True):
        _draw_line(ax, curve)
    return figure


def _readable(curves: Sequence[CurveView], most: int) -> list[CurveView]:
    """At most `most` curves, of each axis some: those with a change of winner first, those without a conclusion
    last."""
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, int, int]] = []
    for k, curve in enumerate(curves):
        dull = 2 if curve.answer.kind == REFUSED else int(curve.answer.kind.startswith("none"))
        seen[f"{curve.answer.axis}{dull}"] += 1
        ranked.append((dull, seen[f"{curve.answer.axis}{dull}"], k))
    return [curves[k] for _, _, k in sorted(ranked)[:most]]


def _draw_line(ax: Any, curve: CurveView) -> None:
    answer, axis = curve.answer, AXES[curve.answer.axis]
    modelled = answer.source in ("projection", "modelled")
    centre = [r / math.log(2) for r in curve.ratio]
    bars = [
        [_length(r - bound) for r, bound in zip(curve.ratio, curve.low, strict=True)],
        [_length(bound - r) for r, bound in zip(curve.ratio, curve.high, strict=True)],
    ]
    half = math.log2(1 + curve.band)
    ax.axhspan(-half, half, color="0.9", zorder=0)
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.errorbar(
        curve.x, centre, yerr=bars, fmt="o" if not modelled else "o:", markersize=4.5, capsize=2.5, linewidth=1,
        color=GREY if modelled else "black", markerfacecolor="white" if modelled else "black",
    )  # fmt: skip
    if answer.kind == "crossing" and answer.value is not None:
        low, high = answer.low or curve.x[0], answer.high or curve.x[-1]  # an open end reaches as far as the cells do
        ax.axvspan(low, high, color="0.5" if modelled else "#8073ac", alpha=0.3, linewidth=0)
        ax.axvline(answer.value, color="0.3" if modelled else "#542788", linewidth=1.2)
    if curve.log_axis:
        ax.set_xscale("log", base=2)
    _mark_places(ax, curve)
    _label_places(ax, axis, curve)
    low = min(-half * 2, *(r - bar for r, bar in zip(centre, bars[0], strict=True)))
    high = max(half * 2, *(r + bar for r, bar in zip(centre, bars[1], strict=True)))
    ax.set_ylim(low - 0.15 * (high - low) - 0.1, high + 0.15 * (high - low) + 0.1)
    ax.set_ylabel("log2 (t_cpu / t_gpu)")
    ax.text(0.01, 0.98, "GPU faster", transform=ax.transAxes, va="top", fontsize=8, color=GPU)
    ax.text(0.99, 0.02, _bars_are(answer), transform=ax.transAxes, va="bottom", ha="right", fontsize=7, color="0.4")
    ax.text(0.01, 0.02, "CPU faster", transform=ax.transAxes, va="bottom", fontsize=8, color=CPU)
    ax.set_title(_title(answer), fontsize=8, loc="left")


def _length(distance: float) -> float:
    """An error bar in log2 from a distance in the natural log; none where the interval is unbounded."""
    return max(0.0, distance / math.log(2)) if math.isfinite(distance) else 0.0


def _mark_places(ax: Any, curve: CurveView) -> None:
    """Capacities: dashed for a cache, solid and hatched beyond for the GPU's memory."""
    for name, at in curve.steps:
        ax.axvline(at, color="0.5", linewidth=0.8, linestyle="--")
        ax.annotate(name, (at, 0.99), xycoords=("data", "axes fraction"), rotation=90, fontsize=7, va="top", ha="right")
    if curve.edge is not None:
        ax.axvline(curve.edge, color="black", linewidth=1.2)
        ax.axvspan(curve.edge, max(curve.edge * 2, curve.x[-1]), color="0.8", hatch="//", alpha=0.5, linewidth=0)
        ax.annotate("GPU memory ends", (curve.edge, 0.5), xycoords=("data", "axes fraction"), rotation=90, fontsize=7,
                    ha="right", va="center")  # fmt: skip


def _label_places(ax: Any, axis: Any, curve: CurveView) -> None:
    place = math.log if curve.log_axis else float
    apart = (place(curve.x[-1]) - place(curve.x[0])) / 9  # labels nearer than this would lie on each other
    shown = curve.x[:1]
    shown += [x for k, x in enumerate(curve.x[1:]) if place(x) - place(curve.x[k]) > apart / 2]
    if len(shown) > 9:
        shown = shown[:: math.ceil(len(shown) / 8)]
    ax.set_xticks(shown, [axis.format(x) for x in shown], fontsize=7)
    ax.minorticks_off()
    ax.set_xlabel({"table": "table size", "row_bytes": "row size"}.get(axis.name, axis.name) + _direction(axis.name))


def _direction(name: str) -> str:
    return ", nominal, per direction" if name == "link" else " share of the HBM row cache" if name == "hit" else ""


def _title(answer: Answer) -> str:
    source = answer.source if answer.source == "paired" else answer.source.upper()
    return f"{_fold(answer.workload)}\n{answer.ends}, {metric_words(answer.metric)}, {source}: {answer.kind}"


def _bars_are(answer: Answer) -> str:
    """What an error bar spans."""
    return {"projection": "bars: range of the assumptions", "modelled": "bars: error of the fit"}.get(
        answer.source, "bars: 95% over launches"
    )


def _fold(words: str, width: int = 78) -> str:
    return words if len(words) <= width else words[: width - 1] + "…"


def draw_terms(curves: Sequence[CurveView], most: int = 4) -> Any:
    """Where the time goes: the terms of both sides stacked beside each other, the measured time as a dot."""
    chosen = [curve for curve in _readable(curves, 2 * most) if any(curve.gpu_terms)][:most]
    if not chosen:
        chosen = list(curves[:1])
    figure, axes = _figure(len(chosen), 6.8, 4.0)
    for ax, curve in zip(axes, chosen, strict=True):
        _draw_terms(ax, curve)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def _draw_terms(ax: Any, curve: CurveView) -> None:
    """Each bar is the share of its side's summed terms; the time itself stands above it, so no log axis lies about
    sums."""
    axis = AXES[curve.answer.axis]
    for side, offset, terms, seconds in (
        ("CPU", -0.2, curve.cpu_terms, curve.cpu),
        ("GPU", 0.2, curve.gpu_terms, curve.gpu),
    ):
        bottoms = [0.0] * len(curve.x)
        for term in TERMS:
            parts = [_gather_once(parts).get(term, 0.0) for parts in terms]
            totals = [sum(_gather_once(parts).values()) or 1.0 for parts in terms]
            heights = [part / total for part, total in zip(parts, totals, strict=True)]
            ax.bar(
                [k + offset for k in range(len(curve.x))], heights, 0.36, bottoms, color=TERM_COLOURS[term],
                label=term if side == "CPU" else None, edgecolor="white", linewidth=0.4,
            )  # fmt: skip
            bottoms = [b + h for b, h in zip(bottoms, heights, strict=True)]
        for k, time in enumerate(seconds):
            if time is not None:
                ax.text(k + offset, 1.02, f"{side} {_time(time)}", rotation=90, fontsize=6.5, ha="center", va="bottom")
    ax.set_xticks(range(len(curve.x)), [axis.format(x) for x in curve.x], fontsize=7)
    ax.set_ylim(0, 1.45)
    ax.set_yticks([0, 0.5, 1], ["0", "50%", "100%"])
    ax.set_xlabel(axis.name)
    ax.set_ylabel("share of the summed terms")
    ax.set_title(_title(curve.answer), fontsize=8, loc="left")


def _gather_once(parts: dict[str, float]) -> dict[str, float]:
    """Rows and bytes are two bounds on one gather: only the slower one takes time."""
    if not {"rows", "bytes"} <= parts.keys():
        return parts  # the run has no roofs to split the time by
    slower = "rows" if parts["rows"] >= parts["bytes"] else "bytes"
    return {name: value for name, value in parts.items() if name not in ("rows", "bytes") or name == slower}


def _time(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def draw_maps(planes: Sequence[Plane], most: int = 4) -> Any:
    """log2 of t_cpu/t_gpu over batch x table bytes: cells in the tie band grey, measured cells dotted, capacity
    hatched."""
    from matplotlib.colors import TwoSlopeNorm

    chosen = list(planes[:most])
    figure, axes = _figure(len(chosen), 6.4, 4.4)
    values = [v for plane in chosen for v in plane.log2.values() if v is not None]
    reach = max(1.0, *(abs(v) for v in values)) if values else 1.0
    norm = TwoSlopeNorm(0.0, -reach, reach)
    for ax, plane in zip(axes, chosen, strict=True):
        image = _draw_map(ax, plane, norm)
        figure.colorbar(image, ax=ax, label="log2 (t_cpu / t_gpu):  CPU faster < 0 < GPU faster")
    return figure


def _draw_map(ax: Any, plane: Plane, norm: Any) -> Any:
    import numpy as np

    keys = [[f"{b:g}|{t:g}" for b in plane.batch] for t in plane.table]
    grid = np.array([[_or_nan(plane.log2.get(key)) for key in row] for row in keys])
    image = ax.pcolormesh(grid, cmap="PuOr", norm=norm, edgecolors="white", linewidth=0.8)
    half = math.log2(1 + plane.band)
    for i, row in enumerate(keys):
        for j, key in enumerate(row):
            _mark_cell(ax, plane, key, j, i, half, norm.vmax)
    if plane.edge is not None:
        ax.axhline(plane.table.index(plane.edge), color="black", linewidth=2)
    ax.set_xticks([j + 0.5 for j in range(len(plane.batch))], [f"{b:,.0f}" for b in plane.batch], fontsize=7)
    sizes = [AXES["table"].format(t) for t in plane.table]
    ax.set_yticks([i + 0.5 for i in range(len(plane.table))], sizes, fontsize=7)
    ax.set_xlabel("batch")
    ax.set_ylabel("table size")
    marks = "dot: measured on both sides" if plane.measured else "no dot: the GPU side is not measured"
    weak = "\n(in brackets): a kernel too far below its time roof to decide" if plane.weak else ""
    lines = (
        _fold(plane.workload),
        f"{plane.ends}, {metric_words(plane.metric)}, against {_fold(plane.gpu.partition(' (')[0], 48)}",
        f"{plane.source}; = is a tie within {plane.band:.0%}; {marks}{weak}",
    )
    ax.set_title("\n".join(lines), fontsize=7.5, loc="left")
    return image


def _mark_cell(ax: Any, plane: Plane, key: str, column: int, row: int, half: float, reach: float) -> None:
    from matplotlib.patches import Rectangle

    value = plane.log2.get(key)
    x, y = column + 0.5, row + 0.5
    if value is None:
        label = "GPU\nfull" if key in plane.log2 else "no clean\nlaunch"
        ax.add_patch(Rectangle((column, row), 1, 1, facecolor="0.85", hatch="//", edgecolor="0.6", linewidth=0))
        ax.text(x, y, label, ha="center", va="center", fontsize=6)
        return
    if abs(value) < half:
        ax.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, fill=False, edgecolor="black", linewidth=1.2))
    sign = "= " if abs(value) < half else ""
    ax.text(
        x,
        y,
        f"({sign}{value:+.1f})" if key in plane.weak else f"{sign}{value:+.1f}",
        ha="center",
        va="center",
        fontsize=7,
        color="white" if abs(value) > 0.6 * reach else "black",
    )
    if key in plane.measured:
        ax.plot(column + 0.9, row + 0.85, ".", color="black", markersize=3)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
