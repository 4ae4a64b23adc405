// Latency: one thread a unit walks a cycle of lines, each load needing the one before, and goes on where its last call ended.
//
// Operands and dims are those of kernels/chase.py: lines (in: the next line's number in every word), ends (in and out: the
// line reached, the first word of a unit's 16; anything that is no line means line 0). dims: lines, steps, bytes of a line,
// 1 chain, units (one a block). Variants: cg past L1, ca through it; the working set says which level answers.
#include "common.cuh"

template <bool PAST_L1> PK_DEV pk_int chase_step(const char* p) {
  pk_int next;
#if PK_PTX
  if (PAST_L1) asm volatile("ld.global.cg.u64 %0, [%1];" : "=l"(next) : "l"(p));
  else asm volatile("ld.global.ca.u64 %0, [%1];" : "=l"(next) : "l"(p));
#else
  next = *(const pk_int*)p;
#endif
  return next;
}

template <bool PAST_L1> PK_DEV void chase(const pk_args& a) {
  const char* base = (const char*)a.ptr[0] + blockIdx.x * a.dim[0] * a.dim[2];
  pk_int *end = (pk_int*)a.ptr[1] + blockIdx.x * 16, at = *end;
  if (at < 0 || at >= a.dim[0]) at = 0;
#pragma unroll 8
  for (pk_int s = 0; s < a.dim[1]; ++s) at = chase_step<PAST_L1>(base + at * a.dim[2]);
  *end = at;
}

PK_ENTRY(chase, , int64, cg, 75, 1, ITEMS(4, 1), ptx, (chase<true>(a)))
PK_ENTRY(chase, , int64, ca, 75, 1, ITEMS(4, 1), ptx, (chase<false>(a)))
