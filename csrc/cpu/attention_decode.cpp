// Attention of few query rows over a run of keys, K and V read once: decode, where every byte counts. attention.h states it.
//
// A vector of scores holds R rows times C = lanes / R keys: lane i * C + j is row i with key j. Queries are packed so that C
// groups of K, repeated R times, multiply R rows at once; what is left to add up afterwards are C lanes, not a whole vector.
// There are S such sets of rows, for which K is loaded once.
//
// Keys come in blocks. The scores of a block are taken, the weighted rows of V of the block before it are added, and then the
// scores become weights: no step waits for the one before it.
#include <algorithm>

#include "attention.h"
#include "sums.h"

using namespace pk;

static constexpr int L = F32, SUMS = PK_REGISTERS == 32 ? 16 : 8;  // vectors of sums that stay in registers
static constexpr float NONE = -__builtin_inff(), LOWEST = -0x1.fffffep127f;
// Bytes of K in a block, or half of that where several rows read its V from the L1.
static constexpr int64_t BLOCK_BYTES = 64 << 10, LEAST_KEYS = 16;

// Asks for rows `bytes` long, `row` bytes apart, into the L2; p: the row that is wanted when row 0 is read, or null.
struct Ahead {
  const char* p;
  int64_t row, bytes;
  PK_INLINE void ask(int64_t from, int64_t n) const {
    if (!p) return;
    for (int64_t j = from; j < from + n; ++j)
      for (int64_t b = 0; b < bytes; b += 64)
        prefetch_l2(p, j * row + b);
  }
};
template <class E>
PK_INLINE Ahead ahead_of(const E* from, int64_t row, int64_t dim, int64_t rows) {  // by way of an integer: it may lie beyond the array
  const uintptr_t p = reinterpret_cast<uintptr_t>(from) + uintptr_t(rows * row) * sizeof(E);
  return {rows ? reinterpret_cast<const char*>(p) : nullptr, row * int64_t(sizeof(E)), dim * int64_t(sizeof(E))};
}

// ------------------------------------------------------------------------------------------------------------ scores

// Keys whose sums are in registers at a time: few for a single row, so that memory is read nearly in order. A turn of `scores`
// takes at least a vector of scores.
template <int R, int S>
inline constexpr int sums_keys = R * S == 1 ? 4 : SUMS / S;
template <int R, int S>
inline constexpr int keys_at_once = sums_keys<R, S> > L / R ? sums_keys<R, S> : L / R;

// out[t * S + x]: set x with the C keys from t * C on; top[x] grows with them. Rows of K are `row` bytes apart.
template <class M, int R, int S>
PK_INLINE void scores(const char* q, const char* k, int64_t row, int64_t chunks, float* out, f32v* top) {
  using G = vec<typename M::G>;
  constexpr int C = L / R, P = sums_keys<R, S>, T = P > C ? P / C : 1, H = C > P ? C / P : 1, N = C < P ? C : P;
  f32v half[H * S];
  each<H>([&](auto part) __attribute__((always_inline)) {
    f32v s[P * S];
    each<P * S>([&](auto i) __attribute__((always_inline)) { s[i] = f32v{}; });
    const char *from = q, *k0 = k + part * P * row, *k1 = k0 + 4 % P * row, *k2 = k0 + 8 % P * row, *k3 = k0 + 12 % P * row;
    for (int64_t c = 0; c < chunks; ++c) {
      G x[S];
      each<S>([&](auto i) __attribute__((always_inline)) { x[i] = peek<G>(from + i * sizeof(G)); });
      each<P>([&](auto j) __attribute__((always_inline)) {
        const char* at = (j < 4 ? k0 : j < 8 ? k1 : j < 12 ? k2 : k3) + j % 4 * row;
        const G y = repeat<G, C * 4>(at);
        each<S>([&](auto i) __attribute__((always_inline)) {
          constexpr int place = (j / N * S + i) * N + j % N;
          s[place] = M::madd(s[place], x[i], y);
        });
      });
      from += S * sizeof(G), k0 += C * 4, k1 += C * 4, k2 += C * 4, k3 += C * 4;
    }
    each<T * S>([&](auto i) __attribute__((always_inline)) {
      const f32v sum = joined<C, N>(s + i * N);
      if constexpr (H == 1) storeu(out + i * L, sum), top[i % S] = vmax(top[i % S], sum);
      else half[i * H + part] = sum;
    });
  });
  if constexpr (H > 1)
    each<S>([&](auto i) __attribute__((always_inline)) {
      const f32v sum = joined<C, H, P>(half + i * H);
      storeu(out + i * L, sum), top[i] = vmax(top[i], sum);
    });
}

// ----------------------------------------------------------------------------------------------------------- weights

// 2^(e d) for d <= 0, 0 below 2^-126, NaN for NaN; least: -127 / e. Relative error 1e-7, or 1e-4 for weights that are rounded
// to bf16 (minimax on |r| <= 1/2).
template <bool Coarse>
PK_INLINE f32v power_of_two(f32v d, f32v e, f32v least) {
  const f32v magic = broadcast<f32v>(0x1.8000fep23f);  // adding it rounds to a whole number, left in the low bits, and 127
  d = least > d ? least : d;
  const f32v t = fma(d, e, magic), r = fma(d, e, magic - t);
  f32v p;
  if constexpr (Coarse) {
    p = fma(r, broadcast<f32v>(0x1.c3f76p-5f), broadcast<f32v>(0x1.f0de1ap-3f));
  } else {
    p = fma(r, broadcast<f32v>(0x1.5c08e6p-10f), broadcast<f32v>(0x1.3d0c52p-7f));
    p = fma(r, p, broadcast<f32v>(0x1.c6b6e4p-5f));
    p = fma(r, p, broadcast<f32v>(0x1.ebf918p-3f));
  }
  p = fma(r, p, broadcast<f32v>(Coarse ? 0x1.62f31ap-1f : 0x1.62e428p-1f));
  p = fma(r, p, broadcast<f32v>(Coarse ? 0x1.fff692p-1f : 0x1.000002p0f));
  return p * (f32v)((u32v)t << 23);
}

// Every lane gets the largest of its C lanes.
template <int C, int B = 1, int... I>
PK_INLINE f32v widest(f32v v, std::integer_sequence<int, I...> all) {
  if constexpr (B < C) return widest<C, B * 2>(vmax(v, f32v(__builtin_shufflevector(v, v, (I ^ B)...))), all);
  else return v;
}

// What a set keeps over the blocks: the largest score of each row in all of the row's lanes, and sums of weights by lane.
struct Kept {
  f32v max, sum;
};

// Weights e^(scale (s - max)) of a block of `steps`, whose largest score by lane is `top`; exponent: scale log2 e. Rows of o
// (dim long) follow a larger maximum.
template <int R, int S, bool Coarse, class W>
PK_INLINE void weigh(const float* s, const f32v* top, W* w, int64_t steps, float exponent, Kept* kept, float* o, int64_t dim) {
  constexpr int C = L / R;
  const f32v e = broadcast<f32v>(exponent), least = broadcast<f32v>(-127 / exponent);
  each<S>([&](auto x) __attribute__((always_inline)) {
    f32v max = kept[x].max, sum = kept[x].sum;
    if (any_above(top[x], max)) {
      const f32v now = widest<C>(vmax(top[x], max), std::make_integer_sequence<int, L>{});
      const f32v factor = power_of_two<false>(max - now, e, least);
      float lane[L];
      storeu(lane, factor);
      for (int i = 0; i < R; ++i)
        for (int64_t d = 0; d < dim && lane[i * C] != 1; d += L) {
          float* p = o + (x * R + i) * dim + d;
          storeu(p, loadu<f32v>(p) * lane[i * C]);
        }
      sum = sum * factor, max = kept[x].max = now;
    }
    for (int64_t t = 0; t < steps; ++t) {
      const f32v y = power_of_two<Coarse>(loadu<f32v>(s + (t * S + x) * L) - max, e, least);
      sum += y;
      if constexpr (sizeof(W) == 2) store_bf16_quick(w + (t * S + x) * L, y);
      else storeu(w + (t * S + x) * L, y);
    }
    kept[x].sum = sum;
  });
}

// ------------------------------------------------------------------------------------------------------------ values

// Where row r of sets of R rows has its weights.
template <int R>
PK_INLINE constexpr int weight_at(int r) { return r / R * L + r % R * (L / R); }

// o (N rows of dim) += w v over n keys, a few vectors of dim at a time; w: weights of the rows' sets, steps `w_step` apart.
template <int R, int N>
PK_INLINE void add_weighted(const float* w, int64_t w_step, const float* v, int64_t v_row, int64_t n, int64_t dim, float* o,
                            Ahead ahead) {
  constexpr int C = L / R, Q = C < 4 ? C : 4, V = SUMS / 4, U = N == 1 && Q > 1 ? 2 : 1;  // U: keys with sums of their own
  for (int64_t d = 0; d < dim; d += V * L) {
    f32v s[U * N * V];
    each<U * N * V>([&](auto i) __attribute__((always_inline)) {
      s[i] = i < N * V ? loadu<f32v>(o + i / V * dim + d + i % V * L) : f32v{};
    });
    const float *at = v + d, *weight = w;
    auto key = [&](auto u, const float* p, const float* lane) __attribute__((always_inline)) {
      f32v x[V];
      each<V>([&](auto i) __attribute__((always_inline)) { x[i] = loadu<f32v>(p + i * L); });
      each<N>([&](auto r) __attribute__((always_inline)) {
        const f32v factor = broadcast<f32v>(lane[weight_at<R>(r)]);
        each<V>([&](auto i) __attribute__((always_inline)) {
          constexpr int place = (u % U * N + r) * V + i;
          s[place] = fma(factor, x[i], s[place]);
          consume(s[place]);
        });
      });
    };
    int64_t j = 0;
    for (; j + Q <= n; j += Q) {
      if (d == 0) ahead.ask(j, Q);
      each<Q>([&](auto u) __attribute__((always_inline)) { key(u, at + u * v_row, weight + u); });
      at += Q * v_row, weight += Q == C || (j + Q) % C == 0 ? w_step - (C - Q) : Q;
    }
    for (; j < n; ++j, at += v_row, ++weight) key(std::integral_constant<int, 0>{}, at, weight);
    each<N * V>([&](auto i) __attribute__((always_inline)) {
      f32v sum = s[i];
      if constexpr (U == 2) sum += s[N * V + i];
      storeu(o + i / V * dim + d + i % V * L, sum);
    });
  }
}

#if PK_HAS_BF16_DOT
// The same by dot products of pairs of keys. Two vectors of o hold the dims of one of v as interleaving 16-byte parts of two
// rows leaves them; `ordered` puts them right.
template <int... I>
PK_INLINE void interleave(vec<uint16_t> a, vec<uint16_t> b, i32v* out, std::integer_sequence<int, I...>) {
  constexpr int N = 2 * L;
  out[0] = (i32v)__builtin_shufflevector(a, b, (I / 8 * 8 + I % 8 / 2 + (I & 1 ? N : 0))...);
  out[1] = (i32v)__builtin_shufflevector(a, b, (I / 8 * 8 + I % 8 / 2 + 4 + (I & 1 ? N : 0))...);
}
template <int... I>
PK_INLINE void ordered(float* p, std::integer_sequence<int, I...>) {
  const f32v a = loadu<f32v>(p), b = loadu<f32v>(p + L);
  storeu(p, f32v(__builtin_shufflevector(a, b, ((I & 4 ? L : 0) + I / 8 * 4 + I % 4)...)));
  storeu(p + L, f32v(__builtin_shufflevector(a, b, ((I & 4 ? L : 0) + (L + I) / 8 * 4 + I % 4)...)));
}
template <int R, int N>
PK_INLINE void add_weighted(const uint16_t* w, int64_t w_step, const uint16_t* v, int64_t v_row, int64_t n, int64_t dim, float* o,
                            Ahead ahead) {
  constexpr int C = L / R, Q = C < 4 ? C : 4, V = N > 4 ? 2 : 4;
  using H = vec<uint16_t>;
  for (int64_t d = 0; d < dim; d += V * L) {
    f32v s[N * V];
    each<N * V>([&](auto i) __attribute__((always_inline)) { s[i] = loadu<f32v>(o + i / V * dim + d + i % V * L); });
    const uint16_t *at = v + d, *weight = w;
    auto pair = [&](const uint16_t* p, bool both, const uint16_t* lane) __attribute__((always_inline)) {
      i32v x[V];
      each<V / 2>([&](auto i) __attribute__((always_inline)) {
        const H a = loadu<H>(p + i * 2 * L), b = both ? loadu<H>(p + v_row + i * 2 * L) : H{};
        interleave(a, b, x + 2 * i, std::make_integer_sequence<int, 2 * L>{});
      });
      each<N>([&](auto r) __attribute__((always_inline)) {
        const i32v factor = peek<int32_t>(lane + weight_at<R>(r)) - i32v{};
        each<V>([&](auto i) __attribute__((always_inline)) {
          s[r * V + i] = dot_bf16(s[r * V + i], factor, x[i]);
        });
      });
    };
    int64_t j = 0;
    for (; j + Q <= n; j += Q) {
      if (d == 0) ahead.ask(j, Q);
      each<Q / 2>([&](auto u) __attribute__((always_inline)) { pair(at + 2 * u * v_row, true, weight + 2 * u); });
      at += Q * v_row, weight += Q == C || (j + Q) % C == 0 ? w_step - (C - Q) : Q;
    }
    for (; j < n; j += 2, at += 2 * v_row, weight += 2) pair(at, j + 1 < n, weight);
    each<N * V>([&](auto i) __attribute__((always_inline)) { storeu(o + i / V * dim + d + i % V * L, s[i]); });
  }
}
#endif

// ------------------------------------------------------------------------------------------------------------ blocks

PK_INLINE void widen_rows(const uint16_t* from, int64_t row, int64_t n, int64_t dim, float* to) {
  for (int64_t j = 0; j < n; ++j)
    for (int64_t d = 0; d < dim; d += L) storeu(to + j * dim + d, load_bf16(from + j * row + d));
}

// Rows [r0, r1), at most R * S. M: K itself, or fp32 where K's pairs have no dot product and are widened block by block.
template <class K, int R, int S>
static __attribute__((noinline)) void stream_sets(const Heads<typename K::A>& h, int64_t r0, int64_t r1, int64_t k0, int64_t k1,
                                                  int64_t ahead, float* max, float* sum, float* out) {
  using E = typename K::A;
  using M = std::conditional_t<K::raw, K, Fp32>;
  using X = typename M::A;  // elements as they are multiplied
  using W = X;
  constexpr int C = L / R, keys = keys_at_once<R, S>, per = M::per, N = std::min(R * S, per == 2 && R * S >= 8 ? 8 : 4);
  const int64_t dim = h.dim, rows = r1 - r0, bytes = dim * int64_t(sizeof(X)), chunks = dim / (C * per);
  constexpr int64_t most = R * S == 1 ? 256 : 128;
  const int64_t block = std::max(LEAST_KEYS, std::min(most, BLOCK_BYTES / (R * S == 1 ? 1 : 2) / bytes / LEAST_KEYS * LEAST_KEYS));
  alignas(64) X q[R * S * 256];
  alignas(64) float s[R * S * most], o[R * S * 256];
  alignas(64) W w[R * S * most];
  alignas(64) X edge[K::raw ? keys * 256 : 2 * BLOCK_BYTES / sizeof(X)];  // keys left over, or a block of K and one of V widened
  f32v top[S];
  Kept kept[S];
  for (int x = 0; x < S; ++x) kept[x] = {broadcast<f32v>(LOWEST), f32v{}};
  for (int64_t c = 0; c < chunks; ++c)
    for (int i = 0; i < R * S; ++i)
      for (int e = 0; e < C * per; ++e) {
        const int64_t r = r0 + i;
        const E* from = h.q + r / h.lq * h.q_head + r % h.lq * h.q_row + c * C * per + e;
        X x = 0;
        if (i < rows) {
          if constexpr (std::is_same_v<E, X>) x = *from;
          else x = bf16_value(*from);
        }
        q[(c * R * S + i) * C * per + e] = x;
      }
  memset(o, 0, size_t(R * S * dim) * 4);
  for (int64_t at = k0 - block;; at += block) {
    const int64_t next = at + block, n = std::min(block, k1 - next), steps = (n + C - 1) / C;
    if (n > 0) {
      for (int x = 0; x < S; ++x) top[x] = broadcast<f32v>(NONE);
      const E* from = h.k + next * h.k_row;
      const Ahead later = ahead_of(from, h.k_row, dim, ahead);
      const X* k;
      int64_t row = h.k_row;
      if constexpr (K::raw) k = from;
      else widen_rows(from, h.k_row, n, dim, edge), k = edge, row = dim;
      for (int64_t j = 0; j < n; j += keys) {
        const X* p = k + j * row;
        int64_t stride = row;
        later.ask(j, keys);
        if (K::raw && n - j < keys) {
          for (int64_t i = 0; i < n - j; ++i) memcpy(edge + i * dim, p + i * row, size_t(bytes));
          for (int64_t i = n - j; i < keys; ++i) memset(edge + i * dim, 0, size_t(bytes));
          p = edge, stride = dim;
        }
        scores<M, R, S>(reinterpret_cast<const char*>(q), reinterpret_cast<const char*>(p), stride * int64_t(sizeof(X)), chunks,
                        s + j / C * S * L, top);
      }
      if (h.causal || n % keys) {  // what a row does not see; the largest scores anew
        for (int64_t i = 0; i < R * S; ++i)
          for (int64_t j = std::max<int64_t>(0, h.sees(std::min(r0 + i, r1 - 1), next + n) - next); j < steps * C; ++j)
            s[(j / C * S + i / R) * L + i % R * C + j % C] = NONE;
        for (int64_t i = 0; i < steps * S; ++i) top[i % S] = i < S ? loadu<f32v>(s + i * L) : vmax(top[i % S], loadu<f32v>(s + i * L));
      }
    }
    if (at >= k0) {
      const E* from = h.v + at * h.v_row;
      const X* v;
      int64_t row = h.v_row;
      const int64_t count = std::min(block, k1 - at);
      const Ahead later = ahead_of(from, h.v_row, dim, ahead), none{};
      if constexpr (K::raw) v = from;
      else widen_rows(from, h.v_row, count, dim, edge + BLOCK_BYTES / sizeof(X)), v = edge + BLOCK_BYTES / sizeof(X), row = dim;
      for (int i = 0; i < rows; i += N) add_weighted<R, N>(w + i / R * L, S * L, v, row, count, dim, o + i * dim, i ? none : later);
    }
    if (n <= 0) break;
    weigh<R, S, sizeof(E) == 2>(s, top, w, steps, h.scale * 0x1.715476p0f, kept, o, dim);
  }
  for (int64_t i = 0; i < rows; ++i) {
    float lane[L], total = 0;
    storeu(lane, kept[i / R].sum);
    for (int j = 0; j < C; ++j) total += lane[i % R * C + j];
    const bool blind = h.sees(r0 + i, k1) <= k0;
    sum[i] = blind ? 0 : total, max[i] = blind ? NONE : kept[i / R].max[i % R * C] * h.scale;
#if PK_HAS_BF16_DOT
    if constexpr (per == 2)
      for (int64_t d = 0; d < dim; d += 2 * L) ordered(o + i * dim + d, std::make_integer_sequence<int, L>{});
#endif
    memcpy(out + i * dim, o + i * dim, size_t(dim) * 4);
  }
}

template <class K>
void pk::stream_keys(const Heads<typename K::A>& h, int64_t r0, int64_t r1, int64_t k0, int64_t k1, int64_t ahead, float* max,
                     float* sum, float* out) {
  const int64_t rows = r1 - r0;
#define SETS(R, S) return stream_sets<K, R, S>(h, r0, r1, k0, k1, ahead, max, sum, out)
  constexpr int R = K::raw && K::per == 2 && L < 8 ? 2 : 4;  // the two keys of a pair stand side by side
  if (rows == 1) SETS(1, 1);
  if (rows == 2) SETS(1, 2);
  if (rows <= 4) SETS(2, 2);
  if (rows <= 8) SETS(R, 8 / R);
  SETS(R, 16 / R);
#undef SETS
}

#define INSTANCE(K)                                                                                                            \
  template void pk::stream_keys<K>(const Heads<K::A>&, int64_t, int64_t, int64_t, int64_t, int64_t, float*, float*, float*);
INSTANCE(Fp32)
INSTANCE(Bf16)
