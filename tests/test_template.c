/* SPDX-License-Identifier: MIT */
/* Chat formats: what each gives must be what its template gives. The expected strings were made by
 * running the templates with Jinja2 (trim_blocks and lstrip_blocks on, as the reference does). */
#include "template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct sample {
    const char *name; /* of the format */
    const char *text; /* the template */
    /* Of the conversations below, in order; NULL: the template refuses it. */
    const char *expected[5];
} sample;

static const struct {
    sobre_message messages[4];
    size_t n;
    bool add_generation;
} conversations[5] = {
    {{{"user", "Hi"}}, 1, true},
    {{{"system", "Be kind."}, {"user", " Hi\n"}}, 2, true},
    {{{"user", "Hi"}, {"assistant", "Hello! "}, {"user", "How?"}}, 3, true},
    {{{"user", "Hi"}, {"assistant", "Hello! "}, {"user", "How?"}}, 3, false},
    {{{"system", "Be kind."}, {"user", "Hi"}, {"assistant", " Hello!"}, {"user", "How?"}}, 4, true},
};

static const sample samples[] = {
    {
        /* SmolLM2 */
        .name = "chatml",
        .text = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' "
                "%}{{ '<|im_start|>system\n"
                "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n"
                "' + message['content'] + '<|im_end|>' + '\n"
                "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
                "' }}{% endif %}",
        .expected =
            {
                "<|im_start|>system\n"
                "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>system\n"
                "Be kind.<|im_end|>\n"
                "<|im_start|>user\n"
                " Hi\n"
                "<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>system\n"
                "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n"
                "Hello! <|im_end|>\n"
                "<|im_start|>user\n"
                "How?<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>system\n"
                "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n"
                "Hello! <|im_end|>\n"
                "<|im_start|>user\n"
                "How?<|im_end|>\n",
                "<|im_start|>system\n"
                "Be kind.<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n"
                " Hello!<|im_end|>\n"
                "<|im_start|>user\n"
                "How?<|im_end|>\n"
                "<|im_start|>assistant\n",
            },
    },
    {
        /* Qwen2 */
        .name = "chatml",
        .text = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' "
                "%}{{ '<|im_start|>system\n"
                "You are a helpful assistant<|im_end|>\n"
                "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n"
                "' + message['content'] + '<|im_end|>' + '\n"
                "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
                "' }}{% endif %}",
        .expected =
            {
                "<|im_start|>system\n"
                "You are a helpful assistant<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>system\n"
                "Be kind.<|im_end|>\n"
                "<|im_start|>user\n"
                " Hi\n"
                "<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>system\n"
                "You are a helpful assistant<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n"
                "Hello! <|im_end|>\n"
                "<|im_start|>user\n"
                "How?<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>system\n"
                "You are a helpful assistant<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n"
                "Hello! <|im_end|>\n"
                "<|im_start|>user\n"
                "How?<|im_end|>\n",
                "<|im_start|>system\n"
                "Be kind.<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n"
                " Hello!<|im_end|>\n"
                "<|im_start|>user\n"
                "How?<|im_end|>\n"
                "<|im_start|>assistant\n",
            },
    },
    {
        /* No default prompt */
        .name = "chatml",
        .text = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n"
                "' + message['content'] + '<|im_end|>' + '\n"
                "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
                "' }}{% endif %}",
        .expected =
            {
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>system\n"
                "Be kind.<|im_end|>\n"
                "<|im_start|>user\n"
                " Hi\n"
                "<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n"
                "Hello! <|im_end|>\n"
                "<|im_start|>user\n"
                "How?<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n"
                "Hello! <|im_end|>\n"
                "<|im_start|>user\n"
                "How?<|im_end|>\n",
                "<|im_start|>system\n"
                "Be kind.<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n"
                " Hello!<|im_end|>\n"
                "<|im_start|>user\n"
                "How?<|im_end|>\n"
                "<|im_start|>assistant\n",
            },
    },
    {
        /* Qwen2.5, without its part for tools */
        .name = "chatml",
        .text =
            "{%- if tools %}\n"
            "    {{- '<|im_start|>system\\n' }}\n"
            "{%- else %}\n"
            "    {%- if messages[0]['role'] == 'system' %}\n"
            "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
            "    {%- else %}\n"
            "        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are "
            "a helpful assistant.<|im_end|>\\n' }}\n"
            "    {%- endif %}\n"
            "{%- endif %}\n"
            "{%- for message in messages %}\n"
            "    {%- if (message.role == \"user\") or (message.role == \"system\" and not "
            "loop.first) or (message.role == \"assistant\" and not message.tool_calls) %}\n"
            "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' "
            "+ '\\n' }}\n"
            "    {%- endif %}\n"
            "{%- endfor %}\n"
            "{%- if add_generation_prompt %}\n"
            "    {{- '<|im_start|>assistant\\n' }}\n"
            "{%- endif %}\n",
        .expected =
            {
                "<|im_start|>system\n"
                "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>system\n"
                "Be kind.<|im_end|>\n"
                "<|im_start|>user\n"
                " Hi\n"
                "<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>system\n"
                "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n"
                "Hello! <|im_end|>\n"
                "<|im_start|>user\n"
                "How?<|im_end|>\n"
                "<|im_start|>assistant\n",
                "<|im_start|>system\n"
                "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n"
                "Hello! <|im_end|>\n"
                "<|im_start|>user\n"
                "How?<|im_end|>\n",
                "<|im_start|>system\n"
                "Be kind.<|im_end|>\n"
                "<|im_start|>user\n"
                "Hi<|im_end|>\n"
                "<|im_start|>assistant\n"
                " Hello!<|im_end|>\n"
                "<|im_start|>user\n"
                "How?<|im_end|>\n"
                "<|im_start|>assistant\n",
            },
    },
    {
        /* Llama 3 */
        .name = "llama3",
        .text = "{% set loop_messages = messages %}{% for message in loop_messages %}{% set "
                "content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n"
                "\n"
                "'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set "
                "content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if "
                "add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n"
                "\n"
                "' }}{% endif %}",
        .expected =
            {
                "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n",
                "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n"
                "\n"
                "Be kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n",
                "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n"
                "Hello!<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "How?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n",
                "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n"
                "Hello!<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "How?<|eot_id|>",
                "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n"
                "\n"
                "Be kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n"
                "Hello!<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "How?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n",
            },
    },
    {
        /* Llama 3.2, without its part for tools */
        .name = "llama3",
        .text = "{{- bos_token }}\n"
                "{%- if not date_string is defined %}\n"
                "    {%- if strftime_now is defined %}\n"
                "        {%- set date_string = strftime_now(\"%d %b %Y\") %}\n"
                "    {%- else %}\n"
                "        {%- set date_string = \"26 Jul 2024\" %}\n"
                "    {%- endif %}\n"
                "{%- endif %}\n"
                "{%- if messages[0]['role'] == 'system' %}\n"
                "    {%- set system_message = messages[0]['content']|trim %}\n"
                "    {%- set messages = messages[1:] %}\n"
                "{%- else %}\n"
                "    {%- set system_message = \"\" %}\n"
                "{%- endif %}\n"
                "{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}\n"
                "{{- \"Cutting Knowledge Date: December 2023\\n\" }}\n"
                "{{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n"
                "{{- system_message }}\n"
                "{{- \"<|eot_id|>\" }}\n"
                "{%- for message in messages %}\n"
                "        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ "
                "message['content'] | trim + '<|eot_id|>' }}\n"
                "{%- endfor %}\n"
                "{%- if add_generation_prompt %}\n"
                "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
                "{%- endif %}\n",
        .expected =
            {
                "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n"
                "\n"
                "Cutting Knowledge Date: December 2023\n"
                "Today Date: 26 Jul 2024\n"
                "\n"
                "<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n",
                "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n"
                "\n"
                "Cutting Knowledge Date: December 2023\n"
                "Today Date: 26 Jul 2024\n"
                "\n"
                "Be kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n",
                "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n"
                "\n"
                "Cutting Knowledge Date: December 2023\n"
                "Today Date: 26 Jul 2024\n"
                "\n"
                "<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n"
                "Hello!<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "How?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n",
                "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n"
                "\n"
                "Cutting Knowledge Date: December 2023\n"
                "Today Date: 26 Jul 2024\n"
                "\n"
                "<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n"
                "Hello!<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "How?<|eot_id|>",
                "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n"
                "\n"
                "Cutting Knowledge Date: December 2023\n"
                "Today Date: 26 Jul 2024\n"
                "\n"
                "Be kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n"
                "Hello!<|eot_id|><|start_header_id|>user<|end_header_id|>\n"
                "\n"
                "How?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n"
                "\n",
            },
    },
    {
        /* Llama 2 */
        .name = "llama2",
        .text = "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% "
                "set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = "
                "messages %}{% set system_message = false %}{% endif %}{% for message in "
                "loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ "
                "raise_exception('Conversation roles must alternate "
                "user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and "
                "system_message != false %}{% set content = '<<SYS>>\n"
                "' + system_message + '\n"
                "<</SYS>>\n"
                "\n"
                "' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif "
                "%}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + "
                "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + "
                "' ' + eos_token }}{% endif %}{% endfor %}",
        .expected =
            {
                "<s>[INST] Hi [/INST]",
                "<s>[INST] <<SYS>>\n"
                "Be kind.\n"
                "<</SYS>>\n"
                "\n"
                " Hi [/INST]",
                "<s>[INST] Hi [/INST] Hello! </s><s>[INST] How? [/INST]",
                "<s>[INST] Hi [/INST] Hello! </s><s>[INST] How? [/INST]",
                "<s>[INST] <<SYS>>\n"
                "Be kind.\n"
                "<</SYS>>\n"
                "\n"
                "Hi [/INST] Hello! </s><s>[INST] How? [/INST]",
            },
    },
    {
        /* Mistral 0.2 */
        .name = "mistral",
        .text = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != "
                "(loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate "
                "user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' "
                "%}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == "
                "'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ "
                "raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% "
                "endfor %}",
        .expected =
            {
                "<s>[INST] Hi [/INST]",
                NULL,
                "<s>[INST] Hi [/INST]Hello! </s>[INST] How? [/INST]",
                "<s>[INST] Hi [/INST]Hello! </s>[INST] How? [/INST]",
                NULL,
            },
    },
    {
        /* Mistral 0.1 */
        .name = "mistral",
        .text = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != "
                "(loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate "
                "user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' "
                "%}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == "
                "'assistant' %}{{ message['content'] + eos_token + ' ' }}{% else %}{{ "
                "raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% "
                "endfor %}",
        .expected =
            {
                "<s>[INST] Hi [/INST]",
                NULL,
                "<s>[INST] Hi [/INST]Hello! </s> [INST] How? [/INST]",
                "<s>[INST] Hi [/INST]Hello! </s> [INST] How? [/INST]",
                NULL,
            },
    },
    {
        /* TinyLlama */
        .name = "zephyr",
        .text = "{% for message in messages %}\n"
                "{% if message['role'] == 'user' %}\n"
                "{{ '<|user|>\n"
                "' + message['content'] + eos_token }}\n"
                "{% elif message['role'] == 'system' %}\n"
                "{{ '<|system|>\n"
                "' + message['content'] + eos_token }}\n"
                "{% elif message['role'] == 'assistant' %}\n"
                "{{ '<|assistant|>\n"
                "'  + message['content'] + eos_token }}\n"
                "{% endif %}\n"
                "{% if loop.last and add_generation_prompt %}\n"
                "{{ '<|assistant|>' }}\n"
                "{% endif %}\n"
                "{% endfor %}",
        .expected =
            {
                "<|user|>\n"
                "Hi</s>\n"
                "<|assistant|>\n",
                "<|system|>\n"
                "Be kind.</s>\n"
                "<|user|>\n"
                " Hi\n"
                "</s>\n"
                "<|assistant|>\n",
                "<|user|>\n"
                "Hi</s>\n"
                "<|assistant|>\n"
                "Hello! </s>\n"
                "<|user|>\n"
                "How?</s>\n"
                "<|assistant|>\n",
                "<|user|>\n"
                "Hi</s>\n"
                "<|assistant|>\n"
                "Hello! </s>\n"
                "<|user|>\n"
                "How?</s>\n",
                "<|system|>\n"
                "Be kind.</s>\n"
                "<|user|>\n"
                "Hi</s>\n"
                "<|assistant|>\n"
                " Hello!</s>\n"
                "<|user|>\n"
                "How?</s>\n"
                "<|assistant|>\n",
            },
    },
};

enum { N_SAMPLES = sizeof(samples) / sizeof(samples[0]), ROOM = 1024 };

static sobre_context *ctx;

static int open_context(void **state)
{
    return sobre_context_open(NULL, &ctx) < 0;
}

static int close_context(void **state)
{
    sobre_context_close(ctx);
    return 0;
}

static const chat_format *find(const char *name)
{
    for (size_t i = 0; i < N_SAMPLES; i++)
        if (!strcmp(samples[i].name, name))
            return chat_format_find(samples[i].text, strlen(samples[i].text));
    return NULL;
}

static void test_as_the_template(void **state)
{
    for (size_t i = 0; i < N_SAMPLES; i++) {
        const chat_format *f = chat_format_find(samples[i].text, strlen(samples[i].text));

        assert_non_null(f);
        assert_string_equal(chat_format_name(f), samples[i].name);
        for (size_t k = 0; k < 5; k++) {
            char text[ROOM] = "";
            size_t size = 0;
            sobre_status status =
                chat_format_render(ctx, f, conversations[k].messages, conversations[k].n, true,
                                   conversations[k].add_generation, text, ROOM, &size);

            if (!samples[i].expected[k]) {
                assert_int_equal(status, SOBRE_INVALID_ARGUMENT);
                continue;
            }
            assert_int_equal(status, SOBRE_OK);
            assert_string_equal(text, samples[i].expected[k]);
            assert_int_equal(size, strlen(text));
        }
    }
}

/* The first text, the answer, the token that ends it and the text that continues make up what the
 * template gives for all messages at once. */
static void test_continues(void **state)
{
    static const struct {
        const char *name, *answer;
    } rows[] = {
        {"chatml", "Hello! <|im_end|>"}, {"llama3", "Hello!<|eot_id|>"}, {"llama2", " Hello! </s>"},
        {"mistral", "Hello! </s>"},      {"zephyr", "Hello! </s>"},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const chat_format *f = find(rows[i].name);
        char text[ROOM], whole[ROOM];
        size_t n, size;

        assert_int_equal(
            chat_format_render(ctx, f, conversations[0].messages, 1, true, true, text, ROOM, &n),
            SOBRE_OK);
        strcpy(text + n, rows[i].answer);
        n += strlen(rows[i].answer);
        assert_int_equal(chat_format_render(ctx, f, conversations[2].messages + 2, 1, false, true,
                                            text + n, ROOM - n, &size),
                         SOBRE_OK);
        assert_int_equal(chat_format_render(ctx, f, conversations[2].messages, 3, true, true, whole,
                                            ROOM, &size),
                         SOBRE_OK);
        assert_string_equal(text, whole);
    }
}

static void test_unknown_templates(void **state)
{
    static const char *const texts[] = {
        "",
        "{{ messages }}",
        "<|im_start|>user<|im_sep|> <|im_end|>",
        "{{ bos_token }}<|im_start|> <|im_end|>",
        "<|im_start|>system\nYou are someone else<|im_end|>",
        "<|user|>\n<|end|>\n<|assistant|> <|system|> eos_token",
        "[INST]",
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        assert_null(chat_format_find(texts[i], strlen(texts[i])));
}

static void test_refuses(void **state)
{
    static const struct {
        const char *format, *message;
        sobre_message messages[2];
        size_t n;
    } rows[] = {
        {"chatml", "\"robot\"", {{"robot", "Beep"}}, 1},
        {"chatml", "message 1", {{"user", "Hi"}, {"tool", "3"}}, 2},
        {"chatml", "no role", {{NULL, "Hi"}}, 1},
        {"chatml", "no content", {{"user", NULL}}, 1},
        {"mistral", "no system role", {{"system", "Be kind."}}, 1},
        {"mistral", "take turns", {{"user", "Hi"}, {"user", "Hi"}}, 2},
        {"llama2", "take turns", {{"assistant", "Hi"}}, 1},
        {"llama2", "one system message", {{"user", "Hi"}, {"system", "Be kind."}}, 2},
        {"llama2", "one system message", {{"system", "Be kind."}}, 1},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char text[ROOM] = "as it was";
        size_t size = 77;

        assert_int_equal(chat_format_render(ctx, find(rows[i].format), rows[i].messages, rows[i].n,
                                            true, true, text, ROOM, &size),
                         SOBRE_INVALID_ARGUMENT);
        assert_non_null(strstr(sobre_error(ctx), rows[i].message));
        assert_string_equal(text, "as it was");
        assert_int_equal(size, 77);
    }
}

static void test_room(void **state)
{
    const char *expected = samples[0].expected[0];
    size_t needed = strlen(expected), size = 0;
    char *text = malloc(needed + 1);

    assert_non_null(text);
    memset(text, '?', needed + 1);
    for (size_t capacity = 0; capacity <= needed; capacity += needed / 3) {
        assert_int_equal(chat_format_render(ctx, find("chatml"), conversations[0].messages, 1, true,
                                            true, capacity ? text : NULL, capacity, &size),
                         SOBRE_BUFFER_TOO_SMALL);
        assert_int_equal(size, needed);
        assert_int_equal(text[0], '?');
    }
    assert_int_equal(chat_format_render(ctx, find("chatml"), conversations[0].messages, 1, true,
                                        true, text, needed + 1, &size),
                     SOBRE_OK);
    assert_string_equal(text, expected);
    free(text);
}

/* What Jinja2's trim takes away: all of Unicode's white space, and U+001C to U+001F. */
static void test_trims(void **state)
{
    static const sobre_message message = {"user", "\u3000 \u00a0\x1f\t a\u200b b \xff\u2028\n"};
    char text[ROOM];
    size_t size;

    assert_int_equal(
        chat_format_render(ctx, find("llama3"), &message, 1, false, false, text, ROOM, &size),
        SOBRE_OK);
    assert_string_equal(text,
                        "<|start_header_id|>user<|end_header_id|>\n\na\u200b b \xff<|eot_id|>");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_the_template),
        cmocka_unit_test(test_continues),
        cmocka_unit_test(test_unknown_templates),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_trims),
    };

    return cmocka_run_group_tests(tests, open_context, close_context);
}
