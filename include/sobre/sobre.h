/* SPDX-License-Identifier: MIT */
/*
 * Sobre: run small transformer models inside your program.
 *
 * Three nouns: a context (devices, allocator, log, threads), a model (a file, its weights on a
 * device), a session (sequences of tokens with their KV cache). Children hold references to their
 * parents, so they may be closed in any order; every `_close` accepts NULL.
 *
 * Rules that hold for every function:
 * - The library never aborts, exits, prints, or touches signals, locale or environment.
 * - What can fail returns a sobre_status: below 0 an error, 0 fine, above 0 DONE or AGAIN. On
 * failure outputs (`ret_*`) are left untouched and sobre_error() says what was wrong, where, and
 * what to do.
 * - Options structs begin with `struct_size`; SOBRE(type, .field = ...) fills it in. NULL or all
 * zero means defaults. Fields are only ever appended.
 * - Pointers in results belong to the library; each comment says how long they live.
 * - `n_*` counts, `*_size` are bytes, text is UTF-8 and need not be zero-terminated where a size is
 * given.
 *
 * Thread-safety: a context and a model may be used from any thread at once. A session belongs to
 * one thread at a time; only sobre_session_cancel() may be called from elsewhere (any thread, or a
 * signal handler).
 */
#ifndef SOBRE_SOBRE_H
#define SOBRE_SOBRE_H

#include <stddef.h>
#include <stdint.h>

#include <sobre/version.h>

#if defined(_WIN32) && defined(SOBRE_SHARED)
#ifdef SOBRE_BUILD
#define SOBRE_EXPORT __declspec(dllexport)
#else
#define SOBRE_EXPORT __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define SOBRE_EXPORT __attribute__((visibility("default")))
#else
#define SOBRE_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* SOBRE(source, .path = p) is a pointer to a sobre_source with struct_size set; it lives to the end
 * of the block. */
#define SOBRE(type, ...) (&(sobre_##type){.struct_size = sizeof(sobre_##type), __VA_ARGS__})
/* The same for languages without compound literals: `sobre_source s = SOBRE_INIT(source);` */
/* clang-format off */
#ifdef __cplusplus
#define SOBRE_INIT(type) {sizeof(sobre_##type)}
#else
#define SOBRE_INIT(type) {.struct_size = sizeof(sobre_##type)}
#endif
/* clang-format on */

/* --- Status and version */

typedef enum sobre_status {
    SOBRE_OK = 0,
    SOBRE_DONE = 1,                  /* nothing more will come */
    SOBRE_AGAIN = 2,                 /* nothing yet: call again */
    SOBRE_INVALID_ARGUMENT = -1,     /* the call itself is wrong */
    SOBRE_OUT_OF_MEMORY = -2,        /* host memory, or the limit that the caller set */
    SOBRE_DEVICE_OUT_OF_MEMORY = -3, /* device memory, or the limit that the caller set */
    SOBRE_IO = -4,                   /* reading or writing a file failed */
    SOBRE_BAD_FORMAT = -5,           /* a file, text or template is malformed */
    SOBRE_UNSUPPORTED = -6,          /* well-formed, but not something this version can do */
    SOBRE_UNAVAILABLE = -7,          /* no such device here, or not after fork() */
    SOBRE_DEVICE = -8,               /* a device or driver call failed */
    SOBRE_DEVICE_LOST = -9,       /* the device is gone; the session can be replayed on another */
    SOBRE_BUFFER_TOO_SMALL = -10, /* the needed size was returned */
    SOBRE_CONTEXT_FULL = -11,     /* the sequence has no room left */
    SOBRE_CANCELLED = -12,        /* by sobre_session_cancel() or a progress callback */
    SOBRE_NOT_FINITE = -13,       /* NaN or infinite logits */
    SOBRE_INTERNAL = -14,         /* a defect of this library */
} sobre_status;

/* "OUT_OF_MEMORY" and so on; "UNKNOWN" for other numbers. Static. */
SOBRE_EXPORT const char *sobre_status_name(sobre_status status);

/* The library's version, "0.1.0". Static. */
SOBRE_EXPORT const char *sobre_version(void);

/* --- Context */

typedef struct sobre_context sobre_context;
typedef struct sobre_model sobre_model;
typedef struct sobre_session sobre_session;

/* All memory of the context and its children comes from here. `align` is a power of two. Called
 * from any thread. */
typedef struct sobre_allocator {
    void *user;
    void *(*alloc)(void *user, size_t size, size_t align); /* NULL when there is no more */
    void (*free)(void *user, void *ptr);                   /* never called with NULL */
} sobre_allocator;

typedef enum sobre_log_level {
    SOBRE_LOG_ERROR,
    SOBRE_LOG_WARNING,
    SOBRE_LOG_INFO,
    SOBRE_LOG_DEBUG
} sobre_log_level;

/* Instruction set of the CPU backend. One that the processor lacks is UNAVAILABLE. */
typedef enum sobre_cpu_isa {
    SOBRE_CPU_BEST = 0,
    SOBRE_CPU_SCALAR,
    SOBRE_CPU_AVX2,    /* AVX2 + FMA + F16C */
    SOBRE_CPU_AVX512,  /* AVX-512 F, BW, DQ, VL and VNNI */
    SOBRE_CPU_AVXVNNI, /* AVX2 and AVX-VNNI */
    SOBRE_CPU_DOTPROD, /* Armv8.2 with NEON and its dot products */
    SOBRE_CPU_I8MM     /* DOTPROD and the int8 matrix products of Armv8.6 */
} sobre_cpu_isa;

/* Does a GPU backend give dense products to a BLAS library? */
typedef enum sobre_blas {
    SOBRE_BLAS_AUTO = 0, /* where it was found right and faster */
    SOBRE_BLAS_NEVER,
    SOBRE_BLAS_ALWAYS, /* where it was found right; waits until that is known */
} sobre_blas;

typedef struct sobre_context_options {
    size_t struct_size;
    const sobre_allocator *allocator; /* copied; NULL: the system's */
    void (*log)(void *user, sobre_log_level level,
                const char *message); /* NULL: silent. From any thread. */
    void *log_user;
    const char *cache_dir;  /* copied; NULL: nothing is cached on disk */
    const char *plugin_dir; /* copied; NULL: the library's own folder */
    int32_t n_threads;     /* of the CPU backend, the caller's included; 0: one a physical core that
                              this     process may run on; at most 256 */
    sobre_cpu_isa cpu_isa; /* for tests */
    uint64_t host_limit;   /* bytes that the context and its children may hold; 0: no limit */
    sobre_blas blas;       /* for tests and measurements */
} sobre_context_options;

/* Opens a context. Touches no driver. `options` may be NULL. */
SOBRE_EXPORT sobre_status sobre_context_open(const sobre_context_options *options,
                                             sobre_context **ret_context);
/* Drops the caller's reference; what models and sessions still use stays until they are closed. */
SOBRE_EXPORT void sobre_context_close(sobre_context *context);

/* The last error of this context on the calling thread, or "" if there was none. Valid until the
 * next failing call on this thread (a context remembers the last 16 threads that failed). NULL: why
 * opening a context can fail. */
SOBRE_EXPORT const char *sobre_error(const sobre_context *context);

typedef struct sobre_usage {
    size_t struct_size;
    uint64_t host_bytes;      /* held now */
    uint64_t host_peak_bytes; /* the most that was held at once */
    uint64_t n_allocations;   /* made so far */
} sobre_usage;

/* Fills what fits in ret_usage->struct_size bytes. */
SOBRE_EXPORT sobre_status sobre_context_usage(const sobre_context *context, sobre_usage *ret_usage);

/* --- Devices */

typedef enum sobre_device_kind {
    SOBRE_DEVICE_CPU = 1,
    SOBRE_DEVICE_GPU = 2,
    SOBRE_DEVICE_NULL = 3
} sobre_device_kind;

typedef struct sobre_device_info {
    size_t struct_size;
    sobre_device_kind kind;
    const char *backend;   /* "cpu", "opencl", ... */
    const char *name;      /* the processor or card, as its driver calls it */
    const char *detail;    /* instruction set, driver version */
    const char *reason;    /* why it cannot be used; NULL if it can */
    uint64_t memory_bytes; /* in all; 0: not known */
    uint64_t memory_free;  /* now; 0: not known */
    int32_t n_units;       /* cores or compute units */
} sobre_device_info;

/* Names of the backends that this version knows, in the library or as plugins: "cpu", "opencl" and
 * so on; NULL past the last. Static. */
SOBRE_EXPORT const char *sobre_backend_name(int32_t index);
/* Devices are numbered from 1; 0 means "choose for me" wherever a device is asked for. Device 1 is
 * the CPU. Drivers are loaded by the first call, which may hang if a driver does; `backend` NULL
 * counts all, "cpu" only those, loading nothing else. A backend that cannot work here, because its
 * plugin or every driver is missing, is UNAVAILABLE with the reason if it is asked for by name, and
 * else left out. */
SOBRE_EXPORT sobre_status sobre_device_count(sobre_context *context, const char *backend,
                                             int32_t *ret_n);
/* `backend` as above, `index` from 0. *ret_device is the number to pass elsewhere. *ret_info and
 * its strings live as long as the context. Either may be NULL. */
SOBRE_EXPORT sobre_status sobre_device_get(sobre_context *context, const char *backend,
                                           int32_t index, int32_t *ret_device,
                                           const sobre_device_info **ret_info);

/* What decides which device decodes a model fastest. */
typedef struct sobre_measurement {
    size_t struct_size;
    uint64_t bytes_per_s;   /* of packed weights, streamed for one token */
    uint64_t ns_per_launch; /* that a node of a graph takes beside it */
    uint64_t flop_per_s;    /* of products for many tokens */
} sobre_measurement;

/* Measures a device with random weights: 33 MB of its memory, on most less than a second. With a
 * cache_dir the result is kept there; after the CPU and others were measured, device 0 means the
 * one that should decode a model fastest, without a cache_dir the CPU. */
SOBRE_EXPORT sobre_status sobre_device_measure(sobre_context *context, int32_t device,
                                               sobre_measurement *ret_measurement);

/* --- Model */

/* Where a model comes from: exactly one of path, data, read. */
typedef struct sobre_source {
    size_t struct_size;
    const char *path; /* a GGUF file; of a split one, any part */
    const void *data; /* a GGUF file in memory, which stays valid until the model is closed */
    size_t data_size;
    /* Reads all `size` bytes: 0; else non-zero. Called by one thread at a time, but any thread. */
    int32_t (*read)(void *user, uint64_t offset, void *buffer, size_t size);
    void *read_user;
    uint64_t read_size; /* bytes in all, for `read` */
    int32_t map; /* with `path`: 1 maps the file instead of reading it. If another program truncates
                    a mapped file, the operating system kills this process (SIGBUS): only for files
                    you control. */
} sobre_source;

/* Reads and checks the header: metadata, tensor directory, tokenizer, graph. Loads no weights,
 * needs no device. */
SOBRE_EXPORT sobre_status sobre_model_open(sobre_context *context, const sobre_source *source,
                                           sobre_model **ret_model);
SOBRE_EXPORT void sobre_model_close(sobre_model *model);

typedef struct sobre_model_info {
    size_t struct_size;
    const char *name;         /* general.name, or "" */
    const char *architecture; /* "llama" */
    const char *quantization; /* the block type that holds most weights: "Q4_1" */
    uint64_t n_params;
    uint64_t tensor_bytes; /* of tensor data in the file(s) */
    int32_t n_vocab, n_ctx, n_embd, n_layer, n_head, n_head_kv, head_dim, n_ff;
    int32_t has_tokenizer;       /* 0: runs on ids only */
    const char *chat_format;     /* the recognised chat format ("chatml"), NULL if none */
    const char *const *warnings; /* things that are odd but do no harm, one line each */
    int32_t n_warnings;
} sobre_model_info;

/* Lives as long as the model. */
SOBRE_EXPORT const sobre_model_info *sobre_model_info_get(const sobre_model *model);

/* Metadata by key, written as text ("4096", "[1, 2, 3, ...]"); NULL if there is no such key,
 * UNSUPPORTED types included. Lives as long as the model. */
SOBRE_EXPORT const char *sobre_model_meta(sobre_model *model, const char *key);
/* The i-th key, NULL past the last. */
SOBRE_EXPORT const char *sobre_model_meta_key(const sobre_model *model, int32_t index);

typedef enum sobre_kv_type {
    SOBRE_KV_DEFAULT = 0,
    SOBRE_KV_F32 = 1,
    SOBRE_KV_F16 = 2,
    SOBRE_KV_BF16 = 3,
    SOBRE_KV_Q8_0 = 4 /* bytes with a scale for 32 of them */
} sobre_kv_type;

typedef struct sobre_fit_options {
    size_t struct_size;
    int32_t device;        /* 0: the fastest that fits, see sobre_device_measure() */
    int32_t n_ctx;         /* positions a sequence; 0: the model's, at most 4096 */
    int32_t n_seq;         /* sequences a session; 0: 1; at most 1024 */
    sobre_kv_type kv_type; /* default f16 */
    int32_t n_chunk;       /* columns evaluated at once in prefill; 0: 512 */
    uint64_t limit;  /* bytes that may be used on the device; 0: what is free less a headroom, or,
                        where its driver does not tell, all of its memory less a larger one */
    int32_t n_layer; /* transformer layers on the device, the last ones of the model; the CPU runs
                        the others. 0: as many as fit. More than there are: all, or an error */
} sobre_fit_options;

typedef struct sobre_placement {
    size_t struct_size;
    int32_t device;
    int32_t n_ctx, n_seq, n_chunk;
    sobre_kv_type kv_type;
    /* On the device: */
    uint64_t weight_bytes;    /* packed */
    uint64_t kv_bytes;        /* when every sequence is full; the CPU commits them as they fill */
    uint64_t workspace_bytes; /* largest plan: activations, inputs, outputs */
    uint64_t total_bytes;
    int32_t n_layer;    /* transformer layers that it runs */
    uint64_t cpu_bytes; /* all of the above for what the CPU runs beside another device */
} sobre_placement;

/* What loading would take. Allocates nothing on the device. DEVICE_OUT_OF_MEMORY says what is
 * missing. */
SOBRE_EXPORT sobre_status sobre_model_fit(sobre_model *model, const sobre_fit_options *options,
                                          sobre_placement *ret_placement);

/* What a run does, whatever its device: what limits its speed. */
typedef struct sobre_cost {
    size_t struct_size;
    uint64_t weight_bytes; /* packed, each weight once; of embeddings the rows that are looked up */
    uint64_t kv_bytes;     /* of the cache, read and written */
    uint64_t activation_bytes; /* read by each node that takes them, written by the one that makes
                                  them */
    uint64_t flop;
    int32_t n_launches; /* steps or kernels */
} sobre_cost;

/* What it would take to evaluate n_cols tokens of one sequence that holds n_past positions, and to
 * sample what follows, where the device can. Loads and runs nothing. */
SOBRE_EXPORT sobre_status sobre_model_cost(sobre_model *model, const sobre_fit_options *options,
                                           int32_t n_cols, int32_t n_past, sobre_cost *ret_cost);

typedef struct sobre_load_options {
    size_t struct_size;
    /* 0 to 1, on the calling thread; non-zero cancels. Must not load or evaluate anything. */
    int32_t (*progress)(void *user, double done);
    void *progress_user;
} sobre_load_options;

/* Loads the weights, packed for the device. Either may be NULL. Loading a loaded model is
 * INVALID_ARGUMENT. */
SOBRE_EXPORT sobre_status sobre_model_load(sobre_model *model, const sobre_fit_options *fit,
                                           const sobre_load_options *options);
/* Frees the weights; sessions stay, and after another load they replay their tokens by themselves.
 * INVALID_ARGUMENT while a session is evaluating. */
SOBRE_EXPORT sobre_status sobre_model_unload(sobre_model *model);

/* What sobre_model_dump() writes. */
typedef enum sobre_dump {
    SOBRE_DUMP_GRAPH = 1, /* nodes as the model family built them */
    SOBRE_DUMP_FUSED = 2, /* nodes as lowered and fused for the device */
    SOBRE_DUMP_PLAN = 3,  /* steps, device, buffers, offsets, bytes for one column bucket */
} sobre_dump;
typedef enum sobre_dump_format { SOBRE_DUMP_TEXT = 0, SOBRE_DUMP_DOT = 1 } sobre_dump_format;

/* Passes the text to `write` in pieces; n_cols picks the column bucket of a plan (0: 1). Needs no
 * loaded weights. */
SOBRE_EXPORT sobre_status sobre_model_dump(sobre_model *model, const sobre_fit_options *options,
                                           sobre_dump what, sobre_dump_format format,
                                           int32_t n_cols,
                                           void (*write)(void *user, const char *text, size_t size),
                                           void *user);

/* --- Text */

typedef enum sobre_tokenize_flags {
    SOBRE_TOKENIZE_NO_BOS = 1,     /* add no BOS, EOS, [CLS] or [SEP] */
    SOBRE_TOKENIZE_NO_SPECIAL = 2, /* read special tokens in the text as plain text */
} sobre_tokenize_flags;

/* Text to ids. *ret_n gets the number of ids; if it is above `capacity`, BUFFER_TOO_SMALL, and
 * nothing else is written. `ids` may be NULL with capacity 0. Bytes become byte tokens,
 * in UTF-8 or not; one that the vocabulary lacks becomes its unknown token, or is left out if that
 * is missing or a control token. Thread-safe. */
SOBRE_EXPORT sobre_status sobre_tokenize(sobre_model *model, const char *text, size_t text_size,
                                         uint32_t flags, int32_t *ids, size_t capacity,
                                         size_t *ret_n);
/* The bytes of one token, which may be a part of a UTF-8 character; control tokens give their name
 * only with `special` non-zero, else nothing. Lives as long as the model. */
SOBRE_EXPORT sobre_status sobre_token_text(sobre_model *model, int32_t id, int32_t special,
                                           const char **ret_text, size_t *ret_size);
/* The id of a token by its exact text, -1 if there is none. */
SOBRE_EXPORT int32_t sobre_token_find(sobre_model *model, const char *text);

typedef struct sobre_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
} sobre_message;

/* Messages to the text that the model was trained on. *ret_size gets the bytes needed, without the
 * final zero; if capacity is not above it, BUFFER_TOO_SMALL. UNSUPPORTED if the chat format is not
 * recognised. `add_generation` opens the assistant's turn. */
SOBRE_EXPORT sobre_status sobre_template(sobre_model *model, const sobre_message *messages,
                                         size_t n_messages, int32_t add_generation, char *text,
                                         size_t capacity, size_t *ret_size);

/* --- Session */

typedef enum sobre_full_policy {
    SOBRE_FULL_ERROR = 0, /* CONTEXT_FULL */
    SOBRE_FULL_SHIFT = 1, /* keep the first n_keep tokens and the newer half of the rest, and
                             evaluate them again */
} sobre_full_policy;

typedef struct sobre_session_options {
    size_t struct_size;
    int32_t n_ctx, n_seq, n_chunk; /* 0: what the model was loaded for */
    sobre_kv_type kv_type;         /* 0: likewise */
    int32_t exact;                 /* 1: f32 activations and f32 KV; slower */
    sobre_full_policy full;
    int32_t n_keep; /* of SOBRE_FULL_SHIFT */
} sobre_session_options;

SOBRE_EXPORT sobre_status sobre_session_open(sobre_model *model,
                                             const sobre_session_options *options,
                                             sobre_session **ret_session);
/* Waits no longer than work in flight takes to notice. */
SOBRE_EXPORT void sobre_session_close(sobre_session *session);

/* Makes the running or next call on this session return CANCELLED soon: within one layer on the
 * CPU. Safe from any thread and from a signal handler; the session must not be closed meanwhile.
 * The tokens so far stay. */
SOBRE_EXPORT void sobre_session_cancel(sobre_session *session);

/* -- Batches: evaluate tokens and read logits. */

typedef enum sobre_want { SOBRE_WANT_NONE = 0, SOBRE_WANT_LAST = 1, SOBRE_WANT_ALL = 2 } sobre_want;

typedef struct sobre_entry {
    int32_t seq;        /* 0 .. n_seq - 1; a sequence may occur once in a batch */
    int32_t pos;        /* position of the first token: the sequence's length */
    int32_t n_tokens;   /* at least 1 */
    sobre_want want;    /* which tokens' logits are kept */
    const int32_t *ids; /* [n_tokens] */
    const float *embd;  /* [n_tokens, n_embd] instead of ids */
} sobre_entry;

typedef struct sobre_batch {
    size_t struct_size;
    const sobre_entry *entries;
    size_t n_entries;
} sobre_batch;

/* Evaluates every entry, in chunks of n_chunk columns. Blocks. A failed call restores every
 * sequence's length. */
SOBRE_EXPORT sobre_status sobre_session_eval(sobre_session *session, const sobre_batch *batch);
/* The same, in the background: copies the batch and returns. One batch at a time. */
SOBRE_EXPORT sobre_status sobre_session_submit(sobre_session *session, const sobre_batch *batch);
/* Waits for the submitted batch, at most timeout_ms (below 0: for ever); AGAIN if it is not done
 * yet. */
SOBRE_EXPORT sobre_status sobre_session_wait(sobre_session *session, int32_t timeout_ms);

/* Row `index` of the last batch's kept logits, in entry and token order: [n_vocab] floats, valid
 * until the next evaluation. */
SOBRE_EXPORT sobre_status sobre_session_logits(sobre_session *session, size_t index,
                                               const float **ret_logits);
SOBRE_EXPORT size_t sobre_session_n_logits(const sobre_session *session);

/* -- Sequences. */

/* Tokens in a sequence; -1 if there is no such sequence. */
SOBRE_EXPORT int32_t sobre_seq_length(const sobre_session *session, int32_t seq);
/* The ids themselves (-1 where embeddings were given), valid until the sequence changes. */
SOBRE_EXPORT const int32_t *sobre_seq_ids(const sobre_session *session, int32_t seq);
/* Cuts a sequence back to its first `length` tokens. */
SOBRE_EXPORT sobre_status sobre_seq_truncate(sobre_session *session, int32_t seq, int32_t length);
/* Makes `to` a copy of `from`, sharing all full pages. What `to` held is dropped. */
SOBRE_EXPORT sobre_status sobre_seq_fork(sobre_session *session, int32_t from, int32_t to);

/* -- Generation. */

typedef struct sobre_logit_bias {
    int32_t id;
    float bias; /* added to the logit; -INFINITY forbids the token */
} sobre_logit_bias;

/* Applied in this order: bias, penalties, temperature, top-k, top-p, min-p, draw. All zero: greedy,
 * no limit. */
typedef struct sobre_sampling {
    size_t struct_size;
    float temperature;            /* 0: the most likely token */
    int32_t top_k;                /* 0: off */
    float top_p;                  /* 0 or 1: off. Holtzman et al. 2020, arXiv:1904.09751 */
    float min_p;                  /* 0: off. Nguyen et al. 2024, arXiv:2407.01082 */
    float repetition_penalty;     /* 0 or 1: off. Divides positive, multiplies negative logits.
                                     arXiv:1909.05858 */
    float presence_penalty;       /* 0: off. Subtracted once for a token that occurred */
    float frequency_penalty;      /* 0: off. Subtracted for each time it occurred */
    int32_t penalty_last_n;       /* tokens looked back; 0: 64, below 0: the whole sequence */
    uint64_t seed;                /* same seed, same input, same draw */
    const sobre_logit_bias *bias; /* copied */
    size_t n_bias;
    const char *const *stop; /* strings that end generation and are not returned; copied */
    size_t n_stop;
    int32_t max_tokens; /* 0: until the model stops or the context is full */
    int32_t n_top;      /* alternatives reported with each token; at most 64 */
    int32_t ignore_eos; /* 1: go on after an end-of-generation token (for measuring) */
} sobre_sampling;

/* Sets a sequence's sampling from here on; its counters and random state start anew. */
SOBRE_EXPORT sobre_status sobre_session_sampling(sobre_session *session, int32_t seq,
                                                 const sobre_sampling *sampling);

/* Adds text or ids to a sequence and starts generation there. Evaluation happens in
 * sobre_session_next(). */
SOBRE_EXPORT sobre_status sobre_session_prompt(sobre_session *session, int32_t seq,
                                               const char *text, size_t text_size,
                                               uint32_t tokenize_flags);
SOBRE_EXPORT sobre_status sobre_session_prompt_ids(sobre_session *session, int32_t seq,
                                                   const int32_t *ids, size_t n_ids);
/* Adds messages in the model's chat format, opens the assistant's turn and starts generation. On a
 * sequence that already holds a conversation the messages continue it. */
SOBRE_EXPORT sobre_status sobre_session_chat(sobre_session *session, int32_t seq,
                                             const sobre_message *messages, size_t n_messages);

typedef enum sobre_finish {
    SOBRE_FINISH_NONE = 0,   /* generation goes on */
    SOBRE_FINISH_STOP = 1,   /* end-of-generation token */
    SOBRE_FINISH_STRING = 2, /* a stop string */
    SOBRE_FINISH_LENGTH = 3, /* max_tokens */
    SOBRE_FINISH_FULL = 4,   /* the context is full */
} sobre_finish;

typedef struct sobre_token_prob {
    int32_t id;
    float logprob;
} sobre_token_prob;

typedef struct sobre_event {
    size_t struct_size;
    int32_t seq;
    int32_t token;    /* -1: no token, only held-back text or the finish */
    float logprob;    /* natural logarithm of the model's probability of `token`, before sampling
                         changes it */
    const char *text; /* whole UTF-8 characters, often none: they wait for the rest of one, or a
                         stop string */
    size_t text_size;
    sobre_finish finish;         /* anything but NONE: the sequence's last event */
    const sobre_token_prob *top; /* [n_top], most likely first */
    size_t n_top;
} sobre_event;

/* The next event of any generating sequence, valid until the next call on this session. timeout_ms
 * below 0 works on the calling thread until there is one; otherwise work goes on in the background
 * and AGAIN is returned when the time is up. DONE: no sequence generates. All generating sequences
 * advance together in one batch a step. */
SOBRE_EXPORT sobre_status sobre_session_next(sobre_session *session, int32_t timeout_ms,
                                             const sobre_event **ret_event);

/* A descriptor that polls readable when sobre_session_next(session, 0, ...) or
 * sobre_session_wait(session, 0) would not return AGAIN. It belongs to the session: only poll it.
 * -1 where the system has none (Windows). Work must have been started by a call with timeout 0 or
 * by submit. */
SOBRE_EXPORT int sobre_session_fd(sobre_session *session);

typedef struct sobre_stats {
    size_t struct_size;
    uint64_t n_prefill,
        n_decode; /* tokens evaluated in batches of more than one column a sequence, and of one */
    uint64_t prefill_ns, decode_ns;
    uint64_t n_evals;    /* runs of a plan */
    uint64_t n_launches; /* steps or kernels of the last run */
    uint64_t kv_bytes;   /* pages in use */
} sobre_stats;

SOBRE_EXPORT sobre_status sobre_session_stats(const sobre_session *session, sobre_stats *ret_stats);

#ifdef __cplusplus
}
#endif

#endif
