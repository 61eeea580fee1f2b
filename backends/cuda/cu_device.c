/* SPDX-License-Identifier: MIT */
/* Devices, what they can do, their context and stream. */
#include "cu.h"

#include <stdio.h>
#include <string.h>

#include "cu_kernels.h"

enum { SPIN_NS = 100000, ALIGNMENT = 256 };

/* --- Failures */

/* Those that ruin the context, for the host program too, mean that the device is lost. */
static sobre_status status_of(CUresult error)
{
    switch (error) {
    case CUDA_ERROR_OUT_OF_MEMORY: return SOBRE_DEVICE_OUT_OF_MEMORY;
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED: return SOBRE_DEVICE_LOST;
    default: return SOBRE_DEVICE;
    }
}

gpu_error cu_error_of(const cu_dev *dev, CUresult error)
{
    return (gpu_error){status_of(error), dev->name, cu_error_name(&dev->api, error), error};
}

/* --- The context of a thread, and events */

sobre_status cu_enter(const cu_dev *dev)
{
    const CUresult error = dev->api.cuCtxPushCurrent(dev->context);

    return error == CUDA_SUCCESS ? SOBRE_OK : cu_fail(dev, error, "cuCtxPushCurrent");
}

void cu_leave(const cu_dev *dev)
{
    CUcontext popped;

    dev->api.cuCtxPopCurrent(&popped);
}

CUresult cu_event_make(const cu_dev *dev, CUevent *ret_event)
{
    return dev->api.cuEventCreate(ret_event, CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING);
}

CUresult cu_event_query(const cu_dev *dev, CUevent event, const char **ret_call)
{
    *ret_call = "cuEventQuery";
    return dev->api.cuEventQuery(event);
}

CUresult cu_event_wait(const cu_dev *dev, CUevent event, const char **ret_call)
{
    const uint64_t start = os_now_ns();
    CUresult state;

    do {
        state = cu_event_query(dev, event, ret_call);
    } while (state == CUDA_ERROR_NOT_READY && os_now_ns() - start < SPIN_NS);
    if (state != CUDA_ERROR_NOT_READY) return state;
    *ret_call = "cuEventSynchronize";
    return dev->api.cuEventSynchronize(event);
}

/* --- What there is */

static sobre_status api_failed(const sobre_host *host, const cu_api *api, CUresult error,
                               const char *call)
{
    return host->fail(host->context, SOBRE_UNAVAILABLE,
                      "%s failed: %s (%d); check that NVIDIA's driver is installed whole and that "
                      "this user may use the card, or use another backend",
                      call, cu_error_name(api, error), (int)error);
}

/* The driver, new enough and with at least one device. */
static sobre_status open_driver(const sobre_host *host, cu_api *ret_api, int *ret_n)
{
    char reason[512];
    int version = 0, n = 0;
    CUresult error;

    if (!cu_api_open(ret_api, reason, sizeof reason))
        return host->fail(host->context, SOBRE_UNAVAILABLE, "%s", reason);
    error = ret_api->cuDriverGetVersion(&version);
    if (error != CUDA_SUCCESS) return api_failed(host, ret_api, error, "cuDriverGetVersion");
    if (version < cu_kernels_driver)
        return host->fail(host->context, SOBRE_UNAVAILABLE,
                          "NVIDIA's driver is one for CUDA %d.%d, and this plugin was built for "
                          "CUDA %d.%d or newer; update the driver",
                          version / 1000, version % 1000 / 10, (int)cu_kernels_driver / 1000,
                          (int)cu_kernels_driver % 1000 / 10);
    error = ret_api->cuInit(0);
    if (error == CUDA_SUCCESS) {
        error = ret_api->cuDeviceGetCount(&n);
        if (error != CUDA_SUCCESS) return api_failed(host, ret_api, error, "cuDeviceGetCount");
    } else if (error != CUDA_ERROR_NO_DEVICE) {
        return api_failed(host, ret_api, error, "cuInit");
    }
    if (n == 0)
        return host->fail(host->context, SOBRE_UNAVAILABLE,
                          "NVIDIA's driver is installed, but finds no card");
    *ret_n = n;
    return SOBRE_OK;
}

sobre_status cu_device_count(const sobre_host *host, int32_t *ret_n)
{
    cu_api api;
    int n = 0;

    GPU_TRY(open_driver(host, &api, &n));
    *ret_n = n;
    return SOBRE_OK;
}

/* --- What a device says of itself */

typedef struct cu_props {
    CUdevice id;
    char name[128], pci[32];
    size_t memory;
    int major, minor, n_units, max_group, local_size, integrated, mode, driver;
    char reason[512]; /* why it cannot be used; "" if it can */
} cu_props;

static void query_failed(const cu_api *api, cu_props *props, CUresult error, const char *call)
{
    if (error == CUDA_SUCCESS || props->reason[0]) return;
    snprintf(props->reason, sizeof props->reason, "%s failed: %s (%d)", call,
             cu_error_name(api, error), (int)error);
}

static void read_props(const cu_api *api, int index, cu_props *ret_props)
{
    const struct {
        int attribute;
        int *value;
        const char *call;
    } numbers[] = {
#define ATTRIBUTE(name, member) \
    {CU_DEVICE_ATTRIBUTE_##name, &ret_props->member, "cuDeviceGetAttribute(" #name ")"}
        ATTRIBUTE(COMPUTE_CAPABILITY_MAJOR, major),
        ATTRIBUTE(COMPUTE_CAPABILITY_MINOR, minor),
        ATTRIBUTE(MULTIPROCESSOR_COUNT, n_units),
        ATTRIBUTE(MAX_THREADS_PER_BLOCK, max_group),
        ATTRIBUTE(MAX_SHARED_MEMORY_PER_BLOCK, local_size),
        ATTRIBUTE(INTEGRATED, integrated),
        ATTRIBUTE(COMPUTE_MODE, mode),
#undef ATTRIBUTE
    };
    const CUresult error = api->cuDeviceGet(&ret_props->id, index);

    query_failed(api, ret_props, error, "cuDeviceGet");
    if (error != CUDA_SUCCESS) return;
    query_failed(api, ret_props,
                 api->cuDeviceGetName(ret_props->name, sizeof ret_props->name, ret_props->id),
                 "cuDeviceGetName");
    query_failed(api, ret_props,
                 api->cuDeviceGetPCIBusId(ret_props->pci, sizeof ret_props->pci, ret_props->id),
                 "cuDeviceGetPCIBusId");
    query_failed(api, ret_props, api->cuDeviceTotalMem(&ret_props->memory, ret_props->id),
                 "cuDeviceTotalMem");
    query_failed(api, ret_props, api->cuDriverGetVersion(&ret_props->driver), "cuDriverGetVersion");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        query_failed(
            api, ret_props,
            api->cuDeviceGetAttribute(numbers[i].value, numbers[i].attribute, ret_props->id),
            numbers[i].call);
}

/* Needs what the kernels take for granted, and machine code for it. */
static void judge(cu_props *props)
{
    const size_t size = sizeof props->reason;
    char *reason = props->reason;

    if (reason[0]) return;
    if (props->major * 10 + props->minor < cu_kernels_arch)
        snprintf(reason, size,
                 "it is of compute capability %d.%d, and the kernels are built for %d.%d and "
                 "later; its OpenCL driver may do",
                 props->major, props->minor, (int)cu_kernels_arch / 10, (int)cu_kernels_arch % 10);
    else if (props->mode == CU_COMPUTEMODE_PROHIBITED)
        snprintf(reason, size,
                 "its compute mode forbids all use; change that with nvidia-smi --compute-mode");
    else if (props->max_group < GPU_MIN_GROUP)
        snprintf(reason, size, "its blocks have at most %d threads; %d are needed",
                 props->max_group, GPU_MIN_GROUP);
    else if (props->local_size < GPU_MIN_LOCAL)
        snprintf(reason, size, "its blocks have %d bytes of shared memory; %d are needed",
                 props->local_size, GPU_MIN_LOCAL);
}

static sobre_status find(const sobre_host *host, int32_t index, cu_api *ret_api,
                         cu_props *ret_props)
{
    int n = 0;

    GPU_TRY(open_driver(host, ret_api, &n));
    GPU_TRY(gpu_check_index(host, "CUDA", index, n));
    memset(ret_props, 0, sizeof *ret_props);
    read_props(ret_api, index, ret_props);
    judge(ret_props);
    return SOBRE_OK;
}

sobre_status cu_device_info(const sobre_host *host, int32_t index, sobre_device_info *ret_info)
{
    sobre_device_info info = *ret_info;
    cu_api api;
    cu_props props;
    char detail[256];

    GPU_TRY(find(host, index, &api, &props));
    snprintf(detail, sizeof detail,
             "compute capability %d.%d, driver for CUDA %d.%d, PCI %s%s, %d KiB of shared memory",
             props.major, props.minor, props.driver / 1000, props.driver % 1000 / 10, props.pci,
             props.integrated ? ", integrated" : "", props.local_size >> 10);
    info.kind = SOBRE_DEVICE_GPU;
    info.memory_bytes = props.memory;
    info.memory_free = 0; /* only a context tells */
    info.n_units = props.n_units;
    return gpu_describe(host, &info, props.name[0] ? props.name : "a device without a name", detail,
                        props.reason, ret_info);
}

/* --- Opening */

static const gpu_driver driver = {
    .mem_alloc = cu_memory_alloc,
    .mem_free = cu_memory_free,
    .mem_write = cu_memory_write,
    .mem_read = cu_memory_read,
    .mem_copy = cu_memory_copy,
    .kernel_prepare = cu_kernel_prepare,
    .kernel_make = cu_kernel_make,
    .kernel_free = cu_kernel_free,
    .launch = cu_launch,
};

static void take_props(cu_dev *dev, const cu_props *props)
{
    dev->id = props->id;
    memcpy(dev->name, props->name, sizeof dev->name);
    dev->memory = props->memory;
    dev->base.caps = (gpu_caps){
        /* Weights get a buffer each, since kernels count offsets in 32 bits. */
        .max_buffer = props->memory,
        .alignment = ALIGNMENT,
        .local_size = (uint32_t)props->local_size,
        .max_group = (uint32_t)props->max_group,
        .n_units = props->n_units > 0 ? (uint32_t)props->n_units : 1,
    };
}

/* The context is current. */
static sobre_status open_parts(cu_dev *dev)
{
    const CUresult error = dev->api.cuStreamCreate(&dev->stream, CU_STREAM_NON_BLOCKING);

    if (error != CUDA_SUCCESS) {
        dev->stream = NULL;
        return cu_fail(dev, error, "cuStreamCreate");
    }
    GPU_TRY(cu_staging_open(dev));
    return cu_fences_open(dev);
}

static sobre_status open_context(cu_dev *dev)
{
    const CUresult error = dev->api.cuDevicePrimaryCtxRetain(&dev->context, dev->id);
    sobre_status status;

    if (error != CUDA_SUCCESS) {
        dev->context = NULL;
        return cu_fail(dev, error, "cuDevicePrimaryCtxRetain");
    }
    GPU_TRY(cu_enter(dev));
    status = open_parts(dev);
    cu_leave(dev);
    if (status < 0) return status;
    return gpu_programs_open(&dev->programs, &dev->base, &cu_compiler);
}

sobre_status cu_device_open(const sobre_host *host, int32_t index, sobre_device **ret_device)
{
    cu_api api;
    cu_props props;
    cu_dev *dev;
    sobre_status status;

    GPU_TRY(find(host, index, &api, &props));
    GPU_TRY(gpu_check_usable(host, "CUDA", index, props.name, props.reason));
    dev = host->alloc(host->context, sizeof *dev, _Alignof(cu_dev));
    if (!dev) return SOBRE_OUT_OF_MEMORY;
    dev->base.host = host;
    dev->base.driver = &driver;
    dev->api = api;
    take_props(dev, &props);
    status = open_context(dev);
    if (status < 0) {
        cu_device_close(&dev->base);
        return status;
    }
    *ret_device = &dev->base;
    return SOBRE_OK;
}

void cu_device_close(sobre_device *device)
{
    cu_dev *dev = cu_dev_of(device);

    if (!dev) return;
    gpu_programs_close(&dev->programs);
    if (dev->context) {
        /* Even if this fails, what is not freed goes with the context. */
        const bool entered = dev->api.cuCtxPushCurrent(dev->context) == CUDA_SUCCESS;

        if (entered && dev->stream) dev->api.cuStreamSynchronize(dev->stream);
        cu_fences_close(dev);
        cu_staging_close(dev);
        if (dev->stream) dev->api.cuStreamDestroy(dev->stream);
        if (entered) cu_leave(dev);
        dev->api.cuDevicePrimaryCtxRelease(dev->id);
    }
    device->host->free(device->host->context, dev);
}

void cu_memory_info(sobre_device *device, uint64_t *ret_total, uint64_t *ret_free)
{
    cu_dev *dev = cu_dev_of(device);
    size_t n_free = 0, total = 0;

    *ret_total = dev->memory;
    *ret_free = 0;
    if (dev->api.cuCtxPushCurrent(dev->context) != CUDA_SUCCESS) return;
    if (dev->api.cuMemGetInfo(&n_free, &total) == CUDA_SUCCESS) *ret_free = n_free;
    cu_leave(dev);
}
