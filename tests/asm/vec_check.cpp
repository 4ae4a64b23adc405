// Checks vec.h at the level it is compiled for: conversions, tails, reductions, exp. Prints one line per failure.
// The argument is the number of values of each check, 2^20 without one; `exp` checks the exponentials of every fp32 number.
#include "exp.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

using namespace pk;

static int failures = 0;
static void check(bool ok, const char* what, double x, double got, double want) {
  if (!ok && failures++ < 20) printf("%s(%a): got %a, want %a\n", what, x, got, want);
}
static uint32_t bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static float value(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }

static double half_value(uint16_t h) {
  const int e = h >> 10 & 31, m = h & 1023;
  const double v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
  return h & 0x8000 ? -v : v;
}
static double bf16_value(uint16_t h) { return value(uint32_t(h) << 16); }

// The nearest 16-bit pattern by trying the neighbours of a guess: independent of the code under test.
template <class Value>
static bool nearest_even(float x, uint16_t got, Value value_of, double limit) {
  if (std::isnan(x)) return std::isnan(value_of(got));
  if (std::fabs(x) >= limit) return value_of(got) == std::copysign(INFINITY, x);
  const double error = std::fabs(value_of(got) - double(x));
  for (int d : {-1, 1}) {
    const double other = std::fabs(value_of(uint16_t(got + d)) - double(x));
    if (other < error || (other == error && (got & 1))) return false;
  }
  return std::signbit(value_of(got)) == std::signbit(x);
}

// The largest error of e^x in ulp where the result is a normal number; below them it may be 0, beyond them infinite. Of every
// step-th fp32 number up to `top`, from both sides of 0.
template <class Exp>
static double exp_ulps(Exp exp, float top, uint64_t step) {
  alignas(64) float in[F32], out[F32];
  double worst = 0;
  for (uint64_t u = 0; u < 1ull << 32; u += step * F32) {
    for (int i = 0; i < F32; ++i) in[i] = value(uint32_t(u + i * step)), in[i] = in[i] <= top ? in[i] : 0;  // NaN: no
    storeu(out, exp(load<f32v>(in)));
    for (int i = 0; i < F32; ++i) {
      const double want = std::exp(double(in[i]));
      if (want < 0x1p-126 * 1.00001 || want > 3.4028e38) {
        check(out[i] == 0 || std::isinf(out[i]) || std::fabs(out[i] / want - 1) < 1e-6, "exp", in[i], out[i], want);
      } else {
        worst = std::max(worst, std::fabs(out[i] - want) / std::ldexp(1.0, std::ilogb(want) - 23));
      }
    }
  }
  check(worst <= 1.0, "exp, ulp", 0, worst, 1);
  return worst;
}

int main(int argc, char** argv) {
  const bool all = argc > 1 && !strcmp(argv[1], "exp");
  const int64_t values = all || argc < 2 ? 1 << 20 : atoll(argv[1]);
  const uint64_t step = all ? 1 : (1ull << 32) / values | 1;
  alignas(64) float in[F32], out[F32];
  alignas(64) uint16_t half[F32 + 1];
  for (uint32_t base = 0; base < 65536; base += F32) {  // every 16-bit pattern, from an unaligned address
    for (int i = 0; i < F32; ++i) half[1 + i] = uint16_t(base + i);
    storeu(out, load_fp16(half + 1));
    for (int i = 0; i < F32; ++i) {
      const double want = half_value(half[1 + i]);
      check(out[i] == want || (std::isnan(out[i]) && std::isnan(want)), "fp16", base + i, out[i], want);
    }
    storeu(out, load_bf16(half + 1));
    for (int i = 0; i < F32; ++i) check(bits(out[i]) == uint32_t(half[1 + i]) << 16, "bf16", base + i, out[i], 0);
  }
  for (int64_t n = 0; n < values; n += F32) {
    for (int i = 0; i < F32; ++i) in[i] = value(uint32_t(uint64_t(n + i) * 0x9E3779B97F4A7C15ull >> 32));
    store_fp16(half, load<f32v>(in));
    for (int i = 0; i < F32; ++i) check(nearest_even(in[i], half[i], half_value, 65520), "to fp16", in[i], half_value(half[i]), 0);
    store_bf16(half, load<f32v>(in));
    for (int i = 0; i < F32; ++i)
      check(nearest_even(in[i], half[i], bf16_value, 0x1.FFp127), "to bf16", in[i], bf16_value(half[i]), 0);
  }
  const double low = exp_ulps([](f32v x) { return vexp_low(x); }, 88, step);
  const double worst = std::max(low, exp_ulps([](f32v x) { return vexp(x); }, INFINITY, step));
  const float special[] = {-INFINITY, -1000, 0, 1000, INFINITY};
  const float expected[] = {0, 0, 1, INFINITY, INFINITY};
  for (int i = 0; i < 5; ++i) check(vexp(broadcast<f32v>(special[i]))[0] == expected[i], "exp", special[i], 0, expected[i]);
  for (int i = 0; i < 3; ++i) check(vexp_low(broadcast<f32v>(special[i]))[0] == expected[i], "exp", special[i], 0, expected[i]);
  for (float nan : {NAN, -NAN}) {
    check(std::isnan(vexp(broadcast<f32v>(nan))[0]), "exp", nan, 0, nan);
    check(std::isnan(vexp_low(broadcast<f32v>(nan))[0]), "exp", nan, 0, nan);
  }

  for (int n = 0; n <= F32; ++n) {
    for (int i = 0; i < F32; ++i) in[i] = float(i + 1), out[i] = -1;
    store_first(out, load_first<f32v>(in, n) * 2.0f, n);
    for (int i = 0; i < F32; ++i) check(out[i] == (i < n ? 2.0f * (i + 1) : -1.0f), "first", n, out[i], i);
    const f32v v = load_first<f32v>(in, n);
    check(hsum(v) == float(n * (n + 1) / 2), "hsum", n, hsum(v), n * (n + 1) / 2);
    check(hmax(v) == float(n), "hmax", n, hmax(v), n);
  }
  int8_t bytes[F32];
  for (int i = 0; i < F32; ++i) bytes[i] = int8_t(-100 + 13 * i);
  storeu(out, load_int8_f32(bytes));
  for (int i = 0; i < F32; ++i) check(out[i] == float(bytes[i]), "int8", bytes[i], out[i], 0);
#if PK_HAS_INT8_DOT
  i32v acc = broadcast<i32v>(5), a = broadcast<i32v>(0x7F01027F), b = broadcast<i32v>(int32_t(0x80FF057F));
  check(dot_u8s8(acc, a, b)[F32 - 1] == 5 + 127 * -128 + 1 * -1 + 2 * 5 + 127 * 127, "dot", 0, dot_u8s8(acc, a, b)[0], 0);
#endif
  printf("vector of %d bytes: %s, exp within %.3f ulp\n", PK_VECTOR_BYTES, failures ? "FAILED" : "ok", worst);
  return failures != 0;
}
