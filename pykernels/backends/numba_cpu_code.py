# mypy: ignore-errors
"""The loops of `numba_cpu`, in the Python that Numba compiles. bf16 and the exponential work on the bits of floats, by
LLVM's bitcast; rows are asked for ahead by LLVM's prefetch. Numba is imported when the first loop is wanted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def compiled() -> dict[str, Callable[..., None]]:
    """Every kernel, jitted lazily."""
    import numpy as np
    from numba import njit, prange

    prefetch, float_of, bits_of, add_exponent = _intrinsics()
    fast = {"reassoc", "contract", "nsz", "arcp"}  # not nnan and ninf: masks are infinite
    jit = njit(parallel=True, fastmath=fast, error_model="numpy", boundscheck=False)
    inline = njit(inline="always", fastmath=fast, error_model="numpy")

    @inline
    def widened(h):
        return float_of(np.uint32(h) << np.uint32(16))

    @inline
    def narrowed(x):
        bits = bits_of(np.float32(x))
        return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    @njit(fastmath={"contract"}, error_model="numpy")  # regrouped, the rounding by a large addend would cancel
    def exp_below(x):
        """e^x for x <= 0 (see csrc/cpu/softmax.cpp); below the smallest normal number, 0."""
        y = max(x, np.float32(-87.0))
        t = y * np.float32(1.4426950408889634) + np.float32(12582912.0)
        n = t - np.float32(12582912.0)
        r = y - n * np.float32(0.693145751953125)
        r = r - n * np.float32(1.42860682030941723212e-6)
        q = np.float32(1.38146e-3)
        q = q * r + np.float32(8.36872e-3)
        q = q * r + np.float32(4.166839e-2)
        q = q * r + np.float32(0.16666521)
        q = q * r + np.float32(0.49999993)
        p = (q * r + np.float32(1.0)) * r + np.float32(1.0)
        return np.float32(0.0) if x < np.float32(-87.0) else add_exponent(p, t)

    @njit(fastmath={"nnan", "nsz", "reassoc"}, error_model="numpy")  # a NaN shows in the sum, so it may be lost here
    def row_max(s):
        top = np.float32(-np.inf)
        for j in range(s.size):
            top = max(top, s[j])
        return top

    @njit(fastmath=fast, error_model="numpy")
    def exp_all(s, base):
        total = np.float32(0)
        for j in range(s.size):
            e = exp_below(s[j] - base)
            s[j] = e
            total += e
        return total

    def bag_kernel(row_times):
        @jit
        def bags(table, indices, offsets, weights, weighted, out, mean, ahead, first, reps):
            count, dim = out.shape
            for turn in range(first, first + reps):
                index = indices[turn % indices.shape[0]]
                last = index.size - 1
                for bag in prange(count):
                    total = out[bag]
                    total[:] = np.float32(0)
                    for i in range(offsets[bag], offsets[bag + 1]):
                        if ahead:
                            prefetch(table, index[min(i + ahead, last)])
                        row = table[index[i]]
                        weight = weights[i] if weighted else np.float32(1)
                        for d in range(dim):
                            total[d] += row_times(row[d]) * weight
                    length = offsets[bag + 1] - offsets[bag]
                    if mean and length:
                        total *= np.float32(1) / np.float32(length)

        return bags

    @inline
    def same(x):
        return x

    @jit
    def bags_int8(table, tails, indices, offsets, weights, weighted, out, mean, ahead, first, reps):
        count, dim = out.shape
        for turn in range(first, first + reps):
            index = indices[turn % indices.shape[0]]
            last = index.size - 1
            for bag in prange(count):
                total = out[bag]
                total[:] = np.float32(0)
                bias = np.float32(0)
                for i in range(offsets[bag], offsets[bag + 1]):
                    if ahead:
                        prefetch(table, index[min(i + ahead, last)])
                    row = table[index[i]]
                    weight = weights[i] if weighted else np.float32(1)
                    scale = tails[index[i], 0] * weight
                    bias += tails[index[i], 1] * weight
                    for d in range(dim):
                        total[d] += np.float32(row[d]) * scale
                length = offsets[bag + 1] - offsets[bag]
                divide = np.float32(1) / np.float32(length) if mean and length else np.float32(1)
                for d in range(dim):
                    total[d] = (total[d] + bias) * divide

    @jit
    def gather(table, indices, out, first, reps):
        for turn in range(first, first + reps):
            index = indices[turn % indices.shape[0]]
            for i in prange(out.shape[0]):
                row = table[index[i]]
                for d in range(out.shape[1]):
                    out[i, d] = row[d]

    @jit
    def gemv(a, x, y, parts, first, reps):
        rows, cols = a.shape
        for turn in range(first, first + reps):
            part = turn % parts
            for i in prange(rows * part // parts, rows * (part + 1) // parts):
                row = a[i]
                for b in range(x.shape[0]):
                    vector = x[b]
                    total = row[0] * np.float32(0)
                    for j in range(cols):
                        total += row[j] * vector[j]
                    y[b, i] = total

    @njit(fastmath=fast, error_model="numpy")
    def bf16_dot(weights, x):
        some = np.float32(0)
        for j in range(weights.size):
            some += widened(weights[j]) * x[j]
        return some

    @jit
    def gemv_bf16(a, x, y, parts, first, reps):
        rows = a.shape[0]
        for turn in range(first, first + reps):
            part = turn % parts
            wide = np.empty(x.shape, np.float32)  # x is widened once a pass, not once a row
            for b in range(x.shape[0]):
                for j in range(x.shape[1]):
                    wide[b, j] = widened(x[b, j])
            for i in prange(rows * part // parts, rows * (part + 1) // parts):
                for b in range(x.shape[0]):
                    y[b, i] = narrowed(bf16_dot(a[i], wide[b]))

    @njit(fastmath=fast, error_model="numpy")  # a function of its own, or its loop is not made of vectors
    def int8_dot(weights, x):
        some = np.float32(0)
        for j in range(weights.size):
            some += np.float32(weights[j]) * x[j]
        return some

    @jit
    def gemv_int8(a, scales, x, y, parts, first, reps):
        rows, cols = a.shape
        for turn in range(first, first + reps):
            part = turn % parts
            for i in prange(rows * part // parts, rows * (part + 1) // parts):
                row = a[i]
                for b in range(x.shape[0]):
                    vector = x[b]
                    total = np.float32(0)
                    for g in range(scales.shape[1]):
                        low, high = 128 * g, min(128 * g + 128, cols)
                        total += int8_dot(row[low:high], vector[low:high]) * scales[i, g]
                    y[b, i] = total

    def softmax_kernel(value, put):
        @jit
        def softmax(x, mask, out, scale, parts, first, reps):
            rows, width = x.shape
            factor = np.float32(scale)
            for turn in range(first, first + reps):
                part = turn % parts
                for i in prange(rows * part // parts, rows * (part + 1) // parts):
                    row, to = x[i], out[i]
                    room = np.empty(width + 16, np.float32)  # vectors that cross lines cost twice
                    skip = (64 - room.ctypes.data % 64) % 64 // 4
                    s = room[skip : skip + width]
                    for j in range(width):
                        v = value(row[j]) * factor
                        if mask.size:
                            v += mask[j]
                        s[j] = v
                    top = row_max(s)
                    base = np.float32(0) if top == np.float32(-np.inf) else top
                    total = exp_all(s, base)
                    inverse = np.float32(1) / total if total != np.float32(0) else np.float32(0)
                    for j in range(width):
                        to[j] = put(s[j] * inverse)

        return softmax

    return {
        "bags": bag_kernel(same), "bags_bf16": bag_kernel(widened), "bags_int8": bags_int8, "gather": gather,
        "gemv": gemv, "gemv_bf16": gemv_bf16, "gemv_int8": gemv_int8,
        "softmax": softmax_kernel(same, same), "softmax_bf16": softmax_kernel(widened, narrowed),
    }  # fmt: skip


def _intrinsics() -> tuple[Any, Any, Any, Any]:
    """(prefetch a row of a 2-d array, float32 of uint32 bits, uint32 bits of float32, and a float32 times two to the
    whole number that the low bits of another hold)."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic
    def prefetch(typingctx: Any, array: Any, row: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = signature.args[0]
            held = context.make_array(kind)(context, builder, args[0])
            strides = cgutils.unpack_tuple(builder, held.strides)
            i64, i32, byte = ir.IntType(64), ir.IntType(32), ir.IntType(8)
            index = context.cast(builder, args[1], signature.args[1], types.int64)
            start = builder.add(builder.ptrtoint(held.data, i64), builder.mul(strides[0], index))
            function = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(ir.VoidType(), [byte.as_pointer(), i32, i32, i32]),
                "llvm.prefetch.p0",
            )
            with cgutils.for_range_slice(builder, i64(0), strides[0], i64(64), i64) as (offset, _):
                pointer = builder.inttoptr(builder.add(start, offset), byte.as_pointer())
                builder.call(function, [pointer, i32(0), i32(3), i32(1)])
            return context.get_dummy_value()

        return types.void(array, row), codegen

    @intrinsic
    def float_of(typingctx: Any, bits: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            whole = context.cast(builder, args[0], signature.args[0], types.uint32)
            return builder.bitcast(whole, ir.FloatType())

        return types.float32(bits), codegen

    @intrinsic
    def bits_of(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], ir.IntType(32))

        return types.uint32(types.float32), codegen

    @intrinsic
    def add_exponent(typingctx: Any, value: Any, rounded: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i32 = ir.IntType(32)  # Numba's own sums of 32-bit integers have 64
            whole = builder.shl(builder.bitcast(args[1], i32), i32(23))
            return builder.bitcast(builder.add(builder.bitcast(args[0], i32), whole), ir.FloatType())

        return types.float32(types.float32, types.float32), codegen

    return prefetch, float_of, bits_of, add_exponent
