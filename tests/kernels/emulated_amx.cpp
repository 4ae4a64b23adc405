// The products of gemm_amx.cpp on tiles that ordinary code plays, against sums in double; operands are exactly as long as they
// must be, for a build with sanitizers. Prints a line a product; exit code 1 where one is wrong.
#include <immintrin.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

static uint8_t tile[8][16][64];
static float widened(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float x;
  memcpy(&x, &wide, 4);
  return x;
}
static void load_tile(int t, const void* base, long stride) {
  for (int r = 0; r < 16; ++r) memcpy(tile[t][r], static_cast<const char*>(base) + r * stride, 64);
}
static void store_tile(int t, void* base, long stride) {
  for (int r = 0; r < 16; ++r) memcpy(static_cast<char*>(base) + r * stride, tile[t][r], 64);
}
// c[i][j] += sum over groups g and members x of a[i][g][x] b[g][j][x].
template <class T, class A, class B, class Read>
static void dot_tiles(int c, int a, int b, Read read) {
  constexpr int per = 4 / sizeof(A);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j)
      for (int g = 0; g < 16; ++g)
        for (int x = 0; x < per; ++x)
          reinterpret_cast<T*>(tile[c][i])[j] += T(read(reinterpret_cast<const A*>(tile[a][i])[g * per + x])) *
                                                 T(read(reinterpret_cast<const B*>(tile[b][g])[j * per + x]));
}
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbusd
#define _tile_zero(t) memset(tile[t], 0, sizeof tile[t])
#define _tile_loadd(t, base, stride) load_tile(t, base, stride)
#define _tile_stored(t, base, stride) store_tile(t, base, stride)
#define _tile_dpbf16ps(c, a, b) dot_tiles<float, uint16_t, uint16_t>(c, a, b, widened)
#define _tile_dpbusd(c, a, b) dot_tiles<int32_t, uint8_t, int8_t>(c, a, b, [](auto x) { return int32_t(x); })
#define _tile_loadconfig(config) static_cast<void>(config)
#define _tile_release() static_cast<void>(0)
#define __AMX_TILE__ 1
#define __AMX_BF16__ 1
#define __AMX_INT8__ 1
#include "gemm_amx.cpp"

// What gemm.cpp does with sums, in few words.
template <class K>
void pk::finish(const Product& p, const typename K::T* sums, int64_t ld, int64_t rows, int64_t columns, int64_t i0, int64_t j0,
                const int32_t* column_sums) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      typename K::C* c = static_cast<typename K::C*>(p.c) + (i0 + i) * p.ldc + j0 + j;
      double x = sums[i * ld + j];
      if (p.row) x = (x - double(p.zero) * column_sums[j]) * p.row[i0 + i] * p.column[j0 + j];
      K::put_c(c, float(p.alpha * x + (p.beta != 0 ? p.beta * K::get_c(c) : 0)));
    }
}

template <class K, class Run>
static bool right(Run run, int64_t m, int64_t n, int64_t k, bool ta, bool tb, double beta) {
  using A = typename K::A;
  using B = typename K::B;
  using C = typename K::C;
  constexpr bool int8 = std::is_same_v<K, Int8>;
  const int64_t lda = ta ? m : k, ldb = tb ? k : n, zero = int8 ? 7 : 0;
  std::unique_ptr<A[]> a(new A[m * k]);
  std::unique_ptr<B[]> b(new B[k * n]);
  std::unique_ptr<C[]> c(new C[m * n]);
  std::vector<float> row(m, 0.5f), column(n, 0.25f);
  uint32_t state = 1;
  auto next = [&] { return int(state = state * 1664525u + 1013904223u) >> 24; };  // -128 to 127
  for (int64_t i = 0; i < m * k; ++i) a[i] = int8 ? A(next() + 128) : A(bf16_bits(float(next()) / 16));
  for (int64_t i = 0; i < k * n; ++i) b[i] = int8 ? B(next()) : B(bf16_bits(float(next()) / 16));
  for (int64_t i = 0; i < m * n; ++i) K::put_c(&c[i], beta != 0 ? 2.0f : NAN);  // beta 0 must not read C
  auto value = [](auto x) { return std::is_same_v<decltype(x), uint16_t> ? double(widened(uint16_t(x))) : double(x); };
  std::vector<double> expected(m * n);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < k; ++l)
        sum += (value(a[ta ? l * m + i : i * k + l]) - double(zero)) * value(b[tb ? j * k + l : l * n + j]);
      expected[i * n + j] = (int8 ? sum * 0.125 : sum) + (beta != 0 ? beta * 2 : 0);
    }
  std::vector<void*> ptr = {a.get(), b.get(), c.get()};
  if (int8) ptr = {a.get(), b.get(), row.data(), column.data(), c.get()};
  const int64_t dim[] = {1, m, n, k, lda, ldb, n, ta, tb, zero};
  const double scalar[] = {1, beta};
  const pk_call call = {ptr.data(), dim, scalar, 1, 0, 0};
  for (int tid = 0; tid < 2; ++tid) {
    const int64_t bytes = scratch_bytes<K>(&call, 2);
    std::unique_ptr<char[]> scratch(new char[bytes + 64]);
    char* aligned = scratch.get() + (64 - reinterpret_cast<uintptr_t>(scratch.get()) % 64) % 64;
    memset(aligned, 0xF5, size_t(bytes));
    pk_team team{};
    team.tid = tid, team.threads = 2, team.scratch = aligned, team.scratch_bytes = bytes;
    run(&call, &team);
  }
  for (int64_t i = 0; i < m * n; ++i) {
    const double found = K::get_c(&c[i]), allowed = (int8 ? 1e-6 : 4e-3) * std::fabs(expected[i]) + (int8 ? 0 : 0.05);
    if (!(std::fabs(found - expected[i]) <= allowed)) {
      printf("%s %ld x %ld x %ld, transposed %d %d, beta %g: c[%ld] is %g, not %g\n", int8 ? "int8" : "bf16", long(m), long(n),
             long(k), ta, tb, beta, long(i), found, expected[i]);
      return false;
    }
  }
  printf("%s %ld x %ld x %ld, transposed %d %d, beta %g\n", int8 ? "int8" : "bf16", long(m), long(n), long(k), ta, tb, beta);
  return true;
}

int main() {
  bool good = true;
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 0}, {35, 40, 0}, {1, 1, 1}, {35, 70, 33}, {64, 32, 64}, {3, 33, 131}})
    for (int t = 0; t < 4; ++t)
      for (double beta : {0.0, 0.5}) {
        good &= right<Bf16>(amx_bf16, m, n, k, t & 1, t & 2, beta);
        good &= right<Int8>(amx_int8, m, n, k, t & 1, t & 2, beta);
      }
  return good ? 0 : 1;
}
