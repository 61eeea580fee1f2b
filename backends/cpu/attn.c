/* SPDX-License-Identifier: MIT */
/* Attention: tasks, pages, rows and blocks; the arithmetic is in the kernels of attn.h. */
#include "attn.h"

#include <math.h>
#include <string.h>

#include "checked.h"

enum {
    PAGE = SOBRE_KV_PAGE,
    BLOCK = ATTN_BLOCK_PAGES * SOBRE_KV_PAGE,
    PARTS_PER_THREAD = 8, /* blocks of long sequences that are summed apart, then merged */
    APPEND_ROWS = 16,     /* positions rotated at a time */
    DIRECT_ROWS = 8,      /* more rows than this unpack a page */
};

static inline int32_t min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int32_t max_i32(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* Bytes of n_dims numbers of all positions, scales included: a multiple of 64. */
static uint64_t dims_size(sobre_kv_type type, int32_t n_dims)
{
    uint64_t size = (uint64_t)n_dims * PAGE * (uint64_t)attn_item_size(type);
    if (type == SOBRE_KV_Q8_0)
        size += ((uint64_t)n_dims + ATTN_GROUP - 1) / ATTN_GROUP * PAGE * sizeof(uint16_t);
    return size;
}

bool attn_page_size(const sobre_kv_desc *desc, uint64_t *ret_size)
{
    uint64_t size;
    if (attn_item_size(desc->type) == 0 || desc->n_head_kv < 1 || desc->head_dim < 1 ||
        desc->head_dim_v < 1 || desc->head_dim_v > INT32_MAX - ATTN_PAD)
        return false;
    size = dims_size(desc->type, desc->head_dim) +
           dims_size(desc->type, attn_padded(desc->head_dim_v));
    if (!checked_mul(size, (uint64_t)desc->n_head_kv, &size)) return false;
    *ret_size = size;
    return true;
}

const attn_kernels *attn_kernels_get(sobre_cpu_isa isa, sobre_kv_type type)
{
    int32_t i = (int32_t)type - SOBRE_KV_F32;
    if (i < 0 || i >= ATTN_N_TYPES) return NULL;
    switch (isa) {
    case SOBRE_CPU_SCALAR: return &attn_kernels_scalar[i];
#if defined(__x86_64__)
    case SOBRE_CPU_AVX2:
    case SOBRE_CPU_AVXVNNI: return &attn_kernels_avx2[i];
    case SOBRE_CPU_AVX512: return &attn_kernels_avx512[i];
#elif defined(__aarch64__)
    case SOBRE_CPU_DOTPROD:
    case SOBRE_CPU_I8MM: return &attn_kernels_neon[i];
#endif
    default: return NULL;
    }
}

/* --- Scratch: for each thread q, scores, an unpacked head, and two sums; then the sums of blocks
 * and of tiles that threads share. */

/* A tile's sum over some positions: o [row][padded head_dim_v], not yet divided by `total`. */
typedef struct tile_sum {
    float *max, *total; /* [ATTN_ROWS] */
    float *o;
} tile_sum;

static uint64_t sum_size(const sobre_attention_params *p)
{
    return sizeof(float) * ATTN_ROWS * (2 + (uint64_t)attn_padded(p->head_dim_v));
}

/* Numbers of a head's K or V of a page, whichever are more. */
static uint64_t wide_items(const sobre_attention_params *p)
{
    return (uint64_t)PAGE * (uint64_t)attn_padded(max_i32(p->head_dim, p->head_dim_v));
}

static uint64_t thread_size(const sobre_attention_params *p)
{
    uint64_t n_q = (uint64_t)attn_padded(p->head_dim) * ATTN_ROWS;
    return sizeof(float) * (n_q + ATTN_ROWS * PAGE + wide_items(p)) + 2 * sum_size(p);
}

uint64_t attn_scratch_size(const sobre_attention_params *p, int32_t n_threads)
{
    uint64_t n_shared = (uint64_t)n_threads * (PARTS_PER_THREAD + 2);
    return thread_size(p) * (uint64_t)n_threads + sum_size(p) * n_shared;
}

static tile_sum sum_at(const sobre_attention_params *p, uint8_t *base, int64_t index)
{
    float *max = (float *)(base + sum_size(p) * (uint64_t)index);
    return (tile_sum){max, max + ATTN_ROWS, max + 2 * ATTN_ROWS};
}

/* A thread's own. */
typedef struct workspace {
    float *q;             /* [ATTN_ROWS][head_dim] */
    float *s;             /* [ATTN_ROWS][PAGE] */
    float *wide;          /* a head's K or V of a page */
    tile_sum part, state; /* of a block, and of all blocks before */
} workspace;

static workspace workspace_at(const attn_job *job, int32_t thread)
{
    const sobre_attention_params *p = &job->p;
    workspace w = {.q = (float *)(job->scratch + thread_size(p) * (uint64_t)thread)};
    w.s = w.q + (int64_t)attn_padded(p->head_dim) * ATTN_ROWS;
    w.wide = w.s + ATTN_ROWS * PAGE;
    uint8_t *sums = (uint8_t *)(w.wide + wide_items(p));
    w.part = sum_at(p, sums, 0);
    w.state = sum_at(p, sums, 1);
    return w;
}

static void sum_clear(const attn_job *job, const tile_sum *sum, int32_t n_rows)
{
    for (int32_t r = 0; r < n_rows; r++) {
        sum->max[r] = -INFINITY;
        sum->total[r] = 0.0f;
    }
    memset(sum->o, 0, sizeof(float) * (size_t)n_rows * (size_t)attn_padded(job->p.head_dim_v));
}

/* --- Tiles: up to ATTN_ROWS rows of one sequence that read the same KV head. Rows are ordered by
 * query, so what they see begins and ends in ascending order. */

typedef struct tile {
    const sobre_run_seq *seq;
    int32_t kv_head, head, n_heads; /* query heads [head, head + n_heads) */
    int32_t query, n_queries;       /* of the sequence's columns */
    int32_t n_rows;
    int32_t begin[ATTN_ROWS], end[ATTN_ROWS]; /* positions that each row sees */
} tile;

typedef struct tiling {
    int32_t group;        /* query heads a KV head */
    int32_t n_head_tiles; /* tiles that a group takes */
    int32_t n_queries;    /* columns a tile */
} tiling;

static tiling tiling_of(const sobre_attention_params *p)
{
    tiling t;
    t.group = p->n_head / p->n_head_kv;
    t.n_head_tiles = (t.group + ATTN_ROWS - 1) / ATTN_ROWS;
    t.n_queries = t.group >= ATTN_ROWS ? 1 : ATTN_ROWS / t.group;
    return t;
}

static int64_t seq_tiles(const sobre_attention_params *p, const tiling *t, const sobre_run_seq *seq)
{
    int64_t columns = (seq->n_cols + t->n_queries - 1) / t->n_queries;
    return columns * p->n_head_kv * t->n_head_tiles;
}

/* Tile `index` of its sequence, the last queries (which see the most) first. */
static void tile_make(const attn_job *job, const tiling *t, const sobre_run_seq *seq, int64_t index,
                      tile *ret)
{
    const sobre_attention_params *p = &job->p;
    int32_t per_column = p->n_head_kv * t->n_head_tiles;
    int32_t n_columns = (seq->n_cols + t->n_queries - 1) / t->n_queries;
    int32_t column = n_columns - 1 - (int32_t)(index / per_column);
    int32_t part = (int32_t)(index % per_column);
    ret->seq = seq;
    ret->kv_head = part / t->n_head_tiles;
    int32_t first = part % t->n_head_tiles * ATTN_ROWS;
    ret->head = ret->kv_head * t->group + first;
    ret->n_heads = min_i32(t->group - first, ATTN_ROWS);
    ret->query = column * t->n_queries;
    ret->n_queries = min_i32(seq->n_cols - ret->query, t->n_queries);
    ret->n_rows = ret->n_heads * ret->n_queries;
    for (int32_t r = 0; r < ret->n_rows; r++) {
        int32_t pos = seq->pos + ret->query + r / ret->n_heads;
        ret->begin[r] = p->window > 0 ? max_i32(0, pos + 1 - p->window) : 0;
        ret->end[r] = p->causal ? pos + 1 : seq->pos + seq->n_cols;
    }
}

static int32_t block_first(const tile *t)
{
    return t->begin[0] / BLOCK;
}

static int32_t block_last(const tile *t)
{
    return (t->end[t->n_rows - 1] - 1) / BLOCK;
}

static void head_prepare(const attn_job *job, const float *x, const float *norm_w, int32_t col,
                         float *ret)
{
    const sobre_attention_params *p = &job->p;
    size_t size = (size_t)p->head_dim * sizeof(float);
    if (p->qk_norm.kind != SOBRE_NORM_NONE) {
        job->vec->norm(p->qk_norm, x, norm_w, NULL, p->head_dim, ret);
    } else {
        memcpy(ret, x, size);
    }
    if (job->rope)
        job->vec->rope(p->rope.kind, p->rope.n_dims,
                       job->rope + (int64_t)col * ROPE_TABLE_ROWS * p->rope.n_dims, ret, 1,
                       p->head_dim, ret);
}

static void tile_load_q(const attn_job *job, const tile *t, float *ret_q)
{
    const sobre_attention_params *p = &job->p;
    for (int32_t r = 0; r < t->n_rows; r++) {
        int32_t col = t->seq->col + t->query + r / t->n_heads;
        int64_t head = (int64_t)col * p->n_head + t->head + r % t->n_heads;
        head_prepare(job, job->q + head * p->head_dim, job->q_norm, col,
                     ret_q + (int64_t)r * p->head_dim);
    }
}

/* Press et al. 2022, arXiv:2108.12409; for head counts that are no power of two, the slopes of the
 * next one down, then every other slope of the next one up. */
static float alibi_slope(const sobre_attention_params *p, int32_t head)
{
    if (p->max_alibi_bias <= 0.0f) return 0.0f;
    int32_t n = 1;
    while (n * 2 <= p->n_head) n *= 2;
    if (head < n) return powf(2.0f, -p->max_alibi_bias * (float)(head + 1) / (float)n);
    return powf(2.0f, -p->max_alibi_bias * 0.5f * (float)(2 * (head - n) + 1) / (float)n);
}

/* The part of [begin, end) inside the page that starts at `first`. */
static int32_t in_page(int32_t pos, int32_t first)
{
    return min_i32(max_i32(pos - first, 0), PAGE);
}

/* A register tile's rows at a time where they see the same positions, one where they do not. */
static void tile_values(const attn_job *job, const tile *t, int32_t first, const float *weights,
                        const attn_kernels *kernels, const void *v, float *o)
{
    int32_t n_dims = attn_padded(job->p.head_dim_v);
    for (int32_t r = 0; r < t->n_rows; r += ATTN_TILE) {
        int32_t n = min_i32(ATTN_TILE, t->n_rows - r);
        int32_t begin = in_page(t->begin[r + n - 1], first), end = in_page(t->end[r], first);
        if (begin > end) begin = end;
        const float *w = weights + r * PAGE;
        float *sum = o + (int64_t)r * n_dims;
        for (int32_t i = 0; i < n; i++) {
            int32_t early = in_page(t->begin[r + i], first);
            if (early < begin)
                kernels->values(w + i * PAGE, 1, v, n_dims, early, begin,
                                sum + (int64_t)i * n_dims);
        }
        if (begin < end) kernels->values(w, n, v, n_dims, begin, end, sum);
        for (int32_t i = 0; i < n; i++) {
            int32_t from = max_i32(end, in_page(t->begin[r + i], first));
            int32_t late = in_page(t->end[r + i], first);
            if (from < late)
                kernels->values(w + i * PAGE, 1, v, n_dims, from, late, sum + (int64_t)i * n_dims);
        }
    }
}

/* Where K and V of a head of one of a sequence's pages lie. */
static uint8_t *head_at(const attn_job *job, const sobre_run_seq *seq, int32_t page, int32_t head,
                        uint8_t **ret_v)
{
    uint64_t k_size = dims_size(job->type, job->p.head_dim);
    uint64_t v_size = dims_size(job->type, attn_padded(job->p.head_dim_v));
    uint8_t *k = job->pages + (uint64_t)seq->pages[page] * job->page_size +
                 (uint64_t)head * (k_size + v_size);
    *ret_v = k + k_size;
    return k;
}

/* Few rows wait for memory: what they read next comes meanwhile. */
static void fetch(const void *items, uint64_t size)
{
    for (uint64_t i = 0; i < size; i += 64) __builtin_prefetch((const uint8_t *)items + i, 0, 2);
}

/* What the tile sees of one page, added to `sum`. */
static void tile_page(const attn_job *job, const tile *t, int32_t page, const workspace *w,
                      const tile_sum *sum)
{
    const sobre_attention_params *p = &job->p;
    const attn_kernels *kernels = job->kernels;
    const bool unpacks = t->n_rows > DIRECT_ROWS && kernels != job->wide;
    int32_t first = page * PAGE, n_dims = attn_padded(p->head_dim_v);
    int32_t begin = in_page(t->begin[0], first), end = in_page(t->end[t->n_rows - 1], first);
    uint8_t *v_items;
    const void *k = head_at(job, t->seq, page, t->kv_head, &v_items), *v = v_items;

    if (unpacks) {
        kernels->unpack_k(k, p->head_dim, begin, end, w->wide);
        kernels = job->wide;
        k = w->wide;
    } else {
        fetch(v, dims_size(job->type, n_dims));
    }
    kernels->scores(w->q, t->n_rows, k, p->head_dim, begin, end, w->s);
    for (int32_t r = 0; r < t->n_rows; r++) {
        int32_t pos = t->seq->pos + t->query + r / t->n_heads;
        attn_view view = {
            .scale = p->scale,
            .softcap = p->softcap,
            .slope = alibi_slope(p, t->head + r % t->n_heads),
            .distance = (float)(first - pos),
            .begin = in_page(t->begin[r], first),
            .end = in_page(t->end[r], first),
        };
        if (view.begin >= view.end) continue;
        float before = sum->max[r];
        float total = kernels->soften(&view, w->s + r * PAGE, &sum->max[r]);
        if (sum->max[r] != before && before != -INFINITY) {
            float shrink = expf(before - sum->max[r]);
            float *o = sum->o + (int64_t)r * n_dims;
            kernels->merge(o, shrink, o, 0.0f, n_dims);
            sum->total[r] *= shrink;
        }
        sum->total[r] += total;
    }
    if (unpacks) {
        job->kernels->unpack_v(v, n_dims, begin, end, w->wide);
        v = w->wide;
    } else if ((page + 1) * PAGE < t->end[t->n_rows - 1]) {
        uint8_t *next_v;
        fetch(head_at(job, t->seq, page + 1, t->kv_head, &next_v),
              dims_size(job->type, p->head_dim));
    }
    tile_values(job, t, first, w->s, kernels, v, sum->o);
}

static void tile_block(const attn_job *job, const tile *t, int32_t block, const workspace *w,
                       const tile_sum *sum)
{
    int32_t begin = max_i32(t->begin[0], block * BLOCK) / PAGE;
    int32_t end = (min_i32(t->end[t->n_rows - 1], (block + 1) * BLOCK) + PAGE - 1) / PAGE;
    sum_clear(job, sum, t->n_rows);
    for (int32_t page = begin; page < end; page++) tile_page(job, t, page, w, sum);
}

/* Adds the sum over a later block. */
static void sum_merge(const attn_job *job, const tile_sum *to, const tile_sum *from, int32_t n_rows)
{
    int32_t n_dims = attn_padded(job->p.head_dim_v);
    for (int32_t r = 0; r < n_rows; r++) {
        if (from->max[r] == -INFINITY && from->total[r] == 0.0f) continue; /* saw nothing */
        float *o = to->o + (int64_t)r * n_dims;
        const float *x = from->o + (int64_t)r * n_dims;
        float max = from->max[r] > to->max[r] ? from->max[r] : to->max[r];
        float a = expf(to->max[r] - max), b = expf(from->max[r] - max);
        job->kernels->merge(o, a, x, b, n_dims);
        to->total[r] = to->total[r] * a + from->total[r] * b;
        to->max[r] = max;
    }
}

static void tile_store(const attn_job *job, const tile *t, const tile_sum *sum)
{
    const sobre_attention_params *p = &job->p;
    for (int32_t r = 0; r < t->n_rows; r++) {
        int32_t col = t->seq->col + t->query + r / t->n_heads, head = t->head + r % t->n_heads;
        const float *o = sum->o + (int64_t)r * attn_padded(p->head_dim_v);
        float *out = job->out + ((int64_t)col * p->n_head + head) * p->head_dim_v;
        float total = sum->total[r], shrink = 1.0f;
        if (job->sinks) { /* one more score, whose value is zero */
            float sink = job->sinks[head], max = sum->max[r] > sink ? sum->max[r] : sink;
            shrink = expf(sum->max[r] - max);
            total = total * shrink + expf(sink - max);
        }
        job->vec->scale(o, shrink / total, p->head_dim_v, out);
    }
}

/* --- Appending. A unit of work is a KV head of a page, so that threads write apart. */

static void append_unit(const attn_job *job, const sobre_run_seq *seq, int32_t page, int32_t head,
                        float *rows)
{
    const sobre_attention_params *p = &job->p;
    uint8_t *v_page, *k_page = head_at(job, seq, page, head, &v_page);
    int32_t begin = max_i32(seq->pos, page * PAGE);
    int32_t end = min_i32(seq->pos + seq->n_cols, (page + 1) * PAGE);
    for (int32_t pos = begin; pos < end; pos += APPEND_ROWS) {
        int32_t n = min_i32(APPEND_ROWS, end - pos), col = seq->col + pos - seq->pos;
        for (int32_t i = 0; i < n; i++)
            head_prepare(job, job->k + ((int64_t)(col + i) * p->n_head_kv + head) * p->head_dim,
                         job->k_norm, col + i, rows + (int64_t)i * p->head_dim);
        job->kernels->put_k(rows, n, p->head_dim, pos % PAGE, k_page);
        job->kernels->put_v(job->v + ((int64_t)col * p->n_head_kv + head) * p->head_dim_v,
                            (int64_t)p->n_head_kv * p->head_dim_v, n, p->head_dim_v, pos % PAGE,
                            v_page);
    }
}

static int32_t seq_pages(const sobre_run_seq *seq)
{
    return (seq->pos + seq->n_cols - 1) / PAGE - seq->pos / PAGE + 1;
}

void attn_append(const attn_job *job, const sobre_run *run, int32_t thread, int32_t n_threads)
{
    float *rows = (float *)(job->scratch + thread_size(&job->p) * (uint64_t)thread);
    int64_t n_units = 0, begin, end, first = 0;
    for (int32_t i = 0; i < run->n_seqs; i++)
        n_units += (int64_t)seq_pages(&run->seqs[i]) * job->p.n_head_kv;
    pool_share(n_units, 1, thread, n_threads, &begin, &end);
    for (int32_t i = 0; i < run->n_seqs && first < end; i++) {
        const sobre_run_seq *seq = &run->seqs[i];
        int64_t n = (int64_t)seq_pages(seq) * job->p.n_head_kv;
        for (int64_t u = begin > first ? begin - first : 0; u < n && first + u < end; u++)
            append_unit(job, seq, seq->pos / PAGE + (int32_t)(u / job->p.n_head_kv),
                        (int32_t)(u % job->p.n_head_kv), rows);
        first += n;
    }
}

/* --- Attending. */

typedef struct tile_cursor { /* finds tiles by number in ascending order */
    int32_t seq;
    int64_t first; /* tile of that sequence */
} tile_cursor;

static void tile_find(const attn_job *job, const tiling *tl, const sobre_run *run, int64_t index,
                      tile_cursor *at, tile *ret)
{
    for (;;) {
        int64_t n = seq_tiles(&job->p, tl, &run->seqs[at->seq]);
        if (index < at->first + n) break;
        at->first += n;
        at->seq++;
    }
    tile_make(job, tl, &run->seqs[at->seq], index - at->first, ret);
}

/* Few tiles over long sequences: threads share the blocks of each, in waves of as many as there is
 * scratch for. */
static void run_split(attn_job *job, const sobre_run *run, const tiling *tl, int32_t n_tiles,
                      pool *threads, int32_t thread, int32_t n_threads, const workspace *w)
{
    uint8_t *shared = job->scratch + thread_size(&job->p) * (uint64_t)n_threads;
    int32_t n_parts = n_threads * PARTS_PER_THREAD / n_tiles, n_blocks = 0;
    tile t;
    tile_cursor at = {0, 0};
    for (int32_t i = 0; i < n_tiles; i++) {
        tile_find(job, tl, run, i, &at, &t);
        n_blocks = max_i32(n_blocks, block_last(&t) - block_first(&t) + 1);
        tile_sum state = sum_at(&job->p, shared, i);
        if (i % n_threads == thread) sum_clear(job, &state, t.n_rows);
    }
    for (int32_t wave = 0; wave < n_blocks; wave += n_parts) {
        at = (tile_cursor){0, 0};
        for (int32_t u = 0; u < n_tiles * n_parts; u++) {
            if (u % n_threads != thread) continue;
            tile_find(job, tl, run, u / n_parts, &at, &t);
            int32_t block = block_first(&t) + wave + u % n_parts;
            if (block > block_last(&t)) continue;
            tile_sum part = sum_at(&job->p, shared, n_tiles + u);
            tile_load_q(job, &t, w->q);
            tile_block(job, &t, block, w, &part);
        }
        pool_barrier(threads, thread);
        at = (tile_cursor){0, 0};
        for (int32_t i = thread; i < n_tiles; i += n_threads) {
            tile_find(job, tl, run, i, &at, &t);
            tile_sum state = sum_at(&job->p, shared, i);
            for (int32_t part = 0; part < n_parts; part++) {
                if (block_first(&t) + wave + part > block_last(&t)) break;
                tile_sum from = sum_at(&job->p, shared, n_tiles + i * n_parts + part);
                sum_merge(job, &state, &from, t.n_rows);
            }
            if (wave + n_parts >= n_blocks) tile_store(job, &t, &state);
        }
        if (wave + n_parts < n_blocks) pool_barrier(threads, thread);
    }
}

void attn_run(attn_job *job, const sobre_run *run, pool *threads, int32_t thread, int32_t n_threads)
{
    const sobre_attention_params *p = &job->p;
    const workspace w = workspace_at(job, thread);
    tiling tl = tiling_of(p);
    int64_t n_tiles = 0;
    int32_t longest = 0;
    for (int32_t i = 0; i < run->n_seqs; i++) {
        n_tiles += seq_tiles(p, &tl, &run->seqs[i]);
        longest = max_i32(longest, run->seqs[i].pos + run->seqs[i].n_cols);
    }
    if (n_threads > 1 && n_tiles <= 2 * n_threads && longest > BLOCK) {
        run_split(job, run, &tl, (int32_t)n_tiles, threads, thread, n_threads, &w);
        return;
    }
    tile t;
    tile_cursor at = {0, 0};
    for (;;) {
        int64_t index = atomic_fetch_add(&job->next, 1);
        if (index >= n_tiles) return;
        tile_find(job, &tl, run, index, &at, &t);
        tile_load_q(job, &t, w.q);
        sum_clear(job, &w.state, t.n_rows);
        for (int32_t block = block_first(&t); block <= block_last(&t); block++) {
            tile_block(job, &t, block, &w, &w.part);
            sum_merge(job, &w.state, &w.part, t.n_rows);
        }
        tile_store(job, &t, &w.state);
    }
}
