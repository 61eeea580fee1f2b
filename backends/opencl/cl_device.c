/* SPDX-License-Identifier: MIT */
/* Platforms, devices and what they can do. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <CL/cl_ext.h>

#include <sobre/version.h>

#include "cl.h"

enum { MAX_PLATFORMS = 32, MAX_DEVICES = 64 };

/* --- Enumeration: done anew each time, since nothing here outlives a call. */

typedef struct cl_found {
    cl_platform_id platform;
    cl_device_id id; /* NULL: the platform does not list its devices */
    cl_int error;    /* why not */
} cl_found;

typedef struct cl_list {
    cl_found found[MAX_DEVICES];
    int32_t n;
} cl_list;

static void list_platform(cl_platform_id platform, cl_list *list)
{
    const cl_uint room = (cl_uint)(MAX_DEVICES - list->n);
    cl_device_id ids[MAX_DEVICES];
    cl_uint n = 0;
    const cl_int error = clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, room, ids, &n);

    if (error == CL_DEVICE_NOT_FOUND || room == 0) return;
    if (error != CL_SUCCESS) {
        list->found[list->n++] = (cl_found){.platform = platform, .error = error};
        return;
    }
    for (cl_uint i = 0; i < n && i < room; i++)
        list->found[list->n++] = (cl_found){.platform = platform, .id = ids[i]};
}

static sobre_status list_devices(const sobre_host *host, cl_list *list)
{
    cl_platform_id platforms[MAX_PLATFORMS];
    cl_uint n = 0;
    const cl_int error = clGetPlatformIDs(MAX_PLATFORMS, platforms, &n);

    list->n = 0;
    if (error == CL_PLATFORM_NOT_FOUND_KHR || (error == CL_SUCCESS && n == 0)) {
        host->log(host->context, SOBRE_LOG_INFO,
                  "there is no OpenCL driver: clGetPlatformIDs found no platform");
        return SOBRE_OK;
    }
    if (error != CL_SUCCESS)
        return host->fail(host->context, SOBRE_DEVICE,
                          "clGetPlatformIDs failed: %s (%d); check that the OpenCL driver is "
                          "installed whole, or use another backend",
                          cl_error_name(error), (int)error);
    for (cl_uint i = 0; i < n && i < MAX_PLATFORMS; i++) list_platform(platforms[i], list);
    return SOBRE_OK;
}

sobre_status cl_device_count(const sobre_host *host, int32_t *ret_n)
{
    cl_list list;

    GPU_TRY(list_devices(host, &list));
    *ret_n = list.n;
    return SOBRE_OK;
}

static sobre_status find(const sobre_host *host, int32_t index, cl_found *ret_found)
{
    cl_list list;

    GPU_TRY(list_devices(host, &list));
    GPU_TRY(gpu_check_index(host, "OpenCL", index, list.n));
    *ret_found = list.found[index];
    return SOBRE_OK;
}

/* --- What a device says of itself */

typedef struct cl_props {
    char platform[128], platform_version[128];
    char name[128], driver[128], c_version[128], profile[32], extensions[8192];
    cl_device_type type;
    cl_bool available, compiler, little_endian, unified;
    cl_uint n_units, alignment; /* alignment in bits */
    cl_device_local_mem_type local_type;
    size_t max_group, max_items[3];
    cl_ulong local_size, memory, max_buffer;
    char reason[512]; /* why it cannot be used; "" if it can */
} cl_props;

/* clang-format off */
#define PROP(param, member) \
    {param, #param, offsetof(cl_props, member), sizeof(((cl_props *)0)->member)}
/* clang-format on */
typedef struct cl_prop {
    cl_uint param;
    const char *name;
    size_t at, size;
} cl_prop;

static const cl_prop texts[] = {
    PROP(CL_DEVICE_NAME, name),
    PROP(CL_DRIVER_VERSION, driver),
    PROP(CL_DEVICE_OPENCL_C_VERSION, c_version),
    PROP(CL_DEVICE_PROFILE, profile),
    PROP(CL_DEVICE_EXTENSIONS, extensions),
};
static const cl_prop platform_texts[] = {
    PROP(CL_PLATFORM_NAME, platform),
    PROP(CL_PLATFORM_VERSION, platform_version),
};
static const cl_prop numbers[] = {
    PROP(CL_DEVICE_TYPE, type),
    PROP(CL_DEVICE_AVAILABLE, available),
    PROP(CL_DEVICE_COMPILER_AVAILABLE, compiler),
    PROP(CL_DEVICE_ENDIAN_LITTLE, little_endian),
    PROP(CL_DEVICE_HOST_UNIFIED_MEMORY, unified),
    PROP(CL_DEVICE_MAX_COMPUTE_UNITS, n_units),
    PROP(CL_DEVICE_MEM_BASE_ADDR_ALIGN, alignment),
    PROP(CL_DEVICE_MAX_WORK_GROUP_SIZE, max_group),
    PROP(CL_DEVICE_LOCAL_MEM_SIZE, local_size),
    PROP(CL_DEVICE_LOCAL_MEM_TYPE, local_type),
    PROP(CL_DEVICE_GLOBAL_MEM_SIZE, memory),
    PROP(CL_DEVICE_MAX_MEM_ALLOC_SIZE, max_buffer),
};
#undef PROP

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* Texts of drivers end in spaces and may hold anything. */
static void tidy(char *text)
{
    size_t n = strlen(text);

    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f) text[i] = ' ';
    while (n > 0 && text[n - 1] == ' ') text[--n] = 0;
}

/* Reads a text of any length into `size` bytes. */
static cl_int read_text(const sobre_host *host, const cl_found *found, const cl_prop *prop,
                        bool of_platform, char *ret_text)
{
    size_t size = 0;
    char *whole;
    cl_int error = of_platform ? clGetPlatformInfo(found->platform, prop->param, 0, NULL, &size)
                               : clGetDeviceInfo(found->id, prop->param, 0, NULL, &size);

    if (error != CL_SUCCESS) return error;
    whole = host->alloc(host->context, size + 1, 1);
    if (!whole) return CL_OUT_OF_HOST_MEMORY;
    error = of_platform ? clGetPlatformInfo(found->platform, prop->param, size, whole, NULL)
                        : clGetDeviceInfo(found->id, prop->param, size, whole, NULL);
    if (error == CL_SUCCESS) {
        tidy(whole);
        snprintf(ret_text, prop->size, "%s", whole);
    }
    host->free(host->context, whole);
    return error;
}

static void query_failed(cl_props *props, const char *call, const char *name, cl_int error)
{
    if (props->reason[0]) return;
    snprintf(props->reason, sizeof props->reason, "%s(%s) failed: %s (%d)", call, name,
             cl_error_name(error), (int)error);
}

static void read_props(const sobre_host *host, const cl_found *found, cl_props *ret_props)
{
    char *base = (char *)ret_props;
    cl_int error;

    for (size_t i = 0; i < LENGTH(platform_texts); i++) {
        const cl_prop *p = &platform_texts[i];
        error = read_text(host, found, p, true, base + p->at);
        if (error != CL_SUCCESS) query_failed(ret_props, "clGetPlatformInfo", p->name, error);
    }
    if (!found->id) {
        query_failed(ret_props, "clGetDeviceIDs", ret_props->platform, found->error);
        return;
    }
    for (size_t i = 0; i < LENGTH(texts); i++) {
        const cl_prop *p = &texts[i];
        error = read_text(host, found, p, false, base + p->at);
        if (error != CL_SUCCESS) query_failed(ret_props, "clGetDeviceInfo", p->name, error);
    }
    for (size_t i = 0; i < LENGTH(numbers); i++) {
        const cl_prop *p = &numbers[i];
        error = clGetDeviceInfo(found->id, p->param, p->size, base + p->at, NULL);
        if (error != CL_SUCCESS) query_failed(ret_props, "clGetDeviceInfo", p->name, error);
    }
    error = clGetDeviceInfo(found->id, CL_DEVICE_MAX_WORK_ITEM_SIZES, sizeof ret_props->max_items,
                            ret_props->max_items, NULL);
    if (error != CL_SUCCESS)
        query_failed(ret_props, "clGetDeviceInfo", "CL_DEVICE_MAX_WORK_ITEM_SIZES", error);
    if (ret_props->max_items[0] < ret_props->max_group)
        ret_props->max_group = ret_props->max_items[0];
}

/* Is `word` one of the words of `list`? */
static bool has_word(const char *list, const char *word)
{
    const size_t length = strlen(word);

    for (const char *at = list; (at = strstr(at, word)); at += length)
        if ((at == list || at[-1] == ' ') && (at[length] == 0 || at[length] == ' ')) return true;
    return false;
}

/* Needs what the kernels take for granted (kernels_cl/portable.h, gpu_caps). */
static void judge(cl_props *props)
{
    const size_t size = sizeof props->reason;
    char *reason = props->reason;

    if (reason[0]) return;
    if (!props->available)
        snprintf(reason, size, "its driver says that it is not available");
    else if (!props->compiler)
        snprintf(reason, size, "its driver has no compiler for OpenCL C");
    else if (strcmp(props->profile, "FULL_PROFILE") != 0)
        snprintf(reason, size, "it is of the profile \"%s\"; FULL_PROFILE is needed",
                 props->profile);
    else if (!strncmp(props->c_version, "OpenCL C 1.0", 12) ||
             !strncmp(props->c_version, "OpenCL C 1.1", 12))
        snprintf(reason, size, "it has %s; OpenCL C 1.2 is needed", props->c_version);
    else if (!props->little_endian)
        snprintf(reason, size, "it is big-endian");
    else if (props->max_group < GPU_MIN_GROUP)
        snprintf(reason, size, "its work-groups have at most %zu work-items; %d are needed",
                 props->max_group, GPU_MIN_GROUP);
    else if (props->local_size < GPU_MIN_LOCAL)
        snprintf(reason, size, "it has %llu bytes of local memory; %d are needed",
                 (unsigned long long)props->local_size, GPU_MIN_LOCAL);
}

static cl_context make_context(const cl_found *found, cl_int *ret_error)
{
    const cl_context_properties wish[] = {CL_CONTEXT_PLATFORM,
                                          (cl_context_properties)found->platform, 0};

    return clCreateContext(wish, 1, &found->id, NULL, NULL, ret_error);
}

/* Some drivers list devices that they cannot open. */
static void try_context(const cl_found *found, cl_props *props)
{
    cl_int error;
    cl_context context;

    if (props->reason[0]) return;
    context = make_context(found, &error);
    if (error == CL_SUCCESS)
        clReleaseContext(context);
    else
        query_failed(props, "clCreateContext", props->name, error);
}

static void write_detail(const cl_props *props, char *ret_text, size_t size)
{
    static const struct {
        const char *extension, *text;
    } capabilities[] = {
        {"cl_khr_fp16", ", fp16"},
        {"cl_khr_subgroups", ", sub-groups"},
        {"cl_khr_integer_dot_product", ", int8 dot"},
    };
    int used = snprintf(ret_text, size, "%s (%s), driver %s, %s", props->platform,
                        props->platform_version, props->driver, props->c_version);

    for (size_t i = 0; i < LENGTH(capabilities); i++)
        if (has_word(props->extensions, capabilities[i].extension))
            used += snprintf(ret_text + used, size - (size_t)used, "%s", capabilities[i].text);
    snprintf(ret_text + used, size - (size_t)used,
             "%s, %llu KiB of local memory, buffers of up to %llu MiB",
             props->unified ? ", unified memory" : "",
             (unsigned long long)(props->local_size >> 10),
             (unsigned long long)(props->max_buffer >> 20));
}

/* NULL on failure, which was reported. */
static cl_props *props_of(const sobre_host *host, const cl_found *found)
{
    cl_props *props = host->alloc(host->context, sizeof *props, sizeof(void *));

    if (!props) return NULL;
    read_props(host, found, props);
    judge(props);
    return props;
}

sobre_status cl_device_describe(const sobre_host *host, int32_t index, sobre_device_info *ret_info)
{
    cl_found found;
    cl_props *props;
    char detail[1024];
    sobre_device_info info = *ret_info;
    sobre_status status;

    GPU_TRY(find(host, index, &found));
    props = props_of(host, &found);
    if (!props) return SOBRE_OUT_OF_MEMORY;
    try_context(&found, props);
    write_detail(props, detail, sizeof detail);
    /* Accelerators, too, are taken only when they are named. */
    info.kind = props->type & CL_DEVICE_TYPE_GPU ? SOBRE_DEVICE_GPU : SOBRE_DEVICE_CPU;
    info.memory_bytes = props->memory;
    info.memory_free = 0;
    info.n_units = (int32_t)props->n_units;
    status = gpu_describe(host, &info, props->name[0] ? props->name : props->platform, detail,
                          props->reason, ret_info);
    host->free(host->context, props);
    return status;
}

/* --- Opening */

static const gpu_driver driver = {
    .mem_alloc = cl_memory_alloc,
    .mem_free = cl_memory_free,
    .mem_write = cl_memory_write,
    .mem_read = cl_memory_read,
    .mem_copy = cl_memory_copy,
    .kernel_prepare = cl_kernel_prepare,
    .kernel_make = cl_kernel_make,
    .kernel_free = cl_kernel_free,
    .launch = cl_launch,
    .blas_use = cl_blas_use,
    .blas_work_size = cl_blas_work_size,
    .blas_gemm = cl_blas_gemm,
};

/* What drivers say is not always what can be worked with: a buffer is no larger than a pointer can
 * tell, and an alignment is a power of two. */
static gpu_caps caps_of(const cl_props *props)
{
    gpu_caps caps = {
        .max_buffer = props->max_buffer < PTRDIFF_MAX ? props->max_buffer : PTRDIFF_MAX,
        .alignment = 256,
        .local_size = (uint32_t)(props->local_size < UINT32_MAX ? props->local_size : UINT32_MAX),
        .max_group = (uint32_t)props->max_group,
        .n_units = props->n_units > 0 ? props->n_units : 1,
        /* Some small GPUs say so too, but want neighbours to read what lies side by side. */
        .flat_memory = props->local_type == CL_GLOBAL && (props->type & CL_DEVICE_TYPE_CPU),
    };

    while (caps.alignment < props->alignment / 8) caps.alignment *= 2;
    return caps;
}

static void take_props(cl_dev *dev, const cl_props *props)
{
    const char *what[] = {props->platform, props->platform_version, props->name, props->driver,
                          props->c_version};
    const uint32_t version =
        SOBRE_VERSION_MAJOR << 20 | SOBRE_VERSION_MINOR << 10 | SOBRE_VERSION_PATCH;

    dev->base.caps = caps_of(props);
    snprintf(dev->name, sizeof dev->name, "%s", props->name);
    dev->is_gpu = props->type & CL_DEVICE_TYPE_GPU;
    dev->unified = props->unified;
    dev->memory = props->memory;
    dev->tells_free = has_word(props->extensions, "cl_amd_device_attribute_query");
    for (size_t i = 0; i < LENGTH(what); i++) dev->identity = cl_hash_text(dev->identity, what[i]);
    dev->identity = cl_hash_bytes(dev->identity, &version, sizeof version);
}

static sobre_status open_parts(cl_dev *dev, const cl_found *found)
{
    cl_int error;

    dev->context = make_context(found, &error);
    if (error != CL_SUCCESS) {
        dev->context = NULL;
        return cl_fail(dev, error, "clCreateContext");
    }
    dev->queue = clCreateCommandQueue(dev->context, dev->id, 0, &error);
    if (error != CL_SUCCESS) {
        dev->queue = NULL;
        return cl_fail(dev, error, "clCreateCommandQueue");
    }
    GPU_TRY(cl_staging_open(dev));
    GPU_TRY(cl_fences_open(dev));
    GPU_TRY(gpu_programs_open(&dev->programs, &dev->base, &cl_compiler));
    return cl_blas_open(dev);
}

sobre_status cl_device_open(const sobre_host *host, int32_t index, sobre_device **ret_device)
{
    cl_found found;
    cl_props *props;
    cl_dev *dev;
    sobre_status status;

    GPU_TRY(find(host, index, &found));
    props = props_of(host, &found);
    if (!props) return SOBRE_OUT_OF_MEMORY;
    dev = host->alloc(host->context, sizeof *dev, _Alignof(cl_dev));
    if (!dev) {
        host->free(host->context, props);
        return SOBRE_OUT_OF_MEMORY;
    }
    dev->base.host = host;
    dev->base.driver = &driver;
    dev->platform = found.platform;
    dev->id = found.id;
    take_props(dev, props);
    status = gpu_check_usable(host, "OpenCL", index, props->name, props->reason);
    if (status >= 0) status = open_parts(dev, &found);
    host->free(host->context, props);
    if (status < 0) {
        cl_device_close(&dev->base);
        return status;
    }
    *ret_device = &dev->base;
    return SOBRE_OK;
}

void cl_device_close(sobre_device *device)
{
    cl_dev *dev = cl_dev_of(device);

    if (!dev) return;
    cl_blas_close(dev);
    gpu_programs_close(&dev->programs);
    if (dev->queue) clFinish(dev->queue); /* what was queued may read the staged data */
    cl_fences_close(dev);
    cl_staging_close(dev);
    if (dev->queue) clReleaseCommandQueue(dev->queue);
    if (dev->context) clReleaseContext(dev->context);
    device->host->free(device->host->context, dev);
}

void cl_memory_info(sobre_device *device, uint64_t *ret_total, uint64_t *ret_free)
{
    cl_dev *dev = cl_dev_of(device);
    size_t free_kib[2] = {0, 0}; /* in all, in the largest piece */
    uint64_t host_total = 0, left = 0;

    if (dev->tells_free && clGetDeviceInfo(dev->id, CL_DEVICE_GLOBAL_FREE_MEMORY_AMD,
                                           sizeof free_kib, free_kib, NULL) == CL_SUCCESS)
        left = (uint64_t)free_kib[0] << 10;
    else if (dev->unified) /* then it is the host's */
        os_memory_info(&host_total, &left);
    *ret_total = dev->memory;
    *ret_free = left < dev->memory ? left : dev->memory;
}
