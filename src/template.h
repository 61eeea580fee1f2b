/* SPDX-License-Identifier: MIT */
/* Chat formats. A format is recognised by what stands in the model's template; the template engine
 * will become one more row here, for templates that no row recognises. */
#ifndef SOBRE_TEMPLATE_H
#define SOBRE_TEMPLATE_H

#include "context.h"

typedef struct chat_format chat_format;

const chat_format *chat_format_find(const char *template_text, size_t size); /* NULL: none */
const char *chat_format_name(const chat_format *f);
/* As sobre_template(), with BOS as text where the template has it: tokenize with NO_BOS. `first` is
 * false where the messages continue a conversation whose last evaluated token is the one that ended
 * the assistant's answer (<|im_end|>, <|eot_id|>, </s>); the text then begins with what the
 * template puts after that token. */
sobre_status chat_format_render(sobre_context *ctx, const chat_format *f,
                                const sobre_message *messages, size_t n_messages, bool first,
                                bool add_generation, char *text, size_t capacity, size_t *ret_size);

#endif
