"""From records to cells: parameters by name, metrics, and what the allocator refused."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from pykernels.analysis.crossover.cells import cells_of, workload_of
from pykernels.errors import UsageError
from pykernels.model import Conditions, Crashed, Measured, Skipped

sys.path.insert(0, str(Path(__file__).parents[2]))

from crossover_runs import BASE, loads, lookups, record


def one(**changes):
    base = record(BASE, "CPU", "C0", "", 0, Measured(samples_s=[1e-3] * 5), {})
    return msgspec.structs.replace(base, **changes)


def test_parameters_come_back():
    assert workload_of(one()) == BASE


def test_rows_come_from_the_table_where_the_id_holds_a_symbol():
    params = {key: value for key, value in one().params.items() if key != "rows"}
    assert workload_of(one(params={**params, "table": "2 GiB"})).rows == round(2 * 1024**3 / (8 * 256))
    nbytes = BASE.table_bytes + BASE.input_bytes + BASE.result_bytes
    assert workload_of(one(params={**params, "table": "25% memory"}, working_set=int(nbytes))).rows == BASE.rows
    assert workload_of(one(params=params, conditions=Conditions(facts={"rows": 77}))).rows == 77


@pytest.mark.parametrize(
    ("indices", "zipf"), [("zipf=1.05", 1.05), ("zipf 0.8", 0.8), ("uniform", 0.0), ("zipf1.2", 1.2)]
)
def test_index_specifications(indices, zipf):
    params = {key: value for key, value in one().params.items() if key != "zipf"}
    assert workload_of(one(params={**params, "indices": indices})).zipf == zipf


def test_a_drawn_pooling_counts_as_its_mean():
    assert workload_of(one(params={**one().params, "pooling": "1..39"})).pooling == 20


def test_a_missing_parameter_is_named():
    params = {key: value for key, value in one().params.items() if key != "dim"}
    with pytest.raises(UsageError, match='no parameter "dim"'):
        workload_of(one(params=params))


def test_one_cost_a_launch_by_the_gate_and_the_median():
    noisy = Measured(samples_s=[1e-3, 1e-3, 1e-3, 9.0], cpu_over_wall=[1.0, 1.0, 1.0, 0.2])
    (cell,) = cells_of([one(outcome=noisy, launch=k) for k in range(3)])
    assert cell.metric == "saturated"
    assert cell.costs == pytest.approx({0: 1e-3, 1: 1e-3, 2: 1e-3})


def test_latency_and_served_load_are_metrics_of_their_own():
    facts = {
        "latency": {"p50_us": 40.0, "p99_us": 90.0, "low": 85.0, "high": 99.0, "calls": 5000},
        "served": {"10ms": 2e6, "60ms": 4e6},
    }
    cells = {cell.metric: cell for cell in cells_of([one(conditions=Conditions(facts=facts))])}
    assert sorted(cells) == ["p50", "p99", "served@10ms", "served@60ms"]
    assert cells["p99"].costs == pytest.approx({0: 90e-6})
    assert cells["served@10ms"].costs == {0: 1 / 2e6}


def test_facts_of_another_form_are_left_alone():
    facts = {"latency": "not recorded", "served": 3}
    (cell,) = cells_of([one(conditions=Conditions(facts=facts))])
    assert not cell.costs


def test_energy_is_joules_a_call():
    timed = Measured(samples_s=[1e-3] * 5, reps=10)
    cells = {cell.metric: cell for cell in cells_of([one(outcome=timed, conditions=Conditions(energy_j=100.0))])}
    assert cells["energy"].costs == {0: 2.0}


@pytest.mark.parametrize("outcome", [Crashed(how="out of memory"), Skipped(reason="out of GPU memory: 31 GiB asked")])
def test_what_the_allocator_refused_is_a_cell_without_costs(outcome):
    facts = {"allocatable_bytes": 15.5e9}
    (cell,) = cells_of([record(BASE, "GPU", "G2", "plain", 0, outcome, facts)])
    assert cell.refused
    assert cell.limit == 15.5e9
    assert not cell.costs


def test_sides_and_paths():
    cells = cells_of(lookups("GPU", "G2", [BASE]) + lookups("CPU", "C0", [BASE]))
    assert {(cell.side, cell.path) for cell in cells} == {
        ("GPU", "plain"), ("GPU", "graph"), ("GPU", "mapped"), ("CPU", "")
    }  # fmt: skip


def test_joules_of_a_call_are_read_from_either_side():
    records = lookups("CPU", "C0", loads(bags=[4]), facts={"joules_per_call": 0.25})
    (energy,) = [cell for cell in cells_of(records) if cell.metric == "energy"]
    assert set(energy.costs.values()) == {0.25}
    (none,) = cells_of(lookups("CPU", "C0", loads(bags=[4]), facts={"no_energy": "a guest"}))
    assert none.no_energy == "a guest"
