/* Element by element: out[i] = f(inputs[i]), for f32. Other types go to the reference. */
#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/loop.h"
#include "backend/cpu/simd.h"

/* What the functions below take besides their elements. */
struct factors {
    float a, b;
};

typedef vf (*element_function)(const vf *x, const struct factors *factors);

/* Inlined, so that f is part of the loop. Operand 0 is the output. */
static inline __attribute__((always_inline)) void
apply(const struct cpu_loop_rows *rows, const void *params, int inputs, element_function f)
{
    const struct factors *factors = params;
    vmask tail = vmask_first(rows->width % VF_WIDTH);
    int64_t whole = rows->width - rows->width % VF_WIDTH;

    for (int64_t r = 0; r < rows->count; r++) {
        float *out = (float *)(rows->at[0] + r * rows->step[0]);
        const float *in[3];
        vf x[3];

        for (int i = 0; i < inputs; i++)
            in[i] = (const float *)(rows->at[i + 1] + r * rows->step[i + 1]);
        for (int64_t c = 0; c < whole; c += VF_WIDTH) {
            for (int i = 0; i < inputs; i++)
                x[i] = vf_load(in[i] + c);
            vf_store(out + c, f(x, factors));
        }
        if (whole == rows->width)
            continue;
        for (int i = 0; i < inputs; i++)
            x[i] = vf_load_masked(tail, in[i] + whole);
        vf_store_masked(tail, out + whole, f(x, factors));
    }
}

/* NAME_rows: the loop body that applies NAME to `inputs` operands. */
#define DEFINE_ROWS(name, inputs)                                                                  \
    static void name##_rows(const struct cpu_loop_rows *rows, const void *params)                  \
    {                                                                                              \
        apply(rows, params, inputs, name);                                                         \
    }

static inline vf scaled_sum(const vf *x, const struct factors *factors)
{
    return vf_fma(vf_set(factors->a), x[0], vf_set(factors->b) * x[1]);
}

static inline vf sum(const vf *x, const struct factors *factors)
{
    (void)factors;
    return x[0] + x[1];
}

static inline vf gated_sum(const vf *x, const struct factors *factors)
{
    (void)factors;
    return vf_fma(x[1], x[2], x[0]);
}

static inline vf blend(const vf *x, const struct factors *factors)
{
    (void)factors;
    return vf_fma(x[0], x[1], (vf_set(1.0f) - x[0]) * x[2]);
}

static inline vf silu(const vf *x, const struct factors *factors)
{
    (void)factors;
    return vf_silu(x[0]);
}

/* (1 + tanh u) / 2 = sigmoid(2 u) */
static inline vf gelu_tanh(const vf *x, const struct factors *factors)
{
    vf cubic = vf_fma(x[0] * x[0], vf_set(0.044715f), vf_set(1.0f));

    (void)factors;
    return x[0] * vf_sigmoid(vf_set(1.59576912f) * x[0] * cubic); /* 2 sqrt(2 / pi) */
}

static inline vf gelu_erf(const vf *x, const struct factors *factors)
{
    vf half = vf_set(0.5f) * x[0];

    (void)factors;
    return vf_fma(half, vf_erf(x[0] * vf_set(0.707106781f)), half);
}

static inline vf gelu_quick(const vf *x, const struct factors *factors)
{
    (void)factors;
    return x[0] * vf_sigmoid(vf_set(1.702f) * x[0]);
}

static inline vf gelu_times(const vf *x, const struct factors *factors)
{
    return gelu_tanh(x, factors) * x[1];
}

DEFINE_ROWS(scaled_sum, 2)
DEFINE_ROWS(sum, 2)
DEFINE_ROWS(gated_sum, 3)
DEFINE_ROWS(blend, 3)
DEFINE_ROWS(silu, 1)
DEFINE_ROWS(gelu_tanh, 1)
DEFINE_ROWS(gelu_erf, 1)
DEFINE_ROWS(gelu_quick, 1)
DEFINE_ROWS(gelu_times, 2)

/* Runs the loop unless a type or stride wants the reference: false then. */
static bool run_elements(struct stream *stream, int operands, const struct tensor *const *tensors,
                         cpu_loop_body body, const struct factors *factors)
{
    struct cpu_loop loop = cpu_loop_of_elements(operands, tensors);

    if (!cpu_loop_is_plain(&loop, tensors, DTYPE_F32))
        return false;
    cpu_loop_run(stream, &loop, body, factors);
    return true;
}

void LEVEL(cpu_add)(struct stream *stream, struct tensor *out, const struct tensor *a,
                    const struct tensor *b)
{
    if (!stream_skips(stream) &&
        !run_elements(stream, 3, (const struct tensor *[]){out, a, b}, sum_rows, NULL))
        backend_ref_ops.add(stream, out, a, b);
}

void LEVEL(cpu_scale_add)(struct stream *stream, struct tensor *out, float a,
                          const struct tensor *x, float b, const struct tensor *y)
{
    if (!stream_skips(stream) && !run_elements(stream, 3, (const struct tensor *[]){out, x, y},
                                               scaled_sum_rows, &(struct factors){a, b}))
        backend_ref_ops.scale_add(stream, out, a, x, b, y);
}

void LEVEL(cpu_gated_add)(struct stream *stream, struct tensor *out, const struct tensor *x,
                          const struct tensor *gate, const struct tensor *y)
{
    struct tensor gates = *x; /* the gate, seen once for each token */

    gates.dtype = gate->dtype;
    gates.data = gate->data;
    gates.stride[0] = gate->stride[0];
    gates.stride[1] = 0;
    gates.stride[2] = gate->stride[1];
    if (!stream_skips(stream) &&
        !run_elements(stream, 4, (const struct tensor *[]){out, x, &gates, y}, gated_sum_rows,
                      NULL))
        backend_ref_ops.gated_add(stream, out, x, gate, y);
}

void LEVEL(cpu_mask_blend)(struct stream *stream, struct tensor *out, const struct tensor *mask,
                           const struct tensor *x, const struct tensor *y)
{
    if (!stream_skips(stream) &&
        !run_elements(stream, 4, (const struct tensor *[]){out, mask, x, y}, blend_rows, NULL))
        backend_ref_ops.mask_blend(stream, out, mask, x, y);
}

void LEVEL(cpu_silu)(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    if (!stream_skips(stream) &&
        !run_elements(stream, 2, (const struct tensor *[]){out, x}, silu_rows, NULL))
        backend_ref_ops.silu(stream, out, x);
}

void LEVEL(cpu_gelu)(struct stream *stream, struct tensor *out, const struct tensor *x,
                     enum gelu_kind kind)
{
    static const cpu_loop_body bodies[] = {
        [GELU_TANH] = gelu_tanh_rows,
        [GELU_ERF] = gelu_erf_rows,
        [GELU_QUICK] = gelu_quick_rows,
    };

    if (!stream_skips(stream) &&
        !run_elements(stream, 2, (const struct tensor *[]){out, x}, bodies[kind], NULL))
        backend_ref_ops.gelu(stream, out, x, kind);
}

void LEVEL(cpu_gated_gelu)(struct stream *stream, struct tensor *out, const struct tensor *gate,
                           const struct tensor *up)
{
    if (!stream_skips(stream) &&
        !run_elements(stream, 3, (const struct tensor *[]){out, gate, up}, gelu_times_rows, NULL))
        backend_ref_ops.gated_gelu(stream, out, gate, up);
}

/* --- Pictures --- */

static void rgb_to_bytes_rows(const struct cpu_loop_rows *rows, const void *params)
{
    (void)params;
    for (int64_t r = 0; r < rows->count; r++) {
        unsigned char *out = (unsigned char *)(rows->at[0] + r * rows->step[0]);
        const float *x = (const float *)(rows->at[1] + r * rows->step[1]);

        for (int64_t c = 0; c < rows->width; c += VF_WIDTH) {
            vf value = vf_load_masked(vmask_first(rows->width - c), x + c);
            /* NaN becomes 0 because vf_max returns its second argument. */
            vf level =
                vf_min(vf_set(1.0f), vf_max(vf_fma(value, vf_set(0.5f), vf_set(0.5f)), vf_zero()));
            vi bytes = __builtin_convertvector(vf_round(level * vf_set(255.0f)), vi);

            for (int64_t i = 0; i < VF_WIDTH && c + i < rows->width; i++)
                out[c + i] = (unsigned char)bytes[i];
        }
    }
}

void LEVEL(cpu_rgb_to_bytes)(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    const struct tensor *tensors[] = {out, x};
    struct cpu_loop loop;

    if (stream_skips(stream))
        return;
    loop = cpu_loop_of_elements(2, tensors);
    if (out->dtype == DTYPE_U8 && x->dtype == DTYPE_F32 && loop.element_step[0] == 1 &&
        loop.element_step[1] == (int64_t)sizeof(float))
        cpu_loop_run(stream, &loop, rgb_to_bytes_rows, NULL);
    else
        backend_ref_ops.rgb_to_bytes(stream, out, x);
}

static void bytes_to_rgb_rows(const struct cpu_loop_rows *rows, const void *params)
{
    (void)params;
    for (int64_t r = 0; r < rows->count; r++) {
        float *out = (float *)(rows->at[0] + r * rows->step[0]);
        const char *x = rows->at[1] + r * rows->step[1];

        for (int64_t c = 0; c < rows->width; c += VF_WIDTH) {
            int64_t count = rows->width - c < VF_WIDTH ? rows->width - c : VF_WIDTH;
            vf value = vf_load_dtype_tail(DTYPE_U8, x + c, count);

            vf_store_masked(vmask_first(count), out + c,
                            vf_fma(value, vf_set(2.0f / 255.0f), vf_set(-1.0f)));
        }
    }
}

void LEVEL(cpu_bytes_to_rgb)(struct stream *stream, struct tensor *out, const struct tensor *x)
{
    const struct tensor *tensors[] = {out, x};
    struct cpu_loop loop;

    if (stream_skips(stream))
        return;
    loop = cpu_loop_of_elements(2, tensors);
    if (out->dtype == DTYPE_F32 && x->dtype == DTYPE_U8 && loop.element_step[1] == 1 &&
        loop.element_step[0] == (int64_t)sizeof(float))
        cpu_loop_run(stream, &loop, bytes_to_rgb_rows, NULL);
    else
        backend_ref_ops.bytes_to_rgb(stream, out, x);
}
