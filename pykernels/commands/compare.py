"""`pykernels compare OLD NEW`: two run files, case by case."""

from __future__ import annotations

from pathlib import Path

import click

from pykernels.commands.common import filter_option, load_runs, output_options, print_json, width

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@click.option("--history", type=FILE, multiple=True, metavar="RUN", help="Further runs of this machine; repeatable.")
@click.option(
    "--same", default=5.0, show_default=True, type=click.FloatRange(0, 100), help="Percent that is no change."
)
@click.option(
    "--fail-on", type=click.Choice(["slower", "unclear", "missing"]), multiple=True,
    help="Exit with 1 where a case has this verdict; repeatable.",
)  # fmt: skip
@filter_option
@output_options
def compare(
    old: Path, new: Path, history: tuple[Path, ...], same: float, fail_on: tuple[str, ...], pattern: str,
    as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """Verdicts faster, slower, same, unclear, missing for each case of OLD and NEW.

    With three sittings or more of the machine in --history the verdict allows for what differs from sitting to sitting;
    without them it speaks of these two sittings only.
    """
    from pykernels.analysis.compare import compare as compare_runs
    from pykernels.report.compare import text

    runs = load_runs((old, new, *history), pattern)
    answer = compare_runs(runs[0], runs[1], runs[2:], same=same / 100)
    if as_json:
        print_json(answer)
    else:
        click.echo(text(answer, width()))
    return 1 if any(answer.counts.get(verdict) for verdict in fail_on) else 0
