"""Matrix products against float64: every level and variant, odd shapes, strides, transposes, empty sides, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_case import implementations, levels, machine, session, wrong

from pykernels.backends.native import BACKEND
from pykernels.errors import UsageError
from pykernels.kernels.dtypes import narrow, widen
from pykernels.kernels.gemm import FAMILY, LONGEST_INT8, TRANSPOSES, TYPES, Gemm, build, shape_of
from pykernels.model import Case, Implementation, Placement

DTYPES = tuple(TYPES)
#: every path: panels and row blocks with tails, dot products along k, few rows in place, narrow in place, long k
SHAPES = [(61, 83, 1043), (300, 5, 700), (5, 300, 700), (7, 130, 600), (200, 64, 40), (24, 32, 5000), (40, 64, 2200)]


class Space:
    threads = 2

    def level_bytes(self, level: str) -> int:
        return 1 << 20

    def size(self, text: str) -> int:
        return 1 << 20


def built(**values: object) -> Gemm:
    usual = {key: spec.default[0] for key, spec in FAMILY.keys.items() if spec.default}
    return build({**usual, **values}, Space())


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_variant_is_right(dtype: str, isa: str) -> None:
    problem = Gemm(m=61, n=83, k=301, dtype=dtype)
    found = list(implementations(problem, isa))
    assert [each.variant for each in found] == ["naive", "blocked", "packed"]
    for implementation in found:
        for threads in (1, 2):
            assert wrong(problem, implementation, threads) is None, (implementation, threads)


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_every_path(m: int, n: int, k: int, dtype: str, isa: str) -> None:
    for transpose in ("nn", "tt"):
        problem = Gemm(m=m, n=n, k=k, dtype=dtype, transpose=transpose)
        for threads in (1, 2):
            assert wrong(problem, Implementation("native", isa, "packed"), threads) is None, threads


@given(
    m=st.integers(0, 70),
    n=st.integers(0, 80),
    k=st.integers(0, 200),
    dtype=st.sampled_from(DTYPES),
    transpose=st.sampled_from(TRANSPOSES),
    batch=st.integers(1, 3),
    pad=st.integers(0, 5),
    alpha=st.sampled_from([1.0, 0.5]),
    beta=st.sampled_from([0.0, 0.25, 1.0]),
    zero=st.sampled_from([0, 128, 255]),
    isa=st.sampled_from(levels()),
    threads=st.sampled_from([1, 2]),
)
def test_odd_shapes(isa: str, threads: int, **fields: object) -> None:
    problem = Gemm(**fields)  # type: ignore[arg-type]
    for implementation in implementations(problem, isa):
        assert wrong(problem, implementation, threads) is None, implementation


@pytest.mark.parametrize("isa", levels())
def test_padding_of_c_is_left_alone(isa: str) -> None:
    problem = Gemm(m=37, n=45, k=64, pad=3, dtype="fp32")
    for implementation in implementations(problem, isa):
        runner = session(1).prepare(problem, implementation)
        runner.poison()
        before = runner.outputs()["c"].view(np.uint32)[:, 45:].copy()
        runner.run(1)
        assert np.array_equal(runner.outputs()["c"].view(np.uint32)[:, 45:], before), implementation
        runner.close()


def run_on(problem: Gemm, isa: str, variant: str, **arrays: np.ndarray) -> np.ndarray:
    """C of a product whose inputs are overwritten."""
    runner = session(1).prepare(problem, Implementation("native", isa, variant))
    try:
        inputs = runner.inputs()
        for name, values in arrays.items():
            inputs[name][...] = values
        runner.poison()
        runner.run(1)
        return problem.observed(runner.outputs())["c"].copy()
    finally:
        runner.close()
        session(1)._idle.clear()  # its inputs are no longer those of the recipe


@pytest.mark.parametrize("isa", levels())
def test_int8_neither_saturates_nor_wraps(isa: str) -> None:
    """The largest sums there are: 255 x -128 and 255 x 127 over a long k."""
    problem = Gemm(m=14, n=35, k=4099, zero=0, dtype="int8")
    for extreme in (-128, 127):
        for variant in ("naive", "packed"):
            found = run_on(problem, isa, variant, a=255, b=extreme, row=1, column=1)
            assert (found == np.float32(255 * extreme * 4099)).all(), variant


@pytest.mark.parametrize("isa", levels())
@given(data=st.data())
def test_error_is_bounded_by_length_and_type(isa: str, data: st.DataObject) -> None:
    """Terms of both signs and magnitudes: |error| <= gamma_(k + 3) sum |a||b|, elementwise."""
    dtype = data.draw(st.sampled_from(["fp64", "fp32", "bf16"]))
    m, n, k = (data.draw(st.integers(1, most)) for most in (30, 40, 300))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    a, b = (rng.normal(size=shape) * 10 ** rng.uniform(-3, 3, size=shape) for shape in ((m, k), (k, n)))
    a, b = narrow(a, dtype), narrow(b, dtype)
    problem = Gemm(m=m, n=n, k=k, dtype=dtype)
    found = run_on(problem, isa, "packed", a=a, b=b)
    exact = widen(a, dtype).astype(np.longdouble) @ widen(b, dtype).astype(np.longdouble)
    terms = np.abs(widen(a, dtype)) @ np.abs(widen(b, dtype))
    assert (np.abs(found - exact) <= problem.roundings() * terms + 1e-30).all()


@pytest.mark.parametrize("isa", levels())
def test_nan_reaches_its_row_only(isa: str) -> None:
    problem = Gemm(m=20, n=40, k=64, dtype="fp32")
    a = np.ones((20, 64), dtype=np.float32)
    a[3, 5] = math.nan
    for variant in ("naive", "blocked", "packed"):
        found = run_on(problem, isa, variant, a=a, b=1)
        assert np.isnan(found[3]).all()
        assert np.isfinite(np.delete(found, 3, axis=0)).all()


def test_beta_zero_reads_no_c() -> None:
    """What was in C, NaN here, does not matter."""
    assert wrong(Gemm(m=30, n=33, k=20, dtype="bf16"), Implementation("native", levels()[-1], "packed")) is None


def test_more_threads_than_rows() -> None:
    problem = Gemm(m=1, n=1, k=7, dtype="fp32")
    for implementation in implementations(problem, levels()[-1]):
        assert wrong(problem, implementation, 2) is None


def test_sampled_check_of_a_batch() -> None:
    problem = Gemm(m=150, n=40, k=30, batch=5, dtype="fp32")
    assert wrong(problem, Implementation("native", levels()[-1], "packed"), 2, seed=3) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 0}, "batch = 0"),
        ({"m": 0}, "m = 0"),
        ({"shape": "12x"}, "4096x8x4096"),
        ({"pad": -1}, "pad = -1"),
        ({"shape": "64", "k": 3}, "both shape and k"),
        ({"zero": 256, "dtype": "int8"}, "zero = 256"),
        ({"k": LONGEST_INT8 + 1, "dtype": "int8"}, str(LONGEST_INT8)),
    ],
)
def test_bad_input(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        built(**values)


def test_a_product_beyond_memory_is_skipped() -> None:
    problem = Gemm(m=1 << 24, n=1 << 24, k=8, dtype="fp32")
    with pytest.raises(UsageError, match="memory"):
        session(1).prepare(problem, Implementation("native", levels()[-1], "packed"))


def test_shapes() -> None:
    assert shape_of("2048") == (2048, 2048, 2048)
    assert shape_of("8x4096x64") == (8, 4096, 64)


def test_ids_and_counts() -> None:
    implementation, placement = Implementation("native", "x86_64_v3", "packed"), Placement()
    problem = built(shape="8x4096x64")
    assert Case(problem=problem, implementation=implementation, placement=placement).id == (
        "gemm[m=8,n=4096,k=64,fp32] native:x86_64_v3/packed @cpu*1"
    )
    assert built(m=2, n=3, k=4, transpose="nt", beta=0.5).params() == {
        "m": "2",
        "n": "3",
        "k": "4",
        "transpose": "nt",
        "beta": "0.5",
    }
    assert problem.flops() == 2 * 8 * 4096 * 64
    assert problem.traffic().compulsory == 4 * (8 * 64 + 64 * 4096 + 8 * 4096)
    assert built(m=8, n=8, k=8, beta=1.0).traffic().by_operand["c"] == 2 * 4 * 64
    assert built(shape="2048").entry() == ("gemm", "large", "fp32")


def test_large_products_are_not_offered_to_naive_loops() -> None:
    case = Case(
        problem=built(shape="4096"), implementation=Implementation("native", levels()[-1]), placement=Placement()
    )
    assert BACKEND.skip(case, machine()) is None
    assert BACKEND.variants(case) == ("packed",)
