"""`pykernels report RUN...`: one HTML page of a run."""

from __future__ import annotations

from pathlib import Path

import click

from pykernels.commands.common import filter_option, load_runs, output_options, print_json, run_argument, writable


@click.command()
@run_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The page (default: RUN with .html).")
@filter_option
@output_options
def report(runs: tuple[Path, ...], output: Path | None, pattern: str, as_json: bool, quiet: bool) -> int:
    """One HTML page of RUN, whole by itself: roofs, kernels under them, pictures, and how it was measured."""
    from pykernels.report import page

    loaded = load_runs(runs, pattern)
    if as_json:
        print_json({part.title.lower(): part.text for part in page.sections(loaded)})
        return 0
    target = writable(output or Path(runs[0].name).with_suffix(".html"))
    target.write_text(page.html_page(loaded), encoding="utf-8")
    if not quiet:
        click.echo(f"wrote {target}", err=True)
    return 0
