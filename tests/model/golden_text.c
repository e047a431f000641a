/* Tokens, text encoders, prompt embeddings. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "golden_check.h"

#define IDS_MAX 65536

static const char *const clip_names[CLIP_COUNT] = {"clip_l", "clip_g"};

/* How many ids differ, lengths counted too. */
static double ids_differ(const int32_t *got, size_t got_count, const json_t *want)
{
    size_t want_count = json_array_size(want), differences = 0;

    for (size_t i = 0; i < got_count || i < want_count; i++)
        differences += i >= got_count || i >= want_count ||
                       got[i] != (int32_t)json_integer_value(json_array_get(want, i));
    return (double)differences;
}

/* One prompt of tokens.json in every form that it lists. */
static double prompt_differences(struct check *check, const json_t *row)
{
    static int32_t ids[IDS_MAX];
    const struct pipeline *p = check->pipeline;
    const json_t *json_text = json_object_get(row, "text");
    const char *text = json_string_value(json_text);
    size_t length = json_string_length(json_text), count, cut;
    double differences = 0.0;
    struct error err;

    if (!clip_tokenizer_encode(p->clip_tokenizer[0], text, length, ids, IDS_MAX, &count, &err))
        return 1e9;
    differences += ids_differ(ids, count, json_object_get(row, "clip"));
    for (int i = 0; i < CLIP_COUNT; i++) {
        char key[32];

        snprintf(key, sizeof key, "%s_77", clip_names[i]);
        if (!clip_tokenizer_encode_padded(p->clip_tokenizer[i], text, length, ids, &cut, &err))
            return 1e9;
        differences += ids_differ(ids, CLIP_TOKENS, json_object_get(row, key));
    }
    if (!t5_tokenizer_encode(p->t5_tokenizer, text, length, ids, IDS_MAX - 1, &count, &err))
        return 1e9;
    ids[count] = 1; /* tokens.json lists the end token */
    differences += ids_differ(ids, count + 1, json_object_get(row, "t5"));
    if (!t5_tokenizer_encode_padded(p->t5_tokenizer, text, length, ids, 256, &cut, &err))
        return 1e9;
    return differences + ids_differ(ids, 256, json_object_get(row, "t5_256"));
}

static void check_tokens_file(struct check *check, const char *path)
{
    json_t *rows = json_load_file(path, JSON_ALLOW_NUL, NULL);
    double differences = 0.0;

    if (!json_is_array(rows) || json_array_size(rows) == 0) {
        struct error err = {.message = "not a list of prompts"};

        check_broken(check, &err, "%s", path);
    } else {
        for (size_t i = 0; i < json_array_size(rows); i++)
            differences += prompt_differences(check, json_array_get(rows, i));
        check_report(check, differences, 0.0, "tokens of %zu prompts, ids that differ",
                     json_array_size(rows));
    }
    json_decref(rows);
}

static void check_ids(struct check *check, size_t prompt, const char *encoder, const int32_t *ids,
                      int64_t count)
{
    struct tensor want = check_expected(check, "text.%zu.%s.ids", prompt, encoder);
    int64_t differences = tensor_count(&want) == count ? 0 : count;

    if (!tensor_exists(&want))
        return;
    for (int64_t i = 0; i < count && differences < count; i++)
        differences += ids[i] != ((const int32_t *)want.data)[i];
    check_report(check, (double)differences, 0.0, "text.%zu.%s.ids", prompt, encoder);
}

void check_tokens(struct check *check, const char *tokens_path)
{
    const struct pipeline *p = check->pipeline;
    json_t *prompts = json_object_get(check->cases, "prompts");
    static int32_t ids[T5_TOKENS_MAX];
    struct error err;
    size_t cut;

    if (tokens_path)
        check_tokens_file(check, tokens_path);
    for (size_t i = 0; i < json_array_size(prompts); i++) {
        const char *text = json_string_value(json_array_get(prompts, i));
        struct tensor t5 = check_expected(check, "text.%zu.t5.ids", i);

        for (int k = 0; k < CLIP_COUNT; k++) {
            if (clip_tokenizer_encode_padded(p->clip_tokenizer[k], text, strlen(text), ids, &cut,
                                             &err))
                check_ids(check, i, clip_names[k], ids, CLIP_TOKENS);
            else
                check_broken(check, &err, "text.%zu.%s.ids", i, clip_names[k]);
        }
        if (t5_tokenizer_encode_padded(p->t5_tokenizer, text, strlen(text), ids, (size_t)t5.dim[0],
                                       &cut, &err))
            check_ids(check, i, "t5", ids, t5.dim[0]);
        else
            check_broken(check, &err, "text.%zu.t5.ids", i);
    }
}

/* The text stage alone: prompts for the three encoders, NULL as the first, t5_tokens tokens. */
static bool embed(struct check *check, const char *const texts[3], int t5_tokens,
                  struct embedding **out, struct error *err)
{
    struct pipeline *pipeline = check->pipeline;
    const struct batch_shape shape = {.t5_tokens = t5_tokens};
    const char *each[3] = {texts[0], texts[1] ? texts[1] : texts[0],
                           texts[2] ? texts[2] : texts[0]};
    struct text_stage stage = {0};
    struct prompt_tokens tokens;
    struct arena counting, arena;
    bool ok;

    if (!prompt_tokenize(&tokens, pipeline, each, t5_tokens, err))
        return false;
    arena_init(&counting, NULL, 0);
    ok = text_stage_plan(&stage, pipeline, &shape, &counting, err);
    text_stage_finish(&stage);
    arena = check_arena(check, counting.peak);
    ok = ok && text_stage_plan(&stage, pipeline, &shape, &arena, err) &&
         text_stage_run(&stage, pipeline, &tokens, out, err);
    text_stage_finish(&stage);
    pipeline->backend->ops.memory_free(arena.base, arena.size);
    return ok;
}

/* Embeddings lie on the host; never freed. */
static struct tensor uploaded(struct check *check, const struct tensor *host)
{
    struct tensor tensor = check_zeros(check, host->dtype, host->rank, host->dim);

    check->pipeline->backend->ops.upload(check->pipeline->stream, &tensor, host);
    return tensor;
}

/* The parts of one prompt's embedding, each against its encoder's own output. */
static void check_prompt(struct check *check, const struct embedding *got, size_t i)
{
    int64_t column = 0, pooled_column = 0;
    struct tensor context = uploaded(check, &got->context);
    struct tensor all_pooled = uploaded(check, &got->pooled);
    struct tensor clip_rows = tensor_slice(&context, 1, 0, CLIP_TOKENS);
    struct tensor t5_rows = tensor_slice(&context, 1, CLIP_TOKENS, context.dim[1] - CLIP_TOKENS);

    for (int k = 0; k < CLIP_COUNT; k++) {
        int64_t width = clip_encoder_width(check->pipeline->clip[k]);
        int64_t pooled_width = clip_encoder_pooled_width(check->pipeline->clip[k]);
        struct tensor hidden = tensor_slice(&clip_rows, 2, column, width);
        struct tensor pooled = tensor_slice(&all_pooled, 1, pooled_column, pooled_width);

        check_stage(check, check->limits.text, &hidden, "text.%zu.%s.penultimate", i,
                    clip_names[k]);
        check_stage(check, check->limits.text, &pooled, "text.%zu.%s.pooled", i, clip_names[k]);
        column += width;
        pooled_column += pooled_width;
    }
    check_stage(check, check->limits.text, &t5_rows, "text.%zu.t5.hidden", i);
    check_stage(check, check->limits.text, &context, "text.%zu.prompt_embeds", i);
    check_stage(check, check->limits.text, &all_pooled, "text.%zu.pooled_prompt_embeds", i);
}

void check_text(struct check *check)
{
    json_t *prompts = json_object_get(check->cases, "prompts");
    json_t *three = json_object_get(check->cases, "three_prompts");
    struct embedding *got;
    struct error err;

    for (size_t i = 0; i < json_array_size(prompts); i++) {
        const char *text = json_string_value(json_array_get(prompts, i));
        struct tensor ids = check_expected(check, "text.%zu.t5.ids", i);

        if (embed(check, (const char *const[]){text, NULL, NULL}, (int)ids.dim[0], &got, &err)) {
            check_prompt(check, got, i);
            embedding_release(got);
        } else {
            check_broken(check, &err, "text.%zu", i);
        }
    }
    if (json_array_size(three) == 3) {
        const char *texts[3];
        struct tensor want = check_expected(check, "text.three_prompts.prompt_embeds");

        for (size_t i = 0; i < 3; i++)
            texts[i] = json_string_value(json_array_get(three, i));
        if (embed(check, texts, (int)(want.dim[0] - CLIP_TOKENS), &got, &err)) {
            struct tensor context = uploaded(check, &got->context);

            check_stage(check, check->limits.text, &context, "text.three_prompts.prompt_embeds");
            embedding_release(got);
        } else {
            check_broken(check, &err, "text.three_prompts");
        }
    }
}
