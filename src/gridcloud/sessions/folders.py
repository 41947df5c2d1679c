"""A course's folders in a session's home, below ``courses/NAME``: what the machine has mounted, else what can be had.

- Where `MOUNTS` has the folder (a container's or pod's volume, or what the machine's administrator mounted), its place
  in the home is a link to that.
- On this computer it is a link to the folder itself, where the account may do there what it is to do and no more: what
  another account owns, nobody turns writable. An account that could change a hand-out, as our own can, gets a copy.
- Elsewhere a hand-out is copied; what is shared cannot be.

A copy is its user's: they can make it writable, and change nobody else's. One that they changed is kept beside the new.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from gridcloud.connections import run
from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import LocalAddress
from gridcloud.errors import GridcloudError, Rejected
from gridcloud.instances.model import MOUNTS, Folder, Instance
from gridcloud.sessions.places import find_home

__all__ = ["LARGEST", "place_folders"]

LARGEST = 2 << 30
"""Bytes of a hand-out that is copied to each session."""

PATIENCE = 600.0
"""Seconds that a copy may take."""

# $1: the folder, $2: "change" where that is wanted. Ends with 0 where the account may do what is wanted and no more.
MAY = """
cd -- "$1" 2>/dev/null || { echo "the session's account may not enter it"; exit 1; }
if [ "$2" = change ]; then [ -w . ] || { echo "the session's account may not write there"; exit 1; }; exit 0; fi
look='for one; do [ ! -w "$one" ] || { echo "$one"; exit 3; }; done'
find . ! -type l -exec sh -c "$look" sh {} + | grep -q . && exit 3
exit 0
"""

# $1: the place below the home, $2: the folder. They are one where the home has all courses in it.
SAME = '[ ! -L "$1" ] && [ "$1" -ef "$2" ]'

# $1: the place below the home, $2: what it is to lead to. Whatever else lies there is the user's.
LINK = """
umask 077
mkdir -p -- "${1%/*}" || exit 1
if [ -e "$1" ] && [ ! -L "$1" ]; then mv -- "$1" "$1-kept-$3" || exit 1; fi
rm -f -- "$1" && ln -s -- "$2" "$1"
"""

# $1: the place below the home, $2: the new copy beside it, $3: a word for what is kept.
SWAP = r"""
mark="${1%/*}/.${1##*/}-copied"
changed() { [ ! -f "$mark" ] || find "$1" ! -type l \( -newer "$mark" -o -perm -200 \) -print | grep -q .; }
chmod -R a-w,u+rX -- "$2" || exit 1
if [ -L "$1" ]; then rm -f -- "$1" || exit 1; fi
if [ -e "$1" ]; then
  if changed "$1"; then
    chmod u+w -- "$1" && mv -- "$1" "$1-kept-$3" || exit 1
  else
    chmod -R u+w -- "$1" && rm -rf -- "$1" || exit 1
  fi
fi
chmod u+w -- "$2" && mv -- "$2" "$1" && chmod a-w -- "$1" && : >"$mark"
"""


async def place_folders(
    connection: Connection, instance: Instance, folders: Sequence[Folder], word: str
) -> list[str]:
    """Have a session see its course's folders; return what it does not see, and why, in words.

    ``word`` names what is kept of what lay in their places.
    """
    problems = []
    home = await find_home(connection, instance) if folders else ""
    for folder in folders:
        try:
            if folder.problem or not home:
                raise Rejected(folder.problem or "there is no home on this machine.")
            await _place(connection, instance, folder, home, word)
        except (GridcloudError, OSError) as error:
            problems.append(f"courses/{folder.at} is not there: {error}")
    return problems


async def _place(connection: Connection, instance: Instance, folder: Folder, home: str, word: str) -> None:
    mounted = f"{MOUNTS}/{folder.at}"
    place = f"courses/{folder.at}"
    local = isinstance(instance.address, LocalAddress)
    if local and await _says(connection, home, SAME, place, folder.source) is None:
        return
    if await _says(connection, home, '[ -d "$1" ]', mounted) is None:
        await _do(connection, home, LINK, place, mounted, word)
    elif local and await _may(connection, home, folder):
        await _do(connection, home, LINK, place, folder.source, word)
    elif folder.read_only:
        await _copy(connection, folder, home, place, word)
    else:
        raise Rejected(
            "what is shared is only on the hub's own computer, and where it is mounted.",
            remedy=f"An administrator mounts it on these machines, at {mounted}.",
        )


async def _may(connection: Connection, home: str, folder: Folder) -> bool:
    """Tell whether the account may do in a folder of this computer what it is to do, and no more. Raises Rejected where
    it may do less."""
    code, said = await _run(connection, home, MAY, folder.source, "read" if folder.read_only else "change")
    if code == 3:
        return False
    if code:
        raise Rejected(f"{said}.", remedy=f"An administrator changes the rights of {folder.source}.")
    return True


async def _copy(connection: Connection, folder: Folder, home: str, place: str, word: str) -> None:
    source = Path(folder.source)
    size = await asyncio.to_thread(_size, source)
    if size > LARGEST:
        raise Rejected(
            f"it has {size >> 20} MiB, and at most {LARGEST >> 20} are copied.",
            remedy=f"An administrator mounts it on these machines, at {MOUNTS}/{folder.at}.",
        )
    fresh = f"{place}.new"
    await _do(
        connection,
        home,
        'mkdir -p -- "${1%/*}" && { chmod -R u+w -- "$1" 2>/dev/null; rm -rf -- "$1"; }',
        fresh,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            await connection.put(source, posixpath.join(home, fresh))
    except TimeoutError:
        raise Rejected(f"it was not copied within {PATIENCE:g} s.") from None
    await _do(connection, home, SWAP, place, fresh, word)


def _size(folder: Path) -> int:
    return sum(
        os.lstat(os.path.join(above, name)).st_size for above, _, names in os.walk(folder) for name in names
    )


async def _do(connection: Connection, home: str, text: str, *words: str) -> None:
    code, said = await _run(connection, home, text, *words)
    if code:
        raise Rejected(f"{said or f'the command ended with {code}'}.")


async def _says(connection: Connection, home: str, text: str, *words: str) -> str | None:
    code, said = await _run(connection, home, text, *words)
    return (said or "no") if code else None


async def _run(connection: Connection, home: str, text: str, *words: str) -> tuple[int, str]:
    command = Command(("/bin/sh", "-c", text, "gridcloud", *words), directory=home)
    done = await run(connection, command, timeout=120)
    said = (done.stdout + done.stderr).decode(errors="replace").strip()
    return done.code, said[-500:]
