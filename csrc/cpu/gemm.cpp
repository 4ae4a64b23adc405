// Matrix products: C = alpha A B + beta C, batched; kernels/gemm.py states operands and sums.
//
// Operands  in: a (batch x m x lda, or k x lda where transposed), b (batch x k x ldb, or n x ldb); int8 also row (m) and
//           column (n) scales; out or inout: c (batch x m x ldc)
// dims      batch, m, n, k, lda, ldb, ldc, ta, tb, zero;  scalars  alpha, beta
// Variants  naive (three loops), blocked (64 x 64 blocks of B widened into the L1), packed (panels and microkernels of
//           gemm.h; products with up to 8 rows or columns by dot products along k; long sums of small results split over k)
//
// Packed: a block of B of nc columns by kc steps is packed by all threads together, each into memory of its own that all
// read; each thread then packs mc rows of its own after another and multiplies them. kc is long, so that C is passed over
// rarely; the blocks of a thread's rows are equal, so that no thread ends with a small rest.
#include "gemm.h"

#include <algorithm>

using namespace pk;

// ---------------------------------------------------------------------------------------------------- microkernels

#define MICRO(K, dtype, R)                                                                                              \
  PK_HOT void pk_gemm_##dtype##_##R##x2(int64_t groups, const void* a, int64_t sa, const void* b, int64_t sb, void* c,   \
                                        int64_t ldc, int64_t add) {                                                     \
    micro<K, R, false>(groups, a, sa, b, sb, c, ldc, add);                                                              \
  }                                                                                                                     \
  PK_HOT void pk_gemm_##dtype##_##R##x2_direct(int64_t groups, const void* a, int64_t sa, const void* b, int64_t sb,     \
                                               void* c, int64_t ldc, int64_t add) {                                     \
    micro<K, R, true>(groups, a, sa, b, sb, c, ldc, add);                                                               \
  }
#define PICK(K, dtype, R) \
  if (rows == R) return direct ? pk_gemm_##dtype##_##R##x2_direct : pk_gemm_##dtype##_##R##x2;
#define MICROS(K, dtype)                                       \
  PK_GEMM_EACH_ROWS(MICRO_##dtype)                             \
  template <>                                                  \
  Micro pk::microkernel<K>(int rows, bool direct) {            \
    PK_GEMM_EACH_ROWS(PICK_##dtype)                            \
    return nullptr;                                            \
  }
#define MICRO_fp64(R) MICRO(Fp64, fp64, R)
#define MICRO_fp32(R) MICRO(Fp32, fp32, R)
#define MICRO_bf16(R) MICRO(Bf16, bf16, R)
#define MICRO_int8(R) MICRO(Int8, int8, R)
#define PICK_fp64(R) PICK(Fp64, fp64, R)
#define PICK_fp32(R) PICK(Fp32, fp32, R)
#define PICK_bf16(R) PICK(Bf16, bf16, R)
#define PICK_int8(R) PICK(Int8, int8, R)
MICROS(Fp64, fp64)
MICROS(Fp32, fp32)
MICROS(Bf16, bf16)
MICROS(Int8, int8)

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

// ------------------------------------------------------------------------------------- few rows or columns, or a long k

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

// ---------------------------------------------------------------------------------------------------------- driver

template <class K>
static void scale_only(const Product& p, const pk_team* t) {
  int64_t m0, m1;
  pk_share(p.m, 1, t->tid, t->threads, &m0, &m1);
  const Finish<K> finish{p};
  for (int64_t i = m0; i < m1; ++i)
    for (int64_t j = 0; j < p.n; ++j) finish.one(typename K::T(0), i, j, p.beta, 0);
}

template <class K>
void pk::gemm(const Product& p, const pk_team* t, char* scratch, char* const* peers) {
  if (p.k == 0) return scale_only<K>(p, t);
  const Plan plan = plan_of<K>(p.m, p.n, p.k, p.ta, p.tb, p.lda, p.ldb, t->threads);
  if (plan.dot && !p.ta && p.n <= SMALL) return dot_product<K, true>(p, t, scratch);
  if (plan.dot) return dot_product<K, false>(p, t, scratch);
  if (plan.split) return split_product<K>(p, plan, t, scratch, peers);
  packed<K>(p, plan, t->tid, t->threads, scratch, peers).run(t);
}

template <class K>
int64_t pk::gemm_scratch(int64_t m, int64_t n, int64_t k, bool ta, bool tb, int threads) {
  // leading dimensions decide between packed and direct panels: the larger of both
  int64_t most = TABLE_BYTES;
  for (int64_t ld : {int64_t(1), int64_t(1) << 20}) {
    const Plan plan = plan_of<K>(m, n, k, ta, tb, ld, ld, threads);
    int64_t bytes = packed_bytes<K>(plan, m, k, plan.split ? 1 : threads);
    if (plan.dot) bytes = TABLE_BYTES + SMALL * dot_ld<K>(k) * int64_t(sizeof(typename K::A));
    if (plan.split) bytes += m * n * int64_t(sizeof(typename K::T));
    most = std::max(most, bytes);
  }
  return most;
}

template <class K>
void pk::finish(const Product& p, const typename K::T* sums, int64_t ld, int64_t rows, int64_t columns, int64_t i0, int64_t j0,
                const int32_t* column_sums) {
  Finish<K>{p}.rows(sums, ld, rows, columns, i0, j0, p.beta, column_sums);
}

#define INSTANCE(K)                                                                        \
  template void pk::finish<K>(const Product&, const K::T*, int64_t, int64_t, int64_t, int64_t, int64_t, const int32_t*); \
  template void pk::gemm<K>(const Product&, const pk_team*, char*, char* const*);          \
  template int64_t pk::gemm_scratch<K>(int64_t, int64_t, int64_t, bool, bool, int);
INSTANCE(Fp64)
INSTANCE(Fp32)
INSTANCE(Bf16)
INSTANCE(Int8)

// ----------------------------------------------------------------------------------------------- naive and blocked

template <class K, class E>
PK_INLINE typename K::T value(E x) {
  if constexpr (std::is_same_v<E, uint16_t>) return bf16_value(x);
  else return typename K::T(x);
}
template <class K>
struct Elements {
  const Product& p;
  PK_INLINE typename K::T a(int64_t i, int64_t l) const {
    return value<K>(static_cast<const typename K::A*>(p.a)[p.ta ? l * p.lda + i : i * p.lda + l]);
  }
  PK_INLINE typename K::T b(int64_t l, int64_t j) const {
    return value<K>(static_cast<const typename K::B*>(p.b)[p.tb ? j * p.ldb + l : l * p.ldb + j]);
  }
  PK_INLINE int32_t column_sum(int64_t j) const {
    int32_t sum = 0;
    if constexpr (std::is_same_v<K, Int8>) for (int64_t l = 0; l < p.k; ++l) sum += b(l, j);
    return sum;
  }
};

template <class K>
static void naive(const Product& p, const pk_team* t, char*, char* const*) {
  int64_t m0, m1;
  pk_share(p.m, 1, t->tid, t->threads, &m0, &m1);
  const Elements<K> x{p};
  const Finish<K> finish{p};
  for (int64_t j = 0; j < p.n; ++j) {
    const int32_t column_sum = x.column_sum(j);
    for (int64_t i = m0; i < m1; ++i) {
      typename K::T sum = 0;
      for (int64_t l = 0; l < p.k; ++l) sum += x.a(i, l) * x.b(l, j);
      finish.one(sum, i, j, p.beta, column_sum);
    }
  }
}

template <class K>
static void blocked(const Product& p, const pk_team* t, char*, char* const*) {
  using T = typename K::T;
  constexpr int64_t S = 64;
  int64_t m0, m1;
  pk_share(p.m, 1, t->tid, t->threads, &m0, &m1);
  const Elements<K> x{p};
  T b[S][S], c[S][S];
  int32_t column_sums[S];
  for (int64_t i0 = m0; i0 < m1; i0 += S)
    for (int64_t j0 = 0; j0 < p.n; j0 += S) {
      const int64_t rows = std::min(S, m1 - i0), columns = std::min(S, p.n - j0);
      memset(c, 0, sizeof c);
      for (int64_t j = 0; j < S; ++j) column_sums[j] = j < columns ? x.column_sum(j0 + j) : 0;
      for (int64_t l0 = 0; l0 < p.k; l0 += S) {
        const int64_t steps = std::min(S, p.k - l0);
        for (int64_t l = 0; l < steps; ++l)
          for (int64_t j = 0; j < S; ++j) b[l][j] = j < columns ? x.b(l0 + l, j0 + j) : T(0);
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t l = 0; l < steps; ++l) {
            const T a = x.a(i0 + i, l0 + l);
            for (int64_t j = 0; j < S; ++j) c[i][j] += a * b[l][j];
          }
      }
      Finish<K>{p}.rows(&c[0][0], S, rows, columns, i0, j0, p.beta, column_sums);
    }
}

// ----------------------------------------------------------------------------------------------------------- table

// A batch of at least a product for each thread is shared out; otherwise the team works on one product after another.
template <class K, class Run>
PK_INLINE void passes(const pk_call* c, const pk_team* t, Run run) {
  const int64_t batch = c->dim[0];
  if (c->dim[1] == 0 || c->dim[2] == 0) return;
  char* scratch = static_cast<char*>(t->scratch);
  char* const* peers = scratch ? exchange_scratch(t) : nullptr;
  pk_team alone = *t;
  alone.tid = 0, alone.threads = 1, alone.barrier = [](const pk_team*) {};
  for (int64_t r = 0; r < c->reps; ++r) {
    forget_memory();
    if (batch >= t->threads && batch % t->threads == 0) {
      int64_t lo, hi;
      pk_share(batch, 1, t->tid, t->threads, &lo, &hi);
      for (int64_t i = lo; i < hi; ++i) run(product_of<K>(c, i), &alone, scratch, &scratch);
    } else {
      for (int64_t i = 0; i < batch; ++i) run(product_of<K>(c, i), t, scratch, peers);
    }
  }
}
template <class K>
static int64_t scratch_bytes(const pk_call* c, int threads) {
  const int64_t* d = c->dim;
  return std::max(gemm_scratch<K>(d[1], d[2], d[3], d[7], d[8], threads), gemm_scratch<K>(d[1], d[2], d[3], d[7], d[8], 1));
}

#define KERNELS(K, dtype)                                                                              \
  static void naive_##dtype(const pk_call* c, const pk_team* t) { passes<K>(c, t, naive<K>); }         \
  static void blocked_##dtype(const pk_call* c, const pk_team* t) { passes<K>(c, t, blocked<K>); }     \
  static void packed_##dtype(const pk_call* c, const pk_team* t) { passes<K>(c, t, gemm<K>); }
#define STRING_(x) #x
#define STRING(x) STRING_(x)
#if PK_REGISTERS == 32
#define ROWS_NAME "12x2"
#else
#define ROWS_NAME "6x2"
#endif
#define ENTRIES(K, dtype)                                                                                         \
  {"gemm", "", #dtype, "naive", naive_##dtype, nullptr, nullptr, 0, ""},                                          \
  {"gemm", "", #dtype, "blocked", blocked_##dtype, nullptr, nullptr, 0, ""},                                      \
  PACKED("", K, dtype) PACKED("large", K, dtype)
#define PACKED(op, K, dtype) \
  {"gemm", op, #dtype, "packed", packed_##dtype, scratch_bytes<K>, nullptr, 0, "pk_gemm_" #dtype "_" ROWS_NAME},
KERNELS(Fp64, fp64)
KERNELS(Fp32, fp32)
KERNELS(Bf16, bf16)
KERNELS(Int8, int8)

static const pk_entry gemm_entries[] = {ENTRIES(Fp64, fp64) ENTRIES(Fp32, fp32) ENTRIES(Bf16, bf16) ENTRIES(Int8, int8)};
PK_TABLE(gemm_entries);
