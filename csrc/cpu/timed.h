// Timed samples of one entry. A sample is `reps` passes on every thread between two barriers; its time runs from the first
// thread's start to the last one's end. Beside each sample stand what tells a disturbed one: every thread's CPU time over
// its wall time, involuntary switches, the spread of the starts, and the core clock just before.
#pragma once
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <string>
#include <vector>

#include "team.h"

namespace pk {

inline int64_t now_ns(clockid_t clock = CLOCK_MONOTONIC) {
  timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

// Core clock in GHz: additions that depend on each other take one cycle each. Two runs of some 4 us, the faster one counts.
// Register operands: some cores fold additions of constants away.
inline double clock_ghz() {
  constexpr int kAdds = 16 * 1024;
  double best = 0;
  for (int turn = 0; turn < 2; ++turn) {
    uint64_t x = 1, step = 3;
    const int64_t start = now_ns();
    for (int i = 0; i < kAdds / 16; ++i) {
#if defined(__x86_64__)
      asm volatile(".rept 16\n\tadd %1, %0\n\t.endr" : "+r"(x) : "r"(step));
#else
      asm volatile(".rept 16\n\tadd %0, %0, %1\n\t.endr" : "+r"(x) : "r"(step));
#endif
    }
    best = std::max(best, double(kAdds) / double(now_ns() - start));
  }
  return best;
}

inline int64_t involuntary_switches() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nivcsw;
}

struct Call {
  std::vector<void*> ptr;
  std::vector<int64_t> dim;
  std::vector<double> scalar;
  int64_t tune = 0;
  int64_t first = 0;
  pk_call at(int64_t reps, int64_t number = 0) const {
    return {ptr.data(), dim.data(), scalar.data(), reps, tune, first + number};
  }
};

struct Samples {
  std::vector<double> seconds, cpu_over_wall, clock, skew;
  std::vector<int64_t> switches;
};

inline void reserve_scratch(Team& team, const pk_entry& entry, const Call& call) {
  const pk_call c = call.at(1);
  const int64_t bytes = entry.scratch ? entry.scratch(&c, team.threads()) : 0;
  std::atomic<bool> failed{false};
  if (bytes) team.run([&](Team& t, int tid) { if (!t.scratch(tid).reserve(bytes)) failed = true; });
  if (failed) throw std::bad_alloc();
}

// Runs the entry once with `reps`, untimed.
inline void run_entry(Team& team, const pk_entry& entry, const Call& call, int64_t reps) {
  reserve_scratch(team, entry, call);
  const pk_call c = call.at(reps);
  team.counter() = 0;
  team.run([&](Team& t, int tid) {
    const pk_team view = t.view(tid);
    entry.run(&c, &view);
  });
}

// Hardware counters that count the timed parts alone: started before the barrier that all threads start from, stopped after
// the one they end at. Without counters there is nothing to do.
inline void control(const std::vector<int>& counters, unsigned long what) {
  for (int fd : counters) ioctl(fd, what, 0);
}

inline Samples sample_entry(Team& team, const pk_entry& entry, const Call& call, int64_t reps, int64_t count,
                            const std::vector<int>& counters) {
  struct alignas(64) Mark {
    int64_t start, end, cpu, switches;
    double clock;
  };
  reserve_scratch(team, entry, call);
  const int n = team.threads();
  std::vector<Mark> marks(size_t(n) * count);
  team.counter() = 0;
  team.run([&](Team& t, int tid) {
    const pk_team view = t.view(tid);
    for (int64_t i = 0; i < count; ++i) {
      Mark& m = marks[i * n + tid];
      const pk_call c = call.at(reps, i * reps);
      m.clock = clock_ghz();
      m.switches = -involuntary_switches();
      if (!counters.empty()) {
        t.barrier().wait();
        if (tid == 0) control(counters, PERF_EVENT_IOC_ENABLE);
      }
      t.barrier().wait();
      m.cpu = -now_ns(CLOCK_THREAD_CPUTIME_ID);
      m.start = now_ns();
      entry.run(&c, &view);
      m.end = now_ns();
      m.cpu += now_ns(CLOCK_THREAD_CPUTIME_ID);
      m.switches += involuntary_switches();
      t.barrier().wait();
      if (tid == 0) {
        control(counters, PERF_EVENT_IOC_DISABLE);
        t.counter() = 0;  // seen by all at the next barrier
      }
    }
  });
  Samples s;
  for (int64_t i = 0; i < count; ++i) {
    const Mark* m = &marks[i * n];
    Mark first = m[0], last = m[0];
    double share = 1, clock = 0;
    int64_t switches = 0;
    for (int k = 0; k < n; ++k) {
      first.start = std::min(first.start, m[k].start), last.start = std::max(last.start, m[k].start);
      last.end = std::max(last.end, m[k].end);
      share = std::min(share, double(m[k].cpu) / double(std::max<int64_t>(1, m[k].end - m[k].start)));
      clock += m[k].clock / n;
      switches += m[k].switches;
    }
    s.seconds.push_back(double(last.end - first.start) * 1e-9 / double(reps));
    s.cpu_over_wall.push_back(share);
    s.clock.push_back(clock);
    s.skew.push_back(double(last.start - first.start) * 1e-9);
    s.switches.push_back(switches);
  }
  return s;
}

}  // namespace pk
