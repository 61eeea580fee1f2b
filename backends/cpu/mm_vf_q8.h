/* SPDX-License-Identifier: MIT */
/*
 * Int8 products for mm_vf.h, from what the including file defines:
 *     group_dots(kind, n, unit, block, x, x_stride, acc)
 * acc [n][16 rows] += block `block` of a unit times n tokens, whose activations x begin where the
 * unit does.
 */

/* Block `block` of a panel; x begins where the panel does. */
static inline MM_INLINED void panel_block(const mm_kind_info *kind, const int n,
                                          const uint8_t *panel, int32_t block,
                                          const mm_act_block *x, int64_t x_stride,
                                          vf (*acc)[ROW_VECTORS])
{
    const int32_t per_unit = kind->unit / MM_BLOCK, unit = block / per_unit;
    group_dots(kind, n, panel + unit * (int64_t)kind->unit_size, block % per_unit,
               x + unit * per_unit, x_stride, acc);
}

/* Token `token` of x and the n - 1 behind it. */
static inline MM_INLINED void q8_tile(const mm_kind_info *kind, const int n, const uint8_t *panel,
                                      int64_t n_units, const mm_act_block *x, int64_t x_stride,
                                      int32_t token, const mm_fine_tile *fine, float *ret)
{
    const int per_unit = kind->unit / MM_BLOCK;
    const mm_act_block *rest = fine->rest + token * x_stride;
    vf acc[MM_TILE][ROW_VECTORS];
    for (int t = 0; t < n; t++) {
        for (int v = 0; v < ROW_VECTORS; v++) acc[t][v] = vf_zero();
    }
    x += token * x_stride;
    for (int64_t u = 0; u < n_units; u++, x += per_unit) {
        const uint8_t *unit = panel + u * kind->unit_size;
        MM_UNROLL(2)
        for (int b = 0; b < per_unit; b++) group_dots(kind, n, unit, b, x, x_stride, acc);
    }
    for (int32_t i = 0; i < fine->n; i++) {
        panel_block(kind, n, panel, fine->block[i], rest, x_stride, acc);
    }
    ret += token * MM_PANEL;
    for (int t = 0; t < n; t++) {
        for (int v = 0; v < ROW_VECTORS; v++) vf_store(ret + t * MM_PANEL + v * VF_N, acc[t][v]);
    }
}

/* One token and panels that lie one behind the other. Memory is read as one stream, further ahead
 * than processors fetch by themselves, and on into the panels that come next. */
static inline MM_INLINED void q8_panels(const mm_kind_info *kind, const uint8_t *panel,
                                        int32_t n_panels, int64_t n_units, const mm_act_block *x,
                                        const mm_fine_tile *fine, float *ret, int64_t ret_stride)
{
    enum { LINE = 64, AHEAD = 20 * LINE };
    const int per_unit = kind->unit / MM_BLOCK;
    for (int32_t p = 0; p < n_panels; p++, ret += ret_stride) {
        const uint8_t *unit = panel;
        vf acc[1][ROW_VECTORS];
        for (int v = 0; v < ROW_VECTORS; v++) acc[0][v] = vf_zero();
        for (int64_t u = 0; u < n_units; u++, unit += kind->unit_size) {
            MM_UNROLL(2)
            for (int b = 0; b < per_unit; b++) {
                const int begin = kind->unit_size * b / per_unit / LINE * LINE;
                const int end = kind->unit_size * (b + 1) / per_unit / LINE * LINE;
                for (int at = begin; at < end; at += LINE) __builtin_prefetch(unit + AHEAD + at);
                group_dots(kind, 1, unit, b, x + u * per_unit, 0, acc);
            }
        }
        for (int32_t i = 0; i < fine->n; i++) {
            panel_block(kind, 1, panel, fine->block[i], fine->rest, 0, acc);
        }
        for (int v = 0; v < ROW_VECTORS; v++) vf_store(ret + v * VF_N, acc[0][v]);
        panel = unit;
    }
}

#define CASE(n)                                                      \
    case n:                                                          \
        q8_tile(kind, n, panel, n_units, x, x_stride, t, fine, ret); \
        break;
#define X(id, name)                                                                              \
    static void q8_##name(const uint8_t *panel, int64_t n_units, const mm_act_block *x,          \
                          int64_t x_stride, int32_t n_tokens, const mm_fine_tile *fine,          \
                          float *ret)                                                            \
    {                                                                                            \
        const mm_kind_info *kind = &mm_kinds[MM_KIND_##id];                                      \
        for (int32_t n, t = 0; t < n_tokens; t += n) {                                           \
            n = largest_tile(n_tokens - t);                                                      \
            switch (n) {                                                                         \
                MM_TILE_SIZES(CASE)                                                              \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
    static void q8_stream_##name(const uint8_t *panels, int32_t n_panels, int64_t n_units,       \
                                 const mm_act_block *x, const mm_fine_tile *fine, float *ret,    \
                                 int64_t ret_stride)                                             \
    {                                                                                            \
        q8_panels(&mm_kinds[MM_KIND_##id], panels, n_panels, n_units, x, fine, ret, ret_stride); \
    }
MM_QUANT_KINDS(X)
#undef X
#undef CASE
