"""A Docker engine of the test's own, with everything in one folder, and what is done with it."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NETWORK = "10.213.77.1/24"
HOOK = "nvidia-container-runtime-hook"  # what Docker looks for on its PATH when it is asked for --gpus


def why_not():
    """Why no engine can be had here; None: it can."""
    if os.geteuid() != 0:
        return "only root can start a Docker engine"
    for program in ("dockerd", "docker", "mmdebstrap"):
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin"):
            return f"there is no {program}"
    if pathlib.Path("/sys/class/net/docker0").exists():
        return "another Docker engine works here, and two get in each other's way"
    return None


def wait_until(what, condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(.1)
    raise AssertionError(f"not within {seconds} s: {what}")


class Engine:
    def __init__(self, folder):
        self.folder, self.process = pathlib.Path(folder), None
        self.hooks = self.folder / "hooks"
        self.hooks.mkdir(parents=True, exist_ok=True)
        self.environment = {**os.environ, "DOCKER_HOST": f"unix://{self.folder}/docker.sock", "DOCKER_BUILDKIT": "0"}

    def start(self, with_gpu_hook):
        """The hook is looked for once, at the start."""
        hook = self.hooks / HOOK
        hook.unlink(missing_ok=True)
        if with_gpu_hook:
            shutil.copy(HERE / "gpu_hook.py", hook)
            hook.chmod(0o755)
        path = f"{self.hooks}:{os.environ['PATH']}:/usr/sbin:/sbin"
        # More descriptors than the machine allows would make each container fail.
        files = "20000:20000"
        command = ["prlimit", "--nofile=20000", "dockerd", "--data-root", self.folder / "data", "--exec-root", self.folder / "exec", "--host",
                   self.environment["DOCKER_HOST"], "--pidfile", self.folder / "docker.pid", "--default-ulimit", f"nofile={files}", "--bip", NETWORK]
        with open(self.folder / "dockerd.log", "a") as log:
            self.process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env={**os.environ, "PATH": path})
        wait_until("the engine answers", self._answers, 60)

    def _answers(self):
        if self.process.poll() is not None:
            raise AssertionError("dockerd ended: " + (self.folder / "dockerd.log").read_text()[-2000:])
        return self.try_("version").returncode == 0

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
            self.process.kill()
            self.process = None

    def try_(self, *words, seconds=120, **more):
        return subprocess.run(["docker", *map(str, words)], capture_output=True, text=True, timeout=seconds, env=self.environment, **more)

    def docker(self, *words, **more):
        """What it prints; an error is the test's."""
        done = self.try_(*words, **more)
        assert done.returncode == 0, (words, done.returncode, done.stdout[-3000:], done.stderr[-3000:])
        return done.stdout.strip()

    def inspect(self, name, template):
        return self.docker("inspect", "--format", template, name)

    def logs(self, name):
        done = self.try_("logs", name)
        return done.stdout + done.stderr

    def remove(self, name):
        self.try_("rm", "--force", name)

    def wait_healthy(self, name, seconds=60):
        def healthy():
            state = json.loads(self.inspect(name, "{{json .State}}"))
            assert state["Running"], (name, state, self.logs(name))
            return state["Health"]["Status"] == "healthy"
        wait_until(f"{name} is healthy", healthy, seconds)
