// What every kernel here shares: one parameter block, one way to declare an entry, vector access, reductions.
//
// PARAMETERS. Every entry takes one pk_args by value: operand pointers in the order of Problem.operands(), then
// Problem.dims() and Problem.scalars(), as a native CPU entry does. `reps` is the number of passes to make inside the
// kernel (1 unless the entry says `loop`); `scratch` is zeroed device memory of PK_SCRATCH_BYTES that every kernel leaves
// zeroed where it counts in it; `tune` is the number after the colon of a variant such as "b16:8".
//
// ENTRIES. PK_ENTRY(kernel, op, dtype, variant, arch, threads, grid, flags, body) defines the function
// kernel__op__dtype__variant. Python reads these lines; there is no second list.
//   arch   least compute capability times ten; put entries above 75 between #if PK_ARCH >= ... and #endif
//   grid   SM(2, 4, 8): so many blocks per multiprocessor, each a candidate of the tuning pass; ITEMS(d, k): one block per
//          k items of dim[d]; ONE: a single block; BLOCKS(n): n blocks
//   flags  any of: loop (makes a.reps passes itself), L1 L2 DRAM (for working sets of these levels only; no other entry is for L1), ptx (its timed
//          path is inline PTX), cached (for end G5), persistent (for that launch path), joined by |; none
//
// No headers are included: NVRTC needs no include folder, and the tests build the same text as host C++ (PK_HOST), where
// inline PTX is replaced by the scalar body beside it. So it is under HIP (PK_PTX 0; untested on a device): warps of 64 lanes
// work as two halves of PK_WARP.
#pragma once

#ifdef __CUDA_ARCH__
#define PK_ARCH (__CUDA_ARCH__ / 10)
#else
#define PK_ARCH 1000  // host build: every entry, through its scalar body
#endif

#if defined(PK_HOST) || defined(__HIP__)
#define PK_PTX 0
#else
#define PK_PTX 1
#endif

#ifdef __HIP__
#define __grid_constant__
#define PK_SHUFFLE_XOR(x, d) __shfl_xor(x, d, PK_WARP)
#else
#define PK_SHUFFLE_XOR(x, d) __shfl_xor_sync(0xffffffffu, x, d)
#endif

typedef long long pk_int;

enum { PK_POINTERS = 12, PK_DIMS = 16, PK_SCALARS = 4, PK_SCRATCH_BYTES = 1 << 20, PK_WARP = 32 };

struct pk_args {
  void* ptr[PK_POINTERS];
  pk_int dim[PK_DIMS];
  double scalar[PK_SCALARS];
  pk_int reps;
  pk_int tune;
  void* scratch;
};

#define PK_ENTRY(kernel, op, dtype, variant, arch, threads, grid, flags, ...)             \
  extern "C" __global__ void __launch_bounds__(threads, 1)                                \
      kernel##__##op##__##dtype##__##variant(const __grid_constant__ pk_args a) {         \
    __VA_ARGS__;                                                                          \
  }

#define PK_DEV static __device__ __forceinline__
#define PK_METHOD __device__ __forceinline__

// ---------------------------------------------------------------------------------------------------------------- types

struct pk_fp16 { unsigned short bits; };
struct pk_bf16 { unsigned short bits; };

PK_DEV float pk_bits_to_float(unsigned bits) { return __uint_as_float(bits); }

PK_DEV float pk_widen(float x) { return x; }
PK_DEV double pk_widen(double x) { return x; }
PK_DEV float pk_widen(signed char x) { return (float)x; }
PK_DEV float pk_widen(unsigned char x) { return (float)x; }
PK_DEV float pk_widen(pk_bf16 x) { return pk_bits_to_float((unsigned)x.bits << 16); }
PK_DEV float pk_widen(pk_fp16 x) {
#if PK_PTX
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  // Shift exponent and mantissa into place, then scale by 2^112: subnormals come out right without a branch.
  unsigned magnitude = (unsigned)(x.bits & 0x7fff) << 13, sign = (unsigned)(x.bits & 0x8000) << 16;
  float wide = pk_bits_to_float(magnitude) * 5.192296858534828e33f;
  if ((x.bits & 0x7c00) == 0x7c00) wide = pk_bits_to_float(magnitude | 0x7f800000u);
  return pk_bits_to_float(__float_as_uint(wide) | sign);
#endif
}

PK_DEV void pk_narrow(float x, float* out) { *out = x; }
PK_DEV void pk_narrow(double x, double* out) { *out = x; }
PK_DEV void pk_narrow(float x, pk_bf16* out) {  // round to nearest even
  unsigned bits = __float_as_uint(x);
  bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out->bits = nan ? (unsigned short)(bits >> 16 | 0x40) : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
PK_DEV void pk_narrow(float x, pk_fp16* out) {
#if PK_PTX
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(x));
#else
  // Adding 2^13 ulp-weights of the target lets the float adder round to nearest even at the half-precision position.
  unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { out->bits = (unsigned short)(sign | 0x7e00); return; }
  if (magnitude >= 0x477ff000u) { out->bits = (unsigned short)(sign | 0x7c00); return; }
  if (magnitude < 0x38800000u) {
    unsigned small = __float_as_uint(pk_bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
    out->bits = (unsigned short)(sign | small);
    return;
  }
  out->bits = (unsigned short)(sign | ((magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000u) >> 13));
#endif
}

// 2^x for x in [-1, 1].
PK_DEV float pk_exp2(float x) {
#if PK_PTX
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

// e^x for x in [-87, 88], one ex2 each: x log2(e) is split into a whole number, which goes into the exponent, and a rest
// within 1/2 that two fused steps get right (ex2 of the whole product errs by its rounding: 2^-18 at the ends).
PK_DEV float pk_exp(float x) {
  const float shift = 12582912.f;  // 1.5 * 2^23: the sum's last bit is worth 1
  float sum = fmaf(x, 1.44269504f, shift), whole = sum - shift;
  float rest = fmaf(x, 1.92596299e-8f, fmaf(x, 1.44269504f, -whole));
  return pk_bits_to_float(__float_as_uint(pk_exp2(rest)) + (__float_as_uint(sum) << 23));
}

// W values moved by one access of W * sizeof(T) bytes.
template <class T, int W> struct alignas(sizeof(T) * W) pk_vec { T v[W]; };

// 16 bytes through one path of the hierarchy; each call is a load the compiler may neither drop nor move out of a loop.
struct alignas(16) pk_word4 { unsigned v[4]; };
PK_DEV pk_word4 pk_load_l1(const void* p) {
  pk_word4 w;
#if PK_PTX
  asm volatile("ld.global.ca.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(w.v[0]), "=r"(w.v[1]), "=r"(w.v[2]), "=r"(w.v[3]) : "l"(p));
#else
  w = *(const pk_word4*)p;
#endif
  return w;
}
PK_DEV pk_word4 pk_load_l2(const void* p) {
  pk_word4 w;
#if PK_PTX
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(w.v[0]), "=r"(w.v[1]), "=r"(w.v[2]), "=r"(w.v[3]) : "l"(p));
#else
  w = *(const pk_word4*)p;
#endif
  return w;
}
// Read once and not kept in L1: rows of a table, streams.
PK_DEV pk_word4 pk_load_once(const void* p) {
  pk_word4 w;
#if PK_PTX
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(w.v[0]), "=r"(w.v[1]), "=r"(w.v[2]), "=r"(w.v[3]) : "l"(p));
#else
  w = *(const pk_word4*)p;
#endif
  return w;
}

// ------------------------------------------------------------------------------------------------------ threads, reductions

PK_DEV pk_int pk_thread() { return (pk_int)blockIdx.x * blockDim.x + threadIdx.x; }
PK_DEV pk_int pk_threads() { return (pk_int)gridDim.x * blockDim.x; }
PK_DEV int pk_lane() { return threadIdx.x & (PK_WARP - 1); }
PK_DEV int pk_warp_in_block() { return threadIdx.x / PK_WARP; }
PK_DEV pk_int pk_warp() { return pk_thread() / PK_WARP; }
PK_DEV pk_int pk_warps() { return pk_threads() / PK_WARP; }

struct pk_add { template <class T> PK_METHOD T operator()(T x, T y) const { return x + y; } };
struct pk_xor { template <class T> PK_METHOD T operator()(T x, T y) const { return x ^ y; } };
struct pk_max { template <class T> PK_METHOD T operator()(T x, T y) const { return x > y ? x : y; } };

// Every lane gets the result over its group of `width` lanes (a power of two up to 32).
template <class T, class F> PK_DEV T pk_warp_reduce(T x, F f, int width = PK_WARP) {
  for (int d = width / 2; d > 0; d /= 2) x = f(x, PK_SHUFFLE_XOR(x, d));
  return x;
}

// Every thread gets the result over its block (a multiple of 32 threads, at most 1024).
template <class T, class F> PK_DEV T pk_block_reduce(T x, F f, T identity) {
  __shared__ T part[PK_WARP];
  x = pk_warp_reduce(x, f);
  if (pk_lane() == 0) part[pk_warp_in_block()] = x;
  __syncthreads();
  x = pk_lane() < (int)(blockDim.x / PK_WARP) ? part[pk_lane()] : identity;
  x = pk_warp_reduce(x, f);
  __syncthreads();
  return x;
}

// One 64-bit word per thread reduced over the grid: each block leaves its part, the last one to arrive reduces them and sets
// the arrival counter back to zero. True in the one thread that then holds the result. scratch: counter, a word per block.
template <class F>
PK_DEV bool pk_grid_reduce(unsigned long long& x, F f, unsigned long long identity, void* scratch) {
  __shared__ bool last;
  unsigned* arrived = (unsigned*)scratch;
  volatile unsigned long long* part = (volatile unsigned long long*)scratch + 1;
  x = pk_block_reduce(x, f, identity);
  if (threadIdx.x == 0) {
    part[blockIdx.x] = x;
    __threadfence();
    last = atomicAdd(arrived, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return false;
  x = identity;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) x = f(x, (unsigned long long)part[i]);
  x = pk_block_reduce(x, f, identity);
  if (threadIdx.x == 0) *arrived = 0;
  return threadIdx.x == 0;
}

// Wrapping sum of one word per thread over the grid.
PK_DEV void pk_grid_sum(unsigned long long x, void* scratch, unsigned long long* out) {
  if (pk_grid_reduce(x, pk_add(), 0ull, scratch)) *out = x;
}

// The 64-bit words of an access, added.
PK_DEV unsigned long long pk_words(unsigned long long w) { return w; }
PK_DEV unsigned long long pk_words(const pk_word4& w) {
  return ((unsigned long long)w.v[1] << 32 | w.v[0]) + ((unsigned long long)w.v[3] << 32 | w.v[2]);
}

// Makes a value needed at this point, so that no pass of a timed loop can be dropped.
PK_DEV void pk_consume(unsigned long long x) {
#if PK_PTX
  asm volatile("" ::"l"(x));
#else
  (void)x;
#endif
}

// Makes a value one that the compiler knows nothing about: what is computed from it must be computed anew, and what led to it
// must have been computed.
#if PK_PTX
PK_DEV void pk_opaque(float& x) { asm volatile("" : "+f"(x)); }
PK_DEV void pk_opaque(double& x) { asm volatile("" : "+d"(x)); }
PK_DEV void pk_opaque(int& x) { asm volatile("" : "+r"(x)); }
#else
template <class T> PK_DEV void pk_opaque(T&) {}
#endif
