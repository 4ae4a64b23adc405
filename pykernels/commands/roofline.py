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
@click.option("--uncertainty", is_flag=True, help="The uncertainty budget of one roof (choose it with -k).")
@filter_option
@output_options
def roofline(
    runs: tuple[Path, ...], output: Path | None, uncertainty: bool, pattern: str, as_json: bool, quiet: bool
) -> int:
    """The measured roofs and ridge points of RUN, each with its interval; pictures with -o.

    Several runs of one machine are taken together; three sittings hours apart give the scope `machine`.
    """
    from pykernels.analysis.roofline import analyse
    from pykernels.report import roofline as report

    if uncertainty:
        return _uncertainty(runs, pattern, as_json)
    answer = analyse(load_runs(runs, pattern))
    if as_json:
        print_json(answer)
    else:
        click.echo(report.text(answer, width()))
    if output:
        for picture in report.draw(answer, writable(output)):
            click.echo(f"drew {picture}", err=True)
    return 0


def _uncertainty(runs: tuple[Path, ...], pattern: str, as_json: bool) -> int:
    from pykernels.analysis.uncertainty import uncertainty
    from pykernels.report.uncertainty import text

    budget = uncertainty(load_runs(runs, pattern))
    if as_json:
        print_json(budget)
    else:
        click.echo(text(budget, width()))
    return 0
