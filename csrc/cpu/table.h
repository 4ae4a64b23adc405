// How a kernel file adds its entries to its library's table: no list to keep, no static initialiser.
//
//   static const pk_entry entries[] = { ... };
//   PK_TABLE(entries);
//
// The linker gathers one pointer per file in the section pk_tables; library.cpp walks them.
#pragma once
#include "kernels.h"

struct pk_table {
  const pk_entry* entry;
  int64_t count;
};

#define PK_TABLE(name)                                                                        \
  static const pk_table name##_table = {name, int64_t(sizeof(name) / sizeof(name[0]))};       \
  __attribute__((section("pk_tables"), used)) static const pk_table* const name##_pointer = &name##_table

// A hot loop lives in a function of its own with a plain name, so that it can be found and disassembled.
#define PK_HOT extern "C" __attribute__((noinline, visibility("hidden")))
#define PK_INLINE inline __attribute__((always_inline))
