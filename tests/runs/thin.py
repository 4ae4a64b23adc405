"""Makes a fixture of a run file: the cases that match, every visit kept, its samples thinned and rounded.

    python tests/runs/thin.py RUN OUT [-k PATTERN ...] [--samples 9]

Every n-th sample of a visit stays, its calls per sample and its outcome as they are; facts that no analysis reads go.
Medians move by what the other samples would have said: a fixture is for tests, not for figures to quote.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import msgspec

from pykernels.model import Disturbed, Measured, Record
from pykernels.patterns import select
from pykernels.store import RunWriter, load_run

LISTS = ("samples_s", "cpu_over_wall", "involuntary_switches", "clock_ghz", "start_skew_s", "host_s")
#: facts of a record that analyses read
READ = (
    "allocatable_bytes", "alpha", "dim", "hit_share", "joules_per_call", "latency", "pooling", "rows", "served",
    "tables", "tlb_reach_bytes",
)  # fmt: skip


def rounded(value: Any) -> Any:
    """Floats to five digits."""
    return float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else value


def thinned(record: Record, most: int) -> Record:
    """The record with at most so many samples."""
    facts = {name: value for name, value in record.conditions.facts.items() if name in READ}
    latency = facts.get("latency")
    if isinstance(latency, dict):
        facts["latency"] = {name: value for name, value in latency.items() if name.endswith("_us")}
    conditions = msgspec.structs.replace(record.conditions, facts=facts)
    outcome = record.outcome
    if isinstance(outcome, Measured | Disturbed):
        step = max(1, math.ceil(len(outcome.samples_s) / most))
        kept = {name: [rounded(value) for value in getattr(outcome, name)[::step]] for name in LISTS}
        kept["involuntary_switches"] = []
        outcome = msgspec.structs.replace(outcome, **kept)
    return msgspec.structs.replace(record, conditions=conditions, outcome=outcome)


def main() -> None:
    """Write the fixture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("-k", action="append", default=[])
    parser.add_argument("--samples", type=int, default=9)
    asked = parser.parse_args()
    run = load_run(asked.run)
    ids = list(dict.fromkeys(record.case_id for record in run.records))
    chosen = {case_id for pattern in asked.k for case_id in select(pattern, ids)} if asked.k else set(ids)
    with RunWriter(asked.out, run.header) as writer:
        for record in run.records:
            if record.case_id in chosen:
                writer.write(thinned(record, asked.samples))
        writer.finish()
    print(f"{asked.out}: {len(chosen)} cases, {asked.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
