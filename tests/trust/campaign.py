"""The real counterpart of the table of trust: on this machine, how often does the interval of five launches hold what
many launches of the same sitting say?

    python tests/trust/campaign.py --minutes 8 [--sittings 3] [--gap 240] [-o FOLDER] [--lock FILE]

Every sitting is measured twice in turn: with the machine as it is (`quiet`, though nothing makes it so), and beside a
competing process that this script starts (`--competitor bursts`: a fifth of the time on a CPU; `busy`: all of it) and
that ends by itself. The truth of a sitting is the median of all its launches; five of them are a window. `in random
order`: the same with windows of five drawn anywhere in the sitting, which tells a machine that changes from minute to
minute from intervals that are too narrow. A window beside the competitor is also judged by the sitting's quiet value.
`--analyse FOLDER` prints the table of runs that are already there.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pykernels.measure import stats
from pykernels.model import Disturbed, Measured
from pykernels.store import load_run
from pykernels.units import higher_is_better

WINDOW = 5
DRAWN = 400
SWEEP = """pykernels = 1
title = "A few ceilings, many launches"
budget = "1 h"
launches = 1000
dram_factor = 4
[[study]]
kernel = "stream"
op = "load"
level = ["L1", "L2", "L3", "DRAM"]
dtype = "fp32"
threads = [1, "all"]
[[study]]
kernel = "fma"
dtype = "fp32"
threads = [1, "all"]
"""
#: busy this long out of that long; the bound on its life is the first argument, in seconds
COMPETITOR = """
import sys, time
end, busy, period = time.monotonic() + float(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
while time.monotonic() < end:
    stop = time.monotonic() + busy
    while time.monotonic() < stop:
        pass
    time.sleep(max(period - busy, 0))
"""
COMPETITORS = {"bursts": ("0.01", "0.05"), "busy": ("0.05", "0.05")}


def measure(folder: Path, options: argparse.Namespace) -> None:
    """All sittings, quiet and beside the competitor, each in a hold of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep = folder / "campaign.toml"
    sweep.write_text(SWEEP, encoding="utf-8")
    seconds = 60 * options.minutes / options.sittings / 2
    for sitting in range(options.sittings):
        if sitting:
            time.sleep(options.gap)
        for condition in ("quiet", options.competitor):
            path = folder / f"{sitting}-{condition}.jsonl"
            if not path.exists():  # what an earlier call measured stands
                with _held(options.lock):
                    _one(sweep, path, condition, seconds)


@contextlib.contextmanager
def _held(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _one(sweep: Path, path: Path, condition: str, seconds: float) -> None:
    """Launches until the time is up."""
    rival = None
    if condition in COMPETITORS:
        rival = subprocess.Popen([sys.executable, "-c", COMPETITOR, str(seconds + 5), *COMPETITORS[condition]])
    start = "from pykernels.cli import main; main()"
    words = ["run", str(sweep), "-o", str(path), "--quiet", "--no-picture"]
    run = subprocess.Popen(
        [sys.executable, "-c", start, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGTERM)  # a valid file, as from Ctrl-C, which shells switch off in the background
    finally:
        _, errors = run.communicate()
        if rival:
            rival.terminate()
            rival.wait()
    if run.returncode == 1:  # some visits were wrong or crashed; the others stand
        print(f"{path}: {errors.splitlines()[0]} (and {len(errors.splitlines()) - 1} more lines)", file=sys.stderr)
    elif run.returncode not in (0, 130):
        sys.exit(f"{path}: the run failed: {errors}")


def launches(path: Path) -> dict[str, list[stats.Visit]]:
    """The visits of every case in launch order, without the launch that the end of time cut short."""
    records = load_run(path).records
    last = max(record.launch for record in records)
    visits = defaultdict(list)
    for record in records:
        if record.launch < last and isinstance(record.outcome, Measured | Disturbed):
            figure = record.figure
            visits[record.case_id].append(
                stats.visit_of(record.outcome, figure.unit, figure.amount, launch=record.launch, round=record.round)
            )
    units = {record.case_id: record.figure.unit for record in records}
    assert all(higher_is_better(unit) for unit in units.values())
    return {case_id: sorted(found, key=lambda visit: visit.launch) for case_id, found in visits.items()}


class Row:
    """Counts of one case under one condition, over sittings."""

    def __init__(self) -> None:
        self.windows = self.held = self.held_quiet = self.none = self.launches = 0
        self.drawn = self.drawn_held = 0
        self.spreads: list[float] = []
        self.robust: list[float] = []
        self.halves: list[float] = []
        self.contended: list[float] = []
        self.values: list[float] = []
        self.flags: dict[str, int] = defaultdict(int)

    def add(self, visits: list[stats.Visit], quiet: float | None) -> float | None:
        """Judge a sitting's windows; returns its value."""
        whole = stats.estimate(visits)
        if whole.interval is None or len(whole.launch_values) < 2 * WINDOW:
            return None
        values = np.array(list(whole.launch_values.values()))
        truth, logs = float(np.median(values)), np.log(values)
        rng = np.random.default_rng(0)
        for _ in range(DRAWN):
            interval = stats.launch_interval(rng.choice(values, WINDOW, replace=False))
            self.drawn += 1
            self.drawn_held += interval.low <= truth <= interval.high
        self.launches += len(logs)
        self.robust.append(1.4826 * float(np.median(np.abs(logs - np.log(truth)))))
        self.spreads.append(float(logs.std(ddof=1)))
        self.values.append(truth)
        self.contended.append(whole.contended)
        for first in range(0, len(visits) - WINDOW + 1, WINDOW):
            window = stats.estimate(visits[first : first + WINDOW])
            self.windows += 1
            if window.interval is None or window.interval.launches < 2:
                self.none += 1
                continue
            self.halves.append(window.interval.relative)
            self.held += window.interval.low <= truth <= window.interval.high
            self.held_quiet += quiet is not None and window.interval.low <= quiet <= window.interval.high
            for flag in window.flags:
                self.flags[flag] += 1
        return truth


def analyse(folder: Path) -> Iterator[str]:
    """The table, as Markdown."""
    paths = sorted(folder.glob("[0-9]*-*.jsonl"))
    if not paths:
        sys.exit(f"{folder}: no runs of a campaign there")
    rows: dict[tuple[str, str], Row] = defaultdict(Row)
    quiet: dict[tuple[str, str], float | None] = {}
    for path in sorted(paths, key=lambda path: (path.stem.split("-")[0], not path.stem.endswith("quiet"))):
        sitting, _, condition = path.stem.partition("-")
        for case_id, visits in launches(path).items():
            value = rows[case_id, condition].add(visits, quiet.get((sitting, case_id)))
            if condition == "quiet":
                quiet[sitting, case_id] = value
    yield "| case | beside | launches | spread (MAD) | spread (sd) | contended | sittings differ | half width"
    yield (
        " | 5 launches hold their sitting | in random order | hold the quiet value | no value | flags |\n"
        + "|"
        + " --- |" * 13
        + "\n"
    )
    for (case_id, condition), row in sorted(rows.items()):
        yield _line(case_id, condition, row)
    for condition in sorted({condition for _, condition in rows}):
        yield _line("**all**", condition, _sum([row for (_, c), row in rows.items() if c == condition]))


def _sum(rows: list[Row]) -> Row:
    total = Row()
    for row in rows:
        for name in ("windows", "held", "held_quiet", "none", "launches", "drawn", "drawn_held"):
            setattr(total, name, getattr(total, name) + getattr(row, name))
        for name in ("spreads", "robust", "halves", "contended"):
            getattr(total, name).extend(getattr(row, name))
        for flag, count in row.flags.items():
            total.flags[flag] += count
    return total


def _line(case_id: str, condition: str, row: Row) -> str:
    if not row.windows:
        return f"| {case_id} | {condition} | too few launches with a value |" + " |" * 10 + "\n"
    judged = max(row.windows - row.none, 1)
    between = f"{np.ptp(np.log(row.values)):.1%}" if len(row.values) > 1 else ""
    flags = ", ".join(f"{flag} {count}" for flag, count in row.flags.items())

    def of_judged(count: int) -> str:
        return f"{count} of {judged} ({count / judged:.0%})"

    cells = (
        case_id,
        condition,
        str(row.launches),
        f"{np.median(row.robust):.1%}",
        f"{np.median(row.spreads):.1%}",
        f"{np.mean(row.contended):.1%}",
        between,
        f"{np.median(row.halves):.1%}" if row.halves else "-",
        of_judged(row.held),
        f"{row.drawn_held / max(row.drawn, 1):.0%}",
        of_judged(row.held_quiet) if condition != "quiet" else "",
        f"{row.none} of {row.windows}",
        flags,
    )
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Measure, then print; or print what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="measuring time in all (default 8)")
    parser.add_argument("--sittings", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--gap", type=float, default=240.0, help="seconds between sittings (default 240)")
    parser.add_argument("--competitor", choices=COMPETITORS, default="bursts")
    parser.add_argument("-o", "--output", type=Path, help="folder of the run files (default: a temporary one)")
    parser.add_argument("--lock", type=Path, help="a lock file to hold while measuring, shared with others")
    parser.add_argument("--analyse", type=Path, metavar="FOLDER", help="measure nothing; print this folder's table")
    options = parser.parse_args()
    if options.minutes <= 0 or options.sittings < 1 or options.gap < 0:
        parser.error("--minutes must be above zero, --sittings at least 1, --gap not negative")
    folder = options.analyse or options.output or Path(tempfile.mkdtemp(prefix="campaign-"))
    if not options.analyse:
        measure(folder, options)
    sys.stdout.writelines(analyse(folder))


if __name__ == "__main__":
    main()
