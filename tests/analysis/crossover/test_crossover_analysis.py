"""Whole reports of simulated runs: answers, sources, refusals, break-even rates, claims, refinement and bad input."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

import msgspec
import pytest

from pykernels.analysis.crossover import Assumptions, Options, analyse, model, refine
from pykernels.analysis.crossover.prices import load_prices
from pykernels.errors import UsageError
from pykernels.model import Skipped

sys.path.insert(0, str(Path(__file__).parents[2]))

from crossover_runs import BASE, CPU, GPU, MACHINE, loads, lookups, paired, roofs, run_of

BATCHES = [4**k for k in range(8)]
OTHER = msgspec.structs.replace(MACHINE, id="lab9", cpu_model="Other CPU")


def true_batch(factor: float = 1.0) -> float:
    """Where the closed form says both sides take equally long, the GPU side times `factor`."""
    low, high = 1.0, 16384.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        load = msgspec.structs.replace(BASE, bags=middle)
        cpu, gpu = (model.overlapped(model.terms(d, load, e)) for d, e in ((CPU, "C0"), (GPU, "G2")))
        low, high = (middle, high) if cpu < gpu * factor else (low, middle)
    return low


def only(report, axis, ends="C0-G2", metric="saturated"):
    (answer,) = [a for a in report.answers if (a.axis, a.ends, a.metric) == (axis, ends, metric)]
    return answer


# -------------------------------------------------------------------------------------------------------------- answers


def test_a_paired_run_finds_the_batch_where_the_sides_tie():
    fine = [*BATCHES, 45, 52, 60, 70, 90]
    answer = only(analyse([paired(bags=fine)]), "batch")
    assert (answer.kind, answer.source, answer.ends) == ("crossing", "paired", "C0-G2")
    assert answer.low < true_batch() < answer.high
    assert answer.bracket[0] <= answer.value <= answer.bracket[1]
    assert answer.interval == "95% over 5 launches"
    assert "the GPU wins from batch" in answer.sentence


def test_sensitivity_moves_the_right_way():
    moved = only(analyse([paired(bags=BATCHES)]), "batch").sensitivity
    value = only(analyse([paired(bags=BATCHES)]), "batch").value
    assert moved["CPU gather +20%"] > value > moved["CPU gather -20%"]
    assert moved["link -20%"] > value > moved["link +20%"]
    assert moved["CPU gather +20%"] == pytest.approx(1.2 * value, rel=0.05)


def test_all_axes_of_a_star_are_answered_on_their_own():
    report = analyse(
        [paired(bags=BATCHES, pooling=[1, 2, 4, 8, 20, 64], dim=[16, 32, 64, 128], zipf=[0, 0.6, 0.9, 1.2])]
    )
    assert {answer.axis for answer in report.answers} == {"batch", "pooling", "row_bytes", "skew"}
    assert only(report, "pooling").kind == "crossing"


def test_the_table_axis_ends_at_the_allocators_limit():
    star = loads(rows=[10**5 * 4**k for k in range(7)])
    gpu = lookups("GPU", "G2", star, facts={"allocatable_bytes": 15.5e9})
    run = run_of(lookups("CPU", "C0", star) + gpu + roofs("CPU") + roofs("GPU"))
    answer = only(analyse([run]), "table")
    assert (answer.kind, answer.value) == ("capacity edge", 15.5e9)
    assert answer.bracket[0] < 15.5e9 < answer.bracket[1]


def test_without_a_stated_limit_the_edge_is_the_largest_table_that_fitted():
    star = loads(rows=[10**5 * 4**k for k in range(7)])
    run = run_of(lookups("CPU", "C0", star) + lookups("GPU", "G2", star) + roofs("CPU") + roofs("GPU"))
    answer = only(analyse([run]), "table")
    assert answer.value == answer.bracket[0]
    assert answer.value in [load.table_bytes for load in star]


def test_each_metric_has_its_own_answer_and_p99_uses_the_latency_facts():
    run = paired(bags=BATCHES)
    for record in list(run.records):
        if record.kernel == "embedding_bag":
            seconds = record.outcome.samples_s[0] * 1e6
            facts = {
                "latency": {"p50_us": seconds, "p99_us": 3 * seconds, "calls": 5000},
                "served": {"10ms": 1 / seconds},
            }
            conditions = msgspec.structs.replace(record.conditions, facts=facts)
            run.records.append(
                msgspec.structs.replace(record, case_id=record.case_id + "{closed}", conditions=conditions)
            )
    report = analyse([run])
    assert {answer.metric for answer in report.answers} == {"saturated", "p50", "p99", "served@10ms"}
    assert only(report, "batch", metric="p99").kind == "crossing"


def test_served_load_across_machines_is_labelled_modelled():
    star = loads(bags=BATCHES)

    def with_served(records):
        facts = [{"served": {"10ms": 1 / record.outcome.samples_s[0]}} for record in records]
        return [
            msgspec.structs.replace(r, conditions=msgspec.structs.replace(r.conditions, facts=f))
            for r, f in zip(records, facts, strict=True)
        ]

    cpu = run_of(lookups("CPU", "C0", star) + with_served(lookups("CPU", "C0", star, seed=1)) + roofs("CPU"))
    gpu = run_of(with_served(lookups("GPU", "G2", star)) + roofs("GPU"), OTHER)
    cpu.records = [r for r in cpu.records if r.kernel != "embedding_bag" or "served" in r.conditions.facts]
    assert {answer.source for answer in analyse([cpu, gpu]).answers} == {"modelled"}


def test_device_ends_compare_c1_with_g1():
    star = loads(bags=BATCHES)
    run = run_of(lookups("CPU", "C1", star) + lookups("GPU", "G1", star) + roofs("CPU") + roofs("GPU"))
    assert {answer.ends for answer in analyse([run]).answers} == {"C1-G1"}


def test_a_row_cache_is_compared_by_its_recorded_hit_share():
    huge = msgspec.structs.replace(BASE, rows=20_000_000)
    slow = msgspec.structs.replace(GPU, h2d=3e10)
    gpu = []
    for hit in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        gpu += lookups("GPU", "G5", [huge], device=slow, hit=hit, seed=int(hit * 100))
    gpu = [msgspec.structs.replace(r, case_id=f"{r.case_id}{r.conditions.facts['hit_share']}") for r in gpu]
    run = run_of(lookups("CPU", "C0", [huge]) + gpu + roofs("CPU") + roofs("GPU", device=slow))
    answer = only(analyse([run], Options(axes=("hit",))), "hit", ends="C0-G5")
    assert answer.kind == "crossing"
    assert "hit share +20%" in answer.sensitivity


def test_identical_sides_are_a_tie():
    star = loads(bags=BATCHES)
    twin = msgspec.structs.replace(CPU, memory=math.inf)
    gpu = [
        msgspec.structs.replace(r, device="gpu:0", ends="G2", launch_path=path, case_id=f"{r.case_id}{path}")
        for path in ("plain", "graph", "mapped")
        for r in lookups("CPU", "C0", star, device=twin, seed=5)
    ]
    gpu_roofs = [msgspec.structs.replace(r, device="gpu:0", launch_path="") for r in roofs("CPU")] + roofs("GPU")[-2:]
    report = analyse([run_of(lookups("CPU", "C0", star) + gpu + roofs("CPU") + gpu_roofs)])
    assert {cell.winner for cell in report.cells} == {"tie"}


# -------------------------------------------------------------------------------------------------------------- sources


def test_two_machines_are_cross_machine_and_unpaired():
    star = loads(bags=BATCHES)
    cpu, gpu = (
        run_of(lookups("CPU", "C0", star) + roofs("CPU")),
        run_of(lookups("GPU", "G2", star) + roofs("GPU"), OTHER),
    )
    for runs in ([cpu, gpu], [gpu, cpu]):
        answer = only(analyse(runs), "batch")
        assert answer.source == "cross-machine"
        assert answer.kind == "crossing"


def test_a_refined_run_of_the_same_machine_adds_its_launches():
    coarse = paired(bags=BATCHES)
    (wanted,) = refine([coarse])
    fine = paired(bags=[int(value) for value in wanted.values])
    before, after = (only(analyse(runs), "batch") for runs in ([coarse], [coarse, fine]))
    assert (after.source, after.kind) == ("paired", "crossing")
    assert after.bracket[1] / after.bracket[0] < before.bracket[1] / before.bracket[0]


def test_a_projection_has_a_range_no_interval_and_says_what_it_assumes():
    run = run_of(lookups("CPU", "C0", loads(bags=BATCHES)) + roofs("CPU"))
    report = analyse([run], Options(against="h100-sxm5-80gb"))
    answer = only(report, "batch")
    assert (answer.source, answer.kind, answer.interval) == ("projection", "crossing", "range of the assumptions")
    assert answer.low < answer.value < answer.high
    assert any("64 GB/s per direction" in line for line in report.assumptions)
    assert any("10 us" in line for line in report.assumptions)


def test_assumptions_are_adjustable():
    run = run_of(lookups("CPU", "C0", loads(bags=BATCHES)) + roofs("CPU"))
    values = []
    for floor in (15.0, 25.0, 50.0):
        asked = Options(against="a100-sxm4-80gb", assumptions=Assumptions(launch_us=floor))
        values.append(only(analyse([run], asked), "batch").value)
    assert values == sorted(values)


def test_a_wider_spread_gives_a_wider_range():
    run = run_of(lookups("CPU", "C0", loads(bags=BATCHES)) + roofs("CPU"))
    tight, wide = (
        only(analyse([run], Options(against="h100-sxm5-80gb", assumptions=Assumptions(spread=s))), "batch")
        for s in (0.05, 0.3)
    )
    assert wide.high / wide.low > tight.high / tight.low


def test_a_projection_generates_the_link_and_hit_axes():
    run = run_of(lookups("CPU", "C0", loads(bags=BATCHES, pooling=[1, 2, 4, 8])) + roofs("CPU"))
    report = analyse([run], Options(against="a100-sxm4-80gb", axes=("link", "hit")))
    assert {(answer.axis, answer.ends) for answer in report.answers} == {
        ("link", "C0-G2"), ("hit", "C0-G5"), ("link", "C1-G1"), ("hit", "C1-G5"),
    }  # fmt: skip


def test_a_fit_of_a_recorded_run_predicts_cells_that_were_not_measured():
    dice = random.Random(1)
    cells = loads(bags=BATCHES, pooling=[1, 4, 20, 64], dim=[32, 64, 128], rows=[10**5, 10**6, 4 * 10**6])
    known = [load for load in cells if dice.random() < 0.6 or load.bags in (1, 16384) or load.pooling in (1, 64)]
    run = run_of(lookups("CPU", "C0", cells) + lookups("GPU", "G2", known) + roofs("CPU") + roofs("GPU"))
    report = analyse([run], Options(modelled=True))
    assert report.source == "modelled"
    assert "leave-one-out error" in report.fit
    assert only(report, "batch").kind == "crossing"
    paired_answer = only(analyse([paired(bags=BATCHES)]), "batch")
    assert only(report, "batch").value == pytest.approx(paired_answer.value, rel=0.6)


# ----------------------------------------------------------------------------------------------------------- break-even


def test_the_break_even_rate_makes_the_cpu_tie():
    report = analyse([paired(bags=BATCHES)])
    for row in report.break_even:
        if row.gbs is None:
            continue
        (cell,) = [c for c in report.cells if c.axes["batch"] == row.axes["batch"]]
        load = msgspec.structs.replace(BASE, bags=int(row.axes["batch"]))
        assert CPU.floor_s + load.gathered / (row.gbs * 1e9) == pytest.approx(cell.gpu_s, rel=0.03)
        assert row.gbs_low <= row.gbs <= row.gbs_high
        assert row.grows == pytest.approx(row.gbs / load.row_bytes)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_a_slow_kernel_of_either_side_decides_nothing():
    star = loads(bags=BATCHES)
    for slow_cpu, slow_gpu, name in ((1.6, 1.0, "CPU"), (1.0, 1.6, "GPU")):
        records = lookups("CPU", "C0", star, slow=slow_cpu) + lookups("GPU", "G2", star, slow=slow_gpu)
        answer = only(analyse([run_of(records + roofs("CPU") + roofs("GPU"))]), "batch")
        assert answer.kind == "no conclusion"
        assert answer.value is None
        assert any(f"the {name} kernel" in note and "under 70%" in note for note in answer.notes)


def test_fewer_than_three_launch_paths_decide_nothing():
    star = loads(bags=BATCHES)
    records = lookups("CPU", "C0", star) + lookups("GPU", "G2", star, paths=("plain", "graph"))
    answer = only(analyse([run_of(records + roofs("CPU") + roofs("GPU"))]), "batch")
    assert answer.kind == "no conclusion"
    assert "at least 3" in answer.notes[0]


def test_a_run_without_roofs_cannot_be_judged():
    star = loads(bags=BATCHES)
    run = run_of(lookups("CPU", "C0", star) + roofs("CPU"))
    run.records = [r for r in run.records if r.kernel != "gather"]
    answer = only(analyse([run], Options(against="h100-sxm5-80gb")), "batch")
    assert answer.kind == "no conclusion"
    assert "gather bandwidth and row rate of cpu" in answer.notes[0]
    assert "pykernels run recsys" in answer.notes[0]


def test_one_launch_decides_nothing():
    star = loads(bags=BATCHES)
    records = lookups("CPU", "C0", star, launches=1) + lookups("GPU", "G2", star, launches=1)
    answer = only(analyse([run_of(records + roofs("CPU") + roofs("GPU"))]), "batch")
    assert answer.kind == "no conclusion"
    assert "one launch" in answer.notes[0]


def test_cells_without_a_clean_launch_are_left_out_and_counted():
    run = paired(bags=BATCHES)
    dirty = []
    for record in run.records:
        if record.kernel == "embedding_bag" and record.params["bags"] == "16" and record.device == "cpu":
            outcome = msgspec.structs.replace(record.outcome, cpu_over_wall=[0.3] * 5)
            record = msgspec.structs.replace(record, outcome=outcome)
        dirty.append(record)
    run.records = dirty
    report = analyse([run])
    assert only(report, "batch").kind == "crossing"
    assert 16.0 not in [cell.axes["batch"] for cell in report.cells]
    assert "1 cell without a clean launch" in report.not_compared


def test_a_range_is_on_every_projected_cell():
    run = run_of(lookups("CPU", "C0", loads(bags=BATCHES)) + roofs("CPU"))
    for cell in analyse([run], Options(against="h100-sxm5-80gb")).cells:
        assert cell.low < cell.ratio < cell.high
        assert cell.high / cell.low > 1.2


# -------------------------------------------------------------------------------------------------------------- claims


def test_claims_are_answered_from_measured_cells():
    verdicts = {c.claim: c for c in analyse([paired(bags=BATCHES, pooling=[1, 2, 4, 20])]).claims}
    assert verdicts["pooling near 1 with host ends: the CPU wins"].verdict == "yes"
    beyond = verdicts["tables beyond GPU memory at a hit share of at most 0.5: the CPU wins"]
    assert beyond.verdict == "not measured"
    assert "pykernels run recsys" in beyond.measure


def test_a_projection_answers_no_claim_but_shows_its_numbers():
    run = run_of(lookups("CPU", "C0", loads(bags=BATCHES, pooling=[1, 2, 4, 20])) + roofs("CPU"))
    report = analyse([run], Options(against="h100-sxm5-80gb"))
    assert {claim.verdict for claim in report.claims} == {"not measured"}
    assert any("projection:" in number for claim in report.claims for number in claim.numbers)


# --------------------------------------------------------------------------------------------------------------- refine


def test_refine_asks_for_the_middle_and_names_both_sides_cases():
    (wanted,) = refine([paired(bags=BATCHES)])
    assert (wanted.axis, wanted.parameter, wanted.new) == ("batch", "bags", (32.0,))
    assert wanted.values == (4.0, 16.0, 32.0, 64.0, 256.0)
    assert ["@cpu" in case for case in wanted.case_ids] == [True, False]


def test_refine_asks_for_nothing_where_nothing_crosses():
    star = loads(bags=[1024, 2048, 4096, 8192])
    assert refine([run_of(lookups("CPU", "C0", star) + lookups("GPU", "G2", star) + roofs("CPU") + roofs("GPU"))]) == []


# ------------------------------------------------------------------------------------------------------------ bad input


def star_run(cpu_ends="C0", gpu_ends="G2", **changes):
    star = loads(bags=BATCHES)
    other = [msgspec.structs.replace(load, **changes) for load in star]
    return run_of(lookups("CPU", cpu_ends, star) + lookups("GPU", gpu_ends, other) + roofs("CPU") + roofs("GPU"))


def test_unequal_ends_are_refused_with_the_command():
    with pytest.raises(UsageError, match=r"unequal ends: the CPU side has C0, the GPU side only G1") as error:
        analyse([star_run(gpu_ends="G1")], Options(ends=("host",)))
    assert "pykernels run recsys -k G2" in error.value.hint


def test_device_ends_of_a_cpu_are_its_calls_and_then_the_link():
    """No machine without a GPU can measure C1; each call's result then crosses the link, and the answer says so."""
    star = loads(bags=BATCHES)
    run = run_of(lookups("CPU", "C0", star) + lookups("GPU", "G1", star) + roofs("CPU") + roofs("GPU"))
    report = analyse([run])
    assert {cell.ends for cell in report.cells} == {"C1-G1"}
    plain = analyse([run], Options(against="h100-sxm5-80gb", ends=("host",)))
    for derived, own in zip(report.cells, plain.cells, strict=True):
        load = next(load for load in star if load.describe() == derived.workload)
        assert derived.cpu_s - own.cpu_s == pytest.approx(load.result_bytes / GPU.h2d, rel=1e-6)
        assert derived.cpu_terms["link in"] == pytest.approx(load.result_bytes / GPU.h2d, rel=1e-6)
        assert derived.cpu_share == pytest.approx(own.cpu_share)
    assert all("C1 is derived" in answer.sentence for answer in report.answers if answer.kind != "no conclusion")


def test_measured_device_ends_are_left_alone():
    star = loads(bags=BATCHES)
    run = run_of(lookups("CPU", "C1", star) + lookups("GPU", "G1", star) + roofs("CPU") + roofs("GPU"))
    assert not any("derived" in answer.sentence for answer in analyse([run]).answers)


def test_the_reach_of_the_tlb_cuts_the_table_axis():
    rows = [10**5, 10**6, 2 * 10**6, 4 * 10**6, 8 * 10**6]
    run = run_of(lookups("CPU", "C0", loads(rows=rows), facts={"tlb_reach_bytes": 3e9}) + roofs("CPU"))
    report = analyse([run], Options(against="h100-sxm5-80gb", axes=("table",), ends=("host",)))
    assert ("TLB reach", 3e9) in report.curves[0].steps


@pytest.mark.parametrize("ends", ["G0", "C0-G0"])
def test_kernel_only_time_is_explained(ends):
    with pytest.raises(UsageError, match="never part of a crossover"):
        analyse([star_run()], Options(ends=(ends,)))


def test_a_run_with_kernel_only_gpu_cells_is_explained():
    with pytest.raises(UsageError, match="G0 is a kernel alone"):
        analyse([star_run(gpu_ends="G0")])


@pytest.mark.parametrize(("ends", "text"), [("C0-G1", "not equal"), ("hots", 'did you mean "host"')])
def test_unequal_or_unknown_ends(ends, text):
    with pytest.raises(UsageError, match=text):
        analyse([star_run()], Options(ends=(ends,)))


@pytest.mark.parametrize(
    ("changes", "text"), [({"dtype": "fp16"}, "dtype fp32 against fp16"), ({"pooling": 4.0}, "pooling")]
)
def test_different_workloads_or_dtypes_are_named(changes, text):
    with pytest.raises(UsageError, match=text):
        analyse([star_run(**changes)])


def test_two_machines_under_one_name():
    star = loads(bags=BATCHES)
    twin = msgspec.structs.replace(MACHINE, cpu_model="Other CPU")
    runs = [run_of(lookups("CPU", "C0", star) + roofs("CPU")), run_of(lookups("GPU", "G2", star) + roofs("GPU"), twin)]
    with pytest.raises(
        UsageError, match=r'two machines under one name: both run files say machine "lab7", but cpu_model'
    ):
        analyse(runs)


def test_missing_link_measurements_are_named_with_the_command():
    star = loads(bags=BATCHES)
    run = run_of(lookups("CPU", "C0", star) + lookups("GPU", "G2", star) + roofs("CPU") + roofs("GPU", links=False))
    with pytest.raises(UsageError, match=r"link host to device and the link device to host.*pykernels run"):
        analyse([run])


def test_an_axis_with_fewer_than_four_cells():
    run = star_run()
    with pytest.raises(UsageError, match=r'axis "pooling" has at most 1 cells of one workload, and needs 4'):
        analyse([run], Options(axes=("pooling",)))


def test_an_axis_that_needs_a_model():
    with pytest.raises(UsageError, match="--against SLUG"):
        analyse([star_run()], Options(axes=("link",)))


@pytest.mark.parametrize(
    ("slug", "text"),
    [
        ("h100", "unknown slug"),
        ("epyc-9654", "is a cpu, not a GPU"),
        ("rtx-4090", r"host_link_gbs_bidir is blank.*--link GBPS"),
        ("h200-sxm-141gb", r"host_link_gbs_bidir is blank"),
    ],
)
def test_projections_that_cannot_be_made(slug, text):
    run = run_of(lookups("CPU", "C0", loads(bags=BATCHES)) + roofs("CPU"))
    with pytest.raises(UsageError, match=text):
        analyse([run], Options(against=slug))


@pytest.mark.parametrize("slug", ["h200-sxm-141gb", "rtx-4090", "mi300x"])
def test_a_blank_link_cell_is_filled_by_the_option(slug):
    run = run_of(lookups("CPU", "C0", loads(bags=BATCHES)) + roofs("CPU"))
    report = analyse([run], Options(against=slug, assumptions=Assumptions(link_gbs=64.0)))
    assert any("given with --link" in line for line in report.assumptions)


@pytest.mark.parametrize(
    ("name", "value"), [("launch_us", -1.0), ("link_share", 1.2), ("link_gbs", 0.0), ("spread", 1.0)]
)
def test_impossible_assumptions(name, value):
    run = run_of(lookups("CPU", "C0", loads(bags=BATCHES)) + roofs("CPU"))
    with pytest.raises(UsageError, match=name):
        analyse([run], Options(against="h100-sxm5-80gb", assumptions=Assumptions(**{name: value})))


def test_no_gpu_side_and_no_reference_is_said():
    run = run_of(lookups("CPU", "C0", loads(bags=BATCHES)) + roofs("CPU"))
    with pytest.raises(UsageError, match="no recorded GPU run ships") as error:
        analyse([run])
    assert "--against" in error.value.hint


def test_a_run_without_lookups():
    with pytest.raises(UsageError, match="no lookup records"):
        analyse([run_of(roofs("CPU"))])


def test_a_misspelt_axis():
    with pytest.raises(UsageError, match='did you mean "batch"'):
        analyse([star_run()], Options(axes=("bach",)))


def test_per_watt_needs_readings_and_per_dollar_needs_prices():
    with pytest.raises(UsageError, match="no cell has energy readings"):
        analyse([star_run()], Options(per="watt"))
    with pytest.raises(UsageError, match="--prices"):
        analyse([star_run()], Options(per="dollar"))


def test_per_dollar_moves_the_answer_by_the_price_ratio():
    prices = {"cpu": (1.0, "2026-11-01", "EUR"), "gpu:0": (4.0, "2026-11-01", "EUR")}
    report = analyse([star_run()], Options(per="dollar", prices=prices))
    answer = only(report, "batch")
    assert answer.value == pytest.approx(true_batch(4.0), rel=0.1)
    assert "per dollar" in answer.sentence


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cpu]\nprice = 1.0\n", "has no date"),
        ("[cpu]\nprice = 1.0\ndate = 'soon'\n", "has no date"),
        ("[cpu]\ndate = 2026-11-01\n", "price = None"),
        ("cpu = 3\n", r"write a table \[cpu\]"),
        ("", "no prices"),
        ("[cpu\n", "not valid TOML"),
    ],
)
def test_price_files_that_prove_nothing(tmp_path, text, message):
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_prices(path)


def test_a_dated_price_file(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text('[cpu]\nprice = 2\ncurrency = "EUR"\ndate = 2026-11-01\n')
    assert load_prices(path) == {"cpu": (2.0, "2026-11-01", "EUR")}


def test_two_launches_that_disagree_are_unclear_in_words():
    """A wide interval is no tie: the answer says that it is unclear, and what would tell."""
    star = loads(bags=BATCHES)
    cpu = [r for r in lookups("CPU", "C0", star, noise=1.0, launches=2) if r.launch < 2]
    report = analyse([run_of(cpu + roofs("CPU"))], Options(against="h100-sxm5-80gb", ends=("host",), min_share=0.0))
    answer = only(report, "batch")
    assert answer.kind == "no conclusion"
    assert "is unclear: intervals of up to" in answer.sentence
    assert "--launches 20" in answer.sentence
    assert "unclear" in {cell.winner for cell in report.cells}


def test_skipped_requests_are_counted_with_their_reason():
    star = lookups("CPU", "C0", loads(bags=BATCHES)) + roofs("CPU")
    slow = Skipped(reason="budget: 5,000 requests of 0.7 ms take over 2 s")
    skipped = [
        msgspec.structs.replace(record, case_id=f"{record.case_id}{n}", mode="closed", outcome=slow)
        for n, record in enumerate(star[:2])
    ]
    report = analyse([run_of(star + skipped)], Options(against="h100-sxm5-80gb"))
    (words,) = [words for words in report.not_compared if "skipped" in words]
    assert (
        words
        == "2 cases skipped, budget: 5,000 requests of one case take over 2 s (RM batch 1 closed, RM batch 1 closed)"
    )
