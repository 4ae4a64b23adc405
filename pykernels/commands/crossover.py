"""`pykernels crossover RUN [RUN2]`: where the CPU beats the GPU for lookups, and where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pykernels.commands.common import filter_option, load_runs, output_options, print_json, width, writable
from pykernels.errors import UsageError

FILE = click.Path(path_type=Path)


def _share(_: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A share such as "5%" or 0.05."""
    if value is None:
        return None
    try:
        share = float(value.rstrip("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        raise UsageError(f'--{param.name} "{value}": write a share such as 5% or 0.05') from None
    if not 0 <= share <= 1:
        raise UsageError(f'--{param.name} "{value}": a share lies between 0% and 100%')
    return share


@click.command()
@click.argument("run", type=FILE, metavar="RUN")
@click.argument("run2", type=FILE, required=False, metavar="[RUN2]")
@click.option("--against", default="", metavar="SLUG", help="Project a GPU of the hardware table; nothing is measured.")
@click.option("--link", "link_gbs", type=float, metavar="GB/s", help="Its host link, nominal GB/s per direction.")
@click.option("--launch-floor", type=float, default=10.0, show_default=True, metavar="US", help="Assumed launch floor.")
@click.option("--link-share", default="85%", callback=_share, show_default=True, help="Assumed share of the link.")
@click.option("--hbm-share", default="80%", callback=_share, show_default=True, help="Assumed gather share of memory.")
@click.option("--spread", default="20%", callback=_share, show_default=True, help="How far each assumption may be off.")
@click.option("--modelled", is_flag=True, help="Fit the recorded GPU side and predict it, inside its range.")
@click.option("--axis", "axes", multiple=True, help="batch, table, pooling, row_bytes, skew, threads, link, hit.")
@click.option("--ends", multiple=True, metavar="host|device", help="Where results are wanted (default: both).")
@click.option("--metric", "metrics", multiple=True, help="saturated, p50, p99, served, energy (default: all recorded).")
@click.option("--band", default="5%", callback=_share, show_default=True, help="Times this near are a tie.")
@click.option("--per", type=click.Choice(["device", "watt", "dollar"]), default="device", show_default=True)
@click.option("--prices", type=FILE, help="Your own dated prices (TOML), for --per dollar.")
@click.option(
    "--claims", is_flag=True, help="The claim that CPUs win on lookups, in four parts: yes, no, not measured."
)
@click.option("-o", "--output", type=FILE, help="Pictures: NAME.png or NAME.svg becomes NAME-lines, -terms and -map.")
@filter_option
@output_options
def crossover(
    run: Path,
    run2: Path | None,
    output: Path | None,
    pattern: str,
    as_json: bool,
    quiet: bool,
    claims: bool,
    **asked: Any,
) -> int:
    """Where a CPU beats a GPU on embedding lookups: RUN's CPU against RUN's GPU, RUN2's, or a datasheet's."""
    from pykernels.analysis.crossover import analyse
    from pykernels.report import crossover as report

    paths = (run,) if run2 is None else (run, run2)
    answer = analyse(load_runs(paths, pattern), options_of(**asked))
    if as_json:
        print_json({name: getattr(answer, name) for name in _written(claims)})
    else:
        click.echo(report.text(answer, width(), with_claims=claims))
    if output:
        from pykernels.report import crossover_figure

        for picture in crossover_figure.draw(answer, writable(output)):
            if not quiet:
                click.echo(f"drew {picture}", err=True)
    return 0


def _written(claims: bool) -> tuple[str, ...]:
    """What --json holds; drawing data stays out of it."""
    names = ("answers", "cells", "break_even", "cpu", "gpu", "source", "assumptions", "fit", "not_compared")
    return (*names, "claims") if claims else names


def options_of(
    *, axes: tuple[str, ...], ends: tuple[str, ...], metrics: tuple[str, ...], band: float, per: str, against: str,
    link_gbs: float | None, launch_floor: float, link_share: float, hbm_share: float, spread: float, modelled: bool,
    prices: Path | None,
) -> Any:  # fmt: skip
    """The analysis's options from the command line's. Raises UsageError for what contradicts itself."""
    from pykernels.analysis.crossover import Assumptions, Options
    from pykernels.analysis.crossover.cells import METRICS
    from pykernels.analysis.crossover.prices import load_prices
    from pykernels.errors import unknown

    known = {*METRICS, *(metric.split("@")[0] for metric in METRICS)}
    for metric in metrics:
        if metric not in known:
            raise unknown("metric", metric, known)
    if against and modelled:
        raise UsageError("--against projects a datasheet and --modelled fits a recorded run: give one of them")
    if link_gbs is not None and not against:
        raise UsageError("--link belongs to a projection: give --against SLUG too")
    assumptions = Assumptions(
        launch_us=launch_floor, link_share=link_share, hbm_share=hbm_share, spread=spread, link_gbs=link_gbs
    )
    return Options(
        axes=axes,
        ends=ends or ("host", "device"),
        metrics=metrics,
        band=band,
        per=per,  # type: ignore[arg-type]
        against=against,
        assumptions=assumptions,
        prices=load_prices(prices) if prices else {},
        modelled=modelled,
    )
