"""A Large model on a GPU, as its server is used: figures, and only what is surely wrong fails."""
import http.client
import statistics
import threading
import time

from gpu_machine import PROMPT, draw, pictures, submit
from kill_jobs import wait_end
from png_pixels import decode, spread

SECONDS = 500  # for all of it
READY_SECONDS = 300
BODY = {"prompt": PROMPT, "width": 1024, "height": 1024, "steps": 28}
RATE = 200  # polls a second


class Polls:
    """Asks for a job's state at a steady rate on one connection; what a poll takes counts from the moment it was due."""

    def __init__(self, server, job):
        self.server, self.job, self.seconds, self.problem = server, job, [], None
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        connection, headers = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60), {"Authorization": f"Bearer {self.server.key}"}
        began, number = time.monotonic(), 0
        try:
            while not self.closing.is_set():
                due, number = began + number / RATE, number + 1
                time.sleep(max(0, due - time.monotonic()))
                connection.request("GET", f"/api/v1/jobs/{self.job}", headers=headers)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200, answer.status
                self.seconds.append(time.monotonic() - due)
        except Exception as problem:
            self.problem = problem
        finally:
            connection.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *unused):
        self.closing.set()
        self.thread.join(60)

    def told(self):
        assert self.problem is None, self.problem
        taken = statistics.quantiles(self.seconds, n=100)
        return f"{len(self.seconds)} polls, median {1e3 * taken[49]:.1f} ms, p99 {1e3 * taken[98]:.1f} ms"


def timed(server, **more):
    """(seconds over the API, the ended job)."""
    began = time.monotonic()
    ended = draw(server, {**BODY, **more})
    return time.monotonic() - began, ended


def big(machine):
    before, began = machine.used(), time.monotonic()
    with machine.peak() as seen, machine.server("--max-batch", "4", model=machine.big) as server:
        server.wait_ready(READY_SECONDS)
        ready = time.monotonic() - began
        model = server.get("/api/v1/model").json()
        assert model["has_t5"] is True, model
        first = timed(server, seed=0)
        took = [timed(server, seed=seed)[0] for seed in range(1, 4)]
        four = timed(server, seed=4, count=4)[0]
        job = submit(server, {**BODY, "seed": 9})
        polled_from = time.monotonic()
        with Polls(server, job) as polls:
            assert wait_end(server, job)["state"] == "done", server.tail()
        polled = time.monotonic() - polled_from
        pixels = decode(pictures(server, first[1])[0])  # flat ones are told of: the weights may be anybody's
        assert server.stop() == 0 and not server.verify(), server.tail()
    machine.wait_given_back(before, "the model")
    memory = f"peak {max(seen)} MiB, {before} before" if machine.is_gpu else "memory SKIPPED"
    return (f"{model['model']} ({model['variant']}, {model['weight_types']}) on {model['device']}: ready after {ready:.1f} s; {BODY['width']} x {BODY['height']}, "
            f"{BODY['steps']} steps: first {first[0]:.2f} s, levels spread by {spread(pixels):.0f}, then {', '.join(f'{seconds:.2f}' for seconds in took)} s; "
            f"4 at once {four:.2f} s; under polls {polled:.2f} s, {polls.told()}; {memory}")
