"""The AMX products on emulated tiles, under ASan and UBSan: no machine at hand has the real ones."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import sanitized

from pykernels.machine.cpu import read_machine


def test_products_on_tiles_are_right(tmp_path: Path) -> None:
    """Odd sizes, transposes, beta, an empty k (C = beta C); operands end where they must not be read beyond."""
    compiler = shutil.which("g++")
    if not compiler or "x86_64_v4_bf16" not in read_machine().isa:
        pytest.skip("needs g++ and a CPU with AVX512-BF16")
    source, program = Path(__file__).with_name("emulated_amx.cpp"), tmp_path / "run"
    flags = [flag for flag in sanitized.FLAGS if flag not in ("-fno-exceptions", "-fno-rtti")]
    march = ["-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"]
    command = [compiler, *flags, *march, '-DPK_ISA="amx"', f"-I{sanitized.CSRC}", str(source), "-o", str(program)]
    subprocess.run([*command, "-pthread"], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert len(done.stdout.splitlines()) == 96
