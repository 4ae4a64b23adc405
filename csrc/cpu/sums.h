// Sums of the lanes of several vectors at once: for four of 64 bytes 13 instructions, where one by one they are 32.
#pragma once
#include "vec.h"

namespace pk {

// A step of `joined`: lanes whose number has bit B come from the second vector of each pair.
template <int B, int N, int... I>
PK_VEC void join_step(f32v* v, std::integer_sequence<int, I...>) {
  each<N>([&](auto j) __attribute__((always_inline)) {
    const f32v a = v[2 * j], b = v[2 * j + 1];
    if constexpr (B == 1 && N % 2 == 0)  // the next step puts lanes 1 and 2 of four in order: interleaving is cheap
      v[j] = __builtin_shufflevector(a, b, (I / 4 * 4 + I % 4 / 2 + (I & 1 ? F32 : 0))...) +
             __builtin_shufflevector(a, b, (I / 4 * 4 + I % 4 / 2 + 2 + (I & 1 ? F32 : 0))...);
    else
      v[j] = __builtin_shufflevector(a, b, (I & B ? F32 + I - B : I)...) + __builtin_shufflevector(a, b, (I & B ? F32 + I : I + B)...);
  });
}
// Lane i * C + j of the result is the sum of lanes i * C to i * C + C - 1 of v[j], for j < N; B: how many are joined already.
template <int C, int N, int B = 1>
PK_VEC f32v joined(f32v* v) {
  constexpr auto all = std::make_integer_sequence<int, F32>{};
  if constexpr (B <= 1 && C >= 2 && N >= 2) join_step<1, N / 2>(v, all);
  if constexpr (B <= 2 && C >= 4 && N * B >= 4) join_step<2, N * B / 4>(v, all);
  if constexpr (B <= 4 && C >= 8 && N * B >= 8) join_step<4, N * B / 8>(v, all);
  if constexpr (B <= 8 && C >= 16 && N * B >= 16) join_step<8, N * B / 16>(v, all);
  return v[0];
}

using f32x4 = vec<float, 16>;
template <class V>
PK_VEC f32x4 fold(V v) {
  if constexpr (sizeof(V) == 16) return v;
  else return fold(low_half(v) + high_half(v));
}
PK_VEC f32x4 sums_of(f32v a, f32v b, f32v c, f32v d) {
  f32v v[4] = {a, b, c, d};
  return fold(joined<4, 4>(v));
}

}  // namespace pk
