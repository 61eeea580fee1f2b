/* SPDX-License-Identifier: MIT */
/*
 * Dense products by CLBlast: where it is right, and faster than our own kernels would be.
 *
 * Some of its versions give wrong products on some devices, and its first product compiles for
 * seconds. So a thread multiplies matrices of several shapes and compares them with sums in double
 * precision; until that is done nobody uses it, or, with SOBRE_BLAS_ALWAYS, everybody waits.
 *
 * What it caches belongs to the process and was not safe before its version 1.6.1: one lock, the
 * only state of this plugin outside a device, stands around its calls.
 */
#include <math.h>
#include <string.h>

#include <clblast_c.h>

#include "cl.h"

/* --- The lock: 0 free, 1 taken, 2 taken and waited for. */

static atomic_uint clblast_lock;

static void lock_clblast(void)
{
    unsigned free_state = 0;

    if (atomic_compare_exchange_strong(&clblast_lock, &free_state, 1)) return;
    while (atomic_exchange(&clblast_lock, 2) != 0) os_word_wait(&clblast_lock, 2);
}

static void unlock_clblast(void)
{
    if (atomic_exchange(&clblast_lock, 0) == 2) os_word_wake_all(&clblast_lock);
}

static cl_int sgemm(cl_command_queue queue, const gpu_gemm *g, cl_mem work)
{
    CLBlastStatusCode error;

    lock_clblast();
    error = CLBlastSgemmWithTempBuffer(
        CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeYes, (size_t)g->m, (size_t)g->n,
        (size_t)g->k, 1.0f, g->a->handle, g->a_at, (size_t)g->lda, g->b->handle, g->b_at,
        (size_t)g->ldb, 0.0f, g->c->handle, g->c_at, (size_t)g->ldc, &queue, NULL, work);
    unlock_clblast();
    return (cl_int)error;
}

/* Bytes of temporary memory for up to g->m rows: most are needed where m is no multiple of its
 * tiles. */
static cl_int work_size(cl_dev *dev, const gpu_gemm *g, size_t *ret_size)
{
    /* The first call looks up what CLBlast knows of the device; later ones only read that, so they
     * need not wait for a compilation. */
    const bool first = !atomic_load(&dev->blas.touched);
    CLBlastStatusCode error = CLBlastSuccess;
    size_t most = 0;

    if (first) lock_clblast();
    for (int32_t m = g->m; m > 0 && m >= g->m - 1 && error == CLBlastSuccess; m--) {
        size_t size = 0;
        error = CLBlastSGemmTempBufferSize(
            CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeYes, (size_t)m, (size_t)g->n,
            (size_t)g->k, g->a_at, (size_t)g->lda, g->b_at, (size_t)g->ldb, g->c_at, (size_t)g->ldc,
            &dev->queue, &size);
        if (size > most) most = size;
    }
    if (first) unlock_clblast();
    if (error != CLBlastSuccess) return (cl_int)error;
    atomic_store(&dev->blas.touched, true);
    *ret_size = most;
    return CL_SUCCESS;
}

/* --- The trial, on a thread of its own. */

typedef struct trial_shape {
    int32_t m, n, k, gap; /* gap: leading dimensions exceed the rows by so many */
    uint64_t a_at, b_at, c_at;
} trial_shape;

/* CLBlast has a kernel for small products and one, with copies into tiles around it, for large
 * ones. */
static const trial_shape shapes[] = {
    {33, 17, 40, 0, 0, 0, 0},      {65, 31, 100, 3, 5, 3, 7},     {256, 128, 96, 0, 0, 0, 0},
    {300, 260, 200, 0, 64, 64, 0}, {523, 1031, 515, 5, 13, 7, 3}, {512, 1024, 1024, 0, 0, 0, 0},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

enum {
    N_ELEMENTS = 1200 * 1040, /* room for each of the matrices above */
    SAMPLED = 1 << 14,        /* of larger products only a part is computed again */
    PROBE_GROUP = 256,        /* these two as in kernels_cl/probe.cl */
    PROBE_FLOPS = 256 * 8 * 2 * 1024,
    N_TIMED = 8,
    MIN_SHARE = 35, /* per cent of the device's multiply-adds; our own kernels reach that */
};

typedef enum trial_result { TRIAL_FAST, TRIAL_SLOW, TRIAL_WRONG, TRIAL_FAILED } trial_result;

typedef struct trial {
    cl_dev *dev;
    cl_command_queue queue; /* its own: nobody waits for it */
    gpu_mem a, b, c, work;
    float *host; /* [3][N_ELEMENTS]: A, B, C */
    gpu_problem problem;
} trial;

static bool trial_buffer(trial *t, uint64_t size, gpu_mem *ret_mem)
{
    cl_int error;

    ret_mem->handle =
        clCreateBuffer(t->dev->context, CL_MEM_READ_WRITE, (size_t)size, NULL, &error);
    ret_mem->size = size;
    if (error == CL_SUCCESS) return true;
    ret_mem->handle = NULL;
    cl_problem_set(&t->problem, t->dev, error, "clCreateBuffer(%llu bytes)",
                   (unsigned long long)size);
    return false;
}

static gpu_gemm trial_gemm(trial *t, const trial_shape *s)
{
    return (gpu_gemm){
        .m = s->m,
        .n = s->n,
        .k = s->k,
        .a = &t->a,
        .b = &t->b,
        .c = &t->c,
        .work = &t->work,
        .a_at = s->a_at,
        .b_at = s->b_at,
        .c_at = s->c_at,
        .lda = s->k + s->gap,
        .ldb = s->k + s->gap,
        .ldc = s->n + s->gap,
    };
}

static bool trial_open(trial *t)
{
    const sobre_host *host = t->dev->base.host;
    const uint64_t size = (uint64_t)N_ELEMENTS * sizeof(float);
    size_t work = 1;
    cl_int error;

    t->host = host->alloc(host->context, 3 * (size_t)size, 64);
    if (!t->host) {
        cl_problem_set(&t->problem, t->dev, CL_OUT_OF_HOST_MEMORY, "the test of CLBlast");
        return false;
    }
    t->queue = clCreateCommandQueue(t->dev->context, t->dev->id, 0, &error);
    if (error != CL_SUCCESS) {
        t->queue = NULL;
        cl_problem_set(&t->problem, t->dev, error, "clCreateCommandQueue");
        return false;
    }
    for (int i = 0; i < N_SHAPES; i++) {
        const gpu_gemm g = trial_gemm(t, &shapes[i]);
        size_t n = 0;
        error = work_size(t->dev, &g, &n);
        if (error != CL_SUCCESS) {
            cl_problem_set(&t->problem, t->dev, error, "CLBlastSGemmTempBufferSize");
            return false;
        }
        if (n > work) work = n;
    }
    return trial_buffer(t, size, &t->a) && trial_buffer(t, size, &t->b) &&
           trial_buffer(t, size, &t->c) && trial_buffer(t, work, &t->work);
}

static void trial_close(trial *t)
{
    const sobre_host *host = t->dev->base.host;
    const gpu_mem *mems[] = {&t->a, &t->b, &t->c, &t->work};

    if (t->queue) clFinish(t->queue);
    for (size_t i = 0; i < sizeof mems / sizeof *mems; i++)
        if (mems[i]->handle) clReleaseMemObject(mems[i]->handle);
    if (t->queue) clReleaseCommandQueue(t->queue);
    if (t->host) host->free(host->context, t->host);
}

/* Numbers in [-1, 1), always the same (Knuth's linear congruential generator). */
static void fill(float *data)
{
    uint64_t state = 1;

    for (int i = 0; i < 2 * N_ELEMENTS; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        data[i] = (float)(int32_t)(state >> 32) * 0x1p-31f;
    }
}

/* Is C what it should be, and untouched around the product? It was full of NaN. */
static bool product_right(const trial *t, const gpu_gemm *g)
{
    const float *a = t->host + g->a_at, *b = t->host + N_ELEMENTS + g->b_at;
    const float *c = t->host + 2 * N_ELEMENTS;
    const bool all = g->m * g->n <= SAMPLED;

    for (int64_t at = 0; at < N_ELEMENTS; at++) {
        const int64_t i = (at - (int64_t)g->c_at) / g->ldc, j = (at - (int64_t)g->c_at) % g->ldc;
        const bool inside = at >= (int64_t)g->c_at && i < g->m && j < g->n;
        double sum = 0;
        if (isnan(c[at]) == inside) return false;
        if (!inside || !(all || i == g->m - 1 || j == g->n - 1 || (i % 7 == 0 && j % 13 == 0)))
            continue;
        for (int64_t l = 0; l < g->k; l++) sum += (double)a[i * g->lda + l] * b[j * g->ldb + l];
        /* An element left out is off by 0.3 or so, sums in f32 by 1e-5. */
        if (!(fabs(c[at] - sum) < 1e-3)) return false;
    }
    return true;
}

static trial_result trial_product(trial *t, const trial_shape *s)
{
    const gpu_gemm g = trial_gemm(t, s);
    const size_t size = N_ELEMENTS * sizeof(float);
    float *c = t->host + 2 * N_ELEMENTS;
    const char *call = "clEnqueueWriteBuffer";
    cl_int error;

    for (int i = 0; i < N_ELEMENTS; i++) c[i] = NAN;
    error = clEnqueueWriteBuffer(t->queue, t->c.handle, CL_TRUE, 0, size, c, 0, NULL, NULL);
    if (error == CL_SUCCESS) {
        call = "CLBlastSgemmWithTempBuffer";
        error = sgemm(t->queue, &g, t->work.handle);
    }
    if (error == CL_SUCCESS) {
        call = "clEnqueueReadBuffer";
        error = clEnqueueReadBuffer(t->queue, t->c.handle, CL_TRUE, 0, size, c, 0, NULL, NULL);
    }
    if (error != CL_SUCCESS) {
        cl_problem_set(&t->problem, t->dev, error, "%s(a product %d x %d x %d)", call, (int)s->m,
                       (int)s->n, (int)s->k);
        return TRIAL_FAILED;
    }
    if (product_right(t, &g)) return TRIAL_FAST;
    t->problem.status = SOBRE_DEVICE;
    return TRIAL_WRONG;
}

/* Nanoseconds of N_TIMED products of the last shape; 0: failed. */
static uint64_t time_products(trial *t)
{
    const gpu_gemm g = trial_gemm(t, &shapes[N_SHAPES - 1]);
    const uint64_t begin = os_now_ns();
    cl_int error = CL_SUCCESS;

    for (int i = 0; i < N_TIMED && error == CL_SUCCESS; i++)
        error = sgemm(t->queue, &g, t->work.handle);
    if (error == CL_SUCCESS) error = clFinish(t->queue);
    if (error == CL_SUCCESS) return os_now_ns() - begin + 1;
    cl_problem_set(&t->problem, t->dev, error, "CLBlastSgemmWithTempBuffer");
    return 0;
}

/* Nanoseconds of N_TIMED launches of multiply-adds; 0: failed. */
static uint64_t time_probe(trial *t, cl_kernel kernel, size_t n_groups)
{
    const size_t global = n_groups * PROBE_GROUP, local = PROBE_GROUP;
    const uint64_t begin = os_now_ns();
    cl_int error = CL_SUCCESS;

    for (int i = 0; i < N_TIMED && error == CL_SUCCESS; i++)
        error = clEnqueueNDRangeKernel(t->queue, kernel, 1, NULL, &global, &local, 0, NULL, NULL);
    if (error == CL_SUCCESS) error = clFinish(t->queue);
    if (error == CL_SUCCESS) return os_now_ns() - begin + 1;
    cl_problem_set(&t->problem, t->dev, error, "clEnqueueNDRangeKernel(probe_fma)");
    return 0;
}

/* Does a product come near to what the device can do? */
static trial_result trial_speed(trial *t)
{
    const gpu_variant variant = {.file = "probe.cl", .entry = "probe_fma", .group = PROBE_GROUP};
    const trial_shape *s = &shapes[N_SHAPES - 1];
    const float a = 0.999f, b = 0.001f;
    size_t n_groups = (size_t)t->dev->base.caps.n_units * 8;
    uint64_t product = UINT64_MAX, probe = UINT64_MAX;
    double product_flops, probe_flops;
    cl_program program;
    cl_kernel kernel;
    cl_int error;

    if (n_groups > N_ELEMENTS / PROBE_GROUP) n_groups = N_ELEMENTS / PROBE_GROUP;
    if (cl_program_get(t->dev, &variant, &program, &t->problem) < 0) return TRIAL_FAILED;
    kernel = clCreateKernel(program, variant.entry, &error);
    if (error != CL_SUCCESS) {
        cl_problem_set(&t->problem, t->dev, error, "clCreateKernel(probe_fma)");
        return TRIAL_FAILED;
    }
    error = clSetKernelArg(kernel, 0, sizeof t->c.handle, &t->c.handle);
    if (error == CL_SUCCESS) error = clSetKernelArg(kernel, 1, sizeof a, &a);
    if (error == CL_SUCCESS) error = clSetKernelArg(kernel, 2, sizeof b, &b);
    if (error != CL_SUCCESS) {
        cl_problem_set(&t->problem, t->dev, error, "clSetKernelArg(probe_fma)");
        product = 0;
    }
    for (int i = 0; i < 3 && product > 0 && probe > 0; i++) { /* the best of three */
        const uint64_t ns = time_products(t),
                       probe_ns = ns > 0 ? time_probe(t, kernel, n_groups) : 0;
        if (ns < product) product = ns;
        if (probe_ns < probe) probe = probe_ns;
    }
    clReleaseKernel(kernel);
    if (product == 0 || probe == 0) return TRIAL_FAILED;
    product_flops = 2.0 * s->m * s->n * s->k * N_TIMED / (double)product;
    probe_flops = (double)PROBE_FLOPS * (double)n_groups * N_TIMED / (double)probe;
    t->dev->base.host->log(t->dev->base.host->context, SOBRE_LOG_DEBUG,
                           "CLBlast reaches %.0f of the %.0f GFLOPS of %s", product_flops,
                           probe_flops, t->dev->name);
    return product_flops * 100 >= probe_flops * MIN_SHARE ? TRIAL_FAST : TRIAL_SLOW;
}

static trial_result trial_run(trial *t, bool timed)
{
    const size_t size = N_ELEMENTS * sizeof(float);
    trial_result result = TRIAL_FAST;
    cl_int error;

    if (!trial_open(t)) return TRIAL_FAILED;
    fill(t->host);
    error = clEnqueueWriteBuffer(t->queue, t->a.handle, CL_TRUE, 0, size, t->host, 0, NULL, NULL);
    if (error == CL_SUCCESS)
        error = clEnqueueWriteBuffer(t->queue, t->b.handle, CL_TRUE, 0, size, t->host + N_ELEMENTS,
                                     0, NULL, NULL);
    if (error != CL_SUCCESS) {
        cl_problem_set(&t->problem, t->dev, error, "clEnqueueWriteBuffer");
        return TRIAL_FAILED;
    }
    for (int i = 0; i < N_SHAPES && result == TRIAL_FAST; i++) {
        if (atomic_load(&t->dev->blas.closing)) return TRIAL_SLOW;
        result = trial_product(t, &shapes[i]);
    }
    if (result == TRIAL_FAST && timed) result = trial_speed(t);
    return result;
}

/* --- Verdicts */

static bool wanted(const cl_dev *dev)
{
    switch (dev->base.host->blas) {
    case SOBRE_BLAS_NEVER: return false;
    case SOBRE_BLAS_ALWAYS: return true;
    default: return dev->is_gpu; /* on a CPU our own CPU backend is what is fast */
    }
}

/* CL_BLAS_SHUN is the last word: work was planned without CLBlast, or it failed while it was tried.
 */
static void set_verdict(cl_dev *dev, int verdict)
{
    os_mutex_lock(&dev->blas.sync.mutex);
    if (atomic_load(&dev->blas.verdict) != CL_BLAS_SHUN) atomic_store(&dev->blas.verdict, verdict);
    os_cond_broadcast(&dev->blas.sync.cond);
    os_mutex_unlock(&dev->blas.sync.mutex);
}

static void judge(void *arg)
{
    cl_dev *dev = arg;
    const sobre_host *host = dev->base.host;
    const uint32_t version =
        CLBLAST_VERSION_MAJOR << 20 | CLBLAST_VERSION_MINOR << 10 | CLBLAST_VERSION_PATCH;
    const cl_hash key =
        cl_hash_bytes(cl_hash_text(dev->identity, "CLBlast"), &version, sizeof version);
    const bool always = host->blas == SOBRE_BLAS_ALWAYS;
    trial t = {.dev = dev};
    trial_result result = TRIAL_FAST;
    unsigned char *known = NULL;
    size_t size = 0;

    /* Only whether it is fast is remembered; that it is right is seen anew each time, and the
     * compilation must be out of the way anyway. */
    if (!always && cl_cache_load(host, key, (void **)&known, &size)) {
        if (known[0] != TRIAL_FAST) result = TRIAL_SLOW;
        host->free(host->context, known);
    }
    if (result == TRIAL_FAST) {
        result = trial_run(&t, !always && !known);
        trial_close(&t);
        if (!always && !known && result != TRIAL_FAILED && !atomic_load(&dev->blas.closing)) {
            const unsigned char verdict = (unsigned char)result;
            cl_cache_store(host, key, &verdict, sizeof verdict);
        }
    }
    if (result == TRIAL_WRONG)
        host->log(host->context, SOBRE_LOG_WARNING,
                  "CLBlast gives wrong products on %s and is not used there; a newer version may "
                  "be right",
                  dev->name);
    if (result == TRIAL_FAILED)
        host->log(host->context, SOBRE_LOG_WARNING, "CLBlast is not used: %s", t.problem.text);
    set_verdict(dev, result == TRIAL_FAST ? CL_BLAS_USE : CL_BLAS_SHUN);
}

/* Begins the trial unless it has begun. */
static void start(cl_dev *dev)
{
    cl_blas *b = &dev->blas;
    bool begin;

    os_mutex_lock(&b->sync.mutex);
    begin = atomic_load(&b->verdict) == CL_BLAS_UNKNOWN;
    if (begin) {
        atomic_store(&b->verdict, CL_BLAS_TESTING);
        b->thread = os_thread_start(judge, dev);
    }
    begin = begin && !b->thread;
    os_mutex_unlock(&b->sync.mutex);
    if (begin) set_verdict(dev, CL_BLAS_SHUN);
}

static void shun(cl_dev *dev, cl_int error, const char *call)
{
    gpu_problem problem;

    cl_problem_set(&problem, dev, error, "%s", call);
    dev->base.host->log(dev->base.host->context, SOBRE_LOG_WARNING, "CLBlast is not used: %s",
                        problem.text);
    set_verdict(dev, CL_BLAS_SHUN);
}

bool cl_blas_use(sobre_device *device)
{
    cl_dev *dev = cl_dev_of(device);
    cl_blas *b = &dev->blas;
    const int verdict = atomic_load(&b->verdict);

    if (verdict == CL_BLAS_USE || verdict == CL_BLAS_SHUN) return verdict == CL_BLAS_USE;
    if (device->host->blas != SOBRE_BLAS_ALWAYS) return false;
    start(dev);
    os_mutex_lock(&b->sync.mutex);
    while (atomic_load(&b->verdict) == CL_BLAS_TESTING) os_cond_wait(&b->sync.cond, &b->sync.mutex);
    os_mutex_unlock(&b->sync.mutex);
    return atomic_load(&b->verdict) == CL_BLAS_USE;
}

sobre_status cl_blas_work_size(sobre_device *device, const gpu_gemm *gemm, uint64_t *ret_size)
{
    cl_dev *dev = cl_dev_of(device);
    size_t size = 0;

    if (wanted(dev) && atomic_load(&dev->blas.verdict) != CL_BLAS_SHUN) {
        const cl_int error = work_size(dev, gemm, &size);
        if (error == CL_SUCCESS)
            start(dev);
        else
            shun(dev, error, "CLBlastSGemmTempBufferSize");
    }
    *ret_size = size;
    return SOBRE_OK;
}

sobre_status cl_blas_gemm(sobre_device *device, const gpu_gemm *gemm)
{
    cl_dev *dev = cl_dev_of(device);
    cl_mem work = gemm->work ? gemm->work->handle : NULL;
    cl_int error = CL_SUCCESS;
    const uint64_t work_at = gemm->work_at * sizeof(float);

    if (work && work_at >= gemm->work->size) work = NULL; /* small products need none */
    if (work && work_at > 0) {                            /* CLBlast takes a whole buffer */
        const cl_buffer_region region = {(size_t)work_at, (size_t)(gemm->work->size - work_at)};
        work = clCreateSubBuffer(gemm->work->handle, CL_MEM_READ_WRITE,
                                 CL_BUFFER_CREATE_TYPE_REGION, &region, &error);
        if (error != CL_SUCCESS)
            return cl_fail(dev, error, "clCreateSubBuffer(at %llu of %llu bytes)",
                           (unsigned long long)work_at, (unsigned long long)gemm->work->size);
    }
    error = sgemm(dev->queue, gemm, work);
    if (work && work_at > 0) clReleaseMemObject(work); /* stays until the queue has done with it */
    if (error == CL_SUCCESS) return SOBRE_OK;
    shun(dev, error, "CLBlastSgemmWithTempBuffer");
    return cl_fail(dev, error, "CLBlastSgemmWithTempBuffer(%d x %d x %d)", (int)gemm->m,
                   (int)gemm->n, (int)gemm->k);
}

sobre_status cl_blas_open(cl_dev *dev)
{
    return gpu_sync_open(&dev->blas.sync, dev->base.host);
}

void cl_blas_close(cl_dev *dev)
{
    cl_blas *b = &dev->blas;

    atomic_store(&b->closing, true);
    os_thread_join(b->thread);
    gpu_sync_close(&b->sync);
    if (!atomic_load(&b->touched)) return;
    /* CLBlast's programs hold on to our context. All or none can be dropped: other devices compile
     * theirs again. */
    lock_clblast();
    CLBlastClearCache();
    unlock_clblast();
}
