"""Input data by a counter-based generator: element i depends on the recipe's seed and on i only.

The equal of csrc/cpu/random.h, bit for bit. Word j of a stream is a mix of (seed, j), the finalizer of SplitMix64
(Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014). An element of b bits takes b bits of
word i // (64 / b), the lowest first; so any element can be had without those before it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pykernels.kernels.dtypes import Array, narrow, storage, stored_shape
from pykernels.model import Operand, Recipe

_BITS = {
    "fp64": 64, "fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "uint8": 8, "int4": 4, "int32": 32, "int64": 64,
}  # fmt: skip
_FLOATS = ("fp64", "fp32", "fp16", "bf16")
_U = np.uint64
TAIL_PERIOD = 1 << 16


def words(seed: int, indices: Array) -> Array:
    """64-bit words `indices` of the stream of `seed`, as uint64."""
    with np.errstate(over="ignore"):
        key = _mix(_U((seed + 0x632BE59BD9B4E019) % 2**64))
        mixed: Array = _mix(key + (np.asarray(indices).astype(_U) + _U(1)) * _U(0x9E3779B97F4A7C15))
    return mixed


def draws(seed: int, bits: int, indices: Array) -> Array:
    """Element draws of `bits` random bits each, as uint64."""
    index = np.asarray(indices).astype(_U)
    per = _U(64 // bits)
    word = words(seed, index // per)
    return word if bits == 64 else (word >> (index % per * _U(bits))) & _U(2**bits - 1)


def values(recipe: Recipe, dtype: str, indices: Array) -> Array:
    """Elements `indices` (flat) in storage type; int4 as one signed int8 each. Same shape as `indices`.

    Raises ValueError for a distribution that the dtype does not have.
    """
    if recipe.distribution == "uniform" and dtype in _FLOATS:
        return _uniform(recipe, dtype, indices)
    if recipe.distribution == "integers" and dtype in ("fp64", "fp32"):  # whole numbers, stored as floating point
        return _integers(recipe, f"int{_BITS[dtype]}", indices).astype(storage(dtype))
    if recipe.distribution == "integers" and dtype in _BITS and dtype not in _FLOATS:
        return _integers(recipe, dtype, indices)
    raise ValueError(f"no {recipe.distribution} fill of dtype {dtype}")


def write_row_tails(table: Array, recipe: Recipe) -> None:
    """End the rows of a `quantized` operand, bytes (rows, row bytes), with fp32 scale and bias uniform in [low, high),
    from the stream after the bytes'; they repeat every TAIL_PERIOD rows."""
    count = min(len(table), TAIL_PERIOD)
    tails = values(Recipe("uniform", recipe.seed + 1, recipe.low, recipe.high), "fp32", np.arange(2 * count))
    for start in range(0, len(table), TAIL_PERIOD):
        part = table[start : start + TAIL_PERIOD, -8:]
        part[:] = tails.reshape(count, 2).view(np.uint8)[: len(part)]


def array(operand: Operand) -> Array:
    """The whole of an operand in storage type and stored shape (int4 packed)."""
    count = math.prod(operand.shape)
    if operand.recipe.distribution == "quantized":
        table = values(Recipe("integers", operand.recipe.seed, 0, 256), "uint8", np.arange(count)).reshape(
            operand.shape
        )
        write_row_tails(table, operand.recipe)
        return table
    if operand.recipe.distribution == "cycle":
        from pykernels.kernels.cycle import Cycle

        following = Cycle(operand.shape[1], operand.recipe.seed).successors().astype(np.int64)
        return np.ascontiguousarray(np.broadcast_to(following[None, :, None], operand.shape))
    flat = values(operand.recipe, operand.dtype, np.arange(count))
    if operand.dtype == "int4":
        flat = narrow(flat, "int4")
    return flat.reshape(stored_shape(operand.shape, operand.dtype))


def _uniform(recipe: Recipe, dtype: str, indices: Array) -> Array:
    bits = _BITS[dtype]
    keep = {64: 52, 32: 23, 16: 16}[bits]
    unit = (draws(recipe.seed, bits, indices) >> _U(bits - keep)).astype(np.float64) * 2.0**-keep
    real = recipe.low + (recipe.high - recipe.low) * unit
    low, high = (narrow(np.array([end]), dtype)[0] for end in (recipe.low, recipe.high))
    if bits == 16:
        found = narrow(real.astype(np.float32), dtype)
        return np.where(found == high, low, found)  # rounded up to the end that the range leaves out
    found = real.astype(storage(dtype))
    return np.where(found.astype(np.float64) < recipe.high, found, low)


def _integers(recipe: Recipe, dtype: str, indices: Array) -> Array:
    bits = _BITS[dtype]
    low = int(recipe.low)
    span = int(recipe.high) - low
    draw = draws(recipe.seed, bits, indices)
    offset = _high_product(draw, span) if bits == 64 else draw * _U(span) >> _U(bits)
    return (offset.astype(np.int64) + low).astype(np.int8 if dtype == "int4" else storage(dtype))


def _high_product(draw: Array, span: int) -> Array:
    """Upper 64 bits of draw x span, from products of 32-bit halves."""
    low, high = draw & _U(0xFFFFFFFF), draw >> _U(32)
    span_low, span_high = _U(span % 2**32), _U(span >> 32)
    middle = high * span_low + (low * span_low >> _U(32))
    cross = low * span_high + (middle & _U(0xFFFFFFFF))
    product: Array = high * span_high + (middle >> _U(32)) + (cross >> _U(32))
    return product


def _mix(x: Any) -> Any:
    x = (x ^ (x >> _U(30))) * _U(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U(27))) * _U(0x94D049BB133111EB)
    return x ^ (x >> _U(31))
