"""What stops the build says so in one sentence that names the package to install."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (shutil.which("cmake") and shutil.which("ninja")), reason="cmake or ninja is not installed"
)


def configure(build: Path, *options: str, **environment: str) -> tuple[int, str]:
    command = [str(shutil.which("cmake")), "-S", str(ROOT), "-B", str(build), "-G", "Ninja"]
    command += [f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}", *options]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_no_compiler(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    code, text = configure(tmp_path / "b", PATH=str(tmp_path / "bin"), CXX="")
    assert code
    assert "needs a C++20 compiler and none was found: install one with `apt install g++`." in text


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_old_compiler(tmp_path: Path) -> None:
    """A compiler that knows no C++20."""
    old = tmp_path / "g++"
    old.write_text(f'#!/bin/sh\nfor a in "$@"; do case "$a" in *=gnu++20) echo no >&2; exit 1;; esac; done\n'
                   f'exec {shutil.which("g++")} "$@"\n')  # fmt: skip
    old.chmod(0o755)
    code, text = configure(tmp_path / "b", CXX=str(old))
    assert code
    assert "needs a C++20 compiler (GCC 11 or newer)" in text
    assert "`apt install g++`" in text


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_no_python_headers(tmp_path: Path) -> None:
    code, text = configure(tmp_path / "b", f"-DPython_INCLUDE_DIR={tmp_path / 'nowhere'}")
    assert code
    assert (
        "needs Python.h of Python 3.11 or newer and it was not found: install it with `apt install python3-dev`."
        in text
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-DCMAKE_SYSTEM_NAME=FreeBSD"], "pykernels runs on Linux only; this is FreeBSD."),
        (["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=riscv64"],
         "pykernels runs on x86_64 and aarch64 only; this is riscv64."),
    ],
)  # fmt: skip
def test_other_platforms(tmp_path: Path, options: list[str], sentence: str) -> None:
    code, text = configure(tmp_path / "b", *options)
    assert code
    assert sentence in text
