#!/usr/bin/env python3
"""nginx and HAProxy in front of a running server, by the very files of deploy/: who asks is who they say, events pass at once, refusals pass, and no request
reaches the server that the proxy did not mean to send.

usage: proxies_test.py SD35

Each proxy that is not installed is SKIPPED, loudly. Exit status: 0 when all is well.
"""
import base64
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from running import ROOT, Server, wait_until
from smuggling import CHUNKS, LENGTHS, bad_heads, bad_requests

SMALL = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 2, "seed": 7}
USER, PASSWORD = "ada", "correct horse"
CLIENT = "127.5.0.1"  # whence clients come; the proxies come from 127.0.0.1
PATIENCE = 1.5  # seconds for an answer to a request that a proxy may take for unfinished
SERVE = ["--trusted-proxy", "127.0.0.1", "--proxy-header", "X-Auth-Request-User", "--log-level", "debug"]


def hash_of(password):
    return subprocess.run(["openssl", "passwd", "-5", "-salt", "sd35sd35", password], capture_output=True, text=True, check=True).stdout.strip()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def put(text, old, new):
    """Each place of the file that an administrator fills in is there once."""
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the file"
    return text.replace(old, new)


class Proxy:
    """A proxy that runs in a folder of its own."""

    def __init__(self, server, folder):
        self.server, self.folder, self.port = server, pathlib.Path(folder), free_port()
        self.log, self.process = self.folder / "access.log", None

    def __enter__(self):
        self.process = self.start()
        wait_until(f"{self.name}'s port", self.is_open, 20)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)

    def is_open(self):
        assert self.process.poll() is None, (self.folder / "error.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def meant(self):
        """Of each request that it has passed on, as it logs them, the id in the server's answer; "-": libmicrohttpd refused it by itself."""
        return re.findall(r"\bid=([0-9a-f]{16}|-) by=(?!-|<NOSRV>)", self.log.read_text())


class Nginx(Proxy):
    name, program = "nginx", "nginx"

    def start(self):
        users, main = self.folder / "users", self.folder / "main.conf"
        users.write_text(f"{USER}:{hash_of(PASSWORD)}\n")
        text = (ROOT / "deploy" / "nginx.conf").read_text()
        text = put(put(put(text, "listen 80;", f"listen 127.0.0.1:{self.port};"), "server 127.0.0.1:7860;", f"server 127.0.0.1:{self.server.port};"),
                   "/etc/nginx/sd35.htpasswd;", f"{users};")
        (self.folder / "sd35.conf").write_text(text)
        paths = "".join(f"{kind}_temp_path {self.folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        main.write_text(f"""{'user root;' if os.geteuid() == 0 else ''} daemon off; worker_processes 1; pid {self.folder}/pid;
            error_log {self.folder}/error.log; events {{ worker_connections 512; }}
            http {{ log_format ids "id=$upstream_http_x_request_id by=$upstream_addr $request"; access_log {self.log} ids; {paths} include {self.folder}/sd35.conf; }}""")
        return subprocess.Popen([shutil.which(self.program), "-p", self.folder, "-c", main, "-e", self.folder / "error.log"])


class Haproxy(Proxy):
    name, program = "HAProxy", "haproxy"

    def start(self):
        text = (ROOT / "deploy" / "haproxy.cfg").read_text()
        text = put(put(put(text, "bind :80\n", f"bind 127.0.0.1:{self.port}\n"), "server sd35 127.0.0.1:7860", f"server sd35 127.0.0.1:{self.server.port}"),
                   "user ada password *", f"user {USER} password {hash_of(PASSWORD)}")
        (self.folder / "sd35.cfg").write_text(text)
        (self.folder / "log.cfg").write_text("global\n    log stdout format raw local0\n    stats timeout 30s\n")
        # What it logs of an answer is what it captures of it.
        text = put(text, "    default_backend sd35\n", "    http-response set-var(txn.id) res.hdr(X-Request-Id)\n    log-format \"id=%[var(txn.id)] by=%s %r\"\n"
                   "    default_backend sd35\n")
        (self.folder / "sd35.cfg").write_text(text)
        log = open(self.log, "w")
        return subprocess.Popen([shutil.which(self.program), "-db", "-f", self.folder / "log.cfg", "-f", self.folder / "sd35.cfg"], stdout=log,
                                stderr=open(self.folder / "error.log", "w"))


def ask(port, method, path, body=None, headers=None, client=CLIENT):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(client, 0))
    headers = dict(headers or {})
    if isinstance(body, dict):
        body = json.dumps(body)
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


# --- Who asks ---

def who(port, headers):
    status, _, body = ask(port, "GET", "/api/v1/session", headers=headers)
    return json.loads(body)["user"] if status == 200 else status


def check_users(proxy, key):
    spoofed = {"X-Auth-Request-User": "eve", "x-auth-request-user": "eve"}
    status, headers, _ = ask(proxy.port, "GET", "/api/v1/queue")
    assert status == 401 and headers["WWW-Authenticate"].startswith("Basic"), (status, headers)
    assert ask(proxy.port, "GET", "/", headers=spoofed)[0] == 401
    assert who(proxy.port, basic(USER, "wrong")) == 401 and who(proxy.port, basic("eve", PASSWORD)) == 401
    for more in ({}, spoofed):
        assert who(proxy.port, {**basic(USER, PASSWORD), **more}) == USER
        assert who(proxy.port, {**bearer(key), **more}) == "first"
        assert who(proxy.port, {**bearer("sd35_wrong"), **more}) in (None, 401)
        # Past the proxy nobody is believed who is not the proxy.
        assert who(proxy.server.port, {**basic(USER, PASSWORD), **more}) is None
    status, headers, _ = ask(proxy.port, "GET", "/api/v1/queue", headers=bearer("sd35_wrong"))
    assert status == 401 and headers["WWW-Authenticate"].startswith("Bearer"), "the server's own refusal"
    assert ask(proxy.port, "GET", "/health/ready")[0] == 200
    assert ask(proxy.port, "GET", "/", headers=basic(USER, PASSWORD))[1]["Content-Type"].startswith("text/html")


def check_links(proxy, _):
    """What needs no login gives no user, whatever the client says."""
    own = basic(USER, PASSWORD)
    status, _, body = ask(proxy.port, "POST", "/v1/images/generations", {"prompt": "a", "size": "64x64", "steps": 2, "response_format": "url"}, own)
    assert status == 200, body
    link = json.loads(body)["data"][0]["url"]
    assert link.startswith(f"http://127.0.0.1:{proxy.port}/files/"), link
    path = link.partition(str(proxy.port))[2]
    assert ask(proxy.port, "GET", path)[0] == 200
    for headers in ({}, basic(USER, "wrong"), {"X-Auth-Request-User": USER}, {**basic(USER, "wrong"), "X-Auth-Request-User": USER}):
        assert ask(proxy.port, "GET", path.partition("?")[0], headers=headers)[0] in (401, 403), headers


def check_addresses(proxy, _):
    """The server limits guesses by the address that the proxy tells, not by one that the client makes up; 429 passes."""
    spoofed = {"X-Forwarded-For": "192.0.2.7"}
    for i in range(30):
        status, headers, _ = ask(proxy.port, "GET", "/api/v1/queue", headers={**bearer("sd35_wrong"), **spoofed, "X-Forwarded-For": f"192.0.2.{i}"},
                                 client="127.5.0.9")
        if status == 429:
            break
        assert status == 401
    assert status == 429 and headers["Retry-After"], status
    assert ask(proxy.port, "GET", "/api/v1/queue", headers=bearer("sd35_wrong"), client="127.5.0.8")[0] == 401
    told = set(re.findall(r"auth.refused request=\S+ address=(\S+)", "".join(proxy.server.log)))
    assert "127.5.0.9" in told and not any(address.startswith("192.0.2.") for address in told), told


# --- What passes ---

def check_sizes(proxy, key):
    status, _, body = ask(proxy.port, "POST", "/api/v1/images/delete", b"[" + b" " * (2 << 20) + b"]", bearer(key))
    assert status == 413 and json.loads(body)["error"]["code"] == "request_too_large", (status, body)
    status, _, body = ask(proxy.port, "POST", "/api/v1/jobs?dry_run=1", json.dumps({**SMALL, "dry_run": True, "init_image": "A" * (20 << 20)}), bearer(key))
    assert status in (400, 413, 422) and json.loads(body)["error"], (status, body[:200])
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as connection:
        connection.sendall(f"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
                           f"Content-Length: {49 << 20}\r\n\r\n".encode())
        assert connection.recv(4096).split()[1] == b"413"


def check_events(proxy, key):
    """Each as it comes: the stream does not end, so that nothing would come from a buffer."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    connection.request("GET", "/api/v1/events", headers=bearer(key))
    stream = connection.getresponse()
    assert stream.status == 200 and stream.headers["Content-Type"].startswith("text/event-stream"), stream.status
    status, _, body = ask(proxy.port, "POST", "/api/v1/jobs", SMALL, bearer(key))
    assert status == 202, body
    job, line = json.loads(body)["id"], b""
    while not (line.startswith(b"data:") and job.encode() in line and b'"done"' in line):
        line = stream.readline()
        assert line, "the stream ended"
    connection.close()


# --- Smuggling ---

def shapes(host, key):
    head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n".encode()
    found = {name: head + shape.encode("latin-1") for name, shape in bad_heads(host).items()}
    found |= {f"Content-Length {length!r}": head + f"Content-Length: {length}\r\n\r\n{{}}".encode() for length in LENGTHS}
    found |= {f"chunk, {name}": head + b"Transfer-Encoding: chunked\r\n\r\n" + body for name, body in CHUNKS.items()}
    return found | bad_requests(host)


def send_raw(port, request):
    """What comes until the proxy closes, or has nothing more to say."""
    text = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection, contextlib.suppress(OSError):
        connection.sendall(request)
        while more := connection.recv(65536):
            text += more
    return text


def seen_by(server):
    """The line of each request's id in the server's log."""
    return {found[1]: line for line in list(server.log) if (found := re.search(r"\brequest=([0-9a-f]{16}) method=", line))}


def check_smuggling(proxy, key):
    """A request that hides in another may be one for both or for none, never for the server alone."""
    host = f"127.0.0.1:{proxy.port}"
    hidden = f"GET /smuggled-request HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n".encode()
    requests, seen_before, meant_before = shapes(host, key), seen_by(proxy.server), len(proxy.meant())
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = dict(zip(requests, pool.map(lambda request: send_raw(proxy.port, request + hidden), requests.values())))
    last = ask(proxy.port, "GET", "/api/v1/queue", headers=bearer(key))[1]["X-Request-Id"]
    wait_until("the last request in both logs", lambda: last in seen_by(proxy.server) and last in proxy.meant(), 20)

    def unexplained():
        """A proxy may log a request later than the server does."""
        meant = proxy.meant()
        seen = {one: line for one, line in seen_by(proxy.server).items() if one not in seen_before and one not in meant}
        refused = [line for line in seen.values() if "method=GET route=- status=499 bytes=0" in line]  # before it told us any more of it
        return [] if len(refused) == len(seen) <= meant[meant_before:].count("-") else list(seen.values())

    with contextlib.suppress(AssertionError):
        wait_until("all of the server's requests in the proxy's log", lambda: not unexplained(), 5)
    assert not unexplained(), unexplained()
    seen = len(seen_by(proxy.server)) - len(seen_before)
    passed = [name for name, text in answers.items() if text.lower().count(b"x-request-id") > 1]
    print(f"  {proxy.name}: {len(requests)} shapes; the server saw {seen} requests, all of them the proxy's; "
          f"{len(passed)} were a request and another after it to both")
    assert seen > 1 and ask(proxy.port, "GET", "/health/live")[0] == 200


def make_key(program, outputs):
    """With a proxy that names users no key is made by itself."""
    return subprocess.run([program, "keys", "add", "first", "--outputs-dir", outputs], capture_output=True, text=True, check=True).stdout.strip()


def run(kinds, server, key):
    with server:
        server.wait_ready()
        for kind in kinds:
            with tempfile.TemporaryDirectory() as folder, kind(server, folder) as proxy:
                for check in (check_users, check_links, check_addresses, check_sizes, check_events, check_smuggling):
                    began = time.monotonic()
                    check(proxy, key)
                    print(f"  {kind.name}: {check.__name__}: {time.monotonic() - began:.1f} s", flush=True)
        assert server.stop() == 0 and not server.verify()


def main():
    installed = [kind for kind in (Nginx, Haproxy) if shutil.which(kind.program)]
    for kind in (Nginx, Haproxy):
        if kind not in installed:
            print(f"  {kind.name}: SKIPPED: it is not installed")
    if not installed:
        return 0
    with tempfile.TemporaryDirectory() as outputs:
        key = make_key(sys.argv[1], outputs)
        run(installed, Server(sys.argv[1], outputs=outputs, options=SERVE), key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
