"""Checkpoints: F16 safetensors in shards of at most 16 MB, so that every file travels easily.

What a run on the same machine also needs, the optimiser's state, lies beside them and may be lost.
"""
import json

import torch
from safetensors.torch import load_file, save_file

SHARD_BYTES = 15_000_000


def split(tensors, limit=SHARD_BYTES):
    """Cuts {name: tensor} into as few consecutive parts as fit the limit."""
    parts, size = [{}], 0
    for name, tensor in tensors.items():
        if size + tensor.nbytes > limit and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    return parts


def half(tensors):
    return {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in tensors.items() if v.is_floating_point()}


def save(folder, tensors, **facts):
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    for i, part in enumerate(split(half(tensors))):
        save_file(part, folder / f"{i}.safetensors")
    (folder / "facts.json").write_text(json.dumps(facts))


def load(folder):
    """-> {name: f32 tensor}, facts; or None, {} where there is no checkpoint."""
    if not (folder / "facts.json").exists():
        return None, {}
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(shard))
    return {k: v.float() for k, v in tensors.items()}, json.loads((folder / "facts.json").read_text())


def load_into(module, tensors, prefix=""):
    """Parameters and floating-point buffers from the tensors that begin with `prefix`."""
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    missing, unknown = module.load_state_dict(own, strict=False)
    missing = [k for k in missing if module.state_dict()[k].is_floating_point()]
    assert not missing and not unknown, (missing[:3], unknown[:3])
