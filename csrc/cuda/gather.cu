// Gather roof: whole rows at random, added up and not written; bandwidth for wide rows, row rate for narrow ones.
//
// Operands and dims are those of kernels/gather.py: table, indices (int32, this call's set), sums (out; sums[0] is the wrapping
// sum of all gathered rows' 64-bit words, a last half word of a row taken as its value). dims: rows, bytes of a row (a multiple
// of 4), lookups, bytes of an index, index sets. A row is read by as many lanes as it has words, so that narrow rows go several
// at a time, with UNROLL rows in flight for each group of lanes. Where the table is mapped host memory the same kernel gathers
// over the link.
#include "common.cuh"

enum { UNROLL = 8 };

// What word w of a row adds: 16, 8 or 4 bytes as rows are aligned.
struct gather_16 {
  enum { BYTES = 16 };
  PK_METHOD static unsigned long long add(const char* row, int w) { return pk_words(pk_load_once(row + w * (pk_int)BYTES)); }
};
struct gather_8 {
  enum { BYTES = 8 };
  PK_METHOD static unsigned long long add(const char* row, int w) { return __ldg((const unsigned long long*)row + w); }
};
struct gather_4 {
  enum { BYTES = 4 };
  PK_METHOD static unsigned long long add(const char* row, int w) {
    return (unsigned long long)__ldg((const unsigned*)row + w) << (w % 2 ? 32 : 0);
  }
};

template <class W> PK_DEV unsigned long long gather_part(const pk_args& a) {
  const char *table = (const char*)a.ptr[0], *indices = (const char*)a.ptr[1];
  pk_int row_bytes = a.dim[1], lookups = a.dim[2], index_bytes = a.dim[3];
  int words = (int)(row_bytes / (pk_int)W::BYTES), lanes = 1;
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
      for (int u = 0; u < UNROLL; ++u) part[u] = row[u] ? W::add(row[u], w) : 0;
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) sum += part[u];
    }
  }
  return sum;
}

PK_DEV void gather(const pk_args& a) {
  pk_int bytes = a.dim[1];
  unsigned long long sum = bytes % 16 == 0 ? gather_part<gather_16>(a) : bytes % 8 == 0 ? gather_part<gather_8>(a) : gather_part<gather_4>(a);
  pk_grid_sum(sum, a.scratch, (unsigned long long*)a.ptr[2]);
}

PK_ENTRY(gather, , fp32, rows, 75, 256, SM(2, 4, 8), none, (gather(a)))
