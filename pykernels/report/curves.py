"""Pictures over an axis that is no intensity: bandwidth and latency over the working set, rates over threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pykernels.analysis.common import level_rank
from pykernels.analysis.hierarchy import Curve, Level
from pykernels.analysis.roofline import Roof, Roofline
from pykernels.report.plot import DASHES, INK, MARKERS, SERIES, halo, new_figure, plain_ticks, save, size_ticks
from pykernels.report.table import value_and_interval
from pykernels.units import format_size

_MOST_PANELS = 4
_TITLES = {"bandwidth": "bandwidth", "latency": "latency of a dependent load"}


def draw_levels(roofline: Roofline, path: Path) -> Path:
    """Bandwidth and latency over the working set, with the OS's capacities and the measured breaks."""
    found = roofline.detail.curves
    kinds = [kind for kind in ("bandwidth", "latency") if any(curve.kind == kind for curve in found)]
    figure, axes = new_figure(7.6, 3.7 * len(kinds), len(kinds), 1, sharex=True)
    name = " ".join(roofline.machine.cpu_model.split()) or roofline.machine.arch
    figure.suptitle(f"memory hierarchy, {name}", fontsize=10, color=INK)
    sizes = [point.size for curve in found for point in curve.points]
    for panel, kind in zip(axes, kinds, strict=True):
        mine = [curve for curve in found if curve.kind == kind]
        panel.set(xscale="log", yscale="log", xlim=(min(sizes) / 1.3, max(sizes) * 1.6))
        panel.set_ylabel(f"{_TITLES[kind]}, {mine[0].unit}", fontsize=9)
        for number, curve in enumerate(mine):
            _curve(panel, curve, number)
        panel.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0.2)
        plain_ticks(panel.yaxis)
    size_ticks(axes[-1].xaxis, min(sizes) / 1.3, max(sizes) * 1.6)
    axes[-1].set_xlabel("working set, all threads", fontsize=9)
    figure.draw_without_rendering()
    for panel, kind in zip(axes, kinds, strict=True):
        _capacities(panel, roofline.levels, kind)
    return save(figure, path)


def _curve(panel: Any, curve: Curve, number: int) -> None:
    threads = "" if curve.device.startswith("gpu") else f", {curve.threads} thread{'s' * (curve.threads > 1)}"
    parts = [curve.op or curve.kernel, curve.dtype if curve.kind == "bandwidth" else ""]
    parts += [curve.isa if curve.kind == "bandwidth" else "", "" if curve.pages == "huge" else f"{curve.pages} pages"]
    bars = [[p.value - p.low for p in curve.points], [min(p.high, 10 * p.value) - p.value for p in curve.points]]
    panel.errorbar(
        [p.size for p in curve.points], [p.value for p in curve.points], yerr=bars, fmt=MARKERS[number % len(MARKERS)],
        ls=DASHES[number % len(DASHES)], ms=3.5, lw=1.2, capsize=2, color=SERIES[number % len(SERIES)],
        label=" ".join(part for part in parts if part) + threads,
    )  # fmt: skip


def _capacities(panel: Any, levels: Sequence[Level], kind: str) -> None:
    """A line where the OS puts a capacity, a band where the sweep breaks."""
    for level in levels:
        panel.axvline(level.os_bytes, color="#666666", lw=0.9, ls=(0, (2, 2)), zorder=1)
        left = panel.transAxes.inverted().transform(panel.transData.transform((level.os_bytes, 1)))[0] < 0.55
        low = left == (kind == "bandwidth")  # the corner that the curve leaves free
        panel.annotate(f"{level.level} by the OS", (level.os_bytes, 0 if low else 1), (3, 4 if low else -4),
                       xycoords=("data", "axes fraction"), textcoords="offset points", rotation=90, ha="left",
                       va="bottom" if low else "top", fontsize=7, color="#444444", bbox=halo())  # fmt: skip
        found = level.bandwidth_bytes if kind == "bandwidth" else level.chase_bytes
        if found:
            panel.axvspan(found / 1.19, found * 1.19, color="#E69F00", alpha=0.25, lw=0, zorder=0)


def draw_loaded(roofline: Roofline, path: Path) -> Path:
    """Latency over the traffic of other threads: a panel for each level and team, a line for each share of reads."""
    teams = list(dict.fromkeys((c.domain, c.threads, c.level) for c in roofline.loaded))[:_MOST_PANELS]
    figure, axes = new_figure(7.6, 4.4 * len(teams), len(teams), 1)
    name = " ".join(roofline.machine.cpu_model.split()) or roofline.machine.arch
    figure.suptitle(f"latency under load, {name}", fontsize=10, color=INK)
    for panel, team in zip(axes, teams, strict=True):
        mine = [c for c in roofline.loaded if (c.domain, c.threads, c.level) == team]
        for number, curve in enumerate(mine):
            points = curve.points
            bars = [[p.value - p.low for p in points], [min(p.high, 3 * p.value) - p.value for p in points]]
            panel.errorbar([p.background_gbps for p in points], [p.value for p in points], yerr=bars, ms=4, lw=1.2,
                           fmt=MARKERS[number % len(MARKERS)], ls=DASHES[number % len(DASHES)], capsize=2,
                           color=SERIES[number % len(SERIES)], label=f"{curve.read}% reads")  # fmt: skip
        top = max(p.value for c in mine for p in c.points)
        panel.set(ylim=(0, 1.35 * top), xlim=(0, None))
        others = team[1] - 1
        panel.set_title(f"{team[2]}, one thread beside {others} other{'s' * (others > 1)} ({team[0]})", fontsize=9,
                        loc="left", color=INK)  # fmt: skip
        panel.set_ylabel(f"latency, {mine[0].unit}", fontsize=9)
        panel.legend(fontsize=8, frameon=False, loc="upper left")
    axes[-1].set_xlabel("traffic of the others, reads and writes, GB/s", fontsize=9)
    return save(figure, path)


def scaling(roofline: Roofline) -> dict[tuple[str, str], list[Roof]]:
    """Roofs of one domain and ISA by (label, unit) that were measured with three thread counts or more (with two on a
    machine of two cores)."""
    least = max(2, min(3, len(roofline.machine.cores) or 3))
    groups: dict[tuple[object, ...], list[Roof]] = {}
    for roof in roofline.roofs:
        if roof.kind in ("bandwidth", "compute", "rate") and not roof.device.startswith("gpu"):
            key = (roof.domain, roof.kind, roof.level, roof.op, roof.dtype, roof.isa, roof.pages, roof.row_bytes)
            groups.setdefault(key, []).append(roof)
    found = {}
    for group in groups.values():
        if len({roof.threads for roof in group}) >= least:
            first = group[0]
            name = f"{first.dtype if first.kind == 'compute' else first.level} {first.op}"
            alike = {roof.dtype for roof in roofline.roofs if (roof.kind, roof.level) == (first.kind, first.level)}
            name += f" {first.dtype}" if len(alike) > 1 and first.kind != "compute" else ""
            name += f" {format_size(first.row_bytes)} rows" if first.row_bytes else ""
            isas = {roof.isa for roof in roofline.roofs if roof.kind == first.kind}
            found[f"{name} {first.isa}" if len(isas) > 1 else name, first.unit] = sorted(group, key=lambda r: r.threads)
    return dict(sorted(found.items(), key=lambda item: (item[0][1], level_rank(item[1][0].level), item[0][0])))


def draw_scaling(roofline: Roofline, path: Path) -> Path:
    """Each rate over its rate with the fewest threads; the dotted diagonal is perfect scaling."""
    lines = scaling(roofline)
    figure, axes = new_figure(8.2, 4.8)
    panel = axes[0]
    ticks = sorted({roof.threads for group in lines.values() for roof in group})
    panel.plot([1, ticks[-1]], [1, ticks[-1]], color="#999999", lw=0.8, ls=(0, (2, 2)))
    panel.set(xscale="log", yscale="log", xlim=(0.93 * ticks[0], ticks[-1] * (ticks[-1] / ticks[0]) ** 0.55))
    panel.set_xlabel("threads", fontsize=9)
    panel.set_ylabel("speed-up over one thread", fontsize=9)
    ends = []
    for number, ((name, unit), group) in enumerate(lines.items()):
        base = group[0].value / group[0].threads
        ys = [roof.value / base for roof in group]
        bars = [[(r.value - r.low) / base for r in group], [(r.high - r.value) / base for r in group]]
        style = SERIES[number % len(SERIES)]
        panel.errorbar([roof.threads for roof in group], ys, yerr=bars, fmt=MARKERS[number % len(MARKERS)],
                       ls=DASHES[number % len(DASHES)], ms=4, lw=1.3, capsize=2, color=style)  # fmt: skip
        last = group[-1]
        figure_text = value_and_interval(last.value, last.low, last.high)[0]
        ends.append((ys[-1], f"{name} {figure_text} {unit}", style))
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()
    plain_ticks(panel.yaxis)
    panel.set_title(" ".join(roofline.machine.cpu_model.split()), fontsize=9, loc="left", color=INK)
    figure.draw_without_rendering()
    _end_labels(panel, figure.dpi / 72, ticks[-1], ends)
    return save(figure, path)


def _end_labels(panel: Any, pixel: float, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Labels in a column to the right of the curves' ends, in their order, each at least a line of text apart."""
    place = float(panel.transAxes.transform((0, 1))[1]) / pixel + 11
    for y, text, style in sorted(ends, reverse=True):
        height = float(panel.transData.transform((x, y))[1]) / pixel
        place = min(height, place - 11)
        line = {"arrowstyle": "-", "lw": 0.5, "color": "#888888", "shrinkA": 1, "shrinkB": 4, "relpos": (0, 0.5)}
        panel.annotate(text, (x, y), (26, place - height), textcoords="offset points", fontsize=8, color=style,
                       va="center", arrowprops=line)  # fmt: skip
