#include "cli/sixel.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

#define COLOURS_MAX 256
#define CHANNEL_BITS 5 /* of a colour's channel when colours are counted */
#define CHANNEL_VALUES (1 << CHANNEL_BITS)
#define CELL_COUNT (1 << (3 * CHANNEL_BITS))
#define BAND_ROWS 6

/* The colours that fall into one cell of the colour space. */
struct cell {
    uint64_t count;
    uint64_t sum[3];
};

/* A range of cells along each channel, both ends included. */
struct box {
    int low[3], high[3];
    uint64_t count; /* of pixels */
};

struct palette {
    struct cell cells[CELL_COUNT];
    unsigned char colour_of_cell[CELL_COUNT];
    struct box boxes[COLOURS_MAX];
    unsigned char colours[COLOURS_MAX][3];
    int count;
};

static size_t cell_index(int red, int green, int blue)
{
    return ((size_t)red << CHANNEL_BITS | (size_t)green) << CHANNEL_BITS | (size_t)blue;
}

static size_t cell_of_pixel(const unsigned char *pixel)
{
    int shift = 8 - CHANNEL_BITS;

    return cell_index(pixel[0] >> shift, pixel[1] >> shift, pixel[2] >> shift);
}

static void count_colours(struct palette *palette, const struct image *image)
{
    size_t pixel_count = (size_t)image->width * (size_t)image->height;

    for (size_t i = 0; i < pixel_count; i++) {
        const unsigned char *pixel = image->pixels + 3 * i;
        struct cell *cell = &palette->cells[cell_of_pixel(pixel)];

        cell->count++;
        for (int c = 0; c < 3; c++)
            cell->sum[c] += pixel[c];
    }
}

/* Loops over the cells of the box. NOLINTBEGIN(bugprone-macro-parentheses): index is declared. */
#define FOR_EACH_CELL(index, box)                                                                  \
    for (int r_ = (box)->low[0]; r_ <= (box)->high[0]; r_++)                                       \
        for (int g_ = (box)->low[1]; g_ <= (box)->high[1]; g_++)                                   \
            for (size_t index = cell_index(r_, g_, (box)->low[2]);                                 \
                 index <= cell_index(r_, g_, (box)->high[2]); index++)
/* NOLINTEND(bugprone-macro-parentheses) */

static int coordinate(size_t index, int channel)
{
    return (int)(index >> (CHANNEL_BITS * (2 - channel))) & (CHANNEL_VALUES - 1);
}

/* Makes the box as small as the colours inside it allow, and counts their pixels. */
static void shrink(struct box *box, const struct palette *palette)
{
    struct box tight = {.low = {CHANNEL_VALUES, CHANNEL_VALUES, CHANNEL_VALUES},
                        .high = {-1, -1, -1}};

    FOR_EACH_CELL(i, box)
    {
        if (!palette->cells[i].count)
            continue;
        tight.count += palette->cells[i].count;
        for (int c = 0; c < 3; c++) {
            int at = coordinate(i, c);

            tight.low[c] = at < tight.low[c] ? at : tight.low[c];
            tight.high[c] = at > tight.high[c] ? at : tight.high[c];
        }
    }
    *box = tight;
}

static int longest_side(const struct box *box)
{
    int longest = 0;

    for (int c = 1; c < 3; c++)
        if (box->high[c] - box->low[c] > box->high[longest] - box->low[longest])
            longest = c;
    return longest;
}

/* Where a cut improves the picture most: many pixels, spread widely. */
static uint64_t gain(const struct box *box)
{
    int c = longest_side(box);

    return box->count * (uint64_t)(box->high[c] - box->low[c]);
}

/* The last position along the channel that belongs to the lower half of the pixels. */
static int median(const struct box *box, const struct palette *palette, int channel)
{
    uint64_t counts[CHANNEL_VALUES] = {0}, sum = 0;
    int at = box->low[channel];

    FOR_EACH_CELL(i, box)
    {
        counts[coordinate(i, channel)] += palette->cells[i].count;
    }
    while (at < box->high[channel] - 1 && (sum += counts[at]) * 2 < box->count)
        at++;
    return at;
}

static void cut(struct palette *palette, struct box *box)
{
    struct box *upper = &palette->boxes[palette->count++];
    int channel = longest_side(box);
    int at = median(box, palette, channel);

    *upper = *box;
    box->high[channel] = at;
    upper->low[channel] = at + 1;
    shrink(box, palette);
    shrink(upper, palette);
}

static struct box *best_box(struct palette *palette)
{
    struct box *best = &palette->boxes[0];

    for (int i = 1; i < palette->count; i++)
        if (gain(&palette->boxes[i]) > gain(best))
            best = &palette->boxes[i];
    return gain(best) > 0 ? best : NULL;
}

/* A box's colour is the mean of the pixels inside it. */
static void settle_colour(struct palette *palette, int colour)
{
    const struct box *box = &palette->boxes[colour];
    uint64_t sum[3] = {0};

    FOR_EACH_CELL(i, box)
    {
        palette->colour_of_cell[i] = (unsigned char)colour;
        for (int c = 0; c < 3; c++)
            sum[c] += palette->cells[i].sum[c];
    }
    for (int c = 0; c < 3; c++)
        palette->colours[colour][c] = (unsigned char)((sum[c] + box->count / 2) / box->count);
}

static void choose_colours(struct palette *palette, const struct image *image)
{
    int last = CHANNEL_VALUES - 1;
    struct box *box;

    count_colours(palette, image);
    palette->boxes[0] = (struct box){.high = {last, last, last}};
    palette->count = 1;
    shrink(&palette->boxes[0], palette);
    while (palette->count < COLOURS_MAX && (box = best_box(palette)))
        cut(palette, box);
    for (int i = 0; i < palette->count; i++)
        settle_colour(palette, i);
}

/* Sixel colours go from 0 to 100. */
static int percent(unsigned char value)
{
    return (value * 100 + 127) / 255;
}

static void write_colours(FILE *out, const struct palette *palette)
{
    for (int i = 0; i < palette->count; i++) {
        const unsigned char *colour = palette->colours[i];

        fprintf(out, "#%d;2;%d;%d;%d", i, percent(colour[0]), percent(colour[1]),
                percent(colour[2]));
    }
}

/* One run of equal columns; "!4x" is shorter than "xxxx". */
static void write_run(FILE *out, unsigned char column, int length)
{
    int character = '?' + column;

    if (length > 3)
        fprintf(out, "!%d%c", length, character);
    else
        for (int i = 0; i < length; i++)
            fputc(character, out);
}

/* `columns` has a bit for each of the six rows; empty ones at the end are left out. */
static void write_columns(FILE *out, const unsigned char *columns, int width)
{
    int start = 0;

    while (width > 0 && columns[width - 1] == 0)
        width--;
    for (int x = 1; x <= width; x++)
        if (x == width || columns[x] != columns[start]) {
            write_run(out, columns[start], x - start);
            start = x;
        }
}

/* columns  [COLOURS_MAX, width]  zero before and after */
static void write_band(FILE *out, const struct image *image, const struct palette *palette,
                       int first_row, unsigned char *columns)
{
    size_t width = (size_t)image->width;
    bool is_used[COLOURS_MAX] = {false};
    bool is_first = true;

    for (int row = 0; row < BAND_ROWS && first_row + row < image->height; row++)
        for (size_t x = 0; x < width; x++) {
            size_t at = (size_t)(first_row + row) * width + x;
            int colour = palette->colour_of_cell[cell_of_pixel(image->pixels + 3 * at)];

            is_used[colour] = true;
            columns[(size_t)colour * width + x] |= (unsigned char)(1 << row);
        }
    for (int colour = 0; colour < palette->count; colour++) {
        unsigned char *used = columns + (size_t)colour * width;

        if (!is_used[colour])
            continue;
        fprintf(out, "%s#%d", is_first ? "" : "$", colour);
        is_first = false;
        write_columns(out, used, image->width);
        memset(used, 0, width);
    }
    fputc('-', out);
}

bool sixel_write(FILE *out, const struct image *image, struct error *err)
{
    struct palette *palette = calloc(1, sizeof *palette);
    unsigned char *columns = calloc(COLOURS_MAX, (size_t)image->width);
    bool done = palette && columns;

    if (done) {
        choose_colours(palette, image);
        fprintf(out, "\033P0;1;0q\"1;1;%d;%d", image->width, image->height);
        write_colours(out, palette);
        for (int row = 0; row < image->height; row += BAND_ROWS)
            write_band(out, image, palette, row, columns);
        fputs("\033\\", out);
    } else {
        error_set(err, ERROR_NO_MEMORY, "a sixel picture of %d x %d", image->width, image->height);
    }
    free(palette);
    free(columns);
    return done;
}
