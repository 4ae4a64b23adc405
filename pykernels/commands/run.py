"""`pykernels run`: measure a sweep into a run file, print its roofline, say what to type next."""

from __future__ import annotations

import contextlib
import datetime
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pykernels.commands.common import filter_option, output_options, print_json, width, writable
from pykernels.errors import NothingMeasured, UsageError

if TYPE_CHECKING:
    from pykernels.engine import Summary
    from pykernels.plan import Plan
    from pykernels.store import RunWriter
    from pykernels.sweep import Sweep


@click.command()
@click.argument("sweep", default="", metavar="[SWEEP]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run file; default HOST-SWEEP-TIME.jsonl.")
@filter_option
@click.option("--dry-run", is_flag=True, help="Print the plan and its time estimate; measure nothing.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="FILE", help="Finish an interrupted run.")
@click.option("--replay", type=click.Path(path_type=Path), metavar="FILE", help="Play timings from FILE; no clock.")
@click.option("--simulate", type=click.Path(path_type=Path), metavar="NOISE", help="Play a machine of known truth.")
@click.option("--refine", type=click.Path(path_type=Path), metavar="FILE", help="Bisect FILE's crossovers.")
@click.option("--against", default="", metavar="SLUG", help="With --refine: a projected GPU, as in `crossover`.")
@click.option("--link", "link_gbs", type=float, metavar="GB/s", help="With --against: its host link, per direction.")
@click.option("--launches", type=click.IntRange(1, 1000), help="Fresh processes per case; overrides the sweep.")
@click.option("--budget", metavar="TIME", help='Time for the whole run, such as "5 min"; overrides the sweep.')
@click.option("--no-wait", is_flag=True, help="Leave at once when another run holds this machine.")
@click.option("--no-picture", is_flag=True, help="Draw no figures beside the run file.")
@output_options
def run(
    sweep: str, output: Path | None, pattern: str, dry_run: bool, resume: Path | None, replay: Path | None,
    simulate: Path | None, refine: Path | None, against: str, link_gbs: float | None, launches: int | None,
    budget: str | None, no_wait: bool, no_picture: bool, as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """Measure SWEEP (a shipped name or a TOML file; default: quick) into a run file.

    With no argument: this CPU's roofline in under a minute, as a table and a picture.
    """
    if resume:
        _refuse_with_resume(sweep, output, pattern, launches, budget, replay, simulate, refine, against, link_gbs)
        job = _resumed(resume)
    else:
        chosen = _sweep(sweep, refine, against, link_gbs)
        job = _planned(chosen, pattern, replay, simulate, launches, budget)
        job.refines = refine.name if refine else ""
    if dry_run:
        _print_plan(job.plan, as_json)
        return 0
    if not job.plan.cases and not job.plan.skipped:
        raise NothingMeasured("the plan has no case")
    path = resume or _new_file(output or _default_path(job.plan.sweep.name))
    summary = _measure(job, path, resume is not None, no_wait, quiet)
    return _close(summary, path, sweep or job.plan.sweep.name, as_json, quiet, no_picture)


class Job:
    """A plan, who plays it, and what is already measured."""

    def __init__(
        self, plan: Plan, players: Any = None, source: str = "measured", old: Any = None,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.plan, self.players, self.source, self.old, self.clock = plan, players, source, old, clock
        self.refines = ""


def _sweep(name: str, refine: Path | None, against: str, link_gbs: float | None) -> Sweep:
    """The sweep of that name or file, or the one that refines a run file. Raises UsageError."""
    from pykernels.sweep import load_sweep

    if refine is None:
        if against or link_gbs is not None:
            raise UsageError("--against and --link belong to --refine FILE, whose crossover they place")
        return load_sweep(name or "quick")
    if name:
        raise UsageError(f'--refine plans its own cases from {refine}: leave out the sweep "{name}"')
    from pykernels.analysis.crossover import Assumptions, Options
    from pykernels.refine import refined_sweep
    from pykernels.store import load_run

    options = Options(against=against, assumptions=Assumptions(link_gbs=link_gbs))
    return refined_sweep(load_run(refine), options)


def _planned(
    sweep: Sweep, pattern: str, replay: Path | None, simulate: Path | None, launches: int | None, budget: str | None
) -> Job:
    from pykernels.machine.cpu import read_machine
    from pykernels.plan import make_plan
    from pykernels.units import parse_duration

    if launches:
        sweep.launches = launches
    if budget:
        sweep.budget_s = parse_duration(budget)
    if replay and simulate:
        raise UsageError("--replay and --simulate exclude each other; give one of them")
    if simulate:
        from pykernels.backends.simulated import load_noise

        noise = load_noise(simulate)
        plan = make_plan(sweep, noise.machine, k=pattern, can_run_all=True)
        return Job(plan, noise.player, "simulated", clock=noise.clock)
    if replay is None:
        return Job(make_plan(sweep, read_machine(), k=pattern))
    from pykernels.backends.replay import load_replay

    played = load_replay(replay)
    plan = make_plan(sweep, played.machine or read_machine(), k=pattern, can_run_all=True)
    return Job(plan, played.player, "replay")


def _refuse_with_resume(sweep: str, *others: Any) -> None:
    if sweep or any(other for other in others):
        raise UsageError("--resume takes its sweep and options from the file; give it alone")


def _resumed(path: Path) -> Job:
    from pykernels.machine.cpu import read_machine
    from pykernels.plan import make_plan
    from pykernels.store import load_run
    from pykernels.sweep import parse_sweep

    old = load_run(path)
    header = old.header
    if header.source != "measured":
        raise UsageError(f"{path}: a {header.source} run cannot be resumed; only measured ones are")
    machine = read_machine()
    if machine.id != header.machine.id:
        raise UsageError(
            f"{path}: was measured on another machine ({header.machine.cpu_model}, {header.machine.id}); this one is "
            f"{machine.id}. Resume it there, or start a new run here"
        )
    sweep = parse_sweep(header.sweep, name=header.sweep_name, where=f"{path}: its sweep")
    sweep.launches, sweep.rounds, sweep.seed, sweep.budget_s = (
        header.launches, header.rounds, header.seed, header.budget_s,
    )  # fmt: skip
    return Job(make_plan(sweep, machine, k=header.filter), old=old)


def _default_path(name: str) -> Path:
    host = re.sub(r"[^A-Za-z0-9-]+", "-", platform.node().split(".")[0]).strip("-") or "machine"
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    return Path(f"{host}-{name}-{stamp}.jsonl")


def _measure(job: Job, path: Path, resuming: bool, no_wait: bool, quiet: bool) -> Summary:
    """Run the job into the file. The machine is locked before the file is opened: a run that waits leaves nothing
    behind when it gives up, and one that resumes goes on from what the file holds when its turn has come."""
    from pykernels.commands.progress import make_progress
    from pykernels.engine import Engine
    from pykernels.lock import machine_lock
    from pykernels.pool import WorkerPool

    progress = make_progress(job.plan, quiet)
    _stop_on_signals()
    with contextlib.ExitStack() as stack:
        if not job.players:
            what = f"pykernels run {job.plan.sweep.name}"
            stack.enter_context(machine_lock(what, wait=not no_wait, say=progress.note))
        if resuming:
            job = _resumed(path)
        plan = job.plan

        def workers(launch: int) -> WorkerPool:
            return WorkerPool(plan.machine, seed=plan.sweep.seed * 1000 + launch)

        engine = Engine(
            plan, _open(job, path, resuming), job.players or workers, progress,
            tuned=job.old.tunings if job.old else (), done=job.old.records if job.old else (),
            clock=job.clock,
        )  # fmt: skip
        stack.enter_context(progress)
        return engine.run()


def _open(job: Job, path: Path, resuming: bool) -> RunWriter:
    from pykernels.engine import make_header
    from pykernels.store import RunWriter, open_for_resume

    if resuming:
        return open_for_resume(path)
    header = make_header(job.plan, source=job.source, started=job.clock())
    header.refines = job.refines
    return RunWriter(path, header)


def _new_file(path: Path) -> Path:
    """The path of a run file to be, refused before anything is measured or waited for. Raises UsageError."""
    if path.suffix.lower() in (".png", ".svg", ".pdf"):
        why = "is a picture's name, and a picture is drawn beside the run file"
        raise UsageError(f'{path}: "{path.suffix}" {why}; name the run file .jsonl')
    if path.is_file():
        raise UsageError(f"{path}: the file exists; choose another -o, or go on with `pykernels run --resume {path}`")
    return writable(path)


def _stop_on_signals() -> None:
    """SIGTERM and a closed terminal end a run as Ctrl-C does, with a valid file; what nohup ignores stays ignored."""
    import signal

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:
            signal.signal(name, stop)


def _print_plan(plan: Plan, as_json: bool) -> None:
    from pykernels.units import format_duration, format_size

    if as_json:
        print_json(
            {
                "sweep": plan.sweep.name,
                "estimate_s": plan.estimate_s(),
                "budget_s": plan.sweep.budget_s,
                "cases": [
                    {"case_id": c.id, "hash": c.hash, "working_set": c.problem.working_set()} for c in plan.cases
                ],
                "skipped": [{"case_id": c.id, "reason": s.reason, "hint": s.hint} for c, s in plan.skipped],
                "dropped": [{"case_id": c.id, "reason": reason} for c, reason in plan.dropped],
            }
        )
        return
    for case in plan.cases:
        click.echo(f"{case.hash}  {case.id}   {format_size(case.problem.working_set())}")
    for case, skipped in plan.skipped:
        click.echo(f"skip      {case.id}: {skipped.reason}")
    for case, reason in plan.dropped:
        click.echo(f"drop      {case.id}: {reason}")
    for text in plan.absent:
        click.echo(f"absent    {text}")
    total = len(plan.cases) + len(plan.skipped) + len(plan.dropped)
    text = f"{total} cases: {len(plan.cases)} will run, {len(plan.skipped)} skipped"
    text += f", {len(plan.dropped)} dropped" if plan.dropped else ""
    budget = format_duration(plan.sweep.budget_s)
    click.echo(f"{text}. Estimate {format_duration(plan.estimate_s())} of a {budget} budget.")


def _close(summary: Summary, path: Path, sweep: str, as_json: bool, quiet: bool, no_picture: bool) -> int:
    from pykernels.store import load_run

    if summary.interrupted:
        click.echo(f"interrupted; {path} is valid as it is. Finish it with: pykernels run --resume {path}", err=True)
        return 130
    done = load_run(path)
    if as_json:
        print_json(_summary_json(summary, path, done))
    else:
        _say(summary, path, done, quiet, no_picture)
    _list_trouble(summary, sweep)
    if summary.wrong or summary.crashed:
        return 1
    if not summary.measured:
        raise NothingMeasured(f"no case was measured; the reasons are in {path} (pykernels roofline {path})")
    return 0


def _summary_json(summary: Summary, path: Path, done: Any) -> dict[str, Any]:
    from pykernels.analysis import roofline

    return {
        "file": str(path),
        "measured": summary.measured,
        "skipped": summary.skipped,
        "disturbed": summary.disturbed,
        "wrong": [record.case_id for record in summary.wrong],
        "crashed": [record.case_id for record in summary.crashed],
        "roofline": roofline.analyse([done]),
    }


def _say(summary: Summary, path: Path, done: Any, quiet: bool, no_picture: bool) -> None:
    from pykernels.analysis.roofline import analyse
    from pykernels.report import roofline as report

    answer = analyse([done])
    click.echo(report.text(answer, width()))
    pictures: list[Path] = []
    if answer.roofs and not no_picture:
        pictures = report.draw(answer, path.with_suffix(".png"))
    parts = [f"{summary.measured} measured"]
    parts += [f"{n} {word}" for n, word in _counts(summary) if n]
    click.echo(f"wrote {path}   {', '.join(parts)}")
    for picture in pictures:
        click.echo(f"drew {picture}")
    if not quiet and done.header.sweep_name == "quick":
        click.echo(f"next: pykernels run roofline   (every roof)   or   pykernels roofline {path} --json", err=True)


def _counts(summary: Summary) -> list[tuple[int, str]]:
    return [
        (len(summary.wrong), "wrong"), (len(summary.crashed), "crashed"), (summary.skipped, "skipped"),
        (summary.disturbed, "disturbed"),
    ]  # fmt: skip


def _list_trouble(summary: Summary, sweep: str) -> None:
    rerun = f"   rerun: pykernels run {sweep} -k "
    for record in summary.wrong:
        outcome: Any = record.outcome
        error = f"error {outcome.max_error:.3g} > {outcome.bound:.3g} at {outcome.where}"
        click.echo(f"wrong: {record.case_id}   {error}{rerun}{record.case}", err=True)
    for record in summary.crashed:
        outcome = record.outcome
        last = outcome.detail.strip().splitlines()[-1:] or [""]
        click.echo(f"crashed: {record.case_id}   {outcome.how}: {last[0]}{rerun}{record.case}", err=True)
