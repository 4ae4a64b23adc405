// Latency ceiling: every load needs the one before; 1 to 12 such chains at once.
//
// Operands  in: lines (units x lines x 8 words of 64 bits: in each unit one random cycle, a line's first word is the next
//           line's address); out: ends (units x 16 of int64: the line that each chain has come to)
// dims      lines of a unit; steps of a pass; bytes of a line; chains; units; seed of the cycle
// Chain c starts c/chains of the cycle after line 0. Later passes go on where the last one ended: a walk that began anew
// would find its lines in a cache.
#include "cycle.h"
#include "table.h"
#include "vec.h"

using namespace pk;

static constexpr int LINE_BYTES = 64, MOST_CHAINS = 16;

#define FOR1(X) X(0)
#define FOR2(X) FOR1(X) X(1)
#define FOR4(X) FOR2(X) X(2) X(3)
#define FOR8(X) FOR4(X) X(4) X(5) X(6) X(7)
#define FOR12(X) FOR8(X) X(8) X(9) X(10) X(11)

#define BEGIN(i) const char* p##i = base + end[i] * LINE_BYTES;
// By hand: the compiler would move pointers from register to register, and with 12 of them to the stack.
#if defined(__x86_64__)
#define STEP(i) asm volatile("mov (%0), %0" : "+r"(p##i));
#else
#define STEP(i) asm volatile("ldr %0, [%0]" : "+r"(p##i));
#endif
#define END(i) end[i] = (p##i - base) / LINE_BYTES;
#define CHAINS(N)                                                              \
  PK_HOT void pk_chase_##N(const char* base, int64_t* end, int64_t steps) {    \
    FOR##N(BEGIN)                                                              \
    for (int64_t turn = steps / 8; turn > 0; --turn) {                         \
      FOR##N(STEP) FOR##N(STEP) FOR##N(STEP) FOR##N(STEP)                      \
      FOR##N(STEP) FOR##N(STEP) FOR##N(STEP) FOR##N(STEP)                      \
    }                                                                          \
    FOR##N(END)                                                                \
  }
CHAINS(1)
CHAINS(2)
CHAINS(4)
CHAINS(8)
CHAINS(12)

PK_HOT void pk_chase(const pk_call* c, const pk_team* t) {
  const int64_t lines = c->dim[0], steps = c->dim[1] * c->reps, chains = c->dim[3];
  int64_t lo, hi;
  pk_share(c->dim[4], 1, t->tid, t->threads, &lo, &hi);
  for (int64_t unit = lo; unit < hi; ++unit) {
    const char* base = static_cast<const char*>(c->ptr[0]) + unit * lines * LINE_BYTES;
    int64_t* end = static_cast<int64_t*>(c->ptr[1]) + unit * MOST_CHAINS;
    if (c->first == 0) {
      const Cycle cycle(uint64_t(lines), uint64_t(c->dim[5]));
      const uint64_t zero = cycle.position(0);
      for (int64_t i = 0; i < chains; ++i) end[i] = int64_t(cycle.at((zero + uint64_t(i * lines / chains)) % uint64_t(lines)));
    }
    switch (chains) {
      case 1: pk_chase_1(base, end, steps); break;
      case 2: pk_chase_2(base, end, steps); break;
      case 4: pk_chase_4(base, end, steps); break;
      case 8: pk_chase_8(base, end, steps); break;
      case 12: pk_chase_12(base, end, steps); break;
    }
  }
}

static const pk_entry chase_entries[] = {
  {"chase", "", "int64", "plain", pk_chase, nullptr, nullptr, 0, "pk_chase_1"},
};
PK_TABLE(chase_entries);
