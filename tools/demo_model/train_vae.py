"""Trains the VAE on scenes, then scales and shifts its latents as the real one's are."""
import random

import torch

import checkpoints
import networks
import scenes

WINDOW = 128          # most steps see a window of the picture around one of its things
WINDOW_BATCH, BATCH = 96, 24
WHOLE_FROM = .6       # share of the steps from which on whole pictures are seen
RESCALE_AT = .8       # share at which the latents are brought to scale; the rest adapts to it
KL_WEIGHT = 1e-3      # per element
LEARNING_RATE = 1e-3


def window_of(rng, scene):
    """The scene seen through a square window near one of its things."""
    x, y, side = rng.choice(scene.boxes)
    left, top = x - WINDOW / 2 + rng.uniform(-.5, .5) * side, y - WINDOW / 2 + rng.uniform(-.5, .5) * side
    return [(bx - left, by - top, bs) for bx, by, bs in scene.boxes], (top / scene.size[1], (top + WINDOW) / scene.size[1])


def batches(seed, glyphs, atlas, is_whole):
    rng = random.Random(seed)
    while True:
        if is_whole:
            size = rng.choices(scenes.SIZES, [4, 1, 1, 1, 1])[0]
            chosen = []
            while len(chosen) < BATCH:
                scene = scenes.sample(rng, glyphs)
                chosen += [scene] * (scene.size == size)
            yield scenes.paint(atlas, *(t.to(atlas.device) for t in scenes.to_tensors(chosen)), *size)[0]
        else:
            chosen = [scenes.sample(rng, glyphs) for _ in range(WINDOW_BATCH)]
            glyph, _, colours = scenes.to_tensors(chosen)
            box = torch.ones(WINDOW_BATCH, 3, 3)
            for i, scene in enumerate(chosen):
                boxes, ends = window_of(rng, scene)
                box[i, :len(boxes)] = torch.tensor(boxes)
                colours[i] = torch.stack([torch.lerp(*colours[i], e) for e in ends]).clamp(0, 1)
            yield scenes.paint(atlas, glyph.to(atlas.device), box.to(atlas.device), colours.to(atlas.device), WINDOW, WINDOW)[0]


def differences(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def loss_of(vae, pictures):
    posterior = vae.encode(pictures).latent_dist
    out = vae.decode(posterior.sample()).sample.float()
    error = out - pictures
    edges = sum((a - b).abs().mean() for a, b in zip(differences(out), differences(pictures)))
    kl = .5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    return error.abs().mean() + 2 * (error ** 2).mean() + .5 * edges + KL_WEIGHT * kl, (error ** 2).mean()


@torch.no_grad()
def rescale(vae, stream, count=40):
    """Changes encoder and decoder so that (latent - SHIFT) * SCALE has mean 0 and deviation 1 in every channel."""
    means = torch.cat([vae.encode(next(stream)).latent_dist.mean.float().transpose(0, 1).flatten(1) for _ in range(count)], 1)
    mean, deviation = means.mean(1), means.std(1)
    gain = 1 / (networks.SCALE * deviation)
    out, into = vae.encoder.conv_out, vae.decoder.conv_in
    out.weight *= torch.cat([gain, torch.ones_like(gain)]).view(-1, 1, 1, 1)
    out.bias[:16] = (out.bias[:16] - mean) * gain + networks.SHIFT
    out.bias[16:] += 2 * gain.log()  # the variance's logarithm
    into.bias += (into.weight.sum((2, 3)) * (mean - networks.SHIFT / gain)).sum(1)
    into.weight /= gain.view(1, -1, 1, 1)
    print("latents: means", mean.tolist(), "deviations", deviation.tolist())


def train(work, glyphs, atlas, steps, device):
    folder = work / "vae"
    if checkpoints.load(folder)[0]:
        return
    torch.manual_seed(1)
    vae = networks.build_vae().to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(.9, .99), weight_decay=0, fused=device == "cuda")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=.05, final_div_factor=100)
    windows, wholes = batches(2, glyphs, atlas, False), batches(3, glyphs, atlas, True)
    for step in range(steps):
        if step == int(RESCALE_AT * steps):
            rescale(vae, wholes)
        pictures = next(wholes if step >= WHOLE_FROM * steps else windows)
        with torch.autocast(device, torch.bfloat16):
            loss, squared = loss_of(vae, pictures)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 20) == 0:
            print(f"vae step {step}: loss {loss.item():.4f}, PSNR {10 * torch.log10(4 / squared).item():.2f} dB", flush=True)
    checkpoints.save(folder, vae.state_dict(), steps=steps)


def load(work, device):
    vae = networks.build_vae().to(device).eval().requires_grad_(False)
    checkpoints.load_into(vae, checkpoints.load(work / "vae")[0])
    return vae


@torch.no_grad()
def latent_colours(vae, glyphs, atlas, count=256):
    """What previews are painted by: the linear fit from a cell of the latent to the mean colour of its 8 x 8 pixels."""
    chosen = [s for s in scenes.sample_many(98, glyphs, 3 * count) if s.size == (256, 256)][:count]
    cells, colours = [], []
    for i in range(0, len(chosen), 16):
        pictures = scenes.paint(atlas, *(t.to(atlas.device) for t in scenes.to_tensors(chosen[i:i + 16])), 256, 256)[0]
        latents = (vae.encode(pictures).latent_dist.mean - networks.SHIFT) * networks.SCALE
        cells.append(latents.movedim(1, -1).flatten(0, 2))
        colours.append(torch.nn.functional.avg_pool2d(pictures, 8).movedim(1, -1).flatten(0, 2))
    cells = torch.cat(cells)
    fit = torch.linalg.lstsq(torch.cat([cells, torch.ones_like(cells[:, :1])], 1), torch.cat(colours)).solution
    rows = [[round(x, 4) for x in row] for row in fit.tolist()]
    return {"latent_rgb_factors": rows[:-1], "latent_rgb_bias": rows[-1]}


@torch.no_grad()
def measure(vae, glyphs, atlas, count=256):
    """Mean PSNR in dB of reconstructed held-out scenes, 256 x 256, as 8-bit pictures are compared."""
    chosen = [s for s in scenes.sample_many(99, glyphs, 3 * count, held_out=True) if s.size == (256, 256)][:count]
    ratios = []
    for i in range(0, len(chosen), 16):
        pictures = scenes.paint(atlas, *(t.to(atlas.device) for t in scenes.to_tensors(chosen[i:i + 16])), 256, 256)[0]
        out = vae.decode(vae.encode(pictures).latent_dist.mean).sample.clamp(-1, 1)
        ratios.append(10 * torch.log10(4 / ((out - pictures) ** 2).mean((1, 2, 3))))
    return torch.cat(ratios).mean().item()
