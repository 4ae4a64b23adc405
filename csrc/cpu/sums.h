// Sums of the lanes of four vectors at once: 13 instructions of a 64-byte vector, where one by one they are 32.
#pragma once
#include "vec.h"

namespace pk {

// In each 16 bytes: the pieces of one half of a's and of b's, in turn.
template <int Half, int Piece, int... I>
PK_VEC f32v zip(f32v a, f32v b, std::integer_sequence<int, I...>) {
  constexpr auto from = [](int i) {
    const int k = i % 4, piece = k / Piece, inside = k % Piece;
    return i / 4 * 4 + 2 * Half + (Piece == 1 ? piece / 2 : inside) + (piece % 2 ? F32 : 0);
  };
  return __builtin_shufflevector(a, b, from(I)...);
}

using f32x4 = vec<float, 16>;
template <class V>
PK_VEC f32x4 fold(V v) {
  if constexpr (sizeof(V) == 16) return v;
  else return fold(low_half(v) + high_half(v));
}
PK_VEC f32x4 sums_of(f32v a, f32v b, f32v c, f32v d) {
  constexpr auto all = std::make_integer_sequence<int, F32>{};
  const f32v ab = zip<0, 1>(a, b, all) + zip<1, 1>(a, b, all), cd = zip<0, 1>(c, d, all) + zip<1, 1>(c, d, all);
  const f32v sum = zip<0, 2>(ab, cd, all) + zip<1, 2>(ab, cd, all);
  return fold(sum);
}

}  // namespace pk
