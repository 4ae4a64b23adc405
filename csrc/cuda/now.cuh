// Time in nanoseconds as all multiprocessors see it (ticks of up to a microsecond).
#pragma once
#include "common.cuh"

PK_DEV unsigned long long pk_now() {
#if PK_PTX
  unsigned long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
#elif defined(__HIP__)
  return wall_clock64() * 10;  // ticks of 100 MHz
#else
  return pk_host_now();
#endif
}
