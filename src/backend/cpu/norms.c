/* Norms. Statistics of rows: the mean in double, then the squared deviations around it. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/loop.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/simd.h"
#include "base/size.h"

struct row_norm {
    float epsilon;
    const float *weight, *bias; /* [C] */
};

/* A mean that a float cannot hold is kept in two: a row of large numbers lies closely around it. */
struct moments {
    float mean, mean_rest, inv_std;
};

static inline vf deviation(vf x, struct moments m)
{
    return (x - vf_set(m.mean)) - vf_set(m.mean_rest);
}

static inline struct moments row_moments(const float *x, int64_t width, float epsilon)
{
    int64_t whole = width - width % VF_WIDTH;
    vmask tail = vmask_first(width - whole);
    struct vd_pair sum = {0};
    struct moments m;
    vf squares = vf_zero(), rest = vf_zero();
    double mean;

    for (int64_t c = 0; c < whole; c += VF_WIDTH)
        sum = vd_add(sum, vf_load(x + c));
    mean = vd_sum(vd_add(sum, vf_load_masked(tail, x + whole))) / (double)width;
    m.mean = (float)mean;
    m.mean_rest = (float)(mean - (double)m.mean);
    for (int64_t c = 0; c < whole; c += VF_WIDTH) {
        vf d = deviation(vf_load(x + c), m);

        squares = vf_fma(d, d, squares);
    }
    if (whole < width)
        rest = vf_keep_masked(tail, deviation(vf_load_masked(tail, x + whole), m), rest);
    m.inv_std = 1.0f / sqrtf(vf_sum(vf_fma(rest, rest, squares)) / (float)width + epsilon);
    return m;
}

static void layer_norm_rows(const struct cpu_loop_rows *rows, const void *params)
{
    const struct row_norm *norm = params;

    for (int64_t r = 0; r < rows->count; r++) {
        float *out = (float *)(rows->at[0] + r * rows->step[0]);
        const float *x = (const float *)(rows->at[1] + r * rows->step[1]);
        struct moments m = row_moments(x, rows->width, norm->epsilon);

        for (int64_t c = 0; c < rows->width; c += VF_WIDTH) {
            vmask mask = vmask_first(rows->width - c);
            vf value = deviation(vf_load_masked(mask, x + c), m) * vf_set(m.inv_std);

            vf_store_masked(mask, out + c,
                            vf_fma(value, vf_load_masked(mask, norm->weight + c),
                                   vf_load_masked(mask, norm->bias + c)));
        }
    }
}

/* Whether a vector over the last axis is as the bodies read it. */
static bool is_plain_vector(const struct tensor *x)
{
    return x->dtype == DTYPE_F32 && x->rank == 1 && x->stride[0] == 1;
}

void LEVEL(cpu_layer_norm)(struct stream *stream, struct tensor *out, const struct tensor *x,
                           const struct tensor *weight, const struct tensor *bias, float epsilon)
{
    const struct tensor *tensors[] = {out, x};
    struct row_norm norm = {epsilon, weight->data, bias->data};
    struct cpu_loop loop;

    if (stream_skips(stream))
        return;
    loop = cpu_loop_of_rows(2, tensors);
    if (cpu_loop_is_plain(&loop, tensors, DTYPE_F32) && is_plain_vector(weight) &&
        is_plain_vector(bias))
        cpu_loop_run(stream, &loop, layer_norm_rows, &norm);
    else
        backend_ref_ops.layer_norm(stream, out, x, weight, bias, epsilon);
}

static void modulated_norm_rows(const struct cpu_loop_rows *rows, const void *params)
{
    const struct row_norm *norm = params;

    for (int64_t r = 0; r < rows->count; r++) {
        float *out = (float *)(rows->at[0] + r * rows->step[0]);
        const float *x = (const float *)(rows->at[1] + r * rows->step[1]);
        const float *shift = (const float *)(rows->at[2] + r * rows->step[2]);
        const float *scale = (const float *)(rows->at[3] + r * rows->step[3]);
        struct moments m = row_moments(x, rows->width, norm->epsilon);

        for (int64_t c = 0; c < rows->width; c += VF_WIDTH) {
            vmask mask = vmask_first(rows->width - c);
            vf value = deviation(vf_load_masked(mask, x + c), m) * vf_set(m.inv_std);
            vf factor = vf_set(1.0f) + vf_load_masked(mask, scale + c);

            vf_store_masked(mask, out + c, vf_fma(value, factor, vf_load_masked(mask, shift + c)));
        }
    }
}

/* [B, C] seen as [B, T, C], the same for each token. */
static struct tensor for_each_token(const struct tensor *vectors, const struct tensor *x)
{
    struct tensor view = *x;

    view.dtype = vectors->dtype;
    view.data = vectors->data;
    view.stride[0] = vectors->stride[0];
    view.stride[1] = 0;
    view.stride[2] = vectors->stride[1];
    return view;
}

void LEVEL(cpu_modulated_norm)(struct stream *stream, struct tensor *out, const struct tensor *x,
                               const struct tensor *shift, const struct tensor *scale,
                               float epsilon)
{
    struct tensor shifts = for_each_token(shift, x), scales = for_each_token(scale, x);
    const struct tensor *tensors[] = {out, x, &shifts, &scales};
    struct row_norm norm = {.epsilon = epsilon};
    struct cpu_loop loop;

    if (stream_skips(stream))
        return;
    loop = cpu_loop_of_rows(4, tensors);
    if (cpu_loop_is_plain(&loop, tensors, DTYPE_F32))
        cpu_loop_run(stream, &loop, modulated_norm_rows, &norm);
    else
        backend_ref_ops.modulated_norm(stream, out, x, shift, scale, epsilon);
}

static float row_inverse_rms(const float *x, int64_t width, float epsilon)
{
    vf squares = vf_zero();

    for (int64_t c = 0; c < width; c += VF_WIDTH) {
        vf value = vf_load_masked(vmask_first(width - c), x + c);

        squares = vf_fma(value, value, squares);
    }
    return 1.0f / sqrtf(vf_sum(squares) / (float)width + epsilon);
}

static void rms_norm_rows(const struct cpu_loop_rows *rows, const void *params)
{
    const struct row_norm *norm = params;

    for (int64_t r = 0; r < rows->count; r++) {
        float *out = (float *)(rows->at[0] + r * rows->step[0]);
        const float *x = (const float *)(rows->at[1] + r * rows->step[1]);
        vf inverse = vf_set(row_inverse_rms(x, rows->width, norm->epsilon));

        for (int64_t c = 0; c < rows->width; c += VF_WIDTH) {
            vmask mask = vmask_first(rows->width - c);

            vf_store_masked(mask, out + c,
                            vf_load_masked(mask, x + c) * inverse *
                                vf_load_masked(mask, norm->weight + c));
        }
    }
}

void LEVEL(cpu_rms_norm)(struct stream *stream, struct tensor *out, const struct tensor *x,
                         const struct tensor *weight, float epsilon)
{
    const struct tensor *tensors[] = {out, x};
    struct row_norm norm = {epsilon, weight->data, NULL};
    struct cpu_loop loop;

    if (stream_skips(stream))
        return;
    loop = cpu_loop_of_rows(2, tensors);
    if (cpu_loop_is_plain(&loop, tensors, DTYPE_F32) && is_plain_vector(weight))
        cpu_loop_run(stream, &loop, rms_norm_rows, &norm);
    else
        backend_ref_ops.rms_norm(stream, out, x, weight, epsilon);
}

/* --- Group norm ---
 *
 * A picture is cut into chunks of pixels that fit the cache, however many threads there are. Each
 * chunk's mean and squared deviations are exact by themselves; combined in order they give the
 * picture's (Chan, Golub and LeVeque 1983), from one reading of memory. */

#define CHUNK_ELEMENTS 16384
#define CHUNKS_MAX 4096   /* of one picture */
#define RUN_ELEMENTS 4096 /* read side by side: memory comes fastest page by page */
#define GROUP_CHANNELS_MAX 2048

struct chunk_moments {
    double mean, squares; /* squares: sum of the squared deviations from mean */
};

struct group_job {
    const struct tensor *x;
    int64_t channels, groups, pixels;
    int64_t chunk_pixels, chunks;  /* of one picture */
    struct chunk_moments *moments; /* [B, chunks, groups] */
};

static inline void add_to_doubles(double *sums, vf more)
{
    struct vd_pair sum;

    memcpy(&sum, sums, sizeof sum);
    sum = vd_add(sum, more);
    memcpy(sums, &sum, sizeof sum);
}

/* sums[c] += sum of x over `count` pixels `step` apart: of the small differences from the first
 * pixel in floats, then of the large numbers in doubles. */
static void add_values(double *sums, const float *x, int64_t step, int64_t count, int64_t channels)
{
    for (int64_t c = 0; c < channels; c += VF_WIDTH) {
        vmask mask = vmask_first(channels - c);
        vf first = vf_load_masked(mask, x + c), sum = vf_zero();

        for (int64_t p = 1; p < count; p++)
            sum += vf_load_masked(mask, x + p * step + c) - first;
        add_to_doubles(sums + c, sum);
        for (int i = 0; i < VF_WIDTH; i++)
            sums[c + i] += (double)first[i] * (double)count;
    }
}

/* sums[c] += sum of (x - mean[c])^2 */
static void add_squares(double *sums, const float *mean, const float *x, int64_t step,
                        int64_t count, int64_t channels)
{
    for (int64_t c = 0; c < channels; c += VF_WIDTH) {
        vmask mask = vmask_first(channels - c);
        vf from = vf_load_masked(mask, mean + c), sum = vf_zero();

        for (int64_t p = 0; p < count; p++) {
            vf d = vf_load_masked(mask, x + p * step + c) - from;

            sum = vf_fma(d, d, sum);
        }
        add_to_doubles(sums + c, sum);
    }
}

/* Adds values, or squares where there is a mean, over pixels [begin, end) of one picture. */
static void add_pixels(double *sums, const float *mean, const struct tensor *x, int64_t b,
                       int64_t begin, int64_t end)
{
    int64_t width = x->dim[2];
    int64_t most = max_i64(1, RUN_ELEMENTS / x->dim[3]);

    while (begin < end) {
        int64_t count = min_i64(min_i64(end - begin, most), width - begin % width);
        const float *from = (const float *)x->data + b * x->stride[0] +
                            begin / width * x->stride[1] + begin % width * x->stride[2];

        if (mean)
            add_squares(sums, mean, from, x->stride[2], count, x->dim[3]);
        else
            add_values(sums, from, x->stride[2], count, x->dim[3]);
        begin += count;
    }
}

static double sum_of(const double *values, int64_t count)
{
    double sum = 0.0;

    for (int64_t i = 0; i < count; i++)
        sum += values[i];
    return sum;
}

static void measure_chunk(const void *context, int64_t index)
{
    const struct group_job *job = context;
    int64_t b = index / job->chunks, begin = index % job->chunks * job->chunk_pixels;
    int64_t end = min_i64(job->pixels, begin + job->chunk_pixels);
    int64_t width = job->channels / job->groups;
    double count = (double)((end - begin) * width);
    struct chunk_moments *moments = job->moments + index * job->groups;
    double sums[GROUP_CHANNELS_MAX + VF_WIDTH];
    float mean[GROUP_CHANNELS_MAX];
    size_t bytes = (size_t)(job->channels + VF_WIDTH) * sizeof *sums;

    memset(sums, 0, bytes);
    add_pixels(sums, NULL, job->x, b, begin, end);
    for (int64_t g = 0; g < job->groups; g++) {
        moments[g].mean = sum_of(sums + g * width, width) / count;
        for (int64_t c = 0; c < width; c++)
            mean[g * width + c] = (float)moments[g].mean;
    }
    memset(sums, 0, bytes);
    add_pixels(sums, mean, job->x, b, begin, end);
    for (int64_t g = 0; g < job->groups; g++) {
        double rounding = moments[g].mean - (double)(float)moments[g].mean;
        double squares = sum_of(sums + g * width, width);

        moments[g].squares = fmax(squares - count * rounding * rounding, 0.0);
    }
}

/* The whole picture's moments of one group, as group_stats wants them. */
static void combine_chunks(float *stats, const struct group_job *job, int64_t b, int64_t g,
                           float epsilon)
{
    const struct chunk_moments *moments = job->moments + b * job->chunks * job->groups + g;
    double pixels = (double)job->pixels, width = (double)(job->channels / job->groups);
    double mean = 0.0, squares = 0.0;

    for (int64_t i = 0; i < job->chunks; i++) {
        int64_t count = min_i64(job->chunk_pixels, job->pixels - i * job->chunk_pixels);

        mean += moments[i * job->groups].mean * ((double)count / pixels);
    }
    for (int64_t i = 0; i < job->chunks; i++) {
        int64_t count = min_i64(job->chunk_pixels, job->pixels - i * job->chunk_pixels);
        double away = moments[i * job->groups].mean - mean;

        squares += moments[i * job->groups].squares + away * away * (double)count * width;
    }
    stats[0] = (float)mean;
    stats[1] = (float)(1.0 / sqrt(squares / (pixels * width) + (double)epsilon));
}

void LEVEL(cpu_group_stats)(struct stream *stream, struct tensor *stats, const struct tensor *x,
                            float epsilon)
{
    struct group_job job = {
        .x = x,
        .channels = x->dim[3],
        .groups = stats->dim[1],
        .pixels = x->dim[1] * x->dim[2],
        .moments = cpu_shared_scratch(stream),
    };
    int64_t batch = x->dim[0];

    if (stream_skips(stream))
        return;
    job.chunk_pixels =
        max_i64(ceil_div_i64(CHUNK_ELEMENTS, job.channels), ceil_div_i64(job.pixels, CHUNKS_MAX));
    job.chunks = ceil_div_i64(job.pixels, job.chunk_pixels);
    if (x->dtype != DTYPE_F32 || x->stride[3] != 1 || stats->dtype != DTYPE_F32 ||
        job.channels > GROUP_CHANNELS_MAX ||
        (size_t)(batch * job.chunks * job.groups) >
            CPU_SHARED_SCRATCH_BYTES / sizeof(struct chunk_moments)) {
        backend_ref_ops.group_stats(stream, stats, x, epsilon);
        return;
    }
    cpu_for_each(stream, batch * job.chunks, tensor_count(x), measure_chunk, &job);
    for (int64_t b = 0; b < batch; b++)
        for (int64_t g = 0; g < job.groups; g++)
            combine_chunks((float *)stats->data + b * stats->stride[0] + g * stats->stride[1], &job,
                           b, g, epsilon);
}

struct group_norm {
    const float *weight, *bias;
    bool with_silu;
};

static inline __attribute__((always_inline)) void
group_norm_row(float *out, const float *x, const float *mean, const float *factor,
               const float *bias, int64_t width, bool with_silu)
{
    for (int64_t c = 0; c < width; c += VF_WIDTH) {
        vmask mask = vmask_first(width - c);
        vf value = vf_load_masked(mask, x + c) - vf_load_masked(mask, mean + c);

        value = vf_fma(value, vf_load_masked(mask, factor + c), vf_load_masked(mask, bias + c));
        vf_store_masked(mask, out + c, with_silu ? vf_silu(value) : value);
    }
}

static void group_norm_rows(const struct cpu_loop_rows *rows, const void *params)
{
    const struct group_norm *norm = params;

    for (int64_t r = 0; r < rows->count; r++) {
        float *out = (float *)(rows->at[0] + r * rows->step[0]);
        const float *x = (const float *)(rows->at[1] + r * rows->step[1]);
        const float *mean = (const float *)(rows->at[2] + r * rows->step[2]);
        const float *factor = (const float *)(rows->at[3] + r * rows->step[3]);

        if (norm->with_silu)
            group_norm_row(out, x, mean, factor, norm->bias, rows->width, true);
        else
            group_norm_row(out, x, mean, factor, norm->bias, rows->width, false);
    }
}

/* Each channel's mean and factor: its group's, the factor times the channel's weight. */
static void spread_stats(float *mean, float *factor, const struct tensor *stats,
                         const float *weight, int64_t batch, int64_t channels)
{
    int64_t width = channels / stats->dim[1];

    for (int64_t b = 0; b < batch; b++)
        for (int64_t c = 0; c < channels; c++) {
            const float *at =
                (const float *)stats->data + b * stats->stride[0] + c / width * stats->stride[1];

            mean[b * channels + c] = at[0];
            factor[b * channels + c] = at[1] * weight[c];
        }
}

void LEVEL(cpu_group_norm)(struct stream *stream, struct tensor *out, const struct tensor *x,
                           const struct tensor *stats, const struct tensor *weight,
                           const struct tensor *bias, bool with_silu)
{
    int64_t batch = x->dim[0], channels = x->dim[3];
    float *mean = cpu_shared_scratch(stream);
    float *factor = mean + batch * channels;
    struct group_norm norm = {weight->data, bias->data, with_silu};
    /* The same for each pixel. */
    struct tensor means = {.dtype = DTYPE_F32,
                           .rank = 4,
                           .dim = {batch, x->dim[1], x->dim[2], channels},
                           .stride = {channels, 0, 0, 1},
                           .data = mean};
    struct tensor factors = means;
    const struct tensor *tensors[] = {out, x, &means, &factors};
    struct cpu_loop loop;

    if (stream_skips(stream))
        return;
    factors.data = factor;
    loop = cpu_loop_of_rows(4, tensors);
    if (!cpu_loop_is_plain(&loop, tensors, DTYPE_F32) || stats->dtype != DTYPE_F32 ||
        !is_plain_vector(weight) || !is_plain_vector(bias) ||
        (size_t)(batch * channels) > CPU_SHARED_SCRATCH_BYTES / (2 * sizeof(float))) {
        backend_ref_ops.group_norm(stream, out, x, stats, weight, bias, with_silu);
        return;
    }
    spread_stats(mean, factor, stats, weight->data, batch, channels);
    cpu_loop_run(stream, &loop, group_norm_rows, &norm);
}
