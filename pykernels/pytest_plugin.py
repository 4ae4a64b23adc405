"""The pytest door: sweep files as test files, and the `pykernels` fixture.

`pytest sweeps/acceptance.toml` makes one item of each case and of each requirement of the file. When the first of them
runs, all selected items are measured together, with the roofs they need, into one run file; then each reports.

pytest loads this module in every test run on the machine: it imports only pytest and the standard library, and the rest
of the package when a sweep is collected or the fixture is used.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from _pytest._code.code import TerminalRepr

    from pykernels.acceptance import Acceptance, Answer, Check, Door, Results
    from pykernels.model import Record

_XDIST = "measurements run one at a time on an idle machine: run pykernels items without pytest-xdist (-n 0)"
_FIRST_KEY = re.compile(r"\A\ufeff?(?:[ \t]*(?:#[^\n]*)?\r?\n)*[ \t]*pykernels[ \t]*=")
_REQUIRES = re.compile(r"^[ \t]*\[\[[ \t]*require[ \t]*\]\]", re.MULTILINE)
_INI = {"pykernels_unclear": ("warn", "fail"), "pykernels_missing": ("skip", "fail")}


class UnclearWarning(UserWarning):
    """The interval of a requirement straddles its bound, or a case was too disturbed to have one."""


class State:
    """What one pytest session keeps: the door, once opened, and the run files written."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.files: list[Path] = []
        self._door: Door | None = None

    @property
    def launches(self) -> int:
        """Launches that the command line asks for; 0: the sweep's own."""
        return int(self.config.getoption("pykernels_launches") or 0)

    def door(self) -> Door:
        """The machine, or the replay file, opened once."""
        if self._door is None:
            from pykernels.acceptance import open_door

            replay = self.config.getoption("pykernels_replay")
            self._door = open_door(Path(replay) if replay else None)
        return self._door

    def measure(self, acceptance: Acceptance, checks: Sequence[Check]) -> Results:
        """Measure these checks together into the session's next run file."""
        from pykernels.errors import UsageError

        path = self._next_path(acceptance.sweep.name)
        progress = Progress(self.config)
        if any(check.case and not check.skipped for check in checks):
            progress.note(f"pykernels: measuring into {path}: {acceptance.plan_line(checks)}")
        self.files.append(path)
        try:
            return acceptance.measure(checks, path, progress)
        except UsageError as error:
            raise UsageError(error.message.replace(" -o", " --pykernels-out"), hint=error.hint) from None

    def _next_path(self, name: str) -> Path:
        """--pykernels-out, or HOST-SWEEP-TIME.jsonl here; the second file of a session ends in -2."""
        from pykernels.errors import UsageError

        number = f"-{len(self.files) + 1}" if self.files else ""
        chosen = self.config.getoption("pykernels_out")
        if not chosen:
            host = re.sub(r"[^A-Za-z0-9-]+", "-", platform.node().split(".")[0]).strip("-") or "machine"
            return Path(f"{host}-{name}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}{number}.jsonl")
        path = Path(chosen)
        path = path.with_name(f"{path.stem}{number}{path.suffix}")
        if path.is_file():
            raise UsageError(f"{path}: the file exists: give --pykernels-out another name")
        return path


_STATE = pytest.StashKey[State]()


class Progress:
    """What a measurement says while it runs: past pytest's capture, and little of it."""

    def __init__(self, config: pytest.Config) -> None:
        self._terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
        self._capture: Any = config.pluginmanager.get_plugin("capturemanager")

    def visited(self, record: Record, done: int, total: int) -> None:
        """Nothing: the items report."""

    def note(self, text: str) -> None:
        """A line on the terminal."""
        if self._terminal is None:
            return
        with self._capture.global_and_fixture_disabled():
            self._terminal.write_line(f"\n{text}")


# -------------------------------------------------------------------------------------------------------------- options


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options and ini values."""
    group = parser.getgroup("pykernels", "measurements of pykernels")
    group.addoption("--pykernels-out", metavar="FILE", help="run file to write; default HOST-SWEEP-TIME.jsonl")
    group.addoption("--pykernels-launches", type=int, metavar="N", help="fresh processes per case; overrides the sweep")
    group.addoption("--pykernels-replay", metavar="FILE", help="play timings from FILE; no clock")
    parser.addini(
        "pykernels_unclear", "what an interval astride its bound does: warn (default) or fail", default="warn"
    )
    parser.addini("pykernels_missing", "what a case that cannot run here does: skip (default) or fail", default="skip")


def pytest_configure(config: pytest.Config) -> None:
    """The marker; bad values of ours are refused before anything runs."""
    config.addinivalue_line("markers", "pykernels: measures this machine")
    for name, choices in _INI.items():
        if config.getini(name) not in choices:
            raise pytest.UsageError(f'{name} = "{config.getini(name)}": expected {" or ".join(choices)}')
    launches = config.getoption("pykernels_launches")
    if launches is not None and launches < 1:
        raise pytest.UsageError(f"--pykernels-launches {launches}: expected a whole number of at least 1")
    config.stash[_STATE] = State(config)
    named = [Path(str(arg).partition("::")[0]) for arg in config.args]
    if _distributed(config) and any(path.suffix == ".toml" and _kind(path) for path in named):
        raise pytest.UsageError(_XDIST)


def _distributed(config: pytest.Config) -> bool:
    """True in a worker of pytest-xdist, and in the process that hands out to workers."""
    return hasattr(config, "workerinput") or config.getoption("dist", "no") != "no"


# ----------------------------------------------------------------------------------------------------------- collection


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A TOML file whose first key is `pykernels`: any that is named, and, found in a folder, one with requirements."""
    if file_path.suffix != ".toml":
        return None
    kind = _kind(file_path)
    if kind == "acceptance" or (kind and parent.session.isinitpath(file_path)):
        return SweepFile.from_parent(parent, path=file_path)
    return None


def _kind(path: Path) -> str:
    """`acceptance` (a sweep with requirements), `sweep`, or "" for a file that is not ours."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    if not _FIRST_KEY.match(text):
        return ""
    return "acceptance" if _REQUIRES.search(text) else "sweep"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use the fixture, so that `-m pykernels` finds them; before -m deselects."""
    for item in items:
        if "pykernels" in getattr(item, "fixturenames", ()):
            item.add_marker("pykernels")


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """The plan in a line for each sweep: cases, added roofs, estimate."""
    files = {item.sweep: None for item in items if isinstance(item, SweepItem)}
    return [f"{sweep.path.name}: {sweep.acceptance.plan_line(sweep.checks_among(items))}" for sweep in files]


class SweepFile(pytest.File):
    """A sweep: its checks as items, measured together when the first selected one runs."""

    acceptance: Acceptance
    _results: Results | None = None
    _error: Exception | None = None

    def collect(self) -> Iterator[SweepItem]:
        """One item a check. A bad sweep is a collection error of one sentence."""
        from pykernels.acceptance import load_acceptance
        from pykernels.errors import PykernelsError

        if _distributed(self.config):
            raise self.CollectError(_XDIST)
        state = self.config.stash[_STATE]
        try:
            self.acceptance = load_acceptance(_near(self.path), state.door(), launches=state.launches)
        except PykernelsError as error:
            raise self.CollectError(str(error)) from None
        for check in self.acceptance.checks:
            # The id is given whole, for pytest reads ids back from text (--lf) and parts them at the first bracket.
            yield SweepItem.from_parent(self, name=check.name, nodeid=f"{self.nodeid}::{check.name}", check=check)

    def results(self) -> Results:
        """The run file of all selected items of this sweep; what went wrong is not tried again for each."""
        if self._error:
            raise self._error
        if self._results is None:
            try:
                checks = self.checks_among(self.session.items)
                self._results = self.config.stash[_STATE].measure(self.acceptance, checks)
            except Exception as error:
                self._error = error
                raise
        return self._results

    def checks_among(self, items: Sequence[pytest.Item]) -> list[Check]:
        """Checks of those items that are of this sweep."""
        return [item.check for item in items if isinstance(item, SweepItem) and item.sweep is self]


class SweepItem(pytest.Item):
    """One case, or one bound on one case."""

    def __init__(self, *, check: Check, **more: Any) -> None:
        super().__init__(**more)
        self.check = check
        self.add_marker("pykernels")

    @property
    def sweep(self) -> SweepFile:
        """The file this item is of."""
        assert isinstance(self.parent, SweepFile)
        return self.parent

    def runtest(self) -> None:
        """Report what the shared measurement found."""
        answer = self.sweep.results().answer(self.check)
        self.user_properties += answer.properties
        report(self.config, answer, self._rerun(), warn=self._warn)

    def _warn(self, warning: Warning) -> None:
        warnings.warn_explicit(warning, None, filename=str(_near(self.path)), lineno=1)

    def _rerun(self) -> str:
        pattern = self.check.case.hash if self.check.case else self.name
        return f"pytest {shlex.quote(str(_near(self.path)))} -k {shlex.quote(pattern)}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str | TerminalRepr:
        """Errors meant for the user as a sentence, without a traceback."""
        from pykernels.errors import PykernelsError

        if isinstance(excinfo.value, PykernelsError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where pytest says the item is."""
        return self.path, None, self.name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """What this module skips is skipped where the item is, not here."""
    report: pytest.TestReport = yield
    if report.skipped and isinstance(report.longrepr, tuple) and report.longrepr[0] == __file__:
        path, line, _ = item.location
        report.longrepr = (path, None if line is None else line + 1, report.longrepr[2])  # type: ignore[assignment]
    return report


def report(config: pytest.Config, answer: Answer, rerun: str, *, warn: Any) -> None:
    """Pass, warn, skip or fail as the answer and the ini values say."""
    if answer.status == "pass":
        return
    strict = config.getini("pykernels_missing" if answer.status == "skip" else "pykernels_unclear") == "fail"
    if answer.status == "skip" and not strict:
        pytest.skip(answer.headline.removeprefix("skipped: "))
    if answer.status == "unclear" and not strict:
        warn(UnclearWarning(f"unclear: {answer.headline}"))
        return
    word = {"skip": "missing: ", "unclear": "unclear: "}.get(answer.status, "")
    fail(f"{word}{answer.text or answer.headline}\n  rerun       {rerun}")


def fail(text: str) -> NoReturn:
    """End the test with a text and no traceback."""
    raise pytest.fail.Exception(text, pytrace=False) from None


# -------------------------------------------------------------------------------------------------------------- fixture


@pytest.fixture(name="pykernels")
def pykernels_fixture(request: pytest.FixtureRequest) -> Pykernels:
    """Measures on this machine: `pykernels.measure("stream", op="triad", level="DRAM").require("GBps >= 180")`."""
    if _distributed(request.config):
        fail(_XDIST)
    return Pykernels(request)


class Pykernels:
    """The fixture's value."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def measure(self, kernel: str, **keys: Any) -> Measured:
        """One case, by the keys of a study (`op`, `level`, `dtype`, `on`, `threads`, ...). It is measured when first
        asked for a figure or a requirement, together with the roof that the requirement needs."""
        from pykernels.acceptance import one_case

        state = self._request.config.stash[_STATE]
        with _Sentences():
            acceptance, check = one_case(state.door(), kernel, keys, launches=state.launches)
        return Measured(self._request, acceptance, check)


class Measured:
    """One case of a Python test. Skips the test where the case cannot run here."""

    def __init__(self, request: pytest.FixtureRequest, acceptance: Acceptance, check: Check) -> None:
        self._request, self._acceptance, self._check = request, acceptance, check
        self._results: Results | None = None

    @property
    def id(self) -> str:
        """The case's id."""
        return self._check.case.id if self._check.case else self._check.name

    @property
    def value(self) -> float:
        """The figure in `unit`."""
        return self._interval().value  # type: ignore[no-any-return]

    @property
    def low(self) -> float:
        """Lower end of its 95% interval."""
        return self._interval().low  # type: ignore[no-any-return]

    @property
    def high(self) -> float:
        """Upper end of its 95% interval."""
        return self._interval().high  # type: ignore[no-any-return]

    @property
    def unit(self) -> str:
        """Unit of the figure."""
        return self._check.case.problem.figure().unit if self._check.case else ""

    def require(self, requirement: str) -> Measured:
        """Hold the case to `GBps >= 80% of datasheet` or to `share >= 60% of roof:DRAM:load`. Fails the test
        where the whole interval is on the wrong side, warns where it straddles the bound, and gives the case back."""
        from pykernels.analysis.requirements import parse_line

        with _Sentences():
            bound = parse_line(requirement, where="require")
            check = self._check
            if check.case:
                check = self._acceptance.check(check.case, check.skipped, bound, where="require")
        self._report(self._answer(check))
        return self

    def _interval(self) -> Any:
        answer = self._answer(self._check)
        if answer.status in ("fail", "skip"):
            self._report(answer)
        assert self._results is not None
        interval = self._results.cases[self.id].estimate.interval
        if interval is None:
            fail(f"{answer.text or answer.headline}\n  rerun       {self._rerun()}")
        return interval

    def _answer(self, check: Check) -> Answer:
        """The check's answer, from the run file there is if that holds its roof too, else from a new measurement."""
        from pykernels.acceptance import Answer

        if check.case is None:
            return Answer(status="skip", headline=check.absent)
        needed = {case.id for case in (check.case, check.roof) if case}
        with _Sentences():
            if self._results is None or not needed <= self._results.cases.keys():
                self._results = self._request.config.stash[_STATE].measure(self._acceptance, [check])
            return self._results.answer(check)

    def _report(self, answer: Answer) -> None:
        self._request.node.user_properties += answer.properties
        report(self._request.config, answer, self._rerun(), warn=lambda warning: warnings.warn(warning, stacklevel=5))

    def _rerun(self) -> str:
        return f"pytest {shlex.quote(self._request.node.nodeid)}"


class _Sentences:
    """Turns errors meant for the user into failures of one sentence."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from pykernels.errors import PykernelsError

        if isinstance(error, PykernelsError):
            fail(str(error))


# -------------------------------------------------------------------------------------------------------------- summary


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Where the run files are, and how to look into them."""
    state = config.stash.get(_STATE, None)
    files = [path for path in state.files if path.is_file()] if state else []
    if files:
        terminalreporter.section("pykernels")
        for path in files:
            terminalreporter.write_line(f"wrote {path}   (pykernels roofline {shlex.quote(str(path))})")


def _near(path: Path) -> Path:
    """A path as the user would write it: relative where that is shorter."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else Path(relative)
