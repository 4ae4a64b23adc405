// Bandwidth ceilings: load (and reduce), load-only, store, nt-store, copy, nt-copy, triad, nt-triad; and in fp64, for
// comparisons with other tools, dot and schoenauer.
//
// Operands  in: a (load, copy), a and b (dot; triad: c = a + q b), or a, b and d (schoenauer: c = a + b d); out: c, or for
//           load and dot: sums[1024 * 8 + 8] of uint64 or double
// dims      n: elements of each array; parts: a pass covers one part of every thread's chunk, the parts in turn
// scalars   q: what store writes and triad multiplies by, never zero
// Variants  plain; narrow (half-width vectors); streams2, streams4 (so many places of the thread's chunk at once);
//           prefetch:BYTES ahead (of what is read)
//
// Each thread walks one contiguous chunk. A load's checksum is the wrapping sum of the bytes as 64-bit words: exact, and the
// same for every order of addition. A run leaves the sum over all its passes; each is consumed, so none can be dropped.
#include "table.h"
#include "vec.h"

using namespace pk;

enum Op { LOAD, TOUCH, STORE, COPY, TRIAD, DOT, SCHOENAUER };
static constexpr int64_t CHUNK_BYTES = 1024;  // chunks are cut on multiples of this
static constexpr int MAX_THREADS = 1024;

// ------------------------------------------------------------------------------------------------ one vector

template <bool NT, class T, class V>
PK_INLINE void put(T* c, V v) {
  if constexpr (NT) stream_store(c, v);
  else store(c, v);
}

// ------------------------------------------------------------------------------------------------- one chunk

// Integer additions are the compiler's to reorder, and it takes the loads along; a stream whose lines come out of order is
// not prefetched: a third of the bandwidth of DRAM here.
template <class V>
PK_INLINE void add_in_order(V& sum, const char* p) {
  sum += load<V>(p);
  consume(sum);
}

// Loads `bytes` from p and adds them up, in four sums along one stream or over several; returns the sum in two parts, so
// that the lanes are joined once after all passes.
template <int VB>
struct Sum {
  vec<uint64_t, VB> lanes;
  uint64_t rest;
};
template <int VB, int S, bool PREFETCH>
PK_INLINE auto load_chunk(const char* p, int64_t bytes, int64_t ahead) {
  using V = vec<uint64_t, VB>;
  constexpr int U = S == 1 ? 16 : 16 / S;  // vectors of each stream per turn
  V s0{}, s1{}, s2{}, s3{};
  const int64_t part = bytes / S / (U * VB) * (U * VB);
  for (const char *x = p, *end = p + part; x != end; x += U * VB) {
#pragma GCC unroll 16
    for (int k = 0; k < U; ++k) {
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) {
        const char* y = x + s * part + k * VB;
        if (PREFETCH && k * VB % 64 == 0) prefetch(y + ahead);
        const int n = (k * S + s) & 3;
        if (n == 0) add_in_order(s0, y);
        else if (n == 1) add_in_order(s1, y);
        else if (n == 2) add_in_order(s2, y);
        else add_in_order(s3, y);
      }
    }
  }
  int64_t done = S * part;
  for (; done + VB <= bytes; done += VB) s0 += load<V>(p + done);
  uint64_t sum = 0;
  for (; done + 8 <= bytes; done += 8) {
    uint64_t word;
    __builtin_memcpy(&word, p + done, 8);
    sum += word;
  }
  if (done < bytes) {  // an odd number of fp32
    uint32_t word;
    __builtin_memcpy(&word, p + done, 4);
    sum += word;
  }
  V all = (s0 + s1) + (s2 + s3);
  consume(all);
  return Sum<VB>{all, sum};
}

template <Op op, bool NT, class T, int VB, int S, bool PREFETCH>
PK_INLINE void write_chunk(const T* a, const T* b, const T* d, T* c, int64_t n, T scalar, int64_t ahead) {
  using V = vec<T, VB>;
  constexpr int L = lanes<T, VB>, U = S == 1 ? 8 : 8 / S;
  const V q = broadcast<V>(scalar);
  const int64_t part = n / S / (U * L) * (U * L);
  for (int64_t i = 0; i != part; i += U * L) {
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
#pragma GCC unroll 8
      for (int k = 0; k < U; ++k) {
        const int64_t j = s * part + i + k * L;
        if (PREFETCH && k * VB % 64 == 0) {
          prefetch(reinterpret_cast<const char*>(a + j) + ahead);
          if (op == TRIAD || op == SCHOENAUER) prefetch(reinterpret_cast<const char*>(b + j) + ahead);
          if (op == SCHOENAUER) prefetch(reinterpret_cast<const char*>(d + j) + ahead);
        }
        if constexpr (op == STORE) put<NT>(c + j, q);
        if constexpr (op == COPY) put<NT>(c + j, load<V>(a + j));
        if constexpr (op == TRIAD) put<NT>(c + j, fma(q, load<V>(b + j), load<V>(a + j)));
        if constexpr (op == SCHOENAUER) put<NT>(c + j, fma(load<V>(d + j), load<V>(b + j), load<V>(a + j)));
      }
    }
  }
  for (int64_t j = S * part; j < n; ++j)
    c[j] = op == STORE ? scalar : op == COPY ? a[j] : a[j] + (op == SCHOENAUER ? d[j] : scalar) * b[j];
}

// Adds products up in four sums.
template <class T, int VB, bool PREFETCH>
PK_INLINE T dot_chunk(const T* a, const T* b, int64_t n, int64_t ahead) {
  using V = vec<T, VB>;
  constexpr int L = lanes<T, VB>, U = 8;
  V s0{}, s1{}, s2{}, s3{};
  const T *x = a, *y = b;
  for (const T* end = a + n / (U * L) * (U * L); x != end; x += U * L, y += U * L) {
#pragma GCC unroll 8
    for (int k = 0; k < U; ++k) {
      if (PREFETCH && k * VB % 64 == 0) {
        prefetch(reinterpret_cast<const char*>(x + k * L) + ahead);
        prefetch(reinterpret_cast<const char*>(y + k * L) + ahead);
      }
      const V v = load<V>(x + k * L), w = load<V>(y + k * L);
      if (k % 4 == 0) s0 = fma(v, w, s0), consume(s0);
      else if (k % 4 == 1) s1 = fma(v, w, s1), consume(s1);
      else if (k % 4 == 2) s2 = fma(v, w, s2), consume(s2);
      else s3 = fma(v, w, s3), consume(s3);
    }
  }
  T rest = 0;
  for (; x != a + n; ++x, ++y) rest += *x * *y;
  const V all = (s0 + s1) + (s2 + s3);
  return rest + hsum(all);
}

// Loads every vector and uses none of it.
template <int VB, int S, bool PREFETCH>
PK_INLINE void touch_chunk(const char* p, int64_t bytes, int64_t ahead) {
  using V = vec<uint64_t, VB>;
  constexpr int U = S == 1 ? 16 : 16 / S;
  const int64_t part = bytes / S / (U * VB) * (U * VB);
  for (const char *x = p, *end = p + part; x != end; x += U * VB) {
#pragma GCC unroll 16
    for (int k = 0; k < U; ++k) {
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) {
        const char* y = x + s * part + k * VB;
        if (PREFETCH && k * VB % 64 == 0) prefetch(y + ahead);
        V v = load<V>(y);
        consume(v);
      }
    }
  }
  for (int64_t done = S * part; done < bytes; ++done) {
    unsigned char c = p[done];
    asm volatile("" : : "r"(c));
  }
}

// -------------------------------------------------------------------------------------------------- all passes

// What pass r covers of a thread's chunk [lo, hi): one of dim[1] parts, in turn, so that a sample of a large array can be
// short while every byte is still touched in every round.
struct Part {
  int64_t lo, hi;
};
template <class T>
PK_INLINE Part part_of(const pk_call* c, int64_t lo, int64_t hi, int64_t r) {
  const int64_t parts = c->dim[1];
  if (parts == 1) return {lo, hi};
  Part part;
  pk_share(hi - lo, CHUNK_BYTES / int64_t(sizeof(T)), int((c->first + r) % parts), int(parts), &part.lo, &part.hi);
  return {lo + part.lo, lo + part.hi};
}

template <class T, int VB, int S, bool PREFETCH>
PK_INLINE void load_passes(const pk_call* c, const pk_team* t) {
  int64_t lo, hi;
  pk_share(c->dim[0], CHUNK_BYTES / int64_t(sizeof(T)), t->tid, t->threads, &lo, &hi);
  Sum<VB> all{};
  for (int64_t r = 0; r < c->reps; ++r) {
    forget_memory();
    const Part part = part_of<T>(c, lo, hi, r);
    const char* p = reinterpret_cast<const char*>(static_cast<const T*>(c->ptr[0]) + part.lo);
    const Sum<VB> one = load_chunk<VB, S, PREFETCH>(p, (part.hi - part.lo) * int64_t(sizeof(T)), c->tune);
    all.lanes += one.lanes, all.rest += one.rest;
  }
  const uint64_t sum = all.rest + hsum(all.lanes);
  // The thread that ends last adds up what each has left in its own line.
  uint64_t* sums = static_cast<uint64_t*>(c->ptr[1]);
  if (t->threads > MAX_THREADS) return;
  sums[8 + 8 * t->tid] = sum;
  if (t->take(t, 1) != t->threads - 1) return;
  uint64_t total = 0;
  for (int i = 0; i < t->threads; ++i) total += sums[8 + 8 * i];
  sums[0] = total;
}

template <class T, int VB, bool PREFETCH>
PK_INLINE void dot_passes(const pk_call* c, const pk_team* t) {
  int64_t lo, hi;
  pk_share(c->dim[0], CHUNK_BYTES / int64_t(sizeof(T)), t->tid, t->threads, &lo, &hi);
  const T *a = static_cast<const T*>(c->ptr[0]), *b = static_cast<const T*>(c->ptr[1]);
  T sum = 0;
  for (int64_t r = 0; r < c->reps; ++r) {
    forget_memory();
    const Part part = part_of<T>(c, lo, hi, r);
    sum += dot_chunk<T, VB, PREFETCH>(a + part.lo, b + part.lo, part.hi - part.lo, c->tune);
  }
  T* sums = static_cast<T*>(c->ptr[2]);
  if (t->threads > MAX_THREADS) return;
  sums[8 + 8 * t->tid] = sum;
  if (t->take(t, 1) != t->threads - 1) return;
  T total = 0;
  for (int i = 0; i < t->threads; ++i) total += sums[8 + 8 * i];
  sums[0] = total;
}

template <class T, int VB, int S, bool PREFETCH>
PK_INLINE void touch_passes(const pk_call* c, const pk_team* t) {
  int64_t lo, hi;
  pk_share(c->dim[0], CHUNK_BYTES / int64_t(sizeof(T)), t->tid, t->threads, &lo, &hi);
  for (int64_t r = 0; r < c->reps; ++r) {
    const Part part = part_of<T>(c, lo, hi, r);
    const char* p = reinterpret_cast<const char*>(static_cast<const T*>(c->ptr[0]) + part.lo);
    touch_chunk<VB, S, PREFETCH>(p, (part.hi - part.lo) * int64_t(sizeof(T)), c->tune);
  }
}

template <Op op, bool NT, class T, int VB, int S, bool PREFETCH>
PK_INLINE void write_passes(const pk_call* c, const pk_team* t) {
  int64_t lo, hi;
  pk_share(c->dim[0], CHUNK_BYTES / int64_t(sizeof(T)), t->tid, t->threads, &lo, &hi);
  const T* a = static_cast<const T*>(c->ptr[0]);
  const T* b = static_cast<const T*>(c->ptr[op == TRIAD || op == SCHOENAUER ? 1 : 0]);
  const T* d = static_cast<const T*>(c->ptr[op == SCHOENAUER ? 2 : 0]);
  T* out = static_cast<T*>(c->ptr[op == STORE ? 0 : op == COPY ? 1 : op == TRIAD ? 2 : 3]);
  for (int64_t r = 0; r < c->reps; ++r) {
    forget_memory();
    const auto [from, to] = part_of<T>(c, lo, hi, r);
    write_chunk<op, NT, T, VB, S, PREFETCH>(a + from, b + from, d + from, out + from, to - from, T(c->scalar[0]), c->tune);
  }
  if (NT) stream_fence();
}

template <Op op, bool NT, class T, int VB, int S, bool PREFETCH>
PK_INLINE void passes(const pk_call* c, const pk_team* t) {
  if constexpr (op == LOAD) load_passes<T, VB, S, PREFETCH>(c, t);
  else if constexpr (op == DOT) dot_passes<T, VB, PREFETCH>(c, t);
  else if constexpr (op == TOUCH) touch_passes<T, VB, S, PREFETCH>(c, t);
  else write_passes<op, NT, T, VB, S, PREFETCH>(c, t);
}

// ------------------------------------------------------------------------------------------------------- table

static const int64_t prefetch_bytes[] = {512, 2048};

#define SYMBOL(op, dtype, variant) pk_stream_##op##_##dtype##_##variant
#define KERNELS(op, OP, NT, dtype, T)                                                                               \
  PK_HOT void SYMBOL(op, dtype, plain)(const pk_call* c, const pk_team* t) {                                        \
    passes<OP, NT, T, PK_VECTOR_BYTES, 1, false>(c, t);                                                             \
  }                                                                                                                 \
  PK_HOT void SYMBOL(op, dtype, streams2)(const pk_call* c, const pk_team* t) {                                     \
    passes<OP, NT, T, PK_VECTOR_BYTES, 2, false>(c, t);                                                             \
  }                                                                                                                 \
  PK_HOT void SYMBOL(op, dtype, streams4)(const pk_call* c, const pk_team* t) {                                     \
    passes<OP, NT, T, PK_VECTOR_BYTES, 4, false>(c, t);                                                             \
  }                                                                                                                 \
  NARROW_KERNEL(op, OP, NT, dtype, T)
#define READER_KERNELS(op, OP, NT, dtype, T)                                                                        \
  PK_HOT void SYMBOL(op, dtype, prefetch)(const pk_call* c, const pk_team* t) {                                     \
    passes<OP, NT, T, PK_VECTOR_BYTES, 1, true>(c, t);                                                              \
  }                                                                                                                 \
  KERNELS(op, OP, NT, dtype, T)
#define ENTRIES(name, op, dtype)                                                                                    \
  {"stream", name, #dtype, "plain", SYMBOL(op, dtype, plain), nullptr, nullptr, 0, NAME(op, dtype, plain)},         \
  NARROW_ENTRY(name, op, dtype)                                                                                     \
  {"stream", name, #dtype, "streams2", SYMBOL(op, dtype, streams2), nullptr, nullptr, 0, NAME(op, dtype, streams2)},\
  {"stream", name, #dtype, "streams4", SYMBOL(op, dtype, streams4), nullptr, nullptr, 0, NAME(op, dtype, streams4)},
#define READER_ENTRIES(name, op, dtype)                                                                             \
  ENTRIES(name, op, dtype)                                                                                          \
  {"stream", name, #dtype, "prefetch", SYMBOL(op, dtype, prefetch), nullptr, prefetch_bytes, 2, NAME(op, dtype, prefetch)},
#define NAME(op, dtype, variant) "pk_stream_" #op "_" #dtype "_" #variant

#if PK_VECTOR_BYTES == 64  // 256-bit accesses beat 512-bit ones in the L2 of some CPUs
#define NARROW_KERNEL(op, OP, NT, dtype, T)                                                                         \
  PK_HOT void SYMBOL(op, dtype, narrow)(const pk_call* c, const pk_team* t) { passes<OP, NT, T, 32, 1, false>(c, t); }
#define NARROW_ENTRY(name, op, dtype)                                                                               \
  {"stream", name, #dtype, "narrow", SYMBOL(op, dtype, narrow), nullptr, nullptr, 0, NAME(op, dtype, narrow)},
#else
#define NARROW_KERNEL(op, OP, NT, dtype, T)
#define NARROW_ENTRY(name, op, dtype)
#endif

#define READER(op, OP, NT) READER_KERNELS(op, OP, NT, fp64, double) READER_KERNELS(op, OP, NT, fp32, float)
#define WRITER(op, OP, NT) KERNELS(op, OP, NT, fp64, double) KERNELS(op, OP, NT, fp32, float)
READER(load, LOAD, false)
READER(touch, TOUCH, false)
WRITER(store, STORE, false)
WRITER(nt_store, STORE, true)
READER(copy, COPY, false)
READER(nt_copy, COPY, true)
READER(triad, TRIAD, false)
READER(nt_triad, TRIAD, true)

#define TWO_KERNELS(op, OP)                                                                                         \
  PK_HOT void SYMBOL(op, fp64, plain)(const pk_call* c, const pk_team* t) {                                         \
    passes<OP, false, double, PK_VECTOR_BYTES, 1, false>(c, t);                                                     \
  }                                                                                                                 \
  PK_HOT void SYMBOL(op, fp64, prefetch)(const pk_call* c, const pk_team* t) {                                      \
    passes<OP, false, double, PK_VECTOR_BYTES, 1, true>(c, t);                                                      \
  }
TWO_KERNELS(dot, DOT)
TWO_KERNELS(schoenauer, SCHOENAUER)
#define TWO_ENTRIES(op)                                                                                             \
  {"stream", #op, "fp64", "plain", SYMBOL(op, fp64, plain), nullptr, nullptr, 0, NAME(op, fp64, plain)},            \
  {"stream", #op, "fp64", "prefetch", SYMBOL(op, fp64, prefetch), nullptr, prefetch_bytes, 2, NAME(op, fp64, prefetch)},

static const pk_entry stream_entries[] = {
  READER_ENTRIES("load", load, fp64) READER_ENTRIES("load", load, fp32)
  READER_ENTRIES("load-only", touch, fp64) READER_ENTRIES("load-only", touch, fp32)
  ENTRIES("store", store, fp64) ENTRIES("store", store, fp32)
  ENTRIES("nt-store", nt_store, fp64) ENTRIES("nt-store", nt_store, fp32)
  READER_ENTRIES("copy", copy, fp64) READER_ENTRIES("copy", copy, fp32)
  READER_ENTRIES("nt-copy", nt_copy, fp64) READER_ENTRIES("nt-copy", nt_copy, fp32)
  READER_ENTRIES("triad", triad, fp64) READER_ENTRIES("triad", triad, fp32)
  READER_ENTRIES("nt-triad", nt_triad, fp64) READER_ENTRIES("nt-triad", nt_triad, fp32)
  TWO_ENTRIES(dot) TWO_ENTRIES(schoenauer)
};
PK_TABLE(stream_entries);
