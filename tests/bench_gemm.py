"""Matrix products and attention beside NumPy (OpenBLAS) and torch, one library a process, turn and turn about.

    python tests/bench_gemm.py [--threads 1 2] [--dtype fp32 fp64] [--shape 2048 4096x8x4096] [--torch PYTHON]
                               [--kind gemm attention] [--rounds 5]

Prints medians and the median over rounds of the ratios of the same round. OpenBLAS chooses its own core type and block
sizes: OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are taken out of the workers' environment together. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

SHAPES = [
    "256",
    "512",
    "1024",
    "2048",
    "4096",
    "4096x8x4096",
    "4096x32x4096",
    "8x4096x4096",
    "65536x64x64",
    "64x64x65536",
]
#: heads x lq x lk x dim of attention (a letter c: causal)
ATTENTIONS = ["8x512x512x64", "8x1024x1024x64", "8x1024x1024x128", "8x1024x1024x64c", "8x1x32768x64", "8x1x32768x128"]
SAMPLE_S = 0.05


def sizes(shape: str) -> list[int]:
    numbers = [int(part) for part in shape.rstrip("c").split("x")]
    return numbers if len(numbers) > 1 else numbers * 3


def timed(run: Any, seconds: float, clock: Callable[[], float]) -> float:
    """Seconds per call: the median of some calls."""
    run()
    times, until = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        start = clock()
        run()
        times.append(clock() - start)
    return median(times)


def clock_for(threads: int) -> Callable[[], float]:
    """One thread is timed by its CPU time, which neighbours that take its core away do not lengthen."""
    return time.process_time if threads == 1 else time.perf_counter


def numpy_call(job: dict[str, Any]) -> Any:
    import numpy as np

    if job["kind"] != "gemm" or job["dtype"] not in ("fp32", "fp64"):
        return None
    m, n, k = sizes(job["shape"])
    rng, dtype = np.random.default_rng(1), {"fp32": np.float32, "fp64": np.float64}[job["dtype"]]
    a, b, c = (rng.uniform(0.5, 1.5, shape).astype(dtype) for shape in ((m, k), (k, n), (m, n)))
    return lambda: np.matmul(a, b, out=c)


def torch_call(job: dict[str, Any]) -> Any:
    import torch

    torch.set_num_threads(job["threads"])
    dtype = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16}.get(job["dtype"])
    if dtype is None:
        return None
    if job["kind"] == "gemm":
        m, n, k = sizes(job["shape"])
        a, b, c = (torch.rand(shape).add(0.5).to(dtype) for shape in ((m, k), (k, n), (m, n)))
        return lambda: torch.matmul(a, b, out=c)
    heads, lq, lk, dim = sizes(job["shape"])
    q, k_, v = (torch.rand((1, heads, rows, dim)).to(dtype) for rows in (lq, lk, lk))
    causal = job["shape"].endswith("c")
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k_, v, is_causal=causal)


def native_time(job: dict[str, Any], seconds: float, kept: dict[str, Any]) -> float | None:
    from pykernels.backends.native import BACKEND
    from pykernels.kernels.attention import Attention
    from pykernels.kernels.fma import Fma
    from pykernels.kernels.gemm import Gemm
    from pykernels.machine.cpu import read_machine
    from pykernels.model import Case, Implementation, Placement, Problem

    problem: Problem
    if job["kind"] == "gemm":
        m, n, k = sizes(job["shape"])
        problem = Gemm(m=m, n=n, k=k, dtype=job["dtype"])
    elif job["kind"] == "fma":
        problem = Fma(dtype=job["dtype"], units=job["threads"])
    else:
        heads, lq, lk, dim = sizes(job["shape"])
        causal = job["shape"].endswith("c")
        problem = Attention(heads=heads, kv_heads=heads, lq=lq, lk=lk, dim=dim, causal=causal, dtype=job["dtype"])
    key = json.dumps(job)
    if key not in kept:
        for runner in kept.get("all", []):
            runner.close()
        kept.clear()
        machine = read_machine()
        placement = Placement(threads=job["threads"])
        session = kept["session"] = BACKEND.open(placement, machine)
        case = Case(problem=problem, implementation=Implementation("native"), placement=placement)
        names = BACKEND.variants(case)
        wanted = names if job["kind"] == "fma" else names[-1:]
        kept["all"] = kept[key] = [session.prepare(problem, Implementation("native", "", name)) for name in wanted]
    best = math.inf
    for runner in kept[key]:
        once = runner.sample(1, 3).samples_s[-1]
        reps = max(1, round(2e-3 / once))
        found = runner.sample(reps, max(3, int(seconds / (reps * once))))
        shares = found.cpu_over_wall if job["threads"] == 1 else [1.0] * len(found.samples_s)
        best = min(best, median(t * share for t, share in zip(found.samples_s, shares, strict=True)))
    return problem.flops() / best / 1e9 if job["kind"] == "fma" else best


def serve(library: str) -> None:
    """Answer jobs: a line in, seconds per call (or null) out."""
    from contextlib import nullcontext

    kept: dict[str, Any] = {}
    key, call = "", None
    for line in sys.stdin:
        job = json.loads(line)
        if library == "native":
            answer = native_time(job, SAMPLE_S, kept)
        else:
            if line != key:
                key, call = line, (numpy_call if library == "numpy" else torch_call)(job)
            if library == "numpy" and call:
                from threadpoolctl import threadpool_limits

                limits: Any = threadpool_limits(job["threads"])
            else:
                limits = nullcontext()
            with limits:
                answer = timed(call, SAMPLE_S, clock_for(job["threads"])) if call else None
        print(json.dumps(answer), flush=True)


class Worker:
    def __init__(self, library: str, python: list[str], threads: int) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
        environment |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            [*python, "--worker", library], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, job: dict[str, Any]) -> float | None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer: float | None = json.loads(self.process.stdout.readline() or "null")
        return answer


def compare(workers: dict[str, Worker], job: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for turn in range(rounds):
        for name in list(workers) if turn % 2 else list(workers)[::-1]:
            seconds = workers[name].ask(job)
            if seconds is not None:
                found.setdefault(name, []).append(seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", default="")
    parser.add_argument("--kind", nargs="+", default=["gemm"], choices=["gemm", "attention"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, os.cpu_count() or 1])
    parser.add_argument("--dtype", nargs="+", default=["fp32", "fp64", "bf16"])
    parser.add_argument("--shape", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torch", default="", help="a Python that has torch")
    options = parser.parse_args()
    if options.worker:
        serve(options.worker)
        return
    own = sys.orig_argv[
        : next(i for i, word in enumerate(sys.orig_argv) if word.endswith(".py") and "bench" in word) + 1
    ]
    for threads in options.threads:
        workers = {"native": Worker("native", own, threads), "numpy": Worker("numpy", own, threads)}
        if options.torch:
            workers["torch"] = Worker("torch", [options.torch, __file__], threads)
        for kind in options.kind:
            for dtype in options.dtype:
                table(workers, kind, dtype, threads, options)
        for worker in workers.values():
            assert worker.process.stdin
            worker.process.stdin.close()
            worker.process.wait()


def table(workers: dict[str, Worker], kind: str, dtype: str, threads: int, options: argparse.Namespace) -> None:
    print(f"{kind} {dtype}, {threads} thread{'s' * (threads > 1)}")
    logs = []
    for shape in options.shape or (SHAPES if kind == "gemm" else ATTENTIONS):
        job = {"kind": kind, "dtype": dtype, "shape": shape, "threads": threads}
        roof = workers["native"].ask({**job, "kind": "fma"}) or math.nan
        found = compare(workers, job, options.rounds)
        ours, numbers = found["native"], sizes(shape)
        half = 0.5 if shape.endswith("c") else 1.0
        flops = 2.0 * math.prod(numbers) if kind == "gemm" else 4.0 * math.prod(numbers) * half
        rate = flops / median(ours) / 1e9
        line = f"  {shape:16} {rate:7.1f} GFLOP/s  {rate / roof:4.0%} of {roof:.0f}"
        ratios = {
            name: median(t / o for t, o in zip(times, ours, strict=True))
            for name, times in found.items()
            if name != "native"
        }
        line += "".join(f"   {ratio:5.2f}x {name}" for name, ratio in ratios.items())
        print(line, flush=True)
        if ratios:
            logs.append(math.log(min(ratios.values())))
    if logs:
        print(f"  geometric mean over the best of the others: {math.exp(sum(logs) / len(logs)):.2f}x", flush=True)


if __name__ == "__main__":
    main()
