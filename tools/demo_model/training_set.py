"""The transformer's training set, made once and kept on the device: latents, captions' tokens, and which glyph each image
token shows."""
import multiprocessing
import random

import numpy as np
import torch

import networks
import scenes
import vocabularies

CHUNK = 5000
FIRST_SEED = 100
CAPTIONS = 4  # a scene: two English, two Chinese


def make_chunk(arguments):
    """Scenes with their captions' tokens; a process of its own."""
    seed, glyphs, tokenizer_folder = arguments
    tokenizers = vocabularies.load(tokenizer_folder)
    rng = random.Random(seed + 1_000_000)
    chosen = scenes.sample_many(seed, glyphs, CHUNK)
    texts = [scenes.caption(rng, s, glyphs, language) for s in chosen for language in ("en", "en", "zh", "zh")]
    return chosen, tokenize(tokenizers, texts).reshape(len(tokenizers), CHUNK, CAPTIONS, vocabularies.CLIP_TOKENS)


def tokenize(tokenizers, texts):
    """[3, len(texts), 77] i16"""
    return np.stack([t(texts, padding="max_length", max_length=vocabularies.CLIP_TOKENS, truncation=True, return_tensors="np").input_ids
                     for t in tokenizers]).astype(np.int16)


@torch.no_grad()
def encode(vae, atlas, chosen, size):
    """-> latents [N, 16, h, w] bf16 in model space, owners [N, h / 2 * w / 2] i16"""
    latents, owners = [], []
    for i in range(0, len(chosen), 128):
        pictures, owner = scenes.paint(atlas, *(t.to(atlas.device) for t in scenes.to_tensors(chosen[i:i + 128])), *size)
        with torch.autocast(atlas.device.type, torch.bfloat16):
            mean = vae.encode(pictures).latent_dist.mean
        latents.append(((mean.float() - networks.SHIFT) * networks.SCALE).bfloat16())
        owners.append(owner.flatten(1).short())
    return torch.cat(latents), torch.cat(owners)


def make(work, vae, glyphs, atlas, count):
    """{size: (latents, owners, ids [3, N, CAPTIONS, 77])}, kept in a file so that a later run on the same machine need not
    make it again."""
    path = work / "training_set.pt"
    if path.exists():
        return torch.load(path, map_location=atlas.device, weights_only=True)
    parts = {size: [] for size in scenes.SIZES}
    jobs = [(FIRST_SEED + i, glyphs, work / "data") for i in range(-(-count // CHUNK))]
    with multiprocessing.get_context("spawn").Pool() as pool:
        for chosen, ids in pool.imap(make_chunk, jobs):
            for size in scenes.SIZES:
                rows = [i for i, s in enumerate(chosen) if s.size == size]
                parts[size].append((*encode(vae, atlas, [chosen[i] for i in rows], size),
                                    torch.from_numpy(ids[:, rows]).to(atlas.device)))
    result = {size: (torch.cat([p[0] for p in ps]), torch.cat([p[1] for p in ps]), torch.cat([p[2] for p in ps], 1)) for size, ps in parts.items()}
    torch.save(result, path)
    return result


def pick(dataset, size, batch, generator):
    """A batch: latents f32, owners, ids [3, batch, 77] of one caption each."""
    latents, owners, ids = dataset[size]
    rows = torch.randint(len(latents), [batch], device=latents.device, generator=generator)
    column = torch.randint(CAPTIONS, [batch], device=latents.device, generator=generator)
    return latents[rows].float(), owners[rows].long(), ids[:, rows, column].long()
