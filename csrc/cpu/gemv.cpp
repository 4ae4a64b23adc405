// Matrix times vectors: Y = A X, the weight-only product of decoding. Sums in fp32 (fp64: in fp64).
//
// Operands  A (rows x cols), scales (rows x groups, fp32; none for floating point), x (batch x cols), y (batch x rows)
//           fp64, fp32: all alike; bf16: all bf16; int8, int4 (low nibble first): signed, A[i,j] scales[i, j / 128], x and y fp32
// dims      rows, cols, batch, parts: a pass covers one part of every thread's rows, the parts in turn
// Variants, in rising order of refinement
//   plain    one row and one vector at a time
//   blocked  four rows at a time, and up to four vectors for each time these are read; fp32 and fp64 pairs for one vector
//   ahead    blocked, the four rows a quarter of the share apart and asked for into the L2 before their turn, for memory: one stream
//            does not fill its queues, and the prefetchers cannot tell rows beside each other apart
//   digits   int8 and int4 where a CPU has dot products of bytes: x in three digits (gemv_digits.h), with the next rows asked for
//
// bf16 uses the CPU's dot product of pairs where there is one; elsewhere pairs are split into even and odd columns, for which
// x is put in that order once a pass, as for int4.
#include "gemv_digits.h"
#include "sums.h"
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
  static constexpr bool SPLIT = false, GROUPED = false, PAIRS = true;
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
  static constexpr bool SPLIT = false, GROUPED = false, PAIRS = true;
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
  static constexpr bool GROUPED = false, PAIRS = false;
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
  PK_INLINE static void read(const char* p, V* w) { w[0] = (V)loadu<vec<uint16_t>>(reinterpret_cast<const uint16_t*>(p)); }
  PK_INLINE static V mac(V sum, V w, V x) { return dot_bf16(sum, (i32v)w, (i32v)x); }
#else
  using X = float;
  static constexpr int PER = 2;
  static constexpr bool SPLIT = true;
  PK_INLINE static void read(const char* p, V* w) {
    const u32v pairs = (u32v)loadu<vec<uint16_t>>(reinterpret_cast<const uint16_t*>(p));
    w[0] = (V)(pairs << 16), w[1] = (V)(pairs & 0xFFFF0000u);
  }
  PK_INLINE static V mac(V sum, V w, V x) { return fma(w, x, sum); }
#endif
};

struct Int8 {
  using V = f32v;
  using X = float;
  static constexpr int X_BYTES = 4, PER = 1, STEP = F32;
  static constexpr bool SPLIT = false, GROUPED = true, PAIRS = false;
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
  static constexpr bool SPLIT = true, GROUPED = true, PAIRS = false;
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

static constexpr int64_t AHEAD_BYTES = 1024;  // within rows that one vector reads; twice as far where several take longer

// Asks, once a line of columns, for a line each of the PF rows that begin `ahead` bytes from a.
template <class F, int PF>
PK_INLINE void ask(const char* a, int64_t ahead, int64_t stride, int64_t j) {
  if (PF == 0 || (F::bytes(F::STEP) % 64 && F::bytes(j) % 64)) return;
#pragma GCC unroll 4
  for (int r = 0; r < PF; ++r)
    for (int64_t line = 0; line < F::bytes(F::STEP); line += 64)
      prefetch_l2(a, ahead + r * stride + F::bytes(j) + line);
}

// sum[r][b] += columns [from, to) of R rows times B vectors.
template <class F, int R, int B, int PF>
PK_INLINE void steps(const char* a, int64_t stride, const char* x, int64_t x_stride, int64_t ahead, int64_t from, int64_t to,
                     typename F::V (&sum)[R][B]) {
  using V = typename F::V;
  using X = typename F::X;
  constexpr int W = sizeof(V) / sizeof(X);
#pragma GCC unroll 2
  for (int64_t j = from; j < to; j += F::STEP) {
    ask<F, PF>(a, ahead, stride, j);
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

// What the vectors left over, and y.
template <class F>
PK_INLINE void finish(const Product& p, int64_t i, int64_t b, decltype(F::one(nullptr, 0)) total) {
  for (int64_t j = p.whole; j < p.cols; ++j) {
    auto w = F::one(p.a + i * p.row_bytes, j);
    if constexpr (F::GROUPED) w *= p.scales[i * p.groups + j / GROUP];
    total += w * F::x(p.x + b * p.x_bytes, j);
  }
  F::put(p.y, b * p.rows + i, total);
}

// Rows i, i + apart.. by vectors b0..; asks for PF rows from `ahead` on.
template <class F, int R, int B, int PF>
static __attribute__((noinline)) void block(const Product& p, int64_t i, int64_t apart, int64_t b0, int64_t ahead) {
  using V = typename F::V;
  const char* a = p.a + i * p.row_bytes;
  const char* x = p.ordered + b0 * p.ordered_bytes;
  const int64_t stride = apart * p.row_bytes;
  V sum[R][B] = {};
  if constexpr (F::GROUPED) {
    for (int64_t g = 0; g * GROUP < p.whole; ++g) {
      V part[R][B] = {};
      const int64_t end = (g + 1) * GROUP < p.whole ? (g + 1) * GROUP : p.whole;
      steps<F, R, B, PF>(a, stride, x, p.ordered_bytes, ahead, g * GROUP, end, part);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const V scale = broadcast<V>(p.scales[(i + r * apart) * p.groups + g]);
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) sum[r][b] = fma(part[r][b], scale, sum[r][b]);
      }
    }
  } else {
    steps<F, R, B, PF>(a, stride, x, p.ordered_bytes, ahead, 0, p.whole, sum);
  }
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
    if constexpr (R == 4 && sizeof(sum[0][0][0]) == 4) {
      const f32x4 total = sums_of(sum[0][b], sum[1][b], sum[2][b], sum[3][b]);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) finish<F>(p, i + r * apart, b0 + b, total[r]);
    } else {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) finish<F>(p, i + r * apart, b0 + b, hsum(sum[r][b]));
    }
  }
}

// Rows [lo, hi), an even number, by vector b, in pairs: two rows read x half as often as they read A and leave its lines in the
// L1, where the lines of four rows some KiB apart would take their place. One loop over all of them, so that the first loads
// of a pair do not wait for the last call's end.
template <class F>
static __attribute__((noinline)) void pairs(const Product& p, int64_t lo, int64_t hi, int64_t b) {
  using V = typename F::V;
  using X = typename F::X;
  const int64_t whole = p.whole, stride = p.row_bytes;
  const bool rest = whole < p.cols;
  const char* one = p.a + lo * stride;
  const X* x = reinterpret_cast<const X*>(p.ordered + b * p.ordered_bytes);
  X* y = static_cast<X*>(p.y) + b * p.rows;
  for (int64_t i = lo; i < hi; i += 2, one += 2 * stride) {
    const char* other = one + stride;
    V sum{}, other_sum{};
#pragma GCC unroll 2
    for (int64_t j = 0; j < whole; j += F::STEP) {
      const V v = loadu<V>(x + j);
      sum = fma(loadu<V>(reinterpret_cast<const X*>(one) + j), v, sum);
      other_sum = fma(loadu<V>(reinterpret_cast<const X*>(other) + j), v, other_sum);
    }
    y[i] = hsum(sum), y[i + 1] = hsum(other_sum);
    if (rest) finish<F>(p, i, b, y[i]), finish<F>(p, i + 1, b, y[i + 1]);
  }
}

// Rows [lo, hi), four at a time and the rest one by one, up to four vectors each time. With AHEAD the four are a quarter of
// the rows apart: one block of vectors asks for them a little ahead, several ask for the next turn's rows in equal parts.
template <class F, bool AHEAD>
PK_INLINE void rows_of(const Product& p, int64_t lo, int64_t hi) {
  const int64_t blocks = (p.batch + 3) / 4, fours = (hi - lo) / 4;
  const int64_t apart = AHEAD ? fours : 1, rest = lo + 4 * fours, stride = apart * p.row_bytes;
  const int64_t soon = (p.batch > 1 ? 2 : 1) * AHEAD_BYTES, next = p.row_bytes;  // how far ahead
  int64_t i = lo;
  if constexpr (!AHEAD && F::PAIRS) {
    if (p.batch == 1) i += (hi - lo) / 2 * 2, pairs<F>(p, lo, i, 0);
  }
  for (const int64_t end = AHEAD ? lo + fours : rest; i < end; i += AHEAD ? 1 : 4) {
    int64_t b = 0;
    if (!AHEAD || blocks > 4) {
      for (; b + 4 <= p.batch; b += 4) {
        if (AHEAD && b < 16) block<F, 4, 4, 1>(p, i, apart, b, next + b / 4 * stride);
        else block<F, 4, 4, 0>(p, i, apart, b, next);
      }
    } else if (blocks == 1) {
      if (p.batch == 4) block<F, 4, 4, 4>(p, i, apart, 0, soon), b = 4;
      else if (p.batch >= 2) block<F, 4, 2, 4>(p, i, apart, 0, soon), b = 2;
      else block<F, 4, 1, 4>(p, i, apart, 0, soon), b = 1;
    } else {
      for (; b + 4 <= p.batch; b += 4) {
        if (blocks == 2 || b == 0) block<F, 4, 4, 2>(p, i, apart, b, next + (b ? 2 : 0) * stride);
        else block<F, 4, 4, 1>(p, i, apart, b, next + (b / 4 + 1 < 4 ? b / 4 + 1 : 3) * stride);
      }
    }
    for (; b + 2 <= p.batch; b += 2) block<F, 4, 2, 0>(p, i, apart, b, next);
    for (; b < p.batch; ++b) block<F, 4, 1, 0>(p, i, apart, b, next);
  }
  for (i = i > rest ? i : rest; i < hi; ++i)
    for (int64_t b = 0; b < p.batch; ++b) block<F, 1, 1, 0>(p, i, 1, b, 0);
}
template <class F>
PK_INLINE void one_by_one(const Product& p, int64_t lo, int64_t hi) {
  for (int64_t i = lo; i < hi; ++i)
    for (int64_t b = 0; b < p.batch; ++b) block<F, 1, 1, 0>(p, i, 1, b, 0);
}

// ------------------------------------------------------------------------------------------------------------- all rows

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

#if PK_HAS_INT8_DOT == 2
static int64_t digit_scratch(const pk_call* c, int) { return digits::scratch_bytes(c->dim[1], c->dim[2]); }

template <class F, class D>
static void digit_passes(const pk_call* c, const pk_team* t, void (*rows)(const digits::Operands&, int64_t, int64_t)) {
  const Product k = product_of<F>(c, t);
  digits::Operands p{k.a, k.scales, reinterpret_cast<const float*>(k.x), static_cast<float*>(k.y),
                     k.rows, k.cols, k.batch, k.row_bytes, k.groups, static_cast<int8_t*>(t->scratch), nullptr, nullptr};
  p.inverse = reinterpret_cast<float*>(p.digits + k.batch * k.groups * digits::PLACES * PK_VECTOR_BYTES);
  p.factors = p.inverse + k.batch * digits::padded(k.groups);
  const int64_t parts = c->dim[3];
  int64_t lo, hi;
  pk_share(p.rows, 4, t->tid, t->threads, &lo, &hi);
  for (int64_t r = 0; r < c->reps; ++r) {
    forget_memory();
    digits::all_digits<D>(p);
    int64_t from, to;
    pk_share(hi - lo, 4, int((c->first + r) % parts), int(parts), &from, &to);
    rows(p, lo + from, lo + to);
  }
}
#endif

// -------------------------------------------------------------------------------------------------------------- table

#define KERNEL(dtype, F, variant, rows)                                                                              \
  PK_HOT void pk_gemv_##dtype##_##variant(const Product& p, int64_t lo, int64_t hi) { rows(p, lo, hi); }             \
  static void variant##_##dtype(const pk_call* c, const pk_team* t) {                                                \
    passes<F>(c, t, pk_gemv_##dtype##_##variant);                                     \
  }
#define ENTRY(dtype, variant, scratch) \
  {"gemv", "", #dtype, #variant, variant##_##dtype, scratch, nullptr, 0, "pk_gemv_" #dtype "_" #variant},
#define KERNELS(dtype, F)                                   \
  KERNEL(dtype, F, plain, one_by_one<F>)                    \
  KERNEL(dtype, F, blocked, (rows_of<F, false>))    \
  KERNEL(dtype, F, ahead, (rows_of<F, true>))
#define ENTRIES(dtype, F) \
  ENTRY(dtype, plain, scratch_of<F>) ENTRY(dtype, blocked, scratch_of<F>) ENTRY(dtype, ahead, scratch_of<F>)

KERNELS(fp64, Fp64)
KERNELS(fp32, Fp32)
KERNELS(bf16, Bf16)
KERNELS(int8, Int8)
KERNELS(int4, Int4)

#if PK_HAS_INT8_DOT == 2
#define DIGITS(dtype, F)                                                                                             \
  PK_HOT void pk_gemv_##dtype##_digits(const digits::Operands& p, int64_t lo, int64_t hi) {                          \
    digits::rows_of<digits::F>(p, lo, hi);                                                                           \
  }                                                                                                                  \
  static void digits_##dtype(const pk_call* c, const pk_team* t) {                                                   \
    digit_passes<F, digits::F>(c, t, pk_gemv_##dtype##_digits);                                                      \
  }
DIGITS(int8, Int8)
DIGITS(int4, Int4)
#define DIGIT_ENTRIES ENTRY(int8, digits, digit_scratch) ENTRY(int4, digits, digit_scratch)
#else
#define DIGIT_ENTRIES
#endif

static const pk_entry gemv_entries[] = {
  ENTRIES(fp64, Fp64) ENTRIES(fp32, Fp32) ENTRIES(bf16, Bf16)
  ENTRIES(int8, Int8) ENTRIES(int4, Int4) DIGIT_ENTRIES
};
PK_TABLE(gemv_entries);
