#!/usr/bin/env python3
"""What whoever runs the server does: starts it, makes keys, reads its metrics, tells it to read users again and to stop.

usage: operations_test.py SD35

`promtool` (Debian's prometheus) checks the metrics where it is installed. Exit status: 0 when all is well.
"""
import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

from running import ROOT, Server, wait_until

MODEL = ROOT / "models" / "demo"
SMALL = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 2, "seed": 7}
SLOW = {**SMALL, "steps": 100, "width": 512, "height": 512, "count": 10}
QUIET = ("--log-level", "warning")
USER, PASSWORD = "ada", "correct horse"


def sd35(program, *words, **environment):
    return subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


# --- Options ---

def check_options(program):
    serve = ["serve", "--model", MODEL, "--device", "cpu", "--host", "127.0.0.1", "--port", "0", "--outputs-dir"]
    with tempfile.TemporaryDirectory() as folder:
        for words in (["--prot", "1"], ["--nothing"], ["extra"], ["--port", "70000"], ["--port", "x"], ["--listen", "::1"], ["--tls-cert", "a"],
                      ["--tls-key", "a"], ["--auth", "maybe"], ["--auth", "off", "--api-auth", "a:b"], ["--api-auth", "nocolon"], ["--medvram", "--lowvram"],
                      ["--proxy-header", "X-User"], ["--trusted-proxy", "nonsense"], ["--trusted-proxy", "10.0.0.0/33"], ["--max-batch", "0"],
                      ["--grace", "-1"], ["--log-level", "loud"], ["--model", "/none"], ["--device", "nope"], ["--host", "256.0.0.1"]):
            done = sd35(program, *serve, pathlib.Path(folder) / "out", *QUIET, *words)
            sentences = done.stderr.strip().splitlines()
            assert done.returncode == 2 and len(sentences) == 1, (words, done)
            assert re.match(r"(sd35|worker): .{10,}", sentences[0]), (words, done)
    missing = sd35(program, "serve", SD35_DEMO_DIR="/none", HF_HUB_CACHE="/none")
    assert missing.returncode == 2 and "--model" in missing.stderr, missing
    help_text = sd35(program, "serve", "--help")
    assert help_text.returncode == 0 and "--max-queue N" in help_text.stdout and max(map(len, help_text.stdout.splitlines())) <= 100, help_text


# --- Keys ---

def key_of(program, outputs, *words):
    made = sd35(program, "keys", "add", *words, "--outputs-dir", outputs)
    assert made.returncode == 0 and re.fullmatch(r"sd35_[A-Za-z0-9_-]{43}\n", made.stdout), made
    return made.stdout.strip()


def bearer(key):
    return {"headers": {"Authorization": f"Bearer {key}"}, "key": False}


def check_keys(program):
    with tempfile.TemporaryDirectory() as outputs:
        reader = key_of(program, outputs, "ada", "--scopes", "read")
        limited = key_of(program, outputs, "bob", "--rate", "2")
        second = key_of(program, outputs, "ada")
        listed = sd35(program, "keys", "list", "--outputs-dir", outputs)
        assert listed.returncode == 0 and "ada" in listed.stdout and reader[:12] in listed.stdout and reader not in listed.stdout, listed
        for words in ((), ("bad name",), ("x", "--scopes", "root"), ("x", "--rate", "-1")):
            assert sd35(program, "keys", "add", *words, "--outputs-dir", outputs).returncode == 2, words
        assert sd35(program, "keys", "revoke", reader[:12], "--outputs-dir", outputs).returncode == 0
        assert sd35(program, "keys", "revoke", "nobody", "--outputs-dir", outputs).returncode == 2
        with Server(program, outputs=outputs, options=QUIET) as server:
            server.wait_ready()
            assert server.key is None, "no first key where there are others"
            assert server.get("/api/v1/queue", **bearer(reader)).status == 401
            assert server.get("/api/v1/queue", **bearer(second)).status == 200
            assert [server.post("/api/v1/jobs", SMALL, **bearer(limited)).status for _ in range(3)] == [202, 202, 429]
            refused = sd35(program, "keys", "list", "--outputs-dir", outputs)
            assert refused.returncode == 2 and "a server has" in refused.stderr, refused


# --- Metrics ---

def metrics(server):
    """The text, and {"name{labels}": value}."""
    text = server.get("/metrics").body
    lines = [line.rsplit(" ", 1) for line in text.decode().splitlines() if line and line[0] != "#"]
    return text, {name: float(value) for name, value in lines}


def check_text(text):
    if not shutil.which("promtool"):
        print("promtool is not installed: SKIPPED")
        return
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60)
    assert checked.returncode == 0 and not checked.stdout + checked.stderr, checked


def check_metrics(program):
    with Server(program, options=QUIET) as server:
        server.wait_ready()
        _, before = metrics(server)
        slow = [server.post("/api/v1/jobs", SLOW).json()["id"] for _ in range(3)]
        wait_until("a job runs", lambda: metrics(server)[1]['sd35_jobs{state="running"}'] > 0)
        text, during = metrics(server)
        check_text(text)
        assert sum(during[f'sd35_jobs{{state="{state}"}}'] for state in ("queued", "running")) == 3, during
        for job in slow:
            server.request("DELETE", f"/api/v1/jobs/{job}")
        wait_until("none runs", lambda: metrics(server)[1]['sd35_jobs{state="running"}'] == 0)
        _, before_one = metrics(server)
        assert server.post("/api/v1/jobs?wait=60", {**SMALL, "count": 3}).status == 200
        server.get("/v1/models")
        server.get("/sdapi/v1/options")
        server.get("/nowhere")
        server.get("/api/v1/queue", **bearer("sd35_wrong"))
        text, after = metrics(server)
        check_text(text)
        expected = {"sd35_pictures_total": 3, "sd35_steps_total": 6, "sd35_job_seconds_count": 1, "sd35_queue_wait_seconds_count": 1,
                    'sd35_phase_seconds_count{phase="decode"}': 1,
                    'sd35_auth_failures_total{reason="key"}': 1, 'sd35_requests_total{api="native",route="/api/v1/jobs",code="2xx"}': 1,
                    'sd35_requests_total{api="openai",route="/v1/models",code="2xx"}': 1,
                    'sd35_requests_total{api="a1111",route="/sdapi/v1/options",code="2xx"}': 1,
                    'sd35_requests_total{api="other",route="other",code="4xx"}': 1}
        for name, amount in expected.items():
            assert after[name] - before_one.get(name, 0) == amount, (name, before_one.get(name), after[name])
        # Those of the store are read from it every few seconds only.
        wait_until("the store's own counts", lambda: metrics(server)[1]['sd35_store_jobs{state="done"}'] == 1, 60)
        assert metrics(server)[1]["sd35_store_pictures"] == 3
        for name, value in after.items():
            assert value >= before.get(name, 0) or not re.search("_(total|count|sum|bucket)", name), name


# --- Users and signals ---

def basic(user, password):
    return {"headers": {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}, "key": False}


def hash_of(password):
    """bcrypt by libcrypt, through Perl, as the server reads it."""
    made = subprocess.run(["perl", "-e", "print crypt($ARGV[0], '$2y$05$abcdefghijklmnopqrstuu')", password], capture_output=True, text=True)
    assert made.stdout.startswith("$2y$"), made
    return made.stdout


def check_reload(program):
    with tempfile.TemporaryDirectory() as folder:
        users = pathlib.Path(folder) / "htpasswd"
        users.write_text(f"{USER}:{hash_of(PASSWORD)}\n")
        with Server(program, options=[*QUIET, "--htpasswd", users]) as server:
            server.wait_ready()
            assert server.get("/api/v1/queue", **basic(USER, PASSWORD)).status == 200
            assert server.get("/api/v1/queue", **basic("bob", "b")).status == 401
            users.write_text(f"bob:{hash_of('b')}\n")
            server.process.send_signal(signal.SIGHUP)
            wait_until("the new user is known", lambda: server.get("/api/v1/queue", **basic("bob", "b")).status == 200, 20)
            assert server.get("/api/v1/queue", **basic(USER, PASSWORD)).status == 401
            users.write_text("what is no htpasswd file\n")
            server.process.send_signal(signal.SIGHUP)
            wait_until("it says so", lambda: any("reload_failed" in line for line in server.log))
            assert server.get("/api/v1/queue", **basic("bob", "b")).status == 200, "the users before stay"


# --- TLS ---

def check_logout(program):
    """A cookie that was logged out is worth nothing in the next front and after the next start, and others are."""
    with Server(program, options=QUIET) as server:
        server.wait_ready()

        def cookie():
            made = server.post("/api/v1/login", {"key": server.key}, key=False).headers["Set-Cookie"].split(";")[0]
            return {"headers": {"Cookie": made, "X-SD35-Request": "1"}, "key": False}

        def expect_both(what):
            assert server.get("/api/v1/queue", **ended).status == 401 and server.get("/api/v1/queue", **kept).status == 200, what

        ended, kept = cookie(), cookie()
        assert server.get("/api/v1/queue", **ended).status == 200 and server.post("/api/v1/logout", **ended).status == 200
        expect_both("at once")
        server.kill(server.front())
        server.wait_ready()
        expect_both("in the next front")
        assert server.stop() == 0
        server.start()
        expect_both("after the next start")


def check_tls(program):
    with tempfile.TemporaryDirectory() as folder:
        cert, key = pathlib.Path(folder) / "cert.pem", pathlib.Path(folder) / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert,
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        with Server(program, options=[*QUIET, "--tls-cert", cert, "--tls-key", key]) as server:
            wait_until("the first key", lambda: server.key)
            trusted = ssl.create_default_context(cafile=cert)

            def ask(path, body=None):
                headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
                request = urllib.request.Request(server.url + path, None if body is None else json.dumps(body).encode(), headers)
                return urllib.request.urlopen(request, timeout=60, context=trusted)

            assert server.url.startswith("https://") and ask("/api/v1/queue").status == 200
            cookie = ask("/api/v1/login", {"key": server.key}).headers["Set-Cookie"]
            assert cookie.startswith("__Host-") and "Secure" in cookie, cookie
            assert ask("/api/v1/events").readline(), "events come over TLS"


def state_of(server, job):
    return server.get(f"/api/v1/jobs/{job}").json()["state"]


def check_drain(program):
    with tempfile.TemporaryDirectory() as outputs:
        with Server(program, outputs=outputs, options=[*QUIET, "--grace", "100"]) as server:
            server.wait_ready()
            medium = {**SMALL, "steps": 20, "width": 128, "height": 128}
            jobs = [server.post("/api/v1/jobs", medium).json()["id"] for _ in range(3)]
            wait_until("one runs", lambda: state_of(server, jobs[0]) == "running")
            server.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(OSError):
                wait_until("it refuses", lambda: server.post("/api/v1/jobs", SMALL).status == 503, 20)
            assert server.process.wait(110) == 0, server.log[-5:]
            key = server.key
        with Server(program, outputs=outputs, options=QUIET) as server:
            server.key = key
            server.wait_ready()
            for job in jobs:
                wait_until("each is done, before or after", lambda job=job: state_of(server, job) == "done")
            assert [server.get(f"/api/v1/jobs/{job}").json()["attempts"] for job in jobs] == [1, 1, 1], "what runs is not broken off"
            assert server.stop() == 0 and not server.verify()


def check_grace(program):
    """What is not done within the grace is done by the next start."""
    with tempfile.TemporaryDirectory() as outputs:
        with Server(program, outputs=outputs, options=[*QUIET, "--grace", "1"]) as server:
            server.wait_ready()
            job = server.post("/api/v1/jobs", SLOW).json()["id"]
            wait_until("it runs", lambda: state_of(server, job) == "running")
            key, code = server.key, server.stop(30)
            assert code == 0 and not server.verify(), (code, server.log[-5:])
        with Server(program, outputs=outputs, options=QUIET) as server:
            server.key = key
            server.wait_ready()
            wait_until("it runs again", lambda: state_of(server, job) == "running")
            assert server.request("DELETE", f"/api/v1/jobs/{job}").status == 200


def check_second_signal(program):
    with Server(program, options=[*QUIET, "--grace", "600"]) as server:
        server.wait_ready()
        job = server.post("/api/v1/jobs", SLOW).json()["id"]
        wait_until("it runs", lambda: state_of(server, job) == "running")
        pids = server.all_pids()
        server.process.send_signal(signal.SIGTERM)
        wait_until("it drains", lambda: server.get("/health/ready").json()["status"] == "draining")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 128 + signal.SIGTERM and time.monotonic() - began < 5
        assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids), "nobody is left"
        assert not server.verify()


# --- Whose process it is ---

def check_user(program):
    """Root gives itself up: to whom it is told, or to the owner of the outputs. Files of others are left alone."""
    if os.geteuid() != 0:
        print("SKIPPED check_user: only root can become another user")
        return
    for user, owner, expected in (("1234:4321", None, (1234, 4321)), ("1234", None, (1234, 1234)), ("adopt", None, (10001, 10001)), ("adopt", (2222, 3333), (2222, 3333))):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            outputs = pathlib.Path(folder) / "out"
            outputs.mkdir()
            if owner:
                os.chown(outputs, *owner)
            (outputs / "root's").write_text("")
            (outputs / "theirs").write_text("")
            os.chown(outputs / "theirs", 5555, 5555)
            (outputs / "link").symlink_to("/etc/passwd")
            with Server(program, outputs=outputs, options=[*QUIET, "--user", user]) as server:
                server.wait_ready()
                for pid in server.all_pids():
                    status = pathlib.Path(f"/proc/{pid}/status").read_text()
                    assert re.search(r"^Uid:\t(\d+)\t\1\t\1\t\1$", status, re.MULTILINE)[1] == str(expected[0]), status
                    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE) and "NoNewPrivs:\t1" in status, status
                assert server.post("/api/v1/jobs?wait=60", SMALL).json()["state"] == "done"
            whose = {entry: (entry.lstat().st_uid, entry.lstat().st_gid) for entry in outputs.rglob("*")}
            assert whose.pop(outputs / "theirs") == (5555, 5555) and set(whose.values()) == {expected}, whose
            assert os.stat("/etc/passwd").st_uid == 0
    for user, variables in (("root", {}), ("0", {}), ("1:x", {}), ("-1", {}), ("4294967295", {}), ("adopt", {"PUID": "0"}), ("adopt", {"PGID": "a"})):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([str(program), "serve", "--model", str(MODEL), "--outputs-dir", folder, "--user", user], capture_output=True, text=True,
                                  timeout=60, env={**os.environ, **variables})
            assert done.returncode == 2 and (next(iter(variables), "--user") in done.stderr), (user, variables, done)


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    for check in (check_options, check_user, check_keys, check_metrics, check_reload, check_logout, check_tls, check_drain, check_grace, check_second_signal):
        began = time.monotonic()
        check(program)
        print(f"ok {check.__name__} in {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
