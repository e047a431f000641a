/* The table of a device's copies of weights, by what they are copies of. */
#ifndef BACKEND_CUDA_CUDA_WEIGHT_TABLE_H
#define BACKEND_CUDA_CUDA_WEIGHT_TABLE_H

#include "backend/cuda/cuda_weights.h"

/* How a copy was made from what lies at its address. */
enum copy_kind { COPY_LINEAR, COPY_FILTER, COPY_VECTOR, COPY_TABLE, COPY_WINDOW };

struct copy_key {
    const void *address; /* NULL: an empty slot */
    enum copy_kind kind;
    int count;             /* linears side by side */
    enum dtype dtype;      /* that the first of them is held in */
    int64_t height, width; /* of a window */
};

struct weight_copy {
    struct copy_key key;
    struct device_weight weight;
    const void *owner; /* held or streamed weights; NULL: has memory of its own */
};

struct weight_table {
    struct weight_copy *slots; /* open addressing; a power of two, never more than half full */
    size_t capacity, used;
};

/* Of what ops ask for when they meet this request's weights. */
struct copy_key weight_request_key(const struct weight_request *request);

MUST_CHECK bool weight_table_init(struct weight_table *table, struct error *err);
void weight_table_finish(struct weight_table *table); /* frees no copy */

/* NULL: there is none. */
const struct weight_copy *weight_table_find(const struct weight_table *table,
                                            const struct copy_key *key);
/* The key is not in it yet. False when memory is short. */
bool weight_table_add(struct weight_table *table, const struct weight_copy *copy);
/* Takes out the copies of this owner. */
void weight_table_remove_owned(struct weight_table *table, const void *owner);
/* Takes out the one under this key, if it is the owner's. */
void weight_table_remove(struct weight_table *table, const struct copy_key *key, const void *owner);

#endif
