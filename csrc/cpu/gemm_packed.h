// The packed product, what it plans, and how sums become C. Part of gemm.cpp, which defines the microkernels.
//
// A block of B of nc columns by kc steps is packed by all threads together, each into memory of its own that all read; each
// thread then packs mc rows of its own after another and multiplies them. kc is long, so that C is passed over rarely; the
// blocks of a thread's rows are equal, so that no thread ends with a small rest.
#pragma once
#include <algorithm>

#include "gemm.h"

using namespace pk;

// ------------------------------------------------------------------------------------------------------- epilogue

// Writes rows x columns of sums to C at (i0, j0): scales, zero point (column sums of B), alpha, beta, bias.
template <class K>
struct Finish {
  using T = typename K::T;
  using C = typename K::C;
  using F = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const Product& p;

  template <class S, class V>
  PK_INLINE V scaled(S sum, V real, int64_t i, V column) const {
    if constexpr (std::is_same_v<K, Int8>) return real * column * p.row[i];
    else return sum;
  }
  PK_INLINE void one(T sum, int64_t i, int64_t j, F beta, int32_t column_sum) const {
    C* c = static_cast<C*>(p.c) + i * p.ldc + j;
    F x;
    if constexpr (std::is_same_v<K, Int8>) x = F(sum - int32_t(p.zero) * column_sum) * (p.row[i] * p.column[j]);
    else x = sum;
    x *= F(p.alpha);
    if (beta != F(0)) x += beta * F(K::get_c(c));
    if (p.bias) x += F(K::get_c(static_cast<const C*>(p.bias) + j));
    K::put_c(c, x);
  }
  void rows(const T* sums, int64_t ld, int64_t rows, int64_t columns, int64_t i0, int64_t j0, F beta,
            const int32_t* column_sums) const {
    constexpr int L = lanes<T>;
    using W = vec<F>;
    const C* bias = static_cast<const C*>(p.bias);
    for (int64_t i = 0; i < rows; ++i) {
      int64_t j = 0;
      for (; j + L <= columns; j += L) {
        C* c = static_cast<C*>(p.c) + (i0 + i) * p.ldc + j0 + j;
        W x;
        if constexpr (std::is_same_v<K, Int8>) {
          const auto sum = loadu<vec<T>>(sums + i * ld + j) - int32_t(p.zero) * loadu<i32v>(column_sums + j);
          x = to_f32(sum) * (loadu<W>(p.column + j0 + j) * p.row[i0 + i]);
        } else {
          x = loadu<vec<T>>(sums + i * ld + j);
        }
        x = x * F(p.alpha);
        if (beta != F(0)) x = fma(K::load_c(c), broadcast<W>(beta), x);
        if (bias) x += K::load_c(bias + j0 + j);
        K::store_c(c, x);
      }
      for (; j < columns; ++j) one(sums[i * ld + j], i0 + i, j0 + j, beta, column_sums ? column_sums[j] : 0);
    }
  }
};

// ------------------------------------------------------------------------------------------------------------ plan

static constexpr int64_t A_BLOCK = 384 << 10, B_PRIVATE = 256 << 10, B_SHARED = 4 << 20, SMALL = 8;
static constexpr int64_t FEW = 32, FEW_AHEAD = 512;  // steps along k at once where C has few rows, and bytes to prefetch ahead

struct Plan {
  bool dot = false, split = false, shared = true, direct_a = false, direct_b = false;
  int tm = 1, tn = 1;          // threads along m and n
  int64_t kc = 1, mc = 1, nc = 1;
};

static int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }
static int64_t blocks_of(int64_t n, int64_t most, int64_t unit) {  // size of equal blocks of at most `most`, in units
  const int64_t count = std::max<int64_t>(1, (n + most - 1) / most);
  return std::max(unit, round_up((n + count - 1) / count, unit));
}

template <class K>
static Plan plan_of(int64_t m, int64_t n, int64_t k, bool ta, bool tb, int64_t lda, int64_t ldb, int threads) {
  constexpr int64_t R = GEMM_ROWS, N = panel_columns<K>, size = sizeof(typename K::G), per = K::per;
  Plan plan;
  plan.dot = k >= 64 && ((n <= SMALL && !ta) || (m <= SMALL && tb));
  plan.split = !plan.dot && threads > 1 && k >= 1024 * int64_t(threads) && m * n <= 1 << 16;
  const int team = plan.split ? 1 : threads;
  double best = 0;
  for (int tm = 1; tm <= team; ++tm) {
    if (team % tm) continue;
    const int tn = team / tm;
    const double rows = double(round_up(m, R) / R / tm + (round_up(m, R) / R % tm != 0)) * R;
    const double columns = double(round_up(n, N) / N / tn + (round_up(n, N) / N % tn != 0)) * N;
    const double cost = rows * columns + 8 * (rows + (tm == 1 ? columns : double(n) / team));
    if (tm == 1 || cost <= best) best = cost, plan.tm = tm, plan.tn = tn;
  }
  const int64_t rows = round_up((m + plan.tm - 1) / plan.tm, R), columns = (n + plan.tn - 1) / plan.tn;
  plan.shared = plan.tm > 1 || (plan.tn == 1 && rows > 4 * R);
  // A narrow product reads A once: whole rows of it, if they fit.
  const int64_t groups = columns <= 2 * N ? 32768 / size / 2 : size == 4 && per > 1 ? 1024 : 512;
  plan.kc = blocks_of(k, groups * per, 2 * per);
  const bool rows_of_b = K::raw && per == 1 && !tb;
  if (rows_of_b && m <= R && k > FEW) plan.direct_b = true, plan.kc = FEW;
  if (rows_of_b && !plan.direct_b && ldb * size <= 512 && columns % N == 0) plan.direct_b = true;
  plan.direct_a = K::raw && !ta && k % per == 0 && k <= 256 * per && columns <= 256 && lda / per * size % 2048 != 0;
  const int64_t kg = (plan.kc + per - 1) / per;
  plan.mc = blocks_of(rows, std::max(R, A_BLOCK / (kg * size) / R * R), R);
  if (plan.direct_b) plan.shared = false;
  plan.nc = plan.direct_b ? round_up(n, N)
                          : blocks_of(plan.shared ? n : columns, std::max(N, (plan.shared ? B_SHARED : B_PRIVATE) / (kg * size) / N * N), N);
  return plan;
}

// ---------------------------------------------------------------------------------------------------------- packed

template <class K>
struct Packed {
  using A = typename K::A;
  using B = typename K::B;
  using G = typename K::G;
  using T = typename K::T;
  static constexpr int64_t R = GEMM_ROWS, N = panel_columns<K>, per = K::per;
  static constexpr bool int8 = std::is_same_v<K, Int8>;
  static constexpr bool plain = std::is_same_v<T, typename K::C>;

  Product p;
  Plan plan;
  int tid, threads;
  char* const* peers;
  T* sums;           // where partial sums are kept, or null: they go to C
  int64_t sums_ld, sums_i, sums_j;
  char *panels, *tail;  // of this thread: packed A; the last, narrow panel of a B that is read where it lies
  T* tile;

  static int64_t groups(int64_t k) { return (k + per - 1) / per; }
  static int64_t panel_bytes(const Plan& plan) { return groups(plan.kc) * N * int64_t(sizeof(G)) + (int8 ? N * 4 : 0); }
  static int64_t owned_panels(const Plan& plan, int threads) {
    const int64_t all = plan.direct_b ? 1 : (plan.nc + N - 1) / N;
    return plan.shared ? (all + threads - 1) / threads : all;
  }
  static bool needs_sums(const Plan& plan, int64_t k) { return !plain && k > plan.kc; }
  static int64_t my_rows(const Plan& plan, int64_t m) { return round_up((round_up(m, R) / R + plan.tm - 1) / plan.tm * R, R); }
  // Bytes of scratch beyond the table, in the order: panels of B, panels of A, tile, sums.
  static int64_t b_bytes(const Plan& plan, int threads) { return round_up(owned_panels(plan, threads) * panel_bytes(plan), 4096); }
  static int64_t a_bytes(const Plan& plan) { return round_up((plan.mc + R) * groups(plan.kc) * int64_t(sizeof(G)) + 128, 4096) + 1088; }
  static int64_t tile_bytes() { return round_up(R * N * int64_t(sizeof(T)), 4096); }

  // Rows [m0, m1) and, in a block of `columns`, panels [q0, q1) of this thread.
  void my_part(int64_t columns, int64_t* m0, int64_t* m1, int64_t* q0, int64_t* q1) const {
    pk_share(p.m, R, tid / plan.tn, plan.tm, m0, m1);
    if (plan.shared) pk_share((columns + N - 1) / N, 1, tid % plan.tn, plan.tn, q0, q1);
    else *q0 = 0, *q1 = (columns + N - 1) / N;
  }

  const B* b_at(int64_t pc, int64_t j) const {
    return static_cast<const B*>(p.b) + (p.tb ? j * p.ldb + pc : pc * p.ldb + j);
  }
  void pack_b(int64_t pc, int64_t kc, int64_t j, int64_t width, char* panel) const {
    G* dst = reinterpret_cast<G*>(panel);
    pack_panel<K, N>(b_at(pc, j), p.tb ? p.ldb : 1, p.tb ? 1 : p.ldb, width, kc, dst);
    if constexpr (int8) {
      const vec<G> ones = vec<G>{} + (per == 4 ? 0x01010101 : 0x00010001);
      vec<T> s0{}, s1{};
      for (int64_t g = 0; g < groups(kc); ++g)
        s0 = K::madd(s0, ones, loadu<vec<G>>(dst + g * N)), s1 = K::madd(s1, ones, loadu<vec<G>>(dst + g * N + N / 2));
      T* column_sums = reinterpret_cast<T*>(panel + panel_bytes(plan) - N * 4);
      storeu(column_sums, s0), storeu(column_sums + N / 2, s1);
    }
  }
  char* panel_of(int64_t q, int64_t all) const {
    if (!plan.shared) return peers[tid] + TABLE_BYTES + q * panel_bytes(plan);
    const int64_t owner = ((q + 1) * threads - 1) / all;
    return peers[owner] + TABLE_BYTES + (q - all * owner / threads) * panel_bytes(plan);
  }

  void pack_a(int64_t i0, int64_t rows, int64_t pc, int64_t kc) const {
    const A* a = static_cast<const A*>(p.a) + (p.ta ? pc * p.lda + i0 : i0 * p.lda + pc);
    for (int64_t i = 0; i < rows; i += R) {
      const int64_t width = std::min(R, rows - i);
      pack_panel<K, R>(a + i * (p.ta ? 1 : p.lda), p.ta ? 1 : p.lda, p.ta ? p.lda : 1, width, kc,
                       reinterpret_cast<G*>(panels) + i * groups(kc));
    }
  }

  // One tile: straight into C or the sums where that is all there is to do, else by way of `tile`.
  PK_INLINE void tile_at(int64_t i, int64_t j, int64_t rows, int64_t columns, const void* a, int64_t sa, const void* b, int64_t sb,
               int64_t kc, bool first, const int32_t* column_sums) const {
    const int height = gemm_rows(rows);
    const Micro run = microkernel<K>(height, plan.direct_a);
    const bool whole = rows == height && columns == N;
    if (sums && whole && !int8) {
      run(groups(kc), a, sa, b, sb, sums + (i - sums_i) * sums_ld + j - sums_j, sums_ld, !first);
      return;
    }
    if constexpr (plain)
      if (!sums && whole && p.alpha == 1 && !p.bias && (!first || p.beta == 0 || p.beta == 1)) {
        run(groups(kc), a, sa, b, sb, static_cast<T*>(p.c) + i * p.ldc + j, p.ldc, !first || p.beta == 1);
        return;
      }
    run(groups(kc), a, sa, b, sb, tile, N, 0);
    if (sums) {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t x = 0; x < columns; ++x) {
          T* s = sums + (i + r - sums_i) * sums_ld + j + x - sums_j;
          T value = tile[r * N + x];
          if constexpr (int8) value -= int32_t(p.zero) * column_sums[x];
          *s = first ? value : T(*s + value);
        }
    } else {
      Product once = p;
      if (!first) once.bias = nullptr;
      Finish<K>{once}.rows(tile, N, rows, columns, i, j, first ? p.beta : 1, column_sums);
    }
  }

  // Columns [jc, jc + columns) by steps [pc, pc + kc), whose panels of B are ready.
  void multiply(int64_t jc, int64_t columns, int64_t pc, int64_t kc) const {
    int64_t m0, m1, q0, q1;
    my_part(columns, &m0, &m1, &q0, &q1);
    const int64_t all = (columns + N - 1) / N;
    const A* a = static_cast<const A*>(p.a);
    for (int64_t ic = m0; ic < m1; ic += plan.mc) {
      const int64_t rows = std::min(plan.mc, m1 - ic);
      if (!plan.direct_a) pack_a(ic, rows, pc, kc);
      auto tile_of = [&](int64_t q, int64_t i, int64_t height) __attribute__((always_inline)) {
        const int64_t j = jc + q * N, width = std::min(N, jc + columns - j);
        const bool in_place = plan.direct_b && width == N;
        const char* panel = plan.direct_b ? tail : panel_of(q, all);
        const void* b = in_place ? static_cast<const void*>(b_at(pc, j)) : panel;
        const int32_t* column_sums = int8 ? reinterpret_cast<const int32_t*>(panel + panel_bytes(plan) - N * 4) : nullptr;
        tile_at(ic + i, j, height, width,
                plan.direct_a ? static_cast<const void*>(a + (ic + i) * p.lda + pc)
                              : reinterpret_cast<const G*>(panels) + i * groups(kc),
                plan.direct_a ? p.lda * int64_t(sizeof(A)) : 0, b, in_place ? p.ldb : N, kc, pc == 0, column_sums);
      };
      if (plan.direct_a) {  // B is in the L1: A and C pass by once. Rows that A does not have must not be read.
        for (int64_t i = 0, height; i < rows; i += height) {
          height = gemm_rows_within(rows - i);
          for (int64_t q = q0; q < q1; ++q) tile_of(q, i, height);
        }
        continue;
      }
      for (int64_t q = q0; q < q1; ++q) {
        if (plan.direct_b && plan.kc == FEW)  // few rows of C: B passes by once, in short pieces of many rows
          for (int64_t l = 0; l < kc; ++l)
            for (int64_t at = 0; at < N * int64_t(sizeof(B)); at += 64) prefetch_past(b_at(pc + l, jc + q * N), FEW_AHEAD + at);
        for (int64_t i = 0; i < rows; i += R) tile_of(q, i, std::min(R, rows - i));
      }
    }
  }

  void run(const pk_team* t) const {
    int64_t n0 = 0, n1 = p.n;
    if (!plan.shared) pk_share(p.n, N, tid % plan.tn, plan.tn, &n0, &n1);
    for (int64_t jc = n0; jc < n1; jc += plan.nc) {
      const int64_t columns = std::min(plan.nc, n1 - jc), all = (columns + N - 1) / N;
      Packed block = *this;
      block.sums_j = sums && !sums_whole ? jc : sums_j;
      for (int64_t pc = 0; pc < p.k; pc += plan.kc) {
        const int64_t kc = std::min(plan.kc, p.k - pc);
        int64_t lo = 0, hi = all;
        if (plan.shared) pk_share(all, 1, tid, threads, &lo, &hi);
        if (plan.direct_b) {
          if (columns % N) pack_b(pc, kc, jc + columns / N * N, columns % N, tail);
        } else {
          for (int64_t q = lo; q < hi; ++q) pack_b(pc, kc, jc + q * N, std::min(N, columns - q * N), panel_of(q, all));
        }
        if (plan.shared) t->barrier(t);
        block.multiply(jc, columns, pc, kc);
        if (plan.shared) t->barrier(t);
      }
      if (sums && !sums_whole) {
        int64_t m0, m1, q0, q1;
        my_part(columns, &m0, &m1, &q0, &q1);
        const int64_t width = std::min(q1 * N, columns) - q0 * N;
        static constexpr int32_t none[4096] = {};
        for (int64_t x = 0; x < width; x += 4096)  // zero points are already in the sums
          Finish<K>{p}.rows(sums + q0 * N + x, sums_ld, m1 - m0, std::min<int64_t>(4096, width - x), m0, jc + q0 * N + x,
                            p.beta, none);
      }
    }
  }
  bool sums_whole;  // the sums are the caller's: partial results of one thread's share of k
};

template <class K>
static Packed<K> packed(const Product& p, const Plan& plan, int tid, int threads, char* scratch, char* const* peers) {
  using P = Packed<K>;
  P run{};
  run.p = p, run.plan = plan, run.tid = tid, run.threads = threads, run.peers = peers;
  char* at = scratch + TABLE_BYTES;
  run.tail = at, at += P::b_bytes(plan, threads);
  run.panels = at + 1088, at += P::a_bytes(plan);
  run.tile = reinterpret_cast<typename K::T*>(at), at += P::tile_bytes();
  if (P::needs_sums(plan, p.k)) {
    int64_t m1;
    run.sums = reinterpret_cast<typename K::T*>(at), run.sums_ld = plan.nc;
    pk_share(p.m, P::R, tid / plan.tn, plan.tm, &run.sums_i, &m1);
  }
  return run;
}

template <class K>
static int64_t packed_bytes(const Plan& plan, int64_t m, int64_t k, int threads) {
  using P = Packed<K>;
  const int64_t sums = P::needs_sums(plan, k) ? P::my_rows(plan, m) * plan.nc * int64_t(sizeof(typename K::T)) : 0;
  return TABLE_BYTES + P::b_bytes(plan, threads) + P::a_bytes(plan) + P::tile_bytes() + round_up(sums, 4096);
}
