"""vec.h at every level that can be compiled and run here: natively, and for aarch64 under an emulator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ["-std=gnu++20", "-O2", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-w",
         f"-I{ROOT / 'csrc/cpu'}"]  # fmt: skip
X86 = {
    "x86_64_v2": ["-march=x86-64-v2"],
    "x86_64_v3": ["-march=x86-64-v3"],
    "x86_64_v4": ["-march=x86-64-v4"],
    "x86_64_v4_bf16": ["-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"],
}
ARM = {
    "neon": ["-march=armv8-a"],
    "neon_dot": ["-march=armv8.2-a+fp16+dotprod+i8mm+bf16"],
    "sve256": ["-march=armv8.2-a+sve+fp16+dotprod+i8mm+bf16", "-msve-vector-bits=256"],
}
QEMU = ["qemu-aarch64", "-cpu", "max,sve256=on,sve-max-vq=2"]


def build(compiler: str, flags: list[str], sources: list[Path], out: Path) -> None:
    command = [compiler, *FLAGS, *flags, *map(str, sources), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed (apt install g++)")
@pytest.mark.parametrize("isa", X86)
def test_vectors_here(isa: str, tmp_path: Path) -> None:
    core = pytest.importorskip("pykernels._core")
    if core.missing(isa):
        pytest.skip(f"this machine lacks {core.missing(isa)}")
    build("g++", X86[isa], [ROOT / "tests/asm/vec_check.cpp"], tmp_path / "check")
    assert ": ok" in run([str(tmp_path / "check")])


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="no aarch64 compiler and emulator (apt install g++-aarch64-linux-gnu qemu-user)",
)
@pytest.mark.parametrize("isa", ARM)
def test_vectors_and_ceilings_on_aarch64(isa: str, tmp_path: Path) -> None:
    """The level's whole library, driven by a small program: stream and fma against sums done by hand."""
    static = [*ARM[isa], "-static", f'-DPK_ISA="{isa}"']
    build("aarch64-linux-gnu-g++", static, [ROOT / "tests/asm/vec_check.cpp"], tmp_path / "check")
    assert ": ok" in run([*QEMU, str(tmp_path / "check"), "65536"])
    sources = [ROOT / "csrc/cpu" / name for name in ("library.cpp", "stream.cpp", "fma.cpp")]
    build("aarch64-linux-gnu-g++", static, [ROOT / "tests/asm/table_check.cpp", *sources], tmp_path / "table")
    assert "0 wrong" in run([*QEMU, str(tmp_path / "table")])
