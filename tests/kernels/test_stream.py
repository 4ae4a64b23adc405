"""Stream kernels against NumPy: every op, dtype, level and variant, at odd sizes, on one and on two threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_case import implementations, levels, session, wrong

from pykernels.errors import UsageError
from pykernels.kernels.stream import ARRAYS, CHUNK_BYTES, FAMILY, FP64_ONLY, Stream, build
from pykernels.model import Case, Implementation, Placement


class Sizes:
    """A space of round sizes."""

    threads = 2

    private = ("L1", "L2")

    def level_bytes(self, level: str) -> int:
        return {"L1": 32768, "L2": 786432, "L3": 8 << 20, "DRAM": 256 << 20}[level]

    def size(self, text: str) -> int:
        return {"1 MiB": 1 << 20, "2 L2": 2 << 20, "4 L3": 128 << 20, "100 B": 100}[text]


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", ["fp64", "fp32"])
@pytest.mark.parametrize("op", ARRAYS)
def test_every_variant_is_right(op: str, dtype: str, isa: str) -> None:
    if op in FP64_ONLY:
        dtype = "fp64"
    problem = Stream(op=op, n=20011, dtype=dtype)
    found = list(implementations(problem, isa))
    assert found
    for implementation in found:
        for threads in (1, 2):
            assert wrong(problem, implementation, threads) is None, (implementation, threads)


@given(op=st.sampled_from(sorted(ARRAYS)), dtype=st.sampled_from(["fp64", "fp32"]), n=st.integers(1, 5000),
       isa=st.sampled_from(levels()), threads=st.sampled_from([1, 2]))  # fmt: skip
def test_odd_sizes(op: str, dtype: str, n: int, isa: str, threads: int) -> None:
    problem = Stream(op=op, n=n, dtype="fp64" if op in FP64_ONLY else dtype)
    for implementation in implementations(problem, isa):
        assert wrong(problem, implementation, threads) is None, implementation


def test_sampled_check_reads_a_large_array() -> None:
    problem = Stream(op="triad", n=300_000, dtype="fp32")
    assert wrong(problem, next(implementations(problem, levels()[-1])), threads=2, seed=7) is None


def test_load_checksum_covers_every_element() -> None:
    """A load that skipped one element would be found: the checksum is exact."""
    problem = Stream(op="load", n=4001, dtype="fp64")
    a = np.linspace(0.5, 1.5, 4001)
    whole = problem.reference({"a": a})["sum"][0]
    for i in (0, 1, 2000, 4000):
        dropped = a.copy()
        dropped[i] = 0
        assert problem.reference({"a": dropped})["sum"][0] != whole


def test_stores_are_never_zero() -> None:
    problem = Stream(op="store", n=4096, dtype="fp32")
    runner = session(1).prepare(problem, next(implementations(problem, levels()[-1])))
    runner.run(1)
    assert np.all(runner.outputs()["c"] == 1.25)
    runner.close()


@pytest.mark.parametrize(
    ("op", "requested", "allocated"),
    [("load", 1, 0), ("store", 1, 1), ("nt-store", 1, 0), ("copy", 2, 1), ("triad", 3, 1), ("nt-triad", 3, 0)],
)
def test_bytes(op: str, requested: int, allocated: int) -> None:
    traffic = Stream(op=op, n=1000, dtype="fp64", level="DRAM").traffic()
    assert traffic.requested == traffic.compulsory == requested * 8000
    assert traffic.write_allocate == allocated * 8000
    assert Stream(op=op, n=1000, dtype="fp64", level="L1").traffic().write_allocate == 0


@given(op=st.sampled_from(sorted(ARRAYS)), level=st.sampled_from(["L1", "L2", "L3", "DRAM"]),
       dtype=st.sampled_from(["fp64", "fp32"]))  # fmt: skip
def test_working_set_lies_inside_its_level(op: str, level: str, dtype: str) -> None:
    dtype = "fp64" if op in FP64_ONLY else dtype
    problem = build({"op": op, "level": level, "dtype": dtype}, Sizes())
    assert 0.7 * Sizes().level_bytes(level) <= problem.working_set() <= Sizes().level_bytes(level)
    assert problem.n * (8 if dtype == "fp64" else 4) % (CHUNK_BYTES * Sizes.threads) == 0


def test_ids() -> None:
    """Ids are the record and compare key: they do not change."""
    implementation = Implementation("native", "x86_64_v3")
    level = build({"op": "triad", "level": "DRAM", "dtype": "fp64"}, Sizes())
    case = Case(problem=level, implementation=implementation, placement=Placement())
    assert case.id == "stream[op=triad,level=DRAM,fp64] native:x86_64_v3 @cpu*1"
    size = build({"op": "load", "size": "4 L3", "dtype": "fp32"}, Sizes())
    assert size.params() == {"op": "load", "size": "4 L3"}
    assert size.working_set() == 128 << 20
    assert not size.figure().ceiling
    assert build({"op": "load", "dtype": "fp64"}, Sizes()).level == "DRAM"


def test_a_tiny_size_still_has_work_for_every_thread() -> None:
    assert build({"op": "copy", "size": "100 B", "dtype": "fp64"}, Sizes()).n == 2 * CHUNK_BYTES // 8


def test_level_and_size_together_are_refused() -> None:
    with pytest.raises(UsageError, match=r'level = "L1" and size = "1 MiB"'):
        build({"op": "load", "level": "L1", "size": "1 MiB", "dtype": "fp64"}, Sizes())


def test_dot_adds_up_over_threads_and_parts() -> None:
    problem = Stream(op="dot", n=300_000, parts=3, dtype="fp64")
    assert (problem.flops(), problem.traffic().requested, problem.traffic().write_allocate) == (200_000, 1_600_000, 0)
    for implementation in implementations(problem, levels()[-1]):
        assert wrong(problem, implementation, threads=2, seed=3) is None, implementation


def test_schoenauer_reads_three_arrays() -> None:
    problem = Stream(op="schoenauer", n=1000, level="DRAM", dtype="fp64")
    assert [operand.name for operand in problem.operands()] == ["a", "b", "d", "c"]
    assert (problem.traffic().requested, problem.traffic().write_allocate) == (32_000, 8_000)
    inputs = {"a": np.array([1.0]), "b": np.array([2.0]), "d": np.array([3.0])}
    assert problem.reference(inputs)["c"] == [7.0]


@pytest.mark.parametrize("op", FP64_ONLY)
def test_what_is_in_fp64_only_says_so(op: str) -> None:
    with pytest.raises(UsageError, match=f'op = "{op}" has dtype "fp64", not "fp32"'):
        build({"op": op, "level": "L1", "dtype": "fp32"}, Sizes())


def test_family_lists_all_ops() -> None:
    assert FAMILY.keys["op"].choices == tuple(ARRAYS)


def test_a_roof_under_another_tools_name() -> None:
    values = {"op": "triad", "level": "DRAM", "size": "4 L3", "as": "STREAM-like triad", "dtype": "fp64"}
    problem = build(values, Sizes())
    assert problem.params() == {"as": "STREAM-like triad", "op": "triad", "level": "DRAM", "size": "4 L3"}
    assert (problem.figure().op, problem.figure().level, problem.figure().ceiling) == (
        "STREAM-like triad",
        "DRAM",
        True,
    )
    assert problem.small().entry() == ("stream", "triad", "fp64")
    with pytest.raises(UsageError, match="needs a size"):
        build({**values, "size": ""}, Sizes())
