/* A list of the weights that a model hands to ops, for backend_ops.weights_hold. */
#ifndef BACKEND_WEIGHT_LIST_H
#define BACKEND_WEIGHT_LIST_H

#include "backend/backend.h"

struct weight_list {
    struct weight_request *requests;
    size_t count, capacity;
    /* Requests that are used one group after the other come first; group g ends before
     * requests[group_end[g]]. What comes after the last group is used in between. */
    size_t *group_end;
    size_t group_count, group_capacity;
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
/* What was appended since the last group is one. */
MUST_CHECK bool weight_list_end_group(struct weight_list *list, struct error *err);
/* The requests of all groups. */
size_t weight_list_grouped(const struct weight_list *list);
void weight_list_finish(struct weight_list *list);

#endif
