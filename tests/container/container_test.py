"""The image as its users have it: built twice, and run by a real Docker engine, in at most ten minutes.

usage: container_test.py [--keep FOLDER] [SCENARIO ...]

Scenarios choose of those below. With --keep the engine's folder stays, and what was built in it is not built again: for who works on a scenario. The engine is the test's own, in a folder of its own; it needs root. No GPU is used:
what Docker calls for one is replaced by a hook that makes a device's node. SKIPPED, loudly, where no engine can be started.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import image
from engine import ROOT, Engine, wait_until, why_not

PORT = 7860
NAME = "sd35-fp8"  # as in the README
SPEC = {"prompt": "two apples", "width": 128, "height": 128, "steps": 4, "seed": 1}


# --- A server in a container ---

class Server:
    """A container that serves; `outputs` is its folder out here."""

    def __init__(self, engine, outputs, name=NAME):
        self.engine, self.outputs, self.name, self.port = engine, pathlib.Path(outputs), name, PORT
        self.key = None

    @classmethod
    def run(cls, engine, outputs, *options, arguments=("--port=7860", "--fp8"), tag=image.IMAGE):
        """Of a container that is started here, and not by what a user does."""
        server = cls(engine, outputs)
        engine.docker("run", "--detach", "--name", NAME, "--health-interval=1s", *options, "--volume", f"{server.outputs}:/app/outputs", tag, *arguments)
        return server

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.engine.remove(self.name)

    def logs(self):
        return self.engine.logs(self.name)

    def ready(self, seconds=60):
        """Healthy, as the engine itself finds out, and with the key that only the first log tells."""
        self.engine.wait_healthy(self.name, seconds)
        made = re.search(r"one was made: (sd35_\S+)", self.logs())
        self.key = made[1] if made else (self.outputs / ".sd35" / "first-key").read_text().strip()
        return self

    def request(self, method, path, body=None, seconds=120):
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode() if body is not None else None, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read()

    def draw(self, **more):
        """A job that ends, and the bytes of its picture."""
        status, body = self.request("POST", "/api/v1/jobs?wait=60", {**SPEC, **more})
        job = json.loads(body)
        assert status in (200, 201, 202) and job["state"] == "done", (status, body, self.logs())
        status, picture = self.request("GET", job["images"][0]["url"])
        assert status == 200 and picture[:8] == b"\x89PNG\r\n\x1a\n", (status, picture[:100])
        return job["id"], picture

    def same_as_before(self, job, picture):
        status, body = self.request("GET", f"/api/v1/jobs/{job}")
        assert status == 200 and json.loads(body)["state"] == "done", (status, body)
        assert self.request("GET", json.loads(body)["images"][0]["url"]) == (200, picture)

    def stop(self):
        """As `docker stop` does; the exit code."""
        self.engine.docker("stop", "--time", 60, self.name)
        return int(self.engine.inspect(self.name, "{{.State.ExitCode}}"))

    def processes(self):
        """User and command of each."""
        lines = self.engine.docker("top", self.name, "-eo", "pid,uid,args").splitlines()[1:]
        return [line.split(maxsplit=2)[1:] for line in lines]

    def status(self, field):
        """Of the container's first process, as /proc tells it."""
        pid = self.engine.inspect(self.name, "{{.State.Pid}}")
        return re.search(rf"^{field}:\s*(\S+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]


def plain(engine, outputs, *options, **more):
    return Server.run(engine, outputs, "--publish", f"{PORT}:7860", *options, **more)


# --- Scenarios ---

def readme(engine, folder):
    """The README's own command, where nothing was prepared; then a restart, a removal, and the same history."""
    text = (ROOT / "README.md").read_text()
    command = re.search(r"^docker run (?:.*\\\n)*.*stable-diffusion-3\.5-fp8$", text, re.MULTILINE)[0]
    assert "--gpus all" in command and "outputs:/app/outputs" in command, command
    for again in (False, True):
        subprocess.run(command, shell=True, check=True, cwd=folder, env=engine.environment, stdout=subprocess.DEVNULL)
        with Server(engine, folder / "outputs") as server:
            server.ready()
            if again:
                server.same_as_before(job, picture)
                assert server.draw()[1] == picture, "the same request gave another picture"
            else:
                job, picture = server.draw()
                engine.docker("restart", NAME)
                server.ready().same_as_before(job, picture)
                users = {user for user, _ in server.processes()}
                assert users == {"10001"} and (folder / "outputs").stat().st_uid == 10001, users
                assert int(server.status("CapEff"), 16) == 0 and server.status("NoNewPrivs") == "1"
            assert server.stop() == 0, server.logs()
    assert not engine.docker("run", "--rm", "--volume", f"{folder}/outputs:/app/outputs", "--entrypoint", "sd35", image.IMAGE,
                             "verify", "--quiet", "--store", "/app/outputs")


def without_hook(engine, folder):
    """--gpus all where NVIDIA's toolkit is missing: Docker's own error, of which the documentation tells the cure."""
    engine.stop()
    engine.start(with_gpu_hook=False)
    done = engine.try_("run", "--rm", "--gpus", "all", image.IMAGE, "--help")
    assert done.returncode == 125 and "could not select device driver" in done.stderr, done
    assert "could not select device driver" in (ROOT / "docs" / "containers.md").read_text()
    engine.stop()
    engine.start(with_gpu_hook=True)


def restricted(engine, folder):
    """Read-only, without capabilities, as somebody else, with little of everything."""
    (folder / "outputs").mkdir()
    os.chown(folder / "outputs", 1234, 1234)
    with plain(engine, folder / "outputs", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "1234:1234", "--memory", "512m",
               "--cpus", "0.5", "--pids-limit", "64") as server:
        server.ready()
        assert {user for user, _ in server.processes()} == {"1234"} and int(server.status("CapBnd"), 16) == 0
        server.draw()
        assert "1 thread" in server.logs(), server.logs()  # half a CPU is one thread's
        assert server.stop() == 0


def users(engine, folder):
    """PUID and PGID; a folder that is somebody's; no capabilities and nobody named."""
    for options, owner, expected in ((("--env", "PUID=4321", "--env", "PGID=8765"), None, (4321, 8765)), ((), (2222, 3333), (2222, 3333)),
                                     (("--cap-drop", "ALL"), None, (0, 0))):
        outputs = folder / f"outputs-{expected[0]}"
        if owner:
            outputs.mkdir()
            os.chown(outputs, *owner)
        with plain(engine, outputs, *options) as server:
            server.ready().draw()
            assert {user for user, _ in server.processes()} == {str(expected[0])}, server.processes()
            found = [(entry.stat().st_uid, entry.stat().st_gid) for entry in outputs.rglob("*")]
            assert len(found) > 5 and set(found) == {expected}, set(found)
    done = engine.try_("run", "--rm", "--env", "PUID=root", image.IMAGE)
    assert done.returncode == 2 and "PUID" in done.stderr, done


def not_writable(engine, folder):
    """Another user's folder: what is wrong, and the command that mends it."""
    (folder / "outputs").mkdir(mode=0o755)
    done = engine.try_("run", "--rm", "--user", "1234:1234", "--volume", f"{folder}/outputs:/app/outputs", image.IMAGE)
    assert done.returncode != 0 and "/app/outputs" in done.stderr and "chown" in done.stderr and "1234" in done.stderr, done


def no_network(engine, folder):
    """Nothing is downloaded: it starts without any network, and draws."""
    with Server.run(engine, folder / "outputs", "--network", "none") as server:
        server.ready()
        pid = engine.inspect(server.name, "{{.State.Pid}}")
        client = ("import json, sys, urllib.request as u; r = u.Request('http://127.0.0.1:7860/api/v1/jobs?wait=60', sys.argv[2].encode(), "
                  "{'Authorization': 'Bearer ' + sys.argv[1], 'Content-Type': 'application/json'}); print(json.load(u.urlopen(r))['state'])")
        done = subprocess.run(["nsenter", "-t", pid, "-n", sys.executable, "-c", client, server.key, json.dumps(SPEC)], capture_output=True, text=True, timeout=120)
        assert done.stdout.strip() == "done", (done, server.logs())


def memory(engine, folder):
    """A picture that takes more memory than the container has kills its worker, not the server, and is told."""
    with plain(engine, folder / "outputs", "--memory", "280m", "--memory-swap", "280m") as server:
        server.ready()
        server.draw()
        status, body = server.request("POST", "/api/v1/jobs?wait=60", {**SPEC, "width": 2048, "height": 2048})
        while status == 202:
            status, body = server.request("GET", f"/api/v1/jobs/{json.loads(body)['id']}?wait=30")
            status = 202 if status == 200 and json.loads(body)["state"] in ("queued", "running") else status
        job = json.loads(body)
        assert status == 422 or job["error"]["code"] == "out_of_memory", (status, body, server.logs())
        server.draw()
        assert engine.inspect(server.name, "{{.State.Running}} {{.RestartCount}}") == "true 0"


def models(engine, folder):
    """A 16-bit model that is mounted: used as it is where it cannot be written, else converted once."""
    shutil.copytree(ROOT / "models" / "demo", folder / "models" / "apples")
    os.chmod(folder / "models", 0o777)
    options = ["--volume", f"{folder}/models:/app/models"]
    for started in ("first", "second"):
        with plain(engine, folder / "outputs", *options) as server:
            server.ready()
            status, body = server.request("GET", "/v1/models")
            assert status == 200 and b"apples" in body, body
            assert ("converting" in server.logs()) == (started == "first"), server.logs()
    with plain(engine, folder / "outputs", *options, arguments=["--model", "demo-turbo"]) as server:  # what the image itself has
        server.ready().draw()


def built_in(engine, folder):
    """--build-arg MODEL: in the image, in FP8."""
    image.build(engine, "sd35-with-model", "--build-arg", "MODEL=models/demo-turbo")
    with plain(engine, folder / "outputs", tag="sd35-with-model") as server:
        server.ready().draw()
        status, body = server.request("GET", "/v1/models")
        assert status == 200 and b"demo-turbo" in body, body
        assert "converting" not in server.logs(), server.logs()


def told(engine, folder):
    """The hook's GPU is none: the server says so, in the reader's language, and serves from the CPU."""
    for language, word in (("C.UTF-8", "GPU"), ("zh_CN.UTF-8", "GPU")):
        done = engine.try_("run", "--rm", "--gpus", "all", "--env", f"LANG={language}", "--entrypoint", "sd35", image.IMAGE, "check")
        assert done.returncode == 0 and word in done.stdout, done
        assert language.startswith("zh") == bool(re.search("[\u4e00-\u9fff]", done.stdout)), done.stdout


def compose(engine, folder):
    """The compose file, as it is."""
    command = ["docker-compose", "--file", "deploy/compose.yaml", "--project-name", "sd35test"]
    shutil.copytree(ROOT / "deploy", folder / "deploy")  # its outputs lie beside it

    def run(*words):
        subprocess.run([*command, *words], cwd=folder, env=engine.environment, check=True, capture_output=True, timeout=120)
    try:
        run("up", "--detach", "--no-build")
        name = engine.docker("ps", "--quiet", "--filter", "label=com.docker.compose.project=sd35test")
        Server(engine, folder / "outputs", name).ready().draw()
    finally:
        run("down")


def unit(engine, folder):
    """The systemd unit: nothing to complain of, and little that it is allowed."""
    if not shutil.which("systemd-analyze"):
        print("SKIPPED unit: there is no systemd-analyze", flush=True)
        return
    text = (ROOT / "deploy" / "sd35.service").read_text()
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=40", ROOT / "deploy" / "sd35.service"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:]
    (folder / "sd35.service").write_text(text.replace("/usr/local/bin/sd35", "/bin/true"))  # it is not installed here
    done = subprocess.run(["systemd-analyze", "verify", folder / "sd35.service"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout + done.stderr, done


SCENARIOS = [readme, restricted, users, not_writable, no_network, memory, models, told, compose, unit, built_in, without_hook]


# --- All of it ---

class Rebuild(threading.Thread):
    """The second build, without anything kept of the first, while the first one is tested."""

    def __init__(self, engine):
        super().__init__(daemon=True)
        self.engine, self.problem = engine, None

    def run(self):
        try:
            image.build(self.engine, "sd35-again", "--no-cache")
        except Exception as problem:
            self.problem = problem

    def check(self):
        self.join()
        if self.problem:
            raise self.problem
        first, second = image.layers(self.engine, image.IMAGE), image.layers(self.engine, "sd35-again")
        assert first == second, f"two builds differ: {first} {second}"
        print(f"two builds: the same {len(first)} layers", flush=True)


def timed(what, run, *arguments):
    began = time.monotonic()
    result = run(*arguments)
    print(f"ok {what} ({time.monotonic() - began:.0f} s)", flush=True)
    return result


def check_image(engine):
    size = image.mebibytes(engine, image.IMAGE)
    print(f"the image: {size:.0f} MiB, of which {image.mebibytes(engine, image.BASE):.0f} are its base", flush=True)
    assert size <= 150
    found = engine.docker("run", "--rm", "--entrypoint", "sh", image.IMAGE, "-c", "command -v gcc cc cmake ld || echo none")
    assert found == "none", found
    for label in ("title", "version", "licenses"):
        assert engine.inspect(image.IMAGE, f'{{{{index .Config.Labels "org.opencontainers.image.{label}"}}}}')


def run(names, folder, is_kept):
    engine = Engine(folder)
    try:
        engine.start(with_gpu_hook=True)
        if engine.try_("inspect", image.BASE).returncode != 0:
            timed("base", image.make_base, engine)
        timed("build", image.build, engine, image.IMAGE)
        check_image(engine)
        rebuild = Rebuild(engine)
        if not is_kept:
            rebuild.start()
        scenarios = [scenario for scenario in SCENARIOS if scenario.__name__ in names or not names]
        for scenario in scenarios:
            if scenario in (built_in, without_hook) and not is_kept:  # the first builds, the second restarts the engine
                rebuild.join()
            own = pathlib.Path(folder) / scenario.__name__
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir()
            timed(scenario.__name__, scenario, engine, own)
        if not is_kept:
            timed("second build", rebuild.check)
    finally:
        engine.stop()
        clean_up(folder)


def clean_up(folder):
    """What an engine leaves behind."""
    for words in (["ip", "link", "del", "docker0"], ["nft", "delete", "table", "ip", "nat"], ["nft", "delete", "table", "ip", "filter"]):
        with contextlib.suppress(OSError):
            subprocess.run(words, capture_output=True)
    for mount in pathlib.Path("/proc/mounts").read_text().splitlines():
        if mount.split()[1].startswith(str(folder)):
            subprocess.run(["umount", "--lazy", mount.split()[1]], capture_output=True)


def main():
    reason = why_not()
    if reason:
        print(f"SKIPPED container: {reason}")
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", metavar="FOLDER")
    parser.add_argument("names", nargs="*", metavar="SCENARIO", choices=[*(scenario.__name__ for scenario in SCENARIOS), []])
    arguments = parser.parse_args()
    folder = arguments.keep or tempfile.mkdtemp(prefix="sd35-container-")
    try:
        run(arguments.names, folder, arguments.keep is not None)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print("the image is what it should be")


if __name__ == "__main__":
    main()
