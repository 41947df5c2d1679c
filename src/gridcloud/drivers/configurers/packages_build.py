"""Build an environment of Python packages, or find the one built before. This program runs on the machine.

Its text is handed to the machine's ``python3 -c``; the order comes as JSON on standard input. It uses the standard
library of Python 3.8 and nothing else.

Environments lie in ``~/.cache/gridcloud/environments``, one for each content of an order, so that the next instance
of the same account has it at once. One is complete when it holds the file ``complete``; who builds holds a lock, which
the system lets go of however the builder ends. The folder with an environment's programs is put first into
``.gridcloud/path`` of the instance's own folder.

An overlay is an environment on top of the one that has the session's programs: it sees all that is in it, and kernels
of the session run in the overlay; its folder for Jupyter is put first into ``.gridcloud/jupyter``. The session's own
server stays as it is.
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
    below = _session_python() if order["overlay"] else ""
    if wanted:
        place = _provide(order, below)
        _record(os.path.join(place, "bin"))
        if below:
            _record(os.path.join(place, "share", "jupyter"), "jupyter")


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


def _session_python() -> str:
    """Return the Python that the session's programs run on: the one beside them."""
    folders = [*_recorded("path"), *os.environ.get("PATH", os.defpath).split(os.pathsep)]
    program = shutil.which("jupyterhub-singleuser", path=os.pathsep.join(folders))
    beside = os.path.dirname(os.path.realpath(program)) if program else _own_programs()
    for name in ("python3", "python"):
        python = os.path.join(beside, name)
        if os.access(python, os.X_OK) and _has_module(python, "ipykernel"):
            return python
    _fail("packages can be added where a session is installed, and no Python here has ipykernel")
    return ""


def _provide(order: dict[str, Any], below: str) -> str:
    """Return the folder of a complete environment; ``below``: the Python that an overlay is put on, if it is one."""
    told = (
        json.dumps(order, sort_keys=True)
        + sys.version
        + os.path.realpath(sys.executable)
        + platform.machine()
        + (f"{below} {os.stat(os.path.dirname(below)).st_mtime_ns}" if below else "")
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
        _build(place, order, below)
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


def _build(place: str, order: dict[str, Any], below: str) -> None:
    papers = place + ".files"
    shutil.rmtree(papers, ignore_errors=True)
    os.mkdir(papers, 0o700)
    try:
        for name, text in order["files"].items():
            with open(os.path.join(papers, name), "w", encoding="utf-8") as file:
                file.write(text)
        if order["conda"]:
            _make_conda(place, os.path.join(papers, order["conda"]))
        elif below:
            _make_overlay(place, below)
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
            # Packages of a session that come from the system bring no program that runs in this environment.
            _make_program(place, "jupyterhub-singleuser", "jupyterhub.singleuser")
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


def _has_module(python: str, name: str) -> bool:
    words = [python, "-c", "import " + name]
    return subprocess.run(words, stderr=subprocess.DEVNULL, check=False).returncode == 0


def _make_overlay(place: str, below: str) -> None:
    """Make an environment that sees what is in that of ``below``, and the kernel that runs in it."""
    # A pip below is seen from within, and saves its installation: some seconds of every first start.
    has_pip = _has_module(below, "pip")
    options = ["--without-pip"] if has_pip else []
    _run([below, "-m", "venv", *options, place], "no virtual environment could be made")
    if has_pip:
        _make_program(place, "pip", "pip")
    python = os.path.join(place, "bin", "python")
    program = (
        "import sys; print([one for one in sys.path if one.endswith(('site-packages', 'dist-packages'))])"
    )
    seen = subprocess.run([below, "-c", program], stdout=subprocess.PIPE, check=True).stdout.decode().strip()
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.run(asked, stdout=subprocess.PIPE, check=True).stdout.decode().strip()
    with open(os.path.join(own, "gridcloud-overlay.pth"), "w", encoding="utf-8") as file:
        file.write(f"import site; list(map(site.addsitedir, {seen}))\n")
    folder = os.path.join(place, "share", "jupyter", "kernels", "python3")
    os.makedirs(folder)
    words = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {"argv": words, "display_name": "Python 3 (ipykernel)", "language": "python"}
    with open(os.path.join(folder, "kernel.json"), "w", encoding="utf-8") as file:
        json.dump({**kernel, "metadata": {"debugger": True}}, file)


def _make_conda(place: str, paper: str) -> None:
    for name in ("micromamba", "mamba", "conda"):
        program = shutil.which(name)
        if program:
            words = [program, "create", "--yes"] if name == "micromamba" else [program, "env", "create"]
            _run([*words, "--prefix", place, "--file", paper], f"{name} could not make the environment")
            return
    _fail("environment.yml needs micromamba, mamba or conda on the machine, and none is on its path")


def _make_program(place: str, name: str, module: str) -> None:
    """Make the program of a module that the environment sees but has no program of."""
    path = os.path.join(place, "bin", name)
    if not os.path.exists(path):
        with open(path, "w") as file:
            file.write(f'#!/bin/sh\nexec "${{0%/*}}/python" -m {module} "$@"\n')
        os.chmod(path, 0o700)


def _run(words: list[str], trouble: str) -> None:
    code = subprocess.run(words, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        _fail(f"{trouble} (exit code {code})")


def _recorded(name: str) -> list[str]:
    path = os.path.join(".gridcloud", name)
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [line for line in file.read().splitlines() if line]


def _record(folder: str, name: str = "path") -> None:
    """Put a folder first into the instance's list of folders with programs, or with what Jupyter finds."""
    os.makedirs(".gridcloud", mode=0o700, exist_ok=True)
    path = os.path.join(".gridcloud", name)
    lines = [folder, *(line for line in _recorded(name) if line != folder)]
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))
    os.replace(path + ".new", path)


if __name__ == "__main__":
    main()
