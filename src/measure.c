/* SPDX-License-Identifier: MIT */
/* Measuring devices: chains of products with random weights, run as a model's would be. What was
 * measured is kept in a small text file, a device a line. */
#include "measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dtype.h"
#include "fit.h"
#include "plan.h"

/* --- What is kept. */

enum { NAME_SIZE = 160, MAX_FILE = 1 << 16, N_FIELDS = 8 };
static const char file_name[] = "measured.txt";

typedef struct measured {
    char backend[16];
    uint64_t kind, n_threads; /* threads of the CPU; 0 for other devices */
    sobre_measurement speed;
    char name[NAME_SIZE], detail[NAME_SIZE];
} measured;

typedef struct measured_list {
    int32_t n;
    measured items[MAX_MEASURED];
} measured_list;

/* A text that fits in a field. */
static void copy_field(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from ? from : "");
    for (char *c = to; *c; c++)
        if ((unsigned char)*c < 32) *c = ' ';
}

static measured describe(sobre_context *ctx, const sobre_device_info *info)
{
    measured m = {.kind = (uint64_t)info->kind};

    if (!strcmp(info->backend, "cpu")) m.n_threads = (uint64_t)context_n_threads(ctx);
    copy_field(m.backend, sizeof m.backend, info->backend);
    copy_field(m.name, sizeof m.name, info->name);
    copy_field(m.detail, sizeof m.detail, info->detail);
    return m;
}

static bool same_device(const measured *a, const measured *b)
{
    return a->kind == b->kind && a->n_threads == b->n_threads && !strcmp(a->backend, b->backend) &&
           !strcmp(a->name, b->name) && !strcmp(a->detail, b->detail);
}

/* A measurement of another version says nothing about this one's kernels. */
static int first_line(char *text, size_t size)
{
    return snprintf(text, size, "sobre %s\n", sobre_version());
}

static bool parse_number(const char *text, uint64_t *ret)
{
    enum { MAX_DIGITS = 18 };
    size_t n = strspn(text, "0123456789");

    if (n == 0 || n > MAX_DIGITS || text[n]) return false;
    *ret = strtoull(text, NULL, 10);
    return true;
}

/* Fields are separated by tabs; false: it is none of our lines. */
static bool parse_line(char *line, measured *ret)
{
    measured m = {.speed = SOBRE_INIT(measurement)};
    char *fields[N_FIELDS];

    for (int i = 0; i < N_FIELDS; i++) {
        fields[i] = line;
        line += strcspn(line, "\t");
        if (!*line != (i == N_FIELDS - 1)) return false;
        *line++ = 0;
    }
    if (!parse_number(fields[1], &m.kind) || !parse_number(fields[2], &m.n_threads) ||
        !parse_number(fields[3], &m.speed.bytes_per_s) ||
        !parse_number(fields[4], &m.speed.ns_per_launch) ||
        !parse_number(fields[5], &m.speed.flop_per_s) || !m.speed.bytes_per_s)
        return false;
    copy_field(m.backend, sizeof m.backend, fields[0]);
    copy_field(m.name, sizeof m.name, fields[6]);
    copy_field(m.detail, sizeof m.detail, fields[7]);
    *ret = m;
    return true;
}

/* The file as text, NULL if there is none that can be read; to be freed. */
static char *read_text(sobre_context *ctx, const char *path)
{
    os_file file;
    uint64_t size = 0;
    char *text = NULL;

    if (!os_file_open(path, &file)) return NULL;
    if (os_file_size(file, &size) && size < MAX_FILE) text = mem_alloc(ctx, 1, (size_t)size + 1);
    if (text && !os_file_read_at(file, 0, text, (size_t)size)) text[0] = 0;
    os_file_close(file);
    return text;
}

static char *file_path(sobre_context *ctx)
{
    const char *folder = context_host(ctx)->cache_dir;
    size_t size = folder ? strlen(folder) + sizeof file_name + 1 : 0;
    char *path = folder ? mem_alloc(ctx, 1, size) : NULL;

    if (path) snprintf(path, size, "%s/%s", folder, file_name);
    return path;
}

/* What is damaged counts as not measured. */
static void read_list(sobre_context *ctx, const char *path, measured_list *ret_list)
{
    char first[64], *text = read_text(ctx, path), *line = text;
    size_t n_first = (size_t)first_line(first, sizeof first);

    ret_list->n = 0;
    if (text && !strncmp(text, first, n_first))
        for (line += n_first; *line && ret_list->n < MAX_MEASURED;) {
            size_t n = strcspn(line, "\n");
            bool last = !line[n];

            line[n] = 0;
            ret_list->n += parse_line(line, &ret_list->items[ret_list->n]);
            line += n + !last;
        }
    mem_free(ctx, text);
}

/* Failing to keep a measurement does no harm but that it is made again. */
static sobre_status write_list(sobre_context *ctx, const char *path, const measured_list *list)
{
    char *text = mem_alloc(ctx, 1, MAX_FILE), error[128];
    size_t at;

    if (!text) return SOBRE_OUT_OF_MEMORY;
    at = (size_t)first_line(text, MAX_FILE);
    for (int32_t i = 0; i < list->n; i++) { /* a line is shorter than MAX_FILE / MAX_MEASURED */
        const measured *m = &list->items[i];

        at += (size_t)snprintf(
            text + at, MAX_FILE - at, "%s\t%llu\t%llu\t%llu\t%llu\t%llu\t%s\t%s\n", m->backend,
            (unsigned long long)m->kind, (unsigned long long)m->n_threads,
            (unsigned long long)m->speed.bytes_per_s, (unsigned long long)m->speed.ns_per_launch,
            (unsigned long long)m->speed.flop_per_s, m->name, m->detail);
    }
    if (!os_file_replace(path, text, at))
        log_write(ctx, SOBRE_LOG_WARNING, "%s: what was measured cannot be kept: %s", path,
                  os_error_text(error, sizeof error));
    mem_free(ctx, text);
    return SOBRE_OK;
}

/* Adds a measurement, or puts it in an older one's place. */
static sobre_status keep(sobre_context *ctx, const measured *m)
{
    measured_list *list;
    char *path = file_path(ctx);
    sobre_status status;
    int32_t at = 0;

    if (!path) return context_host(ctx)->cache_dir ? SOBRE_OUT_OF_MEMORY : SOBRE_OK;
    list = mem_alloc(ctx, 1, sizeof *list);
    if (!list) {
        mem_free(ctx, path);
        return SOBRE_OUT_OF_MEMORY;
    }
    read_list(ctx, path, list);
    while (at < list->n && !same_device(&list->items[at], m)) at++;
    if (at == list->n && list->n == MAX_MEASURED) at = 0;
    if (at < list->n) { /* the newest comes last */
        memmove(&list->items[at], &list->items[at + 1],
                (size_t)(list->n - at - 1) * sizeof *list->items);
        list->n--;
    }
    list->items[list->n++] = *m;
    status = write_list(ctx, path, list);
    mem_free(ctx, list);
    mem_free(ctx, path);
    return status;
}

/* --- Choosing. */

double measured_seconds(const sobre_measurement *speed, uint64_t weight_bytes, int32_t n_nodes)
{
    return (double)weight_bytes / (double)speed->bytes_per_s +
           n_nodes * 1e-9 * (double)speed->ns_per_launch;
}

/* The number of the device that was measured, 0 if it is not here or cannot be used. */
static int32_t find_device(sobre_context *ctx, const measured *m)
{
    int32_t n = 0, device;
    const sobre_device_info *info;

    if (sobre_device_count(ctx, m->backend, &n) < 0) return 0;
    for (int32_t i = 0; i < n; i++) {
        if (sobre_device_get(ctx, m->backend, i, &device, &info) < 0 || info->reason) continue;
        measured here = describe(ctx, info);
        if (same_device(&here, m)) return device;
    }
    return 0;
}

/* As it is used here; else with other threads or instructions, which is near enough. */
static const measured *find_cpu(sobre_context *ctx, const measured_list *list)
{
    const sobre_device_info *info;
    const measured *found = NULL;

    if (sobre_device_get(ctx, "cpu", 0, NULL, &info) < 0) return NULL;
    measured here = describe(ctx, info);
    for (int32_t i = 0; i < list->n; i++) {
        const measured *m = &list->items[i];

        if (same_device(m, &here)) return m;
        if (!strcmp(m->backend, here.backend) && !strcmp(m->name, here.name)) found = m;
    }
    return found;
}

static int by_seconds(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static int32_t choose(sobre_context *ctx, const measured_list *list, uint64_t weight_bytes,
                      int32_t n_nodes, measured_device ret_devices[MAX_MEASURED])
{
    struct {
        double seconds; /* first, for by_seconds() */
        measured_device device;
    } found[MAX_MEASURED];
    const measured *cpu = find_cpu(ctx, list);
    int32_t n = 0;

    if (!cpu) return 0;
    double limit = measured_seconds(&cpu->speed, weight_bytes, n_nodes);
    for (int32_t i = 0; i < list->n; i++) {
        const measured *m = &list->items[i];
        double seconds = measured_seconds(&m->speed, weight_bytes, n_nodes);

        /* A CPU by another way is used only when it is named. */
        if (m->kind == SOBRE_DEVICE_CPU || seconds >= limit) continue;
        found[n].seconds = seconds;
        found[n].device = (measured_device){find_device(ctx, m), m->speed};
        n += found[n].device.device != 0;
    }
    qsort(found, (size_t)n, sizeof *found, by_seconds);
    for (int32_t i = 0; i < n; i++) ret_devices[i] = found[i].device;
    ret_devices[n] = (measured_device){1, cpu->speed};
    return n + 1;
}

sobre_status measured_devices(sobre_context *ctx, uint64_t weight_bytes, int32_t n_nodes,
                              measured_device ret_devices[MAX_MEASURED], int32_t *ret_n)
{
    measured_list *list;
    char *path = file_path(ctx);

    *ret_n = 0;
    if (!path) return context_host(ctx)->cache_dir ? SOBRE_OUT_OF_MEMORY : SOBRE_OK;
    list = mem_alloc(ctx, 1, sizeof *list);
    if (list) {
        read_list(ctx, path, list);
        *ret_n = choose(ctx, list, weight_bytes, n_nodes, ret_devices);
    }
    mem_free(ctx, list);
    mem_free(ctx, path);
    return list ? SOBRE_OK : SOBRE_OUT_OF_MEMORY;
}

/* --- Measuring. */

/* Chains of square products of Q4_0. */
typedef struct chain {
    int32_t n_products, width, n_cols;
} chain;

static const chain stream_chain = {14, 2048, 1};  /* 33 MB of weights, for one token */
static const chain launch_chain = {32, 64, 1};    /* next to nothing to do, many times */
static const chain prefill_chain = {2, 2048, 64}; /* the same weights for many tokens */
enum { MAX_COLS = 64, MAX_RUNS = 9, BLOCK = 32, BLOCK_SIZE = 18, PACK_ROWS = 256 };

typedef struct rig {
    sobre_context *ctx;
    device_set devices;
    sobre_graph *graph, *fused;
    sobre_span *spans; /* [n_values] of the fused graph */
    uint8_t *data;     /* [PACK_ROWS, width] of Q4_0, for every weight */
    float *x;          /* [n_cols, width] */
    plan *plan;
    uint64_t weight_bytes; /* packed */
} rig;

static const sobre_backend *backend_of(const rig *r)
{
    return r->devices.entries[0]->backend;
}

static sobre_status build(rig *r, const chain *c)
{
    const int64_t dims[] = {c->width, c->width};
    sobre_node node = {.op = SOBRE_OP_MATMUL,
                       .n_in = SOBRE_MATMUL_W0 + 1,
                       .in = {-1, -1, -1, -1, -1},
                       .p.matmul.n_weights = 1};

    TRY(sobre_graph_open(r->ctx, &r->graph));
    int32_t x = sobre_graph_input(r->graph, SOBRE_INPUT_EMBD, c->width);
    for (int32_t i = 0; i < c->n_products; i++) {
        char name[32];

        snprintf(name, sizeof name, "measured.%d", (int)i);
        node.in[SOBRE_MATMUL_X] = x;
        node.in[SOBRE_MATMUL_W0] = sobre_graph_weight(r->graph, name, SOBRE_Q4_0, 2, dims, -1);
        x = sobre_graph_node(r->graph, &node, NULL);
    }
    sobre_graph_output(r->graph, x, "y");
    TRY(sobre_graph_check(r->graph));
    return graph_for_devices(r->graph, &r->devices, &r->fused);
}

/* Random weights of which a product keeps the size of its input, so that none overflows. */
static sobre_status make_data(rig *r, const chain *c)
{
    const size_t n_blocks = (size_t)PACK_ROWS * (size_t)c->width / BLOCK;
    uint16_t scale = f32_to_f16(c->width > 1000 ? 0.005f : 0.025f);
    uint32_t random = 1;

    r->data = mem_alloc(r->ctx, n_blocks, BLOCK_SIZE);
    r->x = mem_alloc(r->ctx, (size_t)c->n_cols * (size_t)c->width, sizeof *r->x);
    if (!r->data || !r->x) return SOBRE_OUT_OF_MEMORY;
    for (size_t i = 0; i < n_blocks * BLOCK_SIZE; i++) {
        random = random * 1664525u + 1013904223u;
        r->data[i] = (uint8_t)(random >> 24);
    }
    for (size_t i = 0; i < n_blocks; i++)
        memcpy(r->data + i * BLOCK_SIZE, &scale, sizeof scale); /* each begins with it */
    for (int32_t i = 0; i < c->n_cols * c->width; i++) r->x[i] = i % 2 ? 1.0f : -1.0f;
    return SOBRE_OK;
}

static sobre_status load_weight(rig *r, const sobre_value *v, sobre_span *span)
{
    const sobre_backend *b = backend_of(r);
    sobre_device *device = r->devices.entries[0]->device;
    const sobre_weight w = {.name = v->name,
                            .dtype = v->dtype,
                            .uses = SOBRE_WEIGHT_MATMUL,
                            .n_rows = v->dims[0],
                            .n_cols = v->dims[1]};

    TRY(b->weight_size(device, &w, &span->size));
    TRY(b->buffer_alloc(device, span->size, SOBRE_BUFFER_WEIGHTS, &span->buffer));
    r->weight_bytes += span->size;
    for (int64_t row = 0; row < w.n_rows; row += PACK_ROWS)
        TRY(b->weight_pack(device, &w, span, row,
                           w.n_rows - row < PACK_ROWS ? w.n_rows - row : PACK_ROWS, r->data));
    return SOBRE_OK;
}

static sobre_status prepare(rig *r, const chain *c)
{
    const plan_options o = {.devices = &r->devices,
                            .n_cols = c->n_cols,
                            .n_seq = 1,
                            .n_pages = MAX_COLS / SOBRE_KV_PAGE};
    plan_options with_weights = o;

    TRY(build(r, c));
    TRY(make_data(r, c));
    r->spans = mem_alloc(r->ctx, (size_t)r->fused->n_values, sizeof *r->spans);
    if (!r->spans) return SOBRE_OUT_OF_MEMORY;
    for (int32_t v = 0; v < r->fused->n_values; v++)
        if (r->fused->values[v].kind == SOBRE_VALUE_WEIGHT)
            TRY(load_weight(r, &r->fused->values[v], &r->spans[v]));
    with_weights.weights = r->spans;
    return plan_make(r->ctx, r->fused, &with_weights, &r->plan);
}

static void drop(rig *r)
{
    plan_free(r->plan);
    for (int32_t v = 0; r->spans && v < r->fused->n_values; v++)
        if (r->spans[v].buffer) backend_of(r)->buffer_free(r->spans[v].buffer);
    mem_free(r->ctx, r->spans);
    mem_free(r->ctx, r->data);
    mem_free(r->ctx, r->x);
    sobre_graph_close(r->fused);
    sobre_graph_close(r->graph);
}

static int never(const void *user)
{
    return 0;
}

static int by_number(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* The median time of runs after the first, of as many as go into a tenth of a second. */
static sobre_status time_runs(rig *r, const chain *c, uint64_t *ret_ns)
{
    const uint64_t budget_ns = 100 * 1000000, long_ns = 500 * 1000000;
    const int32_t pages[MAX_COLS / SOBRE_KV_PAGE] = {0};
    const sobre_run_seq seq = {.n_cols = c->n_cols, .pages = pages};
    const exec_batch batch = {
        .n_cols = c->n_cols, .n_seqs = 1, .embd = r->x, .seqs = &seq, .cancelled = never};
    uint64_t ns[MAX_RUNS], sum = 0;
    int n = 0;

    for (int run = 0; run <= MAX_RUNS && sum < budget_ns; run++) {
        const uint64_t start = os_now_ns();

        TRY(exec_run(r->plan, &batch, NULL));
        ns[n] = os_now_ns() - start;
        /* Caches and clocks warm up in the first one, which matters little where it is long. */
        if (run > 0 || ns[n] > long_ns) sum += ns[n++];
    }
    qsort(ns, (size_t)n, sizeof *ns, by_number);
    *ret_ns =
        ns[n / 2] ? ns[n / 2] : 1; /* a clock can be too coarse for a device that does nothing */
    return SOBRE_OK;
}

static sobre_status measure_chain(sobre_context *ctx, const device_entry *e, const chain *c,
                                  uint64_t *ret_ns, uint64_t *ret_bytes)
{
    rig r = {.ctx = ctx, .devices = {.entries = {e}, .n = 1}};
    sobre_status status = prepare(&r, c);

    if (status >= 0) status = time_runs(&r, c, ret_ns);
    if (status >= 0) *ret_bytes = r.weight_bytes;
    drop(&r);
    return status;
}

static sobre_status measure(sobre_context *ctx, const device_entry *e, sobre_measurement *ret)
{
    const chain *p = &prefill_chain;
    const double flop = 2.0 * p->n_products * p->width * p->width * p->n_cols;
    uint64_t launch_ns, stream_ns, prefill_ns, bytes, unused;

    TRY(measure_chain(ctx, e, &launch_chain, &launch_ns, &unused));
    TRY(measure_chain(ctx, e, &stream_chain, &stream_ns, &bytes));
    TRY(measure_chain(ctx, e, p, &prefill_ns, &unused));
    uint64_t each = launch_ns / (uint64_t)launch_chain.n_products;
    uint64_t launches = each * (uint64_t)stream_chain.n_products;
    /* Where launches are all there is, their share cannot be told apart. */
    uint64_t stream = stream_ns > 2 * launches ? stream_ns - launches : (stream_ns + 1) / 2;
    *ret = (sobre_measurement){.bytes_per_s = (uint64_t)((double)bytes * 1e9 / (double)stream),
                               .ns_per_launch = each,
                               .flop_per_s = (uint64_t)(flop * 1e9 / (double)prefill_ns)};
    return SOBRE_OK;
}

sobre_status sobre_device_measure(sobre_context *context, int32_t device,
                                  sobre_measurement *ret_measurement)
{
    const device_entry *e;
    sobre_measurement speed;
    measured m;
    size_t size;

    if (!context) return SOBRE_INVALID_ARGUMENT;
    if (!ret_measurement || ret_measurement->struct_size < sizeof(size_t))
        return fail(context, SOBRE_INVALID_ARGUMENT, "sobre_measurement.struct_size is not set");
    TRY(device_use(context, device, &e));
    TRY(measure(context, e, &speed));
    m = describe(context, &e->info);
    m.speed = speed;
    TRY(keep(context, &m));
    size = ret_measurement->struct_size;
    speed.struct_size = size;
    memcpy(ret_measurement, &speed, size < sizeof speed ? size : sizeof speed);
    return SOBRE_OK;
}
