"""What kernels are called under a roofline."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pykernels.analysis.points import told_apart
from pykernels.store import load_run

RECORD = load_run(Path(__file__).parents[1] / "runs" / "schema1.jsonl").records[0]


def named(case_id: str, kernel: str, backend: str = "native", **params: str) -> object:
    return msgspec.structs.replace(
        RECORD, case_id=case_id, kernel=kernel, params=params, backend=backend, variant=RECORD.variant
    )


def test_a_name_says_what_tells_a_kernel_from_its_like() -> None:
    names = told_apart([
        named("a", "layer", model="gpt2", op="qkv", seq="128"),
        named("b", "layer", model="gpt2", op="out", seq="128"),
        named("c", "layer", model="gpt2", op="out", seq="256"),
        named("d", "softmax", rows="8"),
        named("e", "gemv", backend="torch", n="8"),
        named("f", "gemv", n="8"),
    ])  # type: ignore[list-item]  # fmt: skip
    assert names == {
        "a": "layer qkv seq=128", "b": "layer out seq=128", "c": "layer out seq=256", "d": "softmax",
        "e": "gemv torch", "f": "gemv native",
    }  # fmt: skip
    assert len(set(names.values())) == len(names)
