/* The answers of AUTOMATIC1111's API as JSON Schema, for openapi.json. Private to a1111_*.c; pure
 * functions that give a new reference, NULL: memory is short. The context is not looked at.
 */
#ifndef SERVER_A1111_SCHEMAS_H
#define SERVER_A1111_SCHEMAS_H

#include <jansson.h>

json_t *a1111_drawn_schema(void *context);    /* of txt2img and img2img */
json_t *a1111_info_schema(void *context);     /* of the object in their `info` */
json_t *a1111_progress_schema(void *context); /* of /sdapi/v1/progress */
json_t *a1111_task_schema(void *context);     /* of /internal/progress */
json_t *a1111_pending_schema(void *context);
json_t *a1111_png_info_schema(void *context);
json_t *a1111_extra_single_schema(void *context);
json_t *a1111_extra_batch_schema(void *context);
json_t *a1111_nothing_schema(void *context); /* null */
json_t *a1111_empty_schema(void *context);   /* {} */
json_t *a1111_models_schema(void *context);
json_t *a1111_samplers_schema(void *context);
json_t *a1111_schedulers_schema(void *context);
json_t *a1111_upscalers_schema(void *context);
json_t *a1111_names_schema(void *context); /* a list of {name} */
json_t *a1111_list_schema(void *context);  /* of what there is none of */
json_t *a1111_embeddings_schema(void *context);
json_t *a1111_scripts_schema(void *context);
json_t *a1111_flags_schema(void *context);
json_t *a1111_memory_schema(void *context);

#endif
