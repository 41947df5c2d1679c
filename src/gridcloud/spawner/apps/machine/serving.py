"""Pages of a session's applications, served on a Unix socket: what the programs here have in common.

It travels to machines that have no gridcloud, as do the programs that use it: Python 3.8 and its own library are all
there is.
"""

from __future__ import annotations

import html
import os
import socketserver
import sys
from http.server import SimpleHTTPRequestHandler
from typing import Any

__all__ = ["Pages", "PagesServer", "page"]

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:4rem auto;padding:0 1rem;color:#222}"
    "h1{font-size:1.4rem}pre{background:#f3f3f3;padding:1rem;overflow:auto;white-space:pre-wrap}"
    "a.again{display:inline-block;padding:.4rem 1rem;border:1px solid #888;border-radius:4px;color:inherit;"
    "text-decoration:none}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}pre{background:#222}}"
)


def page(title: str, message: str, details: str = "", links: Any = (), again: str = "Try again") -> str:
    """Return a page that says something; all of it is text. ``links``: pairs of an address and its words."""
    listed = "".join(
        f'<li><a href="{html.escape(url)}">{html.escape(words)}</a></li>' for url, words in links
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>{html.escape(message)}</p>"
        + (f"<pre>{html.escape(details)}</pre>" if details else "")
        + (f"<ul>{listed}</ul>" if listed else "")
        + f'<p><a class="again" href="">{html.escape(again)}</a></p></html>'
    )


class Pages(SimpleHTTPRequestHandler):
    """Answers requests that came by a Unix socket."""

    def address_string(self) -> str:
        """Return who asks, for the log: nobody has an address here."""
        return "session"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of what is asked for."""

    def list_directory(self, path: Any) -> None:
        """Show no folder."""
        self.send_error(404)

    def say(self, text: str, status: int = 200) -> None:
        """Answer with a page."""
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)


class PagesServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens on a Unix socket that only its own user may use."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent of those who did not wait for their answer."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def server_bind(self) -> None:
        """Make the socket, closed to others from the first moment."""
        before = os.umask(0o177)
        try:
            super().server_bind()
        finally:
            os.umask(before)
