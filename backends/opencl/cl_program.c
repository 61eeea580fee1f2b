/* SPDX-License-Identifier: MIT */
/*
 * Programs compiled from source, by whoever gpu_programs (driver.h) has do it. What the driver's
 * compiler made is kept on disk (cl_cache.h).
 */
#include <stdio.h>
#include <string.h>

#include "cl.h"
#include "kernel_sources.h"

enum { OPTIONS_SIZE = 64 + 4 * GPU_DEFINES_SIZE, LOG_SIZE = 700 };

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
    /* What is built instead takes the binary's place; if nothing can be, it was not its fault. */
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

static gpu_built build_source(cl_dev *dev, const gpu_variant *variant, const char *source,
                              const char *options, cl_program *ret_program, gpu_problem *problem)
{
    cl_int error;
    cl_program program = clCreateProgramWithSource(dev->context, 1, &source, NULL, &error);

    if (error != CL_SUCCESS) {
        cl_problem_set(problem, dev, error, "clCreateProgramWithSource(%s)", variant->file);
        return GPU_BUILD_FAILED;
    }
    error = clBuildProgram(program, 1, &dev->id, options, NULL, NULL);
    if (error == CL_SUCCESS) {
        *ret_program = program;
        return GPU_BUILT;
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
    return error == CL_BUILD_PROGRAM_FAILURE ? GPU_BUILD_REFUSED : GPU_BUILD_FAILED;
}

static gpu_built build(sobre_device *device, const gpu_variant *variant, void **ret_program,
                       gpu_problem *problem)
{
    cl_dev *dev = cl_dev_of(device);
    const char *source = source_of(variant);
    char options[OPTIONS_SIZE];
    cl_program program;
    cl_hash key;

    if (!source) {
        problem->status = SOBRE_INTERNAL;
        snprintf(problem->text, sizeof problem->text, "no kernel source is called %s",
                 variant->file);
        return GPU_BUILD_REFUSED;
    }
    write_options(variant, options);
    key = cl_hash_text(cl_hash_text(dev->identity, source), options);
    if (!build_cached(dev, key, options, &program)) {
        const gpu_built built = build_source(dev, variant, source, options, &program, problem);
        if (built != GPU_BUILT) return built;
        store_binary(dev, key, program);
    }
    *ret_program = program;
    return GPU_BUILT;
}

static void release(sobre_device *device, void *program)
{
    clReleaseProgram(program);
}

const gpu_compiler cl_compiler = {build, release};

void cl_kernel_prepare(sobre_device *device, const gpu_variant *variant)
{
    gpu_programs_prepare(&cl_dev_of(device)->programs, variant);
}

sobre_status cl_program_get(cl_dev *dev, const gpu_variant *variant, cl_program *ret_program,
                            gpu_problem *problem)
{
    void *program;

    GPU_TRY(gpu_programs_get(&dev->programs, variant, &program, problem));
    *ret_program = program;
    return SOBRE_OK;
}
