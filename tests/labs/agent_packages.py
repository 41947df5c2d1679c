"""Brings gridcloud and what an agent of it needs onto a virtual machine: in place of a package registry, which no
machine of the labs reaches."""

from __future__ import annotations

import contextlib
import functools
import http.server
import tarfile
import threading
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from gridcloud.agents.packing import needed, pack

__all__ = ["COMMAND", "HOST", "agent_of", "serve_agent"]

HOST = "10.0.2.2"
"""What a machine of QEMU calls the computer that it runs on."""
PACKAGES = "/usr/local/lib/python3.11/dist-packages"
COMMAND = ["/usr/bin/python3", f"{PACKAGES}/gridcloud.pyz"]
"""gridcloud there."""
FETCH = f"""
import io, tarfile, urllib.request
with urllib.request.urlopen("http://{HOST}:PORT/agent.tar", timeout=60) as answer:
    archive = io.BytesIO(answer.read())
tarfile.open(fileobj=archive).extractall("{PACKAGES}")
"""


@contextlib.contextmanager
def serve_agent(folder: Path) -> Iterator[str]:
    """Give the shell lines by which a machine fetches its agent, for as long as it can."""
    folder.mkdir()
    _write(folder)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"/usr/bin/python3 - <<'END'\n{FETCH.replace('PORT', str(server.server_port))}\nEND"
        finally:
            server.shutdown()
            thread.join()


def agent_of(port: int, authorities: Path) -> dict[str, Any]:
    """Return the entry `agent` of machines that dial a service at a port of this computer."""
    return {"url": f"https://{HOST}:{port}", "ca": str(authorities), "command": COMMAND}


def _write(folder: Path) -> None:
    pack(folder / "gridcloud.pyz")
    wanted, seen = [Requirement(one) for one in needed()], set()
    with tarfile.open(folder / "agent.tar", "w") as archive:
        archive.add(folder / "gridcloud.pyz", "gridcloud.pyz")
        while wanted:
            one = wanted.pop()
            if one.name in seen or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
                continue
            seen.add(one.name)
            known = distribution(one.name)
            wanted += [Requirement(text) for text in known.requires or ()]
            for path in known.files or ():
                if path.parts[0] != ".." and path.suffix != ".pyc":
                    archive.add(str(known.locate_file(path)), str(path))
