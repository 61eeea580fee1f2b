/* SPDX-License-Identifier: MIT */
/* A layer between the OpenCL loader and a driver, by which devices say that they have local memory
 * of their own, or with TEST_LOCAL_MEMORY=none that they have not: then a processor runs the
 * kernels that GPUs do, and the other way round. Layers: OpenCL ICD loader, "cl_layer.h". */
#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl_layer.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

static cl_icd_dispatch next, mine;

static cl_int CL_API_CALL device_info(cl_device_id device, cl_device_info param, size_t size,
                                      void *ret_value, size_t *ret_size)
{
    const char *memory = getenv("TEST_LOCAL_MEMORY");
    cl_int error = next.clGetDeviceInfo(device, param, size, ret_value, ret_size);
    if (error == CL_SUCCESS && ret_value && param == CL_DEVICE_LOCAL_MEM_TYPE)
        *(cl_device_local_mem_type *)ret_value =
            memory && !strcmp(memory, "none") ? CL_GLOBAL : CL_LOCAL;
    return error;
}

EXPORT cl_int CL_API_CALL clGetLayerInfo(cl_layer_info param, size_t size, void *ret_value,
                                         size_t *ret_size)
{
    const cl_layer_api_version version = CL_LAYER_API_VERSION_100;

    if (param != CL_LAYER_API_VERSION) return CL_INVALID_VALUE;
    if (ret_value && size < sizeof version) return CL_INVALID_VALUE;
    if (ret_value) memcpy(ret_value, &version, sizeof version);
    if (ret_size) *ret_size = sizeof version;
    return CL_SUCCESS;
}

EXPORT cl_int CL_API_CALL clInitLayer(cl_uint n, const cl_icd_dispatch *target, cl_uint *ret_n,
                                      const cl_icd_dispatch **ret_dispatch)
{
    if (n > sizeof mine / sizeof(void *)) n = sizeof mine / sizeof(void *);
    memcpy(&next, target, n * sizeof(void *));
    memcpy(&mine, target, n * sizeof(void *));
    mine.clGetDeviceInfo = device_info;
    *ret_dispatch = &mine;
    *ret_n = n;
    return CL_SUCCESS;
}
