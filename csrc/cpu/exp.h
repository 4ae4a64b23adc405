// The exponential that softmax, attention, GELU and SiLU use, and whose rate the kernel `exp` measures.
#pragma once
#include "vec.h"

namespace pk {

// e^x in fp32 within 1 ulp (of every fp32 argument: tests/asm/vec_check.cpp, run with `exp`), 0 below the smallest normal
// result and infinity beyond the largest; NaN stays NaN. Cody and Waite's reduction x = n ln 2 + r with ln 2 in two parts, then
// e^r = 1 + r + r^2 q(r), q minimax of degree 5 in the relative error on |r| <= ln 2 / 2 (1e-10), and n added to the exponent.
PK_VEC f32v vexp(f32v x) {
  const float magic = 0x1.8p23f;  // adding it rounds to a whole number, left in the low bits
  const f32v t = fma(x, broadcast<f32v>(0x1.715476p0f), broadcast<f32v>(magic));
  const f32v n = t - magic;
  f32v r = fma(n, broadcast<f32v>(-0x1.62e4p-1f), x);
  r = fma(n, broadcast<f32v>(-0x1.7f7d1cp-20f), r);
  f32v q = broadcast<f32v>(0x1.9dfbd8p-13f);
  q = fma(q, r, broadcast<f32v>(0x1.6d4cc8p-10f));
  q = fma(q, r, broadcast<f32v>(0x1.11130ep-7f));
  q = fma(q, r, broadcast<f32v>(0x1.5554e8p-5f));
  q = fma(q, r, broadcast<f32v>(0x1.555554p-3f));
  q = fma(q, r, broadcast<f32v>(0x1p-1f));
  const f32v p = fma(r * r, q, r) + 1.0f;
  f32v y = (f32v)((u32v)p + ((u32v)t << 23));
  y = x < broadcast<f32v>(-0x1.5d589ep6f) ? f32v{} : y;
  y = x > broadcast<f32v>(0x1.62e42ep6f) ? broadcast<f32v>(__builtin_inff()) : y;
  return x == x ? y : x;
}

// The same for x <= 88, faster: the exponentials of softmax, attention and of their roof, where no argument is above 0. With
// 16 lanes a register holds a table: x = n ln 2 / 16 + r, e^x = 2^(n / 16) (1 + r + r^2 (c2 + c3 r)) with |r| <= ln 2 / 32 (error
// 2e-9). LEFT makes up in r for what the table's entries are rounded by, and n's exponent is added to the entry's own.
PK_VEC f32v vexp_low(f32v x) {
#if PK_VECTOR_BYTES == 64
  const u32v POWER = {0x3F800000, 0x3F7DAAC3, 0x3F7B95C2, 0x3F79C3D3, 0x3F7837F0, 0x3F76F532, 0x3F75FED7, 0x3F75583F,  // less k << 19
                      0x3F7504F3, 0x3F7508A4, 0x3F75672A, 0x3F76248C, 0x3F7744FD, 0x3F78CCDF, 0x3F7AC0C7, 0x3F7D257D};
  const f32v LEFT = {0, 0x1.8d96d4p-25f, -0x1.9c0c22p-27f, 0x1.964902p-25f, 0x1.125002p-25f, 0x1.370be4p-25f, -0x1.0a3552p-25f,
                     -0x1.00d8acp-27f, 0x1.26055cp-26f, -0x1.05cb44p-25f, 0x1.67a1cap-28f, 0x1.a3b5e4p-28f, -0x1.f9c306p-27f,
                     -0x1.6961b4p-28f, -0x1.a5217cp-28f, 0x1.61428ep-28f};
  const f32v magic = broadcast<f32v>(0x1.8p23f);
  const f32v t = fma(x, broadcast<f32v>(0x1.715476p4f), magic);
  const f32v n = t - magic;
  f32v r = fma(n, broadcast<f32v>(-0x1.62ep-5f), x);  // exact
  r = fma(n, broadcast<f32v>(-0x1.0bfbe8p-19f), r) + (f32v)_mm512_permutexvar_ps((__m512i)t, (__m512)LEFT);
  const f32v power = (f32v)((u32v)_mm512_permutexvar_epi32((__m512i)t, (__m512i)POWER) + ((u32v)t << 19));
  const f32v s = fma(fma(r, broadcast<f32v>(0x1.5556c4p-3f), broadcast<f32v>(0x1.00022p-1f)), r, broadcast<f32v>(1.0f));
  const __mmask16 normal = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-0x1.5d589ep6f), _CMP_NLT_UQ);  // or NaN
  return (f32v)_mm512_maskz_fmadd_ps(normal, (__m512)power, (__m512)(s * r), (__m512)power);
#else
  return vexp(x);
#endif
}

}  // namespace pk
