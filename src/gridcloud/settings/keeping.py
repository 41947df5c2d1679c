"""The configuration file with its history: checked first, written whole, nobody's change lost."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from gridcloud.errors import Conflict, InvalidRequest
from gridcloud.settings.edit import locked, read_text, write_text
from gridcloud.settings.history import LARGEST, History, Revision, digest_of

__all__ = ["BY_HAND", "KeptFile", "difference"]

BY_HAND = "changed by hand"

Check = Callable[[str], object]


class KeptFile:
    """The file at a path. Several processes may change it; each holds a lock from reading to writing."""

    def __init__(self, path: Path, history: History, check: Check) -> None:
        """``check`` raises InvalidSettings for a text that is not valid."""
        self.path = path
        self.history = history
        self._check = check

    def text(self) -> str:
        """Return what the file says now, valid or not; nothing where there is none."""
        return read_text(self.path)

    def notice(self) -> Revision | None:
        """Keep what somebody wrote by hand; return it when it is new. Raises InvalidSettings while it is not valid."""
        with locked(self.path):
            text = self.text()
            last = self.history.last()
            if (last is not None and last.digest == digest_of(text)) or (last is None and not text):
                return None
            if len(text.encode()) > LARGEST:
                return None
            self._check(text)
            return self.history.note(text, "", BY_HAND if last else "as it was found")

    def change(
        self, edit: Callable[[str], str], who: str, what: str, *, since: str | None = None
    ) -> Revision | None:
        """Write what ``edit`` makes of the present text; return it as it is kept, None when that changes nothing.

        ``since``: the digest of the text that the change was made for. Raises Conflict when the file says something
        else now, with what changed in ``details["changes"]``; InvalidSettings when the outcome is not valid. The file
        is left alone then.
        """
        with locked(self.path):
            before = self.text()
            if since is not None and since != digest_of(before):
                raise self._conflict(before, since)
            after = edit(before)
            _check_form(after)
            self._check(after)
            if after == before:
                return None
            self._keep(before)
            write_text(self.path, after)
            return self.history.note(after, who, what)

    def roll_back(self, number: int, who: str, *, since: str | None = None) -> Revision | None:
        """Write an earlier text again. Raises NotFound, and what `change` raises."""
        earlier = self.history.get(number)
        return self.change(lambda _: earlier.text, who, f"back to {number}", since=since)

    def _keep(self, text: str) -> None:
        """Keep a text that is about to be replaced and was never kept: somebody's work, even if it is not valid."""
        last = self.history.last()
        if text and (last is None or last.digest != digest_of(text)) and len(text.encode()) <= LARGEST:
            self.history.note(text, "", BY_HAND if last else "as it was found")

    def _conflict(self, text: str, since: str) -> Conflict:
        kept = self.history.all()
        based = next((one for one in kept if one.digest == since), None)
        now = next((one for one in kept if one.digest == digest_of(text)), None)
        who = f" by {now.who}" if now and now.who else ""
        return Conflict(
            f"The configuration was changed{who} meanwhile, so nothing was written.",
            remedy="Take over what changed and save again.",
            details={
                "digest": digest_of(text),
                "changes": difference(based.text, text) if based else text,
            },
        )


def difference(before: str, after: str, names: tuple[str, str] = ("before", "after")) -> str:
    """Return what changed, as a unified diff; nothing where nothing did."""
    return "".join(
        line if line.endswith("\n") else f"{line}\n"
        for line in difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True), *names
        )
    )


def _check_form(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest("The configuration holds characters that are none.") from None
    if size > LARGEST:
        raise InvalidRequest(f"The configuration may have {LARGEST >> 10} KiB at most.")
