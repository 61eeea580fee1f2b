/* SPDX-License-Identifier: MIT */
/* Quantised blocks: unpacking to the common form, decoding, and the encoders that made models need.
 * The layouts are GGUF's. */
#include "quant.h"

#include <math.h>
#include <string.h>

#include "quant_iq.h"

enum { MAX_BLOCK = 256, MIN_GROUP = 16 };

static float scale_at(const uint8_t *p)
{
    return f16_to_f32(load_u16(p));
}

/* 16 bytes: first all low nibbles, then all high ones; less `bias`. */
static void nibbles(const uint8_t *bytes, int bias, int8_t *q)
{
    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)((bytes[i] & 15) - bias);
        q[i + 16] = (int8_t)((bytes[i] >> 4) - bias);
    }
}

/* The same with a fifth bit each. */
static void nibbles_and_bit(const uint8_t *bytes, const uint8_t *fifth, int bias, int8_t *q)
{
    for (int i = 0; i < 16; i++) {
        int low = fifth[i / 8] >> i % 8 & 1, high = fifth[2 + i / 8] >> i % 8 & 1;
        q[i] = (int8_t)((bytes[i] & 15) + 16 * low - bias);
        q[i + 16] = (int8_t)((bytes[i] >> 4) + 16 * high - bias);
    }
}

/* f16 d; nibbles [16] */
static void unpack_q4_0(const uint8_t *block, int8_t *q, float *d, float *m)
{
    *d = scale_at(block);
    nibbles(block + 2, 8, q);
}

/* f16 d; f16 m; nibbles [16] */
static void unpack_q4_1(const uint8_t *block, int8_t *q, float *d, float *m)
{
    *d = scale_at(block);
    *m = scale_at(block + 2);
    nibbles(block + 4, 0, q);
}

/* f16 d; fifth bits [4]; nibbles [16] */
static void unpack_q5_0(const uint8_t *block, int8_t *q, float *d, float *m)
{
    *d = scale_at(block);
    nibbles_and_bit(block + 6, block + 2, 16, q);
}

/* f16 d; f16 m; fifth bits [4]; nibbles [16] */
static void unpack_q5_1(const uint8_t *block, int8_t *q, float *d, float *m)
{
    *d = scale_at(block);
    *m = scale_at(block + 2);
    nibbles_and_bit(block + 8, block + 4, 0, q);
}

/* f16 d; i8 [32] */
static void unpack_q8_0(const uint8_t *block, int8_t *q, float *d, float *m)
{
    *d = scale_at(block);
    memcpy(q, block + 2, 32);
}

/* nibbles: scale, minimum [16]; two bits [2 halves][32 bytes][4 fields]; f16 d; f16 dmin */
static void unpack_q2_k(const uint8_t *block, int8_t *q, float *d, float *m)
{
    const uint8_t *bits = block + 16;
    float scale = scale_at(block + 80), minimum = scale_at(block + 82);
    for (int g = 0; g < 16; g++) {
        d[g] = scale * (float)(block[g] & 15);
        m[g] = -(minimum * (float)(block[g] >> 4));
    }
    for (int k = 0; k < 8; k++) {
        for (int i = 0; i < 32; i++) {
            q[32 * k + i] = (int8_t)(bits[32 * (k / 4) + i] >> 2 * (k % 4) & 3);
        }
    }
}

/* third bits [32 bytes][8 fields], zero meaning minus 4; two bits as in Q2_K; 16 scales of six
 * bits: the low four in 8 bytes, the high two in 4; f16 d */
static void unpack_q3_k(const uint8_t *block, int8_t *q, float *d, float *m)
{
    const uint8_t *third = block, *bits = block + 32, *scales = block + 96;
    float scale = scale_at(block + 108);
    for (int g = 0; g < 16; g++) {
        int low = scales[g % 8] >> 4 * (g / 8) & 15, high = scales[8 + g % 4] >> 2 * (g / 4) & 3;
        d[g] = scale * (float)((low | high << 4) - 32);
    }
    for (int k = 0; k < 8; k++) {
        for (int i = 0; i < 32; i++) {
            int two = bits[32 * (k / 4) + i] >> 2 * (k % 4) & 3;
            q[32 * k + i] = (int8_t)(two - (third[i] >> k & 1 ? 0 : 4));
        }
    }
}

/* f16 d; f16 dmin; 8 scales and 8 minima of six bits in 12 bytes: the first four of each in the low
 * bits of 4 + 4 bytes, the others' low nibbles in the last 4, their high bits above the first. */
static void scales_and_minima(const uint8_t *block, float *d, float *m)
{
    const uint8_t *s = block + 4;
    float scale = scale_at(block), minimum = scale_at(block + 2);
    for (int g = 0; g < 4; g++) {
        d[g] = scale * (float)(s[g] & 63);
        m[g] = -(minimum * (float)(s[g + 4] & 63));
        d[g + 4] = scale * (float)((s[g + 8] & 15) | (s[g] >> 6) << 4);
        m[g + 4] = -(minimum * (float)((s[g + 8] >> 4) | (s[g + 4] >> 6) << 4));
    }
}

/* scales and minima [16]; nibbles [4][32 bytes], each two groups */
static void unpack_q4_k(const uint8_t *block, int8_t *q, float *d, float *m)
{
    const uint8_t *bits = block + 16;
    scales_and_minima(block, d, m);
    for (int g = 0; g < 8; g++) {
        for (int i = 0; i < 32; i++) {
            q[32 * g + i] = (int8_t)(bits[32 * (g / 2) + i] >> 4 * (g % 2) & 15);
        }
    }
}

/* scales and minima [16]; fifth bits [32 bytes][8 groups]; nibbles as in Q4_K */
static void unpack_q5_k(const uint8_t *block, int8_t *q, float *d, float *m)
{
    const uint8_t *fifth = block + 16, *bits = block + 48;
    scales_and_minima(block, d, m);
    for (int g = 0; g < 8; g++) {
        for (int i = 0; i < 32; i++) {
            int low = bits[32 * (g / 2) + i] >> 4 * (g % 2) & 15;
            q[32 * g + i] = (int8_t)(low | (fifth[i] >> g & 1) << 4);
        }
    }
}

/* low nibbles [2 halves][64 bytes][2 fields]; high two bits [2][32 bytes][4]; i8 scales [16]; f16 d
 */
static void unpack_q6_k(const uint8_t *block, int8_t *q, float *d, float *m)
{
    const uint8_t *low = block, *high = block + 128, *scales = block + 192;
    float scale = scale_at(block + 208);
    for (int g = 0; g < 16; g++) d[g] = scale * (float)(int8_t)scales[g];
    for (int k = 0; k < 8; k++) {
        int half = k / 4, field = k % 4;
        const uint8_t *nibble = low + 64 * half + 32 * (field % 2), *two = high + 32 * half;
        for (int i = 0; i < 32; i++) {
            int bits = (nibble[i] >> 4 * (field / 2) & 15) | (two[i] >> 2 * field & 3) << 4;
            q[32 * k + i] = (int8_t)(bits - 32);
        }
    }
}

/* Base-3 digits as fixed-point fractions: a byte times 3^i keeps the fraction after i digits, times
 * 3 / 256 gives the next one. */
static void trits(const uint8_t *bytes, int n_bytes, int n_digits, int8_t *q)
{
    unsigned power = 1;
    for (int digit = 0; digit < n_digits; digit++, power *= 3) {
        for (int i = 0; i < n_bytes; i++) {
            uint8_t fraction = (uint8_t)(bytes[i] * power);
            *q++ = (int8_t)((fraction * 3 >> 8) - 1);
        }
    }
}

static void same_scale(const uint8_t *p, float *d)
{
    float scale = scale_at(p);
    for (int g = 0; g < 8; g++) d[g] = scale;
}

/* trits: 5 a byte [32], 5 a byte [16], 4 a byte [4]; f16 d */
static void unpack_tq1_0(const uint8_t *block, int8_t *q, float *d, float *m)
{
    trits(block, 32, 5, q);
    trits(block + 32, 16, 5, q + 160);
    trits(block + 48, 4, 4, q + 240);
    same_scale(block + 52, d);
}

/* two bits as in Q2_K, less one; f16 d */
static void unpack_tq2_0(const uint8_t *block, int8_t *q, float *d, float *m)
{
    for (int k = 0; k < 8; k++) {
        for (int i = 0; i < 32; i++) {
            q[32 * k + i] = (int8_t)((block[32 * (k / 4) + i] >> 2 * (k % 4) & 3) - 1);
        }
    }
    same_scale(block + 64, d);
}

typedef struct quant_type {
    quant_form form;
    void (*unpack)(const uint8_t *block, int8_t *q, float *d, float *m); /* one block */
} quant_type;

static const quant_type types[] = {
    [SOBRE_Q4_0] = {{32, false, -8, 7}, unpack_q4_0},
    [SOBRE_Q4_1] = {{32, true, 0, 15}, unpack_q4_1},
    [SOBRE_Q5_0] = {{32, false, -16, 15}, unpack_q5_0},
    [SOBRE_Q5_1] = {{32, true, 0, 31}, unpack_q5_1},
    [SOBRE_Q8_0] = {{32, false, -128, 127}, unpack_q8_0},
    [SOBRE_Q2_K] = {{16, true, 0, 3}, unpack_q2_k},
    [SOBRE_Q3_K] = {{16, false, -4, 3}, unpack_q3_k},
    [SOBRE_Q4_K] = {{32, true, 0, 15}, unpack_q4_k},
    [SOBRE_Q5_K] = {{32, true, 0, 31}, unpack_q5_k},
    [SOBRE_Q6_K] = {{16, false, -32, 31}, unpack_q6_k},
    [SOBRE_IQ4_NL] = {{32, false, -127, 113}, unpack_iq4_nl},
    [SOBRE_IQ3_S] = {{32, false, -15, 15}, unpack_iq3_s},
    [SOBRE_IQ4_XS] = {{32, false, -127, 113}, unpack_iq4_xs},
    [SOBRE_TQ1_0] = {{32, false, -1, 1}, unpack_tq1_0},
    [SOBRE_TQ2_0] = {{32, false, -1, 2}, unpack_tq2_0},
    [SOBRE_MXFP4] = {{32, false, -12, 12}, unpack_mxfp4},
};

const quant_form *quant_form_get(sobre_dtype dtype)
{
    return dtype_get(dtype)->is_quant ? &types[dtype].form : NULL;
}

void quant_unpack(sobre_dtype dtype, const void *blocks, int64_t n, int8_t *q, float *d, float *m)
{
    const dtype_info *info = dtype_get(dtype);
    const quant_type *type = &types[dtype];
    int groups = info->block / type->form.group;
    const uint8_t *block = blocks;
    for (int64_t i = 0; i < n; i += info->block) {
        type->unpack(block, q, d, m);
        block += info->size;
        q += info->block;
        d += groups;
        if (type->form.has_min) m += groups;
    }
}

static void decode_quant(sobre_dtype dtype, const uint8_t *block, int64_t n, float *ret)
{
    const dtype_info *info = dtype_get(dtype);
    const quant_form *form = &types[dtype].form;
    int8_t q[MAX_BLOCK];
    float d[MAX_BLOCK / MIN_GROUP], m[MAX_BLOCK / MIN_GROUP];
    const int n_groups = info->block / form->group;
    for (int64_t i = 0; i < n; i += info->block, block += info->size) {
        types[dtype].unpack(block, q, d, m);
        const int8_t *from = q;
        for (int g = 0; g < n_groups; g++) {
            for (int k = 0; k < form->group; k++) ret[k] = d[g] * (float)from[k];
            for (int k = 0; form->has_min && k < form->group; k++) ret[k] += m[g];
            from += form->group;
            ret += form->group;
        }
    }
}

/* Elements may lie at any address. */
#define DECODE(type, value)                                      \
    for (int64_t i = 0; i < n; i++) {                            \
        type x;                                                  \
        memcpy(&x, (const char *)data + i * sizeof x, sizeof x); \
        ret[i] = (value);                                        \
    }                                                            \
    break

void dtype_decode(sobre_dtype dtype, const void *data, int64_t n, float *ret)
{
    switch (dtype) {
    case SOBRE_F32: DECODE(float, x);
    case SOBRE_F16: DECODE(uint16_t, f16_to_f32(x));
    case SOBRE_BF16: DECODE(uint16_t, bf16_to_f32(x));
    case SOBRE_F64: DECODE(double, (float)x);
    case SOBRE_I8: DECODE(int8_t, (float)x);
    case SOBRE_I16: DECODE(int16_t, (float)x);
    case SOBRE_I32: DECODE(int32_t, (float)x);
    case SOBRE_I64: DECODE(int64_t, (float)x);
    default:
        if (dtype_get(dtype)->is_quant) decode_quant(dtype, data, n, ret);
    }
}

static void store_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static float reciprocal(float d)
{
    return d == 0 ? 0 : 1 / d;
}

/* Rounds; what is out of range or NaN is clamped. */
static int level(float x, float low, float high)
{
    return (int)roundf(fminf(fmaxf(x, low), high));
}

static uint8_t level_pair(float first, float second)
{
    return (uint8_t)(level(first, 0, 15) | level(second, 0, 15) << 4);
}

/* The largest magnitude becomes 127. */
static void encode_q8_0(const float *x, uint8_t *block)
{
    float largest = 0;
    for (int i = 0; i < 32; i++) largest = fmaxf(largest, fabsf(x[i]));
    float d = largest / 127, inverse = reciprocal(d);
    store_u16(block, f32_to_f16(d));
    for (int i = 0; i < 32; i++) block[2 + i] = (uint8_t)level(x[i] * inverse, -127, 127);
}

/* The value of largest magnitude becomes -8, whatever its sign. */
static void encode_q4_0(const float *x, uint8_t *block)
{
    float largest = 0;
    for (int i = 0; i < 32; i++) {
        if (fabsf(x[i]) > fabsf(largest)) largest = x[i];
    }
    float d = largest / -8, inverse = reciprocal(d);
    store_u16(block, f32_to_f16(d));
    for (int i = 0; i < 16; i++) {
        block[2 + i] = level_pair(x[i] * inverse + 8, x[i + 16] * inverse + 8);
    }
}

/* The smallest value becomes 0, the largest 15. */
static void encode_q4_1(const float *x, uint8_t *block)
{
    float low = x[0], high = x[0];
    for (int i = 1; i < 32; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    float d = (high - low) / 15, inverse = reciprocal(d);
    store_u16(block, f32_to_f16(d));
    store_u16(block + 2, f32_to_f16(low));
    for (int i = 0; i < 16; i++) {
        block[4 + i] = level_pair((x[i] - low) * inverse, (x[i + 16] - low) * inverse);
    }
}

bool dtype_encode(sobre_dtype dtype, const float *data, int64_t n, void *ret)
{
    static void (*const encoders[])(const float *x, uint8_t *block) = {
        [SOBRE_Q4_0] = encode_q4_0, [SOBRE_Q4_1] = encode_q4_1, [SOBRE_Q8_0] = encode_q8_0};
    uint8_t *to = ret;
    switch (dtype) {
    case SOBRE_F32: memcpy(to, data, (size_t)n * sizeof *data); return true;
    case SOBRE_F16:
        for (int64_t i = 0; i < n; i++) store_u16(to + 2 * i, f32_to_f16(data[i]));
        return true;
    case SOBRE_BF16:
        for (int64_t i = 0; i < n; i++) store_u16(to + 2 * i, f32_to_bf16(data[i]));
        return true;
    case SOBRE_Q4_0:
    case SOBRE_Q4_1:
    case SOBRE_Q8_0:
        for (int64_t i = 0; i < n; i += 32, to += dtype_get(dtype)->size) {
            encoders[dtype](data + i, to);
        }
        return true;
    default: return false;
    }
}
