"""The compile route without a GPU: every source for every architecture, the cache, the choice of one, errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.backends import cuda_compile, cuda_table
from pykernels.backends.cuda_compile import CompileError, MissingPackage
from pykernels.errors import PykernelsError

ARCHS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100a", "sm_120")
SOURCES = sorted({entry.source for entry in cuda_table.entries()})
#: of every architecture from sm_75 on (CUDA programming guide, technical specifications per compute capability)
REGISTERS_A_BLOCK, STATIC_SHARED = 65536, 48 * 1024


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_compiles_for_every_architecture(source: str, arch: str) -> None:
    cubin = cuda_compile.compile_source(source, arch)
    number = int(arch.removeprefix("sm_").rstrip("a"))
    expected = {e.symbol: e for e in cuda_table.entries() if e.source == source and e.arch <= number}
    assert set(cubin.figures) == set(expected)
    assert Path(cubin.path).read_bytes()[:4] == b"\x7fELF"
    for symbol, figures in cubin.figures.items():
        assert figures.target == arch
        assert (figures.spill_stores, figures.spill_loads, figures.stack) == (0, 0, 0), f"{symbol} spills: {figures}"
        assert figures.registers * expected[symbol].threads <= REGISTERS_A_BLOCK
        assert figures.shared <= STATIC_SHARED


def ptx_of(source: str, arch: str) -> str:
    from cuda.bindings import nvrtc

    path = cuda_compile.sources() / f"{source}.cu"
    options = [f"--gpu-architecture={arch}".encode(), b"--std=c++17", f"--include-path={path.parent}".encode()]
    _, program = nvrtc.nvrtcCreateProgram(path.read_bytes(), path.name.encode(), 0, [], [])
    assert int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]) == 0
    ptx = b" " * nvrtc.nvrtcGetPTXSize(program)[1]
    nvrtc.nvrtcGetPTX(program, ptx)
    return ptx.decode()


@pytest.mark.usefixtures("nvrtc")
def test_ptx_names_its_target_and_entries() -> None:
    ptx = ptx_of("launch", "sm_90a")
    assert ".target sm_90a" in ptx
    assert ".entry launch____none__empty" in ptx
    assert "%globaltimer" in ptx


@pytest.mark.usefixtures("nvrtc")
def test_each_step_of_a_chase_is_a_load_and_nothing_else() -> None:
    for kernel in ptx_of("chase", "sm_90").split(".entry ")[1:]:
        lines = [line.strip() for line in kernel.splitlines() if line.strip() and "inline asm" not in line]
        loads = [n for n, line in enumerate(lines) if re.match(r"ld\.global\.c[ag]\.u64", line)]
        unrolled = max((list(run) for run in _runs(loads)), key=len)
        assert len(unrolled) == 8
        for before, after in pairwise(unrolled):  # each address is what the load before it gave
            assert lines[before].split()[1].rstrip(",") == lines[after].split()[2].strip("[];")


def _runs(numbers: list[int]) -> list[list[int]]:
    """Consecutive numbers."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][-1] == number - 1:
            found[-1].append(number)
        else:
            found.append([number])
    return found


@pytest.mark.usefixtures("nvrtc")
def test_a_running_kernel_loads_each_request_anew() -> None:
    for kernel in ptx_of("embedding", "sm_90").split(".entry ")[1:]:
        name = kernel.partition("(")[0]
        assert (kernel.count("ld.volatile.global") > 10) is name.endswith("persistent"), name


@pytest.mark.usefixtures("nvrtc")
def test_the_cache_hits_until_an_include_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYKERNELS_CUBIN_CACHE", str(tmp_path / "cache"))
    header, source = tmp_path / "one.cuh", tmp_path / "k.cu"
    header.write_text("#define VALUE 1.f\n")
    source.write_text('#include "one.cuh"\nextern "C" __global__ void k(float* p) { *p = VALUE; }\n')
    calls = []
    run = cuda_compile.run_nvrtc
    monkeypatch.setattr(cuda_compile, "run_nvrtc", lambda *args: (calls.append(args), run(*args))[1])
    first = cuda_compile.compile_file(source, "sm_90")
    assert cuda_compile.compile_file(source, "sm_90") == first
    assert len(calls) == 1
    assert first.figures["k"].registers > 0
    header.write_text("#define VALUE 2.f\n")
    second = cuda_compile.compile_file(source, "sm_90")
    assert (len(calls), second.key != first.key) == (2, True)
    Path(second.path).write_bytes(b"")  # a damaged cubin is compiled again
    cuda_compile.compile_file(source, "sm_90")
    assert len(calls) == 3
    monkeypatch.setenv("PYKERNELS_CUBIN_CACHE", "off")
    assert str(tmp_path) not in cuda_compile.compile_file(source, "sm_90").path


@pytest.mark.usefixtures("nvrtc")
def test_an_error_names_file_architecture_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYKERNELS_CUBIN_CACHE", str(tmp_path))
    source = tmp_path / "broken.cu"
    source.write_text('extern "C" __global__ void k(float* p) { *q = 1; }\n')
    with pytest.raises(CompileError, match=r"broken\.cu does not compile for sm_90: .*broken\.cu\(1\).*q"):
        cuda_compile.compile_file(source, "sm_90")
    source.write_text(
        'extern "C" __global__ void k(int* p) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); *p = 1; }\n'
    )
    with pytest.raises(CompileError, match="wgmma"):  # ptxas looks at inline PTX too
        cuda_compile.compile_file(source, "sm_90")
    assert cuda_compile.compile_file(source, "sm_90a").figures["k"].target == "sm_90a"


@pytest.mark.parametrize(
    ("capability", "supported", "expected"),
    [
        ("9.0", (75, 80, 90, 100, 120), "sm_90"),
        ("8.6", (75, 80, 86, 89, 90), "sm_86"),
        ("8.7", (75, 80, 86), "sm_86"),
        ("12.1", (90, 100, 120), "sm_120"),
        ("10.3", (100, 103), "sm_103"),
    ],
)
def test_the_greatest_architecture_not_above_the_device(capability: str, supported: tuple[int], expected: str) -> None:
    assert cuda_compile.choose_arch(capability, supported) == expected


@pytest.mark.parametrize(
    ("capability", "supported", "hint"), [("12.0", (75, 80, 90), "cuda13"), ("7.0", (75, 80, 90), "cuda12")]
)
def test_a_device_that_nvrtc_does_not_know(capability: str, supported: tuple[int], hint: str) -> None:
    with pytest.raises(CompileError, match=f"no architecture for a device of compute capability {capability}") as error:
        cuda_compile.choose_arch(capability, supported)
    assert hint in error.value.hint


def test_the_accelerated_target_is_exact() -> None:
    assert cuda_compile.choose_arch("9.0", (80, 90), accelerated=True) == "sm_90a"
    with pytest.raises(CompileError, match="sm_103a"):
        cuda_compile.choose_arch("10.3", (90, 100), accelerated=True)
    with pytest.raises(CompileError, match="sm_80a"):
        cuda_compile.choose_arch("8.0", (80, 90), accelerated=True)


@given(st.tuples(st.integers(7, 13), st.integers(0, 9)), st.sets(st.sampled_from([75, 80, 86, 90, 100, 103, 120, 121])))
def test_any_choice_runs_on_its_device(capability: tuple[int, int], supported: set[int]) -> None:
    device = capability[0] * 10 + capability[1]
    try:
        arch = int(cuda_compile.choose_arch(f"{capability[0]}.{capability[1]}", sorted(supported) or [75])[3:])
    except PykernelsError:
        assert not any(a // 10 == capability[0] and a <= device for a in supported or {75})
    else:
        assert arch // 10 == capability[0]
        assert arch <= device


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cuda", "cuda.core", "cuda.core.experimental", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    cuda_compile._cuda_core.cache_clear()
    with pytest.raises(MissingPackage, match=r"cuda\.bindings is not installed") as error:
        cuda_compile.nvrtc_version()
    assert "pip install" in error.value.hint
    with pytest.raises(MissingPackage, match=r"cuda\.core is not installed"):
        cuda_compile._cuda_core()


def test_backends_import_no_cuda_package() -> None:
    code = (
        "import sys\n"
        "from pykernels import registry\n"
        "from pykernels.machine import gpu\n"
        "assert 'cuda' in registry.backends(), registry.backends()\n"
        "gpu.read_gpus()\n"
        "bad = [m for m in ('cupy', 'numba', 'cuda', 'pynvml', 'torch') if m in sys.modules]\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def test_wheel_sources_are_found_where_there_is_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "pykernels" / "backends" / "cuda_compile.py"
    monkeypatch.setattr(cuda_compile, "__file__", str(module))
    with pytest.raises(CompileError, match="no CUDA sources"):
        cuda_compile.sources()
    shipped = tmp_path / "pykernels" / "cuda_src"
    shipped.mkdir(parents=True)
    (shipped / "common.cuh").touch()
    assert cuda_compile.sources() == shipped
