/* What the files of pipeline/ share: the loaded model, its one batch, and jobs on their way. */
#ifndef PIPELINE_PIPELINE_PRIVATE_H
#define PIPELINE_PIPELINE_PRIVATE_H

#include <jansson.h>

#include "backend/backend.h"
#include "base/arena.h"
#include "base/clock.h"
#include "base/machine_limits.h"
#include "base/random.h"
#include "model/mmdit.h"
#include "model/vae.h"
#include "pipeline/pipeline.h"
#include "pipeline/pipeline_batch.h"
#include "sampler/guidance.h"
#include "sampler/sampler.h"
#include "text/clip_encoder.h"
#include "text/clip_tokenizer.h"
#include "text/t5_encoder.h"
#include "text/t5_tokenizer.h"
#include "weights/model_files.h"

/* In the order in which their channels are joined. */
enum clip_index { CLIP_L, CLIP_G, CLIP_COUNT };
#define T5_TOKENS_MAX 512
#define T5_TOKENS_MIN 77
#define T5_TOKENS_DEFAULT 256 /* diffusers' */
#define CONDS_MAX 2           /* negative and positive */

/* Steps whose modulation is made in one product. Always as many, so that the product, and with it a
 * picture's last bits, does not depend on how many steps there are or are left. */
#define WINDOW_STEPS 32

/* Which weights are on the device, or resident on a host, where phases take turns. */
enum weights_phase { WEIGHTS_NONE, WEIGHTS_TEXT, WEIGHTS_IMAGE, WEIGHTS_DENOISE, WEIGHTS_DECODE };

struct prompt_store;

/* --- preview.c: what a cell of the latent looks like --- */

#define LATENT_CHANNELS 16

/* rgb, from -1 to 1, = bias + sum over channels of latent * factor. */
struct latent_colours {
    float factors[LATENT_CHANNELS][3], bias[3];
};
/* Of a VAE's config: "latent_rgb_factors" [16][3] and "latent_rgb_bias" [3]; SD 3's without. */
void latent_colours_read(struct latent_colours *out, const json_t *config);

/* What a component takes. */
struct weight_bytes {
    size_t held;     /* on the device, or resident: while it is used */
    size_t streamed; /* on the device: from its first use on */
    size_t pinned;   /* on the host, as long */
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
    enum weights_phase phase;                   /* the latest, where phases take turns */
    struct streamed_weights *streamed[COMPONENT_COUNT]; /* NULL: does not stream */
    struct weight_bytes on_device[COMPONENT_COUNT];     /* what of it lies there now */
    struct latent_colours colours;
    bool is_turbo;
    enum memory_mode memory;
    int images_at_once;
    int64_t vae_band_rows;
    struct prompt_store *prompts;
    struct pipeline_batch *batch; /* NULL: none */
    struct machine_limits machine;
    size_t base_bytes;        /* resident once everything was opened; of a device 0 */
    size_t base_firm_bytes;   /* of it, what is no page of a file */
    size_t device_free;       /* then, and its scratch taken */
    size_t device_least_free; /* of what was seen since; 0: nothing */
    char variant[32], weight_types[32], notice[640];
};

static inline bool pipeline_keeps_weights(const struct pipeline *pipeline)
{
    return pipeline->memory == MEMORY_ALL;
}

/* --- request.c: what a request asks for --- */

/* Checks every field against the model. Names the one that is wrong. */
MUST_CHECK bool request_check(const struct pipeline_request *request,
                              const struct pipeline *pipeline, struct error *err);
struct guidance request_guidance(const struct pipeline_request *request);
bool request_has_init(const struct pipeline_request *request);

/* --- weights_turns.c --- */

/* Brings the phase's weights to the device. Where phases take turns, those of others leave it; what
 * streams stays. */
MUST_CHECK bool weights_enter(struct pipeline *pipeline, enum weights_phase phase,
                              struct error *err);
/* Where phases take turns, all leave. */
void weights_leave(struct pipeline *pipeline);
/* All leave, whatever the mode. */
void weights_drop(struct pipeline *pipeline);
/* What a component takes. with_init: the VAE's encoder too. */
struct weight_bytes weights_component_bytes(const struct pipeline *pipeline,
                                            enum component component, bool with_init);
/* What lies on the device now. */
size_t weights_device_bytes(const struct pipeline *pipeline);

/* --- run_progress.c --- */

struct progress {
    struct pipeline *pipeline;
    const struct pipeline_callbacks *callbacks; /* NULL: nobody listens */
    double started, phase_started;
};
void progress_begin_phase(struct progress *progress, enum pipeline_phase phase, int step_count);
void progress_report(struct progress *progress, enum pipeline_phase phase, int step,
                     int step_count);

/* --- prompt.c: one prompt, from text to what the transformer reads --- */

/* Token ids, on the host. Compared as bytes: zeroed first. */
struct prompt_tokens {
    int32_t clip[CLIP_COUNT][CLIP_TOKENS];
    int32_t t5[T5_TOKENS_MAX]; /* the first t5_count of them */
    int32_t t5_count;
    int32_t cut_clip, cut_t5; /* tokens that were too many */
};
/* `texts` for CLIP-L, CLIP-G and T5. */
MUST_CHECK bool prompt_tokenize(struct prompt_tokens *out, const struct pipeline *pipeline,
                                const char *const texts[3], int t5_tokens, struct error *err);

/* A prompt's embedding on the host, in the activation type; never changed. */
struct embedding {
    struct tensor context; /* [1, Tc, Dc] f */
    struct tensor pooled;  /* [1, P] f */
    int users;
    unsigned char memory[];
};
void embedding_release(struct embedding *embedding); /* NULL is fine */

/* Embeddings of the latest prompts. `capacity` 0 keeps none. */
MUST_CHECK bool prompt_store_create(struct prompt_store **out, int capacity, struct error *err);
void prompt_store_destroy(struct prompt_store *store); /* NULL is fine */
/* NULL: not there. Give back with embedding_release. */
struct embedding *prompt_store_find(struct prompt_store *store, const struct prompt_tokens *tokens);
/* Keeps a share of the embedding; the oldest makes room. */
void prompt_store_add(struct prompt_store *store, const struct prompt_tokens *tokens,
                      struct embedding *embedding);

/* --- Stages: planned once a batch into memory that they share, run one after the other --- */

struct batch_shape {
    int64_t places, conds;           /* conds: 2: negative, positive; 1: guidance is off */
    int64_t channels, height, width; /* of the latent */
    int64_t t5_tokens;
    bool with_init; /* init images are possible */
};

struct text_stage {
    struct clip_plan *clip[CLIP_COUNT];
    struct t5_plan *t5;
    struct tensor clip_ids[CLIP_COUNT]; /* [1, 77] i32 */
    struct tensor t5_ids;               /* [1, T] i32 */
    struct tensor context;              /* [1, Tc, Dc] f: what the transformer reads */
    struct tensor pooled;               /* [1, P] f */
};
MUST_CHECK bool text_stage_plan(struct text_stage *stage, const struct pipeline *pipeline,
                                const struct batch_shape *shape, struct arena *work,
                                struct error *err);
/* Encodes one prompt. */
MUST_CHECK bool text_stage_run(struct text_stage *stage, struct pipeline *pipeline,
                               const struct prompt_tokens *tokens, struct embedding **out,
                               struct error *err);
void text_stage_finish(struct text_stage *stage);

struct image_stage {
    struct vae_encode_plan *encode; /* NULL without init images */
    struct tensor bytes;            /* [1, H, W, 3] u8 */
    struct tensor pixels;           /* [1, H, W, 3] f32 */
    struct tensor rgb;              /* [1, H, W, 3] f */
    struct tensor moments;          /* [1, 32, h, w] f32 */
};
MUST_CHECK bool image_stage_plan(struct image_stage *stage, const struct pipeline *pipeline,
                                 const struct batch_shape *shape, struct arena *work,
                                 struct error *err);
/* moments [32, h, w] of the request's init image. */
MUST_CHECK bool image_stage_run(struct image_stage *stage, struct pipeline *pipeline,
                                const struct pipeline_request *request, float *moments,
                                struct error *err);
void image_stage_finish(struct image_stage *stage);

/* The place of one picture. */
struct sample {
    const struct pipeline_job *job; /* NULL: free */
    int image;                      /* of the job's */
    int step;                       /* the next one */
    bool is_broken;                 /* its numbers are not finite */
    int64_t position;               /* in the network's batch, counted in samples */
    int64_t velocity;               /* of the last step, in the sampler's batch; -1: no step yet */
};

struct denoise_stage {
    struct mmdit_plan *mmdit;
    struct sampler_plan sampler;
    struct tensor context;   /* [conds, Tc, Dc] f: of a picture that joins */
    struct tensor timesteps; /* [W conds] f32: of a window of steps */
    struct tensor pooled;    /* [W conds, P] f; row step * conds + cond */
    struct tensor input;     /* [places conds, 16, h, w] f32 */
    struct tensor output;    /* the same: velocities */
    struct tensor skipped;   /* [1, 16, h, w] f32 */
};
MUST_CHECK bool denoise_stage_plan(struct denoise_stage *stage, const struct pipeline *pipeline,
                                   const struct batch_shape *shape, struct arena *kept,
                                   struct arena *work, struct error *err);
void denoise_stage_finish(struct denoise_stage *stage);

struct decode_stage {
    struct vae_decode_plan *decode;
    struct tensor latent; /* [1, 16, h, w] f32 */
    struct tensor rgb;    /* [1, H, W, 3] f */
    struct tensor bytes;  /* [1, H, W, 3] u8 */
};
MUST_CHECK bool decode_stage_plan(struct decode_stage *stage, const struct pipeline *pipeline,
                                  const struct batch_shape *shape, struct arena *work,
                                  struct error *err);
MUST_CHECK bool decode_stage_run(struct decode_stage *stage, struct pipeline *pipeline,
                                 const float *latent, struct image *image, struct error *err);
void decode_stage_finish(struct decode_stage *stage);

/* --- job.c --- */

struct pipeline_job {
    struct pipeline_request request; /* without texts and pictures */
    const float *initial_noise;      /* borrowed; NULL: from the seed */
    struct guidance guidance;
    struct sigma_schedule *schedule;
    int first_step;
    int64_t conds;
    struct embedding *embedding[CONDS_MAX]; /* [conds] */
    float *moments;                         /* [32, h, w]; NULL without init image */
    float *mask;                            /* [h, w], 1: repaint; NULL without */
    int clip_cut, t5_cut;                   /* of the longest prompt */
};

/* --- device_state.c --- */

/* Bytes of this process that are resident right now; *firm: of them, what is no page of a file. */
size_t host_resident_bytes(size_t *firm);

/* --- start.c --- */

/* Where picture `image` starts: the latent, and for image to image what its noise was and its clean
 * latent; all [16, h, w], on the host. `noise` and `clean` may be written without init image. */
MUST_CHECK bool start_picture(const struct pipeline_job *job, const struct pipeline *pipeline,
                              const struct batch_shape *shape, int image, float *noise,
                              float *clean, struct error *err);

/* --- batch.c --- */

struct pipeline_batch {
    struct pipeline *pipeline;
    const struct backend_ops *ops;
    struct stream *stream;
    struct batch_shape shape;
    void *block;
    size_t block_bytes;
    struct text_stage text;
    struct image_stage image;
    struct denoise_stage denoise;
    struct decode_stage decode;
    struct sample *samples; /* [places] */
    int64_t running;        /* samples in the network's batch */
    struct tensor latents;  /* [places, 16, h, w] f32 */
    struct tensor noise;    /* the same, of pictures with masks */
    struct tensor clean;    /* the same, of pictures with init images */
    struct tensor mask;     /* [places, 1, h, w] f32, 1: repaint */
};

/* Forgets what a device recorded with the weights where they are now. */
void batch_forget_recordings(struct pipeline_batch *batch);

/* denoise_stage.c: tells the network the text of a picture at its position. */
void denoise_set_text(struct pipeline_batch *batch, const struct sample *sample);
/* Enqueues a step of the samples in the order of their positions. */
MUST_CHECK bool denoise_step(struct pipeline_batch *batch, struct sample *const *samples, int count,
                             struct error *err);

#endif
