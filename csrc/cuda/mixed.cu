// Between the ceilings: k fused multiply-adds for every loaded element, or one for one line in 2, 4, 8 or 16.
//
// Operands, dims and scalars are those of kernels/mixed.py: x (in: units x n whole numbers), sums (out: the multiply-add
// checksum, the XOR of the lines that are not multiplied). dims: n of a unit, parts (pass r covers part r modulo parts of every
// unit), k, skip, units. scalars: q. y = q x + y is exact while fewer than FOLD products were added to 1.5 times the power of
// two whose last bit is worth 1: then y's bits are an integer sum, which is taken off. Passes are made inside.
// A block takes chunks of U accesses a thread, so that one division says which unit a chunk is of.
#include "common.cuh"

enum { U = 4, FOLD = 1024, LINE = 64, THREADS = 256 };

struct mixed_fp32 {
  typedef float T;
  typedef unsigned Bits;
  PK_METHOD static float start() { return 12582912.f; }  // 1.5 * 2^23
  PK_METHOD static Bits bits(float y) { return __float_as_uint(y); }
};
struct mixed_fp64 {
  typedef double T;
  typedef unsigned long long Bits;
  PK_METHOD static double start() { return 6755399441055744.0; }  // 1.5 * 2^52
  PK_METHOD static Bits bits(double y) { return (Bits)__double_as_longlong(y); }
};

// Accumulators of U accesses of W elements, what was folded out of them, and the XOR.
template <class F, int W> struct mixed_state {
  typename F::T y[U][W];
  typename F::Bits sum, xored;
  PK_METHOD void restart() {
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
      for (int w = 0; w < W; ++w) y[u][w] = F::start();
  }
  PK_METHOD void fold() {
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
      for (int w = 0; w < W; ++w) sum += F::bits(y[u][w]) - F::bits(F::start());
    restart();
  }
};

// k = K turns products for each element of v[0..U).
template <class F, int W, int K>
PK_DEV void mixed_multiply(mixed_state<F, W>& s, const pk_vec<typename F::T, W>* v, typename F::T q, int turns) {
#pragma unroll 1
  for (int t = 0; t < turns; ++t)
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
      for (int u = 0; u < U; ++u)
#pragma unroll
        for (int w = 0; w < W; ++w) s.y[u][w] = fma(v[u].v[w], q, s.y[u][w]);
}

// One product for each element of a line in `skip` (a power of two); the others are folded in by XOR.
template <class F, int W>
PK_DEV void mixed_skip(mixed_state<F, W>& s, const pk_vec<typename F::T, W>* v, typename F::T q, pk_int at, int skip) {
#pragma unroll
  for (int u = 0; u < U; ++u) {
    bool mine = ((at + u * THREADS) * (pk_int)sizeof(v[u]) / LINE & (skip - 1)) == 0;
#pragma unroll
    for (int w = 0; w < W; ++w) {
      typename F::T more = fma(v[u].v[w], q, s.y[u][w]);
      s.y[u][w] = mine ? more : s.y[u][w];
      s.xored ^= mine ? 0 : F::bits(v[u].v[w]);
    }
  }
}

// K: products a turn, or 0 for lines that are skipped. Elements beyond the part count as zero: they add and XOR nothing.
template <class F, int W, int K> PK_DEV void mixed_passes(const pk_args& a) {
  typedef pk_vec<typename F::T, W> V;
  const typename F::T *x = (const typename F::T*)a.ptr[0], q = (typename F::T)a.scalar[0];
  pk_int n = a.dim[0], part = n / a.dim[1], accesses = part / W;
  int turns = K ? (int)a.dim[2] / K : 1, skip = (int)a.dim[3], between = K ? FOLD / (K * turns) : FOLD, left = between;
  unsigned chunks = (unsigned)((accesses + U * THREADS - 1) / (U * THREADS)), all = chunks * (unsigned)a.dim[4];
  mixed_state<F, W> s;
  s.sum = s.xored = 0;
  s.restart();
#pragma unroll 1
  for (pk_int r = 0; r < a.reps; ++r) {
    const typename F::T* from = x + r % a.dim[1] * part;
#pragma unroll 1
    for (unsigned c = blockIdx.x; c < all; c += gridDim.x) {
      unsigned unit = c / chunks;
      pk_int at = (pk_int)(c - unit * chunks) * (U * THREADS) + threadIdx.x;
      const V* p = (const V*)(from + unit * n);
      V v[U];
#pragma unroll
      for (int u = 0; u < U; ++u) {
        if (at + u * THREADS < accesses) v[u] = p[at + u * THREADS];
#pragma unroll
        for (int w = 0; w < W; ++w) v[u].v[w] = at + u * THREADS < accesses ? v[u].v[w] : 0;
      }
      if (K) mixed_multiply<F, W, K ? K : 1>(s, v, q, turns);
      else mixed_skip<F, W>(s, v, q, at, skip);
      if (--left == 0) {
        s.fold();
        left = between;
      }
    }
  }
  s.fold();
  unsigned long long *out = (unsigned long long*)a.ptr[1], sum = s.sum, xored = s.xored;
  if (pk_grid_reduce(sum, pk_add(), 0ull, a.scratch)) out[0] = sizeof(typename F::Bits) == 4 ? sum & 0xffffffffu : sum;
  if (pk_grid_reduce(xored, pk_xor(), 0ull, (char*)a.scratch + PK_SCRATCH_BYTES / 2)) out[1] = xored;
}

template <class F, int W> PK_DEV void mixed_aligned(const pk_args& a) {
  pk_int k = a.dim[2];
  if (k == 0) mixed_passes<F, W, 0>(a);
  else if (W > 1 && k % 8 == 0) mixed_passes<F, W, W == 1 ? 1 : 8>(a);
  else if (W > 1 && k % 2 == 0) mixed_passes<F, W, W == 1 ? 1 : 2>(a);
  else mixed_passes<F, W, 1>(a);
}

template <class F> PK_DEV void mixed(const pk_args& a) {
  enum { WIDE = 16 / sizeof(typename F::T) };
  if (a.dim[0] % WIDE == 0 && a.dim[0] / a.dim[1] % WIDE == 0) mixed_aligned<F, WIDE>(a);
  else mixed_aligned<F, 1>(a);
}

PK_ENTRY(mixed, , fp32, wide, 75, 256, SM(2, 4, 8), loop, (mixed<mixed_fp32>(a)))
PK_ENTRY(mixed, , fp64, wide, 75, 256, SM(2, 4, 8), loop, (mixed<mixed_fp64>(a)))
