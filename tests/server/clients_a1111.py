#!/usr/bin/env python3
"""The server as the `webuiapi` package from PyPI sees it.

usage: clients_a1111.py BASE_URL [USER PASSWORD]      BASE_URL: http://127.0.0.1:7860
Needs webuiapi and pillow. Draws small pictures with few steps. Exit status: 0 when all is well.
"""
import json
import sys
import threading
import time

import webuiapi
from PIL import Image

SIDE = 128
QUICK = {"width": SIDE, "height": SIDE, "steps": 4, "cfg_scale": 4, "seed": 7}


def check_lists(api):
    for ask in (api.get_samplers, api.get_schedulers, api.get_sd_models, api.get_sd_vae, api.get_upscalers,
                api.get_latent_upscale_modes, api.get_loras, api.get_hypernetworks, api.get_face_restorers,
                api.get_realesrgan_models, api.get_prompt_styles):
        assert isinstance(ask(), list), ask.__name__
    assert isinstance(api.get_scripts()["txt2img"], list)
    assert isinstance(api.get_embeddings()["loaded"], dict)
    assert api.get_memory()["ram"]["total"] > 0
    assert not api.get_cmd_flags()["api_auth"]
    assert "Euler" in api.util_get_sampler_names()
    assert api.refresh_checkpoints() is None


def check_options(api):
    options = api.get_options()
    assert options["sd_model_checkpoint"] in api.util_get_model_names()
    options["something_of_theirs"] = 1
    api.set_options(options)
    api.set_options({"samples_format": "png"})
    assert api.get_options()["samples_format"] == "png"
    api.util_set_model(api.util_get_current_model())


def check_txt2img(api):
    result = api.txt2img(prompt="a red apple", negative_prompt="dog", batch_size=2, **QUICK)
    assert [image.size for image in result.images] == [(SIDE, SIDE)] * 2
    assert result.info["all_seeds"] == [7, 8] and result.info["width"] == SIDE
    assert result.parameters["steps"] == 4
    info = api.png_info(result.image)
    assert info.info == result.info["infotexts"][0], (info.info, result.info["infotexts"][0])
    assert "Steps: 4, Sampler: Euler" in info.info and "Negative prompt: dog" in info.info
    return result.image


def check_img2img(api, image):
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    for invert in (0, 1):
        result = api.img2img(images=[image], mask_image=mask, inpainting_mask_invert=invert, prompt="a green field",
                             denoising_strength=0.9, **QUICK)
        at = SIDE - 8 if invert == 0 else 8
        before, after = (each.convert("RGB").getpixel((at, SIDE // 2)) for each in (image, result.image))
        assert sum(abs(a - b) for a, b in zip(before, after)) < 60, "outside the mask nothing changes"
        assert result.info["denoising_strength"] == 0.9


def check_interrupt(api):
    results = []
    long = {**QUICK, "steps": 400}
    thread = threading.Thread(target=lambda: results.append(api.txt2img(prompt="a", **long)))
    thread.start()
    until = time.monotonic() + 60
    while api.get_progress()["state"]["sampling_step"] < 2:
        assert time.monotonic() < until, "the job never starts"
        time.sleep(0.05)
    progress = api.get_progress()
    assert 0 < progress["progress"] <= 1 and progress["state"]["job_count"] >= 1
    assert api.interrupt() == {}
    thread.join(60)
    assert results and not results[0].images and results[0].info["seed"] == 7
    idle = api.get_progress()
    assert idle["progress"] == 0 and idle["state"]["job_count"] == 0
    assert api.skip() is None


def check_errors(base, session):
    def post(path, body):
        reply = session.post(f"{base}/sdapi/v1/{path}", json=body)
        return reply.status_code, reply.json()

    assert post("txt2img", {"prompt": "a", "sampler_name": "Nobody's"})[1]["detail"] == "Sampler not found"
    assert post("img2img", {"prompt": "a"})[0] == 404
    assert post("img2img", {"prompt": "a", "init_images": ["!!!"]})[0] == 422
    status, body = post("txt2img", {"prompt": "a", "steps": "many"})
    assert status == 422 and body["detail"][0]["loc"][-1] == "steps", body
    assert post("extra-single-image", {"image": ""})[0] == 422
    assert post("interrogate", {"image": ""})[0] == 501
    assert post("nowhere", {})[0] == 404
    assert session.get(base + "/internal/ping").json() == {}
    assert session.get(base + "/internal/pending-tasks").json()["size"] == 0
    assert session.head(base + "/").status_code == 200
    assert session.post(base + "/login", data={"username": "a"}).status_code < 500
    status, body = post("txt2img", {"prompt": "a", "steps": "4", "width": "128", "height": 128, "seed": None,
                                    "hr_scale": "1.0", "script_name": None, "alwayson_scripts": {}})
    assert status == 200 and isinstance(json.loads(body["info"])["infotexts"][0], str)


def main():
    base = sys.argv[1].rstrip("/")
    api = webuiapi.WebUIApi(baseurl=base + "/sdapi/v1")
    if len(sys.argv) > 3:
        api.set_auth(sys.argv[2], sys.argv[3])
    api.util_wait_for_ready()
    check_lists(api)
    check_options(api)
    check_img2img(api, check_txt2img(api))
    check_interrupt(api)
    check_errors(base, api.session)
    print("ok")


if __name__ == "__main__":
    main()
