"""A running server for black-box tests: started, watched, killed and stopped. Python's standard library only."""
import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEADLINE = 120  # seconds for anything that should happen soon


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


def wait_until(what, condition, seconds=DEADLINE):
    """The first true value of condition()."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def free_port():
    while True:
        port = random.randrange(10000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def children(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def is_scout(pid):
    """The process that looks for GPUs and trouble when a server starts."""
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == "sd35-scout"
    except OSError:
        return False


class Server:
    """`sd35 serve` on a free port of loopback. The outputs folder survives restarts of the object's process. `model` None names none."""

    def __init__(self, program, model=ROOT / "models" / "demo", outputs=None, options=(), environment=None, files=None, log_file=None, before=()):
        self.program, self.model, self.options = pathlib.Path(program), model, list(options)
        self.own_outputs = outputs is None
        self.outputs = pathlib.Path(outputs or tempfile.mkdtemp(prefix="sd35-outputs-"))
        self.environment = {**os.environ, "SD35_PLUGIN_DIR": "/none", **(environment or {})}
        self.files, self.log_file = files, log_file  # the most descriptors of a process; a copy of its log
        self.before = list(before)  # words of a command that becomes the server
        self.process, self.key, self.url, self.port = None, None, None, 0
        self.log = []

    def start(self, port=0):
        # Not one of those that other tests' outgoing connections take: it must be free at a restart, too.
        if not port and not self.port:
            self.port = free_port()
        named = ["--model", self.model] if self.model else []
        command = [self.program, "serve", *named, "--host", "127.0.0.1", "--port", str(port or self.port), "--outputs-dir", self.outputs,
                   "--device", "cpu", *self.options]
        self.url = None
        if self.files:
            command = ["prlimit", f"--nofile={self.files}", "--", *command]
        command = [*self.before, *command]
        self.process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True, env=self.environment, errors="replace")
        threading.Thread(target=self._read_log, args=(self.process,), daemon=True).start()
        wait_until("an address in the log", lambda: self.url or self.process.poll() is not None)
        if not self.url:
            raise AssertionError("the server ended:\n" + "".join(self.log[-20:]))
        # The file is there before the address is told.
        with contextlib.suppress(FileNotFoundError):
            self.key = (self.outputs / ".sd35" / "first-key").read_text().strip()
        return self

    def _read_log(self, process):
        for line in process.stderr:
            self.log.append(line)
            if self.log_file:
                with open(self.log_file, "a") as copy:
                    copy.write(line)
            key = re.search(r"one was made: (sd35_\S+)", line)
            if key:
                self.key = key[1]
            address = re.search(r"serving at (https?://\S+?)/?\s*$", line)
            # Of each front: with port 0 the next one has another. Not what a server that was killed had said.
            if address and process is self.process:
                self.port = urllib.parse.urlsplit(address[1]).port
                self.url = address[1]

    def tail(self, lines=20):
        """The end of the log, and whether the server has ended, for whoever reads of a failure."""
        code = self.process.poll()
        return "".join(self.log[-lines:]) + ("" if code is None else f"the server has ended with {code}")

    def wait_ready(self, seconds=DEADLINE):
        def looks():
            assert self.process.poll() is None, "the server ended before it was ready"
            return self._ready()
        try:
            return wait_until("readiness", looks, seconds)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.tail()}") from None

    def _ready(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/health/ready").status == 200
        return False

    # Which process is which: the worker is the one whose name the log tells, the front listens.
    def front(self):
        for pid in children(self.process.pid):
            if self._listens(pid):
                return pid
        return None

    def workers(self):
        front = self.front()
        return [pid for pid in children(self.process.pid) if pid != front and is_alive(pid) and not is_scout(pid)] if front else []

    def _listens(self, pid):
        inodes = set()
        with contextlib.suppress(OSError):  # of another user, or gone
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):  # closed since
                    inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == self.port and f"socket:[{fields[9]}]" in inodes:
                return True
        return False

    def request(self, method, path, body=None, headers=None, timeout=DEADLINE, key=True):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        headers = dict(headers or {})
        if key and self.key:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        if body is not None and not isinstance(body, (bytes, str)):
            body, _ = json.dumps(body), headers.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, body=None, **more):
        return self.request("POST", path, {} if body is None else body, **more)

    def kill(self, pid, number=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def all_pids(self):
        return [self.process.pid, *children(self.process.pid)] if self.process else []

    def stop(self, seconds=DEADLINE):
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def close(self):
        for pid in self.all_pids():
            self.kill(pid)
        if self.process:
            self.process.wait()
        if self.own_outputs:
            shutil.rmtree(self.outputs, ignore_errors=True)

    def verify(self):
        """What `sd35 verify --store` says of the outputs of a server that is stopped; "" when they are sound."""
        done = subprocess.run([str(self.program), "verify", "--store", str(self.outputs)], capture_output=True, text=True)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def __enter__(self):
        return self.start()

    def __exit__(self, *unused):
        self.close()
