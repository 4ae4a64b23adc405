"""Ids are keys of run files, of pytest and of `compare`: they are pinned here and never change."""

from __future__ import annotations

import pytest

from pykernels.kernels.fma import Fma
from pykernels.kernels.stream import Stream
from pykernels.model import Case, Implementation, Placement, short_hash
from pykernels.registry import case_from_builtins, case_to_builtins

STREAM = Stream(op="triad", n=1 << 20, level="DRAM", dtype="fp64")
SIZED = Stream(op="load", n=1 << 20, dtype="fp32", symbols={"size": "0.4 L2"})
FMA = Fma(dtype="int8")

PINNED = [
    (
        Case(STREAM, Implementation("native", "x86_64_v3"), Placement()),
        "stream[op=triad,level=DRAM,fp64] native:x86_64_v3 @cpu*1",
    ),
    (
        Case(SIZED, Implementation("native", "x86_64_v4", "prefetch:512"), Placement(threads=16, pages="4k")),
        "stream[op=load,size=0.4 L2,fp32] native:x86_64_v4/prefetch:512 @cpu*16{4k}",
    ),
    (
        Case(FMA, Implementation("native", "x86_64_v4_vnni"), Placement(device="cpu:1", threads=8)),
        "fma[int8] native:x86_64_v4_vnni @cpu:1*8",
    ),
    (
        Case(FMA, Implementation("numpy"), Placement(device="cpu:l3.2", threads=4, memory="1")),
        "fma[int8] numpy @cpu:l3.2*4{memory=1}",
    ),
    (
        Case(STREAM, Implementation("cuda"), Placement(device="gpu:0", mode="cold", launch="graph", ends="G2")),
        "stream[op=triad,level=DRAM,fp64] cuda @gpu:0{cold,graph,G2}",
    ),
]


@pytest.mark.parametrize(("case", "case_id"), PINNED, ids=[case_id for _, case_id in PINNED])
def test_ids_are_pinned(case: Case, case_id: str) -> None:
    assert case.id == case_id
    assert case.hash == short_hash(case_id)


def test_the_hash_is_pinned() -> None:
    assert short_hash(PINNED[0][1]) == "5b06a588"


@pytest.mark.parametrize("case", [case for case, _ in PINNED])
def test_a_case_travels_to_a_worker_and_back(case: Case) -> None:
    assert case_from_builtins(case_to_builtins(case)) == case
