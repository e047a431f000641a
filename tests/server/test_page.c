/* The page's routes: what is served for which path, and that it is what lies in src/web/. */
#include "server/page.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/support.h"

/* Stands in for the HTTP layer, whose files the linker then leaves out: keeps what the handler
 * answered. */
struct http_exchange {
    const char *rest;
    int status;
    const char *type, *etag, *cache;
    const void *bytes;
    size_t size;
    char code[32];
};

const char *http_path_value(const struct http_exchange *exchange, const char *name)
{
    assert_string_equal(name, "rest");
    return exchange->rest;
}

void http_add_header(struct http_exchange *exchange, const char *name, const char *value)
{
    if (strcmp(name, "Cache-Control") == 0)
        exchange->cache = value;
}

void http_reply_static(struct http_exchange *exchange, const char *type, const void *bytes,
                       size_t size, const char *etag)
{
    exchange->status = 200;
    exchange->type = type;
    exchange->bytes = bytes;
    exchange->size = size;
    exchange->etag = etag;
}

void http_reply_error(struct http_exchange *exchange, int status, const char *code,
                      const char *field, int retry_after, const char *format, ...)
{
    (void)field;
    (void)retry_after;
    (void)format;
    exchange->status = status;
    snprintf(exchange->code, sizeof exchange->code, "%s", code);
}

static struct http_exchange ask(const char *path, const char *rest)
{
    struct http_routes part = page_routes();
    struct http_exchange exchange = {.rest = rest};

    for (size_t i = 0; i < part.count; i++)
        if (strcmp(part.routes[i].path, path) == 0) {
            assert_int_equal(part.routes[i].scope, SCOPE_PUBLIC);
            assert_int_equal(part.routes[i].method, HTTP_GET);
            part.routes[i].handle(&exchange, part.context);
        }
    return exchange;
}

static void check_same_as_file(const struct http_exchange *exchange, const char *name)
{
    char path[512];
    unsigned char *bytes = malloc(exchange->size + 1);
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", WEB_FOLDER, name);
    file = fopen(path, "rb");
    assert_non_null(bytes);
    assert_non_null(file);
    assert_int_equal(fread(bytes, 1, exchange->size + 1, file), exchange->size);
    assert_memory_equal(bytes, exchange->bytes, exchange->size);
    fclose(file);
    free(bytes);
}

static void test_root_is_the_page(void **state)
{
    struct http_exchange exchange = ask("/", NULL);

    (void)state;
    assert_int_equal(exchange.status, 200);
    assert_string_equal(exchange.type, "text/html; charset=utf-8");
    assert_string_equal(exchange.cache, "no-cache");
    check_same_as_file(&exchange, "index.html");
}

static void test_files_have_types_and_tags(void **state)
{
    static const char *const files[][2] = {
        {"js/main.js", "text/javascript; charset=utf-8"},
        {"js/text_zh.js", "text/javascript; charset=utf-8"},
        {"css/base.css", "text/css; charset=utf-8"},
        {"icon.svg", "image/svg+xml"},
    };
    const char *last = "";

    (void)state;
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        struct http_exchange exchange = ask("/static/{rest*}", files[i][0]);

        assert_int_equal(exchange.status, 200);
        assert_string_equal(exchange.type, files[i][1]);
        assert_int_equal(strlen(exchange.etag), 34);
        assert_int_equal(exchange.etag[0], '"');
        assert_int_equal(strspn(exchange.etag + 1, "0123456789abcdef"), 32);
        assert_int_equal(exchange.etag[33], '"');
        assert_string_not_equal(exchange.etag, last);
        last = exchange.etag;
        check_same_as_file(&exchange, files[i][0]);
    }
}

static void test_others_are_not_found(void **state)
{
    static const char *const names[] = {
        "", "js", "js/", "js/main", "/js/main.js", "../page.c", "JS/main.js", "js/main.js/", NULL};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct http_exchange exchange = ask("/static/{rest*}", names[i]);

        assert_int_equal(exchange.status, 404);
        assert_string_equal(exchange.code, "not_found");
        assert_null(exchange.bytes);
    }
}

/* What the security policy forbids would fail in the browser only. */
static void test_nothing_inline_and_nothing_foreign(void **state)
{
    static const char *const forbidden[] = {
        " style=\"", " onclick=", "<style", "javascript:", "http://", "https://", "@import"};
    struct http_exchange exchange = ask("/", NULL);
    char *text = calloc(1, exchange.size + 1);

    (void)state;
    assert_non_null(text);
    memcpy(text, exchange.bytes, exchange.size);
    for (size_t i = 0; i < COUNT_OF(forbidden); i++)
        assert_null(strstr(text, forbidden[i]));
    for (const char *at = text; (at = strstr(at, "<script")); at++)
        assert_non_null(strstr(at, "src=\"/static/"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_root_is_the_page),
        cmocka_unit_test(test_files_have_types_and_tags),
        cmocka_unit_test(test_others_are_not_found),
        cmocka_unit_test(test_nothing_inline_and_nothing_foreign),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
