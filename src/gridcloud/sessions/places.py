"""Places on a machine: its owner's home, a session's files, and a folder for sockets that only its user may enter."""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Mapping

from gridcloud.connections import run
from gridcloud.connections.driver import Command, Connection
from gridcloud.errors import Rejected
from gridcloud.instances.model import Instance

__all__ = ["find_home", "home_problems", "place_files", "private_socket", "remove_socket"]

LONGEST = 100
"""Unix sockets may have paths of 107 bytes; some systems take fewer."""

NAME = 52
"""Of these, bytes for a socket's name in its folder: Jupyter's kernels want 49."""

# The short folder is named after the instance: its provider removes it when nobody else was left to do so.
MAKE = (
    'umask 077; folder="$PWD/.gridcloud"; mkdir -p -- "$folder" && chmod 700 -- "$folder" || exit 1\n'
    f'if [ "${{#folder}}" -gt {LONGEST - NAME} ]; then folder="/tmp/gridcloud-$1"; mkdir -- "$folder" 2>/dev/null\n'
    '[ -O "$folder" ] && [ ! -L "$folder" ] && chmod 700 -- "$folder" || { echo "$folder is not ours" >&2; exit 1; }\n'
    'fi; printf %s "$folder"'
)

PLACE = (
    'umask 077; mkdir -p -- "$1" && cd -- "$1" || exit 1; shift\n'
    'while [ $# -gt 1 ]; do case $1 in */*) mkdir -p -- "${1%/*}" || exit 1;; esac\n'
    'printf %s "$2" >"$1" || exit 1; shift 2; done; pwd'
)

# Tried and not looked up: of quotas, inodes and what is mounted read-only, free space says nothing.
SAVE = (
    'umask 077; place=$(mktemp -- "$1/.gridcloud-XXXXXXXX") || exit 1\n'
    'head -c 65536 /dev/zero >"$place"; code=$?; rm -f -- "$place"; exit $code'
)

REMOVE = 'rm -f -- "$1"; case ${1%/*} in /tmp/gridcloud-*) rm -rf -- "${1%/*}";; esac'


async def find_home(connection: Connection, instance: Instance) -> str:
    """Return the folder of the owner's own files: the address's, else the home that commands there have."""
    if home := getattr(instance.address, "home", ""):
        return str(home)
    done = await run(connection, Command(("/bin/sh", "-c", 'cd -- "$HOME" && pwd')))
    home = done.stdout.decode(errors="surrogateescape").removesuffix("\n")
    return home if done.code == 0 and home.startswith("/") else ""


async def home_problems(connection: Connection, home: str) -> list[str]:
    """Return in sentences, for its owner, why nothing can be saved in a home; none where that is well.

    A session is of use even so: it is where its owner makes room.
    """
    if not home:
        return []
    done = await run(connection, Command(("/bin/sh", "-c", SAVE, "sh", home), {"LC_ALL": "C"}))
    if not done.code:
        return []
    said = done.stderr.decode(errors="replace").strip().rpartition(": ")[2][:200] or f"exit code {done.code}"
    return [f"Nothing can be saved in the home folder {home}: {said}. Delete there what you do not need."]


async def place_files(connection: Connection, folder: str, files: Mapping[str, str]) -> str:
    """Write a plan's files below ``folder``, for its user alone, and return its absolute path. Raises Rejected."""
    words = ("/bin/sh", "-c", PLACE, "sh", folder, *(word for pair in files.items() for word in pair))
    done = await run(connection, Command(words))
    place = done.stdout.decode(errors="surrogateescape").removesuffix("\n")
    if done.code or not place.startswith("/"):
        said = done.stderr.decode(errors="replace").strip()
        raise Rejected(f"The session's files cannot be written: {said}")
    return place


async def private_socket(connection: Connection, directory: str, instance_id: str) -> str:
    """Return the path of a socket yet to be made, below ``directory`` where that is short enough, else below
    ``/tmp/gridcloud-ID``. Its folder has room for sockets of the program's own.

    Raises Rejected when no folder can be made for it.
    """
    words = ("/bin/sh", "-c", MAKE, "sh", instance_id)
    done = await run(connection, Command(words, directory="" if directory == "." else directory))
    folder = done.stdout.decode(errors="surrogateescape")
    if done.code or not folder.startswith("/"):
        said = done.stderr.decode(errors="replace").strip()
        raise Rejected(f"No folder can be made for the session's socket: {said}")
    return posixpath.join(folder, secrets.token_hex(4))


async def remove_socket(connection: Connection, path: str) -> None:
    """Remove a socket of `private_socket`, with the folder made for the session alone."""
    await run(connection, Command(("/bin/sh", "-c", REMOVE, "sh", path)))
