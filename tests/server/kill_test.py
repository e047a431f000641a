"""Kills processes of a working server, again and again, and asks what became of the jobs it had accepted.

usage: kill_test.py SD35 [--moments N] [--each N] [--seed N]

First at each stage of a job (encode, denoise, decode, save), worker and front; then at random moments: worker, front or supervisor. After all of it
every job that was answered with 202 is done, once, with the bytes that the same request always gives, or has failed as poison because its worker
was killed twice; one idempotency key is one job; and `sd35 verify --store` finds no defect.
"""
import argparse
import collections
import contextlib
import hashlib
import http.client
import json
import random
import signal
import sys
import threading
import time

from running import Server, is_alive, wait_until

SPEC = {"prompt": "two apples", "width": 64, "height": 64, "steps": 3}
TERMINAL = ("done", "failed", "cancelled")
SEEDS = 5  # different pictures; each always has the same bytes


class Clients:
    """Threads that submit jobs all the time, and keep what was answered with 202."""

    def __init__(self, server, count=3):
        self.server, self.accepted, self.lock, self.stopping = server, {}, threading.Lock(), threading.Event()
        self.number = 0
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _next(self):
        with self.lock:
            self.number += 1
            return self.number

    def _run(self):
        while not self.stopping.is_set():
            number = self._next()
            body = {**SPEC, "seed": number % SEEDS}
            # The same key until there is an answer: a client that lost its connection does not know.
            while not self.stopping.is_set():
                with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
                    answer = self.server.post("/api/v1/jobs", body, headers={"Idempotency-Key": f"kill-{number}"}, timeout=10)
                    if answer.status in (200, 202):
                        with self.lock:
                            self.accepted[f"kill-{number}"] = (answer.json()["id"], number % SEEDS)
                        break
                time.sleep(.02)
            time.sleep(.05)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def job_of(server, job):
    with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
        answer = server.get(f"/api/v1/jobs/{job}", timeout=10)
        if answer.status == 200:
            return answer.json()
        assert answer.status != 404, f"job {job} is lost"
    return {}


def submit(server, seed):
    def accepted():
        with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
            answer = server.post("/api/v1/jobs", {**SPEC, "steps": 12, "seed": seed}, timeout=10)
            return answer.json()["id"] if answer.status == 202 else None
    return wait_until("a job is accepted", accepted)


def at_stages(server, each):
    """Worker and front die at every stage of a job, `each` times; the job is done after all."""
    for stage in ("encode", "denoise", "decode", "save"):
        for victim in ("worker", "front"):
            hits = 0
            for attempt in range(3 * each):
                if hits == each:
                    break
                server.wait_ready()
                pid = server.workers()[0] if victim == "worker" else server.front()
                job = submit(server, attempt % SEEDS)
                # Polling is quick enough for most stages; what is missed is tried again.
                while True:
                    now = job_of(server, job)
                    if now.get("phase") == stage or now.get("state") in TERMINAL:
                        break
                hits += now.get("phase") == stage
                server.kill(pid)
                wait_until("the death", lambda: not is_alive(pid))
                done = wait_until("the job ends", lambda: (lambda j: j if j.get("state") in TERMINAL else None)(job_of(server, job)))
                assert done["state"] == "done", done
            print(f"{victim} killed in {stage}: {hits} of {each} hit", flush=True)


def at_random(server, moments, rng):
    deaths = collections.Counter()
    for _ in range(moments):
        time.sleep(rng.uniform(.005, .6))
        victim = rng.choices(("worker", "front", "supervisor"), (5, 4, 1))[0]
        if victim == "supervisor":
            pids = server.all_pids()
            server.kill(pids[0])
            server.process.wait()
            wait_until("no orphan is left", lambda: not any(is_alive(pid) for pid in pids))
            server.start()
        else:
            pid = server.front() if victim == "front" else next(iter(server.workers()), None)
            if not pid:
                continue
            server.kill(pid)
        deaths[victim] += 1
    print("killed at random moments:", dict(deaths), flush=True)


def check_jobs(server, accepted):
    """Every accepted job ended as it should, and equal requests have equal bytes."""
    bytes_of, states = collections.defaultdict(set), collections.Counter()
    for key, (job, seed) in accepted.items():
        ended = wait_until(f"{key} ends", lambda job=job: (lambda j: j if j.get("state") in TERMINAL else None)(job_of(server, job)), 300)
        states[ended["state"] if ended["state"] == "done" else ended["error"]["code"]] += 1
        if ended["state"] != "done":
            assert ended["error"]["code"] == "poison", ended
            continue
        assert len(ended["images"]) == 1, ended
        picture = server.get(ended["images"][0]["url"])
        assert picture.status == 200, picture.status
        bytes_of[seed].add(hashlib.sha256(picture.body).hexdigest())
    for seed, hashes in bytes_of.items():
        assert len(hashes) == 1, f"seed {seed} has {len(hashes)} different pictures"
    ids = [job for job, _ in accepted.values()]
    assert len(ids) == len(set(ids)), "two keys share a job"
    print(f"{len(accepted)} accepted jobs:", dict(states), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(2 ** 32)
    print("seed", seed)
    with Server(arguments.program, options=["--grace", "2", "--max-queue-per-user", "1000"]) as server:
        server.wait_ready()
        at_stages(server, arguments.each)
        clients = Clients(server)
        at_random(server, arguments.moments, random.Random(seed))
        clients.stop()
        server.wait_ready()
        check_jobs(server, clients.accepted)
        assert server.stop() == 0
        defects = server.verify()
        assert not defects, defects
    print("no job lost, none doubled, no picture damaged; the store is sound")


if __name__ == "__main__":
    sys.exit(main())
