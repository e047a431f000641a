#!/usr/bin/env python3
"""Hostile clients on a running server: nothing crashes, nothing is answered with 5xx, and every refusal is the one that is documented.

usage: hostile_test.py --url URL --key KEY [--pid PID] [--log FILE] [--program SD35] [NAME ...]

PID is the process of `sd35 serve`; its children must be the same at the end. FILE is where its standard error goes: each of its lines must be one of ours.
SD35 starts servers with few file descriptors. NAMEs choose of the functions at the end. Python's standard library only, over raw sockets. A few small jobs are
made.
"""
import argparse
import base64
import collections
import concurrent.futures
import json
import math
import pathlib
import random
import re
import socket
import struct
import sys
import threading
import time
import urllib.parse
import zlib

import running
from smuggling import LENGTHS, bad_heads, bad_requests

DEADLINE = 60
SMALL = {"prompt": "two apples", "width": 64, "height": 64, "steps": 1, "seed": 1}
LINE_MAX, HEAD_MAX, HEADERS_MAX, JSON_MAX = 8192, 16384, 64, 1 << 20  # src/server/limits.h
JSON_DEPTH_MAX, JSON_KEYS_MAX = 16, 256
FEW_FILES = 100

failures = []


class Server:
    def __init__(self, url, key, pid=0, log=None, program=None):
        parts = urllib.parse.urlsplit(url)
        self.address, self.key, self.pid, self.log, self.program = (parts.hostname, parts.port), key, pid, log, program
        self.host = f"{parts.hostname}:{parts.port}"

    def connect(self, window=None):
        connection = socket.socket()
        if window:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        connection.settimeout(DEADLINE)
        connection.connect(self.address)
        return connection

    def head(self, method="GET", path="/api/v1/queue", *more, host=None, key=True):
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host or self.host}", *([f"Authorization: Bearer {self.key}"] if key else []), *more]
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    def json(self, path, body, *more, method="POST"):
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.head(method, path, "Content-Type: application/json", f"Content-Length: {len(text)}", *more) + text

    def ask(self, request, is_closing=False):
        """The first answer to these bytes: (status, body, whole text). is_closing: until the server closes."""
        with self.connect() as connection:
            try:
                connection.sendall(request)
            except OSError:
                pass  # an early refusal; the answer counts
            return read_answer(connection, is_closing)

    def get(self, path):
        status, body, _ = self.ask(self.head("GET", path))
        return json.loads(body) if status == 200 else None

    def children(self):
        return sorted(pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()) if self.pid else []

    def files(self):
        """Open descriptors of all children."""
        return sum(len(list(pathlib.Path(f"/proc/{child}/fd").iterdir())) for child in self.children())


def read_answer(connection, is_closing=False):
    text = b""
    try:
        while True:
            head, end, body = text.partition(b"\r\n\r\n")
            if end and not is_closing:
                length = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                if length and len(body) >= length[0]:
                    break
            more = connection.recv(65536)
            if not more:
                break
            text += more
    except ConnectionResetError:
        pass
    head, _, body = text.partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head.startswith(b"HTTP/1.") else 0), body, text


def check(name, is_fine, seen=""):
    if not is_fine:
        failures.append(name)
        print(f"  FAILED {name}: {str(seen)[:300]}", flush=True)


def code_of(body):
    try:
        return json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return {}


def expect(server, name, request, statuses, code=None, field=None):
    began = time.monotonic()
    status, body, _ = server.ask(request)
    error = code_of(body)
    check(name, status in statuses and (code is None or error.get("code") == code) and (field is None or error.get("field") == field),
          f"{status} {body[:200]!r}, not {statuses} {code or ''} {field or ''}")
    return time.monotonic() - began


def has_one_answer(text):
    """libmicrohttpd writes the head of its own refusals twice, so heads are not counted: a smuggled request would be answered 404."""
    return b"HTTP/1.1 404" not in text and text.lower().count(b"x-request-id:") <= 1


def is_well(server):
    """Alive, and a control job is drawn."""
    check("alive", server.ask(server.head("GET", "/health/live", key=False))[0] == 200)
    status, body, _ = server.ask(server.json("/api/v1/jobs?wait=60", SMALL))
    check("a control job", status == 200 and json.loads(body)["state"] == "done", f"{status} {body[:200]!r}")


# --- F1: bytes ---

def garbage(server):
    chance = random.Random(1)
    methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PRI", "get", "G\0T", "A" * 100]
    targets = ["/", "*", "/api/v1/jobs", "http://evil.example/", "//", "/%", "/%zz", "/%00", "/?%", "", "?", "/\x7f", "/" + "a" * 9000, "/..", "/a b"]
    for method in methods:
        for target in targets:
            status, body, _ = server.ask(f"{method} {target} HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n".encode(), is_closing=True)
            check(f"{method[:10]!r} {target[:20]!r}", status < 500 or status == 501, f"{status} {body[:100]!r}")
    for i in range(500):
        noise = chance.randbytes(chance.choice([1, 10, 100, 2000])) + b"\r\n\r\n" * chance.randint(0, 2)
        if i % 2:
            noise = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + noise
        with server.connect() as connection:
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            status, body, _ = read_answer(connection, is_closing=True)
        check(f"noise {i}", status < 500 or status == 505, f"{status} {body[:100]!r} to {noise[:100]!r}")


# --- F2, F3: limits ---

def limits(server):
    for more in (-1, 0, 1):
        line = "X-Long: " + "a" * (LINE_MAX + more - 10)
        expect(server, f"a header line of the limit {more:+}", server.head("GET", "/health/live", line), {200} if more <= 0 else {200, 431})
        names = [f"X-{i}: 1" for i in range(HEADERS_MAX - 2 + more)]
        expect(server, f"headers: the limit {more:+}", server.head("GET", "/api/v1/queue", *names), {200} if more <= 0 else {431})
        bare = len(server.head("GET", "/api/v1/queue", "X-A: ", "X-B: "))
        total = ["X-A: " + "a" * 8000, "X-B: " + "b" * (HEAD_MAX - bare - 8000 + more)]
        expect(server, f"the head: the limit {more:+}", server.head("GET", "/api/v1/queue", *total), {200} if more <= 0 else {431})
        target = "/health/live?" + "a" * (LINE_MAX - len("/health/live?") + more)
        expect(server, f"the target: the limit {more:+}", server.head("GET", target), {200} if more <= 0 else {414})
        body = json.dumps({**SMALL, "steps": 0}).encode()
        body += b" " * (JSON_MAX - len(body) + more)
        expect(server, f"a body of the limit {more:+}", server.json("/api/v1/images/delete", body), {422} if more <= 0 else {413})
    for huge in ("X: " + "a" * 100_000, "X: " + "a" * 2_000_000, "\r\n".join(f"X-{i}: 1" for i in range(50_000))):
        status, body, _ = server.ask(server.head("GET", "/", huge), is_closing=True)
        check(f"{len(huge)} bytes of headers", status in (431, 413, 400), f"{status} {body[:100]!r}")
    for length in LENGTHS:
        request = server.head("POST", "/api/v1/jobs", "Content-Type: application/json", f"Content-Length: {length}") + b"{}"
        status, body, text = server.ask(request, is_closing=True)
        check(f"Content-Length {length!r}", status in (400, 413) and has_one_answer(text), f"{status} {body[:100]!r}")


# --- F4: smuggling ---

def smuggling(server):
    """A second request that hides in the first must never be answered."""
    marked = server.head("GET", "/smuggled-request")
    start = f"POST /api/v1/jobs HTTP/1.1\r\nHost: {server.host}\r\nAuthorization: Bearer {server.key}\r\nContent-Type: application/json\r\n"
    for name, shape in bad_heads(server.host).items():
        status, body, text = server.ask(start.encode() + shape.encode("latin-1") + marked, is_closing=True)
        check(f"smuggling, {name}", status in (400, 501) and has_one_answer(text), f"{status}: {text[-300:]!r}")
    for name, request in bad_requests(server.host).items():
        status, body, text = server.ask(request + marked, is_closing=True)
        check(f"smuggling, {name}", status == 400 and has_one_answer(text), f"{status}: {text[-300:]!r}")


# --- F5: chunks ---

def chunks(server):
    head = server.head("POST", "/api/v1/images/delete", "Content-Type: application/json", "Transfer-Encoding: chunked")
    body = b'{"ids": []}'
    fine = b"".join(b"%x\r\n%c\r\n" % (1, c) for c in body) + b"0\r\n\r\n"
    expect(server, "one byte in each chunk", head + fine, {422})
    expect(server, "500,000 chunks of a byte", head + b"1\r\n \r\n" * 500_000 + b"0\r\n\r\n", {400, 413})
    expect(server, "a chunk extension", head + b"b;a=b\r\n" + body + b"\r\n0\r\n\r\n", {422, 400})
    for name, tail in {"an extension of 1 MiB": b"b;" + b"a" * (1 << 20) + b"\r\n" + body, "a size of 2^64": b"10000000000000000\r\n" + body, "a size of -1": b"-1\r\n" + body,
                       "no hexadecimal": b"xyz\r\n" + body, "no size": b"\r\n" + body, "a size of 0x5": b"0x5\r\n" + body, "more than it says": b"2\r\n" + body + b"\r\n0\r\n\r\n",
                       "2 MiB": b"200000\r\n" + b" " * (2 << 20) + b"\r\n0\r\n\r\n"}.items():
        with server.connect() as connection:
            try:
                connection.sendall(head + tail)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            status, answer, _ = read_answer(connection, is_closing=True)
        # 500: libmicrohttpd's own, when the head of a chunk fills its buffer.
        check(f"chunks, {name}", status in (0, 400, 413, 431) or status == 500 and name == "an extension of 1 MiB", f"{status} {answer[:100]!r}")
    with server.connect() as connection:  # the last chunk never comes
        connection.sendall(head + b"b\r\n" + body + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        check("no last chunk", read_answer(connection, is_closing=True)[0] in (0, 400, 408))


# --- F6: JSON ---

def bombs(server):
    path = "/api/v1/jobs"
    prompt = b'{"prompt":"a","width":64,"height":64,"steps":1,"x":'
    cases = {"deep lists": b"[" * 100_000, "deep objects": b'{"a":' * 100_000, "a million keys": b"{" + b",".join(b'"%d":0' % i for i in range(90_000)) + b"}",
             "duplicate keys": b'{"prompt":"a","prompt":"b"}', "1e999": b'{"prompt":"a","guidance_scale":1e999}', "NaN": b'{"prompt":"a","guidance_scale":NaN}',
             "a lone surrogate": b'{"prompt":"\\ud800"}', "two high surrogates": b'{"prompt":"\\ud800\\ud800"}', "NUL": b'{"prompt":"a\\u0000b"}', "a raw NUL": b'{"prompt":"a\0b"}',
             "no UTF-8": b'{"prompt":"\xff\xfe"}', "overlong UTF-8": b'{"prompt":"\xc0\xaf"}', "trailing bytes": b'{"prompt":"a"} x', "two values": b'{"prompt":"a"}{}',
             "a list": b"[]", "a text": b'"prompt"', "a number": b"1", "null": b"null", "open": b'{"prompt":"a', "a comma": b'{"prompt":"a",}', "comments": b'{/**/"prompt":"a"}',
             "a BOM": b'\xef\xbb\xbf{"prompt":"a"}', "control bytes": b'{"prompt":"a\nb"}', "a long number": b'{"prompt":"a","steps":' + b"9" * 100_000 + b"}",
             "many values": prompt + b"[" + b"0," * 5000 + b"0]}"}
    for name, body in cases.items():
        seconds = expect(server, f"JSON, {name}", server.json(path, body), {400})
        check(f"JSON, {name}: quick", seconds < 2, seconds)
    for more in (-1, 0, 1):
        body = b'{"x":' * (JSON_DEPTH_MAX + more) + b"1" + b"}" * (JSON_DEPTH_MAX + more)
        expect(server, f"depth of the limit {more:+}", server.json(path, body), {422} if more <= 0 else {400})
        body = json.dumps({f"k{i}": 0 for i in range(JSON_KEYS_MAX + more)}).encode()
        expect(server, f"keys: the limit {more:+}", server.json(path, body), {422} if more <= 0 else {400})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "application/jsonx", ""):
        expect(server, f"JSON as {kind!r}", server.head("POST", path, f"Content-Type: {kind}", "Content-Length: 14") + b'{"prompt":"a"}', {415})


# --- F7 to F11: fields ---

WRONG = [None, True, [], {}, "", "1024", "a", [[]], [None], {"a": 1}, -1, 0, 63, 65, 0.5, -0.5, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, -2**63, 1e30, -1e30, 1e308, 5e-324, [2**40], ["1"],
         "file:///etc/passwd", "http://169.254.169.254/", "a" * 10_000]


def fits(schema, value):
    """Whether the value is one that the schema allows; of the words that ours uses."""
    if "anyOf" in schema:
        return any(fits(one, value) for one in schema["anyOf"])
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if isinstance(value, bool):
        return "boolean" in kinds
    if value is None:
        return "null" in kinds
    if isinstance(value, str):
        return "string" in kinds and ("enum" not in schema or value in schema["enum"]) and schema.get("minLength", 0) <= len(value)
    if isinstance(value, list):
        return "array" in kinds and all(fits(schema.get("items", {}), item) for item in value) and len(value) <= schema.get("maxItems", 1 << 30)
    if isinstance(value, dict):
        return "object" in kinds
    is_whole = isinstance(value, int)
    if not ("number" in kinds or "integer" in kinds and is_whole):
        return False
    step = schema.get("multipleOf", 0)
    return schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf) and (not step or value % step == 0)


def fields(server):
    document = server.get("/openapi.json")
    schema = document["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    made = []
    check("the schema has the fields", len(schema["properties"]) >= 20, schema["properties"].keys())
    for name, about in schema["properties"].items():
        for wrong in WRONG:
            status, body, _ = server.ask(server.json("/api/v1/jobs", {**SMALL, name: wrong}))
            error = code_of(body)
            text = f"{name} = {str(wrong)[:40]!r}: {status} {body[:150]!r}"
            if isinstance(wrong, int) and wrong >= 2**63:  # no number of ours
                check(text, status in (400, 422))
            elif fits(about, wrong):
                check(text, status < 500)
            else:
                check(text, status == 422 and error.get("field", "").startswith(name))
            if isinstance(wrong, str) and len(wrong) > 20 and status >= 400:
                check(f"{name}: the refusal does not repeat the value", wrong.encode() not in body)
            if status in (200, 202):
                made.append(json.loads(body).get("id"))  # none of a dry run
    for name in ("image_url", "Prompt", "prompt ", "__proto__", "constructor", "", "x" * 1000, "é"):
        expect(server, f"unknown field {name[:20]!r}", server.json("/api/v1/jobs", {**SMALL, name: "http://127.0.0.1/"}), {422})
    expect(server, "no prompt", server.json("/api/v1/jobs", {}), {422}, field="prompt")
    for prompt in ("", " ", "é" * 4000, "\u202e\u2066x", "e" + "\u0301" * 2000, "😀" * 500, "%s%n${jndi:ldap://x}{{7*7}}<script>alert(1)</script>", "a\r\nb\x1b[31mc\x07"):
        status, body, _ = server.ask(server.json("/api/v1/jobs", {**SMALL, "prompt": prompt}))
        check(f"prompt {prompt[:20]!r}", status in (200, 202, 422), f"{status} {body[:100]!r}")
        if status in (200, 202):
            made.append(json.loads(body)["id"])
    for job in filter(None, made):
        server.ask(server.head("POST", f"/api/v1/jobs/{job}/cancel", "Content-Length: 0"))
        server.ask(server.head("DELETE", f"/api/v1/jobs/{job}"))


# --- F12: pictures ---

def chunk(kind, data, crc=None):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)


def png(width=64, height=64, depth=8, colour=2, interlace=0, rows=None, before=b""):
    rows = b"".join(b"\0" + b"\x40" * (width * 3) for _ in range(height)) if rows is None else rows
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def webp(payload):
    return b"RIFF" + struct.pack("<I", 12 + len(payload)) + b"WEBPVP8L" + struct.pack("<I", len(payload)) + payload


def pictures(server):
    good = png()
    bomb = zlib.compress(b"\0" * (128 << 20))
    jpeg = bytes.fromhex("ffd8ffc000110801000100030122000211010311010000ffd9")
    bad = {  # seen when they come
        "nothing": b"", "a byte": b"\x89", "text": b"hello", "the signature alone": good[:8], "100,000 x 100,000": png(100_000, 100_000, rows=b"\0"),
        "2^31 x 2^31": png(2**31, 2**31, rows=b""), "0 x 0": png(0, 0, rows=b""), "65,535 x 1": png(65_535, 1, rows=b"\0"), "a wrong CRC": good[:29] + bytes([good[29] ^ 1]) + good[30:],
        "colour type 5": png(colour=5), "depth 3": png(depth=3),
        "a 12-bit JPEG": jpeg.replace(b"\x11\x08", b"\x11\x0c"), "GIF": b"GIF89a" + bytes(58), "TGA": bytes([0, 0, 2]) + bytes(15), "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a WebP that ends": b"RIFF\x1a\0\0\0WEBPVP8 ",
        "a WebP of 16,384 x 16,384": webp(b"\x2f\xff\xff\xff\x0f" + bytes(40)), "another VP8L": webp(b"\x2f\xff\xff\xff\xff" + bytes(40)),
    }
    worse = {  # seen by the worker, when it decodes
        "half": good[:len(good) // 2], "no end": good[:-12], "few rows": png(64, 64, rows=b"\0" * 10), "a bomb of rows": good[:33] + chunk(b"IDAT", bomb) + good[-12:],
        "a chunk of 2^31": good[:33] + struct.pack(">I", 2**31) + b"IDAT" + good[41:], "a JPEG that ends": jpeg, "a progressive JPEG": jpeg.replace(b"\xff\xc0", b"\xff\xc2"),
        "a WebP of noise": webp(b"\x2f\x3f\x00\x0f\x00" + bytes(range(1, 255))),
    }
    odd = {  # may be taken or refused, in good order
        "a polyglot": good + b"<script>alert(1)</script>PK\x03\x04", "a zTXt bomb": png(before=chunk(b"zTXt", b"a\0\0" + bomb)), "an iCCP bomb": png(before=chunk(b"iCCP", b"a\0\0" + bomb)),
        "APNG": png(before=chunk(b"acTL", struct.pack(">II", 1000, 0))), "interlaced": png(interlace=1), "16 bits": png(depth=16, rows=b"".join(b"\0" + b"\x40" * 384 for _ in range(64))),
        "1 x 1": png(1, 1), "a bad filter": png(rows=b"\x09" * 64 * 193),
    }
    made = []
    for name, data in {**bad, **worse, **odd}.items():
        body = {**SMALL, "init_image": base64.b64encode(data).decode()}
        began = time.monotonic()
        status, answer, _ = server.ask(server.json("/api/v1/jobs?wait=60", body))
        seconds = time.monotonic() - began
        error = code_of(answer)
        is_fine = status == 422 and error.get("field") == "init_image" if name in bad else status == 422
        if status in (200, 202):
            job = json.loads(answer)
            made.append(job["id"])
            is_fine = name in odd and job["state"] == "done" or name not in bad and job["state"] == "failed" and job["error"]["code"] == "bad_request"
        check(f"picture, {name}", is_fine, f"{status} {answer[:200]!r}")
        check(f"picture, {name}: quick", status != 422 or seconds < 5, seconds)
    for text in ("%", "=", "====", "a", "aGVsbG8", "aGVsbG8=\n", "data:image/png;base64,", "data:text/html,x", "-_-_", "AAAA" * 1000, "\u00e9"):
        expect(server, f"base64 {text[:10]!r}", server.json("/api/v1/jobs", {**SMALL, "init_image": text}), {422}, field="init_image")
    expect(server, "a mask alone", server.json("/api/v1/jobs", {**SMALL, "mask": base64.b64encode(good).decode()}), {422}, field="mask")
    for job in made:
        server.ask(server.head("DELETE", f"/api/v1/jobs/{job}"))


# --- F14: paths ---

def paths(server):
    tricks = ["..", "%2e%2e", "%2e%2e%2f", "..%2f..%2fetc%2fpasswd", "%00", "a%00.png", "/etc/passwd", "//etc/passwd", "..\\..\\x", "....//", "%252e%252e%252f", "\u00e9", "%c0%ae", "%ff", "." * 5000,
              "A" * 32, "0" * 31, "0" * 33, "0" * 32, "g" * 32, "0" * 31 + "%30", ".sd35", ".sd35%2fstore.db", "store.db", "CON", "%0d%0aX-Evil:%201", "%", "*", "~root", "{id}"]
    for prefix in ("/api/v1/images/", "/api/v1/jobs/", "/files/", "/static/", "/docs/", "/"):
        for trick in tricks:
            for tail in ("", "/thumbnail", "/metadata") if "images" in prefix else ("",):
                target = prefix + urllib.parse.quote(trick, safe="%/\\:*~{}.") + tail
                status, body, text = server.ask(server.head("GET", target))
                check(f"GET {target[:60]}", status in (400, 403, 404, 414) and b"root:" not in body and b"x-evil" not in text.lower(), f"{status} {body[:100]!r}")


# --- F15, F16: who asks ---

def gate(server):
    cases = [("Host: evil.example", None, {200}), (None, "http://evil.example", {403}), (None, "null", {403}), (None, f"https://{server.host}.evil.example", {403}),
             (None, f"http://{server.host}", {422}), (None, "file://", {403}), (None, f"http://{server.address[0]}:1", {403})]
    for _, origin, statuses in cases[1:]:
        expect(server, f"POST from {origin}", server.json("/api/v1/jobs", {}, f"Origin: {origin}"), statuses)
    for site, statuses in (("cross-site", {403}), ("same-site", {403}), ("same-origin", {422}), ("none", {422})):
        expect(server, f"Sec-Fetch-Site: {site}", server.json("/api/v1/jobs", {}, f"Sec-Fetch-Site: {site}"), statuses)
    for host, statuses in (("evil.example", {401, 403}), ("localhost.evil.example", {401, 403}), ("127.0.0.1.evil.example", {401, 403}), ("a b", {400}), ("a@b", {400}), ("a%00", {400}),
                           ("[::1", {400}), ("", {400}), ("x" * 300, {400}), ("127.0.0.1:99999", {400}), ("127.0.0.1:", {400}), (server.host, {401}), ("localhost", {401})):
        expect(server, f"Host {host[:30]!r}", f"GET /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), statuses)
    for name in ("Bearer", "Bearer ", "Bearer x", "Basic x", "Basic Og==", "Digest a", f"bearer {server.key[:-1]}", f"Bearer {server.key}x", "x" * 5000):
        expect(server, f"Authorization {name[:12]!r}", server.head("GET", "/api/v1/queue", f"Authorization: {name}", key=False), {401, 429})
    expect(server, "a key in the query", server.head("GET", f"/api/v1/queue?key={server.key}", key=False), {400}, code="key_in_query")
    for method, path in (("GET", "/api/v1/jobs"), ("POST", "/api/v1/jobs"), ("GET", "/api/v1/events"), ("GET", "/metrics"), ("GET", "/api/v1/keys"), ("DELETE", "/api/v1/jobs")):
        expect(server, f"{method} {path} without a key", server.head(method, path, "Content-Length: 0", key=False), {401})


# --- F19 to F22: disconnects and slow clients ---

def part_ways(connection, is_reset):
    if is_reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def jobs_of(server, prompt):
    jobs = server.get("/api/v1/jobs?limit=100")
    return [job for job in jobs.get("jobs", jobs.get("items", [])) if job.get("parameters", {}).get("prompt") == prompt]


def partings(server):
    before = server.files()
    prompt = f"parting {random.getrandbits(32)}"
    cut = server.json("/api/v1/jobs", {**SMALL, "prompt": prompt})
    for is_reset in (False, True):
        for at in range(0, len(cut), 3):  # never the whole request
            connection = server.connect()
            connection.sendall(cut[:at])
            part_ways(connection, is_reset)
        whole = [server.json("/api/v1/jobs?wait=60", SMALL), server.json("/api/v1/jobs", SMALL), server.head("GET", "/api/v1/events"), server.head("GET", "/openapi.json"),
                 server.json("/v1/images/generations", {"prompt": "a", "size": "64x64"}), server.json("/sdapi/v1/txt2img", {"prompt": "a", "width": 64, "height": 64, "steps": 1})]
        for request in whole:
            for wanted in (0, 1, 100):  # bytes of the answer that are read first
                connection = server.connect()
                connection.sendall(request)
                if wanted:
                    connection.recv(wanted)
                part_ways(connection, is_reset)
    check("half a request makes no job", not jobs_of(server, prompt))
    end = time.monotonic() + DEADLINE
    while server.files() > before + 3 and time.monotonic() < end:
        time.sleep(.1)
    check("descriptors are given back", server.files() <= before + 3, f"{before} before, {server.files()} after")


def slow(server):
    """Slow heads and bodies are cut off, and nobody else waits for them."""
    idle = [server.connect() for _ in range(500)]
    for i, connection in enumerate(idle):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n"[:5 + i % 15] if i % 2 else server.head("POST", "/api/v1/jobs", "Content-Type: application/json", "Content-Length: 1000"))
    frozen = [server.connect(window=2048) for _ in range(200)]
    for connection in frozen:
        connection.sendall(server.head("GET", "/api/v1/events"))
    unread = [server.connect(window=2048) for _ in range(50)]
    for connection in unread:
        connection.sendall(server.head("GET", "/openapi.json"))
    latencies = sorted(expect(server, "a request beside slow ones", server.head("GET", "/health/live"), {200}) for _ in range(200))
    check("slow clients: the p99 of others is under 500 ms", latencies[197] < .5, latencies[197])
    print(f"    beside 750 slow clients: p99 {1e3 * latencies[197]:.1f} ms")
    is_well(server)
    began = time.monotonic()
    for i, connection in enumerate(idle):
        status = read_answer(connection, is_closing=True)[0]
        check(f"slow client {i} is told 408", status == 408, status)
    check("slow clients are cut off in time", time.monotonic() - began < 25, time.monotonic() - began)
    for connection in idle + frozen + unread:
        connection.close()


def flood(server):
    """Connections that come and go; the next request is answered."""
    end = time.monotonic() + 3
    count = 0
    while time.monotonic() < end:
        connection = server.connect()
        part_ways(connection, True)
        count += 1
    print(f"    {count} connections were reset")
    held = [server.connect() for _ in range(2000)]
    expect(server, "beside 2,000 half-open connections", server.head("GET", "/health/live"), {200})
    for connection in held:
        connection.close()


# --- F26: one key, many requests ---

def idempotency(server):
    key = f"Idempotency-Key: {random.getrandbits(64)}"
    start = threading.Barrier(50)

    def submit(_):
        answers = []
        start.wait()
        for _ in range(20):
            status, body, _ = server.ask(server.json("/api/v1/jobs", SMALL, key))
            answers.append((status, json.loads(body).get("id")))
        return answers
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = sum(pool.map(submit, range(50)), [])
    check("1,000 answers to one key", len(answers) == 1000 and {status for status, _ in answers} <= {200, 202}, {status for status, _ in answers})
    check("one job for one key", len({job for _, job in answers}) == 1, len({job for _, job in answers}))
    expect(server, "the same key, another body", server.json("/api/v1/jobs", {**SMALL, "seed": 2}, key), {409, 422}, code="idempotency_conflict")
    for value, statuses in (("x" * 255, {200, 202}), ("x" * 256, {422}), ("", {422})):
        expect(server, f"a key of {len(value)} bytes", server.json("/api/v1/jobs", SMALL, f"Idempotency-Key: {value}"), statuses)


# --- F18: what stands in the log ---

LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (error|warning|info|debug) +\[[\w.-]+\] [a-z_.]+( [a-z_]+=(\"([^\"\\\\]|\\\\.)*\"|[^\" ]*))*|sd35: .*")


def log(server):
    """CR, LF and ESC in whatever a client can say make no line of their own, and no terminal sees an escape."""
    if not server.log:
        return
    name = f"mark{random.getrandbits(32)}"
    evil = f"{name}\r\n2026-01-01T00:00:00.000Z error   [front] forged.{name} x=1\n\x1b[31m\x9b31m\x07%n${{jndi:ldap://x}}"
    quoted = urllib.parse.quote(evil)
    before = len(server.log.read_bytes())
    status, body, _ = server.ask(server.json("/api/v1/jobs?wait=60", {**SMALL, "prompt": evil}))
    check("the prompt is drawn", status == 200, f"{status} {body[:100]!r}")
    if status == 200:
        check("the prompt comes back as it was", json.loads(body)["parameters"]["prompt"] == evil)
    for request in (server.head("GET", f"/api/v1/jobs?cursor={quoted}"), server.head("GET", f"/{quoted}"), server.json("/api/v1/jobs", {**SMALL, evil: 1}),
                    server.json("/api/v1/keys", {"name": evil, "scopes": ["read"]}), server.json("/v1/images/generations", {"prompt": evil, "size": "64x64", "model": evil}),
                    server.json("/sdapi/v1/options", {evil: evil}), server.head("GET", "/api/v1/queue", "User-Agent: \x1b[31m", f"X-Request-Id: {name}"),
                    server.json("/api/v1/jobs", SMALL, f"Idempotency-Key: {quoted}"), server.json("/api/v1/login", {"user": evil, "password": evil})):
        status, body, _ = server.ask(request)
        check("hostile texts", status < 500, f"{status} {body[:100]!r}")
    lines = server.log.read_bytes()[before:].decode(errors="replace").split("\n")
    check("the log is written", len(lines) > 5, len(lines))
    for line in filter(None, lines):
        check("a line of the log", LINE.fullmatch(line) and not any(ord(c) < 32 or 127 <= ord(c) < 160 or c == "\ufffd" for c in line) and server.key not in line, repr(line))
    text = server.ask(server.head("GET", "/metrics"))[1].decode()
    check("no user's text in the metrics", name not in text and len(text) < 200_000, len(text))


# --- F23: no descriptors ---

def few_files(server):
    """More connections than descriptors: those that wait are told 503, or wait, and all is well afterwards."""
    if not server.program:
        return
    few = running.Server(server.program, options=["--log-level", "warning"], files=FEW_FILES)
    with few:
        few.wait_ready()
        other = Server(few.url, few.key, few.process.pid)
        before = other.children()
        job = json.loads(other.ask(other.json("/api/v1/jobs", {**SMALL, "steps": 20}))[1])["id"]
        held = [other.connect() for _ in range(5 * FEW_FILES)]
        for connection in held:
            connection.sendall(other.head("GET", "/health/live"))
        answers = collections.Counter()
        for connection in held:
            connection.settimeout(2)
            try:
                answers[read_answer(connection)[0]] += 1
            except TimeoutError:
                answers["waits"] += 1
            connection.close()
        print(f"    {dict(answers)}")
        check("some are answered", answers[200] > 0 and set(answers) <= {200, 503, 0, "waits"}, answers)
        running.wait_until("descriptors", lambda: other.ask(other.head("GET", "/health/live"))[0] == 200)
        running.wait_until("the job is done", lambda: (other.get(f"/api/v1/jobs/{job}") or {}).get("state") == "done")
        is_well(other)
        check("few descriptors: no process ended", other.children() == before, f"{before} before, {other.children()} now")
        check("few descriptors: it stops", few.stop() == 0)
        check("few descriptors: the store is sound", not few.verify())


TESTS = [garbage, limits, smuggling, chunks, bombs, fields, pictures, paths, gate, partings, slow, flood, idempotency, log, few_files]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--pid", type=int, default=0)
    parser.add_argument("--log", type=pathlib.Path)
    parser.add_argument("--program", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    server = Server(arguments.url, arguments.key, arguments.pid, arguments.log, arguments.program)
    before = server.children()
    for test in TESTS:
        if arguments.names and test.__name__ not in arguments.names:
            continue
        began, failed = time.monotonic(), len(failures)
        print(f"  {test.__name__}", flush=True)
        test(server)
        is_well(server)
        check(f"{test.__name__}: no process of the server ended", server.children() == before, f"{before} before, {server.children()} now")
        print(f"  {test.__name__}: {'FAILED' if len(failures) > failed else 'passed'} in {time.monotonic() - began:.1f} s", flush=True)
    print(f"{len(failures)} failures")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
