"""The table read from the sources, and launch geometry against every architecture's limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernels.backends import cuda_table
from pykernels.backends.cuda_compile import CompileError

#: compute capability -> (threads, blocks) a multiprocessor can hold (CUDA programming guide)
RESIDENT = {75: (1024, 16), 80: (2048, 32), 86: (1536, 16), 89: (1536, 24), 90: (2048, 32), 100: (2048, 32),
            120: (1536, 24)}  # fmt: skip


def test_names_are_unique_and_symbols_say_them() -> None:
    symbols = [entry.symbol for entry in cuda_table.entries()]
    assert len(symbols) == len(set(symbols))
    assert "stream__load__fp64__b16" in symbols
    assert {entry.kernel for entry in cuda_table.entries()} >= {"stream", "fma", "mma", "onchip", "launch", "fill"}


@given(
    st.sampled_from(cuda_table.entries()),
    st.lists(st.integers(1, 2**34), min_size=cuda_table.DIMS, max_size=cuda_table.DIMS),
    st.integers(1, 256),
)
def test_geometry_fits_every_architecture(entry: cuda_table.Entry, dims: list[int], sms: int) -> None:
    for variant in entry.variants():
        _, tune = cuda_table.split_variant(variant)
        try:
            launch = entry.launch(dims, sms, tune)
        except CompileError:
            assert entry.rule == "ITEMS"
            assert dims[entry.numbers[0]] > entry.numbers[1] * cuda_table.MAX_GRID_X
            continue
        assert 1 <= launch.grid <= 2**31 - 1
        assert 1 <= launch.block <= 1024
        assert launch.block % 32 == 0 or launch.block == 1
        if entry.rule == "ITEMS":
            assert launch.grid * entry.numbers[1] >= dims[entry.numbers[0]]
        for arch, (threads, _) in RESIDENT.items():
            assert entry.arch > arch or launch.block <= threads


@given(st.integers(0, 12), st.integers(0, 16), st.integers(0, 4))
def test_the_parameter_block_has_a_fixed_layout(pointers: int, dims: int, scalars: int) -> None:
    args = cuda_table.pack_args(range(pointers), range(dims), [0.5] * scalars, reps=3, tune=4, scratch=5)
    assert len(args) == 8 * (12 + 16 + 4 + 3)


@pytest.mark.parametrize(
    "line",
    [
        "PK_ENTRY(stream, copy, fp32, v, 75, 256, HALF(2), none, (f(a)))",
        "PK_ENTRY(stream, copy, fp32, v, 75, 2048, SM(2), none, (f(a)))",
        "PK_ENTRY(stream, copy, fp32, v, 75, 256, ITEMS(2), none, (f(a)))",
        "PK_ENTRY(stream, copy, fp32, v, 256, SM(2), none)",
    ],
)
def test_a_line_that_says_nonsense_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.cu").write_text(f"{line}\n")
    with pytest.raises(CompileError, match="bad"):
        cuda_table.entries(tmp_path)
