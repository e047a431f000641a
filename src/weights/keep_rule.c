#include "weights/keep_rule.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

const char *keep_rule_component(enum component component)
{
    static const char *const names[COMPONENT_COUNT] = {
        [COMPONENT_TRANSFORMER] = "transformer",
        [COMPONENT_VAE] = "vae",
        [COMPONENT_CLIP_L] = "clip_l",
        [COMPONENT_CLIP_G] = "clip_g",
        [COMPONENT_T5] = "t5",
    };

    return names[component];
}

static bool begins_with(const char *text, const char *beginning)
{
    return strncmp(text, beginning, strlen(beginning)) == 0;
}

/* Measured on small models, one kind of layer at a time: modulation hurts most, as its errors are
 * the same for every token; then what writes into the residual stream. Of the context only what
 * later blocks read. */
static bool is_sensitive(const char *name)
{
    static const char *const sensitive[] = {
        ".image.modulation", ".context.modulation", ".image.proj",
        ".image.proj2",      ".context.proj",       ".image.mlp_out",
    };

    for (size_t i = 0; i < COUNT_OF(sensitive); i++)
        if (strcmp(name, sensitive[i]) == 0)
            return true;
    return false;
}

static const char *transformer_reason(const char *name, int block_count)
{
    static const char *const embedders[] = {"timestep_embed.", "pooled_embed.", "context_embed"};
    char *side;
    long block;

    for (size_t i = 0; i < COUNT_OF(embedders); i++)
        if (begins_with(name, embedders[i]))
            return "embedder";
    if (begins_with(name, "final."))
        return "final layer";
    if (!begins_with(name, "block."))
        return NULL;
    block = strtol(name + strlen("block."), &side, 10); /* "block.7.image.q" */
    if (!is_sensitive(side))
        return NULL;
    if (block == 0)
        return "among the most sensitive layers of the first block";
    return block == block_count - 1 ? "among the most sensitive layers of the last block" : NULL;
}

const char *keep_rule_reason(enum component component, const char *name, int block_count)
{
    switch (component) {
    case COMPONENT_TRANSFORMER:
        return transformer_reason(name, block_count);
    case COMPONENT_VAE:
        return "VAE";
    case COMPONENT_CLIP_L:
    case COMPONENT_CLIP_G:
        return strcmp(name, "text_projection") == 0 ? "makes the pooled text" : NULL;
    case COMPONENT_T5:
    case COMPONENT_COUNT:
        break;
    }
    return NULL;
}

static bool matches_one(const char *pattern, const char *layer)
{
    size_t length = strlen(pattern);

    if (strncmp(layer, pattern, length) == 0 && (layer[length] == '\0' || layer[length] == '.'))
        return true;
    return fnmatch(pattern, layer, 0) == 0;
}

bool keep_rule_matches(const char *patterns, const char *layer)
{
    char pattern[LAYER_NAME_BYTES];

    while (patterns && *patterns) {
        size_t length = strcspn(patterns, ",");

        if (length > 0 && length < sizeof pattern) {
            memcpy(pattern, patterns, length);
            pattern[length] = '\0';
            if (matches_one(pattern, layer))
                return true;
        }
        patterns += length + (patterns[length] == ',');
    }
    return false;
}
