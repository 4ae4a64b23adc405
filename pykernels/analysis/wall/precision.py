"""What low precision gains a matrix product, from ALL its bytes: weights with their scales, activations in and out.

bytes per weight = (bits + (scale bits + zero bits) / group) / 8. A memory-bound product gains the ratio of all bytes, a
compute-bound one the ratio of peaks; the gain therefore falls with the batch and no format gains more than its byte
ratio from memory.
"""

from __future__ import annotations

import msgspec

from pykernels.analysis.wall import data
from pykernels.errors import UsageError, unknown

BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Format(msgspec.Struct, frozen=True):
    """Storage of weights: bits, scale and zero-point bits per group (group 0: one per row), and bytes per
    activation."""

    name: str
    bits: float
    scale_bits: int = 0
    zero_bits: int = 0
    group: int = 0
    activation: int = 2

    def bytes_per_weight(self, row: int = 0) -> float:
        """Bytes of a weight, scales included; `row` is the length of a row, needed where a row has one scale."""
        extra = self.scale_bits + self.zero_bits
        group = self.group or row
        if extra and not group:
            raise UsageError(f"{self.name} has one scale per row: the length of a row is needed")
        return (self.bits + (extra / group if extra else 0.0)) / 8


FORMATS = {
    found.name: found
    for found in (
        Format("fp32", 32, activation=4),
        Format("bf16", 16),
        Format("fp16", 16),
        Format("int8", 8, 32, 32),
        Format("int4", 4, 32, 32),
        Format("int4-g128", 4, 16, 4, 128),
        Format("mxfp8", 8, 8, 0, 32),
        Format("mxfp4", 4, 8, 0, 32),
        Format("nvfp4", 4, 8, 0, 16),
    )
}


def format_of(name: str) -> Format:
    """The format of that name; UsageError for an unknown one."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


def product_bytes(rows: int, cols: int, batch: int, kept: Format) -> float:
    """Bytes of (rows x cols) times (cols x batch): weights once, activations read and written once."""
    for name, value in (("rows", rows), ("cols", cols), ("batch", batch)):
        if value < 1:
            raise UsageError(f"{name} is {value}, it must be at least 1")
    return rows * cols * kept.bytes_per_weight(cols) + batch * (rows + cols) * kept.activation


class Gain(msgspec.Struct, frozen=True):
    """Predicted gain of a format over a base at one batch: from bytes alone (the bound), and as times under given
    roofs."""

    format: str
    batch: int
    byte_ratio: float
    intensity: float
    gain: float | None = None
    bound: str = ""


def gain(rows: int, cols: int, batch: int, kept: Format, base: Format) -> Gain:
    """Byte ratio of `base` over `kept` and the FLOP per byte of `kept`."""
    moved = product_bytes(rows, cols, batch, kept)
    return Gain(kept.name, batch, product_bytes(rows, cols, batch, base) / moved, 2.0 * rows * cols * batch / moved)


def timed_gain(
    rows: int, cols: int, batch: int, kept: Format, base: Format, *, peaks: tuple[float, float], bandwidth: float
) -> Gain:
    """The same under roofs: `peaks` of kept and base in FLOP/s, `bandwidth` in bytes/s; T = max(FLOP/peak, bytes/B)."""
    found = gain(rows, cols, batch, kept, base)
    flops = 2.0 * rows * cols * batch

    def seconds(form: Format, peak: float) -> tuple[float, str]:
        compute, memory = flops / peak, product_bytes(rows, cols, batch, form) / bandwidth
        return max(compute, memory), "compute" if compute > memory else "memory"

    fast, bound = seconds(kept, peaks[0])
    slow, _ = seconds(base, peaks[1])
    return msgspec.structs.replace(found, gain=slow / fast, bound=bound)


def table(rows: int, cols: int, base: str = "fp32", formats: tuple[str, ...] = tuple(FORMATS)) -> list[Gain]:
    """Gains of every format over `base` at every batch, from bytes alone."""
    return [gain(rows, cols, batch, format_of(name), format_of(base)) for name in formats for batch in BATCHES]


def balance_batch(ridge: float, bytes_per_weight: float) -> float:
    """Batch from which a product with long rows is compute-bound: ridge times bytes per weight / 2 (activations left
    out, so a lower bound)."""
    return ridge * bytes_per_weight / 2


class Balance(msgspec.Struct, frozen=True):
    """A device's 16-bit ridge and the batch that makes decoding compute-bound."""

    device: str
    basis: str
    ridge: float
    batch: float


def balances() -> list[Balance]:
    """Batch that makes bf16 decoding compute-bound on every device with a published 16-bit matrix peak."""
    found = []
    for device in data.devices().values():
        ridge = device.ridge("16-bit matrix")
        if ridge:
            basis = "derived" if device.derived else "published"
            found.append(Balance(device.name, basis, ridge, balance_batch(ridge, 2)))
    return found
