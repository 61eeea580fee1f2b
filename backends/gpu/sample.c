/* SPDX-License-Identifier: MIT */
/* Sampling: the best logits of each chunk of the vocabulary, then a token from them. */
#include "gpu.h"
#include "sampling.h"

/* kernels_cl/sampling.h and <sobre/graph.h> speak of the same numbers. */
#define SAME(name) _Static_assert((int)SAMPLE_##name == (int)SOBRE_SAMPLE_##name, #name)
SAME(MODE);
SAME(INV_TEMPERATURE);
SAME(TOP_K);
SAME(TOP_P);
SAME(MIN_P);
SAME(UNIFORM);
SAME(N_TOP);
SAME(REPETITION);
SAME(PRESENCE);
SAME(FREQUENCY);
SAME(N_ADJUST);
SAME(ADJUST);
SAME(ADJUST_ID);
SAME(ADJUST_BIAS);
SAME(ADJUST_COUNT);
SAME(ADJUST_SIZE);
SAME(PARAMS_SIZE);
SAME(MODE_HOST);
SAME(MODE_BEST);
SAME(MODE_LIST);
SAME(STATUS);
SAME(ID);
SAME(LOGPROB);
SAME(TOP);
SAME(KEEP);
SAME(RESULT_SIZE);
SAME(PICKED);
SAME(UNDETERMINED);

enum { GROUP = 256 };

bool gpu_sample_supports(const sobre_device *device, const sobre_value *values,
                         const sobre_node *node)
{
    const int64_t most = 1 << 24; /* tokens: far from where indices end */
    return values[node->in[SOBRE_SAMPLE_LOGITS]].dims[1] <= most;
}

void gpu_sample_build(gpu_builder *b, const sobre_node *node)
{
    int32_t logits = node->in[SOBRE_SAMPLE_LOGITS], params = node->in[SOBRE_SAMPLE_PARAMS];
    int32_t n_vocab = (int32_t)b->program->values[logits].dims[1];
    int32_t n_parts = (n_vocab + SAMPLE_CHUNK - 1) / SAMPLE_CHUNK;
    gpu_extent rows = {gpu_count_of(b, logits), 1, 1}, parts = {GPU_ONE, n_parts, 1};
    gpu_extent one = {GPU_ONE, 1, 1};
    gpu_variant part = gpu_variant_of("sample.cl", "sample_part", GROUP, "");
    gpu_variant pick = gpu_variant_of("sample.cl", "sample_pick", GROUP, "");
    uint64_t size = (uint64_t)gpu_most(b, logits) * (uint64_t)n_parts * SAMPLE_PART_SIZE * 4;
    uint64_t work = gpu_work(b, size); /* [rows, n_parts, SAMPLE_PART_SIZE] */
    gpu_args args = {.n = 0};

    gpu_arg_value(&args, b, logits);
    gpu_arg_value(&args, b, params);
    gpu_arg_work(&args, b, work, sizeof(float));
    gpu_args pick_args = args;
    gpu_arg_int(&args, n_vocab);
    gpu_add(b, node, &part, &args, parts, rows, 0);

    gpu_arg_value(&pick_args, b, node->out[0]);
    gpu_arg_int(&pick_args, n_vocab);
    gpu_arg_int(&pick_args, n_parts);
    gpu_add(b, node, &pick, &pick_args, rows, one, 0);
}
