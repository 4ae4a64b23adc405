"""What a run measured of the memory wall's claims: seconds per case, gains of low precision, the break-even of a sparse
product, and the share of kernel time spent left of the ridge.

Record shapes read here, besides `layer` (see `predict`): products are the kernels `gemv` and `gemm`, whose records
differ only in dtype (and `batch`, `n` or `cols` for the number of right-hand sides); a sparse product is kernel `spmv`
with `density` among its params and `rows`, `cols`, beside a `gemv` of the same shape, dtype, backend and placement.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pykernels.analysis.wall.roofs import Estimate, Place
from pykernels.analysis.wall.transformer import PRESETS
from pykernels.model import Disturbed, Measured, Record

PRODUCTS = ("gemv", "gemm")
#: a launch speaks for the share left of the ridge where it timed this share of the kernels
MOST_SEEN = 0.8
SPARSE = "spmv"


class Timed(msgspec.Struct, frozen=True):
    """One case of a run: a record that stands for it, its seconds per call, and the value of each launch."""

    record: Record
    seconds: Estimate
    launches: dict[int, float]


def timed_cases(records: Iterable[Record]) -> list[Timed]:
    """Every case with a value, seconds per call with a t interval over launches, in order of first appearance."""
    from pykernels.measure import stats

    groups: dict[str, list[Record]] = {}
    for record in records:
        if isinstance(record.outcome, Measured | Disturbed):
            groups.setdefault(record.case_id, []).append(record)
    found = []
    for group in groups.values():
        visits = [
            stats.visit_of(r.outcome, "us", 1.0, launch=r.launch, round=r.round, started=r.started)
            for r in group
            if isinstance(r.outcome, Measured | Disturbed)
        ]
        answer = stats.estimate(visits, higher=False)
        if answer.interval is not None:
            interval = answer.interval
            seconds = Estimate(interval.value * 1e-6, interval.low * 1e-6, interval.high * 1e-6, interval.scope)
            launches = {launch: value * 1e-6 for launch, value in answer.launch_values.items()}
            found.append(Timed(group[0], seconds, launches))
    return found


def seconds_by_case(records: Iterable[Record]) -> list[tuple[Record, Estimate]]:
    """A representative record and the seconds per call of every case."""
    return [(case.record, case.seconds) for case in timed_cases(records)]


def _ratio(above: Timed, below: Timed) -> Estimate:
    from pykernels.measure import stats

    return Estimate(*stats.ratio_interval(above.launches, below.launches))


def products(cases: Iterable[Timed], kernels: Sequence[str]) -> list[Timed]:
    """Cases of these kernels, each made its whole product: a call on a large matrix covers one of several parts, whose
    number depends on the dtype. Left out are those whose shape is not in the record (a level, a size)."""
    found = []
    for case in cases:
        whole = _whole_flops(case.record) if case.record.kernel in kernels else None
        if whole and case.record.flops:
            parts, record = whole / case.record.flops, case.record
            launches = {launch: parts * value for launch, value in case.launches.items()}
            record = msgspec.structs.replace(record, flops=whole, bytes_compulsory=parts * record.bytes_compulsory)
            found.append(Timed(record, case.seconds.scaled(parts), launches))
    return found


def _whole_flops(record: Record) -> float | None:
    """FLOP of the product that a record's parameters name; None where they name none."""
    p = record.params
    try:
        if record.kernel == "gemm":
            return 2.0 * int(p["m"]) * int(p["n"]) * int(p["k"]) * int(p.get("batch", 1))
        rows, cols = int(p["rows"]), int(p["cols"])
        if record.kernel == SPARSE:
            return 2.0 * rows * max(1, round(float(p["density"]) * cols))
        return 2.0 * rows * cols * int(p.get("batch", 1))
    except (KeyError, ValueError):
        return None


# ----------------------------------------------------------------------------------------------------------- precision


class MeasuredGain(msgspec.Struct, frozen=True):
    """Gain of a dtype over fp32 on one product: measured, and predicted from ALL bytes of the two records (the bound)
    and, where roofs are there, from their times. `verdict`: `at its bytes` within 15% of the byte ratio, `below`,
    `above` (only a better implementation or compute can give more than the bytes), `gone` (interval reaches 1)."""

    kernel: str
    shape: str
    batch: int
    dtype: str
    backend: str
    threads: int
    byte_ratio: float
    predicted: float | None
    measured: Estimate
    verdict: str


BATCH_KEYS = ("batch", "n", "cols_b")


def batch_of(record: Record) -> int:
    """Right-hand sides of a product: its batch, else n; 1 where it has neither."""
    return next((int(record.params[key]) for key in BATCH_KEYS if record.params.get(key, "").isdigit()), 1)


def precision_gains(cases: Sequence[Timed], place: Mapping[tuple[str, int], Place] | None = None) -> list[MeasuredGain]:
    """Every product measured at fp32 and at another dtype, same shape, backend and placement; the fastest variant of
    each."""
    best: dict[tuple[object, ...], Timed] = {}
    for case in products(cases, PRODUCTS):
        key = (*_setting(case.record), case.record.dtype)
        if key not in best or case.seconds.value < best[key].seconds.value:
            best[key] = case
    found = []
    for key, case in best.items():
        base = best.get((*key[:-1], "fp32"))
        if base is not None and case.record.dtype != "fp32":
            found.append(_gain(case, base, (place or {}).get((case.record.device, case.record.threads))))
    return sorted(found, key=lambda g: (g.kernel, g.shape, g.backend, g.threads, g.dtype, g.batch))


def _setting(record: Record) -> tuple[object, ...]:
    """What two records share that are to be compared, dtype aside."""
    shape = tuple(sorted(record.params.items()))
    return (
        record.kernel,
        shape,
        record.backend,
        record.device,
        record.threads,
        record.pages,
        record.memory,
        record.mode,
    )


def _gain(case: Timed, base: Timed, place: Place | None) -> MeasuredGain:
    bytes_ratio = base.record.bytes_compulsory / case.record.bytes_compulsory
    gain = _ratio(base, case)
    if gain.low <= 1:
        verdict = "gone"
    elif gain.value > 1.15 * bytes_ratio:
        verdict = "above"
    else:
        verdict = "at its bytes" if gain.value > 0.85 * bytes_ratio else "below"
    record = case.record
    shape = ",".join(f"{k}={v}" for k, v in record.params.items() if k not in BATCH_KEYS)
    return MeasuredGain(
        record.kernel, shape, batch_of(record), record.dtype, record.backend, record.threads, bytes_ratio,
        _predicted_gain(case.record, base.record, place), gain, verdict,
    )  # fmt: skip


def _predicted_gain(fast: Record, slow: Record, place: Place | None) -> float | None:
    """Ratio of max(FLOP / peak, bytes / bandwidth); None where a roof is missing."""
    times = [_roofline_seconds(record, place) for record in (slow, fast)] if place else []
    return times[0] / times[1] if len(times) == 2 and times[0] and times[1] else None


def _roofline_seconds(record: Record, place: Place | None) -> float | None:
    if place is None:
        return None
    weight_only = record.kernel == "gemv" and record.dtype in ("int8", "int4")  # unpacked and multiplied in fp32
    peak = place.peak("fp32" if weight_only else record.dtype)
    memory = place.bandwidth(place.level_of(record.working_set), record.dtype, reads=True)
    if peak is None or memory is None:
        return None
    return max(record.flops / peak.value, record.bytes_compulsory / memory.value)


def vanishing_batch(gains: Iterable[MeasuredGain]) -> dict[str, int | None]:
    """Per dtype, the smallest measured batch at which its gain is gone on every setting; None: at no measured batch."""
    found: dict[str, int | None] = {}
    by_dtype: dict[str, dict[int, list[bool]]] = {}
    for gain in gains:
        by_dtype.setdefault(gain.dtype, {}).setdefault(gain.batch, []).append(gain.verdict == "gone")
    for dtype, batches in by_dtype.items():
        found[dtype] = next((batch for batch in sorted(batches) if all(batches[batch])), None)
    return found


# ------------------------------------------------------------------------------------------------------------ sparsity


class SparsePoint(msgspec.Struct, frozen=True):
    """A sparse product at one density over the dense one of the same shape: measured gain, and the gain its bytes
    allow."""

    shape: str
    dtype: str
    backend: str
    threads: int
    density: float
    byte_ratio: float
    gain: Estimate


class BreakEven(msgspec.Struct, frozen=True):
    """Density at which sparse and dense take equally long: measured (interpolated in log density), and from bytes. A
    bound where the measured densities do not enclose it; `low` and `high` come from the gains' bounds."""

    shape: str
    dtype: str
    backend: str
    threads: int
    measured: float | None
    low: float | None
    high: float | None
    derived: float | None
    note: str = ""


def sparse_points(cases: Sequence[Timed]) -> list[SparsePoint]:
    """Every sparse product with a dense one of the same rows, cols, dtype, backend and placement."""
    dense = {_shape(case.record): case for case in products(cases, ("gemv",)) if batch_of(case.record) == 1}
    found = []
    for case in products(cases, (SPARSE,)):
        record = case.record
        if base := dense.get(_shape(record)):
            ratio = base.record.bytes_compulsory / record.bytes_compulsory
            shape = f"{record.params['rows']}x{record.params['cols']}"
            found.append(
                SparsePoint(shape, record.dtype, record.backend, record.threads, float(record.params["density"]), ratio,
                            _ratio(base, case))
            )  # fmt: skip
    return sorted(found, key=lambda p: (p.shape, p.dtype, p.backend, p.threads, p.density))


def _shape(record: Record) -> tuple[object, ...]:
    p = record.params
    rows, cols = p.get("rows", p.get("m")), p.get("cols", p.get("k"))
    return (rows, cols, record.dtype, record.backend, record.device, record.threads)


def break_evens(points: Sequence[SparsePoint]) -> list[BreakEven]:
    """The density at which the gain crosses 1, per setting."""
    groups: dict[tuple[str, str, str, int], list[SparsePoint]] = {}
    for point in points:
        groups.setdefault((point.shape, point.dtype, point.backend, point.threads), []).append(point)
    found = []
    for key, group in groups.items():
        densities = [p.density for p in group]
        value = _crossing(densities, [p.gain.value for p in group])
        low, high = (_crossing(densities, [getattr(p.gain, end) for p in group]) for end in ("low", "high"))
        note = ""
        if value is None:
            wins = group[0].gain.value > 1
            note = f"above {densities[-1]:g}, the densest measured" if wins else f"below {densities[0]:g}"
        found.append(BreakEven(*key, value, low, high, _crossing(densities, [p.byte_ratio for p in group]), note))
    return found


def _crossing(densities: Sequence[float], gains: Sequence[float]) -> float | None:
    """Density at which a falling gain passes 1, straight in log density against log gain; None where it does not."""
    for (d0, g0), (d1, g1) in zip(
        zip(densities, gains, strict=True), list(zip(densities, gains, strict=True))[1:], strict=False
    ):
        if g0 >= 1 > g1 > 0 and math.isfinite(g0):
            share = math.log(g0) / math.log(g0 / g1)
            return math.exp(math.log(d0) + share * math.log(d1 / d0))
    return None


# --------------------------------------------------------------------------------------------------- left of the ridge


class LeftOfRidge(msgspec.Struct, frozen=True):
    """Share of the measured kernels' time spent by those whose intensity is below the ridge of their dtype. The
    interval is over launches; where the ridge's own interval moves a kernel across, the bounds cover both."""

    device: str
    threads: int
    kernels: int
    left: int
    share: Estimate
    undecided: int


def left_of_ridge(cases: Sequence[Timed], places: Iterable[Place]) -> list[LeftOfRidge]:
    """Per placement with roofs, over every kernel that is not itself a ceiling and has a dtype with a ridge.

    A kernel weighs the seconds of one call at the sizes that were run; a decoder's step weighs as the generation that
    it is a step of, so that both models answer for the same number of tokens. A chain whose operators were timed one by
    one is left out: its time is theirs."""
    found = []
    split = {_chain(case.record) for case in cases if case.record.params.get("op") not in (None, "chain")}
    for place in places:
        weighed = []
        for case in cases:
            record = case.record
            if record.figure.ceiling or (record.device, record.threads) != (place.device, place.threads):
                continue
            if record.params.get("op") == "chain" and _chain(record) in split:
                continue
            ridge = place.ridge(record.dtype) or place.ridge("fp32")
            if ridge is not None and record.bytes_compulsory:
                weighed.append((_generation(case), record.flops / record.bytes_compulsory, ridge))
        if weighed:
            found.append(_left(place, weighed))
    return found


def _chain(record: Record) -> tuple[object, ...]:
    """What an operator and the chain that holds it have in common."""
    known = {name: value for name, value in record.params.items() if name != "op"}
    placed = (record.dtype, record.backend, record.isa, record.device, record.threads)
    return (record.kernel, tuple(sorted(known.items())), *placed)


def _generation(case: Timed) -> Timed:
    """A decoder's step made all the steps of its sequence; anything else as it is."""
    config = PRESETS.get(case.record.params.get("model", ""))
    if config is None or config.kind != "decoder":
        return case
    steps = int(case.record.params["seq"])
    launches = {launch: steps * value for launch, value in case.launches.items()}
    return msgspec.structs.replace(case, seconds=case.seconds.scaled(steps), launches=launches)


def _left(place: Place, weighed: Sequence[tuple[Timed, float, Estimate]]) -> LeftOfRidge:
    from pykernels.measure import stats

    seen = Counter(launch for case, _, _ in weighed for launch in case.launches)
    launches = {launch for launch, count in seen.items() if count >= MOST_SEEN * len(weighed)}

    def share(launch: int | None, ridge_of: str) -> float:
        """Of one launch; a kernel that it has no clean visit of counts as it does over all."""
        times = [case.launches.get(launch, case.seconds.value) if launch is not None else case.seconds.value
                 for case, _, _ in weighed]  # fmt: skip
        left = [t for t, (_, x, ridge) in zip(times, weighed, strict=True) if x < getattr(ridge, ridge_of)]
        return sum(left) / sum(times)

    centre, low, high = share(None, "value"), share(None, "low"), share(None, "high")
    if len(launches) >= 2:
        for end in ("low", "high"):
            values = [share(launch, end) for launch in sorted(launches)]
            half = _half_width(values, stats.t_quantile(len(values) - 1))
            if end == "low":
                low = max(0.0, sum(values) / len(values) - half)
            else:
                high = min(1.0, sum(values) / len(values) + half)
    else:
        low, high = 0.0, 1.0
    left = sum(x < ridge.value for _, x, ridge in weighed)
    undecided = sum(ridge.low <= x <= ridge.high for _, x, ridge in weighed)
    estimate = Estimate(centre, min(low, centre), max(high, centre))
    return LeftOfRidge(place.device, place.threads, len(weighed), left, estimate, undecided)


def _half_width(values: Sequence[float], quantile: float) -> float:
    mean = sum(values) / len(values)
    return quantile * math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
