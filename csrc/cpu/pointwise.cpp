// GELU (tanh form), SiLU, and the addition of a residual.
//
// Operands  in: x, and for residual_add r (n elements); out: y
// dims      n, parts: a pass covers one part of every thread's chunk, the parts in turn
#include "rowwise.h"

using namespace pk;

static constexpr int64_t GRAIN = 256;

template <Point op, class E>
PK_INLINE void passes(const pk_call* c, const pk_team* t) {
  const E* x = static_cast<const E*>(c->ptr[0]);
  const E* other = static_cast<const E*>(c->ptr[1]);
  E* y = static_cast<E*>(c->ptr[op == RESIDUAL_ADD ? 2 : 1]);
  int64_t lo, hi, from, to;
  pk_share(c->dim[0], GRAIN, t->tid, t->threads, &lo, &hi);
  for (int64_t r = 0; r < c->reps; ++r) {
    forget_memory();
    pk_share(hi - lo, GRAIN, int((c->first + r) % c->dim[1]), int(c->dim[1]), &from, &to);
    points<op, E>(x + lo + from, other + lo + from, y + lo + from, to - from);
  }
}

#define KERNEL(op, OP, dtype, E) \
  PK_HOT void pk_##op##_##dtype(const pk_call* c, const pk_team* t) { passes<OP, E>(c, t); }
#define ENTRY(op, dtype) {"pointwise", #op, #dtype, "plain", pk_##op##_##dtype, nullptr, nullptr, 0, "pk_" #op "_" #dtype},
#define BOTH(op, OP) KERNEL(op, OP, fp32, float) KERNEL(op, OP, bf16, uint16_t)
BOTH(gelu, GELU)
BOTH(silu, SILU)
BOTH(residual_add, RESIDUAL_ADD)
static const pk_entry pointwise_entries[] = {
  ENTRY(gelu, fp32) ENTRY(gelu, bf16) ENTRY(silu, fp32) ENTRY(silu, bf16) ENTRY(residual_add, fp32) ENTRY(residual_add, bf16)};
PK_TABLE(pointwise_entries);
