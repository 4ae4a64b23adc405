"""Fixtures of the GPU tests that need no GPU."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from fake_gpu import FACTS, FakeDevice, Script

from pykernels.backends import cuda, cuda_compile
from pykernels.backends.cuda import CudaSession
from pykernels.backends.cuda_driver import Facts
from pykernels.errors import PykernelsError
from pykernels.model import Placement


@pytest.fixture(scope="session")
def nvrtc() -> str:
    """NVRTC's version; skips with the reason where it is absent, fails where PYKERNELS_REQUIRE_NVRTC is set."""
    try:
        return cuda_compile.nvrtc_version()
    except PykernelsError as error:
        if os.environ.get("PYKERNELS_REQUIRE_NVRTC"):
            pytest.fail(f"PYKERNELS_REQUIRE_NVRTC is set, but: {error}")
        pytest.skip(f"{error.message} ({error.hint})")


@pytest.fixture
def fake_session(monkeypatch: pytest.MonkeyPatch) -> Callable[..., CudaSession]:
    """Opens sessions on a fake device; kernels run on the host, so nothing is compiled for a GPU."""

    def no_compile(name: str, arch: str, defines: tuple[str, ...] = ()) -> cuda_compile.Cubin:
        return cuda_compile.Cubin(
            path=f"{name}.cubin", source=name, arch=arch, nvrtc="13.0", options=(), key=name, figures={}
        )

    monkeypatch.setattr(cuda_compile, "compile_source", no_compile)
    monkeypatch.setattr(cuda_compile, "nvrtc_version", lambda: "13.0")
    monkeypatch.setattr(cuda_compile, "supported_archs", lambda: (75, 80, 90, 100, 120))

    def open_session(script: Script | None = None, facts: Facts = FACTS, **placement: str) -> CudaSession:
        place = Placement(device="gpu:0", **placement)
        backend = cuda.CudaBackend(lambda index: FakeDevice(index, script, facts))
        return backend.open(place, None)  # type: ignore[arg-type]

    return open_session
