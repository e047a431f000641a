"""The image: its base, without any registry, and the two builds of it that must be alike."""
import json
import os
import subprocess

from engine import ROOT

BASE = "debian:bookworm-slim"
IMAGE = "stable-diffusion-3.5-fp8"
EPOCH = "1700000000"
MEBIBYTE = 1 << 20


def make_base(engine):
    """Like the public image of that name: essential packages and apt, without documentation."""
    archive = engine.folder / "base.tar"
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "locale", "doc", "info")]
    # usrmerge needs all of Perl, to merge what is merged from the start here.
    pin = 'printf "Package: usrmerge\\nPin: release *\\nPin-Priority: -1\\n" > "$1"/etc/apt/preferences.d/merged'
    clean = 'rm -rf "$1"/etc/apt/preferences.d/merged "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin'
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--format=tar", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
               f"--setup-hook={pin}", '--aptopt=APT::Install-Recommends "false"', *excluded, "--dpkgopt=path-include=/usr/share/doc/*/copyright",
               f"--customize-hook={clean}", "bookworm", archive]
    subprocess.run([str(word) for word in command], check=True, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH})
    engine.docker("import", "--change", 'CMD ["bash"]', archive, BASE)
    archive.unlink()


def build(engine, tag, *options):
    """As the README says."""
    engine.docker("build", "--file", "deploy/Dockerfile", "--tag", tag, *options, ".", seconds=500, cwd=ROOT)


def layers(engine, tag):
    return json.loads(engine.inspect(tag, "{{json .RootFS.Layers}}"))


def mebibytes(engine, tag):
    return int(engine.inspect(tag, "{{.Size}}")) / MEBIBYTE
