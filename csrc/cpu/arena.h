// Anonymous memory aligned to huge pages, with the page size and, if asked, the NUMA node that it is wanted on.
#pragma once
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <new>
#include <string>
#include <system_error>
#include <vector>

namespace pk {

class Arena {
 public:
  static constexpr int64_t kHuge = 2 << 20;

  // node < 0: pages go to the node of the thread that touches them first.
  Arena(int64_t bytes, bool huge, int node) : bytes_((bytes + kHuge - 1) / kHuge * kHuge) {
    mapped_ = bytes_ + kHuge;
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    p_ = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(base_) + kHuge - 1) / kHuge * kHuge);
    madvise(p_, bytes_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);  // a wish: the share obtained is read from smaps
    if (node >= 0) bind(node);
  }
  ~Arena() { munmap(base_, mapped_); }
  Arena(const Arena&) = delete;

  char* data() const { return p_; }
  int64_t bytes() const { return bytes_; }

 private:
  void bind(int node) {
    constexpr int kBind = 2;  // MPOL_BIND; by syscall, as libnuma is not a dependency
    std::vector<unsigned long> mask(node / (8 * sizeof(long)) + 1);
    mask[node / (8 * sizeof(long))] = 1ul << (node % (8 * sizeof(long)));
    if (syscall(SYS_mbind, p_, bytes_, kBind, mask.data(), mask.size() * 8 * sizeof(long) + 1, 0) < 0) {
      const int error = errno;
      munmap(base_, mapped_);
      throw std::system_error(error, std::generic_category(), "cannot bind memory to NUMA node " + std::to_string(node));
    }
  }
  void* base_;
  char* p_;
  int64_t bytes_, mapped_;
};

}  // namespace pk
