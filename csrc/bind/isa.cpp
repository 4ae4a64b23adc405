#include "isa.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sys/auxv.h>
#include <sys/prctl.h>
#endif

namespace pk {
namespace {

struct Feature {
  const char* name;
  bool there;
};

std::string first_missing(const std::vector<Feature>& features) {
  for (const auto& f : features)
    if (!f.there) return f.name;
  return "";
}

#if defined(__x86_64__)

struct Leaf {
  unsigned a = 0, b = 0, c = 0, d = 0;
  Leaf(unsigned leaf, unsigned sub) {
    if (!__get_cpuid_count(leaf, sub, &a, &b, &c, &d)) a = b = c = d = 0;
  }
};

bool bit(unsigned word, int n) { return word >> n & 1; }

// What the OS saves at a context switch: without it the registers are not usable, whatever the CPU has.
uint64_t saved_state() {
  if (!bit(Leaf(1, 0).c, 27)) return 0;  // OSXSAVE
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
}

// Linux gives AMX tile data to a process that asks.
bool amx_permitted() {
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

std::string missing(const std::string& isa) {
  const Leaf one(1, 0), seven(7, 0), seven1(7, 1), ext(0x80000001, 0);
  const uint64_t saved = saved_state();
  std::vector<Feature> need;
  auto add = [&](std::vector<Feature> more) { need.insert(need.end(), more.begin(), more.end()); };
  const int rank = isa == "baseline" ? 0 : isa == "x86_64_v2" ? 1 : isa == "x86_64_v3" ? 2 : isa == "x86_64_v4" ? 3
                 : isa == "x86_64_v4_vnni" ? 4 : isa == "x86_64_v4_bf16" ? 5 : isa == "amx" ? 6 : -1;
  if (rank < 0) return "another architecture";
  if (rank >= 1) add({{"SSE3", bit(one.c, 0)}, {"SSSE3", bit(one.c, 9)}, {"CMPXCHG16B", bit(one.c, 13)},
                      {"SSE4.1", bit(one.c, 19)}, {"SSE4.2", bit(one.c, 20)}, {"POPCNT", bit(one.c, 23)},
                      {"LAHF", bit(ext.c, 0)}});
  if (rank >= 2) add({{"AVX state saved by the OS", (saved & 0x6) == 0x6}, {"AVX", bit(one.c, 28)},
                      {"F16C", bit(one.c, 29)}, {"FMA", bit(one.c, 12)}, {"MOVBE", bit(one.c, 22)},
                      {"AVX2", bit(seven.b, 5)}, {"BMI1", bit(seven.b, 3)}, {"BMI2", bit(seven.b, 8)},
                      {"LZCNT", bit(ext.c, 5)}});
  if (rank >= 3) add({{"AVX-512 state saved by the OS", (saved & 0xE6) == 0xE6}, {"AVX512F", bit(seven.b, 16)},
                      {"AVX512DQ", bit(seven.b, 17)}, {"AVX512CD", bit(seven.b, 28)}, {"AVX512BW", bit(seven.b, 30)},
                      {"AVX512VL", bit(seven.b, 31)}});
  if (rank >= 4) add({{"AVX512_VNNI", bit(seven.c, 11)}});
  if (rank >= 5) add({{"AVX512_BF16", bit(seven1.a, 5)}});
  if (rank >= 6) add({{"AMX-TILE", bit(seven.d, 24)}, {"AMX-INT8", bit(seven.d, 25)}, {"AMX-BF16", bit(seven.d, 22)},
                      {"AMX state saved by the OS", (saved & 0x60000) == 0x60000}});
  if (rank >= 6 && first_missing(need).empty()) add({{"permission from the kernel for AMX", amx_permitted()}});
  return first_missing(need);
}

// AMD: CPUID 8000_0006h. Intel: leaf 18h lists every translation cache; data (1) or unified (3), level 2.
int64_t second_tlb(bool large) {
  const Leaf amd(0x80000006, 0);
  const unsigned word = large ? amd.a : amd.b;
  if (word >> 28 && (word >> 16 & 0xFFF)) return word >> 16 & 0xFFF;
  int64_t most = 0;
  const unsigned last = Leaf(0x18, 0).a;
  for (unsigned sub = 0; sub <= last && sub < 32; ++sub) {
    const Leaf leaf(0x18, sub);
    const unsigned type = leaf.d & 0x1F, level = leaf.d >> 5 & 7;
    if ((type == 1 || type == 3) && level == 2 && bit(leaf.b, large ? 1 : 0))
      most = std::max<int64_t>(most, int64_t(leaf.b >> 16) * leaf.c);
  }
  return most;
}

#else

int64_t second_tlb(bool) { return 0; }

std::string missing(const std::string& isa) {
  const unsigned long cap = getauxval(AT_HWCAP), cap2 = getauxval(AT_HWCAP2);
  std::vector<Feature> need = {{"ASIMD", bool(cap & 1ul << 1)}};
  const bool dot = isa == "neon_dot", sve = isa == "sve256";
  if (!dot && !sve && isa != "neon") return "another architecture";
  if (dot || sve) {
    need.push_back({"FP16 arithmetic", bool(cap & 1ul << 10)});
    need.push_back({"dot product", bool(cap & 1ul << 20)});
    need.push_back({"I8MM", bool(cap2 & 1ul << 13)});
    need.push_back({"BF16", bool(cap2 & 1ul << 14)});
  }
  if (sve) {
    constexpr int kGetVectorLength = 51;  // PR_SVE_GET_VL: bytes in the low 16 bits
    need.push_back({"SVE", bool(cap & 1ul << 22)});
    need.push_back({"a vector length of 256 bits", (prctl(kGetVectorLength) & 0xFFFF) == 32});
  }
  return first_missing(need);
}

#endif
}  // namespace

std::string why_not(const std::string& isa) { return missing(isa); }

int64_t tlb_entries(bool large) { return second_tlb(large); }

}  // namespace pk
