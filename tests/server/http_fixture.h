/* A server on a port of its own with routes of every kind, and a client that speaks raw bytes. */
#ifndef TESTS_SERVER_HTTP_FIXTURE_H
#define TESTS_SERVER_HTTP_FIXTURE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "server/http_private.h"
#include "support/support.h"

#define ANSWER_BYTES_MAX (1 << 20)
#define HOST "Host: localhost\r\n"

extern struct http_server *fixture_server;
extern int fixture_port;
extern atomic_int fixture_evil;   /* requests for /evil that arrived */
extern atomic_int fixture_gone;   /* calls of http_on_disconnect's function */
extern atomic_int fixture_closed; /* streams that were closed */
extern atomic_int fixture_done;   /* downloads in pieces that ended */
extern atomic_int fixture_slow;   /* requests for /slow that wait for fixture_release */
extern atomic_int fixture_answered, fixture_pieces; /* answers; downloads in pieces that began */

/* Limits that tests can wait for; what a test does not set stays generous. */
struct http_limits fixture_limits(void);
void fixture_start(const struct http_limits *limits);
void fixture_start_with(const struct http_options *options, const struct http_limits *limits);
void fixture_stop(double seconds);
/* A test's own server, with fixture_limits; what waits at /slow is answered at the end. */
int fixture_setup(void **state);
int fixture_teardown(void **state);
/* Answers those at /slow. */
void fixture_release(void);
/* Writes to the streams that are open; returns how many took it. */
int fixture_tell(const void *bytes, size_t size);
int fixture_streams(void);
void fixture_end_streams(void);

int client_connect(void);
void client_send(int fd, const void *bytes, size_t size);
void client_say(int fd, const char *text);
/* Reads until the server closes; the text is NUL-terminated and the caller's. */
char *client_read_all(int fd, size_t *size);
/* Reads one answer with a Content-Length, and not a byte more. */
char *client_read_answer(int fd);
/* Connects, says it, reads until the end. */
char *client_ask(const char *request);
int answer_status(const char *answer);
bool answer_has(const char *answer, const char *text);
const char *answer_body(const char *answer);
/* Waits until *value is at least `wanted`; fails after seconds. */
void wait_for(atomic_int *value, int wanted);

#endif
