#!/usr/bin/env python3
"""How a server finds its model, and that it converts one to FP8 once.

usage: models_test.py SD35

Exit status: 0 when all is well. What needs file systems of its own is SKIPPED, loudly, where none can be mounted.
"""
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from kill_faults import mount
from running import ROOT, Server, wait_until

DEMO = ROOT / "models" / "demo"
NOWHERE = {"HF_HUB_CACHE": "/none", "SD35_DEMO_DIR": "/none"}
COPY = "demo-fp8"
COMMIT = "b940f670f0eda2d07fbb75229e779da1ad11eb80"


@contextlib.contextmanager
def folders():
    """A folder of models that holds the demo model, and one for outputs."""
    with tempfile.TemporaryDirectory(prefix="sd35-models-") as folder:
        models, outputs = pathlib.Path(folder) / "models", pathlib.Path(folder) / "outputs"
        outputs.mkdir()
        shutil.copytree(DEMO, models / "demo")
        yield models, outputs


def serve(program, models, outputs, *options, **environment):
    return Server(program, model=None, outputs=outputs, options=["--fp8", "--models-dir", models, "--disk-reserve", "0", *options],
                  environment={**NOWHERE, **environment})


def events(server, event):
    return [line for line in list(server.log) if f" {event} " in line]


def facts(server):
    return server.get("/api/v1/model").json()


def log_of_ready(program, models, outputs, *options):
    """Starts a server, waits until it can draw, and stops it; with FP8 weights or without, it names the model as before."""
    with serve(program, models, outputs, *options) as server:
        server.wait_ready()
        assert facts(server)["model"] == "demo", facts(server)
        server.weights = facts(server)["weight_types"]
        assert server.stop() == 0, server.log
        return server


def parts(folder):
    return [path for path in folder.glob(f"{COPY}.part-*")]


# --- Which model ---

def check_cache(program):
    """A snapshot of the cache, with its links into blobs, is served under the repository's name."""
    with tempfile.TemporaryDirectory() as folder:
        hub = pathlib.Path(folder) / "hub"
        repo = hub / "models--someone--stable-diffusion-3.5-tiny"
        for path in DEMO.rglob("*"):
            if path.is_file():
                blob, link = repo / "blobs" / path.relative_to(DEMO).as_posix().replace("/", "_"), repo / "snapshots" / COMMIT / path.relative_to(DEMO)
                blob.parent.mkdir(parents=True, exist_ok=True)
                link.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, blob)
                link.symlink_to(os.path.relpath(blob, link.parent))
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(COMMIT)
        for model in (None, "someone/stable-diffusion-3.5-tiny", repo / "snapshots" / COMMIT):
            with Server(program, model=model, environment={"HF_HUB_CACHE": str(hub), "SD35_DEMO_DIR": "/none"}, options=["--auth", "off"]) as server:
                server.wait_ready()
                assert facts(server)["model"] == "stable-diffusion-3.5-tiny", facts(server)
                assert server.get("/v1/models").json()["data"][0]["id"] == "stable-diffusion-3.5-tiny"
                assert server.get("/sdapi/v1/sd-models").json()[0]["model_name"] == "stable-diffusion-3.5-tiny"


def check_demo(program):
    with Server(program, model=None, environment={**NOWHERE, "SD35_DEMO_DIR": str(DEMO.parent)}) as server:
        server.wait_ready()
        assert facts(server)["model"] == "demo" and 'origin="built in"' in events(server, "model.found")[0], server.log


def check_installed(program):
    """Where it is installed, the program finds what was installed with it."""
    with tempfile.TemporaryDirectory() as folder:
        binary, data = pathlib.Path(folder) / "bin" / "sd35", pathlib.Path(folder) / "share" / "sd35"
        binary.parent.mkdir()
        data.mkdir(parents=True)
        shutil.copy(program, binary)
        (data / "models").symlink_to(DEMO.parent)
        for model in (None, "demo-turbo"):
            with Server(binary, model=model, environment={"HF_HUB_CACHE": "/none"}) as server:
                server.wait_ready()
                assert facts(server)["model"] == (model or "demo") and facts(server)["is_turbo"] == (model is not None), facts(server)


# --- FP8, once ---

def check_once(program):
    with folders() as (models, outputs):
        first = log_of_ready(program, models, outputs)
        assert len(events(first, "model.converting")) == 1 and len(events(first, "model.converted")) == 1 and "f8" in first.weights, first.log
        copy = models / ".sd35" / COPY
        made = (copy / "model_index.json").stat().st_mtime_ns
        second = log_of_ready(program, models, outputs)
        assert not events(second, "model.converting") and events(second, "model.copy_found") and "f8" in second.weights, second.log
        assert (copy / "model_index.json").stat().st_mtime_ns == made
        # Another file in the source, or one missing in the copy.
        os.utime(models / "demo" / "vae" / "config.json")
        assert events(log_of_ready(program, models, outputs), "model.converted")
        with open(copy / "vae" / "diffusion_pytorch_model.safetensors", "ab") as file:
            file.truncate(1000)
        assert events(log_of_ready(program, models, outputs), "model.converted")
        assert subprocess.run([program, "verify", copy], capture_output=True).returncode == 0 and not parts(copy.parent)
        off = log_of_ready(program, models, outputs, "--keep-fp8", "off")
        assert not events(off, "model.copy_found") and "f8" not in off.weights, off.log
        # One that is FP8 needs none.
        shutil.rmtree(models / "demo")
        copy.rename(models / "demo")
        assert not [line for line in log_of_ready(program, models, outputs).log if "model.co" in line]


def check_by_path(program):
    """A model that lies elsewhere is not written beside."""
    with folders() as (models, outputs):
        with Server(program, model=models / "demo", outputs=outputs, options=["--fp8"]) as server:
            server.wait_ready()
            assert events(server, "model.converted") and (outputs / ".sd35" / "models" / COPY / "model_index.json").is_file(), server.log
            assert not (models / ".sd35").exists() and server.stop() == 0 and not server.verify()


def check_waiting(program):
    """Who finds another converting waits for it, says so, and can be stopped."""
    with folders() as (models, outputs):
        (models / ".sd35").mkdir()
        with open(models / ".sd35" / f"{COPY}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write("042\n")
            lock.flush()
            with serve(program, models, outputs) as server:
                told = wait_until("that it waits", lambda: server.get("/health/ready").json().get("loading", {}).get("fraction") == .42 and
                                  server.get("/health/ready").json())
                assert told["status"] == "loading" and told["loading"]["what"] == "waiting for a conversion to FP8", told
                began = time.monotonic()
                assert server.stop() == 0 and time.monotonic() - began < 10, server.log
            with serve(program, models, outputs) as server:
                wait_until("that it waits", lambda: events(server, "model.waiting"))
                fcntl.flock(lock, fcntl.LOCK_UN)
                server.wait_ready()
                assert events(server, "model.converted"), server.log


@contextlib.contextmanager
def half_way(program, models, outputs):
    """A server whose worker stands still in the middle of the conversion."""
    for _ in range(20):
        shutil.rmtree(models / ".sd35", ignore_errors=True)
        with serve(program, models, outputs) as server:
            wait_until("a conversion", lambda: parts(models / ".sd35") or events(server, "model.converted"))
            worker = server.workers()
            for pid in worker:
                server.kill(pid, signal.SIGSTOP)
            if len(worker) == 1 and parts(models / ".sd35") and not (models / ".sd35" / COPY).exists():
                yield server, worker[0]
                return
            for pid in worker:
                server.kill(pid, signal.SIGCONT)
    raise AssertionError("every conversion was over before it could be stopped")


def check_half_way(program):
    """Killed in the middle, nothing looks complete, and the next worker, or the next start, begins anew."""
    with folders() as (models, outputs):
        with half_way(program, models, outputs) as (server, worker):
            told = server.get("/health/ready").json()
            assert told["loading"]["what"] == "converting to FP8" and 0 <= told["loading"]["fraction"] <= 1, told
            server.kill(worker)
            server.wait_ready()
            assert len(events(server, "model.converted")) == 1 and not parts(models / ".sd35"), server.log
        with half_way(program, models, outputs) as (server, worker):
            for pid in server.all_pids():
                server.kill(pid)
            server.process.wait()
            assert parts(models / ".sd35")
        assert events(log_of_ready(program, models, outputs), "model.converted") and not parts(models / ".sd35")
        with half_way(program, models, outputs) as (server, worker):
            server.process.send_signal(signal.SIGTERM)
            wait_until("the front's end", lambda: events(server, "drain.done"))
            server.kill(worker, signal.SIGCONT)
            assert server.process.wait(10) == 0 and not parts(models / ".sd35"), server.log


def check_two(program):
    """Two servers on one folder of models: one converts, and both draw with what it made."""
    with folders() as (models, outputs), tempfile.TemporaryDirectory() as others, \
            serve(program, models, outputs) as one, serve(program, models, others) as two:
        one.wait_ready()
        two.wait_ready()
        assert len(events(one, "model.converted") + events(two, "model.converted")) == 1, (one.log, two.log)
        assert "f8" in facts(one)["weight_types"] and "f8" in facts(two)["weight_types"]


# --- Where there is no room ---

def check_unwritable(program):
    with folders() as (models, outputs):
        (models / ".sd35").write_text("in the way")
        server = log_of_ready(program, models, outputs)
        assert events(server, "model.place_unfit") and (outputs / ".sd35" / "models" / COPY).is_dir() and "f8" in server.weights, server.log
        assert events(log_of_ready(program, models, outputs), "model.copy_found")
        shutil.rmtree(outputs / ".sd35" / "models")
        (outputs / ".sd35" / "models").write_text("in the way, too")
        server = log_of_ready(program, models, outputs)
        assert len(events(server, "model.not_converted")) == 1 and "f8" not in server.weights, server.log


def check_disks(program):
    """A disk without room, and one that is read-only."""
    with folders() as (models, outputs), tempfile.TemporaryDirectory() as disk:
        if os.geteuid() != 0 or not mount("-t", "tmpfs", "-o", "size=40m", "tmpfs", disk):
            print("SKIPPED: no file system can be mounted here", flush=True)
            return
        try:
            shutil.copytree(DEMO, pathlib.Path(disk) / "demo")
            server = log_of_ready(program, disk, outputs)
            assert "are free" in events(server, "model.place_unfit")[0] and "f8" in server.weights, server.log
            assert not parts(pathlib.Path(disk) / ".sd35")
            shutil.rmtree(outputs / ".sd35" / "models")
            with serve(program, disk, outputs, "--disk-reserve", "1e9") as server:  # which is never ready
                told = wait_until("that there is no room", lambda: events(server, "model.not_converted"))
                assert "are to stay so" in told[0] and not (outputs / ".sd35" / "models" / COPY).exists(), server.log
            shutil.rmtree(pathlib.Path(disk) / ".sd35")
            assert mount("-o", "remount,ro", disk)
            server = log_of_ready(program, disk, outputs)
            assert events(server, "model.place_unfit") and events(server, "model.converted") and "f8" in server.weights, server.log
        finally:
            subprocess.run(["umount", "-l", disk], check=True)


# --- What a single file keeps ---

def check_single_file(program):
    """The factors of previews go into a single file and come out of it."""
    with tempfile.TemporaryDirectory() as folder:
        file, back = pathlib.Path(folder) / "demo.safetensors", pathlib.Path(folder) / "back"
        subprocess.run([program, "convert", "--quiet", "--model-path", DEMO, "--output-path", file, "--layout", "single"], check=True)
        dry = subprocess.run([program, "generate", "--model", file, "--dry-run"], capture_output=True)
        assert dry.returncode == 0, dry
        header = json.loads(file.read_bytes()[8:8 + int.from_bytes(file.read_bytes()[:8], "little")])
        kept, own = json.loads(header["__metadata__"]["sd35.facts"])["configs"]["vae"], json.loads((DEMO / "vae" / "config.json").read_text())
        for key in ("latent_rgb_factors", "latent_rgb_bias", "scaling_factor", "shift_factor"):
            assert kept[key] == own[key], (key, kept[key], own[key])
        assert not back.exists()


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    for check in (check_cache, check_demo, check_installed, check_once, check_by_path, check_waiting, check_half_way, check_two, check_unwritable, check_disks,
                  check_single_file):
        began = time.monotonic()
        check(program)
        print(f"ok {check.__name__} in {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
