/* SPDX-License-Identifier: MIT */
/* Metadata and tensor directory to the graph of a decoder. Keys and tensor names are GGUF's. */
#include "decoder.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    SHAPE_SIZE = 96,
    KEY_SIZE = 128,
    MAX_LAYERS = 1024,
    MAX_EMBD = 1 << 20,
    MAX_VOCAB = 1 << 24,
    MAX_CTX = 1 << 30
};

/* What is known while a graph is built. */
typedef struct builder {
    sobre_model *m;
    sobre_context *ctx;
    const container *file;
    const decoder_facts *facts;
    const char *architecture;
    hparams *hp;
    sobre_graph *g;
    bool *used;          /* [n_tensors] */
    sobre_status status; /* the first failure */
    float eps;
    sobre_rope_params rope;
    int32_t pos, factors;
} builder;

/* --- Metadata. */

static const char *arch_key(const builder *b, char key[KEY_SIZE], const char *name)
{
    snprintf(key, KEY_SIZE, "%s.%s", b->architecture, name);
    return key;
}

static sobre_status get_i32(builder *b, const char *name, bool must, int32_t min, int32_t max,
                            int32_t *ret)
{
    char key[KEY_SIZE];

    return meta_get_i32(b->file, arch_key(b, key, name), must, min, max, ret, NULL);
}

static sobre_status get_f32(builder *b, const char *name, bool must, float *ret)
{
    char key[KEY_SIZE];

    return meta_get_f32(b->file, arch_key(b, key, name), must, ret, NULL);
}

static sobre_status bad(builder *b, const char *name, const char *what, long long value)
{
    return fail(b->ctx, SOBRE_BAD_FORMAT, "%s: key \"%s.%s\" is %lld, %s; the file is malformed",
                b->file->files[0]->name, b->architecture, name, value, what);
}

/* Context extension: none, or linear; others change the angles in ways this version does not know.
 */
static sobre_status read_rope(builder *b)
{
    char key[KEY_SIZE];
    meta_string type = {"none", 4};
    float factor = 1;
    int32_t n_dims = b->hp->head_dim;

    TRY(get_i32(b, "rope.dimension_count", false, 0, MAX_EMBD, &n_dims));
    if (n_dims > b->hp->head_dim || n_dims % 2)
        return bad(b, "rope.dimension_count", "but must be even and at most the head's size",
                   n_dims);
    b->rope = (sobre_rope_params){.kind = n_dims ? b->facts->rope : SOBRE_ROPE_NONE,
                                  .n_dims = n_dims,
                                  .base = 10000,
                                  .scale = 1};
    TRY(get_f32(b, "rope.freq_base", false, &b->rope.base));
    TRY(meta_get_string(b->file, arch_key(b, key, "rope.scaling.type"), false, &type, NULL));
    TRY(get_f32(b, "rope.scale_linear", false, &factor));
    TRY(get_f32(b, "rope.scaling.factor", false, &factor));
    if (!(b->rope.base > 0) || !isfinite(b->rope.base))
        return fail(b->ctx, SOBRE_BAD_FORMAT, "%s: key \"%s.rope.freq_base\" must be above 0",
                    b->file->files[0]->name, b->architecture);
    if (!strcmp(type.text, "none")) return SOBRE_OK;
    if (strcmp(type.text, "linear"))
        return fail(
            b->ctx, SOBRE_UNSUPPORTED,
            "%s: key \"%s.rope.scaling.type\" is \"%.32s\"; this version knows \"none\" and "
            "\"linear\"",
            b->file->files[0]->name, b->architecture, type.text);
    if (!(factor > 0) || !isfinite(factor))
        return fail(b->ctx, SOBRE_BAD_FORMAT, "%s: key \"%s.rope.scaling.factor\" must be above 0",
                    b->file->files[0]->name, b->architecture);
    b->rope.scale = 1 / factor;
    return SOBRE_OK;
}

static sobre_status read_hparams(builder *b)
{
    hparams *hp = b->hp;
    int32_t n_expert = 0;

    TRY(get_i32(b, "context_length", true, 1, MAX_CTX, &hp->n_ctx));
    TRY(get_i32(b, "embedding_length", true, 1, MAX_EMBD, &hp->n_embd));
    TRY(get_i32(b, "block_count", true, 1, MAX_LAYERS, &hp->n_layer));
    TRY(get_i32(b, "feed_forward_length", true, 1, MAX_EMBD, &hp->n_ff));
    TRY(get_i32(b, "attention.head_count", true, 1, MAX_EMBD, &hp->n_head));
    hp->n_head_kv = hp->n_head;
    TRY(get_i32(b, "attention.head_count_kv", false, 1, MAX_EMBD, &hp->n_head_kv));
    if (hp->n_head % hp->n_head_kv)
        return bad(b, "attention.head_count_kv", "which does not divide the number of heads",
                   hp->n_head_kv);
    hp->head_dim = 0;
    TRY(get_i32(b, "attention.key_length", false, 1, MAX_EMBD, &hp->head_dim));
    if (!hp->head_dim) {
        if (hp->n_embd % hp->n_head)
            return bad(b, "attention.head_count", "which does not divide the embedding's length",
                       hp->n_head);
        hp->head_dim = hp->n_embd / hp->n_head;
    }
    hp->head_dim_v = hp->head_dim;
    TRY(get_i32(b, "attention.value_length", false, 1, MAX_EMBD, &hp->head_dim_v));
    TRY(get_i32(b, "expert_count", false, 0, 1 << 16, &n_expert));
    if (n_expert)
        return fail(b->ctx, SOBRE_UNSUPPORTED,
                    "%s: mixtures of experts (\"%s.expert_count\" is %d) are not supported",
                    b->file->files[0]->name, b->architecture, (int)n_expert);
    b->eps = 1e-5f;
    TRY(get_f32(b,
                b->facts->norm == SOBRE_NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                                 : "attention.layer_norm_epsilon",
                true, &b->eps));
    if (!(b->eps >= 0) || !(b->eps < 1))
        return fail(b->ctx, SOBRE_BAD_FORMAT,
                    "%s: the norm's epsilon must be at least 0 and below 1; the file is malformed",
                    b->file->files[0]->name);
    return read_rope(b);
}

/* --- Tensors. */

static const char *shape_text(char text[SHAPE_SIZE], int32_t rank, const int64_t *dims)
{
    size_t n = 0;

    for (int32_t i = 0; i < rank && n < SHAPE_SIZE; i++)
        n += (size_t)snprintf(text + n, SHAPE_SIZE - n, "%s%lld", i ? " x " : "",
                              (long long)dims[i]);
    return text;
}

static sobre_status missing(const builder *b, const char *name)
{
    return fail(b->ctx, SOBRE_BAD_FORMAT,
                "%s: tensor \"%s\" is missing; the file is incomplete, fetch it again",
                b->file->files[0]->name, name);
}

/* The weight of this name as a value of the graph; -1 if it is optional and not there, or after a
 * failure. */
static int32_t tensor(builder *b, bool must, int32_t rank, int64_t d0, int64_t d1,
                      const char *format, int32_t layer, const char *part)
{
    char name[SOBRE_NAME_SIZE];
    const int64_t dims[2] = {d0, d1};
    const tensor_info *t;
    int32_t i;

    if (b->status < 0) return -1;
    snprintf(name, sizeof name, format, (int)layer, part);
    i = container_tensor(b->file, name);
    if (i < 0) {
        if (must) b->status = missing(b, name);
        return -1;
    }
    t = &b->file->tensors[i];
    b->used[i] = true;
    if (t->rank != rank || memcmp(t->dims, dims, (size_t)rank * sizeof *dims)) {
        char is[SHAPE_SIZE], must_be[SHAPE_SIZE];

        b->status =
            fail(b->ctx, SOBRE_BAD_FORMAT,
                 "%s: tensor \"%s\" is %s, but the metadata asks for %s; the file is malformed",
                 b->file->files[t->file]->name, name, shape_text(is, t->rank, t->dims),
                 shape_text(must_be, rank, dims));
        return -1;
    }
    if (!dtype_get(t->dtype)->is_quant && !dtype_get(t->dtype)->is_float) {
        b->status = fail(b->ctx, SOBRE_UNSUPPORTED,
                         "%s: tensor \"%s\" is of type %s, which no weight can have",
                         b->file->files[t->file]->name, name, dtype_get(t->dtype)->name);
        return -1;
    }
    return sobre_graph_weight(b->g, t->name, t->dtype, rank, dims, i);
}

static int32_t matrix(builder *b, int32_t layer, const char *part, int64_t n_out, int64_t n_in)
{
    return tensor(b, true, 2, n_out, n_in, "blk.%d.%s.weight", layer, part);
}

static int32_t bias(builder *b, int32_t layer, const char *part, int64_t n)
{
    return tensor(b, false, 1, n, 0, "blk.%d.%s.bias", layer, part);
}

/* --- Nodes. */

static sobre_node node_of(sobre_op op)
{
    sobre_node n = {.op = op};

    for (int i = 0; i < SOBRE_MAX_IN; i++) n.in[i] = -1;
    return n;
}

static int32_t unary(builder *b, sobre_node *n, int32_t slots)
{
    if (b->status < 0) return -1;
    n->n_in = slots;
    return sobre_graph_node(b->g, n, NULL);
}

static int32_t norm(builder *b, int32_t x, int32_t weight, int32_t shift)
{
    sobre_node n = node_of(SOBRE_OP_NORM);

    n.in[SOBRE_NORM_X] = x;
    n.in[SOBRE_NORM_W] = weight;
    n.in[SOBRE_NORM_B] = shift;
    n.p.norm = (sobre_norm_params){b->facts->norm, b->eps};
    return unary(b, &n, SOBRE_NORM_B + 1);
}

static int32_t matmul(builder *b, int32_t x, int32_t weight, int32_t shift)
{
    sobre_node n = node_of(SOBRE_OP_MATMUL);

    n.in[SOBRE_MATMUL_X] = x;
    n.in[SOBRE_MATMUL_W0] = weight;
    n.in[SOBRE_MATMUL_B0] = shift;
    n.p.matmul.n_weights = 1;
    return unary(b, &n, SOBRE_MATMUL_B0 + 1);
}

static int32_t projection(builder *b, int32_t x, int32_t layer, const char *part, int64_t n_out,
                          int64_t n_in)
{
    return matmul(b, x, matrix(b, layer, part, n_out, n_in), bias(b, layer, part, n_out));
}

static int32_t binary(builder *b, sobre_op op, int32_t a, int32_t c)
{
    sobre_node n = node_of(op);

    n.in[SOBRE_BINARY_A] = a;
    n.in[SOBRE_BINARY_B] = c;
    if (op == SOBRE_OP_GLU) n.p.act = b->facts->act;
    return unary(b, &n, SOBRE_BINARY_B + 1);
}

static int32_t rope(builder *b, int32_t x, int32_t n_head)
{
    sobre_node n = node_of(SOBRE_OP_ROPE);

    if (b->rope.kind == SOBRE_ROPE_NONE) return x;
    n.in[SOBRE_ROPE_X] = x;
    n.in[SOBRE_ROPE_POS] = b->pos;
    n.in[SOBRE_ROPE_FACTORS] = b->factors;
    n.p.rope = (sobre_rope_node_params){b->rope, n_head, b->hp->head_dim};
    return unary(b, &n, SOBRE_ROPE_FACTORS + 1);
}

static int32_t attention(builder *b, int32_t layer, int32_t x)
{
    const hparams *hp = b->hp;
    int64_t n_q = (int64_t)hp->n_head * hp->head_dim, n_k = (int64_t)hp->n_head_kv * hp->head_dim;
    int64_t n_v = (int64_t)hp->n_head_kv * hp->head_dim_v;
    sobre_node n = node_of(SOBRE_OP_ATTENTION);

    n.in[SOBRE_ATTN_Q] = rope(b, projection(b, x, layer, "attn_q", n_q, hp->n_embd), hp->n_head);
    n.in[SOBRE_ATTN_K] = rope(b, projection(b, x, layer, "attn_k", n_k, hp->n_embd), hp->n_head_kv);
    n.in[SOBRE_ATTN_V] = projection(b, x, layer, "attn_v", n_v, hp->n_embd);
    n.in[SOBRE_ATTN_POS] = b->pos;
    n.p.attention = (sobre_attention_params){
        .n_head = hp->n_head,
        .n_head_kv = hp->n_head_kv,
        .head_dim = hp->head_dim,
        .head_dim_v = hp->head_dim_v,
        .scale = 1 / sqrtf((float)hp->head_dim),
        .causal = 1,
        .append = 1,
        .kv = layer,
    };
    return projection(b, unary(b, &n, SOBRE_ATTN_SINKS + 1), layer, "attn_output", hp->n_embd,
                      (int64_t)hp->n_head * hp->head_dim_v);
}

static int32_t feed_forward(builder *b, int32_t layer, int32_t x)
{
    const hparams *hp = b->hp;
    int32_t gate = projection(b, x, layer, "ffn_gate", hp->n_ff, hp->n_embd);
    int32_t up = projection(b, x, layer, "ffn_up", hp->n_ff, hp->n_embd);

    return projection(b, binary(b, SOBRE_OP_GLU, gate, up), layer, "ffn_down", hp->n_embd,
                      hp->n_ff);
}

static int32_t layer_norm(builder *b, int32_t layer, const char *part, int32_t x)
{
    int32_t weight = tensor(b, true, 1, b->hp->n_embd, 0, "blk.%d.%s.weight", layer, part);

    return norm(b, x, weight, bias(b, layer, part, b->hp->n_embd));
}

static int32_t embed(builder *b, int32_t table)
{
    sobre_node n = node_of(SOBRE_OP_EMBED);

    n.in[SOBRE_EMBED_IDS] = sobre_graph_input(b->g, SOBRE_INPUT_IDS, 0);
    n.in[SOBRE_EMBED_TABLE] = table;
    n.p.factor = 1;
    return unary(b, &n, SOBRE_EMBED_TABLE + 1);
}

static int32_t gather(builder *b, int32_t x)
{
    sobre_node n = node_of(SOBRE_OP_GATHER);

    n.in[SOBRE_GATHER_X] = x;
    n.in[SOBRE_GATHER_ROWS] = sobre_graph_input(b->g, SOBRE_INPUT_ROWS, 0);
    return unary(b, &n, SOBRE_GATHER_ROWS + 1);
}

static sobre_status build_graph(builder *b)
{
    const hparams *hp = b->hp;
    int32_t table = tensor(b, true, 2, hp->n_vocab, hp->n_embd, "token_embd.weight", 0, "");
    int32_t head, x;

    b->factors = tensor(b, false, 1, b->rope.n_dims / 2, 0, "rope_freqs.weight", 0, "");
    b->pos = sobre_graph_input(b->g, SOBRE_INPUT_POS, 0);
    x = embed(b, table);
    for (int32_t i = 0; i < hp->n_layer && b->status >= 0; i++) {
        sobre_graph_layer(b->g, i);
        x = binary(b, SOBRE_OP_ADD, x, attention(b, i, layer_norm(b, i, "attn_norm", x)));
        x = binary(b, SOBRE_OP_ADD, x, feed_forward(b, i, layer_norm(b, i, "ffn_norm", x)));
    }
    sobre_graph_layer(b->g, -1);
    x = norm(b, gather(b, x), tensor(b, true, 1, hp->n_embd, 0, "output_norm.weight", 0, ""),
             tensor(b, false, 1, hp->n_embd, 0, "output_norm.bias", 0, ""));
    head = tensor(b, false, 2, hp->n_vocab, hp->n_embd, "output.weight", 0, "");
    x = matmul(b, x, head < 0 ? table : head, -1); /* no separate head: it is tied to the table */
    if (b->status < 0) return b->status;
    sobre_graph_output(b->g, x, "logits");
    return sobre_graph_check(b->g);
}

/* The table's rows are the vocabulary; a tokenizer with more tokens would give ids that have no
 * row. */
static sobre_status read_vocab(builder *b)
{
    int32_t i = container_tensor(b->file, "token_embd.weight");
    int32_t n_tok = b->m->tok ? tok_n_vocab(b->m->tok) : 0;
    int64_t rows;

    if (i < 0) return missing(b, "token_embd.weight");
    rows = b->file->tensors[i].dims[0];
    if (b->file->tensors[i].rank != 2 || rows > MAX_VOCAB)
        return fail(b->ctx, SOBRE_BAD_FORMAT,
                    "%s: tensor \"token_embd.weight\" must be a matrix of at most %d rows",
                    b->file->files[0]->name, MAX_VOCAB);
    if (n_tok > rows)
        return fail(b->ctx, SOBRE_BAD_FORMAT,
                    "%s: the tokenizer has %d tokens, but \"token_embd.weight\" only %lld rows; "
                    "the file is malformed",
                    b->file->files[0]->name, (int)n_tok, (long long)rows);
    b->hp->n_vocab = (int32_t)rows;
    return SOBRE_OK;
}

static sobre_status describe_kv(builder *b)
{
    sobre_model *m = b->m;

    m->kv = mem_alloc(b->ctx, (size_t)b->hp->n_layer, sizeof *m->kv);
    if (!m->kv) return SOBRE_OUT_OF_MEMORY;
    m->n_kv = b->hp->n_layer;
    for (int32_t i = 0; i < m->n_kv; i++)
        m->kv[i] = (sobre_kv_desc){.n_head_kv = b->hp->n_head_kv,
                                   .head_dim = b->hp->head_dim,
                                   .head_dim_v = b->hp->head_dim_v};
    return SOBRE_OK;
}

static sobre_status warn_unused(builder *b)
{
    enum { MOST = 8 };
    int32_t n = 0;

    for (int32_t i = 0; i < b->file->n_tensors; i++) {
        if (b->used[i]) continue;
        if (n++ < MOST)
            TRY(model_warn(b->m, "tensor \"%s\" is not used by a %s model",
                           b->file->tensors[i].name, b->architecture));
    }
    if (n > MOST) TRY(model_warn(b->m, "%d more tensors are not used", (int)(n - MOST)));
    return SOBRE_OK;
}

sobre_status decoder_build(sobre_model *m, const family *f)
{
    builder b = {.m = m,
                 .ctx = m->ctx,
                 .file = m->file,
                 .facts = f->facts,
                 .architecture = f->architecture,
                 .hp = &m->hp};
    sobre_status status;

    TRY(read_hparams(&b));
    TRY(read_vocab(&b));
    TRY(describe_kv(&b));
    TRY(sobre_graph_open(m->ctx, &m->graph));
    b.g = m->graph;
    b.used = mem_alloc(m->ctx, (size_t)m->file->n_tensors, sizeof *b.used);
    if (!b.used) return SOBRE_OUT_OF_MEMORY;
    status = build_graph(&b);
    if (status >= 0) status = warn_unused(&b);
    mem_free(m->ctx, b.used);
    return status;
}
