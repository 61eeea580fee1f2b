/* SPDX-License-Identifier: MIT */
/* Quantised blocks: taking them apart, unpacking to the common form, decoding, and the encoders
 * that made models need. The layouts are GGUF's. */
#include "quant.h"

#include <math.h>
#include <string.h>

#include "quant_iq.h"

enum { SIGN = 0x8000 /* of an f16 */ };

/* 16 bytes: first all low nibbles, then all high ones. */
static void nibbles(const uint8_t *bytes, uint8_t *u)
{
    for (int i = 0; i < 16; i++) u[i] = bytes[i] & 15;
    for (int i = 0; i < 16; i++) u[i + 16] = bytes[i] >> 4;
}

/* 32 fifth bits, put to what nibbles() made. */
static void fifth_bits(const uint8_t *bits, uint8_t *u)
{
    for (int i = 0; i < 4; i++) {
        /* A copy of the byte for each of its bits, which then stands alone; carried to bit 7. */
        uint64_t spread = bits[i] * 0x0101010101010101u & 0x8040201008040201u, low;
        spread = ((spread & 0x7f7f7f7f7f7f7f7fu) + 0x7f7f7f7f7f7f7f7fu) | spread;
        spread = spread >> 3 & 0x1010101010101010u;
        memcpy(&low, u + 8 * i, sizeof low);
        low |= spread;
        memcpy(u + 8 * i, &low, sizeof low);
    }
}

/* Field `field`, `bits` wide, of 32 bytes. */
static void fields(const uint8_t *bytes, int field, int bits, uint8_t *u)
{
    const int shift = field * bits, mask = (1 << bits) - 1;
    for (int i = 0; i < 32; i++) u[i] = (uint8_t)(bytes[i] >> shift & mask);
}

/* The same, put above the low bits that are there. */
static void fields_above(const uint8_t *bytes, int field, int bits, int low, uint8_t *u)
{
    const int shift = field * bits, mask = (1 << bits) - 1;
    for (int i = 0; i < 32; i++) u[i] |= (uint8_t)((bytes[i] >> shift & mask) << low);
}

/* f16 d; nibbles [16] */
static void split_q4_0(const uint8_t *block, quant_parts *p)
{
    p->d = load_u16(block);
    nibbles(block + 2, p->u);
}

/* f16 d; f16 m; nibbles [16] */
static void split_q4_1(const uint8_t *block, quant_parts *p)
{
    p->d = load_u16(block);
    p->m = load_u16(block + 2);
    nibbles(block + 4, p->u);
}

/* f16 d; fifth bits [4]; nibbles [16] */
static void split_q5_0(const uint8_t *block, quant_parts *p)
{
    p->d = load_u16(block);
    nibbles(block + 6, p->u);
    fifth_bits(block + 2, p->u);
}

/* f16 d; f16 m; fifth bits [4]; nibbles [16] */
static void split_q5_1(const uint8_t *block, quant_parts *p)
{
    p->d = load_u16(block);
    p->m = load_u16(block + 2);
    nibbles(block + 8, p->u);
    fifth_bits(block + 4, p->u);
}

/* f16 d; i8 [32] */
static void split_q8_0(const uint8_t *block, quant_parts *p)
{
    p->d = load_u16(block);
    for (int i = 0; i < 32; i++) p->u[i] = block[2 + i] ^ 128;
}

/* nibbles: scale, minimum [16]; two bits [2 halves][32 bytes][4 fields]; f16 d; f16 dmin */
static void split_q2_k(const uint8_t *block, quant_parts *p)
{
    p->d = load_u16(block + 80);
    p->m = load_u16(block + 82) ^ SIGN;
    for (int g = 0; g < 16; g++) p->codes[g] = (int8_t)(block[g] & 15);
    for (int g = 0; g < 16; g++) p->minima[g] = block[g] >> 4;
    for (int k = 0; k < 8; k++) fields(block + 16 + 32 * (k / 4), k % 4, 2, p->u + 32 * k);
}

/* third bits [32 bytes][8 fields], zero meaning minus 4; two bits as in Q2_K; 16 scales of six
 * bits: the low four in 8 bytes, the high two in 4; f16 d */
static void split_q3_k(const uint8_t *block, quant_parts *p)
{
    const uint8_t *scales = block + 96;
    p->d = load_u16(block + 108);
    for (int g = 0; g < 16; g++) {
        int low = scales[g % 8] >> 4 * (g / 8) & 15, high = scales[8 + g % 4] >> 2 * (g / 4) & 3;
        p->codes[g] = (int8_t)((low | high << 4) - 32);
    }
    for (int k = 0; k < 8; k++) {
        fields(block + 32 + 32 * (k / 4), k % 4, 2, p->u + 32 * k);
        fields_above(block, k, 1, 2, p->u + 32 * k);
    }
}

/* f16 d; f16 dmin; 8 scales and 8 minima of six bits in 12 bytes: the first four of each in the low
 * bits of 4 + 4 bytes, the others' low nibbles in the last 4, their high bits above the first. */
static void scales_and_minima(const uint8_t *block, quant_parts *p)
{
    const uint8_t *s = block + 4;
    p->d = load_u16(block);
    p->m = load_u16(block + 2) ^ SIGN;
    for (int g = 0; g < 4; g++) {
        p->codes[g] = (int8_t)(s[g] & 63);
        p->minima[g] = s[g + 4] & 63;
        p->codes[g + 4] = (int8_t)((s[g + 8] & 15) | (s[g] >> 6) << 4);
        p->minima[g + 4] = (uint8_t)((s[g + 8] >> 4) | (s[g + 4] >> 6) << 4);
    }
}

/* scales and minima [16]; nibbles [4][32 bytes], each two groups */
static void split_q4_k(const uint8_t *block, quant_parts *p)
{
    scales_and_minima(block, p);
    for (int g = 0; g < 8; g++) fields(block + 16 + 32 * (g / 2), g % 2, 4, p->u + 32 * g);
}

/* scales and minima [16]; fifth bits [32 bytes][8 groups]; nibbles as in Q4_K */
static void split_q5_k(const uint8_t *block, quant_parts *p)
{
    scales_and_minima(block, p);
    for (int g = 0; g < 8; g++) {
        fields(block + 48 + 32 * (g / 2), g % 2, 4, p->u + 32 * g);
        fields_above(block + 16, g, 1, 4, p->u + 32 * g);
    }
}

/* low nibbles [2 halves][64 bytes][2 fields]; high two bits [2][32 bytes][4]; i8 scales [16]; f16 d
 */
static void split_q6_k(const uint8_t *block, quant_parts *p)
{
    p->d = load_u16(block + 208);
    memcpy(p->codes, block + 192, 16);
    for (int k = 0; k < 8; k++) {
        int half = k / 4, field = k % 4;
        fields(block + 64 * half + 32 * (field % 2), field / 2, 4, p->u + 32 * k);
        fields_above(block + 128 + 32 * half, field, 2, 4, p->u + 32 * k);
    }
}

/* Base-3 digits as fixed-point fractions: a byte times 3^i keeps the fraction after i digits, times
 * 3 / 256 gives the next one. */
static void trits(const uint8_t *bytes, int n_bytes, int n_digits, uint8_t *u)
{
    unsigned power = 1;
    for (int digit = 0; digit < n_digits; digit++, power *= 3) {
        for (int i = 0; i < n_bytes; i++) {
            uint8_t fraction = (uint8_t)(bytes[i] * power);
            *u++ = (uint8_t)(fraction * 3 >> 8);
        }
    }
}

/* trits: 5 a byte [32], 5 a byte [16], 4 a byte [4]; f16 d */
static void split_tq1_0(const uint8_t *block, quant_parts *p)
{
    p->d = load_u16(block + 52);
    memset(p->codes, 1, 8);
    trits(block, 32, 5, p->u);
    trits(block + 32, 16, 5, p->u + 160);
    trits(block + 48, 4, 4, p->u + 240);
}

/* two bits as in Q2_K; f16 d */
static void split_tq2_0(const uint8_t *block, quant_parts *p)
{
    p->d = load_u16(block + 64);
    memset(p->codes, 1, 8);
    for (int k = 0; k < 8; k++) fields(block + 32 * (k / 4), k % 4, 2, p->u + 32 * k);
}

/* f16 d; u16 high two bits of 8 scales; nibbles: their low four bits [4]; nibbles [8][16] */
static void split_iq4_xs(const uint8_t *block, quant_parts *p)
{
    unsigned high = load_u16(block + 2);
    p->d = load_u16(block);
    for (int g = 0; g < 8; g++) {
        int s = (block[4 + g / 2] >> 4 * (g & 1) & 15) | (high >> 2 * g & 3) << 4;
        p->codes[g] = (int8_t)(s - 32);
        nibbles(block + 8 + 16 * g, p->u + 32 * g);
    }
}

/* E8M0 exponent; nibbles [16]. The levels are doubled, so d is halved: 2^(e - 128), whose two
 * smallest values are denormal numbers of bfloat16. */
static void split_mxfp4(const uint8_t *block, quant_parts *p)
{
    const int e = block[0];
    p->d = (uint16_t)(e == 255 ? 0x7fc0 : e < 2 ? 0x20 << e : (e - 1) << 7);
    nibbles(block + 1, p->u);
}

/* Levels of IQ4_NL and IQ4_XS, finer near zero where most weights are. */
static const int8_t levels_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

/* FP4 E2M1, doubled: OCP Microscaling Formats (MX) Specification 1.0, 2023. */
static const int8_t levels_fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

typedef struct quant_type {
    quant_form form;
    void (*split)(const uint8_t *block, quant_parts *ret);
} quant_type;

/* group, minimum, least and largest q, bias, levels, codes, wide scale */
static const quant_type types[] = {
    [SOBRE_Q4_0] = {{32, false, -8, 7, 8, NULL, false, false}, split_q4_0},
    [SOBRE_Q4_1] = {{32, true, 0, 15, 0, NULL, false, false}, split_q4_1},
    [SOBRE_Q5_0] = {{32, false, -16, 15, 16, NULL, false, false}, split_q5_0},
    [SOBRE_Q5_1] = {{32, true, 0, 31, 0, NULL, false, false}, split_q5_1},
    [SOBRE_Q8_0] = {{32, false, -128, 127, 128, NULL, false, false}, split_q8_0},
    [SOBRE_Q2_K] = {{16, true, 0, 3, 0, NULL, true, false}, split_q2_k},
    [SOBRE_Q3_K] = {{16, false, -4, 3, 4, NULL, true, false}, split_q3_k},
    [SOBRE_Q4_K] = {{32, true, 0, 15, 0, NULL, true, false}, split_q4_k},
    [SOBRE_Q5_K] = {{32, true, 0, 31, 0, NULL, true, false}, split_q5_k},
    [SOBRE_Q6_K] = {{16, false, -32, 31, 32, NULL, true, false}, split_q6_k},
    [SOBRE_IQ4_NL] = {{32, false, -127, 113, 0, levels_iq4, false, false}, split_q4_0},
    [SOBRE_IQ3_S] = {{32, false, -15, 15, 16, NULL, true, false}, split_iq3_s},
    [SOBRE_IQ4_XS] = {{32, false, -127, 113, 0, levels_iq4, true, false}, split_iq4_xs},
    [SOBRE_TQ1_0] = {{32, false, -1, 1, 1, NULL, true, false}, split_tq1_0},
    [SOBRE_TQ2_0] = {{32, false, -1, 2, 1, NULL, true, false}, split_tq2_0},
    [SOBRE_MXFP4] = {{32, false, -12, 12, 0, levels_fp4, false, true}, split_mxfp4},
};

const quant_form *quant_form_get(sobre_dtype dtype)
{
    return dtype_get(dtype)->is_quant ? &types[dtype].form : NULL;
}

void quant_split(sobre_dtype dtype, const void *block, quant_parts *ret)
{
    types[dtype].split(block, ret);
}

void quant_unpack(sobre_dtype dtype, const void *blocks, int64_t n, int8_t *q, float *d, float *m)
{
    const dtype_info *info = dtype_get(dtype);
    const quant_form *form = &types[dtype].form;
    const int n_groups = info->block / form->group;
    const uint8_t *block = blocks;
    quant_parts p;
    for (int64_t i = 0; i < n; i += info->block, block += info->size, q += info->block) {
        types[dtype].split(block, &p);
        if (form->levels) {
            for (int k = 0; k < info->block; k++) q[k] = form->levels[p.u[k]];
        } else {
            for (int k = 0; k < info->block; k++) q[k] = (int8_t)(p.u[k] - form->bias);
        }
        const float scale = form->wide_scale ? bf16_to_f32(p.d) : f16_to_f32(p.d);
        for (int g = 0; g < n_groups; g++) {
            *d++ = form->has_codes ? scale * (float)p.codes[g] : scale;
        }
        if (!form->has_min) continue;
        const float minimum = f16_to_f32(p.m);
        for (int g = 0; g < n_groups; g++) {
            *m++ = form->has_codes ? minimum * (float)p.minima[g] : minimum;
        }
    }
}

static void decode_quant(sobre_dtype dtype, const uint8_t *block, int64_t n, float *ret)
{
    const dtype_info *info = dtype_get(dtype);
    const quant_form *form = &types[dtype].form;
    int8_t q[QUANT_MAX_BLOCK];
    float d[QUANT_MAX_GROUPS], m[QUANT_MAX_GROUPS];
    const int n_groups = info->block / form->group;
    for (int64_t i = 0; i < n; i += info->block, block += info->size) {
        quant_unpack(dtype, block, info->block, q, d, m);
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
