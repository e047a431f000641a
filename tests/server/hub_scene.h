/* The hub with the real store and a worker that does what the test says. */
#ifndef SERVER_HUB_SCENE_H
#define SERVER_HUB_SCENE_H

#include <pthread.h>

#include "server/fake_worker.h"
#include "server/hub_private.h"
#include "support/support.h"

struct heard {
    enum hub_event_type type;
    uint64_t number;
    char job[STORE_ID_BYTES];
    enum job_state state;
    bool has_result;
    int32_t image;
    int stars; /* of its pictures */
};

struct ears {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct heard heard[8192]; /* under lock */
    int count, read;          /* under lock */
};

struct scene {
    struct hub *hub;
    struct hub_options options;
    int control[2]; /* the hub's end, the supervisor's end */
    struct hub_subscription *subscription;
    struct ears ears;
    struct fake_worker worker;
};

#define HUB_TEST(name) cmocka_unit_test_setup_teardown(name, scene_setup, scene_teardown)
int scene_setup(void **state);
int scene_teardown(void **state);
void scene_open_hub(struct scene *scene);
void scene_close_hub(struct scene *scene);
/* Returns when the hub knows that it can draw. */
void scene_bring_worker(struct scene *scene);

/* Adds to the ears that are its context. */
void scene_tell(void *context, const struct hub_event *event);
/* The next event of this type; those before it are passed over. */
struct heard scene_hear(struct ears *ears, enum hub_event_type type);

struct wish {
    const char *owner, *key, *body;
    double timeout;
    int32_t jobs_per_minute;
    int32_t count; /* 0: one picture */
};

struct id {
    char text[STORE_ID_BYTES];
};

struct job_spec scene_spec(void);
bool scene_submit(struct scene *scene, struct wish wish, struct job_view *view, bool *is_new,
                  struct hub_error *err);
struct id scene_add_job(struct scene *scene, struct wish wish);
struct hub_error scene_refused(struct scene *scene, struct wish wish);
/* The ticket of the next job that the hub gives to the worker. */
uint64_t scene_take(struct scene *scene);
struct job_view scene_peek(struct scene *scene, const char *id);
enum job_state scene_state_of(struct scene *scene, const char *id);
/* Waits until it is so. */
struct hub_state scene_state_when(struct scene *scene, bool (*is_so)(const struct hub_state *now));
bool scene_is_ready(const struct hub_state *now);

#endif
