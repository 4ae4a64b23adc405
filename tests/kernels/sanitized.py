"""Kernel files built with ASan and UBSan into one program that runs problems on operands of exactly their size."""

from __future__ import annotations

import functools
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from pykernels.kernels import random
from pykernels.kernels.dtypes import stored_bytes
from pykernels.model import Problem

CSRC = Path(__file__).resolve().parents[2] / "csrc" / "cpu"
FLAGS = [
    "-std=gnu++20",
    "-O1",
    "-g1",
    "-ffp-contract=fast",
    "-fno-exceptions",
    "-fno-rtti",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-sanitize=float-divide-by-zero",
    "-w",
]


@functools.cache
def program(march: str, files: tuple[str, ...]) -> Path:
    """The program of these kernel files for a -march; skips where it cannot be built or run here."""
    compiler = shutil.which("g++")
    if not compiler or platform.machine() != "x86_64":
        pytest.skip("needs g++ on x86-64")
    folder = Path(tempfile.mkdtemp(prefix="pk-sanitized-"))
    sources = [*(CSRC / f"{name}.cpp" for name in (*files, "library")), Path(__file__).with_suffix(".cpp")]
    objects = []
    for source in sources:
        own = [] if source.parent == CSRC else ["-fexceptions", "-frtti"]
        objects.append(str(folder / f"{source.stem}.o"))
        command = [compiler, *FLAGS, *own, f"-march={march}", '-DPK_ISA="sanitized"', f"-I{CSRC}"]
        subprocess.run([*command, "-c", str(source), "-o", objects[-1]], check=True)
    subprocess.run([compiler, *FLAGS, *objects, "-o", str(folder / "run"), "-pthread"], check=True)
    return folder / "run"


def case(problem: Problem, threads: int) -> bytes:
    """A case as the program reads it."""
    kernel, op, dtype = problem.entry()
    operands, contents = [], b""
    for operand in problem.operands():
        given = operand.role != "out"
        operands.append(f"{stored_bytes(operand.shape, operand.dtype)} {int(given)}")
        if given:
            host = operand.recipe.distribution == "host"
            array = problem.host_input(operand.name) if host else random.array(operand)
            contents += array.tobytes()
    parts = [kernel, op or "-", dtype, threads, len(problem.dims()), *problem.dims(), len(problem.scalars()),
             *problem.scalars(), len(operands), *operands]  # fmt: skip
    return " ".join(map(str, parts)).encode() + b"\n" + contents


def run(march: str, files: tuple[str, ...], problems: list[Problem], threads: int = 2) -> list[str]:
    """Runs every variant of every problem; returns the variants of each, or fails with what a sanitizer says."""
    data = b"".join(case(problem, threads) for problem in problems)
    done = subprocess.run([program(march, files)], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done.stdout.decode().splitlines()
