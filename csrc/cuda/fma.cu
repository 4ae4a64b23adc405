// Arithmetic ceilings outside the tensor pipes: fused multiply-adds in fp64, fp32 and fp16 pairs, dp4a in int8.
//
// Operands are those of the CPU's fma; the GPU writes the chain: x (in: one unit's start values), a, b (in; their first
// groups are dp4a's factors), chain (out: units x x). dims: units. scalars: m, c. Each element goes 1024 steps of
// y = y m + c (int8: y += a0 . b0). One block a unit, 15 independent chains a thread, all in registers; passes are made inside.
#include "common.cuh"

enum { CHAINS = 15, STEPS = 1024 };

// y[j] starts as x, goes STEPS steps of f, and is left in the block's unit.
template <class T, class F> PK_DEV void fma_chain(const pk_args& a, F f) {
  const T* x = (const T*)a.ptr[0];
  T* out = (T*)a.ptr[3] + (pk_int)blockIdx.x * blockDim.x * CHAINS;
  T y[CHAINS];
#pragma unroll 1
  for (pk_int r = 0; r < a.reps; ++r) {
#pragma unroll
    for (int j = 0; j < CHAINS; ++j) pk_opaque(y[j] = x[threadIdx.x + j * blockDim.x]);
#pragma unroll 8
    for (int step = 0; step < STEPS; ++step)
#pragma unroll
      for (int j = 0; j < CHAINS; ++j) y[j] = f(y[j]);
#pragma unroll
    for (int j = 0; j < CHAINS; ++j) pk_opaque(y[j]);
  }
#pragma unroll
  for (int j = 0; j < CHAINS; ++j) out[threadIdx.x + j * blockDim.x] = y[j];
}

template <class T> PK_DEV void fma_float(const pk_args& a) {
  T m = (T)a.scalar[0], c = (T)a.scalar[1];
  fma_chain<T>(a, [=](T y) { return y * m + c; });
}

// y + a . b over four unsigned and four signed bytes; the compiler may not fold the steps into one.
PK_DEV int fma_dot(int y, unsigned a, unsigned b) {
#if PK_PTX
  asm volatile("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(y) : "r"(a), "r"(b));
#else
  for (int k = 0; k < 4; ++k) y += (int)(unsigned char)(a >> 8 * k) * (int)(signed char)(b >> 8 * k);
#endif
  return y;
}

PK_DEV void fma_int8(const pk_args& args) {
  unsigned a = *(const unsigned*)args.ptr[1], b = *(const unsigned*)args.ptr[2];
  fma_chain<int>(args, [=](int y) { return fma_dot(y, a, b); });
}

// Two halves at a time: a register holds a pair.
PK_DEV unsigned fma_pair(unsigned y, unsigned m, unsigned c) {
#if PK_PTX
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(y), "r"(m), "r"(c));
  return y;
#else
  unsigned out = 0;
  for (int half = 0; half < 32; half += 16) {
    pk_fp16 in[3] = {{(unsigned short)(y >> half)}, {(unsigned short)(m >> half)}, {(unsigned short)(c >> half)}}, to;
    pk_narrow(pk_widen(in[0]) * pk_widen(in[1]) + pk_widen(in[2]), &to);
    out |= (unsigned)to.bits << half;
  }
  return out;
#endif
}

PK_DEV void fma_fp16(const pk_args& a) {
  pk_fp16 m, c;
  pk_narrow((float)a.scalar[0], &m);
  pk_narrow((float)a.scalar[1], &c);
  unsigned mm = m.bits * 0x10001u, cc = c.bits * 0x10001u;
  fma_chain<int>(a, [=](int y) { return (int)fma_pair((unsigned)y, mm, cc); });
}

// Threads times CHAINS is one unit: 3840 elements of 4 bytes, 1920 of 8.
PK_ENTRY(fma, , fp64, chain15, 75, 128, ITEMS(0, 1), loop, (fma_float<double>(a)))
PK_ENTRY(fma, , fp32, chain15, 75, 256, ITEMS(0, 1), loop, (fma_float<float>(a)))
PK_ENTRY(fma, , fp16, pairs15, 75, 256, ITEMS(0, 1), loop | ptx, (fma_fp16(a)))
PK_ENTRY(fma, , int8, dp4a15, 75, 256, ITEMS(0, 1), loop | ptx, (fma_int8(a)))
