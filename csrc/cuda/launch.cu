// Launch floors, and the small kernels that the engine times with.
//
// launch: the empty kernel (dims: none), and the persistent one: one block polls a mapped word for request numbers and
// answers each (operands: request, answer, both uint32 in mapped host memory; dims: first request, time limit in ns). It ends
// at request 0xffffffff, or by itself when no request came for the time limit.
// gate: holds the stream until a mapped word is non-zero or the time limit is over, so that a whole span is queued before
// its clock starts (operands: word; dims: time limit in ns).
// clock: one block per multiprocessor leaves (clock64, globaltimer) at its multiprocessor's place (operands: int64 pairs).
#include "common.cuh"
#include "now.cuh"

PK_DEV unsigned launch_multiprocessor() {
#if PK_PTX
  unsigned id;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
  return id;
#else
  return blockIdx.x;
#endif
}

PK_DEV void launch_persistent(const pk_args& a) {
  volatile unsigned *request = (volatile unsigned*)a.ptr[0], *answer = (volatile unsigned*)a.ptr[1];
  unsigned wanted = (unsigned)a.dim[0];
  unsigned long long last = pk_now();
  while (pk_now() - last < (unsigned long long)a.dim[1]) {
    unsigned seen = *request;
    if (seen == 0xffffffffu) return;
    if (seen != wanted) continue;
    *answer = wanted++;
    __threadfence_system();
    last = pk_now();
  }
}

PK_DEV void launch_gate(const pk_args& a) {
  volatile unsigned* word = (volatile unsigned*)a.ptr[0];
  unsigned long long start = pk_now();
  while (*word == 0 && pk_now() - start < (unsigned long long)a.dim[0]) {
  }
}

PK_DEV void launch_clock(const pk_args& a) {
  pk_int* pair = (pk_int*)a.ptr[0] + 2 * launch_multiprocessor();
  pair[0] = clock64();
  pair[1] = (pk_int)pk_now();
}

PK_ENTRY(launch, , none, empty, 75, 32, ONE, none, )
PK_ENTRY(launch, , none, persistent, 75, 1, ONE, ptx, (launch_persistent(a)))
PK_ENTRY(gate, , none, plain, 75, 1, ONE, ptx, (launch_gate(a)))
PK_ENTRY(clock, , none, plain, 75, 1, SM(1), ptx, (launch_clock(a)))
