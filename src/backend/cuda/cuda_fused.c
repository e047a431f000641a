/* Products whose epilogue does what would be another pass over their result: on Hopper by our own
 * kernel; elsewhere, and for a few tokens, by what they are composed of.
 */
#include "backend/cuda/cuda_stream.h"

#include "backend/cuda/cuda_weights.h"
#include "backend/cuda/products_sm90.h"

#define HEAD_WIDTH 64
/* Below, most of a tile would be empty. Of one sample: which kernel a picture's products take must
 * not depend on its company. */
#define TOKENS_MIN 64

/* The shape of out [B, T, N] and x [B, T, K] for our own kernel; false when it does not take it. */
static bool describe(struct product_sm90 *product, const struct tensor *out, const struct tensor *x,
                     const struct device_weight *weight)
{
    bool is_even = x->rank == 3 && (x->dim[0] == 1 || x->stride[0] == x->dim[1] * x->stride[1]);

    if (cuda_device.capability != 90 || !cuda_device.encode_tiled || out->rank != 3 || !is_even ||
        x->dtype != DTYPE_F8_E4M3 || weight->type != VIEW_E4M3 || x->dim[1] < TOKENS_MIN)
        return false;
    *product = (struct product_sm90){
        .x = x->data,
        .w = weight->data,
        .x_scale = x->row_scale,
        .w_scale = weight->scale,
        .bias = weight->bias,
        .out = out->data,
        .m = x->dim[0] * x->dim[1],
        .n = weight->n,
        .k = weight->k,
        .x_stride = x->stride[1],
        .out_row_stride = out->stride[1],
        .out_sample_stride = out->stride[0],
        .rows_per_sample = x->dim[1],
    };
    return true;
}

static void run(struct stream *stream, const struct product_sm90 *product, const char *what)
{
    struct product_sm90_plan plan;

    if (stream_check(stream,
                     kernel_product_sm90_plan(&plan, cuda_device.encode_tiled, product,
                                              cuda_device.multiprocessors),
                     what))
        stream_check(stream, kernel_product_sm90(stream_now(stream), &plan), what);
}

static void norm_heads(struct stream *stream, const struct tensor *out, int part,
                       const struct tensor *weight, float epsilon)
{
    int last = out->rank - 1;
    int64_t columns = out->dim[last] / 3;
    struct tensor columns_of_part = tensor_slice(out, last, part * columns, columns);
    struct tensor heads = tensor_split(&columns_of_part, last, weight->dim[0]);
    struct view heads_view = view_of(&heads), weight_view = view_of(weight);

    stream_check(
        stream,
        kernel_rms_norm(stream_now(stream), &heads_view, &heads_view, &weight_view, epsilon),
        "rms_norm");
}

void cuda_normed_qkv(struct stream *stream, struct tensor *out, const struct tensor *x,
                     const struct linear layers[3], const struct tensor *q_norm,
                     const struct tensor *k_norm, float epsilon)
{
    struct tensor device_q_norm, device_k_norm;
    struct device_weight weight;
    struct product_sm90 product;

    if (stream_skips(stream) || !weight_store_vector(stream, &device_q_norm, q_norm) ||
        !weight_store_vector(stream, &device_k_norm, k_norm) ||
        !weight_store_linear(stream, &weight, layers, 3))
        return;
    if (q_norm->dim[0] == HEAD_WIDTH && describe(&product, out, x, &weight)) {
        product.epilogue = EPILOGUE_HEAD_NORM;
        product.q_norm = device_q_norm.data;
        product.k_norm = device_k_norm.data;
        product.norm_columns = weight.n / 3 * 2;
        product.epsilon = epsilon;
        if (kernel_product_sm90_fits(&product)) {
            run(stream, &product, "normed_qkv");
            return;
        }
    }
    cuda_linears(stream, out, x, layers, 3);
    norm_heads(stream, out, 0, &device_q_norm, epsilon);
    norm_heads(stream, out, 1, &device_k_norm, epsilon);
}

/* The factors are what the rows can come to at most, known before the product: E4M3 is as precise
 * for values that are a thousand times smaller. */
static bool multiply_into_rows(struct stream *stream, const struct tensor *out,
                               const struct tensor *x, const struct device_weight *weight)
{
    struct product_sm90 product;

    if (out->dtype != DTYPE_F8_E4M3 || !describe(&product, out, x, weight))
        return false;
    product.epilogue = EPILOGUE_GELU_ROWS;
    product.out_scale = out->row_scale;
    if (!kernel_product_sm90_fits(&product))
        return false;
    if (stream_check(stream,
                     kernel_bound_rows(stream_now(stream), out->row_scale, x->row_scale,
                                       weight->bound, weight->k, product.m),
                     "gelu_linear"))
        run(stream, &product, "gelu_linear");
    return true;
}

void cuda_gelu_linear(struct stream *stream, struct tensor *out, struct tensor *hidden,
                      const struct tensor *x, const struct linear *layer)
{
    struct view out_view = view_of(out), hidden_view = view_of(hidden);
    struct device_weight weight;

    if (stream_skips(stream) || !weight_store_linear(stream, &weight, layer, 1) ||
        multiply_into_rows(stream, out, x, &weight))
        return;
    if (x->dtype == cuda_device.f && out->dtype == cuda_device.f) {
        cuda_linear_with_gelu(stream, out, x, layer);
        return;
    }
    cuda_linear(stream, hidden, x, layer);
    stream_check(stream, kernel_gelu(stream_now(stream), &out_view, &hidden_view, GELU_TANH),
                 "gelu");
}
