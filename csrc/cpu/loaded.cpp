// Loaded latency: thread 0 chases a cycle of lines while the others move data at a controlled rate.
//
// Operands  in: lines (1 x lines x 8 words of 64 bits: a random cycle of addresses), data (threads x n words of 64 bits);
//           out: state (8 + 8 * 1024 of int64): 0 the line reached, 1 bytes a second that the others moved; then a line for each thread
// dims      lines; steps of a pass; seed of the cycle; n (a multiple of 128); lines written back of four read; pause: additions
//           that depend on each other (a cycle each) after every KiB, negative: the others stay idle
// A line is written back as it was read. So reads and writes of memory are lines read and lines written, with no line read
// for a store alone.
#include <time.h>

#include "cycle.h"
#include "table.h"
#include "vec.h"

using namespace pk;

static constexpr int LINE_BYTES = 64, MAX_THREADS = 1024;
static constexpr int64_t BLOCK = 1024;

static int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

PK_HOT const char* pk_loaded_chase(const char* p, int64_t steps) {
  for (int64_t s = 0; s < steps; s += 8) {
    p = *reinterpret_cast<const char* const*>(p), p = *reinterpret_cast<const char* const*>(p);
    p = *reinterpret_cast<const char* const*>(p), p = *reinterpret_cast<const char* const*>(p);
    p = *reinterpret_cast<const char* const*>(p), p = *reinterpret_cast<const char* const*>(p);
    p = *reinterpret_cast<const char* const*>(p), p = *reinterpret_cast<const char* const*>(p);
  }
  return p;
}

PK_INLINE void pause_for(int64_t additions) {
  uint64_t x = 1, step = 3;
  for (int64_t i = 0; i < additions; ++i) {
#if defined(__x86_64__)
    asm volatile("add %1, %0" : "+r"(x) : "r"(step));
#else
    asm volatile("add %0, %0, %1" : "+r"(x) : "r"(step));
#endif
  }
}

// Moves blocks until told to stop; returns how many. WRITTEN of every four lines are stored again.
template <int WRITTEN>
PK_INLINE int64_t traffic(uint64_t* data, int64_t n, int64_t pause, const int64_t* stop) {
  using V = vec<uint64_t>;
  constexpr int L = lanes<uint64_t>, PER_LINE = LINE_BYTES / PK_VECTOR_BYTES;
  V s0{}, s1{};
  int64_t blocks = 0;
  for (uint64_t* p = data; !__atomic_load_n(stop, __ATOMIC_ACQUIRE); ++blocks) {
#pragma GCC unroll 64
    for (int i = 0; i < BLOCK / PK_VECTOR_BYTES; ++i) {
      V x = load<V>(p + i * L);
      if (i / PER_LINE % 4 >= 4 - WRITTEN) consume(x), store(p + i * L, x);
      else if (i % 2) s0 += x, consume(s0);
      else s1 += x, consume(s1);
    }
    pause_for(pause);
    p += BLOCK / 8;
    if (p == data + n) p = data;
  }
  s0 += s1;
  consume(s0);
  return blocks;
}
#define TRAFFIC(W) \
  PK_HOT int64_t pk_loaded_write##W(uint64_t* data, int64_t n, int64_t pause, const int64_t* stop) { \
    return traffic<W>(data, n, pause, stop); \
  }
TRAFFIC(0)
TRAFFIC(1)
TRAFFIC(2)
TRAFFIC(4)

PK_HOT void pk_loaded(const pk_call* c, const pk_team* t) {
  const int64_t steps = c->dim[1] * c->reps, n = c->dim[3], written = c->dim[4], pause = c->dim[5];
  const char* base = static_cast<const char*>(c->ptr[0]);
  int64_t* state = static_cast<int64_t*>(c->ptr[2]);
  int64_t* stop = state + 8;  // thread 0's own line
  if (t->threads > MAX_THREADS) return;
  if (t->tid == 0) {
    if (c->first == 0) state[0] = 0;
    *stop = 0;
  }
  t->barrier(t);
  if (t->tid == 0) {
    const char* p = base + state[0] * LINE_BYTES;
    p = pk_loaded_chase(p, steps);
    asm volatile("" : "+r"(p));
    state[0] = (p - base) / LINE_BYTES;
    __atomic_store_n(stop, 1, __ATOMIC_RELEASE);
  } else {
    int64_t blocks = 0;
    const int64_t begin = now_ns();  // its own clock: the chase may have begun later
    uint64_t* data = static_cast<uint64_t*>(c->ptr[1]) + t->tid * n;
    if (pause >= 0)
      blocks = (written == 0 ? pk_loaded_write0 : written == 1 ? pk_loaded_write1 : written == 2 ? pk_loaded_write2
                                                                                                 : pk_loaded_write4)(data, n, pause, stop);
    const double seconds = double(now_ns() - begin) * 1e-9;
    state[8 + 8 * t->tid] = seconds > 0 ? int64_t(double(blocks * BLOCK / 4 * (4 + written)) / seconds) : 0;
  }
  if (t->take(t, 1) != t->threads - 1) return;
  int64_t moved = 0;
  for (int i = 1; i < t->threads; ++i) moved += state[8 + 8 * i];
  state[1] = moved;
}

static const pk_entry loaded_entries[] = {
  {"loaded", "", "int64", "plain", pk_loaded, nullptr, nullptr, 0, "pk_loaded_chase"},
};
PK_TABLE(loaded_entries);
