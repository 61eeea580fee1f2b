/* SPDX-License-Identifier: MIT */
/* The OpenCL driver: the order of work, compilation by many threads, failures with their names,
 * CLBlast. */
#include "cl_rig.h"

#include <stdio.h>
#include <string.h>

#include "kernel_sources.h"

const kernel_source kernel_sources[] = {
    {"add.cl", "__kernel void add(__global int *x)\n"
               "{\n"
               "    x[1] += x[0] * TIMES;\n"
               "}\n"},
    {"broken.cl", "__kernel void broken(__global int *x)\n"
                  "{\n"
                  "    x[0] = undeclared_thing;\n"
                  "}\n"},
    {"probe.cl", "__kernel void probe_fma(__global float *x, float a, float b)\n"
                 "{\n"
                 "    x[get_global_id(0)] = a * b;\n"
                 "}\n"},
    {NULL, NULL},
};

static gpu_variant variant_of(const char *file, const char *entry, int times)
{
    gpu_variant variant = {.file = file, .entry = entry, .group = 1};
    snprintf(variant.defines, sizeof variant.defines, "TIMES=%d", times);
    return variant;
}

static gpu_mem *alloc(cl_rig *rig, uint64_t size)
{
    gpu_mem *mem;
    void *in_place;
    if (cl_memory_alloc(rig->device, size, SOBRE_BUFFER_ARENA, &mem, &in_place) < 0)
        fail_msg("%s", rig->error);
    return mem;
}

static gpu_kernel *make(cl_rig *rig, const gpu_variant *variant, gpu_mem *mem)
{
    const gpu_arg arg = {GPU_ARG_MEM, {.mem = mem}};
    gpu_kernel *kernel;
    if (cl_kernel_make(rig->device, variant, &arg, 1, &kernel) < 0) fail_msg("%s", rig->error);
    return kernel;
}

/* Small writes are copied and wait for nobody, but come in turn. */
static void test_order(void **state)
{
    cl_rig rig;
    const gpu_variant variant = variant_of("add.cl", "add", 2);
    const int32_t zero[2] = {0, 0};
    int32_t got[2], expected = 0;
    cl_rig_open(&rig);
    cl_rig_device(&rig);
    gpu_mem *mem = alloc(&rig, sizeof zero);
    gpu_kernel *kernel = make(&rig, &variant, mem);
    assert_int_equal(cl_memory_write(rig.device, mem, 0, zero, sizeof zero), SOBRE_OK);
    for (int32_t i = 0; i < 200; i++) {
        int32_t value = i;
        assert_int_equal(cl_memory_write(rig.device, mem, 0, &value, sizeof value), SOBRE_OK);
        value = -1;
        assert_int_equal(cl_launch(rig.device, kernel, 1, 1), SOBRE_OK);
        expected += 2 * i;
    }
    assert_int_equal(cl_memory_read(rig.device, mem, 0, got, sizeof got), SOBRE_OK);
    assert_int_equal(got[0], 199);
    assert_int_equal(got[1], expected);
    cl_kernel_free(rig.device, kernel);
    cl_memory_free(rig.device, mem);
    cl_rig_close(&rig);
}

/* A device in the host's memory has no more of it than is free there. */
static void test_free_memory(void **state)
{
    cl_rig rig;
    uint64_t total = 0, left = 0, host_total, host_left;
    cl_rig_open(&rig);
    cl_rig_device(&rig);
    cl_memory_info(rig.device, &total, &left);
    os_memory_info(&host_total, &host_left);
    assert_true(total > 0 && left <= total);
    if (cl_dev_of(rig.device)->unified && host_left > 0) assert_true(left > 0);
    cl_dev_of(rig.device)->unified = cl_dev_of(rig.device)->tells_free = false;
    cl_memory_info(rig.device, &total, &left);
    assert_int_equal(left, 0);
    cl_rig_close(&rig);
}

static void test_large_copies(void **state)
{
    enum { SIZE = 100003, AT = 256 };
    static unsigned char data[SIZE], got[SIZE];
    cl_rig rig;
    cl_rig_open(&rig);
    cl_rig_device(&rig);
    gpu_mem *a = alloc(&rig, SIZE + AT), *b = alloc(&rig, SIZE);
    for (int i = 0; i < SIZE; i++) data[i] = (unsigned char)(i * 7 + i / 251);
    assert_int_equal(cl_memory_write(rig.device, a, AT, data, SIZE), SOBRE_OK);
    assert_int_equal(cl_memory_copy(rig.device, b, 0, a, AT, SIZE), SOBRE_OK);
    assert_int_equal(cl_memory_read(rig.device, b, 0, got, SIZE), SOBRE_OK);
    assert_memory_equal(got, data, SIZE);
    cl_memory_free(rig.device, a);
    cl_memory_free(rig.device, b);
    cl_rig_close(&rig);
}

static void test_fences(void **state)
{
    cl_rig rig;
    const gpu_variant variant = variant_of("add.cl", "add", 1);
    const int32_t one[2] = {1, 0};
    uint64_t first, ticket = 0;
    sobre_status status;
    cl_rig_open(&rig);
    cl_rig_device(&rig);
    gpu_mem *mem = alloc(&rig, sizeof one);
    gpu_kernel *kernel = make(&rig, &variant, mem);
    assert_int_equal(cl_memory_write(rig.device, mem, 0, one, sizeof one), SOBRE_OK);
    assert_int_equal(cl_fence(rig.device, &first), SOBRE_OK);
    for (int i = 0; i < 3 * GPU_N_TICKETS; i++) { /* more than are kept */
        uint64_t before = ticket;
        assert_int_equal(cl_launch(rig.device, kernel, 1, 1), SOBRE_OK);
        assert_int_equal(cl_fence(rig.device, &ticket), SOBRE_OK);
        assert_true(ticket > before);
    }
    assert_int_equal(cl_fence_wait(rig.device, ticket), SOBRE_OK);
    assert_int_equal(cl_fence_poll(rig.device, ticket), SOBRE_OK);
    assert_int_equal(cl_fence_wait(rig.device, first), SOBRE_OK);
    assert_int_equal(cl_launch(rig.device, kernel, 1, 1), SOBRE_OK);
    assert_int_equal(cl_fence(rig.device, &ticket), SOBRE_OK);
    do {
        status = cl_fence_poll(rig.device, ticket);
    } while (status == SOBRE_AGAIN);
    assert_int_equal(status, SOBRE_OK);
    cl_kernel_free(rig.device, kernel);
    cl_memory_free(rig.device, mem);
    cl_rig_close(&rig);
}

typedef struct maker {
    cl_rig *rig;
    gpu_mem *mem;
    sobre_status status;
} maker;

static void make_all(void *arg)
{
    maker *m = arg;
    const gpu_arg mem = {GPU_ARG_MEM, {.mem = m->mem}};
    for (int times = 0; times < 4 && m->status >= 0; times++) {
        const gpu_variant variant = variant_of("add.cl", "add", times);
        gpu_kernel *kernel;
        m->status = cl_kernel_make(m->rig->device, &variant, &mem, 1, &kernel);
        if (m->status >= 0) cl_kernel_free(m->rig->device, kernel);
    }
}

static void test_threads(void **state)
{
    cl_rig rig;
    maker makers[4];
    os_thread *threads[4];
    char path[512];
    cl_rig_open(&rig);
    cl_rig_device(&rig);
    gpu_mem *mem = alloc(&rig, 8);
    for (int times = 3; times >= 0; times--) {
        const gpu_variant variant = variant_of("add.cl", "add", times);
        cl_kernel_prepare(rig.device, &variant);
        cl_kernel_prepare(rig.device, &variant);
    }
    for (int i = 0; i < 4; i++) {
        makers[i] = (maker){&rig, mem, SOBRE_OK};
        threads[i] = os_thread_start(make_all, &makers[i]);
        assert_non_null(threads[i]);
    }
    for (int i = 0; i < 4; i++) os_thread_join(threads[i]);
    for (int i = 0; i < 4; i++) assert_int_equal(makers[i].status, SOBRE_OK);
    cl_rig_entry(&rig, 4, path, sizeof path);
    cl_memory_free(rig.device, mem);
    cl_rig_close(&rig);
}

/* What was asked for and not begun is dropped. */
static void test_close_while_compiling(void **state)
{
    cl_rig rig;
    cl_rig_open(&rig);
    cl_rig_device(&rig);
    for (int times = 0; times < 30; times++) {
        const gpu_variant variant = variant_of("add.cl", "add", times);
        cl_kernel_prepare(rig.device, &variant);
    }
    cl_rig_close(&rig);
}

static void assert_says(const cl_rig *rig, const char *part)
{
    if (!strstr(rig->error, part)) fail_msg("\"%s\" is not in: %s", part, rig->error);
}

static void test_failures(void **state)
{
    cl_rig rig;
    gpu_kernel *kernel = NULL;
    gpu_mem *mem = NULL;
    void *in_place = NULL;
    gpu_variant variant = variant_of("broken.cl", "broken", 1);
    cl_rig_open(&rig);
    cl_rig_device(&rig);
    cl_kernel_prepare(rig.device, &variant); /* says nothing */
    for (int i = 0; i < 2; i++) {            /* the second time from memory */
        rig.error[0] = 0;
        assert_int_equal(cl_kernel_make(rig.device, &variant, NULL, 0, &kernel), SOBRE_DEVICE);
        assert_says(&rig, "clBuildProgram(broken.cl");
        assert_says(&rig, "CL_BUILD_PROGRAM_FAILURE");
        assert_says(&rig, "undeclared_thing");
    }
    variant = variant_of("add.cl", "subtract", 1);
    assert_int_equal(cl_kernel_make(rig.device, &variant, NULL, 0, &kernel), SOBRE_DEVICE);
    assert_says(&rig, "clCreateKernel(subtract of add.cl) failed");
    assert_says(&rig, "CL_INVALID_KERNEL_NAME");
    variant = variant_of("nowhere.cl", "x", 1);
    assert_int_equal(cl_kernel_make(rig.device, &variant, NULL, 0, &kernel), SOBRE_INTERNAL);
    variant = variant_of("add.cl", "add", 1);
    const gpu_arg args[2] = {{GPU_ARG_MEM, {.mem = NULL}}, {GPU_ARG_INT, {.i = 1}}};
    assert_int_equal(cl_kernel_make(rig.device, &variant, args, 2, &kernel), SOBRE_DEVICE);
    assert_says(&rig, "clSetKernelArg(add, 1) failed");
    assert_int_equal(
        cl_memory_alloc(rig.device, UINT64_MAX / 2, SOBRE_BUFFER_ARENA, &mem, &in_place),
        SOBRE_DEVICE_OUT_OF_MEMORY);
    assert_null(kernel);
    assert_null(mem);
    cl_rig_close_device(&rig);
    assert_int_equal(cl_device_open(&rig.host, 1000, &rig.device), SOBRE_UNAVAILABLE);
    assert_null(rig.device);
    cl_rig_close(&rig);
}

/* C = A * B^T with offsets and gaps, by CLBlast. */
static void test_blas(void **state)
{
    enum { M = 601, N = 603, K = 605, LD = 610, SIZE = 400000 }; /* for its kernel with tiles */
    static float a[SIZE], b[SIZE], c[SIZE];
    cl_rig rig;
    uint64_t size = 0;
    cl_rig_open(&rig);
    cl_rig_device(&rig);
    assert_false(cl_blas_use(rig.device));
    cl_rig_close_device(&rig);
    rig.host.blas = SOBRE_BLAS_ALWAYS;
    assert_int_equal(cl_device_open(&rig.host, rig.index, &rig.device), SOBRE_OK);
    if (!cl_blas_use(rig.device)) {
        print_message("SKIP: this CLBlast is wrong or fails on this device\n");
        cl_rig_close(&rig);
        skip();
    }
    for (int i = 0; i < SIZE; i++) {
        a[i] = (float)(i % 13 - 6);
        b[i] = (float)(i % 11 - 5);
        c[i] = -1e9f;
    }
    gpu_gemm gemm = {.m = M,
                     .n = N,
                     .k = K,
                     .a = alloc(&rig, sizeof a),
                     .b = alloc(&rig, sizeof b),
                     .c = alloc(&rig, sizeof c),
                     .a_at = 64,
                     .b_at = 128,
                     .c_at = 192,
                     .lda = LD,
                     .ldb = LD,
                     .ldc = LD};
    assert_int_equal(cl_blas_work_size(rig.device, &gemm, &size), SOBRE_OK);
    gemm.work = alloc(&rig, size + 4096);
    gemm.work_at = 4096 / sizeof(float); /* in the middle of a buffer */
    assert_int_equal(cl_memory_write(rig.device, gemm.a, 0, a, sizeof a), SOBRE_OK);
    assert_int_equal(cl_memory_write(rig.device, gemm.b, 0, b, sizeof b), SOBRE_OK);
    assert_int_equal(cl_memory_write(rig.device, gemm.c, 0, c, sizeof c), SOBRE_OK);
    if (cl_blas_gemm(rig.device, &gemm) < 0) fail_msg("%s", rig.error);
    assert_int_equal(cl_memory_read(rig.device, gemm.c, 0, c, sizeof c), SOBRE_OK);
    for (int i = 0; i < SIZE; i++) {
        const int row = (i - 192) / LD, col = (i - 192) % LD;
        float sum = 0; /* of small whole numbers: exact */
        if (i < 192 || row >= M || col >= N) {
            assert_true(c[i] == -1e9f);
            continue;
        }
        for (int k = 0; k < K; k++) sum += a[64 + row * LD + k] * b[128 + col * LD + k];
        assert_true(c[i] == sum);
    }
    gpu_mem *const mems[] = {gemm.a, gemm.b, gemm.c, gemm.work};
    for (int i = 0; i < 4; i++) cl_memory_free(rig.device, mems[i]);
    cl_rig_close(&rig);
}

/* On a GPU the verdict is a matter of speed too, and is kept. */
static void test_verdict(void **state)
{
    cl_rig rig;
    const gpu_gemm gemm = {.m = 300, .n = 300, .k = 300, .lda = 300, .ldb = 300, .ldc = 300};
    uint64_t size;
    char path[512];
    cl_dev *dev;
    cl_rig_open(&rig);
    rig.host.blas = SOBRE_BLAS_AUTO;
    cl_rig_device(&rig);
    dev = cl_dev_of(rig.device);
    dev->is_gpu = true;
    assert_false(cl_blas_use(rig.device)); /* not yet known: nobody waits */
    assert_int_equal(cl_blas_work_size(rig.device, &gemm, &size), SOBRE_OK);
    os_mutex_lock(&dev->blas.sync.mutex);
    while (atomic_load(&dev->blas.verdict) == CL_BLAS_TESTING)
        os_cond_wait(&dev->blas.sync.cond, &dev->blas.sync.mutex);
    os_mutex_unlock(&dev->blas.sync.mutex);
    assert_true(cl_blas_use(rig.device) == (atomic_load(&dev->blas.verdict) == CL_BLAS_USE));
    cl_rig_close_device(&rig);
    cl_rig_entry(&rig, 2, path, sizeof path); /* the probe's program, and the verdict */
    cl_rig_close(&rig);
}

/* A call that fails during the trial decides, however that ends. */
static void test_shunned_while_trying(void **state)
{
    cl_rig rig;
    const gpu_gemm gemm = {.m = 300, .n = 300, .k = 300, .lda = 300, .ldb = 300, .ldc = 300};
    gpu_gemm wrong = gemm;
    uint64_t size;
    cl_dev *dev;
    cl_rig_open(&rig);
    rig.host.blas = SOBRE_BLAS_ALWAYS;
    cl_rig_device(&rig);
    dev = cl_dev_of(rig.device);
    assert_int_equal(cl_blas_work_size(rig.device, &gemm, &size), SOBRE_OK);
    wrong.lda = 1; /* CLBlast refuses it */
    wrong.a = wrong.b = wrong.c = alloc(&rig, 1024);
    assert_true(cl_blas_gemm(rig.device, &wrong) < 0);
    os_thread_join(dev->blas.thread);
    dev->blas.thread = NULL;
    assert_int_equal(atomic_load(&dev->blas.verdict), CL_BLAS_SHUN);
    assert_false(cl_blas_use(rig.device));
    cl_memory_free(rig.device, wrong.a);
    cl_rig_close(&rig);
}

/* A device that is closed in the middle of the trial. */
static void test_close_while_trying(void **state)
{
    cl_rig rig;
    const gpu_gemm gemm = {.m = 300, .n = 300, .k = 300, .lda = 300, .ldb = 300, .ldc = 300};
    uint64_t size;
    cl_rig_open(&rig);
    rig.host.blas = SOBRE_BLAS_ALWAYS;
    cl_rig_device(&rig);
    assert_int_equal(cl_blas_work_size(rig.device, &gemm, &size), SOBRE_OK);
    cl_rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_free_memory),
        cmocka_unit_test(test_large_copies),
        cmocka_unit_test(test_fences),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_close_while_compiling),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_blas),
        cmocka_unit_test(test_verdict),
        cmocka_unit_test(test_shunned_while_trying),
        cmocka_unit_test(test_close_while_trying),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
