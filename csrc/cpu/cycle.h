// One random cycle through n lines: position p of the cycle is line cycle.at(p). Its equal in NumPy is
// pykernels/kernels/cycle.py.
//
// A permutation of k bits made of steps that can be undone: products with odd numbers and x ^= x >> s with 2 s >= k.
// Numbers of n and above are walked over (Black, Rogaway 2002). So a line's successor is known without the lines before it,
// and every thread writes its own part.
#pragma once
#include <cstdint>

#include "random.h"

namespace pk {

class Cycle {
 public:
  Cycle(uint64_t lines, uint64_t seed) : n_(lines) {
    int bits = 1;
    while ((uint64_t(1) << bits) < n_) ++bits;
    mask_ = (uint64_t(1) << bits) - 1, shift_ = (bits + 1) / 2;
    const uint64_t key = stream_key(seed);
    for (int i = 0; i < 3; ++i) factor_[i] = word_of(key, uint64_t(i)) | 1, inverse_[i] = inverse_of(factor_[i]);
    term_ = word_of(key, 3);
  }
  uint64_t at(uint64_t position) const {
    uint64_t x = position;
    do x = mix(x);
    while (x >= n_);
    return x;
  }
  uint64_t position(uint64_t line) const {
    uint64_t x = line;
    do x = unmix(x);
    while (x >= n_);
    return x;
  }
  uint64_t next(uint64_t line) const {
    const uint64_t p = position(line) + 1;
    return at(p == n_ ? 0 : p);
  }

 private:
  static uint64_t inverse_of(uint64_t a) {  // modulo 2^64, by Newton's iteration: correct bits double from 3
    uint64_t x = a;
    for (int i = 0; i < 5; ++i) x *= 2 - a * x;
    return x;
  }
  uint64_t mix(uint64_t x) const {
    x = (x * factor_[0] + term_) & mask_;
    x = ((x ^ (x >> shift_)) * factor_[1]) & mask_;
    return ((x ^ (x >> shift_)) * factor_[2]) & mask_;
  }
  uint64_t unmix(uint64_t x) const {
    x = (x * inverse_[2]) & mask_;
    x = ((x ^ (x >> shift_)) * inverse_[1]) & mask_;
    return (((x ^ (x >> shift_)) - term_) * inverse_[0]) & mask_;
  }
  uint64_t n_, mask_, factor_[3], inverse_[3], term_;
  int shift_;
};

}  // namespace pk
