"""The roofline analysis: its published shape, its figures to the digit, and what it must refuse, flag or leave out."""

from __future__ import annotations

import json
import math
import random

import msgspec
import numpy as np
import pytest
import synthetic
from scipy.stats import binom
from synthetic import Noise, bandwidth, compute, kernel, typical

from pykernels.analysis.common import Limit, cores_used
from pykernels.analysis.roofline import Roofline, analyse
from pykernels.errors import UsageError
from pykernels.model import Crashed, Disturbed, Gpu, Measured, Skipped, Wrong
from pykernels.store import Run

NOISE = Noise(launch=0.01, visit=0.003, sample=0.01, rho=0.3)


def roof(answer: Roofline, level: str, op: str = "load", threads: int = 1, **more: object):  # type: ignore[no-untyped-def]
    found = [
        r for r in answer.roofs
        if (r.level, r.op, r.threads) == (level, op, threads) and all(getattr(r, k) == v for k, v in more.items())
    ]  # fmt: skip
    assert len(found) == 1
    return found[0]


def test_json_has_exactly_the_published_shape() -> None:
    specs = [*typical((1,)), synthetic.compute(1.0, "bf16", outcome=Skipped(reason="needs AVX512-BF16"))]
    data = json.loads(msgspec.json.encode(analyse([synthetic.run(specs)])))
    assert list(data) == ["schema", "machine", "roofs", "ridges", "fit", "levels", "loaded", "not_drawn"]
    assert data["schema"] == 1
    assert list(data["roofs"][0]) == [
        "device", "domain", "kind", "level", "op", "dtype", "threads", "isa", "pages", "working_set", "row_bytes",
        "value", "low", "high", "best", "launches", "interval", "scope", "unit", "label", "regimes", "flags",
    ]  # fmt: skip
    assert list(data["ridges"][0]) == [
        "device", "dtype", "threads", "isa", "level", "op", "value", "low", "high", "unit",
    ]  # fmt: skip
    assert data["not_drawn"] == [
        {"case_id": "fma[op=fma,bf16] native:x86_64_v4 @cpu*1", "reason": "skipped: needs AVX512-BF16"}
    ]
    assert data["machine"]["id"] == "synthetic"


def test_values_to_the_digit() -> None:
    answer = analyse([synthetic.run(typical((1, 2)))])
    assert roof(answer, "L1").value == pytest.approx(500.0)
    dram = roof(answer, "DRAM", "copy", 2)
    assert (dram.value, dram.low, dram.high, dram.best) == (pytest.approx(43.2),) * 4
    assert (dram.unit, dram.kind, dram.launches, dram.scope, dram.label) == (
        "GB/s",
        "bandwidth",
        5,
        "sitting",
        "measured",
    )
    ridge = next(r for r in answer.ridges if (r.dtype, r.threads, r.level, r.op) == ("fp64", 1, "DRAM", "load"))
    assert (ridge.value, ridge.low, ridge.high) == (pytest.approx(135 / 40),) * 3
    assert ridge.unit == "FLOP/byte"
    assert len(answer.ridges) == 2 * 2 * 4 * 2  # dtypes, threads, levels, ops
    assert all(not roof.flags for roof in answer.roofs)


def test_ridges_are_paired() -> None:
    """A clock that moves a whole launch moves peak and bandwidth alike, and leaves their ratio alone."""
    answer = analyse([synthetic.run(typical((1,)), noise=Noise(shared_launch=0.05, seed=1))])
    ridge = answer.ridges[0]
    assert math.log(ridge.high / ridge.low) < 1e-6
    assert math.log(answer.roofs[0].high / answer.roofs[0].low) > 0.05


def test_any_order_of_files_and_lines_gives_the_same_bytes() -> None:
    runs = [
        synthetic.run(
            typical((1,)), noise=Noise(launch=0.01, seed=seed), path=f"{seed}.jsonl", started=1e9 + 1e5 * seed
        )
        for seed in range(3)
    ]
    before = msgspec.json.encode(analyse(runs))
    for run in runs:
        random.Random(1).shuffle(run.records)
    assert msgspec.json.encode(analyse(runs[::-1])) == before


def test_three_sittings_give_scope_machine() -> None:
    runs = [
        synthetic.run(typical((1,)), noise=Noise(launch=0.002, seed=seed), started=1e9 + 7200 * seed, path=f"{seed}",
                      offset=offset)
        for seed, offset in enumerate((0.0, 0.05, -0.05))
    ]  # fmt: skip
    merged = roof(analyse(runs), "DRAM")
    assert (merged.scope, merged.launches, merged.interval) == ("machine", 15, "t over sittings")
    assert math.log(merged.high / merged.low) / 2 == pytest.approx(4.3027 * 0.05 / math.sqrt(3), rel=0.1)
    two = analyse(runs[:2])
    assert roof(two, "DRAM").scope == "sitting"
    assert "2 runs are 2 sittings: scope `machine` needs 3, an hour or more apart" in two.detail.notes


def test_runs_of_one_hour_are_one_sitting() -> None:
    runs = [synthetic.run(typical((1,)), started=1e9 + 600 * i, path=f"{i}.jsonl") for i in range(4)]
    answer = analyse(runs)
    assert roof(answer, "L1").scope == "sitting"
    assert any("4 runs are 1 sitting:" in note for note in answer.detail.notes)


def test_runs_of_two_machines_are_not_merged() -> None:
    one = synthetic.run(typical((1,)), path="a.jsonl")
    other = synthetic.run(typical((1,)), path="b.jsonl", on=synthetic.machine(name="other"))
    with pytest.raises(
        UsageError, match=r"b\.jsonl: measured on Synthetic CPU \(other\), but a\.jsonl on .*\(synthetic\)"
    ):
        analyse([one, other])


def test_measured_and_replayed_runs_are_not_merged() -> None:
    one, other = (synthetic.run(typical((1,)), path=name) for name in ("a.jsonl", "b.jsonl"))
    other.header.source = "replay"
    with pytest.raises(UsageError, match=r"b\.jsonl: a replay run, but a\.jsonl is measured"):
        analyse([one, other])


def test_no_run() -> None:
    with pytest.raises(UsageError, match="no run file was given"):
        analyse([])


def test_a_run_without_records_answers_with_nothing() -> None:
    run = synthetic.run([])
    answer = analyse([run])
    assert (answer.roofs, answer.ridges, answer.not_drawn) == ([], [], [])


def test_one_level_only_has_one_ridge() -> None:
    answer = analyse([synthetic.run([bandwidth("DRAM", 40.0), compute(270.0)])])
    assert [(r.level, r.value) for r in answer.ridges] == [("DRAM", pytest.approx(6.75))]


def test_one_launch_is_within_process() -> None:
    answer = analyse([synthetic.run(typical((1,)), launches=1, noise=NOISE)])
    found = roof(answer, "L2")
    assert (found.scope, found.interval, found.launches) == ("within-process", "within-process", 1)
    assert 0 < found.low <= found.value <= found.high
    ridge = answer.ridges[0]
    assert 0 < ridge.low < ridge.value < ridge.high < math.inf


# ------------------------------------------------------------------------------------------------- what is left out


def test_every_case_is_a_roof_or_is_named_with_its_reason() -> None:
    bad = {
        "skipped: no AMX": Skipped(reason="no AMX"),
        "crashed: signal SIGILL (illegal instruction)": Crashed(how="signal SIGILL", detail="illegal instruction"),
        "wrong: error 2 > 1 at c[7], before timing": Wrong(max_error=2.0, bound=1.0, where="c[7]"),
        "disturbed: 0 of 10 samples are clean": Disturbed(samples_s=[1.0, 1.0], cpu_over_wall=[0.5, 0.5], why="x"),
    }
    specs = [bandwidth("L1", 1.0, op=f"op{i}", outcome=outcome) for i, outcome in enumerate(bad.values())]
    run = synthetic.run([*typical((1,)), *specs])
    answer = analyse([run])
    assert [case.reason for case in answer.not_drawn] == list(bad)
    assert len(answer.roofs) + len(answer.not_drawn) == len({record.case_id for record in run.records})


def test_one_wrong_result_in_any_launch_is_enough() -> None:
    run = synthetic.run([bandwidth("L1", 500.0)])
    run.records[3].outcome = Wrong(max_error=2.0, bound=1.0, where="c[7]", phase="after")
    answer = analyse([run])
    assert answer.roofs == []
    assert answer.not_drawn[0].reason == "wrong: error 2 > 1 at c[7], after timing"


def test_one_crashed_launch_is_a_flag() -> None:
    run = synthetic.run([bandwidth("L1", 500.0)])
    run.records[3].outcome = Crashed(how="timeout")
    assert analyse([run]).roofs[0].flags == ["crashed in 1 of 5 visits"]


def test_all_samples_contended() -> None:
    answer = analyse([synthetic.run(typical((1,)), noise=Noise(contended=1.0))])
    assert answer.roofs == []
    assert {case.reason for case in answer.not_drawn} == {"disturbed: 0 of 100 samples are clean"}


def test_a_clock_going_backwards_is_flagged() -> None:
    run = synthetic.run([bandwidth("L1", 500.0)])
    outcome = run.records[0].outcome
    assert isinstance(outcome, Measured)
    outcome.samples_s[0] = -1e-6
    assert analyse([run]).roofs[0].flags == ["clock went backwards"]


def test_fewer_than_three_launches_is_flagged() -> None:
    assert analyse([synthetic.run([bandwidth("L1", 500.0)], launches=2)]).roofs[0].flags == ["fewer than 3 launches"]


# ---------------------------------------------------------------------------------------------------------- mixture


@pytest.mark.parametrize(("factor", "mixed"), [(8, False), (4, False), (3.99, False), (2, True), (1, True)])
def test_dram_under_four_llc_draws_no_roof_and_no_ridge(factor: float, mixed: bool) -> None:
    specs = [compute(270.0), bandwidth("L1", 500.0), bandwidth("DRAM", 40.0, working_set=int(factor * 32 * 2**20))]
    answer = analyse([synthetic.run(specs)])
    assert ("mixture" in roof(answer, "DRAM").flags) == mixed
    drawn = {d.case_id for d in answer.detail.roofs if d.drawn}
    assert len(drawn) == (2 if mixed else 3)
    assert {ridge.level for ridge in answer.ridges} == ({"L1"} if mixed else {"L1", "DRAM"})


@pytest.mark.parametrize(
    ("level", "size", "mixed"),
    [("L1", 16 << 10, False), ("L1", 30 << 10, True), ("L2", 384 << 10, False), ("L2", 900 << 10, True),
     ("L2", 100 << 10, True), ("L3", 4 << 20, False), ("L3", 3 << 20, True), ("L3", 25 << 20, True)],
)  # fmt: skip
def test_cache_roofs_near_a_capacity_are_mixtures(level: str, size: int, mixed: bool) -> None:
    answer = analyse([synthetic.run([bandwidth(level, 100.0, working_set=size)])])
    assert ("mixture" in answer.roofs[0].flags) == mixed


def test_a_team_has_its_caches_together() -> None:
    answer = analyse([synthetic.run([bandwidth("L1", 900.0, threads=2, working_set=32 << 10)])])
    assert answer.roofs[0].flags == []


def test_gpu_memory_is_held_against_its_l2() -> None:
    machine = msgspec.structs.replace(synthetic.machine(), gpus=(Gpu(0, "H100", l2_bytes=50 << 20),))
    specs = [
        bandwidth("DRAM", 3000.0, device="gpu:0", isa="", working_set=size, op=op)
        for size, op in ((1 << 30, "load"), (100 << 20, "copy"))
    ]
    flags = {r.op: r.flags for r in analyse([synthetic.run(specs, on=machine)]).roofs}
    assert flags == {"load": [], "copy": ["mixture"]}


# ------------------------------------------------------------------------------------------------ impossible results


def flags_of(
    specs: list[synthetic.Spec], noise: Noise = NOISE, limits: dict[str, Limit] | None = None
) -> dict[str, list[str]]:
    answer = analyse([synthetic.run(specs, noise=noise)], limits or {})
    found = {f"{r.level}:{r.op}:{r.isa}": r.flags for r in answer.roofs if r.flags}
    return found | {p.name: p.flags for p in answer.detail.points if p.flags}


def test_a_level_slower_than_the_next_one_out() -> None:
    specs = [bandwidth("L1", 500.0), bandwidth("L2", 100.0), bandwidth("L3", 120.0), bandwidth("DRAM", 40.0)]
    assert flags_of(specs).keys() == {"L2:load:x86_64_v4"}
    assert flags_of(specs)["L2:load:x86_64_v4"][0].startswith("slower than L3 by ")


def test_nt_stores_may_be_slow_in_a_cache() -> None:
    assert flags_of([bandwidth("L3", 40.0, op="nt-triad"), bandwidth("DRAM", 55.0, op="nt-triad")]) == {}


def test_a_wider_isa_slower_than_a_narrower() -> None:
    specs = [
        bandwidth("L2", rate, isa=isa)
        for isa, rate in (("x86_64_v2", 100.0), ("x86_64_v3", 270.0), ("x86_64_v4", 240.0))
    ]
    assert flags_of(specs).keys() == {"L2:load:x86_64_v4"}


def test_above_the_datasheet() -> None:
    limits = {"cpu memory": Limit(38.0, "GB/s"), "cpu fp32": Limit(300.0, "GFLOP/s")}
    found = flags_of([bandwidth("DRAM", 41.0), bandwidth("L1", 500.0), compute(290.0)], limits=limits)
    assert found.keys() == {"DRAM:load:x86_64_v4"}
    assert found["DRAM:load:x86_64_v4"][0].startswith("above datasheet by ")


@pytest.mark.parametrize(("rate", "flagged"), [(268.0, False), (290.0, True)])
def test_above_the_measured_clock_times_flop_per_cycle(rate: float, flagged: bool) -> None:
    limits = {"cpu fp32 x86_64_v4": Limit(64.0, "FLOP/cycle", "derived")}
    specs = [compute(rate, clock_ghz=4.2), compute(2 * rate, threads=2, clock_ghz=4.2)]  # 64 x 4.2 = 268.8
    found = flags_of(specs, Noise(sample=0.001, launch=0.0005), limits)
    assert bool(found) == flagged


def test_shares_and_cycles() -> None:
    limits = {"cpu memory": Limit(80.0, "GB/s"), "cpu fp32 x86_64_v4": Limit(64.0, "FLOP/cycle", "derived")}
    answer = analyse([synthetic.run(typical((2,), clock_ghz=4.0))], limits)
    found = {(r.level or r.dtype, r.op): d for r, d in zip(answer.roofs, answer.detail.roofs, strict=True)}
    assert found["DRAM", "load"].share == pytest.approx(0.6)
    assert found["DRAM", "load"].share_label == "datasheet"
    assert found["fp32", "fma"].per_cycle == pytest.approx(540 / 4 / 2)
    assert found["fp32", "fma"].share == pytest.approx(540 / 8 / 64)
    assert found["fp32", "fma"].share_label == "derived"
    assert found["L1", "load"].share == 0.0


def test_a_kernel_above_its_roof_says_the_roof_is_wrong() -> None:
    roofs = [bandwidth("DRAM", 40.0), compute(270.0)]
    found = flags_of([*roofs, kernel("gemv", 0.5 * 40 * 1.1, 0.5), kernel("gemm", 200.0, 64)], Noise(launch=0.005))
    assert found.keys() == {"gemv"}
    assert found["gemv"][0].startswith("above its roof (DRAM:load) by ")


def test_equal_things_are_rarely_accused() -> None:
    specs = [
        bandwidth(level, 100.0, isa=isa) for level in ("L1", "L2", "L3", "DRAM") for isa in ("x86_64_v3", "x86_64_v4")
    ]
    specs += [compute(270.0), kernel("gemm", 270.0, 640), kernel("gemv", 50.0, 0.5)]
    limits = {"cpu memory": Limit(100.0, "GB/s"), "cpu fp32": Limit(270.0, "GFLOP/s")}
    accused = sum(bool(flags_of(specs, Noise(launch=0.01, seed=seed), limits)) for seed in range(100))
    assert accused <= binom.ppf(0.999, 100, 0.05)


def test_an_excess_of_twice_the_corrected_half_width_is_always_found() -> None:
    from pykernels.measure.stats import t_quantile

    tests = 4
    half = t_quantile(4, 1 - 0.05 / tests) * 0.005 / math.sqrt(5)
    specs = typical((1,))
    for seed in range(60):
        roofs = [spec for spec in specs if spec.kernel == "fma" and spec.dtype == "fp32"]
        above = kernel("gemm", 270.0 * math.exp(2.5 * half), 640)
        found = flags_of([*roofs, above], Noise(launch=0.005 / math.sqrt(2), seed=seed))
        assert "gemm" in found


# -------------------------------------------------------------------------------------------------- kernels, sweeps


def test_kernels_are_placed_under_the_roof_that_binds_them() -> None:
    specs = [*typical((1,)), kernel("gemv", 16.0, 0.5), kernel("gemm", 243.0, 64)]
    points = {point.name: point for point in analyse([synthetic.run(specs, noise=NOISE)]).detail.points}
    assert points["gemv"].roof == "DRAM:load"
    assert points["gemv"].share == pytest.approx(16 / 20, rel=0.03)
    assert points["gemv"].share_low < points["gemv"].share < points["gemv"].share_high
    assert (points["gemm"].roof, points["gemm"].unit) == ("fp32 fma", "GFLOP/s")
    assert points["gemm"].share == pytest.approx(0.9, rel=0.03)


def test_kernels_of_another_dtype_are_listed_as_not_drawn() -> None:
    answer = analyse(
        [synthetic.run([*typical((1,)), kernel("gemm", 900.0, 64, "int8"), kernel("copy", 0.0001, 1e9, flops=0.0)])]
    )
    assert {case.reason for case in answer.not_drawn} == {
        "no int8 roof with its placement and threads",
        "no FLOP per byte: its figure is in GFLOP/s",
    }


def sweep(level: str, rate: float, peak: float, loss: float, **more: object) -> list[synthetic.Spec]:
    p = -math.log(2) / math.log1p(-loss)
    xs = [2.0**k for k in range(-5, 9)]
    return [synthetic.mixed(level, x, ((rate * x) ** -p + peak**-p) ** (-1 / p), **more) for x in xs]


@pytest.mark.parametrize("loss", [0.02, 0.2, 0.45])
def test_knee_loss_is_found(loss: float) -> None:
    specs = [*typical((1,)), *sweep("L2", 240.0, 270.0, loss)]
    answer = analyse([synthetic.run(specs, noise=NOISE)])
    fit = answer.fit[0]
    assert (fit.level, fit.dtype, fit.points, fit.op) == ("L2", "fp32", 14, "mixed")
    assert fit.low <= fit.knee_loss <= fit.high
    assert fit.knee_loss == pytest.approx(loss, abs=0.03)
    assert all(roof.kind != "compute" or roof.op == "fma" for roof in answer.roofs)  # points of a sweep are no roofs


def test_coverage_of_the_knee_loss() -> None:
    held = 0
    for seed in range(40):
        answer = analyse(
            [synthetic.run(sweep("L2", 240.0, 270.0, 0.2), noise=Noise(launch=0.01, seed=seed), samples=3)]
        )
        held += answer.fit[0].low <= 0.2 <= answer.fit[0].high
    assert held >= binom.ppf(0.001, 40, 0.95)


def test_too_few_points_are_not_fitted() -> None:
    assert analyse([synthetic.run(sweep("L2", 240.0, 270.0, 0.2)[:3])]).fit == []


def test_ends_that_stay_short_of_their_roofs_are_said() -> None:
    specs = [*typical((1,)), *sweep("L2", 200.0, 270.0, 0.2)]
    notes = analyse([synthetic.run(specs)]).detail.notes
    assert any("tops out at 83% [83%, 83%] of the L2 load roof" in note for note in notes)
    assert not any("peak" in note for note in notes)


# ------------------------------------------------------------------------------------------------------ whole runs


def test_coverage_of_every_roof_and_ridge() -> None:
    held = total = 0
    truth = {(s.figure.level or s.dtype, s.figure.op): s.truth for s in typical((1,))}
    for seed in range(60):
        answer = analyse([synthetic.run(typical((1,)), noise=Noise(launch=0.02, sample=0.01, seed=seed), samples=5)])
        for r in answer.roofs:
            held += r.low <= truth[r.level or r.dtype, r.op] <= r.high
            total += 1
        for ridge in answer.ridges:
            held += ridge.low <= truth[ridge.dtype, "fma"] / truth[ridge.level, ridge.op] <= ridge.high
            total += 1
    assert 0.93 <= held / total <= 0.97


def test_a_throttled_run_is_marked_and_nothing_is_dropped() -> None:
    run = synthetic.run(typical((1, 2)), noise=NOISE, rounds=3)
    clean = analyse([run])
    assert not any("slower" in note for note in clean.detail.notes)
    late = sorted(run.records, key=lambda record: record.started)[-len(run.records) // 5 :]
    for record in late:
        assert isinstance(record.outcome, Measured)
        record.outcome.samples_s = [1.03 * sample for sample in record.outcome.samples_s]
    answer = analyse([run])
    assert any("everything is" in note and "slower" in note for note in answer.detail.notes)
    assert len(answer.roofs) == len(clean.roofs)


def test_a_lower_core_clock_is_found_in_a_short_run() -> None:
    """One per cent in the last launch of ten cases is beyond what their values tell; the clock beside them tells it."""
    rng = np.random.default_rng(3)
    run = synthetic.run(typical((1,)), noise=Noise(launch=0.01, sample=0.01))
    for record in run.records:
        assert isinstance(record.outcome, Measured)
        true = 3.7 * (0.99 if record.launch == 4 else 1.0)
        record.outcome.clock_ghz = [true * float(np.exp(rng.normal(0, 0.002)))] * len(record.outcome.samples_s)
    notes = [note for note in analyse([run]).detail.notes if "the core clock is" in note]
    assert len(notes) == 1
    assert "lower" in notes[0]
    assert "visits after it are kept, and marked" in notes[0]


def test_what_happens_inside_the_visits_is_said() -> None:
    run = synthetic.run([bandwidth("L1", 500.0), bandwidth("L2", 240.0)], samples=40, noise=Noise(sample=0.005))
    for record in run.records:
        assert isinstance(record.outcome, Measured)
        if record.figure.level == "L2":
            times = record.outcome.samples_s
            record.outcome.samples_s = [t * (1 + 0.2 * np.exp(-i / 4)) for i, t in enumerate(times)]
    (note,) = (note for note in analyse([run]).detail.notes if note.startswith("inside the visits"))
    assert note.startswith("inside the visits 1 of 2 roofs are flat; 1 rising (L2 load fp32 x1 over ")


def test_what_stores_read_first_is_derived_from_streaming_stores() -> None:
    size = synthetic.WORKING_SET["DRAM"]
    plain = bandwidth("DRAM", 40.0, "copy", allocated=size / 2)
    specs = [plain, bandwidth("DRAM", 58.0, "nt-copy"), bandwidth("DRAM", 39.0, "triad"), bandwidth("DRAM", 41.0)]
    detail = analyse([synthetic.run(specs)]).detail
    assert {extra.case_id: extra.allocated for extra in detail.roofs if extra.allocated} == {
        plain.case_id: pytest.approx(60.0)
    }
    (note,) = (note for note in detail.notes if note.startswith("lines read for each line stored"))
    assert note.endswith("derived from streaming stores: copy cpu*1 fp32 0.90 [0.90, 0.90]")  # 2 (58/40 - 1)


def test_loaded_latency_is_a_curve_for_each_share_of_reads() -> None:
    specs = [synthetic.loaded(read, gbps, 100 + gbps) for read in (100, 50) for gbps in (20.0, 0.0, 5.0)]
    answer = analyse([synthetic.run(specs)])
    assert [(curve.read, curve.threads, curve.level, curve.unit) for curve in answer.loaded] == [
        (100, 2, "DRAM", "ns"), (50, 2, "DRAM", "ns"),
    ]  # fmt: skip
    assert [(p.background_gbps, round(p.value, 6)) for p in answer.loaded[0].points] == [(0, 100), (5, 105), (20, 120)]
    assert answer.not_drawn == []


def test_two_regimes_are_both_reported() -> None:
    run = synthetic.run([bandwidth("DRAM", 45.0)], launches=6, rounds=3, noise=Noise(launch=0.01, sample=0.02))
    for record in run.records:
        if record.launch >= 3:
            assert isinstance(record.outcome, Measured)
            record.outcome.samples_s = [sample / 2 for sample in record.outcome.samples_s]
    found = analyse([run]).roofs[0]
    assert found.regimes == pytest.approx([45.0, 90.0], rel=0.05)
    assert "two regimes" in found.flags


def test_counting_the_write_allocate_changes_no_ridge() -> None:
    """Ridges and roofs use the bytes that were asked for; write-allocate is derived and stands apart."""
    run = synthetic.run(typical((1,)))
    before = analyse([run]).ridges
    for record in run.records:
        record.bytes_write_allocate = 1e9
    assert analyse([run]).ridges == before


def test_a_machine_described_in_part_is_enough() -> None:
    bare = msgspec.structs.replace(synthetic.machine(), cores=(), caches=(), affinity=())
    run: Run = synthetic.run(typical((1,)), on=bare)
    answer = analyse([run])
    assert len(answer.roofs) == 10
    assert not np.any([r.flags for r in answer.roofs if r.flags])


def test_rows_of_different_sizes_are_not_held_against_each_other() -> None:
    """Five gather roofs of one level and ISA differ by their row bytes: the slower is not an impossible result."""
    specs = [bandwidth("DRAM", truth, op="gather", params={"level": "DRAM", "row_bytes": str(size)})
             for truth, size in ((25.0, 64), (20.0, 128), (30.0, 256))]  # fmt: skip
    answer = analyse([synthetic.run(specs)])
    assert [flag for roof in answer.roofs for flag in roof.flags if "slower" in flag] == []


def test_a_gpu_counts_its_multiprocessors() -> None:
    first = synthetic.run([compute(1e3)]).records[0]
    found = msgspec.structs.replace(synthetic.machine(), gpus=(Gpu(index=1, name="H100", sms=132),))
    assert cores_used(msgspec.structs.replace(first, device="gpu:1"), found) == 132
    assert cores_used(msgspec.structs.replace(first, device="gpu:0"), found) == 1
    assert cores_used(first, found) == 1


@pytest.mark.parametrize(("share", "flagged"), [(1.002, False), (1.03, True)])
def test_the_error_of_the_measured_clock_is_no_impossible_result(share: float, flagged: bool) -> None:
    limits = {"cpu fp64 x86_64_v4": Limit(value=16.0, unit="FLOP/cycle", label="derived")}
    spec = compute(share * 16.0 * 4.0, dtype="fp64", clock_ghz=4.0)
    answer = analyse([synthetic.run([spec], noise=synthetic.Noise(launch=1e-5, visit=1e-5, sample=1e-5))], limits)
    assert any("measured clock" in flag for roof in answer.roofs for flag in roof.flags) is flagged
