/* SPDX-License-Identifier: MIT */
/* Samplers. The logits are scanned in blocks of LANES independent lanes, which compilers turn into
 * vectors without being allowed to reorder sums, so that every build draws the same tokens. Nothing
 * is ever sorted: top-k and top-p both keep "the fewest largest that weigh so much", a radix
 * selection in linear time, whatever the logits. */
#include "sample.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 16, BLOCK = 1024, MAX_TOP = 64, LAST_N = 64 };

/* Tokens this far below the best, in units of temperature, weigh less than the rounding of a sum of
 * weights. */
static const float cutoff = 40.0f;

typedef struct candidate {
    float logit;  /* after bias and penalties */
    float weight; /* exp((logit - best) / temperature) */
    int32_t id;
} candidate;

struct sampler {
    sobre_context *ctx;
    sobre_sampling o;
    int32_t n_vocab;
    bool penalise;
    bool on_device; /* can one do all that the options ask for? */
    bool drawn;     /* `uniform` waits for a pick */
    double uniform;
    uint64_t random[4];
    float *logits;         /* [n_vocab], if bias or penalties change them */
    int32_t *counts;       /* [n_vocab], likewise; zero between picks */
    candidate *candidates; /* [n_vocab], if anything is drawn */
    double *buckets;       /* [N_BUCKETS], likewise */
    sobre_token_prob *top; /* [o.n_top] */
    size_t n_top;          /* filled by the last pick */
};

/* --- Random numbers: xoshiro256**, seeded by SplitMix64 (Blackman and Vigna 2021,
 * arXiv:1805.01407). */

static uint64_t rotl(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

static void random_seed(uint64_t state[4], uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        uint64_t z = seed += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        state[i] = z ^ z >> 31;
    }
}

/* In [0, 1), with 53 bits. */
static double random_next(uint64_t s[4])
{
    uint64_t result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

/* The number for the next pick: the same one until that is made. */
static double random_peek(sampler *s)
{
    if (!s->drawn) s->uniform = random_next(s->random);
    s->drawn = true;
    return s->uniform;
}

/* --- Open and close. */

static bool in_range(float x, float min, float max)
{
    return x >= min && x <= max; /* false for NaN */
}

static sobre_status sampling_check(sobre_context *ctx, const sobre_sampling *o, int32_t n_vocab)
{
    const struct {
        const char *name;
        float value, min, max;
    } floats[] = {
        {"temperature", o->temperature, 0, 1e30f},
        {"top_p", o->top_p, 0, 1},
        {"min_p", o->min_p, 0, 1},
        {"repetition_penalty", o->repetition_penalty, 0, 1e30f},
        {"presence_penalty", o->presence_penalty, -1e30f, 1e30f},
        {"frequency_penalty", o->frequency_penalty, -1e30f, 1e30f},
    };
    const struct {
        const char *name;
        int32_t value, max;
    } ints[] = {
        {"top_k", o->top_k, INT32_MAX},
        {"max_tokens", o->max_tokens, INT32_MAX},
        {"n_top", o->n_top, MAX_TOP},
    };

    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        if (!in_range(floats[i].value, floats[i].min, floats[i].max))
            return fail(ctx, SOBRE_INVALID_ARGUMENT, "sampling: %s is %g; it must be %g to %g",
                        floats[i].name, (double)floats[i].value, (double)floats[i].min,
                        (double)floats[i].max);
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        if (ints[i].value < 0 || ints[i].value > ints[i].max)
            return fail(ctx, SOBRE_INVALID_ARGUMENT, "sampling: %s is %d; it must be 0 to %d",
                        ints[i].name, ints[i].value, ints[i].max);
    if (o->n_bias && !o->bias)
        return fail(ctx, SOBRE_INVALID_ARGUMENT, "sampling: n_bias is %zu but bias is NULL",
                    o->n_bias);
    for (size_t i = 0; i < o->n_bias; i++) {
        if (o->bias[i].id < 0 || o->bias[i].id >= n_vocab)
            return fail(ctx, SOBRE_INVALID_ARGUMENT,
                        "sampling: bias %zu is for token %d; the model has tokens 0 to %d", i,
                        o->bias[i].id, n_vocab - 1);
        if (!(o->bias[i].bias < INFINITY))
            return fail(ctx, SOBRE_INVALID_ARGUMENT,
                        "sampling: bias %zu (token %d) is %g; only numbers and -INFINITY work", i,
                        o->bias[i].id, (double)o->bias[i].bias);
    }
    if (o->n_stop && !o->stop)
        return fail(ctx, SOBRE_INVALID_ARGUMENT, "sampling: n_stop is %zu but stop is NULL",
                    o->n_stop);
    for (size_t i = 0; i < o->n_stop; i++)
        if (!o->stop[i] || !*o->stop[i])
            return fail(ctx, SOBRE_INVALID_ARGUMENT,
                        "sampling: stop string %zu is empty; it would end every generation at once",
                        i);
    return SOBRE_OK;
}

/* Pointers and characters in one block. */
static const char *const *copy_strings(sobre_context *ctx, const char *const *strings, size_t n)
{
    uint64_t size = n * (uint64_t)sizeof(char *);
    for (size_t i = 0; i < n; i++) size += strlen(strings[i]) + 1;
    char **copy = size <= SIZE_MAX ? mem_alloc(ctx, 1, (size_t)size) : NULL;
    if (!copy) return NULL;
    char *text = (char *)(copy + n);
    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(strings[i]) + 1;
        copy[i] = memcpy(text, strings[i], length);
        text += length;
    }
    return (const char *const *)copy;
}

enum { BUCKET_BITS = 11, N_BUCKETS = 1 << BUCKET_BITS };

/* `from` are checked options, whose lists are still the caller's. */
static sobre_status sampler_init(sampler *s, const sobre_sampling *from)
{
    size_t n = (size_t)s->n_vocab;
    bool changes = s->penalise || s->o.n_bias, draws = s->o.temperature > 0;
    sobre_logit_bias *bias = mem_alloc(s->ctx, from->n_bias, sizeof *bias);

    s->o.bias = bias;
    if (!bias || !(s->o.stop = copy_strings(s->ctx, from->stop, from->n_stop)))
        return SOBRE_OUT_OF_MEMORY;
    if (from->n_bias) memcpy(bias, from->bias, from->n_bias * sizeof *bias);
    if (!(s->top = mem_alloc(s->ctx, (size_t)s->o.n_top, sizeof *s->top)) ||
        (changes && !(s->logits = mem_alloc(s->ctx, n, sizeof *s->logits))) ||
        (s->penalise && !(s->counts = mem_alloc(s->ctx, n, sizeof *s->counts))) ||
        (draws && !(s->candidates = mem_alloc(s->ctx, n, sizeof *s->candidates))) ||
        (draws && !(s->buckets = mem_alloc(s->ctx, N_BUCKETS, sizeof *s->buckets))))
        return SOBRE_OUT_OF_MEMORY;
    return SOBRE_OK;
}

/* Can a device do this, if not too many tokens occurred? */
static bool device_can(const sobre_sampling *o, int32_t n_vocab, bool penalise)
{
    const float coldest = 1e-30f; /* its inverse is a number */

    if (o->n_bias > SOBRE_SAMPLE_MAX_ADJUST || (o->n_top && (o->n_bias || penalise))) return false;
    for (size_t i = 0; i < o->n_bias; i++)
        for (size_t k = 0; k < i; k++)
            if (o->bias[i].id == o->bias[k].id) return false;
    return o->temperature == 0 ||
           (o->temperature >= coldest && (o->top_k <= SOBRE_SAMPLE_KEEP || o->top_k >= n_vocab));
}

sobre_status sampler_open(sobre_context *ctx, const sobre_sampling *options, int32_t n_vocab,
                          sampler **ret_sampler)
{
    sobre_sampling o = SOBRE_INIT(sampling);
    sampler *s;

    TRY(options_copy(ctx, "sampling", options, &o, sizeof o));
    TRY(sampling_check(ctx, &o, n_vocab));
    if (!(s = mem_alloc(ctx, 1, sizeof *s))) return SOBRE_OUT_OF_MEMORY;
    s->ctx = ctx;
    s->n_vocab = n_vocab;
    s->o = o;
    s->o.bias = NULL;
    s->o.stop = NULL;
    if (o.repetition_penalty == 0) s->o.repetition_penalty = 1;
    if (o.top_p == 0) s->o.top_p = 1;
    if (o.penalty_last_n == 0) s->o.penalty_last_n = LAST_N;
    s->penalise =
        s->o.repetition_penalty != 1 || o.presence_penalty != 0 || o.frequency_penalty != 0;
    random_seed(s->random, o.seed);
    s->on_device = device_can(&o, n_vocab, s->penalise);
    sobre_status status = sampler_init(s, &o);
    if (status < 0) {
        sampler_close(s);
        return status;
    }
    *ret_sampler = s;
    return SOBRE_OK;
}

void sampler_close(sampler *s)
{
    if (!s) return;
    mem_free(s->ctx, (void *)s->o.bias);
    mem_free(s->ctx, (void *)s->o.stop);
    mem_free(s->ctx, s->top);
    mem_free(s->ctx, s->logits);
    mem_free(s->ctx, s->counts);
    mem_free(s->ctx, s->candidates);
    mem_free(s->ctx, s->buckets);
    mem_free(s->ctx, s);
}

const sobre_sampling *sampler_options(const sampler *s)
{
    return &s->o;
}

/* --- Scans over the vocabulary. */

/* exp(x) for x in [-87, 0], within 3e-7 of the result. Range reduction by ln 2 in two parts (Cody
 * and Waite 1980), then the polynomial of Cephes' expf (Moshier 1989). Without branches, so that
 * compilers vectorise it. */
static inline float exp_negative(float x)
{
    /* Rounds to the nearest integer: adding 1.5 * 2^23 pushes the fraction out of the mantissa. */
    float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    union {
        float f;
        uint32_t u;
    } bits = {.f = shifted}, scale;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    scale.u = (bits.u + 127u) << 23; /* the low bits of `shifted` are n */
    return p * scale.f;
}

/* The largest of x [n], and whether all are numbers below infinity. */
static bool scan_max(const float *x, int32_t n, float *ret_max)
{
    float max[LANES];
    int32_t bad[LANES] = {0}, i = 0;

    for (int j = 0; j < LANES; j++) max[j] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            max[j] = x[i + j] > max[j] ? x[i + j] : max[j];
            bad[j] |= !(x[i + j] < INFINITY);
        }
    for (; i < n; i++) {
        max[0] = x[i] > max[0] ? x[i] : max[0];
        bad[0] |= !(x[i] < INFINITY);
    }
    for (int j = 1; j < LANES; j++) {
        max[0] = max[j] > max[0] ? max[j] : max[0];
        bad[0] |= bad[j];
    }
    *ret_max = max[0];
    return !bad[0];
}

/* The sum of exp(x - max): f32 in lanes over short blocks, f64 over the blocks. */
static double scan_sum(const float *x, int32_t n, float max)
{
    float block[BLOCK];
    double sum = 0;

    for (int32_t begin = 0; begin < n; begin += BLOCK) {
        int32_t size = n - begin < BLOCK ? n - begin : BLOCK;
        float lanes[LANES] = {0};
        for (int32_t i = 0; i < size; i++) {
            float d = x[begin + i] - max;
            block[i] = d > -87.0f ? d : -87.0f;
        }
        for (int32_t i = size; i % LANES; i++) block[i] = -87.0f;
        for (int32_t i = 0; i < size; i += LANES)
            for (int j = 0; j < LANES; j++) lanes[j] += exp_negative(block[i + j]);
        for (int j = 0; j < LANES; j++) sum += (double)lanes[j];
    }
    return sum;
}

static int32_t find_first(const float *x, int32_t n, float value)
{
    int32_t i = 0;
    while (i < n - 1 && x[i] != value) i++;
    return i;
}

/* The n_top largest, by insertion: after the first few a token rarely gets in. Equal ones stay in
 * the order of ids. */
static void scan_top(sampler *s, const float *x)
{
    size_t capacity = (size_t)s->o.n_top;

    s->n_top = 0;
    for (int32_t id = 0; capacity && id < s->n_vocab; id++) {
        if (s->n_top == capacity && !(x[id] > s->top[capacity - 1].logprob)) continue;
        size_t at = s->n_top < capacity ? s->n_top++ : capacity - 1;
        for (; at > 0 && x[id] > s->top[at - 1].logprob; at--) s->top[at] = s->top[at - 1];
        s->top[at] = (sobre_token_prob){.id = id, .logprob = x[id]}; /* still a logit */
    }
}

/* --- What changes logits. */

/* The part of the history that penalties look at; counts how often each token is in it. */
static const int32_t *count_window(sampler *s, const int32_t *history, int32_t n_history,
                                   int32_t *ret_n)
{
    int32_t last_n = s->o.penalty_last_n;

    if (last_n < 0 || last_n > n_history) last_n = n_history;
    const int32_t *window = history + (n_history - last_n);
    for (int32_t i = 0; i < last_n; i++)
        if (window[i] >= 0 && window[i] < s->n_vocab) s->counts[window[i]]++;
    *ret_n = last_n;
    return window;
}

/* How often a token is in the window; 0 for one that is no token, and when asked again. */
static int32_t take_count(sampler *s, int32_t id)
{
    if (id < 0 || id >= s->n_vocab) return 0;
    int32_t count = s->counts[id];
    s->counts[id] = 0;
    return count;
}

static void apply_penalties(sampler *s, const int32_t *history, int32_t n_history)
{
    const sobre_sampling *o = &s->o;
    int32_t n;
    const int32_t *window = count_window(s, history, n_history, &n);

    for (int32_t i = 0; i < n; i++) {
        int32_t count = take_count(s, window[i]);
        if (!count) continue;
        float *x = &s->logits[window[i]];
        *x = *x > 0 ? *x / o->repetition_penalty : *x * o->repetition_penalty;
        *x -= o->presence_penalty + o->frequency_penalty * (float)count;
    }
}

/* --- Choosing among candidates. */

/* Larger floats have larger keys. */
static uint32_t float_key(float x)
{
    union {
        float f;
        uint32_t u;
    } bits = {.f = x + 0.0f}; /* -0 becomes 0 */
    return bits.u & 0x80000000u ? ~bits.u : bits.u | 0x80000000u;
}

/* Keeps the fewest candidates of largest logit that together reach `target`, by count or by weight;
 * of equal ones the lowest ids. A radix selection from the highest bits down: each round finds the
 * bucket in which the target is reached. Order is kept. Returns how many stay. */
static int32_t keep_largest(candidate *c, int32_t n, bool by_weight, double target, double *buckets)
{
    static const int shifts[] = {21, 10, 0};
    uint32_t prefix = 0, mask = 0; /* the bits of the threshold that are known */
    double above = 0;              /* what all candidates over the threshold reach */
    int32_t n_kept = 0;

    for (size_t round = 0; round < sizeof shifts / sizeof *shifts; round++) {
        int32_t last = -1;
        memset(buckets, 0, N_BUCKETS * sizeof *buckets);
        for (int32_t i = 0; i < n; i++) {
            uint32_t key = float_key(c[i].logit);
            if ((key & mask) == prefix)
                buckets[key >> shifts[round] & (N_BUCKETS - 1)] +=
                    by_weight ? (double)c[i].weight : 1.0;
        }
        /* Should rounding keep the sum below the target, the last bucket with anything in it ends
         * the search. */
        for (int32_t b = N_BUCKETS - 1; b >= 0; b--) {
            if (buckets[b] == 0) continue;
            if (last >= 0) above += buckets[last];
            last = b;
            if (above + buckets[b] >= target) break;
        }
        prefix |= (uint32_t)last << shifts[round];
        mask |= (uint32_t)(N_BUCKETS - 1) << shifts[round];
    }
    for (int32_t i = 0; i < n; i++) {
        uint32_t key = float_key(c[i].logit);
        if (key < prefix || (key == prefix && above >= target)) continue;
        if (key == prefix) above += by_weight ? (double)c[i].weight : 1.0;
        c[n_kept++] = c[i];
    }
    return n_kept;
}

static double total_weight(const candidate *c, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (double)c[i].weight;
    return sum;
}

static int32_t draw(sampler *s, const float *x, float best)
{
    const sobre_sampling *o = &s->o;
    candidate *c = s->candidates;
    float lowest = best - cutoff * o->temperature;
    int32_t n = 0, n_kept = 0;

    for (int32_t id = 0; id < s->n_vocab; id++)
        if (x[id] >= lowest) c[n++] = (candidate){.logit = x[id], .id = id};
    if (o->top_k && o->top_k < n) n = keep_largest(c, n, false, o->top_k, s->buckets);
    for (int32_t i = 0; i < n; i++)
        c[i].weight = exp_negative((c[i].logit - best) / o->temperature);
    if (o->top_p < 1)
        n = keep_largest(c, n, true, (double)o->top_p * total_weight(c, n), s->buckets);
    for (int32_t i = 0; i < n; i++) /* the best one's weight is 1 */
        if (c[i].weight >= o->min_p) c[n_kept++] = c[i];
    n = n_kept;

    double left = random_peek(s) * total_weight(c, n);
    s->drawn = false;
    for (int32_t i = 0; i < n - 1; i++) {
        left -= (double)c[i].weight;
        if (left < 0) return c[i].id;
    }
    return c[n - 1].id;
}

sobre_status sampler_pick(sampler *s, const float *logits, const int32_t *history,
                          int32_t n_history, int32_t *ret_id, float *ret_logprob)
{
    const float *x = logits;
    float max, best;

    if (!scan_max(logits, s->n_vocab, &max) || max == -INFINITY)
        return fail(s->ctx, SOBRE_NOT_FINITE,
                    "the logits hold NaN or infinity; the model's weights are damaged, or its "
                    "numbers overflow");
    best = max;
    if (s->logits) {
        memcpy(s->logits, logits, (size_t)s->n_vocab * sizeof *logits);
        for (size_t i = 0; i < s->o.n_bias; i++) s->logits[s->o.bias[i].id] += s->o.bias[i].bias;
        if (s->penalise) apply_penalties(s, history, n_history);
        x = s->logits;
        if (!scan_max(x, s->n_vocab, &best) || best == -INFINITY)
            return fail(s->ctx, SOBRE_NOT_FINITE,
                        "biases and penalties leave no token that can be drawn; forbid fewer "
                        "tokens, or use smaller penalties");
    }

    int32_t id = s->o.temperature > 0 ? draw(s, x, best) : find_first(x, s->n_vocab, best);
    float log_sum = (float)log(scan_sum(logits, s->n_vocab, max));
    scan_top(s, logits);
    for (size_t i = 0; i < s->n_top; i++) s->top[i].logprob = s->top[i].logprob - max - log_sum;
    *ret_id = id;
    *ret_logprob = logits[id] - max - log_sum;
    return SOBRE_OK;
}

const sobre_token_prob *sampler_top(const sampler *s, size_t *ret_n)
{
    *ret_n = s->n_top;
    return s->top;
}

/* --- Picking on a device. */

static int32_t float_bits(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float bits_float(int32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The list of adjustments; false if it is too long. */
static bool list_adjustments(sampler *s, const int32_t *history, int32_t n_history, int32_t *params)
{
    int32_t *next = params + SOBRE_SAMPLE_ADJUST;
    const int32_t *end = params + SOBRE_SAMPLE_PARAMS_SIZE, *window = NULL;
    int32_t n_window = 0;
    bool fits = true;

    if (s->penalise) window = count_window(s, history, n_history, &n_window);
    for (size_t i = 0; i < s->o.n_bias; i++, next += SOBRE_SAMPLE_ADJUST_SIZE) {
        next[SOBRE_SAMPLE_ADJUST_ID] = s->o.bias[i].id;
        next[SOBRE_SAMPLE_ADJUST_BIAS] = float_bits(s->o.bias[i].bias);
        next[SOBRE_SAMPLE_ADJUST_COUNT] = s->penalise ? take_count(s, s->o.bias[i].id) : 0;
    }
    for (int32_t i = 0; i < n_window; i++) { /* to the end: counts must become zero */
        int32_t count = take_count(s, window[i]);
        if (!count) continue;
        fits = fits && next < end;
        if (!fits) continue;
        next[SOBRE_SAMPLE_ADJUST_ID] = window[i];
        next[SOBRE_SAMPLE_ADJUST_BIAS] = float_bits(0);
        next[SOBRE_SAMPLE_ADJUST_COUNT] = count;
        next += SOBRE_SAMPLE_ADJUST_SIZE;
    }
    params[SOBRE_SAMPLE_N_ADJUST] =
        (int32_t)(next - params - SOBRE_SAMPLE_ADJUST) / SOBRE_SAMPLE_ADJUST_SIZE;
    return fits;
}

void sampler_params(sampler *s, const int32_t *history, int32_t n_history, int32_t *ret_params)
{
    const sobre_sampling *o = &s->o;
    int32_t *p = ret_params;
    bool draws = o->temperature > 0;

    memset(p, 0, SOBRE_SAMPLE_ADJUST * sizeof *p);
    p[SOBRE_SAMPLE_MODE] = SOBRE_SAMPLE_MODE_HOST;
    if (!s->on_device || !list_adjustments(s, history, n_history, p)) return;
    p[SOBRE_SAMPLE_MODE] = draws || o->n_top ? SOBRE_SAMPLE_MODE_LIST : SOBRE_SAMPLE_MODE_BEST;
    p[SOBRE_SAMPLE_N_TOP] = o->n_top;
    p[SOBRE_SAMPLE_REPETITION] = float_bits(o->repetition_penalty);
    p[SOBRE_SAMPLE_PRESENCE] = float_bits(o->presence_penalty);
    p[SOBRE_SAMPLE_FREQUENCY] = float_bits(o->frequency_penalty);
    if (!draws) return;
    p[SOBRE_SAMPLE_INV_TEMPERATURE] = float_bits(1 / o->temperature);
    p[SOBRE_SAMPLE_TOP_K] = o->top_k < s->n_vocab ? o->top_k : 0;
    p[SOBRE_SAMPLE_TOP_P] = float_bits(o->top_p);
    p[SOBRE_SAMPLE_MIN_P] = float_bits(o->min_p);
    p[SOBRE_SAMPLE_UNIFORM] = float_bits((float)random_peek(s));
}

sobre_status sampler_take(sampler *s, const int32_t *result, int32_t *ret_id, float *ret_logprob)
{
    const int32_t *top = result + SOBRE_SAMPLE_TOP;
    int32_t id = result[SOBRE_SAMPLE_ID];

    if (id < 0 || id >= s->n_vocab)
        return fail(s->ctx, SOBRE_DEVICE,
                    "the device sampled token %d, but there are tokens 0 to %d; its driver may be "
                    "at fault",
                    id, s->n_vocab - 1);
    s->drawn = false;
    s->n_top = (size_t)(s->o.n_top < s->n_vocab ? s->o.n_top : s->n_vocab);
    for (size_t i = 0; i < s->n_top; i++)
        s->top[i] = (sobre_token_prob){.id = top[2 * i], .logprob = bits_float(top[2 * i + 1])};
    *ret_id = id;
    *ret_logprob = bits_float(result[SOBRE_SAMPLE_LOGPROB]);
    return SOBRE_OK;
}
