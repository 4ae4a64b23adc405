// Exports this ISA level's table. The entries are copied once into one array; the loader calls this from one thread.
#include "table.h"
#include "vec.h"

extern "C" __attribute__((visibility("hidden"))) const pk_table* const __start_pk_tables[];
extern "C" __attribute__((visibility("hidden"))) const pk_table* const __stop_pk_tables[];

static pk_entry all_entries[4096];
static pk_library library = {PK_ABI, PK_ISA, PK_VECTOR_BYTES, 0, all_entries};

extern "C" __attribute__((visibility("default"))) const pk_library* pk_library_v1(void) {
  if (library.count == 0) {
    for (auto table = __start_pk_tables; table != __stop_pk_tables; ++table)
      for (int64_t i = 0; i < (*table)->count && library.count < 4096; ++i) all_entries[library.count++] = (*table)->entry[i];
  }
  return &library;
}
