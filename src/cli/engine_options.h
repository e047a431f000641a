/* What commands that draw can be told about the model and the machine, the same for all of them. */
#ifndef CLI_ENGINE_OPTIONS_H
#define CLI_ENGINE_OPTIONS_H

#include <stdbool.h>

#include "base/thread_pool.h"
#include "cli/options.h"
#include "library/model_search.h"
#include "pipeline/pipeline.h"

/* NULL, 0 or false: not given. Texts are borrowed from the arguments and the environment. */
struct engine_settings {
    const char *model, *models_dir, *vae, *clip_l, *clip_g, *t5, *tokenizers;
    bool without_t5, turbo;
    const char *device, *precision, *cpu_level;
    int threads;
    bool fp8, medvram, lowvram;
};

/* Rows of the option table of a struct `type` with a member `engine`. Their sections are "Model"
 * and "Machine". */
#define ENGINE_FIELD(type, name) offsetof(type, engine) + offsetof(struct engine_settings, name)

#define ENGINE_MODEL_OPTIONS(type)                                                                 \
    {"model",                                                                                      \
     'm',                                                                                          \
     OPTION_TEXT,                                                                                  \
     ENGINE_FIELD(type, model),                                                                    \
     "PATH",                                                                                       \
     0,                                                                                            \
     0,                                                                                            \
     NULL,                                                                                         \
     "Folder in diffusers' layout, a .safetensors file, or a name: of one in --models-dir, of a "  \
     "repository in Hugging Face's cache (also its last part), or demo. Nothing is downloaded.",   \
     "Model"},                                                                                     \
        ENGINE_TEXT(                                                                               \
            type, "models-dir", models_dir, "DIR",                                                 \
            "Where a model that is given by name lies; without a name, the only one there.",       \
            NULL),                                                                                 \
        ENGINE_TEXT(type, "vae", vae, "PATH", "VAE to use instead of the model's.", NULL),         \
        ENGINE_TEXT(type, "clip-l", clip_l, "PATH",                                                \
                    "CLIP-L text encoder to use instead of the model's.", NULL),                   \
        ENGINE_TEXT(type, "clip-g", clip_g, "PATH",                                                \
                    "CLIP-G text encoder to use instead of the model's.", NULL),                   \
        ENGINE_TEXT(type, "t5", t5, "PATH", "T5 text encoder to use instead of the model's.",      \
                    NULL),                                                                         \
        ENGINE_TEXT(                                                                               \
            type, "tokenizers", tokenizers, "DIR",                                                 \
            "Folder with tokenizer, tokenizer_2 and tokenizer_3, for models in single files.",     \
            NULL),                                                                                 \
        ENGINE_FLAG(type, "without-t5", without_t5,                                                \
                    "Leave T5 out: much less memory, long prompts are followed less closely."),    \
        ENGINE_FLAG(type, "turbo", turbo,                                                          \
                    "The model is a distilled one even if its name does not say so.")

#define ENGINE_MACHINE_OPTIONS(type)                                                               \
    ENGINE_TEXT(type, "device", device, "NAME",                                                    \
                "auto (default), cpu, cuda, cuda:1 (the second GPU), ..., or ref: the slow "       \
                "definition of everything.",                                                       \
                "Machine"),                                                                        \
        ENGINE_TEXT(type, "precision", precision, "NAME",                                          \
                    "What a GPU multiplies in: auto (default; FP8 where weights and GPU have "     \
                    "it), fp8, bf16, fp16 or f32.",                                                \
                    NULL),                                                                         \
        ENGINE_FLAG(type, "fp8", fp8,                                                              \
                    "Half the memory. 'sd35 serve' converts a 16-bit model to FP8 once and keeps " \
                    "the copy; the other commands make FP8 of its weights while loading them on "  \
                    "a GPU. 'sd35 convert' does it for all."),                                     \
        ENGINE_FLAG(type, "medvram", medvram,                                                      \
                    "Less of a GPU's memory: text encoders, transformer and VAE take turns on "    \
                    "it."),                                                                        \
        ENGINE_FLAG(type, "lowvram", lowvram,                                                      \
                    "Least of it: the blocks of transformer and T5, too, come one by one from "    \
                    "the host's memory."),                                                         \
        ENGINE_TEXT(type, "cpu-level", cpu_level, "NAME",                                          \
                    "Instructions to use: auto (default), avx2, avx512, ...", NULL),               \
    {                                                                                              \
        "threads", 't', OPTION_INTEGER, ENGINE_FIELD(type, threads), "N", 0, THREAD_POOL_MAX,      \
            NULL, "Default: 0, one for each CPU.", NULL                                            \
    }

#define ENGINE_TEXT(type, name, field, value, help, heading)                                       \
    {                                                                                              \
        name, 0, OPTION_TEXT, ENGINE_FIELD(type, field), value, 0, 0, NULL, help, heading          \
    }
#define ENGINE_FLAG(type, name, field, help)                                                       \
    {                                                                                              \
        name, 0, OPTION_FLAG, ENGINE_FIELD(type, field), NULL, 0, 0, NULL, help, NULL              \
    }

#define ENGINE_CONFLICTS                                                                           \
    {"without-t5", "t5"},                                                                          \
    {                                                                                              \
        "medvram", "lowvram"                                                                       \
    }

/* `usual` is the memory mode where none is asked for. */
struct pipeline_options engine_pipeline_options(const struct engine_settings *settings,
                                                enum memory_mode usual);

/* The model that --model means (model_search.h). Free with found_model_finish. */
MUST_CHECK bool engine_find_model(struct found_model *out, const struct engine_settings *settings,
                                  struct error *err);

/* Fails when no model is named. */
MUST_CHECK bool engine_settings_check(const struct engine_settings *settings, struct error *err);

#endif
