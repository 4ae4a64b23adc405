// Gather ceilings: whole rows at random, added up and not written.
//
// Operands  in: table (rows x row bytes), indices (sets x lookups of int32); out: sums[8 + 8 * 1024] of int64: the sum, then
//           a line for each thread
// dims      rows; bytes of a row (a multiple of 4); lookups of a pass; bytes of an index; sets: pass r takes set r modulo sets
// Variants  plain; prefetch:ROWS ahead in the index stream; staged:ROWS ahead into the L2, and NEAR ahead from there into the
//           L1: an L2 has room for more lines on their way than an L1
//
// A row is read as 64-bit words (a last half word as its value), and the sum of all words wraps: exact in any order.
#include "table.h"
#include "vec.h"

using namespace pk;

static constexpr int MAX_THREADS = 1024, LINE_BYTES = 64;

enum Mode { PLAIN, PREFETCH, STAGED };
static constexpr int64_t NEAR = 8;      // rows asked for in the L1 ahead of their use; wider rows come from the L2 as they are read
static constexpr int64_t NEAR_BYTES = 128;  // rows up to this are asked for twice

template <int HINT>
PK_INLINE void ask(const char* row, int64_t bytes) {
  __builtin_prefetch(row, 0, HINT);
  for (int64_t b = LINE_BYTES; b < bytes; b += LINE_BYTES) __builtin_prefetch(row + b, 0, HINT);
  if (bytes % LINE_BYTES) __builtin_prefetch(row + bytes - 1, 0, HINT);  // such rows may straddle one line more
}
// Asks for the rows of N lookups from `ahead` on. The pointer to their indices is one for all of a turn, hidden from the
// compiler, which would else keep one for each, on the stack.
template <Mode M, int N>
PK_INLINE void ask_ahead(const char* table, const int32_t* index, int64_t bytes, int64_t ahead) {
  if (M == PLAIN) return;
  const int32_t* far = index + ahead;
  asm("" : "+r"(far));
#pragma GCC unroll 4
  for (int k = 0; k < N; ++k) ask<M == STAGED ? 2 : 3>(table + int64_t(far[k]) * bytes, bytes);
  if (M != STAGED || bytes > NEAR_BYTES) return;
#pragma GCC unroll 4
  for (int k = 0; k < N; ++k) ask<3>(table + int64_t(index[k + NEAR]) * bytes, bytes);
}

template <int VB>
PK_INLINE vec<uint64_t, VB> row_part(const char* p) {  // rows are multiples of 4 bytes: no more is known of p
  return (vec<uint64_t, VB>)loadu<vec<uint32_t, VB>>(reinterpret_cast<const uint32_t*>(p));
}

// Rows of a number of bytes known here, a multiple of the vector: four rows a turn.
template <int BYTES, int VB, Mode M>
PK_INLINE uint64_t rows_of(const char* table, const int32_t* index, int64_t n, int64_t ahead) {
  using V = vec<uint64_t, VB>;
  V s0{}, s1{}, s2{}, s3{};
  for (const int32_t* end = index + n / 4 * 4; index != end; index += 4) {
    ask_ahead<M, 4>(table, index, BYTES, ahead);
    const char *r0 = table + int64_t(index[0]) * BYTES, *r1 = table + int64_t(index[1]) * BYTES;
    const char *r2 = table + int64_t(index[2]) * BYTES, *r3 = table + int64_t(index[3]) * BYTES;
#pragma GCC unroll 16
    for (int b = 0; b < BYTES; b += VB) s0 += load<V>(r0 + b), s1 += load<V>(r1 + b), s2 += load<V>(r2 + b), s3 += load<V>(r3 + b);
  }
  for (int64_t i = 0; i < n % 4; ++i)
    for (int b = 0; b < BYTES; b += VB) s0 += load<V>(table + int64_t(index[i]) * BYTES + b);
  const V all = (s0 + s1) + (s2 + s3);
  return hsum(all);
}

// What of a row no whole vector covers: 64-bit words, and a last half word as its value.
PK_INLINE uint64_t row_rest(const char* p, int64_t bytes) {
  uint64_t sum = 0;
  for (; bytes >= 8; p += 8, bytes -= 8) {
    uint64_t word;
    __builtin_memcpy(&word, p, 8);
    sum += word;
  }
  if (bytes) {
    uint32_t half;
    __builtin_memcpy(&half, p, 4);
    sum += half;
  }
  return sum;
}

// Rows of any number of bytes, four rows side by side: read one after the other, wide rows look like streams, and the
// hardware's prefetchers fetch lines past their ends (rows of 0.5 to 1 KiB came at half the rate).
template <int VB, Mode M>
PK_INLINE uint64_t rows_of_any(const char* table, const int32_t* index, int64_t n, int64_t bytes, int64_t ahead) {
  using V = vec<uint64_t, VB>;
  V s0{}, s1{}, s2{}, s3{};
  uint64_t rest = 0;
  const int64_t whole = bytes / VB * VB, left = bytes - whole;
  for (const int32_t* end = index + n / 4 * 4; index != end; index += 4) {
    ask_ahead<M, 4>(table, index, bytes, ahead);
    const char *r0 = table + int64_t(index[0]) * bytes, *r1 = table + int64_t(index[1]) * bytes;
    const char *r2 = table + int64_t(index[2]) * bytes, *r3 = table + int64_t(index[3]) * bytes;
    for (int64_t b = 0; b < whole; b += VB)
      s0 += row_part<VB>(r0 + b), s1 += row_part<VB>(r1 + b), s2 += row_part<VB>(r2 + b), s3 += row_part<VB>(r3 + b);
    if (left) rest += row_rest(r0 + whole, left) + row_rest(r1 + whole, left) + row_rest(r2 + whole, left) + row_rest(r3 + whole, left);
  }
  for (int64_t i = 0; i < n % 4; ++i) {
    const char* p = table + int64_t(index[i]) * bytes;
    for (int64_t b = 0; b < whole; b += VB) s0 += row_part<VB>(p + b);
    rest += row_rest(p + whole, left);
  }
  const V all = (s0 + s1) + (s2 + s3);
  return rest + hsum(all);
}

// A function for each row size, so that each loop has the registers to itself.
#define ROWS(variant, BYTES, VB, M)                                                                              \
  PK_HOT uint64_t pk_gather_##variant##_##BYTES(const char* table, const int32_t* index, int64_t n, int64_t, int64_t ahead) { \
    return rows_of<BYTES, VB, M>(table, index, n, ahead);                                                        \
  }
#define ROWS_ANY(variant, M)                                                                                     \
  PK_HOT uint64_t pk_gather_##variant##_any(const char* table, const int32_t* index, int64_t n, int64_t bytes, int64_t ahead) { \
    return rows_of_any<PK_VECTOR_BYTES, M>(table, index, n, bytes, ahead);                                       \
  }
#define ALL_ROWS(variant, M)                                                          \
  ROWS(variant, 32, (PK_VECTOR_BYTES < 32 ? PK_VECTOR_BYTES : 32), M)                 \
  ROWS(variant, 64, PK_VECTOR_BYTES, M)                                               \
  ROWS(variant, 128, PK_VECTOR_BYTES, M)                                              \
  ROWS(variant, 256, PK_VECTOR_BYTES, M)                                              \
  ROWS_ANY(variant, M)
ALL_ROWS(plain, PLAIN)
ALL_ROWS(prefetch, PREFETCH)
ALL_ROWS(staged, STAGED)

#define CHOOSE(variant, bytes)                                                                        \
  ((bytes) == 32 ? pk_gather_##variant##_32 : (bytes) == 64 ? pk_gather_##variant##_64                \
   : (bytes) == 128 ? pk_gather_##variant##_128 : (bytes) == 256 ? pk_gather_##variant##_256          \
                                                                 : pk_gather_##variant##_any)

template <Mode M>
PK_INLINE void passes(const pk_call* c, const pk_team* t) {
  const char* table = static_cast<const char*>(c->ptr[0]);
  const int64_t bytes = c->dim[1], n = c->dim[2], sets = c->dim[4];
  int64_t lo, hi;
  pk_share(n, 1, t->tid, t->threads, &lo, &hi);
  // The last rows go without prefetch, so that no index beyond the thread's own is read.
  const int64_t last = M == PLAIN || hi - lo < c->tune ? hi - lo : c->tune, body = hi - lo - last;
  uint64_t sum = 0;
  for (int64_t r = 0; r < c->reps; ++r) {
    const int32_t* index = static_cast<const int32_t*>(c->ptr[1]) + (c->first + r) % sets * n + lo;
    if (M == PREFETCH) sum += CHOOSE(prefetch, bytes)(table, index, body, bytes, c->tune);
    if (M == STAGED) sum += CHOOSE(staged, bytes)(table, index, body, bytes, c->tune);
    sum += CHOOSE(plain, bytes)(table, index + body, last, bytes, 0);
  }
  uint64_t* sums = static_cast<uint64_t*>(c->ptr[2]);  // the thread that ends last adds up what each has left
  if (t->threads > MAX_THREADS) return;
  sums[8 + 8 * t->tid] = sum;
  if (t->take(t, 1) != t->threads - 1) return;
  uint64_t total = 0;
  for (int i = 0; i < t->threads; ++i) total += sums[8 + 8 * i];
  sums[0] = total;
}

PK_HOT void pk_gather_plain(const pk_call* c, const pk_team* t) { passes<PLAIN>(c, t); }
PK_HOT void pk_gather_prefetch(const pk_call* c, const pk_team* t) { passes<PREFETCH>(c, t); }
PK_HOT void pk_gather_staged(const pk_call* c, const pk_team* t) { passes<STAGED>(c, t); }

static const int64_t prefetch_rows[] = {8, 16, 32, 64, 128}, staged_rows[] = {8, 16, 32, 64, 128};  // NEAR at least
static const pk_entry gather_entries[] = {
  {"gather", "", "fp32", "plain", pk_gather_plain, nullptr, nullptr, 0, "pk_gather_plain_256"},
  {"gather", "", "fp32", "prefetch", pk_gather_prefetch, nullptr, prefetch_rows, 5, "pk_gather_prefetch_256"},
  {"gather", "", "fp32", "staged", pk_gather_staged, nullptr, staged_rows, 5, "pk_gather_staged_256"},
};
PK_TABLE(gather_entries);
