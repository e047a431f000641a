#!/usr/bin/env python3
"""The server as the `openai` package from PyPI sees it.

usage: clients_openai.py --url http://127.0.0.1:7860 --key KEY [CHECK ...]

Needs openai and pillow. Draws small pictures with few steps. CHECKs are names of functions without check_. Exit status: 0 when all is well.
"""
import argparse
import asyncio
import base64
import http.client
import io
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import warnings

import openai
from PIL import Image, ImageChops, ImageStat

from flaky_proxy import FlakyProxy

SIDE = 128
SIZE = f"{SIDE}x{SIDE}"
QUICK = {"steps": 4, "seed": 7}
SLOW = {"steps": 48, "seed": 7}  # long enough for three previews, of which there are four a second at most
STATES = ("queued", "running", "done", "failed", "cancelled")
RED = (200, 30, 30)


class Service:
    """The server's address and key, and clients of it."""

    def __init__(self, url, key):
        self.url, self.key = url.rstrip("/"), key
        self.client = self.of_key(key)

    def of_key(self, key, url=None, **more):
        return openai.OpenAI(base_url=(url or self.url) + "/v1", api_key=key, **{"max_retries": 0, **more})

    def native(self, method, path, body=None):
        request = urllib.request.Request(self.url + path, method=method, data=None if body is None else json.dumps(body).encode(),
                                         headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    def jobs(self, states=("queued", "running")):
        return [job for job in self.native("GET", "/api/v1/jobs?limit=100")["jobs"] if job["state"] in states]

    def raw(self, path, body):
        """A connection on which the request was sent, for a look at the answer's bytes."""
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc, timeout=120)
        connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"})
        return connection


def picture(text):
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def difference(a, b):
    """The mean difference of two pictures, 0 to 255."""
    a, b = a.convert("RGB"), b.convert("RGB")
    return sum(ImageStat.Stat(ImageChops.difference(a.resize(b.size), b)).mean) / 3


def wait_until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def expect(kind, code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind as error:
        assert type(error) is kind, (type(error), error)
        assert error.code == code, (error.code, code, error)
        assert error.request_id, "an error can be found in the log"
        assert error.body["message"] and error.body["type"], error.body
        return error
    raise AssertionError(f"{kind.__name__} expected")


# --- Models and pictures ---

def check_models(service):
    client = service.client
    models = client.models.list().data
    assert len(models) == 1 and models[0].object == "model" and models[0].created > 0 and models[0].owned_by, models
    assert client.models.retrieve(models[0].id) == models[0]
    expect(openai.NotFoundError, "model_not_found", client.models.retrieve, "nobodys-model")


def check_generations(service):
    draw = service.client.images.generate
    before = time.time()
    answer = draw(model="gpt-image-1", prompt="a red apple", n=2, size=SIZE, extra_body=QUICK)
    assert len(answer.data) == 2 and answer.size == SIZE and answer.output_format == "png" and answer.background == "opaque", answer
    assert before - 2 <= answer.created <= time.time() + 2, answer.created
    assert [item.seed for item in answer.data] == [7, 8], "seeds count up"
    assert all(picture(item.b64_json).size == (SIDE, SIDE) for item in answer.data)
    assert answer.data[0].b64_json != answer.data[1].b64_json
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens and usage.output_tokens == 2 * (SIDE // 16) ** 2, usage
    assert usage.input_tokens_details.text_tokens > 0 and usage.input_tokens_details.image_tokens == 0
    again = draw(prompt="a red apple", size=SIZE, extra_body=QUICK)
    assert again.data[0].b64_json == answer.data[0].b64_json, "a picture does not depend on its batch"
    other = draw(prompt="a red apple", size=SIZE, extra_body={**QUICK, "guidance_scale": 9, "negative_prompt": "green"})
    assert other.data[0].b64_json != again.data[0].b64_json


def check_sizes(service):
    draw = service.client.images.generate
    for size in ("64x64", "192x128", "64x160"):
        answer = draw(prompt="a", size=size, extra_body=QUICK)
        assert answer.size == size and "%dx%d" % picture(answer.data[0].b64_json).size == size, (size, answer.size)
    named = draw(prompt="a", size="auto", extra_body={"steps": 1})
    unnamed = draw(prompt="a", extra_body={"steps": 1})
    assert named.size == unnamed.size == "%dx%d" % picture(named.data[0].b64_json).size, (named.size, unnamed.size)


def check_quality(service):
    for asked, echoed in (("low", "low"), ("standard", "medium"), ("hd", "high")):
        answer = service.client.images.generate(prompt="a", size="64x64", quality=asked)
        assert answer.quality == echoed, (asked, answer.quality)


def check_formats(service):
    draw = service.client.images.generate
    for name, wanted in (("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")):
        answer = draw(prompt="a", size=f"{SIDE}x{SIDE // 2}", output_format=name, extra_body=QUICK)
        image = picture(answer.data[0].b64_json)
        assert image.format == wanted and image.size == (SIDE, SIDE // 2) and answer.output_format == name, (name, image)
    for name in ("jpeg", "webp"):
        sizes = [len(draw(prompt="a", size=SIZE, output_format=name, output_compression=level, extra_body=QUICK).data[0].b64_json)
                 for level in (0, 50, 100)]
        assert sizes[0] < sizes[1] < sizes[2], (name, sizes)


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def check_url(service):
    """Links work without a key, and for nothing but what they were signed for."""
    draw = service.client.images.generate
    whole = draw(prompt="a", size=SIZE, n=2, extra_body=QUICK)
    answer = draw(prompt="a", size=SIZE, n=2, response_format="url", output_format="png", extra_body=QUICK)
    links = [item.url for item in answer.data]
    assert not any(item.b64_json for item in answer.data)
    for link, item in zip(links, whole.data):
        assert link.startswith(service.url + "/"), link
        with urllib.request.urlopen(link, timeout=60) as reply:
            assert reply.headers["Content-Type"] == "image/png"
            image = Image.open(io.BytesIO(reply.read()))
        assert image.convert("RGB").tobytes() == picture(item.b64_json).convert("RGB").tobytes()
    first, second = (urllib.parse.urlsplit(link) for link in links)
    for wrong in (links[0].split("?")[0], links[0][:-1] + ("A" if links[0][-1] != "A" else "B"), first._replace(path=second.path).geturl(),
                  links[0].replace("expires=", "expires=9")):
        assert status_of(wrong) in (401, 403), (wrong, status_of(wrong))


def check_extras(service):
    raw = service.client.images.with_raw_response.generate(prompt="a", size=SIZE, user="u", style="vivid", moderation="low", background="opaque",
                                                           extra_body=QUICK)
    assert raw.headers["x-ignored-parameters"] and "style" in raw.headers["x-ignored-parameters"], raw.headers
    assert raw.headers["x-request-id"] and raw.parse()._request_id == raw.headers["x-request-id"]
    nulls = service.raw("/v1/images/generations", {"prompt": "a", "model": None, "n": None, "size": SIZE, "quality": None, "stream": None,
                                                   "response_format": None, "negative_prompt": None, "seed": None, "steps": 2})
    assert nulls.getresponse().status == 200, "nulls count as left out"


# --- Streams ---

def take_stream(events, kind, partials, format_="png"):
    """Checks the events of one picture; the final one."""
    events = list(events)
    assert [event.type for event in events] == [f"{kind}.partial_image"] * partials + [f"{kind}.completed"], [event.type for event in events]
    for index, event in enumerate(events[:-1]):
        assert event.partial_image_index == index and event.output_format == "jpeg"
        assert picture(event.b64_json).format == "JPEG"
    for event in events:
        assert event.size == SIZE and event.background == "opaque" and event.quality == "medium" and event.created_at > 0, event
    last = events[-1]
    assert picture(last.b64_json).size == (SIDE, SIDE) and last.output_format == format_
    assert last.usage.total_tokens == last.usage.input_tokens + last.usage.output_tokens > 0
    return events


def check_stream(service):
    draw = service.client.images.generate
    for partials in (0, 1, 3):
        events = take_stream(draw(prompt="a red apple", size=SIZE, stream=True, partial_images=partials, extra_body=SLOW), "image_generation", partials)
        final = picture(events[-1].b64_json)
        previews = [picture(event.b64_json) for event in events[:-1]]
        far = [difference(preview, final) for preview in previews]
        assert far == sorted(far, reverse=True) and all(each < 60 for each in far), f"previews are of this picture, and get nearer: {far}"
    whole = draw(prompt="a red apple", size=SIZE, extra_body=SLOW)
    assert whole.data[0].b64_json == events[-1].b64_json, "streaming changes nothing in a picture"


def check_stream_of_several(service):
    events = list(service.client.images.generate(prompt="a", n=2, size=SIZE, output_format="webp", stream=True, partial_images=1, extra_body=SLOW))
    kinds = [event.type.rsplit(".", 1)[1] for event in events]
    assert kinds == ["partial_image"] * 2 + ["completed"] * 2, "one of each picture"
    assert [event.seed for event in events[-2:]] == [7, 8] and all(picture(event.b64_json).format == "WEBP" for event in events[-2:])


def check_async_stream(service):
    async def read():
        async with openai.AsyncOpenAI(base_url=service.url + "/v1", api_key=service.key, max_retries=0) as client:
            stream = await client.images.generate(prompt="a", size=SIZE, stream=True, partial_images=1, extra_body=SLOW)
            return [event async for event in stream]
    take_stream(asyncio.run(read()), "image_generation", 1)


def check_stream_bytes(service):
    """What is on the wire: events of two fields each, nothing else but comments, chunks without a length."""
    connection = service.raw("/v1/images/generations", {"prompt": "a", "size": SIZE, "stream": True, "partial_images": 2, **SLOW})
    reply = connection.getresponse()
    assert reply.status == 200 and reply.headers["Content-Type"].split(";")[0] == "text/event-stream", reply.headers
    assert reply.headers["Content-Length"] is None and "no-" in reply.headers["Cache-Control"], reply.headers
    assert reply.headers["X-Accel-Buffering"] == "no", "nginx must not keep events back"
    blocks = [block for block in reply.read().decode().split("\n\n") if block and not block.startswith(":")]
    for block, kind in zip(blocks, ["image_generation.partial_image"] * 2 + ["image_generation.completed"], strict=True):
        event, data = block.split("\n")
        assert event == f"event: {kind}" and data.startswith("data: "), block[:200]
        assert json.loads(data[6:])["type"] == kind
    connection.close()


def check_beats(service):
    """A stream that has nothing to say for long says so, which keeps proxies from closing it."""
    waiting = [service.raw("/v1/images/generations", {"prompt": "a", "size": SIZE, "stream": True, "steps": 100, "n": 2}) for _ in range(2)]
    reply = waiting[1].getresponse()
    line = reply.readline()
    assert line.startswith(b":"), line
    reply.close()
    for connection in waiting:
        connection.close()
    wait_until("jobs of closed streams are cancelled", lambda: not service.jobs())


def check_stream_errors(service):
    """A job that ends badly while its stream is open is the stream's last event, which the package raises."""
    stream = service.client.images.generate(prompt="a", size=SIZE, stream=True, partial_images=1, extra_body={"steps": 100})
    job = wait_until("the stream's job", service.jobs)[0]
    service.native("POST", f"/api/v1/jobs/{job['id']}/cancel", {})
    try:
        for _ in stream:
            pass
    except openai.APIError as error:
        assert error.code == "cancelled", error
    else:
        raise AssertionError("a cancelled job's stream ended well")


def check_disconnects(service):
    """A client that is gone wants no picture."""
    stream = service.client.images.generate(prompt="a", size=SIZE, stream=True, partial_images=1, extra_body={"steps": 100})
    wait_until("the stream's job", service.jobs)
    stream.close()
    wait_until("the stream's job is cancelled", lambda: not service.jobs())
    connection = service.raw("/v1/images/generations", {"prompt": "a", "size": SIZE, "steps": 100})
    wait_until("the call's job", service.jobs)
    connection.close()
    wait_until("the call's job is cancelled", lambda: not service.jobs())


# --- Edits ---

def check_edits(service):
    edit = service.client.images.edit
    image = Image.new("RGB", (SIDE, SIDE), RED)
    common = {"prompt": "a green field", "extra_body": {**QUICK, "strength": 0.9}}
    plain = edit(image=("a.png", png(image), "image/png"), **common)
    assert plain.size == SIZE, "an edit keeps its picture's size"
    assert plain.usage.input_tokens_details.image_tokens == (SIDE // 16) ** 2
    listed = edit(image=[("a.png", png(image), "image/png")], size=SIZE, n=2, response_format="b64_json", **common)
    assert [item.seed for item in listed.data] == [7, 8] and listed.data[0].b64_json == plain.data[0].b64_json
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=95)
    other = edit(image=("a.jpg", jpeg.getvalue(), "image/jpeg"), size="64x128", output_format="jpeg", **common)
    assert other.size == "64x128" and picture(other.data[0].b64_json).size == (64, 128)
    webp = io.BytesIO()
    image.save(webp, "WEBP", lossless=True)
    same = edit(image=("a.webp", webp.getvalue(), "image/webp"), **common)
    assert same.data[0].b64_json == plain.data[0].b64_json, "the same pixels in another file"
    extra = {**SLOW, "strength": 0.9}
    stream = edit(image=("a.png", png(image), "image/png"), prompt="a", stream=True, partial_images=1, extra_body=extra)
    take_stream(stream, "image_edit", 1)


def check_masks(service):
    """Where a mask is transparent is drawn anew, the rest stays."""
    image = Image.new("RGB", (SIDE, SIDE), RED)
    for left in (0, SIDE // 2):
        mask = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 255))
        mask.paste((255, 255, 255, 0), (left, 0, left + SIDE // 2, SIDE))
        answer = service.client.images.edit(image=("a.png", png(image), "image/png"), mask=("m.png", png(mask), "image/png"), prompt="a green field",
                                            size=SIZE, extra_body={**QUICK, "strength": 0.95})
        edited = picture(answer.data[0].b64_json).convert("RGB")
        halves = {x: difference(edited.crop((x, 0, x + SIDE // 2 - 16, SIDE)), image.crop((x, 0, x + SIDE // 2 - 16, SIDE))) for x in (0, SIDE // 2 + 16)}
        painted, kept = (halves[0], halves[SIDE // 2 + 16]) if left == 0 else (halves[SIDE // 2 + 16], halves[0])
        assert kept < 20 < painted, f"mask at {left}: kept {kept}, painted {painted}"


# --- Errors and retries ---

def check_errors(service):
    draw, edit = service.client.images.generate, service.client.images.edit
    image = ("a.png", png(Image.new("RGB", (SIDE, SIDE))), "image/png")
    for wrong, param in (({"n": 11}, "n"), ({"n": 0}, "n"), ({"size": "100x100"}, "size"), ({"size": "1024"}, "size"), ({"size": "99999x16"}, "size"),
                         ({"background": "transparent"}, "background"), ({"output_format": "gif"}, "output_format"), ({"quality": "best"}, "quality"),
                         ({"output_compression": 101}, "output_compression"), ({"stream": True, "partial_images": 4}, "partial_images"),
                         ({"extra_body": {"steps": 0}}, "steps"), ({"extra_body": {"steps": 1e9}}, "steps"), ({"extra_body": {"seed": "x"}}, "seed"),
                         ({"prompt": ""}, "prompt"), ({"prompt": None}, "prompt"), ({"prompt": 5}, "prompt")):
        error = expect(openai.BadRequestError, "invalid_value", draw, **{"prompt": "a", **wrong})
        assert error.param == param, (wrong, error.param)
    for wrong, param in (({"image": ("a.png", b"no picture", "image/png")}, "image"), ({"image": [image, image]}, "image"),
                         ({"mask": ("m.png", b"no picture", "image/png")}, "mask"), ({"size": "17x17"}, "size")):
        error = expect(openai.BadRequestError, "invalid_value", edit, **{"image": image, "prompt": "a", **wrong})
        assert error.param == param, (wrong, error.param)
    expect(openai.NotFoundError, "model_not_found", draw, prompt="a", model="nobodys-model")
    with warnings.catch_warnings(action="ignore"):  # the package calls it outdated
        expect(openai.NotFoundError, "not_found", service.client.images.create_variation, image=image)


def check_access(service):
    for key in ("sd35_wrong", "sk-proj-0123456789"):
        error = expect(openai.AuthenticationError, "invalid_api_key", service.of_key(key).images.generate, prompt="a")
        assert error.response.headers["www-authenticate"].startswith("Bearer"), error.response.headers
    made = service.native("POST", "/api/v1/keys", {"name": "reader", "scopes": ["read"]})
    reader = service.of_key(made["key"])
    assert reader.models.list().data
    error = expect(openai.PermissionDeniedError, "scope_missing", reader.images.generate, prompt="a")
    assert error.type == "permission_error", error.body
    made = service.native("POST", "/api/v1/keys", {"name": "slow", "scopes": ["generate", "read"], "jobs_per_minute": 1})
    slow = service.of_key(made["key"])
    slow.images.generate(prompt="a", size="64x64", extra_body={"steps": 1})
    error = expect(openai.RateLimitError, "rate_limited", slow.images.generate, prompt="a", size="64x64", extra_body={"steps": 1})
    assert 0 < int(error.response.headers["retry-after"]) <= 60 and error.type == "rate_limit_error", (error.response.headers, error.body)


def check_idempotency(service):
    draw = service.client.images.generate
    keys = {"Idempotency-Key": uuid.uuid4().hex}
    first, second = (draw(prompt="a", size=SIZE, extra_headers=keys, extra_body={"steps": 4}) for _ in range(2))
    assert first.data[0].seed == second.data[0].seed and first.data[0].b64_json == second.data[0].b64_json, "the same key is the same job"
    expect(openai.ConflictError, "idempotency_conflict", draw, prompt="b", size=SIZE, extra_headers=keys, extra_body={"steps": 4})


def check_retries(service):
    """The package tries again when a connection breaks; with an Idempotency-Key the job is drawn once all the same."""
    key = uuid.uuid4().hex
    before = {job["id"] for job in service.jobs(STATES)}
    with FlakyProxy(service.url, cut_when=service.jobs) as proxy:
        client = service.of_key(service.key, proxy.url, max_retries=2)
        answer = client.images.generate(prompt="a", size=SIZE, extra_headers={"Idempotency-Key": key}, extra_body={"steps": 24})
    assert proxy.connections == 2, proxy.connections
    new = [job["state"] for job in service.jobs(STATES) if job["id"] not in before]
    assert new == ["done"], new
    assert picture(answer.data[0].b64_json).size == (SIDE, SIDE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("checks", nargs="*")
    arguments = parser.parse_args()
    service = Service(arguments.url, arguments.key)
    checks = {name[len("check_"):]: check for name, check in globals().items() if name.startswith("check_")}
    for name in arguments.checks or checks:
        started = time.monotonic()
        checks[name](service)
        print(f"ok {name} ({time.monotonic() - started:.1f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
