/* The table of fields as JSON Schema. */
#include "job/job_fields.h"

static bool add(json_t *schema, const char *key, json_t *value)
{
    return json_object_set_new(schema, key, value) == 0;
}

static json_t *number(const struct job_field *field, double value)
{
    return field->type == FIELD_NUMBER ? json_real(value) : json_integer((json_int_t)value);
}

static bool add_range(json_t *schema, const struct job_field *field,
                      const struct worker_facts *facts, const struct job_limits *limits)
{
    return add(schema, "type", json_string(field->type == FIELD_NUMBER ? "number" : "integer")) &&
           add(schema, "minimum", number(field, field->low)) &&
           add(schema, "maximum", number(field, job_field_high(field, facts, limits))) &&
           (field->multiple_of == 0 ||
            add(schema, "multipleOf", json_integer(field->multiple_of))) &&
           ((!facts && field->fact_default != NO_OFFSET) ||
            add(schema, "default", number(field, job_field_default(field, facts, limits))));
}

static bool add_layers(json_t *schema, const struct job_field *field,
                       const struct worker_facts *facts)
{
    return add(schema, "type", json_string("array")) &&
           add(schema, "maxItems", json_integer(JOB_SKIP_LAYERS_MAX)) &&
           add(schema, "items",
               json_pack("{s:s, s:i, s:I}", "type", "integer", "minimum", 0, "maximum",
                         (json_int_t)job_field_high(field, facts, NULL))) &&
           add(schema, "default", json_array());
}

static bool add_format(json_t *schema)
{
    json_t *names = json_array();

    if (!add(schema, "enum", names))
        return false;
    for (int i = 0; i < IMAGE_FORMAT_COUNT; i++)
        if (json_array_append_new(names, json_string(image_format_name((enum image_format)i))) != 0)
            return false;
    return add(schema, "type", json_string("string")) &&
           add(schema, "default", json_string(image_format_name(IMAGE_PNG)));
}

static bool describe(json_t *schema, const struct job_field *field,
                     const struct worker_facts *facts, const struct job_limits *limits)
{
    switch (field->type) {
    case FIELD_TEXT:
        return add(schema, "type", json_string("string")) &&
               add(schema, "maxLength", json_integer(JOB_PROMPT_BYTES_MAX));
    case FIELD_PICTURE:
        return add(schema, "type", json_string("string")) &&
               add(schema, "contentEncoding", json_string("base64"));
    case FIELD_INTEGER:
    case FIELD_NUMBER:
        return add_range(schema, field, facts, limits);
    case FIELD_FLAG:
        return add(schema, "type", json_string("boolean")) && add(schema, "default", json_false());
    case FIELD_SEED: /* the highest is no double */
        return add(schema, "type", json_string("integer")) &&
               add(schema, "minimum", json_integer(-1)) &&
               add(schema, "maximum", json_integer(JOB_SEED_MAX - JOB_COUNT_MAX)) &&
               add(schema, "default", json_integer(-1));
    case FIELD_LAYERS:
        return add_layers(schema, field, facts);
    case FIELD_FORMAT:
        return add_format(schema);
    }
    return false;
}

json_t *job_spec_schema(const struct worker_facts *facts, const struct job_limits *limits)
{
    json_t *properties = json_object(), *required = json_array();
    json_t *schema = json_pack("{s:s, s:b, s:o, s:o}", "type", "object", "additionalProperties", 0,
                               "required", required, "properties", properties);

    for (size_t i = 0; schema && i < job_field_count; i++) {
        const struct job_field *field = &job_fields[i];
        json_t *property = json_object();

        if (!add(properties, field->name, property) || !describe(property, field, facts, limits) ||
            !add(property, "description", json_string(field->about)) ||
            (field->is_required &&
             json_array_append_new(required, json_string(field->name)) != 0)) {
            json_decref(schema);
            return NULL;
        }
    }
    return schema;
}
