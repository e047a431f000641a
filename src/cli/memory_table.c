#include "cli/memory_table.h"

static double mebibytes(size_t bytes)
{
    return (double)bytes / (1 << 20);
}

static void print_phase(FILE *out, const char *name, size_t weights, size_t work)
{
    fprintf(out, "  %-12s %10.1f %10.1f\n", name, mebibytes(weights), mebibytes(work));
}

void memory_table_print(FILE *out, const struct pipeline_memory *memory)
{
    fprintf(out, "%-14s %10s %10s %10s\n", "memory in MiB", "weights", "work", "peak");
    print_phase(out, "text", memory->weights_text, memory->work_text);
    print_phase(out, "transformer", memory->weights_transformer, memory->work_transformer);
    print_phase(out, "VAE", memory->weights_vae, memory->work_vae);
    fprintf(out, "  %-12s %10s %10.1f\n", "program", "", mebibytes(memory->base));
    if (memory->pinned > 0)
        fprintf(out, "  %-12s %10.1f\n", "host, pinned", mebibytes(memory->pinned));
    fprintf(out, "  %-12s %10s %10s %10.1f\n", "all", "", "", mebibytes(memory->peak));
}
