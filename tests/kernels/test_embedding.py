"""Embedding lookups: byte counts, and every native variant at every level against float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_case import implementations, levels, session, wrong

from pykernels.errors import UsageError
from pykernels.kernels import embedding_keys
from pykernels.kernels.embedding import EmbeddingBag, EmbeddingGather, mean_lines, row_bytes
from pykernels.kernels.indices import Draw
from pykernels.machine.placement import MachineSpace
from pykernels.model import Implementation
from pykernels.units import MIB

LENGTHS = st.sampled_from([(0, 0), (1, 1), (0, 3), (2, 2), (7, 7), (1, 60), (33, 33)])
WIDTHS = [1, 2, 7, 15, 16, 17, 31, 32, 47, 64, 65, 96, 100, 128, 136, 192, 256, 272, 300, 511]


@st.composite
def bags(draw: st.DrawFn, dtype: str) -> EmbeddingBag:
    tables = draw(st.sampled_from([1, 1, 2, 3]))
    mode = draw(st.sampled_from(["sum", "mean"]))
    return EmbeddingBag(
        dtype=dtype, rows=tuple(draw(st.sampled_from([1, 2, 13, 257])) for _ in range(tables)),
        dim=draw(st.sampled_from(WIDTHS)), batch=draw(st.sampled_from([1, 2, 5, 13])),
        pooling=tuple(draw(LENGTHS) for _ in range(tables)), mode=mode,
        weighted=mode == "sum" and draw(st.booleans()), index=draw(st.sampled_from(["int32", "int64"])),
        draw=Draw(draw(st.sampled_from([0.0, 1.2])), seed=draw(st.integers(0, 99))), sets=draw(st.sampled_from([1, 3])),
    )  # fmt: skip


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", embedding_keys.DTYPES)
@given(data=st.data(), threads=st.sampled_from([1, 2]))
@settings(max_examples=12)
def test_bags_agree_with_float64(dtype: str, isa: str, data: st.DataObject, threads: int) -> None:
    problem = data.draw(bags(dtype))
    chosen = data.draw(st.sampled_from(list(implementations(problem, isa))))
    assert wrong(problem, chosen, threads) is None


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", embedding_keys.DTYPES)
@given(
    dim=st.sampled_from(WIDTHS),
    batch=st.sampled_from([1, 2, 17, 100]),
    data=st.data(),
    index=st.sampled_from(["int32", "int64"]),
)
@settings(max_examples=8)
def test_gathers_agree_with_float64(
    dtype: str, isa: str, dim: int, batch: int, data: st.DataObject, index: str
) -> None:
    problem = EmbeddingGather(dtype=dtype, rows=(97, 5), dim=dim, batch=batch, index=index)
    chosen = data.draw(st.sampled_from(list(implementations(problem, isa))))
    assert wrong(problem, chosen, data.draw(st.sampled_from([1, 2]))) is None


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("bad", [257, -1, 2**31 - 1])
def test_an_index_out_of_range_reads_nothing_and_shows(isa: str, index: str, bad: int) -> None:
    """The thread's results are NaN, which no check takes for right."""
    problem = EmbeddingBag(dtype="fp32", rows=(257,), dim=40, batch=9, pooling=((4, 4),), index=index)
    gather = EmbeddingGather(dtype="fp32", rows=(257,), dim=40, batch=36, index=index)
    for one in (problem, gather):
        for implementation in implementations(one, isa):
            runner = session().prepare(one, implementation)
            try:
                runner.inputs()["indices"][0, 17] = bad
                runner.run(1)
                assert np.isnan(runner.outputs()["out"]).all(), implementation
            finally:
                session()._idle.clear()  # the buffers no longer hold what their recipe says


def test_offsets_that_do_not_rise_read_nothing() -> None:
    problem = EmbeddingBag(dtype="fp32", rows=(257,), dim=40, batch=9, pooling=((4, 4),))
    runner = session().prepare(problem, Implementation("native", levels()[-1], "plain"))
    try:
        runner.inputs()["offsets"][4] = 3
        runner.run(1)
        out = runner.outputs()["out"]
        assert np.isnan(out[3]).all()
        assert not np.isnan(out[:3]).any()
    finally:
        session()._idle.clear()


def test_every_index_set_takes_its_turn() -> None:
    problem = EmbeddingBag(dtype="fp32", rows=(257,), dim=16, batch=5, pooling=((3, 3),), sets=3)
    runner = session().prepare(problem, Implementation("native", levels()[-1], "plain"))
    inputs = runner.inputs()
    for turn in range(5):
        runner.run(turn + 1)
        shown = {**inputs, "indices": inputs["indices"][turn % 3 :]}
        np.testing.assert_allclose(runner.outputs()["out"], problem.reference(shown)["out"], rtol=1e-5)
    runner.close()


# -------------------------------------------------------------------------------------------------- counts and building


def space(threads: int = 1) -> MachineSpace:
    from synthetic import machine

    return MachineSpace(machine(), "cpu", threads)


@pytest.mark.parametrize(
    ("dim", "dtype", "nbytes", "lines"),
    [(8, "fp32", 32, 1.0), (64, "fp32", 256, 4.0), (32, "int8", 40, 1.5), (64, "int8", 72, 2.0),
     (128, "int8", 136, 3.0), (256, "int8", 264, 5.0), (64, "int4", 40, 1.5), (63, "int4", 40, 1.5),
     (64, "bf16", 128, 2.0)],
)  # fmt: skip
def test_rows_and_lines(dim: int, dtype: str, nbytes: int, lines: float) -> None:
    assert row_bytes(dim, dtype) == nbytes
    assert mean_lines(nbytes) == lines


def test_bytes_by_their_conventions() -> None:
    problem = EmbeddingBag(
        dtype="fp32", rows=(1000,), dim=64, batch=10, pooling=((20, 20),), weighted=True, index="int64"
    )
    traffic = problem.traffic()
    assert traffic.by_operand == {"table": 51200, "indices": 1600, "offsets": 88, "weights": 800, "out": 2560}
    assert traffic.requested == sum(traffic.by_operand.values())
    touched = 1000 * (1 - 0.999**200)
    assert traffic.compulsory == pytest.approx(traffic.requested - 51200 + touched * 256)
    assert traffic.write_allocate == 2560
    assert problem.flops() == 2 * 200 * 64
    about = problem.about()
    assert about["bytes_gathered"] == 51200
    assert about["bytes_line"] == 51200
    assert about["warm"] is True


def test_levels_are_fitted_with_all_that_a_call_touches() -> None:
    for level, threads, room in (("L2", 1, 384 * 1024), ("L2", 2, 384 * 1024), ("L3", 2, 8 * MIB)):
        values = {"level": level, "dim": 64, "dtype": "fp32", "pooling": 20, "index": "int32"}
        problem = embedding_keys.BAG.build(values, space(threads))
        assert 0.9 * room < problem.working_set() <= room


def test_sets_rotate_until_the_caches_are_outrun() -> None:
    values = {"level": "DRAM", "dim": 64, "dtype": "fp32", "index": "int32", "pooling": 20}
    problem = embedding_keys.BAG.build(values, space())
    assert problem.sets > 1
    assert problem.about()["warm"] is False
    skewed = embedding_keys.BAG.build({**values, "indices": {"zipf": 1.5}, "batch": 1}, space())
    assert skewed.about()["warm"] is True


def test_named_workloads_scale_to_the_memory() -> None:
    problem = embedding_keys.BAG.build({"workload": "DLRM", "dtype": "fp32", "index": "int32", "batch": 1}, space())
    assert problem.tables == 26
    assert problem.lookups == 214
    assert problem.scale < 1
    assert problem.params()["workload"] == "DLRM"
    assert problem.table_bytes <= 4 * 1024**3


def test_a_trace_is_looked_up_as_recorded(tmp_path: Path) -> None:
    path = tmp_path / "day.npz"
    np.savez(path, indices=[5, 1, 5, 2, 0], lengths=[2, 0, 3], weights=np.array([1, 2, 3, 4, 5.5]))
    values = {"trace": str(path), "dim": 24, "dtype": "fp32", "weighted": True}
    problem = embedding_keys.BAG.build(values, space())
    assert problem.rows == (6,)
    assert problem.params()["trace"].startswith("day-")
    assert problem.about()["unique_ratio"] == 0.8
    for implementation in implementations(problem, levels()[-1]):
        assert wrong(problem, implementation) is None
    with pytest.raises(UsageError, match="states its own"):
        embedding_keys.BAG.build({**values, "pooling": 3}, space())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dim": 0, "rows": 8}, "dim = 0|whole number"), ({"dim": -3, "rows": 8}, "dim = -3"),
        ({"pooling": "9..3"}, "least is above"), ({"pooling": "many"}, "write lookups"),
        ({"rows": 10, "table": "1 MiB"}, "both given"), ({"rows": 1 << 40}, "beyond memory"),
        ({"weighted": True, "mode": "mean"}, "weights are for"), ({"level": "L1", "batch": 4096}, "fill the level"),
        ({"trace": "none.npz"}, "cannot be read"), ({"indices": {"zipf": -1}}, "from 0"),
    ],
)  # fmt: skip
def test_bad_input_is_named(values: dict[str, object], words: str) -> None:
    common = {"dtype": "fp32", "index": "int32", "mode": "sum", "weighted": False}
    with pytest.raises(UsageError, match=words):
        embedding_keys.BAG.build({**common, **values}, space())
