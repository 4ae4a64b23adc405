// Operators of a Transformer, each run in all layers with each layer's own weights, or all in order (chain).
//
// dims      decoder, layers, hidden, heads, kv_heads, ffn, seq, batch
// Operands, with T = batch x seq rows (decoder: batch rows), c = hidden + 2 kv, and kv = kv_heads x head size:
//   qkv, out, up, down  x (T x inputs), w (layers x outputs x inputs), b (layers x outputs), y (T x outputs)
//   attention           x (T x c: q, k, v side by side), decoder: keys, values (layers x batch x context x kv; the last place is
//                       written); y (T x hidden)
//   norm                x, r (T x hidden), g1, b1, g2, b2 (layers x hidden), y: y = norm(x + r), twice a layer
//   gelu                x (T x ffn), y
//   chain               x, then w and b of qkv, out, up, down, then g1, b1, g2, b2, decoder: keys, values, then work, y
// A layer of the chain: a = attention(qkv(x)); h = norm(x + out(a)); x = norm(h + down(gelu(up(h)))).
#include <algorithm>

#include "attention.h"
#include "rowwise.h"

using namespace pk;

enum Matrix { QKV, OUT, UP, DOWN };

template <class K>
struct Model {
  using E = typename K::A;
  const pk_team* t;
  char* scratch;
  char* const* peers;
  bool decoder;
  int64_t layers, hidden, heads, kv_heads, ffn, seq, batch, size, kv, wide, tokens, context;

  Model(const pk_call* c, const pk_team* team) : t(team), scratch(static_cast<char*>(team->scratch)), peers(nullptr) {
    const int64_t* d = c->dim;
    decoder = d[0], layers = d[1], hidden = d[2], heads = d[3], kv_heads = d[4], ffn = d[5], seq = d[6], batch = d[7];
    size = hidden / heads, kv = kv_heads * size, wide = hidden + 2 * kv;
    tokens = decoder ? batch : batch * seq, context = seq > 1 ? seq / 2 : 1;
  }
  int64_t outputs(Matrix m) const { return m == QKV ? wide : m == UP ? ffn : hidden; }
  int64_t inputs(Matrix m) const { return m == DOWN ? ffn : hidden; }

  // One token: every weight is read once and used once, so the rows are read as they stand in memory; panels would copy what
  // is never used again. Rows are taken from RUNS far places at a time: one stream does not fill the memory's queues, and
  // rows beside each other are too near for the prefetchers to tell apart.
  static constexpr int RUNS = 4;
  static constexpr int64_t TURN = 2 * F32, AHEAD = 1024, LINE = 64;
  static constexpr int64_t AHEAD_KEYS = 16;  // rows of the cache, pieces of a head's size far apart
  template <int R>
  PK_INLINE static void rows_of_one(const E* x, const E* w, int64_t apart, int64_t n, float* sums) {
    f32v s[R][2] = {};
    int64_t j = 0;
    for (; j + TURN <= n; j += TURN) {
      for (int64_t line = 0; line < TURN * int64_t(sizeof(E)); line += LINE)
        each<R>([&](auto r) __attribute__((always_inline)) {
          prefetch_l2(w + r * apart + j, AHEAD + line);
        });
      const f32v x0 = K::load_c(x + j), x1 = K::load_c(x + j + F32);
      each<R>([&](auto r) __attribute__((always_inline)) {
        s[r][0] = fma(K::load_c(w + r * apart + j), x0, s[r][0]);
        s[r][1] = fma(K::load_c(w + r * apart + j + F32), x1, s[r][1]);
      });
    }
    each<R>([&](auto r) __attribute__((always_inline)) { sums[r] = hsum(s[r][0] + s[r][1]); });
    for (; j < n; ++j)
      for (int r = 0; r < R; ++r) sums[r] += K::get_c(w + r * apart + j) * K::get_c(x + j);
  }
  void one_token(const E* x, const E* w, const E* b, E* y, int64_t outputs, int64_t inputs) const {
    int64_t lo, hi;
    pk_share(outputs, 1, t->tid, t->threads, &lo, &hi);
    const int64_t run = (hi - lo) / RUNS, rest = lo + RUNS * run;
    float sums[RUNS];
    for (int64_t i = lo; i < lo + run; ++i) {
      rows_of_one<RUNS>(x, w + i * inputs, run * inputs, inputs, sums);
      for (int r = 0; r < RUNS; ++r) K::put_c(y + i + r * run, sums[r] + K::get_c(b + i + r * run));
    }
    for (int64_t i = rest; i < hi; ++i) {
      rows_of_one<1>(x, w + i * inputs, 0, inputs, sums);
      K::put_c(y + i, sums[0] + K::get_c(b + i));
    }
  }
  void matrix(Matrix m, int64_t layer, const void* x, const void* w, const void* b, void* y) const {
    if (tokens == 1) {
      const int64_t n = outputs(m), k = inputs(m);
      one_token(static_cast<const E*>(x), static_cast<const E*>(w) + layer * n * k, static_cast<const E*>(b) + layer * n,
                static_cast<E*>(y), n, k);
      t->barrier(t);
      return;
    }
    Product p{};
    p.m = tokens, p.n = outputs(m), p.k = inputs(m);
    p.a = x, p.b = static_cast<const E*>(w) + layer * p.n * p.k, p.c = y;
    p.lda = p.ldb = p.k, p.ldc = p.n, p.tb = true, p.alpha = 1;
    p.bias = static_cast<const E*>(b) + layer * p.n;
    gemm<K>(p, t, scratch, peers);
    t->barrier(t);
  }
  void attention(int64_t layer, const void* qkv, void* keys, void* values, void* y) const {
    const E* x = static_cast<const E*>(qkv);
    Heads<E> h{};
    h.group = heads / kv_heads, h.dim = size, h.scale = 1 / __builtin_sqrtf(float(size));
    h.q_row = wide, h.q_head = size, h.o_row = hidden, h.o_head = size;
    const int64_t rows = h.group * (decoder ? 1 : seq);
    const int64_t block = decoder ? SPLIT_ROWS : std::min(FLASH_ROWS, (rows + GEMM_ROWS - 1) / GEMM_ROWS * GEMM_ROWS);
    const int64_t blocks = (rows + block - 1) / block, steps = decoder ? 1 : seq;
    int64_t lo, hi;
    pk_share(batch * kv_heads * blocks, 1, t->tid, t->threads, &lo, &hi);
    for (int64_t u = lo; u < hi; ++u) {
      const int64_t sequence = u / blocks / kv_heads, head = u / blocks % kv_heads, r0 = u % blocks * block;
      const int64_t r1 = std::min(rows, r0 + block), first = sequence * steps;
      h.q = x + first * wide + head * h.group * size;
      h.o = static_cast<E*>(y) + first * hidden + head * h.group * size;
      h.lq = steps, h.lk = decoder ? context : seq;
      if (decoder) {
        E* k = static_cast<E*>(keys) + (layer * batch + sequence) * context * kv + head * size;
        E* v = static_cast<E*>(values) + (layer * batch + sequence) * context * kv + head * size;
        memcpy(k + (context - 1) * kv, x + first * wide + hidden + head * size, size_t(size) * sizeof(E));
        memcpy(v + (context - 1) * kv, x + first * wide + hidden + kv + head * size, size_t(size) * sizeof(E));
        h.k = k, h.v = v, h.k_row = h.v_row = kv;
        float max[SPLIT_ROWS], sum[SPLIT_ROWS], out[SPLIT_ROWS * 256];
        stream_keys<K>(h, r0, r1, 0, context, AHEAD_KEYS, max, sum, out);
        for (int64_t r = r0; r < r1; ++r) put_row(h, r, out + (r - r0) * size, sum[r - r0]);
      } else {
        h.k = x + first * wide + hidden + head * size, h.v = h.k + kv, h.k_row = h.v_row = wide;
        flash<K>(h, r0, r1, scratch + TABLE_BYTES);
      }
    }
    t->barrier(t);
  }
  void norm(int64_t layer, const void* x, const void* r, const void* gamma, const void* beta, void* y) const {
    int64_t lo, hi;
    pk_share(tokens, 1, t->tid, t->threads, &lo, &hi);
    for (int64_t i = lo; i < hi; ++i)
      norm_row<LAYER_NORM, E>(static_cast<const E*>(x) + i * hidden, static_cast<const E*>(r) + i * hidden,
                              static_cast<const E*>(gamma) + layer * hidden, static_cast<const E*>(beta) + layer * hidden,
                              static_cast<E*>(y) + i * hidden, hidden);
    t->barrier(t);
  }
  void gelu(const void* x, void* y) const {
    int64_t lo, hi;
    pk_share(tokens * ffn, 64, t->tid, t->threads, &lo, &hi);
    points<GELU, E>(static_cast<const E*>(x) + lo, nullptr, static_cast<E*>(y) + lo, hi - lo);
    t->barrier(t);
  }
};

template <class K>
static int64_t matrix_bytes(const pk_call* c, int threads) {
  pk_team team{};
  const Model<K> model(c, &team);
  int64_t most = TABLE_BYTES + flash_scratch(model.size);
  for (Matrix m : {QKV, OUT, UP, DOWN})
    most = std::max(most, gemm_scratch<K>(model.tokens, model.outputs(m), model.inputs(m), false, true, threads));
  return most;
}

template <class K, class Step>
PK_INLINE void passes(const pk_call* c, const pk_team* t, Step step) {
  Model<K> model(c, t);
  model.peers = exchange_scratch(t);
  for (int64_t r = 0; r < c->reps; ++r) {
    forget_memory();
    for (int64_t layer = 0; layer < model.layers; ++layer) step(model, layer);
  }
}

template <class K, Matrix m>
static void matrix_passes(const pk_call* c, const pk_team* t) {
  passes<K>(c, t, [&](const Model<K>& model, int64_t layer) { model.matrix(m, layer, c->ptr[0], c->ptr[1], c->ptr[2], c->ptr[3]); });
}
template <class K>
static void attention_passes(const pk_call* c, const pk_team* t) {
  passes<K>(c, t, [&](const Model<K>& model, int64_t layer) {
    if (model.decoder) model.attention(layer, c->ptr[0], c->ptr[1], c->ptr[2], c->ptr[3]);
    else model.attention(layer, c->ptr[0], nullptr, nullptr, c->ptr[1]);
  });
}
template <class K>
static void norm_passes(const pk_call* c, const pk_team* t) {
  passes<K>(c, t, [&](const Model<K>& model, int64_t layer) {
    model.norm(layer, c->ptr[0], c->ptr[1], c->ptr[2], c->ptr[3], c->ptr[6]);
    model.norm(layer, c->ptr[0], c->ptr[1], c->ptr[4], c->ptr[5], c->ptr[6]);
  });
}
template <class K>
static void gelu_passes(const pk_call* c, const pk_team* t) {
  passes<K>(c, t, [&](const Model<K>& model, int64_t) { model.gelu(c->ptr[0], c->ptr[1]); });
}
template <class K>
static void chain_passes(const pk_call* c, const pk_team* t) {
  using E = typename K::A;
  passes<K>(c, t, [&](const Model<K>& model, int64_t layer) {
    void* const* p = c->ptr;
    void *keys = p[13], *values = p[14], *y = p[model.decoder ? 16 : 14];
    const int64_t rows = model.tokens;
    E* a = static_cast<E*>(p[model.decoder ? 15 : 13]);  // work: the widest of q, k, v and the inner layer; then two of hidden
    E* b = a + rows * std::max(model.wide, model.ffn);
    E* h = b + rows * model.hidden;
    const void* x = layer ? y : p[0];
    model.matrix(QKV, layer, x, p[1], p[2], a);
    model.attention(layer, a, keys, values, b);
    model.matrix(OUT, layer, b, p[3], p[4], h);
    model.norm(layer, x, h, p[9], p[10], h);
    model.matrix(UP, layer, h, p[5], p[6], a);
    model.gelu(a, a);
    model.matrix(DOWN, layer, a, p[7], p[8], b);
    model.norm(layer, h, b, p[11], p[12], y);
  });
}

#define ENTRIES(K, dtype)                                                                           \
  {"layer", "qkv", #dtype, "suite", matrix_passes<K, QKV>, matrix_bytes<K>, nullptr, 0, ""},        \
  {"layer", "attention", #dtype, "suite", attention_passes<K>, matrix_bytes<K>, nullptr, 0, ""},    \
  {"layer", "out", #dtype, "suite", matrix_passes<K, OUT>, matrix_bytes<K>, nullptr, 0, ""},        \
  {"layer", "norm", #dtype, "suite", norm_passes<K>, matrix_bytes<K>, nullptr, 0, ""},              \
  {"layer", "up", #dtype, "suite", matrix_passes<K, UP>, matrix_bytes<K>, nullptr, 0, ""},          \
  {"layer", "gelu", #dtype, "suite", gelu_passes<K>, matrix_bytes<K>, nullptr, 0, ""},              \
  {"layer", "down", #dtype, "suite", matrix_passes<K, DOWN>, matrix_bytes<K>, nullptr, 0, ""},      \
  {"layer", "chain", #dtype, "suite", chain_passes<K>, matrix_bytes<K>, nullptr, 0, ""},
static const pk_entry layer_entries[] = {ENTRIES(Fp32, fp32) ENTRIES(Bf16, bf16)};
PK_TABLE(layer_entries);
