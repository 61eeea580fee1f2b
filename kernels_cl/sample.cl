/* SPDX-License-Identifier: MIT */
/*
 * Sampling: from logits [n_rows, n_vocab] to one token a row, as src/sample.c does it.
 *
 * sample_part looks at a chunk of the vocabulary: its largest logits after biases and penalties,
 * and what they all weigh. sample_pick merges the chunks and draws. It answers only if it is sure
 * to draw what the host would: if the tokens that it knows reach far enough, and if nothing that is
 * compared is so close that rounding could decide. Else, and wherever something is not finite, it
 * leaves the row to the host. No work-item returns early, not even all of a group at once: some
 * compilers lose variables over barriers that follow a return.
 *
 * Order is larger first, of equal ones the lower id. Batcher 1968, "Sorting networks and their
 * applications", for the sorting.
 */
#define GROUPS_A_UNIT 2
#include "portable.h"
#include "sampling.h"

#define GROUP   256
#define PER     (SAMPLE_CHUNK / GROUP)       /* logits of a work-item */
#define N_LISTS (SAMPLE_CHUNK / SAMPLE_KEEP) /* that local memory has room for */
#define NO_ID   0x7fffffff                   /* behind all others */

/* A sum of weights is at most SAMPLE_CHUNK; one of a chunk that is not finite is this. */
#define BROKEN 1e30f
/* Weights below exp(this) count as none. */
#define LEAST (-87.0f)
/* Two sums of weights that differ by less, relatively, may come in the other order on the host. */
#define MARGIN 1e-5f

/* Neither NaN nor +infinity; by the bits, whatever the compiler thinks of such numbers. */
FN int is_usable(float x)
{
    uint bits = (uint)float_as_int(x);
    return (bits & 0x7f800000u) != 0x7f800000u || bits == 0xff800000u;
}

FN float weigh(float distance)
{
    return distance > LEAST ? EXP(distance) : 0.0f;
}

FN int is_before(float a, int id_a, float b, int id_b)
{
    return a > b || (a == b && id_a < id_b);
}

/* Puts i before j, or after it. */
FN void order(LOCAL float *value, LOCAL int *id, int i, int j, int first)
{
    float a = value[i], b = value[j];
    int id_a = id[i], id_b = id[j];
    if (is_before(a, id_a, b, id_b) != first) {
        value[i] = b;
        value[j] = a;
        id[i] = id_b;
        id[j] = id_a;
    }
}

/* Sorts each list of SAMPLE_KEEP in its place. Begins and ends with a barrier. */
FN void sort_lists(LOCAL float *value, LOCAL int *id)
{
    int size, stride, p;
    BARRIER();
    for (size = 2; size <= SAMPLE_KEEP; size *= 2)
        for (stride = size / 2; stride > 0; stride /= 2) {
            for (p = LOCAL_ID; p < SAMPLE_CHUNK / 2; p += GROUP) {
                int i = 2 * p - (p & (stride - 1));
                order(value, id, i, i + stride, size == SAMPLE_KEEP || (i & size) == 0);
            }
            BARRIER();
        }
}

/* Brings the best SAMPLE_KEEP of n sorted lists into the first one. All N_LISTS hold something; the
 * others are lost. Begins and ends with a barrier. */
FN void merge_lists(LOCAL float *value, LOCAL int *id, int n)
{
    int apart, stride, e;
    BARRIER();
    for (apart = 1; apart < n; apart *= 2) {
        int n_pairs = N_LISTS / (2 * apart);
        /* The best of a falling list and a rising one are a list that falls, then rises. */
        for (e = LOCAL_ID; e < n_pairs * SAMPLE_KEEP; e += GROUP) {
            int k = e & (SAMPLE_KEEP - 1), begin = (e - k) * 2 * apart;
            int i = begin + k, j = begin + apart * SAMPLE_KEEP + SAMPLE_KEEP - 1 - k;
            if (is_before(value[j], id[j], value[i], id[i])) {
                value[i] = value[j];
                id[i] = id[j];
            }
        }
        BARRIER();
        for (stride = SAMPLE_KEEP / 2; stride > 0; stride /= 2) {
            for (e = LOCAL_ID; e < n_pairs * (SAMPLE_KEEP / 2); e += GROUP) {
                int k = e & (SAMPLE_KEEP / 2 - 1), begin = (e - k) * 4 * apart;
                int i = begin + 2 * k - (k & (stride - 1));
                order(value, id, i, i + stride, 1);
            }
            BARRIER();
        }
    }
}

/* The best of each work-item's comes to [0]. Ends with a barrier. */
FN void reduce_best(LOCAL float *value, LOCAL int *id, float v, int i)
{
    int step;
    BARRIER();
    value[LOCAL_ID] = v;
    id[LOCAL_ID] = i;
    BARRIER();
    for (step = GROUP / 2; step > 0; step /= 2) {
        if (LOCAL_ID < step) order(value, id, LOCAL_ID, LOCAL_ID + step, 1);
        BARRIER();
    }
}

FN float reduce_max(LOCAL float *scratch, float v)
{
    int step;
    float max;
    BARRIER();
    scratch[LOCAL_ID] = v;
    BARRIER();
    for (step = GROUP / 2; step > 0; step /= 2) {
        if (LOCAL_ID < step) scratch[LOCAL_ID] = FMAX(scratch[LOCAL_ID], scratch[LOCAL_ID + step]);
        BARRIER();
    }
    max = scratch[0];
    BARRIER();
    return max;
}

/* Two sums at once; `scratch` has 2 * GROUP elements. One after the other they are so many barriers
 * that the compiler of Intel's runtime for CPUs loses its way, and crashes or destroys memory. */
FN void reduce_sums(LOCAL float *scratch, float *a, float *b)
{
    int step;
    BARRIER();
    scratch[LOCAL_ID] = *a;
    scratch[GROUP + LOCAL_ID] = *b;
    BARRIER();
    for (step = GROUP / 2; step > 0; step /= 2) {
        if (LOCAL_ID < step) {
            scratch[LOCAL_ID] += scratch[LOCAL_ID + step];
            scratch[GROUP + LOCAL_ID] += scratch[GROUP + LOCAL_ID + step];
        }
        BARRIER();
    }
    *a = scratch[0];
    *b = scratch[GROUP];
    BARRIER();
}

/* A logit after its bias and its penalties. */
FN float adjust(float x, GLOBAL const int *p, GLOBAL const int *a)
{
    float count = (float)a[SAMPLE_ADJUST_COUNT];
    x += int_as_float(a[SAMPLE_ADJUST_BIAS]);
    if (count > 0.0f) {
        float repetition = int_as_float(p[SAMPLE_REPETITION]);
        x = x > 0.0f ? x / repetition : x * repetition;
        x -= int_as_float(p[SAMPLE_PRESENCE]) + int_as_float(p[SAMPLE_FREQUENCY]) * count;
    }
    return x;
}

/* Groups: (chunks of the vocabulary, rows). */
KERNEL(GROUP)
sample_part(GLOBAL const float *RESTRICT logits, int logits_at, GLOBAL const int *RESTRICT params,
            int params_at, GLOBAL float *RESTRICT work, int work_at, int n_vocab)
{
    LOCAL_ARRAY float value[SAMPLE_CHUNK];
    LOCAL_ARRAY int id[SAMPLE_CHUNK];
    LOCAL_ARRAY float scratch[2 * GROUP];
    GLOBAL const int *p = params + params_at + GROUP_Y * SAMPLE_PARAMS_SIZE;
    GLOBAL const float *x = logits + logits_at + (uint)GROUP_Y * (uint)n_vocab;
    GLOBAL float *part = work + work_at + (GROUP_Y * N_GROUPS_X + GROUP_X) * SAMPLE_PART_SIZE;
    int mode = p[SAMPLE_MODE], n_adjust = p[SAMPLE_N_ADJUST], begin = GROUP_X * SAMPLE_CHUNK;
    float inv_temperature = int_as_float(p[SAMPLE_INV_TEMPERATURE]);
    float raw[PER], max = LOWEST, best = LOWEST, sum = 0.0f, draw = 0.0f;
    int k, best_id = NO_ID, is_broken = 0, is_broken_draw = 0;

    UNROLL
    for (k = 0; k < PER; k++) {
        int at = k * GROUP + LOCAL_ID;
        raw[k] = begin + at < n_vocab ? x[begin + at] : LOWEST;
        if (!is_usable(raw[k])) {
            is_broken = 1;
            raw[k] = LOWEST;
        }
        raw[k] = FMAX(raw[k], LOWEST);
        max = FMAX(max, raw[k]);
        value[at] = raw[k];
        id[at] = begin + at < n_vocab ? begin + at : NO_ID;
    }
    BARRIER();
    for (k = LOCAL_ID; k < n_adjust; k += GROUP) {
        GLOBAL const int *a = p + SAMPLE_ADJUST + k * SAMPLE_ADJUST_SIZE;
        int at = a[SAMPLE_ADJUST_ID] - begin;
        if (at >= 0 && at < SAMPLE_CHUNK) {
            float v = adjust(x[begin + at], p, a);
            if (!is_usable(v)) is_broken_draw = 1;
            value[at] = is_usable(v) ? FMAX(v, LOWEST) : LOWEST;
        }
    }
    BARRIER();

    /* What all weigh in the draw is summed later, when the best is known. */
    max = reduce_max(scratch, max);
    UNROLL
    for (k = 0; k < PER; k++) {
        int at = k * GROUP + LOCAL_ID;
        float v = value[at];
        sum += begin + at < n_vocab ? weigh(raw[k] - max) : 0.0f;
        raw[k] = v;
        if (is_before(v, id[at], best, best_id)) {
            best = v;
            best_id = id[at];
        }
    }
    if (mode == SAMPLE_MODE_LIST) {
        sort_lists(value, id);
        merge_lists(value, id, N_LISTS);
    } else {
        reduce_best(value, id, best, best_id);
    }
    best = value[0];
    UNROLL
    for (k = 0; k < PER; k++)
        if (raw[k] > LOWEST) draw += weigh((raw[k] - best) * inv_temperature);
    if (is_broken) sum = BROKEN;
    if (is_broken_draw) draw = BROKEN;
    reduce_sums(scratch, &sum, &draw);
    if (LOCAL_ID == 0) {
        part[SAMPLE_PART_MAX] = max;
        part[SAMPLE_PART_SUM] = sum;
        part[SAMPLE_PART_DRAW] = draw;
    }
    if (LOCAL_ID < (mode == SAMPLE_MODE_LIST ? SAMPLE_KEEP : 1)) {
        part[SAMPLE_PART_VALUE + LOCAL_ID] = value[LOCAL_ID];
        part[SAMPLE_PART_ID + LOCAL_ID] = int_as_float(id[LOCAL_ID]);
    }
}

/* Brings the best one of all chunks to the begin of `value`. */
FN void merge_best(LOCAL float *value, LOCAL int *id, GLOBAL const float *part, int n_parts)
{
    float best = LOWEST;
    int k, best_id = NO_ID;
    for (k = LOCAL_ID; k < n_parts; k += GROUP) {
        GLOBAL const float *from = part + k * SAMPLE_PART_SIZE;
        float v = from[SAMPLE_PART_VALUE];
        int i = float_as_int(from[SAMPLE_PART_ID]);
        if (is_before(v, i, best, best_id)) {
            best = v;
            best_id = i;
        }
    }
    reduce_best(value, id, best, best_id);
}

/* Brings the best SAMPLE_KEEP of all chunks to the begin of `value`. */
FN void merge_parts(LOCAL float *value, LOCAL int *id, GLOBAL const float *part, int n_parts)
{
    int next, e, n_kept = 0;
    for (next = 0; next < n_parts;) {
        int n = n_parts - next < N_LISTS - n_kept ? n_parts - next : N_LISTS - n_kept;
        for (e = n_kept * SAMPLE_KEEP + LOCAL_ID; e < SAMPLE_CHUNK; e += GROUP) {
            int k = e & (SAMPLE_KEEP - 1), list = (e - k) / SAMPLE_KEEP - n_kept;
            GLOBAL const float *from = part + (next + list) * SAMPLE_PART_SIZE;
            value[e] = list < n ? from[SAMPLE_PART_VALUE + k] : LOWEST;
            id[e] = list < n ? float_as_int(from[SAMPLE_PART_ID + k]) : NO_ID;
        }
        merge_lists(value, id, n_kept + n);
        next += n;
        n_kept = 1;
    }
}

/* Is this work-item's candidate the one that is drawn? Of the candidates `weight` holds what they
 * weigh, the best one 1; `all` is what the whole vocabulary weighs. False for every one if that is
 * not sure. */
FN int is_drawn(LOCAL const float *weight, LOCAL const int *id, GLOBAL const int *p, float all,
                int n_vocab)
{
    int top_k = p[SAMPLE_TOP_K], n = n_vocab < SAMPLE_KEEP ? n_vocab : SAMPLE_KEEP, k;
    int is_whole = n == n_vocab; /* are the first n all that can be drawn? */
    float top_p = int_as_float(p[SAMPLE_TOP_P]), min_p = int_as_float(p[SAMPLE_MIN_P]);
    float kept = 0.0f, tail, left, margin, below = 0.0f, above = 0.0f;

    if (int_as_float(p[SAMPLE_INV_TEMPERATURE]) == 0.0f) return LOCAL_ID == 0;
    if (top_k > 0) {
        n = top_k < n ? top_k : n;
        is_whole = 1;
    }
    if (top_p < 1.0f) {
        float target, reached = 0.0f;
        for (k = 0; k < n; k++) kept += weight[k];
        if (is_whole) all = kept;
        target = top_p * all;
        margin = MARGIN * all;
        for (k = 0; k < n && reached < target; k++) {
            reached += weight[k];
            if (FABS(reached - target) <= margin) return 0;
        }
        if (reached >= target) {
            n = k;
            is_whole = 1;
        }
        if (!is_whole) return 0; /* it takes more tokens */
    }
    if (min_p > 0.0f) {
        for (k = 1; k < n && weight[k] >= min_p; k++)
            if (weight[k] <= min_p * (1.0f + MARGIN)) return 0;
        if (k < n) {
            if (weight[k] >= min_p * (1.0f - MARGIN)) return 0;
            n = k;
            is_whole = 1;
        }
        if (!is_whole) return 0;
    }
    if (LOCAL_ID >= n || weight[LOCAL_ID] == 0.0f) return 0;
    kept = 0.0f;
    for (k = 0; k < n; k++) {
        kept += weight[k];
        if (id[k] < id[LOCAL_ID]) below += weight[k];
        if (id[k] > id[LOCAL_ID]) above += weight[k];
    }
    /* Tokens past the first n may stand anywhere among the ids. */
    tail = is_whole ? 0.0f : FMAX(all - kept, 0.0f);
    left = int_as_float(p[SAMPLE_UNIFORM]) * (kept + tail);
    margin = MARGIN * (kept + tail);
    return ((is_whole && below == 0.0f) || left >= below + tail + margin) &&
           ((is_whole && above == 0.0f) || left < below + weight[LOCAL_ID] - margin);
}

/* Groups: rows. */
KERNEL(GROUP)
sample_pick(GLOBAL const float *RESTRICT logits, int logits_at, GLOBAL const int *RESTRICT params,
            int params_at, GLOBAL const float *RESTRICT work, int work_at, GLOBAL int *RESTRICT out,
            int out_at, int n_vocab, int n_parts)
{
    LOCAL_ARRAY float value[SAMPLE_CHUNK];
    LOCAL_ARRAY int id[SAMPLE_CHUNK];
    LOCAL_ARRAY float scratch[2 * GROUP];
    LOCAL_ARRAY int chosen[1]; /* place among the candidates; -1: not sure */
    GLOBAL const int *p = params + params_at + GROUP_X * SAMPLE_PARAMS_SIZE;
    GLOBAL const float *x = logits + logits_at + (uint)GROUP_X * (uint)n_vocab;
    GLOBAL const float *part = work + work_at + GROUP_X * n_parts * SAMPLE_PART_SIZE;
    GLOBAL int *result = out + out_at + GROUP_X * SAMPLE_RESULT_SIZE;
    int mode = p[SAMPLE_MODE], n_top = p[SAMPLE_N_TOP];
    float max = LOWEST, sum = 0.0f, all = 0.0f, best, log_sum;
    float inv_temperature = int_as_float(p[SAMPLE_INV_TEMPERATURE]);
    int k;

    if (LOCAL_ID == 0) chosen[0] = -1;
    if (mode == SAMPLE_MODE_LIST)
        merge_parts(value, id, part, n_parts);
    else
        merge_best(value, id, part, n_parts);
    best = value[0];

    /* What all weigh: for the log-probability, and in the draw. */
    for (k = LOCAL_ID; k < n_parts; k += GROUP)
        max = FMAX(max, part[k * SAMPLE_PART_SIZE + SAMPLE_PART_MAX]);
    max = reduce_max(scratch, max);
    for (k = LOCAL_ID; k < n_parts; k += GROUP) {
        GLOBAL const float *from = part + k * SAMPLE_PART_SIZE;
        float s = from[SAMPLE_PART_SUM], d = from[SAMPLE_PART_DRAW];
        sum += s < BROKEN ? s * weigh(from[SAMPLE_PART_MAX] - max) : BROKEN;
        all += d < BROKEN ? d * weigh((from[SAMPLE_PART_VALUE] - best) * inv_temperature) : BROKEN;
    }
    reduce_sums(scratch, &sum, &all);

    if (LOCAL_ID < SAMPLE_KEEP)
        scratch[LOCAL_ID] =
            id[LOCAL_ID] < n_vocab ? weigh((value[LOCAL_ID] - best) * inv_temperature) : 0.0f;
    BARRIER();
    if (sum < BROKEN && all < BROKEN && max > LOWEST && best > LOWEST && mode != SAMPLE_MODE_HOST &&
        LOCAL_ID < SAMPLE_KEEP && is_drawn(scratch, id, p, all, n_vocab))
        chosen[0] = LOCAL_ID;
    BARRIER();
    log_sum = LOG(sum);
    if (LOCAL_ID == 0) {
        int at = chosen[0];
        result[SAMPLE_STATUS] = at < 0 ? SAMPLE_UNDETERMINED : SAMPLE_PICKED;
        if (at >= 0) {
            result[SAMPLE_ID] = id[at];
            result[SAMPLE_LOGPROB] = float_as_int(x[id[at]] - max - log_sum);
        }
    }
    if (LOCAL_ID < n_top && LOCAL_ID < n_vocab && chosen[0] >= 0) {
        result[SAMPLE_TOP + 2 * LOCAL_ID] = id[LOCAL_ID];
        result[SAMPLE_TOP + 2 * LOCAL_ID + 1] = float_as_int(x[id[LOCAL_ID]] - max - log_sum);
    }
}
