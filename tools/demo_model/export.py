"""Writes the trained networks as diffusers folders with F16 weights: the model, and the four-step one beside it.

The four-step model shares all files but one with the first: they are links.
"""
import json
import shutil

import diffusers
from safetensors.torch import save_file

import checkpoints
import distil
import scenes
import train_transformer
import train_vae

COMPONENTS = {"scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"), "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
              "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"), "text_encoder_3": ("transformers", "T5EncoderModel"),
              "tokenizer": ("transformers", "CLIPTokenizer"), "tokenizer_2": ("transformers", "CLIPTokenizer"),
              "tokenizer_3": ("transformers", "T5TokenizerFast"), "transformer": ("diffusers", "SD3Transformer2DModel"),
              "vae": ("diffusers", "AutoencoderKL"), "feature_extractor": (None, None), "image_encoder": (None, None)}
TRANSFORMER_FILE = "diffusion_pytorch_model-0000{}-of-00002.safetensors"


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_transformer(folder, tensors, first_file=None):
    """Two shards: what both models share, then what distilling changes. `first_file`: a link to the first shard."""
    folder.mkdir(parents=True)
    parts = [{k: v for k, v in tensors.items() if distil.is_trained(k) == changes} for changes in (False, True)]
    for i, part in enumerate(parts):
        path = folder / TRANSFORMER_FILE.format(i + 1)
        if i == 0 and first_file:
            path.symlink_to(first_file)
        else:
            save_file(part, path, metadata={"format": "pt"})
    write_json(folder / "diffusion_pytorch_model.safetensors.index.json",
               {"metadata": {"total_size": sum(v.nbytes for v in tensors.values())},
                "weight_map": {k: TRANSFORMER_FILE.format(1 + distil.is_trained(k)) for k in sorted(tensors)}})


def drop_leftovers(folder):
    """What the libraries note about the machine that wrote a configuration."""
    for path in folder.rglob("*.json"):
        value = json.loads(path.read_text())
        leftovers = [k for k in ("_name_or_path", "is_local", "local_files_only") if k in value]
        if leftovers:
            write_json(path, {k: v for k, v in value.items() if k not in leftovers})


def clear(folder):
    """Takes an older model out; the model card stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*COMPONENTS, "model_index.json"):
        path = folder / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)


def write(work, glyphs, folder):
    """`folder` and `folder`-turbo; older ones are replaced."""
    turbo = folder.with_name(folder.name + "-turbo")
    clear(folder)
    clear(turbo)
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        shutil.copytree(work / "data" / name, folder / name)
    model = train_transformer.load(work, glyphs, "cpu")
    encoders = (model.text.clip_l, model.text.clip_g, model.text.t5)
    for name, encoder in zip(("text_encoder", "text_encoder_2", "text_encoder_3"), encoders):
        encoder.half().save_pretrained(folder / name)
    vae = train_vae.load(work, "cpu")
    colours = train_vae.latent_colours(vae, *scenes.load_data(work, "cpu"))
    vae.half().save_pretrained(folder / "vae")
    config = folder / "vae" / "config.json"
    write_json(config, {**json.loads(config.read_text()), **colours})
    diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusion3Pipeline", "_diffusers_version": diffusers.__version__, **{k: list(v) for k, v in COMPONENTS.items()}}
    write_json(folder / "model_index.json", index)

    tensors = checkpoints.half(model.transformer.state_dict())
    write_transformer(folder / "transformer", tensors)
    model.transformer.save_config(folder / "transformer")
    drop_leftovers(folder)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)

    changed, _ = checkpoints.load(work / "turbo")
    if not changed:
        turbo.rmdir()
        return
    shared = f"../../{folder.name}/transformer"
    write_transformer(turbo / "transformer", {**tensors, **checkpoints.half(changed)}, f"{shared}/{TRANSFORMER_FILE.format(1)}")
    (turbo / "transformer" / "config.json").symlink_to(f"{shared}/config.json")
    for name in [*(k for k, v in COMPONENTS.items() if v[0] and k != "transformer"), "model_index.json"]:
        (turbo / name).symlink_to(f"../{folder.name}/{name}")
