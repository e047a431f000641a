/* Backend: the operations that carry the whole model, as a table of functions.
 *
 * Model code calls these and never asks which device it is on. This header is the specification;
 * ref/ executes it one element at a time in double precision, and every other backend is compared
 * with ref/ at awkward shapes (tests/kernels/).
 *
 * Ops return nothing: a stream keeps its first failure, skips what follows, and stream_finish
 * reports it. Ops allocate nothing that grows with their arguments.
 *
 * Tensors are strided views. The last axis is contiguous unless a comment says otherwise; `out`
 * never overlaps an input unless a comment allows it. The letters: B batch, T tokens, C width, H W
 * height and width of a picture or latent, N D heads and head width, M K N of a matrix product.
 * "f" stands for the backend's activation type (f32 on hosts); w for any float type of weights.
 * An `out` marked "rows" is f, or f8_e4m3 with row_scale where linear_input asks for it: each row
 * of the last axis divided by its largest magnitude / 448, and that factor (1 / 448 for a row of
 * zeros). Numbers below 1e-35 may count as that much, or as zeros.
 */
#ifndef BACKEND_BACKEND_H
#define BACKEND_BACKEND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "tensor/tensor.h"

struct stream; /* ordered device work; belongs to one thread at a time */

enum gelu_kind {
    GELU_TANH,  /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): MM-DiT, T5 */
    GELU_ERF,   /* 0.5 x (1 + erf(x / sqrt 2)): CLIP-G */
    GELU_QUICK, /* x sigmoid(1.702 x): CLIP-L */
};

struct attention_options {
    float scale;               /* of the products q . k */
    bool is_causal;            /* query i sees keys 0..i */
    const struct tensor *bias; /* f32 [N, Tq, Tk], added to the scaled products; NULL: none */
    /* No scaled product is larger in magnitude, where normed queries and keys let one know: a
     * softmax with a known bound needs no running maximum. 0: unknown. */
    float score_limit;
};

struct conv_options {
    int stride;   /* 1 or 2 */
    int upsample; /* 1, or 2: the input is seen with every pixel doubled in both directions */
    /* Rows and columns of zeros before the (upsampled) input. A negative number skips that many:
     * bands of a picture use it. What lies beyond the input on the other sides is zero as well. */
    int pad_top, pad_left;
};

/* Branches of a stream; see backend_ops.branch. */
#define STREAM_BRANCHES 2

/* What a device's monitor says; -1: unknown. */
struct device_health {
    int utilisation_percent, temperature_celsius;
    double power_watts;
};

struct recording; /* ops that were recorded, to be played again */

/* Weights that are used together: `count` linears side by side, as op_linears takes them, one
 * convolution, or one table that is looked up by row. */
struct weight_request {
    const struct linear *layers; /* of a table NULL */
    int count;
    bool is_conv;
    const struct tensor *table; /* NULL: none */
};
struct held_weights;     /* a device's copies of weights */
struct streamed_weights; /* copies in the host's pinned memory that visit the device */

#define STREAMED_NONE SIZE_MAX /* no group */

struct stream_options {
    int threads;               /* hosts: 0 takes one for each CPU */
    const atomic_bool *cancel; /* ops are skipped once it is set; NULL: never */
};

struct backend_ops {
    const char *name;            /* "ref", "cpu avx2", ... */
    enum dtype activation_dtype; /* what f stands for */

    /* --- Streams and memory --- */

    MUST_CHECK bool (*stream_create)(struct stream **out, const struct backend_ops *ops,
                                     const struct stream_options *options, struct error *err);
    void (*stream_destroy)(struct stream *stream); /* NULL is fine */
    /* Waits for all work. False with the first failure since the last call, ERROR_CANCELLED when
     * the flag was set; the stream is usable again afterwards. */
    bool (*stream_finish)(struct stream *stream, struct error *err);
    /* Replaces stream_options.cancel. */
    void (*stream_watch)(struct stream *stream, const atomic_bool *cancel);

    /* Device memory, zeroed or untouched pages; NULL when it is short. */
    void *(*memory_alloc)(size_t bytes);
    void (*memory_free)(void *memory, size_t bytes);
    /* out = x between host memory and device memory; same shape and type, both contiguous. */
    void (*upload)(struct stream *stream, struct tensor *out, const struct tensor *host);
    void (*download)(struct stream *stream, struct tensor *host, const struct tensor *x);
    /* Bytes that a stream's own scratch takes, for the memory report. */
    size_t (*scratch_bytes)(const struct stream *stream);

    /* --- For devices; NULL on hosts, where backend/composite.h does without --- */

    /* What is enqueued from here on belongs to this branch, 0 to STREAM_BRANCHES - 1. Work of
     * different branches may run at the same time, from the first change of branch until join. */
    void (*branch)(struct stream *stream, int branch);
    /* What follows waits for all branches and belongs to branch 0. */
    void (*join)(struct stream *stream);

    /* Between these, ops are recorded instead of run; backend/recordings.h says when. Shapes and
     * addresses are those of the recording. Everything must have run once before: nothing is tuned
     * or loaded while recording. NULL when that or anything else failed, and the stream goes on as
     * if nothing had been asked of it; NULL too when it skipped ops already.
     * A recording that begins on branch 0 joins the others first, and may use them; one that begins
     * on another branch stays there. Each is replayed on the branch where it began. */
    void (*record_begin)(struct stream *stream);
    struct recording *(*record_end)(struct stream *stream);
    void (*replay)(struct stream *stream, const struct recording *recording);
    void (*recording_free)(struct recording *recording); /* NULL is fine */

    /* Ops take weights from where the model's file has them, and a device copies those that it
     * meets. Holding does so for many beforehand, faster, in one block of memory. Fails with
     * ERROR_NO_MEMORY, holding none. */
    bool (*weights_hold)(struct stream *stream, struct held_weights **out,
                         const struct weight_request *requests, size_t count, struct error *err);
    void (*weights_drop)(struct stream *stream, struct held_weights *held); /* NULL is fine */
    /* Bytes of the device that holding them takes. */
    size_t (*weights_bytes)(const struct weight_request *requests, size_t count);
    /* For weights that the device has no room for: `group_count` groups, the g-th of them requests
     * [group_end[g - 1], group_end[g]), are made what the device takes once, kept in pinned memory
     * of the host, and visit the device, which has room for two of the largest. Borrows nothing
     * but what the layers point to. Fails with ERROR_NO_MEMORY, streaming none. */
    bool (*weights_stream)(struct stream *stream, struct streamed_weights **out,
                           const struct weight_request *requests, const size_t *group_end,
                           size_t group_count, struct error *err);
    /* Joins the branches. Ops that are enqueued from here on may use the weights of this group,
     * until another one is entered; those of other groups would be loaded as if nobody had streamed
     * them. `next` is the group that will be entered after it, which is copied meanwhile, or
     * STREAMED_NONE. Any group may be entered at any time; one that was not the last `next` is
     * waited for. A recording has to enter the first group whose weights it uses, may enter groups
     * of one streamed_weights only, and ends by leaving the group; its last `next` is on the device
     * when the next replay begins. */
    void (*weights_enter)(struct stream *stream, struct streamed_weights *streamed, size_t group,
                          size_t next);
    /* Waits. Before the stream is destroyed, and after recordings that entered groups are freed.
     * NULL is fine. */
    void (*weights_unstream)(struct stream *stream, struct streamed_weights *streamed);
    /* Bytes of the device and of the host that streaming them takes. */
    void (*weights_stream_bytes)(const struct weight_request *requests, const size_t *group_end,
                                 size_t group_count, size_t *device_bytes, size_t *host_bytes);
    /* Free and all memory of the device. */
    void (*memory_info)(size_t *free_bytes, size_t *total_bytes);
    /* How busy and hot it is. */
    void (*device_health)(struct device_health *health);
    /* Whether products of 8 bits are made in 16 bits from now on: what a picture that came out as
     * no number is tried again with. */
    void (*avoid_8_bits)(struct stream *stream, bool avoid);
    /* The stream fails with ERROR_NOT_FINITE when an element of x (f32, contiguous) is infinite or
     * no number. */
    void (*check_finite)(struct stream *stream, const struct tensor *x);

    /* The type in which linears side by side take their input best: f, or f8_e4m3 with row_scale.
     */
    enum dtype (*linear_input)(const struct linear *layers, int count);

    /* --- Moving --- */

    /* out = x, converted to out's type; any strides on both, also in the last axis; 0 repeats.
     * out rows, and then its last axis and x's are contiguous. x may lie in a model's file. */
    void (*copy)(struct stream *stream, struct tensor *out, const struct tensor *x);
    /* out[..] = value */
    void (*fill)(struct stream *stream, struct tensor *out, float value);
    /* out[t, :] = table[ids[t], :], NaN becoming 0
     *   out [T, C] f; table [V, C] w; ids [T] i32, each in [0, V) */
    void (*embedding_rows)(struct stream *stream, struct tensor *out, const struct tensor *table,
                           const struct tensor *ids);
    /* out[b, gy gw + gx, (c p + y) p + x] = in[b, c, gy p + y, gx p + x]
     *   in [B, C, H, W] f; out [B, (H/p)(W/p), C p p] f; p patch side */
    void (*patchify)(struct stream *stream, struct tensor *out, const struct tensor *x, int patch);
    /* out[b, c, gy p + y, gx p + x] = in[b, gy gw + gx, (y p + x) C + c]: not patchify's order
     * (model.md, section 2.6). */
    void (*unpatchify)(struct stream *stream, struct tensor *out, const struct tensor *x,
                       int patch);

    /* --- Products --- */

    /* out[.., n] = sum_k x[.., k] (weight[n, k] scale[n]) + bias[n]
     *   x [.., K] f, or what linear_input says; out [.., N] f, leading axes equal; weight [N, K] w,
     *   perhaps unaligned */
    void (*linear)(struct stream *stream, struct tensor *out, const struct tensor *x,
                   const struct linear *layer);
    /* linear for each of `count` layers of one x, their outputs side by side in out; NULL: see
     * op_linears. */
    void (*linears)(struct stream *stream, struct tensor *out, const struct tensor *x,
                    const struct linear *layers, int count);
    /* x[b, t, :] += gate[b, :] linear(input)[b, t, :], for an input of 8 bits; NULL: see
     * op_gated_linear. x [B, T, N] f, input [B, T, K] f8_e4m3 with row_scale, gate [B, N] f */
    void (*gated_linear)(struct stream *stream, struct tensor *x, const struct tensor *gate,
                         const struct tensor *input, const struct linear *layer);
    /* Queries, keys and values side by side, [.., 3 C]: three linears of x, then rms_norm of q and
     * k in heads as wide as the norms' weights. NULL: see op_normed_qkv. */
    void (*normed_qkv)(struct stream *stream, struct tensor *out, const struct tensor *x,
                       const struct linear layers[3], const struct tensor *q_norm,
                       const struct tensor *k_norm, float epsilon);
    /* out = gelu_tanh(linear(x)), out rows, whose factors may be larger than their rows need; the
     * product may be made in `hidden` first, f of out's shape, which out may lie over. NULL: see
     * op_gelu_linear. */
    void (*gelu_linear)(struct stream *stream, struct tensor *out, struct tensor *hidden,
                        const struct tensor *x, const struct linear *layer);
    /* out[b, i, n] = sum_j softmax_j(scale q[b,i,n] . k[b,j,n] + bias[n,i,j]) v[b,j,n]
     *   q, out [B, Tq, N, D] f; k, v [B, Tk, N, D] f; Vaswani et al. 2017, arXiv:1706.03762.
     * Queries and keys of 8 bits will come as f8_e4m3 or i8 with row_scale; none takes them yet.
     * Never holds a Tq x Tk matrix (Dao et al. 2022, arXiv:2205.14135). */
    void (*attention)(struct stream *stream, struct tensor *out, const struct tensor *q,
                      const struct tensor *k, const struct tensor *v,
                      const struct attention_options *options);
    /* 2-D convolution, channels last:
     *   out[b, y, x, o] = bias[o] + sum_{i,j,c} u[b, y s + i - top, x s + j - left, c] w[o, c, i,
     * j] with u the input, upsampled, and zero outside. x [B, H, W, C] f, out [B, H', W', O] f;
     * weight [O, C, kh, kw] w */
    void (*conv2d)(struct stream *stream, struct tensor *out, const struct tensor *x,
                   const struct linear *layer, const struct conv_options *options);

    /* --- Norms; statistics in f32 or better, mean first, then the spread around it --- */

    /* out = (x - mean) / sqrt(var + epsilon) * weight + bias over the last axis
     *   x [.., C] f, out rows, may be x; weight, bias [C] f32. Ba et al. 2016, arXiv:1607.06450. */
    void (*layer_norm)(struct stream *stream, struct tensor *out, const struct tensor *x,
                       const struct tensor *weight, const struct tensor *bias, float epsilon);
    /* out[b, t] = layer_norm(x[b, t]) (1 + scale[b]) + shift[b], no affine part of its own
     *   x [B, T, C] f, out rows, may be x; shift, scale [B, C] f. Peebles and Xie 2023,
     *   arXiv:2212.09748 (adaLN). Shift comes before scale, as in the checkpoints. */
    void (*modulated_norm)(struct stream *stream, struct tensor *out, const struct tensor *x,
                           const struct tensor *shift, const struct tensor *scale, float epsilon);
    /* gated_add into x, then modulated_norm of it into out; NULL: see op_gated_linear_norm. */
    void (*gated_modulated_norm)(struct stream *stream, struct tensor *out, struct tensor *x,
                                 const struct tensor *gate, const struct tensor *y,
                                 const struct tensor *shift, const struct tensor *scale,
                                 float epsilon);
    /* out = x / sqrt(mean(x^2) + epsilon) * weight over the last axis
     *   x [.., C] f, out rows, may be x; weight [C] f32. Zhang and Sennrich 2019,
     *   arXiv:1910.07467. */
    void (*rms_norm)(struct stream *stream, struct tensor *out, const struct tensor *x,
                     const struct tensor *weight, float epsilon);
    /* stats[b, g] = (mean, 1 / sqrt(var + epsilon)) over all pixels and the C/G channels of group g
     *   x [B, H, W, C] f; stats f32 [B, G, 2]. Wu and He 2018, arXiv:1803.08494. */
    void (*group_stats)(struct stream *stream, struct tensor *stats, const struct tensor *x,
                        float epsilon);
    /* out = (x - mean) * inv_std * weight + bias with the group's stats, then silu if asked
     *   x, out [B, H, W, C] f, out may be x; stats as above; weight, bias [C] f32.
     * Apart from group_stats, so that a band of a picture is normalised as the whole is. */
    void (*group_norm)(struct stream *stream, struct tensor *out, const struct tensor *x,
                       const struct tensor *stats, const struct tensor *weight,
                       const struct tensor *bias, bool with_silu);

    /* --- Element by element; out may be any of the inputs --- */

    void (*add)(struct stream *stream, struct tensor *out, const struct tensor *a,
                const struct tensor *b);
    /* out[b, t, c] = x[b, t, c] + gate[b, c] y[b, t, c]
     *   x, y, out [B, T, C] f; gate [B, C] f */
    void (*gated_add)(struct stream *stream, struct tensor *out, const struct tensor *x,
                      const struct tensor *gate, const struct tensor *y);
    /* out = a x + b y: guidance and every sampler. f32, any rank */
    void (*scale_add)(struct stream *stream, struct tensor *out, float a, const struct tensor *x,
                      float b, const struct tensor *y);
    /* out = mask x + (1 - mask) y; all of one shape, mask with strides of 0 where it repeats */
    void (*mask_blend)(struct stream *stream, struct tensor *out, const struct tensor *mask,
                       const struct tensor *x, const struct tensor *y);
    void (*silu)(struct stream *stream, struct tensor *out, const struct tensor *x);
    /* out rows, may lie over x */
    void (*gelu)(struct stream *stream, struct tensor *out, const struct tensor *x,
                 enum gelu_kind kind);
    /* out = gelu_tanh(gate) up, out rows, may lie over gate. Shazeer 2020, arXiv:2002.05202 */
    void (*gated_gelu)(struct stream *stream, struct tensor *out, const struct tensor *gate,
                       const struct tensor *up);

    /* --- Embeddings --- */

    /* out[r] = [cos(t f_0) .. cos(t f_h-1), sin(t f_0) .. sin(t f_h-1)], h = D/2,
     * f_i = 10000^(-i/h), t = timesteps[r]: cosines first
     *   timesteps [R] f32; out [R, D] f */
    void (*timestep_embedding)(struct stream *stream, struct tensor *out,
                               const struct tensor *timesteps);
    /* out[b, gy gw + gx] = x[b, gy gw + gx] + table[(top + gy) P + left + gx], the window of
     * gh x gw in the middle of the P x P table: top = (P - gh) / 2, left = (P - gw) / 2, floored
     *   x, out [B, gh gw, C] f, out may be x; table [P P, C] w */
    void (*position_embedding)(struct stream *stream, struct tensor *out, const struct tensor *x,
                               const struct tensor *table, int64_t grid_height, int64_t grid_width);
    /* out[n, i, j] = table[bucket(j - i), n], T5's relative position (Raffel et al. 2020,
     * arXiv:1910.10683; model.md, section 4.2), bidirectional
     *   table [buckets, N] w; out f32 [N, T, T] */
    void (*relative_bias)(struct stream *stream, struct tensor *out, const struct tensor *table,
                          int max_distance);

    /* --- Pictures --- */

    /* bytes = round(255 clamp((x + 1) / 2, 0, 1)); x f [..], out u8 of the same shape */
    void (*rgb_to_bytes)(struct stream *stream, struct tensor *out, const struct tensor *x);
    /* out = 2 x / 255 - 1; x u8 [..], out f */
    void (*bytes_to_rgb)(struct stream *stream, struct tensor *out, const struct tensor *x);
};

extern const struct backend_ops backend_ref_ops;

/* Which device, and how it computes. NULL texts and zeros mean "auto". */
struct backend_options {
    const char *device;    /* "auto", "cpu", "ref", "cuda" or "cuda:N" */
    const char *cpu_level; /* "auto" or one of the levels of cpu/ */
    const char *precision; /* of a device: "auto", "fp8", "bf16", "fp16" or "f32" */
    int threads;           /* 0: one for each CPU */
};

struct plugin_library; /* of a device's backend */

/* A table and what it stands on. Free with backend_close. */
struct backend {
    struct backend_ops ops;
    char description[128]; /* "cpu avx512, 16 threads", "NVIDIA H100 80GB HBM3, FP8" */
    char notice[512];      /* why "auto" fell back to less than there might be; "" otherwise */
    int threads;
    struct plugin_library *plugin; /* NULL: none */
};

/* True for "cuda", which is GPU 0, and "cuda:N". */
bool backend_cuda_index(int *index, const char *device);

/* Fails with ERROR_BAD_REQUEST, naming what there is, and with ERROR_BACKEND when a device that was
 * asked for by name cannot be used; "auto" takes the CPU then. */
MUST_CHECK bool backend_open(struct backend **out, const struct backend_options *options,
                             struct error *err);
void backend_close(struct backend *backend); /* NULL is fine */

#endif
