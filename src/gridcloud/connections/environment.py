"""Environments: which variables a command inherits, and how values reach a shell without being read as shell text.

A value never stands in an argument vector, for those are readable by everybody on a machine. Where the other end
is a shell, words and values travel over its standard input as lines of harmless characters, which `printf %b`, a
builtin, turns back into the bytes they were.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from gridcloud.errors import InvalidRequest, NotFound

__all__ = ["check_command", "encode_command", "escape", "inherited", "of_user"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_UNSAFE = re.compile(rb"[^A-Za-z0-9_./:,@%+=-]")

# What a command on this computer inherits. An allow list: the service's own environment may hold secrets
# (credentials by reference `env:NAME`, the hub's tokens), which are not for those whom it serves.
_INHERITED = frozenset(
    {
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "PATH",
        "TERM",
        "TMPDIR",
        "TZ",
        "LANG",
        "LANGUAGE",
        "PYTHONPATH",
        "LD_LIBRARY_PATH",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "CONDA_ROOT",
        "CONDA_DEFAULT_ENV",
        "MODULEPATH",
        "CUDA_HOME",
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "PIP_CERT",
        "PIP_CONFIG_FILE",
        "XDG_RUNTIME_DIR",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    }
)


def check_command(words: Iterable[str], environment: Mapping[str, str]) -> None:
    """Raise InvalidRequest for what no operating system can start: no words, a NUL, a name that is no name."""
    words = tuple(words)
    if not words or not words[0]:
        raise InvalidRequest("The command is empty.", remedy="Give the program to run as its first word.")
    if words[0].startswith("-"):
        raise InvalidRequest(
            f"{words[0]!r} is no program.", remedy="Give the program to run as the first word."
        )
    for word in words:
        if "\0" in word:
            raise InvalidRequest(f"The word {word[:40]!r} holds a NUL character, which no command can have.")
    for name, value in environment.items():
        if not _NAME.match(name):
            raise InvalidRequest(
                f"{name!r} is no name of an environment variable.",
                remedy="Use letters, digits and underscores.",
            )
        if "\0" in value:
            raise InvalidRequest(f"The value of {name} holds a NUL character, which no variable can have.")


def encode_command(
    words: Iterable[str], environment: Mapping[str, str], directory: str, *, raw: bool = False
) -> bytes:
    """Return the lines that `shell.START` reads from its standard input before it becomes the command.

    ``raw``: the terminal is left as it was for these lines, see `Command.raw`.
    """
    lines = [b"E" + name.encode() + b"=" + escape(value) for name, value in environment.items()]
    if directory:
        lines.append(b"D" + escape(directory if directory.startswith("/") else f"./{directory}"))
    if raw:
        lines.append(b"R")
    lines += [b"W" + escape(word) for word in words]
    return b"".join(line + b"\n" for line in [*lines, b""])


def escape(text: str) -> bytes:
    """Return ``text`` in the notation of POSIX ``printf %b``, free of everything a shell could read otherwise."""
    return _UNSAFE.sub(lambda found: b"\\0%03o" % found[0][0], os.fsencode(text))


def inherited() -> dict[str, str]:
    """Return the part of our own environment that commands on this computer get, run as the same user."""
    return {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("LC_")}


def of_user(name: str) -> dict[str, str]:
    """Return a fresh environment for another user of this computer. Raises NotFound."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise NotFound(f"This computer has no user {name!r}.", remedy="Create the account first.") from None
    kept = {key: os.environ[key] for key in ("LANG", "LC_ALL", "TZ") if key in os.environ}
    return kept | {
        "HOME": user.pw_dir,
        "USER": name,
        "LOGNAME": name,
        "SHELL": user.pw_shell or "/bin/sh",
        "PATH": ":".join(path for path in os.get_exec_path() if _is_open_to_all(path)) or os.defpath,
    }


def _is_open_to_all(folder: str) -> bool:
    """Tell whether others can reach a folder: one they cannot makes "not permitted" of every "not found"."""
    path = Path(folder)
    try:
        return path.is_absolute() and all(place.stat().st_mode & 0o001 for place in (path, *path.parents))
    except OSError:
        return False
