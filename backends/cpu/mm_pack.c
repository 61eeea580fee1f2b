/* SPDX-License-Identifier: MIT */
/* Packing weights into panels, and rows back out of them. The layouts are in mm_kernels.h. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "checked.h"
#include "dtype.h"
#include "mm_kernels.h"
#include "quant.h"

enum { CHUNK = 256 /* columns at a time: a multiple of every block and of MM_UNIT */ };

static mm_form form_for(sobre_dtype dtype)
{
    switch (dtype) {
    case SOBRE_Q4_0: return MM_Q4;
    case SOBRE_Q4_1: return MM_Q4_MIN;
    case SOBRE_Q8_0: return MM_Q8;
    case SOBRE_F16: return MM_F16;
    case SOBRE_BF16: return MM_BF16;
    default: break;
    }
    const quant_form *quant = quant_form_get(dtype);
    if (!quant) return MM_F32;
    return quant->has_min ? MM_WIDE_MIN : MM_WIDE;
}

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
        .form = form_for(weight->dtype),
        .group = quant ? quant->group : 0,
        .n_rows = weight->n_rows,
        .n_cols = weight->n_cols,
    };
    const mm_kind_info *kind = &mm_kinds[mm_kind_of(&w)];
    assert(!quant ||
           (quant->q_min + kind->bias >= 0 && quant->q_max + kind->bias <= kind->largest));
    uint64_t n_cols = (uint64_t)w.n_cols, n_panels, size;
    bool fits =
        w.n_rows > 0 && w.n_cols > 0 && checked_add((uint64_t)w.n_rows, MM_PANEL - 1, &n_panels);
    if (fits && quant) {
        fits = w.n_cols % info->block == 0 && checked_mul((n_cols + MM_UNIT - 1) / MM_UNIT,
                                                          (uint64_t)kind->unit_size, &w.panel_size);
    } else if (fits) {
        fits = checked_mul(n_cols, (uint64_t)kind->bits / 8 * MM_PANEL, &w.panel_size);
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

/* Where lane `lane`'s word i of a quantised block goes. */
static uint8_t *word_at(const mm_kind_info *kind, uint8_t *unit, int block, int i, int lane)
{
    int n_words = kind->bits == 4 ? 4 : 8;
    return unit + kind->w_at + ((block * n_words + i) * MM_PANEL + lane) * 4;
}

/* The following put one row into lane `lane` of a panel, and tell whether all of its scales (for
 * float types, values) are finite. */

/* Q4_0, Q4_1, Q8_0: f16 d, maybe f16 m, then words in the panel's own order. */
static bool pack_blocks(const mm_kind_info *kind, const mm_weight *w, const uint8_t *row, int lane,
                        uint8_t *panel)
{
    const int n_words = kind->bits == 4 ? 4 : 8;
    const uint32_t flip = kind->bits == 8 ? 0x80808080u : 0; /* q + 128 */
    bool finite = true;
    for (int64_t b = 0; b < w->n_cols / MM_BLOCK; b++) {
        uint8_t *unit = panel + b / 2 * kind->unit_size;
        uint8_t *scales = unit + (b % 2 * MM_PANEL + lane) * 2;
        finite &= f16_is_finite(load_u16(row));
        memcpy(scales, row, 2);
        row += 2;
        if (kind->has_min) {
            finite &= f16_is_finite(load_u16(row));
            memcpy(scales + kind->m_at, row, 2);
            row += 2;
        }
        for (int i = 0; i < n_words; i++, row += 4) {
            uint32_t word;
            memcpy(&word, row, 4);
            word ^= flip;
            memcpy(word_at(kind, unit, (int)(b % 2), i, lane), &word, 4);
        }
    }
    return finite;
}

/* Any other quantised type. */
static bool pack_wide(const mm_kind_info *kind, const mm_weight *w, const uint8_t *row, int lane,
                      uint8_t *panel)
{
    int8_t q[CHUNK];
    uint8_t stored[CHUNK];
    float d[CHUNK / 16], m[CHUNK / 16];
    const dtype_info *info = dtype_get(w->dtype);
    bool finite = true;
    for (int64_t col = 0; col < w->n_cols; col += CHUNK) {
        int n = w->n_cols - col < CHUNK ? (int)(w->n_cols - col) : CHUNK;
        int n_groups = n / w->group, groups_of_unit = MM_UNIT / w->group;
        uint8_t *units = panel + col / MM_UNIT * kind->unit_size;
        quant_unpack(w->dtype, row + col / info->block * info->size, n, q, d, m);
        finite &= all_finite(d, n_groups) && (!kind->has_min || all_finite(m, n_groups));
        for (int g = 0; g < n_groups; g++) {
            uint8_t *scales = units + g / groups_of_unit * kind->unit_size +
                              (g % groups_of_unit * MM_PANEL + lane) * 4;
            memcpy(scales, &d[g], 4);
            if (kind->has_min) memcpy(scales + kind->m_at, &m[g], 4);
        }
        for (int i = 0; i < n; i++) stored[i] = (uint8_t)(q[i] + kind->bias);
        for (int i = 0; i < n; i += 4) {
            uint8_t *unit = units + i / MM_UNIT * kind->unit_size;
            memcpy(word_at(kind, unit, i / MM_BLOCK % 2, i % MM_BLOCK / 4, lane), stored + i, 4);
        }
    }
    return finite;
}

/* F16 and BF16 as they are. */
static bool pack_halves(const mm_kind_info *kind, const mm_weight *w, const uint8_t *row, int lane,
                        uint8_t *panel)
{
    const uint16_t exponent = kind->form == MM_F16 ? 0x7c00 : 0x7f80;
    bool finite = true;
    for (int64_t col = 0; col < w->n_cols; col++) {
        uint16_t h = load_u16(row + col * 2);
        finite &= (h & exponent) != exponent;
        memcpy(panel + (col * MM_PANEL + lane) * 2, &h, 2);
    }
    return finite;
}

/* F32, and F64 rounded to it. */
static bool pack_floats(const mm_kind_info *kind, const mm_weight *w, const uint8_t *row, int lane,
                        uint8_t *panel)
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
    static bool (*const pack[MM_N_KINDS])(const mm_kind_info *, const mm_weight *, const uint8_t *,
                                          int, uint8_t *) = {
        [MM_KIND_Q4] = pack_blocks,    [MM_KIND_Q4_MIN] = pack_blocks, [MM_KIND_Q8] = pack_blocks,
        [MM_KIND_W32] = pack_wide,     [MM_KIND_W32_MIN] = pack_wide,  [MM_KIND_W16] = pack_wide,
        [MM_KIND_W16_MIN] = pack_wide, [MM_KIND_F16] = pack_halves,    [MM_KIND_BF16] = pack_halves,
        [MM_KIND_F32] = pack_floats,
    };
    mm_kind kind = mm_kind_of(w);
    uint64_t row_size = 0;
    dtype_row_size(w->dtype, w->n_cols, &row_size); /* mm_layout() saw that it fits */
    for (int64_t i = 0; i < n_rows; i++) {
        int lane = (int)((row + i) % MM_PANEL);
        uint8_t *panel = to + (uint64_t)((row + i) / MM_PANEL) * w->panel_size;
        bool whole = n_rows - i >= MM_PANEL && w->n_cols % MM_UNIT == 0;
        if (lane == 0 && !whole) memset(panel, 0, (size_t)w->panel_size);
        if (pack[kind](&mm_kinds[kind], w, (const uint8_t *)data + (uint64_t)i * row_size, lane,
                       panel))
            continue;
        return host->fail(host->context, SOBRE_BAD_FORMAT,
                          "tensor '%s': row %lld has a %s that is not finite; the file is damaged, "
                          "fetch it again",
                          name, (long long)(row + i), w->group ? "scale" : "weight");
    }
    return SOBRE_OK;
}

static float scale_at(const mm_kind_info *kind, const uint8_t *scales)
{
    float d;
    if (kind->scale_size == 2) return f16_to_f32(load_u16(scales));
    memcpy(&d, scales, sizeof(d));
    return d;
}

/* The value of column `col` in a quantised row. */
static float quant_at(const mm_kind_info *kind, const uint8_t *unit, int col, int lane)
{
    const uint8_t *scales = unit + (col / kind->group * MM_PANEL + lane) * kind->scale_size;
    int block = col / MM_BLOCK, in_block = col % MM_BLOCK, q;
    if (kind->bits == 4) {
        const uint8_t *words = unit + kind->w_at + block * 4 * MM_PANEL * 4;
        int byte = words[(in_block % 16 / 4 * MM_PANEL + lane) * 4 + col % 4];
        q = in_block < 16 ? byte & 15 : byte >> 4;
    } else {
        q = unit[kind->w_at + ((col / 4) * MM_PANEL + lane) * 4 + col % 4];
    }
    float y = scale_at(kind, scales) * (float)(q - kind->bias);
    return kind->has_min ? y + scale_at(kind, scales + kind->m_at) : y;
}

void mm_unpack_row(const mm_weight *w, int64_t row, float *ret)
{
    const mm_kind_info *kind = &mm_kinds[mm_kind_of(w)];
    const uint8_t *panel = w->data + (uint64_t)(row / MM_PANEL) * w->panel_size;
    const int lane = (int)(row % MM_PANEL);
    for (int64_t col = 0; col < w->n_cols; col++) {
        const uint8_t *unit = panel + col / MM_UNIT * kind->unit_size;
        const int64_t at = col * MM_PANEL + lane;
        switch (kind->form) {
        case MM_F16: ret[col] = f16_to_f32(load_u16(panel + at * 2)); break;
        case MM_BF16: ret[col] = bf16_to_f32(load_u16(panel + at * 2)); break;
        case MM_F32: memcpy(&ret[col], panel + at * 4, sizeof(float)); break;
        default: ret[col] = quant_at(kind, unit, (int)(col % MM_UNIT), lane);
        }
    }
}
