/* SPDX-License-Identifier: MIT */
/*
 * Compiled programs. Each file is compiled once a device, group size and set of defines: by threads
 * in the background after prepare, or by the first who needs it; all others wait for that. What the
 * driver's compiler made is kept on disk (cl_cache.h).
 */
#include <stdio.h>
#include <string.h>

#include "cl.h"
#include "kernel_sources.h"

enum { OPTIONS_SIZE = 64 + 4 * GPU_DEFINES_SIZE, LOG_SIZE = 700 };

typedef enum program_state {
    PROGRAM_IDLE, /* not begun, or failed for a reason that may pass */
    PROGRAM_BUILDING,
    PROGRAM_READY,
    PROGRAM_FAILED, /* the compiler refused: it will again */
} program_state;

struct cl_program_entry {
    cl_program_entry *next;
    gpu_variant variant; /* of the first who asked */
    program_state state;
    bool wanted; /* a thread should build it */
    cl_program program;
    cl_problem problem; /* of PROGRAM_FAILED */
};

/* --- Building. No lock is held. */

/* "-cl-std=CL1.2 -DWG=64 -DWTYPE=1": nothing that lets the compiler be less exact. */
static void write_options(const gpu_variant *variant, char *ret_options)
{
    const char *word = variant->defines;
    int used = snprintf(ret_options, OPTIONS_SIZE, "-cl-std=CL1.2 -DWG=%d", (int)variant->group);

    while (*(word += strspn(word, " "))) {
        const int length = (int)strcspn(word, " ");
        used += snprintf(ret_options + used, OPTIONS_SIZE - (size_t)used, " -D%.*s", length, word);
        word += length;
    }
}

static const char *source_of(const gpu_variant *variant)
{
    for (const kernel_source *s = kernel_sources; s->file; s++)
        if (!strcmp(s->file, variant->file)) return s->text;
    return NULL;
}

static bool build_cached(cl_dev *dev, cl_hash key, const char *options, cl_program *ret_program)
{
    const sobre_host *host = dev->base.host;
    void *data;
    size_t size;
    cl_int error, binary_error = CL_SUCCESS;
    cl_program program;
    const char *call = "clCreateProgramWithBinary";

    if (!cl_cache_load(host, key, &data, &size)) return false;
    program = clCreateProgramWithBinary(dev->context, 1, &dev->id, &size,
                                        (const unsigned char **)&data, &binary_error, &error);
    host->free(host->context, data);
    if (error == CL_SUCCESS && binary_error != CL_SUCCESS) {
        clReleaseProgram(program);
        error = binary_error;
    } else if (error == CL_SUCCESS) {
        call = "clBuildProgram(a cached binary)";
        error = clBuildProgram(program, 1, &dev->id, options, NULL, NULL);
        if (error == CL_SUCCESS) {
            *ret_program = program;
            return true;
        }
        clReleaseProgram(program);
    }
    cl_cache_remove(host, key);
    host->log(host->context, SOBRE_LOG_DEBUG, "%s failed: %s; building from source", call,
              cl_error_name(error));
    return false;
}

static void store_binary(cl_dev *dev, cl_hash key, cl_program program)
{
    const sobre_host *host = dev->base.host;
    size_t size = 0;
    unsigned char *binary = NULL;
    cl_int error;

    if (!host->cache_dir) return;
    error = clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, NULL);
    if (error == CL_SUCCESS && size > 0) {
        binary = host->alloc(host->context, size, 16);
        if (!binary) return;
        error = clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof binary, &binary, NULL);
        if (error == CL_SUCCESS) cl_cache_store(host, key, binary, size);
        host->free(host->context, binary);
    }
    if (error != CL_SUCCESS)
        host->log(host->context, SOBRE_LOG_DEBUG,
                  "clGetProgramInfo failed on %s: %s; the program is not cached", dev->name,
                  cl_error_name(error));
}

/* The beginning of the compiler's messages, in one line. */
static void read_build_log(cl_dev *dev, cl_program program, char *ret_text)
{
    const sobre_host *host = dev->base.host;
    size_t size = 0, n = 0;
    char *log = NULL;

    if (clGetProgramBuildInfo(program, dev->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &size) ==
            CL_SUCCESS &&
        size > 0)
        log = host->alloc(host->context, size, 1);
    if (log && clGetProgramBuildInfo(program, dev->id, CL_PROGRAM_BUILD_LOG, size, log, NULL) ==
                   CL_SUCCESS) {
        for (size_t i = 0; i < size && log[i] && n < LOG_SIZE - 1; i++) {
            const bool space = (unsigned char)log[i] <= ' ';
            if (!space || (n > 0 && ret_text[n - 1] != ' ')) ret_text[n++] = space ? ' ' : log[i];
        }
    }
    ret_text[n] = 0;
    if (log) host->free(host->context, log);
}

static program_state build_source(cl_dev *dev, const gpu_variant *variant, const char *source,
                                  const char *options, cl_program *ret_program, cl_problem *problem)
{
    cl_int error;
    cl_program program = clCreateProgramWithSource(dev->context, 1, &source, NULL, &error);

    if (error != CL_SUCCESS) {
        cl_problem_set(problem, dev, error, "clCreateProgramWithSource(%s)", variant->file);
        return PROGRAM_IDLE;
    }
    error = clBuildProgram(program, 1, &dev->id, options, NULL, NULL);
    if (error == CL_SUCCESS) {
        *ret_program = program;
        return PROGRAM_READY;
    }
    cl_problem_set(problem, dev, error, "clBuildProgram(%s, \"%s\")", variant->file, options);
    if (error == CL_BUILD_PROGRAM_FAILURE) {
        char log[LOG_SIZE];
        const size_t used = strlen(problem->text);
        read_build_log(dev, program, log);
        snprintf(problem->text + used, sizeof problem->text - used, "; its compiler says: %s",
                 log[0] ? log : "nothing");
    }
    clReleaseProgram(program);
    return error == CL_BUILD_PROGRAM_FAILURE ? PROGRAM_FAILED : PROGRAM_IDLE;
}

/* Ends in PROGRAM_READY, or with a problem in PROGRAM_FAILED or PROGRAM_IDLE. */
static program_state build(cl_dev *dev, const gpu_variant *variant, cl_program *ret_program,
                           cl_problem *problem)
{
    const char *source = source_of(variant);
    char options[OPTIONS_SIZE];
    program_state state;
    cl_hash key;

    if (!source) {
        problem->status = SOBRE_INTERNAL;
        snprintf(problem->text, sizeof problem->text, "no kernel source is called %s",
                 variant->file);
        return PROGRAM_FAILED;
    }
    write_options(variant, options);
    key = cl_hash_text(cl_hash_text(dev->identity, source), options);
    if (build_cached(dev, key, options, ret_program)) return PROGRAM_READY;
    state = build_source(dev, variant, source, options, ret_program, problem);
    if (state == PROGRAM_READY) store_binary(dev, key, *ret_program);
    return state;
}

/* --- The table. The mutex is held but while a program is built. */

/* Kernels that stand in one file come from one program. */
static bool same_program(const gpu_variant *a, const gpu_variant *b)
{
    return a->group == b->group && !strcmp(a->file, b->file) && !strcmp(a->defines, b->defines);
}

/* NULL: out of memory. */
static cl_program_entry *find_or_add(cl_dev *dev, const gpu_variant *variant)
{
    const sobre_host *host = dev->base.host;
    cl_programs *p = &dev->programs;
    cl_program_entry *e = p->first;

    while (e && !same_program(&e->variant, variant)) e = e->next;
    if (e) return e;
    e = host->alloc(host->context, sizeof *e, sizeof(void *));
    if (!e) return NULL;
    e->variant = *variant;
    if (p->last)
        p->last->next = e;
    else
        p->first = e;
    p->last = e;
    return e;
}

static void set_wanted(cl_programs *p, cl_program_entry *e, bool wanted)
{
    p->n_wanted += wanted - e->wanted;
    e->wanted = wanted;
}

static void build_entry(cl_dev *dev, cl_program_entry *e, cl_problem *problem)
{
    cl_programs *p = &dev->programs;
    cl_program program = NULL;
    program_state state;

    set_wanted(p, e, false);
    e->state = PROGRAM_BUILDING;
    os_mutex_unlock(&p->sync.mutex);
    state = build(dev, &e->variant, &program, problem);
    os_mutex_lock(&p->sync.mutex);
    e->state = state;
    e->program = program;
    if (state == PROGRAM_FAILED) e->problem = *problem;
    os_cond_broadcast(&p->sync.cond);
}

static void compile_wanted(void *arg)
{
    cl_dev *dev = arg;
    cl_programs *p = &dev->programs;
    cl_problem problem; /* whoever needs the program will find it again */

    os_mutex_lock(&p->sync.mutex);
    while (!p->closing) {
        cl_program_entry *e = p->first;
        while (e && !e->wanted) e = e->next;
        if (e)
            build_entry(dev, e, &problem);
        else
            os_cond_wait(&p->sync.cond, &p->sync.mutex);
    }
    os_mutex_unlock(&p->sync.mutex);
}

void cl_kernel_prepare(sobre_device *device, const gpu_variant *variant)
{
    cl_dev *dev = cl_dev_of(device);
    cl_programs *p = &dev->programs;
    cl_program_entry *e;

    os_mutex_lock(&p->sync.mutex);
    e = find_or_add(dev, variant);
    if (e && e->state == PROGRAM_IDLE && !e->wanted) {
        set_wanted(p, e, true);
        if (p->n_threads < CL_MAX_COMPILERS && p->n_threads < p->n_wanted) {
            os_thread *thread = os_thread_start(compile_wanted, dev);
            if (thread) p->threads[p->n_threads++] = thread;
        }
        os_cond_broadcast(&p->sync.cond);
    }
    os_mutex_unlock(&p->sync.mutex);
}

sobre_status cl_program_get(cl_dev *dev, const gpu_variant *variant, cl_program *ret_program,
                            cl_problem *problem)
{
    cl_programs *p = &dev->programs;
    sobre_status status = SOBRE_OK;
    cl_program_entry *e;

    os_mutex_lock(&p->sync.mutex);
    e = find_or_add(dev, variant);
    while (e && e->state == PROGRAM_BUILDING) os_cond_wait(&p->sync.cond, &p->sync.mutex);
    if (!e) {
        status = cl_problem_set(problem, dev, CL_OUT_OF_HOST_MEMORY, "compiling %s", variant->file);
    } else {
        if (e->state == PROGRAM_IDLE) build_entry(dev, e, problem);
        if (e->state == PROGRAM_FAILED) *problem = e->problem;
        if (e->state == PROGRAM_READY)
            *ret_program = e->program;
        else
            status = problem->status;
    }
    os_mutex_unlock(&p->sync.mutex);
    return status;
}

sobre_status cl_programs_open(cl_dev *dev)
{
    const sobre_host *host = dev->base.host;

    if (cl_sync_open(&dev->programs.sync)) return SOBRE_OK;
    return host->fail(host->context, SOBRE_OUT_OF_MEMORY, "the system gave no mutex");
}

void cl_programs_close(cl_dev *dev)
{
    const sobre_host *host = dev->base.host;
    cl_programs *p = &dev->programs;
    cl_program_entry *next;

    if (p->sync.ready) {
        os_mutex_lock(&p->sync.mutex);
        p->closing = true;
        os_cond_broadcast(&p->sync.cond);
        os_mutex_unlock(&p->sync.mutex);
    }
    for (int32_t i = 0; i < p->n_threads; i++) os_thread_join(p->threads[i]);
    for (cl_program_entry *e = p->first; e; e = next) {
        next = e->next;
        if (e->program) clReleaseProgram(e->program);
        host->free(host->context, e);
    }
    cl_sync_close(&p->sync);
}
