"""What a user takes away from a run: rows for other tools, and one page to mail."""

from __future__ import annotations

import csv
import io
import json
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
from command import Cli

RUN = Path(__file__).parents[1] / "runs" / "epyc-zen4-quick.jsonl"


def _records() -> list[dict[str, object]]:
    lines = [json.loads(line) for line in RUN.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "record"]


def test_export_prints_one_row_a_visit(cli: Cli) -> None:
    result = cli("export", RUN)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    records = _records()
    assert len(rows) == len(records)
    first, record = rows[0], records[0]
    assert first["case_id"] == record["case_id"]
    assert first["status"] == record["outcome"]["status"]  # type: ignore[index]
    assert {"value", "unit", "time_s", "param_op", "cpu_model", "bytes_requested"} <= first.keys()
    fma = next(row for row in rows if row["kernel"] == "fma")
    assert float(fma["value"]) == pytest.approx(float(fma["flops"]) / float(fma["time_s"]) * 1e-9)


def test_export_of_samples_agrees_with_the_file(cli: Cli) -> None:
    rows = json.loads(cli("export", RUN, "--samples", "--json").stdout)
    records = _records()
    counted = [record["outcome"].get("samples_s", []) for record in records]  # type: ignore[attr-defined]
    assert [row["time_s"] for row in rows] == [seconds for samples in counted for seconds in samples]


def test_export_writes_csv_and_parquet(cli: Cli, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    for name in ("run.csv", "run.parquet"):
        result = cli("export", RUN, "-k", "op=load", "-o", name)
        assert result.returncode == 0, result.stderr
        assert f"wrote {name}" in result.stderr
    read = duckdb.connect()
    values = [
        read.sql(f"select value from '{tmp_path / name}' where value is not null order by case_id, launch, round")
        for name in ("run.csv", "run.parquet")
    ]
    assert values[0].fetchall() == values[1].fetchall()
    assert statistics.median(value for (value,) in values[1].fetchall()) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", RUN, "-o", "run.xlsx"), "ends in .csv or .parquet"),
        (("export", "none.jsonl"), "none.jsonl"),
        (("export", RUN, "-o", "nowhere/run.csv"), "folder nowhere does not exist"),
        (("report", RUN, "-o", "nowhere/run.html"), "folder nowhere does not exist"),
        (("report", RUN, "-k", "no such case"), "selects none"),
    ],
)
def test_bad_input_is_a_sentence(cli: Cli, arguments: tuple[object, ...], message: str) -> None:
    result = cli(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.images: list[str] = []
        self.outside: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href") and value:
                (self.images if value.startswith("data:image/svg+xml") else self.outside).append(value)


def test_the_page_stands_alone(cli: Cli, tmp_path: Path) -> None:
    result = cli("report", RUN)
    assert result.returncode == 0, result.stderr
    page = _Page()
    page.feed((tmp_path / "epyc-zen4-quick.html").read_text())
    text = "".join(page.words)
    for expected in ("AMD EPYC", "ridge point", "How it was measured", "GNU 12", "95% interval"):
        assert expected in text
    assert len(page.images) == 3  # fp32, fp64, and how both threads scale
    assert all(link.startswith("#") for link in page.outside)
    assert "The memory wall" not in text  # the run holds no kernel
    shown = json.loads(cli("report", RUN, "--json").stdout)
    assert shown["roofs"] in text


def test_kernels_chosen_for_the_page_keep_their_roofs(cli: Cli) -> None:
    star = RUN.with_name("epyc-zen4-recsys.jsonl")
    result = cli("report", star, "-k", "workload=WnD", "--json")
    assert result.returncode == 0, result.stderr
    shown = json.loads(result.stdout)
    assert "DRAM load" in shown["roofs"]
    assert "workload=WnD" in shown["kernels"]
    assert "workload=RM1" not in shown["kernels"]
