"""Measures how well the demo model follows prompts whose combination it was never trained on.

usage: measure.py (--engine SD35 | --torch | --vae | --paint) [--model DIR] [--work DIR] [--keep DIR] [--limit N]
                  [--only SET ...] [--language en|zh] [--seeds N] [--parallel N] [--engine-options "..."]

Four sets of prompts, each in English and in Chinese with the same seeds: is the glyph the asked one of the 200 common ones, is
the background's colour right, does the asked thing stand on the asked side, is the number of things right. Pictures come from
the C program, from PyTorch, or, as upper bounds of the measure itself, from the painter with or without the trained VAE.
The C program's need no Python packages but PyTorch, NumPy and Pillow, and data/ of --work alone.
"""
import argparse
import dataclasses
import functools
import itertools
import json
import multiprocessing
import pathlib
import random
import shlex
import subprocess
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import scenes
from glyphs import plural, with_article

SIZE = (256, 256)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of the networks; the verdicts need little
LANGUAGES = {"en": "English", "zh": "Chinese"}
TARGETS = {"single": 85, "background": 95, "side": 75, "count": 75}  # percent
# Below, a picture is looked at in half its size; lengths are in those pixels, colours in CIE Lab.
FRAME = 3            # width of the border that shows the background
CONTRAST = 9         # distance from the background's colour at which a pixel belongs to a thing
COLOUR_UNIT = 40     # Lab distance that weighs as much as a pixel that belongs to a thing in only one of two crops
SPECK = .0015        # share of the picture below which a part is overlooked
MOST_PARTS = 10
CROP = 48            # side of what is compared
MARGIN = 1.12        # a crop's side over its thing's
NUDGES = [(x, y, s) for x in (-.05, 0, .05) for y in (-.05, 0, .05) for s in (.92, 1, 1.08)]
RANK = 5             # in a row of things, each one's own reference must be among this many nearest: other things don't pass


# --- Prompts ---

@dataclasses.dataclass
class Prompt:
    kind: str
    language: str
    number: int
    text: str
    seed: int
    scene: scenes.Scene  # a true picture of it

    @property
    def name(self):
        return f"{self.kind}-{self.language}-{self.number:03}"


def lab(rgb):
    """sRGB [..., 3] in [0, 1] -> CIE Lab under D65."""
    linear = torch.where(rgb > .04045, ((rgb + .055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ torch.tensor([[.4339, .2126, .0178], [.3762, .7152, .1095], [.1899, .0722, .8727]])
    f = torch.where(xyz > .008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


COLOUR_LAB = lab(torch.tensor([rgb for rgb, _ in scenes.COLOURS.values()]) / 255)


def contrasts(atlas):
    """[G, 12]: the share of each glyph that stands out from each background."""
    colour, alpha = F.avg_pool2d(atlas, 4).split([3, 1], 1)
    distance = (lab((colour / alpha.clamp(min=.01)).permute(0, 2, 3, 1))[:, None] - COLOUR_LAB[:, None, None]).norm(dim=-1)
    return ((distance > 25) * alpha).sum((2, 3)) / alpha.sum((2, 3))


def clear_colours(glyphs, contrast, count):
    """The background colours on which these glyphs stand out most, of the trained ones."""
    trained = [c for c in range(len(scenes.COLOURS)) if c not in map(scenes.held_out_colour, glyphs)]
    return sorted(trained, key=lambda c: -min(contrast[g, c] for g in glyphs))[:count]


def held_out_scenes(glyphs, atlas):
    """{kind: its scenes}, always the same ones: every glyph on its held-out colour; held-out pairs and counts on trained colours."""
    numbers, contrast, rng, result = range(len(glyphs)), contrasts(atlas), random.Random(41), {}

    def single(g):
        centre = [128 + 256 * rng.uniform(-.05, .05) for _ in "xy"]
        return scenes.Scene("single", SIZE, [scenes.COLOUR_NAMES[scenes.held_out_colour(g)]], [g], [(*centre, 256 * rng.uniform(.45, .7))])

    def row(kind, chosen, colour):
        return scenes.Scene(kind, SIZE, [scenes.COLOUR_NAMES[colour]], chosen, scenes.place_row(rng, SIZE, len(chosen), False))

    result["single"] = [single(g) for g in numbers]
    by_colour = [[g for g in numbers if scenes.held_out_colour(g) == c] for c in range(len(scenes.COLOURS))]
    spread = itertools.chain(*zip(*(rng.sample(gs, 9) for gs in by_colour)))
    result["background"] = [single(g) for g in itertools.islice(spread, 100)]
    # Pairs that look alike would say more of the glyphs than of their sides.
    looks = references(atlas, (128, 128, 128))
    unlike = lambda a, b: distances(looks[a:a + 1], looks[b:b + 1]).item() > .5
    pairs = [(a, b) for a, b in itertools.combinations(numbers, 2) if (a + b) % 9 == 0 and unlike(a, b)]
    result["side"] = [row("pair", rng.sample(pair, 2), rng.choice(clear_colours(pair, contrast, 4))) for pair in rng.sample(pairs, 100)]
    counts = [[g] * n for g in numbers for n in (2, 3) if (5 * g + n) % 8 == 0]
    result["count"] = [row("count", chosen, colour) for chosen in counts for colour in rng.sample(clear_colours(chosen[:1], contrast, 5), 2)]
    return result


def wording(kind, i, scene, glyphs, language):
    """The i-th prompt of its set, in one of the captions' wordings."""
    chosen = [glyphs[g] for g in scene.glyphs]
    if language == "en":
        things = [with_article(g.en) for g in chosen]
        subject, ground = things[0], with_article(scene.colours[0]) + " background"
        if kind == "side":
            subject = f"{things[0]} to the left of {things[1]}" if i % 2 == 0 else f"{things[1]} to the right of {things[0]}"
        elif kind == "count":
            subject = scenes.NUMBERS_EN[len(chosen)][0] + " " + plural(chosen[0].en)
        forms = [f"{subject} on {ground}", f"{ground} with {subject}", f"a picture of {subject} on {ground}"]
    else:
        things = [f"一{g.measure}{g.zh}" for g in chosen]
        subject, ground = things[0], scenes.COLOURS[scene.colours[0]][1]
        if kind == "side":
            subject = f"{things[0]}在{things[1]}左边" if i % 2 == 0 else f"{things[1]}在{things[0]}右边"
            return f"{subject}，{ground}背景"
        if kind == "count":
            subject = scenes.NUMBERS_ZH[len(chosen)] + chosen[0].measure + chosen[0].zh
        forms = [f"{ground}背景上的{subject}", f"{subject}，背景是{ground}", f"{ground}背景，{subject}"]
    return forms[i % 3 if kind == "background" else 0]


def prompts(glyphs, atlas, limit=None, kinds=tuple(TARGETS), languages=tuple(LANGUAGES)):
    """All prompts, or `limit` of each set, evenly spread."""
    result = []
    for k, (kind, chosen) in enumerate(held_out_scenes(glyphs, atlas).items()):
        n = min(limit or len(chosen), len(chosen)) if kind in kinds else 0
        for language in languages:
            for i in (j * len(chosen) // n for j in range(n)):
                result.append(Prompt(kind, language, i, wording(kind, i, chosen[i], glyphs, language), 1000 * k + i, chosen[i]))
    return result


# --- Looking at a picture ---

def background(rgb):
    """The median colour of the border of [3, H, W]."""
    inner = torch.zeros(rgb.shape[1:], dtype=torch.bool)
    inner[FRAME:-FRAME, FRAME:-FRAME] = True
    return rgb[:, ~inner].median(1).values


def features(rgb, ground):
    """[N, 3, H, W] -> what is compared [N, 4, H, W]: the difference in colour from the background, and whether there is a thing."""
    difference = (lab(rgb.movedim(1, -1)) - lab(ground)).movedim(-1, 1)
    presence = (difference.norm(dim=1, keepdim=True) / CONTRAST - .5).clamp(0, 1)
    return torch.cat([difference / COLOUR_UNIT * presence, presence], 1)


def opened(presence):
    """[N, H, W] -> bool, without threads and dots."""
    solid = (presence >= .5).float()
    return F.max_pool2d(-F.max_pool2d(-solid, 2, 1), 2, 1, 1) > 0


def parts_of(mask):
    """The connected parts of [H, W], but for specks."""
    label, before = torch.arange(1., mask.numel() + 1).view(1, *mask.shape) * mask, None
    while before is None or not label.equal(before):
        before = label
        for _ in range(8):
            label = F.max_pool2d(label, 3, 1, 1) * mask
    names, areas = label[label > 0].unique(return_counts=True)
    large = areas.sort(descending=True).indices[:MOST_PARTS]
    return [label[0] == names[i] for i in large if areas[i] >= SPECK * mask.numel()]


def box_of(mask):
    """Centre and side of the square around [H, W]; the whole where it is empty."""
    ys, xs = mask.nonzero(as_tuple=True) if mask.any() else (torch.tensor([0, s - 1]) for s in mask.shape)
    left, right, top, bottom = xs.min().item(), xs.max().item() + 1, ys.min().item(), ys.max().item() + 1
    return [(left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top) * MARGIN]


def crops(looks, boxes):
    """[N, 4, H, W] and N boxes -> [N, D]"""
    (x, y, side), size = torch.tensor(boxes).unbind(1), looks.shape[-1]
    zero = torch.zeros_like(x)
    theta = torch.stack([side / size, zero, 2 * x / size - 1, zero, side / size, 2 * y / size - 1], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(boxes), 4, 2 * CROP, 2 * CROP], align_corners=False)
    return F.avg_pool2d(F.grid_sample(looks, grid, align_corners=False), 2).flatten(1)


def distances(a, b):
    """[A, D], [B, D] -> [A, B]: 0 for the same crop, 1 for crops with nothing in common."""
    total = (a * a).sum(1)[:, None] + (b * b).sum(1)
    return 1 - 2 * (a @ b.T) / total.clamp(min=1e-6)


@functools.lru_cache(200)
def references_over(atlas, ground):
    """ground: three of 0 to 255"""
    small = F.pad(F.avg_pool2d(atlas, 2), [8] * 4)
    ground = torch.tensor(ground) / 255
    looks = features(small[:, :3] + ground[:, None, None] * (1 - small[:, 3:]), ground)
    return crops(looks, [box_of(mask) for mask in opened(looks[:, 3])])


def references(atlas, ground):
    """[G, D]: the crops of all the glyphs over a background, rounded so that few are made."""
    return references_over(atlas, tuple(8 * round(float(c) / 8) for c in ground))


class Sight:
    """A picture [H, W, 3] u8 taken apart: its background's colour, and the parts that stand out from it."""

    def __init__(self, picture, atlas):
        rgb = F.avg_pool2d(torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1) / 255, 2)
        self.ground = background(rgb)
        self.looks = features(rgb[None], self.ground)
        mask = opened(self.looks[:, 3])[0]
        self.parts = parts_of(mask) or [torch.ones_like(mask)]
        self.references = references(atlas, 255 * self.ground)
        self.known = {}

    def distances_of(self, parts):
        """[G]: of these parts, taken as one thing, from each glyph. Small misplacements don't matter."""
        key = tuple(parts)
        if key not in self.known:
            mask = torch.stack([self.parts[i] for i in parts]).any(0)
            x, y, side = box_of(mask)
            around = F.max_pool2d(mask[None].float(), 5, 1, 2)
            boxes = [(x + dx * side, y + dy * side, side * scale) for dx, dy, scale in NUDGES]
            nudged = crops((self.looks * around).expand(len(boxes), -1, -1, -1), boxes)
            self.known[key] = distances(nudged, self.references).amin(0)
        return self.known[key]

    def readings(self, axis):
        """Every way to take the parts as things that follow each other along x (1) or y (0)."""
        order = sorted(range(len(self.parts)), key=lambda i: self.parts[i].nonzero()[:, axis].float().mean().item())
        for is_cut in itertools.product([False, True], repeat=len(order) - 1):
            cuts = [0, *(i + 1 for i, c in enumerate(is_cut) if c), len(order)]
            yield [order[a:b] for a, b in zip(cuts, cuts[1:])]


# --- Verdicts: whether it is right, and what it was taken for ---

def judge_single(sight, scene, glyphs):
    """All parts together as one thing."""
    best = sight.distances_of(range(len(sight.parts))).argmin().item()
    return best == scene.glyphs[0], glyphs[best].en


def judge_background(sight, scene, glyphs):
    best = scenes.COLOUR_NAMES[(COLOUR_LAB - lab(sight.ground)).norm(dim=1).argmin()]
    return best == scene.colours[0], best


def looks_like(look, glyph):
    """Whether the glyph is among the nearest. look [G]: distances"""
    return (look < look[glyph]).sum().item() < RANK


def named(looks, glyphs):
    """What each thing was taken for."""
    return ", ".join(glyphs[look.argmin()].en for look in looks)


def judge_side(sight, scene, glyphs):
    """The reading as two things that looks most like the two asked ones, in either order."""
    a, b = scene.glyphs
    if len(sight.parts) == 1:  # they touch
        middle, columns = sight.parts[0].nonzero()[:, 1].float().mean(), torch.arange(sight.parts[0].shape[1])
        sight.parts = [sight.parts[0] & (columns < middle), sight.parts[0] & (columns >= middle)]
    twos = [[sight.distances_of(thing) for thing in reading] for reading in sight.readings(1) if len(reading) == 2]
    cost, (left, right), is_swapped = min(((l[p] + r[q], (l, r), (p, q) != (a, b)) for l, r in twos for p, q in ((a, b), (b, a))), key=lambda c: c[0])
    if is_swapped:
        return False, "the other way round"
    return looks_like(left, a) and looks_like(right, b), named([left, right], glyphs)


def judge_count(sight, scene, glyphs):
    """The reading whose things look most like the asked one: only with it in mind can one say whether two parts are one thing."""
    g = scene.glyphs[0]
    cost = lambda things: sum(sight.distances_of(t)[g].item() for t in things) / len(things)
    best = [sight.distances_of(t) for t in min((r for axis in (1, 0) for r in sight.readings(axis)), key=cost)]
    return len(best) == len(scene.glyphs) and all(looks_like(look, g) for look in best), f"{len(best)}: {named(best, glyphs)}"


JUDGES = {"single": judge_single, "background": judge_background, "side": judge_side, "count": judge_count}


# --- Pictures ---

def painted(atlas, items, vae=None):
    """True pictures, which the VAE has gone over if there is one. [N, H, W, 3] u8"""
    result = []
    for i in range(0, len(items), 16):
        out = scenes.paint(atlas, *scenes.to_tensors([item.scene for item in items[i:i + 16]]), *SIZE)[0]
        if vae:
            with torch.no_grad():
                out = vae.decode(vae.encode(out.to(vae.device)).latent_dist.mean).sample.cpu()
        result.append(((out / 2 + .5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1))
    return torch.cat(result).numpy()


def drawn_by_torch(a, glyphs, items):
    """[N, H, W, 3] u8"""
    import drawing  # these need diffusers and transformers, which other sources do without
    import train_transformer
    import train_vae
    import vocabularies

    model, vae = train_transformer.load(a.work, glyphs, DEVICE), train_vae.load(a.work, DEVICE)
    batch, dtype = (128, torch.bfloat16) if DEVICE == "cuda" else (8, torch.float32)
    return drawing.draw(model, vae, vocabularies.load(a.work / "data"), [i.text for i in items], [i.seed for i in items],
                        SIZE, a.steps, a.guidance, batch, dtype)


def load_vae(a):
    import train_vae

    return train_vae.load(a.work, DEVICE)


def draw_by_engine(a, item, paths):
    """With the C program, one picture a seed; the files appear only when they are whole."""
    half = paths[0].with_name(f"{item.name}.part.png")
    subprocess.run([a.engine, "generate", "--model", a.model, "--prompt", item.text, "--seed", str(item.seed), "--batch", str(a.seeds),
                    "--steps", str(a.steps), "--guidance", str(a.guidance), "--size", "{}x{}".format(*SIZE), "--threads", str(a.threads),
                    "--quiet", "--show", "none", *shlex.split(a.engine_options), "--output", half], check=True, stdout=subprocess.DEVNULL)
    for suffix, path in zip(suffixes(a), paths):
        half.with_name(f"{item.name}.part{suffix}.png").rename(path)


def suffixes(a):
    """What the program puts before the dot of each seed's file."""
    return [""] if a.seeds == 1 else [f"-{k + 1}" for k in range(a.seeds)]


def paths_of(a, item, folder):
    return [folder / f"{item.name}{suffix}.png" for suffix in suffixes(a)]


def draw_at_once(a, items, folder):
    """Without the C program: all that are not in the folder already."""
    glyphs, atlas = load_data(a.work)
    missing = [(item, path) for item in items for path in paths_of(a, item, folder) if not path.exists()]
    if missing:
        todo = [item for item, _ in missing]
        drawn = drawn_by_torch(a, glyphs, todo) if a.torch else painted(atlas, todo, load_vae(a) if a.vae else None)
        for picture, (_, path) in zip(drawn, missing):
            Image.fromarray(picture).save(path)


# --- Results ---

@functools.lru_cache(1)
def load_data(work):
    """All glyphs, and the atlas of the common ones, which come first."""
    glyphs, atlas = scenes.load_data(work, "cpu")
    return glyphs, atlas[:sum(g.is_common for g in glyphs)]


def verdicts(arguments):
    """Of each of an item's pictures, drawn if it isn't there: (name, is_right, taken_for). Perhaps in a process of its own."""
    a, item, folder = arguments
    if a.threads or a.parallel > 1:
        torch.set_num_threads(a.threads or 1)
    glyphs, atlas = load_data(a.work)
    paths = paths_of(a, item, folder)
    if not all(path.exists() for path in paths):
        draw_by_engine(a, item, paths)
    looks = (Sight(np.asarray(Image.open(path).convert("RGB")), atlas) for path in paths)
    return [(path.stem, *JUDGES[item.kind](look, item.scene, glyphs)) for path, look in zip(paths, looks)]


def all_verdicts(a, items, folder):
    jobs = [(a, item, folder) for item in items]
    if a.parallel == 1:
        yield from map(verdicts, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(a.parallel) as pool:
        yield from pool.imap(verdicts, jobs)


def report(scores, misses, a):
    """The table, then what went wrong. scores {kind: {language: [bool]}}"""
    percent = {kind: {language: round(100 * float(np.mean(s)), 2) for language, s in by.items()} for kind, by in scores.items()}
    counts = {kind: len(next(iter(by.values()))) for kind, by in scores.items()}
    print(f"{'set':12}" + "".join(f"{LANGUAGES[language]:>9}" for language in a.language) + f"{'target':>9}{'n each':>9}")
    for kind, by in percent.items():
        print(f"{kind:12}" + "".join(f"{by[language]:8.1f}%" for language in a.language) + f"{TARGETS[kind]:8}%{counts[kind]:9}")
    for name, item, taken_for in misses:
        print(f"missed {name}: {item.text} -> {taken_for}")
    if a.json:
        prompt_counts = {kind: n // a.seeds for kind, n in counts.items()}
        a.json.write_text(json.dumps({"percent": percent, "prompts_each": prompt_counts, "seeds_each": a.seeds, "steps": a.steps,
                                      "guidance": a.guidance, "missed": [name for name, _, _ in misses]}, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parents[2]
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--engine", type=pathlib.Path, help="draw with this sd35 program")
    source.add_argument("--torch", action="store_true", help="draw with the PyTorch model in --work")
    source.add_argument("--vae", action="store_true", help="true pictures, gone over by the VAE in --work")
    source.add_argument("--paint", action="store_true", help="true pictures")
    parser.add_argument("--work", type=pathlib.Path, default=root / "build" / "demo_model", help="where train.py left its results")
    parser.add_argument("--model", type=pathlib.Path, default=root / "models" / "demo", help="what --engine draws with")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the pictures; those there already are taken as they are")
    parser.add_argument("--limit", type=int, help="only so many prompts of each set")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS), metavar="SET", help="only these sets: " + ", ".join(TARGETS))
    parser.add_argument("--language", nargs="+", choices=list(LANGUAGES), default=list(LANGUAGES), help="only these languages")
    parser.add_argument("--seeds", type=int, default=1, help="pictures of each prompt, with seeds that follow each other")
    parser.add_argument("--engine-options", default="", help="more options of its generate, in one string")
    parser.add_argument("--parallel", type=int, default=1, help="so many processes draw and judge at a time")
    parser.add_argument("--threads", type=int, default=0, help="of each process; 0: one for each CPU, but one to judge with --parallel")
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers there too")
    a = parser.parse_args()
    if min(a.seeds, a.parallel) < 1:
        parser.error("--seeds and --parallel begin at 1")
    if (a.seeds > 1 or a.engine_options) and not a.engine:
        parser.error("--seeds and --engine-options are --engine's")
    if a.threads:
        torch.set_num_threads(a.threads)
    glyphs, atlas = load_data(a.work)
    items = prompts(glyphs[:len(atlas)], atlas, a.limit, a.only, a.language)
    scores, misses = {kind: {language: [] for language in a.language} for kind in TARGETS if kind in a.only}, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not a.engine:
            draw_at_once(a, items, folder)
        for item, found in zip(items, all_verdicts(a, items, folder)):
            for name, is_right, taken_for in found:
                scores[item.kind][item.language].append(is_right)
                if not is_right:
                    misses.append((name, item, taken_for))
    report(scores, misses, a)
    if a.vae:
        import train_vae

        print(f"VAE: {train_vae.measure(load_vae(a), *scenes.load_data(a.work, DEVICE)):.2f} dB on held-out scenes")


if __name__ == "__main__":
    main()
