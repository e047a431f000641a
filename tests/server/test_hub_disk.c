/* The hub above a disk that fails: what happens to finished pictures, and to those who ask. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/hub_scene.h"

static atomic_bool disk_fails;
static atomic_int tries;

bool __wrap_store_add_picture(struct store *store, const char *id, int64_t fence,
                              const struct store_new_picture *picture, bool *kept,
                              struct error *err);
bool __real_store_add_picture(struct store *store, const char *id, int64_t fence,
                              const struct store_new_picture *picture, bool *kept,
                              struct error *err);

bool __wrap_store_add_picture(struct store *store, const char *id, int64_t fence,
                              const struct store_new_picture *picture, bool *kept,
                              struct error *err)
{
    atomic_fetch_add(&tries, 1);
    if (atomic_load(&disk_fails))
        return error_set(err, ERROR_IO, "the disk is full");
    return __real_store_add_picture(store, id, fence, picture, kept, err);
}

static bool holds_one(const struct hub_state *now)
{
    return now->pictures_held == 1;
}

static bool holds_two(const struct hub_state *now)
{
    return now->pictures_held == 2;
}

static bool holds_none(const struct hub_state *now)
{
    return now->pictures_held == 0;
}

/* A running job with a finished picture that cannot be stored. */
static struct id hold_picture(struct scene *scene, uint64_t *ticket)
{
    struct id id;

    scene_bring_worker(scene);
    atomic_store(&disk_fails, true);
    atomic_store(&tries, 0);
    id = scene_add_job(scene, (struct wish){0});
    *ticket = scene_take(scene);
    fake_worker_picture(&scene->worker, *ticket, 0);
    scene_state_when(scene, holds_one);
    return id;
}

static void a_picture_that_cannot_be_written_is_tried_again(void **state)
{
    struct scene *scene = *state;
    struct hub_error err;
    struct hub_state now;
    struct job_view view;
    char text[64] = "";
    uint64_t ticket;
    struct id id = hold_picture(scene, &ticket);
    int fd;

    fake_worker_picture(&scene->worker, ticket, 1);
    fake_worker_done(&scene->worker, ticket);
    now = scene_state_when(scene, holds_two);
    assert_false(now.is_ready);
    err = scene_refused(scene, (struct wish){0});
    assert_int_equal(err.status, 507);
    assert_string_equal(err.code, "storage");
    assert_true(err.retry_after > 0);
    while (atomic_load(&tries) < 3)
        usleep(10000);
    view = scene_peek(scene, id.text);
    assert_int_equal(view.state, JOB_RUNNING);
    assert_int_equal(view.picture_count, 0);
    job_view_finish(&view);
    atomic_store(&disk_fails, false);
    scene_hear(&scene->ears, EVENT_PICTURE);
    scene_hear(&scene->ears, EVENT_PICTURE);
    assert_string_equal(scene_hear(&scene->ears, EVENT_JOB_DONE).job, id.text);
    view = scene_peek(scene, id.text);
    assert_int_equal(view.attempts, 1);
    assert_int_equal(view.picture_count, 2);
    fd = hub_open_file(scene->hub, view.pictures[1].path);
    assert_true(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    assert_non_null(strstr(text, "picture 1 of"));
    close(fd);
    job_view_finish(&view);
    scene_state_when(scene, scene_is_ready);
    scene_add_job(scene, (struct wish){0});
    fake_worker_done(&scene->worker, scene_take(scene));
    scene_hear(&scene->ears, EVENT_JOB_DONE);
}

static void a_picture_is_not_held_for_ever(void **state)
{
    struct scene *scene = *state;
    struct job_view view;
    uint64_t ticket;
    struct id id;

    hub_set_held_limits(scene->hub, 0.4, 1000);
    id = hold_picture(scene, &ticket);
    assert_int_equal(fake_worker_expect(&scene->worker, MESSAGE_CANCEL), ticket);
    assert_string_equal(scene_hear(&scene->ears, EVENT_JOB_FAILED).job, id.text);
    view = scene_peek(scene, id.text);
    assert_string_equal(view.error_code, "storage");
    assert_int_equal(view.picture_count, 0);
    job_view_finish(&view);
    assert_true(atomic_load(&tries) > 1);
    scene_state_when(scene, holds_none);
}

static void no_more_is_held_than_memory_is_meant_for(void **state)
{
    struct scene *scene = *state;
    uint64_t ticket;
    struct id id;

    hub_set_held_limits(scene->hub, 600, 30);
    id = hold_picture(scene, &ticket);
    fake_worker_picture(&scene->worker, ticket, 1);
    assert_int_equal(fake_worker_expect(&scene->worker, MESSAGE_CANCEL), ticket);
    assert_string_equal(scene_hear(&scene->ears, EVENT_JOB_FAILED).job, id.text);
    scene_state_when(scene, holds_none);
}

static void a_held_picture_goes_with_its_job(void **state)
{
    struct scene *scene = *state;
    struct hub_error err;
    struct job_view view;
    uint64_t ticket;
    struct id id = hold_picture(scene, &ticket);

    assert_true(hub_cancel(scene->hub, id.text, NULL, &view, &err));
    assert_int_equal(view.state, JOB_CANCELLED);
    job_view_finish(&view);
    scene_state_when(scene, holds_none);
    fake_worker_failed(&scene->worker, ticket, JOB_FAILURE_CANCELLED);
    /* One whose worker is lost is drawn again. */
    scene_state_when(scene, scene_is_ready);
    id = scene_add_job(scene, (struct wish){0});
    ticket = scene_take(scene);
    fake_worker_picture(&scene->worker, ticket, 0);
    scene_state_when(scene, holds_one);
    fake_worker_die(&scene->worker);
    scene_state_when(scene, holds_none);
    atomic_store(&disk_fails, false);
    scene_bring_worker(scene);
    ticket = scene_take(scene);
    fake_worker_picture(&scene->worker, ticket, 0);
    fake_worker_done(&scene->worker, ticket);
    assert_string_equal(scene_hear(&scene->ears, EVENT_JOB_DONE).job, id.text);
}

static void a_job_whose_picture_is_held_is_put_back_at_the_end(void **state)
{
    struct scene *scene = *state;
    struct job_view view;
    uint64_t ticket;
    struct id id = hold_picture(scene, &ticket);

    fake_worker_done(&scene->worker, ticket);
    while (atomic_load(&tries) < 2)
        usleep(10000);
    scene_close_hub(scene);
    scene_open_hub(scene);
    view = scene_peek(scene, id.text);
    assert_int_equal(view.state, JOB_QUEUED);
    assert_int_equal(view.attempts, 0);
    job_view_finish(&view);
}

static bool is_gone(const struct hub_state *now)
{
    return now->disk == STORE_DISK_GONE;
}

static void a_folder_that_is_taken_away_may_come_back(void **state)
{
    struct scene *scene = *state;
    struct store_picture picture;
    char away[4096], job_id[STORE_ID_BYTES];
    struct hub_error err;
    struct job_view view;
    uint64_t ticket;
    struct id id;

    scene_bring_worker(scene);
    id = scene_add_job(scene, (struct wish){0});
    ticket = scene_take(scene);
    fake_worker_picture(&scene->worker, ticket, 0);
    fake_worker_done(&scene->worker, ticket);
    scene_hear(&scene->ears, EVENT_JOB_DONE);
    snprintf(away, sizeof away, "%s.away", scene->options.folder);
    assert_int_equal(rename(scene->options.folder, away), 0);
    assert_false(scene_state_when(scene, is_gone).is_ready);
    err = scene_refused(scene, (struct wish){0});
    assert_int_equal(err.status, 507);
    assert_string_equal(err.code, "storage");
    view = scene_peek(scene, id.text);
    assert_true(hub_find_picture(scene->hub, view.pictures[0].id, "anna", &picture, job_id, &err));
    job_view_finish(&view);
    /* An empty folder of that name is not what was lost. */
    assert_int_equal(mkdir(scene->options.folder, 0700), 0);
    usleep(1200000); /* it is looked at each second */
    assert_string_equal(scene_refused(scene, (struct wish){0}).code, "storage");
    assert_int_equal(rmdir(scene->options.folder), 0);
    assert_false(hub_must_restart(scene->hub));
    assert_int_equal(rename(away, scene->options.folder), 0);
    scene_state_when(scene, scene_is_ready);
    scene_add_job(scene, (struct wish){0});
    fake_worker_done(&scene->worker, scene_take(scene));
    scene_hear(&scene->ears, EVENT_JOB_DONE);
}

static bool must_restart_soon(struct scene *scene)
{
    for (int i = 0; i < 6000 && !hub_must_restart(scene->hub); i++)
        usleep(10000);
    return hub_must_restart(scene->hub);
}

static void another_store_in_its_place_needs_a_new_process(void **state)
{
    struct scene *scene = *state;
    struct store *other;
    struct error err;
    char away[4096];

    scene_bring_worker(scene);
    snprintf(away, sizeof away, "%s.away", scene->options.folder);
    assert_int_equal(rename(scene->options.folder, away), 0);
    assert_int_equal(mkdir(scene->options.folder, 0700), 0);
    assert_true(store_open(&other, scene->options.folder, &err));
    store_close(other);
    assert_true(must_restart_soon(scene));
    assert_false(scene_state_when(scene, is_gone).is_ready);
}

static int setup(void **state)
{
    atomic_store(&disk_fails, false);
    return scene_setup(state);
}

#define DISK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, scene_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DISK_TEST(a_picture_that_cannot_be_written_is_tried_again),
        DISK_TEST(a_picture_is_not_held_for_ever),
        DISK_TEST(no_more_is_held_than_memory_is_meant_for),
        DISK_TEST(a_held_picture_goes_with_its_job),
        DISK_TEST(a_job_whose_picture_is_held_is_put_back_at_the_end),
        DISK_TEST(a_folder_that_is_taken_away_may_come_back),
        DISK_TEST(another_store_in_its_place_needs_a_new_process),
    };

    return cmocka_run_group_tests_name("hub_disk", tests, NULL, NULL);
}
