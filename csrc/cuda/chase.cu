// Latency: one thread follows a chain of indices, each load needing the one before.
//
// Pointers: next (in: one 32-bit index at the start of each line), end (out: int64, the line reached). dims: lines, steps, bytes
// of a line. The chain goes through L1 (ca) or past it (cg); the working set says which level answers.
#include "common.cuh"

template <bool PAST_L1> PK_DEV unsigned chase_step(const char* p) {
  unsigned next;
#if PK_PTX
  if (PAST_L1) asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(next) : "l"(p));
  else asm volatile("ld.global.ca.u32 %0, [%1];" : "=r"(next) : "l"(p));
#else
  next = *(const unsigned*)p;
#endif
  return next;
}

template <bool PAST_L1> PK_DEV void chase(const pk_args& a) {
  const char* base = (const char*)a.ptr[0];
  unsigned at = 0;
#pragma unroll 8
  for (pk_int s = 0; s < a.dim[1]; ++s) at = chase_step<PAST_L1>(base + at * a.dim[2]);
  *(pk_int*)a.ptr[1] = at;
}

PK_ENTRY(chase, , int32, ca, 75, 1, ONE, ptx, (chase<false>(a)))
PK_ENTRY(chase, , int32, cg, 75, 1, ONE, ptx, (chase<true>(a)))
