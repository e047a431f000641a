#include "text/spiece_model.h"

#include <stdint.h>
#include <string.h>

/* Field numbers of sentencepiece_model.proto. */
enum { MODEL_PIECES = 1, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum { NORMALIZER_CHARSMAP = 2 };
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_USER_DEFINED = 4 };

enum wire_type { WIRE_VARINT = 0, WIRE_64_BIT = 1, WIRE_BYTES = 2, WIRE_32_BIT = 5 };

/* A message, or what is left of it. */
struct message {
    const unsigned char *at, *end;
    const unsigned char *file; /* where offsets in error messages count from */
};

struct field {
    uint64_t number;
    unsigned wire;
    uint64_t value;        /* of a varint, and the bits of a 32-bit field */
    struct message nested; /* the bytes of a WIRE_BYTES field */
};

static bool refuse(const struct message *message, const char *what, struct error *err)
{
    return error_set(err, ERROR_BAD_FILE, "byte %zu: %s", (size_t)(message->at - message->file),
                     what);
}

static bool read_varint(uint64_t *out, struct message *message, struct error *err)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 64; shift += 7) {
        unsigned char byte;

        if (message->at == message->end)
            return refuse(message, "the file is cut off inside a number", err);
        byte = *message->at++;
        if (shift == 63 && byte > 1)
            break;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return refuse(message, "a number has more than 64 bits", err);
}

static bool take_bytes(struct message *out, struct message *message, uint64_t size,
                       struct error *err)
{
    if (size > (uint64_t)(message->end - message->at))
        return refuse(message, "a length reaches past the end", err);
    *out = (struct message){message->at, message->at + size, message->file};
    message->at += size;
    return true;
}

static bool read_value(struct field *field, struct message *message, struct error *err)
{
    switch (field->wire) {
    case WIRE_VARINT:
        return read_varint(&field->value, message, err);
    case WIRE_BYTES:
        return read_varint(&field->value, message, err) &&
               take_bytes(&field->nested, message, field->value, err);
    case WIRE_64_BIT:
        return take_bytes(&field->nested, message, 8, err);
    case WIRE_32_BIT:
        if (!take_bytes(&field->nested, message, 4, err))
            return false;
        field->value = (uint64_t)field->nested.at[0] | (uint64_t)field->nested.at[1] << 8 |
                       (uint64_t)field->nested.at[2] << 16 | (uint64_t)field->nested.at[3] << 24;
        return true;
    default:
        return refuse(message, "a field of a kind that SentencePiece does not use", err);
    }
}

static bool read_field(struct field *field, struct message *message, struct error *err)
{
    uint64_t tag;

    if (!read_varint(&tag, message, err))
        return false;
    *field = (struct field){.number = tag >> 3, .wire = tag & 7};
    if (field->number == 0)
        return refuse(message, "a field has the number 0", err);
    return read_value(field, message, err);
}

struct piece {
    struct message text;
    float score;
    uint64_t type;
};

static bool read_piece_field(struct piece *piece, const struct field *field,
                             const struct message *message, struct error *err)
{
    static const unsigned wires[] = {
        [PIECE_TEXT] = WIRE_BYTES, [PIECE_SCORE] = WIRE_32_BIT, [PIECE_TYPE] = WIRE_VARINT};
    uint32_t bits = (uint32_t)field->value;

    if (field->number > PIECE_TYPE)
        return true; /* extensions */
    if (field->wire != wires[field->number])
        return refuse(message, "a field of a piece has the wrong kind", err);
    if (field->number == PIECE_TEXT)
        piece->text = field->nested;
    else if (field->number == PIECE_SCORE)
        memcpy(&piece->score, &bits, sizeof bits);
    else
        piece->type = field->value;
    return true;
}

static bool read_piece(struct piece *piece, struct message message, struct error *err)
{
    struct field field;

    *piece = (struct piece){.type = TYPE_NORMAL, .text = {message.at, message.at, message.file}};
    while (message.at < message.end) {
        if (!read_field(&field, &message, err) || !read_piece_field(piece, &field, &message, err))
            return false;
    }
    return true;
}

/* Control, unused and byte pieces are never found in a text. */
static bool add_piece(struct unigram *unigram, int64_t *unknown_id, struct message message,
                      struct error *err)
{
    struct piece piece;
    bool is_hidden;

    if (!read_piece(&piece, message, err))
        return false;
    is_hidden = piece.type != TYPE_NORMAL && piece.type != TYPE_USER_DEFINED;
    if (piece.type == TYPE_UNKNOWN && *unknown_id >= 0)
        return refuse(&message, "there is a second piece for unknown characters", err);
    if (piece.type == TYPE_UNKNOWN)
        *unknown_id = (int64_t)unigram->pieces.count;
    return unigram_add(unigram, (const char *)piece.text.at,
                       (size_t)(piece.text.end - piece.text.at), (double)piece.score, is_hidden,
                       err);
}

/* add_dummy_prefix and its like are not read: T5's tokenizer does not ask for them either. */
static bool read_normalizer(struct charsmap **charsmap, struct message message, struct error *err)
{
    struct field field;

    while (message.at < message.end) {
        if (!read_field(&field, &message, err))
            return false;
        if (field.number != NORMALIZER_CHARSMAP)
            continue;
        if (field.wire != WIRE_BYTES || *charsmap)
            return refuse(&message,
                          "the normalisation table is of the wrong kind, or there are two", err);
        if (field.value > 0 &&
            !charsmap_create(charsmap, field.nested.at, (size_t)field.value, err))
            return false;
    }
    return true;
}

static bool read_model(struct unigram *unigram, struct charsmap **charsmap, struct message message,
                       struct error *err)
{
    int64_t unknown_id = -1;
    bool has_normalizer = false;
    struct field field;

    while (message.at < message.end) {
        if (!read_field(&field, &message, err))
            return false;
        if (field.number != MODEL_PIECES && field.number != MODEL_NORMALIZER)
            continue;
        if (field.wire != WIRE_BYTES)
            return refuse(&message, "a field of the model has the wrong kind", err);
        if (field.number == MODEL_PIECES) {
            if (!add_piece(unigram, &unknown_id, field.nested, err))
                return false;
            continue;
        }
        has_normalizer = true;
        if (!read_normalizer(charsmap, field.nested, err))
            return false;
    }
    /* It follows the pieces in every file that SentencePiece writes. */
    if (!has_normalizer)
        return refuse(&message, "the file ends before the normaliser's settings", err);
    return unigram_sort(unigram, unknown_id, err);
}

bool spiece_model_read(struct unigram *unigram, struct charsmap **charsmap,
                       const struct tokenizer_file *file, struct error *err)
{
    struct message message = {file->bytes, file->bytes + file->size, file->bytes};

    *charsmap = NULL;
    return read_model(unigram, charsmap, message, err) || error_in(err, "'%s'", file->path);
}
