/* Whatever opens as safetensors has its entries inside the data, in tiles, with shapes that match.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "weights/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check(int holds)
{
    if (!holds)
        abort();
}

static void check_entry(const struct safetensors_file *file, const struct safetensors_entry *entry,
                        const uint8_t *begin, const uint8_t *end)
{
    size_t count = 1;

    check(entry->data >= begin && entry->data <= end);
    check(entry->bytes <= (size_t)(end - entry->data));
    check(entry->rank >= 0 && entry->rank <= SAFETENSORS_MAX_RANK);
    check(strlen(entry->name) >= 1 && strlen(entry->name) <= SAFETENSORS_NAME_BYTES_MAX);
    check(safetensors_find(file, entry->name) == entry);
    for (int i = 0; i < entry->rank; i++)
        check(entry->dim[i] >= 0 && size_mul(&count, count, (size_t)entry->dim[i]));
    if (entry->dtype != SAFETENSORS_DTYPE_COUNT)
        check(count * safetensors_dtype_size(entry->dtype) == entry->bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct safetensors_file *file;
    struct error err = {0};
    uint64_t header = 0;
    size_t sum = 0;

    if (!safetensors_open_memory(&file, bytes, size, "fuzz", &err)) {
        check(err.code == ERROR_BAD_FILE && err.message[0]);
        return 0;
    }
    for (int i = 7; i >= 0; i--)
        header = header << 8 | bytes[i];
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct safetensors_entry *entry = safetensors_entry_at(file, i);

        check_entry(file, entry, bytes + 8 + header, bytes + size);
        check(i == 0 || strcmp(safetensors_entry_at(file, i - 1)->name, entry->name) < 0);
        sum += entry->bytes;
    }
    check(sum == size - 8 - header);
    (void)safetensors_metadata(file, "format");
    safetensors_close(file);
    return 0;
}
