// Counter-based input data: element i depends on the seed and on i only. Its equal in NumPy is pykernels/kernels/random.py.
//
// Word j of a stream is a 64-bit mix of (seed, j): the finalizer of SplitMix64 (Steele, Lea, Flood 2014). An element of
// b bits takes bits [b k, b k + b) of word i / (64 / b), k = i % (64 / b): the lowest bits first.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

namespace pk {

inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}
inline uint64_t stream_key(uint64_t seed) { return mix64(seed + 0x632BE59BD9B4E019ull); }
inline uint64_t word_of(uint64_t key, uint64_t j) { return mix64(key + (j + 1) * 0x9E3779B97F4A7C15ull); }

// Round to nearest even. Values are finite.
inline uint16_t to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return uint16_t((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}
inline uint16_t to_fp16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  const uint16_t sign = uint16_t((u >> 16) & 0x8000);
  u &= 0x7FFFFFFF;
  if (u >= 0x477FF000) return sign | 0x7C00;  // rounds beyond the largest finite value
  if (u < 0x38800000) {                       // subnormal: add a number whose last place is the subnormals' unit
    float a;
    memcpy(&a, &u, 4);
    a += 0.5f;
    uint32_t r;
    memcpy(&r, &a, 4);
    return sign | uint16_t(r - 0x3F000000);
  }
  return sign | uint16_t((u - 0x38000000 + 0xFFF + ((u >> 13) & 1)) >> 13);
}

struct Distribution {
  bool integers;  // whole numbers in [low, high) (also stored as fp64 or fp32), else floating point in [low, high)
  uint64_t seed;
  double low, high;
};

// Fills elements [lo, hi) of an array that starts at p.
template <class Put>
inline void fill_words(int bits, uint64_t key, int64_t lo, int64_t hi, Put put) {
  const int per = 64 / bits;
  for (int64_t i = lo; i < hi;) {
    uint64_t w = word_of(key, uint64_t(i) / per);
    int64_t k = i % per, end = std::min<int64_t>(hi, i - k + per);
    w >>= k * bits % 64;
    for (; i < end; ++i, w = per == 1 ? 0 : w >> bits % 64) put(i, w);
  }
}

// The real number in [low, high) for the top `bits` of a draw of `width` bits, before rounding to the dtype.
inline double scaled(uint64_t draw, double unit, const Distribution& d) { return d.low + (d.high - d.low) * (double(draw) * unit); }

template <class T>
inline void fill_float(T* p, const Distribution& d, int64_t lo, int64_t hi) {
  constexpr int bits = 8 * sizeof(T), keep = bits == 64 ? 52 : 23;
  const double unit = std::ldexp(1.0, -keep);
  fill_words(bits, stream_key(d.seed), lo, hi, [&](int64_t i, uint64_t w) {
    if (bits < 64) w &= 0xFFFFFFFFull;
    const T v = T(scaled(w >> (bits - keep), unit, d));
    p[i] = double(v) < d.high ? v : T(d.low);
  });
}

template <class Narrow>
inline void fill_half(uint16_t* p, const Distribution& d, int64_t lo, int64_t hi, Narrow narrow) {
  const double unit = std::ldexp(1.0, -16);
  const uint16_t low = narrow(float(d.low)), high = narrow(float(d.high));
  fill_words(16, stream_key(d.seed), lo, hi, [&](int64_t i, uint64_t w) {
    const uint16_t v = narrow(float(scaled(w & 0xFFFF, unit, d)));
    p[i] = v == high ? low : v;
  });
}

template <class T>
inline void fill_integers(T* p, const Distribution& d, int64_t lo, int64_t hi) {
  constexpr int bits = 8 * sizeof(T);
  const int64_t low = int64_t(d.low);
  const uint64_t n = uint64_t(int64_t(d.high) - low), mask = bits == 64 ? ~0ull : (1ull << bits % 64) - 1;
  fill_words(bits, stream_key(d.seed), lo, hi, [&](int64_t i, uint64_t w) {
    p[i] = T(low + int64_t(uint64_t((unsigned __int128)(w & mask) * n >> bits)));
  });
}

// Two elements a byte, the low nibble first; lo is even.
inline void fill_int4(uint8_t* p, const Distribution& d, int64_t lo, int64_t hi) {
  const int64_t low = int64_t(d.low);
  const uint64_t n = uint64_t(int64_t(d.high) - low);
  fill_words(4, stream_key(d.seed), lo, hi, [&](int64_t i, uint64_t w) {
    const uint8_t v = uint8_t(low + int64_t((w & 15) * n >> 4)) & 15;
    p[i / 2] = i % 2 ? uint8_t(p[i / 2] | v << 4) : v;
  });
}

// Fills elements [lo, hi) of an array of the dtype; false where the dtype is unknown.
inline bool fill(void* p, const std::string& dtype, const Distribution& d, int64_t lo, int64_t hi) {
  if (d.integers) {
    if (dtype == "int8") return fill_integers(static_cast<int8_t*>(p), d, lo, hi), true;
    if (dtype == "uint8") return fill_integers(static_cast<uint8_t*>(p), d, lo, hi), true;
    if (dtype == "int32") return fill_integers(static_cast<int32_t*>(p), d, lo, hi), true;
    if (dtype == "int64") return fill_integers(static_cast<int64_t*>(p), d, lo, hi), true;
    if (dtype == "fp64") return fill_integers(static_cast<double*>(p), d, lo, hi), true;
    if (dtype == "fp32") return fill_integers(static_cast<float*>(p), d, lo, hi), true;
    if (dtype == "int4") return fill_int4(static_cast<uint8_t*>(p), d, lo, hi), true;
    return false;
  }
  if (dtype == "fp64") return fill_float(static_cast<double*>(p), d, lo, hi), true;
  if (dtype == "fp32") return fill_float(static_cast<float*>(p), d, lo, hi), true;
  if (dtype == "fp16") return fill_half(static_cast<uint16_t*>(p), d, lo, hi, to_fp16), true;
  if (dtype == "bf16") return fill_half(static_cast<uint16_t*>(p), d, lo, hi, to_bf16), true;
  return false;
}

}  // namespace pk
