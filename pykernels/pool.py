"""Worker processes: start one per (placement, backend), talk to it, notice when it dies or hangs, replace it."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import msgspec

from pykernels import worker
from pykernels.measure.sampling import Settings
from pykernels.model import Case, Crashed, Machine, Outcome, Placement
from pykernels.registry import case_to_builtins, worker_of

Place = tuple[Placement, str]  # placement and backend: what one worker is for

_decoder = msgspec.json.Decoder(worker.Reply)


class Died(Exception):
    """The worker ended or was ended before it answered."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome


class Process:
    """One worker process and its pipe."""

    def __init__(self, place: Place, machine: Machine, *, seed: int) -> None:
        self.stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self._oom_kills = _oom_kills()
        self.child = subprocess.Popen(
            [sys.executable, "-P", "-c", "from pykernels.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            env=_environment(place[0], seed),
            start_new_session=True,
        )
        self._buffer = b""
        self.opening = worker.Open(backend=place[1], placement=place[0], machine=machine)
        self.refusal: Outcome | None = None

    def open(self, timeout_s: float) -> None:
        """Send the opening message; keep the outcome of a refusal for every case sent later."""
        self.refusal = self.ask(self.opening, timeout_s).outcome

    def ask(self, message: worker.Message, timeout_s: float) -> worker.Reply:
        """One message and its reply. Raises Died, also where the reply is none."""
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(msgspec.json.encode(message) + b"\n")
            self.child.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise Died(self._how_it_died()) from None
        line = self._read_line(timeout_s)
        try:
            return _decoder.decode(line)
        except msgspec.DecodeError as error:
            detail = f"its answer cannot be used: {error} (a number that is not finite travels as null)"
            raise Died(Crashed(how="exception", detail=detail)) from None

    def _read_line(self, timeout_s: float) -> bytes:
        assert self.child.stdout is not None
        descriptor = self.child.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.kill()
                raise Died(Crashed(how="timeout", detail=f"no answer within {timeout_s:.0f} s"))
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise Died(self._how_it_died())
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _how_it_died(self) -> Crashed:
        try:
            code = self.child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            return Crashed(how="timeout", detail="closed its pipe and did not end")
        if code >= 0:
            return Crashed(how=f"exit {code}", detail=self._last_words())
        if -code == signal.SIGKILL and _oom_kills() > self._oom_kills:
            return Crashed(how="out of memory", detail="killed by the kernel, which ran out of memory")
        names = {number.value: number.name for number in signal.Signals}  # real-time signals have none
        return Crashed(how=f"signal {names.get(-code, -code)}", detail=self._last_words())

    def _last_words(self) -> str:
        self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, self.stderr.tell() - 2000))
        return self.stderr.read().decode(errors="replace").strip()

    def kill(self) -> None:
        """End the process now."""
        with contextlib.suppress(ProcessLookupError):
            self.child.kill()
        self.child.wait()

    def close(self) -> None:
        """Let the process end by itself, or end it after a second."""
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self.child.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.kill()
        self.stderr.close()


def _oom_kills() -> int:
    """Processes that the kernel has killed for want of memory since the machine started, cgroups' limits included."""
    with contextlib.suppress(OSError, ValueError):
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
        return int(counters.get("oom_kill", 0))
    return 0


def _environment(placement: Placement, seed: int) -> dict[str, str]:
    """The child's environment: library thread pools held to the placement, and a pad of random length, so that stack
    and heap offsets differ from launch to launch."""
    threads = str(placement.threads)
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    pad = "x" * random.Random(seed).randrange(0, 4096)
    own = {"PYKERNELS_PAD": pad, "PYKERNELS_PARENT": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **dict.fromkeys(pools, threads), **own}


class WorkerPool:
    """The workers of one launch, started when first needed. `seed` makes launches differ in layout."""

    def __init__(self, machine: Machine, *, seed: int) -> None:
        self.machine = machine
        self.seed = seed
        self._processes: dict[Place, Process] = {}

    def visit(
        self, case: Case, variant: str, settings: Settings, *, round_: int, seed: int, full: bool, timeout_s: float
    ) -> worker.Reply:
        """Verify and time a case; a dead worker is an outcome, and its place is free for the next case."""
        message = worker.Visit(case=case_to_builtins(case), variant=variant, settings=settings, seed=seed, full=full)
        return self._ask(case, message, timeout_s)

    def tune(self, case: Case, variants: list[str], timeout_s: float) -> worker.Reply:
        """Seconds per variant, or the outcome that kept it from timing them."""
        return self._ask(case, worker.Tune(case=case_to_builtins(case), variants=variants), timeout_s)

    def _ask(self, case: Case, message: worker.Message, timeout_s: float) -> worker.Reply:
        place = worker_of(case)
        try:
            process = self._process(place)
            if process.refusal is not None:
                return worker.Reply(outcome=process.refusal)
            reply = process.ask(message, timeout_s)
        except Died as death:
            self._drop(place)
            return worker.Reply(outcome=death.outcome)
        if reply.lost:
            self._drop(place)
        return reply

    def _process(self, place: Place) -> Process:
        if place not in self._processes:
            try:
                self._processes[place] = Process(place, self.machine, seed=self.seed)
            except OSError as error:
                raise Died(Crashed(how="cannot start", detail=f"no worker could be started: {error}")) from None
            self._processes[place].open(timeout_s=120)
        return self._processes[place]

    def _drop(self, place: Place) -> None:
        process = self._processes.pop(place, None)
        if process:
            process.kill()
            process.close()

    def keep_only(self, places: set[Place]) -> None:
        """Close workers of other places, to bound memory."""
        for place in [place for place in self._processes if place not in places]:
            self._processes.pop(place).close()

    def close(self) -> None:
        """End all workers."""
        for process in self._processes.values():
            process.close()
        self._processes.clear()
