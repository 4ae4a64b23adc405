// Matrix times vectors: Y = A X, A row-major, read once; x comes from the caches. Sums in fp32 (fp64: in fp64).
//
// Operands are those of kernels/gemv.py: a (rows x cols), scales (rows x groups of 128 columns, fp32; none in floating point),
// x (batch x cols), y (out: batch x rows). fp64, fp32, fp16, bf16: all alike; int8, int4 (low nibble first): signed weights,
// x and y in fp32. dims: rows, cols, batch. One launch makes all rows, whatever parts a CPU makes of them.
// Variants: warp   a warp a row, U accesses of 16 bytes in flight a lane
//           rows4  a warp for four rows, which share what is read of x
//           block  a block a row, for few long rows
// BATCH vectors share one reading of A, as registers allow; more go in turns, which find the row in the caches.
#include "common.cuh"

enum { GROUP = 128 };

// Formats: PER elements in 16 bytes, how they come out, and what x and the sums are.
template <class T, class S> struct gemv_plain {
  typedef T X;
  typedef S Sum;
  enum { PER = 16 / sizeof(T), GROUPED = 0, BATCH = 4 };
  PK_METHOD static pk_int bytes(pk_int cols) { return cols * (pk_int)sizeof(T); }
  PK_METHOD static void unpack(const pk_word4& word, S* w) {
    const pk_vec<T, PER>& v = *(const pk_vec<T, PER>*)&word;
#pragma unroll
    for (int k = 0; k < PER; ++k) w[k] = pk_widen(v.v[k]);
  }
  PK_METHOD static S one(const char* row, pk_int j) { return pk_widen(((const T*)row)[j]); }
};
struct gemv_int8 {
  typedef float X;
  typedef float Sum;
  enum { PER = 16, GROUPED = 1, BATCH = 2 };
  PK_METHOD static pk_int bytes(pk_int cols) { return cols; }
  PK_METHOD static void unpack(const pk_word4& word, float* w) {
#pragma unroll
    for (int k = 0; k < PER; ++k) w[k] = (float)(signed char)(word.v[k / 4] >> k % 4 * 8);
  }
  PK_METHOD static float one(const char* row, pk_int j) { return (float)((const signed char*)row)[j]; }
};
struct gemv_int4 {
  typedef float X;
  typedef float Sum;
  enum { PER = 32, GROUPED = 1, BATCH = 1 };
  PK_METHOD static pk_int bytes(pk_int cols) { return cols / 2; }
  PK_METHOD static void unpack(const pk_word4& word, float* w) {
#pragma unroll
    for (int k = 0; k < PER; ++k) w[k] = (float)((int)(word.v[k / 8] << (28 - k % 8 * 4)) >> 28);
  }
  PK_METHOD static float one(const char* row, pk_int j) {
    unsigned nibble = (unsigned char)row[j / 2] >> (j % 2 * 4) & 15;
    return (float)((int)(nibble ^ 8) - 8);
  }
};

// What one team (a warp or a block) of `threads` threads needs to know; this thread is its `rank`.
template <class F> struct gemv_work {
  const char* a;
  const float* scales;
  const typename F::X* x;
  pk_int rows, cols, batch, groups, row_bytes;
  int rank, threads;
  PK_METHOD gemv_work(const pk_args& args, int rank, int threads)
      : a((const char*)args.ptr[0]), scales((const float*)args.ptr[1]), x((const typename F::X*)args.ptr[2]),
        rows(args.dim[0]), cols(args.dim[1]), batch(args.dim[2]), groups((args.dim[1] + GROUP - 1) / GROUP),
        row_bytes(F::bytes(args.dim[1])), rank(rank), threads(threads) {}
  PK_METHOD float scale(pk_int row, pk_int column) const {
    return F::GROUPED ? __ldg(scales + row * groups + column / GROUP) : 1.f;
  }
};

// Adds column group `c` of ROWS rows, whose accesses are in `word`, to their sums with COUNT vectors.
template <class F, int ROWS, int COUNT>
PK_DEV void gemv_add(const gemv_work<F>& g, const pk_word4* word, pk_int row, pk_int vector, pk_int c,
                     typename F::Sum (*sum)[COUNT]) {
  typedef pk_vec<typename F::X, 16 / sizeof(typename F::X)> V;
  enum { EACH = 16 / sizeof(typename F::X) };
#pragma unroll
  for (int b = 0; b < COUNT; ++b) {
    typename F::Sum x[F::PER];
    const V* from = (const V*)(g.x + (vector + b) * g.cols + c * F::PER);
#pragma unroll
    for (int i = 0; i < F::PER / EACH; ++i) {
      V v = from[i];
#pragma unroll
      for (int k = 0; k < EACH; ++k) x[i * EACH + k] = pk_widen(v.v[k]);
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      typename F::Sum w[F::PER], part = 0;
      F::unpack(word[r], w);
#pragma unroll
      for (int k = 0; k < F::PER; ++k) part += w[k] * x[k];
      sum[r][b] += F::GROUPED && row + r < g.rows ? part * g.scale(row + r, c * F::PER) : part;
    }
  }
}

// This thread's part of the products of ROWS rows from `row` on with COUNT vectors, U column groups at a time.
template <class F, int ROWS, int COUNT, int U>
PK_DEV void gemv_wide(const gemv_work<F>& g, pk_int row, pk_int vector, typename F::Sum (*sum)[COUNT]) {
  pk_int groups = g.cols / F::PER;
#pragma unroll 1
  for (pk_int c = g.rank; c < groups; c += U * g.threads) {
    pk_word4 word[U][ROWS];
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        pk_int at = c + u * g.threads, line = row + r < g.rows ? row + r : g.rows - 1;
        if (at < groups) word[u][r] = pk_load_once(g.a + line * g.row_bytes + at * 16);
      }
#pragma unroll
    for (int u = 0; u < U; ++u)
      if (c + u * g.threads < groups) gemv_add<F, ROWS, COUNT>(g, word[u], row, vector, c + u * g.threads, sum);
  }
}

// The same one element at a time, for rows that 16-byte accesses do not fit.
template <class F, int ROWS, int COUNT>
PK_DEV void gemv_narrow(const gemv_work<F>& g, pk_int row, pk_int vector, typename F::Sum (*sum)[COUNT]) {
#pragma unroll 1
  for (pk_int j = g.rank; j < g.cols; j += g.threads)
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
      if (row + r < g.rows) {
        typename F::Sum w = F::one(g.a + (row + r) * g.row_bytes, j) * (typename F::Sum)g.scale(row + r, j);
#pragma unroll
        for (int b = 0; b < COUNT; ++b) sum[r][b] += w * (typename F::Sum)pk_widen(g.x[(vector + b) * g.cols + j]);
      }
}

template <class F, int ROWS, int COUNT, int U, bool BLOCK>
PK_DEV void gemv_vectors(const gemv_work<F>& g, pk_int row, pk_int vector, typename F::X* y) {
  typename F::Sum sum[ROWS][COUNT] = {};
  if (g.cols % F::PER == 0) gemv_wide<F, ROWS, COUNT, U>(g, row, vector, sum);
  else gemv_narrow<F, ROWS, COUNT>(g, row, vector, sum);
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
#pragma unroll
    for (int b = 0; b < COUNT; ++b) {
      typename F::Sum all = BLOCK ? pk_block_reduce(sum[r][b], pk_add(), (typename F::Sum)0) : pk_warp_reduce(sum[r][b], pk_add());
      if (g.rank == 0 && row + r < g.rows) pk_narrow(all, y + (vector + b) * g.rows + row + r);
    }
}

template <class F, int ROWS, int U, bool BLOCK> PK_DEV void gemv(const pk_args& a) {
  gemv_work<F> g(a, BLOCK ? (int)threadIdx.x : pk_lane(), BLOCK ? (int)blockDim.x : (int)PK_WARP);
  pk_int row = (BLOCK ? blockIdx.x : pk_warp()) * ROWS, vector = 0;
  typename F::X* y = (typename F::X*)a.ptr[3];
  if (row >= g.rows) return;  // a whole warp or block at once
#pragma unroll 1
  for (; F::BATCH > 1 && vector + F::BATCH <= g.batch; vector += F::BATCH)
    gemv_vectors<F, ROWS, F::BATCH, 1, BLOCK>(g, row, vector, y);
#pragma unroll 1
  for (; vector < g.batch; ++vector) gemv_vectors<F, ROWS, 1, U, BLOCK>(g, row, vector, y);
}

typedef gemv_plain<double, double> gemv_fp64;
typedef gemv_plain<float, float> gemv_fp32;
typedef gemv_plain<pk_fp16, float> gemv_fp16;
typedef gemv_plain<pk_bf16, float> gemv_bf16;

PK_ENTRY(gemv, , fp64, warp, 75, 256, ITEMS(0, 8), none, (gemv<gemv_fp64, 1, 4, false>(a)))
PK_ENTRY(gemv, , fp64, rows4, 75, 256, ITEMS(0, 32), none, (gemv<gemv_fp64, 4, 2, false>(a)))
PK_ENTRY(gemv, , fp64, block, 75, 256, ITEMS(0, 1), none, (gemv<gemv_fp64, 1, 4, true>(a)))
PK_ENTRY(gemv, , fp32, warp, 75, 256, ITEMS(0, 8), none, (gemv<gemv_fp32, 1, 4, false>(a)))
PK_ENTRY(gemv, , fp32, rows4, 75, 256, ITEMS(0, 32), none, (gemv<gemv_fp32, 4, 2, false>(a)))
PK_ENTRY(gemv, , fp32, block, 75, 256, ITEMS(0, 1), none, (gemv<gemv_fp32, 1, 4, true>(a)))
PK_ENTRY(gemv, , fp16, warp, 75, 256, ITEMS(0, 8), none, (gemv<gemv_fp16, 1, 4, false>(a)))
PK_ENTRY(gemv, , fp16, rows4, 75, 256, ITEMS(0, 32), none, (gemv<gemv_fp16, 4, 2, false>(a)))
PK_ENTRY(gemv, , fp16, block, 75, 256, ITEMS(0, 1), none, (gemv<gemv_fp16, 1, 4, true>(a)))
PK_ENTRY(gemv, , bf16, warp, 75, 256, ITEMS(0, 8), none, (gemv<gemv_bf16, 1, 4, false>(a)))
PK_ENTRY(gemv, , bf16, rows4, 75, 256, ITEMS(0, 32), none, (gemv<gemv_bf16, 4, 2, false>(a)))
PK_ENTRY(gemv, , bf16, block, 75, 256, ITEMS(0, 1), none, (gemv<gemv_bf16, 1, 4, true>(a)))
PK_ENTRY(gemv, , int8, warp, 75, 256, ITEMS(0, 8), none, (gemv<gemv_int8, 1, 2, false>(a)))
PK_ENTRY(gemv, , int8, rows4, 75, 256, ITEMS(0, 32), none, (gemv<gemv_int8, 4, 2, false>(a)))
PK_ENTRY(gemv, , int8, block, 75, 256, ITEMS(0, 1), none, (gemv<gemv_int8, 1, 2, true>(a)))
PK_ENTRY(gemv, , int4, warp, 75, 256, ITEMS(0, 8), none, (gemv<gemv_int4, 1, 2, false>(a)))
PK_ENTRY(gemv, , int4, rows4, 75, 256, ITEMS(0, 32), none, (gemv<gemv_int4, 4, 2, false>(a)))
PK_ENTRY(gemv, , int4, block, 75, 256, ITEMS(0, 1), none, (gemv<gemv_int4, 1, 2, true>(a)))
