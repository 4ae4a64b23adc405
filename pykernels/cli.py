"""The command line: imports only the command that was typed, and turns errors into one clear sentence."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from pykernels import __version__
from pykernels.errors import PykernelsError

#: command -> (module:function, one line of help, so that --help imports no command)
COMMANDS = {
    "machine": ("pykernels.commands.machine:machine", "What this machine says of itself: cores, caches, memory, GPUs."),
    "check": ("pykernels.commands.machine:check", "What would spoil a measurement here, each with its mend."),
    "list": ("pykernels.commands.listing:list_", "Kernels, backends, sweeps, levels that can be measured."),
    "show": ("pykernels.commands.listing:show", "One case: shapes, bytes, FLOPs, and its hot loop (--asm)."),
    "run": ("pykernels.commands.run:run", "Measure a sweep (default: quick) into a run file."),
    "roofline": ("pykernels.commands.roofline:roofline", "The measured roofs and ridge points of run files; pictures."),
    "kernels": ("pykernels.commands.kernels:kernels", "Each kernel under the roof that binds it."),
    "crossover": ("pykernels.commands.crossover:crossover", "Where a CPU beats a GPU on embedding lookups."),
    "compare": ("pykernels.commands.compare:compare", "Two run files, case by case: faster, slower, same, unclear."),
    "wall": ("pykernels.commands.wall:wall", "The memory wall, computed and measured on this machine."),
    "report": ("pykernels.commands.report:report", "One HTML page of a run file."),
    "export": ("pykernels.commands.export:export", "Records as CSV or Parquet."),
}


class LazyGroup(click.Group):
    """A click group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands whose module exists in this installation, in the order of the table."""
        return [name for name, (target, _) in COMMANDS.items() if importlib.util.find_spec(target.split(":")[0])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, or None."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest command named when there is no such one."""
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            from pykernels.errors import unknown

            raise unknown("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, from the strings above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 a requirement failed or a kernel was wrong; 2 bad input; 3 nothing measured; 130 "
    "interrupted (the run file stays valid).",
)
@click.version_option(__version__, prog_name="pykernels")
def app() -> None:
    """Measure this machine's memory wall: rooflines with intervals, kernels under them, CPU against GPU.

    Start with `pykernels run`: under a minute to this CPU's roofline.
    """


def fail(error: PykernelsError) -> NoReturn:
    """Print the error and its hint to standard error and leave with its exit code."""
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
    sys.exit(error.exit_code)


def _open_streams() -> None:
    """Give a standard stream that was closed (`2>&-`) to /dev/null, so that no file opened later takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (open until the end)


def main() -> None:
    """Entry point of the `pykernels` command."""
    _open_streams()
    try:
        code = app.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except PykernelsError as error:
        fail(error)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        sys.exit(2)
