// Requests, one after another, timed in native code: closed loop (the next starts when the last has ended) and open loop
// (seeded Poisson arrivals; a request that finds the server busy waits, and its wait counts).
//
// A request is a list of steps: GPU work through libcuda.so.1, opened at run time (no CUDA header, no link), or a function of
// this process. Contexts, streams, functions, graphs and buffers come as integers from whoever made them.
#pragma once
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "loops.h"

namespace pk {

// The few driver calls a request needs. Types are those of the driver's ABI: handles and device pointers are 64-bit.
class Cuda {
 public:
  Cuda(const std::string& library, uint64_t context, uint64_t stream) : context_(context), stream_(stream) {
    handle_ = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle_) throw std::runtime_error("cannot open " + library + ": " + dlerror());
    find("cuCtxSetCurrent", set_current_);
    find("cuLaunchKernel", launch_);
    find("cuGraphLaunch", graph_);
    find("cuMemcpyHtoDAsync_v2", to_device_);
    find("cuMemcpyDtoHAsync_v2", to_host_);
    find("cuStreamSynchronize", wait_);
    find("cuGetErrorString", text_);
  }

  void enter() const { check(set_current_(context_), "cuCtxSetCurrent"); }
  void launch(uint64_t function, unsigned grid, unsigned block, const void* args) const {
    void* parameters[] = {const_cast<void*>(args)};
    check(launch_(function, grid, 1, 1, block, 1, 1, 0, stream_, parameters, nullptr), "cuLaunchKernel");
  }
  void graph(uint64_t executable) const { check(graph_(executable, stream_), "cuGraphLaunch"); }
  void to_device(uint64_t to, uint64_t from, size_t bytes) const {
    check(to_device_(to, reinterpret_cast<const void*>(from), bytes, stream_), "cuMemcpyHtoDAsync");
  }
  void to_host(uint64_t to, uint64_t from, size_t bytes) const {
    check(to_host_(reinterpret_cast<void*>(to), from, bytes, stream_), "cuMemcpyDtoHAsync");
  }
  void wait() const { check(wait_(stream_), "cuStreamSynchronize"); }

 private:
  template <class F>
  void find(const char* name, F& f) {
    f = reinterpret_cast<F>(dlsym(handle_, name));
    if (!f) throw std::runtime_error(std::string("the driver has no ") + name);
  }
  void check(int status, const char* call) const {
    if (status == 0) return;
    const char* text = nullptr;
    text_(status, &text);
    throw std::runtime_error(std::string(call) + ": " + (text ? text : "error") + " (" + std::to_string(status) + ")");
  }

  void* handle_;
  uint64_t context_, stream_;
  int (*set_current_)(uint64_t);
  int (*launch_)(uint64_t, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, uint64_t, void**, void**);
  int (*graph_)(uint64_t, uint64_t);
  int (*to_device_)(uint64_t, const void*, size_t, uint64_t);
  int (*to_host_)(void*, uint64_t, size_t, uint64_t);
  int (*wait_)(uint64_t);
  int (*text_)(int, const char**);
};

// One step of a request. NEXT ends one request of several that are asked for in turn. `a`, `b`, `n` mean what the kind says: function, geometry; to, from, bytes; request and answer words.
struct Step {
  enum Kind { LAUNCH, GRAPH, TO_DEVICE, TO_HOST, WAIT, ASK, CALL, NEXT } kind;
  uint64_t a = 0, b = 0, n = 0;
  std::string args;
};

// Runs requests. `cuda` may be null where no step needs it.
class Requests {
 public:
  Requests(const Cuda* cuda, std::vector<Step> steps) : cuda_(cuda), steps_(std::move(steps)) {
    if (steps_.empty()) throw std::runtime_error("a request needs a step");
    for (const Step& s : steps_)
      if (!cuda && s.kind <= Step::WAIT) throw std::runtime_error("a step needs a CUDA driver and there is none");
    if (cuda) cuda->enter();
  }

  // Nanoseconds of each of `calls` requests, one in flight.
  std::vector<int64_t> closed(int64_t calls) { return closed_loop([this] { one(); }, calls); }

  // Nanoseconds from each arrival to its answer, arrivals a Poisson process of `rate` per second.
  std::vector<int64_t> open(int64_t calls, double rate, uint64_t seed) {
    return open_loop([this] { one(); }, calls, rate, seed);
  }

  // The steps up to the next NEXT, or to the end of the list, after which it begins anew.
  void one() {
    do {
      const Step& s = steps_[at_];
      at_ = at_ + 1 == steps_.size() ? 0 : at_ + 1;
      if (s.kind == Step::NEXT) return;
      step(s);
    } while (at_ != 0);
  }

 private:
  void step(const Step& s) {
    switch (s.kind) {
        case Step::LAUNCH: cuda_->launch(s.a, unsigned(s.b), unsigned(s.n), s.args.data()); break;
        case Step::GRAPH: cuda_->graph(s.a); break;
        case Step::TO_DEVICE: cuda_->to_device(s.a, s.b, s.n); break;
        case Step::TO_HOST: cuda_->to_host(s.a, s.b, s.n); break;
        case Step::WAIT: cuda_->wait(); break;
        case Step::ASK: ask(s); break;
        case Step::CALL: reinterpret_cast<void (*)(void*)>(s.a)(reinterpret_cast<void*>(s.b)); break;
        case Step::NEXT: break;
    }
  }

  // Writes the next number where a persistent kernel polls, and waits for it to come back; gives up after a second.
  void ask(const Step& s) {
    auto* request = reinterpret_cast<uint32_t*>(s.a);
    auto* answer = reinterpret_cast<uint32_t*>(s.b);
    uint32_t number = __atomic_load_n(answer, __ATOMIC_ACQUIRE) + 1;
    __atomic_store_n(request, number, __ATOMIC_RELEASE);
    int64_t limit = steady_ns() + 1000000000;
    while (__atomic_load_n(answer, __ATOMIC_ACQUIRE) != number)
      if (steady_ns() > limit) throw std::runtime_error("the persistent kernel gave no answer within a second");
  }

  const Cuda* cuda_;
  std::vector<Step> steps_;
  size_t at_ = 0;
};

// Steps as a function void(void*) for a loop elsewhere, on whatever thread that runs. An error ends the steps of all later
// calls too, and is kept.
class Program {
 public:
  Program(const Cuda* cuda, std::vector<Step> steps) : cuda_(cuda), requests_(cuda, std::move(steps)) {}
  static void run(void* self) noexcept { static_cast<Program*>(self)->once(); }
  const std::string& error() const { return error_; }

 private:
  void once() noexcept {
    if (!error_.empty()) return;
    try {
      if (cuda_) cuda_->enter();
      requests_.one();
    } catch (const std::exception& e) {
      error_ = e.what();
    }
  }

  const Cuda* cuda_;
  Requests requests_;
  std::string error_;
};

// Log-linear bins: 128 to the octave, so that a bin is at most 1/128 (0.8%) of its value wide; below 128 ns one a nanosecond.
inline int64_t bin_of(int64_t ns) {
  if (ns < 128) return ns < 0 ? 0 : ns;
  int octave = 63 - __builtin_clzll(uint64_t(ns)) - 7;
  return (int64_t(octave) << 7) + (ns >> octave);
}
inline int64_t bin_low(int64_t bin) {
  if (bin < 256) return bin;
  int octave = int(bin >> 7) - 1;
  return (bin - (int64_t(octave) << 7)) << octave;
}

}  // namespace pk
