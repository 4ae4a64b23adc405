"""One case of a csrc/cuda kernel on a device: operands, launches, and timed spans.

Device time comes from events around a span that was queued whole before its clock starts (a gate kernel holds the
stream, with a time limit of its own, so that no error can leave it holding). Host time comes from a second, ungated
turn, from the first call to the end of a synchronisation. The SM clock comes from two tiny kernels around the span.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pykernels.backends.cuda_driver import Buffer
from pykernels.backends.cuda_table import SCRATCH_BYTES, Entry, pack_args, split_variant
from pykernels.kernels import dtypes
from pykernels.kernels.random import _BITS as BITS
from pykernels.machine.gpu import Reading
from pykernels.model import Operand, Problem, Samples

if TYPE_CHECKING:
    from pykernels.backends.cuda import CudaSession

Array = np.ndarray[Any, Any]

#: nodes of a graph of calls; longer spans replay it
GRAPH_NODES = 64
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
        """(seconds, GHz or 0) of what `body` queues."""
        for table in self.tables:
            self.device.fill(table, 0)
        gated = operations <= GATED_OPERATIONS
        self.device.synchronize()
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
        seconds = self.device.elapsed(start, stop)
        return seconds, self._ghz() if seconds >= CLOCK_SPAN_S else 0.0

    def host_time(self, body: Callable[[], None], calls: int) -> float:
        """Seconds per call of `calls` calls, each waited for."""
        self.device.synchronize()
        started = time.perf_counter()
        for _ in range(calls):
            body()
            self.device.synchronize()
        return (time.perf_counter() - started) / calls

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


class Operands:
    """A problem's operands in their places: what ends say of the table, pinned twins of what crosses the link."""

    def __init__(self, session: CudaSession, problem: Problem) -> None:
        self.session, self.device, self.problem = session, session.device, problem
        self.operands = problem.operands()
        self.buffers: dict[str, Buffer] = {}
        self.pinned: dict[str, Buffer] = {}
        self._copies: dict[str, Array] = {}
        ends = session.ends
        try:
            for operand in self.operands:
                memory = ends.table if operand.name == self.table else "device"
                self.buffers[operand.name] = self.device.alloc(_bytes(operand), memory)
                if operand.role != "out":
                    self._fill(operand)
            for name in (*self.arriving, *self.leaving):
                self.pinned[name] = self.device.alloc(self.buffers[name].nbytes, "pinned")
            for name in self.arriving:
                self.device.copy(self.pinned[name], self.buffers[name], self.buffers[name].nbytes)
            self.device.synchronize()
        except BaseException:
            self.close()
            raise

    @property
    def table(self) -> str:
        """The largest input: what the ends of a lookup place."""
        inputs = [operand for operand in self.operands if operand.role == "in"]
        return max(inputs, key=_bytes).name if inputs else ""

    @property
    def arriving(self) -> tuple[str, ...]:
        """Inputs that cross the link with every call."""
        if not self.session.ends.inputs_arrive:
            return ()
        return tuple(o.name for o in self.operands if o.role != "out" and o.name != self.table)

    @property
    def leaving(self) -> tuple[str, ...]:
        """Outputs that cross the link with every call."""
        return tuple(o.name for o in self.operands if o.role != "in") if self.session.ends.results_leave else ()

    def pointers(self) -> list[int]:
        """Device pointers in operand order."""
        return [self.buffers[operand.name].pointer for operand in self.operands]

    def read(self, *roles: str) -> dict[str, Array]:
        """Host copies; inputs are read once, since no call changes them."""
        found = {}
        for operand in self.operands:
            if operand.role not in roles:
                continue
            if operand.role == "in" and operand.name in self._copies:
                found[operand.name] = self._copies[operand.name]
                continue
            source = self.buffers[operand.name]
            shape = dtypes.stored_shape(operand.shape, operand.dtype)
            found[operand.name] = self.device.read(source, dtypes.storage(operand.dtype), shape)
            if operand.role == "in":
                self._copies[operand.name] = found[operand.name]
        return found

    def poison(self) -> None:
        """Outputs to NaN (all ones) or, for integers, a pattern; inout operands anew."""
        for operand in self.operands:
            if operand.role == "out":
                self.device.fill(self.buffers[operand.name], 0xFF if operand.dtype in dtypes.ROUNDOFF else 0xA5)
            elif operand.role == "inout":
                self._fill(operand)
        self.device.synchronize()

    def arrive(self) -> None:
        """Queue the copies to the device."""
        for name in self.arriving:
            self.device.copy(self.buffers[name], self.pinned[name], self.buffers[name].nbytes)

    def leave(self) -> None:
        """Queue the copies to the host."""
        for name in self.leaving:
            self.device.copy(self.pinned[name], self.buffers[name], self.buffers[name].nbytes)

    def _fill(self, operand: Operand) -> None:
        recipe, buffer = operand.recipe, self.buffers[operand.name]
        if recipe.distribution == "host":
            self.device.write(buffer, self.problem.host_input(operand.name))
            return
        fill_operand(self.session, operand, buffer)

    def close(self) -> None:
        """Give everything back."""
        for buffer in (*self.buffers.values(), *self.pinned.values()):
            self.device.free(buffer)
        self.buffers, self.pinned = {}, {}


def fill_operand(session: CudaSession, operand: Operand, buffer: Buffer) -> None:
    """Queue the fill of a buffer by an operand's recipe, which must not be `host`."""
    recipe = operand.recipe
    kind = 1 if recipe.distribution == "integers" else 2 if operand.dtype == "bf16" else 0
    dims = [math.prod(operand.shape), recipe.seed, BITS[operand.dtype], kind]
    session.launch("fill", "any", [buffer.pointer], dims, (recipe.low, recipe.high))


class KernelRunner:
    """A base.Runner over one entry."""

    def __init__(self, session: CudaSession, problem: Problem, entry: Entry, variant: str) -> None:
        self.session, self.device, self.entry = session, session.device, entry
        self.problem, self.variant = problem, variant
        self.tune = split_variant(variant)[1]
        self.function = session.function(entry)
        self.geometry = entry.launch(problem.dims(), self.device.facts.sms, self.tune)
        self.operands = Operands(session, problem)
        self.hot: HotRows | None = None
        self._graphs: dict[int, Any] = {}
        self._readings: dict[str, Reading] = {}
        try:
            if session.ends.cached:
                self.hot = HotRows(self.operands, session.cached_percent)
            self.spans = Spans(session)
            self.run(1)
        except BaseException:
            self.operands.close()
            raise

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
        """Run untimed, and wait."""
        for _ in range(1 if self.entry.loops else calls):
            self._launch(calls if self.entry.loops else 1)
        self.device.synchronize()

    def sample(self, reps: int, count: int) -> Samples:
        """`count` samples in the placement's mode; `host_s` is the end-to-end time of a call."""
        mode = self.session.placement.mode
        samples = Samples(samples_s=[], reps=reps)
        if mode == "sustained" and "before" not in self._readings:
            self._load_for(SUSTAIN_S)
        self._readings.setdefault("before", self.device.sensors())
        for _ in range(count):
            if mode == "burst":
                time.sleep(BURST_GAP_S)
            seconds, ghz = self._cold(reps) if mode == "cold" else self._steady(reps)
            samples.samples_s.append(seconds / reps)
            samples.clock_ghz.append(ghz)
            if not self.entry.loops:
                samples.host_s.append(self.spans.host_time(self._call, min(reps, HOST_CALLS)))
        self._readings["after"] = self.device.sensors()
        return samples

    def facts(self) -> dict[str, Any]:
        """Device, cubin, geometry, sensors, G5's hit share."""
        from pykernels.backends.cuda import sensor_facts

        found = self.session.facts(self.entry) | sensor_facts(self._readings)
        found |= {"grid": self.geometry.grid, "block": self.geometry.block, "symbol": self.entry.symbol}
        if self.hot is not None:
            found |= {"cached_rows": self.hot.rows, "hit_share": self.hot.hit_share}
        return found

    def close(self) -> None:
        """Give graphs and buffers back."""
        for graph in self._graphs.values():
            self.device.drop(graph)
        self._graphs = {}
        self.spans.close()
        if self.hot is not None:
            self.hot.close()
        self.operands.close()

    # ------------------------------------------------------------------------------------------------------- queueing

    def _launch(self, reps: int) -> None:
        pointers = self.operands.pointers()
        if self.hot is not None:
            pointers = self.hot.pointers(pointers)
        args = pack_args(
            pointers, self.problem.dims(), self.problem.scalars(), reps=reps, tune=self.tune,
            scratch=self.session.scratch.pointer,
        )  # fmt: skip
        self.device.launch(self.function, self.geometry, args)

    def _call(self) -> None:
        """One call with what crosses the link for it."""
        self.operands.arrive()
        self._launch(1)
        self.operands.leave()

    def _call_often(self, count: int) -> None:
        for _ in range(count):
            self._call()

    def _calls(self, count: int) -> None:
        """Queue `count` calls by the placement's launch path."""
        if self.session.placement.launch == "plain":
            self._call_often(count)
            return
        for nodes in (*[GRAPH_NODES] * (count // GRAPH_NODES), count % GRAPH_NODES):
            if nodes:
                self.device.replay(self._graph(nodes))

    def _graph(self, nodes: int) -> Any:
        """A graph of so many calls; two are kept, the full one and the last rest."""
        if nodes not in self._graphs:
            for old in [size for size in self._graphs if size != GRAPH_NODES]:
                self.device.drop(self._graphs.pop(old))
            self._graphs[nodes] = self.device.capture(lambda: self._call_often(nodes))
        return self._graphs[nodes]

    def _steady(self, reps: int) -> tuple[float, float]:
        if self.entry.loops:
            return self.spans.device_time(lambda: self._launch(reps), 1)
        plain = self.session.placement.launch == "plain"
        if not plain:  # captured before the gate closes
            for nodes in {min(reps, GRAPH_NODES), reps % GRAPH_NODES} - {0}:
                self._graph(nodes)
        operations = reps if plain else -(-reps // GRAPH_NODES)
        return self.spans.device_time(lambda: self._calls(reps), operations)

    def _cold(self, reps: int) -> tuple[float, float]:
        """Total device time of `reps` calls, each after the L2 was overwritten."""
        flush, total, ghz = self.session.flush_buffer(), 0.0, 0.0
        for _ in range(reps):
            self.device.fill(flush, 0x5A)
            seconds, ghz = self.spans.device_time(self._call, 1)
            total += seconds
        return total, ghz

    def _load_for(self, seconds: float) -> None:
        """Keep the device busy, so that power and clocks settle."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.entry.loops:
                self._launch(GRAPH_NODES)
            else:
                self._calls(GRAPH_NODES)
            self.device.synchronize()


class HotRows:
    """G5: the rows looked up most, in device memory, and for every row its slot there or -1.

    Its kernels take two more pointers, the last two of the parameter block: slots (int32, one per row), cached rows."""

    def __init__(self, operands: Operands, percent: int) -> None:
        self.device = operands.device
        table = next(o for o in operands.operands if o.name == operands.table)
        indices = operands.read("in")["indices"]
        total, row_bytes = table.shape[0], operands.buffers[table.name].nbytes // table.shape[0]
        counts = np.bincount(indices.ravel(), minlength=total)
        self.rows = max(1, total * percent // 100)
        hot = np.sort(np.argsort(-counts, kind="stable")[: self.rows])
        self.hit_share = float(counts[hot].sum() / max(1, counts.sum()))
        slots = np.full(total, -1, np.int32)
        slots[hot] = np.arange(self.rows, dtype=np.int32)
        rows = operands.read("in")[table.name].reshape(total, -1)[hot]
        self.buffers = [self.device.alloc(slots.nbytes), self.device.alloc(self.rows * row_bytes)]
        for buffer, array in zip(self.buffers, (slots, rows), strict=True):
            self.device.write(buffer, array)

    def pointers(self, pointers: list[int]) -> list[int]:
        """All pointers of the parameter block."""
        from pykernels.backends.cuda_table import POINTERS

        return [*pointers, *[0] * (POINTERS - 2 - len(pointers)), *(buffer.pointer for buffer in self.buffers)]

    def close(self) -> None:
        """Give both buffers back."""
        for buffer in self.buffers:
            self.device.free(buffer)


def _bytes(operand: Operand) -> int:
    return max(1, dtypes.stored_bytes(operand.shape, operand.dtype))


assert SCRATCH_BYTES >= 8 * (1 + 1024 * 32)
