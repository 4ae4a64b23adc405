// Between the ceilings: k fused multiply-adds for every loaded vector, or one for every 2, 4, 8 or 16.
//
// Operands  in: x (units x n whole numbers, as fp64 or fp32); out: sums[8 + 8 * 1024] of int64: the two checksums, then a
//           line for each thread
// Variants  plain; narrow (half-width vectors); prefetch:BYTES ahead
// dims      n of a unit; parts: a pass covers one part of every unit, in turn; k (0: fewer than one); skip: one 64-byte line
//           in `skip` is multiplied, the others are folded in by XOR; units
// scalars   q
// y += q x is exact: x, q are whole and y starts at 1.5 times the power of two whose last place is 1, so its bits count
// up with its value. After FOLD products at most, y's bits go into an integer sum and y starts anew. So the first checksum
// is q k times the sum of x (modulo 2^32 or 2^64), whatever the vector width; the second the XOR of the other lines' words.
#include "table.h"
#include "vec.h"

using namespace pk;

static constexpr int FOLD = 1024, MAX_THREADS = 1024, LINE_BYTES = 64;

template <class T> struct Word;
template <> struct Word<float> { using U = uint32_t; static constexpr float start = 0x1.8p23f; };
template <> struct Word<double> { using U = uint64_t; static constexpr double start = 0x1.8p52; };

template <class T, int VB>
struct Sums {
  vec<typename Word<T>::U, VB> sum, xored;
};

template <class T, int VB>
PK_INLINE vec<T, VB> start() { return broadcast<vec<T, VB>>(Word<T>::start); }

template <class T, int VB>
PK_INLINE void fold(vec<typename Word<T>::U, VB>& sum, vec<T, VB>& y) {
  using U = vec<typename Word<T>::U, VB>;
  sum += (U)y - (U)start<T, VB>();
  y = start<T, VB>();
}

// The passes of a thread over one unit: `n` elements of one of `parts` parts each, in turn from part `first` on.
template <class T>
struct Passes {
  const T* base;
  int64_t n, part, parts, first, count, k, ahead;
  T q;
  PK_INLINE const T* start_of(int64_t pass) const { return base + (first + pass) % parts * part; }
};

#define EACH4(X) X(0) X(1) X(2) X(3)
#define EACH8(X) EACH4(X) X(4) X(5) X(6) X(7)
#if PK_REGISTERS == 32
#define EACH EACH8
#define VECTORS 8
#else
#define EACH EACH4
#define VECTORS 4
#endif

// One pointer for all prefetches of a turn: left alone, the compiler keeps one for each, on the stack.
PK_INLINE const char* ahead_of(const void* p, int64_t bytes) {
  const char* far = static_cast<const char*>(p) + bytes;
  asm("" : "+r"(far));
  return far;
}

// Walks all passes in turns of STEP elements, and folds after every `between` turns, counted on from pass to pass.
template <class T, int STEP, class Turn, class Fold>
PK_INLINE void walk(const Passes<T>& w, int64_t between, Turn turn, Fold fold_all) {
  int64_t left = between;
  for (int64_t pass = 0; pass < w.count; ++pass) {
    forget_memory();
    const T* p = w.start_of(pass);
    for (const T* end = p + w.n / STEP * STEP; p != end;) {
      const int64_t turns = (end - p) / STEP < left ? (end - p) / STEP : left;
      for (const T* stop = p + turns * STEP; p != stop; p += STEP) turn(p);
      if ((left -= turns) == 0) fold_all(), left = between;
    }
  }
  fold_all();
}

// k products for each vector: four at a time, then REST. Two sums a vector, VECTORS vectors at once. q passes through an
// empty asm, or the compiler would multiply once and add k times.
#define OPEN(i) V a##i = start<T, VB>(), b##i = start<T, VB>();
#define TAKE(i) \
  V x##i = loadu<V>(p + i * L); \
  consume(x##i); \
  if (PREFETCH && i * VB % LINE_BYTES == 0) prefetch(far + i * VB);
#define MORE_A(i) a##i = fma(x##i, q, a##i);
#define MORE_B(i) b##i = fma(x##i, q, b##i);
#define CLOSE(i) fold<T, VB>(s.sum, a##i); fold<T, VB>(s.sum, b##i);
template <class T, int VB, int REST, bool PREFETCH>
PK_INLINE void many(const Passes<T>& w, Sums<T, VB>& s) {
  using V = vec<T, VB>;
  constexpr int L = lanes<T, VB>;
  V q = broadcast<V>(w.q);
  const int64_t fours = w.k / 4;
  EACH(OPEN)
  walk<T, VECTORS * L>(w, w.k < FOLD ? FOLD / w.k : 1, [&](const T* p) __attribute__((always_inline)) {
    const char* far = ahead_of(p, w.ahead);
    EACH(TAKE)
    for (int64_t four = 0; four < fours; ++four) {
      consume(q);
      EACH(MORE_A)
      consume(q);
      EACH(MORE_B)
      consume(q);
      EACH(MORE_A)
      consume(q);
      EACH(MORE_B)
    }
    consume(q);
    if (REST > 0) { EACH(MORE_A) }
    consume(q);
    if (REST > 1) { EACH(MORE_B) }
    consume(q);
    if (REST > 2) { EACH(MORE_A) }
  }, [&]() __attribute__((always_inline)) { EACH(CLOSE) });
}

// Sixteen lines a turn: the first of every SKIP multiplied, the others XORed.
template <class T, int VB, int SKIP, bool PREFETCH>
PK_INLINE void few(const Passes<T>& w, Sums<T, VB>& s) {
  using V = vec<T, VB>;
  using U = vec<typename Word<T>::U, VB>;
  constexpr int L = lanes<T, VB>, PER_LINE = LINE_BYTES / VB, STEP = 16 * PER_LINE;
  V y0 = start<T, VB>(), y1 = y0, y2 = y0, y3 = y0;
  U x0{}, x1{}, x2{}, x3{};
  const V q = broadcast<V>(w.q);
  walk<T, STEP * L>(w, FOLD / (STEP / SKIP), [&](const T* p) __attribute__((always_inline)) {
    const char* far = ahead_of(p, w.ahead);
#pragma GCC unroll 64
    for (int i = 0; i < STEP; ++i) {
      if (PREFETCH && i % PER_LINE == 0) prefetch(far + i * VB);
      const V x = loadu<V>(p + i * L);
      const int turn = i / PER_LINE / SKIP * PER_LINE + i % PER_LINE;
      if (i / PER_LINE % SKIP == 0) {
        if (turn % 4 == 0) y0 = fma(x, q, y0), consume(y0);
        else if (turn % 4 == 1) y1 = fma(x, q, y1), consume(y1);
        else if (turn % 4 == 2) y2 = fma(x, q, y2), consume(y2);
        else y3 = fma(x, q, y3), consume(y3);
      } else if (i % 4 == 0) x0 ^= (U)x, consume(x0);
      else if (i % 4 == 1) x1 ^= (U)x, consume(x1);
      else if (i % 4 == 2) x2 ^= (U)x, consume(x2);
      else x3 ^= (U)x, consume(x3);
    }
  }, [&]() __attribute__((always_inline)) {
    fold<T, VB>(s.sum, y0), fold<T, VB>(s.sum, y1), fold<T, VB>(s.sum, y2), fold<T, VB>(s.sum, y3);
  });
  s.xored ^= (x0 ^ x1) ^ (x2 ^ x3);
}

// Elements that no whole turn covers, one by one.
template <class T>
PK_INLINE void rest(const T* p, int64_t from, int64_t n, int64_t k, int64_t skip, int64_t q, uint64_t* sum, uint64_t* xored) {
  for (int64_t i = from; i < n; ++i) {
    typename Word<T>::U bits;
    __builtin_memcpy(&bits, p + i, sizeof(T));
    if (i * int64_t(sizeof(T)) / LINE_BYTES % skip == 0) *sum += uint64_t(q * (k ? k : 1) * int64_t(p[i]));
    else *xored ^= bits;
  }
}

template <class T, int VB, class Body>
PK_INLINE void all_passes(const pk_call* c, const pk_team* t, Body body) {
  const int64_t n = c->dim[0], parts = c->dim[1], k = c->dim[2], skip = c->dim[3], part = n / parts;
  const int64_t turn = k ? VECTORS * lanes<T, VB> : 16 * LINE_BYTES / int64_t(sizeof(T)), whole = part / turn * turn;
  int64_t lo, hi;
  pk_share(c->dim[4], 1, t->tid, t->threads, &lo, &hi);
  Sums<T, VB> s{};
  uint64_t sum = 0, xored = 0;
  for (int64_t unit = lo; unit < hi; ++unit) {
    const T* x = static_cast<const T*>(c->ptr[0]) + unit * n;
    const Passes<T> passes = {x, whole, part, parts, c->first % parts, c->reps, k, c->tune, T(c->scalar[0])};
    body(&passes, &s);
    for (int64_t r = 0; whole < part && r < c->reps; ++r)
      rest(passes.start_of(r), whole, part, k, skip, int64_t(c->scalar[0]), &sum, &xored);
  }
  typename Word<T>::U lane[lanes<T, VB>], word[lanes<T, VB>];
  __builtin_memcpy(lane, &s.sum, sizeof(lane)), __builtin_memcpy(word, &s.xored, sizeof(word));
  for (int i = 0; i < lanes<T, VB>; ++i) sum += lane[i], xored ^= word[i];
  uint64_t* sums = static_cast<uint64_t*>(c->ptr[1]);  // the thread that ends last joins what each has left
  if (t->threads > MAX_THREADS) return;
  sums[8 + 8 * t->tid] = sum, sums[9 + 8 * t->tid] = xored;
  if (t->take(t, 1) != t->threads - 1) return;
  sum = xored = 0;
  for (int i = 0; i < t->threads; ++i) sum += sums[8 + 8 * i], xored ^= sums[9 + 8 * i];
  sums[0] = sizeof(T) == 4 ? uint32_t(sum) : sum, sums[1] = xored;
}

// One function for each remainder of k by 4 and for each skip, and one that chooses.
// The sums stay in memory: a register less for the loops that have few.
#define BODY(dtype, T, VB, variant, name, call) \
  PK_HOT void pk_mixed_##dtype##_##variant##_##name(const Passes<T>* w, Sums<T, VB>* s) { call(*w, *s); }
#define COMMA ,
#define KERNEL(dtype, T, VB, variant, PREFETCH)                                                             \
  BODY(dtype, T, VB, variant, k0, many<T COMMA VB COMMA 0 COMMA PREFETCH>)                                           \
  BODY(dtype, T, VB, variant, k1, many<T COMMA VB COMMA 1 COMMA PREFETCH>)                                           \
  BODY(dtype, T, VB, variant, k2, many<T COMMA VB COMMA 2 COMMA PREFETCH>)                                           \
  BODY(dtype, T, VB, variant, k3, many<T COMMA VB COMMA 3 COMMA PREFETCH>)                                           \
  BODY(dtype, T, VB, variant, skip2, few<T COMMA VB COMMA 2 COMMA PREFETCH>)                                         \
  BODY(dtype, T, VB, variant, skip4, few<T COMMA VB COMMA 4 COMMA PREFETCH>)                                         \
  BODY(dtype, T, VB, variant, skip8, few<T COMMA VB COMMA 8 COMMA PREFETCH>)                                         \
  BODY(dtype, T, VB, variant, skip16, few<T COMMA VB COMMA 16 COMMA PREFETCH>)                                       \
  PK_HOT void pk_mixed_##dtype##_##variant(const pk_call* c, const pk_team* t) {                        \
    const int64_t k = c->dim[2], skip = c->dim[3];                                                      \
    all_passes<T, VB>(c, t, k == 0 ? skip == 2   ? pk_mixed_##dtype##_##variant##_skip2                     \
                                 : skip == 4 ? pk_mixed_##dtype##_##variant##_skip4                     \
                                 : skip == 8 ? pk_mixed_##dtype##_##variant##_skip8                     \
                                             : pk_mixed_##dtype##_##variant##_skip16                    \
                        : k % 4 == 0 ? pk_mixed_##dtype##_##variant##_k0                                \
                        : k % 4 == 1 ? pk_mixed_##dtype##_##variant##_k1                                \
                        : k % 4 == 2 ? pk_mixed_##dtype##_##variant##_k2                                \
                                     : pk_mixed_##dtype##_##variant##_k3);                              \
  }

static const int64_t prefetch_bytes[] = {512, 2048};
#define ENTRY(dtype, variant, tunes, count) \
  {"mixed", "", #dtype, #variant, pk_mixed_##dtype##_##variant, nullptr, tunes, count, "pk_mixed_" #dtype "_" #variant "_k0"},
#define KERNELS(dtype, T)                                  \
  KERNEL(dtype, T, PK_VECTOR_BYTES, plain, false)          \
  KERNEL(dtype, T, PK_VECTOR_BYTES, prefetch, true)
KERNELS(fp64, double)
KERNELS(fp32, float)
#if PK_VECTOR_BYTES == 64
KERNEL(fp64, double, 32, narrow, false)
KERNEL(fp32, float, 32, narrow, false)
#define NARROW(dtype) ENTRY(dtype, narrow, nullptr, 0)
#else
#define NARROW(dtype)
#endif

static const pk_entry mixed_entries[] = {
  ENTRY(fp64, plain, nullptr, 0) NARROW(fp64) ENTRY(fp64, prefetch, prefetch_bytes, 2)
  ENTRY(fp32, plain, nullptr, 0) NARROW(fp32) ENTRY(fp32, prefetch, prefetch_bytes, 2)
};
PK_TABLE(mixed_entries);
