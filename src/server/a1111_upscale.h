/* What AUTOMATIC1111's extra-... requests ask for. Private to a1111_*.c; pure functions. */
#ifndef SERVER_A1111_UPSCALE_H
#define SERVER_A1111_UPSCALE_H

#include "server/a1111_value.h"
#include "wire/messages.h"

struct a1111_upscale {
    enum a1111_upscale_method {
        A1111_UPSCALE_NONE,
        A1111_UPSCALE_LANCZOS,
        A1111_UPSCALE_NEAREST
    } method;
    bool to_size, crops; /* to_size: to cover width x height, and cut to it where it crops */
    double factor;       /* else */
    int64_t width, height;
};
MUST_CHECK bool a1111_upscale_read(struct a1111_upscale *out, const json_t *body, bool is_batch,
                                   struct a1111_problem *problem);
/* Fills the sizes of *out for a picture of this size. */
MUST_CHECK bool a1111_upscale_plan(struct upscale_message *out, const struct a1111_upscale *upscale,
                                   int width, int height, struct a1111_problem *problem);

#endif
