"""`run --refine`: from the records of a run, the sweep that measures next.

The analysis says which values of one parameter to measure, all else as in a case it names. That becomes a sweep of its
own, written as TOML: the studies of the old sweep, cut down to those cases, with the parameter's new values, and the
roofs that judge them. The new run file carries that text, so it can be resumed and read without the old one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from pykernels import registry
from pykernels.analysis.crossover import Options, Refinement, refine
from pykernels.analysis.crossover.cells import KERNEL
from pykernels.analysis.crossover.roofs import FLOOR_LOOKUPS
from pykernels.errors import NothingMeasured, UsageError
from pykernels.kernels.embedding import Lookup
from pykernels.model import Case, Header
from pykernels.plan import Plan, make_plan
from pykernels.sweep import Sweep, parse_sweep

#: parameter of a refinement -> the sweep key that sets it
KEYS = {"bags": "batch", "rows": "table", "pooling": "pooling", "dim": "dim", "zipf": "indices", "threads": "threads"}
#: keys that say how large a table is: one at a time
SIZES = ("rows", "table", "level")


class OldRun(Protocol):
    """What is read of the run file (`store.Run` is one)."""

    path: Any
    header: Header
    records: Any


def refined_sweep(run: OldRun, options: Options | None = None) -> Sweep:
    """The sweep that measures between the sure cells of the run's crossings. Raises UsageError for a run without
    crossover records, NothingMeasured where there is nothing to gain."""
    found = refine([run], options)
    if not found:
        raise NothingMeasured(
            f"{run.path}: nothing to refine: no crossing was found, or the cells around it are as near as they help"
        )
    text = sweep_text(run, found)
    sweep = parse_sweep(
        text, name=f"{run.header.sweep_name.removesuffix('-refined')}-refined", where=f"{run.path}: refined"
    )
    sweep.seed, sweep.rounds = run.header.seed, run.header.rounds
    return sweep


def sweep_text(run: OldRun, found: Sequence[Refinement]) -> str:
    """The refined sweep as TOML."""
    header = run.header
    if not header.sweep:
        raise UsageError(f"{run.path}: its header has no sweep text, so its cases cannot be planned again")
    old = parse_sweep(header.sweep, name=header.sweep_name, where=f"{run.path}: its sweep")
    plan = Plan(sweep=old, machine=header.machine, cases=[])
    wanted = {case_id for one in found for case_id in one.case_ids}
    singles = {case.id: (single, case) for single, case in _singles(old.study, plan) if case.id in wanted}
    missing = wanted - singles.keys()
    if missing:
        raise UsageError(f"{run.path}: its own sweep does not plan {sorted(missing)[0]}, so it cannot be refined")
    studies = [study for study in old.study if _is_roof(study, plan)]
    for one in found:
        studies += [_with(*singles[case_id], one) for case_id in one.case_ids]
    why = "; ".join(f"{one.axis} of {one.workload}" for one in found)
    top = {
        "pykernels": 1, "title": f"between the cells of {old.title or old.name}: {why}", "launches": header.launches,
        "rounds": header.rounds, "seed": header.seed, "sample": f"{old.sample_s * 1e3:g} ms",
        "visit": f"{old.visit_s * 1e3:g} ms", "dram_factor": old.dram_factor, "timeout": f"{old.timeout_s:g} s",
        "budget": f"{header.budget_s or old.budget_s:g} s",
    }  # fmt: skip
    return to_toml(top, studies)


def _singles(studies: Sequence[dict[str, Any]], plan: Plan) -> Iterator[tuple[dict[str, Any], Case]]:
    """Every combination of every lookup study as a study of one case, with that case."""
    for study in studies:
        if study["kernel"] != KERNEL:
            continue
        names = [key for key in study if key != "kernel"]
        for values in itertools.product(*(study[key] for key in names)):
            single = {"kernel": KERNEL, **{key: [value] for key, value in zip(names, values, strict=True)}}
            one = Sweep(name=plan.sweep.name, dram_factor=plan.sweep.dram_factor, budget_s=1e9, study=[single])
            for case in make_plan(one, plan.machine, can_run_all=True).cases:
                paths = (
                    {"launch": study["launch"]} if "launch" in study else {}
                )  # the best of several paths is compared
                yield {**single, **paths}, case


def _is_roof(study: dict[str, Any], plan: Plan) -> bool:
    """Whether a study measures what judges the others: a ceiling, or calls so small that they show the floor."""
    if study["kernel"] != KERNEL:
        return registry.family(study["kernel"]).name in ("gather", "stream", "link", "launch")
    one = Sweep(name=plan.sweep.name, dram_factor=plan.sweep.dram_factor, budget_s=1e9, study=[study])
    cases = make_plan(one, plan.machine, can_run_all=True).cases
    return bool(cases) and all(case.problem.figure().amount <= FLOOR_LOOKUPS for case in cases)


def _with(single: dict[str, Any], case: Case, one: Refinement) -> dict[str, Any]:
    """A study of one case with the refinement's values in place of its own."""
    key, problem = KEYS[one.parameter], case.problem
    study = dict(single)
    if key == "table":  # bytes of all tables keep a workload's proportions where its tables differ
        assert isinstance(problem, Lookup)
        row = problem.tables * problem.row_bytes
        study = {name: values for name, values in single.items() if name not in SIZES}
        study["table"] = [f"{round(value) * row} B" for value in one.values]
    elif key == "indices":
        own = single.get("indices", [{}])[0]
        study["indices"] = [{**own, "zipf": value} for value in one.values]
    else:
        study[key] = [round(value) for value in one.values]
    return study


def to_toml(top: dict[str, Any], studies: Sequence[dict[str, Any]]) -> str:
    """A sweep file. Strings, numbers, booleans and lists are written alike in TOML and JSON; tables inline."""
    lines = [f"{key} = {_value(value)}" for key, value in top.items()]
    for study in studies:
        lines += ["", "[[study]]", *(f"{key} = {_value(value)}" for key, value in study.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return json.dumps(value, ensure_ascii=False)
