"""A Transformer's operators and their chain against NumPy; the record's shape; counts; bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
from native_case import implementations, levels, machine, wrong

from pykernels.analysis.wall import predict, transformer
from pykernels.errors import UsageError
from pykernels.kernels.layer import OPS, Layer, build
from pykernels.machine.placement import space_for

HERE = space_for(machine(), "cpu", 1)


def layer(op: str, *, decoder: bool, seq: int = 37, batch: int = 1, kv_heads: int = 4, dtype: str = "fp32") -> Layer:
    return Layer(
        model="toy",
        op=op,
        seq=seq,
        batch=batch,
        decoder=decoder,
        layers=3,
        hidden=256,
        heads=4,
        kv_heads=kv_heads,
        ffn=512,
        dtype=dtype,
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("op", OPS)
def test_every_operator(op: str, decoder: bool, dtype: str) -> None:
    for isa in (levels()[0], levels()[-1]):
        for seq, batch, kv_heads in ((1, 1, 4), (37, 1, 4), (130, 2, 2)):
            problem = layer(op, decoder=decoder, seq=seq, batch=batch, kv_heads=kv_heads, dtype=dtype)
            found = list(implementations(problem, isa))
            assert found
            for implementation in found:
                for threads in (1, 2):
                    assert wrong(problem, implementation, threads) is None, (isa, seq, batch, threads)


def test_every_layer_has_its_part_in_the_chain() -> None:
    """A chain of two layers differs from one of three by far more than the tolerance."""
    import numpy as np
    from native_case import session

    three = layer("chain", decoder=False)
    runner = session(1).prepare(three, next(iter(implementations(three, levels()[-1]))))
    y = three.reference(runner.inputs())["y"]
    shorter = Layer(**{**{f: getattr(three, f) for f in three.__struct_fields__}, "layers": 2})
    assert np.abs(shorter.reference(runner.inputs())["y"] - y).max() > 10 * three.tolerance().absolute
    runner.close()


@pytest.mark.parametrize("name", ["bert-base", "gpt2"])
@pytest.mark.parametrize("op", OPS)
def test_records_have_the_shape_that_predictions_read(name: str, op: str) -> None:
    problem = build({"model": name, "op": op, "seq": 128, "batch": 1, "dtype": "fp32"}, HERE)
    assert problem.kernel == predict.KERNEL
    assert problem.params() == {"model": name, "op": op, "seq": "128"}
    config = transformer.PRESETS[name]
    operations = transformer.ours(config, 128)
    steps = 128 if config.kind == "decoder" else 1
    flops = sum(o.flops for o in operations if op in (o.name, predict.CHAIN)) / steps
    assert problem.flops() == pytest.approx(flops)


def test_weights_are_all_layers() -> None:
    problem = build({"model": "bert-base", "op": "chain", "seq": 1, "batch": 1, "dtype": "fp32"}, HERE)
    assert problem.working_set() >= transformer.weight_bytes(transformer.PRESETS["bert-base"], "fp32")


def test_bad_input(tmp_path: Path) -> None:
    usual = {"op": "chain", "seq": 128, "batch": 1, "dtype": "fp32"}
    with pytest.raises(UsageError, match="bert-base"):
        build({**usual, "model": "bert-bas"}, HERE)
    with pytest.raises(UsageError, match="batch is 0"):
        build({**usual, "model": "gpt2", "batch": 0}, HERE)
    odd = tmp_path / "odd.toml"
    odd.write_text('kind = "encoder"\nlayers = 1\nhidden = 120\nheads = 4\nffn = 480\n')
    with pytest.raises(UsageError, match="heads of 30"):
        build({**usual, "model": str(odd)}, HERE)


def test_a_model_larger_than_memory_is_predicted_not_measured() -> None:
    with pytest.raises(UsageError, match="can be predicted, not measured") as error:
        build({"op": "chain", "seq": 128, "batch": 1, "dtype": "fp32", "model": "gpt3"}, HERE)
    assert error.value.hint == "pykernels wall model gpt3 RUN"
    assert build({"op": "chain", "seq": 128, "batch": 1, "dtype": "fp32", "model": "gpt2"}, HERE).model == "gpt2"
