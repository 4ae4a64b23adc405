// Norms of a row and pointwise functions, fp32 arithmetic on fp32 or bf16 storage; norm.cpp, pointwise.cpp and layer.cpp.
#pragma once
#include "exp.h"
#include "table.h"

namespace pk {

// The first n (at most a vector) elements at p, zeros beyond; and back.
PK_INLINE f32v get(const float* p) { return loadu<f32v>(p); }
PK_INLINE f32v get(const uint16_t* p) { return load_bf16(p); }
PK_INLINE void set(float* p, f32v v) { storeu(p, v); }
PK_INLINE void set(uint16_t* p, f32v v) { store_bf16_quick(p, v); }
template <class E>
PK_INLINE f32v get_first(const E* p, int64_t n) {
  E x[F32] = {};
  __builtin_memcpy(x, p, size_t(n) * sizeof(E));
  return get(x);
}
template <class E>
PK_INLINE void set_first(E* p, f32v v, int64_t n) {
  E x[F32];
  set(x, v);
  __builtin_memcpy(p, x, size_t(n) * sizeof(E));
}

enum Norm { LAYER_NORM, RMS_NORM };
inline constexpr float NORM_EPSILON = 1e-5f;

// out = norm(x + residual) gamma + beta over n elements; residual (and, for RMS, beta) may be null. Moments are taken in
// one pass, about the row's first element (RMS: about 0), which keeps the digits of a variance far below the mean.
template <Norm norm, class E>
PK_INLINE void norm_row(const E* x, const E* residual, const E* gamma, const E* beta, E* out, int64_t n) {
  auto at = [&](int64_t i) __attribute__((always_inline)) { return residual ? get(x + i) + get(residual + i) : get(x + i); };
  auto first = [&](int64_t i, int64_t m) __attribute__((always_inline)) {
    return residual ? get_first(x + i, m) + get_first(residual + i, m) : get_first(x + i, m);
  };
  const float shift = norm == LAYER_NORM ? first(0, 1)[0] : 0.0f;
  f32v s0{}, s1{}, q0{}, q1{};
  int64_t i = 0;
  for (; i + 2 * F32 <= n; i += 2 * F32) {
    const f32v a = at(i) - shift, b = at(i + F32) - shift;
    s0 += a, s1 += b, q0 = fma(a, a, q0), q1 = fma(b, b, q1);
  }
  for (; i < n; i += F32) {
    f32v a = first(i, n - i < F32 ? n - i : F32) - shift;
    for (int64_t j = n - i; j < F32; ++j) a[j] = 0;
    s0 += a, q0 = fma(a, a, q0);
  }
  const float mean = hsum(s0 + s1) / float(n), square = hsum(q0 + q1) / float(n);
  const float variance = norm == LAYER_NORM ? square - mean * mean : square;
  const float scale = 1 / __builtin_sqrtf((variance > 0 || variance != variance ? variance : 0) + NORM_EPSILON);
  const float less = norm == LAYER_NORM ? shift + mean : 0.0f;
  for (i = 0; i + F32 <= n; i += F32) {
    const f32v y = (at(i) - less) * scale * get(gamma + i);
    set(out + i, norm == LAYER_NORM ? y + get(beta + i) : y);
  }
  if (i < n) {
    const f32v y = (first(i, n - i) - less) * scale * get_first(gamma + i, n - i);
    set_first(out + i, norm == LAYER_NORM ? y + get_first(beta + i, n - i) : y, n - i);
  }
}

// x / (1 + e^-x), and GELU in its tanh form, which is x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
PK_INLINE f32v silu(f32v x) { return x / (vexp(-x) + 1.0f); }
PK_INLINE f32v gelu(f32v x) {
  const f32v t = x * x * -0.0713548162726f - 1.5957691216057f;
  return x / (vexp(x * t) + 1.0f);
}

enum Point { GELU, SILU, RESIDUAL_ADD };
template <Point op, class E>
PK_INLINE void points(const E* a, const E* b, E* out, int64_t n) {
  auto f = [](f32v x, f32v y) __attribute__((always_inline)) {
    if constexpr (op == GELU) return gelu(x);
    else if constexpr (op == SILU) return silu(x);
    else return x + y;
  };
  int64_t i = 0;
  for (; i + 2 * F32 <= n; i += 2 * F32) {
    f32v y0{}, y1{};
    if constexpr (op == RESIDUAL_ADD) y0 = get(b + i), y1 = get(b + i + F32);
    const f32v r0 = f(get(a + i), y0), r1 = f(get(a + i + F32), y1);
    set(out + i, r0), set(out + i + F32, r1);
  }
  for (; i < n; i += F32) {
    const int64_t m = n - i < F32 ? n - i : F32;
    f32v y{};
    if constexpr (op == RESIDUAL_ADD) y = get_first(b + i, m);
    set_first(out + i, f(get_first(a + i, m), y), m);
  }
}

}  // namespace pk
