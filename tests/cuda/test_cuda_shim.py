"""The host shim itself, and the kernels under sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import host_build
import numpy as np
import pytest

from pykernels.backends.cuda_compile import sources
from pykernels.backends.cuda_table import pack_args

HERE = Path(__file__).parent
DIVERGENT = """
#include "COMMON"
PK_ENTRY(bad, , none, some, 75, 32, ONE, none, { if (threadIdx.x < 3) __syncthreads(); })
PK_ENTRY(bad, , none, warp, 75, 32, ONE, none, { if (threadIdx.x < 3) pk_warp_reduce(1.f, pk_add()); })
PK_ENTRY(bad, , none, stale, 75, 32, ONE, none,
  { __shared__ int x; if (threadIdx.x == 0) ((int*)a.ptr[0])[blockIdx.x] = x; __syncthreads(); x = 7; })
PK_ENTRY(bad, , none, beyond, 75, 32, ONE, none, { ((int*)a.ptr[0])[threadIdx.x] = 1; })
"""


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    source = tmp_path / "bad.cu"
    source.write_text(DIVERGENT.replace("COMMON", str(sources() / "common.cuh")))
    return source


def args(array: np.ndarray) -> bytes:
    return pack_args([array.ctypes.data], [], [], reps=1, tune=0, scratch=0)


@pytest.mark.parametrize("variant", ["some", "warp"])
def test_a_barrier_that_not_all_threads_reach_is_an_error(bad: Path, variant: str) -> None:
    with pytest.raises(host_build.DivergentBarrier):
        host_build.launch(bad, f"bad____none__{variant}", 1, 32, args(np.zeros(1, np.int32)))


def test_shared_memory_does_not_outlive_a_block(bad: Path) -> None:
    seen = np.zeros(2, np.int32)
    host_build.launch(bad, "bad____none__stale", 2, 32, args(seen))
    assert 7 not in seen.tolist()


def test_no_kernel_needs_ptx_or_a_name_that_hip_lacks(tmp_path: Path) -> None:
    """What a HIP compiler would see, through the shim: no GPU of AMD's was at hand."""
    every = tmp_path / "every.cpp"
    for source in sorted(sources().glob("*.cu")):
        every.write_text(f'#include "cuda_host.h"\n#include "{source}"\n')
        flags = ["-D__HIP__", "-fsyntax-only", *host_build.FLAGS, f"-I{host_build.SHIM}", f"-I{sources()}"]
        done = subprocess.run(["g++", *flags, str(every)], capture_output=True, text=True)
        assert done.returncode == 0, f"{source.name}: {done.stderr[-2000:]}"
        # and its preprocessed text has no inline PTX
        text = subprocess.run(
            ["g++", "-E", "-P", "-D__HIP__", f"-I{host_build.SHIM}", str(every)], capture_output=True, text=True
        )
        kernels = text.stdout[text.stdout.index("pk_int") :]
        assert "asm" not in kernels, source.name


def _sanitizer() -> str:
    """The library to preload, or "" where the compiler has none."""
    if shutil.which("g++") is None:
        return ""
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    return found if Path(found).is_absolute() else ""


def _under_sanitizers(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "LD_PRELOAD": _sanitizer(), "PYKERNELS_SHIM_SANITIZE": "1",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0", "PYTHONMALLOC": "malloc",
    }  # fmt: skip
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=HERE)


@pytest.mark.skipif(host_build.SANITIZE or not _sanitizer(), reason="no address sanitizer with this compiler")
def test_kernels_are_clean_under_sanitizers() -> None:
    chosen = (
        "bag and (fp32 or int4) or onchip and shared or gather_roof and (12-100 or 8-77) or mixed and 1501 and fp32-3"
    )
    chosen += (
        " or test_gemv and 37x650x1 and (bf16 or int4) or test_softmax and 9-1000 and bf16 or exponentials and 1003"
    )
    tests = ("test_cuda_bodies.py", "test_cuda_kernels.py")
    done = _under_sanitizers("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests, "-k", chosen)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout


@pytest.mark.skipif(host_build.SANITIZE or not _sanitizer(), reason="no address sanitizer with this compiler")
def test_the_sanitizer_sees_a_kernel_that_writes_beyond_its_buffer(bad: Path) -> None:
    code = (
        "import host_build, numpy as np, pathlib\n"
        "from test_cuda_shim import args\n"
        f"host_build.launch(pathlib.Path({str(bad)!r}), 'bad____none__beyond', 1, 32, args(np.zeros(31, np.int32)))\n"
    )
    done = _under_sanitizers("-c", code)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
