/* What the parts of the store know of each other. Private to this folder and its tests. */
#ifndef STORE_STORE_PRIVATE_H
#define STORE_STORE_PRIVATE_H

#include <dirent.h>

#include "store/store.h"
#include "store/store_database.h"

#define STORE_TEMPORARY_FOLDER "tmp"
#define STORE_PATH_BYTES sizeof(((struct store_picture *)0)->path)
#define STORE_HASH_TEXT_BYTES sizeof(((struct store_picture *)0)->sha256)

struct store {
    struct database *database;
    char *folder;     /* without symbolic links */
    int folder_fd;    /* pictures are below it */
    int state_fd;     /* STORE_STATE_FOLDER */
    int temporary_fd; /* STORE_TEMPORARY_FOLDER in it */
    int lock_fd;
    int database_fd;     /* only to know its file again; never read */
    bool is_broken;      /* a file's sync has failed */
    bool is_group;       /* between store_begin and its end */
    bool has_accepted;   /* in this group: for store_point */
    bool has_finished;   /* in this group: for store_point */
    bool has_tombstones; /* files are to be removed once nothing is uncommitted */
};

/* Calls store_point. */
void store_reach(const char *name);

/* Milliseconds of the wall clock. */
int64_t store_now_ms(void);

/* A call's own transaction, or its part of the group. False: the store refuses to write. */
MUST_CHECK bool store_write_begin(struct store *store, struct error *err);
/* Commits when `is_good`, else rolls back. True when it was good and is committed. */
MUST_CHECK bool store_write_end(struct store *store, bool is_good, struct error *err);

/* The database, the folders and the lock, those that are open. */
void store_close_folders(struct store *store);

/* --- store_schema.c --- */

/* Opens the database of the state folder, or makes one where there is none. */
MUST_CHECK bool store_schema_open(struct store *store, struct error *err);
/* Opens it for reading only. */
MUST_CHECK bool store_schema_read(struct database **out, const char *folder, struct error *err);

/* --- store_rows.c --- */

#define STORE_JOB_COLUMNS                                                                          \
    "sequence, id, owner, api, state, attempts, fence, parameters, cost, created_ms, started_ms, " \
    "finished_ms, deadline_ms, error_code, error_message, result"
#define STORE_JOB_COLUMN_COUNT 16
#define STORE_PICTURE_COLUMNS                                                                      \
    "id, position, width, height, seed, path, thumbnail, format, bytes, sha256, is_starred"
#define STORE_PICTURE_COLUMN_COUNT 11

/* The row of STORE_JOB_COLUMNS, with its pictures. Finish it with store_job_finish. */
MUST_CHECK bool store_row_job(struct store_job *out, struct store *store, const struct rows *rows,
                              struct error *err);
MUST_CHECK bool store_row_picture(struct store_picture *out, const struct rows *rows,
                                  struct error *err);

/* --- store_files.c: files below the folder; failures of a sync make the store broken --- */

/* Opens below a folder without ever following a link or leaving it: openat2 where the kernel has
 * it. -1 with errno. */
int store_open_beneath(int folder_fd, const char *path, int flags);
/* The same by one openat for each segment, for older kernels. */
int store_open_by_segments(int folder_fd, const char *path, int flags);

/* "2026-11-26", and "<64 hexadecimal digits>.<ending of ours>", and one below the other. */
bool store_is_day_name(const char *name);
bool store_is_file_name(const char *name);
bool store_is_file_path(const char *path);

void store_random_id(char id[STORE_ID_BYTES]);
void store_hash_text(char out[STORE_HASH_TEXT_BYTES], const void *bytes, size_t size);

/* The folder is opened, or made with mode 0700 and synced into its parent. -1 on failure. */
int store_make_folder(struct store *store, int parent_fd, const char *name, struct error *err);
/* Temporary file, write, sync, rename, sync of the folder. `path` as in store_is_file_path. */
MUST_CHECK bool store_write_file(struct store *store, const char *path,
                                 const struct store_blob *content, struct error *err);
/* A file that is gone already is fine. */
MUST_CHECK bool store_remove_file(struct store *store, const char *path, struct error *err);
/* Calls `visit` for each file below day folders whose name is ours; stops when it returns false. */
MUST_CHECK bool store_each_file(int folder_fd,
                                bool (*visit)(void *context, const char *path, struct error *err),
                                void *context, struct error *err);
/* The names in a folder, from the first. NULL with errno. */
DIR *store_list_folder(int fd);
/* Empties the temporary folder. */
MUST_CHECK bool store_clear_temporary(struct store *store, struct error *err);

/* --- store_pictures.c --- */

/* Removes the files that tombstones name and no picture has, then the tombstones. */
MUST_CHECK bool store_purge(struct store *store, struct error *err);
/* Removes the files that no picture has. */
MUST_CHECK bool store_sweep(struct store *store, struct error *err);

/* --- store_search.c --- */

/* Case and width folded away (NFKC_Casefold; text that is no UTF-8: ASCII's capitals only). The
 * caller frees *out. */
MUST_CHECK bool store_fold(char **out, const char *text, struct error *err);
/* True when each word of `folded_search` occurs in `folded_text`. */
bool store_has_words(const char *folded_text, const char *folded_search);

#endif
