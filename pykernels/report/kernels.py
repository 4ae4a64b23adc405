"""`pykernels kernels` as text and as pictures. Pure: an analysis in, text and files out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pykernels.analysis.kernels import LOOKUPS, KernelPoint, Kernels, Timed
from pykernels.report.table import paragraph, percent, table
from pykernels.units import format_value

#: cases that the time view shows
_MOST_BARS = 24


def text(answer: Kernels, width: int = 100) -> str:
    """A table for each kernel, lookups in the time view, then what is flagged and what has no roof."""
    parts = []
    for kernel in dict.fromkeys(point.kernel for point in answer.points):
        mine = [point for point in answer.points if point.kernel == kernel]
        parts.append(_table(kernel, mine, answer.details, width))
        if kernel in LOOKUPS:
            parts.append(_times(mine, answer.details, width))
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
        ])  # fmt: skip
    head = f"{kernel}   (* best implementation; best peer: its time over this one's; share paired over launches)"
    return "\n".join([paragraph(head, width), table(columns, rows, width, right=(2, 3, 4))])


def _bounds(low: float, high: float) -> str:
    return f"[{percent(low)}, {percent(high)}]" if high < 100 else f"[{percent(low)}, -]"


def _what(point: KernelPoint) -> str:
    return point.case_id.partition("[")[2].partition("]")[0]


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


# ------------------------------------------------------------------------------------------------------------- pictures


def draw(answer: Kernels, path: Path | str) -> list[Path]:
    """Write the kernels under the roofline of each dtype, and lookups in the time view (`x-time.png`)."""
    from pykernels.report import figure

    path = Path(path)
    written: list[Path] = []
    if answer.roofline is not None and any(roof.kind == "bandwidth" for roof in answer.roofline.roofs):
        written += figure.draw(answer.roofline, path)
    timed = [p for p in answer.points if answer.details[p.case_id].best and answer.details[p.case_id].terms]
    if timed:
        written.append(_draw_times(timed, answer.details, path.with_stem(f"{path.stem}-time")))
    return written


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
