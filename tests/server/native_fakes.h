/* A hub and an HTTP server of a few lines: one exchange at a time, what it was answered, and jobs
 * that a test lays out. They stand in for hub.c and http.c in tests of the native API.
 */
#ifndef TESTS_SERVER_NATIVE_FAKES_H
#define TESTS_SERVER_NATIVE_FAKES_H

#include <pthread.h>

#include "server/http.h"
#include "server/hub.h"

#define FAKE_FIELDS_MAX 8
#define FAKE_JOBS_MAX 300

struct http_exchange {
    const char *id;                                               /* of the path */
    const char *names[FAKE_FIELDS_MAX], *values[FAKE_FIELDS_MAX]; /* query and headers alike */
    const char *body;
    json_t *json;
    struct http_identity identity;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    int answers, status; /* under lock, as all below */
    json_t *answer;
    char code[32], field[64], location[80], type[64];
    char *stream; /* what was streamed */
    void (*gone)(void *context);
    void *gone_context;
    void (*closed)(void *context);
    void *closed_context;
};

void fake_exchange_init(struct http_exchange *exchange);
void fake_exchange_finish(struct http_exchange *exchange);
void fake_set(struct http_exchange *exchange, const char *name, const char *value);
/* Waits until it is answered. */
void fake_await(struct http_exchange *exchange);
bool fake_streamed(struct http_exchange *exchange, const char *text);

/* Sequences from `count` down to 1; owner "ann". Every third has two pictures, every fifth has
 * failed, the rest are done without pictures. */
struct hub *fake_hub_create(int count);
void fake_hub_destroy(struct hub *hub);
struct job_view *fake_hub_job(struct hub *hub, int index);
/* Tells everybody who listens. */
void fake_hub_tell(struct hub *hub, enum hub_event_type type, uint64_t number, int index);
int fake_hub_subscriptions(struct hub *hub);
uint64_t fake_hub_after(struct hub *hub); /* of the last subscription */
int fake_hub_deleted(struct hub *hub);
void fake_hub_hide(struct hub *hub, bool from_peek);

#endif
