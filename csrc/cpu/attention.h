// Attention of the query rows that share one KV head: softmax(scale q k') v, rows in fp32, K and V read once a block.
// attention.cpp holds the functions; layer.cpp uses them too.
#pragma once
#include "gemm.h"

namespace pk {

// Rows of q and o are numbered head by head: row r is query r % lq of head r / lq. Strides in elements. Causal: query i sees
// keys up to i + lk - lq; a query that sees none gets zeros.
template <class E>
struct Heads {
  const E* q;
  const E* k;
  const E* v;
  E* o;
  int64_t q_row, q_head, k_row, v_row, o_row, o_head;
  int64_t lq, lk, group, dim;
  bool causal;
  float scale;
  int64_t rows() const { return group * lq; }
  // Keys before `end` that row r sees.
  int64_t sees(int64_t r, int64_t end) const {
    if (!causal) return end;
    const int64_t last = r % lq + lk - lq + 1;
    return last < 0 ? 0 : last < end ? last : end;
  }
};

inline constexpr int64_t FLASH_ROWS = 192, FLASH_KEYS = 256;

// Rows [r0, r1), at most FLASH_ROWS of them, by tiles of the microkernels; scratch as flash_scratch says.
template <class K>
void flash(const Heads<typename K::A>& h, int64_t r0, int64_t r1, char* scratch);
int64_t flash_scratch(int64_t dim);

// The same for up to SPLIT_ROWS rows over keys [k0, k1) only: maxima, sums and unscaled results (rows of dim). Rows of K and V
// are asked for `ahead` rows before they are needed, 0: not at all. Defined in attention_decode.cpp.
inline constexpr int64_t SPLIT_ROWS = 16;
template <class K>
void stream_keys(const Heads<typename K::A>& h, int64_t r0, int64_t r1, int64_t k0, int64_t k1, int64_t ahead, float* max, float* sum,
                 float* out);
template <class E>
void put_row(const Heads<E>& h, int64_t r, const float* out, float sum);

}  // namespace pk
