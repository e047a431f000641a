/* What the tests of the store share: folders, jobs, pictures and the oracle. */
#ifndef TESTS_SERVER_STORE_FIXTURE_H
#define TESTS_SERVER_STORE_FIXTURE_H

#include "support/support.h"

#include <stdbool.h>

#include "store/store.h"

/* A new, empty folder in the test directory. */
const char *fixture_folder(void);
struct store *fixture_open(const char *folder);

/* Fails the test with the message when the call was not good; a child ends with 9. */
extern bool fixture_is_child;
void fixture_good(bool is_good, const struct error *err);

/* 32 digits that say `number`. */
void fixture_id(char id[STORE_ID_BYTES], int number);
/* A job of "ada" with a prompt; its id is borrowed. */
struct store_new_job fixture_job(const char *id, const char *prompt);
void fixture_accept(struct store *store, int number);
int64_t fixture_claim(struct store *store, int number); /* the fence */

/* The job, which must be there. Finish it with store_job_finish. */
struct store_job fixture_get(struct store *store, int number);
/* To DONE, or, not `wanted`, refused. */
void fixture_finish(struct store *store, int number, int64_t fence, bool wanted);

/* A PNG of 8 x 8 pixels whose colour depends on the number. */
struct store_new_picture fixture_picture(int number, int index);
void fixture_add(struct store *store, int number, int64_t fence, int index);

/* How many defects store_verify finds; each is printed when `is_loud`. */
int fixture_defects(const char *folder, bool is_loud);

/* How many files of pictures lie in the folder. */
int fixture_file_count(const char *folder);

#endif
