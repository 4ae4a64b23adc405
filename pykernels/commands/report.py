"""`pykernels report RUN...`: one HTML page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pykernels.commands.common import filter_option, load_runs, output_options, print_json, run_argument, writable


@click.command()
@run_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The page (default: RUN with .html).")
@filter_option
@output_options
def report(runs: tuple[Path, ...], output: Path | None, pattern: str, as_json: bool, quiet: bool) -> int:
    """One HTML page of RUN, whole by itself: roofs, kernels, the wall, pictures, and how it was measured."""
    from pykernels.report import page

    loaded = load_runs(runs, pattern, ceilings=True)
    parts = [*page.sections(loaded), *_wall(loaded)]
    if as_json:
        print_json({part.title.lower(): part.text for part in parts})
        return 0
    target = writable(output or Path(runs[0].name).with_suffix(".html"))
    target.write_text(page.html_page(loaded, parts), encoding="utf-8")
    if not quiet:
        click.echo(f"wrote {target}", err=True)
    return 0


def _wall(runs: list[Any]) -> list[Any]:
    """The memory wall's page, for one run that holds kernels."""
    from pykernels.commands.wall import context_of, page_of
    from pykernels.report import page, wall

    if len(runs) != 1 or all(record.figure.ceiling for record in runs[0].records):
        return []
    text = wall.page_text(page_of(context_of(runs[0])), page.WIDTH)
    return [page.Section(title="The memory wall", command=f"pykernels wall {Path(runs[0].path).name}", text=text)]
