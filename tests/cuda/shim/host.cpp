// One source of csrc/cuda (PK_SOURCE) as a host library: its entries, and pk_host_launch to run one over a grid.
#include "cuda_host.h"
#include PK_SOURCE

static void (*pk_host_kernel)(const pk_args);
static void pk_host_call(const void* args) { pk_host_kernel(*static_cast<const pk_args*>(args)); }

// 0, or 1 when some threads of a block never reached a barrier that others wait at.
extern "C" int pk_host_launch(void (*kernel)(const pk_args), const pk_args* args, unsigned grid, unsigned block) {
  pk_host_kernel = kernel;
  return host::run(pk_host_call, args, grid, block);
}
extern "C" int pk_host_args_bytes() { return sizeof(pk_args); }
