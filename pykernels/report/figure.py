"""Pictures of a roofline: one for each dtype, one of the memory hierarchy, one of thread scaling."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pykernels.analysis.common import isa_rank, level_rank
from pykernels.analysis.intensity import Sweep
from pykernels.analysis.points import Point
from pykernels.analysis.roofline import Ridge, Roof, Roofline
from pykernels.report.plot import INK, LEVEL_STYLE, MARKERS, OTHER_STYLE, Labels, halo, new_figure, plain_ticks, save
from pykernels.units import format_value

_OPS = ("load", "copy", "nt-copy", "triad", "nt-triad", "store", "nt-store", "load-only")
_MOST_OPS = 4  #: roofs of one level that a picture shows; the table has them all
_MOST_PANELS = 4
_MOST_NAMES = 400  #: characters of names that a picture holds
_TEXT = 8.0


def draw(roofline: Roofline, path: Path) -> list[Path]:
    """Write the pictures and return their paths.

    The roofline of each dtype with a compute roof (`x-fp32.png`, `x-fp64.png`; just `x.png` for a single one), then
    `x-levels.png` where working sets were swept, `x-loaded.png` where latency was measured under load and
    `x-scaling.png` where three thread counts or more were measured (two on a machine of two cores).
    Raises UsageError for a suffix other than .png, .svg, .pdf and for a path that cannot be written."""
    from pykernels.report import curves

    written = []
    dtypes = list(dict.fromkeys(roof.dtype for roof in _drawn(roofline) if roof.kind == "compute"))
    if not dtypes and any(roof.kind == "bandwidth" for roof in _drawn(roofline)):
        dtypes = [next(roof.dtype for roof in _drawn(roofline) if roof.kind == "bandwidth")]
    for dtype in dtypes:
        target = path.with_stem(f"{path.stem}-{dtype}") if len(dtypes) > 1 else path
        written.append(draw_roofline(roofline, dtype, target))
    if roofline.detail.curves:
        written.append(curves.draw_levels(roofline, path.with_stem(f"{path.stem}-levels")))
    if roofline.loaded:
        written.append(curves.draw_loaded(roofline, path.with_stem(f"{path.stem}-loaded")))
    if curves.scaling(roofline):
        written.append(curves.draw_scaling(roofline, path.with_stem(f"{path.stem}-scaling")))
    return written


def draw_roofline(roofline: Roofline, dtype: str, path: Path) -> Path:
    """One dtype: a panel for each team of threads, with its best ISA level."""
    teams = _teams(roofline, dtype)
    columns = min(2, len(teams))
    rows = math.ceil(len(teams) / columns)
    figure, axes = new_figure(7.2 * columns, 5.4 * rows, rows, columns)
    for panel in axes[len(teams) :]:
        panel.set_visible(False)
    scopes = {roof.scope for roof in roofline.roofs}
    name = " ".join(roofline.machine.cpu_model.split()) or roofline.machine.arch
    source = "measured" if roofline.detail.source == "measured" else roofline.detail.source
    figure.suptitle(f"{dtype} roofline, {name}   ({source}, scope {'/'.join(sorted(scopes))})", fontsize=10, color=INK)
    panels = [Panel(figure, panel, roofline, dtype, team) for panel, team in zip(axes, teams, strict=False)]
    for panel in panels:
        panel.lines()
    figure.draw_without_rendering()  # lays the axes out; then they stay where the labels expect them
    figure.set_layout_engine("none")
    for panel in panels:
        panel.labels()
    return save(figure, path)


def _drawn(roofline: Roofline) -> list[Roof]:
    extras = roofline.detail.roofs
    return [roof for number, roof in enumerate(roofline.roofs) if not extras or extras[number].drawn]


def _teams(roofline: Roofline, dtype: str) -> list[tuple[str, int]]:
    """(domain, threads) of the panels: those with a compute roof of the dtype, else all with a bandwidth roof."""
    drawn = _drawn(roofline)
    found = dict.fromkeys((r.domain, r.threads) for r in drawn if r.kind == "compute" and r.dtype == dtype)
    found = found or dict.fromkeys((r.domain, r.threads) for r in drawn if r.kind == "bandwidth")
    teams = list(found)
    return teams if len(teams) <= _MOST_PANELS else [*teams[: _MOST_PANELS - 1], teams[-1]]


class Panel:
    """One team's roofline on one axes."""

    def __init__(self, figure: Any, axes: Any, roofline: Roofline, dtype: str, team: tuple[str, int]) -> None:
        self.figure, self.axes = figure, axes
        self.domain, self.threads = team
        mine = [roof for roof in _drawn(roofline) if (roof.domain, roof.threads) == team]
        peaks = [roof for roof in mine if roof.kind == "compute" and roof.dtype == dtype]
        best = max((isa_rank(roof.isa) for roof in peaks), default=-1)
        self.peaks = sorted((r for r in peaks if isa_rank(r.isa) == best), key=lambda roof: -roof.value)
        self.isa = self.peaks[0].isa if self.peaks else max((r.isa for r in mine), key=isa_rank, default="")
        self.bandwidths = _bandwidths(mine, self.isa, dtype)
        key = (mine[0].device if mine else "", dtype, self.threads, self.isa)
        self.ridges = [r for r in roofline.ridges if (r.device, r.dtype, r.threads, r.isa) == key]
        detail = roofline.detail
        self.sweeps = [s for s in detail.sweeps if (s.domain, s.threads, s.dtype) == (*team, dtype)]
        self.points = [p for p in detail.points if (p.domain, p.threads, p.dtype) == (*team, dtype)]
        self.unit = self.peaks[0].unit if self.peaks else "GFLOP/s"
        self._limits()

    def _limits(self) -> None:
        rates = [roof.value for roof in self.bandwidths] or [1.0]
        self.top: float = self.peaks[0].value if self.peaks else 10 * max(rates)
        ridges = [self.top / rate for rate in rates]
        dots = [dot for sweep in self.sweeps for dot in sweep.points]
        xs = [point.intensity for point in self.points] + [dot.intensity for dot in dots]
        ys = [point.value for point in self.points] + [dot.value for dot in dots]
        self.x: tuple[float, float] = (
            min(min(ridges) / 40, *(x / 1.5 for x in xs)) if xs else min(ridges) / 40,
            max(max(ridges) * 12, *(x * 1.5 for x in xs)) if xs else max(ridges) * 12,
        )
        bottom = min(rates) * self.x[0] / 1.3
        self.y: tuple[float, float] = (min([bottom, *(y / 1.5 for y in ys)]), self.top * 2.2)

    # ------------------------------------------------------------------------------------------------------- lines

    def lines(self) -> None:
        """Everything that is no text: roofs with their bands, ridge bands, sweeps, kernels."""
        axes = self.axes
        axes.set(xscale="log", yscale="log", xlim=self.x, ylim=self.y)
        axes.set_xlabel(
            "arithmetic intensity, FLOP per byte moved" if self.unit == "GFLOP/s" else "OP per byte moved", fontsize=9
        )
        axes.set_ylabel(self.unit, fontsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            plain_ticks(axis)
        team = (
            self.domain
            if self.domain.startswith("gpu")
            else f"{self.domain}, {self.threads} thread" + "s" * (self.threads > 1)
        )
        axes.set_title(", ".join(part for part in (team, self.isa) if part), fontsize=9, color=INK, loc="left")
        for roof in self.bandwidths:
            self._slope(roof)
        for number, peak in enumerate(self.peaks):
            start = self._meets(peak.value)
            axes.plot([start, self.x[1]], [peak.value] * 2, color=INK, lw=1.8 if not number else 0.9)
            axes.fill_between([start, self.x[1]], peak.low, min(peak.high, self.y[1]), color=INK, alpha=0.12, lw=0)
        for ridge in self._main_ridges():
            colour, _ = LEVEL_STYLE.get(ridge.level, OTHER_STYLE)
            high = ridge.high if math.isfinite(ridge.high) else self.x[1]
            axes.fill_betweenx([self.y[0], self.top], max(ridge.low, self.x[0]), high, color=colour, alpha=0.16, lw=0)
            axes.plot([ridge.value] * 2, [self.y[0], self.top], color=colour, lw=0.5, alpha=0.7)
        for sweep in self.sweeps:
            self._sweep(sweep)
        for number, point in enumerate(self.points):
            bars = [[point.value - point.low], [point.high - point.value]]
            axes.errorbar(point.intensity, point.value, yerr=bars, fmt=MARKERS[number % len(MARKERS)], ms=6, color=INK,
                          mfc="white", mew=1.3, capsize=2.5, lw=1, zorder=6)  # fmt: skip

    def _slope(self, roof: Roof) -> None:
        colour, dashes = LEVEL_STYLE.get(roof.level, OTHER_STYLE)
        main = roof is _main(self.bandwidths, roof.level)
        end = min(self.top / roof.value, self.x[1])
        xs = [self.x[0], end]
        width = (2.6 if roof.level == "DRAM" else 1.8) if main else 0.9
        self.axes.plot(xs, [roof.value * x for x in xs], color=colour, ls=dashes, lw=width, zorder=3)
        high = min(roof.high, 10 * roof.value)
        self.axes.fill_between(xs, [roof.low * x for x in xs], [high * x for x in xs], color=colour, alpha=0.13, lw=0)

    def _meets(self, peak: float) -> float:
        """Intensity from which a peak can be reached: where the fastest bandwidth roof meets it."""
        fastest = max((roof.value for roof in self.bandwidths), default=0.0)
        return max(peak / fastest, self.x[0]) if fastest else self.x[0]

    def _main_ridges(self) -> list[Ridge]:
        mains = {(r.level, r.op) for r in (_main(self.bandwidths, roof.level) for roof in self.bandwidths) if r}
        return [ridge for ridge in self.ridges if (ridge.level, ridge.op) in mains]

    def _sweep(self, sweep: Sweep) -> None:
        colour, _ = LEVEL_STYLE.get(sweep.level, OTHER_STYLE)
        marker = MARKERS[level_rank(sweep.level) % len(MARKERS)]
        xs, ys = [p.intensity for p in sweep.points], [p.value for p in sweep.points]
        bars = [[p.value - p.low for p in sweep.points], [p.high - p.value for p in sweep.points]]
        self.axes.errorbar(xs, ys, yerr=bars, fmt=marker, ms=3.2, color=colour, capsize=1.5, lw=0.7, zorder=5)
        if sweep.peak:
            steps = [xs[0] * (xs[-1] / xs[0]) ** (i / 120) for i in range(121)]
            self.axes.plot(steps, [sweep.curve(x) for x in steps], color=colour, lw=0.8, ls=":", zorder=4)

    # ------------------------------------------------------------------------------------------------------ labels

    def labels(self) -> None:
        """Every roof with its figure, every ridge with its intensity, every kernel with its name."""
        labels = Labels(self.figure, self.axes)
        for point in self.points:
            labels.reserve(point.intensity, point.value)
        for sweep in self.sweeps:
            for dot in sweep.points:
                labels.reserve(dot.intensity, dot.value, 2.0)
        self._slope_labels(labels)
        self._peak_labels(labels)
        self._ridge_labels(labels)
        if sum(len(_point_text(point)) for point in self.points) > _MOST_NAMES:
            text = f"{len(self.points)} kernels: `pykernels kernels` names them"
            self.axes.text(0.99, 0.02, text, transform=self.axes.transAxes, ha="right", fontsize=_TEXT, color=INK)
            return
        for point in sorted(self.points, key=lambda point: (point.intensity, point.value)):
            labels.beside(point.intensity, point.value, _point_text(point), fontsize=_TEXT, color=INK, zorder=7)

    def _slope_labels(self, labels: Labels) -> None:
        """Above the fastest line of each level, along it, staggered where two levels are nearer than a line of text."""
        transform = self.axes.transData.transform
        (x0, y0), (x1, y1) = transform((self.x[0], self.y[1])), transform((self.x[0] * 10, self.y[1] * 10))
        angle = math.atan2(y1 - y0, x1 - x0)
        pixel = self.figure.dpi / 72
        lanes: list[tuple[float, float]] = []  # (distance from the axis's corner across the lines, end along them)
        for level in sorted({roof.level for roof in self.bandwidths}, key=level_rank):
            group = [roof for roof in self.bandwidths if roof.level == level]
            top = max(group, key=lambda roof: roof.value)
            # a line that starts under the frame's bottom becomes visible where it crosses it
            x = max(self.x[0], self.y[0] / top.value)
            px, py = transform((x, top.value * x))
            across = py * math.cos(angle) - px * math.sin(angle)
            along = px * math.cos(angle) + py * math.sin(angle) + 12 * pixel
            near = [end for lane, end in lanes if abs(lane - across) < 1.5 * _TEXT * pixel]
            along = max([along, *(end + 8 * pixel for end in near)])
            across += 3 * pixel
            label = self.axes.text(
                *self.axes.transData.inverted().transform((along * math.cos(angle) - across * math.sin(angle),
                                                           along * math.sin(angle) + across * math.cos(angle))),
                _group_text(group), rotation=math.degrees(angle), rotation_mode="anchor", ha="left", va="bottom",
                fontsize=_TEXT, color=LEVEL_STYLE.get(level, OTHER_STYLE)[0], bbox=halo(), zorder=7,
            )  # fmt: skip
            label.set_rotation(0)
            width = label.get_window_extent(labels.renderer).width
            label.set_rotation(math.degrees(angle))
            lanes.append((across - 3 * pixel, along + width))
            labels.fixed(label)

    def _peak_labels(self, labels: Labels) -> None:
        for number, peak in enumerate(self.peaks):
            above = number == 0
            text = f"{peak.dtype} {peak.op} {_figure_text(peak)}"
            label = self.axes.annotate(
                text, (self.x[1], peak.value), (-4, 4 if above else -4), textcoords="offset points", ha="right",
                va="bottom" if above else "top", fontsize=_TEXT, color=INK, bbox=halo(), zorder=7,
            )  # fmt: skip
            labels.fixed(label)

    def _ridge_labels(self, labels: Labels) -> None:
        for ridge in self._main_ridges():
            colour, _ = LEVEL_STYLE.get(ridge.level, OTHER_STYLE)
            label = self.axes.annotate(
                f"{format_value(ridge.value, (ridge.high - ridge.low) / 2)}", (ridge.value, self.y[0]), (2, 3),
                textcoords="offset points", rotation=90, ha="left", va="bottom", fontsize=7, color=colour,
                bbox=halo(), zorder=7,
            )  # fmt: skip
            labels.fixed(label)


def _bandwidths(roofs: Iterable[Roof], isa: str, dtype: str) -> list[Roof]:
    """One roof of each (level, op), of this ISA and dtype where they were measured; at most a few ops a level."""
    best: dict[tuple[str, str], Roof] = {}

    def nearness(roof: Roof) -> tuple[bool, bool, bool, float]:
        return roof.isa == isa, roof.dtype == dtype, roof.pages == "huge", roof.value

    for roof in roofs:
        if roof.kind == "bandwidth" and not roof.row_bytes and isa_rank(roof.isa) <= max(isa_rank(isa), -1):
            key = (roof.level, roof.op)
            if key not in best or nearness(roof) > nearness(best[key]):
                best[key] = roof
    chosen: list[Roof] = []
    for level in sorted({level for level, _ in best}, key=level_rank):
        group = sorted((roof for (name, _), roof in best.items() if name == level), key=_op_rank)
        chosen += group[:_MOST_OPS]
    return chosen


def _op_rank(roof: Roof) -> tuple[int, str]:
    return (_OPS.index(roof.op) if roof.op in _OPS else len(_OPS), roof.op)


def _main(roofs: Sequence[Roof], level: str) -> Roof | None:
    """The roof that stands for a level: its loads, else its first op."""
    return min((roof for roof in roofs if roof.level == level), key=_op_rank, default=None)


def _figure_text(roof: Roof) -> str:
    return f"{format_value(roof.value, (roof.high - roof.low) / 2)} {roof.unit}"


def _group_text(group: Sequence[Roof]) -> str:
    """ "L1 load 502, copy 452 GB/s"."""
    figures = [f"{roof.op} {format_value(roof.value, (roof.high - roof.low) / 2)}" for roof in group]
    return f"{group[0].level} {', '.join(figures)} {group[0].unit}"


def _point_text(point: Point) -> str:
    return f"{point.name} {point.share:.0%} of {point.roof}" if point.roof else point.name
