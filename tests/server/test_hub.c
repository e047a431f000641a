/* The hub with the real store and workers that do what the test says. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/hub_scene.h"
#include "server/server_fakes.h"
#include "server/supervisor.h"

static void nothing_is_accepted_before_a_worker_was_ready(void **state)
{
    struct hub_error err = scene_refused(*state, (struct wish){0});

    assert_int_equal(err.status, 503);
    assert_string_equal(err.code, "model_loading");
    assert_true(err.retry_after >= 1);
}

static void a_job_is_drawn_and_kept(void **state)
{
    struct scene *scene = *state;
    struct job_view view;
    struct heard done;
    uint64_t ticket;
    struct id id;
    int fd;

    scene_bring_worker(scene);
    id = scene_add_job(scene, (struct wish){0});
    ticket = scene_take(scene);
    scene_hear(&scene->ears, EVENT_JOB_QUEUED);
    assert_int_equal(scene_hear(&scene->ears, EVENT_JOB_STARTED).state, JOB_RUNNING);
    fake_worker_progress(&scene->worker, ticket, 2, 4);
    scene_hear(&scene->ears, EVENT_JOB_PROGRESS);
    view = scene_peek(scene, id.text);
    assert_int_equal(view.step, 2);
    assert_int_equal(view.step_count, 4);
    job_view_finish(&view);
    fake_worker_picture(&scene->worker, ticket, 0);
    scene_hear(&scene->ears, EVENT_PICTURE);
    fake_worker_done(&scene->worker, ticket);
    done = scene_hear(&scene->ears, EVENT_JOB_DONE);
    assert_string_equal(done.job, id.text);
    assert_true(done.has_result);
    view = scene_peek(scene, id.text);
    assert_int_equal(view.state, JOB_DONE);
    assert_int_equal(view.picture_count, 1);
    assert_non_null(view.parameters);
    assert_non_null(view.result);
    fd = hub_open_file(scene->hub, view.pictures[0].path);
    assert_true(fd >= 0);
    close(fd);
    job_view_finish(&view);
}

static void owners_see_their_own_jobs_only(void **state)
{
    struct scene *scene = *state;
    struct hub_error err;
    struct job_view view;
    struct id id;

    scene_bring_worker(scene);
    id = scene_add_job(scene, (struct wish){.owner = "anna"});
    assert_false(hub_peek(scene->hub, id.text, "ben", &view));
    assert_false(hub_load(scene->hub, id.text, "ben", &view, &err));
    assert_int_equal(err.status, 404);
    assert_false(hub_cancel(scene->hub, id.text, "ben", &view, &err));
    assert_int_equal(err.status, 404);
    assert_false(hub_delete(scene->hub, id.text, "ben", &err));
}

static void jobs_of_an_owner_are_drawn_in_order_and_know_their_place(void **state)
{
    struct scene *scene = *state;
    struct job_view view;
    struct id ids[4];

    scene_bring_worker(scene);
    for (int i = 0; i < 4; i++)
        ids[i] = scene_add_job(scene, (struct wish){0});
    for (int i = 0; i < 4; i++) {
        uint64_t ticket = scene_take(scene);

        assert_string_equal(scene_hear(&scene->ears, EVENT_JOB_STARTED).job, ids[i].text);
        for (int j = i + 1; j < 4; j++) {
            view = scene_peek(scene, ids[j].text);
            assert_int_equal(view.position, j - i);
            assert_true(i == 0 || view.wait_seconds >= 0); /* measured once one is done */
            job_view_finish(&view);
        }
        fake_worker_done(&scene->worker, ticket);
    }
}

static void every_owner_gets_its_share(void **state)
{
    struct scene *scene = *state;
    int shares[50] = {0};
    char owner[16];

    scene_close_hub(scene);
    scene->options.max_queue = scene->options.max_queue_per_owner = 2000;
    scene_open_hub(scene);
    scene_bring_worker(scene);
    for (int i = 0; i < 1176; i++)
        scene_add_job(scene, (struct wish){.owner = "owner0"});
    for (int i = 0; i < 49 * 12; i++) {
        snprintf(owner, sizeof owner, "owner%d", 1 + i % 49);
        scene_add_job(scene, (struct wish){.owner = owner});
    }
    for (int i = 0; i < 500; i++) {
        struct job_view view;
        int index;

        fake_worker_done(&scene->worker, scene_take(scene));
        view = scene_peek(scene, scene_hear(&scene->ears, EVENT_JOB_STARTED).job);
        index = (int)strtol(view.owner + strlen("owner"), NULL, 10);
        shares[index]++;
        job_view_finish(&view);
    }
    for (int i = 0; i < 50; i++)
        assert_in_range(shares[i], 9, 11);
}

struct clients {
    struct scene *scene;
    struct id id;
    atomic_int fresh, wrong;
};

static void *submit_often(void *context)
{
    struct clients *clients = context;

    for (int i = 0; i < 63; i++) {
        struct hub_error err;
        struct job_view view;
        bool is_new;

        if (!scene_submit(clients->scene, (struct wish){.key = "k", .body = "b"}, &view, &is_new,
                          &err)) {
            atomic_fetch_add(&clients->wrong, 1);
            continue;
        }
        atomic_fetch_add(&clients->fresh, is_new);
        job_view_finish(&view);
    }
    return NULL;
}

static void one_key_is_one_job(void **state)
{
    struct scene *scene = *state;
    struct clients clients = {.scene = scene};
    struct hub_state now;
    pthread_t threads[16];

    scene_bring_worker(scene);
    for (int i = 0; i < 16; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, submit_often, &clients), 0);
    for (int i = 0; i < 16; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&clients.wrong), 0);
    assert_int_equal(atomic_load(&clients.fresh), 1);
    scene_take(scene);
    hub_state(scene->hub, &now);
    assert_int_equal(now.queued, 0);
    assert_int_equal(now.running, 1);
    assert_string_equal(scene_refused(scene, (struct wish){.key = "k", .body = "other"}).code,
                        "idempotency_conflict");
}

static void a_full_queue_says_when_to_come_again(void **state)
{
    struct scene *scene = *state;
    double before = fake_metrics_counted(METRIC_REJECTS, "queue_full");
    struct hub_error err;
    struct job_view view;
    bool is_new;

    scene_close_hub(scene);
    scene->options.max_queue = 3;
    scene->options.max_queue_per_owner = 2;
    scene_open_hub(scene);
    scene_bring_worker(scene);
    scene_add_job(scene, (struct wish){0});
    scene_take(scene);
    scene_add_job(scene, (struct wish){.key = "k", .body = "b"});
    scene_add_job(scene, (struct wish){0});
    err = scene_refused(scene, (struct wish){0});
    assert_int_equal(err.status, 429);
    assert_string_equal(err.code, "queue_full");
    assert_true(err.retry_after >= 1);
    scene_add_job(scene, (struct wish){.owner = "ben"});
    assert_string_equal(scene_refused(scene, (struct wish){.owner = "carl"}).code, "queue_full");
    /* One that was accepted already is found again. */
    assert_true(scene_submit(scene, (struct wish){.key = "k", .body = "b"}, &view, &is_new, &err));
    assert_false(is_new);
    job_view_finish(&view);
    assert_true(fake_metrics_counted(METRIC_REJECTS, "queue_full") == before + 2);
}

static void jobs_a_minute_are_counted(void **state)
{
    struct scene *scene = *state;
    struct wish wish = {.jobs_per_minute = 2};
    struct hub_error err;

    scene_bring_worker(scene);
    scene_add_job(scene, wish);
    scene_add_job(scene, wish);
    err = scene_refused(scene, wish);
    assert_string_equal(err.code, "rate_limited");
    assert_in_range(err.retry_after, 1, 30);
}

static void a_full_disk_takes_nothing(void **state)
{
    struct scene *scene = *state;
    struct hub_error err;

    scene_close_hub(scene);
    scene->options.disk_reserve = 1e18;
    scene_open_hub(scene);
    scene_bring_worker(scene);
    err = scene_refused(scene, (struct wish){0});
    assert_int_equal(err.status, 507);
    assert_string_equal(err.code, "storage_full");
}

static void jobs_are_cancelled_in_every_state(void **state)
{
    struct scene *scene = *state;
    struct id running, queued;
    struct hub_error err;
    struct job_view view;
    uint64_t ticket;

    scene_bring_worker(scene);
    running = scene_add_job(scene, (struct wish){0});
    ticket = scene_take(scene);
    queued = scene_add_job(scene, (struct wish){0});
    assert_true(hub_cancel(scene->hub, queued.text, "anna", &view, &err));
    assert_int_equal(view.state, JOB_CANCELLED);
    job_view_finish(&view);
    assert_true(hub_cancel(scene->hub, running.text, NULL, &view, &err));
    assert_int_equal(view.state, JOB_CANCELLED);
    job_view_finish(&view);
    assert_int_equal(fake_worker_expect(&scene->worker, MESSAGE_CANCEL), ticket);
    /* What comes late is not listened to; the place is free after the worker's answer. */
    queued = scene_add_job(scene, (struct wish){0});
    fake_worker_picture(&scene->worker, ticket, 0);
    fake_worker_failed(&scene->worker, ticket, JOB_FAILURE_CANCELLED);
    fake_worker_done(&scene->worker, scene_take(scene));
    scene_hear(&scene->ears, EVENT_JOB_DONE);
    view = scene_peek(scene, running.text);
    assert_int_equal(view.state, JOB_CANCELLED);
    assert_int_equal(view.picture_count, 0);
    job_view_finish(&view);
    assert_true(hub_cancel(scene->hub, queued.text, NULL, &view, &err));
    assert_int_equal(view.state, JOB_DONE);
    job_view_finish(&view);
}

static void a_skipped_picture_ends_no_job_but_its_last_does(void **state)
{
    struct scene *scene = *state;
    struct id running, queued;
    struct job_view view;
    uint64_t ticket;

    scene_bring_worker(scene);
    running = scene_add_job(scene, (struct wish){0});
    ticket = scene_take(scene);
    hub_skip(scene->hub, running.text, "ben");
    hub_skip(scene->hub, running.text, "anna");
    assert_int_equal(fake_worker_expect(&scene->worker, MESSAGE_SKIP), ticket);
    view = scene_peek(scene, running.text);
    assert_int_equal(view.state, JOB_RUNNING);
    job_view_finish(&view);
    fake_worker_failed(&scene->worker, ticket, JOB_FAILURE_CANCELLED); /* that was all of it */
    scene_hear(&scene->ears, EVENT_JOB_CANCELLED);
    view = scene_peek(scene, running.text);
    assert_int_equal(view.state, JOB_CANCELLED);
    assert_string_equal(view.error_code, "");
    job_view_finish(&view);
    fake_worker_die(&scene->worker);
    queued = scene_add_job(scene, (struct wish){0});
    hub_skip(scene->hub, queued.text, "anna");
    view = scene_peek(scene, queued.text);
    assert_int_equal(view.state, JOB_QUEUED);
    job_view_finish(&view);
}

static void leave_out(struct scene *scene, const char *id, uint64_t ticket, int32_t image)
{
    struct skip_message message;

    hub_skip(scene->hub, id, "anna");
    message = fake_worker_skip(&scene->worker);
    assert_int_equal(message.ticket, ticket);
    assert_int_equal(message.image, image);
}

static void what_was_skipped_stays_so_when_the_worker_dies(void **state)
{
    struct scene *scene = *state;
    struct job_message again;
    struct job_view view;
    uint64_t ticket;
    struct id id;

    scene_bring_worker(scene);
    id = scene_add_job(scene, (struct wish){.count = 4});
    ticket = scene_take(scene);
    leave_out(scene, id.text, ticket, 0);
    fake_worker_picture(&scene->worker, ticket, 1);
    scene_hear(&scene->ears, EVENT_PICTURE);
    leave_out(scene, id.text, ticket, 2);
    fake_worker_die(&scene->worker);
    scene_bring_worker(scene);
    again = fake_worker_take(&scene->worker);
    job_spec_finish(&again.spec);
    assert_int_equal(again.attempt, 2);
    for (int i = 0; i < 4; i++)
        assert_int_equal(again.is_skipped[i], i == 0 || i == 2);
    leave_out(scene, id.text, again.ticket, 1); /* it is drawn anew */
    leave_out(scene, id.text, again.ticket, 3);
    fake_worker_picture(&scene->worker, again.ticket, 3); /* was under way */
    fake_worker_done(&scene->worker, again.ticket);
    scene_hear(&scene->ears, EVENT_JOB_DONE);
    view = scene_peek(scene, id.text);
    assert_int_equal(view.picture_count, 2);
    job_view_finish(&view);
}

static void all_jobs_of_an_owner_are_cancelled(void **state)
{
    struct scene *scene = *state;
    struct id other;

    scene_bring_worker(scene);
    for (int i = 0; i < 5; i++)
        scene_add_job(scene, (struct wish){0});
    other = scene_add_job(scene, (struct wish){.owner = "ben"});
    assert_int_equal(hub_cancel_all(scene->hub, "anna"), 5);
    assert_int_equal(scene_state_of(scene, other.text), JOB_QUEUED);
    assert_int_equal(hub_cancel_all(scene->hub, NULL), 1);
}

static void a_deadline_ends_jobs_that_wait_or_run(void **state)
{
    struct scene *scene = *state;
    struct job_view view;
    struct id ids[2];

    scene_bring_worker(scene);
    for (int i = 0; i < 2; i++)
        ids[i] = scene_add_job(scene, (struct wish){.timeout = 0.2});
    fake_worker_expect(&scene->worker, MESSAGE_CANCEL);
    scene_hear(&scene->ears, EVENT_JOB_FAILED);
    scene_hear(&scene->ears, EVENT_JOB_FAILED);
    for (int i = 0; i < 2; i++) {
        view = scene_peek(scene, ids[i].text);
        assert_string_equal(view.error_code, "timeout");
        job_view_finish(&view);
    }
}

static void a_job_that_kills_workers_fails_and_others_go_on(void **state)
{
    struct scene *scene = *state;
    struct id poison, other;
    struct job_view view;

    scene_bring_worker(scene);
    poison = scene_add_job(scene, (struct wish){0});
    scene_take(scene);
    other = scene_add_job(scene, (struct wish){.owner = "ben"});
    fake_worker_die(&scene->worker);
    scene_bring_worker(scene);
    scene_take(scene);
    view = scene_peek(scene, poison.text);
    assert_int_equal(view.state, JOB_RUNNING);
    assert_int_equal(view.attempts, 2);
    job_view_finish(&view);
    fake_worker_die(&scene->worker);
    assert_string_equal(scene_hear(&scene->ears, EVENT_JOB_FAILED).job, poison.text);
    view = scene_peek(scene, poison.text);
    assert_string_equal(view.error_code, "poison");
    job_view_finish(&view);
    scene_bring_worker(scene);
    fake_worker_done(&scene->worker, scene_take(scene));
    assert_string_equal(scene_hear(&scene->ears, EVENT_JOB_DONE).job, other.text);
}

static void a_job_comes_alone_the_second_time(void **state)
{
    struct scene *scene = *state;
    struct hub_state now;
    uint64_t ticket;

    scene_close_hub(scene);
    scene->options.max_batch = 2;
    scene_open_hub(scene);
    scene_bring_worker(scene);
    scene_add_job(scene, (struct wish){0});
    scene_add_job(scene, (struct wish){0});
    scene_take(scene);
    scene_take(scene);
    fake_worker_die(&scene->worker);
    scene_bring_worker(scene);
    ticket = scene_take(scene);
    fake_worker_progress(&scene->worker, ticket, 1, 4);
    scene_hear(&scene->ears, EVENT_JOB_PROGRESS);
    hub_state(scene->hub, &now);
    assert_int_equal(now.running, 1);
    assert_int_equal(now.queued, 1);
    fake_worker_done(&scene->worker, ticket);
    fake_worker_done(&scene->worker, scene_take(scene));
}

/* Once more, alone and one picture at a time; then it is told the limit. Others go on. */
static void a_job_that_runs_out_of_memory_has_one_more_try(void **state)
{
    struct scene *scene = *state;
    struct job_message message;
    struct id large, other;
    struct job_view view;

    scene_bring_worker(scene);
    large = scene_add_job(scene, (struct wish){0});
    message = fake_worker_take(&scene->worker);
    assert_false(message.is_frugal);
    job_spec_finish(&message.spec);
    other = scene_add_job(scene, (struct wish){.owner = "ben"});
    fake_worker_end(&scene->worker, WORKER_OUT_OF_MEMORY, 300 << 20);
    scene_bring_worker(scene);
    message = fake_worker_take(&scene->worker);
    assert_true(message.is_frugal);
    job_spec_finish(&message.spec);
    fake_worker_end(&scene->worker, WORKER_OUT_OF_MEMORY, 300 << 20);
    assert_string_equal(scene_hear(&scene->ears, EVENT_JOB_FAILED).job, large.text);
    view = scene_peek(scene, large.text);
    assert_string_equal(view.error_code, "out_of_memory");
    assert_non_null(strstr(view.error_message, "300 MiB"));
    assert_int_equal(view.attempts, 2);
    job_view_finish(&view);
    scene_bring_worker(scene);
    message = fake_worker_take(&scene->worker);
    assert_false(message.is_frugal);
    job_spec_finish(&message.spec);
    fake_worker_done(&scene->worker, message.ticket);
    assert_string_equal(scene_hear(&scene->ears, EVENT_JOB_DONE).job, other.text);
}

/* A supervisor that does not say why is not waited for for long. */
static void a_silent_death_is_a_death(void **state)
{
    struct scene *scene = *state;

    scene_bring_worker(scene);
    scene_add_job(scene, (struct wish){0});
    scene_take(scene);
    scene_hear(&scene->ears, EVENT_JOB_STARTED);
    scene->worker.index = 1; /* of which nobody has heard */
    fake_worker_die(&scene->worker);
    scene_hear(&scene->ears, EVENT_JOB_QUEUED);
}

static void a_worker_without_a_beat_is_killed(void **state)
{
    struct scene *scene = *state;
    struct front_says says;

    hub_set_patience(scene->hub, 0.05, 0.05);
    scene_bring_worker(scene);
    assert_int_equal(recv(scene->control[1], &says, sizeof says, 0), sizeof says);
    assert_int_equal(says.word, FRONT_KILL_WORKER);
    assert_int_equal(says.index, 0);
}

static void a_worker_that_talks_nonsense_is_dropped(void **state)
{
    struct scene *scene = *state;
    struct record_writer record = {0};
    struct hub_state now;

    scene_bring_worker(scene);
    scene_add_job(scene, (struct wish){0});
    scene_take(scene);
    record_put_u32(&record, 1);
    assert_true(channel_send(scene->worker.channel, MESSAGE_DONE, &record, -1));
    record_writer_finish(&record);
    do {
        scene_hear(&scene->ears, EVENT_WORKER);
        hub_state(scene->hub, &now);
    } while (now.workers > 0 || now.queued == 0); /* its parting is told after both */
    assert_int_equal(now.queued, 1);
}

static void the_past_is_told_again(void **state)
{
    struct scene *scene = *state;
    struct ears *again = calloc(1, sizeof *again);
    struct hub_subscription *subscription;
    struct hub_interest interest = {0};
    struct heard queued, started;
    struct error err;
    uint64_t ticket;

    pthread_mutex_init(&again->lock, NULL);
    pthread_cond_init(&again->more, NULL);
    scene_bring_worker(scene);
    scene_add_job(scene, (struct wish){0});
    queued = scene_hear(&scene->ears, EVENT_JOB_QUEUED);
    started = scene_hear(&scene->ears, EVENT_JOB_STARTED);
    interest.after = queued.number;
    assert_true(hub_subscribe(scene->hub, &subscription, &interest, scene_tell, again, &err));
    assert_int_equal(scene_hear(again, EVENT_JOB_STARTED).number, started.number);
    hub_unsubscribe(scene->hub, subscription);
    /* So much happens that the ring forgets. */
    ticket = scene_take(scene);
    for (int i = 0; i < EVENTS_KEPT; i++)
        fake_worker_progress(&scene->worker, ticket, 1, 4);
    fake_worker_done(&scene->worker, ticket);
    scene_hear(&scene->ears, EVENT_JOB_DONE);
    again->count = again->read = 0;
    assert_true(hub_subscribe(scene->hub, &subscription, &interest, scene_tell, again, &err));
    scene_hear(again, EVENT_GAP);
    hub_unsubscribe(scene->hub, subscription);
    /* A number of another life of the front. */
    interest.after = 5;
    again->count = again->read = 0;
    assert_true(hub_subscribe(scene->hub, &subscription, &interest, scene_tell, again, &err));
    scene_hear(again, EVENT_GAP);
    hub_unsubscribe(scene->hub, subscription);
    free(again);
}

static void previews_are_made_while_somebody_looks(void **state)
{
    struct scene *scene = *state;
    struct hub_interest interest = {.wants_previews = true};
    struct hub_subscription *subscription;
    struct error err;
    uint64_t ticket;

    scene_bring_worker(scene);
    scene_add_job(scene, (struct wish){0});
    ticket = scene_take(scene);
    scene_hear(&scene->ears, EVENT_JOB_STARTED);
    scene->ears.count = scene->ears.read = 0;
    assert_true(
        hub_subscribe(scene->hub, &subscription, &interest, scene_tell, &scene->ears, &err));
    assert_int_equal(fake_worker_expect(&scene->worker, MESSAGE_WATCH), ticket);
    fake_worker_preview(&scene->worker, ticket);
    assert_int_equal(scene_hear(&scene->ears, EVENT_JOB_PREVIEW).number, 0);
    hub_unsubscribe(scene->hub, subscription);
    assert_int_equal(fake_worker_expect(&scene->worker, MESSAGE_WATCH), ticket);
}

static void a_drain_waits_for_what_runs(void **state)
{
    struct scene *scene = *state;
    struct front_says says;
    struct id waiting;
    uint64_t ticket;

    scene_bring_worker(scene);
    scene_add_job(scene, (struct wish){0});
    ticket = scene_take(scene);
    waiting = scene_add_job(scene, (struct wish){0});
    hub_drain(scene->hub);
    assert_string_equal(scene_refused(scene, (struct wish){0}).code, "draining");
    fake_worker_expect(&scene->worker, MESSAGE_DRAIN);
    assert_false(hub_is_drained(scene->hub));
    fake_worker_done(&scene->worker, ticket);
    assert_int_equal(recv(scene->control[1], &says, sizeof says, 0), sizeof says);
    assert_int_equal(says.word, FRONT_IS_DRAINED);
    assert_true(hub_is_drained(scene->hub));
    assert_int_equal(scene_state_of(scene, waiting.text), JOB_QUEUED);
}

static void jobs_survive_a_restart(void **state)
{
    struct scene *scene = *state;
    struct job_view view;
    struct id ids[3];

    scene_bring_worker(scene);
    for (int i = 0; i < 3; i++)
        ids[i] = scene_add_job(scene, (struct wish){0});
    scene_take(scene);
    scene_close_hub(scene);
    scene_open_hub(scene);
    for (int i = 0; i < 3; i++)
        assert_int_equal(scene_state_of(scene, ids[i].text), JOB_QUEUED);
    view = scene_peek(scene, ids[0].text);
    assert_int_equal(view.attempts, 0); /* stopped in order: put back */
    job_view_finish(&view);
    scene_bring_worker(scene);
    for (int i = 0; i < 3; i++) {
        fake_worker_done(&scene->worker, scene_take(scene));
        assert_string_equal(scene_hear(&scene->ears, EVENT_JOB_DONE).job, ids[i].text);
    }
}

static void count_jobs(void *context, const struct job_view *job)
{
    assert_true(job->state == JOB_DONE || job->position > 0);
    (*(int *)context)++;
}

static void history_is_listed_starred_and_deleted(void **state)
{
    struct scene *scene = *state;
    struct store_query query = {.limit = 10};
    struct store_picture picture;
    char job_id[STORE_ID_BYTES];
    struct hub_error err;
    struct job_view view;
    struct id id;
    uint64_t ticket;
    int count = 0;

    scene_bring_worker(scene);
    id = scene_add_job(scene, (struct wish){0});
    ticket = scene_take(scene);
    assert_false(hub_delete(scene->hub, id.text, NULL, &err));
    assert_int_equal(err.status, 409);
    fake_worker_picture(&scene->worker, ticket, 0);
    fake_worker_done(&scene->worker, ticket);
    scene_hear(&scene->ears, EVENT_JOB_DONE);
    assert_true(hub_list(scene->hub, &query, count_jobs, &count, &err));
    assert_int_equal(count, 1);
    view = scene_peek(scene, id.text);
    assert_true(hub_star(scene->hub, view.pictures[0].id, "anna", true, &err));
    assert_int_equal(scene_hear(&scene->ears, EVENT_STAR).stars, 1);
    assert_true(hub_find_picture(scene->hub, view.pictures[0].id, "anna", &picture, job_id, &err));
    assert_true(picture.is_starred);
    assert_string_equal(job_id, id.text);
    assert_false(hub_star(scene->hub, view.pictures[0].id, "ben", true, &err));
    job_view_finish(&view);
    assert_true(hub_delete(scene->hub, id.text, "anna", &err));
    scene_hear(&scene->ears, EVENT_JOB_DELETED);
    assert_false(hub_load(scene->hub, id.text, NULL, &view, &err));
    assert_int_equal(err.status, 404);
}

/* A second page of the owner follows the stars of the first; a stranger hears of none. */
static void stars_are_told_even_of_jobs_of_long_ago(void **state)
{
    struct scene *scene = *state;
    struct ears *stranger = calloc(1, sizeof *stranger);
    struct hub_subscription *subscription;
    struct hub_error err;
    struct job_view view;
    struct heard heard;
    struct id id;
    uint64_t ticket;

    pthread_mutex_init(&stranger->lock, NULL);
    pthread_cond_init(&stranger->more, NULL);
    scene_bring_worker(scene);
    id = scene_add_job(scene, (struct wish){0});
    ticket = scene_take(scene);
    fake_worker_picture(&scene->worker, ticket, 0);
    scene_hear(&scene->ears, EVENT_PICTURE);
    view = scene_peek(scene, id.text);
    assert_true(hub_star(scene->hub, view.pictures[0].id, "anna", true, &err));
    heard = scene_hear(&scene->ears, EVENT_STAR);
    assert_int_equal(heard.state, JOB_RUNNING);
    assert_int_equal(heard.stars, 1);
    fake_worker_done(&scene->worker, ticket);
    assert_int_equal(scene_hear(&scene->ears, EVENT_JOB_DONE).stars, 1);

    scene_close_hub(scene);
    scene->worker = (struct fake_worker){0};
    scene_open_hub(scene);
    assert_true(hub_subscribe(scene->hub, &subscription, &(struct hub_interest){.owner = "ben"},
                              scene_tell, stranger, NULL));
    assert_false(hub_star(scene->hub, view.pictures[0].id, "ben", false, &err));
    assert_true(hub_star(scene->hub, view.pictures[0].id, "anna", false, &err));
    heard = scene_hear(&scene->ears, EVENT_STAR);
    assert_string_equal(heard.job, id.text);
    assert_int_equal(heard.state, JOB_DONE);
    assert_int_equal(heard.image, 0);
    assert_int_equal(heard.stars, 0);
    assert_true(hub_star(scene->hub, view.pictures[0].id, "anna", true, &err));
    assert_int_equal(scene_hear(&scene->ears, EVENT_STAR).stars, 1);
    job_view_finish(&view);
    hub_unsubscribe(scene->hub, subscription);
    for (int i = 0; i < stranger->count; i++)
        assert_int_not_equal(stranger->heard[i].type, EVENT_STAR);
    free(stranger);
}

static void *ask_for_estimate(void *context)
{
    struct scene *scene = context;
    struct estimated_message estimated = {0};
    struct job_spec spec = scene_spec();
    struct hub_error err;
    bool is_answered = hub_estimate(scene->hub, &spec, &estimated, &err);

    job_spec_finish(&spec);
    return is_answered && estimated.peak_bytes == 12345 ? scene : NULL;
}

static void estimates_come_from_a_worker(void **state)
{
    struct scene *scene = *state;
    pthread_t thread;
    void *result;

    scene_bring_worker(scene);
    assert_int_equal(pthread_create(&thread, NULL, ask_for_estimate, scene), 0);
    fake_worker_estimated(&scene->worker, fake_worker_expect(&scene->worker, MESSAGE_ESTIMATE));
    pthread_join(thread, &result);
    assert_ptr_equal(result, scene);
    /* A worker that does not answer is not waited for. */
    assert_null(ask_for_estimate(scene));
}

struct blocked {
    struct hub *hub;
    int started[2], released[2];
};

static bool wait_in_store(void *context, struct store *store, struct error *err)
{
    struct blocked *blocked = context;
    char byte = 0;

    (void)store;
    return (write(blocked->started[1], &byte, 1) == 1 &&
            read(blocked->released[0], &byte, 1) == 1) ||
           error_set(err, ERROR_IO, "a pipe");
}

static void *block_store(void *context)
{
    struct blocked *blocked = context;
    struct error err;

    return hub_with_store(blocked->hub, wait_in_store, blocked, &err) ? blocked : NULL;
}

static void polls_and_refusals_do_not_wait_for_the_disk(void **state)
{
    struct scene *scene = *state;
    struct blocked blocked = {0};
    struct hub_state now;
    pthread_t thread;
    struct id id;
    void *result;
    char byte = 0;

    scene_close_hub(scene);
    scene->options.max_queue = 1;
    scene_open_hub(scene);
    blocked.hub = scene->hub;
    scene_bring_worker(scene);
    id = scene_add_job(scene, (struct wish){0});
    scene_take(scene);
    scene_add_job(scene, (struct wish){0});
    assert_int_equal(pipe(blocked.started), 0);
    assert_int_equal(pipe(blocked.released), 0);
    assert_int_equal(pthread_create(&thread, NULL, block_store, &blocked), 0);
    assert_int_equal(read(blocked.started[0], &byte, 1), 1);
    assert_int_equal(scene_state_of(scene, id.text), JOB_RUNNING);
    hub_state(scene->hub, &now);
    assert_int_equal(now.running, 1);
    assert_string_equal(scene_refused(scene, (struct wish){0}).code, "queue_full");
    assert_int_equal(write(blocked.released[1], &byte, 1), 1);
    pthread_join(thread, &result);
    assert_ptr_equal(result, &blocked);
    for (int i = 0; i < 2; i++) {
        close(blocked.started[i]);
        close(blocked.released[i]);
    }
}

static void a_second_worker_takes_its_share(void **state)
{
    struct scene *scene = *state;
    struct fake_worker second;
    struct job_message job;
    struct hub_state now;

    scene_bring_worker(scene);
    fake_worker_come(&second, scene->control[1], 1, 0);
    fake_worker_ready(&second);
    do {
        scene_hear(&scene->ears, EVENT_WORKER);
        hub_state(scene->hub, &now);
    } while (now.workers_ready < 2);
    scene_add_job(scene, (struct wish){0});
    scene_add_job(scene, (struct wish){0});
    scene_take(scene);
    job = fake_worker_take(&second);
    job_spec_finish(&job.spec);
    fake_worker_done(&second, job.ticket);
    scene_hear(&scene->ears, EVENT_JOB_DONE);
    fake_worker_die(&second);
    do {
        scene_hear(&scene->ears, EVENT_WORKER);
        hub_state(scene->hub, &now);
    } while (now.workers > 1);
    assert_int_equal(now.running, 1); /* the other's job goes on */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        HUB_TEST(nothing_is_accepted_before_a_worker_was_ready),
        HUB_TEST(a_job_is_drawn_and_kept),
        HUB_TEST(owners_see_their_own_jobs_only),
        HUB_TEST(jobs_of_an_owner_are_drawn_in_order_and_know_their_place),
        HUB_TEST(every_owner_gets_its_share),
        HUB_TEST(one_key_is_one_job),
        HUB_TEST(a_full_queue_says_when_to_come_again),
        HUB_TEST(jobs_a_minute_are_counted),
        HUB_TEST(a_full_disk_takes_nothing),
        HUB_TEST(jobs_are_cancelled_in_every_state),
        HUB_TEST(a_skipped_picture_ends_no_job_but_its_last_does),
        HUB_TEST(what_was_skipped_stays_so_when_the_worker_dies),
        HUB_TEST(all_jobs_of_an_owner_are_cancelled),
        HUB_TEST(a_deadline_ends_jobs_that_wait_or_run),
        HUB_TEST(a_job_that_kills_workers_fails_and_others_go_on),
        HUB_TEST(a_job_comes_alone_the_second_time),
        HUB_TEST(a_job_that_runs_out_of_memory_has_one_more_try),
        HUB_TEST(a_silent_death_is_a_death),
        HUB_TEST(a_worker_without_a_beat_is_killed),
        HUB_TEST(a_worker_that_talks_nonsense_is_dropped),
        HUB_TEST(the_past_is_told_again),
        HUB_TEST(previews_are_made_while_somebody_looks),
        HUB_TEST(a_drain_waits_for_what_runs),
        HUB_TEST(jobs_survive_a_restart),
        HUB_TEST(history_is_listed_starred_and_deleted),
        HUB_TEST(stars_are_told_even_of_jobs_of_long_ago),
        HUB_TEST(estimates_come_from_a_worker),
        HUB_TEST(polls_and_refusals_do_not_wait_for_the_disk),
        HUB_TEST(a_second_worker_takes_its_share),
    };

    return cmocka_run_group_tests_name("hub", tests, NULL, NULL);
}
