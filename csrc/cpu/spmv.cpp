// y = A x with A in compressed sparse rows.
//
// Operands  in: values (nnz), columns (nnz, int32), starts (rows + 1, int32), x (cols); out: y (rows)
// dims      rows, cols, nnz, parts: a pass covers one part of every thread's rows, the parts in turn
// Variants  scalar, gather (vectors of neighbours in a row, x gathered)
#include "vec.h"

#include "table.h"

using namespace pk;

PK_INLINE float value_of(float x) { return x; }
PK_INLINE float value_of(uint16_t x) {
  const uint32_t wide = uint32_t(x) << 16;
  float f;
  __builtin_memcpy(&f, &wide, 4);
  return f;
}
PK_INLINE f32v values_at(const float* p) { return loadu<f32v>(p); }
PK_INLINE f32v values_at(const uint16_t* p) { return load_bf16(p); }

// x at the F32 places that follow p. By intrinsics: the language has no form for it.
PK_INLINE f32v gathered(const float* x, const int32_t* p) {
#if PK_VECTOR_BYTES == 64
  return (f32v)_mm512_i32gather_ps(_mm512_loadu_si512(p), x, 4);
#elif defined(__AVX2__)
  return (f32v)_mm256_i32gather_ps(x, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), 4);
#else
  f32v v;
  for (int i = 0; i < F32; ++i) v[i] = x[p[i]];
  return v;
#endif
}

template <bool Vectors, class E>
PK_INLINE float row_sum(const E* values, const int32_t* columns, const float* x, int64_t n) {
  float rest = 0;
  int64_t i = 0;
  f32v s0{}, s1{};
  if constexpr (Vectors)
    for (; i + 2 * F32 <= n; i += 2 * F32) {
      s0 = fma(values_at(values + i), gathered(x, columns + i), s0);
      s1 = fma(values_at(values + i + F32), gathered(x, columns + i + F32), s1);
    }
  for (; i < n; ++i) rest += value_of(values[i]) * x[columns[i]];
  return Vectors ? rest + hsum(s0 + s1) : rest;
}

template <bool Vectors, class E>
PK_INLINE void passes(const pk_call* c, const pk_team* t) {
  const E* values = static_cast<const E*>(c->ptr[0]);
  const int32_t *columns = static_cast<const int32_t*>(c->ptr[1]), *starts = static_cast<const int32_t*>(c->ptr[2]);
  const float* x = static_cast<const float*>(c->ptr[3]);
  float* y = static_cast<float*>(c->ptr[4]);
  int64_t lo, hi, from, to;
  pk_share(c->dim[0], 16, t->tid, t->threads, &lo, &hi);
  for (int64_t r = 0; r < c->reps; ++r) {
    forget_memory();
    pk_share(hi - lo, 1, int((c->first + r) % c->dim[3]), int(c->dim[3]), &from, &to);
    for (int64_t row = lo + from; row < lo + to; ++row)
      y[row] = row_sum<Vectors>(values + starts[row], columns + starts[row], x, starts[row + 1] - starts[row]);
  }
}

#define KERNELS(dtype, E)                                                                                  \
  PK_HOT void pk_spmv_##dtype##_scalar(const pk_call* c, const pk_team* t) { passes<false, E>(c, t); }      \
  PK_HOT void pk_spmv_##dtype##_gather(const pk_call* c, const pk_team* t) { passes<true, E>(c, t); }
#define ENTRIES(dtype)                                                                                              \
  {"spmv", "", #dtype, "scalar", pk_spmv_##dtype##_scalar, nullptr, nullptr, 0, "pk_spmv_" #dtype "_scalar"},       \
  {"spmv", "", #dtype, "gather", pk_spmv_##dtype##_gather, nullptr, nullptr, 0, "pk_spmv_" #dtype "_gather"},
KERNELS(fp32, float)
KERNELS(bf16, uint16_t)
static const pk_entry spmv_entries[] = {ENTRIES(fp32) ENTRIES(bf16)};
PK_TABLE(spmv_entries);
