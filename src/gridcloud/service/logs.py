"""How the log is written: each thing that happened is one line, whoever's words are in it, and no secret is in any.

Lines are for people, or JSON documents for programs that gather them: ``logs.format``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

__all__ = [
    "DATED",
    "JSONFormatter",
    "LineFormatter",
    "begin_logging",
    "begin_request",
    "formatter",
    "note_user",
    "scrub",
]

DATED = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""With the time, for files that nothing else dates."""

_request: ContextVar[dict[str, str]] = ContextVar("gridcloud_request")

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_SUBJECTS = ("session", "instance", "cluster", "stack")
"""What tasks are named after: ``session s-…``."""

_HIDDEN = "[hidden]"

_SECRETS = (
    # In a query, a header, an assignment or a document: what is named like a secret.
    re.compile(
        r"(?i)(?P<keep>[\w-]*(?:token|password|passwd|secret|api[_-]?key|private[_-]?key|assertion)[\w-]*"
        r"[\"']?\s*(?:=|:)\s*[\"']?)(?P<hide>(?:(?:bearer|token|basic)\s+)?[^\s&\"',;}\[]{3,})"
    ),
    re.compile(
        r"(?i)(?P<keep>\b(?:authorization|cookie|set-cookie)[\"']?\s*[:=]\s*[\"']?)(?P<hide>[^\r\n\"'}\[]{3,})"
    ),
    re.compile(r"(?i)(?P<keep>\b(?:bearer|basic)\s+)(?P<hide>[A-Za-z0-9+/=._~-]{8,})"),
    re.compile(r"(?P<keep>\b\w[\w+.-]{0,30}://[^/@:\s]{0,200}:)(?P<hide>[^/@\s]+)(?=@)"),
    re.compile(r"(?P<keep>)(?P<hide>\bgc_[A-Za-z0-9_-]{16,})"),
    re.compile(r"(?P<keep>)(?P<hide>\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)"),
    re.compile(
        r"(?P<keep>-----BEGIN [A-Z ]*PRIVATE KEY-----)(?P<hide>.*?)(?=-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        re.DOTALL,
    ),
)
"""What a secret looks like that somebody else's words may hold: ours never do. The last resort, not the rule."""


def scrub(text: str) -> str:
    """Return a text without what looks like a secret."""
    for pattern in _SECRETS:
        text = pattern.sub(lambda found: found["keep"] + _HIDDEN, text)
    return text


def begin_request(given: str = "") -> str:
    """Name the request that is being answered here from now on; return its id. ``given``: what its sender calls it."""
    name = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    _request.set({"request": name})
    return name


def note_user(name: str) -> None:
    """Note who sent the request that is being answered here."""
    told = _request.get(None)
    if told is not None:
        told["user"] = name


class LineFormatter(logging.Formatter):
    """Writes what others said so that it cannot look like a line of ours, nor steer a terminal: a line feed as ``\\n``.

    The lines of a traceback follow its own, each indented.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line of a record."""
        record.message = _visible(scrub(record.message))
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, and the traceback where there is one."""
        first, *rest = super().format(record).split("\n")
        rest = scrub("\n".join(rest)).split("\n") if rest else []
        return "\n".join([first, *(f"    {_visible(line)}" for line in rest)])


class JSONFormatter(logging.Formatter):
    """Writes each record as one JSON document on a line: time, level, name and message, with the request, the user and
    the session, instance, cluster or stack that it is about, where that is known, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the document of a record."""
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "name": record.name,
            "message": scrub(record.getMessage()),
        }
        document |= _request.get({})
        document |= _subject()
        document |= getattr(record, "gridcloud", {})
        if record.exc_info:
            document["traceback"] = scrub(self.formatException(record.exc_info))
        # ASCII only: no program that passes a line on changes it, and none takes U+2028 for the end of one.
        return json.dumps(document, default=str)


def formatter(kind: Literal["text", "json"], pattern: str = DATED) -> logging.Formatter:
    """Return what writes records in a format."""
    return JSONFormatter() if kind == "json" else LineFormatter(pattern)


def begin_logging(kind: Literal["text", "json"]) -> None:
    """Have everything of this process logged in a format, to its standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(kind))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)


def _subject() -> dict[str, str]:
    """Return what the task that logs is about, by its name."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread
        return {}
    kind, _, id_ = task.get_name().partition(" ") if task is not None else ("", "", "")
    return {kind: id_} if kind in _SUBJECTS and id_ else {}


def _visible(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
