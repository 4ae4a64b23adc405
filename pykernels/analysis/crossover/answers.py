"""What the crossover analysis is asked and what it answers: plain structs, written as they stand by --json."""

from __future__ import annotations

from typing import Literal

import msgspec

from pykernels.analysis.crossover.finder import NO_CONCLUSION, Event

Source = Literal["paired", "cross-machine", "modelled", "projection"]

#: The kind of an answer that is refused, or that wide intervals keep from one; the other kinds are the finder's.
REFUSED = NO_CONCLUSION


class Assumptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a projection assumes where nothing was measured. `spread`: by how much each may be off, which makes its
    range.

    `link_gbs` (GB/s per direction, nominal) stands in for, or overrides, the host link of the hardware table."""

    launch_us: float = 10.0
    link_share: float = 0.85
    hbm_share: float = 0.80
    spread: float = 0.20
    link_gbs: float | None = None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. Empty `axes` and `metrics` mean all that the records hold; `ends` are "host" and "device".

    `band`: equivalence band; `min_share`: the share of its time roof below which a measured kernel decides nothing;
    `prices`: device name -> (price, date, currency) for `per` "dollar"; `modelled`: fit the GPU side and predict it."""

    axes: tuple[str, ...] = ()
    ends: tuple[str, ...] = ("host", "device")
    metrics: tuple[str, ...] = ()
    band: float = 0.05
    per: Literal["device", "watt", "dollar"] = "device"
    against: str = ""
    assumptions: Assumptions = Assumptions()
    prices: dict[str, tuple[float, str, str]] = {}
    modelled: bool = False
    min_share: float = 0.70


class Answer(msgspec.Struct, kw_only=True):
    """Where the winner changes on one axis of one workload, all else fixed.

    `value`, `low`, `high` are in `unit`: a root with its t interval over launches, or, of a projection, with the range
    its assumptions allow (`interval` says which). `bracket`: the measured cells around it. `ends`: "C0-G2"."""

    workload: str
    axis: str
    metric: str
    ends: str
    source: Source
    kind: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    bracket: tuple[float, float] | None = None
    sensitivity: dict[str, float | None] = {}
    unit: str = ""
    per: str = "device"
    interval: str = ""  # "95% over 5 launches", "range of the assumptions", ""
    events: list[Event] = []
    tie: tuple[float, float] | None = None
    cpu: str = ""
    gpu: str = ""
    sentence: str = ""
    notes: list[str] = []


class CellAnswer(msgspec.Struct, kw_only=True):
    """One compared cell. Seconds per call; `ratio` is t_cpu / t_gpu with its interval (over 1: the GPU wins)."""

    workload: str
    axes: dict[str, float]
    metric: str
    ends: str
    source: Source
    cpu_s: float
    gpu_s: float | None
    ratio: float | None
    low: float | None
    high: float | None
    winner: str  # "CPU", "GPU", "tie", "unclear" (its interval is too wide), "CPU (GPU memory)"
    launch_path: str = ""
    cpu_share: float | None = None
    gpu_share: float | None = None
    cpu_terms: dict[str, float] = {}
    gpu_terms: dict[str, float] = {}
    cpu_how: str = ""
    gpu_how: str = ""


class BreakEven(msgspec.Struct, kw_only=True):
    """The CPU gather rate that would tie the GPU of one cell end to end, in GB/s and Grows/s, with interval or range.

    None: no rate does, since the GPU is done before the CPU's fixed costs are paid. `here` is this CPU's own rate."""

    workload: str
    axes: dict[str, float]
    ends: str
    source: Source
    gbs: float | None
    gbs_low: float | None
    gbs_high: float | None
    grows: float | None
    grows_low: float | None
    grows_high: float | None
    here_gbs: float
    interval: str = ""


class Claim(msgspec.Struct, kw_only=True):
    """One narrow claim with its verdict (`yes`, `no`, `not measured`) and the numbers behind it."""

    claim: str
    verdict: str
    numbers: list[str] = []
    measure: str = ""  # the command that would measure what is missing


class CurveView(msgspec.Struct, kw_only=True):
    """One axis as it is drawn: seconds of both sides with their launches' spread, and the answer it led to."""

    answer: Answer
    x: list[float]
    cpu: list[float]
    gpu: list[float | None]
    ratio: list[float]
    low: list[float]
    high: list[float]
    log_axis: bool = True
    steps: list[tuple[str, float]] = []
    edge: float | None = None
    band: float = 0.05
    cpu_terms: list[dict[str, float]] = []
    gpu_terms: list[dict[str, float]] = []


class Plane(msgspec.Struct, kw_only=True):
    """Cells of one workload over batch x table bytes: log2 of t_cpu/t_gpu; None where the GPU cannot hold the table.
    `weak`: cells in which a measured kernel is too far below its time roof to decide anything."""

    workload: str
    ends: str
    metric: str
    source: Source
    gpu: str
    batch: list[float]
    table: list[float]
    log2: dict[str, float | None] = {}  # "batch|table" -> value
    measured: list[str] = []
    weak: list[str] = []
    edge: float | None = None
    band: float = 0.05


class Report(msgspec.Struct, kw_only=True):
    """Everything the command prints, draws and writes."""

    answers: list[Answer] = []
    cells: list[CellAnswer] = []
    break_even: list[BreakEven] = []
    claims: list[Claim] = []
    cpu: str = ""
    gpu: str = ""
    source: str = ""
    assumptions: list[str] = []
    fit: str = ""
    not_compared: list[str] = []
    curves: list[CurveView] = []
    planes: list[Plane] = []
