/* The tensors of a component, one by one, as its network asks for them. */
#ifndef CONVERT_MODEL_TENSORS_H
#define CONVERT_MODEL_TENSORS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"
#include "weights/weights.h"

struct model_tensor {
    char name[96]; /* canonical, suffix included */
    enum weights_use use;
    struct tensor view;
    bool has_scale;
    const struct safetensors_file *file;
    const struct safetensors_entry *entry;
};

struct model_tensors {
    struct model_tensor *tensor; /* in the order of asking */
    size_t count, capacity;
};

/* Has the network of the component look for all that it needs, and lists what it got; the views
 * live as long as the weights. Fails when tensors are missing or cannot be used, naming the first
 * five; `problem`, which may be NULL, is told of all of them. */
MUST_CHECK bool model_tensors_list(struct model_tensors *list, struct weights *weights,
                                   void (*problem)(void *context, const char *problem),
                                   void *context, struct error *err);
void model_tensors_finish(struct model_tensors *list);

/* NULL: none of this name. */
const struct model_tensor *model_tensors_find(const struct model_tensors *list, const char *format,
                                              ...) PRINTF_LIKE(2, 3);

#endif
