// Exponentials a second: the roof of softmax and attention. x is read from the L1, e^x written back to it.
//
// Operands  in: x (n); out: y (units x n)      dims  n; units
// Variants  unrollU: U vectors at once
#include "exp.h"
#include "table.h"

using namespace pk;

template <int U>
PK_INLINE void all(const float* x, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + U * F32 <= n; i += U * F32) {
#pragma GCC unroll 8
    for (int k = 0; k < U; ++k) storeu(y + i + k * F32, vexp_low(loadu<f32v>(x + i + k * F32)));
  }
  for (; i < n; i += F32) {
    const int64_t some = n - i < F32 ? n - i : F32;
    store_first(y + i, vexp_low(load_first<f32v>(x + i, some)), some);
  }
}

template <int U>
PK_INLINE void passes(const pk_call* c, const pk_team* t) {
  const int64_t n = c->dim[0];
  int64_t lo, hi;
  pk_share(c->dim[1], 1, t->tid, t->threads, &lo, &hi);
  for (int64_t r = 0; r < c->reps; ++r)
    for (int64_t unit = lo; unit < hi; ++unit) {
      forget_memory();
      all<U>(static_cast<const float*>(c->ptr[0]), static_cast<float*>(c->ptr[1]) + unit * n, n);
    }
}

#define KERNEL(U) \
  PK_HOT void pk_exp_unroll##U(const pk_call* c, const pk_team* t) { passes<U>(c, t); }
#define ENTRY(U) {"exp", "", "fp32", "unroll" #U, pk_exp_unroll##U, nullptr, nullptr, 0, "pk_exp_unroll" #U},
KERNEL(1)
KERNEL(2)
#if PK_REGISTERS == 32
KERNEL(4)
#endif

static const pk_entry exp_entries[] = {
  ENTRY(1) ENTRY(2)
#if PK_REGISTERS == 32
  ENTRY(4)
#endif
};
PK_TABLE(exp_entries);
