// Runs every stream and fma entry of the library it is linked with on a team of one, and compares with plain loops.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels.h"

static int wrong = 0, run = 0;
static int64_t counter = 0;

static void call(const pk_entry& e, std::vector<void*> ptr, std::vector<int64_t> dim, std::vector<double> scalar) {
  pk_call c{ptr.data(), dim.data(), scalar.data(), 2, e.ntunes ? e.tunes[0] : 0, 0};
  pk_team t{};
  t.threads = 1;
  t.barrier = [](const pk_team*) {};
  t.take = [](const pk_team*, int64_t n) { return (counter += n) - n; };
  counter = 0;
  e.run(&c, &t);
  ++run;
}
static void expect(bool ok, const pk_entry& e) {
  if (!ok) ++wrong, printf("wrong: %s %s %s %s\n", e.kernel, e.op, e.dtype, e.variant);
}
static void* room(size_t bytes) { return aligned_alloc(4096, (bytes + 4095) / 4096 * 4096); }

template <class T>
static void stream(const pk_entry& e) {
  const int64_t n = 20011;
  const double q = 1.25;
  T *a = static_cast<T*>(room(n * sizeof(T))), *b = static_cast<T*>(room(n * sizeof(T)));
  T* c = static_cast<T*>(room(std::max<size_t>(n * sizeof(T), 8 * 8200)));
  for (int64_t i = 0; i < n; ++i) a[i] = T(0.5 + i % 97 / 97.0), b[i] = T(0.5 + i % 89 / 89.0), c[i] = T(-1);
  const std::string op = strncmp(e.op, "nt-", 3) ? e.op : e.op + 3;
  if (op == "load" || op == "copy") call(e, {a, c}, {n, 1}, {q});
  else if (op == "load-only") call(e, {a}, {n, 1}, {q});
  else if (op == "store") call(e, {c}, {n, 1}, {q});
  else if (op == "schoenauer") call(e, {a, b, a, c}, {n, 1}, {q});
  else call(e, {a, b, c}, {n, 1}, {q});
  bool ok = true;
  if (op == "load") {
    std::vector<uint64_t> words((n * sizeof(T) + 7) / 8);
    memcpy(words.data(), a, n * sizeof(T));
    uint64_t sum = 0, got;
    for (uint64_t w : words) sum += 2 * w;  // two passes
    memcpy(&got, c, 8);
    ok = got == sum;
  } else if (op == "dot") {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += 2.0 * a[i] * b[i];  // two passes
    ok = std::fabs(c[0] - sum) <= 1e-9 * sum;
  } else if (op != "load-only") {
    for (int64_t i = 0; i < n; ++i) {
      const double want = op == "store" ? q : op == "copy" ? a[i] : a[i] + (op == "schoenauer" ? a[i] : q) * b[i];
      ok = ok && std::fabs(c[i] - want) <= 1e-6 * want;
    }
  }
  expect(ok, e);
  free(a), free(b), free(c);
}

static float bf16(uint16_t h) {
  uint32_t u = uint32_t(h) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

// Group elements of a and b as numbers, whatever the dtype.
static double element(const void* p, int64_t i, const std::string& dtype, bool is_signed) {
  if (dtype == "fp64") return static_cast<const double*>(p)[i];
  if (dtype == "fp32") return static_cast<const float*>(p)[i];
  if (dtype == "bf16") return bf16(static_cast<const uint16_t*>(p)[i]);
  return is_signed ? static_cast<const int8_t*>(p)[i] : static_cast<const uint8_t*>(p)[i];
}

template <class T>
static void fma_entry(const pk_entry& e) {
  const std::string dtype = e.dtype;
  const int group = dtype == "bf16" ? 2 : dtype == "int8" ? 4 : 1, width = 128 / sizeof(T), count = 240 * 64 / sizeof(T);
  T *x = static_cast<T*>(room(240 * 64)), *chain = static_cast<T*>(room(240 * 64)), *tile = static_cast<T*>(room(48 * 128));
  void *a = room(80 * 48 * 8), *b = room(80 * 128);
  for (int i = 0; i < count; ++i) x[i] = dtype == "int8" ? T(i % 50) : T(0.5 + i % 31 / 31.0), chain[i] = T(-1);
  const size_t lane = sizeof(T) / (dtype == "fp64" ? 1 : group);
  for (int64_t i = 0; i < 80 * 48 * 8 / int64_t(lane); ++i) {
    const double v = 0.5 + i % 61 / 61.0;
    for (void* p : {a, b}) {
      if (p == b && i >= 80 * 128 / int64_t(lane)) continue;
      if (dtype == "fp64") static_cast<double*>(p)[i] = v;
      else if (dtype == "fp32") static_cast<float*>(p)[i] = float(v);
      else if (dtype == "bf16") static_cast<uint16_t*>(p)[i] = uint16_t(0x3F00 + i % 61);
      else static_cast<uint8_t*>(p)[i] = uint8_t(i * 7 % 128);
    }
  }
  tile[0] = T(-1);
  call(e, {x, a, b, chain, tile}, {1}, {1 - 0x1p-10, 0x1p-9});
  bool ok = true;
  if (!strncmp(e.variant, "chain", 5)) {
    double dot = 0;
    for (int g = 0; g < group; ++g) dot += element(a, g, dtype, false) * element(b, g, dtype, true);
    for (int i = 0; i < count; i += 61) {
      double want = x[i];
      if (group > 1) want += 1024 * dot;
      else for (int k = 0; k < 1024; ++k) want = want * (1 - 0x1p-10) + 0x1p-9;
      ok = ok && std::fabs(chain[i] - want) <= 2e-4 * std::fabs(want);
    }
  } else {
    for (int i = 0; i < 48; ++i)
      for (int j = 0; j < width; ++j) {
        double want = 0;
        for (int k = 0; k < 80; ++k)
          for (int g = 0; g < group; ++g)
            want += element(a, (k * 48 + i) * group + g, dtype, false) * element(b, (k * width + j) * group + g, dtype, true);
        ok = ok && std::fabs(tile[i * width + j] - 32 * want) <= 3e-4 * std::fabs(32 * want);
      }
  }
  expect(ok, e);
  free(x), free(chain), free(tile), free(a), free(b);
}

int main() {
  const pk_library* library = pk_library_v1();
  for (int i = 0; i < library->count; ++i) {
    const pk_entry& e = library->entry[i];
    const std::string kernel = e.kernel, dtype = e.dtype;
    if (kernel == "stream") dtype == "fp64" ? stream<double>(e) : stream<float>(e);
    if (kernel == "fma") dtype == "fp64" ? fma_entry<double>(e) : dtype == "int8" ? fma_entry<int32_t>(e) : fma_entry<float>(e);
  }
  printf("%s: %d entries run, %d wrong\n", library->isa, run, wrong);
  return wrong || !run;
}
