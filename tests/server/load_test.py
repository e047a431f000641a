"""Load on a working server, in figures: printed, and held against generous limits that only a broken server misses.

usage: load_test.py SD35 LOAD_SERVER [--seconds N] [--rounds N] [--side N] [NAME ...]

NAMEs choose of: start (seconds to the first answer, idle memory), polls (1,000 status polls a second while pictures are drawn, and what that costs the
drawing; --side: of its pictures), streams (10,000 idle event streams), accepts (durable ones), overload (ten times what can be drawn). The figures of a
quiet machine are in docs/architecture.md. Other programs on the machine show in every figure but the processor times.
"""
import argparse
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import time

from running import Server, wait_until

SMALL = {"prompt": "two apples", "width": 64, "height": 64, "steps": 1}
QUIET = ["--log-level", "warning"]
LONG = ["--max-queue", "100000", "--max-queue-per-user", "100000"]
STREAMS = 10_000
SPARE_FILES = 500  # descriptors that a process needs beside its streams
POLLS = 1000  # a second
OVERLOAD = 10  # times what the server draws


def generate(generator, server, *arguments, nice=0):
    return subprocess.Popen(["nice", "-n", str(nice), generator, str(server.port), server.key, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def answers(text):
    """{"2xx": (count, median ms, p99 ms)}; prints what was said."""
    print("  " + text.strip().replace("\n", "\n  "), flush=True)
    assert "broken off 0" in text
    return {found[0]: (int(found[1]), float(found[2]), float(found[3])) for found in re.findall(r"(\dxx) (\d+), ms: median ([\d.]+), p99 ([\d.]+)", text)}


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def median(values):
    return statistics.median(values)


def start(arguments):
    seconds, memory = [], []
    with Server(arguments.program, options=QUIET) as server:
        server.wait_ready()
        server.stop()
        for _ in range(arguments.rounds):
            began = time.monotonic()
            server.start()
            assert server.get("/health/live").status == 200
            seconds.append(time.monotonic() - began)
            server.wait_ready()
            memory.append(resident(server.front()))
            server.stop()
    print(f"  first answer {1e3 * median(seconds):.0f} ms after the start; the idle front has {median(memory):.1f} MiB resident")
    assert median(seconds) < 5 and median(memory) < 15


def draw(server, side, seed):
    """(seconds, processor seconds of the worker) of one picture."""
    worker = server.workers()[0]
    began, used = time.monotonic(), processor_seconds(worker)
    job = server.post("/api/v1/jobs?wait=60", {"prompt": "two apples", "width": side, "height": side, "steps": 6, "seed": seed}).json()
    assert job["state"] == "done", job
    return time.monotonic() - began, processor_seconds(worker) - used


def polls(arguments):
    """Pictures by turns alone, under polls, and under polls whose sender takes only what is left over of the machine, as one elsewhere would.

    What else the machine does comes to all of them.
    """
    took, p99, spent, count = {"alone": [], "polls": [], "polls from elsewhere": []}, [], 0, 0
    with Server(arguments.program, options=QUIET + LONG) as server:
        server.wait_ready()
        job = server.post("/api/v1/jobs?wait=60", SMALL).json()
        front = server.front()
        for seed in range(arguments.rounds):
            took["alone"].append(draw(server, arguments.side, 3 * seed))
            for number, (name, nice) in enumerate((("polls", 0), ("polls from elsewhere", 19)), 1):
                before = processor_seconds(front)
                polling = generate(arguments.generator, server, "rate", f"/api/v1/jobs/{job['id']}", "-", POLLS, 60, nice=nice)
                took[name].append(draw(server, arguments.side, 3 * seed + number))
                polling.terminate()
                found = answers(polling.communicate()[0])
                assert set(found) == {"2xx"}, found
                if nice == 0:
                    spent += processor_seconds(front) - before
                    p99.append(found["2xx"][2])
                    count += found["2xx"][0]
    for name in list(took)[1:]:
        slower = [median(part[i] for part in took[name]) / median(part[i] for part in took["alone"]) - 1 for i in range(2)]
        print(f"  under {name} a picture takes {100 * slower[0]:+.1f} % seconds and {100 * slower[1]:+.1f} % processor seconds")
    print(f"  p99 {median(p99):.1f} ms (median of {len(p99)} rounds); the front uses {1e6 * spent / count:.0f} us for each poll, "
          f"{100 * POLLS * spent / count / os.cpu_count():.1f} % of the machine")
    assert median(p99) < 500


def streams(arguments):
    count = min(STREAMS, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_FILES)
    with Server(arguments.program, options=QUIET) as server:
        server.wait_ready()
        before = resident(server.front())
        holding = generate(arguments.generator, server, "streams", "/api/v1/events", count, 15)
        assert "are open" in holding.stdout.readline()
        time.sleep(2)
        with_streams, used = resident(server.front()), processor_seconds(server.front())
        text = holding.communicate()[0]
        used = processor_seconds(server.front()) - used
        assert server.get("/health/live").status == 200
    print(f"  {count} event streams: the front has {with_streams:.1f} MiB resident, {before:.1f} before; {100 * used / 13:.1f} % of a core for them\n  {text.strip()}")
    assert " 0 streams were broken off" in text
    assert with_streams < 64


def accepts(arguments):
    rates, seconds = [], arguments.seconds / 2
    for _ in range(arguments.rounds):
        with Server(arguments.program, options=QUIET + LONG) as server:
            server.wait_ready()
            found = answers(generate(arguments.generator, server, "posts", "/api/v1/jobs", json.dumps(SMALL), 16, seconds).communicate()[0])
            assert set(found) == {"2xx"}, found
            rates.append(found["2xx"][0] / seconds)
            server.stop()
            assert not server.verify()
    print(f"  {median(rates):.0f} durable accepts a second (median of {len(rates)} rounds)")
    assert median(rates) > 50


def overload(arguments):
    """Ten times what can be drawn: what is too much is refused quickly, and what was accepted is drawn."""
    waiting = 50
    with Server(arguments.program, options=QUIET + ["--max-queue", waiting, "--max-queue-per-user", waiting]) as server:
        server.wait_ready()
        began = time.monotonic()
        for seed in range(waiting):
            assert server.post("/api/v1/jobs", {**SMALL, "seed": seed}).status == 202
        wait_until("the queue is empty", lambda: is_idle(server), 300)
        rate = OVERLOAD * waiting / (time.monotonic() - began)
        before = resident(server.front())
        found = answers(generate(arguments.generator, server, "rate", "/api/v1/jobs", json.dumps(SMALL), rate, arguments.seconds).communicate()[0])
        assert found.keys() <= {"2xx", "4xx"} and found["4xx"][0] > 0, found
        wait_until("the queue is empty", lambda: is_idle(server), 300)
        print(f"  {rate:.0f} jobs a second came, a tenth of it can be drawn; the front has {resident(server.front()):.1f} MiB resident, {before:.1f} before")
        pictures = re.search(r"^sd35_pictures_total (\d+)", server.get("/metrics").body.decode(), re.MULTILINE)[1]
        assert int(pictures) == waiting + found["2xx"][0], f"{pictures} pictures of {waiting + found['2xx'][0]} jobs"
        assert server.stop() == 0
        assert not server.verify()


def is_idle(server):
    queue = server.get("/api/v1/queue").json()
    return queue["queued"] == 0 and queue["running"] == 0


TESTS = {"start": start, "polls": polls, "streams": streams, "accepts": accepts, "overload": overload}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("generator")
    parser.add_argument("names", nargs="*", choices=[*TESTS, []])
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="of each figure, which is their median")
    parser.add_argument("--side", type=int, default=256, help="of the pictures that are drawn under polls")
    arguments = parser.parse_args()
    for name in arguments.names or TESTS:
        print(f" {name}:", flush=True)
        TESTS[name](arguments)


if __name__ == "__main__":
    sys.exit(main())
