// A pinned team of threads: one per CPU given, alive until the team is closed. The caller only hands over a job and
// sleeps, so that it never competes with a thread of the team. Waits spin for a bounded time, then sleep on a futex.
#pragma once
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "kernels.h"

namespace pk {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

inline long futex(std::atomic<uint32_t>* word, int op, uint32_t value) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), op, value, nullptr, nullptr, 0);
}

// Waits until the word differs from `old`; returns its new value.
inline uint32_t wait_change(std::atomic<uint32_t>& word, uint32_t old, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (uint32_t now = word.load(std::memory_order_acquire); now != old) return now;
    relax();
  }
  uint32_t now;
  while ((now = word.load(std::memory_order_acquire)) == old) futex(&word, FUTEX_WAIT_PRIVATE, old);
  return now;
}

// All threads meet; the generation counter tells one meeting from the next.
class Barrier {
 public:
  explicit Barrier(uint32_t threads) : threads_(threads) {}
  void wait() {
    const uint32_t generation = generation_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(generation + 1, std::memory_order_release);
      if (threads_ > 1) futex(&generation_, FUTEX_WAKE_PRIVATE, INT_MAX);
    } else {
      wait_change(generation_, generation, kSpins);
    }
  }

 private:
  static constexpr int kSpins = 20000;  // some 0.2-1 ms: longer than threads differ, far shorter than a time slice
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
  const uint32_t threads_;
};

// Memory private to one thread, touched by it, grown on demand.
class Scratch {
 public:
  ~Scratch() { release(); }
  void* reserve(int64_t bytes) {
    if (bytes <= bytes_) return p_;
    release();
    // Huge pages where there is room for one: panels of a product span more 4 KiB pages than a TLB holds.
    const int64_t page = bytes >= kHuge ? kHuge : 4096, want = (bytes + page - 1) / page * page;
    void* p = mmap(nullptr, want + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    base_ = p, mapped_ = want + page;
    p_ = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(p) + page - 1) / page * page), bytes_ = want;
    if (page == kHuge) madvise(p_, want, MADV_HUGEPAGE);
    memset(p_, 0x5A, want);
    return p_;
  }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kHuge = 2 << 20;
  void release() {
    if (base_) munmap(base_, mapped_);
    base_ = p_ = nullptr, bytes_ = mapped_ = 0;
  }
  void *base_ = nullptr, *p_ = nullptr;
  int64_t bytes_ = 0, mapped_ = 0;
};

class Team {
 public:
  using Job = std::function<void(Team&, int tid)>;

  explicit Team(std::vector<int> cpus)
      : cpus_(std::move(cpus)), barrier_(cpus_.size()), members_(new Member[cpus_.size()]) {
    if (cpus_.empty()) throw std::invalid_argument("a team needs at least one CPU");
    for (size_t i = 0; i < cpus_.size(); ++i) start(int(i));
    run([](Team&, int) {});  // every thread has pinned itself, or says why not
    for (size_t i = 0; i < cpus_.size(); ++i) {
      if (members_[i].pin_error) {
        const int error = members_[i].pin_error, cpu = cpus_[i];
        close();
        throw std::system_error(error, std::generic_category(), "cannot pin a thread to CPU " + std::to_string(cpu));
      }
    }
  }
  ~Team() { close(); }
  Team(const Team&) = delete;

  int threads() const { return int(cpus_.size()); }
  const std::vector<int>& cpus() const { return cpus_; }
  Barrier& barrier() { return barrier_; }
  std::atomic<int64_t>& counter() { return counter_; }
  Scratch& scratch(int tid) { return members_[tid].scratch; }

  // Runs the job on every thread and returns when the last has finished. One caller at a time.
  void run(const Job& job) {
    if (closed_) throw std::runtime_error("the team is closed");
    job_ = &job;
    running_.store(threads(), std::memory_order_relaxed);
    const uint32_t done = done_.load(std::memory_order_acquire);
    post();
    wait_change(done_, done, 0);
    job_ = nullptr;
  }

  void close() {
    if (closed_) return;
    closed_ = true;
    job_ = nullptr;
    post();
    for (int i = 0; i < started_; ++i) pthread_join(members_[i].thread, nullptr);
  }

  // The team as a kernel sees it on thread tid.
  pk_team view(int tid) {
    pk_team t{};
    t.tid = tid, t.threads = threads(), t.state = this;
    t.barrier = [](const pk_team* t) { static_cast<Team*>(t->state)->barrier_.wait(); };
    t.take = [](const pk_team* t, int64_t n) {
      return static_cast<Team*>(t->state)->counter_.fetch_add(n, std::memory_order_acq_rel);
    };
    t.scratch = members_[tid].scratch.reserve(0);
    t.scratch_bytes = members_[tid].scratch.bytes();
    return t;
  }

 private:
  struct alignas(64) Member {
    Team* team = nullptr;
    int tid = 0;
    int pin_error = 0;
    pthread_t thread{};
    Scratch scratch;
  };

  void start(int tid) {
    Member& m = members_[tid];
    m.team = this, m.tid = tid;
    if (int error = pthread_create(&m.thread, nullptr, [](void* p) -> void* {
          auto* m = static_cast<Member*>(p);
          m->team->loop(*m);
          return nullptr;
        }, &m)) {
      close();
      throw std::system_error(error, std::generic_category(), "cannot start a thread");
    }
    ++started_;
  }

  void loop(Member& m) {
    const int cpu = cpus_[m.tid];
    std::vector<unsigned long> mask(cpu / (8 * sizeof(long)) + 1);  // by syscall: CPU_SETSIZE stops at 1024
    mask[cpu / (8 * sizeof(long))] = 1ul << (cpu % (8 * sizeof(long)));
    if (syscall(SYS_sched_setaffinity, 0, mask.size() * sizeof(long), mask.data()) < 0) m.pin_error = errno;
    for (uint32_t seen = 0;;) {
      seen = wait_change(posted_, seen, 200);
      if (!job_) return;
      (*job_)(*this, m.tid);
      if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        done_.fetch_add(1, std::memory_order_release);
        futex(&done_, FUTEX_WAKE_PRIVATE, 1);
      }
    }
  }

  void post() {
    posted_.fetch_add(1, std::memory_order_release);
    futex(&posted_, FUTEX_WAKE_PRIVATE, INT_MAX);
  }

  const std::vector<int> cpus_;
  Barrier barrier_;
  std::unique_ptr<Member[]> members_;
  int started_ = 0;
  bool closed_ = false;
  const Job* job_ = nullptr;
  alignas(64) std::atomic<uint32_t> posted_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<int> running_{0};
  alignas(64) std::atomic<int64_t> counter_{0};
};

}  // namespace pk
