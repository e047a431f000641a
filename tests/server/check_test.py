#!/usr/bin/env python3
"""What `sd35 check` finds where it is made to happen: ports that are taken, folders that cannot be written, models that are not there or not whole,
a small /dev/shm; in English and in Chinese, and what `sd35 serve` says of the same. And `sd35 check --health` with a server and without one.

usage: check_test.py SD35

Needs root for other users and mounts, and says SKIPPED otherwise. Exit status: 0 when all is well.
"""
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from running import ROOT, Server, wait_until

MODEL = ROOT / "models" / "demo"
NOBODY = 65534
QUIET = ("--log-level", "warning")
SMALL = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 2, "seed": 7}


def environment(language="en", **more):
    """Without a plugin, unless `more` names one."""
    return {**os.environ, "SD35_PLUGIN_DIR": "/none", "SD35_LANG": language, **more}


def run(program, *words, before=(), language="en", **more):
    command = [*map(str, before), str(program), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(language, **more))


def check(program, *words, before=(), **more):
    """{code: finding} of the check of a server that would start, but for `words`, and its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        usual = ["--json", "--model", MODEL, "--host", "127.0.0.1", "--port", "0", "--outputs-dir", f"{folder}/outputs", "--device", "cpu"]
        done = run(program, "check", *usual, *words, before=before, **more)
    assert done.returncode in (0, 1), done
    findings = json.loads(done.stdout)
    assert findings["ok"] == (done.returncode == 0), findings
    return {finding["code"]: finding for finding in findings["findings"]}, done.returncode


def expect(program, code, *words, says=(), cure=(), level="fail", before=(), **more):
    """The same finding in both languages, whose texts differ and name the same things."""
    texts = []
    for language in ("en", "zh"):
        findings, status = check(program, *words, before=before, language=language, **more)
        assert code in findings, (code, findings)
        finding = findings[code]
        assert finding["level"] == level and status == (level == "fail"), (finding, status)
        for part in says:
            assert str(part) in finding["found"], (part, finding)
        for part in cure:
            assert str(part) in finding["cure"], (part, finding)
        assert all(other["level"] != "fail" or other["code"] == code for other in findings.values()), findings
        texts.append(finding["found"])
    assert texts[0] != texts[1] and texts[0].isascii() and not texts[1].isascii(), texts
    return texts


def is_root(what):
    if os.geteuid() == 0:
        return True
    print(f"{what}: SKIPPED: needs root")
    return False


@contextlib.contextmanager
def open_to_all():
    """A folder that any user reaches, for programs that run as another one."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)


def program_for_all(program, folder):
    """Copies of program and model where any user reads them."""
    shutil.copy(program, folder / "sd35")
    shutil.copytree(MODEL, folder / "model")
    return folder / "sd35"


def as_user(user):
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]


def with_mount(mount):
    """The words before a command that has mounts of its own."""
    return ["unshare", "--mount", "sh", "-c", f"{mount} && exec \"$@\"", "sh"]


def can_mount():
    if not is_root("mounts"):
        return False
    if subprocess.run(with_mount("mount -t tmpfs none /mnt") + ["true"], capture_output=True).returncode == 0:
        return True
    print("mounts: SKIPPED: this root may not mount")
    return False


# --- Nothing is wrong ---

def check_fine(program):
    findings, status = check(program)
    assert status == 0 and {"model_found", "outputs_writable", "port_free", "gpu_not_asked", "cpu_draws"} <= findings.keys(), findings
    assert all(finding["cure"] is None for finding in findings.values() if finding["level"] == "ok"), findings
    with tempfile.TemporaryDirectory() as folder:
        outputs = pathlib.Path(folder) / "outputs"
        done = run(program, "check", "--model", MODEL, "--port", "0", "--outputs-dir", outputs, "--device", "cpu")
        assert done.returncode == 0 and not done.stderr and not outputs.exists(), "nothing is left behind"
        assert all(line.startswith("ok    ") for line in done.stdout.splitlines()), done.stdout
    for words in (["--prot", "1"], ["--port", "x"], ["extra"], ["--auth", "off", "--api-auth", "a:b"]):
        assert run(program, "check", *words).returncode == 2, words
    assert "--health" in run(program, "check", "--help").stdout and "check" in run(program, "--help").stdout


# --- Ports ---

def serve_fails(program, code, *words, says, before=(), language="en", **more):
    """`sd35 serve` ends at once, with one sentence that has the cure."""
    with tempfile.TemporaryDirectory() as folder:
        usual = ["--model", MODEL, "--host", "127.0.0.1", "--port", "0", "--outputs-dir", f"{folder}/outputs", "--device", "cpu", *QUIET]
        done = run(program, "serve", *usual, *words, before=before, language=language, **more)
    lines = done.stderr.splitlines()
    assert done.returncode == code and len(lines) == 1 and lines[0].startswith("sd35: "), done
    for part in says:
        assert str(part) in lines[0], (part, lines)


def check_ports(program):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        expect(program, "port_taken", "--port", port, says=[port, f"(pid {os.getpid()})"], cure=["--port ", f":{port}"])
        serve_fails(program, 6, "--port", port, says=[f"port {port}", f"(pid {os.getpid()})", "cure: --port "])
        serve_fails(program, 6, "--port", port, says=[port, "解决办法：--port "], language="zh")
    # One that is about to be free, as a server's that was killed just now, is waited for.
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    threading.Timer(.5, taken.close).start()
    assert "port_free" in check(program, "--host", "127.0.0.1", "--port", port)[0]
    expect(program, "host_not_here", "--host", "192.0.2.1", says=["192.0.2.1"], cure=["--host 0.0.0.0"])
    findings, status = check(program, "--host", "256.0.0.1")
    assert status == 1 and "256.0.0.1" in findings["host_unknown"]["found"], findings
    if not is_root("privileged ports"):
        return
    network = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo 1024 > /proc/sys/net/ipv4/ip_unprivileged_port_start && exec \"$@\"", "sh"]
    if subprocess.run([*network, "true"], capture_output=True).returncode != 0:
        print("privileged ports: SKIPPED: this root may not make a network")
        return
    with open_to_all() as folder:
        copy = program_for_all(program, folder)
        for words in ([], ["--port", "80"]):
            before = [*network, *as_user(NOBODY)]
            if not words:
                findings, status = check(copy, "--model", folder / "model", before=before)
                assert "port_free" in findings, findings
                continue
            findings, status = check(copy, "--model", folder / "model", "--outputs-dir", folder / "none", *words, before=before)
            assert status == 1 and "-p 80:7860" in findings["port_privileged"]["cure"], findings


# --- The folder of outputs ---

def check_outputs(program):
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "file"
        file.write_text("")
        expect(program, "outputs_no_folder", "--outputs-dir", file, says=[file])
        expect(program, "outputs_no_folder", "--outputs-dir", file.parent / "a" / "b", cure=[f"mkdir -p {folder}/a/b"])
        serve_fails(program, 6, "--outputs-dir", file, says=[file, "mkdir -p"])
        expect(program, "outputs_full", "--disk-reserve", "900000000", level="note", says=["900000000"], cure=["--disk-reserve"])


def check_owners(program):
    if not is_root("folders of another user"):
        return
    with open_to_all() as folder:
        copy = program_for_all(program, folder)
        outputs = folder / "the outputs"
        outputs.mkdir(mode=0o755)
        usual = ["--model", folder / "model", "--outputs-dir", outputs]
        nobody = f"{NOBODY}:{NOBODY}"
        expect(copy, "outputs_not_writable", *usual, before=as_user(NOBODY), says=[nobody, "0:0", "0755", outputs], cure=[nobody, f"'{outputs}'"])
        serve_fails(copy, 6, *usual, before=as_user(NOBODY), says=[nobody, "0:0", "chown -R", f"'{outputs}'"])
        expect(copy, "outputs_not_writable", "--model", folder / "model", "--outputs-dir", folder / "new", before=as_user(NOBODY), says=[folder])
        # In a container, the cure is another user for it: the owner.
        kubernetes = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
        expect(copy, "outputs_not_writable", *usual, before=as_user(NOBODY), cure=["docker run --user 0:0 "], **kubernetes)
        expect(copy, "outputs_not_writable", *usual, before=as_user(NOBODY), cure=["docker run -e PUID=0 -e PGID=0 "], PUID="1", **kubernetes)
        # What an earlier start as root left in a folder that is ours by now.
        (outputs / ".sd35").mkdir(mode=0o755)
        (outputs / ".sd35" / "store.sqlite").write_text("")
        os.chown(outputs, NOBODY, NOBODY)
        expect(copy, "outputs_not_writable", *usual, before=as_user(NOBODY), says=[outputs / ".sd35"], cure=[nobody])
        for path in (outputs / ".sd35", outputs / ".sd35" / "store.sqlite"):
            os.chown(path, NOBODY, NOBODY)
        findings, status = check(copy, *usual, before=as_user(NOBODY))
        assert status == 0 and "outputs_writable" in findings, findings
        os.chmod(folder / "model", 0o700)
        os.chmod(folder / "model" / "model_index.json", 0o600)
        expect(copy, "model_unreadable", *usual, before=as_user(NOBODY), says=[folder / "model"], cure=["chmod -R a+rX"])


def check_mounts(program):
    if not can_mount():
        return
    with tempfile.TemporaryDirectory() as folder:
        read_only = with_mount(f"mount -t tmpfs -o ro none {folder}")
        expect(program, "outputs_read_only", "--outputs-dir", folder, before=read_only, says=[folder], cure=[f"outputs:{folder}"])
        expect(program, "outputs_read_only", "--outputs-dir", f"{folder}/new", before=read_only, says=[folder])
        serve_fails(program, 6, "--outputs-dir", folder, before=read_only, says=[folder, ":ro"])
        full = with_mount(f"mount -t tmpfs -o size=64k none {folder} && (cat /dev/zero > {folder}/zeros 2>/dev/null || true)")
        expect(program, "outputs_full", "--outputs-dir", folder, before=full, says=[folder], cure=["df -h"])
        shm = with_mount("mount -t tmpfs -o size=1m none /dev/shm")
        expect(program, "shm_small", level="note", before=shm, says=["1 MiB"], cure=["--shm-size=1g"])
        # The truth of it: pictures are drawn all the same.
        with Server(program, options=QUIET, before=shm) as server:
            server.wait_ready()
            assert server.post("/api/v1/jobs?wait=60", {**SMALL, "width": 256, "height": 256, "steps": 1}).json()["state"] == "done"
            assert not any("shm" in line for line in server.log), server.log


# --- Models ---

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
PAGE = "<!doctype html><html><title>Access to model stabilityai/stable-diffusion-3.5-large is restricted</title>"
REFUSAL = '{"error":"Access to model stabilityai/stable-diffusion-3.5-large is restricted. You must be authenticated to access it."}'


def copy_of_model(folder):
    """Of links, so that files can be replaced."""
    shutil.copytree(MODEL, folder, copy_function=os.symlink)
    return folder


def replace(path, text):
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def check_models(program):
    hub = "hf download stabilityai/stable-diffusion-3.5-large"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        expect(program, "model_missing", "--model", folder / "none", says=[folder / "none"], cure=["https://huggingface.co/", hub])
        serve_fails(program, 2, "--model", folder / "none", says=[folder / "none", hub])
        findings, _ = check(program, "--model", folder)
        assert "model_index.json" in findings["model_damaged"]["found"], findings
        findings, status = check(program, "--model", "nothing", HF_HUB_CACHE=name)
        assert status == 1 and "'nothing'" in findings["model_missing"]["found"] and "--model demo" in findings["model_missing"]["cure"], findings

        for number, text in enumerate((PAGE, REFUSAL, "Invalid username or password.")):
            page = folder / f"{number}.safetensors"
            page.write_text(text)
            expect(program, "model_gated", "--model", page, says=[page], cure=["https://huggingface.co/stabilityai/", "hf auth login"])
        model = copy_of_model(folder / "gated")
        replace(model / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors", REFUSAL)
        expect(program, "model_gated", "--model", model, says=[model / "transformer"], cure=[hub])
        # A cache of Hugging Face that knows of the model, and was refused its weights.
        cached = folder / "models--stabilityai--stable-diffusion-3.5-large"
        replace(cached / "refs" / "main", "abc")
        (cached / "snapshots" / "abc").mkdir(parents=True)
        (cached / "blobs").mkdir()
        replace(cached / "snapshots" / "abc" / "model_index.json", "{}")
        expect(program, "model_gated", "--model", cached / "snapshots" / "abc", cure=[hub])
        expect(program, "model_gated", "--model", cached, cure=[hub])
        replace(cached / "blobs" / "f00.incomplete", "half")
        for path in (cached, cached / "snapshots" / "abc"):
            expect(program, "model_incomplete", "--model", path, says=["f00.incomplete"], cure=[hub])

        model = copy_of_model(folder / "pointers")
        replace(model / "vae" / "diffusion_pytorch_model.safetensors", POINTER)
        expect(program, "model_incomplete", "--model", model, says=[model / "vae"], cure=[f"git -C {model}/vae lfs pull"])
        model = copy_of_model(folder / "links to nothing")
        (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
        (model / "vae" / "diffusion_pytorch_model.safetensors").symlink_to("../../blobs/none")
        expect(program, "model_incomplete", "--model", model, says=[model / "vae"], cure=[hub])
        model = copy_of_model(folder / "part")
        (model / "text_encoder" / "model.safetensors").unlink()
        expect(program, "model_incomplete", "--model", model, says=[model / "text_encoder"])
        model = copy_of_model(folder / "shards")
        (model / "transformer" / "diffusion_pytorch_model-00001-of-00002.safetensors").unlink()
        expect(program, "model_incomplete", "--model", model, says=["2", "00001-of-00002"], cure=[hub])
        model = copy_of_model(folder / "cut")
        whole = (MODEL / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
        (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
        (model / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(whole[:len(whole) // 2])
        expect(program, "model_damaged", "--model", model, says=[model / "vae"], cure=[f"sd35 verify {model}"])
        expect(program, "model_missing", "--vae", folder / "none.safetensors", says=["none.safetensors"])

        # A server that starts with such a model says so in its log, once, and is not ready.
        with Server(program, model=folder / "pointers", options=QUIET, environment={"SD35_LANG": "zh"}) as server:
            wait_until("the cure", lambda: any("model_incomplete" in line for line in server.log))
            told = [line for line in server.log if "model_incomplete" in line]
            assert len(told) == 1 and "Git LFS 的指针" in told[0] and "lfs pull" in told[0], server.log
            assert run(program, "check", "--health", "--outputs-dir", server.outputs).returncode == 1


# --- GPUs ---

def fake_plugin(program):
    return str(program.parents[2] / "tests" / "server" / "fake_plugins")


def workers_of(server):
    return server.get("/health/ready").json()["workers"]


def check_gpus(program):
    """Their causes are in test_check.c; here that each option of a server counts, and what a server does."""
    plugins = {"SD35_PLUGIN_DIR": fake_plugin(program)}
    expect(program, "gpu_backend_missing", "--device", "cuda", cure=["nvcc"])
    expect(program, "gpu_driver_old", "--device", "cuda:1", says=["11.4", "13.0"], cure=["nvidia-smi"], FAKE_GPUS="11040", **plugins)
    expect(program, "gpu_driver_old", "--device", "auto", level="note", FAKE_GPUS="11040", **plugins)
    expect(program, "gpu_missing", "--device", "cuda:0,cuda:7", says=["7"], FAKE_GPUS="2", **plugins)
    expect(program, "device_unknown", "--device", "nope", says=["nope"], cure=["--device auto"])
    with Server(program, options=[*QUIET, "--device", "auto"], environment={**plugins, "FAKE_GPUS": "12040"}) as server:
        server.wait_ready()
        wait_until("the cure", lambda: any("gpu_driver_old" in line for line in server.log))
        assert workers_of(server) == 1, "the CPU draws"
    with Server(program, options=["--device", "auto"], environment={**plugins, "FAKE_GPUS": "3,old"}) as server:
        wait_until("a worker for each", lambda: all(any(f'device="fake GPU {i}"' in line for line in server.log) for i in range(3)))
        assert workers_of(server) == 3
        assert server.post("/api/v1/jobs?wait=60", SMALL).json()["state"] == "done"
        assert server.stop() == 0 and not server.verify()
    with Server(program, options=[*QUIET, "--device", "cuda"]) as server:
        wait_until("the cure", lambda: any("gpu_backend_missing" in line and "cure=" in line for line in server.log))
    # A driver that gives no answer keeps nobody waiting for the server itself.
    with Server(program, options=[*QUIET, "--device", "auto"], environment={**plugins, "FAKE_GPUS": "hang"}) as server:
        assert server.get("/health/live").status == 200 and workers_of(server) == 0
        assert server.stop(30) == 0


# --- Health ---

def check_health(program):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        none = run(program, "check", "--health", "--outputs-dir", folder)
        assert none.returncode == 1 and "no server runs" in none.stderr and len(none.stderr.splitlines()) == 1, none
        cert, key = folder / "cert.pem", folder / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert,
                        "-subj", "/CN=elsewhere.example"], check=True, capture_output=True)
        for options in ([], ["--tls-cert", cert, "--tls-key", key]):
            with Server(program, options=[*QUIET, *options]) as server:
                address = server.outputs / ".sd35" / "address"
                assert address.read_text() == server.url + "\n"
                wait_until("readiness", lambda: run(program, "check", "--health", "--outputs-dir", server.outputs).returncode == 0)
                by_port = run(program, "check", "--health", "--port", server.port, "--host", "127.0.0.1", *options)
                assert by_port.returncode == 0 and by_port.stdout == "ready\n", by_port
                in_use, _ = check(program, "--outputs-dir", server.outputs)
                assert "outputs_in_use" in in_use, in_use
                assert server.stop() == 0 and not address.exists()
                assert run(program, "check", "--health", "--outputs-dir", server.outputs).returncode == 1
        # Somebody who takes the connection and says nothing; somebody else who answers.
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            began = time.monotonic()
            done = run(program, "check", "--health", "--host", "127.0.0.1", "--port", silent.getsockname()[1])
            assert done.returncode == 1 and "no answer" in done.stderr and time.monotonic() - began > 4, done
        refused = run(program, "check", "--health", "--host", "127.0.0.1", "--port", 1)
        assert refused.returncode == 1 and "port 1" in refused.stderr, refused


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    for one in (check_fine, check_ports, check_outputs, check_owners, check_mounts, check_models, check_gpus, check_health):
        began = time.monotonic()
        one(program)
        print(f"ok {one.__name__} in {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
