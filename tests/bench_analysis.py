"""How long reading, analysing and printing a run of 100,000 records takes.

A script, not a test: `python tests/bench_analysis.py [--records 100000] [--cases 1000] [--profile]`. Run it alone on a
quiet machine. The run is made up (roofs of every level, ISA level and type, intensity and working-set sweeps, loaded
latency); each record holds 20 samples with their CPU shares, switches and clocks.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

import synthetic
from synthetic import Noise, Spec, bandwidth, compute, loaded, mixed, sized

from pykernels.analysis.roofline import analyse
from pykernels.report.roofline import text
from pykernels.store import RunWriter, load_run

NOISE = Noise(launch=0.01, visit=0.003, sample=0.01, rho=0.3, contended=0.02)
OPS = ("load", "copy", "nt-copy", "triad", "nt-triad", "store")


def specs(count: int) -> list[Spec]:
    """At least one of everything that `roofline` looks at, over as many teams of threads as give `count` cases."""
    found: list[Spec] = []
    threads = 0
    while len(found) < count:
        threads += 1
        for isa in ("x86_64_v2", "x86_64_v3", "x86_64_v4"):
            found += [
                compute(100.0 * threads, dtype, threads=threads, isa=isa, clock_ghz=3.7) for dtype in ("fp32", "fp64")
            ]
            for level, rate in synthetic.BANDWIDTH.items():
                found += [bandwidth(level, rate, op, threads, isa=isa, clock_ghz=3.7) for op in OPS]
        found += [mixed("L1", 2.0**k, min(500 * 2.0**k, 270), threads=threads) for k in range(-5, 8)]
        found += [sized("stream", 2**k, 100.0, threads=threads) for k in range(12, 28)]
        found += [loaded(read, 5.0 * n, 100.0 + n, threads + 1) for read in (100, 50) for n in range(5)]
    return found[:count]


def main() -> None:
    """Print the seconds of each part, best of three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--profile", action="store_true", help="print where the analysis spends its time")
    options = parser.parse_args()
    run = synthetic.run(specs(options.cases), rounds=max(1, options.records // options.cases // 5), noise=NOISE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.jsonl"
        with RunWriter(path, run.header) as writer:
            for record in run.records:
                writer.write(record)
        print(f"{len(run.records)} records of {options.cases} cases, {path.stat().st_size / 1e6:.0f} MB")
        del run
        best = [float("inf")] * 3
        for _ in range(3):
            marks = [time.perf_counter()]
            loaded_run = load_run(path)
            marks.append(time.perf_counter())
            answer = analyse([loaded_run])
            marks.append(time.perf_counter())
            text(answer, 100)
            marks.append(time.perf_counter())
            best = [min(old, b - a) for old, a, b in zip(best, marks, marks[1:], strict=False)]
            if options.profile:
                profile = cProfile.Profile()
                profile.runcall(analyse, [loaded_run])
                pstats.Stats(profile).sort_stats("cumulative").print_stats(35)
                break
            del loaded_run, answer
    print(f"load {best[0]:.2f} s, analysis {best[1]:.2f} s, table {best[2]:.2f} s; together {sum(best):.2f} s")


if __name__ == "__main__":
    main()
