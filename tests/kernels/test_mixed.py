"""Multiply-adds on loaded data: both checksums at odd sizes, every k by its remainder, every skip, level and width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_case import implementations, levels, session, wrong
from test_stream import Sizes

from pykernels.errors import UsageError
from pykernels.kernels.mixed import FAMILY, RANGE, SKIPS, Mixed, build, operations
from pykernels.kernels.random import array
from pykernels.model import Case, Implementation, Placement

WORK = [*((0, skip) for skip in SKIPS), *((k, 1) for k in (1, 2, 3, 4, 7, 16, 129, 1024))]


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", ["fp64", "fp32"])
@pytest.mark.parametrize(("k", "skip"), WORK)
def test_every_variant_is_right(k: int, skip: int, dtype: str, isa: str) -> None:
    for units, threads, n in ((1, 1, 9001), (2, 2, 20480), (3, 2, 1000)):
        problem = Mixed(dtype=dtype, n=n, k=k, skip=skip, units=units)
        found = list(implementations(problem, isa))
        assert found
        for implementation in found:
            assert wrong(problem, implementation, threads) is None, (implementation, units)


@given(work=st.sampled_from(WORK), dtype=st.sampled_from(["fp64", "fp32"]), n=st.integers(1, 5000),
       isa=st.sampled_from(levels()), threads=st.sampled_from([1, 2]))  # fmt: skip
def test_odd_sizes(work: tuple[int, int], dtype: str, n: int, isa: str, threads: int) -> None:
    problem = Mixed(dtype=dtype, n=n, k=work[0], skip=work[1], units=threads)
    for implementation in implementations(problem, isa):
        assert wrong(problem, implementation, threads) is None, implementation


def test_sums_stay_exact_over_many_passes() -> None:
    """Whatever is folded when: 5,000 passes add up to 5,000 times one."""
    problem = Mixed(dtype="fp32", n=4096, k=1)
    for implementation in implementations(problem, levels()[-1]):
        runner = session(1).prepare(problem, implementation)
        runner.run(1)
        once = int(runner.outputs()["sums"][0])
        runner.run(5000)
        assert int(runner.outputs()["sums"][0]) == once * 5000 % 2**32
        runner.close()


def test_the_checksum_counts_every_product() -> None:
    problem = Mixed(dtype="fp64", n=2048, k=5)
    x = array(problem.operands()[0])
    whole = problem.reference({"x": x})["sums"]
    assert int(whole[0]) % 2**64 == int(15 * x.sum()) % 2**64
    fewer = Mixed(dtype="fp64", n=2048, k=4).reference({"x": x})["sums"]
    assert fewer[0] != whole[0]
    x[0, 77] += 1
    assert problem.reference({"x": x})["sums"][0] - whole[0] == 15


def test_data_are_whole_numbers_in_range() -> None:
    for dtype, most in RANGE.items():
        x = array(Mixed(dtype=dtype, n=50_000, k=1).operands()[0])
        assert np.array_equal(x, np.round(x))
        assert -most <= x.min() < -0.99 * most
        assert 0.99 * most < x.max() < most


@pytest.mark.parametrize(
    ("intensity", "dtype", "expected"),
    [(1 / 32, "fp32", (0, 16)), (1 / 32, "fp64", (0, 8)), (0.25, "fp64", (1, 1)), (0.5, "fp32", (1, 1)),
     (10.8, "fp32", (22, 1)), (256, "fp64", (1024, 1)), (1 / 64, "fp64", (0, 16))],
)  # fmt: skip
def test_intensity_to_operations(intensity: float, dtype: str, expected: tuple[int, int]) -> None:
    assert operations(intensity, dtype) == expected


@pytest.mark.parametrize("intensity", [0, -1, 1e-3, 1e4, float("nan")])
def test_intensities_out_of_range_are_refused(intensity: float) -> None:
    with pytest.raises(UsageError, match="intensity"):
        operations(intensity, "fp32")


def test_flops_over_bytes_is_the_intensity() -> None:
    for intensity in FAMILY.keys["intensity"].default:
        for level in ("L1", "L2", "L3", "DRAM"):
            for dtype in ("fp32", "fp64"):
                problem = build({"intensity": intensity, "level": level, "dtype": dtype}, Sizes())
                assert problem.flops() / problem.traffic().requested == pytest.approx(intensity)
                assert 0.7 * Sizes().level_bytes(level) <= problem.working_set() <= Sizes().level_bytes(level)
                assert problem.flops() < 2.5e9 * Sizes.threads


def test_ids() -> None:
    problem = build({"intensity": 0.03125, "level": "L1", "dtype": "fp32"}, Sizes())
    case = Case(problem=problem, implementation=Implementation("native"), placement=Placement())
    assert case.id == "mixed[intensity=0.03125,level=L1,fp32] native @cpu*1"
    with pytest.raises(UsageError, match="a number"):
        build({"intensity": "much", "level": "L1", "dtype": "fp32"}, Sizes())


def test_points_under_another_tools_name() -> None:
    values = {"intensity": 1, "level": "DRAM", "dtype": "fp32", "size": "4 L3", "as": "mixbench-like"}
    problem = build(values, Sizes())
    assert problem.working_set() == 128 << 20
    assert problem.params() == {"as": "mixbench-like", "intensity": "1", "level": "DRAM", "size": "4 L3"}
    assert problem.figure().op == "mixbench-like"
    with pytest.raises(UsageError, match="go together"):
        build({**values, "as": ""}, Sizes())
