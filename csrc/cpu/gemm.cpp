// Matrix products: C = alpha A B + beta C, batched; kernels/gemm.py states operands and sums.
//
// Operands  in: a (batch x m x lda, or k x lda where transposed), b (batch x k x ldb, or n x ldb); int8 also row (m) and
//           column (n) scales; out or inout: c (batch x m x ldc)
// dims      batch, m, n, k, lda, ldb, ldc, ta, tb, zero;  scalars  alpha, beta
// Variants  naive (three loops), blocked (64 x 64 blocks of B widened into the L1), packed (panels and microkernels of
//           gemm.h; products with up to 8 rows or columns by dot products along k; long sums of small results split over k)
#include "gemm_skinny.h"

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
