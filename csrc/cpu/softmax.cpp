// Softmax along rows: out = exp(s - max s) / sum exp(s - max s) with s = scale x + mask, in fp32, stored in the type of x.
//
// Operands  x (rows x width), mask (width fp32, added to every row; none without a mask), out (rows x width)
// dims      rows, width, masked, parts: a pass covers one part of every thread's rows, the parts in turn;   scalars  scale
// Variants, in rising order of refinement
//   plain      three passes over a row: the maximum; exp and sum, written; the division
//   online     two passes (Milakov and Gimelshein 2018): maximum and sum together, rescaled as the maximum grows; then exp again
//   registers  rows of 2, 4, 8 or 16 vectors without a mask stay in the registers, others in a scratch row in fp32
//   stream     by way of the scratch row, with the results by streaming stores, for rows that lie in memory
//
// A row whose every s is -inf (fully masked) gives zeros. exp is within 1 ulp (vexp_low of exp.h); a row with NaN gives NaN.
#include "exp.h"
#include "table.h"

using namespace pk;

static constexpr int KEEP = PK_REGISTERS == 32 ? 16 : 8;

struct Fp32 {
  using T = float;
  PK_INLINE static f32v read(const T* p) { return loadu<f32v>(p); }
  template <bool NT>
  PK_INLINE static void write(T* p, f32v v) {
    if (NT) stream_store(p, v);
    else storeu(p, v);
  }
  static float one(T x) { return x; }
  static void put(T* p, float v) { *p = v; }
};
struct Bf16 {
  using T = uint16_t;
  PK_INLINE static f32v read(const T* p) { return load_bf16(p); }
  template <bool NT>
  PK_INLINE static void write(T* p, f32v v) {
#if defined(__AVX512BF16__)  // flushes subnormal results, which are no likelihoods anyone asks for
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
    store_bf16(p, v);
#endif
  }
  static float one(T x) {
    const uint32_t bits = uint32_t(x) << 16;
    float v;
    memcpy(&v, &bits, 4);
    return v;
  }
  static void put(T* p, float v) {
    uint16_t part[F32];
    store_bf16(part, broadcast<f32v>(v));
    *p = part[0];
  }
};

static constexpr float LOWEST = -__builtin_inff();

struct Row {
  float scale;
  const float* mask;  // or null
};

template <class F>
PK_VEC f32v score(const typename F::T* x, int64_t j, const Row& row) {
  const f32v v = F::read(x + j) * row.scale;
  return row.mask ? v + loadu<f32v>(row.mask + j) : v;
}
// The last elements of a row, -inf beyond its end.
template <class F>
PK_VEC f32v score_rest(const typename F::T* x, int64_t j, int64_t n, const Row& row) {
  float part[F32];
  for (int k = 0; k < F32; ++k) part[k] = LOWEST;
  for (int64_t k = 0; j + k < n; ++k) part[k] = F::one(x[j + k]) * row.scale + (row.mask ? row.mask[j + k] : 0.0f);
  return loadu<f32v>(part);
}
template <class F>
PK_VEC void write_rest(typename F::T* out, int64_t j, int64_t n, f32v v) {
  float part[F32];
  storeu(part, v);
  for (int64_t k = 0; j + k < n; ++k) F::put(out + j + k, part[k]);
}

// A row whose maximum is -inf: zeros, or NaN where it hides one (a maximum may lose it).
template <class F>
static __attribute__((noinline)) void empty_row(const typename F::T* x, typename F::T* out, int64_t n, const Row& row) {
  bool nan = false;
  for (int64_t j = 0; j < n; ++j) {
    const float s = F::one(x[j]) * row.scale + (row.mask ? row.mask[j] : 0.0f);
    nan |= s != s;
  }
  for (int64_t j = 0; j < n; ++j) F::put(out + j, nan ? __builtin_nanf("") : 0.0f);
}

// ---------------------------------------------------------------------------------------------------------- variants

template <class F>
PK_INLINE void three_passes(const typename F::T* x, typename F::T* out, int64_t n, const Row& row, float* e) {
  const int64_t whole = n / F32 * F32;
  f32v most = broadcast<f32v>(LOWEST);
  for (int64_t j = 0; j < whole; j += F32) most = vmax(most, score<F>(x, j, row));
  if (whole < n) most = vmax(most, score_rest<F>(x, whole, n, row));
  const float top = hmax(most);
  if (top == LOWEST) return empty_row<F>(x, out, n, row);
  f32v sum{};
  for (int64_t j = 0; j < whole; j += F32) {
    const f32v v = vexp_low(score<F>(x, j, row) - top);
    sum += v;
    storeu(e + j, v);
  }
  if (whole < n) {
    const f32v v = vexp_low(score_rest<F>(x, whole, n, row) - top);
    sum += v;
    storeu(e + whole, v);
  }
  const float inverse = 1.0f / hsum(sum);
  for (int64_t j = 0; j < whole; j += F32) F::template write<false>(out + j, loadu<f32v>(e + j) * inverse);
  if (whole < n) write_rest<F>(out, whole, n, loadu<f32v>(e + whole) * inverse);
}

template <class F>
PK_INLINE void online(const typename F::T* x, typename F::T* out, int64_t n, const Row& row) {
  const int64_t whole = n / F32 * F32;
  // a maximum that starts low but finite: -inf less -inf would be NaN
  f32v most = broadcast<f32v>(-0x1.fffffep127f), sum{};
  for (int64_t j = 0; j <= whole; j += F32) {
    if (j == whole && whole == n) break;
    const f32v s = j < whole ? score<F>(x, j, row) : score_rest<F>(x, j, n, row);
    const f32v next = vmax(most, s);
    sum = sum * vexp_low(most - next) + vexp_low(s - next);
    most = next;
  }
  const float top = hmax(most);
  const float total = hsum(sum * vexp_low(most - top));
  if (total == 0.0f) return empty_row<F>(x, out, n, row);
  const float inverse = 1.0f / total;
  for (int64_t j = 0; j < whole; j += F32) F::template write<false>(out + j, vexp_low(score<F>(x, j, row) - top) * inverse);
  if (whole < n) write_rest<F>(out, whole, n, vexp_low(score_rest<F>(x, whole, n, row) - top) * inverse);
}

// Asks for N vectors of the next row, and of the results where they are written through the caches: while exponentials are
// computed, so that the passes that only read and write need not wait.
template <class F, int N, bool NT>
PK_INLINE void fetch(const typename F::T* x, const typename F::T* out) {
  constexpr int STEP = 64 / sizeof(x[0]);
#pragma GCC unroll 16
  for (int j = 0; j < N * F32; j += STEP) {
    prefetch(x + j);
    if (!NT) prefetch_write(out + j);
  }
}

// A row of exactly N vectors, without a mask, scale > 0.
template <class F, int N>
PK_INLINE void kept(const typename F::T* x, typename F::T* out, const Row& row) {
  f32v v[N];
#pragma GCC unroll 16
  for (int k = 0; k < N; ++k) v[k] = F::read(x + k * F32);
  f32v most = v[0];
#pragma GCC unroll 16
  for (int k = 1; k < N; ++k) most = vmax(most, v[k]);
  const float top = hmax(most) * row.scale;
  if (top == LOWEST) return empty_row<F>(x, out, N * F32, row);
  const f32v scale = broadcast<f32v>(row.scale), low = broadcast<f32v>(-top);
  f32v sum[2] = {};
  fetch<F, N, false>(x + N * F32, out + N * F32);
#pragma GCC unroll 16
  for (int k = 0; k < N; ++k) v[k] = vexp_low(fma(v[k], scale, low)), sum[k & 1] += v[k];
  const float inverse = 1.0f / hsum(sum[0] + sum[1]);
#pragma GCC unroll 16
  for (int k = 0; k < N; ++k) F::template write<false>(out + k * F32, v[k] * inverse);
}

// Any other row. Without a mask and with scale > 0 the maximum is that of x, which is read again for the exponentials; else
// the scores wait in scratch. Four vectors a step, so that no chain of dependent operations binds.
template <class F, bool DIRECT>
PK_VEC f32v first(const typename F::T* x, int64_t j, const Row& row, float* e) {
  if (DIRECT) return F::read(x + j);
  const f32v s = score<F>(x, j, row);
  storeu(e + j, s);
  return s;
}
template <class F, bool DIRECT>
PK_VEC f32v second(const typename F::T* x, int64_t j, float* e, f32v scale, f32v low) {
  const f32v v = vexp_low(DIRECT ? fma(F::read(x + j), scale, low) : loadu<f32v>(e + j) + low);
  storeu(e + j, v);
  return v;
}
template <class F, bool DIRECT, bool NT>
PK_INLINE void scratched(const typename F::T* x, typename F::T* out, int64_t n, const Row& row, float* e) {
  const int64_t whole = n / F32 * F32, four = whole / (4 * F32) * (4 * F32);
  f32v m0 = broadcast<f32v>(LOWEST), m1 = m0, m2 = m0, m3 = m0;
  for (int64_t j = 0; j < four; j += 4 * F32) {
    m0 = vmax(m0, first<F, DIRECT>(x, j, row, e)), m1 = vmax(m1, first<F, DIRECT>(x, j + F32, row, e));
    m2 = vmax(m2, first<F, DIRECT>(x, j + 2 * F32, row, e)), m3 = vmax(m3, first<F, DIRECT>(x, j + 3 * F32, row, e));
  }
  for (int64_t j = four; j < whole; j += F32) m0 = vmax(m0, first<F, DIRECT>(x, j, row, e));
  f32v rest = broadcast<f32v>(LOWEST);
  if (whole < n) rest = score_rest<F>(x, whole, n, row);
  const float body = hmax(vmax(vmax(m0, m1), vmax(m2, m3))) * (DIRECT ? row.scale : 1.0f), end = hmax(rest);
  const float top = body > end ? body : end;
  if (top == LOWEST) return empty_row<F>(x, out, n, row);
  const f32v scale = broadcast<f32v>(row.scale), low = broadcast<f32v>(-top);
  f32v s0{}, s1{}, s2{}, s3{};
  for (int64_t j = 0; j < four; j += 4 * F32) {
    fetch<F, 4, NT>(x + n + j, out + j);
    s0 += second<F, DIRECT>(x, j, e, scale, low), s1 += second<F, DIRECT>(x, j + F32, e, scale, low);
    s2 += second<F, DIRECT>(x, j + 2 * F32, e, scale, low), s3 += second<F, DIRECT>(x, j + 3 * F32, e, scale, low);
  }
  for (int64_t j = four; j < whole; j += F32) s0 += second<F, DIRECT>(x, j, e, scale, low);
  rest = vexp_low(rest + low);
  const float inverse = 1.0f / hsum((s0 + s1) + (s2 + s3) + (whole < n ? rest : f32v{}));
#pragma GCC unroll 4
  for (int64_t j = 0; j < whole; j += F32) F::template write<NT>(out + j, loadu<f32v>(e + j) * inverse);
  if (whole < n) write_rest<F>(out, whole, n, rest * inverse);
}

template <class F, int N>
PK_INLINE void kept_rows(const typename F::T* x, typename F::T* out, int64_t rows, const Row& row) {
  for (int64_t i = 0; i < rows; ++i) kept<F, N>(x + i * N * F32, out + i * N * F32, row);
}

// ----------------------------------------------------------------------------------------------------------- all rows

template <class T>
struct Rows {
  const T* x;
  T* out;
  int64_t rows, width;
  Row row;
  float* scratch;
};

template <class F>
PK_INLINE void plain_rows(const Rows<typename F::T>& k) {
  for (int64_t i = 0; i < k.rows; ++i) three_passes<F>(k.x + i * k.width, k.out + i * k.width, k.width, k.row, k.scratch);
}
template <class F>
PK_INLINE void online_rows(const Rows<typename F::T>& k) {
  for (int64_t i = 0; i < k.rows; ++i) online<F>(k.x + i * k.width, k.out + i * k.width, k.width, k.row);
}
template <class F, bool NT>
PK_INLINE void best_rows(const Rows<typename F::T>& k) {
  const int64_t vectors = NT || k.row.mask || !(k.row.scale > 0) || k.width % F32 ? 0 : k.width / F32;
  if (vectors == 2) return kept_rows<F, 2>(k.x, k.out, k.rows, k.row);
  if (vectors == 4) return kept_rows<F, 4>(k.x, k.out, k.rows, k.row);
  if (vectors == 8) return kept_rows<F, 8>(k.x, k.out, k.rows, k.row);
  if (vectors == 16 && KEEP == 16) return kept_rows<F, KEEP>(k.x, k.out, k.rows, k.row);
  for (int64_t i = 0; i < k.rows; ++i) {
    const auto* x = k.x + i * k.width;
    auto* out = k.out + i * k.width;
    if (!k.row.mask && k.row.scale > 0) scratched<F, true, NT>(x, out, k.width, k.row, k.scratch);
    else scratched<F, false, NT>(x, out, k.width, k.row, k.scratch);
  }
}

static int64_t scratch_bytes(const pk_call* c, int) { return (c->dim[1] + F32) * 4; }

template <class T>
static void passes(const pk_call* c, const pk_team* t, void (*run)(const Rows<T>&)) {
  const int64_t width = c->dim[1], parts = c->dim[3];
  Rows<T> k{nullptr, nullptr, 0, width, {float(c->scalar[0]), c->dim[2] ? static_cast<const float*>(c->ptr[1]) : nullptr},
            static_cast<float*>(t->scratch)};
  int64_t lo, hi;
  pk_share(c->dim[0], 1, t->tid, t->threads, &lo, &hi);
  for (int64_t r = 0; r < c->reps; ++r) {
    forget_memory();
    int64_t from, to;
    pk_share(hi - lo, 1, int((c->first + r) % parts), int(parts), &from, &to);
    k.x = static_cast<const T*>(c->ptr[0]) + (lo + from) * width, k.out = static_cast<T*>(c->ptr[2]) + (lo + from) * width;
    k.rows = to - from;
    if (width) run(k);
  }
}

// -------------------------------------------------------------------------------------------------------------- table

#define KERNEL(dtype, F, variant, rows)                                                                              \
  PK_HOT void pk_softmax_##dtype##_##variant(const Rows<F::T>& k) { rows(k); }                                       \
  static void variant##_##dtype(const pk_call* c, const pk_team* t) { passes<F::T>(c, t, pk_softmax_##dtype##_##variant); }
#define ENTRY(dtype, variant) \
  {"softmax", "", #dtype, #variant, variant##_##dtype, scratch_bytes, nullptr, 0, "pk_softmax_" #dtype "_" #variant},

KERNEL(fp32, Fp32, plain, plain_rows<Fp32>)
KERNEL(fp32, Fp32, online, online_rows<Fp32>)
KERNEL(fp32, Fp32, registers, (best_rows<Fp32, false>))
// Streaming stores begin on a vector: rows of whole vectors in an aligned output, else ordinary ones.
PK_HOT void pk_softmax_fp32_stream(const Rows<float>& k) {
  if (k.width % F32 || reinterpret_cast<uintptr_t>(k.out) % PK_VECTOR_BYTES) return best_rows<Fp32, false>(k);
  best_rows<Fp32, true>(k);
  stream_fence();
}
static void stream_fp32(const pk_call* c, const pk_team* t) { passes<float>(c, t, pk_softmax_fp32_stream); }
KERNEL(bf16, Bf16, plain, plain_rows<Bf16>)
KERNEL(bf16, Bf16, online, online_rows<Bf16>)
KERNEL(bf16, Bf16, registers, (best_rows<Bf16, false>))

static const pk_entry softmax_entries[] = {
  ENTRY(fp32, plain) ENTRY(fp32, online) ENTRY(fp32, registers) ENTRY(fp32, stream)
  ENTRY(bf16, plain) ENTRY(bf16, online) ENTRY(bf16, registers)
};
PK_TABLE(softmax_entries);
