// Streams over device memory: load (and sum), store, copy, triad; the roofs that a kernel reading once is judged by.
//
// dims: n elements. load: ptr a (in), sum (out, one double). store: a (out), scalar s. copy: a (in), b (out).
// triad: a (out), b, c (in), scalar s: a = b + s * c.
// Variants: bN moves N bytes per access, U accesses in flight per thread, grid-stride over SM(...) blocks; flatN gives each
// thread its U accesses once and launches as many blocks as that takes.
#include "common.cuh"

enum { U = 4 };

// Calls body(i) for every access i of n in grid-stride, U at a time; body takes the first index and the distance.
template <class F> PK_DEV pk_int pk_stride_groups(pk_int n, F body) {
  pk_int i = pk_thread(), step = pk_threads();
#pragma unroll 1
  for (; i + (U - 1) * step < n; i += U * step) body(i, step);
  return i;
}

template <class T, int W> PK_DEV void stream_load(const pk_args& a) {
  typedef pk_vec<T, W> V;
  const T* x = (const T*)a.ptr[0];
  const V* p = (const V*)x;
  pk_int n = a.dim[0], nv = n / W;
  T sum[U][W] = {};
  pk_int i = pk_stride_groups(nv, [&](pk_int first, pk_int step) {
    V v[U];
#pragma unroll
    for (int u = 0; u < U; ++u) v[u] = p[first + u * step];
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
      for (int w = 0; w < W; ++w) sum[u][w] += v[u].v[w];
  });
  for (; i < nv; i += pk_threads()) {
    V v = p[i];
#pragma unroll
    for (int w = 0; w < W; ++w) sum[0][w] += v.v[w];
  }
  for (pk_int j = nv * W + pk_thread(); j < n; j += pk_threads()) sum[0][0] += x[j];
  double total = 0;
#pragma unroll
  for (int u = 0; u < U; ++u)
#pragma unroll
    for (int w = 0; w < W; ++w) total += sum[u][w];
  pk_grid_sum(total, a.scratch, (double*)a.ptr[1]);
}

template <class T, int W> PK_DEV void stream_store(const pk_args& a) {
  typedef pk_vec<T, W> V;
  T* x = (T*)a.ptr[0];
  V* p = (V*)x;
  pk_int n = a.dim[0], nv = n / W;
  T s = (T)a.scalar[0];
  V v;
#pragma unroll
  for (int w = 0; w < W; ++w) v.v[w] = s;
  pk_int i = pk_stride_groups(nv, [&](pk_int first, pk_int step) {
#pragma unroll
    for (int u = 0; u < U; ++u) p[first + u * step] = v;
  });
  for (; i < nv; i += pk_threads()) p[i] = v;
  for (pk_int j = nv * W + pk_thread(); j < n; j += pk_threads()) x[j] = s;
}

template <class T, int W> PK_DEV void stream_copy(const pk_args& a) {
  typedef pk_vec<T, W> V;
  const V* from = (const V*)a.ptr[0];
  V* to = (V*)a.ptr[1];
  pk_int n = a.dim[0], nv = n / W;
  pk_int i = pk_stride_groups(nv, [&](pk_int first, pk_int step) {
    V v[U];
#pragma unroll
    for (int u = 0; u < U; ++u) v[u] = from[first + u * step];
#pragma unroll
    for (int u = 0; u < U; ++u) to[first + u * step] = v[u];
  });
  for (; i < nv; i += pk_threads()) to[i] = from[i];
  for (pk_int j = nv * W + pk_thread(); j < n; j += pk_threads()) ((T*)a.ptr[1])[j] = ((const T*)a.ptr[0])[j];
}

template <class T, int W> PK_DEV pk_vec<T, W> triad_of(const pk_vec<T, W>& b, const pk_vec<T, W>& c, T s) {
  pk_vec<T, W> r;
#pragma unroll
  for (int w = 0; w < W; ++w) r.v[w] = b.v[w] + s * c.v[w];
  return r;
}

template <class T, int W> PK_DEV void stream_triad(const pk_args& a) {
  typedef pk_vec<T, W> V;
  V* out = (V*)a.ptr[0];
  const V *b = (const V*)a.ptr[1], *c = (const V*)a.ptr[2];
  pk_int n = a.dim[0], nv = n / W;
  T s = (T)a.scalar[0];
  pk_int i = pk_stride_groups(nv, [&](pk_int first, pk_int step) {
    V vb[U], vc[U];
#pragma unroll
    for (int u = 0; u < U; ++u) vb[u] = b[first + u * step], vc[u] = c[first + u * step];
#pragma unroll
    for (int u = 0; u < U; ++u) out[first + u * step] = triad_of<T, W>(vb[u], vc[u], s);
  });
  for (; i < nv; i += pk_threads()) out[i] = triad_of<T, W>(b[i], c[i], s);
  for (pk_int j = nv * W + pk_thread(); j < n; j += pk_threads())
    ((T*)a.ptr[0])[j] = ((const T*)a.ptr[1])[j] + s * ((const T*)a.ptr[2])[j];
}

PK_ENTRY(stream, load, fp64, b8, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_load<double, 1>(a)))
PK_ENTRY(stream, load, fp64, b16, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_load<double, 2>(a)))
PK_ENTRY(stream, load, fp32, b4, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_load<float, 1>(a)))
PK_ENTRY(stream, load, fp32, b16, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_load<float, 4>(a)))

PK_ENTRY(stream, store, fp64, b8, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_store<double, 1>(a)))
PK_ENTRY(stream, store, fp64, b16, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_store<double, 2>(a)))
PK_ENTRY(stream, store, fp64, flat16, 75, 256, ITEMS(0, 2048), DRAM, (stream_store<double, 2>(a)))
PK_ENTRY(stream, store, fp32, b4, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_store<float, 1>(a)))
PK_ENTRY(stream, store, fp32, b16, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_store<float, 4>(a)))
PK_ENTRY(stream, store, fp32, flat16, 75, 256, ITEMS(0, 4096), DRAM, (stream_store<float, 4>(a)))

PK_ENTRY(stream, copy, fp64, b8, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_copy<double, 1>(a)))
PK_ENTRY(stream, copy, fp64, b16, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_copy<double, 2>(a)))
PK_ENTRY(stream, copy, fp64, flat16, 75, 256, ITEMS(0, 2048), DRAM, (stream_copy<double, 2>(a)))
PK_ENTRY(stream, copy, fp32, b4, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_copy<float, 1>(a)))
PK_ENTRY(stream, copy, fp32, b16, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_copy<float, 4>(a)))
PK_ENTRY(stream, copy, fp32, flat16, 75, 256, ITEMS(0, 4096), DRAM, (stream_copy<float, 4>(a)))

PK_ENTRY(stream, triad, fp64, b8, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_triad<double, 1>(a)))
PK_ENTRY(stream, triad, fp64, b16, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_triad<double, 2>(a)))
PK_ENTRY(stream, triad, fp64, flat16, 75, 256, ITEMS(0, 2048), DRAM, (stream_triad<double, 2>(a)))
PK_ENTRY(stream, triad, fp32, b4, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_triad<float, 1>(a)))
PK_ENTRY(stream, triad, fp32, b16, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_triad<float, 4>(a)))
PK_ENTRY(stream, triad, fp32, flat16, 75, 256, ITEMS(0, 4096), DRAM, (stream_triad<float, 4>(a)))
