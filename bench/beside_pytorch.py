"""Measures sd35 beside PyTorch and diffusers on one machine: how exact, and how fast.

usage: beside_pytorch.py --bin DIR [--preset large|medium|tiny] [--work DIR] [--what PART,...] [--device cuda|cpu] [--json FILE]

Needs torch, diffusers and transformers, and no network: the models have random weights of the real shapes, with outliers, and stay
in --work. --bin is a build folder, or any folder that holds the programs and backend_cuda.so. Parts, in the order of --what:

accuracy  errors of one forward against PyTorch in F32
step      one forward of the transformer with both guidance halves
picture   all steps and the decoding, from embeddings that are there already
batch     the same for four pictures at once
vae       latent to bytes
t5        all three text encoders for two prompts; ours for one, and without T5, too

Everything is printed as it comes, and --json is written anew after each part: a run that is cut short leaves what it found.
PyTorch in FP8 is what torchao's dynamic per-row quantisation does: weights and activations each with a factor a row. Modulation, a third
of the weights, stays in BF16 there, as it usually does. Ours has FP8 weights and 16-bit activations there, so accuracy also tells what
PyTorch is like with those, or with all of modulation in FP8, and what ours is like with modulation kept in BF16.
"""
import argparse
import dataclasses
import gc
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import time
import traceback

import diffusers
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

FP8, FP8_MAX = torch.float8_e4m3fn, 448
PLACES = {"sd35": "src/cli", "sd35-velocity": "bench", "sd35-make-random-model": "tools", "backend_cuda.so": "src/backend/cuda"}
OUTLIERS = 4             # rows of each block's queries and keys with weights 100 times as large
CLIP_TOKENS, T5_TOKENS = 77, 256
T5_SPREAD = .2           # of T5's output; CLIP's is near 1
TIMESTEPS = (900, 300)   # of the accuracy's two samples
WARM_FORWARDS = 3        # sd35-velocity leaves out as many
ROUNDS = 2
GUIDANCE, FLOW_SHIFT = 4.5, 3.0


@dataclasses.dataclass
class Setup:
    programs: pathlib.Path
    work: pathlib.Path
    preset: str
    device: str
    json: pathlib.Path | None
    rows: list = dataclasses.field(default_factory=list)
    failures: dict = dataclasses.field(default_factory=dict)

    @property
    def on_gpu(self):
        return self.device.startswith("cuda")

    @property
    def pixels(self):
        return 128 if self.preset == "tiny" else 1024

    @property
    def steps(self):
        return 3 if self.preset == "tiny" else 28

    @property
    def forwards(self):
        return 20 if self.on_gpu else 2

    def latent(self, batch):
        return batch, 16, self.pixels // 8, self.pixels // 8


# --- Telling ---

def say(setup, part, name, value, unit="", low=None, high=None):
    setup.rows.append({"part": part, "name": name, "value": value, "unit": unit, "low": low, "high": high})
    print(line(setup.rows[-1]), flush=True)


def line(row):
    spread = f"  ({row['low']:.4g} to {row['high']:.4g})" if row["low"] is not None else ""
    return f"{row['part']:9} {row['name']:48} {row['value']:10.4g} {row['unit']}{spread}"


def say_times(setup, part, name, times, unit):
    say(setup, part, name, statistics.median(times), unit, min(times), max(times))


def say_figures(setup, part, name, figures, scale, unit):
    """Of {median, min, max}."""
    say(setup, part, name, scale * figures["median"], unit, scale * figures["min"], scale * figures["max"])


def say_ratio(setup, part, ours, theirs, wanted=""):
    """Of two rows that were said before."""
    value = {row["name"]: row["value"] for row in setup.rows if row["part"] == part}
    if ours in value and theirs in value:
        say(setup, part, f"{ours} / {theirs}", value[ours] / value[theirs], wanted)


def write_json(setup, environment):
    if setup.json:
        setup.json.write_text(json.dumps({"environment": environment, "rows": setup.rows, "failures": setup.failures}, indent=1) + "\n")


# --- Ours ---

def place_of(setup, name):
    for path in (setup.programs / name, setup.programs / PLACES[name] / name):
        if path.is_file():
            return path
    return None


def run_ours(setup, name, *arguments):
    """What the program printed."""
    program, plugin = place_of(setup, name), place_of(setup, "backend_cuda.so")
    if not program:
        raise FileNotFoundError(f"{name} is not in {setup.programs}")
    environment = dict(os.environ)
    if plugin:
        environment.setdefault("SD35_PLUGIN_DIR", str(plugin.parent))
    done = subprocess.run([program, *map(str, arguments)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def fp8_model(setup, bf16, end, *options):
    """The folder beside it, converted where it is not there yet."""
    fp8 = bf16.with_name(bf16.name + end)
    if not fp8.exists():
        run_ours(setup, "sd35", "convert", "--model-path", bf16, "--output-path", fp8, "--quiet", *options)
    return fp8


def models(setup, name, *arguments):
    """Folders of a random model {in BF16, in FP8}, made where they are not there yet."""
    bf16, part = (setup.work / f"{setup.preset}-{name}{end}" for end in ("", ".part"))
    started = time.perf_counter()
    if not bf16.exists():
        shutil.rmtree(part, ignore_errors=True)
        run_ours(setup, "sd35-make-random-model", "--preset", setup.preset, "--dtype", "bf16", "--outliers", OUTLIERS, "--output", part,
                 *arguments)
        part.rename(bf16)
    fp8 = fp8_model(setup, bf16, "-fp8")
    if (took := time.perf_counter() - started) > 1:
        print(f"{bf16.name} made in {took:.0f} s", flush=True)
    return {"bf16": bf16, "fp8": fp8}


def drawing_models(setup):
    return models(setup, "drawing", "--t5-layers", 2)


def ours_velocity(setup, model, precision, inputs, repeats=0):
    """The velocity, and with `repeats` milliseconds: median, least and most."""
    with tempfile.TemporaryDirectory(dir=setup.work) as folder:
        files = [pathlib.Path(folder) / name for name in ("input.safetensors", "velocity.safetensors")]
        save_file(inputs, files[0])
        printed = run_ours(setup, "sd35-velocity", "--model", model, "--device", setup.device, "--precision", precision,
                           "--input", files[0], "--output", files[1], "--repeat", repeats)
        velocity = load_file(files[1])["velocity"]
    return velocity, [float(x) for x in re.findall(r"^([\d.]+) ms \(([\d.]+) to ([\d.]+)\)", printed, re.M)[0]] if repeats else None


def ours_bench(setup, model, precision, batch=1, steps=None, runs=3, guidance=GUIDANCE):
    """Seconds of `sd35 bench`: {phase: {median, min, max}}"""
    printed = run_ours(setup, "sd35", "bench", "--model", model, "--device", setup.device, "--precision", precision, "--quiet",
                       "--size", f"{setup.pixels}x{setup.pixels}", "--steps", steps or setup.steps, "--guidance", guidance,
                       "--batch", batch, "--runs", runs, "--json-file", "-")
    return json.loads(printed)["seconds"]


# --- Theirs ---

def free(setup):
    gc.collect()
    torch.compiler.reset()
    gc.collect()
    if setup.on_gpu:
        torch.cuda.empty_cache()


def finish(setup):
    if setup.on_gpu:
        torch.cuda.synchronize()


def load_transformer(setup, model):
    """In BF16. Straight to the device, as initialising billions of weights takes long."""
    folder = model / "transformer"
    with torch.device("meta"):
        transformer = diffusers.SD3Transformer2DModel.from_config(diffusers.SD3Transformer2DModel.load_config(folder))
    weights = {}
    for file in folder.glob("*.safetensors"):
        weights |= load_file(file, device=setup.device)
    transformer.load_state_dict(weights, assign=True)
    return transformer.eval().requires_grad_(False)


def load_vae(setup, model):
    vae = diffusers.AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.bfloat16)
    return vae.to(setup.device).eval().requires_grad_(False)


def quantise_rows(x):
    """[R, K] -> FP8 [R, K] and factors [R, 1]"""
    factor = x.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / FP8_MAX
    return (x.float() / factor).clamp(-FP8_MAX, FP8_MAX).to(FP8), factor


class Fp8Linear(torch.nn.Module):
    def __init__(self, linear):
        super().__init__()
        codes, factor = quantise_rows(linear.weight.data)
        self.register_buffer("codes", codes)                           # [N, K]
        self.register_buffer("factor", factor.view(1, -1).contiguous())
        self.bias = linear.bias

    def forward(self, x):
        codes, factor = quantise_rows(x.flatten(0, -2))
        if x.is_cuda:
            y = torch._scaled_mm(codes, self.codes.t(), factor, self.factor, bias=self.bias, out_dtype=x.dtype, use_fast_accum=True)
        else:
            y = F.linear(codes.float() * factor, self.codes.float() * self.factor.t(), self.bias.float()).to(x.dtype)
        return y.unflatten(0, x.shape[:-1])


class Fp8Weights(Fp8Linear):
    """Of the activations' type when it multiplies."""

    def forward(self, x):
        return F.linear(x, (self.codes.float() * self.factor.t()).to(x.dtype), self.bias)


def to_fp8(transformer, modulation=None):
    """All linears of the blocks; modulation's become what is given."""
    for block in transformer.transformer_blocks:
        linears = [name for name, module in block.named_modules() if isinstance(module, torch.nn.Linear)]
        for name in linears:
            kind = modulation if "norm" in name else Fp8Linear
            if kind:
                block.set_submodule(name, kind(block.get_submodule(name)))
    return transformer


def compile_blocks(transformer):
    """What diffusers calls regional compilation: blocks of one form share their code."""
    for block in transformer.transformer_blocks:
        block.compile(fullgraph=True, dynamic=False)
    return transformer


def random_inputs(setup, config, timesteps):
    """Of sd35-velocity, the same each time. CLIP's tokens are zero where T5's are wider."""
    generator, batch, width = torch.Generator().manual_seed(1), len(timesteps), config["joint_attention_dim"]
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    context = normal(batch, CLIP_TOKENS + T5_TOKENS, width)
    context[:, :CLIP_TOKENS, config["pooled_projection_dim"]:] = 0
    context[:, CLIP_TOKENS:] *= T5_SPREAD
    return {"latent": normal(*setup.latent(batch)), "context": context, "pooled": normal(batch, config["pooled_projection_dim"]),
            "timestep": torch.tensor(timesteps, dtype=torch.float32)}


def arguments_of(setup, transformer, inputs):
    to = lambda name: inputs[name].to(setup.device, transformer.dtype)
    return {"hidden_states": to("latent"), "encoder_hidden_states": to("context"), "pooled_projections": to("pooled"),
            "timestep": inputs["timestep"].to(setup.device), "return_dict": False}


def time_runs(setup, run, count):
    """Milliseconds of each of `count` runs that follow each other without waiting, as a sampler's steps do."""
    for _ in range(WARM_FORWARDS):
        run()
    finish(setup)
    if not setup.on_gpu:
        times = []
        for _ in range(count):
            started = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - started))
        return times
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    finish(setup)
    return [a.elapsed_time(b) for a, b in zip(events, events[1:])]


# --- Parts ---

def config_of(model):
    return json.loads((model / "transformer" / "config.json").read_text())


def measure_accuracy(setup):
    folders = drawing_models(setup)
    inputs = random_inputs(setup, config_of(folders["bf16"]), TIMESTEPS)
    velocity = {}

    def predict(name, transformer):
        velocity[name] = transformer(**arguments_of(setup, transformer, inputs))[0].float().cpu()

    transformer = load_transformer(setup, folders["bf16"])
    predict("PyTorch BF16", transformer)
    transformer.float()
    predict("PyTorch F32", transformer)
    del transformer
    free(setup)
    for name, modulation in (("PyTorch FP8", None), ("PyTorch FP8, modulation's weights too", Fp8Weights),
                             ("PyTorch FP8, modulation too", Fp8Linear)):
        predict(name, to_fp8(load_transformer(setup, folders["bf16"]), modulation))
        free(setup)
    folders["kept"] = fp8_model(setup, folders["bf16"], "-kept", "--keep", "*.modulation")
    # On the CPU precision means nothing: activations are always F32 there.
    if setup.on_gpu:
        runs = [("ours BF16", "bf16", "bf16"), ("ours FP8", "fp8", "fp8"), ("ours FP8, modulation kept", "kept", "fp8")]
    else:
        runs = [("ours FP8 weights", "fp8", "auto"), ("ours FP8 weights, modulation kept", "kept", "auto")]
    if setup.preset == "tiny" or not setup.on_gpu:
        runs.append(("ours F32", "bf16", "f32"))
    for name, model, precision in runs:
        velocity[name] = ours_velocity(setup, folders[model], precision, inputs)[0]

    want = velocity.pop("PyTorch F32").double()
    for name, got in velocity.items():
        samples = [((a - b).norm() / b.norm()).item() for a, b in zip(got.double(), want)]
        say(setup, "accuracy", name, ((got - want).norm() / want.norm()).item(), "of F32", min(samples), max(samples))
    say_ratio(setup, "accuracy", "ours BF16", "PyTorch BF16", "wanted: at most 1.2")
    say_ratio(setup, "accuracy", "ours FP8", "PyTorch FP8, modulation's weights too", "wanted: at most 1")
    say_ratio(setup, "accuracy", "ours FP8, modulation kept", "PyTorch FP8", "wanted: at most 1")
    say_ratio(setup, "accuracy", "ours FP8", "PyTorch FP8, modulation too")
    say_ratio(setup, "accuracy", "ours FP8", "PyTorch FP8")


def measure_step(setup):
    folders = drawing_models(setup)
    inputs = random_inputs(setup, config_of(folders["bf16"]), (500, 500))
    fp8 = to_fp8(load_transformer(setup, folders["bf16"]))
    free(setup)
    bf16 = load_transformer(setup, folders["bf16"])
    for transformer in (fp8, bf16):
        compile_blocks(transformer)

    def theirs(transformer, stance="default"):
        arguments = arguments_of(setup, transformer, inputs)
        with torch.compiler.set_stance(stance):
            times = time_runs(setup, lambda: transformer(**arguments), setup.forwards)
        return statistics.median(times), min(times), max(times)

    runs = {
        "ours FP8": lambda: ours_velocity(setup, folders["fp8"], "fp8", inputs, setup.forwards)[1],
        "PyTorch FP8, compiled": lambda: theirs(fp8),
        "ours BF16": lambda: ours_velocity(setup, folders["bf16"], "bf16", inputs, setup.forwards)[1],
        "PyTorch BF16, compiled": lambda: theirs(bf16),
        "PyTorch BF16, eager": lambda: theirs(bf16, "force_eager"),
    }
    found = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            found[name].append(run())
            print(f"  {name}: {found[name][-1][0]:.2f} ms", flush=True)
    for name, results in found.items():
        medians, lows, highs = zip(*results)
        say(setup, "step", name, statistics.median(medians), "ms", min(lows), max(highs))
    say_ratio(setup, "step", "ours FP8", "PyTorch FP8, compiled")
    say_ratio(setup, "step", "ours BF16", "PyTorch BF16, compiled")
    say_ratio(setup, "step", "ours BF16", "PyTorch BF16, eager")


def pipeline_of(transformer, vae):
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=transformer, vae=vae, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT),
        text_encoder=None, text_encoder_2=None, text_encoder_3=None, tokenizer=None, tokenizer_2=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def time_pipeline(setup, pipeline, batch, runs):
    """Seconds of each run after a short one."""
    config = pipeline.transformer.config
    random = lambda *shape: torch.randn(batch, *shape, device=setup.device, dtype=torch.bfloat16)
    context, pooled = (CLIP_TOKENS + T5_TOKENS, config.joint_attention_dim), (config.pooled_projection_dim,)
    arguments = {
        "prompt_embeds": random(*context), "negative_prompt_embeds": random(*context), "pooled_prompt_embeds": random(*pooled),
        "negative_pooled_prompt_embeds": random(*pooled), "guidance_scale": GUIDANCE, "height": setup.pixels, "width": setup.pixels,
    }
    times = []
    pipeline(**arguments, num_inference_steps=2)
    for _ in range(runs):
        finish(setup)
        started = time.perf_counter()
        pipeline(**arguments, num_inference_steps=setup.steps)
        finish(setup)
        times.append(time.perf_counter() - started)
    return times


def measure_drawing(setup, part, batch, runs, ours, theirs):
    folders = drawing_models(setup)
    for precision in ours:
        seconds = ours_bench(setup, folders[precision], precision, batch, runs=runs)
        figures = {key: seconds["denoise"][key] + seconds["decode"][key] for key in ("median", "min", "max")}
        say_figures(setup, part, f"ours {precision.upper()}", figures, 1, "s")
    vae = load_vae(setup, folders["bf16"])
    for name in theirs:
        transformer = load_transformer(setup, folders["bf16"])
        if name == "PyTorch FP8, compiled":
            transformer = compile_blocks(to_fp8(transformer))
        say_times(setup, part, name, time_pipeline(setup, pipeline_of(transformer, vae), batch, runs), "s")
        del transformer
        free(setup)
    for precision, name in zip(ours, theirs):
        say_ratio(setup, part, f"ours {precision.upper()}", name)


def measure_picture(setup):
    measure_drawing(setup, "picture", 1, 3, ["fp8", "bf16"], ["PyTorch FP8, compiled", "PyTorch BF16, eager"])


def measure_batch(setup):
    measure_drawing(setup, "batch", 4, 2, ["fp8"], ["PyTorch FP8, compiled"])


def measure_vae(setup):
    folders = drawing_models(setup)
    seconds = ours_bench(setup, folders["fp8"], "fp8", steps=2)["decode"]
    say_figures(setup, "vae", "ours", seconds, 1e3, "ms")
    vae, latent = load_vae(setup, folders["bf16"]), torch.randn(*setup.latent(1), device=setup.device, dtype=torch.bfloat16)

    def decode():
        rgb = vae.decode(latent, return_dict=False)[0]
        return ((rgb + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()

    torch.backends.cudnn.benchmark = True
    say_times(setup, "vae", "PyTorch BF16, NCHW", time_runs(setup, decode, setup.forwards), "ms")
    vae.to(memory_format=torch.channels_last)
    latent = latent.to(memory_format=torch.channels_last)
    say_times(setup, "vae", "PyTorch BF16, NHWC", time_runs(setup, decode, setup.forwards), "ms")
    vae.decoder.compile(dynamic=False)
    say_times(setup, "vae", "PyTorch BF16, NHWC, compiled", time_runs(setup, decode, setup.forwards), "ms")
    say_ratio(setup, "vae", "ours", "PyTorch BF16, NHWC, compiled")


def measure_t5(setup):
    """The model here has all of T5's layers, and few of the transformer's."""
    few_layers = ("--layers", 2, "--dual-layers", 0)
    folders = models(setup, "reading", *few_layers)
    clips = models(setup, "reading-clips", *few_layers, "--without-t5")
    for precision in ("fp8", "bf16"):
        for name, model, guidance in (("", folders, GUIDANCE), (", one prompt", folders, 1), (", one prompt, CLIPs alone", clips, 1)):
            seconds = ours_bench(setup, model[precision], precision, steps=2, guidance=guidance)["encode"]
            say_figures(setup, "t5", f"ours {precision.upper()}{name}", seconds, 1e3, "ms")
    encoders = [(kind.from_pretrained(folders["bf16"] / folder, torch_dtype=torch.bfloat16).to(setup.device).eval(), tokens)
                for folder, kind, tokens in (("text_encoder", transformers.CLIPTextModelWithProjection, CLIP_TOKENS),
                                             ("text_encoder_2", transformers.CLIPTextModelWithProjection, CLIP_TOKENS),
                                             ("text_encoder_3", transformers.T5EncoderModel, T5_TOKENS))]
    prompts = [torch.randint(3, encoder.config.vocab_size - 1, (2, tokens), device=setup.device) for encoder, tokens in encoders]

    def encode(first=0):
        for (encoder, _), ids in list(zip(encoders, prompts))[first:]:
            encoder(ids)

    say_times(setup, "t5", "PyTorch BF16, eager", time_runs(setup, encode, setup.forwards), "ms")
    say_times(setup, "t5", "PyTorch BF16, eager, T5 alone", time_runs(setup, lambda: encode(2), setup.forwards), "ms")
    say_ratio(setup, "t5", "ours FP8", "PyTorch BF16, eager")
    say_ratio(setup, "t5", "ours BF16", "PyTorch BF16, eager")


PARTS = {"accuracy": measure_accuracy, "step": measure_step, "picture": measure_picture, "vae": measure_vae, "t5": measure_t5,
         "batch": measure_batch}


# --- All of it ---

def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--preset", choices=["large", "medium", "tiny"], default="large")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "sd35-beside-pytorch")
    parser.add_argument("--what", default=",".join(PARTS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--cudnn-attention", action="store_true", help="faster on Hopper, though not what PyTorch takes by itself")
    arguments = parser.parse_args()
    arguments.what = arguments.what.split(",")
    if unknown := set(arguments.what) - set(PARTS):
        parser.error(f"--what: no part is called {', '.join(sorted(unknown))}")
    return arguments


def main():
    arguments = read_arguments()
    setup = Setup(arguments.bin.resolve(), arguments.work.resolve(), arguments.preset, arguments.device, arguments.json)
    setup.work.mkdir(parents=True, exist_ok=True)
    environment = {
        "preset": setup.preset, "pixels": setup.pixels, "steps": setup.steps, "cudnn_attention": arguments.cudnn_attention,
        "device": torch.cuda.get_device_name(setup.device) if setup.on_gpu else "cpu",
        "torch": torch.__version__, "diffusers": diffusers.__version__, "transformers": transformers.__version__,
    }
    print(json.dumps(environment), flush=True)
    transformers.utils.logging.disable_progress_bar()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch._dynamo.config.cache_size_limit = 64  # blocks of each form, precision and batch
    if arguments.cudnn_attention:
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)

    for part in arguments.what:
        started = time.perf_counter()
        try:
            with torch.no_grad():
                PARTS[part](setup)
        except Exception as error:
            traceback.print_exc()
            setup.failures[part] = repr(error)[:500]
        free(setup)
        print(f"{part} took {time.perf_counter() - started:.0f} s", flush=True)
        write_json(setup, environment)

    print("\n" + "\n".join(map(line, setup.rows)))
    for part, failure in setup.failures.items():
        print(f"{part} failed: {failure}")
    raise SystemExit(bool(setup.failures))


if __name__ == "__main__":
    main()
