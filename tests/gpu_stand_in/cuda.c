// CUDA without a GPU: memory is the host's, objects are empty, and whatever is not written here returns 0, success.
// The build adds the functions that return 0, one for each that MindSpore's GPU plug-in asks for.
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Nobody looks into an object, but some callers clear theirs.
#define NEW_OBJECT(name) int name(void **object) { *object = calloc(1, 4096); return 0; }
#define NEW_OBJECT_WITH_FLAGS(name) int name(void **object, unsigned flags) { *object = calloc(1, 4096); return 0; }
#define ANSWER(name, type, value, ...) int name(__VA_ARGS__, type *answer) { *answer = value; return 0; }

static const size_t GIB = (size_t)1 << 30;

// ---- the device: two of them, in the size of an A100

int cudaGetDeviceCount(int *count) { *count = 2; return 0; }
int cudaMemGetInfo(size_t *free, size_t *total) { *free = 38 * GIB; *total = 40 * GIB; return 0; }

struct device_properties {  // cudaDeviceProp of CUDA 11
  char name[256], uuid[16], luid[8];
  unsigned luid_mask;
  size_t total_memory, shared_memory_per_block;
  int registers_per_block, warp_size;
  size_t pitch;
  int threads_per_block, block[3], grid[3], clock_khz;
  size_t constant_memory;
  int major, minor;
  size_t texture_alignment, texture_pitch_alignment;
  int overlap, multiprocessors;
  int others[80];
};

int cudaGetDeviceProperties(struct device_properties *p, int device) {
  *p = (struct device_properties){
      .name = "stand-in", .total_memory = 40 * GIB, .shared_memory_per_block = 48 << 10, .registers_per_block = 1 << 16,
      .warp_size = 32, .pitch = 0x7fffffff, .threads_per_block = 1024, .block = {1024, 1024, 64},
      .grid = {0x7fffffff, 65535, 65535}, .clock_khz = 1410000, .constant_memory = 1 << 16, .major = 8,
      .multiprocessors = 108};
  return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
    case 10: *value = 32; break;   // threads in a warp
    case 16: *value = 108; break;  // multiprocessors
    case 75: *value = 8; break;    // compute capability, major
    case 76: *value = 0; break;    // and minor
    default: *value = 1024;
  }
  return 0;
}

int nvrtcVersion(int *major, int *minor) { *major = 11; *minor = 6; return 0; }

// ---- memory

static int allocate(void **memory, size_t size) {
  *memory = aligned_alloc(512, (size + 511) / 512 * 512);
  return *memory ? 0 : 2;  // cudaErrorMemoryAllocation
}

int cudaMalloc(void **memory, size_t size) { return allocate(memory, size); }
int cudaHostAlloc(void **memory, size_t size, unsigned flags) { return allocate(memory, size); }
int cudaFree(void *memory) { free(memory); return 0; }
int cudaFreeHost(void *memory) { free(memory); return 0; }

int cudaMemcpy(void *target, const void *source, size_t size, int direction) {
  memcpy(target, source, size);
  // A single byte is the condition of a branch of the graph. No kernel has computed it, but it must be 0 or 1.
  if (size == 1) *(char *)target &= 1;
  return 0;
}
int cudaMemcpyAsync(void *target, const void *source, size_t size, int direction, void *stream) {
  return cudaMemcpy(target, source, size, direction);
}
int cudaMemset(void *memory, int value, size_t size) { memset(memory, value, size); return 0; }
int cudaMemsetAsync(void *memory, int value, size_t size, void *stream) { return cudaMemset(memory, value, size); }

// ---- objects

NEW_OBJECT(cudaStreamCreate)
NEW_OBJECT_WITH_FLAGS(cudaStreamCreateWithFlags)
NEW_OBJECT_WITH_FLAGS(cudaStreamCreateWithPriority)
NEW_OBJECT(cudaEventCreate)
NEW_OBJECT_WITH_FLAGS(cudaEventCreateWithFlags)
NEW_OBJECT(cuModuleLoadDataEx)
NEW_OBJECT(cuModuleGetFunction)
NEW_OBJECT(cublasCreate_v2)
NEW_OBJECT(curandCreateGenerator)
NEW_OBJECT(cusolverDnCreate)
NEW_OBJECT(cusolverDnCreateSyevjInfo)
NEW_OBJECT(cusparseCreate)
NEW_OBJECT(cudnnCreate)
NEW_OBJECT(cudnnCreateActivationDescriptor)
NEW_OBJECT(cudnnCreateConvolutionDescriptor)
NEW_OBJECT(cudnnCreateDropoutDescriptor)
NEW_OBJECT(cudnnCreateFilterDescriptor)
NEW_OBJECT(cudnnCreateLRNDescriptor)
NEW_OBJECT(cudnnCreateOpTensorDescriptor)
NEW_OBJECT(cudnnCreatePoolingDescriptor)
NEW_OBJECT(cudnnCreateRNNDescriptor)
NEW_OBJECT(cudnnCreateReduceTensorDescriptor)
NEW_OBJECT(cudnnCreateTensorDescriptor)

int cufftCreate(int *plan) { *plan = 1; return 0; }
int cudaEventElapsedTime(float *milliseconds, void *begin, void *end) { *milliseconds = 1; return 0; }

// ---- errors, which nobody makes

#define NAME_OF_ERROR(name) const char *name(int error) { return "an error of the stand-in"; }
NAME_OF_ERROR(cudaGetErrorString)
NAME_OF_ERROR(cudaGetErrorName)
NAME_OF_ERROR(cudnnGetErrorString)
NAME_OF_ERROR(ncclGetErrorString)
int cuGetErrorName(int error, const char **name) { *name = "an error of the stand-in"; return 0; }

// ---- cuDNN: one algorithm for every convolution, and a little workspace

struct algorithm {
  int number, status;
  float milliseconds;
  size_t workspace;
  int deterministic, math, reserved[3];
};

#define ALGORITHM(name)                                                                                       \
  int name(void *handle, void *a, void *b, void *c, void *d, int wanted, int *found, struct algorithm *best) { \
    *found = 1;                                                                                               \
    *best = (struct algorithm){.number = 1};                                                                  \
    return 0;                                                                                                 \
  }
ALGORITHM(cudnnGetConvolutionForwardAlgorithm_v7)
ALGORITHM(cudnnFindConvolutionForwardAlgorithm)
ALGORITHM(cudnnGetConvolutionBackwardDataAlgorithm_v7)
ALGORITHM(cudnnFindConvolutionBackwardDataAlgorithm)
ALGORITHM(cudnnGetConvolutionBackwardFilterAlgorithm_v7)
ALGORITHM(cudnnFindConvolutionBackwardFilterAlgorithm)

#define WORKSPACE(name) ANSWER(name, size_t, 1024, void *handle, void *a, void *b, void *c, void *d, int algorithm)
WORKSPACE(cudnnGetConvolutionForwardWorkspaceSize)
WORKSPACE(cudnnGetConvolutionBackwardDataWorkspaceSize)
WORKSPACE(cudnnGetConvolutionBackwardFilterWorkspaceSize)

ANSWER(cudnnGetTensorSizeInBytes, size_t, 1 << 20, void *tensor)
ANSWER(cudnnGetFilterSizeInBytes, size_t, 1 << 20, void *filter)
ANSWER(cudnnGetReductionIndicesSize, size_t, 0, void *handle, void *reduction, void *input, void *output)
ANSWER(cudnnGetReductionWorkspaceSize, size_t, 1024, void *handle, void *reduction, void *input, void *output)
ANSWER(cudnnDropoutGetStatesSize, size_t, 1024, void *handle)
ANSWER(cublasGetMathMode, int, 0, void *handle)

// ---- NCCL

typedef struct { char bytes[128]; } unique_id;

int ncclGetUniqueId(unique_id *id) { memset(id, 7, sizeof *id); return 0; }
int ncclCommInitRank(void **communicator, int ranks, unique_id id, int rank) {
  fprintf(stderr, "stand-in NCCL: rank %d of %d\n", rank, ranks);
  *communicator = calloc(1, 4096);
  return 0;
}
