/* The SHA-256 of the model's weights, by which AUTOMATIC1111's clients know a model.
 *
 * A file of a Hugging Face cache is named after it. Else it is computed by a thread of its own,
 * once there is nothing to load, and kept in the store, so that a file is read once. Of a
 * transformer in several parts it is that of their bytes one after the other, in the order of their
 * names.
 */
#ifndef SERVER_MODEL_HASH_H
#define SERVER_MODEL_HASH_H

#include "base/attributes.h"
#include "base/error.h"
#include "server/hub.h"

struct model_hash;

/* `model`: a file or a folder; copied. Borrows the hub, which is told the hash. Never waits. */
MUST_CHECK bool model_hash_start(struct model_hash **out, struct hub *hub, const char *model,
                                 struct error *err);
/* Before hub_destroy. NULL is fine. */
void model_hash_stop(struct model_hash *hash);

/* For tests: the files that stand for the model; none where there are none. False: memory is short,
 * or they are too many. */
struct model_hash_files {
    char **paths;
    int count;
};
MUST_CHECK bool model_hash_files_find(struct model_hash_files *out, const char *model);
void model_hash_files_finish(struct model_hash_files *files);
/* Whether the file is a link into a Hugging Face cache, which says its hash. */
bool model_hash_of_link(char out[65], const char *file);

#endif
