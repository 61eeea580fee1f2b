/* SPDX-License-Identifier: MIT */
/* Compiled programs on disk: whatever is wrong with a file or its folder, the program is there. */
#include "cl_rig.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel_sources.h"

enum { PATH_SIZE = 512, N = 64 };

const kernel_source kernel_sources[] = {
    {"scale.cl", "__kernel __attribute__((reqd_work_group_size(WG, 1, 1)))\n"
                 "void scale(__global float *x, float f)\n"
                 "{\n"
                 "    x[get_global_id(0)] *= f * TIMES;\n"
                 "}\n"},
    {NULL, NULL},
};

static const char content[] = "forty bytes of something that was compiled";

static cl_hash key_of(const char *text)
{
    const cl_hash zero = {{0, 0}};
    return cl_hash_text(zero, text);
}

static bool cached(cl_rig *rig, const char *key)
{
    void *data;
    size_t size;
    if (!cl_cache_load(&rig->host, key_of(key), &data, &size)) return false;
    assert_int_equal(size, sizeof content);
    assert_memory_equal(data, content, size);
    rig->host.free(rig->host.context, data);
    return true;
}

static size_t read_file(const char *path, void *data, size_t size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size = fread(data, 1, size, file);
    fclose(file);
    return size;
}

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    fclose(file);
}

/* --- Hashes and files */

static void test_hash(void **state)
{
    const cl_hash zero = {{0, 0}};
    const cl_hash ab_c = cl_hash_text(cl_hash_text(zero, "ab"), "c");
    const cl_hash a_bc = cl_hash_text(cl_hash_text(zero, "a"), "bc");
    cl_hash seen[256];
    assert_memory_not_equal(&ab_c, &a_bc, sizeof ab_c);
    for (int i = 0; i < 256; i++) { /* one bit, and one length, makes all the difference */
        unsigned char bytes[32] = {0};
        bytes[i / 8] = (unsigned char)(1 << i % 8);
        seen[i] = cl_hash_bytes(zero, bytes, sizeof bytes);
        for (int j = 0; j < i; j++) {
            assert_true(seen[i].h[0] != seen[j].h[0]);
            assert_true(seen[i].h[1] != seen[j].h[1]);
        }
    }
    for (size_t n = 0; n < 32; n++) {
        const unsigned char bytes[32] = {0};
        const cl_hash a = cl_hash_bytes(zero, bytes, n), b = cl_hash_bytes(zero, bytes, n + 1);
        assert_true(a.h[0] != b.h[0] && a.h[1] != b.h[1]);
    }
}

static void test_store_and_load(void **state)
{
    cl_rig rig;
    char path[PATH_SIZE], folder[PATH_SIZE];
    struct stat info;
    cl_rig_open(&rig);
    assert_false(cached(&rig, "a"));
    cl_cache_store(&rig.host, key_of("a"), content, sizeof content);
    assert_true(cached(&rig, "a"));
    assert_false(cached(&rig, "b"));
    cl_rig_entry(&rig, 1, path, sizeof path);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    snprintf(folder, sizeof folder, "%s/opencl", rig.folder);
    assert_int_equal(stat(folder, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    cl_cache_store(&rig.host, key_of("a"), content, sizeof content); /* over the old one */
    assert_true(cached(&rig, "a"));
    cl_rig_close(&rig);
}

static void test_no_folder(void **state)
{
    cl_rig rig;
    cl_rig_open(&rig);
    rig.host.cache_dir = NULL;
    cl_cache_store(&rig.host, key_of("a"), content, sizeof content);
    assert_false(cached(&rig, "a"));
    cl_rig_close(&rig);
}

static void test_damaged(void **state)
{
    cl_rig rig;
    char path[PATH_SIZE];
    unsigned char good[512], bad[512];
    size_t size;
    cl_rig_open(&rig);
    cl_cache_store(&rig.host, key_of("a"), content, sizeof content);
    cl_rig_entry(&rig, 1, path, sizeof path);
    size = read_file(path, good, sizeof good);
    for (size_t i = 0; i < size; i++) {
        memcpy(bad, good, size);
        bad[i] ^= 1;
        write_file(path, bad, size);
        assert_false(cached(&rig, "a"));
        write_file(path, good, i); /* cut */
        assert_false(cached(&rig, "a"));
    }
    memcpy(bad, good, size);
    bad[size] = 0;
    write_file(path, bad, size + 1); /* too long */
    assert_false(cached(&rig, "a"));
    write_file(path, good, size);
    assert_true(cached(&rig, "a"));
    cl_rig_close(&rig);
}

/* A file under the name of another key. */
static void test_stale(void **state)
{
    cl_rig rig;
    char from[PATH_SIZE], to[PATH_SIZE];
    cl_rig_open(&rig);
    cl_cache_store(&rig.host, key_of("b"), content, sizeof content);
    cl_rig_entry(&rig, 1, to, sizeof to);
    assert_int_equal(unlink(to), 0);
    cl_cache_store(&rig.host, key_of("a"), content, sizeof content);
    cl_rig_entry(&rig, 1, from, sizeof from);
    assert_int_equal(rename(from, to), 0);
    assert_false(cached(&rig, "b"));
    cl_rig_close(&rig);
}

static void test_unwritable(void **state)
{
    cl_rig rig;
    char path[PATH_SIZE], inner[PATH_SIZE + 8];
    cl_rig_open(&rig);
    /* A folder that is a file: this hinders even root. */
    snprintf(path, sizeof path, "%s/opencl", rig.folder);
    write_file(path, "", 0);
    cl_cache_store(&rig.host, key_of("a"), content, sizeof content);
    assert_false(cached(&rig, "a"));
    assert_int_equal(unlink(path), 0);
    /* An entry that is a folder with something in it. */
    cl_cache_store(&rig.host, key_of("a"), content, sizeof content);
    cl_rig_entry(&rig, 1, path, sizeof path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(inner, sizeof inner, "%s/x", path);
    write_file(inner, "", 0);
    cl_cache_store(&rig.host, key_of("a"), content, sizeof content);
    assert_false(cached(&rig, "a"));
    cl_rig_entry(&rig, 1, path, sizeof path); /* and no temporary file */
    cl_rig_close(&rig);
}

/* Writing stops in the middle, as on a full disk. */
static void test_full(void **state)
{
    cl_rig rig;
    char path[PATH_SIZE];
    struct rlimit before, limit;
    cl_rig_open(&rig);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 50;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cl_cache_store(&rig.host, key_of("a"), content, sizeof content);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_false(cached(&rig, "a"));
    cl_rig_entry(&rig, 0, path, sizeof path);
    cl_cache_store(&rig.host, key_of("a"), content, sizeof content);
    assert_true(cached(&rig, "a"));
    cl_rig_close(&rig);
}

/* --- Programs of a device */

/* Compiles, and runs what was compiled. */
static void scale(cl_rig *rig, int times)
{
    gpu_variant variant = {.file = "scale.cl", .entry = "scale", .group = 16};
    float x[N];
    gpu_mem *mem;
    void *in_place;
    gpu_kernel *kernel;
    snprintf(variant.defines, sizeof variant.defines, "TIMES=%d", times);
    for (int i = 0; i < N; i++) x[i] = (float)i;
    assert_int_equal(cl_memory_alloc(rig->device, sizeof x, SOBRE_BUFFER_ARENA, &mem, &in_place),
                     SOBRE_OK);
    const gpu_arg args[] = {{GPU_ARG_MEM, {.mem = mem}}, {GPU_ARG_FLOAT, {.f = 0.5f}}};
    if (cl_kernel_make(rig->device, &variant, args, 2, &kernel) < 0) fail_msg("%s", rig->error);
    assert_int_equal(cl_memory_write(rig->device, mem, 0, x, sizeof x), SOBRE_OK);
    assert_int_equal(cl_launch(rig->device, kernel, N / 16, 1), SOBRE_OK);
    assert_int_equal(cl_memory_read(rig->device, mem, 0, x, sizeof x), SOBRE_OK);
    for (int i = 0; i < N; i++) assert_true(x[i] == (float)i * 0.5f * (float)times);
    cl_kernel_free(rig->device, kernel);
    cl_memory_free(rig->device, mem);
}

static void scale_anew(cl_rig *rig, int times)
{
    cl_device_open(&rig->host, rig->index, &rig->device);
    scale(rig, times);
    cl_rig_close_device(rig);
}

static ino_t inode(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return info.st_ino;
}

static void test_programs(void **state)
{
    cl_rig rig;
    char path[PATH_SIZE], other[PATH_SIZE];
    unsigned long long h[2];
    ino_t first;
    cl_hash key;
    void *data;
    size_t size;
    cl_rig_open(&rig);
    cl_rig_device(&rig);
    scale(&rig, 3);
    scale(&rig, 3); /* from the table */
    cl_rig_close_device(&rig);
    cl_rig_entry(&rig, 1, path, sizeof path);
    first = inode(path);
    scale_anew(&rig, 3); /* from the file, which stays */
    assert_true(inode(path) == first);
    scale_anew(&rig, 4); /* other options: another file */
    cl_rig_entry(&rig, 2, other, sizeof other);

    /* Damaged: replaced. */
    assert_int_equal(truncate(path, 100), 0);
    scale_anew(&rig, 3);
    assert_int_equal(sscanf(strrchr(path, '/') + 1, "%16llx%16llx", &h[0], &h[1]), 2);
    key = (cl_hash){{h[0], h[1]}};
    assert_true(cl_cache_load(&rig.host, key, &data, &size));
    rig.host.free(rig.host.context, data);
    assert_true(size > 100);

    /* Whole, but nothing that the driver takes: replaced too. */
    cl_cache_store(&rig.host, key, content, sizeof content);
    scale_anew(&rig, 3);
    assert_true(cl_cache_load(&rig.host, key, &data, &size));
    rig.host.free(rig.host.context, data);
    assert_true(size > sizeof content);
    cl_rig_close(&rig);
}

static void test_programs_without_folder(void **state)
{
    cl_rig rig;
    cl_rig_open(&rig);
    rig.host.cache_dir = "/dev/null/nowhere";
    cl_rig_device(&rig);
    scale(&rig, 3);
    cl_rig_close_device(&rig);
    rig.host.cache_dir = NULL;
    scale_anew(&rig, 3);
    cl_rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_store_and_load),
        cmocka_unit_test(test_no_folder),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_stale),
        cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_programs),
        cmocka_unit_test(test_programs_without_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
