// Latency: one thread a unit walks a cycle of lines, each load needing the one before, and goes on where its last call ended.
//
// Operands and dims are those of kernels/chase.py: lines (in: the next line's address in every word: an index would add its
// multiplication to each step), ends (in and out: the
// line reached, the first word of a unit's 16; anything that is no line means line 0). dims: lines, steps, bytes of a line,
// 1 chain, units (one a block). Variants: cg past L1, ca through it.
#include "common.cuh"

template <bool PAST_L1> PK_DEV const char* chase_step(const char* p) {
  const char* next;
#if PK_PTX
  if (PAST_L1) asm volatile("ld.global.cg.u64 %0, [%1];" : "=l"(next) : "l"(p));
  else asm volatile("ld.global.ca.u64 %0, [%1];" : "=l"(next) : "l"(p));
#else
  next = *(const char* const*)p;
#endif
  return next;
}

template <bool PAST_L1> PK_DEV void chase(const pk_args& a) {
  const char* base = (const char*)a.ptr[0] + blockIdx.x * a.dim[0] * a.dim[2];
  pk_int *end = (pk_int*)a.ptr[1] + blockIdx.x * 16, at = *end;
  if (at < 0 || at >= a.dim[0]) at = 0;
  const char* p = base + at * a.dim[2];
#pragma unroll 8
  for (pk_int s = 0; s < a.dim[1]; ++s) p = chase_step<PAST_L1>(p);
  *end = (p - base) / a.dim[2];
}

PK_ENTRY(chase, , int64, cg, 75, 1, ITEMS(4, 1), L2 | DRAM | ptx, (chase<true>(a)))
PK_ENTRY(chase, , int64, ca, 75, 1, ITEMS(4, 1), L1 | ptx, (chase<false>(a)))
