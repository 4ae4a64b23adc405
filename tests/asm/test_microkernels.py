"""The microkernels of matrix products as compiled: accumulators in registers, the level's width, fused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hot_loops import count, functions, hot_loop, stack_accesses

_core = pytest.importorskip("pykernels._core", reason="the native module is not built")
pytestmark = [
    pytest.mark.skipif(not shutil.which("objdump"), reason="objdump is not installed (apt install binutils)"),
    pytest.mark.skipif("x86_64_v2" not in _core.built_isas(), reason="reads x86-64 assembly"),
]

FOLDER = Path(_core.__file__).parent / "_native"
REGISTER = {"baseline": "xmm", "x86_64_v2": "xmm", "x86_64_v3": "ymm"}
PRODUCT = {"fp64": r"^v?f?m(ul|add\d+)pd ", "fp32": r"^v?f?m(ul|add\d+)ps "}
BF16 = ("x86_64_v4_bf16", "amx")
VNNI = ("x86_64_v4_vnni", *BF16)


def product(isa: str, dtype: str) -> str:
    """The instruction that multiplies: the level's dot product, or what stands for it."""
    if dtype == "bf16":
        return r"^vdpbf16ps " if isa in BF16 else PRODUCT["fp32"]
    if dtype == "int8":
        return r"^vpdpbusd " if isa in VNNI else r"^v?pmaddwd "
    return PRODUCT[dtype]


@pytest.mark.parametrize("isa", _core.built_isas())
@pytest.mark.parametrize("dtype", ["fp64", "fp32", "bf16", "int8"])
def test_accumulators_stay_in_registers(dtype: str, isa: str) -> None:
    library, register = str(FOLDER / f"libpk_{isa}.so"), REGISTER.get(isa, "zmm")
    symbols = [name for name in functions(library) if name.startswith(f"pk_gemm_{dtype}_") and "amx" not in name]
    rows = (12, 8, 4, 1) if register == "zmm" else (6, 4, 1)
    assert {*symbols} == {f"pk_gemm_{dtype}_{r}x2{kind}" for r in rows for kind in ("", "_direct")}
    for symbol in symbols:
        body = hot_loop(library, symbol, product(isa, dtype))
        height = int(symbol.split("_")[3].split("x")[0])
        assert count(body, rf"{product(isa, dtype)}.*%{register}") == 2 * height, symbol
        assert stack_accesses(library, symbol, body) == [], symbol
        if isa not in ("baseline", "x86_64_v2") and dtype.startswith("fp"):
            assert count(body, r"^v?mul") == 0, "multiplication and addition are fused"


@pytest.mark.skipif("amx" not in _core.built_isas(), reason="no AMX level in this build")
@pytest.mark.parametrize(("dtype", "dot"), [("bf16", "tdpbf16ps"), ("int8", "tdpbusd")])
def test_amx_tiles_stay_in_the_tile_registers(dtype: str, dot: str) -> None:
    library, symbol = str(FOLDER / "libpk_amx.so"), f"pk_gemm_{dtype}_amx2x2"
    body = hot_loop(library, symbol, f"^{dot} ")
    assert count(body, f"^{dot} ") == 4
    assert count(body, r"^tileloadd ") == 4
    assert count(body, r"^tile(stored|zero)") == 0
    assert stack_accesses(library, symbol, body) == []
