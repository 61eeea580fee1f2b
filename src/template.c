/* SPDX-License-Identifier: MIT */
/* Chat formats as a table: how to know one by its template, and what it puts around each message.
 * The strings are those of the templates that the model families publish. */
#include "template.h"

#include <string.h>

#include <utf8proc.h>

typedef enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, N_ROLES } role;

static const char *const role_names[N_ROLES] = {"system", "user", "assistant"};

typedef enum system_place {
    SYSTEM_TURN,       /* a turn like any other */
    SYSTEM_FIRST_USER, /* first only, inside the first user's turn */
    SYSTEM_NONE,       /* the format has none */
} system_place;

enum { MAX_NEEDLES = 6 };

struct chat_format {
    const char *name;
    const char *must[MAX_NEEDLES], *must_not[MAX_NEEDLES]; /* in the template's text */
    const char *begin;                                     /* before all else */
    struct {
        const char *before, *after;
    } turn[N_ROLES];
    const char *generation; /* opens the assistant's turn */
    /* What the template puts between the token that ends an answer and the next turn. */
    const char *after_answer;
    /* Content of the system's turn if the first message is not the system's; NULL: no such turn. */
    const char *default_system;
    const char *system_lead; /* before the system's content, given or default */
    system_place system;
    bool trim;       /* contents lose white space at both ends */
    bool alternates; /* after the system, only user and assistant in turn */
};

#define CHATML_TURNS                                                                      \
    {                                                                                     \
        {"<|im_start|>system\n", "<|im_end|>\n"}, {"<|im_start|>user\n", "<|im_end|>\n"}, \
            {"<|im_start|>assistant\n", "<|im_end|>\n"},                                  \
    }
#define CHATML(default_text)                                                                      \
    .name = "chatml", .begin = "", .turn = CHATML_TURNS, .generation = "<|im_start|>assistant\n", \
    .after_answer = "\n", .default_system = default_text
#define CHATML_DEFAULT(text)                                                                   \
    {                                                                                          \
        .must = {"<|im_start|>", "<|im_end|>", text}, .must_not = {"bos_token", "<|im_sep|>"}, \
        CHATML(text)                                                                           \
    }

#define LLAMA3_TURN(role_name)                                                \
    {                                                                         \
        "<|start_header_id|>" role_name "<|end_header_id|>\n\n", "<|eot_id|>" \
    }
#define LLAMA3                                                                             \
    .name = "llama3", .begin = "<|begin_of_text|>",                                        \
    .turn = {LLAMA3_TURN("system"), LLAMA3_TURN("user"), LLAMA3_TURN("assistant")},        \
    .generation = "<|start_header_id|>assistant<|end_header_id|>\n\n", .after_answer = "", \
    .trim = true

/* The first row that fits counts. Templates of these formats that name BOS or EOS by variable come
 * with <s> and </s>. */
static const chat_format formats[] = {
    /* Default prompts of families; one that ends another stands first. */
    CHATML_DEFAULT("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    CHATML_DEFAULT("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    CHATML_DEFAULT("You are a helpful assistant."),
    CHATML_DEFAULT("You are a helpful assistant"),
    {
        .must = {"<|im_start|>", "<|im_end|>"},
        /* Other default prompts, and formats that only look like it. */
        .must_not = {"bos_token", "<|im_sep|>", "system\nYou are", "system\\nYou are",
                     "Knowledge Cutoff"},
        CHATML(NULL),
    },
    {
        /* Llama 3.1 and later always open with a system turn. The date is the template's own, for
         * callers without a clock. */
        .must = {"<|start_header_id|>", "<|eot_id|>", "Cutting Knowledge Date: December 2023",
                 "26 Jul 2024"},
        LLAMA3,
        .default_system = "",
        .system_lead = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
    },
    {
        .must = {"<|start_header_id|>", "<|eot_id|>"},
        .must_not = {"Cutting Knowledge Date"},
        LLAMA3,
    },
    {
        .name = "llama2",
        .must = {"[INST]", "<<SYS>>", "eos_token"},
        .begin = "",
        .turn = {{"<s>[INST] <<SYS>>\n", "\n<</SYS>>\n\n"},
                 {"<s>[INST] ", " [/INST]"},
                 {" ", " </s>"}},
        .generation = "",
        .after_answer = "",
        .system = SYSTEM_FIRST_USER,
        .trim = true,
        .alternates = true,
    },
    {
        /* Mistral 7B Instruct 0.1: a space after each answer. */
        .name = "mistral",
        .must = {"'[INST] ' + message['content'] + ' [/INST]'", "eos_token + ' '"},
        .begin = "<s>",
        .turn = {{"", ""}, {"[INST] ", " [/INST]"}, {"", "</s> "}},
        .generation = "",
        .after_answer = " ",
        .system = SYSTEM_NONE,
        .alternates = true,
    },
    {
        .name = "mistral",
        .must = {"'[INST] ' + message['content'] + ' [/INST]'", "eos_token"},
        .begin = "<s>",
        .turn = {{"", ""}, {"[INST] ", " [/INST]"}, {"", "</s>"}},
        .generation = "",
        .after_answer = "",
        .system = SYSTEM_NONE,
        .alternates = true,
    },
    {
        .name = "zephyr",
        .must = {"<|user|>", "<|assistant|>", "<|system|>", "eos_token"},
        .must_not = {"<|end|>", "bos_token", "[gMASK]"},
        .begin = "",
        .turn = {{"<|system|>\n", "</s>\n"},
                 {"<|user|>\n", "</s>\n"},
                 {"<|assistant|>\n", "</s>\n"}},
        .generation = "<|assistant|>\n",
        .after_answer = "\n",
    },
};

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* --- Recognition */

static bool contains(const char *text, size_t size, const char *needle)
{
    const char *end = text + size;
    size_t n = strlen(needle);

    while ((size_t)(end - text) >= n) {
        text = memchr(text, needle[0], (size_t)(end - text) - n + 1);
        if (!text) return false;
        if (!memcmp(text, needle, n)) return true;
        text++;
    }
    return false;
}

static bool fits(const chat_format *f, const char *text, size_t size)
{
    for (int32_t i = 0; i < MAX_NEEDLES; i++) {
        if (f->must[i] && !contains(text, size, f->must[i])) return false;
        if (f->must_not[i] && contains(text, size, f->must_not[i])) return false;
    }
    return true;
}

const chat_format *chat_format_find(const char *template_text, size_t size)
{
    for (size_t i = 0; i < LENGTH(formats); i++)
        if (fits(&formats[i], template_text, size)) return &formats[i];
    return NULL;
}

const char *chat_format_name(const chat_format *f)
{
    return f->name;
}

/* --- Rendering */

/* Counts, and writes if it has where to. */
typedef struct sink {
    char *to;
    size_t n;
    bool overflow;
} sink;

static void put(sink *s, const char *text, size_t size)
{
    if (s->to) memcpy(s->to + s->n, text, size);
    if (__builtin_add_overflow(s->n, size, &s->n)) s->overflow = true;
}

static void put_text(sink *s, const char *text)
{
    put(s, text, strlen(text));
}

/* White space as the templates' trim has it, Python's str.strip(). */
static bool is_space(utf8proc_int32_t c)
{
    const utf8proc_property_t *p = utf8proc_get_property(c);

    return p->category == UTF8PROC_CATEGORY_ZS || p->bidi_class == UTF8PROC_BIDI_CLASS_WS ||
           p->bidi_class == UTF8PROC_BIDI_CLASS_B || p->bidi_class == UTF8PROC_BIDI_CLASS_S;
}

static void put_content(sink *s, const char *text, bool trim_left, bool trim_right)
{
    size_t size = strlen(text), at;
    utf8proc_int32_t c;
    utf8proc_ssize_t n;

    while (trim_left && size) {
        n = utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size, &c);
        if (n <= 0 || !is_space(c)) break;
        text += n;
        size -= (size_t)n;
    }
    while (trim_right && size) {
        for (at = size - 1; at > 0 && size - at < 4 && ((uint8_t)text[at] & 0xC0) == 0x80;) at--;
        n = utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(size - at),
                             &c);
        if (n <= 0 || (size_t)n != size - at || !is_space(c)) break;
        size = at;
    }
    put(s, text, size);
}

static sobre_status read_roles(sobre_context *ctx, const chat_format *f,
                               const sobre_message *messages, size_t n_messages, bool first,
                               role *ret_roles)
{
    size_t n_system = 0;

    for (size_t i = 0; i < n_messages; i++) {
        role r = ROLE_SYSTEM;

        if (!messages[i].role || !messages[i].content)
            return fail(ctx, SOBRE_INVALID_ARGUMENT, "message %zu has no %s", i,
                        messages[i].role ? "content" : "role");
        while (r < N_ROLES && strcmp(role_names[r], messages[i].role)) r++;
        if (r == N_ROLES)
            return fail(ctx, SOBRE_INVALID_ARGUMENT,
                        "message %zu has the unknown role \"%.64s\"; use system, user or assistant",
                        i, messages[i].role);
        if (r == ROLE_SYSTEM && f->system == SYSTEM_NONE)
            return fail(ctx, SOBRE_INVALID_ARGUMENT,
                        "message %zu: chat format %s has no system role; put its text before the "
                        "first user's",
                        i, f->name);
        if (r == ROLE_SYSTEM && f->system == SYSTEM_FIRST_USER &&
            (i > 0 || !first || n_messages == 1))
            return fail(ctx, SOBRE_INVALID_ARGUMENT,
                        "message %zu: chat format %s has one system message, before the first "
                        "user's",
                        i, f->name);
        if (r == ROLE_SYSTEM)
            n_system++;
        else if (f->alternates && r != ((i - n_system) % 2 ? ROLE_ASSISTANT : ROLE_USER))
            return fail(ctx, SOBRE_INVALID_ARGUMENT,
                        "message %zu is the %s's: in chat format %s user and assistant take turns, "
                        "the user first",
                        i, role_names[r], f->name);
        ret_roles[i] = r;
    }
    return SOBRE_OK;
}

static void render(const chat_format *f, const sobre_message *messages, const role *roles,
                   size_t n_messages, bool first, bool add_generation, sink *s)
{
    bool opened = false; /* the system's text opened the user's turn */

    put_text(s, !first ? f->after_answer : n_messages ? f->begin : "");
    if (first && n_messages && f->default_system && roles[0] != ROLE_SYSTEM) {
        put_text(s, f->turn[ROLE_SYSTEM].before);
        if (f->system_lead) put_text(s, f->system_lead);
        put_text(s, f->default_system);
        put_text(s, f->turn[ROLE_SYSTEM].after);
    }
    for (size_t i = 0; i < n_messages; i++) {
        role r = roles[i];
        bool trim = f->trim && (r != ROLE_SYSTEM || f->system == SYSTEM_TURN);

        if (!opened) put_text(s, f->turn[r].before);
        if (r == ROLE_SYSTEM && i == 0 && first && f->system_lead) put_text(s, f->system_lead);
        put_content(s, messages[i].content, trim && !opened, trim);
        put_text(s, f->turn[r].after);
        opened = r == ROLE_SYSTEM && f->system == SYSTEM_FIRST_USER;
    }
    if (add_generation) put_text(s, f->generation);
}

sobre_status chat_format_render(sobre_context *ctx, const chat_format *f,
                                const sobre_message *messages, size_t n_messages, bool first,
                                bool add_generation, char *text, size_t capacity, size_t *ret_size)
{
    sink s = {0};
    sobre_status status;
    role *roles = mem_alloc(ctx, n_messages, sizeof(*roles));

    if (!roles) return SOBRE_OUT_OF_MEMORY;
    status = read_roles(ctx, f, messages, n_messages, first, roles);
    if (status >= 0) {
        render(f, messages, roles, n_messages, first, add_generation, &s);
        if (s.overflow || s.n == SIZE_MAX) {
            status = fail(ctx, SOBRE_INVALID_ARGUMENT, "the messages are larger than memory");
        } else {
            *ret_size = s.n;
            if (capacity <= s.n) {
                status =
                    fail(ctx, SOBRE_BUFFER_TOO_SMALL,
                         "the text takes %zu bytes and a zero, room is for %zu", s.n, capacity);
            } else {
                text[s.n] = 0;
                s = (sink){.to = text};
                render(f, messages, roles, n_messages, first, add_generation, &s);
            }
        }
    }
    mem_free(ctx, roles);
    return status;
}
