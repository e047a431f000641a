/* A list of the weights that a model hands to ops, for backend_ops.weights_hold. */
#ifndef BACKEND_WEIGHT_LIST_H
#define BACKEND_WEIGHT_LIST_H

#include "backend/backend.h"

struct weight_list {
    struct weight_request *requests;
    size_t count, capacity;
};

/* Appends linears that are used side by side, or a convolution; borrows them. Those without data
 * are left out. */
MUST_CHECK bool weight_list_add(struct weight_list *list, const struct linear *layers, int count,
                                bool is_conv, struct error *err);
/* Appends each of these linears, which end with NULL, to be used alone. */
MUST_CHECK bool weight_list_add_each(struct weight_list *list, const struct linear *const *linears,
                                     struct error *err);
/* Appends a table that is looked up by row; borrows it. */
MUST_CHECK bool weight_list_add_table(struct weight_list *list, const struct tensor *table,
                                      struct error *err);
void weight_list_finish(struct weight_list *list);

#endif
