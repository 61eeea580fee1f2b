/* SPDX-License-Identifier: MIT */
/* The operating system layer: files, memory, threads, CPUs, events. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "os.h"

#ifndef _WIN32
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

enum { FILE_SIZE = 100000 };

static unsigned char byte_at(size_t i)
{
    return (unsigned char)(i * 31 + (i >> 8));
}

/* A temporary file of FILE_SIZE known bytes. */
static int make_file(void **state)
{
    char *path = malloc(64);
    FILE *file;
    snprintf(path, 64, "test_os_%llu.tmp", (unsigned long long)os_process_id());
    file = fopen(path, "wb");
    if (!file) return -1;
    for (size_t i = 0; i < FILE_SIZE; i++) fputc(byte_at(i), file);
    fclose(file);
    *state = path;
    return 0;
}

static int drop_file(void **state)
{
    remove(*state);
    free(*state);
    return 0;
}

static void test_file_read(void **state)
{
    os_file file;
    uint64_t size = 0;
    unsigned char buffer[1000];
    char text[128];
    const void *data = NULL;

    assert_true(os_file_open(*state, &file));
    assert_true(os_file_size(file, &size));
    assert_int_equal(size, FILE_SIZE);
    os_file_will_need(file, 0, size);
    assert_true(os_file_read_at(file, FILE_SIZE - sizeof buffer, buffer, sizeof buffer));
    for (size_t i = 0; i < sizeof buffer; i++)
        assert_int_equal(buffer[i], byte_at(FILE_SIZE - sizeof buffer + i));
    assert_true(os_file_read_at(file, FILE_SIZE, buffer, 0));

    assert_false(os_file_read_at(file, FILE_SIZE - 999, buffer, sizeof buffer));
    assert_string_equal(os_error_text(text, sizeof text), "the file ends too early");
    assert_false(os_file_read_at(file, UINT64_MAX - 10, buffer, sizeof buffer));
    assert_true(strlen(os_error_text(text, sizeof text)) > 0);

    assert_true(os_file_map(file, size, &data));
    for (size_t i = 0; i < FILE_SIZE; i += 997)
        assert_int_equal(((const unsigned char *)data)[i], byte_at(i));
    os_file_unmap(data, size);
    os_file_close(file);
}

static void test_file_replace(void **state)
{
    char path[96], folder[64];
    unsigned char read[3];
    os_file file;
    uint64_t size;

    snprintf(folder, sizeof folder, "test_os_%llu.d", (unsigned long long)os_process_id());
    snprintf(path, sizeof path, "%s/file", folder);
    assert_true(os_file_replace(path, "first", 5)); /* the folder is made */
    assert_true(os_file_replace(path, "two", 3));
    assert_true(os_file_open(path, &file));
    assert_true(os_file_size(file, &size));
    assert_int_equal(size, 3);
    assert_true(os_file_read_at(file, 0, read, 3));
    assert_memory_equal(read, "two", 3);
    os_file_close(file);
    assert_int_equal(remove(path), 0);
    assert_int_equal(remove(folder), 0); /* nothing else is left in it */

    snprintf(path, sizeof path, "%s/file", (const char *)*state); /* "folder" is a file */
    assert_false(os_file_replace(path, "two", 3));
    assert_false(os_file_replace("", "two", 3));
}

static void test_file_refused(void **state)
{
    os_file file = {12345};
    char text[128];

    assert_false(os_file_open("no such file", &file));
    assert_true(strlen(os_error_text(text, sizeof text)) > 0);
    assert_false(os_file_open(".", &file));
    assert_true(strlen(os_error_text(text, sizeof text)) > 0);
    assert_int_equal(file.handle, 12345);
#ifndef _WIN32
    assert_int_equal(mkfifo("test_os.fifo", 0600), 0);
    assert_false(os_file_open("test_os.fifo", &file)); /* and does not wait for a writer */
    assert_string_equal(os_error_text(text, sizeof text), "not a regular file");
    unlink("test_os.fifo");
    assert_false(os_file_open("/dev/null", &file));
    assert_string_equal(os_error_text(text, sizeof text), "not a regular file");
#endif
}

static void test_error_text_is_cut(void **state)
{
    os_file file;
    char text[5] = "abcd";
    assert_false(os_file_open("no such file", &file));
    assert_true(strlen(os_error_text(text, sizeof text)) == 4);
    assert_string_equal(os_error_text(text, 0), "");
}

static void test_pages(void **state)
{
    static const size_t sizes[] = {1, 4096, 12345, 2 << 20, (5 << 20) + 3};
    for (size_t i = 0; i < 2 * (sizeof sizes / sizeof *sizes); i++) {
        const size_t size = sizes[i / 2];
        unsigned char *pages = os_pages_alloc(size, i % 2);
        assert_non_null(pages);
        assert_int_equal((uintptr_t)pages % 4096, 0);
        if (i % 2 && size >= 2 << 20) assert_int_equal((uintptr_t)pages % (2 << 20), 0);
        for (size_t k = 0; k < size; k += 1000) assert_int_equal(pages[k], 0);
        memset(pages, 0xa5, size);
        os_pages_free(pages, size);
    }
    os_pages_free(NULL, 1);
    assert_null(os_pages_alloc(SIZE_MAX, true));
    assert_null(os_pages_alloc(SIZE_MAX - 4096, false));
}

static void test_aligned(void **state)
{
    for (size_t align = 1; align <= 4096; align *= 2) {
        unsigned char *ptr = os_aligned_alloc(100, align);
        assert_non_null(ptr);
        assert_int_equal((uintptr_t)ptr % align, 0);
        memset(ptr, 1, 100);
        os_aligned_free(ptr);
    }
    os_aligned_free(NULL);
}

static void test_memory_info(void **state)
{
    uint64_t total = 1, available = 1;
    os_memory_info(&total, &available);
    assert_true(total > 16u << 20);
    assert_true(available > 0 && available <= total);
}

static void test_clock(void **state)
{
    const uint64_t start = os_now_ns();
    atomic_uint word = 1;
    os_word_wait(&word, 0); /* the word differs: returns at once */
    assert_true(os_now_ns() >= start);
}

typedef struct counter {
    os_mutex mutex;
    os_cond cond;
    int n_started, total;
    bool go;
    atomic_uint word;
    uint64_t ids[4];
} counter;

static void count(void *arg)
{
    counter *c = arg;
    os_mutex_lock(&c->mutex);
    c->ids[c->n_started++] = os_thread_id();
    os_cond_broadcast(&c->cond);
    while (!c->go) os_cond_wait(&c->cond, &c->mutex);
    os_mutex_unlock(&c->mutex);
    for (int i = 0; i < 1000; i++) {
        os_mutex_lock(&c->mutex);
        c->total++;
        os_mutex_unlock(&c->mutex);
    }
    while (atomic_load(&c->word) == 0) os_word_wait(&c->word, 0);
}

static void test_threads(void **state)
{
    counter c = {0};
    os_thread *threads[4];
    assert_true(os_mutex_init(&c.mutex));
    assert_true(os_cond_init(&c.cond));
    for (int i = 0; i < 4; i++) assert_non_null(threads[i] = os_thread_start(count, &c));
    os_mutex_lock(&c.mutex);
    while (c.n_started < 4) os_cond_wait(&c.cond, &c.mutex);
    c.go = true;
    os_cond_broadcast(&c.cond);
    os_mutex_unlock(&c.mutex);
    atomic_store(&c.word, 1);
    os_word_wake_all(&c.word);
    for (int i = 0; i < 4; i++) os_thread_join(threads[i]);
    assert_int_equal(c.total, 4000);
    for (int i = 0; i < 4; i++) {
        assert_true(c.ids[i] != 0 && c.ids[i] != os_thread_id());
        for (int k = 0; k < i; k++) assert_true(c.ids[i] != c.ids[k]);
    }
    os_cond_destroy(&c.cond);
    os_mutex_destroy(&c.mutex);
}

static void test_cpus(void **state)
{
    int cpus[1024], n_cores = 0;
    const int n = os_cpus(cpus, 1024, &n_cores);
    assert_true(n >= 1 && n_cores >= 1 && n_cores <= n);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++) {
            assert_int_not_equal(cpus[i], cpus[k]);
            if (i < n_cores) assert_int_not_equal(os_cpu_core(cpus[i]), os_cpu_core(cpus[k]));
        }
    const int n_fast = os_fast_cores(cpus, n_cores);
    assert_in_range(n_fast, 1, n_cores);
    assert_int_equal(os_fast_cores(cpus, 1), 1);
    static const int missing[] = {-1, 1 << 30};
    for (int i = 0; i < 2; i++) assert_false(os_thread_confine(NULL, &missing[i], 1));
    assert_true(os_cpu_now() >= -1);
    assert_int_equal(os_cpus(cpus, 1, &n_cores), 1);
    assert_int_equal(n_cores, 1);
}

static void pin_self(void *arg)
{
    const int *cpu = arg;
    int cpus[4], n_cores;
    if (!os_thread_confine(NULL, cpu, 1)) return;
#ifdef __linux__
    assert_int_equal(os_cpus(cpus, 4, &n_cores), 1);
    assert_int_equal(cpus[0], *cpu);
    assert_int_equal(os_cpu_now(), *cpu);
#else
    (void)cpus, (void)n_cores;
#endif
}

static void test_pin(void **state)
{
    int cpus[64], n_cores;
    const int n = os_cpus(cpus, 64, &n_cores);
    os_thread *thread = os_thread_start(pin_self, &cpus[n - 1]);
    assert_non_null(thread);
    os_thread_join(thread);
}

static void raise_later(void *arg)
{
    const uint64_t start = os_now_ns();
    while (os_now_ns() - start < 20000000) continue;
    os_event_raise(arg);
}

static void test_event(void **state)
{
    os_event event;
    os_thread *thread;
    assert_true(os_event_init(&event));
    assert_false(os_event_wait(&event, 0));
    assert_false(os_event_wait(&event, 5));
    for (int i = 0; i < 100; i++) os_event_raise(&event);
    assert_true(os_event_wait(&event, 0));
    assert_true(os_event_wait(&event, -1)); /* waiting does not clear */
    os_event_clear(&event);
    assert_false(os_event_wait(&event, 0));
    os_event_clear(&event); /* nor does clearing wait */
    thread = os_thread_start(raise_later, &event);
    assert_true(os_event_wait(&event, -1));
    os_thread_join(thread);
    os_event_destroy(&event);
}

#ifndef _WIN32
static os_event *signal_event;

static void on_alarm(int sig)
{
    os_event_raise(signal_event);
}

/* A handler raises the event in the middle of its own thread's wait, and errno survives it. */
static void test_event_in_handler(void **state)
{
    os_event event;
    struct sigaction action = {.sa_handler = on_alarm}, before;
    struct pollfd fd = {.events = POLLIN};
    assert_true(os_event_init(&event));
    signal_event = &event;
    sigaction(SIGALRM, &action, &before);
    errno = ERANGE;
    raise(SIGALRM);
    assert_int_equal(errno, ERANGE);
    fd.fd = os_event_fd(&event);
    assert_int_equal(poll(&fd, 1, 0), 1);
    os_event_clear(&event);
    assert_int_equal(poll(&fd, 1, 0), 0);
    ualarm(20000, 0);
    assert_true(os_event_wait(&event, 10000));
    sigaction(SIGALRM, &before, NULL);
    os_event_destroy(&event);
}

static void test_library(void **state)
{
    char text[256];
    void *library = os_library_open("libm.so.6");
    assert_null(os_library_open("libno-such-library.so"));
    assert_non_null(strstr(os_error_text(text, sizeof text), "libno-such-library"));
    if (!library) {
        print_message("SKIP: no libm.so.6 on this system\n");
        skip();
    }
    assert_non_null(os_library_symbol(library, "cos"));
    assert_null(os_library_symbol(library, "no_such_symbol"));
    os_library_close(library);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_read),
        cmocka_unit_test(test_file_replace),
        cmocka_unit_test(test_file_refused),
        cmocka_unit_test(test_error_text_is_cut),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_aligned),
        cmocka_unit_test(test_memory_info),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_cpus),
        cmocka_unit_test(test_pin),
        cmocka_unit_test(test_event),
#ifndef _WIN32
        cmocka_unit_test(test_event_in_handler),
        cmocka_unit_test(test_library),
#endif
    };
    return cmocka_run_group_tests(tests, make_file, drop_file);
}
