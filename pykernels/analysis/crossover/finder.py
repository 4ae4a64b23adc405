"""Crossovers on one axis: labels of cells, kinds of answer, and the root of each launch with a t interval over them.

The value on the axis is R = log(t_cpu / t_gpu): positive where the GPU wins. A cell is sure when the interval of R over
the launches lies wholly outside the equivalence band; else it is a tie where its centre lies inside the band, and
unclear where only the width of the interval keeps it from a winner. The order of sure cells decides the kind.
Nothing is interpolated across a step (a cache's or a memory's capacity), and the capacity edge is the allocator's own
figure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from pykernels.measure.stats.intervals import log_interval

Floats = NDArray[np.float64]

#: Share of launches that may lack a root before a crossing is no longer claimed.
ROOTLESS_LIMIT = 0.05
#: The kind where nothing can be concluded.
NO_CONCLUSION = "no conclusion"
#: Bisection stops when neighbouring sure cells are this near.
CLOSE = 2.0**0.25


class Step(msgspec.Struct, frozen=True):
    """A known place where the time jumps: "L2", "LLC", "GPU L2", "TLB reach"."""

    name: str
    at: float


class Curve(msgspec.Struct, kw_only=True):
    """R of every launch (outer) at every axis value (inner; NaN: that launch has no such cell), axis values rising.

    `exact`: values without noise (published figures): labels by the value itself, no interval. `edge`: the largest axis
    value the GPU's allocator accepts, and `edge_bracket` the cells on either side of it."""

    x: list[float]
    ratios: list[list[float]]
    log_axis: bool = True
    steps: tuple[Step, ...] = ()
    edge: float | None = None
    edge_bracket: tuple[float, float] | None = None
    exact: bool = False


class Event(msgspec.Struct, kw_only=True):
    """One change of winner. `to` is who wins above it; `at` says what kind of place it is."""

    to: str
    bracket: tuple[float, float]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    at: str = "root"  # "root", "step L2", "capacity"
    launches: int = 0
    rootless: int = 0


class Finding(msgspec.Struct, kw_only=True):
    """What the axis shows. `bracket`: the sure cells around a crossing, or the tie cells' outer neighbours; `unclear`:
    the first and last cell whose interval is too wide, where they keep the axis from an answer."""

    kind: str
    labels: list[str]
    centre: list[float]
    low: list[float]
    high: list[float]
    value: float | None = None
    value_low: float | None = None
    value_high: float | None = None
    bracket: tuple[float, float] | None = None
    tie: tuple[float, float] | None = None
    unclear: tuple[float, float] | None = None
    events: list[Event] = []
    notes: list[str] = []


def t_interval(values: Sequence[float] | Floats, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and t interval of values that are additive (logs, axis places), one a launch; one alone is unbounded."""
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        return float(data.mean()), -math.inf, math.inf
    centre, half = log_interval(data, confidence)
    return float(centre), float(centre - half), float(centre + half)


SURE = ("CPU", "GPU")


def label_of(centre: float, low: float, high: float, band: float) -> str:
    """Who wins a cell: "CPU" or "GPU" where the interval clears the band, "tie" where the centre does not, "unclear"
    where the centre does and the interval is too wide to be sure."""
    limit = math.log1p(band)
    if low > limit or high < -limit:
        return "GPU" if low > limit else "CPU"
    return "tie" if abs(centre) <= limit else "unclear"


def find(curve: Curve, band: float = 0.05, confidence: float = 0.95) -> Finding:
    """The kind of answer on this axis, with every change of winner in order.

    `band` is the equivalence band as a ratio (0.05: times within 5% are a tie)."""
    ratios = np.asarray(curve.ratios, dtype=float)
    centre, low, high = _summary(ratios, curve.exact, confidence)
    labels = [label_of(*cell, band) for cell in zip(centre, low, high, strict=True)]
    finding = Finding(kind="", labels=labels, centre=centre, low=low, high=high)
    sure = [i for i, label in enumerate(labels) if label in SURE]
    changes = [(i, j) for i, j in itertools.pairwise(sure) if labels[i] != labels[j]]
    bounds = [-1, *[j for _, j in changes], len(labels)]
    for k, (i, j) in enumerate(changes):
        first, last = max(0, bounds[k]), (changes[k + 1][0] if k + 1 < len(changes) else len(labels) - 1)
        finding.events.append(_event(curve, ratios, centre, i, j, (first, last), labels[j], confidence))
    _add_edge(curve, finding, labels[sure[-1]] if sure else "")
    _decide(curve, finding)
    return finding


def _summary(ratios: Floats, exact: bool, confidence: float) -> tuple[list[float], list[float], list[float]]:
    columns = [column[np.isfinite(column)] for column in ratios.T]
    if exact:
        centre = [float(column.mean()) for column in columns]
        return centre, centre, centre
    found = [t_interval(column, confidence) for column in columns]
    return [f[0] for f in found], [f[1] for f in found], [f[2] for f in found]


def _add_edge(curve: Curve, finding: Finding, last: str) -> None:
    """Beyond the capacity edge only the CPU runs: a change of winner unless it has won already."""
    if curve.edge is None:
        return
    if last == "CPU":
        finding.notes.append("the GPU's capacity ends inside the range, where the CPU wins already")
        return
    bracket = curve.edge_bracket or (curve.edge, curve.edge)
    finding.events.append(
        Event(to="CPU", bracket=bracket, value=curve.edge, low=curve.edge, high=curve.edge, at="capacity")
    )


def _decide(curve: Curve, finding: Finding) -> None:
    labels, events = finding.labels, finding.events
    ties = [x for x, label in zip(curve.x, labels, strict=True) if label == "tie"]
    unclear = [x for x, label in zip(curve.x, labels, strict=True) if label == "unclear"]
    unsure = [event for event in events if event.at == "root" and _unsure(event, curve.exact)]
    for event in unsure:
        finding.notes.append(f"{event.launches - event.rootless} of {event.launches} launches have a crossing there")
    if len(events) > 1:
        finding.kind = "several"
    elif unsure:
        finding.kind, finding.tie = "tie band", unsure[0].bracket
    elif events:
        event = events[0]
        finding.kind = "capacity edge" if event.at == "capacity" else "crossing"
        finding.value, finding.value_low, finding.value_high = event.value, event.low, event.high
        finding.bracket = event.bracket
    elif ties:
        finding.kind, finding.tie = "tie band", (min(ties), max(ties))
        finding.bracket = _around(curve.x, labels)
        finding.unclear = (min(unclear), max(unclear)) if unclear else None
        finding.notes += [f"elsewhere in range the {label} wins" for label in SURE if label in labels]
    elif unclear:
        finding.kind, finding.unclear = NO_CONCLUSION, (min(unclear), max(unclear))
    else:
        finding.kind = f"none ({labels[0]} everywhere in range)"
    if finding.tie and finding.kind == "tie band":
        finding.bracket = finding.bracket or finding.tie


def _unsure(event: Event, exact: bool) -> bool:
    """Too many launches without a root, or too few roots for an interval."""
    few = event.launches - event.rootless < (1 if exact else 2)
    return few or event.rootless > ROOTLESS_LIMIT * event.launches


def _around(x: Sequence[float], labels: Sequence[str]) -> tuple[float, float]:
    """The last tie cell, and the first sure cell after it; where there is none the last sure cell before the ties, and
    the first tie cell (the tie's outer cells if no cell is sure)."""
    ties = [i for i, label in enumerate(labels) if label == "tie"]
    sure = [i for i, label in enumerate(labels) if label in SURE]
    after, before = [i for i in sure if i > ties[-1]], [i for i in sure if i < ties[0]]
    if after:
        return x[ties[-1]], x[after[0]]
    return (x[before[-1]], x[ties[0]]) if before else (x[ties[0]], x[ties[-1]])


# ---------------------------------------------------------------------------------------------------------------- roots


def _event(
    curve: Curve,
    ratios: Floats,
    centre: list[float],
    i: int,
    j: int,
    window: tuple[int, int],
    to: str,
    confidence: float,
) -> Event:
    event = Event(to=to, bracket=(curve.x[i], curve.x[j]))
    step = _step_between(curve, centre, i, j)
    if isinstance(step, Step):
        event.at, event.value, (event.low, event.high) = f"step {step.name}", step.at, event.bracket
        return event
    segment = _segment(curve, step)
    inner = (max(i, segment[0]), min(j, segment[1]))
    outer = (max(window[0], segment[0]), min(window[1], segment[1]))
    rows = _visited(ratios, inner)
    u = np.log(curve.x) if curve.log_axis else np.asarray(curve.x, dtype=float)
    sign = 1.0 if to == "GPU" else -1.0
    roots = [_launch_root(u, sign * row, inner, outer, segment) for row in rows]
    found = [root for root in roots if root is not None]
    event.launches, event.rootless = len(roots), len(roots) - len(found)
    if found:
        mean, low, high = t_interval(found, confidence)
        back = math.exp if curve.log_axis else float
        event.value = back(mean)
        if len(found) > 1:
            event.low, event.high = back(low), back(high)
    return event


def _visited(ratios: Floats, inner: tuple[int, int]) -> Floats:
    """Launches that saw every cell of the bracket; where too few did (a refined run), those that saw both its ends."""
    seen = np.isfinite(ratios[:, inner[0] : inner[1] + 1])
    whole = ratios[seen.all(axis=1)]
    return whole if len(whole) > 2 else ratios[seen[:, 0] & seen[:, -1]]


def _step_between(curve: Curve, centre: list[float], i: int, j: int) -> Step | int:
    """The step across which the mean changes sign between cells i and j, else the cell before the change."""
    k = next((k for k in range(i, j) if (centre[k] > 0) != (centre[k + 1] > 0)), i)
    for step in curve.steps:
        if curve.x[k] < step.at <= curve.x[k + 1]:
            return step
    return k


def _segment(curve: Curve, k: int) -> tuple[int, int]:
    """First and last cell of the stretch without a step that holds cells k and k + 1."""
    first, last = k, k + 1
    cut = [step.at for step in curve.steps]
    while first > 0 and not any(curve.x[first - 1] < at <= curve.x[first] for at in cut):
        first -= 1
    while last + 1 < len(curve.x) and not any(curve.x[last] < at <= curve.x[last + 1] for at in cut):
        last += 1
    return first, last


def _launch_root(
    u: Floats, row: Floats, inner: tuple[int, int], outer: tuple[int, int], segment: tuple[int, int]
) -> float | None:
    """Where one launch goes from below to above zero: within the sure cells, else within the wider window.

    Noise can cross three times; the alternating sum of the crossings is then the length of the stretch below zero,
    which is the unbiased reading of one crossing. An even count is no root."""
    cells = np.arange(segment[0], segment[1] + 1)
    cells = cells[np.isfinite(row[cells])]
    crossings = _crossings(u[cells], row[cells])
    for first, last in (inner, outer):
        roots = [root for root in crossings if u[first] <= root <= u[last]]
        held = [cell for cell in cells if first <= cell <= last]
        if len(roots) % 2 and row[held[0]] < 0:
            return math.fsum(root if k % 2 == 0 else -root for k, root in enumerate(roots))
    return None


def _crossings(u: Floats, r: Floats) -> list[float]:
    """Zeros of the interpolant of r over u, one for each neighbouring pair of unlike sign: cubic from 4 cells on."""
    from scipy.interpolate import CubicSpline

    pairs = [k for k in range(len(u) - 1) if (r[k] > 0) != (r[k + 1] > 0)]
    if len(u) < 4 or not pairs:
        return [float(u[k] + (u[k + 1] - u[k]) * r[k] / (r[k] - r[k + 1])) for k in pairs]
    zeros = CubicSpline(u, r).roots(extrapolate=False)
    found = []
    for k in pairs:
        inside = zeros[(zeros >= u[k]) & (zeros <= u[k + 1])]
        linear = u[k] + (u[k + 1] - u[k]) * r[k] / (r[k] - r[k + 1])
        found.append(float(inside[0]) if len(inside) == 1 else float(linear))
    return found


# --------------------------------------------------------------------------------------------------------------- refine


def next_values(curve: Curve, finding: Finding) -> list[list[float]]:
    """For each crossing still held by neighbouring sure cells further apart than 2**(1/4) (a sixteenth of a linear
    axis): the middle between them, geometric on a log axis, with both cells and the next one on either side. They are
    measured together, so that every launch visits all five: three alone leave a curve's bend in the root. With a tie
    between the sure cells, or once they are close, more launches help and more cells do not."""
    wanted = []
    for event in finding.events:
        if event.at != "root":
            continue
        low, high = event.bracket
        i, j = curve.x.index(low), curve.x.index(high)
        near = high / low <= CLOSE * (1 + 1e-9) if curve.log_axis else high - low <= (curve.x[-1] - curve.x[0]) / 16
        if j == i + 1 and not near:
            middle = math.sqrt(low * high) if curve.log_axis else (low + high) / 2
            wanted.append([*curve.x[max(0, i - 1) : j], middle, *curve.x[j : j + 2]])
    return wanted
