/* SPDX-License-Identifier: MIT */
/* Packing weights into planes, as kernels_cl/weights.h describes them. */
#include <math.h>
#include <string.h>

#include "checked.h"
#include "dtype.h"
#include "gpu.h"
#include "quant.h"
#include "weights.h"

enum {
    PLANE_ALIGN = 256,
    PIECE_SIZE = 1 << 20, /* bytes packed on the host at a time */
    CHUNK = 256,          /* elements decoded at a time: a multiple of every block */
};

static const struct type_info {
    int32_t quants_size, scales_size; /* bytes of a block */
} types[W_N_TYPES] = {
    [W_Q4_0] = {16, 2}, [W_Q4_1] = {16, 4}, [W_Q8_0] = {32, 2},
    [W_F16] = {64, 0},  [W_F32] = {128, 0},
};

/* A row of planes that is being filled, and what went wrong in it. */
typedef struct packer {
    const sobre_weight *weight;
    uint8_t *quants, *scales;
    bool is_finite, is_in_range;
} packer;

static uint16_t load_u16(const uint8_t *from)
{
    uint16_t v;
    memcpy(&v, from, sizeof v);
    return v;
}

static bool is_f16_finite(uint16_t h)
{
    return (h & 0x7c00) != 0x7c00;
}

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* f32_to_f16() for finite numbers, without branches, so that loops over it become vector code. */
static inline uint16_t round_to_f16(float f)
{
    uint32_t bits = bits_of(f), magnitude = bits & 0x7fffffff;
    uint32_t normal = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
    /* Added to 0.5, the last place of a small number is 2^-24. */
    uint32_t subnormal = bits_of(fabsf(f) + 0.5f) - 0x3f000000;
    uint32_t rounded = magnitude < 0x38800000 ? subnormal : normal;
    rounded = rounded > 0x7c00 ? 0x7c00 : rounded;
    return (uint16_t)(bits >> 16 & 0x8000) | (uint16_t)rounded;
}

static bool all_finite(const float *x, int64_t n)
{
    uint32_t infinite = 0;
    for (int64_t i = 0; i < n; i++)
        infinite |= (bits_of(x[i]) & 0x7f800000) + 0x00800000; /* the sign if x[i] is not */
    return !(infinite >> 31);
}

/* Blocks of f16 scales and then quants, both as they are. Sizes are constants where it is inlined,
 * so that each copy is a load and a store. */
static inline void split_blocks(packer *p, const uint8_t *row, int scales_size, int quants_size)
{
    uint8_t *restrict quants = p->quants, *restrict scales = p->scales;
    const int64_t n = p->weight->n_cols / W_BLOCK;
    unsigned infinite = 0;
    for (int64_t b = 0; b < n; b++, row += scales_size + quants_size) {
        for (int i = 0; i < scales_size; i += 2)
            infinite |= ((unsigned)load_u16(row + i) & 0x7c00) + 0x0400; /* 0x8000 if it is not */
        memcpy(scales + b * scales_size, row, (size_t)scales_size);
        memcpy(quants + b * quants_size, row + scales_size, (size_t)quants_size);
    }
    p->is_finite = !(infinite & 0x8000);
}

static void pack_q4_0(packer *p, const uint8_t *row)
{
    split_blocks(p, row, 2, 16);
}

static void pack_q4_1(packer *p, const uint8_t *row)
{
    split_blocks(p, row, 4, 16);
}

static void pack_q8_0(packer *p, const uint8_t *row)
{
    split_blocks(p, row, 2, 32);
}

/* Quantised types of 8 bits or less whose scales are f16, one a block of 32. */
static void pack_to_q8_0(packer *p, const uint8_t *row)
{
    const dtype_info *info = dtype_get(p->weight->dtype);
    for (int64_t col = 0; col < p->weight->n_cols; col += CHUNK) {
        int64_t left = p->weight->n_cols - col, n = left < CHUNK ? left : CHUNK;
        float d[CHUNK / W_BLOCK], none[CHUNK / W_BLOCK];
        quant_unpack(p->weight->dtype, row + col / info->block * info->size, n,
                     (int8_t *)p->quants + col, d, none);
        for (int64_t g = 0; g < n / W_BLOCK; g++) {
            uint16_t scale = f32_to_f16(d[g]);
            p->is_finite &= is_f16_finite(scale);
            memcpy(p->scales + (col / W_BLOCK + g) * 2, &scale, sizeof scale);
        }
    }
}

static void pack_f16(packer *p, const uint8_t *row)
{
    unsigned infinite = 0;
    for (int64_t i = 0; i < p->weight->n_cols; i++)
        infinite |= ((unsigned)load_u16(row + i * 2) & 0x7c00) + 0x0400;
    memcpy(p->quants, row, (size_t)p->weight->n_cols * 2);
    p->is_finite = !(infinite & 0x8000);
}

/* Any other quantised type, rounded. */
static void pack_to_f16(packer *p, const uint8_t *row)
{
    const dtype_info *info = dtype_get(p->weight->dtype);
    for (int64_t col = 0; col < p->weight->n_cols; col += CHUNK) {
        int64_t left = p->weight->n_cols - col, n = left < CHUNK ? left : CHUNK;
        float x[CHUNK];
        uint16_t h[CHUNK];
        unsigned infinite = 0;
        dtype_decode(p->weight->dtype, row + col / info->block * info->size, n, x);
        for (int64_t i = 0; i < n; i++) {
            h[i] = round_to_f16(x[i]);
            infinite |= ((unsigned)h[i] & 0x7c00) + 0x0400;
        }
        memcpy(p->quants + col * 2, h, (size_t)n * sizeof *h);
        p->is_finite &= all_finite(x, n);
        p->is_in_range &= !(infinite & 0x8000);
    }
}

/* Types of floats, as f32. */
static void pack_f32(packer *p, const uint8_t *row)
{
    float *to = (float *)(void *)p->quants; /* planes and their rows are aligned */
    dtype_decode(p->weight->dtype, row, p->weight->n_cols, to);
    p->is_finite = all_finite(to, p->weight->n_cols);
}

/* What a matrix of each type becomes; types that are not listed cannot be one. */
static const struct dtype_pack {
    int32_t type;
    void (*pack)(packer *p, const uint8_t *row);
} packs[] = {
    [SOBRE_F32] = {W_F32, pack_f32},         [SOBRE_F64] = {W_F32, pack_f32},
    [SOBRE_BF16] = {W_F32, pack_f32},        [SOBRE_F16] = {W_F16, pack_f16},
    [SOBRE_Q4_0] = {W_Q4_0, pack_q4_0},      [SOBRE_Q4_1] = {W_Q4_1, pack_q4_1},
    [SOBRE_Q8_0] = {W_Q8_0, pack_q8_0},      [SOBRE_Q5_0] = {W_Q8_0, pack_to_q8_0},
    [SOBRE_IQ4_NL] = {W_Q8_0, pack_to_q8_0}, [SOBRE_TQ1_0] = {W_Q8_0, pack_to_q8_0},
    [SOBRE_TQ2_0] = {W_Q8_0, pack_to_q8_0},  [SOBRE_Q5_1] = {W_F16, pack_to_f16},
    [SOBRE_Q2_K] = {W_F16, pack_to_f16},     [SOBRE_Q3_K] = {W_F16, pack_to_f16},
    [SOBRE_Q4_K] = {W_F16, pack_to_f16},     [SOBRE_Q5_K] = {W_F16, pack_to_f16},
    [SOBRE_Q6_K] = {W_F16, pack_to_f16},     [SOBRE_IQ4_XS] = {W_F16, pack_to_f16},
    [SOBRE_IQ3_S] = {W_F16, pack_to_f16},    [SOBRE_MXFP4] = {W_F16, pack_to_f16},
};

static const struct dtype_pack *pack_of(sobre_dtype dtype)
{
    size_t i = (size_t)dtype;
    return i < sizeof packs / sizeof packs[0] && packs[i].pack ? &packs[i] : NULL;
}

static const struct dtype_pack vector_pack = {-1, pack_f32};

static bool is_vector(const sobre_weight *weight)
{
    return !(weight->uses & (SOBRE_WEIGHT_MATMUL | SOBRE_WEIGHT_TABLE));
}

/* Bytes of a row's quants and scales. */
static void row_sizes(const gpu_layout *layout, const sobre_weight *weight, uint64_t *ret_quants,
                      uint64_t *ret_scales)
{
    *ret_quants = (uint64_t)weight->n_cols * sizeof(float);
    *ret_scales = 0;
    if (layout->type < 0) return;
    *ret_quants = (uint64_t)layout->n_blocks * (uint64_t)types[layout->type].quants_size;
    *ret_scales = (uint64_t)layout->n_blocks * (uint64_t)types[layout->type].scales_size;
}

bool gpu_layout_of(const sobre_weight *weight, gpu_layout *ret_layout)
{
    const struct dtype_pack *pack = is_vector(weight) ? &vector_pack : pack_of(weight->dtype);
    const dtype_info *info = dtype_get(weight->dtype);
    gpu_layout layout = {.type = pack ? pack->type : -1};
    uint64_t quants_row, scales_row, scales;
    if (!pack || !info->name || weight->n_rows < 1 || weight->n_cols < 1 ||
        weight->n_rows > INT32_MAX || weight->n_cols > INT32_MAX - W_BLOCK ||
        weight->n_cols % info->block != 0)
        return false;
    layout.n_blocks = (weight->n_cols + W_BLOCK - 1) / W_BLOCK;
    row_sizes(&layout, weight, &quants_row, &scales_row);
    if (!checked_mul((uint64_t)weight->n_rows, quants_row, &layout.quants_size) ||
        !checked_mul((uint64_t)weight->n_rows, scales_row, &scales) ||
        !checked_round_up(layout.quants_size, PLANE_ALIGN, &layout.scales_at) ||
        !checked_add(layout.scales_at, scales, &layout.size))
        return false;
    if (scales == 0) {
        layout.size = layout.quants_size;
        layout.scales_at = 0;
    }
    /* Kernels count in ints: scales from the begin, and elements of floats. */
    uint64_t unit = layout.type < 0 || layout.type == W_F32 ? sizeof(float) : sizeof(uint16_t);
    if (layout.size / unit > INT32_MAX) return false;
    *ret_layout = layout;
    return true;
}

sobre_weight gpu_weight_of(const sobre_value *value, uint32_t uses)
{
    return (sobre_weight){.name = value->name,
                          .dtype = value->dtype,
                          .uses = uses,
                          .n_rows = value->rank == 1 ? 1 : value->dims[0],
                          .n_cols = value->dims[value->rank - 1]};
}

static sobre_status no_layout(sobre_device *device, const sobre_weight *weight)
{
    const char *type = dtype_get(weight->dtype)->name;
    return device->host->fail(device->host->context, SOBRE_UNSUPPORTED,
                              "tensor '%s': %lld rows of %lld columns of type %s have no layout in "
                              "the device's memory; run this model on the CPU",
                              weight->name, (long long)weight->n_rows, (long long)weight->n_cols,
                              type ? type : "of unknown number");
}

sobre_status gpu_weight_size(sobre_device *device, const sobre_weight *weight, uint64_t *ret_size)
{
    gpu_layout layout;
    if (!gpu_layout_of(weight, &layout)) return no_layout(device, weight);
    *ret_size = layout.size;
    return SOBRE_OK;
}

static sobre_status bad_row(sobre_device *device, const packer *p, int64_t row)
{
    const sobre_host *host = device->host;
    const dtype_info *info = dtype_get(p->weight->dtype);
    if (!p->is_finite)
        return host->fail(host->context, SOBRE_BAD_FORMAT,
                          "tensor '%s': row %lld has a %s that is not finite; the file is damaged, "
                          "fetch it again",
                          p->weight->name, (long long)row, info->is_quant ? "scale" : "weight");
    return host->fail(host->context, SOBRE_UNSUPPORTED,
                      "tensor '%s': row %lld has a weight beyond 65504, which this device keeps as "
                      "f16; run the model on the CPU, or take a file of type Q8_0",
                      p->weight->name, (long long)row);
}

/* Packs rows [row, row + n) of `weight` into quants and scales, of that many rows. */
static sobre_status pack_rows(sobre_device *device, const sobre_weight *weight,
                              const gpu_layout *layout, int64_t row, int64_t n, const uint8_t *data,
                              uint8_t *quants, uint8_t *scales)
{
    const struct dtype_pack *pack = layout->type < 0 ? &vector_pack : pack_of(weight->dtype);
    uint64_t quants_row, scales_row, data_row = 0, used;
    row_sizes(layout, weight, &quants_row, &scales_row);
    dtype_row_size(weight->dtype, weight->n_cols, &data_row); /* gpu_layout_of() saw that it fits */
    /* Only floats have rows that do not fill their last block. */
    used = (uint64_t)weight->n_cols * (layout->type == W_F16 ? 2 : sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        packer p = {weight, quants + (uint64_t)i * quants_row, scales + (uint64_t)i * scales_row,
                    true, true};
        if (scales_row == 0) memset(p.quants + used, 0, (size_t)(quants_row - used));
        pack->pack(&p, data + (uint64_t)i * data_row);
        if (!p.is_finite || !p.is_in_range) return bad_row(device, &p, row + i);
    }
    return SOBRE_OK;
}

/* The same through memory of the host. */
static sobre_status pack_and_write(sobre_device *device, const sobre_weight *weight,
                                   const gpu_layout *layout, const sobre_span *to, int64_t row,
                                   int64_t n_rows, const uint8_t *data)
{
    const sobre_host *host = device->host;
    const gpu_driver *driver = device->driver;
    gpu_mem *mem = to->buffer->mem;
    uint64_t quants_row, scales_row, data_row = 0;
    row_sizes(layout, weight, &quants_row, &scales_row);
    dtype_row_size(weight->dtype, weight->n_cols, &data_row);
    int64_t at_once = (int64_t)(PIECE_SIZE / (quants_row + scales_row)) + 1;
    if (at_once > n_rows) at_once = n_rows;
    uint64_t quants_size = (uint64_t)at_once * quants_row;
    uint8_t *piece = host->alloc(
        host->context, (size_t)(quants_size + (uint64_t)at_once * scales_row), PLANE_ALIGN);
    if (!piece) return SOBRE_OUT_OF_MEMORY;
    sobre_status status = SOBRE_OK;
    for (int64_t i = 0; i < n_rows && status >= 0; i += at_once) {
        int64_t n = n_rows - i < at_once ? n_rows - i : at_once;
        uint64_t first = (uint64_t)(row + i), count = (uint64_t)n;
        status = pack_rows(device, weight, layout, row + i, n, data + (uint64_t)i * data_row, piece,
                           piece + quants_size);
        if (status >= 0)
            status = driver->mem_write(device, mem, to->offset + first * quants_row, piece,
                                       count * quants_row);
        if (status >= 0 && scales_row > 0)
            status =
                driver->mem_write(device, mem, to->offset + layout->scales_at + first * scales_row,
                                  piece + quants_size, count * scales_row);
    }
    host->free(host->context, piece);
    return status;
}

sobre_status gpu_weight_pack(sobre_device *device, const sobre_weight *weight, const sobre_span *to,
                             int64_t row, int64_t n_rows, const void *data)
{
    gpu_layout layout;
    uint64_t quants_row, scales_row;
    if (!gpu_layout_of(weight, &layout)) return no_layout(device, weight);
    if (!to->buffer->host) return pack_and_write(device, weight, &layout, to, row, n_rows, data);
    row_sizes(&layout, weight, &quants_row, &scales_row);
    uint8_t *begin = (uint8_t *)to->buffer->host + to->offset;
    return pack_rows(device, weight, &layout, row, n_rows, data, begin + (uint64_t)row * quants_row,
                     begin + layout.scales_at + (uint64_t)row * scales_row);
}
