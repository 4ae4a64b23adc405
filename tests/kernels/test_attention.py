"""Attention against float64: every level and variant, masks, groups, lengths around blocks, extremes, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_case import implementations, levels, session, wrong

from pykernels.analysis.wall import survey, transformer
from pykernels.errors import UsageError
from pykernels.kernels.attention import FAMILY, Attention, build
from pykernels.model import Case, Implementation, Placement


class Space:
    threads = 2

    def level_bytes(self, level: str) -> int:
        return 1 << 20

    def size(self, text: str) -> int:
        return {"0.4 L2": 400_000}[text]


def built(**values: object) -> Attention:
    usual = {key: spec.default[0] for key, spec in FAMILY.keys.items() if spec.default}
    return build({**usual, **values}, Space())


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_every_variant_is_right(dim: int, dtype: str, isa: str) -> None:
    for lq, heads in ((1, 4), (77, 2)):
        problem = Attention(heads=heads, kv_heads=1, lq=lq, lk=301, dim=dim, causal=True, dtype=dtype)
        found = list(implementations(problem, isa))
        assert [each.variant for each in found][:3] == ["online", "unfused", "flash"]
        for implementation in found:
            for threads in (1, 2):
                assert wrong(problem, implementation, threads) is None, (implementation, threads)


@given(
    lq=st.sampled_from([1, 2, 5, 40]),
    lk=st.integers(1, 600),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 8, 16]),
    batch=st.integers(1, 2),
    causal=st.booleans(),
    dtype=st.sampled_from(["fp32", "bf16"]),
    isa=st.sampled_from(levels()),
    threads=st.sampled_from([1, 2]),
)
def test_shapes_and_masks(
    lq: int, lk: int, kv_heads: int, group: int, batch: int, causal: bool, dtype: str, isa: str, threads: int
) -> None:
    problem = Attention(
        batch=batch, heads=kv_heads * group, kv_heads=kv_heads, lq=lq, lk=lk, dim=64, causal=causal, dtype=dtype
    )
    for implementation in implementations(problem, isa):
        assert wrong(problem, implementation, threads) is None, implementation


def run_on(problem: Attention, isa: str, variant: str, **arrays: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    runner = session(1).prepare(problem, Implementation("native", isa, variant))
    try:
        for name, values in arrays.items():
            runner.inputs()[name][...] = values
        runner.poison()
        runner.run(1)
        return problem.observed(runner.outputs())["o"].copy(), problem.reference(runner.inputs())["o"]
    finally:
        runner.close()
        session(1)._idle.clear()


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_number_of_rows_a_kv_head(dtype: str, isa: str) -> None:
    """Rows that fill a set of the decode kernel or not, keys that fill a block or not, and none of the mask missed."""
    for rows in (1, 2, 3, 4, 5, 8, 9, 16, 17, 32):
        for lk in (5, 65, 273):
            for heads, lq, causal in ((rows, 1, False), (1, rows, True)):
                problem = Attention(heads=heads, kv_heads=1, lq=lq, lk=lk, dim=64, causal=causal, dtype=dtype)
                for variant in ("split:0", "split:8192"):
                    assert wrong(problem, Implementation("native", isa, variant), 2) is None, (rows, lk, causal)


@pytest.mark.parametrize("isa", levels())
def test_keys_that_are_not_there_count_for_nothing(isa: str) -> None:
    """Scores far below those of the zeros that fill a block up."""
    for rows in (1, 2, 4, 8, 16):
        for lk in range(61, 78):
            problem = Attention(heads=rows, kv_heads=1, lq=1, lk=lk, dim=64, dtype="fp32")
            found, expected = run_on(problem, isa, "split:0", q=10.0, k=np.full((lk, 64), -10, dtype=np.float32))
            assert np.allclose(found, expected, rtol=1e-4), (rows, lk)


@pytest.mark.parametrize("isa", levels())
def test_scores_of_minus_infinity_alone_give_nan(isa: str) -> None:
    """As the reference has it: what is masked is not what is infinitely unlikely."""
    problem = Attention(heads=1, kv_heads=1, lq=1, lk=40, dim=64, dtype="fp32")
    for variant in ("online", "split:0"):
        found, expected = run_on(problem, isa, variant, q=1.0, k=np.full((40, 64), -math.inf, dtype=np.float32))
        assert np.isnan(expected).all()
        assert np.isnan(found).all(), variant


@pytest.mark.parametrize("isa", levels())
def test_a_query_that_sees_no_key_gives_zeros(isa: str) -> None:
    problem = Attention(heads=2, kv_heads=2, lq=50, lk=20, dim=64, causal=True, dtype="fp32")
    for implementation in implementations(problem, isa):
        found, expected = run_on(problem, isa, implementation.variant)
        assert (found.reshape(2, 50, 64)[:, :30] == 0).all()
        assert np.allclose(found, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("size", [1e3, 1e15])
def test_extreme_scores(size: float, isa: str) -> None:
    """Scores of +-size^2: one key takes all the weight, wherever its block is; nothing overflows."""
    for lq in (1, 50):
        problem = Attention(heads=1, kv_heads=1, lq=lq, lk=400, dim=64, dtype="fp32")
        k = np.full((400, 64), -size, dtype=np.float32)
        k[299] = size
        for implementation in implementations(problem, isa):
            found, expected = run_on(problem, isa, implementation.variant, q=size, k=k)
            assert np.allclose(found, expected, rtol=1e-6), implementation


@pytest.mark.parametrize("isa", levels())
def test_nan_reaches_what_it_reaches_in_the_reference(isa: str) -> None:
    problem = Attention(heads=1, kv_heads=1, lq=40, lk=64, dim=64, dtype="fp32")
    q = np.ones((40, 64), dtype=np.float32)
    q[3, 1] = math.nan
    for implementation in implementations(problem, isa):
        found, expected = run_on(problem, isa, implementation.variant, q=q)
        assert np.array_equal(np.isnan(found), np.isnan(expected)), implementation


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": 8, "kv_heads": 3}, "kv_heads = 3 does not divide heads = 8"),
        ({"batch": 0}, "batch = 0"),
        ({"heads": 8, "group": 3}, "group = 3"),
        ({"lk": 0}, "lq = 0"),
        ({"dim": 80}, "64, 128, 256"),
        ({"kv": "0.4 L2", "lk": 5}, "both kv and lk"),
        ({"group": 2, "kv_heads": 2}, "both group and kv_heads"),
    ],
)
def test_bad_input(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        built(**values)


def test_a_cache_beyond_memory_is_refused() -> None:
    problem = Attention(heads=128, kv_heads=128, lq=1, lk=1 << 26, dim=128, dtype="fp32")
    with pytest.raises(UsageError, match="memory"):
        session(1).prepare(problem, Implementation("native", levels()[-1], "split:0"))


@given(lq=st.integers(1, 60), lk=st.integers(1, 60))
def test_pairs_are_those_of_the_mask(lq: int, lk: int) -> None:
    problem = Attention(heads=1, kv_heads=1, lq=lq, lk=lk, dim=64, causal=True, dtype="fp32")
    visible = np.arange(lk) <= (np.arange(lq) + lk - lq)[:, None]
    assert problem.pairs() == visible.sum()
    assert problem.flops() == 4 * 64 * visible.sum()


def test_ids_and_counts() -> None:
    decode = built(heads=8, group=4, lq=1, lk=2048)
    implementation = Implementation("native", "x86_64_v3")
    assert Case(problem=decode, implementation=implementation, placement=Placement()).id == (
        "attention[lq=1,lk=2048,heads=8,kv_heads=2,dim=64,fp32] native:x86_64_v3 @cpu*1"
    )
    assert decode.traffic().compulsory == 4 * 64 * (2 * 8 + 2 * 2 * 2048)
    assert decode.unfused_bytes() - decode.traffic().compulsory == 4 * 8 * 2048 * 4
    sized = built(lq=1, kv="0.4 L2")
    assert sized.params()["kv"] == "0.4 L2"
    assert sized.working_set() <= 1.1 * 400_000
    assert built(lk=128).entry()[1] == "prefill"
    assert built(lk=32768).entry()[1] == "long"


@pytest.mark.parametrize(
    "row", survey.printed_values(), ids=lambda row: f"{row.model}-{row.seq}-{row.operator}-{row.quantity}"
)
def test_the_survey_counting_reproduces_its_tables(row: survey.Printed) -> None:
    """2k - 1 a dot product between activations, a byte an element: to every printed digit, or a named reason."""
    assert row.agrees or row.reason


def test_own_counting_is_the_suites() -> None:
    """A layer's fused attention is counted alike by the problem and by the memory wall (which adds the softmax)."""
    config = transformer.Config(name="one", kind="encoder", layers=1, hidden=256, heads=4, ffn=512)
    operation = next(op for op in transformer.ours(config, 100) if op.name == "attention")
    problem = Attention(heads=4, kv_heads=4, lq=100, lk=100, dim=64, dtype="fp32")
    assert operation.bytes == problem.traffic().compulsory
    assert operation.exps == problem.exponentials()
    assert operation.flops == problem.flops() + 5 * problem.pairs()
