#include "host_recorder.h"

#include <stdlib.h>
#include <string.h>

#define TENSORS_MAX 5

/* An op and its arguments: the output first, the inputs in the op's order. */
struct recorded_op {
    void (*play)(struct stream *stream, struct recorded_op *op);
    struct tensor tensors[TENSORS_MAX];
    const struct linear *layer;
    struct attention_options attention;
    struct tensor bias; /* of the attention; rank 0: none */
    float epsilon;
    int number;
    int64_t height, width;
};

struct recording {
    struct recorded_op *ops;
    size_t count, capacity;
};

static struct backend_ops own; /* as they were */
static struct recording *now;  /* NULL: ops run at once */

/* --- Recording --- */

static void begin(struct stream *stream)
{
    (void)stream;
    now = calloc(1, sizeof *now);
    if (!now)
        abort();
}

static struct recording *end(struct stream *stream)
{
    struct recording *recording = now;

    (void)stream;
    now = NULL;
    return recording;
}

static void replay(struct stream *stream, const struct recording *recording)
{
    for (size_t i = 0; i < recording->count; i++)
        recording->ops[i].play(stream, &recording->ops[i]);
}

static void free_recording(struct recording *recording)
{
    if (recording)
        free(recording->ops);
    free(recording);
}

static void enqueue(struct stream *stream, struct recorded_op *op)
{
    if (!now) {
        op->play(stream, op);
        return;
    }
    if (now->count == now->capacity) {
        now->capacity = now->capacity ? 2 * now->capacity : 256;
        now->ops = reallocarray(now->ops, now->capacity, sizeof *now->ops);
        if (!now->ops)
            abort();
    }
    now->ops[now->count++] = *op;
}

/* --- Ops --- */

/* record_NAME takes the op's place; play_NAME does the op. */
#define OUT (&op->tensors[0])
#define IN(i) (&op->tensors[i])

static void play_copy(struct stream *stream, struct recorded_op *op)
{
    own.copy(stream, OUT, IN(1));
}

static void record_copy(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    enqueue(stream, &(struct recorded_op){.play = play_copy, .tensors = {*out, *x}});
}

static void play_embedding_rows(struct stream *stream, struct recorded_op *op)
{
    own.embedding_rows(stream, OUT, IN(1), IN(2));
}

static void record_embedding_rows(struct stream *stream, struct tensor *out,
                                  const struct tensor *table, const struct tensor *ids)
{
    enqueue(stream,
            &(struct recorded_op){.play = play_embedding_rows, .tensors = {*out, *table, *ids}});
}

static void play_patchify(struct stream *stream, struct recorded_op *op)
{
    own.patchify(stream, OUT, IN(1), op->number);
}

static void record_patchify(struct stream *stream, struct tensor *out, const struct tensor *x,
                            int patch)
{
    enqueue(stream,
            &(struct recorded_op){.play = play_patchify, .tensors = {*out, *x}, .number = patch});
}

static void play_unpatchify(struct stream *stream, struct recorded_op *op)
{
    own.unpatchify(stream, OUT, IN(1), op->number);
}

static void record_unpatchify(struct stream *stream, struct tensor *out, const struct tensor *x,
                              int patch)
{
    enqueue(stream,
            &(struct recorded_op){.play = play_unpatchify, .tensors = {*out, *x}, .number = patch});
}

static void play_linear(struct stream *stream, struct recorded_op *op)
{
    own.linear(stream, OUT, IN(1), op->layer);
}

static void record_linear(struct stream *stream, struct tensor *out, const struct tensor *x,
                          const struct linear *layer)
{
    enqueue(stream,
            &(struct recorded_op){.play = play_linear, .tensors = {*out, *x}, .layer = layer});
}

static void play_attention(struct stream *stream, struct recorded_op *op)
{
    struct attention_options options = op->attention;

    options.bias = tensor_exists(&op->bias) ? &op->bias : NULL;
    own.attention(stream, OUT, IN(1), IN(2), IN(3), &options);
}

static void record_attention(struct stream *stream, struct tensor *out, const struct tensor *q,
                             const struct tensor *k, const struct tensor *v,
                             const struct attention_options *options)
{
    struct recorded_op op = {
        .play = play_attention, .tensors = {*out, *q, *k, *v}, .attention = *options};

    if (options->bias)
        op.bias = *options->bias;
    enqueue(stream, &op);
}

static void play_layer_norm(struct stream *stream, struct recorded_op *op)
{
    own.layer_norm(stream, OUT, IN(1), IN(2), IN(3), op->epsilon);
}

static void record_layer_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                              const struct tensor *weight, const struct tensor *bias, float epsilon)
{
    enqueue(stream, &(struct recorded_op){.play = play_layer_norm,
                                          .tensors = {*out, *x, *weight, *bias},
                                          .epsilon = epsilon});
}

static void play_modulated_norm(struct stream *stream, struct recorded_op *op)
{
    own.modulated_norm(stream, OUT, IN(1), IN(2), IN(3), op->epsilon);
}

static void record_modulated_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                                  const struct tensor *shift, const struct tensor *scale,
                                  float epsilon)
{
    enqueue(stream, &(struct recorded_op){.play = play_modulated_norm,
                                          .tensors = {*out, *x, *shift, *scale},
                                          .epsilon = epsilon});
}

static void play_rms_norm(struct stream *stream, struct recorded_op *op)
{
    own.rms_norm(stream, OUT, IN(1), IN(2), op->epsilon);
}

static void record_rms_norm(struct stream *stream, struct tensor *out, const struct tensor *x,
                            const struct tensor *weight, float epsilon)
{
    enqueue(stream, &(struct recorded_op){
                        .play = play_rms_norm, .tensors = {*out, *x, *weight}, .epsilon = epsilon});
}

static void play_add(struct stream *stream, struct recorded_op *op)
{
    own.add(stream, OUT, IN(1), IN(2));
}

static void record_add(struct stream *stream, struct tensor *out, const struct tensor *a,
                       const struct tensor *b)
{
    enqueue(stream, &(struct recorded_op){.play = play_add, .tensors = {*out, *a, *b}});
}

static void play_gated_add(struct stream *stream, struct recorded_op *op)
{
    own.gated_add(stream, OUT, IN(1), IN(2), IN(3));
}

static void record_gated_add(struct stream *stream, struct tensor *out, const struct tensor *x,
                             const struct tensor *gate, const struct tensor *y)
{
    enqueue(stream,
            &(struct recorded_op){.play = play_gated_add, .tensors = {*out, *x, *gate, *y}});
}

static void play_gelu(struct stream *stream, struct recorded_op *op)
{
    own.gelu(stream, OUT, IN(1), (enum gelu_kind)op->number);
}

static void record_gelu(struct stream *stream, struct tensor *out, const struct tensor *x,
                        enum gelu_kind kind)
{
    enqueue(stream,
            &(struct recorded_op){.play = play_gelu, .tensors = {*out, *x}, .number = (int)kind});
}

static void play_gated_gelu(struct stream *stream, struct recorded_op *op)
{
    own.gated_gelu(stream, OUT, IN(1), IN(2));
}

static void record_gated_gelu(struct stream *stream, struct tensor *out, const struct tensor *gate,
                              const struct tensor *up)
{
    enqueue(stream, &(struct recorded_op){.play = play_gated_gelu, .tensors = {*out, *gate, *up}});
}

static void play_position_embedding(struct stream *stream, struct recorded_op *op)
{
    own.position_embedding(stream, OUT, IN(1), IN(2), op->height, op->width);
}

static void record_position_embedding(struct stream *stream, struct tensor *out,
                                      const struct tensor *x, const struct tensor *table,
                                      int64_t grid_height, int64_t grid_width)
{
    enqueue(stream, &(struct recorded_op){.play = play_position_embedding,
                                          .tensors = {*out, *x, *table},
                                          .height = grid_height,
                                          .width = grid_width});
}

static void play_relative_bias(struct stream *stream, struct recorded_op *op)
{
    own.relative_bias(stream, OUT, IN(1), op->number);
}

static void record_relative_bias(struct stream *stream, struct tensor *out,
                                 const struct tensor *table, int max_distance)
{
    enqueue(stream, &(struct recorded_op){.play = play_relative_bias,
                                          .tensors = {*out, *table},
                                          .number = max_distance});
}

/* --- The table --- */

void host_recorder_install(struct backend_ops *ops)
{
    own = *ops;
    ops->record_begin = begin;
    ops->record_end = end;
    ops->replay = replay;
    ops->recording_free = free_recording;

    ops->copy = record_copy;
    ops->embedding_rows = record_embedding_rows;
    ops->patchify = record_patchify;
    ops->unpatchify = record_unpatchify;
    ops->linear = record_linear;
    ops->attention = record_attention;
    ops->layer_norm = record_layer_norm;
    ops->modulated_norm = record_modulated_norm;
    ops->rms_norm = record_rms_norm;
    ops->add = record_add;
    ops->gated_add = record_gated_add;
    ops->gelu = record_gelu;
    ops->gated_gelu = record_gated_gelu;
    ops->position_embedding = record_position_embedding;
    ops->relative_bias = record_relative_bias;
}

void host_recorder_remove(struct backend_ops *ops)
{
    *ops = own;
}
