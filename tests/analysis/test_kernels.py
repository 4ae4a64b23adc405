"""Kernels under their roofs, on runs of known truth: which ceiling binds, the share to the digit, peers, skew."""

from __future__ import annotations

import math

import msgspec
import pytest
import synthetic
from synthetic import KIB, MIB, Noise, Spec

from pykernels.analysis.crossover.workload import zipf_share
from pykernels.analysis.kernels import analyse
from pykernels.errors import UsageError
from pykernels.model import Figure, Measured, Record
from pykernels.report import kernels as report
from pykernels.store import Run

LOOKUPS = 20480


def gather(level: str, truth: float, row_bytes: int) -> Spec:
    """A gather ceiling in GB/s."""
    figure = Figure("bandwidth", "GB/s", 4e6, ceiling=True, level=level, op="gather")
    return Spec("gather", {"row_bytes": str(row_bytes), "level": level}, figure, truth, bytes=4e6, working_set=4 * MIB)


def bag(rows_per_ns: float, *, level: str = "DRAM", dim: int = 64, **more: object) -> Spec:
    """An embedding_bag case in Grows/s: 1024 bags of 20."""
    params = {"level": level, "dim": str(dim), "pooling": "20", "batch": "1024", "rows": "1000000"}
    spec = Spec(
        "embedding_bag", params, Figure("rate", "Grows/s", float(LOOKUPS), level=level), rows_per_ns,
        flops=float(LOOKUPS * dim), bytes=float(LOOKUPS * (4 * dim + 4) + 1025 * 4 + 1024 * dim * 4),
        working_set=256 * MIB,
    )  # fmt: skip
    for key, value in more.items():
        setattr(spec, key, value)
    return spec


def with_bytes(run: Run, **fields: float) -> Run:
    """The run with fields of its lookup records set."""
    records = [
        msgspec.structs.replace(record, **fields) if record.kernel == "embedding_bag" else record
        for record in run.records
    ]
    return msgspec.structs.replace(run, records=records)


def test_lookups_take_the_longer_of_bytes_and_rows() -> None:
    out = 1024 * 64 * 4
    run = with_bytes(
        synthetic.run([gather("DRAM", 24, 256), gather("DRAM", 8, 64), bag(0.075)]), bytes_write_allocate=out
    )
    (point,) = analyse([run]).points
    moved = LOOKUPS * (256 + 4) + 1025 * 4 + 2 * out
    assert point.roof is not None
    assert (point.roof.level, point.roof.op) == ("DRAM", "gather")
    assert point.share == pytest.approx((moved / 24e9) / (LOOKUPS / 0.075e9), rel=1e-6)
    assert point.lookups_per_s == pytest.approx(0.075e9)
    narrow = synthetic.run([gather("DRAM", 24, 256), gather("DRAM", 8, 64), bag(0.075, dim=8)])
    (point,) = analyse([narrow]).points
    assert point.share == pytest.approx(0.075 / (8 / 64), rel=1e-6)  # 8 GB/s of 64 B rows are the most rows a second


def test_skewed_lookups_are_judged_by_a_mixed_roof() -> None:
    spec = bag(0.1)
    spec.params["zipf"] = "1.05"
    roofs = [gather(level, rate, 256) for level, rate in (("L2", 200), ("L3", 100), ("DRAM", 20))]
    (point,) = analyse([synthetic.run([*roofs, spec])]).points
    l2, l3 = (zipf_share(size / 256, 1_000_000, 1.05) for size in (MIB, 32 * MIB))
    moved = LOOKUPS * 256 + LOOKUPS * 4 + 1025 * 4 + 1024 * 256
    seconds = moved * (l2 / 200e9 + (l3 - l2) / 100e9 + (1 - l3) / 20e9)
    assert point.share == pytest.approx(seconds / (LOOKUPS / 0.1e9), rel=1e-3)
    plain = analyse([synthetic.run([*roofs, bag(0.1)])]).points[0]
    assert point.share < plain.share


def test_products_and_softmax_take_the_roofs_that_they_resemble() -> None:
    load, copy = synthetic.bandwidth("L2", 200.0), synthetic.bandwidth("L2", 150.0, op="copy")
    peak = synthetic.compute(100.0)
    exp = Spec("exp", {}, Figure("rate", "Gexp/s", 2048.0, ceiling=True, op="exp"), 10.0, working_set=16 * KIB)
    gemv = synthetic.kernel("gemv", 60.0, 0.5, level="L2")
    dense = synthetic.kernel("gemv", 90.0, 8.0, level="L2", params={"batch": "16"})
    int8 = synthetic.kernel("gemv", 50.0, 8.0, dtype="int8", level="L2")
    softmax = synthetic.kernel("softmax", 30.0, 0.75, level="L2")
    run = synthetic.run([load, copy, peak, exp, gemv, dense, int8, softmax])
    run.records = [_softmax(record) for record in run.records]
    points = {(p.kernel, p.dtype, round(p.intensity, 2)): p for p in analyse([run]).points}
    assert points["gemv", "fp32", 0.5].share == pytest.approx(0.6)
    assert points["gemv", "fp32", 8.0].share == pytest.approx(0.9)
    assert points["gemv", "int8", 8.0].share == pytest.approx(0.5)
    found = points["softmax", "fp32", 0.75]
    assert found.roof is not None
    assert found.roof.op == "exp"  # 1e9 / 6 exponentials at 10 Gexp/s take longer than 1.33e9 bytes at 150 GB/s
    assert found.share == pytest.approx(1e9 / 6 / 10e9 / (1 / 30.0))


def test_products_in_digits_take_three_of_bytes() -> None:
    specs = [synthetic.bandwidth("L2", 200.0), synthetic.compute(100.0), synthetic.compute(400.0, dtype="int8")]
    for variant, share in (("digits", 3 * 90 / 400), ("blocked", 90 / 100)):
        product = synthetic.kernel("gemv", 90.0, 8.0, dtype="int8", level="L2", variant=variant)
        (point,) = analyse([synthetic.run([*specs, product])]).points
        assert point.share == pytest.approx(share)
        assert point.roof is not None
        assert point.roof.dtype == ("int8" if variant == "digits" else "fp32")


def test_attention_waits_for_its_exponentials_too() -> None:
    exp = Spec("exp", {}, Figure("rate", "Gexp/s", 2048.0, ceiling=True, op="exp"), 5.0, working_set=16 * KIB)
    run = synthetic.run([synthetic.compute(1000.0), exp, synthetic.kernel("attention", 400.0, 100.0)])
    run.records = [_softmax(record, "attention", 100) for record in run.records]
    (point,) = analyse([run]).points
    assert point.roof is not None
    assert point.roof.op == "exp"
    assert point.share == pytest.approx(400 / 100 / 5.0)


def _softmax(record: Record, kernel: str = "softmax", flops: float = 6.0) -> Record:
    if record.kernel != kernel:
        return record
    facts = msgspec.structs.replace(record.conditions, facts={"exponentials": record.flops / flops})
    return msgspec.structs.replace(record, conditions=facts)


def test_shares_are_paired_over_launches() -> None:
    """What moves roof and kernel alike leaves the share alone, and its interval is narrow."""
    specs = [synthetic.bandwidth("DRAM", 40.0), synthetic.compute(1000.0), synthetic.kernel("gemv", 18.0, 0.5)]
    (point,) = analyse([synthetic.run(specs, noise=Noise(shared_launch=0.2))]).points
    assert point.share == pytest.approx(0.9)
    assert point.high - point.low < 1e-6


def test_a_kernel_above_its_roof_is_flagged() -> None:
    specs = [synthetic.bandwidth("DRAM", 40.0), synthetic.compute(1000.0), synthetic.kernel("gemv", 24.0, 0.5)]
    answer = analyse([synthetic.run(specs, noise=Noise(launch=0.01))])
    assert any("above its roof (DRAM load)" in flag for flag in answer.flags)
    sound = analyse([synthetic.run([*specs[:2], synthetic.kernel("gemv", 19.0, 0.5)], noise=Noise(launch=0.01))])
    assert sound.flags == []


def test_peers_and_the_best_implementation() -> None:
    fast, slow = synthetic.kernel("gemv", 20.0, 0.5), synthetic.kernel("gemv", 10.0, 0.5, backend="torch", isa="")
    answer = analyse([synthetic.run([synthetic.bandwidth("DRAM", 40.0), synthetic.compute(1000.0), fast, slow])])
    ratios = {point.backend: point.peer_ratio for point in answer.points}
    assert ratios == pytest.approx({"native": 2.0, "torch": 0.5})
    best = {point.backend: answer.details[point.case_id].best for point in answer.points}
    assert best == {"native": True, "torch": False}


def test_a_run_without_kernels_or_without_roofs() -> None:
    with pytest.raises(UsageError, match="no kernel"):
        analyse([synthetic.run([synthetic.bandwidth("L2", 200.0)])])
    answer = analyse([synthetic.run([synthetic.kernel("gemv", 20.0, 0.5)])])
    assert answer.points[0].roof is None
    assert "no roof: 1" in report.text(answer)


def test_json_has_the_published_fields() -> None:
    answer = analyse([synthetic.run([synthetic.bandwidth("DRAM", 40.0), synthetic.kernel("gemv", 10.0, 0.5)])])
    data = msgspec.json.decode(msgspec.json.encode(answer))
    assert set(data) == {"points", "flags"}
    assert list(data["points"][0]) == [
        "case_id", "kernel", "backend", "variant", "dtype", "threads", "isa", "gflops", "gbps", "lookups_per_s",
        "intensity", "roof", "share", "low", "high", "time_s", "peer_ratio", "host_s",
    ]  # fmt: skip
    assert set(data["points"][0]["roof"]) == {"device", "kind", "level", "op", "dtype", "threads", "isa"}


def test_a_gpus_two_clocks_stand_beside_each_other() -> None:
    gpu = {"device": "gpu:0", "isa": ""}
    specs = [synthetic.bandwidth("DRAM", 3000.0, **gpu), synthetic.kernel("gemv", 1000.0, 0.5, backend="cuda", **gpu)]
    run = synthetic.run(specs)
    for record in run.records:  # each call takes the host 7 us more; half of the samples were too short for the clock
        assert isinstance(record.outcome, Measured)
        record.outcome.host_s = [seconds + 7e-6 for seconds in record.outcome.samples_s]
        record.outcome.clock_ghz = [0.0, 1.7] * (len(record.outcome.samples_s) // 2)
    answer = analyse([run])
    (point,) = answer.points
    assert point.host_s == pytest.approx(point.time_s + 7e-6, rel=0.05)
    text = report.text(answer, 140)
    assert "us on" in text
    assert "us for" in text
    on_cpu = [synthetic.bandwidth("DRAM", 40.0), synthetic.kernel("gemv", 10.0, 0.5)]
    assert "us on" not in report.text(analyse([synthetic.run(on_cpu)]), 140)


def test_text_and_pictures(tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = 1024 * 256
    specs = [synthetic.bandwidth("DRAM", 40.0), synthetic.compute(1000.0), gather("DRAM", 24, 256), bag(0.075)]
    specs += [synthetic.kernel("gemv", 18.0, 0.5), synthetic.kernel("gemv", 9.0, 0.5, backend="numpy", isa="")]
    answer = analyse([with_bytes(synthetic.run(specs), bytes_write_allocate=out)])
    text = report.text(answer, 120)
    assert "lookups in the time view" in text
    assert "DRAM gather 256 B rows" in text
    assert "2.00x numpy" in text
    assert math.isfinite(answer.points[0].high)
    pictures = report.draw(answer, tmp_path / "x.svg")
    assert [picture.name for picture in pictures] == ["x.svg", "x-time.svg"]
    assert "embedding_bag fp32: " in pictures[0].read_text()  # the only one of its kind


def test_what_a_level_buys_is_printed() -> None:
    levels = {"x86_64_v3": 100.0, "x86_64_v4": 120.0, "x86_64_v4_bf16": 240.0}
    specs = [synthetic.kernel("gemm", truth, 50.0, isa=isa) for isa, truth in levels.items()]
    text = report.text(analyse([synthetic.run([synthetic.compute(300.0), *specs])]), 120)
    assert "what an ISA level buys" in text
    assert "1.20x x86_64_v3" in text
    assert "2.00x x86_64_v4" in text
    assert "what an ISA level buys" not in report.text(analyse([synthetic.run([synthetic.compute(300.0), specs[0]])]))
