/* SPDX-License-Identifier: MIT */
/* Streaming text: stop strings over token boundaries, characters over token boundaries, and both,
 * with every way of cutting the bytes. */
#include "stop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static sobre_context *ctx;

static int setup(void **state)
{
    return sobre_context_open(NULL, &ctx) != SOBRE_OK;
}

static int teardown(void **state)
{
    sobre_context_close(ctx);
    return 0;
}

#define STRINGS(...) \
    (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)

static stop_matcher *open_matcher(const char *const *strings, size_t n)
{
    stop_matcher *m = NULL;
    assert_int_equal(stop_open(ctx, strings, n, &m), SOBRE_OK);
    return m;
}

/* Pushes one token and checks what comes out. */
static void push(stop_matcher *m, const char *bytes, const char *want, bool want_match)
{
    bool matched = !want_match;
    const char *text;
    size_t size;
    assert_int_equal(stop_push(m, bytes, strlen(bytes), &matched), SOBRE_OK);
    assert_int_equal(matched, want_match);
    stop_take(m, false, &text, &size);
    assert_int_equal(size, strlen(want));
    assert_memory_equal(text, want, size);
}

static void flush(stop_matcher *m, const char *want)
{
    const char *text;
    size_t size;
    stop_take(m, true, &text, &size);
    assert_int_equal(size, strlen(want));
    assert_memory_equal(text, want, size);
}

static void test_plain(void **state)
{
    stop_matcher *m = open_matcher(NULL, 0);
    push(m, "Hello", "Hello", false);
    push(m, "", "", false);
    push(m, " world", " world", false);
    flush(m, "");
    stop_close(m);
    stop_close(NULL);
}

static void test_characters(void **state)
{
    stop_matcher *m = open_matcher(NULL, 0);
    push(m, "a\xe2", "a", false);
    push(m, "\x82", "", false);
    push(m, "\xac!", "\xe2\x82\xac!", false);
    push(m, "\xf0\x9f\x98", "", false);
    push(m, "\x80", "\xf0\x9f\x98\x80", false);
    push(m, "\xff", "\xef\xbf\xbd", false); /* never a character */
    push(m, "x\xe2\x82", "x", false);
    flush(m, "\xef\xbf\xbd"); /* will not be finished any more */
    stop_close(m);
}

static void test_strings(void **state)
{
    stop_matcher *m = open_matcher(STRINGS("</s>", "\nUser:"));
    push(m, "Hi <", "Hi ", false);
    push(m, "/b>", "</b>", false);
    push(m, "\nUse", "", false);
    push(m, "ful", "\nUseful", false);
    push(m, "\nUser", "", false);
    push(m, ": more", "", true);
    push(m, "ignored", "", true);
    flush(m, "");
    stop_reset(m);
    push(m, "one</s>two", "one", true);
    stop_reset(m);
    push(m, "held \nUs", "held ", false);
    size_t n;
    assert_memory_equal(stop_held(m, &n), "\nUs", 3);
    assert_int_equal(n, 3);
    flush(m, "\nUs");
    /* A flush forgets the prefix: its rest is ordinary text. */
    push(m, "er:", "er:", false);
    stop_close(m);
}

/* Prefixes inside prefixes: the automaton must fall back, not start over. */
static void test_borders(void **state)
{
    stop_matcher *m = open_matcher(STRINGS("aabaaa"));
    push(m, "aabaa", "", false);
    push(m, "b", "aab", false);
    push(m, "aa", "", false);
    push(m, "a", "", true);
    stop_close(m);
    /* The first to end wins; of two that end together, the longer. */
    m = open_matcher(STRINGS("bcd", "abcdef", "cd"));
    push(m, "xabcdef", "xa", true);
    stop_close(m);
}

static void test_string_in_character(void **state)
{
    stop_matcher *m = open_matcher(STRINGS("\xe2\x82\xac")); /* the euro sign */
    push(m, "\xe2\x82", "", false);
    push(m, "\xad", "\xe2\x82\xad", false); /* the kip sign instead */
    push(m, "5\xe2", "5", false);
    push(m, "\x82\xac", "", true);
    stop_close(m);
}

/* Every cut of a text into three tokens gives the same text and the same match. */
static void test_cuts(void **state)
{
    const char bytes[] = "z\xc3\xa9ro <|<|im\xe2\x82\xac|><|end|> never";
    const char want[] = "z\xc3\xa9ro <|<|im\xe2\x82\xac|>";
    size_t n = strlen(bytes);
    stop_matcher *m = open_matcher(STRINGS("<|end|>", "<|im|>", "<|e!"));
    for (size_t a = 0; a <= n; a++)
        for (size_t b = a; b <= n; b++) {
            const size_t ends[] = {a, b, n};
            char all[64];
            size_t size = 0, begin = 0;
            bool matched = false;
            stop_reset(m);
            for (int k = 0; k < 3; k++) {
                const char *text;
                size_t text_size;
                assert_int_equal(stop_push(m, bytes + begin, ends[k] - begin, &matched), SOBRE_OK);
                begin = ends[k];
                stop_take(m, false, &text, &text_size);
                assert_true(size + text_size <= sizeof all);
                memcpy(all + size, text, text_size);
                size += text_size;
            }
            assert_true(matched);
            assert_int_equal(size, strlen(want));
            assert_memory_equal(all, want, size);
        }
    stop_close(m);
}

static void test_long(void **state)
{
    static char stop[5001], text[20001], bad[3001];
    memset(stop, 'a', 5000);
    memset(text, 'a', 4999);
    memset(text + 4999, 'b', 15001);
    text[20000] = '\0';
    stop_matcher *m = open_matcher(STRINGS(stop));
    push(m, text, text, false);
    stop_close(m);
    /* Text can be three times as long as its bytes. */
    memset(bad, '\xff', 3000);
    m = open_matcher(NULL, 0);
    bool matched;
    const char *out;
    size_t size;
    assert_int_equal(stop_push(m, bad, 3000, &matched), SOBRE_OK);
    stop_take(m, false, &out, &size);
    assert_int_equal(size, 9000);
    stop_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_characters),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_borders),
        cmocka_unit_test(test_string_in_character),
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_long),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
