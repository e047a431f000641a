#!/usr/bin/env python3
"""The native API over a socket: a running server on loopback, its demo model, and a key with all scopes.

Needs Python's standard library only. Prints each check; exit status 1 when one failed. Makes a few
jobs of 64 x 64 pixels and deletes what it made, and keys, which it revokes.
"""
import argparse
import base64
import functools
import http.client
import io
import itertools
import json
import re
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile

SMALL = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 2, "seed": 7}
SLOW = {**SMALL, "steps": 100, "width": 512, "height": 512, "count": 10}
STEP_LIMIT_SECONDS = 120

failures = 0


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        return self.json.get("error", {}).get("code")

    @property
    def field(self):
        return self.json.get("error", {}).get("field")


class FromAddress(urllib.request.HTTPHandler):
    def __init__(self, address):
        super().__init__()
        self.address = address

    def http_open(self, request):
        return self.do_open(functools.partial(http.client.HTTPConnection, source_address=(self.address, 0)), request)


class Client:
    """`address`: of loopback, that the requests come from."""

    def __init__(self, url, key, address="127.0.0.1"):
        self.url, self.key = url.rstrip("/"), key
        self.opener = urllib.request.build_opener(FromAddress(address))

    def open(self, method, path, body=None, headers=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        return self.opener.open(request, timeout=STEP_LIMIT_SECONDS)

    def ask(self, method, path, body=None, headers=None):
        try:
            with self.open(method, path, body, headers) as reply:
                return Answer(reply.status, reply.headers, reply.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())

    def get(self, path, **headers):
        return self.ask("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def post(self, path, body, headers=None):
        return self.ask("POST", path, body, headers)

    def finish(self, job_id):
        for _ in range(STEP_LIMIT_SECONDS // 5):
            job = self.get(f"/api/v1/jobs/{job_id}?wait=5").json
            if job["state"] in ("done", "failed", "cancelled"):
                return job
        raise AssertionError(f"job {job_id} does not end")


def expect(what, is_so, seen=None):
    global failures
    print(("ok      " if is_so else "FAILED  ") + what + ("" if is_so or seen is None else f": {seen}"))
    failures += not is_so


class Events(threading.Thread):
    """Reads a stream of events until `last` came, or it is closed."""

    def __init__(self, client, query="", headers=None, last=lambda event: False):
        super().__init__(daemon=True)
        self.events, self.last = [], last
        self.reply = client.open("GET", "/api/v1/events" + query, headers=headers)
        self.start()

    def run(self):
        event = {}
        for line in self.reply:
            line = line.decode().rstrip("\n")
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                event[name] = value
            elif not line and event:
                self.events.append(event)
                if self.last(event):
                    return
                event = {}

    def wait(self):
        self.join(STEP_LIMIT_SECONDS)
        return not self.is_alive()


def check_bad_fields(client):
    wrong = [
        ("width", [0, -1, 63, 65, 2**31, "1024", 64.5, None, [], {}, True, 1e30]),
        ("height", [0, -16, 70000, "a", None]),
        ("steps", [0, -1, 10**6, "2", 1.5, None]),
        ("count", [0, 17, -1, "1", None]),
        ("guidance_scale", [-1, 1000, "4", None, []]),
        ("seed", [-2, "7", 1.5, [1]]),
        ("format", ["gif", 1, None]),
        ("prompt", [1, None, [], {}]),
        ("timeout", [0, -1, 10**9, "5", None]),
        ("dry_run", [1, "true", None]),
        ("init_image", ["!", 1, "aGVsbG8="]),
        ("image_url", ["http://169.254.169.254/", "file:///etc/passwd"]),
    ]
    for field, values in wrong:
        for value in values:
            answer = client.post("/api/v1/jobs", {**SMALL, field: value})
            expect(f"{field}={value!r} is refused by name",
                   answer.status in (400, 422) and answer.field == field, answer.body[:200])
    huge = client.post("/api/v1/jobs", {**SMALL, "seed": 2**63})
    expect("a number beyond 64 bits is refused as such", huge.status == 400 and "too large" in huge.json["error"]["message"], huge.body)
    expect("no prompt is refused", client.post("/api/v1/jobs", {}).field == "prompt")
    for path in ("?wait=61", "?wait=-1", "?wait=x", "?wait=1.5"):
        answer = client.post("/api/v1/jobs" + path, SMALL)
        expect(f"{path} is refused", answer.status == 422 and answer.field == "wait", answer.body)


def check_jobs(client):
    dry = client.post("/api/v1/jobs", {**SMALL, "dry_run": True})
    expect("dry_run tells memory and time", dry.status == 200 and
           set(dry.json) == {"fits", "memory_bytes", "memory_free_bytes", "seconds", "reason"}, dry.body)
    made = client.post("/api/v1/jobs", {**SMALL, "count": 2, "prompt": "zebra crossing"})
    expect("a job is accepted", made.status == 202, made.body)
    expect("and located", made.headers["Location"] == f"/api/v1/jobs/{made.json['id']}")
    done = client.finish(made.json["id"])
    expect("it is done with two pictures", done["state"] == "done" and len(done["images"]) == 2, done)
    expect("of seeds that follow each other", [image["seed"] for image in done["images"]] == [7, 8])
    waited = client.post("/api/v1/jobs?wait=60", SMALL)
    expect("a wait ends with the job", waited.status == 200 and waited.json["state"] == "done", waited.body)
    expect("an unknown job is not found", client.get("/api/v1/jobs/" + "0" * 32).status == 404)
    expect("what is no id is not found", client.get("/api/v1/jobs/..%2f..%2fetc").status in (400, 404))
    return done, waited.json


def check_idempotency(client):
    key = {"Idempotency-Key": f"black box {time.time()}"}
    first, again = (client.post("/api/v1/jobs", SMALL, key) for _ in range(2))
    expect("a key's second request gets the first one's job",
           first.status == 202 and again.status == 200 and first.json["id"] == again.json["id"], again.body)
    other = client.post("/api/v1/jobs", {**SMALL, "seed": 8}, key)
    expect("another body with it is a conflict", other.status == 409, other.body)
    client.finish(first.json["id"])
    return first.json["id"]


def check_cancel(client):
    job = client.post("/api/v1/jobs", SLOW).json
    cancelled = client.ask("DELETE", f"/api/v1/jobs/{job['id']}")
    expect("a job is cancelled", cancelled.status == 200, cancelled.body)
    expect("and stays so", client.finish(job["id"])["state"] == "cancelled")
    several = [client.post("/api/v1/jobs", SLOW).json["id"] for _ in range(3)]
    expect("all=1 has to be said", client.ask("DELETE", "/api/v1/jobs").status == 422)
    expect("all are cancelled", client.ask("DELETE", "/api/v1/jobs?all=1").json["cancelled"] >= 3)
    states = {client.finish(one)["state"] for one in several}
    expect("each of them", states == {"cancelled"}, states)
    return [job["id"], *several]


def check_events(client):
    def is_end(event):
        return event.get("event") == "job.done"

    stream = Events(client, last=is_end)
    job = client.post("/api/v1/jobs", SMALL).json
    expect("a stream tells of the end", stream.wait(), stream.events[-3:])
    names = [event.get("event") for event in stream.events]
    expect("and of the beginning", "job.queued" in names and "job.started" in names, names)
    expect("each event has a number", all("id" in e for e in stream.events if "event" in e), stream.events[:3])
    start = next(e["id"] for e in stream.events if e.get("event") == "job.queued")
    again = Events(client, headers={"Last-Event-ID": start}, last=is_end)
    expect("what was missed comes again", again.wait() and
           [e.get("id") for e in again.events if "event" in e] ==
           [e["id"] for e in stream.events if "event" in e][names.index("job.queued") + 1 - len(names):],
           (again.events, stream.events))
    foreign = Events(client, "?last_event_id=0123456789abcdef-5", last=lambda e: e.get("event") == "gap")
    expect("a number of another start gives a gap", foreign.wait())
    return job["id"]


def check_history(client, done):
    ids, cursor = [], None
    for _ in range(1000):
        page = client.get("/api/v1/jobs?limit=2" + (f"&cursor={cursor}" if cursor else "")).json
        ids += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        if not cursor:
            break
    expect("pages hold each job once", len(ids) == len(set(ids)) and done["id"] in ids)
    found = client.get("/api/v1/jobs?search=zebra").json["jobs"]
    expect("words of the prompt are found", done["id"] in [job["id"] for job in found])
    expect("others are not", client.get("/api/v1/jobs?search=xyzzyplugh").json["jobs"] == [])
    expect("a state is chosen", {job["state"] for job in client.get("/api/v1/jobs?state=done").json["jobs"]} == {"done"})
    expect("a wrong cursor is refused", client.get("/api/v1/jobs?cursor=agAAAA").status == 422)
    pictures = client.get("/api/v1/images?limit=100").json["images"]
    expect("pictures are listed", {image["id"] for image in done["images"]} <= {image["id"] for image in pictures})


def check_star_events(client, image):
    """Two pages that are open agree on the stars: the events of one's own stream have them."""
    def is_last(event):
        return event.get("event") == "job.starred" and not json.loads(event["data"])["images"][image["index"]]["starred"]

    stream = Events(client, last=is_last)
    path = f"/api/v1/images/{image['id']}/star"
    star = client.post(path, {"starred": True})
    expect("a star is set", star.status == 200 and star.json["starred"] is True, star.body)
    starred = client.get("/api/v1/images?starred=1").json["images"]
    expect("and chosen by", image["id"] in [one["id"] for one in starred])
    client.post(path, {"starred": False})
    expect("a stream tells when it is taken back", stream.wait(), stream.events[-3:])
    told = [json.loads(event["data"]) for event in stream.events if event.get("event") == "job.starred"]
    states = [[one["starred"] for one in job["images"] if one["id"] == image["id"]] for job in told]
    expect("and of both, in order", states == [[True], [False]], told)
    expect("with the picture's place", [job["image"] for job in told] == [image["index"]] * 2, told)
    expect("a star is true or false", client.post(path, {"starred": 1}).status == 422)


def check_pictures(client, done):
    image = done["images"][0]
    path = f"/api/v1/images/{image['id']}"
    file = client.get(path)
    expect("a picture's file is a PNG", file.body[:8] == b"\x89PNG\r\n\x1a\n" and len(file.body) == image["bytes"])
    expect("with an ETag that is quoted", (file.headers["ETag"] or "").startswith('"'), file.headers["ETag"])
    expect("and need not be sent twice", client.get(path, If_None_Match=file.headers["ETag"]).status == 304)
    expect("it has a name for saving", image["id"] in (client.get(path + "?download=1").headers["Content-Disposition"] or ""))
    expect("a thumbnail is a JPEG", client.get(path + "/thumbnail").body[:2] == b"\xff\xd8")
    metadata = client.get(path + "/metadata").json
    expect("its parameters are known", metadata["parameters"]["prompt"] == "zebra crossing", metadata)
    check_star_events(client, image)

    ids = [one["id"] for one in done["images"]]
    archive = client.post("/api/v1/images/zip", {"ids": ids})
    with zipfile.ZipFile(io.BytesIO(archive.body)) as files:
        expect("an archive is whole", files.testzip() is None)
        expect("and has what was asked for", len(files.namelist()) == 2 and files.read(files.namelist()[0]) == file.body)
    expect("of unknown pictures there is none", client.post("/api/v1/images/zip", {"ids": ["0" * 32]}).status == 404)


def check_deleting(client, done, single, others):
    image = done["images"][0]["id"]
    alone = client.ask("DELETE", f"/api/v1/images/{image}")
    expect("one picture of two stays", alone.status == 409 and alone.code == "has_siblings", alone.body)
    both = client.post("/api/v1/images/delete", {"ids": [one["id"] for one in done["images"]]})
    expect("both go together", len(both.json["deleted"]) == 2 and both.json["kept"] == [], both.body)
    expect("with their job", client.get(f"/api/v1/jobs/{done['id']}").status == 404)
    expect("and their file", client.get(f"/api/v1/images/{image}").status == 404)
    only = client.ask("DELETE", f"/api/v1/images/{single['images'][0]['id']}")
    expect("the only picture of a job goes", only.status == 200, only.body)
    for job in others:
        gone = client.ask("DELETE", f"/api/v1/jobs/{job}/record")
        expect("a job's record is deleted", gone.status == 200, gone.body)


def check_facts(client):
    model = client.get("/api/v1/model").json
    expect("the model is told", model["model"] and model["samplers"] and model["limits"]["side_max"] >= 64, model)
    expect("the device", client.get("/api/v1/device").json["is_ready"] is True)
    expect("the queue", client.get("/api/v1/queue").json["is_accepting"] is True)
    document = client.get("/openapi.json").json
    expect("the document", document["openapi"] == "3.1.0" and "/api/v1/jobs" in document["paths"])
    page = client.get("/docs")
    expect("and its page", page.status == 200 and b"/docs/docs.js" in page.body)
    expect("whose files are there", all(client.get(f"/docs/{name}").status == 200 for name in ("docs.js", "docs.css")))
    expect("a link without a signature is refused", client.get(f"/files/{'0' * 32}").status == 403)


# --- Who may ---

def operations(client):
    """(method, path, operation) of each that openapi.json lists."""
    for path, methods in client.get("/openapi.json").json["paths"].items():
        for method, operation in methods.items():
            filled = path.replace("{id}", "0" * 32).replace("{file}", "docs.js").replace("{rest}", "none").replace("{name}", "nobody")
            yield method.upper(), filled, operation


def is_public(operation):
    return operation["security"] == []


def check_every_route(client, metrics_key):
    wrong = "sd35_" + "A" * 43
    addresses = (f"127.1.{number // 250}.{number % 250 + 1}" for number in itertools.count())  # attempts of each are counted
    seen = 0
    for method, path, operation in operations(client):
        body = {} if "requestBody" in operation else None
        what = f"{method} {path}"
        nobody = Client(client.url, None).ask(method, path, body)
        stranger = Client(client.url, wrong, next(addresses)).ask(method, path, body)
        if is_public(operation):
            expect(f"{what} is public", nobody.status != 401 or path == "/api/v1/login", (nobody.status, nobody.body))
            expect(f"{what} answers all alike", stranger.status == nobody.status, (nobody.status, stranger.status))
            continue
        seen += 1
        expect(f"{what} needs a credential", nobody.status == 401, (nobody.status, nobody.body))
        expect("and says which", "realm=" in (nobody.headers["WWW-Authenticate"] or ""), nobody.headers)
        expect(f"{what} refuses a wrong key", stranger.status == 401, (stranger.status, stranger.body))
        if operation["x-scope"] != "metrics":
            other = Client(client.url, metrics_key).ask(method, path, body)
            expect(f"{what} refuses a key without the scope", other.status == 403, (other.status, other.body))
        if method == "GET":
            head = Client(client.url, None).ask("HEAD", path)
            expect(f"HEAD {path} needs a credential", head.status == 401 and not head.body, head.status)
    expect("most routes need a credential", seen > 40, seen)
    for path in ("/api/v1/nowhere", "/nowhere", "/api/v1/jobs/", "/api/v1//jobs", "/API/V1/jobs", "/api/v1/%6aobs"):
        hidden = Client(client.url, None).get(path)
        expect(f"{path} shows nothing", hidden.status in (401, 404), (hidden.status, hidden.body))


def check_credentials(client):
    def status(headers, method="GET", path="/api/v1/queue", body=None, address="127.2.0.1"):
        return Client(client.url, None, address).ask(method, path, body, headers).status

    def basic(text):
        return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}

    expect("a key may be a password", status(basic(f"anybody:{client.key}")) == 200)
    expect("a scheme's letters may be small", status({"Authorization": f"bearer {client.key}"}) == 200)
    for bad in ("", "Bearer", "Bearer ", "Basic", "Basic !!!", "Digest a", "x" * 5000, f"Bearer {client.key} {client.key}", f"Bearer {client.key}x",
                f"Bearer {client.key[:-1]}", client.key, "Basic " + base64.b64encode(b"nocolon").decode(), "Bearer \xff"):
        seen = status({"Authorization": bad}, address="127.2.0.2")
        expect(f"{bad[:24]!r} is no credential", seen in (401, 429), seen)
    expect("a key in the address is refused", status({}, path=f"/api/v1/queue?key={client.key}") == 400)
    many = [status({"Authorization": "Bearer sd35_wrong"}, address="127.2.0.3") for _ in range(12)]
    expect("wrong keys are answered with 429 in the end", many[0] == 401 and many[-1] == 429, many)
    expect("a good key goes on being good", status({"Authorization": f"Bearer {client.key}"}, address="127.2.0.3") == 200)
    login = Client(client.url, None, "127.2.0.3").post("/api/v1/login", {"key": client.key})
    expect("but logging in has to wait", login.status == 429 and login.headers["Retry-After"], login.body)


def check_cookie(client):
    browser = Client(client.url, None, "127.3.0.1")
    login = browser.post("/api/v1/login", {"key": client.key})
    cookie = login.headers["Set-Cookie"] or ""
    expect("a key logs in", login.status == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie, cookie)
    expect("the key is not told again", client.key not in str(login.headers) + login.body.decode())
    cookie = {"Cookie": cookie.split(";")[0]}
    expect("a cookie reads", browser.ask("GET", "/api/v1/queue", headers=cookie).status == 200)
    session = browser.ask("GET", "/api/v1/session", headers=cookie).json
    expect("a session is described", session["by_cookie"] is True and session["login_is_needed"] is True, session)
    dry = {**SMALL, "dry_run": True}
    marked = {**cookie, "X-SD35-Request": "1"}
    expect("a cookie alone changes nothing", browser.ask("DELETE", "/api/v1/jobs?all=1", headers=cookie).status == 403)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"):
        form = browser.post("/api/v1/jobs", dry, {**cookie, "Content-Type": kind})
        expect(f"nor what a form can send as {kind}", form.status == 403, form.body)
    expect("with the page's header it does", browser.post("/api/v1/jobs", dry, marked).status == 200)
    expect("not from another origin", browser.post("/api/v1/jobs", dry, {**marked, "Origin": "http://evil.example"}).status == 403)
    expect("nor by another name", browser.ask("GET", "/api/v1/queue", headers={**cookie, "Host": "evil.example"}).status in (403, 421))
    forged = cookie["Cookie"][:-2] + ("AA" if cookie["Cookie"][-2:] != "AA" else "BB")
    expect("a forged one is none", browser.ask("GET", "/api/v1/queue", headers={"Cookie": forged}).status == 401)
    expect("logging out ends it", browser.post("/api/v1/logout", {}, marked).status == 200)
    expect("for everybody who has it", browser.ask("GET", "/api/v1/queue", headers=cookie).status == 401)


def seen_by(client, method, path, body, own_id):
    """All that an answer tells, but for what it is about and the request's own id."""
    answer = client.ask(method, path.replace("ID", own_id), None if body is None else json.loads(json.dumps(body).replace("ID", own_id)))
    headers = sorted((name.lower(), value) for name, value in answer.headers.items() if name.lower() not in ("date", "x-request-id"))
    return answer.status, headers, re.sub(rb'"request_id": ?"[0-9a-f]{16}"', b"", answer.body).replace(own_id.encode(), b"ID")


def check_strangers(client, other, done):
    """What is A's is not there for B: every answer is the one to an id that there never was."""
    job, image, task = "/api/v1/jobs/ID", "/api/v1/images/ID", f"task({time.time_ns()})"
    drawn = client.post("/sdapi/v1/txt2img", {**SMALL, "force_task_id": task})
    expect("a task of AUTOMATIC1111's API ends", drawn.status == 200, drawn.body)
    ids = {"job": done["id"], "image": done["images"][0]["id"], "task": task}
    for kind, status, method, path, body in (
            ("job", 404, "GET", job, None), ("job", 404, "GET", job + "?wait=1", None), ("job", 404, "GET", job + "?all=1", None),
            ("job", 404, "DELETE", job, None), ("job", 404, "POST", job + "/cancel", {}), ("job", 404, "DELETE", job + "/record", None),
            ("image", 404, "GET", image, None), ("image", 404, "GET", image + "?all=1", None), ("image", 404, "GET", image + "/thumbnail", None),
            ("image", 404, "GET", image + "/metadata", None), ("image", 404, "POST", image + "/star", {"starred": True}), ("image", 404, "DELETE", image, None),
            ("image", 404, "POST", "/api/v1/images/zip", {"ids": ["ID"]}), ("image", 404, "POST", "/api/v1/images/zip?all=1", {"ids": ["ID"]}),
            ("image", 200, "POST", "/api/v1/images/delete", {"ids": ["ID"]}), ("image", 403, "GET", "/files/ID", None), ("image", 403, "HEAD", "/files/ID", None),
            ("image", 403, "GET", f"/files/ID?expires=99999999999&signature={'A' * 43}", None), ("task", 200, "POST", "/internal/progress", {"id_task": "ID"})):
        theirs, unknown = (seen_by(other, method, path, body, one) for one in (ids[kind], ids[kind][:-12] + "0123456789ab"))
        expect(f"{method} {path}: not of another's", theirs[0] == status, theirs)
        expect(f"{method} {path}: as of none at all", theirs == unknown, (theirs, unknown))
    job, image = f"/api/v1/jobs/{done['id']}", f"/api/v1/images/{done['images'][0]['id']}"
    gone = other.post("/api/v1/images/delete", {"ids": [done["images"][0]["id"]]})
    expect("nor are they deleted", gone.status == 404 or gone.json["deleted"] == [], gone.body)
    for query in ("", "?all=1", "?search=zebra"):
        expect(f"jobs{query} lists none", other.get("/api/v1/jobs" + query).json["jobs"] == [])
        expect(f"images{query} lists none", other.get("/api/v1/images" + query).json["images"] == [])
    expect("everybody's jobs are an administrator's to cancel", other.ask("DELETE", "/api/v1/jobs?all=1&everybody=1").status == 403)
    after = client.get(job)
    expect("it is as it was", after.status == 200 and after.json["images"] == done["images"], after.body)


def check_events_of_strangers(client, other):
    def is_end(event):
        return event.get("event") == "job.done"

    key = {"Idempotency-Key": f"of both {time.time()}"}
    stream, all_of_them = (Events(other, query, last=is_end) for query in ("", "?all=1"))
    mine = client.post("/api/v1/jobs", SMALL, key).json["id"]
    client.finish(mine)
    theirs = other.post("/api/v1/jobs", SMALL, key)
    expect("keys of idempotency are each one's own", theirs.status == 202 and theirs.json["id"] != mine, theirs.body)
    for events in (stream, all_of_them):
        expect("a stream ends with one's own job", events.wait())
        expect("and knows nothing of others", all(mine not in event.get("data", "") for event in events.events), events.events)
    expect("an administrator sees all", client.get(f"/api/v1/jobs/{theirs.json['id']}?all=1").status == 200)
    expect("when asking for it", client.get(f"/api/v1/jobs/{theirs.json['id']}").status == 404)
    for who, job in ((client, mine), (other, theirs.json["id"])):
        expect("one's own goes", who.ask("DELETE", f"/api/v1/jobs/{job}/record").status == 200)


def make_key(client, name, *scopes):
    made = client.post("/api/v1/keys", {"name": name, "scopes": scopes})
    expect(f"a key for {name} is made", made.status == 201 and made.json["key"].startswith("sd35_"), made.body)
    return made.json["key"]


def check_gate(client, done):
    if not client.key:
        return
    stranger, metrics = f"stranger-{time.time_ns()}", f"metrics-{time.time_ns()}"
    other = Client(client.url, make_key(client, stranger, "generate", "read"))
    metrics_key = make_key(client, metrics, "metrics")
    listed = client.get("/api/v1/keys")
    expect("keys are listed without themselves", stranger in [key["name"] for key in listed.json["keys"]] and other.key not in listed.body.decode())
    expect("metrics need their scope", other.get("/metrics").status == 403 and Client(client.url, metrics_key).get("/metrics").status == 200)
    check_every_route(client, metrics_key)
    check_credentials(client)
    check_cookie(client)
    check_strangers(client, other, done)
    check_events_of_strangers(client, other)
    for name in (stranger, metrics):
        expect(f"the key of {name} is revoked", client.ask("DELETE", f"/api/v1/keys/{name}").json == {"revoked": 1})
    expect("and is worth nothing", other.get("/api/v1/queue").status == 401)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:7860")
    parser.add_argument("--key", help="none: the server runs with --auth off")
    arguments = parser.parse_args()
    client = Client(arguments.url, arguments.key)
    check_facts(client)
    check_bad_fields(client)
    done, single = check_jobs(client)
    others = [check_idempotency(client), *check_cancel(client), check_events(client)]
    check_history(client, done)
    check_pictures(client, done)
    check_gate(client, done)
    check_deleting(client, done, single, others)
    print(f"{failures} failed" if failures else "all is well")
    sys.exit(1 if failures else 0)


main()
