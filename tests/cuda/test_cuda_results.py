"""End C1: native lookups whose results go to a (fake) device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeDevice

from pykernels.backends import cuda_results
from pykernels.backends.native import BACKEND
from pykernels.kernels.embedding import EmbeddingBag
from pykernels.machine.cpu import read_machine
from pykernels.measure import verify
from pykernels.model import Case, Gpu, Implementation, Machine, Placement

BAG = EmbeddingBag(dtype="fp32", rows=(97,), dim=32, batch=5, pooling=((4, 4),))


def runner_on(device: FakeDevice) -> Any:
    machine = read_machine()
    placement = Placement(threads=1)
    session = cuda_results.DeviceResults(BACKEND.open(placement, machine), lambda index: device)
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


@pytest.mark.parametrize(
    ("gpus", "mode", "reason"),
    [((), "", "ends C1 put results on a GPU"), ((Gpu(index=0, name="H100"),), "closed", "call by call")],
)
def test_without_a_gpu_the_reason_is_given(gpus: tuple[Gpu, ...], mode: str, reason: str) -> None:
    placement = Placement(threads=1, ends="C1", mode=mode)
    skipped = BACKEND.skip(Case(BAG, Implementation("native"), placement), Machine(id="m", arch="x86_64", gpus=gpus))
    assert skipped is not None
    assert reason in skipped.reason
