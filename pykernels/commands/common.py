"""Options and output that the commands share: --json to standard output, everything else to standard error."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pykernels.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def output_options(function: F) -> F:
    """--json and --quiet."""
    function = click.option("--json", "as_json", is_flag=True, help="Data as JSON on standard output.")(function)
    return click.option("--quiet", "-q", is_flag=True, help="No progress and no advice.")(function)


def filter_option(function: F) -> F:
    """-k PATTERN."""
    text = "Only cases whose id contains PATTERN (`*` is a wildcard, brackets are literal) or has that hash."
    return click.option("-k", "pattern", default="", metavar="PATTERN", help=text)(function)


def run_argument(function: F, *, name: str = "runs", nargs: int = -1) -> F:
    """One or more run files."""
    kind = click.Path(path_type=Path)
    return click.argument(name, nargs=nargs, type=kind, required=True, metavar="RUN" + ("..." if nargs < 0 else ""))(
        function
    )


def print_json(value: Any) -> None:
    """A value (structs included) as indented JSON on standard output."""
    import msgspec

    encoded = msgspec.json.encode(value, enc_hook=_plain)
    sys.stdout.write(msgspec.json.format(encoded, indent=2).decode() + "\n")


def _plain(value: Any) -> Any:
    item = getattr(value, "item", None)  # NumPy scalars
    if callable(item):
        return item()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def width() -> int:
    """Columns of the terminal; where there is none, what COLUMNS says, else 100."""
    return shutil.get_terminal_size((100, 24)).columns


def select_records(runs: list[Any], pattern: str, *, ceilings: bool = False) -> None:
    """Keep in each run only the records that -k selects; with `ceilings` those too that others are held against. Raises
    UsageError where none is selected."""
    from pykernels import patterns

    if not pattern:
        return
    ids = list(dict.fromkeys(record.case_id for run in runs for record in run.records))
    chosen = set(patterns.select(pattern, ids))
    if not chosen:
        raise UsageError(f'-k "{pattern}" selects none of the {len(ids)} cases of the run')
    for run in runs:
        run.records = [
            record for record in run.records if record.case_id in chosen or (ceilings and record.figure.ceiling)
        ]


def load_runs(paths: tuple[Path, ...], pattern: str = "", *, ceilings: bool = False) -> list[Any]:
    """Run files with their warnings said aloud, filtered by -k; see `select_records`."""
    from pykernels.store import load_run

    runs = [load_run(path) for path in paths]
    for run in runs:
        for warning in run.warnings:
            click.echo(f"warning: {warning}", err=True)
    select_records(runs, pattern, ceilings=ceilings)
    return runs


def writable(path: Path) -> Path:
    """The path, after making sure that a file can be written there. Raises UsageError."""
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"{path}: the folder {folder} does not exist")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file in it")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(f"{path}: cannot be written (no permission, or a read-only mount); choose another -o")
    return path
