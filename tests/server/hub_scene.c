#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/hub_scene.h"

void scene_tell(void *context, const struct hub_event *event)
{
    struct ears *ears = context;

    pthread_mutex_lock(&ears->lock);
    if (ears->count < (int)COUNT_OF(ears->heard)) {
        struct heard *heard = &ears->heard[ears->count++];

        *heard =
            (struct heard){.type = event->type, .number = event->number, .image = event->image};
        if (event->job) {
            memcpy(heard->job, event->job->id, sizeof heard->job);
            heard->state = event->job->state;
            heard->has_result = event->job->result != NULL;
            for (int i = 0; i < event->job->picture_count; i++)
                heard->stars += event->job->pictures[i].is_starred;
        }
    }
    pthread_cond_broadcast(&ears->more);
    pthread_mutex_unlock(&ears->lock);
}

struct heard scene_hear(struct ears *ears, enum hub_event_type type)
{
    struct timespec until;
    struct heard heard;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    pthread_mutex_lock(&ears->lock);
    do {
        while (ears->read == ears->count)
            assert_int_equal(pthread_cond_timedwait(&ears->more, &ears->lock, &until), 0);
        heard = ears->heard[ears->read++];
    } while (heard.type != type);
    pthread_mutex_unlock(&ears->lock);
    return heard;
}

void scene_open_hub(struct scene *scene)
{
    struct error err;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, scene->control), 0);
    if (!hub_create(&scene->hub, &scene->options, scene->control[0], &err))
        fail_msg("%s", err.message);
    /* The fake worker does not beat: on a slow machine it would be killed as one that hangs. */
    hub_set_patience(scene->hub, 600, 600);
    scene->ears.count = scene->ears.read = 0;
    assert_true(hub_subscribe(scene->hub, &scene->subscription, &(struct hub_interest){0},
                              scene_tell, &scene->ears, &err));
}

void scene_close_hub(struct scene *scene)
{
    hub_unsubscribe(scene->hub, scene->subscription);
    hub_destroy(scene->hub);
    if (scene->worker.channel)
        fake_worker_die(&scene->worker);
    close(scene->control[0]);
    close(scene->control[1]);
}

int scene_setup(void **state)
{
    static int number;
    struct scene *scene = calloc(1, sizeof *scene);
    char name[32];

    snprintf(name, sizeof name, "store%d", number++);
    assert_int_equal(mkdir(test_path(name), 0700), 0);
    scene->options = (struct hub_options){.folder = test_path(name),
                                          .max_queue = 1000,
                                          .max_queue_per_owner = 1000,
                                          .max_batch = 1,
                                          .grace = 3600};
    pthread_mutex_init(&scene->ears.lock, NULL);
    pthread_cond_init(&scene->ears.more, NULL);
    scene_open_hub(scene);
    *state = scene;
    return 0;
}

int scene_teardown(void **state)
{
    struct scene *scene = *state;

    scene_close_hub(scene);
    pthread_mutex_destroy(&scene->ears.lock);
    pthread_cond_destroy(&scene->ears.more);
    free(scene);
    return 0;
}

void scene_bring_worker(struct scene *scene)
{
    struct hub_state now;

    fake_worker_come(&scene->worker, scene->control[1], 0, 0);
    fake_worker_ready(&scene->worker);
    do {
        scene_hear(&scene->ears, EVENT_WORKER);
        hub_state(scene->hub, &now);
    } while (now.workers_ready == 0);
}

struct job_spec scene_spec(void)
{
    struct job_spec spec = {.prompt = strdup("a red cube"),
                            .width = 64,
                            .height = 64,
                            .steps = 4,
                            .count = 1,
                            .t5_tokens = 77,
                            .guidance = 4,
                            .flow_shift = 3,
                            .seed = 7,
                            .strength = 0.75,
                            .skip_layer_stop = 0.2,
                            .quality = 90};

    return spec;
}

bool scene_submit(struct scene *scene, struct wish wish, struct job_view *view, bool *is_new,
                  struct hub_error *err)
{
    struct job_spec spec = scene_spec();
    struct hub_submission submission = {.spec = &spec,
                                        .owner = wish.owner ? wish.owner : "anna",
                                        .api = "native",
                                        .idempotency_key = wish.key,
                                        .body = wish.body,
                                        .body_size = wish.body ? strlen(wish.body) : 0,
                                        .timeout = wish.timeout,
                                        .jobs_per_minute = wish.jobs_per_minute};
    bool is_done;

    spec.count = wish.count ? wish.count : 1;
    is_done = hub_submit(scene->hub, &submission, view, is_new, err);
    job_spec_finish(&spec);
    return is_done;
}

struct id scene_add_job(struct scene *scene, struct wish wish)
{
    struct hub_error err;
    struct job_view view;
    struct id id;
    bool is_new;

    if (!scene_submit(scene, wish, &view, &is_new, &err))
        fail_msg("%s: %s", err.code, err.message);
    assert_true(is_new);
    memcpy(id.text, view.id, sizeof id.text);
    job_view_finish(&view);
    return id;
}

struct hub_error scene_refused(struct scene *scene, struct wish wish)
{
    struct hub_error err;
    struct job_view view;
    bool is_new;

    assert_false(scene_submit(scene, wish, &view, &is_new, &err));
    return err;
}

uint64_t scene_take(struct scene *scene)
{
    struct job_message job = fake_worker_take(&scene->worker);

    assert_string_equal(job.spec.prompt, "a red cube");
    job_spec_finish(&job.spec);
    return job.ticket;
}

struct job_view scene_peek(struct scene *scene, const char *id)
{
    struct job_view view;

    assert_true(hub_peek(scene->hub, id, NULL, &view));
    return view;
}

enum job_state scene_state_of(struct scene *scene, const char *id)
{
    struct job_view view = scene_peek(scene, id);

    job_view_finish(&view);
    return view.state;
}

struct hub_state scene_state_when(struct scene *scene, bool (*is_so)(const struct hub_state *now))
{
    struct hub_state now;

    for (int i = 0; i < 6000; i++) {
        hub_state(scene->hub, &now);
        if (is_so(&now))
            return now;
        usleep(10000);
    }
    fail_msg("what was waited for did not come");
    return now;
}

bool scene_is_ready(const struct hub_state *now)
{
    return now->is_ready;
}
