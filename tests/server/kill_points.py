"""Kill points: the front or the worker dies exactly there, once (SD35_KILL_AT), and what must be true after the restart."""
import contextlib
import pathlib
import shutil
import tempfile

from kill_jobs import FAILURES, all_jobs, end, fronts_killed, wait_end, wait_step, workers_killed
from running import wait_until

# Point: claims of the job until it is done.
JOB_POINTS = {
    "accept.begun": 1,  # K0
    "accept.committed": 1,  # K1
    "claim.committed": 2,  # K2
    "front.encode": 2, "worker.encode": 2,  # K3
    "front.denoise": 2, "worker.denoise": 2,  # K4
    "front.decode": 2, "worker.decode": 2, "front.save": 2, "worker.save": 2,  # K5
    "picture.written": 2, "picture.synced": 2, "picture.renamed": 2, "picture.folder_synced": 2,  # K6-K9: there are two files
    "picture.committed": 2,  # the job is not done yet
    "done.committed": 1,  # K10
}


def started(jobs, program, at):
    return jobs.server(program, environment={"SD35_KILL_AT": at})


def check_death(server, point):
    deaths = wait_until(f"a death at {point}", lambda: (fronts_killed(server), workers_killed(server)) if fronts_killed(server) + workers_killed(server) else None)
    assert deaths == ((0, 1) if point.startswith("worker.") else (1, 0)), (point, deaths, server.log[-20:])


def die_in_job(jobs, program, point, rng):
    """A job is in the middle of it: afterwards it is done, once, whatever its client saw."""
    count = rng.choice((1, 2))  # pictures, of which each has a thumbnail beside it
    visit = rng.randrange(1, 1 + count * (1 if point == "picture.committed" else 2)) if point.startswith("picture.") else 1
    with started(jobs, program, f"{point}:{visit}") as server:
        server.wait_ready()
        before = set(all_jobs(server))
        job = jobs.submit(server, count=count)
        jobs.check_done(server, job, JOB_POINTS[point])
        check_death(server, point)
        assert set(all_jobs(server)) - before == {job}
        end(server)


def die_in_delete(jobs, program, point, rng):
    """K11, K12: the rows are gone, and the files with them. A picture with the same bytes of another job stays."""
    with started(jobs, program, point) as server:
        server.wait_ready()
        twin = jobs.submit(server, seed=77)
        job = jobs.submit(server, seed=rng.choice((77, rng.randrange(1000, 2 ** 32))))
        image = jobs.check_done(server, job)["images"][0]
        jobs.check_done(server, twin)
        with contextlib.suppress(*FAILURES):
            server.request("DELETE", f"/api/v1/jobs/{job}/record", timeout=10)
        check_death(server, point)
        server.wait_ready()
        assert server.get(f"/api/v1/jobs/{job}").status == 404
        assert server.get(image["url"]).status in (404, 410)
        assert server.request("DELETE", f"/api/v1/jobs/{job}/record").status == 404
        jobs.forget(job)
        jobs.check_done(server, twin)
        end(server)


def die_in_cancel(jobs, program, point, rng):
    """K13: cancelled, though nobody told the worker."""
    with started(jobs, program, point) as server:
        server.wait_ready()
        job = jobs.submit(server, steps=60)
        if rng.random() < .7:
            wait_step(server, job)
        with contextlib.suppress(*FAILURES):
            server.post(f"/api/v1/jobs/{job}/cancel", timeout=10)
        check_death(server, point)
        assert wait_end(server, job)["state"] == "cancelled"
        jobs.forget(job)
        jobs.check_done(server, jobs.submit(server))
        assert wait_end(server, job)["state"] == "cancelled"
        end(server)


def die_in_migration(jobs, program, point, _):
    """K14: a folder whose first start dies in the middle of making the database."""
    outputs = pathlib.Path(tempfile.mkdtemp(prefix="sd35-migrate-"))
    fresh = type(jobs)(outputs)
    fresh.hash_of = jobs.hash_of
    try:
        with started(fresh, program, point) as server:
            server.wait_ready()
            check_death(server, point)
            fresh.check_done(server, fresh.submit(server))
            end(server)
    finally:
        shutil.rmtree(outputs)


def die_in_checkpoint(jobs, program, point, rng):
    """K15: before, somewhere inside or after a checkpoint of the database, which happens in the middle of jobs."""
    at = point if point == "checkpoint.done" else f"{point}+{rng.randrange(1, 1500)}"
    with started(jobs, program, at) as server:
        server.wait_ready()
        mine = []
        while not fronts_killed(server):
            mine.append(jobs.submit(server, steps=1))
        for job in mine:
            jobs.check_done(server, job)
        end(server)


POINTS = {**dict.fromkeys(JOB_POINTS, die_in_job), "delete.tombstone": die_in_delete, "delete.unlinked": die_in_delete, "cancel.committed": die_in_cancel,
          "migrate": die_in_migration, "checkpoint.begun": die_in_checkpoint, "checkpoint.done": die_in_checkpoint}


def at_points(jobs, program, each, rng):
    for point, die in POINTS.items():
        for _ in range(each):
            die(jobs, program, point, rng)
        print(f"killed at {point}: {each}", flush=True)
    return len(POINTS) * each
