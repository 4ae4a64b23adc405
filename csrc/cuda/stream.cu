// Streams over device memory: load (and sum), store, copy, triad; the roofs that a kernel reading once is judged by.
//
// Operands and dims are those of the CPU's stream. load: a (in), sums (out; sums[0] is the wrapping sum of a's bytes as 64-bit
// words). store: c (out). copy: a (in), c (out). triad: a, b (in), c (out): c = a + q b. dims: n elements. scalars: q.
// Variants: bN moves N bytes per access, U accesses in flight per thread, grid-stride over SM(...) blocks; flatN gives each
// thread its U accesses once and launches as many blocks as that takes; l2 makes its passes inside the kernel, past L1.
#include "common.cuh"

enum { U = 4 };

// Calls body(i) for every access i of n in grid-stride, U at a time; body takes the first index and the distance.
template <class F> PK_DEV pk_int pk_stride_groups(pk_int n, F body) {
  pk_int i = pk_thread(), step = pk_threads();
#pragma unroll 1
  for (; i + (U - 1) * step < n; i += U * step) body(i, step);
  return i;
}

// An odd half word at the end of an fp32 array counts as a word by itself.
PK_DEV unsigned long long stream_tail(const char* p, pk_int done, pk_int bytes) {
  unsigned long long sum = 0;
  for (; done < bytes; done += 4) sum += (unsigned long long)*(const unsigned*)(p + done) << (done % 8 * 8);
  return sum;
}

// Wrapping sum of an array read in units of V.
template <class V> PK_DEV void stream_load(const pk_args& a, pk_int element) {
  const V* p = (const V*)a.ptr[0];
  pk_int bytes = a.dim[0] * element, nv = bytes / (pk_int)sizeof(V);
  unsigned long long sum[U] = {};
  pk_int i = pk_stride_groups(nv, [&](pk_int first, pk_int step) {
    V v[U];
#pragma unroll
    for (int u = 0; u < U; ++u) v[u] = p[first + u * step];
#pragma unroll
    for (int u = 0; u < U; ++u) sum[u] += pk_words(v[u]);
  });
  for (; i < nv; i += pk_threads()) sum[0] += pk_words(p[i]);
  if (pk_thread() == 0) sum[1] += stream_tail((const char*)p, nv * (pk_int)sizeof(V), bytes);
  pk_grid_sum(sum[0] + sum[1] + sum[2] + sum[3], a.scratch, (unsigned long long*)a.ptr[1]);
}

// a.reps passes over an array that stays in L2; the last one's sum is written. The blocks turn by one place each pass, so that
// every multiprocessor reads from all of L2's partitions in the course of a sample.
PK_DEV void stream_load_l2(const pk_args& a, pk_int element) {
  const pk_word4* p = (const pk_word4*)a.ptr[0];
  pk_int bytes = a.dim[0] * element, nv = bytes / 16, step = pk_threads();
  unsigned long long total = 0;
#pragma unroll 1
  for (pk_int r = 0; r < a.reps; ++r) {
    unsigned long long sum[U] = {};
    pk_int i = (blockIdx.x + r) % gridDim.x * blockDim.x + threadIdx.x;
#pragma unroll 1
    for (; i + (U - 1) * step < nv; i += U * step) {
      pk_word4 v[U];
#pragma unroll
      for (int u = 0; u < U; ++u) v[u] = pk_load_l2(p + i + u * step);
#pragma unroll
      for (int u = 0; u < U; ++u) sum[u] += pk_words(v[u]);
    }
    for (; i < nv; i += step) sum[0] += pk_words(pk_load_l2(p + i));
    total = sum[0] + sum[1] + sum[2] + sum[3];
    pk_consume(total);
  }
  if (pk_thread() == 0) total += stream_tail((const char*)p, nv * 16, bytes);
  pk_grid_sum(total, a.scratch, (unsigned long long*)a.ptr[1]);
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

template <class T, int W> PK_DEV pk_vec<T, W> triad_of(const pk_vec<T, W>& x, const pk_vec<T, W>& y, T q) {
  pk_vec<T, W> r;
#pragma unroll
  for (int w = 0; w < W; ++w) r.v[w] = x.v[w] + q * y.v[w];
  return r;
}

template <class T, int W> PK_DEV void stream_triad(const pk_args& a) {
  typedef pk_vec<T, W> V;
  const V *x = (const V*)a.ptr[0], *y = (const V*)a.ptr[1];
  V* out = (V*)a.ptr[2];
  pk_int n = a.dim[0], nv = n / W;
  T q = (T)a.scalar[0];
  pk_int i = pk_stride_groups(nv, [&](pk_int first, pk_int step) {
    V vx[U], vy[U];
#pragma unroll
    for (int u = 0; u < U; ++u) vx[u] = x[first + u * step], vy[u] = y[first + u * step];
#pragma unroll
    for (int u = 0; u < U; ++u) out[first + u * step] = triad_of<T, W>(vx[u], vy[u], q);
  });
  for (; i < nv; i += pk_threads()) out[i] = triad_of<T, W>(x[i], y[i], q);
  for (pk_int j = nv * W + pk_thread(); j < n; j += pk_threads())
    ((T*)out)[j] = ((const T*)x)[j] + q * ((const T*)y)[j];
}

PK_ENTRY(stream, load, fp64, b8, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_load<unsigned long long>(a, 8)))
PK_ENTRY(stream, load, fp64, b16, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_load<pk_word4>(a, 8)))
PK_ENTRY(stream, load, fp64, l2, 75, 512, SM(2, 4), loop | L2 | ptx, (stream_load_l2(a, 8)))
PK_ENTRY(stream, load, fp32, b8, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_load<unsigned long long>(a, 4)))
PK_ENTRY(stream, load, fp32, b16, 75, 256, SM(4, 8, 16, 32), DRAM, (stream_load<pk_word4>(a, 4)))
PK_ENTRY(stream, load, fp32, l2, 75, 512, SM(2, 4), loop | L2 | ptx, (stream_load_l2(a, 4)))
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
