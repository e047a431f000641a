#!/usr/bin/env python3
"""The server as the `openai` package from PyPI sees it.

usage: clients_openai.py BASE_URL [KEY]      BASE_URL: http://127.0.0.1:7860
Needs openai and pillow. Draws small pictures with few steps. Exit status: 0 when all is well.
"""
import base64
import io
import sys
import urllib.request
import uuid

import openai
from PIL import Image

SIDE = 128
SIZE = f"{SIDE}x{SIDE}"
QUICK = {"steps": 4, "seed": 7}


def picture(text):
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.load()
    return image


def png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def check_models(client):
    models = client.models.list().data
    assert models and models[0].object == "model", models
    assert client.models.retrieve(models[0].id).id == models[0].id
    expect(openai.NotFoundError, "model_not_found", client.models.retrieve, "nobodys-model")


def check_generations(client):
    answer = client.images.generate(model="gpt-image-1", prompt="a red apple", n=2, size=SIZE, extra_body=QUICK)
    assert len(answer.data) == 2 and answer.size == SIZE and answer.output_format == "png", answer
    assert [item.seed for item in answer.data] == [7, 8], "seeds count up"
    assert all(picture(item.b64_json).size == (SIDE, SIDE) for item in answer.data)
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    again = client.images.generate(prompt="a red apple", size=SIZE, extra_body=QUICK)
    assert again.data[0].b64_json == answer.data[0].b64_json, "a picture does not depend on its batch"


def check_formats(client):
    for name, wanted in (("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")):
        answer = client.images.generate(prompt="a", size=f"{SIDE}x{SIDE // 2}", output_format=name, extra_body=QUICK)
        image = picture(answer.data[0].b64_json)
        assert image.format == wanted and image.size == (SIDE, SIDE // 2), (name, image)


def check_url(client):
    answer = client.images.generate(prompt="a", size=SIZE, response_format="url", extra_body=QUICK)
    with urllib.request.urlopen(answer.data[0].url) as reply:
        assert Image.open(io.BytesIO(reply.read())).size == (SIDE, SIDE)


def check_stream(client):
    extras = {"steps": 12, "seed": 1}
    events = list(client.images.generate(prompt="a", size=SIZE, stream=True, partial_images=2, extra_body=extras))
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_generation.completed", kinds
    assert set(kinds[:-1]) <= {"image_generation.partial_image"} and len(kinds) <= 3, kinds
    for index, event in enumerate(events[:-1]):
        assert event.partial_image_index == index and event.output_format == "jpeg"
        assert picture(event.b64_json).format == "JPEG"
    assert picture(events[-1].b64_json).size == (SIDE, SIDE) and events[-1].usage.total_tokens > 0


def check_edits(client):
    image = Image.new("RGB", (SIDE, SIDE), (200, 30, 30))
    mask = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, SIDE // 2, SIDE))
    answer = client.images.edit(image=("a.png", png(image), "image/png"), mask=("m.png", png(mask), "image/png"),
                                prompt="a green field", size=SIZE, extra_body={**QUICK, "strength": 0.9})
    edited = picture(answer.data[0].b64_json).convert("RGB")
    kept = edited.getpixel((SIDE - 8, SIDE // 2))
    assert sum(abs(a - b) for a, b in zip(kept, (200, 30, 30))) < 60, f"outside the mask nothing changes: {kept}"
    assert answer.usage.input_tokens_details.image_tokens > 0


def expect(kind, code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind as error:
        assert error.code == code, (error.code, code)
        return error
    raise AssertionError(f"{kind.__name__} expected")


def check_errors(client, base):
    draw = client.images.generate
    assert expect(openai.BadRequestError, "invalid_value", draw, prompt="a", n=11).param == "n"
    assert expect(openai.BadRequestError, "invalid_value", draw, prompt="a", size="100x100").param == "size"
    assert expect(openai.BadRequestError, "invalid_value", draw, prompt="a", background="transparent").request_id
    expect(openai.NotFoundError, "model_not_found", draw, prompt="a", model="nobodys-model")
    if client.api_key != "none":
        stranger = openai.OpenAI(base_url=base + "/v1", api_key="sd35_wrong", max_retries=0)
        expect(openai.AuthenticationError, "invalid_api_key", stranger.images.generate, prompt="a")


def check_extras(client):
    reply = client.images.with_raw_response.generate(prompt="a", size=SIZE, user="u", style="vivid", extra_body=QUICK)
    assert "style" in reply.headers["x-ignored-parameters"]
    keys = {"Idempotency-Key": uuid.uuid4().hex}
    first, second = (client.images.generate(prompt="a", size=SIZE, extra_headers=keys, extra_body={"steps": 4})
                     for _ in range(2))
    assert first.data[0].seed == second.data[0].seed, "the same key is the same job"


def main():
    base = sys.argv[1].rstrip("/")
    client = openai.OpenAI(base_url=base + "/v1", api_key=sys.argv[2] if len(sys.argv) > 2 else "none", max_retries=0)
    for check in (check_models, check_generations, check_formats, check_url, check_stream, check_edits, check_extras):
        check(client)
        print("ok", check.__name__)
    check_errors(client, base)
    print("ok check_errors")


if __name__ == "__main__":
    main()
