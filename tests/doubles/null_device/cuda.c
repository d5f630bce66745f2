/* A device that computes nothing: its memory is the host's, copies copy, launches do nothing. replay.py says what for. */
#include <stdlib.h>
#include <string.h>

int stub_anything(void) { return 0; }
#define RUNTIME(name) int stub_##name

/* Devices. Attributes by number: compute capability 9.0, and the limits that CuPy divides its work by. */
RUNTIME(cudaGetDevice)(int *device) { *device = 0; return 0; }
RUNTIME(cudaGetDeviceCount)(int *count) { *count = 1; return 0; }
RUNTIME(cudaSetDevice)(int device) { return device ? 101 : 0; }
static int attribute(int which) {
  switch (which) {
    case 75: return 9;
    case 76: return 0;
    case 1: case 2: case 3: return 1024;
    case 4: return 64;
    case 5: return 2147483647;
    case 6: case 7: return 65535;
    case 8: return 49152;
    case 10: return 32;
    case 16: return 132;
    case 39: return 2048;
    case 97: return 232448;
    default: return 1;
  }
}
RUNTIME(cudaDeviceGetAttribute)(int *value, int which, int device) { *value = attribute(which); return 0; }
RUNTIME(cudaDeviceCanAccessPeer)(int *value, int a, int b) { *value = 0; return 0; }
RUNTIME(cudaRuntimeGetVersion)(int *version) { *version = 12090; return 0; }
RUNTIME(cudaDriverGetVersion)(int *version) { *version = 12090; return 0; }

/* Memory. */
static int take(void **p, size_t n) {
  *p = aligned_alloc(512, (n + 1023) / 512 * 512);
  if (*p) memset(*p, 0, n);
  return *p ? 0 : 2;
}
RUNTIME(cudaMalloc)(void **p, size_t n) { return take(p, n); }
RUNTIME(cudaMallocAsync)(void **p, size_t n, void *stream) { return take(p, n); }
RUNTIME(cudaMallocFromPoolAsync)(void **p, size_t n, void *pool, void *stream) { return take(p, n); }
RUNTIME(cudaMallocManaged)(void **p, size_t n, unsigned flags) { return take(p, n); }
RUNTIME(cudaHostAlloc)(void **p, size_t n, unsigned flags) { return take(p, n); }
RUNTIME(cudaFree)(void *p) { free(p); return 0; }
RUNTIME(cudaFreeAsync)(void *p, void *stream) { free(p); return 0; }
RUNTIME(cudaFreeHost)(void *p) { free(p); return 0; }
RUNTIME(cudaMemcpy)(void *to, const void *from, size_t n, int kind) { memmove(to, from, n); return 0; }
RUNTIME(cudaMemcpyAsync)(void *to, const void *from, size_t n, int kind, void *stream) { memmove(to, from, n); return 0; }
RUNTIME(cudaMemset)(void *to, int value, size_t n) { memset(to, value, n); return 0; }
RUNTIME(cudaMemsetAsync)(void *to, int value, size_t n, void *stream) { memset(to, value, n); return 0; }
RUNTIME(cudaMemGetInfo)(size_t *free, size_t *total) { *free = *total = (size_t)80 << 30; return 0; }
struct pointer { int type, device; void *on_device, *on_host; };
RUNTIME(cudaPointerGetAttributes)(struct pointer *found, const void *p) {
  found->type = 2; found->device = 0; found->on_device = (void *)p; found->on_host = 0;
  return 0;
}

/* Streams, events and pools are handles that nobody looks into. */
#define HANDLE ((void *)16)
RUNTIME(cudaStreamIsCapturing)(void *stream, int *value) { *value = 0; return 0; }
RUNTIME(cudaStreamCreate)(void **stream) { *stream = HANDLE; return 0; }
RUNTIME(cudaStreamCreateWithFlags)(void **stream, unsigned flags) { *stream = HANDLE; return 0; }
RUNTIME(cudaEventCreateWithFlags)(void **event, unsigned flags) { *event = HANDLE; return 0; }
RUNTIME(cudaDeviceGetDefaultMemPool)(void **pool, int device) { *pool = HANDLE; return 0; }

/* The driver: modules without code, whose functions do nothing. */
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 12090; return 0; }
int cuCtxGetCurrent(void **context) { *context = HANDLE; return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuCtxCreate_v2(void **context) { *context = HANDLE; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuModuleLoadData(void **module, const void *image) { *module = HANDLE; return 0; }
int cuModuleLoad(void **module, const char *file) { *module = HANDLE; return 0; }
int cuModuleUnload(void *module) { return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = HANDLE; return 0; }
int cuModuleGetGlobal_v2(void **p, size_t *n, void *module, const char *name) { *p = calloc(1, 4096); *n = 4096; return 0; }
int cuFuncGetAttribute(int *value, int which, void *function) { *value = which ? 0 : 1024; return 0; }
int cuFuncSetAttribute(void *function, int which, int value) { return 0; }
int cuLaunchKernel(void *function) { return 0; }
int cuLaunchCooperativeKernel(void *function) { return 0; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks) { *blocks = 8; return 0; }
int cuOccupancyMaxPotentialBlockSize(int *grid, int *block) { *grid = 132; *block = 256; return 0; }
int cuGetErrorName(int error, const char **name) { *name = "none"; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "none"; return 0; }
int cuStreamGetCtx(void *stream, void **context) { *context = HANDLE; return 0; }
