// A libcuda.so.1 that only takes time: what the request driver calls, each with a set duration, and counts of the calls.
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

enum { SET_CURRENT, LAUNCH, GRAPH, TO_DEVICE, TO_HOST, WAIT, CALLS };
static int64_t count[CALLS], queued_ns, work_ns;
static int fail_at, fail_status;
static uint64_t last_argument;

int64_t fake_count(int call) { return count[call]; }
uint64_t fake_last_argument(void) { return last_argument; }
void fake_reset(int64_t ns, int at, int status) {
  memset(count, 0, sizeof count);
  work_ns = ns, fail_at = at, fail_status = status, queued_ns = 0;
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}
static int queue(int call, int64_t ns) {
  queued_ns += ns;
  return ++count[call] == fail_at ? fail_status : 0;
}

int cuCtxSetCurrent(uint64_t context) { return ++count[SET_CURRENT], context ? 0 : 201; }
int cuLaunchKernel(uint64_t f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   uint64_t stream, void** parameters, void** extra) {
  (void)f, (void)gy, (void)gz, (void)by, (void)bz, (void)shared, (void)stream, (void)extra, (void)gx, (void)bx;
  memcpy(&last_argument, parameters[0], sizeof last_argument);
  return queue(LAUNCH, work_ns);
}
int cuGraphLaunch(uint64_t graph, uint64_t stream) { return (void)graph, (void)stream, queue(GRAPH, work_ns); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t n, uint64_t stream) {
  return (void)stream, memcpy((void*)to, from, n), queue(TO_DEVICE, 0);
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t n, uint64_t stream) {
  return (void)stream, memcpy(to, (void*)from, n), queue(TO_HOST, 0);
}
int cuStreamSynchronize(uint64_t stream) {
  (void)stream;
  int64_t end = now() + queued_ns;
  queued_ns = 0;
  while (now() < end) {
  }
  return queue(WAIT, 0);
}
int cuGetErrorString(int status, const char** text) { return *text = status == 719 ? "unspecified launch failure" : "?", 0; }

// What pykernels.machine.gpu reads of two devices, the second a MIG slice.
int cuInit(unsigned flags) { return (void)flags, 0; }
int cuDeviceGetCount(int* n) { return *n = 2, 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGet(int* device, int index) { return *device = index, 0; }
int cuDeviceGetName(char* name, int n, int device) {
  strncpy(name, device ? "NVIDIA H100 80GB HBM3 MIG 1g.10gb" : "NVIDIA H100 80GB HBM3", n);
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { return *bytes = device ? 10ull << 30 : 80ull << 30, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  switch (attribute) {
    case 13: return *value = 1980000, 0;
    case 16: return *value = device ? 16 : 132, 0;
    case 38: return *value = 50 << 20, 0;
    case 75: return *value = 9, 0;
    case 76: return *value = 0, 0;
    default: return 1;
  }
}
