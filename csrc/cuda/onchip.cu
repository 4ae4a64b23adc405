// Bandwidth inside a multiprocessor: shared memory and L1, read 16 bytes a thread.
//
// Operands: a (in: TILE words of 16 bytes), sums (out: uint64, one). dims: tiles, passes over a tile. Every tile is the whole
// of a, read `passes` times by one block; sums[0] is the wrapping sum over all tiles of one pass of each. The tiles are many,
// so that they divide nearly evenly over any number of multiprocessors.
#include "common.cuh"

enum { TILE = 2048, THREADS = 512 };  // 32 KiB: a quarter of the smallest unified L1 and within static shared memory

// One pass of the block over a tile, 4 accesses in flight; lanes of a warp read neighbouring words: no bank conflicts.
template <class F> PK_DEV unsigned long long onchip_pass(F load) {
  unsigned long long sum = 0;
#pragma unroll
  for (int u = 0; u < TILE / THREADS; ++u) sum += pk_words(load((int)(threadIdx.x + u * THREADS)));
  pk_consume(sum);
  return sum;
}

PK_DEV pk_word4 onchip_shared_load(const pk_word4* p) {
  pk_word4 w;
#if PK_PTX
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(w.v[0]), "=r"(w.v[1]), "=r"(w.v[2]), "=r"(w.v[3])
               : "r"((unsigned)__cvta_generic_to_shared(p)));
#else
  w = *p;
#endif
  return w;
}

PK_DEV void onchip_shared(const pk_args& a) {
  __shared__ pk_word4 tile[TILE];
  const pk_word4* from = (const pk_word4*)a.ptr[0];
  for (int i = threadIdx.x; i < TILE; i += THREADS) tile[i] = from[i];
  __syncthreads();
  unsigned long long total = 0;
  for (pk_int t = blockIdx.x; t < a.dim[0]; t += gridDim.x) {
    unsigned long long sum = 0;
#pragma unroll 4
    for (pk_int r = 0; r < a.dim[1]; ++r) sum = onchip_pass([&](int i) { return onchip_shared_load(tile + i); });
    total += sum;
  }
  pk_grid_sum(total, a.scratch, (unsigned long long*)a.ptr[1]);
}

PK_DEV void onchip_l1(const pk_args& a) {
  const pk_word4* from = (const pk_word4*)a.ptr[0];
  unsigned long long total = 0;
  for (pk_int t = blockIdx.x; t < a.dim[0]; t += gridDim.x) {
    unsigned long long sum = 0;
#pragma unroll 4
    for (pk_int r = 0; r < a.dim[1]; ++r) sum = onchip_pass([&](int i) { return pk_load_l1(from + i); });
    total += sum;
  }
  pk_grid_sum(total, a.scratch, (unsigned long long*)a.ptr[1]);
}

PK_ENTRY(onchip, shared, fp32, plain, 75, 512, SM(1, 2), ptx, (onchip_shared(a)))
PK_ENTRY(onchip, l1, fp32, plain, 75, 512, SM(1, 2), L1 | ptx, (onchip_l1(a)))
