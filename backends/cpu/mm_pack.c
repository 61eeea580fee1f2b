/* SPDX-License-Identifier: MIT */
/* Packing weights into panels, and rows back out of them. The layouts are in mm_kernels.h. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "checked.h"
#include "dtype.h"
#include "mm_kernels.h"
#include "quant.h"

enum { CHUNK = 256 /* columns at a time: a multiple of MM_UNIT */ };

static const int8_t kind_of_dtype[] = {
    [SOBRE_F32] = MM_KIND_F32,       [SOBRE_F64] = MM_KIND_F32,     [SOBRE_F16] = MM_KIND_F16,
    [SOBRE_BF16] = MM_KIND_BF16,     [SOBRE_Q4_0] = MM_KIND_Q4_0,   [SOBRE_Q4_1] = MM_KIND_Q4_1,
    [SOBRE_Q5_0] = MM_KIND_Q5_0,     [SOBRE_Q5_1] = MM_KIND_Q5_1,   [SOBRE_Q8_0] = MM_KIND_Q8_0,
    [SOBRE_Q2_K] = MM_KIND_Q2_K,     [SOBRE_Q3_K] = MM_KIND_Q3_K,   [SOBRE_Q4_K] = MM_KIND_Q4_K,
    [SOBRE_Q5_K] = MM_KIND_Q5_K,     [SOBRE_Q6_K] = MM_KIND_Q6_K,   [SOBRE_IQ4_NL] = MM_KIND_IQ4_NL,
    [SOBRE_IQ4_XS] = MM_KIND_IQ4_XS, [SOBRE_IQ3_S] = MM_KIND_IQ3_S, [SOBRE_MXFP4] = MM_KIND_MXFP4,
    [SOBRE_TQ1_0] = MM_KIND_TQ,      [SOBRE_TQ2_0] = MM_KIND_TQ,
};

sobre_status mm_layout(const sobre_host *host, const sobre_weight *weight, mm_weight *ret_w,
                       uint64_t *ret_size)
{
    const dtype_info *info = dtype_get(weight->dtype);
    const quant_form *quant = quant_form_get(weight->dtype);
    if (!info->name || !(quant || info->is_float)) {
        return host->fail(host->context, SOBRE_UNSUPPORTED,
                          "tensor '%s': type %s cannot be a matrix; use one of floats or of "
                          "quantised blocks",
                          weight->name, info->name ? info->name : "of unknown number");
    }
    mm_weight w = {
        .dtype = weight->dtype,
        .kind = (mm_kind)kind_of_dtype[weight->dtype],
        .n_rows = weight->n_rows,
        .n_cols = weight->n_cols,
    };
    const mm_kind_info *kind = &mm_kinds[w.kind];
    uint64_t n_cols = (uint64_t)w.n_cols, n_panels, size;
    bool fits =
        w.n_rows > 0 && w.n_cols > 0 && checked_add((uint64_t)w.n_rows, MM_PANEL - 1, &n_panels);
    if (fits && quant) {
        const uint64_t n_units = n_cols / (uint64_t)kind->unit + (w.n_cols % kind->unit != 0);
        fits = w.n_cols % info->block == 0 &&
               checked_mul(n_units, (uint64_t)kind->unit_size, &w.panel_size);
    } else if (fits) {
        fits = checked_mul(n_cols, (uint64_t)kind->low / 8 * MM_PANEL, &w.panel_size);
    }
    if (!fits || !checked_mul(n_panels / MM_PANEL, w.panel_size, &size) || size > INT64_MAX) {
        return host->fail(host->context, SOBRE_BAD_FORMAT,
                          "tensor '%s': %lld rows of %lld columns are no matrix of type %s; the "
                          "file is damaged, fetch it again",
                          weight->name, (long long)w.n_rows, (long long)w.n_cols, info->name);
    }
    *ret_w = w;
    *ret_size = size;
    return SOBRE_OK;
}

static uint16_t load_u16(const uint8_t *from)
{
    uint16_t v;
    memcpy(&v, from, sizeof(v));
    return v;
}

static bool f16_is_finite(uint16_t h)
{
    return (h & 0x7c00) != 0x7c00;
}

static bool all_finite(const float *x, int n)
{
    bool finite = true;
    for (int i = 0; i < n; i++) finite &= (bool)isfinite(x[i]);
    return finite;
}

/* The following put one row into lane `lane` of a panel, and tell whether all of its scales (for
 * float types, values) are finite. */

/* Steps 0 .. 7 of a block's bytes, their bits [at, at + bits), to the words of a plane. */
static inline void put_plane(const uint8_t *u, const int at, const int bits, int lane,
                             uint8_t *plane)
{
    const uint32_t mask = ((1u << bits) - 1) * 0x01010101u;
    uint32_t steps[MM_STEPS];
    memcpy(steps, u, sizeof steps);
    for (int w = 0; w < bits; w++) {
        uint32_t word = 0;
        for (int s = w; s < MM_STEPS; s += bits) {
            word |= (steps[s] >> at & mask) << (s / bits * bits);
        }
        memcpy(plane + (w * MM_PANEL + lane) * 4, &word, sizeof word);
    }
}

/* One block of the file at column `col` of its panel. */
static inline MM_INLINED bool pack_block(const mm_kind_info *kind, const quant_parts *p,
                                         const int n_cols, int64_t col, int lane, uint8_t *panel)
{
    const int at = (int)(col % kind->unit), first_group = at / kind->group;
    uint8_t *unit = panel + col / kind->unit * kind->unit_size;
    uint8_t *d = unit + ((kind->codes ? 0 : first_group) * MM_PANEL + lane) * 2;
    memcpy(d, &p->d, 2);
    if (kind->has_min) memcpy(d + kind->m_at, &p->m, 2);
    for (int g = 0; kind->codes && g < n_cols / kind->group; g++) {
        uint8_t *code = unit + kind->codes_at + (first_group + g) * MM_PANEL + lane;
        *code = (uint8_t)p->codes[g];
        if (kind->codes == MM_CODES_MIN_HALF) *code |= (uint8_t)(p->minima[g] << 4);
        if (kind->codes == MM_CODES_MIN) code[kind->minima_at - kind->codes_at] = p->minima[g];
    }
    for (int i = 0; i < n_cols; i += MM_BLOCK) {
        const int block = (at + i) / MM_BLOCK;
        put_plane(p->u + i, 0, kind->low, lane,
                  unit + kind->low_at + block * kind->low * MM_PANEL * 4);
        put_plane(p->u + i, kind->low, kind->high, lane,
                  unit + kind->high_at + block * kind->high * MM_PANEL * 4);
    }
    if (kind->wide_scale) return (p->d & 0x7f80) != 0x7f80;
    return f16_is_finite(p->d) && (!kind->has_min || f16_is_finite(p->m));
}

static inline MM_INLINED bool pack_quant(const mm_kind kind_id, const mm_weight *w,
                                         const uint8_t *row, int lane, uint8_t *panel)
{
    const mm_kind_info *kind = &mm_kinds[kind_id];
    const int block = kind->unit == MM_UNIT ? MM_BLOCK : kind->unit; /* of the file */
    const int32_t size = dtype_get(w->dtype)->size;
    quant_parts p;
    bool finite = true;
    for (int64_t col = 0; col < w->n_cols; col += block, row += size) {
        quant_split(w->dtype, row, &p);
        finite &= pack_block(kind, &p, block, col, lane, panel);
    }
    return finite;
}

/* For each kind, so that its numbers are constants. */
#define X(kind, name)                                                                         \
    static bool pack_##name(const mm_weight *w, const uint8_t *row, int lane, uint8_t *panel) \
    {                                                                                         \
        return pack_quant(MM_KIND_##kind, w, row, lane, panel);                               \
    }
MM_QUANT_KINDS(X)
#undef X

/* F16 and BF16 as they are. */
static bool pack_halves(const mm_weight *w, const uint8_t *row, int lane, uint8_t *panel)
{
    const uint16_t exponent = w->kind == MM_KIND_F16 ? 0x7c00 : 0x7f80;
    bool finite = true;
    for (int64_t col = 0; col < w->n_cols; col++) {
        uint16_t h = load_u16(row + col * 2);
        finite &= (h & exponent) != exponent;
        memcpy(panel + (col * MM_PANEL + lane) * 2, &h, 2);
    }
    return finite;
}

/* F32, and F64 rounded to it. */
static bool pack_floats(const mm_weight *w, const uint8_t *row, int lane, uint8_t *panel)
{
    float x[CHUNK];
    bool finite = true;
    for (int64_t col = 0; col < w->n_cols; col += CHUNK) {
        int n = w->n_cols - col < CHUNK ? (int)(w->n_cols - col) : CHUNK;
        dtype_decode(w->dtype, row + col * dtype_get(w->dtype)->size, n, x);
        finite &= all_finite(x, n);
        for (int i = 0; i < n; i++) memcpy(panel + ((col + i) * MM_PANEL + lane) * 4, &x[i], 4);
    }
    return finite;
}

sobre_status mm_pack(const sobre_host *host, const mm_weight *w, const char *name, uint8_t *to,
                     int64_t row, int64_t n_rows, const void *data)
{
#define X(kind, name) [MM_KIND_##kind] = pack_##name,
    static bool (*const pack[MM_N_KINDS])(const mm_weight *, const uint8_t *, int, uint8_t *) = {
        MM_QUANT_KINDS(X) X(F16, halves) X(BF16, halves) X(F32, floats)};
#undef X
    uint64_t row_size = 0;
    dtype_row_size(w->dtype, w->n_cols, &row_size); /* mm_layout() saw that it fits */
    for (int64_t i = 0; i < n_rows; i++) {
        int lane = (int)((row + i) % MM_PANEL);
        uint8_t *panel = to + (uint64_t)((row + i) / MM_PANEL) * w->panel_size;
        bool whole = n_rows - i >= MM_PANEL && w->n_cols % mm_kinds[w->kind].unit == 0;
        if (lane == 0 && !whole) memset(panel, 0, (size_t)w->panel_size);
        if (pack[w->kind](w, (const uint8_t *)data + (uint64_t)i * row_size, lane, panel)) continue;
        return host->fail(host->context, SOBRE_BAD_FORMAT,
                          "tensor '%s': row %lld has a %s that is not finite; the file is damaged, "
                          "fetch it again",
                          name, (long long)(row + i),
                          w->kind < MM_N_QUANT_KINDS ? "scale" : "weight");
    }
    return SOBRE_OK;
}

/* The value of column `col` in a quantised row. */
static float quant_at(const mm_kind_info *kind, const uint8_t *unit, int col, int lane)
{
    const int block = col / MM_BLOCK, step = col % MM_BLOCK / 4, group = col / kind->group;
    const uint8_t *scale = unit + ((kind->codes ? 0 : group) * MM_PANEL + lane) * 2;
    const uint8_t *code = unit + kind->codes_at + group * MM_PANEL + lane;
    int u = 0;
    for (int plane = 0; plane < 2; plane++) {
        const int bits = plane ? kind->high : kind->low;
        const uint8_t *words = unit + (plane ? kind->high_at : kind->low_at);
        if (bits == 0) continue;
        words += ((block * bits + step % bits) * MM_PANEL + lane) * 4;
        u |= (words[col % 4] >> step / bits * bits & ((1 << bits) - 1)) << (plane ? kind->low : 0);
    }
    const int q = (kind->levels ? kind->levels[u] : u) - kind->bias;
    float d = kind->wide_scale ? bf16_to_f32(load_u16(scale)) : f16_to_f32(load_u16(scale));
    float m = kind->has_min ? f16_to_f32(load_u16(scale + kind->m_at)) : 0.0f;
    if (kind->codes == MM_CODES_MIN_HALF) {
        d *= (float)(*code & 15);
        m *= (float)(*code >> 4);
    } else if (kind->codes) {
        d *= (float)(int8_t)*code;
        m *= kind->has_min ? (float)code[kind->minima_at - kind->codes_at] : 1.0f;
    }
    return kind->has_min ? d * (float)q + m : d * (float)q;
}

void mm_unpack_row(const mm_weight *w, int64_t row, float *ret)
{
    const mm_kind_info *kind = &mm_kinds[w->kind];
    const uint8_t *panel = w->data + (uint64_t)(row / MM_PANEL) * w->panel_size;
    const int lane = (int)(row % MM_PANEL);
    for (int64_t col = 0; col < w->n_cols; col++) {
        const uint8_t *unit = panel + col / kind->unit * kind->unit_size;
        const int64_t at = col * MM_PANEL + lane;
        switch (w->kind) {
        case MM_KIND_F16: ret[col] = f16_to_f32(load_u16(panel + at * 2)); break;
        case MM_KIND_BF16: ret[col] = bf16_to_f32(load_u16(panel + at * 2)); break;
        case MM_KIND_F32: memcpy(&ret[col], panel + at * 4, sizeof(float)); break;
        default: ret[col] = quant_at(kind, unit, (int)(col % kind->unit), lane);
        }
    }
}
