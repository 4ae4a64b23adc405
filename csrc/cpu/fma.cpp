// Arithmetic ceilings: fused multiply-adds in fp64 and fp32, dot products of bf16 pairs and int8 quadruples.
//
// Two shapes of the same amount of work (kernels/fma.py states the sums):
//   chainJ  J accumulators in registers: y = y m + c (dot products: y += a . b), 1024 times, for each of CHAIN_BYTES of y
//   tileRxV the inner kernel of a matrix product: C += A B with R rows and V vectors of C in registers, A broadcast and B
//           loaded from a panel in the L1
// Operands  in: x (CHAIN_BYTES of start values), a (DEPTH x ROWS groups), b (DEPTH x 128 bytes); out: chain (units x
//           CHAIN_BYTES), tile (units x ROWS x 128 bytes). A group is what one lane of an accumulator multiplies: one fp64
//           or fp32, two bf16, four int8. A variant writes one of the outputs.
// dims      units;  scalars  m, c (chains)
//
// Accumulators are named variables: gcc 12 keeps an array of them on the stack, without a word, and draws a false roof.
#include "table.h"
#include "vec.h"

using namespace pk;

static constexpr int CHAIN_VECTORS = 240;  // of 64 bytes: a multiple of 8, 10, 12 and 16
static constexpr int CHAIN_STEPS = 1024;
static constexpr int DEPTH = 80, ROWS = 48, TURNS = 32;  // 2 x 48 vectors of C x 80 x 32 = 240 x 1024: equal work
static constexpr int64_t CHAIN_BYTES = 64 * CHAIN_VECTORS, TILE_BYTES = ROWS * 128;

// ---------------------------------------------------------------------------------------------------- arithmetic

// T: what is accumulated; G: a group of a panel. madd: acc += a b. chain: the step of a register chain.
struct Fp64 {
  using T = double;
  using G = double;
  static PK_INLINE vec<T> madd(vec<T> acc, vec<G> a, vec<G> b) { return fma(a, b, acc); }
  static PK_INLINE vec<T> chain(vec<T> y, vec<G> m, vec<G> c) { return fma(y, m, c); }
};
struct Fp32 {
  using T = float;
  using G = float;
  static PK_INLINE vec<T> madd(vec<T> acc, vec<G> a, vec<G> b) { return fma(a, b, acc); }
  static PK_INLINE vec<T> chain(vec<T> y, vec<G> m, vec<G> c) { return fma(y, m, c); }
};
#if PK_HAS_BF16_DOT
struct Bf16 {
  using T = float;
  using G = int32_t;
  static PK_INLINE vec<T> madd(vec<T> acc, vec<G> a, vec<G> b) { return dot_bf16(acc, a, b); }
  static PK_INLINE vec<T> chain(vec<T> y, vec<G> a, vec<G> b) { return dot_bf16(y, a, b); }
};
#endif
#if PK_HAS_INT8_DOT
struct Int8 {
  using T = int32_t;
  using G = int32_t;
  static PK_INLINE vec<T> madd(vec<T> acc, vec<G> a, vec<G> b) { return dot_u8s8(acc, a, b); }
  static PK_INLINE vec<T> chain(vec<T> y, vec<G> a, vec<G> b) { return dot_u8s8(y, a, b); }
};
#endif

// -------------------------------------------------------------------------------------------------------- chains

// What a chain multiplies by: the scalars, or for dot products the first group of a and that of b.
template <class K>
struct Factors {
  using G = typename K::G;
  vec<G> m, c;
  PK_INLINE explicit Factors(const pk_call* call) {
    if constexpr (std::is_floating_point_v<G>) {
      m = broadcast<vec<G>>(G(call->scalar[0])), c = broadcast<vec<G>>(G(call->scalar[1]));
    } else {
      m = broadcast_group<vec<G>>(static_cast<const G*>(call->ptr[1]));
      c = broadcast_group<vec<G>>(static_cast<const G*>(call->ptr[2]));
    }
  }
};

#define EACH8(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define EACH10(X) EACH8(X) X(8) X(9)
#define EACH12(X) EACH10(X) X(10) X(11)
#define EACH16(X) EACH12(X) X(12) X(13) X(14) X(15)

#define BEGIN(j) V y##j = load<V>(x + (i + j) * L);
#define STEP(j) y##j = K::chain(y##j, f.m, f.c);
#define END(j) store(out + (i + j) * L, y##j);
// The factors pass through an empty asm: a product of constants must not be taken out of the loop.
#define CHAIN(J)                                                                      \
  template <class K>                                                                  \
  PK_INLINE void chain##J(const typename K::T* x, typename K::T* out, Factors<K> f) { \
    using V = vec<typename K::T>;                                                     \
    constexpr int L = lanes<typename K::T>;                                           \
    for (int64_t i = 0; i < CHAIN_BYTES / PK_VECTOR_BYTES; i += J) {                  \
      EACH##J(BEGIN)                                                                  \
      for (int k = 0; k < CHAIN_STEPS; k += 2) {                                      \
        consume(f.m), consume(f.c);                                                         \
        EACH##J(STEP)                                                                 \
        EACH##J(STEP)                                                                 \
      }                                                                               \
      EACH##J(END)                                                                    \
    }                                                                                 \
  }
CHAIN(8)
CHAIN(10)
CHAIN(12)
#if PK_REGISTERS == 32
CHAIN(16)
#endif

// --------------------------------------------------------------------------------------------------------- tiles

// R rows by two vectors of C. `a` holds DEPTH x ROWS groups, `b` DEPTH x 128 bytes.
#define ROWS4(X) X(0) X(1) X(2) X(3)
#define ROWS6(X) ROWS4(X) X(4) X(5)
#define ROWS12(X) ROWS6(X) X(6) X(7) X(8) X(9) X(10) X(11)
#define ZERO(r) V c##r##_0{}, c##r##_1{};
#define ROW(r)                                                                      \
  {                                                                                 \
    const P ar = broadcast_group<P>(pa + r);                                        \
    c##r##_0 = K::madd(c##r##_0, ar, b0), c##r##_1 = K::madd(c##r##_1, ar, b1);     \
  }
#define PUT(r)                                                                      \
  store(out + r * W, c##r##_0), store(out + r * W + L, c##r##_1);
#define TILE(R)                                                                                                   \
  template <class K>                                                                                              \
  PK_INLINE void tile##R(const typename K::G* a, const typename K::G* b, typename K::T* out) {                    \
    using V = vec<typename K::T>;                                                                                 \
    using P = vec<typename K::G>;                                                                                 \
    constexpr int L = lanes<typename K::T>, W = 128 / sizeof(typename K::T);                                      \
    ROWS##R(ZERO)                                                                                                 \
    for (int turn = 0; turn < TURNS; ++turn) {                                                                    \
      const auto *pa = a, *pb = b;                                                                                \
      for (int k = 0; k < DEPTH; ++k, pa += ROWS, pb += W) {                                                      \
        const P b0 = load<P>(pb), b1 = load<P>(pb + L);                                                           \
        ROWS##R(ROW)                                                                                              \
      }                                                                                                           \
      forget_memory();                                                                                            \
    }                                                                                                             \
    ROWS##R(PUT)                                                                                                  \
  }
#if PK_REGISTERS == 32
TILE(12)
#endif
TILE(6)
TILE(4)

// -------------------------------------------------------------------------------------------------------- passes

template <class K, class Body>
PK_INLINE void chain_passes(const pk_call* c, const pk_team* t, Body body) {
  using T = typename K::T;
  int64_t lo, hi;
  pk_share(c->dim[0], 1, t->tid, t->threads, &lo, &hi);
  for (int64_t r = 0; r < c->reps; ++r)
    for (int64_t unit = lo; unit < hi; ++unit) {
      forget_memory();
      body(static_cast<const T*>(c->ptr[0]), static_cast<T*>(c->ptr[3]) + unit * (CHAIN_BYTES / int64_t(sizeof(T))),
           Factors<K>(c));
    }
}

template <class K, int R, class Body>
PK_INLINE void tile_passes(const pk_call* c, const pk_team* t, Body body) {
  using T = typename K::T;
  using G = typename K::G;
  constexpr int W = 128 / sizeof(T), WIDE = 2 * lanes<T>;
  int64_t lo, hi;
  pk_share(c->dim[0], 1, t->tid, t->threads, &lo, &hi);
  for (int64_t r = 0; r < c->reps; ++r)
    for (int64_t unit = lo; unit < hi; ++unit)
      for (int row = 0; row < ROWS; row += R)
        for (int column = 0; column < W; column += WIDE) {
          forget_memory();
          body(static_cast<const G*>(c->ptr[1]) + row, static_cast<const G*>(c->ptr[2]) + column,
               static_cast<T*>(c->ptr[4]) + unit * (TILE_BYTES / int64_t(sizeof(T))) + row * W + column);
        }
}

// ----------------------------------------------------------------------------------------------------------- AMX

#if PK_HAS_AMX
// Three tiles by two of C; A is turned into rows once a call, in scratch.
static int64_t amx_scratch(const pk_call*, int) { return ROWS * DEPTH * 4; }

#define AMX_STEP(C, DOT, row)                                       \
  _tile_loadd(6, rows + (row) * 16 * DEPTH + k * 16, DEPTH * 4);    \
  DOT(C, 6, 7)
#define AMX_KERNEL(dtype, T, DOT)                                                                                   \
  PK_HOT void pk_fma_##dtype##_amx(const pk_call* c, const pk_team* t) {                                            \
    const int32_t *a = static_cast<const int32_t*>(c->ptr[1]), *b = static_cast<const int32_t*>(c->ptr[2]);          \
    int32_t* rows = static_cast<int32_t*>(t->scratch);                                                              \
    for (int k = 0; k < DEPTH; ++k)                                                                                 \
      for (int i = 0; i < ROWS; ++i) rows[i * DEPTH + k] = a[k * ROWS + i];                                         \
    int64_t lo, hi;                                                                                                 \
    pk_share(c->dim[0], 1, t->tid, t->threads, &lo, &hi);                                                           \
    amx_open();                                                                                                     \
    for (int64_t r = 0; r < c->reps; ++r)                                                                           \
      for (int64_t unit = lo; unit < hi; ++unit) {                                                                  \
        char* out = static_cast<char*>(c->ptr[4]) + unit * TILE_BYTES;                                              \
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5);                   \
        for (int turn = 0; turn < TURNS; ++turn)                                                                    \
          for (int k = 0; k < DEPTH / 16; ++k) {                                                                    \
            _tile_loadd(7, b + k * 16 * 32, 128);                                                                   \
            AMX_STEP(0, DOT, 0);                                                                                    \
            AMX_STEP(1, DOT, 1);                                                                                    \
            AMX_STEP(2, DOT, 2);                                                                                    \
            _tile_loadd(7, b + k * 16 * 32 + 16, 128);                                                              \
            AMX_STEP(3, DOT, 0);                                                                                    \
            AMX_STEP(4, DOT, 1);                                                                                    \
            AMX_STEP(5, DOT, 2);                                                                                    \
          }                                                                                                         \
        _tile_stored(0, out, 128); _tile_stored(1, out + 2048, 128); _tile_stored(2, out + 4096, 128);              \
        _tile_stored(3, out + 64, 128); _tile_stored(4, out + 2112, 128); _tile_stored(5, out + 4160, 128);         \
      }                                                                                                             \
    amx_close();                                                                                                    \
  }
AMX_KERNEL(bf16, float, _tile_dpbf16ps)
AMX_KERNEL(int8, int32_t, _tile_dpbusd)
#define AMX_ENTRY(dtype) \
  {"fma", "", #dtype, "amx3x2", pk_fma_##dtype##_amx, amx_scratch, nullptr, 0, "pk_fma_" #dtype "_amx"},
#endif

// --------------------------------------------------------------------------------------------------------- table

#define CHAIN_KERNEL(K, dtype, J)                                                                                  \
  PK_HOT void pk_fma_##dtype##_chain##J(const pk_call* c, const pk_team* t) {                                      \
    chain_passes<K>(c, t, [](auto x, auto out, auto f) __attribute__((always_inline)) { chain##J<K>(x, out, f); }); \
  }
#define TILE_KERNEL(K, dtype, R)                                                                                   \
  PK_HOT void pk_fma_##dtype##_tile##R(const pk_call* c, const pk_team* t) {                                       \
    tile_passes<K, R>(c, t, [](auto a, auto b, auto out) __attribute__((always_inline)) { tile##R<K>(a, b, out); }); \
  }
#define CHAIN_ENTRY(dtype, J) \
  {"fma", "", #dtype, "chain" #J, pk_fma_##dtype##_chain##J, nullptr, nullptr, 0, "pk_fma_" #dtype "_chain" #J},
#define TILE_ENTRY(dtype, R) \
  {"fma", "", #dtype, "tile" #R "x2", pk_fma_##dtype##_tile##R, nullptr, nullptr, 0, "pk_fma_" #dtype "_tile" #R},

#if PK_REGISTERS == 32
#define CHAIN_KERNELS(K, dtype) \
  CHAIN_KERNEL(K, dtype, 8) CHAIN_KERNEL(K, dtype, 10) CHAIN_KERNEL(K, dtype, 12) CHAIN_KERNEL(K, dtype, 16)
#define CHAIN_ENTRIES(dtype) CHAIN_ENTRY(dtype, 8) CHAIN_ENTRY(dtype, 10) CHAIN_ENTRY(dtype, 12) CHAIN_ENTRY(dtype, 16)
#define TILE_KERNELS(K, dtype) TILE_KERNEL(K, dtype, 6) TILE_KERNEL(K, dtype, 12)
#define TILE_ENTRIES(dtype) TILE_ENTRY(dtype, 6) TILE_ENTRY(dtype, 12)
#else
#define CHAIN_KERNELS(K, dtype) CHAIN_KERNEL(K, dtype, 8) CHAIN_KERNEL(K, dtype, 10) CHAIN_KERNEL(K, dtype, 12)
#define CHAIN_ENTRIES(dtype) CHAIN_ENTRY(dtype, 8) CHAIN_ENTRY(dtype, 10) CHAIN_ENTRY(dtype, 12)
#define TILE_KERNELS(K, dtype) TILE_KERNEL(K, dtype, 6)
#define TILE_ENTRIES(dtype) TILE_ENTRY(dtype, 6)
#endif

CHAIN_KERNELS(Fp64, fp64)
CHAIN_KERNELS(Fp32, fp32)
TILE_KERNELS(Fp64, fp64)
TILE_KERNELS(Fp32, fp32)
#if PK_HAS_BF16_DOT
CHAIN_KERNELS(Bf16, bf16)
TILE_KERNELS(Bf16, bf16)
#endif
// No chains where a dot product takes three instructions: the compiler would do the two that all chains share once.
// They take two registers more, too: of 16 a tile of 6 rows would have to spill.
#if PK_HAS_INT8_DOT == 2
CHAIN_KERNELS(Int8, int8)
#endif
#if PK_HAS_INT8_DOT == 1 && PK_REGISTERS == 16
TILE_KERNEL(Int8, int8, 4)
#elif PK_HAS_INT8_DOT
TILE_KERNELS(Int8, int8)
#endif

static const pk_entry fma_entries[] = {
  CHAIN_ENTRIES(fp64) TILE_ENTRIES(fp64)
  CHAIN_ENTRIES(fp32) TILE_ENTRIES(fp32)
#if PK_HAS_BF16_DOT
  CHAIN_ENTRIES(bf16) TILE_ENTRIES(bf16)
#endif
#if PK_HAS_INT8_DOT == 2
  CHAIN_ENTRIES(int8)
#endif
#if PK_HAS_INT8_DOT == 1 && PK_REGISTERS == 16
  TILE_ENTRY(int8, 4)
#elif PK_HAS_INT8_DOT
  TILE_ENTRIES(int8)
#endif
#if PK_HAS_AMX
  AMX_ENTRY(bf16) AMX_ENTRY(int8)
#endif
};
PK_TABLE(fma_entries);
