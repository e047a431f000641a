"""Disks that are full or read-only, a second server, a damaged database."""
import contextlib
import os
import pathlib
import subprocess
import tempfile
import time

from kill_jobs import Jobs, end, wait_end, wait_step
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


def is_refused(server, jobs):
    """Whether a new job gets 507; nothing but that or an acceptance is right."""
    answer = server.post("/api/v1/jobs", jobs.body(jobs.next_key()))
    if answer.status == 202:
        wait_end(server, answer.json()["id"])
        return None
    assert answer.status == 507 and answer.json()["error"]["code"] == "storage_full", (answer.status, answer.body)
    return answer


def fill_once(jobs, arguments, reserve, left):
    """The disk fills while jobs wait and run: what cannot be stored fails as that or waits; with room again all goes on."""
    with jobs.server(arguments.program, ["--disk-reserve", reserve]) as server:
        server.wait_ready()
        jobs.check_done(server, jobs.submit(server))
        running = [jobs.submit(server, steps=arguments.rng.randrange(4, 12)) for _ in range(3)]
        wait_step(server, running[0], 1)
        fill(jobs.outputs, left)
        refusal = wait_until("a refusal", lambda: is_refused(server, jobs))
        assert int(refusal.headers["Retry-After"]) > 0
        assert server.get("/health/live").status == 200 and server.get("/health/ready").status == 503
        time.sleep(arguments.rng.uniform(0, 3))
        with contextlib.suppress(FileNotFoundError):
            (jobs.outputs / "filler").unlink()
        server.wait_ready()
        for job in running:
            ended = wait_end(server, job)
            if ended["state"] == "done":
                jobs.check_done(server, job)
            else:
                assert ended["error"]["code"] == "storage", ended
                jobs.outcomes["storage"] += 1
                jobs.forget(job)
        jobs.check_done(server, jobs.submit(server))
        assert not any("front.died" in line for line in server.log), server.log[-20:]
        end(server)


def full(jobs, arguments):
    with small_disk() as folder:
        mine = Jobs(folder)
        for attempt in range(max(4, arguments.each)):
            # Nothing at all left, or all of the reserve but not more.
            fill_once(mine, arguments, *((0, 0), (4, 0), (4, 3 << 20), (0, 1 << 15))[attempt % 4])
        print("jobs that a full disk failed:", mine.outcomes["storage"], flush=True)
    return max(4, arguments.each)


def refusal(jobs, arguments, *options):
    """What a server says that does not start."""
    command = [arguments.program, "serve", "--model", ROOT / "models" / "demo", "--host", "127.0.0.1", "--port", "0", "--device", "cpu",
               "--outputs-dir", jobs.outputs, *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, env={**os.environ, "SD35_PLUGIN_DIR": "/none"})
    assert done.returncode not in (0, 134, 137, 139), (done.returncode, done.stderr)
    return done.stderr


def readonly(jobs, arguments):
    """A folder that cannot be written to: refused by name, and left as it is."""
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
