/* SPDX-License-Identifier: MIT */
#include "conf.h"

#include "conf_unsupported.h"
#include "ops.h"
#include "os.h"

/* Is a line about a backend about this device? */
static bool is_about(const conf *c, const char *backend)
{
    const char *mine = c->device->backend;
    if (!strcmp(backend, "gpu")) return !strcmp(mine, "opencl") || !strcmp(mine, "cuda");
    return !strcmp(backend, mine);
}

/* Is line i of the list about this device and these cases? */
static bool is_ours(const conf *c, size_t i)
{
    return is_about(c, conf_unsupported[i].backend) && !strcmp(conf_unsupported[i].group, c->group);
}

/* A star in a pattern stands for any text. */
static bool matches(const char *pattern, const char *name)
{
    for (; *pattern != '*'; pattern++, name++)
        if (*pattern != *name || !*name) return *pattern == *name;
    for (;; name++) {
        if (matches(pattern + 1, name)) return true;
        if (!*name) return false;
    }
}

/* Is the running case on the list? */
static bool is_listed(conf *c)
{
    bool listed = false;
    for (size_t i = 0; conf_unsupported[i].backend; i++) {
        if (!is_ours(c, i) || !matches(conf_unsupported[i].cases, c->name)) continue;
        c->lines_met |= 1ull << i;
        listed = true;
    }
    return listed;
}

void conf_check_list(const conf *c)
{
    for (size_t i = 0; conf_unsupported[i].backend; i++)
        if (is_ours(c, i) && !(c->lines_met >> i & 1))
            test_fail("conf_unsupported.h: there is no case \"%s\" for %s",
                      conf_unsupported[i].cases, c->device->backend);
}

bool conf_wants(const conf *c, conf_size size, const char *name)
{
    return size <= c->size && (!c->filter || strstr(name, c->filter));
}

bool conf_begin(conf *c, conf_size size, int32_t n_cols, int32_t n_rows, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(c->name, sizeof c->name, format, args);
    va_end(args);
    if (!conf_wants(c, size, c->name)) return false;
    c->n_cases++;
    c->n_seqs = c->n_cols = 0;
    /* The simulator mistakes a buffer for one that is gone, and has been written in part. */
    if (c->size == CONF_TINY) rig_device_close(c->device);
    rig_open(&c->rig, c->device, n_cols, n_rows);
    c->rig.no_poison = c->size == CONF_TINY; /* a simulator sees what nobody wrote */
    return true;
}

bool conf_compile(conf *c)
{
    bool supported = rig_supported(&c->rig), listed = is_listed(c);
    if (supported == listed)
        test_fail("%s on %s is %s: conf_unsupported.h is wrong", c->name, c->device->name,
                  supported ? "supported" : "refused");
    if (!supported) {
        c->n_refused++;
        return false;
    }
    rig_compile(&c->rig);
    return true;
}

void conf_ran(conf *c, int32_t n_cols, int32_t n_rows, const sobre_run_seq *seqs, int32_t n_seqs)
{
    if (seqs) memcpy(c->seqs, seqs, (size_t)n_seqs * sizeof *seqs);
    c->n_cols = n_cols;
    c->n_rows = n_rows;
    c->n_seqs = n_seqs;
}

void conf_run(conf *c, int32_t n_cols, int32_t n_rows, const sobre_run_seq *seqs, int32_t n_seqs)
{
    conf_ran(c, n_cols, n_rows, seqs, n_seqs);
    memset(c->device->null.n_ops, 0, sizeof c->device->null.n_ops);
    rig_run(&c->rig, n_cols, n_rows, seqs, n_seqs);
    if (!rig_is_null(c->device)) return;
    int64_t n_ops = 0;
    for (int i = 0; i < SOBRE_N_OPS; i++) n_ops += c->device->null.n_ops[i];
    assert_int_equal(n_ops, c->rig.n_nodes);
    assert_int_equal(c->device->null.n_cols, n_cols);
}

void conf_compare(const conf *c, const float *x, int64_t n, const double *reference,
                  const double *tolerance)
{
    double worst = 0;
    int64_t at = -1;
    if (rig_is_null(c->device)) /* it writes zeros */
        for (int64_t i = 0; i < n; i++) assert_true(x[i] == 0.0f);
    if (!rig_computes(c->device)) return;
    for (int64_t i = 0; i < n; i++) {
        double over = fabs((double)x[i] - reference[i]) - tolerance[i];
        if (over <= worst) continue; /* NaN goes on */
        worst = over;
        at = i;
    }
    if (at >= 0)
        test_fail("%s on %s: element %lld is %.9g, should be %.9g, give or take %.3g", c->name,
                  c->device->name, (long long)at, (double)x[at], reference[at], tolerance[at]);
}

void conf_expect(conf *c, int32_t value, int64_t n, const double *reference,
                 const double *tolerance)
{
    float *x = rig_alloc((uint64_t)n * sizeof *x);
    rig_read(&c->rig, value, x, (uint64_t)n * sizeof *x);
    conf_compare(c, x, n, reference, tolerance);
    free(x);
}

void conf_expect_exact(conf *c, int32_t value, int64_t n, const float *reference)
{
    double *wide = rig_alloc((uint64_t)n * sizeof *wide), *none = rig_alloc((uint64_t)n * 8);
    for (int64_t i = 0; i < n; i++) {
        wide[i] = (double)reference[i];
        none[i] = 0;
    }
    conf_expect(c, value, n, wide, none);
    free(wide);
    free(none);
}

void conf_expect_ints(conf *c, int32_t value, int64_t n, const int32_t *reference)
{
    int32_t *x = rig_alloc((uint64_t)n * sizeof *x);
    rig_read(&c->rig, value, x, (uint64_t)n * sizeof *x);
    for (int64_t i = 0; i < n && (rig_computes(c->device) || rig_is_null(c->device)); i++) {
        int32_t want = rig_computes(c->device) ? reference[i] : 0;
        if (x[i] != want)
            test_fail("%s on %s: element %lld is %d, should be %d", c->name, c->device->name,
                      (long long)i, (int)x[i], (int)want);
    }
    free(x);
}

/* --- Times */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds a run: the median of samples of a few milliseconds each. */
static double seconds_a_run(conf *c)
{
    enum { SAMPLES = 15, SAMPLE_NS = 3000000 };
    const sobre_run_seq *seqs = c->n_seqs > 0 ? c->seqs : NULL;
    double samples[SAMPLES];
    int64_t n = 1;
    for (int i = 0; i < SAMPLES;) {
        uint64_t begin = os_now_ns();
        for (int64_t k = 0; k < n; k++) rig_run(&c->rig, c->n_cols, c->n_rows, seqs, c->n_seqs);
        uint64_t spent = os_now_ns() - begin;
        samples[i] = (double)spent * 1e-9 / (double)n;
        if (spent < SAMPLE_NS && i == 0)
            n = spent * 2 > SAMPLE_NS ? n + 1 : n * 2; /* still finding out how many */
        else
            i++;
    }
    qsort(samples, SAMPLES, sizeof samples[0], ascending);
    return samples[SAMPLES / 2];
}

static void print_time(conf *c)
{
    const rig *r = &c->rig;
    double flops = 0, bytes = 0, seconds = seconds_a_run(c);
    int64_t kv_len = 0;
    for (int32_t s = 0; s < c->n_seqs; s++)
        if (c->seqs[s].pos + c->seqs[s].n_cols > kv_len)
            kv_len = c->seqs[s].pos + c->seqs[s].n_cols;
    for (int32_t i = 0; i < r->n_nodes; i++) {
        const sobre_node *node = &r->nodes[i];
        flops += op_get(node->op)->flops(r->values, node, c->n_cols, c->n_rows, kv_len);
        bytes += (double)op_bytes(r->values, node, c->n_cols, c->n_rows, kv_len);
    }
    printf("%-56s %-14s %10.1f us %8.2f GB/s %9.2f GFLOPS\n", c->name, c->device->name,
           seconds * 1e6, bytes / seconds * 1e-9, flops / seconds * 1e-9);
    fflush(stdout);
}

void conf_end(conf *c)
{
    if (c->rig.exec) rig_check_guards(&c->rig);
    if (c->rig.exec && c->n_cols > 0 && c->size == CONF_LARGE && rig_computes(c->device))
        print_time(c);
    rig_close(&c->rig);
    c->name[0] = 0;
}

/* --- Values */

void conf_decode(const conf *c, sobre_dtype dtype, const void *row, int64_t n, float *ret)
{
    dtype_decode(dtype, row, n, ret);
    bool is_rounded = false;
    for (int i = 0; conf_rounded[i].backend; i++)
        is_rounded =
            is_rounded || (conf_rounded[i].dtype == dtype && is_about(c, conf_rounded[i].backend));
    for (int64_t i = 0; i < n && is_rounded; i++) ret[i] = f16_to_f32(f32_to_f16(ret[i]));
}

const char *conf_kind_name(conf_kind kind)
{
    static const char *const names[] = {"normal", "denormal", "huge"};
    return names[kind];
}

void conf_fill(conf_kind kind, double huge, float *x, int64_t n, uint32_t seed)
{
    double scale = kind == CONF_DENORMAL ? 3e-39 : kind == CONF_HUGE ? huge : 1;
    rig_fill(x, n, seed);
    for (int64_t i = 0; i < n; i++) x[i] = (float)((double)x[i] * scale);
}
