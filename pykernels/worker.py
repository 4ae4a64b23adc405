"""The child process: opens one backend for one placement, then tunes and visits cases as told, a JSON line each way.

It is started fresh for every launch, dies with its parent, and keeps its standard output for the protocol (whatever a
library prints goes to standard error). Only `pool.py` starts it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from statistics import median
from typing import Any, BinaryIO

import msgspec

from pykernels import registry
from pykernels.backends.base import Backend, Runner, Session
from pykernels.errors import DeviceLost, PykernelsError
from pykernels.measure import clock, sampling, verify
from pykernels.model import Case, Conditions, Crashed, Implementation, Machine, Outcome, Placement, Skipped, Wrong

#: turns of the tuning pass, and samples of each candidate in a turn
TUNE_TURNS, TUNE_SAMPLES = 3, 3
#: least length of such a sample, and the longest warming up before the first
TUNE_SAMPLE_S, TUNE_WARM_S = 1e-3, 0.5


class Open(msgspec.Struct, tag="open", tag_field="op"):
    """First message: what this worker is for."""

    backend: str
    placement: Placement
    machine: Machine


class Visit(msgspec.Struct, tag="visit", tag_field="op"):
    """Verify and time one case. `full` asks for the small shape's full check first (once a run)."""

    case: dict[str, Any]
    variant: str
    settings: sampling.Settings
    seed: int
    full: bool = False


class Tune(msgspec.Struct, tag="tune", tag_field="op"):
    """Time the variants of one case against each other."""

    case: dict[str, Any]
    variants: list[str]


class Reply(msgspec.Struct, omit_defaults=True):
    """Answer to any message: `outcome` and `conditions` of a visit, seconds per variant of a tuning."""

    outcome: Outcome | None = None
    conditions: Conditions = msgspec.field(default_factory=Conditions)
    wall_s: float = 0.0
    seconds: dict[str, float] = {}
    lost: bool = False


Message = Open | Visit | Tune


def visit(session: Session, message: Visit) -> Reply:
    """One visit: full check of the small shape if asked, sampled check, time, sampled check again."""
    from pykernels.machine import noise

    case = registry.case_from_builtins(message.case)
    if reason := clock.too_coarse(message.settings.visit_s):
        return Reply(outcome=Skipped(reason=reason, hint='use a finer clock, or longer visits (visit = "20 s")'))
    session = _placed(session, case)
    implementation = Implementation(case.implementation.backend, case.implementation.isa, message.variant)
    if message.full and (wrong := _checked(session, case, implementation, verify.check_full)):
        return Reply(outcome=wrong)
    runner = session.prepare(case.problem, implementation)
    try:
        before = noise.snapshot()
        outcome = _timed(case, runner, message)
        conditions = noise.conditions(before, noise.snapshot())
        facts = {**case.problem.about(), **runner.facts()}
        conditions.huge_page_share = facts.pop("huge_page_share", None)
        conditions.energy_j = facts.pop("energy_j", None)
        conditions.facts = facts
        return Reply(outcome=outcome, conditions=conditions)
    finally:
        runner.close()


def _placed(session: Session, case: Case) -> Session:
    """The session as this case's placement wants it, where one worker serves several (`registry.worker_of`)."""
    at: Callable[[Placement], Session] | None = getattr(session, "at", None)
    return session if at is None else at(case.placement)


def _checked(
    session: Session, case: Case, implementation: Implementation, check: Callable[[Any, Runner], Wrong | None]
) -> Wrong | None:
    small = case.problem.small()
    runner = session.prepare(small, implementation)
    try:
        return check(small, runner)
    finally:
        runner.close()


def _timed(case: Case, runner: Runner, message: Visit) -> Outcome:
    wrong = verify.check_sampled(case.problem, runner, message.seed)
    if wrong:
        return wrong
    outcome = sampling.collect(runner, message.settings)
    wrong = verify.check_sampled(case.problem, runner, message.seed + 1)
    if wrong:
        wrong.phase = "after"
        return wrong
    return outcome


def tune(session: Session, message: Tune) -> Reply:
    """Seconds per call of each variant: the best of a few turns' medians, candidates interleaved. A candidate that
    refuses this problem (a library with fewer algorithms than usual) is left out, unless all do."""
    case = registry.case_from_builtins(message.case)
    session = _placed(session, case)
    seconds: dict[str, list[float]] = {variant: [] for variant in message.variants}
    reps: dict[str, int] = {}
    for turn in range(TUNE_TURNS):
        for variant in list(seconds)[:: -1 if turn % 2 else 1]:
            implementation = Implementation(case.implementation.backend, case.implementation.isa, variant)
            try:
                runner = session.prepare(case.problem, implementation)
            except PykernelsError:
                if len(seconds) == 1:
                    raise
                del seconds[variant]
                continue
            try:
                if variant not in reps:
                    reps[variant] = sampling.calibrate(runner, max(TUNE_SAMPLE_S, clock.shortest_sample_s()))
                    sampling.warm_up(runner, reps[variant], TUNE_WARM_S, time.monotonic)
                seconds[variant].append(median(runner.sample(reps[variant], TUNE_SAMPLES).samples_s))
            finally:
                runner.close()
    return Reply(seconds={variant: min(values) for variant, values in seconds.items()})


def answer(session: Session, message: Visit | Tune) -> Reply:
    """The reply to one message; whatever goes wrong in it is an outcome, not the end of the worker."""
    try:
        return visit(session, message) if isinstance(message, Visit) else tune(session, message)
    except PykernelsError as error:
        return Reply(outcome=Skipped(reason=error.message, hint=error.hint))
    except MemoryError as error:
        return Reply(outcome=Crashed(how="out of memory", detail=str(error)))
    except DeviceLost as error:
        return Reply(outcome=Crashed(how="device lost", detail=str(error)), lost=True)
    except Exception:
        return Reply(outcome=Crashed(how="exception", detail=traceback.format_exc(limit=-4)))


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent ends, however it ends."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(os.environ.get("PYKERNELS_PARENT", os.getppid())):
        os._exit(1)  # it ended before we could ask


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer messages until the source ends."""
    decoder, encoder = msgspec.json.Decoder(Message), msgspec.json.Encoder()
    session: Session | None = None
    for line in source:
        message = decoder.decode(line)
        started = time.monotonic()
        if isinstance(message, Open):
            session, reply = _open(registry.backend(message.backend), message)
        else:
            assert session is not None, "the first message opens the session"
            reply = answer(session, message)
        reply.wall_s = time.monotonic() - started
        sink.write(encoder.encode(reply) + b"\n")
        sink.flush()
        if reply.lost or session is None:
            return


def _open(backend: Backend, message: Open) -> tuple[Session | None, Reply]:
    try:
        return backend.open(message.placement, message.machine), Reply()
    except PykernelsError as error:
        return None, Reply(outcome=Skipped(reason=error.message, hint=error.hint))
    except MemoryError as error:
        return None, Reply(outcome=Crashed(how="out of memory", detail=str(error)))
    except DeviceLost as error:
        return None, Reply(outcome=Crashed(how="device lost", detail=str(error)))
    except Exception:
        return None, Reply(outcome=Crashed(how="exception", detail=traceback.format_exc(limit=-4)))


def main() -> None:
    """Entry point of the child process."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, protocol)
