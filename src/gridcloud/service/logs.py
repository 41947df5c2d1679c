"""How the log is written: each thing that happened is one line, whoever's words are in it."""

from __future__ import annotations

import logging

__all__ = ["DATED", "LineFormatter"]

DATED = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""With the time, for files that nothing else dates."""


class LineFormatter(logging.Formatter):
    """Writes what others said so that it cannot look like a line of ours, nor steer a terminal: a line feed as ``\\n``.

    The lines of a traceback follow its own, each indented.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line of a record."""
        record.message = _visible(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, and the traceback where there is one."""
        first, *rest = super().format(record).split("\n")
        return "\n".join([first, *(f"    {_visible(line)}" for line in rest)])


def _visible(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
