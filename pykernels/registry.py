"""Finds kernel families and backends by name; the only list of either is the folder they live in, plus entry points."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pykernels.backends.base import Backend
from pykernels.errors import UsageError, unknown
from pykernels.model import Case, Family, Implementation, Placement, Problem


@cache
def families() -> dict[str, Family]:
    """All kernel families by name: every module of `pykernels.kernels` that defines FAMILY or FAMILIES."""
    import pykernels.kernels as package

    found: dict[str, Family] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for family in getattr(module, "FAMILIES", [module.FAMILY] if hasattr(module, "FAMILY") else []):
            found[family.name] = family
    return found


def family(name: str, *, where: str = "") -> Family:
    """The family of that name, or a UsageError with the nearest one."""
    known = families()
    if name not in known:
        raise unknown("kernel", name, known, where=where)
    return known[name]


@cache
def backends() -> dict[str, Backend]:
    """All backends by name: every module of `pykernels.backends` that defines BACKEND or BACKENDS, then entry points of
    the group `pykernels.backends`. Importing a backend module must not import the technology it drives."""
    import pykernels.backends as package

    found: dict[str, Backend] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for backend in getattr(module, "BACKENDS", [module.BACKEND] if hasattr(module, "BACKEND") else []):
            found[backend.name] = backend
    for point in entry_points(group="pykernels.backends"):
        try:
            found[point.name] = point.load()
        except Exception as error:  # a broken third-party package must be named, not guessed at
            raise UsageError(f'backend "{point.name}" of {point.value} does not load: {error}') from error
    return found


def backend(name: str, *, where: str = "") -> Backend:
    """The backend of that name, or a UsageError with the nearest one."""
    known = backends()
    if name not in known:
        raise unknown("backend", name, known, where=where)
    return known[name]


def worker_of(case: Case) -> tuple[Placement, str]:
    """Placement and backend of the worker that serves a case. A backend with a method `home` lets placements share one
    (opening a GPU takes seconds): its sessions have a method `at(placement)`."""
    name = case.implementation.backend
    home: Callable[[Placement], Placement] | None = getattr(backend(name), "home", None)
    return (case.placement if home is None else home(case.placement), name)


def problem_from(kernel: str, fields: dict[str, Any]) -> Problem:
    """Rebuild a problem from its builtins (as the engine sends it to a worker)."""
    import msgspec

    return msgspec.convert(fields, family(kernel).problem)


def case_to_builtins(case: Case) -> dict[str, Any]:
    """A case as plain data for the worker protocol."""
    import msgspec

    return {
        "kernel": case.problem.kernel,
        "problem": msgspec.to_builtins(case.problem),
        "implementation": msgspec.to_builtins(case.implementation),
        "placement": msgspec.to_builtins(case.placement),
    }


def case_from_builtins(data: dict[str, Any]) -> Case:
    """The case that `case_to_builtins` wrote."""
    import msgspec

    return Case(
        problem=problem_from(data["kernel"], data["problem"]),
        implementation=msgspec.convert(data["implementation"], Implementation),
        placement=msgspec.convert(data["placement"], Placement),
    )
