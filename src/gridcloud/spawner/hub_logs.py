"""The hub's log as JSON documents, where the configuration wants that: JupyterHub's own lines and ours alike."""

from __future__ import annotations

import logging
import re
from typing import Any

from jupyterhub.log import log_request

from gridcloud.service.logs import JSONFormatter, begin_request, scrub

__all__ = ["AccessFormatter", "log_as_json", "log_named"]

_ACCESS = re.compile(
    r"(?P<status>\d{3}) (?P<method>[A-Z]+) (?P<path>\S+)(?: -> (?P<location>\S+))? "
    r"\((?P<user>.*)@(?P<ip>[^@]*)\) (?P<ms>[0-9.]+)ms"
)


class AccessFormatter(JSONFormatter):
    """Takes JupyterHub's line for each request apart into fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the document of a record."""
        found = _ACCESS.fullmatch(record.getMessage())
        if found is not None:
            fields: dict[str, Any] = {key: scrub(value) for key, value in found.groupdict().items() if value}
            record = logging.makeLogRecord(record.__dict__)  # other handlers have it as it was
            record.gridcloud = fields | {"status": int(found["status"]), "ms": float(found["ms"])}
            record.msg, record.args = "{method} {path}: {status}".format_map(fields), ()
        return super().format(record)


def log_named(handler: Any) -> None:
    """Log a request under the id that the server before us gave it, or one of its own."""
    begin_request(handler.request.headers.get("X-Request-Id", ""))
    log_request(handler)


def log_as_json(log: logging.Logger) -> None:
    """Have a logger's handlers, and those of our own modules, write JSON."""
    writes = AccessFormatter()
    for handler in log.handlers:
        handler.setFormatter(writes)
    ours = logging.getLogger("gridcloud")
    handler = logging.StreamHandler()
    handler.setFormatter(writes)
    ours.handlers[:] = [handler]
    ours.setLevel(logging.INFO)
    ours.propagate = False
