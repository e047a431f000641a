#!/usr/bin/env python3
"""The server as the `webuiapi` package from PyPI sees it, and requests as other clients of AUTOMATIC1111's API send them.

usage: clients_a1111.py --url http://127.0.0.1:7860 [--key KEY | --user USER:PASSWORD] [CHECK ...]

Needs webuiapi and pillow. Draws small pictures with few steps. CHECKs are names of functions without check_. Exit status: 0 when all is well.
"""
import argparse
import base64
import hashlib
import io
import json
import pathlib
import random
import re
import sys
import threading
import time

import requests
import webuiapi
from PIL import Image, ImageChops, ImageStat, PngImagePlugin

SIDE = 128
QUICK = {"width": SIDE, "height": SIDE, "steps": 4, "cfg_scale": 4, "seed": 7}
LONG = {**QUICK, "steps": 100, "batch_size": 4}
# What a parameters line is made of, as AUTOMATIC1111 takes it apart.
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
DEFAULTS = {"Clip skip": "1", "RNG": "GPU", "Schedule type": "Automatic", "FP8 weight": "Disable", "Mask mode": "Inpaint masked",
            "Masked content": "original", "Inpaint area": "Whole picture"}


class Service:
    """The server's address, a session that is let in, and webuiapi with it."""

    def __init__(self, url, key, user):
        self.url = url.rstrip("/")
        self.is_open = not user and not key
        self.credentials = tuple(user.split(":", 1)) if user else ("", key or "")  # clients that know Basic only send a key as password
        self.session = requests.Session()
        self.session.auth = self.credentials
        self.api = self.webuiapi()

    def webuiapi(self, **more):
        api = webuiapi.WebUIApi(baseurl=self.url + "/sdapi/v1", sampler="Euler", **more)
        api.set_auth(*self.credentials)
        return api

    def get(self, path, **more):
        return self.session.get(self.url + path, timeout=120, **more)

    def post(self, path, body=None, **more):
        return self.session.post(self.url + path, json={} if body is None else body, timeout=120, **more)

    def draw(self, body, path="/sdapi/v1/txt2img"):
        reply = self.post(path, body)
        assert reply.status_code == 200, (reply.status_code, reply.text[:300])
        return reply.json()


def picture(text):
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def base64_png(image, **texts):
    out, info = io.BytesIO(), PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    image.save(out, "PNG", pnginfo=info)
    return base64.b64encode(out.getvalue()).decode()


def base64_file(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return base64.b64encode(out.getvalue()).decode()


def difference(a, b):
    return sum(ImageStat.Stat(ImageChops.difference(a.convert("RGB"), b.convert("RGB"))).mean) / 3


def wait_until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(.05)
    raise AssertionError(f"not within {seconds} s: {what}")


class Background:
    """A call on a thread; `result()` waits for what it returns, and raises what it raises."""

    def __init__(self, call, *args, **kwargs):
        self.value, self.error = None, None

        def run():
            try:
                self.value = call(*args, **kwargs)
            except Exception as error:
                self.error = error
        self.thread = threading.Thread(target=run)
        self.thread.start()

    def result(self):
        self.thread.join(120)
        assert not self.thread.is_alive(), "the call does not return"
        if self.error:
            raise self.error
        return self.value


def sampling(api):
    state = api.get_progress()
    return state if state["state"]["sampling_step"] >= 2 else None


def is_idle(api):
    state = api.get_progress()
    return state["progress"] == 0 and state["state"]["job_count"] == 0 and state["eta_relative"] == 0


# --- Infotext ---

def read_infotext(text):
    """What AUTOMATIC1111 reads from an infotext: the prompts, and the pairs of the last line."""
    *lines, last = text.strip().split("\n")
    pairs = PAIR.findall(last)
    if len(pairs) < 3:
        lines, pairs = [*lines, last], []
    result = {"Prompt": "", "Negative prompt": ""}
    to = "Prompt"
    for line in (line.strip() for line in lines):
        if line.startswith("Negative prompt:"):
            to, line = "Negative prompt", line[16:].strip()
        result[to] += ("\n" if result[to] else "") + line
    for key, value in pairs:
        if value[:1] == '"' == value[-1:]:
            try:
                value = json.loads(value)
            except ValueError:
                pass
        size = re.fullmatch(r"(\d+)x(\d+)", value) if isinstance(value, str) else None
        result.update({f"{key}-1": size[1], f"{key}-2": size[2]} if size else {key: value})
    return {**DEFAULTS, **result}


def check_infotext(service):
    """The PNG's own text, by their regular expression, is what was asked for."""
    prompts = ("a red apple", "two lines,\nwith: commas, and: colons, here: too", "Ünïcödé 苹果 🍎", 'quotes "and" \\ backslashes', "")
    for prompt in prompts:
        answer = service.draw({"prompt": prompt, "negative_prompt": "dog, cat", **QUICK, "steps": 2, "cfg_scale": 4.5})
        image = picture(answer["images"][0])
        text, info = image.text["parameters"], json.loads(answer["info"])
        assert info["infotexts"] == [text], (info["infotexts"], text)
        read = read_infotext(text)
        wanted = {"Prompt": prompt, "Negative prompt": "dog, cat", "Steps": "2", "Sampler": "Euler", "CFG scale": "4.5", "Seed": "7", "Size-1": str(SIDE),
                  "Size-2": str(SIDE), "Model": info["sd_model_name"], "Version": info["version"], "RNG": "CPU"}
        assert {name: read.get(name) for name in wanted} == wanted, (text, read)
        assert read["Schedule type"] == info["extra_generation_params"]["Schedule type"]
        assert "Model hash" not in read, text  # the same request gives the same bytes, whether it is known yet or not
        png_info = service.draw({"image": answer["images"][0]}, "/sdapi/v1/png-info")
        assert png_info["info"] == text and png_info["parameters"] == read, (png_info["parameters"], read)
    again = service.draw({"infotext": text.replace("Steps: 2", "Steps: 3"), "seed": 9})
    info = json.loads(again["info"])
    assert (info["steps"], info["width"], info["seed"], info["negative_prompt"]) == (3, SIDE, 9, "dog, cat"), info


def check_infotext_of_formats(service):
    for name, kind in (("jpg", "JPEG"), ("webp", "WEBP")):
        answer = service.draw({"prompt": "a red apple, 苹果", **QUICK, "override_settings": {"samples_format": name}})
        image = picture(answer["images"][0])
        assert image.format == kind, image.format
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment[:8] == b"UNICODE\0", comment[:8]
        text = comment[8:].decode("utf-16-be")
        assert text == json.loads(answer["info"])["infotexts"][0], text
        info = service.draw({"image": answer["images"][0]}, "/sdapi/v1/png-info")["info"]
        assert info == text, info


def check_infotext_parser(service):
    """Our reading of other people's texts is theirs, on texts made of what could confuse it."""
    chance = random.Random(1)
    pieces = ["a", "Steps", ": ", ":", ", ", ",", "\n", " ", '"', '\\', '\\"', "Negative prompt:", "Size: 1024x768", "Steps: 20", "CFG scale: 7", "Seed: 5",
              "Lora hashes: \"a: b, c: d\"", "x" * 30, "ключ: 1", "苹果: 2", "a-b/c: d", "(k): v", "k: 1", "\t", "12x", "Steps: 3, Sampler: Euler a, Seed: 1"]
    image = Image.new("RGB", (16, 16))
    for _ in range(300):
        text = "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 14)))
        answer = service.draw({"image": base64_png(image, parameters=text)}, "/sdapi/v1/png-info")
        wanted = read_infotext(text)
        assert answer["info"] == text and answer["parameters"] == wanted, (text, answer["parameters"], wanted)
    bare = service.draw({"image": "data:image/png;base64," + base64_png(image)}, "/sdapi/v1/png-info")
    assert bare == {"info": "", "items": {}, "parameters": {}}, bare


# --- webuiapi ---

def check_lists(service):
    api = service.api
    for ask in (api.get_samplers, api.get_schedulers, api.get_sd_models, api.get_sd_vae, api.get_upscalers, api.get_latent_upscale_modes, api.get_loras,
                api.get_hypernetworks, api.get_face_restorers, api.get_realesrgan_models, api.get_prompt_styles):
        assert isinstance(ask(), list), ask.__name__
    assert isinstance(api.get_scripts()["txt2img"], list) and not api.has_controlnet
    assert isinstance(api.get_embeddings()["loaded"], dict)
    memory = api.get_memory()
    assert 0 < memory["ram"]["used"] < memory["ram"]["total"] == memory["ram"]["used"] + memory["ram"]["free"] and "cuda" in memory, memory
    flags = api.get_cmd_flags()
    assert not flags["api_auth"] and (service.is_open or service.credentials[1] not in json.dumps(flags))
    assert "Euler" in api.util_get_sampler_names() and "automatic" in api.util_get_scheduler_names()
    (model,) = api.get_sd_models()
    assert set(model) == {"title", "model_name", "hash", "sha256", "filename", "config"} and model["title"].startswith(model["model_name"]), model
    assert api.refresh_checkpoints() is None


def check_model_hash(service):
    """The weights' SHA-256 is found out beside everything else, and then is everywhere."""
    api = service.api
    model = wait_until("the hash", lambda: (lambda model: model if model["sha256"] else None)(api.get_sd_models()[0]))
    parts = sorted((pathlib.Path(__file__).resolve().parents[2] / "models" / "demo" / "transformer").glob("*.safetensors"))
    assert model["sha256"] == hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest() and model["hash"] == model["sha256"][:10], model
    assert model["title"] == f"{model['filename']} [{model['hash']}]", model
    for name in (model["title"], model["model_name"]):
        assert api.set_options({"sd_model_checkpoint": name}) is None
        assert api.get_options()["sd_model_checkpoint"] == model["title"]
    info = api.txt2img(prompt="a", **QUICK).info
    assert info["sd_model_hash"] == model["hash"], info


def check_options(service):
    api = service.api
    options = api.get_options()
    assert options["sd_model_checkpoint"] in api.util_get_model_names()
    assert {"sd_vae", "CLIP_stop_at_last_layers", "samples_save", "samples_format", "show_progress_every_n_steps", "live_previews_enable"} <= set(options)
    assert api.set_options({**options, "something_of_theirs": 1}) is None
    assert api.get_options() == options
    api.set_options({"samples_format": "webp"})
    assert api.get_options()["samples_format"] == "webp"
    assert picture(service.draw({"prompt": "a", **QUICK})["images"][0]).format == "WEBP"
    api.set_options({"samples_format": "png"})
    assert api.get_options() == options
    api.util_set_model(api.util_get_current_model())
    api.util_wait_for_ready()


def check_txt2img(service):
    api = service.api
    result = api.txt2img(prompt="a red apple", negative_prompt="dog", batch_size=2, **QUICK)
    assert [image.size for image in result.images] == [(SIDE, SIDE)] * 2
    info = result.info
    assert info["all_seeds"] == [7, 8] and info["width"] == SIDE and info["all_prompts"] == ["a red apple"] * 2 and len(info["infotexts"]) == 2, info
    for key in ("prompt negative_prompt all_negative_prompts seed subseed all_subseeds subseed_strength height sampler_name cfg_scale steps batch_size "
                "restore_faces face_restoration_model sd_model_name sd_model_hash sd_vae_name sd_vae_hash seed_resize_from_w seed_resize_from_h "
                "denoising_strength extra_generation_params index_of_first_image styles job_timestamp clip_skip is_using_inpainting_conditioning "
                "version").split():
        assert key in info, key
    assert result.parameters["steps"] == 4 and result.parameters["prompt"] == "a red apple"
    single = api.txt2img(prompt="a red apple", negative_prompt="dog", n_iter=2, **{**QUICK, "seed": 8})
    assert single.images[0].tobytes() == result.images[1].tobytes(), "a picture does not depend on its batch"
    read = api.png_info(result.image)
    assert read.info == info["infotexts"][0]
    for sampler in ("Euler a", "DPM++ 2M Karras", "k_euler"):
        assert api.txt2img(prompt="a", sampler_name=sampler, sampler_index=sampler, **QUICK).image.size == (SIDE, SIDE), sampler
    unsent = api.txt2img(prompt="a", send_images=False, **QUICK)
    assert unsent.images == [] and unsent.info["infotexts"], unsent.json


def check_img2img(service):
    api = service.api
    image = api.txt2img(prompt="a red apple", **QUICK).image
    near, far = (api.img2img(images=[image], prompt="a red apple", denoising_strength=strength, **{**QUICK, "steps": 10}) for strength in (0.2, 0.9))
    assert difference(near.image, image) < difference(far.image, image), "denoising_strength says how much is drawn anew"
    assert far.info["denoising_strength"] == 0.9 and "Denoising strength: 0.9" in far.info["infotexts"][0]
    assert far.parameters["init_images"] is None, "pictures are not echoed"
    assert api.img2img(images=[image], include_init_images=True, **QUICK).parameters["init_images"]
    body = {"prompt": "a red apple", "denoising_strength": 0.5, **QUICK}
    as_png, as_webp = (service.draw({**body, "init_images": [base64_file(image, kind, lossless=True)]}, "/sdapi/v1/img2img") for kind in ("PNG", "WEBP"))
    assert picture(as_png["images"][0]).tobytes() == picture(as_webp["images"][0]).tobytes(), "the same pixels in another file"
    moving = base64_file(image, "WEBP", save_all=True, append_images=[image.rotate(90)])
    reply = service.post("/sdapi/v1/img2img", {**body, "init_images": [moving]})
    assert reply.status_code == 422 and "moves" in reply.json()["detail"][0]["msg"], reply.text


def check_masks(service):
    red = Image.new("RGB", (SIDE, SIDE), (200, 30, 30))
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    margin = 16
    for invert in (0, 1):
        result = service.api.img2img(images=[red], mask_image=mask, inpainting_mask_invert=invert, prompt="a green field", denoising_strength=0.95, **QUICK)
        sides = [result.image.crop(box) for box in ((0, 0, SIDE // 2 - margin, SIDE), (SIDE // 2 + margin, 0, SIDE, SIDE))]
        painted, kept = (difference(side, red.crop((0, 0, *side.size))) for side in (sides if invert == 0 else sides[::-1]))
        assert kept < 20 < painted, f"inverted {invert}: kept {kept}, painted {painted}"
        assert result.parameters["mask"] is None


def check_progress(service):
    api = service.api
    assert is_idle(api)
    drawing = Background(api.txt2img, prompt="a", **{**QUICK, "steps": 60})
    first = wait_until("progress", lambda: sampling(api))
    assert 0 < first["progress"] <= 1 and first["eta_relative"] >= 0 and first["state"]["job_count"] == 1, first
    assert first["state"]["sampling_steps"] == 60 and first["state"]["job"] and re.fullmatch(r"\d{14}", first["state"]["job_timestamp"]), first["state"]
    shown = wait_until("a preview", lambda: api.get_progress()["current_image"])
    assert picture(shown).width >= SIDE // 8
    hidden = service.get("/sdapi/v1/progress?skip_current_image=true").json()
    assert hidden["current_image"] is None and hidden["progress"] >= first["progress"]
    assert drawing.result().image.size == (SIDE, SIDE)
    wait_until("idle", lambda: is_idle(api))


def check_interrupt(service):
    api = service.api
    drawing = Background(api.txt2img, prompt="a", **LONG)
    wait_until("progress", lambda: sampling(api))
    assert api.interrupt() == {}
    result = drawing.result()
    assert len(result.images) < 4 and result.info["seed"] == 7, "what was drawn so far, in the same form"
    assert len(result.info["infotexts"]) == len(result.images)
    wait_until("idle", lambda: is_idle(api))
    assert api.interrupt() == {}, "nothing to stop is no error"


def check_skip(service):
    """A picture that is skipped is left out; the others come as they would have."""
    api = service.api
    two = {**QUICK, "steps": 30, "n_iter": 2}
    drawing = Background(api.txt2img, prompt="a", **two)
    wait_until("progress", lambda: sampling(api))
    assert api.skip() is None
    result = drawing.result()
    assert len(result.images) == 1 == len(result.info["infotexts"]) and result.info["all_seeds"] in ([7], [8]), result.info
    alone = api.txt2img(prompt="a", **{**two, "n_iter": 1, "seed": result.info["all_seeds"][0]})
    assert alone.image.tobytes() == result.image.tobytes(), "the others are drawn as without it"
    drawing = Background(api.txt2img, prompt="a", **LONG)
    wait_until("progress", lambda: sampling(api))
    for _ in range(LONG["batch_size"]):
        api.skip()
    result = drawing.result()
    assert result.images == [] == result.info["all_seeds"] and result.info["seed"] == 7, "a job without any picture left ends"
    wait_until("idle", lambda: is_idle(api))
    assert api.skip() is None, "nothing to skip is no error"


def check_tasks(service):
    """A client that names its task sees that one alone."""
    name = f"task(test-{random.randrange(10 ** 9)})"

    def ask(seen=-1, task=name):
        return service.post("/internal/progress", {"id_task": task, "id_live_preview": seen, "live_preview": True}).json()
    drawing = Background(service.draw, {"prompt": "a", **QUICK, "steps": 60, "force_task_id": name})
    active = wait_until("the task", lambda: (lambda state: state if state["active"] and state["progress"] > .05 else None)(ask()))
    assert not active["completed"] and active["eta"] >= 0, active
    shown = wait_until("its preview", lambda: (lambda state: state if state["live_preview"] else None)(ask()))
    assert shown["live_preview"].startswith("data:image/jpeg;base64,") and picture(shown["live_preview"].split(",")[1])
    assert shown["id_live_preview"] >= 0
    assert ask(task="task(nobodys)") ["active"] is False
    drawing.result()
    done = wait_until("its end", lambda: (lambda state: state if state["completed"] else None)(ask()))
    assert not done["active"] and not done["queued"], done
    assert service.get("/internal/pending-tasks").json() == {"size": 0, "tasks": []}


def expect_error(call, status, text):
    try:
        call()
    except RuntimeError as error:
        assert error.args[0] == status and text in json.dumps(json.loads(error.args[1])["detail"]), error
    else:
        raise AssertionError(f"{status} expected")


def check_extras(service):
    """Pictures are enlarged as Pillow enlarges them, and what only a model could do is refused."""
    api = service.api
    image = Image.linear_gradient("L").resize((48, 32)).convert("RGB")
    assert {"None", "Lanczos", "Nearest"} == {each["name"] for each in api.get_upscalers()}
    for name, resample in (("Lanczos", Image.Resampling.LANCZOS), ("Nearest", Image.Resampling.NEAREST)):
        result = api.extra_single_image(image, upscaler_1=name, upscaling_resize=2)
        assert result.image.size == (96, 64) and name in service.draw({"image": base64_file(image, "PNG"), "upscaler_1": name},
                                                                     "/sdapi/v1/extra-single-image")["html_info"]
        assert difference(result.image, image.resize((96, 64), resample)) < 0.1, name
    fitted = api.extra_single_image(image, upscaler_1="Lanczos", resize_mode=1, upscaling_resize_w=64, upscaling_resize_h=64, upscaling_crop=True)
    covered = image.resize((96, 64), Image.Resampling.LANCZOS).crop((16, 0, 80, 64))
    assert fitted.image.size == (64, 64) and difference(fitted.image, covered) < 0.1
    assert api.extra_single_image(image).image.tobytes() == image.tobytes(), "no upscaler is named: as it was"
    both = api.extra_batch_images([image, image.rotate(180)], upscaler_1="Lanczos", upscaling_resize=1.5)
    assert [each.size for each in both.images] == [(72, 48)] * 2
    drawn = service.draw({"prompt": "a red apple", **QUICK})
    larger = service.draw({"image": drawn["images"][0], "upscaler_1": "Lanczos"}, "/sdapi/v1/extra-single-image")
    assert picture(larger["image"]).text["parameters"] == json.loads(drawn["info"])["infotexts"][0], "it keeps its parameters"
    expect_error(lambda: api.extra_single_image(image, upscaler_1="R-ESRGAN 4x+"), 422, "no such upscaler")
    expect_error(lambda: api.extra_single_image(image, gfpgan_visibility=1), 422, "gfpgan_visibility")
    expect_error(lambda: api.extra_single_image(Image.new("RGB", (1024, 1024)), upscaler_1="Lanczos", upscaling_resize=8), 422, "8192 x 8192")
    expect_error(lambda: api.extra_batch_images([Image.new("RGB", (1024, 1024))] * 5, upscaler_1="Lanczos"), 422, "in all")
    for text in ("!!!", base64.b64encode(b"hello").decode(), base64_file(image, "PNG")[:64]):
        reply = service.post("/sdapi/v1/extra-single-image", {"image": text, "upscaler_1": "Lanczos"})
        assert reply.status_code == 422 and reply.json()["detail"][0]["loc"][-1] == "image", reply.text
    expect_error(lambda: api.interrogate(image), 501, "describes pictures")


# --- Other clients' requests ---

def check_sillytavern(service):
    """Lists, a change of model with polls, a picture with settings of its own, a stop."""
    options = service.get("/sdapi/v1/options").json()
    for name in ("samplers", "schedulers", "upscalers", "latent-upscale-modes", "sd-vae", "sd-models"):
        assert isinstance(service.get(f"/sdapi/v1/{name}").json(), list), name
    assert all("name" in each for each in service.get("/sdapi/v1/schedulers").json()), "the list of schedulers is made of names"
    assert service.post("/sdapi/v1/options", {"sd_model_checkpoint": options["sd_model_checkpoint"]}).status_code == 200
    state = service.get("/sdapi/v1/progress").json()
    assert state["progress"] == 0.0 and state["state"]["job_count"] == 0, state
    answer = service.draw({"prompt": "a", "negative_prompt": "b", "sampler_name": "Euler", "scheduler": "Normal", "steps": 4, "cfg_scale": 7.0, "width": SIDE,
                           "height": SIDE, "seed": None, "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 1.0,
                           "hr_additional_steps": 0, "denoising_strength": 0.7, "clip_skip": 2, "save_images": True, "send_images": True,
                           "do_not_save_grid": False, "do_not_save_samples": False, "override_settings_restore_afterwards": True,
                           "override_settings": {"CLIP_stop_at_last_layers": 2, "sd_vae": "Automatic"}})
    assert picture(answer["images"][0]).size == (SIDE, SIDE)
    assert service.post("/sdapi/v1/interrupt").json() == {}
    drawing = Background(service.draw, {"prompt": "a", **LONG})
    wait_until("progress", lambda: sampling(service.api))
    service.post("/sdapi/v1/interrupt")
    drawing.result()


def check_open_webui(service):
    """Reads all settings, sends them back whole with its model, draws."""
    options = service.get("/sdapi/v1/options").json()
    models = service.get("/sdapi/v1/sd-models").json()
    assert models[0]["title"] and models[0]["model_name"]
    reply = service.post("/sdapi/v1/options", {**options, "sd_model_checkpoint": models[0]["title"]})
    assert reply.status_code == 200 and service.get("/sdapi/v1/options").json() == options
    answer = service.draw({"prompt": "a red apple", "batch_size": 1, "width": SIDE, "height": SIDE, "steps": 4, "negative_prompt": "dog"})
    assert picture(answer["images"][0]).size == (SIDE, SIDE) and json.loads(answer["info"])["negative_prompt"] == "dog"


def check_librechat(service):
    answer = service.draw({"prompt": "a red apple", "negative_prompt": "dog", "cfg_scale": 4.5, "steps": 4, "width": SIDE, "height": SIDE})
    info = json.loads(answer["info"])
    assert picture(answer["images"][0]) and isinstance(info["infotexts"][0], str)
    assert isinstance(info["seed"], int) and (info["width"], info["height"]) == (SIDE, SIDE)


def check_aiya(service):
    """A probe of what kind of server it is, then a round of lists; none of them may be an error of the server's."""
    assert service.session.head(service.url + "/").status_code == 200
    assert requests.head(service.url + "/", timeout=60).status_code == 200
    assert requests.get(service.url + "/sdapi/v1/cmd-flags", timeout=60).status_code == (200 if service.is_open else 401)
    assert service.get("/sdapi/v1/version").status_code == 404, "it would be taken for SD.Next"
    assert service.get("/config").status_code < 500
    assert service.session.post(service.url + "/login", data={"username": "a", "password": "b"}, timeout=60).status_code < 500
    assert isinstance(service.get("/sdapi/v1/embeddings").json()["loaded"], dict)
    assert service.get("/sdapi/v1/progress").json()["state"]["job"] == ""


def check_text_generation_webui(service):
    """Numbers as texts, an empty text as body."""
    for name in ("unload-checkpoint", "reload-checkpoint"):
        reply = service.session.post(f"{service.url}/sdapi/v1/{name}", json="", timeout=60)
        assert reply.status_code == 200 and reply.json() is None, (name, reply.text)
    answer = service.draw({"prompt": "a", "seed": -1, "sampler_name": "Euler", "enable_hr": False, "hr_scale": "1.0", "hr_upscaler": "Latent",
                           "denoising_strength": 0.5, "steps": 4, "cfg_scale": 7, "width": SIDE, "height": "128", "restore_faces": False,
                           "override_settings_restore_afterwards": True, "negative_prompt": ""})
    assert picture(answer["images"][0]).size == (SIDE, SIDE)


def check_auto_photoshop(service):
    assert isinstance(service.get("/sdapi/v1/scripts").json()["txt2img"], list)
    assert service.get("/sdapi/v1/progress?skip_current_image=false").status_code == 200
    image = base64_png(Image.new("RGB", (SIDE, SIDE), (90, 90, 200)))
    answer = service.draw({"prompt": "a", "init_images": ["data:image/png;base64," + image], "denoising_strength": "0.5", "resize_mode": 0, **QUICK},
                          "/sdapi/v1/img2img")
    assert isinstance(service.draw({"image": answer["images"][0]}, "/sdapi/v1/png-info")["info"], str)


# --- Errors ---

def check_errors(service):
    def post(path, body):
        reply = service.post(f"/sdapi/v1/{path}", body)
        return reply.status_code, reply.json()
    image = base64_png(Image.new("RGB", (SIDE, SIDE)))
    assert post("txt2img", {"prompt": "a", "sampler_name": "Nobody's"}) == (404, {"detail": "Sampler not found"})
    assert post("img2img", {"prompt": "a"}) == (404, {"detail": "Init image not found"})
    assert post("txt2img", {"prompt": "a", "script_name": "x/y plot"}) == (422, {"detail": "Script 'x/y plot' not found"})
    assert service.get("/sdapi/v1/nowhere").json() == {"detail": "Not Found"}
    for path, body, field in (("img2img", {"init_images": ["!!!"]}, "init_images"), ("img2img", {"init_images": ["http://127.0.0.1/a.png"]}, "init_images"),
                              ("img2img", {"init_images": [image, image]}, "init_images"), ("img2img", {"init_images": [image], "mask": "!!!"}, "mask"),
                              ("txt2img", {"steps": "many"}, "steps"), ("txt2img", {"steps": 100000}, "steps"), ("txt2img", {"width": 100000}, "width"),
                              ("txt2img", {"width": -5}, "width"), ("txt2img", {"batch_size": 0}, "batch_size"), ("txt2img", {"cfg_scale": "x"}, "cfg_scale"),
                              ("txt2img", {"n_iter": 1000}, "n_iter"), ("txt2img", {"prompt": 5}, "prompt"), ("png-info", {"image": "!!!"}, "image")):
        status, answer = post(path, {"prompt": "a", **body})
        assert status == 422 and [each["loc"][-1] for each in answer["detail"]] == [field] and answer["detail"][0]["msg"], (path, body, status, answer)
    reply = service.session.post(service.url + "/sdapi/v1/txt2img", data="{", headers={"Content-Type": "application/json"}, timeout=60)
    assert 400 <= reply.status_code < 500 and reply.json()["detail"], reply.text


def check_access(service):
    if service.is_open:
        for header in (None, "", "Basic", "Basic ", "Basic Og==", "Bearer ", "Basic bmFtZTpwYXNz"):
            reply = requests.get(service.url + "/sdapi/v1/options", headers={"Authorization": header}, timeout=60)
            assert reply.status_code == 200, f"what clients send who have no password: {header!r}: {reply.text}"
        return
    for credentials in (None, ("nobody", "wrong"), ("", "sd35_wrong")):
        reply = requests.get(service.url + "/sdapi/v1/options", auth=credentials, timeout=60)
        assert reply.status_code == 401 and reply.json() == {"detail": "Incorrect username or password"}, (credentials, reply.text)
        assert reply.headers["WWW-Authenticate"].startswith("Basic "), reply.headers
    assert requests.get(service.url + "/internal/ping", timeout=60).json() == {}
    assert requests.get(service.url + "/internal/pending-tasks", timeout=60).status_code == 401


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", help="none, and no user: the server lets everybody in")
    parser.add_argument("--user", metavar="USER:PASSWORD")
    parser.add_argument("checks", nargs="*")
    arguments = parser.parse_args()
    service = Service(arguments.url, arguments.key, arguments.user)
    checks = {name[len("check_"):]: check for name, check in globals().items() if name.startswith("check_")}
    wait_until("the model's hash, after which its title stays", lambda: service.get("/sdapi/v1/sd-models").json()[0]["sha256"])
    for name in arguments.checks or checks:
        started = time.monotonic()
        checks[name](service)
        print(f"ok {name} ({time.monotonic() - started:.1f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
