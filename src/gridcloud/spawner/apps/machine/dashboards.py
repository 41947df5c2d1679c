"""Leads to the dashboards of the Dask clusters that run in a session: one cluster's at once, else a list.

``python dashboards.py SOCKET`` answers HTTP on ``SOCKET``. A Dask scheduler is found by asking what listens here under
our own account; its dashboard is reached at ``../proxy/PORT/``.

It travels to machines that have no gridcloud: Python 3.8 and its own library are all there is.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from ports import listening  # type: ignore[import-not-found, unused-ignore]
from serving import Pages, PagesServer, page  # type: ignore[import-not-found, unused-ignore]

__all__ = ["Dashboards", "main", "schedulers"]

PATIENCE = 2.0  # seconds that what listens has to say that it is a Dask scheduler
AT_ONCE = 64

TITLE = "Dask dashboard"
NONE = "No Dask cluster runs in this session. Start one in a notebook, then come back."
EXAMPLE = 'from dask.distributed import Client\n\nclient = Client(dashboard_address="127.0.0.1:0")\nclient'


def schedulers() -> dict[int, str]:
    """Return the ports of dashboards of ours, and their schedulers in words."""
    ours = sorted(port for port, uids in listening().items() if uids == {os.geteuid()})
    # At once, for an account may have many ports, and what is no Dask may say nothing for as long as it is given.
    with ThreadPoolExecutor(max_workers=AT_ONCE) as asking:
        return {port: words for port, words in zip(ours, asking.map(_scheduler, ours)) if words}  # noqa: B905 - Python 3.8


def _scheduler(port: int) -> str:
    """The scheduler whose dashboard a port is, in words; empty when it is none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        with opener.open(f"http://127.0.0.1:{port}/json/identity.json", timeout=PATIENCE) as answer:
            told = json.loads(answer.read(1 << 20))
        if told["type"] == "Scheduler":
            return f"{told['id']}: {len(told['workers'])} workers, at {told['address']}"
    return ""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A dashboard answers itself: what leads elsewhere is none."""

    def redirect_request(self, *_: object) -> None:
        """Go nowhere."""


class Dashboards(Pages):
    """Answers with the way to the dashboards."""

    def do_GET(self) -> None:  # noqa: N802 - so it is called there
        """Lead to the only dashboard, or list them."""
        if self.path.partition("?")[0] not in ("/", "/index.html"):
            self.send_error(404)
            return
        found = schedulers()
        ways = [(f"../proxy/{port}/status", words) for port, words in found.items()]
        if len(ways) == 1:
            self.send_response(302)
            self.send_header("Location", ways[0][0])
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.say(page(TITLE, "" if ways else NONE, "" if ways else EXAMPLE, ways, "Look again"))


def main(arguments: list[str]) -> int:
    """Answer until ended."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(arguments[0])
    PagesServer(arguments[0], Dashboards).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
