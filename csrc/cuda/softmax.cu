// Softmax along rows: out = exp(s - max s) / sum exp(s - max s) with s = scale x + mask, in fp32, stored in the type of x.
//
// Operands, dims and scalars are those of kernels/softmax.py: x, mask (fp32, one row, or none), out. dims: rows, width, 1 for a
// mask. scalars: scale. One launch makes all rows, whatever parts a CPU makes of them. A fully masked row gives zeros.
// Variants: warp  a warp a row (short rows); block  a block of 256 threads a row.
// A row stays in registers as far as KEEP elements a thread hold it, with one exponential an element; the rest is read again
// from the caches. 16-byte accesses where the width allows, else single elements (and few of them kept).
#include "common.cuh"

enum { KEEP = 32 };
#define SOFTMAX_LOWEST (-3.402823466e38f)

// Threads of one row: a warp or a block, and how they reduce.
struct softmax_warp {
  enum { THREADS = 32 };
  PK_METHOD static int rank() { return pk_lane(); }
  PK_METHOD static pk_int row() { return pk_warp(); }
  template <class F> PK_METHOD static float reduce(float x, F f, float) { return pk_warp_reduce(x, f); }
};
struct softmax_block {
  enum { THREADS = 256 };
  PK_METHOD static int rank() { return threadIdx.x; }
  PK_METHOD static pk_int row() { return blockIdx.x; }
  template <class F> PK_METHOD static float reduce(float x, F f, float identity) { return pk_block_reduce(x, f, identity); }
};

// e^x for x <= 0; what would be no normal number is 0.
PK_DEV float softmax_exp(float x) { return x < -87.33f ? 0.f : pk_exp(x); }

// s of the W elements of access i.
template <class T, int W>
PK_DEV void softmax_load(const T* x, const float* mask, float scale, pk_int i, float* s) {
  pk_vec<T, W> v = ((const pk_vec<T, W>*)x)[i];
#pragma unroll
  for (int w = 0; w < W; ++w) s[w] = scale * pk_widen(v.v[w]);
  if (!mask) return;
#pragma unroll
  for (int w = 0; w < W; ++w) s[w] += mask[i * W + w];
}

template <class T, int W> PK_DEV void softmax_store(T* out, pk_int i, const float* e, float factor) {
  pk_vec<T, W> v;
#pragma unroll
  for (int w = 0; w < W; ++w) pk_narrow(e[w] * factor, &v.v[w]);
  ((pk_vec<T, W>*)out)[i] = v;
}

template <class T, class R, int W>
PK_DEV void softmax_row(const T* x, const float* mask, T* out, pk_int width, float scale) {
  enum { HELD = W == 1 ? 4 : KEEP / W };  // accesses in registers
  pk_int n = width / W, rank = R::rank();
  float kept[HELD][W], s[W], top = SOFTMAX_LOWEST, sum = 0;
#pragma unroll
  for (int k = 0; k < HELD; ++k) {
    if (rank + k * R::THREADS < n) softmax_load<T, W>(x, mask, scale, rank + k * R::THREADS, kept[k]);
#pragma unroll
    for (int w = 0; w < W; ++w) {
      kept[k][w] = rank + k * R::THREADS < n ? kept[k][w] : SOFTMAX_LOWEST;
      top = fmaxf(top, kept[k][w]);
    }
  }
#pragma unroll 1
  for (pk_int i = rank + HELD * R::THREADS; i < n; i += R::THREADS) {
    softmax_load<T, W>(x, mask, scale, i, s);
#pragma unroll
    for (int w = 0; w < W; ++w) top = fmaxf(top, s[w]);
  }
  top = R::reduce(top, pk_max(), SOFTMAX_LOWEST);
  if (top == SOFTMAX_LOWEST) top = 0;  // all masked: every exponential is 0
#pragma unroll
  for (int k = 0; k < HELD; ++k)
#pragma unroll
    for (int w = 0; w < W; ++w) sum += kept[k][w] = softmax_exp(kept[k][w] - top);
#pragma unroll 1
  for (pk_int i = rank + HELD * R::THREADS; i < n; i += R::THREADS) {
    softmax_load<T, W>(x, mask, scale, i, s);
#pragma unroll
    for (int w = 0; w < W; ++w) sum += softmax_exp(s[w] - top);
  }
  sum = R::reduce(sum, pk_add(), 0.f);
  float factor = sum > 0 ? 1.f / sum : 0.f;
#pragma unroll
  for (int k = 0; k < HELD; ++k)
    if (rank + k * R::THREADS < n) softmax_store<T, W>(out, rank + k * R::THREADS, kept[k], factor);
#pragma unroll 1
  for (pk_int i = rank + HELD * R::THREADS; i < n; i += R::THREADS) {
    softmax_load<T, W>(x, mask, scale, i, s);
#pragma unroll
    for (int w = 0; w < W; ++w) s[w] = softmax_exp(s[w] - top);
    softmax_store<T, W>(out, i, s, factor);
  }
}

template <class T, class R> PK_DEV void softmax(const pk_args& a) {
  enum { WIDE = 16 / sizeof(T) };
  pk_int row = R::row(), width = a.dim[1];
  if (row >= a.dim[0]) return;  // a whole warp or block at once
  const T* x = (const T*)a.ptr[0] + row * width;
  const float* mask = a.dim[2] ? (const float*)a.ptr[1] : 0;
  T* out = (T*)a.ptr[2] + row * width;
  float scale = (float)a.scalar[0];
  if (width % WIDE == 0) softmax_row<T, R, WIDE>(x, mask, out, width, scale);
  else softmax_row<T, R, 1>(x, mask, out, width, scale);
}

PK_ENTRY(softmax, , fp32, warp, 75, 256, ITEMS(0, 8), none, (softmax<float, softmax_warp>(a)))
PK_ENTRY(softmax, , fp32, block, 75, 256, ITEMS(0, 1), none, (softmax<float, softmax_block>(a)))
PK_ENTRY(softmax, , fp16, warp, 75, 256, ITEMS(0, 8), none, (softmax<pk_fp16, softmax_warp>(a)))
PK_ENTRY(softmax, , fp16, block, 75, 256, ITEMS(0, 1), none, (softmax<pk_fp16, softmax_block>(a)))
PK_ENTRY(softmax, , bf16, warp, 75, 256, ITEMS(0, 8), none, (softmax<pk_bf16, softmax_warp>(a)))
PK_ENTRY(softmax, , bf16, block, 75, 256, ITEMS(0, 1), none, (softmax<pk_bf16, softmax_block>(a)))
