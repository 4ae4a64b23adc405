"""The nouns: problem (what), implementation (how), placement (where), case, record. Imports nothing of the package
but the units and errors, and not NumPy at run time.

One id everywhere: `kernel[param=value,...,dtype] backend:isa/variant @device*threads{options}`, defaults omitted. It is
the pytest id, the `-k` filter, the record key and the compare key; a failure prints `short_hash` of it to rerun.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Union

import msgspec

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 1

#: Names of the ISA levels, in rising order within each architecture.
ISA_LEVELS = (
    "baseline", "x86_64_v2", "x86_64_v3", "x86_64_v4", "x86_64_v4_vnni", "x86_64_v4_bf16", "amx",
    "neon", "neon_dot", "sve256",
)  # fmt: skip

Kind = Literal["bandwidth", "compute", "latency", "rate", "link", "launch"]
Role = Literal["in", "out", "inout"]


# ---------------------------------------------------------------------------------------------------------------- what


class Recipe(msgspec.Struct, frozen=True):
    """How an operand is filled: a distribution over a counter-based generator (element i depends on seed and i only).

    `uniform`: floating point in [low, high); `integers`: whole numbers in [low, high). `quantized`: rows of random
    bytes that end in fp32 scale and bias (`random.write_row_tails`). `cycle`: int64 (blocks, rows, words), in each
    block one random cycle through its rows (`kernels/cycle.py`); every word of a row is the next row's index or, on the
    native backend, its address. `host`: Problem.host_input(name) computes it with NumPy (index streams, offsets).
    The generator is in `kernels/random.py` and `csrc/cpu/random.h`.
    """

    distribution: Literal["uniform", "integers", "quantized", "cycle", "host"] = "uniform"
    seed: int = 0
    low: float = 0.5
    high: float = 1.5


class Operand(msgspec.Struct, frozen=True):
    """One array of a call. `dtype` is its storage type (bf16 travels as 16-bit patterns, int4 as packed bytes).

    `shared`: an input that a worker may fill once at its largest and lend to every problem of the same dtype and
    recipe, since element i depends on the recipe and i only (lookup tables of gigabytes)."""

    name: str
    role: Role
    shape: tuple[int, ...]
    dtype: str
    recipe: Recipe = Recipe()
    shared: bool = False


class Traffic(msgspec.Struct, frozen=True):
    """Bytes one call moves. `requested`: what its loads and stores ask for; `compulsory`: each distinct byte once;
    `write_allocate`: the lines ordinary stores read first, derived, never measured here."""

    requested: float
    compulsory: float
    write_allocate: float = 0.0
    by_operand: dict[str, float] = {}


class Figure(msgspec.Struct, frozen=True):
    """What a case's headline number is: `amount` per call in the unit's base (bytes, FLOP, rows, steps, launches).

    `ceiling` says that the case draws a roof; `op` and `level` name that roof."""

    kind: Kind
    unit: str
    amount: float
    ceiling: bool = False
    level: str = ""
    op: str = ""


class Tolerance(msgspec.Struct, frozen=True):
    """|result - reference| <= absolute + relative * |reference|, elementwise; the derivation is the problem's."""

    relative: float = 0.0
    absolute: float = 0.0


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """WHAT is computed: one frozen subclass per kernel family. It knows no device, no backend and no thread count."""

    kernel: ClassVar[str] = ""
    #: parameters that the id leaves out when they have this value
    defaults: ClassVar[Mapping[str, Any]] = {}

    dtype: str
    #: parameters as the user wrote them ("8 L3"), which stand in the id instead of the bytes they came to
    symbols: dict[str, str] = {}

    def params(self) -> dict[str, str]:
        """Parameters of the id in order, without dtype, numbers that a symbol stands for, and defaults."""
        raise NotImplementedError

    def entry(self) -> tuple[str, str, str]:
        """(kernel, op, dtype) under which native libraries list the implementations."""
        return (self.kernel, "", self.dtype)

    def operands(self) -> tuple[Operand, ...]:
        """Arrays of a call, in the order of the native entry's pointers."""
        raise NotImplementedError

    def dims(self) -> tuple[int, ...]:
        """Integers of the native entry, in the order its source file states."""
        raise NotImplementedError

    def scalars(self) -> tuple[float, ...]:
        """Floating-point arguments of the native entry."""
        return ()

    def flops(self) -> float:
        """Arithmetic operations of one call (an FMA is 2)."""
        raise NotImplementedError

    def traffic(self) -> Traffic:
        """Bytes of one call."""
        raise NotImplementedError

    def figure(self) -> Figure:
        """The headline number of this problem."""
        raise NotImplementedError

    def working_set(self) -> int:
        """Bytes of all operands."""
        raise NotImplementedError

    def host_input(self, name: str) -> np.ndarray[Any, Any]:
        """Contents of an operand whose recipe is `host`."""
        raise NotImplementedError(name)

    def reference(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], rows: np.ndarray[Any, Any] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Expected outputs in float64 or exact integers; with `rows`, only these rows of each output's first axis."""
        raise NotImplementedError

    def observed(
        self, outputs: Mapping[str, np.ndarray[Any, Any]], rows: np.ndarray[Any, Any] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """What of the outputs is compared with `reference`, widened to float64 or int64."""
        raise NotImplementedError

    def tolerance(self) -> Tolerance:
        """Bound on the error, derived from dtype and length."""
        raise NotImplementedError

    def cover(self) -> int:
        """Calls after which every output has been written (passes may rotate over parts of the operands)."""
        return 1

    def about(self) -> dict[str, Any]:
        """What of the problem a record keeps beside its parameters (statistics of its indices, byte counts)."""
        return {}

    def measured(self, outputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, float]:
        """What a record keeps of the outputs that timed calls left (a background rate): numbers by name. A backend
        gives the median over the visit's batches of samples."""
        return {}

    def small(self) -> Problem:
        """The same problem at a shape whose full output can be checked in milliseconds."""
        return self


class Space(Protocol):
    """Sizes of the placement a problem is built for: what relative sizes ("0.4 L2", "25% memory") refer to."""

    threads: int
    #: levels of which each thread (of a GPU: multiprocessor) has its own
    private: tuple[str, ...]

    def level_bytes(self, level: str) -> int:
        """Working set, over all threads, that lies well inside `level` (for DRAM: far outside the caches)."""
        ...

    def size(self, text: str) -> int:
        """Bytes of "64 MiB", "0.4 L2", "4 L3" (per domain) or "25% memory"."""
        ...


class Key(msgspec.Struct, frozen=True):
    """One sweep key of a family: allowed values (None: free), default values, and a line of help."""

    help: str
    choices: tuple[Any, ...] | None = None
    default: tuple[Any, ...] = ()


class Family(msgspec.Struct, frozen=True):
    """A kernel family: its problem type, its sweep keys, and how a combination of key values becomes a problem."""

    name: str
    help: str
    problem: type[Problem]
    keys: dict[str, Key]
    build: Callable[[Mapping[str, Any], Space], Problem]


# ----------------------------------------------------------------------------------------------------------------- how


class Implementation(msgspec.Struct, frozen=True):
    """HOW: backend, ISA level ("" where none is chosen), and variant ("" means: chosen in the tuning pass)."""

    backend: str
    isa: str = ""
    variant: str = ""

    def __str__(self) -> str:
        isa = f":{self.isa}" if self.isa else ""
        return f"{self.backend}{isa}" + (f"/{self.variant}" if self.variant else "")


# --------------------------------------------------------------------------------------------------------------- where


class Placement(msgspec.Struct, frozen=True):
    """WHERE: `cpu` (whole machine), `cpu:N` (NUMA node N), `cpu:l3.N`, `cpu:socket.N`, `cpu:core.N`, or `gpu:N`;
    threads (one per physical core first); pages (`huge`, `4k`); memory (NUMA node, "" is local); mode and launch path
    on GPUs; ends (C0, C1, G0..G5) of lookups."""

    device: str = "cpu"
    threads: int = 1
    pages: str = "huge"
    memory: str = ""
    mode: str = ""
    launch: str = ""
    ends: str = ""

    def __str__(self) -> str:
        options = [] if self.pages == "huge" else [self.pages]
        options += [f"memory={self.memory}"] if self.memory else []
        options += [text for text in (self.mode, self.launch, self.ends) if text]
        team = "" if self.device.startswith("gpu") else f"*{self.threads}"
        return f"@{self.device}{team}" + ("{" + ",".join(options) + "}" if options else "")


class Case(msgspec.Struct, frozen=True):
    """Problem x Implementation x Placement: one thing to measure."""

    problem: Problem
    implementation: Implementation
    placement: Placement

    @property
    def id(self) -> str:
        """The case's id; a pure function of the case, pinned by a test."""
        params = [f"{key}={value}" for key, value in self.problem.params().items()]
        return (
            f"{self.problem.kernel}[{','.join([*params, self.problem.dtype])}] {self.implementation} {self.placement}"
        )

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits that `-k` accepts in place of the id."""
        return short_hash(self.id)


def short_hash(case_id: str) -> str:
    """The first eight hexadecimal digits of the SHA-256 of a case id."""
    return hashlib.sha256(case_id.encode()).hexdigest()[:8]


# ------------------------------------------------------------------------------------------------------------- outcome


class Samples(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Timed samples of one visit, in order. `samples_s` are seconds PER CALL: a sample of `reps` calls over reps.

    `cpu_over_wall` is the lowest thread's CPU time over wall time in that sample (under 0.98: contended);
    `start_skew_s` the spread of the threads' starts; `device_s` and `host_s` on GPUs keep the two clocks apart."""

    samples_s: list[float]
    cpu_over_wall: list[float] = []
    involuntary_switches: list[int] = []
    clock_ghz: list[float] = []
    start_skew_s: list[float] = []
    host_s: list[float] = []
    reps: int = 1


class Measured(Samples, tag="measured", tag_field="status", kw_only=True, omit_defaults=True):
    """Timed. `stop` says why sampling ended: `target`, `budget`, `max_samples`."""

    stop: str = ""


class Disturbed(Samples, tag="disturbed", tag_field="status", kw_only=True, omit_defaults=True):
    """Timed, but under half of the samples are clean: kept, never used for a value."""

    why: str
    stop: str = ""


class Wrong(msgspec.Struct, tag="wrong", tag_field="status", kw_only=True, omit_defaults=True):
    """The result missed its reference: never timed. `where` names operand and element, `phase` when it was checked."""

    max_error: float
    bound: float
    where: str
    phase: str = "before"


class Skipped(msgspec.Struct, tag="skipped", tag_field="status", kw_only=True, omit_defaults=True):
    """Not run, with the reason and, where there is one, the command that would mend it."""

    reason: str
    hint: str = ""


class Crashed(msgspec.Struct, tag="crashed", tag_field="status", kw_only=True, omit_defaults=True):
    """The worker died, hung or refused: `how` is `signal SIGILL`, `timeout`, `out of memory`, `exception`."""

    how: str
    detail: str = ""


Outcome = Union[Measured, Disturbed, Wrong, Skipped, Crashed]


class Conditions(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What went on around a visit: ticks of steal in it, load average, temperature and throttle count where readable,
    share of the arena really on huge pages, energy where readable, the backend's own facts (compiler, registers)."""

    steal_ticks: int = 0
    load_1min: float = 0.0
    temperature_c: float | None = None
    throttle_count: int | None = None
    huge_page_share: float | None = None
    energy_j: float | None = None
    facts: dict[str, Any] = {}


class Record(msgspec.Struct, tag="record", tag_field="kind", kw_only=True, omit_defaults=True):
    """One visit of one case, whole by itself: everything an analysis needs is a named field of the line."""

    case_id: str
    case: str  # short hash
    kernel: str
    params: dict[str, str]
    dtype: str
    backend: str
    isa: str = ""
    variant: str = ""  # what really ran, chosen in the tuning pass where the id leaves it open
    device: str = "cpu"
    threads: int = 1
    pages: str = "huge"
    memory: str = ""
    mode: str = ""
    launch_path: str = ""
    ends: str = ""
    launch: int
    round: int
    started: float = 0.0  # unix time
    wall_s: float = 0.0
    figure: Figure
    flops: float = 0.0
    bytes_requested: float = 0.0
    bytes_compulsory: float = 0.0
    bytes_write_allocate: float = 0.0
    working_set: int = 0
    conditions: Conditions = msgspec.field(default_factory=Conditions)
    outcome: Outcome


# ------------------------------------------------------------------------------------------------------------- machine


class Cache(msgspec.Struct, frozen=True):
    """One data or unified cache as the OS states it: level ("L1"), bytes, line, ways, and the CPUs that share it."""

    level: str
    bytes: int
    cpus: tuple[int, ...]
    line: int = 64
    ways: int = 0


class Core(msgspec.Struct, frozen=True):
    """A physical core: its hardware threads, socket, NUMA node, index of its L3 domain, and kind on hybrid parts."""

    id: int
    cpus: tuple[int, ...]
    socket: int = 0
    node: int = 0
    l3: int = 0  # -1: the machine states no L3
    kind: str = ""  # "performance" or "efficiency" on hybrid parts
    max_mhz: float = 0.0


class Node(msgspec.Struct, frozen=True):
    """A NUMA node: CPUs, memory, distances to all nodes."""

    id: int
    cpus: tuple[int, ...]
    memory_bytes: int = 0
    distances: tuple[int, ...] = ()


class Gpu(msgspec.Struct, frozen=True, omit_defaults=True):
    """A GPU as its driver states it (no serial numbers)."""

    index: int
    name: str
    memory_bytes: int = 0
    compute_capability: str = ""
    sms: int = 0
    l2_bytes: int = 0
    clock_mhz: float = 0.0
    mig: str = ""
    driver: str = ""


class Machine(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the machine says of itself; goes whole into every run file's header. No user or host secrets in it."""

    id: str  # short fingerprint of the fields below that do not change from day to day
    arch: str  # "x86_64", "aarch64"
    cpu_model: str = ""
    vendor: str = ""
    family: int = 0
    model: int = 0
    stepping: int = 0
    microarchitecture: str = ""  # a label ("Zen 4"), never a decision
    isa: tuple[str, ...] = ()  # levels this CPU and OS can run, in rising order
    cores: tuple[Core, ...] = ()
    caches: tuple[Cache, ...] = ()
    nodes: tuple[Node, ...] = ()
    memory_bytes: int = 0
    memory_available: int = 0
    memory_limit: int = 0  # cgroup limit, 0: none
    page_bytes: int = 4096
    huge_pages: str = ""  # transparent huge pages: "always", "madvise", "never"
    affinity: tuple[int, ...] = ()  # CPUs this process may use
    quota: float = 0.0  # cgroup CPU quota in cores, 0: none
    hypervisor: str = ""
    governor: str = ""
    turbo: str = ""
    kernel: str = ""
    distribution: str = ""
    libc: str = ""
    smt: bool = False
    gpus: tuple[Gpu, ...] = ()


class Check(msgspec.Struct, frozen=True):
    """One finding of `pykernels check`: what was looked at, what was found, and the command that mends it."""

    level: Literal["ok", "warn", "fail", "skip"]
    name: str
    message: str
    hint: str = ""


# ------------------------------------------------------------------------------------------------------------ run file


class Header(msgspec.Struct, tag="header", tag_field="kind", kw_only=True, omit_defaults=True):
    """First line of a run file. `sweep` is the sweep's text, so that `--resume` and a reader need no other file."""

    schema: int = SCHEMA
    pykernels: str = ""
    started: str = ""  # ISO 8601, UTC
    sweep_name: str = ""
    sweep: str = ""
    filter: str = ""
    seed: int = 0
    launches: int = 5
    rounds: int = 1
    budget_s: float = 0.0
    machine: Machine
    versions: dict[str, str] = {}
    compiler: str = ""
    flags: str = ""
    environment: dict[str, str] = {}
    source: str = "measured"  # "replay" and "simulated" say so
    refines: str = ""


class Tuning(msgspec.Struct, tag="tuning", tag_field="kind", kw_only=True, omit_defaults=True):
    """The tuning pass of one case: candidate variant -> value in the case's unit, and the one chosen and fixed."""

    case_id: str
    chosen: str
    candidates: dict[str, float] = {}
    unit: str = ""


class Footer(msgspec.Struct, tag="footer", tag_field="kind", kw_only=True, omit_defaults=True):
    """Last line of a finished run: number of records and SHA-256 of all bytes before this line."""

    records: int
    sha256: str
    finished: str = ""
    interrupted: bool = False
