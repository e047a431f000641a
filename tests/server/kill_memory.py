"""Memory that is short: the kernel kills the process that draws, in a control group of the test's own."""
import contextlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from kill_jobs import end, wait_end
from running import ROOT, wait_until

LIMIT = 256 << 20
SMALL_LIMIT = 100 << 20  # less than LARGE takes, and the plan knows it
# Of the limit, for something else: what is left is enough for small pictures (30 MiB) and not for LARGE (170), which the plan, that knows the limit
# alone, allows. In parts, none of which is larger to the kernel's eyes than the process that draws. The kernel sometimes takes one of them, too: what it
# killed counts as gone a moment before its memory is free, and whoever allocates meanwhile has it look for the next.
BALLASTS = [22 << 20] * 6
LARGE = {"width": 512, "height": 512, "steps": 1}


def parent_groups():
    """Where a group with a limit of memory can be made, with the file that takes the limit."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ", 1)
        point, (kind, _, options) = pathlib.Path(before.split()[4]), after.split(" ", 2)
        if kind == "cgroup" and "memory" in options.split(","):
            yield point, "memory.limit_in_bytes"
        if kind == "cgroup2":
            with contextlib.suppress(OSError):
                if "memory" in (point / "cgroup.subtree_control").read_text().split():
                    yield point, "memory.max"


class MemoryGroup:
    """A control group; whoever is started `inside` belongs to it. Raises OSError where none can be made."""

    def __init__(self, limit):
        parent, file = next(parent_groups(), (None, None))
        if not parent:
            raise OSError("there are no control groups for memory")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sd35-test-", dir=parent))
        try:
            (self.folder / file).write_text(str(limit))
        except OSError:
            self.folder.rmdir()
            raise
        own = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
        path = next(line.split(":", 2)[2] for line in own if "memory" in line.split(":")[1].split(",") or (file == "memory.max" and line.startswith("0:")))
        self.home = parent / path.lstrip("/")

    @contextlib.contextmanager
    def inside(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (self.home / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self):
        wait_until("the group is empty", lambda: not (self.folder / "cgroup.procs").read_text())
        self.folder.rmdir()


def missing():
    """Why it cannot be run here, None when it can."""
    try:
        group = MemoryGroup(LIMIT)
        with group.inside():
            pass
        group.remove()
    except (OSError, StopIteration) as problem:
        return f"no control group with a limit of memory can be made here: {problem}"
    return None


@contextlib.contextmanager
def ballast(size):
    """A process that has touched so many bytes and keeps them."""
    program = f"held = bytearray({size}); held[::4096] = b'x' * len(held[::4096]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def metric(server, name):
    return next(float(line.split()[-1]) for line in server.get("/metrics").body.decode().splitlines() if line.startswith(name))


def refuse(program):
    """A picture that surely has no room is refused with both numbers: the kernel need not kill."""
    group = MemoryGroup(SMALL_LIMIT)
    with contextlib.ExitStack() as stack:
        stack.callback(group.remove)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        command = [program, "generate", "--model", ROOT / "models" / "demo", "--device", "cpu", "--prompt", "x", "--output", f"{folder}/picture.png",
                   *(f"--{name}={value}" for name, value in LARGE.items())]
        with group.inside():
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 4 and re.search(rf"need \d+ MiB of memory beside the weights, and the limit is {SMALL_LIMIT >> 20} MiB", done.stderr), done


def memory(jobs, arguments):
    """A job that needs more memory than there is takes its worker with it twice and fails as that; those around it are done, and the front lives."""
    refuse(arguments.program)
    group = MemoryGroup(LIMIT)
    with contextlib.ExitStack() as stack:
        stack.callback(group.remove)
        with group.inside():
            for size in BALLASTS:
                stack.enter_context(ballast(size))
            server = stack.enter_context(jobs.server(arguments.program))
        server.wait_ready()
        front = server.front()
        normal = [jobs.submit(server) for _ in range(2)]
        deadly = jobs.submit(server, **LARGE)
        normal += [jobs.submit(server) for _ in range(2)]
        failed = wait_end(server, deadly)
        assert failed["state"] == "failed" and failed["error"]["code"] == "out_of_memory" and failed["attempts"] == 2, failed
        assert f"{LIMIT >> 20} MiB" in failed["error"]["message"], failed
        jobs.forget(deadly)
        for job in normal:
            assert jobs.check_done(server, job)["attempts"] <= 2
        wait_until("both are counted", lambda: metric(server, 'sd35_worker_restarts_total{reason="out_of_memory"}') == 2)
        assert server.front() == front, server.log[-20:]
        told = [line for line in server.log if "worker.out_of_memory" in line and f"limit_mib={LIMIT >> 20}" in line]
        assert len(told) == 2, server.log[-20:]
        end(server)
    return 1
