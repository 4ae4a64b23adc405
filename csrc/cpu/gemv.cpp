// Matrix times vectors: Y = A X, the weight-only product of decoding. Sums in fp32 (fp64: in fp64).
//
// Operands  A (rows x cols), scales (rows x groups, fp32; none for floating point), x (batch x cols), y (batch x rows)
//           fp64, fp32: all alike; bf16: all bf16; int8, int4 (low nibble first): signed, A[i,j] scales[i, j / 128], x and y fp32
// dims      rows, cols, batch, parts: a pass covers one part of every thread's rows, the parts in turn
// Variants, in rising order of refinement
//   plain    one row and one vector at a time
//   blocked  four rows at a time (two for five vectors and more), and up to eight vectors for each time A is read
//
// bf16 uses the CPU's dot product of pairs where there is one; elsewhere pairs are split into even and odd columns, for which
// x is put in that order once a pass, as for int4.
#include "table.h"
#include "vec.h"

using namespace pk;

static constexpr int64_t GROUP = 128;

// ---------------------------------------------------------------------------------------------------------- formats
// STEP columns of a row come as PER vectors; those of x lie in the same order, in type X.

struct Fp64 {
  using V = f64v;
  using X = double;
  static constexpr int X_BYTES = 8, PER = 1, STEP = F64;
  static constexpr bool SPLIT = false, GROUPED = false;
  static constexpr int64_t bytes(int64_t n) { return 8 * n; }
  PK_INLINE static void read(const char* p, V* w) { w[0] = loadu<V>(reinterpret_cast<const double*>(p)); }
  PK_INLINE static V mac(V sum, V w, V x) { return fma(w, x, sum); }
  static double one(const char* row, int64_t j) { return reinterpret_cast<const double*>(row)[j]; }
  static double x(const void* p, int64_t j) { return static_cast<const double*>(p)[j]; }
  static void put(void* y, int64_t i, double v) { static_cast<double*>(y)[i] = v; }
};
struct Fp32 {
  using V = f32v;
  using X = float;
  static constexpr int X_BYTES = 4, PER = 1, STEP = F32;
  static constexpr bool SPLIT = false, GROUPED = false;
  static constexpr int64_t bytes(int64_t n) { return 4 * n; }
  PK_INLINE static void read(const char* p, V* w) { w[0] = loadu<V>(reinterpret_cast<const float*>(p)); }
  PK_INLINE static V mac(V sum, V w, V x) { return fma(w, x, sum); }
  static float one(const char* row, int64_t j) { return reinterpret_cast<const float*>(row)[j]; }
  static float x(const void* p, int64_t j) { return static_cast<const float*>(p)[j]; }
  static void put(void* y, int64_t i, float v) { static_cast<float*>(y)[i] = v; }
};

static float widen_bf16(uint16_t h) {
  const uint32_t bits = uint32_t(h) << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
static void put_bf16(void* y, int64_t i, float v) {
  uint16_t part[F32];
  store_bf16(part, broadcast<f32v>(v));
  static_cast<uint16_t*>(y)[i] = part[0];
}
struct Bf16 {
  static constexpr bool GROUPED = false;
  static constexpr int64_t bytes(int64_t n) { return 2 * n; }
  static float one(const char* row, int64_t j) { return widen_bf16(reinterpret_cast<const uint16_t*>(row)[j]); }
  static float x(const void* p, int64_t j) { return widen_bf16(static_cast<const uint16_t*>(p)[j]); }
  static void put(void* y, int64_t i, float v) { put_bf16(y, i, v); }
  using V = f32v;
  static constexpr int X_BYTES = 2, STEP = 2 * F32;
#if PK_HAS_BF16_DOT
  using X = uint16_t;
  static constexpr int PER = 1;
  static constexpr bool SPLIT = false;
  PK_INLINE static void read(const char* p, V* w) { w[0] = (V)loadu<i32v>(reinterpret_cast<const int32_t*>(p)); }
  PK_INLINE static V mac(V sum, V w, V x) { return dot_bf16(sum, (i32v)w, (i32v)x); }
#else
  using X = float;
  static constexpr int PER = 2;
  static constexpr bool SPLIT = true;
  PK_INLINE static void read(const char* p, V* w) {
    const u32v pairs = loadu<u32v>(reinterpret_cast<const uint32_t*>(p));
    w[0] = (V)(pairs << 16), w[1] = (V)(pairs & 0xFFFF0000u);
  }
  PK_INLINE static V mac(V sum, V w, V x) { return fma(w, x, sum); }
#endif
};

struct Int8 {
  using V = f32v;
  using X = float;
  static constexpr int X_BYTES = 4, PER = 1, STEP = F32;
  static constexpr bool SPLIT = false, GROUPED = true;
  static constexpr int64_t bytes(int64_t n) { return n; }
  PK_INLINE static void read(const char* p, V* w) { w[0] = load_int8_f32(reinterpret_cast<const int8_t*>(p)); }
  PK_INLINE static V mac(V sum, V w, V x) { return fma(w, x, sum); }
  static float one(const char* row, int64_t j) { return float(reinterpret_cast<const int8_t*>(row)[j]); }
  static float x(const void* p, int64_t j) { return static_cast<const float*>(p)[j]; }
  static void put(void* y, int64_t i, float v) { static_cast<float*>(y)[i] = v; }
};
struct Int4 {
  using V = f32v;
  using X = float;
  static constexpr int X_BYTES = 4, PER = 2, STEP = 2 * F32;
  static constexpr bool SPLIT = true, GROUPED = true;
  static constexpr int64_t bytes(int64_t n) { return n / 2; }
  PK_INLINE static void read(const char* p, V* w) {
    const i32v pair = load_uint8(reinterpret_cast<const uint8_t*>(p));
#if PK_VECTOR_BYTES == 64  // a permutation looks only at the low four bits of its index: it is the table of all values
    const f32v values = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
    w[0] = (V)_mm512_permutexvar_ps((__m512i)pair, (__m512)values);
    w[1] = (V)_mm512_permutexvar_ps((__m512i)(pair >> 4), (__m512)values);
#else
    w[0] = to_f32(pair << 28 >> 28), w[1] = to_f32(pair << 24 >> 28);
#endif
  }
  PK_INLINE static V mac(V sum, V w, V x) { return fma(w, x, sum); }
  static float one(const char* row, int64_t j) { return float(int(uint32_t(uint8_t(row[j / 2])) << (j % 2 ? 24 : 28)) >> 28); }
  static float x(const void* p, int64_t j) { return static_cast<const float*>(p)[j]; }
  static void put(void* y, int64_t i, float v) { static_cast<float*>(y)[i] = v; }
};

// -------------------------------------------------------------------------------------------------------------- call

struct Product {
  const char* a;
  const float* scales;
  const char* x;        // as the operand has it
  const char* ordered;  // as the vectors want it
  void* y;
  int64_t rows, cols, batch, row_bytes, groups, x_bytes, ordered_bytes, whole;  // whole: columns in full steps
};

template <class F>
static Product product_of(const pk_call* c, const pk_team* t) {
  Product p{};
  p.a = static_cast<const char*>(c->ptr[0]), p.scales = static_cast<const float*>(c->ptr[1]);
  p.x = p.ordered = static_cast<const char*>(c->ptr[2]), p.y = c->ptr[3];
  p.rows = c->dim[0], p.cols = c->dim[1], p.batch = c->dim[2];
  p.row_bytes = F::bytes(p.cols), p.groups = (p.cols + GROUP - 1) / GROUP, p.whole = p.cols / F::STEP * F::STEP;
  p.x_bytes = p.ordered_bytes = p.cols * F::X_BYTES;
  if (F::SPLIT) p.ordered = static_cast<const char*>(t->scratch), p.ordered_bytes = p.whole * 4;
  return p;
}

template <class F>
static int64_t scratch_of(const pk_call* c, int) {
  return F::SPLIT ? c->dim[2] * c->dim[1] * 4 + 64 : 0;
}

// Even columns of each step, then its odd ones.
template <class F>
static void order(const Product& p) {
  if constexpr (F::SPLIT) {
    float* out = reinterpret_cast<float*>(const_cast<char*>(p.ordered));
    for (int64_t b = 0; b < p.batch; ++b)
      for (int64_t j = 0; j < p.whole; j += F::STEP)
        for (int k = 0; k < F::STEP; ++k)
          *out++ = float(F::x(p.x + b * p.x_bytes, j + (k < F::STEP / 2 ? 2 * k : 2 * k - F::STEP + 1)));
  }
}

// ------------------------------------------------------------------------------------------------------------- blocks

// sum[r][b] += columns [from, to) of R rows times B vectors.
template <class F, int R, int B>
PK_INLINE void steps(const char* a, int64_t stride, const char* x, int64_t x_stride, int64_t from, int64_t to,
                     typename F::V (&sum)[R][B]) {
  using V = typename F::V;
  using X = typename F::X;
  constexpr int W = sizeof(V) / sizeof(X);
#pragma GCC unroll 2
  for (int64_t j = from; j < to; j += F::STEP) {
    V w[R][F::PER];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) F::read(a + r * stride + F::bytes(j), w[r]);
#pragma GCC unroll 2
    for (int k = 0; k < F::PER; ++k) {
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) {
        const V v = (V)loadu<vec<X>>(reinterpret_cast<const X*>(x + b * x_stride) + j + k * W);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sum[r][b] = F::mac(sum[r][b], w[r][k], v);
      }
    }
  }
}

template <class F, int R, int B>
static void block(const Product& p, int64_t i, int64_t b0) {
  using V = typename F::V;
  const char* a = p.a + i * p.row_bytes;
  const char* x = p.ordered + b0 * p.ordered_bytes;
  V sum[R][B] = {};
  if constexpr (F::GROUPED) {
    for (int64_t g = 0; g * GROUP < p.whole; ++g) {
      V part[R][B] = {};
      const int64_t end = (g + 1) * GROUP < p.whole ? (g + 1) * GROUP : p.whole;
      steps<F, R, B>(a, p.row_bytes, x, p.ordered_bytes, g * GROUP, end, part);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const V scale = broadcast<V>(p.scales[(i + r) * p.groups + g]);
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) sum[r][b] = fma(part[r][b], scale, sum[r][b]);
      }
    }
  } else {
    steps<F, R, B>(a, p.row_bytes, x, p.ordered_bytes, 0, p.whole, sum);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) {
      auto total = hsum(sum[r][b]);
      for (int64_t j = p.whole; j < p.cols; ++j) {
        auto w = F::one(a + r * p.row_bytes, j);
        if constexpr (F::GROUPED) w *= p.scales[(i + r) * p.groups + j / GROUP];
        total += w * F::x(p.x + (b0 + b) * p.x_bytes, j);
      }
      F::put(p.y, (b0 + b) * p.rows + i + r, total);
    }
  }
}

// Rows [lo, hi), R at a time and the rest one by one; up to `most` vectors each time.
template <class F, int R, int B>
PK_INLINE void some(const Product& p, int64_t i, int64_t& b) {
  for (; b + B <= p.batch; b += B) block<F, R, B>(p, i, b);
}
template <class F>
PK_INLINE void rows_of(const Product& p, int64_t lo, int64_t hi) {
  int64_t i = lo;
  for (const int64_t step = p.batch > 4 ? 2 : 4; i + step <= hi; i += step) {
    int64_t b = 0;
    if (step == 2) {
      some<F, 2, 8>(p, i, b), some<F, 2, 4>(p, i, b), some<F, 2, 1>(p, i, b);
    } else {
      some<F, 4, 4>(p, i, b), some<F, 4, 2>(p, i, b), some<F, 4, 1>(p, i, b);
    }
  }
  for (; i < hi; ++i) {
    int64_t b = 0;
    some<F, 1, 4>(p, i, b), some<F, 1, 1>(p, i, b);
  }
}
template <class F>
PK_INLINE void one_by_one(const Product& p, int64_t lo, int64_t hi) {
  for (int64_t i = lo; i < hi; ++i)
    for (int64_t b = 0; b < p.batch; ++b) block<F, 1, 1>(p, i, b);
}

template <class F>
static void passes(const pk_call* c, const pk_team* t, void (*rows)(const Product&, int64_t, int64_t)) {
  const Product p = product_of<F>(c, t);
  const int64_t parts = c->dim[3];
  int64_t lo, hi;
  pk_share(p.rows, 4, t->tid, t->threads, &lo, &hi);
  for (int64_t r = 0; r < c->reps; ++r) {
    forget_memory();
    order<F>(p);
    int64_t from, to;
    pk_share(hi - lo, 4, int((c->first + r) % parts), int(parts), &from, &to);
    rows(p, lo + from, lo + to);
  }
}

// -------------------------------------------------------------------------------------------------------------- table

#define KERNELS(dtype, F)                                                                                            \
  PK_HOT void pk_gemv_##dtype##_plain(const Product& p, int64_t lo, int64_t hi) { one_by_one<F>(p, lo, hi); }        \
  PK_HOT void pk_gemv_##dtype##_blocked(const Product& p, int64_t lo, int64_t hi) { rows_of<F>(p, lo, hi); }         \
  static void plain_##dtype(const pk_call* c, const pk_team* t) { passes<F>(c, t, pk_gemv_##dtype##_plain); }        \
  static void blocked_##dtype(const pk_call* c, const pk_team* t) { passes<F>(c, t, pk_gemv_##dtype##_blocked); }
#define ENTRIES(dtype, F)                                                                                            \
  {"gemv", "", #dtype, "plain", plain_##dtype, scratch_of<F>, nullptr, 0, "pk_gemv_" #dtype "_plain"},               \
  {"gemv", "", #dtype, "blocked", blocked_##dtype, scratch_of<F>, nullptr, 0, "pk_gemv_" #dtype "_blocked"},

KERNELS(fp64, Fp64)
KERNELS(fp32, Fp32)
KERNELS(bf16, Bf16)
KERNELS(int8, Int8)
KERNELS(int4, Int4)

static const pk_entry gemv_entries[] = {ENTRIES(fp64, Fp64) ENTRIES(fp32, Fp32) ENTRIES(bf16, Bf16) ENTRIES(int8, Int8) ENTRIES(int4, Int4)};
PK_TABLE(gemv_entries);
