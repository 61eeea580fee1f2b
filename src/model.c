/* SPDX-License-Identifier: MIT */
/* Opening models, what they say about themselves, loading and unloading, and their text functions.
 */
#include "model.h"

#include <stdio.h>
#include <string.h>

#include "fit.h"
#include "template.h"

/* --- Opening. */

sobre_status model_warn(sobre_model *m, const char *format, ...)
{
    char text[256];
    char **grown;
    va_list args;
    int32_t n = m->info.n_warnings;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    grown = mem_grow(m->ctx, m->warnings, (size_t)n, (size_t)n + 1, sizeof *grown);
    if (!grown) return SOBRE_OUT_OF_MEMORY;
    m->warnings = grown;
    m->info.warnings = (const char *const *)grown;
    grown[n] = mem_strdup(m->ctx, text);
    if (!grown[n]) return SOBRE_OUT_OF_MEMORY;
    m->info.n_warnings = n + 1;
    log_write(m->ctx, SOBRE_LOG_WARNING, "%s: %s", m->file->files[0]->name, text);
    return SOBRE_OK;
}

/* A file without tensors still tokenizes, whatever its architecture. */
static sobre_status build_graph(sobre_model *m)
{
    const char *architecture = m->info.architecture;
    const family *f = family_find(architecture);
    char known[256] = "";

    if (!m->file->n_tensors) return SOBRE_OK;
    if (f) return f->build(m, f);
    for (size_t i = 0, n = 0; family_at(i) && n < sizeof known; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "",
                              family_at(i)->architecture);
    return fail(m->ctx, SOBRE_UNSUPPORTED,
                "%s: models of architecture \"%.64s\" are not supported; known are: %s",
                m->file->files[0]->name, architecture, known);
}

static sobre_status read_tokenizer(sobre_model *m)
{
    const char *note = NULL;
    meta_string text;
    bool found;

    TRY(tok_open(m->file, &m->tok, &note));
    if (note) TRY(model_warn(m, "no tokenizer (%s): the model runs on ids only", note));
    TRY(meta_get_string(m->file, "tokenizer.chat_template", false, &text, &found));
    if (found && m->tok) m->chat = chat_format_find(text.text, text.size);
    return SOBRE_OK;
}

static void count_types(sobre_model *m)
{
    uint64_t params_of[64] = {0}, most = 0;

    for (int32_t i = 0; i < m->file->n_tensors; i++) {
        const tensor_info *t = &m->file->tensors[i];
        uint64_t n = 1;

        for (int32_t d = 0; d < t->rank; d++) n *= (uint64_t)t->dims[d];
        m->info.n_params += n;
        m->info.tensor_bytes += t->size;
        params_of[t->dtype] += n;
        if (params_of[t->dtype] > most) {
            most = params_of[t->dtype];
            m->info.quantization = dtype_get(t->dtype)->name;
        }
    }
}

static sobre_status describe(sobre_model *m)
{
    meta_string name = {"", 0}, architecture;
    sobre_model_info *info = &m->info;

    TRY(meta_get_string(m->file, "general.name", false, &name, NULL));
    TRY(meta_get_string(m->file, "general.architecture", true, &architecture, NULL));
    info->struct_size = sizeof *info;
    info->name = name.text;
    info->architecture = architecture.text;
    info->quantization = "";
    count_types(m);
    return SOBRE_OK;
}

static void describe_built(sobre_model *m)
{
    const hparams *hp = &m->hp;
    sobre_model_info *info = &m->info;

    info->n_vocab = hp->n_vocab ? hp->n_vocab : m->tok ? tok_n_vocab(m->tok) : 0;
    info->n_ctx = hp->n_ctx;
    info->n_embd = hp->n_embd;
    info->n_layer = hp->n_layer;
    info->n_head = hp->n_head;
    info->n_head_kv = hp->n_head_kv;
    info->head_dim = hp->head_dim;
    info->n_ff = hp->n_ff;
    info->has_tokenizer = m->tok != NULL;
    info->chat_format = m->chat ? chat_format_name(m->chat) : NULL;
}

static void model_unref(sobre_model *m)
{
    sobre_context *ctx;

    if (!m || atomic_fetch_sub(&m->refs, 1) != 1) return;
    ctx = m->ctx;
    weights_free(m);
    sobre_graph_close(m->fused);
    sobre_graph_close(m->fused_embd);
    sobre_graph_close(m->fused_sample);
    sobre_graph_close(m->graph);
    mem_free(ctx, m->kv);
    tok_close(m->tok);
    for (int32_t i = 0; i < m->info.n_warnings; i++) mem_free(ctx, m->warnings[i]);
    mem_free(ctx, m->warnings);
    if (m->meta_text)
        for (int32_t i = 0; i < m->file->n_meta; i++) mem_free(ctx, m->meta_text[i]);
    mem_free(ctx, m->meta_text);
    container_close(m->file);
    os_mutex_destroy(&m->mutex);
    mem_free(ctx, m);
    context_unref(ctx);
}

static sobre_status model_read(sobre_model *m, const sobre_source *source)
{
    TRY(container_open(m->ctx, source, &m->file));
    m->meta_text = mem_alloc(m->ctx, (size_t)m->file->n_meta, sizeof *m->meta_text);
    if (!m->meta_text) return SOBRE_OUT_OF_MEMORY;
    TRY(describe(m));
    TRY(read_tokenizer(m));
    TRY(build_graph(m));
    describe_built(m);
    return SOBRE_OK;
}

sobre_status sobre_model_open(sobre_context *context, const sobre_source *source,
                              sobre_model **ret_model)
{
    sobre_model *m;
    sobre_status status;

    if (!context || !ret_model) return SOBRE_INVALID_ARGUMENT;
    if (!source)
        return fail(context, SOBRE_INVALID_ARGUMENT, "a model needs a source; give its path");
    m = mem_alloc(context, 1, sizeof *m);
    if (!m) return SOBRE_OUT_OF_MEMORY;
    if (!os_mutex_init(&m->mutex)) {
        mem_free(context, m);
        return fail(context, SOBRE_OUT_OF_MEMORY, "the system gave no mutex");
    }
    m->ctx = context;
    context_ref(context);
    atomic_init(&m->refs, 1);
    atomic_init(&m->running, 0);
    atomic_init(&m->cache_bytes, 0);
    status = model_read(m, source);
    if (status < 0) {
        model_unref(m);
        return status;
    }
    log_write(m->ctx, SOBRE_LOG_INFO, "%s: %s of architecture %s, %lld tensors, %llu bytes of them",
              m->file->files[0]->name, m->file->format, m->info.architecture,
              (long long)m->file->n_tensors, (unsigned long long)m->info.tensor_bytes);
    *ret_model = m;
    return SOBRE_OK;
}

void model_ref(sobre_model *m)
{
    atomic_fetch_add(&m->refs, 1);
}

void sobre_model_close(sobre_model *model)
{
    model_unref(model);
}

/* --- What it says. */

const sobre_model_info *sobre_model_info_get(const sobre_model *model)
{
    return model ? &model->info : NULL;
}

static int item_text(char *to, size_t size, meta_type type, const void *items, uint64_t i)
{
    switch (type) {
    case META_U64:
        return snprintf(to, size, "%llu", (unsigned long long)((const uint64_t *)items)[i]);
    case META_I64: return snprintf(to, size, "%lld", (long long)((const int64_t *)items)[i]);
    case META_F64: return snprintf(to, size, "%.9g", ((const double *)items)[i]);
    case META_BOOL: return snprintf(to, size, "%s", ((const bool *)items)[i] ? "true" : "false");
    case META_STRING: return snprintf(to, size, "\"%s\"", ((const meta_string *)items)[i].text);
    case META_ARRAY: break;
    }
    return 0;
}

/* Arrays are cut after a few items; the count follows. */
static char *meta_text(sobre_context *ctx, const meta_value *v)
{
    enum { SHOWN = 8, SIZE = 1024 };
    char text[SIZE];
    size_t n = 0;

    if (v->type == META_STRING) return mem_strndup(ctx, v->v.string.text, v->v.string.size);
    if (v->type != META_ARRAY) {
        item_text(text, sizeof text, v->type, &v->v, 0);
        return mem_strdup(ctx, text);
    }
    text[n++] = '[';
    text[n] = 0;
    for (uint64_t i = 0; i < v->v.array.n && i < SHOWN; i++) {
        char item[SIZE / (SHOWN + 2)];

        item_text(item, sizeof item, v->item, v->v.array.items, i);
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", i ? ", " : "", item);
    }
    snprintf(text + n, sizeof text - n, v->v.array.n > SHOWN ? ", ... %llu items]" : "]",
             (unsigned long long)v->v.array.n);
    return mem_strdup(ctx, text);
}

const char *sobre_model_meta(sobre_model *model, const char *key)
{
    const meta_entry *entry = model && key ? container_entry(model->file, key) : NULL;
    const char *text;
    char **slot;

    if (!entry) return NULL;
    slot = &model->meta_text[entry - model->file->meta];
    os_mutex_lock(&model->mutex);
    if (!*slot) *slot = meta_text(model->ctx, &entry->value);
    text = *slot;
    os_mutex_unlock(&model->mutex);
    return text;
}

const char *sobre_model_meta_key(const sobre_model *model, int32_t index)
{
    return model && index >= 0 && index < model->file->n_meta ? model->file->meta[index].key : NULL;
}

sobre_status model_check_runs(sobre_model *m)
{
    if (m->graph) return SOBRE_OK;
    return fail(m->ctx, SOBRE_UNSUPPORTED, "%s holds no tensors: it can tokenize, but not run",
                m->file->files[0]->name);
}

sobre_status sobre_model_dump(sobre_model *model, const sobre_fit_options *options, sobre_dump what,
                              sobre_dump_format format, int32_t n_cols,
                              void (*write)(void *user, const char *text, size_t size), void *user)
{
    const text_sink sink = {write, user};
    sobre_graph *fused;
    device_set devices;
    sobre_placement p;
    plan *sizes = NULL;
    sobre_status status = SOBRE_OK;

    if (!model) return SOBRE_INVALID_ARGUMENT;
    if (!write || n_cols < 0 || what < SOBRE_DUMP_GRAPH || what > SOBRE_DUMP_PLAN ||
        (format != SOBRE_DUMP_TEXT && format != SOBRE_DUMP_DOT))
        return fail(
            model->ctx, SOBRE_INVALID_ARGUMENT,
            "a dump needs a writer, what (graph, fused or plan), a format (text or dot), and "
            "n_cols of at least 0");
    TRY(model_check_runs(model));
    TRY(fit_make(model, options, &devices, &fused, &p));
    if (what == SOBRE_DUMP_GRAPH) {
        status = inspect_graph(model->ctx, model->graph, "as the family built it", format, &sink);
    } else if (what == SOBRE_DUMP_FUSED) {
        status = inspect_graph(model->ctx, fused, "as fused for the device", format, &sink);
    } else {
        plan_options o = {
            .devices = &devices, .n_cols = n_cols ? n_cols : 1, .n_rows = 1, .n_seq = p.n_seq};

        status = plan_make(model->ctx, fused, &o, &sizes);
        if (status >= 0) status = inspect_plan(sizes, format, &sink);
        plan_free(sizes);
    }
    sobre_graph_close(fused);
    return status;
}

/* --- Fit, load, unload. */

sobre_status sobre_model_fit(sobre_model *model, const sobre_fit_options *options,
                             sobre_placement *ret_placement)
{
    sobre_placement p;
    sobre_graph *fused;
    device_set devices;
    size_t size;

    if (!model) return SOBRE_INVALID_ARGUMENT;
    if (!ret_placement || ret_placement->struct_size < sizeof(size_t))
        return fail(model->ctx, SOBRE_INVALID_ARGUMENT, "sobre_placement.struct_size is not set");
    TRY(model_check_runs(model));
    TRY(fit_make(model, options, &devices, &fused, &p));
    sobre_graph_close(fused);
    size = ret_placement->struct_size;
    p.struct_size = size;
    memcpy(ret_placement, &p, size < sizeof p ? size : sizeof p);
    return SOBRE_OK;
}

/* Only one thread loads at a time, and not under the mutex: the caller's progress function may ask
 * the model things. */
static sobre_status load(sobre_model *m, const sobre_fit_options *fit,
                         const sobre_load_options *options)
{
    sobre_graph_close(m->fused);
    sobre_graph_close(m->fused_embd);
    sobre_graph_close(m->fused_sample);
    m->fused = m->fused_embd = m->fused_sample = NULL;
    TRY(fit_make(m, fit, &m->devices, &m->fused, &m->placement));
    TRY(graph_take_embeddings(m->fused, &m->fused_embd));
    TRY(graph_take_sampling(m->fused, &m->devices, &m->fused_sample));
    TRY(fit_prepare(m));
    return weights_load(m, options);
}

static sobre_status load_begin(sobre_model *m)
{
    const char *problem = NULL;

    os_mutex_lock(&m->mutex);
    if (m->loaded)
        problem = "the model is loaded already; unload it first";
    else if (m->loading)
        problem = "the model is being loaded by another call; wait for it";
    else
        m->loading = true;
    os_mutex_unlock(&m->mutex);
    return problem ? fail(m->ctx, SOBRE_INVALID_ARGUMENT, "%s", problem) : SOBRE_OK;
}

sobre_status sobre_model_load(sobre_model *model, const sobre_fit_options *fit,
                              const sobre_load_options *options)
{
    sobre_load_options o = SOBRE_INIT(load_options);
    sobre_fit_options f = SOBRE_INIT(fit_options);
    sobre_status status;

    if (!model) return SOBRE_INVALID_ARGUMENT;
    TRY(options_copy(model->ctx, "load_options", options, &o, sizeof o));
    TRY(options_copy(model->ctx, "fit_options", fit, &f, sizeof f));
    TRY(model_check_runs(model));
    TRY(load_begin(model));
    status = load(model, &f, &o);
    os_mutex_lock(&model->mutex);
    model->loading = false;
    if (status >= 0) {
        model->limit = f.limit;
        model->loaded = true;
        model->generation++;
    }
    os_mutex_unlock(&model->mutex);
    if (status >= 0)
        log_write(model->ctx, SOBRE_LOG_INFO, "%s: loaded onto %s, %llu bytes of weights",
                  model->file->files[0]->name, model->devices.entries[0]->info.name,
                  (unsigned long long)model->placement.weight_bytes);
    return status;
}

sobre_status sobre_model_unload(sobre_model *model)
{
    sobre_status status = SOBRE_OK;

    if (!model) return SOBRE_INVALID_ARGUMENT;
    os_mutex_lock(&model->mutex);
    if (!model->loaded) {
        status = fail(model->ctx, SOBRE_INVALID_ARGUMENT, "the model is not loaded");
    } else if (atomic_load(&model->running)) {
        status =
            fail(model->ctx, SOBRE_INVALID_ARGUMENT,
                 "a session of this model is evaluating; wait for it or cancel it, then unload");
    } else {
        weights_free(model);
        model->loaded = false;
    }
    os_mutex_unlock(&model->mutex);
    return status;
}

/* --- Text. */

static sobre_status need_tokenizer(sobre_model *m)
{
    if (m->tok) return SOBRE_OK;
    return fail(m->ctx, SOBRE_UNSUPPORTED,
                "%s has no tokenizer that this version knows: give it token ids",
                m->file->files[0]->name);
}

sobre_status sobre_tokenize(sobre_model *model, const char *text, size_t text_size, uint32_t flags,
                            int32_t *ids, size_t capacity, size_t *ret_n)
{
    if (!model) return SOBRE_INVALID_ARGUMENT;
    if ((!text && text_size) || (!ids && capacity) || !ret_n)
        return fail(model->ctx, SOBRE_INVALID_ARGUMENT, "text, ids or ret_n is NULL");
    TRY(need_tokenizer(model));
    return tok_encode(model->tok, text, text_size, flags, ids, capacity, ret_n);
}

sobre_status sobre_token_text(sobre_model *model, int32_t id, int32_t special,
                              const char **ret_text, size_t *ret_size)
{
    if (!model) return SOBRE_INVALID_ARGUMENT;
    if (!ret_text || !ret_size)
        return fail(model->ctx, SOBRE_INVALID_ARGUMENT, "ret_text or ret_size is NULL");
    TRY(need_tokenizer(model));
    return tok_text(model->tok, id, special != 0, ret_text, ret_size);
}

int32_t sobre_token_find(sobre_model *model, const char *text)
{
    return model && text && model->tok ? tok_find(model->tok, text, strlen(text)) : -1;
}

sobre_status sobre_template(sobre_model *model, const sobre_message *messages, size_t n_messages,
                            int32_t add_generation, char *text, size_t capacity, size_t *ret_size)
{
    if (!model) return SOBRE_INVALID_ARGUMENT;
    if ((!messages && n_messages) || (!text && capacity) || !ret_size)
        return fail(model->ctx, SOBRE_INVALID_ARGUMENT, "messages, text or ret_size is NULL");
    if (!model->chat)
        return fail(
            model->ctx, SOBRE_UNSUPPORTED,
            "%s has no chat template that this version recognises; format the prompt yourself",
            model->file->files[0]->name);
    return chat_format_render(model->ctx, model->chat, messages, n_messages, true,
                              add_generation != 0, text, capacity, ret_size);
}
