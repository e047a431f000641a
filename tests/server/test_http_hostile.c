/* The HTTP server as attackers meet it: requests of a shape that proxies read differently, sizes at
 * and beyond each limit, bodies that are no JSON and no multipart. */
#include "http_fixture.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVIL "GET /evil HTTP/1.1\r\n" HOST "\r\n"

struct shape {
    const char *name, *head;
    size_t size; /* 0: strlen */
    int status;  /* 0: whatever error libmicrohttpd gives */
};
#define TEXT(text) text, sizeof(text) - 1

static const struct shape shapes[] = {
    {"length and chunked",
     TEXT("POST /json HTTP/1.1\r\n" HOST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
          "0\r\n\r\n"),
     400},
    {"chunked and length",
     TEXT("POST /json HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"
          "0\r\n\r\n"),
     400},
    {"two lengths",
     TEXT("POST /json HTTP/1.1\r\n" HOST "Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}"), 400},
    {"the same length twice",
     TEXT("POST /json HTTP/1.1\r\n" HOST "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"), 400},
    {"a list of lengths", TEXT("POST /json HTTP/1.1\r\n" HOST "Content-Length: 2, 2\r\n\r\n{}"), 0},
    {"a negative length", TEXT("POST /json HTTP/1.1\r\n" HOST "Content-Length: -5\r\n\r\n"), 0},
    {"a signed length", TEXT("POST /json HTTP/1.1\r\n" HOST "Content-Length: +5\r\n\r\n{}   "), 0},
    {"a hexadecimal length", TEXT("POST /json HTTP/1.1\r\n" HOST "Content-Length: 0x2\r\n\r\n{}"),
     0},
    {"an empty length", TEXT("POST /json HTTP/1.1\r\n" HOST "Content-Length: \r\n\r\n"), 0},
    {"a length of 2^64",
     TEXT("POST /json HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551616\r\n\r\n"), 0},
    {"a length with a space", TEXT("POST /json HTTP/1.1\r\n" HOST "Content-Length: 2 2\r\n\r\n{}"),
     0},
    {"an unknown coding",
     TEXT("POST /json HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 400},
    {"chunked after a tab and more",
     TEXT("POST /json HTTP/1.1\r\n" HOST "Transfer-Encoding:\tchunked, \r\n\r\n0\r\n\r\n"), 400},
    {"identity", TEXT("POST /json HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n"), 400},
    {"gzip, chunked",
     TEXT("POST /json HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 400},
    {"chunked twice",
     TEXT("POST /json HTTP/1.1\r\n" HOST
          "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
     400},
    {"chunked under HTTP/1.0",
     TEXT("POST /json HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400},
    {"a space before chunked's colon",
     TEXT("POST /json HTTP/1.1\r\n" HOST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), 400},
    {"GET with a body", TEXT("GET /health HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello"),
     400},
    {"GET with chunks",
     TEXT("GET /health HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400},
    {"HEAD with a body", TEXT("HEAD /health HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello"),
     400},
    {"a space before the colon", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A : b\r\n\r\n"), 400},
    {"a tab before the colon", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A\t: b\r\n\r\n"), 400},
    {"an empty name", TEXT("GET /health HTTP/1.1\r\n" HOST ": b\r\n\r\n"), 400},
    {"no colon", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A\r\n\r\n"), 0},
    {"a name with a bracket", TEXT("GET /health HTTP/1.1\r\n" HOST "X[A]: b\r\n\r\n"), 400},
    {"bare LF after a header", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A: b\nX-C: d\r\n\r\n"), 400},
    {"bare LF after the first header", TEXT("GET /health HTTP/1.1\r\nHost: a\nX-C: d\r\n\r\n"),
     400},
    {"bare LF after the last header", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A: b\n\r\n"), 400},
    {"bare LF for the empty line", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A: b\r\n\n"), 400},
    {"two bare LFs", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A: b\n\n"), 400},
    {"bare LF after the request line", TEXT("GET /health HTTP/1.1\n" HOST "\r\n"), 400},
    {"bare LF everywhere", TEXT("GET /health HTTP/1.1\nHost: a\n\n"), 400},
    {"bare CR in a value", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A: b\rX-C: d\r\n\r\n"), 400},
    {"bare CR at the end", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A: b\r\r\n\r\n"), 400},
    {"NUL in a value", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A: b\0c\r\n\r\n"), 400},
    {"NUL in a name", TEXT("GET /health HTTP/1.1\r\n" HOST "X\0A: b\r\n\r\n"), 0},
    {"NUL at a value's end", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A: b\0\r\n\r\n"), 400},
    {"NUL in the target", TEXT("GET /health\0x HTTP/1.1\r\n" HOST "\r\n"), 0},
    {"a control byte", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A: b\x01\r\n\r\n"), 400},
    {"a folded header", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A: b\r\n c\r\n\r\n"), 400},
    {"a folded header, tab", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A: b\r\n\tc\r\n\r\n"), 400},
    {"a folded header of blanks", TEXT("GET /health HTTP/1.1\r\n" HOST "X-A: b\r\n \r\n\r\n"), 400},
    {"a folded coding",
     TEXT("POST /json HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"), 400},
    {"a blank before the first header", TEXT("GET /health HTTP/1.1\r\n X: y\r\n" HOST "\r\n"), 0},
    {"no Host", TEXT("GET /health HTTP/1.1\r\nX-A: b\r\n\r\n"), 400},
    {"no headers", TEXT("GET /health HTTP/1.1\r\n\r\n"), 400},
    {"two Hosts", TEXT("GET /health HTTP/1.1\r\n" HOST HOST "\r\n"), 400},
    {"an empty Host", TEXT("GET /health HTTP/1.1\r\nHost: \r\n\r\n"), 400},
    {"a Host with a path", TEXT("GET /health HTTP/1.1\r\nHost: a/b\r\n\r\n"), 400},
    {"a Host with a user", TEXT("GET /health HTTP/1.1\r\nHost: a@b\r\n\r\n"), 400},
    {"two spaces", TEXT("GET  /health HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"two spaces before the version", TEXT("GET /health  HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a tab for a space", TEXT("GET\t/health HTTP/1.1\r\n" HOST "\r\n"), 0},
    {"a space after the version", TEXT("GET /health HTTP/1.1 \r\n" HOST "\r\n"), 0},
    {"a space in the target", TEXT("GET /items/a b HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"bytes that are not escaped", TEXT("GET /items/\xc3\xa4 HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"no version", TEXT("GET /health\r\n" HOST "\r\n"), 0},
    {"a small version", TEXT("GET /health http/1.1\r\n" HOST "\r\n"), 0},
    {"a long version", TEXT("GET /health HTTP/1.10\r\n" HOST "\r\n"), 0},
    {"an absolute target", TEXT("GET http://localhost/health HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"CONNECT", TEXT("CONNECT localhost:80 HTTP/1.1\r\n" HOST "\r\n"), 400},
    {"a method that is no word", TEXT("G@T /health HTTP/1.1\r\n" HOST "\r\n"), 400},
};

/* How many answers an answer's text holds. */
static int count_answers(const char *text)
{
    int count = 0;

    while ((text = strstr(text, "HTTP/1.1 "))) {
        count++;
        text++;
    }
    return count;
}

/* Sends the head with a second request behind it, at once or in single bytes. */
static char *smuggle(const struct shape *shape, bool in_bytes)
{
    int fd = client_connect();
    size_t size;
    char *answer;

    if (in_bytes) {
        for (size_t i = 0; i < shape->size; i++)
            client_send(fd, shape->head + i, 1);
        client_say(fd, EVIL);
    } else {
        char *all = malloc(shape->size + sizeof EVIL);

        memcpy(all, shape->head, shape->size);
        memcpy(all + shape->size, EVIL, sizeof EVIL - 1);
        client_send(fd, all, shape->size + sizeof EVIL - 1);
        free(all);
    }
    answer = client_read_all(fd, &size);
    for (size_t i = 0; i < size; i++) { /* so that text functions see all of it */
        if (!answer[i])
            answer[i] = '?';
    }
    return answer;
}

static void malformed_requests_are_refused_and_nothing_is_read_behind_them(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * COUNT_OF(shapes); i++) {
        const struct shape *shape = &shapes[i / 2];
        char *answer = smuggle(shape, i % 2);
        int status = answer_status(answer);

        if (fixture_evil != 0)
            fail_msg("%s: the second request was read", shape->name);
        if (shape->status ? status != shape->status
                          : *answer && (status < 400 || (status >= 500 && status != 505)))
            fail_msg("%s: wanted %d, got %d:\n%.500s", shape->name, shape->status, status, answer);
        if (*answer && !answer_has(answer, "\r\nConnection: close\r\n"))
            fail_msg("%s: the connection stays:\n%.500s", shape->name, answer);
        /* libmicrohttpd answers a broken length by itself, and twice; the first one closes. */
        if (shape->status && count_answers(answer) != 1)
            fail_msg("%s: several answers:\n%.500s", shape->name, answer);
        free(answer);
    }
}

static void good_requests_after_good_ones_are_read(void **state)
{
    const struct shape good = {"good",
                               TEXT("GET /health HTTP/1.1\r\n" HOST "X-A:b\r\nX-B:  c  \r\n"
                                    "X-Empty:\r\nX-Blank: \r\n\r\n"),
                               200};
    char *answer;
    int fd = client_connect();

    (void)state;
    client_send(fd, good.head, good.size);
    answer = client_read_answer(fd);
    assert_int_equal(answer_status(answer), 200);
    free(answer);
    client_say(fd, EVIL);
    answer = client_read_answer(fd);
    assert_int_equal(answer_status(answer), 200);
    assert_int_equal(fixture_evil, 1);
    free(answer);
    close(fd);
}

/* A request that MHD's reading splits at each byte is the same request. */
static void a_request_in_single_bytes_is_a_request(void **state)
{
    static const char request[] =
        "POST /json HTTP/1.1\r\n" HOST "Connection: close\r\nContent-Type: application/json\r\n"
        "Content-Length: 7\r\n\r\n{\"a\":1}";
    int fd = client_connect();
    char *answer;

    (void)state;
    for (size_t i = 0; i < sizeof request - 1; i++)
        client_send(fd, request + i, 1);
    answer = client_read_all(fd, NULL);
    assert_string_equal(answer_body(answer), "{\"a\":1}");
    free(answer);
}

/* --- Sizes --- */

static int status_of(const char *request)
{
    char *answer = client_ask(request);
    int status = answer_status(answer);

    free(answer);
    return status;
}

static int status_of_target(size_t length)
{
    char *request = malloc(length + 200), *to = request;
    int status;

    to += sprintf(to, "GET /health?");
    memset(to, 'q', length - strlen("/health?"));
    strcpy(to + length - strlen("/health?"), " HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    status = status_of(request);
    free(request);
    return status;
}

static void long_targets_get_414(void **state)
{
    (void)state;
    assert_int_equal(status_of_target(HTTP_LINE_BYTES_MAX - 1), 200);
    assert_int_equal(status_of_target(HTTP_LINE_BYTES_MAX), 200);
    assert_int_equal(status_of_target(HTTP_LINE_BYTES_MAX + 1), 414);
    assert_int_equal(status_of_target(200000), 414);
}

/* A head of exactly `size` bytes. */
static int status_of_head(size_t size)
{
    static const char start_text[] = "GET /health HTTP/1.1\r\n" HOST "Connection: close\r\nX-A: ";
    char *request = malloc(size + 1);
    int status;

    memcpy(request, start_text, sizeof start_text - 1);
    memset(request + sizeof start_text - 1, 'x', size - sizeof start_text + 1 - 4);
    strcpy(request + size - 4, "\r\n\r\n");
    status = status_of(request);
    free(request);
    return status;
}

static int status_of_count(int count)
{
    char *request = malloc((size_t)count * 16 + 200), *to = request;
    int status;

    to += sprintf(to, "GET /health HTTP/1.1\r\n" HOST "Connection: close\r\n");
    for (int i = 2; i < count; i++)
        to += sprintf(to, "X-%d: y\r\n", i);
    sprintf(to, "\r\n");
    status = status_of(request);
    free(request);
    return status;
}

static void large_headers_get_431(void **state)
{
    (void)state;
    assert_int_equal(status_of_head(HTTP_HEADER_BYTES_MAX - 1), 200);
    assert_int_equal(status_of_head(HTTP_HEADER_BYTES_MAX), 200);
    assert_int_equal(status_of_head(HTTP_HEADER_BYTES_MAX + 1), 431);
    assert_int_equal(status_of_head(200000), 431);
    assert_int_equal(status_of_count(HTTP_HEADERS_MAX - 1), 200);
    assert_int_equal(status_of_count(HTTP_HEADERS_MAX), 200);
    assert_int_equal(status_of_count(HTTP_HEADERS_MAX + 1), 431);
    assert_int_equal(status_of_count(3000), 431);
}

static int status_of_body(size_t size, bool is_chunked)
{
    char *request = malloc(size + 300), *to = request;
    int status;

    to += sprintf(to, "POST /size HTTP/1.1\r\n" HOST "Connection: close\r\n");
    to += is_chunked ? sprintf(to, "Transfer-Encoding: chunked\r\n\r\n%zx\r\n", size)
                     : sprintf(to, "Content-Length: %zu\r\n\r\n", size);
    memset(to, 'b', size);
    strcpy(to + size, is_chunked ? "\r\n0\r\n\r\n" : "");
    status = status_of(request);
    free(request);
    return status;
}

static void large_bodies_get_413(void **state)
{
    (void)state;
    for (int is_chunked = 0; is_chunked < 2; is_chunked++) {
        assert_int_equal(status_of_body(99999, is_chunked), 200);
        assert_int_equal(status_of_body(100000, is_chunked), 200);
        assert_int_equal(status_of_body(100001, is_chunked), 413);
        assert_int_equal(status_of_body(900000, is_chunked), 413);
    }
    /* Before a byte of it is read. */
    assert_int_equal(
        status_of("POST /size HTTP/1.1\r\n" HOST "Content-Length: 9223372036854775807\r\n\r\n"),
        413);
}

static void bodies_of_tiny_chunks_are_cut_short(void **state)
{
    enum { COUNT = 20000 };
    char *request = malloc(COUNT * 6 + 300), *to = request;
    int status;

    (void)state;
    to += sprintf(to, "POST /size HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < COUNT; i++)
        to += sprintf(to, "1\r\nx\r\n");
    sprintf(to, "0\r\n\r\n");
    status = status_of(request);
    assert_int_equal(status, 400);
    free(request);
}

/* The room of a body comes back a moment after the answer. */
static int status_when_there_is_room(size_t size)
{
    int status = 503;

    for (int i = 0; i < 1000 && status == 503; i++) {
        status = status_of_body(size, false);
        (void)poll(NULL, 0, 5);
    }
    return status;
}

static void all_bodies_together_have_a_limit(void **state)
{
    struct http_limits limits = fixture_limits();

    (void)state;
    fixture_stop(1);
    limits.bodies_bytes = 65536;
    fixture_start(&limits);
    assert_int_equal(status_of_body(60000, false), 200);
    assert_int_equal(status_of_body(70000, false), 503);
    assert_int_equal(status_when_there_is_room(60000), 200);
}

/* --- Content --- */

static int status_of_content(const char *path, const char *type, const char *body, size_t size)
{
    char *request = malloc(size + 500);
    int fd = client_connect(), length, status;
    char *answer;

    length =
        sprintf(request,
                "POST %s HTTP/1.1\r\n" HOST "Connection: close\r\n%s%s%s"
                "Content-Length: %zu\r\n\r\n",
                path, type ? "Content-Type: " : "", type ? type : "", type ? "\r\n" : "", size);
    memcpy(request + length, body, size);
    client_send(fd, request, (size_t)length + size);
    answer = client_read_all(fd, NULL);
    status = answer_status(answer);
    free(answer);
    free(request);
    return status;
}

#define JSON "application/json"

static void bodies_that_are_no_json_get_400(void **state)
{
    static const char *const bad[] = {"[]",
                                      "1",
                                      "{",
                                      "}",
                                      "{\"a\":1}x",
                                      "{\"a\":1,\"a\":2}",
                                      "{\"a\":1e999}",
                                      "{\"a\":\"\\ud800\"}",
                                      "{\"a\":\"\xff\"}",
                                      "{\"a\":NaN}",
                                      "{'a':1}",
                                      "{\"a\":\"\\u0000\"}",
                                      "{\"a\":01}",
                                      "]",
                                      "{\"a\":1,}",
                                      "\"",
                                      "{\"a\\",
                                      "{\"a\":\"\n\"}"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        int status = status_of_content("/json", JSON, bad[i], strlen(bad[i]));

        if (status != 400)
            fail_msg("%s: %d", bad[i], status);
    }
    assert_int_equal(status_of_content("/json", JSON, "{\"a\":1}\0", 8), 400);
    assert_int_equal(status_of_content("/json", JSON, "", 0), 200);
    assert_int_equal(status_of_content("/json", NULL, "", 0), 200);
    assert_int_equal(status_of_content("/json", "application/json; charset=utf-8", "{}", 2), 200);
    assert_int_equal(status_of_content("/json", "application/vnd.x+json", "{}", 2), 200);
    assert_int_equal(status_of_content("/json", NULL, "{}", 2), 415);
    assert_int_equal(status_of_content("/json", "text/plain", "{}", 2), 415);
    assert_int_equal(status_of_content("/json", "application/x-www-form-urlencoded", "{}", 2), 415);
    assert_int_equal(status_of_content("/json", "application/jsonp", "{}", 2), 415);
}

static int status_of_depth(int depth)
{
    char *body = malloc((size_t)depth * 6 + 2), *to = body;
    int status;

    for (int i = 0; i < depth; i++)
        to += sprintf(to, "{\"a\":");
    *to++ = '1';
    for (int i = 0; i < depth; i++)
        *to++ = '}';
    status = status_of_content("/json", JSON, body, (size_t)(to - body));
    free(body);
    return status;
}

static int status_of_keys(int objects, int keys)
{
    char *body = malloc((size_t)objects * ((size_t)keys * 12 + 20) + 20), *to = body;
    int status;

    to += sprintf(to, "{\"o\":[");
    for (int object = 0; object < objects; object++) {
        to += sprintf(to, "%s{", object ? "," : "");
        for (int key = 0; key < keys; key++)
            to += sprintf(to, "%s\"%d\":0", key ? "," : "", key);
        to += sprintf(to, "}");
    }
    to += sprintf(to, "]}");
    status = status_of_content("/json", JSON, body, (size_t)(to - body));
    free(body);
    return status;
}

static void json_has_limits_of_depth_and_number(void **state)
{
    (void)state;
    assert_int_equal(status_of_depth(JSON_DEPTH_MAX - 1), 200);
    assert_int_equal(status_of_depth(JSON_DEPTH_MAX), 200);
    assert_int_equal(status_of_depth(JSON_DEPTH_MAX + 1), 400);
    assert_int_equal(status_of_depth(100000), 400);
    assert_int_equal(status_of_keys(1, JSON_KEYS_MAX - 1), 200);
    assert_int_equal(status_of_keys(1, JSON_KEYS_MAX), 200);
    assert_int_equal(status_of_keys(1, JSON_KEYS_MAX + 1), 400);
    assert_int_equal(status_of_keys(JSON_VALUES_MAX / 64, 100), 400);
}

#define FORM "multipart/form-data; boundary=XX"
#define DISPOSITION "Content-Disposition: form-data; name=\"a\"\r\n"

static void bodies_that_are_no_multipart_get_400(void **state)
{
    static const char *const bad[] = {
        "",
        "--XX",
        "--XX\r\n",
        "--XX\r\n" DISPOSITION "\r\nb\r\n--XX",
        "--XX\r\n" DISPOSITION "\r\nb--XX--\r\n",
        "--XX\r\n" DISPOSITION "\r\nb\r\n--XX--\r\nmore",
        "--XX\n" DISPOSITION "\r\nb\r\n--XX--\r\n",
        "junk\r\n--XX\r\n" DISPOSITION "\r\nb\r\n--XX--\r\n",
        "--XX\r\n\r\nb\r\n--XX--\r\n",
        "--XX\r\nContent-Disposition: form-data\r\n\r\nb\r\n--XX--\r\n",
        "--XX\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\nb\r\n--XX--\r\n",
        "--XX\r\nContent-Disposition: form-data; name=\"a\r\n\r\nb\r\n--XX--\r\n",
        "--XX\r\n" DISPOSITION DISPOSITION "\r\nb\r\n--XX--\r\n",
        "--XX\r\n" DISPOSITION "Content-Transfer-Encoding: base64\r\n\r\nb\r\n--XX--\r\n",
        "--XX\r\n" DISPOSITION "X\r\n\r\nb\r\n--XX--\r\n",
    };
    static const char good[] = "--XX\r\n" DISPOSITION "\r\nb\r\n--XX--\r\n";

    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        int status = status_of_content("/parts", FORM, bad[i], strlen(bad[i]));

        if (status != 400)
            fail_msg("%s: %d", bad[i], status);
    }
    assert_int_equal(status_of_content("/parts", FORM, good, strlen(good)), 200);
    assert_int_equal(status_of_content("/parts", "multipart/form-data", good, strlen(good)), 400);
    assert_int_equal(
        status_of_content("/parts", "multipart/form-data; boundary=\"X\nX\"", good, strlen(good)),
        400);
    assert_int_equal(
        status_of_content("/parts", "multipart/mixed; boundary=XX", good, strlen(good)), 400);
}

static int status_of_parts(int count)
{
    static const char part[] = "--XX\r\n" DISPOSITION "\r\nb\r\n";
    char *body = malloc((size_t)count * sizeof part + 20), *to = body;
    int status;

    for (int i = 0; i < count; i++)
        to += sprintf(to, "%s", part);
    to += sprintf(to, "--XX--\r\n");
    status = status_of_content("/parts", FORM, body, (size_t)(to - body));
    free(body);
    return status;
}

static void multipart_has_a_limit_of_parts(void **state)
{
    (void)state;
    assert_int_equal(status_of_parts(HTTP_MULTIPART_PARTS_MAX - 1), 200);
    assert_int_equal(status_of_parts(HTTP_MULTIPART_PARTS_MAX), 200);
    assert_int_equal(status_of_parts(HTTP_MULTIPART_PARTS_MAX + 1), 400);
}

static void random_bytes_do_no_harm(void **state)
{
    unsigned seed = 20261126;

    (void)state;
    for (int i = 0; i < 300; i++) {
        struct shape shape = shapes[(unsigned)i % COUNT_OF(shapes)];
        char bytes[512];
        int fd = client_connect();

        if (shape.size > sizeof bytes)
            shape.size = sizeof bytes;
        memcpy(bytes, shape.head, shape.size);
        for (int change = 0; change < 4; change++) {
            seed = seed * 1103515245u + 12345u;
            bytes[(seed >> 16) % shape.size] = (char)(seed >> 8);
        }
        client_send(fd, bytes, shape.size);
        shutdown(fd, SHUT_WR);
        free(client_read_all(fd, NULL));
    }
    assert_int_equal(status_of("GET /health HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n"), 200);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(malformed_requests_are_refused_and_nothing_is_read_behind_them),
        TEST(good_requests_after_good_ones_are_read),
        TEST(a_request_in_single_bytes_is_a_request),
        TEST(long_targets_get_414),
        TEST(large_headers_get_431),
        TEST(large_bodies_get_413),
        TEST(bodies_of_tiny_chunks_are_cut_short),
        TEST(all_bodies_together_have_a_limit),
        TEST(bodies_that_are_no_json_get_400),
        TEST(json_has_limits_of_depth_and_number),
        TEST(bodies_that_are_no_multipart_get_400),
        TEST(multipart_has_a_limit_of_parts),
        TEST(random_bytes_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
