#include "backend/cuda/cuda_choices.h"

#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_stream.h"
#include "base/file.h"
#include "base/size.h"

#define BUILD_TEXT_BYTES 80
#define NOTE_ALIGN 4
#define NAME_OF_GNU "GNU" /* with its NUL, as notes have it */

/* --- Which build of the plugin this is --- */

struct build_search {
    uintptr_t address; /* in the shared object that is meant */
    char text[BUILD_TEXT_BYTES];
};

static bool contains(const struct dl_phdr_info *object, uintptr_t address)
{
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        uintptr_t start = object->dlpi_addr + segment->p_vaddr;

        if (segment->p_type == PT_LOAD && address >= start && address - start < segment->p_memsz)
            return true;
    }
    return false;
}

/* Hexadecimal digits of the build id among the notes, if it is there. */
static void read_build_note(char text[BUILD_TEXT_BYTES], const unsigned char *notes, size_t size)
{
    ElfW(Nhdr) note;

    while (size >= sizeof note) {
        size_t name_bytes, value_bytes;
        const unsigned char *name = notes + sizeof note, *value;

        memcpy(&note, notes, sizeof note);
        name_bytes = size_round_up(note.n_namesz, NOTE_ALIGN);
        value_bytes = size_round_up(note.n_descsz, NOTE_ALIGN);
        size -= sizeof note;
        if (name_bytes > size || value_bytes > size - name_bytes)
            return;
        value = name + name_bytes;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof NAME_OF_GNU &&
            memcmp(name, NAME_OF_GNU, sizeof NAME_OF_GNU) == 0) {
            for (size_t i = 0; i < note.n_descsz && 2 * i + 3 <= BUILD_TEXT_BYTES; i++)
                snprintf(text + 2 * i, 3, "%02x", value[i]);
            return;
        }
        size -= name_bytes + value_bytes;
        notes = value + value_bytes;
    }
}

static int search_object(struct dl_phdr_info *object, size_t size, void *context)
{
    struct build_search *search = context;

    (void)size;
    if (!contains(object, search->address))
        return 0;
    for (int i = 0; i < object->dlpi_phnum && !search->text[0]; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];

        if (segment->p_type == PT_NOTE)
            read_build_note(search->text,
                            (const unsigned char *)(object->dlpi_addr + segment->p_vaddr),
                            segment->p_memsz);
    }
    return 1;
}

/* What the linker called this build: another one may choose among other algorithms. */
static struct build_search find_build(void)
{
    static const char here = 0;
    struct build_search search = {.address = (uintptr_t)&here};

    dl_iterate_phdr(search_object, &search);
    return search;
}

/* --- Whose choices they are --- */

/* "580.65.06"; "" where the system does not say. */
static void read_driver(char *text, size_t size)
{
    unsigned char *bytes;
    size_t count;

    *text = '\0';
    if (!file_read(&bytes, &count, "/sys/module/nvidia/version", 4096, NULL))
        return;
    snprintf(text, size, "%.*s", (int)strcspn((char *)bytes, "\n"), (char *)bytes);
    free(bytes);
}

bool cuda_choices_create(struct choice_file **out, const struct cuda_device *device,
                         struct error *err)
{
    const struct cuda_libraries *libraries = &device->libraries;
    const struct build_search build = find_build();
    char identity[640], driver[64];
    int driver_cuda = 0;

    read_driver(driver, sizeof driver);
    (void)cudaDriverGetVersion(&driver_cuda);
    snprintf(identity, sizeof identity,
             "%.255s, capability %d, %d multiprocessors; driver %s for CUDA %d; cuBLASLt %zu; "
             "cuDNN %zu; plugin %s",
             device->name, device->capability, device->multiprocessors, driver, driver_cuda,
             libraries->blas.cublasLtGetVersion(),
             libraries->has_dnn ? libraries->dnn.cudnnGetVersion() : (size_t)0, build.text);
    return choice_file_create(out, device->choice_folder, identity, err);
}
