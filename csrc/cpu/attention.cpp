// Attention: o = softmax(scale q k' with a causal mask or none) v; kernels/attention.py states the sums.
//
// Operands  in: q (batch x heads x lq rows of dim), k, v (batch x kv_heads x lk rows); out: o like q
// dims      batch, heads, kv_heads, lq, lk, dim, causal;  scalars  scale
// Variants  unfused (all scores of a KV head, or as many rows of them as fit in 64 MiB, go through memory), online (row by row:
//           maximum and sum kept up along the keys), flash (12 x 2 tiles, blocks of keys that stay in the L2), split (few rows:
//           each thread streams its part of the keys, parts are joined at the end; split:N asks for rows N bytes ahead)
#include "attention.h"
#include "exp.h"

#include <algorithm>

using namespace pk;

static constexpr int L = F32;
static int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }
static const float NONE = -__builtin_inff();

PK_INLINE f32v widened(const float* p) { return loadu<f32v>(p); }
PK_INLINE f32v widened(const uint16_t* p) { return load_bf16(p); }
PK_INLINE void put(float* p, f32v v) { storeu(p, v); }
PK_INLINE void put(uint16_t* p, f32v v) { store_bf16(p, v); }

// ---------------------------------------------------------------------------------------------------------- softmax

// What a tile keeps of its rows over the blocks of keys: maximum of the scaled scores and sum of the exponentials.
struct Kept {
  float max, sum;
};

// Turns n scores into weights e^(scale s - max), zeros from n to `end`, and returns what earlier blocks are to be multiplied
// by. W: type of weights (float, or bf16 bits). s is writable up to a whole vector beyond n.
template <class W>
PK_INLINE float weigh(float* s, W* w, int64_t n, int64_t end, float scale, Kept& kept) {
  if (n == 0) {
    memset(w, 0, size_t(end) * sizeof(W));
    return 1;
  }
  const int64_t whole = round_up(n, L);
  for (int64_t j = n; j < whole; ++j) s[j] = NONE;
  f32v top = loadu<f32v>(s);
  for (int64_t j = L; j < whole; j += L) top = vmax(top, loadu<f32v>(s + j));
  const float old = kept.max, max = std::max(old, hmax(top) * scale);
  const f32v less = broadcast<f32v>(-max), times = broadcast<f32v>(scale);
  f32v sum{};
  for (int64_t j = 0; j < whole; j += L) {
    const f32v e = vexp_low(fma(loadu<f32v>(s + j), times, less));
    sum += e;
    if constexpr (sizeof(W) == 2) store_bf16_quick(w + j, e);
    else storeu(w + j, e);
  }
  if (end > whole) memset(w + whole, 0, size_t(end - whole) * sizeof(W));
  const float factor = old == max ? 1.0f : vexp_low(broadcast<f32v>(old - max))[0];
  kept.sum = kept.sum * factor + hsum(sum);
  kept.max = max;
  return factor;
}

PK_INLINE void scale_row(float* o, int64_t dim, float factor) {
  if (factor == 1) return;
  for (int64_t d = 0; d < dim; d += L) storeu(o + d, loadu<f32v>(o + d) * factor);
}

template <class E>
void pk::put_row(const Heads<E>& h, int64_t r, const float* out, float sum) {
  E* o = h.o + r / h.lq * h.o_head + r % h.lq * h.o_row;
  const float factor = sum == 0 && h.sees(r, h.lk) == 0 ? 0 : 1 / sum;
  for (int64_t d = 0; d < h.dim; d += L) put(o + d, loadu<f32v>(out + d) * factor);
}

template <class E>
PK_INLINE const E* query(const Heads<E>& h, int64_t r) { return h.q + r / h.lq * h.q_head + r % h.lq * h.q_row; }

// ------------------------------------------------------------------------------------------------------------ tiles

// Blocks of a KV head as the microkernels want them. Weights of bf16 are bf16 where the level multiplies it.
template <class K>
struct Tiles {
  using E = typename K::A;
  using G = typename K::G;
  using W = std::conditional_t<K::raw, E, float>;
  static constexpr int64_t R = GEMM_ROWS, N = panel_columns<K>, per = K::per;
  static constexpr bool v_in_place = K::raw && per == 1;
  const Heads<E>& h;

  int64_t groups(int64_t n) const { return (n + per - 1) / per; }
  int64_t q_panel() const { return groups(h.dim) * R; }
  int64_t k_panel() const { return groups(h.dim) * N; }
  int64_t v_panel(int64_t keys) const { return groups(keys) * N; }

  void pack_q(int64_t r0, int64_t r1, G* out) const {
    for (int64_t r = r0; r < r1; r += R) {
      const int64_t width = std::min(R, r1 - r);
      G* panel = out + (r - r0) / R * q_panel();
      if (r / h.lq == (r + width - 1) / h.lq) {
        pack_panel<K, R>(query(h, r), h.q_row, 1, width, h.dim, panel);
      } else {  // rows of two heads
        for (int64_t i = 0; i < width; ++i)
          for (int64_t g = 0; g < groups(h.dim); ++g) panel[g * R + i] = K::group(query(h, r + i) + g * per, 1, per);
      }
    }
  }
  void pack_k(int64_t k0, int64_t n, G* out) const {
    for (int64_t j = 0; j < n; j += N)
      pack_panel<K, N>(h.k + (k0 + j) * h.k_row, h.k_row, 1, std::min(N, n - j), h.dim, out + j / N * k_panel());
  }
  void pack_v(int64_t k0, int64_t n, G* out) const {
    if (v_in_place) return;
    for (int64_t d = 0; d < h.dim; d += N)
      pack_panel<K, N>(h.v + k0 * h.v_row + d, 1, h.v_row, N, n, out + d / N * v_panel(n));
  }
  // s (rows x ld) = q k' for the first n keys of a packed block.
  void scores(int64_t rows, const G* q, const G* k, int64_t n, float* s, int64_t ld) const {
    const Micro run = microkernel<K>(gemm_rows(rows), false);
    for (int64_t j = 0; j < n; j += N) run(groups(h.dim), q, 0, k + j / N * k_panel(), N, s + j, ld, 0);
  }
  // o (rows x dim) += w v for the first `used` of a block of n keys.
  void weighted(int64_t rows, const W* w, int64_t ld, int64_t k0, int64_t n, int64_t used, const G* v, float* o) const {
    const Micro run = microkernel<K>(gemm_rows(rows), true);
    for (int64_t d = 0; d < h.dim; d += N) {
      const void* b = v + d / N * v_panel(n);
      if constexpr (v_in_place) b = h.v + k0 * h.v_row + d;
      run(groups(used), w, ld * int64_t(sizeof(W)), b, v_in_place ? h.v_row : N, o + d, h.dim, 1);
    }
  }
};

// Cuts scratch into arrays.
struct Cutter {
  char* at;
  template <class T>
  T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(at);
    at += round_up(count * int64_t(sizeof(T)), 64) + 64 * 17;  // staggered: equal offsets in a page alias in the L1
    return p;
  }
};

static constexpr int64_t LD = FLASH_KEYS + 32;  // rows of scores: not a power of two, room for a whole last vector

int64_t pk::flash_scratch(int64_t dim) {
  return 4 * ((FLASH_ROWS + 16) * dim * 2 + (FLASH_KEYS + 32) * dim * 2 + 2 * 16 * LD) + 65536;
}

template <class K>
void pk::flash(const Heads<typename K::A>& h, int64_t r0, int64_t r1, char* scratch) {
  using T = Tiles<K>;
  using G = typename T::G;
  using W = typename T::W;
  const T tiles{h};
  const int64_t count = round_up(r1 - r0, T::R), blocks = round_up(FLASH_KEYS, T::N) / T::N;
  Cutter cut{scratch};
  G* q = cut.take<G>(count / T::R * tiles.q_panel());
  G* k = cut.take<G>(blocks * tiles.k_panel());
  G* v = cut.take<G>(T::v_in_place ? 0 : h.dim / T::N * tiles.v_panel(FLASH_KEYS));
  float* o = cut.take<float>(count * h.dim);
  float* s = cut.take<float>(T::R * LD);
  W* w = sizeof(W) == 4 ? reinterpret_cast<W*>(s) : cut.take<W>(T::R * LD);
  Kept kept[FLASH_ROWS];
  for (int64_t i = 0; i < r1 - r0; ++i) kept[i] = {NONE, 0};
  memset(o, 0, size_t(count * h.dim) * 4);
  tiles.pack_q(r0, r1, q);
  int64_t end = 0;
  for (int64_t r = r0; r < r1; ++r) end = std::max(end, h.sees(r, h.lk));
  for (int64_t k0 = 0; k0 < end; k0 += FLASH_KEYS) {
    const int64_t n = std::min(FLASH_KEYS, end - k0);
    tiles.pack_k(k0, n, k);
    tiles.pack_v(k0, n, v);
    for (int64_t r = r0; r < r1; r += T::R) {
      const int64_t rows = std::min(T::R, r1 - r);
      int64_t most = 0;
      for (int64_t i = 0; i < rows; ++i) most = std::max(most, h.sees(r + i, k0 + n) - k0);
      if (most <= 0) continue;
      float* out = o + (r - r0) * h.dim;
      tiles.scores(rows, q + (r - r0) / T::R * tiles.q_panel(), k, most, s, LD);
      const int64_t used = std::min(round_up(most, T::per), LD);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t seen = std::max<int64_t>(0, h.sees(r + i, k0 + n) - k0);
        scale_row(out + i * h.dim, h.dim, weigh(s + i * LD, w + i * LD, seen, used, h.scale, kept[r - r0 + i]));
      }
      tiles.weighted(rows, w, LD, k0, n, most, v, out);
    }
  }
  for (int64_t r = r0; r < r1; ++r) put_row(h, r, o + (r - r0) * h.dim, kept[r - r0].sum);
}

#define INSTANCE(K)                                                                  \
  template void pk::flash<K>(const Heads<K::A>&, int64_t, int64_t, char*);           \
  template void pk::put_row(const Heads<K::A>&, int64_t, const float*, float);
INSTANCE(Fp32)
INSTANCE(Bf16)

// ------------------------------------------------------------------------------------------------------- the kernels

template <class E>
static Heads<E> heads_of(const pk_call* c, int64_t unit) {  // unit: a KV head of a batch
  const int64_t *d = c->dim, group = d[1] / d[2], lq = d[3], lk = d[4], dim = d[5];
  Heads<E> h{};
  h.q = static_cast<const E*>(c->ptr[0]) + unit * group * lq * dim;
  h.k = static_cast<const E*>(c->ptr[1]) + unit * lk * dim;
  h.v = static_cast<const E*>(c->ptr[2]) + unit * lk * dim;
  h.o = static_cast<E*>(c->ptr[3]) + unit * group * lq * dim;
  h.q_row = h.k_row = h.v_row = h.o_row = dim, h.q_head = h.o_head = lq * dim;
  h.lq = lq, h.lk = lk, h.group = group, h.dim = dim, h.causal = d[6], h.scale = float(c->scalar[0]);
  return h;
}
static int64_t kv_heads_of(const pk_call* c) { return c->dim[0] * c->dim[2]; }
static int64_t rows_of(const pk_call* c) { return c->dim[1] / c->dim[2] * c->dim[3]; }

// Blocks of rows are handed out one by one: causal ones differ in work. Later blocks, the longer ones, go first.
template <class K>
static void flash_passes(const pk_call* c, const pk_team* t) {
  const int64_t rows = rows_of(c), even = round_up((rows + t->threads - 1) / t->threads, GEMM_ROWS);
  const int64_t block = std::max<int64_t>(GEMM_ROWS, std::min(FLASH_ROWS, kv_heads_of(c) % t->threads ? even : rows));
  const int64_t blocks = (rows + block - 1) / block, units = blocks * kv_heads_of(c);
  for (int64_t u = t->take(t, 1); u < units * c->reps; u = t->take(t, 1)) {
    const int64_t unit = u % units, at = (blocks - 1 - unit % blocks) * block;
    forget_memory();
    flash<K>(heads_of<typename K::A>(c, unit / blocks), at, std::min(rows, at + block), static_cast<char*>(t->scratch));
  }
}
static int64_t flash_bytes(const pk_call* c, int) { return flash_scratch(c->dim[5]); }

static constexpr int64_t UNFUSED_BYTES = 64 << 20;
static int64_t unfused_rows(const pk_call* c) {
  return std::min(round_up(rows_of(c), GEMM_ROWS), std::max<int64_t>(GEMM_ROWS, UNFUSED_BYTES / 4 / c->dim[4] / GEMM_ROWS * GEMM_ROWS));
}
static int64_t unfused_ld(const pk_call* c) { return round_up(c->dim[4], 64) + 32; }
static int64_t unfused_bytes(const pk_call* c, int) {
  const int64_t dim = c->dim[5], ld = unfused_ld(c), rows = unfused_rows(c);
  return 4 * (rows * ld + 16 * ld + (rows + 16) * dim * 2 + 2 * (round_up(c->dim[4], 64) + 64) * dim) + 65536;
}
template <class K>
static void unfused_passes(const pk_call* c, const pk_team* t) {
  using T = Tiles<K>;
  using G = typename T::G;
  using W = typename T::W;
  const int64_t rows = rows_of(c), block = unfused_rows(c), blocks = (rows + block - 1) / block, ld = unfused_ld(c);
  const int64_t units = blocks * kv_heads_of(c), lk = c->dim[4], dim = c->dim[5];
  for (int64_t u = t->take(t, 1); u < units * c->reps; u = t->take(t, 1)) {
    const int64_t unit = u % units, r0 = unit % blocks * block, r1 = std::min(rows, r0 + block);
    forget_memory();
    const auto h = heads_of<typename K::A>(c, unit / blocks);
    const T tiles{h};
    Cutter cut{static_cast<char*>(t->scratch)};
    G* q = cut.take<G>(round_up(r1 - r0, T::R) / T::R * tiles.q_panel());
    G* k = cut.take<G>(round_up(lk, T::N) / T::N * tiles.k_panel());
    G* v = cut.take<G>(T::v_in_place ? 0 : dim / T::N * tiles.v_panel(lk));
    float* o = cut.take<float>(block * dim);
    float* s = cut.take<float>((block + T::R) * ld);
    W* w = reinterpret_cast<W*>(s);  // weights take the place of the scores, row by row
    const int64_t w_ld = ld * 4 / int64_t(sizeof(W));
    Kept kept[1];
    tiles.pack_q(r0, r1, q), tiles.pack_k(0, lk, k), tiles.pack_v(0, lk, v);
    for (int64_t r = r0; r < r1; r += T::R)
      tiles.scores(std::min(T::R, r1 - r), q + (r - r0) / T::R * tiles.q_panel(), k, lk, s + (r - r0) * ld, ld);
    memset(o, 0, size_t(block * dim) * 4);
    for (int64_t r = r0; r < r1; ++r) {
      kept[0] = {NONE, 0};
      weigh(s + (r - r0) * ld, w + (r - r0) * w_ld, h.sees(r, lk), std::min(round_up(lk, T::per), ld), h.scale, kept[0]);
      s[(r - r0) * ld + ld - 1] = kept[0].sum;  // the last place of a row is free
    }
    for (int64_t r = r0; r < r1; r += T::R)
      tiles.weighted(std::min(T::R, r1 - r), w + (r - r0) * w_ld, w_ld, 0, lk, lk, v, o + (r - r0) * dim);
    for (int64_t r = r0; r < r1; ++r) put_row(h, r, o + (r - r0) * dim, s[(r - r0) * ld + ld - 1]);
  }
}

template <class K>
static void online_passes(const pk_call* c, const pk_team* t) {
  const int64_t rows = rows_of(c), units = rows * kv_heads_of(c);
  float out[256], max, sum;
  for (int64_t rep = 0; rep < c->reps; ++rep) {
    int64_t lo, hi;
    pk_share(units, 1, t->tid, t->threads, &lo, &hi);
    forget_memory();
    for (int64_t u = lo; u < hi; ++u) {
      const auto h = heads_of<typename K::A>(c, u / rows);
      stream_keys<K>(h, u % rows, u % rows + 1, 0, h.sees(u % rows, h.lk), 0, &max, &sum, out);
      put_row(h, u % rows, out, sum);
    }
  }
}

// Parts of the keys of every KV head, as many as share out evenly; partial results lie in their thread's scratch.
static int64_t split_parts(const pk_call* c, int threads) {
  const int64_t heads = kv_heads_of(c);
  int64_t parts = 1;
  while (heads * parts % threads && parts < threads) ++parts;
  return std::max<int64_t>(1, std::min(parts, c->dim[4] / 32));
}
static int64_t part_floats(const pk_call* c) { return round_up(rows_of(c) * (c->dim[5] + 2), 16); }
static int64_t split_bytes(const pk_call* c, int threads) {
  const int64_t units = kv_heads_of(c) * split_parts(c, threads);
  return TABLE_BYTES + (units + threads - 1) / threads * part_floats(c) * 4;
}
template <class K>
static void split_passes(const pk_call* c, const pk_team* t) {
  using E = typename K::A;
  const int64_t heads = kv_heads_of(c), rows = rows_of(c), dim = c->dim[5], lk = c->dim[4];
  const int64_t parts = split_parts(c, t->threads), units = heads * parts, floats = part_floats(c);
  const int64_t ahead = c->tune / (dim * int64_t(sizeof(E)));  // rows
  char* const* peers = exchange_scratch(t);
  int64_t lo, hi, h0, h1;
  pk_share(units, 1, t->tid, t->threads, &lo, &hi);
  pk_share(heads, 1, t->tid, t->threads, &h0, &h1);
  auto part_of = [&](int64_t u) {
    const int64_t owner = ((u + 1) * t->threads - 1) / units, first = units * owner / t->threads;
    return reinterpret_cast<float*>(peers[owner] + TABLE_BYTES) + (u - first) * floats;
  };
  for (int64_t rep = 0; rep < c->reps; ++rep) {
    forget_memory();
    for (int64_t u = lo; u < hi; ++u) {
      const auto h = heads_of<E>(c, u / parts);
      int64_t k0, k1;
      pk_share(lk, 1, int(u % parts), int(parts), &k0, &k1);
      float* part = part_of(u);  // maxima, sums, rows
      for (int64_t r = 0; r < rows; r += SPLIT_ROWS)
        stream_keys<K>(h, r, std::min(rows, r + SPLIT_ROWS), k0, k1, ahead, part + r, part + rows + r,
                       part + 2 * rows + r * dim);
      if (parts == 1)
        for (int64_t r = 0; r < rows; ++r) put_row(h, r, part + 2 * rows + r * dim, part[rows + r]);
    }
    if (parts == 1) continue;
    t->barrier(t);
    for (int64_t u = h0; u < h1; ++u) {
      const auto h = heads_of<E>(c, u);
      for (int64_t r = 0; r < rows; ++r) {
        float max = NONE, sum = 0, out[256] = {};
        for (int64_t p = 0; p < parts; ++p) max = std::max(max, part_of(u * parts + p)[r]);
        for (int64_t p = 0; p < parts; ++p) {
          const float* part = part_of(u * parts + p);
          if (part[rows + r] == 0) continue;
          const float factor = vexp_low(broadcast<f32v>(part[r] - max))[0];
          sum += factor * part[rows + r];
          for (int64_t d = 0; d < dim; d += L)
            storeu(out + d, fma(loadu<f32v>(part + 2 * rows + r * dim + d), broadcast<f32v>(factor), loadu<f32v>(out + d)));
        }
        put_row(h, r, out, sum);
      }
    }
    t->barrier(t);
  }
}

// ------------------------------------------------------------------------------------------------------------- table

static const int64_t ahead_bytes[] = {0, 8192};  // of K and of V, for split: how far ahead rows are asked for
#define ENTRY(op, dtype, variant, run, scratch, symbol) {"attention", op, #dtype, variant, run, scratch, nullptr, 0, symbol},
#define TUNED(op, dtype, variant, run, scratch) {"attention", op, #dtype, variant, run, scratch, ahead_bytes, 2, ""},
#if PK_REGISTERS == 32
#define TILE(dtype) "pk_gemm_" #dtype "_12x2_direct"
#else
#define TILE(dtype) "pk_gemm_" #dtype "_6x2_direct"
#endif
// Prefill: many rows a KV head. Decode: few. Long problems are not offered to the variants that would take seconds.
#define ENTRIES(K, dtype)                                                             \
  ENTRY("prefill", dtype, "online", online_passes<K>, nullptr, "")                    \
  ENTRY("prefill", dtype, "unfused", unfused_passes<K>, unfused_bytes, TILE(dtype))   \
  ENTRY("prefill", dtype, "flash", flash_passes<K>, flash_bytes, TILE(dtype))         \
  ENTRY("decode", dtype, "online", online_passes<K>, nullptr, "")                     \
  ENTRY("decode", dtype, "unfused", unfused_passes<K>, unfused_bytes, TILE(dtype))    \
  ENTRY("decode", dtype, "flash", flash_passes<K>, flash_bytes, TILE(dtype))          \
  TUNED("decode", dtype, "split", split_passes<K>, split_bytes)                       \
  ENTRY("long", dtype, "unfused", unfused_passes<K>, unfused_bytes, TILE(dtype))      \
  ENTRY("long", dtype, "flash", flash_passes<K>, flash_bytes, TILE(dtype))
static const pk_entry attention_entries[] = {ENTRIES(Fp32, fp32) ENTRIES(Bf16, bf16)};
PK_TABLE(attention_entries);
