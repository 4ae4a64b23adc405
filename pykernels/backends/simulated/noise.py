"""The noise file: which machine is played, how fast it truly is, and what disturbs it.

```toml
simulate = 1                                  # format
seed = 1                                      # other seed, other draws; `sitting` draws the sitting's own offsets
sitting = 0
[machine]                                     # a model.Machine: cores, caches, affinity, isa, gpus, memory_bytes ...
[devices.cpu]                                 # per thread: GB/s by level, GFLOP/s by dtype, ns by level
bandwidth = { L1 = 250, L2 = 120, L3 = 60, DRAM = 25 }
together = { DRAM = 40 }                      # GB/s that all threads cannot pass together
compute = { fp32 = 270, fp64 = 135 }
[noise]                                       # standard deviations of log time, for every case
launch_sd = 0.01
[[noise_of]]                                  # and for some cases other values
cases = "*DRAM*"
launch_sd = 0.045
```
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from pykernels import patterns
from pykernels.errors import UsageError, unknown
from pykernels.model import Machine

if TYPE_CHECKING:
    from pykernels.backends.simulated.player import SimulatedPlayer

FORMAT = 1
#: sittings of one noise file start this far apart; the first at EPOCH_S (Unix time)
SITTING_S = 6 * 3600.0
EPOCH_S = 1_700_000_000.0

_ANY, _POSITIVE, _SHARE, _SD = (-math.inf, math.inf), (1e-12, 1e12), (0.0, 1.0), (0.0, 1.0)


class Law(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What disturbs a case. `*_sd`: standard deviation of the logarithm of the time per call.

    Effects that last a sitting, a launch, or a visit are drawn once for each; samples of a visit are a first-order
    autoregressive series of lag-1 correlation `rho`. `*_share`: how often; `*_mean`: mean of an exponential."""

    sitting_sd: float = 0.0
    launch_sd: float = 0.0
    visit_sd: float = 0.0
    sample_sd: float = 0.0
    rho: float = 0.0
    #: one-sided: this share of visits takes longer by `slow_mean` on average
    slow_share: float = 0.0
    slow_mean: float = 0.05
    #: other processes take a CPU this often per second and thread, for `preempt_s` on average; `preempt_seen` of these
    #: lower the thread's CPU time over wall time and count a switch, the others are stalls that nothing shows
    preempt_hz: float = 0.0
    preempt_s: float = 0.004
    preempt_seen: float = 1.0
    #: share of good samples with a switch that cost nothing
    switch_share: float = 0.0
    #: a second regime: `regime_share` of the launches (visits, or stretches of about 30 samples) take `regime_slower`
    #: times as long
    regime_share: float = 0.0
    regime_slower: float = 2.0
    regime_by: Literal["launch", "visit", "sample"] = "launch"
    #: time per call at the start of a visit against later: `falling` from 1 + size with time constant `warm_samples`,
    #: `rising` from 1 - size, `cyclic` with that period, `drifting` by size every `warm_samples`, without end
    warm_shape: Literal["flat", "falling", "rising", "cyclic", "drifting"] = "flat"
    warm_size: float = 0.05
    warm_samples: float = 20.0

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {
        "sitting_sd": _SD, "launch_sd": _SD, "visit_sd": _SD, "sample_sd": _SD, "rho": (0.0, 0.99),
        "slow_share": _SHARE, "slow_mean": (0.0, 10.0), "preempt_hz": (0.0, 1e4), "preempt_s": (1e-6, 10.0),
        "preempt_seen": _SHARE, "switch_share": _SHARE, "regime_share": _SHARE, "regime_slower": (1.0, 100.0),
        "warm_size": (0.0, 0.9), "warm_samples": (1.0, 1e4),
    }  # fmt: skip


class Roofs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The truth about a device. Rates of one CPU thread, or of a whole GPU: `bandwidth` GB/s by level, `compute`
    GFLOP/s by dtype, `rate` in the figure's unit (Grows/s, Gexp/s) by op; `latency` ns by level, `launch_us` the launch
    floor, `link` GB/s by op.

    `together`: GB/s by level that all threads cannot pass. `op`, `isa`, `kernel`: share of the roof that an operation's
    bandwidth, an ISA level's compute or a whole kernel family reaches (1 where not named). `knee`: share lost where
    memory and compute take equally long, 0 (they overlap wholly) to 0.5 (they add up)."""

    bandwidth: dict[str, float]
    compute: dict[str, float] = {}
    together: dict[str, float] = {}
    latency: dict[str, float] = {}
    rate: dict[str, float] = {}
    link: dict[str, float] = {}
    op: dict[str, float] = {}
    isa: dict[str, float] = {}
    kernel: dict[str, float] = {}
    launch_us: float = 0.0
    knee: float = 0.0

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {
        "bandwidth": _POSITIVE, "compute": _POSITIVE, "together": _POSITIVE, "latency": _POSITIVE, "rate": _POSITIVE,
        "link": _POSITIVE, "op": (1e-6, 10.0), "isa": (1e-6, 10.0), "kernel": (1e-6, 10.0), "launch_us": (0.0, 1e6),
        "knee": (0.0, 0.5),
    }  # fmt: skip


class Timer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The clock that times samples: its step, and the share of samples in which it goes backwards."""

    step_s: float = 0.0
    backward_share: float = 0.0

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {"step_s": (0.0, 10.0), "backward_share": _SHARE}


class CoreClock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The core clock: what is read beside each sample (0: not readable), and its drift, which moves compute and caches
    but not DRAM; `drift_visits` is about the number of visits that a swing lasts."""

    ghz: float = 0.0
    drift_sd: float = 0.0
    drift_visits: float = 100.0

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {
        "ghz": (0.0, 20.0), "drift_sd": _SD, "drift_visits": (1.0, 1e6),
    }  # fmt: skip


class MachineWide(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What moves every case alike: an offset per sitting, an offset per launch, and slow wandering over visits."""

    sitting_sd: float = 0.0
    launch_sd: float = 0.0
    wander_sd: float = 0.0
    wander_visits: float = 30.0

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {
        "sitting_sd": _SD, "launch_sd": _SD, "wander_sd": _SD, "wander_visits": (1.0, 1e6),
    }  # fmt: skip


class Throttle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """After `after_visits` visits of the run every call takes `slower` times as long, for `visits` visits (0: for
    good)."""

    after_visits: int
    slower: float
    visits: int = 0

    def on(self, visit: int) -> bool:
        """Is the visit of that number throttled?"""
        return visit >= self.after_visits and (not self.visits or visit < self.after_visits + self.visits)

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {
        "after_visits": (0, 1e9), "slower": (1.0, 100.0), "visits": (0, 1e9),
    }  # fmt: skip


class Variants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Implementations to choose among: true times differ by `sd` (0: all equal) or by the factor named in `slower`."""

    sd: float = 0.0
    slower: dict[str, float] = {}

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {"sd": _SD, "slower": (0.01, 100.0)}


class Cheat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that cannot be honest, for the cases whose id matches: `zeros` times as fast where an operand holds
    zeros only; `of_roof` times the roof that should bind it; `wrong_after` that many calls the result is wrong."""

    cases: str
    zeros: float = 1.0
    of_roof: float = 0.0
    wrong_after: int = -1

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {
        "zeros": (1.0, 100.0), "of_roof": (0.0, 100.0), "wrong_after": (-1, 1e15),
    }  # fmt: skip


class Noise(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A noise file, checked. `visits_played` and `seconds_played` are where the simulated run stands."""

    simulate: int
    title: str = ""
    seed: int = 1
    sitting: int = 0
    machine: Machine
    devices: dict[str, Roofs]
    noise: Law = Law()
    noise_of: list[dict[str, Any]] = []
    timer: Timer = Timer()
    core_clock: CoreClock = CoreClock()
    machine_wide: MachineWide = MachineWide()
    throttle: Throttle | None = None
    variants: Variants = Variants()
    cheat: list[Cheat] = []

    path: str = "noise"
    visits_played: int = 0
    seconds_played: float = 0.0

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {"seed": (0, 2**31), "sitting": (0, 1e6)}

    def player(self, launch: int) -> SimulatedPlayer:
        """The player of one launch (-1: the tuning pass)."""
        from pykernels.backends.simulated.player import SimulatedPlayer

        return SimulatedPlayer(self, launch)

    def clock(self) -> float:
        """Unix time on the simulated machine."""
        return EPOCH_S + self.sitting * SITTING_S + self.seconds_played

    def law(self, case_id: str) -> Law:
        """The noise of a case: `[noise]` and then every matching `[[noise_of]]`, later ones over earlier ones."""
        law = self.noise
        for table in self.noise_of:
            if patterns.matches(table["cases"], case_id):
                law = msgspec.structs.replace(law, **{k: v for k, v in table.items() if k != "cases"})
        return law

    def cheats(self, case_id: str) -> list[Cheat]:
        """The cheats that match a case."""
        return [cheat for cheat in self.cheat if patterns.matches(cheat.cases, case_id)]


#: what the file may not set
_STATE = ("path", "visits_played", "seconds_played")
_TABLES: dict[str, type[msgspec.Struct]] = {
    "noise": Law, "timer": Timer, "core_clock": CoreClock, "machine_wide": MachineWide, "throttle": Throttle,
    "variants": Variants, "machine": Machine,
}  # fmt: skip


def load_noise(path: Path) -> Noise:
    """Read and check a noise file. Raises UsageError that names the file, the key, its value and what is right."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file; a noise file is TOML") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    return parse_noise(text, where=str(path))


def parse_noise(text: str, *, where: str = "noise") -> Noise:
    """Check the TOML text of a noise file."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not valid TOML: {error}") from None
    if data.get("simulate") != FORMAT or isinstance(data["simulate"], bool):
        raise UsageError(f"{where}: simulate = {data.get('simulate')!r}: the first key must be `simulate = {FORMAT}`")
    _known_keys(data, where)
    noise: Noise = _convert(data, Noise, where, "")
    noise.path = where
    _in_range(noise, where, "")
    noise.noise_of = [_checked_override(table, where, n) for n, table in enumerate(noise.noise_of, 1)]
    for n, cheat in enumerate(noise.cheat, 1):
        _in_range(cheat, where, f"cheat {n}: ")
    for name, roofs in noise.devices.items():
        _in_range(roofs, where, f"devices.{name}.")
    _check_machine(noise, where)
    return noise


def _known_keys(data: dict[str, Any], where: str) -> None:
    _only(data, [name for name in Noise.__struct_fields__ if name not in _STATE], where)
    for key, kind in _TABLES.items():
        if isinstance(data.get(key), dict):
            _only(data[key], kind.__struct_fields__, f"{where}: [{key}]")
    for key in ("machine", "devices"):
        if not isinstance(data.get(key), dict) or not data[key]:
            raise UsageError(f"{where}: no [{key}]: a noise file names the machine it plays and its devices' roofs")
    for name, table in data["devices"].items():
        if isinstance(table, dict):
            _only(table, Roofs.__struct_fields__, f"{where}: [devices.{name}]")
    for n, table in enumerate(_tables(data, "cheat"), 1):
        _only(table, Cheat.__struct_fields__, f"{where}: cheat {n}")
    for n, table in enumerate(_tables(data, "noise_of"), 1):
        _only(table, ["cases", *Law.__struct_fields__], f"{where}: noise_of {n}")


def _tables(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = data.get(key, [])
    return [table for table in found if isinstance(table, dict)] if isinstance(found, list) else []


def _only(table: dict[str, Any], known: Any, where: str) -> None:
    for key in table:
        if key not in known:
            raise unknown("key", key, known, where=where)


def _convert(data: Any, kind: Any, where: str, prefix: str) -> Any:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        what, _, at = str(error).partition(" - at `$")
        keys = at.rstrip("`").lstrip(".")
        reason = what[0].lower() + what[1:].replace("`", "")
        raise UsageError(f"{where}: {prefix}{_named(data, keys)}: {reason}") from None


def _named(data: Any, keys: str) -> str:
    """`noise.rho = "x"` for a path such as `noise.rho` or `cheat[0].zeros`; the path alone where it leads nowhere."""
    value = data
    for key in keys.replace("[...]", "").replace("[", ".").replace("]", "").split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, ValueError, TypeError):
            return keys or "the file"
    return f"{keys} = {value!r}" if not isinstance(value, dict | list) else keys


def _in_range(struct: Any, where: str, prefix: str) -> None:
    """Every number of the struct, of its sub-structs and of its tables of numbers lies in its range."""
    for name, (low, high) in getattr(type(struct), "RANGES", {}).items():
        value = getattr(struct, name)
        entries = {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
        for key, number in entries.items():
            if not low <= number <= high:
                raise UsageError(f"{where}: {prefix}{key} = {number:g}: expected {low:g} to {high:g}")
    for name in _TABLES:
        inner = getattr(struct, name, None) if isinstance(struct, Noise) else None
        if inner is not None:
            _in_range(inner, where, f"{name}.")


def _checked_override(table: dict[str, Any], where: str, n: int) -> dict[str, Any]:
    if not isinstance(table.get("cases"), str):
        raise UsageError(f'{where}: noise_of {n}: needs `cases = "PATTERN"` over case ids, such as "*DRAM*"')
    values = {key: value for key, value in table.items() if key != "cases"}
    law = _convert(values, Law, where, f"noise_of {n}: ")
    _in_range(law, where, f"noise_of {n}: ")
    return {"cases": table["cases"]} | {key: getattr(law, key) for key in values}


def _check_machine(noise: Noise, where: str) -> None:
    machine = noise.machine
    known = ["cpu", *(f"gpu:{gpu.index}" for gpu in machine.gpus)]
    for name in noise.devices:
        if name not in known:
            raise unknown("device", name, known, where=f"{where}: devices")
    if not machine.cores:
        raise UsageError(f"{where}: machine.cores is empty: write for example cores = [{{ id = 0, cpus = [0] }}]")
    cpus = {cpu for core in machine.cores for cpu in core.cpus}
    if not machine.affinity:
        noise.machine = msgspec.structs.replace(machine, affinity=tuple(sorted(cpus)))
    elif not set(machine.affinity) <= cpus:
        lost = sorted(set(machine.affinity) - cpus)
        raise UsageError(f"{where}: machine.affinity names CPU {lost[0]}, which no core of the machine has")
