// Which ISA levels this CPU and this OS can run: cpuid, XCR0 and the AMX permission on x86-64, hwcap on aarch64.
#pragma once
#include <string>

namespace pk {
// Empty if code of this level can run here, else what is missing, in words.
std::string why_not(const std::string& isa);
}  // namespace pk
