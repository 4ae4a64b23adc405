// Rate of exponentials: the ex2 unit's, with what an exponential of full precision needs around it.
//
// Operands and dims are those of kernels/exp.py: x (in: n), y (out: units x n). dims: n, units (one a block). A thread keeps
// KEEP arguments in registers; each pass computes all of them anew, and the last one writes them.
// Variants: expf  the compiler's function; ex2  pk_exp, whose range fits the arguments.
#include "common.cuh"

enum { KEEP = 8, THREADS = 256 };

template <class F> PK_DEV void exp_passes(const pk_args& a, F f) {
  const float* x = (const float*)a.ptr[0];
  float* y = (float*)a.ptr[1] + blockIdx.x * a.dim[0];
  for (pk_int from = threadIdx.x; from < a.dim[0]; from += KEEP * THREADS) {
    float in[KEEP], out[KEEP];
#pragma unroll
    for (int k = 0; k < KEEP; ++k) in[k] = from + k * THREADS < a.dim[0] ? x[from + k * THREADS] : 0.f;
#pragma unroll 2
    for (pk_int r = 0; r < a.reps; ++r) {
#pragma unroll
      for (int k = 0; k < KEEP; ++k) {
        pk_opaque(in[k]);
        out[k] = f(in[k]);
        pk_opaque(out[k]);
      }
    }
#pragma unroll
    for (int k = 0; k < KEEP; ++k)
      if (from + k * THREADS < a.dim[0]) y[from + k * THREADS] = out[k];
  }
}

PK_DEV void exp_expf(const pk_args& a) { exp_passes(a, [](float x) { return expf(x); }); }
PK_DEV void exp_ex2(const pk_args& a) { exp_passes(a, [](float x) { return pk_exp(x); }); }

PK_ENTRY(exp, , fp32, expf, 75, 256, ITEMS(1, 1), loop | ptx, (exp_expf(a)))
PK_ENTRY(exp, , fp32, ex2, 75, 256, ITEMS(1, 1), loop | ptx, (exp_ex2(a)))
