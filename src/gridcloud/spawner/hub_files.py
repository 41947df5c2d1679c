"""The hub's own files, in ``hub`` below the data folder, for its user only: secrets, ports, database."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.errors import PortTaken, Unreachable

__all__ = ["HubFiles", "Ports", "write_private"]


class Ports(BaseModel):
    """Where the hub's parts listen."""

    model_config = ConfigDict(frozen=True)

    public: int = Field(description="the proxy, for people")
    hub: int = Field(description="the hub, on the loopback; running sessions know it")
    proxy_api: int = Field(description="the proxy's own door, on the loopback")


class HubFiles:
    """The files of one data folder's hub."""

    def __init__(self, data: Path) -> None:
        self.folder = data / "hub"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.database = self.folder / "hub.sqlite"
        self.cookie_secret = self.folder / "cookie-secret"
        self.link = self.folder / "link.json"

    def secret(self, name: str) -> str:
        """Return the secret of this name, made when it is first asked for."""
        path = self.folder / name
        with contextlib.suppress(FileNotFoundError):
            if kept := path.read_text().strip():
                return kept
        write_private(path, secrets.token_hex(32))
        return path.read_text().strip()

    def ports(self) -> Ports:
        """Return the ports chosen by the last `choose_ports`. Raises Unreachable when there was none."""
        try:
            return Ports.model_validate_json((self.folder / "ports.json").read_text())
        except (FileNotFoundError, ValueError):
            raise Unreachable("No hub was started here yet.", remedy="Start one: gridcloud up") from None

    def choose_ports(self, address: str, public: int) -> Ports:
        """Choose free ports, those of last time where they are: running sessions know the hub's.

        ``public`` is the port for people on ``address``; 0: any. Raises PortTaken when it is not free.
        """
        kept: Ports | None = None
        with contextlib.suppress(Unreachable):
            kept = self.ports()
        if public and not _free(address, public):
            raise PortTaken(
                f"The hub cannot listen on {address}:{public}: something else does.",
                remedy="Stop that, or set hub.port to another port (0: any free one).",
            )
        chosen = Ports(
            public=public or _choose(address, kept.public if kept else 0, ()),
            hub=(hub := _choose("127.0.0.1", kept.hub if kept else 0, (public,))),
            proxy_api=_choose("127.0.0.1", kept.proxy_api if kept else 0, (public, hub)),
        )
        write_private(self.folder / "ports.json", chosen.model_dump_json())
        return chosen

    def write_link(self, document: dict[str, object]) -> None:
        """Keep what is known of the present login link."""
        write_private(self.link, json.dumps(document))


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read, all at once."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def _free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def _choose(address: str, kept: int, others: tuple[int, ...]) -> int:
    if kept and kept not in others and _free(address, kept):
        return kept
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    while True:
        with socket.socket(family) as probe:
            probe.bind((address, 0))
            port = int(probe.getsockname()[1])
        if port not in others:
            return port
