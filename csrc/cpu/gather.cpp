// Gather ceilings: whole rows at random, added up and not written.
//
// Operands  in: table (rows x row bytes), indices (sets x lookups of int32); out: sums[8 + 8 * 1024] of int64: the sum, then
//           a line for each thread
// dims      rows; bytes of a row (a multiple of 4); lookups of a pass; bytes of an index; sets: pass r takes set r modulo sets
// Variants  plain; prefetch:ROWS ahead in the index stream
//
// A row is read as 64-bit words (a last half word as its value), and the sum of all words wraps: exact in any order.
#include "table.h"
#include "vec.h"

using namespace pk;

static constexpr int MAX_THREADS = 1024, LINE_BYTES = 64;

template <bool PREFETCH>
PK_INLINE void ask(const char* row, int64_t bytes) {
  if (!PREFETCH) return;
  prefetch(row);
  for (int64_t b = LINE_BYTES; b < bytes; b += LINE_BYTES) prefetch(row + b);
  if (bytes % LINE_BYTES) prefetch(row + bytes - 1);  // such rows may straddle one line more
}

template <int VB>
struct Rows {
  vec<uint64_t, VB> s0{}, s1{}, s2{}, s3{};
  uint64_t rest = 0;
};

template <int VB>
PK_INLINE vec<uint64_t, VB> row_part(const char* p) {  // rows are multiples of 4 bytes: no more is known of p
  return (vec<uint64_t, VB>)loadu<vec<uint32_t, VB>>(reinterpret_cast<const uint32_t*>(p));
}

// Rows of a number of bytes known here: four rows a turn.
template <int BYTES, int VB, bool PREFETCH>
PK_INLINE void rows_of(const char* table, const int32_t* index, int64_t n, int64_t ahead, Rows<VB>& sum) {
  using V = vec<uint64_t, VB>;
  Rows<VB> s = sum;
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    if (PREFETCH) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) ask<true>(table + int64_t(index[i + k + ahead]) * BYTES, BYTES);
    }
    const char *r0 = table + int64_t(index[i]) * BYTES, *r1 = table + int64_t(index[i + 1]) * BYTES;
    const char *r2 = table + int64_t(index[i + 2]) * BYTES, *r3 = table + int64_t(index[i + 3]) * BYTES;
#pragma GCC unroll 16
    for (int b = 0; b < BYTES; b += VB) {
      s.s0 += load<V>(r0 + b), s.s1 += load<V>(r1 + b), s.s2 += load<V>(r2 + b), s.s3 += load<V>(r3 + b);
    }
  }
  for (; i < n; ++i)
    for (int b = 0; b < BYTES; b += VB) s.s0 += load<V>(table + int64_t(index[i]) * BYTES + b);
  sum = s;
}

// Rows of any number of bytes.
template <int VB, bool PREFETCH>
PK_INLINE void rows_of_any(const char* table, const int32_t* index, int64_t n, int64_t bytes, int64_t ahead, Rows<VB>& sum) {
  Rows<VB> s = sum;
  for (int64_t i = 0; i < n; ++i) {
    ask<PREFETCH>(table + int64_t(index[i + ahead]) * bytes, bytes);
    const char* p = table + int64_t(index[i]) * bytes;
    int64_t b = 0;
    for (; b + 4 * VB <= bytes; b += 4 * VB) {
      s.s0 += row_part<VB>(p + b), s.s1 += row_part<VB>(p + b + VB), s.s2 += row_part<VB>(p + b + 2 * VB), s.s3 += row_part<VB>(p + b + 3 * VB);
    }
    for (; b + VB <= bytes; b += VB) s.s0 += row_part<VB>(p + b);
    for (; b + 8 <= bytes; b += 8) {
      uint64_t word;
      __builtin_memcpy(&word, p + b, 8);
      s.rest += word;
    }
    if (b < bytes) {
      uint32_t half;
      __builtin_memcpy(&half, p + b, 4);
      s.rest += half;
    }
  }
  sum = s;
}

template <int VB, bool PREFETCH>
PK_INLINE uint64_t lookups(const char* table, int64_t bytes, const int32_t* index, int64_t n, int64_t ahead) {
  Rows<VB> s;
  if (PREFETCH) {  // the last `ahead` rows without, so that no index beyond the thread's own is read
    const int64_t body = n > ahead ? n - ahead : 0;
    switch (bytes) {
      case 64: rows_of<64, VB, true>(table, index, body, ahead, s); break;
      case 128: rows_of<128, VB, true>(table, index, body, ahead, s); break;
      case 256: rows_of<256, VB, true>(table, index, body, ahead, s); break;
      default: rows_of_any<VB, true>(table, index, body, bytes, ahead, s);
    }
    index += body, n -= body;
  }
  switch (bytes) {
    case 64: rows_of<64, VB, false>(table, index, n, 0, s); break;
    case 128: rows_of<128, VB, false>(table, index, n, 0, s); break;
    case 256: rows_of<256, VB, false>(table, index, n, 0, s); break;
    default: rows_of_any<VB, false>(table, index, n, bytes, 0, s);
  }
  const auto all = (s.s0 + s.s1) + (s.s2 + s.s3);
  return s.rest + hsum(all);
}

template <bool PREFETCH>
PK_INLINE void passes(const pk_call* c, const pk_team* t) {
  const char* table = static_cast<const char*>(c->ptr[0]);
  const int64_t bytes = c->dim[1], n = c->dim[2], sets = c->dim[4];
  int64_t lo, hi;
  pk_share(n, 1, t->tid, t->threads, &lo, &hi);
  uint64_t sum = 0;
  for (int64_t r = 0; r < c->reps; ++r) {
    forget_memory();
    const int32_t* index = static_cast<const int32_t*>(c->ptr[1]) + (c->first + r) % sets * n;
    if (bytes == 32) {  // half of the widest vectors
      constexpr int VB = PK_VECTOR_BYTES < 32 ? PK_VECTOR_BYTES : 32;
      Rows<VB> s;
      const int64_t m = hi - lo, body = PREFETCH ? m > c->tune ? m - c->tune : 0 : 0;
      if (PREFETCH) rows_of<32, VB, true>(table, index + lo, body, c->tune, s);
      rows_of<32, VB, false>(table, index + lo + body, m - body, 0, s);
      sum += hsum((s.s0 + s.s1) + (s.s2 + s.s3));
    } else {
      sum += lookups<PK_VECTOR_BYTES, PREFETCH>(table, bytes, index + lo, hi - lo, c->tune);
    }
  }
  uint64_t* sums = static_cast<uint64_t*>(c->ptr[2]);  // the thread that ends last adds up what each has left
  if (t->threads > MAX_THREADS) return;
  sums[8 + 8 * t->tid] = sum;
  if (t->take(t, 1) != t->threads - 1) return;
  uint64_t total = 0;
  for (int i = 0; i < t->threads; ++i) total += sums[8 + 8 * i];
  sums[0] = total;
}

PK_HOT void pk_gather_plain(const pk_call* c, const pk_team* t) { passes<false>(c, t); }
PK_HOT void pk_gather_prefetch(const pk_call* c, const pk_team* t) { passes<true>(c, t); }

static const int64_t prefetch_rows[] = {8, 16, 32, 64, 128};
static const pk_entry gather_entries[] = {
  {"gather", "", "fp32", "plain", pk_gather_plain, nullptr, nullptr, 0, "pk_gather_plain"},
  {"gather", "", "fp32", "prefetch", pk_gather_prefetch, nullptr, prefetch_rows, 5, "pk_gather_prefetch"},
};
PK_TABLE(gather_entries);
