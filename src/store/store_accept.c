/* Accepting jobs: the row that makes a 202 true, the pictures that came with it, and the keys by
 * which a request that comes again is known.
 */
#include <stdlib.h>
#include <string.h>

#include "store/store_private.h"

/* As long as a client may reasonably try again. */
#define KEY_LIFETIME_MS ((int64_t)24 * 60 * 60 * 1000)

enum input_kind { INPUT_INIT_IMAGE, INPUT_MASK };

static bool is_id(const char *id)
{
    return strlen(id) == STORE_ID_BYTES - 1 && strspn(id, "0123456789abcdef") == STORE_ID_BYTES - 1;
}

static bool check_job(const struct store_new_job *job, struct error *err)
{
    if (!is_id(job->id))
        return error_set(err, ERROR_BAD_REQUEST, "a job's id is %d hexadecimal digits",
                         STORE_ID_BYTES - 1);
    if (strlen(job->owner) >= STORE_OWNER_BYTES)
        return error_set(err, ERROR_BAD_REQUEST, "an owner's name has %d bytes at most",
                         STORE_OWNER_BYTES - 1);
    if (strlen(job->api) >= sizeof((struct store_job *)0)->api)
        return error_set(err, ERROR_BAD_REQUEST, "the name of an API is too long: '%s'", job->api);
    if (job->idempotency_key &&
        (!*job->idempotency_key || strlen(job->idempotency_key) >= STORE_KEY_BYTES))
        return error_set(err, ERROR_BAD_REQUEST, "an idempotency key has 1 to %d bytes",
                         STORE_KEY_BYTES - 1);
    return true;
}

/* *how stays STORE_ACCEPTED where the key is new. */
static bool find_request(struct store *store, const struct store_new_job *job,
                         enum store_accept *how, char id[STORE_ID_BYTES], struct error *err)
{
    struct rows rows;
    bool has_row = false, is_good;

    if (!database_run(store->database, "DELETE FROM requests WHERE created_ms <= ?1",
                      VALUES(value_integer(job->created_ms - KEY_LIFETIME_MS)), NULL, err) ||
        !rows_start(&rows, store->database,
                    "SELECT requests.request_hash, jobs.id FROM requests JOIN jobs ON "
                    "jobs.sequence = requests.job WHERE requests.owner = ?1 AND "
                    "requests.idempotency_key = ?2",
                    VALUES(value_text(job->owner), value_text(job->idempotency_key)), err))
        return false;
    is_good = rows_next(&rows, &has_row, err);
    if (is_good && has_row) {
        size_t size;
        const void *hash = rows_blob(&rows, 0, &size);

        *how =
            size == sizeof job->request_hash && hash && memcmp(hash, job->request_hash, size) == 0
                ? STORE_ALREADY
                : STORE_CONFLICT;
        is_good = rows_copy(&rows, 1, id, STORE_ID_BYTES, err);
    }
    rows_end(&rows);
    return is_good;
}

static bool insert_job(struct store *store, const struct store_new_job *job, int64_t *sequence,
                       struct error *err)
{
    char *folded;
    bool is_good, has_row;

    if (!store_fold(&folded, job->prompt ? job->prompt : "", err))
        return false;
    is_good = database_number(
        store->database,
        "INSERT INTO jobs (id, owner, api, state, parameters, prompt_folded, cost, created_ms, "
        "deadline_ms) VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8) RETURNING sequence",
        VALUES(value_text(job->id), value_text(job->owner), value_text(job->api),
               value_text(job->parameters), value_text(folded), value_real(job->cost),
               value_integer(job->created_ms), value_integer(job->deadline_ms)),
        sequence, &has_row, err);
    free(folded);
    return is_good;
}

static bool insert_input(struct store *store, int64_t job, enum input_kind kind,
                         const struct store_blob *blob, struct error *err)
{
    return !blob->bytes ||
           database_run(
               store->database, "INSERT INTO inputs (job, kind, bytes) VALUES (?1, ?2, ?3)",
               VALUES(value_integer(job), value_integer(kind), value_blob(blob->bytes, blob->size)),
               NULL, err);
}

static bool insert_all(struct store *store, const struct store_new_job *job, struct error *err)
{
    int64_t sequence;

    return insert_job(store, job, &sequence, err) &&
           insert_input(store, sequence, INPUT_INIT_IMAGE, &job->init_image, err) &&
           insert_input(store, sequence, INPUT_MASK, &job->mask, err) &&
           (!job->idempotency_key ||
            database_run(store->database,
                         "INSERT INTO requests (owner, idempotency_key, request_hash, job, "
                         "created_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                         VALUES(value_text(job->owner), value_text(job->idempotency_key),
                                value_blob(job->request_hash, sizeof job->request_hash),
                                value_integer(sequence), value_integer(job->created_ms)),
                         NULL, err));
}

bool store_accept(struct store *store, const struct store_new_job *job, enum store_accept *how,
                  char id[STORE_ID_BYTES], struct error *err)
{
    bool is_good = true;

    store_reach("accept.begun");
    if (!check_job(job, err) || !store_write_begin(store, err))
        return false;
    *how = STORE_ACCEPTED;
    memcpy(id, job->id, STORE_ID_BYTES);
    if (job->idempotency_key)
        is_good = find_request(store, job, how, id, err);
    if (is_good && *how == STORE_ACCEPTED)
        is_good = insert_all(store, job, err);
    if (!store_write_end(store, is_good, err))
        return error_in(err, "accepting a job");
    if (*how != STORE_ACCEPTED)
        return true;
    if (store->is_group)
        store->has_accepted = true;
    else
        store_reach("accept.committed");
    return true;
}

static bool copy_blob(const struct rows *rows, int column, void **out, size_t *size,
                      struct error *err)
{
    const void *bytes = rows_blob(rows, column, size);

    free(*out);
    *out = malloc(*size + 1); /* never of 0 bytes */
    if (!*out)
        return error_set(err, ERROR_NO_MEMORY, "a picture of %zu bytes", *size);
    if (*size > 0)
        memcpy(*out, bytes, *size);
    return true;
}

bool store_inputs(struct store *store, const char *id, void **init_image, size_t *init_size,
                  void **mask, size_t *mask_size, struct error *err)
{
    struct rows rows;
    bool has_row = false, is_good = true;

    *init_image = *mask = NULL;
    *init_size = *mask_size = 0;
    if (!rows_start(&rows, store->database,
                    "SELECT inputs.kind, inputs.bytes FROM inputs JOIN jobs ON jobs.sequence = "
                    "inputs.job WHERE jobs.id = ?1",
                    VALUES(value_text(id)), err))
        return false;
    while (is_good && (is_good = rows_next(&rows, &has_row, err)) && has_row)
        is_good = rows_integer(&rows, 0) == INPUT_INIT_IMAGE
                      ? copy_blob(&rows, 1, init_image, init_size, err)
                      : copy_blob(&rows, 1, mask, mask_size, err);
    rows_end(&rows);
    if (!is_good) {
        free(*init_image);
        free(*mask);
        *init_image = *mask = NULL;
        *init_size = *mask_size = 0;
    }
    return is_good;
}
