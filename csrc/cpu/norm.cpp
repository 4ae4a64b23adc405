// Layer and RMS norm of rows.
//
// Operands  in: x (rows x width), gamma, and for layernorm beta (width); out: y (rows x width)
// dims      rows, width, parts: a pass covers one part of every thread's rows, the parts in turn
#include "rowwise.h"

using namespace pk;

template <Norm norm, class E>
PK_INLINE void passes(const pk_call* c, const pk_team* t) {
  const int64_t width = c->dim[1], parts = c->dim[2];
  const E* x = static_cast<const E*>(c->ptr[0]);
  const E* gamma = static_cast<const E*>(c->ptr[1]);
  const E* beta = static_cast<const E*>(c->ptr[2]);
  E* y = static_cast<E*>(c->ptr[norm == LAYER_NORM ? 3 : 2]);
  int64_t lo, hi, from, to;
  pk_share(c->dim[0], 1, t->tid, t->threads, &lo, &hi);
  for (int64_t r = 0; r < c->reps; ++r) {
    forget_memory();
    pk_share(hi - lo, 1, int((c->first + r) % parts), int(parts), &from, &to);
    for (int64_t row = lo + from; row < lo + to; ++row)
      norm_row<norm, E>(x + row * width, nullptr, gamma, beta, y + row * width, width);
  }
}

#define KERNEL(op, OP, dtype, E) \
  PK_HOT void pk_##op##_##dtype(const pk_call* c, const pk_team* t) { passes<OP, E>(c, t); }
#define ENTRY(op, dtype) {"norm", #op, #dtype, "plain", pk_##op##_##dtype, nullptr, nullptr, 0, "pk_" #op "_" #dtype},
KERNEL(layernorm, LAYER_NORM, fp32, float)
KERNEL(layernorm, LAYER_NORM, bf16, uint16_t)
KERNEL(rmsnorm, RMS_NORM, fp32, float)
KERNEL(rmsnorm, RMS_NORM, bf16, uint16_t)
static const pk_entry norm_entries[] = {
  ENTRY(layernorm, fp32) ENTRY(layernorm, bf16) ENTRY(rmsnorm, fp32) ENTRY(rmsnorm, bf16)};
PK_TABLE(norm_entries);
