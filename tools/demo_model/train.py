"""Makes models/demo from Debian's packages: data, VAE, transformer, four-step model, folders.

usage: train.py [--work DIR] [--output DIR] [--stage NAME ...] [--seconds N]

Needs one GPU (an H100 takes about 45 minutes), the packages fonts-noto-color-emoji and unicode-cldr-core, and
tools/demo_model/requirements.txt. Every stage leaves its result in --work and is passed over when that is there, so a run that
was cut short goes on where it was; `data` needs no GPU, and its results can be carried to another machine.
"""
import argparse
import math
import pathlib
import pickle
import time

import numpy as np
import torch

import distil
import export
import glyphs as glyph_list
import scenes
import train_transformer
import train_vae
import training_set
import vocabularies

VAE_STEPS = 3081
SCENES = 240_000
TRANSFORMER_STEPS = 11_500
TURBO_PATHS, TURBO_STEPS = 16_384, 1800
STAGES = ["data", "vae", "transformer", "turbo", "export"]


def make_data(folder):
    if (folder / "glyphs.npz").exists():
        return
    folder.mkdir(parents=True)
    glyphs = glyph_list.choose()
    vocabularies.write(folder, glyphs)
    (folder / "glyphs.pickle").write_bytes(pickle.dumps(glyphs))
    np.savez_compressed(folder / "glyphs.npz", pictures=glyph_list.pictures(glyphs))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--work", type=pathlib.Path, default=root / "build" / "demo_model", help="where stages leave their results")
    parser.add_argument("--output", type=pathlib.Path, default=root / "models" / "demo", help="folder to write; the four-step model's name ends in -turbo")
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=STAGES, help="only these")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop training the transformer after so long; the next run goes on")
    parser.add_argument("--short", type=float, default=1, help="divide all amounts by this, to try the program out")
    a = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not {"data", "export"}.issuperset(a.stage):
        parser.error("no GPU here: only --stage data export can do without one")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    short = lambda n: max(2, int(n / a.short))
    started = time.time()
    note = lambda text: print(f"[{time.time() - started:.0f} s] {text}", flush=True)

    if "data" in a.stage:
        make_data(a.work / "data")
    glyphs, atlas = scenes.load_data(a.work, device)
    note(f"{len(glyphs)} glyphs on {device}")
    if "vae" in a.stage:
        train_vae.train(a.work, glyphs, atlas, short(VAE_STEPS), device)
        note(f"VAE: {train_vae.measure(train_vae.load(a.work, device), glyphs, atlas):.2f} dB on held-out scenes")
    if "transformer" in a.stage or "turbo" in a.stage:
        dataset = training_set.make(a.work, train_vae.load(a.work, device), glyphs, atlas, short(SCENES))
        note("training set: " + ", ".join(f"{w}x{h} {len(part[0])}" for (w, h), part in dataset.items()))
    if "transformer" in a.stage and not train_transformer.train(a.work, glyphs, dataset, short(TRANSFORMER_STEPS), device, a.seconds):
        note("time is over: run again to go on")
        return
    if "turbo" in a.stage:
        distil.train(a.work, glyphs, dataset, short(TURBO_PATHS), short(TURBO_STEPS), device)
    if "export" in a.stage:
        export.write(a.work, glyphs, a.output)
    note("done")


if __name__ == "__main__":
    main()
