/* SPDX-License-Identifier: MIT */
/*
 * Weights in a GPU's memory: planes of every type, unpacked here as kernels_cl/weights.h describes
 * them, against dtype_decode(); rows in any order, through the driver and in place; what is
 * damaged or does not fit is refused.
 */
#include <math.h>

#include "fake_gpu.h"
#include "random_weights.h"
#include "weights.h"

enum { N_ROWS = 37, MAX_COLS = 512 };

/* One weight and the buffer that it is packed into. */
typedef struct packed {
    fake *f;
    sobre_weight weight;
    gpu_layout layout;
    sobre_buffer buffer;
    sobre_span span;
} packed;

static void packed_open(packed *p, fake *f, sobre_dtype dtype, uint32_t uses, int64_t n_rows,
                        int64_t n_cols, bool in_place)
{
    enum { OFFSET = 256 };
    uint64_t size = 0;
    void *host = NULL;
    *p = (packed){.f = f, .weight = {"blk.0.w", dtype, uses, n_rows, n_cols}};
    assert_true(gpu_layout_of(&p->weight, &p->layout));
    assert_ok(f->ctx, gpu_weight_size(&f->device, &p->weight, &size));
    assert_int_equal(size, p->layout.size);
    p->buffer = (sobre_buffer){.device = &f->device, .size = OFFSET + size};
    assert_ok(f->ctx, f->device.driver->mem_alloc(&f->device, OFFSET + size, SOBRE_BUFFER_WEIGHTS,
                                                  &p->buffer.mem, &host));
    if (in_place) p->buffer.host = p->buffer.mem->data;
    p->span = (sobre_span){&p->buffer, OFFSET, size};
}

static void packed_close(packed *p)
{
    p->f->device.driver->mem_free(&p->f->device, p->buffer.mem);
}

static const uint8_t *packed_data(const packed *p)
{
    return p->buffer.mem->data + p->span.offset;
}

static sobre_status pack(packed *p, int64_t row, int64_t n_rows, const uint8_t *data)
{
    uint64_t row_size = rig_row_size(p->weight.dtype, p->weight.n_cols);
    return gpu_weight_pack(&p->f->device, &p->weight, &p->span, row, n_rows,
                           data + (uint64_t)row * row_size);
}

static float half_at(const uint8_t *from, int64_t i)
{
    uint16_t h;
    memcpy(&h, from + 2 * i, sizeof h);
    return f16_to_f32(h);
}

/* Element [row, col] out of the planes; columns go on to the end of the last block. */
static float element(const packed *p, int64_t row, int64_t col)
{
    const uint8_t *quants = packed_data(p), *scales = quants + p->layout.scales_at;
    int64_t block = row * p->layout.n_blocks + col / W_BLOCK, j = col % W_BLOCK;
    int nibble = quants[block * 16 + j % 16] >> (j < 16 ? 0 : 4) & 15;
    float v;
    switch (p->layout.type) {
    case W_Q4_0: return half_at(scales, block) * (float)(nibble - 8);
    case W_Q4_1:
        v = half_at(scales, 2 * block) * (float)nibble;
        return v + half_at(scales, 2 * block + 1);
    case W_Q8_0: return half_at(scales, block) * (float)(int8_t)quants[block * W_BLOCK + j];
    case W_F16: return half_at(quants, block * W_BLOCK + j);
    case W_F32: memcpy(&v, quants + (block * W_BLOCK + j) * 4, sizeof v); return v;
    default: memcpy(&v, quants + (row * p->weight.n_cols + col) * 4, sizeof v); return v;
    }
}

/* Rows of weights no larger than f16 can be. */
static uint8_t *weights_in_range(sobre_dtype dtype, int64_t n_rows, int64_t n_cols, uint32_t seed)
{
    uint64_t row_size = rig_row_size(dtype, n_cols);
    uint8_t *data = rig_alloc((uint64_t)n_rows * row_size);
    for (int64_t row = 0; row < n_rows; row++) {
        for (bool good = false; !good;) {
            float x[MAX_COLS];
            uint8_t *one = rig_weights(dtype, 1, n_cols, ++seed);
            dtype_decode(dtype, one, n_cols, x);
            good = true;
            for (int64_t i = 0; i < n_cols; i++) good = good && fabsf(x[i]) <= 65504.0f;
            memcpy(data + (uint64_t)row * row_size, one, (size_t)row_size);
            free(one);
        }
    }
    return data;
}

/* Rows [row, row + n) are what the file says. */
static void check_rows(const packed *p, int64_t row, int64_t n, const uint8_t *data)
{
    const sobre_weight *w = &p->weight;
    uint64_t row_size = rig_row_size(w->dtype, w->n_cols);
    int64_t padded = p->layout.type < 0 ? w->n_cols : p->layout.n_blocks * W_BLOCK;
    for (int64_t r = row; r < row + n; r++) {
        float x[MAX_COLS] = {0};
        dtype_decode(w->dtype, data + (uint64_t)r * row_size, w->n_cols, x);
        for (int64_t c = 0; c < padded; c++) {
            float want = p->layout.type == W_F16 ? f16_to_f32(f32_to_f16(x[c])) : x[c];
            float got = element(p, r, c);
            if (!(got == want))
                test_fail("%s, row %d, column %d: %.9g, not %.9g", dtype_get(w->dtype)->name,
                          (int)r, (int)c, (double)got, (double)want);
        }
    }
}

/* Rows [row, row + n) are as the memory was. */
static void check_untouched(const packed *p, int64_t row, int64_t n)
{
    const gpu_layout *l = &p->layout;
    uint64_t quants_row = l->quants_size / (uint64_t)p->weight.n_rows;
    uint64_t scales_row = l->scales_at ? (l->size - l->scales_at) / (uint64_t)p->weight.n_rows : 0;
    const uint8_t *quants = packed_data(p) + (uint64_t)row * quants_row;
    const uint8_t *scales = packed_data(p) + l->scales_at + (uint64_t)row * scales_row;
    for (uint64_t i = 0; i < (uint64_t)n * quants_row; i++) assert_int_equal(quants[i], 0xff);
    for (uint64_t i = 0; i < (uint64_t)n * scales_row; i++) assert_int_equal(scales[i], 0xff);
}

static void test_types(void **state)
{
    static const int64_t widths[] = {32, 40, 256, 512};
    fake f;
    fake_open(&f);
    for (int i = 0; i < RIG_N_DTYPES; i++) {
        for (size_t j = 0; j < sizeof widths / sizeof *widths; j++) {
            const sobre_dtype dtype = rig_dtypes[i];
            if (widths[j] % dtype_get(dtype)->block != 0) continue;
            uint8_t *data = weights_in_range(dtype, N_ROWS, widths[j], (uint32_t)(100 * i));
            for (int in_place = 0; in_place < 2; in_place++) {
                packed p;
                packed_open(&p, &f, dtype, SOBRE_WEIGHT_MATMUL | SOBRE_WEIGHT_VECTOR, N_ROWS,
                            widths[j], in_place);
                assert_in_range(p.layout.type, 0, W_N_TYPES - 1);
                assert_ok(f.ctx, pack(&p, 16, 16, data));
                check_rows(&p, 16, 16, data);
                check_untouched(&p, 0, 16);
                check_untouched(&p, 32, N_ROWS - 32);
                assert_ok(f.ctx, pack(&p, 32, N_ROWS - 32, data));
                assert_ok(f.ctx, pack(&p, 0, 16, data));
                check_rows(&p, 0, N_ROWS, data);
                packed_close(&p);
            }
            free(data);
        }
    }
    fake_close(&f);
}

/* More rows than are packed at a time. */
static void test_pieces(void **state)
{
    enum { TALL = 2100, WIDE = 512 };
    fake f;
    packed p;
    fake_open(&f);
    uint8_t *data = rig_weights(SOBRE_F32, TALL, WIDE, 3);
    packed_open(&p, &f, SOBRE_F32, SOBRE_WEIGHT_TABLE, TALL, WIDE, false);
    assert_ok(f.ctx, pack(&p, 0, TALL, data));
    check_rows(&p, 0, TALL, data);
    assert_true(f.memory.largest < TALL * WIDE * 4);
    packed_close(&p);
    free(data);
    fake_close(&f);
}

static void test_vectors(void **state)
{
    fake f;
    fake_open(&f);
    for (int i = 0; i < RIG_N_DTYPES; i++) {
        const dtype_info *info = dtype_get(rig_dtypes[i]);
        const int64_t n = info->is_float ? 7 : info->block;
        uint8_t *data = rig_weights(rig_dtypes[i], 1, n, 5);
        packed p;
        packed_open(&p, &f, rig_dtypes[i], SOBRE_WEIGHT_VECTOR, 1, n, i % 2);
        assert_int_equal(p.layout.type, -1);
        assert_int_equal(p.layout.size, n * 4);
        assert_ok(f.ctx, pack(&p, 0, 1, data));
        check_rows(&p, 0, 1, data);
        packed_close(&p);
        free(data);
    }
    fake_close(&f);
}

static void check_refused(fake *f, sobre_dtype dtype, int64_t n_cols, const uint8_t *data,
                          sobre_status want, const char *what)
{
    packed p;
    packed_open(&p, f, dtype, SOBRE_WEIGHT_MATMUL, N_ROWS, n_cols, false);
    assert_int_equal(pack(&p, 16, 16, data), want);
    assert_non_null(strstr(sobre_error(f->ctx), "'blk.0.w': row 19 "));
    assert_non_null(strstr(sobre_error(f->ctx), what));
    packed_close(&p);
}

/* Numbers in row 19 that are none. */
static void test_damaged(void **state)
{
    static const struct bad {
        sobre_dtype dtype;
        int at, size; /* bytes of the first block that become ones */
    } bad[] = {
        {SOBRE_Q4_0, 0, 2}, {SOBRE_Q4_1, 0, 2},   {SOBRE_Q4_1, 2, 2}, {SOBRE_Q8_0, 0, 2},
        {SOBRE_Q5_0, 0, 2}, {SOBRE_IQ4_NL, 0, 2}, {SOBRE_Q4_K, 0, 2}, {SOBRE_F16, 8, 2},
        {SOBRE_F32, 8, 4},  {SOBRE_BF16, 62, 2},  {SOBRE_F64, 16, 8},
    };
    fake f;
    fake_open(&f);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t *data = weights_in_range(bad[i].dtype, N_ROWS, 256, 9);
        uint64_t row_size = rig_row_size(bad[i].dtype, 256);
        memset(data + 19 * row_size + (uint64_t)bad[i].at, 0xff, (size_t)bad[i].size);
        check_refused(&f, bad[i].dtype, 256, data, SOBRE_BAD_FORMAT, "is not finite");
        free(data);
    }
    fake_close(&f);
}

/* Weights that f16 cannot hold, of a type that is kept so. */
static void test_out_of_range(void **state)
{
    static const uint8_t large[] = {0x00, 0x78, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff}; /* d = 32768 */
    fake f;
    fake_open(&f);
    uint8_t *data = weights_in_range(SOBRE_Q5_1, N_ROWS, 64, 4);
    memcpy(data + 19 * rig_row_size(SOBRE_Q5_1, 64), large, sizeof large);
    check_refused(&f, SOBRE_Q5_1, 64, data, SOBRE_UNSUPPORTED, "65504");
    free(data);
    fake_close(&f);
}

static void test_no_layout(void **state)
{
    static const sobre_weight none[] = {
        {"integers", SOBRE_I32, SOBRE_WEIGHT_MATMUL, 4, 32},
        {"unknown", (sobre_dtype)99, SOBRE_WEIGHT_MATMUL, 4, 32},
        {"part of a block", SOBRE_Q4_0, SOBRE_WEIGHT_TABLE, 4, 33},
        {"none", SOBRE_F32, SOBRE_WEIGHT_MATMUL, 0, 32},
        {"large", SOBRE_Q8_0, SOBRE_WEIGHT_MATMUL, 1 << 20, 1 << 20},
        {"larger", SOBRE_F32, SOBRE_WEIGHT_MATMUL, INT64_MAX, INT64_MAX},
    };
    fake f;
    fake_open(&f);
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        gpu_layout layout;
        uint64_t size = 77;
        assert_false(gpu_layout_of(&none[i], &layout));
        assert_int_equal(gpu_weight_size(&f.device, &none[i], &size), SOBRE_UNSUPPORTED);
        assert_int_equal(size, 77);
        assert_non_null(strstr(sobre_error(f.ctx), none[i].name));
    }
    fake_close(&f);
}

/* Each allocation and each call of the driver fails once. */
static void test_failures(void **state)
{
    fake f;
    packed p;
    fake_open(&f);
    uint8_t *data = rig_weights(SOBRE_Q4_1, N_ROWS, 64, 8);
    packed_open(&p, &f, SOBRE_Q4_1, SOBRE_WEIGHT_MATMUL, N_ROWS, 64, false);
    for (int i = 1; i <= 2; i++) { /* quants, scales */
        f.n_calls = 0;
        f.fail_at = i;
        assert_int_equal(pack(&p, 0, N_ROWS, data), SOBRE_DEVICE);
    }
    f.fail_at = 0;
    f.memory.n_calls = 0;
    f.memory.fail_at = 1;
    assert_int_equal(pack(&p, 0, N_ROWS, data), SOBRE_OUT_OF_MEMORY);
    f.memory.fail_at = 0;
    assert_ok(f.ctx, pack(&p, 0, N_ROWS, data));
    check_rows(&p, 0, N_ROWS, data);
    packed_close(&p);
    free(data);
    fake_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_vectors),      cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_out_of_range), cmocka_unit_test(test_no_layout),
        cmocka_unit_test(test_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
