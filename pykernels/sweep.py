"""Sweep files: TOML in, a checked `Sweep` out. Python users build the same `Sweep` value.

A sweep is a title, a time budget, a number of launches, studies (each a product of key values for one kernel family)
and requirements. Unknown keys, kernels and values are refused by name, with the nearest known one.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from pykernels import registry
from pykernels.errors import UsageError, unknown
from pykernels.model import ISA_LEVELS, Family
from pykernels.units import METRICS, parse_duration

FORMAT = 1
#: values of one range
MOST_VALUES = 1000

#: Study keys that say how and where, not what; every family has them.
PLACE_KEYS: dict[str, str] = {
    "kernel": "kernel family",
    "backend": "backends; default: native on CPUs, cuda on GPUs",
    "isa": 'ISA levels: "best" (default), "all", or names',
    "variant": "implementation variants; default: chosen in the tuning pass",
    "on": 'devices: "cpu" (default), "cpu:N", "cpu:l3.N", "cpu:socket.N", "cpu:core.N", "gpu:N", or all '
    'there are of a kind: "nodes", "l3s", "sockets", "gpus"',
    "threads": 'thread counts: integers, "all" (default: one per physical core), or "doubling": 1, 2, 4, ... and all',
    "pages": '"huge" (default) or "4k"',
    "memory": "NUMA node that holds the operands; default: the device's own",
    "timing": 'requests: "closed", "open"; GPU timing: "steady", "cold", "burst", "sustained"',
    "launch": 'GPU launch path: "plain", "graph", "mapped", "persistent"',
    "ends": "where table, indices and results of lookups live: C0, C1 of CPUs, G0 to G5 of GPUs",
}

_CHOICES = {
    "pages": ("huge", "4k"),
    "timing": ("steady", "cold", "burst", "sustained", "closed", "open"),
    "launch": ("plain", "graph", "mapped", "persistent"),
    "ends": ("C0", "C1", "G0", "G1", "G2", "G3", "G4", "G5"),
}


class Requirement(msgspec.Struct, frozen=True):
    """One acceptance rule: a pattern over case ids and a bound such as (`GBps`, ">= 180")."""

    case: str
    metric: str
    bound: str


class Sweep(msgspec.Struct, kw_only=True):
    """A checked sweep. Times in seconds. `dram_factor`: DRAM arrays in multiples of the last-level cache."""

    name: str = "sweep"
    where: str = "sweep"  # the file it was read from, for messages
    title: str = ""
    budget_s: float = 600.0
    launches: int = 5
    rounds: int = 1
    seed: int = 1
    sample_s: float = 1e-3
    visit_s: float = 0.08
    dram_factor: float = 8.0
    timeout_s: float = 60.0  # grace of a visit beyond 20 times its estimate; then its worker is killed
    study: list[dict[str, Any]] = []
    require: list[Requirement] = []
    text: str = ""  # the file as written, for the run file's header


_TOP_KEYS = {
    "pykernels", "title", "budget", "launches", "rounds", "seed", "sample", "visit", "dram_factor", "timeout",
    "study", "require",
}  # fmt: skip


def sweeps_folder() -> Path:
    """Where the shipped sweeps are: inside the installed package, or `sweeps/` of a checkout."""
    here = Path(__file__).resolve().parent
    installed = here / "sweeps"
    return installed if installed.is_dir() else here.parent / "sweeps"


def shipped_sweeps() -> dict[str, Path]:
    """The sweeps that come with the package, by name."""
    return {path.stem: path for path in sorted(sweeps_folder().glob("*.toml"))}


def load_sweep(name_or_path: str) -> Sweep:
    """The sweep of that name, or in that file. Raises UsageError."""
    shipped = shipped_sweeps()
    if name_or_path in shipped:
        path = shipped[name_or_path]
    else:
        path = Path(name_or_path)
        if not path.suffix and not path.exists():
            raise unknown("sweep", name_or_path, shipped)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file; a sweep is TOML") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{path}: cannot be read ({reason}); shipped sweeps: {', '.join(shipped)}") from None
    return parse_sweep(text, name=path.stem, where=str(path))


def parse_sweep(text: str, *, name: str = "sweep", where: str = "sweep") -> Sweep:
    """Check the TOML text of a sweep. Raises UsageError that names `where`, the study and the key."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not valid TOML: {error}") from None
    for key in data:
        if key not in _TOP_KEYS:
            raise unknown("key", key, _TOP_KEYS, where=where)
    version = data.get("pykernels")
    if version != FORMAT:
        raise UsageError(f"{where}: pykernels = {version!r}: the first key must be `pykernels = {FORMAT}`")
    sweep = Sweep(
        name=name,
        where=where,
        title=_typed(data, "title", str, "", where),
        budget_s=_duration(data, "budget", 600.0, where),
        launches=_positive(data, "launches", 5, where),
        rounds=_positive(data, "rounds", 1, where),
        seed=_typed(data, "seed", int, 1, where),
        sample_s=_duration(data, "sample", 1e-3, where),
        visit_s=_duration(data, "visit", 0.08, where),
        dram_factor=float(_typed(data, "dram_factor", (int, float), 8.0, where)),
        timeout_s=_duration(data, "timeout", 60.0, where),
        text=text,
    )
    studies = _typed(data, "study", list, [], where)
    if not studies:
        raise UsageError(f"{where}: no [[study]]: a sweep needs at least one")
    sweep.study = [check_study(study, f"{where}: study {n}") for n, study in enumerate(studies, 1)]
    requirements = _typed(data, "require", list, [], where)
    for n, table in enumerate(requirements, 1):
        sweep.require += _requirements(table, f"{where}: require {n}")
    return sweep


def check_study(study: Any, where: str) -> dict[str, Any]:
    """One study with every value made a list; ranges expanded. Raises UsageError."""
    if not isinstance(study, dict) or not isinstance(study.get("kernel"), str):
        raise UsageError(f'{where}: a study needs `kernel = "NAME"` (see `pykernels list kernels`)')
    family = registry.family(study["kernel"], where=where)
    checked: dict[str, Any] = {"kernel": family.name}
    for key, value in study.items():
        if key == "kernel":
            continue
        if key not in PLACE_KEYS and key not in family.keys:
            raise unknown("key", key, [*PLACE_KEYS, *family.keys], where=where)
        values = _values(value, f"{where}: {key}")
        _check_choices(family, key, values, where)
        checked[key] = values
    return checked


def _check_choices(family: Family, key: str, values: list[Any], where: str) -> None:
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(value, list) or (key in PLACE_KEYS and not isinstance(value, str) and not number):
            raise UsageError(f"{where}: {key} = {value!r}: expected a text or a number, or a list of them")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{where}: {key} = {value!r}: expected a finite number")
    if key == "backend":
        for value in values:
            registry.backend(str(value), where=where)
    allowed = family.keys[key].choices if key in family.keys else _CHOICES.get(key)
    for value in values:
        if allowed is not None and value not in allowed:
            raise unknown(f"{key} of {family.name}", str(value), [str(choice) for choice in allowed], where=where)
    if key == "isa":
        for value in values:
            if value not in ("best", "all", *ISA_LEVELS):
                raise unknown("ISA level", str(value), ("best", "all", *ISA_LEVELS), where=where)
    if key == "threads":
        for value in values:
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if value not in ("all", "doubling") and not whole:
                raise UsageError(
                    f'{where}: threads = {value!r}: write a whole number of at least 1, "all" or "doubling"'
                )


def _values(value: Any, where: str) -> list[Any]:
    if isinstance(value, dict):
        return _range(value, where)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UsageError(f"{where}: an empty list selects nothing")
    return values


def _range(table: dict[str, Any], where: str) -> list[Any]:
    """{ from, to, per_octave } as whole numbers spaced evenly in the log; other tables pass through as one value."""
    if not {"from", "to"} & table.keys():
        return [table]
    known = {"from", "to", "per_octave"}
    for key in table:
        if key not in known:
            raise unknown("key", key, known, where=where)
    try:
        low, high, per = float(table["from"]), float(table["to"]), float(table.get("per_octave", 1))
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{where}: a range is {{ from = 16, to = 1024, per_octave = 1 }}") from None
    if not 0 < low <= high or per <= 0:
        raise UsageError(f"{where}: from = {low:g}, to = {high:g}, per_octave = {per:g}: needs 0 < from <= to")
    count = round(math.log2(high / low) * per) if high < math.inf and per < math.inf else MOST_VALUES
    if count >= MOST_VALUES or high > 2**62:
        raise UsageError(f"{where}: from = {low:g}, to = {high:g}, per_octave = {per:g}: at most {MOST_VALUES} values, "
                         "and none above 2^62")  # fmt: skip
    points = [low * 2 ** (i / per) for i in range(count + 1)]
    whole = all(float(x).is_integer() for x in (low, high))
    return list(dict.fromkeys(round(x) if whole else x for x in points))


def _requirements(table: Any, where: str) -> list[Requirement]:
    if not isinstance(table, dict) or not isinstance(table.get("case"), str):
        raise UsageError(f'{where}: a requirement needs `case = "PATTERN"` and a bound such as GBps = ">= 180"')
    found = []
    for key, value in table.items():
        if key == "case":
            continue
        if key not in METRICS:
            raise unknown("metric", key, METRICS, where=where)
        bounds = value if isinstance(value, list) else [value]
        found += [Requirement(case=table["case"], metric=key, bound=str(bound)) for bound in bounds]
    if not found:
        raise UsageError(f'{where}: no bound; write for example GBps = ">= 180" (metrics: {", ".join(METRICS)})')
    return found


def _typed(data: dict[str, Any], key: str, kind: Any, default: Any, where: str) -> Any:
    value = data.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        names = kind.__name__ if isinstance(kind, type) else "number"
        raise UsageError(f"{where}: {key} = {value!r}: expected {names}")
    return value


def _positive(data: dict[str, Any], key: str, default: int, where: str) -> int:
    value = _typed(data, key, int, default, where)
    if value < 1:
        raise UsageError(f"{where}: {key} = {value}: expected a whole number of at least 1")
    return int(value)


def _duration(data: dict[str, Any], key: str, default: float, where: str) -> float:
    if key not in data:
        return default
    try:
        seconds = parse_duration(str(data[key]))
    except UsageError as error:
        raise UsageError(f"{where}: {key}: {error.message}") from None
    if seconds <= 0:
        raise UsageError(f"{where}: {key} = {data[key]!r}: expected a duration above zero")
    return seconds
