// Softmax along rows: out = exp(x - max) / sum(exp(x - max)), computed in fp32 and stored in the type of x.
//
// Operands: x (in), out (out). dims: rows, width. 16-byte accesses where width allows, else single elements.
// Variants: warp  one warp a row (short rows); block  one block of 256 threads a row. A row is kept in registers as far as
// these hold it (KEEP accesses a thread); the rest is read again from the caches.
#include "common.cuh"

template <class T> struct softmax_types { enum { WIDE = 16 / sizeof(T) }; };

// Threads of one row: a warp or a block, and how they reduce.
struct softmax_warp {
  enum { THREADS = 32, KEEP = 8 };
  PK_METHOD static int rank() { return pk_lane(); }
  PK_METHOD static pk_int row() { return pk_warp(); }
  template <class F> PK_METHOD static float reduce(float x, F f, float) { return pk_warp_reduce(x, f); }
};
struct softmax_block {
  enum { THREADS = 256, KEEP = 8 };
  PK_METHOD static int rank() { return threadIdx.x; }
  PK_METHOD static pk_int row() { return blockIdx.x; }
  template <class F> PK_METHOD static float reduce(float x, F f, float identity) { return pk_block_reduce(x, f, identity); }
};

#define SOFTMAX_LOWEST (-3.402823466e38f)

template <class T, class R, int W> PK_DEV void softmax_row(const T* in, T* out, pk_int width) {
  typedef pk_vec<T, W> V;
  const V* x = (const V*)in;
  V* y = (V*)out;
  pk_int n = width / W;
  V kept[R::KEEP];
  float top = SOFTMAX_LOWEST;
#pragma unroll
  for (int k = 0; k < R::KEEP; ++k) {
    pk_int i = R::rank() + k * R::THREADS;
    if (i < n) kept[k] = x[i];
#pragma unroll
    for (int w = 0; w < W; ++w) top = i < n ? fmaxf(top, pk_widen(kept[k].v[w])) : top;
  }
  for (pk_int i = R::rank() + R::KEEP * R::THREADS; i < n; i += R::THREADS) {
    V v = x[i];
#pragma unroll
    for (int w = 0; w < W; ++w) top = fmaxf(top, pk_widen(v.v[w]));
  }
  top = R::reduce(top, pk_max(), SOFTMAX_LOWEST);
  float sum = 0;
#pragma unroll
  for (int k = 0; k < R::KEEP; ++k)
#pragma unroll
    for (int w = 0; w < W; ++w)
      if (R::rank() + k * R::THREADS < n) sum += __expf(pk_widen(kept[k].v[w]) - top);
  for (pk_int i = R::rank() + R::KEEP * R::THREADS; i < n; i += R::THREADS) {
    V v = x[i];
#pragma unroll
    for (int w = 0; w < W; ++w) sum += __expf(pk_widen(v.v[w]) - top);
  }
  float scale = 1.f / R::reduce(sum, pk_add(), 0.f);
#pragma unroll
  for (int k = 0; k < R::KEEP; ++k) {
    pk_int i = R::rank() + k * R::THREADS;
    V v;
#pragma unroll
    for (int w = 0; w < W; ++w) pk_narrow(i < n ? __expf(pk_widen(kept[k].v[w]) - top) * scale : 0.f, &v.v[w]);
    if (i < n) y[i] = v;
  }
  for (pk_int i = R::rank() + R::KEEP * R::THREADS; i < n; i += R::THREADS) {
    V v = x[i];
#pragma unroll
    for (int w = 0; w < W; ++w) pk_narrow(__expf(pk_widen(v.v[w]) - top) * scale, &v.v[w]);
    y[i] = v;
  }
}

template <class T, class R> PK_DEV void softmax(const pk_args& a) {
  pk_int row = R::row(), width = a.dim[1];
  if (row >= a.dim[0]) return;  // a whole warp or block at once
  const T* in = (const T*)a.ptr[0] + row * width;
  T* out = (T*)a.ptr[1] + row * width;
  if (width % softmax_types<T>::WIDE == 0) softmax_row<T, R, softmax_types<T>::WIDE>(in, out, width);
  else softmax_row<T, R, 1>(in, out, width);
}

PK_ENTRY(softmax, , fp32, warp, 75, 256, ITEMS(0, 8), none, (softmax<float, softmax_warp>(a)))
PK_ENTRY(softmax, , fp32, block, 75, 256, ITEMS(0, 1), none, (softmax<float, softmax_block>(a)))
PK_ENTRY(softmax, , fp16, warp, 75, 256, ITEMS(0, 8), none, (softmax<pk_fp16, softmax_warp>(a)))
PK_ENTRY(softmax, , fp16, block, 75, 256, ITEMS(0, 1), none, (softmax<pk_fp16, softmax_block>(a)))
PK_ENTRY(softmax, , bf16, warp, 75, 256, ITEMS(0, 8), none, (softmax<pk_bf16, softmax_warp>(a)))
PK_ENTRY(softmax, , bf16, block, 75, 256, ITEMS(0, 1), none, (softmax<pk_bf16, softmax_block>(a)))
