// Handover of a cache line: two threads of the team write to it in turn, each waiting for the other's word.
//
// Operands  out: line (16 of int64: word 0 goes to and fro, word 8 is the number of handovers)
// dims      one thread; the other; round trips of a pass
#include "table.h"
#include "vec.h"

PK_HOT void pk_handover_first(int64_t* word, int64_t trips) {
  for (int64_t i = 0; i < 2 * trips; i += 2) {
    __atomic_store_n(word, i + 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != i + 2) {}
  }
}
PK_HOT void pk_handover_second(int64_t* word, int64_t trips) {
  for (int64_t i = 0; i < 2 * trips; i += 2) {
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != i + 1) {}
    __atomic_store_n(word, i + 2, __ATOMIC_RELEASE);
  }
}

PK_HOT void pk_handover(const pk_call* c, const pk_team* t) {
  int64_t* line = static_cast<int64_t*>(c->ptr[0]);
  const int64_t trips = c->dim[2] * c->reps;
  if (t->tid == c->dim[0]) line[0] = 0;
  t->barrier(t);
  if (t->tid == c->dim[0]) {
    pk_handover_first(line, trips);
    line[8] = line[0] / c->reps;
  } else if (t->tid == c->dim[1]) {
    pk_handover_second(line, trips);
  }
}

static const pk_entry handover_entries[] = {
  {"handover", "", "int64", "plain", pk_handover, nullptr, nullptr, 0, "pk_handover_first"},
};
PK_TABLE(handover_entries);
