/* SPDX-License-Identifier: MIT */
/*
 * How the sampling kernels are told what to do and how they answer: 32-bit integers, floats as
 * their bits. <sobre/graph.h> says the same of the op's values; backends/gpu/sample.c checks that
 * they agree.
 */
#ifndef SOBRE_SAMPLING_H
#define SOBRE_SAMPLING_H

/* A row's parameters. */
#define SAMPLE_MODE            0 /* one of the three below */
#define SAMPLE_INV_TEMPERATURE 1 /* f32; 0: the best one */
#define SAMPLE_TOP_K           2 /* 0: off; else at most SAMPLE_KEEP */
#define SAMPLE_TOP_P           3 /* f32; 1: off */
#define SAMPLE_MIN_P           4 /* f32; 0: off */
#define SAMPLE_UNIFORM         5 /* f32: the random number, 0 to 1 */
#define SAMPLE_N_TOP           6 /* at most SAMPLE_KEEP */
#define SAMPLE_REPETITION      7 /* f32: the penalties */
#define SAMPLE_PRESENCE        8 /* f32 */
#define SAMPLE_FREQUENCY       9 /* f32 */
#define SAMPLE_N_ADJUST        10
#define SAMPLE_ADJUST          12 /* the first adjustment */
#define SAMPLE_ADJUST_ID       0  /* no id comes twice */
#define SAMPLE_ADJUST_BIAS     1  /* f32 */
#define SAMPLE_ADJUST_COUNT    2  /* times that it occurred, for the penalties */
#define SAMPLE_ADJUST_SIZE     3
#define SAMPLE_MAX_ADJUST      256
#define SAMPLE_PARAMS_SIZE     (SAMPLE_ADJUST + SAMPLE_MAX_ADJUST * SAMPLE_ADJUST_SIZE)

#define SAMPLE_MODE_HOST 0 /* the host picks for this row */
#define SAMPLE_MODE_BEST 1 /* only the best one matters */
#define SAMPLE_MODE_LIST 2

/* A row's result. */
#define SAMPLE_STATUS      0
#define SAMPLE_ID          1
#define SAMPLE_LOGPROB     2 /* f32 */
#define SAMPLE_TOP         4 /* n_top times: id, logprob */
#define SAMPLE_KEEP        64
#define SAMPLE_RESULT_SIZE (SAMPLE_TOP + SAMPLE_KEEP * 2)

#define SAMPLE_PICKED       0
#define SAMPLE_UNDETERMINED 1 /* the host must look at the logits */

/* What sample_part leaves in scratch memory of each chunk of the vocabulary. */
#define SAMPLE_CHUNK      2048
#define SAMPLE_PART_MAX   0 /* f32: the largest logit as it came */
#define SAMPLE_PART_SUM   1 /* f32: of exp(logit - max) */
#define SAMPLE_PART_DRAW  2 /* f32: of exp((adjusted - best) / temperature) */
#define SAMPLE_PART_VALUE 4 /* f32: the best adjusted logits, largest first */
#define SAMPLE_PART_ID    (SAMPLE_PART_VALUE + SAMPLE_KEEP)
#define SAMPLE_PART_SIZE  (SAMPLE_PART_ID + SAMPLE_KEEP)

#endif
