"""What can be wrong with a GPU machine: each case is one clear sentence."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from fake_gpu import FACTS, Script

from pykernels.backends import cuda_driver
from pykernels.backends.cuda import CudaSession
from pykernels.errors import PykernelsError
from pykernels.kernels.stream import Stream
from pykernels.machine import gpu
from pykernels.machine.gpu import Reading
from pykernels.model import Implementation

Opener = Callable[..., CudaSession]
COPY = Implementation("cuda", "", "b16:4")


def test_a_driver_older_than_the_toolkit(fake_session: Opener) -> None:
    with pytest.raises(
        PykernelsError, match=r"driver is older than the toolkit: it runs CUDA 12\.2, .* 13\.0"
    ) as error:
        fake_session(facts=msgspec.structs.replace(FACTS, driver="CUDA 12.2"))
    assert "pykernels[cuda12]" in error.value.hint


def test_an_architecture_that_nvrtc_does_not_know(fake_session: Opener) -> None:
    with pytest.raises(PykernelsError, match=r"no architecture for a device of compute capability 13\.0"):
        fake_session(facts=msgspec.structs.replace(FACTS, compute_capability="13.0"))


def test_two_cupy_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = [SimpleNamespace(metadata={"Name": name}) for name in ("cupy-cuda12x", "numpy", "cupy-cuda13x")]
    monkeypatch.setattr("importlib.metadata.distributions", lambda: wheels)
    assert cuda_driver.missing_cupy() == (
        "cupy-cuda12x and cupy-cuda13x are both installed and overwrite each other: keep one"
    )
    with pytest.raises(PykernelsError, match="keep one"):
        cuda_driver.CupyDevice(0)


@pytest.mark.parametrize(("others", "says"), [(0, "MiB free$"), (1, "1 other process on it"), (3, "3 other processes")])
def test_less_free_memory_than_asked(fake_session: Opener, others: int, says: str) -> None:
    session = fake_session(Script(reading=lambda now: Reading(others=others)))
    live = len(session.device.live)  # type: ignore[attr-defined]
    with pytest.raises(MemoryError, match=rf"its operands take 256 MiB, the GPU has .*{says}"):
        session.prepare(Stream(op="copy", n=1 << 25, dtype="fp32"), COPY)
    assert len(session.device.live) == live  # type: ignore[attr-defined]


def test_a_busy_gpu_is_in_the_record(fake_session: Opener) -> None:
    session = fake_session(Script(reading=lambda now: Reading(others=2)))
    runner = session.prepare(Stream(op="copy", n=1000, dtype="fp32"), COPY)
    runner.sample(2, 1)
    assert runner.facts()["other_processes"] == 2


class Nvml:
    """Two devices, the second with two processes of others."""

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [SimpleNamespace(pid=-1), SimpleNamespace(pid=-2)] if handle else []


class Forbidden(Nvml):
    def nvmlInit(self) -> None:
        raise PermissionError("Insufficient Permissions")


def test_check_names_busy_gpus_and_a_closed_nvml() -> None:
    (found,) = gpu.busy(Nvml())
    assert (found.level, found.name, found.message) == ("warn", "NVML device 1", "2 other processes compute on it")
    (closed,) = gpu.busy(Forbidden())
    assert closed.message == "no clocks, power or throttle reasons: Insufficient Permissions"


def test_without_permission_for_nvml_the_record_says_so(fake_session: Opener) -> None:
    session = fake_session(Script(reading=lambda now: gpu.Sensors("0", Forbidden()).read()))
    runner = session.prepare(Stream(op="copy", n=1000, dtype="fp32"), COPY)
    runner.sample(2, 1)
    assert runner.facts()["sensors"] == "NVML: Insufficient Permissions"
