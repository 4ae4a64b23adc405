"""From a sweep and a machine to the list of cases, with what is skipped, what is dropped, and how long it will take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import msgspec

from pykernels import patterns, registry
from pykernels.errors import UsageError
from pykernels.machine.placement import MEMORY_SHARE, NoSuchLevel, cpus_for, devices, space_for, threads_default
from pykernels.model import Case, Family, Implementation, Machine, Placement, Problem, Skipped, Space
from pykernels.sweep import PLACE_KEYS, Sweep
from pykernels.units import DTYPE_BYTES, format_size


class Costs(msgspec.Struct, frozen=True):
    """What a plan expects of a device: seconds of a worker's start, of a visit beside its samples, of preparing a
    candidate of the tuning pass, bytes per second of fill and check, and of a pass, and FLOP per second of a pass
    (a CPU's: of a thread)."""

    worker_s: float
    visit_s: float
    tune_s: float
    prepare_bps: float
    pass_bps: float
    pass_flops: float


#: of CPUs as measured on small servers; of GPUs assumed, until one is at hand: libraries of arrays fill on the host,
#: and what crosses the link is slower than what does not
CPU = Costs(0.35, 0.03, 0.02, 2e9, 8e9, 1e11)
GPU = Costs(3.0, 0.12, 0.1, 2e10, 1e12, 1e13)
GPU_ARRAYS = Costs(3.0, 0.2, 0.1, 1e9, 1e12, 1e13)
LINK_BPS = 1e10
#: bytes per second of inputs that NumPy computes (index streams, and their statistics)
HOST_BPS = 25e6
#: 5,000 requests in a closed loop, or that and Poisson arrivals at rising loads; slower calls are left out at once
REQUESTS, REQUESTS_S = {"closed": 5_000, "open": 55_000}, {"closed": 2.0, "open": 22.0}


class Plan(msgspec.Struct, kw_only=True):
    """What a run will do. `skipped` cases cannot run here, `dropped` ones did not fit the budget, `absent` says which
    values of the sweep name something this machine does not have (an L3), so that they are no case at all."""

    sweep: Sweep
    machine: Machine
    cases: list[Case]
    skipped: list[tuple[Case, Skipped]] = []
    dropped: list[tuple[Case, str]] = []
    absent: list[str] = []
    filter: str = ""

    def estimate_s(self) -> float:
        """Seconds the whole plan is expected to take."""
        shared: dict[tuple[Placement, str], int] = {}  # of each worker: filled once, lent to all
        starts: dict[tuple[Placement, str], float] = {}
        for case in self.cases:
            place, costs = registry.worker_of(case), costs_of(case)
            shared[place] = max(shared.get(place, 0), _shared_bytes(case))
            starts[place] = costs.worker_s + shared[place] / costs.prepare_bps
        each = sum(starts.values())
        return each * (self.sweep.launches + 1) + sum(case_seconds(case, self.sweep) for case in self.cases)

    def visits(self) -> list[tuple[int, int, Case]]:
        """(launch, round, case) in the order of the run: every case once a round, in seeded random order."""
        import random

        order: list[tuple[int, int, Case]] = []
        for launch in range(self.sweep.launches):
            for round_ in range(self.sweep.rounds):
                cases = list(self.cases)
                random.Random(f"{self.sweep.seed}/{launch}/{round_}").shuffle(cases)
                order += [(launch, round_, case) for case in cases]
        return order


def case_seconds(case: Case, sweep: Sweep) -> float:
    """Expected seconds of all visits of a case, its tuning pass included."""
    operands, costs = case.problem.operands(), costs_of(case)
    nbytes = case.problem.working_set() - _shared_bytes(case)
    host = sum(math.prod(o.shape) * DTYPE_BYTES[o.dtype] for o in operands if o.recipe.distribution == "host")
    prepare = nbytes / costs.prepare_bps + host / HOST_BPS
    threads = 1 if case.placement.device.startswith("gpu") else case.placement.threads
    figure = case.problem.figure()  # ceilings are short whatever they count
    flops = case.problem.flops() if figure.kind == "compute" and not figure.ceiling else 0.0
    one_pass = max(case.problem.traffic().requested / costs.pass_bps, flops / (costs.pass_flops * threads))
    visit = costs.visit_s + prepare + max(sweep.visit_s / 2, 12 * one_pass)
    visit += {"sustained": 1.0, "burst": 0.3}.get(case.placement.mode, 0.0)
    if mode := REQUESTS.get(case.placement.mode):
        requests = mode * max(one_pass, 5e-6)
        visit += requests if requests < REQUESTS_S[case.placement.mode] else 0.0
    tune = 0.0
    if not case.implementation.variant:
        backend = registry.backend(case.implementation.backend)
        candidates = len(backend.variants(case))
        tune = (candidates * max(costs.tune_s, 12 * one_pass) + prepare) if candidates > 1 else 0.0
    return tune + visit * sweep.launches * sweep.rounds


def costs_of(case: Case) -> Costs:
    """What a case's device and backend are expected to cost."""
    placement = case.placement
    if not placement.device.startswith("gpu"):
        return CPU
    crosses = placement.memory or placement.ends not in ("", "G0") or case.problem.figure().level == "link"
    costs = GPU if case.implementation.backend == "cuda" else GPU_ARRAYS
    return msgspec.structs.replace(costs, pass_bps=LINK_BPS) if crosses else costs


def _shared_bytes(case: Case) -> int:
    """Bytes that a CPU's worker fills once for all its cases; a GPU fills in no time."""
    if case.placement.device.startswith("gpu"):
        return 0
    return int(sum(math.prod(o.shape) * DTYPE_BYTES[o.dtype] for o in case.problem.operands() if o.shared))


def make_plan(sweep: Sweep, machine: Machine, *, k: str = "", can_run_all: bool = False) -> Plan:
    """Expand the sweep's studies for this machine. `k` filters ids; `can_run_all` (replay, simulation) asks no backend
    whether the case can run here. Raises UsageError where the sweep asks for what no machine of this kind can do."""
    plan = Plan(sweep=sweep, machine=machine, cases=[], filter=k)
    found: dict[str, tuple[Case, Skipped | None]] = {}
    for n, study in enumerate(sweep.study, 1):
        for case in _expand(study, plan, f"{sweep.where}: study {n}"):
            if case.id not in found:
                found[case.id] = (case, None if can_run_all else why_not(case, machine))
    chosen = patterns.select(k, list(found)) if k else list(found)
    if k and not chosen:
        raise UsageError(f'-k "{k}" selects none of the {len(found)} cases of {sweep.name} (see --dry-run)')
    for case_id in chosen:
        case, skipped = found[case_id]
        if skipped:
            plan.skipped.append((case, skipped))
        else:
            plan.cases.append(case)
    fit_budget(plan)
    return plan


def _expand(study: dict[str, Any], plan: Plan, where: str) -> Iterator[Case]:
    """Every case of a study: placements x problems x implementations."""
    family = registry.family(study["kernel"], where=where)
    keys = family.keys.items()
    values = {key: study.get(key, list(spec.default)) for key, spec in keys if key in study or spec.default}
    for placement in _placements(study, plan, where):
        implementations = _implementations(study, placement, plan.machine)
        space = space_for(plan.machine, placement.device, placement.threads, dram_factor=plan.sweep.dram_factor)
        for combination in _products(values):
            problem = _problem(family, combination, space, where, plan)
            if problem is not None:
                for implementation in implementations:
                    yield Case(problem=problem, implementation=implementation, placement=placement)


def _problem(family: Family, values: dict[str, Any], space: Space, where: str, plan: Plan) -> Problem | None:
    try:
        problem = family.build(values, space)
        problem.operands(), problem.traffic(), problem.working_set()  # what cannot be sized is refused here
        return problem
    except NoSuchLevel as error:
        if error.message not in plan.absent:
            plan.absent.append(error.message)
        return None
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from None
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
        asked = ", ".join(
            f"{key} = {value!r}" for key, value in values.items() if value not in family.keys[key].default
        )
        why = f"{type(error).__name__}: {error}".rstrip(": ")
        raise UsageError(f"{where}: {family.name} cannot be built with {asked or 'its defaults'} ({why})") from error


def why_not(case: Case, machine: Machine) -> Skipped | None:
    """The backend's reason not to run a case on this machine, that it has no such variant, or too little memory."""
    backend = registry.backend(case.implementation.backend)
    reason = backend.skip(case, machine) or _beyond_memory(case, machine)
    if reason:
        return reason
    known = backend.variants(case)
    if not known:
        return Skipped(reason=f"{backend.name} has no {case.problem.kernel} in {case.problem.dtype}")
    wanted = case.implementation.variant
    if wanted and wanted not in known:
        return Skipped(reason=f'{backend.name} has no variant "{wanted}" of it', hint=f"variants: {', '.join(known)}")
    return None


def _beyond_memory(case: Case, machine: Machine) -> Skipped | None:
    """A CPU's case whose operands, say a cache of keys or a model's weights, do not fit."""
    if case.placement.device.startswith("gpu") or not machine.memory_available:
        return None
    wanted = int(sum(math.prod(o.shape) * DTYPE_BYTES[o.dtype] for o in case.problem.operands()))
    if wanted <= (limit := int(MEMORY_SHARE * machine.memory_available)):
        return None
    share = f"{MEMORY_SHARE:.0%} of the available memory ({format_size(limit)})"
    return Skipped(reason=f"operands of {format_size(wanted)} are more than {share}")


def _placements(study: dict[str, Any], plan: Plan, where: str) -> list[Placement]:
    machine = plan.machine
    fields = {
        "device": [device for name in study.get("on", ["cpu"]) for device in _devices(str(name), plan)],
        "threads": _teams(study.get("threads", ["all"])),
        **{field: study[key] for field, key in _PLACE_FIELDS.items() if key in study},
    }
    placements = []
    for values in _products(fields):
        device = str(values["device"])
        if str(values.get("ends", ""))[:1] == ("C" if device.startswith("gpu") else "G"):
            continue  # a study may name the ends of both sides: each device has its own
        if not device.startswith("gpu"):
            values.pop("launch", None)
        try:
            if device.startswith("gpu"):
                values["threads"] = 1
            elif values["threads"] == "all":
                values["threads"] = threads_default(machine, device)
            elif isinstance(values["threads"], str):  # a power of two, of those below all
                power = int(values["threads"])
                if power >= threads_default(machine, device):
                    continue
                values["threads"] = power
            else:
                cpus_for(machine, device, int(values["threads"]))  # raises where there are not that many
            if "memory" in values:
                values["memory"] = str(values["memory"])
        except UsageError as error:
            raise UsageError(f"{where}: {error.message}", hint=error.hint) from None
        placements.append(Placement(**values))
    return list(dict.fromkeys(placements))


def _teams(threads: list[Any]) -> list[Any]:
    """Thread counts, "doubling" as 1, 2, 4, ... (as text: as far as the device goes) and all."""
    if "doubling" not in threads:
        return threads
    return list(dict.fromkeys([str(2**k) for k in range(12)] + ["all"] + [n for n in threads if n != "doubling"]))


_PLACE_FIELDS = {"pages": "pages", "memory": "memory", "mode": "timing", "launch": "launch", "ends": "ends"}
assert set(_PLACE_FIELDS.values()) <= set(PLACE_KEYS)


#: all devices of a kind -> how their names begin
_PLURALS = {"nodes": "cpu:", "l3s": "cpu:l3.", "sockets": "cpu:socket.", "gpus": "gpu:"}


def _devices(name: str, plan: Plan) -> list[str]:
    """The device itself, or every device of this machine that a plural stands for; none of them is noted."""
    if name not in _PLURALS:
        return [name]
    known = [device for device in devices(plan.machine) if device.rstrip("0123456789") == _PLURALS[name]]
    note = f'on = "{name}": this machine shows none'
    if not known and note not in plan.absent:
        plan.absent.append(note)
    return known


def _implementations(study: dict[str, Any], placement: Placement, machine: Machine) -> list[Implementation]:
    """Implementations of a study for a placement: those backends that run on such a device, by default its own one."""
    kind = "gpu" if placement.device.startswith("gpu") else "cpu"
    found = []
    for name in study.get("backend", ["cuda" if kind == "gpu" else "native"]):
        if kind not in getattr(registry.backend(name), "kinds", ("cpu",)):
            continue
        levels = registry.backend(name).isas(machine)
        for isa in _isas(study.get("isa", ["best"]), levels):
            found += [Implementation(backend=name, isa=isa, variant=v) for v in study.get("variant", [""])]
    return list(dict.fromkeys(found))


def _isas(wanted: list[Any], levels: tuple[str, ...]) -> list[str]:
    if not levels:
        return [""]
    names: list[str] = []
    for value in wanted:
        names += {"best": [levels[-1]], "all": list(levels)}.get(str(value), [str(value)])
    return names


def _products(keys: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*keys.values())]


def fit_budget(plan: Plan) -> None:
    """Drop the least informative cases until the estimate fits the budget: kernels off the best ISA first, then
    kernels, then roofs off the best ISA; within a rank the slowest first. The roofs of the best ISA go last of all."""
    over = plan.estimate_s() - plan.sweep.budget_s
    if over <= 0:
        return
    best = {name: backend.isas(plan.machine)[-1:] for name, backend in registry.backends().items()}

    def keep_rank(case: Case) -> int:
        off_best = case.implementation.isa not in ("", *best[case.implementation.backend])
        return (0 if case.problem.figure().ceiling else 2) + (1 if off_best else 0)

    for case in sorted(plan.cases, key=lambda c: (-keep_rank(c), -case_seconds(c, plan.sweep))):
        if over <= 0 or len(plan.cases) == 1:
            break
        over -= case_seconds(case, plan.sweep)
        plan.cases.remove(case)
        plan.dropped.append((case, f"over the budget of {plan.sweep.budget_s:.0f} s"))
