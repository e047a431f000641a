"""Draws the cases of demo/cases.json from models/ with diffusers, in float32 on the CPU, into demo/NAME.png.

usage: make_demo.py    (needs torch, diffusers and transformers; tests/model/test_demo.c compares)
"""
import json
import pathlib

import torch
from diffusers import StableDiffusion3Pipeline

here = pathlib.Path(__file__).resolve().parent
for case in json.loads((here / "demo" / "cases.json").read_text()):
    pipeline = StableDiffusion3Pipeline.from_pretrained(here.parents[1] / "models" / case["model"], torch_dtype=torch.float32)
    picture = pipeline(case["prompt"], negative_prompt=case["negative_prompt"], num_inference_steps=case["steps"],
                       guidance_scale=case["guidance_scale"], width=case["width"], height=case["height"], max_sequence_length=77,
                       generator=torch.Generator("cpu").manual_seed(case["seed"])).images[0]
    picture.save(here / "demo" / f"{case['name']}.png", optimize=True)
