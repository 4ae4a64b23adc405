"""Pictures of the memory wall: growth lines with this device, predicted against measured operators, GPT-2 over
BERT-Base.

The functions return the files they wrote. matplotlib is imported when a picture is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pykernels.analysis.wall import trends as growth
from pykernels.analysis.wall.pages import Model, Trends
from pykernels.analysis.wall.predict import Comparison, Prediction, Ratio

#: colours that stay apart for colour-blind readers (Okabe and Ito)
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
_LINES = {
    "hw_flops": ("o", "peak FLOP/s (published, mixed precision)"),
    "dram_bandwidth": ("s", "DRAM bandwidth (published)"),
    "interconnect_bandwidth": ("^", "interconnect, per lane (published)"),
}
_BASE_YEAR = 2003.0


def draw_trends(page: Trends, path: Path) -> list[Path]:
    """Three published series with their fitted lines, each over its own line's value in 2003; measured devices as stars
    with their names in the legend."""
    figure, axes = _figure(9.5, 5.8)
    lines = {fit.series: fit for fit in page.fits}
    for colour, (series, (marker, name)) in zip(_COLOURS, _LINES.items(), strict=False):
        fit = lines[series]
        base = fit.at(_BASE_YEAR)
        points = growth.points(series)
        axes.plot(
            [p.year for p in points],
            [p.value / base for p in points],
            marker,
            color=colour,
            ms=5,
            alpha=0.6,
            mec="none",
        )
        end = max([fit.last, *(p.year for p in page.placed if p.series == series)])
        years = [fit.first, fit.last]
        low, high = fit.two_se
        label = f"{name}: {fit.per_2_years:.2f}x / 2 yr [{low:.2f}, {high:.2f}], n {fit.n}, R² {fit.r2:.2f}"
        axes.plot(years, [fit.at(y) / base for y in years], "-", color=colour, lw=1.8, label=label)
        if end > fit.last:
            axes.plot([fit.last, end], [fit.at(y) / base for y in (fit.last, end)], "--", color=colour, lw=1.2)
    _stars(axes, page, lines)
    axes.set_yscale("log")
    axes.set_xlabel("year")
    axes.set_ylabel(f"value over the fitted line's value in {_BASE_YEAR:.0f}")
    axes.set_title("Compute outgrows memory, memory outgrows links")
    axes.grid(True, which="major", alpha=0.25)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.margins(y=0.22)
    return [_save(figure, path)]


def _stars(axes: Any, page: Trends, lines: dict[str, growth.Growth]) -> None:
    colours = dict(zip(_LINES, _COLOURS, strict=False))
    markers = "*PXDpv<>"
    widest: dict[str, str] = {}  # device -> its placement with the most threads, the last one
    for placed in page.placed:
        widest[placed.device.partition("*")[0]] = placed.device
    for index, placed in enumerate(p for p in page.placed if p.device in widest.values()):
        if placed.series in lines:
            base = lines[placed.series].at(_BASE_YEAR)
            error = [[(placed.value - placed.low) / base], [(placed.high - placed.value) / base]]
            bounded = 0 < placed.low <= placed.value <= placed.high < float("inf")
            axes.errorbar(
                [placed.year], [placed.value / base], yerr=error if bounded else None,
                fmt=markers[index % len(markers)], ms=11, color=colours[placed.series], mec="black", mew=0.7,
                ecolor="black", zorder=5,
                label=f"{placed.device} {placed.what}: {placed.value:.3g} {placed.unit} (measured)",
            )  # fmt: skip


def draw_model(page: Model, path: Path) -> list[Path]:
    """Stacked bars of predicted and measured operators by sequence length, and GPT-2 over BERT-Base."""
    drawn = []
    if any(r.predicted or r.measured for r in page.ratios):
        drawn.append(_save(_ratio_figure(page), _beside(path, "ratio")))
    predictions = [p for p in page.predictions if isinstance(p, Prediction)]
    for index, setting in enumerate(_settings(page.comparisons)):
        name = "" if index == 0 else "-".join(setting).replace("*", "x")
        drawn.append(_save(_bars(page, setting), _beside(path, name) if name else path))
    if not page.comparisons and predictions:
        drawn.append(_save(_predicted_bars(page, predictions), path))
    return drawn


def _settings(found: Sequence[Comparison]) -> list[tuple[str, str]]:
    """(backend, dtype*threads) in order of appearance."""
    return list(dict.fromkeys((c.backend, f"{c.dtype}*{c.threads}") for c in found))


def _bars(page: Model, setting: tuple[str, str]) -> Any:
    """Pairs of bars per sequence length: predicted left, measured right and hatched, operators stacked."""
    mine = [c for c in page.comparisons if (c.backend, f"{c.dtype}*{c.threads}") == setting]
    seqs = sorted({c.seq for c in mine})
    figure, axes = _figure(9.5, 5.4)
    operators = [o for o in dict.fromkeys(c.operator for c in mine) if o != "total"]
    cells = {(c.seq, c.operator): c for c in mine}
    for side, shift in (("predicted_s", -0.2), ("measured_s", 0.2)):
        below = [0.0] * len(seqs)
        for colour, operator in zip(_COLOURS, operators, strict=False):
            heights = [
                getattr(cells[seq, operator], side) / seq * 1e3 if (seq, operator) in cells else 0.0 for seq in seqs
            ]
            axes.bar(
                [i + shift for i in range(len(seqs))], heights, 0.36, bottom=below, color=colour, edgecolor="white",
                linewidth=0.5, hatch="//" if shift > 0 else None, label=operator if shift < 0 else None,
            )  # fmt: skip
            below = [a + b for a, b in zip(below, heights, strict=True)]
        _totals(axes, cells, seqs, below, side, shift)
    axes.set_xticks(range(len(seqs)), [str(seq) for seq in seqs])
    axes.set_title(f"{page.config.name}, {setting[0]} {setting[1]}: left predicted (modelled), right hatched measured")
    _finish_bars(axes)
    return figure


def _totals(axes: Any, cells: dict[tuple[int, str], Comparison], seqs: list[int], top: list[float], side: str,
            shift: float) -> None:  # fmt: skip
    """The whole latency in milliseconds above each bar, from the chain where it was timed."""
    for i, seq in enumerate(seqs):
        whole = cells.get((seq, "total"))
        if whole is not None:
            value = getattr(whole, side)
            height = max(top[i], value / seq * 1e3)
            axes.plot([i + shift - 0.18, i + shift + 0.18], [value / seq * 1e3] * 2, color="black", lw=1.2)
            _label(axes, value, i + shift, height)


def _label(axes: Any, seconds: float, x: float, top: float) -> None:
    """A latency over its bar."""
    text = f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
    axes.annotate(text, (x, top), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=8)


def _predicted_bars(page: Model, predictions: Sequence[Prediction]) -> Any:
    """One bar per placement, operators stacked, where nothing was measured."""
    figure, axes = _figure(8.5, 5.2)
    below = [0.0] * len(predictions)
    for colour, operator in zip(_COLOURS, [t.name for t in predictions[0].operators], strict=False):
        heights = [next(t.seconds.value for t in p.operators if t.name == operator) / p.seq * 1e3 for p in predictions]
        axes.bar(range(len(predictions)), heights, 0.5, bottom=below, color=colour, edgecolor="white", linewidth=0.5,
                 label=operator)  # fmt: skip
        below = [a + b for a, b in zip(below, heights, strict=True)]
    for i, prediction in enumerate(predictions):
        _label(axes, prediction.total.value, i, below[i])
    axes.set_xticks(range(len(predictions)), [f"{p.device}*{p.threads}" for p in predictions])
    axes.set_title(f"{page.config.name}, {page.dtype}, seq {page.seq}: predicted from measured roofs (modelled)")
    _finish_bars(axes, xlabel="placement")
    axes.set_xlim(-0.6, max(1.4, len(predictions) - 0.4))
    return figure


def _finish_bars(axes: Any, xlabel: str = "sequence length") -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel("time per token, ms")
    axes.margins(y=0.12)
    axes.grid(True, axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.legend(title="operator", fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _ratio_figure(page: Model) -> Any:
    figure, axes = _figure(8.0, 4.8)
    where = f" ({page.ratio_place}, {page.dtype})" if page.ratio_place else ""
    kinds = (
        ("published", "s--", "published: Xeon Gold 6242, setting unstated"),
        ("predicted", "o-", f"predicted{where}"),
        ("measured", "*", f"measured{where}"),
    )
    for colour, (kind, style, name) in zip(_COLOURS, kinds, strict=False):
        known = [(r.seq, value) for r in page.ratios if (value := _value(r, kind)) is not None]
        if known:
            axes.plot([s for s, _ in known], [v for _, v in known], style, color=colour, label=name,
                      ms=13 if kind == "measured" else 6)  # fmt: skip
    axes.axhline(10, color="#999999", lw=1, ls=":")
    axes.annotate("10x", (page.ratios[0].seq, 9.6), fontsize=8, va="top", ha="left", color="#666666")
    axes.set_xscale("log", base=2)
    axes.set_xticks([r.seq for r in page.ratios], [str(r.seq) for r in page.ratios])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("sequence length (tokens read, or generated one by one)")
    axes.set_ylabel("GPT-2 latency over BERT-Base latency")
    axes.set_title("One size, one FLOP count: a decoder waits for memory")
    axes.grid(True, alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _value(ratio: Ratio, kind: str) -> float | None:
    found: float | None = getattr(ratio, kind)
    return found


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.stem}-{suffix}{path.suffix}")


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure without pyplot's global state, so that nothing stays behind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _save(figure: Any, path: Path) -> Path:
    from pykernels.errors import UsageError

    if path.suffix not in (".png", ".svg"):
        raise UsageError(f'{path}: pictures are .png or .svg, not "{path.suffix}"')
    figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path
