/* The memory plan of a run as a small table. */
#ifndef CLI_MEMORY_TABLE_H
#define CLI_MEMORY_TABLE_H

#include <stdio.h>

#include "pipeline/pipeline.h"

void memory_table_print(FILE *out, const struct pipeline_memory *memory);

#endif
