// Matrix times vector: y = A x, A row-major in fp32, fp16 or bf16, sums in fp32.
//
// Operands: A (in: m x n), x (in: n), y (out: m). dims: m, n. A is read once; x comes from the caches.
// Variants: warp  one warp a row; block  one block a row, for few long rows. UNROLL 16-byte accesses in flight a thread.
#include "common.cuh"

enum { UNROLL = 4 };

template <class T, int W> PK_DEV float gemv_dot(const pk_vec<T, W>& a, const pk_vec<T, W>& x) {
  float sum = 0;
#pragma unroll
  for (int w = 0; w < W; ++w) sum += (float)pk_widen(a.v[w]) * (float)pk_widen(x.v[w]);
  return sum;
}

// This thread's part of one row's product, with `threads` threads on the row.
template <class T, int W> PK_DEV float gemv_part(const T* row, const T* x, pk_int n, int rank, int threads) {
  typedef pk_vec<T, W> V;
  const V *a = (const V*)row, *b = (const V*)x;
  pk_int nv = n / W, i = rank;
  float sum[UNROLL] = {};
#pragma unroll 1
  for (; i + (UNROLL - 1) * threads < nv; i += UNROLL * threads) {
    V v[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) v[u] = a[i + u * threads];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) sum[u] += gemv_dot<T, W>(v[u], b[i + u * threads]);
  }
#pragma unroll 1
  for (; i < nv; i += threads) sum[0] += gemv_dot<T, W>(a[i], b[i]);
  return sum[0] + sum[1] + sum[2] + sum[3];
}

template <class T, bool BLOCK> PK_DEV void gemv(const pk_args& a) {
  enum { WIDE = 16 / sizeof(T) };
  pk_int n = a.dim[1], row = BLOCK ? blockIdx.x : pk_warp();
  if (row >= a.dim[0]) return;  // a whole warp or block at once
  const T *in = (const T*)a.ptr[0] + row * n, *x = (const T*)a.ptr[1];
  int rank = BLOCK ? threadIdx.x : pk_lane(), threads = BLOCK ? (int)blockDim.x : PK_WARP;
  float sum = n % WIDE == 0 ? gemv_part<T, WIDE>(in, x, n, rank, threads) : gemv_part<T, 1>(in, x, n, rank, threads);
  sum = BLOCK ? pk_block_reduce(sum, pk_add(), 0.f) : pk_warp_reduce(sum, pk_add());
  if (rank == 0) pk_narrow(sum, (T*)a.ptr[2] + row);
}

PK_ENTRY(gemv, , fp32, warp, 75, 256, ITEMS(0, 8), none, (gemv<float, false>(a)))
PK_ENTRY(gemv, , fp32, block, 75, 256, ITEMS(0, 1), none, (gemv<float, true>(a)))
PK_ENTRY(gemv, , fp16, warp, 75, 256, ITEMS(0, 8), none, (gemv<pk_fp16, false>(a)))
PK_ENTRY(gemv, , fp16, block, 75, 256, ITEMS(0, 1), none, (gemv<pk_fp16, true>(a)))
PK_ENTRY(gemv, , bf16, warp, 75, 256, ITEMS(0, 8), none, (gemv<pk_bf16, false>(a)))
PK_ENTRY(gemv, , bf16, block, 75, 256, ITEMS(0, 1), none, (gemv<pk_bf16, true>(a)))
