"""Tests that need an NVIDIA GPU: they run by themselves wherever one is present, and say why where they skip."""

from __future__ import annotations

import pytest

from pykernels.backends import cuda_driver
from pykernels.machine import cpu, gpu
from pykernels.model import Machine


@pytest.fixture(scope="session")
def machine() -> Machine:
    """This machine with at least one usable GPU; skips with the reason otherwise."""
    reason = gpu.why_none() or cuda_driver.missing_cupy()
    if reason:
        pytest.skip(reason)
    found = cpu.read_machine()
    assert found.gpus, "the driver has devices that the machine does not list"
    return found
