/* SPDX-License-Identifier: MIT */
/* Is kernels_cl/variants.tsv just what backends/gpu/ asks for? Programs of every shape class are
 * prepared by drivers that only listen: what they hear must be in the list, and each row of the
 * list must be heard of, where it says. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

#include "context.h"
#include "gpu.h"

#define COUNT(table) (int32_t)(sizeof(table) / sizeof((table)[0]))

enum { MAX_ROWS = 60 };

/* --- The list, and the driver that listens */

static struct row {
    char name[160]; /* "gemv.cl gemv 128 WTYPE=0 NC=1" */
    char where[16];
    uint32_t heard; /* a bit for each of wheres */
} rows[2 * MAX_ROWS];
static int32_t n_listed, n_rows; /* the first ones are the list's */

/* Kinds of devices: with neither flat memory nor a library for dense products; with that alone. */
static const char *const wheres[] = {"any", "flat", "library"};
enum { ANY, FLAT, LIBRARY };
static int here; /* which of them is listening */

/* Skips the head and comments. */
static void read_rows(void)
{
    FILE *f = fopen(KERNELS_DIR "/variants.tsv", "r");
    char line[512];
    bool head = true;
    if (!f) test_fail("cannot open %s", KERNELS_DIR "/variants.tsv");
    while (fgets(line, sizeof line, f)) {
        char *cells[5], *at = line;
        if (line[0] == '#') continue;
        if (head) {
            head = false;
            continue;
        }
        for (int i = 0; i < COUNT(cells); i++) {
            cells[i] = at;
            at = strchr(at, '\t');
            assert_non_null(at);
            *at++ = '\0';
        }
        assert_true(n_rows < MAX_ROWS); /* few enough to be compiled ahead, all of them */
        snprintf(rows[n_rows].name, sizeof rows->name, "%s %s %s %s", cells[0], cells[1], cells[2],
                 cells[3]);
        snprintf(rows[n_rows++].where, sizeof rows->where, "%s", cells[4]);
    }
    fclose(f);
    n_listed = n_rows;
}

static void hear(sobre_device *device, const gpu_variant *variant)
{
    char name[sizeof rows->name];
    snprintf(name, sizeof name, "%s %s %d %s", variant->file, variant->entry, (int)variant->group,
             variant->defines);
    for (int32_t i = 0; i < n_rows; i++) {
        if (strcmp(rows[i].name, name) == 0) {
            rows[i].heard |= 1u << here;
            return;
        }
    }
    assert_true(n_rows < COUNT(rows));
    print_error("not in variants.tsv: %s\n", name);
    memcpy(rows[n_rows++].name, name, sizeof name);
}

/* --- A library for dense products, which some devices have */

static bool blas_use(sobre_device *device)
{
    return true;
}

static sobre_status blas_work_size(sobre_device *device, const gpu_gemm *gemm, uint64_t *ret_size)
{
    *ret_size = 1000;
    return SOBRE_OK;
}

static sobre_status blas_gemm(sobre_device *device, const gpu_gemm *gemm)
{
    return SOBRE_OK;
}

static const gpu_driver drivers[] = {
    {.kernel_prepare = hear},
    {.kernel_prepare = hear,
     .blas_use = blas_use,
     .blas_work_size = blas_work_size,
     .blas_gemm = blas_gemm},
};

/* --- Graphs: each op, alone and with what it can be fused with */

typedef struct shape {
    sobre_dtype dtype;
    int32_t head_dim, n_head_kv, per_kv; /* query heads a KV head */
    sobre_kv_type kv;
} shape;

typedef struct maker {
    sobre_graph *g;
    const shape *s;
    int32_t n_weights;
} maker;

static int32_t vector(maker *m, int64_t n)
{
    return sobre_graph_weight(m->g, "vector", SOBRE_F32, 1, &n, m->n_weights++);
}

static int32_t matrix(maker *m, int64_t n_out, int64_t n_in)
{
    return sobre_graph_weight(m->g, "matrix", m->s->dtype, 2, (int64_t[]){n_out, n_in},
                              m->n_weights++);
}

/* Adds a node with these inputs; what is not said of it stands in `n`. */
#define NODE(m, n, ...)                        \
    node(m, n, (const int32_t[]){__VA_ARGS__}, \
         (int32_t)(sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t)))
static int32_t node(maker *m, sobre_node n, const int32_t *in, int32_t n_in)
{
    memcpy(n.in, in, (size_t)n_in * sizeof *in);
    n.n_in = n_in;
    return sobre_graph_node(m->g, &n, NULL);
}

static void make_rows(maker *m, int32_t x, int64_t n)
{
    static const sobre_op unary[] = {SOBRE_OP_ACTIVATION, SOBRE_OP_SCALE, SOBRE_OP_SOFTCAP};
    static const sobre_op binary[] = {SOBRE_OP_GLU, SOBRE_OP_ADD, SOBRE_OP_MUL};
    for (int i = 0; i < COUNT(unary); i++) {
        sobre_node one = {.op = unary[i], .p.factor = 2};
        if (unary[i] == SOBRE_OP_ACTIVATION) one.p.act = SOBRE_ACT_GELU_ERF;
        NODE(m, one, x);
    }
    for (int i = 0; i < COUNT(binary); i++) {
        sobre_node one = {.op = binary[i]};
        if (binary[i] == SOBRE_OP_GLU) one.p.act = SOBRE_ACT_SILU;
        NODE(m, one, x, x);
    }
    NODE(m, ((sobre_node){.op = SOBRE_OP_NORM, .p.norm = {SOBRE_NORM_RMS, 1e-5f}}), x,
         vector(m, n));
    NODE(m, ((sobre_node){.op = SOBRE_OP_NORM, .p.norm = {SOBRE_NORM_LAYER, 1e-5f}}), x,
         vector(m, n), vector(m, n));
}

static void make_products(maker *m, int32_t x, int64_t n)
{
    static const sobre_norm_kind norms[] = {SOBRE_NORM_NONE, SOBRE_NORM_RMS, SOBRE_NORM_LAYER};
    for (int i = 0; i < COUNT(norms); i++) {
        sobre_matmul_params p = {.norm = {norms[i], 1e-5f}};
        int32_t w = norms[i] ? vector(m, n) : -1, bias = norms[i] ? vector(m, n) : -1;
        for (p.n_weights = 1; p.n_weights <= 3; p.n_weights++) {
            int32_t w0 = matrix(m, n, n), w1 = p.n_weights > 1 ? matrix(m, 32, n) : -1;
            int32_t w2 = p.n_weights > 2 ? matrix(m, 32, n) : -1;
            NODE(m, ((sobre_node){.op = SOBRE_OP_MATMUL, .p.matmul = p}), x, w, bias,
                 p.n_weights == 1 ? x : -1, w0, vector(m, n), w1, -1, w2);
        }
        p.n_weights = 2;
        p.glu = SOBRE_ACT_SILU;
        NODE(m, ((sobre_node){.op = SOBRE_OP_MATMUL, .p.matmul = p}), x, w, bias, -1,
             matrix(m, 3 * n, n), -1, matrix(m, 3 * n, n));
    }
}

static void make_attention(maker *m, int32_t x, int64_t n, int32_t pos)
{
    const shape *s = m->s;
    sobre_matmul_params one = {.n_weights = 1};
    int64_t n_kv = (int64_t)s->n_head_kv * s->head_dim, n_q = n_kv * s->per_kv;
    int32_t q = NODE(m, ((sobre_node){.op = SOBRE_OP_MATMUL, .p.matmul = one}), x, -1, -1, -1,
                     matrix(m, n_q, n));
    int32_t k = NODE(m, ((sobre_node){.op = SOBRE_OP_MATMUL, .p.matmul = one}), x, -1, -1, -1,
                     matrix(m, n_kv, n));
    sobre_attention_params p = {.n_head = s->n_head_kv * s->per_kv,
                                .n_head_kv = s->n_head_kv,
                                .head_dim = s->head_dim,
                                .head_dim_v = s->head_dim,
                                .scale = 0.1f,
                                .causal = 1};
    sobre_rope_params rope = {SOBRE_ROPE_HALVES, s->head_dim, 10000, 1};
    NODE(m, ((sobre_node){.op = SOBRE_OP_ROPE, .p.rope = {rope, p.n_head, s->head_dim}}), q, pos);
    NODE(m, ((sobre_node){.op = SOBRE_OP_ATTENTION, .p.attention = p}), q);
    p.append = 1;
    NODE(m, ((sobre_node){.op = SOBRE_OP_ATTENTION, .p.attention = p}), q, k, k, pos);
    p.rope = rope;
    p.qk_norm = (sobre_norm_params){SOBRE_NORM_RMS, 1e-5f};
    p.window = 100;
    p.softcap = 30;
    p.max_alibi_bias = 8;
    NODE(m, ((sobre_node){.op = SOBRE_OP_ATTENTION, .p.attention = p}), q, k, k, pos, -1,
         vector(m, s->head_dim), vector(m, s->head_dim));
}

static void make_graph(maker *m)
{
    enum { N_EMBD = 1024 };
    sobre_matmul_params head = {.n_weights = 1};
    int32_t pos = sobre_graph_input(m->g, SOBRE_INPUT_POS, 0);
    int32_t x = NODE(m, ((sobre_node){.op = SOBRE_OP_EMBED, .p.factor = 1}),
                     sobre_graph_input(m->g, SOBRE_INPUT_IDS, 0), matrix(m, 4000, N_EMBD));
    make_rows(m, x, N_EMBD);
    make_products(m, x, N_EMBD);
    make_attention(m, x, N_EMBD, pos);
    x = NODE(m, ((sobre_node){.op = SOBRE_OP_GATHER}), x,
             sobre_graph_input(m->g, SOBRE_INPUT_ROWS, 0));
    x = NODE(m, ((sobre_node){.op = SOBRE_OP_MATMUL, .p.matmul = head}), x, -1, -1, -1,
             matrix(m, 4000, N_EMBD));
    NODE(m, ((sobre_node){.op = SOBRE_OP_ARGMAX}), x);
    NODE(m, ((sobre_node){.op = SOBRE_OP_SAMPLE}), x,
         sobre_graph_input(m->g, SOBRE_INPUT_SAMPLING, 0));
}

/* --- Programs of a graph */

static void prepare(sobre_context *ctx, sobre_device *device, const maker *m)
{
    static const struct {
        int32_t n_cols, n_rows, n_seq, n_pages;
    } bounds[] = {{1, 1, 1, 1},  {1, 1, 1, 2048}, {3, 1, 1, 4},    {4, 4, 4, 64},
                  {7, 1, 7, 64}, {9, 2, 1, 64},   {40, 40, 3, 64}, {600, 300, 2, 512}};
    int32_t n_values, n_all, n_nodes = 0;
    const sobre_value *values = sobre_graph_values(m->g, &n_values);
    const sobre_node *all = sobre_graph_nodes(m->g, &n_all);
    sobre_node *nodes = calloc((size_t)n_all, sizeof *nodes);
    sobre_span *spans = calloc((size_t)n_values, sizeof *spans);
    sobre_kv_slot slot = {.desc = {m->s->kv, m->s->n_head_kv, m->s->head_dim, m->s->head_dim}};
    bool paged = gpu_kv_page_size(device, &slot.desc, &slot.page_size) >= 0;
    for (int32_t i = 0; i < n_all; i++)
        if ((paged || all[i].op != SOBRE_OP_ATTENTION) && gpu_supports(device, values, &all[i]))
            nodes[n_nodes++] = all[i];
    for (int32_t i = 0; i < COUNT(bounds); i++) {
        sobre_program program = {.struct_size = sizeof program,
                                 .values = values,
                                 .n_values = n_values,
                                 .nodes = nodes,
                                 .n_nodes = n_nodes,
                                 .spans = spans,
                                 .n_cols = bounds[i].n_cols,
                                 .n_rows = bounds[i].n_rows,
                                 .n_seq = bounds[i].n_seq,
                                 .n_pages = bounds[i].n_pages,
                                 .kv_slots = &slot,
                                 .n_kv_slots = 1};
        uint64_t size;
        /* A walk that fails would end before the last nodes. */
        assert_ok(ctx, gpu_workspace_size(device, &program, &size));
        gpu_prepare(device, &program);
    }
    free(nodes);
    free(spans);
}

static void prepare_all(sobre_context *ctx, sobre_device *device)
{
    static const sobre_dtype dtypes[] = {SOBRE_Q4_0, SOBRE_Q4_1, SOBRE_Q8_0, SOBRE_F16, SOBRE_F32,
                                         SOBRE_BF16, SOBRE_Q5_0, SOBRE_Q4_K, SOBRE_Q6_K};
    static const int32_t dims[] = {32, 64, 80, 96, 128, 192, 256}, per_kv[] = {1, 3, 16};
    for (int32_t i = 0; i < COUNT(dtypes) * COUNT(dims) * COUNT(per_kv) * 2; i++) {
        int32_t n = i / 2;
        shape s = {.dtype = dtypes[n % COUNT(dtypes)],
                   .head_dim = dims[n / COUNT(dtypes) % COUNT(dims)],
                   .per_kv = per_kv[n / COUNT(dtypes) / COUNT(dims)],
                   .n_head_kv = 8,
                   .kv = i % 2 ? SOBRE_KV_F16 : SOBRE_KV_F32};
        maker m = {.s = &s};
        assert_ok(ctx, sobre_graph_open(ctx, &m.g));
        make_graph(&m);
        assert_ok(ctx, sobre_graph_check(m.g));
        prepare(ctx, device, &m);
        sobre_graph_close(m.g);
    }
}

static void test_list_is_what_is_asked_for(void **state)
{
    static const gpu_caps caps[] = {
        {.max_buffer = UINT32_MAX,
         .alignment = 128,
         .local_size = 32768,
         .max_group = 256,
         .n_units = 2,
         .flat_memory = true},
        {.max_buffer = UINT32_MAX,
         .alignment = 128,
         .local_size = 32768,
         .max_group = 256,
         .n_units = 2},
        {.max_buffer = UINT64_MAX,
         .alignment = 256,
         .local_size = 65536,
         .max_group = 1024,
         .n_units = 128},
    };
    /* Of backends/opencl/cl_blas.c, which judges the library by it. */
    static const gpu_variant probe = {.file = "probe.cl", .entry = "probe_fma", .group = 256};
    sobre_context *ctx;
    assert_ok(NULL, sobre_context_open(NULL, &ctx));
    read_rows();
    here = LIBRARY;
    hear(NULL, &probe);
    for (int32_t i = 0; i < COUNT(caps) * COUNT(drivers); i++) {
        sobre_device device = {context_host(ctx), &drivers[i % COUNT(drivers)],
                               caps[i / COUNT(drivers)]};
        here = device.driver->blas_use ? LIBRARY : device.caps.flat_memory ? FLAT : ANY;
        prepare_all(ctx, &device);
    }
    sobre_context_close(ctx);
    int32_t n_wrong = 0;
    for (int32_t i = 0; i < n_listed; i++) {
        int where = 0;
        while (where < COUNT(wheres) && !(rows[i].heard >> where & 1)) where++;
        const char *found = where < COUNT(wheres) ? wheres[where] : "nowhere";
        if (strcmp(rows[i].where, found) == 0) continue;
        print_error("in variants.tsv for %s, but asked for by %s: %s\n", rows[i].where, found,
                    rows[i].name);
        n_wrong++;
    }
    assert_int_equal(n_wrong, 0);
    assert_int_equal(n_rows, n_listed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_list_is_what_is_asked_for)};
    return cmocka_run_group_tests_name("variants", tests, NULL, NULL);
}
