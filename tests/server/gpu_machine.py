"""The GPU that is tested: what nvidia-smi says of it, servers that draw on it, and requests that take it long enough."""
import contextlib
import os
import shutil
import subprocess
import sys
import threading

from kill_jobs import wait_end
from png_pixels import decode, spread
from running import ROOT, Server, wait_until

HERE = ROOT / "tests" / "server"
PROMPT = "a red circle"
FLAT = 5  # levels of spread; a picture of anything has more
SLACK = 64  # MiB that the driver takes and gives as it likes
WORKER = 300  # MiB; less than a worker takes, and more than two workers that have drawn other sizes differ by
STEPS_MAX = 1000
COUNT_MAX = 16
WATCH_SECONDS = .2


class Skipped(Exception):
    """A part that needs what is not here."""


def has_gpu():
    return shutil.which("nvidia-smi") is not None and subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=60).returncode == 0


def pictures(server, ended):
    """The bytes of each picture of a job that is done."""
    files = [server.get(image["url"]) for image in ended["images"]]
    assert files and all(file.status == 200 for file in files), [file.status for file in files]
    return [file.body for file in files]


def decoded(data, side):
    """The pixels of a picture that must not be flat."""
    pixels = decode(data)
    assert (pixels.width, pixels.height) == (side, side), (pixels.width, pixels.height)
    assert spread(pixels) > FLAT, f"the picture is flat: its levels spread by {spread(pixels):.1f}"
    return pixels


def submit(server, body):
    made = server.post("/api/v1/jobs", body)
    assert made.status == 202, (made.status, made.body)
    return made.json()["id"]


def draw(server, body):
    """The ended job of a request that must be done."""
    ended = wait_end(server, submit(server, body), 120)
    assert ended["state"] == "done", (ended, server.tail())
    return ended


class Machine:
    """`is_gpu` is false on CPUs, and for a plugin that only plays a GPU ($FAKE_GPUS)."""

    def __init__(self, program, device, model, big=None, logs=None):
        self.program, self.device, self.model, self.big = program, device, model, big
        self.logs, self.servers = logs, []  # of all that were made
        self.is_fake = "FAKE_GPUS" in os.environ
        self.is_gpu = not self.is_fake and (device.startswith("cuda") or (device == "auto" and has_gpu()))
        self.index = int(device.partition(":")[2] or 0) if device.startswith("cuda") else 0
        self.side = 256 if self.is_gpu else 64
        self.large = {"prompt": PROMPT, "seed": 7, **({"width": 512, "height": 512} if self.is_gpu else {"width": 128, "height": 128})}
        self.step_seconds = None  # of `large`

    def small(self, **more):
        return {"prompt": PROMPT, "width": self.side, "height": self.side, "steps": 8, "seed": 7, **more}

    def options(self, *more, device=None):
        return ["--device", device or self.device, "--max-steps", STEPS_MAX, "--max-images", COUNT_MAX, "--max-queue-per-user", "1000", *more]

    def environment(self, **more):
        return {"SD35_PLUGIN_DIR": os.environ.get("SD35_PLUGIN_DIR", "/none"), "SD35_LANG": "en", **more}

    def server(self, *options, device=None, model=None, outputs=None, **environment):
        number = len(self.servers) + 1
        server = Server(self.program, model or self.model, outputs, self.options(*options, device=device), self.environment(**environment),
                        log_file=self.logs / f"{number:02}.log" if self.logs else None)
        self.servers.append(server)
        return server

    def last_log(self, lines):
        """The end of what the latest server has said."""
        return [line.rstrip("\n") for server in self.servers[-1:] for line in server.log[-lines:]]

    def run(self, *words, **environment):
        """A command of the program."""
        return subprocess.run([str(self.program), *map(str, words)], capture_output=True, text=True, timeout=120,
                              env={**os.environ, **self.environment(**environment)})

    def long(self, server, seconds):
        """A request that takes about that long alone; the first call measures, as this server may meet the size for the first time. Of several
        pictures where one cannot have steps enough."""
        for steps in (3, 10, 100, STEPS_MAX) if not self.step_seconds else ():
            took = draw(server, {**self.large, "steps": steps})["result"]["denoise_seconds"]
            if steps == 3:
                continue
            self.step_seconds = took / steps
            if took > .3:
                break
        steps = max(20, int(seconds / self.step_seconds))
        return {**self.large, "steps": min(steps, STEPS_MAX), "count": min(COUNT_MAX, -(-steps // STEPS_MAX))}

    # --- nvidia-smi ---

    def smi(self, *fields):
        """What it says, as texts."""
        done = subprocess.run(["nvidia-smi", "-i", str(self.index), "--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits"],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
        return [text.strip() for text in done.stdout.strip().split(",")]

    def used(self):
        """MiB of the GPU's memory, of all processes; 0 where there is no GPU."""
        return int(self.smi("memory.used")[0]) if self.is_gpu else 0

    def wait_given_back(self, before, what, slack=SLACK):
        """Memory comes back when the driver has taken the dead process apart. Returns what is used then."""
        if self.is_gpu:
            wait_until(f"memory of {what} is given back: {before} MiB were used before, now {self.used()}", lambda: self.used() <= before + slack, 30)
        return self.used()

    @contextlib.contextmanager
    def peak(self):
        """Watches the memory; yields a list whose maximum is the peak in MiB."""
        seen, closing = [self.used()], threading.Event()

        def watch():
            while not closing.wait(WATCH_SECONDS):
                seen.append(self.used())
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield seen
        finally:
            closing.set()
            watcher.join()

    @contextlib.contextmanager
    def ballast(self, left):
        """Another process that takes all memory but `left` MiB. Yields (MiB held, MiB free)."""
        holder = subprocess.Popen([sys.executable, HERE / "gpu_ballast.py", str(self.index), str(left)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        try:
            answer = holder.stdout.readline().split()
            assert len(answer) == 2, "the ballast holds nothing"
            yield tuple(map(int, answer))
        finally:
            holder.stdin.close()
            holder.wait(60)
            holder.stdout.close()
