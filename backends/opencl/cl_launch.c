/* SPDX-License-Identifier: MIT */
/* Kernels with their arguments, launches, and tickets for what was launched. */
#include "cl.h"

/* A driver may keep launches back until it is told: the device should begin early, but each flush
 * costs a call into the system. */
enum { LAUNCHES_A_FLUSH = 32 };

struct gpu_kernel {
    cl_kernel handle;
    const char *entry; /* its name; static */
    size_t group;      /* work-items */
};

sobre_status cl_fences_open(cl_dev *dev)
{
    return gpu_sync_open(&dev->fences.sync, dev->base.host);
}

void cl_fences_close(cl_dev *dev)
{
    for (int i = 0; i < GPU_N_TICKETS; i++)
        if (dev->fences.markers[i]) clReleaseEvent(dev->fences.markers[i]);
    gpu_sync_close(&dev->fences.sync);
}

static cl_int set_arg(cl_kernel kernel, cl_uint index, const gpu_arg *arg)
{
    const cl_mem mem = arg->kind == GPU_ARG_MEM && arg->u.mem ? arg->u.mem->handle : NULL;

    switch (arg->kind) {
    case GPU_ARG_INT: return clSetKernelArg(kernel, index, sizeof arg->u.i, &arg->u.i);
    case GPU_ARG_FLOAT: return clSetKernelArg(kernel, index, sizeof arg->u.f, &arg->u.f);
    default: return clSetKernelArg(kernel, index, sizeof mem, &mem);
    }
}

sobre_status cl_kernel_make(sobre_device *device, const gpu_variant *variant, const gpu_arg *args,
                            int32_t n_args, gpu_kernel **ret_kernel)
{
    cl_dev *dev = cl_dev_of(device);
    const sobre_host *host = device->host;
    cl_program program;
    gpu_problem problem;
    gpu_kernel *kernel;
    cl_int error;

    if (cl_program_get(dev, variant, &program, &problem) < 0)
        return gpu_problem_report(device, &problem);
    kernel = host->alloc(host->context, sizeof *kernel, sizeof(void *));
    if (!kernel) return SOBRE_OUT_OF_MEMORY;
    kernel->entry = variant->entry;
    kernel->group = (size_t)variant->group;
    kernel->handle = clCreateKernel(program, variant->entry, &error);
    if (error != CL_SUCCESS) {
        host->free(host->context, kernel);
        return cl_fail(dev, error, "clCreateKernel(%s of %s)", variant->entry, variant->file);
    }
    for (int32_t i = 0; i < n_args; i++) {
        error = set_arg(kernel->handle, (cl_uint)i, &args[i]);
        if (error == CL_SUCCESS) continue;
        cl_kernel_free(device, kernel);
        return cl_fail(dev, error, "clSetKernelArg(%s, %d)", variant->entry, (int)i);
    }
    *ret_kernel = kernel;
    return SOBRE_OK;
}

void cl_kernel_free(sobre_device *device, gpu_kernel *kernel)
{
    if (!kernel) return;
    clReleaseKernel(kernel->handle);
    device->host->free(device->host->context, kernel);
}

sobre_status cl_launch(sobre_device *device, gpu_kernel *kernel, uint32_t n_groups_x,
                       uint32_t n_groups_y)
{
    cl_dev *dev = cl_dev_of(device);
    const size_t global[2] = {n_groups_x * kernel->group, n_groups_y};
    const size_t local[2] = {kernel->group, 1};
    cl_int error =
        clEnqueueNDRangeKernel(dev->queue, kernel->handle, 2, NULL, global, local, 0, NULL, NULL);

    if (error != CL_SUCCESS)
        return cl_fail(dev, error, "clEnqueueNDRangeKernel(%s, %u x %u groups of %zu)",
                       kernel->entry, (unsigned)n_groups_x, (unsigned)n_groups_y, kernel->group);
    if (atomic_fetch_add(&dev->fences.n_unflushed, 1) % LAUNCHES_A_FLUSH == LAUNCHES_A_FLUSH - 1) {
        error = clFlush(dev->queue);
        if (error != CL_SUCCESS) return cl_fail(dev, error, "clFlush");
    }
    return SOBRE_OK;
}

sobre_status cl_fence(sobre_device *device, uint64_t *ret_ticket)
{
    cl_dev *dev = cl_dev_of(device);
    cl_fences *f = &dev->fences;
    cl_event marker;
    cl_int error;
    uint64_t ticket;

    /* Under the mutex, so that tickets are in the queue's order. */
    os_mutex_lock(&f->sync.mutex);
    error = clEnqueueMarkerWithWaitList(dev->queue, 0, NULL, &marker);
    if (error != CL_SUCCESS) {
        os_mutex_unlock(&f->sync.mutex);
        return cl_fail(dev, error, "clEnqueueMarkerWithWaitList");
    }
    ticket = ++f->last;
    if (f->markers[ticket % GPU_N_TICKETS]) clReleaseEvent(f->markers[ticket % GPU_N_TICKETS]);
    f->markers[ticket % GPU_N_TICKETS] = marker;
    os_mutex_unlock(&f->sync.mutex);
    error = clFlush(dev->queue);
    if (error != CL_SUCCESS) return cl_fail(dev, error, "clFlush");
    *ret_ticket = ticket;
    return SOBRE_OK;
}

/* The marker of a ticket, or of a later one, to be released; NULL: there was no such ticket. */
static sobre_status marker_of(cl_dev *dev, uint64_t ticket, cl_event *ret_marker)
{
    cl_fences *f = &dev->fences;
    cl_int error = CL_SUCCESS;
    cl_event marker = NULL;
    int32_t slot;

    os_mutex_lock(&f->sync.mutex);
    slot = gpu_ticket_slot(f->last, ticket);
    if (slot >= 0) marker = f->markers[slot];
    if (marker) error = clRetainEvent(marker);
    os_mutex_unlock(&f->sync.mutex);
    if (error != CL_SUCCESS) return cl_fail(dev, error, "clRetainEvent");
    *ret_marker = marker;
    return SOBRE_OK;
}

/* OK, AGAIN, or the failure of what ran on the device. */
static sobre_status marker_state(cl_dev *dev, cl_event marker)
{
    cl_int state = CL_QUEUED;
    const cl_int error =
        clGetEventInfo(marker, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof state, &state, NULL);

    if (error != CL_SUCCESS)
        return cl_fail(dev, error, "clGetEventInfo(CL_EVENT_COMMAND_EXECUTION_STATUS)");
    if (state < 0) return cl_fail(dev, state, "work that was queued earlier");
    return state == CL_COMPLETE ? SOBRE_OK : SOBRE_AGAIN;
}

sobre_status cl_fence_poll(sobre_device *device, uint64_t ticket)
{
    cl_dev *dev = cl_dev_of(device);
    sobre_status status;
    cl_event marker;

    GPU_TRY(marker_of(dev, ticket, &marker));
    if (!marker) return SOBRE_OK;
    status = marker_state(dev, marker);
    clReleaseEvent(marker);
    return status;
}

sobre_status cl_fence_wait(sobre_device *device, uint64_t ticket)
{
    cl_dev *dev = cl_dev_of(device);
    sobre_status status = SOBRE_OK;
    cl_event marker;
    cl_int error;

    GPU_TRY(marker_of(dev, ticket, &marker));
    if (!marker) return SOBRE_OK;
    error = clWaitForEvents(1, &marker);
    if (error == CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST)
        status = marker_state(dev, marker); /* says which error */
    if (error != CL_SUCCESS && status >= 0) status = cl_fail(dev, error, "clWaitForEvents");
    clReleaseEvent(marker);
    return status;
}
