/* SPDX-License-Identifier: MIT */
/* Kernels out of the embedded images. Loading one copies machine code; on cards that are newer than
 * the images, the driver compiles their PTX, and keeps the result in a cache of its own. */
#include <stdio.h>
#include <string.h>

#include "cu.h"
#include "cu_kernels.h"

enum { LOG_SIZE = 500 };

static const cu_kernel *find_kernel(const gpu_variant *variant)
{
    for (const cu_kernel *k = cu_kernels; k->file; k++)
        if (k->group == variant->group && !strcmp(k->entry, variant->entry) &&
            !strcmp(k->file, variant->file) && !strcmp(k->defines, variant->defines))
            return k;
    return NULL;
}

/* Loads an image; a refusal comes with what the driver's compiler says. */
static CUresult load(const cu_dev *dev, const void *image, CUmodule *ret_module, char *ret_log)
{
    int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {ret_log, (void *)(uintptr_t)LOG_SIZE};

    ret_log[0] = 0;
    return dev->api.cuModuleLoadDataEx(ret_module, image, 2, options, values);
}

static gpu_built build(sobre_device *device, const gpu_variant *variant, void **ret_program,
                       gpu_problem *problem)
{
    cu_dev *dev = cu_dev_of(device);
    const cu_kernel *kernel = find_kernel(variant);
    char log[LOG_SIZE];
    CUmodule module;
    CUresult error;

    if (!kernel) {
        problem->status = SOBRE_INTERNAL;
        snprintf(problem->text, sizeof problem->text,
                 "this plugin was built without %s of %s, for groups of %d, \"%s\"", variant->entry,
                 variant->file, (int)variant->group, variant->defines);
        return GPU_BUILD_REFUSED;
    }
    error = dev->api.cuCtxPushCurrent(dev->context);
    if (error != CUDA_SUCCESS) {
        cu_problem_set(problem, dev, error, "cuCtxPushCurrent");
        return GPU_BUILD_FAILED;
    }
    error = load(dev, kernel->image, &module, log);
    cu_leave(dev);
    if (error == CUDA_SUCCESS) {
        *ret_program = module;
        return GPU_BUILT;
    }
    log[LOG_SIZE - 1] = 0;
    cu_problem_set(problem, dev, error, "cuModuleLoadDataEx(%s, \"%s\")%s%.180s", variant->file,
                   variant->defines, log[0] ? ": " : "", log);
    switch (error) {
    case CUDA_ERROR_NO_BINARY_FOR_GPU:
    case CUDA_ERROR_INVALID_PTX:
    case CUDA_ERROR_UNSUPPORTED_PTX_VERSION: return GPU_BUILD_REFUSED;
    default: return GPU_BUILD_FAILED;
    }
}

static void release(sobre_device *device, void *program)
{
    cu_dev *dev = cu_dev_of(device);

    if (dev->api.cuCtxPushCurrent(dev->context) != CUDA_SUCCESS) return;
    dev->api.cuStreamSynchronize(dev->stream); /* what was launched is part of it */
    dev->api.cuModuleUnload(program);
    cu_leave(dev);
}

const gpu_compiler cu_compiler = {build, release};

void cu_kernel_prepare(sobre_device *device, const gpu_variant *variant)
{
    gpu_programs_prepare(&cu_dev_of(device)->programs, variant);
}

/* The driver itself would read whatever it finds behind arguments that are too few. */
static bool takes(const cu_kernel *kernel, const gpu_arg *args, int32_t n_args)
{
    static const char letters[] = {[GPU_ARG_MEM] = 'p', [GPU_ARG_INT] = 'i', [GPU_ARG_FLOAT] = 'f'};

    if (strlen(kernel->params) != (size_t)n_args) return false;
    for (int32_t i = 0; i < n_args; i++)
        if (kernel->params[i] != letters[args[i].kind]) return false;
    return true;
}

sobre_status cu_function_get(cu_dev *dev, const gpu_variant *variant, const gpu_arg *args,
                             int32_t n_args, CUfunction *ret_function)
{
    const sobre_host *host = dev->base.host;
    const cu_kernel *kernel = find_kernel(variant);
    gpu_problem problem;
    void *module;
    CUresult error;

    if (gpu_programs_get(&dev->programs, variant, &module, &problem) < 0)
        return gpu_problem_report(&dev->base, &problem);
    if (!kernel || !takes(kernel, args, n_args))
        return host->fail(host->context, SOBRE_INTERNAL,
                          "%s of %s does not take the %d arguments that it is given",
                          variant->entry, variant->file, (int)n_args);
    GPU_TRY(cu_enter(dev));
    error = dev->api.cuModuleGetFunction(ret_function, module, variant->entry);
    cu_leave(dev);
    if (error == CUDA_SUCCESS) return SOBRE_OK;
    return cu_fail(dev, error, "cuModuleGetFunction(%s of %s)", variant->entry, variant->file);
}
