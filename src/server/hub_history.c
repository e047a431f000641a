/* The hub's calls about jobs and pictures that are there already. */
#include <stdlib.h>
#include <string.h>

#include "server/hub_private.h"
#include "server/log.h"

bool hub_look(struct hub *hub, const char *id, const char *owner, struct job_view *out,
              struct hub_view_texts *texts, struct hub_error *err)
{
    struct hub_job *job = hub_job_find_locked(hub, id, owner);
    struct store_job row;
    struct error why;
    bool found;

    if (job) {
        pthread_mutex_lock(&hub->lock);
        hub_view_whole_locked(hub, job, out, texts);
        pthread_mutex_unlock(&hub->lock);
        return true;
    }
    if (!store_get(hub->store, id, owner, &row, &found, &why)) {
        hub_fail_store(hub, err, &why);
        return false;
    }
    if (!found) {
        hub_fail(err, 404, "not_found", 0, "there is no such job");
        return false;
    }
    hub_view_row(&row, out, texts);
    store_job_finish(&row);
    return true;
}

struct asking {
    struct hub_call call;
    const char *id, *owner;
    struct job_view *view;
    struct hub_view_texts texts;
    struct store_picture *picture;
    char *job_id;
    bool starred;
    struct hub_error *err;
    bool is_done;
};

static void load(struct hub *hub, struct hub_call *call)
{
    struct asking *asking = (struct asking *)call;

    asking->is_done =
        hub_look(hub, asking->id, asking->owner, asking->view, &asking->texts, asking->err);
    hub_complete(hub, call);
}

static bool ask(struct hub *hub, struct asking *asking)
{
    if (!hub_ask(hub, &asking->call)) {
        hub_fail_stopping(asking->err);
        return false;
    }
    return asking->is_done;
}

bool hub_load(struct hub *hub, const char *id, const char *owner, struct job_view *out,
              struct hub_error *err)
{
    struct asking asking = {.call.run = load, .id = id, .owner = owner, .view = out, .err = err};

    if (hub_peek(hub, id, owner, out))
        return true;
    if (!ask(hub, &asking))
        return false;
    hub_view_parse(out, &asking.texts);
    return true;
}

/* --- Pictures --- */

/* Answers a call whose store function said whether it worked and whether it found something. */
static void conclude(struct hub *hub, struct asking *asking, bool works, bool found,
                     const struct error *err, const char *what)
{
    if (!works)
        hub_fail_store(hub, asking->err, err);
    else if (!found)
        hub_fail(asking->err, 404, "not_found", 0, "there is no such %s", what);
    asking->is_done = works && found;
}

static void find_picture(struct hub *hub, struct hub_call *call)
{
    struct asking *asking = (struct asking *)call;
    struct error err;
    bool found = false;
    bool works = store_find_picture(hub->store, asking->id, asking->owner, asking->picture,
                                    asking->job_id, &found, &err);

    conclude(hub, asking, works, found, &err, "picture");
    hub_complete(hub, call);
}

bool hub_find_picture(struct hub *hub, const char *picture_id, const char *owner,
                      struct store_picture *out, char job_id[STORE_ID_BYTES], struct hub_error *err)
{
    struct asking asking = {.call.run = find_picture,
                            .id = picture_id,
                            .owner = owner,
                            .picture = out,
                            .job_id = job_id,
                            .err = err};

    return ask(hub, &asking);
}

int hub_open_file(struct hub *hub, const char *path)
{
    return store_open_file(hub->store, path);
}

/* So that something can be told of it, a job of long ago becomes a recent one first. */
static void remember(struct hub *hub, const char *id, const char *owner)
{
    struct store_job row;
    struct hub_job *job = NULL;
    bool found;

    if (hub_job_find_locked(hub, id, NULL))
        return;
    if (!store_get(hub->store, id, owner, &row, &found, NULL) || !found)
        return;
    if (row.state != JOB_QUEUED && row.state != JOB_RUNNING)
        job = hub_job_create(&row);
    store_job_finish(&row);
    if (!job)
        return;
    pthread_mutex_lock(&hub->lock);
    hub_job_add_locked(hub, job);
    hub_job_retire_locked(hub, job);
    pthread_mutex_unlock(&hub->lock);
}

/* In memory, and to those who listen. A job of long ago that memory is too short for is not told
 * of.
 */
static void tell_star(struct hub *hub, const char *picture_id, bool starred)
{
    struct store_picture picture;
    char job_id[STORE_ID_BYTES];
    struct hub_job *job;
    bool found;

    if (!store_find_picture(hub->store, picture_id, NULL, &picture, job_id, &found, NULL) || !found)
        return;
    remember(hub, job_id, NULL);
    pthread_mutex_lock(&hub->lock);
    job = hub_job_find_locked(hub, job_id, NULL);
    for (int i = 0; job && i < job->picture_count; i++) {
        if (strcmp(job->pictures[i].id, picture_id) == 0)
            job->pictures[i].is_starred = starred;
    }
    pthread_mutex_unlock(&hub->lock);
    if (job)
        hub_publish(hub, EVENT_STAR, job, picture.index);
}

static void star(struct hub *hub, struct hub_call *call)
{
    struct asking *asking = (struct asking *)call;
    struct error err;
    bool found = false;
    bool works = store_star(hub->store, asking->id, asking->owner, asking->starred, &found, &err);

    hub_note_store(hub, works, &err);
    conclude(hub, asking, works, found, &err, "picture");
    if (asking->is_done)
        tell_star(hub, asking->id, asking->starred);
    hub_complete(hub, call);
}

bool hub_star(struct hub *hub, const char *picture_id, const char *owner, bool starred,
              struct hub_error *err)
{
    struct asking asking = {
        .call.run = star, .id = picture_id, .owner = owner, .starred = starred, .err = err};

    return ask(hub, &asking);
}

/* --- Deleting --- */

/* Says it, and forgets the job. One that memory does not know is told by its row's view. */
static void forget(struct hub *hub, const char *id)
{
    struct hub_job *job = hub_job_find_locked(hub, id, NULL);

    if (!job)
        return;
    hub_publish(hub, EVENT_JOB_DELETED, job, 0);
    pthread_mutex_lock(&hub->lock);
    hub_job_forget_locked(hub, job);
    pthread_mutex_unlock(&hub->lock);
}

static void delete_job(struct hub *hub, struct hub_call *call)
{
    struct asking *asking = (struct asking *)call;
    const struct hub_job *job = hub_job_find_locked(hub, asking->id, asking->owner);
    struct error err;
    bool found = false, works;

    if (job && (job->state == JOB_QUEUED || job->state == JOB_RUNNING)) {
        hub_fail(asking->err, 409, "not_finished", 0, "the job is not finished: cancel it first");
        hub_complete(hub, call);
        return;
    }
    remember(hub, asking->id, asking->owner);
    works = store_delete(hub->store, asking->id, asking->owner, &found, &err);
    hub_note_store(hub, works, &err);
    conclude(hub, asking, works, found, &err, "job");
    if (asking->is_done) {
        log_event(LOG_INFO, "job.deleted", "job=%s", asking->id);
        forget(hub, asking->id);
    }
    hub_complete(hub, call);
}

bool hub_delete(struct hub *hub, const char *id, const char *owner, struct hub_error *err)
{
    struct asking asking = {.call.run = delete_job, .id = id, .owner = owner, .err = err};

    return ask(hub, &asking);
}

/* --- Lists: gathered on the hub's thread, visited on the caller's --- */

struct listing {
    struct hub_call call;
    const struct store_query *query;
    struct listed {
        struct listed *next;
        struct hub_view_texts texts;
        struct job_view view;
    } * first, **end;
    struct hub_error *err;
    bool is_done, is_short_of_memory;
};

static void gather(void *context, const struct store_job *row)
{
    struct listing *listing = context;
    struct listed *listed = calloc(1, sizeof *listed);

    if (!listed) {
        listing->is_short_of_memory = true;
        return;
    }
    hub_view_row(row, &listed->view, &listed->texts);
    *listing->end = listed;
    listing->end = &listed->next;
}

static void list(struct hub *hub, struct hub_call *call)
{
    struct listing *listing = (struct listing *)call;
    struct error err;

    if (!store_list(hub->store, listing->query, gather, listing, &err))
        hub_fail_store(hub, listing->err, &err);
    else if (listing->is_short_of_memory)
        hub_fail(listing->err, 503, "no_memory", 5, "the server is short of memory");
    else
        listing->is_done = true;
    hub_complete(hub, call);
}

/* What waits or runs is in memory with its place and its progress. */
static void visit_listed(struct hub *hub, struct listed *listed,
                         void (*visit)(void *context, const struct job_view *job), void *context)
{
    struct job_view *view = &listed->view;
    struct job_view *live = NULL;

    hub_view_parse(view, &listed->texts);
    if (view->state == JOB_QUEUED || view->state == JOB_RUNNING)
        live = malloc(sizeof *live);
    if (live && hub_peek(hub, view->id, NULL, live)) {
        visit(context, live);
        job_view_finish(live);
    } else {
        visit(context, view);
    }
    free(live);
}

bool hub_list(struct hub *hub, const struct store_query *query,
              void (*visit)(void *context, const struct job_view *job), void *context,
              struct hub_error *err)
{
    struct listing listing = {.call.run = list, .query = query, .err = err};

    listing.end = &listing.first;
    if (!hub_ask(hub, &listing.call))
        hub_fail_stopping(err);
    for (struct listed *at = listing.first, *next; at; at = next) {
        next = at->next;
        if (listing.is_done)
            visit_listed(hub, at, visit, context);
        free(at->texts.parameters);
        free(at->texts.result);
        job_view_finish(&at->view);
        free(at);
    }
    return listing.is_done;
}

/* --- Anything else --- */

struct using
{
    struct hub_call call;
    bool (*use)(void *context, struct store *store, struct error *err);
    void *context;
    struct error *err;
    bool is_done;
};

static void use_store(struct hub *hub, struct hub_call *call)
{
    struct using *using = (struct using *)call;

    using->is_done = using->use(using->context, hub->store, using->err);
    hub_complete(hub, call);
}

bool hub_with_store(struct hub *hub,
                    bool (*use)(void *context, struct store *store, struct error *err),
                    void *context, struct error *err)
{
    struct using using = {.call.run = use_store, .use = use, .context = context, .err = err};

    if (!hub_ask(hub, &using.call))
        return error_set(err, ERROR_CANCELLED, "the server is being stopped");
    return using.is_done;
}
