#include "backend/cuda/cuda_weight_table.h"

#include <stdlib.h>

#define CAPACITY_FIRST 1024

struct copy_key weight_request_key(const struct weight_request *request)
{
    if (request->table)
        return (struct copy_key){.address = request->table->data, .kind = COPY_TABLE};
    return (struct copy_key){.address = request->layers[0].weight.data,
                             .kind = request->is_conv ? COPY_FILTER : COPY_LINEAR,
                             .count = request->count,
                             .dtype = linear_held_dtype(&request->layers[0])};
}

bool weight_table_init(struct weight_table *table, struct error *err)
{
    *table = (struct weight_table){.capacity = CAPACITY_FIRST};
    table->slots = calloc(table->capacity, sizeof *table->slots);
    return table->slots || error_set(err, ERROR_NO_MEMORY, "no memory for weights");
}

void weight_table_finish(struct weight_table *table)
{
    free(table->slots);
    *table = (struct weight_table){0};
}

static bool same_key(const struct copy_key *a, const struct copy_key *b)
{
    return a->address == b->address && a->kind == b->kind && a->count == b->count &&
           a->dtype == b->dtype && a->height == b->height && a->width == b->width;
}

static size_t hash_key(const struct copy_key *key)
{
    uint64_t hash = (uint64_t)(uintptr_t)key->address * 0x9e3779b97f4a7c15u;

    hash ^= ((uint64_t)key->kind << 8) + (uint64_t)key->count + (uint64_t)key->height * 131 +
            (uint64_t)key->width * 65599;
    return (size_t)(hash ^ hash >> 29);
}

/* The copy under this key, or the empty slot where it belongs. */
static struct weight_copy *find_slot(const struct weight_table *table, const struct copy_key *key)
{
    size_t at = hash_key(key) & (table->capacity - 1);

    while (table->slots[at].key.address && !same_key(&table->slots[at].key, key))
        at = (at + 1) & (table->capacity - 1);
    return &table->slots[at];
}

const struct weight_copy *weight_table_find(const struct weight_table *table,
                                            const struct copy_key *key)
{
    const struct weight_copy *copy = find_slot(table, key);

    return copy->key.address ? copy : NULL;
}

static bool grow(struct weight_table *table)
{
    struct weight_table larger = {.capacity = 2 * table->capacity, .used = table->used};

    larger.slots = calloc(larger.capacity, sizeof *larger.slots);
    if (!larger.slots)
        return false;
    for (size_t i = 0; i < table->capacity; i++)
        if (table->slots[i].key.address)
            *find_slot(&larger, &table->slots[i].key) = table->slots[i];
    free(table->slots);
    *table = larger;
    return true;
}

bool weight_table_add(struct weight_table *table, const struct weight_copy *copy)
{
    if (2 * table->used >= table->capacity && !grow(table))
        return false;
    *find_slot(table, &copy->key) = *copy;
    table->used++;
    return true;
}

/* Those behind it that may lie nearer to where they belong do so then, as Knuth has it (volume 3,
 * section 6.4, algorithm R): a search ends at the first empty slot. */
static void remove_at(struct weight_table *table, size_t hole)
{
    size_t mask = table->capacity - 1, at;

    for (at = (hole + 1) & mask; table->slots[at].key.address; at = (at + 1) & mask) {
        size_t home = hash_key(&table->slots[at].key) & mask;

        if (((at - home) & mask) < ((at - hole) & mask))
            continue;
        table->slots[hole] = table->slots[at];
        hole = at;
    }
    table->slots[hole] = (struct weight_copy){0};
    table->used--;
}

void weight_table_remove_owned(struct weight_table *table, const void *owner)
{
    for (size_t i = 0; i < table->capacity; i++)
        while (table->slots[i].key.address && table->slots[i].owner == owner)
            remove_at(table, i);
}

void weight_table_remove(struct weight_table *table, const struct copy_key *key, const void *owner)
{
    struct weight_copy *copy = find_slot(table, key);

    if (copy->key.address && copy->owner == owner)
        remove_at(table, (size_t)(copy - table->slots));
}
