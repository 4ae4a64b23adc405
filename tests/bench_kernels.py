"""Speed of lookups, products and softmax against their roofs and their peers: the project's own goals, measured here.

    python tests/bench_kernels.py [-k PATTERN] [--launches N] [-o FILE]

Every group is a sweep of its own: roofs, our kernels and their peers in fresh workers, visited in random order within a
launch, on huge pages, at one thread and at all. A goal is met, missed or unclear by the whole 95% interval of a ratio
paired over launches. torch joins where it is installed. It is a script and no test: times depend on the machine.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pykernels.analysis.common import CaseSummary, campaign
from pykernels.analysis.kernels import KernelPoint, analyse
from pykernels.analysis.points import flop_rate
from pykernels.engine import Engine, make_header
from pykernels.lock import machine_lock
from pykernels.machine.cpu import read_machine
from pykernels.measure.stats import ratio_interval
from pykernels.model import Crashed, Record, Wrong
from pykernels.plan import make_plan
from pykernels.pool import WorkerPool
from pykernels.store import Run, RunWriter, load_run
from pykernels.sweep import parse_sweep

HEAD = 'pykernels = 1\nbudget = "10 min"\nlaunches = {launches}\nrounds = 1\nvisit = "40 ms"\n'
ROOFS = """
[[study]]
kernel = "{kernel}"
level = {level}
{more}
threads = [1, "all"]
"""
LEVELS = '["L2", "L3", "DRAM"]'
GROUPS = {
    "lookups": ROOFS.format(kernel="gather", level=LEVELS, more="row_bytes = [32, 64, 128, 256, 512]")
    + """
[[study]]
kernel = "embedding_bag"
level = ["L2", "L3", "DRAM"]
dim = [32, 64, 128]
pooling = 20
threads = [1, "all"]
backend = ["native", "torch", "numba_cpu"]

[[study]]
kernel = "embedding_bag"
level = ["L2", "L3", "DRAM"]
dim = [64, 128]
pooling = 20
dtype = ["int8", "int4"]
threads = [1, "all"]
backend = ["native", "torch"]

[[study]]                              # bags of a single row: what a call costs beside its work
kernel = "embedding_bag"
rows = 2048
dim = 32
pooling = 1
batch = [64, 4096]
threads = 1
backend = ["native", "torch"]
""",
    "products": ROOFS.format(kernel="stream", level=LEVELS, more='op = "load"\ndtype = "fp32"')
    + """
[[study]]
kernel = "fma"
dtype = ["fp32", "bf16", "int8"]
threads = [1, "all"]

[[study]]
kernel = "gemv"
level = ["L2", "L3", "DRAM"]
dtype = ["fp32", "bf16", "int8", "int4"]
threads = [1, "all"]
backend = ["native", "torch", "numba_cpu"]

[[study]]
kernel = "gemv"
level = ["L2", "DRAM"]
dtype = ["fp32", "bf16", "int8", "int4"]
batch = [2, 4, 8, 16]
""",
    "softmax": ROOFS.format(kernel="stream", level=LEVELS, more='op = ["copy", "nt-copy"]\ndtype = "fp32"')
    + """
[[study]]
kernel = "exp"
threads = [1, "all"]

[[study]]
kernel = "softmax"
level = ["L2", "DRAM"]
width = [256, 1024, 4096]
dtype = ["fp32", "bf16"]
threads = [1, "all"]
backend = ["native", "torch", "numba_cpu"]
""",
}


class Quiet:
    """Progress that says only what went wrong."""

    def visited(self, record: Record, done: int, total: int) -> None:
        """Nothing of what went well."""
        if isinstance(record.outcome, Wrong | Crashed):
            print(f"{record.case_id}: {record.outcome}", file=sys.stderr)

    def note(self, text: str) -> None:
        """Said."""
        print(text, file=sys.stderr)


class Goal:
    """A bound on a ratio, and what was measured of it."""

    def __init__(self, name: str, case: str, bound: float, found: tuple[float, float, float], unit: str = "x") -> None:
        self.name, self.case, self.bound, self.unit = name, case, bound, unit
        self.value, self.low, self.high = found

    @property
    def verdict(self) -> str:
        """By the whole interval."""
        if self.low >= self.bound:
            return "met"
        return "missed" if self.high < self.bound else "unclear"

    def __str__(self) -> str:
        high = f"{self.high:.2f}" if math.isfinite(self.high) else "-"
        value = f"{self.value:6.2f} [{self.low:.2f}, {high}] {self.unit}"
        return f"{self.verdict:8s} {value:30s} goal {self.bound:<5g} {self.name:34s} {self.case}"


def measure(name: str, launches: int, pattern: str, path: Path) -> Run:
    """Run one group into a file."""
    machine = read_machine()
    sweep = parse_sweep(HEAD.format(launches=launches) + GROUPS[name], name=name)
    plan = make_plan(sweep, machine)
    if pattern:
        plan.cases = [c for c in plan.cases if c.problem.figure().ceiling or pattern in c.id]
    print(f"{name}: {len(plan.cases)} cases, {len(plan.skipped)} skipped", file=sys.stderr)
    writer = RunWriter(path, make_header(plan))
    with machine_lock("bench_kernels", wait=True, say=lambda text: print(text, file=sys.stderr)):
        Engine(plan, writer, lambda launch: WorkerPool(machine, seed=launch), Quiet()).run()
    return load_run(path)


def goals(run: Run) -> Iterator[Goal]:
    """Every goal that the run's cases decide."""
    study = campaign([run])
    usable = {case_id: case for case_id, case in study.cases.items() if not case.reason}
    ours = {point.case_id: point for point in analyse([run]).points if point.backend == "native"}
    for case_id, point in ours.items():
        record = usable[case_id].first
        for maker in (lookup_goals, product_goals, softmax_goals):
            yield from maker(point, record)
        yield from peer_goals(usable, record)
    yield from int4_goals(usable)


def share(name: str, point: KernelPoint, bound: float) -> Iterator[Goal]:
    if point.roof is not None:
        yield Goal(
            f"{name} ({point.roof.op})", point.case_id, bound, (point.share, point.low, point.high), "of its roof"
        )


def lookup_goals(point: KernelPoint, record: Record) -> Iterator[Goal]:
    if point.kernel == "embedding_bag" and record.params.get("pooling") == "1":
        beyond = [max(1e-9, point.time_s * (1 - share)) for share in (point.share, point.low, point.high)]
        found = (10e-6 / beyond[0], 10e-6 / beyond[1], 10e-6 / beyond[2])
        yield Goal("10 us over the time beyond the roof", point.case_id, 1.0, found)
    elif point.kernel == "embedding_bag" and point.dtype == "fp32":
        yield from share("time roof of lookups", point, 0.9)


def product_goals(point: KernelPoint, record: Record) -> Iterator[Goal]:
    if point.kernel != "gemv":
        return
    quantised, batch = point.dtype in ("int8", "int4"), int(record.params["batch"])
    if batch == 1:
        yield from share("load roof or arithmetic", point, 0.8 if quantised and record.figure.level != "DRAM" else 0.95)
    else:
        yield from share("roof of several vectors", point, 1 / 1.1)


def softmax_goals(point: KernelPoint, record: Record) -> Iterator[Goal]:
    if point.kernel == "softmax" and point.dtype == "fp32":
        in_memory = record.figure.level == "DRAM"
        yield from share("copy or exp roof", point, 0.85 if in_memory else 0.5)


def peer_goals(usable: dict[str, CaseSummary], record: Record) -> Iterator[Goal]:
    """Against torch and Numba on the same problem and threads."""
    level, place = record.figure.level, record.case_id.rpartition(" @")[2]
    for peer in ("torch", "numba_cpu"):
        rival = usable.get(f"{record.case_id.partition(']')[0]}] {peer} @{place}")
        bound = _peer_bound(record, peer, level)
        if rival is not None and bound:
            yield Goal(f"time of {peer} over ours", record.case_id, bound, ratio(usable[record.case_id], rival))
        if rival is not None and peer == "numba_cpu" and (record.kernel != "embedding_bag" or level != "DRAM"):
            yield Goal("2x our time over Numba's", record.case_id, 1.0, double(ratio(rival, usable[record.case_id])))


def _peer_bound(record: Record, peer: str, level: str) -> float:
    if peer != "torch":
        return 0.0
    if record.kernel == "embedding_bag":
        narrow = int(record.params["dim"]) <= 64
        if record.dtype == "int8":
            return 1.4 if level == "DRAM" else 1.2
        return 1.4 if level == "DRAM" and narrow else 1.0
    return 4.0 if record.kernel == "softmax" and record.dtype == "bf16" else 1.0


def int4_goals(usable: dict[str, CaseSummary]) -> Iterator[Goal]:
    """int4 against int8 in rows a second."""
    for case_id, case in usable.items():
        if case.first.kernel == "embedding_bag" and case.first.dtype == "int4" and case.first.backend == "native":
            level, threads = case.first.figure.level, case.first.threads
            like = [
                other for other in usable.values()
                if (o := other.first).kernel == "embedding_bag" and o.dtype == "int8" and o.backend == "native"
                and (o.figure.level, o.threads, o.params["dim"]) == (level, threads, case.first.params["dim"])
            ]  # fmt: skip
            if like:
                yield Goal("int4 rows over int8's", case_id, 1.0 if level == "DRAM" else 0.0, rows_ratio(case, like[0]))


def ratio(ours: CaseSummary, peer: CaseSummary) -> tuple[float, float, float]:
    """Time of the peer over ours, paired over launches."""
    return ratio_interval(flop_rate(ours).values, flop_rate(peer).values)


def rows_ratio(one: CaseSummary, other: CaseSummary) -> tuple[float, float, float]:
    """Lookups a second of one over those of the other."""
    rates = [
        {launch: rate * case.first.figure.amount for launch, rate in flop_rate(case).values.items()}
        for case in (one, other)
    ]
    return ratio_interval(rates[0], rates[1])


def double(found: tuple[float, float, float]) -> tuple[float, float, float]:
    return (2 * found[0], 2 * found[1], 2 * found[2])


def main() -> int:
    """Measure and judge; exit code 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("groups", nargs="*", help=f"some of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("-k", default="", help="only cases whose id contains this, and all roofs")
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("-o", type=Path, help="folder for the run files")
    options = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in options.groups or GROUPS:
            path = (options.o or Path(folder)) / f"bench-{name}.jsonl"
            for goal in goals(measure(name, options.launches, options.k, path)):
                print(goal, flush=True)
                missed += goal.verdict == "missed"
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
