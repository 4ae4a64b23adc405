// Gather roof: whole rows at random, added up and not written; bandwidth for wide rows, row rate for narrow ones.
//
// Pointers: table, indices (int32), sums (out; sums[0] is the wrapping sum of all gathered rows' 64-bit words).
// dims: rows, bytes of a row (a multiple of 8), lookups, bytes of an index. A row is read by as many lanes as it has words,
// so that narrow rows go several at a time, with UNROLL rows in flight for each group of lanes. The same kernel gathers over
// the host link where the table is mapped host memory.
#include "common.cuh"

enum { UNROLL = 8 };

template <class V> PK_DEV unsigned long long gather_words(const char* p);
template <> __device__ __forceinline__ unsigned long long gather_words<pk_word4>(const char* p) { return pk_words(pk_load_once(p)); }
template <> __device__ __forceinline__ unsigned long long gather_words<unsigned long long>(const char* p) {
  return __ldg((const unsigned long long*)p);
}

template <class V> PK_DEV unsigned long long gather_part(const pk_args& a) {
  const char *table = (const char*)a.ptr[0], *indices = (const char*)a.ptr[1];
  pk_int row_bytes = a.dim[1], lookups = a.dim[2], index_bytes = a.dim[3];
  int words = (int)(row_bytes / (pk_int)sizeof(V)), lanes = 1;
  while (lanes < words && lanes < PK_WARP) lanes *= 2;
  int groups = PK_WARP / lanes, rank = pk_lane() % lanes;
  pk_int step = pk_warps() * groups;
  unsigned long long sum = 0;
#pragma unroll 1
  for (pk_int i = pk_warp() * groups + pk_lane() / lanes; i < lookups; i += UNROLL * step) {
    const char* row[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      pk_int at = i + u * step;
      row[u] = at < lookups ? table + (pk_int)__ldg((const unsigned*)(indices + at * index_bytes)) * row_bytes : 0;
    }
#pragma unroll 1
    for (int w = rank; w < words; w += lanes) {
      unsigned long long part[UNROLL];
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) part[u] = row[u] ? gather_words<V>(row[u] + w * (pk_int)sizeof(V)) : 0;
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) sum += part[u];
    }
  }
  return sum;
}

PK_DEV void gather(const pk_args& a) {
  unsigned long long sum = a.dim[1] % 16 == 0 ? gather_part<pk_word4>(a) : gather_part<unsigned long long>(a);
  pk_grid_sum(sum, a.scratch, (unsigned long long*)a.ptr[2]);
}

PK_ENTRY(gather, , fp32, rows, 75, 256, SM(2, 4, 8), none, (gather(a)))
