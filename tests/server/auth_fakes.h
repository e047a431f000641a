/* An exchange that is made of plain fields, and a hub with a store of keys in memory: what the gate
 * needs of the server. */
#ifndef TESTS_SERVER_AUTH_FAKES_H
#define TESTS_SERVER_AUTH_FAKES_H

#include <pthread.h>

#include "server/http.h"
#include "server/hub.h"

#define FAKE_PAIRS_MAX 8

struct http_exchange {
    const struct http_route *route;
    const char *client, *peer;
    struct fake_pair {
        const char *name, *value;
    } headers[FAKE_PAIRS_MAX], cookies[2], queries[2];
    const char *path_value;
    bool is_secure;
    json_t *body; /* of the request; freed by fake_finish */

    struct http_identity identity;
    /* The answer, under `lock` where it comes late. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_passed;
    int status;
    char code[64], set_cookie[512], challenge[128], message[512];
    json_t *answer;
};

void fake_init(struct http_exchange *exchange, const struct http_route *route);
void fake_finish(struct http_exchange *exchange);
void fake_header(struct http_exchange *exchange, const char *name, const char *value);
/* Waits until it is answered or passed. */
void fake_wait(struct http_exchange *exchange);

struct store {
    struct store_key keys[16];
    size_t key_count;
    struct fake_setting {
        char *name, *value;
    } settings[4];
    bool fails;
};

void fake_free_settings(struct store *store);

struct hub {
    struct store store;
};

#endif
