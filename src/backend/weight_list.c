#include "backend/weight_list.h"

#include <stdlib.h>

static bool append(struct weight_list *list, const struct weight_request *request,
                   struct error *err)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 256;
        struct weight_request *grown =
            reallocarray(list->requests, capacity, sizeof *list->requests);

        if (!grown)
            return error_set(err, ERROR_NO_MEMORY, "list of weights");
        list->requests = grown;
        list->capacity = capacity;
    }
    list->requests[list->count++] = *request;
    return true;
}

bool weight_list_add(struct weight_list *list, const struct linear *layers, int count, bool is_conv,
                     struct error *err)
{
    const struct weight_request request = {.layers = layers, .count = count, .is_conv = is_conv};

    return !tensor_exists(&layers[0].weight) || append(list, &request, err);
}

bool weight_list_add_each(struct weight_list *list, const struct linear *const *linears,
                          struct error *err)
{
    for (; *linears; linears++)
        if (!weight_list_add(list, *linears, 1, false, err))
            return false;
    return true;
}

bool weight_list_add_table(struct weight_list *list, const struct tensor *table, struct error *err)
{
    return append(list, &(struct weight_request){.count = 1, .table = table}, err);
}

bool weight_list_end_group(struct weight_list *list, struct error *err)
{
    if (list->group_count == list->group_capacity) {
        size_t capacity = list->group_capacity ? 2 * list->group_capacity : 64;
        size_t *grown = reallocarray(list->group_end, capacity, sizeof *grown);

        if (!grown)
            return error_set(err, ERROR_NO_MEMORY, "list of weights");
        list->group_end = grown;
        list->group_capacity = capacity;
    }
    list->group_end[list->group_count++] = list->count;
    return true;
}

size_t weight_list_grouped(const struct weight_list *list)
{
    return list->group_count > 0 ? list->group_end[list->group_count - 1] : 0;
}

void weight_list_finish(struct weight_list *list)
{
    free(list->requests);
    free(list->group_end);
    *list = (struct weight_list){0};
}
