// Embedding lookups: embedding_bag pools the rows of each bag, embedding_gather copies rows out in fp32.
//
// Operands  bag: table, indices (sets x lookups), offsets (bags + 1), weights (lookups, or none), out (bags x D, fp32)
//           gather: table, indices (sets x lookups), out (lookups x D, fp32)
// dims      bags, D, rows, lookups, bytes of an index, bytes of a row, bytes of an offset, sets, mean; bag also: weighted
// Rows      fp32, fp16, bf16; int8 (unsigned bytes) and int4 (low nibble first): scale * q + bias, both fp32 at the row's end
// Variants, in rising order of refinement
//   plain        bags split evenly over the threads
//   prefetch:K   the row of the lookup K places ahead in the index stream, across the ends of bags
//   staged:K     rows K lookups ahead into the L2 and those NEAR ahead from there into the L1, since an L2 has room for more
//                lines on their way than an L1; bags split so that threads have equally many lookups, for uneven bags
//   stream:K     gather only: staged, with results by streaming stores
//
// A pass takes the next of the index sets. Every pass checks its indices before it reads the table: where one is out of
// range, the thread's results are NaN and no row is read.
#include "table.h"
#include "vec.h"

using namespace pk;

static constexpr int64_t LINE = 64;
static constexpr int64_t NEAR = 6;  // rows from the L2 into the L1 ahead of their use, where those from memory are staged there
static constexpr int MOST = PK_REGISTERS == 32 ? 16 : 8;  // accumulators of a block of columns

// ---------------------------------------------------------------------------------------------------------- formats
// How a row turns into fp32: STEP elements in PER vectors at a time. Quantised rows stay whole numbers; scale and bias are
// the caller's. int4 gives even elements in the first vector, odd ones in the second: put in order only at the end.

struct Fp32 {
  static constexpr int PER = 1, STEP = F32;
  static constexpr bool QUANTISED = false;
  static constexpr int64_t bytes(int64_t d) { return 4 * d; }
  PK_VEC void read(const char* p, f32v* v) { v[0] = loadu<f32v>(reinterpret_cast<const float*>(p)); }
  PK_VEC float one(const char* row, int64_t i) { return reinterpret_cast<const float*>(row)[i]; }
};
struct Fp16 {
  static constexpr int PER = 1, STEP = F32;
  static constexpr bool QUANTISED = false;
  static constexpr int64_t bytes(int64_t d) { return 2 * d; }
  PK_VEC void read(const char* p, f32v* v) { v[0] = load_fp16(reinterpret_cast<const uint16_t*>(p)); }
  PK_VEC float one(const char* row, int64_t i) {
    uint16_t part[F32] = {reinterpret_cast<const uint16_t*>(row)[i]};
    return load_fp16(part)[0];
  }
};
struct Bf16 {
  static constexpr int PER = 1, STEP = F32;
  static constexpr bool QUANTISED = false;
  static constexpr int64_t bytes(int64_t d) { return 2 * d; }
  PK_VEC void read(const char* p, f32v* v) { v[0] = load_bf16(reinterpret_cast<const uint16_t*>(p)); }
  PK_VEC float one(const char* row, int64_t i) {
    const uint32_t bits = uint32_t(reinterpret_cast<const uint16_t*>(row)[i]) << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
  }
};
struct Int8 {
  static constexpr int PER = 1, STEP = F32;
  static constexpr bool QUANTISED = true;
  static constexpr int64_t bytes(int64_t d) { return d; }
  PK_VEC void read(const char* p, f32v* v) { v[0] = to_f32(load_uint8(reinterpret_cast<const uint8_t*>(p))); }
  PK_VEC float one(const char* row, int64_t i) { return float(uint8_t(row[i])); }
};
struct Int4 {
  static constexpr int PER = 2, STEP = 2 * F32;
  static constexpr bool QUANTISED = true;
  static constexpr int64_t bytes(int64_t d) { return (d + 1) / 2; }
  PK_VEC void read(const char* p, f32v* v) {
    const i32v pair = load_uint8(reinterpret_cast<const uint8_t*>(p));
    v[0] = to_f32(pair & 15), v[1] = to_f32(pair >> 4);
  }
  PK_VEC float one(const char* row, int64_t i) { return float(uint8_t(row[i / 2]) >> (i % 2 ? 4 : 0) & 15); }
};

// Even and odd elements in order.
PK_VEC void interleave(f32v& even, f32v& odd) {
  float in[2 * F32], out[2 * F32];
  storeu(in, even), storeu(in + F32, odd);
  for (int i = 0; i < F32; ++i) out[2 * i] = in[i], out[2 * i + 1] = in[F32 + i];
  even = loadu<f32v>(out), odd = loadu<f32v>(out + F32);
}

// -------------------------------------------------------------------------------------------------------------- call

struct Lookups {
  const char* table;
  const char* indices;  // of this pass's set
  const char* offsets;
  const float* weights;  // of each lookup, or a single 1
  float* out;
  int64_t d, rows, lookups, row_bytes, value_bytes;
  int64_t near, far;  // distances of the prefetches into L1 and L2, 0: none
  int index_shift, offset_shift;
  int64_t weighted;  // all bits, or none
  bool mean;

  // Tables have fewer than 2^31 rows where the indices were checked: the low half of a 64-bit index says it all.
  static PK_INLINE int64_t at(const char* base, int shift, int64_t i) {
    uint32_t low;
    memcpy(&low, base + (i << shift), 4);
    return low;
  }
  PK_INLINE const char* row(int64_t i) const { return table + at(indices, index_shift, i) * row_bytes; }
  PK_INLINE int64_t offset(int64_t bag) const { return at(offsets, offset_shift, bag); }
};

template <class F>
static Lookups lookups_of(const pk_call* c, bool bag, bool staged) {
  const int64_t* n = c->dim;
  Lookups k{};
  k.table = static_cast<const char*>(c->ptr[0]);
  k.indices = static_cast<const char*>(c->ptr[1]);
  static const float one = 1;
  if (bag) {
    k.offsets = static_cast<const char*>(c->ptr[2]);
    k.weighted = n[9] ? -1 : 0, k.weights = n[9] ? static_cast<const float*>(c->ptr[3]) : &one;
  }
  k.out = static_cast<float*>(c->ptr[bag ? 4 : 2]);
  k.d = n[1], k.rows = n[2], k.lookups = n[3], k.row_bytes = n[5], k.value_bytes = F::bytes(n[1]);
  k.near = staged ? NEAR : c->tune, k.far = staged ? c->tune : 0;
  k.index_shift = n[4] == 8 ? 3 : 2, k.offset_shift = n[6] == 8 ? 3 : 2, k.mean = n[8];
  return k;
}

// Are indices [lo, hi) all rows of the table? (A negative one is a large unsigned one.)
template <class T>
static bool in_range(const char* base, int64_t lo, int64_t hi, int64_t rows) {
  using V = vec<T>;
  const T* p = reinterpret_cast<const T*>(base);
  const uint64_t bound = uint64_t(rows) > uint64_t(~T(0)) ? uint64_t(~T(0)) : uint64_t(rows) - 1;
  V most{};
  int64_t i = lo;
  for (; i + lanes<T> <= hi; i += lanes<T>) most = vmax(most, loadu<V>(p + i));
  uint64_t top = 0;
  for (int k = 0; k < lanes<T>; ++k) top = most[k] > top ? most[k] : top;
  for (; i < hi; ++i) top = p[i] > top ? p[i] : top;
  return lo >= hi || (rows > 0 && top <= bound && top < 1ull << 32);
}
static bool valid(const Lookups& k, int64_t lo, int64_t hi) {
  hi = hi < k.lookups ? hi : k.lookups;
  return k.index_shift == 3 ? in_range<uint64_t>(k.indices, lo, hi, k.rows) : in_range<uint32_t>(k.indices, lo, hi, k.rows);
}

// ---------------------------------------------------------------------------------------------------------- one block

// Asks for the row of lookup i, of which the first BYTES are known at compile time: into the L1, or into the L2 only.
template <int64_t BYTES, int HINT>
PK_VEC void ask(const Lookups& k, int64_t i) {
  const char* p = k.row(i < k.lookups ? i : k.lookups - 1);
#pragma GCC unroll 16
  for (int64_t b = 0; b < BYTES; b += LINE) __builtin_prefetch(p + b, 0, HINT);
  for (int64_t b = (BYTES + LINE - 1) / LINE * LINE; b < k.row_bytes; b += LINE) __builtin_prefetch(p + b, 0, HINT);
  if (k.row_bytes % LINE) __builtin_prefetch(p + k.row_bytes - 1, 0, HINT);
}
template <int64_t BYTES>
PK_VEC void fetch(const Lookups& k, int64_t i) {
  if (k.far) ask<BYTES, 2>(k, i + k.far);
  if (k.near) ask<BYTES, 3>(k, i + k.near);
}

// Sums lookups [lo, hi) over N vectors of columns from `column` on; the block at column 0 prefetches whole rows. Lookups
// without weights all read the same 1. Named by their place, the sums stay in registers.
template <class F, int N, bool FIRST>
PK_VEC void sum_block(const Lookups& k, int64_t lo, int64_t hi, int64_t column, float* out, float divide) {
  static_assert(N % F::PER == 0);
  f32v sum[N] = {};
  float bias = 0;
  const int64_t at = F::bytes(column);
  for (int64_t i = lo; i < hi; ++i) {
    if (FIRST) fetch<F::bytes(N * F32)>(k, i);
    const char* row = k.row(i);
    float scale = k.weights[i & k.weighted];
    if constexpr (F::QUANTISED) {
      float tail[2];
      memcpy(tail, row + k.value_bytes, 8);
      bias += scale * tail[1], scale *= tail[0];
    }
    const f32v factor = broadcast<f32v>(scale);
#pragma GCC unroll 16
    for (int n = 0; n < N; n += F::PER) {
      f32v v[F::PER];
      F::read(row + at + F::bytes(n * F32), v);
#pragma GCC unroll 2
      for (int j = 0; j < F::PER; ++j) sum[n + j] = fma(v[j], factor, sum[n + j]);
    }
  }
#pragma GCC unroll 16
  for (int n = 0; n < N; n += F::PER) {
    if constexpr (F::PER == 2) interleave(sum[n], sum[n + 1]);
#pragma GCC unroll 2
    for (int j = 0; j < F::PER; ++j) storeu(out + column + (n + j) * F32, (sum[n + j] + bias) * divide);
  }
}

// Columns from `column` on that the first block left: vectors, then single elements.
template <class F>
static __attribute__((noinline)) void sum_rest(const Lookups& k, int64_t lo, int64_t hi, int64_t column, float* out, float divide) {
  for (; column + MOST * F32 <= k.d; column += MOST * F32) sum_block<F, MOST, false>(k, lo, hi, column, out, divide);
  for (; column + 2 * F32 <= k.d; column += 2 * F32) sum_block<F, 2, false>(k, lo, hi, column, out, divide);
  for (; column < k.d; ++column) {
    float sum = 0;
    for (int64_t i = lo; i < hi; ++i) {
      const char* row = k.row(i);
      float x = F::one(row, column);
      if constexpr (F::QUANTISED) {
        float tail[2];
        memcpy(tail, row + k.value_bytes, 8);
        x = tail[0] * x + tail[1];
      }
      sum += k.weights[i & k.weighted] * x;
    }
    out[column] = sum * divide;
  }
}

// Bags [from, to): a block of N vectors of columns, then what is left.
template <class F, int N>
static void sum_bags(const Lookups& k, int64_t from, int64_t to) {
  int64_t lo = k.offset(from);
  const int64_t end = k.offset(to);
  for (int64_t bag = from; bag < to; ++bag) {
    const int64_t hi = k.offset(bag + 1);
    float* out = k.out + bag * k.d;
    if (hi < lo || hi > end) {  // offsets that do not rise: nothing is read for them
      for (int64_t d = 0; d < k.d; ++d) out[d] = __builtin_nanf("");
      continue;
    }
    const float divide = k.mean && hi > lo ? 1.0f / float(hi - lo) : 1.0f;
    if (N) sum_block<F, N ? N : F::PER, true>(k, lo, hi, 0, out, divide);
    if (N * F32 < k.d) sum_rest<F>(k, lo, hi, N * F32, out, divide);
    lo = hi;
  }
}

// --------------------------------------------------------------------------------------------------------- all passes

// First bag that thread tid owns: an even share of the bags, or the bag in which an even share of the lookups begins.
static int64_t first_bag(const Lookups& k, int64_t bags, int tid, int threads, bool balanced) {
  if (!balanced || tid == 0 || tid == threads) return bags * tid / threads;
  const int64_t wanted = k.lookups * tid / threads;
  int64_t lo = 0, hi = bags;
  while (lo < hi) {
    const int64_t middle = (lo + hi) / 2;
    if (k.offset(middle) < wanted) lo = middle + 1;
    else hi = middle;
  }
  return lo;
}

// Bags [from, to) of one pass, in blocks as wide as the rows allow.
template <class F>
PK_INLINE void all_bags(const Lookups& k, int64_t from, int64_t to) {
  const int64_t n = k.d / F32;
  if (n >= MOST) sum_bags<F, MOST>(k, from, to);
  else if (MOST > 8 && n >= 8) sum_bags<F, 8>(k, from, to);
  else if (n >= 4) sum_bags<F, 4>(k, from, to);
  else if (n >= 2) sum_bags<F, 2>(k, from, to);
  else if (n >= F::PER) sum_bags<F, F::PER>(k, from, to);
  else sum_bags<F, 0>(k, from, to);
}

using Bags = void (*)(const Lookups& k, int64_t from, int64_t to);

template <class F, bool STAGED>
static void bag_passes(const pk_call* c, const pk_team* t, Bags bags_of) {
  Lookups k = lookups_of<F>(c, true, STAGED);
  const char* all = k.indices;
  const int64_t bags = c->dim[0], sets = c->dim[7];
  const int64_t from = first_bag(k, bags, t->tid, t->threads, STAGED), to = first_bag(k, bags, t->tid + 1, t->threads, STAGED);
  if (from >= to) return;
  const int64_t lo = k.offset(from), hi = k.offset(to);
  for (int64_t r = 0; r < c->reps; ++r) {
    k.indices = all + (((c->first + r) % sets * k.lookups) << k.index_shift);
    if (lo > hi || hi > k.lookups || !valid(k, lo, hi + k.near + k.far)) {
      for (int64_t i = from * k.d; i < to * k.d; ++i) k.out[i] = __builtin_nanf("");
      continue;
    }
    bags_of(k, from, to);
  }
}

// One row in fp32 to out.
template <class F, bool NT>
PK_VEC void copy_row(const Lookups& k, const char* row, float* out) {
  float scale = 1, bias = 0;
  if constexpr (F::QUANTISED) memcpy(&scale, row + k.value_bytes, 4), memcpy(&bias, row + k.value_bytes + 4, 4);
  int64_t column = 0;
  for (; column + F::STEP <= k.d; column += F::STEP) {
    f32v v[F::PER];
    F::read(row + F::bytes(column), v);
    if constexpr (F::PER == 2) interleave(v[0], v[1]);
#pragma GCC unroll 2
    for (int j = 0; j < F::PER; ++j) {
      const f32v x = F::QUANTISED ? fma(v[j], broadcast<f32v>(scale), broadcast<f32v>(bias)) : v[j];
      if (NT) stream_store(out + column + j * F32, x);
      else storeu(out + column + j * F32, x);
    }
  }
  for (; column < k.d; ++column) out[column] = F::QUANTISED ? scale * F::one(row, column) + bias : F::one(row, column);
}

template <class F, bool NT>
PK_INLINE void copy_rows(const Lookups& k, int64_t lo, int64_t hi) {
  for (int64_t i = lo; i < hi; ++i) {
    fetch<LINE>(k, i);
    copy_row<F, NT>(k, k.row(i), k.out + i * k.d);
  }
  if (NT) stream_fence();
}

using Rows = void (*)(const Lookups& k, int64_t lo, int64_t hi);

template <class F>
static void gather_passes(const pk_call* c, const pk_team* t, bool staged, Rows rows_of, Rows streamed) {
  Lookups k = lookups_of<F>(c, false, staged);
  const char* all = k.indices;
  int64_t lo, hi;
  pk_share(k.lookups, 16, t->tid, t->threads, &lo, &hi);
  // streaming stores need every row of the output to begin on a vector
  if (streamed && k.d % F32 == 0 && reinterpret_cast<uintptr_t>(k.out) % PK_VECTOR_BYTES == 0) rows_of = streamed;
  for (int64_t r = 0; r < c->reps; ++r) {
    k.indices = all + (((c->first + r) % c->dim[7] * k.lookups) << k.index_shift);
    if (!valid(k, lo, hi + k.near + k.far)) {
      for (int64_t i = lo * k.d; i < hi * k.d; ++i) k.out[i] = __builtin_nanf("");
    } else {
      rows_of(k, lo, hi);
    }
  }
}

// -------------------------------------------------------------------------------------------------------------- table

static const int64_t distances[] = {4, 8, 16, 32, 64};
static const int64_t far_distances[] = {16, 32, 64, 128};

// The hot loops of a format are in one function, whatever the variant: plain is the distance 0.
#define KERNELS(dtype, F)                                                                                            \
  PK_HOT void pk_embedding_bag_##dtype(const Lookups& k, int64_t from, int64_t to) { all_bags<F>(k, from, to); }     \
  static void bag_##dtype(const pk_call* c, const pk_team* t) { bag_passes<F, false>(c, t, pk_embedding_bag_##dtype); } \
  static void staged_##dtype(const pk_call* c, const pk_team* t) { bag_passes<F, true>(c, t, pk_embedding_bag_##dtype); } \
  PK_HOT void pk_embedding_gather_##dtype(const Lookups& k, int64_t lo, int64_t hi) { copy_rows<F, false>(k, lo, hi); } \
  PK_HOT void pk_embedding_gather_##dtype##_stream(const Lookups& k, int64_t lo, int64_t hi) { copy_rows<F, true>(k, lo, hi); } \
  template <bool STAGED, bool NT>                                                                                    \
  static void gather_##dtype(const pk_call* c, const pk_team* t) {                                                   \
    gather_passes<F>(c, t, STAGED, pk_embedding_gather_##dtype, NT ? pk_embedding_gather_##dtype##_stream : nullptr); \
  }
#define LINE_OF(kernel, dtype, variant, run, tunes, count, symbol) \
  {kernel, "", #dtype, variant, run, nullptr, tunes, count, symbol},
#define BAG(dtype)                                                                                                   \
  LINE_OF("embedding_bag", dtype, "plain", bag_##dtype, nullptr, 0, "pk_embedding_bag_" #dtype)                      \
  LINE_OF("embedding_bag", dtype, "prefetch", bag_##dtype, distances, 5, "pk_embedding_bag_" #dtype)                 \
  LINE_OF("embedding_bag", dtype, "staged", staged_##dtype, far_distances, 4, "pk_embedding_bag_" #dtype)
#define GATHER(dtype)                                                                                                \
  LINE_OF("embedding_gather", dtype, "plain", (gather_##dtype<false, false>), nullptr, 0, "pk_embedding_gather_" #dtype) \
  LINE_OF("embedding_gather", dtype, "prefetch", (gather_##dtype<false, false>), distances, 5, "pk_embedding_gather_" #dtype) \
  LINE_OF("embedding_gather", dtype, "staged", (gather_##dtype<true, false>), far_distances, 4, "pk_embedding_gather_" #dtype) \
  LINE_OF("embedding_gather", dtype, "stream", (gather_##dtype<true, true>), far_distances, 4, "pk_embedding_gather_" #dtype "_stream")

KERNELS(fp32, Fp32)
KERNELS(fp16, Fp16)
KERNELS(bf16, Bf16)
KERNELS(int8, Int8)
KERNELS(int4, Int4)

static const pk_entry embedding_entries[] = {
  BAG(fp32) BAG(fp16) BAG(bf16) BAG(int8) BAG(int4) GATHER(fp32) GATHER(fp16) GATHER(bf16) GATHER(int8) GATHER(int4)
};
PK_TABLE(embedding_entries);
