// Matrix products on AMX tiles: bf16 and int8, untransposed or not, as gemm.cpp otherwise. Compiled and disassembled here; no
// machine at hand could run it, so nothing of it has been measured.
//
// A thread takes rows of C in blocks of 32 and columns by panels of 32: four tiles of C stay in the tile registers over the
// whole of k. A's block is packed row by row, B's panel as for the other kernels, both padded with zeros to whole tiles.
#include "gemm.h"

#if PK_HAS_AMX
#include <algorithm>

using namespace pk;

static constexpr int64_t SIDE = 32, STEP = 16;  // rows and columns of a block, groups of a tile's row

static int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

// c (32 x 32) = a b over `groups`, a multiple of 16: a by rows `lda` groups apart, b a panel of width 32.
#define AMX_MICRO(dtype, DOT)                                                                                            \
  PK_HOT void pk_gemm_##dtype##_amx2x2(int64_t groups, const int32_t* a, int64_t lda, const int32_t* b, int32_t* c) {     \
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);                                                          \
    for (int64_t g = 0; g < groups; g += STEP) {                                                                         \
      _tile_loadd(4, a + g, lda * 4);                                                                                    \
      _tile_loadd(5, a + STEP * lda + g, lda * 4);                                                                       \
      _tile_loadd(6, b + g * SIDE, SIDE * 4);                                                                            \
      _tile_loadd(7, b + g * SIDE + STEP, SIDE * 4);                                                                     \
      DOT(0, 4, 6);                                                                                                      \
      DOT(1, 4, 7);                                                                                                      \
      DOT(2, 5, 6);                                                                                                      \
      DOT(3, 5, 7);                                                                                                      \
    }                                                                                                                    \
    _tile_stored(0, c, SIDE * 4); _tile_stored(1, c + STEP, SIDE * 4);                                                   \
    _tile_stored(2, c + STEP * SIDE, SIDE * 4); _tile_stored(3, c + STEP * SIDE + STEP, SIDE * 4);                       \
  }
AMX_MICRO(bf16, _tile_dpbf16ps)
AMX_MICRO(int8, _tile_dpbusd)

template <class K>
static int64_t padded(int64_t k) { return std::max(STEP, round_up((k + K::per - 1) / K::per, STEP)); }

// Panels of B for as many columns as fit into the L2 beside a block of A; at least one.
template <class K>
static int64_t panels_at_once(int64_t k) { return std::max<int64_t>(1, (512 << 10) / (padded<K>(k) * SIDE * 4)); }

template <class K>
static int64_t scratch_bytes(const pk_call* c, int) {
  const int64_t groups = padded<K>(c->dim[3]);
  return (groups * SIDE * (1 + panels_at_once<K>(c->dim[3])) + SIDE * SIDE + SIDE * panels_at_once<K>(c->dim[3])) * 4 + 4096;
}

template <class K, class Micro>
PK_INLINE void product(const pk_call* c, int64_t batch, int64_t lo, int64_t hi, char* scratch, Micro micro) {
  using A = typename K::A;
  using B = typename K::B;
  using T = typename K::T;
  const Product p = product_of<K>(c, batch);
  const int64_t groups = padded<K>(p.k), most = panels_at_once<K>(p.k), full = (p.k + K::per - 1) / K::per;
  int32_t* a = reinterpret_cast<int32_t*>(scratch);
  int32_t* b = a + groups * SIDE;
  T* tile = reinterpret_cast<T*>(b + groups * SIDE * most);
  int32_t* sums = reinterpret_cast<int32_t*>(tile + SIDE * SIDE);
  for (int64_t jc = 0; jc < p.n; jc += most * SIDE) {
    const int64_t columns = std::min(most * SIDE, p.n - jc);
    for (int64_t j = 0; j < columns; j += SIDE) {
      const int64_t width = std::min(SIDE, columns - j);
      int32_t* panel = b + j * groups;
      const B* from = static_cast<const B*>(p.b) + (p.tb ? (jc + j) * p.ldb : jc + j);
      pack_panel<K, SIDE>(from, p.tb ? p.ldb : 1, p.tb ? 1 : p.ldb, width, p.k, panel);
      memset(panel + full * SIDE, 0, size_t((groups - full) * SIDE) * 4);
      for (int64_t x = 0; x < SIDE; ++x) {
        sums[j + x] = 0;
        if constexpr (std::is_same_v<K, Int8>)
          for (int64_t l = 0; x < width && l < p.k; ++l) sums[j + x] += from[p.tb ? x * p.ldb + l : l * p.ldb + x];
      }
    }
    for (int64_t i = lo; i < hi; i += SIDE) {
      const int64_t rows = std::min(SIDE, hi - i);
      const A* from = static_cast<const A*>(p.a) + (p.ta ? i : i * p.lda);
      for (int64_t r = 0; r < SIDE; ++r)
        for (int64_t g = 0; g < groups; ++g) {
          const int64_t left = p.k - g * K::per, n = r >= rows || left < 0 ? 0 : std::min<int64_t>(K::per, left);
          const int64_t rs = p.ta ? 1 : p.lda, ks = p.ta ? p.lda : 1;
          a[r * groups + g] = K::group(from + (n ? r * rs + g * K::per * ks : 0), ks, int(n));
        }
      for (int64_t j = 0; j < columns; j += SIDE) {
        micro(groups, a, groups, b + j * groups, reinterpret_cast<int32_t*>(tile));
        finish<K>(p, tile, SIDE, rows, std::min(SIDE, columns - j), i, jc + j, sums + j);
      }
    }
  }
}

#define KERNEL(K, dtype)                                                                                  \
  static void amx_##dtype(const pk_call* c, const pk_team* t) {                                           \
    if (c->dim[1] == 0 || c->dim[2] == 0) return;                                                         \
    int64_t lo, hi;                                                                                       \
    pk_share(c->dim[1], SIDE, t->tid, t->threads, &lo, &hi);                                              \
    amx_open();                                                                                           \
    for (int64_t r = 0; r < c->reps; ++r) {                                                               \
      forget_memory();                                                                                    \
      for (int64_t batch = 0; batch < c->dim[0]; ++batch)                                                 \
        product<K>(c, batch, lo, hi, static_cast<char*>(t->scratch), pk_gemm_##dtype##_amx2x2);           \
    }                                                                                                     \
    amx_close();                                                                                          \
  }
#define ENTRY(op, K, dtype) \
  {"gemm", op, #dtype, "amx", amx_##dtype, scratch_bytes<K>, nullptr, 0, "pk_gemm_" #dtype "_amx2x2"},
KERNEL(Bf16, bf16)
KERNEL(Int8, int8)
static const pk_entry amx_entries[] = {
  ENTRY("", Bf16, bf16) ENTRY("large", Bf16, bf16) ENTRY("", Int8, int8) ENTRY("large", Int8, int8)};
PK_TABLE(amx_entries);
#endif
