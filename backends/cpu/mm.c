/* SPDX-License-Identifier: MIT */
/* Matrix products: kinds of weights, prepared activations, and a range of panels times a range of
 * tokens, tile by tile. How threads share a job is in mm_team.c. */
#include "mm_kernels.h"

#include <string.h>

#include "checked.h"
#include "cpu.h"

enum {
    GROUP = MM_STREAM_PANELS, /* panels that are gone through together */
    F32_STEP = 64             /* tokens that a decoded unit is used for */
};

const mm_kernels *mm_kernels_get(sobre_cpu_isa isa)
{
    if (!cpu_isa_resolve(isa, &isa)) return NULL;
    switch (isa) {
    case SOBRE_CPU_SCALAR: return &mm_kernels_scalar;
#if defined(__x86_64__)
    case SOBRE_CPU_AVX2: return &mm_kernels_avx2;
    case SOBRE_CPU_AVXVNNI: return &mm_kernels_avxvnni;
    case SOBRE_CPU_AVX512: return &mm_kernels_avx512;
#elif defined(__aarch64__)
    case SOBRE_CPU_DOTPROD: return &mm_kernels_dotprod;
    case SOBRE_CPU_I8MM: return &mm_kernels_i8mm;
#endif
    default: return NULL;
    }
}

mm_act mm_act_for(const mm_weight *w, bool exact)
{
    return exact || w->kind >= MM_N_QUANT_KINDS ? MM_ACT_F32 : MM_ACT_Q8;
}

uint64_t mm_act_stride(mm_act act, int64_t k)
{
    return act == MM_ACT_Q8 ? (uint64_t)mm_act_blocks(k) * sizeof(mm_act_block)
                            : (uint64_t)mm_act_floats(k) * sizeof(float);
}

uint64_t mm_act_size(mm_act act, int64_t n_cols_in, int32_t n_tokens)
{
    /* int8: twice, for what refined blocks leave over. */
    return mm_act_stride(act, n_cols_in) * (uint64_t)n_tokens * (act == MM_ACT_Q8 ? 2 : 1);
}

void mm_act_choose(const mm_act_block *row, int64_t n_blocks, mm_act_fine *ret)
{
    float error = 0; /* of a block: proportional to the square of its step */
    for (int64_t i = 0; i < n_blocks; i++) error += row[i].d * row[i].d;
    *ret = (mm_act_fine){0};
    for (int64_t i = 0; i < n_blocks && ret->n < MM_MAX_FINE; i++) {
        float own = row[i].d * row[i].d;
        if (own > 0 && own * MM_FINE_SHARE >= error) ret->block[ret->n++] = (int32_t)i;
    }
}

void mm_act_prepare(const mm_kernels *kernels, mm_act act, const mm_prologue *prologue,
                    const float *x, int64_t k, int32_t n_tokens, int32_t begin, int32_t end,
                    void *ret_act)
{
    for (int32_t t = begin; t < end; t++) {
        uint8_t *row = (uint8_t *)ret_act + mm_act_stride(act, k) * (uint64_t)t;
        if (act == MM_ACT_Q8) {
            mm_act_block *main = (mm_act_block *)row;
            kernels->prepare_q8(prologue, x + t * k, k, main, main + mm_act_blocks(k) * n_tokens);
        } else {
            kernels->prepare_f32(prologue, x + t * k, k, (float *)row);
        }
    }
}

/* Panels [panel, panel + n_panels) times tokens [token, token + n_tokens); sums of a panel are
 * sum_stride floats apart. */
typedef struct range {
    int64_t panel;
    int32_t n_panels, token, n_tokens;
    int32_t all_tokens; /* of the job */
} range;

/* They are mostly the same for all tokens. */
static void gather_fine(const mm_act_block *x, int64_t stride, int32_t n_tokens, mm_fine_tile *ret)
{
    int32_t n = 0;
    for (int32_t t = 0; t < n_tokens; t++) {
        const mm_act_fine *fine = (const mm_act_fine *)&x[(t + 1) * stride - 1];
        for (int32_t i = 0, k = 0; i < fine->n; i++, k++) {
            while (k < n && ret->block[k] < fine->block[i]) k++;
            if (k == n || ret->block[k] != fine->block[i]) {
                for (int32_t j = n++; j > k; j--) {
                    ret->block[j] = ret->block[j - 1];
                    ret->fours[j] = ret->fours[j - 1];
                }
                ret->block[k] = fine->block[i];
                ret->fours[k] = 0;
            }
            ret->fours[k] |= (uint16_t)(1 << t / 4);
        }
    }
    ret->n = n;
}

static void multiply_q8(const mm_kernels *kernels, const mm_weight *w, const void *act,
                        const range *r, float *ret, int64_t sum_stride)
{
    const mm_kind kind = w->kind;
    const int32_t unit = mm_kinds[kind].unit;
    int64_t n_units = (w->n_cols + unit - 1) / unit, stride = mm_act_blocks(w->n_cols);
    const mm_act_block *x = (const mm_act_block *)act + r->token * stride;
    mm_fine_tile fine;
    fine.rest = x + r->all_tokens * stride;
    gather_fine(x, stride, r->n_tokens, &fine);
    const uint8_t *panels = w->data + (uint64_t)r->panel * w->panel_size;
    if (r->n_tokens == 1 && kernels->q8_stream[kind]) {
        kernels->q8_stream[kind](panels, r->n_panels, n_units, x, &fine, ret, sum_stride);
        return;
    }
    for (int32_t p = 0; p < r->n_panels; p++) {
        (kernels->q8[kind] ? kernels : &mm_kernels_scalar)
            ->q8[kind](panels + (uint64_t)p * w->panel_size, n_units, x, stride, r->n_tokens, &fine,
                       ret + p * sum_stride);
    }
}

static void multiply_f32(const mm_kernels *kernels, const mm_weight *w, const void *act,
                         const range *r, float *ret, int64_t sum_stride)
{
    float decoded[GROUP][MM_UNIT * MM_PANEL];
    const uint8_t *in[GROUP] = {0};
    const mm_kind kind = w->kind;
    const int64_t stride = mm_act_floats(w->n_cols);
    const float *x = (const float *)act + r->token * stride;
    for (int32_t p = 0; p < r->n_panels; p++) {
        in[p] = w->data + (uint64_t)(r->panel + p) * w->panel_size;
        memset(ret + p * sum_stride, 0, (size_t)r->n_tokens * MM_PANEL * sizeof(float));
    }
    if (r->n_tokens == 1 && r->n_panels == GROUP && kernels->f32_stream[kind]) {
        kernels->f32_stream[kind](in, w->n_cols, x, ret, sum_stride);
        return;
    }
    for (int64_t col = 0; col < w->n_cols; col += MM_UNIT, x += MM_UNIT) {
        int32_t k = w->n_cols - col < MM_UNIT ? (int32_t)(w->n_cols - col) : MM_UNIT;
        const uint8_t *tile[GROUP];
        for (int32_t p = 0; p < r->n_panels; p++) {
            if (kind == MM_KIND_F32) {
                tile[p] = in[p] + col * MM_PANEL * (int64_t)sizeof(float);
                continue;
            }
            (kernels->decode[kind] ? kernels : &mm_kernels_scalar)
                ->decode[kind](in[p], col, k, decoded[p]);
            tile[p] = (const uint8_t *)decoded[p];
        }
        for (int32_t t = 0; t < r->n_tokens; t += kernels->tile) {
            int32_t n = r->n_tokens - t < kernels->tile ? r->n_tokens - t : kernels->tile;
            float *acc = ret + t * MM_PANEL;
            if (n == 1 && r->n_panels == GROUP) {
                kernels->f32_stream[MM_KIND_F32](tile, k, x + t * stride, acc, sum_stride);
                continue;
            }
            for (int32_t p = 0; p < r->n_panels; p++) {
                kernels->f32_tokens((const float *)tile[p], k, x + t * stride, stride, n,
                                    acc + p * sum_stride);
            }
        }
    }
}

/* A block of at most GROUP panels of entry `entry`, finished. */
static void run_range(const mm_job *job, int32_t entry, const range *whole)
{
    float sums[2][GROUP * F32_STEP * MM_PANEL];
    const mm_kernels *kernels = job->kernels;
    const bool glu = job->glu != SOBRE_ACT_NONE;
    const mm_weight *w = &job->w[entry];
    bool q8[2] = {false, false};
    for (int i = 0; i <= glu; i++) q8[i] = mm_act_for(&job->w[entry + i], job->exact) == MM_ACT_Q8;
    int32_t step = q8[0] || q8[1] ? kernels->n_tokens : F32_STEP;
    int64_t sum_stride = (int64_t)step * MM_PANEL;

    range r = *whole;
    for (int32_t end = whole->token + whole->n_tokens; r.token < end; r.token += step) {
        r.n_tokens = end - r.token < step ? end - r.token : step;
        for (int i = 0; i <= glu; i++) {
            (q8[i] ? multiply_q8 : multiply_f32)(kernels, &job->w[entry + i], job->act[entry + i],
                                                 &r, sums[i], sum_stride);
        }
        for (int32_t p = 0; p < r.n_panels; p++) {
            int64_t row = (r.panel + p) * MM_PANEL, at = r.token * w->n_rows + row;
            mm_finish finish = {
                .glu = job->glu,
                .bias = {job->bias[entry] ? job->bias[entry] + row : NULL,
                         glu && job->bias[1] ? job->bias[1] + row : NULL},
                .residual = job->residual && entry == 0 ? job->residual + at : NULL,
                .out = job->out[entry] + at,
                .out_stride = w->n_rows,
                .n_rows = w->n_rows - row < MM_PANEL ? (int32_t)(w->n_rows - row) : MM_PANEL,
                .n_tokens = r.n_tokens,
            };
            kernels->finish(&finish, sums[0] + p * sum_stride, sums[1] + p * sum_stride);
        }
    }
}

void mm_run_panels(const mm_job *job, int32_t entry, int64_t begin, int64_t end, int32_t token,
                   int32_t n_tokens)
{
    for (int64_t panel = begin; panel < end; panel += GROUP) {
        int32_t n = end - panel < GROUP ? (int32_t)(end - panel) : GROUP;
        run_range(job, entry, &(range){panel, n, token, n_tokens, job->n_tokens});
    }
}
