// Embedding lookups. embedding_bag: out[b] = sum (or mean) over the bag's lookups i of weight[i] * row(index[i]), weights 1
// where there are none; embedding_gather: out[i] = row(index[i]).
//
// Operands and dims are those of kernels/embedding.py: table, indices (this call's set), offsets (bags + 1), weights, out
// (fp32), or table, indices, out; for `cached` also slots and cached rows, the last two pointers of the block. dims: bags, D,
// rows, lookups, bytes of an index, of a row, of an offset, index sets, 1 for the mean, 1 for weights.
// Rows: fp32, fp16, bf16; int8 (D bytes, unsigned) and int4 (D / 2 bytes, low nibble first) are scale * q + bias, with scale
// and bias as two fp32 after the row's values.
// Variants, in rising order of refinement:
//   simple  one thread for each element of the output
//   warp    one warp a bag; a row is read by as many lanes as it has words, so that narrow rows go several at a time, with
//           UNROLL rows in flight for each group of lanes
//   cached  warp, with hot rows taken from device memory and the rest from the table wherever it lives
//   persistent  warp, once for every request number that the host writes: see embedding_serve
#include "common.cuh"
#include "now.cuh"

enum { BAGS_A_BLOCK = 8, UNROLL = 4 };

// FRESH: indices, offsets and weights may change while the kernel runs, so they are loaded anew for every request.
template <bool FRESH> struct embedding_of {
  const char* table;
  const char *indices, *offsets;
  const float* weights;
  float* out;
  const int* slots;
  const char* cached;
  pk_int bags, d, row_bytes, index_bytes, offset_bytes;
  bool mean;
  PK_METHOD explicit embedding_of(const pk_args& a)
      : table((const char*)a.ptr[0]), indices((const char*)a.ptr[1]), offsets((const char*)a.ptr[2]),
        weights(a.dim[9] ? (const float*)a.ptr[3] : 0), out((float*)a.ptr[4]), slots((const int*)a.ptr[PK_POINTERS - 2]),
        cached((const char*)a.ptr[PK_POINTERS - 1]), bags(a.dim[0]), d(a.dim[1]), row_bytes(a.dim[5]),
        index_bytes(a.dim[4]), offset_bytes(a.dim[6]), mean(a.dim[8] != 0) {}
  // The low half of a 64-bit index or offset says it all: tables have fewer than 2^32 rows, calls fewer lookups.
  PK_METHOD pk_int index(pk_int i) const { return load((const unsigned*)(indices + i * index_bytes)); }
  PK_METHOD pk_int offset(pk_int i) const { return load((const unsigned*)(offsets + i * offset_bytes)); }
  PK_METHOD float weight(pk_int i) const { return weights ? load(weights + i) : 1.f; }
  template <class T> PK_METHOD static T load(const T* p) { return FRESH ? *(const volatile T*)p : __ldg(p); }
  // What a bag's sum is multiplied by.
  PK_METHOD float share(pk_int begin, pk_int end) const { return mean && end > begin ? 1.f / (float)(end - begin) : 1.f; }
  template <bool CACHED> PK_METHOD const char* row(pk_int i) const {
    pk_int at = index(i);
    if (CACHED) {
      int slot = __ldg(slots + at);
      if (slot >= 0) return cached + slot * row_bytes;
    }
    return table + at * row_bytes;
  }
};
typedef embedding_of<false> embedding;

// Formats: elements a 32-bit word holds, and how they come out of it; QUANTISED rows carry scale and bias.
struct rows_fp32 {
  enum { PER = 1, QUANTISED = 0 };
  PK_METHOD static void unpack(unsigned w, float* x) { x[0] = __uint_as_float(w); }
};
struct rows_fp16 {
  enum { PER = 2, QUANTISED = 0 };
  PK_METHOD static void unpack(unsigned w, float* x) {
    x[0] = pk_widen(pk_fp16{(unsigned short)w});
    x[1] = pk_widen(pk_fp16{(unsigned short)(w >> 16)});
  }
};
struct rows_bf16 {
  enum { PER = 2, QUANTISED = 0 };
  PK_METHOD static void unpack(unsigned w, float* x) {
    x[0] = __uint_as_float(w << 16);
    x[1] = __uint_as_float(w & 0xffff0000u);
  }
};
struct rows_int8 {
  enum { PER = 4, QUANTISED = 1 };
  PK_METHOD static void unpack(unsigned w, float* x) {
#pragma unroll
    for (int k = 0; k < 4; ++k) x[k] = (float)(w >> 8 * k & 255);
  }
};
struct rows_int4 {
  enum { PER = 8, QUANTISED = 1 };
  PK_METHOD static void unpack(unsigned w, float* x) {
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] = (float)(w >> 4 * k & 15);
  }
};

// Scale and bias of a row; they need not lie on four bytes where D is odd.
PK_DEV float embedding_tail(const char* row, pk_int at) {
  unsigned bits = 0;
  for (int k = 0; k < 4; ++k) bits |= (unsigned)(unsigned char)row[at + k] << 8 * k;
  return __uint_as_float(bits);
}

// The word that holds elements [PER * w, PER * w + PER) of a row, for rows of any length: missing bytes are zero.
template <class F> PK_DEV unsigned embedding_word(const char* row, pk_int w, pk_int bytes) {
  unsigned bits = 0;
  for (int k = 0; k < 4 && 4 * w + k < bytes; ++k) bits |= (unsigned)(unsigned char)row[4 * w + k] << 8 * k;
  return bits;
}

// Element `at` of a row, for rows of any length.
template <class F, class E> PK_DEV float embedding_element(const E& e, const char* row, pk_int at, pk_int bytes) {
  float x[F::PER];
  F::unpack(embedding_word<F>(row, at / F::PER, bytes), x);
  float value = x[0];
#pragma unroll
  for (int k = 1; k < F::PER; ++k) value = at % F::PER == k ? x[k] : value;
  return F::QUANTISED ? embedding_tail(row, e.row_bytes - 8) * value + embedding_tail(row, e.row_bytes - 4) : value;
}

template <class F, bool CACHED = false, class E = embedding> PK_DEV void embedding_simple(const pk_args& a) {
  E e(a);
  pk_int bytes = (e.d * 4 + F::PER - 1) / F::PER;  // of the values of a row
  for (pk_int o = pk_thread(); o < e.bags * e.d; o += pk_threads()) {
    pk_int bag = o / e.d, at = o % e.d, begin = e.offset(bag), end = e.offset(bag + 1);
    float sum = 0;
#pragma unroll 1
    for (pk_int i = begin; i < end; ++i) sum += e.weight(i) * embedding_element<F>(e, e.template row<CACHED>(i), at, bytes);
    e.out[o] = sum * e.share(begin, end);
  }
}

// WORDS 32-bit words a lane: 16, 8 or 4 bytes, as the alignment of rows allows.
template <int WORDS> PK_DEV void embedding_load(const char* p, unsigned* w) {
  if (WORDS == 4) {
    pk_word4 v = pk_load_once(p);
#pragma unroll
    for (int k = 0; k < WORDS; ++k) w[k] = v.v[k];
  } else {
    typedef pk_vec<unsigned, WORDS> V;
    V v = *(const V*)p;
#pragma unroll
    for (int k = 0; k < WORDS; ++k) w[k] = v.v[k];
  }
}

template <class F, int WORDS, bool CACHED, class E> PK_DEV void embedding_warp_of(const E& e) {
  enum { PER = WORDS * F::PER };  // elements of the row that a lane reads
  int chunks = (int)(e.d / PER), lanes = 1;
  while (lanes < chunks && lanes < PK_WARP) lanes *= 2;
  int group = pk_lane() / lanes, groups = PK_WARP / lanes;
  for (pk_int bag = pk_warp(); bag < e.bags; bag += pk_warps()) {
    pk_int begin = e.offset(bag), end = e.offset(bag + 1);
#pragma unroll 1
    for (int first = 0; first < chunks; first += lanes) {
      int chunk = first + pk_lane() % lanes;
      bool mine = chunk < chunks;
      float sum[PER] = {};
#pragma unroll 1
      for (pk_int i = begin + group; i < end; i += UNROLL * groups) {
        unsigned w[UNROLL][WORDS];
        float scale[UNROLL], bias[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
          pk_int at = i + u * groups;
          scale[u] = bias[u] = 0;
#pragma unroll
          for (int k = 0; k < WORDS; ++k) w[u][k] = 0;
          if (!mine || at >= end) continue;
          const char* row = e.template row<CACHED>(at);
          embedding_load<WORDS>(row + (pk_int)chunk * WORDS * 4, w[u]);
          float weight = e.weight(at);
          if (F::QUANTISED) {
            scale[u] = weight * *(const float*)(row + e.row_bytes - 8);
            bias[u] = weight * *(const float*)(row + e.row_bytes - 4);
          } else {
            scale[u] = weight;
          }
        }
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
#pragma unroll
          for (int k = 0; k < WORDS; ++k) {
            float x[F::PER];
            F::unpack(w[u][k], x);
#pragma unroll
            for (int j = 0; j < F::PER; ++j) {
              float& s = sum[k * F::PER + j];
              s += scale[u] * x[j];
              if (F::QUANTISED) s += bias[u];
            }
          }
      }
#pragma unroll 1
      for (int d = lanes; d < PK_WARP; d *= 2)
#pragma unroll
        for (int k = 0; k < PER; ++k) sum[k] += PK_SHUFFLE_XOR(sum[k], d);
      if (mine && group == 0) {
        float *out = e.out + bag * e.d + (pk_int)chunk * PER, share = e.share(begin, end);
#pragma unroll
        for (int k = 0; k < PER; ++k) out[k] = sum[k] * share;
      }
    }
  }
}

// 16-byte loads, or 8-byte ones where scale and bias shift every second row; words where rows allow no more, and odd shapes
// the simple way.
template <class F, bool CACHED, class E = embedding> PK_DEV void embedding_warp(const pk_args& a) {
  enum { WORDS = F::QUANTISED ? 2 : 4 };
  E e(a);
  if (e.row_bytes % (4 * WORDS) == 0 && e.d % (WORDS * F::PER) == 0) embedding_warp_of<F, WORDS, CACHED>(e);
  else if (!CACHED && e.row_bytes % 4 == 0 && e.d % F::PER == 0) embedding_warp_of<F, CACHED ? (int)WORDS : 1, CACHED>(e);
  else embedding_simple<F, CACHED, E>(a);
}

// Serves requests until 0xffffffff is written or none came for the time limit. Pointers 7 to 9: state (zeroed, in device memory),
// request and answer (words in mapped host memory); dims 14, 15: first request number, time limit in ns. Request r uses index set
// (r - 1) modulo the sets. Block 0 polls the host and passes the number on, every block does its bags, the last one answers. All
// blocks must be resident: one for each multiprocessor. The table must not change while the kernel runs.
template <class F> PK_DEV void embedding_serve(const pk_args& args) {
  enum { END = 0xffffffffu };
  volatile unsigned *go = (volatile unsigned*)args.ptr[7], *request = (volatile unsigned*)args.ptr[8];
  unsigned* arrived = (unsigned*)args.ptr[7] + 1;
  __shared__ unsigned seen;
  pk_args a = args;
  for (unsigned wanted = (unsigned)args.dim[14];; ++wanted) {
    if (threadIdx.x == 0) {
      volatile unsigned* word = blockIdx.x == 0 ? request : go;
      unsigned long long start = pk_now(), limit = (unsigned long long)args.dim[15] * (blockIdx.x == 0 ? 1 : 2);
      unsigned found = *word;
      while (found != wanted && found != END && pk_now() - start < limit) found = *word;
      seen = found == wanted ? wanted : END;
      __threadfence_system();
      if (blockIdx.x == 0) *go = seen;
    }
    __syncthreads();
    if (seen == END) return;
    a.ptr[1] = (char*)args.ptr[1] + (wanted - 1) % (unsigned)args.dim[7] * args.dim[3] * args.dim[4];
    embedding_warp<F, false, embedding_of<true>>(a);
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x == 0 && atomicAdd(arrived, 1u) == gridDim.x - 1) {
      *arrived = 0;
      __threadfence_system();
      *(volatile unsigned*)args.ptr[9] = wanted;
    }
  }
}

// Gathers: the output is the third operand; a group of lanes takes one row at a time.
template <class F> PK_DEV void gather_simple(const pk_args& a) {
  embedding e(a);
  float* to = (float*)a.ptr[2];
  pk_int bytes = (e.d * 4 + F::PER - 1) / F::PER;
  for (pk_int o = pk_thread(); o < a.dim[3] * e.d; o += pk_threads())
    to[o] = embedding_element<F>(e, e.row<false>(o / e.d), o % e.d, bytes);
}

template <class F, int WORDS> PK_DEV void gather_rows_of(const embedding& e, pk_int lookups, float* to) {
  enum { PER = WORDS * F::PER };
  int chunks = (int)(e.d / PER), lanes = 1;
  while (lanes < chunks && lanes < PK_WARP) lanes *= 2;
  int groups = PK_WARP / lanes;
  pk_int step = pk_warps() * groups;
#pragma unroll 1
  for (pk_int i = pk_warp() * groups + pk_lane() / lanes; i < lookups; i += UNROLL * step) {
#pragma unroll 1
    for (int chunk = pk_lane() % lanes; chunk < chunks; chunk += lanes) {
      unsigned w[UNROLL][WORDS];
      float scale[UNROLL], bias[UNROLL];
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        if (i + u * step >= lookups) continue;
        const char* row = e.row<false>(i + u * step);
        embedding_load<WORDS>(row + (pk_int)chunk * WORDS * 4, w[u]);
        scale[u] = F::QUANTISED ? *(const float*)(row + e.row_bytes - 8) : 1.f;
        bias[u] = F::QUANTISED ? *(const float*)(row + e.row_bytes - 4) : 0.f;
      }
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        if (i + u * step >= lookups) continue;
        float* out = to + (i + u * step) * e.d + (pk_int)chunk * PER;
#pragma unroll
        for (int k = 0; k < WORDS; ++k) {
          float x[F::PER];
          F::unpack(w[u][k], x);
#pragma unroll
          for (int j = 0; j < F::PER; ++j) out[k * F::PER + j] = F::QUANTISED ? scale[u] * x[j] + bias[u] : x[j];
        }
      }
    }
  }
}

template <class F> PK_DEV void gather_rows(const pk_args& a) {
  enum { WORDS = F::QUANTISED ? 2 : 4 };
  embedding e(a);
  float* to = (float*)a.ptr[2];
  if (e.row_bytes % (4 * WORDS) == 0 && e.d % (WORDS * F::PER) == 0) gather_rows_of<F, WORDS>(e, a.dim[3], to);
  else if (e.row_bytes % 4 == 0 && e.d % F::PER == 0) gather_rows_of<F, 1>(e, a.dim[3], to);
  else gather_simple<F>(a);
}

PK_ENTRY(embedding_bag, , fp32, simple, 75, 256, SM(8), none, (embedding_simple<rows_fp32>(a)))
PK_ENTRY(embedding_bag, , fp16, simple, 75, 256, SM(8), none, (embedding_simple<rows_fp16>(a)))
PK_ENTRY(embedding_bag, , bf16, simple, 75, 256, SM(8), none, (embedding_simple<rows_bf16>(a)))
PK_ENTRY(embedding_bag, , int8, simple, 75, 256, SM(8), none, (embedding_simple<rows_int8>(a)))
PK_ENTRY(embedding_bag, , int4, simple, 75, 256, SM(8), none, (embedding_simple<rows_int4>(a)))

PK_ENTRY(embedding_bag, , fp32, warp, 75, 256, ITEMS(0, 8), none, (embedding_warp<rows_fp32, false>(a)))
PK_ENTRY(embedding_bag, , fp16, warp, 75, 256, ITEMS(0, 8), none, (embedding_warp<rows_fp16, false>(a)))
PK_ENTRY(embedding_bag, , bf16, warp, 75, 256, ITEMS(0, 8), none, (embedding_warp<rows_bf16, false>(a)))
PK_ENTRY(embedding_bag, , int8, warp, 75, 256, ITEMS(0, 8), none, (embedding_warp<rows_int8, false>(a)))
PK_ENTRY(embedding_bag, , int4, warp, 75, 256, ITEMS(0, 8), none, (embedding_warp<rows_int4, false>(a)))

PK_ENTRY(embedding_bag, , fp32, cached, 75, 256, ITEMS(0, 8), cached, (embedding_warp<rows_fp32, true>(a)))
PK_ENTRY(embedding_bag, , fp16, cached, 75, 256, ITEMS(0, 8), cached, (embedding_warp<rows_fp16, true>(a)))
PK_ENTRY(embedding_bag, , bf16, cached, 75, 256, ITEMS(0, 8), cached, (embedding_warp<rows_bf16, true>(a)))
PK_ENTRY(embedding_bag, , int8, cached, 75, 256, ITEMS(0, 8), cached, (embedding_warp<rows_int8, true>(a)))
PK_ENTRY(embedding_bag, , int4, cached, 75, 256, ITEMS(0, 8), cached, (embedding_warp<rows_int4, true>(a)))

PK_ENTRY(embedding_bag, , fp32, persistent, 75, 256, SM(1), persistent | ptx, (embedding_serve<rows_fp32>(a)))
PK_ENTRY(embedding_bag, , int8, persistent, 75, 256, SM(1), persistent | ptx, (embedding_serve<rows_int8>(a)))

PK_ENTRY(embedding_gather, , fp32, simple, 75, 256, SM(8), none, (gather_simple<rows_fp32>(a)))
PK_ENTRY(embedding_gather, , fp16, simple, 75, 256, SM(8), none, (gather_simple<rows_fp16>(a)))
PK_ENTRY(embedding_gather, , bf16, simple, 75, 256, SM(8), none, (gather_simple<rows_bf16>(a)))
PK_ENTRY(embedding_gather, , int8, simple, 75, 256, SM(8), none, (gather_simple<rows_int8>(a)))
PK_ENTRY(embedding_gather, , int4, simple, 75, 256, SM(8), none, (gather_simple<rows_int4>(a)))
PK_ENTRY(embedding_gather, , fp32, rows, 75, 256, SM(2, 4, 8), none, (gather_rows<rows_fp32>(a)))
PK_ENTRY(embedding_gather, , fp16, rows, 75, 256, SM(2, 4, 8), none, (gather_rows<rows_fp16>(a)))
PK_ENTRY(embedding_gather, , bf16, rows, 75, 256, SM(2, 4, 8), none, (gather_rows<rows_bf16>(a)))
PK_ENTRY(embedding_gather, , int8, rows, 75, 256, SM(2, 4, 8), none, (gather_rows<rows_int8>(a)))
PK_ENTRY(embedding_gather, , int4, rows, 75, 256, SM(2, 4, 8), none, (gather_rows<rows_int4>(a)))
