"""One case of a csrc/cuda kernel on a device: operands, launches, and timed spans.

Device time comes from events around a span that was queued whole before its clock starts (a gate kernel holds the
stream, with a time limit of its own, so that no error can leave it holding). Host time comes from a second, ungated
turn, from the first call to the end of a synchronisation. The SM clock comes from two tiny kernels around the span.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pykernels.backends.cuda_operands import HotRows, Operands, calls_of_launch
from pykernels.backends.cuda_requests import MOST_NODES, Requests
from pykernels.backends.cuda_table import Entry, pack_args, split_variant
from pykernels.machine.gpu import Reading
from pykernels.model import Problem, Samples

if TYPE_CHECKING:
    from pykernels.backends.cuda import CudaSession

Array = np.ndarray[Any, Any]

#: calls of a graph where index sets are few (as many as there are, where they are more); longer spans replay it
GRAPH_NODES = 64
#: graphs kept
GRAPHS = 16
#: operations queued behind a closed gate at most: far below the depth at which a queue makes the host wait
GATED_OPERATIONS = 256
GATE_LIMIT_NS = 50_000_000
#: a span too short for the clock estimate (globaltimer ticks are up to a microsecond)
CLOCK_SPAN_S = 2e-4
HOST_CALLS = 8
BURST_GAP_S = 0.02
SUSTAIN_S = 1.0


class Spans:
    """Times what is queued on a session's device. Owns the gate's flag and the two clock tables."""

    def __init__(self, session: CudaSession) -> None:
        self.session, self.device = session, session.device
        self.flag = self.device.alloc(256, "pinned")
        self.word = self.device.host_view(self.flag)[:4].view(np.uint32)
        self.overran = 0
        self.pairs = 2 * max(1024, self.device.facts.sms)
        self.tables = [self.device.alloc(self.pairs * 8) for _ in range(2)]
        self.word[0] = 1
        self._gate()  # loads both kernels: loading behind a closed gate would wait for it
        self._clock(0)
        self.device.synchronize()

    def _gate(self) -> None:
        self.session.launch("gate", "none", [self.flag.pointer], [GATE_LIMIT_NS])

    def _clock(self, which: int) -> None:
        self.session.launch("clock", "none", [self.tables[which].pointer], [])

    def device_time(self, body: Callable[[], None], operations: int) -> tuple[float, float]:
        """(seconds, GHz or 0) of what `body` queues. A gate whose time ran out before all was queued lets the host's
        time into the span: `overran` counts those."""
        for table in self.tables:
            self.device.fill(table, 0)
        gated = operations <= GATED_OPERATIONS
        self.device.synchronize()
        closed = time.perf_counter()
        if gated:
            self.word[0] = 0
            self._gate()
        try:
            self._clock(0)
            start = self.device.mark()
            body()
            stop = self.device.mark()
            self._clock(1)
        finally:
            self.word[0] = 1
        self.overran += gated and time.perf_counter() - closed > 0.9e-9 * GATE_LIMIT_NS
        seconds = self.device.elapsed(start, stop)
        return seconds, self._ghz() if seconds >= CLOCK_SPAN_S else 0.0

    def host_time(self, body: Callable[[], None], calls: int, before: Callable[[], None] | None = None) -> float:
        """Seconds per call of `calls` calls, each waited for; what `before` queues first is not counted."""
        total = 0.0
        for _ in range(calls):
            if before is not None:
                before()
            self.device.synchronize()
            started = time.perf_counter()
            body()
            self.device.synchronize()
            total += time.perf_counter() - started
        return total / calls

    def _ghz(self) -> float:
        """Median over multiprocessors of cycles over nanoseconds between the two tables."""
        shape = (self.pairs // 2, 2)
        first, last = (self.device.read(table, np.int64, shape) for table in self.tables)
        seen = (first[:, 1] > 0) & (last[:, 1] > first[:, 1])
        if not seen.any():
            return 0.0
        delta = (last - first)[seen]
        return float(np.median(delta[:, 0] / delta[:, 1]))

    def close(self) -> None:
        """Give the small buffers back."""
        for buffer in (self.flag, *self.tables):
            self.device.free(buffer)


class KernelRunner:
    """A base.Runner over one entry."""

    def __init__(self, session: CudaSession, problem: Problem, entry: Entry, variant: str) -> None:
        self.session, self.device, self.entry = session, session.device, entry
        self.problem, self.variant = problem, variant
        self.tune = split_variant(variant)[1]
        self.function = session.function(entry)
        self.dims = problem.dims()
        self.each = calls_of_launch(problem)
        self.geometry = entry.launch(self.dims, self.device.facts.sms, self.tune)
        self.operands = Operands(session, problem)
        self.hot: HotRows | None = None
        self.sets = int(getattr(problem, "sets", 1))
        few = self.sets <= GRAPH_NODES
        self.nodes = GRAPH_NODES // self.sets * self.sets if few else min(self.sets, MOST_NODES)
        self._graphs: dict[tuple[int, int], Any] = {}
        self._readings: dict[str, Reading] = {}
        self._turn = 0  # calls made: rotating operands are at this one's set
        self._requests: Requests | None = None
        self._latency: dict[str, Any] = {}
        self._energy: dict[str, float] = {}
        try:
            if session.ends.cached:
                self.hot = HotRows(self.operands, session.cached_percent)
            self.spans = Spans(session)
            self.run(1)
            if self.operands.arriving or self.operands.leaving:
                self.ask()  # nothing may be met for the first time behind a closed gate
        except BaseException:
            self.operands.close()
            raise

    @property
    def plain(self) -> bool:
        """True where every call is a launch of its own, not a node of a graph."""
        return self.session.placement.launch in ("plain", "mapped")

    def inputs(self) -> Mapping[str, Array]:
        """Host copies of the inputs."""
        return self.operands.read("in", "inout")

    def outputs(self) -> Mapping[str, Array]:
        """Host copies of the outputs."""
        return self.operands.read("out", "inout")

    def poison(self) -> None:
        """See Operands.poison."""
        self.operands.poison()

    def run(self, calls: int) -> None:
        """Run untimed from the first index set on, without what crosses the link, and wait."""
        self._turn = 0
        launches = -(-calls // self.each)
        for _ in range(1 if self.entry.loops else launches):
            self._launch(launches if self.entry.loops else 1)
        self.device.synchronize()

    def ask(self) -> None:
        """The next call as a request: with what crosses the link, and waited for."""
        self._call()
        self.device.synchronize()

    def sample(self, reps: int, count: int) -> Samples:
        """`count` samples in the placement's mode; `host_s` is the end-to-end time of a call."""
        mode = self.session.placement.mode
        launches = max(1, round(reps / self.each))
        if mode not in ("cold", "closed", "open") and not (self.plain or self.entry.loops):
            launches = -(-launches // self.sets) * self.sets  # each index set as often as the others
        samples = Samples(samples_s=[], reps=launches * self.each)
        if mode == "sustained" and "before" not in self._readings:
            self._energy = self._load_for(SUSTAIN_S)
        self._readings.setdefault("before", self.device.sensors())
        if mode in ("closed", "open"):
            samples.samples_s = samples.host_s = self._request_samples(reps, count)
            count = 0
        for _ in range(count):
            if mode == "burst":
                time.sleep(BURST_GAP_S)
            seconds, ghz = self._cold(launches) if mode == "cold" else self._steady(launches)
            samples.samples_s.append(seconds / samples.reps)
            samples.clock_ghz.append(ghz)
            if not self.entry.loops:
                before = self._chill if mode == "cold" else None
                waited = self.spans.host_time(self._call, min(launches, HOST_CALLS), before)
                samples.host_s.append(waited / self.each)
        self._readings["after"] = self.device.sensors()
        return samples

    def _request_samples(self, reps: int, count: int) -> list[float]:
        """Mean seconds of `reps` requests, `count` times; the first time also what `facts` says of 5,000."""
        if self._requests is None:
            self._requests = Requests(self)
            self._latency = self._requests.facts(self.session.placement.mode == "open")
        return [float(self._requests.closed(reps).mean()) * 1e-9 for _ in range(count)]

    def facts(self) -> dict[str, Any]:
        """Device, cubin, geometry, sensors, energy of a call under sustained load, latencies, G5's hit share."""
        from pykernels.backends.cuda import sensor_facts

        found = self.session.facts(self.entry) | sensor_facts(self._readings) | self._latency
        found |= {"grid": self.geometry.grid, "block": self.geometry.block, "symbol": self.entry.symbol}
        found |= self._energy | ({"gate_overran": self.spans.overran} if self.spans.overran else {})
        if self.hot is not None:
            found |= {"cached_rows": self.hot.rows, "hit_share": self.hot.hit_share}
        return found

    def close(self) -> None:
        """Give graphs and buffers back."""
        for graph in self._graphs.values():
            self.device.drop(graph)
        self._graphs = {}
        if self._requests is not None:
            self._requests.close()
        self.spans.close()
        if self.hot is not None:
            self.hot.close()
        self.operands.close()

    # ------------------------------------------------------------------------------------------------------- queueing

    def arguments(self, reps: int, turn: int | None = None) -> bytes:
        """The parameter block of one launch, of the index set whose turn it is."""
        pointers = self.operands.pointers(self._turn if turn is None else turn)
        if self.hot is not None:
            pointers = self.hot.pointers(pointers)
        return pack_args(
            pointers, self.dims, self.problem.scalars(), reps=reps, tune=self.tune,
            scratch=self.session.scratch.pointer,
        )  # fmt: skip

    def _launch(self, reps: int) -> None:
        self.device.launch(self.function, self.geometry, self.arguments(reps))
        self._turn += 1

    def _call(self) -> None:
        """One call with what crosses the link for it."""
        self.operands.arrive(self._turn)
        self._launch(1)
        self.operands.leave()

    def _call_often(self, count: int) -> None:
        for _ in range(count):
            self._call()

    def _calls(self, count: int) -> None:
        """Queue `count` calls by the placement's launch path."""
        if self.plain:
            self._call_often(count)
            return
        for first, nodes in self._chunks(count):
            self.device.replay(self.graph(first, nodes))
            self._turn += nodes

    def _chunks(self, count: int) -> list[tuple[int, int]]:
        """(first set, calls) of the graphs that make `count` calls, from the set on whose turn it is; few sets begin
        anew with every graph."""
        found, turn, few = [], self._turn, self.sets <= GRAPH_NODES
        while count > 0:
            first = 0 if few else turn % self.sets
            nodes = min(self.nodes, count) if few else min(self.nodes, count, self.sets - first)
            found.append((first, nodes))
            turn, count = turn + nodes, count - nodes
        return found

    def graph(self, first: int, nodes: int) -> Any:
        """A graph of so many calls from a set on; the last GRAPHS are kept."""
        if (first, nodes) not in self._graphs:
            if len(self._graphs) == GRAPHS:
                self.device.drop(self._graphs.pop(next(iter(self._graphs))))
            self._graphs[first, nodes] = self.capture(first, nodes)
        return self._graphs[first, nodes]

    def capture(self, first: int, nodes: int) -> Any:
        """A new graph of so many calls from a set on."""
        turn, self._turn = self._turn, first
        try:
            return self.device.capture(lambda: self._call_often(nodes))
        finally:
            self._turn = turn

    def _steady(self, reps: int) -> tuple[float, float]:
        if self.entry.loops:
            return self.spans.device_time(lambda: self._launch(reps), 1)
        plain = self.plain
        if not plain:  # captured before the gate closes; the same graphs for every sample
            self._turn = 0
            for chunk in self._chunks(reps):
                self.graph(*chunk)
        operations = reps if plain else len(self._chunks(reps))
        return self.spans.device_time(lambda: self._calls(reps), operations)

    def _cold(self, reps: int) -> tuple[float, float]:
        """Total device time of `reps` calls, each after the L2 was overwritten."""
        total, ghz = 0.0, 0.0
        for _ in range(reps):
            self._chill()
            seconds, ghz = self.spans.device_time(self._call, 1)
            total += seconds
        return total, ghz

    def _chill(self) -> None:
        """Overwrite the L2; a managed table goes home to the host first."""
        self.operands.send_home()
        self.device.fill(self.session.flush_buffer(), 0x5A)

    def _load_for(self, seconds: float) -> dict[str, float]:
        """Keep the device busy, so that power and clocks settle; the energy of a call meanwhile, where it is counted
        (the counter moves some ten times a second)."""
        calls, started, before = 0, time.monotonic(), self.device.sensors().energy_j
        while time.monotonic() < started + seconds:
            if self.entry.loops:
                self._launch(GRAPH_NODES)
            else:
                self._calls(GRAPH_NODES)
            self.device.synchronize()
            calls += GRAPH_NODES * self.each
        after = self.device.sensors().energy_j
        return {} if before is None or after is None else {"joules_per_call": (after - before) / calls}
