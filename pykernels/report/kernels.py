"""`pykernels kernels` as text and as pictures. Pure: an analysis in, text and files out."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from pykernels.analysis.common import isa_rank
from pykernels.analysis.kernels import KernelPoint, Kernels, Timed
from pykernels.analysis.points import Point
from pykernels.analysis.roofline import Roofline
from pykernels.analysis.terms import LOOKUPS
from pykernels.report.table import paragraph, percent, table
from pykernels.units import format_value

#: cases that the time view shows, and points that a picture numbers
_MOST_BARS, _MOST_POINTS = 24, 36


def text(answer: Kernels, width: int = 100) -> str:
    """A table for each kernel, lookups in the time view, then what is flagged and what has no roof."""
    parts = []
    for kernel in dict.fromkeys(point.kernel for point in answer.points):
        mine = [point for point in answer.points if point.kernel == kernel]
        parts.append(_table(kernel, mine, answer.details, width))
        if kernel in LOOKUPS:
            parts.append(_times(mine, answer.details, width))
    if levels := _levels(answer.points, width):
        parts.append(levels)
    bare = [point.case_id for point in answer.points if point.roof is None]
    if bare:
        lines = [f"no roof: {len(bare)}, as the run holds no ceiling for their device, threads and dtype"]
        parts.append("\n".join([*lines, *(f"  {case_id}" for case_id in bare[:5])]))
    if answer.flags:
        parts.append("\n".join(paragraph(f"! {flag}", width) for flag in answer.flags))
    return "\n\n".join(parts)


def _table(kernel: str, points: list[KernelPoint], details: dict[str, Timed], width: int) -> str:
    lookups = kernel in LOOKUPS
    rate = "M lookups/s" if lookups else "GFLOP/s"
    columns = ["case", "by", rate, "GB/s", "FLOP/B", "share of its roof", "roof", "best peer"]
    on_gpu = any(point.host_s for point in points)  # two clocks, never one figure
    columns += ["us on\ndevice", "us for\nhost"] if on_gpu else []
    rows = []
    for point in points:
        detail = details[point.case_id]
        value = point.lookups_per_s * 1e-6 if lookups else point.gflops
        share = f"{percent(point.share)} {_bounds(point.low, point.high)}" if point.roof else "-"
        peer = f"{point.peer_ratio:.2f}x {detail.peer}" if point.peer_ratio else ""
        rows.append([
            f"{_what(point)} *{point.threads}", f"{'* ' if detail.best else ''}{point.backend}/{point.variant}",
            format_value(value), format_value(point.gbps), f"{point.intensity:.3g}", share,
            detail.terms[0].name if detail.terms else "", peer,
            *([format_value(point.time_s * 1e6), format_value(point.host_s * 1e6) if point.host_s else ""]
              if on_gpu else []),
        ])  # fmt: skip
    head = f"{kernel}   (* best implementation; best peer: its time over this one's; share paired over launches)"
    return "\n".join([paragraph(head, width), table(columns, rows, width, right=(2, 3, 4, 8, 9))])


def _bounds(low: float, high: float) -> str:
    return f"[{percent(low)}, {percent(high)}]" if high < 100 else f"[{percent(low)}, -]"


def _what(point: KernelPoint) -> str:
    """The parameters of its id, parted so that a narrow column breaks between them."""
    return point.case_id.partition("[")[2].partition("]")[0].replace(",", " ")


def _times(points: list[KernelPoint], details: dict[str, Timed], width: int) -> str:
    """Milliseconds of a call against the terms of its roof."""
    rows = []
    for point in points:
        terms = details[point.case_id].terms
        if details[point.case_id].best and terms:
            said = ", ".join(f"{term.name} {format_value(term.seconds * 1e3)}" for term in terms)
            rows.append([f"{_what(point)} *{point.threads}", format_value(point.time_s * 1e3), said])
    if not rows:
        return ""
    return table(["lookups in the time view", "ms a call", "ms that its terms allow"], rows, width, right=(1,))


def _levels(points: list[KernelPoint], width: int) -> str:
    """What each ISA level buys: the best of its implementations against that of the level before it."""
    best: dict[str, dict[str, KernelPoint]] = {}
    for point in points:
        if point.backend == "native":
            levels = best.setdefault(f"{point.kernel} {_what(point)} *{point.threads}", {})
            if point.isa not in levels or point.time_s < levels[point.isa].time_s:
                levels[point.isa] = point
    rows = []
    for what, levels in best.items():
        ordered = sorted(levels, key=isa_rank)
        for before, isa in pairwise(["", *ordered] if len(ordered) > 1 else []):
            point = levels[isa]
            gain = f"{levels[before].time_s / point.time_s:.2f}x {before}" if before else ""
            rows.append(["" if before else what, isa, format_value(point.gflops), gain])
    if not rows:
        return ""
    return table(["what an ISA level buys", "level", "GFLOP/s", "over the level before"], rows, width, right=(2,))


# ------------------------------------------------------------------------------------------------------------- pictures


def draw(answer: Kernels, path: Path | str) -> list[Path]:
    """Write the kernels under the roofline of each dtype (`x-fp32.png`, ...; just `x.png` for one) and lookups, or all
    kernels where there are none, in the time view (`x-time.png`). Returns the paths."""
    path = Path(path)
    written: list[Path] = []
    roofline = answer.roofline
    if roofline is not None:
        peaks = {roof.dtype for roof in roofline.roofs if roof.kind == "compute"}
        dtypes = [d for d in dict.fromkeys(point.dtype for point in roofline.detail.points) if d in peaks]
        for dtype in dtypes:
            target = path.with_stem(f"{path.stem}-{dtype}") if len(dtypes) > 1 else path
            written.append(_draw_roofs(roofline, dtype, target))
    timed = [p for p in answer.points if answer.details[p.case_id].best and answer.details[p.case_id].terms]
    if timed:
        written.append(_draw_times(timed, answer.details, path.with_stem(f"{path.stem}-time")))
    return written


def _draw_roofs(roofline: Roofline, dtype: str, path: Path) -> Path:
    """The roofs of one dtype, a row for each team of threads: numbered points, and beside them what each number is."""
    from pykernels.report.figure import Panel
    from pykernels.report.plot import INK, new_figure, save

    teams = list(dict.fromkeys((p.domain, p.threads) for p in roofline.detail.points if p.dtype == dtype))
    figure, axes = new_figure(14.5, 5.6 * len(teams), len(teams), 2)
    name = " ".join(roofline.machine.cpu_model.split()) or roofline.machine.arch
    figure.suptitle(f"kernels under the {dtype} roofline, {name}", fontsize=10, color=INK)
    panels, keys = [], []
    for row, team in enumerate(teams):
        mine = [p for p in roofline.detail.points if (p.domain, p.threads) == team and p.dtype == dtype]
        mine.sort(key=lambda p: (p.name.split()[0], p.intensity, p.value))
        numbered = [
            msgspec.structs.replace(point, name=str(number), roof="")
            for number, point in enumerate(mine[:_MOST_POINTS], 1)
        ]
        detail = msgspec.structs.replace(roofline.detail, points=numbered, sweeps=[])
        shown = msgspec.structs.replace(roofline)
        shown.__dict__["detail"] = detail
        panel = Panel(figure, axes[2 * row], shown, dtype, team)
        panel.lines()
        panels.append(panel)
        keys.append((axes[2 * row + 1], mine))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for panel, (beside, mine) in zip(panels, keys, strict=True):
        panel.labels()
        _key(beside, mine)
    return save(figure, path)


def _key(axes: Any, points: list[Point]) -> None:
    """What each number of a picture is, with its share of its roof."""
    from pykernels.report.plot import INK

    axes.set_axis_off()
    lines = [
        f"{number:2d}  {point.name}: {percent(point.share)} of {point.roof}"
        if point.roof
        else f"{number:2d}  {point.name}"
        for number, point in enumerate(points[:_MOST_POINTS], 1)
    ]
    if len(points) > _MOST_POINTS:
        lines.append(f"and {len(points) - _MOST_POINTS} more in the table")
    axes.text(0, 1, "\n".join(lines), transform=axes.transAxes, fontsize=7.5, va="top", family="monospace", color=INK)


def _draw_times(points: list[KernelPoint], details: dict[str, Timed], path: Path) -> Path:
    """A bar for each kernel's time, and a mark for each term of its roof."""
    from pykernels.report.plot import INK, MARKERS, SERIES, new_figure, plain_ticks, save

    lookups = [point for point in points if point.kernel in LOOKUPS]
    shown = (lookups or points)[:_MOST_BARS]
    figure, (axes,) = new_figure(8.5, 1.4 + 0.3 * len(shown))
    names = list(dict.fromkeys(_kind(term.name) for point in shown for term in details[point.case_id].terms))
    places = range(len(shown))
    axes.barh(places, [point.time_s * 1e3 for point in shown], color="#dddddd", height=0.62, label="measured", zorder=2)
    for number, name in enumerate(names):
        xs, ys = _marks(shown, details, name)
        axes.plot(
            xs, ys, MARKERS[number % len(MARKERS)], color=SERIES[number % len(SERIES)], ms=6, label=name, zorder=4
        )
    axes.set_yticks(list(places), [f"{point.kernel} {_what(point)} *{point.threads}" for point in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    plain_ticks(axes.xaxis)
    axes.set_xlabel("ms a call: measured (bar), and what each term of its roof allows (marks)", fontsize=9, color=INK)
    axes.legend(fontsize=8, frameon=False, ncols=min(4, len(names) + 1), loc="lower left", bbox_to_anchor=(0, 1))
    return save(figure, path)


def _kind(name: str) -> str:
    """Of "DRAM gather 256 B rows": "gather"; several levels are one kind."""
    if "row rate" in name:
        return "row rate"
    words = name.split(" + ")[0].split()
    return words[1] if len(words) > 1 and words[0] in ("L1", "L2", "L3", "L4", "DRAM") else words[0]


def _marks(points: list[KernelPoint], details: dict[str, Timed], name: str) -> tuple[list[Any], list[Any]]:
    found = [
        (term.seconds * 1e3, row)
        for row, point in enumerate(points)
        for term in details[point.case_id].terms
        if _kind(term.name) == name
    ]
    return [x for x, _ in found], [y for _, y in found]
