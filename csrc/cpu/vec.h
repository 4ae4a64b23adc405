// Vectors by the compiler's vector extensions. Their width is a constant of the ISA level: a wider type compiles without
// a word and is scalarised. Intrinsics stand here only, where the language has no form for what the CPU does: streaming
// stores, prefetch, conversions of 16-bit floats, dot products, AMX tiles.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#if defined(__ARM_FEATURE_SVE)
#include <arm_sve.h>
#endif
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define PK_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define PK_VECTOR_BYTES 32
#elif defined(__ARM_FEATURE_SVE_BITS) && __ARM_FEATURE_SVE_BITS > 0
#define PK_VECTOR_BYTES (__ARM_FEATURE_SVE_BITS / 8)
#define PK_SVE 1
#else
#define PK_VECTOR_BYTES 16
#endif

// Registers the level has, for kernels that choose a tile by it.
#if defined(__AVX512F__) || defined(__aarch64__)
#define PK_REGISTERS 32
#else
#define PK_REGISTERS 16
#endif

#if defined(__AVX512F__)
#define PK_REG "v"
#elif defined(__x86_64__)
#define PK_REG "x"
#else
#define PK_REG "w"
#endif

#define PK_VEC static inline __attribute__((always_inline))

namespace pk {

template <class T, int Bytes>
struct vector_of {
  typedef T type __attribute__((vector_size(Bytes), may_alias));
  typedef T unaligned __attribute__((vector_size(Bytes), may_alias, aligned(alignof(T))));
};
// A vector of T, of the level's width unless said otherwise.
template <class T, int Bytes = PK_VECTOR_BYTES>
using vec = typename vector_of<T, Bytes>::type;
template <class T, int Bytes = PK_VECTOR_BYTES>
inline constexpr int lanes = Bytes / int(sizeof(T));

using f32v = vec<float>;
using f64v = vec<double>;
using i32v = vec<int32_t>;
using u32v = vec<uint32_t>;
using u64v = vec<uint64_t>;
inline constexpr int F32 = lanes<float>, F64 = lanes<double>;

template <class V>
using element = std::remove_cvref_t<decltype(V{}[0])>;

// ------------------------------------------------------------------------------------------------- memory

template <class V, class T>
PK_VEC V load(const T* p) { return *reinterpret_cast<const V*>(p); }
template <class V, class T>
PK_VEC V loadu(const T* p) {
  return *reinterpret_cast<const typename vector_of<T, sizeof(V)>::unaligned*>(p);
}
template <class V, class T>
PK_VEC void store(T* p, V v) { *reinterpret_cast<V*>(p) = v; }
template <class V, class T>
PK_VEC void storeu(T* p, V v) { *reinterpret_cast<typename vector_of<T, sizeof(V)>::unaligned*>(p) = v; }

// Streaming (nontemporal) store; p is aligned to the vector. Order it with stream_fence().
template <class V>
PK_VEC void stream_store(void* p, V v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) { _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v); return; } else
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v); return; } else
#endif
#if defined(__x86_64__)
  { static_assert(sizeof(V) == 16); _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v); }
#elif defined(PK_SVE)
  { svstnt1_s32(svptrue_b32(), static_cast<int32_t*>(p), (svint32_t)(i32v)v); }
#else  // stnp stores a pair: the two halves of one vector
  { asm volatile("stnp %d0, %d1, [%2]" : : "w"(v), "w"(vextq_u8((uint8x16_t)v, (uint8x16_t)v, 8)), "r"(p) : "memory"); }
#endif
}

PK_VEC void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

PK_VEC void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
// Into the L2. The address is reckoned as an integer, since what is asked for ahead may pass the array's end.
PK_VEC void prefetch_l2(const void* p, int64_t bytes) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) + uintptr_t(bytes)), 0, 2);
}
PK_VEC void prefetch_write(const void* p) { __builtin_prefetch(p, 1, 3); }

// f of the constants 0 to N - 1: an array that only constants index stays in registers.
template <int... I, class F>
PK_VEC void each(std::integer_sequence<int, I...>, [[maybe_unused]] F f) { (f(std::integral_constant<int, I>{}), ...); }
template <int N, class F>
PK_VEC void each(F f) { each(std::make_integer_sequence<int, N>{}, f); }

// Says that v is used, at no cost: the compiler must have it in a register here.
template <class V>
PK_VEC void consume(V& v) { asm volatile("" : "+" PK_REG(v)); }
// Says that memory may have changed: loads before and after are different loads.
PK_VEC void forget_memory() { asm volatile("" ::: "memory"); }

// (v ^ flip) & mask of every 32-bit lane.
PK_VEC i32v xor_and(i32v v, int flip, int mask) {
#if PK_VECTOR_BYTES == 64
  return (i32v)_mm512_ternarylogic_epi32((__m512i)v, _mm512_set1_epi32(flip), _mm512_set1_epi32(mask), 0x28);
#else
  return (v ^ flip) & mask;
#endif
}

// One group of a panel (a float, a pair of bf16, four int8: 4 or 8 bytes) in every lane.
template <class V>
PK_VEC V broadcast_group(const element<V>* p) { return *p - V{}; }

// ----------------------------------------------------------------------------------------------- arithmetic

template <class V>
PK_VEC V broadcast(element<V> x) { return x - V{}; }
// The Bytes at p (unaligned), over and over.
template <class V, int Bytes>
PK_VEC V repeat(const void* p) {
  V v;
  if constexpr (Bytes == 4 || Bytes == 8) {
    using T = std::conditional_t<Bytes == 4, uint32_t, uint64_t>;
    T x;
    __builtin_memcpy(&x, p, Bytes);
    return (V)(x - vec<T, sizeof(V)>{});
  }
#if defined(__AVX512F__)
  if constexpr (Bytes == 32 && sizeof(V) == 64) return (V)_mm512_broadcast_f64x4(_mm256_loadu_pd(static_cast<const double*>(p)));
  if constexpr (Bytes == 16 && sizeof(V) == 64) return (V)_mm512_broadcast_f32x4(_mm_loadu_ps(static_cast<const float*>(p)));
#endif
#if defined(__AVX__)
  if constexpr (Bytes == 16 && sizeof(V) == 32) return (V)_mm256_broadcast_ps(static_cast<const __m128*>(p));
#endif
  for (int i = 0; i < int(sizeof(V)); i += Bytes) __builtin_memcpy(reinterpret_cast<char*>(&v) + i, p, Bytes);
  return v;
}
// a * b + c; one instruction where the level has it (contraction is on in these libraries).
template <class V>
PK_VEC V fma(V a, V b, V c) { return a * b + c; }
template <class V>
PK_VEC V vmax(V a, V b) { return a > b ? a : b; }
template <class V>
PK_VEC V vmin(V a, V b) { return a < b ? a : b; }

template <int From, class V, int... I>
PK_VEC auto part_of(V v, std::integer_sequence<int, I...>) {
  using H = vec<element<V>, sizeof(V) / 2>;
#if __has_builtin(__builtin_shufflevector)
  return H(__builtin_shufflevector(v, v, (From + I)...));
#else
  return H{v[From + I]...};
#endif
}
template <class V>
PK_VEC auto low_half(V v) { return part_of<0>(v, std::make_integer_sequence<int, sizeof(V) / sizeof(v[0]) / 2>{}); }
template <class V>
PK_VEC auto high_half(V v) {
  constexpr int n = sizeof(V) / sizeof(element<V>) / 2;
  return part_of<n>(v, std::make_integer_sequence<int, n>{});
}

// Joins the halves of a vector by an operation down to 16 bytes and then its lanes: a tree.
template <class V, class Op>
PK_VEC element<V> reduce(V v, Op op) {
  using T = element<V>;
  if constexpr (sizeof(V) > 16) {
    return reduce(op(low_half(v), high_half(v)), op);
  } else if constexpr (sizeof(T) == 8) {
    return op(v, vec<T, 16>{v[1], v[0]})[0];
  } else if constexpr (sizeof(T) == 4) {
    v = op(v, vec<T, 16>{v[2], v[3], v[0], v[1]});
    return op(v, vec<T, 16>{v[1], v[0], v[3], v[2]})[0];
  } else {
    T r = v[0];
    for (int i = 1; i < lanes<T, 16>; ++i) r = op(vec<T, 16>{r}, vec<T, 16>{v[i]})[0];
    return r;
  }
}
template <class V>
PK_VEC element<V> hsum(V v) { return reduce(v, [](auto a, auto b) __attribute__((always_inline)) { return a + b; }); }
template <class V>
PK_VEC element<V> hmax(V v) { return reduce(v, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; }); }
template <class V>
PK_VEC element<V> hmin(V v) { return reduce(v, [](auto a, auto b) __attribute__((always_inline)) { return a < b ? a : b; }); }
// Whether a lane of a is above that of b.
PK_VEC bool any_above(f32v a, f32v b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
#elif defined(__AVX__)
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)) != 0;
#elif defined(__x86_64__)
  return _mm_movemask_ps(_mm_cmpgt_ps((__m128)a, (__m128)b)) != 0;
#else
  return hmax((f32v)(a > b ? f32v{} + 1 : f32v{})) > 0;
#endif
}

// ----------------------------------------------------------------------------------------------- part vectors

// The first n elements at p (0 <= n <= lanes), zeros beyond; and the first n elements to p.
template <class V, class T>
PK_VEC V load_first(const T* p, int64_t n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(T) == 4) return (V)_mm512_maskz_loadu_epi32(__mmask16((1u << n) - 1), p);
  if constexpr (sizeof(V) == 64 && sizeof(T) == 8) return (V)_mm512_maskz_loadu_epi64(__mmask8((1u << n) - 1), p);
#endif
  V v{};
  for (int64_t i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
template <class V, class T>
PK_VEC void store_first(T* p, V v, int64_t n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(T) == 4) return _mm512_mask_storeu_epi32(p, __mmask16((1u << n) - 1), (__m512i)v);
  if constexpr (sizeof(V) == 64 && sizeof(T) == 8) return _mm512_mask_storeu_epi64(p, __mmask8((1u << n) - 1), (__m512i)v);
#endif
  for (int64_t i = 0; i < n; ++i) p[i] = v[i];
}

// ------------------------------------------------------------------------------------------------ conversions
// F32 elements of a 16-bit or 8-bit type at p (unaligned) as fp32 or int32, and back, rounding to nearest even.

PK_VEC u32v load_u16(const uint16_t* p) {
#if PK_VECTOR_BYTES == 64
  return (u32v)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return (u32v)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  return __builtin_convertvector((loadu<vec<uint16_t, PK_VECTOR_BYTES / 2>>(p)), u32v);
#endif
}
PK_VEC void store_u16(uint16_t* p, u32v v) {
#if PK_VECTOR_BYTES == 64
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)v));
#else
  using H = vec<uint16_t, PK_VECTOR_BYTES / 2>;
  storeu(p, H(__builtin_convertvector(v, H)));
#endif
}

PK_VEC f32v load_bf16(const uint16_t* p) { return (f32v)(load_u16(p) << 16); }
PK_VEC void store_bf16(uint16_t* p, f32v v) {
  const u32v bits = (u32v)v, rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  store_u16(p, v == v ? rounded : (bits >> 16 | 0x40));  // NaN stays NaN
}

// The same by the level's own instruction where it has one: subnormals may become zero.
PK_VEC void store_bf16_quick(uint16_t* p, f32v v) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
  store_bf16(p, v);
#endif
}

PK_VEC f32v load_fp16(const uint16_t* p) {
#if PK_VECTOR_BYTES == 64
  return (f32v)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return (f32v)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__ARM_NEON) && PK_VECTOR_BYTES == 16
  return (f32v)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else  // exponents are rescaled by a multiplication, which gets subnormals right; infinities and NaN by hand
  const u32v h = load_u16(p), sign = (h & 0x8000) << 16, magnitude = (h & 0x7FFF) << 13;
  const u32v scaled = (u32v)((f32v)magnitude * 0x1p112f);
  return (f32v)(sign | (magnitude >= u32v{} + 0x0F800000 ? magnitude | 0x7F800000 : scaled));
#endif
}
PK_VEC void store_fp16(uint16_t* p, f32v v) {
#if PK_VECTOR_BYTES == 64
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__ARM_NEON) && PK_VECTOR_BYTES == 16
  vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v)));
#else
  const u32v bits = (u32v)v, sign = bits >> 16 & 0x8000, u = bits & 0x7FFFFFFF;
  const u32v normal = (u - 0x38000000 + 0xFFF + (u >> 13 & 1)) >> 13;
  const u32v subnormal = (u32v)((f32v)u + 0.5f) - 0x3F000000;
  u32v r = u < u32v{} + 0x38800000 ? subnormal : normal;
  r = u >= u32v{} + 0x477FF000 ? u32v{} + 0x7C00 : r;
  r = u > u32v{} + 0x7F800000 ? u32v{} + 0x7E00 : r;
  store_u16(p, sign | r);
#endif
}

// F32 signed or unsigned bytes as int32.
PK_VEC i32v load_int8(const int8_t* p) {
#if PK_VECTOR_BYTES == 64
  return (i32v)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__AVX2__)
  return (i32v)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
  return __builtin_convertvector((loadu<vec<int8_t, PK_VECTOR_BYTES / 4>>(p)), i32v);
#endif
}
PK_VEC i32v load_uint8(const uint8_t* p) {
#if PK_VECTOR_BYTES == 64
  return (i32v)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__AVX2__)
  return (i32v)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
  return __builtin_convertvector((loadu<vec<uint8_t, PK_VECTOR_BYTES / 4>>(p)), i32v);
#endif
}
PK_VEC f32v to_f32(i32v v) { return __builtin_convertvector(v, f32v); }
// Rounded to the nearest whole number.
PK_VEC i32v to_i32(f32v v) {
#if PK_VECTOR_BYTES == 64
  return (i32v)_mm512_cvtps_epi32((__m512)v);
#else
  return __builtin_convertvector(v + (v < 0 ? broadcast<f32v>(-0.5f) : broadcast<f32v>(0.5f)), i32v);
#endif
}
// F32 signed bytes as fp32.
PK_VEC f32v load_int8_f32(const int8_t* p) { return to_f32(load_int8(p)); }

// --------------------------------------------------------------------------------------------- dot products

// acc[i] += a[2i] b[2i] + a[2i+1] b[2i+1] of bf16 pairs, as the CPU rounds it.
#if defined(__AVX512BF16__)
#define PK_HAS_BF16_DOT 1
PK_VEC f32v dot_bf16(f32v acc, i32v a, i32v b) {
  return (f32v)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
}
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC) && defined(PK_SVE)
#define PK_HAS_BF16_DOT 1
PK_VEC f32v dot_bf16(f32v acc, i32v a, i32v b) {
  return (f32v)svbfdot_f32((svfloat32_t)acc, svreinterpret_bf16_s32((svint32_t)a), svreinterpret_bf16_s32((svint32_t)b));
}
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define PK_HAS_BF16_DOT 1
PK_VEC f32v dot_bf16(f32v acc, i32v a, i32v b) {
  return (f32v)vbfdotq_f32((float32x4_t)acc, (bfloat16x8_t)a, (bfloat16x8_t)b);
}
#else
#define PK_HAS_BF16_DOT 0
#endif

// acc[i] += sum over j < 4 of a[4i+j] b[4i+j], a unsigned and b signed bytes. Without VNNI the pairs pass through 16 bits
// with saturation, so it is exact for a <= 127 only. PK_HAS_INT8_DOT: 2 where one instruction does it, 1 where three do.
#if defined(__AVX512VNNI__)
#define PK_HAS_INT8_DOT 2
PK_VEC i32v dot_u8s8(i32v acc, i32v a, i32v b) {
  return (i32v)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
}
#elif defined(__AVX512BW__)
#define PK_HAS_INT8_DOT 1
PK_VEC i32v dot_u8s8(i32v acc, i32v a, i32v b) {
  const __m512i pairs = _mm512_maddubs_epi16((__m512i)a, (__m512i)b);
  return acc + (i32v)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
#elif defined(__AVX2__)
#define PK_HAS_INT8_DOT 1
PK_VEC i32v dot_u8s8(i32v acc, i32v a, i32v b) {
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)a, (__m256i)b);
  return acc + (i32v)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#elif defined(__SSSE3__)
#define PK_HAS_INT8_DOT 1
PK_VEC i32v dot_u8s8(i32v acc, i32v a, i32v b) {
  const __m128i pairs = _mm_maddubs_epi16((__m128i)a, (__m128i)b);
  return acc + (i32v)_mm_madd_epi16(pairs, _mm_set1_epi16(1));
}
#elif defined(__ARM_FEATURE_MATMUL_INT8) && defined(PK_SVE)
#define PK_HAS_INT8_DOT 2
PK_VEC i32v dot_u8s8(i32v acc, i32v a, i32v b) {
  return (i32v)svusdot_s32((svint32_t)acc, svreinterpret_u8_s32((svint32_t)a), svreinterpret_s8_s32((svint32_t)b));
}
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#define PK_HAS_INT8_DOT 2
PK_VEC i32v dot_u8s8(i32v acc, i32v a, i32v b) {
  return (i32v)vusdotq_s32((int32x4_t)acc, (uint8x16_t)a, (int8x16_t)b);
}
#else
#define PK_HAS_INT8_DOT 0
#endif

// acc[i] += a[2i] b[2i] + a[2i+1] b[2i+1] of signed 16-bit pairs, exactly.
PK_VEC i32v dot_s16(i32v acc, i32v a, i32v b) {
#if defined(__AVX512BW__)
  return acc + (i32v)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return acc + (i32v)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
  return acc + (i32v)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  return acc + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

// ---------------------------------------------------------------------------------------------------- AMX tiles

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define PK_HAS_AMX 1
// All eight tiles 16 rows of 64 bytes.
PK_VEC void amx_open() {
  struct alignas(64) { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } config{};
  config.palette = 1;
  for (int i = 0; i < 8; ++i) config.bytes[i] = 64, config.rows[i] = 16;
  _tile_loadconfig(&config);
}
PK_VEC void amx_close() { _tile_release(); }
#else
#define PK_HAS_AMX 0
#endif

}  // namespace pk
