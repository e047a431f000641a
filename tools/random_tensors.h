/* The tensors of a random model, by canonical name. */
#ifndef TOOLS_RANDOM_TENSORS_H
#define TOOLS_RANDOM_TENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "random_model.h"
#include "weights/weights.h"

struct random_tensor {
    char name[96];
    int rank;
    int64_t dim[4];
    float mean, deviation;
    bool may_be_f8;
};

struct random_tensors {
    struct random_tensor *tensor;
    size_t count, capacity;
    bool out_of_memory;
};

/* Appends every tensor of the component, those of one stored tensor next to each other. */
void random_tensors_list(struct random_tensors *list, enum component component,
                         const struct random_model_options *options);
void random_tensors_finish(struct random_tensors *list);

#endif
