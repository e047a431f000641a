#!/usr/bin/env python3
"""The server on a GPU, from outside: what it draws, tells, survives and takes.

usage: gpu_test.py SD35 [--device cuda] [--model FOLDER] [--big FOLDER] [--logs FOLDER] [--only PART,...]

PARTs: start, draw, streams, company, metrics, kill, modes, short, big. Each prints one line with what it measured; big needs --big, a Large model. The
plugin lies in $SD35_PLUGIN_DIR. Needs Python's standard library and nvidia-smi. With --device cpu, or a plugin that only plays a GPU ($FAKE_GPUS), what
needs a GPU is SKIPPED. Exit status: 0 when no part failed.
"""
import argparse
import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback

import gpu_big
from gpu_machine import PROMPT, WORKER, Machine, Skipped, decoded, draw, pictures, submit
from kill_jobs import Jobs, all_jobs, end, job_of, kill, wait_end, wait_step
from kill_streams import events_of
from operations_test import metrics
from png_pixels import difference, spread
from running import ROOT, is_alive, wait_until

PART_SECONDS = 150
# Levels of 255. Other seeds are 31 levels apart at 256 x 256, and 8-bit weights on the CPU 2.4 from 16-bit ones.
SAME = 3  # how far pictures in 16 bits may be from those in 32
NEAR = 16  # the same for weights and activations in 8


# --- start ---

def log_line(server, part, seconds=30):
    """The first line of the log with it, once it is there."""
    try:
        return wait_until(f"{part!r} in the log", lambda: next((line for line in server.log if part in line), None), seconds)
    except AssertionError as problem:
        raise AssertionError(f"{problem}\n{server.tail()}") from None


def times_of_start(server):
    """Seconds to the first answer and to readiness."""
    began = time.monotonic()
    server.start()
    assert server.get("/health/live").status == 200
    answered = time.monotonic() - began
    server.wait_ready()
    return answered, time.monotonic() - began


def check_facts(machine, server):
    """What the API says of the device, against nvidia-smi."""
    model = server.get("/api/v1/model").json()
    device = wait_until("the device's memory", lambda: server.get("/api/v1/device").json()["device"], 30)
    name = server.get("/api/v1/device").json()["name"]
    assert name == model["device"] and f'device="{name}"' in log_line(server, "worker.ready"), (name, model)
    assert 0 < device["memory_used_bytes"] < device["memory_total_bytes"] and device["memory_free_bytes"] > 0, device
    if machine.is_gpu:
        gpu, total = machine.smi("name", "memory.total")
        assert gpu in name and re.search("FP8|BF16", name), (gpu, name)
        assert abs(device["memory_total_bytes"] / 2 ** 20 - int(total)) < .03 * int(total), (device, total)
    return name, device


def check_finding(machine):
    """`sd35 check` opens the GPU and names it."""
    with tempfile.TemporaryDirectory() as folder:
        done = machine.run("check", "--json", "--model", machine.model, "--port", "0", "--outputs-dir", f"{folder}/out", "--device", machine.device)
    findings = {finding["code"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0, findings
    if machine.is_gpu:
        assert machine.smi("name")[0] in findings["gpu_found"]["found"], findings
    return findings.get("gpu_found", findings.get("gpu_not_asked"))["found"]


def start(machine):
    server = machine.server()
    try:
        first = times_of_start(server)
        name, device = check_facts(machine, server)
        assert server.stop() == 0, server.tail()
        again = times_of_start(server)
    finally:
        server.close()
    return (f"{name}, {device['memory_total_bytes'] >> 20} MiB, {device['memory_used_bytes'] >> 20} MiB ours; first answer after {1e3 * first[0]:.0f} ms, "
            f"ready after {first[1]:.2f} s, and {again[1]:.2f} s the second time; check: {check_finding(machine)}")


# --- draw ---

def openai(server, body):
    answer = server.post("/v1/images/generations", body)
    assert answer.status == 200, (answer.status, answer.body[:300])
    return [base64.b64decode(item["b64_json"]) for item in answer.json()["data"]]


def a1111(server, path, body):
    answer = server.post(f"/sdapi/v1/{path}", body)
    assert answer.status == 200, (answer.status, answer.body[:300])
    return [base64.b64decode(text) for text in answer.json()["images"]]


def openai_stream(machine, server):
    """How many partial pictures came. Previews are made by the clock: of several pictures where one takes no time."""
    long = machine.long(server, 2)
    answer = server.post("/v1/images/generations", {"prompt": PROMPT, "size": f"{long['width']}x{long['height']}", "steps": long["steps"], "seed": 7,
                                                    "n": long["count"], "stream": True, "partial_images": 2})
    assert answer.status == 200, (answer.status, answer.body[:300])
    events = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: {")]
    partial, completed = ([base64.b64decode(event["b64_json"]) for event in events if event["type"] == f"image_generation.{kind}"]
                          for kind in ("partial_image", "completed"))
    assert len(completed) == long["count"] and 1 <= len(partial) == len(events) - len(completed), [event["type"] for event in events]
    assert all(data[:2] == b"\xff\xd8" for data in partial), "partial pictures are JPEGs"
    decoded(completed[0], long["width"])
    return len(partial)


def check_apis(machine, server, native):
    """The same picture by the other two, and one made of it."""
    side, small = machine.side, machine.small()
    common = {"prompt": PROMPT, "seed": small["seed"], "steps": small["steps"]}
    four = openai(server, {**common, "size": f"{side}x{side}", "n": 4})
    assert len(set(four)) == 4, "four seeds, four pictures"
    apis = {"OpenAI": four[0], "AUTOMATIC1111": a1111(server, "txt2img", {**common, "width": side, "height": side, "cfg_scale": 5})[0]}
    for api, data in apis.items():
        far = difference(decoded(data, side), native)
        assert far == 0, f"the picture of {api}'s API is {far:.2f} levels from the native one's"
    changed = a1111(server, "img2img", {**common, "width": side, "height": side, "denoising_strength": .6, "seed": 8,
                                        "init_images": [base64.b64encode(four[0]).decode()]})
    assert difference(decoded(changed[0], side), native) > 0


def far_from_cpu(machine, native):
    if machine.device == "cpu":
        return "not compared with the CPU's, which it is"
    with machine.server(device="cpu") as server:
        server.wait_ready()
        far = difference(decoded(pictures(server, draw(server, machine.small()))[0], machine.side), native)
    assert far <= SAME, f"the picture is {far:.2f} levels from the CPU's, at most {SAME} were expected"
    return f"{far:.2f} levels from the CPU's"


def draw_all(machine):
    with machine.server() as server:
        server.wait_ready()
        ended = draw(server, machine.small())
        first = pictures(server, ended)[0]
        native = decoded(first, machine.side)
        assert pictures(server, draw(server, machine.small()))[0] == first, "the same request gave other bytes"
        several = pictures(server, draw(server, machine.small(count=4)))
        assert several[0] == first and len(set(several)) == 4, "four pictures, of which the first is the one drawn alone"
        check_apis(machine, server, native)
        partials = openai_stream(machine, server)
    seconds = ended["result"]["total_seconds"]
    return (f"{machine.side} x {machine.side}, 8 steps: {seconds:.3f} s, levels spread by {spread(native):.0f}; same bytes again, the same picture by three "
            f"APIs; {partials} partial pictures; {far_from_cpu(machine, native)}")


# --- streams ---

class Listener:
    """Collects the events of a job until it ends."""

    def __init__(self, server, job):
        self.events = []
        self.thread = threading.Thread(target=self._listen, args=(server, job), daemon=True)
        self.thread.start()

    def _listen(self, server, job):
        for name, _, data in events_of(server, f"?job={job}&previews=1", None):
            self.events.append((name, data))
            if name in ("job.done", "job.failed", "job.cancelled"):
                return

    def names(self):
        self.thread.join(30)
        assert not self.thread.is_alive(), f"the stream has no end: {[name for name, _ in self.events]}"
        return [name for name, _ in self.events]


def check_events(machine, server):
    """(events of progress, previews) of a job that is watched."""
    job = submit(server, machine.long(server, 3))
    listener = Listener(server, job)
    assert wait_end(server, job)["state"] == "done", server.tail()
    names = listener.names()
    steps = [data["step"] for name, data in listener.events if name == "job.progress" and data["phase"] == "denoise"]
    previews = [base64.b64decode(data["jpeg"]) for name, data in listener.events if name == "job.preview"]
    assert names[-1] == "job.done" and steps == sorted(steps) and len(steps) >= 3, (names, steps)
    assert len(previews) >= 2 and all(preview[:2] == b"\xff\xd8" for preview in previews), f"{len(previews)} previews: {names}"
    return len(steps), len(previews)


def is_idle(server):
    return server.get("/api/v1/queue").json()["running"] == 0


def check_cancel(machine, server):
    """Seconds from the request to an idle worker. A step ends at once; its length and the polls' are allowed for."""
    job = submit(server, machine.long(server, 8))
    listener = Listener(server, job)
    wait_step(server, job)
    began = time.monotonic()
    assert server.post(f"/api/v1/jobs/{job}/cancel").status == 200
    ended = wait_end(server, job, 30)
    wait_until("the worker is idle", lambda: is_idle(server), 30)
    took = time.monotonic() - began
    assert ended["state"] == "cancelled" and listener.names()[-1] == "job.cancelled", (ended, listener.events[-1])
    assert took < 2 + 2 * machine.step_seconds, f"cancelling took {took:.2f} s, a step {machine.step_seconds:.3f} s"
    return took


def check_deadline(machine, server):
    began = time.monotonic()
    job = submit(server, {**machine.long(server, 8), "timeout": 1})
    ended = wait_end(server, job, 30)
    took = time.monotonic() - began
    assert ended["state"] == "failed" and ended["error"]["code"] == "timeout" and 1 <= took < 6, (took, ended)
    draw(server, machine.small())
    return took


def streams(machine):
    with machine.server("--max-batch", "1") as server:
        server.wait_ready()
        steps, previews = check_events(machine, server)
        cancel, deadline = check_cancel(machine, server), check_deadline(machine, server)
    return f"{steps} events of progress, {previews} previews; cancelled after {1e3 * cancel:.0f} ms; a deadline of 1 s after {deadline:.2f} s"


# --- company ---

COMPANY = [{"seed": 1}, {"seed": 2}, {"seed": 3, "guidance_scale": 7}, {"seed": 4, "prompt": "two apples"}]


@contextlib.contextmanager
def jobs_of(machine, *options):
    """A server, and jobs that are known on its outputs folder as often as it starts."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sd35-gpu-"))
    try:
        with machine.server(*options, outputs=folder) as server:
            server.wait_ready()
            yield Jobs(folder), server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def steps_together(server):
    """(steps of more than one picture, all steps) of the batch so far."""
    seen = metrics(server)[1]
    return seen["sd35_batch_size_count"] - seen['sd35_batch_size_bucket{le="1"}'], seen["sd35_batch_size_count"]


def company(machine):
    with jobs_of(machine, "--max-batch", "4") as (jobs, server):
        base = machine.long(server, 1)  # the worker tells of ten steps a second at most
        bodies = [{**base, **one, "count": 1, "steps": base["steps"] - number} for number, one in enumerate(COMPANY)]
        worker = server.workers()[0]
        server.kill(worker, signal.SIGSTOP)  # all are there before one begins
        together = [jobs.submit(server, **body) for body in bodies]
        server.kill(worker, signal.SIGCONT)
        for job in together:
            jobs.check_done(server, job)
        shared, count = steps_together(server)
        assert shared >= 4, f"{shared:.0f} of {count:.0f} steps had company"
        for body in bodies:  # check_done holds the bytes against those of the same request before
            jobs.check_done(server, jobs.submit(server, **body))
        assert steps_together(server)[0] == shared, "what was drawn alone had company"
        assert len(set(jobs.hash_of.values())) == len(bodies), "different requests gave the same picture"
        end(server)
    return f"{shared:.0f} of {count:.0f} steps had company, and the {len(bodies)} pictures have the bytes of those drawn alone"


# --- metrics ---

def check_gauges(machine, seen):
    """What NVML says through the server, against nvidia-smi. Both change while they are read."""
    total, temperature, power = map(float, machine.smi("memory.total", "temperature.gpu", "power.draw"))
    bytes_of = {kind: seen[f'sd35_device_memory_bytes{{kind="{kind}"}}'] / 2 ** 20 for kind in ("free", "total", "ours")}
    assert abs(bytes_of["total"] - total) < .03 * total and 0 < bytes_of["ours"] < total and 0 < bytes_of["free"] < total, (bytes_of, total)
    assert abs(seen["sd35_device_temperature_celsius"] - temperature) <= 15, (seen["sd35_device_temperature_celsius"], temperature)
    assert power / 3 < seen["sd35_device_power_watts"] < 3 * power, (seen["sd35_device_power_watts"], power)
    return (f"{bytes_of['ours']:.0f} MiB of {total:.0f} ours, {seen['sd35_device_temperature_celsius']:.0f} C, {seen['sd35_device_power_watts']:.0f} W "
            f"(nvidia-smi: {temperature:.0f} C, {power:.0f} W)")


def read_metrics(machine):
    with machine.server() as server:
        server.wait_ready()
        job, busy, seen = submit(server, machine.long(server, 4)), [0], {}
        while job_of(server, job)["state"] in ("queued", "running"):
            seen = metrics(server)[1]
            busy.append(seen.get("sd35_device_utilization_ratio", 0))
            time.sleep(.1)
        assert wait_end(server, job)["state"] == "done", server.tail()
        gauges = check_gauges(machine, seen) if machine.is_gpu else "NVML SKIPPED"
        after = metrics(server)[1]
    phases = {phase: (after[f'sd35_phase_seconds_count{{phase="{phase}"}}'], after[f'sd35_phase_seconds_sum{{phase="{phase}"}}'])
              for phase in ("encode", "denoise", "decode")}
    assert all(count >= 1 and seconds > 0 for count, seconds in phases.values()) and after["sd35_step_seconds_count"] > 0, phases
    if machine.is_gpu:
        assert 0 < max(busy) <= 1, f"the GPU drew for 4 s, and its utilisation was at most {max(busy)}"
    step = after["sd35_step_seconds_sum"] / after["sd35_step_seconds_count"]
    return (f"{gauges}, busy {100 * max(busy):.0f} %; means: " + ", ".join(f"{phase} {1e3 * seconds / count:.1f} ms" for phase, (count, seconds) in phases.items()) +
            f", step {1e3 * step:.2f} ms")


# --- kill ---

def kill_worker(machine, jobs, server):
    """Returns the seconds from the death to the end of the job that was being drawn."""
    used = machine.used()
    job, others = jobs.submit(server, **machine.long(server, 2)), [jobs.submit(server, **machine.small(seed=seed)) for seed in range(3)]
    wait_step(server, job)
    kill(server, server.workers()[0])
    began = time.monotonic()
    jobs.check_done(server, job, attempts=2)
    took = time.monotonic() - began
    for other in others:
        jobs.check_done(server, other)
    restarts = metrics(server)[1]['sd35_worker_restarts_total{reason="signal"}']
    assert restarts == 1 and server.get("/api/v1/device").json()["restarts"] == 1, restarts
    machine.wait_given_back(used, "the killed worker", WORKER)
    return took


def kill_front(machine, jobs, server):
    used = machine.used()
    job = jobs.submit(server, **machine.long(server, 2))
    wait_step(server, job)
    kill(server, server.front())
    jobs.check_done(server, job, attempts=2)
    machine.wait_given_back(used, "the worker of the killed front", WORKER)


def kill_all(machine, jobs, server, before):
    """The supervisor: all go with it, and the next start draws what was begun."""
    job, pids = jobs.submit(server, **machine.long(server, 2)), server.all_pids()
    wait_step(server, job)
    server.kill(pids[0])
    server.process.wait()
    wait_until("no orphan is left", lambda: not any(is_alive(pid) for pid in pids), 30)
    machine.wait_given_back(before, "a killed server")
    server.start()
    server.wait_ready()
    jobs.check_done(server, job, attempts=2)


def drain(machine, jobs, server, before):
    """What runs is finished, what waits is kept; the next start has all of it."""
    job, waits = jobs.submit(server, **machine.long(server, 2)), [jobs.submit(server, **machine.long(server, 2), negative_prompt=text) for text in ("a", "b")]
    wait_step(server, job)
    end(server)
    machine.wait_given_back(before, "a stopped server")
    server.start()
    assert job_of(server, job)["state"] == "done", job_of(server, job)
    for one in (job, *waits):
        jobs.check_done(server, one, attempts=1)


def kills(machine):
    before = machine.used()
    with jobs_of(machine, "--grace", "60") as (jobs, server):
        machine.long(server, 1)
        took = kill_worker(machine, jobs, server)
        kill_front(machine, jobs, server)
        kill_all(machine, jobs, server, before)
        drain(machine, jobs, server, before)
        count = len(jobs.check_all(server))
        assert {job for job, _ in jobs.accepted.values()} <= set(all_jobs(server)), "the history lacks jobs"
        end(server)
        left = machine.wait_given_back(before, "the last server")
    memory = f"{before} MiB of the GPU used before, {left} MiB after" if machine.is_gpu else "memory of the GPU SKIPPED"
    return f"worker, front and all killed, and stopped: {count} jobs in the history, all done; {took:.1f} s from a worker's death to its job's end; {memory}"


# --- modes ---

MODES = [[], ["--medvram"], ["--lowvram"], ["--fp8"], ["--precision", "f32"], ["--precision", "fp16"], ["--precision", "bf16"], ["--precision", "fp8"]]


def draw_in_mode(machine, options):
    """The picture, and what the mode takes in words."""
    before = machine.used()
    with machine.server(*options, "--keep-fp8", "off") as server, machine.peak() as seen:
        server.wait_ready()
        plan = server.post("/api/v1/jobs", machine.small(dry_run=True)).json()["memory_bytes"] >> 20
        ended = draw(server, machine.small())
        pixels, device = decoded(pictures(server, ended)[0], machine.side), server.get("/api/v1/device").json()["name"]
    told = f"plan {plan} MiB" + (f", nvidia-smi {max(seen) - before} MiB" if machine.is_gpu else "")
    return pixels, f"{' '.join(options) or 'all'} ({device}): {ended['result']['total_seconds']:.3f} s, {told}"


def draw_on(machine, device):
    with machine.server(device=device) as server:
        server.wait_ready()
        return decoded(pictures(server, draw(server, machine.small()))[0], machine.side)


def expect_no_gpu(machine, device, codes, **environment):
    """The server answers, is not ready, and its log has one sentence with the cure; `check` says the same."""
    with machine.server(device=device, **environment) as server:
        line = log_line(server, "check code=gpu_")
        assert re.search(rf"error .*code=({codes}) found=\".+\" cure=\".+\"", line), line
        assert server.get("/health/ready").status == 503
        wait_until("the worker says why", lambda: any(line.startswith("worker: ") for line in server.log), 30)
        assert server.stop() == 0, server.tail()
    return re.search(r'found="(.*?)" cure', line)[1]


def check_devices(machine, usual):
    assert difference(draw_on(machine, "auto"), usual) == 0 and difference(draw_on(machine, "cuda:0"), usual) == 0
    sentence = expect_no_gpu(machine, "cuda:7", "gpu_missing")
    hidden = {"CUDA_VISIBLE_DEVICES": "", **({"FAKE_GPUS": "none"} if machine.is_fake else {})}
    codes = "gpu_hidden" if machine.is_gpu else "gpu_hidden|gpu_none|gpu_none_in_container"
    expect_no_gpu(machine, "cuda", codes, **hidden)
    with machine.server(device="auto", **hidden) as server:
        server.wait_ready()
        assert server.get("/api/v1/model").json()["device"].startswith("cpu "), server.tail()
        assert re.search(f"warning .*code=({codes}) ", log_line(server, "check code=gpu_")), server.tail()
        if machine.is_gpu:
            log_line(server, "worker: the GPU is left out: ")
    return f"auto and cuda:0 draw the same; cuda:7: {sentence!r}; without visible GPUs auto takes the CPU"


def modes(machine):
    usual, told = draw_in_mode(machine, [])
    lines, wrong = [told], []
    for options in MODES[1:] if machine.device != "cpu" else MODES[1:4]:
        pixels, told = draw_in_mode(machine, options)
        far, most = difference(pixels, usual), NEAR if "fp8" in options[-1] else SAME
        lines.append(f"{told}, {far:.2f} levels off")
        wrong += [f"{options}: {far:.2f} levels off, at most {most} were expected"] if far > most else []
    devices = check_devices(machine, usual) if machine.device != "cpu" else "devices SKIPPED"
    text = "\n    ".join([devices, *lines])
    assert not wrong, f"{wrong}\n{text}"
    return text


# --- short ---

def check_limits(machine, server):
    dry = server.post("/api/v1/jobs", machine.small(dry_run=True)).json()
    assert dry["fits"] is True and 0 < dry["memory_bytes"] < dry["memory_free_bytes"], dry
    beyond = server.post("/api/v1/jobs", {**machine.large, "width": 512, "height": 512})
    assert beyond.status in (413, 422) and "pixels" in beyond.json()["error"]["message"], (beyond.status, beyond.body)
    return f"plan {dry['memory_bytes'] >> 20} MiB, {dry['memory_free_bytes'] >> 20} MiB free; beyond --max-pixels: {beyond.status}"


def draw_without_room(machine, server):
    """A job for which another process leaves no memory: done in less, or failed with a clear error; and what comes after is done."""
    body = {**machine.large, "steps": 8, "count": 2, "height": machine.large["height"] // 2}  # a shape that has no memory yet
    with machine.ballast(16) as (held, free):
        dry = server.post("/api/v1/jobs", {**body, "dry_run": True}).json()
        assert dry["fits"] is False, dry
        job = submit(server, body)
        began = time.monotonic()
        wait_until("the job's end", lambda: job_of(server, job).get("state") in ("done", "failed") or time.monotonic() - began > 30, 40)
        under = job_of(server, job)
    ended = wait_end(server, job, 60)
    told = f"state {ended['state']}, was_short_of_memory {(ended['result'] or {}).get('was_short_of_memory')}, error {ended['error']}, attempts {ended['attempts']}"
    assert ended["state"] == "done" or ended["error"]["code"] == "out_of_memory", told
    assert ended["attempts"] > 1 or ended["state"] == "failed" or ended["result"]["was_short_of_memory"], f"nothing was short, or nobody told: {told}"
    again = draw(server, body)
    same = ended["state"] != "done" or pictures(server, again) == pictures(server, ended)
    return (f"with {held} MiB held and {free} free: {dry['reason']}; {told}{'' if under.get('state') == ended['state'] else ', once there was memory'}; "
            f"afterwards done, {'the same' if same else 'OTHER'} bytes")


def short(machine):
    with machine.server("--max-pixels", 256 * 256) as server:
        server.wait_ready()
        limits = check_limits(machine, server)
    if not machine.is_gpu:
        return f"{limits}; a full GPU SKIPPED"
    with machine.server() as server:
        server.wait_ready()
        draw(server, machine.small())
        return f"{limits}; {draw_without_room(machine, server)}"


# --- big ---

def big(machine):
    if not machine.big:
        raise Skipped("needs --big FOLDER")
    return gpu_big.big(machine)


PARTS = {"start": start, "draw": draw_all, "streams": streams, "company": company, "metrics": read_metrics, "kill": kills, "modes": modes, "short": short,
         "big": big}


def time_out(*_):
    raise AssertionError("the part takes too long")


def run(name, machine):
    """Whether it did not fail."""
    began = time.monotonic()
    signal.alarm(PART_SECONDS if name != "big" else gpu_big.SECONDS)
    try:
        word, text = "PASSED", PARTS[name](machine)
    except Skipped as reason:
        word, text = "SKIPPED", str(reason)
    except Exception:  # also what a broken answer leads to: the other parts are worth a look
        word, text = "FAILED", traceback.format_exc() + "\n".join(["the end of its last server's log:", *machine.last_log(30)])
    finally:
        signal.alarm(0)
    print(f"{word} {name} ({time.monotonic() - began:.1f} s): {text}", flush=True)
    return word != "FAILED"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models" / "demo")
    parser.add_argument("--big", type=pathlib.Path)
    parser.add_argument("--logs", type=pathlib.Path, help="a folder for the log of each server")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}")
    if arguments.device.startswith("cuda") and "SD35_PLUGIN_DIR" not in os.environ:
        parser.error("SD35_PLUGIN_DIR has to name the plugin's folder")
    if arguments.logs:
        arguments.logs.mkdir(parents=True, exist_ok=True)
    machine = Machine(arguments.program.resolve(), arguments.device, arguments.model, arguments.big, arguments.logs)
    signal.signal(signal.SIGALRM, time_out)
    failed = [name for name in names if not run(name, machine)]
    print(f"FAILED: {', '.join(failed)}" if failed else "all is well")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
