"""The closed form of a lookup call's time, term by term, and its robust fit to measured cells.

A call costs a floor, then the slower of rows at the row rate and bytes at the bandwidth (two ceilings a level, mixed by
the share of lookups each level catches), then what crosses the link. One in flight, the terms add up; with many in
flight they overlap and the slowest one binds. Ends (where table, indices and results live):

C0 host, host, host · C1 host table, result on the GPU · G1 HBM table, host indices, result on the GPU ·
G2 as G1 with the result on the host · G3 host table read over the link · G5 HBM row cache over a host table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from pykernels.analysis.crossover.workload import Workload
from pykernels.errors import UsageError

TERMS = ("floor", "rows", "bytes", "link in", "link out")


class Level(msgspec.Struct, frozen=True):
    """Two ceilings of one level of memory. `capacity` in bytes counts the levels inside it; the last is infinite."""

    name: str
    capacity: float
    row_rate: float  # rows/s
    bandwidth: float  # bytes/s


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the closed form, in seconds, bytes and rows per second.

    `h2d` and `d2h` are the link per direction (infinite: none needed); `memory` the bytes its own memory can hold."""

    floor_s: float
    levels: tuple[Level, ...]
    h2d: float = math.inf
    d2h: float = math.inf
    memory: float = math.inf


def terms(
    device: Device, load: Workload, ends: str, *, host_result: bool = True, hit: float | None = None
) -> dict[str, float]:
    """Seconds of each term of one call. `hit`: share of lookups in the HBM cache of G5 (default: an ideal one)."""
    near = 1.0  # share of rows read from the device's own memory
    if ends == "G3":
        near = 0.0
    elif ends == "G5":
        near = load.hit_share(device.memory) if hit is None else hit
    rows = near * load.lookups * _mix(device, load, "row_rate")
    last = device.levels[-1].bandwidth
    nbytes = near * load.gathered * _mix(device, load, "bandwidth") + (load.input_bytes + load.result_bytes) / last
    into = load.result_bytes if ends == "C1" else 0.0 if ends == "C0" else load.input_bytes + (1 - near) * load.gathered
    out = load.result_bytes if ends.startswith("G") and host_result and ends != "G1" else 0.0
    return {
        "floor": device.floor_s,
        "rows": rows,
        "bytes": nbytes,
        "link in": into / device.h2d,
        "link out": out / device.d2h,
    }


def _mix(device: Device, load: Workload, ceiling: str) -> float:
    """Mean of 1/ceiling over the levels, weighted by the share of lookups each catches."""
    total, inside = 0.0, 0.0
    for level in device.levels:
        share = 1.0 if math.isinf(level.capacity) else load.hit_share(level.capacity)
        total += max(0.0, share - inside) / getattr(level, ceiling)
        inside = max(inside, share)
    return total


def serial(parts: dict[str, float]) -> float:
    """Seconds of a call with one in flight: its terms one after the other."""
    return parts["floor"] + max(parts["rows"], parts["bytes"]) + parts["link in"] + parts["link out"]


def overlapped(parts: dict[str, float]) -> float:
    """Seconds of a call with many in flight: the slowest term. This is the time roof of a saturated rate."""
    return max(parts.values())


# ----------------------------------------------------------------------------------------------------------------- fit


class Observation(msgspec.Struct, frozen=True):
    """A measured cell of one side: workload, ends, seconds per call, and the hit share where one was recorded."""

    load: Workload
    ends: str
    seconds: float
    hit: float | None = None


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted device, its leave-one-out errors (|log predicted/measured|, median, 90th percentile), its range."""

    device: Device
    cells: int
    loo_median: float
    loo_p90: float
    ranges: dict[str, tuple[float, float]]
    ends: tuple[str, ...]

    def predict(self, load: Workload, ends: str, *, hit: float | None = None) -> float:
        """Seconds per call. Raises UsageError outside the recorded range of any axis: the form is not extrapolated."""
        if ends not in self.ends:
            raise UsageError(f"the fitted run has no {ends} cells (it has {', '.join(self.ends)})")
        for axis, value in axes_of(load).items():
            low, high = self.ranges[axis]
            if not low * (1 - 1e-9) <= value <= high * (1 + 1e-9):
                raise UsageError(f"{axis} = {value:g} lies outside the recorded range {low:g} to {high:g}")
        return serial(terms(self.device, load, ends, hit=hit))


def axes_of(load: Workload) -> dict[str, float]:
    """The axes along which a fit must not be extrapolated."""
    return {
        "batch": float(load.bags),
        "table": load.table_bytes,
        "pooling": load.pooling,
        "row_bytes": load.row_bytes,
        "skew": load.zipf,
        "tables": float(load.tables),
    }


def fit(observations: Sequence[Observation], start: Device) -> Fit:
    """Fit the closed form to measured cells by robust regression on log time, from the run's own roofs `start`.

    The parameters are the floor, both ceilings of each level and the link, all on the log scale; a weak pull towards
    the start decides those that the cells do not reach. Raises UsageError below 8 cells."""
    if len(observations) < 8:
        raise UsageError(
            f"the closed form needs at least 8 measured cells of one side, this run has {len(observations)}"
        )
    best = _solve(observations, start)
    errors = []
    for left_out in range(len(observations)):
        rest = [other for k, other in enumerate(observations) if k != left_out]
        errors.append(abs(_residual(_solve(rest, best), observations[left_out])))
    values = [axes_of(observation.load) for observation in observations]
    return Fit(
        device=best,
        cells=len(observations),
        loo_median=float(np.median(errors)),
        loo_p90=float(np.quantile(errors, 0.9)),
        ranges={axis: (min(v[axis] for v in values), max(v[axis] for v in values)) for axis in values[0]},
        ends=tuple(sorted({observation.ends for observation in observations})),
    )


def _solve(observations: Sequence[Observation], start: Device) -> Device:
    from scipy.optimize import least_squares

    origin = _pack(start)

    def residuals(vector: np.ndarray) -> np.ndarray:
        device = _unpack(vector, start)
        return np.array([_residual(device, one) for one in observations] + list(0.01 * (vector - origin)))

    solved = least_squares(residuals, origin, loss="soft_l1", f_scale=0.03, x_scale=0.3, max_nfev=60)
    return _unpack(solved.x, start)


def _residual(device: Device, one: Observation) -> float:
    return math.log(serial(terms(device, one.load, one.ends, hit=one.hit)) / one.seconds)


def _pack(device: Device) -> np.ndarray:
    values = [device.floor_s]
    for level in device.levels:
        values += [level.row_rate, level.bandwidth]
    values += [link for link in (device.h2d, device.d2h) if math.isfinite(link)]
    return np.log(values)


def _unpack(vector: np.ndarray, like: Device) -> Device:
    values = [float(value) for value in np.exp(vector)]
    floor = values.pop(0)
    levels = tuple(Level(level.name, level.capacity, values.pop(0), values.pop(0)) for level in like.levels)
    h2d = values.pop(0) if math.isfinite(like.h2d) else math.inf
    d2h = values.pop(0) if math.isfinite(like.d2h) else math.inf
    return Device(floor_s=floor, levels=levels, h2d=h2d, d2h=d2h, memory=like.memory)
