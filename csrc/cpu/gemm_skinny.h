// Products of few rows or columns, by dot products along k, and of a long k with small results, split over k. Part of gemm.cpp.
#pragma once
#include "gemm_packed.h"

// Sums of RB rows of the large operand with RS of the small one along k, in steps of a vector of groups.
template <class K, int RB, int RS, bool BigIsA, class EB, class ES>
PK_INLINE void dot_tile(const EB* big, int64_t ld, const ES* small, int64_t small_ld, int64_t k, typename K::T* out) {
  using V = vec<typename K::T>;
  constexpr int step = lanes<typename K::T> * K::per;
  V s[RB * RS];
  each<RB * RS>([&](auto i) __attribute__((always_inline)) { s[i] = V{}; });
  auto add = [&](const EB* x, int64_t ldx, const ES* y) __attribute__((always_inline)) {
    vec<typename K::G> v[RB];
    each<RB>([&](auto r) __attribute__((always_inline)) {
      prefetch_past(x + r * ldx, AHEAD);
      v[r] = K::along(x + r * ldx);
    });
    each<RS>([&](auto c) __attribute__((always_inline)) {
      const auto w = K::along(y + c * small_ld);
      each<RB>([&](auto r) __attribute__((always_inline)) {
        if constexpr (BigIsA) s[r * RS + c] = K::madd(s[r * RS + c], v[r], w);
        else s[r * RS + c] = K::madd(s[r * RS + c], w, v[r]);
      });
    });
  };
  int64_t i = 0;
  for (; i + step <= k; i += step) add(big + i, ld, small + i);
  if (i < k) {
    EB rest[RB * step] = {};
    for (int r = 0; r < RB; ++r) memcpy(rest + r * step, big + r * ld + i, size_t(k - i) * sizeof(EB));
    add(rest, step, small + i);
  }
  each<RB * RS>([&](auto j) __attribute__((always_inline)) { out[j] = hsum(s[j]); });
}

template <class K, int RB, int RS, bool BigIsA, class EB, class ES>
static void dot_rows(const Product& p, const EB* big, int64_t ld, int64_t lo, int64_t hi, int64_t small_rows, const ES* small,
                     int64_t small_ld, const int32_t* small_sums) {
  const Finish<K> finish{p};
  typename K::T out[8 * RS];
  for (int64_t r = lo; r < hi;) {
    const int64_t left = std::min<int64_t>(RB, hi - r);
    if (left == RB) dot_tile<K, RB, RS, BigIsA>(big + r * ld, ld, small, small_ld, p.k, out);
    else
      for (int64_t x = 0; x < left; ++x) dot_tile<K, 1, RS, BigIsA>(big + (r + x) * ld, ld, small, small_ld, p.k, out + x * RS);
    for (int64_t x = 0; x < left; ++x) {
      int32_t own = 0;
      if constexpr (std::is_same_v<K, Int8> && !BigIsA) {
        if (p.zero) for (int64_t i = 0; i < p.k; ++i) own += big[(r + x) * ld + i];
      }
      for (int64_t c = 0; c < small_rows; ++c) {
        if constexpr (BigIsA) finish.one(out[x * RS + c], r + x, c, p.beta, small_sums[c]);
        else finish.one(out[x * RS + c], c, r + x, p.beta, own);
      }
    }
    r += left;
  }
}

static constexpr int dot_big(int small) { return PK_REGISTERS == 32 ? (small == 8 ? 3 : 4) : small == 8 ? 1 : small == 4 ? 2 : 4; }

template <class K>
static int64_t dot_ld(int64_t k) { return round_up(k, lanes<typename K::T> * K::per) + 64; }

template <class K, bool BigIsA>
static void dot_product(const Product& p, const pk_team* t, char* scratch) {
  using EB = std::conditional_t<BigIsA, typename K::A, typename K::B>;
  using ES = std::conditional_t<BigIsA, typename K::B, typename K::A>;
  const int64_t small_rows = BigIsA ? p.n : p.m, big_rows = BigIsA ? p.m : p.n;
  const ES* from = static_cast<const ES*>(BigIsA ? p.b : p.a);
  const bool along = BigIsA ? p.tb : !p.ta;  // steps along k are neighbours
  const int64_t ld = BigIsA ? p.ldb : p.lda, small_ld = dot_ld<K>(p.k);
  ES* small = reinterpret_cast<ES*>(scratch + TABLE_BYTES);
  int32_t sums[SMALL] = {};
  const int padded = small_rows <= 1 ? 1 : small_rows <= 4 ? 4 : 8;
  for (int64_t s = 0; s < padded; ++s)
    for (int64_t i = 0; i < small_ld; ++i) {
      const ES x = s < small_rows && i < p.k ? from[along ? s * ld + i : i * ld + s] : ES(0);
      small[s * small_ld + i] = x;
      if constexpr (std::is_same_v<K, Int8>) sums[s] += x;
    }
  int64_t lo, hi;
  pk_share(big_rows, dot_big(padded), t->tid, t->threads, &lo, &hi);
  const EB* big = static_cast<const EB*>(BigIsA ? p.a : p.b);
  const int64_t big_ld = BigIsA ? p.lda : p.ldb;
#define DOT(S) if (padded == S) return dot_rows<K, dot_big(S), S, BigIsA>(p, big, big_ld, lo, hi, small_rows, small, small_ld, sums);
  DOT(1) DOT(4) DOT(8)
#undef DOT
}

// Every thread multiplies its share of k into sums of its own; then each joins a share of the rows.
template <class K>
static void split_product(const Product& p, const Plan& plan, const pk_team* t, char* scratch, char* const* peers) {
  using T = typename K::T;
  const int64_t own = packed_bytes<K>(plan, p.m, 0, 1);
  int64_t k0, k1, m0, m1;
  pk_share(p.k, 64, t->tid, t->threads, &k0, &k1);
  Product part = p;
  part.k = k1 - k0;
  part.a = static_cast<const typename K::A*>(p.a) + (p.ta ? k0 * p.lda : k0);
  part.b = static_cast<const typename K::B*>(p.b) + (p.tb ? k0 : k0 * p.ldb);
  Packed<K> run = packed<K>(part, plan, 0, 1, scratch, &scratch);
  run.sums = reinterpret_cast<T*>(scratch + own), run.sums_ld = p.n, run.sums_whole = true, run.sums_i = run.sums_j = 0;
  run.plan.shared = false;
  run.run(t);
  t->barrier(t);
  pk_share(p.m, 1, t->tid, t->threads, &m0, &m1);
  T* joined = reinterpret_cast<T*>(scratch + own) + m0 * p.n;
  for (int other = 0; other < t->threads; ++other) {
    if (other == t->tid) continue;
    const T* theirs = reinterpret_cast<const T*>(peers[other] + own) + m0 * p.n;
    int64_t i = 0;
    constexpr int L = lanes<T>;
    for (; i + L <= (m1 - m0) * p.n; i += L) storeu(joined + i, loadu<vec<T>>(joined + i) + loadu<vec<T>>(theirs + i));
    for (; i < (m1 - m0) * p.n; ++i) joined[i] += theirs[i];
  }
  static constexpr int32_t none[4096] = {};
  for (int64_t x = 0; x < p.n; x += 4096)
    Finish<K>{p}.rows(joined + x, p.n, m1 - m0, std::min<int64_t>(4096, p.n - x), m0, x, p.beta, none);
  t->barrier(t);
}
