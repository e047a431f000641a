/* Attention without the Tq x Tk matrix: softmax in a stream over blocks of keys (Milakov and
 * Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135).
 *
 * A task is one head and a run of queries. It packs one block of keys and values, then takes each
 * tile of TILE_ROWS queries through it: scores, their exponentials, and the weighted values, all by
 * one register-blocked product. A tile keeps its running maximum, sum and output between blocks.
 *
 * Each query row goes through the same arithmetic in the same order wherever it lies in a tile, a
 * task or a batch, so its result depends on nothing but its own inputs.
 */
#include <assert.h>
#include <float.h>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/simd.h"
#include "base/size.h"

/* TILE_ROWS x 2 sums, two vectors of the right side and one broadcast fill the registers. */
#if SIMD_AVX512
#define TILE_ROWS 14
#else
#define TILE_ROWS 6
#endif
#define PANEL (2 * VF_WIDTH) /* columns of a tile's product */

/* Keys in a block: enough to make a tile's loads and stores of its sums cheap. */
#define KEYS_MAX 128
#define HEAD_WIDTH_MAX 512
#define TASKS_PER_THREAD 4
#define TILES_MIN 8 /* fewer queries than this many tiles do not pay for packing their keys */
#define LOG2_E 1.44269504f
#define ROW_LANES VF_WIDTH /* TILE_ROWS, rounded up to whole vectors */

/* One head's pieces, with strides in elements between tokens. */
struct head {
    const float *q, *k, *v;
    float *out;
    const float *bias; /* [Tq, Tk] or NULL */
    int64_t q_step, k_step, v_step, out_step, bias_step;
};

struct attention {
    const struct tensor *q, *k, *v;
    struct tensor *out;
    const struct attention_options *options;
    struct stream *stream;

    int64_t width, padded_width; /* D, and D in whole panels */
    int64_t queries, keys;
    int64_t block_keys;     /* keys packed at a time */
    int64_t tiles_per_task; /* of TILE_ROWS queries */
    int64_t tasks_per_head;
    int64_t task_count;
};

/* What a tile of queries has gathered so far. */
struct tile {
    float highest[ROW_LANES];         /* largest score of each row, in powers of two */
    float total[TILE_ROWS][VF_WIDTH]; /* sums of the exponentials, lane by lane */
};

/* A thread's memory. */
struct workspace {
    float *keys;    /* [block_keys / PANEL, D, PANEL] */
    float *values;  /* [padded_width / PANEL, block_keys, PANEL] */
    float *scores;  /* [TILE_ROWS, KEYS_MAX], then their exponentials */
    float *sums;    /* [tiles, padded_width / PANEL, TILE_ROWS, PANEL]: values under those */
    float *queries; /* [tiles, D, TILE_ROWS], times scale and log2 e */
    struct tile *tiles;
};

/* to[r, 0..PANEL) = keep[r] to[r, ..] + sum_k a[r row_step + k k_step] b[k PANEL + ..]; without
 * `keep` the old content counts for nothing. Inlined, so that the steps are constants. */
static inline __attribute__((always_inline)) void tile_product(float *to, int64_t to_step,
                                                               const float *keep, const float *a,
                                                               int64_t row_step, int64_t k_step,
                                                               const float *b, int64_t k_count)
{
    vf sum[TILE_ROWS][2];

    SIMD_UNROLL for (int r = 0; r < TILE_ROWS; r++)
    {
        sum[r][0] = keep ? vf_load(to + r * to_step) * vf_set(keep[r]) : vf_zero();
        sum[r][1] = keep ? vf_load(to + r * to_step + VF_WIDTH) * vf_set(keep[r]) : vf_zero();
    }
    for (int64_t k = 0; k < k_count; k++) {
        vf b0 = vf_load(b + k * PANEL), b1 = vf_load(b + k * PANEL + VF_WIDTH);

        SIMD_UNROLL for (int r = 0; r < TILE_ROWS; r++)
        {
            vf left = vf_set(a[r * row_step + k * k_step]);

            sum[r][0] = vf_fma(left, b0, sum[r][0]);
            sum[r][1] = vf_fma(left, b1, sum[r][1]);
        }
    }
    SIMD_UNROLL for (int r = 0; r < TILE_ROWS; r++)
    {
        vf_store(to + r * to_step, sum[r][0]);
        vf_store(to + r * to_step + VF_WIDTH, sum[r][1]);
    }
}

/* What lies beyond the last key in a panel may be anything: its scores are hidden. */
static void pack_keys(float *to, const struct head *head, int64_t first, int64_t count,
                      int64_t width)
{
    for (int64_t j = 0; j < count; j += VF_WIDTH) {
        int64_t panel = j / PANEL;

        vf_copy_transposed(to + panel * width * PANEL + j % PANEL, PANEL, VF_WIDTH,
                           head->k + (first + j) * head->k_step, head->k_step, count - j, width,
                           1.0f);
    }
}

static void pack_values(float *to, const struct head *head, int64_t first, int64_t count,
                        const struct attention *job)
{
    for (int64_t d = 0; d < job->padded_width; d += VF_WIDTH) {
        vmask mask = vmask_first(max_i64(job->width - d, 0));
        float *panel = to + d / PANEL * job->block_keys * PANEL + d % PANEL;

        for (int64_t j = 0; j < count; j++)
            vf_store(panel + j * PANEL,
                     vf_load_masked(mask, head->v + (first + j) * head->v_step + d));
    }
}

/* 2^x for x <= 0, to 3e-7; 0 where the result would not be normal, because sums with such numbers
 * take a hundred times as long. */
static inline vf exp2_of_negative(vf x)
{
    const vf lowest = vf_set(-126.0f);
    vf clamped = vf_max(lowest, x);
    vf n = vf_round(clamped);
    vf r = clamped - n;
    /* Minimax for 2^r / 1 on |r| <= 1/2. */
    vf p = vf_fma(r, vf_set(1.339676272e-3f), vf_set(9.666368515e-3f));

    p = vf_fma(p, r, vf_set(5.550332701e-2f));
    p = vf_fma(p, r, vf_set(2.402234904e-1f));
    p = vf_fma(p, r, vf_set(6.931472108e-1f));
    p = vf_fma(p, r, vf_set(1.0f));
    return vf_zero_below(vf_scale_by_power(p, n), x, lowest);
}

/* Adds log2(e) bias to `count` scores of one query. */
static void add_bias(float *scores, const float *bias, int64_t count)
{
    for (int64_t j = 0; j < count; j += VF_WIDTH) {
        vf more = vf_load_masked(vmask_first(count - j), bias + j);

        vf_store(scores + j, vf_fma(more, vf_set(LOG2_E), vf_load(scores + j)));
    }
}

/* The scores of keys from `visible` on, up to `count`, become nothing. */
static void hide_scores(float *scores, int64_t visible, int64_t count)
{
    for (int64_t j = max_i64(visible, 0); j < count; j++)
        scores[j] = -INFINITY;
}

/* Turns scores into their exponentials under the tile's new maximum and adds them to its totals.
 * keep[r] becomes what the row's earlier sums have to be multiplied by. */
static void exponentiate(float *scores, float *keep, struct tile *tile, int64_t count)
{
    vf before = vf_load(tile->highest), highest;

    for (int r = 0; r < TILE_ROWS; r++) {
        vf row_highest = vf_set(tile->highest[r]);

        for (int64_t j = 0; j < count; j += VF_WIDTH)
            row_highest = vf_max(vf_load(scores + r * KEYS_MAX + j), row_highest);
        tile->highest[r] = vf_highest(row_highest);
    }
    highest = vf_load(tile->highest);
    vf_store(keep, exp2_of_negative(before - highest));
    for (int r = 0; r < TILE_ROWS; r++) {
        float *row = scores + r * KEYS_MAX;
        vf row_highest = vf_set(tile->highest[r]);
        vf total = vf_load(tile->total[r]) * vf_set(keep[r]);

        for (int64_t j = 0; j < count; j += VF_WIDTH) {
            vf share = exp2_of_negative(vf_load(row + j) - row_highest);

            vf_store(row + j, share);
            total += share;
        }
        vf_store(tile->total[r], total);
    }
}

/* Takes the tile whose first query is `query` through the packed keys [first, first + count). */
static void absorb_block(const struct attention *job, const struct head *head,
                         struct workspace *work, int64_t tile, int64_t query, int64_t first,
                         int64_t count)
{
    int64_t width = job->width;
    int64_t rows = min_i64(TILE_ROWS, job->queries - query);
    const float *queries = work->queries + tile * width * TILE_ROWS;
    float *sums = work->sums + tile * job->padded_width * TILE_ROWS;
    float keep[ROW_LANES];

    if (job->options->is_causal)
        count = min_i64(count, query + rows - first);
    if (count <= 0)
        return;
    for (int64_t j = 0; j < count; j += PANEL)
        tile_product(work->scores + j, KEYS_MAX, NULL, queries, 1, TILE_ROWS,
                     work->keys + j * width, width);
    for (int64_t r = 0; r < TILE_ROWS; r++) {
        float *row = work->scores + r * KEYS_MAX;

        if (head->bias && r < rows)
            add_bias(row, head->bias + (query + r) * head->bias_step + first, count);
        hide_scores(row, job->options->is_causal ? min_i64(count, query + r + 1 - first) : count,
                    (count + PANEL - 1) / PANEL * PANEL);
    }
    exponentiate(work->scores, keep, &work->tiles[tile], count);
    for (int64_t d = 0; d < job->padded_width; d += PANEL)
        tile_product(sums + d * TILE_ROWS, PANEL, keep, work->scores, KEYS_MAX, 1,
                     work->values + d * job->block_keys, count);
}

static void start_tile(const struct attention *job, const struct head *head, struct workspace *work,
                       int64_t tile, int64_t query)
{
    struct tile *state = &work->tiles[tile];
    int64_t size = job->padded_width * TILE_ROWS;

    vf_copy_transposed(work->queries + tile * job->width * TILE_ROWS, TILE_ROWS, TILE_ROWS,
                       head->q + query * head->q_step, head->q_step, job->queries - query,
                       job->width, job->options->scale * LOG2_E);
    memset(work->sums + tile * size, 0, (size_t)size * sizeof(float));
    memset(state, 0, sizeof *state);
    /* Not -infinity: a row whose first keys are all hidden would compute infinity - infinity. */
    for (int r = 0; r < ROW_LANES; r++)
        state->highest[r] = -FLT_MAX;
}

static void write_tile(const struct attention *job, const struct head *head,
                       const struct workspace *work, int64_t tile, int64_t query)
{
    const float *sums = work->sums + tile * job->padded_width * TILE_ROWS;
    int64_t rows = min_i64(TILE_ROWS, job->queries - query);

    for (int64_t r = 0; r < rows; r++) {
        vf inverse = vf_set(1.0f / vf_sum(vf_load(work->tiles[tile].total[r])));
        float *out = head->out + (query + r) * head->out_step;

        for (int64_t d = 0; d < job->width; d += VF_WIDTH) {
            const float *from = sums + d / PANEL * PANEL * TILE_ROWS + r * PANEL + d % PANEL;

            vf_store_masked(vmask_first(job->width - d), out + d, vf_load(from) * inverse);
        }
    }
}

static struct head head_of_task(const struct attention *job, int64_t task)
{
    const struct tensor *q = job->q, *k = job->k, *v = job->v, *out = job->out;
    const struct tensor *bias = job->options->bias;
    int64_t heads = q->dim[2];
    int64_t n = task / job->tasks_per_head % heads, b = task / job->tasks_per_head / heads;
    struct head head = {
        .q = (const float *)q->data + b * q->stride[0] + n * q->stride[2],
        .k = (const float *)k->data + b * k->stride[0] + n * k->stride[2],
        .v = (const float *)v->data + b * v->stride[0] + n * v->stride[2],
        .out = (float *)out->data + b * out->stride[0] + n * out->stride[2],
        .q_step = q->stride[1],
        .k_step = k->stride[1],
        .v_step = v->stride[1],
        .out_step = out->stride[1],
    };

    if (bias) {
        head.bias = (const float *)bias->data + n * bias->stride[0];
        head.bias_step = bias->stride[1];
    }
    return head;
}

static void run_task(const struct attention *job, struct workspace *work, int64_t task)
{
    struct head head = head_of_task(job, task);
    int64_t begin = task % job->tasks_per_head * job->tiles_per_task * TILE_ROWS;
    int64_t end = min_i64(job->queries, begin + job->tiles_per_task * TILE_ROWS);
    int64_t tiles = ceil_div_i64(end - begin, TILE_ROWS);
    int64_t keys = job->options->is_causal ? min_i64(job->keys, end) : job->keys;

    for (int64_t i = 0; i < tiles; i++)
        start_tile(job, &head, work, i, begin + i * TILE_ROWS);
    for (int64_t first = 0; first < keys; first += job->block_keys) {
        int64_t count = min_i64(job->block_keys, keys - first);

        pack_keys(work->keys, &head, first, count, job->width);
        pack_values(work->values, &head, first, count, job);
        for (int64_t i = 0; i < tiles; i++)
            absorb_block(job, &head, work, i, begin + i * TILE_ROWS, first, count);
    }
    for (int64_t i = 0; i < tiles; i++)
        write_tile(job, &head, work, i, begin + i * TILE_ROWS);
}

/* Bytes of workspace that do not depend on the number of tiles, and bytes for each tile. */
static int64_t fixed_bytes(const struct attention *job)
{
    int64_t floats = job->block_keys * (job->width + job->padded_width) + TILE_ROWS * KEYS_MAX;

    return floats * (int64_t)sizeof(float);
}

static int64_t tile_bytes(const struct attention *job)
{
    int64_t floats = TILE_ROWS * (job->width + job->padded_width);

    return floats * (int64_t)sizeof(float) + (int64_t)sizeof(struct tile);
}

static struct workspace workspace_in(void *scratch, const struct attention *job)
{
    struct workspace work = {.keys = scratch};

    work.values = work.keys + job->block_keys * job->width;
    work.scores = work.values + job->block_keys * job->padded_width;
    work.sums = work.scores + TILE_ROWS * KEYS_MAX;
    work.queries = work.sums + job->tiles_per_task * TILE_ROWS * job->padded_width;
    work.tiles = (void *)(work.queries + job->tiles_per_task * TILE_ROWS * job->width);
    return work;
}

static void attention_task(void *context, int thread_index, int thread_count)
{
    const struct attention *job = context;
    struct workspace work = workspace_in(cpu_thread_scratch(job->stream, thread_index), job);

    (void)thread_count;
    for (int64_t task; (task = thread_pool_next(job->stream->pool)) < job->task_count;) {
        if (stream_skips(job->stream))
            return;
        run_task(job, &work, task);
    }
}

/* Few and large tasks pack keys and values less often; several for each thread keep all busy. */
static void divide(struct attention *job)
{
    int64_t heads = job->q->dim[0] * job->q->dim[2];
    int64_t tiles = ceil_div_i64(job->queries, TILE_ROWS);
    int64_t fit = ((int64_t)CPU_THREAD_SCRATCH_BYTES - fixed_bytes(job)) / tile_bytes(job);
    int64_t wanted_tasks = TASKS_PER_THREAD * thread_pool_size(job->stream->pool);
    int64_t most = max_i64(TILES_MIN, ceil_div_i64(heads * tiles, wanted_tasks));

    job->tasks_per_head = ceil_div_i64(tiles, min_i64(fit, most));
    job->tiles_per_task = ceil_div_i64(tiles, job->tasks_per_head);
    job->task_count = heads * job->tasks_per_head;
}

static bool is_plain(const struct tensor *x)
{
    return x->dtype == DTYPE_F32 && x->rank == 4 && x->stride[3] == 1;
}

void LEVEL(cpu_attention)(struct stream *stream, struct tensor *out, const struct tensor *q,
                          const struct tensor *k, const struct tensor *v,
                          const struct attention_options *options)
{
    struct attention job = {
        .q = q,
        .k = k,
        .v = v,
        .out = out,
        .options = options,
        .stream = stream,
        .width = q->dim[3],
        .padded_width = ceil_div_i64(q->dim[3], PANEL) * PANEL,
        .queries = q->dim[1],
        .keys = k->dim[1],
        .block_keys = q->dim[3] <= 128 ? KEYS_MAX : KEYS_MAX / 2,
    };

    if (stream_skips(stream))
        return;
    assert(tensor_same_shape(out, q) && tensor_same_shape(k, v));
    if (!is_plain(q) || !is_plain(k) || !is_plain(v) || !is_plain(out) ||
        job.width > HEAD_WIDTH_MAX || (options->bias && options->bias->dtype != DTYPE_F32)) {
        backend_ref_ops.attention(stream, out, q, k, v, options);
        return;
    }
    if (tensor_count(out) == 0)
        return;
    divide(&job);
    thread_pool_run(stream->pool, attention_task, &job);
}
