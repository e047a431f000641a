#include "cli/bench_flops.h"

/* Multiplications of a token, in units of C^2. */
#define QKV 3
#define ATTENTION_LINEARS (QKV + 1) /* and the projection behind the attention */
#define MLP 8                       /* C to 4C and back */

/* Of the linears, in one sample. The last block's context side ends at the attention. */
static double linear_products(const struct step_shape *shape)
{
    int64_t block = ATTENTION_LINEARS + MLP;
    int64_t image = block * shape->layers + ATTENTION_LINEARS * shape->self_attentions;
    int64_t context = block * (shape->layers - 1) + QKV;

    return (double)(image * shape->image_tokens + context * shape->context_tokens) *
           (double)shape->width * (double)shape->width;
}

/* Of the scores and of the values that they weigh: T^2 C each. */
static double attention_products(const struct step_shape *shape)
{
    double image = (double)shape->image_tokens, joint = image + (double)shape->context_tokens;

    return 2 * (double)shape->width *
           ((double)shape->layers * joint * joint + (double)shape->self_attentions * image * image);
}

double bench_step_flops(const struct step_shape *shape)
{
    return 2 * (double)shape->samples * (linear_products(shape) + attention_products(shape));
}
