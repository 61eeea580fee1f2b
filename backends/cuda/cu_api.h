/* SPDX-License-Identifier: MIT */
/*
 * The part of NVIDIA's driver API that the backend uses, found at run time: neither CUDA's headers
 * nor its libraries are needed to build or to load this. Names, values and prototypes are those of
 * the CUDA Driver API reference (https://docs.nvidia.com/cuda/cuda-driver-api/); where cuda.h maps
 * a name to a version of it, as cuMemAlloc to cuMemAlloc_v2, the version is looked up.
 */
#ifndef SOBRE_CU_API_H
#define SOBRE_CU_API_H

#include <stdbool.h>
#include <stddef.h>

#ifdef _WIN32
#define CUDAAPI __stdcall
#else
#define CUDAAPI
#endif

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;

/* Results that the backend tells apart. */
enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_DEVICE_UNAVAILABLE = 46,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
    CUDA_ERROR_ECC_UNCORRECTABLE = 214,
    CUDA_ERROR_INVALID_PTX = 218,
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_LAUNCH_TIMEOUT = 702,
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
    CUDA_ERROR_ASSERT = 710,
    CUDA_ERROR_HARDWARE_STACK_ERROR = 714,
    CUDA_ERROR_ILLEGAL_INSTRUCTION = 715,
    CUDA_ERROR_MISALIGNED_ADDRESS = 716,
    CUDA_ERROR_INVALID_ADDRESS_SPACE = 717,
    CUDA_ERROR_INVALID_PC = 718,
    CUDA_ERROR_LAUNCH_FAILED = 719,
};

/* CUdevice_attribute */
enum {
    CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 1,
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK = 8,
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_DEVICE_ATTRIBUTE_INTEGRATED = 18,
    CU_DEVICE_ATTRIBUTE_COMPUTE_MODE = 20,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
};
enum { CU_COMPUTEMODE_PROHIBITED = 2 };
enum { CU_STREAM_NON_BLOCKING = 1 };
enum { CU_EVENT_BLOCKING_SYNC = 1, CU_EVENT_DISABLE_TIMING = 2 };
/* CUjit_option */
enum { CU_JIT_ERROR_LOG_BUFFER = 5, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6 };

/* X(function, symbol, parameters) */
#define CU_FUNCTIONS(X)                                                                           \
    X(cuInit, "cuInit", (unsigned flags))                                                         \
    X(cuDriverGetVersion, "cuDriverGetVersion", (int *version))                                   \
    X(cuGetErrorName, "cuGetErrorName", (CUresult error, const char **name))                      \
    X(cuDeviceGetCount, "cuDeviceGetCount", (int *count))                                         \
    X(cuDeviceGet, "cuDeviceGet", (CUdevice * device, int ordinal))                               \
    X(cuDeviceGetName, "cuDeviceGetName", (char *name, int size, CUdevice device))                \
    X(cuDeviceGetAttribute, "cuDeviceGetAttribute", (int *value, int attribute, CUdevice device)) \
    X(cuDeviceGetPCIBusId, "cuDeviceGetPCIBusId", (char *id, int size, CUdevice device))          \
    X(cuDeviceTotalMem, "cuDeviceTotalMem_v2", (size_t * bytes, CUdevice device))                 \
    X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain",                                       \
      (CUcontext * context, CUdevice device))                                                     \
    X(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (CUdevice device))               \
    X(cuCtxPushCurrent, "cuCtxPushCurrent_v2", (CUcontext context))                               \
    X(cuCtxPopCurrent, "cuCtxPopCurrent_v2", (CUcontext * context))                               \
    X(cuStreamCreate, "cuStreamCreate", (CUstream * stream, unsigned flags))                      \
    X(cuStreamDestroy, "cuStreamDestroy_v2", (CUstream stream))                                   \
    X(cuStreamSynchronize, "cuStreamSynchronize", (CUstream stream))                              \
    X(cuEventCreate, "cuEventCreate", (CUevent * event, unsigned flags))                          \
    X(cuEventDestroy, "cuEventDestroy_v2", (CUevent event))                                       \
    X(cuEventRecord, "cuEventRecord", (CUevent event, CUstream stream))                           \
    X(cuEventQuery, "cuEventQuery", (CUevent event))                                              \
    X(cuEventSynchronize, "cuEventSynchronize", (CUevent event))                                  \
    X(cuMemGetInfo, "cuMemGetInfo_v2", (size_t * free, size_t * total))                           \
    X(cuMemAlloc, "cuMemAlloc_v2", (CUdeviceptr * pointer, size_t size))                          \
    X(cuMemFree, "cuMemFree_v2", (CUdeviceptr pointer))                                           \
    X(cuMemHostAlloc, "cuMemHostAlloc", (void **pointer, size_t size, unsigned flags))            \
    X(cuMemFreeHost, "cuMemFreeHost", (void *pointer))                                            \
    X(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2",                                                  \
      (CUdeviceptr to, const void *from, size_t size, CUstream stream))                           \
    X(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2",                                                  \
      (void *to, CUdeviceptr from, size_t size, CUstream stream))                                 \
    X(cuMemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2",                                                  \
      (CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream))                           \
    X(cuModuleLoadDataEx, "cuModuleLoadDataEx",                                                   \
      (CUmodule * module, const void *image, unsigned n_options, int *options, void **values))    \
    X(cuModuleUnload, "cuModuleUnload", (CUmodule module))                                        \
    X(cuModuleGetFunction, "cuModuleGetFunction",                                                 \
      (CUfunction * function, CUmodule module, const char *name))                                 \
    X(cuLaunchKernel, "cuLaunchKernel",                                                           \
      (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,  \
       unsigned block_y, unsigned block_z, unsigned shared_size, CUstream stream,                 \
       void **parameters, void **extra))

typedef struct cu_api {
#define CU_MEMBER(name, symbol, parameters) CUresult(CUDAAPI *name) parameters;
    CU_FUNCTIONS(CU_MEMBER)
#undef CU_MEMBER
} cu_api;

/* Fills in the table from the system's driver, which stays loaded until the process ends: it keeps
 * threads. False: `ret_reason` says why there is none. */
bool cu_api_open(cu_api *ret_api, char *ret_reason, size_t size);
/* "CUDA_ERROR_OUT_OF_MEMORY"; static */
const char *cu_error_name(const cu_api *api, CUresult error);

#endif
