"""Modes `closed` and `open` of a CPU placement: one call as a request, served by the placement's own team.

Thread 0 of the team is the server: it takes a request, starts the other threads, does its share and answers. `closed`:
one request in flight, 5,000 of them: p50 and p99. `open`: Poisson arrivals at rising shares of what the closed loop
serves; for each limit on p99 the highest rate that stayed within it. Only where 5,000 requests take under 2 s.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pykernels.errors import UsageError
from pykernels.measure import latency
from pykernels.model import Samples

Array = np.ndarray[Any, Any]
#: 5,000 requests must take less than this
BUDGET_S = 2.0
PROBE_CALLS, WARM_CALLS, SEED = 5, 100, 7


class NativeRequests:
    """One native call as a request. `call`: the arguments that name it to the team; `after`: a C function void(void*)
    and its argument, the last part of every request (0: none)."""

    def __init__(self, team: Any, call: tuple[Any, ...], after: tuple[int, int] = (0, 0)) -> None:
        self.team, self.call, self.after = team, call, after
        self.served = 0  # requests so far: where rotating passes go on

    def loop(self, calls: int, rate: float = 0.0) -> tuple[Array, float, int]:
        """Nanoseconds of each request (one in flight, or Poisson arrivals of `rate` a second), the lowest thread's CPU
        time over wall time, and involuntary switches."""
        after = self.after if self.after[0] else ()
        found, share, switches = self.team.serve(*self.call, calls, self.served, rate, SEED, *after)
        self.served += calls
        return np.asarray(found, np.int64), share, switches

    def facts(self, opened: bool, lookups: int) -> dict[str, Any]:
        """`latency` of the closed loop, and `served` with every load tried if `opened`. Raises UsageError for calls too
        slow for 5,000 of them."""
        for calls in (PROBE_CALLS, WARM_CALLS):
            seconds = float(np.quantile(self.loop(calls)[0], 0.1)) * 1e-9  # what a call takes when it is left alone
            if seconds * latency.CALLS > BUDGET_S:
                raise UsageError(
                    f"budget: {latency.CALLS:,} requests of {seconds * 1e3:.3g} ms take over {BUDGET_S:g} s",
                    hint="a smaller batch",
                )
        one_in_flight, share, switches = self.loop(latency.CALLS)
        found: dict[str, Any] = {
            "latency": {**latency.summary(one_in_flight), "cpu_over_wall": share, "involuntary_switches": switches},
            "timed_by": "native",
        }
        if opened:
            capacity = 1e9 / float(np.median(one_in_flight))
            found |= latency.served(lambda rate: self.loop(latency.CALLS, rate)[0], capacity, lookups)
        return found

    def samples(self, reps: int, count: int) -> Samples:
        """`count` times the mean seconds of `reps` requests, one in flight."""
        loops = [self.loop(reps) for _ in range(count)]
        return Samples(
            samples_s=[float(found.mean()) * 1e-9 for found, _, _ in loops],
            cpu_over_wall=[share for _, share, _ in loops],
            involuntary_switches=[switches for _, _, switches in loops],
            reps=reps,
        )
