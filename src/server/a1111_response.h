/* AUTOMATIC1111's answers: the body of txt2img and img2img, `info` included. Pure functions; NULL
 * when memory is short.
 */
#ifndef SERVER_A1111_RESPONSE_H
#define SERVER_A1111_RESPONSE_H

#include <jansson.h>

#include "job/job_spec.h"

/* All borrowed. */
struct a1111_answer {
    const struct job_spec *spec; /* its pictures may be gone */
    bool has_init_image;
    const struct worker_facts *facts;
    const uint64_t *seeds; /* of the pictures that there are */
    int picture_count, batch_size;
    const char *ignored; /* "enable_hr, tiling", or "" */
    int64_t created_ms;
    const char *version; /* "sd35 0.1.0" */
};

/* `info`: a JSON text with an object in it, every key of theirs filled. */
json_t *a1111_info(const struct a1111_answer *answer);
/* The whole; `images` is stolen, `parameters` is not. */
json_t *a1111_response(const struct a1111_answer *answer, json_t *images, json_t *parameters);

/* "sd3.5_medium.safetensors [0123456789]", or without a hash: how a model is named in lists and
 * options. */
json_t *a1111_model_title(const struct worker_facts *facts);
json_t *a1111_short_hash(const struct worker_facts *facts); /* ten digits, or "" */
/* "20261122120000", in UTC. */
void a1111_timestamp(char out[16], int64_t ms);

#endif
