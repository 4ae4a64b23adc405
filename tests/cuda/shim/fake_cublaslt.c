// A cuBLASLt of one type (fp32, column-major) that multiplies on the host: enough to see that arguments arrive in their places.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct { int type; uint64_t rows, columns; int64_t leading; } Layout;
typedef struct { int compute, scale, transpose_a; } Operation;
typedef struct { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; } Choice;

int cublasLtCreate(void** made) { return *made = malloc(1), 0; }
int cublasLtDestroy(void* p) { return free(p), 0; }
size_t cublasLtGetVersion(void) { return 130000; }
int cublasLtMatmulDescCreate(void** made, int compute, int scale) {
  Operation* o = calloc(1, sizeof *o);
  o->compute = compute, o->scale = scale;
  return *made = o, compute == 68 || compute == 77 ? 0 : 15;
}
int cublasLtMatmulDescSetAttribute(Operation* o, int attribute, const void* value, size_t n) {
  if (attribute == 3 && n == 4) o->transpose_a = *(const int32_t*)value;
  return attribute == 3 || attribute == 25 ? 0 : 7;
}
int cublasLtMatmulDescDestroy(void* p) { return free(p), 0; }
int cublasLtMatrixLayoutCreate(void** made, int type, uint64_t rows, uint64_t columns, int64_t leading) {
  Layout* l = malloc(sizeof *l);
  *l = (Layout){type, rows, columns, leading};
  return *made = l, leading < (int64_t)rows ? 7 : 0;
}
int cublasLtMatrixLayoutDestroy(void* p) { return free(p), 0; }
int cublasLtMatmulPreferenceCreate(void** made) { return *made = malloc(1), 0; }
int cublasLtMatmulPreferenceSetAttribute(void* p, int attribute, const void* value, size_t n) {
  return (void)p, (void)value, attribute == 1 && n == 8 ? 0 : 7;
}
int cublasLtMatmulPreferenceDestroy(void* p) { return free(p), 0; }
int cublasLtMatmulAlgoGetHeuristic(void* handle, Operation* o, Layout* a, Layout* b, Layout* c, Layout* d, void* preference,
                                   int wanted, Choice* found, int* count) {
  (void)handle, (void)o, (void)a, (void)b, (void)c, (void)d, (void)preference;
  *count = wanted < 2 ? wanted : 2;
  for (int i = 0; i < *count; ++i) found[i].algorithm[0] = 100 + i;
  return 0;
}
int cublasLtMatmul(void* handle, Operation* o, const float* alpha, const float* a, Layout* la, const float* b, Layout* lb,
                   const float* beta, const float* c, Layout* lc, float* d, Layout* ld, const uint64_t* algorithm,
                   void* workspace, size_t n, void* stream) {
  (void)handle, (void)beta, (void)c, (void)lc, (void)stream;
  if (algorithm[0] < 100 || !workspace || !n || la->type) return 7;
  uint64_t inner = o->transpose_a ? la->rows : la->columns, rows = o->transpose_a ? la->columns : la->rows;
  if (inner != lb->rows || rows != ld->rows || lb->columns != ld->columns) return 7;
  for (uint64_t j = 0; j < ld->columns; ++j)
    for (uint64_t i = 0; i < rows; ++i) {
      double sum = 0;
      for (uint64_t k = 0; k < inner; ++k)
        sum += (double)(o->transpose_a ? a[k + i * la->leading] : a[i + k * la->leading]) * b[k + j * lb->leading];
      d[i + j * ld->leading] = (float)(*alpha * sum);
    }
  return 0;
}
