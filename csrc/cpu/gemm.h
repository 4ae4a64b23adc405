// Matrix products C = alpha A B + beta C for one thread of a team: element types, packing, microkernels, epilogues.
// gemm.cpp holds the driver; attention.cpp and layer.cpp use the same microkernels.
//
// A *group* is what one lane of an accumulator multiplies at once: one fp64 or fp32, two bf16, four int8 (two where the
// level has no byte dot product). A panel of width W holds group g of row r at [g * W + r], zeros where there is none.
#pragma once
#include <cstring>

#include "table.h"
#include "vec.h"

namespace pk {

// ----------------------------------------------------------------------------------------------------------- types

template <class X>
PK_INLINE X peek(const void* p) {
  X x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}

// A, B, C: elements as stored; G: a group; T: what is accumulated. gather: vector of groups whose rows are neighbours and
// whose steps along k are ks apart; along: vector of groups that follow one another along k; group: one, n of its elements.
template <class X>
struct Plain {
  using A = X;
  using B = X;
  using C = X;
  using G = X;
  using T = X;
  static constexpr int per = 1;
  static constexpr bool raw = true;
  static PK_INLINE vec<T> madd(vec<T> acc, vec<G> a, vec<G> b) { return fma(a, b, acc); }
  static PK_INLINE vec<G> gather(const X* p, int64_t) { return loadu<vec<G>>(p); }
  static PK_INLINE vec<G> along(const X* p) { return loadu<vec<G>>(p); }
  static PK_INLINE G group(const X* p, int64_t, int n) { return n ? *p : X(0); }
  static PK_INLINE vec<T> load_c(const C* p) { return loadu<vec<T>>(p); }
  static PK_INLINE void store_c(C* p, vec<T> v) { storeu(p, v); }
  static PK_INLINE T get_c(const C* p) { return *p; }
  static PK_INLINE void put_c(C* p, T x) { *p = x; }
};
using Fp64 = Plain<double>;
using Fp32 = Plain<float>;

PK_INLINE float bf16_value(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  return peek<float>(&wide);
}
PK_INLINE uint16_t bf16_bits(float x) {
  const uint32_t u = peek<uint32_t>(&x);
  return uint16_t(x == x ? (u + 0x7FFF + (u >> 16 & 1)) >> 16 : (u >> 16 | 0x40));
}

struct Bf16C {  // C in bf16, accumulated in fp32
  using A = uint16_t;
  using B = uint16_t;
  using C = uint16_t;
  using T = float;
  static PK_INLINE vec<T> load_c(const C* p) { return load_bf16(p); }
  static PK_INLINE void store_c(C* p, vec<T> v) { store_bf16(p, v); }
  static PK_INLINE T get_c(const C* p) { return bf16_value(*p); }
  static PK_INLINE void put_c(C* p, T x) { *p = bf16_bits(x); }
};
#if PK_HAS_BF16_DOT
struct Bf16 : Bf16C {
  using G = int32_t;
  static constexpr int per = 2;
  static constexpr bool raw = true;
  static PK_INLINE vec<T> madd(vec<T> acc, vec<G> a, vec<G> b) { return dot_bf16(acc, a, b); }
  static PK_INLINE vec<G> gather(const uint16_t* p, int64_t ks) { return (vec<G>)(load_u16(p) | load_u16(p + ks) << 16); }
  static PK_INLINE vec<G> along(const uint16_t* p) {
    vec<G> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static PK_INLINE G group(const uint16_t* p, int64_t ks, int n) {
    return n == 0 ? 0 : G(uint32_t(p[0]) | (n > 1 ? uint32_t(p[ks]) << 16 : 0));
  }
};
#else  // widened while it is packed
struct Bf16 : Bf16C {
  using G = float;
  static constexpr int per = 1;
  static constexpr bool raw = false;
  static PK_INLINE vec<T> madd(vec<T> acc, vec<G> a, vec<G> b) { return fma(a, b, acc); }
  static PK_INLINE vec<G> gather(const uint16_t* p, int64_t) { return load_bf16(p); }
  static PK_INLINE vec<G> along(const uint16_t* p) { return load_bf16(p); }
  static PK_INLINE G group(const uint16_t* p, int64_t, int n) { return n ? bf16_value(*p) : 0.0f; }
};
#endif

// A unsigned, B signed, exact sums in int32, C in fp32.
struct Int8 {
  using A = uint8_t;
  using B = int8_t;
  using C = float;
  using G = int32_t;
  using T = int32_t;
#if PK_HAS_INT8_DOT == 2
  static constexpr int per = 4;
  static constexpr bool raw = true;
  static PK_INLINE vec<T> madd(vec<T> acc, vec<G> a, vec<G> b) { return dot_u8s8(acc, a, b); }
  template <class E>
  static PK_INLINE vec<G> gather(const E* p, int64_t ks) {
    auto at = [&](int i) __attribute__((always_inline)) { return load_uint8(reinterpret_cast<const uint8_t*>(p + i * ks)); };
    return at(0) | at(1) << 8 | at(2) << 16 | at(3) << 24;
  }
  template <class E>
  static PK_INLINE vec<G> along(const E* p) {
    vec<G> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
#else  // through 16 bits: the byte product of these levels saturates
  static constexpr int per = 2;
  static constexpr bool raw = false;
  static PK_INLINE vec<T> madd(vec<T> acc, vec<G> a, vec<G> b) { return dot_s16(acc, a, b); }
  static PK_INLINE i32v wide(const uint8_t* p) { return load_uint8(p); }
  static PK_INLINE i32v wide(const int8_t* p) { return load_int8(p); }
  template <class E>
  static PK_INLINE vec<G> gather(const E* p, int64_t ks) { return (wide(p) & 0xFFFF) | wide(p + ks) << 16; }
  template <class E>
  static PK_INLINE vec<G> along(const E* p) {
    using H = vec<E, PK_VECTOR_BYTES / 2>;
    H h;
    __builtin_memcpy(&h, p, sizeof h);
    return (vec<G>)__builtin_convertvector(h, vec<int16_t>);
  }
#endif
  template <class E>
  static PK_INLINE G group(const E* p, int64_t ks, int n) {
    constexpr int bits = 32 / per;
    uint32_t word = 0;
    for (int i = 0; i < n; ++i) word |= (uint32_t(int32_t(p[i * ks])) & (bits == 8 ? 0xFFu : 0xFFFFu)) << (bits * i);
    return G(word);
  }
  static PK_INLINE vec<float> load_c(const C* p) { return loadu<vec<float>>(p); }
  static PK_INLINE void store_c(C* p, vec<float> v) { storeu(p, v); }
  static PK_INLINE float get_c(const C* p) { return *p; }
  static PK_INLINE void put_c(C* p, float x) { *p = x; }
};

// Rows of C that a microkernel holds in registers, two vectors each; the widest, and those for the rest of a block.
#if PK_REGISTERS == 32
inline constexpr int GEMM_ROWS = 12;
#define PK_GEMM_EACH_ROWS(X) X(12) X(8) X(4) X(1)
#else
inline constexpr int GEMM_ROWS = 6;
#define PK_GEMM_EACH_ROWS(X) X(6) X(4) X(1)
#endif
// The smallest microkernel that holds `rows` (1 to GEMM_ROWS).
PK_INLINE int gemm_rows(int64_t rows) {
  int best = GEMM_ROWS;
#define SMALLER(R) best = rows <= R ? R : best;
  PK_GEMM_EACH_ROWS(SMALLER)
#undef SMALLER
  return best;
}
// The largest microkernel that `rows` (at least 1) fill.
PK_INLINE int gemm_rows_within(int64_t rows) {
  int best = 1;
#define LARGER(R) best = rows >= R && R > best ? R : best;
  PK_GEMM_EACH_ROWS(LARGER)
#undef LARGER
  return best;
}
template <class K>
inline constexpr int panel_columns = 2 * lanes<typename K::T>;

// ----------------------------------------------------------------------------------------------------- microkernels

// c (rows x 2 vectors, row stride ldc) = or += a b over `groups`. a: a panel of width GEMM_ROWS, or (direct) rows `sa` bytes
// apart whose groups follow one another; b: rows of two vectors, `sb` groups apart.
using Micro = void (*)(int64_t groups, const void* a, int64_t sa, const void* b, int64_t sb, void* c, int64_t ldc, int64_t add);

// Accumulators are an array that only constants index: it stays in registers (a loop over it would not, in gcc 12).
template <class K, int R, bool Direct>
PK_INLINE void micro(int64_t groups, const void* va, int64_t sa, const void* vb, int64_t sb, void* vc, int64_t ldc, int64_t add) {
  using G = typename K::G;
  using T = typename K::T;
  using P = vec<G>;
  constexpr int L = lanes<T>;
  T* c = static_cast<T*>(vc);
  const char *a0 = static_cast<const char*>(va), *a1 = a0 + 3 * sa, *a2 = a0 + 6 * sa, *a3 = a0 + 9 * sa;
  const G* b = static_cast<const G*>(vb);
  each<R>([&](auto r) __attribute__((always_inline)) { prefetch_write(c + r * ldc), prefetch_write(c + r * ldc + 2 * L - 1); });
  vec<T> s[2 * R];
  each<2 * R>([&](auto i) __attribute__((always_inline)) { s[i] = vec<T>{}; });
  for (int64_t g = 0; g < groups; ++g) {
    const P b0 = loadu<P>(b), b1 = loadu<P>(b + L);
    each<R>([&](auto r) __attribute__((always_inline)) {
      const char* base = r < 3 ? a0 : r < 6 ? a1 : r < 9 ? a2 : a3;
      const char* at = Direct ? base + (r % 3) * sa : a0 + r * sizeof(G);
      const P x = peek<G>(at) - P{};
      s[2 * r] = K::madd(s[2 * r], x, b0), s[2 * r + 1] = K::madd(s[2 * r + 1], x, b1);
    });
    b += sb;
    if constexpr (Direct) a0 += sizeof(G), a1 += sizeof(G), a2 += sizeof(G), a3 += sizeof(G);
    else a0 += GEMM_ROWS * sizeof(G);
  }
  if (add)
    each<2 * R>([&](auto i) __attribute__((always_inline)) {
      T* p = c + (i / 2) * ldc + (i % 2) * L;
      storeu(p, loadu<vec<T>>(p) + s[i]);
    });
  else
    each<2 * R>([&](auto i) __attribute__((always_inline)) { storeu(c + (i / 2) * ldc + (i % 2) * L, s[i]); });
}

// The microkernel of a type and row count, defined in gemm.cpp.
template <class K>
Micro microkernel(int rows, bool direct);

// ---------------------------------------------------------------------------------------------------------- packing

// Swaps rows and lanes of N = lanes vectors, a bit of their numbers at a time.
template <class V, int S, int... I>
PK_INLINE void swap_bit(V* row, std::integer_sequence<int, I...>) {
  constexpr int N = sizeof...(I);
  each<N>([&](auto i) __attribute__((always_inline)) {
    if constexpr (!(i & S)) {
      const V a = row[i], b = row[i + S];
      row[i] = V(__builtin_shufflevector(a, b, (I & S ? N + I - S : I)...));
      row[i + S] = V(__builtin_shufflevector(a, b, (I & S ? N + I : I + S)...));
    }
  });
}
template <class V, int N>
PK_INLINE void transpose(V* row) {
  constexpr auto all = std::make_integer_sequence<int, N>{};
  swap_bit<V, 1>(row, all);
  if constexpr (N > 2) swap_bit<V, 2>(row, all);
  if constexpr (N > 4) swap_bit<V, 4>(row, all);
  if constexpr (N > 8) swap_bit<V, 8>(row, all);
}

// Bytes ahead along a row that is read once: a dozen short streams are not prefetched well by themselves.
inline constexpr int64_t AHEAD = 1024;
// By way of an integer: the address may lie beyond the array.
PK_INLINE void prefetch_past(const void* p, int64_t bytes) {
  prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) + uintptr_t(bytes)));
}

// Packs `width` (at most W) rows and k steps into a panel of width W; rows are rs, steps ks elements apart.
template <class K, int W, class E>
inline void pack_panel(const E* src, int64_t rs, int64_t ks, int64_t width, int64_t k, typename K::G* dst) {
  using G = typename K::G;
  using P = vec<G>;
  constexpr int L = lanes<G>, per = K::per;
  const int64_t groups = (k + per - 1) / per;
  int64_t g = 0;
  if (ks == 1) {
    for (; (g + L) * per <= k; g += L)
      each<(W + L - 1) / L>([&](auto part) __attribute__((always_inline)) {
        constexpr int r0 = part * L, count = W - r0 < L ? W - r0 : L;
        P row[L];
        each<L>([&](auto r) __attribute__((always_inline)) {
          if (r < count && r0 + r < width) {
            const E* p = src + (r0 + r) * rs + g * per;
            prefetch_past(p, AHEAD);
            row[r] = K::along(p);
          } else {
            row[r] = P{};
          }
        });
        transpose<P, L>(row);
        each<L>([&](auto i) __attribute__((always_inline)) {
          if constexpr (count == L) storeu(dst + (g + i) * W + r0, row[i]);
          else store_first(dst + (g + i) * W + r0, row[i], count);
        });
      });
  } else if (rs == 1 && width == W) {
    for (; (g + 1) * per <= k; ++g) {
      const E* p = src + g * per * ks;
      each<W / L>([&](auto part) __attribute__((always_inline)) { storeu(dst + g * W + part * L, K::gather(p + part * L, ks)); });
      for (int r = W / L * L; r < W; ++r) dst[g * W + r] = K::group(p + r, ks, per);
    }
  }
  for (; g < groups; ++g) {
    const int n = int(k - g * per < per ? k - g * per : per);
    for (int r = 0; r < W; ++r) dst[g * W + r] = r < width ? K::group(src + r * rs + g * per * ks, ks, n) : G(0);
  }
}

// --------------------------------------------------------------------------------------------------------- products

// One product as a kernel file states it. Strides in elements; bias (of C's type, one a column) may be null; `row`, `column`
// scale int8 results, whose A has the zero point `zero`.
struct Product {
  int64_t m, n, k;
  const void* a;
  const void* b;
  void* c;
  int64_t lda, ldb, ldc;
  bool ta, tb;  // stored as k x m, n x k
  double alpha, beta;
  const float *row, *column;
  int64_t zero;
  const void* bias;
};

// Runs a product on the whole team (every thread calls it); scratch as gemm_scratch says. Defined in gemm.cpp.
template <class K>
void gemm(const Product& p, const pk_team* team, char* scratch, char* const* peers);
template <class K>
int64_t gemm_scratch(int64_t m, int64_t n, int64_t k, bool ta, bool tb, int threads);

// Product number `batch` of a call of the kernel `gemm` (its operands and dims: gemm.cpp).
template <class K>
PK_INLINE Product product_of(const pk_call* c, int64_t batch) {
  const int64_t* d = c->dim;
  const bool int8 = std::is_same_v<K, Int8>;
  Product p{};
  p.m = d[1], p.n = d[2], p.k = d[3], p.lda = d[4], p.ldb = d[5], p.ldc = d[6], p.ta = d[7], p.tb = d[8], p.zero = d[9];
  p.a = static_cast<const typename K::A*>(c->ptr[0]) + batch * (p.ta ? p.k : p.m) * p.lda;
  p.b = static_cast<const typename K::B*>(c->ptr[1]) + batch * (p.tb ? p.n : p.k) * p.ldb;
  if (int8) p.row = static_cast<const float*>(c->ptr[2]), p.column = static_cast<const float*>(c->ptr[3]);
  p.c = static_cast<typename K::C*>(c->ptr[int8 ? 4 : 2]) + batch * p.m * p.ldc;
  p.alpha = c->scalar[0], p.beta = c->scalar[1];
  return p;
}

// Writes sums (rows x columns, row stride ld) to C at (i0, j0): scales, zero point (column sums of B), alpha, beta. Defined in
// gemm.cpp.
template <class K>
void finish(const Product& p, const typename K::T* sums, int64_t ld, int64_t rows, int64_t columns, int64_t i0, int64_t j0,
            const int32_t* column_sums);

// Every thread's scratch, in a table at the head of the first thread's. The team's counter, 0 before and after, hands its
// address around. Tables take TABLE_BYTES.
inline constexpr int64_t TABLE_BYTES = 16384;
PK_INLINE char* const* exchange_scratch(const pk_team* t) {
  if (t->tid == 0) t->take(t, reinterpret_cast<int64_t>(t->scratch));
  t->barrier(t);
  char** table = reinterpret_cast<char**>(t->take(t, 0));
  table[t->tid] = static_cast<char*>(t->scratch);
  t->barrier(t);
  if (t->tid == 0) t->take(t, -reinterpret_cast<int64_t>(t->scratch));
  return table;
}

}  // namespace pk
