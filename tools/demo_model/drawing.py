"""Drawing with the model in PyTorch: diffusers' schedule and Euler steps, many pictures at a time."""
import torch

import networks
import training_set


def sigmas(steps, shift=3.0):
    """diffusers' FlowMatchEulerDiscreteScheduler, which shifts twice. [steps + 1], the last is 0."""
    shifted = lambda u: shift * u / (1 + (shift - 1) * u)
    line = torch.linspace(1, shifted(.001), steps, dtype=torch.float64)
    return torch.cat([shifted(line), torch.zeros(1, dtype=torch.float64)]).float()


def noise(seeds, size, device):
    """torch's CPU noise for each seed, as the pipeline draws it."""
    shape = [1, 16, size[1] // 8, size[0] // 8]
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]).to(device)


@torch.no_grad()
def denoise(model, latent, ids, empty_ids, levels, guidance, dtype=torch.bfloat16):
    """Follows the velocity through the noise levels; yields the latent after each step. ids [3, B, 77]."""
    context, pooled = model.text(ids)
    if guidance > 1:
        pairs = [torch.cat([e.expand_as(c), c]) for c, e in zip((context, pooled), model.text(empty_ids[:, None]))]
        context, pooled = pairs
    for sigma, following in zip(levels, levels[1:]):
        at = sigma.to(latent.device).expand(len(context))
        with torch.autocast(latent.device.type, dtype, enabled=dtype != torch.float32):
            velocity = model.velocity(latent.repeat(len(context) // len(latent), 1, 1, 1), at, context, pooled)[0].float()
        if guidance > 1:
            without, velocity = velocity.chunk(2)
            velocity = without + guidance * (velocity - without)
        latent = latent + (following - sigma).item() * velocity
        yield latent


@torch.no_grad()
def draw(model, vae, tokenizers, prompts, seeds, size=(256, 256), steps=20, guidance=4.0, batch=128, dtype=torch.bfloat16):
    """-> [N, height, width, 3] u8"""
    device = next(model.parameters()).device
    tokens = lambda texts: torch.from_numpy(training_set.tokenize(tokenizers, texts)).long().to(device)
    empty, pictures = tokens([""])[:, 0], []
    for i in range(0, len(prompts), batch):
        *_, latent = denoise(model, noise(seeds[i:i + batch], size, device), tokens(prompts[i:i + batch]), empty, sigmas(steps), guidance, dtype)
        out = vae.decode(latent / networks.SCALE + networks.SHIFT).sample
        pictures.append(((out / 2 + .5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu())
    return torch.cat(pictures).numpy()
