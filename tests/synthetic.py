"""Runs of known truth for tests: roofs plus noise in, `store.Run` out. Noise is on the logarithm of the rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pykernels.model import Cache, Conditions, Core, Figure, Header, Machine, Measured, Outcome, Record, short_hash
from pykernels.store import Run
from pykernels.units import value_of

KIB, MIB = 1024, 1024**2


def machine(cores: int = 2, l3: int = 32 * MIB, name: str = "synthetic") -> Machine:
    """One socket, one L3 domain, 32 KiB / 1 MiB / 32 MiB caches."""
    cpus = tuple(range(cores))
    private = [Cache(level, size, (cpu,)) for cpu in cpus for level, size in (("L1", 32 * KIB), ("L2", MIB))]
    return Machine(
        id=name,
        arch="x86_64",
        cpu_model="Synthetic CPU",
        isa=("x86_64_v2", "x86_64_v3", "x86_64_v4"),
        cores=tuple(Core(cpu, (cpu,)) for cpu in cpus),
        caches=(*private, Cache("L3", l3, cpus)),
        affinity=cpus,
        memory_bytes=16 * 1024**3,
    )


@dataclass
class Spec:
    """One case: what it is, and its true value in the figure's unit."""

    kernel: str
    params: dict[str, str]
    figure: Figure
    truth: float
    dtype: str = "fp32"
    isa: str = "x86_64_v4"
    threads: int = 1
    device: str = "cpu"
    backend: str = "native"
    flops: float = 0.0
    bytes: float = 0.0
    working_set: int = 16 * KIB
    clock_ghz: float = 0.0
    variant: str = "plain"
    allocated: float = 0.0  # bytes that stores read first
    background: float = 0.0  # GB/s that other threads move meanwhile
    outcome: Outcome | None = None  # instead of timings

    @property
    def case_id(self) -> str:
        inner = ",".join([*(f"{key}={value}" for key, value in self.params.items()), self.dtype])
        return f"{self.kernel}[{inner}] {self.backend}:{self.isa} @{self.device}*{self.threads}"


@dataclass
class Noise:
    """Standard deviations on the log scale; `rho` is the lag-1 correlation of a visit's samples."""

    launch: float = 0.0
    visit: float = 0.0
    sample: float = 0.0
    rho: float = 0.0
    shared_launch: float = 0.0  # moves every case of a launch alike
    contended: float = 0.0  # share of samples at half speed with cpu_over_wall 0.5
    seed: int = 0
    sitting: dict[str, float] = field(default_factory=dict)


WORKING_SET = {"L1": 16 * KIB, "L2": 384 * KIB, "L3": 4 * MIB, "DRAM": 256 * MIB}
BANDWIDTH = {"L1": 500.0, "L2": 240.0, "L3": 110.0, "DRAM": 40.0}


def bandwidth(level: str, truth: float, op: str = "load", threads: int = 1, **more: object) -> Spec:
    """A `stream` ceiling."""
    size = WORKING_SET[level] * (threads if level != "DRAM" else 1)
    figure = Figure("bandwidth", "GB/s", float(size), ceiling=True, level=level, op=op)
    spec = Spec("stream", {"op": op, "level": level}, figure, truth, threads=threads, bytes=size, working_set=size)
    return _with(spec, more)


def compute(truth: float, dtype: str = "fp32", op: str = "fma", threads: int = 1, **more: object) -> Spec:
    """An `fma` ceiling."""
    figure = Figure("compute", "GOP/s" if "int" in dtype else "GFLOP/s", 1e9, ceiling=True, op=op)
    return _with(Spec("fma", {"op": op}, figure, truth, dtype=dtype, threads=threads, flops=1e9, working_set=KIB), more)


def kernel(name: str, truth: float, intensity: float, dtype: str = "fp32", level: str = "DRAM", **more: object) -> Spec:
    """A kernel that is no ceiling, in GFLOP/s, at a FLOP/byte and with its working set in a level."""
    figure = Figure("compute", "GFLOP/s", 1e9, level=level)
    spec = Spec(name, {}, figure, truth, dtype=dtype, flops=1e9, bytes=1e9 / intensity, working_set=WORKING_SET[level])
    return _with(spec, more)


def mixed(level: str, intensity: float, truth: float, dtype: str = "fp32", **more: object) -> Spec:
    """A point of the intensity sweep, in GFLOP/s."""
    figure = Figure("compute", "GFLOP/s", 1e6, level=level, op="mixed")
    params = {"intensity": f"{intensity:g}", "level": level}
    spec = Spec("mixed", params, figure, truth, dtype=dtype, flops=1e6, bytes=1e6 / intensity)
    return _with(spec, {"working_set": WORKING_SET[level]} | more)


def sized(kernel: str, size: int, truth: float, **more: object) -> Spec:
    """A point of a working-set sweep: `stream` (GB/s) or `chase` (ns)."""
    text = f"{size // KIB} KiB"
    if kernel == "chase":
        figure, params = Figure("latency", "ns", 1e4, op="chase"), {"size": text}
    else:
        figure, params = Figure("bandwidth", "GB/s", float(size), op="load"), {"op": "load", "size": text}
    return _with(Spec(kernel, params, figure, truth, working_set=size, bytes=size), more)


def loaded(read: int, background: float, truth: float, threads: int = 2) -> Spec:
    """Latency (ns) beside so much traffic (GB/s)."""
    figure = Figure("latency", "ns", 1e4, level="DRAM", op=f"loaded {read}")
    params = {"read": str(read), "pause": f"{background:g}", "level": "DRAM"}
    return Spec("loaded", params, figure, truth, dtype="int64", threads=threads, background=background)


def _with(spec: Spec, more: dict[str, object]) -> Spec:
    for key, value in more.items():
        setattr(spec, key, value)
    return spec


def run(
    specs: Iterable[Spec],
    *,
    launches: int = 5,
    rounds: int = 1,
    samples: int = 20,
    noise: Noise | None = None,
    path: str = "synthetic.jsonl",
    started: float = 1_700_000_000.0,
    on: Machine | None = None,
    offset: float = 0.0,
) -> Run:
    """Measure the specs on a pretended machine, in random order within rounds. `offset` moves all log rates."""
    noise = noise or Noise()
    specs = list(specs)
    rng = np.random.default_rng(noise.seed)
    records: list[Record] = []
    clock = started
    for launch in range(launches):
        shared = offset + noise.shared_launch * rng.standard_normal()
        effects = shared + noise.launch * rng.standard_normal(len(specs))
        for round_ in range(rounds):
            for index in rng.permutation(len(specs)):
                log_rate = effects[index] + noise.visit * rng.standard_normal()
                outcome = specs[index].outcome or _timings(specs[index], log_rate, samples, noise, rng)
                clock += 0.1
                records.append(_record(specs[index], launch, round_, clock, outcome))
    header = Header(
        machine=on or machine(), started=_iso(started), sweep_name="synthetic", launches=launches, rounds=rounds
    )
    return Run(path=path, header=header, tunings=[], records=records)


def _timings(spec: Spec, log_rate: float, samples: int, noise: Noise, rng: np.random.Generator) -> Measured:
    seconds = 1 / value_of(spec.figure.unit, spec.figure.amount, 1.0) / spec.truth
    if spec.figure.unit in ("ns", "us"):
        seconds = spec.truth / value_of(spec.figure.unit, spec.figure.amount, 1.0)
    logs = ar1(rng, samples, noise.sample, noise.rho)
    times = np.exp(-log_rate + logs) / (1 / seconds) if spec.figure.unit in ("ns", "us") else np.exp(logs - log_rate)
    if spec.figure.unit not in ("ns", "us"):
        times = times * value_of(spec.figure.unit, spec.figure.amount, 1.0) / spec.truth
    held_up = rng.random(samples) < noise.contended
    return Measured(
        samples_s=np.where(held_up, 2 * times, times).tolist(),
        cpu_over_wall=np.where(held_up, 0.5, 1.0).tolist(),
        involuntary_switches=held_up.astype(int).tolist(),
        clock_ghz=[spec.clock_ghz] * samples if spec.clock_ghz else [],
        stop="max_samples",
    )


def ar1(rng: np.random.Generator, count: int, sd: float, rho: float) -> np.ndarray:
    """A stationary first-order autoregressive series of standard deviation sd."""
    shocks = rng.standard_normal(count) * sd * np.sqrt(1 - rho**2)
    series = np.empty(count)
    level = rng.standard_normal() * sd
    for index in range(count):
        level = rho * level + shocks[index] if rho else shocks[index]
        series[index] = level
    return series


def _record(spec: Spec, launch: int, round_: int, started: float, outcome: Outcome) -> Record:
    return Record(
        case_id=spec.case_id, case=short_hash(spec.case_id), kernel=spec.kernel, params=spec.params, dtype=spec.dtype,
        backend=spec.backend, isa=spec.isa, variant=spec.variant, device=spec.device, threads=spec.threads,
        launch=launch, round=round_, started=started, wall_s=0.1, figure=spec.figure, flops=spec.flops,
        bytes_requested=spec.bytes, bytes_compulsory=spec.bytes, bytes_write_allocate=spec.allocated,
        working_set=spec.working_set, outcome=outcome,
        conditions=Conditions(facts={"background_GBps": spec.background} if spec.background else {}),
    )  # fmt: skip


def _iso(started: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds")


def typical(threads: Sequence[int] = (1, 2), **more: object) -> list[Spec]:
    """Load and copy per level, fma fp32 and fp64: what the quick sweep measures."""
    specs = []
    for count in threads:
        for level, rate in BANDWIDTH.items():
            scale = count if level != "DRAM" else 1 + 0.2 * (count - 1)
            specs += [
                bandwidth(level, rate * scale, threads=count),
                bandwidth(level, 0.9 * rate * scale, "copy", count),
            ]
        specs += [compute(270.0 * count, threads=count), compute(135.0 * count, "fp64", threads=count)]
    return [_with(spec, dict(more)) for spec in specs]
