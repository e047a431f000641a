"""Trains the transformer and the text encoders together by rectified flow (Esser et al. 2024, arXiv:2403.03206).

A second loss helps early on: from the image tokens of a middle block, a linear layer tells which glyph
each of them shows. It is thrown away at the end (the idea of Yu et al. 2024, arXiv:2410.06940, with true
labels where they have a pretrained encoder).
"""
import math
import time

import torch
import torch.nn.functional as F
from torch import nn

import checkpoints
import networks
import scenes
import training_set
import vocabularies

BATCH = 512
LEARNING_RATE, MUON_RATE = 1e-3, 2e-3
WARM_UP = 200            # steps, at the start and after a resumption that has lost the optimiser's state
DECAY_FROM = .5          # share of the steps from which on the rate falls to nothing
AVERAGE_DECAY = .9995    # of the weights' moving average
PROMPT_DROPOUT, T5_DROPOUT = .1, .1
LABEL_BLOCK, LABEL_WEIGHT = 3, .1
TRAINING_SHIFT = 1.5     # more noise than the plain logit-normal has: layout is decided there


class Model(nn.Module):
    """What is trained: text encoders, transformer, and the labelling layer."""

    def __init__(self, tokenizers, glyph_count):
        super().__init__()
        self.text = networks.TextEncoders(tokenizers)
        self.transformer = networks.build_transformer()
        self.label = nn.Linear(64 * networks.HEADS, glyph_count + 1)

    def velocity(self, latent, sigma, context, pooled, label_block=None):
        """diffusers' forward pass, with a block's image tokens handed out on the way."""
        t = self.transformer
        rows, columns = latent.shape[2] // 2, latent.shape[3] // 2
        image, labels = t.pos_embed(latent), None
        cond = t.time_text_embed(1000 * sigma, pooled)
        context = t.context_embedder(context)
        for i, block in enumerate(t.transformer_blocks):
            context, image = block(hidden_states=image, encoder_hidden_states=context, temb=cond)
            if i == label_block:
                labels = self.label(image)
        image = t.proj_out(t.norm_out(image, cond))
        image = image.view(len(image), rows, columns, 2, 2, 16)
        return torch.einsum("nhwpqc->nchpwq", image).reshape(latent.shape), labels


def losses(model, latents, owners, ids, empty_ids, generator):
    """Flow matching and labelling, for one batch. empty_ids [3, 77]: the empty prompt's."""
    n, device = len(latents), latents.device
    uniform = lambda: torch.rand(n, device=device, generator=generator)
    ids = torch.where((uniform() < PROMPT_DROPOUT)[None, :, None], empty_ids[:, None], ids)
    u = torch.randn(n, device=device, generator=generator).sigmoid()
    sigma = TRAINING_SHIFT * u / (1 + (TRAINING_SHIFT - 1) * u)
    noise = torch.randn(latents.shape, device=device, generator=generator)
    noisy = torch.lerp(latents, noise, sigma.view(-1, 1, 1, 1))
    with torch.autocast(device.type, torch.bfloat16):
        context, pooled = model.text(ids, uniform() >= T5_DROPOUT)
        velocity, labels = model.velocity(noisy, sigma, context, pooled, LABEL_BLOCK)
    flow = F.mse_loss(velocity.float(), noise - latents)
    return flow, F.cross_entropy(labels.float().flatten(0, 1), owners.flatten())


def make_optimizers(model):
    """Muon (Jordan et al. 2024) for the matrices inside the blocks, AdamW for all else."""
    is_inner = lambda name, p: p.ndim == 2 and name.startswith("transformer.transformer_blocks") and ".norm1" not in name
    inner = [p for name, p in model.named_parameters() if is_inner(name, p)]
    outer = [p for name, p in model.named_parameters() if not is_inner(name, p)]
    return [torch.optim.Muon(inner, lr=MUON_RATE, weight_decay=.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(outer, lr=LEARNING_RATE, betas=(.9, .98), weight_decay=.01, fused=outer[0].is_cuda)]


def compile_blocks(model):
    """Blocks rather than the whole: they share their code, and compile in seconds."""
    if next(model.parameters()).is_cuda:
        torch._dynamo.config.recompile_limit = 64
        for block in model.transformer.transformer_blocks:
            block.compile()


def rate_factor(step, steps, first):
    warm = min(1, (step - first + 1) / WARM_UP)
    return warm * min(1, max(0.01, (steps - step) / (steps * (1 - DECAY_FROM))))


def train(work, glyphs, dataset, steps, device, seconds=math.inf):
    """Goes on from the checkpoint until `steps` are done, or `seconds` are over. Returns whether it is done."""
    folder = work / "transformer"
    tensors, facts = checkpoints.load(folder)
    first = facts.get("step", 0)
    torch.manual_seed(1)
    tokenizers = vocabularies.load(work / "data")
    empty_ids = torch.from_numpy(training_set.tokenize(tokenizers, [""])[:, 0]).to(device).long()
    model = Model(tokenizers, len(glyphs)).to(device)
    average = {k: v.detach().clone() for k, v in model.named_parameters()}
    optimizers = make_optimizers(model)
    if tensors:
        checkpoints.load_into(model, tensors, "model.")
        average = {k: tensors["average." + k].to(device) for k in average}
    state = work / "optimizer.pt"
    has_state = tensors and state.exists()
    if has_state:
        for optimizer, saved in zip(optimizers, torch.load(state, map_location=device)):
            optimizer.load_state_dict(saved)
    rates = [MUON_RATE, LEARNING_RATE]
    generator = torch.Generator(device).manual_seed(1000 + first)
    sizes = torch.Generator().manual_seed(1000 + first)
    compile_blocks(model)
    started, step = time.time(), first
    running = torch.zeros(2, device=device)
    while step < steps and time.time() - started < seconds:
        is_square = torch.rand([], generator=sizes) < .5
        size = scenes.SIZES[0 if is_square else int(torch.randint(1, len(scenes.SIZES), [], generator=sizes))]
        flow, label = losses(model, *training_set.pick(dataset, size, BATCH, generator), empty_ids, generator)
        for optimizer in optimizers:
            optimizer.zero_grad()
        (flow + LABEL_WEIGHT * label).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in zip(optimizers, rates):
            optimizer.param_groups[0]["lr"] = rate * rate_factor(step, steps, 0 if has_state else first)
            optimizer.step()
        with torch.no_grad():
            decay = min(AVERAGE_DECAY, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.values()), list(model.parameters()), 1 - decay)
            running += torch.stack([flow.detach(), label.detach()])
        step += 1
        if step % 100 == 0:
            flow, label = (running / 100).tolist()
            running.zero_()
            print(f"step {step}/{steps}: flow {flow:.4f}, label {label:.3f}, {time.time() - started:.0f} s", flush=True)
    everything = {"model." + k: v for k, v in model.state_dict().items()} | {"average." + k: v for k, v in average.items()}
    checkpoints.save(folder, everything, step=step)
    torch.save([optimizer.state_dict() for optimizer in optimizers], state)
    return step >= steps


def load(work, glyphs, device):
    """The trained model, with the averaged weights."""
    tensors, _ = checkpoints.load(work / "transformer")
    model = Model(vocabularies.load(work / "data"), len(glyphs)).to(device)
    checkpoints.load_into(model, tensors, "model.")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors["average." + name])
    return model.eval().requires_grad_(False)
