"""Arithmetic ceilings: every dtype, level and variant computes what its problem states."""

from __future__ import annotations

import numpy as np
import pytest
from native_case import implementations, levels, session, wrong

from pykernels.kernels.fma import ACCUMULATORS, CHAIN_STEPS, Fma
from pykernels.kernels.random import array
from pykernels.measure.verify import compare
from pykernels.model import Case, Implementation, Placement
from pykernels.units import DTYPE_BYTES


@pytest.mark.parametrize("isa", levels())
@pytest.mark.parametrize("dtype", ACCUMULATORS)
def test_every_variant_is_right(dtype: str, isa: str) -> None:
    for threads in (1, 2):
        problem = Fma(dtype=dtype, units=threads)
        for implementation in implementations(problem, isa):
            assert wrong(problem, implementation, threads) is None, (implementation, threads)


def test_passes_do_not_add_up() -> None:
    """The second pass starts anew, as the timed passes do."""
    problem = Fma(dtype="fp64")
    for implementation in implementations(problem, levels()[-1]):
        runner = session(1).prepare(problem, implementation)
        runner.poison()
        runner.run(3)
        assert compare(
            problem.reference(runner.inputs()), problem.observed(runner.outputs()), problem.tolerance()
        ) is None  # fmt: skip
        runner.close()


@pytest.mark.parametrize("dtype", ["fp64", "fp32"])
def test_one_lost_step_is_found(dtype: str) -> None:
    problem = Fma(dtype=dtype)
    inputs = {operand.name: array(operand) for operand in problem.operands() if operand.role == "in"}
    expected = problem.reference(inputs)["chain"]
    before = (expected - 2.0**-9) / (1 - 2.0**-10)
    assert compare({"chain": expected}, {"chain": before}, problem.tolerance()) is not None


def test_work_is_the_same_for_both_shapes() -> None:
    """A tile multiplies 48 x 80 by 80 x 128 bytes of accumulators 32 times: as much as 1024 steps of the chains."""
    for dtype, (_, group, size) in ACCUMULATORS.items():
        assert Fma(dtype=dtype).flops() == 2 * group * 48 * 80 * (128 // size) * 32
        assert Fma(dtype=dtype, units=3).flops() == 3 * Fma(dtype=dtype).flops()
    assert CHAIN_STEPS == 1024


@pytest.mark.parametrize("dtype", ACCUMULATORS)
def test_working_set_is_the_operands(dtype: str) -> None:
    problem = Fma(dtype=dtype, units=2)
    expected = sum(np.prod(o.shape) * DTYPE_BYTES[o.dtype] for o in problem.operands())
    assert problem.working_set() == expected


def test_ids_and_units() -> None:
    case = Case(
        problem=Fma(dtype="fp32", units=2), implementation=Implementation("native", "x86_64_v4"),
        placement=Placement(threads=2),
    )  # fmt: skip
    assert case.id == "fma[fp32] native:x86_64_v4 @cpu*2"
    assert Fma(dtype="int8").figure().unit == "GOP/s"
    assert Fma(dtype="bf16").figure().unit == "GFLOP/s"


def test_untouched_outputs_are_wrong() -> None:
    problem = Fma(dtype="fp32")
    inputs = {operand.name: array(operand) for operand in problem.operands() if operand.role == "in"}
    poison = {name: np.full((1, 10), np.uint32(0xFFF5FFF5)).view(np.float32) for name in ("chain", "tile")}
    found = compare(problem.reference(inputs), problem.observed(poison), problem.tolerance())
    assert found is not None
    assert found.where == "no output was written"
