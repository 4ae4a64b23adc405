"""Every ceiling's hot loop as compiled: the level's vector width, the expected instructions, nothing on the stack."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hot_loops import count, hot_loop, stack_accesses

from pykernels.backends.native import table

_core = pytest.importorskip("pykernels._core", reason="the native module is not built")
pytestmark = [
    pytest.mark.skipif(not shutil.which("objdump"), reason="objdump is not installed (apt install binutils)"),
    pytest.mark.skipif("x86_64_v2" not in _core.built_isas(), reason="reads x86-64 assembly"),
]

FOLDER = Path(_core.__file__).parent / "_native"
REGISTER = {"baseline": "xmm", "x86_64_v2": "xmm", "x86_64_v3": "ymm"}
WIDER = {"xmm": "[yz]mm", "ymm": "zmm", "zmm": "nothing"}
MULTIPLY = {
    "fp64": r"^v?f?m(ul|add\d+)pd ", "fp32": r"^v?f?m(ul|add\d+)ps ",
    "bf16": r"^vdpbf16ps ", "int8": r"^(vpdpbusd|v?pmaddubsw) ",
}  # fmt: skip


def entries(kernel: str) -> list[tuple[str, str, str, str, str]]:
    return [
        (isa, *key[1:], entry.name, entry.symbol)
        for isa in _core.built_isas()
        for key, found in table(isa).items()
        if key[0] == kernel
        for entry in {entry.symbol: entry for entry in found}.values()
    ]


def register(isa: str, variant: str = "") -> str:
    return "ymm" if variant == "narrow" else REGISTER.get(isa, "zmm")


@pytest.mark.parametrize(("isa", "op", "dtype", "variant", "symbol"), entries("stream"))
def test_stream(isa: str, op: str, dtype: str, variant: str, symbol: str) -> None:
    width = register(isa, variant)
    nt = op.startswith("nt-")
    arrays = {"load": 1, "load-only": 1, "copy": 1, "triad": 2, "dot": 2, "schoenauer": 3}
    loaded = arrays.get(op.removeprefix("nt-"), 0)
    stored = 0 if op.startswith("load") or op == "dot" else 1
    loads, stores = rf"\(.*%{width}", rf"%{width}\d+,.*\(" if not nt else rf"movntp?[dqs]*.* %{width}\d+,.*\("
    library = str(FOLDER / f"libpk_{isa}.so")
    body = hot_loop(library, symbol, rf"%{width}.*\(|\(.*%{width}")
    steps = 16 if op.startswith("load") else 8
    assert stack_accesses(library, symbol, body) == []
    assert count(body, rf"%{WIDER[width]}") == 0
    assert count(body, loads) == steps * loaded, body
    assert count(body, stores) == steps * stored, body
    if op == "load":
        assert count(body, rf"^v?paddq .*%{width}") == steps
    assert (count(body, r"^prefetch") > 0) == variant.startswith("prefetch")
    assert len(body) <= steps * (loaded + stored + 2) + 24


@pytest.mark.parametrize(("isa", "op", "dtype", "variant", "symbol"), entries("fma"))
def test_fma(isa: str, op: str, dtype: str, variant: str, symbol: str) -> None:
    library = str(FOLDER / f"libpk_{isa}.so")
    if variant.startswith("amx"):
        body = hot_loop(library, symbol, r"^tdp")
        assert count(body, r"^tdp(bf16ps|busd) ") == 6
        assert count(body, r"^tileloadd? ") == 8
        return
    width = register(isa)
    body = hot_loop(library, symbol, MULTIPLY[dtype])
    found = count(body, rf"{MULTIPLY[dtype]}.*%{width}")
    expected = 2 * int(variant[5:]) if variant.startswith("chain") else 2 * int(variant[4:-2])
    assert stack_accesses(library, symbol, body) == [], (isa, variant)
    assert count(body, rf"%{WIDER[width]}") == 0
    assert found % expected == 0, (found, expected)
    assert found > 0
    if isa not in ("baseline", "x86_64_v2") and dtype.startswith("fp"):
        assert count(body, r"^v?mul") == 0, "multiplication and addition are fused"


@pytest.mark.parametrize("isa", _core.built_isas())
def test_no_static_initialiser_and_libc_only(isa: str) -> None:
    """A library may be loaded on any CPU: nothing of it runs by itself, and it brings no second C++ runtime."""
    library = str(FOLDER / f"libpk_{isa}.so")
    dynamic = subprocess.run(["objdump", "-p", library], capture_output=True, text=True, check=True).stdout
    needed = {line.split()[1] for line in dynamic.splitlines() if "NEEDED" in line}
    assert needed <= {"libc.so.6", "libm.so.6"}
    symbols = subprocess.run(["objdump", "-t", library], capture_output=True, text=True, check=True).stdout
    assert "_GLOBAL__sub_I" not in symbols
    exported = subprocess.run(["objdump", "-T", library], capture_output=True, text=True, check=True).stdout
    own = {line.split()[-1] for line in exported.splitlines() if ".text" in line and " g " in f" {line} "}
    assert own == {"pk_library_v1"}
