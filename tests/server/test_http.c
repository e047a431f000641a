/* The HTTP server as good clients meet it. */
#include "http_fixture.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void expect_answer(const char *request, int status, const char *has)
{
    char *answer = client_ask(request);

    if (answer_status(answer) != status || (has && !answer_has(answer, has)))
        fail_msg("wanted %d and '%s' for\n%.300s\ngot\n%.2000s", status, has ? has : "", request,
                 answer);
    free(answer);
}

#define CLOSE HOST "Connection: close\r\n"

static void every_answer_has_the_headers_of_security(void **state)
{
    static const char *const paths[] = {"/health", "/pooled", "/page", "/nothing", "/file"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        char request[200], *answer;

        snprintf(request, sizeof request, "GET %s HTTP/1.1\r\n" CLOSE "\r\n", paths[i]);
        answer = client_ask(request);
        assert_true(answer_has(answer, "\r\nX-Content-Type-Options: nosniff\r\n"));
        assert_true(answer_has(answer, "\r\nReferrer-Policy: no-referrer\r\n"));
        assert_true(answer_has(answer, "\r\nCross-Origin-Resource-Policy: same-origin\r\n"));
        assert_true(answer_has(answer, "\r\nX-Request-Id: "));
        assert_true(answer_has(answer, "\r\nCache-Control: "));
        assert_false(answer_has(answer, "Access-Control"));
        assert_int_equal(answer_has(answer, "Content-Security-Policy: default-src 'none'; "),
                         strcmp(paths[i], "/page") == 0);
        free(answer);
    }
}

static void paths_queries_and_cookies_are_decoded(void **state)
{
    (void)state;
    expect_answer(
        "GET /items/a%20b?q=x%2By+z&q=2 HTTP/1.1\r\n" CLOSE "Cookie: a=b; session=s3\r\n\r\n", 200,
        "{\"id\":\"a b\",\"q\":\"x+y z\",\"cookie\":\"s3\",\"path\":\"/items/a b\","
        "\"client\":\"127.0.0.1\",\"base\":\"http://localhost\",\"secure\":false}");
    expect_answer("GET /items/a%2Fb HTTP/1.1\r\n" CLOSE "\r\n", 400, "bad_target");
    expect_answer("GET /items/%00 HTTP/1.1\r\n" CLOSE "\r\n", 400, "bad_target");
    expect_answer("GET /items/%ff HTTP/1.1\r\n" CLOSE "\r\n", 400, "bad_target");
    expect_answer("GET /items/%4 HTTP/1.1\r\n" CLOSE "\r\n", 400, "bad_target");
    expect_answer("GET /items/.. HTTP/1.1\r\n" CLOSE "\r\n", 404, NULL);
    expect_answer("GET /items/%2e%2e HTTP/1.1\r\n" CLOSE "\r\n", 404, NULL);
    expect_answer("GET /items/ HTTP/1.1\r\n" CLOSE "\r\n", 404, NULL);
    expect_answer("GET //health HTTP/1.1\r\n" CLOSE "\r\n", 404, NULL);
}

static void methods_and_paths_that_are_not_there_say_so(void **state)
{
    (void)state;
    expect_answer("GET /nothing HTTP/1.1\r\n" CLOSE "\r\n", 404, "\"code\":\"not_found\"");
    expect_answer("GET /v1/nothing HTTP/1.1\r\n" CLOSE "\r\n", 404, "\"param\":null");
    expect_answer("GET /sdapi/nothing HTTP/1.1\r\n" CLOSE "\r\n", 404,
                  "{\"detail\":\"Not Found\"}");
    expect_answer("PUT /items/1 HTTP/1.1\r\n" CLOSE "Content-Length: 0\r\n\r\n", 405,
                  "\r\nAllow: OPTIONS, GET, DELETE, HEAD\r\n");
    expect_answer("BREW /items/1 HTTP/1.1\r\n" CLOSE "\r\n", 405, "\r\nAllow: ");
    expect_answer("OPTIONS /items/1 HTTP/1.1\r\n" CLOSE "\r\n", 204, "\r\nAllow: OPTIONS, GET");
}

static void head_has_the_headers_of_get_and_no_body(void **state)
{
    static const char *const paths[] = {"/health", "/pooled", "/file", "/page"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        char request[200], *answer;

        snprintf(request, sizeof request, "HEAD %s HTTP/1.1\r\n" CLOSE "\r\n", paths[i]);
        answer = client_ask(request);
        assert_int_equal(answer_status(answer), 200);
        assert_true(answer_has(answer, "Content-Length: "));
        assert_string_equal(answer_body(answer), "");
        free(answer);
    }
    expect_answer("HEAD /events HTTP/1.1\r\n" HOST "\r\n", 200, "text/event-stream");
}

static void errors_have_the_style_of_their_route(void **state)
{
    (void)state;
    expect_answer("POST /api/bad HTTP/1.1\r\n" CLOSE "Content-Length: 0\r\n\r\n", 422,
                  "{\"error\":{\"code\":\"bad_value\",\"message\":\"steps must be 1 to 100\","
                  "\"field\":\"steps\",\"request_id\":\"");
    expect_answer("POST /v1/bad HTTP/1.1\r\n" CLOSE "Content-Length: 0\r\n\r\n", 422,
                  "{\"error\":{\"message\":\"steps must be 1 to 100\",\"type\":"
                  "\"invalid_request_error\",\"param\":\"steps\",\"code\":\"bad_value\"}}");
    expect_answer("POST /sdapi/bad HTTP/1.1\r\n" CLOSE "Content-Length: 0\r\n\r\n", 422,
                  "{\"detail\":[{\"loc\":[\"body\",\"steps\"],\"msg\":\"steps must be 1 to 100\","
                  "\"type\":\"bad_value\"}]}");
}

static void a_connection_serves_many_requests(void **state)
{
    int fd = client_connect();

    (void)state;
    for (int i = 0; i < 20; i++) {
        char *answer;

        client_say(fd, i % 2 ? "GET /pooled HTTP/1.1\r\n" HOST "\r\n"
                             : "POST /json HTTP/1.1\r\n" HOST "Content-Type: application/json\r\n"
                               "Content-Length: 7\r\n\r\n{\"a\":1}");
        answer = client_read_answer(fd);
        assert_int_equal(answer_status(answer), 200);
        assert_string_equal(answer_body(answer), i % 2 ? "ok" : "{\"a\":1}");
        free(answer);
    }
    close(fd);
}

static void requests_in_one_write_are_answered_in_order(void **state)
{
    enum { COUNT = 200 };
    static const char request[] = "GET /items/%03d HTTP/1.1\r\n" HOST "\r\n";
    char *all = malloc(COUNT * sizeof request), *to = all;
    int fd = client_connect();

    (void)state;
    for (int i = 0; i < COUNT; i++)
        to += sprintf(to, request, i);
    client_say(fd, all);
    for (int i = 0; i < COUNT; i++) {
        char *answer = client_read_answer(fd), wanted[32];

        snprintf(wanted, sizeof wanted, "\"id\":\"%03d\"", i);
        assert_true(answer_has(answer, wanted));
        free(answer);
    }
    close(fd);
    free(all);
}

static void http_1_0_is_spoken(void **state)
{
    (void)state;
    expect_answer("GET /health HTTP/1.0\r\n\r\n", 200, "ok");
    expect_answer("GET /pooled HTTP/1.0\r\nHost: a\r\n\r\n", 200, "ok");
    expect_answer("GET /health HTTP/2.0\r\n" HOST "\r\n", 505, NULL);
}

static void static_answers_and_files_know_what_the_client_has(void **state)
{
    (void)state;
    expect_answer("GET /page HTTP/1.1\r\n" CLOSE "If-None-Match: \"v0\", W/\"v1\"\r\n\r\n", 304,
                  "ETag: \"v1\"");
    expect_answer("GET /page HTTP/1.1\r\n" CLOSE "If-None-Match: \"v\"\r\n\r\n", 200, "<p>");
    expect_answer("GET /file HTTP/1.1\r\n" CLOSE "If-None-Match: \"f1\"\r\n\r\n", 304, NULL);
    expect_answer("GET /file HTTP/1.1\r\n" CLOSE "\r\n", 200,
                  "attachment; filename=\"pic_ture.png\"");
    expect_answer("GET /file HTTP/1.1\r\n" CLOSE "\r\n", 200, "\r\n\r\n0123456789");
}

static void files_are_sent_in_ranges(void **state)
{
    static const struct {
        const char *range;
        int status;
        const char *has;
    } cases[] = {
        {"bytes=2-4", 206, "Content-Range: bytes 2-4/10\r\n"},
        {"bytes=2-4", 206, "\r\n\r\n234"},
        {"bytes=7-", 206, "\r\n\r\n789"},
        {"bytes=7-99", 206, "Content-Range: bytes 7-9/10\r\n"},
        {"bytes=-3", 206, "\r\n\r\n789"},
        {"bytes=-30", 206, "\r\n\r\n0123456789"},
        {"bytes=9-9", 206, "\r\n\r\n9"},
        {"bytes=10-", 416, "Content-Range: bytes */10\r\n"},
        {"bytes=-0", 416, NULL},
        {"bytes=4-2", 200, NULL},
        {"bytes=0-1,3-4", 200, NULL},
        {"pages=1-2", 200, NULL},
        {"bytes=18446744073709551616-", 200, NULL},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char request[200];

        snprintf(request, sizeof request, "GET /file HTTP/1.1\r\n" CLOSE "Range: %s\r\n\r\n",
                 cases[i].range);
        expect_answer(request, cases[i].status, cases[i].has);
    }
    expect_answer("GET /file HTTP/1.1\r\n" CLOSE "Range: bytes=2-4\r\nIf-Range: \"f0\"\r\n\r\n",
                  200, "0123456789");
    expect_answer("GET /file HTTP/1.1\r\n" CLOSE "Range: bytes=2-4\r\nIf-Range: \"f1\"\r\n\r\n",
                  206, "\r\n\r\n234");
}

static void downloads_come_in_pieces_and_end_once(void **state)
{
    size_t size;
    char *answer;
    int fd = client_connect();

    (void)state;
    client_say(fd, "GET /pieces?count=5 HTTP/1.1\r\n" CLOSE "\r\n");
    answer = client_read_all(fd, &size);
    assert_int_equal(answer_status(answer), 200);
    assert_true(size > 5u * 65536);
    assert_true(strncmp(answer + size - 5, "0\r\n\r\n", 5) == 0);
    free(answer);
    wait_for(&fixture_done, 1);

    fd = client_connect();
    client_say(fd, "GET /pieces?count=-1 HTTP/1.1\r\n" HOST "\r\n");
    answer = client_read_all(fd, &size); /* broken off: no last chunk */
    assert_true(size < 5 || strncmp(answer + size - 5, "0\r\n\r\n", 5) != 0);
    free(answer);
    wait_for(&fixture_done, 2);
}

static void multipart_bodies_are_taken_apart(void **state)
{
    static const char body[] =
        "--XX\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na cat\r\n"
        "--XX\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a \\\"b\\\".png\"\r\n"
        "Content-Type: image/png\r\n\r\n\r\n--X\r\n\r\n--XX\r\n"
        "Content-Disposition: form-data; name=empty\r\n\r\n\r\n--XX--\r\n";
    char request[1000];

    (void)state;
    snprintf(request, sizeof request,
             "POST /parts HTTP/1.1\r\n" CLOSE
             "Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(body), body);
    expect_answer(request, 200,
                  "[{\"name\":\"prompt\",\"filename\":null,\"type\":null,\"size\":5},"
                  "{\"name\":\"image\",\"filename\":\"a \\\"b\\\".png\",\"type\":\"image/png\","
                  "\"size\":7},{\"name\":\"empty\",\"filename\":null,\"type\":null,\"size\":0}]");
}

static void chunked_bodies_are_read_and_end_the_connection(void **state)
{
    (void)state;
    expect_answer("POST /json HTTP/1.1\r\n" HOST "Content-Type: application/json\r\n"
                  "Transfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n"
                  "GET /evil HTTP/1.1\r\n" HOST "\r\n",
                  200, "{\"a\":1}");
    assert_int_equal(fixture_evil, 0);
}

static void expect_continue_is_answered_before_the_body(void **state)
{
    int fd = client_connect();
    char *answer;

    (void)state;
    client_say(fd,
               "POST /size HTTP/1.1\r\n" CLOSE "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    answer = client_read_answer(fd);
    assert_int_equal(answer_status(answer), 100);
    free(answer);
    client_say(fd, "abc");
    answer = client_read_all(fd, NULL);
    assert_true(answer_has(answer, "{\"size\":3}"));
    free(answer);
    expect_answer("POST /size HTTP/1.1\r\n" HOST
                  "Expect: 100-continue\r\nContent-Length: 100001\r\n\r\n",
                  413, "request_too_large");
    expect_answer("POST /size HTTP/1.1\r\n" HOST "Expect: tea\r\nContent-Length: 1\r\n\r\na", 417,
                  NULL);
}

static void answers_come_late_and_from_other_threads(void **state)
{
    static const char *const paths[] = {"GET /slow HTTP/1.1\r\n" HOST "\r\n",
                                        "GET /slow-pooled HTTP/1.1\r\n" HOST "\r\n"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        int fd = client_connect();
        char *answer;

        client_say(fd, paths[i]);
        wait_for(&fixture_slow, i + 1);
        fixture_release();
        answer = client_read_answer(fd);
        assert_string_equal(answer_body(answer), "late");
        free(answer);
        close(fd);
    }
    assert_int_equal(fixture_gone, 0);
}

static void streams_carry_events_until_they_end(void **state)
{
    static const char *const requests[] = {"GET /events HTTP/1.1\r\n" HOST "\r\n",
                                           "GET /events-pooled HTTP/1.1\r\n" HOST "\r\n"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        int fd = client_connect();
        char *answer;

        client_say(fd, requests[i]);
        while (fixture_streams() == 0)
            usleep(1000);
        assert_int_equal(fixture_tell("data: 1\n\n", 9), 1);
        assert_int_equal(fixture_tell("data: 2\n\n", 9), 1);
        fixture_end_streams();
        answer = client_read_all(fd, NULL);
        assert_int_equal(answer_status(answer), 200);
        assert_true(answer_has(answer, "\r\nContent-Type: text/event-stream\r\n"));
        assert_string_equal(answer_body(answer),
                            "9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n");
        free(answer);
        wait_for(&fixture_closed, i + 1);
    }
}

static void large_events_follow_each_other(void **state)
{
    enum { SIZE = 3 << 20 };
    char *event = malloc(SIZE), *buffer = malloc(65536);
    int fd = client_connect();
    size_t total = 0;

    (void)state;
    memset(event, 'x', SIZE);
    client_say(fd, "GET /events HTTP/1.1\r\n" HOST "\r\n");
    while (fixture_streams() == 0)
        usleep(1000);
    assert_int_equal(fixture_tell(event, SIZE), 1);
    assert_int_equal(fixture_tell("data: end\n\n", 11), 1);
    fixture_end_streams();
    for (ssize_t got; (got = recv(fd, buffer, 65536, 0)) > 0;)
        total += (size_t)got;
    assert_true(total > SIZE);
    close(fd);
    free(event);
    free(buffer);
    wait_for(&fixture_closed, 1);
}

static void *ask_pooled(void *argument)
{
    atomic_int *good = argument;

    for (int i = 0; i < 10; i++) {
        char *answer = client_ask("GET /pooled HTTP/1.1\r\n" CLOSE "\r\n");

        *good += answer_status(answer) == 200;
        free(answer);
    }
    return NULL;
}

static void a_thousand_requests_at_once_are_answered(void **state)
{
    enum { OPEN = 600, THREADS = 20 };
    pthread_t threads[THREADS];
    atomic_int good = 0;
    int fds[OPEN];

    (void)state;
    for (int i = 0; i < OPEN; i++) {
        fds[i] = client_connect();
        client_say(fds[i], "GET /slow HTTP/1.1\r\n" HOST "\r\n");
    }
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, ask_pooled, &good);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(good, 10 * THREADS);
    wait_for(&fixture_slow, OPEN);
    fixture_release();
    for (int i = 0; i < OPEN; i++) {
        char *answer = client_read_answer(fds[i]);

        assert_string_equal(answer_body(answer), "late");
        free(answer);
        close(fds[i]);
    }
    wait_for(&fixture_answered, OPEN + 10 * THREADS);
}

static void proxies_that_are_trusted_say_who_asks(void **state)
{
    static const char *const trusted[] = {"127.0.0.0/8", "10.0.0.0/8", NULL};
    const struct http_options options = {
        .host = "127.0.0.1", .threads = 2, .trusted_proxies = trusted};
    const struct http_limits limits = fixture_limits();

    (void)state;
    fixture_stop(1);
    fixture_start_with(&options, &limits);
    expect_answer("GET /items/1 HTTP/1.1\r\n" CLOSE
                  "X-Forwarded-For: 1.2.3.4, 5.6.7.8, 10.1.1.1\r\nX-Forwarded-Proto: https\r\n\r\n",
                  200, "\"client\":\"5.6.7.8\",\"base\":\"https://localhost\",\"secure\":true");
    /* A proxy may leave the client's own header and add another after it. */
    expect_answer("GET /items/1 HTTP/1.1\r\n" CLOSE
                  "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n"
                  "x-forwarded-for: 10.1.1.1\r\nX-Forwarded-Proto: https\r\n"
                  "X-Forwarded-Proto: http\r\n\r\n",
                  200, "\"client\":\"5.6.7.8\",\"base\":\"http://localhost\",\"secure\":false");
    expect_answer("GET /items/1 HTTP/1.1\r\n" CLOSE "X-Forwarded-For: rubbish\r\n\r\n", 200,
                  "\"client\":\"127.0.0.1\"");
}

/* --- The gate --- */

static struct http_exchange *at_gate;
static atomic_int waits_at_gate;

static bool check_gate(void *context, struct http_exchange *exchange,
                       const struct http_route *route)
{
    const char *id = http_path_value(exchange, "id");

    (void)context;
    (void)route;
    if (id && strcmp(id, "no") == 0) {
        http_reply_error(exchange, 401, "unauthorized", "", 0, "who are you?");
        return false;
    }
    if (http_header(exchange, "X-Later")) {
        at_gate = exchange;
        waits_at_gate++;
        return false;
    }
    return true;
}

static void start_with_gate(void)
{
    static const struct http_gate gate = {.check = check_gate};
    const struct http_options options = {.host = "127.0.0.1", .threads = 2, .gate = &gate};
    const struct http_limits limits = fixture_limits();

    fixture_stop(1);
    fixture_start_with(&options, &limits);
    waits_at_gate = 0;
}

static void the_gate_refuses_passes_and_takes_its_time(void **state)
{
    static const char later[] = "POST /json HTTP/1.1\r\n" CLOSE "X-Later: 1\r\nContent-Type: "
                                "application/json\r\nContent-Length: 2\r\n\r\n{}";
    char *answer;
    int fd;

    (void)state;
    start_with_gate();
    expect_answer("GET /items/no HTTP/1.1\r\n" CLOSE "\r\n", 401, "who are you?");
    expect_answer("GET /items/yes HTTP/1.1\r\n" CLOSE "\r\n", 200, NULL);
    fd = client_connect();
    client_say(fd, later);
    wait_for(&waits_at_gate, 1);
    http_pass(at_gate);
    answer = client_read_all(fd, NULL);
    assert_int_equal(answer_status(answer), 200);
    assert_string_equal(answer_body(answer), "{}");
    free(answer);
    fd = client_connect();
    client_say(fd, later);
    wait_for(&waits_at_gate, 2);
    http_reply_error(at_gate, 403, "forbidden", "", 0, "no");
    answer = client_read_all(fd, NULL);
    assert_int_equal(answer_status(answer), 403);
    free(answer);
}

/* A body that the gate has not let in is not read: no 100 Continue. */
static void nothing_is_read_that_the_gate_refuses(void **state)
{
    (void)state;
    start_with_gate();
    expect_answer("DELETE /items/no HTTP/1.1\r\n" HOST
                  "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
                  401, "\r\nConnection: close\r\n");
}

static void a_gate_that_decides_after_the_end_does_no_harm(void **state)
{
    const struct http_limits limits = fixture_limits();

    (void)state;
    for (int passes = 0; passes < 2; passes++) {
        char *answer;
        int fd;

        start_with_gate();
        fd = client_connect();
        client_say(fd, "GET /pooled HTTP/1.1\r\n" HOST "X-Later: 1\r\n\r\n");
        wait_for(&waits_at_gate, 1);
        fixture_stop(0);
        answer = client_read_all(fd, NULL);
        assert_int_equal(answer_status(answer), 503);
        free(answer);
        if (passes)
            http_pass(at_gate);
        else
            http_reply_text(at_gate, 200, "text/plain", "late");
        fixture_start(&limits);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(every_answer_has_the_headers_of_security),
        TEST(paths_queries_and_cookies_are_decoded),
        TEST(methods_and_paths_that_are_not_there_say_so),
        TEST(head_has_the_headers_of_get_and_no_body),
        TEST(errors_have_the_style_of_their_route),
        TEST(a_connection_serves_many_requests),
        TEST(requests_in_one_write_are_answered_in_order),
        TEST(http_1_0_is_spoken),
        TEST(static_answers_and_files_know_what_the_client_has),
        TEST(files_are_sent_in_ranges),
        TEST(downloads_come_in_pieces_and_end_once),
        TEST(multipart_bodies_are_taken_apart),
        TEST(chunked_bodies_are_read_and_end_the_connection),
        TEST(expect_continue_is_answered_before_the_body),
        TEST(answers_come_late_and_from_other_threads),
        TEST(streams_carry_events_until_they_end),
        TEST(large_events_follow_each_other),
        TEST(a_thousand_requests_at_once_are_answered),
        TEST(proxies_that_are_trusted_say_who_asks),
        TEST(the_gate_refuses_passes_and_takes_its_time),
        TEST(nothing_is_read_that_the_gate_refuses),
        TEST(a_gate_that_decides_after_the_end_does_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
