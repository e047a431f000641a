"""Kills, stops and starves a working server, again and again, and asks what became of the jobs it had accepted.

usage: kill_test.py SD35 [--each N] [--moments N] [--seed N] [SCENARIO ...]

SCENARIOs choose of: points, moments, batch, waiting, streams, hanging, poison, sigterm, full, readonly, second, damaged, memory. SD35
is sd35-mortal; without kill points, points and poison are SKIPPED, loudly, as are full and readonly where nothing can be mounted, and memory where no
control group can be made (they need root).

After all of it every job that was answered with 202 is done, once, with the bytes that the same request always gives, or has failed as poison because
its process was killed twice, or as out_of_memory because the kernel did it; one idempotency key is one job; and `sd35 verify --store` finds no defect after each scenario.
"""
import argparse
import collections
import contextlib
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import threading
import time

import kill_faults
import kill_memory
import kill_points
import kill_streams
from kill_jobs import FAILURES, Clients, Jobs, end, has_kill_points, job_of, kill, wait_end, wait_step, workers_killed
from running import is_alive, wait_until


def points(jobs, arguments):
    """Every kill point, `each` times."""
    return kill_points.at_points(jobs, arguments.program, arguments.each, arguments.rng)


def kill_one(server, victim):
    """Whether there was one to kill."""
    if victim == "supervisor":
        pids = server.all_pids()
        server.kill(pids[0])
        server.process.wait()
        wait_until("no orphan is left", lambda: not any(is_alive(pid) for pid in pids))
        return True
    pid = server.front() if victim == "front" else next(iter(server.workers()), None)
    if pid:
        server.kill(pid)
    return bool(pid)


def moments(jobs, arguments):
    """Front, worker or supervisor at `moments` random moments, while clients submit and metrics are read."""
    deaths, ends, rng = collections.Counter(), 0, arguments.rng
    if not arguments.moments:
        return 0
    with jobs.server(arguments.program, ["--grace", "2"]) as server:
        server.wait_ready()
        clients = Clients(jobs, server)
        while sum(deaths.values()) < arguments.moments:
            time.sleep(rng.uniform(.005, .6))
            victim = rng.choices(("worker", "front", "supervisor"), (5, 4, 1))[0]
            deaths[victim] += kill_one(server, victim)
            # A front that dies five times a minute ends the server, which is what it says it does.
            if server.process.poll() is not None:
                ends += victim != "supervisor"
                server.start()
        if server.process.poll() is not None:
            server.start()
        clients.stop()
        with contextlib.suppress(AssertionError):
            server.wait_ready(10)
        if server.process.poll() is not None:  # the fifth death was the last one
            server.start()
        server.wait_ready()
        jobs.check_all(server, failures=("poison",))
        end(server)
    print("killed at random moments:", dict(deaths), f"the server ended {ends} times for fronts that died too often;",
          f"{len(jobs.accepted)} accepted jobs:", dict(jobs.outcomes), flush=True)
    jobs.accepted.clear()
    return sum(deaths.values())


def batch(jobs, arguments):
    """The worker dies in the middle of the steps of two jobs: both are drawn again, and are the same pictures."""
    for _ in range(arguments.each):
        with jobs.server(arguments.program) as server:
            server.wait_ready()
            both = [jobs.submit(server, seed=seed, steps=40) for seed in (1, 2)]
            for job in both:
                wait_step(server, job, arguments.rng.randrange(1, 6))
            kill(server, server.workers()[0])
            for job in both:
                jobs.check_done(server, job, attempts=2)
            assert workers_killed(server) == 1
            end(server)
    return arguments.each


def hang_on(server, path, body, answers):
    """A client that waits for a picture; what it got is appended, None when its connection broke."""
    got = None
    with contextlib.suppress(*FAILURES):
        got = server.post(path, body, timeout=60).status
    answers.append(got)


def waiting(jobs, arguments):
    """The front dies while clients wait for their pictures: they are told at once, and their jobs are done."""
    for _ in range(arguments.each):
        with jobs.server(arguments.program) as server:
            server.wait_ready()
            job, answers = jobs.submit(server, steps=8), []
            size = {"width": 64, "height": 64, "steps": 100}  # none of them is done when the front dies
            calls = [(f"/api/v1/jobs?wait=60", {"prompt": "waits", **size}), ("/sdapi/v1/txt2img", {"prompt": "waits", **size}),
                     ("/v1/images/generations", {"prompt": "waits", "size": "64x64"})]
            threads = [threading.Thread(target=hang_on, args=(server, *call, answers)) for call in calls]
            for thread in threads:
                thread.start()
            wait_until("all are accepted", lambda: len(server.get("/api/v1/jobs?state=active").json()["jobs"]) == 1 + len(calls))
            wait_step(server, job)
            kill(server, server.front())
            broken = time.monotonic()
            for thread in threads:
                thread.join()
            assert answers == [None] * len(calls), answers
            assert time.monotonic() - broken < 30, "clients were not told that their connection is gone"
            jobs.check_done(server, job, attempts=2)
            wait_until("nothing is left", lambda: server.get("/api/v1/queue").status == 200 and not server.get("/api/v1/jobs?state=active").json()["jobs"])
            end(server)
    return arguments.each


def hanging(jobs, arguments):
    """A worker that is stopped in the middle of a step: the watchdog kills it, after ten seconds at least, and the job is done."""
    count = max(1, arguments.each // 4)
    for _ in range(count):
        with jobs.server(arguments.program) as server:
            server.wait_ready()
            jobs.check_done(server, jobs.submit(server))
            job = jobs.submit(server, steps=40)
            wait_step(server, job)
            worker = server.workers()[0]
            server.kill(worker, signal.SIGSTOP)
            wait_until("the watchdog's kill", lambda: not is_alive(worker))
            jobs.check_done(server, job, attempts=2)
            assert any("worker.hangs" in line for line in server.log)
            end(server)
    return count


def poison(jobs, arguments):
    """A job that kills its worker each time fails after two; those around it are done."""
    count = max(1, arguments.each // 4)
    for _ in range(count):
        with jobs.server(arguments.program, environment={"SD35_WORKER_DIES_AT": "deadly"}) as server:
            server.wait_ready()
            normal = [jobs.submit(server) for _ in range(10)]
            deadly = jobs.submit(server, prompt="deadly")
            normal += [jobs.submit(server) for _ in range(10)]
            failed = wait_end(server, deadly)
            assert failed["state"] == "failed" and failed["error"]["code"] == "poison" and failed["attempts"] == 2, failed
            jobs.forget(deadly)
            for job in normal:
                assert jobs.check_done(server, job)["attempts"] <= 2
            assert workers_killed(server) == 2
            end(server)
    return 2 * count


def stop_and_go_on(jobs, arguments, grace, finishes):
    with jobs.server(arguments.program, ["--grace", grace]) as server:
        server.wait_ready()
        both = [jobs.submit(server, seed=seed, steps=40) for seed in (1, 2)]
        waits = jobs.submit(server)
        wait_step(server, both[0])
        end(server)
        server.start()
        states = [job_of(server, job)["state"] for job in both]
        if finishes:
            assert states == ["done", "done"], states
        else:
            assert "done" not in states, states
        for job in both:
            jobs.check_done(server, job, attempts=1)
        jobs.check_done(server, waits, attempts=1)
        end(server)


def sigterm(jobs, arguments):
    """Running jobs get their grace; without one they are put back, and drawn after the next start as if nothing had been."""
    for _ in range(arguments.each):
        stop_and_go_on(jobs, arguments, 120, True)
        stop_and_go_on(jobs, arguments, 0, False)
    return 2 * arguments.each


SCENARIOS = {"points": points, "moments": moments, "batch": batch, "waiting": waiting, "streams": kill_streams.streams, "hanging": hanging, "poison": poison,
             "sigterm": sigterm, "full": kill_faults.full, "readonly": kill_faults.readonly, "second": kill_faults.second, "damaged": kill_faults.damaged,
             "memory": kill_memory.memory}


def missing(name, program):
    """Why a scenario cannot be run here."""
    if name in ("points", "poison") and not has_kill_points(program):
        return "the program has no kill points (sd35-mortal has)"
    if name in ("full", "readonly") and not kill_faults.can_mount():
        return "nothing can be mounted here"
    return kill_memory.missing() if name == "memory" else None


def run(name, arguments):
    outputs = pathlib.Path(tempfile.mkdtemp(prefix="sd35-kill-"))
    began = time.monotonic()
    try:
        count = SCENARIOS[name](Jobs(outputs), arguments)
    finally:
        shutil.rmtree(outputs, ignore_errors=True)
    print(f"PASSED {name}: {count} times, {time.monotonic() - began:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(2 ** 32))
    arguments = parser.parse_intermixed_args()
    arguments.rng = random.Random(arguments.seed)
    print("seed", arguments.seed, flush=True)
    for name in arguments.scenarios or SCENARIOS:
        reason = missing(name, arguments.program)
        if reason:
            print(f"SKIPPED {name}: {reason}", flush=True)
        else:
            run(name, arguments)
    print("no job lost, none doubled, no picture damaged; the stores are sound")


if __name__ == "__main__":
    sys.exit(main())
