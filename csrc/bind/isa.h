// What this CPU is, by its own word: the ISA levels it and the OS can run (cpuid, XCR0 and the AMX permission on x86-64, hwcap
// on aarch64), and how many pages its second-level TLB holds.
#pragma once
#include <cstdint>
#include <string>

namespace pk {
// Empty if code of this level can run here, else what is missing, in words.
std::string why_not(const std::string& isa);

// Entries of a core's second-level data TLB for 4 KiB pages (or 2 MiB ones, if `large`); 0: the CPU does not say.
int64_t tlb_entries(bool large);
}  // namespace pk
