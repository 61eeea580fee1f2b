/* SPDX-License-Identifier: MIT */
#define CL_TARGET_OPENCL_VERSION 300
#include "fault_layer.h"

#include <CL/cl_layer.h>
#include <sobre/sobre.h>
#include <string.h>

static cl_icd_dispatch next, mine;

/* X(name, parameters, arguments): calls that return a code and make nothing. */
#define CODE_CALLS(X)                                                                           \
    X(clGetPlatformIDs, (cl_uint n, cl_platform_id * p, cl_uint * r), (n, p, r))                \
    X(clGetPlatformInfo, (cl_platform_id p, cl_platform_info i, size_t n, void *v, size_t *r),  \
      (p, i, n, v, r))                                                                          \
    X(clGetDeviceIDs,                                                                           \
      (cl_platform_id p, cl_device_type t, cl_uint n, cl_device_id * d, cl_uint * r),           \
      (p, t, n, d, r))                                                                          \
    X(clGetDeviceInfo, (cl_device_id d, cl_device_info i, size_t n, void *v, size_t *r),        \
      (d, i, n, v, r))                                                                          \
    X(clBuildProgram,                                                                           \
      (cl_program p, cl_uint n, const cl_device_id *d, const char *o,                           \
       void(CL_CALLBACK * f)(cl_program, void *), void *u),                                     \
      (p, n, d, o, f, u))                                                                       \
    X(clGetProgramInfo, (cl_program p, cl_program_info i, size_t n, void *v, size_t *r),        \
      (p, i, n, v, r))                                                                          \
    X(clGetProgramBuildInfo,                                                                    \
      (cl_program p, cl_device_id d, cl_program_build_info i, size_t n, void *v, size_t *r),    \
      (p, d, i, n, v, r))                                                                       \
    X(clSetKernelArg, (cl_kernel k, cl_uint i, size_t n, const void *v), (k, i, n, v))          \
    X(clGetKernelWorkGroupInfo,                                                                 \
      (cl_kernel k, cl_device_id d, cl_kernel_work_group_info i, size_t n, void *v, size_t *r), \
      (k, d, i, n, v, r))                                                                       \
    X(clGetEventInfo, (cl_event e, cl_event_info i, size_t n, void *v, size_t *r),              \
      (e, i, n, v, r))                                                                          \
    X(clFlush, (cl_command_queue q), (q))

/* The same, but a driver whose wait fails does not go on to use the memory: these wait first. */
#define WAIT_CALLS(X)                                          \
    X(clWaitForEvents, (cl_uint n, const cl_event *e), (n, e)) \
    X(clFinish, (cl_command_queue q), (q))

/* X(name, parameters before the event, arguments before it): commands, which may make an event. */
#define COMMAND_CALLS(X)                                                                      \
    X(clEnqueueReadBuffer,                                                                    \
      (cl_command_queue q, cl_mem m, cl_bool b, size_t o, size_t s, void *p, cl_uint n,       \
       const cl_event *w, cl_event *e),                                                       \
      (q, m, b, o, s, p, n, w, e))                                                            \
    X(clEnqueueWriteBuffer,                                                                   \
      (cl_command_queue q, cl_mem m, cl_bool b, size_t o, size_t s, const void *p, cl_uint n, \
       const cl_event *w, cl_event *e),                                                       \
      (q, m, b, o, s, p, n, w, e))                                                            \
    X(clEnqueueCopyBuffer,                                                                    \
      (cl_command_queue q, cl_mem a, cl_mem b, size_t i, size_t o, size_t s, cl_uint n,       \
       const cl_event *w, cl_event *e),                                                       \
      (q, a, b, i, o, s, n, w, e))                                                            \
    X(clEnqueueFillBuffer,                                                                    \
      (cl_command_queue q, cl_mem m, const void *p, size_t z, size_t o, size_t s, cl_uint n,  \
       const cl_event *w, cl_event *e),                                                       \
      (q, m, p, z, o, s, n, w, e))                                                            \
    X(clEnqueueNDRangeKernel,                                                                 \
      (cl_command_queue q, cl_kernel k, cl_uint d, const size_t *o, const size_t *g,          \
       const size_t *l, cl_uint n, const cl_event *w, cl_event *e),                           \
      (q, k, d, o, g, l, n, w, e))                                                            \
    X(clEnqueueMarkerWithWaitList,                                                            \
      (cl_command_queue q, cl_uint n, const cl_event *w, cl_event *e), (q, n, w, e))          \
    X(clEnqueueMarker, (cl_command_queue q, cl_event * e), (q, e))

/* X(name, type, kind, parameters, arguments): calls that make an object; `r` takes the code. */
#define MAKING_CALLS(X)                                                                          \
    X(clCreateContext, cl_context, FAULT_CONTEXT,                                                \
      (const cl_context_properties *p, cl_uint n, const cl_device_id *d,                         \
       void(CL_CALLBACK * f)(const char *, const void *, size_t, void *), void *u, cl_int *r),   \
      (p, n, d, f, u, r))                                                                        \
    X(clCreateCommandQueue, cl_command_queue, FAULT_QUEUE,                                       \
      (cl_context c, cl_device_id d, cl_command_queue_properties p, cl_int * r), (c, d, p, r))   \
    X(clCreateBuffer, cl_mem, FAULT_MEM,                                                         \
      (cl_context c, cl_mem_flags f, size_t s, void *h, cl_int *r), (c, f, s, h, r))             \
    X(clCreateProgramWithSource, cl_program, FAULT_PROGRAM,                                      \
      (cl_context c, cl_uint n, const char **s, const size_t *l, cl_int *r), (c, n, s, l, r))    \
    X(clCreateProgramWithBinary, cl_program, FAULT_PROGRAM,                                      \
      (cl_context c, cl_uint n, const cl_device_id *d, const size_t *l, const unsigned char **b, \
       cl_int *s, cl_int *r),                                                                    \
      (c, n, d, l, b, s, r))                                                                     \
    X(clCreateKernel, cl_kernel, FAULT_KERNEL, (cl_program p, const char *n, cl_int *r), (p, n, r))

/* --- Calls that can fail */

enum {
#define INDEX(name, ...) CALL_##name,
    CODE_CALLS(INDEX) WAIT_CALLS(INDEX) COMMAND_CALLS(INDEX) MAKING_CALLS(INDEX) N_CALLS
};
_Static_assert((int)N_CALLS < (int)FAULT_MAX_CALLS, "the last one has no name");

#define NAMED(call, ...) {#call, false, false},
static fault_control control = {
    .calls = {CODE_CALLS(NAMED) WAIT_CALLS(NAMED) COMMAND_CALLS(NAMED) MAKING_CALLS(NAMED)},
};

SOBRE_EXPORT fault_control *fault_layer_control(void);
fault_control *fault_layer_control(void)
{
    return &control;
}

static bool fails(int call)
{
    if (atomic_load(&control.calls[call].spared)) return false;
    const long long n = atomic_fetch_add(&control.n_calls, 1) + 1;
    const long long at = atomic_load(&control.fail_at);

    if (!at || n < at || (n > at && !atomic_load(&control.for_good))) return false;
    atomic_store(&control.calls[call].failed, true);
    return true;
}

static void born(fault_object kind, const void *object)
{
    if (object) atomic_fetch_add(&control.n_live[kind], 1);
}

#define CODE_CALL(name, parameters, arguments)                           \
    static cl_int CL_API_CALL f_##name parameters                        \
    {                                                                    \
        return fails(CALL_##name) ? control.error : next.name arguments; \
    }
CODE_CALLS(CODE_CALL)

#define WAIT_CALL(name, parameters, arguments)            \
    static cl_int CL_API_CALL f_##name parameters         \
    {                                                     \
        const cl_int code = next.name arguments;          \
        return fails(CALL_##name) ? control.error : code; \
    }
WAIT_CALLS(WAIT_CALL)

#define COMMAND_CALL(name, parameters, arguments)           \
    static cl_int CL_API_CALL f_##name parameters           \
    {                                                       \
        if (fails(CALL_##name)) return control.error;       \
        const cl_int code = next.name arguments;            \
        if (code == CL_SUCCESS && e) born(FAULT_EVENT, *e); \
        return code;                                        \
    }
COMMAND_CALLS(COMMAND_CALL)

#define MAKING_CALL(name, type, kind, parameters, arguments) \
    static type CL_API_CALL f_##name parameters              \
    {                                                        \
        if (fails(CALL_##name)) {                            \
            if (r) *r = control.error;                       \
            return NULL;                                     \
        }                                                    \
        const type object = next.name arguments;             \
        born(kind, object);                                  \
        return object;                                       \
    }
MAKING_CALLS(MAKING_CALL)

/* X(suffix, type, kind): references that are taken and given back; these never fail. */
#define COUNTED(X)                                 \
    X(Context, cl_context, FAULT_CONTEXT)          \
    X(CommandQueue, cl_command_queue, FAULT_QUEUE) \
    X(MemObject, cl_mem, FAULT_MEM)                \
    X(Program, cl_program, FAULT_PROGRAM)          \
    X(Kernel, cl_kernel, FAULT_KERNEL)             \
    X(Event, cl_event, FAULT_EVENT)

#define COUNTED_CALLS(suffix, type, kind)                  \
    static cl_int CL_API_CALL f_clRetain##suffix(type o)   \
    {                                                      \
        born(kind, o);                                     \
        return next.clRetain##suffix(o);                   \
    }                                                      \
    static cl_int CL_API_CALL f_clRelease##suffix(type o)  \
    {                                                      \
        if (o) atomic_fetch_sub(&control.n_live[kind], 1); \
        return next.clRelease##suffix(o);                  \
    }
COUNTED(COUNTED_CALLS)

SOBRE_EXPORT cl_int CL_API_CALL clGetLayerInfo(cl_layer_info name, size_t size, void *value,
                                               size_t *ret_size)
{
    const cl_layer_api_version version = CL_LAYER_API_VERSION_100;

    if (name != CL_LAYER_API_VERSION || (value && size < sizeof version)) return CL_INVALID_VALUE;
    if (value) memcpy(value, &version, sizeof version);
    if (ret_size) *ret_size = sizeof version;
    return CL_SUCCESS;
}

SOBRE_EXPORT cl_int CL_API_CALL clInitLayer(cl_uint n, const cl_icd_dispatch *target,
                                            cl_uint *ret_n, const cl_icd_dispatch **ret_layer)
{
    if (n < sizeof next / sizeof next.clGetPlatformIDs) return CL_INVALID_VALUE;
    next = mine = *target;
#define SET(name, ...) mine.name = f_##name;
    CODE_CALLS(SET)
    WAIT_CALLS(SET)
    COMMAND_CALLS(SET)
    MAKING_CALLS(SET)
#define SET_COUNTED(suffix, ...)                \
    mine.clRetain##suffix = f_clRetain##suffix; \
    mine.clRelease##suffix = f_clRelease##suffix;
    COUNTED(SET_COUNTED)
    *ret_n = sizeof mine / sizeof mine.clGetPlatformIDs;
    *ret_layer = &mine;
    return CL_SUCCESS;
}
