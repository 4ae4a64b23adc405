"""How long one call truly takes on the simulated machine: its share of bandwidth, compute, latency and rates."""

from __future__ import annotations

import math

from pykernels.backends.simulated.noise import Cheat, Noise, Roofs
from pykernels.machine.placement import cpus_for
from pykernels.model import Case, Machine, Placement


class NoTruth(Exception):
    """The noise file does not say how fast the device does this; the message names the missing key."""


def true_seconds(noise: Noise, case: Case) -> float:
    """Seconds of one undisturbed call. Raises NoTruth."""
    roofs = roofs_of(noise, case.placement.device)
    figure = case.problem.figure()
    if figure.kind == "latency":
        seconds = figure.amount * _level_value(roofs.latency, "latency", noise.machine, case) * 1e-9
    elif figure.kind == "launch":
        seconds = figure.amount * _stated(roofs.launch_us, "launch_us") * 1e-6
    elif figure.kind == "link":
        seconds = figure.amount / (_key(roofs.link, "link", figure.op) * 1e9)
    else:
        seconds = _busy(noise, roofs, case) / roofs.kernel.get(case.problem.kernel, 1.0)
    cheats = noise.cheats(case.id)
    for cheat in cheats:
        if cheat.of_roof:
            seconds = max(_terms(noise, roofs, case)) / cheat.of_roof
        if cheat.zeros > 1 and _zeros(case):
            seconds /= cheat.zeros
    return max(seconds, roofs.launch_us * 1e-6 if case.placement.device.startswith("gpu") else 0.0)


def roofs_of(noise: Noise, device: str) -> Roofs:
    """The roofs of a device; a domain of the CPU (`cpu:l3.0`) has those of `cpu` for its threads."""
    name = device if device.startswith("gpu") else "cpu"
    if name not in noise.devices:
        raise NoTruth(f"no [devices.{name}]")
    return noise.devices[name]


def _busy(noise: Noise, roofs: Roofs, case: Case) -> float:
    """Memory, compute and rate together: a smooth maximum that loses `knee` where two of them are equal."""
    terms = _terms(noise, roofs, case)
    longest = max(terms)
    if roofs.knee <= 0 or longest <= 0:
        return longest
    power = 1 / -math.log2(1 - roofs.knee)
    return float(longest * sum((term / longest) ** power for term in terms) ** (1 / power))


def _terms(noise: Noise, roofs: Roofs, case: Case) -> list[float]:
    """Seconds that memory, arithmetic and, for rates, the op's own limit would each take alone."""
    problem, figure = case.problem, case.problem.figure()
    threads = 1 if case.placement.device.startswith("gpu") else case.placement.threads
    terms = []
    moved = problem.traffic().requested
    # a compute roof's operands stay in registers: its bytes are read once and are not its subject
    if moved and not (figure.ceiling and figure.kind == "compute" and not figure.level):
        terms.append(moved / (_bandwidth(noise.machine, roofs, case, threads) * 1e9))
    flops = problem.flops()
    if flops and (figure.kind == "compute" or problem.dtype in roofs.compute):
        isa = roofs.isa.get(case.implementation.isa, 1.0)
        terms.append(flops / (_key(roofs.compute, "compute", problem.dtype) * isa * threads * 1e9))
    if figure.kind == "rate":
        terms.append(figure.amount / (_key(roofs.rate, "rate", figure.op) * threads * 1e9))
    if not terms:
        raise NoTruth(f"neither bytes nor operations in {case.id}")
    return terms


def _bandwidth(machine: Machine, roofs: Roofs, case: Case, threads: int) -> float:
    """GB/s of the team at the case's level, each level as far as its threads together can go."""
    limits = {level: roofs.together.get(level, math.inf) for level in roofs.bandwidth}
    rates = {level: min(rate * threads, limits[level]) for level, rate in roofs.bandwidth.items()}
    return _level_value(rates, "bandwidth", machine, case) * roofs.op.get(case.problem.figure().op, 1.0)


def _level_value(values: dict[str, float], what: str, machine: Machine, case: Case) -> float:
    """The value of the case's level. A working set from one to two capacities is a mixture, whose parts are as long
    as their shares: its times add up."""
    level = case.problem.figure().level
    if level:
        return _key(values, what, level)
    working_set = case.problem.working_set()
    capacity = capacities(machine, case.placement)
    for inner, outer in zip([*capacity], [*list(capacity)[1:], "DRAM"], strict=True):
        if working_set <= capacity[inner]:
            return _key(values, what, inner)
        if working_set < 2 * capacity[inner]:
            outside = working_set / capacity[inner] - 1
            near, far = _key(values, what, inner), _key(values, what, outer)
            if what == "latency":
                return (1 - outside) * near + outside * far
            return 1 / ((1 - outside) / near + outside / far)
    return _key(values, what, "DRAM")


def capacities(machine: Machine, placement: Placement) -> dict[str, int]:
    """Bytes of each cache level that the placement's team can use together, innermost first."""
    if placement.device.startswith("gpu"):
        gpu = next(gpu for gpu in machine.gpus if f"gpu:{gpu.index}" == placement.device)
        return {"L2": gpu.l2_bytes} if gpu.l2_bytes else {}
    team = set(cpus_for(machine, placement.device, placement.threads))
    found: dict[str, int] = {}
    for cache in sorted(machine.caches, key=lambda cache: cache.level):
        if team.intersection(cache.cpus):
            found[cache.level] = found.get(cache.level, 0) + cache.bytes
    return found


def _key(values: dict[str, float], what: str, key: str) -> float:
    if key not in values:
        raise NoTruth(f'no "{key}" under {what}')
    return values[key]


def _stated(value: float, what: str) -> float:
    if not value:
        raise NoTruth(f"no {what}")
    return value


def _zeros(case: Case) -> bool:
    """True where some operand is filled with nothing but zeros."""
    fills = (operand.recipe for operand in case.problem.operands() if operand.role != "out")
    return any(fill.distribution != "host" and fill.low == 0 == fill.high for fill in fills)


def wrong_after(cheats: list[Cheat]) -> int:
    """The number of calls after which results are wrong; -1: never."""
    return min((cheat.wrong_after for cheat in cheats if cheat.wrong_after >= 0), default=-1)
