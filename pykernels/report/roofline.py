"""`pykernels roofline` as text and as pictures. Pure: an analysis in, text and files out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pykernels.analysis.hierarchy import Level
from pykernels.analysis.loaded import LoadedCurve
from pykernels.analysis.points import Point
from pykernels.analysis.roofline import Ridge, Roof, RoofDetail, Roofline
from pykernels.report.table import count, paragraph, percent, table, value_and_interval
from pykernels.units import format_size

_FURTHER = 1.5  #: capacities by bandwidth and by latency that differ by more are explained
_SHOWN = 3  #: names listed for each note, case ids for each reason of not being drawn


def text(roofline: Roofline, width: int = 100) -> str:
    """The whole answer: roofs and ridge points of each team of threads, kernels, knee loss, capacities, what is not
    drawn and why, and what went on during the run."""
    parts = [_heading(roofline, width)]
    for key, rows in _teams(roofline).items():
        parts += [_team(key, rows, width), _ridges(key, rows, roofline.ridges, width)]
    parts += [_points(roofline.detail.points, width), _fits(roofline, width)]
    parts += [
        _levels(roofline.levels, width),
        _loaded(roofline.loaded, width),
        _not_drawn(roofline, width),
        _closing(roofline, width),
    ]
    return "\n\n".join(part for part in parts if part)


def draw(roofline: Roofline, path: Path | str) -> list[Path]:
    """Write the pictures (.png or .svg by the suffix of `path`) and return their paths; see `figure.draw`."""
    from pykernels.report import figure

    pictures: list[Path] = figure.draw(roofline, Path(path))
    return pictures


def _heading(roofline: Roofline, width: int) -> str:
    machine, detail = roofline.machine, roofline.detail
    name = " ".join(machine.cpu_model.split()) or machine.arch
    facts = [name, machine.microarchitecture, count(len(machine.cores), "core")]
    facts += [gpu.name for gpu in machine.gpus] + ([f"guest of {machine.hypervisor}"] if machine.hypervisor else [])
    source = "" if detail.source == "measured" else f"   ({detail.source}, not measured)"
    return paragraph(", ".join(fact for fact in facts if fact) + source, width)


# --------------------------------------------------------------------------------------------------------------- roofs


def _teams(roofline: Roofline) -> dict[tuple[str, int, str], list[tuple[Roof, RoofDetail]]]:
    """Roofs by (domain, threads, ISA), in the order of the analysis."""
    teams: dict[tuple[str, int, str], list[tuple[Roof, RoofDetail]]] = {}
    extras = roofline.detail.roofs
    for number, roof in enumerate(roofline.roofs):
        extra = extras[number] if extras else RoofDetail(case_id="", drawn=True, stops={}, contended=0.0)
        teams.setdefault((roof.domain, roof.threads, roof.isa), []).append((roof, extra))
    return teams


def _team(key: tuple[str, int, str], rows: list[tuple[Roof, RoofDetail]], width: int) -> str:
    domain, threads, isa = key
    common = Counter((roof.scope, roof.interval, roof.launches) for roof, _ in rows).most_common(1)[0][0]
    where = domain if domain.startswith("gpu") else f"{domain}, {count(threads, 'thread')}"
    head = ", ".join(part for part in (where, isa) if part)
    labels = "/".join(dict.fromkeys(roof.label for roof, _ in rows))
    head += f"   {labels}, {_basis(*common)}"
    pages = {roof.pages for roof, _ in rows}
    dtypes = {roof.dtype for roof, _ in rows if roof.kind not in ("compute", "launch", "link")}
    shares = any(extra.share for _, extra in rows)
    cycles = any(extra.per_cycle for _, extra in rows)
    columns = ["roof", "value", "unit", "95% interval", f"best of {common[2]}"]
    core = "SM" if domain.startswith("gpu") else "core"
    allocated = any(extra.allocated for _, extra in rows)
    columns += (["moved\n(derived)"] if allocated else []) + (["of its peak"] if shares else [])
    columns += [f"per {core}\nand cycle"] if cycles else []
    lines, notes = [], []
    for roof, extra in rows:
        name = _name(roof, pages, dtypes)
        value, interval = value_and_interval(roof.value, roof.low, roof.high)
        best, _ = value_and_interval(roof.best, roof.low, roof.high)
        line = [name, value, roof.unit, interval, best]
        line += [value_and_interval(extra.allocated, roof.low, roof.high)[0] if extra.allocated else ""] * allocated
        line += [f"{percent(extra.share)} {extra.share_label}" if extra.share else ""] if shares else []
        line += [_per_cycle(roof, extra)] if cycles else []
        lines.append(line)
        notes += [(name, note) for note in _notes(roof, common)]
    right = [1, 4] + [5] * allocated + [len(columns) - 1] * cycles
    body = table(columns, lines, width, right=right)
    return "\n".join([paragraph(head, width), body, *_gathered(notes, "roofs", width)])


def _basis(scope: str, interval: str, launches: int) -> str:
    if scope == "within-process":
        return "within-process, 95% block bootstrap of 1 launch"
    whose = "this machine" if scope == "machine" else "this sitting"
    return f"{whose}, 95% {interval.replace('over', f'over {launches}' if scope != 'machine' else 'over')}"


def _name(roof: Roof, pages: set[str], dtypes: set[str]) -> str:
    """`L2 load`, `fp64 fma`, `link h2d 1 MiB`; dtype, row width and pages where they tell rows apart."""
    if roof.kind == "launch":
        return f"launch, {roof.op}"
    parts = [roof.dtype if roof.kind == "compute" else roof.level, roof.op]
    if roof.kind == "link" and roof.working_set:
        parts.append(format_size(roof.working_set // (4 if roof.op == "both" else 2)))
    elif len(dtypes) > 1 and roof.kind != "compute":
        parts.append(roof.dtype)
    if roof.row_bytes:
        parts.append(f"{format_size(roof.row_bytes)} rows")
    if len(pages) > 1 and roof.pages != "huge":
        parts.append(roof.pages)
    return " ".join(part for part in parts if part) or roof.kind


def _per_cycle(roof: Roof, extra: RoofDetail) -> str:
    if not extra.per_cycle:
        return ""
    unit = {"GB/s": "B", "GFLOP/s": "FLOP", "GOP/s": "OP"}[roof.unit]
    return f"{extra.per_cycle:.3g} {unit}"


def _notes(roof: Roof, common: tuple[str, str, int]) -> list[str]:
    notes = [flag for flag in roof.flags if flag not in ("mixture", "two regimes") and "capacity" not in flag]
    if "mixture" in roof.flags:
        more = "; no roof, no ridge" if roof.level == "DRAM" else ""
        notes.append(f"mixture: {format_size(roof.working_set)} is not well inside one level{more}")
    if roof.regimes:
        both = " and ".join(value_and_interval(mode, roof.low, roof.high)[0] for mode in roof.regimes)
        notes.append(f"two regimes: {both} {roof.unit}")
    if (roof.scope, roof.interval, roof.launches) != common:
        notes.append(_basis(roof.scope, roof.interval, roof.launches))
    return notes


# ------------------------------------------------------------------------------------------------------ everything else


def _ridges(key: tuple[str, int, str], rows: list[tuple[Roof, RoofDetail]], ridges: list[Ridge], width: int) -> str:
    """Ridge points of one team: a row for each bandwidth roof, a column for each peak."""
    domain, threads, isa = key
    device, roofs = rows[0][0].device, [roof for roof, _ in rows]
    streams = {(roof.level, roof.op) for roof in roofs if roof.kind == "bandwidth"}
    mine = [ridge for ridge in ridges if (ridge.device, ridge.threads, ridge.isa) == (device, threads, isa)]
    if domain != device:  # a mode or memory of its own: only what was measured in it
        mine = [ridge for ridge in mine if (ridge.level, ridge.op) in streams]
    if not mine:
        return ""
    peaks = list(dict.fromkeys((ridge.dtype, ridge.unit) for ridge in mine))
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for ridge in mine:
        value, interval = value_and_interval(ridge.value, ridge.low, ridge.high)
        cells.setdefault(f"{ridge.level} {ridge.op}".strip(), {})[ridge.dtype, ridge.unit] = f"{value} {interval}"
    columns = ["ridge point", *(f"{dtype} peak, {unit}" for dtype, unit in peaks)]
    return table(columns, [[name, *(row.get(peak, "") for peak in peaks)] for name, row in cells.items()], width)


def _points(points: list[Point], width: int) -> str:
    if not points:
        return ""
    rows = []
    for point in points:
        value, interval = value_and_interval(point.value, point.low, point.high)
        share = f"{percent(point.share)} [{percent(point.share_low)}, {percent(point.share_high)}]"
        team = point.device if point.device.startswith("gpu") else f"{point.domain}*{point.threads}"
        rows.append([f"{point.name} {point.dtype} {team}", f"{point.intensity:.3g}", f"{value} {point.unit}", interval,
                     share, point.roof])  # fmt: skip
    columns = ["kernel", "FLOP/B", "value", "95% interval", "share (interval)", "of its roof"]
    notes = _gathered(((point.name, flag) for point in points for flag in point.flags), "kernels", width)
    return "\n".join([table(columns, rows, width, right=(1, 2)), *notes])


def _gathered(notes: Iterable[tuple[str, str]], what: str, width: int) -> list[str]:
    """One line for each thing said, with the names it is said of, or their number where they are many."""
    said: dict[str, list[str]] = {}
    for name, text in notes:
        said.setdefault(text, []).append(name)
    lines = []
    for text, names in said.items():
        whom = ", ".join(names) if len(names) <= _SHOWN else f"{len(names)} {what}"
        lines.append(paragraph(f"! {whom}: {text}", width, indent="  "))
    return lines


def _fits(roofline: Roofline, width: int) -> str:
    if not roofline.fit:
        return ""
    rows = []
    for fit in roofline.fit:
        name = f"{fit.level} {fit.dtype}, {fit.domain}*{fit.threads} {fit.isa}"
        interval = f"[{percent(fit.low)}, {percent(fit.high)}]"
        rows.append([name, percent(fit.knee_loss), interval, str(fit.points)])
    columns = ["intensity sweep", "knee loss", "95% interval", "points"]
    return table(columns, rows, width, right=(1, 3))


def _levels(levels: list[Level], width: int) -> str:
    if not levels:
        return ""
    words = {True: "agrees", False: "DISAGREES", None: "not seen"}
    rows = [
        [level.level, format_size(level.os_bytes), _size(level.bandwidth_bytes), _size(level.chase_bytes),
         f"[{_size(level.low)}, {_size(level.high)}]" if level.high else "-", words[level.agrees]]
        for level in levels
    ]  # fmt: skip
    columns = ["capacity", "by the OS", "by bandwidth", "by latency", "bracket", ""]
    body = table(columns, rows, width)
    said = [
        paragraph(f"! {level.level} breaks between {format_size(level.low)} and {format_size(level.high)}, but the OS "
                  f"states {format_size(level.os_bytes)}{_why(level)}", width, indent="  ")
        for level in levels if level.agrees is False
    ]  # fmt: skip
    return "\n".join([body, *said])


def _why(level: Level) -> str:
    """What may be the cause where latency and bandwidth disagree: a slow walk holds less of a shared cache."""
    if not level.bandwidth_bytes or not level.chase_bytes or level.bandwidth_bytes < _FURTHER * level.chase_bytes:
        return ""
    return (
        f"; loads in a row keep {_size(level.bandwidth_bytes)}, a chase only {_size(level.chase_bytes)}: others who "
        "share the cache take from a slow walk what a fast one holds"
    )


def _loaded(curves: list[LoadedCurve], width: int) -> str:
    """A row for each curve: latency at rest, in the middle and at the most traffic that it saw."""
    rows = []
    for curve in curves:
        points = curve.points
        middle = points[-1].background_gbps / 2
        shown = {"least": points[0], "half": min(points, key=lambda p: abs(p.background_gbps - middle)),
                 "most": points[-1]}  # fmt: skip
        row = [f"{curve.level}, {curve.read}% reads, {curve.domain}*{curve.threads}"]
        for point in shown.values():
            value, interval = value_and_interval(point.value, point.low, point.high)
            row.append(f"{value} {interval} at {point.background_gbps:.3g}")
        rows.append(row)
    if not rows:
        return ""
    units = f"{curves[0].unit} at GB/s"
    columns = ["latency under load", f"least traffic,\n{units}", f"about half,\n{units}", f"most,\n{units}"]
    return table(columns, rows, width)


def _size(nbytes: int) -> str:
    return format_size(nbytes) if nbytes else "-"


def _not_drawn(roofline: Roofline, width: int) -> str:
    reasons: dict[str, list[str]] = {}
    for case in roofline.not_drawn:
        reasons.setdefault(case.reason, []).append(case.case_id)
    if not reasons:
        return ""
    lines = [f"not drawn: {len(roofline.not_drawn)}"]
    for reason, ids in sorted(reasons.items(), key=lambda item: -len(item[1])):
        lines.append(paragraph(f"{len(ids)}  {reason}", width, indent="  "))
        lines += [f"       {case_id}" for case_id in ids[:_SHOWN]]
        if len(ids) > _SHOWN:
            lines.append(f"       and {len(ids) - _SHOWN} more (--json lists them)")
    return "\n".join(lines)


def _closing(roofline: Roofline, width: int) -> str:
    """Contended share, stop reasons, and the notes of the run."""
    extras = roofline.detail.roofs
    lines = []
    if extras:
        worst = max(extras, key=lambda extra: extra.contended)
        mean = sum(extra.contended for extra in extras) / len(extras)
        if worst.contended > 0:
            most = f"{percent(worst.contended)} ({worst.case_id})"
            lines.append(f"contended samples, kept out of the values: {percent(mean)}, at most {most}")
        else:
            lines.append("contended samples: none")
        stops = Counter[str]()
        for extra in extras:
            stops.update(extra.stops)
        if stops:
            words = {"target": "interval reached its target", "budget": "time was up", "max_samples": "enough samples"}
            said = ", ".join(f"{words.get(stop, stop)} ({number})" for stop, number in stops.most_common())
            lines.append(f"visits ended because: {said}")
    lines += roofline.detail.notes
    return "\n".join(paragraph(line, width) for line in lines)
