/* Lists of the native API, newest first, page by page: jobs, and the pictures in them.
 *
 * The store selects by owner, words and stars; the rest is chosen here, so a page may take several
 * readings of the store. The cursor is the sequence of the last job that was read.
 */
#include <string.h>

#include "server/native_private.h"

/* Readings of the store for one page: beyond, a short page with a cursor is the answer. */
#define READINGS_MAX 8
#define JOBS_A_READING 100

struct page {
    struct store_query query;
    const char *state; /* NULL: any; "active": queued or running */
    bool of_pictures;
    size_t room;              /* rows that are wanted */
    size_t rows;              /* that are written */
    struct json_writer *body; /* the list is open in it */
    int32_t read;             /* jobs of this reading */
    bool is_full;             /* the rest of this reading is left for the next page */
    bool is_cut;              /* there was such a rest */
};

static bool has_state(const struct job_view *job, const char *state)
{
    if (!state)
        return true;
    if (strcmp(state, "active") == 0)
        return !native_job_is_over(job->state);
    return strcmp(state, job_state_name(job->state)) == 0;
}

/* A page has whole jobs: the pictures of one stay together, a few more than were asked for. */
static void append_pictures(struct page *page, const struct job_view *job)
{
    for (int32_t i = 0; i < job->picture_count && i < STORE_PICTURES_MAX; i++) {
        if (page->query.starred_only && !job->pictures[i].is_starred)
            continue;
        json_writer_open(page->body, NULL, '{');
        native_write_listed_picture(page->body, &job->pictures[i], job);
        json_writer_close(page->body, '}');
        page->rows++;
    }
}

static void append_job(struct page *page, const struct job_view *job)
{
    json_writer_open(page->body, NULL, '{');
    native_write_whole_job(page->body, job);
    json_writer_close(page->body, '}');
    page->rows++;
}

static void visit(void *context, const struct job_view *job)
{
    struct page *page = context;

    page->read++;
    page->is_cut = page->is_full;
    if (page->is_full)
        return;
    page->query.before = job->sequence;
    if (page->of_pictures)
        append_pictures(page, job);
    else if (has_state(job, page->state))
        append_job(page, job);
    page->is_full = page->rows >= page->room;
}

static bool read_limit(struct http_exchange *exchange, size_t *out)
{
    const char *text = http_query(exchange, "limit");
    uint64_t limit = NATIVE_PAGE_DEFAULT;

    if (text && (!native_digits_read(&limit, text) || limit < 1 || limit > NATIVE_PAGE_MAX)) {
        native_reply_bad(exchange, "limit", "must be from 1 to 100");
        return false;
    }
    *out = (size_t)limit;
    return true;
}

static bool read_state(struct http_exchange *exchange, struct page *page)
{
    static const char *const states[] = {"active", "queued", "running",
                                         "done",   "failed", "cancelled"};

    page->state = page->of_pictures ? NULL : http_query(exchange, "state");
    page->query.done_only = page->state && strcmp(page->state, "done") == 0;
    if (!page->state)
        return true;
    for (size_t i = 0; i < COUNT_OF(states); i++)
        if (strcmp(page->state, states[i]) == 0)
            return true;
    native_reply_bad(exchange, "state",
                     "must be active, queued, running, done, failed or cancelled");
    return false;
}

static bool read_query(struct http_exchange *exchange, struct page *page)
{
    const char *cursor = http_query(exchange, "cursor");
    const char *search = http_query(exchange, "search");

    if (!read_limit(exchange, &page->room) || !read_state(exchange, page) ||
        !native_flag(exchange, "starred", &page->query.starred_only) ||
        !native_owner(exchange, &page->query.owner))
        return false;
    if (cursor && !native_cursor_read(&page->query.before, cursor)) {
        native_reply_bad(exchange, "cursor", "must be a next_cursor of this list");
        return false;
    }
    if (search && strlen(search) > NATIVE_SEARCH_BYTES_MAX) {
        native_reply_bad(exchange, "search", "must have at most 200 bytes");
        return false;
    }
    page->query.search = search && *search ? search : NULL;
    return true;
}

/* *has_more: there may be older jobs than the last one read. */
static bool fill(struct page *page, struct hub *hub, bool *has_more, struct hub_error *problem)
{
    *has_more = true;
    for (int i = 0; i < READINGS_MAX && !page->is_full && *has_more; i++) {
        page->query.limit = JOBS_A_READING;
        if (!page->of_pictures && !page->state)
            page->query.limit = (int32_t)page->room + 1;
        page->read = 0;
        if (!hub_list(hub, &page->query, visit, page, problem))
            return false;
        *has_more = page->is_cut || page->read >= page->query.limit;
    }
    return true;
}

static void list(struct http_exchange *exchange, struct native *native, const char *key,
                 bool of_pictures)
{
    struct json_writer body = {0};
    struct page page = {.of_pictures = of_pictures, .body = &body};
    char cursor[NATIVE_CURSOR_BYTES];
    struct hub_error problem;
    bool has_more;

    if (!read_query(exchange, &page))
        return;
    json_writer_open(&body, NULL, '{');
    json_writer_open(&body, key, '[');
    if (!fill(&page, native->options.hub, &has_more, &problem)) {
        json_writer_finish(&body);
        native_reply_hub_error(exchange, &problem);
        return;
    }
    json_writer_close(&body, ']');
    native_cursor_write(cursor, page.query.before);
    json_writer_string(&body, "next_cursor", has_more && page.query.before > 0 ? cursor : NULL);
    json_writer_close(&body, '}');
    native_reply_text(exchange, 200, &body);
}

void native_list_jobs(struct http_exchange *exchange, void *context)
{
    list(exchange, context, "jobs", false);
}

void native_list_pictures(struct http_exchange *exchange, void *context)
{
    list(exchange, context, "images", true);
}
