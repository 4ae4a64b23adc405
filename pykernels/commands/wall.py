"""`pykernels wall ...`: the memory wall, computed, and predicted and judged from a run file where one is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pykernels.commands.common import load_runs, output_options, print_json, width, writable
from pykernels.errors import UsageError, unknown

if TYPE_CHECKING:
    from pykernels.analysis.wall.pages import Context, Page
    from pykernels.store import Run


class PageOrCommand(click.Group):
    """A group whose argument may also be a run file: `wall RUN` is the one page of that run."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A known command, or `page` with the run file as its argument."""
        first = args[0]
        if first in self.commands:
            return super().resolve_command(ctx, args)
        if first.startswith("-") or Path(first).exists() or Path(first).suffix or "/" in first:
            return "page", self.commands["page"], args
        raise unknown("command", first, [*self.commands, "RUN"], where="wall")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """With no argument, or with options of the page only, the page."""
        if not any(arg in ("-h", "--help") for arg in args[:1]) and (not args or args[0].startswith("-")):
            args = ["page", *args]
        return super().parse_args(ctx, args)


@click.group(cls=PageOrCommand, subcommand_metavar="[RUN | COMMAND] ...")
def wall() -> None:
    """The memory wall: its published claims, computed and, from a RUN, measured on this machine.

    `pykernels wall [RUN]` is one page; the commands go deeper. Every command takes --json.
    """


def _run_argument(function: Any) -> Any:
    return click.argument("run", required=False, type=click.Path(path_type=Path), metavar="[RUN]")(function)


def _picture_option(function: Any) -> Any:
    text = "Picture: .png or .svg; several get a suffix each."
    return click.option("-o", "--output", type=click.Path(path_type=Path), help=text)(function)


def _model_options(function: Any) -> Any:
    function = click.option("--batch", type=int, default=1, show_default=True, help="Sequences at a time.")(function)
    return click.option("--seq", type=int, default=None, help="Sequence length in tokens.")(function)


def _context(run: Path | None) -> Context | None:
    """The run with the roofs found in it, or None where none was given."""
    return None if run is None else context_of(load_runs((run,))[0])


def context_of(run: Run) -> Context:
    """A run in memory with the roofs found in it."""
    from pykernels.analysis.roofline import analyse
    from pykernels.analysis.wall.pages import context

    usable = [roof for roof in analyse([run]).roofs if not (roof.level == "DRAM" and "mixture" in roof.flags)]
    return context(run, usable)


def _pictures(output: Path | None, drawn: list[Path]) -> None:
    for picture in drawn:
        click.echo(f"drew {picture}", err=True)
    if output and not drawn:
        click.echo("nothing to draw without a RUN", err=True)


@wall.command()
@_run_argument
@_picture_option
@output_options
def trends(run: Path | None, output: Path | None, as_json: bool, quiet: bool) -> int:
    """Growth of compute, memory, links and models per two years, and this machine on the lines."""
    from pykernels.analysis.wall.pages import trends_page
    from pykernels.report import wall as report

    page = trends_page(_context(run))
    print_json(page) if as_json else click.echo(report.trends_text(page))
    if output:
        from pykernels.report import wall_figure

        _pictures(output, wall_figure.draw_trends(page, writable(output)))
    return 0


@wall.command()
@click.argument("model", metavar="MODEL|CONFIG.toml")
@_run_argument
@_model_options
@click.option("--dtype", default="fp32", show_default=True, help="fp32, bf16, fp16, int8 or int4 weights.")
@_picture_option
@output_options
def model(
    model: str, run: Path | None, seq: int | None, batch: int, dtype: str, output: Path | None, as_json: bool,
    quiet: bool,
) -> int:  # fmt: skip
    """FLOPs and bytes of a Transformer under two countings; with a RUN predicted and measured latency.

    MODEL: bert-base, bert-large, gpt2, gpt2-xl, gpt3, or a TOML file with kind ("encoder" or "decoder"), layers,
    hidden, heads, ffn, and optionally name, kv_heads, vocab, positions.
    """
    from pykernels.analysis.wall import transformer
    from pykernels.analysis.wall.pages import model_page
    from pykernels.report import wall as report

    config = transformer.load(model)
    transformer.check_run(seq if seq is not None else 128, batch)
    transformer.storage(dtype)
    page = model_page(config, seq=128 if seq is None else seq, batch=batch, dtype=dtype, found=_context(run))
    print_json(page) if as_json else click.echo(report.model_text(page))
    if output:
        from pykernels.report import wall_figure

        _pictures(output, wall_figure.draw_model(page, writable(output)))
    return 0


@wall.command()
@click.argument("model", default="bert-large", metavar="[MODEL|CONFIG.toml]")
@_run_argument
@_model_options
@click.option(
    "--optimizer", default="adam", show_default=True, help="sgd, sgd-m, adam, adam-8bit, adahessian, shampoo, k-fac."
)
@click.option("--precision", default="mixed", show_default=True, help="mixed (16-bit with fp32 master copy) or fp32.")
@click.option("--devices", type=int, default=1, show_default=True, help="Devices that ZeRO shards over.")
@click.option("--remat", default="none", show_default=True, help="Rematerialization: none, selective, full, sqrt.")
@click.option("--fused", is_flag=True, help="Fused attention: the scores are never stored.")
@output_options
def memory(
    model: str, run: Path | None, seq: int | None, batch: int, optimizer: str, precision: str, devices: int, remat: str,
    fused: bool, as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """Bytes of training by ZeRO stage, optimizer and rematerialization; recompute or read back with a RUN."""
    from pykernels.analysis.wall import transformer
    from pykernels.analysis.wall.pages import memory_page
    from pykernels.report import wall as report

    config = transformer.load(model)
    page = memory_page(
        config, seq=512 if seq is None else seq, batch=batch, optimizer=optimizer, precision_name=precision,
        devices=devices, policy=remat, fused=fused, found=_context(run),
    )  # fmt: skip
    print_json(page) if as_json else click.echo(report.memory_text(page))
    return 0


@wall.command()
@_run_argument
@click.option("--rows", type=int, default=4096, show_default=True, help="Outputs of the product.")
@click.option("--cols", type=int, default=4096, show_default=True, help="Inputs of the product.")
@click.option("--base", default="fp32", show_default=True, help="Format that the others are compared with.")
@output_options
def precision(run: Path | None, rows: int, cols: int, base: str, as_json: bool, quiet: bool) -> int:
    """What low precision gains a matrix product by batch: from all bytes, under the roofs, and measured."""
    from pykernels.analysis.wall.format_pages import precision_page
    from pykernels.report import wall as report

    page = precision_page(rows=rows, cols=cols, base=base, found=_context(run))
    print_json(page) if as_json else click.echo(report.precision_text(page))
    return 0


@wall.command()
@_run_argument
@click.option("--dtype", default="fp16", show_default=True, help="Stored values: fp32, bf16, fp16 or int8.")
@output_options
def sparsity(run: Path | None, dtype: str, as_json: bool, quiet: bool) -> int:
    """Traffic of pruned matrices by format and density, and where sparse stops paying: derived and measured."""
    from pykernels.analysis.wall.format_pages import sparsity_page
    from pykernels.report import wall as report

    page = sparsity_page(dtype=dtype, found=_context(run))
    print_json(page) if as_json else click.echo(report.sparsity_text(page))
    return 0


@wall.command(hidden=True)
@_run_argument
@output_options
def page(run: Path | None, as_json: bool, quiet: bool) -> int:
    """One page: kernel time left of the ridge, machine balance, and every claim with its verdict."""
    from pykernels.report import wall as report

    found = page_of(_context(run))
    print_json(found) if as_json else click.echo(report.page_text(found, width()))
    return 0


def page_of(context: Context | None) -> Page:
    """The one page, its rows on lookups answered by the crossover's claims."""
    from pykernels.analysis.wall import pages

    return pages.page(context, _lookups(context))


def _lookups(context: Context | None) -> dict[int, Any]:
    """Rows 24 and 25 as the crossover's own claims answer them, where the run holds lookups."""
    if context is None or not any(record.kernel == "embedding_bag" for record in context.run.records):
        return {}
    from pykernels.analysis import crossover

    try:
        answers = crossover.analyse([context.run]).claims
    except UsageError:  # lookups of one side only
        return {}
    rows = {24: answers[0], 25: next(c for c in answers if c.claim.startswith("tables beyond GPU memory"))}
    return {
        number: ("; ".join(claim.numbers) or "-", claim.verdict, claim.claim)
        for number, claim in rows.items()
        if claim.verdict != "not measured"
    }
