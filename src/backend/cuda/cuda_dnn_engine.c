#include "backend/cuda/cuda_dnn_engine.h"

#include <stddef.h>
#include <string.h>

/* The engine of a configuration, as a descriptor that the caller destroys; NULL when cuDNN does not
 * tell. */
static cudnnBackendDescriptor_t engine_of(const struct dnn_functions *dnn,
                                          cudnnBackendDescriptor_t config)
{
    cudnnBackendDescriptor_t engine = NULL;
    int64_t count = 0;

    if (dnn->cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine))
        return NULL;
    if (!dnn->cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &engine))
        return engine;
    dnn->cudnnBackendDestroyDescriptor(engine);
    return NULL;
}

bool dnn_engine_is_welcome(const struct dnn_functions *dnn, cudnnBackendDescriptor_t config)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    cudnnBackendDescriptor_t engine = engine_of(dnn, config);
    bool is_welcome = true;
    int64_t count = 0;

    if (!engine)
        return true;
    if (dnn->cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                      CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT,
                                      &count, notes))
        count = 0;
    for (int64_t i = 0; i < count && i < CUDNN_NUMERICAL_NOTE_TYPE_COUNT; i++) {
        switch (notes[i]) {
        case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
        case CUDNN_NUMERICAL_NOTE_FFT:
        case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13:
            is_welcome = false;
            break;
        default:
            break;
        }
    }
    dnn->cudnnBackendDestroyDescriptor(engine);
    return is_welcome;
}

/* --- Reading a configuration --- */

static bool read_knob(struct dnn_knob *knob, const struct dnn_functions *dnn,
                      cudnnBackendDescriptor_t choice)
{
    cudnnBackendKnobType_t type;
    int64_t count = 0;

    if (dnn->cudnnBackendGetAttribute(choice, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE,
                                      CUDNN_TYPE_KNOB_TYPE, 1, &count, &type) ||
        dnn->cudnnBackendGetAttribute(choice, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64,
                                      1, &count, &knob->value))
        return false;
    knob->type = type;
    return true;
}

static bool read_knobs(struct dnn_engine *engine, const struct dnn_functions *dnn,
                       cudnnBackendDescriptor_t config)
{
    cudnnBackendDescriptor_t choices[DNN_KNOBS_MAX];
    int made = 0;
    bool ok = true;

    while (ok && made < DNN_KNOBS_MAX) {
        ok = dnn->cudnnBackendCreateDescriptor(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR,
                                               &choices[made]) == CUDNN_STATUS_SUCCESS;
        made += ok;
    }
    ok = ok &&
         !dnn->cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                                        CUDNN_TYPE_BACKEND_DESCRIPTOR, DNN_KNOBS_MAX,
                                        &engine->knob_count, choices) &&
         engine->knob_count >= 0 && engine->knob_count <= DNN_KNOBS_MAX;
    for (int64_t i = 0; ok && i < engine->knob_count; i++)
        ok = read_knob(&engine->knob[i], dnn, choices[i]);
    while (made > 0)
        dnn->cudnnBackendDestroyDescriptor(choices[--made]);
    return ok;
}

bool dnn_engine_of(struct dnn_engine *out, const struct dnn_functions *dnn,
                   cudnnBackendDescriptor_t config)
{
    cudnnBackendDescriptor_t engine = engine_of(dnn, config);
    int64_t count = 0;
    bool ok;

    *out = (struct dnn_engine){.number = -1};
    if (!engine)
        return false;
    ok = !dnn->cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1,
                                        &count, &out->number) &&
         read_knobs(out, dnn, config);
    dnn->cudnnBackendDestroyDescriptor(engine);
    return ok;
}

size_t dnn_engine_bytes(const struct dnn_engine *engine)
{
    return offsetof(struct dnn_engine, knob) + (size_t)engine->knob_count * sizeof *engine->knob;
}

bool dnn_engine_from(struct dnn_engine *out, const void *bytes, size_t size)
{
    *out = (struct dnn_engine){.number = -1};
    if (size < offsetof(struct dnn_engine, knob) || size > sizeof *out)
        return false;
    memcpy(out, bytes, size);
    return out->number >= 0 && out->knob_count >= 0 && out->knob_count <= DNN_KNOBS_MAX &&
           dnn_engine_bytes(out) == size;
}

/* --- Making a configuration --- */

/* A descriptor under construction: created, given its attributes, finalised. */
struct making {
    const struct dnn_functions *dnn;
    cudnnBackendDescriptor_t descriptor; /* NULL: not created */
    bool ok;
};

static struct making make(const struct dnn_functions *dnn, cudnnBackendDescriptorType_t type)
{
    struct making making = {.dnn = dnn};

    making.ok = !dnn->cudnnBackendCreateDescriptor(type, &making.descriptor);
    return making;
}

static void give(struct making *making, cudnnBackendAttributeName_t name,
                 cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    making->ok = making->ok && !making->dnn->cudnnBackendSetAttribute(making->descriptor, name,
                                                                      type, count, values);
}

/* NULL when any of it was refused. */
static cudnnBackendDescriptor_t made(struct making *making)
{
    if (making->ok && !making->dnn->cudnnBackendFinalize(making->descriptor))
        return making->descriptor;
    if (making->descriptor)
        making->dnn->cudnnBackendDestroyDescriptor(making->descriptor);
    return NULL;
}

static cudnnBackendDescriptor_t make_knob(const struct dnn_functions *dnn,
                                          const struct dnn_knob *knob)
{
    struct making making = make(dnn, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    cudnnBackendKnobType_t type = (cudnnBackendKnobType_t)knob->type;

    give(&making, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
    give(&making, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &knob->value);
    return made(&making);
}

static cudnnBackendDescriptor_t make_engine(const struct dnn_functions *dnn, int64_t number,
                                            cudnnBackendDescriptor_t operations)
{
    struct making making = make(dnn, CUDNN_BACKEND_ENGINE_DESCRIPTOR);

    give(&making, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &operations);
    give(&making, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &number);
    return made(&making);
}

static cudnnBackendDescriptor_t make_config(const struct dnn_functions *dnn,
                                            cudnnBackendDescriptor_t engine,
                                            const cudnnBackendDescriptor_t *knobs, int count)
{
    struct making making = make(dnn, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);

    give(&making, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine);
    if (count > 0)
        give(&making, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, count,
             knobs);
    return made(&making);
}

cudnnBackendDescriptor_t dnn_engine_config(const struct dnn_engine *engine,
                                           const struct dnn_functions *dnn,
                                           cudnnBackendDescriptor_t operations)
{
    cudnnBackendDescriptor_t knobs[DNN_KNOBS_MAX], config = NULL;
    cudnnBackendDescriptor_t number = make_engine(dnn, engine->number, operations);
    int count = 0;

    while (number && count < engine->knob_count) {
        knobs[count] = make_knob(dnn, &engine->knob[count]);
        if (!knobs[count])
            break;
        count++;
    }
    if (number && count == engine->knob_count)
        config = make_config(dnn, number, knobs, count);
    while (count > 0) /* the configuration has what it needs of them */
        dnn->cudnnBackendDestroyDescriptor(knobs[--count]);
    if (number)
        dnn->cudnnBackendDestroyDescriptor(number);
    return config;
}
