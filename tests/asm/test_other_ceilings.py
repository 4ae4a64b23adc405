"""Hot loops of the other ceilings as compiled: the level's width, what each turn must do, nothing on the stack."""

from __future__ import annotations

import pytest
from hot_loops import Line, count, functions, hot_loop, lines, stack_accesses
from test_ceilings import FOLDER, MULTIPLY, WIDER, _core, pytestmark, register  # noqa: F401

LEVELS = [isa for isa in _core.built_isas() if isa.startswith(("baseline", "x86", "amx"))]
DTYPES = ("fp64", "fp32")


def library(isa: str) -> str:
    return str(FOLDER / f"libpk_{isa}.so")


def variants(isa: str) -> list[str]:
    return ["plain", "prefetch", *(["narrow"] if register(isa) == "zmm" else [])]


def registers_are(isa: str, symbol: str, body: list[Line], width: str) -> None:
    assert stack_accesses(library(isa), symbol, body) == []
    assert count(body, rf"%{WIDER[width]}") == 0


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mixed_many(dtype: str, isa: str) -> None:
    """The loop over products: four for each of the vectors at once, none of them taken out of it."""
    for variant in variants(isa):
        width = register(isa, variant)
        at_once = 8 if register(isa) == "zmm" else 4
        for rest in range(4):
            symbol = f"pk_mixed_{dtype}_{variant}_k{rest}"
            body = hot_loop(library(isa), symbol, MULTIPLY[dtype])
            registers_are(isa, symbol, body, width)
            assert count(body, rf"{MULTIPLY[dtype]}.*%{width}") == 4 * at_once
            assert len(body) <= (4 if register(isa) == "xmm" else 1) * 4 * at_once + 6


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("skip", [2, 4, 8, 16])
def test_mixed_few(skip: int, dtype: str, isa: str) -> None:
    """Sixteen lines a turn, each loaded once; one in `skip` multiplied and the others XORed."""
    for variant in variants(isa):
        width = register(isa, variant)
        per_line = 64 // {"xmm": 16, "ymm": 32, "zmm": 64}[width]
        symbol = f"pk_mixed_{dtype}_{variant}_skip{skip}"
        body = hot_loop(library(isa), symbol, r"^v?p?xor[dqps]* ")
        registers_are(isa, symbol, body, width)
        multiplied = 16 // skip * per_line
        assert count(body, rf"{MULTIPLY[dtype]}.*%{width}") == multiplied
        assert count(body, rf"^v?p?xor[dqps]* .*%{width}") == 16 * per_line - multiplied
        assert count(body, rf"\(.*%{width}") == 16 * per_line
        assert (count(body, r"^prefetch") == 16) == (variant == "prefetch")


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("chains", [1, 2, 4, 8, 12])
def test_chase(chains: int, isa: str) -> None:
    """Eight dependent loads of each chain a turn, each through a plain register."""
    body = hot_loop(library(isa), f"pk_chase_{chains}", r"^mov +(0x0)?\(%r\w+\),%r\w+$")
    assert stack_accesses(library(isa), f"pk_chase_{chains}", body) == []
    assert count(body, r"^mov +(0x0)?\(%r\w+\),%r\w+$") == 8 * chains
    assert len(body) <= 8 * chains + 4
    body = hot_loop(library(isa), "pk_loaded_chase", r"^mov ")
    assert count(body, r"^mov +(0x0)?\(%r\w+\),%r\w+$") == 8


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize(("variant", "asked"), [("plain", 0), ("prefetch", 1), ("staged", 2)])
def test_gather(variant: str, asked: int, isa: str) -> None:
    """Loops of 32, 64, 128 and 256 byte rows: four rows a turn in whole vectors; the prefetch of as many lines."""
    for row in (32, 64, 128, 256):
        width = "ymm" if row == 32 and register(isa) == "zmm" else register(isa)
        symbol = f"pk_gather_{variant}_{row}"
        body = hot_loop(library(isa), symbol, rf"^v?paddq .*%{width}")
        registers_are(isa, symbol, body, width)
        assert count(body, rf"^v?paddq .*%{width}") == 4 * row // {"xmm": 16, "ymm": 32, "zmm": 64}[width]
        lines_of_row = max(1, row // 64)
        times = min(asked, 1) if row > 128 else asked  # wide rows are not asked for a second time
        assert count(body, "^prefetch") == 4 * times * lines_of_row + (4 * times if row == 32 else 0)


@pytest.mark.parametrize("isa", LEVELS)
def test_exp(isa: str) -> None:
    width = register(isa)
    per_vector = {"zmm": 9, "ymm": 10, "xmm": 20}[width]  # multiplications and additions, fused or not
    for unroll in (1, 2, 4) if width == "zmm" else (1, 2):
        body = hot_loop(library(isa), f"pk_exp_unroll{unroll}", rf"^v?(f?n?m(ul|add|sub)\w*ps|addps|subps) .*%{width}")
        assert count(body, rf"%{WIDER[width]}") == 0
        assert count(body, rf"^v?(f?n?m(ul|add|sub)\w*|add|sub)ps .*%{width}") >= per_vector * unroll
        if width == "zmm":
            assert stack_accesses(library(isa), f"pk_exp_unroll{unroll}", body) == []


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("written", [0, 1, 2, 4])
def test_loaded_traffic(written: int, isa: str) -> None:
    """A KiB a turn: loaded once, and so many lines of four stored."""
    width = register(isa)
    vectors = 1024 // {"xmm": 16, "ymm": 32, "zmm": 64}[width]
    symbol = f"pk_loaded_write{written}"
    body = lines(functions(library(isa))[symbol])  # whole: its loop over blocks holds the loop of the pause
    assert stack_accesses(library(isa), symbol, body) == []
    assert count(body, rf"^v?mov\w* .*\(%r\w+\).*,%{width}|^v?mov\w* \(.*%{width}|^v?paddq .*\(.*%{width}") == vectors
    assert count(body, rf"^v?mov\w* +%{width}\d+,.*\(") == vectors * written // 4
