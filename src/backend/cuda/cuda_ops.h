/* The ops that need no more than their kernel: for plugin.c's table. */
#ifndef BACKEND_CUDA_CUDA_OPS_H
#define BACKEND_CUDA_CUDA_OPS_H

#include "backend/backend.h"

/* Fills in those that cuda_ops.c has. */
void cuda_ops_fill(struct backend_ops *ops);

#endif
