/* SPDX-License-Identifier: MIT */
/* The table of element and block types, and half-precision conversions. */
#include "dtype.h"

#include <string.h>

#include "checked.h"

#define PLAIN(text, bytes, float_)                                  \
    {                                                               \
        .name = text, .block = 1, .size = bytes, .is_float = float_ \
    }
#define QUANT(text, n, bytes)                                     \
    {                                                             \
        .name = text, .block = n, .size = bytes, .is_quant = true \
    }
#define UNSUPPORTED(text) \
    {                     \
        .known = text     \
    }
#define RETIRED(text, why)            \
    {                                 \
        .known = text, .retired = why \
    }

static const char interleaved[] =
    "blocks interleaved for one processor were removed from GGUF; take the plain variant of the "
    "model";
static const char early[] = "it was removed from GGML in 2023; quantise the model anew";

/* By GGUF's number. */
static const dtype_info table[] = {
    [SOBRE_F32] = PLAIN("F32", 4, true),
    [SOBRE_F16] = PLAIN("F16", 2, true),
    [SOBRE_Q4_0] = QUANT("Q4_0", 32, 18),
    [SOBRE_Q4_1] = QUANT("Q4_1", 32, 20),
    [4] = RETIRED("Q4_2", early),
    [5] = RETIRED("Q4_3", early),
    [SOBRE_Q5_0] = QUANT("Q5_0", 32, 22),
    [SOBRE_Q5_1] = QUANT("Q5_1", 32, 24),
    [SOBRE_Q8_0] = QUANT("Q8_0", 32, 34),
    [9] = UNSUPPORTED("Q8_1"),
    [SOBRE_Q2_K] = QUANT("Q2_K", 256, 84),
    [SOBRE_Q3_K] = QUANT("Q3_K", 256, 110),
    [SOBRE_Q4_K] = QUANT("Q4_K", 256, 144),
    [SOBRE_Q5_K] = QUANT("Q5_K", 256, 176),
    [SOBRE_Q6_K] = QUANT("Q6_K", 256, 210),
    [15] = UNSUPPORTED("Q8_K"),
    [16] = UNSUPPORTED("IQ2_XXS"),
    [17] = UNSUPPORTED("IQ2_XS"),
    [18] = UNSUPPORTED("IQ3_XXS"),
    [19] = UNSUPPORTED("IQ1_S"),
    [SOBRE_IQ4_NL] = QUANT("IQ4_NL", 32, 18),
    [SOBRE_IQ3_S] = QUANT("IQ3_S", 256, 110),
    [22] = UNSUPPORTED("IQ2_S"),
    [SOBRE_IQ4_XS] = QUANT("IQ4_XS", 256, 136),
    [SOBRE_I8] = PLAIN("I8", 1, false),
    [SOBRE_I16] = PLAIN("I16", 2, false),
    [SOBRE_I32] = PLAIN("I32", 4, false),
    [SOBRE_I64] = PLAIN("I64", 8, false),
    [SOBRE_F64] = PLAIN("F64", 8, true),
    [29] = UNSUPPORTED("IQ1_M"),
    [SOBRE_BF16] = PLAIN("BF16", 2, true),
    [31] = RETIRED("Q4_0_4_4", interleaved),
    [32] = RETIRED("Q4_0_4_8", interleaved),
    [33] = RETIRED("Q4_0_8_8", interleaved),
    [SOBRE_TQ1_0] = QUANT("TQ1_0", 256, 54),
    [SOBRE_TQ2_0] = QUANT("TQ2_0", 256, 66),
    [36] = RETIRED("IQ4_NL_4_4", interleaved),
    [37] = RETIRED("IQ4_NL_4_8", interleaved),
    [38] = RETIRED("IQ4_NL_8_8", interleaved),
    [SOBRE_MXFP4] = QUANT("MXFP4", 32, 17),
    [40] = UNSUPPORTED("NVFP4"),
    [41] = UNSUPPORTED("Q1_0"),
};

const dtype_info *dtype_get(int64_t dtype)
{
    static const dtype_info none = {0};
    if (dtype < 0 || dtype >= (int64_t)(sizeof table / sizeof table[0])) return &none;
    return &table[dtype];
}

bool dtype_row_size(sobre_dtype dtype, int64_t n, uint64_t *ret_size)
{
    const dtype_info *info = dtype_get(dtype);
    if (!info->name || n < 0 || n % info->block) return false;
    return checked_mul((uint64_t)(n / info->block), (uint64_t)info->size, ret_size);
}

static float float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of_float(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 0) { /* zero or subnormal: a multiple of 2^-24, exact in f32 */
        return float_of_bits(sign | bits_of_float((float)mantissa * 0x1p-24f));
    }
    exponent = exponent == 31 ? 255 : exponent + 112;
    return float_of_bits(sign | exponent << 23 | mantissa << 13);
}

uint16_t f32_to_f16(float f)
{
    uint32_t bits = bits_of_float(f), magnitude = bits & 0x7fffffff;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000) { /* NaN: quiet, with what fits of its payload */
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    }
    if (magnitude >= 0x477ff000) return sign | 0x7c00; /* rounds to 65536 or more */
    uint32_t mantissa, shift, base;
    if (magnitude >= 0x38800000) { /* normal: rebias the exponent */
        mantissa = magnitude - 0x38000000;
        shift = 13;
    } else { /* subnormal: shift the mantissa to multiples of 2^-24 */
        shift = 126 - (magnitude >> 23);
        if (shift > 24) return sign;
        mantissa = (magnitude & 0x7fffff) | 0x800000;
    }
    base = mantissa >> shift;
    uint32_t rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
    base += rest > half || (rest == half && (base & 1));
    return (uint16_t)(sign | base);
}

float bf16_to_f32(uint16_t h)
{
    return float_of_bits((uint32_t)h << 16);
}

uint16_t f32_to_bf16(float f)
{
    uint32_t bits = bits_of_float(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* quiet NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
