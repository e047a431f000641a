/* Batch: pictures of one shape that are drawn together, and join and leave between steps.
 *
 * Each picture has its own prompt, seed, guidance scale, number of steps and place in them; its
 * bytes do not depend on its company. A job is a request that was checked and whose text and init
 * image were encoded; its pictures join a batch one by one. pipeline_run is a batch with one job.
 * All of this belongs to the pipeline's thread.
 */
#ifndef PIPELINE_PIPELINE_BATCH_H
#define PIPELINE_PIPELINE_BATCH_H

#include "pipeline/pipeline.h"

struct pipeline_batch;
struct pipeline_job;

/* The pipeline's batch for pictures like the request's, `places` of them at most. A pipeline has
 * one batch: opening another shape closes the one before, which must be empty. Borrowed until
 * then. Fails with ERROR_BAD_REQUEST or ERROR_NO_MEMORY. */
MUST_CHECK bool pipeline_batch_open(struct pipeline_batch **out, struct pipeline *pipeline,
                                    const struct pipeline_request *like, int places,
                                    struct error *err);
/* Gives its memory back. Pictures in it are lost. */
void pipeline_batch_close(struct pipeline *pipeline);

/* All that is done for batches and jobs from here on stops with ERROR_CANCELLED soon after *cancel
 * was set, from any thread; NULL: nothing stops it, as after pipeline_run. Borrowed. */
void pipeline_watch(struct pipeline *pipeline, const atomic_bool *cancel);

/* What the batch takes, or one for these pictures would. */
MUST_CHECK bool pipeline_batch_estimate(struct pipeline *pipeline,
                                        const struct pipeline_request *like, int places,
                                        struct pipeline_memory *memory, struct error *err);

/* Whether pictures of the request can join: same size, text length, and both with guidance or both
 * without. */
bool pipeline_batch_fits(const struct pipeline_batch *batch,
                         const struct pipeline_request *request);

/* Checks the request and encodes its text and init image, which `callbacks` may watch. The job
 * copies what it needs later, but for request->initial_noise, which it borrows. */
MUST_CHECK bool pipeline_job_create(struct pipeline_job **out, struct pipeline_batch *batch,
                                    const struct pipeline_request *request,
                                    const struct pipeline_callbacks *callbacks, struct error *err);
void pipeline_job_destroy(struct pipeline_job *job);         /* NULL is fine */
int pipeline_job_step_count(const struct pipeline_job *job); /* of each picture */
/* Tokens of the longest prompt that were not read. */
void pipeline_job_tokens_cut(const struct pipeline_job *job, int *clip, int *t5);

int pipeline_batch_free_places(const struct pipeline_batch *batch);
/* Picture `image` of the job starts from its noise; *place names it from now on. Borrows the job
 * until the place is free again. There must be a free place. */
MUST_CHECK bool pipeline_batch_join(struct pipeline_batch *batch, const struct pipeline_job *job,
                                    int image, int *place, struct error *err);
/* Frees the place; what was drawn there is lost. */
void pipeline_batch_leave(struct pipeline_batch *batch, int place);

/* One step for every picture that is not done. When it fails, pictures are as before the step or
 * lost: all of them have to leave. A picture whose numbers are no longer finite is done. */
MUST_CHECK bool pipeline_batch_step(struct pipeline_batch *batch, struct error *err);

/* Steps that the picture has behind it. */
int pipeline_batch_steps_done(const struct pipeline_batch *batch, int place);
bool pipeline_batch_is_done(const struct pipeline_batch *batch, int place);

/* A small picture, [height / 8, width / 8], of what the picture will be, as far as its last step
 * tells. The caller finishes *out. Fails as pipeline_batch_latent does. */
MUST_CHECK bool pipeline_batch_preview(struct pipeline_batch *batch, int place, struct image *out,
                                       struct error *err);

/* Copies the picture's latent as it is now, [16, height / 8, width / 8] f32. Fails with
 * ERROR_NOT_FINITE when it holds what is no number. */
MUST_CHECK bool pipeline_batch_latent(struct pipeline_batch *batch, int place, float *latent,
                                      struct error *err);

/* The picture of a latent of the batch's size. Free with image_finish. */
MUST_CHECK bool pipeline_batch_decode(struct pipeline_batch *batch, const struct pipeline_job *job,
                                      const float *latent, struct image *image, struct error *err);

#endif
