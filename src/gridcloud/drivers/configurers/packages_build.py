"""Build an environment of Python packages, or find the one built before. This program runs on the machine.

Its text is handed to the machine's ``python3 -c``; the order comes as JSON on standard input. It uses the standard
library of Python 3.8 and nothing else.

Environments lie in ``~/.cache/gridcloud/environments``, one for each content of an order, so that the next instance
of the same account has it at once. One is complete when it holds the file ``complete``; who builds holds a lock, which
the system lets go of however the builder ends. The folder with an environment's programs is put first into
``.gridcloud/path`` of the instance's own folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from typing import Any

__all__ = ["main"]

SESSION = ("jupyterhub", "jupyterlab", "ipykernel")
COMPLETE = "complete"


def main() -> None:
    """Carry out the order; end with 1 and a sentence when it cannot be done."""
    order: dict[str, Any] = json.load(sys.stdin)
    wanted = order["requirements"] or order["conda"]
    if order["session"] and not wanted:
        if _has_session(order["session"]):
            _say("the programs of a session are there already")
            if shutil.which("jupyterhub-singleuser") != os.path.join(
                _own_programs(), "jupyterhub-singleuser"
            ):
                _record(_own_programs())
            return
        wanted = True
    if wanted:
        _record(os.path.join(_provide(order), "bin"))


def _say(text: str) -> None:
    print(text, flush=True)


def _fail(text: str) -> None:
    sys.stdout.flush()
    sys.exit(text)


def _own_programs() -> str:
    return os.path.dirname(sys.executable)


def _has_session(jupyterhub: str) -> bool:
    try:
        versions = [metadata.version(name) for name in SESSION]
    except metadata.PackageNotFoundError:
        return False
    return versions[0] == jupyterhub


def _provide(order: dict[str, Any]) -> str:
    """Return the folder of a complete environment."""
    told = (
        json.dumps(order, sort_keys=True)
        + sys.version
        + os.path.realpath(sys.executable)
        + platform.machine()
    )
    key = hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    shelf = os.path.join(os.path.expanduser("~"), ".cache", "gridcloud", "environments")
    try:
        os.makedirs(shelf, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(shelf, f"{key}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        _fail(f"environments are kept in {shelf}, which cannot be used: {error.strerror}")
    place = os.path.join(shelf, key)
    complete = os.path.join(place, COMPLETE)
    # The lock is let go of when this program ends.
    if not os.path.exists(complete):
        _take(lock)
    if os.path.exists(complete):
        _say(f"using the environment {place}, which was built before")
        return place
    if os.path.lexists(place):
        _say("removing what a build that was stopped has left")
        shutil.rmtree(place)
    _say(f"building the environment {place}")
    try:
        _build(place, order)
        with open(complete, "w"):
            return place
    finally:
        if not os.path.exists(complete):
            shutil.rmtree(place, ignore_errors=True)


def _take(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        _say("waiting for another instance that builds the same environment")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _build(place: str, order: dict[str, Any]) -> None:
    papers = place + ".files"
    shutil.rmtree(papers, ignore_errors=True)
    os.mkdir(papers, 0o700)
    try:
        for name, text in order["files"].items():
            with open(os.path.join(papers, name), "w", encoding="utf-8") as file:
                file.write(text)
        if order["conda"]:
            _make_conda(place, os.path.join(papers, order["conda"]))
        else:
            _make_virtual(place, order["system_site_packages"])
        arguments: list[str] = []
        if order["requirements"]:
            arguments += ["-r", os.path.join(papers, order["requirements"])]
        if order["session"]:
            arguments += ["jupyterhub==" + order["session"], *SESSION[1:]]
        if arguments:
            python = os.path.join(place, "bin", "python")
            quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
            _run([python, "-m", "pip", "install", *quiet, *arguments], "pip could not install the packages")
        if order["session"]:
            _make_session_program(place)
    finally:
        shutil.rmtree(papers, ignore_errors=True)


def _make_virtual(place: str, system_site_packages: bool) -> None:
    options = ["--system-site-packages"] if system_site_packages else []
    for module, needed in (("venv", "ensurepip"), ("virtualenv", "virtualenv")):
        if importlib.util.find_spec(needed) and importlib.util.find_spec(module):
            _run([sys.executable, "-m", module, *options, place], "no virtual environment could be made")
            return
    _fail(
        f"{sys.executable} can make no virtual environment: its module venv is not complete. "
        "On Debian and Ubuntu add `apt: [python3-venv]`."
    )


def _make_conda(place: str, paper: str) -> None:
    for name in ("micromamba", "mamba", "conda"):
        program = shutil.which(name)
        if program:
            words = [program, "create", "--yes"] if name == "micromamba" else [program, "env", "create"]
            _run([*words, "--prefix", place, "--file", paper], f"{name} could not make the environment")
            return
    _fail("environment.yml needs micromamba, mamba or conda on the machine, and none is on its path")


def _make_session_program(place: str) -> None:
    """A session's packages that come from the system bring no program that runs in this environment."""
    path = os.path.join(place, "bin", "jupyterhub-singleuser")
    if not os.path.exists(path):
        with open(path, "w") as file:
            file.write('#!/bin/sh\nexec "${0%/*}/python" -m jupyterhub.singleuser "$@"\n')
        os.chmod(path, 0o700)


def _run(words: list[str], trouble: str) -> None:
    code = subprocess.run(words, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        _fail(f"{trouble} (exit code {code})")


def _record(programs: str) -> None:
    """Put a folder first into the instance's list of folders with programs."""
    os.makedirs(".gridcloud", mode=0o700, exist_ok=True)
    path = os.path.join(".gridcloud", "path")
    lines = [programs]
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            lines += [line for line in file.read().splitlines() if line and line != programs]
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))
    os.replace(path + ".new", path)


if __name__ == "__main__":
    main()
