"""How good is the instrument? Our rates beside likwid-bench's, peaks beside the measured clock, and start-up times.

A script, not a test: `python tests/bench_instrument.py [likwid] [fma] [startup] [--level L1 ...] [--pairs 15]`. Run it
alone on the machine. What is absent is skipped with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from pykernels.backends.native import BACKEND, NativeSession
from pykernels.kernels.fma import Fma
from pykernels.kernels.stream import PART_BYTES, Stream
from pykernels.machine.cpu import read_machine
from pykernels.machine.microarchitectures import identify
from pykernels.measure.sampling import CONTENDED
from pykernels.model import Case, Implementation, Placement, Problem

MACHINE = read_machine()
SIZES = {"L1": 16 << 10, "L2": 384 << 10, "L3": 4 << 20, "DRAM": 256 << 20}
#: likwid kernel -> (our op, our level, memory levels where it makes sense)
PAIRS = {
    "load_avx512": ("load", "x86_64_v4", SIZES),
    "load_avx": ("load", "x86_64_v3", SIZES),
    "copy_avx512": ("copy", "x86_64_v4", SIZES),
    "copy_avx": ("copy", "x86_64_v3", SIZES),
    "copy_mem_avx512": ("nt-copy", "x86_64_v4", ["DRAM"]),
    "copy_mem_avx": ("nt-copy", "x86_64_v3", ["DRAM"]),
    "stream_mem_avx512": ("nt-triad", "x86_64_v4", ["DRAM"]),
    "stream_mem_avx": ("nt-triad", "x86_64_v3", ["DRAM"]),
}
ARRAYS = {"load": 1, "copy": 2, "nt-copy": 2, "nt-triad": 3}


def sampled(session: NativeSession, problem: Problem, isa: str, variant: str, seconds: float) -> tuple[float, float]:
    """(median seconds per call of clean samples, share of clean ones) over about that time."""
    runner = session.prepare(problem, Implementation("native", isa, variant))
    try:
        once = min(runner.sample(1, 3).samples_s)
        reps = max(1, round(1e-3 / once))
        samples = runner.sample(reps, max(3, round(seconds / (reps * once))))
    finally:
        runner.close()
    clean = [t for t, ratio in zip(samples.samples_s, samples.cpu_over_wall, strict=True) if ratio >= CONTENDED]
    return median(clean or samples.samples_s), len(clean) / len(samples.samples_s)


def best_variant(session: NativeSession, problem: Problem, isa: str) -> str:
    """Chosen in a pass of its own, whose samples count for nothing else."""
    case = Case(problem=problem, implementation=Implementation("native", isa), placement=session.placement)
    turns = [{v: sampled(session, problem, isa, v, 0.03)[0] for v in BACKEND.variants(case)} for _ in range(3)]
    return min(turns[0], key=lambda v: min(turn[v] for turn in turns))


class Likwid:
    """One kernel on the first CPU of socket 0. It sleeps a second to calibrate its clock, so wall time says nothing:
    a run is disturbed where the process had less CPU time than the kernel took, start-up apart."""

    def __init__(self, kernel: str, size: int, seconds: float = 0.15) -> None:
        self.command = ["likwid-bench", "-t", kernel, "-w", f"S0:{size}B:1"]
        self.iterations, self.startup_s = 1, 0.0
        first = [self.run() for _ in range(3)]
        self.startup_s = min(share * taken for _, taken, share in first)
        taken = first[-1][1]
        for aim in (seconds / 5, seconds):  # short, then of the length wanted
            self.iterations = max(1, round(self.iterations * aim / taken))
            _, taken, _ = self.run()

    def run(self) -> tuple[float, float, float]:
        """(bytes per second, seconds of the kernel, CPU time over them)."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [*self.command, "-i", str(self.iterations)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        rate, taken = (float(re.findall(rf"{name}:\s*([0-9.e+-]+)", text)[0]) for name in ("MByte/s", "Time"))
        return rate * 1e6, taken, (cpu - self.startup_s) / taken


def median_interval(values: list[float]) -> tuple[float, float]:
    """Distribution-free interval of a median, at least 95%: order statistics of the binomial."""
    from scipy.stats import binom

    ordered = sorted(values)
    k = int(binom.ppf(0.025, len(ordered), 0.5))
    k -= binom.cdf(k - 1, len(ordered), 0.5) > 0.025
    return ordered[max(0, k - 1)], ordered[min(len(ordered) - 1, len(ordered) - k)]


def beside_likwid(levels: list[str], kernels: list[str], pairs: int) -> list[dict[str, object]]:
    """Alternating pairs on the same bytes, ours on 4 KiB pages as likwid's buffers are, huge pages as a row apart."""
    if not shutil.which("likwid-bench"):
        print("skipped likwid: likwid-bench is not installed (apt install likwid)")
        return []
    rows: list[dict[str, object]] = []
    ours = {pages: BACKEND.open(Placement(pages=pages), MACHINE) for pages in ("4k", "huge")}
    for kernel in kernels:
        op, isa, where = PAIRS[kernel]
        if isa not in MACHINE.isa:
            print(f"skipped {kernel}: this machine does not run {isa}")
            continue
        for level in (level for level in levels if level in where):
            n, parts = SIZES[level] // ARRAYS[op] // 8 // 128 * 128, max(1, SIZES[level] // PART_BYTES)
            problem = Stream(op=op, n=n, parts=parts, dtype="fp64", level=level)
            likwid = Likwid(kernel, SIZES[level])
            variants = {pages: best_variant(session, problem, isa) for pages, session in ours.items()}
            ratios: dict[str, list[float]] = {"4k": [], "huge": []}
            rates: list[float] = []
            contended = 0
            while min(map(len, ratios.values())) < pairs and contended < 4 * pairs:
                theirs, _, share = likwid.run()
                for pages, session in ours.items():
                    seconds, clean = sampled(session, problem, isa, variants[pages], 0.05)
                    if share < 0.97 or clean < 0.5:
                        contended += 1
                        continue
                    ratios[pages].append(problem.traffic().requested / seconds / theirs)
                rates.append(theirs)
            for pages, values in ratios.items():
                if len(values) < 3:
                    print(f"{kernel:18} {level:5} {pages:4} not enough undisturbed pairs ({len(values)})")
                    continue
                low, high = median_interval(values)
                rows.append({
                    "likwid": kernel, "level": level, "pages": pages, "variant": variants[pages], "pairs": len(values),
                    "ratio": median(values), "low": low, "high": high, "likwid_GBps": median(rates) / 1e9,
                    "contended": contended,
                })  # fmt: skip
                print(
                    f"{kernel:18} {level:5} {pages:4} {variants[pages]:14} {median(values):.3f} [{low:.3f}, {high:.3f}]"
                    f"  {len(values)} pairs, likwid {median(rates) / 1e9:.1f} GB/s, {contended} contended",
                    flush=True,
                )
    return rows


def fma_peaks() -> list[dict[str, object]]:
    """Best variant's rate over clock x FLOP per cycle of the pipes, by clean sample with the sample's own clock."""
    design = identify(MACHINE.arch, MACHINE.vendor, MACHINE.family, MACHINE.model)
    rows: list[dict[str, object]] = []
    for threads in (1, len(MACHINE.affinity)):
        session = BACKEND.open(Placement(threads=threads), MACHINE)
        for dtype in ("fp64", "fp32", "bf16", "int8"):
            problem = Fma(dtype=dtype, units=threads)
            case = Case(
                problem=problem, implementation=Implementation("native", MACHINE.isa[-1]), placement=Placement()
            )
            if skipped := BACKEND.skip(case, MACHINE):
                print(f"skipped fma {dtype}: {skipped.reason}")
                continue
            variant = best_variant(session, problem, MACHINE.isa[-1])
            runner = session.prepare(problem, Implementation("native", MACHINE.isa[-1], variant))
            samples = runner.sample(max(1, round(1e-3 / min(runner.sample(1, 3).samples_s))), 300)
            runner.close()
            cycle = [
                problem.flops() / t / (ghz * 1e9) / threads
                for t, ghz, ratio in zip(samples.samples_s, samples.clock_ghz, samples.cpu_over_wall, strict=True)
                if ratio >= CONTENDED
            ]
            if not cycle:
                print(f"fma {dtype} {threads} threads: no undisturbed sample")
                continue
            share = ""
            if design and (pipes := design.flop_per_cycle(dtype)):
                share = f", {median(cycle) / pipes:.1%} of the clock x {pipes} of {design.name}"
            rows.append({"dtype": dtype, "threads": threads, "variant": variant, "per_cycle": median(cycle)})
            of = f"{len(cycle)} of 300 samples"
            print(f"fma {dtype} {threads} threads {variant}: {median(cycle):.2f} a cycle and core{share}  ({of})")
    return rows


def startup() -> list[dict[str, object]]:
    """Median wall time of fresh processes."""
    commands = {
        "pykernels --help": [shutil.which("pykernels") or "", "--help"],
        "import pykernels": [sys.executable, "-c", "import pykernels"],
        "import pykernels._core": [sys.executable, "-c", "import pykernels._core"],
        "bare python": [sys.executable, "-c", "pass"],
        "native worker, first sample": [sys.executable, __file__, "worker"],
    }
    rows: list[dict[str, object]] = []
    for name, command in commands.items():
        if not command[0]:
            print(f"skipped {name}: not installed")
            continue
        times, cpu = [], []
        for _ in range(15):
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(time.monotonic() - start)
            cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        rows.append({"what": name, "median_s": median(times), "cpu_s": median(cpu), "best_s": min(times)})
        middle, best, busy = (1e3 * value for value in (median(times), min(times), median(cpu)))
        print(f"{name}: median {middle:.0f} ms, best {best:.0f} ms, CPU {busy:.0f} ms")
    return rows


def worker() -> None:
    """What a native worker does before its first sample."""
    session = BACKEND.open(Placement(), MACHINE)
    problem = Stream(op="load", n=2048, dtype="fp64")
    session.prepare(problem, Implementation("native", MACHINE.isa[-1], "plain")).sample(1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["likwid", "fma", "startup"])
    parser.add_argument("--level", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--kernel", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")
    wanted = parser.parse_args()
    if wanted.parts == ["worker"]:
        worker()
        return
    rows: dict[str, object] = {"load_1min": os.getloadavg()[0]}
    if "fma" in wanted.parts:
        rows["fma"] = fma_peaks()
    if "startup" in wanted.parts:
        rows["startup"] = startup()
    if "likwid" in wanted.parts:
        rows["likwid"] = beside_likwid(wanted.level, wanted.kernel, wanted.pairs)
    if wanted.json:
        Path(wanted.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
