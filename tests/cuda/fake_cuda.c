/* SPDX-License-Identifier: MIT */
#include "fake_cuda.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cu_api.h"
#include "os.h"
#include "run_kernel.h"

/* The results that the backend does not tell apart. */
enum {
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_NOT_FOUND = 500,
};
enum { MAX_DEVICES = 4, MAX_BLOCKS = 4096, MAX_OPS = 8192, MAX_STACK = 8, MAX_PARAMS = 64 };
#define SYMBOL __attribute__((visibility("default")))

SYMBOL fake_control *fake_cuda_control(void);

/* --- State, all of it guarded by `lock` but the stacks */

typedef struct block {
    uint64_t at; /* the device's address, or the host's of pinned memory */
    size_t size;
    char *data; /* NULL: free */
} block;

struct CUctx_st {
    int n_refs;
};
struct CUstream_st {
    int unused;
};
struct CUevent_st {
    uint64_t recorded; /* position in the stream; 0: never */
};
typedef struct CUfunc_st {
    char name[24], params[MAX_PARAMS]; /* params "?": not known, an image of nvcc */
    unsigned group;
    run_entry entry; /* NULL: it computes nothing */
} function;
struct CUmod_st {
    CUmodule next; /* of all that are loaded */
    function functions[8];
    int n_functions;
};

/* What a stream has still to do. */
typedef struct op {
    enum { OP_COPY_IN, OP_COPY_OUT, OP_COPY, OP_LAUNCH, OP_MARK } kind;
    uint64_t to, from;
    size_t size;
    /* A launch */
    CUfunction function;
    unsigned grid_x, grid_y;
    uint64_t values[MAX_PARAMS]; /* of the arguments, whatever their types */
    int n_values;
} op;

static struct CUctx_st contexts[MAX_DEVICES];
static block memory[MAX_BLOCKS], pinned[MAX_BLOCKS];
static CUmodule modules;
static uint64_t next_address = (uint64_t)1 << 32;
static size_t used;
static op ops[MAX_OPS]; /* one queue for all: nothing here runs at once */
static uint64_t n_begun, n_done;
static _Thread_local CUcontext stack[MAX_STACK];
static _Thread_local int depth;
static run_kernel_fn run_kernel; /* NULL: kernels compute nothing */
static atomic_flag locked = ATOMIC_FLAG_INIT;

static void lock(void)
{
    while (atomic_flag_test_and_set(&locked)) {
    }
}

static void unlock(void)
{
    atomic_flag_clear(&locked);
}

static int depth_here(void)
{
    return depth;
}

#define USUAL_CARD                                                                        \
    {                                                                                     \
        .driver_version = 13000, .n_devices = 2, .major = 8, .minor = 6,                  \
        .memory = (size_t)1 << 30, .error = CUDA_ERROR_LAUNCH_FAILED, .depth = depth_here \
    }
static fake_control control = USUAL_CARD; /* for programs that do not ask for it */

fake_control *fake_cuda_control(void)
{
    lock();
    control = (fake_control)USUAL_CARD;
    unlock();
    return &control;
}

/* --- Objects, and complaints */

static void born(fake_object kind)
{
    atomic_fetch_add(&control.n_live[kind], 1);
}

static void died(fake_object kind)
{
    atomic_fetch_sub(&control.n_live[kind], 1);
}

/* The lock is held. */
static CUresult misuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
static CUresult misuse(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (!control.misuse[0]) vsnprintf(control.misuse, sizeof control.misuse, format, args);
    va_end(args);
    return CUDA_ERROR_INVALID_VALUE;
}

static CUresult leave(CUresult result)
{
    unlock();
    return result;
}

/* --- Memory. The lock is held. */

static const block *block_of(const block *blocks, uint64_t at, size_t size)
{
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (blocks[i].data && at >= blocks[i].at && at - blocks[i].at <= blocks[i].size &&
            size <= blocks[i].size - (at - blocks[i].at))
            return &blocks[i];
    return NULL;
}

static block *free_block(block *blocks)
{
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (!blocks[i].data) return &blocks[i];
    return NULL;
}

static char *data_at(const block *blocks, uint64_t at, size_t size)
{
    const block *b = block_of(blocks, at, size);
    return b ? b->data + (at - b->at) : NULL;
}

static void copy(char *to, const char *from, size_t size, const char *what)
{
    if (to && from)
        memmove(to, from, size);
    else
        misuse("%s of %zu bytes, whose memory is gone", what, size);
}

/* --- The stream. The lock is held. */

static void launch(const op *o)
{
    const function *f = o->function;
    char *pointers[MAX_PARAMS];
    void *parameters[MAX_PARAMS];

    for (int i = 0; i < o->n_values; i++) {
        parameters[i] = (void *)(uintptr_t)&o->values[i];
        if (f->params[i] != 'p') continue;
        pointers[i] = data_at(memory, o->values[i], 0);
        parameters[i] = &pointers[i];
        if (!pointers[i]) {
            misuse("%s runs on freed memory", f->name);
            return;
        }
    }
    if (f->entry && !run_kernel(f->entry, parameters, o->grid_x, o->grid_y, f->group))
        misuse("%s: threads that pass by a barrier", f->name);
}

static void do_next(void)
{
    const op *o = &ops[n_done++ % MAX_OPS];

    switch (o->kind) {
    case OP_COPY_IN:
        copy(data_at(memory, o->to, o->size), data_at(pinned, o->from, o->size), o->size,
             "a copy to the device");
        break;
    case OP_COPY_OUT:
        copy(data_at(pinned, o->to, o->size), data_at(memory, o->from, o->size), o->size,
             "a copy from the device");
        break;
    case OP_COPY:
        copy(data_at(memory, o->to, o->size), data_at(memory, o->from, o->size), o->size, "a copy");
        break;
    case OP_LAUNCH: launch(o); break;
    case OP_MARK: break;
    }
}

static void do_until(uint64_t position)
{
    while (n_done < position) do_next();
}

static bool fails(const char *call)
{
    const long long n = atomic_fetch_add(&control.n_calls, 1) + 1;
    const long long at = atomic_load(&control.fail_at);

    if (!at || n < at || (n > at && !atomic_load(&control.for_good))) return false;
    lock();
    int known = 0;
    while (known < control.n_failed && strcmp(control.failed[known], call) != 0) known++;
    if (known == control.n_failed && known < FAKE_MAX_FAILED)
        control.failed[control.n_failed++] = call;
    if (!strcmp(call, "cuCtxPushCurrent")) { /* nobody can wait for what was begun */
        atomic_fetch_add(&control.n_without_context, 1);
        do_until(n_begun);
    }
    unlock();
    return true;
}

/* The beginning of each call that can fail. */
#define BEGIN(call) \
    if (fails(call)) return atomic_load(&control.error)

/* The same of calls that need a context; ends with the lock held. */
#define BEGIN_IN_CONTEXT(call) \
    BEGIN(call);               \
    lock();                    \
    if (depth == 0 || !stack[depth - 1]->n_refs) return leave(misuse("%s without a context", call))

/* The end of calls that give something back. */
static CUresult given_back(const char *call)
{
    unlock();
    return fails(call) ? atomic_load(&control.error) : CUDA_SUCCESS;
}

static op *add(int kind)
{
    if (n_begun - n_done == MAX_OPS) do_next();
    op *o = &ops[n_begun++ % MAX_OPS];
    memset(o, 0, offsetof(op, values));
    o->kind = kind;
    o->n_values = 0;
    return o;
}

static CUresult add_copy(int kind, uint64_t to, uint64_t from, size_t size, CUstream stream)
{
    const bool from_host = kind == OP_COPY_IN, to_host = kind == OP_COPY_OUT;

    if (!stream) return misuse("a copy on the default stream");
    if (!block_of(from_host ? pinned : memory, from, size))
        return misuse("a copy of %zu bytes from outside of any %s", size,
                      from_host ? "pinned memory" : "device memory");
    if (!block_of(to_host ? pinned : memory, to, size))
        return misuse("a copy of %zu bytes to outside of any %s", size,
                      to_host ? "pinned memory" : "device memory");
    op *o = add(kind);
    o->to = to;
    o->from = from;
    o->size = size;
    if (from_host) atomic_fetch_add(&control.n_copies_in, 1);
    if (to_host) atomic_fetch_add(&control.n_copies_out, 1);
    return CUDA_SUCCESS;
}

/* --- The driver API. Prototypes are cu_api.h's. */

#define DECLARE(name, symbol, parameters) SYMBOL CUresult fake_##name parameters __asm__(symbol);
CU_FUNCTIONS(DECLARE)

CUresult fake_cuInit(unsigned flags)
{
    BEGIN("cuInit");
    return flags ? CUDA_ERROR_INVALID_VALUE : control.init_error;
}

CUresult fake_cuDriverGetVersion(int *version)
{
    BEGIN("cuDriverGetVersion");
    *version = control.driver_version;
    return CUDA_SUCCESS;
}

CUresult fake_cuGetErrorName(CUresult error, const char **name)
{
    static const struct {
        CUresult error;
        const char *name;
    } names[] = {
#define NAME(name) {name, #name}
        NAME(CUDA_ERROR_INVALID_VALUE),   NAME(CUDA_ERROR_OUT_OF_MEMORY),
        NAME(CUDA_ERROR_NO_DEVICE),       NAME(CUDA_ERROR_INVALID_DEVICE),
        NAME(CUDA_ERROR_NOT_FOUND),       NAME(CUDA_ERROR_NO_BINARY_FOR_GPU),
        NAME(CUDA_ERROR_ILLEGAL_ADDRESS), NAME(CUDA_ERROR_LAUNCH_FAILED),
#undef NAME
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].error == error) {
            *name = names[i].name;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult fake_cuDeviceGetCount(int *count)
{
    BEGIN("cuDeviceGetCount");
    *count = control.n_devices;
    return CUDA_SUCCESS;
}

CUresult fake_cuDeviceGet(CUdevice *device, int ordinal)
{
    BEGIN("cuDeviceGet");
    if (ordinal < 0 || ordinal >= control.n_devices) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult fake_cuDeviceGetName(char *name, int size, CUdevice device)
{
    BEGIN("cuDeviceGetName");
    snprintf(name, (size_t)size, "Fake card %d", device);
    return CUDA_SUCCESS;
}

CUresult fake_cuDeviceGetPCIBusId(char *id, int size, CUdevice device)
{
    BEGIN("cuDeviceGetPCIBusId");
    snprintf(id, (size_t)size, "0000:%02x:00.0", device + 1);
    return CUDA_SUCCESS;
}

CUresult fake_cuDeviceTotalMem(size_t *bytes, CUdevice device)
{
    BEGIN("cuDeviceTotalMem");
    *bytes = control.memory;
    return CUDA_SUCCESS;
}

CUresult fake_cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    BEGIN("cuDeviceGetAttribute");
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 48 << 10; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 28; break;
    case CU_DEVICE_ATTRIBUTE_INTEGRATED: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE: *value = control.compute_mode; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = control.major; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = control.minor; break;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult fake_cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    BEGIN("cuDevicePrimaryCtxRetain");
    lock();
    if (device < 0 || device >= control.n_devices) return leave(misuse("no device %d", device));
    contexts[device].n_refs++;
    born(FAKE_CONTEXT);
    *context = &contexts[device];
    return leave(CUDA_SUCCESS);
}

/* What nobody gave back goes with the last context; it counts as alive all the same. */
static void end_contexts(void)
{
    for (int i = 0; i < MAX_DEVICES; i++)
        if (contexts[i].n_refs) return;
    for (int i = 0; i < MAX_BLOCKS; i++) {
        free(memory[i].data);
        memory[i].data = NULL;
    }
    for (CUmodule m; (m = modules);) {
        modules = m->next;
        free(m);
    }
    used = 0;
}

CUresult fake_cuDevicePrimaryCtxRelease(CUdevice device)
{
    lock();
    if (contexts[device].n_refs == 0) return leave(misuse("a context is released twice"));
    contexts[device].n_refs--;
    died(FAKE_CONTEXT);
    end_contexts();
    return given_back("cuDevicePrimaryCtxRelease");
}

CUresult fake_cuCtxPushCurrent(CUcontext context)
{
    BEGIN("cuCtxPushCurrent");
    lock();
    if (!context || !context->n_refs) return leave(misuse("a context is pushed that is gone"));
    if (depth == MAX_STACK) return leave(misuse("contexts are pushed and not popped"));
    stack[depth++] = context;
    return leave(CUDA_SUCCESS);
}

CUresult fake_cuCtxPopCurrent(CUcontext *context)
{
    lock();
    if (depth == 0) return leave(misuse("a context is popped that was not pushed"));
    *context = stack[--depth];
    return given_back("cuCtxPopCurrent");
}

CUresult fake_cuStreamCreate(CUstream *stream, unsigned flags)
{
    BEGIN_IN_CONTEXT("cuStreamCreate");
    if (flags != CU_STREAM_NON_BLOCKING)
        return leave(misuse("a stream that waits for the host program's"));
    *stream = calloc(1, sizeof **stream);
    born(FAKE_STREAM);
    return leave(CUDA_SUCCESS);
}

CUresult fake_cuStreamDestroy(CUstream stream)
{
    lock();
    do_until(n_begun);
    free(stream);
    died(FAKE_STREAM);
    return given_back("cuStreamDestroy");
}

CUresult fake_cuStreamSynchronize(CUstream stream)
{
    lock();
    do_until(n_begun); /* one that fails has stopped, too */
    unlock();
    BEGIN_IN_CONTEXT("cuStreamSynchronize");
    return leave(stream ? CUDA_SUCCESS : misuse("no stream to wait for"));
}

CUresult fake_cuEventCreate(CUevent *event, unsigned flags)
{
    BEGIN_IN_CONTEXT("cuEventCreate");
    *event = calloc(1, sizeof **event);
    born(FAKE_EVENT);
    return leave(CUDA_SUCCESS);
}

CUresult fake_cuEventDestroy(CUevent event)
{
    lock();
    free(event);
    died(FAKE_EVENT);
    return given_back("cuEventDestroy");
}

CUresult fake_cuEventRecord(CUevent event, CUstream stream)
{
    BEGIN_IN_CONTEXT("cuEventRecord");
    if (!event || !stream) return leave(misuse("no event, or the default stream"));
    add(OP_MARK);
    event->recorded = n_begun;
    return leave(CUDA_SUCCESS);
}

/* Each question brings the stream one step on. */
CUresult fake_cuEventQuery(CUevent event)
{
    BEGIN_IN_CONTEXT("cuEventQuery");
    if (n_done < event->recorded) do_next();
    return leave(n_done < event->recorded ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}

CUresult fake_cuEventSynchronize(CUevent event)
{
    BEGIN_IN_CONTEXT("cuEventSynchronize");
    do_until(event->recorded);
    return leave(CUDA_SUCCESS);
}

CUresult fake_cuMemGetInfo(size_t *n_free, size_t *total)
{
    BEGIN_IN_CONTEXT("cuMemGetInfo");
    *n_free = control.memory - used;
    *total = control.memory;
    return leave(CUDA_SUCCESS);
}

CUresult fake_cuMemAlloc(CUdeviceptr *pointer, size_t size)
{
    BEGIN_IN_CONTEXT("cuMemAlloc");
    block *b = free_block(memory);
    if (size == 0) return leave(misuse("no bytes are asked for"));
    if (!b || size > control.memory - used) return leave(CUDA_ERROR_OUT_OF_MEMORY);
    *b = (block){.at = next_address, .size = size, .data = calloc(1, size)};
    if (!b->data) return leave(CUDA_ERROR_OUT_OF_MEMORY);
    next_address += (size + 8191) / 4096 * 4096; /* with a gap behind each */
    used += size;
    born(FAKE_MEMORY);
    *pointer = b->at;
    return leave(CUDA_SUCCESS);
}

CUresult fake_cuMemFree(CUdeviceptr pointer)
{
    lock();
    block *b = (block *)(uintptr_t)block_of(memory, pointer, 0);
    if (!b || b->at != pointer) return leave(misuse("memory is freed that is not there"));
    used -= b->size;
    free(b->data);
    *b = (block){.data = NULL};
    died(FAKE_MEMORY);
    return given_back("cuMemFree");
}

CUresult fake_cuMemHostAlloc(void **pointer, size_t size, unsigned flags)
{
    BEGIN_IN_CONTEXT("cuMemHostAlloc");
    block *b = free_block(pinned);
    char *data = malloc(size);
    if (!b || !data) return leave(CUDA_ERROR_OUT_OF_MEMORY);
    *b = (block){.at = (uintptr_t)data, .size = size, .data = data};
    born(FAKE_PINNED);
    *pointer = data;
    return leave(CUDA_SUCCESS);
}

CUresult fake_cuMemFreeHost(void *pointer)
{
    lock();
    block *b = (block *)(uintptr_t)block_of(pinned, (uintptr_t)pointer, 0);
    if (!b || b->data != pointer) return leave(misuse("pinned memory is freed that is not there"));
    free(b->data);
    *b = (block){.data = NULL};
    died(FAKE_PINNED);
    return given_back("cuMemFreeHost");
}

CUresult fake_cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t size, CUstream stream)
{
    BEGIN_IN_CONTEXT("cuMemcpyHtoDAsync");
    return leave(add_copy(OP_COPY_IN, to, (uintptr_t)from, size, stream));
}

CUresult fake_cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t size, CUstream stream)
{
    BEGIN_IN_CONTEXT("cuMemcpyDtoHAsync");
    return leave(add_copy(OP_COPY_OUT, (uintptr_t)to, from, size, stream));
}

CUresult fake_cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream)
{
    BEGIN_IN_CONTEXT("cuMemcpyDtoDAsync");
    return leave(add_copy(OP_COPY, to, from, size, stream));
}

/* What an entry of an image computes, if the test has a library with that (run_kernel.h). */
static run_entry find_entry(const char *image, const char *entry)
{
    const char *path = getenv("SOBRE_TEST_KERNELS");
    void *library = path ? dlopen(path, RTLD_NOW) : NULL;
    union {
        void *symbol;
        run_entry entry;
        run_kernel_fn run;
    } found = {.symbol = library ? dlsym(library, "run_kernel") : NULL};
    char name[200];

    if (!library) return NULL;
    run_kernel = found.run;
    snprintf(name, sizeof name, "%s__%s", image, entry);
    found.symbol = dlsym(library, name);
    return found.entry;
}

/* Is there something in a fatbin for this card: machine code of the same major and no newer minor
 * capability, or PTX that is not newer? A head of 16 bytes, then the parts, each with a head. */
static bool is_for_card(const char *image)
{
    enum { PTX = 1, ELF = 2 };
    const unsigned card = (unsigned)(control.major * 10 + control.minor);
    uint16_t head;
    uint64_t size;

    memcpy(&head, image + 6, sizeof head);
    memcpy(&size, image + 8, sizeof size);
    for (const char *part = image + head, *end = part + size; part < end;) {
        uint16_t kind;
        uint32_t part_head, arch;
        uint64_t part_size;

        memcpy(&kind, part, sizeof kind);
        memcpy(&part_head, part + 4, sizeof part_head);
        memcpy(&part_size, part + 8, sizeof part_size);
        memcpy(&arch, part + 28, sizeof arch);
        if (arch <= card && (kind == PTX || (kind == ELF && arch / 10 == card / 10))) return true;
        part += part_head + part_size;
    }
    return false;
}

/* An image is what scripts/build-cuda-kernels.py makes: a stub that says what would be in it, or a
 * fatbin of nvcc. */
CUresult fake_cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned n_options,
                                 int *options, void **values)
{
    static const uint32_t fatbin = 0xba55ed50;
    const char *text = image;
    CUmodule m;
    int used_up;

    BEGIN_IN_CONTEXT("cuModuleLoadDataEx");
    const bool stub = memcmp(image, &fatbin, sizeof fatbin) != 0;
    if (!stub && !is_for_card(image)) return leave(CUDA_ERROR_NO_BINARY_FOR_GPU);
    m = calloc(1, sizeof *m);
    if (stub) {
        if (memcmp(text, "stub", 4) != 0) {
            free(m);
            return leave(misuse("an image that is none"));
        }
        char name[128] = "";
        sscanf(text, "stub %127s%n", name, &used_up);
        text += used_up;
        for (function *f = m->functions;
             sscanf(text, " %23s %u %63s%n", f->name, &f->group, f->params, &used_up) == 3; f++) {
            f->entry = find_entry(name, f->name);
            m->n_functions++;
            text += used_up;
        }
    }
    m->next = modules;
    modules = m;
    born(FAKE_MODULE);
    *module = m;
    return leave(CUDA_SUCCESS);
}

CUresult fake_cuModuleUnload(CUmodule module)
{
    CUmodule *link = &modules;

    lock();
    while (*link && *link != module) link = &(*link)->next;
    if (!*link) return leave(misuse("a module is unloaded that is not there"));
    for (uint64_t i = n_done; i < n_begun; i++) {
        const op *o = &ops[i % MAX_OPS];
        if (o->kind == OP_LAUNCH && o->function >= module->functions &&
            o->function < module->functions + module->n_functions)
            return leave(misuse("a module is unloaded before %s has run", o->function->name));
    }
    *link = module->next;
    free(module);
    died(FAKE_MODULE);
    return given_back("cuModuleUnload");
}

CUresult fake_cuModuleGetFunction(CUfunction *ret_function, CUmodule module, const char *name)
{
    BEGIN_IN_CONTEXT("cuModuleGetFunction");
    const bool stub = module->n_functions > 0 && strcmp(module->functions->params, "?") != 0;
    for (int i = 0; i < module->n_functions; i++)
        if (!strcmp(module->functions[i].name, name)) {
            *ret_function = &module->functions[i];
            return leave(CUDA_SUCCESS);
        }
    if (stub || module->n_functions == 8) return leave(CUDA_ERROR_NOT_FOUND);
    function *f = &module->functions[module->n_functions++];
    snprintf(f->name, sizeof f->name, "%s", name);
    strcpy(f->params, "?");
    *ret_function = f;
    return leave(CUDA_SUCCESS);
}

static CUresult take_arguments(const function *f, void **parameters, op *o)
{
    for (int i = 0; f->params[i] && f->params[0] != '?'; i++) {
        const bool is_pointer = f->params[i] == 'p';
        if (!parameters[i]) return misuse("%s: argument %d is missing", f->name, i);
        memcpy(&o->values[i], parameters[i], is_pointer ? sizeof(CUdeviceptr) : sizeof(int));
        if (is_pointer && !block_of(memory, o->values[i], 0))
            return misuse("%s: argument %d points to no memory", f->name, i);
        o->n_values = i + 1;
    }
    return CUDA_SUCCESS;
}

CUresult fake_cuLaunchKernel(CUfunction f, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                             unsigned block_x, unsigned block_y, unsigned block_z,
                             unsigned shared_size, CUstream stream, void **parameters, void **extra)
{
    op checked = {.function = f, .grid_x = grid_x, .grid_y = grid_y};

    BEGIN_IN_CONTEXT("cuLaunchKernel");
    if (!f || !stream || !parameters || extra) return leave(misuse("a launch without a part"));
    if (grid_x == 0 || grid_x > INT32_MAX || grid_y == 0 || grid_y > 65535 || grid_z != 1)
        return leave(misuse("%s: a grid of %u x %u x %u", f->name, grid_x, grid_y, grid_z));
    if ((f->group && block_x != f->group) || block_x > 1024 || block_y != 1 || block_z != 1)
        return leave(misuse("%s: blocks of %u x %u x %u", f->name, block_x, block_y, block_z));
    if (shared_size) return leave(misuse("%s: shared memory that it does not use", f->name));
    CUresult result = take_arguments(f, parameters, &checked);
    if (result != CUDA_SUCCESS) return leave(result);
    checked.kind = OP_LAUNCH;
    *add(OP_LAUNCH) = checked;
    const long long n = atomic_fetch_add(&control.n_launches, 1);
    if (n < (long long)(sizeof control.launched / sizeof *control.launched))
        snprintf(control.launched[n], sizeof *control.launched, "%s", f->name);
    return leave(CUDA_SUCCESS);
}
