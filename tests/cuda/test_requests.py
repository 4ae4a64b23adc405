"""The native request driver over a driver library that only takes time, and what is read of devices from such a one."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from host_build import built
from hypothesis import given
from hypothesis import strategies as st

from pykernels.machine import gpu

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "shim" / "fake_cuda.c"
SET_CURRENT, LAUNCH, GRAPH, TO_DEVICE, TO_HOST, WAIT = range(6)


@pytest.fixture(scope="session")
def requests_module() -> ModuleType:
    """pykernels._requests as installed, else built here."""
    try:
        from pykernels import _requests  # type: ignore[attr-defined]

        return _requests
    except ImportError:
        pybind11 = pytest.importorskip("pybind11")
    folder = ROOT / "csrc" / "bind"
    source = folder / "requests.cpp"
    name = f"_requests{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = [f"-I{sysconfig.get_paths()['include']}", f"-I{pybind11.get_include()}"]
    command = ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", *includes, str(source)]
    key = (
        source.read_bytes()
        + (folder / "requests.h").read_bytes()
        + (folder / "loops.h").read_bytes()
        + sys.version.encode()
    )
    spec = importlib.util.spec_from_file_location("_requests", built(key, name, command))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def library() -> Path:
    return built(FAKE.read_bytes(), "libcuda.so.1", ["gcc", "-O1", "-fPIC", "-shared", "-w", str(FAKE)])


@pytest.fixture
def fake(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    loaded.fake_count.restype = ctypes.c_int64
    loaded.fake_last_argument.restype = ctypes.c_uint64
    loaded.fake_reset.argtypes = [ctypes.c_int64, ctypes.c_int, ctypes.c_int]
    loaded.fake_reset(0, 0, 0)
    return loaded


def cuda(module: ModuleType, library: Path) -> Any:
    return module.Cuda(str(library), 1, 2)


def test_a_closed_loop_times_every_request(requests_module: ModuleType, library: Path, fake: ctypes.CDLL) -> None:
    fake.fake_reset(20_000, 0, 0)
    driver = cuda(requests_module, library)
    args = (0xABCDEF).to_bytes(8, "little")
    host, device = np.arange(4, dtype=np.int64), np.zeros(4, np.int64)
    back = np.zeros(4, np.int64)
    steps = [
        driver.to_device(device.ctypes.data, host.ctypes.data, 32),
        driver.launch(7, 1, 32, args),
        driver.to_host(back.ctypes.data, device.ctypes.data, 32),
        driver.wait(),
    ]
    latency = driver.closed_loop(steps, calls=5000)
    assert latency.shape == (5000,)
    assert latency.min() >= 20_000
    assert fake.fake_last_argument() == 0xABCDEF
    assert [fake.fake_count(call) for call in (LAUNCH, TO_DEVICE, TO_HOST, WAIT)] == [5000] * 4
    assert fake.fake_count(SET_CURRENT) == 1
    np.testing.assert_array_equal(back, host)


def test_graphs_launch(requests_module: ModuleType, library: Path, fake: ctypes.CDLL) -> None:
    driver = cuda(requests_module, library)
    driver.closed_loop([driver.graph(9), driver.wait()], calls=10)
    assert fake.fake_count(GRAPH) == 10


def test_requests_of_a_list_take_turns(requests_module: ModuleType, library: Path, fake: ctypes.CDLL) -> None:
    driver = cuda(requests_module, library)
    first, second = [driver.launch(7, 1, 32, bytes(8)), driver.wait()], [driver.graph(9), driver.wait()]
    driver.closed_loop([*first, driver.next(), *second, driver.next()], calls=5)
    assert (fake.fake_count(LAUNCH), fake.fake_count(GRAPH), fake.fake_count(WAIT)) == (3, 2, 5)
    driver.closed_loop([*first, driver.next(), *second], calls=4)  # the end of the list ends a request too
    assert (fake.fake_count(LAUNCH), fake.fake_count(GRAPH)) == (5, 4)
    with pytest.raises(RuntimeError, match="needs a step"):
        driver.closed_loop([], calls=1)


def test_an_open_loop_counts_the_wait(requests_module: ModuleType, library: Path, fake: ctypes.CDLL) -> None:
    """Requests of 50 us that come twice as fast queue up: the last waits about half of all the work."""
    fake.fake_reset(50_000, 0, 0)
    driver = cuda(requests_module, library)
    steps = [driver.launch(7, 1, 32, bytes(8)), driver.wait()]
    crowded = driver.open_loop(steps, calls=400, rate=40_000.0, seed=1)
    assert crowded[-1] >= 0.2 * 400 * 50_000
    assert crowded[300:].mean() > crowded[:100].mean()
    rare = driver.open_loop(steps, calls=50, rate=2_000.0, seed=1)
    assert rare.min() >= 50_000
    assert np.median(rare) < np.median(crowded) / 4


def test_a_failing_call_is_named(requests_module: ModuleType, library: Path, fake: ctypes.CDLL) -> None:
    fake.fake_reset(0, 17, 719)
    driver = cuda(requests_module, library)
    with pytest.raises(RuntimeError, match=r"cuLaunchKernel: unspecified launch failure \(719\)"):
        driver.closed_loop([driver.launch(7, 1, 32, bytes(8))], calls=100)
    assert fake.fake_count(LAUNCH) == 17


def test_without_a_driver(requests_module: ModuleType, library: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot open libnone"):
        requests_module.Cuda("libnone.so.1", 1, 2)
    driver = cuda(requests_module, library)
    with pytest.raises(RuntimeError, match="needs a CUDA driver"):
        requests_module.closed_loop([driver.wait()], 1)
    with pytest.raises(RuntimeError, match="above 0"):
        driver.open_loop([driver.wait()], 1, 0.0, 1)


def test_functions_of_the_process_are_requests_too(requests_module: ModuleType) -> None:
    seen: list[int] = []
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: seen.append(data))
    address = ctypes.cast(function, ctypes.c_void_p).value
    requests_module.closed_loop([requests_module.call(address, 42)], calls=3)
    assert seen == [42, 42, 42]


@given(st.lists(st.integers(0, 2**50), min_size=1, max_size=60))
def test_histogram_bins_are_narrow_and_lose_nothing(latency: list[int]) -> None:
    module = test_histogram_bins_are_narrow_and_lose_nothing.module  # type: ignore[attr-defined]
    bins = module.histogram(latency)
    lows = [low for low, _ in bins]
    assert lows == sorted(lows)
    assert sum(count for _, count in bins) == len(latency)
    for value in latency:
        low = max(low for low in lows if low <= value)
        assert value - low <= max(0, value / 128)


@pytest.fixture(autouse=True)
def _hand_the_module_to_the_property(requests_module: ModuleType) -> None:
    test_histogram_bins_are_narrow_and_lose_nothing.module = requests_module  # type: ignore[attr-defined]


def test_devices_are_read_from_the_driver(library: Path) -> None:
    first, second = gpu.read_gpus(str(library))
    assert (first.name, first.sms, first.compute_capability) == ("NVIDIA H100 80GB HBM3", 132, "9.0")
    assert (first.memory_bytes, first.l2_bytes, first.clock_mhz, first.driver) == (
        80 << 30,
        50 << 20,
        1980.0,
        "CUDA 13.0",
    )
    assert (second.index, second.mig, second.memory_bytes) == (1, "1g.10gb", 10 << 30)
    assert gpu.why_none(str(library)) == ""


def test_no_driver_is_a_reason_not_an_error() -> None:
    assert gpu.read_gpus("libnone.so.1") == ()
    assert gpu.why_none("libnone.so.1") == "no NVIDIA driver (libnone.so.1 cannot be loaded)"
