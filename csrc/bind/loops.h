// Request loops over any callable: closed (the next request starts when the last has ended) and open (seeded Poisson
// arrivals; a request that finds the server busy waits, and its wait counts).
#pragma once
#include <chrono>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace pk {

inline int64_t steady_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// SplitMix64 (Steele, Lea, Flood 2014), 53 bits.
inline double uniform53(uint64_t& state) {
  uint64_t x = state += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return double((x ^ (x >> 31)) >> 11) * 0x1p-53;
}

// Nanoseconds of each of `calls` requests, one in flight.
template <class Request>
std::vector<int64_t> closed_loop(Request&& request, int64_t calls) {
  std::vector<int64_t> latency(calls);
  for (int64_t& t : latency) {
    int64_t start = steady_ns();
    request();
    t = steady_ns() - start;
  }
  return latency;
}

// Nanoseconds from each arrival to its answer, arrivals a Poisson process of `rate` per second.
template <class Request>
std::vector<int64_t> open_loop(Request&& request, int64_t calls, double rate, uint64_t seed) {
  if (!(rate > 0)) throw std::runtime_error("the arrival rate must be above 0");
  std::vector<int64_t> latency(calls);
  double due = 0;
  int64_t start = steady_ns();
  for (int64_t& t : latency) {
    due += -std::log(1 - uniform53(seed)) / rate * 1e9;
    int64_t arrival = start + int64_t(due);
    while (steady_ns() < arrival) {
    }
    request();
    t = steady_ns() - arrival;
  }
  return latency;
}

}  // namespace pk
