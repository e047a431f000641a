/* Hugging Face's cache of what its tools have downloaded, which is read and never written:
 *
 *   models--ORG--NAME/refs/main                 the commit that was downloaded last
 *   models--ORG--NAME/snapshots/COMMIT/...      links into the next
 *   models--ORG--NAME/blobs/HASH                complete files; HASH.incomplete: others
 */
#ifndef LIBRARY_HUGGING_FACE_CACHE_H
#define LIBRARY_HUGGING_FACE_CACHE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"

/* Its folder: $HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub or
 * ~/.cache/huggingface/hub. *out is NULL when none is there. The caller frees it. */
MUST_CHECK bool hugging_face_cache_find(char **out, struct error *err);

struct hugging_face_repo {
    char *id;       /* "ORG/NAME" */
    char *snapshot; /* path */
    int unfinished; /* downloads that were begun and not ended */
};

/* Those whose id, or its part behind the slash, is `name`; NULL: all. A repository without a
 * snapshot is left out, and so is one with a name that no repository can have. Free with
 * hugging_face_repos_free. */
MUST_CHECK bool hugging_face_cache_list(struct hugging_face_repo **out, size_t *count,
                                        const char *cache, const char *name, struct error *err);
void hugging_face_repos_free(struct hugging_face_repo *repos, size_t count);

/* Letters, digits, '-', '_' and '.', none of them twice where that means something else. */
bool hugging_face_is_name(const char *name, size_t length);

#endif
