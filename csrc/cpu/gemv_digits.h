// Weight-only products by dot products of bytes: x in digits. Needs the one-instruction dot product of vec.h.
//
// Every group of 128 columns of x becomes whole numbers of 24 bits, X = x * unit of at most 127/128 * 2^23, and these three
// digits of base 256, X = 65536 a + 256 b + c, each a signed byte. A weight, moved by OFFSET, is an unsigned byte. Then
//   sum of w x = (256 (256 sum w a + sum w b) + sum w c) / unit
// is exact in whole numbers: in a lane all terms stay under 2^28. What rounds is X, by 3/4 of a unit, so at most 2^-22 of the
// group's largest |x|, and after it fp32 sums over the groups. The offset goes out with the numbers a sum begins with:
// -OFFSET sum a, and -OFFSET sum (256 b + c). A group that holds an infinity or a NaN gives NaN.
//
// What it costs, in instructions of a 64-byte vector for a group of a row: int8 2 to unpack, int4 3; 6 dot products; 5 to join
// the sums and 1 FMA to scale them. In fp32 it is 16 (int8) or 16 (int4) to unpack and 8 FMA. A core that starts one dot
// product or FMA of 64 bytes a cycle needs 7 cycles for these, and 8 in fp32.
//
// In scratch, for each vector and group: a vector each of the two beginnings, then DOTS of each digit, in the order in which
// the weights unpack; then for each vector and group 1 / unit; then the scales of a block's rows times these.
#pragma once
#include "sums.h"
#include "table.h"
#include "vec.h"

#if PK_HAS_INT8_DOT == 2
namespace digits {

using namespace pk;

static constexpr int GROUP = 128;
static constexpr int DOTS = GROUP / PK_VECTOR_BYTES;  // vectors of bytes that a group unpacks to
static constexpr int ROWS = 4;                        // of a block
static constexpr int PLACES = 2 + 3 * DOTS;           // vectors of a group in scratch

PK_VEC i32v bytes_at(const void* p) { return (i32v)loadu<vec<int8_t>>(static_cast<const int8_t*>(p)); }
template <int From, class V, int... I>
PK_VEC V every_other(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (From + 2 * I)...);
}

struct Int8 {
  static constexpr int OFFSET = 128, BYTES = GROUP;
  static constexpr bool SPLIT = false;
  PK_VEC void read(const char* p, i32v* w) {
#pragma GCC unroll 8
    for (int k = 0; k < DOTS; ++k) w[k] = bytes_at(p + k * PK_VECTOR_BYTES) ^ int(0x80808080);
  }
};
struct Int4 {  // low nibbles are even columns
  static constexpr int OFFSET = 8, BYTES = GROUP / 2;
  static constexpr bool SPLIT = true;
  PK_VEC void read(const char* p, i32v* w) {
#pragma GCC unroll 4
    for (int k = 0; k < DOTS; k += 2) {
      const i32v v = bytes_at(p + k / 2 * PK_VECTOR_BYTES);
      w[k] = xor_and(v, 0x08080808, 0x0F0F0F0F), w[k + 1] = xor_and(v >> 4, 0x08080808, 0x0F0F0F0F);
    }
  }
};

struct Operands {
  const char* a;
  const float *scales, *x;
  float* y;
  int64_t rows, cols, batch, row_bytes, groups;
  int8_t* digits;
  float *inverse, *factors;  // 1 / unit; scale / unit

  const int8_t* digits_of(int64_t b, int64_t g) const { return digits + (b * groups + g) * PLACES * PK_VECTOR_BYTES; }
};

static inline int64_t padded(int64_t groups) { return (groups + F32 - 1) / F32 * F32; }

static inline int64_t scratch_bytes(int64_t cols, int64_t batch) {
  const int64_t groups = (cols + GROUP - 1) / GROUP;
  return batch * groups * PLACES * PK_VECTOR_BYTES + (batch + 2 * ROWS) * padded(groups) * 4 + 64;
}

// ------------------------------------------------------------------------------------------------------------- digits

PK_VEC void put_digit(int8_t* out, i32v v) {
  using B = vec<int8_t, PK_VECTOR_BYTES / 4>;
  storeu(out, B(__builtin_convertvector(v, B)));
}

// A group of x (128 values) into its place.
template <class F>
static __attribute__((noinline)) void group_of(const float* x, int8_t* place, float* inverse) {
  f32v top{}, strange{};  // x - x is 0, or NaN
  for (int j = 0; j < GROUP; j += F32) {
    const f32v v = loadu<f32v>(x + j);
    top = vmax(top, v > 0 ? v : -v), strange += v - v;
  }
  const float most = hmax(top) > 0x1p-100f ? hmax(top) : 0x1p-100f;
  uint32_t bits;
  memcpy(&bits, &most, 4);
  bits &= 0x7F800000;
  float power;  // of two, at most `most`
  memcpy(&power, &bits, 4);
  const float unit = 0x1.FCp21f / power;
  *inverse = 1 / unit + hsum(strange);
  int8_t* digit = place + 2 * PK_VECTOR_BYTES;
  for (int j = 0; j < GROUP; j += 2 * F32) {
    f32v v[2] = {loadu<f32v>(x + j), loadu<f32v>(x + j + F32)};
    int at[2] = {j, j + F32};
    if (F::SPLIT) {
      constexpr auto all = std::make_integer_sequence<int, F32>{};
      const f32v even = every_other<0>(v[0], v[1], all), odd = every_other<1>(v[0], v[1], all);
      v[0] = even, v[1] = odd;
      const int half = j / 2;  // place among the even columns, that fill every other vector
      at[0] = half / PK_VECTOR_BYTES * 2 * PK_VECTOR_BYTES + half % PK_VECTOR_BYTES, at[1] = at[0] + PK_VECTOR_BYTES;
    }
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k) {
      const i32v bytes = (to_i32(v[k] * unit) + 0x808080) ^ 0x808080;  // digits of -128 to 127 instead of 0 to 255
      put_digit(digit + at[k], bytes >> 16);
      put_digit(digit + GROUP + at[k], bytes >> 8);
      put_digit(digit + 2 * GROUP + at[k], bytes);
    }
  }
  i32v sum[3] = {};
  for (int d = 0; d < 3; ++d)
    for (int k = 0; k < DOTS; ++k) sum[d] = dot_u8s8(sum[d], i32v{} + 0x01010101, bytes_at(digit + d * GROUP + k * PK_VECTOR_BYTES));
  storeu(reinterpret_cast<int32_t*>(place), sum[0] * -F::OFFSET);
  storeu(reinterpret_cast<int32_t*>(place + PK_VECTOR_BYTES), (sum[2] + (sum[1] << 8)) * -F::OFFSET);
}

template <class F>
static void all_digits(const Operands& p) {
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t g = 0; g < p.groups; ++g) {
      const float* x = p.x + b * p.cols + g * GROUP;
      float part[GROUP] = {};
      if (p.cols - g * GROUP < GROUP) memcpy(part, x, (p.cols - g * GROUP) * 4), x = part;
      group_of<F>(x, const_cast<int8_t*>(p.digits_of(b, g)), p.inverse + b * padded(p.groups) + g);
    }
}

// ------------------------------------------------------------------------------------------------------------- products

// The factors of R rows, i, i + apart.., and B vectors, a line for each pair.
template <int R, int B>
PK_INLINE void factors_of(const Operands& p, int64_t i, int64_t apart, int64_t b0) {
  const int64_t line = padded(p.groups);
  for (int r = 0; r < R; ++r)
    for (int64_t g = 0; g < p.groups; g += F32) {
      const f32v scale = load_first<f32v>(p.scales + (i + r * apart) * p.groups + g, p.groups - g < F32 ? p.groups - g : F32);
      for (int b = 0; b < B; ++b)
        storeu(p.factors + (r * B + b) * line + g, scale * loadu<f32v>(p.inverse + (b0 + b) * line + g));
    }
}

// sum[r][b] += group g of R rows, `stride` apart, times B vectors.
template <class F, int R, int B>
PK_INLINE void group_product(const Operands& p, const char* a, int64_t stride, int64_t b0, int64_t g, f32v (&sum)[R][B]) {
  i32v x[B][PLACES];
#pragma GCC unroll 2
  for (int b = 0; b < B; ++b)
#pragma GCC unroll 32
    for (int k = 0; k < PLACES; ++k) x[b][k] = bytes_at(p.digits_of(b0 + b, g) + k * PK_VECTOR_BYTES);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    i32v w[DOTS];
    F::read(a + r * stride, w);
#pragma GCC unroll 2
    for (int b = 0; b < B; ++b) {
      i32v high = x[b][0], low = x[b][1];
#pragma GCC unroll 8
      for (int k = 0; k < DOTS; ++k) high = dot_u8s8(high, w[k], x[b][2 + k]), low = dot_u8s8(low, w[k], x[b][2 + 2 * DOTS + k]);
      high <<= 8;
#pragma GCC unroll 8
      for (int k = 0; k < DOTS; ++k) high = dot_u8s8(high, w[k], x[b][2 + DOTS + k]);
      const f32v times_256 = (f32v)((i32v)to_f32(high) + (8 << 23));  // 0 becomes 2^-119
      sum[r][b] = fma(times_256 + to_f32(low), broadcast<f32v>(p.factors[(r * B + b) * padded(p.groups) + g]), sum[r][b]);
    }
  }
}

// What the whole groups left of R rows: their bytes with zeros behind them.
template <class F, int R, int B>
static __attribute__((noinline)) void last_group(const Operands& p, const char* a, int64_t stride, int64_t b0, f32v (*sums)[B]) {
  alignas(64) char part[R][F::BYTES] = {};
  const int64_t whole = p.cols / GROUP;
  for (int r = 0; r < R; ++r) memcpy(part[r], a + r * stride + whole * F::BYTES, p.row_bytes - whole * F::BYTES);
  f32v sum[R][B];
  for (int r = 0; r < R; ++r) memcpy(sum[r], sums[r], sizeof(sum[r]));
  group_product<F, R, B>(p, part[0], F::BYTES, b0, whole, sum);
  for (int r = 0; r < R; ++r) memcpy(sums[r], sum[r], sizeof(sum[r]));
}

static constexpr int64_t AHEAD_BYTES = 2048;

// Rows [lo, lo + n) with those `apart`, 2 apart.. behind each, R in all, by vectors b0..: far streams, each asked for a
// little ahead, for one stream does not fill the queues of memory.
template <class F, int R, int B>
static __attribute__((noinline)) void blocks(const Operands& p, int64_t lo, int64_t n, int64_t apart, int64_t b0) {
  const int64_t whole = p.cols / GROUP, stride = apart * p.row_bytes;
  const bool rest = whole < p.groups;
  const int64_t ahead = p.batch > 2 ? p.row_bytes : AHEAD_BYTES;  // where other vectors come in between: the next rows
  const char* a = p.a + lo * p.row_bytes;
  for (int64_t i = lo; i < lo + n; ++i, a += p.row_bytes) {
    f32v sum[R][B] = {};
    factors_of<R, B>(p, i, apart, b0);
    for (int64_t g = 0; g < whole; ++g) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int k = 0; k < F::BYTES; k += 64) prefetch_l2(a + g * F::BYTES, r * stride + ahead + k);
      group_product<F, R, B>(p, a + g * F::BYTES, stride, b0, g, sum);
    }
    if (__builtin_expect(rest, 0)) {
      f32v all[R][B];
      for (int r = 0; r < R; ++r) memcpy(all[r], sum[r], sizeof(sum[r]));
      last_group<F, R, B>(p, a, stride, b0, all);
      for (int r = 0; r < R; ++r) memcpy(sum[r], all[r], sizeof(sum[r]));
    }
#pragma GCC unroll 2
    for (int b = 0; b < B; ++b) {
      float* y = p.y + (b0 + b) * p.rows + i;
      if constexpr (R == 4) {
        const f32x4 total = sums_of(sum[0][b], sum[1][b], sum[2][b], sum[3][b]);
        y[0] = total[0], y[apart] = total[1], y[2 * apart] = total[2], y[3 * apart] = total[3];
      } else {
        y[0] = hsum(sum[0][b]);
      }
    }
  }
}

template <class F>
PK_INLINE void rows_of(const Operands& p, int64_t lo, int64_t hi) {
  const int64_t apart = (hi - lo) / ROWS, rest = lo + ROWS * apart, step = p.batch > 2 ? 1 : apart;  // A is read once
  for (int64_t i = lo; i < lo + apart; i += step) {
    int64_t b = 0;
    for (; b + 2 <= p.batch; b += 2) blocks<F, ROWS, 2>(p, i, step, apart, b);
    if (b < p.batch) blocks<F, ROWS, 1>(p, i, step, apart, b);
  }
  for (int64_t b = 0; b < p.batch; ++b) blocks<F, 1, 1>(p, rest, hi - rest, 1, b);
}

}  // namespace digits
#endif
