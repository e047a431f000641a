/* What the files of pipeline/ share: the loaded model, and one request on its way through. */
#ifndef PIPELINE_PIPELINE_PRIVATE_H
#define PIPELINE_PIPELINE_PRIVATE_H

#include "backend/backend.h"
#include "base/arena.h"
#include "base/clock.h"
#include "base/random.h"
#include "model/mmdit.h"
#include "model/vae.h"
#include "pipeline/pipeline.h"
#include "sampler/guidance.h"
#include "sampler/sampler.h"
#include "text/clip_encoder.h"
#include "text/clip_tokenizer.h"
#include "text/t5_encoder.h"
#include "text/t5_tokenizer.h"
#include "weights/model_files.h"

#define CLIP_COUNT 2 /* CLIP-L, CLIP-G: in the order in which their channels are joined */
#define T5_TOKENS_MAX 512
#define T5_TOKENS_MIN 77
#define T5_TOKENS_DEFAULT 256 /* diffusers' */

/* The transformer's plan of the latest run, with what it recorded; for a run of the same shape in
 * the same memory. */
struct kept_plan {
    struct mmdit_plan *plan; /* NULL: none */
    const void *place;       /* where it begins */
    size_t bytes;
    int64_t batch, height, width, context_tokens, rows;
};

struct pipeline {
    struct model_files *files;
    struct backend *backend;
    struct stream *stream;
    struct clip_tokenizer *clip_tokenizer[CLIP_COUNT];
    struct t5_tokenizer *t5_tokenizer; /* NULL without T5 */
    struct clip_encoder *clip[CLIP_COUNT];
    struct t5_encoder *t5; /* NULL: zeros take its place */
    struct mmdit *mmdit;
    struct vae_decoder *vae_decoder;
    struct vae_encoder *vae_encoder;            /* NULL: no image to image */
    struct held_weights *held[COMPONENT_COUNT]; /* a device's copies; NULL: none, or a host */
    bool is_turbo, keep_weights;
    int images_at_once;
    int64_t vae_band_rows;
    struct kept_plan kept;
    void *block; /* of the latest run, kept with the weights on devices */
    size_t block_bytes;
    size_t base_bytes;  /* resident once everything was opened; of a device 0 */
    size_t device_free; /* then, and its scratch taken */
    char variant[32], weight_types[32];
};

#define CONDS_MAX 2 /* negative and positive */

/* The token ids of every prompt, on the host. */
struct tokens {
    int32_t clip[CLIP_COUNT][CONDS_MAX][CLIP_TOKENS];
    int64_t clip_eos[CLIP_COUNT][CONDS_MAX]; /* where the first end token stands */
    int32_t t5[CONDS_MAX][T5_TOKENS_MAX];    /* request.t5_tokens of them */
    int clip_cut, t5_cut;                    /* of the longest prompt */
};

/* One request on its way. */
struct run {
    struct pipeline *pipeline;
    const struct backend_ops *ops;
    struct stream *stream;
    const struct pipeline_request *request;
    const struct pipeline_callbacks *callbacks;
    int64_t conds;           /* 2: negative, positive; 1: guidance is off */
    int64_t height, width;   /* of the latent */
    int64_t channels;        /* of the latent */
    int64_t context_tokens;  /* CLIP and T5 together */
    int64_t images, at_once; /* in all; together through the network */
    bool has_init, has_mask;
    struct sigma_schedule *schedule;
    int first_step;
    struct guidance guidance;
    struct tokens tokens;

    struct tensor context; /* [conds, Tc, Dc] f: what the transformer reads */
    struct tensor pooled;  /* [conds, P] f */
    struct tensor latents; /* [images, 16, h, w] f32 */
    struct tensor noise;   /* the same; kept for inpainting only, rank 0 otherwise */
    struct tensor clean;   /* [images, 16, h, w] f32: the init image; rank 0 without */
    struct tensor mask;    /* [1, 1, h, w] f32, 1: repaint; rank 0 without */

    double started, phase_started;
    size_t device_least_free; /* of what was seen at each report */
};

/* request.c */

/* Checks every field against the model and fills the run's sizes. Names the field that is wrong. */
MUST_CHECK bool run_init(struct run *run, struct pipeline *pipeline,
                         const struct pipeline_request *request,
                         const struct pipeline_callbacks *callbacks, struct error *err);
void run_finish(struct run *run);
void run_begin_phase(struct run *run, enum pipeline_phase phase, int step_count);
void run_report(struct run *run, enum pipeline_phase phase, int step, int step_count);
/* Tokenises all prompts. */
MUST_CHECK bool run_tokenize(struct run *run, struct error *err);

/* Every stage: plan into an arena (which may only count), run, forget the plan. */

struct text_stage {
    struct clip_plan *clip[CLIP_COUNT];
    struct t5_plan *t5;
    struct tensor clip_ids[CLIP_COUNT]; /* [conds, 77] i32 */
    struct tensor t5_ids;               /* [conds, T] i32 */
};
MUST_CHECK bool text_stage_plan(struct text_stage *stage, struct run *run, struct arena *work,
                                struct error *err);
MUST_CHECK bool text_stage_run(struct text_stage *stage, struct run *run, struct error *err);
void text_stage_finish(struct text_stage *stage);

/* Latents, noise, clean and mask, from the seeds and the init image. */

struct image_stage {
    struct vae_encode_plan *encode; /* NULL without init image */
    struct tensor bytes;            /* [1, H, W, 3] u8 */
    struct tensor pixels;           /* [1, H, W, 3] f32; rank 0 without init_pixels */
    struct tensor rgb;              /* [1, H, W, 3] f */
    struct tensor moments;          /* [1, 32, h, w] f32 */
};
MUST_CHECK bool image_stage_plan(struct image_stage *stage, struct run *run, struct arena *work,
                                 struct error *err);
MUST_CHECK bool image_stage_run(struct image_stage *stage, struct run *run, struct error *err);
void image_stage_finish(struct image_stage *stage);

struct denoise_stage {
    struct run *run;
    struct mmdit_plan *mmdit;
    struct sampler_plan sampler;
    struct tensor context;   /* [conds n, Tc, Dc] f: each prompt once a picture */
    struct tensor timesteps; /* [R] f32 */
    struct tensor pooled;    /* [R, P] f; row step * conds + cond */
    struct tensor input;     /* [conds n, 16, h, w] f32 */
    struct tensor output;    /* the same: velocities */
    struct tensor skipped;   /* [n, 16, h, w] f32 */
    int64_t first_image;     /* of the group that is being drawn */
    int64_t group_size;      /* its pictures, at most run->at_once */
    int done_steps;          /* of all groups */
};
MUST_CHECK bool denoise_stage_plan(struct denoise_stage *stage, struct run *run, struct arena *work,
                                   struct error *err);
MUST_CHECK bool denoise_stage_run(struct denoise_stage *stage, struct error *err);
void denoise_stage_finish(struct denoise_stage *stage);

struct decode_stage {
    struct vae_decode_plan *decode;
    struct tensor rgb;   /* [1, H, W, 3] f */
    struct tensor bytes; /* [1, H, W, 3] u8 */
};
MUST_CHECK bool decode_stage_plan(struct decode_stage *stage, struct run *run, struct arena *work,
                                  struct error *err);
MUST_CHECK bool decode_stage_run(struct decode_stage *stage, struct run *run, struct image *images,
                                 struct error *err);
void decode_stage_finish(struct decode_stage *stage);

#endif
