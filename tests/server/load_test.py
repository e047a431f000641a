"""Load on a working server, in figures: printed, and held against generous limits that only a broken server misses.

usage: load_test.py SD35 LOAD_SERVER [--seconds N]

Status polls at 1,000 a second while pictures are drawn, and what that costs the drawing; idle event streams, and the memory of the front; durable accepts;
overload. The figures of a quiet machine are in docs/architecture.md.
"""
import argparse
import json
import pathlib
import re
import resource
import subprocess
import sys
import time

from running import Server, wait_until

SPEC = {"prompt": "two apples", "width": 256, "height": 256, "steps": 20}
SMALL = {"prompt": "two apples", "width": 64, "height": 64, "steps": 1}


def run(generator, server, *arguments):
    done = subprocess.run([generator, str(server.port), server.key, *map(str, arguments)], capture_output=True, text=True)
    print("  " + done.stdout.strip().replace("\n", "\n  "), flush=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def draw(server, count):
    """Seconds for so many pictures, one after the other."""
    started = time.monotonic()
    for seed in range(count):
        job = server.post("/api/v1/jobs?wait=60", {**SPEC, "seed": seed}).json()
        assert job["state"] == "done", job
    return time.monotonic() - started


def polls(server, generator, seconds):
    job = server.post("/api/v1/jobs?wait=60", {**SPEC, "seed": 0}).json()
    alone = draw(server, 3)
    generating = subprocess.Popen([generator, str(server.port), server.key, "polls", f"/api/v1/jobs/{job['id']}", "1000", str(seconds)],
                                  stdout=subprocess.PIPE, text=True)
    time.sleep(.5)
    loaded = draw(server, 3)
    text = generating.communicate()[0]
    print("  " + text.strip().replace("\n", "\n  "))
    print(f"  three pictures: {alone:.2f} s alone, {loaded:.2f} s under polls")
    assert "5xx 0, broken off 0" in text


def streams(server, generator):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 500)
    before = resident(server.front())
    holding = subprocess.Popen([generator, str(server.port), server.key, "streams", "/api/v1/events", str(count), "15"], stdout=subprocess.PIPE, text=True)
    assert "are open" in holding.stdout.readline()
    time.sleep(2)
    with_streams = resident(server.front())
    text = holding.communicate()[0]
    print(f"  {count} event streams: the front has {with_streams:.1f} MiB resident, {before:.1f} before\n  {text.strip()}")
    assert " 0 streams were broken off" in text


def accepts(server, generator, seconds):
    text = run(generator, server, "posts", "/api/v1/jobs", json.dumps(SMALL), 16, seconds)
    assert "5xx 0" in text


def overload(server, generator, seconds):
    """A full queue: everything else is refused quickly, and what was accepted is drawn."""
    text = run(generator, server, "posts", "/api/v1/jobs", json.dumps(SMALL), 64, seconds)
    assert "5xx 0" in text
    assert int(re.search(r"4xx (\d+)", text)[1]) > 0
    wait_until("the queue is empty", lambda: server.get("/api/v1/queue").json().get("queued") == 0, 300)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("generator")
    parser.add_argument("--seconds", type=int, default=8)
    arguments = parser.parse_args()
    quiet = ["--log-level", "warning"]
    started = time.monotonic()
    with Server(arguments.program, options=quiet + ["--max-queue", "100000", "--max-queue-per-user", "100000"]) as server:
        print(f"  first answer {1e3 * (time.monotonic() - started):.0f} ms after the start; the front has {resident(server.front()):.1f} MiB resident")
        server.wait_ready()
        polls(server, arguments.generator, arguments.seconds)
        streams(server, arguments.generator)
        accepts(server, arguments.generator, arguments.seconds / 2)
        server.stop()
    with Server(arguments.program, options=quiet + ["--max-queue", "50", "--max-queue-per-user", "50"]) as server:
        server.wait_ready()
        overload(server, arguments.generator, arguments.seconds / 2)
        assert server.stop() == 0
        assert not server.verify()


if __name__ == "__main__":
    sys.exit(main())
