/* SPDX-License-Identifier: MIT */
/* Block types against their golden decodings, half precision, encoders. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quant.h"

enum { N = 32 * 256 };

static const sobre_dtype golden[] = {
    SOBRE_BF16, SOBRE_F16,  SOBRE_IQ3_S, SOBRE_IQ4_NL, SOBRE_IQ4_XS, SOBRE_MXFP4,
    SOBRE_Q2_K, SOBRE_Q3_K, SOBRE_Q4_0,  SOBRE_Q4_1,   SOBRE_Q4_K,   SOBRE_Q5_0,
    SOBRE_Q5_1, SOBRE_Q5_K, SOBRE_Q6_K,  SOBRE_Q8_0,   SOBRE_TQ1_0,  SOBRE_TQ2_0,
};

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static float of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* tests/data/quants/<name in lower case><suffix>, without its first `skip` bytes. */
static void *golden_read(sobre_dtype dtype, const char *suffix, long skip, size_t size)
{
    char name[32], path[1024];
    const char *from = dtype_get(dtype)->name;
    size_t n = strlen(from);
    for (size_t i = 0; i <= n; i++) {
        name[i] = (char)(from[i] >= 'A' && from[i] <= 'Z' ? from[i] + 'a' - 'A' : from[i]);
    }
    snprintf(path, sizeof path, "%s/quants/%s%s", TEST_DATA, name, suffix);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    void *data = malloc(size);
    assert_non_null(data);
    assert_int_equal(fseek(file, skip, SEEK_SET), 0);
    assert_int_equal(fread(data, 1, size, file), size);
    assert_int_equal(fgetc(file), EOF);
    fclose(file);
    return data;
}

static void test_golden(void **state)
{
    for (size_t t = 0; t < sizeof golden / sizeof golden[0]; t++) {
        uint64_t size;
        assert_true(dtype_row_size(golden[t], N, &size));
        uint8_t *blocks = golden_read(golden[t], ".bin", 0, (size_t)size);
        float *want = golden_read(golden[t], ".npy", 128, N * sizeof(float));
        float *got = malloc(N * sizeof(float));
        memset(got, 0xaa, N * sizeof(float));
        dtype_decode(golden[t], blocks, N, got);
        for (int i = 0; i < N; i++) {
            if (bits_of(got[i]) != bits_of(want[i])) {
                fail_msg("%s [%d]: %.9g, not %.9g", dtype_get(golden[t])->name, i, got[i], want[i]);
            }
        }
        free(blocks);
        free(want);
        free(got);
    }
}

/* d * q + m is what dtype_decode() gives, and q stays in the range of its form. */
static void test_unpack(void **state)
{
    for (size_t t = 0; t < sizeof golden / sizeof golden[0]; t++) {
        const quant_form *form = quant_form_get(golden[t]);
        if (!form) {
            assert_false(dtype_get(golden[t])->is_quant);
            continue;
        }
        uint64_t size;
        assert_true(dtype_row_size(golden[t], N, &size));
        uint8_t *blocks = golden_read(golden[t], ".bin", 0, (size_t)size);
        int8_t *q = malloc(N);
        int n_groups = N / form->group;
        float *d = malloc((size_t)n_groups * sizeof *d), *m = malloc((size_t)n_groups * sizeof *m);
        float *want = malloc(N * sizeof *want);
        quant_unpack(golden[t], blocks, N, q, d, form->has_min ? m : NULL);
        dtype_decode(golden[t], blocks, N, want);
        for (int i = 0; i < N; i++) {
            int g = i / form->group;
            float w = d[g] * (float)q[i];
            if (form->has_min) w = w + m[g];
            assert_int_equal(bits_of(w), bits_of(want[i]));
            assert_in_range(q[i] + 128, form->q_min + 128, form->q_max + 128);
        }
        free(blocks);
        free(q);
        free(d);
        free(m);
        free(want);
    }
}

static void test_table(void **state)
{
    uint64_t size = 7;
    for (int64_t i = -2; i < 300; i++) {
        const dtype_info *info = dtype_get(i);
        assert_non_null(info);
        assert_false(info->name && info->known);
        if (info->retired) assert_non_null(info->known);
        if (!info->name) {
            assert_false(dtype_row_size((sobre_dtype)i, 256, &size));
            continue;
        }
        assert_true(info->block > 0 && info->size > 0);
        assert_int_equal(info->is_quant, quant_form_get((sobre_dtype)i) != NULL);
        assert_false(info->is_quant && info->is_float);
    }
    assert_int_equal(size, 7);
    assert_non_null(dtype_get(4)->retired);
    assert_non_null(dtype_get(33)->retired);
    assert_non_null(dtype_get(38)->retired);
    assert_string_equal(dtype_get(19)->known, "IQ1_S");
    assert_false(dtype_row_size(SOBRE_Q4_K, 32, &size));
    assert_false(dtype_row_size(SOBRE_Q4_0, 33, &size));
    assert_false(dtype_row_size(SOBRE_Q4_0, -32, &size));
    assert_false(dtype_row_size(SOBRE_F64, INT64_MAX, &size));
    assert_true(dtype_row_size(SOBRE_Q6_K, 512, &size));
    assert_int_equal(size, 420);
}

static void test_half(void **state)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = f16_to_f32((uint16_t)h);
        int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 0x3ff);
        if (exponent == 31) {
            assert_int_equal(bits_of(f),
                             (h & 0x8000) << 16 | 0x7f800000 | (uint32_t)mantissa << 13);
        } else {
            float want = exponent ? ldexpf((float)(mantissa | 0x400), exponent - 25)
                                  : ldexpf((float)mantissa, -24);
            assert_int_equal(bits_of(f), bits_of(h & 0x8000 ? -want : want));
        }
        bool nan = exponent == 31 && mantissa;
        assert_int_equal(f32_to_f16(f), nan ? h | 0x200 : h);
        assert_int_equal(bits_of(bf16_to_f32((uint16_t)h)), h << 16);
        nan = (h & 0x7fff) > 0x7f80;
        assert_int_equal(f32_to_bf16(bf16_to_f32((uint16_t)h)), nan ? h | 0x40 : h);
    }
}

/* Between two neighbours: halfway goes to the even one, the rest to the nearer. */
static void test_half_rounding(void **state)
{
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float low = f16_to_f32((uint16_t)h);
        float high = h == 0x7bff ? 65536 : f16_to_f32((uint16_t)(h + 1));
        float middle = low + (high - low) / 2; /* exact */
        assert_int_equal(f32_to_f16(middle), h + (h & 1));
        assert_int_equal(f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(f32_to_f16(-middle), 0x8000 | (h + (h & 1)));
    }
    assert_int_equal(f32_to_f16(FLT_MIN / 4), 0);
    assert_int_equal(f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(f32_to_f16(-INFINITY), 0xfc00);
    for (uint32_t h = 0; h < 0x7f80; h++) {
        assert_int_equal(f32_to_bf16(of_bits(h << 16 | 0x8000)), h + (h & 1));
        assert_int_equal(f32_to_bf16(of_bits(h << 16 | 0x7fff)), h);
        assert_int_equal(f32_to_bf16(of_bits(h << 16 | 0x8001)), h + 1);
    }
}

/* Steps between levels, as a share of the range of a block. */
static void test_encode(void **state)
{
    static const struct {
        sobre_dtype dtype;
        float tolerance; /* of the largest magnitude, here 1 */
    } cases[] = {
        {SOBRE_F32, 0},          {SOBRE_F16, 0x1p-11f},
        {SOBRE_BF16, 0x1p-8f},   {SOBRE_Q8_0, 1.01f / 254},
        {SOBRE_Q4_0, 1.01f / 8}, {SOBRE_Q4_1, 1.01f / 15},
    };
    float x[256], back[256];
    uint8_t data[256 * 4];
    for (int i = 0; i < 256; i++) x[i] = i % 32 ? sinf((float)(i * i)) : 1;
    x[64] = -1;
    memset(x + 128, 0, 32 * sizeof *x);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        assert_true(dtype_encode(cases[c].dtype, x, 256, data));
        dtype_decode(cases[c].dtype, data, 256, back);
        for (int i = 0; i < 256; i++) {
            if (i >= 128 && i < 160) assert_true(back[i] == 0);
            assert_true(fabsf(back[i] - x[i]) <= cases[c].tolerance);
        }
        /* What was decoded encodes to itself. */
        float again[256];
        assert_true(dtype_encode(cases[c].dtype, back, 256, data));
        dtype_decode(cases[c].dtype, data, 256, again);
        for (int i = 0; i < 256; i++) assert_true(fabsf(again[i] - back[i]) <= 0x1p-10f);
    }
    assert_false(dtype_encode(SOBRE_Q6_K, x, 256, data));
    for (int i = 0; i < 32; i++) x[i] = i % 2 ? NAN : 1e-42f; /* nonsense, but defined */
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        assert_true(dtype_encode(cases[c].dtype, x, 32, data));
    }
}

static void test_plain(void **state)
{
    const int8_t i8[] = {-128, 5};
    const int16_t i16[] = {-300, 5};
    const int32_t i32[] = {-70000, 5};
    const int64_t i64[] = {-70000, 5};
    const double f64[] = {-0.5, 5};
    float ret[2];
    dtype_decode(SOBRE_I8, i8, 2, ret);
    assert_true(ret[0] == -128 && ret[1] == 5);
    dtype_decode(SOBRE_I16, i16, 2, ret);
    assert_true(ret[0] == -300 && ret[1] == 5);
    dtype_decode(SOBRE_I32, i32, 2, ret);
    assert_true(ret[0] == -70000 && ret[1] == 5);
    dtype_decode(SOBRE_I64, i64, 2, ret);
    assert_true(ret[0] == -70000 && ret[1] == 5);
    dtype_decode(SOBRE_F64, f64, 2, ret);
    assert_true(ret[0] == -0.5f && ret[1] == 5);
}

/* A scale that is no number shows in what is decoded: packers refuse it. */
static void test_not_finite(void **state)
{
    uint8_t block[17] = {255};
    float ret[32];
    memset(block + 1, 0x21, 16);
    dtype_decode(SOBRE_MXFP4, block, 32, ret);
    assert_true(isnan(ret[0]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),        cmocka_unit_test(test_unpack),
        cmocka_unit_test(test_table),         cmocka_unit_test(test_half),
        cmocka_unit_test(test_half_rounding), cmocka_unit_test(test_encode),
        cmocka_unit_test(test_plain),         cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
