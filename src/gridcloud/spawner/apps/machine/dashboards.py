"""Leads to the dashboards of the Dask clusters that run in a session: one cluster's at once, else a list.

``python dashboards.py SOCKET`` answers HTTP on ``SOCKET``. A Dask scheduler is found by asking what listens here under
our own account; its dashboard is reached at ``../proxy/PORT/``.

It travels to machines that have no gridcloud: Python 3.8 and its own library are all there is.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from ports import listening  # type: ignore[import-not-found, unused-ignore]
from serving import Pages, PagesServer, page  # type: ignore[import-not-found, unused-ignore]

__all__ = ["Dashboards", "main", "schedulers"]

PATIENCE = 2.0  # seconds that what listens has to say that it is a Dask scheduler

TITLE = "Dask dashboard"
NONE = "No Dask cluster runs in this session. Start one in a notebook, then come back."
EXAMPLE = 'from dask.distributed import Client\n\nclient = Client(dashboard_address="127.0.0.1:0")\nclient'


def schedulers() -> dict[int, str]:
    """Return the ports of dashboards of ours, and their schedulers in words."""
    found = {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for port, uids in sorted(listening().items()):
        if uids != {os.geteuid()}:
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with opener.open(f"http://127.0.0.1:{port}/json/identity.json", timeout=PATIENCE) as answer:
                told = json.loads(answer.read(1 << 20))
            if told["type"] == "Scheduler":
                found[port] = f"{told['id']}: {len(told['workers'])} workers, at {told['address']}"
    return found


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
