// Enough of CUDA C++ to build csrc/cuda/*.cu as host code: one fiber per CUDA thread, blocks one after another.
//
// A barrier that some threads of the block never reach is an error, not a hang. Shared memory is poisoned before each block,
// so that nothing may lean on an earlier block's values. Not covered: inline PTX, races, memory order, partial warp masks.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <time.h>
#include <ucontext.h>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define PK_HOST 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#ifndef __HIP__
#define __grid_constant__
#endif
#define __launch_bounds__(...)
#define __shared__ __attribute__((section("pk_shared"))) static

struct pk_index { unsigned x, y, z; };
static pk_index threadIdx, blockIdx, blockDim, gridDim;

extern "C" char __start_pk_shared[] __attribute__((weak)), __stop_pk_shared[] __attribute__((weak));

namespace host {

enum State { READY, AT_BLOCK, AT_WARP, DONE };
enum Status { OK = 0, DIVERGENT = 1 };
constexpr size_t STACK = 128 * 1024;
constexpr int WARP = 32;

struct Fiber {
  ucontext_t context;
  State state;
  unsigned tid;
  int exchanges;
  void* fake_stack;
};

static std::vector<Fiber> fibers;
static std::vector<char> stacks;
static std::vector<uint64_t> slots[2];
static ucontext_t scheduler;
static Fiber* current;
static void (*body)(const void*);
static const void* body_args;
static const void* scheduler_stack;
static size_t scheduler_size;

inline void to_scheduler(bool ends) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(ends ? nullptr : &current->fake_stack, scheduler_stack, scheduler_size);
#endif
  Fiber* self = current;
  swapcontext(&self->context, &scheduler);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(self->fake_stack, &scheduler_stack, &scheduler_size);
#endif
  (void)self;
  (void)ends;
}

inline void entry() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
  body(body_args);
  current->state = DONE;
  to_scheduler(true);
}

inline void resume(Fiber& fiber) {
  current = &fiber;
  threadIdx.x = fiber.tid;
#ifdef __SANITIZE_ADDRESS__
  void* own = nullptr;
  __sanitizer_start_switch_fiber(&own, stacks.data() + fiber.tid * STACK, STACK);
#endif
  swapcontext(&scheduler, &fiber.context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(own, nullptr, nullptr);
#endif
}

// Parks the calling thread until threads [lo, hi) of its block have all arrived in the same state.
inline void meet(State where, unsigned lo, unsigned hi) {
  current->state = where;
  bool all = true;
  for (unsigned i = lo; i < hi; ++i) all = all && fibers[i].state == where;
  if (all)
    for (unsigned i = lo; i < hi; ++i) fibers[i].state = READY;
  else
    to_scheduler(false);
}

inline unsigned warp_start() { return threadIdx.x / WARP * WARP; }
inline unsigned warp_end() {
  unsigned end = warp_start() + WARP;
  return end < blockDim.x ? end : blockDim.x;
}

// Leaves a value for the warp and returns what `lane` left. Two sets of slots in turn: nobody can be two exchanges ahead.
template <class T> inline T exchange(T value, int lane) {
  static_assert(sizeof(T) <= 8, "shuffles move up to 8 bytes");
  std::vector<uint64_t>& slot = slots[current->exchanges++ & 1];
  memcpy(&slot[threadIdx.x], &value, sizeof(T));
  unsigned first = warp_start();
  meet(AT_WARP, first, warp_end());
  threadIdx.x = current->tid;
  unsigned from = first + lane;
  T got = value;
  if (from < warp_end()) memcpy(&got, &slot[from], sizeof(T));
  return got;
}

inline int run_block() {
  unsigned n = blockDim.x;
  if (__start_pk_shared) memset(__start_pk_shared, 0xCD, __stop_pk_shared - __start_pk_shared);
  for (unsigned i = 0; i < n; ++i) {
    Fiber& f = fibers[i];
    f.state = READY, f.tid = i, f.exchanges = 0, f.fake_stack = nullptr;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = stacks.data() + i * STACK;
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = &scheduler;
    makecontext(&f.context, entry, 0);
  }
  for (;;) {
    bool ran = false, done = true;
    for (unsigned i = 0; i < n; ++i) {
      if (fibers[i].state == READY) resume(fibers[i]), ran = true;
      done = done && fibers[i].state == DONE;
    }
    if (done) return OK;
    if (!ran) return DIVERGENT;
  }
}

inline int run(void (*kernel)(const void*), const void* args, unsigned grid, unsigned block) {
  body = kernel, body_args = args;
  blockDim = {block, 1, 1}, gridDim = {grid, 1, 1};
  if (fibers.size() < block) fibers.resize(block);
  if (stacks.size() < block * STACK) stacks.resize(block * STACK);
  for (auto& set : slots) set.assign(block, 0);
  for (unsigned b = 0; b < grid; ++b) {
    blockIdx = {b, 0, 0};
    if (int status = run_block()) return status;
  }
  return OK;
}

}  // namespace host

inline void __syncthreads() { host::meet(host::AT_BLOCK, 0, blockDim.x); threadIdx.x = host::current->tid; }
inline void __syncwarp(unsigned = ~0u) { host::meet(host::AT_WARP, host::warp_start(), host::warp_end()); threadIdx.x = host::current->tid; }
template <class T> inline T __shfl_sync(unsigned, T v, int lane, int width = 32) {
  int self = threadIdx.x % 32;
  return host::exchange(v, self / width * width + lane % width);
}
#ifdef __HIP__  // what HIP names otherwise, and nothing that it lacks
template <class T> inline T __shfl_xor(T v, int mask, int) { return host::exchange(v, int(threadIdx.x % 32) ^ mask); }
#else
template <class T> inline T __shfl_xor_sync(unsigned, T v, int mask) { return host::exchange(v, int(threadIdx.x % 32) ^ mask); }
#endif
template <class T> inline T __shfl_down_sync(unsigned, T v, int delta) {
  int self = threadIdx.x % 32;
  return host::exchange(v, self + delta < 32 ? self + delta : self);
}
inline void __threadfence() {}
inline void __threadfence_system() {}
template <class T> inline T atomicAdd(T* p, T v) { T old = *p; *p = old + v; return old; }
template <class T> inline T __ldg(const T* p) { return *p; }

inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
inline long long __double_as_longlong(double d) { long long i; memcpy(&i, &d, 8); return i; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned __int128)a * b >> 64; }
inline float __expf(float x) { return expf(x); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline long long pk_host_now() { timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ll + t.tv_nsec; }
#ifdef __HIP__
inline long long wall_clock64() { return pk_host_now() / 10; }
#endif
inline long long clock64() { return pk_host_now(); }
