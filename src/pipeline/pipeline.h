/* Pipeline: a request in, pictures out. The narrow waist: servers and command lines include nothing
 * below it except base and image.
 *
 * Text encoders -> noise -> transformer steps -> VAE, after Esser et al. 2024 (arXiv:2403.03206) as
 * diffusers' StableDiffusion3Pipeline runs it. A pipeline serves one request at a time.
 */
#ifndef PIPELINE_PIPELINE_H
#define PIPELINE_PIPELINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "image/image.h"

struct pipeline;

/* What of a model is on the device at once. On hosts, weights lie in the mapped files, and the
 * phases only decide whose pages are given back. */
enum memory_mode {
    MEMORY_TURNS,    /* text encoders, transformer and VAE take turns */
    MEMORY_ALL,      /* all weights stay: what a server wants */
    MEMORY_STREAMED, /* turns, and the blocks of transformer and T5 visit the device one by one from
                      * the host's pinned memory. On hosts as MEMORY_TURNS. */
};

/* Where the model lies. NULL where not given; `model` is required. See weights/model_files.h. */
struct pipeline_options {
    const char *model;
    const char *model_name; /* what to call it; NULL: the last part of its path */
    const char *vae, *clip_l, *clip_g, *t5, *tokenizers;
    const char *device;    /* "auto" (default), "cpu", "cuda", "cuda:N", "ref" */
    const char *precision; /* of a GPU: "auto" (default), "fp8", "bf16", "fp16", "f32" */
    const char *cpu_level; /* "auto" (default), "avx2", "avx512", "amx", ... */
    int threads;           /* 0: one for each CPU */
    bool turbo;            /* treat the model as distilled even if its name does not say so */
    bool without_t5;       /* leave the T5 encoder out: zeros take its place */
    bool to_8_bits;        /* a device makes FP8 of the weights of a model that has none yet */
    enum memory_mode memory;
    int images_at_once; /* pictures of a request that go through the network together; 0: 1 */
    int prompts_kept;   /* encoded prompts that are kept for requests that use them again */
    int vae_band_rows;  /* rows of the picture that the VAE norms at a time; -1: all; 0: 32 on
                         * hosts, all on devices */
};

/* Opens and checks the model's files and loads what is small. Nothing big is read yet. Free with
 * pipeline_destroy. */
MUST_CHECK bool pipeline_create(struct pipeline **out, const struct pipeline_options *options,
                                struct error *err);
void pipeline_destroy(struct pipeline *pipeline); /* NULL is fine */

/* What the model is. Texts live as long as the pipeline. */
struct pipeline_info {
    const char *model_name; /* "sd3.5_medium" */
    const char *variant;    /* "SD3.5 Medium", "SD3.5 Large Turbo", ..., "MMDiT-X" */
    const char *notice; /* why "auto" took the CPU, what an option cannot do; "": nothing to say */
    const char *device; /* "cpu avx512, 16 threads" */
    const char *weight_types;           /* of the transformer: "f16", "f8_e4m3, bf16", ... */
    int side_max;                       /* largest width or height in pixels */
    bool is_turbo, has_t5, has_encoder; /* has_encoder: image to image works */
    int layer_count;                    /* joint blocks: the limit of skip_layers */
    int self_attention_count;           /* of them, those with a second, image-only attention */
    int width;                          /* of a token in the transformer */
    int clip_tokens;                    /* before the request's t5_tokens in the text */
};
void pipeline_info(const struct pipeline *pipeline, struct pipeline_info *info);

enum noise_source {
    NOISE_TORCH_CPU,  /* torch.Generator("cpu"): the default everywhere */
    NOISE_TORCH_CUDA, /* torch.Generator("cuda") of an H100 */
};

#define SKIP_LAYERS_MAX 64

struct pipeline_request {
    const char *prompt;              /* for CLIP-L, and the others by default; UTF-8 */
    const char *prompt_2, *prompt_3; /* for CLIP-G and T5; NULL: as `prompt` */
    const char *negative_prompt;     /* NULL: "" */
    const char *negative_prompt_2, *negative_prompt_3;

    int width, height;     /* multiples of 16 */
    int steps;             /* 1 to 1000 */
    double guidance_scale; /* active above 1 */
    uint64_t seed;         /* picture i has seed + i */
    int image_count;       /* 1 to PIPELINE_IMAGES_MAX */
    double flow_shift;     /* 3 for every released checkpoint */
    int t5_tokens;         /* 77 to 512 */
    enum noise_source noise_source;

    /* Skip-layer guidance (model.md, section 7.7), with diffusers' meaning. */
    int skip_layers[SKIP_LAYERS_MAX];
    int skip_layer_count; /* 0: off */
    double skip_layer_scale;
    double skip_layer_start, skip_layer_stop; /* shares of the steps */

    /* Image to image and inpainting; both borrowed, resized to width x height if they differ. */
    const struct image *init_image;
    const struct image *mask; /* white: repaint; needs init_image */
    double strength;          /* 0 to 1, 1: the picture is ignored */
    /* [height, width, 3] f32 in [-1, 1]: instead of init_image, for sources with more than 8 bits.
     * Borrowed. */
    const float *init_pixels;
    /* For comparing with diffusers: draws the init image's latent instead of taking its mean, and
     * decodes inpainted pictures without undoing the VAE's shift, which its pipeline forgets. */
    bool as_diffusers;

    /* [image_count, 16, height / 8, width / 8] f32: unit noise to use instead of the seed's; NULL:
     * from the seed. Borrowed. */
    const float *initial_noise;
};

#define PIPELINE_BAND_ROWS 32 /* of the VAE where memory is short */
#define PIPELINE_SIDE_STEP 16 /* pixels: VAE factor times patch; sides are multiples of it */
#define PIPELINE_IMAGES_MAX 64
#define PIPELINE_PROMPT_BYTES_MAX 65536
#define PIPELINE_STEPS_MAX 1000

/* Fills *request with what this model is best drawn with (model.md, section 7.9). */
void pipeline_request_defaults(const struct pipeline *pipeline, struct pipeline_request *request);

enum pipeline_phase {
    PHASE_PLAN,
    PHASE_ENCODE,
    PHASE_IMAGE,
    PHASE_DENOISE,
    PHASE_DECODE,
    PHASE_DONE
};
const char *pipeline_phase_name(enum pipeline_phase phase); /* "plan", "encode", ... */

struct pipeline_progress {
    enum pipeline_phase phase;
    int step, step_count; /* of the phase; step counts finished ones */
    double phase_seconds; /* since the phase began */
    double total_seconds; /* since the run began */
};

/* The memory of a run, known before it starts. Bytes, of a device where there is one. */
struct pipeline_memory {
    size_t weights_text, weights_transformer, weights_vae; /* as stored, or as a device has them */
    size_t work_text, work_transformer, work_vae;          /* activations and scratch */
    size_t modulation; /* of work_transformer: adaLN vectors of all steps */
    size_t
        base; /* the program itself, vocabularies, what was resident before; scratch of a device */
    size_t pinned; /* of the host, where weights stream to a device */
    /* Of a host: what cannot be dropped and read again, as the pages of weights can, and how much
     * there is at most, with swap. Nothing is drawn that surely has no room. Of a device 0. */
    size_t firm, firm_limit;
    size_t peak; /* the most that is resident at once */
    size_t
        device_peak; /* of a device, beyond what it took to start: what was measured; 0: unknown */
};

struct pipeline_callbacks {
    void (*planned)(void *context, const struct pipeline_memory *memory);      /* may be NULL */
    void (*progress)(void *context, const struct pipeline_progress *progress); /* may be NULL */
    void *context;
    const atomic_bool *cancel; /* set from anywhere; NULL: cannot be cancelled */
};

struct pipeline_result {
    int image_count;
    struct image *images; /* [image_count] */
    float *latents;       /* [image_count, 16, height / 8, width / 8] f32, before the VAE */
    uint64_t *seeds;      /* [image_count] */
    struct pipeline_memory memory;
    double encode_seconds, denoise_seconds, decode_seconds, total_seconds;
    int clip_tokens_cut, t5_tokens_cut; /* of the longest prompt; 0: everything was read */
    bool was_short_of_memory; /* of a device, and took one memory mode less: see pipeline_run */
    bool was_repeated;        /* FP8 gave no number, and the picture was drawn again in 16 bits */
};

/* A device that has not enough memory is tried again one memory mode down, with the VAE in bands,
 * and stays there. Fails with ERROR_BAD_REQUEST (naming the field),
 * ERROR_NO_MEMORY, ERROR_BAD_FILE, ERROR_BACKEND, ERROR_NOT_FINITE or ERROR_CANCELLED. Free with
 * pipeline_result_finish. */
MUST_CHECK bool pipeline_run(struct pipeline *pipeline, const struct pipeline_request *request,
                             const struct pipeline_callbacks *callbacks,
                             struct pipeline_result *result, struct error *err);
void pipeline_result_finish(struct pipeline_result *result);

/* How full, busy and hot the device is, or the host where it draws. */
struct pipeline_device_state {
    size_t free_bytes, total_bytes;
    size_t used_bytes; /* by this process; of a device: weights, working memory and scratch */
    int utilisation_percent, temperature_celsius; /* -1: unknown, as of hosts */
    double power_watts;                           /* -1: unknown */
};
void pipeline_device_state(const struct pipeline *pipeline, struct pipeline_device_state *state);

/* Only plans: what the request would take. */
MUST_CHECK bool pipeline_estimate(struct pipeline *pipeline, const struct pipeline_request *request,
                                  struct pipeline_memory *memory, struct error *err);

#endif
