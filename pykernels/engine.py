"""Launches x rounds: visits every case of a plan, in random order, in fresh worker processes, and writes each visit
down before the next begins."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from pykernels import registry
from pykernels.measure.sampling import Settings
from pykernels.model import (
    Case,
    Crashed,
    Disturbed,
    Header,
    Measured,
    Outcome,
    Placement,
    Record,
    Skipped,
    Tuning,
    Wrong,
)
from pykernels.plan import REQUESTS, Plan, case_seconds
from pykernels.store import RunWriter
from pykernels.units import format_duration, value_of
from pykernels.worker import Reply

#: a variant must beat a plainer one by this much to be chosen over it
TUNE_MARGIN = 0.01
#: a case that crashed, or was skipped when its turn came, this often in a run is not visited again
CRASHES_ALLOWED = 2
#: a run that takes OVERRUN times its budget ends early, with no fewer than LEAST_LAUNCHES
OVERRUN, LEAST_LAUNCHES = 1.5, 3
#: share of the available memory that the workers of one launch may hold together
MEMORY_SHARE = 0.5

#: variables that change what is measured, kept in the header where they are set
ENVIRONMENT = (
    "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_CPU_NAME", "GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_CONF",
    "CUDA_VISIBLE_DEVICES", "CUDA_MODULE_LOADING",
)  # fmt: skip


class Player(Protocol):
    """Whatever answers visits in one launch: worker processes, a replayed file, a simulated device."""

    def visit(
        self, case: Case, variant: str, settings: Settings, *, round_: int, seed: int, full: bool, timeout_s: float
    ) -> Reply:
        """Verify and time a case once."""
        ...

    def tune(self, case: Case, variants: list[str], timeout_s: float) -> Reply:
        """Seconds per call of each variant."""
        ...

    def keep_only(self, places: set[tuple[Placement, str]]) -> None:
        """Free what other places hold."""
        ...

    def close(self) -> None:
        """End the launch."""
        ...


class Progress(Protocol):
    """Told of everything as it happens; the command line draws it, tests ignore it."""

    def visited(self, record: Record, done: int, total: int) -> None:
        """A visit ended and is written."""
        ...

    def note(self, text: str) -> None:
        """Something the user should know."""
        ...


class Summary(msgspec.Struct, kw_only=True):
    """Cases of a run by how they ended, for the closing lines and the exit code."""

    measured: int = 0
    wrong: list[Record] = []
    crashed: list[Record] = []
    skipped: int = 0
    disturbed: int = 0
    interrupted: bool = False


def make_header(plan: Plan, *, source: str = "measured", started: float | None = None) -> Header:
    """The run file's first line for a plan."""
    from pykernels import __version__, _core

    sweep = plan.sweep
    return Header(
        pykernels=__version__,
        started=datetime.datetime.fromtimestamp(started or time.time(), datetime.UTC).isoformat(timespec="seconds"),
        sweep_name=sweep.name,
        sweep=sweep.text,
        filter=plan.filter,
        seed=sweep.seed,
        launches=sweep.launches,
        rounds=sweep.rounds,
        budget_s=sweep.budget_s,
        machine=plan.machine,
        versions={"python": platform.python_version(), "numpy": _version("numpy"), "numba": _version("numba")},
        compiler=_core.COMPILER,
        flags="; ".join(f"{isa}: {flags}" for isa, flags in _core.FLAGS.items()),
        environment={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        source=source,
    )


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class Engine:
    """Runs a plan into a writer. `players(launch)` opens one launch (-1: the tuning pass, in processes of its own);
    `clock` is the Unix time that records carry."""

    def __init__(
        self, plan: Plan, writer: RunWriter, players: Callable[[int], Player], progress: Progress, *,
        tuned: Iterable[Tuning] = (), done: Iterable[Record] = (), clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.plan, self.writer, self.players, self.progress = plan, writer, players, progress
        self.clock = clock
        self.settings = Settings(sample_s=plan.sweep.sample_s, visit_s=plan.sweep.visit_s)
        self.chosen = {tuning.case_id: tuning.chosen for tuning in tuned}
        self.records = list(done)
        self.seen = {(record.case_id, record.launch, record.round) for record in self.records}
        self.trouble: dict[str, int] = {}
        self.checked = {r.case_id for r in self.records if isinstance(r.outcome, Measured | Disturbed)}
        for record in self.records:
            self._note_trouble(record)

    def run(self) -> Summary:
        """Every missing visit, in order. Ctrl-C ends the run with a valid file and `interrupted` set."""
        interrupted = False
        try:
            self._skipped_records()
            self._launches()
        except KeyboardInterrupt:
            interrupted = True
        self.writer.finish(interrupted=interrupted)
        summary = summarise(self.records)
        summary.interrupted = interrupted
        return summary

    def _launches(self) -> None:
        visits = [visit for visit in self.plan.visits() if (visit[2].id, visit[0], visit[1]) not in self.seen]
        total, done = len(visits), 0
        launches, begun = sorted({visit[0] for visit in visits}), time.monotonic()
        tuner = self.players(-1)
        try:
            for number, launch in enumerate(launches):
                if self._over_budget(launch, number, time.monotonic() - begun):
                    break
                player = self.players(launch)
                try:
                    for _, round_, case in self._by_memory([v for v in visits if v[0] == launch], player, tuner):
                        if self._given_up(case):
                            total -= 1
                            continue
                        record = self._visit(case, launch, round_, player, tuner)
                        done += 1
                        self._keep(record)
                        self.progress.visited(record, done, total)
                finally:
                    player.close()
                tuner.close()
        finally:
            tuner.close()

    def _over_budget(self, launch: int, done: int, elapsed_s: float) -> bool:
        """Whether a machine is so much slower than the plan's estimate that the launches made so far must do."""
        sweep = self.plan.sweep
        if launch < LEAST_LAUNCHES or done == 0 or elapsed_s * (1 + 1 / done) <= OVERRUN * sweep.budget_s:
            return False
        self.progress.note(
            f"stopped after {launch} of {sweep.launches} launches: {format_duration(elapsed_s)} of a budget of "
            f"{format_duration(sweep.budget_s)} are used up (`pykernels run --resume FILE` adds the others)"
        )
        return True

    def _visit(self, case: Case, launch: int, round_: int, player: Player, tuner: Player) -> Record:
        started = self.clock()
        sweep = self.plan.sweep
        whole_s = 20 * case_seconds(case, sweep)
        reply = self._tune(case, tuner, sweep.timeout_s + whole_s)
        if reply is None:
            reply = player.visit(
                case, self.chosen[case.id], self.settings, round_=round_,
                seed=hash_seed(sweep.seed, case.hash, launch, round_),
                full=case.id not in self.checked,
                timeout_s=sweep.timeout_s + whole_s / (sweep.launches * sweep.rounds),
            )  # fmt: skip
        self.checked.add(case.id)
        return make_record(case, self.chosen.get(case.id, ""), launch, round_, started, reply)

    def _tune(self, case: Case, tuner: Player, timeout_s: float) -> Reply | None:
        """Fix the case's variant on timings that are never reported; the reply is the outcome that kept us from it."""
        if case.id in self.chosen:
            return None
        variants = list(registry.backend(case.implementation.backend).variants(case))
        if case.implementation.variant or len(variants) <= 1:
            self.chosen[case.id] = case.implementation.variant or (variants[0] if variants else "")
            return None
        twin = without_requests(case)
        if twin.id not in self.chosen:
            reply = tuner.tune(twin, variants, timeout_s)
            if reply.outcome is not None or not reply.seconds:
                return reply
            self.chosen[twin.id] = choose(reply.seconds)
            figure = case.problem.figure()
            values = {name: round(value_of(figure.unit, figure.amount, s), 4) for name, s in reply.seconds.items()}
            chosen = Tuning(case_id=twin.id, chosen=self.chosen[twin.id], candidates=values, unit=figure.unit)
            self.writer.write(chosen)
        self.chosen[case.id] = self.chosen[twin.id]
        return None

    def _by_memory(
        self, visits: list[tuple[int, int, Case]], player: Player, tuner: Player
    ) -> Iterable[tuple[int, int, Case]]:
        """The visits as they are where all workers fit in memory together; else place by place, a worker at a time."""
        largest: dict[tuple[Placement, str], int] = {}
        for _, _, case in visits:
            place = registry.worker_of(case)
            held = 0 if case.placement.device.startswith("gpu") else case.problem.working_set()
            largest[place] = max(largest.get(place, 0), held)
        if sum(largest.values()) * 2 <= MEMORY_SHARE * (self.plan.machine.memory_available or 1 << 62):
            yield from visits
            return
        for place in largest:
            player.keep_only({place})
            tuner.keep_only({place})
            yield from [v for v in visits if registry.worker_of(v[2]) == place]

    def _skipped_records(self) -> None:
        dropped = [
            (case, Skipped(reason=reason, hint="raise the sweep's budget")) for case, reason in self.plan.dropped
        ]
        for case, skipped in [*self.plan.skipped, *dropped]:
            if (case.id, 0, 0) not in self.seen:
                self._keep(make_record(case, "", 0, 0, self.clock(), Reply(outcome=skipped)))

    def _keep(self, record: Record) -> None:
        self.writer.write(record)
        self.records.append(record)
        self._note_trouble(record)

    def _note_trouble(self, record: Record) -> None:
        if isinstance(record.outcome, Wrong):
            self.trouble[record.case_id] = CRASHES_ALLOWED
        elif isinstance(record.outcome, Crashed | Skipped):  # a call too slow for its budget may have been disturbed
            self.trouble[record.case_id] = self.trouble.get(record.case_id, 0) + 1

    def _given_up(self, case: Case) -> bool:
        return self.trouble.get(case.id, 0) >= CRASHES_ALLOWED


def without_requests(case: Case) -> Case:
    """The case that the tuning pass times: a request's call is tuned as a row of calls, since 5,000 requests of each
    candidate would take minutes and say the same."""
    if case.placement.mode not in REQUESTS:
        return case
    return msgspec.structs.replace(case, placement=msgspec.structs.replace(case.placement, mode=""))


def choose(seconds: dict[str, float]) -> str:
    """The plainest variant (earliest in the order given) within TUNE_MARGIN of the fastest."""
    best = min(seconds.values())
    return next(variant for variant, value in seconds.items() if value <= best * (1 + TUNE_MARGIN))


def hash_seed(*parts: object) -> int:
    """A 31-bit seed from anything printable, equal on every machine."""
    import hashlib

    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big") & 0x7FFFFFFF


def make_record(case: Case, variant: str, launch: int, round_: int, started: float, reply: Reply) -> Record:
    """One visit as a line of the run file."""
    problem, place, traffic = case.problem, case.placement, case.problem.traffic()
    outcome: Outcome = reply.outcome or Crashed(how="exception", detail="the worker answered without an outcome")
    return Record(
        case_id=case.id,
        case=case.hash,
        kernel=problem.kernel,
        params=problem.params(),
        dtype=problem.dtype,
        backend=case.implementation.backend,
        isa=case.implementation.isa,
        variant=variant,
        device=place.device,
        threads=place.threads,
        pages=place.pages,
        memory=place.memory,
        mode=place.mode,
        launch_path=place.launch,
        ends=place.ends,
        launch=launch,
        round=round_,
        started=round(started, 3),
        wall_s=round(reply.wall_s, 4),
        figure=problem.figure(),
        flops=problem.flops(),
        bytes_requested=traffic.requested,
        bytes_compulsory=traffic.compulsory,
        bytes_write_allocate=traffic.write_allocate,
        working_set=problem.working_set(),
        conditions=reply.conditions,
        outcome=outcome,
    )


def summarise(records: list[Record]) -> Summary:
    """Cases by how they ended: a case with any measured visit counts as measured."""
    by_case: dict[str, list[Record]] = {}
    for record in records:
        by_case.setdefault(record.case_id, []).append(record)
    summary = Summary()
    for visits in by_case.values():
        outcomes = [visit.outcome for visit in visits]
        summary.measured += any(isinstance(outcome, Measured) for outcome in outcomes)
        summary.skipped += all(isinstance(outcome, Skipped) for outcome in outcomes)
        summary.disturbed += any(isinstance(outcome, Disturbed) for outcome in outcomes)
        summary.wrong += [visit for visit in visits if isinstance(visit.outcome, Wrong)]
        summary.crashed += [visit for visit in visits if isinstance(visit.outcome, Crashed)]
    return summary
