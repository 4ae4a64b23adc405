"""The engine's paths on a scripted device: timing, clocks, throttling, errors, memory, modes, launch paths, ends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_gpu import FACTS, FakeDevice, Script

from pykernels import worker
from pykernels.backends import cuda, cuda_driver
from pykernels.backends.cuda import CudaSession
from pykernels.errors import DeviceLost, PykernelsError
from pykernels.kernels.embedding import EmbeddingBag
from pykernels.kernels.launch import LaunchFloor
from pykernels.kernels.link import Link
from pykernels.kernels.stream import Stream
from pykernels.kernels.tensor_gemm import TensorGemm
from pykernels.machine.gpu import Reading, Sensors
from pykernels.measure.sampling import Settings
from pykernels.model import (
    Case,
    Conditions,
    Crashed,
    Gpu,
    Implementation,
    Machine,
    Measured,
    Placement,
    Problem,
    Skipped,
)  # fmt: skip
from pykernels.registry import case_to_builtins
from pykernels.worker import Open, Tune, Visit, answer

Opener = Callable[..., CudaSession]
COPY = Stream(op="copy", n=1000, dtype="fp32")
GPU = Gpu(index=0, name="Fake H100", memory_bytes=1 << 26, compute_capability="9.0", sms=2, driver="CUDA 13.0")
MACHINE = Machine(id="test", arch="x86_64", gpus=(GPU, Gpu(index=1, name="Fake H100 MIG 1g.10gb", mig="1g.10gb")))


def case(problem: Problem = COPY, variant: str = "b16:4", **placement: str) -> Case:
    return Case(problem, Implementation("cuda", "", variant), Placement(device="gpu:0", **placement))


def visit(session: CudaSession, problem: Problem = COPY, variant: str = "b16:4") -> Any:
    settings = Settings(visit_s=0.001, max_samples=10)
    return answer(session, Visit(case_to_builtins(case(problem, variant)), variant, settings, seed=1))


def runner_of(session: CudaSession, problem: Problem = COPY, variant: str = "b16:4") -> Any:
    return session.prepare(problem, Implementation("cuda", "", variant))


def fake(session: CudaSession) -> FakeDevice:
    assert isinstance(session.device, FakeDevice)
    return session.device


def test_a_visit_ends_in_a_measured_outcome(fake_session: Opener) -> None:
    reply = visit(fake_session(Script(launch_s=lambda symbol, launch: 5e-6)))
    assert isinstance(reply.outcome, Measured)
    assert reply.outcome.samples_s == pytest.approx([5e-6] * len(reply.outcome.samples_s))
    assert len(reply.outcome.host_s) == len(reply.outcome.samples_s)
    facts = reply.conditions.facts
    assert (facts["grid"], facts["block"], facts["symbol"]) == (8, 256, "stream__copy__fp32__b16")
    assert (facts["arch"], facts["nvrtc"], facts["gpu"]) == ("sm_90", "13.0", "Fake H100")


def test_a_tuning_pass_ranks_the_candidates(fake_session: Opener) -> None:
    session = fake_session(Script(launch_s=lambda symbol, launch: 1e-5 if "b16" in symbol else 2e-5))
    reply = answer(session, Tune(case_to_builtins(case(variant="")), ["b4:4", "b16:4"]))
    assert reply.seconds == pytest.approx({"b4:4": 2e-5, "b16:4": 1e-5})


def test_a_candidate_that_refuses_leaves_the_others(fake_session: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    session = fake_session()
    prepare = session.prepare

    def refusing(problem: Problem, implementation: Implementation) -> Any:
        if implementation.variant != "b16:4":
            raise PykernelsError("the library offers one algorithm for this product")
        return prepare(problem, implementation)

    monkeypatch.setattr(session, "prepare", refusing)
    reply = answer(session, Tune(case_to_builtins(case(variant="")), ["b4:4", "b16:4", "flat16"]))
    assert list(reply.seconds) == ["b16:4"]
    reply = answer(session, Tune(case_to_builtins(case(variant="")), ["b4:4", "flat16"]))
    assert isinstance(reply.outcome, Skipped)
    assert "one algorithm" in reply.outcome.reason


def test_a_gate_that_ran_out_is_in_the_record(fake_session: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of(fake_session())
    runner.sample(2, 1)
    assert "gate_overran" not in runner.facts()
    monkeypatch.setattr("pykernels.backends.cuda_runner.GATE_LIMIT_NS", 0)
    runner.sample(2, 3)
    assert runner.facts()["gate_overran"] == 3


def test_energy_of_a_call_under_sustained_load(fake_session: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pykernels.backends.cuda_runner.SUSTAIN_S", 0.02)
    script = Script(reading=lambda now: Reading(energy_j=500 * now), launch_s=lambda symbol, launch: 1e-3)
    runner = runner_of(fake_session(script, mode="sustained"))
    runner.sample(2, 1)
    assert runner.facts()["joules_per_call"] == pytest.approx(0.5, rel=0.01)
    assert "no_energy" not in runner.facts()
    without = runner_of(fake_session(mode="sustained"))
    without.sample(2, 1)
    assert without.facts()["no_energy"] == "NVML has no energy counter of this device"


def test_every_buffer_is_given_back(fake_session: Opener) -> None:
    session = fake_session()
    before = set(fake(session).live)
    runner = runner_of(session)
    runner.sample(3, 2)
    runner.close()
    assert set(fake(session).live) == before


def test_steady_spans_are_graphs_queued_behind_a_gate(fake_session: Opener) -> None:
    session = fake_session()
    runner = runner_of(session)
    device = fake(session)
    runner.sample(150, 1)
    device.log.clear()
    runner.sample(150, 1)
    span = device.log[: device.log.index("clock____none__plain", 4) + 1]
    assert span == [
        "fill", "fill", "gate____none__plain", "clock____none__plain", "mark", "graph64", "graph64", "graph22", "mark",
        "clock____none__plain",
    ]  # fmt: skip


def test_plain_launches_and_ungated_long_spans(fake_session: Opener) -> None:
    session = fake_session(launch="plain")
    runner = runner_of(session)
    device = fake(session)
    device.log.clear()
    runner.sample(300, 1)
    assert "gate____none__plain" not in device.log
    assert device.log.count("stream__copy__fp32__b16") >= 300


def test_a_loop_kernel_makes_its_passes_inside(fake_session: Opener) -> None:
    session = fake_session()
    runner = runner_of(session, Stream(op="load", n=1000, dtype="fp32"), "l2:2")
    device = fake(session)
    device.log.clear()
    samples = runner.sample(50, 1)
    assert device.log.count("stream__load__fp32__l2") == 1
    assert samples.samples_s == pytest.approx([5e-6 / 50])
    assert samples.host_s == []


def test_cold_overwrites_twice_the_l2_before_every_call(fake_session: Opener) -> None:
    session = fake_session(mode="cold")
    runner = runner_of(session)
    device = fake(session)
    device.log.clear()
    samples = runner.sample(4, 1)
    assert session.flush_buffer().nbytes == 2 * FACTS.l2_bytes
    assert (
        device.log.count("fill") == 3 * 4 + 4
    )  # a flush and two clock tables for the device's time, a flush for the host's
    launches = [i for i, what in enumerate(device.log) if what == "stream__copy__fp32__b16"]
    assert all("fill" in device.log[before:after] for before, after in zip([0, *launches], launches, strict=False))
    assert samples.samples_s == pytest.approx([5e-6])


def test_throttling_shows_in_clock_and_reasons(fake_session: Opener) -> None:
    def reading(now: float) -> Reading:
        hot = now > 1.01
        return Reading(
            sm_mhz=1980.0, power_w=700.0, temperature_c=60.0 + 20 * hot, energy_j=700 * now,
            throttle=("software power cap",) if hot else (),
        )  # fmt: skip

    script = Script(ghz=lambda now: 1.4 if now > 1.01 else 1.9, reading=reading, launch_s=lambda symbol, launch: 1e-3)
    session = fake_session(script)
    runner = runner_of(session)
    samples = runner.sample(2, 10)
    assert samples.clock_ghz[0] == pytest.approx(1.9, rel=0.01)
    assert samples.clock_ghz[-1] == pytest.approx(1.4, rel=0.01)
    facts = runner.facts()
    assert facts["throttle"] == ["software power cap"]
    assert facts["gpu_temperature_c"] == 80.0
    assert facts["energy_j"] > 0


def test_out_of_memory_is_a_record_and_leaks_nothing(fake_session: Opener) -> None:
    session = fake_session()
    before = set(fake(session).live)
    reply = visit(session, Stream(op="copy", n=1 << 25, dtype="fp32"))
    assert isinstance(reply.outcome, Crashed)
    assert reply.outcome.how == "out of memory"
    assert not reply.lost
    assert set(fake(session).live) == before
    assert isinstance(visit(session).outcome, Measured)  # the session still works


@pytest.mark.parametrize("launch", [3, 8, 40])
def test_a_lost_device_ends_the_worker_in_the_middle_of_a_run(fake_session: Opener, launch: int) -> None:
    session = fake_session(Script(fail_at={launch: DeviceLost("launch: unspecified launch failure")}))
    reply = visit(session)
    assert isinstance(reply.outcome, Crashed)
    assert (reply.outcome.how, reply.lost) == ("device lost", True)


def test_each_gpu_is_opened_by_its_number() -> None:
    opened = []
    backend = cuda.CudaBackend(lambda index: opened.append(index) or FakeDevice(index))  # type: ignore[func-returns-value]
    for device in ("gpu:0", "gpu:1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pykernels.backends.cuda_compile.supported_archs", lambda: (90,))
            patch.setattr("pykernels.backends.cuda_compile.nvrtc_version", lambda: "13.0")
            backend.open(Placement(device=device), MACHINE)
    assert opened == [0, 1]


@pytest.mark.parametrize(
    ("placement", "problem", "reason"),
    [
        ({"device": "cpu"}, COPY, "runs on GPUs only"),
        ({"device": "gpu:5"}, COPY, "there is no gpu:5 (there is gpu:0, gpu:1)"),
        ({"ends": "G9"}, COPY, 'ends = "G9" is not one of a GPU'),
        ({"mode": "warm"}, COPY, 'no mode "warm"'),
        ({}, Stream(op="copy", n=1 << 24, dtype="fp32"), "its operands take 128 MiB"),
    ],
)
def test_what_cannot_run_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, placement: dict[str, str], problem: Problem, reason: str
) -> None:
    backend = cuda.CudaBackend(FakeDevice)
    monkeypatch.setattr(backend, "missing", lambda device: None)
    wanted = Case(problem, Implementation("cuda"), Placement(**{"device": "gpu:0", **placement}))
    skipped = backend.skip(wanted, MACHINE)
    assert isinstance(skipped, Skipped)
    assert reason in skipped.reason


def test_without_a_gpu_the_reason_and_the_mend_are_given() -> None:
    skipped = cuda.CudaBackend().skip(case(), Machine(id="none", arch="x86_64"))
    assert skipped is not None
    assert skipped.reason.startswith("there is no gpu:0")
    assert skipped.hint == "pykernels check"


def test_a_kernel_above_the_capability_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    from pykernels.kernels.mma import Mma

    backend = cuda.CudaBackend(FakeDevice)
    monkeypatch.setattr(backend, "missing", lambda device: None)
    old = Machine(id="old", arch="x86_64", gpus=(Gpu(index=0, name="T4", compute_capability="7.5"),))
    skipped = backend.skip(case(Mma(dtype="bf16", m=16, k=16), ""), old)
    assert skipped is not None
    assert skipped.reason == "needs compute capability 8.0; T4 has 7.5"


class CudaError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"cudaError {status}")
        self.status = status


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (2, MemoryError, "cudaError 2"), (700, DeviceLost, "700"), (719, DeviceLost, "719"),
        (46, PykernelsError, "another process"), (101, PykernelsError, "no device of that number"),
        (35, PykernelsError, "older than the CUDA runtime"), (218, PykernelsError, "older than the toolkit"),
        (100, PykernelsError, "sees no device"), (1, CudaError, "cudaError 1"),
    ],
)  # fmt: skip
def test_cuda_errors_become_the_kinds_that_the_engine_knows(status: int, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says), cuda_driver.translated("launch"):
        raise CudaError(status)


@pytest.mark.parametrize(
    ("ends", "arrive", "leave"), [("G0", 0, 0), ("G1", 1, 0), ("G2", 1, 1), ("G3", 1, 1), ("G4", 1, 1)]
)
def test_ends_say_what_crosses_the_link(fake_session: Opener, ends: str, arrive: int, leave: int) -> None:
    session = fake_session(ends=ends)
    runner = runner_of(session, Stream(op="triad", n=1000, dtype="fp32"))
    memory = runner.operands.buffers["a"].memory
    assert memory == {"G3": "pinned", "G4": "managed"}.get(ends, "device")
    samples = runner.sample(10, 1)
    assert samples.samples_s == pytest.approx([5e-6 + (arrive + leave) * 4000 / 5e10])
    runner.poison()
    runner.run(1)
    assert runner.outputs()["c"].shape == (1000,)


class BrokenNvml:
    def nvmlInit(self) -> None:
        raise PermissionError("no permission")


class PartialNvml:
    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByPciBusId(self, bus: bytes) -> int:
        return 7

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 350_000

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return 0x04 | 0x20 | 0x01

    def nvmlDeviceGetTemperature(self, handle: int, which: int) -> int:
        raise RuntimeError("not permitted")


def test_sensors_never_raise() -> None:
    broken = Sensors("0000:00:00.0", BrokenNvml())
    assert (broken.read(), broken.reason) == (Reading(missing="NVML: no permission"), "NVML: no permission")
    partial = Sensors("0000:00:00.0", PartialNvml()).read()
    assert partial == Reading(power_w=350.0, throttle=("software power cap", "software thermal slowdown"))


def test_other_processes_are_neither_this_one_nor_its_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    def others(*numbers: int) -> int:
        nvml = PartialNvml()
        nvml.nvmlDeviceGetComputeRunningProcesses = lambda handle: [SimpleNamespace(pid=n) for n in numbers]  # type: ignore[attr-defined]
        return Sensors("0000:00:00.0", nvml).read().others

    with subprocess.Popen(["sleep", "9"]) as sibling:
        monkeypatch.setattr(os, "getppid", lambda: os.getpid())  # its parent is ours
        assert others(os.getpid(), sibling.pid) == 0
        monkeypatch.undo()
        assert others(os.getpid(), sibling.pid, 999_999_999) == 2
        assert others(111, 222) == 0  # a container: none of these numbers is this process
        sibling.kill()


@pytest.mark.parametrize(("status", "says"), [(46, "another process in exclusive mode"), (719, "cudaError 719")])
def test_a_device_that_cannot_be_opened_is_a_sentence(status: int, says: str) -> None:
    def refuse(index: int) -> FakeDevice:
        with cuda_driver.translated(f"gpu:{index}"):
            raise CudaError(status)
        raise AssertionError

    session, reply = worker._open(cuda.CudaBackend(refuse), Open("cuda", Placement(device="gpu:0"), MACHINE))
    assert session is None
    assert says in str(reply.outcome)
    assert "Traceback" not in str(reply.outcome)


def test_conditions_take_the_facts(fake_session: Opener) -> None:
    assert Conditions(facts=runner_of(fake_session()).facts()).facts["sms"] == 2


@pytest.mark.parametrize("ends", ["", "G2"])
def test_requests_in_closed_loop_give_latencies(
    fake_session: Opener, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr("pykernels.measure.latency.CALLS", 400)
    runner = runner_of(fake_session(mode="closed", ends=ends), Stream(op="triad", n=100, dtype="fp32"))
    samples = runner.sample(5, 3)
    assert len(samples.samples_s) == 3
    facts = runner.facts()
    assert facts["timed_by"] == "python"
    assert facts["latency"]["calls"] == 400
    assert facts["latency"]["p50_us_low"] <= facts["latency"]["p50_us"] <= facts["latency"]["p99_us"]
    runner.close()


def test_open_loops_find_the_rate_served_within_each_limit(
    fake_session: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver of known behaviour: 100 us a request, p99 of 1 / (1 - load) times that."""

    class Native:
        def __getattr__(self, name: str) -> Callable[..., str]:
            return lambda *arguments: name

        def closed_loop(self, steps: list[str], calls: int) -> Any:
            assert steps == ["launch", "wait", "next"]
            return np.full(calls, 100_000)

        def open_loop(self, steps: list[str], calls: int, rate: float, seed: int) -> Any:
            return np.full(calls, 100_000 / (1 - rate * 100e-6))

    monkeypatch.setattr("pykernels.backends.cuda_requests.native_driver", lambda session: Native())
    session = fake_session(mode="open")
    fake(session).load = lambda cubin, symbol: Entry7(symbol)  # type: ignore[method-assign]
    monkeypatch.setattr(FakeDevice, "launch", lambda self, function, launch, args: None)
    runner = runner_of(session)
    runner.sample(5, 1)
    facts = runner.facts()
    assert facts["served"] == pytest.approx({"1ms": 9000.0, "10ms": 9500.0, "60ms": 9500.0})
    assert len(facts["open_loop"]) == 6


class Entry7(int):
    """A function handle, which is a number for the native driver."""

    def __new__(cls, symbol: str) -> Entry7:
        return super().__new__(cls, 7)


@pytest.mark.parametrize(
    ("kernel", "placement", "known"),
    [
        ("copy", {"mode": "cold"}, True), ("copy", {"mode": "cold", "launch": "graph"}, False),
        ("copy", {"launch": "persistent"}, True), ("copy", {"launch": "persistent", "mode": "cold"}, False),
        ("link", {}, True), ("link", {"mode": "cold"}, False), ("link", {"launch": "plain"}, False),
        ("floor", {"mode": "closed"}, False), ("tensor", {"mode": "sustained"}, True),
        ("tensor", {"mode": "cold"}, False), ("tensor", {"launch": "graph"}, False),
    ],
)  # fmt: skip
def test_modes_and_paths_that_mean_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch, kernel: str, placement: dict[str, str], known: bool
) -> None:
    problems: dict[str, Problem] = {
        "copy": COPY, "link": Link(op="h2d", n=10, dtype="fp32"), "floor": LaunchFloor(op="plain", dtype="none"),
        "tensor": TensorGemm(dtype="bf16", n=64),
    }  # fmt: skip
    backend = cuda.CudaBackend(FakeDevice)
    monkeypatch.setattr(backend, "missing", lambda device: None)
    skipped = backend.skip(case(problems[kernel], "", **placement), MACHINE)
    assert (skipped is None) is known, skipped


def rotating(sets: int) -> EmbeddingBag:
    return EmbeddingBag(dtype="fp32", rows=(97,), dim=32, batch=2, pooling=((1, 1),), sets=sets)


@pytest.mark.parametrize(
    ("sets", "asked", "made", "chunks"),
    [
        (1, 70, 70, [(0, 64), (0, 6)]),
        (3, 70, 72, [(0, 63), (0, 9)]),
        (100, 70, 100, [(0, 100)]),
        (1000, 70, 1000, [(0, 512), (512, 488)]),
    ],
)
def test_every_index_set_is_looked_up_as_often_as_the_others(
    fake_session: Opener, sets: int, asked: int, made: int, chunks: list[tuple[int, int]]
) -> None:
    runner = runner_of(fake_session(), rotating(sets), "warp")
    device, seen = fake(runner.session), []
    launch = device.launch

    def noted(function: Any, geometry: Any, args: bytes) -> None:
        if function.kernel == "embedding_bag":
            seen.append(int(np.frombuffer(args, np.uint64, 2)[1]))  # where the indices of the call are
        launch(function, geometry, args)

    device.launch = noted  # type: ignore[method-assign]
    samples = runner.sample(asked, 1)
    assert samples.reps == made
    assert list(runner._graphs) == chunks
    captured = seen[: sum(nodes for _, nodes in chunks)]
    base, size = runner.operands.buffers["indices"].pointer, 2 * 4
    counts = np.bincount([(pointer - base) // size for pointer in captured], minlength=sets)
    assert set(counts.tolist()) == {made // sets}
    runner.close()


@pytest.mark.parametrize("path", ["plain", "graph"])
def test_requests_look_up_each_index_set_in_turn(
    fake_session: Opener, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    class Native:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            return lambda *arguments: (name, arguments[0] if arguments else None)

        def closed_loop(self, steps: list[Any], calls: int) -> Any:
            return np.full(calls, 1000)

    monkeypatch.setattr("pykernels.backends.cuda_requests.native_driver", lambda session: Native())
    session = fake_session(mode="closed", ends="G1", launch=path)
    monkeypatch.setattr(FakeDevice, "launch", lambda self, function, launch, args: None)
    monkeypatch.setattr(FakeDevice, "load", lambda self, cubin, symbol: Entry7(symbol))
    monkeypatch.setattr(FakeDevice, "capture", lambda self, body: 8)
    runner = runner_of(session, rotating(3), "warp")
    runner.sample(5, 1)
    steps = runner._requests.steps
    base = runner.operands.buffers["indices"].pointer
    arrived = [(to - base) // 8 for name, to in steps if name == "to_device"][::2]  # indices, then offsets
    assert arrived == ([0, 1, 2] if path == "plain" else [])
    assert [name for name, _ in steps].count("next") == 3
    assert [name for name, _ in steps].count("graph") == (3 if path == "graph" else 0)
    runner.close()
