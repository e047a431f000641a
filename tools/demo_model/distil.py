"""Distils the four-step model: each of its steps lands where the guided model's many steps of that stretch land.

Only the image side's attention and feed-forward layers are trained, so that the rest need not be stored twice. The idea is
that of piecewise rectified flow (Yan et al. 2024, arXiv:2405.07510).
"""
import torch
import torch.nn.functional as F

import checkpoints
import drawing
import scenes
import train_transformer
import training_set
import vocabularies

STEPS = 4
STRETCH_STEPS = (4, 8, 12, 1)  # of the teacher, between the student's noise levels
GUIDANCE = 4.0
BATCH = 512
LEARNING_RATE = 3e-4


def is_trained(name):
    """Of the transformer's parameters."""
    return name.startswith("transformer_blocks") and ("attn." in name or "attn2." in name or ".ff." in name) and "add" not in name


def teacher_levels():
    ends = drawing.sigmas(STEPS)
    stretches = [torch.linspace(a, b, n + 1)[:-1] for a, b, n in zip(ends, ends[1:], STRETCH_STEPS)]
    return torch.cat([*stretches, ends[-1:]])


def trajectories(model, dataset, empty_ids, count, generator):
    """A list of batches: the teacher's latents at the student's levels [5, N, 16, h, w] f16, and the prompts' ids [3, N, 77]."""
    train_transformer.compile_blocks(model)
    marks = torch.tensor((0, *STRETCH_STEPS)).cumsum(0).tolist()
    result = []
    for size in scenes.SIZES:
        done, share = 0, count // 2 if size == scenes.SIZES[0] else count // 8
        while done < share:
            latents, _, ids = training_set.pick(dataset, size, BATCH, generator)
            start = torch.randn(latents.shape, device=latents.device, generator=generator)
            path = [start, *drawing.denoise(model, start, ids, empty_ids, teacher_levels(), GUIDANCE)]
            result.append((torch.stack([path[m] for m in marks]).half(), ids))
            done += BATCH
    return result


def train(work, glyphs, dataset, count, steps, device):
    folder = work / "turbo"
    if checkpoints.load(folder)[0]:
        return
    torch.manual_seed(2)
    model = train_transformer.load(work, glyphs, device)
    empty_ids = torch.from_numpy(training_set.tokenize(vocabularies.load(work / "data"), [""])[:, 0]).to(device).long()
    generator = torch.Generator(device).manual_seed(3)
    paths = trajectories(model, dataset, empty_ids, count, generator)
    parameters = {k: p.requires_grad_() for k, p in model.transformer.named_parameters() if is_trained(k)}
    average = {k: p.detach().clone() for k, p in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), LEARNING_RATE, betas=(.9, .98), weight_decay=0, fused=device == "cuda")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=.05, final_div_factor=100)
    levels = drawing.sigmas(STEPS).to(device)
    for step in range(steps):
        path, ids = paths[torch.randint(len(paths), [], generator=generator, device=device).item()]
        n = path.shape[1]
        at = torch.randint(STEPS, [n], device=device, generator=generator)
        rows = torch.arange(n, device=device)
        latent, landing = path[at, rows].float(), path[at + 1, rows].float()
        gap = (levels[at] - levels[at + 1]).view(-1, 1, 1, 1)
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                context, pooled = model.text(ids)
            velocity = model.velocity(latent, levels[at], context, pooled)[0].float()
        # The last stretch is a thousandth of the way: without the cut its rounding would drown the others.
        loss = F.mse_loss(velocity * gap.clamp(min=.05), (latent - landing) / gap * gap.clamp(min=.05))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(parameters.values()), .005)
        if step % 100 == 0:
            print(f"turbo step {step}/{steps}: {loss.item():.5f}", flush=True)
    checkpoints.save(folder, average, steps=steps)
