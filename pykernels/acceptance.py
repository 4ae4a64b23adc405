"""Acceptance: checks of a sweep's cases and requirements, planned with the roofs they need, measured once, then judged.

This is the part behind the pytest door that knows nothing of pytest. A `Door` says on which machine, and from where
timings come (this machine, or a replayed file); an `Acceptance` holds the checks of one sweep; `Results` answers them.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pykernels import patterns, registry
from pykernels.analysis import requirements
from pykernels.analysis.common import CaseSummary, campaign
from pykernels.analysis.requirements import Bound, Verdict
from pykernels.backends.replay import Replay, load_replay
from pykernels.engine import Engine, Player, Progress, make_header
from pykernels.errors import UsageError, unknown
from pykernels.lock import machine_lock
from pykernels.machine.cpu import read_machine
from pykernels.model import Case, Crashed, Machine, Placement, Record, Skipped
from pykernels.plan import Plan, fit_budget, make_plan
from pykernels.pool import WorkerPool
from pykernels.store import RunWriter, load_run
from pykernels.sweep import Sweep, check_study, load_sweep
from pykernels.units import format_duration


class Door(msgspec.Struct, frozen=True):
    """The machine to plan for, and the replay file that plays its timings (None: measure)."""

    machine: Machine
    replay: Replay | None = None

    @property
    def can_run_all(self) -> bool:
        """A replay needs no backend that can run the case here."""
        return self.replay is not None

    def players(self, plan: Plan) -> Callable[[int], Player]:
        """Who answers the visits of each launch."""
        if self.replay:
            return self.replay.player
        return lambda launch: WorkerPool(plan.machine, seed=plan.sweep.seed * 1000 + launch)


def open_door(replay: Path | None = None) -> Door:
    """This machine, or the one that a replay file names. Raises UsageError for a bad replay file."""
    played = load_replay(replay) if replay else None
    machine = played.machine if played and played.machine else read_machine()
    return Door(machine, played)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to answer: that a case is measured (no bound), or that it keeps a bound. Without a case: `absent` says
    what this machine lacks. `roof` is the case that the bound is a share of, `no_roof` why there is none."""

    case: Case | None = None
    bound: Bound | None = None
    skipped: Skipped | None = None
    roof: Case | None = None
    no_roof: str = ""
    pattern: str = ""
    absent: str = ""

    @property
    def name(self) -> str:
        """The case's id, the bound, and the case's short hash last; in brackets, for pytest takes an id with a
        bracket in it for one that ends in a bracket."""
        case_id, last = (self.case.id, self.case.hash) if self.case else (self.pattern, "absent")
        return " ".join(part for part in (case_id, self.bound.text if self.bound else "", f"[{last}]") if part)


# --------------------------------------------------------------------------------------------------------------- checks


class Acceptance:
    """All checks of a sweep on a door's machine: one a case, and one a bound of a requirement and case it matches.

    Raises UsageError naming `where` and the requirement for a bound that cannot be read, a roof that no kernel draws, a
    metric that is not the case's, or a pattern that no case of the sweep matches."""

    def __init__(self, sweep: Sweep, door: Door, *, where: str = "") -> None:
        self.sweep, self.door, self.where = sweep, door, where or sweep.name
        unlimited = msgspec.structs.replace(sweep, budget_s=math.inf)
        whole = make_plan(unlimited, door.machine, can_run_all=door.can_run_all)
        self.cases: dict[str, tuple[Case, Skipped | None]] = {case.id: (case, None) for case in whole.cases}
        self.cases |= {case.id: (case, skipped) for case, skipped in whole.skipped}
        self.absent = whole.absent
        self.checks = [Check(case=case, skipped=skipped) for case, skipped in self.cases.values()]
        found = [check for n in range(len(sweep.require)) for check in self._required(n)]
        self.checks += {check.name: check for check in found}.values()

    def _required(self, number: int) -> Iterable[Check]:
        requirement = self.sweep.require[number]
        where = f'{self.where}: requirement "{requirement.case}"'
        bound = requirements.parse(requirement.metric, requirement.bound, where=where)
        matching = [found for case_id, found in self.cases.items() if patterns.matches(requirement.case, case_id)]
        if not matching and not self.absent:
            raise UsageError(
                f"{where} matches none of the sweep's {len(self.cases)} cases, such as {next(iter(self.cases))}"
            )
        if not matching:
            yield Check(bound=bound, pattern=requirement.case, absent=self.absent[0])
        for case, skipped in matching:
            yield self.check(case, skipped, bound, where=where)

    def check(self, case: Case, skipped: Skipped | None, bound: Bound, *, where: str = "") -> Check:
        """The check of one bound on one case, with the roof it needs. Raises UsageError."""
        requirements.check_unit(bound, case.problem.figure().unit, case.id, where=where)
        if bound.of != "roof":
            return Check(case=case, skipped=skipped, bound=bound)
        roof = find_roof(case, bound, self.sweep, self.door, where=where)
        if isinstance(roof, Case):
            return Check(case=case, skipped=skipped, bound=bound, roof=roof)
        return Check(case=case, skipped=skipped, bound=bound, no_roof=roof)

    def plan(self, checks: Sequence[Check]) -> Plan:
        """The cases of these checks and the roofs they need, each once, within the sweep's budget."""
        plan = Plan(sweep=self.sweep, machine=self.door.machine, cases=[])
        cases = {check.case.id: (check.case, check.skipped) for check in checks if check.case}
        roofs = [check.roof for check in checks if check.roof and check.case and not check.skipped]
        cases |= {roof.id: (roof, None) for roof in roofs if roof.id not in cases}
        plan.cases = [case for case, skipped in cases.values() if not skipped]
        plan.skipped = [(case, skipped) for case, skipped in cases.values() if skipped]
        added = [roof for roof in roofs if roof.id not in self.cases]
        plan.sweep = msgspec.structs.replace(self.sweep, text=self.sweep.text + roof_studies(added))
        fit_budget(plan)
        return plan

    def plan_line(self, checks: Sequence[Check]) -> str:
        """`8 cases, 1 skipped, 2 roofs added; about 12 s of a 60 s budget`."""
        plan = self.plan(checks)
        chosen = {check.case.id for check in checks if check.case}
        added = sum(case.id not in chosen for case in plan.cases)
        counts = (
            (len(chosen), "case" if len(chosen) == 1 else "cases"),
            (len(plan.skipped), "skipped"),
            (len(plan.dropped), "over the budget"),
            (added, "roof added" if added == 1 else "roofs added"),
        )
        parts = ", ".join(f"{number} {what}" for number, what in counts if number)
        budget = format_duration(self.sweep.budget_s)
        return f"{parts or 'nothing'}; about {format_duration(plan.estimate_s())} of a {budget} budget"

    def measure(self, checks: Sequence[Check], path: Path, progress: Progress) -> Results:
        """Measure the plan of these checks, interleaved, into a new run file, under the machine's lock.

        Raises UsageError where the file cannot be written, KeyboardInterrupt (the file stays valid) for Ctrl-C."""
        plan = self.plan(checks)
        writer = RunWriter(path, make_header(plan, source="replay" if self.door.replay else "measured"))
        engine = Engine(plan, writer, self.door.players(plan), progress)
        with contextlib.ExitStack() as stack:
            if not self.door.replay:
                stack.enter_context(machine_lock(f"pytest {plan.sweep.name}", wait=True, say=progress.note))
            summary = engine.run()
        if summary.interrupted:
            raise KeyboardInterrupt
        return Results(path, self.door.machine)


def load_acceptance(path: Path, door: Door, *, launches: int = 0) -> Acceptance:
    """The checks of a sweep file; `launches` overrides the sweep's. Raises UsageError."""
    sweep = load_sweep(str(path))
    if launches:
        sweep.launches = launches
    return Acceptance(sweep, door, where=str(path))


def one_case(door: Door, kernel: str, keys: dict[str, Any], *, launches: int = 0) -> tuple[Acceptance, Check]:
    """An acceptance of a single case, given as the keys of a study. Raises UsageError where they give several."""
    where = f'measure("{kernel}")'
    study = check_study({"kernel": kernel, **keys}, where)
    sweep = Sweep(name="pytest", where=where, study=[study], launches=launches or 5)
    sweep.text = f"pykernels = 1\n{study_text(study)}"
    try:
        acceptance = Acceptance(sweep, door, where=where)
    except UsageError as error:
        raise UsageError(error.message.replace(f"{where}: study 1: ", f"{where}: "), hint=error.hint) from None
    if len(acceptance.checks) != 1:
        reason = f"{len(acceptance.checks)} cases: give one value for each key"
        if not acceptance.checks:
            return acceptance, Check(pattern=where, absent="; ".join(acceptance.absent))
        raise UsageError(f"{where}: these keys give {reason}")
    return acceptance, acceptance.checks[0]


# ---------------------------------------------------------------------------------------------------------------- roofs


def find_roof(case: Case, bound: Bound, sweep: Sweep, door: Door, *, where: str = "") -> Case | str:
    """The ceiling that `bound` names, at the best ISA level of the case's own device, threads, pages and ends, in its
    dtype where the roof has it; or why this machine has none. Raises UsageError where no kernel draws such a roof."""
    reason = ""
    for kernel, family in registry.families().items():
        keys = family.keys
        ops = keys["op"].choices or () if "op" in keys else (kernel,)
        levels = keys["level"].choices or () if "level" in keys else ("",)
        if bound.op not in ops or bound.level not in (*levels, "") or (bound.level == "" and "level" in keys):
            continue
        study = _roof_study(kernel, case, bound)
        plan = make_plan(
            msgspec.structs.replace(sweep, study=[study], budget_s=math.inf), door.machine, can_run_all=door.can_run_all
        )
        for roof in plan.cases:
            if _is_roof(roof, bound):
                return roof
        skipped = [skip.reason for roof, skip in plan.skipped if _is_roof(roof, bound)]
        reason = reason or next(iter([*skipped, *plan.absent]), "")
    if reason:
        return reason
    raise unknown("roof", bound.roof, known_roofs(), where=where)


def _is_roof(case: Case, bound: Bound) -> bool:
    figure = case.problem.figure()
    return figure.ceiling and (figure.level, figure.op) == (bound.level, bound.op)


def _roof_study(kernel: str, case: Case, bound: Bound) -> dict[str, Any]:
    """The study whose cases are the roof: the case's placement, and those of its parameters that the roof shares."""
    place: Placement = case.placement
    gpu = place.device.startswith("gpu")
    study: dict[str, Any] = {"kernel": kernel, "backend": ["cuda" if gpu else "native"], "on": [place.device]}
    study |= {} if gpu else {"threads": [place.threads], "pages": [place.pages]}
    options = {"memory": place.memory, "timing": place.mode, "launch": place.launch, "ends": place.ends}
    study |= {key: [value] for key, value in options.items() if value}
    asked = {"op": bound.op, "level": bound.level}
    for key, spec in registry.family(kernel).keys.items():
        value = asked.get(key) or ("" if key == "size" else getattr(case.problem, key, ""))
        if value and (spec.choices is None or value in spec.choices):
            study[key] = [value]
    return study


def known_roofs() -> list[str]:
    """Names of the roofs that the kernels' keys offer, for error messages."""
    names = []
    for kernel, family in registry.families().items():
        if "op" in family.keys or "level" in family.keys:
            ops = (family.keys["op"].choices or ()) if "op" in family.keys else (kernel,)
            levels = (family.keys["level"].choices or ()) if "level" in family.keys else ("",)
            names += [":".join(p for p in ("roof", level, op) if p) for level in levels for op in ops]
    return names


def roof_studies(roofs: Iterable[Case]) -> str:
    """TOML of studies that plan these roofs again, so that the run file's sweep names every case it holds."""
    studies = []
    for roof in roofs:
        figure = roof.problem.figure()
        bound = Bound(metric="share", side=">=", number=1.0, of="roof", level=figure.level, op=figure.op)
        studies.append(study_text(_roof_study(roof.problem.kernel, roof, bound)))
    return "".join(f"\n# a roof that a requirement needs\n{text}" for text in dict.fromkeys(studies))


def study_text(study: dict[str, Any]) -> str:
    """One `[[study]]` as TOML."""
    return "[[study]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in study.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


# -------------------------------------------------------------------------------------------------------------- results


class Results:
    """A finished run file, asked check by check."""

    def __init__(self, path: Path, machine: Machine) -> None:
        self.path, self.machine = path, machine
        run = load_run(path)
        self.cases: dict[str, CaseSummary] = campaign([run]).cases
        self.records: dict[str, list[Record]] = {}
        for record in run.records:
            self.records.setdefault(record.case_id, []).append(record)

    def answer(self, check: Check) -> Answer:
        """How the check came out."""
        if check.case is None:
            return Answer(status="skip", headline=check.absent)
        if check.case.id not in self.records:
            return Answer(status="skip", headline="not measured")
        case, records = self.cases[check.case.id], self.records[check.case.id]
        if check.bound is None:
            return _measured(case, records)
        if check.no_roof and not check.skipped:
            return Answer(status="skip", headline=f"no {check.bound.roof} here: {check.no_roof}")
        roof = self.cases.get(check.roof.id) if check.roof else None
        verdict = requirements.judge(check.bound, case, self.machine, roof=roof)
        return Answer(
            status=verdict.status,
            headline=verdict.reason if verdict.status == "skip" else requirements.headline(verdict),
            text="\n".join(
                [*requirements.explain(verdict, records, case.estimate.contended), f"  run file    {self.path}"]
            ),
            properties=requirements.properties(verdict),
            verdict=verdict,
        )


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One check's outcome: a status, a line, the whole story of a failure, and the figures for JUnit."""

    status: requirements.Status
    headline: str
    text: str = ""
    properties: list[tuple[str, str]] = []
    verdict: Verdict | None = None


def _measured(case: CaseSummary, records: list[Record]) -> Answer:
    """A case by itself: it passes when it was measured in every visit; a crash or a wrong result fails it."""
    interval, first = case.estimate.interval, case.first
    properties = [("case", first.case_id), ("hash", first.case)]
    crashed = [record.outcome for record in records if isinstance(record.outcome, Crashed)]
    state = requirements.state(case)
    reason = case.reason
    if not reason and crashed:
        state = "crashed"
        reason = f"crashed: {crashed[0].how} in {len(crashed)} of {len(records)} visits\n{crashed[0].detail}".strip()
    if interval:
        properties += requirements.figure_properties(interval.value, interval.low, interval.high, first.figure.unit)
    hints = [r.outcome.hint for r in records if isinstance(r.outcome, Skipped) and r.outcome.hint]
    if state in ("skipped", "not measured"):
        text = reason.removeprefix("skipped: ") + (f" (hint: {hints[0]})" if hints else "")
        return Answer(status="skip", headline=text, properties=properties)
    status: requirements.Status = {"measured": "pass", "disturbed": "unclear"}.get(state, "fail")  # type: ignore[assignment]
    lines = [first.case_id, f"  {reason}", f"  conditions  {requirements.conditions(records, case.estimate.contended)}"]
    return Answer(status=status, headline=reason or "measured", text="\n".join(lines), properties=properties)
