#include "calibrate/html_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/html_text.h"
#include "convert/convert_plan.h"

#define PICTURE_SIDE_MAX 384 /* larger pictures are shown smaller */
#define DIFFERENCE_GAIN 4
#define COLUMNS_MAX 32
#define CHART_WIDTH 640
#define CHART_HEIGHT 220

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n"
    "<meta name=\"color-scheme\" content=\"light dark\">\n<style>\n"
    ":root{--ink:#1b1f24;--faint:#667;--line:#d5d9e0;--page:#fff;--bar:#9aa7b8;--new:#2f6fdf;"
    "--hot:214,72,40}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e4e7ec;--faint:#99a;--line:#3a404a;"
    "--page:#15181d;--bar:#566070;--new:#6ea0ff;--hot:255,110,70}}\n"
    "body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);"
    "max-width:75rem;margin:2rem auto;padding:0 1rem}\n"
    "h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.5rem}p,figcaption{color:var(--faint);"
    "max-width:50rem}\n"
    "img{max-width:100%;height:auto;display:block;border-radius:4px}\n"
    ".row{display:flex;flex-wrap:wrap;gap:1rem;margin:1rem 0}figure{margin:0;flex:0 1 24rem}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:.8rem}"
    "th,td{padding:.25rem .5rem;text-align:right;white-space:nowrap}\n"
    "th{font-weight:500;color:var(--faint)}td.cell{border:1px solid var(--line);min-width:3rem}\n"
    "td.kept{outline:2px solid var(--new);outline-offset:-2px}\n"
    ".bar{height:.7rem;background:var(--bar);border-radius:2px}"
    ".bar.new{background:var(--new);margin-top:2px}\n"
    "svg text{fill:var(--faint);font-size:12px}svg .axis{stroke:var(--line)}"
    "svg .curve{stroke:var(--new);fill:none;stroke-width:2}\n"
    "</style>\n";

/* --- Pictures --- */

/* The picture no larger than fits the page. */
static bool shrink(struct image *out, const struct image *image, struct error *err)
{
    int longest = image->width > image->height ? image->width : image->height;
    int side = longest < PICTURE_SIDE_MAX ? longest : PICTURE_SIDE_MAX;
    int width = image->width * side / longest, height = image->height * side / longest;

    return image_resize(out, image, width > 0 ? width : 1, height > 0 ? height : 1, err);
}

static bool make_difference(struct image *out, const struct image *a, const struct image *b,
                            struct error *err)
{
    size_t count = (size_t)a->width * (size_t)a->height * 3;

    if (!image_init(out, a->width, a->height, err))
        return false;
    for (size_t i = 0; i < count; i++) {
        int value = DIFFERENCE_GAIN * abs(a->pixels[i] - b->pixels[i]);

        out->pixels[i] = (unsigned char)(value < 255 ? value : 255);
    }
    return true;
}

static bool put_figure(FILE *out, const struct image *image, const char *caption, struct error *err)
{
    struct image small;
    bool ok;

    if (!shrink(&small, image, err))
        return false;
    fputs("<figure>", out);
    ok = html_put_image(out, &small, caption, err);
    fprintf(out, "<figcaption>%s</figcaption></figure>\n", caption);
    image_finish(&small);
    return ok;
}

static bool put_pair(FILE *out, const struct picture_pair *pair, struct error *err)
{
    struct image difference;
    bool ok;

    if (!make_difference(&difference, &pair->before, &pair->after, err))
        return false;
    fputs("<p>", out);
    html_put_text(out, pair->prompt);
    fprintf(out, " <br>seed %llu, SSIM %.4f, colour difference %.2f</p>\n<div class=\"row\">",
            (unsigned long long)pair->seed, pair->error.ssim, pair->error.delta_e);
    ok = put_figure(out, &pair->before, "16 bits", err) &&
         put_figure(out, &pair->after, "FP8", err) &&
         put_figure(out, &difference, "difference, four times", err);
    fputs("</div>\n", out);
    image_finish(&difference);
    return ok;
}

static bool put_pictures(FILE *out, const struct calibration *calibration, struct error *err)
{
    struct picture_error mean = calibration_together(calibration);

    fprintf(out,
            "<h2>Pictures</h2>\n<p>The same request with the model's own weights and with the "
            "converted ones, %d steps. On average SSIM is %.4f (1: the same) and the colour "
            "difference in CIE Lab %.2f (about 2 is just seen).</p>\n",
            calibration->steps, mean.ssim, mean.delta_e);
    for (int i = 0; i < calibration->pair_count; i++)
        if (!put_pair(out, &calibration->pairs[i], err))
            return false;
    return true;
}

/* --- Sizes --- */

static void put_size(FILE *out, const char *name, size_t before, size_t after, size_t most)
{
    fputs("<tr><th>", out);
    html_put_text(out, name);
    fprintf(out,
            "</th><td>%.1f MB</td><td>%.1f MB</td><td>%.1f %%</td>"
            "<td style=\"width:20rem\"><div class=\"bar\" style=\"width:%.2f%%\"></div>"
            "<div class=\"bar new\" style=\"width:%.2f%%\"></div></td></tr>\n",
            (double)before / 1e6, (double)after / 1e6, 100 * (double)after / (double)before,
            100 * (double)before / (double)most, 100 * (double)after / (double)most);
}

static void put_sizes(FILE *out, const struct convert_plan *plan)
{
    fputs("<h2>Sizes</h2>\n<div class=\"wide\"><table><tr><th></th><th>before</th><th>after</th>"
          "<th></th><th></th></tr>\n",
          out);
    for (int c = 0; c < COMPONENT_COUNT; c++)
        if (plan->component_source_bytes[c] > 0)
            put_size(out, component_name((enum component)c), plan->component_source_bytes[c],
                     plan->component_bytes[c], plan->source_bytes);
    put_size(out, "all", plan->source_bytes, plan->bytes, plan->source_bytes);
    fputs("</table></div>\n", out);
}

/* --- Layers --- */

/* Layers of one component as a table: blocks down, kinds of layers across; or, as a table of its
 * own with other kinds, those outside of blocks. Both share the colours' range. */
struct heat_map {
    const struct convert_plan *plan;
    const struct calibration *calibration;
    enum component component;
    bool has_blocks;
    const char *columns[COLUMNS_MAX]; /* what follows the block's name */
    int column_count;
    double least, most; /* logarithms of what is shown */
};

static const char *kind_of(const char *layer)
{
    char block[LAYER_NAME_BYTES];
    const char *kind;

    calibration_block_of(block, layer);
    kind = layer + strlen(block);
    return *kind == '.' ? kind + 1 : kind;
}

static bool is_in(const struct heat_map *map, const struct plan_layer *layer)
{
    const char *component = keep_rule_component(map->component);
    size_t length = strlen(component);

    return strncmp(layer->name, component, length) == 0 && layer->name[length] == '.';
}

static bool is_shown(const struct heat_map *map, const struct plan_layer *layer)
{
    char block[LAYER_NAME_BYTES];

    calibration_block_of(block, layer->name);
    return is_in(map, layer) &&
           (strcmp(block, keep_rule_component(map->component)) != 0) == map->has_blocks;
}

/* What the cell tells: the harm to the picture, or the error of the weight when no picture was
 * drawn. */
static double heat_of(const struct heat_map *map, size_t i)
{
    return map->calibration ? picture_error_harm(&map->calibration->layers[i].alone)
                            : map->plan->layers[i].error;
}

static void add_column(struct heat_map *map, const char *kind)
{
    for (int i = 0; i < map->column_count; i++)
        if (strcmp(map->columns[i], kind) == 0)
            return;
    if (map->column_count < COLUMNS_MAX)
        map->columns[map->column_count++] = kind;
}

static void look_over(struct heat_map *map)
{
    map->least = HUGE_VAL;
    map->most = -HUGE_VAL;
    for (size_t i = 0; i < map->plan->layer_count; i++) {
        double heat = heat_of(map, i);

        if (!is_in(map, &map->plan->layers[i]))
            continue;
        if (is_shown(map, &map->plan->layers[i]))
            add_column(map, kind_of(map->plan->layers[i].name));
        if (!(heat > 0.0))
            continue;
        map->least = fmin(map->least, log(heat));
        map->most = fmax(map->most, log(heat));
    }
}

static void put_cell(FILE *out, const struct heat_map *map, size_t i)
{
    const struct plan_layer *layer = &map->plan->layers[i];
    double heat = heat_of(map, i), share = 0.0;

    if (heat > 0.0 && map->most > map->least)
        share = (log(heat) - map->least) / (map->most - map->least);
    fprintf(out, "<td class=\"cell%s\" style=\"background:rgba(var(--hot),%.2f)\" title=\"",
            layer->reason ? " kept" : "", 0.6 * share);
    html_put_text(out, layer->name);
    fputs(layer->reason ? ", kept: " : ", FP8", out);
    html_put_text(out, layer->reason ? layer->reason : "");
    if (map->calibration)
        fprintf(out, "; alone SSIM %.5f, colour %.3f", map->calibration->layers[i].alone.ssim,
                map->calibration->layers[i].alone.delta_e);
    fprintf(out, "; weight %.2f %% off\">%.2f</td>", 100 * layer->error, 100 * heat);
}

static void put_row(FILE *out, const struct heat_map *map, const char *block, size_t first)
{
    const struct convert_plan *plan = map->plan;
    char other[LAYER_NAME_BYTES];

    fputs("<tr><th>", out);
    html_put_text(out, block);
    fputs("</th>", out);
    for (int c = 0; c < map->column_count; c++) {
        size_t found = plan->layer_count;

        for (size_t i = first; i < plan->layer_count && found == plan->layer_count; i++) {
            calibration_block_of(other, plan->layers[i].name);
            if (strcmp(other, block) == 0 &&
                strcmp(kind_of(plan->layers[i].name), map->columns[c]) == 0)
                found = i;
        }
        if (found < plan->layer_count)
            put_cell(out, map, found);
        else
            fputs("<td></td>", out);
    }
    fputs("</tr>\n", out);
}

/* True for the first layer of its block. */
static bool begins_block(const struct convert_plan *plan, size_t i, char block[LAYER_NAME_BYTES])
{
    char other[LAYER_NAME_BYTES];

    calibration_block_of(block, plan->layers[i].name);
    for (size_t before = 0; before < i; before++) {
        calibration_block_of(other, plan->layers[before].name);
        if (strcmp(other, block) == 0)
            return false;
    }
    return true;
}

static void put_heat_map(FILE *out, struct heat_map *map)
{
    char block[LAYER_NAME_BYTES];

    look_over(map);
    if (map->column_count == 0)
        return;
    if (map->has_blocks)
        fprintf(out, "<h3>%s</h3>\n", component_name(map->component));
    fputs("<div class=\"wide\"><table><tr><th></th>", out);
    for (int c = 0; c < map->column_count; c++) {
        fputs("<th>", out);
        html_put_text(out, map->columns[c]);
        fputs("</th>", out);
    }
    fputs("</tr>\n", out);
    for (size_t i = 0; i < map->plan->layer_count; i++)
        if (is_shown(map, &map->plan->layers[i]) && begins_block(map->plan, i, block))
            put_row(out, map, block, i);
    fputs("</table></div>\n", out);
}

static void put_layers(FILE *out, const struct convert_plan *plan,
                       const struct calibration *calibration)
{
    fputs("<h2>Layers</h2>\n<p>", out);
    fputs(
        calibration
            ? "What each linear layer does to the picture when it alone is in FP8: 100 times what "
              "SSIM loses, and the colour difference. The redder, the more."
            : "How far each linear layer's weights are off in FP8, in percent.",
        out);
    fputs(" Framed layers are kept in 16 bits. The pointer on a cell tells more.</p>\n", out);
    for (int i = 0; i < 2 * COMPONENT_COUNT; i++) {
        struct heat_map map = {.plan = plan,
                               .calibration = calibration,
                               .component = (enum component)(i / 2),
                               .has_blocks = i % 2 == 0};

        if (map.component != COMPONENT_VAE)
            put_heat_map(out, &map);
    }
}

static void put_blocks(FILE *out, const struct calibration *calibration)
{
    fputs("<h2>Blocks</h2>\n<p>All of a block in FP8, and nothing else.</p>\n<div class=\"wide\">"
          "<table><tr><th></th><th>SSIM</th><th>colour</th></tr>\n",
          out);
    for (size_t i = 0; i < calibration->block_count; i++) {
        fputs("<tr><th>", out);
        html_put_text(out, calibration->blocks[i].name);
        fprintf(out, "</th><td>%.5f</td><td>%.3f</td></tr>\n", calibration->blocks[i].alone.ssim,
                calibration->blocks[i].alone.delta_e);
    }
    fputs("</table></div>\n", out);
}

/* --- Steps --- */

static void put_steps(FILE *out, const struct calibration *calibration)
{
    double most = 1e-6;

    for (int i = 0; i < calibration->steps; i++)
        most = fmax(most, calibration->step_error[i]);
    fprintf(out,
            "<h2>Steps</h2>\n<p>How far the latent is from the 16-bit model's after each step, "
            "relative to its size.</p>\n<svg viewBox=\"-50 -10 %d %d\" width=\"%d\" role=\"img\" "
            "aria-label=\"error of each step\">\n"
            "<line class=\"axis\" x1=\"0\" y1=\"%d\" x2=\"%d\" y2=\"%d\"/>"
            "<line class=\"axis\" x1=\"0\" y1=\"0\" x2=\"0\" y2=\"%d\"/>\n"
            "<text x=\"-6\" y=\"4\" text-anchor=\"end\">%.1f %%</text>"
            "<text x=\"-6\" y=\"%d\" text-anchor=\"end\">0</text>"
            "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">step %d</text>\n"
            "<polyline class=\"curve\" points=\"0,%d",
            CHART_WIDTH + 70, CHART_HEIGHT + 40, CHART_WIDTH + 70, CHART_HEIGHT, CHART_WIDTH,
            CHART_HEIGHT, CHART_HEIGHT, 100 * most, CHART_HEIGHT + 4, CHART_WIDTH,
            CHART_HEIGHT + 18, calibration->steps, CHART_HEIGHT);
    for (int i = 0; i < calibration->steps; i++)
        fprintf(out, " %.1f,%.1f", (double)CHART_WIDTH * (i + 1) / calibration->steps,
                CHART_HEIGHT * (1.0 - calibration->step_error[i] / most));
    fputs("\"/></svg>\n", out);
}

/* --- The page --- */

static bool put_page(FILE *out, const struct html_report *report, const struct convert_plan *plan,
                     struct error *err)
{
    const struct calibration *calibration = report->calibration;

    fputs(head, out);
    fputs("<title>", out);
    html_put_text(out, report->model);
    fputs(" in FP8</title></head><body>\n<h1>", out);
    html_put_text(out, report->model);
    fprintf(out, " in FP8</h1>\n<p>%s, %s, ", report->made_by, dtype_name(plan->format));
    if (calibration)
        fprintf(out, "layers chosen by measurement within %.4g %% of the smallest size</p>\n",
                calibration->budget);
    else
        fputs("layers chosen by the fixed rule; --calibrate measures them</p>\n", out);
    if (calibration && !put_pictures(out, calibration, err))
        return false;
    put_sizes(out, plan);
    if (calibration)
        put_steps(out, calibration);
    put_layers(out, plan, calibration);
    if (calibration)
        put_blocks(out, calibration);
    fputs("</body></html>\n", out);
    return true;
}

static bool write_report(void *context, char **out, size_t *size, const struct convert_plan *plan,
                         struct error *err)
{
    FILE *file = open_memstream(out, size);
    bool ok;

    if (!file)
        return error_set(err, ERROR_NO_MEMORY, "report");
    ok = put_page(file, context, plan, err);
    if (fclose(file) != 0 && ok)
        ok = error_set(err, ERROR_NO_MEMORY, "report");
    return ok;
}

struct convert_reporter html_reporter(struct html_report *report)
{
    return (struct convert_reporter){.write = write_report, .context = report};
}
