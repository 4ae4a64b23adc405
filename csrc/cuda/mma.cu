// Tensor pipes by warp-level mma.sync: the rate of dependent chains, four to a warp, with operands in registers.
//
// Operands: a (in: M x K, row-major), b (in: CHAINS x N x K), out (tiles x M x N, accumulator type). dims: tiles, depth.
// The op is the instruction's shape.
// Every tile is out = depth * a * (b_0 + ... + b_3)^T, one warp each, so one small product checks them all.
// Where wgmma or tcgen05 exist mma.sync is not the tensor peak; the cuBLASLt GEMM beside it is the envelope.
// Fragment layouts: PTX ISA, "Matrix fragments for mma". g = lane / 4, t = lane % 4, U elements a register.
#include "common.cuh"

enum { N = 8, CHAINS = 4 };

struct pk_e4m3 { unsigned char bits; };
PK_DEV float pk_widen(pk_e4m3 x) {  // no infinities; NaN is never among the inputs
  unsigned magnitude = (unsigned)(x.bits & 0x7f) << 20, sign = (unsigned)(x.bits & 0x80) << 24;
  return pk_bits_to_float(__float_as_uint(pk_bits_to_float(magnitude) * 1.329227995784916e36f) | sign);  // 2^120
}

#if PK_PTX
#define MMA(text, ...) asm volatile(text __VA_ARGS__)
#else
#define MMA(text, ...) (void)0
#endif

#define D4(f) "+" f(c[0]), "+" f(c[1]), "+" f(c[2]), "+" f(c[3])
#define MMA_4_2(name, f) MMA("mma.sync.aligned." name " {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};", \
  : D4(f) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

#define PK_STEP static __device__ __forceinline__ void step(Acc* c, const Word* a, const Word* b)

// One step for each shape: element T as stored, Word a register of them, Acc the accumulator.
template <class T, class W, class A, int M_, int K_> struct shape {
  typedef T Element; typedef W Word; typedef A Acc;
  enum { M = M_, K = K_, U = sizeof(W) / sizeof(T), AREGS = M * K / 32 / U, BREGS = N * K / 32 / U, CREGS = M * N / 32 };
};
struct fp16_k8 : shape<pk_fp16, unsigned, float, 16, 8> {
  PK_STEP { MMA("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};",
                : D4("f") : "r"(a[0]), "r"(a[1]), "r"(b[0])); }
};
struct int8_k16 : shape<signed char, unsigned, int, 8, 16> {
  PK_STEP { MMA("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1},{%2},{%3},{%0,%1};",
                : "+r"(c[0]), "+r"(c[1]) : "r"(a[0]), "r"(b[0])); }
};
#if PK_ARCH >= 80
struct fp16_k16 : shape<pk_fp16, unsigned, float, 16, 16> { PK_STEP { MMA_4_2("m16n8k16.row.col.f32.f16.f16.f32", "f"); } };
struct bf16_k16 : shape<pk_bf16, unsigned, float, 16, 16> { PK_STEP { MMA_4_2("m16n8k16.row.col.f32.bf16.bf16.f32", "f"); } };
struct tf32_k8 : shape<float, unsigned, float, 16, 8> { PK_STEP { MMA_4_2("m16n8k8.row.col.f32.tf32.tf32.f32", "f"); } };
struct int8_k32 : shape<signed char, unsigned, int, 16, 32> { PK_STEP { MMA_4_2("m16n8k32.row.col.s32.s8.s8.s32", "r"); } };
struct fp64_k4 : shape<double, double, double, 8, 4> {
  PK_STEP { MMA("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1},{%2},{%3},{%0,%1};",
                : "+d"(c[0]), "+d"(c[1]) : "d"(a[0]), "d"(b[0])); }
};
#endif
#if PK_ARCH >= 89
struct e4m3_k32 : shape<pk_e4m3, unsigned, float, 16, 32> { PK_STEP { MMA_4_2("m16n8k32.row.col.f32.e4m3.e4m3.f32", "f"); } };
#endif
#if PK_ARCH >= 90
struct fp64_k16 : shape<double, double, double, 16, 16> {
  PK_STEP { MMA("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%0,%1,%2,%3},{%4,%5,%6,%7,%8,%9,%10,%11},"
                "{%12,%13,%14,%15},{%0,%1,%2,%3};",
                : D4("d") : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]),
                  "d"(b[0]), "d"(b[1]), "d"(b[2]), "d"(b[3])); }
};
#endif

// What one step adds to this lane's accumulators, without tensor pipes.
template <class S> PK_DEV void mma_scalar(typename S::Acc* c, const pk_args& args, int chain) {
  typedef typename S::Element T;
  const T *a = (const T*)args.ptr[0], *b = (const T*)args.ptr[1] + chain * N * S::K;
  int g = pk_lane() / 4, t = pk_lane() % 4;
  for (int r = 0; r < S::CREGS; ++r) {
    int row = g + r / 2 * 8, column = 2 * t + r % 2;
    typename S::Acc sum = 0;
    for (int k = 0; k < S::K; ++k) sum += (typename S::Acc)(pk_widen(a[row * S::K + k]) * pk_widen(b[column * S::K + k]));
    c[r] += sum;
  }
}

template <class S> PK_DEV void mma_tiles(const pk_args& args) {
  typedef typename S::Word Word;
  typedef typename S::Acc Acc;
  int g = pk_lane() / 4, t = pk_lane() % 4;
  enum { ROW = S::K / S::U };  // registers along a row
  Word a[S::AREGS], b[CHAINS][S::BREGS];
  const Word *wa = (const Word*)args.ptr[0], *wb = (const Word*)args.ptr[1];
#pragma unroll
  for (int r = 0; r < S::AREGS; ++r) {
    const int halves = S::M / 8;
    a[r] = wa[(g + r % halves * 8) * ROW + t + r / halves * 4];
  }
#pragma unroll
  for (int j = 0; j < CHAINS; ++j)
#pragma unroll
    for (int r = 0; r < S::BREGS; ++r) b[j][r] = wb[(j * N + g) * ROW + t + r * 4];
  for (pk_int tile = pk_warp(); tile < args.dim[0]; tile += pk_warps()) {
    Acc c[CHAINS][S::CREGS] = {};
#pragma unroll 4
    for (pk_int d = 0; d < args.dim[1]; ++d)
#pragma unroll
      for (int j = 0; j < CHAINS; ++j) {
#if PK_PTX
        S::step(c[j], a, b[j]);
#else
        mma_scalar<S>(c[j], args, j);
#endif
      }
    Acc* out = (Acc*)args.ptr[2] + tile * S::M * N;
#pragma unroll
    for (int r = 0; r < S::CREGS; ++r)
      out[(g + r / 2 * 8) * N + 2 * t + r % 2] = c[0][r] + c[1][r] + c[2][r] + c[3][r];
  }
}

PK_ENTRY(mma, m16n8k8, fp16, chains4, 75, 256, SM(1, 2, 3), ptx, (mma_tiles<fp16_k8>(a)))
PK_ENTRY(mma, m8n8k16, int8, chains4, 75, 256, SM(1, 2, 3), ptx, (mma_tiles<int8_k16>(a)))
#if PK_ARCH >= 80
PK_ENTRY(mma, m16n8k16, fp16, chains4, 80, 256, SM(1, 2, 3), ptx, (mma_tiles<fp16_k16>(a)))
PK_ENTRY(mma, m16n8k16, bf16, chains4, 80, 256, SM(1, 2, 3), ptx, (mma_tiles<bf16_k16>(a)))
PK_ENTRY(mma, m16n8k8, tf32, chains4, 80, 256, SM(1, 2, 3), ptx, (mma_tiles<tf32_k8>(a)))
PK_ENTRY(mma, m16n8k32, int8, chains4, 80, 256, SM(1, 2, 3), ptx, (mma_tiles<int8_k32>(a)))
PK_ENTRY(mma, m8n8k4, fp64, chains4, 80, 256, SM(1, 2, 3), ptx, (mma_tiles<fp64_k4>(a)))
#endif
#if PK_ARCH >= 89
PK_ENTRY(mma, m16n8k32, fp8, chains4, 89, 256, SM(1, 2, 3), ptx, (mma_tiles<e4m3_k32>(a)))
#endif
#if PK_ARCH >= 90
PK_ENTRY(mma, m16n8k16, fp64, chains4, 90, 256, SM(1, 2, 3), ptx, (mma_tiles<fp64_k16>(a)))
#endif
