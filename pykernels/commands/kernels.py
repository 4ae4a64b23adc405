"""`pykernels kernels RUN...`: each kernel under the roof that binds it, as a table, JSON or pictures."""

from __future__ import annotations

from pathlib import Path

import click

from pykernels.commands.common import load_runs, output_options, print_json, run_argument, width, writable


@click.command()
@run_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Pictures: .png or .svg.")
@click.option("-k", "pattern", default="", metavar="PATTERN", help="Only kernels whose id contains PATTERN.")
@output_options
def kernels(runs: tuple[Path, ...], output: Path | None, pattern: str, as_json: bool, quiet: bool) -> int:
    """Each kernel of RUN: its rates, the roof that binds it, its share of that roof, and how its peers do."""
    from pykernels import patterns
    from pykernels.analysis.kernels import analyse
    from pykernels.errors import UsageError
    from pykernels.report import kernels as report

    answer = analyse(load_runs(runs))  # ceilings stay, whatever the pattern says
    if pattern:
        chosen = set(patterns.select(pattern, [point.case_id for point in answer.points]))
        if not chosen:
            raise UsageError(f'-k "{pattern}" selects none of the {len(answer.points)} kernels of the run')
        answer.points = [point for point in answer.points if point.case_id in chosen]
    if as_json:
        print_json(answer)
    else:
        click.echo(report.text(answer, width()))
    if output:
        for picture in report.draw(answer, writable(output)):
            click.echo(f"drew {picture}", err=True)
    return 0
