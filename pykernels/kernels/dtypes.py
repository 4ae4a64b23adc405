"""Storage types as NumPy sees them, and their widening and narrowing (round to nearest even).

bf16 travels as uint16 bit patterns, int4 as packed uint8 with the low nibble first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pykernels.errors import unknown

Array = np.ndarray[Any, Any]

#: dtype -> the NumPy type of its storage
STORAGE: dict[str, type[Any]] = {
    "fp64": np.float64, "fp32": np.float32, "fp16": np.float16, "bf16": np.uint16, "int8": np.int8,
    "uint8": np.uint8, "int4": np.uint8, "int32": np.int32, "int64": np.int64,
}  # fmt: skip

#: dtype -> unit roundoff of the floating-point types
ROUNDOFF = {"fp64": 2.0**-53, "fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}


def storage(dtype: str) -> np.dtype[Any]:
    """The NumPy type that holds elements of `dtype`; raises UsageError for an unknown one."""
    if dtype not in STORAGE:
        raise unknown("dtype", dtype, STORAGE)
    return np.dtype(STORAGE[dtype])


def stored_shape(shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """Shape of the storage array: int4 packs two elements of the last axis (of even length) into a byte."""
    if dtype != "int4":
        return shape
    if shape[-1] % 2:
        raise ValueError(f"int4 needs an even last axis, not {shape}")
    return (*shape[:-1], shape[-1] // 2)


def stored_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of an array of that logical shape."""
    return int(np.prod(stored_shape(shape, dtype), dtype=np.int64)) * storage(dtype).itemsize


def widen(array: Array, dtype: str) -> Array:
    """float64 (floating point), int64 (integers) values of a storage array; int4 unpacks to twice the last axis."""
    if dtype == "bf16":
        with np.errstate(invalid="ignore"):  # signalling NaN patterns
            return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype == "int4":
        nibbles = np.stack((array & 15, array >> 4), axis=-1).reshape(*array.shape[:-1], -1).astype(np.int64)
        return (nibbles ^ 8) - 8
    return array.astype(np.float64 if dtype in ROUNDOFF else np.int64)


def narrow(values: Array, dtype: str) -> Array:
    """Storage array of `values`: floating point rounds to nearest even (bf16 by way of fp32), integers must fit."""
    if dtype == "bf16":
        with np.errstate(invalid="ignore", over="ignore"):
            bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
    if dtype == "int4":
        pairs = (np.asarray(values).astype(np.int64) & 15).astype(np.uint8).reshape(*values.shape[:-1], -1, 2)
        return pairs[..., 0] | pairs[..., 1] << 4
    return np.asarray(values).astype(storage(dtype))
