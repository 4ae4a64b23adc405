// The one C interface between the pybind11 module and the per-ISA kernel libraries.
//
// Every library exports pk_library_v1(), a table of entries. An entry runs `reps` passes of its kernel over the calling
// thread's share of the work; the team calls it once per thread and sample, so the timed loop is inside native code.
// Nothing else is visible from a library, and it has no static initialiser: it may be loaded on any CPU, run only on its own.
#pragma once
#include <cstdint>

extern "C" {

enum { PK_ABI = 1 };

// One call: operand pointers in the order of Problem.operands(), then Problem.dims() and Problem.scalars().
struct pk_call {
  void* const* ptr;
  const int64_t* dim;
  const double* scalar;
  int64_t reps;   // passes to run; a pass is one call in Python's words
  int64_t tune;   // value of a tunable variant such as "prefetch:32", else 0
  int64_t first;  // number of the first pass, counted since the run began: passes that rotate (parts of an array, index
                  // sets) take turn number (first + i) modulo their count; an untimed run starts at 0
};

// The calling thread's view of the team that runs the call together.
struct pk_team {
  int tid;
  int threads;
  void (*barrier)(const pk_team*);            // all threads of the team meet
  int64_t (*take)(const pk_team*, int64_t n); // fetch-and-add on the team's shared counter (0 at the start of a sample)
  void* state;                                // the team's own
  void* scratch;                              // this thread's scratch, 4 KiB aligned, of the size the entry asked for
  int64_t scratch_bytes;
};

typedef void (*pk_kernel)(const pk_call*, const pk_team*);

struct pk_entry {
  const char* kernel;    // "stream"
  const char* op;        // "triad", or "" where the kernel has one op only
  const char* dtype;     // "fp64"
  const char* variant;   // "plain"; variants of one (kernel, op, dtype) stand in rising order of refinement
  pk_kernel run;
  int64_t (*scratch)(const pk_call*, int threads);  // bytes of scratch per thread, or null
  const int64_t* tunes;  // candidate values of pk_call.tune, or null
  int ntunes;
  const char* symbol;    // name of the function that holds the hot loop, for disassembly
};

struct pk_library {
  int abi;               // PK_ABI
  const char* isa;       // "x86_64_v4"
  int vector_bytes;      // width of the level's vectors
  int count;
  const pk_entry* entry;
};

const pk_library* pk_library_v1(void);
}

// The share [lo, hi) of n items that thread tid of `threads` owns, cut on multiples of `grain`. The input fill uses the
// same cut, so the thread that reads a page touched it first.
static inline void pk_share(int64_t n, int64_t grain, int tid, int threads, int64_t* lo, int64_t* hi) {
  int64_t units = (n + grain - 1) / grain;
  int64_t a = units * tid / threads * grain, b = units * (tid + 1) / threads * grain;
  *lo = a < n ? a : n;
  *hi = b < n ? b : n;
}
