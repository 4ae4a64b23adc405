"""Operands on a device: what is read of them and when, and sessions for several placements."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pykernels import registry
from pykernels.backends import cuda_operands, gpu_arrays
from pykernels.backends.cuda import CudaSession
from pykernels.backends.cuda_operands import DeviceArray
from pykernels.kernels import random
from pykernels.kernels.embedding import EmbeddingBag, EmbeddingGather
from pykernels.kernels.gather import Gather
from pykernels.kernels.gemv import Gemv
from pykernels.kernels.link import Link
from pykernels.kernels.mixed import Mixed
from pykernels.kernels.mma import Mma
from pykernels.kernels.softmax import Softmax
from pykernels.kernels.stream import Stream
from pykernels.measure import verify
from pykernels.model import Case, Gpu, Implementation, Machine, Operand, Placement, Problem, Recipe

Opener = Callable[..., CudaSession]


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operand is read when it is looked at, and its rows one by one."""
    monkeypatch.setattr(cuda_operands, "LAZY_BYTES", 0)
    monkeypatch.setattr(cuda_operands, "ROW_S", 0.0)


CHECKED: list[tuple[Problem, str]] = [
    *[(Stream(op=op, n=5011, dtype="fp32"), "b16:4") for op in ("load", "store", "copy", "triad")],
    (Gather(dtype="fp32", rows=500, row_bytes=64, lookups=700, sets=2), "rows:2"),
    (Gemv(dtype="fp32", rows=300, cols=64), "warp"), (Gemv(dtype="int4", rows=300, cols=256), "warp"),
    (Softmax(dtype="fp32", rows=300, width=32), "warp"), (Mixed(dtype="fp32", n=1500, k=3, units=2), "wide:2"),
    (Mma(dtype="bf16", m=16, k=16, tiles=300, depth=2), "chains4:1"), (Link(op="d2d", n=4097, dtype="fp32"), "memcpy"),
    *[(EmbeddingBag(dtype=dtype, rows=(997,), dim=32, batch=300, pooling=((0, 5),)), "warp")
      for dtype in ("fp32", "int8", "int4")],
    (EmbeddingGather(dtype="fp16", rows=(997,), dim=32, batch=300), "rows:2"),
]  # fmt: skip


@pytest.mark.usefixtures("lazy")
@pytest.mark.parametrize(("problem", "variant"), CHECKED, ids=lambda v: v if isinstance(v, str) else v.entry()[0])
def test_checks_look_at_what_they_need(fake_session: Opener, problem: Problem, variant: str) -> None:
    runner = fake_session().prepare(problem, Implementation("cuda", "", variant))
    assert verify.check_sampled(problem, runner, 3) is None
    runner.poison()
    assert verify.compare(problem.reference(runner.inputs()), problem.observed(runner.outputs()), problem.tolerance())
    runner.close()


def test_rows_are_read_where_that_is_quicker(fake_session: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    device = fake_session().device
    values = np.arange(1000, dtype=np.float32).reshape(100, 10)
    buffer = device.alloc(values.nbytes)
    device.write(buffer, values)
    seen: list[int] = []
    read = device.read

    def counted(part: cuda_operands.Buffer, dtype: object, shape: tuple[int, ...]) -> np.ndarray:
        seen.append(part.nbytes)
        return read(part, dtype, shape)

    monkeypatch.setattr(device, "read", counted)
    monkeypatch.setattr(cuda_operands, "ROW_S", 1e-9)
    array = DeviceArray(device, buffer, np.float32, (100, 10))
    np.testing.assert_array_equal(array[np.array([7, 3, 7])], values[[7, 3, 7]])
    assert seen == [40, 40]
    with pytest.raises(IndexError):
        array[np.array([100])]
    assert (len(array), array.shape, array.dtype) == (100, (100, 10), np.float32)
    np.testing.assert_array_equal(array.view(np.uint32), values.view(np.uint32))  # all of it, once
    np.testing.assert_array_equal(np.asarray(array), values)
    assert seen == [40, 40, 4000]
    np.testing.assert_array_equal(array[np.array([5])], values[[5]])
    assert seen == [40, 40, 4000]


def test_host_memory_is_looked_at_where_it_lies(fake_session: Opener) -> None:
    session = fake_session(ends="G3")
    problem = EmbeddingBag(dtype="fp32", rows=(97,), dim=32, batch=5, pooling=((4, 4),))
    runner = session.prepare(problem, Implementation("cuda", "", "warp"))
    table = runner.inputs()["table"]
    assert table.ctypes.data == runner.operands.buffers["table"].host  # type: ignore[attr-defined]
    runner.close()


def test_one_worker_serves_all_placements_of_a_device(fake_session: Opener) -> None:
    problem = Stream(op="copy", n=100, dtype="fp32")
    places = [Placement(device="gpu:0", **options) for options in ({}, {"mode": "cold"}, {"ends": "G5:20"})]
    workers = {registry.worker_of(Case(problem, Implementation("cuda"), place)) for place in places}
    assert workers == {(Placement(device="gpu:0"), "cuda")}
    assert registry.worker_of(Case(problem, Implementation("native"), places[1])) == (places[1], "native")
    session = fake_session()
    cold, cached = (session.at(place) for place in places[1:])
    assert session.at(places[0]) is session
    assert (cold.placement.mode, cached.ends.cached, cached.cached_percent) == ("cold", True, 20)
    assert not session.ends.cached
    assert cold.flush_buffer() is session.flush_buffer()  # one for the device


@pytest.mark.parametrize(
    ("dtype", "recipe"),
    [("fp32", Recipe(seed=3)), ("bf16", Recipe(seed=4, low=-1.0)), ("int8", Recipe("integers", 5, -8, 8)),
     ("uint8", Recipe("quantized", 6, 0.5, 1.5))],
)  # fmt: skip
def test_the_native_generator_fills_what_is_large(monkeypatch: pytest.MonkeyPatch, dtype: str, recipe: Recipe) -> None:
    monkeypatch.setattr(gpu_arrays, "NATIVE_BYTES", 0)
    operand = Operand("x", "in", (37, 40), dtype, recipe)
    found = gpu_arrays.host_array(Stream(op="copy", n=1, dtype="fp32"), operand)
    np.testing.assert_array_equal(found, random.array(operand))


def test_records_of_libraries_name_their_gpu() -> None:
    gpu = Gpu(index=1, name="NVIDIA L4", compute_capability="8.9", sms=58, l2_bytes=48 << 20, driver="CUDA 12.4")
    machine = Machine(id="m", arch="x86_64", gpus=(gpu,))
    assert gpu_arrays.device_facts(Placement(device="gpu:1"), machine) == {
        "gpu": "NVIDIA L4", "compute_capability": "8.9", "sms": 58, "driver": "12.4", "l2_bytes": 48 << 20,
    }  # fmt: skip
    assert gpu_arrays.device_facts(Placement(device="gpu:0"), machine) == {}
