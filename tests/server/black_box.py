"""Runs the black-box tests against servers of its own: real clients, a real browser, kills.

usage: black_box.py SD35 [--shots FOLDER] [--mortal SD35] [--moments N] [--each N] [NAME ...]

NAMEs choose of: native, openai, a1111, schema, operations, models, check, gpu, docs, page, kill, hostile, proxies, load. Packages that a test needs and that are not there make it SKIPPED, loudly; continuous
integration installs them (tests/server/requirements.txt and a Chromium). Exit status: 0 all passed or skipped, 1 some failed.
"""
import argparse
import concurrent.futures
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from running import ROOT, Server

HERE = pathlib.Path(__file__).resolve().parent
NEEDS = {"openai": ["openai"], "a1111": ["webuiapi"], "schema": ["schemathesis"], "page": ["playwright"], "docs": ["playwright"]}
PROGRAMS = {"page": "a Chromium", "docs": "a Chromium", "proxies": "nginx or HAProxy"}
QUIET = ["--log-level", "warning"]


def client(script, *more):
    def run(arguments):
        with Server(arguments.program, options=QUIET + ["--max-queue-per-user", "1000"]) as server:
            server.wait_ready()
            command = [sys.executable, HERE / script, "--url", server.url, "--key", server.key, *more]
            return subprocess.run([str(part) for part in command]).returncode == 0
    return run


def native(arguments):
    """With a key, and where nobody is asked for one."""
    with Server(arguments.program, options=[*QUIET, "--auth", "off"]) as server:
        server.wait_ready()
        if subprocess.run([sys.executable, HERE / "black_box_native.py", "--url", server.url]).returncode != 0:
            return False
    return client("black_box_native.py")(arguments)


def a1111(arguments):
    """With a key; with a user's password, as AUTOMATIC1111 itself has them; with nothing."""
    user = "ann:pass word:with=signs"
    for options, more in ((["--api-auth", f"bob:other,{user}"], ["--user", user, "lists", "txt2img", "progress", "interrupt", "tasks", "access"]),
                          (["--auth", "off"], ["lists", "sillytavern", "open_webui", "aiya", "access"])):
        with Server(arguments.program, options=QUIET + options) as server:
            server.wait_ready()
            command = [sys.executable, HERE / "clients_a1111.py", "--url", server.url, *more]
            if subprocess.run([str(part) for part in command]).returncode != 0:
                return False
    return client("clients_a1111.py")(arguments)


def page(arguments):
    browser = shutil.which("chromium")
    if not browser:
        return None
    return client("page_test.py", "--shots", arguments.shots, "--browser", browser, "--steps", 4)(arguments)


def docs(arguments):
    browser = shutil.which("chromium")
    if not browser:
        return None
    return client("docs_test.py", "--shots", arguments.shots, "--browser", browser)(arguments)


def schema(arguments):
    """schemathesis on openapi.json: whatever fits the schema, and much that does not, gets an answer that the document lists.

    Small pictures and short waits, as it asks for whatever is allowed; not the keys' own routes, where it would revoke the key that it uses.
    """
    limits = ["--max-queue", "50", "--max-queue-per-user", "50", "--max-pixels", "16384", "--max-steps", "2", "--max-images", "2", "--request-timeout", "5"]
    with tempfile.TemporaryDirectory() as folder, Server(arguments.program, options=QUIET + limits) as server:
        server.wait_ready()
        command = [pathlib.Path(sys.executable).parent / "schemathesis", "--config-file", HERE / "schemathesis.toml", "--no-color", "run",
                   f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {server.key}", "--checks",
                   "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
                   "--phases", "coverage,fuzzing", "--max-examples", 20, "--max-time", 60, "--seed", 1, "--generation-database", "none",
                   "--exclude-path-regex", "events|zip|keys", "--warnings", "off"]
        return subprocess.run([str(part) for part in command], cwd=folder).returncode == 0


def operations(arguments):
    return subprocess.run([sys.executable, HERE / "operations_test.py", arguments.program]).returncode == 0


def models(arguments):
    return subprocess.run([sys.executable, HERE / "models_test.py", arguments.program]).returncode == 0


def check(arguments):
    return subprocess.run([sys.executable, HERE / "check_test.py", arguments.program]).returncode == 0


def gpu(arguments):
    """What of gpu_test.py needs no GPU, on a plugin that plays one; the stage gpu has all of it."""
    plugin = arguments.program.resolve().parents[2] / "tests" / "server" / "fake_plugins"
    environment = {**os.environ, "SD35_PLUGIN_DIR": str(plugin), "FAKE_GPUS": "1"}
    command = [sys.executable, HERE / "gpu_test.py", arguments.program, "--only", "start,company,metrics,short"]
    return subprocess.run([str(part) for part in command], env=environment).returncode == 0


def kill(arguments):
    command = [sys.executable, HERE / "kill_test.py", arguments.mortal or arguments.program, "--moments", arguments.moments, "--each", arguments.each]
    return subprocess.run([str(part) for part in command]).returncode == 0


def hostile(arguments):
    with tempfile.TemporaryDirectory() as folder, Server(arguments.program, options=["--max-queue-per-user", "1000"], log_file=f"{folder}/log") as server:
        server.wait_ready()
        command = [sys.executable, HERE / "hostile_test.py", "--url", server.url, "--key", server.key, "--pid", server.process.pid, "--log", server.log_file,
                   "--program", arguments.program]
        passed = subprocess.run([str(part) for part in command]).returncode == 0
        return server.stop() == 0 and not server.verify() and passed


def proxies(arguments):
    path = os.environ["PATH"] + ":/usr/sbin"
    if not any(shutil.which(proxy, path=path) for proxy in ("nginx", "haproxy")):
        return None
    return subprocess.run([sys.executable, HERE / "proxies_test.py", arguments.program], env={**os.environ, "PATH": path}).returncode == 0


def load(arguments):
    generator = arguments.program.resolve().parents[2] / "bench" / "load_server"
    return subprocess.run([sys.executable, HERE / "load_test.py", str(arguments.program), str(generator)]).returncode == 0


TESTS = {"native": native, "openai": client("clients_openai.py"), "a1111": a1111, "schema": schema, "operations": operations, "models": models, "check": check,
         "gpu": gpu, "docs": docs, "page": page, "kill": kill, "hostile": hostile, "proxies": proxies, "load": load}


def run_one(name, arguments):
    """Skipped is as good as passed."""
    missing = [module for module in NEEDS.get(name, []) if not importlib.util.find_spec(module)]
    started = time.monotonic()
    print(f"-- {name}", flush=True)
    ok = None if missing else TESTS[name](arguments)
    if ok is None:
        print(f"-- {name}: SKIPPED: needs {', '.join(missing) or PROGRAMS[name]}", flush=True)
        return True
    print(f"-- {name}: {'passed' if ok else 'FAILED'} in {time.monotonic() - started:.0f} s", flush=True)
    return ok


def run_in_lanes(names, lanes):
    """Each in a process of its own, whose words are printed when it is through. What measures has the machine to itself."""
    options = [word for word in sys.argv[1:] if word not in names]

    def run(name):
        done = subprocess.run([sys.executable, __file__, *options, "--lanes", "1", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(done.stdout, end="", flush=True)
        return done.returncode == 0

    failed = []
    for part, width in ([name for name in names if name != "load"], lanes), ([name for name in names if name == "load"], 1):
        with concurrent.futures.ThreadPoolExecutor(width) as pool:
            failed += [name for name, ok in zip(part, pool.map(run, part)) if not ok]
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("names", nargs="*", choices=[*TESTS, []])
    parser.add_argument("--shots", type=pathlib.Path, default=ROOT / "build" / "shots")
    parser.add_argument("--mortal", type=pathlib.Path, help="sd35-mortal, for kill")
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--lanes", type=int, default=1, help="tests at a time; load is always alone")
    arguments = parser.parse_intermixed_args()
    arguments.shots.mkdir(parents=True, exist_ok=True)
    names = arguments.names or list(TESTS)
    if arguments.lanes == 1 or len(names) == 1:
        failed = [name for name in names if not run_one(name, arguments)]
    else:
        failed = run_in_lanes(names, arguments.lanes)
    if failed:
        print("FAILED:", ", ".join(failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
