"""What goes wrong, told in one line (or one JSON document) on standard error, and the exit code for it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from gridcloud.errors import GridcloudError, InvalidRequest, StorageFull

__all__ = ["Interrupted", "exit_code_of", "leave_pipe", "tell_error"]


class Interrupted(Exception):
    """A signal ended the command; everything it had to clean up is cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by signal {number}")
        self.exit_code = 128 + number


def exit_code_of(error: Exception, words: Sequence[str]) -> int:
    """Tell an error to whoever gave the command ``words``, and return the exit code for it."""
    options = words[: words.index("--")] if "--" in words else words
    as_json = "--json" in options
    if isinstance(error, Interrupted):
        return error.exit_code
    if type(error).__name__ == "Abort":
        print("aborted", file=sys.stderr)
        return 130
    if "--verbose" in options and not _is_usage(error):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, GridcloudError):
        tell_error(error, as_json=as_json)
        return error.exit_code
    if _is_usage(error):
        usage: Any = error
        path = usage.ctx.command_path if getattr(usage, "ctx", None) is not None else "gridcloud"
        words_said = usage.format_message().rstrip()
        if words_said:  # nothing is said where the help was shown instead
            tell_error(InvalidRequest(words_said, remedy=f"See '{path} --help'."), as_json=as_json)
        return int(usage.exit_code)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" that holds {error.filename}" if error.filename else ""
        full = StorageFull(f"The disk{place} is full.", remedy="Free some space there, then try again.")
        tell_error(full, as_json=as_json)
        return full.exit_code
    fault = GridcloudError(
        f"gridcloud has a fault: {type(error).__name__}: {error}".rstrip(": "),
        remedy="Please report it, with what --verbose adds and what 'gridcloud version' says.",
    )
    tell_error(fault, as_json=as_json)
    return 1


def tell_error(error: GridcloudError, *, as_json: bool) -> None:
    """Write an error to standard error: a line for people, or its problem document."""
    if as_json:
        line = json.dumps(error.problem(), default=str)
    else:
        from gridcloud.cli.printing import plain

        line = "\n".join(f"error: {plain(part)}" for part in str(error).splitlines() or [""])
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def leave_pipe() -> None:
    """Whoever read our output has left: write nothing more, be as quiet as any program that this ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _is_usage(error: Exception) -> bool:
    """Whether it is one of the option parser's errors, whichever copy of the parser made it."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")
