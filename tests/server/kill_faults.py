"""Disks that are full or read-only, a second server, a damaged database."""
import contextlib
import os
import pathlib
import subprocess
import tempfile
import time

from kill_jobs import Jobs, end, is_in, job_of, wait_end, wait_step
from running import ROOT, wait_until

DISK_BYTES = 24 << 20


def mount(*words):
    return subprocess.run(["mount", *map(str, words)], capture_output=True).returncode == 0


@contextlib.contextmanager
def small_disk():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sd35-disk-"))
    assert mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def can_mount():
    if os.geteuid() != 0:
        return False
    with contextlib.suppress(AssertionError), small_disk():
        return True
    return False


def fill(folder, left=0):
    """A file that takes all room but so many bytes."""
    with contextlib.suppress(OSError), open(folder / "filler", "ab", buffering=0) as filler:
        free = os.statvfs(folder)
        left_to_fill = free.f_bavail * free.f_frsize - left
        while left_to_fill > 0:
            left_to_fill -= filler.write(b"\0" * min(left_to_fill, 1 << 16))


def is_refused(server, jobs, codes=("storage_full", "storage")):
    """Whether a new job gets 507; nothing but that or an acceptance is right. The disk is looked at once a second: what is accepted until then is to be done later."""
    key = jobs.next_key()
    body = jobs.body(key)
    answer = server.post("/api/v1/jobs", body)
    if answer.status == 202:
        jobs.accepted[key] = (answer.json()["id"], body)
        time.sleep(.3)
        return None
    assert answer.status == 507 and answer.json()["error"]["code"] in codes, (answer.status, answer.body)
    return answer


def missing_parts(server):
    """What keeps it from being ready."""
    answer = server.get("/health/ready")
    assert answer.status == (503 if answer.json()["missing"] else 200), answer.body
    return answer.json()["missing"]


def is_held(server):
    return any("picture.held" in line for line in server.log)


def fill_once(jobs, arguments, reserve, left):
    """The disk fills while jobs wait and run: what cannot be stored waits; with room again all of it is done."""
    with jobs.server(arguments.program, ["--disk-reserve", reserve]) as server:
        server.wait_ready()
        jobs.check_done(server, jobs.submit(server))
        running = [jobs.submit(server, steps=arguments.rng.randrange(30, 60)) for _ in range(3)]
        wait_step(server, running[0], 1)
        fill(jobs.outputs, left)
        refusal = wait_until("a refusal", lambda: is_refused(server, jobs))
        assert int(refusal.headers["Retry-After"]) > 0
        assert server.get("/health/live").status == 200 and server.get("/health/ready").status == 503
        if left == 0:
            wait_until("a finished picture without room", lambda: is_held(server))
            jobs.outcomes["held"] += 1
            assert {"disk_reserve", "stored_pictures"} <= set(missing_parts(server)), missing_parts(server)
            assert job_of(server, running[0])["state"] == "running" and not job_of(server, running[0])["images"]
        time.sleep(arguments.rng.uniform(0, 3))
        with contextlib.suppress(FileNotFoundError):
            (jobs.outputs / "filler").unlink()
        server.wait_ready()
        for job in running:
            jobs.check_done(server, job, attempts=1)
        jobs.check_done(server, jobs.submit(server))
        jobs.check_all(server)
        assert not any("front.died" in line for line in server.log), server.log[-20:]
        end(server)


def full(jobs, arguments):
    with small_disk() as folder:
        mine = Jobs(folder)
        for attempt in range(max(4, arguments.each)):
            # Nothing at all left, or all of the reserve but not more.
            fill_once(mine, arguments, *((0, 0), (4, 0), (4, 3 << 20), (0, 1 << 15))[attempt % 4])
        print("times that finished pictures waited for room:", mine.outcomes["held"], flush=True)
    return max(4, arguments.each)


def refusal(jobs, arguments, *options):
    """What a server says that does not start."""
    command = [arguments.program, "serve", "--model", ROOT / "models" / "demo", "--host", "127.0.0.1", "--port", "0", "--device", "cpu",
               "--outputs-dir", jobs.outputs, *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, env={**os.environ, "SD35_PLUGIN_DIR": "/none"})
    assert done.returncode not in (0, 134, 137, 139), (done.returncode, done.stderr)
    return done.stderr


@contextlib.contextmanager
def immutable(outputs):
    """No file can be made, renamed or removed. A file system is not made read-only while a server has its files open."""
    folders = [outputs, *(path for path in outputs.rglob("*") if path.is_dir())]
    subprocess.run(["chattr", "+i", *folders], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *folders], check=True)


def can_be_immutable():
    """Only kernels since 6.6 know that of tmpfs."""
    with contextlib.suppress(subprocess.CalledProcessError, FileNotFoundError), small_disk() as folder, immutable(folder):
        return True
    return False


@contextlib.contextmanager
def moved_away(outputs):
    away = outputs.with_name("away")
    outputs.rename(away)
    try:
        yield
    finally:
        away.rename(outputs)


def lose_outputs(jobs, arguments, lose, missing):
    """The folder cannot be used for a while, as a job runs: nothing is accepted, the history is there, and then everything goes on."""
    with jobs.server(arguments.program, ["--disk-reserve", 0]) as server:
        server.wait_ready()
        before = jobs.submit(server)
        picture = jobs.check_done(server, before)["images"][0]["url"]
        running, waiting = jobs.submit(server, steps=60), jobs.submit(server)
        wait_step(server, running, 1)
        with lose(jobs.outputs):
            refusal = wait_until("a refusal", lambda: is_refused(server, jobs, codes=("storage",)))
            assert int(refusal.headers["Retry-After"]) > 0
            wait_until(f"{missing} is missing", lambda: missing in missing_parts(server))
            assert server.get("/health/live").status == 200
            assert job_of(server, before)["state"] == "done" and server.get(picture).status == 200
            # In a folder that was moved the files are written, as its descriptors are open.
            wait_until("the end of the drawing", lambda: is_held(server) or is_in(job_of(server, running)))
        server.wait_ready()
        for job in (running, waiting, jobs.submit(server)):
            jobs.check_done(server, job, attempts=1)
        jobs.check_all(server)
        assert not any("front.died" in line or "front.restarts" in line for line in server.log), server.log[-20:]
        end(server)


def readonly(jobs, arguments):
    """A folder that cannot be written to, or is taken away, while it is served; and one that is refused at the start, and left as it is."""
    with small_disk() as folder:
        (folder / "outputs").mkdir()
        mine = Jobs(folder / "outputs")
        for lose, missing in ((immutable, "writable_outputs"), (moved_away, "outputs_folder")):
            if lose is immutable and not can_be_immutable():
                print("SKIPPED a folder that turns read-only: no folder can be made immutable here", flush=True)
            else:
                lose_outputs(mine, arguments, lose, missing)
    with small_disk() as folder:
        mine = Jobs(folder)
        with mine.server(arguments.program, ["--disk-reserve", 0]) as server:
            server.wait_ready()
            job = mine.submit(server)
            mine.check_done(server, job)
            end(server)
            assert mount("-o", "remount,ro", folder)
            said = refusal(mine, arguments)
            assert str(folder) in said and "ead-only" in said, said
            assert not server.verify(), "a store can be verified where nothing can be written"
            assert mount("-o", "remount,rw", folder)
            server.start()
            server.wait_ready()
            mine.check_done(server, job)
            mine.check_done(server, mine.submit(server))
            end(server)
    return 1


def second(jobs, arguments):
    """A second server on a folder is refused, and the first one does not notice."""
    with jobs.server(arguments.program) as server:
        server.wait_ready()
        job = jobs.submit(server, steps=8)
        for _ in range(arguments.each):
            said = refusal(jobs, arguments)
            assert "another server works on" in said and str(jobs.outputs) in said, said
        assert "works on" in server.verify()
        jobs.check_done(server, job, attempts=1)
        end(server)
    return arguments.each


def damage(path, rng):
    """Returns what was done to it."""
    data = bytearray(path.read_bytes())
    what = rng.choice(("header", "page", "cut", "zeros"))
    if what == "header":
        data[:16] = rng.randbytes(16)
    elif what == "page":
        page = rng.randrange(1, len(data) // 4096)
        data[4096 * page:4096 * page + 4096] = rng.randbytes(4096)
    elif what == "cut":
        del data[len(data) // 2 // 4096 * 4096:]
    else:
        data[:] = bytes(len(data))
    path.write_bytes(data)
    return what


def damaged(jobs, arguments):
    """A database that is damaged is refused and left as it is; with the backup put back everything is there."""
    refused = 0
    with jobs.server(arguments.program) as server:
        server.wait_ready()
        mine = [jobs.submit(server) for _ in range(8)]
        for job in mine:
            jobs.check_done(server, job)
        end(server)
        database = next(path for path in (jobs.outputs / ".sd35").iterdir() if path.read_bytes()[:16] == b"SQLite format 3\0")
        sound = database.read_bytes()
        pictures = sorted(path for path in jobs.outputs.rglob("*.png"))
        for _ in range(arguments.each):
            what = damage(database, arguments.rng)
            harmed = database.read_bytes()
            said = refusal(jobs, arguments)
            assert "damaged" in said and str(database) in said, (what, said)
            assert database.read_bytes() == harmed, what
            assert pictures == sorted(path for path in jobs.outputs.rglob("*.png")), what
            assert server.verify(), what
            database.write_bytes(sound)
            refused += 1
        server.start()
        server.wait_ready()
        jobs.check_all(server)
        end(server)
    return refused
