"""`pykernels roofline RUN...`: the roofs and ridge points of run files, as a table, JSON, CSV or pictures."""

from __future__ import annotations

from pathlib import Path

import click

from pykernels.commands.common import (
    filter_option,
    load_runs,
    output_options,
    print_json,
    run_argument,
    width,
    writable,
)


@click.command()
@run_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Picture: .png or .svg, one per dtype.")
@filter_option
@output_options
def roofline(runs: tuple[Path, ...], output: Path | None, pattern: str, as_json: bool, quiet: bool) -> int:
    """The measured roofs and ridge points of RUN, each with its interval; pictures with -o."""
    from pykernels.analysis.roofline import analyse
    from pykernels.report import roofline as report

    answer = analyse(load_runs(runs, pattern))
    if as_json:
        print_json(answer)
    else:
        click.echo(report.text(answer, width()))
    if output:
        for picture in report.draw(answer, writable(output)):
            click.echo(f"drew {picture}", err=True)
    return 0
