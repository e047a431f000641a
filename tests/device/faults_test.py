"""The CUDA backend on its bad days: memory that is refused at any of the calls that take it, a GPU
that is lost at any moment, two processes on one card, and a host with too little memory.

usage: faults_test.py PATH/TO/sd35 FOLDER_OF_THE_FAULTY_PLUGIN MODEL [--at-once N] [--seconds S]

Each run of `sd35 generate` has to end in time, with the picture that it makes without a fault, or,
when it warns that memory is short, with that of a mode that needs less; or else with the exit code
and the one sentence of an error, and then without any file. Needs a GPU.
"""

import argparse
import concurrent.futures
import itertools
import os
import pathlib
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "server"))
import png_pixels

RUN_SECONDS_MAX = 60
NO_MEMORY, DEVICE = 4, 5

MODES = {
    "f32": ["--precision", "f32"],
    "default": [],
    "medvram": ["--medvram"],
    "lowvram": ["--lowvram"],
    "fp8": ["--fp8"],
    "fp8 medvram": ["--fp8", "--medvram"],
    "fp8 lowvram": ["--fp8", "--lowvram"],
}
MODES_WITH_FAULTS = ("default", "medvram", "lowvram", "fp8", "fp8 lowvram")
MEMORY_IS_SHORT = "warning: the GPU has too little memory free"

# Where these fail, kept choices may be out of reach: others are made, which round differently.
C_CALLS = ("malloc", "calloc", "reallocarray", "strdup", "strndup", "asprintf", "realpath")
# They are no further apart than this times what their precision is from F32.
NEAR_TIMES = 2

ADDRESS_SPACES = [1 << 28, 1 << 30, 1 << 33, 1 << 36]


# --- Pictures ---


def mean_difference(a, b):
    if a == b:
        return 0.0
    try:
        return png_pixels.difference(png_pixels.decode(a), png_pixels.decode(b))
    except (AssertionError, IndexError, struct.error, zlib.error):
        return 255.0


# --- Runs ---


class Ending:
    """How a run ended."""

    def __init__(self, name, code, errors, files, counts):
        self.name = name
        self.code = code  # None: it did not end
        self.errors = errors
        self.picture = files.pop("picture.png", None)
        self.other_files = files
        self.counts = counts
        self.difference = 0.0  # from the reference

    def count(self, kind):
        return int(self.counts.get(kind, 0))

    def is_reached(self):
        return self.count("refusals") > 0


class Runner:
    def __init__(self, options, work):
        self.options = options
        self.work = work
        self.numbers = itertools.count()

    def run(self, mode, fault=None, cache=None, grows=False, limit=None):
        """One run in a folder of its own, with a copy of the cache, or, when it grows, with it."""
        folder = self.work / str(next(self.numbers))
        output, own_cache, counts = folder / "output", folder / "cache", folder / "counts"
        output.mkdir(parents=True)
        if grows:
            own_cache = cache
        elif cache:
            shutil.copytree(cache, own_cache)
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "SD35_PLUGIN_DIR": str(self.options.plugin.resolve()),
            "SD35_CACHE_DIR": str(own_cache),
            "SD35_FAULT_COUNT": str(counts),
        }
        for name in ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES"):
            if name in os.environ:
                environment[name] = os.environ[name]
        if fault:
            environment["SD35_FAULT"] = fault
        command = [self.options.sd35.resolve(), "generate", "--model", self.options.model.resolve()]
        command += ["--prompt", "a red fox in the snow", "--size", "128x128", "--steps", "4"]
        command += ["--seed", "7", "--device", "cuda", "--show", "none", "--quiet"]
        command += [*MODES[mode], "--output", output / "picture.png"]
        name = f"{mode}, {fault or 'no fault'}{'' if cache else ', nothing kept'}"
        code, errors = self.wait(command, environment, limit)
        files = {path.name: path.read_bytes() for path in output.iterdir()}
        lines = counts.read_text().split("\n") if counts.exists() else []
        found = dict(line.split(" ", 1) for line in lines if line)
        shutil.rmtree(folder)
        return Ending(name, code, errors, files, found)

    def wait(self, command, environment, limit):
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=RUN_SECONDS_MAX,
                check=False,
                preexec_fn=limit,
            )
        except subprocess.TimeoutExpired as expired:
            return None, (expired.stderr or b"").decode(errors="replace")
        return done.returncode, done.stderr.decode(errors="replace")


# --- What an ending has to be ---


def trouble_with_error(ending, codes):
    if ending.code not in codes:
        return f"it ended with {ending.code}, not with one of {codes}"
    if ending.picture is not None or ending.other_files:
        return f"it left {['picture.png'] * bool(ending.picture) + list(ending.other_files)}"
    lines = [line for line in ending.errors.splitlines() if line.startswith("sd35: ")]
    sentences = [line for line in lines if not line.startswith("sd35: warning: ")]
    if len(sentences) != 1 or len(sentences[0]) < len("sd35: ") + 10:
        return "it said no one sentence"
    return None


def trouble_with_picture(ending, references, near):
    if ending.picture is None or ending.other_files:
        return f"it left no picture, or more: {list(ending.other_files)}"
    if MEMORY_IS_SHORT not in ending.errors:
        references = references[:1]
    ending.difference = min(mean_difference(ending.picture, picture) for picture in references)
    if ending.difference <= near:
        return None
    return f"another picture: {ending.difference:.3f} levels from the reference, at most {near:.3f}"


def trouble_with(ending, references, mode, codes, may_be_near=False):
    """None, or what is wrong with it."""
    if ending.code is None:
        return f"it did not end within {RUN_SECONDS_MAX} s"
    if ending.code < 0:
        return f"it was killed by signal {-ending.code}"
    if ending.code != 0:
        return trouble_with_error(ending, codes)
    may_be_near = may_be_near or ending.counts.get("first") in C_CALLS
    near = references.near(mode) if may_be_near else 0
    return trouble_with_picture(ending, references.pictures(mode), near)


class Tally:
    def __init__(self):
        self.endings = {"picture": 0, "memory": 0, "device": 0, "other": 0}
        self.not_reached = self.lower_modes = self.violations = self.left_out = 0
        self.difference_max = 0.0

    def add(self, ending, trouble):
        kinds = {0: "picture", NO_MEMORY: "memory", DEVICE: "device"}
        self.endings[kinds.get(ending.code, "other")] += 1
        self.lower_modes += ending.code == 0 and MEMORY_IS_SHORT in ending.errors
        self.difference_max = max(self.difference_max, ending.difference)
        if trouble:
            self.violate(ending, trouble)

    def violate(self, ending, trouble):
        self.violations += 1
        at = ending.counts.get("first", "-")
        print(f"VIOLATION: {ending.name} (first at {at}): {trouble}; exit code {ending.code}")
        for line in ending.errors.splitlines()[-5:]:
            print(f"    {line}")
        sys.stdout.flush()

    def summary(self):
        runs = sum(self.endings.values())
        return (
            f"{runs} runs: {self.endings['picture']} ended with a picture ({self.lower_modes} in a "
            f"lower mode, at most {self.difference_max:.3f} levels off), "
            f"{self.endings['memory']} for want of memory, {self.endings['device']} by the device, "
            f"{self.endings['other']} otherwise; {self.not_reached} met no fault, "
            f"{self.left_out} left out for want of time; {self.violations} violations"
        )


# --- References ---


class References:
    """What the modes do without faults: measuring first, then by what they have kept."""

    def __init__(self, runner, tally, work):
        self.cache = work / "cache"
        self.cache.mkdir()
        first = {mode: runner.run(mode, cache=self.cache, grows=True) for mode in MODES}
        self.warm = {mode: runner.run(mode, cache=self.cache) for mode in MODES}
        self.cold = first["default"]
        self.cold.name = "default, nothing kept"
        for mode, ending in self.warm.items():
            if first[mode].picture is None or ending.picture is None:
                sys.exit(f"{ending.name}: exit code {ending.code}\n{first[mode].errors}")
            for again in (first[mode], ending):
                tally.add(again, trouble_with(again, self, mode, ()))
            for kind in ("memory", "pinned", "lost"):
                if ending.count(kind) == 0:
                    tally.violate(ending, f"no calls of kind '{kind}' were counted")

    def pictures(self, mode):
        """The mode's own first, then those of modes that it may go down to."""
        family = [name for name in MODES if ("fp8" in name) == ("fp8" in mode)]
        names = [mode, *family[family.index(mode) + 1 :]]
        return [self.warm[name].picture for name in names]

    def near(self, mode):
        """How far a picture by other algorithms may be from the mode's own."""
        usual = self.warm["fp8" if "fp8" in mode else "default"].picture
        return NEAR_TIMES * mean_difference(usual, self.warm["f32"].picture)


# --- Faults ---


def spread(first, last, count):
    """At most `count` numbers from first to last, evenly."""
    if last < first:
        return []
    steps = min(count, last - first + 1)
    return sorted({first + (last - first) * i // max(steps - 1, 1) for i in range(steps)})


def points(count, each, further):
    """Each of the first calls, and some of those after them."""
    return [*range(1, min(each, count) + 1), *spread(each + 1, count, further)]


def faults_of(ending, each, further):
    """The faults to try, with the exit codes that each may lead to."""
    memory, pinned, lost = (ending.count(kind) for kind in ("memory", "pinned", "lost"))
    faults = [(f"memory:{n}", (NO_MEMORY,)) for n in points(memory, each, further)]
    faults += [(f"memory:{n}+", (NO_MEMORY,)) for n in points(memory, each // 4, further // 2)]
    faults += [(f"pinned:{n}+", (NO_MEMORY,)) for n in spread(1, pinned, 4)]
    faults += [(f"lost:{n}", (DEVICE,)) for n in spread(1, lost, further)]
    random.Random(1).shuffle(faults)  # what time cuts off is of all
    return faults


def list_work(references):
    """(mode, fault, codes, cache), the modes in turns."""
    lists = []
    for mode in MODES_WITH_FAULTS:
        faults = faults_of(references.warm[mode], 40, 20)
        lists.append([(mode, *fault, references.cache) for fault in faults])
    lists.append([("default", *fault, None) for fault in faults_of(references.cold, 0, 8)])
    for ending, work in zip([*map(references.warm.get, MODES_WITH_FAULTS), references.cold], lists):
        print(
            f"{ending.name}: {ending.count('memory')} calls take memory, {ending.count('pinned')} "
            f"of them pinned, {ending.count('lost')} use the device; {len(work)} faults"
        )
    return [item for turn in itertools.zip_longest(*lists) for item in turn if item]


def check_faults(runner, references, tally, at_once, deadline):
    def try_one(item):
        mode, fault, _, cache = item
        if time.monotonic() > deadline:
            return item, None
        return item, runner.run(mode, fault, cache)

    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for (mode, _, codes, cache), ending in pool.map(try_one, list_work(references)):
            if ending is None:
                tally.left_out += 1
                continue
            tally.not_reached += not ending.is_reached()
            tally.add(ending, trouble_with(ending, references, mode, codes, not cache))


# --- Neighbours and small hosts ---


def check_two_at_once(runner, references, tally):
    pairs = [("default", "default"), ("default", "lowvram"), ("fp8", "medvram")]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for pair in pairs:
            endings = pool.map(lambda mode: runner.run(mode, cache=references.cache), pair)
            for mode, ending in zip(pair, endings):
                ending.name += ", two at once"
                tally.add(ending, trouble_with(ending, references, mode, ()))


def limited(kind, limit):
    return lambda: resource.setrlimit(kind, (limit, limit))


def check_small_hosts(runner, references, tally):
    """Less address space than the model and the driver want, and none that stays in memory."""
    limits = [(resource.RLIMIT_AS, "address space", bytes_max) for bytes_max in ADDRESS_SPACES]
    limits.append((resource.RLIMIT_MEMLOCK, "locked memory", 0))
    for kind, what, bytes_max in limits:
        limit = limited(kind, bytes_max)
        ending = runner.run("lowvram", cache=references.cache, limit=limit)
        ending.name += f", {bytes_max >> 20} MiB of {what}"
        tally.add(ending, trouble_with(ending, references, "lowvram", (NO_MEMORY, DEVICE)))
        print(f"{ending.name}: exit code {ending.code}: {ending.errors.strip()[-200:]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("sd35", type=pathlib.Path)
    parser.add_argument("plugin", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=140, help="no run starts later")
    options = parser.parse_args()
    started, tally = time.monotonic(), Tally()
    with tempfile.TemporaryDirectory() as work:
        runner = Runner(options, pathlib.Path(work))
        references = References(runner, tally, pathlib.Path(work))
        print(f"near: {references.near('default'):.3f} levels, in FP8 {references.near('fp8'):.3f}")
        check_two_at_once(runner, references, tally)
        check_small_hosts(runner, references, tally)
        check_faults(runner, references, tally, options.at_once, started + options.seconds)
    print(f"{tally.summary()}; {time.monotonic() - started:.0f} s")
    if tally.not_reached * 5 > sum(tally.endings.values()):
        sys.exit("too many runs met no fault")
    sys.exit(1 if tally.violations else 0)


if __name__ == "__main__":
    main()
