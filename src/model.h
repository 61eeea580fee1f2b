/* SPDX-License-Identifier: MIT */
/* A model from inside: container, tokenizer, graph; weights once it is loaded. */
#ifndef SOBRE_MODEL_H
#define SOBRE_MODEL_H

#include "container.h"
#include "plan.h"
#include "tok.h"

/* Hyperparameters that every family shares; GGUF's names. */
typedef struct hparams {
    int32_t n_vocab, n_ctx, n_embd, n_layer, n_head, n_head_kv, head_dim, head_dim_v, n_ff;
} hparams;

typedef struct weights {
    sobre_span *spans;                /* [n_values] of the fused graph; each on one device */
    int32_t *device;                  /* [n_values], index in devices */
    sobre_buffer *shared[MAX_PLACED]; /* of all weights there; NULL: each has its own */
} weights;

struct sobre_model {
    sobre_context *ctx;
    atomic_int refs;
    os_mutex mutex; /* guards what load and unload change */
    container *file;
    tokenizer *tok;
    const struct chat_format *chat;
    hparams hp;
    sobre_graph *graph; /* as the family built it; never changes */
    sobre_kv_desc *kv;  /* [n_kv]: one cache a layer that has attention */
    int32_t n_kv;
    sobre_model_info info;
    char **warnings;  /* info.n_warnings of them */
    char **meta_text; /* [file->n_meta], written when asked for */
    /* Loaded: */
    bool loaded, loading;
    uint32_t generation; /* counts loads, so that sessions notice a new one */
    atomic_int running;  /* sessions evaluating now */
    sobre_placement placement;
    uint64_t limit;                    /* of the device's bytes; 0: what is free */
    atomic_uint_least64_t cache_bytes; /* of all sessions */
    device_set devices;
    sobre_graph *fused;        /* lowered and fused for the devices */
    sobre_graph *fused_embd;   /* the same from embeddings; same values */
    sobre_graph *fused_sample; /* the same, to tokens; NULL if no device samples */
    weights w;
};

void model_ref(sobre_model *m);
/* UNSUPPORTED if it holds no tensors. */
sobre_status model_check_runs(sobre_model *m);

/* weights.c */
uint32_t weight_slot_use(sobre_op op, int32_t slot); /* of an input that is a weight */
sobre_weight weight_describe(const sobre_value *v, uint32_t uses);
sobre_status weights_load(sobre_model *m, const sobre_load_options *options);
void weights_free(sobre_model *m);
/* Adds up packed sizes on each device without allocating. */
sobre_status weights_size(sobre_context *ctx, const sobre_graph *g, const device_set *devices,
                          uint64_t ret_size[MAX_PLACED]);

/* models/families.c */
typedef struct family {
    const char *architecture; /* general.architecture */
    /* Reads metadata, checks tensors, fills m->hp, m->graph, m->kv; adds warnings. */
    sobre_status (*build)(sobre_model *m, const struct family *family);
    const void *facts; /* of the builder */
} family;
const family *family_find(const char *architecture);
/* The i-th family, NULL past the last. */
const family *family_at(size_t i);

sobre_status model_warn(sobre_model *m, const char *format, ...) SOBRE_PRINTF(2, 3);

#endif
