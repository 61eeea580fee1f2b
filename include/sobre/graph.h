/* SPDX-License-Identifier: MIT */
/*
 * Graphs: what a model computes, apart from any device.
 *
 * A graph is two flat arrays: values (tensors) and nodes (operations), in topological order,
 * addressed by index. Shapes are outermost first ([T, C] has rows of C). Two dims are symbolic and
 * fixed per run: T, the columns (tokens) of the batch, and R, the rows whose logits are wanted.
 * Weights are [n_out, n_in] like GGUF's after its order is reversed.
 *
 * One list, SOBRE_OPS, drives the enum, names, shape checks, flop and byte counts, conformance
 * cases and profiles.
 *
 * Thread-safety: a graph belongs to one thread until it is compiled; afterwards it is read-only.
 */
#ifndef SOBRE_GRAPH_H
#define SOBRE_GRAPH_H

#include <sobre/sobre.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sobre_graph sobre_graph;

/* Element types; the numbers are GGUF's. Sizes are in src/dtype.c. */
typedef enum sobre_dtype {
    SOBRE_F32 = 0,
    SOBRE_F16 = 1,
    SOBRE_Q4_0 = 2,
    SOBRE_Q4_1 = 3,
    SOBRE_Q5_0 = 6,
    SOBRE_Q5_1 = 7,
    SOBRE_Q8_0 = 8,
    SOBRE_Q2_K = 10,
    SOBRE_Q3_K = 11,
    SOBRE_Q4_K = 12,
    SOBRE_Q5_K = 13,
    SOBRE_Q6_K = 14,
    SOBRE_IQ4_NL = 20,
    SOBRE_IQ3_S = 21,
    SOBRE_IQ4_XS = 23,
    SOBRE_I8 = 24,
    SOBRE_I16 = 25,
    SOBRE_I32 = 26,
    SOBRE_I64 = 27,
    SOBRE_F64 = 28,
    SOBRE_BF16 = 30,
    SOBRE_TQ1_0 = 34,
    SOBRE_TQ2_0 = 35,
    SOBRE_MXFP4 = 39,
} sobre_dtype;

enum { SOBRE_DIM_T = -1, SOBRE_DIM_R = -2 }; /* symbolic dims */
enum { SOBRE_MAX_RANK = 4, SOBRE_MAX_IN = 16, SOBRE_MAX_OUT = 4, SOBRE_NAME_SIZE = 64 };

typedef enum sobre_value_kind {
    SOBRE_VALUE_INPUT,  /* filled by the executor before each run */
    SOBRE_VALUE_OUTPUT, /* read by the executor after each run */
    SOBRE_VALUE_WEIGHT, /* constant, packed for the device at load */
    SOBRE_VALUE_TEMP,   /* lives in the plan's arena */
} sobre_value_kind;

/* Inputs that the executor knows how to fill. */
typedef enum sobre_input {
    SOBRE_INPUT_NONE = 0,
    SOBRE_INPUT_IDS,      /* i32 [T] token ids */
    SOBRE_INPUT_POS,      /* i32 [T] position of each column in its sequence */
    SOBRE_INPUT_ROWS,     /* i32 [R] columns whose logits are wanted, ascending */
    SOBRE_INPUT_EMBD,     /* f32 [T, C] embeddings instead of ids */
    SOBRE_INPUT_SAMPLING, /* i32 [R, SOBRE_SAMPLE_PARAMS_SIZE] */
} sobre_input;

typedef struct sobre_value {
    char name[SOBRE_NAME_SIZE]; /* weights: the tensor's name in the file */
    sobre_value_kind kind;
    sobre_input input;
    sobre_dtype dtype;
    int32_t rank;
    int64_t dims[SOBRE_MAX_RANK];
    int32_t tensor; /* weights: index in the model's tensor directory; else -1 */
} sobre_value;

/* X(op, name, number of outputs at most) */
#define SOBRE_OPS(X)                                                                               \
    X(EMBED, "embed", 1)   /* rows of a table by id, times a factor */                             \
    X(GATHER, "gather", 1) /* rows of an activation */                                             \
    X(NORM, "norm", 1)     /* RMSNorm or LayerNorm over the last dim; with a shorter weight over   \
                              groups of its length (heads) */                                      \
    X(MATMUL, "matmul", 4) /* up to four weights sharing one input; prologue and epilogue below */ \
    X(ROPE, "rope", 1)     /* rotary positions on [T, n_head * head_dim] */                        \
    X(ATTENTION, "attention", 1) /* appends k and v to the cache, then attends */                  \
    X(GLU, "glu", 1)             /* act(gate) * up */                                              \
    X(ACTIVATION, "activation", 1)                                                                 \
    X(ADD, "add", 1)         /* same shape, or [C] added to every row */                           \
    X(MUL, "mul", 1)         /* same shapes, or [C] times every row */                             \
    X(SCALE, "scale", 1)     /* times a constant */                                                \
    X(SOFTCAP, "softcap", 1) /* cap * tanh(x / cap) */                                             \
    X(ARGMAX, "argmax", 1)   /* i32 [R] of [R, N] */                                               \
    X(SAMPLE, "sample", 1)   /* i32 [R, SOBRE_SAMPLE_RESULT_SIZE] of logits [R, N] */

typedef enum sobre_op {
#define X(id, name, n_out) SOBRE_OP_##id,
    SOBRE_OPS(X)
#undef X
        SOBRE_N_OPS
} sobre_op;

/* Slots of sobre_node.in; a slot that is not used holds -1. */
enum { SOBRE_EMBED_IDS, SOBRE_EMBED_TABLE };
enum { SOBRE_GATHER_X, SOBRE_GATHER_ROWS };
enum { SOBRE_NORM_X, SOBRE_NORM_W, SOBRE_NORM_B };
enum { /* out[i] = epilogue(W_i * norm(x) + b_i); with glu one output act(W_0 x) * (W_1 x); then +
          residual */
       SOBRE_MATMUL_X,
       SOBRE_MATMUL_NORM_W,
       SOBRE_MATMUL_NORM_B,
       SOBRE_MATMUL_RESIDUAL,
       SOBRE_MATMUL_W0,
       SOBRE_MATMUL_B0, /* W1 at W0 + 2, and so on */
};
enum { SOBRE_ROPE_X, SOBRE_ROPE_POS, SOBRE_ROPE_FACTORS };
enum { /* q [T, n_head * head_dim], k [T, n_head_kv * head_dim], v [T, n_head_kv * head_dim_v] */
       SOBRE_ATTN_Q,
       SOBRE_ATTN_K,
       SOBRE_ATTN_V,
       SOBRE_ATTN_POS,
       SOBRE_ATTN_FACTORS,
       SOBRE_ATTN_Q_NORM,
       SOBRE_ATTN_K_NORM,
       SOBRE_ATTN_BIAS,
       SOBRE_ATTN_SINKS,
};
enum { SOBRE_GLU_GATE, SOBRE_GLU_UP };
enum { SOBRE_UNARY_X };
enum { SOBRE_BINARY_A, SOBRE_BINARY_B };
enum { SOBRE_SAMPLE_LOGITS, SOBRE_SAMPLE_PARAMS };

/* A row of SAMPLE's parameters, 32-bit integers; floats are their bits. What they mean is said of
 * sobre_sampling. A device answers only where its answer is the one that the library's own sampler
 * would draw from these logits; else, and where numbers are not finite, it says UNDETERMINED. */
enum {
    SOBRE_SAMPLE_MODE,
    SOBRE_SAMPLE_INV_TEMPERATURE, /* f32, 1 / temperature; 0: the most likely token */
    SOBRE_SAMPLE_TOP_K,           /* at most SOBRE_SAMPLE_KEEP; 0: off */
    SOBRE_SAMPLE_TOP_P,           /* f32; 1: off */
    SOBRE_SAMPLE_MIN_P,           /* f32; 0: off */
    SOBRE_SAMPLE_UNIFORM,         /* f32: the random number that decides, 0 to 1 */
    SOBRE_SAMPLE_N_TOP,           /* alternatives; 0 if anything is adjusted */
    SOBRE_SAMPLE_REPETITION,      /* f32: penalties of adjusted tokens */
    SOBRE_SAMPLE_PRESENCE,
    SOBRE_SAMPLE_FREQUENCY,
    SOBRE_SAMPLE_N_ADJUST,
    SOBRE_SAMPLE_ADJUST = 12, /* n_adjust times these three; no token comes twice */
    SOBRE_SAMPLE_ADJUST_ID = 0,
    SOBRE_SAMPLE_ADJUST_BIAS,  /* f32 */
    SOBRE_SAMPLE_ADJUST_COUNT, /* times that it occurred; 0: no penalties */
    SOBRE_SAMPLE_ADJUST_SIZE,
    SOBRE_SAMPLE_MAX_ADJUST = 256,
    SOBRE_SAMPLE_PARAMS_SIZE =
        SOBRE_SAMPLE_ADJUST + SOBRE_SAMPLE_MAX_ADJUST * SOBRE_SAMPLE_ADJUST_SIZE,
};
enum {
    SOBRE_SAMPLE_MODE_HOST, /* leave the row: UNDETERMINED */
    SOBRE_SAMPLE_MODE_BEST, /* the most likely token, no alternatives */
    SOBRE_SAMPLE_MODE_LIST,
};
/* A row of its result; all but the status is only there if that is PICKED. */
enum {
    SOBRE_SAMPLE_STATUS,
    SOBRE_SAMPLE_ID,
    SOBRE_SAMPLE_LOGPROB, /* f32 */
    SOBRE_SAMPLE_TOP = 4, /* n_top times, but no more than there are tokens: id, log-probability */
    SOBRE_SAMPLE_KEEP = 64,
    SOBRE_SAMPLE_RESULT_SIZE = SOBRE_SAMPLE_TOP + 2 * SOBRE_SAMPLE_KEEP,
};
enum { SOBRE_SAMPLE_PICKED, SOBRE_SAMPLE_UNDETERMINED };

typedef enum sobre_norm_kind {
    SOBRE_NORM_NONE = 0,
    SOBRE_NORM_RMS,
    SOBRE_NORM_LAYER
} sobre_norm_kind;
typedef enum sobre_act {
    SOBRE_ACT_NONE = 0,
    SOBRE_ACT_SILU,
    SOBRE_ACT_GELU_TANH,
    SOBRE_ACT_GELU_ERF,
    SOBRE_ACT_RELU,
} sobre_act;
/* Which dims form a rotated pair: (2i, 2i + 1), or (i, i + n_dims / 2). Su et al. 2021,
 * arXiv:2104.09864. */
typedef enum sobre_rope_kind {
    SOBRE_ROPE_NONE = 0,
    SOBRE_ROPE_PAIRS,
    SOBRE_ROPE_HALVES
} sobre_rope_kind;

typedef struct sobre_rope_params {
    sobre_rope_kind kind;
    int32_t n_dims; /* rotated dims of each head, from the first */
    float base;     /* angle of pair i: scale * pos * base^(-2i / n_dims) / factor_i */
    float scale;    /* 1, or 1 / the linear context extension */
} sobre_rope_params;

typedef struct sobre_rope_node_params {
    sobre_rope_params rope;
    int32_t n_head, head_dim;
} sobre_rope_node_params;

typedef struct sobre_norm_params {
    sobre_norm_kind kind;
    float eps;
} sobre_norm_params;

typedef struct sobre_matmul_params {
    int32_t n_weights;      /* 1 to 4 */
    sobre_norm_params norm; /* prologue; kind NONE: x as it is */
    sobre_act glu;          /* not NONE: exactly two weights, one output */
} sobre_matmul_params;

typedef struct sobre_attention_params {
    int32_t n_head, n_head_kv, head_dim, head_dim_v;
    float scale;   /* of q.k, usually 1 / sqrt(head_dim) */
    float softcap; /* 0: none */
    int32_t causal;
    int32_t window; /* a position sees the last `window` positions, itself included; 0: all */
    int32_t append; /* write k and v into the cache first */
    int32_t kv;     /* which cache (layer) to use; several nodes may share one */
    sobre_rope_params rope;    /* prologue on q and k; kind NONE: they come rotated */
    sobre_norm_params qk_norm; /* prologue before rope, per head */
    float max_alibi_bias;      /* 0: none */
} sobre_attention_params;

typedef struct sobre_node {
    sobre_op op;
    int32_t layer; /* -1 outside layers */
    int32_t n_in, n_out;
    int32_t in[SOBRE_MAX_IN];
    int32_t out[SOBRE_MAX_OUT];
    union {
        float factor; /* EMBED, SCALE, SOFTCAP */
        sobre_norm_params norm;
        sobre_matmul_params matmul;
        sobre_rope_node_params rope;
        sobre_attention_params attention;
        sobre_act act; /* GLU, ACTIVATION */
    } p;
} sobre_node;

SOBRE_EXPORT sobre_status sobre_graph_open(sobre_context *context, sobre_graph **ret_graph);
SOBRE_EXPORT void sobre_graph_close(sobre_graph *graph);

/* Builders return a value's index, or -1 after the first failure (out of memory, wrong shape),
 * which every later call passes on; sobre_graph_check() tells it. `name` is copied and cut to
 * SOBRE_NAME_SIZE - 1 bytes. */
SOBRE_EXPORT int32_t sobre_graph_input(sobre_graph *graph, sobre_input input, int64_t n_embd);
SOBRE_EXPORT int32_t sobre_graph_weight(sobre_graph *graph, const char *name, sobre_dtype dtype,
                                        int32_t rank, const int64_t *dims, int32_t tensor);
/* Adds a node; shapes of outputs follow from op and inputs. `node->out` is ignored; *ret_out (may
 * be NULL) gets the outputs' indices. Returns the first output. */
SOBRE_EXPORT int32_t sobre_graph_node(sobre_graph *graph, const sobre_node *node, int32_t *ret_out);
/* Marks a temp as output. */
SOBRE_EXPORT void sobre_graph_output(sobre_graph *graph, int32_t value, const char *name);
/* Names the layer that following nodes belong to (-1: none). */
SOBRE_EXPORT void sobre_graph_layer(sobre_graph *graph, int32_t layer);
SOBRE_EXPORT sobre_status sobre_graph_check(const sobre_graph *graph);

SOBRE_EXPORT const sobre_value *sobre_graph_values(const sobre_graph *graph, int32_t *ret_n);
SOBRE_EXPORT const sobre_node *sobre_graph_nodes(const sobre_graph *graph, int32_t *ret_n);
/* "matmul"; "?" for numbers that are no op. Static. */
SOBRE_EXPORT const char *sobre_op_name(sobre_op op);

#ifdef __cplusplus
}
#endif

#endif
