"""The answers behind `pykernels wall precision` and `wall sparsity`: what smaller formats gain, from bytes, under roofs
and measured."""

from __future__ import annotations

import msgspec

from pykernels.analysis.wall import measured, precision, predict, sparsity
from pykernels.analysis.wall.pages import MEASURE, Context
from pykernels.analysis.wall.roofs import Place


class Precision(msgspec.Struct):
    """Gains of low precision: from all bytes by format and batch, under measured roofs, and measured."""

    rows: int
    cols: int
    base: str
    bytes_per_weight: dict[str, float]
    gains: list[precision.Gain]
    balances: list[precision.Balance]
    predicted: dict[str, list[precision.Gain]] = {}
    measured: list[measured.MeasuredGain] = []
    vanishing: dict[str, int | None] = {}
    measure_with: str = ""


def precision_page(
    *, rows: int = 4096, cols: int = 4096, base: str = "fp32", found: Context | None = None
) -> Precision:
    """Byte ratios of every format over `base`; with a run, times under its roofs and the measured products."""
    page = Precision(
        rows,
        cols,
        precision.format_of(base).name,
        {name: form.bytes_per_weight(cols) for name, form in precision.FORMATS.items()},
        precision.table(rows, cols, base),
        precision.balances(),
    )
    if found is None:
        page.measure_with = MEASURE
        return page
    for place in found.places:
        if gains := _timed_gains(rows, cols, base, place):
            page.predicted[f"{place.device}*{place.threads}"] = gains
    where = {(place.device, place.threads): place for place in found.places}
    page.measured = measured.precision_gains(found.cases, where)
    page.vanishing = measured.vanishing_batch(page.measured)
    if not page.measured:
        page.measure_with = MEASURE
    return page


def _timed_gains(rows: int, cols: int, base: str, place: Place) -> list[precision.Gain]:
    """Gains of the formats whose arithmetic has a measured peak here; the others are left out."""
    slow = place.peak(base)
    if slow is None:
        return []
    found = []
    for name in ("bf16", "int8", "int4"):
        peak = place.peak(predict.ARITHMETIC[name])
        kept = precision.format_of(name)
        rate = place.bandwidth(place.level_of(rows * cols * kept.bytes_per_weight(cols)), name, reads=True)
        if peak and rate:
            found += [
                precision.timed_gain(
                    rows, cols, batch, kept, precision.format_of(base), peaks=(peak.value, slow.value),
                    bandwidth=rate.value,
                )
                for batch in precision.BATCHES
            ]  # fmt: skip
    return found


class Sparsity(msgspec.Struct):
    """Traffic of pruned matrices by format and density, break-even densities, and the measured sparse product."""

    dtype: str
    savings: list[sparsity.Saving]
    break_evens: dict[str, float]
    points: list[measured.SparsePoint] = []
    measured: list[measured.BreakEven] = []
    measure_with: str = ""


def sparsity_page(*, dtype: str = "fp16", found: Context | None = None) -> Sparsity:
    """Bytes at every density; with a run, the measured gains over dense and where they cross 1."""
    value = sparsity.value_bytes(dtype)
    page = Sparsity(
        dtype, sparsity.table(dtype), {form: sparsity.break_even(form, value=value) for form in sparsity.FORMATS}
    )
    if found is not None:
        page.points = measured.sparse_points(found.cases)
        page.measured = measured.break_evens(page.points)
    if not page.measured:
        page.measure_with = MEASURE
    return page
