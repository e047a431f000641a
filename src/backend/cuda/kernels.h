/* Launchers: what the .cu files offer to the C side of the plugin.
 *
 * Each enqueues its kernels on `stream` and returns at once: cudaErrorInvalidValue for a type or
 * shape that it does not know, what the launch said otherwise. Nothing is allocated. All memory is
 * the device's. What an op computes, shapes included, is written in backend/backend.h under the
 * name without "kernel_"; here stands only what differs.
 *
 * "f" is F32, F16 or BF16, the same in all f arguments of a call; arithmetic is f32. An `out`
 * marked "rows" is f, or E4M3 with row_scale: then each row of the last axis is divided by its
 * largest magnitude / 448 (1 / 448 for a row of zeros), rounded to nearest even, and that factor
 * goes to row_scale. No sum uses atomics, and no result depends on how many samples a call has: the
 * same sample gives the same bits in any batch.
 */
#ifndef BACKEND_CUDA_KERNELS_H
#define BACKEND_CUDA_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

enum view_type { VIEW_F32, VIEW_F16, VIEW_BF16, VIEW_E4M3, VIEW_E5M2, VIEW_I32, VIEW_U8 };

#define VIEW_MAX_RANK 5

/* A strided tensor, outermost axis first, strides in elements. Unless a comment says otherwise the
 * last axis is contiguous, other strides are anything, and data is aligned to its element only. */
struct view {
    void *data;
    float *row_scale; /* of E4M3 activations: the factor of each row, dense in row order */
    enum view_type type;
    int rank; /* 0: no tensor */
    int64_t dim[VIEW_MAX_RANK];
    int64_t stride[VIEW_MAX_RANK];
};

/* --- elementwise.cu --- */

/* out rows; any strides on both, also in the last axis unless out is E4M3; 0 repeats. */
cudaError_t kernel_copy(cudaStream_t stream, const struct view *out, const struct view *x);
cudaError_t kernel_fill(cudaStream_t stream, const struct view *out, float value);
cudaError_t kernel_add(cudaStream_t stream, const struct view *out, const struct view *a,
                       const struct view *b);
cudaError_t kernel_gated_add(cudaStream_t stream, const struct view *out, const struct view *x,
                             const struct view *gate, const struct view *y);
/* out, x and y are each f, perhaps different ones; strides of 0 repeat. */
cudaError_t kernel_scale_add(cudaStream_t stream, const struct view *out, float a,
                             const struct view *x, float b, const struct view *y);
cudaError_t kernel_mask_blend(cudaStream_t stream, const struct view *out, const struct view *mask,
                              const struct view *x, const struct view *y);
cudaError_t kernel_silu(cudaStream_t stream, const struct view *out, const struct view *x);
/* kind: 0 tanh, 1 erf, 2 quick; out rows */
cudaError_t kernel_gelu(cudaStream_t stream, const struct view *out, const struct view *x,
                        int kind);
/* out rows */
cudaError_t kernel_gated_gelu(cudaStream_t stream, const struct view *out, const struct view *gate,
                              const struct view *up);
cudaError_t kernel_rgb_to_bytes(cudaStream_t stream, const struct view *out, const struct view *x);
cudaError_t kernel_bytes_to_rgb(cudaStream_t stream, const struct view *out, const struct view *x);
/* *flag = 1 when an element of x (contiguous f32) is infinite or NaN; left alone otherwise. */
cudaError_t kernel_find_not_finite(cudaStream_t stream, int *flag, const float *x, int64_t count);

/* --- norms.cu --- */

/* out rows; weight, bias [C] F32 */
cudaError_t kernel_layer_norm(cudaStream_t stream, const struct view *out, const struct view *x,
                              const struct view *weight, const struct view *bias, float epsilon);
/* out rows */
cudaError_t kernel_modulated_norm(cudaStream_t stream, const struct view *out, const struct view *x,
                                  const struct view *shift, const struct view *scale,
                                  float epsilon);
/* x += gate y, rounded to x's type; then out = modulated_norm of what x is now. out rows. */
cudaError_t kernel_gated_modulated_norm(cudaStream_t stream, const struct view *out,
                                        const struct view *x, const struct view *gate,
                                        const struct view *y, const struct view *shift,
                                        const struct view *scale, float epsilon);
/* out rows; weight [C] F32 */
cudaError_t kernel_rms_norm(cudaStream_t stream, const struct view *out, const struct view *x,
                            const struct view *weight, float epsilon);
/* stats F32 [B, G, 2]. partial: scratch of kernel_group_stats_scratch(batch, groups) bytes. */
size_t kernel_group_stats_scratch(int64_t batch, int64_t groups);
cudaError_t kernel_group_stats(cudaStream_t stream, const struct view *stats, const struct view *x,
                               float epsilon, void *partial);
cudaError_t kernel_group_norm(cudaStream_t stream, const struct view *out, const struct view *x,
                              const struct view *stats, const struct view *weight,
                              const struct view *bias, bool with_silu);

/* --- embeddings.cu --- */

/* table of any float type, ids I32; an id outside of the table gives zeros and *fault = 1 */
cudaError_t kernel_embedding_rows(cudaStream_t stream, const struct view *out,
                                  const struct view *table, const struct view *ids, int *fault);
/* x F32 or f, whatever out is */
cudaError_t kernel_patchify(cudaStream_t stream, const struct view *out, const struct view *x,
                            int patch);
/* out F32 or f, whatever x is */
cudaError_t kernel_unpatchify(cudaStream_t stream, const struct view *out, const struct view *x,
                              int patch);
cudaError_t kernel_timestep_embedding(cudaStream_t stream, const struct view *out,
                                      const struct view *timesteps);
/* window [gh gw, C] of any float type, contiguous: the rows of the table that the grid sees */
cudaError_t kernel_position_embedding(cudaStream_t stream, const struct view *out,
                                      const struct view *x, const struct view *window);
/* table [buckets, N] of any float type; out F32 [N, T, T] */
cudaError_t kernel_relative_bias(cudaStream_t stream, const struct view *out,
                                 const struct view *table, int max_distance);

/* --- weights.cu: weights on their way to where products take them --- */

/* out[n, k] = x[n, k] scale[n or 0]; scale F32 of scale_count 1 or N, NULL: 1. out F32, F16 or
 * BF16, contiguous and 16-byte aligned; x [N, K] of any float type, contiguous. */
cudaError_t kernel_decode_weight(cudaStream_t stream, void *out, enum view_type out_type,
                                 const void *x, enum view_type x_type, int64_t n, int64_t k,
                                 const float *scale, int64_t scale_count);
/* out [O, kh, kw, padded C] from x [O, C, kh, kw] of any float type: channels last, zeros beyond C,
 * times the scale as above. */
cudaError_t kernel_arrange_filter(cudaStream_t stream, void *out, enum view_type out_type,
                                  const void *x, enum view_type x_type, int64_t o, int64_t c,
                                  int64_t kernel_height, int64_t kernel_width, int64_t padded_c,
                                  const float *scale, int64_t scale_count);
/* E4M3 rows and factors from weights of 16 or 32 bits, contiguous: the same bits as those of
 * convert/quantise.h, which leaves the smallest squared error. A row that is not finite gets NaN
 * for a factor. out [N, K], scale [N] */
cudaError_t kernel_quantise_weight(cudaStream_t stream, void *out, float *scale, const void *x,
                                   enum view_type x_type, int64_t n, int64_t k);
/* bound[0] = the largest length of a row of w times its factor, bound[1] = the largest |bias|; what
 * a product can come to is never more than the input's length times the one plus the other (Cauchy
 * and Schwarz). w [N, K] E4M3 or E5M2, bias [N] or NULL. */
struct kernel_bound {
    float *bound;
    const void *w, *bias;
    const float *scale;
    int64_t n, k;
    enum view_type type, bias_type;
};
cudaError_t kernel_weight_bound(cudaStream_t stream, const struct kernel_bound *bound);
/* out_scale[m] = a factor with which no product of row m is beyond 448: its 8-bit input is at most
 * 448 x_scale[m] in magnitude, and sqrt(k) times that long. */
cudaError_t kernel_bound_rows(cudaStream_t stream, float *out_scale, const float *x_scale,
                              const float *bound, int64_t k, int64_t m);
/* out [B, f H, f W, C] = every pixel of x [B, H, W, C] doubled (f 2); rows [first, first + count)
 * of the doubled picture only: out [B, count, 2 W, C]. */
cudaError_t kernel_double_pixels(cudaStream_t stream, const struct view *out, const struct view *x,
                                 int64_t first_row);

/* --- products.cu: what cuBLASLt does not take, slowly --- */

/* out [M, N] = x [M, K] w [N, K]^T (w [K, N] when w_is_turned) * x_scale[m] w_scale[n] + bias[n].
 * x and w F32, F16, BF16 or E4M3, out F32, F16 or BF16, bias as out; scales and bias may be NULL.
 */
struct kernel_product {
    void *out;
    const void *x, *w, *bias;
    const float *x_scale, *w_scale;
    int64_t m, n, k, out_stride, x_stride, w_stride;
    enum view_type type, out_type;
    bool w_is_turned, adds, with_gelu; /* adds: out += instead of out =; gelu_tanh */
};
cudaError_t kernel_product(cudaStream_t stream, const struct kernel_product *product);
/* out [M, N] = out * x_scale[m] w_scale[n] + bias[n]; bias of out's type, or NULL. */
struct kernel_scaling {
    void *out;
    const void *bias;
    const float *x_scale, *w_scale;
    int64_t m, n, out_stride;
    enum view_type type;
};
cudaError_t kernel_scale_product(cudaStream_t stream, const struct kernel_scaling *scaling);

/* out_scale[b, n] = scale[n] gate[b, n], out_bias[b, n] = bias[n] gate[b, n]: a gate folded into a
 * product's factors. gate [B, N] of a 16-bit type, which bias and out_bias are of; bias may be
 * NULL, out_bias is written all the same. */
cudaError_t kernel_fold_gate(cudaStream_t stream, float *out_scale, void *out_bias,
                             const float *scale, const void *bias, const struct view *gate);
/* out [B, H', W', O'] from x [B, H, W, C]; zeros beyond x. filter [O, kh, kw, filter_channels] of
 * x's type with O' <= O and C <= filter_channels, bias of out's type [O] or NULL. Right rather than
 * fast. */
struct kernel_conv {
    struct view out, x;
    const void *filter, *bias;
    enum view_type filter_type;
    int64_t kernel_height, kernel_width, filter_channels;
    int stride, pad_top, pad_left;
};
cudaError_t kernel_conv(cudaStream_t stream, const struct kernel_conv *conv);

/* --- attention.cu: any head width up to 128, any mask; attention_sm90.cu: the transformer's --- */

/* bias F32 [N, Tq, Tk] or rank 0. F32 sums, f products. */
cudaError_t kernel_attention(cudaStream_t stream, const struct view *out, const struct view *q,
                             const struct view *k, const struct view *v, float scale,
                             bool is_causal, const struct view *bias);
/* Softmax of rows in place, for attention by two products: x F32 [R, T] -> out f [R, T]. */
cudaError_t kernel_softmax_rows(cudaStream_t stream, const struct view *out, const struct view *x,
                                float scale);

/* Compute capability 9.0; BF16, head width 64, no mask; strides of 16 bytes' multiples. Tensor maps
 * live in *plan, made once for a set of addresses and shapes and passed to every launch.
 * score_limit: no product scale (q . k) is larger in magnitude, or <= 0 when nobody knows. */
struct attention_sm90_plan {
    unsigned char bytes[640]; /* of attention_sm90.cu */
};
bool kernel_attention_sm90_fits(const struct view *out, const struct view *q, const struct view *k,
                                const struct view *v);
/* encode: the driver's cuTensorMapEncodeTiled, from cudaGetDriverEntryPointByVersion. */
cudaError_t kernel_attention_sm90_plan(struct attention_sm90_plan *plan, void *encode,
                                       const struct view *out, const struct view *q,
                                       const struct view *k, const struct view *v, float scale,
                                       float score_limit, int multiprocessors);
/* True when it keeps a running maximum, because score_limit is unknown or large: a slower kernel.
 */
bool kernel_attention_sm90_is_online(const struct attention_sm90_plan *plan);
cudaError_t kernel_attention_sm90(cudaStream_t stream, const struct attention_sm90_plan *plan);

#ifdef __cplusplus
}
#endif

#endif
