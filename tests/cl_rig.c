/* SPDX-License-Identifier: MIT */
/* The OpenCL driver without the rest of the library: see cl_rig.h. */
#include "cl_rig.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void *rig_alloc(sobre_context *context, size_t size, size_t align)
{
    cl_rig *rig = (cl_rig *)context;
    void *ptr = os_aligned_alloc(size, align);
    assert_non_null(ptr);
    memset(ptr, 0, size);
    atomic_fetch_add(&rig->n_held, 1);
    return ptr;
}

static void rig_free(sobre_context *context, void *ptr)
{
    cl_rig *rig = (cl_rig *)context;
    if (ptr) atomic_fetch_sub(&rig->n_held, 1);
    os_aligned_free(ptr);
}

static void rig_log(sobre_context *context, sobre_log_level level, const char *format, ...)
{
}

static sobre_status rig_fail(sobre_context *context, sobre_status status, const char *format, ...)
{
    cl_rig *rig = (cl_rig *)context;
    va_list args;
    va_start(args, format);
    vsnprintf(rig->error, sizeof rig->error, format, args);
    va_end(args);
    return status;
}

/* Every text is as good as any: these tests read none. */
static const char *rig_text(sobre_context *context, const char *text)
{
    return text[0] ? "text" : "";
}

void cl_rig_open(cl_rig *rig)
{
    memset(rig, 0, sizeof *rig);
    rig->host = (sobre_host){.struct_size = sizeof rig->host,
                             .context = (sobre_context *)rig,
                             .alloc = rig_alloc,
                             .free = rig_free,
                             .log = rig_log,
                             .fail = rig_fail,
                             .text = rig_text,
                             .blas = SOBRE_BLAS_NEVER};
    strcpy(rig->folder, "/tmp/sobre-test-XXXXXX");
    assert_non_null(mkdtemp(rig->folder));
    rig->host.cache_dir = rig->folder;
}

void cl_rig_device(cl_rig *rig)
{
    int32_t n = 0;
    assert_int_equal(cl_device_count(&rig->host, &n), SOBRE_OK);
    for (rig->index = 0; rig->index < n; rig->index++) {
        sobre_device_info info = SOBRE_INIT(device_info);
        assert_int_equal(cl_device_describe(&rig->host, rig->index, &info), SOBRE_OK);
        if (!info.reason) break;
    }
    if (rig->index == n) {
        print_message("SKIP: no OpenCL device can be used here (%d found)\n", (int)n);
        cl_rig_close(rig);
        skip();
    }
    if (cl_device_open(&rig->host, rig->index, &rig->device) < 0) fail_msg("%s", rig->error);
}

void cl_rig_close_device(cl_rig *rig)
{
    cl_device_close(rig->device);
    rig->device = NULL;
}

static void remove_all(const char *path)
{
    struct stat info;
    DIR *dir;
    if (lstat(path, &info) != 0) return;
    dir = S_ISDIR(info.st_mode) ? opendir(path) : NULL;
    if (!dir) {
        unlink(path);
        return;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        char below[4096];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(below, sizeof below, "%s/%s", path, e->d_name);
        remove_all(below);
    }
    closedir(dir);
    rmdir(path);
}

void cl_rig_close(cl_rig *rig)
{
    cl_rig_close_device(rig);
    assert_int_equal(atomic_load(&rig->n_held), 0);
    remove_all(rig->folder);
}

void cl_rig_entry(cl_rig *rig, int n, char *ret_path, size_t size)
{
    char folder[80];
    int found = 0;
    DIR *dir;
    snprintf(folder, sizeof folder, "%s/opencl", rig->folder);
    dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_name[0] == '.') continue;
        found++;
        snprintf(ret_path, size, "%s/%s", folder, e->d_name);
    }
    if (dir) closedir(dir);
    assert_int_equal(found, n);
}
