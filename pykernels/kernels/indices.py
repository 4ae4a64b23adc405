"""Which rows are looked up: bounded Zipf laws, published reuse histograms, recorded traces, and what each did.

A Zipf law is bounded to exactly the table's rows (no modulo, no fall back to uniform), sampled by its inverse
cumulative distribution, with its ranks scattered over the table by an affine permutation: hot rows are not neighbours.
Duplicates are kept and nothing is sorted. Draws come from the counter-based generator, so that the same seed gives the
same rows on every machine and with every NumPy.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from pykernels.errors import UsageError, unknown
from pykernels.kernels.dtypes import Array
from pykernels.kernels.random import draws

#: ranks whose probability is summed one by one; the others by the midpoint rule, relative error under 1e-8
_HEAD = 4096
#: shares of the rows, hottest first, whose lookups are stated
HOT_SHARES = (0.001, 0.01, 0.1)


class Reuse(NamedTuple):
    """How often rows of a production batch are looked up, by bins (0, 1], (1, 2], (2, 4], ... (32768, inf) of uses:
    the share of touched rows, the share of lookups, and the mean uses of a touched row."""

    rows: tuple[float, ...]
    lookups: tuple[float, ...]
    mean: float


#: Histograms published with facebookresearch/dlrm_datasets (MIT): one batch of 65536 over 856 tables (2021, 887 million
#: lookups) and of 131072 over 788 tables (2022, 1405 million).
REUSE = {
    "meta2021": Reuse(
        (0.473, 0.152, 0.139, 0.112, 0.072, 0.032, 0.011, 0.005, 0.002, 0.001, 0, 0, 0, 0, 0, 0, 0),
        (0.069, 0.044, 0.068, 0.101, 0.121, 0.104, 0.073, 0.058, 0.052, 0.050, 0.049, 0.048, 0.048, 0.043, 0.031,
         0.023, 0.019),
        6.9,
    ),
    "meta2022": Reuse(
        (0.342, 0.144, 0.149, 0.138, 0.112, 0.068, 0.029, 0.010, 0.004, 0.002, 0.001, 0.001, 0, 0, 0, 0, 0),
        (0.027, 0.023, 0.040, 0.068, 0.105, 0.120, 0.099, 0.070, 0.059, 0.054, 0.040, 0.072, 0.064, 0.047, 0.021,
         0.017, 0.075),
        12.7,
    ),
}  # fmt: skip


class Draw(msgspec.Struct, frozen=True):
    """A generator of rows: a Zipf law with exponent `alpha` (0: uniform), or `reuse`, the name of a histogram."""

    alpha: float = 0.0
    reuse: str = ""
    seed: int = 7

    @property
    def generator(self) -> str:
        """Its name in records."""
        return self.reuse or ("zipf" if self.alpha else "uniform")


def parse(value: Any, where: str = "indices") -> Draw:
    """A Draw from a sweep's table: { zipf = 1.05, seed = 7 } or { reuse = "meta2021" }. Raises UsageError."""
    if not isinstance(value, dict):
        raise UsageError(f'{where} = {value!r}: write {{ zipf = 1.05, seed = 7 }} or {{ reuse = "meta2021" }}')
    for key in value:
        if key not in ("zipf", "reuse", "seed"):
            raise unknown("key", key, ("zipf", "reuse", "seed"), where=where)
    if "zipf" in value and "reuse" in value:
        raise UsageError(f"{where}: both zipf and reuse are given: write one of them")
    seed, alpha, reuse = value.get("seed", 7), value.get("zipf", 0.0), value.get("reuse", "")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UsageError(f"{where}: seed = {seed!r}: write a whole number")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1.5:
        raise UsageError(f"{where}: zipf = {alpha!r}: write an exponent from 0 (uniform) to 1.5")
    if reuse and reuse not in REUSE:
        raise unknown("reuse histogram", str(reuse), REUSE, where=where)
    return Draw(float(alpha), str(reuse), seed)


# -------------------------------------------------------------------------------------------------------------- drawing


def rows_of(draw: Draw, rows: int, count: int, stream: int = 0) -> Array:
    """`count` rows of a table of `rows` rows as int64; tables of one problem take a stream each."""
    seed = draw.seed + 1_000_003 * stream
    unit = _unit(seed, count)
    if draw.reuse:
        ranks = _reuse_ranks(REUSE[draw.reuse], rows, unit, _unit(seed + 500_009, count))
    elif draw.alpha == 0:
        ranks = (unit * rows).astype(np.int64)
    else:
        ranks = zipf_ranks(unit, rows, draw.alpha) - 1
    return scatter(ranks, rows, seed)


def _unit(seed: int, count: int) -> Array:
    unit: Array = (draws(seed, 64, np.arange(count)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return unit


def zipf_ranks(unit: Array, rows: int, alpha: float) -> Array:
    """Ranks 1..rows at the cumulative probabilities `unit` of the law P(k) ~ k**-alpha bounded to `rows`."""
    head = min(rows, _HEAD)
    cumulative = np.cumsum(np.arange(1, head + 1, dtype=np.float64) ** -alpha)
    mass = unit * (cumulative[-1] + _tail(head + 0.5, rows + 0.5, alpha))
    ranks = np.searchsorted(cumulative, mass, side="right") + 1
    beyond = ranks > head
    rest = mass[beyond] - cumulative[-1]
    start = head + 0.5
    if abs(alpha - 1) < 1e-12:
        place = start * np.exp(rest)
    else:
        place = (start ** (1 - alpha) + (1 - alpha) * rest) ** (1 / (1 - alpha))
    ranks[beyond] = np.floor(place + 0.5)
    found: Array = np.clip(ranks, 1, rows)
    return found


def _tail(low: float, high: float, alpha: float) -> float:
    """Integral of t**-alpha from low to high."""
    if high <= low:
        return 0.0
    if abs(alpha - 1) < 1e-12:
        return math.log(high / low)
    return float((high ** (1 - alpha) - low ** (1 - alpha)) / (1 - alpha))


def scatter(ranks: Array, rows: int, seed: int) -> Array:
    """Rows of ranks from 0 by the permutation r -> (a r + b) mod rows, a near the golden section of rows."""
    factor = max(1, int(rows * 0.6180339887498949))
    while math.gcd(factor, rows) != 1:
        factor += 1
    shift = int(draws(seed + 77, 64, np.arange(1))[0] % np.uint64(rows))
    scattered: Array = (ranks.astype(np.int64) * factor + shift) % rows
    return scattered


def _reuse_bins(reuse: Reuse, rows: int) -> tuple[Array, Array]:
    """(rows, share of lookups) of each bin, hottest first, with a row at least in each. Row shares that were printed
    as zero follow from the lookups and the middle of the bin."""
    lookups = np.array(reuse.lookups) / sum(reuse.lookups)
    middle = np.array([1.0, *(1.5 * 2.0**k for k in range(len(lookups) - 1))])
    shares = np.where(np.array(reuse.rows) > 0, reuse.rows, lookups * reuse.mean / middle)
    counts = np.maximum(1, np.floor(shares / shares.sum() * rows)).astype(np.int64)
    counts[0] = max(1, rows - int(counts[1:].sum()))
    return counts[::-1], lookups[::-1]


def _reuse_ranks(reuse: Reuse, rows: int, unit: Array, place: Array) -> Array:
    counts, lookups = _reuse_bins(reuse, rows)
    bins = np.minimum(np.searchsorted(np.cumsum(lookups), unit, side="right"), len(counts) - 1)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    ranks: Array = np.minimum(first[bins] + (place * counts[bins]).astype(np.int64), rows - 1)
    return ranks


def expected_unique(draw: Draw, rows: int, count: int) -> float:
    """Distinct rows that `count` lookups are expected to touch: the sum over rows of 1 - (1 - p)**count."""
    if not rows or not count:
        return 0.0
    if draw.reuse:
        counts, lookups = _reuse_bins(REUSE[draw.reuse], rows)
        touched = counts * -np.expm1(count * np.log1p(-np.minimum(lookups / counts, 1 - 1e-16)))
        return float(min(touched.sum(), rows, count))
    if draw.alpha == 0:
        return float(-rows * np.expm1(count * math.log1p(-1 / rows))) if rows > 1 else 1.0
    head = np.arange(1, min(rows, _HEAD) + 1, dtype=np.float64)
    total = float((head**-draw.alpha).sum()) + _tail(head[-1] + 0.5, rows + 0.5, draw.alpha)
    touched = _touched(head, total, count, draw.alpha).sum()
    if rows > _HEAD:  # the tail by the trapezoid rule on a grid even in log rank
        grid = np.exp(np.linspace(math.log(_HEAD + 0.5), math.log(rows + 0.5), 2000))
        touched += np.trapezoid(_touched(grid, total, count, draw.alpha), grid)
    return float(min(touched, rows, count))


def _touched(rank: Array, total: float, count: int, alpha: float) -> Array:
    share = np.minimum(rank**-alpha / total, 1 - 1e-16)
    touched: Array = -np.expm1(count * np.log1p(-share))
    return touched


# ----------------------------------------------------------------------------------------------------------- statistics


def statistics(indices: Array, rows: int) -> dict[str, float]:
    """What a stream of lookups did: distinct rows over lookups, duplicates, and the share of lookups that went to the
    0.1, 1 and 10% of rows looked up most."""
    flat = np.asarray(indices).ravel()
    if not flat.size:
        return {"lookups": 0, "unique_ratio": 0.0, "duplicates": 0.0}
    counts = np.bincount(flat, minlength=1) if rows <= 8 * flat.size else np.unique(flat, return_counts=True)[1]
    counts = np.sort(counts[counts > 0])[::-1]
    sums = np.cumsum(counts)
    found: dict[str, float] = {
        "lookups": int(flat.size),
        "unique_ratio": len(counts) / flat.size,
        "duplicates": int(flat.size - len(counts)),
    }
    for share in HOT_SHARES:
        hot = min(len(counts), max(1, math.ceil(share * rows)))
        found[f"hit_share_{100 * share:g}%"] = float(sums[hot - 1] / flat.size)
    return found


# --------------------------------------------------------------------------------------------------------------- traces


class Trace(NamedTuple):
    """Recorded lookups: int64 indices, bags + 1 offsets, and weights of the lookups or None."""

    indices: Array
    offsets: Array
    weights: Array | None


def load_trace(path: Path | str, rows: int = 0) -> Trace:
    """A trace from an .npz with `indices`, `offsets` (bags + 1, or bags as torch has them) or `lengths`, and perhaps
    `weights`. `rows`: the table's, 0 where the trace decides. Raises UsageError for anything out of order."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in ("indices", "offsets", "lengths", "weights") if name in arrays}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as an .npz of arrays ({error})") from None
    if "indices" not in held or not ("offsets" in held or "lengths" in held):
        raise UsageError(
            f"{path}: needs the arrays `indices` and `offsets` (or `lengths`); it has {', '.join(held) or 'none'}"
        )
    indices, offsets = _whole(held["indices"], "indices", path), _offsets(held, path)
    if offsets[0] != 0 or offsets[-1] != len(indices) or (np.diff(offsets) < 0).any():
        raise UsageError(
            f"{path}: offsets run from {offsets[0]} to {offsets[-1]}: they must rise from 0 to {len(indices)}"
        )
    if len(indices) and (indices.min() < 0 or (rows and indices.max() >= rows)):
        bad = int(indices.min()) if indices.min() < 0 else int(indices.max())
        raise UsageError(f"{path}: index {bad} is outside of the table's {rows or int(indices.max()) + 1} rows")
    weights = held.get("weights")
    if weights is not None and weights.shape != indices.shape:
        raise UsageError(f"{path}: {weights.size} weights for {len(indices)} indices: write one for each")
    return Trace(indices, offsets, None if weights is None else weights.astype(np.float32))


def _whole(array: Array, name: str, path: Path) -> Array:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(f"{path}: {name} is {array.dtype} of shape {array.shape}: write a list of whole numbers")
    return array.astype(np.int64)


def _offsets(held: dict[str, Array], path: Path) -> Array:
    if "offsets" not in held:
        lengths = _whole(held["lengths"], "lengths", path)
        if (lengths < 0).any():
            raise UsageError(f"{path}: lengths hold {lengths.min()}: a bag has at least 0 lookups")
        return np.concatenate([[0], np.cumsum(lengths)])
    offsets = _whole(held["offsets"], "offsets", path)
    total = len(held["indices"])
    if not len(offsets):
        raise UsageError(f"{path}: offsets are empty: write where each bag begins")
    return offsets if offsets[-1] == total and len(offsets) > 1 else np.append(offsets, total)


def digest(path: Path | str) -> str:
    """Eight hexadecimal digits of a trace's contents, so that an id says which trace it means. Raises UsageError."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
