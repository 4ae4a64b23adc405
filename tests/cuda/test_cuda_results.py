"""End C1: native lookups whose results go to a (fake) device."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeDevice
from host_build import built

from pykernels.backends import cuda_results
from pykernels.backends.native import BACKEND
from pykernels.errors import DeviceLost, PykernelsError
from pykernels.kernels.embedding import EmbeddingBag
from pykernels.machine.cpu import read_machine
from pykernels.measure import verify
from pykernels.model import Case, Implementation, Machine, Placement

FAKE_CUDA = Path(__file__).parent / "shim" / "fake_cuda.c"
TO_DEVICE, WAIT = 3, 5
BAG = EmbeddingBag(dtype="fp32", rows=(97,), dim=32, batch=5, pooling=((4, 4),))


def runner_on(device: FakeDevice, mode: str = "") -> Any:
    machine = read_machine()
    placement = Placement(threads=1, mode=mode)
    session = cuda_results.DeviceResults(BACKEND.open(placement, machine), lambda index: device, requests=bool(mode))
    case = Case(BAG, Implementation("native", BACKEND.isas(machine)[-1]), placement)
    variant = BACKEND.variants(case)[0]
    return session.prepare(BAG, Implementation("native", case.implementation.isa, variant))


def test_results_arrive_on_the_device() -> None:
    device = FakeDevice()
    runner = runner_on(device)
    assert verify.check_full(BAG, runner) is None
    runner.poison()
    assert np.isnan(runner.outputs()["out"]).all()
    runner.close()
    assert (device.log.count("lock"), device.log.count("unlock"), len(device.live)) == (1, 1, 0)


def test_a_sample_is_the_call_and_its_copy() -> None:
    runner = runner_on(FakeDevice())
    alone = runner.runner.sample(50, 3)
    samples = runner.sample(50, 3)
    facts = runner.facts()
    assert len(samples.samples_s) == len(samples.cpu_over_wall) == 3
    assert min(samples.samples_s) > facts["link_s"] / 4 > 0
    assert facts["link_bytes"] == 5 * 32 * 4
    assert len(alone.samples_s) == 3
    runner.close()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """The request driver over a driver library that copies on the host; calls of 0 ns."""
    requests = pytest.importorskip("pykernels._requests")
    library = built(FAKE_CUDA.read_bytes(), "libcuda.so.1", ["gcc", "-O1", "-fPIC", "-shared", "-w", str(FAKE_CUDA)])
    monkeypatch.setattr(
        "pykernels.backends.cuda_requests.native_driver", lambda session: requests.Cuda(str(library), 1, 2)
    )
    monkeypatch.setattr("pykernels.measure.latency.CALLS", 300)
    loaded = ctypes.CDLL(str(library))
    loaded.fake_reset(ctypes.c_int64(0), 0, 0)
    loaded.fake_count.restype = ctypes.c_int64
    return loaded


@pytest.mark.parametrize("mode", ["closed", "open"])
def test_requests_end_when_their_results_are_on_the_device(driver: ctypes.CDLL, mode: str) -> None:
    runner = runner_on(FakeDevice(), mode)
    assert verify.check_full(BAG, runner) is None
    samples = runner.sample(20, 3)
    facts = runner.facts()
    asked = 5 + 100 + 300 + 60 + (300 * 6 if mode == "open" else 0)  # probe, warm-up, closed loop, samples, open loops
    assert driver.fake_count(TO_DEVICE) == driver.fake_count(WAIT) == asked
    assert len(samples.samples_s) == 3
    assert facts["latency"]["calls"] == 300
    assert ("served" in facts) is (mode == "open")
    assert facts["link_bytes"] == 5 * 32 * 4
    runner.close()


def test_a_driver_that_fails_within_a_request_is_a_lost_device(driver: ctypes.CDLL) -> None:
    runner = runner_on(FakeDevice(), "closed")
    driver.fake_reset(ctypes.c_int64(0), 50, 719)
    with pytest.raises(DeviceLost, match=r"cuMemcpyHtoDAsync: unspecified launch failure \(719\)"):
        runner.sample(20, 3)
    assert driver.fake_count(TO_DEVICE) == 50  # nothing was asked of it after that


def test_without_the_request_driver_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pykernels.backends.cuda_requests.native_driver", lambda session: None)
    with pytest.raises(PykernelsError, match="need the native request driver"):
        runner_on(FakeDevice(), "closed")


def test_without_a_gpu_the_reason_is_given() -> None:
    placement = Placement(threads=1, ends="C1")
    skipped = BACKEND.skip(Case(BAG, Implementation("native"), placement), Machine(id="m", arch="x86_64"))
    assert skipped is not None
    assert "ends C1 put results on a GPU" in skipped.reason
