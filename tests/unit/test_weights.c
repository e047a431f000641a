/* Weights: FP8 and its scales, other types, configurations, shards, and what is wrong with a file,
 * by name. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weight_content.h"
#include "weights/model_files.h"
#include "weights/safetensors.h"
#include "weights/shard_index.h"
#include "weights/weights.h"
#include "weights/weights_build.h"

/* --- what is wrong --- */

static void the_first_five_missing_or_misshapen_tensors_are_named(void **state)
{
    static struct content content;
    struct weight_loader loader;
    struct error err = {0};
    struct weights *weights;
    struct linear layer;
    struct tensor tensor;

    (void)state;
    PUT_F32(&content, "joint_blocks.0.x_block.attn.qkv.weight", 12, 5);
    PUT_F32(&content, "joint_blocks.0.x_block.attn.qkv.bias", 12);
    PUT_F32(&content, "final_layer.linear.weight", 8, 4);
    PUT_F32(&content, "final_layer.linear.bias", 9);
    weights = content_open(COMPONENT_TRANSFORMER, &content);
    weight_loader_init(&loader, weights);
    weight_loader_linear(&loader, &layer, 4, 4, true, "block.0.image.q");
    assert_false(tensor_exists(&layer.weight));
    assert_true(tensor_exists(&layer.bias));
    weight_loader_linear(&loader, &layer, 4, 4, true, "block.0.image.k"); /* the same tensor */
    weight_loader_linear(&loader, &layer, 8, 4, true, "final.linear");
    assert_true(tensor_exists(&layer.weight));
    assert_false(tensor_exists(&layer.bias));
    weight_loader_vector(&loader, &tensor, 2, "block.7.context.k_norm.weight");
    weight_loader_table(&loader, &tensor, 9, 4, "position_table");
    weight_loader_linear(&loader, &layer, 4, 4, true, "block.1.image.proj");
    assert_int_equal(loader.problem_count, 6);
    assert_false(weight_loader_finish(&loader, &err));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_non_null(strstr(err.message, "content.safetensors': 6 of its tensors are missing or "
                                        "have the wrong shape: "
                                        "'joint_blocks.0.x_block.attn.qkv.weight' is [12, 5], not "
                                        "[12, 4]; 'final_layer.linear.bias' is [9], not [8]; "
                                        "'joint_blocks.7.context_block.attn.ln_k.weight' is "
                                        "missing; 'pos_embed' is missing; "
                                        "'joint_blocks.1.x_block.attn.proj.weight' is missing; "
                                        "and 1 more"));
    assert_int_equal(strncmp(err.message, "transformer in '", 16), 0);
    weights_destroy(weights);
    content_clear(&content);
}

static void a_type_that_nothing_computes_with_matters_only_where_it_is_needed(void **state)
{
    static struct content content;
    struct weight_loader loader;
    struct error err = {0};
    struct weights *weights;
    struct linear layer;

    (void)state;
    PUT_F32(&content, "final_layer.linear.weight", 2, 2);
    PUT_F32(&content, "final_layer.linear.bias", 2);
    PUT(&content, "context_embedder.weight", SAFETENSORS_F64, ((double[]){1, 2, 3, 4}), 2, 2);
    PUT_F32(&content, "context_embedder.bias", 2);
    weights = content_open(COMPONENT_TRANSFORMER, &content);
    weight_loader_init(&loader, weights);
    weight_loader_linear(&loader, &layer, 2, 2, true, "final.linear");
    assert_true(weight_loader_finish(&loader, &err));
    weight_loader_linear(&loader, &layer, 2, 2, true, "context_embed");
    assert_false(tensor_exists(&layer.weight));
    assert_false(weight_loader_finish(&loader, &err));
    assert_non_null(strstr(err.message, "1 of its tensors cannot be used: 'context_embedder.weight'"
                                        " has the type F64"));
    weights_destroy(weights);
    content_clear(&content);
}

static void an_adapter_or_a_stranger_is_no_component(void **state)
{
    static struct content content;
    struct error err = {0};

    (void)state;
    PUT_F32(&content, "joint_blocks.0.x_block.attn.proj.weight", 2, 2);
    PUT_F32(&content, "joint_blocks.0.x_block.attn.proj.lora_A.weight", 2, 2);
    assert_null(
        content_try_open(COMPONENT_TRANSFORMER, content_write(&content, "lora", ""), "", &err));
    assert_non_null(strstr(err.message, "adapter (LoRA)"));
    content_clear(&content);
    PUT_F32(&content, "model.layers.0.mlp.weight", 2, 2);
    assert_null(content_try_open(COMPONENT_T5, content_write(&content, "stranger", ""), "", &err));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    assert_non_null(strstr(err.message, "holds no tensor of a T5; its first is 'model.layers.0"));
    content_clear(&content);
}

static void a_tensor_in_two_files_is_an_error(void **state)
{
    static struct content content;
    struct safetensors_file *file;
    struct weights *weights;
    struct error err = {0};

    (void)state;
    PUT_F32(&content, "pos_embed", 1, 4, 2);
    assert_true(safetensors_open(&file, content_write(&content, "twice", ""), &err));
    assert_true(weights_create(&weights, COMPONENT_TRANSFORMER, "twice", &err));
    assert_true(weights_add_file(weights, file, "", &err));
    assert_true(weights_add_file(weights, file, "", &err));
    assert_false(weights_finish(weights, &err));
    assert_non_null(strstr(err.message, "tensor 'pos_embed' is there twice"));
    weights_destroy(weights);
    safetensors_close(file);
    content_clear(&content);
}

static void a_prefix_is_stripped_and_other_components_left_out(void **state)
{
    static struct content content;
    struct weights *weights;
    struct error err = {0};
    const char *path;

    (void)state;
    PUT_F32(&content, "model.diffusion_model.pos_embed", 1, 4, 2);
    PUT_F32(&content, "first_stage_model.decoder.conv_in.weight", 1, 1, 3, 3);
    PUT_F32(&content, "encoder.conv_in.weight", 1, 1, 3, 3);
    path = content_write(&content, "prefix", "");
    weights = content_try_open(COMPONENT_TRANSFORMER, path, "model.diffusion_model.", &err);
    assert_true(weights_has(weights, "position_table"));
    assert_int_equal(weights_stored_bytes(weights), 4 * 2 * sizeof(float));
    weights_destroy(weights);
    weights = content_try_open(COMPONENT_VAE, path, "", &err);
    assert_true(weights_has(weights, "encoder.conv_in.weight"));
    assert_false(weights_has(weights, "decoder.conv_in.weight"));
    assert_int_equal(weights_stored_bytes(weights), 9 * sizeof(float));
    weights_destroy(weights);
    content_clear(&content);
}

/* --- FP8 --- */

#define QKV "joint_blocks.0.x_block.attn.qkv"
#define F8_ROWS 6
#define F8_PART 2

static void put_f8(struct content *content, enum safetensors_dtype dtype)
{
    unsigned char values[F8_ROWS * 4];

    for (size_t i = 0; i < sizeof values; i++)
        values[i] = (unsigned char)i;
    PUT(content, QKV ".weight", dtype, values, F8_ROWS, 4);
    PUT_F32(content, QKV ".bias", F8_ROWS);
}

/* Loads k, the second third; the problem text when that fails, else "". */
static const char *load_f8(struct linear *layer, struct weights **weights,
                           const struct content *content)
{
    static struct error err;
    struct weight_loader loader;

    *weights = content_open(COMPONENT_TRANSFORMER, content);
    weight_loader_init(&loader, *weights);
    weight_loader_linear(&loader, layer, F8_PART, 4, true, "block.0.image.k");
    if (weight_loader_finish(&loader, &err))
        return "";
    assert_false(tensor_exists(&layer->weight));
    assert_int_equal(err.code, ERROR_BAD_FILE);
    return err.message;
}

static void every_form_of_an_fp8_scale_is_understood(void **state)
{
    static const struct {
        const char *suffix;
        int rank;
        int64_t dim[2];
    } forms[] = {
        {"", 0, {0}},
        {".scale_weight", 0, {0}},
        {".scale_weight", 1, {1}},
        {".scale_weight", 2, {1, 1}},
        {".scale_weight", 1, {F8_ROWS}},
        {".scale_weight", 2, {F8_ROWS, 1}},
        {".weight_scale", 0, {0}},
        {".weight_scale", 1, {F8_ROWS}},
        {".weight_scale", 2, {F8_ROWS, 1}},
    };
    const float scales[F8_ROWS] = {0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f};
    static struct content content;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        struct weights *weights;
        struct linear layer;
        char name[64];
        const char *problem;

        put_f8(&content, i % 2 ? SAFETENSORS_F8_E5M2 : SAFETENSORS_F8_E4M3);
        snprintf(name, sizeof name, QKV "%s", forms[i].suffix);
        if (*forms[i].suffix)
            content_put(&content, name, SAFETENSORS_F32, forms[i].rank, forms[i].dim, scales);
        problem = load_f8(&layer, &weights, &content);
        assert_string_equal(problem, "");
        assert_int_equal(layer.weight.dtype, i % 2 ? DTYPE_F8_E5M2 : DTYPE_F8_E4M3);
        assert_int_equal(*(unsigned char *)layer.weight.data, 4 * F8_PART);
        if (!*forms[i].suffix) {
            assert_false(tensor_exists(&layer.scale));
        } else if (forms[i].rank > 0 && forms[i].dim[0] == F8_ROWS) {
            assert_int_equal(layer.scale.dim[0], F8_PART);
            expect_values(&layer.scale, scales + F8_PART, name);
        } else {
            assert_int_equal(layer.scale.dim[0], 1);
            expect_values(&layer.scale, scales, name);
        }
        assert_int_equal(layer.scale.rank, *forms[i].suffix ? 1 : 0);
        weights_destroy(weights);
        content_clear(&content);
    }
}

/* --- becoming FP8 --- */

static void a_component_with_fp8_is_marked_nowhere(void **state)
{
    static struct content content;
    struct weights *weights;

    (void)state;
    put_f8(&content, SAFETENSORS_F8_E4M3);
    PUT_F32(&content, "joint_blocks.0.x_block.mlp.fc1.weight", 16, 4);
    weights = content_open(COMPONENT_TRANSFORMER, &content);
    weights_quantise(weights);
    assert_false(becomes_8_bits(weights, 16, 4, "block.0.image.mlp_in"));
    weights_destroy(weights);
    content_clear(&content);
}

static void an_fp8_scale_that_makes_no_sense_is_refused(void **state)
{
    static const struct {
        float value;
        enum safetensors_dtype dtype;
        int64_t rows;
        const char *problem;
    } cases[] = {
        {0.0f, SAFETENSORS_F32, 1, "no positive, finite number"},
        {-1.0f, SAFETENSORS_F32, 1, "no positive, finite number"},
        {NAN, SAFETENSORS_F32, 1, "no positive, finite number"},
        {INFINITY, SAFETENSORS_F32, 1, "no positive, finite number"},
        {1e38f, SAFETENSORS_F32, 1, "no positive, finite number"},
        {1.0f, SAFETENSORS_F32, 3, "attn.qkv.scale_weight' is [3], not [6]"},
        {1.0f, SAFETENSORS_F16, 1, "is a scale, but not F32"},
        {1.0f, SAFETENSORS_I32, 1, "is a scale, but not F32"},
    };
    static struct content content;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        float values[F8_ROWS];
        struct weights *weights;
        struct linear layer;
        const char *problem;

        for (int j = 0; j < F8_ROWS; j++)
            values[j] = cases[i].value;
        put_f8(&content, SAFETENSORS_F8_E4M3);
        PUT(&content, QKV ".scale_weight", cases[i].dtype, values, cases[i].rows);
        problem = load_f8(&layer, &weights, &content);
        if (!strstr(problem, cases[i].problem))
            fail_msg("case %zu: '%s'", i, problem);
        weights_destroy(weights);
        content_clear(&content);
    }
}

static void one_bad_scale_among_the_rows_is_refused(void **state)
{
    const float scales[F8_ROWS] = {1, 1, 1, 1, 1, 0};
    static struct content content;
    struct weights *weights;
    struct linear layer;

    (void)state;
    put_f8(&content, SAFETENSORS_F8_E4M3);
    PUT(&content, QKV ".scale_weight", SAFETENSORS_F32, scales, F8_ROWS);
    assert_non_null(strstr(load_f8(&layer, &weights, &content), "no positive, finite number"));
    weights_destroy(weights);
    content_clear(&content);
}

static void a_scale_beside_a_weight_that_is_not_fp8_is_refused(void **state)
{
    static struct content content;
    struct weights *weights;
    struct linear layer;

    (void)state;
    PUT_F32(&content, QKV ".weight", F8_ROWS, 4);
    PUT_F32(&content, QKV ".bias", F8_ROWS);
    PUT(&content, QKV ".scale_weight", SAFETENSORS_F32, (float[]){0.5f}, 1);
    assert_non_null(strstr(load_f8(&layer, &weights, &content), "has a scale, but is not FP8"));
    weights_destroy(weights);
    content_clear(&content);
}

static void what_comfyui_says_about_a_layer_is_believed_or_refused_by_name(void **state)
{
    static const struct {
        const char *beside, *metadata; /* JSON text; NULL: none */
        const char *problem;           /* NULL: fine */
    } cases[] = {
        {"{\"format\":\"float8_e4m3fn\"}", NULL, NULL},
        {"{\"format\":\"float8_e4m3fn\",\"full_precision_matrix_mult\":true}", NULL, NULL},
        {"{\"format\":\"float8_e5m2\"}", NULL, "quantised as 'float8_e5m2' in type F8_E4M3"},
        {"{\"format\":\"nvfp4\"}", NULL, "quantised as 'nvfp4'"},
        {"{\"format\":3}", NULL, "quantised as '?'"},
        {"{}", NULL, "quantised as '?'"},
        {"not json", NULL, "comfy_quant' is not JSON text"},
        {NULL, "{\"layers\":{\"" QKV "\":{\"format\":\"float8_e4m3fn\"}}}", NULL},
        {NULL, "{\"layers\":{\"" QKV "\":{\"format\":\"mxfp8\"}}}", "quantised as 'mxfp8'"},
        {NULL, "{\"layers\":{\"other\":{\"format\":\"mxfp8\"}}}", NULL},
        {NULL, "{\"layers\":3}", NULL},
    };
    static struct content content;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct weights *weights;
        struct linear layer;
        const char *problem;

        put_f8(&content, SAFETENSORS_F8_E4M3);
        PUT(&content, QKV ".weight_scale", SAFETENSORS_F32, (float[]){0.5f}, 1);
        if (cases[i].beside)
            PUT(&content, QKV ".comfy_quant", SAFETENSORS_U8, cases[i].beside,
                (int64_t)strlen(cases[i].beside));
        content.quantization = cases[i].metadata;
        problem = load_f8(&layer, &weights, &content);
        if (cases[i].problem ? !strstr(problem, cases[i].problem) : *problem)
            fail_msg("case %zu: '%s'", i, problem);
        weights_destroy(weights);
        content_clear(&content);
    }
}

static void packed_four_bit_weights_are_refused_by_the_name_of_their_format(void **state)
{
    static const char format[] = "{\"format\":\"nvfp4\"}";
    static struct content content;
    struct weights *weights;
    struct linear layer;

    (void)state;
    PUT(&content, QKV ".weight", SAFETENSORS_U8, (unsigned char[F8_ROWS * 2]){0}, F8_ROWS, 2);
    PUT_F32(&content, QKV ".bias", F8_ROWS);
    PUT(&content, QKV ".comfy_quant", SAFETENSORS_U8, format, (int64_t)sizeof format - 1);
    assert_non_null(
        strstr(load_f8(&layer, &weights, &content), "is quantised as 'nvfp4' in type U8"));
    weights_destroy(weights);
    content_clear(&content);
}

static void vectors_of_every_float_type_become_f32(void **state)
{
    static struct content content;
    const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8_E4M3, DTYPE_F8_E5M2};
    const float values[2] = {0.5f, -3.0f};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        unsigned char stored[8];
        struct weight_loader loader;
        struct weights *weights;
        struct tensor tensor;

        for (int j = 0; j < 2; j++)
            dtype_store(types[i], stored, j, values[j]);
        PUT(&content, "encoder.final_layer_norm.weight", safetensors_from_dtype(types[i]), stored,
            2);
        weights = content_open(COMPONENT_T5, &content);
        weight_loader_init(&loader, weights);
        weight_loader_vector(&loader, &tensor, 2, "final_norm.weight");
        assert_true(weight_loader_finish(&loader, NULL));
        assert_int_equal(tensor.dtype, DTYPE_F32);
        expect_values(&tensor, values, dtype_name(types[i]));
        assert_int_equal(weights_loaded_bytes(weights), 2 * dtype_size(types[i]));
        weights_release_pages(weights);
        weights_destroy(weights);
        content_clear(&content);
    }
}

/* --- configuration --- */

static void configuration_values_fall_back_where_they_are_absent_or_of_another_kind(void **state)
{
    static struct content content;
    struct weights *weights;
    json_t *config = json_pack("{s:i, s:f, s:s, s:n, s:[i]}", "heads", 24, "scale", 1.5305, "name",
                               "gelu", "nothing", "list", 1);

    (void)state;
    PUT_F32(&content, "pos_embed", 1, 4, 2);
    weights = content_open(COMPONENT_TRANSFORMER, &content);
    assert_int_equal(weights_config_integer(weights, "heads", 7), 7);
    weights_set_config(weights, config);
    assert_int_equal(weights_config_integer(weights, "heads", 7), 24);
    assert_int_equal(weights_config_integer(weights, "scale", 7), 7);
    assert_int_equal(weights_config_integer(weights, "nothing", 7), 7);
    assert_int_equal(weights_config_integer(weights, "list", 7), 7);
    assert_true(weights_config_number(weights, "scale", 2) == 1.5305);
    assert_true(weights_config_number(weights, "heads", 2) == 24);
    assert_true(weights_config_number(weights, "name", 2) == 2);
    assert_string_equal(weights_config_text(weights, "name", "relu"), "gelu");
    assert_string_equal(weights_config_text(weights, "heads", "relu"), "relu");
    assert_null(weights_config_text(weights, "absent", NULL));
    assert_int_equal(weights_component(weights), COMPONENT_TRANSFORMER);
    weights_destroy(weights);
    content_clear(&content);
}

/* --- shards --- */

static void write_shard(const char *name, const char *tensor)
{
    static struct content content;

    PUT_F32(&content, tensor, 2);
    content_write(&content, name, "");
    content_clear(&content);
}

static bool open_index(const char *text, struct error *err)
{
    const char *path = test_write_file("model.safetensors.index.json", text, strlen(text));
    struct safetensors_file **files;
    size_t count;

    if (!shard_index_open(&files, &count, path, err))
        return false;
    for (size_t i = 0; i < count; i++)
        safetensors_close(files[i]);
    free(files);
    return true;
}

static void a_bad_shard_index_is_refused(void **state)
{
    static const struct {
        const char *index, *problem; /* NULL: fine */
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}", NULL},
        {"{\"metadata\":{\"total_size\":-3},\"weight_map\":{\"a\":\"s1.safetensors\"}}", NULL},
        {"{\"weight_map\":{\"a\":\"/etc/s1.safetensors\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"../s1.safetensors\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"x/s1.safetensors\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"x\\\\s1.safetensors\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\".safetensors\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"s1.bin\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\\n\"}}", "not a plain name"},
        {"{\"weight_map\":{\"a\":3}}", "is not a string"},
        {"{\"weight_map\":{\"\":\"s1.safetensors\"}}", "empty or too long"},
        {"{\"weight_map\":{}}", "\"weight_map\" is empty"},
        {"{\"weight_map\":[]}", "no object \"weight_map\""},
        {"{}", "no object \"weight_map\""},
        {"[]", "not an object"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"a\":\"s1.safetensors\"}}", "not valid"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\"}", "not valid"},
        {"{\"weight_map\":{\"a\":\"s3.safetensors\"}}", "s3.safetensors'"},
        {"{\"weight_map\":{\"z\":\"s1.safetensors\"}}", "'z' is not in 's1.safetensors'"},
        {"{\"weight_map\":{\"b\":\"s1.safetensors\",\"a\":\"s2.safetensors\"}}", "is not in"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\","
         "\"c\":\"not-there.safetensors\"}}",
         "not-there.safetensors'"},
    };

    (void)state;
    write_shard("s1.safetensors", "a");
    write_shard("s2.safetensors", "b");
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct error err = {0};
        bool is_open = open_index(cases[i].index, &err);

        if (is_open != !cases[i].problem ||
            (cases[i].problem && !strstr(err.message, cases[i].problem)))
            fail_msg("case %zu: '%s'", i, err.message);
    }
}

static void a_tensor_in_two_shards_is_an_error(void **state)
{
    struct error err = {0};

    (void)state;
    write_shard("t1.safetensors", "a");
    {
        static struct content content;

        PUT_F32(&content, "a", 2);
        PUT_F32(&content, "b", 2);
        content_write(&content, "t2.safetensors", "");
        content_clear(&content);
    }
    assert_false(
        open_index("{\"weight_map\":{\"a\":\"t1.safetensors\",\"b\":\"t2.safetensors\"}}", &err));
    assert_non_null(
        strstr(err.message, "tensor 'a' is in both 't1.safetensors' and 't2.safetensors'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_five_missing_or_misshapen_tensors_are_named),
        cmocka_unit_test(a_type_that_nothing_computes_with_matters_only_where_it_is_needed),
        cmocka_unit_test(an_adapter_or_a_stranger_is_no_component),
        cmocka_unit_test(a_tensor_in_two_files_is_an_error),
        cmocka_unit_test(a_prefix_is_stripped_and_other_components_left_out),
        cmocka_unit_test(every_form_of_an_fp8_scale_is_understood),
        cmocka_unit_test(a_component_with_fp8_is_marked_nowhere),
        cmocka_unit_test(an_fp8_scale_that_makes_no_sense_is_refused),
        cmocka_unit_test(one_bad_scale_among_the_rows_is_refused),
        cmocka_unit_test(a_scale_beside_a_weight_that_is_not_fp8_is_refused),
        cmocka_unit_test(what_comfyui_says_about_a_layer_is_believed_or_refused_by_name),
        cmocka_unit_test(packed_four_bit_weights_are_refused_by_the_name_of_their_format),
        cmocka_unit_test(vectors_of_every_float_type_become_f32),
        cmocka_unit_test(configuration_values_fall_back_where_they_are_absent_or_of_another_kind),
        cmocka_unit_test(a_bad_shard_index_is_refused),
        cmocka_unit_test(a_tensor_in_two_shards_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
