/* SPDX-License-Identifier: MIT */
/* tiny_model KIND OUT.gguf: a little model for the tests of the program. Its weights are random and
 * the same every time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_make.h"

static gguf_make *make_whole(void)
{
    return gguf_make_llama(NULL);
}

static gguf_make *make_no_tokenizer(void)
{
    return gguf_make_llama(&(llama_make){.no_tokenizer = true});
}

static gguf_make *make_no_template(void)
{
    gguf_make *g = gguf_make_llama(NULL);
    gguf_make_key_remove(g, "tokenizer.chat_template");
    return g;
}

static gguf_make *make_no_tensors(void)
{
    gguf_make *g = gguf_make_llama(NULL);
    while (g->n_tensors > 0) gguf_make_tensor_remove(g, g->tensors[0].name);
    return g;
}

/* Large enough that a long answer can be interrupted. */
static gguf_make *make_slow(void)
{
    return gguf_make_llama(&(llama_make){
        .n_layer = 8, .n_embd = 512, .n_head = 8, .n_head_kv = 8, .n_ff = 2048, .n_ctx = 4096});
}

int main(int argc, char **argv)
{
    static const struct {
        const char *kind;
        gguf_make *(*make)(void);
    } kinds[] = {{"whole", make_whole},
                 {"no-tokenizer", make_no_tokenizer},
                 {"no-template", make_no_template},
                 {"no-tensors", make_no_tensors},
                 {"slow", make_slow}};

    for (size_t i = 0; argc == 3 && i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].kind, argv[1]) != 0) continue;
        gguf_make *g = kinds[i].make();
        gguf_make_write(g, argv[2]);
        gguf_make_free(g);
        return 0;
    }
    fprintf(stderr, "usage: tiny_model KIND OUT.gguf\n");
    return 2;
}
