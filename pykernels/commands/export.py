"""`pykernels export RUN...`: records as CSV or Parquet, for other tools."""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import click

from pykernels.commands.common import filter_option, load_runs, output_options, print_json, run_argument, writable
from pykernels.errors import UsageError

_FORMATS = (".csv", ".parquet")


@click.command()
@run_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A .csv or .parquet file (default: print CSV).")
@click.option("--samples", "by_sample", is_flag=True, help="One row a sample, where the default is one row a visit.")
@filter_option
@output_options
def export(
    runs: tuple[Path, ...], output: Path | None, by_sample: bool, pattern: str, as_json: bool, quiet: bool
) -> int:
    """Records of RUN as CSV or Parquet: one row a visit, with every parameter and condition a column of its own."""
    from pykernels.report import rows as flat

    if output and output.suffix not in _FORMATS:
        raise UsageError(f"{output}: the format follows from the name; choose one that ends in {' or '.join(_FORMATS)}")
    if output:
        writable(output)
    loaded = load_runs(runs, pattern)
    rows = list(flat.samples(loaded) if by_sample else flat.visits(loaded))
    if as_json:
        print_json(rows)
        return 0
    if output is None:
        _write_csv(rows, sys.stdout)
        return 0
    _write(rows, output)
    if not quiet:
        click.echo(f"wrote {output}: {len(rows)} rows", err=True)
    return 0


def _write(rows: list[dict[str, Any]], output: Path) -> None:
    if output.suffix == ".parquet":
        _write_parquet(rows, output)
        return
    with output.open("w", newline="") as file:
        _write_csv(rows, file)


def _write_csv(rows: list[dict[str, Any]], file: IO[str]) -> None:
    from pykernels.report.rows import columns

    writer = csv.DictWriter(file, columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _write_parquet(rows: list[dict[str, Any]], output: Path) -> None:
    """Through DuckDB, which gives each column the narrowest type that holds all of it."""
    try:
        import duckdb
    except ImportError:
        raise UsageError(f"{output}: Parquet needs DuckDB; `pip install duckdb`, or export to a .csv file") from None
    with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="") as file:
        _write_csv(rows, file)
        file.flush()
        table = duckdb.connect().read_csv(file.name, header=True, sample_size=-1)
        table.write_parquet(str(output))
