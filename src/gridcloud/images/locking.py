"""Find out which versions an image gets, with the checksum of each file: pip's and apt's own answers."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from gridcloud.errors import ConfigurationFailed, DriverUnavailable, InvalidRequest
from gridcloud.images.engine import Podman, Tell
from gridcloud.images.model import Lock
from gridcloud.images.reading import Stack
from gridcloud.images.rendering import EPOCH

__all__ = ["download_wheels", "resolve", "resolve_debian", "resolve_python"]

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""What wheels call Debian's architectures."""

NEWEST_GLIBC = 36
"""Wheels may need glibc 2.36 at most, which is that of Debian 12; 2.17 is the oldest they name."""


async def resolve(
    stack: Stack, name: str, architecture: str, podman: Podman, parent: str, tell: Tell, *, mirror: str = ""
) -> Lock:
    """Return the lock of an image whose parents are locked; ``parent`` is the ID of the image below it in the store,
    which may be empty where Debian's packages are none. Raises ConfigurationFailed."""
    definition = stack[name].definition
    python = await resolve_python(stack, name, architecture, tell) if definition.python else {}
    debian = (
        await resolve_debian(podman, parent, definition.debian, mirror, tell) if definition.debian else {}
    )
    versions = dict(one.split("==") for one in python)
    return Lock(
        of=stack.packages_digest(name),
        architecture=architecture,
        jupyterhub=versions.get("jupyterhub", ""),
        debian=debian,
        python=python,
    )


async def resolve_python(stack: Stack, name: str, architecture: str, tell: Tell) -> dict[str, str]:
    """Return SHA-256 by ``NAME==VERSION`` of the wheels that the image adds to its parents'.

    pip asks the index that this account has configured. Raises ConfigurationFailed with pip's own words.
    """
    *parents, image = stack.chain(name)
    below: dict[str, str] = {}
    for parent in parents:
        below |= parent.lock(architecture).python
    wanted = [line for one in (*parents, image) for line in one.definition.python]
    with tempfile.TemporaryDirectory(prefix="gridcloud-lock-") as folder:
        papers = Path(folder)
        (papers / "wanted.txt").write_text("".join(f"{line}\n" for line in wanted), encoding="utf-8")
        (papers / "below.txt").write_text("".join(f"{one}\n" for one in below), encoding="utf-8")
        words = ["install", "--dry-run", "--ignore-installed", "--quiet", "--target", str(papers / "none")]
        words += ["--report", str(papers / "report"), "--use-feature=fast-deps"]
        words += ["--requirement", str(papers / "wanted.txt"), "--constraint", str(papers / "below.txt")]
        await _pip([*words, *_platform(stack.root(name).python_version, architecture)], tell)
        report: dict[str, Any] = json.loads((papers / "report").read_text(encoding="utf-8"))
    found = dict(sorted(map(_wheel, report["install"])))
    return {one: total for one, total in found.items() if one not in below}


async def resolve_debian(
    podman: Podman, parent: str, names: Sequence[str], mirror: str, tell: Tell
) -> dict[str, str]:
    """Return SHA-256 by ``NAME=VERSION`` of the packages that apt would install on top of an image."""
    with tempfile.TemporaryDirectory(prefix="gridcloud-lock-") as folder:
        context, out = Path(folder, "context"), Path(folder, "out")
        context.mkdir()
        out.mkdir()
        script = Path(__file__).with_name("setup") / "resolve.sh"
        (context / "resolve.sh").write_text(script.read_text(encoding="utf-8"), encoding="utf-8")
        (context / "debian.names").write_text("\n".join(names) + "\n", encoding="utf-8")
        # The time makes it a new step each time: what apt knows today is asked for, not what it knew.
        (context / "Containerfile").write_text(
            "ARG BASE\nFROM ${BASE}\nARG APT_MIRROR\nARG NOW\nUSER 0:0\n"
            "RUN --mount=type=bind,source=.,target=/mnt : ${NOW} && sh /mnt/resolve.sh\n"
        )
        arguments = {"BASE": parent, "APT_MIRROR": mirror, "NOW": os.urandom(8).hex()}
        made = await podman.build(context, arguments, (), tell, epoch=EPOCH, volumes={out: "/out"})
        with contextlib.suppress(ConfigurationFailed):
            await podman.run(["rmi", made], lambda line: None)
        lines = (out / "debian").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


async def download_wheels(
    requirements: Path, target: Path, python: str, architecture: str, tell: Tell
) -> None:
    """Fetch all wheels of a lock into a folder, comparing their sums. Raises ConfigurationFailed."""
    target.mkdir(parents=True, exist_ok=True)
    words = ["download", "--quiet", "--no-deps", "--require-hashes", "--dest", str(target)]
    await _pip([*words, "--requirement", str(requirements), *_platform(python, architecture)], tell)


def _platform(python: str, architecture: str) -> list[str]:
    if architecture not in MACHINES:
        known = ", ".join(MACHINES)
        raise InvalidRequest(f"There are no images for {architecture[:40]!r}; there are for {known}.")
    machine = MACHINES[architecture]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC, 16, -1)]
    tags += [f"manylinux2014_{machine}", f"linux_{machine}"]
    if machine == "x86_64":
        tags += ["manylinux2010_x86_64", "manylinux1_x86_64"]
    words = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    return words + [word for tag in tags for word in ("--platform", tag)]


def _wheel(entry: dict[str, Any]) -> tuple[str, str]:
    about = entry["metadata"]
    hashes = entry["download_info"].get("archive_info", {}).get("hashes", {})
    name = f"{canonicalize_name(about['name'])}=={about['version']}"
    if "sha256" not in hashes:
        raise ConfigurationFailed(f"The index tells no SHA-256 of {name}.")
    return name, hashes["sha256"]


async def _pip(words: Sequence[str], tell: Tell) -> None:
    if importlib.util.find_spec("pip") is None:
        raise DriverUnavailable(
            "The Python that gridcloud runs on has no pip.", remedy=f"{sys.executable} -m ensurepip"
        )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "pip", "--disable-pip-version-check", "--no-input", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    for line in lines:
        if not line.startswith("WARNING: pip is using lazily"):
            tell(line)
    if process.returncode:
        raise ConfigurationFailed("pip could not find or fetch the packages:\n" + "\n".join(lines[-10:]))
