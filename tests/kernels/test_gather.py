"""Random rows added up: every row size, level and variant against NumPy, at odd numbers of lookups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_case import implementations, levels, session, wrong
from test_stream import Sizes

from pykernels.errors import UsageError
from pykernels.kernels.gather import Gather, build
from pykernels.kernels.random import array
from pykernels.model import Case, Implementation, Placement


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("row_bytes", [4, 12, 32, 36, 64, 72, 128, 256, 264, 1024, 4096])
def test_every_variant_is_right(row_bytes: int, isa: str) -> None:
    problem = Gather(dtype="fp32", rows=777, row_bytes=row_bytes, lookups=2003)
    found = list(implementations(problem, isa))
    assert len(found) == 11
    for implementation in found:
        for threads in (1, 2):
            assert wrong(problem, implementation, threads) is None, (implementation, threads)


@given(words=st.integers(1, 80), lookups=st.integers(1, 300), rows=st.integers(1, 500), isa=st.sampled_from(levels()),
       threads=st.sampled_from([1, 2]))  # fmt: skip
def test_odd_sizes(words: int, lookups: int, rows: int, isa: str, threads: int) -> None:
    problem = Gather(dtype="fp32", rows=rows, row_bytes=4 * words, lookups=lookups)
    for implementation in implementations(problem, isa):
        assert wrong(problem, implementation, threads) is None, implementation


def test_reference_is_the_sum_of_the_rows() -> None:
    problem = Gather(dtype="fp32", rows=50, row_bytes=64, lookups=77)
    inputs = {operand.name: array(operand) for operand in problem.operands()[:2]}
    rows = inputs["table"].view(np.uint64)[inputs["indices"][0]]
    with np.errstate(over="ignore"):
        expected = np.add.reduce(rows.ravel())
    assert problem.reference(inputs)["sum"].view(np.uint64)[0] == expected


def test_index_sets_take_turns() -> None:
    problem = Gather(dtype="fp32", rows=500, row_bytes=64, lookups=100, sets=3)
    runner = session(1).prepare(problem, next(implementations(problem, levels()[-1])))
    inputs = dict(runner.inputs())
    runner.sample(1, 2)  # the second sample took the second set
    second = problem.reference({"table": inputs["table"], "indices": inputs["indices"][1:]})["sum"]
    assert runner.outputs()["sums"][0] == second[0]
    runner.close()


def test_sizes_and_ids() -> None:
    values = {"op": "gather", "row_bytes": 128}
    problem = build({**values, "level": "DRAM"}, Sizes())
    assert problem.working_set() == 256 << 20
    assert problem.sets * problem.lookups >= 0.9 * problem.rows
    case = Case(problem=problem, implementation=Implementation("native"), placement=Placement(threads=2))
    assert case.id == "gather[row_bytes=128,level=DRAM,fp32] native @cpu*2"
    assert build({**values, "level": "L2"}, Sizes()).working_set() == 393216  # each thread's L2 holds all of it
    rate = build({"op": "rows", "row_bytes": 128, "level": "DRAM"}, Sizes()).figure()
    assert (rate.kind, rate.unit, rate.amount) == ("rate", "Grows/s", float(problem.lookups))
    assert not build({**values, "size": "4 L3"}, Sizes()).figure().ceiling


@pytest.mark.parametrize("row_bytes", [0, 2, 66, 65540, "64", 64.0])
def test_bad_row_bytes_are_refused(row_bytes: object) -> None:
    with pytest.raises(UsageError, match="row_bytes"):
        build({"op": "gather", "row_bytes": row_bytes, "level": "L2"}, Sizes())


def test_level_and_size_together_are_refused() -> None:
    with pytest.raises(UsageError, match="both level"):
        build({"op": "gather", "row_bytes": 64, "level": "L2", "size": "1 MiB"}, Sizes())


def test_skewed_rows_of_several_tables() -> None:
    """Hot rows repeat, each table's lookups stay among its rows, and lookups of a size share the filled table."""
    values = {"op": "gather", "row_bytes": 128, "size": "1 MiB", "tables": 4, "indices": {"zipf": 1.05, "seed": 7}}
    problem = build(values, Sizes())
    assert problem.params() == {"row_bytes": "128", "size": "1 MiB", "zipf": "1.05", "tables": "4"}
    assert problem.operands()[0].shared
    assert not build({"op": "gather", "row_bytes": 128, "level": "L2"}, Sizes()).operands()[0].shared
    drawn = problem.host_input("indices")
    assert drawn.shape == (problem.sets, problem.lookups)
    tables = drawn.reshape(problem.sets, 4, -1) // (problem.rows // 4)
    assert (tables == np.arange(4)[None, :, None]).all()
    assert len(np.unique(drawn[0])) < 0.5 * problem.lookups
    assert problem.traffic().compulsory < 0.6 * problem.traffic().requested
    for implementation in implementations(problem.small(), levels()[-1]):
        assert wrong(problem.small(), implementation, 2) is None, implementation


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"level": "L2", "indices": {"zipf": 1.0}}, "and a size"),
        ({"size": "1 MiB", "indices": {"reuse": "meta2021"}}, "and a size"),
        ({"size": "1 MiB", "tables": 0}, "tables = 0"),
    ],
)
def test_skew_that_no_ceiling_has(more: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build({"op": "gather", "row_bytes": 128, **more}, Sizes())
