"""Public SSH keys that others wrote, read in one place: whatever is wrong with one is one error of ours."""

from __future__ import annotations

import asyncssh

from gridcloud.errors import InvalidRequest

__all__ = ["check_authorized_key", "read_public_key"]

LONGEST = 16384
"""Characters of a line that are looked at: several times what the largest keys in use take."""


def read_public_key(line: str | bytes) -> asyncssh.SSHKey:
    """Return the key of a public key line. Raises InvalidRequest, and nothing else, when it holds none."""
    _check_length(line)
    try:
        return asyncssh.import_public_key(line)
    except Exception as error:  # what a hostile key does to the libraries below is not in their documents
        raise InvalidRequest(f"{line[:40]!r} is no public SSH key: {_words(error)}.") from error


def check_authorized_key(line: str) -> None:
    """Return when a line of authorized_keys can be read. Raises InvalidRequest, and nothing else."""
    _check_length(line)
    try:
        asyncssh.import_authorized_keys(line)
    except Exception as error:  # as above
        raise InvalidRequest(f"{line[:40]!r}… is no line of authorized_keys: {_words(error)}.") from error


def _check_length(line: str | bytes) -> None:
    if len(line) > LONGEST:
        raise InvalidRequest(f"A public key has at most {LONGEST} characters, and here are {len(line)}.")


def _words(error: Exception) -> str:
    """Return what a library says, on one line of printable text: it repeats what stood in the key."""
    return f"{ascii(str(error))[1:-1]:.200}" or type(error).__name__
