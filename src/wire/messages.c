/* The fields of each message, in the order of its struct. A reader checks what a struct cannot hold
 * or no sender means; the rest is for whoever uses it. */
#include "wire/messages.h"

#include <stdlib.h>
#include <string.h>

/* From `low` to `high`; anything else fails. */
static int32_t get_range(struct record_reader *reader, int32_t low, int32_t high)
{
    int32_t value = record_get_i32(reader);

    if (value >= low && value <= high)
        return value;
    record_reader_fail(reader);
    return low;
}

static double get_seconds(struct record_reader *reader)
{
    double value = record_get_f64(reader);

    if (value < 0.0)
        record_reader_fail(reader);
    return value;
}

/* --- Jobs --- */

static void put_image(struct record_writer *writer, const struct job_image *image)
{
    record_put_bool(writer, image->bytes != NULL);
    if (image->bytes)
        record_put_bytes(writer, image->bytes, image->size);
}

static void get_image(struct record_reader *reader, struct job_image *image)
{
    const unsigned char *bytes;
    size_t size;

    *image = (struct job_image){0};
    if (!record_get_bool(reader))
        return;
    bytes = record_get_bytes(reader, &size);
    if (!bytes || size > JOB_IMAGE_BYTES_MAX) {
        record_reader_fail(reader);
        return;
    }
    image->bytes = malloc(size + 1); /* an empty file is not NULL */
    if (!image->bytes) {
        record_reader_fail(reader);
        return;
    }
    memcpy(image->bytes, bytes, size);
    image->size = size;
}

void spec_write(struct record_writer *writer, const struct job_spec *spec)
{
    record_put_text(writer, spec->prompt);
    record_put_text(writer, spec->prompt_2);
    record_put_text(writer, spec->prompt_3);
    record_put_text(writer, spec->negative_prompt);
    record_put_text(writer, spec->negative_prompt_2);
    record_put_text(writer, spec->negative_prompt_3);
    record_put_i32(writer, spec->width);
    record_put_i32(writer, spec->height);
    record_put_i32(writer, spec->steps);
    record_put_i32(writer, spec->count);
    record_put_i32(writer, spec->t5_tokens);
    record_put_f64(writer, spec->guidance);
    record_put_f64(writer, spec->flow_shift);
    record_put_u64(writer, spec->seed);
    record_put_i32(writer, spec->skip_layer_count);
    for (int32_t i = 0; i < spec->skip_layer_count; i++)
        record_put_i32(writer, spec->skip_layers[i]);
    record_put_f64(writer, spec->skip_layer_scale);
    record_put_f64(writer, spec->skip_layer_start);
    record_put_f64(writer, spec->skip_layer_stop);
    record_put_f64(writer, spec->strength);
    record_put_i32(writer, (int32_t)spec->format);
    record_put_i32(writer, spec->quality);
    put_image(writer, &spec->init_image);
    put_image(writer, &spec->mask);
    record_put_bool(writer, spec->mask_is_alpha);
    record_put_bool(writer, spec->mask_inverted);
}

bool spec_read(struct job_spec *spec, struct record_reader *reader)
{
    *spec = (struct job_spec){0};
    spec->prompt = record_get_text(reader);
    spec->prompt_2 = record_get_text(reader);
    spec->prompt_3 = record_get_text(reader);
    spec->negative_prompt = record_get_text(reader);
    spec->negative_prompt_2 = record_get_text(reader);
    spec->negative_prompt_3 = record_get_text(reader);
    spec->width = get_range(reader, 1, IMAGE_SIDE_MAX);
    spec->height = get_range(reader, 1, IMAGE_SIDE_MAX);
    spec->steps = get_range(reader, 1, JOB_STEPS_MAX);
    spec->count = get_range(reader, 1, JOB_COUNT_MAX);
    spec->t5_tokens = record_get_i32(reader);
    spec->guidance = record_get_f64(reader);
    spec->flow_shift = record_get_f64(reader);
    spec->seed = record_get_u64(reader);
    spec->skip_layer_count = get_range(reader, 0, JOB_SKIP_LAYERS_MAX);
    for (int32_t i = 0; i < spec->skip_layer_count; i++)
        spec->skip_layers[i] = record_get_i32(reader);
    spec->skip_layer_scale = record_get_f64(reader);
    spec->skip_layer_start = record_get_f64(reader);
    spec->skip_layer_stop = record_get_f64(reader);
    spec->strength = record_get_f64(reader);
    spec->format = (enum image_format)get_range(reader, 0, IMAGE_FORMAT_COUNT - 1);
    spec->quality = get_range(reader, 1, 100);
    get_image(reader, &spec->init_image);
    get_image(reader, &spec->mask);
    spec->mask_is_alpha = record_get_bool(reader);
    spec->mask_inverted = record_get_bool(reader);
    if (spec->prompt && !reader->has_failed)
        return true;
    record_reader_fail(reader);
    job_spec_finish(spec);
    return false;
}

void job_message_write(struct record_writer *writer, const struct job_message *message)
{
    record_put_u64(writer, message->ticket);
    record_put_bool(writer, message->is_watched);
    record_put_bool(writer, message->is_frugal);
    record_put_i32(writer, message->attempt);
    spec_write(writer, &message->spec);
    for (int32_t i = 0; i < message->spec.count; i++)
        record_put_bool(writer, message->is_skipped[i]);
}

bool job_message_read(struct job_message *message, struct record_reader reader)
{
    *message = (struct job_message){.ticket = record_get_u64(&reader)};
    message->is_watched = record_get_bool(&reader);
    message->is_frugal = record_get_bool(&reader);
    message->attempt = get_range(&reader, 1, INT32_MAX);
    if (!spec_read(&message->spec, &reader))
        return false;
    for (int32_t i = 0; i < message->spec.count; i++)
        message->is_skipped[i] = record_get_bool(&reader);
    if (record_reader_is_done(&reader))
        return true;
    job_spec_finish(&message->spec);
    return false;
}

void skip_message_write(struct record_writer *writer, const struct skip_message *message)
{
    record_put_u64(writer, message->ticket);
    record_put_i32(writer, message->image);
}

bool skip_message_read(struct skip_message *message, struct record_reader reader)
{
    message->ticket = record_get_u64(&reader);
    message->image = get_range(&reader, 0, JOB_COUNT_MAX - 1);
    return record_reader_is_done(&reader);
}

/* --- The worker itself --- */

void loading_message_write(struct record_writer *writer, const struct loading_message *message)
{
    record_put_text(writer, message->what);
    record_put_f64(writer, message->fraction);
}

bool loading_message_read(struct loading_message *message, struct record_reader reader)
{
    *message = (struct loading_message){0};
    record_get_text_into(&reader, message->what, sizeof message->what);
    message->fraction = record_get_f64(&reader);
    return record_reader_is_done(&reader) && message->fraction >= 0.0 && message->fraction <= 1.0;
}

void worker_facts_write(struct record_writer *writer, const struct worker_facts *facts)
{
    record_put_text(writer, facts->model);
    record_put_text(writer, facts->variant);
    record_put_text(writer, facts->device);
    record_put_text(writer, facts->weight_types);
    record_put_text(writer, facts->model_file);
    record_put_text(writer, facts->model_hash);
    record_put_i32(writer, facts->side_max);
    record_put_i32(writer, facts->layer_count);
    record_put_i32(writer, facts->max_batch);
    record_put_bool(writer, facts->is_turbo);
    record_put_bool(writer, facts->has_t5);
    record_put_bool(writer, facts->has_encoder);
    record_put_i32(writer, facts->width);
    record_put_i32(writer, facts->height);
    record_put_i32(writer, facts->steps);
    record_put_i32(writer, facts->t5_tokens);
    record_put_f64(writer, facts->guidance);
    record_put_f64(writer, facts->flow_shift);
}

bool worker_facts_read(struct worker_facts *facts, struct record_reader reader)
{
    *facts = (struct worker_facts){0};
    record_get_text_into(&reader, facts->model, sizeof facts->model);
    record_get_text_into(&reader, facts->variant, sizeof facts->variant);
    record_get_text_into(&reader, facts->device, sizeof facts->device);
    record_get_text_into(&reader, facts->weight_types, sizeof facts->weight_types);
    record_get_text_into(&reader, facts->model_file, sizeof facts->model_file);
    record_get_text_into(&reader, facts->model_hash, sizeof facts->model_hash);
    facts->side_max = get_range(&reader, JOB_SIDE_STEP, IMAGE_SIDE_MAX);
    facts->layer_count = get_range(&reader, 1, INT32_MAX);
    facts->max_batch = get_range(&reader, 1, INT32_MAX);
    facts->is_turbo = record_get_bool(&reader);
    facts->has_t5 = record_get_bool(&reader);
    facts->has_encoder = record_get_bool(&reader);
    facts->width = get_range(&reader, JOB_SIDE_STEP, IMAGE_SIDE_MAX);
    facts->height = get_range(&reader, JOB_SIDE_STEP, IMAGE_SIDE_MAX);
    facts->steps = get_range(&reader, 1, JOB_STEPS_MAX);
    facts->t5_tokens = get_range(&reader, 1, INT32_MAX);
    facts->guidance = record_get_f64(&reader);
    facts->flow_shift = record_get_f64(&reader);
    return record_reader_is_done(&reader);
}

void upscale_message_write(struct record_writer *writer, const struct upscale_message *message)
{
    record_put_u64(writer, message->ticket);
    record_put_i32(writer, message->width);
    record_put_i32(writer, message->height);
    record_put_i32(writer, message->crop_width);
    record_put_i32(writer, message->crop_height);
    record_put_bool(writer, message->by_nearest);
    put_image(writer, &message->file);
}

bool upscale_message_read(struct upscale_message *message, struct record_reader reader)
{
    *message = (struct upscale_message){.ticket = record_get_u64(&reader)};
    message->width = get_range(&reader, 1, JOB_IMAGE_SIDE_MAX);
    message->height = get_range(&reader, 1, JOB_IMAGE_SIDE_MAX);
    message->crop_width = get_range(&reader, 1, message->width);
    message->crop_height = get_range(&reader, 1, message->height);
    message->by_nearest = record_get_bool(&reader);
    get_image(&reader, &message->file);
    if (message->file.bytes && record_reader_is_done(&reader))
        return true;
    free(message->file.bytes);
    message->file = (struct job_image){0};
    return false;
}

void upscaled_message_write(struct record_writer *writer, const struct upscaled_message *message)
{
    record_put_u64(writer, message->ticket);
    record_put_u64(writer, message->file_bytes);
    record_put_text(writer, message->message);
}

bool upscaled_message_read(struct upscaled_message *message, struct record_reader reader)
{
    *message = (struct upscaled_message){.ticket = record_get_u64(&reader)};
    message->file_bytes = record_get_u64(&reader);
    record_get_text_into(&reader, message->message, sizeof message->message);
    return record_reader_is_done(&reader);
}

void device_message_write(struct record_writer *writer, const struct device_message *message)
{
    record_put_u64(writer, message->memory_free);
    record_put_u64(writer, message->memory_total);
    record_put_u64(writer, message->memory_used_by_us);
    record_put_i32(writer, message->utilisation_percent);
    record_put_i32(writer, message->temperature_celsius);
    record_put_f64(writer, message->power_watts);
    record_put_i32(writer, message->running);
}

bool device_message_read(struct device_message *message, struct record_reader reader)
{
    *message = (struct device_message){.memory_free = record_get_u64(&reader)};
    message->memory_total = record_get_u64(&reader);
    message->memory_used_by_us = record_get_u64(&reader);
    message->utilisation_percent = get_range(&reader, -1, 100);
    message->temperature_celsius = record_get_i32(&reader);
    message->power_watts = record_get_f64(&reader);
    message->running = get_range(&reader, 0, INT32_MAX);
    return record_reader_is_done(&reader);
}

/* --- What became of a job --- */

void progress_message_write(struct record_writer *writer, const struct progress_message *message)
{
    record_put_u64(writer, message->ticket);
    record_put_i32(writer, (int32_t)message->phase);
    record_put_i32(writer, message->step);
    record_put_i32(writer, message->step_count);
    record_put_i32(writer, message->pictures_done);
    record_put_f64(writer, message->step_seconds);
    record_put_i32(writer, message->batch_size);
}

bool progress_message_read(struct progress_message *message, struct record_reader reader)
{
    *message = (struct progress_message){.ticket = record_get_u64(&reader)};
    message->phase = (enum job_phase)get_range(&reader, JOB_PHASE_WAIT, JOB_PHASE_SAVE);
    message->step = get_range(&reader, 0, INT32_MAX);
    message->step_count = get_range(&reader, message->step, INT32_MAX);
    message->pictures_done = get_range(&reader, 0, JOB_COUNT_MAX);
    message->step_seconds = get_seconds(&reader);
    message->batch_size = get_range(&reader, 0, INT32_MAX);
    return record_reader_is_done(&reader);
}

void preview_message_write(struct record_writer *writer, const struct preview_message *message)
{
    record_put_u64(writer, message->ticket);
    record_put_i32(writer, message->image);
    record_put_i32(writer, message->step);
    record_put_i32(writer, message->width);
    record_put_i32(writer, message->height);
}

bool preview_message_read(struct preview_message *message, struct record_reader reader)
{
    *message = (struct preview_message){.ticket = record_get_u64(&reader)};
    message->image = get_range(&reader, 0, JOB_COUNT_MAX - 1);
    message->step = get_range(&reader, 0, INT32_MAX);
    message->width = get_range(&reader, 1, IMAGE_SIDE_MAX);
    message->height = get_range(&reader, 1, IMAGE_SIDE_MAX);
    return record_reader_is_done(&reader);
}

void picture_message_write(struct record_writer *writer, const struct picture_message *message)
{
    record_put_u64(writer, message->ticket);
    record_put_i32(writer, message->image);
    record_put_u64(writer, message->seed);
    record_put_i32(writer, message->width);
    record_put_i32(writer, message->height);
    record_put_u64(writer, message->file_bytes);
    record_put_u64(writer, message->thumbnail_bytes);
    record_put_i32(writer, (int32_t)message->format);
}

bool picture_message_read(struct picture_message *message, struct record_reader reader)
{
    *message = (struct picture_message){.ticket = record_get_u64(&reader)};
    message->image = get_range(&reader, 0, JOB_COUNT_MAX - 1);
    message->seed = record_get_u64(&reader);
    message->width = get_range(&reader, 1, IMAGE_SIDE_MAX);
    message->height = get_range(&reader, 1, IMAGE_SIDE_MAX);
    message->file_bytes = record_get_u64(&reader);
    message->thumbnail_bytes = record_get_u64(&reader);
    message->format = (enum image_format)get_range(&reader, 0, IMAGE_FORMAT_COUNT - 1);
    return record_reader_is_done(&reader);
}

void done_message_write(struct record_writer *writer, const struct done_message *message)
{
    record_put_u64(writer, message->ticket);
    record_put_f64(writer, message->encode_seconds);
    record_put_f64(writer, message->denoise_seconds);
    record_put_f64(writer, message->decode_seconds);
    record_put_f64(writer, message->total_seconds);
    record_put_i32(writer, message->clip_tokens_cut);
    record_put_i32(writer, message->t5_tokens_cut);
    record_put_bool(writer, message->was_short_of_memory);
    record_put_bool(writer, message->was_repeated);
    record_put_i32(writer, message->pictures_skipped);
}

bool done_message_read(struct done_message *message, struct record_reader reader)
{
    *message = (struct done_message){.ticket = record_get_u64(&reader)};
    message->encode_seconds = get_seconds(&reader);
    message->denoise_seconds = get_seconds(&reader);
    message->decode_seconds = get_seconds(&reader);
    message->total_seconds = get_seconds(&reader);
    message->clip_tokens_cut = get_range(&reader, 0, INT32_MAX);
    message->t5_tokens_cut = get_range(&reader, 0, INT32_MAX);
    message->was_short_of_memory = record_get_bool(&reader);
    message->was_repeated = record_get_bool(&reader);
    message->pictures_skipped = get_range(&reader, 0, JOB_COUNT_MAX - 1);
    return record_reader_is_done(&reader);
}

void failed_message_write(struct record_writer *writer, const struct failed_message *message)
{
    record_put_u64(writer, message->ticket);
    record_put_i32(writer, (int32_t)message->failure);
    record_put_text(writer, message->message);
}

bool failed_message_read(struct failed_message *message, struct record_reader reader)
{
    *message = (struct failed_message){.ticket = record_get_u64(&reader)};
    message->failure =
        (enum job_failure)get_range(&reader, JOB_FAILURE_BAD_REQUEST, JOB_FAILURE_INTERNAL);
    record_get_text_into(&reader, message->message, sizeof message->message);
    return record_reader_is_done(&reader);
}

void estimated_message_write(struct record_writer *writer, const struct estimated_message *message)
{
    record_put_u64(writer, message->ticket);
    record_put_bool(writer, message->fits);
    record_put_u64(writer, message->peak_bytes);
    record_put_u64(writer, message->free_bytes);
    record_put_f64(writer, message->seconds);
    record_put_text(writer, message->message);
}

bool estimated_message_read(struct estimated_message *message, struct record_reader reader)
{
    *message = (struct estimated_message){.ticket = record_get_u64(&reader)};
    message->fits = record_get_bool(&reader);
    message->peak_bytes = record_get_u64(&reader);
    message->free_bytes = record_get_u64(&reader);
    message->seconds = get_seconds(&reader);
    record_get_text_into(&reader, message->message, sizeof message->message);
    return record_reader_is_done(&reader);
}
