/* T5 tokenizer: the reference's ids from both forms of its file, small vocabularies, and files that
 * are damaged. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <jansson.h>

#include "base/file.h"
#include "support/small_vocabularies.h"
#include "text/t5_tokenizer.h"

#define IDS_MAX 4096

static struct t5_tokenizer *create(const struct tokenizer_files *files)
{
    struct t5_tokenizer *tokenizer = NULL;
    struct error err = {0};

    if (!t5_tokenizer_create_from_files(&tokenizer, files, &err))
        fail_msg("%s", err.message);
    return tokenizer;
}

static struct t5_tokenizer *create_small(void)
{
    struct tokenizer_files files = small_t5_folder();
    struct t5_tokenizer *tokenizer = create(&files);

    tokenizer_files_finish(&files);
    return tokenizer;
}

static struct t5_tokenizer *open_folder(const char *directory)
{
    struct t5_tokenizer *tokenizer = NULL;
    struct error err = {0};

    if (!t5_tokenizer_create(&tokenizer, directory, &err))
        fail_msg("%s", err.message);
    return tokenizer;
}

static void expect_ids_of(const struct t5_tokenizer *tokenizer, const char *text, size_t size,
                          const int32_t *want, size_t want_count)
{
    static int32_t ids[IDS_MAX];
    struct error err;
    size_t count;

    assert_true(t5_tokenizer_encode(tokenizer, text, size, ids, IDS_MAX, &count, &err));
    for (size_t i = 0; i < count && i < want_count; i++) {
        if (ids[i] != want[i])
            fail_msg("'%s': id %zu is %d, not %d", text, i, ids[i], want[i]);
    }
    if (count != want_count)
        fail_msg("'%s': %zu ids, not %zu", text, count, want_count);
}

#define EXPECT_IDS(tokenizer, text, ...)                                                           \
    expect_ids_of(tokenizer, text, strlen(text), (const int32_t[]){__VA_ARGS__},                   \
                  sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

/* --- The published vocabulary --- */

static size_t golden_ids(int32_t *ids, const json_t *row, const char *key)
{
    const json_t *list = json_object_get(row, key);

    assert_true(json_is_array(list) && json_array_size(list) <= IDS_MAX);
    for (size_t i = 0; i < json_array_size(list); i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return json_array_size(list);
}

static void expect_golden_row(const struct t5_tokenizer *tokenizer, const json_t *row)
{
    static int32_t want[IDS_MAX], got[IDS_MAX];
    const json_t *json = json_object_get(row, "text");
    const char *text = json_string_value(json);
    size_t size = json_string_length(json), count = golden_ids(want, row, "t5"), cut;
    struct error err;

    expect_ids_of(tokenizer, text, size, want, count - 1); /* they end with the end token */
    assert_true(t5_tokenizer_encode_padded(tokenizer, text, size, got, count, &cut, &err));
    assert_memory_equal(got, want, count * sizeof *want);
    assert_int_equal(cut, 0);
    assert_int_equal(golden_ids(want, row, "t5_256"), 256);
    assert_true(t5_tokenizer_encode_padded(tokenizer, text, size, got, 256, &cut, &err));
    assert_memory_equal(got, want, 256 * sizeof *want);
    assert_int_equal(cut, count > 256 ? count - 256 : 0);
}

static void expect_golden_ids(const char *directory)
{
    const char *path = test_shared_path("golden/tokens.json");
    json_t *rows = path ? json_load_file(path, JSON_ALLOW_NUL, NULL) : NULL;
    struct t5_tokenizer *tokenizer = open_folder(directory);

    assert_int_equal(json_array_size(rows), 200);
    assert_int_equal(t5_tokenizer_vocabulary_size(tokenizer), 32100);
    for (size_t i = 0; i < json_array_size(rows); i++)
        expect_golden_row(tokenizer, json_array_get(rows, i));
    t5_tokenizer_destroy(tokenizer);
    json_decref(rows);
}

/* Copies one file of the published tokenizer into a folder of the test. */
static void copy_published(const char *folder, const char *name)
{
    unsigned char *bytes;
    struct error err;
    char path[128];
    size_t size;

    snprintf(path, sizeof path, "tokenizers/tokenizer_3/%s", name);
    assert_true(file_read(&bytes, &size, test_shared_path(path), 64 << 20, &err));
    mkdir(test_path(folder), 0777);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    test_write_file(path, bytes, size);
    free(bytes);
}

static void the_published_folder_gives_the_ids_of_the_reference(void **state)
{
    (void)state;
    if (test_skip_without_shared(__func__))
        skip();
    expect_golden_ids(test_shared_path("tokenizers/tokenizer_3"));
}

static void spiece_model_gives_the_ids_of_the_reference(void **state)
{
    (void)state;
    if (test_skip_without_shared(__func__))
        skip();
    copy_published("spiece", "spiece.model");
    copy_published("spiece", "tokenizer_config.json"); /* names the extra tokens */
    expect_golden_ids(test_path("spiece"));
}

static void tokenizer_json_alone_gives_the_ids_of_the_reference(void **state)
{
    (void)state;
    if (test_skip_without_shared(__func__))
        skip();
    copy_published("json", "tokenizer.json");
    expect_golden_ids(test_path("json"));
}

static void known_prompts_have_known_ids(void **state)
{
    struct t5_tokenizer *tokenizer;

    (void)state;
    if (test_skip_without_shared(__func__))
        skip();
    tokenizer = open_folder(test_shared_path("tokenizers/tokenizer_3"));
    EXPECT_IDS(tokenizer, "a photo of a cat", 3, 9, 1202, 13, 3, 9, 1712);
    EXPECT_IDS(tokenizer, "A cat holding a sign that says hello world", 71, 1712, 3609, 3, 9, 1320,
               24, 845, 21820, 296);
    EXPECT_IDS(tokenizer, "  hello   world  ", 21820, 296);
    EXPECT_IDS(tokenizer, "\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E test \xE6\x97\xA5\xE6\x9C\xAC", 3,
               2, 794, 3, 2);
    EXPECT_IDS(tokenizer, "na\xC3\xAFve caf\xC3\xA9 \xC2\xBD \xEF\xAC\x81", 3, 29, 9, 2, 162, 11949,
               209, 2, 357, 361);
    EXPECT_IDS(tokenizer, "line1\nline2\ttab", 689, 536, 689, 357, 3808);
    EXPECT_IDS(tokenizer, "(word:1.3)", 41, 6051, 10, 13606, 61);
    EXPECT_IDS(tokenizer, "emoji \xF0\x9F\x98\x80\xF0\x9F\x98\x80 x", 3, 15, 51, 21892, 3, 2, 3,
               226);
    EXPECT_IDS(tokenizer, "don't", 278, 31, 17);
    EXPECT_IDS(tokenizer, "\xEF\xBC\xA1\xEF\xBC\xA2\xEF\xBC\xA3", 14213);
    EXPECT_IDS(tokenizer, "\xE2\x80\x9Cquote\xE2\x80\x9D\xE2\x80\xA6", 105, 8270, 15, 153, 233);
    expect_ids_of(tokenizer, "", 0, NULL, 0);
    t5_tokenizer_destroy(tokenizer);
}

/* Full-width signs become "</s>" in normalisation: text, and no token that ends it. */
static void a_text_that_normalises_to_a_control_piece_stays_text(void **state)
{
    static const char *const folders[] = {"one", "two"};

    (void)state;
    if (test_skip_without_shared(__func__))
        skip();
    copy_published(folders[0], "spiece.model");
    copy_published(folders[1], "tokenizer.json");
    for (size_t i = 0; i < 2; i++) {
        struct t5_tokenizer *tokenizer = open_folder(test_path(folders[i]));

        EXPECT_IDS(tokenizer, "\xEF\xBC\x9Cpad\xEF\xBC\x9E", 3, 2, 5612, 3155);
        t5_tokenizer_destroy(tokenizer);
    }
}

/* --- A small vocabulary --- */

static void the_split_with_the_best_score_wins(void **state)
{
    struct t5_tokenizer *tokenizer = create_small();

    (void)state;
    EXPECT_IDS(tokenizer, "hello", 4, 5);   /* -5 - 4 beats -9.5 */
    EXPECT_IDS(tokenizer, "helo", 4, 6, 7); /* -5 - 3 - 3 beats the single letters */
    EXPECT_IDS(tokenizer, "hello hello", 4, 5, 4, 5);
    EXPECT_IDS(tokenizer, "@@o", 3, 14, 7); /* a user-defined piece */
    t5_tokenizer_destroy(tokenizer);
}

static void of_splits_with_equal_scores_the_first_found_wins(void **state)
{
    struct t5_tokenizer *tokenizer = create_small();

    (void)state;
    EXPECT_IDS(tokenizer, "aa", 3, 12);      /* "aa" costs exactly two "a" */
    EXPECT_IDS(tokenizer, "aaa", 3, 11, 12); /* the last piece is the one that starts first */
    t5_tokenizer_destroy(tokenizer);
}

static void neighbouring_unknown_characters_become_one_unknown_token(void **state)
{
    struct t5_tokenizer *tokenizer = create_small();

    (void)state;
    EXPECT_IDS(tokenizer, "qqq", 3, 2);
    EXPECT_IDS(tokenizer, "qoq", 3, 2, 7, 2);
    EXPECT_IDS(tokenizer, "\xE6\x97\xA5\xE6\x9C\xAC", 3, 2);
    EXPECT_IDS(tokenizer, "x", 3, 2); /* its piece is marked unused */
    EXPECT_IDS(tokenizer, "\xFF\xFE", 3, 2);
    expect_ids_of(tokenizer, "o\0o", 3, (const int32_t[]){3, 7, 2, 7}, 4);
    t5_tokenizer_destroy(tokenizer);
}

static void the_normalisation_table_is_applied(void **state)
{
    struct t5_tokenizer *tokenizer = create_small();

    (void)state;
    EXPECT_IDS(tokenizer, "A", 3, 11);
    EXPECT_IDS(tokenizer, "o\to", 3, 7, 3, 7);
    t5_tokenizer_destroy(tokenizer);
}

static void a_vocabulary_may_lack_the_normalisation_table(void **state)
{
    struct tokenizer_files files = small_folder();
    struct small_bytes model = small_spiece(NULL);
    char *json = small_t5_json(NULL);

    (void)state;
    small_put(&files, TOKENIZER_SPIECE, model.bytes, model.size);
    for (int pass = 0; pass < 2; pass++) {
        struct t5_tokenizer *tokenizer = create(&files);

        EXPECT_IDS(tokenizer, "A", 3, 2);
        EXPECT_IDS(tokenizer, " o\t\n o ", 3, 7, 3, 7);
        t5_tokenizer_destroy(tokenizer);
        small_put_text(&files, TOKENIZER_JSON, json);
    }
    free(json);
    free(model.bytes);
    tokenizer_files_finish(&files);
}

static void tokenizer_json_gives_the_same_ids_as_spiece_model(void **state)
{
    struct tokenizer_files files = small_folder();
    struct small_bytes map = small_charsmap();
    char *base64 = small_base64(&map), *json = small_t5_json(base64);
    struct t5_tokenizer *tokenizer;

    (void)state;
    small_put_text(&files, TOKENIZER_JSON, json);
    tokenizer = create(&files);
    EXPECT_IDS(tokenizer, "hello aaa qqq A\to @@", 4, 5, 3, 11, 12, 3, 2, 3, 11, 3, 7, 3, 14);
    EXPECT_IDS(tokenizer, "o<extra_id_0>o</s> <unk>", 3, 7, 18, 3, 7, 1, 2);
    assert_int_equal(t5_tokenizer_vocabulary_size(tokenizer), 19);
    t5_tokenizer_destroy(tokenizer);
    free(json);
    free(base64);
    free(map.bytes);
    tokenizer_files_finish(&files);
}

static void special_tokens_are_recognised_inside_texts(void **state)
{
    struct t5_tokenizer *tokenizer = create_small();

    (void)state;
    EXPECT_IDS(tokenizer, "o</s>o <pad> <unk>", 3, 7, 1, 3, 7, 0, 2);
    assert_int_equal(t5_tokenizer_vocabulary_size(tokenizer), 18);
    t5_tokenizer_destroy(tokenizer);
}

static void a_word_that_brings_the_space_mark_gets_no_second_one(void **state)
{
    struct t5_tokenizer *tokenizer = create_small();

    (void)state;
    EXPECT_IDS(tokenizer, SMALL_MARK "o " SMALL_MARK "o", 3, 7, 3, 7);
    EXPECT_IDS(tokenizer, SMALL_MARK SMALL_MARK "o", 3, 3, 7);
    t5_tokenizer_destroy(tokenizer);
}

static void padding_fills_and_cutting_keeps_the_end_token(void **state)
{
    struct t5_tokenizer *tokenizer = create_small();
    int32_t ids[9] = {-7, -7, -7, -7, -7, -7, -7, -7, -7};
    struct error err;
    size_t cut;

    (void)state;
    assert_true(t5_tokenizer_encode_padded(tokenizer, "hello", 5, ids, 8, &cut, &err));
    assert_memory_equal(ids, ((int32_t[]){4, 5, 1, 0, 0, 0, 0, 0, -7}), sizeof ids);
    assert_int_equal(cut, 0);
    assert_true(t5_tokenizer_encode_padded(tokenizer, "hello", 5, ids, 3, &cut, &err));
    assert_int_equal(cut, 0);
    assert_true(t5_tokenizer_encode_padded(tokenizer, "hello hello", 11, ids, 4, &cut, &err));
    assert_memory_equal(ids, ((int32_t[]){4, 5, 4, 1, 0, 0, 0, 0, -7}), sizeof ids);
    assert_int_equal(cut, 1);
    assert_true(t5_tokenizer_encode_padded(tokenizer, "hello", 5, ids, 1, &cut, &err));
    assert_int_equal(ids[0], 1);
    assert_int_equal(cut, 2);
    assert_false(t5_tokenizer_encode_padded(tokenizer, "hello", 5, ids, 0, &cut, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    t5_tokenizer_destroy(tokenizer);
}

static void the_pad_and_end_tokens_come_from_the_folder(void **state)
{
    struct tokenizer_files files = small_t5_folder();
    struct t5_tokenizer *tokenizer;
    int32_t ids[4];
    size_t cut;

    (void)state;
    small_put_text(&files, TOKENIZER_CONFIG, "{\"pad_token\":{\"content\":\"@@\"}}");
    small_put_text(&files, TOKENIZER_SPECIAL_NAMES, "{\"pad_token\":\"a\",\"eos_token\":\"llo\"}");
    tokenizer = create(&files);
    assert_true(t5_tokenizer_encode_padded(tokenizer, "o", 1, ids, 4, &cut, NULL));
    assert_memory_equal(ids, ((int32_t[]){3, 7, 5, 14}), sizeof ids);
    t5_tokenizer_destroy(tokenizer);
    tokenizer_files_finish(&files);
}

static void the_longest_text_is_what_the_folder_says(void **state)
{
    static const struct {
        const char *config;
        int32_t length;
    } cases[] = {
        {"{\"model_max_length\":77}", 77},        {"{}", 0},
        {"{\"model_max_length\":1e30}", 0},       {"{\"model_max_length\":-5}", 0},
        {"{\"model_max_length\":9999999999}", 0}, {"{\"model_max_length\":\"77\"}", 0},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct tokenizer_files files = small_t5_folder();
        struct t5_tokenizer *tokenizer;

        small_put_text(&files, TOKENIZER_CONFIG, cases[i].config);
        tokenizer = create(&files);
        assert_int_equal(t5_tokenizer_length_max(tokenizer), cases[i].length);
        t5_tokenizer_destroy(tokenizer);
        tokenizer_files_finish(&files);
    }
}

static void encode_counts_what_does_not_fit_and_does_not_write_it(void **state)
{
    struct t5_tokenizer *tokenizer = create_small();
    int32_t ids[3] = {-7, -7, -7};
    struct error err;
    size_t count;

    (void)state;
    assert_true(t5_tokenizer_encode(tokenizer, "hello hello", 11, ids, 2, &count, &err));
    assert_int_equal(count, 4);
    assert_int_equal(ids[1], 5);
    assert_int_equal(ids[2], -7);
    t5_tokenizer_destroy(tokenizer);
}

/* --- Texts that are made to take long --- */

static double encode_seconds(const struct t5_tokenizer *tokenizer, const char *part, size_t size)
{
    size_t part_size = strlen(part), count;
    char *text = malloc(size);
    struct timespec begin, end;
    struct error err;

    assert_non_null(text);
    for (size_t i = 0; i < size; i++)
        text[i] = part[i % part_size];
    clock_gettime(CLOCK_MONOTONIC, &begin);
    assert_true(t5_tokenizer_encode(tokenizer, text, size, NULL, 0, &count, &err));
    clock_gettime(CLOCK_MONOTONIC, &end);
    free(text);
    return (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
}

/* Quadratic time would be minutes. */
static void texts_without_spaces_and_runs_of_marks_take_near_linear_time(void **state)
{
    struct t5_tokenizer *tokenizer = create_small();

    (void)state;
    assert_true(encode_seconds(tokenizer, "a", 64 << 10) < 5);
    assert_true(encode_seconds(tokenizer, "hello", 64 << 10) < 5);
    assert_true(encode_seconds(tokenizer, "</s", 64 << 10) < 5);
    assert_true(encode_seconds(tokenizer, "\xCC\x81\xCC\xA3", 200000) < 5);
    t5_tokenizer_destroy(tokenizer);
}

/* Pieces "a", "aa", ... up to the longest allowed all match at every position. */
static void many_long_pieces_cannot_make_it_slow(void **state)
{
    struct tokenizer_files files = small_folder();
    struct small_bytes model = {0};
    struct t5_tokenizer *tokenizer;
    char piece[513] = "";

    (void)state;
    small_append_piece(&model, "<pad>", 0, 3);
    small_append_piece(&model, "</s>", 0, 3);
    small_append_piece(&model, "<unk>", 0, 2);
    for (size_t i = 0; i < 512; i++) {
        piece[i] = 'a';
        small_append_piece(&model, piece, -(float)(i + 1), 1);
    }
    small_append_field(&model, 3, "", 0);
    small_put(&files, TOKENIZER_SPIECE, model.bytes, model.size);
    tokenizer = create(&files);
    assert_true(encode_seconds(tokenizer, "a", 64 << 10) < 10);
    t5_tokenizer_destroy(tokenizer);
    free(model.bytes);
    tokenizer_files_finish(&files);
}

static void a_text_beyond_the_limit_is_a_bad_request(void **state)
{
    struct t5_tokenizer *tokenizer = create_small();
    char *text = calloc(1, (1 << 20) + 1);
    struct error err;
    size_t count;

    (void)state;
    assert_non_null(text);
    assert_false(t5_tokenizer_encode(tokenizer, text, (1 << 20) + 1, NULL, 0, &count, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    free(text);
    t5_tokenizer_destroy(tokenizer);
}

/* --- Damaged files --- */

static void expect_refused(const struct tokenizer_files *files, const char *part, const char *also)
{
    struct t5_tokenizer *tokenizer = (void *)&tokenizer;
    struct error err = {0};

    if (t5_tokenizer_create_from_files(&tokenizer, files, &err))
        fail_msg("accepted, but wanted: %s", also);
    assert_ptr_equal(tokenizer, &tokenizer); /* left alone */
    assert_int_equal(err.code, ERROR_BAD_FILE);
    if (!strstr(err.message, part) || !strstr(err.message, also))
        fail_msg("'%s' lacks '%s' or '%s'", err.message, part, also);
}

static void expect_spiece_refused(const void *bytes, size_t size, const char *cause)
{
    struct tokenizer_files files = small_folder();

    small_put(&files, TOKENIZER_SPIECE, bytes, size);
    expect_refused(&files, "folder/spiece.model", cause);
    tokenizer_files_finish(&files);
}

static void a_damaged_spiece_model_is_refused_with_file_and_cause(void **state)
{
#define BYTES(text) text, sizeof(text) - 1
    static const struct {
        const char *bytes;
        size_t size;
        const char *cause;
    } cases[] = {
        {BYTES(""), "ends before"},
        {BYTES("\x80"), "cut off inside a number"},
        {BYTES("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02"), "more than 64 bits"},
        {BYTES("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"), "more than 64 bits"},
        {BYTES("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"), "past the end"},
        {BYTES("\x0A\x05\x0A\x03"), "past the end"},
        {BYTES("\x0A\x03\x0A\x05xxxxxxx"), "past the end"}, /* past its own message */
        {BYTES("\x00"), "number 0"},
        {BYTES("\x0B"), "does not use"}, /* a group */
        {BYTES("\x0F"), "does not use"},
        {BYTES("\x08\x01"), "wrong kind"},
        {BYTES("\x0A\x02\x08\x01"), "wrong kind"},
        {BYTES("\x0A\x02\x10\x01"), "wrong kind"},
        {BYTES("\x25\x01\x02"), "past the end"}, /* half a 32-bit field */
        {BYTES("\x0A\x00"), "0 bytes"},
        {BYTES("\x0A\x03\x0A\x01\xFF"), "not UTF-8"},
        {BYTES("\x0A\x08\x0A\x01q\x15\x00\x00\xC0\x7F"), "score of piece 0"}, /* NaN */
        {BYTES("\x0A\x08\x0A\x01q\x15\x00\x00\x80\xFF"), "score of piece 0"}, /* -infinity */
        {BYTES("\x0A\x03\x0A\x01q\x1A\x00"), "no piece for unknown"},
        {BYTES("\x0A\x05\x0A\x01q\x18\x02\x0A\x05\x0A\x01p\x18\x02"), "second piece"},
        {BYTES("\x0A\x05\x0A\x01q\x18\x02\x0A\x03\x0A\x01q\x1A\x00"), "same symbol"},
        {BYTES("\x0A\x05\x0A\x01q\x18\x02\x1A\x00"), "eos_token"},
        {BYTES("\x1A\x02\x10\x01"), "wrong kind"}, /* the table as a number */
        {BYTES("\x1A\x03\x12\x01q"), "normalisation table"},
    };
#undef BYTES

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_spiece_refused(cases[i].bytes, cases[i].size, cases[i].cause);
}

static void a_spiece_model_cut_at_any_byte_is_refused(void **state)
{
    struct small_bytes map = small_charsmap(), model = small_spiece(&map);

    (void)state;
    for (size_t size = 0; size < model.size; size++)
        expect_spiece_refused(model.bytes, size, "");
    free(model.bytes);
    free(map.bytes);
}

static void a_tokenizer_json_cut_at_any_byte_is_refused(void **state)
{
    struct tokenizer_files files = small_folder();
    char *json = small_t5_json("AAAA");

    (void)state;
    for (size_t size = 0; size < strlen(json); size++) {
        small_put(&files, TOKENIZER_JSON, json, size);
        expect_refused(&files, "folder/tokenizer.json", "");
    }
    free(json);
    tokenizer_files_finish(&files);
}

static void more_than_a_million_pieces_are_refused(void **state)
{
    struct small_bytes model = {0};
    char piece[] = "\x0A\x0A\x0A\x08"
                   "00000000";

    (void)state;
    model.bytes = malloc(1000001 * 12);
    assert_non_null(model.bytes);
    for (unsigned i = 0; i < 1000001; i++) {
        char digits[9];

        snprintf(digits, sizeof digits, "%08u", i);
        memcpy(piece + 4, digits, 8);
        memcpy(model.bytes + model.size, piece, 12);
        model.size += 12;
    }
    expect_spiece_refused(model.bytes, model.size, "1000000");
    free(model.bytes);
}

/* The small table with one unit, or one byte of the strings, replaced. */
static void expect_table_refused(size_t unit, uint32_t value, const char *cause)
{
    struct small_bytes map = small_charsmap(), model;

    for (size_t i = 0; i < 4; i++)
        map.bytes[4 + 4 * unit + i] = (unsigned char)(value >> 8 * i);
    model = small_spiece(&map);
    expect_spiece_refused(model.bytes, model.size, cause);
    free(model.bytes);
    free(map.bytes);
}

static void a_table_that_leads_outside_itself_is_refused(void **state)
{
    const uint32_t value_bit = UINT32_C(1) << 31;

    (void)state;
    expect_table_refused(0, UINT32_C(0x3FFFFF) << 10, "outside the trie");
    expect_table_refused(0, 514U << 10, "outside the trie");
    expect_table_refused(SMALL_UNIT_A, UINT32_C(0x1FFFFF) << 10 | 'A', "outside the trie");
    expect_table_refused(SMALL_UNIT_A, 1U << 10 | 1U << 8 | 'A', "no value");
    expect_table_refused(512, value_bit | 4, "past the strings");
    expect_table_refused(512, value_bit | 0x7FFFFFFF, "past the strings");
    expect_table_refused(512, 0, "no value");
}

static void a_table_with_bad_sizes_or_strings_is_refused(void **state)
{
    static const struct {
        size_t at, size; /* the byte to change, and where the table ends */
        unsigned char value;
        const char *cause;
    } cases[] = {
        {0, 3, 0, "does not fit"},
        {0, 2064, 0x09, "does not fit"}, /* no whole number of units */
        {1, 2064, 0x20, "does not fit"}, /* longer than the table */
        {0, 2063, 0x08, "unusable"},     /* the last string has no end */
        {2060, 2064, 0xFF, "unusable"},  /* no UTF-8 */
        {0, 4, 0x08, "does not fit"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct small_bytes map = small_charsmap(), model;

        assert_int_equal(map.size, 2064);
        map.bytes[cases[i].at] = cases[i].value;
        map.size = cases[i].size;
        model = small_spiece(&map);
        expect_spiece_refused(model.bytes, model.size, cases[i].cause);
        free(model.bytes);
        free(map.bytes);
    }
}

/* A table whose trie turns back on itself has keys of any length; reading and using it must end. */
static void a_table_with_a_cycle_still_ends(void **state)
{
    struct small_bytes map = small_charsmap(), model;
    struct tokenizer_files files = small_folder();
    uint32_t unit = (uint32_t)(SMALL_UNIT_A ^ 256) << 10 | 'A'; /* the child of A over A is A */
    struct t5_tokenizer *tokenizer;

    (void)state;
    for (size_t i = 0; i < 4; i++)
        map.bytes[4 + 4 * SMALL_UNIT_A + i] = (unsigned char)(unit >> 8 * i);
    model = small_spiece(&map);
    small_put(&files, TOKENIZER_SPIECE, model.bytes, model.size);
    tokenizer = create(&files);
    assert_true(encode_seconds(tokenizer, "A", 64 << 10) < 5);
    t5_tokenizer_destroy(tokenizer);
    free(model.bytes);
    free(map.bytes);
    tokenizer_files_finish(&files);
}

static void a_damaged_tokenizer_json_is_refused_with_file_and_cause(void **state)
{
#define MODEL(unknown, vocab) "{\"model\":{\"unk_id\":" unknown ",\"vocab\":" vocab "}}"
    static const struct {
        const char *content, *cause;
    } cases[] = {
        {"{}", "not a unigram model"},
        {"\xEF\xBB\xBF{}", "byte order mark"},
        {"{\"model\":{\"type\":\"BPE\"}}", "not a unigram model"},
        {MODEL("0", "{}"), "not a list"},
        {MODEL("0", "[1]"), "piece 0"},
        {MODEL("0", "[[\"a\"]]"), "piece 0"},
        {MODEL("0", "[[\"a\",\"b\"]]"), "piece 0"},
        {MODEL("0", "[[\"a\",0],[1,2]]"), "piece 1"},
        {MODEL("0", "[[\"a\",0],[\"a\",0]]"), "same symbol"},
        {MODEL("0", "[[\"a\",1e999]]"), "not JSON"},
        {MODEL("0", "[[\"a\",NaN]]"), "not JSON"},
        {MODEL("null", "[[\"a\",0]]"), "no piece for unknown"},
        {MODEL("1", "[[\"a\",0]]"), "no piece for unknown"},
        {MODEL("-1", "[[\"a\",0]]"), "no piece for unknown"},
        {MODEL("0", "[[\"a\",0]]"), "eos_token"},
        {MODEL("0", "[[\"a\",0],[\"</s>\",0]]"), "pad_token"},
    };
#undef MODEL

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokenizer_files files = small_folder();

        small_put_text(&files, TOKENIZER_JSON, cases[i].content);
        expect_refused(&files, "folder/tokenizer.json", cases[i].cause);
        tokenizer_files_finish(&files);
    }
}

static void a_table_that_is_not_base64_is_refused(void **state)
{
    static const struct {
        const char *text, *cause;
    } cases[] = {
        {"A", "not Base64"},           {"AAAA=", "does not fit"}, {"AA=A", "not Base64"},
        {"AAA\xC3\xA9", "not Base64"}, {"A AA", "not Base64"},    {"====", "not Base64"},
        {"AAAA", "does not fit"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokenizer_files files = small_folder();
        char *json = small_t5_json(cases[i].text);

        small_put_text(&files, TOKENIZER_JSON, json);
        expect_refused(&files, "folder/tokenizer.json", cases[i].cause);
        free(json);
        tokenizer_files_finish(&files);
    }
}

static void missing_files_are_named(void **state)
{
    struct t5_tokenizer *tokenizer;
    struct error err;

    (void)state;
    assert_false(t5_tokenizer_create(&tokenizer, test_path("nowhere"), &err));
    assert_int_equal(err.code, ERROR_IO);
    assert_non_null(strstr(err.message, "nowhere/spiece.model"));
    assert_non_null(strstr(err.message, "nowhere/tokenizer.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_folder_gives_the_ids_of_the_reference),
        cmocka_unit_test(spiece_model_gives_the_ids_of_the_reference),
        cmocka_unit_test(tokenizer_json_alone_gives_the_ids_of_the_reference),
        cmocka_unit_test(known_prompts_have_known_ids),
        cmocka_unit_test(a_text_that_normalises_to_a_control_piece_stays_text),
        cmocka_unit_test(the_split_with_the_best_score_wins),
        cmocka_unit_test(of_splits_with_equal_scores_the_first_found_wins),
        cmocka_unit_test(neighbouring_unknown_characters_become_one_unknown_token),
        cmocka_unit_test(the_normalisation_table_is_applied),
        cmocka_unit_test(a_vocabulary_may_lack_the_normalisation_table),
        cmocka_unit_test(tokenizer_json_gives_the_same_ids_as_spiece_model),
        cmocka_unit_test(special_tokens_are_recognised_inside_texts),
        cmocka_unit_test(a_word_that_brings_the_space_mark_gets_no_second_one),
        cmocka_unit_test(padding_fills_and_cutting_keeps_the_end_token),
        cmocka_unit_test(the_pad_and_end_tokens_come_from_the_folder),
        cmocka_unit_test(the_longest_text_is_what_the_folder_says),
        cmocka_unit_test(encode_counts_what_does_not_fit_and_does_not_write_it),
        cmocka_unit_test(texts_without_spaces_and_runs_of_marks_take_near_linear_time),
        cmocka_unit_test(many_long_pieces_cannot_make_it_slow),
        cmocka_unit_test(a_text_beyond_the_limit_is_a_bad_request),
        cmocka_unit_test(a_damaged_spiece_model_is_refused_with_file_and_cause),
        cmocka_unit_test(a_spiece_model_cut_at_any_byte_is_refused),
        cmocka_unit_test(a_tokenizer_json_cut_at_any_byte_is_refused),
        cmocka_unit_test(more_than_a_million_pieces_are_refused),
        cmocka_unit_test(a_table_that_leads_outside_itself_is_refused),
        cmocka_unit_test(a_table_with_bad_sizes_or_strings_is_refused),
        cmocka_unit_test(a_table_with_a_cycle_still_ends),
        cmocka_unit_test(a_damaged_tokenizer_json_is_refused_with_file_and_cause),
        cmocka_unit_test(a_table_that_is_not_base64_is_refused),
        cmocka_unit_test(missing_files_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
