/* SPDX-License-Identifier: MIT */
/* Models by name: the files in the user's cache folder. */
#include <stdlib.h>
#include <string.h>

#include "app.h"
#include "out.h"
#include "sys.h"

static const char suffix[] = ".gguf";
enum { SUFFIX_SIZE = sizeof suffix - 1 };

char *cache_folder(const char *kind)
{
    text_buffer path = {0};
    char *home = sys_cache_home();

    if (!home) return NULL;
    text_add(&path, home, strlen(home));
    text_add(&path, "/sobre", 6);
    if (kind) {
        text_add(&path, "/", 1);
        text_add(&path, kind, strlen(kind));
    }
    free(home);
    if (path.failed) text_free(&path);
    return path.data;
}

typedef struct search {
    const char *prefix;
    model_list list;
    bool failed;
} search;

/* "name-00002-of-00003.gguf" and the like, but not the first part. */
static bool is_later_part(const char *name, size_t size)
{
    enum { TAIL = sizeof "-00001-of-00001.gguf" - 1 };
    if (size < TAIL) return false;
    const char *tail = name + size - TAIL;
    return tail[0] == '-' && memcmp(tail + 6, "-of-", 4) == 0 && memcmp(tail + 1, "00001", 5) != 0;
}

static bool add_model(void *user, const char *name, uint64_t size)
{
    search *s = user;
    const size_t n = strlen(name);

    if (n <= SUFFIX_SIZE || strcmp(name + n - SUFFIX_SIZE, suffix) != 0) return true;
    if (is_later_part(name, n) || strncmp(name, s->prefix, strlen(s->prefix)) != 0) return true;
    struct model_file *items = realloc(s->list.items, (s->list.n + 1) * sizeof *items);
    if (items) s->list.items = items;
    char *copy = malloc(n + 1);
    if (!items || !copy) {
        free(copy);
        s->failed = true;
        return false;
    }
    items[s->list.n++] = (struct model_file){memcpy(copy, name, n + 1), size};
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct model_file *)a)->name, ((const struct model_file *)b)->name);
}

bool model_list_get(const char *prefix, model_list *ret_list)
{
    search s = {.prefix = prefix};
    char *folder = cache_folder("models");
    const bool read = folder && sys_list_folder(folder, add_model, &s) && !s.failed;

    free(folder);
    if (!read) {
        model_list_free(&s.list);
        return false;
    }
    if (s.list.n > 0) qsort(s.list.items, s.list.n, sizeof *s.list.items, by_name);
    *ret_list = s.list;
    return true;
}

void model_list_free(model_list *list)
{
    for (size_t i = 0; i < list->n; i++) free(list->items[i].name);
    free(list->items);
    *list = (model_list){0};
}

static void print_list(const model_list *list)
{
    char size[HUMAN_SIZE];
    for (size_t i = 0; i < list->n; i++)
        fprintf(stderr, "  %s  %s\n", list->items[i].name, human_bytes(list->items[i].size, size));
}

static int not_found(const char *name, const char *folder)
{
    model_list all = {0};

    if (!folder) {
        complain("there is no file \"%s\"; names need a cache folder, so set HOME or "
                 "XDG_CACHE_HOME, or give a path",
                 name);
    } else if (model_list_get("", &all) && all.n > 0) {
        complain("there is no file \"%s\", and no model of that name in %s, which holds:", name,
                 folder);
        print_list(&all);
    } else {
        complain("there is no file \"%s\", and no model in %s: give the path of a GGUF file, or "
                 "put one there",
                 name, folder);
    }
    model_list_free(&all);
    return CODE_MODEL;
}

/* The one model that is meant: the name itself, with or without the suffix, or the only one that
 * begins so. */
static const struct model_file *choose(const model_list *list, const char *name)
{
    const size_t n = strlen(name);
    for (size_t i = 0; i < list->n; i++) {
        const char *rest = list->items[i].name + n;
        if (!*rest || strcmp(rest, suffix) == 0) return &list->items[i];
    }
    return list->n == 1 ? list->items : NULL;
}

int model_resolve(const char *name, char **ret_path)
{
    const bool is_path = strpbrk(name, "/\\") != NULL;
    text_buffer path = {0};
    model_list list = {0};
    uint64_t size;
    int code = -1;

    if (is_path || sys_is_file(name, &size)) {
        text_add(&path, name, strlen(name));
    } else {
        char *folder = cache_folder("models");
        const struct model_file *file = NULL;

        if (*name && folder && model_list_get(name, &list)) file = choose(&list, name);
        if (file) {
            text_add(&path, folder, strlen(folder));
            text_add(&path, "/", 1);
            text_add(&path, file->name, strlen(file->name));
        } else if (list.n > 0) {
            complain("\"%s\" may mean any of these models; give more of the name:", name);
            print_list(&list);
            code = CODE_MODEL;
        } else {
            code = not_found(name, folder);
        }
        model_list_free(&list);
        free(folder);
    }
    if (code >= 0) return code;
    if (path.failed) {
        text_free(&path);
        return out_of_memory();
    }
    *ret_path = path.data;
    return -1;
}
