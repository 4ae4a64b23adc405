"""Any callable under the roof: `pykernels.bench("module:function", flops=..., bytes=..., roofs="RUN.jsonl")`.

A name is imported and timed in fresh processes, one a launch, pinned like every other case, so that its interval is
over launches. A live callable cannot be sent to another process: it is timed here, and says `within-process`. Its
roofs are those of a run file of the same machine; as they were measured at another time, the share is not paired.
"""

from __future__ import annotations

import importlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pykernels.analysis.kernels import KernelPoint, analyse
from pykernels.errors import UsageError
from pykernels.machine.cpu import read_machine
from pykernels.machine.placement import cpus_for
from pykernels.measure import sampling
from pykernels.measure.stats import Interval, case_interval
from pykernels.model import Disturbed, Figure, Header, Machine, Measured, Record, Samples, short_hash
from pykernels.store import Run, load_run
from pykernels.units import format_value

#: launches of a callable are numbered from here, so that none is taken for a launch of the roofs
FIRST_LAUNCH = 50_000
TIMEOUT_S = 120.0


class Bench(msgspec.Struct, kw_only=True):
    """A timed callable: seconds a call with their interval, and its point under the roofs (`point.roof` is None
    where no run file was given, or it holds no ceiling of that level, dtype and number of threads)."""

    name: str
    seconds: Interval
    point: KernelPoint
    scope: str
    records: list[Record]

    def __str__(self) -> str:
        """One line, as the command line would print it."""
        time_us = format_value(self.seconds.value * 1e6, (self.seconds.high - self.seconds.low) / 2 * 1e6)
        text = f"{self.name}: {time_us} us a call, {format_value(self.point.gbps)} GB/s, "
        text += f"{format_value(self.point.gflops)} GFLOP/s, {self.scope}"
        if self.point.roof is None:
            return text
        roof = f"{self.point.roof.level} {self.point.roof.op}".strip()
        return f"{text}; {self.point.share:.0%} [{self.point.low:.0%}, {self.point.high:.0%}] of {roof}"


class _Job(msgspec.Struct):
    """What a fresh process is asked to time."""

    target: str
    cpus: tuple[int, ...]
    visit_s: float


def bench(
    target: str | Callable[[], Any],
    *,
    flops: float = 0.0,
    bytes: float = 0.0,
    roofs: str | Path | None = None,
    level: str = "DRAM",
    dtype: str = "fp32",
    threads: int = 1,
    launches: int = 5,
    visit_s: float = 0.1,
) -> Bench:
    """Time a callable without arguments and place it under the ceilings of a run file.

    `target`: "module:function", imported afresh in each launch (what it needs is made when its module is imported), or
    a callable. `flops` and `bytes` are those of one call, by the caller's own count, at least one of them; `level` is
    where its data lie and `dtype` the arithmetic it uses. Raises UsageError for a target that cannot be imported or
    called, and for counts that are not positive."""
    if flops < 0 or bytes < 0 or not (flops or bytes):
        raise UsageError(f"bench: flops = {flops}, bytes = {bytes}: give the FLOPs or the bytes of a call")
    if launches < 1:
        raise UsageError(f"bench: launches = {launches}: write at least 1")
    machine = read_machine()
    cpus = cpus_for(machine, "cpu", threads)
    if isinstance(target, str):
        _named(target)  # a wrong name is one error here, not one a launch
        name = target
        job = _Job(target, cpus, visit_s)
        outcomes = [_launch(job, threads) for _ in range(launches)]
    else:
        if not callable(target):
            raise UsageError(f'bench: {target!r} is neither a callable nor "module:function"')
        name = getattr(target, "__name__", type(target).__name__)
        outcomes = [_timed_here(target, cpus, visit_s)]
    moved = bytes or 1.0
    figure = Figure(kind="bandwidth", unit="GB/s", amount=moved, level=level)
    case_id = f"{name}[{dtype}] python @cpu*{threads}"
    records = [
        Record(
            case_id=case_id, case=short_hash(case_id), kernel=name, params={}, dtype=dtype, backend="python",
            threads=threads, launch=FIRST_LAUNCH + number, round=0, figure=figure, flops=flops or 1.0,
            bytes_requested=moved, bytes_compulsory=moved, outcome=outcome,
        )
        for number, outcome in enumerate(outcomes)
    ]  # fmt: skip
    return _judged(name, records, roofs, machine)


def _judged(name: str, records: list[Record], roofs: str | Path | None, machine: Machine) -> Bench:
    interval = case_interval(msgspec.structs.replace(r, figure=Figure("latency", "us", 1.0)) for r in records)
    if interval is None:
        raise UsageError(f"{name}: too few samples had its threads on a CPU; measure when the machine is idle")
    seconds = msgspec.structs.replace(
        interval, value=interval.value * 1e-6, low=interval.low * 1e-6, high=interval.high * 1e-6,
        best=interval.best * 1e-6,
    )  # fmt: skip
    run = load_run(roofs) if roofs is not None else Run(path="", header=Header(machine=machine), tunings=[], records=[])
    if roofs is not None and run.header.machine.id != machine.id:
        raise UsageError(f"{roofs}: measured on another machine ({run.header.machine.id}), so its roofs are not these")
    together = msgspec.structs.replace(run, records=[*run.records, *records])
    point = next(point for point in analyse([together]).points if point.case_id == records[0].case_id)
    scope = "within-process" if len(records) == 1 else f"{len(records)} launches"
    return Bench(name=name, seconds=seconds, point=point, scope=scope, records=records)


def _named(target: str) -> Callable[[], Any]:
    """The function of "module:function". Raises UsageError."""
    module, _, function = target.partition(":")
    try:
        found = importlib.import_module(module) if module and function else None
    except ImportError as error:
        raise UsageError(f'bench: "{target}": {module} cannot be imported ({error})') from None
    called = getattr(found, function, None)
    if not callable(called):
        what = f"{module} has no function {function}" if found else 'write "module:function"'
        raise UsageError(f'bench: "{target}": {what}')
    return called  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------------------ processes


def _launch(job: _Job, threads: int) -> Measured | Disturbed:
    """One fresh process. Raises UsageError with what it said where it failed."""
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(pools, str(threads)), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "from pykernels.benchmark import child; child()"]
    try:
        done = subprocess.run(
            command,
            input=msgspec.json.encode(job),
            capture_output=True,
            env=environment,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f'bench: "{job.target}" gave no answer within {TIMEOUT_S:.0f} s') from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UsageError(f'bench: "{job.target}" failed: {last[0]}')
    answer: Measured | Disturbed = msgspec.json.decode(done.stdout.splitlines()[-1], type=Measured | Disturbed)
    return answer


def child() -> None:
    """The fresh process: times what standard input names, and writes the outcome to standard output."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=_Job)
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever the callable prints goes to standard error
    os.sched_setaffinity(0, job.cpus)
    outcome = _timed(_named(job.target), job.visit_s)
    os.write(answer, msgspec.json.encode(outcome) + b"\n")


def _timed_here(function: Callable[[], Any], cpus: tuple[int, ...], visit_s: float) -> Measured | Disturbed:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        return _timed(function, visit_s)
    finally:
        os.sched_setaffinity(0, before)


def _timed(function: Callable[[], Any], visit_s: float) -> Measured | Disturbed:
    return sampling.collect(_Loop(function), sampling.Settings(visit_s=visit_s))  # type: ignore[arg-type]


class _Loop:
    """As much of a Runner as sampling needs."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def sample(self, reps: int, count: int) -> Samples:
        """`count` samples of `reps` calls, with the calling thread's CPU time."""
        samples = Samples(samples_s=[], reps=reps)
        for _ in range(count):
            switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
            cpu, start = time.thread_time_ns(), time.perf_counter_ns()
            for _ in range(reps):
                self.function()
            wall = time.perf_counter_ns() - start
            cpu = time.thread_time_ns() - cpu
            samples.samples_s.append(wall * 1e-9 / reps)
            samples.cpu_over_wall.append(min(1.0, cpu / max(1, wall)))
            samples.involuntary_switches.append(resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - switches)
        return samples
