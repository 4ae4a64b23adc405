"""Builds csrc/cuda/*.cu as host libraries over the fiber shim, and runs their entries."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from pykernels.backends import cuda_table
from pykernels.backends.cuda_compile import read_with_includes, sources

SHIM = Path(__file__).parent / "shim"
#: set in the process that test_cuda_sanitize starts
SANITIZE = os.environ.get("PYKERNELS_SHIM_SANITIZE") == "1"
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas",
         "-Wno-unused")  # fmt: skip


class DivergentBarrier(Exception):
    """Some threads of a block never reached a barrier that others wait at."""


@cache
def library(source: Path) -> ctypes.CDLL:
    """The host library of one source; built once per text, kept in the temporary folder."""
    flags = (*FLAGS, *(("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined") if SANITIZE else ()))
    text = read_with_includes(source) + "".join(path.read_text() for path in sorted(SHIM.iterdir())) + " ".join(flags)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"pykernels-shim-{os.getuid()}" / f"{source.stem}-{key}.so"
    if not built.exists():
        built.parent.mkdir(exist_ok=True)
        part = built.with_suffix(f".{os.getpid()}")
        command = [
            "g++",
            *flags,
            f'-DPK_SOURCE="{source}"',
            f"-I{source.parent}",
            f"-I{sources()}",
            str(SHIM / "host.cpp"),
        ]
        subprocess.run([*command, "-o", str(part)], check=True)
        part.replace(built)
    return ctypes.CDLL(str(built))


def built(key: bytes, name: str, command: list[str]) -> Path:
    """A library built once per text."""
    folder = Path(tempfile.gettempdir()) / f"pykernels-shim-{os.getuid()}" / hashlib.sha256(key).hexdigest()[:16]
    target = folder / name
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{name}.{os.getpid()}"
        subprocess.run([*command, "-o", str(part)], check=True)
        part.replace(target)
    return target


def launch(source: Path, symbol: str, grid: int, block: int, args: bytes) -> None:
    """Run an entry; raises DivergentBarrier."""
    found = library(source)
    assert found.pk_host_args_bytes() == len(args)
    if found.pk_host_launch(getattr(found, symbol), args, grid, block):
        raise DivergentBarrier(symbol)


def launch_entry(entry: cuda_table.Entry, geometry: cuda_table.Launch, args: bytes) -> None:
    """Run an entry of the table."""
    launch(sources() / f"{entry.source}.cu", entry.symbol, geometry.grid, geometry.block, args)
