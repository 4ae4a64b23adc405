"""A run on one HTML page that stands alone: what the commands print, and their pictures, in a file to mail or keep."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pykernels.errors import PykernelsError
from pykernels.store import Run

#: columns of the text on the page
WIDTH = 112

_STYLE = """
body { margin: 2.5rem auto; max-width: 62rem; padding: 0 1.5rem; font: 15px/1.5 system-ui, sans-serif; color: #1d2733; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.4rem }
nav a { margin-right: 1.2rem } a { color: #1f5fa8 } .note { color: #5a6675 }
pre { font: 12.5px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; background: #f6f8fa; padding: .9rem 1rem;
      border-radius: 6px; overflow-x: auto } img { display: block; max-width: 100%; margin: 1rem auto }
table.facts td { padding: .1rem 1.2rem .1rem 0; vertical-align: top } table.facts td:first-child { color: #5a6675 }
@media print { pre { white-space: pre-wrap; font-size: 8.5px } nav { display: none } img { break-inside: avoid } }
"""


class Section(msgspec.Struct, kw_only=True):
    """A heading, the command that prints the same, its text, and its pictures as SVG."""

    title: str
    command: str
    text: str
    pictures: list[bytes] = []


def sections(runs: Sequence[Run]) -> list[Section]:
    """What can be said of the runs: roofs always, kernels where the runs hold some. Raises UsageError as the analyses
    do for runs that cannot be taken together."""
    from pykernels.analysis.kernels import analyse as place
    from pykernels.analysis.roofline import analyse as trace
    from pykernels.report import kernels, roofline

    files = " ".join(Path(run.path).name for run in runs)
    traced = trace(runs)
    found = [
        Section(title="Roofs", command=f"pykernels roofline {files}", text=roofline.text(traced, WIDTH),
                pictures=_pictures(lambda path: roofline.draw(traced, path)))
    ]  # fmt: skip
    if any(not record.figure.ceiling for run in runs for record in run.records):
        placed = place(runs)
        found.append(
            Section(title="Kernels", command=f"pykernels kernels {files}", text=kernels.text(placed, WIDTH),
                    pictures=_pictures(lambda path: kernels.draw(placed, path)))
        )  # fmt: skip
    return found


def html_page(runs: Sequence[Run], parts: Sequence[Section]) -> str:
    """The page of these runs with these sections."""
    machine = runs[0].header.machine
    name = " ".join(machine.cpu_model.split()) or machine.arch
    links = "".join(f'<a href="#{_anchor(part)}">{html.escape(part.title)}</a>' for part in parts)
    body = "\n".join(_section(part) for part in parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>pykernels: {html.escape(name)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>\n'
        f"<h1>{html.escape(name)}</h1>\n{_facts(runs)}\n<nav>{links}<a href='#how'>How it was measured</a></nav>\n"
        f"{body}\n{_how(runs)}\n</body></html>\n"
    )


def _section(part: Section) -> str:
    pictures = "\n".join(_image(picture, part.title) for picture in part.pictures)
    text = html.escape(part.text)
    return (
        f'<h2 id="{_anchor(part)}">{html.escape(part.title)}</h2>\n'
        f'<p class="note"><code>{html.escape(part.command)}</code></p>\n{pictures}\n<pre>{text}</pre>'
    )


def _anchor(part: Section) -> str:
    return part.title.lower().replace(" ", "-")


def _image(svg: bytes, title: str) -> str:
    data = base64.b64encode(svg).decode()  # an image of its own: the ids inside two inlined SVGs would clash
    return f'<img alt="{html.escape(title)}" src="data:image/svg+xml;base64,{data}">'


def _pictures(draw: Callable[[Path], list[Path]]) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return [path.read_bytes() for path in draw(Path(folder) / "picture.svg")]
        except PykernelsError:  # nothing to draw: the text says why
            return []


def _facts(runs: Sequence[Run]) -> str:
    header = runs[0].header
    machine = header.machine
    rows = [("machine", f"{machine.id}; {machine.microarchitecture}, {len(machine.cores)} cores, {machine.arch}")]
    rows += [("GPU", f"gpu:{gpu.index} {gpu.name}") for gpu in machine.gpus]
    rows += [("runs", "; ".join(f"{Path(run.path).name}: {_run(run)}" for run in runs))]
    rows += [("data", "measured" if header.source == "measured" else f"{header.source}: NOT MEASURED")]
    return _table(rows)


def _run(run: Run) -> str:
    header = run.header
    end = "" if run.footer and not run.footer.interrupted else ", unfinished"
    return f"sweep {header.sweep_name}, {header.launches} launches of {header.rounds}, {header.started}{end}"


def _how(runs: Sequence[Run]) -> str:
    header = runs[0].header
    machine = header.machine
    rows = [
        ("pykernels", f"{header.pykernels}, run-file schema {header.schema}, seed {header.seed}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in header.versions.items() if version)),
        ("compiler", header.compiler), ("system", f"{machine.distribution}, Linux {machine.kernel}, {machine.libc}"),
        ("settings", f"governor {machine.governor or 'not readable'}, huge pages {machine.huge_pages or 'none'}, "
                     f"{'a guest of ' + machine.hypervisor if machine.hypervisor else 'no hypervisor seen'}"),
        ("environment", ", ".join(f"{name}={value}" for name, value in header.environment.items()) or "nothing set"),
    ]  # fmt: skip
    words = "Values are centres over launches (fresh processes), in brackets 95% intervals; contended samples are left "
    words += "out and counted. Every kernel was checked against its reference before and after timing."
    return f'<h2 id="how">How it was measured</h2>\n<p>{words}</p>\n{_table(rows)}'


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><td>{html.escape(a)}</td><td>{html.escape(b)}</td></tr>" for a, b in rows if b)
    return f'<table class="facts">{lines}</table>'
