/* SPDX-License-Identifier: MIT */
/* A session from inside.
 *
 * A sequence is a list of token ids, of which the cache holds the first `kv.seqs[i].length`; the
 * rest waits to be evaluated. Everything else follows from that: a prompt only adds ids; the last
 * sampled token waits for the next step; after the model was loaded again, or after a shift, the
 * cache is cut and what it lost waits once more.
 *
 * While a job runs in the background it owns all of the session but `cancel` and what is said to be
 * the owner's. */
#ifndef SOBRE_SESSION_H
#define SOBRE_SESSION_H

#include "cache.h"
#include "kv.h"
#include "model.h"
#include "sample.h"
#include "stop.h"
#include "worker.h"

typedef struct session_seq {
    int32_t *ids; /* [capacity]; -1 where embeddings were given */
    int32_t n_ids, capacity;
    int32_t n_shown; /* owner's: n_ids when the background job began */
    bool in_batch;   /* while a batch is checked */

    bool generating;
    sampler *sampler;   /* NULL until generation or sampling was asked for */
    stop_matcher *text; /* likewise */
    int32_t n_generated;
    /* The last step's token, until next() has made an event of it. */
    bool stepped;
    int32_t token; /* -1: no room for one */
    float logprob;
    sobre_token_prob *top; /* copied from the sampler; [n_top_capacity] */
    size_t n_top, top_capacity;
} session_seq;

/* One sequence's share of an evaluation. */
typedef struct session_item {
    int32_t seq;
    sobre_want want;
    int32_t n_before;  /* ids before this call's were added */
    const float *embd; /* of the ids from n_before on; NULL: ids */
    int32_t *saved;    /* ids [n_before] before a shift; NULL: none was needed */
    int32_t n_saved;
} session_item;

typedef enum session_job { JOB_NONE, JOB_BATCH, JOB_STEP } session_job;

/* What a plan takes and gives. */
typedef enum plan_kind {
    PLAN_IDS,    /* ids to logits */
    PLAN_EMBD,   /* embeddings to logits */
    PLAN_SAMPLE, /* ids to tokens that the device samples */
    N_PLAN_KINDS,
} plan_kind;

enum { N_COL_BUCKETS = 6, N_ROW_BUCKETS = 3 };

struct sobre_session {
    sobre_context *ctx;
    sobre_model *model;
    int32_t n_ctx, n_seq, n_chunk, n_keep;
    int32_t n_vocab, n_embd;
    sobre_kv_type kv_type;
    sobre_full_policy full;
    bool exact;
    atomic_int cancel; /* set by anyone, cleared when a call returns CANCELLED */

    /* On the device; made for one load of the model. */
    bool on_device;
    uint32_t generation;
    cache cache;
    plan *plans[N_PLAN_KINDS][N_COL_BUCKETS][N_ROW_BUCKETS];

    kv_table kv;
    session_seq *seqs;   /* [n_seq] */
    session_item *items; /* [n_seq] */

    /* The next run's inputs. */
    int32_t *run_ids, *run_pos, *run_rows; /* [n_chunk] */
    float *run_embd;                       /* [n_chunk, n_embd], once embeddings were given */
    sobre_run_seq *run_seqs;               /* [n_seq] */

    const float *logits; /* [n_logits, n_vocab], in a plan's memory or in `kept` */
    size_t n_logits;
    float *kept;
    size_t kept_size; /* bytes */

    /* Where the device samples, for each item of a step; `logits` then holds only the rows of those
     * that are undetermined. */
    bool sampled;      /* by the last run */
    int32_t *sampling; /* [n_seq, SOBRE_SAMPLE_PARAMS_SIZE], once it was asked for */
    int32_t *picks;    /* [n_seq, SOBRE_SAMPLE_RESULT_SIZE], likewise */

    /* Owner's. */
    worker *worker; /* NULL until something runs in the background */
    session_job job;
    sobre_entry *submitted; /* with its ids and embeddings in one block */
    size_t n_submitted;
    int32_t *queue; /* [n_seq]: sequences whose step has yet to become an event */
    int32_t n_queue, queue_at;
    sobre_event event;

    sobre_stats stats;
};

/* Fails with INVALID_ARGUMENT while something runs in the background. */
sobre_status session_check_idle(sobre_session *s);
sobre_status session_check_seq(sobre_session *s, int32_t seq);
/* Room for n more ids. */
sobre_status session_grow(sobre_session *s, session_seq *q, int32_t n);
/* Forgets a sampled token that has not become an event: ids came in its place. */
void session_drop_step(session_seq *q);
/* Ends generation there and forgets what it held. */
void session_end_generation(session_seq *q);
/* Runs a job in the background. */
sobre_status session_start(sobre_session *s, session_job kind, sobre_status (*job)(void *session));
/* The result of the job, which is done; clears `cancel` if it was cancelled. */
sobre_status session_collect(sobre_session *s);
/* Passes a status on to the caller of a public function: CANCELLED uses the request up. */
sobre_status session_return(sobre_session *s, sobre_status status);

/* --- session_eval.c */

/* Checks a batch against the session; changes nothing. */
sobre_status session_check_batch(sobre_session *s, const sobre_entry *entries, size_t n_entries);
/* Evaluates a checked batch; a failure restores every sequence. */
sobre_status session_eval_batch(sobre_session *s, const sobre_entry *entries, size_t n_entries);
/* Evaluates the waiting ids of items[0 .. n_items - 1] and keeps logits. With `sample` every item
 * wants its last row and has a sampler: where the device can, it samples (s->sampled). */
sobre_status session_run(sobre_session *s, int32_t n_items, bool sample);
/* Makes room for n more ids by dropping the older half of what follows the first n_keep. */
sobre_status session_shift(sobre_session *s, int32_t seq, int32_t n);
/* Allocates the cache on the device. */
sobre_status session_attach(sobre_session *s);
/* Frees what lies on the device; every sequence waits to be evaluated again. */
void session_detach(sobre_session *s);

#endif
