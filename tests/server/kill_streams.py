"""Streams of events whose front dies: a client that comes back with its last id, as browsers do, learns how its job ended."""
import contextlib
import http.client
import json
import signal
import socket
import threading

from kill_jobs import FAILURES, TERMINAL, end, fronts_killed, has_kill_points, job_of, kill
from running import wait_until


def events_of(server, query, last_id, connected=lambda connection: None):
    """(name, id, data) of a stream, until it breaks or its reader has enough; none where it is refused."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.connect()
        connected(connection.sock)
        headers = {"Authorization": f"Bearer {server.key}", **({"Last-Event-ID": last_id} if last_id else {})}
        connection.request("GET", "/api/v1/events" + query, headers=headers)
        answer, event = connection.getresponse(), {}
        for line in answer if answer.status == 200 else ():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                event[name] = value
            else:
                if "event" in event:
                    yield event["event"], event.get("id"), json.loads(event["data"])
                event = {}
    finally:
        connection.close()


class Follower:
    """Follows a job, on its own stream or its owner's, through broken connections. What it is told is held against what it was told before."""

    def __init__(self, server, job, query):
        self.server, self.job, self.query = server, job, query
        self.last_id, self.lives, self.problem = None, [], None
        self.told, self.known = {"attempts": 0}, {}  # what events said last; what is known by them and by loading
        self.closing, self.socket = threading.Event(), None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def names(self, life):
        return [name for name, _, _ in self.lives[life]]

    def has_ended(self):
        return self.known.get("state") in TERMINAL

    def _run(self):
        try:
            while not self.closing.is_set():
                with contextlib.suppress(*FAILURES):
                    self._follow()
                self.closing.wait(.05)
        except Exception as problem:
            self.problem = problem

    def _follow(self):
        life = []
        for name, number, data in events_of(self.server, self.query, self.last_id, lambda connected: setattr(self, "socket", connected)):
            if not life:
                self.lives.append(life)
            self.last_id = number or self.last_id
            if name in ("ready", "gap"):
                life.append((name, number, data))
                self._load(life)
            elif data.get("id") == self.job:
                self._believe(name, data)
                self.told = data
                # One that was on its way when the job ended says nothing new.
                self.known = self.known if self.has_ended() else data
                life.append((name, number, data))

    def _load(self, life):
        now = job_of(self.server, self.job)
        if not now:
            raise ConnectionError("the front is gone again")
        self._believe("loaded", now)
        self.known = now
        life.append(("loaded", None, now))

    def _believe(self, name, data):
        """Attempts are counted in the store and ends are for good: what was told is never taken back."""
        assert data["attempts"] >= self.told["attempts"], (name, data, self.told)
        assert self.told.get("state") not in TERMINAL or data["state"] == self.told["state"], (name, data, self.told)

    def wait(self, what, is_so):
        def looks():
            if self.problem:
                raise self.problem
            return is_so(self)
        wait_until(f"{what}, after {[self.names(life)[-10:] for life in range(len(self.lives))]}", looks)

    def close(self):
        self.closing.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        if self.problem:
            raise self.problem


def has_begun(follower):
    return follower.lives and "loaded" in follower.names(0)


def draws(follower):
    return any(name == "job.progress" and data["step"] >= 2 for name, _, data in follower.lives[0])


def is_told_of_end(follower):
    return "job.done" in follower.names(0)


def afterwards(follower):
    """All that came after the death, on one connection or, where the front was not quite there yet, on several."""
    return [heard for life in follower.lives[1:] for heard in life]


def knows_end(follower):
    return "loaded" in [name for name, _, _ in afterwards(follower)] and follower.has_ended()


def check_told(follower, ended):
    """After the death it is told at once that its past is gone; no event twice; one end, told or loaded, which is the store's."""
    first, second = follower.lives[0], afterwards(follower)
    names = [name for name, _, _ in first], [name for name, _, _ in second]
    boots = [{number.split("-")[0] for _, number, _ in life if number} for life in (first, second)]
    numbers = [number for _, number, _ in first + second if number]
    assert len(numbers) == len(set(numbers)) and len(boots[0]) == len(boots[1]) == 1 and boots[0] != boots[1], numbers
    assert "gap" not in names[0] and "ready" not in names[1] and names[1][0] == "gap", names
    loaded = second[names[1].index("loaded")][2]
    assert sum(one.count("job.done") for one in names) == 1 or loaded["state"] == "done" and "job.done" not in names[0] + names[1], names
    assert all(follower.known[name] == ended[name] for name in ("state", "attempts", "images")), (follower.known, ended)


def check_resumed(server, follower):
    """One that lost its connection only gets what it missed and nothing else. Returns how much that was."""
    seen = [number for name, number, _ in afterwards(follower) if name.startswith("job.")]
    if len(seen) < 2:
        return 0
    missed = []
    for name, number, data in events_of(server, follower.query, seen[0]):
        assert name not in ("ready", "gap"), name
        if data.get("id") == follower.job:
            missed.append(number)
        if number == seen[-1]:
            break
    assert missed == seen[1:], (missed, seen)
    return len(missed)


def die(jobs, program, when=None, environment=None):
    """The front dies once `when` of a follower is so, or by itself. Returns what could be resumed afterwards."""
    with jobs.server(program, environment=environment) as server:
        server.wait_ready()
        worker = server.workers()[0]
        server.kill(worker, signal.SIGSTOP)  # nothing ends before it is followed
        job = jobs.submit(server, steps=40, count=2)
        followers = [Follower(server, job, query) for query in ("", f"?job={job}")]
        for follower in followers:
            follower.wait("a beginning", has_begun)
        front = server.front()
        server.kill(worker, signal.SIGCONT)
        if when:
            for follower in followers:
                follower.wait(when.__name__, when)
            kill(server, front)
        ended = jobs.check_done(server, job)
        for follower in followers:
            follower.wait("the truth after the death", knows_end)
            follower.close()
            check_told(follower, ended)
        resumed = sum(check_resumed(server, follower) for follower in followers)
        assert fronts_killed(server) == 1, server.log[-20:]
        end(server)
        return resumed


def streams(jobs, arguments):
    """K10 and around: the front dies in the middle of a job, when its end is committed and nobody was told, and when its followers were told."""
    mortal = has_kill_points(arguments.program)
    for _ in range(arguments.each):
        assert die(jobs, arguments.program, draws) > 0, "the job that was drawn again had no events"
        die(jobs, arguments.program, is_told_of_end)
        if mortal:
            die(jobs, arguments.program, environment={"SD35_KILL_AT": "done.committed"})
    return (3 if mortal else 2) * arguments.each
