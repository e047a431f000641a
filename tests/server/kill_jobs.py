"""Jobs of the survival tests: submitted through failures, waited for, and their pictures compared with what the same request gave before."""
import collections
import contextlib
import hashlib
import http.client
import json
import pathlib
import threading
import time

from running import Server, is_alive, wait_until

SPEC = {"prompt": "two apples", "width": 64, "height": 64, "steps": 2}
TERMINAL = ("done", "failed", "cancelled")
SEEDS = 3  # different pictures; each always has the same bytes
FAILURES = (OSError, http.client.HTTPException, json.JSONDecodeError)


def has_kill_points(program):
    return b"SD35_KILL_AT" in pathlib.Path(program).read_bytes()


def job_of(server, job):
    """The job as it is now, {} while nobody answers. A job that is not there any more was lost."""
    with contextlib.suppress(*FAILURES):
        answer = server.get(f"/api/v1/jobs/{job}", timeout=10)
        assert answer.status != 404, f"job {job} is lost"
        if answer.status == 200:
            return answer.json()
    return {}


def is_in(job, states=TERMINAL):
    return job if job.get("state") in states else None


def wait_end(server, job, seconds=300):
    """The ended job; where it does not end, what it was last and what the server has logged."""
    def ended():
        assert server.process.poll() is None, f"the server ended with {server.process.poll()} before job {job}"
        return is_in(job_of(server, job))
    try:
        return wait_until(f"job {job} ends", ended, seconds)
    except AssertionError as problem:
        raise AssertionError(f"{problem}\nlast: {job_of(server, job)}\n" + "".join(server.log[-40:])) from None


def wait_step(server, job, step=2):
    def is_there():
        now = job_of(server, job)
        assert not is_in(now), f"job {job} ended before it was seen at step {step}: {now}"
        return now.get("phase") == "denoise" and now["step"] >= step
    return wait_until(f"job {job} is at step {step}", is_there)


def kill(server, pid):
    server.kill(pid)
    wait_until("the death", lambda: not is_alive(pid))


class Jobs:
    """What was asked for and answered, over all servers that ever ran on one outputs folder."""

    def __init__(self, outputs):
        self.outputs, self.lock = outputs, threading.Lock()
        self.number, self.accepted = 0, {}
        self.hash_of, self.outcomes = {}, collections.Counter()

    def next_key(self):
        with self.lock:
            self.number += 1
            return f"kill-{self.number}"

    def body(self, key, **more):
        return {**SPEC, "seed": int(key.rsplit("-", 1)[1]) % SEEDS, **more}

    def submit(self, server, give_up=lambda: False, **more):
        """With one key until there is an answer, as a client that lost its connection does not know. Returns the job's id."""
        key = self.next_key()
        body = self.body(key, **more)

        def accepted():
            if give_up():
                return "nobody"
            with contextlib.suppress(*FAILURES):
                answer = server.post("/api/v1/jobs", body, headers={"Idempotency-Key": key}, timeout=10)
                assert answer.status in (200, 202, 429, 503), (answer.status, answer.body)
                return answer.json()["id"] if answer.status in (200, 202) else None
        job = wait_until(f"{key} is accepted", accepted)
        if job == "nobody":
            return None
        with self.lock:
            assert job not in [known for known, _ in self.accepted.values()], f"{key} got the job of another key"
            self.accepted[key] = (job, body)
        return job

    def forget(self, job):
        """It was cancelled or deleted: it is not waited for."""
        with self.lock:
            self.accepted = {key: known for key, known in self.accepted.items() if known[0] != job}

    def check_picture(self, server, ended, body):
        """Done, with as many pictures as were asked for, whose bytes are those that this request always gave."""
        assert ended["state"] == "done" and [image["index"] for image in ended["images"]] == list(range(body.get("count", 1))), ended
        pictures = [server.get(image["url"]) for image in ended["images"]]
        assert all(picture.status == 200 for picture in pictures), [picture.status for picture in pictures]
        found = hashlib.sha256(b"".join(picture.body for picture in pictures)).hexdigest()
        known = self.hash_of.setdefault(json.dumps(body, sort_keys=True), found)
        assert known == found, f"{body} gave other bytes than before"

    def check_done(self, server, job, attempts=None):
        ended = wait_end(server, job)
        body = next(body for known, body in self.accepted.values() if known == job)
        self.check_picture(server, ended, body)
        assert attempts is None or ended["attempts"] == attempts, ended
        return ended

    def check_all(self, server, failures=()):
        """Every accepted job is done or failed with a code of `failures`, and no other is there."""
        for key, (job, body) in self.accepted.items():
            ended = wait_end(server, job)
            self.outcomes[ended["state"] if ended["state"] != "failed" else ended["error"]["code"]] += 1
            if ended["state"] == "done":
                self.check_picture(server, ended, body)
            else:
                assert ended["state"] == "failed" and ended["error"]["code"] in failures, (key, ended)
        listed = all_jobs(server)
        assert len(listed) == len(set(listed))
        return listed

    def server(self, program, options=(), environment=None):
        return Server(program, outputs=self.outputs, options=["--log-level", "warning", "--max-queue-per-user", "1000", *options], environment=environment)


def all_jobs(server):
    """The ids of all jobs of the history."""
    ids, cursor = [], None
    while True:
        page = server.get("/api/v1/jobs?limit=100" + (f"&cursor={cursor}" if cursor else "")).json()
        ids += [job["id"] for job in page["jobs"]]
        cursor = page.get("next_cursor")
        if not cursor:
            return ids


def end(server):
    """An orderly stop, and a look at what is left."""
    code = server.stop()
    assert code == 0, (code, server.log[-20:])
    defects = server.verify()
    assert not defects, defects


def fronts_killed(server):
    return sum("front.died code=137" in line for line in server.log)


def workers_killed(server):
    return sum("worker.died" in line and "code=137" in line for line in server.log)


class Clients:
    """Threads that submit jobs all the time, and one that reads metrics."""

    def __init__(self, jobs, server, count=2):
        self.jobs, self.server, self.stopping, self.problems = jobs, server, threading.Event(), []
        self.threads = [threading.Thread(target=self._guard, args=(run,), daemon=True) for run in [self._submit] * count + [self._scrape]]
        for thread in self.threads:
            thread.start()

    def _guard(self, run):
        try:
            run()
        except Exception as problem:
            self.problems.append(problem)

    def _submit(self):
        while not self.stopping.is_set():
            self.jobs.submit(self.server, give_up=self.stopping.is_set)
            time.sleep(.3)  # slower than jobs are done, so that not all of them wait

    def _scrape(self):
        while not self.stopping.is_set():
            with contextlib.suppress(*FAILURES):
                self.server.get("/metrics", timeout=10)
            time.sleep(.01)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        assert not self.problems, self.problems
