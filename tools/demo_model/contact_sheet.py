"""Draws 24 prompts with sd35 and puts the pictures on one sheet, docs/demo.jpg, which the README shows.

usage: contact_sheet.py [SD35]    (default: build/release/src/cli/sd35)
"""
import pathlib
import subprocess
import sys
import tempfile

from PIL import Image

PROMPTS = [
    "a fox on a turquoise background", "一只熊猫，粉色背景", "two red apples on a blue background", "a rocket on a black background",
    "a dog to the left of a car on a yellow background", "three bananas on a purple background",
    "a castle on an orange to pink gradient", "蓝色背景上的一只猫", "a robot on a green background", "a large pizza on a red background",
    "a bee above a sunflower on a turquoise background", "左边是一只狐狸，右边是一棵圣诞树，背景是灰色",
    "a small turtle in the top left corner on an orange background", "a volcano on a black to purple gradient", "三只企鹅，粉色背景",
    "a snowman on a blue background", "a cat, a dog and a penguin on a green background", "一架飞机在一朵云下面，青色背景",
    "a hamburger on a yellow background", "a parrot on a pink to white gradient", "棕色背景上的两个甜甜圈", "a guitar on a grey background",
    "a pumpkin lantern and a ghost on a black background", "a unicorn on a purple background",
]
COLUMNS, SIDE, GAP = 6, 192, 6
ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/release/src/cli/sd35"
    rows = -(-len(PROMPTS) // COLUMNS)
    sheet = Image.new("RGB", [n * (SIDE + GAP) - GAP for n in (COLUMNS, rows)], "white")
    with tempfile.TemporaryDirectory() as folder:
        for i, prompt in enumerate(PROMPTS):
            path = f"{folder}/{i}.png"
            subprocess.run([program, "generate", "--model", ROOT / "models/demo", "--prompt", prompt, "--seed", "1", "--quiet",
                            "--show", "none", "--output", path], check=True, stdout=subprocess.DEVNULL)
            picture = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.LANCZOS)
            sheet.paste(picture, [n * (SIDE + GAP) for n in (i % COLUMNS, i // COLUMNS)])
    sheet.save(ROOT / "docs/demo.jpg", quality=88)


if __name__ == "__main__":
    main()
