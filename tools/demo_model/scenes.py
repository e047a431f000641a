"""Scenes: what is in a training picture, what a caption says of it, and how it is painted.

A scene is one to three glyphs on a plain or graded background. Some combinations are never trained,
so that quality can be measured on prompts that are new: see `is_held_out`.
"""
import dataclasses
import pickle
import random

import numpy as np
import torch
import torch.nn.functional as F

from glyphs import plural, with_article

# name: (RGB, Chinese)
COLOURS = {
    "red": ((214, 48, 49), "红色"), "orange": ((243, 146, 55), "橙色"), "yellow": ((250, 215, 70), "黄色"),
    "green": ((72, 160, 80), "绿色"), "turquoise": ((64, 196, 190), "青色"), "blue": ((52, 104, 214), "蓝色"),
    "purple": ((130, 72, 172), "紫色"), "pink": ((246, 164, 194), "粉色"), "brown": ((126, 86, 58), "棕色"),
    "black": ((24, 24, 28), "黑色"), "grey": ((142, 142, 148), "灰色"), "white": ((246, 246, 246), "白色"),
}
COLOUR_NAMES = list(COLOURS)
# Width and height in pixels, all of about as many tokens; the square one comes as often as the others together.
SIZES = [(256, 256), (320, 192), (192, 320), (288, 224), (224, 288)]
PLACES = {  # where a single thing stands: shares of the width and height
    "left": (.27, .5), "right": (.73, .5), "top": (.5, .27), "bottom": (.5, .73),
    "top left": (.27, .27), "top right": (.73, .27), "bottom left": (.27, .73), "bottom right": (.73, .73),
}
PLACES_ZH = {"left": "左边", "right": "右边", "top": "上面", "bottom": "下面",
             "top left": "左上角", "top right": "右上角", "bottom left": "左下角", "bottom right": "右下角"}
NUMBERS_EN, NUMBERS_ZH = {2: ("two", "2"), 3: ("three", "3")}, {2: "两", 3: "三"}


@dataclasses.dataclass
class Scene:
    kind: str         # single, pair, count or list
    size: tuple       # width, height
    colours: list     # one background colour's name, or two from top to bottom
    glyphs: list      # numbers of what stands there, left to right or top to bottom
    boxes: list       # (centre x, centre y, side) in pixels, one a glyph
    place: str = ""   # of a single thing, where the caption tells
    scale: str = ""   # "small" or "large", where the caption tells
    is_column: bool = False


def is_held_out(glyphs, colours):
    """Never trained: every glyph on one of the colours, a ninth of the pairs, an eighth of the counts."""
    if any(COLOUR_NAMES.index(c) == held_out_colour(g) for g in glyphs for c in colours):
        return True
    if len(glyphs) > 1 and len(set(glyphs)) == 1:
        return (5 * glyphs[0] + len(glyphs)) % 8 == 0
    return any((a + b) % 9 == 0 for a in glyphs for b in glyphs if a < b)


def held_out_colour(glyph):
    return (7 * glyph + 3) % len(COLOURS)


def place_row(rng, size, count, is_column):
    """Boxes of `count` things of one size, side by side or one above the other, never touching."""
    along, across = (size[1], size[0]) if is_column else size
    side = min(along / count, across * .8) * rng.uniform(.62, .88)
    boxes = []
    for i in range(count):
        slack = (along / count - side) / 2
        a = along * (i + .5) / count + rng.uniform(-.5, .5) * slack
        b = across / 2 + rng.uniform(-.4, .4) * (across - side) * .5
        boxes.append((b, a, side) if is_column else (a, b, side))
    return boxes


def sample(rng, glyphs, held_out=False):
    """A random scene, of the trained combinations or of the held-out ones."""
    weights = [1 if g.is_common else .5 for g in glyphs]
    while True:
        kind = rng.choices(["single", "pair", "count", "list"], [45, 23, 22, 10])[0]
        size = rng.choices(SIZES, [4, 1, 1, 1, 1])[0]
        colours = rng.sample(COLOUR_NAMES, 1 if rng.random() < .75 else 2)
        count = {"single": 1, "pair": 2}.get(kind) or rng.choice([2, 3])
        chosen = rng.choices(range(len(glyphs)), weights, k=count)
        if kind == "count":
            chosen = chosen[:1] * count
        elif len(set(chosen)) < count:
            continue
        if is_held_out(chosen, colours) == held_out:
            break
    scene = Scene(kind, size, colours, chosen, [])
    if kind == "single":
        small_side = min(size)
        if rng.random() < .3:
            scene.place = rng.choice(list(PLACES))
            scene.scale = rng.choice(["", "", "small"])
            side = small_side * rng.uniform(.28, .36 if scene.scale else .48)
        else:
            scene.scale = rng.choices(["", "small", "large"], [6, 1, 1])[0]
            side = small_side * rng.uniform(*{"": (.42, .72), "small": (.24, .36), "large": (.78, .92)}[scene.scale])
        x, y = PLACES.get(scene.place, (.5, .5))
        jitter = .03 if scene.place or scene.scale == "large" else .08
        scene.boxes = [((x + rng.uniform(-jitter, jitter)) * size[0], (y + rng.uniform(-jitter, jitter)) * size[1], side)]
    else:
        column = {"pair": .35, "count": .15, "list": 0}[kind] * (size[1] / size[0]) ** 2
        scene.is_column = rng.random() < column
        scene.boxes = place_row(rng, size, count, scene.is_column)
    return scene


# --- Captions ---

def caption(rng, scene, glyphs, language, mark=""):
    """One wording of the scene. `mark` is put where words of the Chinese text meet: tokenizers learn from it."""
    text = (caption_en if language == "en" else caption_zh)(rng, scene, [glyphs[g] for g in scene.glyphs], mark)
    if rng.random() < .15:
        text += "." if language == "en" else "。"
    return text[0].upper() + text[1:] if rng.random() < .3 else text


def caption_en(rng, scene, glyphs, mark):
    names = [g.alias[0] if g.alias and rng.random() < .35 else g.en for g in glyphs]
    things = [with_article(n) for n in names]
    a, b = things[0], things[-1]
    if scene.kind == "single":
        if scene.scale:
            a = with_article({"small": rng.choice(["small", "little"]), "large": rng.choice(["large", "big"])}[scene.scale] + " " + names[0])
        subject = rng.choice([a] * 7 + [names[0]])
        if scene.place:
            if " " in scene.place:
                subject += f" in the {scene.place}" + rng.choice(["", " corner"])
            else:
                subject += (" on the " if scene.place in ("left", "right") else " at the ") + scene.place
    elif scene.kind == "pair" and scene.is_column:
        subject = rng.choice([f"{a} above {b}", f"{a} over {b}", f"{b} below {a}", f"{b} under {a}", f"{a} at the top and {b} at the bottom"])
    elif scene.kind == "pair":
        subject = rng.choice([f"{a} to the left of {b}", f"{a} left of {b}", f"{b} to the right of {a}", f"{b} right of {a}",
                              f"{a} on the left and {b} on the right", f"{a} on the left, {b} on the right"])
    elif scene.kind == "count":
        subject = rng.choice(NUMBERS_EN[len(things)]) + " " + plural(names[0])
    else:
        subject = ", ".join(things[:-1]) + " and " + b
    colours = [rng.choice(["grey", "gray"]) if c == "grey" else c for c in scene.colours]
    if rng.random() < .1:
        return subject
    if len(colours) == 2:
        ground = rng.choice([f"{colours[0]} to {colours[1]} gradient", f"{colours[0]} to {colours[1]} background"])
    else:
        ground = colours[0] + " background"
    return rng.choice([f"{subject} on {with_article(ground)}", f"{subject} on {with_article(ground)}", f"{subject}, {ground}",
                       f"{subject} in front of {with_article(ground)}", f"{with_article(ground)} with {subject}",
                       f"a picture of {subject} on {with_article(ground)}"])


def caption_zh(rng, scene, glyphs, mark):
    m = mark
    names = [g.alias[1] if g.alias and rng.random() < .35 else g.zh for g in glyphs]
    things = [f"一{g.measure}{m}{n}" for g, n in zip(glyphs, names)]
    a, b = things[0], things[-1]
    if scene.kind == "single":
        if scene.scale:
            a = f"一{glyphs[0].measure}{m}{'小' if scene.scale == 'small' else '大'}{m}{names[0]}"
        subject = rng.choice([a] * 7 + [names[0]])
        if scene.place:
            place = PLACES_ZH[scene.place]
            subject = rng.choice([f"{place}{m}有{m}{a}", f"{a}{m}在{m}{place}", f"{place}{m}的{m}{a}"])
    elif scene.kind == "pair" and scene.is_column:
        subject = rng.choice([f"{a}{m}在{m}{b}{m}上面", f"{b}{m}在{m}{a}{m}下面", f"{a}{m}在{m}{b}{m}的{m}上方", f"{b}{m}在{m}{a}{m}的{m}下方",
                              f"上面{m}是{m}{a}{m}，{m}下面{m}是{m}{b}"])
    elif scene.kind == "pair":
        subject = rng.choice([f"{a}{m}在{m}{b}{m}左边", f"{a}{m}在{m}{b}{m}的{m}左边", f"{b}{m}在{m}{a}{m}右边", f"{b}{m}在{m}{a}{m}的{m}右边",
                              f"左边{m}是{m}{a}{m}，{m}右边{m}是{m}{b}", f"左边{m}一{glyphs[0].measure}{m}{names[0]}{m}，{m}右边{m}{b}"])
    elif scene.kind == "count":
        subject = f"{NUMBERS_ZH[len(things)]}{glyphs[0].measure}{m}{names[0]}"
    else:
        subject = f"{m}、{m}".join(things[:-1]) + f"{m}和{m}{b}"
    colours = [COLOURS[c][1] for c in scene.colours]
    if rng.random() < .1:
        return subject
    if len(colours) == 2:
        ground = f"{colours[0]}{m}到{m}{colours[1]}{m}的{m}渐变"
    else:
        ground = colours[0]
    return rng.choice([f"{ground}{m}背景{m}上{m}的{m}{subject}", f"{ground}{m}背景{m}上{m}的{m}{subject}", f"{subject}{m}，{m}{ground}{m}背景",
                       f"{subject}{m}，{m}背景{m}是{m}{ground}", f"{ground}{m}背景{m}，{m}{subject}", f"画{m}{subject}{m}，{m}{ground}{m}背景"])


# --- Painting ---

def to_tensors(scenes):
    """The scenes' numbers as tensors: glyph [N, 3] i64 (-1: none), box [N, 3, 3] f32, colours [N, 2, 3] f32 in [0, 1]."""
    n = len(scenes)
    glyph, box = torch.full([n, 3], -1), torch.ones(n, 3, 3)
    for i, s in enumerate(scenes):
        glyph[i, :len(s.glyphs)] = torch.tensor(s.glyphs)
        box[i, :len(s.boxes)] = torch.tensor(s.boxes)
    ends = [[COLOURS[s.colours[0]][0], COLOURS[s.colours[-1]][0]] for s in scenes]
    return glyph, box, torch.tensor(ends, dtype=torch.float32) / 255


def paint(atlas, glyph, box, colours, width, height):
    """-> pictures [N, 3, height, width] in [-1, 1], owner [N, height / 16, width / 16]: the glyph at each token's centre,
    len(atlas) for the background.

    atlas [G, 4, SIDE, SIDE] f32 in [0, 1], colour times alpha. Painted at twice the size and averaged down.
    """
    n, device = len(glyph), atlas.device
    ys = (torch.arange(2 * height, device=device) + .5) / 2
    xs = (torch.arange(2 * width, device=device) + .5) / 2
    ramp = (ys / height).view(1, 1, -1, 1)
    canvas = torch.lerp(colours[:, 0, :, None, None], colours[:, 1, :, None, None], ramp).expand(-1, -1, -1, 2 * width)
    owner = torch.full([n, height // 16, width // 16], len(atlas), device=device)
    for k in range(glyph.shape[1]):
        x, y, side = box[:, k].unbind(1)
        grid = torch.stack(torch.broadcast_tensors(((xs - x[:, None]) * 2 / side[:, None])[:, None, :],
                                                   ((ys - y[:, None]) * 2 / side[:, None])[:, :, None]), -1)
        layer = F.grid_sample(atlas[glyph[:, k].clamp(min=0)], grid, align_corners=False)
        layer = layer * (glyph[:, k] >= 0).view(-1, 1, 1, 1)
        canvas = layer[:, :3] + canvas * (1 - layer[:, 3:])
        owner = torch.where(layer[:, 3, 16::32, 16::32] > .5, glyph[:, k].view(-1, 1, 1), owner)
    return F.avg_pool2d(canvas, 2) * 2 - 1, owner


def load_atlas(pictures, device):
    """[G, SIDE, SIDE, 4] u8, straight alpha -> [G, 4, SIDE, SIDE] f32, colour times alpha."""
    atlas = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 255
    return torch.cat([atlas[:, :3] * atlas[:, 3:], atlas[:, 3:]], 1)


def load_data(work, device):
    """The glyphs and their atlas, as train.py left them."""
    glyphs = pickle.loads((work / "data" / "glyphs.pickle").read_bytes())
    return glyphs, load_atlas(np.load(work / "data" / "glyphs.npz")["pictures"], device)


def sample_many(seed, glyphs, count, held_out=False):
    rng = random.Random(seed)
    return [sample(rng, glyphs, held_out) for _ in range(count)]
